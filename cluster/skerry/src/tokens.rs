//! The tokens by which machines join: where one is given, and `skerry token` to make, list and delete them.
//!
//! Start at [`run`], or [`give`] for the token that a server is started with. A token is a Secret in kube-system, as
//! kubeadm makes them, so its tools see ours and the other way round.
//!
//! Invariant: a token given to the server is good exactly as long as it is given.
//!
//! Not here: who a token makes of its bearer (`apiserver`), when it ends (`controllers`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apiserver::{Api, User, door};
use base::{Clock, Timestamp, chain};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::{Client, ClientError, DeleteOptions, Kind, Kubeconfig, https};
use http::Method;
use k8s_openapi::api::core::v1::Secret;
use pki::{BootstrapToken, NoToken};
use serde_json::{Value, json};
use sys::clock::SystemClock;

use crate::cli::{self, TokenVerb};
use crate::{StartError, server};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Marks the Secret of the token that the server was started with.
const GIVEN: &str = "skerry.dev/given-to-server";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

/// Where a token comes from.
pub(crate) enum TokenSource {
    Given(BootstrapToken),
    File(PathBuf),
    Nowhere,
}

/// Why a token that should be there cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its file.
    #[error("failed to read the token in {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What the file holds.
    #[error("the file {path} holds no token")]
    Token {
        /// Which.
        path: PathBuf,
        /// What one looks like.
        source: NoToken,
    },
}

impl TokenSource {
    pub(crate) fn new(token: Option<BootstrapToken>, file: Option<PathBuf>) -> TokenSource {
        match (token, file) {
            (Some(token), _) => TokenSource::Given(token),
            (None, Some(file)) => TokenSource::File(file),
            (None, None) => TokenSource::Nowhere,
        }
    }

    /// The token now: a file may be written later, or anew.
    pub(crate) fn read(&self) -> Result<Option<BootstrapToken>, TokenError> {
        match self {
            TokenSource::Given(token) => Ok(Some(token.clone())),
            TokenSource::File(path) => read_token(path).map(Some),
            TokenSource::Nowhere => Ok(None),
        }
    }
}

fn read_token(path: &Path) -> Result<BootstrapToken, TokenError> {
    let text = std::fs::read_to_string(path).map_err(|source| TokenError::File { path: path.to_owned(), source })?;
    text.trim().parse().map_err(|source| TokenError::Token { path: path.to_owned(), source })
}

/// Makes the Secret of the token that the server was started with, and deletes that of an earlier one.
pub(crate) async fn give(api: &Arc<Api>, token: Option<&BootstrapToken>, now: Timestamp) {
    let client = Client::new(door::open(api, User::new("system:apiserver", ["system:masters"])));
    if let Err(error) = try_give(&client, token, now).await {
        tracing::error!("failed to keep the token by which machines may join: {}", chain(&error));
    }
}

async fn try_give(client: &Client, token: Option<&BootstrapToken>, now: Timestamp) -> Result<(), ClientError> {
    let wanted = token.map(|token| {
        let mut secret = secret(token, Duration::ZERO, "given to the server when it was started", now);
        secret["metadata"]["labels"] = json!({GIVEN: "true"});
        secret
    });
    let mut is_there = false;
    for known in listed(client, &format!("?labelSelector={GIVEN}")).await? {
        let is_it =
            wanted.as_ref().is_some_and(|wanted| field(wanted, "token-secret") == field(&known, "token-secret"));
        let name = known["metadata"]["name"].as_str().unwrap_or_default();
        let is_it = is_it && wanted.as_ref().is_some_and(|wanted| wanted["metadata"]["name"] == name);
        is_there |= is_it;
        if !is_it {
            client.delete(Secret::RESOURCE, NAMESPACE, name, &DeleteOptions::default()).await?;
        }
    }
    match wanted.filter(|_| !is_there) {
        Some(wanted) => create(client, &wanted).await,
        None => Ok(()),
    }
}

