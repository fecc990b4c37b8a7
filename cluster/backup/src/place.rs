//! The folder a cluster is restored to: when it may be used, and how old and new change places.
//!
//! Start at [`look`], then [`prepare`], and [`finish`] at the end.
//!
//! What a restore makes is written to `restoring.part`; once it is whole and on the disk that becomes `restoring`, and from
//! then on it will be the cluster: [`finish`] moves its parts to their places, and a server that finds a `restoring` when it
//! starts does the same first.
//!
//! Invariants:
//! * whenever the power goes, a server that starts then finds all of what was there before, or all of what was restored;
//! * nothing that was there is deleted: what must make room is moved to `replaced-SECONDS` in the same folder;
//! * a folder that a volume is unpacked to is named in `restoring.part` first: what an interrupted try left in it is of that try.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base::Timestamp;

use crate::error::Doing;
use crate::{BackupError, Meta};

const PART: &str = "restoring.part";
const WHOLE: &str = "restoring";
/// In the part: the folders that volumes are unpacked to, each ended by a nul.
const VOLUMES: &str = "volumes";
/// What a file system has of its own in its root.
const OF_FILE_SYSTEM: &str = "lost+found";
/// What makes up a cluster.
const PARTS: [&str; 3] = ["pki", "db", FROM];
/// The first lines of the backup.
pub(crate) const FROM: &str = "restored-from";
/// A folder that holds nothing but these is blank: a mount point, images put there beforehand, an earlier try.
const BLANK: [&str; 5] = ["lock", OF_FILE_SYSTEM, "images", PART, WHOLE];

/// What a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Blank,
    /// A cluster.
    Cluster,
}

/// Looks whether a cluster may be restored to `folder`. One that holds a cluster may be used if that is to be moved `aside`.
pub fn look(folder: &Path, aside: bool) -> Result<Standing, BackupError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Standing::Blank),
        entries => entries.doing("look into", folder)?,
    };
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
    names.sort();
    let Some(found) = names.iter().find(|name| !BLANK.contains(&name.as_str())) else { return Ok(Standing::Blank) };
    if aside && names.iter().any(|name| PARTS.contains(&name.as_str())) {
        return Ok(Standing::Cluster);
    }
    Err(BackupError::NotBlank { folder: folder.to_owned(), found: found.clone() })
}

/// Whether the cluster in `folder` was restored from the backup with these first lines.
pub fn is_restored(folder: &Path, meta: &Meta) -> bool {
    fs::read(folder.join(FROM)).is_ok_and(|lines| lines == meta.lines())
}

/// Refuses a volume's folder that holds something, unless an interrupted restore to `data` put it there.
pub fn look_for_volume(data: &Path, folder: &Path) -> Result<(), BackupError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.doing("look into", folder)?,
    };
    match entries.flatten().find(|entry| entry.file_name() != OF_FILE_SYSTEM) {
        Some(entry) if !begun(data).iter().any(|other| other == folder) => {
            let found = entry.file_name().to_string_lossy().into();
            Err(BackupError::NotBlank { folder: folder.to_owned(), found })
        }
        _ => Ok(()),
    }
}

/// The folders that an interrupted restore was unpacking volumes to.
fn begun(data: &Path) -> Vec<PathBuf> {
    let bytes = fs::read(data.join(PART).join(VOLUMES)).unwrap_or_default();
    // One that was cut short was never used.
    let whole = bytes.split_inclusive(|byte| *byte == 0).filter_map(|path| path.strip_suffix(b"\0"));
    whole.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect()
}

/// An empty folder for what is being restored, and empty ones for the volumes, where [`look_for_volume`] was content.
pub(crate) fn prepare<'a>(folder: &Path, volumes: impl Iterator<Item = &'a PathBuf>) -> Result<PathBuf, BackupError> {
    let part = folder.join(PART);
    if part.exists() {
        clear(folder)?;
    }
    fs::DirBuilder::new().mode(0o700).create(&part).doing("make", &part)?;
    let named: Vec<u8> = volumes.flat_map(|volume| [volume.as_os_str().as_bytes(), b"\0"].concat()).collect();
    if !named.is_empty() {
        let list = part.join(VOLUMES);
        fs::write(&list, named).doing("write", &list)?;
        make_durable(&part)?;
    }
    Ok(part)
}

