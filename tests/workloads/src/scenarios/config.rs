//! What pods are told: ConfigMaps, Secrets, projected volumes, the downward API.

use crate::scenario::apply;
use crate::{Break, User};

const DONE: &str = "--for=jsonpath={.status.phase}=Succeeded";

#[track_caller]
fn holds(user: &User, pod: &str, file: &str, expected: &str) {
    let text = user.must(&format!("exec {pod} -- cat {file}"));
    assert_eq!(text.trim_end(), expected, "{file} in {pod}");
}

pub fn config_map(user: &User) {
    apply(user, "configmap.yaml");
    user.must_become(&format!("{DONE} pod/by-key pod/all-keys"), 60);
    assert_eq!(user.must("logs by-key").trim(), "very INFO");
    let all = user.must("logs all-keys");
    for line in ["SPECIAL_LEVEL=very", "SPECIAL_TYPE=charm"] {
        assert!(all.lines().any(|seen| seen == line), "{line}: {all}");
    }
    user.must_become("--for=condition=Ready pod/as-files", 60);
    user.wait_for("logs as-files", "very", user.limit(10));
    assert_eq!(user.must("logs as-files").trim(), "SPECIAL_LEVEL\nSPECIAL_TYPE\nspecial.how\nvery");
    user.must("patch configmap special-config --type=merge -p '{\"data\":{\"special.how\":\"quite\"}}'");
    // The kubelet may take its period of a minute.
    user.wait_for("exec as-files -- cat /etc/config/special.how", "quite", user.limit(90));
}

pub fn config_map_again(user: &User, _: Break) {
    holds(user, "as-files", "/etc/config/special.how", "quite");
    holds(user, "as-files", "/etc/keys/keys", "very");
}

pub fn secret(user: &User) {
    apply(user, "secret.yaml");
    user.must_become("--for=condition=Ready pod/secret-test-pod pod/envfrom-secret", 60);
    holds(user, "secret-test-pod", "/etc/secret-volume/username", "my-app");
    holds(user, "secret-test-pod", "/etc/secret-volume/password", "39528$vdg7Jb");
    let seen = user.must("exec envfrom-secret -- env");
    for line in ["username=my-app", "password=39528$vdg7Jb", "BACKEND_USERNAME=my-app"] {
        assert!(seen.lines().any(|seen| seen == line), "{line}: {seen}");
    }
    user.must_become(&format!("{DONE} pod/secret-dotfiles-pod pod/optional"), 60);
    let listed = user.must("logs secret-dotfiles-pod");
    assert!(listed.lines().any(|line| line.starts_with("-r--------") && line.ends_with(" .secret-file")), "{listed}");
    assert_eq!(user.must("logs optional"), "", "an optional Secret that is not there is an empty folder");
}

pub fn projected(user: &User) {
    apply(user, "projected.yaml");
    user.must_become("--for=condition=Ready pod/volume-test pod/sa-token-test", 60);
    holds(user, "volume-test", "/projected-volume/my-group/my-username", "admin");
    holds(user, "volume-test", "/projected-volume/my-group/my-config", "debug=true");
    holds(user, "volume-test", "/projected-volume/labels", "shows=\"all-in-one\"");
    holds(user, "volume-test", "/projected-volume/cpu_limit", "2");
    let mode = user.must("exec volume-test -- stat -L -c %a /projected-volume/my-group/my-username");
    assert_eq!(mode.trim(), "440");
    let token = user.must("exec sa-token-test -- cat /service-account/token");
    assert_eq!(token.split('.').count(), 3, "a signed token: {token}");
}

pub fn downward_api(user: &User) {
    apply(user, "downward-api.yaml");
    user.must_become(&format!("{DONE} pod/dapi-envars-fieldref pod/dapi-envars-resourcefieldref"), 60);
    let of = |field: &str| user.must(&format!("get pod dapi-envars-fieldref -o jsonpath={{{field}}}"));
    let node = of(".spec.nodeName");
    let said = user.must("logs dapi-envars-fieldref");
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said[..3], [&node, "dapi-envars-fieldref", "downward-api"]);
    assert!(said[3].parse::<std::net::IpAddr>().is_ok(), "{said:?}");
    assert_eq!(said[4], "default");
    assert_eq!(user.must("logs dapi-envars-resourcefieldref").trim(), "1\n1\n33554432\n67108864");
    let pod = "kubernetes-downwardapi-volume-example";
    user.must_become(&format!("--for=condition=Ready pod/{pod}"), 60);
    holds(user, pod, "/etc/podinfo/labels", "cluster=\"test-cluster1\"\nrack=\"rack-22\"\nzone=\"us-est-coast\"");
    holds(user, pod, "/etc/podinfo/cpu_limit", "250");
    holds(user, pod, "/etc/podinfo/mem_request", "32");
    let annotations = user.must(&format!("exec {pod} -- cat /etc/podinfo/annotations"));
    assert!(annotations.contains("build=\"two\"\nbuilder=\"john-doe\"\n"), "{annotations}");
    user.must(&format!("label pod {pod} rack=rack-23 --overwrite"));
    user.wait_for(&format!("exec {pod} -- cat /etc/podinfo/labels"), "rack-23", user.limit(90));
}
