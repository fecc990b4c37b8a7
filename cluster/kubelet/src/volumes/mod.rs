//! The volumes of a pod: what files they hold, and putting them there.
//!
//! Start at [`payload`] for what a volume made of API objects holds, at [`prepare`] for the folder it becomes, and at
//! [`set_up_once`] for volumes containers may write to; what a claim leads to is found in [`origin`], NFS is touched by
//! [`helper`]s alone, and what was mounted is taken away by [`unmount_all`].
//!
//! Invariants:
//! * secrets and tokens lie in memory (tmpfs) only;
//! * files of a volume change together, by one rename of `..data`, as upstream does;
//! * what is on disk already as wanted is not written again;
//! * what containers may write to is set up once for a pod: its modes and owners are theirs from then on;
//! * containers never write to a volume whose files the kubelet writes.
//!
//! Not here: fetching objects and tokens (`objects`), mounting into containers (`runtime`), removing the data of volumes that
//! are released (`caretaker`).

pub mod atomic;
pub mod helper;
pub mod nfs;
pub mod origin;

mod group;
mod unmount;

pub use helper::Helper;
pub use origin::{Found, Origin, Place};
pub use unmount::{Leaving, Waiting, let_go, remove_folder, unmount_all};

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Secret, Volume, VolumeMount, VolumeProjection,
};

use crate::make::Source;
use crate::make::fields::{self, FieldFacts};
use crate::pod::PodInfo;

/// The folder in a pod's that holds a mark for each volume that was set up.
const READY: &str = "ready";

/// The mode of files whose volume names none.
const MODE_DEFAULT: i32 = 0o644;

/// What a file of variables may hold; more than any environment the kernel would take of it is worth.
const VARIABLES_BYTES_MAX: u64 = 64 << 10;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What it holds.
    pub data: Vec<u8>,
    /// Its mode.
    pub mode: u32,
}

/// The files of a volume, by path.
pub type Payload = BTreeMap<String, File>;

