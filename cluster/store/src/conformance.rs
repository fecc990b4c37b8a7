//! What every store promises, as a test that any of them can be put to.
//!
//! Start at [`conformance`]. It takes a function that opens the store of a given name; opened again under the same name, the
//! store has what it had.
//!
//! Invariants:
//! * each case uses a store of its own, named after the claim it tests;
//! * nothing sleeps: what takes time is awaited.
//!
//! Not here: crashes (`tests/kill.rs`, `tests/faults.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt};

use crate::{
    Annotate, Delete, Durability, Entry, Event, Precondition, Put, Range, Revision, Store, StoreError, Watch, Write,
};

/// Puts the stores that `open` opens to the test; panics with the claim that does not hold. `open` must give the store
/// [`annex`] to annotate with.
pub async fn conformance<S, F, Opening>(open: F)
where
    S: Store,
    F: Fn(&'static str) -> Opening,
    Opening: Future<Output = S>,
{
    let cases: [(&'static str, Case); 17] = [
        ("revisions_grow_with_every_change", |store| revisions_grow(store).boxed()),
        ("a_write_happens_only_if_its_precondition_holds", |store| preconditions(store).boxed()),
        ("the_revision_is_stamped_into_the_value", |store| stamps(store).boxed()),
        ("the_annex_is_made_of_the_stamped_value", |store| annexes(store).boxed()),
        ("a_range_holds_what_begins_with_its_prefix", |store| ranges(store).boxed()),
        ("pages_at_a_revision_add_up_to_the_whole", |store| pages(store).boxed()),
        ("a_list_at_a_revision_is_as_it_was", |store| lists_at(store).boxed()),
        ("the_future_is_refused", |store| future(store).boxed()),
        ("a_watch_tells_what_happened_since", |store| watches(store).boxed()),
        ("a_watch_says_that_it_caught_up", |store| progress(store).boxed()),
        ("a_watch_of_a_prefix_is_told_nothing_else", |store| watches_prefix(store).boxed()),
        ("a_deletion_shows_its_tombstone_and_what_was", |store| tombstones(store).boxed()),
        ("concurrent_writers_leave_no_gap_and_no_twin", |store| concurrency(store).boxed()),
        ("of_concurrent_creators_one_wins", |store| one_wins(store).boxed()),
        ("what_is_compacted_cannot_be_had", |store| compaction(store).boxed()),
        ("a_lazy_write_is_visible_at_once_and_in_order", |store| lazy(store).boxed()),
        ("a_dropped_write_happens_all_the_same", |store| dropped(store).boxed()),
    ];
    for (name, case) in cases {
        let store = Arc::new(open(name).await);
        let shared: Arc<dyn Store> = store.clone();
        case(shared).await;
        store.close().await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    closing(&open).await;
    slow_watcher(open("a_watcher_that_falls_behind_is_told").await).await;
}

/// The annex a conforming store is opened with: the key and the value, put together.
pub fn annex() -> Annotate {
    Arc::new(|key, value| Arc::new(format!("{key}={}", String::from_utf8_lossy(value))))
}

type Case = fn(Arc<dyn Store>) -> BoxFuture<'static, ()>;
type Shared = Arc<dyn Store>;

async fn revisions_grow(store: Shared) {
    let start = store.revision();
    let a = put(&store, "a", "1").await;
    let b = put(&store, "b", "1").await;
    let again = put(&store, "a", "2").await;
    let gone = delete(&store, "b", Precondition::Any).await.expect("b can be deleted");
    assert!(start < a && a < b && b < again && again < gone.revision, "revisions grow");
    assert_eq!(store.revision(), gone.revision, "the newest revision is visible once it is acknowledged");
    assert_eq!(show(store.get("a").as_ref()), "a=2");
    assert_eq!(show(store.get("b").as_ref()), "-");
}

async fn preconditions(store: Shared) {
    let first = put_if(&store, "a", "1", Precondition::Absent).await.expect("a is absent").revision;
    let refused = |result: Result<Entry, StoreError>, current: Option<Revision>| match result {
        Err(StoreError::Conflict { key, current: found }) => assert_eq!((key.as_str(), found), ("a", current)),
        Err(other) => panic!("{other} instead of a conflict"),
        Ok(_) => panic!("a write happened although its precondition did not hold"),
    };
    refused(put_if(&store, "a", "2", Precondition::Absent).await, Some(first));
    refused(put_if(&store, "a", "2", Precondition::At(Revision(first.0 + 1))).await, Some(first));
    let second = put_if(&store, "a", "2", Precondition::At(first)).await.expect("a is at that revision").revision;
    refused(put_if(&store, "a", "3", Precondition::At(first)).await, Some(second));
    refused(delete(&store, "a", Precondition::At(first)).await, Some(second));
    let gone = delete(&store, "a", Precondition::At(second)).await.expect("a is at that revision").revision;
    refused(delete(&store, "a", Precondition::Any).await, None);
    refused(put_if(&store, "a", "4", Precondition::At(second)).await, None);
    assert_eq!(store.revision(), gone, "what is refused takes no visible revision");
}

async fn stamps(store: Shared) {
    let put = Put { stamp_at: Some(1), ..new_put("a", "[]") };
    let entry = store.write(Write::Put(put)).await.expect("a can be written");
    assert_eq!(&entry.value[..], format!("[{}]", entry.revision).as_bytes());
    assert_eq!(store.get("a").expect("a is there").value, entry.value);
    let tombstone = Some((Bytes::from_static(b"gone at "), Some(8)));
    let delete = Delete { key: "a".into(), precondition: Precondition::Any, tombstone };
    let entry = store.write(Write::Delete(delete)).await.expect("a can be deleted");
    assert_eq!(&entry.value[..], format!("gone at {}", entry.revision).as_bytes());
}

async fn annexes(store: Shared) {
    let put = Put { stamp_at: Some(1), ..new_put("a", "[]") };
    let entry = store.write(Write::Put(put)).await.expect("a can be written");
    let annex = entry.annex.downcast_ref::<String>().expect("the annex is the text that annex() makes");
    assert_eq!(*annex, format!("a=[{}]", entry.revision));
}

async fn ranges(store: Shared) {
    for key in ["pods/b/1", "pods/a/2", "pods/a/1", "podsets/a/1", "nodes/1"] {
        put(&store, key, "x").await;
    }
    let keys = |prefix: &str| list(&store, prefix, None).expect("now can be listed");
    assert_eq!(keys("pods/"), "pods/a/1=x pods/a/2=x pods/b/1=x");
    assert_eq!(keys("pods/a/"), "pods/a/1=x pods/a/2=x");
    assert_eq!(keys("pods/c/"), "");
    assert_eq!(keys("").split(' ').count(), 5);
}

async fn pages(store: Shared) {
    for number in 0..25 {
        put(&store, &format!("k/{number:02}"), "old").await;
    }
    let at = store.revision();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let range = Range { prefix: "k/".into(), after: after.clone(), limit: 7, at: Some(at) };
        let page = store.list(&range).expect("the revision is still known");
        assert_eq!(page.revision, at);
        seen.extend(page.entries.iter().map(|entry| show(Some(entry))));
        assert_eq!(page.remaining, 25 - seen.len(), "a page says how many are left");
        after = page.entries.last().map(|entry| entry.key.to_string());
        if page.remaining == 0 {
            break;
        }
        // The world goes on between two pages.
        put(&store, &format!("k/{:02}", seen.len() + 3), "new").await;
        put(&store, &format!("k/{:02}x", seen.len()), "new").await;
        delete(&store, &format!("k/{:02}", seen.len() + 1), Precondition::Any).await.expect("it can be deleted");
    }
    let wanted: Vec<String> = (0..25).map(|number| format!("k/{number:02}=old")).collect();
    assert_eq!(seen, wanted);
}

async fn lists_at(store: Shared) {
    let mut pictures = BTreeMap::new();
    pictures.insert(store.revision(), String::new());
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("b", ""), ("c", "1"), ("b", "2"), ("a", "")] {
        match value {
            "" => drop(delete(&store, key, Precondition::Any).await.expect("it is there")),
            value => drop(put(&store, key, value).await),
        }
        pictures.insert(store.revision(), list(&store, "", None).expect("now can be listed"));
    }
    for (revision, picture) in pictures {
        assert_eq!(list(&store, "", Some(revision)).expect("it is still known"), picture, "at revision {revision}");
    }
}

async fn future(store: Shared) {
    let current = store.revision();
    let asked = Revision(current.0 + 1);
    let refusal = StoreError::Future { asked, current };
    assert_eq!(list(&store, "", Some(asked)), Err(refusal.clone()));
    assert_eq!(store.watch("", asked).err(), Some(refusal));
}

async fn watches(store: Shared) {
    put(&store, "a", "0").await;
    let after = store.revision();
    put(&store, "a", "1").await;
    put(&store, "b", "1").await;
    let mut watch = store.watch("", after).expect("the revision is known");
    put(&store, "a", "2").await;
    delete(&store, "b", Precondition::Any).await.expect("b is there");
    let last = put(&store, "c", "1").await;
    let told = events_until(&mut watch, last).await;
    assert_eq!(told, "a=1 (was a=0), b=1 (new), a=2 (was a=1), b gone, c=1 (new)");
    assert!(watch.next().now_or_never().is_none_or(|event| matches!(event, Some(Ok(Event::Progress(_))))));
}

async fn progress(store: Shared) {
    let after = put(&store, "a", "1").await;
    let last = put(&store, "b", "1").await;
    let mut watch = store.watch("a", after).expect("the revision is known");
    match watch.next().await {
        Some(Ok(Event::Progress(revision))) => assert_eq!(revision, last),
        other => panic!("{} instead of the progress to {last}", show_event(other)),
    }
}

async fn watches_prefix(store: Shared) {
    let mut watch = store.watch("pods/", store.revision()).expect("the revision is known");
    put(&store, "nodes/a", "1").await;
    put(&store, "pods/a", "1").await;
    put(&store, "podsets/a", "1").await;
    let last = put(&store, "pods/b", "1").await;
    assert_eq!(events_until(&mut watch, last).await, "pods/a=1 (new), pods/b=1 (new)");
}

async fn tombstones(store: Shared) {
    let first = put(&store, "a", "alive").await;
    put(&store, "b", "alive").await;
    let mut watch = store.watch("", store.revision()).expect("the revision is known");
    let tombstone = Some((Bytes::from_static(b"dead"), None));
    let write = Write::Delete(Delete { key: "a".into(), precondition: Precondition::Any, tombstone });
    let answered = store.write(write).await.expect("a can be deleted");
    delete(&store, "b", Precondition::Any).await.expect("b can be deleted");
    let (entry, previous) = next_deletion(&mut watch).await;
    assert_eq!((show(Some(&entry)), show(Some(&previous))), ("a=dead".into(), "a=alive".into()));
    assert_eq!((entry.revision, previous.revision), (answered.revision, first));
    let (entry, previous) = next_deletion(&mut watch).await;
    assert_eq!((show(Some(&entry)), show(Some(&previous))), ("b=alive".into(), "b=alive".into()));
    assert!(entry.revision > previous.revision, "a tombstone has the revision of the deletion");
}

async fn concurrency(store: Shared) {
    const WRITERS: usize = 20;
    const WRITES: usize = 20;
    let start = store.revision();
    let mut early = store.watch("", start).expect("now can be watched");
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        async move {
            let mut revisions = Vec::new();
            for number in 0..WRITES {
                revisions.push(put(&store, &format!("k/{writer}"), &number.to_string()).await);
            }
            assert!(revisions.is_sorted(), "a writer's own writes are in order");
            revisions
        }
    });
    let revisions: BTreeSet<Revision> = join_all(writers).await.into_iter().flatten().collect();
    assert_eq!(revisions.len(), WRITERS * WRITES, "no revision is given out twice");
    let last = store.revision();
    let mut late = store.watch("", start).expect("the start is still known");
    for watch in [&mut early, &mut late] {
        let told: Vec<Revision> = entries_until(watch, last).await.iter().map(|entry| entry.revision).collect();
        assert_eq!(told, revisions.iter().copied().collect::<Vec<_>>(), "each change is told once, in order");
    }
}

