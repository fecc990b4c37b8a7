//! From the table to an archive.
//!
//! Start at [`build`].

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use crate::debian::{Cache, DebianError, Lock};
use serde_json::json;

use crate::archive::{ArchiveError, Image, write_archive};
use crate::table::{BASE, Recipe, TABLE, TOOLS};
use crate::tree::{Entry, Tree};

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit ARM.
    Arm64,
    /// 64-bit x86.
    Amd64,
}

impl Architecture {
    /// The architecture of this machine.
    pub fn here() -> Architecture {
        if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::Amd64 }
    }

    /// Debian's, Go's and OCI's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Arm64 => "arm64",
            Architecture::Amd64 => "amd64",
        }
    }

    fn triplet(self) -> &'static str {
        match self {
            Architecture::Arm64 => "aarch64-linux-gnu",
            Architecture::Amd64 => "x86_64-linux-gnu",
        }
    }
}

/// Why there are no images.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A package could not be had.
    #[error("failed to get the packages of image {image}")]
    Package {
        /// The image.
        image: String,
        /// Why not.
        source: DebianError,
    },
    /// A package is not what we took it for.
    #[error("{package} has nothing at {path} for image {image}")]
    Lacking {
        /// The image.
        image: String,
        /// The package.
        package: String,
        /// What should be there.
        path: String,
    },
    /// The disk refused.
    #[error("failed to make image {image}")]
    Disk {
        /// The image.
        image: String,
        /// Why not.
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("failed to write {path}")]
    Archive {
        /// Where.
        path: String,
        /// Why not.
        source: ArchiveError,
    },
}

/// Makes every image of the table whose names `wanted` accepts, and writes them to the archive `out`.
pub fn build(
    lock: &Lock,
    cache: &Cache,
    architecture: Architecture,
    wanted: impl Fn(&str) -> bool,
    out: &Path,
) -> Result<(), BuildError> {
    let base = layer(lock, cache, architecture, &BASE, "base")?;
    let mut images = Vec::new();
    for recipe in TABLE {
        let names: Vec<String> =
            recipe.names.iter().filter(|name| wanted(name)).map(|name| (*name).to_owned()).collect();
        let Some(name) = names.first().cloned() else { continue };
        let mut layers = vec![base.clone()];
        if !(recipe.packages.is_empty() && recipe.files.is_empty() && recipe.folders.is_empty()) {
            layers.push(layer(lock, cache, architecture, recipe, &name)?);
        }
        images.push(Image { names, layers, config: config(recipe), architecture: architecture.name().to_owned() });
    }
    let failed = |source| BuildError::Archive { path: out.display().to_string(), source };
    // Written beside and renamed, so that an archive is whole or not there.
    let part = out.with_extension("part");
    let file = File::create(&part).map_err(|error| failed(error.into()))?;
    write_archive(&images, BufWriter::new(file)).map_err(failed)?;
    std::fs::rename(&part, out).map_err(|error| failed(error.into()))
}

fn config(recipe: &Recipe) -> serde_json::Value {
    let key = if recipe.is_entrypoint { "Entrypoint" } else { "Cmd" };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut config = json!({"Env": [path], key: recipe.command, "WorkingDir": "/"});
    if !recipe.stop_signal.is_empty() {
        config["StopSignal"] = recipe.stop_signal.into();
    }
    config
}

fn layer(
    lock: &Lock,
    cache: &Cache,
    architecture: Architecture,
    recipe: &Recipe,
    image: &str,
) -> Result<Vec<u8>, BuildError> {
    let disk = |source| BuildError::Disk { image: image.to_owned(), source };
    let mut tree = Tree::default();
    for (package, paths) in recipe.packages {
        let folder = tempfile::tempdir().map_err(disk)?;
        let found = lock.find(package, architecture.name()).and_then(|found| cache.unpack(found, folder.path()));
        found.map_err(|source| BuildError::Package { image: image.to_owned(), source })?;
        let kept: Vec<String> = paths.iter().map(|path| path.replace("TRIPLET", architecture.triplet())).collect();
        let before = tree.clone();
        tree.take(folder.path(), &kept).map_err(disk)?;
        if tree == before {
            let (package, path) = ((*package).to_owned(), kept.join(", "));
            return Err(BuildError::Lacking { image: image.to_owned(), package, path });
        }
    }
    for (path, mode, text) in recipe.files {
        tree.insert(path, Entry::File { mode: *mode, bytes: text.as_bytes().to_vec() });
    }
    for (path, target) in recipe.links {
        tree.insert(path, Entry::Link { target: (*target).to_owned() });
    }
    for path in recipe.folders {
        if tree.get(path).is_none() {
            tree.insert(path, Entry::Folder);
        }
    }
    if tree.get("usr/bin/busybox").is_some() {
        for tool in TOOLS.split_whitespace() {
            tree.insert(&format!("usr/bin/{tool}"), Entry::Link { target: "busybox".to_owned() });
        }
    }
    tree.layer().map_err(disk)
}