/// Why a volume cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// An object is missing or lacks something; the user's to mend.
    #[error("{0}")]
    Object(String),
    /// A kind of volume this node cannot mount.
    #[error("volumes of type {0} are not supported on this node")]
    Unsupported(&'static str),
    /// A helper did not mount it, or did not take it away.
    #[error("mount failed")]
    Helper(#[from] helper::HelperError),
    /// It is still mounted although it was taken away.
    #[error("{0} is still mounted")]
    StillMounted(PathBuf),
    /// A local volume is not there.
    #[error("path \"{0}\" does not exist")]
    NoPath(String),
    /// The host's path is not what the pod wants.
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPath {
        /// The path.
        path: String,
        /// Such as `directory`.
        wanted: &'static str,
    },
    /// The machine refused.
    #[error("failed to {action} {path}")]
    Io {
        /// What.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file system could not be mounted.
    #[error("failed to mount a tmpfs")]
    Mount(#[source] sys::SysError),
}

fn doing(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { action, path, source }
}

/// What a volume is, as far as this node is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder that lives as long as the pod.
    EmptyDir,
    /// A path of the node.
    HostPath,
    /// Files from API objects.
    Files {
        /// Upstream's plugin name, part of the folder's path.
        plugin: &'static str,
        /// Whether they must not touch a disk.
        in_memory: bool,
    },
    /// What a claim leads to, or an export: see [`Origin`].
    Outside,
    /// Anything else, by its field's name.
    Unsupported(&'static str),
}

/// What a volume is.
pub fn kind(volume: &Volume) -> Kind {
    let files = |plugin, in_memory| Kind::Files { plugin, in_memory };
    match volume {
        Volume { host_path: Some(_), .. } => Kind::HostPath,
        Volume { config_map: Some(_), .. } => files("configmap", false),
        Volume { secret: Some(_), .. } => files("secret", true),
        Volume { projected: Some(_), .. } => files("projected", true),
        Volume { downward_api: Some(_), .. } => files("downward-api", true),
        Volume { persistent_volume_claim: Some(_), .. } | Volume { nfs: Some(_), .. } => Kind::Outside,
        Volume { csi: Some(_), .. } => Kind::Unsupported("csi"),
        Volume { ephemeral: Some(_), .. } => Kind::Outside,
        Volume { image: Some(_), .. } => Kind::Unsupported("image"),
        Volume { iscsi: Some(_), .. } => Kind::Unsupported("iscsi"),
        Volume { empty_dir: Some(_), .. } => Kind::EmptyDir,
        _ => Kind::Unsupported("unknown"),
    }
}

/// Where a volume's folder lies; of a path of the node, the path itself. `found` is what is known of claims and exports.
pub fn folder(pod_dir: &Path, volume: &Volume, found: &Found) -> PathBuf {
    if let Some(origin) = found.get(&volume.name) {
        return origin.place.folder(pod_dir);
    }
    let plugin = match kind(volume) {
        Kind::HostPath => return PathBuf::from(volume.host_path.as_ref().map_or("", |host| host.path.as_str())),
        Kind::Files { plugin, .. } => plugin,
        Kind::EmptyDir => "empty-dir",
        Kind::Outside => "unknown",
        Kind::Unsupported(name) => name,
    };
    pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(&volume.name)
}

/// Whether a container may only read what it mounts. Files of API objects are never its to write, whatever the mount says: the
/// kubelet follows the links among them as root.
pub fn is_read_only(volume: &Volume, mount: &VolumeMount, origin: Option<&Origin>) -> bool {
    mount.read_only == Some(true)
        || origin.is_some_and(|origin| origin.read_only)
        || matches!(kind(volume), Kind::Files { .. })
}

/// What payloads are made of besides the pod.
pub struct PayloadFacts<'a> {
    /// ConfigMaps and Secrets.
    pub source: &'a dyn Source,
    /// What fields refer to.
    pub fields: FieldFacts<'a>,
    /// A ServiceAccount token, by volume and path; fetched before.
    pub token: &'a dyn Fn(&str, &str) -> Option<String>,
    /// The cluster's trust anchors, by name.
    pub fs_group: Option<i64>,
}

/// The files of a volume made of API objects.
pub fn payload(volume: &Volume, facts: &PayloadFacts<'_>) -> Result<Payload, VolumeError> {
    let mut files = Payload::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        config_map(&mut files, &source.name, source.items.as_deref(), source.optional, mode, facts)?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        secret(
            &mut files,
            name,
            source.items.as_deref(),
            source.optional,
            source.default_mode.unwrap_or(MODE_DEFAULT),
            facts,
        )?;
    } else if let Some(source) = &volume.downward_api {
        downward(&mut files, source.items.as_deref(), source.default_mode.unwrap_or(MODE_DEFAULT), facts)?;
    } else if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        for projection in source.sources.iter().flatten() {
            project(&mut files, &volume.name, projection, mode, facts)?;
        }
    }
    if facts.fs_group.is_some() {
        // What the owner may do, the pod's group may read: upstream's rule for volumes with a group.
        files.values_mut().for_each(|file| file.mode |= (file.mode & 0o400) >> 3);
    }
    Ok(files)
}

fn project(
    files: &mut Payload,
    volume: &str,
    projection: &VolumeProjection,
    mode: i32,
    facts: &PayloadFacts<'_>,
) -> Result<(), VolumeError> {
    if let Some(source) = &projection.config_map {
        config_map(files, &source.name, source.items.as_deref(), source.optional, mode, facts)?;
    }
    if let Some(source) = &projection.secret {
        secret(files, &source.name, source.items.as_deref(), source.optional, mode, facts)?;
    }
    if let Some(source) = &projection.downward_api {
        downward(files, source.items.as_deref(), mode, facts)?;
    }
    if let Some(source) = &projection.service_account_token {
        let token = (facts.token)(volume, &source.path);
        let token = token.ok_or_else(|| VolumeError::Object(format!("no token was issued for {}", source.path)))?;
        // Containers that run as another user read it through the group; without one it is the owner's alone, unless
        // nobody says who the owner is.
        let mode = if facts.fs_group.is_some() { 0o600 } else { mode as u32 };
        put(files, &source.path, token.into_bytes(), mode)?;
    }
    if projection.cluster_trust_bundle.is_some() {
        return Err(VolumeError::Unsupported("projected.clusterTrustBundle"));
    }
    if projection.pod_certificate.is_some() {
        return Err(VolumeError::Unsupported("projected.podCertificate"));
    }
    Ok(())
}

