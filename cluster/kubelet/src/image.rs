//! Having an image: pull policies, credentials, and which images may go when space runs short.
//!
//! Start at [`decide`], [`credentials`] and [`to_collect`]; all are functions of values.
//!
//! Not here: pulling (`runtime`), back-off (`step`).

use std::collections::BTreeSet;

use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use runtime::{ImageStatus, RegistryAuth};

/// What to do about an image before a container starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Use what is there.
    Use,
    /// Pull it.
    Pull,
    /// It is not there and must not be pulled.
    Never,
}

/// What to do about an image, by its pull policy.
pub fn decide(policy: Option<&str>, image: &str, present: bool) -> Decision {
    let default = if has_latest_tag(image) { "Always" } else { "IfNotPresent" };
    match (policy.unwrap_or(default), present) {
        ("Never", true) | ("IfNotPresent", true) => Decision::Use,
        ("Never", false) => Decision::Never,
        _ => Decision::Pull,
    }
}

fn has_latest_tag(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    !image.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// The registry an image comes from.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// The credentials secrets hold for an image's registry, the closest first.
pub fn credentials(secrets: &[std::sync::Arc<Secret>], image: &str) -> Vec<RegistryAuth> {
    let mut found: Vec<(usize, RegistryAuth)> = Vec::new();
    for secret in secrets {
        let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
        let parsed = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
        let auths = data(".dockerconfigjson")
            .and_then(parsed)
            .and_then(|config| config.get("auths").cloned())
            .or_else(|| data(".dockercfg").and_then(parsed));
        for (server, entry) in auths.as_ref().and_then(|auths| auths.as_object()).into_iter().flatten() {
            if let (Some(length), Some(auth)) = (matches(server, image), auth_of(entry)) {
                found.push((length, auth));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

/// How much of an image's name a server's entry covers.
fn matches(server: &str, image: &str) -> Option<usize> {
    let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let server = server.trim_end_matches("/v1").trim_end_matches("/v2");
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let docker = matches!(host, "index.docker.io" | "docker.io" | "registry-1.docker.io");
    let same = match host.strip_prefix("*.") {
        Some(suffix) => registry(image).split_once('.').is_some_and(|(_, rest)| rest == suffix),
        None => host == registry(image) || docker && registry(image) == "docker.io",
    };
    let rest = image.strip_prefix(registry(image)).map_or(image, |rest| rest.trim_start_matches('/'));
    (same && rest.starts_with(path)).then_some(server.len())
}

fn auth_of(entry: &serde_json::Value) -> Option<RegistryAuth> {
    let text = |key: &str| entry.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let mut auth =
        RegistryAuth { username: text("username"), password: text("password"), identity_token: text("identitytoken") };
    if auth.username.is_empty() && !text("auth").is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (username, password) = decoded.split_once(':')?;
        auth.username = username.to_owned();
        auth.password = password.trim_end_matches('\0').to_owned();
    }
    (auth != RegistryAuth::default()).then_some(auth)
}

/// Images to remove so that at least `wanted` bytes become free: unused ones, the largest first, never pinned ones.
pub fn to_collect(images: &[ImageStatus], used: &BTreeSet<String>, wanted: u64) -> Vec<String> {
    let in_use = |image: &ImageStatus| {
        used.contains(&image.id)
            || image.repo_tags.iter().any(|tag| used.contains(tag))
            || image.repo_digests.iter().any(|digest| used.contains(digest))
    };
    let mut idle: Vec<&ImageStatus> = images.iter().filter(|image| !image.pinned && !in_use(image)).collect();
    idle.sort_by(|one, other| other.size.cmp(&one.size).then_with(|| one.id.cmp(&other.id)));
    let mut freed = 0;
    let enough = |image: &&ImageStatus| {
        let more = freed < wanted;
        freed += image.size.0;
        more
    };
    idle.into_iter().take_while(enough).map(|image| image.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pull_policies_decide() {
        for (policy, image, present, wanted) in [
            (Some("Always"), "a:1", true, Decision::Pull),
            (Some("IfNotPresent"), "a:1", true, Decision::Use),
            (Some("IfNotPresent"), "a:1", false, Decision::Pull),
            (Some("Never"), "a:1", true, Decision::Use),
            (Some("Never"), "a:1", false, Decision::Never),
            (None, "a", true, Decision::Pull),
            (None, "a:latest", true, Decision::Pull),
            (None, "reg:5000/a:1", true, Decision::Use),
            (None, "reg:5000/a", true, Decision::Pull),
        ] {
            assert_eq!(decide(policy, image, present), wanted, "{policy:?} {image} {present}");
        }
    }

    #[test]
    fn credentials_are_those_of_the_images_registry() {
        let auth = base64::engine::general_purpose::STANDARD.encode("u:p:q");
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"username": "d", "password": "1"},
            "reg.example.com": {"auth": auth},
            "reg.example.com/team": {"username": "t", "password": "2"},
        }});
        let data = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let secret = json!({"data": {".dockerconfigjson": data}});
        let secrets = [std::sync::Arc::new(serde_json::from_value(secret).expect("a secret"))];
        let users = |image: &str| -> Vec<String> {
            credentials(&secrets, image)
                .into_iter()
                .map(|auth| format!("{}:{}", auth.username, auth.password))
                .collect()
        };
        assert_eq!(users("busybox"), ["d:1"]);
        assert_eq!(users("library/busybox:1"), ["d:1"]);
        assert_eq!(users("reg.example.com/x"), ["u:p:q"]);
        assert_eq!(users("reg.example.com/team/x"), ["t:2", "u:p:q"]);
        assert!(users("quay.io/x").is_empty());
    }

    #[test]
    fn only_idle_images_that_are_not_pinned_go() {
        let image = |id: &str, size, pinned| ImageStatus {
            id: id.into(),
            repo_tags: vec![format!("{id}:1")],
            repo_digests: vec![],
            size: base::Bytes(size),
            uid: None,
            username: String::new(),
            pinned,
        };
        let images = [image("a", 10, false), image("b", 30, false), image("c", 20, false), image("p", 99, true)];
        let used = BTreeSet::from(["c:1".to_owned()]);
        assert_eq!(to_collect(&images, &used, 5), ["b"]);
        assert_eq!(to_collect(&images, &used, 1000), ["b", "a"]);
        assert!(to_collect(&images, &used, 0).is_empty());
    }
}
