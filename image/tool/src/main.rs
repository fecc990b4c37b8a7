//! `image`: builds images and runs them.
//!
//! Start at [`Verb`]; each has one function in the library.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use base::{Bytes, chain};
use board::Board;
use clap::{Parser, Subcommand};
use image::build::Image;
use image::bundle::{About, CONFIRM_WITHIN_S, SECURITY_EPOCH};
use image::error::{Doing, Result, wrong};
use image::flash::Said;
use image::qemu::Way;
use image::up::{Wanted, down, up};
use image::{Tree, build, bundle, cross, device, external, flash, host, packages, parts, shell};

/// The board that is played unless another is named.
const BOOTED: &str = "qemu-arm64";
/// What `verify` takes of the disk from nothing, with a good part to spare.
const VERIFY_ROOM: Bytes = Bytes::mib(16 << 10);

/// Builds Skerry's images and runs them.
#[derive(Parser)]
#[command(name = "image", disable_version_flag = true)]
struct Words {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Builds an image, boots it in QEMU, waits for the node and writes a kubeconfig
    Up {
        /// The board to play
        #[arg(long, default_value = BOOTED)]
        board: String,
        /// So many boards: a server and agents that join it, from cards flashed for each, on one cable
        #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
        boards: u8,
        /// Begin with an empty data partition
        #[arg(long)]
        fresh: bool,
        /// Boot the kernel directly, without a boot loader: some seconds faster
        #[arg(long)]
        direct: bool,
        /// A folder with `skerry` and `skerry-init` for the board, instead of building them
        #[arg(long, value_name = "FOLDER")]
        binaries: Option<PathBuf>,
        /// A folder of container images (OCI archives, *.tar) to put into the firmware, as in `build` [default: the test images]
        #[arg(long, value_name = "FOLDER", alias = "images")]
        preload: Option<PathBuf>,
        /// The kubeconfig to write [default: build/kubeconfig]
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// Switches the machines of `up` off; their data stays
    Down {
        /// The board it plays
        #[arg(long, default_value = BOOTED)]
        board: String,
    },
    /// Builds an image for a board
    Build(Box<Build>),
    /// Writes an image to a card or a file, with the settings of one board, and reads it back
    Flash(Box<Flash>),
    /// Writes what Buildroot and Yocto are told of the boards anew
    External,
    /// Makes a pair of keys: one that signs updates, and beside it, named .pub, the one that boards trust
    Key {
        /// The secret key to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Builds an image for a board and makes it one signed file to update boards with
    Bundle {
        /// The board
        #[arg(long)]
        board: String,
        /// The secret key that signs it, of `image key`
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The bundle to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Its version [default: the release and a checksum]
        #[arg(long)]
        version: Option<String>,
        /// Its security epoch: boards that reached a higher one refuse it
        #[arg(long, default_value_t = SECURITY_EPOCH)]
        security_epoch: u32,
        /// It must have proved itself so many seconds after it started, or the board returns to what it ran before
        #[arg(long, default_value_t = CONFIRM_WITHIN_S, value_name = "SECONDS")]
        confirm_within: u32,
        /// A file of public keys that boards with this image trust [default: that of the key]
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
        /// A folder with `skerry` and `skerry-init` for the board, instead of building them
        #[arg(long, value_name = "FOLDER")]
        binaries: Option<PathBuf>,
        /// A folder of container images to put into the firmware, as in `build`
        #[arg(long, value_name = "FOLDER", alias = "images")]
        preload: Option<PathBuf>,
    },
    /// Shows the Debian packages in use, or renews them
    Lock {
        /// Pin what Debian has now
        #[arg(long)]
        update: bool,
    },
    /// Builds the binaries for a board's processor, as `build` does first
    Binaries {
        /// The board
        #[arg(long, default_value = BOOTED)]
        board: String,
    },
    /// Runs every test
    Verify,
}

#[derive(clap::Args)]
struct Build {
    /// The board
    #[arg(long)]
    board: String,
    /// The disk image to write [default: build/images/BOARD/disk.img]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A folder with `skerry` and `skerry-init` for the board, instead of building them
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,
    /// A folder of container images (OCI archives, *.tar) to put into the firmware: nodes use them where they lie, never
    /// remove them, and give them to nodes that lack them
    #[arg(long, value_name = "FOLDER", alias = "images")]
    preload: Option<PathBuf>,
    /// A folder of packages that another system unpacked, FOLDER/ID as Debian's package of that id would be, instead of
    /// Debian's; nothing is installed then, and a tool that is missing is an error
    #[arg(long, value_name = "FOLDER", requires = "binaries")]
    from: Option<PathBuf>,
    /// Where those packages come from, for the list of sources in the image
    #[arg(long, value_name = "NAME", default_value = "another system", requires = "from")]
    from_name: String,
    /// Also write the disk in parts, and a genimage.cfg that puts them together
    #[arg(long, value_name = "FOLDER")]
    parts: Option<PathBuf>,
    /// A file of public keys whose updates the board takes; without one it takes those of its settings alone
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// The folder to work in [default: build, in the repository]
    #[arg(long, value_name = "FOLDER")]
    build_folder: Option<PathBuf>,
    /// Show what lies where and write nothing beyond the build folder
    #[arg(long)]
    dry_run: bool,
}

impl Build {
    /// Debian's packages, or another system's.
    fn image(&self, tree: &Tree, board: &Board) -> Result<Image> {
        let Some(folder) = &self.from else {
            host::prepare(tree)?;
            let binaries = cross::build(tree, board, self.binaries.as_deref())?;
            return build::build(tree, board, &binaries, self.preload.as_deref());
        };
        let binaries = cross::build(tree, board, self.binaries.as_deref())?;
        let ids: Vec<&str> = build::package_ids(board).into_iter().collect();
        let packages = packages::given(folder, &ids, &self.from_name)?;
        build::build_of(tree, board, &binaries, self.preload.as_deref(), &packages)
    }
}

#[derive(clap::Args)]
struct Flash {
    /// The board to build an image for
    #[arg(long, required_unless_present = "image")]
    board: Option<String>,
    /// An image that is built already
    #[arg(long, value_name = "FILE", conflicts_with = "board")]
    image: Option<PathBuf>,
    /// What to write to: a whole block device, a loop device, or a file
    #[arg(long, value_name = "DEVICE")]
    device: PathBuf,
    /// A settings file for the board; what is said below wins over it
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The board's name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// server or agent
    #[arg(long)]
    role: Option<String>,
    /// For an agent: the address or name of the server
    #[arg(long, value_name = "ADDRESS")]
    server: Option<String>,
    /// What lets a board into the cluster
    #[arg(long, conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with the token; made with a new one if it is not there, so that many cards get the same
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// dhcp, or the board's own address with the length of its net
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    address: Option<String>,
    /// Who leads to other nets
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<String>,
    /// Who resolves names
    #[arg(long, value_name = "ADDRESS")]
    dns: Option<String>,
    /// Who knows the time
    #[arg(long, value_name = "NAME")]
    ntp: Option<String>,
    /// For a server: a backup that its first start begins with; it goes on the card too
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    restore: Option<PathBuf>,
    /// The file with the backup's key, if it is encrypted; it goes on the card too
    #[arg(long, value_name = "FILE", requires = "restore")]
    restore_key: Option<PathBuf>,
    /// Restore the backup's volumes too, each below this folder of the board at the path it was backed up from
    #[arg(long, value_name = "FOLDER", requires = "restore")]
    restore_volumes: Option<String>,
    /// A folder with `skerry` and `skerry-init` for the board, instead of building them
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,
    /// A folder of container images to put into the firmware, as in `build`
    #[arg(long, value_name = "FOLDER", alias = "images")]
    preload: Option<PathBuf>,
}

impl Flash {
    fn said(&self) -> Said {
        let lines = [
            ("hostname", &self.hostname),
            ("role", &self.role),
            ("server", &self.server),
            ("token", &self.token),
            ("address", &self.address),
            ("gateway", &self.gateway),
            ("dns", &self.dns),
            ("ntp", &self.ntp),
            ("restore_volumes", &self.restore_volumes),
        ];
        let lines = lines.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
        Said {
            file: self.settings.clone(),
            lines,
            token_file: self.token_file.clone(),
            restore: self.restore.clone(),
            restore_key: self.restore_key.clone(),
        }
    }
}

fn main() -> ExitCode {
    let mut tree = Tree::ours();
    let outcome = match Words::parse().verb {
        Verb::Up { board, boards, fresh, direct, binaries, preload, kubeconfig } => {
            let way = if direct { Way::Direct } else { Way::Loader };
            up(&tree, &Wanted { board, boards, fresh, way, binaries, preload, kubeconfig })
        }
        Verb::Down { board } => {
            down(&tree, &board).map(|ran| println!("{}", if ran > 0 { "it is off" } else { "it was off" }))
        }
        Verb::Build(words) => trusting(&mut tree, words.trust.as_deref()).and_then(|()| build_one(&tree, &words)),
        Verb::Key { out } => bundle::key(&out).map(|public| println!("{}", public.display())),
        Verb::Bundle { board, key, out, version, security_epoch, confirm_within, trust, binaries, preload } => {
            let about = About { version, security_epoch, confirm_within_s: confirm_within };
            let trust = trust.unwrap_or_else(|| format!("{}.pub", key.display()).into());
            trusting(&mut tree, Some(&trust))
                .and_then(|()| bundle_one(&tree, &board, &about, &key, &out, binaries, preload))
        }
        Verb::Flash(wanted) => flash_one(&tree, &wanted),
        Verb::External => write_external(&tree),
        Verb::Lock { update } => lock(&tree, update),
        Verb::Binaries { board } => binaries_of(&tree, &board),
        Verb::Verify => verify(&tree),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn build_one(tree: &Tree, words: &Build) -> Result<()> {
    let board = board::read(&tree.boards(), &words.board)?;
    let tree = Tree { build: words.build_folder.clone().unwrap_or_else(|| tree.build.clone()), ..tree.clone() };
    let image = words.image(&tree, &board)?;
    print!("{}", image.layout);
    if words.dry_run {
        return Ok(());
    }
    if let Some(folder) = &words.parts {
        parts::write(&image, folder)?;
    }
    let disk = match &words.out {
        Some(out) => {
            let copied = shell::run(Command::new("cp").arg("--sparse=always").arg(&image.disk).arg(out));
            copied.map(|_| out)?
        }
        None => &image.disk,
    };
    println!("{} (sha256 {})", disk.display(), packages::sha256(disk)?);
    Ok(())
}

/// What cannot work is said before anything is built: the device, then the settings.
fn flash_one(tree: &Tree, wanted: &Flash) -> Result<()> {
    let device = device::look(&wanted.device)?;
    // An image of no size fits everywhere: what else is wrong is wrong whatever the image.
    device::refusal(&device, 0).map_or(Ok(()), Err)?;
    let brought = flash::brought(&wanted.said())?;
    let image = match (&wanted.image, &wanted.board) {
        (Some(image), _) => image.clone(),
        (None, board) => {
            let board = board::read(&tree.boards(), board.as_deref().unwrap_or_default())?;
            host::prepare(tree)?;
            let binaries = cross::build(tree, &board, wanted.binaries.as_deref())?;
            build::build(tree, &board, &binaries, wanted.preload.as_deref())?.disk
        }
    };
    let path = wanted.device.display();
    if !device.model.is_empty() {
        eprintln!("{path} is {}, {} MiB", device.model, device.bytes >> 20);
    }
    let mut bar = Bar::default();
    flash::flash(&image, &wanted.device, &brought, &tree.build.join("flash"), &mut |what, done, total| {
        bar.show(what, done, total);
    })?;
    println!("{path} holds the image, read back and found right");
    Ok(())
}

/// Progress for people: a line that moves on a terminal, one at every tenth elsewhere.
#[derive(Default)]
struct Bar {
    shown: Option<(String, u64)>,
}

impl Bar {
    fn show(&mut self, what: &str, done: u64, total: u64) {
        let moves = std::io::stderr().is_terminal();
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        let now = (what.to_owned(), if moves { percent } else { percent / 10 });
        if self.shown.as_ref() == Some(&now) {
            return;
        }
        self.shown = Some(now);
        let line = format!("{what:<30} {percent:3} %, {} of {} MiB", done >> 20, total >> 20);
        match (moves, done == total) {
            (true, false) => eprint!("\r{line}"),
            (true, true) => eprintln!("\r{line}"),
            (false, _) => eprintln!("{line}"),
        }
    }
}

fn write_external(tree: &Tree) -> Result<()> {
    for (path, text) in external::files(tree)? {
        std::fs::write(tree.top.join(&path), text).doing(format_args!("write {path}"))?;
        println!("{path}");
    }
    Ok(())
}

/// What is built from here on trusts the keys in `file`.
fn trusting(tree: &mut Tree, file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = std::fs::read_to_string(file).doing(format_args!("read {}", file.display()))?;
    ::bundle::trusted(&text).map_err(|error| wrong(format_args!("{}: {error}", file.display())))?;
    tree.trusted = text;
    Ok(())
}

fn bundle_one(
    tree: &Tree,
    board: &str,
    about: &About,
    key: &Path,
    out: &Path,
    binaries: Option<PathBuf>,
    preload: Option<PathBuf>,
) -> Result<()> {
    let board = board::read(&tree.boards(), board)?;
    host::prepare(tree)?;
    let binaries = cross::build(tree, &board, binaries.as_deref())?;
    let image = build::build(tree, &board, &binaries, preload.as_deref())?;
    let digest = bundle::make(&board, &image.layout, &image.disk, about, key, out)?;
    println!("{} ({digest})", out.display());
    Ok(())
}

fn lock(tree: &Tree, update: bool) -> Result<()> {
    if update {
        let changed = packages::update(tree)?;
        println!(
            "{}",
            if changed.is_empty() { "everything is as new as it gets".to_owned() } else { changed.join("\n") }
        );
        return Ok(());
    }
    for pin in packages::read(tree)? {
        println!("{:<16} {} {} ({})", pin.id, pin.name, pin.version, pin.suite);
    }
    Ok(())
}

/// The tests of every crate, then those that need an image: they take longest, and only make sense once the others pass.
fn verify(tree: &Tree) -> Result<()> {
    host::room(tree, VERIFY_ROOM)?;
    host::prepare_to_play(tree, &board::read(&tree.boards(), BOOTED)?)?;
    let mut building = build_meanwhile(tree)?;
    let tested = cargo(tree, &["test", "--workspace", "--exclude", "boot", "--locked", "--no-fail-fast"]);
    // Where it failed, the boot tests do it again, and say why.
    let _built = building.wait().doing("wait for the binaries")?;
    tested?;
    cargo(tree, &["test", "-p", "boot", "--locked", "--", "--nocapture"])
}

/// Builds what the boot tests boot in what processor time the other tests leave, as they wait most of theirs.
fn build_meanwhile(tree: &Tree) -> Result<Child> {
    host::folder(&tree.build)?;
    let log = tree.build.join("verify-binaries.log");
    let output = File::create(&log).doing(format_args!("write {}", log.display()))?;
    let errors = output.try_clone().doing("share the log")?;
    let ourselves = std::env::current_exe().doing("find this program")?;
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(ourselves).args(["binaries", "--board", BOOTED]).current_dir(&tree.top);
    command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().doing("build binaries beside the tests")
}

fn binaries_of(tree: &Tree, board: &str) -> Result<()> {
    let board = board::read(&tree.boards(), board)?;
    host::prepare(tree)?;
    let made = cross::build(tree, &board, None)?;
    println!("{}\n{}", made.init.display(), made.skerry.display());
    Ok(())
}

fn cargo(tree: &Tree, words: &[&str]) -> Result<()> {
    let status = shell::cargo().args(words).current_dir(&tree.top).status().doing("run cargo")?;
    if status.success() { Ok(()) } else { Err(wrong(format_args!("cargo {} failed: {status}", words.join(" ")))) }
}
