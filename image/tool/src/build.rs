//! Building an image: packages, binaries, root, initramfs, slot, disk.
//!
//! Start at [`build`]. What it made last is kept, with the checksum of everything that went in; the same again is free.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use board::{Architecture, Board, Compression, FirmwareFile, Loader, Watchdog};
use flate2::GzBuilder;
use sha2::{Digest, Sha256};
use slots::Ledger;

use crate::cpio::Archive;
use crate::cross::Binaries;
use crate::error::{Doing, Result, wrong};
use crate::host::folder;
use crate::layout::{Artifacts, Layout, SECTOR, SIGNATURE, plan};
use crate::modules::{self, Modules};
use crate::packages::{self, Unpacked, hex, sha256};
use crate::root::{Entry, Root};
use crate::script::boot_script;
use crate::shell::{EPOCH, run, tool};
use crate::{Tree, kernel, licences, preload, verity};

/// File systems that must be the same each time have the same number.
const DATA_UUID: &str = "5ce72e01-da7a-4a7a-8000-000000000004";
const FAT_SERIAL: &str = "5ce72e01";
/// Says that the hash tree is ours; its secret is the root hash, not this.
const SALT: &[u8] = b"skerry-verity";
/// The API's address, which a healthy machine answers at.
const HEALTHY: &str = "127.0.0.1:6443";
/// The kubelet's, which a healthy node answers at.
const HEALTHY_AGENT: &str = "127.0.0.1:10250";

/// What was built.
#[derive(Clone, Debug)]
pub struct Image {
    /// The disk.
    pub disk: PathBuf,
    /// What lies where on it.
    pub layout: Layout,
    /// The kernel as it can be booted without boot loader.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The device tree, where the board has one.
    pub devicetree: Option<PathBuf>,
    /// What QEMU starts the machine with: the boot loader, or the firmware that starts it. Had only where QEMU may play it.
    pub loader: Option<PathBuf>,
    /// The checksum of everything that went in.
    pub inputs: String,
    /// Whether all was there already.
    pub reused: bool,
}

/// The packages a board needs, by id.
pub fn package_ids(board: &Board) -> BTreeSet<&str> {
    let files = boot_files(board).map(|file| file.package.as_str());
    files.chain([board.kernel_package.as_str(), "ca-certificates"]).collect()
}

/// What other people's packages have for the firmware partition.
fn boot_files(board: &Board) -> impl Iterator<Item = &FirmwareFile> {
    board.firmware.iter().chain(board.u_boot())
}

/// Makes the image for a board; `images` is a folder of container images to put into the root, where there is one.
pub fn build(tree: &Tree, board: &Board, binaries: &Binaries, images: Option<&Path>) -> Result<Image> {
    let ids: Vec<&str> = package_ids(board).into_iter().collect();
    let firmware = board.qemu.as_ref().and_then(|qemu| qemu.firmware.as_ref());
    are_pinned(tree, board, ids.iter().copied().chain(firmware.map(|file| file.package.as_str())))?;
    let mut image = build_of(tree, board, binaries, images, &packages::fetch(tree, &ids)?)?;
    if let Some(firmware) = firmware {
        let unpacked = packages::fetch(tree, &[&firmware.package])?;
        image.loader = Some(unpacked[&firmware.package].1.join(&firmware.file));
    }
    Ok(image)
}

/// Refuses a package that nobody pinned where the board names it.
fn are_pinned<'i>(tree: &Tree, board: &Board, mut ids: impl Iterator<Item = &'i str>) -> Result<()> {
    let pins = packages::read(tree)?;
    ids.try_for_each(|id| match packages::pinned(&pins, id) {
        Ok(_) => Ok(()),
        Err(error) => Err(wrong(format_args!("{}: {error}", tree.place(board, id)))),
    })
}

