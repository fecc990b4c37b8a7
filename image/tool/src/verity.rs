//! The hash tree over a root: what dm-verity checks each block against when it is read.
//!
//! Start at [`tree`]. The form is dm-verity's version 1 without superblock, sha256 over blocks of 4 KiB, the salt before each
//! block (https://docs.kernel.org/admin-guide/device-mapper/verity.html): the topmost level comes first.
//!
//! Ours, because the other tool that makes it is in a package that not every system which builds our images has.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Doing, Result};

/// Bytes of a block, of data and of hashes.
pub const BLOCK: usize = 4096;

/// Writes the tree over `data`, whose length is a multiple of [`BLOCK`], to `into`; gives back the hash of its top.
pub fn tree(data: &Path, salt: &[u8], into: &Path) -> Result<[u8; 32]> {
    let mut file = File::open(data).doing(format_args!("open {}", data.display()))?;
    let mut below = Vec::new();
    let mut block = [0; BLOCK];
    let length = file.metadata().doing(format_args!("measure {}", data.display()))?.len();
    for _ in 0..length / BLOCK as u64 {
        file.read_exact(&mut block).doing(format_args!("read {}", data.display()))?;
        below.extend(hash(salt, &block));
    }
    let mut levels = Vec::new();
    // One block is its own top; else levels go on until one block holds all.
    while below.len() > 32 {
        below.resize(below.len().next_multiple_of(BLOCK), 0);
        let above = below.chunks(BLOCK).flat_map(|block| hash(salt, block)).collect();
        levels.push(std::mem::replace(&mut below, above));
    }
    let bytes: Vec<u8> = levels.into_iter().rev().flatten().collect();
    fs::write(into, bytes).doing(format_args!("write {}", into.display()))?;
    Ok(below.try_into().unwrap_or_else(|_| hash(salt, &[])))
}

fn hash(salt: &[u8], block: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(block).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::hex;
    use crate::shell::{run, tool};

    /// Compares with the tool of the cryptsetup package.
    #[track_caller]
    fn check(blocks: usize) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let data: Vec<u8> = (0..blocks * BLOCK).map(|index| (index / 7 % 251) as u8).collect();
        fs::write(at("data"), data).unwrap();
        let top = hex(&tree(&at("data"), b"salt", &at("ours")).unwrap());
        let said = run(tool("veritysetup")
            .args(["format", "--no-superblock", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096"])
            .arg(format!("--salt={}", hex(b"salt")))
            .args([at("data"), at("theirs")]))
        .unwrap();
        assert!(said.lines().any(|line| line.starts_with("Root hash:") && line.ends_with(&top)), "{top} {said}");
        assert!(fs::read(at("ours")).unwrap() == fs::read(at("theirs")).unwrap(), "{blocks} blocks");
    }

    #[test]
    fn the_tree_is_the_one_others_make() {
        for blocks in [2, 127, 128, 129, 300] {
            check(blocks);
        }
    }

    #[test]
    fn a_tree_over_many_blocks_has_three_levels() {
        check(128 * 128 + 1);
    }
}
