//! The update file of an image: `image key` and `image bundle`.
//!
//! Start at [`make`]. What a bundle carries is slot a of the disk, so a board that was flashed with an image and one that was
//! updated to it run the same bytes, and say the same digest.
//!
//! Not here: the file's format (`bundle`, the crate).

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use board::Board;
use bundle::head::CHUNK_BYTES;
use bundle::{Digest, Head, Secret};

use crate::error::{Doing, Result, wrong};
use crate::layout::{Layout, SECTOR};

/// Raised with the release after which no older one may run any more.
pub const SECURITY_EPOCH: u32 = 1;
/// A slow board with a full cluster is ready after a minute or two.
pub const CONFIRM_WITHIN_S: u32 = 600;

/// What a bundle says of its image beyond the bytes.
#[derive(Clone, Debug)]
pub struct About {
    /// The version; made of the image's bytes where nobody says one.
    pub version: Option<String>,
    /// The security epoch.
    pub security_epoch: u32,
    /// The image must have proved itself within so many seconds.
    pub confirm_within_s: u32,
}

impl Default for About {
    fn default() -> About {
        About { version: None, security_epoch: SECURITY_EPOCH, confirm_within_s: CONFIRM_WITHIN_S }
    }
}

/// Makes a pair of keys: the secret one at `path`, the one to trust beside it, named `.pub`.
pub fn key(path: &Path) -> Result<PathBuf> {
    let secret = Secret::generate().map_err(|error| wrong(error.to_string()))?;
    let public = PathBuf::from(format!("{}.pub", path.display()));
    let told = format!("write the key {}", path.display());
    let mut file = File::options().create_new(true).write(true).mode(0o600).open(path).doing(&told)?;
    file.write_all(secret.to_text().as_bytes()).doing(told)?;
    fs::write(&public, format!("{}\n", secret.public())).doing(format_args!("write {}", public.display()))?;
    Ok(public)
}

/// Writes the bundle of the image in slot a of `disk`; gives back its digest.
pub fn make(board: &Board, layout: &Layout, disk: &Path, about: &About, key: &Path, out: &Path) -> Result<Digest> {
    let text = fs::read_to_string(key).doing(format_args!("read the key {}", key.display()))?;
    let key = Secret::parse(&text).map_err(|error| wrong(format_args!("{}: {error}", key.display())))?;
    let mut image = Image::open(disk, layout)?;
    let head = head(board, about, &mut image)?;
    let file = File::create(out).doing(format_args!("write {}", out.display()))?;
    let made = bundle::write(head, &mut image, Some(&key), &mut BufWriter::new(file));
    made.map_err(|error| wrong(format_args!("failed to make {}: {}", out.display(), base::chain(&error))))
}

/// What the slot of a new disk says of itself, unsigned: whoever writes the whole disk is trusted.
pub(crate) fn put_head(board: &Board, layout: &Layout, disk: &Path) -> Result<()> {
    let head = head(board, &About::default(), &mut Image::open(disk, layout)?)?;
    let slot = layout.part("slot a");
    let at = (slot.at + slot.sectors) * SECTOR - bundle::head::ROOM;
    let file = File::options().write(true).open(disk).doing("open the disk")?;
    file.write_all_at(&head.encode(None), at).doing("write what the slot holds")
}

fn head(board: &Board, about: &About, image: &mut Image) -> Result<Head> {
    let blank = Head {
        version: String::new(),
        board: board.name.clone(),
        arch: board.architecture.name().to_owned(),
        security_epoch: about.security_epoch,
        confirm_within_s: about.confirm_within_s,
        image_bytes: 0,
        chunk_bytes: CHUNK_BYTES,
        chunks: Vec::new(),
    };
    let mut head = bundle::describe(blank, image).map_err(|error| wrong(base::chain(&error).to_string()))?;
    head.version = about.version.clone().unwrap_or_else(|| version(&head.chunks));
    Ok(head)
}

/// The release and the beginning of a checksum over the image.
fn version(chunks: &[Digest]) -> String {
    let all: Vec<u8> = chunks.iter().flat_map(|digest| digest.0).collect();
    let sum = Digest::of(&all).to_string();
    format!("{}-{}", env!("CARGO_PKG_VERSION"), &sum["sha256:".len()..][..8])
}

/// Slot a of a disk, as far as the image in it reaches.
struct Image {
    disk: File,
    start: u64,
    bytes: u64,
    at: u64,
}

