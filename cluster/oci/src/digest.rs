//! Digests of content.
//!
//! Start at [`Digest`]; [`Hashing`] computes one while bytes pass.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use ring::digest::{Context, SHA256};

use crate::error::OciError;

/// The SHA-256 of some content, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut context = Context::new(&SHA256);
        context.update(bytes);
        Digest::finish(context)
    }

    fn finish(context: Context) -> Digest {
        Digest(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digits alone: a name for files.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "sha256:{}", self.0)
    }
}

impl FromStr for Digest {
    type Err = OciError;

    fn from_str(text: &str) -> Result<Digest, OciError> {
        let digits = text.strip_prefix("sha256:").filter(|digits| is_hex(digits) && digits.len() == 64);
        digits.map(|digits| Digest(digits.to_owned())).ok_or_else(|| OciError::Malformed {
            what: format!("digest {text:?}"),
            detail: "only sha256 with 64 lower-case digits is known".to_owned(),
        })
    }
}

pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A reader that computes the digest of what passes.
pub(crate) struct Hashing<R> {
    inner: R,
    context: Context,
    /// How many bytes passed.
    pub(crate) length: u64,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Hashing<R> {
        Hashing { inner, context: Context::new(&SHA256), length: 0 }
    }

    /// Reads on to the end, as the digest is that of everything.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64)> {
        let mut buffer = vec![0; 64 << 10];
        while self.read(&mut buffer)? > 0 {}
        Ok((Digest::finish(self.context), self.length))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.context.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>().expect("a digest"), digest);
        for bad in ["sha256:E3", "md5:00", "", "sha256:../../etc/passwd"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
