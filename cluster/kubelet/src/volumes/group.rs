//! Gives a volume to a pod's group: `fsGroup` and `fsGroupChangePolicy`, by upstream's rules.
//!
//! Start at [`own`].
//!
//! Invariant: links are given, never followed.
//!
//! Not here: volumes whose files the kubelet writes itself (`atomic.rs`), NFS and host paths, which upstream leaves alone.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use super::{VolumeError, doing, fs_group};
use crate::pod::PodInfo;

/// Gives a folder and all in it to the pod's group, if it has one.
pub(super) fn own(pod: &PodInfo, folder: &Path, read_only: bool) -> Result<(), VolumeError> {
    let Some(group) = fs_group(pod) else { return Ok(()) };
    let group = group as u32;
    let context = pod.spec().security_context.as_ref();
    let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
    if policy == Some("OnRootMismatch")
        && matches_already(folder, group, read_only).map_err(doing("look at", folder))?
    {
        return Ok(());
    }
    give(folder, group, read_only).map_err(doing("give a group to", folder))
}

fn mask(is_dir: bool, read_only: bool) -> u32 {
    let files = if read_only { 0o440 } else { 0o660 };
    if is_dir { files | 0o2110 } else { files }
}

fn matches_already(folder: &Path, group: u32, read_only: bool) -> io::Result<bool> {
    let found = fs::metadata(folder)?;
    let wanted = mask(true, read_only);
    Ok(found.gid() == group && found.mode() & wanted == wanted)
}

fn give(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if found.is_symlink() {
        return Ok(());
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), group, read_only)?;
        }
    }
    fs::set_permissions(path, Permissions::from_mode(found.mode() & 0o7777 | mask(found.is_dir(), read_only)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn modes(folder: &Path) -> [(u32, u32); 2] {
        let of = |path: &Path| fs::metadata(path).map(|found| (found.gid(), found.mode() & 0o7777)).expect("there");
        [of(folder), of(&folder.join("file"))]
    }

    #[test]
    fn all_of_a_volume_belongs_to_the_group() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("v");
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("file"), "x").expect("written");
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("a mode");
        fs::set_permissions(folder.join("file"), Permissions::from_mode(0o600)).expect("a mode");
        std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).expect("a link");
        let passwd = fs::metadata("/etc/passwd").expect("there").mode();
        let pod = |policy: &str| {
            crate::pod::tests::pod(
                json!({"containers": [], "securityContext": {"fsGroup": 2000, "fsGroupChangePolicy": policy}}),
            )
        };
        own(&crate::pod::tests::pod(json!({"containers": []})), &folder, false).expect("left alone");
        assert_eq!(modes(&folder)[0].1, 0o700);
        own(&pod("Always"), &folder, false).expect("given");
        assert_eq!(modes(&folder), [(2000, 0o2770), (2000, 0o660)]);
        assert_eq!(fs::metadata("/etc/passwd").expect("there").mode(), passwd);
        fs::set_permissions(folder.join("file"), Permissions::from_mode(0o600)).expect("a mode");
        own(&pod("OnRootMismatch"), &folder, false).expect("left alone");
        assert_eq!(modes(&folder)[1].1, 0o600);
    }
}
