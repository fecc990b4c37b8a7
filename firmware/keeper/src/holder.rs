//! What a keeper's supervisor keeps for it: a text and copies of descriptors by name, and the ends of orphaned processes.
//!
//! Start at [`Holder`], the supervisor's side, which knows nothing of what it keeps; [`Supervisor`] is the keeper's side.
//!
//! ```text
//!     supervisor (PID 1, or the first process of a detached keeper)
//!        │  holds: listening socket, pipes, spools, what each process is
//!        └─ keeper ── processes            killed: processes become the supervisor's children,
//!                                          which starts the next keeper and hands everything over
//! ```
//!
//! Invariants:
//! * the supervisor speaks only when asked, one message a question, so that it never waits for a keeper;
//! * an end is remembered only for a process that a keeper had named.
//!
//! Not here: starting keepers (`home.rs` on a host, `skerry-init` on a board).

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use base::{Clock, Timestamp};
use serde::{Deserialize, Serialize};
use sys::SystemClock;
use sys::fdpass::{MESSAGE_BYTES_MAX, pair, receive, send, set_patience};
use sys::files::set_nonblocking;
use sys::process::Exit;

use crate::protocol::{decode, encode};

/// The keeper's descriptor that leads to its supervisor.
pub const HOLDER_FD: i32 = 3;

/// A supervisor that says nothing for so long is taken for dead.
const PATIENCE: Duration = Duration::from_secs(5);

/// From the keeper.
#[derive(Debug, Serialize, Deserialize)]
enum Note {
    /// Keep this, with the descriptors that come along, in place of what had this name. `pid` is 0 where there is no process
    /// that may end.
    Keep { name: String, pid: u32, text: Vec<u8> },
    /// Let it go.
    Drop { name: String },
    /// What comes after this name? Answered by [`Answer::Kept`] or [`Answer::Nothing`].
    Next { after: String },
    /// How did its process end? Answered by [`Answer::End`].
    EndOf { name: String },
    /// The keeper was told to quit: there shall be no next one.
    Quit,
}

/// From the supervisor.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Kept { name: String, text: Vec<u8> },
    Nothing,
    End(Option<End>),
}

/// How a process ended, and when it was buried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// The code, or nothing where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) signal: i32,
    pub(crate) at_ns: i128,
}

impl End {
    pub(crate) fn exit(self) -> Exit {
        self.code.map_or(Exit::Signal(self.signal), Exit::Code)
    }

    pub(crate) fn at(self) -> Timestamp {
        Timestamp(self.at_ns)
    }
}

/// The supervisor's side.
#[derive(Default)]
pub struct Holder {
    socket: Option<OwnedFd>,
    kept: BTreeMap<String, Kept>,
    quit: bool,
}

#[derive(Default)]
struct Kept {
    pid: u32,
    text: Vec<u8>,
    fds: Vec<OwnedFd>,
    end: Option<End>,
}

impl Holder {
    /// A holder for a keeper that runs already, over a socket that leads to it.
    pub fn of(socket: OwnedFd) -> io::Result<Holder> {
        set_nonblocking(&socket, true).map_err(io::Error::other)?;
        Ok(Holder { socket: Some(socket), ..Holder::default() })
    }

    /// The descriptor for the next keeper, which becomes its [`HOLDER_FD`]; the last keeper's words are heard first.
    pub fn connect(&mut self) -> io::Result<OwnedFd> {
        self.hear(|| None);
        let (ours, theirs) = pair().map_err(io::Error::other)?;
        set_nonblocking(&ours, true).map_err(io::Error::other)?;
        self.socket = Some(ours);
        Ok(theirs)
    }

    /// Holds a descriptor for the first keeper.
    pub(crate) fn hold(&mut self, name: &str, fd: OwnedFd) {
        self.kept.insert(name.to_owned(), Kept { fds: vec![fd], ..Kept::default() });
    }

    /// Whether the last keeper was told to quit.
    pub(crate) fn has_quit(&self) -> bool {
        self.quit
    }

