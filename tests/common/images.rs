//! A small data set of image files.

use std::path::Path;

/// `per_class` little images in each of `classes`, told apart by colour under noise.
pub fn write_folder(dir: &Path, classes: &[&str], per_class: usize) {
    for (split, count) in [("train", per_class), ("test", per_class.div_ceil(4))] {
        for (c, class) in classes.iter().enumerate() {
            let folder = dir.join(split).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for i in 0..count {
                let image = image::RgbImage::from_fn(8, 8, |x, y| {
                    let noise = ((x * 7 + y * 13 + i as u32 * 29) % 64) as u8;
                    let mut pixel = [noise; 3];
                    pixel[c % 3] = 160 + noise;
                    image::Rgb(pixel)
                });
                image.save(folder.join(format!("{i:03}.png"))).unwrap();
            }
        }
    }
}
