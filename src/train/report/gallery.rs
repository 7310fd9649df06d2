//! What instances look like: pictures, sentences, translations.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::{Example, Picture, ReportError, Sample, Shown, escape, table};

/// Instances that stand out.
pub(super) fn examples(
    heading: &str,
    what: &str,
    examples: &[Example],
) -> Result<String, ReportError> {
    let (mut pictures, mut sentences) = (String::new(), String::new());
    for example in examples {
        match &example.shown {
            Shown::Image { picture, class } => pictures += &figure(example, picture, class)?,
            Shown::Pair { source, target } => {
                let (loss, right) = (table::number(example.loss, 3), guess(example));
                let _ = writeln!(
                    sentences,
                    "<tr><td>{loss}<td>{right}<td>{}<td>{}<td>{}</tr>",
                    example.times_trained,
                    escape(source),
                    escape(target)
                );
            }
        }
    }
    let note = format!("<p class=\"note\">Those {what}, averaged over the last visits");
    let mut html = String::new();
    if !pictures.is_empty() {
        let _ = write!(
            html,
            "<section>\n<h2>{heading}</h2>\n{note}, with their labels.</p>\n\
             <div class=\"gallery\">\n{pictures}</div>\n</section>\n"
        );
    }
    if !sentences.is_empty() {
        let _ = write!(
            html,
            "<section>\n<h2>{heading}</h2>\n{note}, with their translations.</p>\n\
             <div class=\"scroll\"><table class=\"text\">\n<thead><tr><th>Loss a token<th>Every token\
             <th>Times trained<th>Sentence<th>Translation</tr></thead>\n<tbody>\n{sentences}</tbody>\
             </table></div>\n</section>\n"
        );
    }
    Ok(html)
}

/// Translations beside those of people.
pub(super) fn samples(samples: &[Sample]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<section>\n<h2>Translations</h2>\n<p class=\"note\">Of test sentences, spread over the set, \
         by the network at the end.</p>\n<div class=\"scroll\"><table class=\"text\">\n<thead><tr>\
         <th>Sentence<th>The network<th>Reference</tr></thead>\n<tbody>\n",
    );
    for sample in samples {
        let [source, translation, reference] =
            [&sample.source, &sample.translation, &sample.reference].map(|text| escape(text));
        let _ = writeln!(
            html,
            "<tr><td>{source}<td>{translation}<td>{reference}</tr>"
        );
    }
    html + "</tbody></table></div>\n</section>\n"
}

fn guess(example: &Example) -> &'static str {
    if example.right {
        "✓ right"
    } else {
        "✗ wrong"
    }
}

fn figure(example: &Example, picture: &Picture, class: &str) -> Result<String, ReportError> {
    let (class, id) = (escape(class), example.id);
    let times = match example.times_trained {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    };
    Ok(format!(
        "<figure>\n<img src=\"data:image/png;base64,{}\" alt=\"Training image {id}\">\n\
         <figcaption><b>{class}</b><br>loss {}<br>{}<br>\
         <small>trained {times}<br>image {id}</small></figcaption>\n</figure>\n",
        BASE64_STANDARD.encode(png(id, picture)?),
        table::number(example.loss, 3),
        guess(example),
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