    /// What to wait for.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Does what the keeper asks. `bury` buries a child that has ended, if there is one. False when the keeper is gone.
    pub fn hear(&mut self, mut bury: impl FnMut() -> Option<(u32, Exit)>) -> bool {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        while let Some(socket) = &self.socket {
            match receive(socket, &mut buffer) {
                Ok(Some((length, fds))) => match decode::<Note>(&buffer[..length]) {
                    Ok((_, note)) => self.obey(note, fds, &mut bury),
                    Err(_) => self.socket = None,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Ok(None) | Err(_) => self.socket = None,
            }
        }
        false
    }

    /// A child was buried that was not started here: perhaps one that a keeper left.
    pub fn buried(&mut self, pid: u32, exit: Exit) {
        let (code, signal) = match exit {
            Exit::Code(code) => (Some(code), 0),
            Exit::Signal(signal) => (None, signal),
        };
        for kept in self.kept.values_mut().filter(|kept| kept.pid == pid && pid != 0 && kept.end.is_none()) {
            kept.end = Some(End { code, signal, at_ns: SystemClock.now().0 });
        }
    }

    fn obey(&mut self, note: Note, fds: Vec<OwnedFd>, bury: &mut dyn FnMut() -> Option<(u32, Exit)>) {
        match note {
            Note::Keep { name, pid, text } => {
                // The next keeper gives everything back as it found it, and asks for ends after that.
                let end = self.kept.get(&name).filter(|kept| kept.pid == pid).and_then(|kept| kept.end);
                self.kept.insert(name, Kept { pid, text, fds, end });
            }
            Note::Drop { name } => drop(self.kept.remove(&name)),
            Note::Quit => self.quit = true,
            Note::Next { after } => {
                let range = (Bound::Excluded(after.as_str()), Bound::Unbounded);
                let next = self.kept.range::<str, _>(range).next();
                match next {
                    Some((name, kept)) => {
                        let fds: Vec<BorrowedFd<'_>> = kept.fds.iter().map(AsFd::as_fd).collect();
                        self.answer(&Answer::Kept { name: name.clone(), text: kept.text.clone() }, &fds);
                    }
                    None => self.answer(&Answer::Nothing, &[]),
                }
            }
            Note::EndOf { name } => {
                while let Some((pid, exit)) = bury() {
                    self.buried(pid, exit);
                }
                let end = self.kept.get(&name).and_then(|kept| kept.end);
                self.answer(&Answer::End(end), &[]);
            }
        }
    }

    /// The keeper asks one thing at a time, so there is room for the answer; where there is none, it will give us up.
    fn answer(&self, answer: &Answer, fds: &[BorrowedFd<'_>]) {
        if let Some(socket) = &self.socket {
            let _ = send(socket, &encode(0, answer), fds);
        }
    }
}

/// The keeper's side.
pub(crate) struct Supervisor(OwnedFd);

impl Supervisor {
    pub(crate) fn of(socket: OwnedFd) -> io::Result<Supervisor> {
        set_nonblocking(&socket, false).map_err(io::Error::other)?;
        set_patience(&socket, PATIENCE)?;
        Ok(Supervisor(socket))
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(crate) fn keep(&self, name: &str, pid: u32, text: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let note = Note::Keep { name: name.to_owned(), pid, text: text.to_vec() };
        send(&self.0, &encode(0, &note), fds)
    }

    pub(crate) fn forget(&self, name: &str) -> io::Result<()> {
        send(&self.0, &encode(0, &Note::Drop { name: name.to_owned() }), &[])
    }

    pub(crate) fn quit(&self) -> io::Result<()> {
        send(&self.0, &encode(0, &Note::Quit), &[])
    }

    /// The first thing that is kept after this name: its name, its text, its descriptors.
    pub(crate) fn next(&self, after: &str) -> io::Result<Option<(String, Vec<u8>, Vec<OwnedFd>)>> {
        match self.ask(&Note::Next { after: after.to_owned() })? {
            (Answer::Kept { name, text }, fds) => Ok(Some((name, text, fds))),
            (Answer::Nothing, _) => Ok(None),
            (other, _) => Err(io::Error::other(format!("an answer to another question: {other:?}"))),
        }
    }

    /// How a process ended that an earlier keeper had started; nothing where only somebody else could know.
    pub(crate) fn end_of(&self, name: &str) -> io::Result<Option<End>> {
        match self.ask(&Note::EndOf { name: name.to_owned() })? {
            (Answer::End(end), _) => Ok(end),
            (other, _) => Err(io::Error::other(format!("an answer to another question: {other:?}"))),
        }
    }

    fn ask(&self, note: &Note) -> io::Result<(Answer, Vec<OwnedFd>)> {
        send(&self.0, &encode(0, note), &[])?;
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let (length, fds) = receive(&self.0, &mut buffer)?.ok_or(io::ErrorKind::BrokenPipe)?;
        let (_, answer) = decode(&buffer[..length]).map_err(io::Error::other)?;
        Ok((answer, fds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A holder in a thread of its own: the keeper's side waits for answers.
    fn with_keeper(holder: &mut Holder, ends: &[(u32, Exit)], act: impl FnOnce(&Supervisor) + Send) {
        let theirs = holder.connect().expect("connected");
        std::thread::scope(|scope| {
            scope.spawn(move || act(&Supervisor::of(theirs).expect("a supervisor")));
            let mut ends = ends.iter().copied();
            while holder.hear(|| ends.next()) {
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn the_next_keeper_gets_what_the_last_one_left() {
        let mut holder = Holder::default();
        with_keeper(&mut holder, &[], |keeper| {
            let (reader, _writer) = io::pipe().expect("a pipe");
            keeper.keep("a", 5, b"first", &[]).expect("kept");
            keeper.keep("b", 6, b"second", &[reader.as_fd()]).expect("kept");
            keeper.keep("a", 5, b"changed", &[]).expect("kept");
            keeper.keep("c", 0, b"third", &[]).expect("kept");
            keeper.forget("c").expect("forgotten");
        });
        with_keeper(&mut holder, &[(6, Exit::Code(3)), (9, Exit::Code(1))], |keeper| {
            let (name, text, fds) = keeper.next("").expect("an answer").expect("something");
            assert_eq!((name.as_str(), &text[..], fds.len()), ("a", &b"changed"[..], 0));
            let (name, _, fds) = keeper.next("a").expect("an answer").expect("something");
            assert_eq!((name.as_str(), fds.len()), ("b", 1));
            assert!(keeper.next("b").expect("an answer").is_none());
            assert_eq!(keeper.end_of("a").expect("an answer"), None);
            assert_eq!(keeper.end_of("b").expect("an answer").map(End::exit), Some(Exit::Code(3)));
            keeper.keep("b", 6, b"given back", &[]).expect("kept");
            assert_eq!(keeper.end_of("b").expect("an answer").map(End::exit), Some(Exit::Code(3)));
        });
    }
}
