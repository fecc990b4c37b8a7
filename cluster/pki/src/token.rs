//! ServiceAccount tokens: JSON Web Tokens signed with ES256.
//!
//! Start at [`TokenKey::sign`] and [`TokenKey::verify`].
//!
//! Invariants:
//! * a token is believed only if our key signed exactly its bytes, with exactly our algorithm;
//! * whether the account and the pod still exist is for the caller to ask.

use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde_json::{Value, json};

use crate::{PkiError, der_of_pem};

/// Longer tokens are not looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Clocks may differ by so many seconds.
const LEEWAY_SECONDS: i64 = 60;

/// The key that signs and checks tokens.
pub struct TokenKey {
    key: EcdsaKeyPair,
    id: String,
}

/// The object a token is bound to: it dies with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundObject {
    /// `Pod`, `Secret` or `Node`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The account's namespace.
    pub namespace: String,
    /// The account's name.
    pub service_account: String,
    /// The account's uid.
    pub service_account_uid: String,
    /// What it is bound to.
    pub bound: Option<BoundObject>,
    /// The node of the pod it is bound to: name and uid.
    pub node: Option<(String, String)>,
    /// For whom it is.
    pub audiences: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub issued_at: i64,
    /// When it ends, in seconds since 1970.
    pub expires_at: i64,
    /// Its own id.
    pub id: String,
}

/// Why a token is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has another shape, or another issuer made it.
    #[error("the token is not one of ours")]
    Foreign,
    /// The signature does not fit.
    #[error("the token's signature is wrong")]
    Signature,
    /// It is over, or has not begun.
    #[error("the token has expired or is not valid yet")]
    Expired,
}

impl TokenKey {
    /// Takes up a key in PEM (PKCS#8).
    pub fn load(pem: &str) -> Result<TokenKey, PkiError> {
        let wrong = |detail: &str| PkiError::Key { whose: "service accounts".to_owned(), detail: detail.to_owned() };
        let der = der_of_pem(pem).ok_or_else(|| wrong("it is no PEM"))?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &SystemRandom::new())
            .map_err(|error| wrong(&error.to_string()))?;
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, &spki(key.public_key().as_ref())));
        Ok(TokenKey { key, id })
    }

    /// A new key that lies nowhere, for tests and simulations.
    pub fn ephemeral() -> Result<TokenKey, PkiError> {
        TokenKey::load(&crate::authority::new_key("service accounts")?.serialize_pem())
    }

    /// Signs a token.
    pub fn sign(&self, issuer: &str, claims: &Claims) -> Result<String, PkiError> {
        let header = json!({"alg": "ES256", "kid": self.id, "typ": "JWT"});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut token = format!("{}.{}", encode(&header), encode(&payload(issuer, claims)));
        let signature = self
            .key
            .sign(&SystemRandom::new(), token.as_bytes())
            .map_err(|_| PkiError::Key { whose: "service accounts".to_owned(), detail: "signing failed".to_owned() })?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }

    /// Reads a token that our key signed for that issuer and that is not over. Audiences are the caller's to check.
    pub fn verify(&self, issuer: &str, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Foreign);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Foreign)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Foreign)?;
        let header = decode(header).ok_or(TokenError::Foreign)?;
        if header["alg"] != "ES256" {
            return Err(TokenError::Foreign);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Foreign)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| TokenError::Signature)?;
        let payload = decode(payload).ok_or(TokenError::Foreign)?;
        let claims = claims_of(issuer, &payload).ok_or(TokenError::Foreign)?;
        let begins = payload["nbf"].as_i64().unwrap_or(claims.issued_at);
        let now = now.seconds();
        if now >= claims.expires_at || now < begins - LEEWAY_SECONDS {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }

    /// The public key as a JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        // The point is uncompressed: a byte 4, then x and y of 32 bytes each.
        let point = self.key.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": x, "y": y}]})
    }
}

