//! Keys that sign bundles, and keys that are trusted to have.
//!
//! Start at [`Secret::generate`] and [`trusted`]. Both kinds are written as one line of hexadecimal digits.

use std::fmt::{self, Write};

use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::Error;

/// A signature's bytes.
pub(crate) const SIGNATURE_BYTES: usize = 64;
const PUBLIC_BYTES: usize = 32;

/// A key that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public([u8; PUBLIC_BYTES]);

/// A key that signs.
pub struct Secret {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

impl Secret {
    /// A new one.
    pub fn generate() -> Result<Secret, Error> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let made = made.map_err(|_| Error::Key("what was made".into(), "the system gave no random bytes"))?;
        Secret::of(made.as_ref().to_vec())
    }

    /// The key in a text; notes begin with `#`.
    pub fn parse(text: &str) -> Result<Secret, Error> {
        let line = lines(text).next().ok_or(Error::Key("an empty file".into(), "there is nothing in it"))?;
        // What is wrong with a secret is told without repeating it.
        let bytes = from_hex(line).ok_or(Error::Key("this secret".into(), "it is not hexadecimal"))?;
        Secret::of(bytes)
    }

    fn of(pkcs8: Vec<u8>) -> Result<Secret, Error> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8);
        let pair = pair.map_err(|_| Error::Key("this secret".into(), "it is not an Ed25519 key in PKCS#8"))?;
        Ok(Secret { pair, pkcs8 })
    }

    /// The text that [`Secret::parse`] reads.
    pub fn to_text(&self) -> String {
        format!(
            "# signs update bundles; whoever has it can put any software on boards that trust it\n{}\n",
            hex(&self.pkcs8)
        )
    }

    /// Its other half.
    pub fn public(&self) -> Public {
        let mut bytes = [0; PUBLIC_BYTES];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        Public(bytes)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        bytes
    }
}

impl Public {
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for Public {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex(&self.0))
    }
}

/// The public keys in a text, one a line; notes begin with `#`.
pub fn trusted(text: &str) -> Result<Vec<Public>, Error> {
    let key = |line: &str| {
        let bytes = from_hex(line).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Public).ok_or_else(|| Error::Key(format!("{line:?}"), "a public key is 64 hexadecimal digits"))
    };
    lines(text).map(key).collect()
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || text.len() % 2 == 1 {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_being_written_down() {
        let key = Secret::generate().unwrap();
        let again = Secret::parse(&key.to_text()).unwrap();
        assert_eq!(again.public(), key.public());
        let text = format!("# ours\n{}  # since May\n", key.public());
        assert_eq!(trusted(&text).unwrap(), [key.public()]);
    }

    fn check(text: &str, expected: &str) {
        let told = trusted(text).map(|keys| keys.len().to_string()).unwrap_or_else(|error| error.to_string());
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_no_key_is_named() {
        check("", "0");
        check("# none\n\n", "0");
        check("abc", "\"abc\" is no key: a public key is 64 hexadecimal digits");
        check("größe", "\"größe\" is no key: a public key is 64 hexadecimal digits");
        check(&"0g".repeat(32), &format!("{:?} is no key: a public key is 64 hexadecimal digits", "0g".repeat(32)));
    }

    #[test]
    fn a_wrong_secret_is_not_repeated() {
        let error = Secret::parse("feedbeef").err().unwrap().to_string();
        assert_eq!(error, "this secret is no key: it is not an Ed25519 key in PKCS#8");
    }
}
