//! The update service: a small process beside PID 1 that does what is asked of it over the update socket.
//!
//! Start at [`serve`]; [`Service::answer`] is what it does, one request at a time, and [`bundle::ask()`] is the other end. Staging goes
//! on in a thread of its own, so that its progress can be asked for. Nothing is lost with the process: what it knows lies in
//! the ledger, in the slots and in [`Notes`].

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::chain;
use bundle::head::ROOM;
use bundle::message::{Check, Drain, Failed, REFUSED, Reply, Request, State, Status, Wanted, decode, encode};
use bundle::{Bundle, Digest, Head, Public, Target};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use slots::{Cause, Ledger, Name, Slot};
use sys::fdpass;

use crate::error::Doing;
use crate::medium::ledger;
use crate::notes::{self, Notes, Trial, Wish};
use crate::trial::{API, Terms};
use crate::{Device, Error, Slots, stage, turn};

/// A caller that is silent for so long is not heard.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is asked and answered is short.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// The API of this machine answers quickly or not at all.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// What the service must know of its board.
#[derive(Clone, Debug)]
pub struct Board {
    /// The board's name.
    pub name: String,
    /// Its processor.
    pub arch: String,
    /// The disk it booted from.
    pub disk: PathBuf,
    /// The slot it booted from.
    pub running: Name,
    /// The keys that may sign its updates.
    pub trusted: Vec<Public>,
    /// The address that answers when what the image is for works.
    pub healthy: Option<String>,
    /// Where it notes what must outlive a restart.
    pub notes: PathBuf,
    /// Where it leaves for PID 1 what was reported.
    pub checks: PathBuf,
    /// The kernel's number of this boot.
    pub boot: String,
}

/// Does what is asked over the socket at `path`, for ever; `restart` restarts the machine.
pub fn serve(board: Board, path: &Path, restart: impl Fn()) -> Result<std::convert::Infallible, Error> {
    let service = Arc::new(Service::open(board)?);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).doing(format_args!("make {}", parent.display()))?;
    }
    let socket = fdpass::listen(path).map_err(std::io::Error::other).doing("listen for requests")?;
    loop {
        let mut waited = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _interrupted = poll(&mut waited, PollTimeout::NONE);
        while let Ok(Some(caller)) = fdpass::accept(&socket) {
            if let Err(error) = hear(&service, &caller, &restart) {
                eprintln!("a request is not answered: {error}");
            }
        }
    }
}

fn hear(service: &Arc<Service>, caller: &OwnedFd, restart: &impl Fn()) -> std::io::Result<()> {
    // Accepted sockets do not wait; one caller at a time may be waited for.
    let flags = nix::fcntl::OFlag::empty();
    nix::fcntl::fcntl(caller, nix::fcntl::FcntlArg::F_SETFL(flags))?;
    fdpass::set_patience(caller, PATIENCE)?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let Some((length, files)) = fdpass::receive(caller, &mut buffer)? else { return Ok(()) };
    let (reply, then_restart) = match decode(&buffer[..length]) {
        Ok(request) => service.answer(request, files.into_iter().next()),
        Err(told) => (Reply::Refused(told), false),
    };
    let sent = fdpass::send(caller, &encode(&reply), &[]);
    if then_restart {
        restart();
    }
    sent
}

/// What is being staged, how many of its chunks are done, and of how many.
type Working = (Digest, u32, u32);

/// The service's state.
pub struct Service {
    board: Board,
    slots: Slots,
    notes: Notes,
    /// The bundle that is being staged, and how far.
    work: Mutex<Option<Working>>,
    /// What was offered last, if it was refused. Not noted: a full disk may be the reason, and who wants it offers it again.
    refused: Mutex<Option<Failed>>,
    /// What the slots hold, as of a ledger's sequence number.
    heads: Mutex<Option<(u32, [Option<(Head, Digest)>; 2])>>,
}

impl Service {
    /// Finds the slots, and settles what came of a trial.
    pub fn open(board: Board) -> Result<Service, Error> {
        let slots = Slots::read(&mut Device::open(&board.disk)?, &board.disk.display().to_string())?;
        let notes = Notes::in_folder(&board.notes);
        let (work, refused, heads) = Default::default();
        let service = Service { board, slots, notes, work, refused, heads };
        service.leave_unreadable()?;
        service.settle()?;
        Ok(service)
    }

    /// Does what is asked; tells whether the machine shall restart then.
    pub fn answer(self: &Arc<Service>, request: Request, file: Option<OwnedFd>) -> (Reply, bool) {
        let restarts = matches!(request, Request::Activate { .. } | Request::RollBack);
        let done = match request {
            Request::Status => self.status().map(Reply::Status),
            Request::Offer { drain } => self.offer(drain, file),
            Request::Activate { digest } => self.activate(digest).map(|()| Reply::Done),
            Request::Report(checks) => self.report(&checks).map(|()| Reply::Done),
            Request::RollBack => self.roll_back().map(|()| Reply::Done),
            Request::Withdraw { digest } => self.withdraw(digest).map(|()| Reply::Done),
        };
        match done {
            Ok(reply) => (reply, restarts),
            Err(error) => (Reply::Refused(chain(&error).to_string()), false),
        }
    }

