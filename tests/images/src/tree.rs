//! A file system as a value, and as the layer of an image.
//!
//! Start at [`Tree::insert`] and [`Tree::layer`].
//!
//! Invariants:
//! * a folder comes before what lies in it;
//! * names are sorted, times are zero, owners are root: the same tree gives the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Something in a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Folder,
    /// A file.
    File {
        /// Its mode.
        mode: u32,
        /// What it holds.
        bytes: Vec<u8>,
    },
    /// A symbolic link.
    Link {
        /// Where it points.
        target: String,
    },
}

/// A file system: entries by path, without a leading `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// Puts an entry in, and the folders above it.
    pub fn insert(&mut self, path: &str, entry: Entry) {
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            self.0.entry(parent.to_owned()).or_insert(Entry::Folder);
            above = parent;
        }
        self.0.insert(path.to_owned(), entry);
    }

    /// The entry at a path.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.0.get(path)
    }

    /// Takes from an unpacked package what begins with one of `kept`.
    pub fn take(&mut self, root: &Path, kept: &[String]) -> io::Result<()> {
        self.walk(root, "", kept)
    }

    fn walk(&mut self, root: &Path, folder: &str, kept: &[String]) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(root.join(folder))?.collect::<Result<_, _>>()?;
        names.sort_by_key(fs::DirEntry::file_name);
        for each in names {
            let name = each.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let kind = each.file_type()?;
            if kind.is_dir() {
                self.walk(root, &path, kept)?;
            } else if kept.iter().any(|prefix| path.starts_with(prefix.as_str())) {
                let entry = if kind.is_symlink() {
                    Entry::Link { target: fs::read_link(each.path())?.to_string_lossy().into_owned() }
                } else {
                    let mode = each.metadata()?.permissions().mode() & 0o7777;
                    Entry::File { mode, bytes: fs::read(each.path())? }
                };
                self.insert(&path, entry);
            }
        }
        Ok(())
    }

    /// The tree as a tar archive.
    pub fn layer(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            match entry {
                Entry::Folder => {
                    header.set_entry_type(tar::EntryType::Directory);
                    // Anybody may write to /tmp, and remove only what is theirs.
                    header.set_mode(if path == "tmp" { 0o1777 } else { 0o755 });
                    header.set_size(0);
                    archive.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Entry::File { mode, bytes } => {
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    archive.append_data(&mut header, path, bytes.as_slice())?;
                }
                Entry::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        archive.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_lies_in_them() {
        let mut tree = Tree::default();
        tree.insert("a/b/c", Entry::File { mode: 0o644, bytes: b"x".to_vec() });
        let layer = tree.layer().expect("a layer");
        let mut archive = tar::Archive::new(layer.as_slice());
        let path = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            entry.expect("an entry").path().expect("a path").display().to_string()
        };
        let paths: Vec<String> = archive.entries().expect("entries").map(path).collect();
        assert_eq!(paths, ["a/", "a/b/", "a/b/c"]);
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let mut tree = Tree::default();
        tree.insert("bin/sh", Entry::Link { target: "busybox".into() });
        assert_eq!(tree.layer().expect("a layer"), tree.clone().layer().expect("a layer"));
    }
}