async fn one_wins(store: Shared) {
    let create = async |number: usize| put_if(&store, "a", &number.to_string(), Precondition::Absent).await;
    let results = join_all((0..10).map(create)).await;
    let winners: Vec<Entry> = results.into_iter().filter_map(Result::ok).collect();
    assert_eq!(winners.len(), 1, "one creator wins");
    assert_eq!(store.get("a").map(|entry| entry.revision), Some(winners[0].revision));
}

async fn compaction(store: Shared) {
    let first = put(&store, "a", "1").await;
    let second = put(&store, "a", "2").await;
    let third = put(&store, "a", "3").await;
    let mut watch = store.watch("", first).expect("it is still known");
    store.compact(second);
    let refusal = StoreError::Compacted { asked: first, oldest: second };
    assert_eq!(list(&store, "", Some(first)), Err(refusal.clone()));
    assert_eq!(store.watch("", first).err(), Some(refusal));
    assert_eq!(list(&store, "", Some(second)), Ok("a=2".into()));
    assert_eq!(list(&store, "", None), Ok("a=3".into()));
    let told = events_until(&mut watch, third).await;
    assert_eq!(told, "a=2 (was a=1), a=3 (was a=2)", "a watch that has begun is not disturbed");
    store.compact(Revision(third.0 + 100));
    assert_eq!(list(&store, "", Some(third)), Ok("a=3".into()), "now cannot be compacted away");
}

