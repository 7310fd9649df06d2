//! Built-in text: sums in words, German and English. **A demonstration, never evidence**: it shows
//! the program at work where no text is at hand; what it shows about the Assistant says nothing
//! about real sentences.
//!
//! > zweihunderteinundvierzig plus dreitausendsieben | two hundred forty one plus three thousand
//! > seven
//!
//! To translate them is to cut compounds up and to turn ones and tens around. Each pair has a
//! **difficulty** `d` in `[0, 1)`, the square of a uniform number (half of them below 0.25, a
//! quarter above 0.56), that sets
//!
//! | what                                | at `d`                                   |
//! |-------------------------------------|------------------------------------------|
//! | numbers: one, one more, one more    | always, by half, with probability `d`    |
//! | digits of each, from 1 to at most 6 | `⌊1 + (1.5 + 4.5 d) u⌋`, `u` uniform     |
//!
//! No pair occurs twice, so that translations to measure have never been seen.

use std::collections::HashSet;

use super::Parallel;
use crate::rng::Stream;

const TRAIN: usize = 20_000;
const VALID: usize = 1_000;
const TEST: usize = 1_000;

/// Tokens that suit [`synthetic`]: enough for the words and for common parts of compounds.
pub const SYNTHETIC_VOCAB: usize = 200;

/// Numbers below 20, in both languages.
const SMALL: [[&str; 2]; 20] = [
    ["null", "zero"],
    ["eins", "one"],
    ["zwei", "two"],
    ["drei", "three"],
    ["vier", "four"],
    ["fünf", "five"],
    ["sechs", "six"],
    ["sieben", "seven"],
    ["acht", "eight"],
    ["neun", "nine"],
    ["zehn", "ten"],
    ["elf", "eleven"],
    ["zwölf", "twelve"],
    ["dreizehn", "thirteen"],
    ["vierzehn", "fourteen"],
    ["fünfzehn", "fifteen"],
    ["sechzehn", "sixteen"],
    ["siebzehn", "seventeen"],
    ["achtzehn", "eighteen"],
    ["neunzehn", "nineteen"],
];

/// Tens from 20 on.
const TENS: [[&str; 2]; 8] = [
    ["zwanzig", "twenty"],
    ["dreißig", "thirty"],
    ["vierzig", "forty"],
    ["fünfzig", "fifty"],
    ["sechzig", "sixty"],
    ["siebzig", "seventy"],
    ["achtzig", "eighty"],
    ["neunzig", "ninety"],
];

/// What stands between two numbers.
const BETWEEN: [[&str; 2]; 4] = [
    ["plus", "plus"],
    ["minus", "minus"],
    ["mal", "times"],
    ["und", "and"],
];

/// 20,000 training, 1,000 validation and 1,000 test pairs, German to English, the same for equal
/// seeds.
pub fn synthetic(seed: u64) -> [Parallel; 3] {
    let mut random = Stream::new(seed, 0, 0);
    let (mut pairs, mut seen) = (Vec::new(), HashSet::new());
    while pairs.len() < TRAIN + VALID + TEST {
        let pair = draw(&mut random);
        if seen.insert(pair[0].clone()) {
            pairs.push(pair);
        }
    }
    // Easy pairs run out, later ones are harder: all parts must have both.
    for last in (1..pairs.len()).rev() {
        pairs.swap(last, random.below(last as u64 + 1) as usize);
    }
    let mut pairs = pairs.into_iter();
    [("train", TRAIN), ("valid", VALID), ("test", TEST)].map(|(part, count)| {
        let (source, target) = pairs.by_ref().take(count).map(|[de, en]| (de, en)).unzip();
        Parallel {
            source,
            target,
            files: ["de", "en"].map(|language| format!("synthetic.{part}.{language}").into()),
        }
    })
}

/// A sum, in both languages.
fn draw(random: &mut Stream) -> [String; 2] {
    let difficulty = random.f64().powi(2);
    let more = usize::from(random.f64() < 0.5) + usize::from(random.f64() < difficulty);
    let mut number = || {
        let digits = (1.0 + (1.5 + 4.5 * difficulty) * random.f64()) as u32;
        let smallest = if digits == 1 {
            0
        } else {
            10_u64.pow(digits - 1)
        };
        let n = smallest + random.below(10_u64.pow(digits) - smallest);
        (n as usize, random.below(BETWEEN.len() as u64) as usize)
    };
    let (first, _) = number();
    let mut pair = [german(first), english(first)];
    for _ in 0..more {
        let (next, between) = number();
        let words = [german(next), english(next)];
        for (language, side) in pair.iter_mut().enumerate() {
            *side += &format!(" {} {}", BETWEEN[between][language], words[language]);
        }
    }
    pair
}

