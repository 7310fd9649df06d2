use super::*;
use flate2::{Compression, write::GzEncoder};
use std::fs;
use std::io::Write;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An IDX file: magic, dimensions, content.
fn idx(magic: u32, shape: &[u32], content: &[u8]) -> Vec<u8> {
    let words = [&[magic], shape].concat();
    let header = words.iter().flat_map(|word| word.to_be_bytes());
    header.chain(content.iter().copied()).collect()
}

/// Three training and two test images, 2 high and 3 wide.
fn good() -> [Vec<u8>; 4] {
    let pixels: Vec<u8> = (0..18).collect();
    [
        idx(IMAGES, &[3, 2, 3], &pixels),
        idx(LABELS, &[3], &[7, 0, 9]),
        idx(IMAGES, &[2, 2, 3], &pixels[6..]),
        idx(LABELS, &[2], &[1, 2]),
    ]
}

fn write(dir: &Path, files: &[Vec<u8>; 4]) {
    for (name, bytes) in FILES.iter().zip(files) {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

#[test]
fn reads_every_spelling_plain_and_gzipped() {
    let spellings: [fn(&str) -> String; 4] = [
        |name| name.to_owned(),
        |name| format!("{name}.gz"),
        |name| name.replace("-idx", ".idx"),
        |name| name.replace("-idx", ".idx") + ".gz",
    ];
    for spelling in spellings {
        // Whether a file is gzipped is a matter of its content, whatever it is called.
        for gz in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            for (name, bytes) in FILES.iter().zip(good()) {
                let bytes = if gz { gzip(&bytes) } else { bytes };
                fs::write(dir.path().join(spelling(name)), bytes).unwrap();
            }
            let data = mnist(dir.path()).unwrap();
            assert_eq!((data.train.height, data.train.width), (2, 3));
            assert_eq!((data.train.channels, data.flip), (1, false));
            assert_eq!(data.train.labels, [7, 0, 9]);
            assert_eq!(data.train.image(2), [12, 13, 14, 15, 16, 17]);
            assert_eq!(
                (data.test.labels.as_slice(), data.test.image(0)[0]),
                (&[1, 2][..], 6)
            );
            assert_eq!(data.classes[9], "9");
            assert_eq!(fashion_mnist(dir.path()).unwrap().classes[9], "Ankle boot");
        }
    }
}

#[test]
fn a_gzip_file_of_several_members_is_one_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = good();
    files[0] = [gzip(&files[0][..20]), gzip(&files[0][20..])].concat();
    write(dir.path(), &files);
    assert_eq!(mnist(dir.path()).unwrap().train.len(), 3);
}

#[test]
fn zeros_behind_a_gzip_stream_are_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let padded = good().map(|bytes| [gzip(&bytes), vec![0; 700]].concat());
    write(dir.path(), &padded);
    assert_eq!(mnist(dir.path()).unwrap().train.labels, [7, 0, 9]);
}

#[test]
fn sets_of_more_classes_are_called_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut files = good();
    let pixels = vec![1; 3 * 2 * 52];
    files[0] = idx(IMAGES, &[52, 2, 3], &pixels[..312]);
    // The letters of EMNIST, and sets numbered from 0.
    for (labels, says) in [
        (
            (0..52).map(|i| 1 + i % 26).collect::<Vec<u8>>(),
            "has 26 classes, labels 1 to 26",
        ),
        (
            (0..52).map(|i| i % 47).collect(),
            "has 47 classes, labels 0 to 46",
        ),
    ] {
        files[1] = idx(LABELS, &[52], &labels);
        write(dir, &files);
        let error = mnist(dir).unwrap_err().to_string();
        for says in [FILES[1], says, "--data folder", "digits and mnist"] {
            assert!(error.contains(says), "{error}");
        }
        assert!(!error.contains("replace it"), "{error}");
    }
    // A label or two among many that cannot be are damage.
    let mut labels: Vec<u8> = (0..52).map(|i| i % 10).collect();
    labels[7] = 99;
    files[1] = idx(LABELS, &[52], &labels);
    write(dir, &files);
    let error = mnist(dir).unwrap_err().to_string();
    assert!(error.contains("the label 99 for image 7") && error.contains("replace it"));

    // Under names of its own.
    let other = dir.join("emnist");
    std::fs::create_dir(&other).unwrap();
    for name in [
        "emnist-letters-train-images-idx3-ubyte.gz",
        "emnist-letters-test-labels-idx1-ubyte",
    ] {
        fs::write(other.join(name), "x").unwrap();
    }
    let error = mnist(&other).unwrap_err().to_string();
    for says in [
        "no MNIST in",
        "emnist-letters-test-labels-idx1-ubyte",
        "give those",
        "ten classes",
    ] {
        assert!(error.contains(says), "{error}");
    }
}

