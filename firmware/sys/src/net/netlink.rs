//! Netlink messages and the socket that carries them.
//!
//! Start at [`Socket::request`]. A message is a type, flags and a body that is built up with [`Body`]; the answer is the
//! bodies that came back before the acknowledgement.
//!
//! The crates that model netlink type by type were weighed and left: they change shape about monthly, and the nf_tables
//! expressions this project lives on are not in them. What is needed of the format fits this page.
//!
//! See `Documentation/userspace-api/netlink/intro.rst` of the kernel.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt,
};

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
pub const ACK: u16 = 4;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NESTED: u16 = 0x8000;
const HEADER_BYTES: usize = 16;

/// The kernel answers a dump in pieces of at most 32 KiB, or what the receiver offers.
const RECEIVE_BYTES: usize = 64 << 10;

/// Room for a whole ruleset in one batch: a batch must fit the socket's send buffer.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// Which part of the kernel is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes.
    Route,
    /// Netfilter: nftables, conntrack.
    Netfilter,
}

/// A message before it has a sequence number.
#[derive(Clone, Debug)]
pub struct Message {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`; [`REQUEST`] is added.
    pub flags: u16,
    /// What follows the header.
    pub body: Body,
}

/// A message's bytes behind its header: fixed structs, then attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body(Vec<u8>);

impl Body {
    /// An empty body.
    pub fn new() -> Body {
        Body::default()
    }
    /// Begins with a fixed struct.
    pub fn with(bytes: &[u8]) -> Body {
        Body(bytes.to_vec())
    }
    /// Adds an attribute.
    pub fn attr(mut self, kind: u16, payload: &[u8]) -> Body {
        self.put(kind, payload);
        self
    }
    /// Adds an attribute that is a string ended by NUL.
    pub fn text(self, kind: u16, text: &str) -> Body {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }
    /// Adds an attribute that is a 32-bit number in the machine's byte order (routes).
    pub fn u32_native(self, kind: u16, value: u32) -> Body {
        self.attr(kind, &value.to_ne_bytes())
    }
    /// Adds an attribute that is a 32-bit number in network byte order (netfilter).
    pub fn u32_be(self, kind: u16, value: u32) -> Body {
        self.attr(kind, &value.to_be_bytes())
    }
    /// Adds an attribute that is a 64-bit number in network byte order.
    pub fn u64_be(self, kind: u16, value: u64) -> Body {
        self.attr(kind, &value.to_be_bytes())
    }
    /// Adds an attribute that holds attributes.
    pub fn nest(self, kind: u16, inner: Body) -> Body {
        self.attr(kind | NESTED, &inner.0)
    }
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn put(&mut self, kind: u16, payload: &[u8]) {
        let length = u16::try_from(payload.len() + 4).expect("an attribute of ours is smaller than 64 KiB");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// The attributes in `bytes`, as number and payload; stops at the first that makes no sense.
pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some((length, kind)) = two_u16(bytes) {
        let length = usize::from(length);
        let Some(payload) = bytes.get(4..length) else { break };
        found.push((kind & !NESTED, payload));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn two_u16(bytes: &[u8]) -> Option<(u16, u16)> {
    let first = bytes.get(0..2)?.try_into().ok().map(u16::from_ne_bytes)?;
    let second = bytes.get(2..4)?.try_into().ok().map(u16::from_ne_bytes)?;
    Some((first, second))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A netlink socket of the namespace it was opened in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// One message of an answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `nlmsg_type`.
    pub kind: u16,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl Socket {
    /// Opens a socket.
    pub fn open(protocol: Protocol) -> io::Result<Socket> {
        Socket::listening(protocol, 0)
    }

    /// Opens a socket that is told of what happens in these groups, a bit each.
    pub(super) fn listening(protocol: Protocol, groups: u32) -> io::Result<Socket> {
        let protocol = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        // Root may exceed net.core.wmem_max; who may not keeps the default, and large batches fail by themselves.
        let _ = setsockopt(&fd, sockopt::SndBufForce, &SEND_BUFFER_BYTES);
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &SEND_BUFFER_BYTES);
        Ok(Socket { fd, sequence: 0 })
    }

    /// Its descriptor.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Sends one message and gathers what comes back, up to the acknowledgement or the end of the dump.
    pub fn request(&mut self, message: Message) -> io::Result<Vec<Answer>> {
        let dump = message.flags & DUMP == DUMP;
        let message = Message { flags: if dump { message.flags } else { message.flags | ACK }, ..message };
        self.exchange(&[message])
    }

    /// Sends messages as one datagram (an nf_tables batch) and waits until each that asked for one has its
    /// acknowledgement. The first error is the answer.
    pub fn exchange(&mut self, messages: &[Message]) -> io::Result<Vec<Answer>> {
        let mut datagram = Vec::new();
        let first = self.sequence.wrapping_add(1);
        let mut waiting = 0usize;
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            waiting += usize::from(message.flags & (ACK | DUMP) != 0);
            encode(message, self.sequence, &mut datagram);
        }
        sendto(self.fd.as_raw_fd(), &datagram, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        self.gather(first, waiting)
    }

    fn gather(&mut self, first: u32, mut waiting: usize) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        let mut buffer = vec![0u8; RECEIVE_BYTES];
        while waiting > 0 {
            let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some(size) = u32_at(rest, 0).map(|size| size as usize) {
                let (Some(bytes), Some((kind, flags)), Some(sequence)) =
                    (rest.get(..size), two_u16(&rest[4..]), u32_at(rest, 8))
                else {
                    break;
                };
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
                if sequence.wrapping_sub(first) > self.sequence.wrapping_sub(first) {
                    continue; // Left over from an exchange that ended with an error.
                }
                let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
                match kind {
                    NLMSG_ERROR => {
                        acknowledged(body, flags)?;
                        waiting -= 1;
                    }
                    NLMSG_DONE => waiting -= 1,
                    _ => answers.push(Answer { kind, body: body.to_vec() }),
                }
            }
        }
        Ok(answers)
    }
}

/// An acknowledgement is an error of 0; a refusal may carry the kernel's own words.
fn acknowledged(body: &[u8], flags: u16) -> io::Result<()> {
    let code = u32_at(body, 0).map_or(0, |code| code as i32);
    if code == 0 {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(-code);
    match extended(body, flags) {
        Some(words) => Err(io::Error::new(error.kind(), format!("{error}: {words}"))),
        None => Err(error),
    }
}

fn extended(body: &[u8], flags: u16) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let echoed = if flags & NLM_F_CAPPED != 0 { HEADER_BYTES } else { u32_at(body, 4)? as usize };
    let tail = body.get(4 + echoed.next_multiple_of(4)..)?;
    let (_, words) = attributes(tail).into_iter().find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
    Some(String::from_utf8_lossy(words).trim_end_matches('\0').to_owned())
}

fn encode(message: &Message, sequence: u32, out: &mut Vec<u8>) {
    let length = (HEADER_BYTES + message.body.0.len()) as u32;
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&message.kind.to_ne_bytes());
    out.extend_from_slice(&(message.flags | REQUEST).to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&0u32.to_ne_bytes());
    out.extend_from_slice(&message.body.0);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_as_written() {
        let body = Body::new().text(1, "eth0").nest(2, Body::new().u32_be(3, 7));
        let read = attributes(body.bytes());
        assert_eq!(read[0], (1, &b"eth0\0"[..]));
        assert_eq!(attributes(read[1].1), vec![(3, &[0, 0, 0, 7][..])]);
    }

    #[test]
    fn a_torn_attribute_ends_the_list() {
        let body = Body::new().text(1, "eth0");
        assert!(attributes(&body.bytes()[..6]).is_empty());
    }
}
