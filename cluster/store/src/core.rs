//! Group commit: who waits, what is at the log, what is visible, who is told.
//!
//! Start at [`Core::submit`] and [`Core::take`]. The core never waits and never does IO; it is told what happened at the
//! log ([`Core::complete`], [`Core::fail`], [`Core::recover`]) and what time it is ([`Core::tick`]), so that a thread, a
//! tokio task and a simulator drive it alike.
//!
//! Invariants:
//! * at most one batch is at the log; what comes meanwhile makes up the next one;
//! * a durable change is visible, and its writer told, only after the log has it;
//! * a lazy change is visible at once if nothing durable waits, else in its turn;
//! * every commit carries all lazy changes accepted before it, so a crash loses a suffix of history, of lazy ones alone;
//! * no revision is given out beyond the fence that the log has, and none twice.
//!
//! Not here: judging writes (`plan.rs`), waiting and sleeping (`run.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use base::Monotonic;
use futures::channel::oneshot;

use crate::history::{Change, History};
use crate::log::{Commit, Header, Row};
use crate::plan::{Plan, plan};
use crate::state::State;
use crate::watch::Watchers;
use crate::{Annotate, Durability, Entry, Options, Revision, StoreError, Write};

/// Revisions are reserved so many at a time; an unclean start skips at most so many. A flood of lazy writes makes a commit
/// after each half of it.
const REVISIONS_RESERVED: u64 = 10_000;
/// At most so many writes wait; more are refused rather than remembered.
const WRITES_WAITING_MAX: usize = 10_000;
/// A batch is at most so many writes: the first of them waits for the last.
const BATCH_WRITES_MAX: usize = 1_000;
/// A batch takes no further write once it holds so many bytes.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Lazy writes that nothing carried make a commit of their own once they take so many bytes.
const LAZY_BYTES_MAX: usize = 4 << 20;
/// Idle watchers are told how far they have come so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(60);

/// The middle of a store.
pub(crate) struct Core {
    pub(crate) state: State,
    pub(crate) watchers: Watchers,
    options: Options,
    mode: Mode,
    waiting: VecDeque<Waiting>,
    durable_waiting: usize,
    /// Whether a batch with changes of its own is at the log.
    committing: bool,
    next: Revision,
    fence: Revision,
    /// The newest revision the log has.
    committed: Revision,
    lazy: Lazy,
    flush: bool,
    closers: Vec<Closer>,
    progress_told: Monotonic,
}

/// Whether writes are taken.
#[derive(Clone, PartialEq, Eq)]
enum Mode {
    /// Yes.
    Open,
    /// Not until the log has been opened again: its last answer was an error.
    Broken { reason: String },
    /// Not any more, once what waits is done and the log closed.
    Closing,
    /// Not any more, once the log is closed, which does not take what was still to be kept.
    GivingUp { reason: String },
    /// No more.
    Closed,
}

/// Lazy changes that no commit has carried.
#[derive(Default)]
struct Lazy {
    entries: BTreeMap<Arc<str>, Entry>,
    bytes: usize,
    since: Option<Monotonic>,
}

/// A write and who wants to know of it.
pub(crate) struct Waiting {
    write: Write,
    answer: Answer,
}

/// Tells a writer.
pub(crate) type Answer = oneshot::Sender<Result<Entry, StoreError>>;
/// Tells who wanted the store closed.
pub(crate) type Closer = oneshot::Sender<Result<(), StoreError>>;

/// What the driver has to do next.
pub(crate) enum Step {
    /// Wait.
    Nothing,
    /// Plan these, append the commit, then call [`Core::complete`] or [`Core::fail`].
    Batch(Vec<Waiting>),
    /// Open the log again and call [`Core::recover`].
    Recover,
    /// Append this, if there is anything, close the log and call [`Core::closed`].
    Close(Option<Commit>),
}

/// Writes that have been judged, on their way to the log.
pub(crate) struct Batch {
    answers: Vec<Answer>,
    plan: Plan,
    next: Revision,
    /// Lazy changes up to this revision are in the commit.
    carried: Revision,
    /// What to append; nothing if no write happens.
    pub(crate) commit: Option<Commit>,
}

/// A batch whose commit failed: nobody knows whether the log has it.
pub(crate) struct Suspect {
    pub(crate) changes: Vec<Arc<Change>>,
    pub(crate) header: Header,
    carried: Revision,
}

/// What to do once the locks are free.
#[derive(Default)]
pub(crate) struct Effects {
    wakers: Vec<Waker>,
    answers: Vec<(Answer, Result<Entry, StoreError>)>,
    closers: Vec<(Closer, Result<(), StoreError>)>,
}

