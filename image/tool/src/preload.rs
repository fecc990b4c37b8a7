//! Container images in the root: unpacked at build time, and used where they lie.
//!
//! Start at [`read`]. It takes an OCI archive apart into what the image store expects of a firmware folder (`images/ID.json`,
//! `layers/DIGEST/fs`); [`append_layer`] streams a layer into the root's archive with owners, modes, file capabilities and
//! opaque folders as they are, which needs no root rights because nothing is unpacked here.
//!
//! Not here: how such a folder is read (`cluster/oci`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Doing, Result, wrong};
use crate::packages::hex;

/// Where they lie in the root.
pub const FOLDER: &str = "usr/share/skerry/images";
/// Prefix of what a layer takes away.
const WHITEOUT: &str = ".wh.";
/// How a tar archive carries an attribute.
const ATTRIBUTE: &str = "SCHILY.xattr.";
const OPAQUE: &str = "SCHILY.xattr.trusted.overlay.opaque";
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The images of one archive.
#[derive(Debug, Default)]
pub struct Images {
    /// The store's record of each image, by its id.
    pub records: BTreeMap<String, String>,
    /// The layers, unpacked tars, by their digest.
    pub layers: BTreeMap<String, Vec<u8>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}
#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Reads every archive (`*.tar`) in a folder.
pub fn read_folder(folder: &Path) -> Result<Images> {
    let entries = std::fs::read_dir(folder).doing(format_args!("list {}", folder.display()))?.flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    let mut all = Images::default();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "tar")) {
        let images = read(file)?;
        all.records.extend(images.records);
        all.layers.extend(images.layers);
    }
    Ok(all)
}

/// Reads an OCI archive of images for the board.
pub fn read(archive: &Path) -> Result<Images> {
    let name = archive.display();
    let parts = parts(archive).doing(format_args!("read the archive {name}"))?;
    let bad = |what: &str| wrong(format_args!("{name} is no archive of OCI images: {what}"));
    let index = parts.get(Path::new("index.json")).ok_or_else(|| bad("it has no index.json"))?;
    let index: Index = serde_json::from_slice(index).map_err(|error| bad(&error.to_string()))?;
    let blob = |digest: &str| {
        let path = format!("blobs/{}", digest.replace(':', "/"));
        parts.get(Path::new(&path)).ok_or_else(|| bad(&format!("it has no {digest}")))
    };
    // Several names lead to one image; the record of each has all of them.
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in index.manifests {
        let title = entry
            .annotations
            .get("io.containerd.image.name")
            .or(entry.annotations.get("org.opencontainers.image.ref.name"));
        names.entry(entry.digest).or_default().extend(title.cloned());
    }
    let mut images = Images::default();
    for (digest, names) in names {
        let manifest: Manifest = serde_json::from_slice(blob(&digest)?).map_err(|error| bad(&error.to_string()))?;
        let config: Value =
            serde_json::from_slice(blob(&manifest.config.digest)?).map_err(|error| bad(&error.to_string()))?;
        if config["architecture"] != "arm64" {
            let found = config["architecture"].as_str().unwrap_or("no architecture");
            return Err(wrong(format_args!("{name}: an image is for {found}, and the boards are arm64")));
        }
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            let unpacked = unpacked(blob(&layer.digest)?).doing(format_args!("unpack {} of {name}", layer.digest))?;
            let digest = hex(&Sha256::digest(&unpacked));
            layers.push(format!("sha256:{digest}"));
            images.layers.insert(digest, unpacked);
        }
        if json!(layers) != config["rootfs"]["diff_ids"] {
            return Err(bad(&format!("the layers of {digest} are not those its config names")));
        }
        let size: usize = layers.iter().filter_map(|layer| images.layers.get(&layer[7..])).map(Vec::len).sum();
        let by_digest: Vec<String> = names.iter().filter_map(|name| with_digest(name, &digest)).collect();
        let id = manifest.config.digest.trim_start_matches("sha256:").to_owned();
        let sequence = images.records.len();
        let record = json!({
            "sequence": sequence, "names": names, "digests": by_digest, "layers": layers, "size": size, "config": config,
        });
        images.records.insert(id, record.to_string());
    }
    Ok(images)
}

/// The first file of this path in any of the layers.
pub fn file(images: &Images, path: &str) -> Option<Vec<u8>> {
    images.layers.values().find_map(|layer| file_of_layer(layer, Path::new(path)).ok().flatten())
}

