//! The kubelet's HTTPS API as the API server uses it: real TLS on the loopback, a fake runtime behind.

mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use kubelet::Tls;
use pki::{Names, Pair, Pki};
use runtime::ExecResult;
use runtime::fake::Script;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use world::World;

struct Site {
    world: World,
    pki: Pki,
    address: SocketAddr,
    /// Under which name it is asked.
    name: &'static str,
    serving: watch::Sender<Option<Tls>>,
    _keys: tempfile::TempDir,
}

fn der(pem: &str) -> Vec<u8> {
    pki::der_of_pem(pem).expect("a PEM block")
}

fn tls(pki: &Pki, pair: &Pair) -> Tls {
    Tls {
        certificates: vec![der(&pair.certificate_pem)],
        key: der(&pair.key_pem),
        client_ca: der(pki.authority().certificate_pem()),
    }
}

/// A node with a running pod `web` and one that waits for its image, `late`.
async fn site() -> Site {
    let mut world = World::new();
    world.stop().await;
    let keys = tempfile::tempdir().expect("a folder");
    // Certificates are judged by the machine's own clock.
    let now = sys::SystemClock.now();
    let pki = Pki::open(keys.path(), &Names::default(), now).expect("keys");
    let names = Names { dns: vec!["n1".to_owned()], addresses: vec![[127, 0, 0, 1].into()] };
    let pair = pki.kubelet_serving("n1", &names, now).expect("a certificate");
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let (serving, served) = watch::channel(Some(tls(&pki, &pair)));
    world.start_with(|options| {
        options.listen = Some(address);
        options.tls = served.clone();
    });
    let date = ExecResult { stdout: b"today\n".to_vec(), stderr: b"oops\n".to_vec(), exit_code: 3 };
    let execs = BTreeMap::from([("date -u".to_owned(), date)]);
    world.runtime.script("app", Script { execs, ..Script::default() });
    world.pod("web", json!({"containers": [{"name": "app", "image": "busybox", "imagePullPolicy": "IfNotPresent"}]}));
    world.pod("late", json!({"containers": [{"name": "slow", "image": "none", "imagePullPolicy": "Never"}]}));
    while !(world.line("web").starts_with("Running") && world.line("late").contains("ErrImageNeverPull")) {
        world.pass(Duration::from_millis(50)).await;
    }
    Site { world, pki, address, name: "n1", serving, _keys: keys }
}

impl Site {
    /// Sends a request and reads until the answer contains `until`, or its end.
    async fn ask(&self, pair: Option<&Pair>, request: &str, until: &[u8]) -> String {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(der(self.pki.authority().certificate_pem()))).expect("a CA");
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("TLS versions").with_root_certificates(roots);
        let config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der(&pair.key_pem)));
                let chain = vec![CertificateDer::from(der(&pair.certificate_pem))];
                builder.with_client_auth_cert(chain, key).expect("a client certificate")
            }
        };
        let tcp = TcpStream::connect(self.address).await.expect("a connection");
        let name = ServerName::try_from(self.name).expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut tls = connector.connect(name, tcp).await.expect("a handshake");
        tls.write_all(request.as_bytes()).await.expect("written");
        let (mut all, mut buffer) = (Vec::new(), vec![0; 4096]);
        while !all.windows(until.len()).any(|window| window == until) {
            match tls.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => all.extend_from_slice(&buffer[..length]),
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    async fn get(&self, pair: Option<&Pair>, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n");
        self.ask(pair, &request, b"\0never\0").await
    }
}

