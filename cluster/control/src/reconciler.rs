//! The shape of a controller: a pure function from what is known to what is to be written.
//!
//! Start at [`Reconciler`].

use std::time::Duration;

use base::Timestamp;
use client::{Collection, Entry, Resource};

use crate::{Key, Note, View, Write};

/// What a controller says of itself.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name, which Events carry as their source, such as `replicaset-controller`.
    pub name: &'static str,
    /// What it reads. It starts when all of these are in.
    pub reads: &'static [&'static Resource],
    /// What it alone writes, as `resource` or `resource.field`.
    pub writes: &'static [&'static str],
    /// Whether it reads the metadata of every resource the server has, custom ones too.
    pub everything: bool,
}

/// A controller.
pub trait Reconciler: Send + Sync + 'static {
    /// What it is and reads and writes.
    fn about(&self) -> About;

    /// The keys that may have to be looked at after this object came, changed or went. Asked for the old and the new.
    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key>;

    /// What is to be done about a key now.
    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome;
}

/// What a reconciler wants.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Written in this order; the first that fails ends the pass, and the key comes back after its back-off.
    pub writes: Vec<Write>,
    /// Told as Kubernetes Events.
    pub events: Vec<Note>,
    /// Look again after so long, whether or not something changes.
    pub requeue_after: Option<Duration>,
}

impl Outcome {
    /// Nothing to do.
    pub fn none() -> Outcome {
        Outcome::default()
    }

    /// Asks to look again after `wait`, or sooner if that is asked for already.
    pub fn again(&mut self, wait: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(wait, |other| other.min(wait)));
    }
}

impl From<Write> for Outcome {
    fn from(write: Write) -> Outcome {
        Outcome { writes: vec![write], ..Outcome::default() }
    }
}

/// The key of the object itself.
pub fn itself(entry: &Entry) -> Vec<Key> {
    vec![Key::new(&entry.meta.namespace, &entry.meta.name)]
}

/// The key of the object's controller, if that is of this kind.
pub fn owner(entry: &Entry, kind: &str) -> Vec<Key> {
    let owners = entry.meta.owners.iter().filter(|owner| owner.controller && owner.kind == kind);
    owners.map(|owner| Key::new(&entry.meta.namespace, &owner.name)).collect()
}