/// Takes away what a restore that did not end well has made.
fn clear(data: &Path) -> Result<(), BackupError> {
    for volume in begun(data) {
        let Ok(entries) = fs::read_dir(&volume) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_name() != OF_FILE_SYSTEM) {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.doing("empty", &path)?;
        }
    }
    let part = data.join(PART);
    fs::remove_dir_all(&part).doing("empty", &part)
}

/// What was prepared is not to be.
pub(crate) fn abandon(folder: &Path) {
    // What is left is emptied by the next try.
    let _ = clear(folder);
}

/// What was prepared is whole: makes it durable, and then the cluster of `folder`.
pub(crate) fn settle(folder: &Path, now: Timestamp) -> Result<(), BackupError> {
    let (part, whole) = (folder.join(PART), folder.join(WHOLE));
    for volume in begun(folder).iter().filter(|volume| volume.exists()) {
        make_durable(volume)?;
    }
    make_durable(&part)?;
    fs::rename(&part, &whole).doing("rename", &part)?;
    sys::files::sync_folder(folder).doing("make durable", folder)?;
    finish(folder, now).map(|_| ())
}

fn make_durable(path: &Path) -> Result<(), BackupError> {
    sys::files::sync_file_system(path).map_err(std::io::Error::other).doing("make durable", path)
}

