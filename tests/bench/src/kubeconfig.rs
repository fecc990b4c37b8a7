//! How to reach a server: what a kubeconfig says.
//!
//! Start at [`Access::read`]. Certificates may lie in the file or beside it.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// A server and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Host and port.
    pub authority: String,
    /// The certificate of the CA, in PEM.
    pub ca: Vec<u8>,
    /// Our certificate, in PEM.
    pub certificate: Vec<u8>,
    /// Our key, in PEM.
    pub key: Vec<u8>,
}

/// A kubeconfig that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to use the kubeconfig {path}: {detail}")]
pub struct KubeconfigError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub detail: String,
}

#[derive(Deserialize)]
struct File {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}
#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}
#[derive(Deserialize)]
struct NamedUser {
    user: User,
}
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
}

impl Access {
    /// Reads the first cluster and the first user of a kubeconfig.
    pub fn read(path: &Path) -> Result<Access, KubeconfigError> {
        let wrong = |detail: String| KubeconfigError { path: path.to_owned(), detail };
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let file: File = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let cluster = file.clusters.first().ok_or_else(|| wrong("it has no clusters".to_owned()))?;
        let user = file.users.first().ok_or_else(|| wrong("it has no users".to_owned()))?;
        let (cluster, user) = (&cluster.cluster, &user.user);
        let authority =
            cluster.server.strip_prefix("https://").ok_or_else(|| wrong("its server is not https".to_owned()))?;
        let pem = |what: &str, data: &Option<String>, file: &Option<PathBuf>| match (data, file) {
            (Some(data), _) => STANDARD.decode(data.trim()).map_err(|error| wrong(format!("{what}: {error}"))),
            (None, Some(file)) => {
                let file = path.parent().unwrap_or(Path::new(".")).join(file);
                fs::read(&file).map_err(|error| wrong(format!("{}: {error}", file.display())))
            }
            (None, None) => Err(wrong(format!("it has no {what}"))),
        };
        Ok(Access {
            authority: authority.trim_end_matches('/').to_owned(),
            ca: pem("certificate-authority", &cluster.certificate_authority_data, &cluster.certificate_authority)?,
            certificate: pem("client-certificate", &user.client_certificate_data, &user.client_certificate)?,
            key: pem("client-key", &user.client_key_data, &user.client_key)?,
        })
    }
}
