//! Images in one file: a tar of an OCI layout, or what `docker save` writes.
//!
//! Start at [`import`]. The tar is looked through once; content is then read from where it lies.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{Doing, OciError};
use crate::limit::Limit;
use crate::manifest::{Descriptor, Found, Manifest, choose, read, wrong_platform};
use crate::name::Reference;
use crate::store::{Came, Image, Store, read_config};
use crate::unpack::decompressed;

/// The longest document in an archive.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// Links from a name to another, as old `docker save` wrote shared layers.
const LINKS_MAX: usize = 8;

/// A tar whose parts can be read in any order.
struct Archive {
    file: File,
    name: String,
    parts: BTreeMap<String, (u64, u64)>,
    links: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// See [`Store::import`].
pub(crate) fn import(store: &Store, path: &Path, names: &[Reference]) -> Result<Vec<Image>, OciError> {
    let mut archive = Archive::open(store, path)?;
    if archive.parts.contains_key("index.json") {
        return import_layout(store, &mut archive, names);
    }
    if archive.parts.contains_key("manifest.json") {
        return import_saved(store, &mut archive, names);
    }
    Err(OciError::malformed(&archive.name, "it has neither index.json (OCI) nor manifest.json (docker save)"))
}

fn import_layout(store: &Store, archive: &mut Archive, names: &[Reference]) -> Result<Vec<Image>, OciError> {
    let index = match read(&archive.name.clone(), &archive.document("index.json")?)? {
        Found::Index(entries) => entries,
        Found::Manifest(_) => return Err(OciError::malformed(&archive.name, "its index.json is no index")),
    };
    let named: Vec<(Vec<Reference>, Descriptor)> =
        index.into_iter().map(|entry| (entry_names(&entry, names), entry)).collect();
    // Several entries under one name, or under none, are one image for several machines.
    let mut groups: BTreeMap<Vec<Reference>, Vec<Descriptor>> = BTreeMap::new();
    for (names, entry) in named {
        groups.entry(names).or_default().push(entry);
    }
    let outcomes = groups.into_iter().map(|(names, entries)| layout_image(store, archive, &names, &entries));
    those_for_here(outcomes.collect())
}

/// An archive may hold images for several machines: those for this one count, unless there are none.
fn those_for_here(outcomes: Vec<Result<Image, OciError>>) -> Result<Vec<Image>, OciError> {
    let (mut images, mut foreign) = (Vec::new(), None);
    for outcome in outcomes {
        match outcome {
            Ok(image) => images.push(image),
            Err(error @ OciError::Platform { .. }) => foreign = Some(error),
            Err(error) => return Err(error),
        }
    }
    match foreign {
        Some(error) if images.is_empty() => Err(error),
        _ => Ok(images),
    }
}

fn layout_image(
    store: &Store,
    archive: &mut Archive,
    names: &[Reference],
    entries: &[Descriptor],
) -> Result<Image, OciError> {
    let title = names.first().map_or_else(|| archive.name.clone(), ToString::to_string);
    let entry = match entries {
        [only] => only.clone(),
        several => choose(&title, several, store.platform())?,
    };
    let (digest, manifest, documents) = resolve(store, archive, &title, &entry)?;
    let config = archive.blob(&manifest.config)?;
    check_platform(store, &title, &manifest.config, &config)?;
    let diff_ids = diff_ids(&manifest, &config)?;
    for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
        if !store.has_layer(diff_id) {
            let part = archive.part(&blob_name(&layer.digest)?)?;
            store.add_layer(diff_id, part, &Limit::none())?;
        }
    }
    let tags = names.iter().filter_map(Reference::tagged);
    let digests = names.iter().map(|name| name.with_digest(&digest));
    store.add_image(&config, tags, digests, Came { documents, ..Came::default() })
}

