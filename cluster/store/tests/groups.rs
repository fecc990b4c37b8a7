//! What is committed when, over a simulated disk, driven by hand.
//!
//! Start at [`Bench`]. Nothing here waits: a write is complete when the bench says [`Bench::run`].

use std::time::Duration;

use base::Monotonic;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::StreamExt;
use store::{
    Disk, Durability, Entry, Event, Fault, Local, Options, Pace, Precondition, Put, Range, Revision, Store, StoreError,
    Watch, Write, annex, memory_on,
};

/// A store over a disk, and how many commits there were when it was opened.
struct Bench {
    disk: Disk,
    store: Local,
}

type Answer = BoxFuture<'static, Result<Entry, StoreError>>;

impl Bench {
    fn new() -> Bench {
        Bench::over(&Disk::new())
    }

    /// A store over what a crash left.
    fn over(disk: &Disk) -> Bench {
        let store = memory_on(disk, annex(), Options::default(), Pace::ByHand).expect("the disk works");
        Bench { disk: disk.clone(), store }
    }

    fn durable(&self, key: &str) -> Answer {
        self.write(key, Durability::Durable)
    }

    fn lazy(&self, key: &str) -> Answer {
        self.write(key, Durability::Lazy)
    }

    fn write(&self, key: &str, durability: Durability) -> Answer {
        let (key, precondition) = (key.to_owned(), Precondition::Any);
        self.store.write(Write::Put(Put { key, value: Bytes::new(), stamp_at: None, precondition, durability }))
    }

    /// Lets the store do all there is to do; how many operations that took.
    fn run(&self) -> u64 {
        let before = self.disk.operations();
        while self.store.turn() {}
        self.disk.operations() - before
    }

    fn tick(&self, seconds: u64) -> u64 {
        self.store.tick(Monotonic(0).plus(Duration::from_secs(seconds)));
        self.run()
    }

    fn keys(&self) -> String {
        let page = self.store.list(&Range::default()).expect("now can be listed");
        page.entries.iter().map(|entry| &*entry.key).collect::<Vec<_>>().join(" ")
    }

    fn fail_next(&self, fault: Fault) {
        self.disk.fault_at(self.disk.operations(), fault);
    }
}

fn now(answer: Answer) -> Result<Revision, StoreError> {
    answer.now_or_never().expect("it is answered by now").map(|entry| entry.revision)
}

fn told(watch: &mut Watch) -> String {
    let mut keys = Vec::new();
    while let Some(Some(Ok(event))) = watch.next().now_or_never() {
        if let Event::Put { entry, .. } = event {
            keys.push(entry.key.to_string());
        }
    }
    keys.join(" ")
}

#[test]
fn what_waits_is_committed_together() {
    let bench = Bench::new();
    let answers: Vec<Answer> = ["a", "b", "c", "a"].map(|key| bench.durable(key)).into();
    assert_eq!(bench.keys(), "", "nothing is visible before it is committed");
    assert_eq!(bench.run(), 1);
    assert_eq!(bench.keys(), "a b c");
    assert!(answers.into_iter().map(|answer| now(answer).expect("it is written")).is_sorted());
}

#[test]
fn what_is_refused_makes_no_commit() {
    let bench = Bench::new();
    let put = Put {
        key: "a".into(),
        value: Bytes::new(),
        stamp_at: None,
        precondition: Precondition::At(Revision(9)),
        durability: Durability::Durable,
    };
    let answer = bench.store.write(Write::Put(put));
    assert_eq!(bench.run(), 0);
    assert_eq!(now(answer), Err(StoreError::Conflict { key: "a".into(), current: None }));
}

#[test]
fn a_lazy_write_is_visible_at_once_and_makes_no_commit() {
    let bench = Bench::new();
    let mut watch = bench.store.watch("", bench.store.revision()).expect("now can be watched");
    assert!(now(bench.lazy("l")).is_ok());
    assert_eq!((bench.run(), bench.keys().as_str(), told(&mut watch).as_str()), (0, "l", "l"));
}

#[test]
fn a_lazy_write_waits_behind_a_durable_one() {
    let bench = Bench::new();
    let (durable, lazy) = (bench.durable("a"), bench.lazy("l"));
    assert_eq!(bench.keys(), "");
    assert_eq!(bench.run(), 1);
    assert!(now(durable).expect("it is written") < now(lazy).expect("it is written"));
}

#[test]
fn a_crash_loses_lazy_writes_behind_the_last_commit_only() {
    let bench = Bench::new();
    drop((bench.lazy("l1"), bench.durable("a")));
    bench.run();
    let lost = now(bench.lazy("l2")).expect("it is written");
    let again = Bench::over(&bench.disk);
    assert_eq!(again.keys(), "a l1");
    assert!(again.store.revision() > lost, "no revision is given out again");
    for asked in [lost, Revision(lost.0 + 1), Revision(again.store.revision().0 - 1)] {
        let refused = again.store.watch("", asked).err();
        assert!(matches!(refused, Some(StoreError::Compacted { .. })), "{asked}: {refused:?}");
        let range = Range { at: Some(asked), ..Range::default() };
        assert!(matches!(again.store.list(&range).err(), Some(StoreError::Compacted { .. })), "{asked}");
    }
    assert!(again.store.watch("", again.store.revision()).is_ok());
}

