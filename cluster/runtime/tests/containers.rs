//! Real containers from a real image, made of the machine's static busybox.
//!
//! Each test has a data folder, a keeper and cgroups of its own, and takes them down again, also when it fails. They need root
//! and `/bin/busybox` (Debian's busybox-static, which the set-up installs).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use runtime::*;

/// A node in a folder of its own.
struct TestNode {
    folder: tempfile::TempDir,
    runtime: Option<Embedded>,
    network: Arc<dyn Network>,
    seed: u64,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let cleaning = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            tokio.block_on(runtime.clean_up())
        });
        let cleaned = cleaning.join().expect("no panic");
        if !std::thread::panicking() {
            cleaned.expect("cleaned up");
            let left = sys::mounts::mounted_below(self.folder.path()).expect("a list");
            assert!(left.is_empty(), "mounts are left: {left:?}");
            assert!(
                !sys::cgroup::Hierarchy::find(Path::new("/run/skerry/cgroup"))
                    .expect("a hierarchy")
                    .cgroup(&root_of(&self.folder))
                    .exists()
            );
        }
    }
}

fn root_of(folder: &tempfile::TempDir) -> String {
    let name = folder.path().file_name().expect("a name").to_string_lossy().into_owned();
    format!("skerry-test{}", name.replace('.', "-"))
}

impl TestNode {
    fn new() -> TestNode {
        let folder = tempfile::tempdir().expect("a folder");
        let preload = folder.path().join("data/images/preload");
        fs::create_dir_all(&preload).expect("made");
        fs::write(preload.join("bad.tar"), "no archive").expect("written");
        write_image(&preload.join("busybox.tar"));
        let mut node = TestNode { folder, runtime: None, network: Arc::new(LoopbackOnly), seed: 1 };
        node.open();
        node
    }

    /// Opens the runtime, as a new process would.
    fn open(&mut self) {
        self.seed += 1;
        self.runtime = Some(Embedded::open(self.options()).expect("opened"));
    }