/// The same, of packages that were had elsewhere: see [`packages::given`].
pub fn build_of(
    tree: &Tree,
    board: &Board,
    binaries: &Binaries,
    images: Option<&Path>,
    packages: &Unpacked,
) -> Result<Image> {
    let kernel = packages.get(&board.kernel_package).ok_or_else(|| wrong("the kernel's package is gone"))?;
    let modules = modules::select(tree, board, kernel)?;
    kernel::check(tree, &kernel.1.join("boot").join(format!("config-{}", modules.release)))?;
    let work = tree.build.join("images").join(&board.name);
    folder(&work)?;
    let root = root(tree, board, binaries, &modules, packages, images)?;
    let inputs = checksum(board, &root, &modules, binaries)?;
    let kernel_file = kernel.1.join("boot").join(format!("vmlinuz-{}", modules.release));
    let paths = Paths::in_folder(&work);
    let reused = fs::read_to_string(&paths.inputs).is_ok_and(|text| text == inputs) && paths.disk.exists();
    if !reused {
        let _stale = fs::remove_file(&paths.inputs);
        pack_kernel(board, &kernel_file, &paths.kernel)?;
        root.write(&paths.root)?;
        let hash = verity(&paths.root, &paths.hashes)?;
        // The initramfs names where the root lies, which depends on its own length: it is made twice, the second for good.
        fs::write(&paths.initramfs, initramfs(board, binaries, &modules, &Facts::default())?)
            .doing("write the initramfs")?;
        let devicetree = devicetree(board, kernel)?;
        let layout = plan(board, &artifacts(&paths, &devicetree)?)?;
        let facts = Facts { hash, layout: Some(&layout) };
        fs::write(&paths.initramfs, initramfs(board, binaries, &modules, &facts)?).doing("write the initramfs")?;
        let again = plan(board, &artifacts(&paths, &devicetree)?)?;
        assert!(again == layout, "the initramfs' facts have a fixed length");
        write_disk(board, &layout, &paths, packages, binaries, &devicetree)?;
        fs::write(&paths.inputs, &inputs).doing("note what the image was made of")?;
    }
    let layout = plan(board, &artifacts(&paths, &devicetree(board, kernel)?)?)?;
    let loader = board.u_boot().map(|u_boot| packages[&u_boot.package].1.join(&u_boot.file));
    let devicetree = (!board.devicetree.is_empty()).then(|| devicetree_path(board, kernel));
    Ok(Image {
        disk: paths.disk,
        layout,
        kernel: kernel_file,
        initramfs: paths.initramfs,
        devicetree,
        loader,
        inputs,
        reused,
    })
}

struct Paths {
    kernel: PathBuf,
    initramfs: PathBuf,
    root: PathBuf,
    hashes: PathBuf,
    firmware: PathBuf,
    data: PathBuf,
    disk: PathBuf,
    inputs: PathBuf,
}

impl Paths {
    fn in_folder(work: &Path) -> Paths {
        let at = |name: &str| work.join(name);
        Paths {
            kernel: at("kernel"),
            initramfs: at("initramfs"),
            root: at("root.squashfs"),
            hashes: at("root.hashes"),
            firmware: at("firmware.fat"),
            data: at("data.ext4"),
            disk: at("disk.img"),
            inputs: at("inputs"),
        }
    }
}

fn artifacts(paths: &Paths, devicetree: &[u8]) -> Result<Artifacts> {
    let size =
        |path: &Path| fs::metadata(path).map(|about| about.len()).doing(format_args!("measure {}", path.display()));
    Ok(Artifacts {
        kernel: size(&paths.kernel)?,
        initramfs: size(&paths.initramfs)?,
        devicetree: devicetree.len() as u64,
        root: size(&paths.root)?,
        hashes: size(&paths.hashes)?,
    })
}