async fn lazy(store: Shared) {
    let before = put(&store, "a", "1").await;
    let lazy = store.write(Write::Put(Put { durability: Durability::Lazy, ..new_put("lease", "1") }));
    let lazy = lazy.now_or_never().expect("a lazy write is acknowledged at once").expect("it can be written");
    assert!(lazy.revision > before);
    assert_eq!(show(store.get("lease").as_ref()), "lease=1");
    // Behind a durable write that is not yet committed, it has to wait for it.
    let mut watch = store.watch("", lazy.revision).expect("now can be watched");
    let durable = store.write(Write::Put(new_put("a", "2")));
    let behind = store.write(Write::Put(Put { durability: Durability::Lazy, ..new_put("lease", "2") }));
    let behind = behind.await.expect("it can be written").revision;
    let durable = durable.now_or_never().expect("what is before it is committed").expect("it can be written").revision;
    assert!(durable < behind, "a lazy write keeps its place");
    assert_eq!(events_until(&mut watch, behind).await, "a=2 (was a=1), lease=2 (was lease=1)");
}

async fn dropped(store: Shared) {
    drop(store.write(Write::Put(new_put("a", "1"))));
    put(&store, "b", "1").await;
    assert_eq!(list(&store, "", None), Ok("a=1 b=1".into()));
}

