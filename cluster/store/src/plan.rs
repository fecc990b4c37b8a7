//! Decides what waiting writes do.
//!
//! Start at [`plan`]. It reads the state, judges the writes in order, each as if those before it had happened, and touches
//! nothing.
//!
//! Invariants:
//! * revisions are given out in the order of the writes, one to each that happens, none to one that does not;
//! * the same state and writes always give the same plan.
//!
//! Not here: when it is committed and who is told (`core.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::history::Change;
use crate::state::State;
use crate::{Annotate, Delete, Entry, Precondition, Put, Revision, StoreError, Write};

/// What the writes do.
#[derive(Default)]
pub(crate) struct Plan {
    /// The changes, in revision order.
    pub(crate) changes: Vec<Arc<Change>>,
    /// For each write the change it makes, or why it makes none.
    pub(crate) verdicts: Vec<Result<Arc<Change>, StoreError>>,
}

/// Judges `writes`; the first that happens gets revision `next`.
pub(crate) fn plan<'a>(
    state: &State,
    next: Revision,
    writes: impl IntoIterator<Item = &'a Write>,
    annotate: &Annotate,
    live_bytes_max: usize,
) -> Plan {
    let mut planner =
        Planner { state, pending: BTreeMap::new(), next, annotate, live_bytes_max, live_bytes: state.live_bytes() };
    let mut plan = Plan::default();
    for write in writes {
        let verdict = planner.judge(write).map(Arc::new);
        if let Ok(change) = &verdict {
            planner.accept(change);
            plan.changes.push(change.clone());
        }
        plan.verdicts.push(verdict);
    }
    plan
}

struct Planner<'a> {
    state: &'a State,
    pending: BTreeMap<Arc<str>, Option<Entry>>,
    next: Revision,
    annotate: &'a Annotate,
    live_bytes_max: usize,
    live_bytes: usize,
}

impl Planner<'_> {
    fn judge(&self, write: &Write) -> Result<Change, StoreError> {
        match write {
            Write::Put(put) => self.judge_put(put),
            Write::Delete(delete) => self.judge_delete(delete),
        }
    }

    fn judge_put(&self, put: &Put) -> Result<Change, StoreError> {
        let previous = self.current(&put.key);
        check(&put.key, put.precondition, previous)?;
        let before = previous.map_or(0, |entry| entry.value.len());
        let grows = put.value.len() > before;
        if grows && self.live_bytes + put.value.len() - before > self.live_bytes_max {
            let limit = base::Bytes(self.live_bytes_max as u64);
            return Err(StoreError::ReadOnly { reason: format!("it is full: its objects may take {limit} together") });
        }
        let key = previous.map_or_else(|| Arc::from(put.key.as_str()), |entry| entry.key.clone());
        let entry = self.version(key, &put.value, put.stamp_at);
        Ok(Change { entry, previous: previous.cloned(), deletes: false })
    }

    fn judge_delete(&self, delete: &Delete) -> Result<Change, StoreError> {
        let Some(previous) = self.current(&delete.key) else {
            return Err(StoreError::Conflict { key: delete.key.clone(), current: None });
        };
        check(&delete.key, delete.precondition, Some(previous))?;
        let entry = match &delete.tombstone {
            Some((value, stamp_at)) => self.version(previous.key.clone(), value, *stamp_at),
            None => Entry { revision: self.next, ..previous.clone() },
        };
        Ok(Change { entry, previous: Some(previous.clone()), deletes: true })
    }

    fn accept(&mut self, change: &Change) {
        self.next.0 += 1;
        self.live_bytes += change.after().map_or(0, |entry| entry.value.len());
        self.live_bytes -= change.previous.as_ref().map_or(0, |entry| entry.value.len());
        self.pending.insert(change.entry.key.clone(), change.after().cloned());
    }

    /// What the key holds once everything before has happened.
    fn current(&self, key: &str) -> Option<&Entry> {
        match self.pending.get(key) {
            Some(pending) => pending.as_ref(),
            None => self.state.live().get(key),
        }
    }

    fn version(&self, key: Arc<str>, value: &Bytes, stamp_at: Option<usize>) -> Entry {
        let value = stamp(value, stamp_at, self.next);
        let annex = (self.annotate)(&key, &value);
        Entry { key, value, revision: self.next, annex }
    }
}