impl Core {
    /// A core over a log that said `header` and holds `entries`.
    pub(crate) fn start(header: Header, entries: impl Iterator<Item = Entry>, options: Options) -> Core {
        let (floor, visible) = first_revisions(header);
        let mut state =
            State::new(visible, History::new(floor, options.history_changes_max, options.history_bytes_max));
        entries.for_each(|entry| state.load(entry));
        Core {
            state,
            watchers: Watchers::new(options.watch_changes_max),
            mode: Mode::Open,
            waiting: VecDeque::new(),
            durable_waiting: 0,
            committing: false,
            next: Revision(visible.0 + 1),
            fence: header.fence,
            committed: visible,
            lazy: Lazy::default(),
            flush: false,
            closers: Vec::new(),
            progress_told: Monotonic(0),
            options,
        }
    }

    /// The commit that makes the log writable for this core: it reserves revisions and says that the log is in use. The
    /// core may not be used before the log has it.
    pub(crate) fn first_commit(&mut self) -> Commit {
        self.fence = Revision(self.fence.max(self.next).0 + REVISIONS_RESERVED);
        Commit { rows: Vec::new(), header: Header { revision: self.committed, fence: self.fence, clean: false } }
    }

    /// Takes a write; `answer` is told now or later.
    pub(crate) fn submit(&mut self, write: Write, answer: Answer, annotate: &Annotate, effects: &mut Effects) {
        let refusal = match &self.mode {
            Mode::Open if self.waiting.len() < WRITES_WAITING_MAX => None,
            Mode::Open => Some(StoreError::ReadOnly { reason: format!("{WRITES_WAITING_MAX} writes wait already") }),
            Mode::Broken { reason } => Some(StoreError::ReadOnly { reason: reason.clone() }),
            Mode::Closing | Mode::GivingUp { .. } | Mode::Closed => Some(StoreError::Closed),
        };
        if let Some(refusal) = refusal {
            return effects.answers.push((answer, Err(refusal)));
        }
        self.durable_waiting += usize::from(is_durable(&write));
        self.waiting.push_back(Waiting { write, answer });
        self.accept_lazy(annotate, effects);
    }

    /// What is to be done next.
    pub(crate) fn take(&mut self) -> Step {
        match self.mode {
            Mode::Closed => Step::Nothing,
            Mode::Broken { .. } => Step::Recover,
            Mode::GivingUp { .. } => Step::Close(None),
            Mode::Closing if self.waiting.is_empty() => Step::Close(Some(self.last_commit())),
            Mode::Open if self.waiting.is_empty() && !self.flush => Step::Nothing,
            Mode::Open | Mode::Closing => Step::Batch(self.drain()),
        }
    }

    /// Judges `waiting`. Reads only, so that readers need not wait for it.
    pub(crate) fn plan(&self, waiting: Vec<Waiting>, annotate: &Annotate) -> Batch {
        let writes = waiting.iter().map(|each| &each.write);
        let plan = plan(&self.state, self.next, writes, annotate, self.options.live_bytes_max);
        let carried = self.state.visible();
        let next = plan.changes.last().map_or(self.next, |change| Revision(change.entry.revision.0 + 1));
        let commit = (self.flush || !plan.changes.is_empty()).then(|| self.commit(&plan.changes, next));
        Batch { answers: waiting.into_iter().map(|each| each.answer).collect(), plan, next, carried, commit }
    }

    /// The log has the batch.
    pub(crate) fn complete(&mut self, batch: Batch, annotate: &Annotate, effects: &mut Effects) {
        if let Some(commit) = &batch.commit {
            self.fence = self.fence.max(commit.header.fence);
            self.kept(&batch.plan.changes, commit.header, batch.carried, effects);
            self.flush = false;
        }
        self.committing = false;
        self.next = self.next.max(batch.next);
        let verdicts = batch.plan.verdicts.into_iter().map(|verdict| verdict.map(|change| change.entry.clone()));
        effects.answers.extend(batch.answers.into_iter().zip(verdicts));
        self.accept_lazy(annotate, effects);
    }