async fn closing<S: Store, Opening: Future<Output = S>>(open: &impl Fn(&'static str) -> Opening) {
    let name = "a_closed_store_opens_as_it_was";
    let store: Shared = Arc::new(open(name).await);
    put(&store, "a", "1").await;
    put(&store, "b", "1").await;
    delete(&store, "b", Precondition::Any).await.expect("b can be deleted");
    let lazy = Put { durability: Durability::Lazy, ..new_put("lease", "1") };
    let last = store.write(Write::Put(lazy)).await.expect("it can be written").revision;
    let mut watch = store.watch("", last).expect("now can be watched");
    store.close().await.expect("it can be closed");
    assert_eq!(entries_until(&mut watch, last).await.len(), 0);
    assert!(matches!(watch.next().await, Some(Err(StoreError::Closed))), "a watch ends with the store");
    assert!(watch.next().await.is_none());
    assert_eq!(put_if(&store, "c", "1", Precondition::Any).await.err(), Some(StoreError::Closed));
    assert_eq!(list(&store, "", None), Err(StoreError::Closed));
    assert_eq!(store.watch("", last).err(), Some(StoreError::Closed));
    drop(store);

    let store: Shared = Arc::new(open(name).await);
    assert_eq!(list(&store, "", None), Ok("a=1 lease=1".into()), "lazy writes are kept too");
    assert_eq!(store.revision(), last, "a clean stop skips no revision");
    let mut watch = store.watch("", last).expect("one can watch on where the store was closed");
    let next = put(&store, "a", "2").await;
    assert!(next > last);
    assert_eq!(events_until(&mut watch, next).await, "a=2 (was a=1)");
    store.close().await.expect("it can be closed");
}

async fn slow_watcher<S: Store>(store: S) {
    let store: Shared = Arc::new(store);
    let mut watch = store.watch("k", store.revision()).expect("now can be watched");
    let bound = crate::Options::default().watch_changes_max;
    join_all((0..=bound).map(async |number| put(&store, "k", &number.to_string()).await)).await;
    let error = loop {
        match watch.next().await {
            Some(Ok(_)) => {}
            other => break other.and_then(Result::err),
        }
    };
    assert_eq!(error, Some(StoreError::Slow));
    assert!(watch.next().await.is_none(), "nothing comes behind the error");
    store.close().await.expect("it can be closed");
}

fn new_put(key: &str, value: &str) -> Put {
    let value = Bytes::copy_from_slice(value.as_bytes());
    let (precondition, durability) = (Precondition::Any, Durability::Durable);
    Put { key: key.to_owned(), value, stamp_at: None, precondition, durability }
}

async fn put(store: &Shared, key: &str, value: &str) -> Revision {
    put_if(store, key, value, Precondition::Any).await.expect("it can be written").revision
}

async fn put_if(store: &Shared, key: &str, value: &str, precondition: Precondition) -> Result<Entry, StoreError> {
    store.write(Write::Put(Put { precondition, ..new_put(key, value) })).await
}

async fn delete(store: &Shared, key: &str, precondition: Precondition) -> Result<Entry, StoreError> {
    store.write(Write::Delete(Delete { key: key.to_owned(), precondition, tombstone: None })).await
}

fn list(store: &Shared, prefix: &str, at: Option<Revision>) -> Result<String, StoreError> {
    let page = store.list(&Range { prefix: prefix.to_owned(), at, ..Range::default() })?;
    Ok(page.entries.iter().map(|entry| show(Some(entry))).collect::<Vec<_>>().join(" "))
}

fn show(entry: Option<&Entry>) -> String {
    entry.map_or_else(|| "-".to_owned(), |entry| format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value)))
}

