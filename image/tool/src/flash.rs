//! Writing an image to a card, with the settings of one board, and reading it back.
//!
//! Start at [`flash`].
//!
//! Invariants:
//! * what is refused is refused before the first byte is written ([`crate::device`]);
//! * the beginning of the disk, with its partition table, is wiped first and written last, when all the rest is on the card: a
//!   card pulled out midway is no card of ours, nor any more of the one it was;
//! * what nobody will ever read is not written: of an empty slot only the part that says it is empty;
//! * it is done once every byte was read back from the card, not from memory.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bundle::head::ROOM;
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use settings::{Role, Settings};
use slots::table::Table;
use slots::{Contents, sector};

use crate::device::{self, Kind};
use crate::error::{Doing, Error, Result, wrong};
use crate::host::folder;
use crate::layout::SECTOR;
use crate::shell::{EPOCH, run, tool};

const MIB: u64 = 1 << 20;
/// Written and read at once.
const CHUNK: usize = 4 << 20;
const FIRMWARE: usize = 0;
const SLOTS: [usize; 2] = [1, 2];
const DATA: usize = 3;

/// A run of bytes to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub name: &'static str,
    /// Where it lies, on the card as in the image.
    pub at: u64,
    /// Its length.
    pub bytes: u64,
}

/// What is told on the way: what is done, and how much of how much.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// What lies on a card's boot partition beside what its image brings.
#[derive(Clone, Debug, Default)]
pub struct Brought {
    /// The text of the settings file, in place of the image's.
    pub settings: Option<String>,
    /// Files from here, by the name that each has there.
    pub files: Vec<(String, PathBuf)>,
}

/// Writes `image` to `device` with what is `brought` on its boot partition, and reads it back; `work` is a folder for what is in
/// between.
pub fn flash(image: &Path, device: &Path, brought: &Brought, work: &Path, progress: Progress<'_>) -> Result<()> {
    let pieces = pieces(image)?;
    let needs = pieces.iter().map(|piece| piece.at + piece.bytes).max().unwrap_or(0);
    let target = device::look(device)?;
    if let Some(refusal) = device::refusal(&target, needs) {
        return Err(Error::Device(refusal));
    }
    folder(work)?;
    let firmware = work.join(format!("firmware-{}.fat", std::process::id()));
    let made = firmware_with(image, &pieces, brought, &firmware);
    let done = made.and_then(|()| {
        let card = open(device, &target.kind, needs)?;
        let card = Card { path: device, file: card, may_skip_zeros: target.kind != Kind::Disk };
        card.write(image, &firmware, &pieces, progress)?;
        card.verify(image, &firmware, &pieces, progress)
    });
    // It holds a secret.
    let _absent = fs::remove_file(&firmware);
    done
}

/// The pieces of an image, in the order to write them in: the beginning last.
pub fn pieces(image: &Path) -> Result<Vec<Piece>> {
    let mut file = File::open(image).doing(format_args!("open {}", image.display()))?;
    let mut sector_at = |at: u64| -> Result<sector::Sector> {
        let mut bytes = [0; sector::BYTES];
        file.seek(SeekFrom::Start(at * SECTOR))
            .and_then(|_| file.read_exact(&mut bytes))
            .doing(format_args!("read {}", image.display()))?;
        Ok(bytes)
    };
    let no_image = || wrong(format_args!("{} is no image of ours: it has no partition table", image.display()));
    let table = Table::decode(&sector_at(0)?).filter(|table| table.signature == crate::layout::SIGNATURE);
    let table = table.ok_or_else(no_image)?;
    let part = |index: usize| (u64::from(table.partitions[index].at), u64::from(table.partitions[index].sectors));
    let piece = |name, (at, sectors): (u64, u64)| Piece { name, at: at * SECTOR, bytes: sectors * SECTOR };
    let mut pieces = vec![piece("boot partition", part(FIRMWARE))];
    let slots = [("slot a", "what slot a says"), ("slot b", "what slot b says")];
    for ((name, says), index) in slots.into_iter().zip(SLOTS) {
        let (at, sectors) = part(index);
        let contents = Contents::decode(&sector_at(at)?);
        let used = contents.map_or(MIB / SECTOR, |contents| contents.hashes.at + contents.hashes.sectors);
        pieces.push(piece(name, (at, used.min(sectors))));
        // Its version and security epoch: without them the board would take any older image, or believe those of an older card.
        let room = ROOM / SECTOR;
        pieces.push(piece(says, (at + sectors - room, room)));
    }
    pieces.push(piece("data partition", part(DATA)));
    pieces.push(Piece { name: "partition table and ledger", at: 0, bytes: part(FIRMWARE).0 * SECTOR });
    Ok(pieces)
}

