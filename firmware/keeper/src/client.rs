//! The keeper's callers' side.
//!
//! Start at [`Client::connect`]. It knows no async runtime: a thread of its own reads replies and calls back.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;

use sys::fdpass::{MESSAGE_BYTES_MAX, MESSAGE_FDS_MAX, connect, receive, send};

use crate::protocol::{LIST_MAX, Reply, Request, Status, decode, encode};

/// Why the keeper did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// It said no.
    #[error("the keeper refused: {why}")]
    Refused {
        /// Why, in words.
        why: String,
        /// The kernel's number for it, or 0.
        errno: i32,
    },
    /// It is not there (any more).
    #[error("the keeper does not answer: {0}")]
    Gone(String),
    /// What was asked does not fit a message.
    #[error("the request does not fit a message: {0}")]
    TooLong(String),
}

/// A connection to the keeper. Clones share it; the last one closes it.
#[derive(Clone)]
pub struct Client(Arc<Ends>);

struct Ends {
    socket: Arc<OwnedFd>,
    pending: Arc<Mutex<Pending>>,
}

type Callback = Box<dyn FnOnce(Result<Reply, ClientError>) + Send>;

#[derive(Default)]
struct Pending {
    next: u32,
    gone: Option<ClientError>,
    waiting: BTreeMap<u32, Callback>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        // The reading thread sees the end and returns.
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Client {
    /// Connects to the keeper that listens at `path`.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let gone = |error: &dyn std::error::Error| ClientError::Gone(base::chain(error).to_string());
        let socket = Arc::new(connect(path).map_err(|error| gone(&error))?);
        let pending = Arc::default();
        let (reading, answering) = (Arc::clone(&socket), Arc::clone(&pending));
        thread::Builder::new()
            .name("keeper-client".to_owned())
            .stack_size(256 << 10)
            .spawn(move || read_replies(&reading, &answering))
            .map_err(|error| gone(&error))?;
        Ok(Client(Arc::new(Ends { socket, pending })))
    }

    /// Asks, and calls `then` with the answer from another thread, once.
    pub fn ask(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        then: impl FnOnce(Result<Reply, ClientError>) + Send + 'static,
    ) {
        let number = {
            let mut pending = lock(&self.0.pending);
            if let Some(gone) = pending.gone.clone() {
                drop(pending);
                return then(Err(gone));
            }
            pending.next = pending.next.wrapping_add(1).max(1);
            let number = pending.next;
            pending.waiting.insert(number, Box::new(then));
            number
        };
        let message = encode(number, request);
        let sent = if message.len() > MESSAGE_BYTES_MAX || fds.len() > MESSAGE_FDS_MAX {
            let size = format!("{} bytes and {} descriptors", message.len(), fds.len());
            Err(ClientError::TooLong(size))
        } else {
            send(&*self.0.socket, &message, fds).map_err(|error| ClientError::Gone(error.to_string()))
        };
        if let Err(error) = sent {
            let waiting = lock(&self.0.pending).waiting.remove(&number);
            if let Some(then) = waiting {
                then(Err(error));
            }
        }
    }

    /// Asks, and waits for the answer.
    pub fn call(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, ClientError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.ask(request, fds, move |reply| drop(sender.send(reply)));
        receiver.recv().unwrap_or_else(|_| Err(ClientError::Gone("the connection ended".to_owned())))
    }

    /// All processes the keeper knows, by id.
    pub fn list(&self) -> Result<Vec<Status>, ClientError> {
        let mut all: Vec<Status> = Vec::new();
        loop {
            let after = all.last().map(|status| status.id.clone()).unwrap_or_default();
            match self.call(&Request::List { after }, &[])? {
                Reply::List(page) => {
                    let last = page.len() < LIST_MAX;
                    all.extend(page);
                    if last {
                        return Ok(all);
                    }
                }
                other => return Err(ClientError::Gone(format!("an answer to another question: {other:?}"))),
            }
        }
    }
}

fn read_replies(socket: &OwnedFd, pending: &Mutex<Pending>) {
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let ended = loop {
        match receive(socket, &mut buffer) {
            Ok(Some((length, _))) => match decode::<Reply>(&buffer[..length]) {
                Ok((number, reply)) => {
                    let waiting = lock(pending).waiting.remove(&number);
                    if let Some(then) = waiting {
                        then(match reply {
                            Reply::Failed { why, errno } => Err(ClientError::Refused { why, errno }),
                            reply => Ok(reply),
                        });
                    }
                }
                Err(error) => break base::chain(&error).to_string(),
            },
            Ok(None) => break "the connection ended".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    let gone = ClientError::Gone(ended);
    let waiting = {
        let mut pending = lock(pending);
        pending.gone = Some(gone.clone());
        std::mem::take(&mut pending.waiting)
    };
    for then in waiting.into_values() {
        then(Err(gone.clone()));
    }
}

/// Starts a keeper that listens at `socket` and outlives the caller: `program words… --socket … --detach`. What it has to
/// say goes to `keeper.log` beside the socket. Returns once it listens.
pub fn start_detached(program: &Path, words: &[OsString], socket: &Path, cgroup: Option<&Path>) -> io::Result<()> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let log = File::options().create(true).append(true).open(folder.join("keeper.log"))?;
    let mut command = Command::new(program);
    command.args(words).arg("--socket").arg(socket).arg("--detach");
    if let Some(cgroup) = cgroup {
        command.arg("--cgroup").arg(cgroup);
    }
    let status =
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).env_clear().current_dir("/").status()?;
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(folder.join("keeper.log")).unwrap_or_default();
    let last = said.lines().last().unwrap_or("it said nothing").to_owned();
    Err(io::Error::other(format!("{} ended with {status}: {last}", program.display())))
}
