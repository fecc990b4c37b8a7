//! Certificates are renewed while everything runs: those of an agent, and the server's own, which also follow its address.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

mod made;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::SystemTime;

use conformance::Site;

/// Long enough for a busy machine to renew within its last third, short enough for a test to see them end.
const LIFE: &str = "--cluster-signing-duration=18s";

const TICKER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  nodeName: NODE
  containers:
  - name: main
    image: busybox:1.28
    command: [sh, -c, 'n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done']
";

/// Runs a pod that counts on a node.
fn tick(site: &Site, name: &str, node: &str) {
    let file = site.server.data.join("ticker.yaml");
    std::fs::write(&file, TICKER.replace("NAME", name).replace("NODE", node)).expect("written");
    site.must(&format!("create -f {}", file.display()));
    site.must_become(&format!("--for=condition=Ready pod/{name}"), 30);
}

/// The files of all certificates that are renewed by themselves.
fn files(site: &Site) -> Vec<PathBuf> {
    let of = |folder: &Path, names: &[&str]| names.iter().map(|name| folder.join(name)).collect::<Vec<_>>();
    let server = [
        "apiserver.crt",
        "apiserver-kubelet-client.crt",
        "admin.crt",
        "kubelet-server.crt",
        "kubelet-serving-server.crt",
    ];
    [of(&site.agents[0].data.join("node"), &["client.crt", "serving.crt"]), of(&site.server.data.join("pki"), &server)]
        .concat()
}

/// When each certificate ends, in seconds since 1970.
fn ends(site: &Site) -> BTreeMap<PathBuf, i64> {
    let end = |path: &PathBuf| {
        let pem = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        pki::presented(&pki::der_of_pem(&pem).expect("PEM")).expect("a certificate").not_after
    };
    files(site).iter().map(|path| (path.clone(), end(path))).collect()
}

fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

/// A kubectl that streams. It ends with the value.
struct Streaming(Child);

impl Streaming {
    fn start(site: &Site, words: &[&str]) -> Streaming {
        let mut command = site.command(words);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        Streaming(piped.spawn().expect("kubectl is installed"))
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.0.stdout.take().expect("a pipe")).lines().map(|line| line.expect("text"))
    }

    #[track_caller]
    fn runs(&mut self) {
        assert_eq!(self.0.try_wait().expect("its state"), None, "it has ended");
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn certificates_are_renewed_under_what_runs() {
    let mut site = Site::start_with(&made::skerry(), Some(&made::test_images()), 1, &[LIFE]);
    tick(&site, "ticker", "agent-1");
    tick(&site, "neighbour", "server");
    let first = ends(&site);
    assert!(first.values().all(|end| *end <= now() + 18), "{first:?}");
    let (mut log, mut cat) = (
        Streaming::start(&site, &["logs", "-f", "ticker"]),
        Streaming::start(&site, &["exec", "-i", "ticker", "--", "cat"]),
    );
    let mut watch = Streaming::start(&site, &["get", "pods", "--watch-only", "--no-headers"]);
    let (mut counted, mut echoed, mut watched) = (log.lines(), cat.lines(), watch.lines());
    let mut typed = cat.0.stdin.take().expect("a pipe");
    let mut echo = |text: &str| {
        writeln!(typed, "{text}").expect("written");
        assert_eq!(echoed.next().as_deref(), Some(text));
    };
    echo("before");
    let ready = "get node agent-1 -o jsonpath={.status.conditions[?(@.type=='Ready')].lastTransitionTime}";
    let since = site.must(ready);

    site.wait_until("all first certificates have ended, and others are there", |site| {
        let now = now();
        first.values().all(|end| *end < now) && ends(site).iter().all(|(path, end)| *end > first[path] && *end > now)
    });
    // Streams that were there go on, without a gap.
    echo("after");
    let reached: u32 = site.must("logs ticker --tail=1").trim().parse().expect("a number");
    for wanted in 1..=reached {
        assert_eq!(counted.next(), Some(wanted.to_string()));
    }
    [&mut log, &mut cat, &mut watch].into_iter().for_each(Streaming::runs);
    // New ones meet the new certificates, on both nodes.
    for pod in ["ticker", "neighbour"] {
        assert_eq!(site.must(&format!("exec {pod} -- echo here")), "here\n");
        assert!(!site.must(&format!("logs {pod} --tail=1")).is_empty());
    }
    // The agent still hears of new pods and tells of them, and was never thought gone.
    tick(&site, "late", "agent-1");
    assert!(watched.any(|line| line.starts_with("late ") && line.contains("Running")));
    assert_eq!(site.must(ready), since);
    let told = site.last_lines();
    assert!(!told.contains("failed to renew"), "{told}");
    // Whoever has to connect anew is known by its new certificate.
    site.server.kill();
    let before = site.agents[0].logged().len();
    site.server.run();
    site.wait_for_server();
    site.wait_until("the agent is heard of again", |site| site.kubectl("exec late -- true").0);
    tick(&site, "last", "agent-1");
    let since = site.agents[0].logged()[before..].to_owned();
    assert!(!since.contains("joined the cluster"), "its certificate was enough: {since}");
}

#[test]
fn a_server_gets_another_address() {
    let mut site = Site::start(&made::skerry(), Some(&made::test_images()), 0);
    tick(&site, "ticker", "server");
    site.server.set_address("192.168.77.200".parse().expect("an address"));
    let address = "get node server -o jsonpath={.status.addresses[?(@.type=='InternalIP')].address}";
    site.wait_until("its Node has the new address", |site| site.kubectl(address).1 == "192.168.77.200");
    // By then the kubelet has a certificate for it.
    site.wait_until("its pod is reached", |site| site.kubectl("exec ticker -- true").0);
    let endpoints = "get endpointslice kubernetes -o jsonpath={.endpoints[0].addresses[0]}";
    site.wait_until("pods are led there", |site| site.kubectl(endpoints).1 == "192.168.77.200");
    let info = "get configmap -n kube-public cluster-info -o jsonpath={.data.kubeconfig}";
    site.wait_until("machines that join are told", |site| site.kubectl(info).1.contains("https://192.168.77.200:6443"));
    let url = site.server_url();
    assert_eq!(url, "https://192.168.77.200:6443");
    site.must(&format!("get nodes --server={url}"));
    // Nothing was restarted, and machines join at the new address.
    assert_eq!(site.must("get pod ticker -o jsonpath={..restartCount}"), "0");
    site.add_agent(&["--token", conformance::TOKEN]).run();
    site.wait_for_ready(2);
    tick(&site, "there", "agent-1");
    assert_eq!(site.must("exec there -- echo here"), "here\n");
}
