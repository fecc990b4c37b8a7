//! How large a layer may be. Whether it is what its digest says is known only when all of it has been read, so that until then
//! a peer or a registry could send whatever fills a disk or a memory.
//!
//! Start at [`Limit`]; a [`Meter`] counts what passes.
//!
//! Invariants:
//! * a layer unpacks to no more than [`RATIO_MAX`] times its packed size, where that is known, and never to more than
//!   [`LAYER_BYTES_MAX`];
//! * the disk keeps [`reserve`] free, whatever size was named;
//! * what describes one file is held in memory, and is no longer than [`HEADERS_BYTES_MAX`].
//!
//! Not here: images that somebody with rights on this machine puts here; those may be of any size.

use std::cell::RefCell;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use crate::digest::Digest;
use crate::error::OciError;

/// The largest layer, packed or not. The largest in use, of machine learning, are a third of it.
pub(crate) const LAYER_BYTES_MAX: u64 = 32 << 30;
/// Programs pack to a third or a tenth; empty databases, which are mostly zeros, to a hundredth.
const RATIO_MAX: u64 = 200;
/// A small layer may hold so much, however well it packs.
const SMALL_BYTES: u64 = 64 << 20;
/// Names and attributes of one file.
const HEADERS_BYTES_MAX: u64 = 1 << 20;
/// The free space is looked at so often.
const LOOK_EVERY: u64 = 8 << 20;
/// What stays free: a twentieth of the disk, but at most this. Datastore, logs and pods write to it too.
const RESERVE_BYTES_MAX: u64 = 1 << 30;

/// How much of a layer is taken.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    /// The layer, its image, and where it is from.
    what: String,
    bytes_max: u64,
    /// Where that number comes from.
    why: String,
    keeps_reserve: bool,
}

impl Limit {
    /// None, for what is this machine's own.
    pub(crate) fn none() -> Limit {
        Limit { what: String::new(), bytes_max: u64::MAX, why: String::new(), keeps_reserve: false }
    }

    /// For the packed bytes of a layer; `size` is what its manifest says, 0 if it does not.
    pub(crate) fn packed(layer: &str, image: &str, from: &str, size: u64) -> Limit {
        let why = if size == 0 { String::new() } else { ", which is what its manifest says".to_owned() };
        Limit { why, ..Limit::of(layer, image, from, if size == 0 { LAYER_BYTES_MAX } else { size }) }
    }

    /// For the unpacked bytes of a layer, which packed was so large, if that is known.
    pub(crate) fn unpacked(layer: &Digest, image: &str, from: &str, packed: Option<u64>) -> Limit {
        let Some(packed) = packed.filter(|size| *size > 0) else {
            return Limit::of(&layer.to_string(), image, from, LAYER_BYTES_MAX);
        };
        let bytes_max = packed.saturating_mul(RATIO_MAX).max(SMALL_BYTES);
        let why = format!(" when unpacked, for the {packed} that it has packed");
        Limit { why, ..Limit::of(&layer.to_string(), image, from, bytes_max) }
    }

    fn of(layer: &str, image: &str, from: &str, bytes_max: u64) -> Limit {
        let what = format!("layer {layer} of {image} from {from}");
        Limit { what, bytes_max: bytes_max.min(LAYER_BYTES_MAX), why: String::new(), keeps_reserve: true }
    }

    /// Whether so many bytes are too many, where so much is free of so much.
    pub(crate) fn check(&self, bytes: u64, space: (u64, u64)) -> Result<(), OciError> {
        if bytes > self.bytes_max {
            return Err(self.exceeded(format!("it has more than {} bytes{}", self.bytes_max, self.why)));
        }
        self.check_space(bytes, space)
    }

    /// Whether so many more fit.
    fn check_space(&self, more: u64, (free, all): (u64, u64)) -> Result<(), OciError> {
        let reserve = reserve(all);
        if self.keeps_reserve && free.saturating_sub(more) < reserve {
            let detail = format!("the disk has {free} bytes left, of which {reserve} stay free");
            return Err(self.exceeded(detail));
        }
        Ok(())
    }

    fn exceeded(&self, detail: String) -> OciError {
        OciError::TooLarge { what: self.what.clone(), detail }
    }
}

/// What stays free of a disk of this size.
fn reserve(all: u64) -> u64 {
    (all / 20).min(RESERVE_BYTES_MAX)
}

/// Counts the bytes of one layer on their way to `folder`.
pub(crate) struct Meter<'a> {
    limit: &'a Limit,
    folder: &'a Path,
    passed: u64,
    looked_at: u64,
    /// Up to where there is nothing but headers.
    headers_end: Option<u64>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(limit: &'a Limit, folder: &'a Path) -> Meter<'a> {
        Meter { limit, folder, passed: 0, looked_at: 0, headers_end: None }
    }

    /// Begins again at this many.
    pub(crate) fn set(&mut self, passed: u64) {
        (self.passed, self.looked_at) = (passed, passed);
    }

    /// So many more have come.
    pub(crate) fn pass(&mut self, bytes: u64) -> Result<(), OciError> {
        self.passed = self.passed.saturating_add(bytes);
        if self.headers_end.is_some_and(|end| self.passed > end) {
            let detail = format!("what describes one of its files has more than {HEADERS_BYTES_MAX} bytes");
            return Err(self.limit.exceeded(detail));
        }
        if self.passed > self.limit.bytes_max {
            return self.limit.check(self.passed, (0, 0));
        }
        if self.passed - self.looked_at >= LOOK_EVERY {
            self.looked_at = self.passed;
            self.limit.check_space(0, sys::files::space(self.folder)?)?;
        }
        Ok(())
    }
}

