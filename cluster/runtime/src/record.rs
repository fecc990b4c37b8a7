//! What is written down of sandboxes and containers, so that the next start finds them.
//!
//! Start at [`SandboxRecord`] and [`ContainerRecord`]; [`Shelf`] is a folder of them, one folder and one small file each.
//!
//! Invariants:
//! * a record is on disk before the thing it speaks of exists, and goes after it: nothing is ever left that no record knows;
//! * a record that cannot be read is told and left alone, and never stops the others.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base::{Timestamp, chain};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sys::process::Process;

use crate::cri::{
    ContainerConfig, ContainerId, ContainerState, ContainerStatus, SandboxConfig, SandboxId, SandboxState,
    SandboxStatus,
};

/// A sandbox, as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) config: SandboxConfig,
    pub(crate) created_at_ns: i128,
    pub(crate) ips: Vec<IpAddr>,
    /// Its namespaces are there, unless the machine was started anew.
    pub(crate) ready: bool,
    /// The process that buries orphans, where the pod shares its pid namespace.
    pub(crate) init: Option<ProcessRecord>,
}

/// A process that can be found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
}

impl ProcessRecord {
    pub(crate) fn process(self) -> Process {
        Process { pid: self.pid, start_ticks: self.start_ticks }
    }
}

/// A container, as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) config: ContainerConfig,
    pub(crate) created_at_ns: i128,
    pub(crate) image_id: String,
    pub(crate) log_path: PathBuf,
    /// Its cgroup, relative to the root of the hierarchy.
    pub(crate) cgroup: String,
    /// What it runs, as the image and the config say together; exec takes environment and identity from here.
    pub(crate) program: crate::launch::Program,
    /// Layers, bottom first: they stay while the container does.
    pub(crate) layers: Vec<PathBuf>,
    /// The signal that asks it to stop.
    pub(crate) stop_signal: i32,
    pub(crate) life: Life,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Life {
    /// Prepared.
    Created,
    /// Its process is about to be made, or was: after a crash the keeper knows.
    Starting,
    /// Its process is there.
    Running { started_at_ns: i128, identity: ProcessRecord },
    /// Its process is gone.
    Exited {
        started_at_ns: Option<i128>,
        finished_at_ns: i128,
        exit_code: i32,
        signal: Option<i32>,
        reason: String,
        message: String,
    },
    /// Its process is gone, and nobody saw it go.
    Unknown,
}

