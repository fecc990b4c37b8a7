//! Image names: `busybox`, `registry.local:5000/team/app:v1@sha256:…`.
//!
//! Start at [`Reference`], which is a name with all defaults filled in. The grammar is that of distribution/reference.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::OciError;

/// A complete image name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The registry, such as `docker.io` or `registry.local:5000`.
    pub registry: String,
    /// The repository, such as `library/busybox`.
    pub repository: String,
    /// The tag; `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// The digest of the manifest, where one was given: it decides.
    pub digest: Option<Digest>,
}

const NAME_LENGTH_MAX: usize = 255;
const TAG_LENGTH_MAX: usize = 128;

impl Reference {
    /// `registry/repository`.
    pub fn repository_name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name by which the store keeps it: with tag, without digest.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.repository_name()))
    }

    /// The name by its content.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.repository_name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(out, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = OciError;

    fn from_str(name: &str) -> Result<Reference, OciError> {
        parse(name).map_err(|detail| OciError::Name { name: name.to_owned(), detail })
    }
}

fn parse(name: &str) -> Result<Reference, String> {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|error| error.to_string())?)),
        None => (name, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    if let Some(tag) = &tag {
        check_tag(tag)?;
    }
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        Some(_) => ("docker.io", path.to_owned()),
        None => ("docker.io", format!("library/{path}")),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    let repository =
        if registry == "docker.io" && !repository.contains('/') { format!("library/{repository}") } else { repository };
    check_registry(registry)?;
    check_repository(&repository)?;
    if registry.len() + 1 + repository.len() > NAME_LENGTH_MAX {
        return Err(format!("it is longer than {NAME_LENGTH_MAX} characters"));
    }
    let tag = if digest.is_none() { Some(tag.unwrap_or_else(|| "latest".to_owned())) } else { tag };
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

fn check_tag(tag: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let fits = !tag.is_empty() && tag.len() <= TAG_LENGTH_MAX && tag.bytes().all(good);
    if fits && !tag.starts_with(['.', '-']) { Ok(()) } else { Err(format!("{tag:?} is no tag")) }
}

fn check_registry(registry: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
    let fits = !registry.is_empty() && registry.bytes().all(good);
    if fits { Ok(()) } else { Err(format!("{registry:?} is no registry")) }
}

fn check_repository(repository: &str) -> Result<(), String> {
    let good = |part: &str| {
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        ends(part.bytes().next()) && ends(part.bytes().last()) && part.bytes().all(inner)
    };
    match repository.split('/').find(|part| !good(part)) {
        None => Ok(()),
        Some(_) if repository.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            Err("repository name must be lowercase".to_owned())
        }
        Some(part) => Err(format!("{part:?} is no part of a repository name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(name: &str, expected: &str) {
        match name.parse::<Reference>() {
            Ok(found) => assert_eq!(found.to_string(), expected),
            Err(OciError::Name { detail, .. }) => assert_eq!(detail, expected),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn short_names_are_those_of_docker_hub() {
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1.28", "docker.io/library/busybox:1.28");
        check("docker.io/busybox", "docker.io/library/busybox:latest");
        check("index.docker.io/team/app", "docker.io/team/app:latest");
        check("team/app:v1", "docker.io/team/app:v1");
    }

    #[test]
    fn a_first_part_with_a_dot_or_port_is_a_registry() {
        check("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9");
        check("localhost/app", "localhost/app:latest");
        check("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x");
    }

    #[test]
    fn a_digest_needs_no_tag() {
        check(&format!("busybox@{DIGEST}"), &format!("docker.io/library/busybox@{DIGEST}"));
        check(&format!("busybox:1@{DIGEST}"), &format!("docker.io/library/busybox:1@{DIGEST}"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        check("", "\"\" is no part of a repository name");
        check("Busybox", "repository name must be lowercase");
        check("a//b", "\"\" is no part of a repository name");
        check(
            "../../etc",
            "\"..\" is no registry_".trim_end_matches('_').replace("registry", "part of a repository name").as_str(),
        );
        check("a:", "\"\" is no tag");
        check("a:b c", "\"b c\" is no tag");
        check("a@sha256:1", "digest \"sha256:1\" is malformed: only sha256 with 64 lower-case digits is known");
    }
}
