//! Tests of the log store: what it takes, what it finds, and what is left of it after a crash at any byte.

use std::io::Read;

use super::*;
use crate::logs::query::Source;

const MINUTE: i64 = 60_000_000_000;

fn options(folder: &Path) -> Options {
    let sizes = Sizes { head: 3000, block: 700, segment: 800 };
    Options { sizes, ..Options::new(folder) }
}

fn open(folder: &Path) -> LogStore {
    LogStore::open(options(folder)).expect("the store opens")
}

fn stream(pod: &str) -> Stream {
    let [node, namespace, uid, container, run] = ["n1", "ns", "u", "app", "0"].map(str::to_owned);
    Stream { node, namespace, pod: pod.to_owned(), uid, container, run }
}

/// Line `number` of a pod, at that minute.
fn line(pod: &str, number: usize) -> String {
    let time = Timestamp((number as i64 * MINUTE).into()).rfc3339_nanos();
    format!("{time} stdout F {pod} line {number} {}\n", "x".repeat(number * 7 % 40))
}

fn text(pod: &str, count: usize) -> String {
    (0..count).map(|number| line(pod, number)).collect()
}

fn bytes(pod: &str, start: u64, text: &str) -> Chunk {
    let (end, content) = (start + text.len() as u64, Content::Bytes(text.as_bytes().to_vec()));
    Chunk { stream: stream(pod), incarnation: 0, start, end, content }
}

fn send(store: &LogStore, chunks: Vec<Chunk>) -> Vec<u64> {
    let positions = store.ingest(Batch { chunks }, Timestamp::from_seconds(1)).expect("the store takes it");
    positions.into_iter().map(|position| position.end).collect()
}

/// Every line of a pod in the store, page by page.
fn lines_of(store: &LogStore, pod: &str, limit: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.query(Query { pod: pod.to_owned(), limit, after, ..Query::default() });
        found.extend(page.entries.into_iter().map(|entry| entry.text));
        after = page.more;
        if after.is_none() {
            return found;
        }
    }
}

fn said(pod: &str, count: usize) -> Vec<String> {
    let after_tag = |line: String| line.trim_end_matches('\n').splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
    (0..count).map(|number| after_tag(line(pod, number))).collect()
}

/// Whole lines of the first `end` bytes of a pod's text.
fn count_of(pod: &str, end: u64) -> usize {
    let mut rest = end;
    for number in 0.. {
        match rest.checked_sub(line(pod, number).len() as u64) {
            Some(left) => rest = left,
            None => {
                assert_eq!(rest, 0, "{end} is the end of a line of {pod}");
                return number;
            }
        }
    }
    0
}

#[test]
fn a_stream_grows_at_its_end_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let (one, two) = (line("a", 0), line("a", 1));
    let (first, both) = (one.len() as u64, (one.len() + two.len()) as u64);
    assert_eq!(send(&store, vec![bytes("a", 0, &one)]), [first]);
    assert_eq!(send(&store, vec![bytes("a", 0, &one)]), [first], "again");
    assert_eq!(send(&store, vec![bytes("a", both, &two)]), [first], "a hole");
    assert_eq!(send(&store, vec![bytes("a", 0, &format!("{one}{two}"))]), [both], "half of it is new");
    assert_eq!(lines_of(&store, "a", 10), said("a", 2));
    let other = format!("{}{two}{two}", &one[1..]);
    assert_eq!(send(&store, vec![bytes("a", 0, &other)]), [both], "what ends in the middle of a line is another log");
    assert_eq!(send(&store, vec![Chunk { incarnation: 1, ..bytes("a", 0, &one) }]), [first], "another log begins");
    assert_eq!(send(&store, vec![bytes("a", both, &two)]), [first], "the old one is over");
    let halves = vec![Chunk { incarnation: 1, ..bytes("a", first, &two) }, bytes("b", 0, &one)];
    assert_eq!(send(&store, halves), [both, first], "two streams");
}