/// The image's boot partition, with what is brought.
fn firmware_with(image: &Path, pieces: &[Piece], brought: &Brought, into: &Path) -> Result<()> {
    let piece = pieces[FIRMWARE];
    let mut from = File::open(image).doing(format_args!("open {}", image.display()))?;
    from.seek(SeekFrom::Start(piece.at)).doing(format_args!("read {}", image.display()))?;
    let mut file = secret(into).doing(format_args!("make {}", into.display()))?;
    let copied = std::io::copy(&mut from.take(piece.bytes), &mut file).doing("copy the boot partition")?;
    if copied != piece.bytes {
        return Err(wrong(format_args!("{} ends within its boot partition", image.display())));
    }
    for (name, from) in &brought.files {
        put(into, from, name).map_err(|error| unfit(from, &error))?;
    }
    let Some(text) = &brought.settings else { return Ok(()) };
    let source = into.with_extension("toml");
    let epoch = std::time::UNIX_EPOCH + std::time::Duration::from_secs(EPOCH);
    let written = secret(&source).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.set_modified(epoch)
    });
    let put = written.doing("write the settings").and_then(|()| put(into, &source, settings::FILE));
    let _absent = fs::remove_file(&source);
    put
}

/// An empty file for what nobody else may read: the settings hold the token to join with.
fn secret(path: &Path) -> std::io::Result<File> {
    File::options().create(true).write(true).truncate(true).mode(0o600).open(path)
}

/// Copies a file into a boot partition.
fn put(partition: &Path, file: &Path, name: &str) -> Result<()> {
    run(tool("mcopy").args(["-m", "-o", "-i"]).arg(partition).arg(file).arg(format!("::{name}"))).map(drop)
}

fn unfit(file: &Path, error: &Error) -> Error {
    let what = format!("{} cannot be put on the boot partition", file.display());
    match error.to_string() {
        told if told.contains("Disk full") => {
            wrong(format_args!("{what}, it is too large: boards/README.md says where large backups go"))
        }
        told => wrong(format_args!("{what}: {told}")),
    }
}

/// Opens the card so that nobody else can mount it meanwhile. A file is made empty: what was in it is no part of the image.
fn open(path: &Path, kind: &Kind, needs: u64) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true);
    let doing = format!("open {} for writing", path.display());
    if *kind == Kind::Disk {
        return options.custom_flags(OFlag::O_EXCL.bits()).open(path).doing(doing);
    }
    let file = options.create(true).truncate(false).open(path).doing(&doing)?;
    let length = file.metadata().doing(&doing)?.len().max(needs);
    file.set_len(0).and_then(|()| file.set_len(length)).doing(format_args!("empty {}", path.display()))?;
    Ok(file)
}

/// An open card.
struct Card<'a> {
    path: &'a Path,
    file: File,
    /// An emptied file reads as zeros where nothing was written.
    may_skip_zeros: bool,
}

