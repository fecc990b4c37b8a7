//! Puts the files of a volume in place so that they change together.
//!
//! Start at [`write`]. The files lie in a hidden folder named by time; `..data` links to it, and each visible name links
//! through `..data`. Swapping that one link changes all files at once, the layout programs in pods know from upstream.
//!
//! Invariant: nothing outside the volume's own folder is read, written or removed, whatever `..data` leads to.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::Payload;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Makes `folder` hold exactly `files`, whatever an earlier try that was cut off left there. Says whether the files changed.
pub fn write(folder: &Path, files: &Payload, group: Option<u32>) -> io::Result<bool> {
    let changed = !current(folder).is_some_and(|current| is_same(&folder.join(current), files));
    if changed {
        let next = next_name(folder)?;
        if let Err(error) = swap_in(folder, &next, files, group) {
            // The first error is the one to tell; what stays is swept next time.
            let _ = fs::remove_dir_all(folder.join(&next));
            return Err(error);
        }
    }
    show(folder, files)?;
    sweep(folder)?;
    Ok(changed)
}

/// Fills the folder `next` and makes `..data` name it. After an error `..data` names what it did before.
fn swap_in(folder: &Path, next: &str, files: &Payload, group: Option<u32>) -> io::Result<()> {
    let next_dir = folder.join(next);
    fs::create_dir(&next_dir)?;
    fs::set_permissions(&next_dir, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let target = next_dir.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.data)?;
        if let Some(group) = group {
            std::os::unix::fs::chown(&target, None, Some(group))?;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(file.mode))?;
    }
    sys::files::remove_file(&folder.join(DATA_NEXT))?;
    symlink(next, folder.join(DATA_NEXT))?;
    fs::rename(folder.join(DATA_NEXT), folder.join(DATA))
}

/// Removes folders that `..data` does not name.
fn sweep(folder: &Path) -> io::Result<()> {
    let current = current(folder);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| number_of(name).is_some()) && entry.file_type()?.is_dir();
        if is_ours && current.as_deref() != name.to_str() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The folder `..data` names, if it is one of ours. A link to anything else is replaced, and what it leads to is left alone.
fn current(folder: &Path) -> Option<String> {
    let name = fs::read_link(folder.join(DATA)).ok()?.into_os_string().into_string().ok()?;
    number_of(&name)?;
    fs::symlink_metadata(folder.join(&name)).is_ok_and(|found| found.is_dir()).then_some(name)
}

/// The number in `..N`, the name of a folder that holds files.
fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("..")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// A name for the next folder: the number after the highest there is, so that no clock is asked.
fn next_name(folder: &Path) -> io::Result<String> {
    let mut highest = 0;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        highest = highest.max(name.to_str().and_then(number_of).unwrap_or(0));
    }
    Ok(format!("..{}", highest.saturating_add(1)))
}

fn is_same(dir: &Path, files: &Payload) -> bool {
    let same = |(path, file): (&String, &super::File)| {
        let path = dir.join(path);
        let mode = fs::metadata(&path).map(|found| found.permissions().mode() & 0o7777);
        mode.is_ok_and(|mode| mode == file.mode & 0o7777) && fs::read(&path).is_ok_and(|data| data == file.data)
    };
    files.iter().all(same) && count(dir).is_ok_and(|count| count == files.len())
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut total = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        total += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(total)
}

/// Links each visible name through `..data` and removes the links of files that are gone.
fn show(folder: &Path, files: &Payload) -> io::Result<()> {
    let visible: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &visible {
        let link = folder.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let path = folder.join(&*name);
        // What is no link through `..data` is not ours, and must not stand in the way either.
        let is_ours = || fs::read_link(&path).is_ok_and(|target| target.starts_with(DATA));
        if !name.starts_with("..") && !visible.contains(&*name) && is_ours() {
            sys::files::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::File;
    use super::*;

    fn files(list: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.as_bytes().to_vec(), mode: 0o640 };
        list.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    #[test]
    fn files_change_together_and_only_when_they_changed() {
        let dir = tempfile::tempdir().expect("a folder");
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        let first = files(&[("a", "1"), ("d/b", "2")]);
        assert!(write(dir.path(), &first, None).expect("written"));
        assert_eq!((read("a"), read("d/b")), (Some("1".into()), Some("2".into())));
        assert!(!write(dir.path(), &first, None).expect("written"), "nothing changed");
        assert!(write(dir.path(), &files(&[("a", "3")]), None).expect("written"));
        assert_eq!((read("a"), read("d/b")), (Some("3".into()), None));
        let left: Vec<_> =
            fs::read_dir(dir.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left.len(), 3, "the data, its link, and one name: {left:?}");
        let mode = fs::metadata(dir.path().join("a")).expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o640);
    }

    #[test]
    fn a_link_that_is_not_ours_is_replaced_and_its_target_left_alone() {
        let host = tempfile::tempdir().expect("a folder");
        fs::write(host.path().join("a"), "theirs").expect("written");
        for target in [host.path().display().to_string(), "../host".to_owned(), "..7/../../host".to_owned()] {
            let pod = tempfile::tempdir().expect("a folder");
            fs::create_dir(pod.path().join("host")).expect("a folder");
            let volume = pod.path().join("v");
            fs::create_dir(&volume).expect("a folder");
            symlink(&target, volume.join(DATA)).expect("a link");
            assert!(write(&volume, &files(&[("a", "1")]), None).expect("written"), "{target}");
            assert_eq!(fs::read_to_string(volume.join("a")).expect("a file"), "1");
            assert!(pod.path().join("host").is_dir() && host.path().join("a").is_file(), "{target}");
        }
        // A name of ours that is itself a link, not a folder.
        let volume = tempfile::tempdir().expect("a folder");
        symlink(host.path(), volume.path().join("..7")).expect("a link");
        symlink("..7", volume.path().join(DATA)).expect("a link");
        assert!(write(volume.path(), &files(&[("a", "theirs")]), None).expect("written"));
        assert_eq!(fs::read_to_string(host.path().join("a")).expect("a file"), "theirs");
    }

    #[test]
    fn what_was_cut_off_is_finished_and_what_it_left_is_swept() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = files(&[("a", "1"), ("b", "2")]);
        write(dir.path(), &first, None).expect("written");
        // The power went between the new link and the names: one is missing, one is too many, a folder is left over.
        fs::remove_file(dir.path().join("b")).expect("removed");
        symlink("..data/old", dir.path().join("old")).expect("a link");
        fs::create_dir(dir.path().join("..9")).expect("a folder");
        assert!(!write(dir.path(), &first, None).expect("written"), "the files are the same");
        assert_eq!(fs::read_to_string(dir.path().join("b")).expect("a file"), "2");
        assert!(!dir.path().join("..9").exists() && fs::symlink_metadata(dir.path().join("old")).is_err());
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), &files(&[("a", "1")]), None).expect("written");
        // A file cannot be a folder too.
        write(dir.path(), &files(&[("a", "2"), ("a/b", "3")]), None).expect_err("refused");
        assert_eq!(fs::read_to_string(dir.path().join("a")).expect("a file"), "1");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 3, "the data, its link, and one name");
    }

    #[test]
    fn an_empty_volume_is_a_volume() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(write(dir.path(), &Payload::new(), None).expect("written"));
        assert!(!write(dir.path(), &Payload::new(), None).expect("written"));
    }
}