#[test]
fn gaps_and_numbered_lines_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let kernel = Stream { node: "n1".into(), uid: "boot".into(), container: "kernel".into(), ..Stream::default() };
    let lines = |numbers: std::ops::Range<u64>| Chunk {
        stream: kernel.clone(),
        incarnation: 0,
        start: numbers.start,
        end: numbers.end,
        content: Content::Lines(
            numbers
                .map(|number| format!("1970-01-01T00:00:00Z kernel F record {number}\n"))
                .collect::<String>()
                .into_bytes(),
        ),
    };
    let gap = Chunk { stream: kernel.clone(), incarnation: 0, start: 0, end: 5, content: Content::Gap };
    assert_eq!(send(&store, vec![gap.clone(), lines(5..8)]), [8, 8]);
    assert_eq!(send(&store, vec![gap, lines(6..10)]), [10, 10], "what is known is passed over");
    for _ in 0..2 {
        let page = open(folder.path()).query(Query { of_nodes: true, ..Query::default() });
        let texts: Vec<&str> = page.entries.iter().map(|entry| entry.text.as_str()).collect();
        assert_eq!(texts[..5], ["record 5", "record 6", "record 7", "record 8", "record 9"]);
        assert_eq!((texts.len(), page.entries[5].source), (6, Source::Gap(5)));
        // Enough to seal the head, so that the second look is into a segment.
        send(&store, vec![bytes("a", 0, &text("a", 100))]);
    }
    assert_eq!(store.known("n1").streams.len(), 2);
    assert!(store.known("n2").streams.is_empty());
}

/// Of a node's own files bytes are missing, as of a container's log; of the kernel's log alone lines.
#[test]
fn a_gap_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let node = |container: &str, run: &str| Stream {
        node: "n1".into(),
        container: container.into(),
        run: run.into(),
        ..Stream::default()
    };
    for (stream, expected) in [
        (node("kernel", ""), "5 lines of this log"),
        (node("skerry", "0"), "5 bytes of this log"),
        (node("other", "4711"), "5 bytes of this log"),
        (stream("a"), "5 bytes of this log"),
    ] {
        let gap = Chunk { stream: stream.clone(), incarnation: 0, start: 0, end: 5, content: Content::Gap };
        send(&store, vec![gap]);
        let page = store.query(Query { container: stream.container, pod: stream.pod, ..Query::default() });
        assert!(page.entries[0].text.starts_with(expected), "{}", page.entries[0].text);
    }
}

#[test]
fn lines_are_found_by_name_time_and_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    for from in (0..60).step_by(10) {
        for pod in ["a", "b"] {
            let before = text(pod, from).len() as u64;
            let part: String = (from..from + 10).map(|number| line(pod, number)).collect();
            send(&store, vec![bytes(pod, before, &part)]);
        }
    }
    assert!(store.size().1 > 1, "several segments");
    let found = |query: Query| -> Vec<String> {
        let texts = store.query(query).entries.into_iter().map(|entry| entry.text);
        texts
            .map(|text| text.split(" line ").map(|part| part.split(' ').next().unwrap_or_default()).collect())
            .collect()
    };
    let all = Query::default;
    let pod = |pod: &str| Query { pod: pod.to_owned(), ..all() };
    assert_eq!(found(Query { limit: 3, ..all() }).len(), 3);
    assert_eq!(found(all()).len(), 120);
    assert_eq!(found(Query { since: 58 * MINUTE, ..pod("a") }), ["a58", "a59"]);
    assert_eq!(found(Query { until: 2 * MINUTE, ..pod("b") }), ["b0", "b1"]);
    assert_eq!(found(Query { newest: true, limit: 2, ..pod("b") }), ["b58", "b59"]);
    assert_eq!(found(Query { pattern: regex_lite::Regex::new("^a line [13]7 ").ok(), ..all() }), ["a17", "a37"]);
    assert!(found(Query { namespace: "other".into(), ..all() }).is_empty());
    assert!(found(Query { node: "other".into(), ..all() }).is_empty());
    assert!(found(Query { container: "other".into(), ..all() }).is_empty());
    for limit in [1, 7, 59, 60, 1000] {
        assert_eq!(lines_of(&store, "a", limit), said("a", 60), "pages of {limit}");
    }
}

/// Who follows asks again where the last page ended: each line comes once, and those that come late, with times long past, too.
#[test]
fn who_follows_is_told_each_line_once_however_late_it_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    for limit in [1, 7, 1000] {
        let folder = folder.path().join(limit.to_string());
        let mut store = open(&folder);
        let (mut after, mut told) = (None, Vec::new());
        for turn in 0..24 {
            // The second pod's node is heard every sixth time only, with all that it has.
            let pods = [("a", turn..turn + 1), ("b", if turn % 6 == 5 { turn - 5..turn + 1 } else { 0..0 })];
            for (pod, turns) in pods {
                let numbers = turns.start * 10..turns.end * 10;
                let part: String = numbers.clone().map(|number| line(pod, number)).collect();
                send(&store, vec![bytes(pod, text(pod, numbers.start).len() as u64, &part)]);
            }
            if turn == 18 {
                // What came before a store was opened is told by its time.
                drop(store);
                store = open(&folder);
            }
            loop {
                let page = store.query(Query { limit, after, ..Query::default() });
                told.extend(page.entries.into_iter().map(|entry| entry.text));
                after = page.more.or(page.last);
                if page.more.is_none() {
                    break;
                }
                // What comes between two pages is told behind them.
                if turn == 20 {
                    send(&store, vec![bytes("c", 0, &line("c", 0))]);
                }
            }
        }
        let mut wanted: Vec<String> = ["a", "b"].iter().flat_map(|pod| said(pod, 240)).collect();
        wanted.extend(said("c", usize::from(limit < 10)));
        (told.sort(), wanted.sort());
        assert_eq!(told, wanted, "pages of {limit}");
    }
}

