//! What other build systems are told of our boards: written by this tool, so that boards, kernel and boot loader have one source.
//!
//! Start at [`files`]; `image external` writes them, and a test compares.
//!
//! Not here: the parts that say nothing of a board, which are written by hand beside these (`image/buildroot`, `image/yocto`).

use std::collections::BTreeMap;
use std::fs;

use board::{Architecture, Board, FirmwareFile};

use crate::Tree;
use crate::error::{Doing, Result, wrong};
use crate::layout::{Artifacts, Layout, Part, SECTOR, SIGNATURE, plan};
use crate::packages::{self, Pin};
use crate::parts::parts;

/// A file, relative to the repository, and its text.
pub type Written = (String, String);

/// The Yocto layer.
const LAYER: &str = "image/yocto/meta-skerry";
/// The checksums of what is downloaded.
const LINUX_HASH: &str = "image/buildroot/patches/linux/linux.hash";

/// Every file that is written from the boards.
pub fn files(tree: &Tree) -> Result<Vec<Written>> {
    let pins = packages::read(tree)?;
    let names = board::names(&tree.boards());
    let boards = names.iter().map(|name| Ok(board::read(&tree.boards(), name)?)).collect::<Result<Vec<_>>>()?;
    let mut files = vec![(
        format!("{LAYER}/recipes-skerry/skerry/skerry-version.inc"),
        written(&format!("SKERRY_VERSION = \"{}\"\n", env!("CARGO_PKG_VERSION"))),
    )];
    let mut kernels = BTreeMap::new();
    for board in &boards {
        let source = source(tree, &pins, board)?;
        let text = defconfig(board, &pins, &source)?;
        files.push((format!("image/buildroot/configs/{}_defconfig", underscored(board)), text));
        files.push((format!("{LAYER}/conf/machine/skerry-{}.conf", board.name), machine(board)?));
        let layout = plan(board, &Artifacts::default())?;
        files.push((format!("{LAYER}/files/wic/skerry-{}.wks", board.name), wks(&layout)));
        kernels.insert(board.kernel_package.as_str(), source);
    }
    let told = |(id, source): (&str, Source)| {
        (format!("{LAYER}/recipes-kernel/linux/linux-skerry-{id}.inc"), linux_version(&source))
    };
    files.extend(kernels.into_iter().map(told));
    Ok(files)
}

/// Says in a file whose hand wrote it.
fn written(text: &str) -> String {
    format!("# Written by `cargo run -p image -- external`.\n{text}")
}

/// The source of a kernel.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    version: String,
    sha256: String,
    /// The folder and the file, where it is not upstream's.
    elsewhere: Option<String>,
}

/// The source of a board's kernel, as [`LINUX_HASH`] has it.
fn source(tree: &Tree, pins: &[Pin], board: &Board) -> Result<Source> {
    let version = upstream(pins, &board.kernel_package)?;
    let hashes = fs::read_to_string(tree.top.join(LINUX_HASH)).doing(format_args!("read {LINUX_HASH}"))?;
    source_of(&hashes, version).ok_or_else(|| wrong(format_args!("{LINUX_HASH} has no checksum of linux {version}")))
}

/// Upstream's file; or else the one that Debian makes its packages of, in the folder that the comment before it names.
fn source_of(hashes: &str, version: &str) -> Option<Source> {
    let source = |sha256: &str, elsewhere| Source { version: version.into(), sha256: sha256.into(), elsewhere };
    let upstreams = format!("  linux-{version}.tar.xz");
    let debians = format!("linux_{version}.orig.tar.xz");
    let mut folder = "";
    for line in hashes.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            folder = comment;
        }
        let Some(sum) = line.strip_prefix("sha256  ") else { continue };
        if let Some(sum) = sum.strip_suffix(&upstreams) {
            return Some(source(sum, None));
        }
        if let Some(sum) = sum.strip_suffix(&format!("  {debians}")) {
            return Some(source(sum, Some(format!("{folder}{debians}"))));
        }
    }
    None
}

/// What Yocto is told of a kernel.
fn linux_version(Source { version, sha256, elsewhere }: &Source) -> String {
    let series = version.split('.').next().unwrap_or_default();
    let upstreams = || format!("${{KERNELORG_MIRROR}}/linux/kernel/v{series}.x/linux-{version}.tar.xz");
    let file = elsewhere.clone().unwrap_or_else(upstreams);
    written(&format!(
        "LINUX_VERSION = \"{version}\"\nLINUX_SOURCE = \"{file}\"\nSRC_URI[kernel.sha256sum] = \"{sha256}\"\n"
    ))
}

