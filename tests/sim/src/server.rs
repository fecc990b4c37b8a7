//! The server side: disk, store and API, driven by hand, with the faults of a disk, and crashed at will.
//!
//! Start at [`Server`].
//!
//! Invariants:
//! * after the power went nobody gets an answer, not even of what was written before, until [`Server::start_again`];
//! * requests made by [`Server::later`] wait for the store without anybody waiting for them, so that several share a commit.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use apiserver::{Api, Settings, User, annotate};
use base::{Clock, ManualClock, Rng};
use client::{Call, Door, Reply};
use pki::TokenKey;
use store::{Disk, Fault, Local, Options, Pace, Store, memory_on};

use crate::link::Link;

/// Steps that the store may take before what waits for it must be done: a commit, a recovery, and some more.
const STEPS_MAX: usize = 64;

type Pending = Pin<Box<dyn Future<Output = ()>>>;

/// What the cluster stands on.
pub struct Server {
    disk: Disk,
    store: Arc<Local>,
    clock: Arc<ManualClock>,
    pending: RefCell<Vec<Pending>>,
    /// The way every component takes; it survives crashes.
    pub door: Arc<Link>,
    /// How often the server crashed.
    pub crashes: u32,
    /// How often its disk failed.
    pub faults: u32,
    /// How long pods that do not say stay on a node in trouble.
    pub toleration_seconds: i64,
}

impl Server {
    /// Starts on an empty disk.
    pub fn start(clock: &Arc<ManualClock>, rng: &mut Rng, toleration_seconds: i64) -> Server {
        let disk = Disk::new();
        let store = Arc::new(open(&disk).expect("a disk without faults can be opened"));
        let mut server = Server {
            disk,
            store,
            clock: clock.clone(),
            pending: RefCell::default(),
            door: Arc::default(),
            crashes: 0,
            faults: 0,
            toleration_seconds,
        };
        assert!(server.serve(rng), "the API server does not start");
        server
    }

    /// Loses everything that was not committed, and starts again. The disk may fail meanwhile; then the server stays away.
    pub fn start_again(&mut self, rng: &mut Rng) {
        self.crashes += 1;
        self.door.disconnect();
        self.pending.borrow_mut().clear();
        self.disk.power_on();
        match open(&self.disk) {
            Ok(store) => self.store = Arc::new(store),
            Err(_) => return,
        }
        if !self.serve(rng) {
            self.door.disconnect();
        }
    }

    /// Lets something go wrong with one of the next operations of the disk.
    pub fn hurt(&mut self, rng: &mut Rng) {
        self.faults += 1;
        let at = self.disk.operations() + rng.below(4);
        let fault = match rng.below(4) {
            0 => Fault::Refuse,
            1 => Fault::Deny,
            _ => Fault::Cut { happened: rng.chance(1, 2) },
        };
        self.disk.fault_at(at, fault);
    }

    /// Whether nobody will get an answer before it is started again.
    pub fn is_dark(&self) -> bool {
        !self.door.is_connected() || self.disk.is_off()
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.store.revision().0
    }

    /// Lets lazy writes and idle watches see the time, and lets the store do what it has to.
    pub fn tick(&self) {
        self.store.tick(self.clock.monotonic());
        for _ in 0..STEPS_MAX {
            self.poll_pending();
            if !self.store.turn() {
                break;
            }
        }
        self.poll_pending();
    }

    /// Drives something that waits for the server, and for nothing else. `None` if the power goes first.
    pub fn drive<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..STEPS_MAX {
            let polled = work.as_mut().poll(&mut context);
            if self.is_dark() {
                return None;
            }
            if let Poll::Ready(done) = polled {
                return Some(done);
            }
            self.poll_pending();
            self.store.turn();
        }
        panic!("something waits that the store will not wake");
    }

    /// Makes a request whose answer may come late, or never.
    pub fn later(&self, call: Call, then: impl FnOnce(Reply) + 'static) {
        let reply = self.door.call(call);
        let work = async move {
            if let Ok(reply) = reply.await {
                then(reply);
            }
        };
        self.pending.borrow_mut().push(Box::pin(work));
    }

    fn poll_pending(&self) {
        let mut context = Context::from_waker(Waker::noop());
        let mut pending = std::mem::take(&mut *self.pending.borrow_mut());
        pending.retain_mut(|work| !self.is_dark() && work.as_mut().poll(&mut context).is_pending());
        self.pending.borrow_mut().append(&mut pending);
    }

    fn serve(&mut self, rng: &mut Rng) -> bool {
        let mut settings = Settings::new(self.clock.clone(), rng.next_u64(), key(), "a certificate".to_owned());
        settings.not_ready_toleration_seconds = self.toleration_seconds;
        settings.unreachable_toleration_seconds = self.toleration_seconds;
        let api = Api::open(self.store.clone(), settings);
        let door: Arc<dyn Door> = apiserver::door::open(&api, User::new("system:admin", ["system:masters"]));
        self.door.connect(door);
        matches!(self.drive(api.bootstrap()), Some(Ok(_)))
    }
}

fn open(disk: &Disk) -> Result<Local, store::StoreError> {
    memory_on(disk, annotate(), Options::default(), Pace::ByHand)
}

/// Made once a process: making keys takes long, and nothing here depends on which.
fn key() -> Arc<TokenKey> {
    static KEY: OnceLock<Arc<TokenKey>> = OnceLock::new();
    KEY.get_or_init(|| Arc::new(TokenKey::ephemeral().expect("a key can be made"))).clone()
}