/// Follows indexes down to this machine's manifest. The digest is that of the topmost document, as pullers know it; all that
/// were followed are told.
fn resolve(
    store: &Store,
    archive: &mut Archive,
    title: &str,
    entry: &Descriptor,
) -> Result<(Digest, Manifest, Vec<Vec<u8>>), OciError> {
    let top: Digest = entry.digest.parse()?;
    let (mut entry, mut documents) = (entry.clone(), Vec::new());
    for _ in 0..INDEXES_MAX {
        let document = archive.blob(&entry)?;
        let found = read(title, &document)?;
        documents.push(document);
        match found {
            Found::Manifest(manifest) => return Ok((top, manifest, documents)),
            Found::Index(entries) => entry = choose(title, &entries, store.platform())?,
        }
    }
    Err(OciError::malformed(title, format!("its indexes are nested more than {INDEXES_MAX} deep")))
}

/// Indexes of indexes, of at most this depth.
const INDEXES_MAX: usize = 4;

fn entry_names(entry: &Descriptor, names: &[Reference]) -> Vec<Reference> {
    if !names.is_empty() {
        return names.to_vec();
    }
    // containerd writes the whole name, others the tag alone under the second key, which then is no name to us.
    let annotation = |key: &str| entry.annotations.get(key);
    let name = annotation("io.containerd.image.name")
        .or_else(|| annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':'])));
    name.and_then(|name| name.parse().ok()).into_iter().collect()
}

fn import_saved(store: &Store, archive: &mut Archive, names: &[Reference]) -> Result<Vec<Image>, OciError> {
    let document = archive.document("manifest.json")?;
    let saved: Vec<Saved> =
        serde_json::from_slice(&document).map_err(|error| OciError::malformed(&archive.name, error))?;
    those_for_here(saved.iter().map(|each| saved_image(store, archive, each, names)).collect())
}

fn saved_image(store: &Store, archive: &mut Archive, saved: &Saved, names: &[Reference]) -> Result<Image, OciError> {
    let config = archive.document(&saved.config)?;
    let tags: Vec<Reference> = match &saved.repo_tags {
        Some(tags) if names.is_empty() => tags.iter().map(|tag| tag.parse()).collect::<Result<_, _>>()?,
        _ => names.to_vec(),
    };
    let title = tags.first().map_or_else(|| archive.name.clone(), ToString::to_string);
    check_platform(store, &title, &Descriptor::default(), &config)?;
    let id = Digest::of(&config);
    let wanted: Vec<Digest> =
        read_config(&id, &config)?.rootfs.diff_ids.iter().map(|each| each.parse()).collect::<Result<_, _>>()?;
    if wanted.len() != saved.layers.len() {
        return Err(layer_count(&title, wanted.len(), saved.layers.len()));
    }
    for (name, diff_id) in saved.layers.iter().zip(&wanted) {
        if !store.has_layer(diff_id) {
            store.add_layer(diff_id, archive.part(name)?, &Limit::none())?;
        }
    }
    store.add_image(&config, tags.iter().filter_map(Reference::tagged), [], Came::default())
}

fn layer_count(image: &str, said: usize, there: usize) -> OciError {
    OciError::malformed(image, format!("its config speaks of {said} layers, its manifest of {there}"))
}

/// The digests of the layers' tars, one for each layer.
pub(crate) fn diff_ids(manifest: &Manifest, config: &[u8]) -> Result<Vec<Digest>, OciError> {
    let id = Digest::of(config);
    let config = read_config(&id, config)?;
    let diff_ids: Vec<Digest> = config.rootfs.diff_ids.iter().map(|each| each.parse()).collect::<Result<_, _>>()?;
    if diff_ids.len() != manifest.layers.len() {
        return Err(layer_count(&id.to_string(), diff_ids.len(), manifest.layers.len()));
    }
    Ok(diff_ids)
}

/// An image's own config says what it is for, whatever led to it.
pub(crate) fn check_platform(
    store: &Store,
    title: &str,
    descriptor: &Descriptor,
    config: &[u8],
) -> Result<(), OciError> {
    if !descriptor.media_type.is_empty()
        && !descriptor.media_type.contains("config")
        && !descriptor.media_type.contains("image")
    {
        let detail = format!("its config is of type {}, which is no image", descriptor.media_type);
        return Err(OciError::malformed(title, detail));
    }
    let found = read_config(&Digest::of(config), config)?.platform();
    let unsaid = found.architecture.is_empty() && found.os.is_empty();
    if unsaid || store.platform().runs(&found) {
        return Ok(());
    }
    Err(wrong_platform(title, store.platform(), vec![found.to_string()]))
}