/// A number below a million as Germans write it: one word, ones before tens.
fn german(n: usize) -> String {
    // A one that something follows has no s.
    let ahead = |n: usize| {
        let words = german(n);
        words
            .strip_suffix("eins")
            .map(|w| format!("{w}ein"))
            .unwrap_or(words)
    };
    let rest = |n: usize| if n == 0 { String::new() } else { german(n) };
    match n {
        0..20 => SMALL[n][0].to_owned(),
        20..100 if n.is_multiple_of(10) => TENS[n / 10 - 2][0].to_owned(),
        20..100 => format!("{}und{}", ahead(n % 10), TENS[n / 10 - 2][0]),
        100..1000 => format!("{}hundert{}", ahead(n / 100), rest(n % 100)),
        _ => format!("{}tausend{}", ahead(n / 1000), rest(n % 1000)),
    }
}

/// A number below a million in American English, without hyphens.
fn english(n: usize) -> String {
    let rest = |n: usize| {
        if n == 0 {
            String::new()
        } else {
            format!(" {}", english(n))
        }
    };
    match n {
        0..20 => SMALL[n][1].to_owned(),
        20..100 => format!("{}{}", TENS[n / 10 - 2][1], rest(n % 10)),
        100..1000 => format!("{} hundred{}", english(n / 100), rest(n % 100)),
        _ => format!("{} thousand{}", english(n / 1000), rest(n % 1000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::text::{Tokenizer, Translation};

    #[test]
    fn numbers_are_spelled_as_in_school() {
        for (n, de, en) in [
            (0, "null", "zero"),
            (1, "eins", "one"),
            (16, "sechzehn", "sixteen"),
            (21, "einundzwanzig", "twenty one"),
            (30, "dreißig", "thirty"),
            (77, "siebenundsiebzig", "seventy seven"),
            (100, "einhundert", "one hundred"),
            (101, "einhunderteins", "one hundred one"),
            (345, "dreihundertfünfundvierzig", "three hundred forty five"),
            (1000, "eintausend", "one thousand"),
            (1001, "eintausendeins", "one thousand one"),
            (
                21_012,
                "einundzwanzigtausendzwölf",
                "twenty one thousand twelve",
            ),
            (101_000, "einhunderteintausend", "one hundred one thousand"),
            (
                999_999,
                "neunhundertneunundneunzigtausendneunhundertneunundneunzig",
                "nine hundred ninety nine thousand nine hundred ninety nine",
            ),
        ] {
            assert_eq!((german(n).as_str(), english(n).as_str()), (de, en));
        }
    }

    #[test]
    fn pairs_are_distinct_varied_and_the_same_for_equal_seeds() {
        let parts = synthetic(1);
        assert!(parts == synthetic(1) && parts != synthetic(2));
        let sizes = [TRAIN, VALID, TEST];
        assert_eq!(parts.each_ref().map(Parallel::len), sizes);
        for side in [
            |p: &Parallel| p.source.clone(),
            |p: &Parallel| p.target.clone(),
        ] {
            let all: HashSet<String> = parts.iter().flat_map(side).collect();
            assert_eq!(all.len(), sizes.iter().sum::<usize>());
        }
        for part in &parts {
            let words = part.target.iter().map(|t| t.split(' ').count());
            let (short, long) = words.fold((0, 0), |(short, long), n| {
                (short + usize::from(n <= 5), long + usize::from(n >= 15))
            });
            assert!(short * 5 > part.len(), "{short} short of {}", part.len());
            assert!(long * 20 > part.len(), "{long} long of {}", part.len());
        }
    }

    #[test]
    fn it_goes_through_the_tokenizer() {
        let parts = synthetic(1);
        let train = parts[0].source.iter().chain(&parts[0].target);
        let tokenizer = Tokenizer::train(train.map(String::as_str), SYNTHETIC_VOCAB).unwrap();
        assert_eq!(tokenizer.vocab(), SYNTHETIC_VOCAB);
        let data = Translation::new("synthetic", parts, &tokenizer, 40).unwrap();
        assert_eq!(data.train.long, 0);
        for (index, target) in data.test.target.iter().enumerate() {
            let tokens = data.test.pairs.target().get(index);
            assert_eq!(&tokenizer.decode(tokens).unwrap(), target);
        }
    }
}