impl Image {
    fn open(disk: &Path, layout: &Layout) -> Result<Image> {
        let file = File::open(disk).doing(format_args!("open {}", disk.display()))?;
        let hashes = layout.contents.hashes;
        let bytes = (hashes.at + hashes.sectors) * SECTOR;
        Ok(Image { disk: file, start: layout.part("slot a").at * SECTOR, bytes, at: 0 })
    }
}

impl Read for Image {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.bytes - self.at).unwrap_or(usize::MAX).min(into.len());
        let count = self.disk.read_at(&mut into[..room], self.start + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Image {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.filter(|at| *at <= self.bytes).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tree;
    use crate::layout::{Artifacts, plan};

    /// A board, a small disk for it, and a folder with both and a pair of keys.
    fn disk() -> (Board, Layout, tempfile::TempDir) {
        let board = board::read(&Tree::ours().boards(), "qemu-arm64").unwrap();
        let artifacts = Artifacts { kernel: 100_000, initramfs: 70_001, devicetree: 0, root: 409_600, hashes: 8192 };
        let layout = plan(&board, &artifacts).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("disk")).unwrap();
        file.set_len(layout.sectors() * SECTOR).unwrap();
        let slot = layout.part("slot a").at * SECTOR;
        file.write_all_at(&layout.contents.encode(), slot).unwrap();
        file.write_all_at(&[7; 300_000], slot + 200_000).unwrap();
        key(&folder.path().join("key")).unwrap();
        (board, layout, folder)
    }

    fn made(about: &About) -> (Head, Vec<u8>) {
        let (board, layout, folder) = disk();
        let path = |name: &str| folder.path().join(name);
        let digest = make(&board, &layout, &path("disk"), about, &path("key"), &path("out")).unwrap();
        let trusted = bundle::trusted(&fs::read_to_string(path("key.pub")).unwrap()).unwrap();
        let mut bundle = bundle::Bundle::open(File::open(path("out")).unwrap(), &trusted).unwrap();
        bundle.verify().unwrap();
        assert_eq!(bundle.digest(), digest);
        // The same image and key give the same bytes.
        make(&board, &layout, &path("disk"), about, &path("key"), &path("again")).unwrap();
        let bytes = fs::read(path("out")).unwrap();
        assert!(fs::read(path("again")).unwrap() == bytes);
        (bundle.head().clone(), bytes)
    }

    #[test]
    fn a_bundle_is_made_of_slot_a_and_the_same_each_time() {
        let (head, bytes) = made(&About::default());
        let room = 8 * SECTOR + 102_400 + 73_728 + 409_600 + 8192;
        assert_eq!((head.board.as_str(), head.arch.as_str(), head.image_bytes), ("qemu-arm64", "arm64", room));
        assert!(head.version.starts_with(concat!(env!("CARGO_PKG_VERSION"), "-")), "{}", head.version);
        assert!((bytes.len() as u64) < room, "parts that are the same are in it once");
    }

    #[test]
    fn what_is_said_of_an_image_is_in_its_head() {
        let about = About { version: Some("7".into()), security_epoch: 9, confirm_within_s: 60 };
        let (head, _) = made(&about);
        assert_eq!((head.version.as_str(), head.security_epoch, head.confirm_within_s), ("7", 9, 60));
    }

    #[test]
    fn a_flashed_slot_says_the_digest_of_the_bundle() {
        let (board, layout, folder) = disk();
        let path = |name: &str| folder.path().join(name);
        put_head(&board, &layout, &path("disk")).unwrap();
        let about = About::default();
        let digest = make(&board, &layout, &path("disk"), &about, &path("key"), &path("out")).unwrap();
        let slot = layout.part("slot a");
        let mut bytes = vec![0; bundle::head::ROOM as usize];
        let end = (slot.at + slot.sectors) * SECTOR;
        File::open(path("disk")).unwrap().read_exact_at(&mut bytes, end - bundle::head::ROOM).unwrap();
        assert_eq!(Head::decode(&bytes).unwrap().1, digest);
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let (_, _, folder) = disk();
        let path = folder.path().join("key");
        let before = fs::read(&path).unwrap();
        assert!(key(&path).unwrap_err().to_string().starts_with("failed to write the key"));
        assert!(fs::read(&path).unwrap() == before);
    }
}