#[test]
fn ten_idle_minutes_make_few_commits() {
    let bench = Bench::new();
    let commits: u64 = (0..60).map(|step| now(bench.lazy("lease")).map_or(0, |_| bench.tick(step * 10))).sum();
    assert!((5..=10).contains(&commits), "{commits} commits");
    let commits: u64 = (60..120).map(|step| bench.tick(step * 10)).sum();
    assert_eq!(commits, 1, "nothing is committed when nothing waits");
}

#[test]
fn reserved_revisions_running_out_make_a_commit() {
    let bench = Bench::new();
    let mut commits = 0;
    for _ in 0..25_000 {
        let answer = bench.lazy("lease");
        commits += bench.run();
        assert!(now(answer).is_ok());
    }
    assert_eq!(commits, 2);
}

#[test]
fn a_commit_that_failed_is_unknown_and_did_not_happen() {
    let bench = Bench::new();
    let mut watch = bench.store.watch("", bench.store.revision()).expect("now can be watched");
    drop(bench.lazy("l"));
    bench.fail_next(Fault::Refuse);
    let answer = bench.durable("a");
    bench.run();
    assert!(matches!(now(answer), Err(StoreError::Unknown { .. })));
    assert!(matches!(now(bench.durable("b")), Err(StoreError::ReadOnly { .. })), "read-only until it is opened again");
    assert_eq!(bench.keys(), "l", "what was visible stays so");
    bench.run();
    drop(bench.durable("c"));
    bench.run();
    assert_eq!((bench.keys().as_str(), told(&mut watch).as_str()), ("c l", "l c"));
    assert_eq!(Bench::over(&bench.disk).keys(), "c l");
}

#[test]
fn a_commit_that_failed_is_unknown_and_did_happen() {
    let bench = Bench::new();
    let mut watch = bench.store.watch("", bench.store.revision()).expect("now can be watched");
    bench.fail_next(Fault::Deny);
    let answer = bench.durable("a");
    bench.run();
    assert!(matches!(now(answer), Err(StoreError::Unknown { .. })));
    assert_eq!(bench.keys(), "", "not visible while unknown");
    bench.run();
    assert_eq!((bench.keys().as_str(), told(&mut watch).as_str()), ("a", "a"));
}

#[test]
fn without_power_it_stays_read_only_and_then_goes_on() {
    let bench = Bench::new();
    bench.fail_next(Fault::Cut { happened: false });
    let first = bench.durable("a");
    bench.run();
    assert!(matches!(now(first), Err(StoreError::Unknown { .. })));
    assert_eq!(bench.run(), 1, "one try to open it again");
    assert!(matches!(now(bench.durable("a")), Err(StoreError::ReadOnly { .. })));
    bench.disk.power_on();
    bench.run();
    drop(bench.durable("b"));
    bench.run();
    assert_eq!(bench.keys(), "b");
}

#[test]
fn a_fault_at_any_operation_loses_nothing_acknowledged() {
    for fault in [Fault::Refuse, Fault::Deny, Fault::Cut { happened: false }, Fault::Cut { happened: true }] {
        for at in 2..12 {
            let disk = Disk::new();
            let bench = Bench::over(&disk);
            disk.fault_at(at, fault);
            let mut certain = Vec::new();
            let mut newest = Revision(0);
            for number in 0..10 {
                drop(bench.lazy("lease"));
                let key = format!("k{number}");
                let answer = bench.durable(&key);
                bench.run();
                if let Ok(revision) = now(answer) {
                    certain.push(key);
                    newest = newest.max(revision);
                }
            }
            disk.power_on();
            let again = Bench::over(&disk);
            for key in certain {
                assert!(again.store.get(&key).is_some(), "{fault:?} at {at} lost {key}");
            }
            assert!(again.store.revision() > newest, "{fault:?} at {at} repeats revisions");
        }
    }
}

#[test]
fn an_idle_watcher_is_told_now_and_then_how_far_it_is() {
    let bench = Bench::new();
    let mut watch = bench.store.watch("pods/", bench.store.revision()).expect("now can be watched");
    told(&mut watch);
    let newest = now(bench.lazy("leases/a")).expect("it is written");
    bench.tick(60);
    let event = watch.next().now_or_never().flatten();
    assert!(matches!(event, Some(Ok(Event::Progress(revision))) if revision == newest));
    bench.tick(120);
    assert!(watch.next().now_or_never().is_none(), "not when there is no progress");
}