fn put(files: &mut Payload, path: &str, data: Vec<u8>, mode: u32) -> Result<(), VolumeError> {
    let clean = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !clean || path.is_empty() || path.starts_with("..") {
        return Err(VolumeError::Object(format!("invalid path {path:?} in a volume: it must stay inside")));
    }
    files.insert(path.to_owned(), File { data, mode });
    Ok(())
}

fn config_map(
    files: &mut Payload,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
    facts: &PayloadFacts<'_>,
) -> Result<(), VolumeError> {
    let Some(object) = facts.source.config_map(name) else {
        return missing(optional, || format!("configmap \"{name}\" not found"));
    };
    let ConfigMap { data, binary_data, .. } = &*object;
    let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    all.extend(data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes())));
    all.extend(binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())));
    choose(files, all, items, optional, mode, || "configmap references non-existent config key: ".to_owned())
}

fn secret(
    files: &mut Payload,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
    facts: &PayloadFacts<'_>,
) -> Result<(), VolumeError> {
    let Some(object) = facts.source.secret(name) else {
        return missing(optional, || format!("secret \"{name}\" not found"));
    };
    let Secret { data, .. } = &*object;
    let all = data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    choose(files, all, items, optional, mode, || "references non-existent secret key: ".to_owned())
}

fn missing(optional: Option<bool>, message: impl FnOnce() -> String) -> Result<(), VolumeError> {
    if optional == Some(true) { Ok(()) } else { Err(VolumeError::Object(message())) }
}

fn choose(
    files: &mut Payload,
    all: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
    complaint: impl Fn() -> String,
) -> Result<(), VolumeError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, value) in all {
            put(files, &key, value, mode as u32)?;
        }
        return Ok(());
    };
    for item in items {
        match all.get(&item.key) {
            Some(value) => put(files, &item.path, value.clone(), item.mode.unwrap_or(mode) as u32)?,
            None => missing(optional, || format!("{}{}", complaint(), item.key))?,
        }
    }
    Ok(())
}

fn downward(
    files: &mut Payload,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: i32,
    facts: &PayloadFacts<'_>,
) -> Result<(), VolumeError> {
    for item in items.iter().copied().flatten() {
        let value = if let Some(reference) = &item.field_ref {
            fields::field(&reference.field_path, &facts.fields)
        } else if let Some(reference) = &item.resource_field_ref {
            fields::resource(reference, &facts.fields)
        } else {
            continue;
        };
        let value = value.map_err(|error| VolumeError::Object(error.to_string()))?;
        put(files, &item.path, value.into_bytes(), item.mode.unwrap_or(mode) as u32)?;
    }
    Ok(())
}

/// Makes ready a volume whose files are not the kubelet's, unless that was done for this pod before, by a kubelet that ended since
/// even. Blocks as long as [`prepare_outside`].
pub fn set_up_once(
    pod: &PodInfo,
    pod_dir: &Path,
    volume: &Volume,
    origin: Option<&Origin>,
    helper: &Helper,
) -> Result<(), VolumeError> {
    let marks = pod_dir.join(READY);
    let mark = marks.join(&volume.name);
    if mark.exists() && is_still_there(pod_dir, volume, origin) {
        return Ok(());
    }
    match origin {
        Some(origin) => prepare_outside(pod, pod_dir, origin, helper)?,
        None => prepare(pod, pod_dir, volume, None)?,
    }
    make_folder(&marks)?;
    fs::write(&mark, "").map_err(doing("write", &mark))
}

