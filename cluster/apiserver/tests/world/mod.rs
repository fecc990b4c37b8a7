//! What the tests of this folder stand on: an API server without sockets, and its clock.
//!
//! Start at [`open`].

use std::sync::Arc;

use apiserver::{Api, Settings};
use base::{ManualClock, Timestamp};
use store::Store;

/// A server over a store, not started yet: whoever drives the store by hand starts it himself.
#[allow(dead_code, reason = "each test binary uses one of the two")]
pub fn open(store: Arc<dyn Store>) -> (Arc<Api>, Arc<ManualClock>) {
    open_with(store, |_| {})
}

/// The same with other settings.
pub fn open_with(store: Arc<dyn Store>, set: impl FnOnce(&mut Settings)) -> (Arc<Api>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_790_000_000)));
    let tokens = Arc::new(pki::TokenKey::ephemeral().expect("a key"));
    let mut settings = Settings::new(clock.clone(), 7, tokens, "CA".to_owned());
    set(&mut settings);
    (Api::open(store, settings), clock)
}
