//! Downloads against a server on this machine: what arrives, what is resumed, and what each way to
//! fail leaves behind.

use assert_cmd::Command;
use autoassist::data::download::{Digest, DownloadError, Downloader, Published};
use flate2::{Compression, write::GzEncoder};
use indicatif::ProgressBar;
use sha2::Digest as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Answers each request with bytes, headers included, and closes the connection.
struct Server {
    url: String,
    requests: Requests,
}

/// Path and first byte that were asked for, a request each.
type Requests = Arc<Mutex<Vec<(String, Option<usize>)>>>;

impl Server {
    fn new(answer: impl Fn(&str, Option<usize>) -> Vec<u8> + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Requests::default();
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let first = lines.next().unwrap_or_default();
                let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                let headers = lines.take_while(|line| !line.is_empty());
                let range = headers.filter_map(|line| {
                    let line = line.to_ascii_lowercase();
                    let start = line.strip_prefix("range: bytes=")?.strip_suffix('-')?;
                    start.parse().ok()
                });
                let range = range.last();
                seen.lock().unwrap().push((path.clone(), range));
                // The client may have seen enough.
                let _ = stream.write_all(&answer(&path, range));
            }
        });
        Server { url, requests }
    }

    fn ranges(&self) -> Vec<Option<usize>> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|(_, range)| *range).collect()
    }
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// What a server that knows ranges says.
fn ranged(content: &[u8], start: Option<usize>) -> Vec<u8> {
    let total = content.len();
    match start {
        None => response("200 OK", &format!("Content-Length: {total}\r\n"), content),
        Some(start) if start >= total => {
            let range = format!("Content-Range: bytes */{total}\r\nContent-Length: 0\r\n");
            response("416 Range Not Satisfiable", &range, b"")
        }
        Some(start) => {
            let (last, len) = (total - 1, total - start);
            let range =
                format!("Content-Range: bytes {start}-{last}/{total}\r\nContent-Length: {len}\r\n");
            response("206 Partial Content", &range, &content[start..])
        }
    }
}

fn content() -> Vec<u8> {
    (0..200_000u64)
        .map(|i| autoassist::rng::hash(1, i, 0) as u8)
        .collect()
}

fn hex(bytes: impl AsRef<[u8]>) -> &'static str {
    let hex: String = bytes.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    hex.leak()
}

fn published(name: &'static str, content: &[u8]) -> Published {
    Published {
        base: "http://nowhere.invalid",
        name,
        digest: Digest::Sha256(hex(sha2::Sha256::digest(content))),
    }
}

static GO_ON: AtomicBool = AtomicBool::new(false);

fn downloader(url: &str) -> Downloader<'static> {
    Downloader {
        mirror: Some(url.to_owned()),
        on_start: &|_, _, _| ProgressBar::hidden(),
        interrupt: &GO_ON,
    }
}

fn fetch(server: &Server, file: &Published, dir: &Path) -> Result<(), DownloadError> {
    let path = downloader(&server.url).fetch(file, dir)?;
    assert_eq!(path, dir.join(file.name));
    Ok(())
}

/// The files in a folder.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |e: std::io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn a_file_arrives_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("made/on/the/way");
    let content = content();
    for digest in [
        published("file", &content).digest,
        Digest::Md5(hex(md5::Md5::digest(&content))),
    ] {
        let _ = fs::remove_dir_all(&dir);
        let file = Published {
            digest,
            ..published("file", &content)
        };
        let served = content.clone();
        let server = Server::new(move |_, range| ranged(&served, range));
        fetch(&server, &file, &dir).unwrap();
        assert_eq!(fs::read(dir.join("file")).unwrap(), content);
        assert_eq!(names(&dir), ["file"]);
        fetch(&server, &file, &dir).unwrap();
        let requests = server.requests.lock().unwrap();
        assert_eq!(*requests, [("/file".into(), None)]);
    }
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, content) = (dir.path(), content());
    let file = published("file", &content);
    let served = content.clone();
    // The first answer promises everything and sends half.
    let server = Server::new(move |_, range| {
        let mut answer = ranged(&served, range);
        if range.is_none() {
            answer.truncate(answer.len() - 100_000);
        }
        answer
    });
    let error = fetch(&server, &file, dir).unwrap_err();
    let says = error.to_string();
    assert!(says.contains("broke off after 100000 bytes"), "{says}");
    assert_eq!(fs::read(dir.join("file.part")).unwrap(), content[..100_000]);
    fetch(&server, &file, dir).unwrap();
    assert_eq!(fs::read(dir.join("file")).unwrap(), content);
    assert_eq!(server.ranges(), [None, Some(100_000)]);
    assert_eq!(names(dir), ["file"]);
}

