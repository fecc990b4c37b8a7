//! Puts the files of a volume in place so that they change together.
//!
//! Start at [`write`]. The files lie in a hidden folder named by time; `..data` links to it, and each visible name links
//! through `..data`. Swapping that one link changes all files at once, the layout programs in pods know from upstream.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::Payload;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Makes `folder` hold exactly `files`; does nothing if it does already. Says whether anything changed.
pub fn write(folder: &Path, files: &Payload, group: Option<u32>) -> io::Result<bool> {
    let current = fs::read_link(folder.join(DATA)).ok();
    if current.as_ref().is_some_and(|current| is_same(&folder.join(current), files)) {
        return Ok(false);
    }
    let next = next_name(folder)?;
    let next_dir = folder.join(&next);
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
    remove_link(&folder.join(DATA_NEXT))?;
    symlink(&next, folder.join(DATA_NEXT))?;
    fs::rename(folder.join(DATA_NEXT), folder.join(DATA))?;
    show(folder, files)?;
    if let Some(current) = current {
        fs::remove_dir_all(folder.join(current))?;
    }
    Ok(true)
}

fn remove_link(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A name for the next folder: the number after the highest there is, so that no clock is asked.
fn next_name(folder: &Path) -> io::Result<String> {
    let mut highest = 0;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("..")).and_then(|name| name.parse::<u64>().ok());
        highest = highest.max(number.unwrap_or(0));
    }
    Ok(format!("..{}", highest + 1))
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

/// Links each visible name through `..data` and removes those of files that are gone.
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
        if !name.starts_with("..") && !visible.contains(&*name) {
            remove_link(&folder.join(&*name))?;
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
    fn an_empty_volume_is_a_volume() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(write(dir.path(), &Payload::new(), None).expect("written"));
        assert!(!write(dir.path(), &Payload::new(), None).expect("written"));
    }
}
