//! What users do wrong is refused with a reason that names it.

use std::path::Path;

use crate::User;

/// A manifest and what its refusal says.
const MANIFESTS: &[(&str, &str)] = &[
    ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatum: {}\n", "unknown field \"datum\""),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n", "spec.containers: Required value"),
    ("apiVersion: v1\nkind: [\n", "yaml"),
    ("apiVersion: v1\nkind: Nosuch\nmetadata: {name: x}\n", "no matches for kind \"Nosuch\" in version \"v1\""),
    ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_A_Name}\n", "metadata.name: Invalid value: \"Not_A_Name\""),
];

pub fn are_named(user: &User) {
    let folder = tempfile::tempdir().expect("a folder");
    for (manifest, why) in MANIFESTS {
        refused_manifest(user, folder.path(), manifest, why);
    }
    user.refused("get pod nosuch", "pods \"nosuch\" not found");
    user.must("run missing --image=registry.k8s.io/nosuch:1 --restart=Never");
    let waiting = "get pod missing -o jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    user.wait("the missing image to be named", user.limit(60), |user| {
        ["ErrImagePull", "ImagePullBackOff"].contains(&user.must(waiting).as_str())
    });
    let events = "get events --field-selector=involvedObject.name=missing";
    user.wait_for(events, "registry.k8s.io/nosuch:1", user.limit(30));
    user.must("delete pod missing --wait=false");
}

fn refused_manifest(user: &User, folder: &Path, manifest: &str, why: &str) {
    let file = folder.join("bad.yaml");
    std::fs::write(&file, manifest).expect("written");
    user.refused(&format!("apply -f {}", file.display()), why);
}
