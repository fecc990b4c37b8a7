//! Takes volumes of pods away, and lets go of what waits for a server that does not answer.
//!
//! Start at [`unmount_all`], and at [`let_go`] for containers that do not end. Mounts of one export share a file system in the
//! kernel, and force fails what anybody waits for, by whichever mount: [`who_stays`] says who would suffer.
//!
//! Invariants:
//! * force is used only where the server gave no answer, and only if every mount of that file system on this node is one of a pod
//!   that leaves; otherwise a mount is detached, and a process that waits goes on waiting;
//! * what is mounted is read from the kernel's list; only helpers touch a server.
//!
//! Not here: mounting (`mod.rs`), how a helper is asked (`helper.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sys::mounts::{Listed, is_remote};

use super::helper::{self, Helper, HelperError, Request, Way};
use super::{VolumeError, doing};

/// A server that is well answers a question about its export within this, however much is being written to it.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Folders of pods whose time is over: what they still wait for may be given up.
#[derive(Debug, Default)]
pub struct Leaving(Mutex<BTreeSet<PathBuf>>);

impl Leaving {
    /// The time of the pod of this folder is over. Whether that is new.
    pub fn add(&self, pod_dir: &Path) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pod_dir.to_owned())
    }

    /// Nothing of it is mounted any more, or nobody tries to take it away.
    pub fn remove(&self, pod_dir: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(pod_dir);
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A server that does not answer, and what became of processes of a pod that wait for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Waiting {
    /// Whatever waited for the server of this export failed.
    #[error("the NFS server of {0} does not answer, and what was not written there is given up")]
    GivenUp(String),
    /// Pods that stay have the same export mounted: nothing was given up.
    #[error(
        "the NFS server of {0} does not answer, and nothing is given up, because pods that stay on this node use the same \
         file system: it ends when the server answers, or when they leave too"
    )]
    Kept(String),
    /// What waits could not be given up.
    #[error("the NFS server of {0} does not answer, and what waits for it could not be given up: {1}")]
    Failed(String, HelperError),
}

/// Where else the file system at `target` is mounted, but in folders of pods that leave.
fn who_stays<'a>(mounts: &'a [Listed], target: &Path, leaving: &BTreeSet<PathBuf>) -> Vec<&'a Path> {
    let device = mounts.iter().rfind(|mount| mount.target == target).map(|mount| &mount.device);
    let leaves = |path: &Path| path.ancestors().any(|folder| leaving.contains(folder));
    let same = mounts.iter().filter(|mount| Some(&mount.device) == device);
    same.map(|mount| mount.target.as_path()).filter(|path| !leaves(path)).collect()
}

/// How a mount is taken away that did not go by itself: `whole` is what came of asking for that.
fn next_way<T>(whole: &Result<T, HelperError>, stays: &[&Path]) -> Way {
    match whole {
        Err(HelperError::Late { .. }) if stays.is_empty() => Way::Force,
        _ => Way::Detach,
    }
}

/// Gives up what processes of a pod whose containers do not end wait for, where that is their server's fault and harms nobody
/// else. Says what it found about each server that does not answer. Blocks for [`ANSWER_MAX`] and a little more for each.
pub fn let_go(pod_dir: &Path, leaving: &Leaving, helper: &Helper) -> Vec<Waiting> {
    let mounts = sys::mounts::list().unwrap_or_default();
    let mut seen = BTreeSet::new();
    let remote = |mount: &&Listed| is_remote(&mount.kind) && mount.target.starts_with(pod_dir);
    let each_once = mounts.iter().filter(remote).filter(|mount| seen.insert(&mount.device));
    let silent = each_once.filter(|mount| {
        let asked = helper.ask(&Request::Look { target: mount.target.clone() }, ANSWER_MAX);
        matches!(asked, Err(HelperError::Late { .. }))
    });
    silent.map(|mount| give_up(mount, &mounts, leaving, helper)).collect()
}

fn give_up(mount: &Listed, mounts: &[Listed], leaving: &Leaving, helper: &Helper) -> Waiting {
    if !who_stays(mounts, &mount.target, &leaving.folders()).is_empty() {
        return Waiting::Kept(mount.source.clone());
    }
    match helper.ask(&Request::GiveUp { target: mount.target.clone() }, ANSWER_MAX) {
        Ok(_) => Waiting::GivenUp(mount.source.clone()),
        Err(error) => Waiting::Failed(mount.source.clone(), error),
    }
}

