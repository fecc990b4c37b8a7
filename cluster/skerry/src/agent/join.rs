//! Joining: from a token to a certificate of the cluster's.
//!
//! Start at [`until_joined`]. The token proves each side to the other: the cluster signs with it what its authority is, and
//! believes with it who asks for a node's certificate.
//!
//! Invariants:
//! * the token is shown only to a server that the authority vouches for, and that only after its signature was checked;
//! * the key stays here; what travels is a request signed with it.
//!
//! Not here: who may become which node (the certificate controller of the cluster).

use std::path::Path;
use std::time::Duration;

use base::chain;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::{Client, ClientError, DoorError, Kubeconfig, KubeconfigError, https};
use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use pki::{BootstrapToken, PkiError, SigningRequest, Subject};
use serde_json::{Value, json};

use super::Settings;
use super::identity::{Identity, Role};
use crate::tokens::TokenError;

/// The waits between attempts: whoever waits for a board must see it come soon after the server has.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(20);
/// The cluster has so long to answer a request for a certificate.
const SIGNING_TIME: Duration = Duration::from_secs(30);
/// Between two looks at whether it has.
const SIGNING_PAUSE: Duration = Duration::from_millis(100);
/// The life that is asked for: a board may be off for weeks and still be known without its token.
const LIFE: Duration = Duration::from_secs(90 * 86_400);
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// Why a machine is no node of the cluster yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinError {
    /// The token given cannot be used.
    #[error("failed to get the token to join with")]
    Token(#[source] TokenError),
    /// Nobody gave one.
    #[error(
        "this machine has no certificate of the cluster that is still good, and got no --token or --token-file to ask for one"
    )]
    NoToken,
    /// The server.
    #[error("failed to ask the server what its authority is")]
    Info(#[source] ClientError),
    /// It answers, and is no cluster that can be joined.
    #[error("the server has no usable ConfigMap kube-public/cluster-info: {0}")]
    InfoShape(String),
    /// The cluster-info holds no kubeconfig.
    #[error("the server's ConfigMap kube-public/cluster-info is not usable")]
    InfoConfig(#[source] KubeconfigError),
    /// The cluster has no such token.
    #[error("the cluster does not know token {id}: it is wrong, has expired or was deleted")]
    UnknownToken {
        /// Its public part.
        id: String,
    },
    /// The signature is wrong.
    #[error("the secret part of token {id} is wrong, or who answers at {server} is not the cluster that made it")]
    Signature {
        /// The token's public part.
        id: String,
        /// Who was asked.
        server: String,
    },
    /// The way to the server.
    #[error("failed to use the server's address or authority")]
    Door(#[source] DoorError),
    /// The certificate.
    #[error("failed to get a certificate")]
    Certify(#[source] CertifyError),
    /// The disk.
    #[error("failed to keep what the cluster gave")]
    Keep(#[source] PkiError),
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertifyError {
    /// The request cannot be made.
    #[error("failed to make a request for {subject}")]
    Request {
        /// For whom.
        subject: String,
        /// Why not.
        source: PkiError,
    },
    /// The server did not take it, or did not tell what became of it.
    #[error("failed to send a request for {subject}")]
    Send {
        /// For whom.
        subject: String,
        /// Why not.
        source: ClientError,
    },
    /// It said no.
    #[error("the cluster refused {subject}: {message}")]
    Refused {
        /// For whom.
        subject: String,
        /// Why, in its words.
        message: String,
    },
    /// It did not answer.
    #[error("the cluster did not answer the request {name} for {subject} within {SIGNING_TIME:?}")]
    Unanswered {
        /// The object's name.
        name: String,
        /// For whom.
        subject: String,
    },
}

/// Tries until the machine is a node of the cluster.
pub(super) async fn until_joined(settings: &Settings, identity: &mut Identity) {
    let mut wait = WAIT;
    loop {
        match join(settings, identity).await {
            Ok(()) => return tracing::info!("joined the cluster at {} as node {}", settings.server, settings.node),
            Err(error) => tracing::error!(
                "failed to join the cluster at {} as node {}: {}; trying again in {wait:?}",
                settings.server,
                settings.node,
                chain(&error)
            ),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// Joins once.
pub(super) async fn join(settings: &Settings, identity: &mut Identity) -> Result<(), JoinError> {
    let token = settings.token.read().map_err(JoinError::Token)?.ok_or(JoinError::NoToken)?;
    let ca_pem = authority(&settings.server, &token).await?;
    // By a clock that is behind, the server's certificate would be one of the future.
    if let Some(time) = &settings.time {
        time.ask(&settings.server, &ca_pem).await;
    }
    let token = Some(format!("{}.{}", token.id(), token.secret()));
    let config = Kubeconfig { server: settings.server.clone(), ca_pem: ca_pem.clone(), client: None, token };
    let client = Client::new(https::open(&config).map_err(JoinError::Door)?);
    let subject = identity.subject();
    let signed = certify(&client, identity.key_pem(), &subject, Role::Client).await.map_err(JoinError::Certify)?;
    identity.joined(ca_pem, signed).map_err(JoinError::Keep)
}

/// The authority of the cluster that knows this token. Whoever answers is not believed before the signature is checked.
async fn authority(server: &str, token: &BootstrapToken) -> Result<String, JoinError> {
    let client = Client::new(https::open_unverified(server).map_err(JoinError::Door)?);
    let info: ConfigMap = client.get("kube-public", "cluster-info").await.map_err(JoinError::Info)?;
    believed(server, token, &info)
}

fn believed(server: &str, token: &BootstrapToken, info: &ConfigMap) -> Result<String, JoinError> {
    let field = |name: &str| info.data.as_ref().and_then(|data| data.get(name));
    let config = field("kubeconfig").ok_or_else(|| JoinError::InfoShape("it has no kubeconfig".to_owned()))?;
    let id = token.id().to_owned();
    let signature = field(&format!("jws-kubeconfig-{id}")).ok_or(JoinError::UnknownToken { id: id.clone() })?;
    if !token.signed(config, signature) {
        return Err(JoinError::Signature { id, server: server.to_owned() });
    }
    client::authority_of(config, Path::new("cluster-info")).map_err(JoinError::InfoConfig)
}

/// Asks for a certificate and waits for it.
pub(super) async fn certify(
    client: &Client,
    key_pem: &str,
    subject: &Subject,
    role: Role,
) -> Result<String, CertifyError> {
    let whom = || subject.name.clone();
    let request = SigningRequest::of_key(key_pem, subject);
    let request = request.map_err(|source| CertifyError::Request { subject: whom(), source })?;
    let sent = |source| CertifyError::Send { subject: whom(), source };
    let object = Bytes::from(request_object(&request.request_pem, role).to_string());
    let made = client.call(Method::POST, REQUESTS.to_owned(), client::typed::JSON, object).await.map_err(sent)?;
    let made: Value = serde_json::from_slice(&made).unwrap_or_default();
    let name = made["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let answered = async {
        loop {
            let path = format!("{REQUESTS}/{name}");
            let now = client.call(Method::GET, path, "", Bytes::new()).await.map_err(sent)?;
            if let Some(answer) = answer(&serde_json::from_slice(&now).unwrap_or_default()) {
                return answer.map_err(|message| CertifyError::Refused { subject: whom(), message });
            }
            tokio::time::sleep(SIGNING_PAUSE).await;
        }
    };
    let unanswered = || CertifyError::Unanswered { name: name.clone(), subject: whom() };
    tokio::time::timeout(SIGNING_TIME, answered).await.map_err(|_| unanswered())?
}

fn request_object(request_pem: &str, role: Role) -> Value {
    let (signer, usage) = match role {
        Role::Client => ("kubernetes.io/kube-apiserver-client-kubelet", "client auth"),
        Role::Serving => ("kubernetes.io/kubelet-serving", "server auth"),
    };
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {
            "request": STANDARD.encode(request_pem), "signerName": signer, "expirationSeconds": LIFE.as_secs(),
            "usages": ["digital signature", usage],
        },
    })
}

/// The certificate, or why there will be none; nothing while that is open.
fn answer(request: &Value) -> Option<Result<String, String>> {
    if let Some(signed) = request["status"]["certificate"].as_str() {
        let pem = STANDARD.decode(signed).ok().and_then(|pem| String::from_utf8(pem).ok());
        return Some(pem.ok_or_else(|| "what it signed is no certificate".to_owned()));
    }
    let conditions = request["status"]["conditions"].as_array()?;
    let refusal = conditions.iter().find(|one| one["type"] == "Denied" || one["type"] == "Failed")?;
    Some(Err(refusal["message"].as_str().unwrap_or("it gave no reason").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> BootstrapToken {
        text.parse().expect("a token")
    }

    /// What a machine with a token makes of a cluster-info that was signed with `abcdef.0123456789abcdef`.
    fn check(text: &str, signed_as: &str, want: &str) {
        let config = "clusters: [{name: '', cluster: {server: 'https://a', certificate-authority-data: Y2E=}}]";
        let signature = token("abcdef.0123456789abcdef").sign(config);
        let data = [("kubeconfig".to_owned(), config.to_owned()), (format!("jws-kubeconfig-{signed_as}"), signature)];
        let info = ConfigMap { data: Some(data.into()), ..ConfigMap::default() };
        let told = believed("https://a:6443", &token(text), &info).unwrap_or_else(|error| error.to_string());
        assert_eq!(told, want);
    }

    #[test]
    fn a_cluster_is_believed_that_knows_the_token() {
        check("abcdef.0123456789abcdef", "abcdef", "ca");
    }
    #[test]
    fn a_token_that_is_not_known_is_named() {
        let want = "the cluster does not know token abcdee: it is wrong, has expired or was deleted";
        check("abcdee.0123456789abcdef", "abcdef", want);
    }
    #[test]
    fn a_cluster_that_does_not_know_the_secret_is_not_believed() {
        let want = "the secret part of token abcdef is wrong, or who answers at https://a:6443 is not the cluster that made it";
        check("abcdef.0123456789abcdee", "abcdef", want);
    }

    #[test]
    fn an_answer_is_a_certificate_or_a_reason() {
        assert_eq!(answer(&json!({"status": {"certificate": "Y3J0"}})), Some(Ok("crt".to_owned())));
        let denied = json!({"status": {"conditions": [{"type": "Denied", "message": "no"}]}});
        assert_eq!(answer(&denied), Some(Err("no".to_owned())));
        assert_eq!(answer(&json!({"status": {"conditions": [{"type": "Approved"}]}})), None);
    }
}
