//! What a bundle says of its image, and who may take it.
//!
//! Start at [`Head::decode`] and [`Head::suits`]. A head is the first bytes of a bundle's file; a slot keeps the head of what
//! was written into it in its last [`ROOM`] bytes, so that a board can say what it runs.

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::key::{SIGNATURE_BYTES, from_hex, hex};
use crate::{Error, Public, Secret};

/// A file begins so.
pub const MAGIC: [u8; 8] = *b"SKRYUPD1";
/// A head is at most so long, and the end of a slot has so much room for it: enough for 1 GiB in chunks of 64 KiB.
pub const ROOM: u64 = 1 << 20;
/// The chunks of what we make: small enough that a small change touches few, large enough that the list stays short.
pub const CHUNK_BYTES: u32 = 64 << 10;
const FIXED_BYTES: usize = MAGIC.len() + 4 + SIGNATURE_BYTES;
const NAME_BYTES_MAX: usize = 64;
const CHUNK_BYTES_MIN: u32 = 4 << 10;
const CHUNK_BYTES_MAX: u32 = 1 << 20;
/// A board that has not proved itself after a day is not going to.
const CONFIRM_WITHIN_S_MAX: u32 = 24 * 3600;
const CONFIRM_WITHIN_S_MIN: u32 = 10;

/// The SHA-256 of something.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// That of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut sum = [0; 32];
        sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Digest(sum)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "sha256:{}", hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Digest, Error> {
        let bytes = text.strip_prefix("sha256:").and_then(from_hex).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Digest).ok_or_else(|| Error::Header(format!("{text:?} is no digest: one is sha256: and 64 digits")))
    }
}

/// What a bundle says of its image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The image's version, for people.
    pub version: String,
    /// The board it is for.
    pub board: String,
    /// The processor it is for.
    pub arch: String,
    /// Raised when going back would open a hole again.
    pub security_epoch: u32,
    /// The image must have proved itself within so many seconds of its start.
    pub confirm_within_s: u32,
    /// The image's bytes.
    pub image_bytes: u64,
    /// The bytes of each chunk but the last.
    pub chunk_bytes: u32,
    /// The chunks, in order.
    pub chunks: Vec<Digest>,
}

/// What names the bundle that begins with `bytes`, whoever signed it; what is no bundle is named by these bytes themselves.
pub fn name_of(bytes: &[u8]) -> Digest {
    Digest::of(parts(bytes).map_or(bytes, |(header, _)| header))
}

/// What a board is, as far as a bundle must suit it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub board: String,
    /// Its processor.
    pub arch: String,
    /// The security epoch of what it runs.
    pub security_epoch: u32,
    /// What a slot holds, in bytes.
    pub slot_bytes: u64,
}

impl Head {
    /// The head as bytes, signed where there is a key.
    pub fn encode(&self, key: Option<&Secret>) -> Vec<u8> {
        let header = postcard::to_allocvec(self).expect("strings and numbers can always be written");
        let signature = key.map_or([0; SIGNATURE_BYTES], |key| key.sign(&header));
        let length = u32::try_from(header.len()).expect("a header is far shorter than 4 GiB");
        [&MAGIC[..], &length.to_le_bytes(), &signature, &header].concat()
    }

    /// The head at the beginning of `bytes`, its digest and its length there. Whether it is signed is not asked.
    pub fn decode(bytes: &[u8]) -> Result<(Head, Digest, usize), Error> {
        let (header, _) = parts(bytes)?;
        let head: Head = postcard::from_bytes(header).map_err(|error| Error::Header(error.to_string()))?;
        head.check()?;
        Ok((head, Digest::of(header), FIXED_BYTES + header.len()))
    }

    /// The same of bytes that must be signed by one of the `trusted` keys. Nothing unsigned is looked into.
    pub fn decode_signed(bytes: &[u8], trusted: &[Public]) -> Result<(Head, Digest, usize), Error> {
        let (header, signature) = parts(bytes)?;
        if signature.iter().all(|byte| *byte == 0) {
            return Err(Error::Unsigned);
        }
        if trusted.is_empty() {
            return Err(Error::NoTrustedKeys);
        }
        if !trusted.iter().any(|key| key.has_signed(header, signature)) {
            return Err(Error::WronglySigned { trusted: trusted.len() });
        }
        Head::decode(bytes)
    }

    /// Whether `target` may take it.
    pub fn suits(&self, target: &Target) -> Result<(), Error> {
        if (&self.board, &self.arch) != (&target.board, &target.arch) {
            let named = |board: &str, arch: &str| format!("{board} ({arch})");
            return Err(Error::OtherBoard {
                wanted: named(&self.board, &self.arch),
                board: named(&target.board, &target.arch),
            });
        }
        if self.security_epoch < target.security_epoch {
            return Err(Error::Downgraded { epoch: self.security_epoch, reached: target.security_epoch });
        }
        let room = target.slot_bytes.saturating_sub(ROOM);
        if self.image_bytes > room {
            return Err(Error::Oversized { wanted: self.image_bytes, room });
        }
        Ok(())
    }

