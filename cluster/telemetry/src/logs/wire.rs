//! What a collector sends to the store, and what it hears back.
//!
//! Start at [`Batch`]. It travels packed (`packed.rs`); the answers are JSON.
//!
//! Invariant: a chunk's bytes are whole lines, and as many as its two ends say; [`Batch::decode`] lets nothing else through.

use serde::{Deserialize, Serialize};

use crate::packed;

/// A batch is no larger than this when it is unpacked.
pub const BATCH_BYTES_MAX: usize = 2 << 20;
/// A name that is longer is none of Kubernetes'.
const NAME_BYTES_MAX: usize = 512;

/// Which log: of a container, or of a node itself (then namespace and pod are empty).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stream {
    /// The node it was written on.
    pub node: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The pod's uid; for the kernel's log the boot's id.
    pub uid: String,
    /// The container; for a node's own log what it is, such as `kernel`.
    pub container: String,
    /// Which run of the container: `0` for the first; for a node's own file which file, and empty for the kernel's log.
    pub run: String,
}

impl Stream {
    /// Whether a place in it is a line: the kernel's log alone numbers its lines, and it alone has no runs.
    pub(crate) fn counts_lines(&self) -> bool {
        self.pod.is_empty() && self.run.is_empty()
    }
}

/// How far the store has a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Counts up when another log appeared under the same name.
    pub incarnation: u32,
    /// The place behind the last stored byte.
    pub end: u64,
    /// The checksum of the last stored line, newline included: tells a log from another one of the same name. 0 for none.
    pub check: u32,
}

/// What a chunk holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// The log's bytes: a place is a byte.
    Bytes(Vec<u8>),
    /// Lines of a log that numbers its lines: a place is a line.
    Lines(Vec<u8>),
    /// They were removed before they could be read.
    Gap,
}

/// A piece of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Of which stream.
    pub stream: Stream,
    /// Of which log of that name.
    pub incarnation: u32,
    /// Its first place.
    pub start: u64,
    /// The place behind its last one.
    pub end: u64,
    /// What is there.
    pub content: Content,
}

/// Pieces of any streams, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The pieces.
    pub chunks: Vec<Chunk>,
}

/// What became of a chunk: where the store's stream ends now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// One position for each chunk, in the same order.
    pub positions: Vec<Position>,
}

/// Where the store has the streams of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Each stream and its position.
    pub streams: Vec<(Stream, Position)>,
}

/// Bytes that are no batch.
#[derive(Debug, thiserror::Error)]
#[error("the batch of log lines is not usable: {0}")]
pub struct WireError(String);

impl Batch {
    /// Packs it.
    pub fn encode(&self) -> Vec<u8> {
        packed::pack(self)
    }

    /// Unpacks and checks it.
    pub fn decode(packed: &[u8]) -> Result<Batch, WireError> {
        let batch: Batch = packed::unpack(packed, BATCH_BYTES_MAX).map_err(WireError)?;
        match batch.chunks.iter().find_map(Chunk::trouble) {
            Some(trouble) => Err(WireError(trouble.to_owned())),
            None => Ok(batch),
        }
    }
}

impl Chunk {
    /// What is wrong with a chunk from outside.
    fn trouble(&self) -> Option<&'static str> {
        let Stream { node, namespace, pod, uid, container, run } = &self.stream;
        let names = [node, namespace, pod, uid, container, run];
        if node.is_empty() || container.is_empty() || names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
            return Some("a stream has no node, no container, or a name that is too long");
        }
        let Some(places) = self.end.checked_sub(self.start).filter(|places| *places > 0) else {
            return Some("a chunk ends before it begins");
        };
        let fits = match &self.content {
            Content::Bytes(bytes) => bytes.len() as u64 == places && bytes.ends_with(b"\n"),
            Content::Lines(bytes) => {
                bytes.ends_with(b"\n") && bytes.iter().filter(|byte| **byte == b'\n').count() as u64 == places
            }
            Content::Gap => true,
        };
        (!fits).then_some("a chunk holds other bytes than it says")
    }
}

/// The checksum of a line, newline included.
pub fn check(line: &[u8]) -> u32 {
    if line.is_empty() {
        return 0;
    }
    let mut sum = flate2::Crc::new();
    sum.update(line);
    sum.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(start: u64, end: u64, content: Content) -> Batch {
        let stream = Stream { node: "n".into(), container: "c".into(), ..Stream::default() };
        Batch { chunks: vec![Chunk { stream, incarnation: 0, start, end, content }] }
    }

    fn check(batch: &Batch, ok: bool) {
        assert_eq!(Batch::decode(&batch.encode()).ok().as_ref(), Some(batch).filter(|_| ok));
    }

    #[test]
    fn only_what_fits_its_ends_is_let_in() {
        check(&chunk(3, 5, Content::Bytes(b"a\n".to_vec())), true);
        check(&chunk(3, 6, Content::Bytes(b"a\n".to_vec())), false);
        check(&chunk(3, 5, Content::Bytes(b"ab".to_vec())), false);
        check(&chunk(7, 9, Content::Lines(b"a\nbc\n".to_vec())), true);
        check(&chunk(7, 8, Content::Lines(b"a\nbc\n".to_vec())), false);
        check(&chunk(7, 9, Content::Gap), true);
        check(&chunk(9, 7, Content::Gap), false);
        check(&chunk(7, 7, Content::Gap), false);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&b""[..], b"nonsense", &zstd::bulk::compress(&[0xff; 40], 1).expect("packed")] {
            assert!(Batch::decode(bytes).is_err());
        }
        let bomb = zstd::bulk::compress(&vec![0; BATCH_BYTES_MAX + 1], 1).expect("packed");
        assert!(Batch::decode(&bomb).is_err());
    }
}
