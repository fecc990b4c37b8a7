//! Bootstrap tokens: a short secret by which a machine and a cluster that never met come to trust each other.
//!
//! Start at [`BootstrapToken`]; it reads `id.secret`, as Kubernetes writes it. The id is public, the secret is not.
//!
//! Invariants:
//! * a secret comes from the operating system's randomness, and is never printed;
//! * secrets and signatures are compared in constant time.
//!
//! Not here: where tokens are kept and when they end (Secrets of type `bootstrap.kubernetes.io/token`).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::PkiError;

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    id: String,
    secret: String,
}

/// What was given is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bootstrap token has the form abcdef.0123456789abcdef: 6 and 16 lower-case letters or digits")]
pub struct NoToken;

impl BootstrapToken {
    /// A new one.
    pub fn make() -> Result<BootstrapToken, PkiError> {
        Ok(BootstrapToken { id: letters(ID_LENGTH)?, secret: letters(SECRET_LENGTH)? })
    }

    /// The public part.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The part that proves it.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Whether this is its secret.
    pub fn has_secret(&self, secret: &[u8]) -> bool {
        same(self.secret.as_bytes(), secret)
    }

    /// Signs a text: a JSON Web Signature without the text (`header..signature`), byte for byte as kubeadm expects it.
    pub fn sign(&self, text: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{}"}}"#, self.id));
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(text));
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
    }

    /// Whether somebody who knows the token signed this text.
    pub fn signed(&self, text: &str, signature: &str) -> bool {
        same(self.sign(text).as_bytes(), signature.as_bytes())
    }
}

impl FromStr for BootstrapToken {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<BootstrapToken, NoToken> {
        let (id, secret) = text.split_once('.').ok_or(NoToken)?;
        let fits = |part: &str, length| part.len() == length && part.bytes().all(|byte| ALPHABET.contains(&byte));
        match fits(id, ID_LENGTH) && fits(secret, SECRET_LENGTH) {
            true => Ok(BootstrapToken { id: id.to_owned(), secret: secret.to_owned() }),
            false => Err(NoToken),
        }
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "BootstrapToken({}.…)", self.id)
    }
}

fn letters(count: usize) -> Result<String, PkiError> {
    let failed = |_| PkiError::Key { whose: "a bootstrap token".to_owned(), detail: "no randomness".to_owned() };
    let mut text = String::new();
    while text.len() < count {
        let mut byte = [0u8];
        SystemRandom::new().fill(&mut byte).map_err(failed)?;
        // Bytes beyond the last whole alphabet would make its first letters likelier.
        if usize::from(byte[0]) < ALPHABET.len() * 7 {
            text.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
        }
    }
    Ok(text)
}

/// Compares digests under a key that nobody knows, so that the time taken tells nothing.
fn same(left: &[u8], right: &[u8]) -> bool {
    let Ok(key) = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()) else { return false };
    hmac::verify(&key, left, hmac::sign(&key, right).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_kubernetes_writes_it() {
        let token: BootstrapToken = "abcdef.0123456789abcdef".parse().expect("a token");
        assert_eq!((token.id(), token.secret()), ("abcdef", "0123456789abcdef"));
        assert_eq!(format!("{token:?}"), "BootstrapToken(abcdef.…)");
        for wrong in
            ["", "abcdef", "abcdef.", "abcde.0123456789abcdef", "Abcdef.0123456789abcdef", "abcdef.0123456789abcde\n"]
        {
            assert_eq!(wrong.parse::<BootstrapToken>(), Err(NoToken), "{wrong}");
        }
    }

    #[test]
    fn a_new_token_reads_back_and_differs() {
        let (one, two) = (BootstrapToken::make().expect("a token"), BootstrapToken::make().expect("a token"));
        assert_eq!(format!("{}.{}", one.id(), one.secret()).parse(), Ok(one.clone()));
        assert_ne!(one, two);
    }

    #[test]
    fn a_signature_proves_the_secret() {
        let token: BootstrapToken = "abcdef.0123456789abcdef".parse().expect("a token");
        let other: BootstrapToken = "abcdef.0123456789abcdee".parse().expect("a token");
        let signature = token.sign("text");
        // `{"alg":"HS256","kid":"abcdef"}`, and nothing where the text would stand.
        assert!(signature.starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9.."), "{signature}");
        assert!(token.signed("text", &signature));
        assert!(!token.signed("other text", &signature) && !other.signed("text", &signature));
        assert!(token.has_secret(b"0123456789abcdef") && !token.has_secret(b""));
    }
}