/// Whether a volume that was set up still is: a start of the machine takes mounts away.
fn is_still_there(pod_dir: &Path, volume: &Volume, origin: Option<&Origin>) -> bool {
    let in_memory = volume.empty_dir.as_ref().is_some_and(|source| source.medium.as_deref() == Some("Memory"));
    let found = || folder(pod_dir, volume, &Found::new());
    match origin.map(|origin| &origin.place) {
        // Whether it is mounted is looked up without touching it.
        Some(Place::Nfs { .. }) => false,
        Some(Place::HostPath { path, .. } | Place::Local { path, .. }) => Path::new(path).exists(),
        None if in_memory => is_mounted(&found()),
        None => found().exists(),
    }
}

/// Makes ready what a claim or an export leads to. Blocks until a server has answered, or [`helper::MOUNT_MAX`].
pub fn prepare_outside(pod: &PodInfo, pod_dir: &Path, origin: &Origin, helper: &Helper) -> Result<(), VolumeError> {
    match &origin.place {
        Place::HostPath { path, kind } => {
            check_host_path(&HostPathVolumeSource { path: path.clone(), type_: kind.clone() })
        }
        Place::Local { path, make } => {
            let folder = Path::new(path);
            if *make && !folder.exists() {
                make_folder(folder)?;
                own_folder(folder, 0o777, None)?;
            }
            if !folder.exists() {
                return Err(VolumeError::NoPath(path.clone()));
            }
            group::own(pod, folder, origin.read_only)
        }
        Place::Nfs { export, below, .. } => {
            let target = origin.place.folder(pod_dir);
            make_mount_point(&target)?;
            let mounted = sys::mounts::mounted_below(&target).map_err(VolumeError::Mount)?;
            if mounted.contains(&target) {
                return Ok(());
            }
            let request = helper::Request::Mount { export: export.clone(), below: below.clone(), target };
            helper.ask(&request, helper::MOUNT_MAX)?;
            Ok(())
        }
    }
}

/// What is mounted already is not touched, not even to look: its server may be gone.
fn make_mount_point(target: &Path) -> Result<(), VolumeError> {
    let parent = target.parent().unwrap_or(target);
    make_folder(parent)?;
    match fs::create_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(doing("make", target)(error)),
        _ => Ok(()),
    }
}

/// Makes a volume's folder ready. `files` are those of [`payload`], for volumes made of API objects.
pub fn prepare(pod: &PodInfo, pod_dir: &Path, volume: &Volume, files: Option<&Payload>) -> Result<(), VolumeError> {
    let folder = folder(pod_dir, volume, &Found::new());
    let fs_group = fs_group(pod);
    match kind(volume) {
        Kind::Unsupported(name) => Err(VolumeError::Unsupported(name)),
        // Found out about before, see `prepare_outside`.
        Kind::Outside => Ok(()),
        Kind::HostPath => volume.host_path.as_ref().map_or(Ok(()), check_host_path),
        Kind::EmptyDir => {
            make_folder(&folder)?;
            let source = volume.empty_dir.clone().unwrap_or_default();
            if source.medium.as_deref() == Some("Memory") {
                let limit = source.size_limit.as_ref().and_then(crate::quantity::whole).filter(|bytes| *bytes > 0);
                mount_tmpfs(&folder, limit.map(|bytes| bytes as u64), 0o777)?;
            }
            own_folder(&folder, 0o777, fs_group)
        }
        Kind::Files { in_memory, .. } => {
            make_folder(&folder)?;
            if in_memory {
                mount_tmpfs(&folder, None, 0o777)?;
            }
            let none = Payload::new();
            atomic::write(&folder, files.unwrap_or(&none), fs_group.map(|group| group as u32))
                .map_err(doing("write the files of", &folder))?;
            own_folder(&folder, 0o777, fs_group)
        }
    }
}

/// The group volumes of this pod belong to.
pub fn fs_group(pod: &PodInfo) -> Option<i64> {
    pod.spec().security_context.as_ref()?.fs_group
}

fn make_folder(folder: &Path) -> Result<(), VolumeError> {
    fs::create_dir_all(folder).map_err(doing("make", folder))
}

