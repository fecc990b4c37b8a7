//! What makes this machine this node: its key, and the certificates that the cluster gave it for that.
//!
//! Start at [`Identity::open`].
//!
//! Invariants:
//! * the key is made once and never leaves the folder; a node is its key;
//! * a certificate is on the disk before it is used.
//!
//! Not here: asking for certificates (`join.rs`, `renew.rs`).

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::Timestamp;
use client::Kubeconfig;
use pki::{BACKDATE, Pair, PkiError, Subject, der_of_pem, presented};

use crate::roles::node::{kubelet_tls, peer_identity};

/// A node's key and certificates.
pub(super) struct Identity {
    folder: PathBuf,
    node: String,
    key_pem: String,
    ca_pem: Option<String>,
    client_pem: Option<String>,
    serving_pem: Option<String>,
}

/// Which of the certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// To be recognised by the API server.
    Client,
    /// To be recognised by who calls the kubelet.
    Serving,
}

impl Identity {
    /// What lies in a folder; it and the key are made where they are missing. Certificates of another node are none.
    pub(super) fn open(folder: &Path, node: &str) -> Result<Identity, PkiError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| PkiError::Write { path: folder.to_owned(), source })?;
        let key_path = folder.join("node.key");
        let key_pem = match read(&key_path)? {
            Some(key) => key,
            None => {
                let key = pki::make_key(node)?;
                pki::write_private(&key_path, &key)?;
                key
            }
        };
        let name = format!("system:node:{node}");
        let ours = |pem: &String| shown(pem).is_some_and(|shown| shown.name == name);
        Ok(Identity {
            ca_pem: read(&folder.join("ca.crt"))?,
            client_pem: read(&folder.join(Role::Client.file()))?.filter(ours),
            serving_pem: read(&folder.join(Role::Serving.file()))?.filter(ours),
            folder: folder.to_owned(),
            node: node.to_owned(),
            key_pem,
        })
    }

    /// Whether a cluster knows it, and will still do so now.
    pub(super) fn is_known(&self, now: Timestamp) -> bool {
        let lasts = |pem: &str| shown(pem).is_some_and(|shown| now.seconds() < shown.not_after);
        self.ca_pem.is_some() && self.client_pem.as_deref().is_some_and(lasts)
    }

    /// The key.
    pub(super) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Who it is.
    pub(super) fn subject(&self) -> Subject {
        let name = format!("system:node:{}", self.node);
        Subject { name, group: Some("system:nodes".to_owned()), ..Subject::default() }
    }

    /// Trusts a cluster from now on, which gave it a client's certificate.
    pub(super) fn joined(&mut self, ca_pem: String, client_pem: String) -> Result<(), PkiError> {
        pki::write_private(&self.folder.join("ca.crt"), &ca_pem)?;
        self.ca_pem = Some(ca_pem);
        self.keep(Role::Client, client_pem)
    }

    /// Takes a new certificate.
    pub(super) fn keep(&mut self, role: Role, pem: String) -> Result<(), PkiError> {
        pki::write_private(&self.folder.join(role.file()), &pem)?;
        *(match role {
            Role::Client => &mut self.client_pem,
            Role::Serving => &mut self.serving_pem,
        }) = Some(pem);
        Ok(())
    }

    /// When a certificate is to be renewed: when a third of its life is left, or now if there is none.
    pub(super) fn due(&self, role: Role) -> Timestamp {
        let pem = match role {
            Role::Client => &self.client_pem,
            Role::Serving => &self.serving_pem,
        };
        let Some(shown) = pem.as_deref().and_then(shown) else { return Timestamp::from_seconds(0) };
        // Certificates begin before they are made, for clocks that are behind; a life counts from the making.
        let made = (shown.not_before + BACKDATE.as_secs() as i64).min(shown.not_after);
        let third = Duration::from_secs((shown.not_after - made) as u64) / 3;
        Timestamp(Timestamp::from_seconds(shown.not_after).0 - third.as_nanos() as i128)
    }

    /// How it calls a server.
    pub(super) fn kubeconfig(&self, server: &str) -> Kubeconfig {
        Kubeconfig {
            server: server.to_owned(),
            ca_pem: self.ca_pem.clone().unwrap_or_default(),
            client: self.client_pem.clone().map(|pem| (pem, self.key_pem.clone())),
            token: None,
        }
    }

    /// What other nodes are shown, if there is something.
    pub(super) fn to_peers(&self) -> Option<oci::Identity> {
        let pair = Pair { certificate_pem: self.client_pem.clone()?, key_pem: self.key_pem.clone() };
        Some(peer_identity(&pair, self.ca_pem.as_deref()?))
    }

    /// What the kubelet shows, if there is something.
    pub(super) fn tls(&self) -> Option<kubelet::Tls> {
        let pair = Pair { certificate_pem: self.serving_pem.clone()?, key_pem: self.key_pem.clone() };
        kubelet_tls(&pair, self.ca_pem.as_deref()?)
    }
}

impl Role {
    fn file(self) -> &'static str {
        match self {
            Role::Client => "client.crt",
            Role::Serving => "serving.crt",
        }
    }
}

fn shown(pem: &str) -> Option<pki::Presented> {
    presented(&der_of_pem(pem)?)
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use pki::{Authority, Purpose, SigningRequest};

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_790_000_000);
    const LIFE: Duration = Duration::from_secs(900);

    fn certified(identity: &Identity) -> (String, String) {
        let pair = Authority::make("test", NOW).expect("an authority");
        let authority = Authority::load(&pair).expect("it loads");
        let request = SigningRequest::of_key(identity.key_pem(), &identity.subject()).expect("a request");
        let signed = authority.sign_request(&request.request_pem, &[Purpose::Client], LIFE, NOW).expect("signed");
        (pair.certificate_pem, signed)
    }

    #[test]
    fn a_node_stays_what_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut identity = Identity::open(folder.path(), "one").expect("it opens");
        assert!(!identity.is_known(NOW));
        let (ca, client) = certified(&identity);
        identity.joined(ca, client).expect("kept");
        let again = Identity::open(folder.path(), "one").expect("it opens again");
        assert_eq!(again.key_pem(), identity.key_pem());
        assert!(again.is_known(NOW) && !again.is_known(NOW.plus(LIFE)));
        assert!(!Identity::open(folder.path(), "two").expect("it opens").is_known(NOW), "another name is another node");
        let mode = fs::metadata(folder.path().join("node.key")).expect("a key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut identity = Identity::open(folder.path(), "one").expect("it opens");
        assert!(identity.due(Role::Client) < NOW, "there is none yet");
        let (ca, client) = certified(&identity);
        identity.joined(ca, client).expect("kept");
        assert_eq!(identity.due(Role::Client), NOW.plus(Duration::from_secs(600)));
    }
}