/// Everything in the root.
fn root(
    tree: &Tree,
    board: &Board,
    binaries: &Binaries,
    modules: &Modules,
    packages: &Unpacked,
    images: Option<&Path>,
) -> Result<Root> {
    let mut root = Root::default();
    for folder in ["proc", "sys", "dev", "run", "data", "var", "root", "mnt", "bin", "sbin", "usr/bin", "usr/sbin"] {
        root.add(folder, Entry::Folder { mode: 0o755 });
    }
    root.add("tmp", Entry::Folder { mode: 0o1777 });
    let program = |from: &Path| Entry::Copy { from: from.to_owned(), mode: 0o755 };
    root.add("sbin/skerry-init", program(&binaries.init));
    root.add("bin/skerry", program(&binaries.skerry));
    root.add("sbin/modprobe", Entry::Link("skerry-init".into()));
    root.add("etc/resolv.conf", Entry::Link("/run/resolv.conf".into()));
    root.add("etc/machine-id", Entry::Link("/run/machine-id".into()));
    root.text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n");
    root.text("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n");
    root.text("etc/group", "root:x:0:\nnogroup:x:65534:\n");
    root.text("etc/os-release", format!("ID=skerry\nNAME=Skerry\nPRETTY_NAME=\"Skerry on {}\"\n", board.summary));
    root.text("etc/skerry/board", board_facts(board));
    root.text("etc/skerry/services", SERVICES);
    root.text("etc/skerry/update-keys", tree.trusted.as_str());
    root.text("etc/skerry/published", PUBLISHED);
    root.text("etc/ssl/certs/ca-certificates.crt", certificates(&packages["ca-certificates"].1)?);
    let folder = format!("lib/modules/{}", modules.release);
    for (path, from) in &modules.root {
        root.add(&format!("{folder}/{path}"), Entry::Copy { from: from.clone(), mode: 0o644 });
    }
    for (name, text) in &modules.index {
        root.text(&format!("{folder}/{name}"), text.as_str());
    }
    if let Some(images) = images {
        root.add_images(preload::read_folder(images, board.architecture.name())?)?;
    }
    licences::add(tree, &mut root, packages)?;
    Ok(root)
}

/// What PID 1 keeps running.
const SERVICES: &str = "\
# name, role where it is for one only, once=SETTING where it runs before the others, environment, program, arguments; [ ] where
# a setting says so
update /sbin/skerry-init update serve
restore role=server once=restore /bin/skerry restore --if-blank --data-dir /data/skerry [ --key-file {restore_key} ] [ --volumes-to {restore_volumes} ] {restore}
keeper /sbin/skerry-init keeper --socket /run/keeper.sock --held
server role=server SKERRY_KEEPER_SOCKET=/run/keeper.sock /bin/skerry server --data-dir /data/skerry --listen 0.0.0.0:6443 --set-clock [ --token-file {token_file} ] [ --node-ip {node_ip} ] [ --node-labels {labels} ] [ --register-with-taints {taints} ] [ --registry-mirrors {mirrors} ]
agent role=agent SKERRY_KEEPER_SOCKET=/run/keeper.sock /bin/skerry agent --data-dir /data/skerry --server {server} --set-clock [ --token-file {token_file} ] [ --node-ip {node_ip} ] [ --checkpoint-key-file {checkpoint_key_file} ] [ --node-labels {labels} ] [ --register-with-taints {taints} ] [ --registry-mirrors {mirrors} ]
";

/// What is handed to whoever runs the machine.
const PUBLISHED: &str = "\
# file, virtio port
/data/skerry/admin.kubeconfig skerry.kubeconfig
";

fn board_facts(board: &Board) -> String {
    format!(
        "name {}\nhostname skerry\nbuilt {EPOCH}\nhealthy_server {HEALTHY}\nhealthy_agent {HEALTHY_AGENT}\nwatchdog {}\nmodules {}\n",
        board.name,
        watchdog_word(board),
        board.boot_modules.join(" "),
    )
}

fn watchdog_word(board: &Board) -> &'static str {
    match board.watchdog {
        Watchdog::Open => "open",
        Watchdog::Closed => "closed",
    }
}

fn certificates(package: &Path) -> Result<String> {
    let folder = package.join("usr/share/ca-certificates/mozilla");
    let entries = fs::read_dir(&folder).doing(format_args!("list {}", folder.display()))?.flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    let texts = files.iter().map(|file| fs::read_to_string(file).doing(format_args!("read {}", file.display())));
    Ok(texts.collect::<Result<Vec<_>>>()?.concat())
}

