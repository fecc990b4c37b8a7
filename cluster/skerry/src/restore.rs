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
use std::path::{Component, Path, PathBuf};

use ::backup::{BackupError, Checked, Key, Restored, check, finish, is_restored, look, look_for_volume};
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
    look(&options.data_dir, options.move_aside).map_err(failed)?;
    let choice = Choice { named: &options.volume, below: options.volumes_to.as_deref() };
    let volumes = choice.folders(&file, &options.data_dir).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RestoreFailed::Threads)?;
    let wish = Wish { file: &file, data: &options.data_dir, move_aside: options.move_aside, volumes: &volumes };
    println!("{}", runtime.block_on(fulfil(&wish, now))?);
    Ok(())
}

/// What a server does before its first start if it was given a backup. A folder that holds anything is used as it is.
pub(crate) async fn before_first_start(
    file: &Path,
    options: &cli::Server,
    now: Timestamp,
) -> Result<(), RestoreFailed> {
    let data = options.data_dir.as_path();
    let failed = |source| RestoreFailed::Restore { folder: data.to_owned(), source };
    if !is_blank(data).map_err(failed)? {
        return Ok(());
    }
    let key = options.restore_key.as_deref().map(Key::read).transpose().map_err(failed)?;
    let file = check(file, key.as_ref()).map_err(failed)?;
    let choice = Choice { below: options.restore_volumes.as_deref(), ..Choice::default() };
    let volumes = choice.folders(&file, data).map_err(failed)?;
    let wish = Wish { file: &file, data, move_aside: false, volumes: &volumes };
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

/// Which volumes go where. Those that are not chosen stay in the file.
#[derive(Default)]
struct Choice<'a> {
    /// Each of these to a folder of its own.
    named: &'a [(String, PathBuf)],
    /// All others below this folder, at the path they were backed up from.
    below: Option<&'a Path>,
}

impl Choice<'_> {
    /// The folder of each chosen volume of the file; they can be used for a restore to `data`.
    fn folders(&self, file: &Checked, data: &Path) -> Result<BTreeMap<String, PathBuf>, BackupError> {
        let contents = file.contents()?;
        let mut chosen = BTreeMap::new();
        for name in self.below.iter().flat_map(|_| &contents.volumes) {
            let path = Path::new(name.trim_start_matches('/'));
            if !path.components().all(|part| matches!(part, Component::Normal(_))) {
                let detail = format!("it names a volume {name:?}");
                return Err(BackupError::Damaged { path: file.path.clone(), detail });
            }
            chosen.extend(self.below.map(|folder| (name.clone(), folder.join(path))));
        }
        chosen.extend(self.named.iter().cloned());
        for (name, folder) in &chosen {
            file.must_hold(&contents, name)?;
            look_for_volume(data, folder)?;
        }
        Ok(chosen)
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
