//! What a process may do: capabilities and system call filters.
//!
//! Start at [`Capabilities`] and [`install_filter`].

use std::fs;
use std::io;

use crate::error::{Doing, Result};

/// Every capability by name, at the place of its number.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Every capability this kernel knows.
    pub fn all() -> Capabilities {
        let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|text| text.trim().parse().ok());
        let last: u32 = last.unwrap_or(CAPABILITIES.len() as u32 - 1);
        Capabilities(u64::MAX >> (63 - last.min(63)))
    }

    /// The capability called `name`, with or without `CAP_`, in any case.
    pub fn named(name: &str) -> Option<Capabilities> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        CAPABILITIES.iter().position(|each| *each == bare).map(|number| Capabilities(1 << number))
    }

    /// Both.
    pub const fn with(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }

    /// This less the other.
    pub const fn without(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & !other.0)
    }
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

/// What this process may do at most: the machine (or whoever runs us) may have taken something away.
pub fn held_capabilities() -> Result<Capabilities> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: header and data have the layout of version 3 (two words each) and live through the call.
    match unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) } {
        0 => Ok(Capabilities(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)),
        _ => Err(io::Error::last_os_error()).doing("read the capabilities"),
    }
}

/// Nothing this process runs can ever have more than `set`.
pub fn bound_capabilities(set: Capabilities) -> Result<()> {
    let dropped = Capabilities::all().without(set).0;
    for number in (0..64).filter(|number| dropped & (1 << number) != 0) {
        // SAFETY: a call with plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error()).doing(format_args!("drop capability {number}"));
        }
    }
    Ok(())
}

/// Sets what this process may do now (`effective` and `permitted`); inheritable and ambient become empty.
pub fn set_capabilities(set: Capabilities) -> Result<()> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |word: u32| CapData { effective: word, permitted: word, inheritable: 0 };
    let data = [half(set.0 as u32), half((set.0 >> 32) as u32)];
    // SAFETY: header and data have the layout of version 3 (two words each) and live through the call.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).doing("set the capabilities"),
    }
}

/// An instruction of a classic BPF program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// Instructions skipped if true.
    pub if_true: u8,
    /// Instructions skipped if false.
    pub if_false: u8,
    /// Its operand.
    pub operand: u32,
}

#[repr(C)]
struct Program {
    length: u16,
    first: *const Instruction,
}

/// The kernel takes programs of at most so many instructions.
pub const FILTER_INSTRUCTIONS_MAX: usize = 4096;

/// Puts every later system call of this process through `program`, for ever. `flags` are those of `seccomp(2)`.
pub fn install_filter(program: &[Instruction], flags: u32) -> Result<()> {
    assert!(
        program.len() <= FILTER_INSTRUCTIONS_MAX,
        "the kernel takes {FILTER_INSTRUCTIONS_MAX} instructions at most"
    );
    let filter = Program { length: program.len() as u16, first: program.as_ptr() };
    // SAFETY: the structure has the layout of sock_fprog and points to as many instructions as it says; both live through
    // the call, and the kernel checks the program itself.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).doing("install the system call filter"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_names() {
        assert_eq!(Capabilities::named("CAP_NET_ADMIN"), Some(Capabilities(1 << 12)));
        assert_eq!(Capabilities::named("checkpoint_restore"), Some(Capabilities(1 << 40)));
        assert_eq!(Capabilities::named("FLY"), None);
        assert!(Capabilities::all().0 >= (1 << 41) - 1);
    }
}
