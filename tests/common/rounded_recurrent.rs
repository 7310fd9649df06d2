//! The naive low-precision computation of the ops of recurrent and of convolutional networks: what
//! an op writes is rounded, and so are the weights that it reads.

use super::Rounded;
use autoassist::backend::Tensor;
use autoassist::backend::convolutional::{
    Convolutional, GluConv, GluConvGrad, WeightNorm, WideAttention, WideAttentionGrad,
};
use autoassist::backend::elements::Elements;
use autoassist::backend::recurrent::{
    Lstm, LstmCell, LstmDecoder, LstmDecoderGrad, LstmGrad, Luong, LuongGrad, Query, Recurrent,
};
use autoassist::backend::sequence::{Dropout, Embedding, Linear};

impl Rounded {
    fn round_all<const N: usize>(&mut self, all: [Tensor; N]) {
        all.into_iter().for_each(|t| self.round(t));
    }

    fn cast_lstm(&mut self, lstm: Lstm) -> Lstm {
        Lstm {
            w_hh: self.cast(lstm.w_hh),
            ..lstm
        }
    }

    fn cast_luong(&mut self, luong: Luong) -> Luong {
        Luong {
            w_in: self.cast(luong.w_in),
            w_out: self.cast(luong.w_out),
            ..luong
        }
    }

    fn cast_cells(&mut self, cells: &[LstmCell]) -> Vec<LstmCell> {
        let mut cast = |cell: &LstmCell| LstmCell {
            w_ih: self.cast(cell.w_ih),
            w_hh: self.cast(cell.w_hh),
            ..*cell
        };
        cells.iter().map(&mut cast).collect()
    }
}

impl Elements for Rounded {
    fn clear(&mut self, t: Tensor) {
        self.cpu.clear(t);
    }

    fn drop_out(&mut self, x: Tensor, dropout: Dropout, y: Tensor) {
        self.cpu.drop_out(x, dropout, y);
        self.round(y);
    }

    fn add_scaled(&mut self, a: Tensor, b: Option<Tensor>, scale: f32, y: Tensor) {
        self.cpu.add_scaled(a, b, scale, y);
        self.round(y);
    }
}

impl Recurrent for Rounded {
    fn lstm(&mut self, l: Lstm) {
        let cast = self.cast_lstm(l);
        self.cpu.lstm(cast);
        self.round_all([l.gates, l.cells, l.out, l.last[0], l.last[1]]);
    }

    fn lstm_backward(&mut self, l: Lstm, grad: LstmGrad) {
        let cast = self.cast_lstm(l);
        self.cpu.lstm_backward(cast, grad);
        self.round(l.gates);
    }

    fn luong_memory(&mut self, l: Luong) {
        let cast = self.cast_luong(l);
        self.cpu.luong_memory(cast);
        self.round_all([l.keys, l.values]);
    }

    fn luong(&mut self, l: Luong, query: Query) {
        let cast = self.cast_luong(l);
        self.cpu.luong(cast, query);
        self.round_all([query.probabilities, query.out]);
    }

    fn luong_backward(
        &mut self,
        l: Luong,
        query: Query,
        dout: Tensor,
        dh: Tensor,
        grad: LuongGrad,
    ) {
        let cast = self.cast_luong(l);
        self.cpu.luong_backward(cast, query, dout, dh, grad);
        self.round_all([dout, dh, grad.dmemory]);
    }

    fn lstm_decoder(&mut self, d: LstmDecoder) {
        let (cells, luong) = (self.cast_cells(d.cells), self.cast_luong(d.luong));
        let cells = &cells;
        self.cpu.lstm_decoder(LstmDecoder { cells, luong, ..d });
        self.round_all([d.gates, d.cell_states, d.hidden, d.last[0], d.last[1]]);
        self.round_all([d.query.probabilities, d.query.out]);
    }

    fn lstm_decoder_backward(&mut self, d: LstmDecoder, grad: LstmDecoderGrad) {
        let (cells, luong) = (self.cast_cells(d.cells), self.cast_luong(d.luong));
        let cast = LstmDecoder {
            cells: &cells,
            luong,
            ..d
        };
        self.cpu.lstm_decoder_backward(cast, grad);
        self.round_all([d.gates, grad.dout, grad.dx, grad.luong.dmemory]);
        self.round_all(grad.dstart);
    }
}

impl Convolutional for Rounded {
    fn weight_norm(&mut self, norm: WeightNorm) {
        self.cpu.weight_norm(norm);
    }

    fn weight_norm_backward(&mut self, norm: WeightNorm, dw: Tensor, grads: [Tensor; 2]) {
        self.cpu.weight_norm_backward(norm, dw, grads);
    }

    fn positions_backward(&mut self, e: Embedding, dout: Tensor, dpositions: Tensor) {
        self.cpu.positions_backward(e, dout, dpositions);
    }

    fn glu_conv(&mut self, conv: GluConv) {
        let w = self.cast(conv.w);
        self.cpu.glu_conv(GluConv { w, ..conv });
        self.round_all([conv.conv, conv.y]);
    }

    fn glu_conv_backward(&mut self, conv: GluConv, grad: GluConvGrad) {
        let w = self.cast(conv.w);
        self.cpu.glu_conv_backward(GluConv { w, ..conv }, grad);
        self.round(grad.dx);
    }

    fn linear_residual(
        &mut self,
        x: Tensor,
        layer: Linear,
        residual: Tensor,
        scale: f32,
        y: Tensor,
    ) {
        let w = self.cast(layer.w);
        let layer = Linear { w, ..layer };
        self.cpu.linear_residual(x, layer, residual, scale, y);
        self.round(y);
    }

    fn wide_attention(&mut self, a: WideAttention) {
        self.cpu.wide_attention(a);
        self.round_all([a.probabilities, a.out]);
    }

    fn wide_attention_backward(&mut self, a: WideAttention, grad: WideAttentionGrad) {
        self.cpu.wide_attention_backward(a, grad);
        self.round_all([grad.dq, grad.dkeys, grad.dvalues]);
    }
}
