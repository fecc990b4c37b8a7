//! The embedded runtime: containers made by us, with the keeper as their parent.
//!
//! Start at [`Embedded::open`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use base::Clock;

use crate::cri::*;
use crate::network::Network;

/// What [`Embedded::open`] needs to know.
#[derive(Clone)]
pub struct Options {
    /// The data folder of the node: containers go to `<data>/containers`, images to `<data>/images`, the keeper's socket
    /// to `<data>/keeper`.
    pub data: PathBuf,
    /// Folders with unpacked images that are part of the firmware (`oci::Store` layout, read-only).
    pub firmware_images: Vec<PathBuf>,
    /// The program that is started again as helper and keeper; `skerry` itself.
    pub program: PathBuf,
    /// Its words for a helper, usually `["helper"]`: that `main` calls [`crate::helper_main`] with the words after it.
    pub helper_args: Vec<OsString>,
    /// Its words for a keeper, usually `["keeper"]`: that `main` calls `keeper::main` with the words after it. `None`
    /// where somebody else (`skerry-init`) runs the keeper.
    pub keeper_args: Option<Vec<OsString>>,
    /// Where the keeper listens; `None` is `<data>/keeper/keeper.sock`.
    pub keeper_socket: Option<PathBuf>,
    /// The cgroup above all pods, relative to the root of the hierarchy; empty is the root. `cgroup_parent` of a sandbox
    /// is below it. Servers side by side on one machine give themselves different ones.
    pub cgroup_root: String,
    /// The pod network.
    pub network: Arc<dyn Network>,
    /// Insecure and mirrored registries.
    pub registries: Vec<RegistryRule>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The seed of ids.
    pub seed: u64,
}

/// How to reach a registry, where that differs from `https://` and its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryRule {
    /// Its name, such as `docker.io` or `registry.local:5000`.
    pub registry: String,
    /// Tried first, in order: such as `http://127.0.0.1:5000`.
    pub mirrors: Vec<String>,
}

/// The embedded runtime. Clones share everything.
#[derive(Clone)]
pub struct Embedded {
    _options: Arc<Options>,
}

impl Embedded {
    /// Opens the runtime on its data folder: starts the keeper if none answers, and adopts every sandbox and container
    /// found. Blocks; call it from a blocking thread or before the async runtime serves.
    pub fn open(options: Options) -> Result<Embedded, RuntimeError> {
        let action = format!("open the container runtime in {}", options.data.display());
        Err(RuntimeError::System { action, source: "this build has no embedded runtime".into() })
    }
}
