//! Manifests of the checkout, the product's own and the documentation's, in the places where a test has them.
//!
//! Start at [`apply`].

use std::fs;
use std::path::{Path, PathBuf};

use crate::User;

/// The text of a file of the checkout, with some of its words replaced; each of them must be there.
pub fn filled(file: &str, words: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
    let mut text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (from, to) in words {
        assert!(text.contains(from), "{file} has {from}");
        text = text.replace(from, to);
    }
    text
}

/// The same, in a file of this name in `folder`.
pub fn written(file: &str, words: &[(&str, &str)], folder: &Path) -> PathBuf {
    let written = folder.join(Path::new(file).file_name().expect("a file has a name"));
    fs::write(&written, filled(file, words)).expect("written");
    written
}

/// Applies a manifest of the checkout, with some of its words replaced.
#[track_caller]
pub fn apply(user: &User, file: &str, words: &[(&str, &str)], folder: &Path) {
    user.must(&format!("apply -f {}", written(file, words, folder).display()));
}
