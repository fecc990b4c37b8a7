//! Proves a backup: restores it, starts an API server on what came of it, and compares what that serves.
//!
//! Start at [`prove`]. The server is a real one, with its own database, keys and TLS, on a port of this machine's loopback; it
//! runs no controllers, which would change what is to be compared. It is asked for a snapshot by the same identity that took the
//! one in the file: a cluster whose CA, tokens or rules did not survive would not answer.
//!
//! Invariant: the scratch folder goes, however it ends.

use std::fs;
use std::io::BufReader;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::backup::{BackupError, Checked, Record, keys, open_stream, restore};
use apiserver::run::{Listening, listen};
use apiserver::{Api, SNAPSHOT_PATH, Settings, annotate};
use base::Clock;
use client::{DoorError, Kubeconfig};
use pki::{Names, Pki};
use store::Store;
use tokio::sync::oneshot;

use super::receive::{Frames, through};
use crate::server::{self, snapshots};

/// Why it is not proved.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// Restoring.
    #[error("failed to restore it to the scratch folder {folder}")]
    Restore {
        /// Which.
        folder: PathBuf,
        /// Why not.
        source: BackupError,
    },
    /// The scratch server's keys.
    #[error("failed to use the restored keys")]
    Pki(#[source] pki::PkiError),
    /// Its database.
    #[error("failed to open the restored database")]
    Store(#[source] store::StoreError),
    /// Its address.
    #[error("failed to start a scratch server")]
    Serve(#[source] apiserver::run::ServeError),
    /// Its answer.
    #[error("failed to ask the scratch server")]
    Ask(#[source] DoorError),
    /// It is another cluster.
    #[error("the restored cluster is not the one that was backed up: {what}")]
    Differs {
        /// Where.
        what: String,
    },
}

/// A folder that goes.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies in a pod's own folder, and goes with it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Restores `file` below `scratch`, and compares.
pub(super) async fn prove(
    file: &Checked,
    access: &Kubeconfig,
    scratch: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<(), ScratchError> {
    let folder = Scratch(scratch.join(format!("skerry-scratch-{}", std::process::id())));
    let failed = |source| ScratchError::Restore { folder: folder.0.clone(), source };
    let io = |source| failed(BackupError::Io { doing: "make", path: folder.0.clone(), source });
    fs::create_dir_all(&folder.0).map_err(io)?;
    restore(file, &folder.0, &Default::default(), clock.now()).await.map_err(failed)?;
    compare_keys(file, &folder.0.join("pki"))?;
    let pki = Pki::open(&folder.0.join("pki"), &Names::default(), clock.now()).map_err(ScratchError::Pki)?;
    let database = folder.0.join("db/state.db");
    let store = store::sqlite(&database, annotate(), store::Options::default()).await.map_err(ScratchError::Store)?;
    let store: Arc<dyn Store> = Arc::new(store);
    let here = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let listening = listen(here, &server::tls(&pki)).await.map_err(ScratchError::Serve)?;
    let address = listening.address().unwrap_or(here);
    let api = api(&store, &pki, &folder.0, clock);
    let access = Kubeconfig { server: format!("https://{address}"), ..access.clone() };
    let compared = asked(listening, api, file, &access).await;
    // It is not needed any more, so how it closes does not matter.
    let _ = store.close().await;
    compared
}

fn api(store: &Arc<dyn Store>, pki: &Pki, folder: &Path, clock: &Arc<dyn Clock>) -> Arc<Api> {
    let ca_pem = pki.authority().certificate_pem().to_owned();
    let mut settings = Settings::new(clock.clone(), server::seed(&**clock), pki.tokens().clone(), ca_pem);
    settings.snapshot = Some(snapshots(folder.join("pki"), clock.clone()));
    Api::open(store.clone(), settings)
}

/// Serves for as long as it takes to compare.
async fn asked(listening: Listening, api: Arc<Api>, file: &Checked, access: &Kubeconfig) -> Result<(), ScratchError> {
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(listening.serve(api, async move { drop(stopped.await) }));
    let compared = compared(file.clone(), access).await;
    // One that has ended by itself needs not be told.
    let _ = stop.send(());
    let _ = serving.await;
    compared
}

async fn compared(file: Checked, access: &Kubeconfig) -> Result<(), ScratchError> {
    let frames = client::https::download(access, SNAPSHOT_PATH).await.map_err(ScratchError::Ask)?;
    let (came, difference) = through(frames, move |served| compare(&file, served)).await;
    came.map_err(ScratchError::Ask)?;
    let difference = difference.map_err(|error| ScratchError::Differs { what: base::chain(&error).to_string() })?;
    difference.map_or(Ok(()), |what| Err(ScratchError::Differs { what }))
}

/// The first difference between the objects of the file and of what is served.
fn compare(file: &Checked, served: Frames) -> Result<Option<String>, BackupError> {
    let (_, mut served) = open_stream(BufReader::new(served))?;
    let mut kept = file.records()?;
    loop {
        let kept = object(kept.next().map_err(|error| file.damage(error))?);
        let served = object(served.next().map_err(|error| BackupError::Stream { detail: error.to_string() })?);
        if kept != served {
            return Ok(Some(difference(kept, served)));
        }
        if kept.is_none() {
            return Ok(None);
        }
    }
}

fn object(record: Option<Record>) -> Option<Record> {
    record.filter(|record| matches!(record, Record::Object { .. }))
}

fn difference(kept: Option<Record>, served: Option<Record>) -> String {
    let key = |record: Option<Record>| match record {
        Some(Record::Object { key, revision, .. }) => format!("{key} at revision {revision}"),
        _ => "the end".to_owned(),
    };
    let (kept, served) = (key(kept), key(served));
    let but = if kept == served { ", with other contents" } else { "" };
    format!("the file has {kept} where the scratch server has {served}{but}")
}

/// Before the scratch server renews what names another machine.
fn compare_keys(file: &Checked, folder: &Path) -> Result<(), ScratchError> {
    let failed = |source| ScratchError::Restore { folder: folder.to_owned(), source };
    let restored = keys(folder).map_err(failed)?;
    let kept = file.contents().map_err(failed)?.keys;
    match kept == restored {
        true => Ok(()),
        false => Err(ScratchError::Differs { what: "its keys are others".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use ::backup::{FileWriter, Meta, RecordWriter, check};
    use bytes::Bytes;
    use futures::{StreamExt, stream};

    use super::*;

    fn meta() -> Meta {
        let text = |text: &str| text.to_owned();
        Meta { cluster: text("4711"), version: text("v1"), revision: 9, time: text("2026-11-25T01:00:00Z") }
    }

    /// Objects such as "a1=x b2=y": key, revision, value.
    fn records(objects: &str) -> Vec<Record> {
        let record = |word: &str| {
            let (head, value) = word.split_once('=').expect("a value");
            let (key, revision) = head.split_at(1);
            let value = Bytes::from(value.to_owned());
            Record::Object { key: key.to_owned(), revision: revision.parse().expect("a revision"), value }
        };
        objects.split_whitespace().map(record).collect()
    }

    /// What is told of a file with the one and a server with the other.
    #[track_caller]
    fn check_compared(kept: &str, served: &str, wanted: Option<&str>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let mut file = FileWriter::create(&path, &meta(), None).expect("a file");
        records(kept).iter().for_each(|record| file.record(record).expect("it is written"));
        file.finish().expect("it is written");
        let mut stream = RecordWriter::new(meta().lines());
        records(served).iter().for_each(|record| stream.record(record).expect("memory takes it"));
        let frame = Bytes::from(stream.end().expect("memory takes it"));
        let file = check(&path, None).expect("it is right");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let frames = stream::iter([Ok(frame)]).boxed();
        let (came, found) = runtime.block_on(through(frames, move |served| compare(&file, served)));
        came.expect("it comes");
        assert_eq!(found.expect("both can be read").as_deref(), wanted);
    }

    #[test]
    fn the_first_difference_is_told() {
        check_compared("a1=x b2=y", "a1=x b2=y", None);
        check_compared("a1=x b2=y", "a1=x", Some("the file has b at revision 2 where the scratch server has the end"));
        check_compared("a1=x", "a1=x b2=y", Some("the file has the end where the scratch server has b at revision 2"));
        let other = "the file has a at revision 1 where the scratch server has a at revision 3";
        check_compared("a1=x b2=y", "a3=x b2=y", Some(other));
        let value = "the file has a at revision 1 where the scratch server has a at revision 1, with other contents";
        check_compared("a1=x", "a1=z", Some(value));
    }
}
