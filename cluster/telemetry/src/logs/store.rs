//! The store of all logs: a journal for what just came, compressed segments for the rest.
//!
//! Start at [`LogStore::open`], [`LogStore::ingest`] and [`LogStore::query`]. A batch is appended to the journal and kept in
//! memory; when that is a megabyte, it is sorted by stream, packed in blocks, appended to the newest segment and made durable,
//! and the journal begins anew with the position of every stream. The oldest segments go when there are too many or they
//! are too old.
//!
//! Invariants:
//! * a stream only grows at its end: what is there already is passed over, what would leave a hole is not taken;
//! * positions and lines are one write: after a crash anywhere both say the same;
//! * the blocks of one sealing count together or not at all, and only once they do the journal forgets what is in them;
//! * memory: the head (some megabytes, see [`Sizes`]), some dozen bytes a block, what came last ([`Arrivals`]), the names of at most [`STREAMS_MAX`] streams.
//!
//! Not here: who may ask (`apiserver`), how often to flush (`serve.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::Timestamp;

use super::arrivals::Arrivals;
use super::cri;
use super::frame::{self, Head, Kind, Part, Reader};
use super::query::{Page, Query, Search, hash};
use super::wire::{Batch, Chunk, Content, Known, Position, Stream, check};

/// If the head cannot be sealed (the disk is full), nothing more is taken when it is so many times too large.
const HEADS_MAX: usize = 4;
/// Pieces of a stream are joined up to this size; a block ends between pieces.
const PART_BYTES: usize = 128 << 10;
/// Names and positions kept: a cluster that starts a pod each minute makes so many in two weeks.
const STREAMS_MAX: usize = 20_000;
/// Bytes of their names: half of what the first frame of a journal, which has them all, may hold.
const NAMES_BYTES_MAX: usize = frame::HEAD_BYTES_MAX / 2;
const LEVEL: i32 = 3;
/// Age is looked at each hour at least: a clock that has gone on by more since was set, and nothing has become older by that.
const STEP_NANOS_MAX: i64 = 86_400_000_000_000;

/// What a store is given.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its folder; made if missing.
    pub folder: PathBuf,
    /// Bytes of all segments; at least two segments' worth.
    pub bytes_max: u64,
    /// Segments that were last written to longer ago are removed.
    pub age_max: Duration,
    /// How it is cut.
    pub sizes: Sizes,
}

/// How a store is cut into pieces.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The head is sealed when it is so large.
    pub head: usize,
    /// A block is about so large before it is packed: large enough to pack well, small enough to read for a few lines.
    pub block: usize,
    /// A segment is closed when it is so large; what is removed is always a whole one.
    pub segment: u64,
}

impl Options {
    /// 256 MiB and thirty days.
    pub fn new(folder: &Path) -> Options {
        Options {
            folder: folder.to_owned(),
            bytes_max: 256 << 20,
            age_max: Duration::from_secs(30 * 86_400),
            sizes: Sizes { head: 1 << 20, block: 256 << 10, segment: 4 << 20 },
        }
    }
}

