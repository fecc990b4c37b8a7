//! Bundles for machines under test: good ones and bad ones, put onto their data partitions while they are off.
//!
//! Start at [`Bundles::of`].

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use board::Board;
use bundle::head::CHUNK_BYTES;
use bundle::{Digest, Head, Secret};
use image::Tree;
use image::build::Image;
use image::shell::tool;
use slots::Extent;

use crate::{Bench, SECTOR, read_sectors};

/// The bundles' folder as the machine sees it.
pub const FOLDER: &str = "/data/";
/// How long a test's image may take to prove itself. Emulated, and with pods to start again.
pub const CONFIRM_WITHIN_S: u32 = 45;

/// The DaemonSet as users have it.
const MANIFEST: &str = include_str!("../../../cluster/skerry/manifests/update.yaml");

/// A key for the tests, made once, so that images that trust it need not be made again.
pub fn tree_and_key() -> (Tree, Secret) {
    let mut tree = Tree::ours();
    let path = key_path(&tree);
    fs::create_dir_all(&tree.build).expect("the build folder");
    if !path.exists() {
        image::bundle::key(&path).expect("a key is made");
    }
    let key = Secret::parse(&fs::read_to_string(&path).expect("the key is there")).expect("it is a key");
    tree.trusted = format!("{}\n", key.public());
    (tree, key)
}

/// Where the secret of [`tree_and_key`] lies.
pub fn key_path(tree: &Tree) -> PathBuf {
    tree.build.join("update-test-key")
}

/// An archive as the kernel reads one after another, of one file.
pub fn archive_of(path: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = image::cpio::Archive::default();
    archive.file(path, 0o755, content);
    archive.finish()
}

/// The manifest of the DaemonSet for the bundle of this name in [`FOLDER`], which may evict pods that nobody replaces.
pub fn manifest(bundle: &str) -> String {
    let folder = "path: /data/bundles, type: DirectoryOrCreate";
    let (words, name) = (r#"args: ["update-agent", "#, "skerry.bundle");
    assert!([folder, words, name].iter().all(|part| MANIFEST.contains(part)));
    let text = MANIFEST.replace(folder, &format!("path: {FOLDER}, type: Directory"));
    text.replace(words, &format!(r#"{words}"--evict-bare-pods", "#)).replace(name, bundle)
}

/// Bundles for boards of one name, in a folder of their own.
pub struct Bundles {
    board: String,
    arch: &'static str,
    key: Secret,
    confirm_within_s: u32,
    folder: tempfile::TempDir,
}

impl Bundles {
    /// None yet, for boards like this one, signed with `key`.
    pub fn of(board: &Board, key: Secret, confirm_within_s: u32) -> Bundles {
        let (name, arch) = (board.name.clone(), board.architecture.name());
        Bundles { board: name, arch, key, confirm_within_s, folder: tempfile::tempdir().expect("a folder") }
    }

    /// An image under another version, with `more` after its initramfs.
    pub fn add(&self, version: &str, image: &Image, more: &[u8]) -> Digest {
        self.add_signed(version, image, more, &self.key)
    }

    /// The same, signed with another key.
    pub fn add_signed(&self, version: &str, image: &Image, more: &[u8], key: &Secret) -> Digest {
        let (_, slot) = slot_image(image, more);
        self.write(version, 1, &slot, key)
    }

    /// A small file of a security epoch that nobody has any more, and one that a stranger signed.
    pub fn add_refused(&self) {
        self.write("downgrade", 0, &[1; 8192], &self.key);
        self.write("stranger", 1, &[1; 8192], &Secret::generate().expect("a key"));
    }

    /// Where a bundle of this name lies or is to lie.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, version: &str, security_epoch: u32, image: &[u8], key: &Secret) -> Digest {
        let about = Head {
            version: version.into(),
            board: self.board.clone(),
            arch: self.arch.into(),
            security_epoch,
            confirm_within_s: self.confirm_within_s,
            image_bytes: 0,
            chunk_bytes: CHUNK_BYTES,
            chunks: vec![],
        };
        let mut file = std::io::BufWriter::new(File::create(self.path(version)).expect("a file"));
        let digest = bundle::write(about, &mut Cursor::new(image), Some(key), &mut file).expect("a bundle");
        file.flush().expect("written");
        digest
    }

    /// Puts all of them onto the data partition of a disk that no machine uses and that was made of `image`.
    pub fn put_on(&self, disk: &Path, image: &Image) {
        for file in fs::read_dir(self.folder.path()).expect("the folder") {
            let file = file.expect("a file");
            let words = format!("write {} {}", file.path().display(), file.file_name().to_string_lossy());
            data_files(disk, image, &["-w"], &words);
        }
    }
}

/// Does something with the files of the data partition of a disk that no machine uses, in the words of `debugfs`.
pub(crate) fn data_files(disk: &Path, image: &Image, options: &[&str], words: &str) {
    let data = format!("{}?offset={}", disk.display(), image.layout.part("data").at * SECTOR);
    let said = tool("debugfs").args(options).args(["-R", words, &data]).output().expect("debugfs runs");
    let errors = String::from_utf8_lossy(&said.stderr).into_owned();
    let is_wrong = ["rror", "No space", "exists", "not found"].iter().any(|word| errors.contains(word));
    assert!(said.status.success() && !is_wrong, "{words}: {errors}");
}

/// Slot a as it lies in an image, with `more` after the initramfs, and what lies where in it.
pub(crate) fn slot_image(image: &Image, more: &[u8]) -> (slots::Contents, Vec<u8>) {
    let mut contents = image.layout.contents;
    let end = contents.hashes.at + contents.hashes.sectors;
    let mut slot = read_sectors(&image.disk, image.layout.part("slot a").at, end);
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

impl Bench {
    /// Bundles for this machine, signed with `key`.
    pub fn bundles(&self, key: Secret) -> Bundles {
        Bundles::of(&self.board, key, CONFIRM_WITHIN_S)
    }

    /// Puts bundles onto the data partition of this machine, which is off.
    pub fn put(&self, bundles: &Bundles) {
        assert!(self.machine.is_none(), "the machine is off");
        bundles.put_on(&self.files().disk, &self.image);
    }

    /// The image of this machine.
    pub fn image(&self) -> &Image {
        &self.image
    }
}
