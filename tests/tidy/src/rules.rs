//! The rules, one function each.
//!
//! Start at [`all`]. A rule takes the [`Tree`] and gives back what breaks it.

use crate::{Finding, Tree};

/// What may lie at the top; tool settings are dot-files.
const TOP: [&str; 9] =
    ["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "boards", "cluster", "firmware", "image", "tests"];

/// The crates that may say `unsafe`: one for each thing outside that only `unsafe` code can ask, the kernel and UEFI.
const UNSAFE_HOMES: [&str; 2] = ["firmware/sys/", "firmware/efi/"];

/// A file's documentation begins within so many lines: generated tables say so in their first line.
const HEADER_LINES_MAX: usize = 3;

/// Calls that are decided elsewhere: text, where it is allowed, and what to do instead.
const BANNED: &[(&str, &[&str], &str)] = &[
    ("SystemTime::now()", &["firmware/sys/", "tests/", "image/tool/"], "take `now` as an argument, or a `base::Clock`"),
    ("todo!(", &[], "say what does not work yet in an error that names it"),
    ("unimplemented!(", &[], "say what does not work yet in an error that names it"),
    ("dbg!(", &[], "use tracing"),
    ("#[ignore", &[], "assert today's answer and say that it is wrong"),
];

/// Every rule.
pub fn all(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for rule in [top_level, layers, headers, unsafe_border, banned_calls, readme_paths] {
        found.extend(rule(tree));
    }
    found.sort();
    found
}

/// The top level stays as it is.
pub fn top_level(tree: &Tree) -> Vec<Finding> {
    tree.top
        .iter()
        .filter(|name| !TOP.contains(&name.as_str()))
        .map(|name| finding(name, 0, format!("does not belong at the top level, which holds {}", TOP.join(", "))))
        .collect()
}

/// A crate depends on lower layers only, and firmware never on the cluster.
pub fn layers(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, this) in &tree.crates {
        let manifest = format!("{}/Cargo.toml", this.folder);
        let Some(layer) = this.layer else {
            found.push(finding(&manifest, 0, "names no layer in [package.metadata]".to_owned()));
            continue;
        };
        for other in &this.dependencies {
            let Some(other_crate) = tree.crates.get(other) else { continue };
            if other_crate.layer.is_none_or(|other_layer| other_layer >= layer) {
                let below = other_crate.layer.unwrap_or_default();
                found.push(finding(
                    &manifest,
                    0,
                    format!("{name} (layer {layer}) depends on {other} (layer {below}), which is not below it"),
                ));
            }
            if this.folder.starts_with("firmware/") && other_crate.folder.starts_with("cluster/") {
                found.push(finding(&manifest, 0, format!("firmware knows nothing of Kubernetes, but {name} uses {other}")));
            }
        }
    }
    found
}

/// Every source file says what it is for.
pub fn headers(tree: &Tree) -> Vec<Finding> {
    let is_source = |path: &str| path.ends_with(".rs");
    tree.files
        .iter()
        .filter(|file| is_source(&file.path))
        .filter(|file| !file.text.lines().take(HEADER_LINES_MAX).any(|line| line.starts_with("//!")))
        .map(|file| finding(&file.path, 1, "opens with no `//!` header: say what the file is for".to_owned()))
        .collect()
}

/// `unsafe` lives on the borders, and every other crate forbids it.
pub fn unsafe_border(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    let is_home = |path: &str| UNSAFE_HOMES.iter().any(|home| path.starts_with(home));
    for file in tree.files.iter().filter(|file| file.path.ends_with(".rs") && !is_home(&file.path)) {
        let root = ["/src/lib.rs", "/src/main.rs"].iter().any(|end| file.path.ends_with(end));
        if root && !file.text.contains("#![forbid(unsafe_code)]") {
            found.push(finding(&file.path, 1, "does not say #![forbid(unsafe_code)]".to_owned()));
        }
    }
    for file in tree.files.iter().filter(|file| is_home(&file.path)) {
        let lines: Vec<&str> = file.text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let opens = code.contains("unsafe {") || code.trim_start().starts_with("unsafe impl");
            let from = index.saturating_sub(SAFETY_LINES_MAX);
            if opens && !lines[from..=index].iter().any(|near| near.contains("SAFETY")) {
                found.push(finding(&file.path, index + 1, "says unsafe without a SAFETY sentence beside it".to_owned()));
            }
        }
    }
    found
}

/// A SAFETY sentence stands at most so many lines above the block it speaks of.
const SAFETY_LINES_MAX: usize = 8;

