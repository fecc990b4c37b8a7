//! Terminals.
//!
//! Start at [`open_in`]: the pair is made in the devpts of the folder given, so that its name means something inside.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Doing, Result};

/// Opens a new terminal of the devpts at `folder`: the side for us, the side for the process, and its number.
pub fn open_in(folder: &Path) -> Result<(OwnedFd, OwnedFd, u32)> {
    open(folder).doing_to("open a terminal in", folder)
}

fn open(folder: &Path) -> io::Result<(OwnedFd, OwnedFd, u32)> {
    let ours: File =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(folder.join("ptmx"))?;
    let mut number: libc::c_uint = 0;
    let unlocked: libc::c_int = 0;
    // SAFETY: both pointers are to integers of ours of the type the request names, and live through the calls.
    let answer = unsafe {
        libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTN as _, &raw mut number)
            | libc::ioctl(ours.as_raw_fd(), libc::TIOCSPTLCK as _, &raw const unlocked)
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: a request that takes plain numbers and gives a descriptor.
    let theirs = unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER as _, flags) };
    if theirs < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel gave us this descriptor just now, and nobody else knows it.
    Ok((ours.into(), unsafe { OwnedFd::from_raw_fd(theirs) }, number))
}

/// Makes `terminal` the controlling terminal of this process's session, which it leads, and its three streams.
pub fn control(terminal: &OwnedFd) -> Result<()> {
    // SAFETY: a request that takes a plain number.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) } != 0 {
        return Err(io::Error::last_os_error()).doing("take the terminal");
    }
    set_streams(terminal, terminal, terminal)
}

/// Makes these the three streams of this process.
pub fn set_streams(stdin: &impl AsFd, stdout: &impl AsFd, stderr: &impl AsFd) -> Result<()> {
    nix::unistd::dup2_stdin(stdin).doing("set stdin")?;
    nix::unistd::dup2_stdout(stdout).doing("set stdout")?;
    nix::unistd::dup2_stderr(stderr).doing("set stderr")
}

/// Sets a terminal's size.
pub fn resize(terminal: &impl AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointer is to a winsize of ours that lives through the call.
    match unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ as _, &raw const size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).doing("set the terminal's size"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_is_typed_arrives() {
        let (ours, theirs, _) = open_in(Path::new("/dev/pts")).expect("a terminal");
        resize(&ours, 100, 40).expect("resized");
        File::from(ours.try_clone().expect("a copy")).write_all(b"hello\n").expect("typed");
        let mut line = [0; 6];
        File::from(theirs).read_exact(&mut line).expect("read");
        assert_eq!(&line, b"hello\n");
    }
}
