//! The images of this machine, on disk.
//!
//! Start at [`Store::open`]. The folder holds
//!
//! ```text
//! images/<config digest>.json   an image: its names, its layers, its config; the index is made from these at the start
//! layers/<digest>/fs            a layer, unpacked, by the digest of its tar
//! layers/<digest>/recipe        how that tar is made again from it (`recipe.rs`)
//! documents/<digest>            what proves an image: its config, and the manifests and indexes that lead to it
//! tmp/                          what is not finished; emptied at the start
//! ```
//!
//! and a folder of the firmware is laid out the same way, and read only.
//!
//! Invariants:
//! * a layer or image is under its name only when it is whole and synced;
//! * a layer goes when no image and no container uses it, a document when no image does;
//! * who pulled an image with a password does not give it to everybody: [`Image`]s say to whom they may be handed on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use base::{Bytes, chain};
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hashing, is_hex};
use crate::error::{Doing, OciError};
use crate::limit::{Limit, Meter, Metering};
use crate::manifest::{ImageConfig, Platform};
use crate::name::Reference;
use crate::recipe::{RECIPE, Recorder, Retold};
use crate::unpack::{decompressed, unpack};

/// An image on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The digest of its config.
    pub id: Digest,
    /// Its names with tags, complete.
    pub names: Vec<String>,
    /// Its names with digests, complete.
    pub digests: Vec<String>,
    /// What its containers run.
    pub config: ImageConfig,
    /// Its unpacked layers, bottom first.
    pub layers: Vec<PathBuf>,
    /// Their size.
    pub size: Bytes,
    /// Part of the firmware.
    pub pinned: bool,
    /// Put on this machine beforehand: by the firmware, or by an archive in the preload folder.
    pub preloaded: bool,
}

/// An image as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    /// Which record of two that claim a name was written later.
    sequence: u64,
    names: BTreeSet<String>,
    digests: BTreeSet<String>,
    layers: Vec<Digest2>,
    size: u64,
    config: ImageConfig,
    #[serde(default)]
    preloaded: bool,
    /// Got without a password: anybody may have it.
    #[serde(default)]
    open: bool,
    /// Who else may: [`Credentials::proof`](crate::Credentials::proof) of what it was got with.
    #[serde(default)]
    proofs: BTreeSet<String>,
    /// What leads to its config, by its digests.
    #[serde(default)]
    documents: BTreeSet<Digest2>,
}

impl Record {
    fn is_for(&self, proof: Option<&str>) -> bool {
        self.open || proof.is_some_and(|proof| self.proofs.contains(proof))
    }
}

/// How an image came here, which decides who may have it from here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Came {
    /// The indexes and manifests that led to its config.
    pub(crate) documents: Vec<Vec<u8>>,
    /// What it was got with; `None` is without any password.
    pub(crate) proof: Option<String>,
    /// Put on some machine of the cluster beforehand.
    pub(crate) preloaded: bool,
}

/// An image as it is handed on, its layers aside. On its way it is JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// Its config, which says everything of it.
    pub(crate) config: String,
    /// Indexes and manifests that lead there.
    pub(crate) documents: Vec<String>,
    /// Its names by digest.
    #[serde(default)]
    pub(crate) digests: BTreeSet<String>,
    /// Anybody may have it.
    #[serde(default)]
    pub(crate) open: bool,
    /// It was put on a machine of the cluster beforehand.
    #[serde(default)]
    pub(crate) preloaded: bool,
}

/// A digest in a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Digest2(Digest);

impl TryFrom<String> for Digest2 {
    type Error = OciError;
    fn try_from(text: String) -> Result<Digest2, OciError> {
        text.parse().map(Digest2)
    }
}
impl From<Digest2> for String {
    fn from(digest: Digest2) -> String {
        digest.0.to_string()
    }
}

/// The images of this machine. Clones share them.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Store({})", self.0.folder.display())
    }
}

struct Inner {
    folder: PathBuf,
    firmware: Vec<(PathBuf, BTreeMap<Digest, Record>)>,
    platform: Platform,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<Digest, Record>,
    next_sequence: u64,
    next_scratch: u64,
    /// Images on their way in: their layers have no image yet.
    arriving: usize,
}