/// What is decided elsewhere is not called here.
pub fn banned_calls(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".rs") && !file.path.starts_with("tests/tidy/")) {
        for (index, line) in file.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (call, allowed, instead) in BANNED {
                if code.contains(call) && !allowed.iter().any(|folder| file.path.starts_with(folder)) {
                    found.push(finding(&file.path, index + 1, format!("{call} is not called here: {instead}")));
                }
            }
        }
    }
    found
}

/// A folder or file that a README names in backticks with a slash exists.
pub fn readme_paths(tree: &Tree) -> Vec<Finding> {
    let folders: Vec<&str> = tree.crates.values().map(|each| each.folder.as_str()).collect();
    let known = |path: &str| {
        let path = path.trim_end_matches('/');
        let begins = |candidate: &str| candidate == path || candidate.starts_with(&format!("{path}/"));
        folders.iter().any(|folder| begins(folder)) || tree.files.iter().any(|file| begins(&file.path))
    };
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with("README.md")) {
        for (index, line) in file.text.lines().enumerate() {
            for quoted in line.split('`').skip(1).step_by(2) {
                let ours = ["cluster/", "firmware/", "tests/"].iter().any(|top| quoted.starts_with(top));
                let plain = quoted.chars().all(|letter| letter.is_ascii_alphanumeric() || "/_-.".contains(letter));
                if ours && plain && !known(quoted) {
                    found.push(finding(&file.path, index + 1, format!("names {quoted}, which does not exist")));
                }
            }
        }
    }
    found
}

fn finding(path: &str, line: usize, what: String) -> Finding {
    Finding { path: path.to_owned(), line, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{File, manifest};

    /// Runs `rule` over a tree of one file and counts what it finds.
    fn check(rule: fn(&Tree) -> Vec<Finding>, path: &str, text: &str, expected: usize) {
        let mut tree = Tree { files: vec![File { path: path.into(), text: text.into() }], ..Tree::default() };
        tree.top.push(path.split('/').next().unwrap_or_default().to_owned());
        let found = rule(&tree);
        assert_eq!(found.len(), expected, "{found:?}");
    }

    #[test]
    fn a_stray_file_at_the_top_is_named() {
        check(top_level, "notes.rs", "", 1);
        check(top_level, "cluster/x.rs", "", 0);
    }

    #[test]
    fn a_file_without_header_is_named() {
        check(headers, "cluster/a/src/x.rs", "use std::fmt;\n", 1);
        check(headers, "cluster/a/src/x.rs", "//! What it is for.\n", 0);
    }

    #[test]
    fn unsafe_stays_on_the_borders() {
        check(unsafe_border, "cluster/a/src/lib.rs", "//! A.\n", 1);
        check(unsafe_border, "firmware/sys/src/x.rs", "fn f() { unsafe { g() } }\n", 1);
        check(unsafe_border, "firmware/efi/src/x.rs", "fn f() { unsafe { g() } }\n", 1);
        check(unsafe_border, "firmware/sys/src/x.rs", "// SAFETY: g has no conditions.\nunsafe { g() }\n", 0);
    }

    #[test]
    fn a_banned_call_is_named_unless_commented_out() {
        check(banned_calls, "cluster/a/src/x.rs", "let now = SystemTime::now();", 1);
        check(banned_calls, "cluster/a/src/x.rs", "// SystemTime::now() is banned", 0);
        check(banned_calls, "firmware/sys/src/clock.rs", "SystemTime::now()", 0);
    }

    #[test]
    fn a_readme_names_only_what_exists() {
        check(readme_paths, "README.md", "see `cluster/nothing`", 1);
        check(readme_paths, "README.md", "see `cluster/*` and `kubectl get`", 0);
    }

    #[test]
    fn a_crate_depends_on_lower_layers_only() {
        let mut tree = Tree::default();
        let add = |tree: &mut Tree, folder: &str, layer: i64, needs: &str| {
            let name = folder.rsplit('/').next().unwrap_or_default();
            let text = format!("[package]\nname = \"{name}\"\n[package.metadata]\nlayer = {layer}\n[dependencies]\n{needs}");
            let (name, found) = manifest(&format!("{folder}/Cargo.toml"), &text).expect("a valid manifest");
            tree.crates.insert(name, found);
        };
        add(&mut tree, "cluster/store", 1, "");
        add(&mut tree, "cluster/dns", 4, "store = \"1\"");
        assert_eq!(layers(&tree), []);
        add(&mut tree, "cluster/proxy", 4, "dns = \"1\"");
        assert_eq!(layers(&tree).len(), 1);
        add(&mut tree, "firmware/init", 5, "store = \"1\"");
        assert_eq!(layers(&tree).len(), 2);
    }
}