impl Life {
    /// The word for errors.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Life::Created => "created",
            Life::Starting => "starting",
            Life::Running { .. } => "running",
            Life::Exited { .. } => "exited",
            Life::Unknown => "unknown",
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Life::Exited { .. } | Life::Unknown)
    }

    /// How it ended, from what the keeper saw.
    pub(crate) fn ended(started_at_ns: Option<i128>, exit: keeper::Exit) -> Life {
        if exit.code == keeper::UNKNOWN {
            return Life::Unknown;
        }
        let killed = exit.oom_killed && exit.code == 137;
        let reason = match exit.code {
            _ if killed => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        };
        Life::Exited {
            started_at_ns,
            finished_at_ns: exit.finished_at_ns,
            exit_code: exit.code,
            signal: (exit.signal != 0).then_some(exit.signal),
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    fn state(&self) -> ContainerState {
        match self {
            Life::Created | Life::Starting => ContainerState::Created,
            Life::Running { started_at_ns, .. } => ContainerState::Running { started_at: Timestamp(*started_at_ns) },
            Life::Exited { started_at_ns, finished_at_ns, exit_code, signal, reason, message } => {
                ContainerState::Exited {
                    started_at: started_at_ns.map(Timestamp),
                    finished_at: Timestamp(*finished_at_ns),
                    exit_code: *exit_code,
                    signal: *signal,
                    reason: reason.clone(),
                    message: message.clone(),
                }
            }
            Life::Unknown => ContainerState::Unknown,
        }
    }
}

impl SandboxRecord {
    pub(crate) fn status(&self) -> SandboxStatus {
        SandboxStatus {
            id: SandboxId(self.id.clone()),
            config: self.config.clone(),
            state: if self.ready { SandboxState::Ready } else { SandboxState::NotReady },
            created_at: Timestamp(self.created_at_ns),
            ips: self.ips.clone(),
        }
    }
}

impl ContainerRecord {
    pub(crate) fn status(&self) -> ContainerStatus {
        let pid = match self.life {
            Life::Running { identity, .. } => Some(identity.pid),
            _ => None,
        };
        ContainerStatus {
            id: ContainerId(self.id.clone()),
            sandbox: SandboxId(self.sandbox.clone()),
            name: self.config.name.clone(),
            attempt: self.config.attempt,
            state: self.life.state(),
            created_at: Timestamp(self.created_at_ns),
            image: self.config.image.clone(),
            image_id: self.image_id.clone(),
            pid,
            log_path: self.log_path.clone(),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
        }
    }
}

/// A folder of records: `<folder>/<id>/state.json`.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    pub(crate) fn open(folder: &Path) -> io::Result<Shelf> {
        fs::create_dir_all(folder)?;
        Ok(Shelf { folder: folder.to_owned() })
    }

    /// The folder of one thing.
    pub(crate) fn folder_of(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// All that are written down. What has a folder and no record was being made when the power went: its folder is
    /// returned for clearing away.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> (BTreeMap<String, T>, Vec<String>) {
        let (mut found, mut bare) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path().join("state.json");
            match fs::read(&path) {
                // The power went before its text reached the disk.
                Ok(text) if text.is_empty() => bare.push(id),
                Ok(text) => match serde_json::from_slice(&text) {
                    Ok(record) => drop(found.insert(id, record)),
                    Err(error) => tracing::warn!("record {} is left out: {}", path.display(), chain(&error)),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => bare.push(id),
                Err(error) => tracing::warn!("record {} is left out: {}", path.display(), chain(&error)),
            }
        }
        (found, bare)
    }

    /// Writes one down. What a kill leaves is whole; after a power cut the processes it speaks of are gone, so nobody waits
    /// for the disk here.
    pub(crate) fn write<T: Serialize>(&self, id: &str, record: &T) -> io::Result<()> {
        let text = serde_json::to_vec(record).map_err(io::Error::other)?;
        let folder = self.folder_of(id);
        fs::create_dir_all(&folder)?;
        sys::files::replace(&folder.join("state.json"), &text, 0o600)?;
        Ok(())
    }

    /// Takes one away with its folder. Gone is as good.
    pub(crate) fn remove(&self, id: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.folder_of(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            answer => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, signal: i32, oom_killed: bool) -> String {
        let exit = keeper::Exit { code, signal, finished_at_ns: 0, oom_killed };
        match Life::ended(None, exit) {
            Life::Unknown => "nobody knows".to_owned(),
            Life::Exited { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ends_have_kubernetes_names() {
        assert_eq!(ended(0, 0, false), "Completed");
        assert_eq!(ended(3, 0, false), "Error");
        assert_eq!(ended(137, 9, true), "OOMKilled");
        assert_eq!(ended(137, 9, false), "Error");
        assert_eq!(ended(0, 0, true), "Completed");
        assert_eq!(ended(keeper::UNKNOWN, 0, false), "nobody knows");
    }

    #[test]
    fn a_broken_record_hides_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::open(folder.path()).expect("open");
        shelf.write("good", &7u32).expect("written");
        shelf.write("bad", &8u32).expect("written");
        fs::write(folder.path().join("bad/state.json"), "{").expect("broken");
        fs::create_dir(folder.path().join("bare")).expect("made");
        shelf.write("cut", &9u32).expect("written");
        fs::write(folder.path().join("cut/state.json"), "").expect("emptied");
        let (found, mut bare) = shelf.read::<u32>();
        bare.sort();
        assert_eq!(
            (found.into_iter().collect::<Vec<_>>(), bare.join(" ").as_str()),
            (vec![("good".into(), 7)], "bare cut")
        );
    }
}