    fn options(&self) -> Options {
        Options {
            data: self.folder.path().join("data"),
            firmware_images: Vec::new(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_runtime-helper")),
            helper_args: vec!["helper".into()],
            keeper_args: Some(vec!["keeper".into()]),
            keeper_socket: None,
            cgroup_root: root_of(&self.folder),
            network: self.network.clone(),
            registries: Vec::new(),
            peers: None,
            clock: Arc::new(sys::SystemClock),
            seed: self.seed + u64::from(std::process::id()),
        }
    }

    fn runtime(&self) -> Embedded {
        self.runtime.clone().expect("open")
    }

    async fn sandbox(&self, change: impl FnOnce(&mut SandboxConfig)) -> SandboxId {
        let mut config = SandboxConfig {
            name: "web".into(),
            namespace: "default".into(),
            uid: "u-1".into(),
            hostname: "web".into(),
            log_directory: self.folder.path().join("log"),
            dns_servers: vec!["10.43.0.10".into()],
            pid: NamespaceMode::Container,
            cgroup_parent: "kubepods/besteffort/podu-1".into(),
            ..SandboxConfig::default()
        };
        change(&mut config);
        self.runtime().run_sandbox(config).await.expect("a sandbox")
    }

    async fn container(
        &self,
        sandbox: &SandboxId,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> ContainerId {
        let mut config = ContainerConfig {
            name: "app".into(),
            image: "busybox:1.36".into(),
            command: ["sh", "-c", script].map(String::from).to_vec(),
            ..ContainerConfig::default()
        };
        change(&mut config);
        self.runtime().create_container(sandbox.clone(), config).await.expect("a container")
    }

    async fn status(&self, id: &ContainerId) -> ContainerStatus {
        let all = self.runtime().list_containers().await.expect("a list");
        all.into_iter().find(|each| each.id == *id).expect("listed")
    }

    /// Waits for the end by the runtime's own events.
    async fn end(&self, id: &ContainerId) -> (i32, String) {
        let mut events = self.runtime().events();
        loop {
            match self.status(id).await.state {
                ContainerState::Exited { exit_code, reason, .. } => return (exit_code, reason),
                ContainerState::Unknown => return (-1, "Unknown".into()),
                _ => drop(events.next().await),
            }
        }
    }

    /// Runs a script to its end in a pod of its own; the answer is its exit code and its log.
    async fn run(&self, script: &str, change: impl FnOnce(&mut ContainerConfig)) -> (i32, String) {
        let sandbox = self.sandbox(|_| ()).await;
        let id = self.container(&sandbox, script, change).await;
        self.runtime().start_container(id.clone()).await.expect("started");
        let (code, _) = self.end(&id).await;
        let log = self.log(&id).await;
        self.runtime().remove_sandbox(sandbox).await.expect("removed");
        (code, log)
    }

    /// Both outputs, without stamps.
    async fn log(&self, id: &ContainerId) -> String {
        let text = fs::read_to_string(self.status(id).await.log_path).expect("a log");
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or("").to_owned() + "\n").collect()
    }
}

/// An image as `docker save` writes it, with busybox under all its names.
fn write_image(path: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    let folder = |layer: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        layer.append_data(&mut header, name, &[][..]).expect("written");
    };
    for (name, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("home/", 0o755)] {
        folder(&mut layer, name, mode);
    }
    let mut file = |name: &str, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        layer.append_data(&mut header, name, content).expect("written");
    };
    file("bin/busybox", 0o755, &fs::read("/bin/busybox").expect("busybox-static is installed"));
    file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/home:/bin/sh\n");
    file("etc/group", 0o644, b"root:x:0:\nweb:x:33:\nextra:x:44:web\n");
    file("etc/broken", 0o755, b"neither script nor program");
    for name in [
        "sh", "cat", "echo", "sleep", "id", "ls", "mount", "ps", "hostname", "nc", "tty", "mknod", "dd", "unshare",
        "kill", "true", "stty", "grep", "touch", "chmod", "env",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").expect("written");
    }
    let layer = layer.into_inner().expect("finished");
    let diff_id = oci_digest(&layer);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"Env":["PATH=/bin","FROM=image"],"Cmd":["sh"],"User":""}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":["busybox:1.36"],"Layers":["layer.tar"]}]"#;
    let mut archive = tar::Builder::new(fs::File::create(path).expect("a file"));
    for (name, content) in
        [("config.json", config.as_bytes()), ("layer.tar", &layer), ("manifest.json", manifest.as_bytes())]
    {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content).expect("written");
    }
    archive.finish().expect("finished");
}

fn oci_digest(bytes: &[u8]) -> String {
    oci::Digest::of(bytes).to_string()
}