fn own_folder(folder: &Path, mode: u32, fs_group: Option<i64>) -> Result<(), VolumeError> {
    let set_group_id = if fs_group.is_some() { 0o2000 } else { 0 };
    if let Some(group) = fs_group {
        std::os::unix::fs::chown(folder, None, Some(group as u32)).map_err(doing("give a group to", folder))?;
    }
    let mode = fs::Permissions::from_mode(mode | set_group_id);
    fs::set_permissions(folder, mode).map_err(doing("set the mode of", folder))
}

fn mount_tmpfs(folder: &Path, size: Option<u64>, mode: u32) -> Result<(), VolumeError> {
    if is_mounted(folder) {
        return Ok(());
    }
    let mode = format!("{mode:o}");
    let size = size.map(|bytes| bytes.to_string());
    let mut options = vec![("mode", mode.as_str())];
    options.extend(size.as_deref().map(|size| ("size", size)));
    let attributes = sys::mounts::Attributes::NOSUID.and(sys::mounts::Attributes::NODEV);
    let tree = sys::mounts::Tree::new("tmpfs", &options, attributes).map_err(VolumeError::Mount)?;
    tree.hang_at(folder).map_err(VolumeError::Mount)
}

/// Whether a folder is on another file system than the one it lies in.
fn is_mounted(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    folder.parent().is_some_and(|parent| device(parent).is_some() && device(parent) != device(folder))
}

fn check_host_path(source: &HostPathVolumeSource) -> Result<(), VolumeError> {
    let path = Path::new(&source.path);
    let found = fs::metadata(path).map(|found| found.file_type()).ok();
    let wrong = |wanted| VolumeError::HostPath { path: source.path.clone(), wanted };
    let is = |holds: bool, wanted| if holds { Ok(()) } else { Err(wrong(wanted)) };
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => match found {
            None => {
                fs::create_dir_all(path).map_err(doing("make", path))?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(doing("set the mode of", path))
            }
            Some(kind) => is(kind.is_dir(), "directory"),
        },
        "Directory" => is(found.is_some_and(|kind| kind.is_dir()), "directory"),
        "FileOrCreate" => match found {
            None => fs::File::create(path).map(drop).map_err(doing("make", path)),
            Some(kind) => is(kind.is_file(), "file"),
        },
        "File" => is(found.is_some_and(|kind| kind.is_file()), "file"),
        "Socket" => is(found.is_some_and(|kind| kind.is_socket()), "socket"),
        "CharDevice" => is(found.is_some_and(|kind| kind.is_char_device()), "character device"),
        "BlockDevice" => is(found.is_some_and(|kind| kind.is_block_device()), "block device"),
        // Unchecked; a bind mount needs something to be there, and a folder is what upstream's runtimes make.
        _ if found.is_none() => fs::create_dir_all(path).map_err(doing("make", path)),
        _ => Ok(()),
    }
}

/// A file of variables that a container left in an emptyDir; nothing if there is none. No link leads out of the volume, and a file
/// that is large, or would have to be waited for, is an error. Other volumes are refused, as upstream does.
pub fn variables_file(pod_dir: &Path, volume: &Volume, path: &str) -> Result<Option<String>, String> {
    if kind(volume) != Kind::EmptyDir {
        return Err("the volume is not an emptyDir".to_owned());
    }
    let root = sys::files::Root::open(&folder(pod_dir, volume, &Found::new()));
    match root.and_then(|root| root.read_regular(Path::new(path), VARIABLES_BYTES_MAX)) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(base::chain(&error).to_string()),
    }
}

/// Folders of the pod's emptyDirs on disk that have a limit: name, folder, bytes, and the limit as written.
pub fn limited(pod: &PodInfo, pod_dir: &Path) -> Vec<(String, PathBuf, u64, String)> {
    let volumes = pod.spec().volumes.iter().flatten();
    let limit = |volume: &Volume| {
        let source = volume.empty_dir.as_ref().filter(|source| source.medium.as_deref() != Some("Memory"))?;
        let limit = source.size_limit.as_ref()?;
        let bytes = crate::quantity::whole(limit).filter(|bytes| *bytes > 0)?;
        Some((volume.name.clone(), folder(pod_dir, volume, &Found::new()), bytes as u64, limit.0.clone()))
    };
    volumes.filter_map(limit).collect()
}