fn payload(issuer: &str, claims: &Claims) -> Value {
    let mut kubernetes = json!({
        "namespace": claims.namespace,
        "serviceaccount": {"name": claims.service_account, "uid": claims.service_account_uid},
    });
    if let Some(bound) = &claims.bound {
        kubernetes[bound.kind.to_lowercase()] = json!({"name": bound.name, "uid": bound.uid});
    }
    if let Some((name, uid)) = &claims.node {
        kubernetes["node"] = json!({"name": name, "uid": uid});
    }
    json!({
        "iss": issuer,
        "sub": format!("system:serviceaccount:{}:{}", claims.namespace, claims.service_account),
        "aud": claims.audiences,
        "iat": claims.issued_at, "nbf": claims.issued_at, "exp": claims.expires_at,
        "jti": claims.id,
        "kubernetes.io": kubernetes,
    })
}

fn claims_of(issuer: &str, payload: &Value) -> Option<Claims> {
    if payload["iss"] != issuer {
        return None;
    }
    let kubernetes = &payload["kubernetes.io"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let bound = ["pod", "secret", "node"].iter().zip(["Pod", "Secret", "Node"]).find_map(|(key, kind)| {
        let object = kubernetes.get(key)?;
        Some(BoundObject { kind: kind.to_owned(), name: text(&object["name"])?, uid: text(&object["uid"])? })
    });
    let node = &kubernetes["node"];
    let node = text(&node["name"]).map(|name| (name, text(&node["uid"]).unwrap_or_default()));
    Some(Claims {
        namespace: text(&kubernetes["namespace"])?,
        service_account: text(&kubernetes["serviceaccount"]["name"])?,
        service_account_uid: text(&kubernetes["serviceaccount"]["uid"])?,
        node: node.filter(|_| bound.as_ref().is_some_and(|bound| bound.kind == "Pod")),
        bound,
        audiences: payload["aud"].as_array()?.iter().filter_map(text).collect(),
        issued_at: payload["iat"].as_i64()?,
        expires_at: payload["exp"].as_i64()?,
        id: text(&payload["jti"]).unwrap_or_default(),
    })
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// The key in the form that key ids are made of: SubjectPublicKeyInfo of an uncompressed P-256 point.
fn spki(point: &[u8]) -> Vec<u8> {
    const HEAD: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
        0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    [&HEAD, point].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
    const NOW: Timestamp = Timestamp::from_seconds(1_790_000_000);

    fn claims() -> Claims {
        Claims {
            namespace: "web".into(),
            service_account: "default".into(),
            service_account_uid: "u1".into(),
            bound: Some(BoundObject { kind: "Pod".into(), name: "front".into(), uid: "u2".into() }),
            node: Some(("one".into(), "u3".into())),
            audiences: vec![ISSUER.into()],
            issued_at: NOW.seconds(),
            expires_at: NOW.seconds() + 3600,
            id: "j".into(),
        }
    }

    #[test]
    fn a_token_says_what_was_signed() {
        let key = TokenKey::ephemeral().expect("a key");
        let token = key.sign(ISSUER, &claims()).expect("a token");
        assert_eq!(key.verify(ISSUER, &token, NOW), Ok(claims()));
    }

    #[test]
    fn others_tokens_are_not_believed() {
        let (ours, theirs) = (TokenKey::ephemeral().expect("a key"), TokenKey::ephemeral().expect("a key"));
        let token = theirs.sign(ISSUER, &claims()).expect("a token");
        assert_eq!(ours.verify(ISSUER, &token, NOW), Err(TokenError::Signature));
        assert_eq!(theirs.verify("https://other", &token, NOW), Err(TokenError::Foreign));
        let none =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), token.split('.').nth(1).expect("a part"));
        assert_eq!(theirs.verify(ISSUER, &none, NOW), Err(TokenError::Foreign));
        for nonsense in ["", ".", "..", "a.b.c"] {
            assert_eq!(ours.verify(ISSUER, nonsense, NOW), Err(TokenError::Foreign), "{nonsense}");
        }
    }

    #[test]
    fn a_token_ends() {
        let key = TokenKey::ephemeral().expect("a key");
        let token = key.sign(ISSUER, &claims()).expect("a token");
        let at = |seconds: i64| key.verify(ISSUER, &token, Timestamp::from_seconds(NOW.seconds() + seconds));
        assert!(at(3599).is_ok());
        assert_eq!(at(3600), Err(TokenError::Expired));
        assert_eq!(at(-61), Err(TokenError::Expired));
    }

    #[test]
    fn the_key_set_names_the_key() {
        let key = TokenKey::ephemeral().expect("a key");
        assert_eq!(key.jwks()["keys"][0]["kid"], key.id.as_str());
    }
}