fn words(command: &str) -> Vec<String> {
    command.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_runs_and_its_output_and_end_are_kept() {
    let node = TestNode::new();
    let sandbox = node.sandbox(|_| ()).await;
    let begun = Instant::now();
    let id = node.container(&sandbox, "echo out; echo err >&2; exit 3", |_| ()).await;
    node.runtime().start_container(id.clone()).await.expect("started");
    println!("create to running: {:?}", begun.elapsed());
    assert_eq!(node.end(&id).await, (3, "Error".to_owned()));
    let log = node.log(&id).await;
    assert!(log.contains("out\n") && log.contains("err\n"), "{log:?}");
    assert!(node.status(&id).await.log_path.ends_with("log/app/0.log"));
    node.runtime().remove_sandbox(sandbox.clone()).await.expect("removed");
    node.runtime().remove_sandbox(sandbox).await.expect("removed again");
    assert!(node.runtime().list_containers().await.expect("a list").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside_it_looks_like_a_machine_of_its_own() {
    let node = TestNode::new();
    let script = "echo pid $$; hostname; cat /etc/hostname /etc/resolv.conf; ls /dev | tr '\\n' ' '; echo; cat /proc/1/cgroup; \
                  id -u; echo $FROM $ADDED $HOSTNAME $HOME; pwd; ls /proc/self/fd | tr '\\n' ' '";
    let (code, log) = node
        .run(script, |config| {
            config.envs = vec![("ADDED".into(), "here".into())];
            config.working_dir = "/made/for/it".into();
        })
        .await;
    assert_eq!(code, 0, "{log}");
    for line in ["pid 1", "web", "nameserver 10.43.0.10", "0::/", "image here web /root", "/made/for/it"] {
        assert!(log.lines().any(|each| each == line), "{line:?} in\n{log}");
    }
    let devices: BTreeSet<&str> =
        log.lines().find(|line| line.contains("urandom")).expect("devices").split(' ').collect();
    for device in ["null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm", "fd"] {
        assert!(devices.contains(device), "{device} in {devices:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_must_not_do_it_cannot() {
    let node = TestNode::new();
    let script = "mount -t tmpfs none /tmp 2>&1; unshare -m true 2>&1; mknod /tmp/disk b 254 0 && dd if=/tmp/disk of=/dev/null count=1 2>&1; \
                  echo x 2>&1 > /proc/sys/kernel/domainname; cat /proc/kcore 2>&1; ls /sys/firmware; grep -E 'Seccomp:|CapBnd' /proc/self/status";
    let (_, log) = node
        .run(script, |config| {
            config.security.masked_paths = vec!["/proc/kcore".into(), "/sys/firmware".into()];
            config.security.readonly_paths = vec!["/proc/sys".into()];
        })
        .await;
    assert!(log.contains("unshare: unshare(0x20000): Operation not permitted"), "{log}");
    assert!(log.contains("mount: permission denied") || log.contains("Operation not permitted"), "{log}");
    assert!(log.contains("dd: can't open '/tmp/disk': Permission denied"), "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
    assert!(log.contains("Seccomp:\t2") && log.contains("CapBnd:\t00000000a80425fb"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_groups_and_rights_are_as_asked() {
    let node = TestNode::new();
    let (_, log) = node
        .run(
            "id; grep -E 'CapEff|CapPrm|NoNewPrivs' /proc/self/status; touch /x 2>&1; echo ok > /dev/stdout",
            |config| {
                config.security.run_as_user = Some(33);
                config.security.run_as_group = Some(7);
                config.security.supplemental_groups = vec![2000];
                config.security.no_new_privs = true;
                config.security.readonly_rootfs = true;
            },
        )
        .await;
    assert!(log.contains("uid=33(web) gid=7 groups=44(extra),2000"), "{log}");
    assert!(log.contains("CapEff:\t0000000000000000") && log.contains("NoNewPrivs:\t1"), "{log}");
    assert!(log.contains("Read-only file system") && log.ends_with("ok\n"), "{log}");
    let (_, log) = node
        .run(
            "grep CapEff /proc/self/status; mount -t tmpfs none /tmp && echo mounted; ls /dev | grep -c vd",
            |config| {
                config.security.privileged = true;
            },
        )
        .await;
    assert!(log.contains("mounted"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_mounted_as_asked() {
    let node = TestNode::new();
    let host = node.folder.path().join("volume");
    fs::create_dir(&host).expect("made");
    fs::write(host.join("file"), "from outside").expect("written");
    let mount = |inside: &str, name: &str, readonly| Mount {
        container_path: inside.into(),
        host_path: host.join(name),
        readonly,
        ..Mount::default()
    };
    let script = "cat /data/file; echo; echo new > /data/new; echo x > /ro/new || echo refused; cat /etc/config; echo; cat /data/sub/file";
    let (_, log) = node
        .run(script, |config| {
            config.mounts = vec![
                mount("/data/sub", "", true),
                mount("/data", "", false),
                mount("/ro", "", true),
                mount("/etc/config", "file", true),
            ];
        })
        .await;
    assert!(log.contains("from outside") && log.contains("refused"), "{log}");
    assert_eq!(fs::read_to_string(host.join("new")).expect("written inside"), "new\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_cannot_be_run_is_told_as_runc_tells_it() {
    let node = TestNode::new();
    let sandbox = node.sandbox(|_| ()).await;
    for (command, detail, exit_code) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH", 127),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory", 127),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied", 126),
        ("/etc", "exec: \"/etc\": is a directory", 126),
        ("/etc/broken", "exec /etc/broken: exec format error", 126),
    ] {
        let id = node.container(&sandbox, "", |config| config.command = words(command)).await;
        match node.runtime().start_container(id.clone()).await {
            Err(RuntimeError::Start { detail: found, exit_code: code, .. }) => {
                assert_eq!((found.as_str(), code), (detail, exit_code));
            }
            other => panic!("{command}: {other:?}"),
        }
        assert_eq!(node.end(&id).await, (exit_code, "StartError".to_owned()));
    }
    let id = node.container(&sandbox, "", |config| config.security.run_as_user = None).await;
    node.runtime().remove_container(id).await.expect("removed");
    node.runtime().remove_sandbox(sandbox).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_inside() {
    let node = TestNode::new();
    let sandbox = node.sandbox(|_| ()).await;
    let id = node
        .container(&sandbox, "export A=b; echo here > /tmp/mark; exec sleep 1000", |config| {
            config.envs = vec![("SET".into(), "yes".into())];
        })
        .await;
    let runtime = node.runtime();
    runtime.start_container(id.clone()).await.expect("started");
    let limit = Duration::from_secs(10);
    let script = "cat /tmp/mark; echo $SET; hostname; echo no >&2; cat /proc/1/comm; cat /proc/self/cgroup; exit 4";
    let run = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    // The mark and the program may come a moment after the start.
    let mut found = runtime.exec_sync(id.clone(), run(script), limit).await.expect("run");
    while !String::from_utf8_lossy(&found.stdout).contains("\nsleep\n") {
        found = runtime.exec_sync(id.clone(), run(script), limit).await.expect("run");
    }
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(text.starts_with("here\nyes\nweb\nsleep\n") && text.ends_with("0::/\n"), "{text}");
    assert_eq!(found.exit_code, 4);
    assert_eq!(found.stderr, b"no\n");

    let late = runtime.exec_sync(id.clone(), words("sleep 1000"), Duration::from_millis(100)).await;
    assert!(matches!(late, Err(RuntimeError::Timeout { .. })), "{late:?}");
    let missing = runtime.exec_sync(id.clone(), words("nosuch"), limit).await;
    assert!(matches!(missing, Err(RuntimeError::Start { exit_code: 127, .. })), "{missing:?}");

    let config = ExecConfig { command: words("cat"), stdin: true, stdout: true, ..ExecConfig::default() };
    let mut streams = runtime.exec(id.clone(), config).await.expect("run");
    let mut stdin = streams.stdin.take().expect("stdin");
    stdin.write_all(b"to and fro").await.expect("written");
    drop(stdin);
    let mut text = String::new();
    streams.stdout.take().expect("stdout").read_to_string(&mut text).await.expect("read");
    assert_eq!((text.as_str(), streams.exit.await.expect("an end")), ("to and fro", 0));

    let command = run("tty; stty size; echo $TERM; exit 5");
    let config = ExecConfig { command, stdin: true, stdout: true, stderr: true, tty: true };
    let mut streams = runtime.exec(id.clone(), config).await.expect("run");
    (streams.resize)(TerminalSize { width: 101, height: 33 });
    let mut text = String::new();
    streams.stdout.take().expect("stdout").read_to_string(&mut text).await.expect("read");
    assert!(text.starts_with("/dev/pts/") && text.ends_with("xterm\r\n"), "{text:?}");
    assert_eq!(streams.exit.await.expect("an end"), 5);

    let stats = runtime.container_stats(id.clone()).await.expect("counters");
    assert_eq!(stats.pids, 1, "no command is left behind");
    runtime.stop_container(id.clone(), Duration::ZERO).await.expect("stopped");
    assert_eq!(node.end(&id).await, (137, "Error".to_owned()));
    let after = runtime.exec_sync(id, words("true"), limit).await;
    assert!(matches!(after, Err(RuntimeError::State { .. })), "{after:?}");
    runtime.remove_sandbox(sandbox).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_can_be_attached_to() {
    let node = TestNode::new();
    let sandbox = node.sandbox(|_| ()).await;
    let id = node
        .container(&sandbox, "read line; echo \"got $line on $(tty)\"; exit 6", |config| {
            (config.tty, config.stdin) = (true, true);
        })
        .await;
    let runtime = node.runtime();
    runtime.start_container(id.clone()).await.expect("started");
    let config = ExecConfig { stdin: true, stdout: true, tty: true, ..ExecConfig::default() };
    let mut streams = runtime.attach(id.clone(), config).await.expect("attached");
    streams.stdin.as_mut().expect("stdin").write_all(b"words\n").await.expect("typed");
    let mut text = String::new();
    streams.stdout.take().expect("stdout").read_to_string(&mut text).await.expect("read");
    assert!(text.contains("got words on /dev/"), "{text:?}");
    assert_eq!(streams.exit.await.expect("an end"), 6);
    assert!(node.log(&id).await.contains("got words on /dev/"));
    runtime.remove_sandbox(sandbox).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_gets_its_grace_and_no_more() {
    let node = TestNode::new();
    let sandbox = node.sandbox(|_| ()).await;
    let runtime = node.runtime();
    let polite = node.container(&sandbox, "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done", |_| ()).await;
    runtime.start_container(polite.clone()).await.expect("started");
    while !node.log(&polite).await.contains("ready") {
        tokio::task::yield_now().await;
    }
    runtime.stop_container(polite.clone(), Duration::from_secs(30)).await.expect("stopped");
    assert_eq!(node.end(&polite).await.0, 9);
    let stubborn = node
        .container(&sandbox, "trap '' TERM; sleep 1000 & wait; sleep 1000", |config| config.name = "b".into())
        .await;
    runtime.start_container(stubborn.clone()).await.expect("started");
    runtime.stop_container(stubborn.clone(), Duration::from_millis(200)).await.expect("stopped");
    assert_eq!(node.end(&stubborn).await.0, 137);
    runtime.stop_container(stubborn, Duration::ZERO).await.expect("stopped again");
    runtime.remove_sandbox(sandbox).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_runtime_adopts_what_the_old_one_left() {
    let mut node = TestNode::new();
    let sandbox = node.sandbox(|_| ()).await;
    let script = "i=0; while [ $i -lt 1000 ]; do echo $i; i=$((i+1)); sleep 0.01; done";
    let lasting = node.container(&sandbox, script, |_| ()).await;
    let brief = node
        .container(&sandbox, "while [ ! -e /go/on ]; do sleep 0.01; done; exit 8", |config| {
            config.name = "brief".into();
            let host_path = node.folder.path().to_owned();
            config.mounts = vec![Mount { container_path: "/go".into(), host_path, ..Mount::default() }];
        })
        .await;
    for id in [&lasting, &brief] {
        node.runtime().start_container(id.clone()).await.expect("started");
    }
    let pid = node.status(&lasting).await.pid;
    // What kill -9 leaves: nothing was told, stopped or written.
    node.runtime = None;
    fs::write(node.folder.path().join("on"), "").expect("written");
    node.open();
    assert_eq!(node.end(&brief).await, (8, "Error".to_owned()));
    let found = node.status(&lasting).await;
    assert!(matches!(found.state, ContainerState::Running { .. }), "{:?}", found.state);
    assert_eq!(found.pid, pid);
    let answer = node.runtime().exec_sync(lasting.clone(), words("hostname"), Duration::from_secs(10)).await;
    assert_eq!(answer.expect("run").stdout, b"web\n");
    assert_eq!(node.runtime().list_sandboxes().await.expect("a list")[0].state, SandboxState::Ready);
    node.runtime().remove_sandbox(sandbox).await.expect("removed");
}

/// The keeper's pid, as it says itself.
fn keeper_pid(node: &TestNode) -> u32 {
    let keeper = keeper::Client::connect(&node.folder.path().join("data/keeper/keeper.sock")).expect("connected");
    let hello = keeper.call(&keeper::Request::Hello, &[]).expect("answered");
    let keeper::Reply::Hello { pid } = hello else { panic!("{hello:?}") };
    pid
}

fn kill(pid: u32) {
    let process = sys::process::pidfd_open(pid).expect("there");
    sys::process::send_signal(&process, 9).expect("killed");
    sys::process::wait_gone(&process);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_that_is_killed_costs_containers_nothing() {
    let node = TestNode::new();
    let sandbox = node.sandbox(|_| ()).await;
    let runtime = node.runtime();
    let script = "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i; done; echo last; exit 3";
    let id = node.container(&sandbox, script, |_| ()).await;
    runtime.start_container(id.clone()).await.expect("started");
    let pid = node.status(&id).await.pid;
    let waiting = {
        let (runtime, id) = (runtime.clone(), id.clone());
        let command = words("sh -c").into_iter().chain(["while [ ! -e /leave ]; do :; done; exit 4".to_owned()]);
        tokio::spawn(async move { runtime.exec_sync(id, command.collect(), Duration::from_secs(60)).await })
    };
    for _ in 0..5 {
        kill(keeper_pid(&node));
        let answer = runtime.exec_sync(id.clone(), words("hostname"), Duration::from_secs(10)).await;
        assert_eq!(answer.expect("run").stdout, b"web\n");
        let found = node.status(&id).await;
        assert_eq!((matches!(found.state, ContainerState::Running { .. }), found.pid), (true, pid));
    }
    runtime.exec_sync(id.clone(), words("touch /leave"), Duration::from_secs(10)).await.expect("run");
    assert_eq!(waiting.await.expect("no panic").expect("its end").exit_code, 4, "a command outlives it, too");
    // The process that is waited for may be gone before its answer is.
    let _ = runtime.exec_sync(id.clone(), words("touch /stop"), Duration::from_secs(10)).await;
    assert_eq!(node.end(&id).await, (3, "Error".to_owned()));
    let log = fs::read_to_string(node.status(&id).await.log_path).expect("its log");
    let lines: Vec<&str> = log.lines().filter_map(|line| line.split_once(" stdout F ")).map(|(_, text)| text).collect();
    let (last, counted) = lines.split_last().expect("lines");
    assert_eq!(*last, "last");
    assert!(counted.len() > 100 && counted.iter().enumerate().all(|(index, line)| *line == (index + 1).to_string()));
    runtime.remove_sandbox(sandbox).await.expect("removed");
}

/// As `ip netns exec` does it: a mount namespace of its own for every start.
#[test]
fn a_keeper_among_other_mounts_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("data/keeper/keeper.sock");
    fs::create_dir_all(socket.parent().expect("a folder")).expect("made");
    let mut unshare = std::process::Command::new("unshare");
    unshare
        .arg("--mount")
        .arg(env!("CARGO_BIN_EXE_runtime-helper"))
        .args(["keeper", "--detach", "--socket"])
        .arg(&socket);
    assert!(unshare.status().expect("root may unshare").success());
    let node = TestNode { folder, runtime: None, network: Arc::new(LoopbackOnly), seed: 1 };
    let refused = Embedded::open(node.options()).err().expect("a refusal");
    let keeper = keeper::Client::connect(&socket).expect("connected");
    keeper.call(&keeper::Request::Quit, &[]).expect("told");
    let text = base::chain(&refused).to_string();
    assert!(text.contains("in another mount namespace") && text.contains("nsenter --net="), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_outlive_keeper_and_supervisor() {
    let node = TestNode::new();
    let sandbox = node.sandbox(|_| ()).await;
    let runtime = node.runtime();
    let id = node.container(&sandbox, "exec sleep 1000", |_| ()).await;
    runtime.start_container(id.clone()).await.expect("started");
    let (pid, keeper) = (node.status(&id).await.pid, keeper_pid(&node));
    let status = fs::read_to_string(format!("/proc/{keeper}/status")).expect("it runs");
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).expect("a parent");
    let process = sys::process::pidfd_open(keeper).expect("there");
    kill(supervisor);
    sys::process::send_signal(&process, 9).expect("killed");
    sys::process::wait_gone(&process);
    // The next keeper is there for whoever asks first.
    let answer = runtime.exec_sync(id.clone(), words("hostname"), Duration::from_secs(10)).await;
    assert_eq!(answer.expect("run").stdout, b"web\n");
    let found = node.status(&id).await;
    assert_eq!((matches!(found.state, ContainerState::Running { .. }), found.pid), (true, pid));
    runtime.stop_container(id.clone(), Duration::ZERO).await.expect("stopped");
    assert_eq!(node.end(&id).await.1, "Unknown", "nobody saw its code");
    runtime.remove_sandbox(sandbox).await.expect("removed");
}

/// A network that says when it is asked for an address, and gives it when it is told to.
struct Held {
    asked: tokio::sync::Notify,
    may_answer: tokio::sync::Notify,
}

struct Shared(Arc<Held>);

impl Network for Shared {
    fn attach(&self, _pod: PodLink) -> Answer<Vec<std::net::IpAddr>> {
        let held = self.0.clone();
        Box::pin(async move {
            held.asked.notify_one();
            held.may_answer.notified().await;
            Ok(vec![std::net::IpAddr::from([10, 42, 0, 7])])
        })
    }
    fn detach(&self, pod: PodLink) -> Answer<()> {
        LoopbackOnly.detach(pod)
    }
    fn adopt(&self, pod: PodLink, ips: Vec<std::net::IpAddr>) -> Answer<()> {
        LoopbackOnly.adopt(pod, ips)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_is_not_ready_before_it_has_its_address() {
    let mut node = TestNode::new();
    let held = Arc::new(Held { asked: Default::default(), may_answer: Default::default() });
    node.network = Arc::new(Shared(held.clone()));
    node.open();
    let runtime = node.runtime();
    let seen = async {
        held.asked.notified().await;
        let seen = runtime.list_sandboxes().await.expect("a list");
        held.may_answer.notify_one();
        seen
    };
    let (id, seen) = tokio::join!(node.sandbox(|_| ()), seen);
    assert_eq!(seen[0].state, SandboxState::NotReady, "a container that started now would not know its own address");
    let seen = runtime.list_sandboxes().await.expect("a list");
    assert_eq!((seen[0].state, seen[0].ips[0].to_string()), (SandboxState::Ready, "10.42.0.7".to_owned()));
    runtime.remove_sandbox(id).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_can_share_its_processes_and_its_network() {
    let node = TestNode::new();
    let sandbox = node.sandbox(|config| config.pid = NamespaceMode::Pod).await;
    let runtime = node.runtime();
    let first = node.container(&sandbox, "echo first > /dev/shm/mark; exec nc -l -p 8080 -e echo hello", |_| ()).await;
    runtime.start_container(first.clone()).await.expect("started");
    let second = node.container(&sandbox, "exec sleep 1000", |config| config.name = "b".into()).await;
    runtime.start_container(second.clone()).await.expect("started");
    let seen = runtime.exec_sync(second.clone(), words("ps"), Duration::from_secs(10)).await.expect("run");
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.contains("nc -l -p 8080"), "{seen}");
    let mark = runtime.exec_sync(second.clone(), words("cat /dev/shm/mark"), Duration::from_secs(10)).await;
    assert_eq!(mark.expect("run").stdout, b"first\n");
    let mut text = String::new();
    loop {
        // The listener may come a moment after the start.
        match runtime.port_forward(sandbox.clone(), 8080).await {
            Ok((mut output, _input)) => {
                output.read_to_string(&mut text).await.expect("read");
                break;
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
    assert_eq!(text, "hello\n");
    runtime.remove_sandbox(sandbox).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_start_quickly() {
    let node = TestNode::new();
    let runtime = node.runtime();
    let mut times = Vec::new();
    for number in 0..20 {
        let begun = Instant::now();
        let sandbox = node.sandbox(|config| config.cgroup_parent = format!("kubepods/pod{number}")).await;
        let id = node.container(&sandbox, "exec sleep 1000", |_| ()).await;
        runtime.start_container(id).await.expect("started");
        times.push(begun.elapsed());
        runtime.remove_sandbox(sandbox).await.expect("removed");
    }
    times.sort();
    println!("sandbox, create and start: median {:?}, longest {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(500), "{:?}", times[10]);
}
