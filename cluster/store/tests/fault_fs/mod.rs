//! A small file system that fails.
//!
//! Start at [`FaultFs::mount`] and [`FaultFs::arm`]. It has one folder of files, in memory, each twice: as programs see it
//! and as the disk has it. What is written reaches the disk when it is synced; a [`Fault::Cut`] forgets the rest.
//!
//! Invariants:
//! * every operation that changes something has a number, counted from [`FaultFs::arm`] on;
//! * as on Linux, a failed fsync forgets that anything was to be written: the next one succeeds and writes nothing of it;
//! * names reach the disk with an fsync of their folder, or, for a new file, of the file.
//!
//! Not here: sub-folders, links, permissions, times: a database needs none.

mod answer;
mod image;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{BackgroundSession, Config, MountOption};

use image::Image;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails once, with an input/output error.
    Error,
    /// From the operation on the disk is full, for so many operations.
    Full(u64),
    /// The power goes before the operation; everything fails from then on.
    Cut,
    /// The operation fails once, and so many operations later the power goes.
    ErrorThenCut(u64),
}

/// What a cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    None,
    /// Everything: this is what killing a process does.
    All,
    /// Each sector or not, by chance: disks write in any order.
    Some(u64),
}

/// The file system, mounted as long as this lives.
pub struct FaultFs {
    shared: Shared,
    session: Option<BackgroundSession>,
}

type Shared = Arc<Mutex<Image>>;

impl FaultFs {
    /// Mounts an empty file system at `folder`.
    pub fn mount(folder: &Path) -> FaultFs {
        let shared = Shared::default();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("store-faults".to_owned())];
        let session = fuser::spawn_mount(answer::Answers(shared.clone()), folder, &config)
            .unwrap_or_else(|error| panic!("this test mounts a file system: it needs root and /dev/fuse: {error}"));
        FaultFs { shared, session: Some(session) }
    }

    /// Empties the file system, and counts operations anew without faults.
    pub fn clear(&self) {
        self.image().clear();
    }

    /// Counts operations from now on, the first is 0, and lets `fault` happen at operation `at`.
    pub fn arm(&self, at: u64, fault: Fault) {
        let mut image = self.image();
        image.operations = 0;
        image.fault = Some((at, fault));
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.image().operations
    }

    /// Whether the power is gone.
    pub fn is_cut(&self) -> bool {
        self.image().powered().is_err()
    }

    /// Ends the fault; after a cut the files are what the disk has and `kept` of the rest.
    pub fn power_on(&self, kept: Kept) {
        self.image().power_on(kept);
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}