#[test]
fn whatever_is_left_of_an_earlier_try_the_file_arrives() {
    let content = content();
    let file = published("file", &content);
    let half = content[..100_000].to_vec();
    let mut wrong = half.clone();
    wrong[5] ^= 1;
    let long = [&content[..], b"more"].concat();
    type Answer = fn(&[u8], Option<usize>) -> Vec<u8>;
    let no_ranges: Answer = |content, _| ranged(content, None);
    // Begins elsewhere than asked.
    let elsewhere: Answer = |content, start| ranged(content, start.map(|s| s - 1));
    let (at_half, whole) = (Some(half.len()), Some(content.len()));
    for (left, answer, requests) in [
        (half.clone(), ranged as Answer, vec![at_half]),
        (half.clone(), no_ranges, vec![at_half]),
        (half.clone(), elsewhere, vec![at_half, None]),
        (wrong, ranged, vec![at_half, None]),
        (content.clone(), ranged, vec![whole]),
        (long.clone(), ranged, vec![Some(long.len()), None]),
        (vec![], ranged, vec![None]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("file.part"), left).unwrap();
        let served = content.clone();
        let server = Server::new(move |_, range| answer(&served, range));
        fetch(&server, &file, dir).unwrap();
        assert_eq!(fs::read(dir.join("file")).unwrap(), content);
        assert_eq!(server.ranges(), requests);
        assert_eq!(names(dir), ["file"]);
    }
}

#[test]
fn another_file_is_refused_and_removed_and_the_next_try_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, content) = (dir.path(), content());
    let file = published("file", &content);
    let server = Server::new(|_, range| ranged(b"something else", range));
    let says = fetch(&server, &file, dir).unwrap_err().to_string();
    assert!(
        says.contains(file_hex(&file)) && says.contains("try again"),
        "{says}"
    );
    assert!(names(dir).is_empty());
    let server = Server::new(move |_, range| ranged(&content, range));
    fetch(&server, &file, dir).unwrap();
}

fn file_hex(file: &Published) -> &'static str {
    match file.digest {
        Digest::Md5(hex) | Digest::Sha256(hex) => hex,
    }
}

#[test]
fn a_server_that_does_not_serve_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let file = published("file", b"");
    // A port that nobody listens on any more.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let closed = Server {
        url: format!("http://{}", closed.unwrap()),
        requests: Arc::default(),
    };
    let huge = "Content-Length: 99999999999\r\n";
    for (server, parts) in [
        (closed, ["Connection refused", "check the network"]),
        (
            Server::new(|_, _| response("404 Not Found", "Content-Length: 0\r\n", b"")),
            ["404 Not Found", "put it into"],
        ),
        (
            Server::new(|_, _| response("503 Service Unavailable", "", b"")),
            ["503", "try again later"],
        ),
        // Unasked for.
        (
            Server::new(|_, _| ranged(b"abc", Some(1))),
            ["206", "try again later"],
        ),
        (
            Server::new(|_, _| b"\0\0\0\0\r\n\r\n".to_vec()),
            ["protocol", "try again"],
        ),
        (Server::new(|_, _| vec![]), ["cannot fetch", "try again"]),
        (
            Server::new(move |_, _| response("200 OK", huge, b"x")),
            ["sends more than", "not the published file"],
        ),
        (
            Server {
                url: "no url".into(),
                requests: Arc::default(),
            },
            ["cannot fetch no url/file", "check"],
        ),
    ] {
        let says = fetch(&server, &file, dir.path()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| says.contains(part)), "{says}");
        assert!(!says.contains('\n'), "{says}");
        assert!(names(dir.path()).is_empty());
    }
}

#[test]
fn stopping_keeps_what_has_arrived() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, content) = (dir.path(), content());
    let file = published("file", &content);
    fs::write(dir.join("file.part"), &content[..1000]).unwrap();
    let served = content.clone();
    let server = Server::new(move |_, range| ranged(&served, range));
    let interrupt = AtomicBool::new(false);
    let on_start = |_: &str, have: u64, total: Option<u64>| {
        assert_eq!((have, total), (1000, Some(200_000)));
        interrupt.store(true, Ordering::Relaxed);
        ProgressBar::hidden()
    };
    let downloader = Downloader {
        mirror: Some(server.url.clone()),
        on_start: &on_start,
        interrupt: &interrupt,
    };
    let error = downloader.fetch(&file, dir).unwrap_err();
    assert!(matches!(error, DownloadError::Stopped), "{error}");
    assert_eq!(fs::read(dir.join("file.part")).unwrap(), content[..1000]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::os::unix::fs::symlink("/dev/full", dir.join("file.part")).unwrap();
    let server = Server::new(|_, range| ranged(b"content", range));
    let says = fetch(&server, &published("file", b"content"), dir).unwrap_err();
    let says = says.to_string();
    assert!(
        says.contains("file.part") && says.contains("free some space"),
        "{says}"
    );
}