fn show_event(event: Option<Result<Event, StoreError>>) -> String {
    match event {
        None => "the end".to_owned(),
        Some(Err(error)) => format!("error {error:?}"),
        Some(Ok(Event::Progress(revision))) => format!("progress to {revision}"),
        Some(Ok(Event::Put { entry, previous: None })) => format!("{} (new)", show(Some(&entry))),
        Some(Ok(Event::Put { entry, previous })) => format!("{} (was {})", show(Some(&entry)), show(previous.as_ref())),
        Some(Ok(Event::Delete { entry, .. })) => format!("{} gone", entry.key),
    }
}

/// What a watch tells up to revision `last`, without its progress.
async fn events_until(watch: &mut Watch, last: Revision) -> String {
    let mut told = Vec::new();
    loop {
        let event = watch.next().await;
        let revision = match &event {
            Some(Ok(Event::Progress(_))) => continue,
            Some(Ok(Event::Put { entry, .. } | Event::Delete { entry, .. })) => entry.revision,
            _ => last,
        };
        told.push(show_event(event));
        if revision >= last {
            return told.join(", ");
        }
    }
}

/// The entries a watch tells of, up to revision `last`.
async fn entries_until(watch: &mut Watch, last: Revision) -> Vec<Entry> {
    let mut told = Vec::new();
    loop {
        match watch.next().await {
            Some(Ok(Event::Progress(revision))) if revision >= last => return told,
            Some(Ok(Event::Progress(_))) => {}
            Some(Ok(Event::Put { entry, .. } | Event::Delete { entry, .. })) => {
                let revision = entry.revision;
                told.push(entry);
                if revision >= last {
                    return told;
                }
            }
            other => panic!("{} instead of an event", show_event(other)),
        }
    }
}

async fn next_deletion(watch: &mut Watch) -> (Entry, Entry) {
    loop {
        match watch.next().await {
            Some(Ok(Event::Progress(_))) => {}
            Some(Ok(Event::Delete { entry, previous })) => return (entry, previous),
            other => panic!("{} instead of a deletion", show_event(other)),
        }
    }
}
