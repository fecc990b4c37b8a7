//! The documentation's NFS volume with a server that runs.
//!
//! Start at [`nfs_is_shared`]: `manifests/nfs.yaml` is applied with that server put in, and looked at. `scenarios/storage.rs` runs
//! it as it stands, without a server.
//!
//! Not here: a server.

use std::collections::BTreeSet;

use crate::{User, manifest};

const MANIFEST: &str = "tests/workloads/manifests/nfs.yaml";
/// What uses the manifest's volumes.
pub(crate) const USERS: &str = "deployment/nfs-busybox deployment/nfs-web service/nfs-web pod/test-pd";

/// What is said in the manifest of a server that nobody runs, and what is said instead. Not version 4.2: asked by READ_PLUS,
/// nfs-ganesha 4.3 answers zeros where data is.
fn put_in(server: &str, path: &str) -> [(&'static str, String); 4] {
    [
        ("server: 127.0.0.1\n", format!("server: {server}\n")),
        ("path: \"/\"\n", format!("path: {path}\n")),
        ("path: /my-nfs-volume\n", format!("path: {path}\n")),
        ("nfsvers=4.2\n", "nfsvers=4.1\n".to_owned()),
    ]
}

/// Applies the manifest in the user's namespace, looks whether all its pods have the same page, and deletes it but for the volume
/// and its claim. The nodes of the pods that write.
#[track_caller]
pub fn nfs_is_shared(user: &User, server: &str, path: &str) -> BTreeSet<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let puts = put_in(server, path);
    manifest::apply(user, MANIFEST, &puts.each_ref().map(|(from, to)| (*from, to.as_str())), folder.path());
    user.rolled_out("deployment/nfs-busybox", 30);
    user.rolled_out("deployment/nfs-web", 30);
    user.must_become("--for=condition=Ready pod/test-pd", 30);
    let writers = |field: &str| words(user, &format!("get pods -l name=nfs-busybox -o jsonpath={{.items[*].{field}}}"));
    let names = writers("metadata.name");
    assert_eq!(names.len(), 2, "{names:?}");
    for name in &names {
        // Whoever wrote last is on the page; each is in its turn.
        let sees = |words: &str| user.wait_for(words, name, user.limit(20));
        names.iter().for_each(|reader| sees(&format!("exec {reader} -- cat /mnt/index.html")));
        sees("exec test-pd -- cat /my-nfs-data/index.html");
        sees(&format!("exec {} -- wget -qO- http://nfs-web/", names[0]));
    }
    user.refused("exec test-pd -- touch /my-nfs-data/index.html", "Read-only file system");
    let nodes = writers("spec.nodeName").into_iter().collect();
    user.must(&format!("delete {USERS}"));
    nodes
}

fn words(user: &User, words: &str) -> Vec<String> {
    user.must(words).split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_put_in() {
        let puts = put_in("10.0.0.9", "/srv");
        let text = manifest::filled(MANIFEST, &puts.each_ref().map(|(from, to)| (*from, to.as_str())));
        assert!(!["127.0.0.1", "my-nfs-volume", "4.2"].iter().any(|nobodys| text.contains(nobodys)), "{text}");
        assert_eq!(text.matches("server: 10.0.0.9\n").count(), 2);
        assert_eq!(text.matches("path: /srv\n").count(), 2);
        assert_eq!(text.matches("nfsvers=4.1\n").count(), 1);
    }
}
