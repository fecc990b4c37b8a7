//! The short-lived helpers: they make namespaces and mounts, and become the containers' processes.
//!
//! Start at [`helper_main`]. A helper is this same program started anew, with one thread: it may unshare and enter what the
//! runtime with its many threads may not, and whatever hangs in it (a dead NFS server) hangs it alone.
//!
//! Invariants:
//! * a failure goes back over the channel in words; when nothing comes back, the container's program runs;
//! * no descriptor and no mount of the machine reaches the program, but those it was given;
//! * paths inside an image are looked up as the image sees them, never as the machine does.

use std::ffi::{CStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use base::chain;
use sys::files::{self, Node, Root};
use sys::mounts::{self, Attributes, Propagation, Tree};
use sys::namespace::{self, Kinds};
use sys::rights::{self, Capabilities, Instruction};
use sys::{fdpass, process, tty};

use crate::cri::{Mount, MountPropagation};
use crate::launch::{CHANNEL_FD, CONSOLE_FD, ExecLaunch, Failure, Launch, Program, SandboxLaunch};
use crate::user::{self, User};

/// A request is at most so long: environments may be large.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// The entry of the short-lived helpers, for the binary that [`crate::Options::program`] names; `args` are the words
/// after [`crate::Options::helper_args`]. The answer is the exit code.
pub fn helper_main(args: impl Iterator<Item = OsString>) -> i32 {
    let words: Vec<OsString> = args.collect();
    match words.first().and_then(|word| word.to_str()) {
        Some("sandbox") => sandbox_main(),
        Some("container") => launched(|request, _| container(request)),
        Some("exec") => launched(exec),
        Some("init") => init(),
        _ => {
            eprintln!("helper: this is for the container runtime to call, with sandbox, container, exec or init");
            2
        }
    }
}

/// How many descriptors a program may have, and up to which number it may raise that itself.
const DESCRIPTORS: u64 = 1024;
const DESCRIPTORS_MAX: u64 = 1 << 19;

type Outcome<T> = Result<T, Failure>;

/// Attaches nothing: the kernel side's errors say what was done to which thing already.
trait Fails<T> {
    fn fails(self) -> Outcome<T>;
}

impl<T> Fails<T> for sys::Result<T> {
    fn fails(self) -> Outcome<T> {
        self.map_err(|error| Failure::other(chain(&error)))
    }
}

/// Makes a pod's namespaces: the request comes on stdin, the failure goes to stdout.
fn sandbox_main() -> i32 {
    let mut text = Vec::new();
    let read = io::stdin().take(REQUEST_BYTES_MAX as u64).read_to_end(&mut text);
    let request = read.map_err(Failure::other).and_then(|_| serde_json::from_slice(&text).map_err(Failure::other));
    match request.and_then(|request: SandboxLaunch| sandbox(&request)) {
        Ok(()) => 0,
        Err(failure) => {
            println!("{}", failure.detail);
            1
        }
    }
}

fn sandbox(request: &SandboxLaunch) -> Outcome<()> {
    let shm = [("size", "64m"), ("mode", "1777")];
    let attributes = Attributes::NOSUID.and(Attributes::NODEV).and(Attributes::NOEXEC);
    Tree::new("tmpfs", &shm, attributes).and_then(|tree| tree.hang_at(&request.shm)).fails()?;
    let mut wanted = Vec::new();
    if request.network {
        wanted.extend([("net", Kinds::CLONE_NEWNET), ("uts", Kinds::CLONE_NEWUTS)]);
    }
    if request.ipc {
        wanted.push(("ipc", Kinds::CLONE_NEWIPC));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    namespace::unshare(wanted.iter().fold(Kinds::empty(), |all, (_, kind)| all | *kind)).fails()?;
    for (name, _) in &wanted {
        namespace::pin(name, &request.pins.join(name)).fails()?;
    }
    if request.network {
        namespace::loopback_up().fails()?;
        namespace::set_hostname(&request.hostname).fails()?;
        // Anybody in the pod may ping and use low ports, as other runtimes have it; each is absent on some kernels.
        let _ = namespace::set_sysctl("net.ipv4.ping_group_range", "0 2147483647");
        let _ = namespace::set_sysctl("net.ipv4.ip_unprivileged_port_start", "0");
    }
    for (name, value) in &request.sysctls {
        namespace::set_sysctl(name, value).fails()?;
    }
    Ok(())
}

/// Process 1 of a pod that shares its pid namespace: it buries orphans and leaves when it is killed.
fn init() -> i32 {
    process::set_name("pod-init");
    loop {
        match process::wait_any() {
            Some(_) => {}
            // No child at all: containers come as strangers, and their orphans as children.
            None => process::pause_for_child(),
        }
    }
}

/// Runs `act` with the request from the channel, and sends its failure back.
fn launched<T: for<'de> serde::Deserialize<'de>>(act: impl FnOnce(T, Channel<'_>) -> Outcome<()>) -> i32 {
    // Before anything of the container is near: from now on nobody in it can look into this process.
    let hidden = process::hide();
    let Some(channel) = fdpass::inherited(CHANNEL_FD) else {
        eprintln!("helper: descriptor {CHANNEL_FD} is no socket");
        return 2;
    };
    let request = hidden.fails().and_then(|()| {
        let (text, fds) = fdpass::receive_long(&channel, REQUEST_BYTES_MAX).map_err(Failure::other)?;
        Ok((serde_json::from_slice(&text).map_err(Failure::other)?, fds))
    });
    let failure = match request.and_then(|(request, fds)| act(request, Channel { socket: &channel, fds })) {
        Ok(()) => return 0,
        Err(failure) => failure,
    };
    let text = serde_json::to_vec(&failure).unwrap_or_default();
    let _ = fdpass::send(&channel, &text[..text.len().min(fdpass::MESSAGE_BYTES_MAX)], &[]);
    failure.exit_code
}

/// The socket to the launcher, and what came over it.
struct Channel<'a> {
    socket: &'a OwnedFd,
    fds: Vec<OwnedFd>,
}

fn container(launch: Launch) -> Outcome<()> {
    process::set_oom_score_adj(launch.program.identity.oom_score_adj).fails()?;
    for (kind, path) in &launch.pins {
        namespace::enter_pinned(path, kind_of(kind)).fails()?;
    }
    namespace::unshare(Kinds::CLONE_NEWNS | Kinds::CLONE_NEWCGROUP).fails()?;
    let volumes = open_volumes(&launch)?;
    let shm = Tree::copy_of(&launch.shm, false).fails()?;
    mounts::propagate(Path::new("/"), Propagation::Slave).fails()?;
    mount_root(&launch)?;
    let root = Root::open(&launch.root).fails()?;
    mount_system(&launch, &root, &shm)?;
    for (mount, tree) in &volumes {
        let target = mount_target(&root, &mount.container_path, mount.host_path.is_dir())?;
        hang(tree, &target, &mount.container_path)?;
    }
    for device in &launch.devices {
        let tree = Tree::copy_of(&device.host_path, false).fails()?;
        if !device.permissions.is_empty() && !device.permissions.contains('w') {
            tree.set(Attributes::READONLY, false).fails()?;
        }
        hang(&tree, &mount_target(&root, &device.container_path, false)?, &device.container_path)?;
    }
    drop(root);
    mounts::become_root(&launch.root).fails()?;
    restrict(&launch)?;
    let terminal = if launch.program.terminal { Some(open_terminal()?) } else { None };
    if let Some((ours, _)) = &terminal {
        let console = fdpass::inherited(CONSOLE_FD)
            .ok_or_else(|| Failure::other(format!("descriptor {CONSOLE_FD} is no socket")))?;
        fdpass::send(&console, b"terminal", &[ours.as_fd()]).map_err(Failure::other)?;
    }
    become_program(&launch.program, terminal.map(|(_, theirs)| theirs))
}

fn exec(launch: ExecLaunch, channel: Channel<'_>) -> Outcome<()> {
    process::set_oom_score_adj(launch.program.identity.oom_score_adj).fails()?;
    let target = channel.fds.into_iter().next().ok_or_else(|| Failure::other("no process to join was handed over"))?;
    let kinds =
        Kinds::CLONE_NEWNS | Kinds::CLONE_NEWNET | Kinds::CLONE_NEWIPC | Kinds::CLONE_NEWUTS | Kinds::CLONE_NEWCGROUP;
    namespace::enter(&target, kinds).fails()?;
    drop(target);
    let terminal = if launch.program.terminal { Some(open_terminal()?) } else { None };
    if let Some((ours, _)) = &terminal {
        fdpass::send(channel.socket, b"terminal", &[ours.as_fd()]).map_err(Failure::other)?;
    }
    become_program(&launch.program, terminal.map(|(_, theirs)| theirs))
}

fn kind_of(name: &str) -> Kinds {
    let found = namespace::SANDBOX_KINDS.iter().find(|(each, _)| *each == name);
    found.map_or(Kinds::empty(), |(_, kind)| *kind)
}

/// Copies what the volumes are of, while the machine's mounts can still be seen and still spread.
fn open_volumes(launch: &Launch) -> Outcome<Vec<(&Mount, Tree)>> {
    let mut volumes = Vec::new();
    for mount in &launch.mounts {
        let tree = Tree::copy_of(&mount.host_path, true).fails()?;
        match mount.propagation {
            MountPropagation::Private => tree.propagate(Propagation::Private).fails()?,
            MountPropagation::HostToContainer => tree.propagate(Propagation::Slave).fails()?,
            MountPropagation::Bidirectional => {
                if !mounts::is_shared(&mount.host_path).fails()? {
                    let path = mount.host_path.display();
                    return Err(Failure::other(format!(
                        "path {path} is not on a shared mount, so mounts cannot spread"
                    )));
                }
            }
        }
        let attributes = Attributes::default()
            .and_if(mount.readonly || mount.recursive_readonly, Attributes::READONLY)
            .and_if(!launch.privileged, Attributes::NODEV);
        tree.set(attributes, mount.recursive_readonly).fails()?;
        volumes.push((mount, tree));
    }
    // A mount point must be there before what is mounted below it.
    volumes.sort_by_key(|(mount, _)| mount.container_path.components().count());
    Ok(volumes)
}

/// The image's layers under a writable one. Device nodes of an image are dead: `/dev` holds the live ones, so that no
/// container reaches a disk by `mknod`.
fn mount_root(launch: &Launch) -> Outcome<()> {
    let attributes = Attributes::default().and_if(!launch.privileged, Attributes::NODEV);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (upper, work) = (text(&launch.upper), text(&launch.work));
    let layers: Vec<String> = launch.layers.iter().rev().map(|layer| text(layer)).collect();
    let mut options: Vec<(&str, &str)> = layers.iter().map(|layer| ("lowerdir+", layer.as_str())).collect();
    options.extend([("upperdir", upper.as_str()), ("workdir", work.as_str())]);
    match Tree::new("overlay", &options, attributes) {
        Ok(tree) => tree.hang_at(&launch.root).fails(),
        Err(error) => {
            // Kernels before 6.5 take all layers in one word, which must fit a page.
            let all = format!("lowerdir={},upperdir={upper},workdir={work}", layers.join(":"));
            let fallback = mounts::mount_at("overlay", &launch.root, mounts::Flags::empty(), &all)
                .and_then(|()| mounts::set_attributes(&launch.root, attributes, false));
            fallback.map_err(|_| Failure::other(chain(&error)))
        }
    }
}

/// `/proc`, `/dev`, `/sys` and what belongs to them.
fn mount_system(launch: &Launch, root: &Root, shm: &Tree) -> Outcome<()> {
    let strict = Attributes::NOSUID.and(Attributes::NODEV).and(Attributes::NOEXEC);
    let place = |path: &str, tree: &Tree| -> Outcome<()> {
        let path = Path::new(path);
        hang(tree, &mount_target(root, path, true)?, path)
    };
    place("/proc", &Tree::new("proc", &[], strict).fails()?)?;
    let dev_attributes = Attributes::NOSUID.and_if(!launch.privileged, Attributes::NODEV);
    place("/dev", &Tree::new("tmpfs", &[("size", "64m"), ("mode", "755")], dev_attributes).fails()?)?;
    fill_dev(launch, root)?;
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    place("/dev/pts", &Tree::new("devpts", &pts, Attributes::NOSUID.and(Attributes::NOEXEC)).fails()?)?;
    place("/dev/shm", shm)?;
    // Some kernels have no message queues.
    if let Ok(queues) = Tree::new("mqueue", &[], strict) {
        place("/dev/mqueue", &queues)?;
    }
    let sys_attributes = strict.and_if(!launch.privileged, Attributes::READONLY);
    place("/sys", &Tree::new("sysfs", &[], sys_attributes).fails()?)?;
    if Path::new("/sys/fs/cgroup").exists() {
        let tree = Tree::new("cgroup2", &[("nsdelegate", "")], sys_attributes)
            .or_else(|_| Tree::new("cgroup2", &[], sys_attributes))
            .fails()?;
        place("/sys/fs/cgroup", &tree)?;
    }
    Ok(())
}

/// The device nodes that every container has.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Nodes with numbers, for where the machine's own `/dev` lacks one.
const DEVICE_NUMBERS: [(u32, u32); 6] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)];

