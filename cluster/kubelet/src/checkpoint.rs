//! What a node remembers of its pods, so that it can run them before, or without, a server.
//!
//! Start at [`Checkpoints`]: one file a pod, with the object, the ConfigMaps, Secrets and other objects that it refers to,
//! and its ServiceAccount tokens; and one file of all Services, for their environment variables.
//!
//! Invariants:
//! * a file is written only when something in it changed that a restart needs: statuses, versions and renewed tokens alone
//!   write nothing (memory cards wear out);
//! * a file is whole or it is not believed: a checksum, or the cipher's tag, covers all of it; the version before is kept
//!   until the next one is on the disk, and is read instead;
//! * with a key the files are encrypted (AES-256-GCM) and bound to their names; without one they are readable by root alone
//!   (0600 in a folder of 0700), and whoever holds the disk can read the Secrets in them;
//! * nothing of what is in them reaches the log.
//!
//! Not here: when pods are started from them (`run`), what they are started with (`worker`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::{digest, hmac};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The first line of a file; behind it comes either a SHA-256 and JSON, or a nonce and what the cipher made of JSON.
const PLAIN: &[u8] = b"skerry checkpoint 1 plain\n";
const SEALED: &[u8] = b"skerry checkpoint 1 aes-256-gcm\n";
const DIGEST_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// A pod with the largest ConfigMaps and Secrets the server takes, and several of them.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// The file of all Services. No uid is like it.
const SERVICES: &str = "services";
/// The version before the newest.
const BEFORE: &str = "before";
/// A file that is being written.
const FRESH: &str = "fresh";
/// A secret that is shorter can be guessed.
const KEY_BYTES_MIN: usize = 16;

/// Why something is not remembered. The messages never hold what a file holds.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk.
    #[error("failed to {action} {path}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is in the file.
    #[error("{path} cannot be used: {detail}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        detail: &'static str,
    },
}

/// Encrypts checkpoints.
#[derive(Clone)]
pub struct Key {
    cipher: Arc<LessSafeKey>,
    nonces: hmac::Key,
}

impl Key {
    /// A key from a secret of any form; `None` if it is so short that it could be guessed.
    pub fn from_secret(secret: &[u8]) -> Option<Key> {
        let secret = secret.trim_ascii();
        if secret.len() < KEY_BYTES_MIN {
            return None;
        }
        let base = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = |purpose: &str| hmac::sign(&base, purpose.as_bytes());
        let cipher = UnboundKey::new(&AES_256_GCM, derived("skerry checkpoint cipher").as_ref()).ok()?;
        let nonces = hmac::Key::new(hmac::HMAC_SHA256, derived("skerry checkpoint nonce").as_ref());
        Some(Key { cipher: Arc::new(LessSafeKey::new(cipher)), nonces })
    }

    /// The nonce is made from name and content: it repeats only when both do, and then so does the whole file.
    fn seal(&self, name: &str, text: &[u8]) -> Option<Vec<u8>> {
        let mut context = hmac::Context::with_key(&self.nonces);
        context.update(name.as_bytes());
        context.update(&[0]);
        context.update(text);
        let tag = context.sign();
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&tag.as_ref()[..NONCE_BYTES]);
        let mut sealed = text.to_vec();
        let aad = Aad::from(name.as_bytes());
        self.cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
        Some([SEALED, &nonce, &sealed].concat())
    }

    fn open(&self, name: &str, rest: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES)?;
        let mut text = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = self.cipher.open_in_place(nonce, Aad::from(name.as_bytes()), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Key")
    }
}

/// An object that a pod refers to.
#[derive(Clone, Serialize, Deserialize, PartialEq)]
pub struct Referred {
    /// Such as `configmaps`.
    pub resource: String,
    /// The object.
    pub object: Value,
}

/// A pod with all that it takes to start it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The pod, as its loop last saw it.
    pub pod: Pod,
    /// What it refers to.
    pub objects: Vec<Referred>,
    /// Its tokens: volume, path, token.
    pub tokens: Vec<(String, String, String)>,
}

impl Checkpoint {
    /// A pod to be remembered. Versions are left out: what the server says is news, whatever its version.
    pub fn new(mut pod: Pod, mut objects: Vec<Referred>, tokens: Vec<(String, String, String)>) -> Checkpoint {
        pod.metadata.managed_fields = None;
        pod.metadata.resource_version = None;
        objects.iter_mut().for_each(|each| slim(&mut each.object));
        Checkpoint { pod, objects, tokens }
    }