/// What the initramfs knows of its slot.
#[derive(Default)]
struct Facts<'a> {
    hash: String,
    layout: Option<&'a Layout>,
}

fn initramfs(board: &Board, binaries: &Binaries, modules: &Modules, facts: &Facts<'_>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["dev", "modules", "proc", "root", "sys"] {
        archive.folder(folder);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    let read = |path: &Path| fs::read(path).doing(format_args!("read {}", path.display()));
    archive.file("init", 0o755, &read(&binaries.init)?);
    for (index, module) in modules.initramfs.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{index:02}-{name}"), 0o644, &read(module)?);
    }
    archive.file("slot", 0o644, slot_facts(board, facts).as_bytes());
    Ok(archive.finish())
}

/// Numbers are padded, so that the file's length says nothing of them.
fn slot_facts(board: &Board, facts: &Facts<'_>) -> String {
    let contents = facts.layout.map(|layout| layout.contents).unwrap_or_default();
    format!(
        "board {}\nwatchdog {}\ndisk {SIGNATURE:08x}\nroot_at {:010}\nroot_sectors {:010}\nhash_at {:010}\nroot_hash {:>64}\nsalt {}\n",
        board.name,
        watchdog_word(board),
        contents.root.at,
        contents.root.sectors,
        contents.hashes.at,
        facts.hash,
        hex(SALT)
    )
}

fn pack_kernel(board: &Board, from: &Path, into: &Path) -> Result<()> {
    let bytes = fs::read(from).doing(format_args!("read the kernel {}", from.display()))?;
    let packed = match board.compression {
        Compression::None => bytes,
        Compression::Gzip => {
            let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::best());
            encoder.write_all(&bytes).and_then(|()| encoder.finish()).doing("pack the kernel")?
        }
    };
    fs::write(into, packed).doing(format_args!("write {}", into.display()))
}

/// Makes the hash tree and gives back the hash of everything.
fn verity(root: &Path, hashes: &Path) -> Result<String> {
    // The tree is over whole blocks, and so is what the board reads.
    let length = fs::metadata(root).doing("measure the root")?.len();
    let file = File::options().write(true).open(root).doing("open the root")?;
    file.set_len(length.next_multiple_of(verity::BLOCK as u64)).doing("round the root up")?;
    Ok(hex(&verity::tree(root, SALT, hashes)?))
}

fn devicetree(board: &Board, kernel: &(packages::Pin, PathBuf)) -> Result<Vec<u8>> {
    if board.devicetree.is_empty() {
        return Ok(Vec::new());
    }
    let path = devicetree_path(board, kernel);
    fs::read(&path).doing(format_args!("read the device tree {}", path.display()))
}

fn devicetree_path(board: &Board, kernel: &(packages::Pin, PathBuf)) -> PathBuf {
    kernel.1.join("usr/lib").join(&kernel.0.name).join(&board.devicetree)
}

fn write_disk(
    board: &Board,
    layout: &Layout,
    paths: &Paths,
    packages: &Unpacked,
    binaries: &Binaries,
    devicetree: &[u8],
) -> Result<()> {
    firmware(board, layout, paths, packages, binaries)?;
    data(board, paths)?;
    let _absent = fs::remove_file(&paths.disk);
    let mut disk = File::options().create(true).read(true).write(true).truncate(true).open(&paths.disk);
    let disk =
        disk.as_mut().map_err(|error| wrong(format_args!("failed to make {}: {error}", paths.disk.display())))?;
    disk.set_len(layout.sectors() * SECTOR).doing("make the disk")?;
    let mut sector = [0; slots::sector::BYTES];
    layout.table().write(&mut sector);
    put(disk, 0, &mut &sector[..])?;
    put(disk, slots::store::PLACES[0], &mut &slots::sector::encode(&Ledger::new())[..])?;
    let part = |name: &str| layout.part(name).at;
    put_file(disk, part("firmware"), &paths.firmware)?;
    put_file(disk, part("data"), &paths.data)?;
    let slot = part("slot a");
    put(disk, slot + layout.contents.devicetree.at, &mut &devicetree[..])?;
    for (extent, path) in [
        (layout.contents.kernel, &paths.kernel),
        (layout.contents.initramfs, &paths.initramfs),
        (layout.contents.root, &paths.root),
        (layout.contents.hashes, &paths.hashes),
    ] {
        put_file(disk, slot + extent.at, path)?;
    }
    // Last, as an update does it: a slot without its first sector is no slot.
    put(disk, slot, &mut &layout.contents.encode()[..])?;
    crate::bundle::put_head(board, layout, &paths.disk)?;
    disk.sync_all().doing("write the disk")
}