/// Links that every container has.
const DEVICE_LINKS: [(&CStr, &str); 6] = [
    (c"fd", "/proc/self/fd"),
    (c"stdin", "/proc/self/fd/0"),
    (c"stdout", "/proc/self/fd/1"),
    (c"stderr", "/proc/self/fd/2"),
    (c"core", "/proc/kcore"),
    (c"ptmx", "pts/ptmx"),
];

fn fill_dev(launch: &Launch, root: &Root) -> Outcome<()> {
    let dev = root.make_folders(Path::new("/dev"), 0o755).fails()?;
    for (link, target) in DEVICE_LINKS {
        files::make_link(&dev, link, Path::new(target)).fails()?;
    }
    let names: Vec<PathBuf> = if launch.privileged { machine_devices() } else { DEVICES.map(PathBuf::from).to_vec() };
    for name in names {
        let inside = Path::new("/dev").join(&name);
        let host = Path::new("/dev").join(&name);
        // Bound, not made: a bound node lives in a tmpfs on which nodes are dead.
        match Tree::copy_of(&host, false) {
            Ok(tree) => hang(&tree, &mount_target(root, &inside, false)?, &inside)?,
            Err(error) => {
                let known = DEVICES.iter().position(|each| Path::new(each) == name);
                let Some(at) = known else { continue };
                let (major, minor) = DEVICE_NUMBERS[at];
                let short = std::ffi::CString::new(DEVICES[at]).unwrap_or_default();
                let made = files::make_node(&dev, &short, Node::Character(major, minor), 0o666);
                made.map_err(|_| Failure::other(chain(&error)))?;
            }
        }
    }
    Ok(())
}