impl Card<'_> {
    fn write(&self, image: &Path, firmware: &Path, pieces: &[Piece], progress: Progress<'_>) -> Result<()> {
        let doing = format!("write {}", self.path.display());
        if !self.may_skip_zeros {
            self.wipe_beginning(pieces).doing(&doing)?;
        }
        each_chunk(image, firmware, pieces, "writing", progress, |at, bytes, _| {
            if at == 0 {
                self.file.sync_data().doing(&doing)?;
            }
            if self.may_skip_zeros && bytes.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            let mut file = &self.file;
            file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(bytes)).doing(&doing)
        })?;
        progress("letting it all reach the card", 0, 0);
        self.file.sync_all().doing(&doing)
    }

    /// A used card would still boot midway, from what is left of it and what is new.
    fn wipe_beginning(&self, pieces: &[Piece]) -> std::io::Result<()> {
        let bytes = pieces.iter().filter(|piece| piece.at == 0).map(|piece| piece.bytes).sum();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        std::io::copy(&mut std::io::repeat(0).take(bytes), &mut file)?;
        file.sync_data()
    }

    fn verify(&self, image: &Path, firmware: &Path, pieces: &[Piece], progress: Progress<'_>) -> Result<()> {
        // What was written is in the machine's memory still: that is let go of, so that the card is asked.
        let _asked_anyway = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        let mut found = vec![0; CHUNK];
        each_chunk(image, firmware, pieces, "reading back", progress, |at, bytes, piece| {
            let found = &mut found[..bytes.len()];
            let mut file = &self.file;
            file.seek(SeekFrom::Start(at))
                .and_then(|_| file.read_exact(found))
                .doing(format_args!("read back {}", self.path.display()))?;
            match bytes.iter().zip(&*found).position(|(wanted, found)| wanted != found) {
                None => Ok(()),
                Some(first) => Err(wrong(format_args!(
                    "{} does not hold what was written: its {} differs at byte {}; the card is worn out or not of the size it says",
                    self.path.display(),
                    piece.name,
                    at + first as u64
                ))),
            }
        })
    }
}

/// Calls `work` with each chunk of what the card is to hold, and where.
fn each_chunk(
    image: &Path,
    firmware: &Path,
    pieces: &[Piece],
    what: &str,
    progress: Progress<'_>,
    mut work: impl FnMut(u64, &[u8], &Piece) -> Result<()>,
) -> Result<()> {
    let total: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let (mut done, mut buffer) = (0, vec![0; CHUNK]);
    for (index, piece) in pieces.iter().enumerate() {
        let (path, start) = if index == FIRMWARE { (firmware, 0) } else { (image, piece.at) };
        let doing = format!("read {}", path.display());
        let mut from = File::open(path).doing(&doing)?;
        from.seek(SeekFrom::Start(start)).doing(&doing)?;
        let mut left = piece.bytes;
        while left > 0 {
            let chunk = &mut buffer[..left.min(CHUNK as u64) as usize];
            from.read_exact(chunk).doing(&doing)?;
            work(piece.at + piece.bytes - left, chunk, piece)?;
            left -= chunk.len() as u64;
            done += chunk.len() as u64;
            progress(what, done, total);
        }
    }
    Ok(())
}

/// What is asked for beside or instead of a settings file.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// A settings file.
    pub file: Option<PathBuf>,
    /// Lines as they stand in one, which win over those of the file: name and value.
    pub lines: Vec<(&'static str, String)>,
    /// A file with the token, made with a new one where it is not there.
    pub token_file: Option<PathBuf>,
    /// A backup, and the file with its key: both go on the card.
    pub restore: Option<PathBuf>,
    /// See there.
    pub restore_key: Option<PathBuf>,
}

/// The text and the files for the card. What is wrong is refused: nobody corrects a card that was just made.
pub fn brought(said: &Said) -> Result<Brought> {
    let mut said = said.clone();
    let mut files = Vec::new();
    for (setting, file) in [("restore", said.restore.take()), ("restore_key", said.restore_key.take())] {
        let Some(file) = file else { continue };
        let opened =
            File::open(&file).and_then(|opened| opened.metadata()).doing(format_args!("open {}", file.display()));
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !opened?.is_file() {
            return Err(wrong(format_args!("{} is no file", file.display())));
        }
        said.lines.push((setting, name.clone()));
        files.push((name, file));
    }
    Ok(Brought { settings: text(&said)?, files })
}

/// The text of the card's settings; nothing where nothing was said.
fn text(said: &Said) -> Result<Option<String>> {
    let given = match &said.file {
        Some(path) => Some(fs::read(path).doing(format_args!("read {}", path.display()))?),
        None => None,
    };
    let mut lines = said.lines.clone();
    if let Some(path) = &said.token_file {
        lines.push(("token", token(path)?));
    }
    if lines.is_empty() {
        let Some(bytes) = given else { return Ok(None) };
        checked(&bytes)?;
        // As it is, with its comments.
        return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
    }
    let mut settings = given.map_or(Ok(Settings::default()), |bytes| checked(&bytes))?;
    if lines.iter().any(|(name, _)| *name == "server") {
        settings.role = Role::Agent;
    }
    for (name, value) in &lines {
        settings::set(&mut settings, name, value).map_err(wrong)?;
    }
    if settings.role == Role::Agent && settings.token.is_none() {
        return Err(wrong("an agent needs a token to join with: the server's (--token or --token-file)"));
    }
    let text = settings::file(&settings);
    checked(text.as_bytes())?;
    Ok(Some(text))
}