fn put_file(disk: &mut File, at: u64, path: &Path) -> Result<()> {
    put(disk, at, &mut File::open(path).doing(format_args!("open {}", path.display()))?)
}

/// Writes what is not zero: the rest stays a hole.
pub(crate) fn put(disk: &mut File, at: u64, from: &mut dyn Read) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut position = at * SECTOR;
    loop {
        let count = from.read(&mut buffer).doing("read a part of the disk")?;
        if count == 0 {
            return Ok(());
        }
        if buffer[..count].iter().any(|byte| *byte != 0) {
            disk.seek(SeekFrom::Start(position))
                .and_then(|_| disk.write_all(&buffer[..count]))
                .doing("write the disk")?;
        }
        position += count as u64;
    }
}

/// The firmware partition: boot loader, what it is told, what the processor's own firmware wants.
fn firmware(board: &Board, layout: &Layout, paths: &Paths, packages: &Unpacked, binaries: &Binaries) -> Result<()> {
    let work = paths.firmware.with_extension("files");
    let _absent = fs::remove_dir_all(&work);
    folder(&work)?;
    match &board.loader {
        Loader::UBoot { disk, .. } => script_of(board, disk, layout, &work)?,
        Loader::Uefi => loader_of(board, binaries, &work)?,
    }
    for file in boot_files(board) {
        let (pin, unpacked) = &packages[&file.package];
        // A kernel's device trees lie in a folder that is named after it.
        let inside = unpacked.join("usr/lib").join(&pin.name).join(&file.file);
        let from = if inside.exists() { inside } else { unpacked.join(&file.file) };
        fs::copy(&from, work.join(&file.name)).doing(format_args!("copy {}", from.display()))?;
    }
    if !board.config_txt.is_empty() {
        fs::write(work.join("config.txt"), board.config_txt.trim_start()).doing("write config.txt")?;
    }
    // For whoever looks into the card: everything that can be said, and nothing said.
    fs::write(work.join(settings::FILE), settings::file(&settings::Settings::default())).doing("write the settings")?;
    let _absent = fs::remove_file(&paths.firmware);
    let blank = File::create(&paths.firmware).doing("make the firmware partition")?;
    blank.set_len(board.firmware_mib << 20).doing("make the firmware partition")?;
    run(tool("mkfs.fat").args(["--invariant", "-i", FAT_SERIAL, "-n", "SKERRY"]).arg(&paths.firmware))?;
    let names = dated(&work)?;
    run(tool("mcopy").args(["-s", "-m", "-i"]).arg(&paths.firmware).args(&names).arg("::")).map(drop)
}

/// What U-Boot runs.
fn script_of(board: &Board, disk: &str, layout: &Layout, into: &Path) -> Result<()> {
    let source = into.join("boot.cmd");
    fs::write(&source, boot_script(board, disk, layout)).doing("write the boot script")?;
    run(tool("mkimage")
        .args(["-A", "arm64", "-T", "script", "-C", "none", "-n", "skerry", "-d"])
        .arg(&source)
        .arg(into.join("boot.scr")))
    .map(drop)
}