    /// Nobody knows whether the log has the batch. Its revisions are burnt, its writers are told; those who wait behind it
    /// are refused.
    pub(crate) fn fail(&mut self, batch: Batch, reason: &str, effects: &mut Effects) -> Option<Suspect> {
        self.committing = false;
        self.next = self.next.max(batch.next);
        let verdicts = batch.plan.verdicts.into_iter().map(|verdict| match verdict {
            Ok(change) => Err(StoreError::Unknown { key: change.entry.key.to_string(), reason: reason.to_owned() }),
            Err(_) => Err(StoreError::ReadOnly { reason: reason.to_owned() }),
        });
        effects.answers.extend(batch.answers.into_iter().zip(verdicts));
        self.refuse(reason, effects);
        let commit = batch.commit?;
        Some(Suspect { changes: batch.plan.changes, header: commit.header, carried: batch.carried })
    }

    /// The log is in doubt: no writes until it has been opened again.
    pub(crate) fn refuse(&mut self, reason: &str, effects: &mut Effects) {
        let error = StoreError::ReadOnly { reason: reason.to_owned() };
        effects.answers.extend(self.waiting.drain(..).map(|each| (each.answer, Err(error.clone()))));
        self.durable_waiting = 0;
        let reason = reason.to_owned();
        self.mode = if self.is_closed() { Mode::GivingUp { reason } } else { Mode::Broken { reason } };
    }

    /// The commit that shows that the log, opened again and saying `header`, takes writes.
    pub(crate) fn probe(&self, header: Header) -> Commit {
        let fence = Revision(self.fence.max(header.fence).max(self.next).0 + REVISIONS_RESERVED);
        Commit { rows: Vec::new(), header: Header { revision: header.revision, fence, clean: false } }
    }

    /// The log works again and has the probe. `happened` is the batch that turned out to be in it.
    pub(crate) fn recover(&mut self, probe: &Header, happened: Option<Suspect>, effects: &mut Effects) {
        if let Some(suspect) = happened {
            self.kept(&suspect.changes, suspect.header, suspect.carried, effects);
        }
        self.fence = probe.fence;
        self.flush = !self.lazy.entries.is_empty();
        self.mode = Mode::Open;
    }

    /// Says what time it is: lazy writes that waited long enough make a commit, idle watchers are told their progress.
    pub(crate) fn tick(&mut self, now: Monotonic, effects: &mut Effects) {
        if !self.lazy.entries.is_empty() {
            let since = *self.lazy.since.get_or_insert(now);
            self.flush |= now.since(since) >= self.options.lazy_age_max;
        }
        if now.since(self.progress_told) >= PROGRESS_EVERY {
            self.progress_told = now;
            effects.wakers.extend(self.watchers.progress(self.state.visible()));
        }
    }

    /// Asks for everything to be committed and the log to be closed.
    pub(crate) fn close(&mut self, closer: Option<Closer>, effects: &mut Effects) {
        match &self.mode {
            Mode::Closed => effects.closers.extend(closer.map(|closer| (closer, Ok(())))),
            Mode::Broken { reason } => {
                self.mode = Mode::GivingUp { reason: reason.clone() };
                self.closers.extend(closer);
            }
            Mode::Open => {
                self.mode = Mode::Closing;
                self.closers.extend(closer);
            }
            Mode::Closing | Mode::GivingUp { .. } => self.closers.extend(closer),
        }
    }

    /// The log is closed; `failure` is why it lacks the last commit.
    pub(crate) fn closed(&mut self, failure: Option<String>, effects: &mut Effects) {
        let given_up = if let Mode::GivingUp { reason } = &self.mode { Some(reason.clone()) } else { None };
        let failure = failure.or(given_up);
        let result = failure.map_or(Ok(()), |reason| Err(StoreError::ReadOnly { reason }));
        self.mode = Mode::Closed;
        effects.wakers.extend(self.watchers.end(&StoreError::Closed));
        effects.closers.extend(self.closers.drain(..).map(|closer| (closer, result.clone())));
    }

    /// Why the store takes no writes at present, where that is for its log.
    pub(crate) fn broken(&self) -> Option<&str> {
        if let Mode::Broken { reason } = &self.mode { Some(reason) } else { None }
    }