/// `skerry token`.
pub fn run(options: cli::Token) -> Result<(), StartError> {
    server::threads()?.block_on(async {
        match options.verb {
            TokenVerb::Create { data_dir, ttl, description, token } => {
                let token = token.map_or_else(BootstrapToken::make, Ok).map_err(StartError::Pki)?;
                let secret = secret(&token, ttl, &description, SystemClock.now());
                let failed = |source| StartError::Tokens { doing: format!("make token {}", token.id()), source };
                create(&administrator(&data_dir)?, &secret).await.map_err(failed)?;
                println!("{}.{}", token.id(), token.secret());
            }
            TokenVerb::List { data_dir } => {
                let failed = |source| StartError::Tokens { doing: "list tokens".to_owned(), source };
                let secrets = listed(&administrator(&data_dir)?, "").await.map_err(failed)?;
                print!("{}", table(&secrets, SystemClock.now()));
            }
            TokenVerb::Delete { data_dir, tokens } => {
                let client = administrator(&data_dir)?;
                for token in tokens {
                    let id = token.split('.').next().unwrap_or_default();
                    let failed = |source| StartError::Tokens { doing: format!("delete token {id}"), source };
                    let name = format!("bootstrap-token-{id}");
                    client
                        .delete(Secret::RESOURCE, NAMESPACE, &name, &DeleteOptions::default())
                        .await
                        .map_err(failed)?;
                    println!("token {id} deleted");
                }
            }
        }
        Ok(())
    })
}

fn administrator(data: &Path) -> Result<Client, StartError> {
    let config = Kubeconfig::read(&data.join("admin.kubeconfig")).map_err(StartError::Kubeconfig)?;
    https::open(&config).map(Client::new).map_err(StartError::Door)
}

async fn create(client: &Client, secret: &Value) -> Result<(), ClientError> {
    let body = Bytes::from(secret.to_string());
    client.call(Method::POST, SECRETS.to_owned(), client::typed::JSON, body).await.map(drop)
}

async fn listed(client: &Client, query: &str) -> Result<Vec<Value>, ClientError> {
    let found = client.call(Method::GET, format!("{SECRETS}{query}"), "", Bytes::new()).await?;
    let found: Value = serde_json::from_slice(&found).unwrap_or_default();
    let items = found["items"].as_array().cloned().unwrap_or_default();
    Ok(items.into_iter().filter(|secret| secret["type"] == TYPE).collect())
}

fn secret(token: &BootstrapToken, ttl: Duration, description: &str, now: Timestamp) -> Value {
    let mut data = json!({
        "token-id": token.id(), "token-secret": token.secret(),
        "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
    });
    if !ttl.is_zero() {
        data["expiration"] = now.plus(ttl).rfc3339().into();
    }
    if !description.is_empty() {
        data["description"] = description.into();
    }
    let mut encoded = json!({});
    for (name, value) in data.as_object().into_iter().flatten() {
        encoded[name] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
    }
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": TYPE, "data": encoded,
        "metadata": {"namespace": NAMESPACE, "name": format!("bootstrap-token-{}", token.id())},
    })
}

fn field(secret: &Value, name: &str) -> String {
    let bytes = STANDARD.decode(secret["data"][name].as_str().unwrap_or_default()).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// What `skerry token list` prints.
fn table(secrets: &[Value], now: Timestamp) -> String {
    let mut text = format!("{:<24}{:<8}{:<22}{}\n", "TOKEN", "TTL", "EXPIRES", "DESCRIPTION");
    for secret in secrets {
        let token = format!("{}.{}", field(secret, "token-id"), field(secret, "token-secret"));
        let end = field(secret, "expiration");
        let left = match end.parse::<Timestamp>() {
            Ok(end) if end > now => api::duration::human(end.since(now).as_secs() as i64),
            Err(_) if end.is_empty() => "forever".to_owned(),
            _ => "over".to_owned(),
        };
        let end = if end.is_empty() { "never".to_owned() } else { end };
        text += format!("{token:<24}{left:<8}{end:<22}{}", field(secret, "description")).trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_795_464_000);

    fn token(text: &str) -> BootstrapToken {
        text.parse().expect("a token")
    }

    #[test]
    fn a_token_in_a_file_may_end_with_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let read = || TokenSource::new(None, Some(path.clone())).read().map_err(|error| error.to_string());
        assert_eq!(read(), Err(format!("failed to read the token in {}", path.display())));
        std::fs::write(&path, "abcdef.0123456789abcdef\n").expect("written");
        assert_eq!(read(), Ok(Some(token("abcdef.0123456789abcdef"))));
        std::fs::write(&path, "nonsense").expect("written");
        assert_eq!(read(), Err(format!("the file {} holds no token", path.display())));
    }

    #[test]
    fn tokens_are_listed_with_their_time() {
        let one = secret(&token("aaaaaa.0123456789abcdef"), Duration::from_secs(86_400), "for boards", NOW);
        let two = secret(&token("bbbbbb.0123456789abcdef"), Duration::ZERO, "", NOW);
        let want = "TOKEN                   TTL     EXPIRES               DESCRIPTION\n\
                    aaaaaa.0123456789abcdef 24h     2026-11-24T20:00:00Z  for boards\n\
                    bbbbbb.0123456789abcdef forever never\n";
        assert_eq!(table(&[one, two], NOW), want);
    }
}
