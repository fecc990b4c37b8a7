//! Messages with descriptors, over unix sockets.
//!
//! Start at [`pair`], [`listen`] and [`connect`]; [`send`] and [`receive`] carry one message each. Sockets keep messages apart
//! (`SOCK_SEQPACKET`), so a message arrives whole or not at all.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    getsockopt, listen as start_listening, recvmsg, sendmsg, socket, socketpair, sockopt,
};

use crate::error::{Doing, Result};

/// A message is at most so long; the kernel's default send buffer holds several.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// A message carries at most so many descriptors.
pub const MESSAGE_FDS_MAX: usize = 16;

/// Two ends of a connection.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).doing("make a pair of sockets")
}

fn new_socket(flags: SockFlag) -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | flags, None)
}

/// An address has room for 108 bytes, and data folders can be deep: the folder is reached through a descriptor.
fn short(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path.file_name().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_PATH).open(parent)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((folder, short))
}

/// A socket that listens at `path`, for its owner alone; what lay there before is replaced.
pub fn listen(path: &Path) -> Result<OwnedFd> {
    let open = || -> io::Result<OwnedFd> {
        let (_folder, near) = short(path)?;
        match fs::remove_file(&near) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = new_socket(SockFlag::SOCK_NONBLOCK)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&near)?)?;
        fs::set_permissions(&near, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        start_listening(&listener, Backlog::new(64)?)?;
        Ok(listener)
    };
    open().doing_to("listen at", path)
}

/// The next caller of a listening socket, if one waits.
pub fn accept(listener: &impl AsFd) -> io::Result<Option<OwnedFd>> {
    match accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
        // SAFETY: the kernel gave us this descriptor just now, and nobody else knows it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A connection to who listens at `path`.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    let open = || -> io::Result<OwnedFd> {
        let (_folder, near) = short(path)?;
        let connection = new_socket(SockFlag::empty())?;
        nix::sys::socket::connect(connection.as_raw_fd(), &UnixAddr::new(&near)?)?;
        Ok(connection)
    };
    open().doing_to("connect to", path)
}

/// Takes over descriptor `number`, which whoever started this process put there. `None` if it is not a socket.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: borrowed for one question only; a number that is no descriptor is answered with an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    getsockopt(&borrowed, sockopt::SockType).ok()?;
    nix::fcntl::fcntl(borrowed, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).ok()?;
    // SAFETY: it is open (asked above), and by the contract of `Spawn` nobody else in this process knows it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets [`receive`] fail with `WouldBlock` when nothing comes for so long, and [`send`] when nobody makes room.
pub fn set_patience(socket: &impl AsFd, limit: std::time::Duration) -> io::Result<()> {
    let limit = nix::sys::time::TimeVal::new(limit.as_secs() as _, limit.subsec_micros() as _);
    nix::sys::socket::setsockopt(&socket.as_fd(), sockopt::SendTimeout, &limit)?;
    Ok(nix::sys::socket::setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &limit)?)
}

/// Says that nothing more will be sent.
pub fn finish_sending(socket: &impl AsFd) -> io::Result<()> {
    Ok(nix::sys::socket::shutdown(socket.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Write)?)
}

/// Sends something of any length as several messages; descriptors go with the first.
pub fn send_long(socket: &impl AsFd, content: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    for (index, part) in content.chunks(MESSAGE_BYTES_MAX).enumerate() {
        send(socket, part, if index == 0 { fds } else { &[] })?;
    }
    finish_sending(socket)
}

/// Receives what [`send_long`] sent, at most `bytes_max`.
pub fn receive_long(socket: &impl AsFd, bytes_max: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut content, mut all_fds) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    while let Some((length, fds)) = receive(socket, &mut buffer)? {
        content.extend_from_slice(&buffer[..length]);
        all_fds.extend(fds);
        if content.len() > bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
        }
    }
    Ok((content, all_fds))
}

/// The user at the other end.
pub fn peer_uid(socket: &impl AsFd) -> io::Result<u32> {
    Ok(getsockopt(&socket.as_fd(), sockopt::PeerCredentials)?.uid())
}

/// Sends one message.
pub fn send(socket: &impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let parts = [IoSlice::new(message)];
    loop {
        match sendmsg::<UnixAddr>(socket.as_fd().as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The next message and its descriptors; `None` when the other end is closed.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = cmsg_space!([RawFd; MESSAGE_FDS_MAX]);
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<UnixAddr>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Ok(found) => {
                let mut fds = Vec::new();
                for message in found.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = message {
                        // SAFETY: the kernel gave us these descriptors with this message; nobody else knows them.
                        fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                if found.flags.contains(MsgFlags::MSG_TRUNC) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
                }
                return Ok((found.bytes > 0).then_some((found.bytes, fds)));
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_message_carries_descriptors() {
        let (left, right) = pair().expect("a pair");
        let (reader, writer) = io::pipe().expect("a pipe");
        send(&left, b"here", &[writer.as_fd()]).expect("sent");
        drop(writer);
        let mut buffer = [0; 16];
        let (length, fds) = receive(&right, &mut buffer).expect("received").expect("a message");
        assert_eq!(&buffer[..length], b"here");
        File::from(fds.into_iter().next().expect("a descriptor")).write_all(b"x").expect("written");
        assert_eq!(io::read_to_string(reader).expect("read"), "x");
        drop(left);
        assert!(receive(&right, &mut buffer).expect("an end").is_none());
    }

    #[test]
    fn a_deep_folder_is_no_hindrance() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep = folder.path().join("d".repeat(120));
        fs::create_dir(&deep).expect("made");
        let listener = listen(&deep.join("socket")).expect("listening");
        let _caller = connect(&deep.join("socket")).expect("connected");
        let called = accept(&listener).expect("accepted").expect("a caller");
        assert_eq!(peer_uid(&called).expect("a user"), nix::unistd::getuid().as_raw());
    }
}