fn file_of_layer(layer: &[u8], path: &Path) -> io::Result<Option<Vec<u8>>> {
    for entry in tar::Archive::new(layer).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() && entry.path()?.strip_prefix("./").unwrap_or(&entry.path()?) == path {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn with_digest(name: &str, digest: &str) -> Option<String> {
    let (repository, _) = name.rsplit_once(':')?;
    Some(format!("{repository}@{digest}"))
}

fn parts(archive: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut parts = BTreeMap::new();
    for entry in tar::Archive::new(File::open(archive)?).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        parts.insert(path, bytes);
    }
    Ok(parts)
}

fn unpacked(layer: &[u8]) -> io::Result<Vec<u8>> {
    if !layer.starts_with(&GZIP) {
        return Ok(layer.to_vec());
    }
    let mut bytes = Vec::new();
    MultiGzDecoder::new(layer).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Streams a layer's entries into `into`, below `prefix`.
pub fn append_layer<W: Write>(into: &mut tar::Builder<W>, prefix: &str, layer: &[u8]) -> io::Result<()> {
    let opaque = opaque_folders(layer)?;
    for entry in tar::Archive::new(layer).entries()? {
        let mut entry = entry?;
        let path: PathBuf =
            entry.path()?.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.is_empty() {
            continue;
        }
        let target = Path::new(prefix).join(&path);
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if !hidden.starts_with(WHITEOUT) {
                append_whiteout(into, &target.with_file_name(hidden))?;
            }
            continue;
        }
        let mut attributes: Vec<(String, Vec<u8>)> = Vec::new();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let key = extension.key().unwrap_or_default();
            if key.starts_with(ATTRIBUTE) {
                attributes.push((key.to_owned(), extension.value_bytes().to_vec()));
            }
        }
        if opaque.contains(&path) {
            attributes.push((OPAQUE.to_owned(), b"y".to_vec()));
        }
        if !attributes.is_empty() {
            into.append_pax_extensions(attributes.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
        }
        let mut header = entry.header().clone();
        match header.entry_type() {
            tar::EntryType::Symlink => {
                let link = entry.link_name()?.unwrap_or_default().into_owned();
                into.append_link(&mut header, target, link)?;
            }
            tar::EntryType::Link => {
                let link = entry.link_name()?.unwrap_or_default().into_owned();
                let inside: PathBuf =
                    link.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
                into.append_link(&mut header, target, Path::new(prefix).join(inside))?;
            }
            _ => into.append_data(&mut header, target, &mut entry)?,
        }
    }
    Ok(())
}

fn opaque_folders(layer: &[u8]) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in tar::Archive::new(layer).entries()? {
        let path = entry?.path()?.into_owned();
        if path.file_name().is_some_and(|name| name == ".wh..wh..opq") {
            let folder = path.parent().unwrap_or(Path::new(""));
            found.insert(folder.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect());
        }
    }
    Ok(found)
}

/// overlayfs says "gone" by a device of number 0.
fn append_whiteout<W: Write>(into: &mut tar::Builder<W>, path: &Path) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Char);
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_device_major(0)?;
    header.set_device_minor(0)?;
    into.append_data(&mut header, path, io::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |name: &str, kind: tar::EntryType, attribute: Option<(&str, &[u8])>| {
            if let Some(attribute) = attribute {
                builder.append_pax_extensions([attribute]).unwrap();
            }
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o755);
            builder.append_data(&mut header, name, io::empty()).unwrap();
        };
        add("bin/", tar::EntryType::Directory, None);
        add("bin/.wh..wh..opq", tar::EntryType::Regular, None);
        add("bin/ping", tar::EntryType::Regular, Some(("SCHILY.xattr.security.capability", b"\x01\0\0\x02")));
        add("etc/.wh.gone", tar::EntryType::Regular, None);
        builder.into_inner().unwrap()
    }

    #[test]
    fn capabilities_opaque_folders_and_whiteouts_survive() {
        let mut builder = tar::Builder::new(Vec::new());
        append_layer(&mut builder, "layers/x/fs", &layer()).unwrap();
        let bytes = builder.into_inner().unwrap();
        let mut seen = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let extensions = entry.pax_extensions().unwrap().into_iter().flatten();
            let keys: Vec<String> = extensions.map(|each| each.unwrap().key().unwrap().to_owned()).collect();
            seen.push((entry.path().unwrap().display().to_string(), entry.header().entry_type(), keys.join(",")));
        }
        let expected = [
            ("layers/x/fs/bin", tar::EntryType::Directory, OPAQUE),
            ("layers/x/fs/bin/ping", tar::EntryType::Regular, "SCHILY.xattr.security.capability"),
            ("layers/x/fs/etc/gone", tar::EntryType::Char, ""),
        ];
        let seen: Vec<(&str, tar::EntryType, &str)> =
            seen.iter().map(|(path, kind, keys)| (path.trim_end_matches('/'), *kind, keys.as_str())).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_no_archive_of_images_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.tar");
        std::fs::write(&file, layer()).unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.ends_with("x.tar is no archive of OCI images: it has no index.json"), "{error}");
    }
}