fn blob_name(digest: &str) -> Result<String, OciError> {
    Ok(format!("blobs/sha256/{}", digest.parse::<Digest>()?.hex()))
}

impl Archive {
    fn open(store: &Store, path: &Path) -> Result<Archive, OciError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let open = |path: &Path| File::open(path).doing(format!("open {}", path.display()));
        let mut file = open(path)?;
        let mut start = [0; 4];
        let length = file.read(&mut start).doing(format!("read {}", path.display()))?;
        if start[..length].starts_with(&[0x1f, 0x8b]) || start[..length] == [0x28, 0xb5, 0x2f, 0xfd] {
            file = plain_copy(store, path)?;
        }
        let mut archive = Archive { file, name, parts: BTreeMap::new(), links: BTreeMap::new() };
        archive.look_through().map_err(|error| OciError::malformed(&archive.name, error))?;
        Ok(archive)
    }

    fn look_through(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut tar = tar::Archive::new(BufReader::new(self.file.try_clone()?));
        for entry in tar.entries_with_seek()? {
            let entry = entry?;
            let name = tidy(&entry.path()?);
            match entry.header().entry_type() {
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry.link_name()?.unwrap_or_default().into_owned();
                    let is_hard = entry.header().entry_type() == tar::EntryType::Link;
                    let base = if is_hard {
                        PathBuf::new()
                    } else {
                        entry.path()?.parent().unwrap_or(Path::new("")).to_owned()
                    };
                    self.links.insert(name, tidy(&base.join(target)));
                }
                kind if kind.is_file() => drop(self.parts.insert(name, (entry.raw_file_position(), entry.size()))),
                _ => {}
            }
        }
        Ok(())
    }

    fn part(&mut self, name: &str) -> Result<Take<BufReader<File>>, OciError> {
        let mut name = tidy(Path::new(name));
        for _ in 0..LINKS_MAX {
            if let Some(target) = self.links.get(&name) {
                name = target.clone();
            }
        }
        let (start, length) =
            *self.parts.get(&name).ok_or_else(|| OciError::malformed(&self.name, format!("it lacks {name}")))?;
        let action = || format!("read {name} in {}", self.name);
        let mut file = self.file.try_clone().doing(action())?;
        file.seek(SeekFrom::Start(start)).doing(action())?;
        Ok(BufReader::with_capacity(64 << 10, file).take(length))
    }

    fn document(&mut self, name: &str) -> Result<Vec<u8>, OciError> {
        let part = self.part(name)?;
        if part.limit() > DOCUMENT_BYTES_MAX {
            return Err(OciError::malformed(&self.name, format!("{name} is longer than {DOCUMENT_BYTES_MAX} bytes")));
        }
        let mut bytes = Vec::new();
        { part }.read_to_end(&mut bytes).doing(format!("read {name} in {}", self.name))?;
        Ok(bytes)
    }

    /// A document by its digest, which is checked.
    fn blob(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>, OciError> {
        let bytes = self.document(&blob_name(&descriptor.digest)?)?;
        let found = Digest::of(&bytes);
        if found.to_string() != descriptor.digest {
            let what = format!("a document in {}", self.name);
            return Err(OciError::Digest { what, wanted: descriptor.digest.clone(), found: found.to_string() });
        }
        Ok(bytes)
    }
}

/// A compressed archive is unpacked to a nameless file first: its parts are wanted out of order.
fn plain_copy(store: &Store, path: &Path) -> Result<File, OciError> {
    let scratch = store.scratch()?;
    let copy = || -> io::Result<File> {
        let target = scratch.join("archive.tar");
        let mut file = File::options().read(true).write(true).create_new(true).open(&target)?;
        io::copy(&mut decompressed(File::open(path)?)?, &mut file)?;
        Ok(file)
    };
    let file = copy().doing(format!("decompress {}", path.display()));
    let _ = fs::remove_dir_all(&scratch);
    file
}

/// A name as it is looked up: without `./`, `..` resolved on paper.
fn tidy(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}
