//! The checkout as a value: its source files and its crates.
//!
//! Start at [`Tree::read`]. Tests build a [`Tree`] by hand instead.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// A text file of the project.
#[derive(Clone, Debug)]
pub struct File {
    /// Relative to the top, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What a crate's manifest says.
#[derive(Clone, Debug, Default)]
pub struct Crate {
    /// Its folder, relative to the top.
    pub folder: String,
    /// Its layer, from `[package.metadata]`.
    pub layer: Option<i64>,
    /// The crates it depends on, ours and others', dev-dependencies left out.
    pub dependencies: Vec<String>,
}

/// The whole checkout.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Source files (`.rs`) and pages (`.md`), by path.
    pub files: Vec<File>,
    /// Crates by name.
    pub crates: BTreeMap<String, Crate>,
    /// What lies at the top, dot-files left out.
    pub top: Vec<String>,
}

/// Folders that hold what was made, not what was written.
const SKIPPED: [&str; 4] = ["target", "build", "node_modules", "__pycache__"];

impl Tree {
    /// Reads the checkout at `root`.
    pub fn read(root: &Path) -> io::Result<Tree> {
        let mut tree = Tree::default();
        for entry in fs::read_dir(root)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
                tree.top.push(name);
            }
        }
        tree.top.sort();
        tree.walk(root, "")?;
        tree.files.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(tree)
    }

    fn walk(&mut self, root: &Path, folder: &str) -> io::Result<()> {
        for entry in fs::read_dir(root.join(folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || SKIPPED.contains(&name.as_str()) {
                continue;
            }
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.walk(root, &path)?;
            } else if kind.is_file() {
                self.take(root, path, &name)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, root: &Path, path: String, name: &str) -> io::Result<()> {
        if name == "Cargo.toml" {
            let text = fs::read_to_string(root.join(&path))?;
            if let Some((name, found)) = manifest(&path, &text) {
                self.crates.insert(name, found);
            }
        } else if name.ends_with(".rs") || name.ends_with(".md") {
            let text = fs::read_to_string(root.join(&path))?;
            self.files.push(File { path, text });
        }
        Ok(())
    }
}

/// Reads a crate's manifest; `None` for the workspace's own.
pub(crate) fn manifest(path: &str, text: &str) -> Option<(String, Crate)> {
    let table: toml::Table = text.parse().ok()?;
    let package = table.get("package")?;
    let name = package.get("name")?.as_str()?.to_owned();
    let layer = package.get("metadata").and_then(|metadata| metadata.get("layer")).and_then(toml::Value::as_integer);
    let mut dependencies = Vec::new();
    for section in ["dependencies", "build-dependencies"] {
        if let Some(names) = table.get(section).and_then(toml::Value::as_table) {
            dependencies.extend(names.keys().cloned());
        }
    }
    dependencies.sort();
    let folder = path.trim_end_matches("/Cargo.toml").to_owned();
    Some((name, Crate { folder, layer, dependencies }))
}