    /// Whether the store takes no more calls.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.mode, Mode::Closing | Mode::GivingUp { .. } | Mode::Closed)
    }

    /// How many writes wait for the next batch.
    pub(crate) fn writes_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The newest revision the log has.
    pub(crate) fn committed(&self) -> Revision {
        self.committed
    }

    /// The revision up to which `key` has a lazy version that the log may lack.
    pub(crate) fn lazy(&self, key: &str) -> Option<Revision> {
        self.lazy.entries.get(key).map(|entry| entry.revision)
    }

    /// The commit after which nothing is left to be kept.
    fn last_commit(&self) -> Commit {
        let mut commit = self.commit(&[], self.next);
        commit.header.clean = true;
        commit
    }

    fn drain(&mut self) -> Vec<Waiting> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_WRITES_MAX && bytes < BATCH_BYTES_MAX {
            let Some(next) = self.waiting.pop_front() else { break };
            bytes += value_bytes(&next.write);
            self.durable_waiting -= usize::from(is_durable(&next.write));
            batch.push(next);
        }
        self.committing = !batch.is_empty();
        batch
    }

    /// All lazy changes and then `changes`, each key once.
    fn commit(&self, changes: &[Arc<Change>], next: Revision) -> Commit {
        let mut rows: BTreeMap<&str, Row> =
            self.lazy.entries.iter().map(|(key, entry)| (&**key, Row::Put(entry.clone()))).collect();
        for change in changes {
            let row = match change.after() {
                Some(entry) => Row::Put(entry.clone()),
                None => Row::Delete(change.entry.key.clone()),
            };
            rows.insert(&change.entry.key, row);
        }
        let revision = changes.last().map_or(self.state.visible(), |change| change.entry.revision);
        let header = Header { revision, fence: self.fence_for(next), clean: false };
        Commit { rows: rows.into_values().collect(), header }
    }

    /// Moves the fence on while it rides along for nothing, long before it is reached.
    fn fence_for(&self, next: Revision) -> Revision {
        let left = self.fence.0.saturating_sub(next.0);
        if left >= REVISIONS_RESERVED / 2 { self.fence } else { Revision(next.0 + REVISIONS_RESERVED) }
    }

    /// Makes visible what the log has.
    fn kept(&mut self, changes: &[Arc<Change>], header: Header, carried: Revision, effects: &mut Effects) {
        for change in changes {
            self.publish(change, effects);
        }
        self.committed = header.revision;
        self.lazy.entries.retain(|_, entry| entry.revision > carried);
        self.lazy.bytes = self.lazy.entries.values().map(|entry| entry.value.len()).sum();
        self.lazy.since = None;
    }

    fn publish(&mut self, change: &Arc<Change>, effects: &mut Effects) {
        self.state.apply(change.clone());
        effects.wakers.extend(self.watchers.tell(change));
    }

    /// Lets lazy writes happen while nothing durable is before them.
    fn accept_lazy(&mut self, annotate: &Annotate, effects: &mut Effects) {
        while self.can_accept_lazy() {
            let Some(Waiting { write, answer }) = self.waiting.pop_front() else { return };
            let plan = plan(&self.state, self.next, [&write], annotate, self.options.live_bytes_max);
            for change in &plan.changes {
                self.publish(change, effects);
                self.next.0 += 1;
                self.lazy.bytes += change.entry.value.len();
                self.lazy.entries.insert(change.entry.key.clone(), change.entry.clone());
            }
            let verdict = plan.verdicts.into_iter().next().expect("one write has one verdict");
            effects.answers.push((answer, verdict.map(|change| change.entry.clone())));
        }
    }

    fn can_accept_lazy(&self) -> bool {
        !self.committing
            && self.durable_waiting == 0
            && self.next <= self.fence
            && self.lazy.bytes < LAZY_BYTES_MAX
            && self.mode == Mode::Open
    }
}

impl Batch {
    /// The commit, if the batch changes anything.
    pub(crate) fn commit(&self) -> Option<&Commit> {
        self.commit.as_ref()
    }
}

impl Effects {
    /// Answers and wakes. To be called without any lock: whoever is woken reads at once.
    pub(crate) fn perform(self) {
        for (answer, result) in self.answers {
            // A writer that no longer listens has its write all the same.
            let _ = answer.send(result);
        }
        for (closer, result) in self.closers {
            let _ = closer.send(result);
        }
        self.wakers.into_iter().for_each(Waker::wake);
    }
}

/// The oldest revision known and the first visible one. A new log begins at 1, because clients take 0 for "any". Behind an
/// unclean stop everything up to the fence may have been seen by somebody and then lost, so nobody may watch on from there.
fn first_revisions(header: Header) -> (Revision, Revision) {
    match header {
        Header { revision: Revision(0), clean: true, .. } => (Revision(0), Revision(1)),
        Header { revision, clean: true, .. } => (revision, revision),
        Header { fence, .. } => (Revision(fence.0 + 1), Revision(fence.0 + 1)),
    }
}

fn is_durable(write: &Write) -> bool {
    match write {
        Write::Put(put) => put.durability == Durability::Durable,
        Write::Delete(_) => true,
    }
}

fn value_bytes(write: &Write) -> usize {
    match write {
        Write::Put(put) => put.value.len(),
        Write::Delete(_) => 0,
    }
}
