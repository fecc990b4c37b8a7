//! Chance as an input: a small seeded generator, and the ids and names made with it.
//!
//! Start at [`Rng`]. The same seed gives the same numbers on every machine and release, which is what lets a failing
//! simulation be replayed. It is not for secrets: keys and tokens come from the operating system through `ring`.

use std::fmt;

/// A splitmix64 generator (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that gives the sequence belonging to `seed`.
    pub const fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number from 0 to `limit - 1`. `limit` is at least 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0);
        ((u128::from(self.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// True `parts` times out of `whole`, on average.
    pub fn chance(&mut self, parts: u64, whole: u64) -> bool {
        self.below(whole) < parts
    }

    /// A generator of its own for one component, so that components do not disturb each other's sequence.
    pub fn fork(&mut self) -> Rng {
        Rng(self.next_u64())
    }

    /// A random (version 4) UUID.
    pub fn uid(&mut self) -> Uid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next_u64().to_be_bytes());
        bytes[8..].copy_from_slice(&self.next_u64().to_be_bytes());
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Uid(bytes)
    }

    /// `length` characters of the alphabet Kubernetes uses for generated names: no vowels, no look-alikes.
    pub fn suffix(&mut self, length: usize) -> String {
        const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..length).map(|_| char::from(ALPHABET[self.below(ALPHABET.len() as u64) as usize])).collect()
    }
}

/// A UUID as `metadata.uid` carries it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub [u8; 16]);

impl fmt::Display for Uid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                out.write_str("-")?;
            }
            write!(out, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        assert_eq!(Rng::new(7).next_u64(), Rng::new(7).next_u64());
        assert_ne!(Rng::new(7).next_u64(), Rng::new(8).next_u64());
    }

    #[test]
    fn below_stays_below() {
        let mut rng = Rng::new(1);
        assert!((0..1000).all(|_| rng.below(3) < 3));
    }

    #[test]
    fn uids_are_version_4() {
        let text = Rng::new(1).uid().to_string();
        assert_eq!((text.len(), &text[14..15]), (36, "4"));
    }

    #[test]
    fn suffixes_use_the_safe_alphabet() {
        let suffix = Rng::new(5).suffix(64);
        assert_eq!(suffix.len(), 64);
        assert!(!suffix.contains(['a', 'e', 'i', 'o', 'u', 'y', '0', '1', '3']));
    }
}
