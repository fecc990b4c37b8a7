//! `skerry backup`: a file of everything the cluster is, proved by restoring it.
//!
//! Start at [`run`]. It is written to be a CronJob's container (`cluster/skerry/manifests/backup.yaml`): it takes a snapshot from
//! the API server as its ServiceAccount, and its last words say what became of it.
//!
//! Invariants:
//! * a file has its name only once it is whole, on the disk, and was restored to a scratch server and compared (`scratch.rs`);
//! * nothing old goes before that, and no old file that is damaged counts as one that is kept;
//! * what fails leaves no file behind, and says what failed.
//!
//! Not here: the file's form, and what goes when (`backup`).

mod access;
pub(crate) mod event;
mod receive;
mod scratch;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::backup::{BackupError, End, Key, Meta, check, name_of, siblings, surplus};
use base::{Clock, chain};
use client::{DoorError, Kubeconfig, KubeconfigError};
use sys::clock::SystemClock;

use crate::cli;

/// What a run that was killed left behind goes once it is so old: nobody can still be writing it.
const PART_AGE: Duration = Duration::from_secs(86_400);
const PART: &str = ".part";
/// So many files a run reads to see whether they are whole. Those that are older were read by runs before.
const LOOKED_AT_MAX: usize = 100;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupFailed {
    /// The threads cannot be started.
    #[error("failed to start threads")]
    Threads(#[source] std::io::Error),
    /// The kubeconfig.
    #[error("failed to find out which cluster to back up")]
    Kubeconfig(#[source] KubeconfigError),
    /// Not in a pod.
    #[error("failed to find out which cluster to back up: {detail}; give --kubeconfig outside of a pod")]
    Pod {
        /// What is missing.
        detail: String,
    },
    /// The API server.
    #[error("failed to take a snapshot")]
    Snapshot(#[source] DoorError),
    /// The file.
    #[error("failed to make a backup in {folder}")]
    Write {
        /// Where.
        folder: PathBuf,
        /// Why not.
        source: BackupError,
    },
    /// It does not restore.
    #[error("the backup was taken, but not kept, because it could not be proved")]
    Scratch(#[source] scratch::ScratchError),
    /// It is there, but the old ones could not be removed.
    #[error("the backup {name} is there, but not everything old could be removed")]
    Rotate {
        /// The new file.
        name: String,
        /// Why not.
        source: BackupError,
    },
}

/// A file that has not got its name yet. It goes unless it gets it.
struct Part {
    path: PathBuf,
    meta: Meta,
    count: End,
    bytes: u64,
}

impl Drop for Part {
    fn drop(&mut self) {
        // Renamed by now, if all went well.
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes a backup.
pub fn run(options: cli::Backup) -> Result<(), BackupFailed> {
    crate::server::logging();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = runtime.map_err(BackupFailed::Threads)?.block_on(back_up(&options, Arc::new(SystemClock)))?;
    println!("{done}");
    Ok(())
}

async fn back_up(options: &cli::Backup, clock: Arc<dyn Clock>) -> Result<String, BackupFailed> {
    let access = access::find(options.kubeconfig.as_deref())?;
    let done = make(options, &access, &clock).await;
    let news = match &done {
        Err(error) => Some(("BackupFailed", chain(error).to_string())),
        Ok(done) => done.damaged.clone().map(|damaged| ("BackupDamaged", damaged)),
    };
    if let (Some((reason, why)), Some(job)) = (news, &options.job) {
        event::tell((reason, &why), job, &access, clock.now()).await;
    }
    Ok(done?.told)
}

/// What was done, and what of the old files is damaged.
struct Done {
    told: String,
    damaged: Option<String>,
}

/// What became of the old files.
struct Rotated {
    gone: Vec<String>,
    damaged: Vec<BackupError>,
}

async fn make(options: &cli::Backup, access: &Kubeconfig, clock: &Arc<dyn Clock>) -> Result<Done, BackupFailed> {
    let failed = |source| BackupFailed::Write { folder: options.to.clone(), source };
    remove_old_parts(&options.to, &**clock).map_err(failed)?;
    let key = options.key_file.as_deref().map(Key::read).transpose().map_err(failed)?;
    let part = receive::receive(access, options, key.as_ref()).await?;
    let checked = check(&part.path, key.as_ref()).map_err(failed)?;
    let scratch = options.scratch.clone().unwrap_or_else(std::env::temp_dir);
    scratch::prove(&checked, access, &scratch, clock).await.map_err(BackupFailed::Scratch)?;
    let name = name_of(&part.meta);
    publish(&part.path, &options.to, &name).map_err(failed)?;
    let rotated = rotate(options, &name, key.as_ref(), &**clock);
    let rotated = rotated.map_err(|source| BackupFailed::Rotate { name: name.clone(), source })?;
    let damaged = damage(&rotated.damaged);
    let mut told = told(&part, &name, &rotated.gone);
    told.extend(damaged.iter().map(|damaged| format!("\n{damaged}")));
    Ok(Done { told, damaged })
}

/// What is to be said of old files from which nothing can be restored.
fn damage(damaged: &[BackupError]) -> Option<String> {
    let all: Vec<String> = damaged.iter().map(|error| chain(error).to_string()).collect();
    (!all.is_empty()).then(|| {
        format!("nothing can be restored from old files, and no good one goes because of them: {}", all.join("; "))
    })
}

fn told(part: &Part, name: &str, removed: &[String]) -> String {
    let Meta { cluster, revision, time, .. } = &part.meta;
    let End { objects, files, volumes } = part.count;
    let mut told = format!(
        "{name}: {objects} objects, {files} key files and {volumes} volumes of cluster {cluster} at revision {revision} \
         ({time}) in {} bytes, restored and compared",
        part.bytes
    );
    if !removed.is_empty() {
        told.push_str(&format!("; removed {}", removed.join(", ")));
    }
    told
}

/// Gives the file its name, for good.
fn publish(part: &Path, folder: &Path, name: &str) -> Result<(), BackupError> {
    let renamed = fs::rename(part, folder.join(name)).and_then(|()| fs::File::open(folder)?.sync_all());
    renamed.map_err(|source| BackupError::Io { doing: "rename", path: part.to_owned(), source })
}

fn rotate(options: &cli::Backup, newest: &str, key: Option<&Key>, clock: &dyn Clock) -> Result<Rotated, BackupError> {
    let keep = ::backup::Keep { count: options.keep, age: options.keep_age };
    let names = names(&options.to)?;
    let looked_at = siblings(&names, newest).into_iter().take(LOOKED_AT_MAX);
    let (of, damaged): (Vec<&str>, Vec<BackupError>) =
        looked_at.filter_map(|name| Some((name, wrong_with(&options.to.join(name), key)?))).unzip();
    let gone = surplus(&names, newest, &of, keep, clock.now());
    for name in &gone {
        remove(&options.to.join(name))?;
    }
    Ok(Rotated { gone: gone.into_iter().map(str::to_owned).collect(), damaged })
}

/// Why nothing can be restored from a file. One for another key or a later release is as good as any.
fn wrong_with(file: &Path, key: Option<&Key>) -> Option<BackupError> {
    match check(file, key) {
        Ok(_) | Err(BackupError::NoKey { .. } | BackupError::WrongKey { .. } | BackupError::Newer { .. }) => None,
        Err(error) => Some(error),
    }
}

fn remove_old_parts(folder: &Path, clock: &dyn Clock) -> Result<(), BackupError> {
    for name in names(folder)?.iter().filter(|name| name.starts_with(".skerry-") && name.ends_with(PART)) {
        let path = folder.join(name);
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
        let age = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let age = age.map(|since| clock.now().since(base::Timestamp(since.as_nanos() as i128)));
        if age.is_some_and(|age| age > PART_AGE) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>, BackupError> {
    let failed = |source| BackupError::Io { doing: "read", path: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(failed)?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect())
}

fn remove(path: &Path) -> Result<(), BackupError> {
    // Somebody else's rotation may be quicker.
    let removed = sys::files::remove_file(path);
    removed.map_err(|source| BackupError::Io { doing: "remove", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_another_key_is_whole_and_what_was_changed_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        let text = String::new;
        let meta = Meta { cluster: text(), version: text(), revision: 1, time: text() };
        let secret = folder.path().join("key");
        fs::write(&secret, [7; 32]).expect("it can be written");
        let key = Key::read(&secret).expect("a key");
        let writer = ::backup::FileWriter::create(&file, &meta, Some(&key)).expect("it can be made");
        writer.finish().expect("it can be finished");
        assert!(wrong_with(&file, Some(&key)).is_none() && wrong_with(&file, None).is_none());
        let mut bytes = fs::read(&file).expect("it can be read");
        *bytes.last_mut().expect("it is not empty") ^= 1;
        fs::write(&file, bytes).expect("it can be written");
        let damaged = wrong_with(&file, None).expect("it is damaged");
        assert!(damage(&[damaged]).is_some_and(|told| told.contains("is damaged or cut short")));
        assert_eq!(damage(&[]), None);
    }
}