/// Yocto's description of a board.
fn machine(board: &Board) -> Result<String> {
    let firmware = if raspberry_firmware(board).is_empty() { "" } else { "raspi-firmware:do_deploy" };
    let name = format!("#@TYPE: Machine\n#@NAME: skerry-{}\n#@DESCRIPTION: Skerry on {}\n", board.name, board.summary);
    let trees: Vec<String> = devicetrees(board).iter().map(|tree| format!("{tree}.dtb")).collect();
    let mut lines = vec![
        ("SKERRY_BOARD", board.name.clone()),
        ("SKERRY_FIRMWARE", firmware.to_owned()),
        ("SKERRY_KERNEL", board.kernel_package.clone()),
        ("KERNEL_DEVICETREE", trees.join(" ")),
    ];
    lines.extend(match board.u_boot() {
        Some(u_boot) => vec![
            ("SKERRY_LOADER", "u-boot".to_owned()),
            ("SKERRY_U_BOOT", format!("{}/{}", u_boot.package, u_boot.file)),
            ("UBOOT_MACHINE", format!("{}_defconfig", u_boot_config(u_boot)?)),
        ],
        None => vec![("SKERRY_LOADER", "skerry-loader".to_owned())],
    });
    lines.push(("WKS_FILE", format!("skerry-{}.wks", board.name)));
    let lines: String = lines.iter().map(|(name, value)| format!("{name} = \"{value}\"\n")).collect();
    let family = board.architecture.name();
    Ok(name + &written(&format!("\nrequire conf/machine/include/skerry-{family}.inc\n\n{lines}")))
}

/// The disk in wic's words: the parts that the assembler made, where its layout wants them.
fn wks(layout: &Layout) -> String {
    let part = |(part, file): (&Part, Option<&str>)| {
        let source =
            file.map_or("empty".to_owned(), |file| format!("rawcopy --sourceparams=\"file=skerry-parts/{file}\""));
        let more = match part.kind {
            None => "--no-table".to_owned(),
            Some(kind) => {
                let active = if part.boots() { " --active" } else { "" };
                format!("--fixed-size {}K --system-id {kind:#04x}{active}", part.sectors * SECTOR / 1024)
            }
        };
        format!("part --source {source} --offset {}s {more}\n", part.at)
    };
    let about = format!(
        "# short-description: the disk of {}\n# long-description: two slots, the first filled; see the assembler's layout\n",
        layout.board
    );
    let parts: String = parts(layout).map(part).collect();
    about + &written(&format!("{parts}bootloader --ptable msdos --diskid 0x{SIGNATURE:08x}\n"))
}

/// Buildroot's names hold no hyphens.
fn underscored(board: &Board) -> String {
    format!("skerry_{}", board.name.replace('-', "_"))
}

/// U-Boot's own configuration for a board names the folder that Debian keeps it in.
fn u_boot_config(u_boot: &FirmwareFile) -> Result<&str> {
    let inside = u_boot.file.strip_prefix("usr/lib/u-boot/").and_then(|file| file.split_once('/'));
    let unknown = || wrong(format_args!("{} does not say which configuration of U-Boot it is", u_boot.file));
    inside.map(|(config, _)| config).ok_or_else(unknown)
}

/// What Debian packaged: the version without what Debian added.
fn upstream<'a>(pins: &'a [Pin], id: &str) -> Result<&'a str> {
    let pin = pins.iter().find(|pin| pin.id == id).ok_or_else(|| wrong(format_args!("nobody pinned {id}")))?;
    Ok(pin.version.split(['-', '+', '~']).next().unwrap_or_default())
}

