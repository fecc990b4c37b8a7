//! Whether a kernel has what Skerry needs of it.
//!
//! Start at [`check`]. What is needed stands in `image/kernel.config` and, for each architecture, in a list of its
//! own such as `image/kernel-arm64.config`: fragments that Buildroot and Yocto add to the kernels they build, so that
//! all kernels are held to one list.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::Tree;
use crate::error::{Doing, Result, wrong};

/// What every kernel needs.
const EVERY: &str = "image/kernel.config";
/// What one for an architecture needs beside it: what says that it is one, and the list.
const ARCHITECTURES: [(&str, &str); 2] =
    [("CONFIG_ARM64", "image/kernel-arm64.config"), ("CONFIG_X86_64", "image/kernel-amd64.config")];

/// What newer kernels have under another name: 6.16 moved the processors' own hashing into its library, which is built in.
const SUCCESSORS: &[(&str, &str)] = &[("CONFIG_CRYPTO_SHA2_ARM64_CE", "CONFIG_CRYPTO_LIB_SHA256_ARCH")];

/// What Buildroot and Yocto build, and Debian's kernels are without: a board boots all the same, and tells less of itself.
const WISHED: &[&str] = &["CONFIG_SENSORS_RASPBERRYPI_HWMON"];

/// Refuses a kernel whose `config` lacks an option.
pub fn check(tree: &Tree, config: &Path) -> Result<()> {
    let text =
        fs::read_to_string(config).doing(format_args!("read the kernel's configuration {}", config.display()))?;
    let has = options(&text);
    let own = ARCHITECTURES.iter().filter(|(mark, _)| has.contains_key(mark)).map(|(_, list)| *list);
    for list in [EVERY].into_iter().chain(own) {
        let wanted = fs::read_to_string(tree.top.join(list)).doing(format_args!("read {list}"))?;
        let lacking = lacking(&options(&wanted), &has);
        if !lacking.is_empty() {
            return Err(wrong(format_args!(
                "the kernel of {} lacks {} ({list} says why it is needed)",
                config.display(),
                lacking.join(", ")
            )));
        }
    }
    Ok(())
}

/// The options that are set, with their values.
fn options(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter(|line| line.starts_with("CONFIG_")).filter_map(|line| line.trim_end().split_once('=')).collect()
}

/// `y` must be `y`; `m` may be either. What is only wished for may be absent.
fn lacking(wanted: &BTreeMap<&str, &str>, has: &BTreeMap<&str, &str>) -> Vec<String> {
    let is_set = |name: &str, value: &str| has.get(name).is_some_and(|have| *have == value || *have == "y");
    let satisfied = |name: &str, value: &str| {
        is_set(name, value)
            || WISHED.contains(&name)
            || SUCCESSORS.iter().any(|(old, new)| *old == name && is_set(new, value))
    };
    wanted
        .iter()
        .filter(|(name, value)| !satisfied(name, value))
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wanted: &str, has: &str, expected: &str) {
        assert_eq!(lacking(&options(wanted), &options(has)).join(" "), expected);
    }

    #[test]
    fn a_module_may_be_built_in_but_not_the_other_way_round() {
        check("CONFIG_A=m\nCONFIG_B=y\n", "CONFIG_A=y\nCONFIG_B=y\n", "");
        check("CONFIG_A=m\nCONFIG_B=y\n", "CONFIG_A=m\nCONFIG_B=m\n", "CONFIG_B=y");
    }

    #[test]
    fn an_option_may_have_got_another_name() {
        check("CONFIG_CRYPTO_SHA2_ARM64_CE=m\n", "CONFIG_CRYPTO_LIB_SHA256_ARCH=y\n", "");
        check("CONFIG_CRYPTO_SHA2_ARM64_CE=m\n", "CONFIG_CRYPTO_LIB_SHA256=y\n", "CONFIG_CRYPTO_SHA2_ARM64_CE=m");
    }

    #[test]
    fn what_is_absent_or_commented_out_is_lacking() {
        check("# why\nCONFIG_A=m\n", "# CONFIG_A is not set\n", "CONFIG_A=m");
        check("CONFIG_A=y\nCONFIG_AB=y\n", "CONFIG_AB=y\n", "CONFIG_A=y");
    }

    #[test]
    fn what_is_wished_for_may_be_absent_and_is_asked_of_those_who_build() {
        for name in WISHED {
            check(&format!("{name}=y\nCONFIG_A=y\n"), "CONFIG_B=y\n", "CONFIG_A=y");
            let built = ARCHITECTURES.iter().map(|(_, list)| fs::read_to_string(Tree::ours().top.join(list)).unwrap());
            assert!(built.into_iter().any(|list| options(&list).contains_key(name)), "{name} is in no list");
        }
    }

    #[test]
    fn an_error_names_kernel_option_and_list() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config-1");
        fs::write(&config, "CONFIG_X86_64=y\n").unwrap();
        let error = super::check(&Tree::ours(), &config).unwrap_err().to_string();
        assert!(error.contains("config-1 lacks ") && error.contains("CONFIG_SECCOMP=y"), "{error}");
        assert!(error.ends_with("(image/kernel.config says why it is needed)"), "{error}");
    }
}
