//! What is in a tree of class folders, and what of it is not read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use crate::data::{DataError, kind_of};

/// Folders of test images, the first that is there: validation sets where no test set is.
const TESTS: [&str; 4] = ["test", "val", "valid", "validation"];
/// Notes that somebody reads.
const NOTES: usize = 10;

/// Images with their labels, in order.
pub type Files = Vec<(PathBuf, u32)>;

/// A tree of training and test images.
pub struct Tree {
    /// Names of the class folders.
    pub classes: Vec<String>,
    /// Sorted by class and name.
    pub train: Files,
    pub test: Files,
    /// What is not read, and why.
    pub notes: Vec<String>,
}

impl Tree {
    /// Looks what is in `dir`.
    ///
    /// # Errors
    /// Folders that are missing, empty or unmatched, or cannot be read.
    pub fn of(dir: &Path) -> Result<Tree, DataError> {
        let no_folder = |path: &Path, expected| DataError::NoFolder {
            path: path.to_owned(),
            expected,
        };
        if !is_dir(dir)? {
            let expected = "a folder with train/<class>/ and test/<class>/ in it";
            return Err(no_folder(dir, expected));
        }
        let train = dir.join("train");
        if !is_dir(&train)? {
            let expected = "the training images, in one folder a class";
            return Err(no_folder(&train, expected));
        }
        let mut tests = Vec::new();
        for path in TESTS.map(|name| dir.join(name)) {
            if is_dir(&path)? {
                tests.push(path);
            }
        }
        let mut tests = tests.into_iter();
        let mut notes = Notes::new(dir);
        let Some(test) = tests.next() else {
            let expected = "the test images, in one folder a class like those in train/ (val/, valid/ \
                            or validation/ would do)";
            return Err(no_folder(&dir.join(TESTS[0]), expected));
        };
        if !test.ends_with(TESTS[0]) {
            let name = notes.name(&test);
            notes.add(format!("there is no test/: {name}/ is evaluated on"));
        }
        for other in tests {
            let [other, test] = [&other, &test].map(|path| notes.name(path));
            notes.add(format!("{other}/ is not read: {test}/ is evaluated on"));
        }

        let train_classes = classes(&train, &mut notes)?;
        if train_classes.len() < 2 {
            return Err(DataError::TooFewClasses {
                path: train,
                found: train_classes.len(),
            });
        }
        let test_classes = classes(&test, &mut notes)?;
        let splits = [(&train, &train_classes), (&test, &test_classes)];
        for ((_, these), (root, others)) in [(splits[0], splits[1]), (splits[1], splits[0])] {
            if let Some((name, present)) = these.iter().find(|(n, _)| !others.contains_key(*n)) {
                return Err(DataError::ClassMismatch {
                    missing: root.join(name),
                    present: present.clone(),
                });
            }
        }
        let names = train_classes.keys();
        Ok(Tree {
            classes: names.map(|n| n.to_string_lossy().into_owned()).collect(),
            train: files(&train_classes, &mut notes)?,
            test: files(&test_classes, &mut notes)?,
            notes: notes.finish(),
        })
    }
}

/// What is said of things that are not read.
struct Notes<'a> {
    dir: &'a Path,
    lines: Vec<String>,
}

impl Notes<'_> {
    fn new(dir: &Path) -> Notes<'_> {
        Notes {
            dir,
            lines: Vec::new(),
        }
    }

    fn add(&mut self, line: String) {
        self.lines.push(line);
    }

    fn files(&mut self, dir: &Path, others: &Others, what: &str) {
        let n = others.files.values().sum::<usize>();
        if n > 0 {
            let files = are(n, "file", &self.name(dir));
            self.add(format!("{files} {what} ({})", others.kinds()));
        }
    }

    fn folders(&mut self, dir: &Path, others: &Others) {
        if others.folders > 0 {
            let folders = are(others.folders, "folder", &self.name(dir));
            self.add(format!("{folders} not looked into"));
        }
    }

    /// As seen from the folder of the data set.
    fn name(&self, path: &Path) -> String {
        let name = path.strip_prefix(self.dir).unwrap_or(path);
        name.display().to_string()
    }

    fn finish(mut self) -> Vec<String> {
        let more = self.lines.len().saturating_sub(NOTES);
        if more > 0 {
            self.lines.truncate(NOTES);
            self.add(format!("{more} more folders hold what is not read"));
        }
        self.lines
    }
}

