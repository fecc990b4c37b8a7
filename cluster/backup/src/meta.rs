//! The first two lines of a stream or a file: that it is one, and of what.
//!
//! Start at [`Meta::line`] and [`Meta::read`]. They are text, so that `head -2` shows a person what a file is.
//!
//! Invariant: the first line, and that a file ends with its checksum, stay the same in every format to come; so a damaged file
//! is never taken for a newer one.

use std::io::{self, BufRead, Read};

use base::Timestamp;
use serde::{Deserialize, Serialize};

/// The newest format this release reads and writes.
pub const FORMAT: u32 = SEALED;
/// Records as they are.
const PLAIN: u32 = 1;
/// Records encrypted; a third line is the salt of the key.
const SEALED: u32 = 2;
/// How the first line begins.
pub(crate) const MAGIC: &str = "skerry-backup ";
/// Neither line is longer.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Which cluster, when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The uid of its `kube-system` namespace, which is a cluster's identity.
    pub cluster: String,
    /// The release that took the snapshot.
    pub version: String,
    /// The revision the snapshot is a picture of.
    pub revision: u64,
    /// When it was taken, by that server's clock, as RFC 3339.
    pub time: String,
}

/// The first lines, as they were read.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) meta: Meta,
    /// Of a file that is encrypted.
    pub(crate) salt: Option<String>,
    /// The lines themselves.
    pub(crate) bytes: Vec<u8>,
}

/// What the first two lines are instead.
#[derive(Debug)]
pub(crate) enum NotMeta {
    /// The first line is another's.
    Foreign,
    /// The format is newer than [`FORMAT`].
    Newer(u32),
    /// They cannot be read.
    Broken(String),
}

impl Meta {
    /// The first two lines.
    pub fn lines(&self) -> Vec<u8> {
        self.head(PLAIN)
    }

    /// The first three lines of a file that is encrypted.
    pub(crate) fn sealed_lines(&self, salt: &str) -> Vec<u8> {
        [&self.head(SEALED)[..], salt.as_bytes(), b"\n"].concat()
    }

    fn head(&self, format: u32) -> Vec<u8> {
        let json = serde_json::to_string(self).expect("four plain fields can be written");
        format!("{MAGIC}{format}\n{json}\n").into_bytes()
    }

    /// When it was taken.
    pub fn taken(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }

    /// Reads the first lines, and nothing behind them.
    pub(crate) fn read(input: &mut impl BufRead) -> Result<Head, NotMeta> {
        let first = line(input).map_err(|error| NotMeta::Broken(error.to_string()))?;
        let number = first.strip_prefix(MAGIC.as_bytes()).ok_or(NotMeta::Foreign)?;
        let number = std::str::from_utf8(number).ok().and_then(|text| text.trim_end().parse::<u32>().ok());
        let format = number.ok_or_else(|| NotMeta::Broken("its first line has no format".to_owned()))?;
        if format > FORMAT {
            return Err(NotMeta::Newer(format));
        }
        let second = line(input).map_err(|error| NotMeta::Broken(error.to_string()))?;
        let meta = serde_json::from_slice(&second);
        let meta = meta.map_err(|error| NotMeta::Broken(format!("its second line is not understood: {error}")))?;
        let mut head = Head { meta, salt: None, bytes: [first, second].concat() };
        if format == SEALED {
            let third = line(input).map_err(|error| NotMeta::Broken(error.to_string()))?;
            head.salt = Some(String::from_utf8_lossy(&third).trim_end().to_owned());
            head.bytes.extend(third);
        }
        Ok(head)
    }
}

fn line(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
    if bytes.last() == Some(&b'\n') { Ok(bytes) } else { Err(io::Error::other("a line has no end")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn meta() -> Meta {
        let text = |text: &str| text.to_owned();
        Meta { cluster: text("4711"), version: text("v1"), revision: 7, time: text("2026-11-25T01:00:00Z") }
    }

    #[track_caller]
    fn check(text: &str, wanted: &str) {
        let read = match Meta::read(&mut text.as_bytes()) {
            Ok(head) => {
                format!("at {}{}", head.meta.revision, head.salt.map(|salt| format!(" {salt}")).unwrap_or_default())
            }
            Err(NotMeta::Foreign) => "foreign".to_owned(),
            Err(NotMeta::Newer(format)) => format!("newer {format}"),
            Err(NotMeta::Broken(_)) => "broken".to_owned(),
        };
        assert_eq!(read, wanted, "{text}");
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = meta().lines();
        let lines = bytes.clone();
        bytes.extend(b"the rest");
        let mut input = &bytes[..];
        let head = Meta::read(&mut input).expect("it is one");
        assert_eq!((head.meta, head.salt, head.bytes), (meta(), None, lines));
        assert_eq!(input, b"the rest");
        assert_eq!(meta().taken().map(Timestamp::rfc3339).as_deref(), Some("2026-11-25T01:00:00Z"));
    }

    #[test]
    fn anything_else_is_told_apart() {
        check("PK\u{3}\u{4}\n", "foreign");
        check("", "broken");
        check("skerry-backup 3\n{}\n", "newer 3");
        check(&String::from_utf8(meta().sealed_lines("abcd")).expect("text"), "at 7 abcd");
        check(&String::from_utf8(meta().head(SEALED)).expect("text"), "broken");
        check("skerry-backup one\n{}\n", "broken");
        check("skerry-backup 1\n{}\n", "broken");
        check("skerry-backup 1\n{\"cluster\":\"", "broken");
    }
}
