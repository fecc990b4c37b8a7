//! The files, as programs see them and as the disk has them.
//!
//! Start at [`Image::operate`], which counts and fails, and [`Image::power_on`], which forgets.

use std::collections::BTreeMap;

use base::Rng;
use fuser::Errno;

use super::{Fault, Kept};

/// The number of the one folder; files have higher ones.
pub const FOLDER: u64 = 1;
/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// The file system's memory.
#[derive(Default)]
pub struct Image {
    pub names: BTreeMap<String, u64>,
    pub files: BTreeMap<u64, Node>,
    pub operations: u64,
    pub fault: Option<(u64, Fault)>,
    disk_names: BTreeMap<String, u64>,
    is_cut: bool,
    created: u64,
}

/// One file.
#[derive(Default)]
pub struct Node {
    /// As programs see it.
    pub bytes: Vec<u8>,
    disk: Vec<u8>,
    /// What is not on the disk yet.
    pending: Vec<Pending>,
}

enum Pending {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Image {
    /// Forgets everything but which numbers were used.
    pub fn clear(&mut self) {
        *self = Image { created: self.created, ..Image::default() };
    }

    /// Counts an operation; the error if it is to fail.
    pub fn operate(&mut self) -> Result<(), Errno> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some((at, Fault::Error | Fault::ErrorThenCut(_))) if number == at => Err(Errno::EIO),
            Some((at, Fault::Full(length))) if (at..at + length).contains(&number) => Err(Errno::ENOSPC),
            Some((at, Fault::Cut)) if number >= at => self.cut(),
            Some((at, Fault::ErrorThenCut(later))) if number >= at + later => self.cut(),
            _ => Ok(()),
        }
    }

    fn cut(&mut self) -> Result<(), Errno> {
        self.is_cut = true;
        Err(Errno::EIO)
    }

    /// An error once the power is gone.
    pub fn powered(&self) -> Result<(), Errno> {
        if self.is_cut { Err(Errno::EIO) } else { Ok(()) }
    }

    pub fn create(&mut self, name: &str) -> Result<u64, Errno> {
        self.operate()?;
        // Numbers are never used again, so that the kernel cannot confuse two files.
        self.created += 1;
        let number = FOLDER + self.created;
        self.files.insert(number, Node::default());
        self.names.insert(name.to_owned(), number);
        Ok(number)
    }

    pub fn write(&mut self, file: u64, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        let failure = self.operate().err();
        // What fails has been written halfway.
        let bytes = if failure.is_some() { &bytes[..bytes.len() / 2] } else { bytes };
        if !self.is_cut {
            self.file(file)?.change(Pending::Write { offset, bytes: bytes.to_vec() });
        }
        failure.map_or(Ok(()), Err)
    }

    pub fn set_length(&mut self, file: u64, length: usize) -> Result<(), Errno> {
        self.operate()?;
        self.file(file)?.change(Pending::Length(length));
        Ok(())
    }

    pub fn sync(&mut self, file: u64) -> Result<(), Errno> {
        let failure = self.operate().err();
        if self.is_cut {
            return Err(Errno::EIO);
        }
        let node = self.file(file)?;
        let pending = std::mem::take(&mut node.pending);
        if let Some(failure) = failure {
            return Err(failure);
        }
        pending.iter().for_each(|each| each.apply(&mut node.disk));
        let names: Vec<String> =
            self.names.iter().filter(|(_, number)| **number == file).map(|(name, _)| name.clone()).collect();
        for name in names {
            // A file that replaced another keeps the old one's name on the disk until the folder is synced.
            self.disk_names.entry(name).or_insert(file);
        }
        Ok(())
    }

    pub fn sync_folder(&mut self) -> Result<(), Errno> {
        self.operate()?;
        self.disk_names = self.names.clone();
        Ok(())
    }

    pub fn unlink(&mut self, name: &str) -> Result<(), Errno> {
        self.operate()?;
        self.names.remove(name).map(|_| ()).ok_or(Errno::ENOENT)
    }

    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), Errno> {
        self.operate()?;
        let number = self.names.remove(from).ok_or(Errno::ENOENT)?;
        self.names.insert(to.to_owned(), number);
        Ok(())
    }

    pub fn file(&mut self, file: u64) -> Result<&mut Node, Errno> {
        self.files.get_mut(&file).ok_or(Errno::ENOENT)
    }

    pub fn power_on(&mut self, kept: Kept) {
        self.fault = None;
        if !std::mem::take(&mut self.is_cut) {
            return;
        }
        let mut rng = Rng::new(if let Kept::Some(seed) = kept { seed } else { 0 });
        for node in self.files.values_mut() {
            node.forget(kept, &mut rng);
        }
        let keeps_names = kept == Kept::All || (kept != Kept::None && rng.chance(1, 2));
        if keeps_names {
            self.disk_names = self.names.clone();
        }
        self.names = self.disk_names.clone();
    }
}

impl Node {
    fn change(&mut self, change: Pending) {
        change.apply(&mut self.bytes);
        self.pending.push(change);
    }

    fn forget(&mut self, kept: Kept, rng: &mut Rng) {
        for pending in std::mem::take(&mut self.pending) {
            match (kept, &pending) {
                (Kept::None, _) => {}
                (Kept::All, _) => pending.apply(&mut self.disk),
                (Kept::Some(_), Pending::Length(_)) if rng.chance(1, 2) => pending.apply(&mut self.disk),
                (Kept::Some(_), Pending::Length(_)) => {}
                (Kept::Some(_), Pending::Write { offset, bytes }) => {
                    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate().filter(|_| rng.chance(1, 2)) {
                        write_at(&mut self.disk, offset + index * SECTOR_BYTES, sector);
                    }
                }
            }
        }
        self.bytes = self.disk.clone();
    }
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Pending::Write { offset, bytes: written } => write_at(bytes, *offset, written),
            Pending::Length(length) => bytes.resize(*length, 0),
        }
    }
}

fn write_at(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    if written.is_empty() {
        return;
    }
    bytes.resize(bytes.len().max(offset + written.len()), 0);
    bytes[offset..offset + written.len()].copy_from_slice(written);
}