#[test]
fn two_programs_do_not_write_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let other = File::create(dir.join("file.part")).unwrap();
    other.lock().unwrap();
    let server = Server::new(|_, range| ranged(b"content", range));
    let error = fetch(&server, &published("file", b"content"), dir).unwrap_err();
    assert!(matches!(error, DownloadError::Busy { .. }), "{error}");
    assert!(server.ranges().is_empty());
}

/// A `.tar.gz` of files.
fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let gz = GzEncoder::new(Vec::new(), Compression::fast());
    let mut tar = tar::Builder::new(gz);
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        // `set_path` would refuse a name that leads out of the folder.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, &bytes[..]).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn batches() -> Vec<(String, Vec<u8>)> {
    let names = (1..6).map(|n| format!("data_batch_{n}.bin"));
    let names = names.chain(["test_batch.bin".into()]);
    let name = |name| format!("cifar-10-batches-bin/{name}");
    let record = |label| [vec![label], vec![100 + label; 3072]].concat();
    names
        .map(|file| (name(file), [record(3), record(4)].concat()))
        .collect()
}

#[test]
fn cifar10_is_unpacked_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("inside");
    let batches = batches();
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("../outside", b"x".to_vec()),
        ("cifar-10-batches-bin/../../test_batch.bin", b"x".to_vec()),
        ("cifar-10-batches-bin/readme.html", b"x".to_vec()),
    ];
    files.extend(
        batches
            .iter()
            .map(|(name, bytes)| (&name[..], bytes.clone())),
    );
    let packed = archive(&files);
    let file = published("cifar-10-binary.tar.gz", &packed);
    let server = Server::new(move |_, range| ranged(&packed, range));
    for _ in 0..2 {
        downloader(&server.url).cifar10(&file, &dir).unwrap();
        assert_eq!(names(&dir), ["cifar-10-batches-bin"]);
        assert_eq!(names(dir.parent().unwrap()), ["inside"]);
        assert_eq!(names(&dir.join("cifar-10-batches-bin")).len(), 6);
    }
    assert_eq!(server.ranges(), [None]);
    let data = autoassist::data::cifar10(&dir).unwrap();
    assert_eq!((data.train.len(), data.test.image(1)[0]), (10, 104));
    // A batch that is lost comes back, also if the others lie elsewhere.
    for (from, to) in [(0, "cifar-10-batches-bin/gone"), (1, "data_batch_2.bin")] {
        fs::rename(dir.join(&batches[from].0), dir.join(to)).unwrap();
        downloader(&server.url).cifar10(&file, &dir).unwrap();
        autoassist::data::cifar10(&dir).unwrap();
    }
    assert_eq!(server.ranges(), [None; 3]);
}

#[test]
fn cifar100_is_unpacked_with_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let record = |label| [vec![1, label], vec![100 + label; 3072]].concat();
    let classes: String = (0..100).map(|c| format!("class {c}\n")).collect();
    let packed = archive(&[
        (
            "cifar-100-binary/train.bin",
            [record(3), record(99)].concat(),
        ),
        ("cifar-100-binary/test.bin", record(4)),
        (
            "cifar-100-binary/fine_label_names.txt",
            classes.into_bytes(),
        ),
        ("cifar-100-binary/coarse_label_names.txt", b"fish".to_vec()),
    ]);
    let file = published("cifar-100-binary.tar.gz", &packed);
    let server = Server::new(move |_, range| ranged(&packed, range));
    for _ in 0..2 {
        downloader(&server.url).cifar100(&file, dir).unwrap();
    }
    assert_eq!(server.ranges(), [None]);
    assert_eq!(names(&dir.join("cifar-100-binary")).len(), 3);
    let data = autoassist::data::cifar100(dir).unwrap();
    assert_eq!(
        (&data.train.labels[..], data.test.image(0)[0]),
        (&[3, 99][..], 104)
    );
    assert_eq!(data.classes[99], "class 99");
}

