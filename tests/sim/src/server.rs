//! The server side: disk, store and API, driven by hand and crashed at will.
//!
//! Start at [`Server`].

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use apiserver::{Api, Settings, User, annotate};
use base::{Clock, ManualClock, Rng};
use client::Door;
use pki::TokenKey;
use store::{Disk, Local, Options, Pace, Store, memory_on};

use crate::link::Link;

/// What the cluster stands on.
pub struct Server {
    disk: Disk,
    store: Arc<Local>,
    clock: Arc<ManualClock>,
    /// The way every component takes; it survives crashes.
    pub door: Arc<Link>,
    /// How often the server crashed.
    pub crashes: u32,
}

impl Server {
    /// Starts on an empty disk.
    pub fn start(clock: &Arc<ManualClock>, rng: &mut Rng) -> Server {
        let disk = Disk::new();
        let store = Arc::new(open(&disk));
        let mut server = Server { disk, store, clock: clock.clone(), door: Arc::default(), crashes: 0 };
        server.serve(rng);
        server
    }

    /// Loses everything that was not committed, and starts again.
    pub fn crash(&mut self, rng: &mut Rng) {
        self.crashes += 1;
        self.door.disconnect();
        self.store = Arc::new(open(&self.disk));
        self.serve(rng);
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.store.revision().0
    }

    /// Lets lazy writes and idle watches see the time.
    pub fn tick(&self) {
        self.store.tick(self.clock.monotonic());
        while self.store.turn() {}
    }

    /// Drives something that waits for the server, and for nothing else.
    pub fn drive<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut context = Context::from_waker(std::task::Waker::noop());
        loop {
            if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
                return done;
            }
            assert!(self.store.turn(), "something waits that the store will not wake");
        }
    }

    fn serve(&mut self, rng: &mut Rng) {
        let settings = Settings::new(self.clock.clone(), rng.next_u64(), key(), "a certificate".to_owned());
        let api = Api::open(self.store.clone(), settings);
        let started = self.drive(api.bootstrap());
        assert!(started.is_ok(), "the API server does not start");
        let door: Arc<dyn Door> = apiserver::door::open(&api, User::new("system:admin", ["system:masters"]));
        self.door.connect(door);
    }
}

fn open(disk: &Disk) -> Local {
    memory_on(disk, annotate(), Options::default(), Pace::ByHand).expect("a disk without faults can be opened")
}

/// Made once a process: making keys takes long, and nothing here depends on which.
fn key() -> Arc<TokenKey> {
    static KEY: OnceLock<Arc<TokenKey>> = OnceLock::new();
    KEY.get_or_init(|| Arc::new(TokenKey::ephemeral().expect("a key can be made"))).clone()
}
