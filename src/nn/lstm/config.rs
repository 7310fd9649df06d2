//! The sizes of an LSTM, and what they cost.

/// What distinguishes one LSTM from another.
#[derive(Clone, Debug, PartialEq)]
pub struct LstmConfig {
    /// Tokens of the shared vocabulary, the special ones included.
    pub vocab: usize,
    /// Width of embeddings.
    pub embed: usize,
    /// Width of the states.
    pub hidden: usize,
    /// Width of what the output layer reads; `embed` where the table is shared.
    pub output: usize,
    /// Layers of the encoder, and as many of the decoder.
    pub layers: usize,
    /// One table for both languages and the output, or three.
    pub shared: bool,
    /// Dropout of the encoder's embeddings and outputs, then of the decoder's.
    pub dropout: [f32; 4],
}

impl LstmConfig {
    /// `tiny` (embeddings of 128, states of 256, 1+1 layers, one table), or fairseq's `iwslt` (256,
    /// 256, 1+1: `lstm_wiseman_iwslt_de_en`) or `base` (1000, 1000, 4+4: `lstm_luong_wmt_en_de`);
    /// `None` for another name.
    pub fn preset(name: &str, vocab: usize) -> Option<LstmConfig> {
        let (embed, hidden, layers, shared, dropout) = match name {
            "tiny" => (128, 256, 1, true, [0.1; 4]),
            "iwslt" => (256, 256, 1, false, [0.0, 0.0, 0.0, 0.1]),
            "base" => (1000, 1000, 4, false, [0.1, 0.0, 0.1, 0.0]),
            _ => return None,
        };
        Some(LstmConfig {
            vocab,
            embed,
            hidden,
            output: embed,
            layers,
            shared,
            dropout,
        })
    }

    /// Multiply-adds of a pair of sentences, forward.
    pub(in crate::nn) fn products(&self, s: u64, t: u64) -> u64 {
        let [e, h, o, n, vocab] = [
            self.embed,
            self.hidden,
            self.output,
            self.layers,
            self.vocab,
        ]
        .map(|n| n as u64);
        let layers = |first: u64| 4 * h * (first + h) + (n - 1) * 4 * h * 2 * h;
        let attention = h * h + 2 * s * h + 2 * h * h;
        let narrow = if self.output == self.hidden { 0 } else { h * o };
        s * layers(e) + t * (layers(e + h) + attention + narrow + o * vocab)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::pairs::PairShape;
    use crate::nn::NetworkConfig;

    #[test]
    fn operations_are_those_counted_by_hand() {
        let config = LstmConfig {
            vocab: 5,
            embed: 2,
            hidden: 3,
            output: 2,
            layers: 2,
            shared: true,
            dropout: [0.0; 4],
        };
        let shape = PairShape {
            sentences: 7,
            source: 4,
            target: 6,
        };
        // Inputs and states of both layers.
        let encoder = 4 * (12 * (2 + 3) + 12 * (3 + 3));
        let cells = 6 * (12 * (2 + 3 + 3) + 12 * (3 + 3));
        // The query, scores and sums over the source, the projection of both.
        let attention = 6 * (3 * 3 + 2 * 4 * 3 + 6 * 3);
        let output = 6 * (3 * 2 + 2 * 5);
        let sentence = encoder + cells + attention + output;
        assert_eq!(
            NetworkConfig::from(config).train_ops(shape),
            7 * 6 * sentence
        );
    }
}