#[tokio::test]
async fn only_the_api_server_and_administrators_are_served() {
    let site = site().await;
    assert!(site.get(None, "/healthz").await.starts_with("HTTP/1.1 401 "));
    let now = sys::SystemClock.now();
    let somebody = site.pki.client("somebody", None, now).expect("a certificate");
    assert!(site.get(Some(&somebody), "/pods").await.starts_with("HTTP/1.1 403 "));
    for known in [site.pki.kubelet_client(), site.pki.admin()] {
        assert!(site.get(Some(known), "/healthz").await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn others_are_let_in_where_the_api_server_says_so() {
    let site = site().await;
    let ask = async |token: &str, path: &str| {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: n1\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        site.ask(None, &request, b"\0never\0").await
    };
    for path in ["/metrics", "/metrics/resource", "/metrics/cadvisor"] {
        assert!(ask("bad", path).await.starts_with("HTTP/1.1 401 "));
        let answer = ask("good", path).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains(base::exposition::CONTENT_TYPE), "{head}");
        assert_eq!(base::exposition::check(body), Ok(()), "{path}: {body}");
    }
    let refused = ask("good", "/pods").await;
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("user=scraper, verb=get"), "{refused}");
    let asked = |writes: &[String]| writes.iter().filter(|write| write.contains("tokenreviews")).count();
    let before = asked(&site.world.api.writes());
    assert!(ask("good", "/metrics").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(asked(&site.world.api.writes()), before, "an answer is believed for a while");
    site.world.api.cut(true);
    assert!(ask("other", "/metrics").await.starts_with("HTTP/1.1 500 "), "who cannot be asked about is not let in");
}

#[tokio::test]
async fn other_nodes_get_images_and_nothing_else() {
    let site = site().await;
    let now = sys::SystemClock.now();
    let node = site.pki.kubelet_identity("n2", now).expect("a certificate");
    let somebody = site.pki.client("system:node:n2", None, now).expect("a certificate");
    let path = "/skerry/images/docker.io/library/none:1";
    assert!(site.get(Some(&node), "/pods").await.starts_with("HTTP/1.1 403 "));
    assert!(site.get(Some(&node), path).await.starts_with("HTTP/1.1 404 "));
    assert!(site.get(Some(&somebody), path).await.starts_with("HTTP/1.1 403 "));
    assert!(site.get(None, path).await.starts_with("HTTP/1.1 401 "));
    let later = format!("GET {path} HTTP/1.1\r\nHost: n1\r\nSkerry-Peers-Version: 2\r\nConnection: close\r\n\r\n");
    let answer = site.ask(Some(&node), &later, b"\0never\0").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("version 2 of handing on images"), "{answer}");
    assert!(answer.contains("skerry-peers-version: 1"), "{answer}");
    let write = format!("PUT {path} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert!(site.ask(Some(&node), &write, b"\0never\0").await.starts_with("HTTP/1.1 405 "));
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_at_once() {
    let mut site = site().await;
    let names = Names { dns: vec!["n2".to_owned()], ..Names::default() };
    let pair = site.pki.kubelet_serving("n2", &names, sys::SystemClock.now()).expect("a certificate");
    site.serving.send_replace(Some(tls(&site.pki, &pair)));
    // Only the new certificate has this name.
    site.name = "n2";
    assert!(site.get(Some(site.pki.kubelet_client()), "/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn pods_and_refusals_are_shown() {
    let site = site().await;
    let client = site.pki.kubelet_client();
    assert!(site.get(Some(client), "/pods").await.contains("\"kind\":\"PodList\""));
    for (path, code, message) in [
        ("/containerLogs/default/web/none", 400, "is not valid"),
        ("/containerLogs/default/none/app", 404, "pod \\\"none\\\" not found"),
        ("/containerLogs/default/late/slow", 400, "is waiting to start"),
        ("/containerLogs/default/web/app?previous=true", 400, "previous terminated container"),
        ("/containerLogs/default/web/app?tailLines=x", 400, "invalid tailLines"),
        ("/exec/default/web/app?command=date&output=1", 400, "unable to upgrade"),
        ("/exec/default/late/slow?command=date&output=1", 404, "container not found"),
        ("/nosuch", 404, "page not found"),
    ] {
        let answer = site.get(Some(client), path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.contains(message), "{path}: {answer}");
    }
    assert!(site.world.line("web").starts_with("Running"), "the node is as it was");
}

#[tokio::test]
async fn a_command_runs_over_a_websocket() {
    let site = site().await;
    let request = "GET /exec/default/web/app?command=date&command=-u&output=1&error=1 HTTP/1.1\r\nHost: n1\r\n\
                   Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n";
    // 0x88 begins the frame that closes.
    let answer = site.ask(Some(site.pki.kubelet_client()), request, &[0x88, 2, 3, 0xe8]).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let wanted =
        ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "v5.channel.k8s.io", "\u{1}today\n", "\u{2}oops\n", "NonZeroExitCode"];
    for part in wanted {
        assert!(answer.contains(part), "{part:?} is not in {answer:?}");
    }
}