    /// How things are.
    pub fn status(&self) -> Result<Status, Error> {
        self.settle()?;
        let ledger = self.ledger()?;
        let running = self.head(self.board.running, &ledger)?;
        let (version, digest, security_epoch) = match &running {
            Some((head, digest)) => (head.version.clone(), Some(*digest), head.security_epoch),
            None => (String::new(), None, 0),
        };
        let wanted = match self.notes.wish() {
            Some(Wish { digest, version, drain }) => {
                let state = self.state(digest, &ledger)?;
                Some(Wanted { digest, version, drain, state })
            }
            None => None,
        };
        Ok(Status {
            slot: self.board.running.letter().to_owned(),
            version,
            digest,
            security_epoch,
            confirmed: ledger.slot(self.board.running) == Slot::Good,
            wanted,
            failed: self.lock_refused().clone().or_else(|| self.notes.failed_and_asked()),
        })
    }

    fn state(&self, digest: Digest, ledger: &Ledger) -> Result<State, Error> {
        if let Some((_, done, of)) = self.working().filter(|(working, _, _)| *working == digest) {
            return Ok(State::Staging { done, of });
        }
        let held = self.head(ledger.active.other(), ledger)?.is_some_and(|(_, held)| held == digest);
        Ok(match ledger.spare {
            Slot::Staged if held => State::Staged,
            Slot::Trying { .. } if held => State::Trial,
            _ => State::Waiting,
        })
    }

    fn offer(self: &Arc<Service>, drain: Drain, file: Option<OwnedFd>) -> Result<Reply, Error> {
        let no_file = || bundle::Error::Read(std::io::Error::other("no file came with it"));
        let file = file.map(File::from).ok_or_else(no_file)?;
        let again = file.try_clone().map_err(bundle::Error::Read)?;
        match Bundle::open(file, &self.board.trusted) {
            Ok(bundle) => {
                let (digest, version) = (bundle.digest(), bundle.head().version.clone());
                let answer = self.take(drain, bundle);
                self.remember(digest, version, answer)
            }
            // Its version is nobody's word: no trusted key has signed it, or it is not all there.
            Err(error) => self.remember(name_of(&again), String::new(), Err(error.into())),
        }
    }

    /// Keeps for the status why an offer was refused, until the next one; what was tried before is told as it was then.
    fn remember(&self, digest: Digest, version: String, answer: Result<Reply, Error>) -> Result<Reply, Error> {
        let refused = match &answer {
            // Another bundle is under way, which the status says already.
            Err(Error::Busy(_) | Error::OnTrial(_)) => return answer,
            Err(Error::FailedBefore { .. }) => self.notes.ask_for_failed(true).map(|()| None)?,
            Err(error) => Some(failed(digest, version, error)),
            Ok(_) => None,
        };
        *self.lock_refused() = refused;
        answer
    }

    /// Begins with what is offered, where there is something to do.
    fn take(self: &Arc<Service>, drain: Drain, bundle: Bundle<File>) -> Result<Reply, Error> {
        let (digest, version) = (bundle.digest(), bundle.head().version.clone());
        let status = self.status()?;
        if status.digest == Some(digest) && status.confirmed {
            // It runs; whatever was wanted instead is not wanted any more, also while it is being staged.
            if let Some(other) = status.wanted.filter(|other| other.state != State::Trial) {
                self.withdraw(other.digest)?;
            }
            self.notes.ask_for_failed(false)?;
            return Ok(Reply::Accepted { digest });
        }
        if let Some((other, _, _)) = *self.lock_work() {
            // It may have been withdrawn since it began.
            return match other == digest {
                true => self.notes.want(&Wish { digest, version, drain }).map(|()| Reply::Accepted { digest }),
                false => Err(Error::Busy(other)),
            };
        }
        if status.wanted.is_some_and(|wanted| wanted.digest == digest && wanted.state == State::Staged) {
            self.notes.want(&Wish { digest, version, drain })?;
            return Ok(Reply::Accepted { digest });
        }
        if let Some(failed) = self.notes.failed().filter(|failed| failed.digest == digest && failed.cause != REFUSED) {
            return Err(Error::FailedBefore { digest, told: failed.told });
        }
        let mut device = Device::open(&self.board.disk)?;
        stage::check(&mut device, self.board.running, bundle.head(), &self.target(status.security_epoch))?;
        self.notes.want(&Wish { digest, version, drain })?;
        *self.lock_work() = Some((digest, 0, bundle.head().chunks.len() as u32));
        let service = Arc::clone(self);
        std::thread::spawn(move || service.work(device, bundle, status.security_epoch));
        Ok(Reply::Accepted { digest })
    }

