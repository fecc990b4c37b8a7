//! Short-lived helpers that touch NFS, so that a server that does not answer stops them and nobody else.
//!
//! Start at [`Helper::ask`]; [`main`] is the other side: this same program, started anew. What a helper is asked is one of
//! [`Request`], as JSON in its only argument; its answer is its output.
//!
//! Invariants:
//! * an answer, or an error that names the server, comes by the deadline: the helper is killed then, and one that cannot even be
//!   killed is left to itself;
//! * no thread of the kubelet ever touches a path below an NFS mount.
//!
//! Not here: what the kernel is told (`nfs.rs`).

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sys::mounts::{self, Tree};

use super::nfs::{self, Plan};

/// How long a server may take to answer a mount. Longer than a healthy one under load needs, shorter than a person waits.
pub const MOUNT_MAX: Duration = Duration::from_secs(20);
/// How long what is written may take to reach the server before a mount is taken away by force.
pub const UNMOUNT_MAX: Duration = Duration::from_secs(10);
/// How long looking at a path may take.
pub const LOOK_MAX: Duration = Duration::from_secs(10);
/// How long removing a volume's data may take in one go; what is left is gone on with later.
pub const CLEAR_MAX: Duration = Duration::from_secs(300);
/// How long a killed helper may take to end: the kernel may hold it.
const DIE_MAX: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 8192;
const NFS_PORT: u16 = 2049;

/// An export of a server, and how to mount it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Name or address.
    pub server: String,
    /// What of it.
    pub path: String,
    /// Mount options, each perhaps several with commas between.
    pub options: Vec<String>,
    /// Whether it may only be read.
    pub read_only: bool,
}

/// What a helper is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Mounts an export at a folder.
    Mount {
        /// What.
        export: Export,
        /// A directory below this other export is made first; the export is that directory.
        below: Option<String>,
        /// Where.
        target: PathBuf,
    },
    /// Takes a mount away.
    Unmount {
        /// Where.
        target: PathBuf,
        /// How.
        way: Way,
    },
    /// Asks the server of a mount for anything at all.
    Look {
        /// Where it is mounted.
        target: PathBuf,
    },
    /// Fails whatever waits for the server of a mount, which stays.
    GiveUp {
        /// Where it is mounted.
        target: PathBuf,
    },
    /// Finds, and makes, a part of a volume; answers its path.
    SubPath {
        /// The volume's folder.
        volume: PathBuf,
        /// What of it.
        inside: String,
    },
    /// Removes what a directory of an export holds, and the directory itself if it lies below another export.
    Clear {
        /// The directory.
        export: Export,
        /// The export it lies in.
        below: Option<String>,
    },
}

/// How a mount is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// When all is written.
    Whole,
    /// From the tree at once, and from who uses it when that ends.
    Detach,
    /// At once, and everything that waits for its file system fails, by other mounts of it too.
    Force,
}

/// Why a helper did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelperError {
    /// It said why.
    #[error("{0}")]
    Refused(String),
    /// It did not answer in time.
    #[error("{what}: no answer within {seconds} s")]
    Late {
        /// What of it.
        what: String,
        /// How long that was.
        seconds: u64,
    },
    /// It could not be started.
    #[error("failed to start the mount helper {program}: {why}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        why: String,
    },
}

/// How helpers are started: this program again, with these words before the request.
#[derive(Clone, Debug)]
pub struct Helper {
    /// The program.
    pub program: PathBuf,
    /// Its first words.
    pub args: Vec<OsString>,
}

impl Request {
    /// What it is about, as `server:/path` or a path.
    fn what(&self) -> String {
        match self {
            Request::Mount { export, .. } | Request::Clear { export, .. } => {
                format!("{}:{}", export.server, export.path)
            }
            Request::Unmount { target, .. } | Request::Look { target } | Request::GiveUp { target } => {
                target.display().to_string()
            }
            Request::SubPath { volume, inside } => volume.join(inside).display().to_string(),
        }
    }
}

impl Helper {
    /// Has something done by the deadline. Blocks so long: never to be called from an async task.
    pub fn ask(&self, request: &Request, deadline: Duration) -> Result<String, HelperError> {
        // Plain data always has a JSON form.
        let text = serde_json::to_string(request).unwrap_or_default();
        self.run(&[text.into()], &request.what(), deadline)
    }

