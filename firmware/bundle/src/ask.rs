//! Asking the update service of this machine.
//!
//! Start at [`ask`].

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use sys::fdpass;

use crate::message::{Reply, Request, decode, encode};

/// A service that is busy with another caller answers within a few seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// Answers are short.
const REPLY_BYTES_MAX: usize = 16 << 10;

/// Asks the service that listens at `path`; `file` goes with an offer.
pub fn ask(path: &Path, request: &Request, file: Option<&File>) -> io::Result<Reply> {
    let socket = fdpass::connect(path).map_err(io::Error::other)?;
    fdpass::set_patience(&socket, PATIENCE)?;
    let files: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
    fdpass::send(&socket, &encode(request), &files)?;
    let mut buffer = vec![0; REPLY_BYTES_MAX];
    let answer = fdpass::receive(&socket, &mut buffer)?;
    let (length, _) = answer.ok_or_else(|| io::Error::other("the update service hung up without an answer"))?;
    decode(&buffer[..length]).map_err(io::Error::other)
}