/// The token in a file, which is made with a new one where it is not there: so that many cards get the same.
fn token(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).doing(format_args!("read {}", path.display())),
    }
    let token = new_token()?;
    let file = File::options().create_new(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| writeln!(file, "{token}")).doing(format_args!("make {}", path.display()))?;
    Ok(token)
}

/// A token nobody can guess: 22 of 36 letters and digits.
pub fn new_token() -> Result<String> {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = File::open("/dev/urandom").doing("open /dev/urandom")?;
    let (mut token, mut byte) = (String::new(), [0]);
    while token.len() < 23 {
        random.read_exact(&mut byte).doing("read /dev/urandom")?;
        // All letters are as likely: 252 is seven times 36.
        if byte[0] < 252 {
            token.push(LETTERS[usize::from(byte[0]) % LETTERS.len()].into());
        }
        if token.len() == 6 {
            token.push('.');
        }
    }
    Ok(token)
}

fn checked(bytes: &[u8]) -> Result<Settings> {
    let (settings, problems) = settings::read(bytes);
    if problems.is_empty() {
        return Ok(settings);
    }
    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Err(wrong(format_args!("the settings are wrong:\n  {}", all.join("\n  "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slots::Extent;
    use slots::table::Partition;

    const TOKEN: &str = "abcdef.0123456789abcdef";

    /// A small disk laid out as ours: 1 MiB a part, 2 MiB a slot, and a slot b that is empty.
    fn image(folder: &Path) -> PathBuf {
        let path = folder.join("disk.img");
        let mut bytes: Vec<u8> = (0..7 * MIB).map(|at| (at / 4096 % 251) as u8).collect();
        let part = |index: usize| Partition {
            kind: 0x83,
            boot: false,
            at: ([1, 2, 4, 6][index] * MIB / SECTOR) as u32,
            sectors: ([1, 2, 2, 1][index] * MIB / SECTOR) as u32,
        };
        let table = Table { signature: crate::layout::SIGNATURE, partitions: [part(0), part(1), part(2), part(3)] };
        let mut first = [0; sector::BYTES];
        table.write(&mut first);
        bytes[..sector::BYTES].copy_from_slice(&first);
        let contents = Contents { hashes: Extent { at: 100, sectors: 28 }, ..Contents::default() };
        let slot = 2 * MIB as usize;
        bytes[slot..slot + sector::BYTES].copy_from_slice(&contents.encode());
        bytes[2 * slot..3 * slot].fill(0);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn flash_to(image: &Path, device: &Path) -> Result<Vec<String>> {
        let mut told = Vec::new();
        flash(image, device, &Brought::default(), &image.with_file_name("work"), &mut |what, done, total| {
            told.push(format!("{what} {}", if total == 0 { 0 } else { done * 100 / total }));
        })?;
        Ok(told)
    }

    #[test]
    fn a_card_holds_what_the_image_holds() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        let card = folder.path().join("card");
        fs::write(&card, vec![0xaa; 8 << 20]).unwrap();
        let told = flash_to(&image, &card).unwrap();
        assert!(
            told.contains(&"writing 100".to_owned()) && told.last() == Some(&"reading back 100".to_owned()),
            "{told:?}"
        );
        assert_eq!(fs::metadata(&card).unwrap().len(), 8 << 20, "a file for a larger card stays one");
        holds(&card, &image);
    }

    #[track_caller]
    fn holds(card: &Path, image: &Path) {
        let (written, wanted) = (fs::read(card).unwrap(), fs::read(image).unwrap());
        for piece in pieces(image).unwrap() {
            let range = piece.at as usize..(piece.at + piece.bytes) as usize;
            assert!(written[range.clone()] == wanted[range], "{}", piece.name);
        }
    }

    /// A file as a disk of the kernel's; dropping it takes that away, and what is mounted of it.
    struct Loop {
        disk: PathBuf,
        mounted: Vec<PathBuf>,
    }

    impl Loop {
        fn of(file: &Path) -> Loop {
            let said = run(tool("losetup").args(["--find", "--show", "--partscan"]).arg(file));
            let disk = said.expect("root has a free loop device here: this machine must offer one").trim().into();
            Loop { disk, mounted: Vec::new() }
        }

        /// Makes a file system in a partition and mounts it.
        fn mount(&mut self, part: &str, at: &Path) -> PathBuf {
            // Not every kernel reads partition tables by itself.
            run(tool("partx").arg("--update").arg(&self.disk)).expect("root may tell the kernel of partitions");
            let part = PathBuf::from(format!("{}{part}", self.disk.display()));
            run(tool("mke2fs").arg("-q").arg(&part)).expect("the kernel has found the partition");
            fs::create_dir(at).unwrap();
            run(tool("mount").arg(&part).arg(at)).expect("root may mount");
            self.mounted.push(at.to_owned());
            part
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let unmounted = self.mounted.iter().map(|at| run(tool("umount").arg(at)));
            let undone = unmounted.chain([run(tool("losetup").arg("--detach").arg(&self.disk))]);
            undone.filter_map(Result::err).for_each(|error| eprintln!("{error}"));
        }
    }

    #[test]
    fn a_loop_device_is_a_card_and_what_is_mounted_of_it_is_safe() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("only root makes loop devices: writing to one was not tried");
        }
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        let card = folder.path().join("card");
        fs::write(&card, vec![0xaa; 4 << 20]).unwrap();
        let device = Loop::of(&card);
        let refused = |device: &Path| flash_to(&image, device).unwrap_err().to_string();
        assert_eq!(refused(&device.disk), format!("{} holds 4 MiB, and the image needs 7", device.disk.display()));
        drop(device);
        fs::write(&card, vec![0xaa; 8 << 20]).unwrap();
        let device = Loop::of(&card);
        let told = flash_to(&image, &device.disk).unwrap();
        assert_eq!(told.last().map(String::as_str), Some("reading back 100"));
        drop(device);
        holds(&card, &image);
        let mut device = Loop::of(&card);
        let at = folder.path().join("mounted");
        let part = device.mount("p2", &at);
        let before = fs::read(&card).unwrap();
        let why = format!("in use: {} is mounted on {at}; `umount {at}` first", part.display(), at = at.display());
        assert_eq!(refused(&device.disk), format!("{} is {why}", device.disk.display()));
        assert_eq!(refused(&card), format!("{} is {why}", card.display()));
        let disk = device.disk.display();
        let why = format!("is a partition: nothing boots from an image in one; the whole of {disk} is meant, perhaps");
        assert_eq!(refused(&part), format!("{} {why}", part.display()));
        assert!(fs::read(&card).unwrap() == before, "nothing was written");
        run(tool("umount").arg(&at)).unwrap();
        device.mounted.clear();
        flash_to(&image, &device.disk).unwrap();
        drop(device);
        holds(&card, &image);
    }

    #[test]
    fn the_beginning_is_written_last_and_only_what_is_read_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let pieces = pieces(&image(folder.path())).unwrap();
        let rows: Vec<(&str, u64, u64)> = pieces.iter().map(|piece| (piece.name, piece.at, piece.bytes)).collect();
        let expected = [
            ("boot partition", MIB, MIB),
            ("slot a", 2 * MIB, 128 * SECTOR),
            ("what slot a says", 3 * MIB, MIB),
            ("slot b", 4 * MIB, MIB),
            ("what slot b says", 5 * MIB, MIB),
            ("data partition", 6 * MIB, MIB),
            ("partition table and ledger", 0, MIB),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_used_card_boots_nothing_until_all_of_the_new_image_is_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        let path = folder.path().join("card");
        fs::copy(&image, &path).unwrap();
        let (pieces, firmware) = (pieces(&image).unwrap(), folder.path().join("fat"));
        firmware_with(&image, &pieces, &Brought::default(), &firmware).unwrap();
        // It ends within the data partition, as a card does that is pulled out there.
        File::options().write(true).open(&image).and_then(|file| file.set_len(6 * MIB + 7)).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let card = Card { path: &path, file, may_skip_zeros: false };
        card.write(&image, &firmware, &pieces, &mut |_, _, _| {}).unwrap_err();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes[..MIB as usize].iter().all(|byte| *byte == 0), "it has no partition table");
        assert!(bytes[MIB as usize..][..MIB as usize].iter().any(|byte| *byte != 0), "only the beginning is wiped");
    }

    #[test]
    fn what_holds_a_secret_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        let mode = secret(&path).and_then(|file| file.metadata()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_card_that_lies_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        let path = folder.path().join("card");
        let (pieces, firmware) = (pieces(&image).unwrap(), folder.path().join("fat"));
        firmware_with(&image, &pieces, &Brought::default(), &firmware).unwrap();
        let card = Card { path: &path, file: open(&path, &Kind::New, 7 * MIB).unwrap(), may_skip_zeros: true };
        card.write(&image, &firmware, &pieces, &mut |_, _, _| {}).unwrap();
        card.verify(&image, &firmware, &pieces, &mut |_, _, _| {}).unwrap();
        let mut file = File::options().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(6 * MIB + 7)).and_then(|_| file.write_all(b"!")).unwrap();
        let error = card.verify(&image, &firmware, &pieces, &mut |_, _, _| {}).unwrap_err().to_string();
        assert!(error.contains("its data partition differs at byte 6291463"), "{error}");
    }

    #[test]
    fn what_is_refused_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        let small = folder.path().join("small");
        fs::write(&small, "mine").unwrap();
        let error = flash_to(&image, &small).unwrap_err().to_string();
        assert_eq!(error, format!("{} holds 0 MiB, and the image needs 7", small.display()));
        assert_eq!(fs::read(&small).unwrap(), b"mine");
        let error = flash_to(&small, &folder.path().join("card")).unwrap_err().to_string();
        assert!(error.starts_with("failed to read"), "{error}");
        fs::write(&small, [0; 4096]).unwrap();
        let error = flash_to(&small, &folder.path().join("card")).unwrap_err().to_string();
        assert!(error.ends_with("small is no image of ours: it has no partition table"), "{error}");
        assert!(!folder.path().join("card").exists());
    }

    fn check(file: Option<&str>, lines: &[(&'static str, &str)], expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        if let Some(text) = file {
            fs::write(&path, text).unwrap();
        }
        let lines = lines.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let said = Said { file: file.map(|_| path), lines, ..Said::default() };
        let said = match text(&said) {
            Ok(None) => "nothing".to_owned(),
            Ok(Some(text)) => {
                let said = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
                said.collect::<Vec<_>>().join("; ")
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn settings_come_from_a_file_and_from_words() {
        check(None, &[], "nothing");
        check(Some("hostname = 'a' # mine\n"), &[], "hostname = 'a' # mine");
        check(Some("ntp = ['a']\n"), &[("hostname", "b")], "hostname = \"b\"; role = \"server\"; ntp = [\"a\"]");
        check(
            None,
            &[("server", "10.0.0.1"), ("token", TOKEN)],
            &format!("role = \"agent\"; server = \"10.0.0.1\"; token = \"{TOKEN}\""),
        );
    }

    #[test]
    fn wrong_settings_are_not_written_to_a_card() {
        check(
            Some("hostnam = 'a'\n"),
            &[],
            "the settings are wrong:\n  skerry.toml:1: there is no setting hostnam; hostname is meant, perhaps",
        );
        check(
            None,
            &[("address", "1.2.3")],
            "address is \"1.2.3\", which is no address: `dhcp` is, or one such as 192.168.1.20/24",
        );
        check(None, &[("server", "a")], "an agent needs a token to join with: the server's (--token or --token-file)");
        check(
            None,
            &[("role", "agent"), ("token", TOKEN)],
            "the settings are wrong:\n  skerry.toml:8: an agent needs a server, and none is named: the board starts no cluster and joins none",
        );
    }

    #[test]
    fn many_cards_share_the_token_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let first = token(&path).unwrap();
        assert!(settings::check::token(&first).is_ok(), "{first}");
        assert_eq!(token(&path).unwrap(), first);
        assert_ne!(new_token().unwrap(), new_token().unwrap());
    }
}
