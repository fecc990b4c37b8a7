//! From sources to a running cluster in one go, and down again.
//!
//! Start at [`up`].

use std::fs::{self, File};
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write, stderr};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use board::Board;

use crate::build::{self, Image};
use crate::error::{Doing, Result, wrong};
use crate::host::{self, folder};
use crate::layout::SECTOR;
use crate::qemu::{Files, Machine, Way, Wires, command_line};
use crate::shell::{cargo, run};
use crate::{Tree, cross, fleet};

/// Emulated and on a busy machine, a first boot takes a minute; more means that something is broken.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(300);
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);
const FIRST_PORT: u16 = 6443;
/// Lines of the console told when a machine does not become ready.
const LINES_TOLD: usize = 30;

/// What `up` is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The board.
    pub board: String,
    /// So many of them: one alone, or a server and its agents on one cable.
    pub boards: u8,
    /// Begin with an empty data partition.
    pub fresh: bool,
    /// How it is booted.
    pub way: Way,
    /// Where the binaries are, where they need not be built.
    pub binaries: Option<PathBuf>,
    /// A folder of container images to put into the firmware; the test images otherwise.
    pub preload: Option<PathBuf>,
    /// The kubeconfig to write; in the build folder otherwise.
    pub kubeconfig: Option<PathBuf>,
}

/// Builds, boots, waits until the node is ready, and says how to use it.
pub fn up(tree: &Tree, wanted: &Wanted) -> Result<()> {
    let began = Instant::now();
    let board = board::read(&tree.boards(), &wanted.board)?;
    host::prepare_to_play(tree, &board)?;
    tell(began, "building the binaries for the board (the first time takes minutes)");
    let binaries = cross::build(tree, &board, wanted.binaries.as_deref())?;
    tell(began, "gathering container images");
    let images = wanted.preload.clone().map_or_else(|| test_images(tree, &board), Ok)?;
    tell(began, &format!("assembling the image for {}", board.name));
    let image = build::build(tree, &board, &binaries, Some(&images))?;
    tell(began, if image.reused { "the image is as it was" } else { "the image is made" });
    let kubeconfig = wanted.kubeconfig.clone().unwrap_or_else(|| tree.build.join("kubeconfig"));
    if wanted.boards > 1 {
        fleet::up(tree, &board, &image, wanted, &kubeconfig, began)?;
    } else {
        let place = Place::of(tree, &board);
        let (machine, port) = start(&board, &image, &place, wanted)?;
        tell(began, &format!("QEMU runs as process {}; its console is {}", machine.pid(), shown(&place.files.console)));
        let node = wait_for_ready(&machine, &place, port, &kubeconfig, began)?;
        tell(began, &format!("node {node} is Ready"));
    }
    let file = shown(&kubeconfig);
    println!("\nThree lines to try:\n");
    println!("    kubectl --kubeconfig {file} get nodes -o wide");
    println!("    kubectl --kubeconfig {file} create deployment hello --image=busybox:1.28 -- sleep 3600");
    println!("    kubectl --kubeconfig {file} get pods --all-namespaces --watch\n");
    println!("`cargo run -p image -- down` switches it off; its data stays.");
    Ok(())
}

/// The folder of the images that the Kubernetes documentation's manifests name, made anew where their sources are newer.
pub fn test_images(tree: &Tree, board: &Board) -> Result<PathBuf> {
    let archive = test_archive(tree, board);
    let made = archive.parent().unwrap_or(&tree.build).to_owned();
    folder(&made)?;
    if !is_newer(&archive, &tree.top.join("tests/images")) {
        let _stale = fs::remove_file(&archive);
        let words = ["run", "--quiet", "--locked", "--package", "images", "--", board.architecture.name()];
        run(cargo().args(words).arg(&archive).current_dir(&tree.top))?;
    }
    Ok(made)
}

/// The archive of the test images for a board's processor, alone in its folder.
pub fn test_archive(tree: &Tree, board: &Board) -> PathBuf {
    tree.build.join("test-images").join(board.architecture.name()).join("images.tar")
}

