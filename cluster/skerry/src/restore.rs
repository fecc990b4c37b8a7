//! `skerry restore`: a blank data folder becomes the cluster of a file.
//!
//! Start at [`run`]; `skerry server --restore` does the same before its first start ([`before_first_start`]).
//!
//! Invariant: whatever is wrong with the file, the folder or a volume's folder is found before anything is written.
//!
//! Not here: how it is done (`backup`).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ::backup::{BackupError, Checked, Contents, Key, Restored, check, finish, is_restored, look};
use base::{Clock, Timestamp};
use sys::clock::SystemClock;

use crate::{StartError, cli, server};

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreFailed {
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(Box<StartError>),
    /// The threads cannot be started.
    #[error("failed to start threads")]
    Threads(#[source] std::io::Error),
    /// The file, or the restoring.
    #[error("failed to restore to {folder}")]
    Restore {
        /// Where to.
        folder: PathBuf,
        /// Why not.
        source: BackupError,
    },
}

/// Restores.
pub fn run(options: cli::Restore) -> Result<(), RestoreFailed> {
    server::logging();
    let now = SystemClock.now();
    let failed = |source| RestoreFailed::Restore { folder: options.data_dir.clone(), source };
    if options.if_blank && !is_blank(&options.data_dir).map_err(failed)? {
        println!("nothing is restored, because {} holds a cluster", options.data_dir.display());
        return Ok(());
    }
    let key = options.key_file.as_deref().map(Key::read).transpose().map_err(failed)?;
    let file = check(&options.file, key.as_ref()).map_err(failed)?;
    let contents = file.contents().map_err(failed)?;
    look(&options.data_dir, options.move_aside).map_err(failed)?;
    let volumes = volumes(&options, &file, &contents).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RestoreFailed::Threads)?;
    let wish = Wish { file: &file, data: &options.data_dir, move_aside: options.move_aside, volumes: &volumes };
    println!("{}", runtime.block_on(fulfil(&wish, now))?);
    Ok(())
}

/// What a server does before its first start if it was given a backup. A folder that holds anything is used as it is.
pub(crate) async fn before_first_start(
    file: &Path,
    key: Option<&Path>,
    data: &Path,
    now: Timestamp,
) -> Result<(), RestoreFailed> {
    let failed = |source| RestoreFailed::Restore { folder: data.to_owned(), source };
    if !is_blank(data).map_err(failed)? {
        return Ok(());
    }
    let key = key.map(Key::read).transpose().map_err(failed)?;
    let file = check(file, key.as_ref()).map_err(failed)?;
    file.contents().map_err(failed)?;
    let wish = Wish { file: &file, data, move_aside: false, volumes: &BTreeMap::new() };
    tracing::info!("{}", fulfil(&wish, now).await?);
    Ok(())
}

fn is_blank(data: &Path) -> Result<bool, BackupError> {
    match look(data, false) {
        Err(BackupError::NotBlank { .. }) => Ok(false),
        looked => looked.map(|_| true),
    }
}

/// What is to be restored where; all of it was looked at.
struct Wish<'a> {
    file: &'a Checked,
    data: &'a Path,
    move_aside: bool,
    volumes: &'a BTreeMap<String, PathBuf>,
}

/// Does it, and says what was done.
async fn fulfil(wish: &Wish<'_>, now: Timestamp) -> Result<String, RestoreFailed> {
    let Wish { file, data, move_aside, volumes } = *wish;
    let failed = |source| RestoreFailed::Restore { folder: data.to_owned(), source };
    let unusable = |source| RestoreFailed::Folder(StartError::Folder { path: data.to_owned(), source }.into());
    fs::DirBuilder::new().recursive(true).mode(0o755).create(data).map_err(unusable)?;
    let _lock = server::locked(data).map_err(|error| RestoreFailed::Folder(error.into()))?;
    if finished_before(data, file, now).map_err(failed)? {
        return Ok("an earlier restore of the same file had been interrupted, and is finished now".to_owned());
    }
    // The one that was finished may have been of another file.
    look(data, move_aside).map_err(failed)?;
    let restored = ::backup::restore(file, data, volumes, now).await.map_err(failed)?;
    Ok(told(file, &restored, volumes, data))
}

fn finished_before(data: &Path, file: &Checked, now: Timestamp) -> Result<bool, BackupError> {
    Ok(finish(data, now)? && is_restored(data, &file.meta))
}

/// Which volume goes where. Those that are not chosen stay in the file.
fn volumes(
    options: &cli::Restore,
    file: &Checked,
    contents: &Contents,
) -> Result<BTreeMap<String, PathBuf>, BackupError> {
    let mut chosen = BTreeMap::new();
    if let Some(folder) = &options.volumes_to {
        let below = |name: &String| (name.clone(), folder.join(name.trim_start_matches('/')));
        chosen.extend(contents.volumes.iter().map(below));
    }
    chosen.extend(options.volume.iter().cloned());
    for (name, folder) in &chosen {
        file.must_hold(contents, name)?;
        is_empty(folder)?;
    }
    Ok(chosen)
}

fn is_empty(folder: &Path) -> Result<(), BackupError> {
    match fs::read_dir(folder).map(|mut entries| entries.find_map(Result::ok)) {
        Ok(None) => Ok(()),
        Ok(Some(entry)) if entry.file_name() == "lost+found" => Ok(()),
        Ok(Some(entry)) => {
            let found = entry.file_name().to_string_lossy().into();
            Err(BackupError::NotBlank { folder: folder.to_owned(), found })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(BackupError::Io { doing: "look into", path: folder.to_owned(), source }),
    }
}

fn told(file: &Checked, restored: &Restored, volumes: &BTreeMap<String, PathBuf>, data: &Path) -> String {
    let (meta, count) = (&file.meta, &restored.count);
    let mut told = format!(
        "restored cluster {} as of {} (revision {}): {} objects, {} key files, {} of {} volumes to {}",
        meta.cluster,
        meta.time,
        meta.revision,
        count.objects,
        count.files,
        volumes.len(),
        count.volumes,
        data.display()
    );
    for name in restored.volumes.iter().filter(|name| !volumes.contains_key(*name)) {
        told.push_str(&format!("\nnot restored: volume {name} (see --volume and --volumes-to)"));
    }
    told
}
