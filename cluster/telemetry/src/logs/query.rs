//! What can be asked of the log store, and finding it.
//!
//! Start at [`Query`]; [`Search`] is offered parts of blocks and keeps the best lines.
//!
//! Invariants:
//! * lines come in the order of their times, those of one moment in an order of their own that never changes;
//! * a page holds at most [`LINES_MAX`] lines and about [`PAGE_BYTES_MAX`] bytes, whatever was asked for;
//! * the mark where a page ends names the last line in it and the last batch that was looked at: nothing is left out or told
//!   twice by going on there, and what comes later, with an earlier time, is told when all else was.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base::Timestamp;
use regex_lite::Regex;

use super::arrivals::{Arrivals, Arrived};
use super::cri;
use super::frame::{Kind, Part};
use super::wire::Stream;

/// Lines of a page at most, and if nothing is said.
pub(crate) const LINES_MAX: usize = 10_000;
/// Bytes of a page; the line that passes it is still in it.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Which lines are wanted. Empty names match all.
#[derive(Clone, Debug)]
pub struct Query {
    /// The namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// The node.
    pub node: String,
    /// Only logs of the nodes themselves.
    pub of_nodes: bool,
    /// Not before, in nanoseconds since 1970.
    pub since: i64,
    /// Before.
    pub until: i64,
    /// Only lines in which this is found.
    pub pattern: Option<Regex>,
    /// Lines at most.
    pub limit: usize,
    /// The last ones instead of the first ones.
    pub newest: bool,
    /// Where another page ended.
    pub after: Option<Mark>,
}

impl Default for Query {
    fn default() -> Query {
        let text = String::new;
        Query {
            namespace: text(),
            pod: text(),
            container: text(),
            node: text(),
            of_nodes: false,
            since: i64::MIN,
            until: i64::MAX,
            pattern: None,
            limit: LINES_MAX,
            newest: false,
            after: None,
        }
    }
}

impl Query {
    /// Whether lines of that stream may be wanted.
    pub(crate) fn is_about(&self, stream: &Stream) -> bool {
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        fits(&self.namespace, &stream.namespace)
            && fits(&self.pod, &stream.pod)
            && fits(&self.container, &stream.container)
            && fits(&self.node, &stream.node)
            && (!self.of_nodes || stream.pod.is_empty())
    }
}

/// The place of a line among all lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    time: i64,
    stream: u64,
    incarnation: u32,
    start: u64,
}

/// Before all lines.
const BEGIN: Place = Place { time: i64::MIN, stream: 0, incarnation: 0, start: 0 };

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    place: Place,
    batches: Batches,
}

/// Which lines come behind a mark, by when they came to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batches {
    /// Those behind the place: the mark is of a store that did not say more.
    Any,
    /// Those behind the place that came up to this batch.
    UpTo(u64),
    /// Those that came after this batch, wherever they are. If that is no longer known, those behind the place.
    After(u64),
    /// Those behind the place that came after the first batch up to the second.
    Between(u64, u64),
}

impl Batches {
    /// The first and the last batch; the last one of a store that has `newest`, if nothing is said.
    fn ends(self, newest: u64) -> (Option<u64>, u64) {
        match self {
            Batches::Any => (None, newest),
            Batches::UpTo(to) => (None, to),
            Batches::After(from) => (Some(from), newest),
            Batches::Between(from, to) => (Some(from), to),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { time, stream, incarnation, start } = self.place;
        write!(out, "{time}.{stream:x}.{incarnation}.{start}")?;
        match self.batches {
            Batches::Any => Ok(()),
            Batches::UpTo(to) => write!(out, "..{to}"),
            Batches::After(from) => write!(out, ".{from}."),
            Batches::Between(from, to) => write!(out, ".{from}.{to}"),
        }
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Mark, ()> {
        let parts: Vec<&str> = text.split('.').collect();
        let [time, stream, incarnation, start, batches @ ..] = parts.as_slice() else { return Err(()) };
        let place = || -> Option<Place> {
            Some(Place {
                time: time.parse().ok()?,
                stream: u64::from_str_radix(stream, 16).ok()?,
                incarnation: incarnation.parse().ok()?,
                start: start.parse().ok()?,
            })
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| ());
        let batches = match batches {
            [] => Batches::Any,
            ["", to] => Batches::UpTo(number(to)?),
            [from, ""] => Batches::After(number(from)?),
            [from, to] => Batches::Between(number(from)?, number(to)?),
            _ => return Err(()),
        };
        Ok(Mark { place: place().ok_or(())?, batches })
    }
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Written to that stream.
    Line(cri::Stream),
    /// None: so many bytes (or lines of a log that numbers them) are missing here.
    Gap(u64),
}

/// A line that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was written.
    pub time: Timestamp,
    /// Which log it is of.
    pub stream: Arc<Stream>,
    /// Where it came from.
    pub source: Source,
    /// It goes on in the stream's next line.
    pub partial: bool,
    /// The text; what is no UTF-8 is replaced.
    pub text: String,
}

/// Some of the lines.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In the order of their times.
    pub entries: Vec<Entry>,
    /// Where to go on, if there may be more.
    pub more: Option<Mark>,
    /// Where to go on with what comes to the store later, once there is no more.
    pub last: Option<Mark>,
}