/// Whether `file` is newer than everything in a folder and the folders directly in it.
fn is_newer(file: &Path, sources: &Path) -> bool {
    let date = |path: &Path| path.metadata().and_then(|about| about.modified()).ok();
    let Some(made) = date(file) else { return false };
    let inside = |folder: &Path| {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let all = inside(sources).into_iter().flat_map(|path| inside(&path).into_iter().chain([path]));
    all.filter_map(|path| date(&path)).all(|changed| changed < made)
}

/// Switches the machines of a board off, the one alone and those on a cable; tells how many ran.
pub fn down(tree: &Tree, board: &str) -> Result<usize> {
    let board = board::read(&tree.boards(), board)?;
    let places = [Place::of(tree, &board)].into_iter().chain(fleet::places(tree, &board, u8::MAX));
    let running: Vec<Machine> = places.filter_map(|place| Machine::running(&place.files)).collect();
    let count = running.len();
    // Agents first: a server that is gone is nothing they must notice.
    running.into_iter().rev().try_for_each(Machine::shut_down)?;
    Ok(count)
}

/// Where a board's machine lives.
pub struct Place {
    /// Its files.
    pub files: Files,
    pub(crate) inputs: PathBuf,
    pub(crate) port: PathBuf,
}

impl Place {
    /// The place of a board's machine.
    pub fn of(tree: &Tree, board: &Board) -> Place {
        Place::named(tree, &board.name)
    }

    /// A place of that name.
    pub fn named(tree: &Tree, name: &str) -> Place {
        let folder = tree.build.join("machines").join(name);
        Place { files: Files::in_folder(&folder), inputs: folder.join("inputs"), port: folder.join("port") }
    }
}

fn start(board: &Board, image: &Image, place: &Place, wanted: &Wanted) -> Result<(Machine, u16)> {
    let same = fs::read_to_string(&place.inputs).is_ok_and(|inputs| inputs == image.inputs);
    if let Some(machine) = Machine::running(&place.files) {
        if same && !wanted.fresh {
            return Ok((machine, known_port(place)?));
        }
        machine.shut_down()?;
    }
    if !same || wanted.fresh || !place.files.disk.exists() {
        put_image(board, image, place, wanted.fresh)?;
    }
    let port = free_port()?;
    fs::write(&place.port, port.to_string()).doing("note the port")?;
    let words = command_line(board, image, &place.files, &Wires::alone(port), wanted.way)?;
    Ok((Machine::start(&place.files, &words)?, port))
}

pub(crate) fn known_port(place: &Place) -> Result<u16> {
    let text = fs::read_to_string(&place.port).doing("read the machine's port")?;
    text.trim().parse().map_err(|_| wrong(format_args!("{} holds no port", place.port.display())))
}

/// Writes the image onto the machine's disk; its data partition is kept unless a fresh one is wanted.
pub fn put_image(board: &Board, image: &Image, place: &Place, fresh: bool) -> Result<()> {
    let disk = &place.files.disk;
    folder(disk.parent().unwrap_or(Path::new(".")))?;
    let size = board.qemu.as_ref().map_or(0, |qemu| qemu.disk_mib << 20).max(image.layout.sectors() * SECTOR);
    let kept = disk.exists() && !fresh;
    if !kept {
        run(Command::new("cp").arg("--sparse=always").arg(&image.disk).arg(disk))?;
        let file = File::options().write(true).open(disk).doing(format_args!("open {}", disk.display()))?;
        file.set_len(size).doing(format_args!("enlarge {}", disk.display()))?;
    } else {
        copy_without_data(image, disk)?;
    }
    fs::write(&place.inputs, &image.inputs).doing("note which image the machine has")
}

/// Everything before the data partition but the partition table, whose last entry has grown.
pub(crate) fn copy_without_data(image: &Image, disk: &Path) -> Result<()> {
    let mut from = File::open(&image.disk).doing(format_args!("open {}", image.disk.display()))?;
    let mut into = File::options().write(true).open(disk).doing(format_args!("open {}", disk.display()))?;
    let mut left = (image.layout.part("data").at - 1) * SECTOR;
    from.seek(SeekFrom::Start(SECTOR))
        .and_then(|_| into.seek(SeekFrom::Start(SECTOR)))
        .doing("find the second sector")?;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        from.read_exact(&mut buffer[..want]).doing(format_args!("read {}", image.disk.display()))?;
        into.write_all(&buffer[..want]).doing(format_args!("write {}", disk.display()))?;
        left -= want as u64;
    }
    Ok(())
}

/// Kubernetes' usual port, or the next one that is free.
pub fn free_port() -> Result<u16> {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (FIRST_PORT..FIRST_PORT + 100).find(free).ok_or_else(|| wrong("no port between 6443 and 6542 is free"))
}

/// Waits until the node is ready, telling what the console tells; gives back its name.
fn wait_for_ready(machine: &Machine, place: &Place, port: u16, kubeconfig: &Path, began: Instant) -> Result<String> {
    let (started, mut heard, mut api) = (Instant::now(), 0, false);
    loop {
        heard = repeat_console(&place.files.console, heard, began);
        if handed_out(&place.files.kubeconfig).is_some_and(|text| write_kubeconfig(&text, port, kubeconfig).is_ok()) {
            if !api && kubectl(kubeconfig, &["get", "--raw", "/readyz"]).is_ok() {
                tell(began, &format!("the API answers on port {port}; kubeconfig: {}", shown(kubeconfig)));
                api = true;
            }
            if api && let Some(node) = boot_number(&place.files.console).and_then(|boot| ready_node(kubeconfig, &boot))
            {
                return Ok(node);
            }
        }
        if !machine.is_running() || started.elapsed() > READY_WITHIN {
            let why = if machine.is_running() { "is not Ready in time" } else { "went down" };
            return Err(wrong(format_args!(
                "the machine {why}; its console's last lines:\n{}",
                last_lines(&place.files.console)
            )));
        }
        sleep(LOOK_EVERY);
    }
}

