//! The keys that wait to be looked at.
//!
//! Start at [`Queue`].
//!
//! Invariants:
//! * a key waits at most once, and is handed out at most once until it is done;
//! * a key added while it is being worked on waits again when it is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use base::Monotonic;

/// The wait after the first failure of a key.
pub const WAIT_MIN: Duration = Duration::from_millis(10);
/// The longest wait: what an operator who repaired something is ready to wait for.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// What a reconciler looks at: usually an object of its main kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `""` for what lives in no namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key.
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            out.write_str(&self.name)
        } else {
            write!(out, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The keys that wait.
#[derive(Default)]
pub struct Queue {
    ready: VecDeque<Key>,
    waiting: BTreeSet<Key>,
    active: BTreeMap<Key, bool>,
    later: BTreeSet<(Monotonic, Key)>,
    due: BTreeMap<Key, Monotonic>,
    failures: BTreeMap<Key, u32>,
}

impl Queue {
    /// Wants the key looked at as soon as possible.
    pub fn add(&mut self, key: Key) {
        if let Some(again) = self.active.get_mut(&key) {
            *again = true;
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Wants the key looked at at a moment, or sooner if that is wanted already.
    pub fn add_at(&mut self, key: Key, at: Monotonic) {
        match self.due.get(&key) {
            Some(due) if *due <= at => return,
            Some(due) => {
                self.later.remove(&(*due, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.later.insert((at, key));
    }

    /// The next key to look at. It is the caller's until [`Queue::done`].
    pub fn pop(&mut self, now: Monotonic) -> Option<Key> {
        while let Some((at, key)) = self.later.first().cloned() {
            if at > now {
                break;
            }
            self.later.pop_first();
            self.due.remove(&key);
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.active.insert(key.clone(), false);
        Some(key)
    }

    /// Gives a key back.
    pub fn done(&mut self, key: &Key) {
        if self.active.remove(key) == Some(true) {
            self.add(key.clone());
        }
    }

    /// Gives a key back that failed; it comes back later each time.
    pub fn failed(&mut self, key: &Key, now: Monotonic) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = WAIT_MIN.saturating_mul(1 << (*failures).min(20)).min(WAIT_MAX);
        *failures += 1;
        self.active.remove(key);
        self.add_at(key.clone(), now.plus(wait));
        wait
    }

    /// Forgets the failures of a key.
    pub fn succeeded(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// When the next delayed key is due. `None` also when one is ready now.
    pub fn due(&self) -> Option<Monotonic> {
        self.later.first().map(|(at, _)| *at)
    }

    /// Whether a key is ready now.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether nothing is ready or being worked on.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.active.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("n", name)
    }
    const NOW: Monotonic = Monotonic(1_000_000_000);

    #[test]
    fn a_key_waits_once() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!((queue.pop(NOW), queue.pop(NOW)), (Some(key("a")), None));
    }

    #[test]
    fn a_key_added_while_active_comes_back_when_done() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        let active = queue.pop(NOW).expect("a key");
        queue.add(key("a"));
        assert_eq!(queue.pop(NOW), None);
        queue.done(&active);
        assert_eq!(queue.pop(NOW), Some(key("a")));
    }

    #[test]
    fn failures_wait_longer_until_success() {
        let mut queue = Queue::default();
        let waits: Vec<Duration> = (0..3).map(|_| queue.failed(&key("a"), NOW)).collect();
        assert_eq!(waits, [WAIT_MIN, WAIT_MIN * 2, WAIT_MIN * 4]);
        assert_eq!(queue.pop(NOW), None);
        assert_eq!(queue.pop(NOW.plus(WAIT_MIN)), Some(key("a")));
        queue.succeeded(&key("a"));
        assert_eq!(queue.failed(&key("a"), NOW), WAIT_MIN);
    }

    #[test]
    fn the_sooner_of_two_delays_counts() {
        let mut queue = Queue::default();
        queue.add_at(key("a"), NOW.plus(Duration::from_secs(9)));
        queue.add_at(key("a"), NOW.plus(Duration::from_secs(1)));
        queue.add_at(key("a"), NOW.plus(Duration::from_secs(5)));
        assert_eq!(queue.due(), Some(NOW.plus(Duration::from_secs(1))));
        assert_eq!(queue.pop(NOW.plus(Duration::from_secs(1))), Some(key("a")));
        assert_eq!(queue.due(), None);
    }
}
