//! What is said over the update socket: postcard messages over a unix socket that keeps messages apart.
//!
//! Start at [`Request`] and [`Reply`]. Each message begins with [`VERSION`]; a connection carries one request and its reply.
//!
//! Invariants:
//! * enums grow at their end only, so that one release's callers are understood by the next and the reverse;
//! * what is asked for is named by a bundle's digest: asking twice is asking once.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The version of these messages.
pub const VERSION: u8 = 1;
/// Where the board's update service listens: in a folder of its own, which a pod can be given without anything else.
pub const SOCKET: &str = "/run/skerry/update/socket";

/// The cause of a bundle that was not even tried: it may be asked for again.
pub const REFUSED: &str = "refused";

/// A message to the update service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// How are things? Answered by [`Reply::Status`].
    Status,
    /// Check and stage the bundle whose file comes with this message. Answered by [`Reply::Accepted`] once its header is
    /// checked; the rest goes on by itself and is seen in the status.
    Offer {
        /// What the node may do to make room for the restart.
        drain: Drain,
    },
    /// Put what is staged on trial and restart. Answered by [`Reply::Done`].
    Activate {
        /// The bundle.
        digest: Digest,
    },
    /// What the node sees of itself: checks by name. Answered by [`Reply::Done`].
    Report(Vec<Check>),
    /// Go back to what the other slot holds, and restart. Answered by [`Reply::Done`].
    RollBack,
    /// Forget a bundle that is wanted and not yet on trial. Answered by [`Reply::Done`].
    Withdraw {
        /// The bundle.
        digest: Digest,
    },
}

/// Which pods a node may take away for a restart, beyond those that a controller replaces elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Pods that nothing replaces.
    pub bare_pods: bool,
    /// Pods that keep data in emptyDir volumes.
    pub empty_dir: bool,
    /// Evictions that are refused for so long end the attempt; 0 is for ever.
    pub within_s: u32,
}

/// One thing that works or does not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// Whether it works.
    pub passes: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Offer`].
    Accepted {
        /// The bundle.
        digest: Digest,
    },
    /// It was done.
    Done,
    /// It was not, and why.
    Refused(String),
}

/// How things are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The slot we run from: `a` or `b`.
    pub slot: String,
    /// Its image's version; empty where nobody said.
    pub version: String,
    /// Its bundle.
    pub digest: Option<Digest>,
    /// Its security epoch.
    pub security_epoch: u32,
    /// Whether it is confirmed.
    pub confirmed: bool,
    /// The bundle that is wanted, and how far it is.
    pub wanted: Option<Wanted>,
    /// The bundle that was offered last, if it was refused; or else the last one that was given up, while it is asked for.
    pub failed: Option<Failed>,
}

/// A bundle that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The bundle.
    pub digest: Digest,
    /// Its version.
    pub version: String,
    /// What the node may do.
    pub drain: Drain,
    /// How far it is.
    pub state: State,
}

/// How far a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It was asked for, and nobody has given us its bytes since the machine started.
    Waiting,
    /// It is being read and written.
    Staging {
        /// Parts done.
        done: u32,
        /// Of so many.
        of: u32,
    },
    /// It lies in the other slot, whole.
    Staged,
    /// It runs and has yet to prove itself.
    Trial,
}

/// A bundle that was given up or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The bundle, also where nobody has signed it.
    pub digest: Digest,
    /// Its version; empty where no trusted key has signed it.
    pub version: String,
    /// One word: a cause of the ledger, or [`REFUSED`].
    pub cause: String,
    /// The same for people.
    pub told: String,
}

/// A message as bytes.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(postcard::to_allocvec(message).expect("our messages can always be written"));
    bytes
}

/// The message in `bytes`; what is wrong with it otherwise.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, message)) => {
            postcard::from_bytes(message).map_err(|error| format!("a message cannot be understood: {error}"))
        }
        Some((other, _)) => Err(format!("a message has version {other}, and this is {VERSION}")),
        None => Err("a message is empty".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written() {
        let asked = Request::Offer { drain: Drain { bare_pods: true, empty_dir: false, within_s: 300 } };
        assert_eq!(decode::<Request>(&encode(&asked)), Ok(asked));
    }

    #[test]
    fn what_is_no_message_says_so() {
        assert_eq!(decode::<Reply>(&[]), Err("a message is empty".into()));
        assert_eq!(decode::<Reply>(&[9, 0]), Err("a message has version 9, and this is 1".into()));
        assert!(decode::<Reply>(&[VERSION, 99]).unwrap_err().contains("cannot be understood"));
    }
}