    /// Stages, in a thread of its own.
    fn work(&self, mut device: Device, mut bundle: Bundle<File>, security_epoch: u32) {
        let _ends = EndsWithPanic(&self.work);
        let (digest, version) = (bundle.digest(), bundle.head().version.clone());
        let target = self.target(security_epoch);
        let told = |done: usize, of: usize| *self.lock_work() = Some((digest, done as u32, of as u32));
        let staged = stage::stage(&mut device, &self.slots, self.board.running, &mut bundle, &target, told);
        // Noted and over at once: who offers the same in between would be told that it is under way.
        let mut working = self.lock_work();
        let noted = match staged {
            Ok(staged) => {
                eprintln!("version {version} is staged: {} parts written, {} were there", staged.written, staged.kept);
                Ok(())
            }
            Err(error) => {
                eprintln!("version {version} is refused: {}", chain(&error));
                if self.notes.wish().is_some_and(|wish| wish.digest == digest) {
                    *self.lock_refused() = Some(failed(digest, version, &error));
                }
                self.notes.withdraw(digest)
            }
        };
        if let Err(error) = noted {
            eprintln!("{}", chain(&error));
        }
        *working = None;
    }

    fn activate(&self, digest: Digest) -> Result<(), Error> {
        let ledger = self.ledger()?;
        let found = self.head(ledger.active.other(), &ledger)?;
        // What was given up still says of itself what it was.
        let is_there = |found: Digest| found == digest && ledger.spare != Slot::Empty;
        let Some((head, _)) = found.filter(|(_, found)| is_there(*found)) else {
            return Err(Error::NotStaged { wanted: digest, found: None });
        };
        self.try_it(&head, digest, || turn::activate(&mut Device::open(&self.board.disk)?, &self.slots, digest))
    }

    fn roll_back(&self) -> Result<(), Error> {
        let ledger = self.ledger()?;
        let other = self.board.running.other();
        let roll_back = || turn::roll_back(&mut Device::open(&self.board.disk)?, &self.slots, self.board.running);
        if ledger.active == self.board.running
            && ledger.spare == Slot::Good
            && let Some((head, digest)) = self.head(other, &ledger)?
        {
            return self.try_it(&head, digest, roll_back);
        }
        roll_back()
    }

    /// Notes how the trial will be judged: before `turn` writes the ledger, so that no trial is without. A turn that fails
    /// leaves no note: nothing is on trial then.
    fn try_it(&self, head: &Head, digest: Digest, turn: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let before = self.checks().into_iter().filter(|check| check.passes).map(|check| check.name).collect();
        let terms = Terms { before, within: Duration::from_secs(head.confirm_within_s.into()) };
        self.notes.try_it(&Trial { digest, version: head.version.clone(), boot: self.board.boot.clone(), terms })?;
        let turned = turn();
        // It may fail after the writing.
        if turned.is_err() && self.ledger().is_ok_and(|ledger| !matches!(ledger.spare, Slot::Trying { .. })) {
            self.notes.forget_trial()?;
        }
        turned
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks = current(&self.board.checks);
        if let Some(healthy) = &self.board.healthy {
            checks.push(Check { name: API.into(), passes: answers(healthy) });
        }
        checks
    }

    fn report(&self, checks: &[Check]) -> Result<(), Error> {
        let told = format!("leave what was reported in {}", self.board.checks.display());
        let text = notes::report(checks, uptime());
        // Of no use after a restart, so nobody waits for a disk.
        sys::files::replace(&self.board.checks, text.as_bytes(), 0o600).map_err(std::io::Error::other).doing(told)
    }

    /// Nobody wants it any more. Where it is being staged that goes on, and ends with a slot that nobody tries.
    fn withdraw(&self, digest: Digest) -> Result<(), Error> {
        // Not while the end of its staging is being noted.
        let _working = self.lock_work();
        self.lock_refused().take_if(|refused| refused.digest == digest);
        self.notes.withdraw(digest)
    }

    /// The boot script tries the other slot where one cannot be read: a trial that we come from is over then.
    fn leave_unreadable(&self) -> Result<(), Error> {
        let ledger = self.ledger()?;
        let here_after_a_restart = self.notes.trial().is_none_or(|trial| trial.boot != self.board.boot);
        if ledger.active == self.board.running && matches!(ledger.spare, Slot::Trying { .. }) && here_after_a_restart {
            let mut device = Device::open(&self.board.disk)?;
            turn::reject(&mut device, self.board.running.other(), Cause::Unreadable)?;
        }
        Ok(())
    }