/// The best lines so far.
pub(crate) struct Search {
    query: Query,
    /// The last line that was told.
    after: Option<Place>,
    arrived: Arrived,
    /// What [`Batches::ends`] said.
    ends: (Option<u64>, u64),
    found: BTreeMap<Place, Entry>,
    bytes: usize,
    /// Lines were found that had no room.
    left_out: bool,
}

impl Search {
    /// A search in a store that has had so many batches.
    pub(crate) fn new(query: Query, arrivals: &Arrivals, newest: u64) -> Search {
        let batches = query.after.map_or(Batches::Any, |mark| mark.batches);
        let (from, to) = batches.ends(newest);
        // Otherwise the store has lost its end.
        let is_there = to <= newest && from.is_none_or(|from| from <= to);
        let arrived = if is_there { arrivals.between(from, to) } else { None };
        let ends = if arrived.is_some() { (from, to) } else { (None, newest) };
        let arrived = arrived.unwrap_or_default();
        let is_anywhere = matches!(batches, Batches::After(_)) && ends.0.is_some();
        let after = query.after.map(|mark| mark.place).filter(|_| !is_anywhere);
        // Without this every page would read again all that the pages before it showed.
        let since = after.map_or(query.since, |after| after.time.max(query.since));
        let since = arrived.first.map_or(since, |first| first.max(since));
        Search {
            query: Query { limit: query.limit.clamp(1, LINES_MAX), since, ..query },
            after,
            arrived,
            ends,
            found: BTreeMap::new(),
            bytes: 0,
            left_out: false,
        }
    }

    pub(crate) fn query(&self) -> &Query {
        &self.query
    }

    /// Whether a block of these times can still have better lines than those found.
    pub(crate) fn wants(&mut self, first: i64, last: i64) -> bool {
        let useful = match (self.is_full(), self.query.newest) {
            (false, _) => true,
            (true, false) => self.found.last_key_value().is_some_and(|(worst, _)| first <= worst.time),
            (true, true) => self.found.first_key_value().is_some_and(|(worst, _)| last >= worst.time),
        };
        self.left_out |= !useful;
        useful
    }

    fn is_full(&self) -> bool {
        self.found.len() >= self.query.limit || self.bytes >= PAGE_BYTES_MAX
    }

    /// Looks through the parts of a block.
    pub(crate) fn offer_all(&mut self, parts: &[Part], body: &[u8]) {
        let mut at = 0;
        for part in parts {
            let end = body.len().min(at + part.bytes as usize);
            self.offer(part, &body[at..end]);
            at = end;
        }
    }

    /// Looks through one part.
    pub(crate) fn offer(&mut self, part: &Part, bytes: &[u8]) {
        if !self.query.is_about(&part.stream) || part.last < self.query.since || part.first >= self.query.until {
            return;
        }
        let (stream, hash) = (Arc::new(part.stream.clone()), hash(&part.stream));
        if !self.arrived.is_about(hash) {
            return;
        }
        let place = |time, start| Place { time, stream: hash, incarnation: part.incarnation, start };
        if part.kind == Kind::Gap {
            let missing = part.end - part.start;
            let unit = if part.stream.counts_lines() { "lines" } else { "bytes" };
            let entry = Entry {
                time: Timestamp(part.first.into()),
                stream,
                source: Source::Gap(missing),
                partial: false,
                text: format!(
                    "{missing} {unit} of this log are missing: they were removed before they could be collected"
                ),
            };
            return self.put(place(part.first, part.start), || Some(entry));
        }
        let pattern = self.query.pattern.clone();
        let useful = self.useful();
        for (index, (at, line)) in cri::lines(bytes).enumerate() {
            let stamp = cri::stamp(line);
            if stamp.is_some_and(|stamp| stamp < &useful.first[..]) {
                continue;
            }
            if useful.last.as_ref().is_some_and(|last| stamp.is_some_and(|stamp| stamp > &last[..])) {
                self.left_out = true;
                continue;
            }
            let parsed = cri::read(line, part.first);
            let start = part.start + if part.kind == Kind::Lines { index } else { at } as u64;
            self.put(place(parsed.time, start), || {
                let text = String::from_utf8_lossy(parsed.text);
                pattern.as_ref().is_none_or(|pattern| pattern.is_match(&text)).then(|| Entry {
                    time: Timestamp(parsed.time.into()),
                    stream: stream.clone(),
                    source: Source::Line(parsed.stream),
                    partial: parsed.partial,
                    text: text.into_owned(),
                })
            });
        }
    }

