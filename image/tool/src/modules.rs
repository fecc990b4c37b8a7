//! The kernel modules of an image: which ones, in which order, and their index.
//!
//! Start at [`select`]. Modules are kept unpacked: the root's own compression does better than theirs, and is undone faster.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use board::Board;
use sys::modules::Index;

use crate::Tree;
use crate::error::{Doing, Error, Result, wrong};
use crate::host::folder;
use crate::packages::Pin;
use crate::shell::{run, tool};

/// The modules of one image.
#[derive(Debug)]
pub struct Modules {
    /// The kernel's release, which names its folder.
    pub release: String,
    /// The unpacked files of the initramfs, in the order to load them in.
    pub initramfs: Vec<PathBuf>,
    /// The unpacked files of the root: path below `/lib/modules/RELEASE`, and where it lies.
    pub root: Vec<(String, PathBuf)>,
    /// The index files of the root: name and text.
    pub index: Vec<(String, String)>,
}

/// Chooses, orders and unpacks the board's modules from the kernel's package.
pub fn select(tree: &Tree, board: &Board, kernel: &(Pin, PathBuf)) -> Result<Modules> {
    let release = kernel.0.name.trim_start_matches("linux-image-").to_owned();
    let source = kernel.1.join("lib/modules").join(&release);
    if !source.join("modules.dep").exists() {
        run(tool("depmod").arg("-b").arg(&kernel.1).arg(&release))?;
    }
    let index = Index::read(&source).doing(format_args!("read the index of {}", source.display()))?;
    let resolve = |names: &[String]| -> Result<Vec<String>> {
        let each = index.resolve_each(names.iter().map(String::as_str));
        // What is unknown may be something that the board's module needs.
        let files =
            each.map(|(name, files)| files.map_err(|source| Error::Module { at: tree.place(board, name), source }));
        Ok(files.collect::<Result<Vec<_>>>()?.concat())
    };
    let first = resolve(&board.initramfs_modules)?;
    let all: Vec<String> =
        [board.initramfs_modules.clone(), board.boot_modules.clone(), board.lazy_modules.clone()].concat();
    let kept: BTreeSet<String> = resolve(&all)?.into_iter().collect();
    let unpack = |path: &String| unpack(tree, &release, &source, path);
    let initramfs = first.iter().map(unpack).collect::<Result<_>>()?;
    let root = kept.iter().map(|path| Ok((bare(path), unpack(path)?))).collect::<Result<_>>()?;
    Ok(Modules { initramfs, root, index: indexes(&source, &index, &kept)?, release })
}

fn bare(path: &str) -> String {
    path.strip_suffix(".xz").unwrap_or(path).to_owned()
}

fn unpack(tree: &Tree, release: &str, source: &Path, path: &str) -> Result<PathBuf> {
    let into = tree.build.join("modules").join(release).join(bare(path));
    if into.exists() {
        return Ok(into);
    }
    folder(into.parent().ok_or_else(|| wrong(format_args!("{path} is no module's path")))?)?;
    let partial = into.with_extension("partial");
    let from = source.join(path);
    if path.ends_with(".xz") {
        let output = tool("xz").arg("-dc").arg(&from).output().doing("run xz")?;
        if !output.status.success() {
            return Err(wrong(format_args!("xz cannot unpack {}", from.display())));
        }
        fs::write(&partial, output.stdout).doing(format_args!("write {}", partial.display()))?;
    } else {
        fs::copy(&from, &partial).doing(format_args!("copy {}", from.display()))?;
    }
    fs::rename(&partial, &into).doing(format_args!("keep {}", into.display()))?;
    Ok(into)
}

/// The index, speaking only of the modules that are there.
fn indexes(source: &Path, index: &Index, kept: &BTreeSet<String>) -> Result<Vec<(String, String)>> {
    let read = |name: &str| fs::read_to_string(source.join(name)).doing(format_args!("read {name} of the kernel"));
    let needs: String = read("modules.dep")?
        .lines()
        .filter(|line| line.split_once(':').is_some_and(|(path, _)| kept.contains(path)))
        .map(|line| line.replace(".ko.xz", ".ko") + "\n")
        .collect();
    Ok(vec![
        ("modules.dep".to_owned(), needs),
        ("modules.softdep".to_owned(), read("modules.softdep")?),
        ("modules.alias".to_owned(), index.aliases_of(kept)),
        ("modules.builtin".to_owned(), read("modules.builtin")?),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_module_is_refused_with_the_line_that_names_it() {
        let kernel = tempfile::tempdir().unwrap();
        let folder = kernel.path().join("lib/modules/1");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("modules.dep"), "dm-mod.ko: absent.ko\n").unwrap();
        let tree = Tree::ours();
        let board = board::read(&tree.boards(), "rpi4").unwrap();
        let pin = Pin { name: "linux-image-1".to_owned(), ..Pin::default() };
        let error = select(&tree, &board, &(pin, kernel.path().to_owned())).unwrap_err().to_string();
        let text = fs::read_to_string(tree.boards().join("base.toml")).unwrap();
        let line = 1 + text.lines().position(|line| line.contains("\"dm_mod\"")).unwrap();
        assert!(error.ends_with(&format!("base.toml:{line}: no kernel module answers to absent")), "{error}");
    }
}