    /// Notes what came of a trial that is over.
    fn settle(&self) -> Result<(), Error> {
        let Some(trial) = self.notes.trial() else { return Ok(()) };
        let ledger = self.ledger()?;
        if matches!(ledger.spare, Slot::Trying { .. }) || trial.boot == self.board.boot {
            return Ok(());
        }
        let active = self.head(ledger.active, &ledger)?;
        if active.is_some_and(|(_, digest)| digest == trial.digest) {
            return self.notes.succeed();
        }
        // The power was cut before the ledger was written: a trial that ended leaves an empty slot.
        let spare = self.head(ledger.active.other(), &ledger)?;
        if ledger.spare != Slot::Empty && spare.is_some_and(|(_, digest)| digest == trial.digest) {
            return self.notes.forget_trial();
        }
        let Trial { digest, version, .. } = trial;
        let (cause, told) = (ledger.cause.word().to_owned(), ledger.cause.told().to_owned());
        eprintln!("version {version} was given up: {told}");
        self.notes.fail(&Failed { digest, version, cause, told })
    }

    fn ledger(&self) -> Result<Ledger, Error> {
        ledger(&mut Device::open(&self.board.disk)?)
    }

    fn head(&self, slot: Name, ledger: &Ledger) -> Result<Option<(Head, Digest)>, Error> {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if heads.as_ref().is_none_or(|(sequence, _)| *sequence != ledger.sequence) {
            let mut device = Device::open(&self.board.disk)?;
            let mut read = |name| stage::head_of(&mut device, self.slots.place(name));
            *heads = Some((ledger.sequence, [read(Name::A)?, read(Name::B)?]));
        }
        Ok(heads.as_ref().and_then(|(_, heads)| heads[usize::from(slot == Name::B)].clone()))
    }

    fn target(&self, security_epoch: u32) -> Target {
        let slot_bytes = self.slots.place(self.board.running.other()).bytes;
        Target { board: self.board.name.clone(), arch: self.board.arch.clone(), security_epoch, slot_bytes }
    }

    fn working(&self) -> Option<Working> {
        *self.lock_work()
    }

    fn lock_refused(&self) -> MutexGuard<'_, Option<Failed>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_work(&self) -> MutexGuard<'_, Option<Working>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Staging that panics is over: nobody waits for it.
struct EndsWithPanic<'a>(&'a Mutex<Option<Working>>);