/// A link to itself is to everybody what a forbidden folder is to most.
#[cfg(unix)]
#[test]
fn what_may_not_be_looked_at_is_not_missing() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(FILES[2], dir.path().join(FILES[2])).unwrap();
    let readers = [mnist(dir.path()), fashion_mnist(dir.path())];
    for error in readers.map(|read| read.unwrap_err().to_string()) {
        assert!(
            error.contains("cannot read") && error.contains(FILES[2]),
            "{error}"
        );
    }
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let error = |parts: &[&str]| {
        let error = mnist(dir).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        assert!(parts.iter().all(|p| error.contains(p)), "{error}");
    };
    error(&["no MNIST in", "--download", "--data-dir"]);
    let good = good();
    let packed = gzip(&good[0]);
    let flipped = {
        let mut bytes = packed.clone();
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    let huge = idx(IMAGES, &[4_000_000_000, 28, 28], &[0; 99]);
    let [images, labels, test_images, _] = FILES;
    for (file, bytes, says) in [
        (
            0,
            good[0][..33].to_vec(),
            "3 images of 2x3, 18 bytes, but 17 bytes follow",
        ),
        (0, [&good[0][..], &[0]].concat(), "but more follows"),
        (
            0,
            good[1].clone(),
            "begins with 0x00000801, but an IDX file of images",
        ),
        (
            1,
            good[0].clone(),
            "begins with 0x00000803, but an IDX file of labels",
        ),
        (0, vec![], "ends within its header"),
        (0, good[0][..15].to_vec(), "ends within its header"),
        (
            0,
            huge.clone(),
            "4000000000 images of 28x28, 3136000000000 bytes, but 99",
        ),
        (
            0,
            gzip(&huge),
            "4000000000 images of 28x28, 3136000000000 bytes, but 99",
        ),
        (0, idx(IMAGES, &[u32::MAX; 3], &[]), "1 to 1024 pixels"),
        (0, idx(IMAGES, &[0, 2, 3], &[]), "0 images of 2x3"),
        (
            0,
            packed[..packed.len() - 9].to_vec(),
            "more than a gzip stream",
        ),
        (
            0,
            packed[..packed.len() - 1].to_vec(),
            "more than a gzip stream",
        ),
        (0, packed[..5].to_vec(), "more than a gzip stream"),
        (0, flipped, "more than a gzip stream"),
        (
            0,
            [&packed[..], b"garbage"].concat(),
            "more than a gzip stream",
        ),
        (
            0,
            [&packed[..], &[0; 512], &[7]].concat(),
            "more than a gzip stream",
        ),
        (
            1,
            idx(LABELS, &[3], &[7, 10, 9]),
            "the label 10 for image 1",
        ),
        (1, idx(LABELS, &[2], &[7, 1]), "holds 2 labels, but"),
        (2, idx(IMAGES, &[2, 3, 2], &[0; 12]), "images of 3x2, but"),
    ] {
        let mut files = good.clone();
        files[file] = bytes;
        write(dir, &files);
        error(&[[images, labels, test_images][file], says, "replace it"]);
    }
    write(dir, &good);
    fs::remove_file(dir.join(labels)).unwrap();
    error(&["no train-labels-idx1-ubyte in", "--download"]);
}
