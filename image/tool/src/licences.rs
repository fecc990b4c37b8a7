//! Whose work is in an image, under which licence, and where its source is.
//!
//! Start at [`add`]; [`refused`] is the allow-list that a test holds `Cargo.lock` to.

use std::path::Path;

use serde::Deserialize;

use crate::Tree;
use crate::error::{Result, wrong};
use crate::packages::Unpacked;
use crate::root::{Entry, Root};
use crate::shell::{cargo, run};

/// Where it stands in the root.
const FOLDER: &str = "usr/share/licences";

/// The licences that crates we link may be under.
const ALLOWED: [&str; 13] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "0BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "BSL-1.0",
    "Unlicense",
];

/// A crate from outside.
#[derive(Clone, Debug, Deserialize)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, as an SPDX expression.
    pub license: Option<String>,
    /// Where it came from; nothing for our own.
    pub source: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
}

/// Every crate that `Cargo.lock` names.
pub fn crates(tree: &Tree) -> Result<Vec<Crate>> {
    let text = run(cargo().args(["metadata", "--format-version", "1", "--locked"]).current_dir(&tree.top))?;
    let metadata: Metadata = serde_json::from_str(&text)
        .map_err(|error| wrong(format_args!("cargo's metadata is not understood: {error}")))?;
    Ok(metadata.packages)
}

/// The crates whose licence is not allowed, with it.
pub fn refused(crates: &[Crate]) -> Vec<String> {
    let outside = crates.iter().filter(|each| each.source.is_some());
    let bad = outside.filter(|each| !each.license.as_deref().is_some_and(is_allowed));
    bad.map(|each| format!("{} {}: {}", each.name, each.version, each.license.as_deref().unwrap_or("no licence")))
        .collect()
}

/// Whether some choice that an expression leaves is made of allowed licences only.
fn is_allowed(expression: &str) -> bool {
    // Crates write flat expressions; the few brackets there are group choices that AND joins.
    let flat = expression.replace('/', " OR ");
    let every = |part: &str| part.split(" OR ").any(|choice| ALLOWED.contains(&choice.trim().trim_matches(['(', ')'])));
    if flat.contains('(') {
        flat.split(" AND ").all(every)
    } else {
        flat.split(" OR ").any(|choice| choice.split(" AND ").all(|one| ALLOWED.contains(&one.trim())))
    }
}

/// Puts licences and the list of sources into the root.
pub fn add(tree: &Tree, root: &mut Root, packages: &Unpacked) -> Result<()> {
    root.add(&format!("{FOLDER}/skerry"), Entry::Copy { from: tree.top.join("LICENSE"), mode: 0o644 });
    let mut sources =
        "What this image is made of, and where its source is.\n\nPackages (Debian's: apt-get source NAME=VERSION)\n"
            .to_owned();
    for (pin, folder) in packages.values() {
        let version = if pin.version.is_empty() { String::new() } else { format!(" {}", pin.version) };
        sources.push_str(&format!("  {}{version} from {}\n", pin.name, pin.suite));
        let copyright = folder.join("usr/share/doc").join(&pin.name).join("copyright");
        add_if_there(root, &format!("{FOLDER}/debian/{}", pin.name), &copyright);
    }
    sources.push_str("\nRust crates (https://crates.io/crates/NAME/VERSION)\n");
    for each in crates(tree)?.iter().filter(|each| each.source.is_some()) {
        sources.push_str(&format!("  {} {} ({})\n", each.name, each.version, each.license.as_deref().unwrap_or("?")));
    }
    root.text(&format!("{FOLDER}/sources"), sources);
    Ok(())
}

fn add_if_there(root: &mut Root, path: &str, file: &Path) {
    if file.exists() {
        root.add(path, Entry::Copy { from: file.to_owned(), mode: 0o644 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_is_under_an_allowed_licence() {
        let found = refused(&crates(&Tree::ours()).unwrap());
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn an_expression_is_allowed_when_some_choice_is() {
        for good in
            ["MIT", "MIT OR GPL-3.0", "Apache-2.0 OR MIT", "Apache-2.0/MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"]
        {
            assert!(is_allowed(good), "{good}");
        }
        for bad in ["GPL-3.0-only", "MIT AND GPL-2.0", "LGPL-2.1", "MPL-2.0", ""] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
