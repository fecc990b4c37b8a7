//! Kernel modules: which ones a name needs, in which order, and how they get into the kernel.
//!
//! Start at [`Index::resolve_each`]; [`load`] acts on what it says. The index is what `depmod` writes: `modules.dep`,
//! `modules.softdep`, `modules.alias`, `modules.builtin`.
//!
//! Invariants:
//! * what a module needs comes before it, soft needs too: without its soft need crc32c, libcrc32c fails to load;
//! * a name that nothing answers to is an error that names it, unless the kernel has it built in;
//! * loading what is loaded succeeds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

/// Needs are followed so deep at most; the kernel's own go to about six.
const DEPTH_MAX: usize = 32;

/// Nothing answers to this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no kernel module answers to {0}")]
pub struct Unknown(pub String);

/// What `depmod` knows about the modules of one kernel.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Path below the modules' folder, by plain name.
    files: BTreeMap<String, String>,
    needs: BTreeMap<String, Vec<String>>,
    soft: BTreeMap<String, Vec<String>>,
    aliases: Vec<(String, String)>,
    builtin: BTreeSet<String>,
}

impl Index {
    /// Reads the index of `folder`, such as `/lib/modules/6.12.0`.
    pub fn read(folder: &Path) -> io::Result<Index> {
        let text = |name: &str| match fs::read_to_string(folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        };
        Ok(Index::parse(
            &text("modules.dep")?,
            &text("modules.softdep")?,
            &text("modules.alias")?,
            &text("modules.builtin")?,
        ))
    }

    /// Understands the four texts. Lines of another shape are none of our business and skipped.
    pub fn parse(dep: &str, softdep: &str, alias: &str, builtin: &str) -> Index {
        let mut index = Index::default();
        for (path, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            index.files.insert(plain(path), path.to_owned());
            index.needs.insert(plain(path), needs.split_whitespace().map(plain).collect());
        }
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("softdep") {
                continue;
            }
            let Some(of) = words.next() else { continue };
            let before = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
            index.soft.entry(canonical(of)).or_default().extend(before.map(str::to_owned));
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(of)) = (words.next(), words.next(), words.next()) {
                index.aliases.push((canonical(pattern), canonical(of)));
            }
        }
        index.builtin = builtin.lines().map(plain).collect();
        index
    }

    /// Each of the names (of a module, or an alias of some), and the files to load for it that none before it needed, in order,
    /// relative to the index's folder. One that is unknown leaves the others as if it had not been asked for.
    pub fn resolve_each<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> impl Iterator<Item = (&'n str, Result<Vec<String>, Unknown>)> {
        let mut order = Vec::new();
        names.into_iter().map(move |name| {
            let before = order.len();
            let visited = self.visit(name, &mut order, 0);
            if visited.is_err() {
                order.truncate(before);
            }
            (name, visited.map(|()| order[before..].to_vec()))
        })
    }

    fn visit(&self, name: &str, order: &mut Vec<String>, depth: usize) -> Result<(), Unknown> {
        let name = canonical(name);
        if depth > DEPTH_MAX || self.builtin.contains(&name) {
            return Ok(());
        }
        let Some(file) = self.files.get(&name) else {
            let meant: Vec<&String> =
                self.aliases.iter().filter(|(pattern, _)| matches(pattern, &name)).map(|(_, of)| of).collect();
            if meant.is_empty() {
                return Err(Unknown(name));
            }
            return meant.into_iter().try_for_each(|of| self.visit(of, order, depth + 1));
        };
        if order.contains(file) {
            return Ok(());
        }
        for soft in self.soft.get(&name).into_iter().flatten() {
            // A soft need that nobody answers to is allowed by its nature.
            let _absent = self.visit(soft, order, depth + 1);
        }
        // `depmod` lists all needs of needs, the deepest last.
        for need in self.needs.get(&name).into_iter().flatten().rev() {
            self.visit(need, order, depth + 1)?;
        }
        if !order.contains(file) {
            order.push(file.clone());
        }
        Ok(())
    }

    /// The part of `modules.alias` and `modules.softdep` that speaks of modules in `kept` (paths), for a smaller root.
    pub fn aliases_of(&self, kept: &BTreeSet<String>) -> String {
        let names: BTreeSet<String> = kept.iter().map(|path| plain(path)).collect();
        let lines = self.aliases.iter().filter(|(_, of)| names.contains(of));
        lines.map(|(pattern, of)| format!("alias {pattern} {of}\n")).collect()
    }
}

/// Puts one module file into the kernel. Its being there already is no error, nor is a machine that has nothing for it: a
/// Raspberry Pi 4 has no instructions for the module that hashes with them, and boots without.
pub fn load(file: &Path) -> io::Result<()> {
    let opened = File::open(file)?;
    match finit_module(&opened, c"", ModuleInitFlags::empty()) {
        Err(errno) if !is_harmless(errno) => Err(errno.into()),
        _ => Ok(()),
    }
}

