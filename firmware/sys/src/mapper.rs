//! Block devices made of others: the kernel's device mapper, with no library and no udev between.
//!
//! Start at [`linear`] and [`verity`]. Each makes one read-only device of one target and gives back its path, which is made
//! here, under `/dev/mapper`: on a board nobody else would.
//!
//! Invariant: what these make is read-only for ever.
//!
//! See Documentation/admin-guide/device-mapper in the kernel's tree.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};

const CONTROL: &str = "/dev/mapper/control";
/// The interface's version that this was written for; the kernel refuses another major number only.
const VERSION: [u32; 3] = [4, 0, 0];
const HEADER_BYTES: usize = 312;
const SPEC_BYTES: usize = 40;
const NAME_BYTES_MAX: usize = 127;
const TARGET_NAME_BYTES: usize = 16;
const FLAG_READONLY: u32 = 1;
const COMMAND_CREATE: u8 = 3;
const COMMAND_SUSPEND: u8 = 6;
const COMMAND_TABLE_LOAD: u8 = 9;
/// `_IOWR(0xfd, n, struct dm_ioctl)`.
const REQUEST_BASE: libc::c_ulong = 0xc138_fd00;

/// A verified device: data, and the tree of hashes over it, both of 4096-byte blocks, hashed by SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verity<'a> {
    /// The device that holds the data from its first byte on.
    pub data: &'a Path,
    /// The device that holds the hash tree.
    pub hashes: &'a Path,
    /// How many blocks of data there are.
    pub blocks: u64,
    /// The block of `hashes` at which the tree begins.
    pub hash_block: u64,
    /// The hash of everything, in hexadecimal.
    pub root_hash: &'a str,
    /// The salt, in hexadecimal.
    pub salt: &'a str,
}

/// A device `name` that shows `sectors` of `of` from `first` on.
pub fn linear(name: &str, of: &Path, first: u64, sectors: u64) -> Result<PathBuf> {
    make(name, sectors, "linear", &format!("{} {first}", of.display()))
}

/// A device `name` that shows the data and fails the reading of what the hashes do not vouch for.
pub fn verity(name: &str, of: &Verity<'_>) -> Result<PathBuf> {
    make(name, of.blocks * 8, "verity", &verity_table(of))
}

fn verity_table(of: &Verity<'_>) -> String {
    format!(
        "1 {} {} 4096 4096 {} {} sha256 {} {}",
        of.data.display(),
        of.hashes.display(),
        of.blocks,
        of.hash_block,
        of.root_hash,
        if of.salt.is_empty() { "-" } else { of.salt },
    )
}

fn make(name: &str, sectors: u64, target: &str, parameters: &str) -> Result<PathBuf> {
    make_device(name, sectors, target, parameters).doing(format_args!("make the {target} device {name} ({parameters})"))
}

fn make_device(name: &str, sectors: u64, target: &str, parameters: &str) -> io::Result<PathBuf> {
    let control = open_control()?;
    let mut created = message(name, 0, &[])?;
    request(&control, COMMAND_CREATE, &mut created)?;
    let number = u64::from_ne_bytes(created[40..48].try_into().expect("eight bytes"));
    let mut table = message(name, FLAG_READONLY, &[(sectors, target, parameters)])?;
    request(&control, COMMAND_TABLE_LOAD, &mut table)?;
    let mut resume = message(name, 0, &[])?;
    request(&control, COMMAND_SUSPEND, &mut resume)?;
    node(name, number)
}

/// Makes the device's node where it is missing; the number is the kernel's new encoding of major and minor.
fn node(name: &str, number: u64) -> io::Result<PathBuf> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let path = Path::new("/dev/mapper").join(name);
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match mknod(&path, SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), makedev(major, minor)) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(path),
        Err(errno) => Err(errno.into()),
    }
}

fn open_control() -> io::Result<File> {
    if let Err(error) = File::options().read(true).write(true).open(CONTROL) {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        fs::create_dir_all("/dev/mapper")?;
        // The number stands in the kernel's list of misc devices.
        mknod(CONTROL, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(10, 236))?;
    }
    File::options().read(true).write(true).open(CONTROL)
}

/// A `struct dm_ioctl` with its targets behind it.
fn message(name: &str, flags: u32, targets: &[(u64, &str, &str)]) -> io::Result<Vec<u8>> {
    if name.len() > NAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the name is over {NAME_BYTES_MAX} bytes")));
    }
    let mut bytes = vec![0u8; HEADER_BYTES];
    for (sectors, target, parameters) in targets {
        let spec_bytes = (SPEC_BYTES + parameters.len() + 1).next_multiple_of(8);
        let mut spec = vec![0u8; spec_bytes];
        spec[8..16].copy_from_slice(&sectors.to_ne_bytes());
        spec[20..24].copy_from_slice(&(spec_bytes as u32).to_ne_bytes());
        let kind = target.as_bytes();
        assert!(kind.len() < TARGET_NAME_BYTES, "targets' names are the kernel's own and short");
        spec[24..24 + kind.len()].copy_from_slice(kind);
        spec[SPEC_BYTES..SPEC_BYTES + parameters.len()].copy_from_slice(parameters.as_bytes());
        bytes.extend_from_slice(&spec);
    }
    // Room for what the kernel answers behind the header.
    bytes.resize(bytes.len().max(1024), 0);
    for (at, part) in VERSION.iter().enumerate() {
        bytes[at * 4..at * 4 + 4].copy_from_slice(&part.to_ne_bytes());
    }
    let (size, count) = (bytes.len() as u32, targets.len() as u32);
    bytes[12..16].copy_from_slice(&size.to_ne_bytes());
    bytes[16..20].copy_from_slice(&(HEADER_BYTES as u32).to_ne_bytes());
    bytes[20..24].copy_from_slice(&count.to_ne_bytes());
    bytes[28..32].copy_from_slice(&flags.to_ne_bytes());
    bytes[48..48 + name.len()].copy_from_slice(name.as_bytes());
    Ok(bytes)
}

fn request(control: &File, command: u8, bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: `bytes` is a dm_ioctl whose data_size field is its own length, so the kernel stays within it; it lives
    // through the call, and the descriptor is open.
    let answer =
        unsafe { libc::ioctl(control.as_raw_fd(), (REQUEST_BASE | u64::from(command)) as _, bytes.as_mut_ptr()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_its_own_length_and_where_its_targets_begin() {
        let bytes = message("root", 1, &[(16, "linear", "/dev/vda2 8")]).unwrap();
        assert_eq!(u32::from_ne_bytes(bytes[12..16].try_into().unwrap()) as usize, bytes.len());
        assert_eq!(u32::from_ne_bytes(bytes[16..20].try_into().unwrap()), 312);
        assert_eq!(&bytes[48..53], b"root\0");
        assert_eq!(&bytes[312 + 24..312 + 31], b"linear\0");
        assert_eq!(&bytes[312 + 40..312 + 52], b"/dev/vda2 8\0");
    }

    #[test]
    fn a_verity_table_names_blocks_hash_and_salt() {
        let of = Verity {
            data: Path::new("/dev/mapper/slot"),
            hashes: Path::new("/dev/vda2"),
            blocks: 7,
            hash_block: 9,
            root_hash: "ab",
            salt: "",
        };
        assert_eq!(verity_table(&of), "1 /dev/mapper/slot /dev/vda2 4096 4096 7 9 sha256 ab -");
    }

    #[test]
    fn too_long_a_name_is_refused() {
        assert!(message(&"x".repeat(200), 0, &[]).is_err());
    }
}