    fn run(&self, words: &[OsString], what: &str, deadline: Duration) -> Result<String, HelperError> {
        let failed = |error: &dyn std::fmt::Display| HelperError::Start {
            program: self.program.clone(),
            why: error.to_string(),
        };
        let mut command = Command::new(&self.program);
        command.args(&self.args).args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let pidfd = sys::process::pidfd_open(child.id()).map_err(|error| failed(&error))?;
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let mut answer = String::new();
            let read = child.stdout.take().map(|out| out.take(ANSWER_BYTES_MAX).read_to_string(&mut answer));
            let status = child.wait();
            let _ = tell.send((status.is_ok_and(|status| status.success()) && !matches!(read, Some(Err(_))), answer));
        });
        let late = || HelperError::Late { what: what.to_owned(), seconds: deadline.as_secs() };
        match told.recv_timeout(deadline) {
            Ok((true, answer)) => Ok(answer),
            Ok((false, answer)) if answer.is_empty() => {
                Err(HelperError::Refused(format!("{what}: the mount helper died")))
            }
            Ok((false, answer)) => Err(HelperError::Refused(answer)),
            Err(RecvTimeoutError::Timeout) => {
                let _ = sys::process::send_signal(&pidfd, 9);
                if told.recv_timeout(DIE_MAX).is_err() {
                    tracing::warn!(what, "a helper that was killed does not end: the kernel waits for its server");
                }
                Err(late())
            }
            Err(RecvTimeoutError::Disconnected) => Err(late()),
        }
    }
}

/// The helper itself; `args` are the words after [`Helper::args`]. The answer is the exit code.
pub fn main(mut args: impl Iterator<Item = OsString>) -> i32 {
    let request = args.next().and_then(|text| serde_json::from_slice(text.as_encoded_bytes()).ok());
    let Some(request) = request else {
        eprintln!("mounter: this is for the kubelet to call, with a request as JSON");
        return 2;
    };
    match act(&request) {
        Ok(answer) => {
            print!("{answer}");
            0
        }
        Err(why) => {
            print!("{}: {why}", request.what());
            1
        }
    }
}

fn act(request: &Request) -> Result<String, String> {
    match request {
        Request::Mount { export, below, target } => {
            let address = address(&export.server)?;
            if let Some(share) = below {
                make_directory(export, address, share)?;
            }
            let (tree, version) = mount(address, &export.path, export)?;
            tree.hang_at(target).map_err(|error| base::chain(&error).to_string())?;
            Ok(version)
        }
        Request::Unmount { target, way } => {
            let unmount = match way {
                Way::Whole => mounts::unmount_whole,
                Way::Detach => mounts::unmount,
                Way::Force => mounts::unmount_by_force,
            };
            unmount(target).map_err(said).map(|()| String::new())
        }
        Request::Look { target } => sys::files::space(target).map_err(said).map(|_| String::new()),
        Request::GiveUp { target } => mounts::fail_waiting(target).map_err(said).map(|()| String::new()),
        Request::SubPath { volume, inside } => {
            super::sub_path(volume, inside).map(|path| path.to_string_lossy().into_owned())
        }
        Request::Clear { export, below } => clear(export, below.as_deref()).map(|()| String::new()),
    }
}

fn said(error: sys::SysError) -> String {
    base::chain(&error).to_string()
}

/// The server's address; names are looked up by the node's own resolver.
fn address(server: &str) -> Result<IpAddr, String> {
    let bare = server.trim_matches(['[', ']']);
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    let found =
        (bare, NFS_PORT).to_socket_addrs().map_err(|error| format!("failed to find the server's address: {error}"))?;
    let mut all: Vec<IpAddr> = found.map(|each| each.ip()).collect();
    all.sort_by_key(IpAddr::is_ipv6);
    all.first().copied().ok_or_else(|| "the server's name has no address".to_owned())
}

/// Mounts by the first version that works; says which.
fn mount(address: IpAddr, path: &str, export: &Export) -> Result<(Tree, String), String> {
    let plans = nfs::plans(address, path, &export.options, export.read_only)?;
    let mut why: Option<(Option<i32>, String)> = None;
    for plan in &plans {
        let error = match attempt(plan) {
            Ok(tree) => return Ok((tree, plan.options[0].1.clone())),
            Err(error) => error,
        };
        let errno = mounts::errno(&error.source);
        let text = match nfs::words(errno) {
            Some(words) => format!("{words} ({})", error.source),
            None => error.source.to_string(),
        };
        // What the server said about the export is of more use than that it speaks no older version.
        let known = why.as_ref().is_some_and(|(errno, _)| matches!(errno, Some(2 | 13)));
        if !known {
            why = Some((errno, text));
        }
        if !nfs::may_try_another(errno) {
            break;
        }
    }
    Err(why.map_or_else(|| "no way to mount it".to_owned(), |(_, text)| text))
}