impl Drop for EndsWithPanic<'_> {
    fn drop(&mut self) {
        // Otherwise it has ended, and the next one may have begun.
        if std::thread::panicking() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

fn failed(digest: Digest, version: String, error: &Error) -> Failed {
    Failed { digest, version, cause: REFUSED.into(), told: chain(error).to_string() }
}

/// What names a file that is refused as it is; what cannot be read of it does not count.
fn name_of(file: &File) -> Digest {
    let mut bytes = vec![0; ROOM as usize];
    let length = file.read_at(&mut bytes, 0).unwrap_or_default();
    bundle::head::name_of(&bytes[..length])
}

/// What was reported lately and left at `path`.
pub fn current(path: &Path) -> Vec<Check> {
    fs::read_to_string(path).map(|text| notes::reported(&text, uptime())).unwrap_or_default()
}

/// Whether something answers at `address`.
pub fn answers(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok_and(|address| TcpStream::connect_timeout(&address, ANSWERS_WITHIN).is_ok())
}

/// The time since the machine started.
pub fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split('.').next().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::{Secret, ask};
    use slots::Move;
    use slots::table::{Partition, Table};
    use std::io::{Seek, SeekFrom, Write};
    use std::time::Instant;

    const MIB: u64 = 1 << 20;
    const SLOT_BYTES: u64 = ROOM + MIB;

    /// A board whose disk is a file, and which can be restarted.
    struct Fixture {
        folder: tempfile::TempDir,
        key: Secret,
        boots: u32,
    }

    impl Fixture {
        fn new() -> Fixture {
            let fixture = Fixture { folder: tempfile::tempdir().unwrap(), key: Secret::generate().unwrap(), boots: 0 };
            let sectors = |bytes: u64| (bytes / 512) as u32;
            let mut table = Table { signature: 1, partitions: [Partition::default(); 4] };
            for (index, at) in [(1, MIB), (2, MIB + SLOT_BYTES)] {
                table.partitions[index] =
                    Partition { kind: 1, boot: false, at: sectors(at), sectors: sectors(SLOT_BYTES) };
            }
            let mut sector = [0; 512];
            table.write(&mut sector);
            let mut disk = File::create(fixture.disk()).unwrap();
            disk.write_all(&sector).unwrap();
            disk.set_len(MIB + 2 * SLOT_BYTES).unwrap();
            fixture.bundle("1", 1);
            let head = fs::read(fixture.folder.path().join("1")).unwrap();
            disk.seek(SeekFrom::Start(MIB + SLOT_BYTES - ROOM)).unwrap();
            disk.write_all(&head).unwrap();
            fixture
        }

        fn disk(&self) -> PathBuf {
            self.folder.path().join("disk")
        }

        /// The file of a bundle, whose image is its version.
        fn bundle(&self, version: &str, security_epoch: u32) -> Digest {
            let bytes = self.made(&version.repeat(70_000), version, security_epoch);
            fs::write(self.folder.path().join(version), &bytes).unwrap();
            bundle::head::name_of(&bytes)
        }

        fn made(&self, image: &str, version: &str, security_epoch: u32) -> Vec<u8> {
            self.signed(image, version, security_epoch, Some(&self.key))
        }

        fn signed(&self, image: &str, version: &str, security_epoch: u32, key: Option<&Secret>) -> Vec<u8> {
            let about = Head {
                version: version.into(),
                board: "test".into(),
                arch: "arm64".into(),
                security_epoch,
                confirm_within_s: 60,
                image_bytes: 0,
                chunk_bytes: bundle::head::CHUNK_BYTES,
                chunks: vec![],
            };
            let mut file = Vec::new();
            bundle::write(about, &mut std::io::Cursor::new(image), key, &mut file).unwrap();
            file
        }

        /// The service after a restart, in the slot that the ledger says.
        fn boot(&mut self) -> Arc<Service> {
            let mut device = Device::open(&self.disk()).unwrap();
            let mut now = ledger(&mut device).unwrap();
            if let Slot::Trying { .. } = now.spare {
                now = now.apply(now.active.other(), Move::Boot).unwrap();
                crate::medium::keep(&mut device, &now).unwrap();
            }
            self.boots += 1;
            let path = self.folder.path();
            let board = Board {
                name: "test".into(),
                arch: "arm64".into(),
                disk: self.disk(),
                running: now.next_running(),
                trusted: vec![self.key.public()],
                healthy: None,
                notes: path.join("notes"),
                checks: path.join("checks"),
                boot: self.boots.to_string(),
            };
            Arc::new(Service::open(board).unwrap())
        }

        fn offer(&self, service: &Arc<Service>, version: &str) -> Reply {
            let file = File::open(self.folder.path().join(version)).unwrap();
            service.answer(Request::Offer { drain: Drain::default() }, Some(file.into())).0
        }

        fn is_staged(&self, service: &Arc<Service>) {
            let began = Instant::now();
            while service.status().unwrap().wanted.is_some_and(|wanted| wanted.state != State::Staged) {
                assert!(began.elapsed() < Duration::from_secs(20), "{:?}", service.status());
                std::thread::yield_now();
            }
        }
    }

    /// A ledger whose trial was counted down names the slot that runs, also when that was its last try.
    trait Running {
        fn next_running(&self) -> Name;
    }
    impl Running for Ledger {
        fn next_running(&self) -> Name {
            if matches!(self.spare, Slot::Trying { .. }) { self.active.other() } else { self.active }
        }
    }

    fn staged_and_activated(fixture: &mut Fixture, version: &str) -> Digest {
        let digest = fixture.bundle(version, 1);
        let service = fixture.boot();
        assert_eq!(fixture.offer(&service, version), Reply::Accepted { digest });
        fixture.is_staged(&service);
        let checks = vec![Check { name: "node".into(), passes: true }, Check { name: "web".into(), passes: false }];
        assert_eq!(service.answer(Request::Report(checks), None), (Reply::Done, false));
        assert_eq!(service.answer(Request::Activate { digest }, None), (Reply::Done, true));
        digest
    }

    #[test]
    fn a_bundle_goes_from_offer_to_confirmation() {
        let mut fixture = Fixture::new();
        let digest = staged_and_activated(&mut fixture, "2");
        let service = fixture.boot();
        let status = service.status().unwrap();
        assert_eq!((status.slot.as_str(), status.version.as_str(), status.confirmed), ("b", "2", false));
        assert_eq!(status.wanted.unwrap().state, State::Trial);
        assert_eq!(service.notes.trial().unwrap().terms.before, ["node"], "what failed before is not asked for");
        turn::confirm(&mut Device::open(&fixture.disk()).unwrap(), Name::B).unwrap();
        let status = service.status().unwrap();
        assert_eq!((status.digest, status.confirmed, status.wanted, status.failed), (Some(digest), true, None, None));
        assert_eq!(fixture.offer(&service, "2"), Reply::Accepted { digest }, "what runs is accepted at once");
        assert_eq!(service.status().unwrap().wanted, None);
    }

    #[test]
    fn a_trial_that_went_wrong_is_told_and_not_tried_again_until_it_is_forgiven() {
        let mut fixture = Fixture::new();
        let digest = staged_and_activated(&mut fixture, "2");
        let trial = fixture.boot();
        turn::reject(&mut Device::open(&fixture.disk()).unwrap(), Name::B, Cause::ApiNeverReady).unwrap();
        drop(trial);
        let service = fixture.boot();
        let status = service.status().unwrap();
        assert_eq!((status.slot.as_str(), status.version.as_str(), status.confirmed), ("a", "1", true));
        let failed = status.failed.unwrap();
        assert_eq!((failed.digest, failed.cause.as_str()), (digest, "api"));
        let Reply::Refused(told) = fixture.offer(&service, "2") else { panic!("it is refused") };
        assert!(told.contains("was tried on this board and given up: the API never became ready"), "{told}");
        assert_eq!(service.answer(Request::Withdraw { digest }, None), (Reply::Done, false));
        assert_eq!(fixture.offer(&service, "2"), Reply::Accepted { digest });
        fixture.is_staged(&service);
    }

    #[test]
    fn a_trial_that_never_began_has_not_failed() {
        let mut fixture = Fixture::new();
        let digest = fixture.bundle("2", 1);
        let service = fixture.boot();
        assert_eq!(fixture.offer(&service, "2"), Reply::Accepted { digest });
        fixture.is_staged(&service);
        let (head, _) = service.head(Name::B, &service.ledger().unwrap()).unwrap().unwrap();
        // The power is cut between the note and the ledger.
        service.try_it(&head, digest, || Ok(())).unwrap();
        let service = fixture.boot();
        let status = service.status().unwrap();
        assert_eq!(status.wanted.map(|wanted| (wanted.digest, wanted.state)), Some((digest, State::Staged)));
        assert_eq!((status.failed, service.notes.trial()), (None, None));
        assert_eq!(service.answer(Request::Activate { digest }, None), (Reply::Done, true));
        assert_eq!(fixture.boot().status().unwrap().version, "2");
    }

    #[test]
    fn a_turn_that_is_refused_leaves_no_note_of_a_trial() {
        let mut fixture = Fixture::new();
        let digest = fixture.bundle("2", 2);
        let service = fixture.boot();
        fixture.offer(&service, "2");
        fixture.is_staged(&service);
        assert_eq!(service.answer(Request::Activate { digest }, None), (Reply::Done, true));
        let service = fixture.boot();
        turn::confirm(&mut Device::open(&fixture.disk()).unwrap(), Name::B).unwrap();
        service.status().unwrap();
        let (Reply::Refused(told), _) = service.answer(Request::RollBack, None) else { panic!("it is refused") };
        assert!(told.contains("is a downgrade"), "{told}");
        assert_eq!(service.notes.trial(), None);
        assert_eq!(fixture.boot().status().unwrap().failed, None);
    }

    #[test]
    fn what_was_given_up_is_not_activated() {
        let mut fixture = Fixture::new();
        let digest = staged_and_activated(&mut fixture, "2");
        let service = fixture.boot();
        turn::reject(&mut Device::open(&fixture.disk()).unwrap(), Name::B, Cause::Asked).unwrap();
        service.status().unwrap();
        let (Reply::Refused(told), _) = service.answer(Request::Activate { digest }, None) else { panic!("refused") };
        assert!(told.starts_with("the other slot does not hold"), "{told}");
        assert_eq!(service.notes.trial(), None);
    }

    #[test]
    fn a_trial_that_is_left_for_the_other_slot_was_unreadable() {
        let mut fixture = Fixture::new();
        staged_and_activated(&mut fixture, "2");
        let board = Board { boot: "later".into(), ..fixture.boot().board.clone() };
        // The boot script could not read b, and took a in the same start.
        let service = Service::open(Board { running: Name::A, ..board }).unwrap();
        assert_eq!(service.status().unwrap().failed.unwrap().cause, "unreadable");
    }

    #[test]
    fn a_damaged_bundle_is_told_as_refused_and_may_come_again_whole() {
        let mut fixture = Fixture::new();
        let digest = fixture.bundle("2", 1);
        let whole = fs::read(fixture.folder.path().join("2")).unwrap();
        let mut bad = whole.clone();
        *bad.last_mut().unwrap() ^= 1;
        fs::write(fixture.folder.path().join("2"), bad).unwrap();
        let service = fixture.boot();
        assert_eq!(fixture.offer(&service, "2"), Reply::Accepted { digest });
        fixture.is_staged(&service);
        let failed = service.status().unwrap().failed.unwrap();
        assert_eq!((failed.cause.as_str(), failed.digest), ("refused", digest));
        assert!(failed.told.starts_with("the bundle is damaged: part 2 of 2"), "{}", failed.told);
        fs::write(fixture.folder.path().join("2"), whole).unwrap();
        assert_eq!(fixture.offer(&service, "2"), Reply::Accepted { digest });
        fixture.is_staged(&service);
        assert_eq!(service.status().unwrap().wanted.unwrap().state, State::Staged);
    }

    /// A board as it is while it stages "2": the thread has ended, and what it works on is said to go on.
    fn staging(fixture: &Fixture, service: &Arc<Service>) -> Digest {
        let digest = fixture.bundle("2", 1);
        assert_eq!(fixture.offer(service, "2"), Reply::Accepted { digest });
        fixture.is_staged(service);
        *service.lock_work() = Some((digest, 1, 2));
        digest
    }

    #[test]
    fn what_is_being_staged_is_not_wanted_once_what_runs_is_asked_for_again() {
        let mut fixture = Fixture::new();
        let service = fixture.boot();
        let digest = staging(&fixture, &service);
        assert!(matches!(service.status().unwrap().wanted.unwrap().state, State::Staging { .. }));
        assert!(matches!(fixture.offer(&service, "1"), Reply::Accepted { .. }), "undone at once");
        assert_eq!(service.status().unwrap().wanted, None);
        assert_eq!(fixture.offer(&service, "2"), Reply::Accepted { digest });
        assert_eq!(service.status().unwrap().wanted.map(|wanted| wanted.digest), Some(digest), "wanted again");
    }

    #[test]
    fn what_is_being_staged_can_be_withdrawn() {
        let mut fixture = Fixture::new();
        let service = fixture.boot();
        let digest = staging(&fixture, &service);
        fixture.bundle("3", 1);
        let Reply::Refused(told) = fixture.offer(&service, "3") else { panic!("one at a time") };
        assert_eq!(told, format!("{digest} is on its way; it must end first"));
        assert_eq!(service.answer(Request::Withdraw { digest }, None), (Reply::Done, false));
        *service.lock_work() = None;
        let status = service.status().unwrap();
        assert_eq!((status.wanted, status.failed), (None, None));
        assert_eq!(service.ledger().unwrap().spare, Slot::Staged, "nobody tries it");
    }

    #[test]
    fn what_was_withdrawn_while_it_was_staged_is_not_told_as_refused() {
        let mut fixture = Fixture::new();
        let service = fixture.boot();
        let mut damaged = fixture.made(&"2".repeat(70_000), "2", 1);
        *damaged.last_mut().unwrap() ^= 1;
        let path = fixture.folder.path().join("damaged");
        fs::write(&path, damaged).unwrap();
        let bundle = Bundle::open(File::open(&path).unwrap(), &service.board.trusted).unwrap();
        service.work(Device::open(&fixture.disk()).unwrap(), bundle, 1);
        assert_eq!(service.status().unwrap().failed, None);
    }

    #[test]
    fn staging_that_panics_is_over() {
        let mut fixture = Fixture::new();
        let service = fixture.boot();
        let digest = staging(&fixture, &service);
        let staged = Arc::clone(&service);
        let thread = std::thread::spawn(move || {
            let _ends = EndsWithPanic(&staged.work);
            let _working = staged.lock_work();
            panic!("as a mistake of ours does");
        });
        assert!(thread.join().is_err());
        assert_eq!(service.working(), None);
        assert_eq!(fixture.offer(&service, "2"), Reply::Accepted { digest });
        fixture.is_staged(&service);
    }

    /// Offers a file; why it is refused, which the status tells as well, and that nothing else has changed.
    #[track_caller]
    fn refused(fixture: &Fixture, service: &Arc<Service>, bytes: &[u8], version: &str, expected: &str) {
        let before = fs::read(fixture.disk()).unwrap();
        fs::write(fixture.folder.path().join("offered"), bytes).unwrap();
        let answer = fixture.offer(service, "offered");
        fixture.is_staged(service);
        let status = service.status().unwrap();
        let failed = status.failed.expect("the status tells it");
        assert!(failed.told.starts_with(expected), "{failed:?}");
        assert_eq!((failed.cause.as_str(), failed.version.as_str()), (REFUSED, version));
        match answer {
            Reply::Refused(told) => assert_eq!(told, failed.told),
            other => assert_eq!(other, Reply::Accepted { digest: failed.digest }, "its parts are read later"),
        }
        assert_eq!((status.wanted, status.version.as_str(), status.confirmed), (None, "1", true));
        assert!(fs::read(fixture.disk()).unwrap() == before, "nothing is written to the disk");
    }

    #[test]
    fn each_bundle_that_is_not_to_be_taken_is_refused_with_its_reason() {
        let mut fixture = Fixture::new();
        let service = fixture.boot();
        let good = fixture.made(&"2".repeat(70_000), "2", 1);
        let unsigned = fixture.signed(&"2".repeat(70_000), "2", 1, None);
        let stranger = fixture.signed(&"2".repeat(70_000), "2", 1, Some(&Secret::generate().unwrap()));
        let flipped = |at: usize| {
            let mut bad = good.clone();
            bad[at] ^= 4;
            bad
        };
        let check = |bytes: &[u8], version: &str, expected: &str| refused(&fixture, &service, bytes, version, expected);
        check(b"hello, this is a longer text than a header", "", "this is no update bundle");
        check(&unsigned, "", "the bundle is unsigned");
        check(&stranger, "", "the bundle is wrongly signed");
        check(&good[..good.len() - 1], "", "the bundle is truncated");
        check(&good[..40], "", "the bundle is truncated");
        check(&flipped(100), "", "the bundle is wrongly signed");
        check(&flipped(good.len() - 1), "2", "the bundle is damaged: part 2 of 2");
        let old = fixture.made("0", "old", 0);
        check(&old, "old", "the bundle is a downgrade: its security epoch is 0, and this board has reached 1");
        let large = fixture.made(&"x".repeat(MIB as usize + 1), "large", 1);
        check(&large, "large", "the bundle is oversized: its image takes 1048577 bytes");
    }

    /// What the data partition has no room for: here a file stands where the notes' folder is to be.
    #[test]
    fn a_wish_that_cannot_be_noted_is_refused() {
        let mut fixture = Fixture::new();
        let service = fixture.boot();
        let good = fixture.made("2", "2", 1);
        fs::write(fixture.folder.path().join("notes"), "").unwrap();
        refused(&fixture, &service, &good, "2", "failed to note what happens to an update in ");
        fs::remove_file(fixture.folder.path().join("notes")).unwrap();
        let Reply::Accepted { digest } = fixture.offer(&service, "offered") else { panic!("it is taken") };
        fixture.is_staged(&service);
        let status = service.status().unwrap();
        assert_eq!((status.wanted.map(|wanted| wanted.digest), status.failed), (Some(digest), None));
    }

    #[test]
    fn what_is_refused_is_forgotten_with_the_next_offer_that_is_taken() {
        let mut fixture = Fixture::new();
        let service = fixture.boot();
        refused(&fixture, &service, b"hello, this is no bundle", "", "this is no update bundle");
        assert!(matches!(fixture.offer(&service, "1"), Reply::Accepted { .. }), "it runs");
        assert_eq!(service.status().unwrap().failed, None);
        refused(&fixture, &service, b"hello, this is no bundle", "", "this is no update bundle");
        let digest = service.status().unwrap().failed.unwrap().digest;
        assert_eq!(service.answer(Request::Withdraw { digest }, None), (Reply::Done, false));
        assert_eq!(service.status().unwrap().failed, None);
    }

    #[test]
    fn what_failed_is_not_spoken_of_once_what_runs_is_asked_for_again() {
        let mut fixture = Fixture::new();
        let digest = staged_and_activated(&mut fixture, "2");
        turn::reject(&mut Device::open(&fixture.disk()).unwrap(), Name::B, Cause::Panic).unwrap();
        let service = fixture.boot();
        let failed = |service: &Service| service.status().unwrap().failed.map(|failed| (failed.digest, failed.cause));
        assert_eq!(failed(&service), Some((digest, "panic".into())));
        assert!(matches!(fixture.offer(&service, "1"), Reply::Accepted { .. }), "undone");
        assert_eq!(failed(&service), None);
        let service = fixture.boot();
        assert_eq!(failed(&service), None, "after a restart too");
        assert!(
            matches!(fixture.offer(&service, "2"), Reply::Refused(told) if told.contains("was tried on this board"))
        );
        assert_eq!(failed(&service), Some((digest, "panic".into())), "asked for again");
    }

    #[test]
    fn the_socket_carries_questions_and_files() {
        let mut fixture = Fixture::new();
        let digest = fixture.bundle("2", 1);
        let board = fixture.boot().board.clone();
        let path = fixture.folder.path().join("deep/socket");
        let listening = path.clone();
        std::thread::spawn(move || serve(board, &listening, || {}));
        let began = Instant::now();
        while !path.exists() {
            assert!(began.elapsed() < Duration::from_secs(10), "the service listens");
            std::thread::yield_now();
        }
        let file = File::open(fixture.folder.path().join("2")).unwrap();
        let offer = Request::Offer { drain: Drain::default() };
        assert_eq!(ask(&path, &offer, Some(&file)).unwrap(), Reply::Accepted { digest });
        let Reply::Status(status) = ask(&path, &Request::Status, None).unwrap() else { panic!("a status") };
        assert_eq!(status.wanted.unwrap().digest, digest);
        assert!(
            matches!(ask(&path, &offer, None).unwrap(), Reply::Refused(told) if told.contains("no file came with it"))
        );
    }
}
