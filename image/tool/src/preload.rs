//! Container images in the root: unpacked at build time, and used where they lie.
//!
//! Start at [`read`]. It takes an OCI archive apart into what the image store expects of a firmware folder (`images/ID.json`,
//! `layers/DIGEST/fs`) and what it needs to hand the images on to other nodes (`layers/DIGEST/recipe`, `documents/DIGEST`);
//! [`append_layer`] streams a layer into the root's archive with owners, modes, file capabilities and opaque folders as they
//! are, which needs no root rights because nothing is unpacked here.
//!
//! Not here: how such a folder is read, and what a recipe looks like (`cluster/oci`, `store.rs` and `recipe.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Doing, Error, Result, wrong};
use crate::packages::hex;

/// Where they lie in the root.
pub const FOLDER: &str = "usr/share/skerry/images";
/// Prefix of what a layer takes away.
const WHITEOUT: &str = ".wh.";
/// How a tar archive carries an attribute.
const ATTRIBUTE: &str = "SCHILY.xattr.";
const OPAQUE: &str = "SCHILY.xattr.trusted.overlay.opaque";
/// How what is packed begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Indexes of indexes, of at most this depth.
const INDEXES_MAX: usize = 4;
/// A step of a recipe holds at most so many bytes: readers hold them in memory.
const LITERAL_BYTES_MAX: usize = 64 << 10;

/// The images of one archive.
#[derive(Debug, Default)]
pub struct Images {
    /// The store's record of each image, by its id.
    pub records: BTreeMap<String, String>,
    /// The layers, unpacked tars, by their digest.
    pub layers: BTreeMap<String, Vec<u8>>,
    /// What proves an image to a node that gets it from here, by its digest: its config, and the manifests that lead to it.
    pub documents: BTreeMap<String, Vec<u8>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}
#[derive(Deserialize)]
struct Platform {
    architecture: String,
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

/// Reads every archive (`*.tar`) in a folder, of images for boards of an architecture.
pub fn read_folder(folder: &Path, architecture: &str) -> Result<Images> {
    let entries = std::fs::read_dir(folder).doing(format_args!("list {}", folder.display()))?.flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    let mut all = Images::default();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "tar")) {
        let images = read(file, architecture)?;
        all.records.extend(images.records);
        all.layers.extend(images.layers);
        all.documents.extend(images.documents);
    }
    Ok(all)
}

/// Reads an OCI archive of images for machines of an architecture, in the OCI's word for it.
pub fn read(archive: &Path, architecture: &str) -> Result<Images> {
    let name = archive.display();
    let parts = parts(archive).doing(format_args!("read the archive {name}"))?;
    let opened = Opened { name: name.to_string(), parts, architecture };
    let index = opened.parts.get(Path::new("index.json")).ok_or_else(|| opened.bad("it has no index.json"))?;
    // Several names lead to one image; the record of each has all of them.
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in opened.parse::<Index>(index)?.manifests {
        let title = entry
            .annotations
            .get("io.containerd.image.name")
            .or(entry.annotations.get("org.opencontainers.image.ref.name"));
        names.entry(entry.digest).or_default().extend(title.cloned());
    }
    let mut images = Images::default();
    for (digest, names) in names {
        opened.image(&digest, &names, &mut images)?;
    }
    Ok(images)
}

/// An archive that is being read.
struct Opened<'a> {
    name: String,
    parts: BTreeMap<PathBuf, Vec<u8>>,
    architecture: &'a str,
}