    /// The pod's uid, which is its name here.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// What a restart needs: when this is the same, nothing is written.
    fn essence(&self) -> [u8; DIGEST_BYTES] {
        let mut pod = serde_json::to_value(&self.pod).unwrap_or_default();
        let ended = pod["status"]["phase"].as_str().filter(|phase| matches!(*phase, "Succeeded" | "Failed"));
        pod["status"] = json!(ended);
        let objects = serde_json::to_value(&self.objects).unwrap_or_default();
        digest_of(json!([pod, objects]).to_string().as_bytes())
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Checkpoint({} with {} objects)", self.uid(), self.objects.len())
    }
}

/// Leaves out what nobody needs to start a pod.
fn slim(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
    }
}

fn digest_of(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut all = [0; DIGEST_BYTES];
    all.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    all
}

/// The folder of checkpoints. Its calls block on the disk.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    key: Option<Key>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the files hold, by their names.
    written: BTreeMap<String, [u8; DIGEST_BYTES]>,
    /// What was read at the start, until the server was heard.
    recalled: BTreeMap<String, Arc<Checkpoint>>,
    services: Vec<Value>,
    /// Pods that went, so that no write that was under way brings one back.
    gone: BTreeSet<String>,
}

impl Checkpoints {
    /// Opens the folder and reads everything in it. What cannot be read is named in the log and left out.
    pub fn open(folder: &Path, key: Option<Key>) -> Result<Checkpoints, CheckpointError> {
        let failed = |source| CheckpointError::Disk { action: "make the folder", path: folder.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let checkpoints = Checkpoints { folder: folder.to_owned(), key, state: Mutex::default() };
        let mut state = State::default();
        for name in names(folder) {
            let Some((text, is_as_wanted)) = checkpoints.read(&name) else { continue };
            let essence = if name == SERVICES {
                state.services = serde_json::from_slice(&text).unwrap_or_default();
                digest_of(&text)
            } else {
                let Ok(checkpoint) = serde_json::from_slice::<Checkpoint>(&text) else { continue };
                let essence = checkpoint.essence();
                state.recalled.insert(name.clone(), Arc::new(checkpoint));
                essence
            };
            // A file of another form (before there was a key) is written anew when the pod is seen next.
            state.written.insert(name, if is_as_wanted { essence } else { [0; DIGEST_BYTES] });
        }
        *checkpoints.lock() = state;
        Ok(checkpoints)
    }

    /// The pods of the time before, until the server was heard.
    pub fn recalled(&self) -> Vec<Arc<Checkpoint>> {
        self.lock().recalled.values().cloned().collect()
    }

    /// One of them.
    pub fn recall(&self, uid: &str) -> Option<Arc<Checkpoint>> {
        self.lock().recalled.get(uid).cloned()
    }

    /// The Services of the time before.
    pub fn services(&self) -> Vec<Value> {
        self.lock().services.clone()
    }

    /// Remembers a pod; whether that took a write.
    pub fn keep(&self, checkpoint: &Checkpoint) -> Result<bool, CheckpointError> {
        let (name, essence) = (checkpoint.uid(), checkpoint.essence());
        let mut state = self.lock();
        if state.gone.contains(name) || state.written.get(name) == Some(&essence) {
            return Ok(false);
        }
        let text = serde_json::to_vec(checkpoint).unwrap_or_default();
        self.write(name, &text)?;
        state.written.insert(name.to_owned(), essence);
        Ok(true)
    }

    /// Remembers the Services; whether that took a write.
    pub fn keep_services(&self, mut services: Vec<Value>) -> Result<bool, CheckpointError> {
        for service in &mut services {
            slim(service);
            service["status"] = Value::Null;
        }
        let text = Value::from(services).to_string();
        let essence = digest_of(text.as_bytes());
        let mut state = self.lock();
        if state.written.get(SERVICES) == Some(&essence) {
            return Ok(false);
        }
        self.write(SERVICES, text.as_bytes())?;
        state.written.insert(SERVICES.to_owned(), essence);
        Ok(true)
    }

    /// Forgets a pod for good.
    pub fn forget(&self, uid: &str) -> Result<(), CheckpointError> {
        let mut state = self.lock();
        state.gone.insert(uid.to_owned());
        state.recalled.remove(uid);
        match state.written.remove(uid) {
            Some(_) => self.remove(uid),
            None => Ok(()),
        }
    }

    /// The server said which pods there are: forgets the others, and what was read at the start.
    pub fn retain(&self, uids: &BTreeSet<String>) -> Result<(), CheckpointError> {
        let mut state = self.lock();
        state.recalled.clear();
        state.services.clear();
        state.gone.clear();
        let is_lost = |name: &&String| *name != SERVICES && !uids.contains(*name);
        let lost: Vec<String> = state.written.keys().filter(is_lost).cloned().collect();
        for name in lost {
            self.remove(&name)?;
            state.written.remove(&name);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str, ending: &str) -> PathBuf {
        self.folder.join(if ending.is_empty() { name.to_owned() } else { format!("{name}.{ending}") })
    }

    /// The newest version that is whole, and whether its form is the one that is written today.
    fn read(&self, name: &str) -> Option<(Vec<u8>, bool)> {
        for ending in ["", BEFORE] {
            let path = self.path(name, ending);
            match self.read_file(&path, name) {
                Ok(read) => return Some(read),
                Err(CheckpointError::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(error = %base::chain(&error), "what was remembered of a pod is lost"),
            }
        }
        None
    }

    fn read_file(&self, path: &Path, name: &str) -> Result<(Vec<u8>, bool), CheckpointError> {
        let failed = |source| CheckpointError::Disk { action: "read", path: path.to_owned(), source };
        let broken = |detail| CheckpointError::Content { path: path.to_owned(), detail };
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)).map_err(failed)?;
        if let Some(rest) = bytes.strip_prefix(PLAIN) {
            let (sum, text) = rest.split_at_checked(DIGEST_BYTES).ok_or_else(|| broken("it is cut off"))?;
            return match digest_of(text) == sum {
                true => Ok((text.to_vec(), self.key.is_none())),
                false => Err(broken("it is damaged")),
            };
        }
        let rest = bytes.strip_prefix(SEALED).ok_or_else(|| broken("it is cut off or of another version"))?;
        let key = self.key.as_ref().ok_or_else(|| broken("it is encrypted, and there is no key"))?;
        let text = key.open(name, rest).ok_or_else(|| broken("it is damaged, or encrypted with another key"))?;
        Ok((text, true))
    }

    /// Keeps the version before, and lets the new one take its place when it is on the disk.
    fn write(&self, name: &str, text: &[u8]) -> Result<(), CheckpointError> {
        let (fresh, path) = (self.path(name, FRESH), self.path(name, ""));
        let failed = |source| CheckpointError::Disk { action: "write", path: path.clone(), source };
        let bytes = match &self.key {
            None => [PLAIN, &digest_of(text), text].concat(),
            Some(key) => key.seal(name, text).ok_or_else(|| failed(io::Error::other("it cannot be encrypted")))?,
        };
        let mut options = fs::OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&fresh).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        match fs::rename(&path, self.path(name, BEFORE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        fs::rename(&fresh, &path).map_err(failed)?;
        if self.key.is_some() {
            self.drop_plain(name)?;
        }
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// What was written before there was a key must not stay to be read.
    fn drop_plain(&self, name: &str) -> Result<(), CheckpointError> {
        let path = self.path(name, BEFORE);
        let mut begins = vec![0; PLAIN.len()];
        let is_plain = File::open(&path).and_then(|mut file| file.read_exact(&mut begins)).is_ok() && begins == PLAIN;
        let failed = |source| CheckpointError::Disk { action: "remove", path: path.clone(), source };
        if is_plain { fs::remove_file(&path).map_err(failed) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> Result<(), CheckpointError> {
        for ending in ["", BEFORE, FRESH] {
            let path = self.path(name, ending);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(CheckpointError::Disk { action: "remove", path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The names of all that is remembered; a cut may have left only the version before.
fn names(folder: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = files.filter_map(|file| {
        let name = file.file_name().to_str()?.to_owned();
        match name.rsplit_once('.') {
            None => Some(name),
            Some((name, BEFORE)) => Some(name.to_owned()),
            Some(_) => None,
        }
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn checkpoint(command: &str, phase: &str, secret: &str) -> Checkpoint {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "u1", "resourceVersion": "7"},
            "spec": {"containers": [{"name": "c", "command": [command]}]},
            "status": {"phase": phase},
        });
        let object = json!({"metadata": {"name": "s", "resourceVersion": "8"}, "data": {"password": secret}});
        let objects = vec![Referred { resource: "secrets".to_owned(), object }];
        let tokens = vec![("v".to_owned(), "token".to_owned(), "a.b.c".to_owned())];
        Checkpoint::new(serde_json::from_value(pod).expect("a pod"), objects, tokens)
    }

    fn open(folder: &Path, secret: &str) -> Checkpoints {
        Checkpoints::open(folder, Key::from_secret(secret.as_bytes())).expect("a folder")
    }

    /// What is remembered of the pod after a restart: its command.
    fn command(folder: &Path, secret: &str) -> Option<String> {
        let recalled = open(folder, secret).recall("u1")?;
        recalled.pod.spec.as_ref()?.containers[0].command.as_ref()?.first().cloned()
    }

    const KEY: &str = "a secret that is long enough";

    #[test]
    fn what_was_kept_is_recalled_with_all_it_takes() {
        for key in ["", KEY] {
            let folder = tempfile::tempdir().expect("a folder");
            let kept = checkpoint("run", "Running", "hunter2");
            assert!(open(folder.path(), key).keep(&kept).expect("a disk"));
            let recalled = open(folder.path(), key).recall("u1").expect("it is recalled");
            assert_eq!((recalled.pod.clone(), &recalled.tokens), (kept.pod, &kept.tokens));
            assert!(recalled.objects == kept.objects);
        }
    }

    #[test]
    fn only_what_a_restart_needs_is_worth_a_write() {
        let folder = tempfile::tempdir().expect("a folder");
        let checkpoints = open(folder.path(), "");
        let keep = |checkpoint: &Checkpoint| checkpoints.keep(checkpoint).expect("a disk");
        assert!(keep(&checkpoint("run", "Pending", "a")));
        let mut other = checkpoint("run", "Running", "a");
        other.tokens.clear();
        assert!(!keep(&other), "statuses and tokens alone are not");
        assert!(keep(&checkpoint("run", "Running", "b")));
        assert!(keep(&checkpoint("run", "Failed", "b")), "that it is over must not be forgotten");
        let again = open(folder.path(), "");
        assert!(!again.keep(&checkpoint("run", "Failed", "b")).expect("a disk"), "also after a restart");
    }

    #[test]
    fn a_torn_file_costs_only_its_version() {
        for key in ["", KEY] {
            for cut in ["truncate", "flip", "empty", "gone"] {
                let folder = tempfile::tempdir().expect("a folder");
                let checkpoints = open(folder.path(), key);
                checkpoints.keep(&checkpoint("old", "Running", "a")).expect("a disk");
                checkpoints.keep(&checkpoint("new", "Running", "a")).expect("a disk");
                assert_eq!(command(folder.path(), key).as_deref(), Some("new"));
                let path = folder.path().join("u1");
                let mut bytes = fs::read(&path).expect("a file");
                match cut {
                    "truncate" => bytes.truncate(bytes.len() - 9),
                    "flip" => *bytes.last_mut().expect("bytes") ^= 1,
                    _ => bytes.clear(),
                }
                fs::write(&path, &bytes).expect("a file");
                if cut == "gone" {
                    fs::remove_file(&path).expect("a file");
                }
                assert_eq!(command(folder.path(), key).as_deref(), Some("old"), "{cut}");
            }
        }
    }

    #[test]
    fn with_a_key_nobody_reads_it_and_without_one_only_root() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("checkpoints");
        let plain = open(&path, "");
        plain.keep(&checkpoint("run", "Running", "hunter2")).expect("a disk");
        let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("u1"))), (0o700, 0o600));
        // A key came: the file is still read, and written anew.
        assert!(open(&path, KEY).keep(&checkpoint("run", "Running", "hunter2")).expect("a disk"));
        let bytes = fs::read(path.join("u1")).expect("a file");
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        assert!(!path.join("u1.before").exists(), "nor the version before");
        assert_eq!(command(&path, KEY).as_deref(), Some("run"));
        assert_eq!(command(&path, "another secret, long enough"), None);
        assert_eq!(command(&path, ""), None);
        // A file under another's name is not believed.
        fs::rename(path.join("u1"), path.join("u2")).expect("a file");
        assert!(open(&path, KEY).recall("u2").is_none());
    }

    #[test]
    fn whoever_went_is_forgotten_and_stays_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let checkpoints = open(folder.path(), "");
        checkpoints.keep(&checkpoint("run", "Running", "a")).expect("a disk");
        checkpoints.forget("u1").expect("a disk");
        assert!(!checkpoints.keep(&checkpoint("late", "Running", "a")).expect("a disk"));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        checkpoints.keep_services(vec![json!({"metadata": {"name": "s"}})]).expect("a disk");
        let other = open(folder.path(), "");
        other.retain(&BTreeSet::new()).expect("a disk");
        assert_eq!(open(folder.path(), "").services().len(), 1, "Services stay");
    }

    #[test]
    fn secrets_stay_out_of_debug_output_and_short_keys_out_of_use() {
        let all = format!("{:?} {:?}", checkpoint("run", "Running", "hunter2"), Key::from_secret(KEY.as_bytes()));
        assert_eq!(all, "Checkpoint(u1 with 1 objects) Some(Key)");
        assert!(Key::from_secret(b"  short\n").is_none());
    }
}