#[test]
fn who_follows_a_log_without_lines_is_told_the_first_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let page = store.query(Query { newest: true, ..Query::default() });
    send(&store, vec![bytes("a", 0, &line("a", 0))]);
    let page = store.query(Query { after: page.last, ..Query::default() });
    assert_eq!(page.entries.len(), 1);
    assert!(store.query(Query { after: page.last, ..Query::default() }).entries.is_empty());
}

/// A million lines took minutes to page through: each page read all blocks before it again.
#[test]
fn a_page_reads_no_block_that_ends_before_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let mut at = 0;
    for number in 0..600 {
        let line = line("a", number);
        send(&store, vec![bytes("a", at, &line)]);
        at += line.len() as u64;
    }
    let (mut query, mut read) = (Query { limit: 100, ..Query::default() }, Vec::new());
    loop {
        read.push(store.inner().search(query.clone()).1.len());
        query.after = store.query(query.clone()).more;
        if query.after.is_none() {
            break;
        }
    }
    assert!(read.len() == 6 && read.windows(2).all(|two| two[1] < two[0]), "blocks of each page: {read:?}");
    assert!(read[5] <= read[0] / 4, "blocks of each page: {read:?}");
}

/// The store on a file system of its own that somebody else fills.
#[test]
fn a_full_disk_is_told_and_what_comes_when_there_is_room_follows_what_was_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = small_disk(folder.path());
    let store = open(folder.path());
    let first = text("a", 10);
    let end = first.len() as u64;
    assert_eq!(send(&store, vec![bytes("a", 0, &first)]), [end]);
    let ballast = folder.path().join("ballast");
    let filled = fs::write(&ballast, vec![7; 4 << 20]);
    assert!(filled.is_err(), "the disk is full");
    let rest: String = (10..600).map(|number| line("a", number)).collect();
    let refused = loop {
        // What fits in the last block of the journal is still taken.
        let known = store.known("n1").streams[0].1.end;
        let chunk = bytes("a", 0, &text("a", count_of("a", known) + 10));
        if let Err(error) = store.ingest(Batch { chunks: vec![chunk] }, Timestamp::from_seconds(1)) {
            break base::chain(&error).to_string();
        }
    };
    assert!(refused.contains("failed to write the log store at") && refused.contains("No space left"), "{refused}");
    let known = store.known("n1").streams[0].1.end;
    let stored = count_of("a", known);
    assert_eq!(lines_of(&store, "a", 1000), said("a", stored), "what was taken is there");
    drop(store);
    let store = open(folder.path());
    assert_eq!(lines_of(&store, "a", 1000), said("a", stored), "after a restart with the disk still full");
    fs::remove_file(&ballast).expect("removed");
    let all = format!("{first}{rest}");
    assert_eq!(send(&store, vec![bytes("a", 0, &all)]), [all.len() as u64], "it goes on");
    drop(store);
    assert_eq!(lines_of(&open(folder.path()), "a", 1000), said("a", 600));
    drop(disk);
}

/// A file system of a mebibyte, gone when it is dropped.
struct Disk(PathBuf);

fn small_disk(at: &Path) -> Disk {
    sys::mounts::mount_at("tmpfs", at, sys::mounts::Flags::empty(), "size=1m").expect("root may mount");
    Disk(at.to_owned())
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = sys::mounts::unmount(&self.0);
    }
}