impl Opened<'_> {
    fn bad(&self, what: &str) -> Error {
        wrong(format_args!("{} is no archive of OCI images: {what}", self.name))
    }

    fn parse<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        serde_json::from_slice(bytes).map_err(|error| self.bad(&error.to_string()))
    }

    fn blob(&self, digest: &str) -> Result<&[u8]> {
        let path = format!("blobs/{}", digest.replace(':', "/"));
        self.parts.get(Path::new(&path)).map(Vec::as_slice).ok_or_else(|| self.bad(&format!("it has no {digest}")))
    }

    /// Adds the image that the document `top` leads to.
    fn image(&self, top: &str, names: &BTreeSet<String>, images: &mut Images) -> Result<()> {
        let (documents, manifest) = self.manifest(top)?;
        let config: Value = self.parse(self.blob(&manifest.config.digest)?)?;
        if config["architecture"] != self.architecture {
            let found = config["architecture"].as_str().unwrap_or("no architecture");
            let wanted = self.architecture;
            return Err(wrong(format_args!("{}: an image is for {found}, and {wanted} is wanted", self.name)));
        }
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            let unpacked =
                unpacked(self.blob(&layer.digest)?).doing(format_args!("unpack {} of {}", layer.digest, self.name))?;
            let digest = hex(&Sha256::digest(&unpacked));
            layers.push(format!("sha256:{digest}"));
            images.layers.insert(digest, unpacked);
        }
        if json!(layers) != config["rootfs"]["diff_ids"] {
            return Err(self.bad(&format!("the layers of {top} are not those its config names")));
        }
        for digest in documents.iter().chain([&manifest.config.digest]) {
            let (bytes, hex) = (self.blob(digest)?.to_vec(), digest.trim_start_matches("sha256:"));
            images.documents.insert(hex.to_owned(), bytes);
        }
        let size: usize = layers.iter().filter_map(|layer| images.layers.get(&layer[7..])).map(Vec::len).sum();
        let by_digest: Vec<String> = names.iter().filter_map(|name| with_digest(name, top)).collect();
        let id = manifest.config.digest.trim_start_matches("sha256:").to_owned();
        let sequence = images.records.len();
        let record = json!({
            "sequence": sequence, "names": names, "digests": by_digest, "layers": layers, "size": size, "config": config,
            "documents": documents,
        });
        images.records.insert(id, record.to_string());
        Ok(())
    }

    /// The manifest that a document leads to, and the digests of all documents on the way.
    fn manifest(&self, top: &str) -> Result<(Vec<String>, Manifest)> {
        let mut documents = vec![top.to_owned()];
        while documents.len() <= INDEXES_MAX {
            let document = self.blob(&documents[documents.len() - 1])?;
            let Ok(index) = serde_json::from_slice::<Index>(document) else {
                return Ok((documents, self.parse(document)?));
            };
            let is_for = |entry: &Descriptor| entry.platform.as_ref().map(|platform| platform.architecture.clone());
            let fits = |entry: &&Descriptor| is_for(entry).is_none_or(|found| found == self.architecture);
            let next = index.manifests.iter().find(fits);
            let nothing = || wrong(format_args!("{}: {top} has nothing for {}", self.name, self.architecture));
            documents.push(next.ok_or_else(nothing)?.digest.clone());
        }
        Err(self.bad(&format!("the indexes of {top} are nested more than {INDEXES_MAX} deep")))
    }
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
        let path = inside(&entry.path()?);
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        parts.insert(path, bytes);
    }
    Ok(parts)
}

/// A layer as nodes take it from a registry too: packed with gzip, with zstd or not at all.
fn unpacked(layer: &[u8]) -> io::Result<Vec<u8>> {
    if layer.starts_with(&ZSTD) {
        return zstd::stream::decode_all(layer);
    }
    if !layer.starts_with(&GZIP) {
        return Ok(layer.to_vec());
    }
    let mut bytes = Vec::new();
    MultiGzDecoder::new(layer).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How a layer's tar is made again from its files; none if it takes away what it brought itself, as the content is gone then.
pub fn recipe(layer: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut recipe = (layer.len() as u64).to_le_bytes().to_vec();
    let literal = |recipe: &mut Vec<u8>, bytes: &[u8]| {
        for piece in bytes.chunks(LITERAL_BYTES_MAX) {
            recipe.push(0);
            recipe.extend((piece.len() as u32).to_le_bytes());
            recipe.extend(piece);
        }
    };
    // What there is by now, and whether it is a folder.
    let mut seen: BTreeMap<PathBuf, bool> = BTreeMap::new();
    let mut told = 0;
    for entry in tar::Archive::new(layer).entries()? {
        let entry = entry?;
        let (path, kind) = (inside(&entry.path()?), entry.header().entry_type());
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let hidden = path.with_file_name(hidden);
            if seen.range(hidden.clone()..).next().is_some_and(|(path, _)| path.starts_with(&hidden)) {
                return Ok(None);
            }
            continue;
        }
        let is_folder = kind.is_dir();
        if seen.insert(path.clone(), is_folder).is_some_and(|was_folder| !(was_folder && is_folder)) {
            return Ok(None);
        }
        let name = path.as_os_str().as_bytes();
        let (start, size) = (entry.raw_file_position() as usize, entry.size() as usize);
        if !matches!(kind, tar::EntryType::Regular | tar::EntryType::Continuous) || size == 0 {
            continue;
        }
        let Ok(name_length) = u16::try_from(name.len()) else { continue };
        literal(&mut recipe, &layer[told..start]);
        recipe.push(1);
        recipe.extend(name_length.to_le_bytes());
        recipe.extend(name);
        recipe.extend((size as u64).to_le_bytes());
        told = start + size;
    }
    literal(&mut recipe, &layer[told..]);
    Ok(Some(recipe))
}