fn is_harmless(errno: Errno) -> bool {
    matches!(errno, Errno::EEXIST | Errno::ENODEV)
}

/// `kernel/fs/ext4/ext4.ko.xz` is called `ext4`, and dashes are underscores.
fn plain(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split(".ko").next().unwrap_or(file))
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Shell patterns as `modules.alias` uses them: `*`, `?`; a `[` set matches any one letter, which is enough here.
fn matches(pattern: &str, name: &str) -> bool {
    fn at(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => (0..=name.len()).any(|skip| at(rest, &name[skip..])),
            (Some((b'?', rest)), Some((_, others))) => at(rest, others),
            (Some((b'[', rest)), Some((_, others))) => {
                let end = rest.iter().position(|byte| *byte == b']').map_or(rest.len(), |end| end + 1);
                at(&rest[end..], others)
            }
            (Some((left, rest)), Some((right, others))) => left == right && at(rest, others),
            _ => false,
        }
    }
    at(pattern.as_bytes(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko kernel/lib/crc16.ko
kernel/fs/jbd2/jbd2.ko:
kernel/fs/mbcache.ko:
kernel/lib/crc16.ko:
kernel/lib/libcrc32c.ko:
kernel/crypto/crc32c_generic.ko:
kernel/net/nf_tables.ko: kernel/net/nfnetlink.ko kernel/lib/libcrc32c.ko
kernel/net/nfnetlink.ko:
kernel/net/nft_chain_nat.ko: kernel/net/nf_tables.ko kernel/net/nfnetlink.ko kernel/lib/libcrc32c.ko
";
    const SOFT: &str = "# a note\nsoftdep libcrc32c pre: crc32c post: nothing\nsoftdep ext4 pre: crc32c absent\n";
    const ALIAS: &str =
        "alias crc32c crc32c_generic\nalias nft-chain-2-nat nft_chain_nat\nalias pci:v00001AF4d* virtio\n";

    /// What is loaded for each of the names.
    fn resolved(names: &[&str]) -> Vec<Result<String, String>> {
        let index = Index::parse(DEP, SOFT, ALIAS, "kernel/drivers/virtio/virtio_pci.ko\n");
        let each = index.resolve_each(names.iter().copied()).map(|(_, files)| {
            let files = files.map_err(|unknown| unknown.to_string())?;
            Ok(files.iter().map(|path| plain(path)).collect::<Vec<_>>().join(" "))
        });
        each.collect()
    }

    fn check(name: &str, expected: &str) {
        assert_eq!(resolved(&[name]), [Ok(expected.to_owned())]);
    }

    #[test]
    fn a_module_for_another_machine_is_no_error() {
        assert!(is_harmless(Errno::EEXIST) && is_harmless(Errno::ENODEV));
        assert!(!is_harmless(Errno::ENOEXEC) && !is_harmless(Errno::EPERM));
    }

    #[test]
    fn soft_needs_come_first() {
        check("ext4", "crc32c_generic crc16 mbcache jbd2 ext4");
        check("nf_tables", "crc32c_generic libcrc32c nfnetlink nf_tables");
    }

    #[test]
    fn an_alias_leads_to_its_module() {
        check("nft-chain-2-nat", "crc32c_generic libcrc32c nfnetlink nf_tables nft_chain_nat");
        check("crc32c", "crc32c_generic");
    }

    #[test]
    fn what_is_built_in_needs_nothing() {
        check("virtio-pci", "");
    }

    #[test]
    fn an_unknown_name_is_named() {
        assert_eq!(resolved(&["nonsense"]), [Err("no kernel module answers to nonsense".to_owned())]);
    }

    #[test]
    fn each_file_is_told_once_and_none_for_what_is_unknown() {
        let ours = Index::parse("a.ko: absent.ko b.ko\nb.ko:\nc.ko: b.ko\n", "", "", "");
        let found: Vec<_> =
            ours.resolve_each(["c", "b", "a"]).map(|(_, files)| files.map_or(0, |files| files.len())).collect();
        assert_eq!(found, [2, 0, 0]);
        let found: Vec<_> = ours.resolve_each(["a", "c"]).map(|(name, files)| (name, files.ok())).collect();
        assert_eq!(found, [("a", None), ("c", Some(vec!["b.ko".to_owned(), "c.ko".to_owned()]))]);
    }

    #[test]
    fn patterns_match_as_a_shell_would() {
        assert!(matches("pci:v00001AF4d*", "pci:v00001AF4d00001000sv0"));
        assert!(matches("a?c[0-3]*", "abc2xyz"));
        assert!(!matches("a?c", "abd"));
    }
}
