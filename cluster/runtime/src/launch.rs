//! What the runtime asks of its helpers, as values.
//!
//! Start at [`Launch`]. Everything is decided before: a helper looks up only what can be seen from inside alone (users of the
//! image, the program in `PATH`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cri::{Device, Mount};

/// Make a pod's namespaces and pin them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxLaunch {
    /// The folder they are pinned in, there already.
    pub(crate) pins: PathBuf,
    /// A network namespace, with its own host name.
    pub(crate) network: bool,
    /// An IPC namespace.
    pub(crate) ipc: bool,
    pub(crate) hostname: String,
    pub(crate) sysctls: Vec<(String, String)>,
    /// Where the pod's `/dev/shm` is mounted; a folder that is there.
    pub(crate) shm: PathBuf,
}

/// Who a process is and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// `user`, `uid`, `user:group` or `uid:gid`, looked up in the image; empty is root.
    pub(crate) user: String,
    /// Replaces the group.
    pub(crate) group: Option<u32>,
    pub(crate) more_groups: Vec<u32>,
    /// Bits of capabilities.
    pub(crate) capabilities: u64,
    pub(crate) no_new_privileges: bool,
    /// The system call filter: code, jump if true, jump if false, operand; empty is none.
    pub(crate) filter: Vec<(u16, u8, u8, u32)>,
    pub(crate) oom_score_adj: i64,
}

/// A program to become.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) args: Vec<String>,
    /// `NAME=value`; `HOME` is added from the image where it is missing.
    pub(crate) env: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) identity: Identity,
    /// Make a terminal, and send our side of it to who holds the streams.
    pub(crate) terminal: bool,
}

/// Become a container's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// What errors call it.
    pub(crate) name: String,
    pub(crate) program: Program,
    /// Pinned namespaces to enter: kind (`net`, `ipc`, `uts`) and path.
    pub(crate) pins: Vec<(String, PathBuf)>,
    /// Layers, bottom first.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    /// The empty folder the root file system is mounted on.
    pub(crate) root: PathBuf,
    pub(crate) readonly_root: bool,
    pub(crate) privileged: bool,
    /// In order; what is mounted later covers what was mounted before.
    pub(crate) mounts: Vec<Mount>,
    pub(crate) devices: Vec<Device>,
    pub(crate) shm: PathBuf,
    pub(crate) masked_paths: Vec<String>,
    pub(crate) readonly_paths: Vec<String>,
}

/// Join a container and become a program in it. A pidfd of a process of the container comes beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecLaunch {
    pub(crate) program: Program,
}

/// What a helper says before it has become the program; silence is success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) detail: String,
    /// 127 not found, 126 not runnable, 128 other.
    pub(crate) exit_code: i32,
}

impl Failure {
    /// The machine refused.
    pub(crate) fn other(detail: impl ToString) -> Failure {
        Failure { detail: detail.to_string(), exit_code: 128 }
    }
}

/// Where a launched process finds the socket to its launcher.
pub(crate) const CHANNEL_FD: i32 = 3;
/// Where it sends its terminal to, if the keeper holds it.
pub(crate) const CONSOLE_FD: i32 = 4;
