//! The sizes of a ConvS2S, and what they cost.

use crate::nn::network::FIRST_PLACE;

/// Rows of the presets' tables of places.
const PLACES: usize = 1024;

/// What distinguishes one ConvS2S from another.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvS2SConfig {
    /// Tokens of the shared vocabulary, the special ones included.
    pub vocab: usize,
    /// Width of embeddings, and of what is attended to.
    pub embed: usize,
    /// Width of what the output layer reads.
    pub output: usize,
    /// Width and kernel (odd) of each of the encoder's convolutions.
    pub encoder: Vec<[usize; 2]>,
    /// Width and kernel of each of the decoder's, with an attention each.
    pub decoder: Vec<[usize; 2]>,
    /// Rows of the tables of places, two of which no token has.
    pub places: usize,
    /// Dropout of embeddings and of what convolutions and the output layer read.
    pub dropout: f32,
}

impl ConvS2SConfig {
    /// Most tokens of a sentence that a preset has places for.
    pub const MOST_TOKENS: usize = PLACES - FIRST_PLACE;

    /// `tiny` (all widths 128, 4+3 convolutions that see 3 places), or fairseq's `iwslt` (256, 4+3:
    /// `fconv_iwslt_de_en`) or `base` (embeddings of 768, widths of 512 to 2048, 15+15:
    /// `fconv_wmt_en_de`); `None` for another name.
    pub fn preset(name: &str, vocab: usize) -> Option<ConvS2SConfig> {
        let large = || [vec![[512, 3]; 9], vec![[1024, 3]; 4], vec![[2048, 1]; 2]].concat();
        let (embed, output, encoder, decoder, dropout) = match name {
            "tiny" => (128, 128, vec![[128, 3]; 4], vec![[128, 3]; 3], 0.1),
            "iwslt" => (256, 256, vec![[256, 3]; 4], vec![[256, 3]; 3], 0.2),
            "base" => (768, 512, large(), large(), 0.2),
            _ => return None,
        };
        Some(ConvS2SConfig {
            vocab,
            embed,
            output,
            encoder,
            decoder,
            places: PLACES,
            dropout,
        })
    }

    /// Multiply-adds of a pair of sentences, forward.
    pub(in crate::nn) fn products(&self, s: u64, t: u64) -> u64 {
        let [e, o, vocab] = [self.embed, self.output, self.vocab].map(|n| n as u64);
        // Of a token: the first layer, convolutions and projections, and the last one.
        let stack = |convs: &[[usize; 2]], last: u64| {
            let (mut sum, mut inputs) = (e * convs[0][0] as u64, convs[0][0] as u64);
            for conv in convs {
                let [width, kernel] = conv.map(|n| n as u64);
                sum += kernel * inputs * 2 * width;
                sum += if width == inputs { 0 } else { inputs * width };
                inputs = width;
            }
            sum + inputs * last
        };
        let attention = |conv: &[usize; 2]| 2 * conv[0] as u64 * e + 2 * s * e;
        let attentions: u64 = self.decoder.iter().map(attention).sum();
        s * stack(&self.encoder, e) + t * (stack(&self.decoder, o) + attentions + o * vocab)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::pairs::PairShape;
    use crate::nn::NetworkConfig;

    #[test]
    fn operations_are_those_counted_by_hand() {
        let config = ConvS2SConfig {
            vocab: 5,
            embed: 2,
            output: 3,
            encoder: vec![[4, 3]],
            decoder: vec![[4, 2], [6, 1]],
            places: 20,
            dropout: 0.0,
        };
        let shape = PairShape {
            sentences: 7,
            source: 8,
            target: 9,
        };
        let encoder = 8 * (2 * 4 + 3 * 4 * 8 + 4 * 2);
        // The wider layer's projection; queries and answers, scores and sums.
        let convolutions = 9 * (2 * 4 + 2 * 4 * 8 + 4 * 12 + 4 * 6);
        let attentions = 9 * (2 * 4 * 2 + 2 * 8 * 2 + 2 * 6 * 2 + 2 * 8 * 2);
        let output = 9 * (6 * 3 + 3 * 5);
        let sentence = encoder + convolutions + attentions + output;
        assert_eq!(
            NetworkConfig::from(config).train_ops(shape),
            7 * 6 * sentence
        );
    }
}