/// Buildroot's configuration of a board.
fn defconfig(board: &Board, pins: &[Pin], source: &Source) -> Result<String> {
    const HERE: &str = "$(BR2_EXTERNAL_SKERRY_PATH)";
    let processor = match board.architecture {
        Architecture::Arm64 => "aarch64",
        Architecture::Amd64 => "x86_64",
    };
    let mut lines = vec![format!("BR2_{processor}=y")];
    let mut add = |name: &str, value: &str| {
        lines.push(if value == "n" { format!("# BR2_{name} is not set") } else { format!("BR2_{name}={value}") });
    };
    add("TOOLCHAIN_EXTERNAL", "y");
    add("TOOLCHAIN_EXTERNAL_BOOTLIN", "y");
    add(&format!("TOOLCHAIN_EXTERNAL_BOOTLIN_{}_MUSL_STABLE", processor.to_uppercase()), "y");
    add("INIT_NONE", "y");
    add("PACKAGE_BUSYBOX", "n");
    add("GLOBAL_PATCH_DIR", &format!("\"{HERE}/patches\""));
    add("DOWNLOAD_FORCE_CHECK_HASHES", "y");
    add("ROOTFS_POST_IMAGE_SCRIPT", &format!("\"{HERE}/board/skerry/post-image.sh\""));
    add("ROOTFS_POST_SCRIPT_ARGS", &format!("\"{} {}\"", board.name, board.kernel_package));
    add("LINUX_KERNEL", "y");
    let (from, name, value) = match &source.elsewhere {
        None => ("CUSTOM_VERSION", "CUSTOM_VERSION_VALUE", &source.version),
        Some(file) => ("CUSTOM_TARBALL", "CUSTOM_TARBALL_LOCATION", file),
    };
    add(&format!("LINUX_KERNEL_{from}"), "y");
    add(&format!("LINUX_KERNEL_{name}"), &format!("\"{value}\""));
    add("LINUX_KERNEL_USE_ARCH_DEFAULT_CONFIG", "y");
    let own = board.architecture.name();
    add("LINUX_KERNEL_CONFIG_FRAGMENT_FILES", &format!("\"{HERE}/../kernel.config {HERE}/../kernel-{own}.config\""));
    let trees = devicetrees(board);
    if !trees.is_empty() {
        add("LINUX_KERNEL_DTS_SUPPORT", "y");
        add("LINUX_KERNEL_INTREE_DTS_NAME", &format!("\"{}\"", trees.join(" ")));
        add("LINUX_KERNEL_DTB_KEEP_DIRNAME", "y");
    }
    add("LINUX_KERNEL_NEEDS_HOST_OPENSSL", "y");
    if board.architecture == Architecture::Amd64 {
        // What checks the kernel's stack frames reads object files.
        add("LINUX_KERNEL_NEEDS_HOST_LIBELF", "y");
    }
    for variant in raspberry_firmware(board) {
        add(variant, "y");
    }
    add("PACKAGE_SKERRY", "y");
    if board.u_boot().is_none() {
        add("PACKAGE_SKERRY_LOADER", "y");
    }
    add("TARGET_ROOTFS_TAR", "n");
    if let Some(u_boot) = board.u_boot() {
        add("TARGET_UBOOT", "y");
        add("TARGET_UBOOT_BUILD_SYSTEM_KCONFIG", "y");
        add("TARGET_UBOOT_CUSTOM_VERSION", "y");
        add("TARGET_UBOOT_CUSTOM_VERSION_VALUE", &format!("\"{}\"", upstream(pins, &u_boot.package)?));
        add("TARGET_UBOOT_BOARD_DEFCONFIG", &format!("\"{}\"", u_boot_config(u_boot)?));
        add("TARGET_UBOOT_NEEDS_OPENSSL", "y");
        add("TARGET_UBOOT_NEEDS_GNUTLS", "y");
    }
    add("PACKAGE_HOST_GENIMAGE", "y");
    Ok(lines.iter().map(|line| line.clone() + "\n").collect())
}