    /// The times that lines of this page can still have.
    fn useful(&self) -> Useful {
        let text = |time: i64| Timestamp(time.into()).rfc3339_nanos().into_bytes();
        let worst = if self.query.newest { self.found.first_key_value() } else { self.found.last_key_value() };
        let worst = worst.map(|(place, _)| place.time).filter(|_| self.is_full());
        let since = self.query.since;
        match worst {
            Some(worst) if self.query.newest => Useful { first: text(worst.max(since)), last: None },
            // What is past `until` is not left out, it is not wanted; only reading it tells.
            Some(worst) if self.query.until == i64::MAX => Useful { first: text(since), last: Some(text(worst)) },
            _ => Useful { first: text(since), last: None },
        }
    }

    fn put(&mut self, place: Place, make: impl FnOnce() -> Option<Entry>) {
        let timely = place.time >= self.query.since && place.time < self.query.until;
        if !timely || self.after.is_some_and(|after| place <= after) {
            return;
        }
        if !self.arrived.has(place.stream, (place.incarnation, place.start)) {
            return;
        }
        let worst = if self.query.newest { self.found.first_key_value() } else { self.found.last_key_value() };
        let worse = worst.is_some_and(|(worst, _)| if self.query.newest { place < *worst } else { place > *worst });
        if worse && self.is_full() {
            self.left_out = true;
            return;
        }
        let Some(entry) = make() else { return };
        self.bytes += entry.cost();
        if let Some(twice) = self.found.insert(place, entry) {
            self.bytes -= twice.cost();
        }
        self.trim();
    }

    /// Lets the worst go while the page is full without them.
    fn trim(&mut self) {
        loop {
            let many = self.found.len() > self.query.limit;
            let worst = if self.query.newest { self.found.first_entry() } else { self.found.last_entry() };
            let Some(worst) = worst else { return };
            let cost = worst.get().cost();
            if !many && self.bytes - cost < PAGE_BYTES_MAX {
                return;
            }
            worst.remove();
            self.bytes -= cost;
            self.left_out = true;
        }
    }

    pub(crate) fn finish(self) -> Page {
        let (from, to) = self.ends;
        let found = self.found.last_key_value().map(|(place, _)| *place);
        let rest = from.map_or(Batches::UpTo(to), |from| Batches::Between(from, to));
        let more = found.filter(|_| self.left_out && !self.query.newest);
        // Also if nothing was found: what comes from now on is new.
        let last = found.max(self.query.after.map(|mark| mark.place)).unwrap_or(BEGIN);
        Page {
            entries: self.found.into_values().collect(),
            more: more.map(|place| Mark { place, batches: rest }),
            last: Some(Mark { place: last, batches: Batches::After(to) }),
        }
    }
}

/// Times as lines begin with them: most lines of the blocks around a page are passed over without being read.
struct Useful {
    first: Vec<u8>,
    last: Option<Vec<u8>>,
}

impl Entry {
    fn cost(&self) -> usize {
        self.text.len() + size_of::<Entry>()
    }
}

/// Over the names, each ended: orders streams, protects nothing.
pub(crate) fn hash(stream: &Stream) -> u64 {
    let Stream { node, namespace, pod, uid, container, run } = stream;
    let bytes = [node, namespace, pod, uid, container, run].into_iter().flat_map(|name| name.bytes().chain([0]));
    base::fnv1a(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back() {
        for text in ["-7.1f.2.3", "-7.1f.2.3..9", "-7.1f.2.3.8.", "-7.1f.2.3.8.9"] {
            assert_eq!(text.parse::<Mark>().map(|mark| mark.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "1.2.3", "1.2.3.x", "1.2.3.4.5", "1.2.3.4.5.6.7", "1.2.3.4..", "1.2.3.4.x."] {
            assert_eq!(text.parse::<Mark>(), Err(()), "{text}");
        }
    }
}
