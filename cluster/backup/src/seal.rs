//! Encryption of a file's records with a key that only its owner has.
//!
//! Start at [`Key::read`]; [`Sealing`] encrypts what is written to it, [`Opening`] decrypts what is read from it.
//!
//! ```text
//! sealed   (length, ChaCha20-Poly1305(at most 64 KiB))*, each with its number as nonce, the last one with a mark in it
//! ```
//!
//! Invariants:
//! * no two files share a key: each has a salt of its own, from the operating system's randomness;
//! * chunks cannot be changed, exchanged, left out or cut off, and neither can the lines before them: they are in the key too.
//!
//! Not here: passphrases. A key is a file of random bytes (`head -c 32 /dev/urandom`); what a person can remember is not worth
//! the time a small board would need to make a key of it.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::{fmt, fs};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use crate::BackupError;
use crate::error::Doing;

/// A chunk holds so many bytes before it is encrypted.
const CHUNK_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;
/// A key is at least as long as what it is made into, and no longer than any sensible file.
const KEY_BYTES_MIN: usize = 32;
const KEY_BYTES_MAX: u64 = 64 << 10;
const SALT_BYTES: usize = 32;

/// What a key file holds.
#[derive(Clone)]
pub struct Key(Arc<Vec<u8>>);

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Key(..)")
    }
}

impl Key {
    /// Reads a key file.
    pub fn read(path: &Path) -> Result<Key, BackupError> {
        let length = fs::metadata(path).doing("look at", path)?.len();
        let unfit = |detail| Err(BackupError::UnfitKey { path: path.to_owned(), detail });
        match length {
            _ if length > KEY_BYTES_MAX => return unfit("it is longer than 64 KiB"),
            _ if length < KEY_BYTES_MIN as u64 => return unfit("it has fewer than 32 bytes"),
            _ => {}
        }
        Ok(Key(Arc::new(fs::read(path).doing("read", path)?)))
    }

    /// The key of the file with this salt, whose first lines are `head`.
    fn of_file(&self, salt: &[u8], head: &[u8]) -> LessSafeKey {
        let secret = Salt::new(HKDF_SHA256, salt).extract(&self.0);
        let info = [head];
        let made = secret.expand(&info, &CHACHA20_POLY1305).expect("its length is the algorithm's");
        LessSafeKey::new(UnboundKey::from(made))
    }
}

/// A salt for a new file, as text.
pub(crate) fn salt() -> io::Result<String> {
    let mut salt = [0; SALT_BYTES];
    let filled = SystemRandom::new().fill(&mut salt);
    filled.map_err(|_| io::Error::other("the operating system has no randomness"))?;
    Ok(salt.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Encrypts.
pub(crate) struct Sealing<W> {
    out: W,
    key: LessSafeKey,
    count: u64,
    chunk: Vec<u8>,
}

impl<W: Write> Sealing<W> {
    pub(crate) fn new(out: W, key: &Key, salt: &str, head: &[u8]) -> Sealing<W> {
        Sealing {
            out,
            key: key.of_file(salt.as_bytes(), head),
            count: 0,
            chunk: Vec::with_capacity(CHUNK_BYTES + TAG_BYTES),
        }
    }

    /// Encrypts what is left, as the last chunk, and gives back what was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        Ok(self.out)
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        let sealed = self.key.seal_in_place_append_tag(nonce(self.count, last), Aad::empty(), &mut self.chunk);
        sealed.map_err(|_| io::Error::other("a chunk cannot be encrypted"))?;
        self.count += 1;
        self.out.write_all(&(self.chunk.len() as u32).to_le_bytes())?;
        self.out.write_all(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() == CHUNK_BYTES {
            self.seal(false)?;
        }
        let length = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        // A chunk is written when it is full: how often somebody flushes must not show in the file.
        Ok(())
    }
}

/// Decrypts.
pub(crate) struct Opening<R> {
    input: R,
    key: LessSafeKey,
    count: u64,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: Read> Opening<R> {
    pub(crate) fn new(input: R, key: &Key, salt: &str, head: &[u8]) -> Opening<R> {
        let key = key.of_file(salt.as_bytes(), head);
        Opening { input, key, count: 0, chunk: Vec::new(), at: 0, ended: false }
    }

    fn open(&mut self) -> io::Result<()> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > CHUNK_BYTES + TAG_BYTES {
            return Err(io::Error::other("a chunk is too long"));
        }
        let mut sealed = vec![0; length];
        self.input.read_exact(&mut sealed)?;
        // The last chunk is one that has the mark; which it is shows only when it is tried.
        let mut chunk = sealed.clone();
        let opened =
            self.key.open_in_place(nonce(self.count, false), Aad::empty(), &mut chunk).map(|bytes| bytes.len());
        let length = match opened {
            Ok(length) => length,
            Err(_) => {
                chunk = sealed;
                let opened = self.key.open_in_place(nonce(self.count, true), Aad::empty(), &mut chunk);
                self.ended = true;
                opened.map_err(|_| io::Error::other("it was encrypted with another key"))?.len()
            }
        };
        chunk.truncate(length);
        (self.chunk, self.at, self.count) = (chunk, 0, self.count + 1);
        Ok(())
    }
}

impl<R: Read> Read for Opening<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            if self.ended {
                return Ok(0);
            }
            self.open()?;
        }
        let length = out.len().min(self.chunk.len() - self.at);
        out[..length].copy_from_slice(&self.chunk[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

fn nonce(count: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&count.to_be_bytes());
    bytes[11] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &str = "salt";

    fn key(text: &str) -> Key {
        Key(Arc::new(text.as_bytes().to_vec()))
    }

    fn sealed(bytes: &[u8]) -> Vec<u8> {
        let mut sealing = Sealing::new(Vec::new(), &key("one"), SALT, b"head");
        sealing.write_all(bytes).expect("memory takes it");
        sealing.finish().expect("memory takes it")
    }

    fn opened(bytes: &[u8], with: &str, head: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Opening::new(bytes, &key(with), SALT, head).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn what_is_sealed_is_opened_by_the_same_key_only() {
        for length in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let bytes = vec![7; length];
            assert_eq!(opened(&sealed(&bytes), "one", b"head").expect("it is the key"), bytes, "{length} bytes");
        }
        assert!(opened(&sealed(b"x"), "two", b"head").is_err());
        assert!(opened(&sealed(b"x"), "one", b"other head").is_err());
        assert!(!sealed(b"secret").windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn chunks_cannot_be_left_out_exchanged_or_cut_off() {
        let bytes: Vec<u8> = (0..2 * CHUNK_BYTES + 9).map(|at| (at / CHUNK_BYTES) as u8).collect();
        let sealed = sealed(&bytes);
        let chunk = 4 + CHUNK_BYTES + TAG_BYTES;
        let (first, second, last) = (&sealed[..chunk], &sealed[chunk..2 * chunk], &sealed[2 * chunk..]);
        assert!(opened(&[first, second, last].concat(), "one", b"head").is_ok());
        for wrong in [vec![first, second], vec![first, last], vec![second, first, last], vec![last], vec![]] {
            assert!(opened(&wrong.concat(), "one", b"head").is_err());
        }
    }

    #[test]
    fn a_key_that_is_no_key_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        fs::write(&path, "short").expect("written");
        let error = Key::read(&path).err().expect("it is too short").to_string();
        assert_eq!(error, format!("{} is no key: it has fewer than 32 bytes", path.display()));
        fs::write(&path, [7; 32]).expect("written");
        assert!(Key::read(&path).is_ok());
        assert!(Key::read(&folder.path().join("none")).is_err());
    }
}