/// Unmounts everything below the folder of a pod that has ended. Blocks until servers have what is written, or for a while.
pub fn unmount_all(pod_dir: &Path, leaving: &Leaving, helper: &Helper) -> Result<(), VolumeError> {
    leaving.add(pod_dir);
    let mut mounted = sys::mounts::kinds_below(pod_dir).map_err(VolumeError::Mount)?;
    mounted.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
    let (remote, local): (Vec<_>, Vec<_>) = mounted.into_iter().partition(|(_, kind)| is_remote(kind));
    // Each of a dead server's takes its time, and none lies in another.
    let done: Vec<Result<(), VolumeError>> = std::thread::scope(|scope| {
        let asked = remote.iter().map(|(path, _)| scope.spawn(|| unmount_remote(path, leaving, helper)));
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    for (path, _) in &local {
        sys::mounts::unmount(path).map_err(VolumeError::Mount)?;
    }
    done.into_iter().collect::<Result<(), _>>()?;
    leaving.remove(pod_dir);
    Ok(())
}

/// Whole if the server answers, and otherwise as far as that harms nobody else.
fn unmount_remote(path: &Path, leaving: &Leaving, helper: &Helper) -> Result<(), VolumeError> {
    let gone = || sys::mounts::mounted_below(path).map(|found| found.is_empty()).map_err(VolumeError::Mount);
    let ask = |way| helper.ask(&Request::Unmount { target: path.to_owned(), way }, helper::UNMOUNT_MAX);
    let whole = ask(Way::Whole);
    // A helper that hangs may have taken it out of the tree all the same.
    if gone()? {
        return Ok(());
    }
    let mounts = sys::mounts::list().map_err(VolumeError::Mount)?;
    let asked = ask(next_way(&whole, &who_stays(&mounts, path, &leaving.folders())));
    match (gone()?, asked) {
        (true, _) => Ok(()),
        (false, Err(error)) => Err(error.into()),
        (false, Ok(_)) => Err(VolumeError::StillMounted(path.to_owned())),
    }
}

/// Removes a folder, unless something is mounted in it: what a server keeps must not go with a pod.
pub fn remove_folder(folder: &Path) -> Result<(), VolumeError> {
    if let Some(path) = sys::mounts::mounted_below(folder).map_err(VolumeError::Mount)?.into_iter().next() {
        return Err(VolumeError::StillMounted(path));
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(doing("remove", folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::mounts::{Attributes, Tree};

    /// Who stays when the mount at `/pods/TARGET` is taken away; mounts are `device:path`.
    #[track_caller]
    fn check(mounts: &str, target: &str, leaving: &str, wanted: &str) {
        let mount = |text: &str| {
            let (device, path) = text.split_once(':').expect("a device");
            let (kind, source) = ("nfs4".to_owned(), "s:/srv".to_owned());
            Listed { device: device.to_owned(), target: Path::new("/pods").join(path), kind, source }
        };
        let mounts: Vec<Listed> = mounts.split(' ').map(mount).collect();
        let leaving = leaving.split_whitespace().map(|pod| Path::new("/pods").join(pod)).collect();
        let stays = who_stays(&mounts, &Path::new("/pods").join(target), &leaving);
        let stays: Vec<String> = stays.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(stays.join(" "), wanted);
    }

    #[test]
    fn force_harms_nobody_where_all_that_share_leave() {
        check("1:a/v 1:b/v", "a/v", "a b", "");
        check("1:a/v 2:b/v", "a/v", "a", "");
        check("1:a/v 1:a/w", "a/v", "a", "");
    }

    #[test]
    fn pods_and_mounts_of_others_that_share_are_named() {
        check("1:a/v 1:b/v 2:c/v", "a/v", "a", "/pods/b/v");
        check("1:a/v 1:/mnt", "a/v", "a", "/mnt");
        check("1:a/v 1:ab/v", "a/v", "a", "/pods/ab/v");
        check("1:a/v", "a/v", "", "/pods/a/v");
    }

    #[test]
    fn the_last_mount_of_a_place_counts() {
        check("1:a/v 2:a/v 1:b/v", "a/v", "a", "");
    }

    #[test]
    fn only_a_silent_server_is_forced_and_only_alone() {
        let late = Err::<(), _>(HelperError::Late { what: "s:/srv".to_owned(), seconds: 10 });
        let busy = Err::<(), _>(HelperError::Refused("busy".to_owned()));
        let other = [Path::new("/pods/b/v")];
        assert_eq!(next_way(&late, &[]), Way::Force);
        assert_eq!(next_way(&late, &other), Way::Detach);
        assert_eq!(next_way(&busy, &[]), Way::Detach);
        assert_eq!(next_way(&Ok(()), &[]), Way::Detach);
    }

    #[test]
    fn a_folder_in_which_something_is_mounted_is_not_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (pod, inside) = (dir.path().join("pod"), dir.path().join("pod/volume"));
        fs::create_dir_all(&inside).expect("a folder");
        let tree = Tree::new("tmpfs", &[], Attributes::NODEV).expect("a tmpfs");
        tree.hang_at(&inside).expect("hung");
        fs::write(inside.join("data"), "x").expect("written");
        let refused = remove_folder(&pod).expect_err("refused").to_string();
        assert_eq!(refused, format!("{} is still mounted", inside.display()));
        assert!(inside.join("data").exists());
        let (helper, leaving) = (Helper { program: "/no/such".into(), args: Vec::new() }, Leaving::default());
        assert_eq!(let_go(&pod, &leaving, &helper), []);
        unmount_all(&pod, &leaving, &helper).expect("a tmpfs needs no helper");
        assert!(leaving.folders().is_empty());
        remove_folder(&pod).expect("removed");
    }
}
