//! An image made of a program of this machine, for pods that run what the node runs.
//!
//! Start at [`Store::add_program`].
//!
//! Invariants:
//! * the same files make the same image, and a layer that is there already is not written again;
//! * the image holds the files that were named and nothing else: no shell, no package manager.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::thread;

use serde_json::json;

use crate::digest::Hashing;
use crate::error::{Doing, OciError};
use crate::limit::Limit;
use crate::name::Reference;
use crate::store::{Came, Image, Store};

/// Where the program lies in its image.
const PROGRAM: &str = "/skerry";

/// What an image of a program holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The program.
    pub program: PathBuf,
    /// What it needs beside it, such as shared libraries, each at the path it has here.
    pub libraries: Vec<PathBuf>,
    /// Further names: a path in the image, and what it leads to.
    pub links: Vec<(PathBuf, PathBuf)>,
}

impl Store {
    /// Makes an image of a program, and gives it a name. Its containers run the program, with the arguments of the pod.
    pub fn add_program(&self, program: &Program, name: &Reference) -> Result<Image, OciError> {
        let _arriving = self.arriving();
        let hash = |tar: io::PipeReader| Hashing::new(tar).finish().doing("read our own program");
        let (diff_id, _) = with_tar(program, hash)?;
        if !self.has_layer(&diff_id) {
            with_tar(program, |tar| self.add_layer(&diff_id, tar, &Limit::none()))?;
        }
        let config = json!({
            "architecture": self.platform().architecture, "os": self.platform().os,
            "config": {"Entrypoint": [PROGRAM], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
        });
        self.add_image(config.to_string().as_bytes(), name.tagged(), [], Came::default())
    }
}

/// Writes the layer's tar on one side of a pipe and lets it be read on the other: nothing of it is kept meanwhile.
fn with_tar<T>(program: &Program, take: impl FnOnce(io::PipeReader) -> Result<T, OciError>) -> Result<T, OciError> {
    let (reader, mut writer) = io::pipe().doing("make a pipe")?;
    thread::scope(|scope| {
        let writing = scope.spawn(move || write(program, &mut writer));
        // Where the reader gives up first, its reason is the one that counts.
        let taken = take(reader)?;
        let written = writing.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads it panicked")));
        written.doing("read our own program")?;
        Ok(taken)
    })
}

/// Writes the layer's tar.
fn write(program: &Program, out: &mut impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    append(&mut archive, PROGRAM, &program.program)?;
    for library in &program.libraries {
        append(&mut archive, &library.to_string_lossy(), library)?;
    }
    for (path, target) in &program.links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        archive.append_link(&mut header, inside(&path.to_string_lossy()), target)?;
    }
    archive.into_inner()?.flush()
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, file: &PathBuf) -> io::Result<()> {
    let length = fs::metadata(file)?.len();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(length);
    archive.append_data(&mut header, inside(path), File::open(file)?.take(length))
}

fn inside(path: &str) -> &str {
    path.trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_an_image_and_a_new_one_takes_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("images"), &[]).expect("a store");
        let file = folder.path().join("program");
        let name: Reference = "skerry.dev/skerry:node".parse().expect("a name");
        let links = vec![(PathBuf::from("/lib64/ld.so"), PathBuf::from("/lib/ld.so"))];
        let program = Program { program: file.clone(), libraries: vec![file.clone()], links };
        fs::write(&file, "one").expect("written");
        let first = store.add_program(&program, &name).expect("an image");
        assert_eq!(store.add_program(&program, &name).expect("an image").id, first.id);
        assert_eq!(first.config.config.entrypoint, [PROGRAM]);
        assert_eq!(fs::read(first.layers[0].join("skerry")).expect("it is there"), b"one");
        assert_eq!(fs::read(first.layers[0].join(inside(&file.to_string_lossy()))).expect("it is there"), b"one");
        assert_eq!(
            fs::read_link(first.layers[0].join("lib64/ld.so")).expect("it is there"),
            PathBuf::from("/lib/ld.so")
        );
        fs::write(&file, "two").expect("written");
        let second = store.add_program(&program, &name).expect("an image");
        assert_ne!(second.id, first.id);
        assert_eq!(store.find("skerry.dev/skerry:node").map(|found| found.id), Some(second.id));
    }
}