fn check(key: &str, precondition: Precondition, current: Option<&Entry>) -> Result<(), StoreError> {
    let current = current.map(|entry| entry.revision);
    let holds = match precondition {
        Precondition::Any => true,
        Precondition::Absent => current.is_none(),
        Precondition::At(revision) => current == Some(revision),
    };
    if holds { Ok(()) } else { Err(StoreError::Conflict { key: key.to_owned(), current }) }
}

/// `value` with the decimal of `revision` inserted.
fn stamp(value: &Bytes, stamp_at: Option<usize>, revision: Revision) -> Bytes {
    let Some(at) = stamp_at else { return value.clone() };
    let decimal = revision.to_string();
    let mut stamped = Vec::with_capacity(value.len() + decimal.len());
    stamped.extend_from_slice(&value[..at]);
    stamped.extend_from_slice(decimal.as_bytes());
    stamped.extend_from_slice(&value[at..]);
    Bytes::from(stamped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Durability;
    use crate::history::History;

    /// Plans `writes` on a state that holds `a` at revision 3; the next revision is 10. A write is "put KEY", "new KEY",
    /// "put KEY@REVISION" or "del KEY"; a verdict its revision, or what is there instead.
    #[track_caller]
    fn check(writes: &[&str], expected: &str) {
        let writes: Vec<Write> = writes.iter().map(|text| parse(text)).collect();
        let plan = plan(&state(), Revision(10), &writes, &annotate(), 1 << 20);
        let verdicts: Vec<String> = plan.verdicts.iter().map(|verdict| show(verdict.as_deref())).collect();
        assert_eq!(verdicts.join(" "), expected);
    }

    fn state() -> State {
        let mut state = State::new(Revision(9), History::new(Revision(9), 10, 1 << 20));
        let value = Bytes::from_static(b"old");
        state.load(Entry { key: "a".into(), value, revision: Revision(3), annex: Arc::new(()) });
        state
    }

    fn annotate() -> Annotate {
        Arc::new(|_, value| Arc::new(value.len()))
    }

    fn parse(text: &str) -> Write {
        let (verb, rest) = text.split_once(' ').expect("a verb and a key");
        let (key, at) = rest.split_once('@').map_or((rest, None), |(key, at)| (key, at.parse().ok()));
        let precondition = match (verb, at) {
            ("new", _) => Precondition::Absent,
            (_, Some(at)) => Precondition::At(Revision(at)),
            _ => Precondition::Any,
        };
        if verb == "del" {
            return Write::Delete(Delete { key: key.into(), precondition, tombstone: None });
        }
        let value = Bytes::from_static(b"[]");
        Write::Put(Put { key: key.into(), value, stamp_at: Some(1), precondition, durability: Durability::Durable })
    }

    fn show(verdict: Result<&Change, &StoreError>) -> String {
        match verdict {
            Ok(change) => change.entry.revision.to_string(),
            Err(StoreError::Conflict { current: Some(current), .. }) => format!("has{current}"),
            Err(StoreError::Conflict { current: None, .. }) => "absent".into(),
            Err(other) => other.to_string(),
        }
    }

    #[test]
    fn gives_out_revisions_in_order() {
        check(&["put a", "put b", "put a"], "10 11 12");
    }

    #[test]
    fn a_refused_write_takes_no_revision() {
        check(&["new a", "put b", "put a@2", "put c"], "has3 10 has3 11");
    }

    #[test]
    fn preconditions_see_what_is_pending() {
        check(&["put a@3", "put a@3", "put a@10"], "10 has10 11");
        check(&["new b", "new b"], "10 has10");
        check(&["del a", "put a@3", "new a"], "10 absent 11");
    }

    #[test]
    fn only_what_exists_can_be_deleted() {
        check(&["del b", "del a@2", "del a@3", "del a"], "absent has3 10 absent");
        check(&["new b", "del b@10"], "10 11");
    }

    #[test]
    fn the_revision_is_stamped_in_before_annotating() {
        let plan = plan(&state(), Revision(10), &[parse("put b")], &annotate(), 1 << 20);
        let entry = &plan.changes[0].entry;
        assert_eq!((&entry.value[..], entry.annex.downcast_ref::<usize>()), (&b"[10]"[..], Some(&4)));
    }

    #[test]
    fn a_full_store_takes_only_what_makes_it_no_larger() {
        let writes = [parse("put b"), parse("put a"), parse("del a")];
        let plan = plan(&state(), Revision(10), &writes, &annotate(), 100);
        let happens: Vec<bool> = plan.verdicts.iter().map(Result::is_ok).collect();
        assert_eq!(happens, [false, true, true]);
    }
}