/// A [`Meter`] for several readers; clones are the same one.
#[derive(Clone)]
pub(crate) struct Metering<'a>(Rc<RefCell<(Meter<'a>, Option<OciError>)>>);

impl<'a> Metering<'a> {
    pub(crate) fn new(meter: Meter<'a>) -> Metering<'a> {
        Metering(Rc::new(RefCell::new((meter, None))))
    }

    /// A reader that fails where too much comes out of it.
    pub(crate) fn tap<R: Read>(&self, inner: R) -> Metered<'a, R> {
        Metered { inner, meter: self.clone() }
    }

    /// From here on come headers, after so many bytes that nobody read.
    pub(crate) fn headers_begin(&self, unread: u64) {
        let meter = &mut self.0.borrow_mut().0;
        meter.headers_end = Some(meter.passed.saturating_add(unread).saturating_add(HEADERS_BYTES_MAX));
    }

    /// From here on comes content.
    pub(crate) fn headers_end(&self) {
        self.0.borrow_mut().0.headers_end = None;
    }

    /// Why a reader failed, if it was too much. What comes out of those who read from it may hide that.
    pub(crate) fn reason(&self) -> Option<OciError> {
        self.0.borrow_mut().1.take()
    }
}

/// See [`Metering::tap`].
pub(crate) struct Metered<'a, R> {
    inner: R,
    meter: Metering<'a>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        let (meter, reason) = &mut *self.meter.0.borrow_mut();
        meter.pass(length as u64).map_err(|error| {
            let told = io::Error::other(error.to_string());
            reason.get_or_insert(error);
            told
        })?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: (u64, u64) = (1 << 40, 1 << 40);
    const MIB: u64 = 1 << 20;

    #[track_caller]
    fn check(limit: &Limit, bytes: u64, space: (u64, u64), expected: &str) {
        let found = limit.check(bytes, space).map_or_else(|error| error.to_string(), |()| String::new());
        assert_eq!(found, expected);
    }

    fn unpacked(packed: Option<u64>) -> Limit {
        Limit::unpacked(&Digest::of(b""), "app:1", "node-2", packed)
    }

    const EMPTY: &str = "layer sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_manifest_says_how_long_a_packed_layer_is() {
        let limit = Limit::packed("sha256:1", "app:1", "registry.example", 100);
        check(&limit, 100, PLENTY, "");
        let said = "layer sha256:1 of app:1 from registry.example is too large: it has more than 100 bytes, \
                    which is what its manifest says";
        check(&limit, 101, PLENTY, said);
        check(&Limit::packed("sha256:1", "app:1", "x", 0), LAYER_BYTES_MAX, PLENTY, "");
        assert!(Limit::packed("sha256:1", "app:1", "x", u64::MAX).check(LAYER_BYTES_MAX + 1, PLENTY).is_err());
    }

    #[test]
    fn an_unpacked_layer_is_no_bomb() {
        check(&unpacked(Some(MIB)), 200 * MIB, PLENTY, "");
        let said = format!(
            "{EMPTY} of app:1 from node-2 is too large: it has more than 209715200 bytes when unpacked, \
             for the 1048576 that it has packed"
        );
        check(&unpacked(Some(MIB)), 200 * MIB + 1, PLENTY, &said);
        check(&unpacked(Some(1)), SMALL_BYTES, PLENTY, "");
        assert!(unpacked(Some(1)).check(SMALL_BYTES + 1, PLENTY).is_err());
        assert!(unpacked(None).check(LAYER_BYTES_MAX + 1, PLENTY).is_err());
    }

    #[test]
    fn some_of_the_disk_stays_free() {
        check(&unpacked(None), 90, (95, 100), "");
        let said =
            format!("{EMPTY} of app:1 from node-2 is too large: the disk has 95 bytes left, of which 5 stay free");
        check(&unpacked(None), 91, (95, 100), &said);
        assert_eq!(reserve(1 << 40), RESERVE_BYTES_MAX);
        check(&Limit::none(), u64::MAX, (0, 100), "");
    }

    #[test]
    fn headers_have_a_limit_of_their_own() {
        let limit = unpacked(None);
        let folder = std::env::temp_dir();
        let metering = Metering::new(Meter::new(&limit, &folder));
        let read = |bytes: u64| io::copy(&mut metering.tap(io::repeat(0)).take(bytes), &mut io::sink());
        metering.headers_begin(10);
        read(HEADERS_BYTES_MAX).expect("allowed");
        metering.headers_end();
        read(HEADERS_BYTES_MAX).expect("content");
        metering.headers_begin(10);
        read(HEADERS_BYTES_MAX + 10).expect("allowed");
        assert!(metering.reason().is_none());
        read(1).expect_err("too much");
        let reason = metering.reason().expect("a reason").to_string();
        assert!(reason.ends_with("what describes one of its files has more than 1048576 bytes"), "{reason}");
    }
}
