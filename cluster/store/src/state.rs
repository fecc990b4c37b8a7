//! What readers see: the live objects, and the history behind them.
//!
//! Start at [`State::apply`], the only way in, and [`State::list`].
//!
//! Invariants:
//! * changes are applied in revision order, and `visible` is never less than any revision in here;
//! * reading costs what the range holds, never what the store holds.
//!
//! Not here: what is written but not yet committed (`plan.rs`).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::history::{Change, History};
use crate::{Entry, Page, Range, Revision, StoreError};

/// What an object costs beside its bytes: the map's node, the entry, the annex's allocation.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// Everything committed (or lazy and accepted).
pub(crate) struct State {
    live: BTreeMap<Arc<str>, Entry>,
    live_bytes: usize,
    history: History,
    visible: Revision,
}

impl State {
    /// A state without objects at `visible`, with `history` behind it.
    pub(crate) fn new(visible: Revision, history: History) -> State {
        State { live: BTreeMap::new(), live_bytes: 0, history, visible }
    }

    /// Takes an object that was there before this process.
    pub(crate) fn load(&mut self, entry: Entry) {
        self.live_bytes += entry_bytes(&entry);
        self.live.insert(entry.key.clone(), entry);
    }

    /// The newest visible revision.
    pub(crate) fn visible(&self) -> Revision {
        self.visible
    }

    /// Everything there is now.
    pub(crate) fn live(&self) -> &BTreeMap<Arc<str>, Entry> {
        &self.live
    }

    /// What the live objects cost.
    pub(crate) fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// Makes `change` visible.
    pub(crate) fn apply(&mut self, change: Arc<Change>) {
        assert!(change.entry.revision > self.visible, "revisions become visible in order");
        self.visible = change.entry.revision;
        let key = &change.entry.key;
        let before = match change.after() {
            Some(entry) => {
                self.live_bytes += entry_bytes(entry);
                self.live.insert(key.clone(), entry.clone())
            }
            None => self.live.remove(key),
        };
        self.live_bytes -= before.as_ref().map_or(0, entry_bytes);
        self.history.push(change);
    }

    /// The page that `range` asks for.
    pub(crate) fn list(&self, range: &Range) -> Result<Page, StoreError> {
        let revision = range.at.unwrap_or(self.visible);
        self.check(revision)?;
        let past = self.past(range, revision);
        let now = self.range(range).filter(|entry| !past.contains_key(&*entry.key));
        let mut all = merge(now, past.values().copied().flatten());
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let entries = all.by_ref().take(limit).cloned().collect();
        Ok(Page { revision, entries, remaining: all.count() })
    }

    /// What happened behind `after` to keys that begin with `prefix`.
    pub(crate) fn since(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<impl Iterator<Item = &Arc<Change>>, StoreError> {
        self.check(after)?;
        Ok(self.history.since(after).filter(move |change| change.entry.key.starts_with(prefix)))
    }

    /// Forgets history.
    pub(crate) fn compact(&mut self, revision: Revision) {
        self.history.compact(revision.min(self.visible));
    }

    fn check(&self, asked: Revision) -> Result<(), StoreError> {
        if asked > self.visible {
            return Err(StoreError::Future { asked, current: self.visible });
        }
        if asked < self.history.floor() {
            return Err(StoreError::Compacted { asked, oldest: self.history.floor() });
        }
        Ok(())
    }

    fn range<'a>(&'a self, range: &'a Range) -> impl Iterator<Item = &'a Entry> {
        let from = match &range.after {
            Some(after) if **after >= *range.prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(range.prefix.as_str()),
        };
        self.live
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&range.prefix))
            .map(|(_, entry)| entry)
    }

    /// The keys of `range` that have changed since `revision`, with what they held then. Walks from the newest change back,
    /// so that the oldest one has the last word.
    fn past(&self, range: &Range, revision: Revision) -> BTreeMap<&str, Option<&Entry>> {
        let mut past = BTreeMap::new();
        for change in self.history.since(revision).rev() {
            let key = &*change.entry.key;
            if key.starts_with(&range.prefix) && range.after.as_deref().is_none_or(|after| key > after) {
                past.insert(key, change.previous.as_ref());
            }
        }
        past
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.key.len() + entry.value.len() + ENTRY_OVERHEAD_BYTES
}