/// "3 files in train/cat are".
fn are(n: usize, what: &str, place: &str) -> String {
    match n {
        1 => format!("1 {what} in {place} is"),
        n => format!("{n} {what}s in {place} are"),
    }
}

fn is_dir(path: &Path) -> Result<bool, DataError> {
    Ok(kind_of(path)?.is_some_and(|kind| kind.is_dir()))
}

type Classes = BTreeMap<OsString, PathBuf>;

/// The entries of a folder, but for hidden ones: `(name, path)`.
fn entries(dir: &Path) -> Result<Vec<(OsString, fs::DirEntry)>, DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: dir.to_owned(),
        source,
    };
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            entries.push((name, entry));
        }
    }
    Ok(entries)
}

/// The kind of an entry, or of what a symbolic link points to.
fn kind(entry: &fs::DirEntry) -> Result<fs::FileType, DataError> {
    let path = || entry.path();
    match entry.file_type() {
        Ok(kind) if kind.is_symlink() => fs::metadata(path()).map(|m| m.file_type()),
        kind => kind,
    }
    .map_err(|source| DataError::Unreadable {
        path: path(),
        source,
    })
}

fn classes(dir: &Path, notes: &mut Notes) -> Result<Classes, DataError> {
    let mut classes = Classes::new();
    let mut others = Others::default();
    for (name, entry) in entries(dir)? {
        match kind(&entry)?.is_dir() {
            true => drop(classes.insert(name, entry.path())),
            false => others.count(&name, false),
        }
    }
    notes.files(dir, &others, "in no class folder");
    Ok(classes)
}

/// The images of all classes with their labels, sorted by class and name.
fn files(classes: &Classes, notes: &mut Notes) -> Result<Files, DataError> {
    let mut all = Vec::new();
    for (dir, label) in classes.values().zip(0..) {
        let before = all.len();
        let mut others = Others::default();
        for (name, entry) in entries(dir)? {
            let kind = kind(&entry);
            let folder = kind.as_ref().is_ok_and(fs::FileType::is_dir);
            // An image that is a link to nowhere is named with all that cannot be used, another such
            // file is no matter here. Reading a pipe would wait for who writes.
            let file = kind.map_or(true, |kind| kind.is_file());
            match is_image(&name) && file {
                true => all.push((entry.path(), label)),
                false => others.count(&name, folder),
            }
        }
        if all.len() == before {
            return Err(DataError::EmptyClass {
                path: dir.clone(),
                others: others.all(),
            });
        }
        all[before..].sort_unstable();
        notes.files(dir, &others, "no PNG or JPEG");
        notes.folders(dir, &others);
    }
    Ok(all)
}

fn is_image(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().unwrap_or_default();
    ["jpg", "jpeg", "png"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

/// What is in a folder beside what is looked for.
#[derive(Default)]
struct Others {
    /// Files by what their names end in.
    files: BTreeMap<String, usize>,
    folders: usize,
}

impl Others {
    fn count(&mut self, name: &OsStr, folder: bool) {
        if folder {
            self.folders += 1;
            return;
        }
        let extension = Path::new(name).extension();
        let kind = match extension.map(|e| e.to_string_lossy().to_lowercase()) {
            Some(extension) => format!(".{extension}"),
            None => "without ending".into(),
        };
        *self.files.entry(kind).or_default() += 1;
    }

    /// How many of each kind, the most of a kind first.
    fn kinds(&self) -> String {
        let mut kinds: Vec<_> = self.files.iter().collect();
        kinds.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(kind, n)| format!("{kind} {n}"))
            .collect();
        kinds.join(", ")
    }

    /// All that is there, for who misses something.
    fn all(&self) -> String {
        let folders = (self.folders > 0).then(|| format!("folders {}", self.folders));
        let parts = [self.kinds()].into_iter().chain(folders);
        let parts: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
        match parts.is_empty() {
            true => String::new(),
            false => format!(", but {}", parts.join(", ")),
        }
    }
}