    /// The bytes of chunk `index`.
    pub fn chunk_len(&self, index: usize) -> usize {
        let left = self.image_bytes - index as u64 * u64::from(self.chunk_bytes);
        left.min(self.chunk_bytes.into()) as usize
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::Header(what));
        for name in [&self.version, &self.board, &self.arch] {
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return wrong(format!("{name:?} is no name: one has up to {NAME_BYTES_MAX} letters, digits and signs"));
            }
        }
        if !self.chunk_bytes.is_power_of_two() || !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes) {
            return wrong(format!("its chunks have {} bytes", self.chunk_bytes));
        }
        if !(CONFIRM_WITHIN_S_MIN..=CONFIRM_WITHIN_S_MAX).contains(&self.confirm_within_s) {
            return wrong(format!("it must be confirmed within {} s", self.confirm_within_s));
        }
        let wanted = self.image_bytes.div_ceil(self.chunk_bytes.into());
        if self.image_bytes == 0 || wanted != self.chunks.len() as u64 {
            return wrong(format!("{} bytes are not {} chunks", self.image_bytes, self.chunks.len()));
        }
        Ok(())
    }
}

/// How long the head is that begins with `bytes`; they need not be all of it.
pub(crate) fn length(bytes: &[u8]) -> Result<usize, Error> {
    if !bytes.starts_with(&MAGIC) {
        return Err(Error::NotABundle);
    }
    let header = bytes.get(MAGIC.len()..MAGIC.len() + 4).and_then(|length| length.try_into().ok());
    let header = header.map(u32::from_le_bytes).ok_or(Error::NotABundle)?;
    let length = FIXED_BYTES as u64 + u64::from(header);
    if length > ROOM {
        return Err(Error::Header(format!("it is {length} bytes long, more than {ROOM}")));
    }
    Ok(length as usize)
}

fn parts(bytes: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let wanted = length(bytes)?;
    let head = bytes.get(..wanted);
    let head = head.ok_or(Error::Truncated { have: bytes.len() as u64, wanted: wanted as u64 })?;
    Ok((&head[FIXED_BYTES..], &head[FIXED_BYTES - SIGNATURE_BYTES..FIXED_BYTES]))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn head() -> Head {
        Head {
            version: "2".into(),
            board: "qemu-arm64".into(),
            arch: "arm64".into(),
            security_epoch: 3,
            confirm_within_s: 600,
            image_bytes: 10_000,
            chunk_bytes: 4096,
            chunks: vec![Digest([1; 32]), Digest([2; 32]), Digest([3; 32])],
        }
    }

    fn target() -> Target {
        Target { board: "qemu-arm64".into(), arch: "arm64".into(), security_epoch: 3, slot_bytes: ROOM + 10_000 }
    }

    fn check(change: impl FnOnce(&mut Target), expected: &str) {
        let mut target = target();
        change(&mut target);
        let told = head().suits(&target).map(|()| "it suits".into()).unwrap_or_else(|error| error.to_string());
        assert_eq!(told, expected);
    }

    #[test]
    fn a_board_takes_what_suits_it() {
        check(|_| {}, "it suits");
        check(|target| target.security_epoch = 2, "it suits");
    }

    #[test]
    fn what_does_not_suit_is_named() {
        check(
            |target| target.board = "rpi4".into(),
            "the bundle is for qemu-arm64 (arm64), and this board is rpi4 (arm64)",
        );
        check(
            |target| target.arch = "amd64".into(),
            "the bundle is for qemu-arm64 (arm64), and this board is qemu-arm64 (amd64)",
        );
        check(
            |target| target.security_epoch = 4,
            "the bundle is a downgrade: its security epoch is 3, and this board has reached 4",
        );
        check(
            |target| target.slot_bytes -= 1,
            "the bundle is oversized: its image takes 10000 bytes, and a slot of this board holds 9999",
        );
        check(
            |target| target.slot_bytes = 5,
            "the bundle is oversized: its image takes 10000 bytes, and a slot of this board holds 0",
        );
    }

    fn check_wrong(change: impl FnOnce(&mut Head), expected: &str) {
        let mut head = head();
        change(&mut head);
        let error = Head::decode(&head.encode(None)).unwrap_err().to_string();
        assert_eq!(error, format!("the bundle's header is wrong: {expected}"));
    }

    #[test]
    fn a_header_that_makes_no_sense_is_refused() {
        check_wrong(|head| head.image_bytes = 0, "0 bytes are not 3 chunks");
        check_wrong(|head| head.image_bytes = 3 * 4096 + 1, "12289 bytes are not 3 chunks");
        check_wrong(|head| head.chunk_bytes = 5000, "its chunks have 5000 bytes");
        check_wrong(|head| head.chunk_bytes = 0, "its chunks have 0 bytes");
        check_wrong(|head| head.confirm_within_s = 0, "it must be confirmed within 0 s");
        let told = "\"a b\" is no name: one has up to 64 letters, digits and signs";
        check_wrong(|head| head.version = "a b".into(), told);
    }

    #[test]
    fn whatever_is_offered_has_a_name() {
        let (unsigned, signed) = (head().encode(None), head().encode(Some(&Secret::generate().unwrap())));
        let digest = Head::decode(&signed).unwrap().1;
        assert_eq!((name_of(&unsigned), name_of(&[&signed[..], b"more"].concat())), (digest, digest));
        assert_eq!(name_of(b"hello"), Digest::of(b"hello"));
        assert_eq!(name_of(&signed[..20]), Digest::of(&signed[..20]));
    }

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("sha256:12".parse::<Digest>().is_err());
    }
}
