use super::*;
use crate::rng;
use image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use std::fs;
use tempfile::TempDir;

/// A tree with two classes and two images each, 4 wide and 3 high, in `train` and `test`.
fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for split in ["train", "test"] {
        for (class, value) in [("cat", 50), ("dog", 200)] {
            let class = dir.path().join(split).join(class);
            fs::create_dir_all(&class).unwrap();
            rgb(4, 3, value).save(class.join("b.png")).unwrap();
            rgb(4, 3, value + 1).save(class.join("a.png")).unwrap();
        }
    }
    dir
}

fn rgb(width: u32, height: u32, value: u8) -> RgbImage {
    RgbImage::from_pixel(width, height, Rgb([value, 2, 3]))
}

/// The error's one line.
fn error(dir: &Path) -> String {
    let error = folder(dir, false).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn says(dir: &TempDir, parts: &[&str]) {
    let error = error(dir.path());
    assert!(
        parts.iter().all(|part| error.contains(part)),
        "{error:?} lacks one of {parts:?}"
    );
}

#[test]
fn reads_classes_and_files_in_the_order_of_their_names() {
    let dir = tree();
    fs::write(dir.path().join("train/cat/.hidden.jpg"), "x").unwrap();
    fs::write(dir.path().join("train/cat/notes.txt"), "x").unwrap();
    fs::create_dir(dir.path().join("train/.git")).unwrap();
    let data = folder(dir.path(), true).unwrap();
    assert_eq!(data.classes, ["cat", "dog"]);
    for images in [&data.train, &data.test] {
        assert_eq!(images.labels, [0, 0, 1, 1]);
        assert_eq!((images.height, images.width, images.channels), (3, 4, 3));
        let first: Vec<u8> = (0..4).map(|id| images.image(id)[0]).collect();
        assert_eq!(first, [51, 50, 201, 200]);
    }
    assert!(data.flip);
}

#[test]
fn grey_alpha_and_jpeg_become_rgb() {
    let dir = tree();
    let cat = dir.path().join("train/cat");
    GrayImage::from_pixel(4, 3, Luma([7]))
        .save(cat.join("c.PNG"))
        .unwrap();
    RgbaImage::from_pixel(4, 3, Rgba([9, 8, 7, 0]))
        .save(cat.join("d.png"))
        .unwrap();
    rgb(4, 3, 90).save(cat.join("e.JPeG")).unwrap();
    let data = folder(dir.path(), false).unwrap();
    assert_eq!(data.train.image(2)[..3], [7, 7, 7]);
    assert_eq!(data.train.image(3)[..3], [9, 8, 7]);
    assert!(data.train.image(4)[0].abs_diff(90) < 4);
}

#[test]
fn broken_trees_are_explained() {
    let dir = tree();
    assert!(error(&dir.path().join("nowhere")).contains("nowhere\" is not a folder"));
    fs::remove_dir_all(dir.path().join("test/dog")).unwrap();
    says(&dir, &["test/dog\" is missing", "train/dog\" exists"]);
    fs::create_dir(dir.path().join("test/dog")).unwrap();
    says(&dir, &["test/dog\" holds no .jpg, .jpeg or .png file: put"]);
    for name in ["a.webp", "b.WEBP", "c.txt"] {
        fs::write(dir.path().join("test/dog").join(name), "x").unwrap();
    }
    fs::create_dir(dir.path().join("test/dog/more")).unwrap();
    says(&dir, &["png file, but .webp 2, .txt 1, folders 1: put"]);
    fs::remove_dir_all(dir.path().join("train/dog")).unwrap();
    says(&dir, &["train\" holds 1 class folder"]);
    fs::rename(dir.path().join("test/cat"), dir.path().join("train/dog")).unwrap();
    says(&dir, &["test/cat\" is missing"]);
    fs::remove_dir_all(dir.path().join("test")).unwrap();
    says(&dir, &["test\" is not a folder"]);
    fs::remove_dir_all(dir.path().join("train")).unwrap();
    says(&dir, &["train\" is not a folder"]);
}

#[test]
fn a_class_only_in_test_is_named() {
    let dir = tree();
    fs::create_dir(dir.path().join("test/zebra")).unwrap();
    says(&dir, &["train/zebra\" is missing", "test/zebra\" exists"]);
}

#[test]
fn bad_files_are_named() {
    let whole = {
        let dir = tempfile::tempdir().unwrap();
        let noise = |x: u32, y: u32| {
            let bits = rng::hash(1, x.into(), y.into());
            Rgb([bits as u8, (bits >> 8) as u8, (bits >> 16) as u8])
        };
        let image = RgbImage::from_fn(40, 30, noise);
        image.save(dir.path().join("x.jpg")).unwrap();
        image.save(dir.path().join("x.png")).unwrap();
        ["x.jpg", "x.png"].map(|name| fs::read(dir.path().join(name)).unwrap())
    };
    for (name, bytes, part) in [
        (
            "test/dog/x.jpg",
            &b"some text"[..],
            "not a whole JPEG or PNG image",
        ),
        ("test/dog/x.jpg", b"", "not a whole JPEG or PNG image"),
        (
            "train/cat/0.png",
            b"some text",
            "not a whole JPEG or PNG image",
        ),
        (
            "train/cat/0.jpg",
            &whole[0][..whole[0].len() / 2],
            "ends too early",
        ),
        (
            "train/cat/0.png",
            &whole[1][..whole[1].len() / 2],
            "not a whole JPEG or PNG image",
        ),
        // Cut, and followed by another image that has an end.
        (
            "train/cat/0.jpg",
            &[&whole[0][..whole[0].len() / 2], &whole[0]].concat(),
            "ends too early",
        ),
        ("test/cat/x.jpg", &whole[0], "train/cat/a.png\" is 4x3"),
    ] {
        let dir = tree();
        fs::write(dir.path().join(name), bytes).unwrap();
        // A file that sorts first sets the size, so its own error comes from its pixels.
        if name.starts_with("train/cat/0") {
            for class in ["train/cat", "train/dog", "test/cat", "test/dog"] {
                rgb(40, 30, 1)
                    .save(dir.path().join(class).join("a.png"))
                    .unwrap();
                rgb(40, 30, 1)
                    .save(dir.path().join(class).join("b.png"))
                    .unwrap();
            }
        }
        says(&dir, &[name, part]);
    }
}

/// A link to itself is to everybody what a forbidden folder is to most.
#[cfg(unix)]
#[test]
fn what_may_not_be_looked_at_is_not_missing_and_pipes_are_not_waited_for() {
    use std::os::unix::{fs::symlink, net::UnixListener};
    for name in ["train", "test"] {
        let dir = tree();
        fs::remove_dir_all(dir.path().join(name)).unwrap();
        symlink(name, dir.path().join(name)).unwrap();
        says(&dir, &["cannot read", name]);
    }
    let dir = tree();
    symlink("nowhere", dir.path().join("train/cat/0.png")).unwrap();
    symlink("nowhere", dir.path().join("train/cat/notes")).unwrap();
    fs::write(dir.path().join("test/dog/q.jpg"), "text").unwrap();
    says(
        &dir,
        &[
            "2 files cannot be used: cannot read",
            "cat/0.png",
            "dog/q.jpg",
        ],
    );
    fs::remove_file(dir.path().join("train/cat/0.png")).unwrap();
    fs::remove_file(dir.path().join("test/dog/q.jpg")).unwrap();
    let _pipe = UnixListener::bind(dir.path().join("train/cat/0.png")).unwrap();
    let data = folder(dir.path(), false).unwrap();
    assert!(
        data.notes[0].contains("2 files in train/cat are no PNG or JPEG"),
        "{:?}",
        data.notes
    );
}

#[test]
fn bad_files_are_named_together_in_order_up_to_ten() {
    let dir = tree();
    let bad = |names: &[&str]| {
        for name in names {
            fs::write(dir.path().join(name), "text").unwrap();
        }
    };
    bad(&["test/dog/q.jpg", "train/cat/p.jpg", "train/cat/z.jpg"]);
    rgb(5, 4, 1)
        .save(dir.path().join("test/cat/0.png"))
        .unwrap();
    for _ in 0..20 {
        let error = error(dir.path());
        let names = [
            "4 files cannot",
            "train/cat/p",
            "train/cat/z",
            "test/cat/0",
            "test/dog/q",
        ];
        let places = names.map(|name| error.find(name).unwrap_or_else(|| panic!("{error}")));
        assert!(places.is_sorted(), "{error}");
        assert!(
            error.contains("is 5x4 pixels") && !error.contains("more"),
            "{error}"
        );
    }
    // Also where the first of all is one of them, and the rest of them unreadable.
    let names: Vec<String> = (0..9).map(|i| format!("train/cat/A{i}.jpg")).collect();
    bad(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let error = error(dir.path());
    assert!(error.starts_with("13 files cannot be used") && error.ends_with("; and 3 more"));
    assert!(
        error.contains("train/cat/A8.jpg") && !error.contains("test/"),
        "{error}"
    );
}

#[test]
fn the_size_that_most_have_is_the_one_to_have() {
    let dir = tree();
    for name in ["train/cat/0.png", "test/dog/0.png"] {
        rgb(7, 5, 1).save(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("train/dog/0.png"), "text").unwrap();
    rgb(9, 9, 1)
        .save(dir.path().join("test/cat/9.png"))
        .unwrap();
    says(
        &dir,
        &[
            "4 files cannot be used",
            "train/cat/0.png\" is 7x5 pixels, but",
            "train/cat/a.png\" is 4x3",
            "mogrify -resize 4x3!",
            "train/dog/0.png\" is not a whole",
            "test/cat/9.png\" is 9x9 pixels, but",
            "test/dog/0.png\" is 7x5",
        ],
    );
    assert!(!error(dir.path()).contains("b.png"));
}

#[test]
fn what_is_not_read_is_counted_and_named() {
    let dir = tree();
    let at = |name: &str| dir.path().join(name);
    assert!(folder(dir.path(), false).unwrap().notes.is_empty());
    for name in [
        "train/cat/a.webp",
        "train/cat/b.webp",
        "train/cat/c.TXT",
        "test/dog/README",
    ] {
        fs::write(at(name), "x").unwrap();
    }
    fs::write(at("train/labels.csv"), "x").unwrap();
    fs::write(at("train/cat/.DS_Store"), "x").unwrap();
    fs::create_dir_all(at("train/dog/more/.hidden")).unwrap();
    fs::create_dir_all(at("val/dog")).unwrap();
    let data = folder(dir.path(), false).unwrap();
    assert_eq!((data.train.len(), data.test.len()), (4, 4));
    assert_eq!(
        data.notes,
        [
            "val/ is not read: test/ is evaluated on",
            "1 file in train is in no class folder (.csv 1)",
            "3 files in train/cat are no PNG or JPEG (.webp 2, .txt 1)",
            "1 folder in train/dog is not looked into",
            "1 file in test/dog is no PNG or JPEG (without ending 1)",
        ]
    );
    // Of many classes a few lines.
    for class in 0..20 {
        for split in ["train", "test"] {
            let class = at(split).join(format!("k{class}"));
            fs::create_dir(&class).unwrap();
            rgb(4, 3, 1).save(class.join("a.png")).unwrap();
            fs::write(class.join("a.gif"), "x").unwrap();
        }
    }
    let notes = folder(dir.path(), false).unwrap().notes;
    assert_eq!(
        (notes.len(), &notes[10][..]),
        (11, "35 more folders hold what is not read")
    );
}

#[test]
fn a_validation_set_takes_the_place_of_a_missing_test_set() {
    for name in ["val", "valid", "validation"] {
        let dir = tree();
        fs::rename(dir.path().join("test"), dir.path().join(name)).unwrap();
        let data = folder(dir.path(), false).unwrap();
        assert_eq!(data.test.len(), 4);
        assert_eq!(
            data.notes,
            [format!("there is no test/: {name}/ is evaluated on")]
        );
        fs::remove_dir_all(dir.path().join(name).join("cat")).unwrap();
        says(
            &dir,
            &[&format!("{name}/cat\" is missing"), "train/cat\" exists"],
        );
        fs::remove_dir_all(dir.path().join(name)).unwrap();
        says(
            &dir,
            &["test\" is not a folder", "val/, valid/ or validation/"],
        );
    }
}

/// What telephones write: a film behind the picture, with markers in it; what cameras do: zeros.
#[test]
fn what_follows_an_image_does_not_matter() {
    let plain = tree();
    let name = |i: usize| plain.path().join(format!("train/cat/{i}.jpg"));
    rgb(4, 3, 90).save(name(0)).unwrap();
    let bytes = fs::read(name(0)).unwrap();
    let film = [
        &b"\0\0\0\x18ftypmp42"[..],
        &[0xff, 0xda, 0, 8, 1, 0xff, 0xd8, 7],
    ]
    .concat();
    for (i, behind) in [film, vec![0; 4096], bytes.clone(), vec![0xff; 3]]
        .iter()
        .enumerate()
    {
        fs::write(name(i + 1), [&bytes[..], behind].concat()).unwrap();
    }
    let png = plain.path().join("train/cat/b.png");
    let bytes = fs::read(&png).unwrap();
    fs::write(&png, [&bytes[..], &[0; 512]].concat()).unwrap();
    let data = folder(plain.path(), false).unwrap();
    for i in 1..5 {
        assert_eq!(data.train.image(i), data.train.image(0));
    }
    assert_eq!(data.train.image(6)[0], 50);
}

#[test]
fn large_images_are_refused_by_their_header() {
    let dir = tree();
    rgb(1025, 1, 0)
        .save(dir.path().join("train/cat/a.png"))
        .unwrap();
    says(&dir, &["train/cat/a.png", "1025x1 pixels", "1024x1024"]);
    // A header that promises 4 gigapixels.
    let mut bytes = fs::read(dir.path().join("train/cat/b.png")).unwrap();
    bytes[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let crc = png_crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    fs::write(dir.path().join("train/cat/a.png"), bytes).unwrap();
    says(
        &dir,
        &["train/cat/a.png", "too large", "65536x65536 pixels"],
    );
}

fn png_crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| {
            (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg())
        })
    })
}

#[cfg(unix)]
#[test]
fn a_dangling_link_is_named() {
    let dir = tree();
    std::os::unix::fs::symlink("/nowhere", dir.path().join("test/cat/x.png")).unwrap();
    says(&dir, &["cannot read", "test/cat/x.png"]);
}
