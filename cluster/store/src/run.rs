//! The edge: takes what the core wants done, does it at the log, tells the core.
//!
//! Start at [`Driver::turn`], one step; [`run`] takes steps for ever inside tokio.
//!
//! Invariants:
//! * one driver owns the log, and has at most one operation under way there;
//! * nobody is answered, and nobody woken, while a lock is held.
//!
//! Not here: what to do and when (`core.rs`).

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use base::Monotonic;
use tokio::sync::Notify;

use crate::core::{Core, Effects, Step, Suspect, Waiting};
use crate::log::{Commit, Log, LogError};
use crate::verify::{Found, verify};
use crate::watch::{Registry, Watchers};
use crate::{Annotate, Entry, Options};

/// The core is told the time so often. Twice a minute is nothing on an idle board.
const TICK: Duration = Duration::from_secs(30);
/// A log that failed is tried again after this at first, doubling up to the other.
const REOPEN_AFTER: Duration = Duration::from_millis(10);
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(5);
/// Writers that come back with their next write are waited for this part of the last commit's time: at worst it makes
/// writes slower by as much, at best it halves the number of commits.
const GATHER_PART: u32 = 4;
/// Timers are no finer; behind a disk that is quicker than this allows, nobody is waited for.
const GATHER_MIN: Duration = Duration::from_millis(1);
/// On a slow card a commit takes long enough.
const GATHER_MAX: Duration = Duration::from_millis(10);

/// What readers, writers and the driver share.
pub(crate) struct Shared {
    core: RwLock<Core>,
    pub(crate) annotate: Annotate,
}

impl Shared {
    /// Reads.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Core> {
        self.core.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes, then answers and wakes.
    pub(crate) fn change<T>(&self, with: impl FnOnce(&mut Core, &mut Effects) -> T) -> T {
        let mut effects = Effects::default();
        let result = with(&mut self.core.write().unwrap_or_else(PoisonError::into_inner), &mut effects);
        effects.perform();
        result
    }
}

impl Registry for Shared {
    fn watchers(&self, with: &mut dyn FnMut(&mut Watchers)) {
        self.change(|core, _| with(&mut core.watchers));
    }
}

/// Owns the log.
pub(crate) struct Driver<L> {
    shared: Arc<Shared>,
    log: L,
    suspect: Option<Suspect>,
    /// So many writers were told by the last commit.
    told: usize,
}

/// How a turn went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There was nothing to do.
    Idle,
    /// Something was done; there may be more.
    Worked,
    /// The log failed; try again in a while.
    Broken,
    /// The store is closed.
    Closed,
}

impl<L: Log> Driver<L> {
    /// Opens the log, reads everything, reserves revisions.
    pub(crate) async fn start(mut log: L, annotate: Annotate, options: Options) -> Result<Driver<L>, LogError> {
        let mut entries = Vec::new();
        let load = annotate.clone();
        let header = log
            .open(&mut |key, revision, value| {
                let annex = load(key, &value);
                entries.push(Entry { key: key.into(), value, revision, annex });
            })
            .await?;
        let mut core = Core::start(header, entries.into_iter(), options);
        let first = core.first_commit();
        log.append(&first).await?;
        Ok(Driver { shared: Arc::new(Shared { core: RwLock::new(core), annotate }), log, suspect: None, told: 0 })
    }

    /// The other half.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Does one thing.
    pub(crate) async fn turn(&mut self) -> Turn {
        let step = self.shared.change(|core, _| core.take());
        match step {
            Step::Nothing if self.shared.read().is_closed() => Turn::Closed,
            Step::Nothing => Turn::Idle,
            Step::Batch(waiting) => self.commit(waiting).await,
            Step::Recover => self.recover().await,
            Step::Close(last) => self.close(last).await,
        }
    }

    async fn commit(&mut self, waiting: Vec<Waiting>) -> Turn {
        self.told = waiting.len();
        let batch = self.shared.read().plan(waiting, &self.shared.annotate);
        let appended = match batch.commit() {
            Some(commit) => self.log.append(commit).await,
            None => Ok(()),
        };
        if let Err(error) = appended {
            self.suspect = self.shared.change(|core, effects| core.fail(batch, &error.0, effects));
            return Turn::Broken;
        }
        self.shared.change(|core, effects| core.complete(batch, &self.shared.annotate, effects));
        if let Err(error) = self.log.tend().await {
            self.shared.change(|core, effects| core.refuse(&error.0, effects));
            return Turn::Broken;
        }
        Turn::Worked
    }

