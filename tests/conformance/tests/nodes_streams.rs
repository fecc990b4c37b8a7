//! What streams between kubectl and a pod, on the server's own node and on an agent alike: exec, attach, port-forward, cp, logs.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

mod made;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use conformance::Site;

const NODES: [&str; 2] = ["server", "agent-1"];
/// More than any buffer on the way holds.
const MANY_BYTES: usize = 5 << 20;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  nodeName: NODE
  containers:
  - name: shell
    image: busybox:1.28
    stdin: true
    command: [sh, -c, 'while read line; do echo \"got $line\"; done; sleep 100000']
  - name: web
    image: busybox:1.28
    command: [sh, -c, 'mkdir /www; echo hello >/www/index.html; exec httpd -f -p 8080 -h /www']
";

/// A pod on each node, named after it.
fn start() -> Site {
    let site = Site::start(&made::skerry(), Some(&made::test_images()), 1);
    for node in NODES {
        let file = site.server.data.join("pod.yaml");
        let text = POD.replace("NAME", node).replace("NODE", node);
        std::fs::write(&file, text).expect("written");
        site.must(&format!("create -f {}", file.display()));
    }
    site.must_become("--for=condition=Ready pod --all", 60);
    site
}

/// Runs kubectl with something to read.
#[track_caller]
fn fed(site: &Site, words: &[&str], input: &[u8]) -> Output {
    let mut child = spawn(site.command(words).stderr(Stdio::piped()));
    let mut pipe = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // Both ways at once, or full pipes would wait for each other.
    let writer = std::thread::spawn(move || pipe.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    // A command that has seen enough closes its end.
    let _ = writer.join().expect("it does not panic");
    output
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kubectl is installed")
}

/// Bytes that compress badly and do not repeat soon.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn commands_files_and_ports_reach_pods_of_every_node() {
    let site = start();
    for (index, pod) in NODES.into_iter().enumerate() {
        runs_commands(&site, pod);
        has_terminals(&site, pod);
        attaches(&site, pod);
        copies(&site, pod);
        forwards(&site, pod, 18_080 + index as u16);
    }
}

fn runs_commands(site: &Site, pod: &str) {
    let noise = noise(MANY_BYTES);
    let echoed = fed(site, &["exec", "-i", pod, "-c", "shell", "--", "cat"], &noise);
    assert!(echoed.status.success() && echoed.stdout == noise, "{pod}: {} bytes came back", echoed.stdout.len());
    let both = fed(site, &["exec", pod, "-c", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], b"");
    let text = String::from_utf8_lossy(&both.stderr).into_owned();
    assert_eq!((both.status.code(), &*both.stdout), (Some(7), &b"out\n"[..]), "{text}");
    assert!(text.starts_with("err\n"), "{text}");
    let missing = site.kubectl(&format!("exec {pod} -c shell -- nosuch"));
    assert!(!missing.0 && missing.1.contains("nosuch"), "{}", missing.1);
}

/// kubectl on a terminal of 41 lines and 99 columns, which nobody types on.
fn has_terminals(site: &Site, pod: &str) {
    let inside = "tty; stty size; echo $TERM; ls -x /proc/self/fd";
    let words = ["exec", "-it", pod, "-c", "shell", "--", "sh", "-c", &format!("'{inside}'")];
    let kubectl = site.command(&words);
    let words: Vec<_> =
        [kubectl.get_program()].into_iter().chain(kubectl.get_args()).map(|word| word.to_string_lossy()).collect();
    let line = format!("stty rows 41 columns 99; {}", words.join(" "));
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
    let output = output.expect("script is there");
    // The end of script's own input is typed on the terminal, which echoes it.
    let text = String::from_utf8_lossy(&output.stdout).replace("^@", "").replace('\0', "");
    let told: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(told, ["/dev/pts/0", "41", "99", "xterm", "0", "1", "2", "3"], "{pod}: {text:?}");
    // The container's own process has no more than its streams.
    assert_eq!(site.must(&format!("exec {pod} -c web -- ls -x /proc/1/fd")).split_whitespace().count(), 4, "{pod}");
}

fn attaches(site: &Site, pod: &str) {
    let mut attached = spawn(site.command(&["attach", "-i", pod, "-c", "shell"]).stderr(Stdio::null()));
    let mut lines = BufReader::new(attached.stdout.take().expect("a pipe")).lines();
    let mut input = attached.stdin.take().expect("a pipe");
    for word in ["one", "two"] {
        input.write_all(format!("{word}\n").as_bytes()).expect("written");
        assert_eq!(lines.next().expect("a line").expect("text"), format!("got {word}"), "{pod}");
    }
    let _ = attached.kill();
    attached.wait().expect("it ends");
    // What it said is in the log as well.
    site.wait_until("the log has it", |site| site.kubectl(&format!("logs {pod} -c shell")).1 == "got one\ngot two\n");
}

fn copies(site: &Site, pod: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let (there, back) = (folder.path().join("there"), folder.path().join("back"));
    std::fs::create_dir_all(there.join("within")).expect("made");
    std::fs::write(there.join("within/noise"), noise(MANY_BYTES)).expect("written");
    std::fs::write(there.join("empty"), "").expect("written");
    site.must(&format!("cp {} {pod}:/www/files -c web", there.display()));
    site.must(&format!("cp {pod}:/www/files {} -c web", back.display()));
    assert_eq!(std::fs::read(back.join("within/noise")).expect("it came back"), noise(MANY_BYTES), "{pod}");
    assert_eq!(std::fs::read(back.join("empty")).expect("it came back"), b"");
    // kubectl is content once the (empty) archive has ended: it may leave before it hears tar's complaint, never with a file.
    site.wait_until("kubectl hears that there is no such file", |site| {
        let (_, text) = site.kubectl(&format!("cp {pod}:/www/none {} -c web", folder.path().join("none").display()));
        assert!(!folder.path().join("none").exists(), "{text}");
        text.contains("www/none: No such file")
    });
}

fn forwards(site: &Site, pod: &str, port: u16) {
    let ports = format!("{port}:8080");
    let mut forwarder = spawn(site.command(&["port-forward", &format!("pod/{pod}"), &ports]).stderr(Stdio::null()));
    let mut told = BufReader::new(forwarder.stdout.take().expect("a pipe")).lines();
    let line = told.next().expect("a line").expect("text");
    assert!(line.contains(&format!("127.0.0.1:{port} -> 8080")), "{line}");
    let get = |path: &str| site.server.get("127.0.0.1", port, path).1;
    assert_eq!(get("/index.html"), b"hello\n", "{pod}");
    // Several at once over one connection of kubectl's, and more than the windows of its streams hold.
    let (get, noise) = (&get, noise(MANY_BYTES));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(move || get("/files/within/noise"))).collect();
        assert!(all.into_iter().all(|one| one.join().expect("it does not panic") == noise), "{pod}");
    });
    let _ = forwarder.kill();
    forwarder.wait().expect("it ends");
}
