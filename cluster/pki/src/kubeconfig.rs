//! The file by which `kubectl` finds a cluster.
//!
//! Start at [`kubeconfig`].

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::files::write_private;
use crate::{Pair, PkiError};

/// Writes a kubeconfig with everything embedded, readable by its owner alone.
pub fn kubeconfig(path: &Path, server: &str, ca_pem: &str, user: &str, pair: &Pair) -> Result<(), PkiError> {
    write_private(path, &text(server, ca_pem, user, pair))
}

fn text(server: &str, ca_pem: &str, user: &str, pair: &Pair) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: skerry\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    \
         client-key-data: {key}\ncontexts:\n- name: skerry\n  context:\n    cluster: skerry\n    user: {user}\n\
         current-context: skerry\npreferences: {{}}\n",
        ca = STANDARD.encode(ca_pem),
        certificate = STANDARD.encode(&pair.certificate_pem),
        key = STANDARD.encode(&pair.key_pem),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_embedded() {
        let pair = Pair { certificate_pem: "C".into(), key_pem: "K".into() };
        let text = text("https://127.0.0.1:6443", "A", "admin", &pair);
        for line in [
            "\n    server: https://127.0.0.1:6443\n",
            "\n    certificate-authority-data: QQ==\n",
            "\n    client-certificate-data: Qw==\n",
            "\n    client-key-data: Sw==\n",
            "\ncurrent-context: skerry\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
