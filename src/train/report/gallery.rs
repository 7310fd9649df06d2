//! What instances look like: pictures, sentences, translations.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::{Example, Examples, Guess, Picture, ReportError, Sample, Shown, Words, escape, table};

/// Instances that stand out.
pub(super) fn examples(examples: &Examples, words: &Words) -> Result<String, ReportError> {
    let Words { one, many, .. } = words;
    let lately = percent(1.0 - examples.since);
    let mut html = String::new();
    for (name, what, examples) in [
        ("Hardest", "highest", &examples.hardest),
        ("Easiest", "lowest", &examples.easiest),
    ] {
        let (mut pictures, mut sentences) = (String::new(), String::new());
        for example in examples {
            match &example.shown {
                Shown::Image { picture, class } => pictures += &figure(example, picture, class)?,
                Shown::Pair { source, target } => sentences += &row(example, source, target),
            }
        }
        if examples.is_empty() {
            continue;
        }
        let doubts = examples.iter().any(|e| e.guess.doubts());
        let sure = percent(Guess::SURE);
        let doubts = match (doubts, pictures.is_empty()) {
            (false, _) => String::new(),
            (true, false) => format!(
                " <b class=\"doubt\">label noise?</b>: the network is at least {sure} sure of \
                 another class."
            ),
            (true, true) => format!(
                " <b class=\"doubt\">wrong pair?</b>: the network is at least {sure} sure of each \
                 token of a translation that has less than a third of the given one’s."
            ),
        };
        let _ = write!(
            html,
            "<section>\n<h2>{name} training {many}</h2>\n<p class=\"note\">Of all trained on in the \
             last {lately} of training, those of the {what} loss when the {one} was seen last; \
             guesses are those of the network at the end.{doubts}</p>\n"
        );
        if !pictures.is_empty() {
            let _ = writeln!(html, "<div class=\"gallery\">\n{pictures}</div>");
        }
        if !sentences.is_empty() {
            let _ = writeln!(
                html,
                "<table class=\"text\">\n<thead><tr>{}</tr></thead>\n<tbody>\n{sentences}</tbody>\
                 </table>",
                COLUMNS.map(|name| format!("<th>{name}")).concat()
            );
        }
        html += "</section>\n";
    }
    Ok(html)
}

/// Of the table of sentences.
const COLUMNS: [&str; 6] = [
    "Sentence",
    "Given translation",
    "The network’s",
    "Loss a token",
    "Last seen, of training",
    "Times trained",
];

fn row(example: &Example, source: &str, target: &str) -> String {
    let guess = &example.guess;
    let doubt = match guess.doubts() {
        true => " <b class=\"doubt\">wrong pair?</b>",
        false => "",
    };
    let cells = [
        escape(source),
        escape(target),
        format!("{}{doubt}", escape(&guess.answer)),
        table::number(example.loss, 3),
        percent(example.seen),
        example.times_trained.to_string(),
    ];
    let cells = COLUMNS.iter().zip(cells);
    let cells = cells.map(|(name, cell)| format!("<td data-name=\"{name}\">{cell}"));
    format!("<tr>{}</tr>\n", cells.collect::<String>())
}

/// In whole percent; what is not all is not 100 %.
fn percent(share: f64) -> String {
    let whole = (100.0 * share).round();
    let whole = if share < 1.0 { whole.min(99.0) } else { whole };
    table::number(whole, 0) + "\u{a0}%"
}

/// Translations beside those of people.
pub(super) fn samples(samples: &[Sample]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<section>\n<h2>Translations</h2>\n<p class=\"note\">Of test sentences, spread over the set, \
         by the network at the end.</p>\n<table class=\"text\">\n<thead><tr>\
         <th>Sentence<th>The network’s<th>Reference</tr></thead>\n<tbody>\n",
    );
    for sample in samples {
        let [source, translation, reference] =
            [&sample.source, &sample.translation, &sample.reference].map(|text| escape(text));
        let _ = writeln!(
            html,
            "<tr><td data-name=\"Sentence\">{source}<td data-name=\"The network’s\">{translation}\
             <td data-name=\"Reference\">{reference}</tr>"
        );
    }
    html + "</tbody></table>\n</section>\n"
}

fn figure(example: &Example, picture: &Picture, class: &str) -> Result<String, ReportError> {
    let (class, id, guess) = (escape(class), example.id, &example.guess);
    let times = match example.times_trained {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    };
    let sure = percent(guess.sure);
    let answer = match guess.right() {
        true => format!("✓ guessed, {sure}"),
        false => format!("✗ guess: {}, {sure}", escape(&guess.answer)),
    };
    let doubt = match guess.doubts() {
        true => "<b class=\"doubt\">label noise?</b><br>",
        false => "",
    };
    Ok(format!(
        "<figure>\n<img src=\"data:image/png;base64,{}\" alt=\"Training image {id}\">\n\
         <figcaption><b>{class}</b><br>{answer}<br>{doubt}loss {}<br>\
         <small>last seen at {} of training<br>trained {times}<br>image {id}</small></figcaption>\n</figure>\n",
        BASE64_STANDARD.encode(png(id, picture)?),
        table::number(example.loss, 3),
        percent(example.seen),
    ))
}

fn png(id: usize, picture: &Picture) -> Result<Vec<u8>, ReportError> {
    let error = |reason: String| ReportError::Picture { id, reason };
    let Picture {
        height,
        width,
        channels,
        pixels,
    } = picture;
    let colour = match channels {
        1 => ExtendedColorType::L8,
        3 => ExtendedColorType::Rgb8,
        _ => {
            return Err(error(format!(
                "{channels} channels are neither grey nor RGB"
            )));
        }
    };
    // The encoder panics on another number of bytes.
    let bytes = height
        .checked_mul(*width)
        .and_then(|n| n.checked_mul(*channels));
    let sides = (u32::try_from(*width), u32::try_from(*height));
    let (Ok(w), Ok(h), true) = (sides.0, sides.1, bytes == Some(pixels.len())) else {
        let bytes = pixels.len();
        return Err(error(format!(
            "{bytes} bytes are not {height}x{width}x{channels}"
        )));
    };
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(pixels, w, h, colour)
        .map_err(|e| error(e.to_string()))?;
    Ok(png)
}
