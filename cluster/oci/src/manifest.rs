//! The documents that describe an image, in the OCI's and Docker's forms, which differ in names only.
//!
//! Start at [`choose`], which finds this machine's part of an image for several.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::OciError;

/// What a document says of another: where it is, by content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A kind of machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `arm64`, in Go's words.
    pub architecture: String,
    /// Such as `v7`; mostly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// This machine.
    pub fn here() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: String::new() }
    }

    /// Whether a machine of kind `self` runs images for `other`.
    pub fn runs(&self, other: &Platform) -> bool {
        let variant_fits = self.variant.is_empty() || other.variant.is_empty() || self.variant == other.variant;
        self.os == other.os && self.architecture == other.architecture && variant_fits
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(out, "/{}", self.variant) }
    }
}

/// A manifest, or an index of manifests: they arrive under the same name.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    #[serde(default)]
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    pub(crate) config: Option<Descriptor>,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

/// A manifest of one image.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What the bytes under an image's name are.
pub(crate) enum Found {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// Reads a manifest or an index.
pub(crate) fn read(image: &str, bytes: &[u8]) -> Result<Found, OciError> {
    let what = || format!("the manifest of {image}");
    let document: Document = serde_json::from_slice(bytes).map_err(|error| OciError::malformed(what(), error))?;
    match document.config {
        Some(config) => Ok(Found::Manifest(Manifest { config, layers: document.layers })),
        None if !document.manifests.is_empty() => Ok(Found::Index(document.manifests)),
        None if document.schema_version == 1 => {
            Err(OciError::malformed(what(), "it is of version 1, which registries gave up in 2019"))
        }
        None => Err(OciError::malformed(what(), "it has neither a config nor manifests")),
    }
}

/// The entry of an index for `wanted`.
pub(crate) fn choose(image: &str, index: &[Descriptor], wanted: &Platform) -> Result<Descriptor, OciError> {
    // Attestations sit in the index as manifests for a machine called unknown.
    let real = |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|platform| platform.os != "unknown");
    let entries: Vec<&Descriptor> = index.iter().filter(real).collect();
    let fits = |entry: &&&Descriptor| entry.platform.as_ref().is_some_and(|platform| wanted.runs(platform));
    if let Some(entry) = entries.iter().find(fits) {
        return Ok((**entry).clone());
    }
    if let [only] = entries[..]
        && only.platform.is_none()
    {
        return Ok(only.clone());
    }
    let found = entries.iter().filter_map(|entry| entry.platform.as_ref()).map(ToString::to_string);
    Err(wrong_platform(image, wanted, found.collect()))
}

pub(crate) fn wrong_platform(image: &str, wanted: &Platform, mut found: Vec<String>) -> OciError {
    found.sort();
    found.dedup();
    let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
    OciError::Platform { image: image.to_owned(), wanted: wanted.to_string(), found }
}

/// An image's config document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The machine it is for.
    #[serde(default)]
    pub architecture: String,
    /// The system it is for.
    #[serde(default)]
    pub os: String,
    /// The kind of that machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// What its containers run.
    #[serde(default)]
    pub config: Config,
    /// Its layers.
    #[serde(default)]
    pub(crate) rootfs: RootFs,
}

/// The digests of an image's layers, unpacked, bottom first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub(crate) diff_ids: Vec<String>,
}

/// What an image's containers run, unless told otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user: String,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// The command's first words.
    #[serde(default, deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// The words after them.
    #[serde(default, deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// The working directory.
    #[serde(default, deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// The signal that asks it to stop.
    #[serde(default, deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// Labels.
    #[serde(default, deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// Paths that want to be volumes: the keys.
    #[serde(default, deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
}

/// Docker writes null for what is empty.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    pub(crate) fn platform(&self) -> Platform {
        Platform { os: self.os.clone(), architecture: self.architecture.clone(), variant: self.variant.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: Option<(&str, &str)>) -> Descriptor {
        let platform = platform.map(|(os, architecture)| Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: String::new(),
        });
        let digest = platform.as_ref().map(ToString::to_string).unwrap_or_default();
        Descriptor { digest, platform, ..Descriptor::default() }
    }

    #[track_caller]
    fn check(index: &[Option<(&str, &str)>], expected: &str) {
        let index: Vec<Descriptor> = index.iter().map(|each| entry(*each)).collect();
        let wanted = Platform { os: "linux".into(), architecture: "arm64".into(), variant: String::new() };
        let found = choose("app", &index, &wanted);
        assert_eq!(found.map_or_else(|error| error.to_string(), |entry| entry.digest), expected);
    }

    #[test]
    fn this_machines_part_is_chosen() {
        check(&[Some(("linux", "amd64")), Some(("linux", "arm64"))], "linux/arm64");
        check(&[None], "");
    }

    #[test]
    fn what_there_is_instead_is_named() {
        let expected = "image app has nothing for linux/arm64: it is for linux/amd64, windows/amd64";
        check(&[Some(("windows", "amd64")), Some(("linux", "amd64")), Some(("unknown", "unknown"))], expected);
        check(&[], "image app has nothing for linux/arm64: it is for nothing");
    }

    #[test]
    fn dockers_nulls_are_read() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Volumes":null}}"#;
        let config: ImageConfig = serde_json::from_str(text).expect("readable");
        assert_eq!(config.config.cmd, ["sh"]);
    }
}