/// A path of an archive as it is below a folder.
fn inside(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// Streams a layer's entries into `into`, below `prefix`.
pub fn append_layer<W: Write>(into: &mut tar::Builder<W>, prefix: &str, layer: &[u8]) -> io::Result<()> {
    let opaque = opaque_folders(layer)?;
    for entry in tar::Archive::new(layer).entries()? {
        let mut entry = entry?;
        let path = inside(&entry.path()?);
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
                into.append_link(&mut header, target, Path::new(prefix).join(inside(&link)))?;
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
            found.insert(inside(folder));
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

    const ARCHITECTURE: &str = "arm64";

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

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// An archive of an image for both machines, as `docker save` writes one.
    fn archive(folder: &Path, layer: &[u8]) -> PathBuf {
        archive_packed(folder, layer, layer)
    }

    /// The same, where the layer is in it as `packed`.
    fn archive_packed(folder: &Path, layer: &[u8], packed: &[u8]) -> PathBuf {
        let digest = |bytes: &[u8]| format!("sha256:{}", hex(&Sha256::digest(bytes)));
        let config = json!({"architecture": ARCHITECTURE, "os": "linux", "rootfs": {"diff_ids": [digest(layer)]}});
        let config = config.to_string();
        let manifest = json!({"config": {"digest": digest(config.as_bytes())}, "layers": [{"digest": digest(packed)}]})
            .to_string();
        let other = json!({"digest": digest(b"other"), "platform": {"architecture": "amd64", "os": "linux"}});
        let ours =
            json!({"digest": digest(manifest.as_bytes()), "platform": {"architecture": ARCHITECTURE, "os": "linux"}});
        let both = json!({"manifests": [other, ours]}).to_string();
        let names = json!({"io.containerd.image.name": "docker.io/library/app:1"});
        let top = json!({"manifests": [{"digest": digest(both.as_bytes()), "annotations": names}]}).to_string();
        let blob = |bytes: &[u8]| format!("blobs/{}", digest(bytes).replace(':', "/"));
        let blobs = [packed, config.as_bytes(), manifest.as_bytes(), both.as_bytes()].map(|bytes| (blob(bytes), bytes));
        let mut files: Vec<(&str, &[u8])> = blobs.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
        files.push(("index.json", top.as_bytes()));
        let path = folder.join("app.tar");
        std::fs::write(&path, tar_of(&files)).unwrap();
        path
    }

    #[test]
    fn a_node_hands_on_what_its_firmware_has() {
        let folder = tempfile::tempdir().unwrap();
        let large = vec![7; 3 * LITERAL_BYTES_MAX];
        let layer = tar_of(&[("bin/large", &large), ("bin/empty", b""), ("etc/small", b"x")]);
        let mut root = crate::root::Root::default();
        root.add_images(read(&archive(folder.path(), &layer), ARCHITECTURE).unwrap()).unwrap();
        let mut packed = Vec::new();
        root.tar(&mut packed).unwrap();
        tar::Archive::new(&packed[..]).unpack(folder.path().join("root")).unwrap();
        let store =
            oci::Store::open(&folder.path().join("images"), &[folder.path().join("root").join(FOLDER)]).unwrap();
        let Some(oci::Given::Offer(offer)) = store.give("images/docker.io/library/app:1", None).unwrap() else {
            panic!("the image is not offered");
        };
        let offer: Value = serde_json::from_slice(&offer).unwrap();
        assert_eq!(offer["documents"].as_array().map(Vec::len), Some(2), "the index and the manifest: {offer}");
        let (id, digest) = (&store.list()[0].id, hex(&Sha256::digest(&layer)));
        let Some(oci::Given::Layer(mut told)) = store.give(&format!("layers/{}/{digest}", id.hex()), None).unwrap()
        else {
            panic!("the layer is not given");
        };
        let mut bytes = Vec::new();
        told.read_to_end(&mut bytes).unwrap();
        assert!(bytes == layer, "the layer is another");
    }

    #[test]
    fn a_layer_may_be_packed() {
        let layer = tar_of(&[("bin/app", &[7; 100_000])]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&layer).unwrap();
        let zstd = zstd::stream::encode_all(&layer[..], 0).unwrap();
        // Of several frames, as some packers make it.
        let (start, end) = layer.split_at(1000);
        let frames = [start, end].map(|part| zstd::stream::encode_all(part, 0).unwrap()).concat();
        for packed in [gzip.finish().unwrap(), zstd.clone(), frames] {
            let folder = tempfile::tempdir().unwrap();
            let images = read(&archive_packed(folder.path(), &layer, &packed), ARCHITECTURE).unwrap();
            assert!(images.layers.into_values().eq([layer.clone()]));
        }
        let folder = tempfile::tempdir().unwrap();
        let cut = &zstd[..zstd.len() - 4];
        let error = read(&archive_packed(folder.path(), &layer, cut), ARCHITECTURE).unwrap_err();
        let error = base::chain(&error).to_string();
        assert!(error.contains("unpack sha256:") && error.contains("app.tar"), "{error}");
    }

    #[test]
    fn a_layer_that_takes_away_what_it_brought_has_no_recipe() {
        let is_told = |files: &[(&str, &[u8])]| recipe(&tar_of(files)).unwrap().is_some();
        assert!(is_told(&[("a/b", b"x"), ("a/.wh.c", b"")]));
        assert!(!is_told(&[("a/b", b"x"), ("a/b", b"y")]));
        assert!(!is_told(&[("a/b", b"x"), (".wh.a", b"")]));
    }

    #[test]
    fn what_is_no_archive_of_images_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.tar");
        std::fs::write(&file, layer()).unwrap();
        let error = read(&file, ARCHITECTURE).unwrap_err().to_string();
        assert!(error.ends_with("x.tar is no archive of OCI images: it has no index.json"), "{error}");
    }
}
