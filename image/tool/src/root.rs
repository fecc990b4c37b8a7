//! The root file system: what is in it, and the read-only image of it.
//!
//! Start at [`Root`]; [`Root::write`] streams it as a tar archive into the distribution's `sqfstar`, so that owners, modes
//! and attributes need no root rights.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::error::{Doing, Error, Result};
use crate::preload::{FOLDER, Images, append_layer, recipe};
use crate::shell::{EPOCH, tool};

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Folder {
        /// Its rights.
        mode: u32,
    },
    /// A file of this machine.
    Copy {
        /// Where it lies.
        from: PathBuf,
        /// Its rights.
        mode: u32,
    },
    /// A small file.
    Text(String),
    /// The same of bytes that are no text.
    Bytes(Vec<u8>),
    /// A symbolic link.
    Link(String),
}

/// A root file system.
#[derive(Clone, Debug, Default)]
pub struct Root {
    /// Entries by path, without leading slash.
    entries: BTreeMap<String, Entry>,
    /// Layers of container images, tars, by the path they lie below.
    layers: BTreeMap<String, Vec<u8>>,
}

impl Root {
    /// Puts `entry` at `path` and makes the folders above it.
    pub fn add(&mut self, path: &str, entry: Entry) {
        let mut above = Path::new(path).parent();
        while let Some(folder) = above.filter(|folder| !folder.as_os_str().is_empty()) {
            self.entries.entry(folder.display().to_string()).or_insert(Entry::Folder { mode: 0o755 });
            above = folder.parent();
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Puts a small text at `path`.
    pub fn text(&mut self, path: &str, text: impl Into<String>) {
        self.add(path, Entry::Text(text.into()));
    }

    /// Puts the images of an archive where the image store looks for the firmware's.
    pub fn add_images(&mut self, images: Images) -> Result<()> {
        for (id, record) in images.records {
            self.text(&format!("{FOLDER}/images/{id}.json"), record);
        }
        for (digest, document) in images.documents {
            self.add(&format!("{FOLDER}/documents/{digest}"), Entry::Bytes(document));
        }
        for (digest, layer) in images.layers {
            let folder = format!("{FOLDER}/layers/{digest}");
            let path = format!("{folder}/fs");
            if let Some(recipe) = recipe(&layer).doing(format_args!("read layer {digest}"))? {
                self.add(&format!("{folder}/recipe"), Entry::Bytes(recipe));
            }
            self.text(&format!("{folder}/size"), layer.len().to_string());
            self.add(&path, Entry::Folder { mode: 0o755 });
            self.layers.insert(path, layer);
        }
        Ok(())
    }

    /// The entries; a layer is its folder here, named after what is in it.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Makes the read-only image of it at `into`.
    ///
    /// Every date is [`EPOCH`], those in images' layers too: sqfstar 4.5 leaves no other way to date the root folder.
    pub fn write(&self, into: &Path) -> Result<()> {
        let _absent = fs::remove_file(into);
        let epoch = EPOCH.to_string();
        let log = into.with_extension("log");
        let said = File::create(&log).doing(format_args!("write {}", log.display()))?;
        let mut child = tool("sqfstar")
            .args(["-comp", "zstd", "-b", "131072", "-reproducible", "-quiet", "-no-progress"])
            .args(["-mkfs-time", &epoch, "-all-time", &epoch])
            .args(["-root-mode", "755", "-root-uid", "0", "-root-gid", "0"])
            .arg(into)
            .env_remove("SOURCE_DATE_EPOCH")
            .stdin(Stdio::piped())
            .stdout(said.try_clone().doing("share a log")?)
            .stderr(said)
            .spawn()
            .doing("start sqfstar")?;
        let written = child.stdin.take().map_or(Ok(()), |stdin| self.tar(io::BufWriter::new(stdin)));
        let status = child.wait().doing("wait for sqfstar")?;
        if !status.success() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(Error::Program { program: "sqfstar".into(), said: format!("{status}: {}", said.trim()) });
        }
        written
    }

    /// The archive of it, everything owned by root and dated [`EPOCH`].
    pub fn tar(&self, into: impl io::Write) -> Result<()> {
        let mut archive = tar::Builder::new(into);
        for (path, entry) in self.entries() {
            append(&mut archive, path, entry).doing(format_args!("pack {path}"))?;
        }
        for (path, layer) in &self.layers {
            append_layer(&mut archive, path, layer).doing(format_args!("pack {path}"))?;
        }
        archive.into_inner().and_then(|mut inner| inner.flush()).doing("pack the root")
    }
}

fn append<W: io::Write>(archive: &mut tar::Builder<W>, path: &str, entry: &Entry) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(EPOCH);
    header.set_size(0);
    match entry {
        Entry::Folder { mode } => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            archive.append_data(&mut header, format!("{path}/"), io::empty())
        }
        Entry::Copy { from, mode } => {
            let mut file = File::open(from)?;
            header.set_mode(*mode);
            header.set_size(file.metadata()?.len());
            let size = file.metadata()?.len();
            archive.append_data(&mut header, path, (&mut file).take(size))
        }
        Entry::Text(text) => append_bytes(archive, header, path, text.as_bytes()),
        Entry::Bytes(bytes) => append_bytes(archive, header, path, bytes),
        Entry::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, path, target)
        }
    }
}

fn append_bytes<W: io::Write>(
    archive: &mut tar::Builder<W>,
    mut header: tar::Header,
    path: &str,
    bytes: &[u8],
) -> io::Result<()> {
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_above_a_file_are_made() {
        let mut root = Root::default();
        root.text("etc/skerry/board", "name x\n");
        let paths: Vec<&str> = root.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, ["etc", "etc/skerry", "etc/skerry/board"]);
    }

    #[test]
    fn the_same_entries_give_the_same_archive() {
        let mut root = Root::default();
        root.text("etc/hosts", "127.0.0.1 localhost\n");
        root.add("bin/link", Entry::Link("../sbin/skerry-init".into()));
        let archive = || {
            let mut bytes = Vec::new();
            root.tar(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(archive(), archive());
    }

    #[test]
    fn the_same_entries_give_the_same_image() {
        // Part of the set-up; without it there is nothing to test.
        if crate::shell::find("sqfstar").is_none() {
            return;
        }
        let mut root = Root::default();
        root.text("etc/hosts", "127.0.0.1 localhost\n");
        let folder = tempfile::tempdir().unwrap();
        let image = |name: &str| {
            let file = folder.path().join(name);
            root.write(&file).unwrap();
            fs::read(&file).unwrap()
        };
        let first = image("first");
        // The image holds no time of its own, so it must not matter that a second has passed.
        while fs::metadata(folder.path().join("first")).unwrap().modified().unwrap().elapsed().unwrap().as_millis()
            < 1100
        {
            std::thread::yield_now();
        }
        assert!(first == image("second"), "two images of the same entries differ");
    }
}
