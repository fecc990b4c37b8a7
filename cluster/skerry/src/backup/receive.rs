//! From the API server's stream to a file.
//!
//! Start at [`receive`].
//!
//! Invariants:
//! * a few frames are in memory, however large the cluster is;
//! * a stream that does not end as streams end makes no file.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use ::backup::{BackupError, FileWriter, Key, name_of, open_stream};
use apiserver::SNAPSHOT_PATH;
use bytes::{Buf, Bytes};
use client::{DoorError, Kubeconfig};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use super::{BackupFailed, PART, Part};
use crate::cli;

/// So many frames wait between the network and the disk.
const FRAMES_MAX: usize = 4;

/// Takes a snapshot and writes it, and the volumes, to a file without a name.
pub(super) async fn receive(
    access: &Kubeconfig,
    options: &cli::Backup,
    key: Option<&Key>,
) -> Result<Part, BackupFailed> {
    let frames = client::https::download(access, SNAPSHOT_PATH).await.map_err(BackupFailed::Snapshot)?;
    let (folder, volumes, key) = (options.to.clone(), options.volume.clone(), key.cloned());
    let (came, part) = through(frames, move |input| write(input, &folder, &volumes, key.as_ref())).await;
    came.map_err(BackupFailed::Snapshot)?;
    part.map_err(|source| BackupFailed::Write { folder: options.to.clone(), source })
}

/// Hands what comes to a thread that may wait for the disk; how the coming ended, and what the thread made of it.
pub(super) async fn through<T: Send + 'static>(
    mut frames: BoxStream<'static, Result<Bytes, DoorError>>,
    work: impl FnOnce(Frames) -> Result<T, BackupError> + Send + 'static,
) -> (Result<(), DoorError>, Result<T, BackupError>) {
    let (send, receive) = mpsc::channel(FRAMES_MAX);
    let working = tokio::task::spawn_blocking(move || work(Frames { receive, rest: Bytes::new() }));
    let mut came = Ok(());
    while let Some(frame) = frames.next().await {
        let sent = match frame {
            Ok(frame) => send.send(frame).await.is_ok(),
            Err(error) => {
                came = Err(error);
                false
            }
        };
        // Whoever does not listen any more has failed, and says why below.
        if !sent {
            break;
        }
    }
    drop(send);
    let made = working.await.unwrap_or_else(|_| Err(BackupError::Stream { detail: "its reader panicked".to_owned() }));
    (came, made)
}

/// The frames as something to read from.
pub(super) struct Frames {
    receive: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Frames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receive.blocking_recv() {
                Some(frame) => self.rest = frame,
                None => return Ok(0),
            }
        }
        let length = out.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut out[..length]);
        Ok(length)
    }
}

fn write(input: Frames, folder: &Path, volumes: &[PathBuf], key: Option<&Key>) -> Result<Part, BackupError> {
    let (meta, mut records) = open_stream(BufReader::new(input))?;
    let path = folder.join(format!(".{}{PART}", name_of(&meta)));
    let mut writer = FileWriter::create(&path, &meta, key)?;
    // From here on the file goes if anything fails.
    let mut part = Part { path, meta, count: records.count(), bytes: 0 };
    while let Some(record) = records.next().map_err(|error| BackupError::Stream { detail: error.to_string() })? {
        writer.record(&record)?;
    }
    for volume in volumes {
        writer.volume(&volume.to_string_lossy(), volume)?;
    }
    part.count = records.count();
    part.count.volumes = volumes.len() as u64;
    part.bytes = writer.finish()?;
    Ok(part)
}