/// What UEFI starts where nobody told it of anything else, and what that tells the kernel.
fn loader_of(board: &Board, binaries: &Binaries, into: &Path) -> Result<()> {
    let name = match board.architecture {
        Architecture::Arm64 => "BOOTAA64.EFI",
        Architecture::Amd64 => "BOOTX64.EFI",
    };
    let loader = binaries.loader.as_ref().ok_or_else(|| wrong("the boot loader for UEFI was not built"))?;
    let place = into.join("EFI/BOOT");
    folder(&place)?;
    fs::copy(loader, place.join(name)).doing(format_args!("copy {}", loader.display()))?;
    fs::write(into.join("cmdline.txt"), format!("{}\n", board.command_line)).doing("write the kernel's command line")
}

/// What lies in a folder, each dated [`EPOCH`] with all that is in it.
fn dated(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).doing(format_args!("list {}", folder.display()))?.flatten();
    let mut names: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    names.sort();
    let epoch = std::time::UNIX_EPOCH + std::time::Duration::from_secs(EPOCH);
    for name in &names {
        if name.is_dir() {
            dated(name)?;
        }
        let opened = File::open(name).doing(format_args!("open {}", name.display()))?;
        opened.set_modified(epoch).doing(format_args!("date {}", name.display()))?;
    }
    Ok(names)
}

/// The data partition, empty; a board grows it to its disk. The reserve is for the cluster's store, which takes up to 8 MiB
/// more at once; growing it, the kernel adds whole hundredths, rounded down: two of them.
fn data(board: &Board, paths: &Paths) -> Result<()> {
    let _absent = fs::remove_file(&paths.data);
    let blank = File::create(&paths.data).doing("make the data partition")?;
    blank.set_len(board.data_mib << 20).doing("make the data partition")?;
    run(tool("mke2fs")
        .args(["-q", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "3", "-J", "size=16", "-L", "skerry-data"])
        .args(["-O", "64bit,metadata_csum", "-U", DATA_UUID])
        .args(["-E", &format!("hash_seed={DATA_UUID},nodiscard,lazy_itable_init=0,lazy_journal_init=0")])
        .arg(&paths.data))
    .map(drop)
}

/// The checksum of all that goes in.
fn checksum(board: &Board, root: &Root, modules: &Modules, binaries: &Binaries) -> Result<String> {
    let mut sum = Sha256::new();
    // The tool itself is an input: what it does with the others is in it.
    let own = std::env::current_exe().doing("find this program")?;
    for file in [&own, &binaries.init, &binaries.skerry].into_iter().chain(&binaries.loader) {
        sum.update(sha256(file)?);
    }
    sum.update(format!("{board:?}{:?}", modules.initramfs));
    for (path, entry) in root.entries() {
        sum.update(format!("{path} {entry:?}\n"));
        if let Entry::Copy { from, .. } = entry {
            sum.update(sha256(from)?);
        }
    }
    Ok(hex(&sum.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_facts_have_a_fixed_length() {
        let board = board::read(&Tree::ours().boards(), "qemu-arm64").unwrap();
        let layout = plan(&board, &Artifacts::example()).unwrap();
        let whole = Facts { hash: "0".repeat(64), layout: Some(&layout) };
        assert_eq!(slot_facts(&board, &whole).len(), slot_facts(&board, &Facts::default()).len());
    }

    #[test]
    fn a_package_nobody_pinned_is_refused_with_the_line_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let boards = folder.path().join("boards");
        fs::create_dir(&boards).unwrap();
        fs::write(boards.join("mine.toml"), "[kernel]\n\npackage = \"my-kernel\"\n").unwrap();
        fs::create_dir(folder.path().join("image")).unwrap();
        fs::write(folder.path().join("image/packages.lock"), "package = []\n").unwrap();
        let tree = Tree { top: folder.path().into(), ..Tree::ours() };
        let mut board = board::read(&Tree::ours().boards(), "rpi4").unwrap();
        board.name = "mine".to_owned();
        let error = are_pinned(&tree, &board, ["my-kernel"].into_iter()).unwrap_err().to_string();
        assert!(error.contains("/mine.toml:3: image/packages.lock has no package my-kernel"), "{error}");
    }
}