/// The device trees of a board, as the kernel names their sources.
fn devicetrees(board: &Board) -> Vec<String> {
    let firmware = board.firmware.iter().filter(|file| file.package == board.kernel_package).map(|file| &file.file);
    let all = firmware.chain([&board.devicetree]).filter_map(|file| file.strip_suffix(".dtb"));
    let mut names: Vec<String> = all.map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// Buildroot's names for the processor's own firmware files.
fn raspberry_firmware(board: &Board) -> Vec<&'static str> {
    const KINDS: [(&str, &str); 3] = [
        ("bootcode.bin", "PACKAGE_RPI_FIRMWARE_BOOTCODE_BIN"),
        ("start_cd.elf", "PACKAGE_RPI_FIRMWARE_VARIANT_PI_CD"),
        ("start4cd.elf", "PACKAGE_RPI_FIRMWARE_VARIANT_PI4_CD"),
    ];
    let has = |name: &str| board.firmware.iter().any(|file| file.name == name);
    let kinds: Vec<&str> = KINDS.iter().filter(|(name, _)| has(name)).map(|(_, kind)| *kind).collect();
    if kinds.is_empty() { kinds } else { [vec!["PACKAGE_RPI_FIRMWARE"], kinds].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_build_systems_are_told_is_what_the_boards_say() {
        let tree = Tree::ours();
        let files = files(&tree).unwrap();
        assert!(files.len() >= 3, "{files:?}");
        for (path, text) in files {
            let found = std::fs::read_to_string(tree.top.join(&path)).unwrap_or_default();
            assert_eq!(found, text, "{path}: `cargo run -p image -- external` writes it anew");
        }
    }

    #[test]
    fn every_board_is_told() {
        let tree = Tree::ours();
        let files: Vec<String> = files(&tree).unwrap().into_iter().map(|(path, _)| path).collect();
        let names = board::names(&tree.boards());
        assert!(names.len() >= 7, "{names:?}");
        for name in names {
            for path in [
                format!("image/buildroot/configs/skerry_{}_defconfig", name.replace('-', "_")),
                format!("{LAYER}/conf/machine/skerry-{name}.conf"),
                format!("{LAYER}/files/wic/skerry-{name}.wks"),
            ] {
                assert!(files.contains(&path), "{path} is not written");
            }
        }
    }

    #[test]
    fn what_buildroot_downloads_has_a_checksum() {
        let tree = Tree::ours();
        let pins = packages::read(&tree).unwrap();
        let text = std::fs::read_to_string(tree.top.join("image/buildroot/patches/uboot/uboot.hash")).unwrap();
        for name in board::names(&tree.boards()) {
            let board = board::read(&tree.boards(), &name).unwrap();
            source(&tree, &pins, &board).unwrap();
            if let Some(u_boot) = board.u_boot() {
                let file = format!("  u-boot-{}.tar.bz2\n", upstream(&pins, &u_boot.package).unwrap());
                assert!(text.contains(&file), "{name}: uboot.hash lacks{file}");
            }
        }
    }

    #[test]
    fn a_board_is_told_its_own_loader() {
        let tree = Tree::ours();
        let pins = packages::read(&tree).unwrap();
        for (name, has, lacks) in [
            ("qemu-x86_64", ["BR2_x86_64=y", "BR2_PACKAGE_SKERRY_LOADER=y", "kernel-amd64.config"], "UBOOT"),
            ("rpi4", ["BR2_aarch64=y", "BR2_TARGET_UBOOT=y", "kernel-arm64.config"], "SKERRY_LOADER"),
        ] {
            let board = board::read(&tree.boards(), name).unwrap();
            let text = defconfig(&board, &pins, &source(&tree, &pins, &board).unwrap()).unwrap();
            assert!(has.iter().all(|line| text.contains(line)) && !text.contains(lacks), "{text}");
        }
        let odd = FirmwareFile { package: "a".into(), file: "usr/lib/b.bin".into(), name: "b".into() };
        let error = u_boot_config(&odd).unwrap_err().to_string();
        assert_eq!(error, "usr/lib/b.bin does not say which configuration of U-Boot it is");
    }

    #[test]
    fn a_kernels_source_is_upstreams_or_debians() {
        let hashes =
            "# Somebody\nsha256  aa  linux-6.1.tar.xz\n# https://b.example/c/\nsha256  bb  linux_7.1.orig.tar.xz\n";
        let of = |version| source_of(hashes, version).map(|source| (source.sha256, source.elsewhere));
        assert_eq!(of("6.1"), Some(("aa".to_owned(), None)));
        assert_eq!(of("7.1"), Some(("bb".to_owned(), Some("https://b.example/c/linux_7.1.orig.tar.xz".to_owned()))));
        assert_eq!(of("1"), None);
    }

    #[test]
    fn wic_is_told_the_layout() {
        let board = board::read(&Tree::ours().boards(), "qemu-arm64").unwrap();
        let text = wks(&plan(&board, &Artifacts::example()).unwrap());
        let expected = "\
part --source rawcopy --sourceparams=\"file=skerry-parts/ledger.img\" --offset 16s --no-table
part --source rawcopy --sourceparams=\"file=skerry-parts/firmware.fat\" --offset 2048s --fixed-size 32768K --system-id 0x0c --active
part --source rawcopy --sourceparams=\"file=skerry-parts/slot-a.img\" --offset 67584s --fixed-size 524288K --system-id 0xda
part --source empty --offset 1116160s --fixed-size 524288K --system-id 0xda
part --source rawcopy --sourceparams=\"file=skerry-parts/data.ext4\" --offset 2164736s --fixed-size 262144K --system-id 0x83
bootloader --ptable msdos --diskid 0x5ce72e01
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_version_is_the_one_before_debian() {
        let pin = |version: &str| Pin { id: "a".into(), version: version.into(), ..Pin::default() };
        for (version, expected) in [("6.12.95-1~bpo12+1", "6.12.95"), ("2025.01-3+deb13u1", "2025.01"), ("1+ds", "1")] {
            assert_eq!(upstream(&[pin(version)], "a").unwrap(), expected);
        }
        assert!(upstream(&[], "a").unwrap_err().to_string().ends_with("pinned a"));
    }
}