/// An image is on its way in: while this lives, no layer is removed.
pub(crate) struct Arriving(Store);

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.lock().arriving -= 1;
    }
}

impl Store {
    /// Opens the images in `folder`, which is made if need be, and those of the firmware in `firmware`.
    pub fn open(folder: &Path, firmware: &[PathBuf]) -> Result<Store, OciError> {
        for name in ["images", "layers", "documents", "tmp", "empty"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).doing(format!("make {}", path.display()))?;
        }
        empty(&folder.join("tmp"));
        let records = read_records(&folder.join("images"));
        let next_sequence = records.values().map(|record| record.sequence + 1).max().unwrap_or(0);
        let firmware =
            firmware.iter().map(|each| (each.clone(), read_records(&each.join("images")))).collect::<Vec<_>>();
        let state = Mutex::new(State { records, next_sequence, ..State::default() });
        let inner = Inner { folder: folder.to_owned(), firmware, platform: Platform::here(), state };
        Ok(Store(Arc::new(inner)))
    }

    /// The machine images are chosen for.
    pub fn platform(&self) -> &Platform {
        &self.0.platform
    }

    /// The folder it lives in.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// All images, by id; those of the firmware too.
    pub fn list(&self) -> Vec<Image> {
        let state = self.lock();
        let mut all: BTreeMap<Digest, Image> = BTreeMap::new();
        for (id, record) in &state.records {
            all.insert(id.clone(), self.image(id, record, &self.0.folder, false));
        }
        for (folder, records) in &self.0.firmware {
            for (id, record) in records {
                let image = self.image(id, record, folder, true);
                match all.get_mut(id) {
                    Some(known) => {
                        known.names.extend(image.names);
                        known.digests.extend(image.digests);
                        (known.layers, known.pinned, known.preloaded) = (image.layers, true, true);
                        for list in [&mut known.names, &mut known.digests] {
                            list.sort();
                            list.dedup();
                        }
                    }
                    None => drop(all.insert(id.clone(), image)),
                }
            }
        }
        all.into_values().collect()
    }

    /// An image by any of its names: with tag, with digest, its id (with or without `sha256:`), or the id's first
    /// digits, at least [`SHORT_ID_LENGTH_MIN`].
    pub fn find(&self, name: &str) -> Option<Image> {
        let all = self.list();
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        if is_hex(digits) && digits.len() >= SHORT_ID_LENGTH_MIN {
            let mut hits = all.iter().filter(|image| image.id.hex().starts_with(digits));
            if let (Some(hit), None) = (hits.next(), hits.next()) {
                return Some(hit.clone());
            }
        }
        let wanted: Reference = name.parse().ok()?;
        let (tagged, by_digest) = (wanted.tagged(), wanted.digest.as_ref().map(|digest| wanted.with_digest(digest)));
        let holds = |list: &[String], name: &Option<String>| name.as_ref().is_some_and(|name| list.contains(name));
        let hit = |image: &&Image| match &by_digest {
            Some(_) => holds(&image.digests, &by_digest),
            None => holds(&image.names, &tagged),
        };
        // A name that was pulled anew hides the firmware's.
        all.iter().filter(hit).min_by_key(|image| image.pinned).cloned()
    }

    /// Adds the images of an archive: a tar of an OCI layout or of `docker save`, compressed or not. Images of an
    /// archive that has no names get `names`.
    pub fn import(&self, archive: &Path, names: &[Reference]) -> Result<Vec<Image>, OciError> {
        let _arriving = self.arriving();
        crate::archive::import(self, archive, names)
    }

    /// Adds the images of every archive in `folder` (which may be missing) that was not added before; a changed file is
    /// added anew. An archive that cannot be read is told in the answer, and hides no other.
    pub fn preload(&self, folder: &Path) -> Vec<(PathBuf, Result<Vec<Image>, OciError>)> {
        let done = self.0.folder.join("preloaded.json");
        let mut known: BTreeMap<PathBuf, (u64, i64)> =
            fs::read(&done).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let mut archives: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        archives.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".tar")));
        archives.sort();
        let mut answers = Vec::new();
        for path in archives {
            use std::os::unix::fs::MetadataExt;
            let Ok(found) = fs::metadata(&path) else { continue };
            let mark = (found.len(), found.mtime());
            if known.get(&path) == Some(&mark) {
                continue;
            }
            let imported = self.import(&path, &[]).and_then(|images| self.mark_preloaded(images));
            if imported.is_ok() {
                known.insert(path.clone(), mark);
            }
            answers.push((path, imported));
        }
        if !answers.is_empty() {
            // Without it the archives are looked at again at the next start, which is slow and right.
            let text = serde_json::to_vec(&known).unwrap_or_default();
            let _ = sys::files::write_atomically(&done, &text, 0o600);
        }
        answers
    }

    fn mark_preloaded(&self, mut images: Vec<Image>) -> Result<Vec<Image>, OciError> {
        let mut state = self.lock();
        for image in &mut images {
            if let Some(record) = state.records.get_mut(&image.id) {
                (record.preloaded, image.preloaded) = (true, true);
                self.write_record(&image.id, record)?;
            }
        }
        Ok(images)
    }

    /// Whether an image of this name was put on this machine beforehand; it may have been pulled anew since.
    pub fn is_preloaded(&self, name: &Reference) -> bool {
        let wanted = name.digest.as_ref().map(|digest| name.with_digest(digest)).or(name.tagged());
        let has = |image: &Image| wanted.iter().any(|name| image.names.contains(name) || image.digests.contains(name));
        self.list().iter().any(|image| image.preloaded && has(image))
    }

    /// Removes an image by one of its names, or whole by its id. Layers that `in_use` knows stay until [`Store::sweep`].
    /// What is not there is as good as removed; an image of the firmware only loses its other names.
    pub fn remove(&self, name: &str, in_use: &BTreeSet<PathBuf>) -> Result<(), OciError> {
        let Some(image) = self.find(name) else { return Ok(()) };
        let mut state = self.lock();
        let Some(record) = state.records.get_mut(&image.id) else { return Ok(()) };
        let is_id =
            name.parse::<Reference>().map_or(true, |_| image.id.hex().starts_with(name.trim_start_matches("sha256:")));
        if !is_id {
            let wanted: Reference = name.parse()?;
            let gone = wanted.digest.as_ref().map(|digest| wanted.with_digest(digest)).or(wanted.tagged());
            record.names.retain(|each| Some(each) != gone.as_ref());
            record.digests.retain(|each| Some(each) != gone.as_ref());
            if !record.names.is_empty() {
                let record = record.clone();
                return self.write_record(&image.id, &record);
            }
        }
        state.records.remove(&image.id);
        let path = self.record_path(&image.id);
        fs::remove_file(&path).doing(format!("remove {}", path.display()))?;
        drop(state);
        self.sweep(in_use);
        Ok(())
    }

    /// Removes layers that no image uses and `in_use` does not know; not while an image is on its way in.
    pub fn sweep(&self, in_use: &BTreeSet<PathBuf>) {
        let state = self.lock();
        if state.arriving > 0 {
            return;
        }
        let used: BTreeSet<&str> =
            state.records.values().flat_map(|record| record.layers.iter().map(|layer| layer.0.hex())).collect();
        let Ok(entries) = fs::read_dir(self.0.folder.join("layers")) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let keep = used.contains(name.to_string_lossy().as_ref()) || in_use.contains(&entry.path().join("fs"));
            if !keep && let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!("failed to remove layer {}: {}", entry.path().display(), chain(&error));
            }
        }
        let ids = state.records.keys();
        let used: BTreeSet<&str> = ids
            .chain(state.records.values().flat_map(|record| record.documents.iter().map(|document| &document.0)))
            .map(Digest::hex)
            .collect();
        for entry in fs::read_dir(self.0.folder.join("documents")).into_iter().flatten().flatten() {
            if !used.contains(entry.file_name().to_string_lossy().as_ref()) {
                // It is small, and looked at again at the next sweep.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// What somebody who shows `proof` is told of an image, if it may have it and all of it can be handed on.
    pub(crate) fn offer(&self, name: &Reference, proof: Option<&str>) -> Option<Offer> {
        let image = self.find(&name.to_string())?;
        let (folders, record) = self.shared(&image.id, proof)?;
        let read = |digest: &Digest| {
            let path = |folder: &PathBuf| folder.join("documents").join(digest.hex());
            folders.iter().find_map(|folder| fs::read_to_string(path(folder)).ok())
        };
        let is_told = |layer: &Digest2| Some(self.layer_path(&layer.0)?.with_file_name(RECIPE).exists());
        if !record.layers.iter().all(|layer| is_told(layer) == Some(true)) {
            return None;
        }
        Some(Offer {
            config: read(&image.id)?,
            documents: record.documents.iter().filter_map(|document| read(&document.0)).collect(),
            digests: image.digests.into_iter().collect(),
            open: record.open,
            preloaded: record.preloaded,
        })
    }

    /// A layer's tar, made again, for somebody who shows `proof`; none if it may not have it or there is none.
    pub(crate) fn retell(&self, id: &Digest, layer: &Digest, proof: Option<&str>) -> Result<Option<Retold>, OciError> {
        let Some((_, record)) = self.shared(id, proof) else { return Ok(None) };
        let path = self.layer_path(layer).filter(|_| record.layers.iter().any(|each| each.0 == *layer));
        let Some(folder) = path.as_deref().and_then(Path::parent) else { return Ok(None) };
        Retold::open(folder).doing(format!("read how to hand on layer {layer}"))
    }

    /// An image's record if somebody who shows `proof` may have it, and the folders it lies in.
    fn shared(&self, id: &Digest, proof: Option<&str>) -> Option<(Vec<PathBuf>, Record)> {
        let of_firmware = self.0.firmware.iter().find_map(|(folder, records)| Some((folder, records.get(id)?)));
        if let Some((folder, record)) = of_firmware {
            let record = Record { preloaded: true, open: true, ..record.clone() };
            return Some((vec![folder.clone(), self.0.folder.clone()], record));
        }
        let record = self.lock().records.get(id).filter(|record| record.is_for(proof))?.clone();
        Some((vec![self.0.folder.clone()], record))
    }

    /// Bytes free where the images lie, and in all.
    pub fn space(&self) -> Result<(Bytes, Bytes), OciError> {
        self.bytes().map(|(free, all)| (Bytes(free), Bytes(all)))
    }

    pub(crate) fn bytes(&self) -> Result<(u64, u64), OciError> {
        Ok(sys::files::space(&self.0.folder)?)
    }

    /// To be held from before the first look at a layer until the image is added.
    pub(crate) fn arriving(&self) -> Arriving {
        self.lock().arriving += 1;
        Arriving(self.clone())
    }

    /// Whether the layer with this digest (unpacked) is there.
    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer_path(diff_id).is_some()
    }

    /// Unpacks a layer from its (perhaps compressed) bytes; its tar must have the digest `diff_id`.
    pub(crate) fn add_layer(&self, diff_id: &Digest, stream: impl Read + Send, limit: &Limit) -> Result<u64, OciError> {
        let scratch = self.scratch()?;
        let metering = Metering::new(Meter::new(limit, &self.0.folder));
        let unpacked = unpack_layer(&scratch, diff_id, stream, &metering);
        let unpacked = unpacked.map_err(|error| metering.reason().unwrap_or(error));
        let size = unpacked.inspect_err(|_| drop(fs::remove_dir_all(&scratch)))?;
        let target = self.0.folder.join("layers").join(diff_id.hex());
        match fs::rename(&scratch, &target) {
            // Somebody else was faster with the same layer.
            Err(_) if target.join("fs").exists() => drop(fs::remove_dir_all(&scratch)),
            answer => answer.doing(format!("move a layer to {}", target.display()))?,
        }
        sys::files::sync_folder(&self.0.folder.join("layers")).doing("sync the layers")?;
        Ok(size)
    }

    /// Adds an image whose layers are all there. The names are taken from whoever had them.
    pub(crate) fn add_image(
        &self,
        config_bytes: &[u8],
        names: impl IntoIterator<Item = String>,
        digests: impl IntoIterator<Item = String>,
        came: Came,
    ) -> Result<Image, OciError> {
        self.keep_document(config_bytes)?;
        let documents: BTreeSet<Digest2> =
            came.documents.iter().map(|bytes| self.keep_document(bytes).map(Digest2)).collect::<Result<_, _>>()?;
        let id = Digest::of(config_bytes);
        let config = read_config(&id, config_bytes)?;
        let layers: Vec<Digest2> =
            config.rootfs.diff_ids.iter().map(|each| each.parse().map(Digest2)).collect::<Result<_, _>>()?;
        let size = layers.iter().map(|layer| self.layer_size(&layer.0)).sum();
        let mut state = self.lock();
        let old = state.records.get(&id);
        let mut record = Record {
            sequence: state.next_sequence,
            names: old.map(|old| old.names.clone()).unwrap_or_default(),
            digests: old.map(|old| old.digests.clone()).unwrap_or_default(),
            layers,
            size,
            config,
            preloaded: came.preloaded || old.is_some_and(|old| old.preloaded),
            open: came.proof.is_none() || old.is_some_and(|old| old.open),
            proofs: old.map(|old| old.proofs.clone()).unwrap_or_default(),
            documents: old.map(|old| old.documents.clone()).unwrap_or_default(),
        };
        record.documents.extend(documents);
        record.proofs.extend(came.proof);
        state.next_sequence += 1;
        record.names.extend(names);
        record.digests.extend(digests);
        let losers: Vec<Digest> = state
            .records
            .iter()
            .filter(|(other, each)| **other != id && !each.names.is_disjoint(&record.names))
            .map(|(other, _)| other.clone())
            .collect();
        // A name that was here beforehand stays one when it is pulled anew.
        record.preloaded |= losers.iter().any(|loser| state.records.get(loser).is_some_and(|other| other.preloaded));
        self.write_record(&id, &record)?;
        for loser in losers {
            if let Some(other) = state.records.get_mut(&loser) {
                other.names.retain(|name| !record.names.contains(name));
                self.write_record(&loser, other)?;
            }
        }
        state.records.insert(id.clone(), record.clone());
        Ok(self.image(&id, &record, &self.0.folder, false))
    }

    /// Keeps a document; it is on the disk before a record names it.
    fn keep_document(&self, bytes: &[u8]) -> Result<Digest, OciError> {
        let digest = Digest::of(bytes);
        let path = self.0.folder.join("documents").join(digest.hex());
        if !path.exists() {
            sys::files::write_atomically(&path, bytes, 0o600)?;
        }
        Ok(digest)
    }

    /// A new folder for unfinished things.
    pub(crate) fn scratch(&self) -> Result<PathBuf, OciError> {
        let number = {
            let mut state = self.lock();
            state.next_scratch += 1;
            state.next_scratch
        };
        let path = self.0.folder.join("tmp").join(format!("{number}"));
        fs::create_dir(&path).doing(format!("make {}", path.display()))?;
        Ok(path)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn layer_path(&self, diff_id: &Digest) -> Option<PathBuf> {
        let own = std::iter::once(&self.0.folder);
        let folders = self.0.firmware.iter().map(|(folder, _)| folder).chain(own);
        folders.map(|folder| folder.join("layers").join(diff_id.hex()).join("fs")).find(|path| path.is_dir())
    }

    fn layer_size(&self, diff_id: &Digest) -> u64 {
        let path = self.layer_path(diff_id).map(|fs| fs.with_file_name("size"));
        path.and_then(|path| fs::read_to_string(path).ok()).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    fn record_path(&self, id: &Digest) -> PathBuf {
        self.0.folder.join("images").join(format!("{}.json", id.hex()))
    }

    fn write_record(&self, id: &Digest, record: &Record) -> Result<(), OciError> {
        let text = serde_json::to_vec_pretty(record).map_err(|error| OciError::malformed("an image record", error))?;
        Ok(sys::files::write_atomically(&self.record_path(id), &text, 0o600)?)
    }

    fn image(&self, id: &Digest, record: &Record, folder: &Path, pinned: bool) -> Image {
        let path = |layer: &Digest2| {
            let missing = || folder.join("layers").join(layer.0.hex()).join("fs");
            self.layer_path(&layer.0).unwrap_or_else(missing)
        };
        let mut layers: Vec<PathBuf> = record.layers.iter().map(path).collect();
        if layers.is_empty() {
            // overlayfs wants at least one.
            layers.push(self.0.folder.join("empty"));
        }
        Image {
            id: id.clone(),
            names: record.names.iter().cloned().collect(),
            digests: record.digests.iter().cloned().collect(),
            config: record.config.clone(),
            layers,
            size: Bytes(record.size),
            pinned,
            preloaded: pinned || record.preloaded,
        }
    }
}

/// An id may be shortened to so many digits, as people do.
pub const SHORT_ID_LENGTH_MIN: usize = 12;

/// Fills a folder with a layer, how to hand it on, and its size.
fn unpack_layer(
    into: &Path,
    diff_id: &Digest,
    stream: impl Read + Send,
    metering: &Metering<'_>,
) -> Result<u64, OciError> {
    let fs = into.join("fs");
    fs::create_dir(&fs).doing(format!("make {}", fs.display()))?;
    let recipe = into.join(RECIPE);
    let recorder = Recorder::create(&recipe).doing("write a layer's recipe")?;
    let plain = metering.tap(decompressed(stream).doing(format!("read layer {diff_id}"))?);
    let mut hashing = Hashing::new(recorder.tap(plain));
    let size = unpack(&mut hashing, &fs, &recorder, metering)?;
    let (found, _) = hashing.finish().doing(format!("read layer {diff_id}"))?;
    if found != *diff_id {
        let what = "a layer's content".to_owned();
        return Err(OciError::Digest { what, wanted: diff_id.to_string(), found: found.to_string() });
    }
    if !recorder.finish().doing("write a layer's recipe")? {
        fs::remove_file(&recipe).doing("remove a layer's recipe")?;
    }
    fs::write(into.join("size"), size.to_string()).doing("write a layer's size")?;
    // A layer's root is what the container sees as `/`.
    fs::set_permissions(&fs, std::os::unix::fs::PermissionsExt::from_mode(0o755)).doing("set a layer's mode")?;
    Ok(sys::files::sync_file_system(into).map(|()| size)?)
}

/// Reads an image's config.
pub(crate) fn read_config(id: &Digest, bytes: &[u8]) -> Result<ImageConfig, OciError> {
    serde_json::from_slice(bytes).map_err(|error| OciError::malformed(format!("image config {id}"), error))
}

/// Removes what is in a folder. What cannot be removed now is tried again at the next start.
fn empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = if entry.path().is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
    }
}