#[test]
fn an_archive_that_is_none_is_explained() {
    let batches = batches();
    let some: Vec<_> = batches[..5]
        .iter()
        .map(|(n, b)| (&n[..], b.clone()))
        .collect();
    let mut cut = archive(&some);
    cut.truncate(cut.len() / 2);
    for packed in [archive(&some), cut, b"not gzip at all".to_vec(), vec![]] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        // As one who fetched it by hand would put it there.
        fs::write(dir.join("cifar-10-binary.tar.gz"), packed).unwrap();
        let file = published("cifar-10-binary.tar.gz", b"");
        let says = downloader("no url").cifar10(&file, dir).unwrap_err();
        let says = says.to_string();
        assert!(
            says.contains("cifar-10-binary.tar.gz") && says.contains("remove it"),
            "{says}"
        );
        assert!(!says.contains('\n'), "{says}");
    }
}

#[test]
fn only_the_idx_files_that_are_missing_are_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let files = [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ];
    let files = files.map(|name| published(name, name.as_bytes()));
    fs::write(dir.join("train-labels-idx1-ubyte"), "x").unwrap();
    fs::write(dir.join("t10k-images.idx3-ubyte.gz"), "x").unwrap();
    let server = Server::new(|path, range| ranged(&path.as_bytes()[1..], range));
    for _ in 0..2 {
        downloader(&server.url).idx(&files, dir).unwrap();
    }
    let requests = server.requests.lock().unwrap();
    let paths: Vec<_> = requests.iter().map(|(path, _)| &path[1..]).collect();
    assert_eq!(paths, [files[0].name, files[3].name]);
}

/// The program, with a cache of its own and a server of its own.
fn resnet(cache: &Path, server: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::cargo_bin("resnet").expect("the program is built");
    let output = command
        .env("XDG_CACHE_HOME", cache)
        .env("AUTOASSIST_DOWNLOAD_URL", server)
        .env("RAYON_NUM_THREADS", "2")
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("panicked"), "{text}");
    (output.status.code(), text)
}

#[test]
fn the_program_says_in_one_line_why_there_is_no_data() {
    let cache = tempfile::tempdir().unwrap();
    let missing = Server::new(|_, _| response("404 Not Found", "", b""));
    let other = Server::new(|_, range| ranged(b"another file", range));
    for (server, args, parts) in [
        (
            &missing,
            "--data cifar10",
            ["no CIFAR-10 in", "--download", "--data-dir"],
        ),
        (
            &other,
            "--data cifar100 --download",
            ["cifar-100-binary.tar.gz", "03b5dce0", "try again"],
        ),
        (
            &missing,
            "--data mnist",
            ["no MNIST in", "--download", "--data-dir"],
        ),
        (
            &missing,
            "--data fashion-mnist",
            ["no Fashion-MNIST in", "--download", "--data-dir"],
        ),
        (
            &missing,
            "--data cifar10 --download",
            ["cifar-10-binary.tar.gz", "404", "put it into"],
        ),
        (
            &other,
            "--data mnist --download",
            ["train-images", "f68b3c2d", "try again"],
        ),
        (
            &other,
            "--data fashion-mnist --download",
            ["train-images", "8d4fb7e6", "try again"],
        ),
        (
            &other,
            "--download",
            ["--download fetches", "--data cifar10", "--data mnist"],
        ),
        (
            &other,
            "--download --data folder --data-dir x",
            ["--download", "name it", "--data"],
        ),
    ] {
        let args: Vec<_> = args.split(' ').chain(["--quiet"]).collect();
        let (code, text) = resnet(cache.path(), &server.url, &args);
        assert_eq!(code, Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
}

#[test]
fn what_is_in_the_cache_needs_no_network() {
    let cache = tempfile::tempdir().unwrap();
    let dir = cache.path().join("autoassist/cifar10");
    for (name, bytes) in batches() {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let out = cache.path().join("run");
    let args = "--data cifar10 --epochs 2 --batch 4 --device cpu --quiet --out";
    let mut args: Vec<_> = args.split(' ').collect();
    args.push(out.to_str().unwrap());
    for download in [false, true] {
        let _ = fs::remove_dir_all(&out);
        let args = [&args[..], &["--download"][..usize::from(download)]].concat();
        let (code, text) = resnet(cache.path(), "no url", &args);
        assert_eq!((code, &text[..]), (Some(0), ""));
    }
    let config = fs::read_to_string(out.join("config.toml")).unwrap();
    let lines = ["data = \"cifar10\"", "download = true"];
    let has = |line: &&str| config.lines().any(|l| l == *line);
    assert!(lines.iter().all(has), "{config}");
}
