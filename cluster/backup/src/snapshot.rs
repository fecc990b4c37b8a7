//! A store's objects and a cluster's keys as a stream.
//!
//! Start at [`snapshot`].
//!
//! The objects are shared with the store, not copied: a snapshot costs the pointers to them and one frame, and old versions
//! live until it has passed them. Writers wait for as long as it takes to copy the pointers, which is the price of any list.
//! Reading page by page at a revision would cost writers less, but it fails where they write faster than it reads. SQLite's
//! own backup would copy pages, and its lazy writes would be missing.

use bytes::Bytes;
use store::{Entry, Page};

use crate::{Meta, RecordWriter};

/// A frame is about so long.
const FRAME_BYTES: usize = 64 << 10;

/// The frames of a snapshot: of `page`, which is everything a store holds, and of the files of its cluster's keys.
pub fn snapshot(page: Page, keys: Vec<(String, Bytes)>, meta: &Meta) -> impl Iterator<Item = Bytes> + Send + 'static {
    let mut writer = RecordWriter::new(Vec::new());
    writer.out().extend(meta.lines());
    Frames { writer: Some(writer), entries: page.entries.into_iter(), keys: keys.into_iter() }
}

struct Frames {
    writer: Option<RecordWriter<Vec<u8>>>,
    entries: std::vec::IntoIter<Entry>,
    keys: std::vec::IntoIter<(String, Bytes)>,
}

impl Iterator for Frames {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut writer = self.writer.take()?;
        while writer.out().len() < FRAME_BYTES {
            // What is larger than a record may be ends the stream early, which whoever reads it notices.
            if let Some(entry) = self.entries.next() {
                writer.object(&entry.key, entry.revision.0, &entry.value).ok()?;
            } else if let Some((path, bytes)) = self.keys.next() {
                writer.file(&path, &bytes).ok()?;
            } else {
                return writer.end().ok().map(Bytes::from);
            }
        }
        let frame = std::mem::take(writer.out());
        self.writer = Some(writer);
        Some(frame.into())
    }
}