/// A board's clock begins in the past, is set, and set back: each line is there once, and a page goes on where one ended.
#[test]
fn a_clock_that_jumps_neither_loses_nor_repeats_lines() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let minutes = |number: i64| if number / 40 % 2 == 0 { number } else { 10_000_000 + number };
    let (mut at, mut wanted) = (0, Vec::new());
    for number in 0..200_i64 {
        let time = Timestamp((minutes(number) * MINUTE).into()).rfc3339_nanos();
        let line = format!("{time} stdout F {number}\n");
        send(&store, vec![bytes("a", at, &line)]);
        at += line.len() as u64;
        wanted.push((minutes(number), number.to_string()));
    }
    wanted.sort();
    let wanted: Vec<String> = wanted.into_iter().map(|(_, text)| text).collect();
    for limit in [1, 7, 1000] {
        assert_eq!(lines_of(&store, "a", limit), wanted, "pages of {limit}");
    }
}

/// A wrong time server once would have cost all logs.
#[test]
fn what_is_there_becomes_no_older_when_the_clock_is_set() {
    const DAY: i64 = 86_400;
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    send(&store, vec![bytes("a", 0, &text("a", 100))]);
    let kept = store.size();
    assert!(kept.1 > 0, "there is a segment");
    let mut clock = 1;
    let mut look_after = |seconds: i64| {
        clock += seconds;
        store.expire(Timestamp::from_seconds(clock));
        store.size()
    };
    for seconds in [0, 20_000 * DAY, -5_000 * DAY, 3 * DAY] {
        assert_eq!(look_after(seconds), kept, "the clock is set by {seconds} s");
    }
    for hour in 0..30 * 24 {
        assert_eq!(look_after(3600), kept, "hour {hour}");
    }
    assert_eq!(look_after(3600), (0, 0), "thirty days have passed");
}

#[test]
fn the_oldest_segments_go_and_their_lines_do_not_come_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let few = Options { bytes_max: 8000, age_max: Duration::from_secs(3600), ..options(folder.path()) };
    let store = LogStore::open(few.clone()).expect("the store opens");
    let all = text("a", 2000);
    let mut at = 0;
    for number in 0..2000 {
        let line = line("a", number);
        send(&store, vec![bytes("a", at, &line)]);
        at += line.len() as u64;
    }
    let on_disk: u64 = fs::read_dir(folder.path())
        .expect("a folder")
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "segment"))
        .map(|entry| entry.metadata().expect("a file").len())
        .sum();
    assert_eq!(on_disk, store.size().0);
    assert!(on_disk <= 8000, "{on_disk} bytes");
    let kept = lines_of(&store, "a", 1000);
    assert!(kept.len() < 2000 && said("a", 2000).ends_with(&kept), "{} lines are kept", kept.len());
    drop(store);
    let store = LogStore::open(few).expect("the store opens");
    assert_eq!(send(&store, vec![bytes("a", 0, &all)]), [at]);
    assert_eq!(lines_of(&store, "a", 1000), kept, "what was removed is not taken again");
    store.expire(Timestamp::from_seconds(7200));
    assert_eq!(store.size(), (0, 0), "all segments are too old");
    assert_eq!(send(&store, vec![bytes("a", at, &line("a", 2000))]), [at + line("a", 2000).len() as u64]);
}

#[test]
fn a_segment_that_somebody_removed_does_not_keep_the_others_from_going() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = LogStore::open(Options { bytes_max: 8000, ..options(folder.path()) }).expect("the store opens");
    let first = text("a", 100);
    send(&store, vec![bytes("a", 0, &first)]);
    fs::remove_file(Segment::path(folder.path(), 0)).expect("removed");
    let mut at = first.len() as u64;
    for number in 100..2000 {
        let line = line("a", number);
        send(&store, vec![bytes("a", at, &line)]);
        at += line.len() as u64;
    }
    assert!(store.size().0 <= 8000, "{} bytes", store.size().0);
}

/// Sixteen mebibytes of names made a journal that could not be read again.
#[test]
fn a_store_with_very_many_small_logs_can_be_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let sizes = Sizes { head: 1 << 20, block: 256 << 10, segment: 1 };
    let options = || Options { sizes, ..Options::new(folder.path()) };
    let store = LogStore::open(options()).expect("the store opens");
    let long = |number: usize| Stream {
        namespace: "n".repeat(400),
        uid: "u".repeat(400),
        container: "c".repeat(400),
        ..stream(&format!("{number:0>400}"))
    };
    for from in (0..15_000).step_by(500) {
        let chunk = |number| Chunk { stream: long(number), ..bytes("a", 0, &line("a", 1)) };
        send(&store, (from..from + 500).map(chunk).collect());
    }
    drop(store);
    let store = LogStore::open(options()).expect("the store opens");
    let newest = store.query(Query { pod: long(14_999).pod, ..Query::default() });
    assert_eq!(newest.entries.len(), 1);
    assert!(store.query(Query { pod: long(0).pod, ..Query::default() }).entries.is_empty(), "the oldest are gone");
}

