//! The initramfs archive: the kernel's own format, "newc".
//!
//! Start at [`Archive`]. Entries keep the order they are added in; every date is [`EPOCH`], every owner root, so the same
//! entries give the same bytes, and devices need no root rights.

use crate::shell::EPOCH;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    /// Adds a folder.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER | 0o755, (0, 0), &[]);
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, FILE | mode, (0, 0), content);
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE | mode, (major, minor), &[]);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        let date = if mode == 0 { 0 } else { EPOCH as u32 };
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            date,
            u32::try_from(content.len()).expect("an initramfs' files are far below 4 GiB"),
            0,
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn archive() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.file("init", 0o755, b"hello");
        archive.finish()
    }

    #[test]
    fn the_same_entries_give_the_same_bytes() {
        assert_eq!(archive(), archive());
        assert_eq!(archive().len() % 512, 0);
        assert!(archive().starts_with(b"070701"));
    }

    #[test]
    fn others_read_it() {
        // cpio itself is rare; busybox has one, and is among the tools an image needs.
        let Some(busybox) = crate::shell::find("busybox") else { return };
        let mut child = Command::new(busybox)
            .args(["cpio", "-t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&archive()).unwrap();
        let listed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(listed, "dev\ndev/console\ninit\n");
    }
}
