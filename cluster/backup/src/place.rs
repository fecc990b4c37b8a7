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
//! * nothing that was there is deleted: what must make room is moved to `replaced-SECONDS` in the same folder.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base::Timestamp;

use crate::error::Doing;
use crate::{BackupError, Meta};

const PART: &str = "restoring.part";
const WHOLE: &str = "restoring";
/// What makes up a cluster.
const PARTS: [&str; 3] = ["pki", "db", FROM];
/// The first lines of the backup.
pub(crate) const FROM: &str = "restored-from";
/// A folder that holds nothing but these is blank: a mount point, images put there beforehand, an earlier try.
const BLANK: [&str; 5] = ["lock", "lost+found", "images", PART, WHOLE];

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

/// An empty folder for what is being restored.
pub fn prepare(folder: &Path) -> Result<PathBuf, BackupError> {
    let part = folder.join(PART);
    if part.exists() {
        fs::remove_dir_all(&part).doing("empty", &part)?;
    }
    fs::DirBuilder::new().mode(0o700).create(&part).doing("make", &part)?;
    Ok(part)
}

/// What was prepared is not to be.
pub(crate) fn abandon(folder: &Path) {
    // What is left is emptied by the next try.
    let _ = fs::remove_dir_all(folder.join(PART));
}

/// What was prepared is whole: makes it durable, and then the cluster of `folder`.
pub fn settle(folder: &Path, now: Timestamp) -> Result<(), BackupError> {
    let (part, whole) = (folder.join(PART), folder.join(WHOLE));
    let synced = sys::files::sync_file_system(&part).map_err(std::io::Error::other);
    synced.doing("make durable", &part)?;
    fs::rename(&part, &whole).doing("rename", &part)?;
    sys::files::sync_folder(folder).doing("make durable", folder)?;
    finish(folder, now).map(|_| ())
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
        let part = prepare(folder.path()).expect("it can be prepared");
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
        let part = prepare(folder.path()).expect("it can be prepared");
        assert_eq!(fs::read_dir(part).expect("a folder").count(), 0);
    }
}
