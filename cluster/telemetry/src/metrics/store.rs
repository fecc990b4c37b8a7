//! The store of series: the newest rounds and ten minutes of samples in memory, packed blocks in segments on the disk.
//!
//! Start at [`MetricStore::ingest`], [`MetricStore::series`] and [`MetricStore::latest`]. A block holds a column of times and
//! one of values for each series: times as differences, values as what changed of their bits, both in zstd.
//!
//! Invariants:
//! * segments together are no larger than they may be: the oldest goes first;
//! * memory holds at most [`SERIES_MAX`] series and [`SAMPLES_MAX`] samples;
//! * a block that a crash cut off is not there, those before it are.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::wire::Round;
use crate::logs::frame::{self, Reader};

/// A block is made so long after its first sample, in milliseconds.
const BLOCK_MS: i64 = 600_000;
/// Series at a time; what is beyond is not kept. Three boards with thirty pods have a thousand.
const SERIES_MAX: usize = 10_000;
/// Samples in memory; with so many a block is made earlier, and stays within what a frame may hold.
const SAMPLES_MAX: usize = 100_000;
/// Samples of an answer.
const ANSWER_MAX: usize = 100_000;
/// Steps that are made longer are no shorter than this, in milliseconds: nothing is measured more often.
const STEP_MS_MIN: i64 = 1000;
const LEVEL: i32 = 3;

/// What a store is given.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its folder; made if missing.
    pub folder: PathBuf,
    /// Bytes of all segments.
    pub bytes_max: u64,
    /// A segment is closed when it is so large.
    pub segment_bytes: u64,
}

impl Options {
    /// 32 MiB: some weeks of three boards.
    pub fn new(folder: &Path) -> Options {
        Options { folder: folder.to_owned(), bytes_max: 32 << 20, segment_bytes: 1 << 20 }
    }
}

/// Samples of series: times in milliseconds, and values.
pub type Series = BTreeMap<String, Vec<(i64, f64)>>;

/// The store.
pub struct MetricStore {
    options: Options,
    inner: Mutex<Inner>,
}

struct Inner {
    /// The two newest rounds of each node, the newest last.
    latest: BTreeMap<String, VecDeque<Arc<Round>>>,
    pending: Series,
    samples: usize,
    segments: VecDeque<Segment>,
}