/// Why a store does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("failed to open the log store at {path}")]
    Open {
        /// Its folder, or the file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("failed to write the log store at {path}")]
    Write {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The store.
pub struct LogStore {
    options: Options,
    inner: Mutex<Inner>,
}

struct Inner {
    streams: Streams,
    segments: VecDeque<Segment>,
    head: BTreeMap<u32, Vec<Pending>>,
    head_bytes: usize,
    journal: Arc<File>,
    journal_bytes: u64,
    /// The journal has what is not durable.
    dirty: bool,
    /// The last batch.
    batch: u64,
    arrivals: Arrivals,
    /// When age was last looked at.
    looked: Option<i64>,
}

/// A piece of a stream that is not in a segment yet.
#[derive(Debug)]
struct Pending {
    part: Part,
    bytes: Vec<u8>,
}

struct Segment {
    number: u64,
    file: Arc<File>,
    bytes: u64,
    /// When the last batch in it came.
    now: i64,
    blocks: Vec<Block>,
}

/// Where a block is and what it is about.
struct Block {
    at: u64,
    first: i64,
    last: i64,
    streams: Box<[u32]>,
}

/// Names of streams as numbers, and how far each is.
#[derive(Default)]
struct Streams {
    names: BTreeMap<u32, Arc<Stream>>,
    numbers: BTreeMap<Arc<Stream>, u32>,
    positions: BTreeMap<u32, Position>,
    next: u32,
}

impl Streams {
    fn number(&mut self, name: &Stream) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let (name, number) = (Arc::new(name.clone()), self.next);
        self.next += 1;
        self.names.insert(number, name.clone());
        self.numbers.insert(name, number);
        number
    }

    fn position(&self, name: &Stream) -> Option<Position> {
        self.positions.get(self.numbers.get(name)?).copied()
    }

    fn set(&mut self, name: &Stream, position: Position) {
        let number = self.number(name);
        self.positions.insert(number, position);
    }

    /// Forgets those beyond the limit that no segment has lines of, the ones known for longest first. The answer is whether
    /// the rest is within it.
    fn shrink(&mut self, used: &BTreeSet<u32>) -> bool {
        let mut bytes: usize = self.names.values().map(|name| bytes_of(name)).sum();
        let unused: Vec<u32> = self.names.keys().filter(|number| !used.contains(number)).copied().collect();
        for number in unused {
            if fits(self.names.len(), bytes) {
                return true;
            }
            self.positions.remove(&number);
            if let Some(name) = self.names.remove(&number) {
                bytes -= bytes_of(&name);
                self.numbers.remove(&name);
            }
        }
        fits(self.names.len(), bytes)
    }

    fn all(&self) -> Vec<(Stream, Position)> {
        self.positions.iter().map(|(number, position)| ((*self.names[number]).clone(), *position)).collect()
    }
}

fn fits(names: usize, bytes: usize) -> bool {
    names <= STREAMS_MAX && bytes <= NAMES_BYTES_MAX
}

/// What a name and its position take in a frame.
fn bytes_of(name: &Stream) -> usize {
    let Stream { node, namespace, pod, uid, container, run } = name;
    [node, namespace, pod, uid, container, run].iter().map(|part| part.len()).sum::<usize>() + 32
}

impl LogStore {
    /// Opens it, and mends what a crash left.
    pub fn open(options: Options) -> Result<LogStore, StoreError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Open { path, source }
        };
        fs::create_dir_all(&options.folder).map_err(failed(&options.folder))?;
        let mut streams = Streams::default();
        let (segments, sealed) = open_segments(&options.folder, &mut streams).map_err(failed(&options.folder))?;
        let path = options.folder.join("journal");
        let journal = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let journal = Arc::new(journal.map_err(failed(&path))?);
        let (head, head_bytes) = (BTreeMap::new(), 0);
        let mut inner = Inner {
            streams,
            segments,
            head,
            head_bytes,
            journal,
            journal_bytes: 0,
            dirty: false,
            batch: sealed,
            arrivals: Arrivals::default(),
            looked: None,
        };
        inner.replay(sealed).map_err(failed(&path))?;
        inner.arrivals = Arrivals::new(inner.batch);
        if inner.journal_bytes == 0 {
            inner.begin_journal(&options.folder, 0).map_err(failed(&path))?;
        }
        Ok(LogStore { options, inner: Mutex::new(inner) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what of a batch is new. The answer is where each chunk's stream ends now.
    pub fn ingest(&self, batch: Batch, now: Timestamp) -> Result<Vec<Position>, StoreError> {
        let mut inner = self.inner();
        let failed = |source| StoreError::Write { path: self.options.folder.clone(), source };
        let now = cri::nanos(now);
        let full = self.options.sizes.head;
        if inner.head_bytes >= full {
            // It could not be sealed before.
            let sealed = inner.seal(&self.options, now);
            if inner.head_bytes >= full * HEADS_MAX {
                sealed.map_err(failed)?;
            }
        }
        let names: Vec<Stream> = batch.chunks.iter().map(|chunk| chunk.stream.clone()).collect();
        inner.take(batch, now).map_err(failed)?;
        if inner.head_bytes >= full
            && let Err(error) = inner.seal(&self.options, now)
        {
            // The journal has it all.
            tracing::warn!("failed to write a segment of the log store: {error}");
        }
        Ok(names.iter().map(|name| inner.streams.position(name).unwrap_or_default()).collect())
    }

    /// Makes durable what came since the last time.
    pub fn flush(&self) -> Result<(), StoreError> {
        let journal = {
            let mut inner = self.inner();
            if !std::mem::take(&mut inner.dirty) {
                return Ok(());
            }
            inner.journal.clone()
        };
        journal.sync_data().map_err(|source| StoreError::Write { path: self.options.folder.clone(), source })
    }

    /// Removes what is too old.
    pub fn expire(&self, now: Timestamp) {
        self.inner().retain(&self.options, cri::nanos(now));
    }

    /// How far the streams of a node are.
    pub fn known(&self, node: &str) -> Known {
        let inner = self.inner();
        let ours = |(number, position): (&u32, &Position)| {
            let name = &inner.streams.names[number];
            (name.node == node).then(|| ((**name).clone(), *position))
        };
        Known { streams: inner.streams.positions.iter().filter_map(ours).collect() }
    }

    /// Bytes of all segments, and how many there are.
    pub fn size(&self) -> (u64, usize) {
        let inner = self.inner();
        (inner.segments.iter().map(|segment| segment.bytes).sum(), inner.segments.len())
    }

    /// Finds lines.
    pub fn query(&self, query: Query) -> Page {
        let (mut search, mut blocks) = self.inner().search(query);
        let newest = search.query().newest;
        blocks.sort_by_key(|(first, last, ..)| if newest { last.saturating_neg() } else { *first });
        for (first, last, file, at) in blocks {
            if !search.wants(first, last) {
                break;
            }
            let read = Reader::at_offset(&file, at).and_then(|mut reader| {
                let Some((head, body)) = reader.next::<Head>()? else { return Err(io::ErrorKind::InvalidData.into()) };
                Ok((head, body.read(&file)?))
            });
            match read {
                Ok((head, body)) => search.offer_all(&head.parts, &body),
                Err(error) => tracing::warn!("a block of the log store cannot be read: {error}"),
            }
        }
        search.finish()
    }
}

impl Inner {
    /// A search, and the blocks it must look into: all that came up to now.
    fn search(&self, query: Query) -> (Search, Vec<(i64, i64, Arc<File>, u64)>) {
        let mut search = Search::new(query, &self.arrivals, self.batch);
        let blocks = self.blocks(&mut search);
        (search, blocks)
    }

    /// The blocks a search must look into. The head is searched at once.
    fn blocks(&self, search: &mut Search) -> Vec<(i64, i64, Arc<File>, u64)> {
        let wanted: BTreeSet<u32> = self
            .streams
            .names
            .iter()
            .filter(|(_, name)| search.query().is_about(name))
            .map(|(number, _)| *number)
            .collect();
        for pending in self.head.iter().filter(|(number, _)| wanted.contains(number)).flat_map(|(_, parts)| parts) {
            search.offer(&pending.part, &pending.bytes);
        }
        let (since, until) = (search.query().since, search.query().until);
        let mut found = Vec::new();
        for segment in &self.segments {
            for block in &segment.blocks {
                let timely = block.last >= since && block.first < until;
                if timely && block.streams.iter().any(|number| wanted.contains(number)) {
                    found.push((block.first, block.last, segment.file.clone(), block.at));
                }
            }
        }
        found
    }

    /// Reads the journal: positions, and what is in no segment yet.
    fn replay(&mut self, sealed: u64) -> io::Result<()> {
        let journal = self.journal.clone();
        let mut reader = Reader::new(&journal)?;
        let mut good = 0;
        while let Some((head, body)) = reader.next::<Head>()? {
            let Ok(body) = body.read(&journal) else { break };
            for (name, position) in &head.positions {
                self.streams.set(name, *position);
            }
            let mut rest = &body[..];
            for part in head.parts {
                let (bytes, after) = rest.split_at(rest.len().min(part.bytes as usize));
                rest = after;
                self.advance(&part, bytes);
                if head.batch > sealed {
                    self.keep(part, bytes);
                }
            }
            self.batch = self.batch.max(head.batch);
            good = reader.at();
        }
        journal.set_len(good)?;
        self.journal_bytes = good;
        Ok(())
    }

    fn advance(&mut self, part: &Part, bytes: &[u8]) {
        let check = if part.kind == Kind::Bytes { check(cri::last_line(bytes)) } else { 0 };
        self.streams.set(&part.stream, Position { incarnation: part.incarnation, end: part.end, check });
    }

    /// Puts a part into the head.
    fn keep(&mut self, part: Part, bytes: &[u8]) {
        let number = self.streams.number(&part.stream);
        let parts = self.head.entry(number).or_default();
        self.head_bytes += bytes.len() + size_of::<Pending>();
        match parts.last_mut() {
            Some(last) if last.part.is_before(&part) && last.bytes.len() + bytes.len() <= PART_BYTES => {
                last.bytes.extend_from_slice(bytes);
                last.part.bytes = last.bytes.len() as u32;
                last.part.end = part.end;
                last.part.first = last.part.first.min(part.first);
                last.part.last = last.part.last.max(part.last);
            }
            _ => parts.push(Pending { part, bytes: bytes.to_vec() }),
        }
    }

    fn take(&mut self, batch: Batch, now: i64) -> io::Result<()> {
        let mut fresh: Vec<(Part, Vec<u8>)> = Vec::new();
        let mut ends: BTreeMap<Stream, Position> = BTreeMap::new();
        for chunk in batch.chunks {
            let known = ends.get(&chunk.stream).copied().or_else(|| self.streams.position(&chunk.stream));
            let Some((part, bytes)) = new_of(chunk, known.unwrap_or_default(), now) else { continue };
            let end = Position { incarnation: part.incarnation, end: part.end, check: 0 };
            ends.insert(part.stream.clone(), end);
            fresh.push((part, bytes));
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let parts = fresh.iter().map(|(part, _)| part.clone()).collect();
        let body: Vec<u8> = fresh.iter().flat_map(|(_, bytes)| bytes).copied().collect();
        let head = Head { batch: self.batch + 1, now, closes: true, parts, positions: Vec::new() };
        self.append(&frame::encode(&head, &body, 1)?)?;
        self.batch += 1;
        for (part, bytes) in fresh {
            self.advance(&part, &bytes);
            self.arrivals.note(self.batch, hash(&part.stream), (part.incarnation, part.start), part.first);
            self.keep(part, &bytes);
        }
        Ok(())
    }

    /// All of it or nothing.
    fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        if let Err(error) = self.journal.write_all_at(frame, self.journal_bytes) {
            let _ = self.journal.set_len(self.journal_bytes);
            return Err(error);
        }
        self.journal_bytes += frame.len() as u64;
        self.dirty = true;
        Ok(())
    }

    /// Moves the head into a segment, durably, and begins the journal anew.
    fn seal(&mut self, options: &Options, now: i64) -> io::Result<()> {
        self.retain(options, now);
        let frames = self.pack(options.sizes.block, now)?;
        if self.segments.back().is_none_or(|segment| segment.bytes >= options.sizes.segment) {
            let number = self.segments.back().map_or(0, |segment| segment.number + 1);
            self.segments.push_back(Segment::create(&options.folder, number)?);
        }
        // One was just put there if there was none.
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        segment.append(&frames, now)?;
        self.head.clear();
        self.head_bytes = 0;
        self.begin_journal(&options.folder, now)
    }

    /// The head as frames, with what each is about.
    fn pack(&self, block_bytes: usize, now: i64) -> io::Result<Vec<(Vec<u8>, Block)>> {
        let mut groups: Vec<Vec<(u32, &Pending)>> = vec![Vec::new()];
        let mut bytes = 0;
        for (number, pending) in self.head.iter().flat_map(|(number, all)| all.iter().map(move |one| (*number, one))) {
            if bytes >= block_bytes {
                groups.push(Vec::new());
                bytes = 0;
            }
            bytes += pending.bytes.len();
            if let Some(group) = groups.last_mut() {
                group.push((number, pending));
            }
        }
        let count = groups.len();
        let pack = |(index, group): (usize, Vec<(u32, &Pending)>)| self.block(&group, index + 1 == count, now);
        groups.into_iter().enumerate().map(pack).collect()
    }

    fn block(&self, group: &[(u32, &Pending)], closes: bool, now: i64) -> io::Result<(Vec<u8>, Block)> {
        let parts: Vec<Part> = group.iter().map(|(_, pending)| pending.part.clone()).collect();
        let body: Vec<u8> = group.iter().flat_map(|(_, pending)| &pending.bytes).copied().collect();
        let head = Head { batch: self.batch, now, closes, parts, positions: Vec::new() };
        let mut streams: Vec<u32> = group.iter().map(|(number, _)| *number).collect();
        streams.dedup();
        let (first, last) = head.times();
        Ok((frame::encode(&head, &body, LEVEL)?, Block { at: 0, first, last, streams: streams.into() }))
    }

    /// A journal that holds where every stream is, in the place of the old one.
    fn begin_journal(&mut self, folder: &Path, now: i64) -> io::Result<()> {
        self.shrink(folder);
        let head = Head { batch: self.batch, now, closes: true, parts: Vec::new(), positions: self.streams.all() };
        let frame = frame::encode(&head, b"", 1)?;
        let path = folder.join("journal.new");
        let mut file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
        file.write_all(&frame)?;
        file.sync_data()?;
        fs::rename(&path, folder.join("journal"))?;
        sys::files::sync_folder(folder)?;
        (self.journal, self.journal_bytes, self.dirty) = (Arc::new(file), frame.len() as u64, false);
        Ok(())
    }

    /// Keeps the names of streams within their limit, which very many small logs pass before segments are too large: then the
    /// oldest go with their names. The newest segment stays.
    fn shrink(&mut self, folder: &Path) {
        loop {
            let blocks = self.segments.iter().flat_map(|segment| &segment.blocks);
            let used = blocks.flat_map(|block| block.streams.iter().copied()).collect();
            if self.streams.shrink(&used) || self.segments.len() <= 1 || !self.remove_oldest(folder) {
                return;
            }
        }
    }

    fn remove_oldest(&mut self, folder: &Path) -> bool {
        let Some(oldest) = self.segments.front() else { return false };
        // One that somebody has removed already must not keep those behind it for ever.
        if let Err(error) = sys::files::remove_file(&Segment::path(folder, oldest.number)) {
            tracing::warn!("failed to remove an old segment of the log store: {error}");
            return false;
        }
        self.segments.pop_front();
        true
    }

    /// Leaves the age of what there is as it was when the clock was set.
    fn follow_clock(&mut self, now: i64) {
        let passed = self.looked.map_or(0, |looked| now.saturating_sub(looked));
        self.looked = Some(now);
        if !(0..=STEP_NANOS_MAX).contains(&passed) {
            self.segments.iter_mut().for_each(|segment| segment.now = segment.now.saturating_add(passed));
        }
    }

    fn retain(&mut self, options: &Options, now: i64) {
        self.follow_clock(now);
        let age = i64::try_from(options.age_max.as_nanos()).unwrap_or(i64::MAX);
        let mut bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        // Room for the segment that is being filled is kept free.
        let bytes_max = options.bytes_max.saturating_sub(options.sizes.segment);
        while let Some(oldest) = self.segments.front() {
            let old = now.saturating_sub(oldest.now) > age;
            let many = bytes > bytes_max && self.segments.len() > 1;
            if !old && !many {
                break;
            }
            bytes -= oldest.bytes;
            if !self.remove_oldest(&options.folder) {
                break;
            }
        }
    }
}

impl Part {
    /// Whether `next` goes on where this ends, with the same sort of places.
    fn is_before(&self, next: &Part) -> bool {
        self.kind == next.kind
            && self.kind != Kind::Gap
            && self.incarnation == next.incarnation
            && self.end == next.start
    }
}

impl Head {
    fn times(&self) -> (i64, i64) {
        let first = self.parts.iter().map(|part| part.first).min().unwrap_or(0);
        (first, self.parts.iter().map(|part| part.last).max().unwrap_or(0))
    }
}

impl Segment {
    fn path(folder: &Path, number: u64) -> PathBuf {
        folder.join(format!("{number:010}.segment"))
    }

    fn create(folder: &Path, number: u64) -> io::Result<Segment> {
        let path = Segment::path(folder, number);
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
        sys::files::sync_folder(folder)?;
        Ok(Segment { number, file: Arc::new(file), bytes: 0, now: 0, blocks: Vec::new() })
    }

    /// All frames, durable, or none.
    fn append(&mut self, frames: &[(Vec<u8>, Block)], now: i64) -> io::Result<()> {
        let all: Vec<u8> = frames.iter().flat_map(|(frame, _)| frame).copied().collect();
        let written = self.file.write_all_at(&all, self.bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        for (frame, block) in frames {
            self.blocks.push(Block { at: self.bytes, streams: block.streams.clone(), ..*block });
            self.bytes += frame.len() as u64;
        }
        self.now = now;
        Ok(())
    }
}

/// What of a chunk is new to a stream at that position; nothing if the chunk is known or leaves a hole.
fn new_of(chunk: Chunk, known: Position, now: i64) -> Option<(Part, Vec<u8>)> {
    let restarted = chunk.incarnation > known.incarnation && chunk.start == 0;
    let end = if restarted { 0 } else { known.end };
    if !restarted && chunk.incarnation != known.incarnation || chunk.start > end || chunk.end <= end {
        return None;
    }
    let passed = (end - chunk.start) as usize;
    let (kind, bytes) = match chunk.content {
        Content::Gap => (Kind::Gap, Vec::new()),
        Content::Bytes(bytes) if passed > 0 && bytes[passed - 1] != b'\n' => return None,
        Content::Bytes(bytes) => (Kind::Bytes, bytes[passed..].to_vec()),
        Content::Lines(bytes) => {
            let begin = cri::lines(&bytes).nth(passed).map_or(bytes.len(), |(at, _)| at);
            (Kind::Lines, bytes[begin..].to_vec())
        }
    };
    let times = cri::lines(&bytes).map(|(_, line)| cri::read(line, now).time);
    let (first, last) = times
        .fold(None, |seen: Option<(i64, i64)>, time| {
            Some(seen.map_or((time, time), |(first, last)| (first.min(time), last.max(time))))
        })
        .unwrap_or((now, now));
    let (stream, incarnation) = (chunk.stream, chunk.incarnation);
    let length = bytes.len() as u32;
    Some((Part { stream, incarnation, start: end, end: chunk.end, kind, bytes: length, first, last }, bytes))
}

/// Reads the segments of a folder. The answer has the last batch in them, too.
fn open_segments(folder: &Path, streams: &mut Streams) -> io::Result<(VecDeque<Segment>, u64)> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".segment"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    let newest = numbers.last().copied();
    let (mut segments, mut sealed) = (VecDeque::new(), 0);
    for number in numbers {
        let (segment, batch) = open_segment(folder, number, newest == Some(number), streams)?;
        sealed = sealed.max(batch);
        segments.push_back(segment);
    }
    Ok((segments, sealed))
}

/// Reads one segment; of the newest, which a crash may have cut, the bodies too.
fn open_segment(folder: &Path, number: u64, newest: bool, streams: &mut Streams) -> io::Result<(Segment, u64)> {
    let file = File::options().read(true).write(true).open(Segment::path(folder, number))?;
    let mut segment = Segment { number, file: Arc::new(file), bytes: 0, now: 0, blocks: Vec::new() };
    let file = segment.file.clone();
    let mut reader = Reader::new(&file)?;
    let (mut begun, mut sealed) = (Vec::new(), 0);
    loop {
        let at = reader.at();
        let Some((head, body)) = reader.next::<Head>()? else { break };
        if newest && body.read(&file).is_err() {
            break;
        }
        let mut about: Vec<u32> = Vec::new();
        for part in &head.parts {
            let number = streams.number(&part.stream);
            about.push(number);
            // The journal knows better, unless it is lost.
            streams.positions.insert(number, Position { incarnation: part.incarnation, end: part.end, check: 0 });
        }
        about.dedup();
        let (first, last) = head.times();
        begun.push(Block { at, first, last, streams: about.into() });
        if head.closes {
            segment.blocks.append(&mut begun);
            segment.bytes = reader.at();
            (segment.now, sealed) = (head.now, head.batch);
        }
    }
    if newest {
        file.set_len(segment.bytes)?;
    }
    Ok((segment, sealed))
}

#[cfg(test)]
mod tests;