/// The last whole file handed out through a port: `begin LENGTH`, then so many bytes.
pub fn handed_out(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let start = text.rfind("begin ").filter(|at| *at == 0 || text[..*at].ends_with('\n'))?;
    let (length, body) = text[start + 6..].split_once('\n')?;
    let length: usize = length.trim().parse().ok()?;
    (body.len() >= length).then(|| body[..length].to_owned())
}

/// Writes the kubeconfig with the address that leads into the machine.
pub fn write_kubeconfig(text: &str, port: u16, into: &Path) -> Result<()> {
    let line = |line: &str| match line.find("server:") {
        Some(at) => format!("{}server: https://127.0.0.1:{port}\n", &line[..at]),
        None => format!("{line}\n"),
    };
    let text: String = text.lines().map(line).collect();
    if fs::read_to_string(into).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(into, text).doing(format_args!("write {}", into.display()))?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(into, fs::Permissions::from_mode(0o600)).doing(format_args!("protect {}", into.display()))
}

/// Asks the cluster by kubectl.
pub fn kubectl(kubeconfig: &Path, words: &[&str]) -> Result<String> {
    run(Command::new("kubectl").arg("--kubeconfig").arg(kubeconfig).arg("--request-timeout=75s").args(words))
}

/// The number of the present boot, as PID 1 tells it.
pub fn boot_number(console: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(console).ok()?).into_owned();
    let (_, after) = text.rsplit_once(" services, boot ")?;
    after.split_whitespace().next().map(str::to_owned)
}

/// The first node that is ready in this boot: what the node said before it was switched off counts for nothing.
pub fn ready_node(kubeconfig: &Path, boot: &str) -> Option<String> {
    let parts = ["{.metadata.name}", "{.status.nodeInfo.bootID}", "{.status.conditions[?(@.type==\"Ready\")].status}"];
    let template = format!("jsonpath={{range .items[*]}}{}{{\"\\n\"}}{{end}}", parts.join(" "));
    let said = kubectl(kubeconfig, &["get", "nodes", "-o", &template]).ok()?;
    said.lines().find_map(|line| ready_in(line, boot))
}

/// The node's name, where a line says name, this boot and True.
fn ready_in(line: &str, boot: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    matches!(words[..], [_, of, "True"] if of == boot).then(|| words[0].to_owned())
}

/// Repeats what PID 1 said since; gives back how much of the console is heard.
pub(crate) fn repeat_console(console: &Path, heard: usize, began: Instant) -> usize {
    let bytes = fs::read(console).unwrap_or_default();
    let new = bytes.get(heard..).unwrap_or_default();
    let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    for line in String::from_utf8_lossy(&new[..whole]).lines() {
        if let Some((_, said)) = line.split_once("skerry: ") {
            tell(began, &format!("  {}", said.trim()));
        }
    }
    heard + whole
}

pub(crate) fn last_lines(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_TOLD)..].iter().map(|line| format!("    {line}\n")).collect()
}

/// A line of progress with the seconds since the beginning.
pub(crate) fn tell(began: Instant, what: &str) {
    let seconds = began.elapsed().as_secs_f32();
    let (dim, plain) = if stderr().is_terminal() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    eprintln!("{dim}{seconds:7.1} s{plain}  {what}");
}

/// A path as short as it can be said from here.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("handed-out");
        fs::write(&file, text).unwrap();
        assert_eq!(handed_out(&file).as_deref(), expected);
    }

    #[test]
    fn only_a_whole_file_counts() {
        check("", None);
        check("begin 10\nabc", None);
        check("begin 3\nabc", Some("abc"));
    }

    #[test]
    fn the_last_of_several_files_counts() {
        check("begin 4\nabc\nbegin 4\nxyz\n", Some("xyz\n"));
    }

    #[test]
    fn a_node_that_was_ready_before_it_was_switched_off_is_not() {
        assert_eq!(ready_in("skerry 4711 True", "4711").as_deref(), Some("skerry"));
        assert_eq!(ready_in("skerry 4710 True", "4711"), None);
        assert_eq!(ready_in("skerry 4711 False", "4711"), None);
        assert_eq!(ready_in("skerry  ", ""), None);
    }

    #[test]
    fn the_kubeconfig_leads_into_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kubeconfig");
        write_kubeconfig("clusters:\n- cluster:\n    server: https://10.0.2.15:6443\n", 7000, &file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "clusters:\n- cluster:\n    server: https://127.0.0.1:7000\n");
    }
}
