//! Reads a kubeconfig: which server, trusting whom, as whom.
//!
//! Start at [`Kubeconfig::read`].
//!
//! Not here: exec plugins, auth providers and passwords: those belong to people's tools, not to a node.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// What the current context of a kubeconfig says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubeconfig {
    /// Such as `https://10.0.0.1:6443`.
    pub server: String,
    /// The certificates to trust, in PEM.
    pub ca_pem: String,
    /// A client certificate and its key, in PEM.
    pub client: Option<(String, String)>,
    /// A bearer token.
    pub token: Option<String>,
}

/// The authority of the only cluster that a kubeconfig without contexts tells of, as `cluster-info` does; in PEM.
pub fn authority_of(text: &str, path: &Path) -> Result<String, KubeconfigError> {
    #[derive(Deserialize)]
    struct Clusters {
        clusters: Vec<NamedCluster>,
    }
    let wrong = |detail: String| KubeconfigError::Shape { path: path.to_owned(), detail };
    let file: Clusters = serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let cluster = file.clusters.first().ok_or_else(|| wrong("there is no cluster".to_owned()))?;
    let pem = load(&cluster.cluster.certificate_authority_data, &None, path)?;
    pem.ok_or_else(|| wrong("the cluster has no certificate-authority-data".to_owned()))
}

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// It, or a file it names, cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no kubeconfig, or lacks something.
    #[error("kubeconfig {path} is not usable: {detail}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

impl Kubeconfig {
    /// Reads the current context of the file at `path`.
    pub fn read(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })?;
        Kubeconfig::parse(&text, path)
    }

    /// The same from text; `path` is named in errors, and where relative file names begin.
    pub fn parse(text: &str, path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let wrong = |detail: String| KubeconfigError::Shape { path: path.to_owned(), detail };
        let file: File = serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let context = file.contexts.iter().find(|each| each.name == file.current_context);
        let context = context.ok_or_else(|| wrong(format!("there is no context {:?}", file.current_context)))?;
        let cluster = file.clusters.iter().find(|each| each.name == context.context.cluster);
        let cluster = cluster.ok_or_else(|| wrong(format!("there is no cluster {:?}", context.context.cluster)))?;
        let user = file.users.iter().find(|each| each.name == context.context.user);
        let user = user.ok_or_else(|| wrong(format!("there is no user {:?}", context.context.user)))?;
        let load = |data: &Option<String>, name: &Option<PathBuf>| load(data, name, path);
        let certificate = load(&user.user.client_certificate_data, &user.user.client_certificate)?;
        let key = load(&user.user.client_key_data, &user.user.client_key)?;
        Ok(Kubeconfig {
            server: cluster.cluster.server.trim_end_matches('/').to_owned(),
            ca_pem: load(&cluster.cluster.certificate_authority_data, &cluster.cluster.certificate_authority)?
                .unwrap_or_default(),
            client: certificate.zip(key),
            token: user.user.token.clone().filter(|token| !token.is_empty()),
        })
    }
}

fn load(data: &Option<String>, name: &Option<PathBuf>, path: &Path) -> Result<Option<String>, KubeconfigError> {
    let wrong = |detail: String| KubeconfigError::Shape { path: path.to_owned(), detail };
    if let Some(data) = data.as_deref().filter(|data| !data.is_empty()) {
        let bytes = STANDARD.decode(data.trim()).map_err(|error| wrong(format!("a field ending in -data: {error}")))?;
        return String::from_utf8(bytes).map(Some).map_err(|error| wrong(error.to_string()));
    }
    let Some(name) = name else { return Ok(None) };
    let file = path.parent().unwrap_or(Path::new("")).join(name);
    std::fs::read_to_string(&file).map(Some).map_err(|source| KubeconfigError::Read { path: file, source })
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct File {
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
    current_context: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: c, cluster: {server: 'https://10.0.0.1:6443/', certificate-authority-data: Y2E=}}]
contexts: [{name: here, context: {cluster: c, user: u}}]
users: [{name: u, user: {client-certificate-data: Y3J0, client-key-data: a2V5}}]
";

    #[test]
    fn reads_the_current_context() {
        let read = Kubeconfig::parse(FILE, Path::new("config")).expect("a kubeconfig");
        assert_eq!((read.server.as_str(), read.ca_pem.as_str()), ("https://10.0.0.1:6443", "ca"));
        assert_eq!(read.client, Some(("crt".to_owned(), "key".to_owned())));
    }

    #[test]
    fn what_tells_of_a_cluster_alone_names_its_authority() {
        let text = "kind: Config\nusers: null\nclusters: [{name: '', cluster: {server: 'https://a', certificate-authority-data: Y2E=}}]";
        assert_eq!(authority_of(text, Path::new("info")).expect("an authority"), "ca");
        assert!(authority_of("clusters: []", Path::new("info")).is_err());
    }

    #[test]
    fn says_what_is_missing() {
        let error = Kubeconfig::parse(&FILE.replace("user: u}", "user: x}"), Path::new("config"));
        assert_eq!(
            error.expect_err("no such user").to_string(),
            "kubeconfig config is not usable: there is no user \"x\""
        );
        assert!(Kubeconfig::parse("[", Path::new("config")).is_err());
    }
}