/// After a crash every stream ends where it says, has each line before once, and takes the rest: nothing that was there
/// before is gone.
fn check_after_crash(folder: &Path, before: &BTreeMap<&str, usize>, sent: &BTreeMap<&str, usize>, state: &str) {
    let store = open(folder);
    for (pod, count) in sent {
        let known = store.known("n1").streams.into_iter().find(|(stream, _)| stream.pod == *pod);
        let has = count_of(pod, known.map_or(0, |(_, position)| position.end));
        assert_eq!(lines_of(&store, pod, 50), said(pod, has), "{state}: {pod}");
        assert!(has >= before[pod], "{state}: {pod} has {has} of {} lines", before[pod]);
        send(&store, vec![bytes(pod, 0, &text(pod, *count))]);
        assert_eq!(lines_of(&store, pod, 1000), said(pod, *count), "{state}: {pod}, sent again");
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

fn newest_segment(folder: &Path) -> PathBuf {
    let paths = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).max().expect("a segment")
}

/// Sends lines of two pods in turns, and after every batch crashes at the bytes of what was written: at each of them while
/// the first blocks are written, at some later.
#[test]
fn a_crash_at_any_byte_loses_the_end_of_a_stream_at_most() {
    let folder = tempfile::tempdir().expect("a folder");
    let (live, crashed) = (folder.path().join("live"), folder.path().join("crashed"));
    let store = open(&live);
    let mut sent = BTreeMap::from([("a", 0), ("b", 0)]);
    let (mut seals, mut states) = (0, 0);
    for turn in 0..30 {
        let (before, segments) = (sent.clone(), store.size());
        let mut journal = File::open(live.join("journal")).expect("a journal");
        let length = journal.metadata().expect("a file").len() as usize;
        let pod = if turn % 3 == 0 { "b" } else { "a" };
        let from = sent[pod];
        let part: String = (from..from + 5).map(|number| line(pod, number)).collect();
        send(&store, vec![bytes(pod, text(pod, from).len() as u64, &part)]);
        sent.insert(pod, from + 5);
        // If the head was sealed there is a new journal; the old one, with this batch at its end, is still held here.
        let mut old = Vec::new();
        journal.read_to_end(&mut old).expect("readable");
        let sealed = store.size() != segments;
        let step = if (sealed && seals == 0) || turn == 3 { 1 } else { 61 };
        if !sealed {
            for cut in (length..=old.len()).step_by(step) {
                copy(&live, &crashed);
                fs::write(crashed.join("journal"), &old[..cut]).expect("written");
                check_after_crash(&crashed, &before, &sent, &format!("turn {turn}, journal cut at {cut}"));
                states += 1;
            }
            continue;
        }
        seals += 1;
        let newest = newest_segment(&live);
        let whole = fs::read(&newest).expect("readable");
        let grown = if store.size().1 == segments.1 { store.size().0 - segments.0 } else { whole.len() as u64 };
        for cut in (whole.len() - grown as usize..=whole.len()).step_by(step) {
            copy(&live, &crashed);
            fs::write(crashed.join("journal"), &old).expect("written");
            fs::write(crashed.join("journal.new"), &old[..cut % old.len()]).expect("written");
            fs::write(crashed.join(newest.file_name().unwrap_or_default()), &whole[..cut]).expect("written");
            check_after_crash(&crashed, &sent, &sent, &format!("turn {turn}, segment cut at {cut}"));
            states += 1;
        }
    }
    assert!(seals > 2 && states > 500, "{seals} seals and {states} states were tried");
}

#[test]
fn a_damaged_segment_costs_its_own_lines_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let mut at = 0;
    for number in 0..200 {
        let line = line("a", number);
        send(&store, vec![bytes("a", at, &line)]);
        at += line.len() as u64;
    }
    assert!(store.size().1 > 2, "several segments");
    drop(store);
    let path = Segment::path(folder.path(), 0);
    let mut damaged = fs::read(&path).expect("a segment");
    for place in [30, damaged.len() / 2, damaged.len() - 1] {
        damaged[place] ^= 0xff;
    }
    fs::write(&path, damaged).expect("written");
    let store = open(folder.path());
    let left = lines_of(&store, "a", 1000);
    assert!(left.len() < 200 && left.len() > 50 && said("a", 200).ends_with(&left[left.len() - 50..]));
    assert_eq!(send(&store, vec![bytes("a", 0, &text("a", 201))]), [text("a", 201).len() as u64]);
}
