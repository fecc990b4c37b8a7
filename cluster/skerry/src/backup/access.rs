//! Which API server to ask, and as whom.
//!
//! Start at [`find`]: a kubeconfig, or what every pod is given.

use std::path::Path;

use client::Kubeconfig;

use super::BackupFailed;

/// Where a pod finds its ServiceAccount's token and the cluster's CA.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The way to the API server.
pub(super) fn find(kubeconfig: Option<&Path>) -> Result<Kubeconfig, BackupFailed> {
    match kubeconfig {
        Some(path) => Kubeconfig::read(path).map_err(BackupFailed::Kubeconfig),
        None => {
            let variable = |name: &str| std::env::var(name).unwrap_or_default();
            in_pod(&variable("KUBERNETES_SERVICE_HOST"), &variable("KUBERNETES_SERVICE_PORT"), Path::new(ACCOUNT))
        }
    }
}

fn in_pod(host: &str, port: &str, account: &Path) -> Result<Kubeconfig, BackupFailed> {
    if host.is_empty() {
        return Err(BackupFailed::Pod { detail: "KUBERNETES_SERVICE_HOST is not set".to_owned() });
    }
    let read = |name: &str| {
        let path = account.join(name);
        let failed = |error| BackupFailed::Pod { detail: format!("failed to read {}: {error}", path.display()) };
        std::fs::read_to_string(&path).map_err(failed)
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Ok(Kubeconfig {
        server: format!("https://{host}:{}", if port.is_empty() { "443" } else { port }),
        ca_pem: read("ca.crt")?,
        client: None,
        token: Some(read("token")?.trim().to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_knows_its_way() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.crt"), "ca").expect("a file");
        std::fs::write(folder.path().join("token"), "abc\n").expect("a file");
        let found = in_pod("10.43.0.1", "443", folder.path()).expect("all is there");
        assert_eq!((found.server.as_str(), found.token.as_deref()), ("https://10.43.0.1:443", Some("abc")));
        assert_eq!(in_pod("fd00::1", "", folder.path()).expect("all is there").server, "https://[fd00::1]:443");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = in_pod("", "", Path::new("/none")).expect_err("not in a pod").to_string();
        assert!(error.contains("KUBERNETES_SERVICE_HOST is not set; give --kubeconfig"), "{error}");
        let error = in_pod("10.43.0.1", "443", Path::new("/none")).expect_err("no account").to_string();
        assert!(error.contains("failed to read /none/ca.crt"), "{error}");
    }
}