/// Reads the records of a folder. One that cannot be read is an image that is not there, and says so in the log.
fn read_records(folder: &Path) -> BTreeMap<Digest, Record> {
    let mut records = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(hex) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"))
        else {
            continue;
        };
        match read_record(hex, &path) {
            Ok((id, record)) => drop(records.insert(id, record)),
            Err(error) => tracing::warn!("image record {} is left out: {}", path.display(), chain(&error)),
        }
    }
    settle_names(&mut records);
    records
}

fn read_record(hex: &str, path: &Path) -> Result<(Digest, Record), OciError> {
    let id: Digest = format!("sha256:{hex}").parse()?;
    let file = File::open(path).doing("open it")?;
    let record: Record = serde_json::from_reader(std::io::BufReader::new(file))
        .map_err(|error| OciError::malformed("the record", error))?;
    Ok((id, record))
}

/// A crash between two writes can leave a name with two images: the later one has it.
fn settle_names(records: &mut BTreeMap<Digest, Record>) {
    let mut owners: BTreeMap<String, u64> = BTreeMap::new();
    for record in records.values() {
        for name in &record.names {
            let owner = owners.entry(name.clone()).or_insert(record.sequence);
            *owner = (*owner).max(record.sequence);
        }
    }
    for record in records.values_mut() {
        let sequence = record.sequence;
        record.names.retain(|name| owners.get(name) == Some(&sequence));
    }
}
