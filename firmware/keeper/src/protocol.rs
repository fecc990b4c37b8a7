//! What is said between the keeper and its callers: postcard messages over a unix socket that keeps messages apart.
//!
//! Start at [`Request`] and [`Reply`]. Each message begins with [`VERSION`]; requests carry a number that the reply repeats.
//! Replies may come out of order: a [`Request::Wait`] is answered when the process ends.
//!
//! Invariants:
//! * enums grow at their end only, so that the next release's keeper understands this one's callers and the reverse;
//! * descriptors travel with the message that names them, in the order it says.

use serde::{Deserialize, Serialize};

/// The version of these messages. A keeper that is asked in another version says so and does nothing.
pub const VERSION: u8 = 1;

/// A message to the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you? Answered by [`Reply::Hello`].
    Hello,
    /// Start a process. Descriptors: the program, then what [`Spawn`] names. Answered by [`Reply::Process`].
    Spawn(Spawn),
    /// Send a signal. Answered by [`Reply::Done`], also when it has ended.
    Signal {
        /// The process.
        id: String,
        /// The signal's number.
        signal: i32,
    },
    /// All processes with ids after this one, in order, at most [`LIST_MAX`]. Answered by [`Reply::List`].
    List {
        /// Empty for the first.
        after: String,
    },
    /// Tell me when it ends. Answered by [`Reply::Process`].
    Wait {
        /// The process.
        id: String,
    },
    /// Forget a process that has ended. Answered by [`Reply::Done`], also when it is not known.
    Forget {
        /// The process.
        id: String,
    },
    /// Open the log file again after it was renamed. Answered by [`Reply::Done`].
    Reopen {
        /// The process.
        id: String,
    },
    /// Join the streams. Descriptors: for each of stdin, stdout, stderr that is asked for one end of a pipe. The keeper
    /// closes the outputs when the process has closed its own. Answered by [`Reply::Done`].
    Attach(Attach),
    /// Set the terminal's size. Answered by [`Reply::Done`].
    Resize {
        /// The process.
        id: String,
        /// Characters in a row.
        columns: u16,
        /// Rows.
        rows: u16,
    },
    /// End now, leaving the processes to whoever is next above. Answered by [`Reply::Done`].
    Quit,
}

/// A process to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// What the caller calls it; must be new.
    pub id: String,
    /// Its arguments, the zeroth too.
    pub args: Vec<String>,
    /// Its whole environment, as `NAME=value`.
    pub env: Vec<String>,
    /// The folder of its cgroup; empty is the keeper's own.
    pub cgroup: String,
    /// Its pid namespace.
    pub pid_namespace: PidNamespace,
    /// Whether the next descriptor becomes its descriptor 3.
    pub channel: bool,
    /// Its streams.
    pub streams: Streams,
    /// Its log file, in the CRI's format; empty is none.
    pub log: String,
    /// A file that gets its [`Exit`] as JSON, so that the code outlives the keeper; empty is none.
    pub exit_file: String,
}

/// Which pid namespace a process starts in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    /// The keeper's own.
    #[default]
    Own,
    /// A new one, of which it is process 1.
    New,
    /// That of the next descriptor: a pidfd or a namespace file.
    Of,
}

/// Where a process's streams lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Streams {
    /// To the keeper, which writes the log and serves attach.
    Held {
        /// Whether stdin is open, waiting for an attach; otherwise it is empty.
        stdin: bool,
        /// Whether stdin closes when the first attach ends.
        stdin_once: bool,
    },
    /// To the keeper through a terminal. The program makes it, and sends its side over descriptor 4.
    Terminal {
        /// As above.
        stdin: bool,
    },
    /// To the descriptors that come with the request, one for each that is set; the others are empty.
    Handed {
        /// Whether a descriptor for stdin comes.
        stdin: bool,
        /// Whether one for stdout comes.
        stdout: bool,
        /// Whether one for stderr comes.
        stderr: bool,
    },
}

impl Default for Streams {
    fn default() -> Streams {
        Streams::Held { stdin: false, stdin_once: false }
    }
}

/// Whom to join, and with which streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The process.
    pub id: String,
    /// Whether a descriptor to read its stdin from comes.
    pub stdin: bool,
    /// Whether a descriptor to write its stdout to comes.
    pub stdout: bool,
    /// Whether a descriptor to write its stderr to comes.
    pub stderr: bool,
}

/// A list holds at most so many processes, so that it fits a message.
pub const LIST_MAX: usize = 100;

/// A message from the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The keeper.
    Hello {
        /// Its pid.
        pid: u32,
    },
    /// It is done.
    Done,
    /// A process.
    Process(Status),
    /// Processes.
    List(Vec<Status>),
    /// It was not done.
    Failed {
        /// Why not, in words.
        why: String,
        /// The kernel's number for it, or 0.
        errno: i32,
    },
}

/// What the keeper knows of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What the caller called it.
    pub id: String,
    /// Its pid in the keeper's namespace.
    pub pid: u32,
    /// When it started, in ticks since boot: with the pid, its identity.
    pub start_ticks: u64,
    /// When it started, in nanoseconds since 1970.
    pub started_at_ns: i128,
    /// How it ended, if it did.
    pub exit: Option<Exit>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 to 255; 128 + signal where a signal ended it; [`UNKNOWN`] where nobody could learn it.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// When, in nanoseconds since 1970.
    pub finished_at_ns: i128,
    /// Whether the kernel killed something in its cgroup for want of memory.
    pub oom_killed: bool,
}

/// The code of a process that ended while nobody was there whom the kernel tells: the keeper and its supervisor were both
/// killed, or the supervisor before and the keeper then.
pub const UNKNOWN: i32 = -1;

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// They are of another version.
    #[error("the message is of version {0}, this side speaks version {VERSION}")]
    Version(u8),
    /// They are nothing.
    #[error("the message cannot be read")]
    Malformed(#[from] postcard::Error),
}

/// Writes a message with its number.
pub(crate) fn encode<T: Serialize>(number: u32, body: &T) -> Vec<u8> {
    let start = vec![VERSION];
    // Writing to a growing vector fails only for types that do not know their length; ours do.
    postcard::to_extend(&(number, body), start).expect("a message can be written")
}

/// Reads a message and its number.
pub(crate) fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<(u32, T), MessageError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => Ok(postcard::from_bytes(body)?),
        Some((&other, _)) => Err(MessageError::Version(other)),
        None => Err(MessageError::Malformed(postcard::Error::DeserializeUnexpectedEnd)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let request = Request::Signal { id: "a".into(), signal: 15 };
        let (number, read): (u32, Request) = decode(&encode(7, &request)).expect("readable");
        assert_eq!((number, read), (7, request));
    }

    #[test]
    fn another_version_is_named() {
        assert!(matches!(decode::<Request>(&[9, 0, 0]), Err(MessageError::Version(9))));
        assert!(matches!(decode::<Request>(&[VERSION, 0, 99]), Err(MessageError::Malformed(_))));
    }

    /// The first release's bytes, kept: a later one must still read them.
    #[test]
    fn the_bytes_stay_as_they_are() {
        assert_eq!(encode(1, &Request::Wait { id: "x".into() }), [VERSION, 1, 4, 1, b'x']);
        assert_eq!(encode(1, &Request::Quit), [VERSION, 1, 9]);
    }
}