/// Moves a whole restore to its place, if there is one. Says whether there was.
pub fn finish(folder: &Path, now: Timestamp) -> Result<bool, BackupError> {
    let whole = folder.join(WHOLE);
    if !whole.is_dir() {
        return Ok(false);
    }
    for name in PARTS {
        let (from, to) = (whole.join(name), folder.join(name));
        if !from.exists() {
            continue;
        }
        if to.exists() {
            let aside = folder.join(format!("replaced-{}", now.seconds()));
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&aside).doing("make", &aside)?;
            fs::rename(&to, aside.join(name)).doing("move aside", &to)?;
        }
        fs::rename(&from, &to).doing("move in place", &to)?;
    }
    // Durable before the sign that there is something to be finished goes.
    sys::files::sync_folder(folder).doing("make durable", folder)?;
    fs::remove_dir_all(&whole).doing("remove", &whole)?;
    sys::files::sync_folder(folder).doing("make durable", folder)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(9);

    fn folder(entries: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for entry in entries.split_whitespace() {
            let (path, text) = entry.split_once('=').unwrap_or((entry, ""));
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        folder
    }

    /// Every file, as `path=text`.
    fn shown(folder: &Path) -> String {
        fn walk(folder: &Path, below: &str, all: &mut Vec<String>) {
            for entry in fs::read_dir(folder).expect("a folder").flatten() {
                let name = format!("{below}{}", entry.file_name().to_string_lossy());
                match fs::read_to_string(entry.path()) {
                    Ok(text) => all.push(format!("{name}={text}")),
                    Err(_) => walk(&entry.path(), &format!("{name}/"), all),
                }
            }
        }
        let mut all = Vec::new();
        walk(folder, "", &mut all);
        all.sort();
        all.join(" ")
    }

    #[track_caller]
    fn check_look(entries: &str, aside: bool, wanted: Result<Standing, &str>) {
        let folder = folder(entries);
        let got = look(folder.path(), aside).map_err(|error| match error {
            BackupError::NotBlank { found, .. } => found,
            other => panic!("{other}"),
        });
        assert_eq!(got.as_ref().map_err(String::as_str), wanted.as_ref().map_err(|found| *found), "{entries}");
    }

    #[test]
    fn only_a_blank_folder_is_taken() {
        check_look("", false, Ok(Standing::Blank));
        check_look("lost+found/x lock images/a restoring.part/db", false, Ok(Standing::Blank));
        check_look("lock db/state.db", false, Err("db"));
        check_look("holiday.jpg", false, Err("holiday.jpg"));
        assert_eq!(look(Path::new("/does/not/exist"), false).expect("it is blank"), Standing::Blank);
    }

    #[test]
    fn a_cluster_is_moved_aside_only_when_asked_and_nothing_else_ever() {
        check_look("db/state.db pki/ca.key kubelet/x", true, Ok(Standing::Cluster));
        check_look("holiday.jpg", true, Err("holiday.jpg"));
    }

    #[test]
    fn old_and_new_change_places() {
        let folder = folder("db/a=old pki/a=old kubelet/x=kept");
        let part = prepare(folder.path(), std::iter::empty()).expect("it can be prepared");
        for name in ["db", "pki"] {
            fs::create_dir(part.join(name)).expect("a folder");
            fs::write(part.join(name).join("a"), "new").expect("a file");
        }
        settle(folder.path(), NOW).expect("it can be settled");
        assert_eq!(shown(folder.path()), "db/a=new kubelet/x=kept pki/a=new replaced-9/db/a=old replaced-9/pki/a=old");
    }

    #[test]
    fn wherever_the_power_went_the_next_start_finishes() {
        let moments = [
            "db/a=old pki/a=old restoring/db/a=new restoring/pki/a=new",
            "db/a=old replaced-1/pki/a=old restoring/db/a=new restoring/pki/a=new",
            "db/a=old pki/a=new replaced-1/pki/a=old restoring/db/a=new",
            "pki/a=new replaced-1/db/a=old replaced-1/pki/a=old restoring/db/a=new",
        ];
        for moment in moments {
            let folder = folder(moment);
            assert!(finish(folder.path(), NOW).expect("it can be finished"), "{moment}");
            let after = shown(folder.path());
            assert!(after.starts_with("db/a=new pki/a=new replaced") && after.matches("old").count() == 2, "{after}");
            assert!(!finish(folder.path(), NOW).expect("it is finished"));
        }
    }

    #[test]
    fn what_is_not_whole_is_begun_anew() {
        let folder = folder("restoring.part/db/half=1");
        assert!(!finish(folder.path(), NOW).expect("nothing to finish"));
        let part = prepare(folder.path(), std::iter::empty()).expect("it can be prepared");
        assert_eq!(fs::read_dir(part).expect("a folder").count(), 0);
    }

    #[test]
    fn a_volume_half_unpacked_is_emptied_by_the_next_try_and_another_folder_never() {
        let data = folder("");
        let volumes = folder("web/lost+found/x=1 other/mine=1");
        let (web, other) = (volumes.path().join("web"), volumes.path().join("other"));
        let refused = |path: &Path| look_for_volume(data.path(), path).err().map(|error| error.to_string());
        assert_eq!(refused(&web), None);
        assert!(refused(&other).is_some_and(|why| why.contains("mine")));
        prepare(data.path(), [&web].into_iter()).expect("it can be prepared");
        fs::create_dir(web.join("half")).expect("a folder");
        fs::write(web.join("half/file"), "1").expect("a file");
        // The power went; the folder is this restore's own.
        assert_eq!((refused(&web), refused(&other).is_some()), (None, true));
        prepare(data.path(), [&web].into_iter()).expect("it can be prepared");
        assert_eq!(shown(volumes.path()), "other/mine=1 web/lost+found/x=1");
        fs::write(web.join("whole"), "1").expect("a file");
        settle(data.path(), NOW).expect("it can be settled");
        // It is somebody's now.
        assert!(refused(&web).is_some_and(|why| why.contains("whole")));
        assert_eq!(shown(volumes.path()), "other/mine=1 web/lost+found/x=1 web/whole=1");
    }
}