/// Two sequences ordered by key as one.
fn merge<'a>(
    left: impl Iterator<Item = &'a Entry>,
    right: impl Iterator<Item = &'a Entry>,
) -> impl Iterator<Item = &'a Entry> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(one), Some(other)) if one.key > other.key => right.next(),
        (None, _) => right.next(),
        _ => left.next(),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// A state after `changes`, such as "a b -a": put a (revision 1), put b (2), delete a (3).
    fn state(changes: &str) -> State {
        let mut state = State::new(Revision(0), History::new(Revision(0), 100, 1 << 20));
        for (index, word) in changes.split_whitespace().enumerate() {
            let key = word.trim_start_matches('-');
            let revision = Revision(index as u64 + 1);
            let entry = Entry { key: key.into(), value: Bytes::new(), revision, annex: Arc::new(()) };
            let previous = state.live.get(key).cloned();
            state.apply(Arc::new(Change { entry, previous, deletes: word.starts_with('-') }));
        }
        state
    }

    /// Lists `prefix` behind `after` at revision `at`, at most `limit`, as "a1 b2 +1".
    #[track_caller]
    fn check(changes: &str, (prefix, after, limit, at): (&str, &str, usize, u64), expected: &str) {
        let range = Range {
            prefix: prefix.into(),
            after: (!after.is_empty()).then(|| after.into()),
            limit,
            at: (at > 0).then_some(Revision(at)),
        };
        let page = state(changes).list(&range).expect("the revision is in the history");
        let mut found: Vec<String> = page.entries.iter().map(|each| format!("{}{}", each.key, each.revision)).collect();
        found.push(format!("+{}", page.remaining));
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn lists_by_key() {
        check("b a c", ("", "", 0, 0), "a2 b1 c3 +0");
        check("", ("", "", 0, 0), "+0");
    }

    #[test]
    fn lists_only_the_prefix() {
        check("pa pb q pod", ("p", "", 0, 0), "pa1 pb2 pod4 +0");
        check("pa pb q", ("pa", "", 0, 0), "pa1 +0");
    }

    #[test]
    fn pages_say_how_many_are_left() {
        check("a b c d", ("", "", 2, 0), "a1 b2 +2");
        check("a b c d", ("", "b", 2, 0), "c3 d4 +0");
        check("pa pb", ("p", "a", 1, 0), "pa1 +1");
    }

    #[test]
    fn goes_back_over_puts_and_deletes() {
        check("a b a -b c", ("", "", 0, 5), "a3 c5 +0");
        check("a b a -b c", ("", "", 0, 3), "a3 b2 +0");
        check("a b a -b c", ("", "", 0, 2), "a1 b2 +0");
        check("a b a -b c", ("", "", 0, 1), "a1 +0");
    }

    #[test]
    fn goes_back_within_a_page() {
        check("a b c d -a -c", ("", "a", 2, 4), "b2 c3 +1");
    }

    #[test]
    fn refuses_the_forgotten_and_the_future() {
        let mut state = state("a b c");
        state.compact(Revision(2));
        let ask = |at| state.list(&Range { at: Some(Revision(at)), ..Range::default() }).map(|page| page.entries.len());
        assert_eq!(ask(1), Err(StoreError::Compacted { asked: Revision(1), oldest: Revision(2) }));
        assert_eq!(ask(2), Ok(2));
        assert_eq!(ask(4), Err(StoreError::Future { asked: Revision(4), current: Revision(3) }));
    }

    #[test]
    fn counts_live_bytes() {
        assert_eq!(state("a b -a -b").live_bytes(), 0);
        assert_eq!(state("a a a").live_bytes(), 1 + ENTRY_OVERHEAD_BYTES);
    }
}