/// The host's path of a volume's part. What is missing is made as a folder; links cannot lead out of the volume.
pub fn sub_path(volume: &Path, inside: &str) -> Result<PathBuf, String> {
    let inside = Path::new(inside);
    if inside.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err("it must not contain '..'".to_owned());
    }
    let relative: PathBuf = inside.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let root = fs::canonicalize(volume).map_err(|error| error.to_string())?;
    // Whoever may write to the volume may write to its parts.
    let mode = fs::metadata(&root).map_err(|error| error.to_string())?.permissions().mode() & 0o7777;
    let mut path = root.clone();
    for part in relative.components() {
        path.push(part);
        if fs::symlink_metadata(&path).is_err() {
            fs::create_dir(&path).map_err(|error| error.to_string())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(|error| error.to_string())?;
        }
        path = fs::canonicalize(&path).map_err(|error| error.to_string())?;
        if !path.starts_with(&root) {
            return Err("it leads out of the volume".to_owned());
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::make::tests::{Objects, fields, pod_with};
    use serde_json::{Value, json};

    #[track_caller]
    fn check(volume: Value, wanted: Result<&[(&str, &str, u32)], &str>) {
        let pod = pod_with(json!({}));
        let objects = Objects::from_json(json!({"cm": {"a": "1", "b": "2"}}), json!({"s": {"k": "c2VjcmV0"}}));
        let mut volume = volume;
        volume["name"] = "v".into();
        let volume: Volume = serde_json::from_value(volume).expect("a volume");
        let facts = PayloadFacts {
            source: &objects,
            fields: fields(&pod),
            token: &|volume, path| Some(format!("token for {volume}/{path}")),
            fs_group: None,
        };
        match (payload(&volume, &facts), wanted) {
            (Ok(found), Ok(wanted)) => {
                let found: Vec<(&str, String, u32)> = found
                    .iter()
                    .map(|(path, file)| (path.as_str(), String::from_utf8_lossy(&file.data).into_owned(), file.mode))
                    .collect();
                let wanted: Vec<(&str, String, u32)> =
                    wanted.iter().map(|(p, d, m)| (*p, (*d).to_owned(), *m)).collect();
                assert_eq!(found, wanted);
            }
            (Err(error), Err(wanted)) => assert_eq!(error.to_string(), wanted),
            (found, wanted) => panic!("{found:?} instead of {wanted:?}"),
        }
    }

    #[test]
    fn volumes_hold_what_objects_hold() {
        check(json!({"configMap": {"name": "cm"}}), Ok(&[("a", "1", 0o644), ("b", "2", 0o644)]));
        check(
            json!({"configMap": {"name": "cm", "defaultMode": 256, "items": [{"key": "a", "path": "x/y"}]}}),
            Ok(&[("x/y", "1", 0o400)]),
        );
        check(
            json!({"secret": {"secretName": "s", "items": [{"key": "k", "path": "p", "mode": 511}]}}),
            Ok(&[("p", "secret", 0o777)]),
        );
        check(
            json!({"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
            Ok(&[("name", "web", 0o644)]),
        );
        let sources = json!([
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "cm", "items": [{"key": "b", "path": "ca.crt"}]}},
        ]);
        check(
            json!({"projected": {"sources": sources}}),
            Ok(&[("ca.crt", "2", 0o644), ("token", "token for v/token", 0o644)]),
        );
    }

    #[test]
    fn what_is_missing_is_named_unless_optional() {
        check(json!({"configMap": {"name": "no"}}), Err("configmap \"no\" not found"));
        check(json!({"configMap": {"name": "no", "optional": true}}), Ok(&[]));
        check(json!({"secret": {"secretName": "no"}}), Err("secret \"no\" not found"));
        check(
            json!({"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}),
            Err("configmap references non-existent config key: z"),
        );
        check(
            json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": "../a"}]}}),
            Err("invalid path \"../a\" in a volume: it must stay inside"),
        );
    }

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().expect("a folder");
        let volume = dir.path().join("v");
        fs::create_dir_all(&volume).expect("a folder");
        std::os::unix::fs::symlink("/etc", volume.join("out")).expect("a link");
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2770)).expect("a mode");
        assert!(sub_path(&volume, "a/b").is_ok_and(|path| path.is_dir() && path.ends_with("v/a/b")));
        assert_eq!(fs::metadata(volume.join("a/b")).expect("there").permissions().mode() & 0o7777, 0o2770);
        assert!(sub_path(&volume, "../x").is_err());
        assert!(sub_path(&volume, "out/passwd").is_err());
        assert!(!dir.path().join("x").exists());
    }

    #[test]
    fn files_of_api_objects_are_only_read() {
        let check = |volume: Value, wanted: bool| {
            let mut volume = volume;
            volume["name"] = "v".into();
            let volume: Volume = serde_json::from_value(volume).expect("a volume");
            let mount = VolumeMount { read_only: Some(false), ..VolumeMount::default() };
            assert_eq!(is_read_only(&volume, &mount, None), wanted, "{volume:?}");
            let read = VolumeMount { read_only: Some(true), ..VolumeMount::default() };
            assert!(is_read_only(&volume, &read, None));
            let place = Place::Local { path: "/d".to_owned(), make: false };
            assert!(is_read_only(&volume, &mount, Some(&Origin { place, read_only: true })));
        };
        check(json!({"configMap": {"name": "c"}}), true);
        check(json!({"secret": {"secretName": "s"}}), true);
        check(json!({"projected": {"sources": []}}), true);
        check(json!({"downwardAPI": {"items": []}}), true);
        check(json!({"emptyDir": {}}), false);
        check(json!({"hostPath": {"path": "/srv"}}), false);
        check(json!({"persistentVolumeClaim": {"claimName": "c"}}), false);
    }

    #[test]
    fn what_a_running_pod_made_of_its_volumes_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let (pod_dir, disk) = (dir.path().join("pod"), dir.path().join("disk"));
        let pod = pod_with(json!({}));
        let helper = Helper { program: "/no/such".into(), args: Vec::new() };
        let scratch: Volume = serde_json::from_value(json!({"name": "e", "emptyDir": {}})).expect("a volume");
        let claim = json!({"name": "c", "persistentVolumeClaim": {"claimName": "c"}});
        let claim: Volume = serde_json::from_value(claim).expect("a volume");
        let place = Place::Local { path: disk.display().to_string(), make: true };
        let origin = Origin { place, read_only: false };
        let set_up = || {
            set_up_once(&pod, &pod_dir, &scratch, None, &helper).expect("set up");
            set_up_once(&pod, &pod_dir, &claim, Some(&origin), &helper).expect("set up");
        };
        let scratch_dir = folder(&pod_dir, &scratch, &Found::new());
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
        set_up();
        assert_eq!((mode(&scratch_dir), mode(&disk)), (0o777, 0o777));
        for path in [&scratch_dir, &disk] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o1700)).expect("a mode");
        }
        set_up();
        assert_eq!((mode(&scratch_dir), mode(&disk)), (0o1700, 0o1700), "the pod's own modes");
        // Somebody took them away: they are made again.
        fs::remove_dir(&scratch_dir).expect("removed");
        fs::remove_dir(&disk).expect("removed");
        set_up();
        assert_eq!((mode(&scratch_dir), mode(&disk)), (0o777, 0o777));
    }

    #[test]
    fn a_volume_that_failed_is_tried_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let pod = pod_with(json!({}));
        let helper = Helper { program: "/no/such".into(), args: Vec::new() };
        let source = json!({"path": dir.path().join("d").display().to_string(), "type": "Directory"});
        let volume: Volume = serde_json::from_value(json!({"name": "h", "hostPath": source})).expect("a volume");
        let set_up = || set_up_once(&pod, dir.path(), &volume, None, &helper);
        set_up().expect_err("not there");
        set_up().expect_err("not there");
        fs::create_dir(dir.path().join("d")).expect("a folder");
        set_up().expect("there");
    }

    #[test]
    fn variables_are_read_from_small_files_inside_an_empty_dir() {
        let dir = tempfile::tempdir().expect("a folder");
        let volume: Volume = serde_json::from_value(json!({"name": "v", "emptyDir": {}})).expect("a volume");
        let read = |path: &str| variables_file(dir.path(), &volume, path);
        assert_eq!(read("a"), Ok(None), "the volume is not there");
        let inside = folder(dir.path(), &volume, &Found::new());
        fs::create_dir_all(&inside).expect("a folder");
        fs::write(dir.path().join("secret"), "theirs").expect("written");
        fs::write(inside.join("a"), "A=1").expect("written");
        fs::write(inside.join("large"), vec![b'a'; 1 + (64 << 10)]).expect("written");
        std::os::unix::fs::symlink("../../../secret", inside.join("out")).expect("a link");
        assert_eq!((read("a"), read("none")), (Ok(Some("A=1".to_owned())), Ok(None)));
        assert_eq!((read("out"), read("../../../secret")), (Ok(None), Ok(None)));
        assert_eq!(read("large"), Err("failed to read large: it is larger than 65536 bytes".to_owned()));
        let host: Volume = serde_json::from_value(json!({"name": "v", "hostPath": {"path": "/"}})).expect("a volume");
        assert_eq!(variables_file(dir.path(), &host, "etc/shadow"), Err("the volume is not an emptyDir".to_owned()));
    }

    #[test]
    fn a_mount_that_fails_names_the_server_once() {
        let late = helper::HelperError::Late { what: "10.0.0.9:/srv".to_owned(), seconds: 20 };
        let told = base::chain(&VolumeError::from(late)).to_string();
        assert_eq!(told, "mount failed: 10.0.0.9:/srv: no answer within 20 s");
    }

    #[test]
    fn a_local_volume_must_be_there_unless_it_is_ours() {
        let dir = tempfile::tempdir().expect("a folder");
        let pod = pod_with(json!({}));
        let helper = Helper { program: "/no/such".into(), args: Vec::new() };
        let path = dir.path().join("v").display().to_string();
        let origin = |make| Origin { place: Place::Local { path: path.clone(), make }, read_only: false };
        let missing = prepare_outside(&pod, dir.path(), &origin(false), &helper).expect_err("not there");
        assert_eq!(missing.to_string(), format!("path \"{path}\" does not exist"));
        prepare_outside(&pod, dir.path(), &origin(true), &helper).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o777);
    }

    #[test]
    fn what_an_empty_dir_holds_is_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("a")).expect("a folder");
        fs::write(dir.path().join("a/file"), vec![1; 100_000]).expect("written");
        std::os::unix::fs::symlink("/usr", dir.path().join("link")).expect("a link");
        assert!((100_000..200_000).contains(&sys::files::usage(dir.path())));
    }

    #[test]
    fn host_paths_are_checked_by_type() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let check = |name: &str, kind: &str| {
            check_host_path(&HostPathVolumeSource { path: path(name), type_: Some(kind.to_owned()) }).is_ok()
        };
        assert!(check("made", "DirectoryOrCreate") && check("made", "Directory") && !check("made", "File"));
        assert!(check("file", "FileOrCreate") && check("file", "File") && !check("file", "Socket"));
        assert!(!check("none", "Directory") && !check("none", "CharDevice") && check("anything", ""));
        let _listening = std::os::unix::net::UnixListener::bind(path("socket")).expect("a socket");
        assert!(check("socket", "Socket") && !check("socket", "File") && !check("socket", "CharDevice"));
        // An absolute path stands for itself.
        assert!(check("/dev/null", "CharDevice") && !check("/dev/null", "BlockDevice") && !check("/dev/null", "File"));
        let made =
            std::process::Command::new("mknod").args([&path("disk"), "b", "7", "0"]).status().expect("mknod runs");
        // Only root makes devices, and anybody may run this.
        if made.success() {
            assert!(check("disk", "BlockDevice") && !check("disk", "CharDevice") && !check("disk", "File"));
        }
    }
}