struct Segment {
    number: u64,
    file: Arc<File>,
    bytes: u64,
    /// Where each block is, and its first and last time.
    blocks: Vec<(u64, Head)>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Head {
    first: i64,
    last: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Column {
    name: String,
    /// The first time, then differences.
    times: Vec<i64>,
    /// The first value's bits, then which bits changed; the bytes in reverse, because high ones change least.
    values: Vec<u64>,
}

impl MetricStore {
    /// Opens it, and mends what a crash left.
    pub fn open(options: Options) -> io::Result<MetricStore> {
        fs::create_dir_all(&options.folder)?;
        let mut numbers: Vec<u64> = fs::read_dir(&options.folder)?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".segment")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let segments: io::Result<VecDeque<Segment>> =
            numbers.into_iter().map(|number| Segment::open(&options.folder, number)).collect();
        let inner = Inner { latest: BTreeMap::new(), pending: Series::new(), samples: 0, segments: segments? };
        Ok(MetricStore { options, inner: Mutex::new(inner) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a round. One that is not newer than the node's last is known already.
    pub fn ingest(&self, round: Round) -> io::Result<()> {
        let mut inner = self.inner();
        let latest = inner.latest.entry(round.node.clone()).or_default();
        if latest.back().is_some_and(|last| last.time >= round.time && last.time - round.time < BLOCK_MS) {
            return Ok(());
        }
        let round = Arc::new(round);
        latest.push_back(round.clone());
        while latest.len() > 2 {
            latest.pop_front();
        }
        for (name, value) in &round.values {
            let known = inner.pending.contains_key(name);
            if known || inner.pending.len() < SERIES_MAX {
                inner.pending.entry(name.clone()).or_default().push((round.time, *value));
                inner.samples += 1;
            }
        }
        let first = inner.pending.values().filter_map(|samples| samples.first()).map(|(time, _)| *time).min();
        // A clock that was set makes a block early, which does no harm.
        let due = first.is_some_and(|first| (round.time - first).abs() >= BLOCK_MS);
        if due || inner.samples >= SAMPLES_MAX { inner.seal(&self.options) } else { Ok(()) }
    }

    /// Writes what is in memory alone: before the server stops.
    pub fn flush(&self) -> io::Result<()> {
        self.inner().seal(&self.options)
    }

    /// The two newest rounds of each node, the newest last.
    pub fn latest(&self) -> Vec<Vec<Arc<Round>>> {
        self.inner().latest.values().map(|rounds| rounds.iter().cloned().collect()).collect()
    }

    /// Bytes of all segments.
    pub fn size(&self) -> u64 {
        self.inner().segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The samples from `since` to before `until` of every series that `wanted` accepts: the last in each `step`, in
    /// milliseconds, or all of them if that is 0. Where that would be too many, the steps are longer.
    pub fn series(&self, since: i64, until: i64, step: i64, wanted: impl Fn(&str) -> bool) -> Series {
        let (blocks, pending) = self.inner().parts(since, until, &wanted);
        let mut found = Found { series: Series::new(), count: 0, step };
        let packed = blocks.into_iter().flat_map(|(file, at)| match read(&file, at) {
            Ok(columns) => columns,
            Err(error) => {
                tracing::warn!("a block of the metric store cannot be read: {error}");
                Vec::new()
            }
        });
        let packed = packed.filter(|column| wanted(&column.name)).map(|column| (column.name.clone(), unpack(&column)));
        for (name, samples) in packed.chain(pending) {
            found.add(name, samples.into_iter().filter(|(time, _)| *time >= since && *time < until));
        }
        found.series
    }
}

/// An answer that grows, and stays within what an answer may hold.
struct Found {
    series: Series,
    count: usize,
    step: i64,
}

impl Found {
    /// Takes in samples of a series. A step may have begun in one block and ended in the next.
    fn add(&mut self, name: String, samples: impl Iterator<Item = (i64, f64)>) {
        let mut samples = samples.peekable();
        if samples.peek().is_none() || self.count >= ANSWER_MAX && !self.series.contains_key(&name) {
            return;
        }
        let kept = self.series.entry(name).or_default();
        self.count -= kept.len();
        samples.for_each(|sample| keep(kept, sample, self.step));
        self.count += kept.len();
        while self.count > ANSWER_MAX && self.step < i64::MAX {
            self.step = self.step.max(STEP_MS_MIN).saturating_mul(2);
            self.series.values_mut().for_each(|kept| *kept = thinned(kept, self.step));
            self.count = self.series.values().map(Vec::len).sum();
        }
    }
}

impl Inner {
    fn parts(&self, since: i64, until: i64, wanted: &impl Fn(&str) -> bool) -> (Vec<(Arc<File>, u64)>, Series) {
        let mut blocks = Vec::new();
        for segment in &self.segments {
            let timely = segment.blocks.iter().filter(|(_, head)| head.last >= since && head.first < until);
            blocks.extend(timely.map(|(at, _)| (segment.file.clone(), *at)));
        }
        let pending = self.pending.iter().filter(|(name, _)| wanted(name));
        (blocks, pending.map(|(name, samples)| (name.clone(), samples.clone())).collect())
    }

    fn seal(&mut self, options: &Options) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.samples = 0;
        if pending.is_empty() {
            return Ok(());
        }
        let times = || pending.values().flatten().map(|(time, _)| *time);
        let head = Head { first: times().min().unwrap_or(0), last: times().max().unwrap_or(0) };
        let columns: Vec<Column> = pending.iter().map(|(name, samples)| pack(name, samples)).collect();
        let body = postcard::to_allocvec(&columns).map_err(io::Error::other)?;
        let frame = frame::encode(&head, &body, LEVEL)?;
        self.make_room(options, frame.len() as u64);
        if self.segments.back().is_none_or(|segment| segment.bytes >= options.segment_bytes) {
            let number = self.segments.back().map_or(0, |segment| segment.number + 1);
            self.segments.push_back(Segment::open(&options.folder, number)?);
            sys::files::sync_folder(&options.folder)?;
        }
        // One was just put there if there was none.
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        segment.file.write_all_at(&frame, segment.bytes)?;
        segment.file.sync_data()?;
        segment.blocks.push((segment.bytes, head));
        segment.bytes += frame.len() as u64;
        Ok(())
    }

    fn make_room(&mut self, options: &Options, more: u64) {
        while let Some(oldest) = self.segments.front() {
            let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
            if bytes + more <= options.bytes_max {
                return;
            }
            // One that somebody has removed already must not keep those behind it for ever.
            if let Err(error) = sys::files::remove_file(&Segment::path(&options.folder, oldest.number)) {
                return tracing::warn!("failed to remove an old segment of the metric store: {error}");
            }
            self.segments.pop_front();
        }
    }
}

impl Segment {
    fn path(folder: &Path, number: u64) -> PathBuf {
        folder.join(format!("{number:010}.segment"))
    }

    /// Opens it, or makes it. What is behind the last whole block is overwritten by the next.
    fn open(folder: &Path, number: u64) -> io::Result<Segment> {
        let path = Segment::path(folder, number);
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut blocks = Vec::new();
        let mut reader = Reader::new(&file)?;
        let bytes = loop {
            let at = reader.at();
            let Some((head, body)) = reader.next::<Head>()? else { break at };
            if body.read(&file).is_err() {
                break at;
            }
            blocks.push((at, head));
        };
        file.set_len(bytes)?;
        Ok(Segment { number, file: Arc::new(file), bytes, blocks })
    }
}

fn read(file: &File, at: u64) -> io::Result<Vec<Column>> {
    let Some((_, body)) = Reader::at_offset(file, at)?.next::<Head>()? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    postcard::from_bytes(&body.read(file)?).map_err(io::Error::other)
}

fn pack(name: &str, samples: &[(i64, f64)]) -> Column {
    let (mut time_before, mut bits_before) = (0, 0);
    let mut column = Column { name: name.to_owned(), times: Vec::new(), values: Vec::new() };
    for (time, value) in samples {
        column.times.push(time.wrapping_sub(time_before));
        column.values.push((value.to_bits() ^ bits_before).swap_bytes());
        (time_before, bits_before) = (*time, value.to_bits());
    }
    column
}

/// The last sample in each step. Of a counter that loses nothing but detail, of the rest it is as good as any other.
fn thinned(samples: &[(i64, f64)], step: i64) -> Vec<(i64, f64)> {
    let mut kept = Vec::new();
    samples.iter().for_each(|sample| keep(&mut kept, *sample, step));
    kept
}

fn keep(kept: &mut Vec<(i64, f64)>, sample: (i64, f64), step: i64) {
    match kept.last_mut() {
        Some(last) if step > 0 && last.0.div_euclid(step) == sample.0.div_euclid(step) => *last = sample,
        _ => kept.push(sample),
    }
}

fn unpack(column: &Column) -> Vec<(i64, f64)> {
    let (mut time, mut bits) = (0_i64, 0);
    let pairs = column.times.iter().zip(&column.values);
    pairs
        .map(|(step, changed)| {
            time = time.wrapping_add(*step);
            bits ^= changed.swap_bytes();
            (time, f64::from_bits(bits))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(second: i64, value: f64) -> Round {
        let noise = (value * 0.7919).fract();
        Round { node: "n".into(), time: second * 1000, values: vec![("a{}".into(), value), ("b{}".into(), noise)] }
    }

    fn all(store: &MetricStore, name: &str) -> Vec<(i64, f64)> {
        store.series(i64::MIN, i64::MAX, 0, |its| its == name).remove(name).unwrap_or_default()
    }

    #[test]
    fn columns_give_back_what_went_in() {
        let samples = [(5, 1.5), (15_005, 1.5), (30_005, f64::MAX), (3, -0.0), (i64::MAX, f64::MIN_POSITIVE)];
        assert_eq!(unpack(&pack("a", &samples)), samples);
    }

    #[test]
    fn samples_are_there_before_and_after_they_are_packed() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = MetricStore::open(Options::new(folder.path())).expect("open");
        let wanted: Vec<(i64, f64)> = (0..200).map(|step| (step * 15_000, step as f64)).collect();
        for step in 0..200 {
            store.ingest(round(step * 15, step as f64)).expect("taken");
        }
        store.ingest(round(199 * 15, 77.0)).expect("known already");
        assert_eq!(all(&store, "a{}"), wanted);
        assert_eq!(store.series(30_000, 60_000, 0, |_| true)["a{}"], [(30_000, 2.0), (45_000, 3.0)]);
        let last_of_each_half_hour = [(1_785_000, 119.0), (2_985_000, 199.0)];
        assert_eq!(store.series(0, i64::MAX, 1_800_000, |_| true)["a{}"], last_of_each_half_hour);
        let latest = store.latest();
        assert_eq!(latest[0].iter().map(|round| round.time).collect::<Vec<_>>(), [198 * 15_000, 199 * 15_000]);
        store.flush().expect("flushed");
        drop(store);
        let store = MetricStore::open(Options::new(folder.path())).expect("open");
        assert_eq!(all(&store, "a{}"), wanted);
        let bytes = store.size() as f64 / 400.0;
        assert!(bytes < 8.0, "{bytes} bytes a sample");
    }

    /// What was counted was what each block had, not what was left of it: of a week the newest days were missing.
    #[test]
    fn a_long_time_of_many_series_ends_with_the_newest_samples() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = MetricStore::open(Options::new(folder.path())).expect("open");
        let last = 239 * 600_000;
        for time in (0..=last).step_by(600_000) {
            let values = (0..1000).map(|number| (format!("s{number}"), 1.0)).collect();
            store.ingest(Round { node: "n".into(), time, values }).expect("taken");
        }
        let check = |step: i64, expected: Option<usize>| {
            let found = store.series(i64::MIN, i64::MAX, step, |_| true);
            assert!(found.len() == 1000 && found.values().all(|samples| samples.last() == Some(&(last, 1.0))));
            let count: usize = found.values().map(Vec::len).sum();
            assert!(count <= ANSWER_MAX && expected.is_none_or(|expected| expected == count), "{count} samples");
        };
        check(3_600_000, Some(40_000));
        check(0, None);
        assert_eq!(store.series(i64::MIN, i64::MAX, 0, |name| name == "s7")["s7"].len(), 240);
    }

    #[test]
    fn a_segment_that_somebody_removed_does_not_keep_the_others_from_going() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options { bytes_max: 4000, segment_bytes: 900, ..Options::new(folder.path()) };
        let store = MetricStore::open(options).expect("open");
        store.ingest(round(0, 0.0)).expect("taken");
        store.ingest(round(600, 0.0)).expect("taken");
        fs::remove_file(Segment::path(folder.path(), 0)).expect("removed");
        for step in 0..3000 {
            store.ingest(round(1200 + step * 15, step as f64)).expect("taken");
            assert!(store.size() <= 4000);
        }
    }

    #[test]
    fn the_oldest_segment_makes_room_for_the_newest() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options { bytes_max: 4000, segment_bytes: 900, ..Options::new(folder.path()) };
        let store = MetricStore::open(options.clone()).expect("open");
        for step in 0..3000 {
            store.ingest(round(step * 15, step as f64)).expect("taken");
            assert!(store.size() <= 4000);
        }
        store.flush().expect("flushed");
        let kept = all(&store, "a{}");
        assert!(kept.len() > 40 && kept.len() < 3000 && kept.last() == Some(&(2999 * 15_000, 2999.0)));
        // A cut takes the last block away, and the next one is put in its place.
        drop(store);
        let newest = fs::read_dir(folder.path()).expect("a folder").flatten().map(|entry| entry.path()).max();
        let file = File::options().write(true).open(newest.expect("a segment")).expect("open");
        file.set_len(file.metadata().expect("a file").len() - 1).expect("cut");
        let store = MetricStore::open(options).expect("open");
        let left = all(&store, "a{}");
        assert!(left.len() < kept.len() && kept.starts_with(&left), "{} of {}", left.len(), kept.len());
        store.ingest(round(9_000_000, 1.0)).expect("taken");
        store.flush().expect("flushed");
        assert_eq!(all(&store, "a{}").last(), Some(&(9_000_000_000, 1.0)));
    }
}