/// Every device node of the machine, relative to `/dev`, but terminals and what has a mount of its own.
fn machine_devices() -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(Path::new("/dev").join(&folder)).into_iter().flatten().flatten() {
            let name = folder.join(entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            let own = ["pts", "shm", "mqueue", "fd", "console", "ptmx"].iter().any(|each| Path::new(each) == name);
            if kind.is_dir() && !own {
                open.push(name);
            } else if !own && (kind.is_char_device() || kind.is_block_device()) {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

/// What is mounted over: made if it is missing, as a folder or an empty file.
fn mount_target(root: &Root, path: &Path, is_folder: bool) -> Outcome<File> {
    if is_folder {
        return root.make_folders(path, 0o755).fails();
    }
    if let Ok(found) = root.open_at(path, libc::O_PATH, 0) {
        return Ok(found);
    }
    root.parent_of(path).fails()?;
    root.open_at(path, libc::O_CREAT | libc::O_RDONLY | libc::O_NOFOLLOW, 0o644).fails()
}

fn hang(tree: &Tree, target: &File, path: &Path) -> Outcome<()> {
    let failed =
        |error: sys::SysError| Failure::other(format!("failed to mount on {}: {}", path.display(), error.source));
    tree.hang(target.as_fd()).map_err(failed)
}

/// Takes away what the container should not see or write; the root is the container's own by now.
fn restrict(launch: &Launch) -> Outcome<()> {
    for path in &launch.readonly_paths {
        let Ok(tree) = Tree::copy_of(Path::new(path), true) else { continue };
        tree.set(Attributes::READONLY, true).and_then(|()| tree.hang_at(Path::new(path))).fails()?;
    }
    for path in &launch.masked_paths {
        let path = Path::new(path);
        let Ok(found) = fs::symlink_metadata(path) else { continue };
        let cover = if found.is_dir() {
            Tree::new("tmpfs", &[("size", "0"), ("mode", "555")], Attributes::READONLY)
        } else {
            Tree::copy_of(Path::new("/dev/null"), false)
        };
        cover.and_then(|tree| tree.hang_at(path)).fails()?;
    }
    if launch.readonly_root {
        mounts::set_attributes(Path::new("/"), Attributes::READONLY, false).fails()?;
    }
    Ok(())
}

/// A terminal of the container's own devpts, shown as `/dev/console` too.
fn open_terminal() -> Outcome<(OwnedFd, OwnedFd)> {
    let (ours, theirs, number) = tty::open_in(Path::new("/dev/pts")).fails()?;
    let console = Path::new("/dev/console");
    if !console.exists() && File::create(console).is_ok() {
        let bound = Tree::copy_of(Path::new(&format!("/dev/pts/{number}")), false);
        bound.and_then(|tree| tree.hang_at(console)).fails()?;
    }
    Ok((ours, theirs))
}

/// The last steps, the same for a container's own process and for one that joins.
fn become_program(program: &Program, terminal: Option<OwnedFd>) -> Outcome<()> {
    let identity = &program.identity;
    let user = user::look_up(&identity.user, identity.group, &identity.more_groups).map_err(Failure::other)?;
    enter_working_dir(&program.working_dir)?;
    match &terminal {
        Some(theirs) => {
            let _ = files::set_owner_of(theirs, Some(user.uid), None);
            tty::control(theirs).fails()?;
        }
        None => own_streams(&user),
    }
    drop(terminal);
    // The place of a console that nobody asked for is open without a mark.
    process::hand_on_streams_only().fails()?;
    let env = with_home(&program.env, &user);
    // The keeper has many; few for programs that look at each, and more for those that ask, as other runtimes have it.
    let _ = process::set_limit("RLIMIT_NOFILE", DESCRIPTORS, DESCRIPTORS_MAX);
    let wanted = Capabilities(identity.capabilities & rights::held_capabilities().fails()?.0);
    let filter: Vec<Instruction> = identity
        .filter
        .iter()
        .map(|(code, if_true, if_false, operand)| Instruction {
            code: *code,
            if_true: *if_true,
            if_false: *if_false,
            operand: *operand,
        })
        .collect();
    if identity.no_new_privileges {
        process::no_new_privileges().fails()?;
    } else if !filter.is_empty() {
        // Without no_new_privs it takes CAP_SYS_ADMIN, which is about to go.
        rights::install_filter(&filter, 0).fails()?;
    }
    rights::bound_capabilities(wanted).fails()?;
    process::keep_capabilities().fails()?;
    process::become_user(user.uid, user.gid, &user.groups).fails()?;
    rights::set_capabilities(if user.uid == 0 { wanted } else { Capabilities::default() }).fails()?;
    let path = find_program(program.args.first().map_or("", String::as_str), &env)?;
    if identity.no_new_privileges && !filter.is_empty() {
        rights::install_filter(&filter, 0).fails()?;
    }
    let error = process::exec(&path, &program.args, &env);
    Err(refused(&program.args[0], &path, &error))
}

/// So that a program that is not root can open `/dev/stdout`.
fn own_streams(user: &User) {
    let streams = [
        io::stdin().as_fd().try_clone_to_owned(),
        io::stdout().as_fd().try_clone_to_owned(),
        io::stderr().as_fd().try_clone_to_owned(),
    ];
    for stream in streams.into_iter().flatten() {
        // `/dev/null` belongs to all.
        use std::os::unix::fs::FileTypeExt;
        let file = File::from(stream);
        if file.metadata().is_ok_and(|found| found.file_type().is_fifo()) {
            let _ = files::set_owner_of(&file, Some(user.uid), None);
        }
    }
}

fn enter_working_dir(path: &str) -> Outcome<()> {
    let path = if path.is_empty() { "/" } else { path };
    if !Path::new(path).exists() {
        let _ = fs::create_dir_all(path);
    }
    std::env::set_current_dir(path)
        .map_err(|error| Failure::other(format!("failed to enter working directory {path}: {error}")))
}

fn with_home(env: &[String], user: &User) -> Vec<String> {
    let mut env = env.to_vec();
    if !env.iter().any(|each| each.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    env
}

/// Finds a program as a shell would, and says what runc says where there is none.
fn find_program(name: &str, env: &[String]) -> Outcome<PathBuf> {
    let not_found = |detail: String| Failure { detail: format!("exec: {name:?}: {detail}"), exit_code: 127 };
    let not_runnable = |detail: &str| Failure { detail: format!("exec: {name:?}: {detail}"), exit_code: 126 };
    if name.contains('/') {
        return match fs::metadata(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(not_found(format!("stat {name}: no such file or directory")))
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(not_found(format!("stat {name}: not a directory")))
            }
            Ok(found) if found.is_dir() => Err(not_runnable("is a directory")),
            Ok(found) if !is_executable(&found) => Err(not_runnable("permission denied")),
            _ => Ok(PathBuf::from(name)),
        };
    }
    let path = env.iter().find_map(|each| each.strip_prefix("PATH=")).unwrap_or_default();
    for folder in path.split(':') {
        let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(name);
        if !name.is_empty() && fs::metadata(&candidate).is_ok_and(|found| found.is_file() && is_executable(&found)) {
            return Ok(candidate);
        }
    }
    Err(not_found("executable file not found in $PATH".to_owned()))
}

fn is_executable(found: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    found.permissions().mode() & 0o111 != 0
}

fn refused(name: &str, path: &Path, error: &io::Error) -> Failure {
    let (words, exit_code) = match error.raw_os_error() {
        Some(libc::ENOENT) => ("no such file or directory", 127),
        Some(libc::EACCES) => ("permission denied", 126),
        Some(libc::ENOEXEC) => ("exec format error", 126),
        _ => return Failure { detail: format!("exec {}: {error}", path.display()), exit_code: 126 },
    };
    let _ = io::stderr().flush();
    if exit_code == 126 && words == "exec format error" {
        return Failure { detail: format!("exec {}: {words}", path.display()), exit_code };
    }
    Failure { detail: format!("exec: {name:?}: {words}"), exit_code }
}