    /// Opens the log again, finds out whether the last commit is in it, and shows that it takes writes.
    async fn recover(&mut self) -> Turn {
        match self.reopen().await {
            Ok(()) => Turn::Worked,
            Err(error) => {
                self.shared.change(|core, effects| core.refuse(&error.0, effects));
                Turn::Broken
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), LogError> {
        let mut found = Found::default();
        let shared = self.shared.clone();
        let header =
            self.log.open(&mut |key, revision, value| found.see(&shared.read(), key, revision, &value)).await?;
        let (happened, probe) = {
            let core = self.shared.read();
            let happened = verify(&core, self.suspect.as_ref(), header, found)
                .map_err(|what| LogError(format!("the log is not what was written: {what}")))?;
            (happened, core.probe(header))
        };
        self.log.append(&probe).await?;
        let suspect = self.suspect.take().filter(|_| happened);
        self.shared.change(|core, effects| core.recover(&probe.header, suspect, effects));
        Ok(())
    }

    async fn close(&mut self, last: Option<Commit>) -> Turn {
        let appended = match &last {
            Some(last) => self.log.append(last).await,
            None => Ok(()),
        };
        self.log.close().await;
        let failure = appended.err().map(|error| error.0);
        self.shared.change(|core, effects| core.closed(failure, effects));
        Turn::Closed
    }
}

/// Takes turns until the store is closed. `work` is notified when there may be something to do.
pub(crate) async fn run<L: Log>(mut driver: Driver<L>, work: Arc<Notify>) {
    let start = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pause = REOPEN_AFTER;
    let mut told = String::new();
    let mut crowd = Crowd { writers: 0, since: start, took: Duration::ZERO };
    loop {
        crowd.gather(&driver.shared, &work).await;
        let begun = tokio::time::Instant::now();
        match driver.turn().await {
            Turn::Worked => {
                pause = REOPEN_AFTER;
                tell(news(&mut told, None));
                crowd = Crowd::after(&driver, begun.elapsed());
            }
            Turn::Broken => {
                let reason = driver.shared.read().broken().map(str::to_owned);
                tell(news(&mut told, reason.as_deref()));
                wait_or_closing(&driver.shared, &work, pause).await;
                pause = (pause * 2).min(REOPEN_AFTER_MAX);
            }
            Turn::Closed => return,
            Turn::Idle => {
                tokio::select! {
                    () = work.notified() => {}
                    now = ticks.tick() => {
                        let now = Monotonic((now - start).as_nanos() as u64);
                        driver.shared.change(|core, effects| core.tick(now, effects));
                    }
                }
            }
        }
    }
}

/// What there is to tell after `told`: once that the store takes no writes, again where the reason is another, and once that
/// it does again.
fn news(told: &mut String, reason: Option<&str>) -> Option<String> {
    let (before, now) = (std::mem::take(told), reason.unwrap_or_default());
    told.push_str(now);
    match (before.as_str(), now) {
        (before, now) if before == now => None,
        (_, "") => Some("the store takes writes again".to_owned()),
        (_, now) => Some(format!("the store is read-only until its file works again: {now}")),
    }
}

fn tell(news: Option<String>) {
    if let Some(news) = news {
        tracing::warn!("{news}");
    }
}

/// The writers there were lately: most come back with their next write as soon as they are told of the last one.
struct Crowd {
    writers: usize,
    /// When they were told.
    since: tokio::time::Instant,
    /// How long the commit took.
    took: Duration,
}

impl Crowd {
    /// Those a commit told, and those who wait already.
    fn after<L: Log>(driver: &Driver<L>, took: Duration) -> Crowd {
        let writers = driver.told + driver.shared.read().writes_waiting();
        Crowd { writers, since: tokio::time::Instant::now(), took }
    }

    /// When the first of them is there, waits a little for the others. Without it the first one has a commit to itself, the
    /// others miss it by a hair, time and again, and everybody waits for two commits.
    async fn gather(&self, shared: &Shared, work: &Notify) {
        let waiting = || shared.read().writes_waiting();
        let patience = (self.took / GATHER_PART).min(GATHER_MAX);
        // Who comes back, comes back soon: whoever writes after a quiet while is somebody else.
        if waiting() == 0 || patience < GATHER_MIN || self.since.elapsed() > self.took {
            return;
        }
        let all = async {
            while waiting() < self.writers {
                work.notified().await;
            }
        };
        // That some do not come back is no error.
        let _ = tokio::time::timeout(patience, all).await;
    }
}

/// Waits, but not for a store that is to be closed.
async fn wait_or_closing(shared: &Shared, work: &Notify, pause: Duration) {
    let closing = async {
        while !shared.read().is_closed() {
            work.notified().await;
        }
    };
    let _ = tokio::time::timeout(pause, closing).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures::channel::oneshot;

    use super::*;
    use crate::log::{Each, Header};
    use crate::{Durability, Precondition, Put, Write};

    /// What the network and a client take between an answer and the next write: some are quicker than others.
    fn between(writer: usize) -> Duration {
        Duration::from_millis(1 + writer as u64 % 4)
    }

    /// A log on a disk that takes a while.
    struct Slow {
        takes: Duration,
        commits: Arc<AtomicUsize>,
    }

    impl Log for Slow {
        async fn open(&mut self, _: Each<'_>) -> Result<Header, LogError> {
            Ok(Header { clean: true, ..Header::default() })
        }
        async fn append(&mut self, _: &Commit) -> Result<(), LogError> {
            tokio::time::sleep(self.takes).await;
            self.commits.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        async fn tend(&mut self) -> Result<(), LogError> {
            Ok(())
        }
        async fn close(&mut self) {}
    }

    async fn write(shared: &Shared, work: &Notify, key: String) {
        let (answer, answered) = oneshot::channel();
        let (precondition, durability) = (Precondition::Any, Durability::Durable);
        let put = Put { key, value: Bytes::new(), stamp_at: None, precondition, durability };
        shared.change(|core, effects| core.submit(Write::Put(put), answer, &shared.annotate, effects));
        work.notify_one();
        assert!(answered.await.is_ok_and(|answer| answer.is_ok()));
    }

    /// Commits that `writers` need for ten writes each.
    async fn commits(writers: usize, takes: Duration) -> usize {
        let commits = Arc::<AtomicUsize>::default();
        let log = Slow { takes, commits: commits.clone() };
        let driver = Driver::start(log, Arc::new(|_, _| Arc::new(())), Options::default()).await.expect("it starts");
        let (shared, work) = (driver.shared(), Arc::new(Notify::new()));
        let running = tokio::spawn(run(driver, work.clone()));
        let tasks = (0..writers).map(|writer| {
            let (shared, work) = (shared.clone(), work.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    write(&shared, &work, writer.to_string()).await;
                    tokio::time::sleep(between(writer)).await;
                }
            })
        });
        futures::future::join_all(tasks.collect::<Vec<_>>()).await;
        running.abort();
        // The first one reserves revisions.
        commits.load(Ordering::Relaxed) - 1
    }

    #[tokio::test(start_paused = true)]
    async fn writers_that_come_back_share_a_commit() {
        assert_eq!(commits(50, Duration::from_millis(20)).await, 10);
        assert_eq!(commits(2, Duration::from_millis(20)).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn one_writer_waits_for_nobody() {
        let begun = tokio::time::Instant::now();
        assert_eq!(commits(1, Duration::from_millis(20)).await, 10);
        assert!(begun.elapsed() < Duration::from_millis(240), "{:?}", begun.elapsed());
    }

    #[test]
    fn what_hinders_the_store_is_told_once_and_so_is_its_end() {
        let mut told = String::new();
        let mut hear = |reason| news(&mut told, reason);
        assert_eq!(hear(None), None);
        assert_eq!(hear(Some("full")).as_deref(), Some("the store is read-only until its file works again: full"));
        assert_eq!(hear(Some("full")), None);
        assert_eq!(hear(Some("gone")).as_deref(), Some("the store is read-only until its file works again: gone"));
        assert_eq!(hear(None).as_deref(), Some("the store takes writes again"));
        assert_eq!(hear(None), None);
    }
}