fn attempt(plan: &Plan) -> sys::Result<Tree> {
    let options: Vec<(&str, &str)> = plan.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Tree::of_source("nfs", &plan.source, &options, plan.attributes)
}

/// What of an export lies below another, as a relative path of plain names.
fn inside<'a>(export: &'a Export, share: &str) -> Result<&'a Path, String> {
    let relative = Path::new(&export.path).strip_prefix(share).map_err(|_| format!("it does not lie below {share}"))?;
    let plain = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain && relative.components().next().is_some() {
        Ok(relative)
    } else {
        Err(format!("it is no directory below {share}"))
    }
}

fn make_directory(export: &Export, address: IpAddr, share: &str) -> Result<(), String> {
    let writable = Export { read_only: false, ..export.clone() };
    let (tree, _) = mount(address, share, &writable)?;
    let path = sys::files::path_of(&tree.as_fd()).join(inside(export, share)?);
    if path.is_dir() {
        return Ok(());
    }
    let failed = |error: std::io::Error| format!("failed to make the directory: {error}");
    fs::create_dir_all(&path).map_err(failed)?;
    // Pods come as any user; who may enter is the claim's namespace to say.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(failed)
}

fn clear(export: &Export, below: Option<&str>) -> Result<(), String> {
    let address = address(&export.server)?;
    let failed = |error: std::io::Error| format!("failed to remove the data: {error}");
    let writable = Export { read_only: false, ..export.clone() };
    match below {
        Some(share) => {
            let (tree, _) = mount(address, share, &writable)?;
            let path = sys::files::path_of(&tree.as_fd()).join(inside(export, share)?);
            match fs::remove_dir_all(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            }
        }
        None => {
            let (tree, _) = mount(address, &export.path, &writable)?;
            empty(&sys::files::path_of(&tree.as_fd())).map_err(failed)
        }
    }
}

/// Removes everything inside a folder; links are removed, never followed.
pub fn empty(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str, deadline: Duration) -> Result<String, HelperError> {
        let helper = Helper { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] };
        helper.run(&[], "10.0.0.9:/srv", deadline)
    }

    #[test]
    fn a_helper_that_hangs_is_killed_at_its_deadline() {
        let begun = Instant::now();
        let late = shell("exec sleep 60", Duration::from_millis(200));
        assert_eq!(late, Err(HelperError::Late { what: "10.0.0.9:/srv".to_owned(), seconds: 0 }));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn what_a_helper_says_is_heard() {
        let long = Duration::from_secs(20);
        assert_eq!(shell("printf 4.2", long).as_deref(), Ok("4.2"));
        assert_eq!(shell("printf why; exit 1", long), Err(HelperError::Refused("why".to_owned())));
        let died = HelperError::Refused("10.0.0.9:/srv: the mount helper died".to_owned());
        assert_eq!(shell("kill -9 $$", long), Err(died));
        let none = Helper { program: "/no/such".into(), args: Vec::new() };
        assert!(matches!(none.run(&[], "", long), Err(HelperError::Start { .. })));
    }

    #[test]
    fn a_directory_of_a_class_lies_below_its_share() {
        let export =
            |path: &str| Export { server: "s".into(), path: path.into(), options: Vec::new(), read_only: false };
        assert_eq!(inside(&export("/srv/a"), "/srv/"), Ok(Path::new("a")));
        assert!(inside(&export("/srv"), "/srv").is_err());
        assert!(inside(&export("/srv/../etc"), "/srv").is_err());
        assert!(inside(&export("/etc"), "/srv").is_err());
    }

    #[test]
    fn a_folder_is_emptied_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (kept, folder) = (dir.path().join("kept"), dir.path().join("folder"));
        fs::create_dir_all(folder.join("a/b")).expect("made");
        fs::write(&kept, "x").expect("written");
        fs::write(folder.join("a/file"), "x").expect("written");
        std::os::unix::fs::symlink(dir.path(), folder.join("link")).expect("a link");
        empty(&folder).expect("emptied");
        assert!(kept.exists() && fs::read_dir(&folder).expect("a folder").next().is_none());
    }

    /// The whole way but for the server; a kernel with NFS finds no server at this address, one without says so.
    #[test]
    fn a_mount_that_fails_names_server_and_export() {
        let export = Export {
            server: "127.0.0.1".into(),
            path: "/srv".into(),
            options: vec!["vers=4.2".into()],
            read_only: false,
        };
        let why = act(&Request::Mount { export, below: None, target: "/nowhere".into() }).expect_err("no server");
        let known = ["this node's kernel has no NFS", "the server refuses connections"];
        assert!(known.iter().any(|words| why.contains(words)), "{why}");
    }
}
