//! Bundles for a machine under test: good ones and bad ones, put onto its data partition while it is off.
//!
//! Start at [`Bundles::of`].

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::PathBuf;
use std::process::Command;

use bundle::head::CHUNK_BYTES;
use bundle::{Digest, Head, Secret};
use image::Tree;
use slots::Extent;

use crate::{Bench, SECTOR};

/// The bundles' folder as the machine sees it.
pub const FOLDER: &str = "/data/";
/// How long a test's image may take to prove itself. Emulated, and with pods to start again.
pub const CONFIRM_WITHIN_S: u32 = 45;

/// A key for the tests, made once, so that images that trust it need not be made again.
pub fn tree_and_key() -> (Tree, Secret) {
    let mut tree = Tree::ours();
    let path = tree.build.join("update-test-key");
    fs::create_dir_all(&tree.build).expect("the build folder");
    if !path.exists() {
        image::bundle::key(&path).expect("a key is made");
    }
    let key = Secret::parse(&fs::read_to_string(&path).expect("the key is there")).expect("it is a key");
    tree.trusted = format!("{}\n", key.public());
    (tree, key)
}

/// An archive as the kernel reads one after another, of one file.
pub fn archive_of(path: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = image::cpio::Archive::default();
    archive.file(path, 0o755, content);
    archive.finish()
}

/// The bundles of a machine's image.
pub struct Bundles<'a> {
    bench: &'a Bench,
    key: &'a Secret,
    folder: tempfile::TempDir,
}

impl<'a> Bundles<'a> {
    /// For a machine that is off.
    pub fn of(bench: &'a Bench, key: &'a Secret) -> Bundles<'a> {
        Bundles { bench, key, folder: tempfile::tempdir().expect("a folder") }
    }

    /// The image itself, under another version.
    pub fn same(&self, version: &str) -> Digest {
        let (_, slot) = self.bench.slot_image(&[]);
        self.put(version, 1, &slot, self.key)
    }

    /// The image with `more` after its initramfs.
    pub fn with(&self, version: &str, more: &[u8]) -> Digest {
        let (_, slot) = self.bench.slot_image(more);
        self.put(version, 1, &slot, self.key)
    }

    /// A small file of a security epoch that nobody has any more, and one that a stranger signed.
    pub fn refused(&self) {
        self.put("downgrade", 0, &[1; 8192], self.key);
        self.put("stranger", 1, &[1; 8192], &Secret::generate().expect("a key"));
    }

    fn put(&self, version: &str, security_epoch: u32, image: &[u8], key: &Secret) -> Digest {
        let about = Head {
            version: version.into(),
            board: self.bench.board.name.clone(),
            arch: "arm64".into(),
            security_epoch,
            confirm_within_s: CONFIRM_WITHIN_S,
            image_bytes: 0,
            chunk_bytes: CHUNK_BYTES,
            chunks: vec![],
        };
        let path: PathBuf = self.folder.path().join(version);
        let mut file = std::io::BufWriter::new(File::create(&path).expect("a file"));
        let digest = bundle::write(about, &mut Cursor::new(image), Some(key), &mut file).expect("a bundle");
        file.flush().expect("written");
        let disk = format!("{}?offset={}", self.bench.files().disk.display(), self.bench.start_of("data") * SECTOR);
        let words = format!("write {} {version}", path.display());
        let said = Command::new("debugfs")
            .args(["-w", "-R", &words, &disk])
            .env("PATH", "/sbin:/usr/sbin:/bin:/usr/bin")
            .output()
            .expect("debugfs runs");
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(
            said.status.success()
                && !errors.contains("rror")
                && !errors.contains("No space")
                && !errors.contains("exists"),
            "{errors}"
        );
        fs::remove_file(path).expect("removed");
        digest
    }
}

impl Bench {
    /// Slot a as it lies on the disk, with `more` after the initramfs, and what lies where in it.
    pub(crate) fn slot_image(&self, more: &[u8]) -> (slots::Contents, Vec<u8>) {
        let mut contents = self.image.layout.contents;
        let end = contents.hashes.at + contents.hashes.sectors;
        let mut slot = self.read(self.start_of("slot a"), end);
        if !more.is_empty() {
            let initramfs = usize::try_from(contents.initramfs.at * SECTOR).expect("small");
            let bytes = usize::try_from(contents.initramfs_bytes).expect("small");
            let longer = [&slot[initramfs..initramfs + bytes], more].concat();
            contents.initramfs_bytes = longer.len() as u64;
            contents.initramfs = Extent { at: end, sectors: contents.initramfs_bytes.div_ceil(SECTOR) };
            slot.extend(longer);
            slot.resize(slot.len().next_multiple_of(SECTOR as usize), 0);
            slot[..slots::sector::BYTES].copy_from_slice(&contents.encode());
        }
        (contents, slot)
    }
}
