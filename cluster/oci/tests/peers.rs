//! Images from other nodes: who gives, who does not, and what is not believed.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Timestamp, chain};
use bytes::Bytes;
use futures_core::Stream;
use http::Response;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use oci::{Digest, Given, Identity, Origin, Peer, Platform, Puller, Reference, Store};
use pki::{Authority, Pair, Purpose, Subject};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Nobody listens there.
const NAME: &str = "127.0.0.1:1/team/app:v1";
const CONTENT_BYTES: usize = 300_000;

/// How a peer behaves when it is asked for a layer.
#[derive(Clone, Copy, PartialEq)]
enum Layers {
    Good,
    /// One bit is another.
    Wrong,
    /// Half of it, and then nothing.
    Silent,
    /// Half of it, and the connection ends.
    Cut,
    /// The first one who asks is to come again.
    Busy,
    /// It is said to be larger than any disk.
    Huge,
    /// A file that never ends.
    Endless,
}

struct Cluster {
    authority: Authority,
    now: Timestamp,
}

fn cluster() -> Cluster {
    let now = Timestamp::from_seconds(std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() as i64);
    let pair = Authority::make("test", now).expect("an authority");
    Cluster { authority: Authority::load(&pair).expect("it loads"), now }
}

impl Cluster {
    fn pair(&self, node: &str, purpose: Purpose) -> Pair {
        let name = format!("system:node:{node}");
        let subject = Subject { name, group: Some("system:nodes".into()), dns: vec![node.into()], addresses: vec![] };
        self.authority.issue(&subject, &[purpose], pki::CERTIFICATE_LIFE, self.now).expect("a certificate")
    }

    fn puller(&self, peers: Vec<Peer>) -> Puller {
        let pair = self.pair("asker", Purpose::Client);
        let identity = Identity {
            ca_pem: self.authority.certificate_pem().to_owned(),
            certificate_pem: pair.certificate_pem,
            key_pem: pair.key_pem,
        };
        Puller::new(Vec::new(), Some(Arc::new(move |_| Some((peers.clone(), identity.clone())))))
    }

    /// A node that gives from a store; `said` is the name it goes by, which its certificate need not say.
    async fn peer(&self, node: &str, said: &str, store: &Store, layers: Layers) -> Peer {
        let pair = self.pair(node, Purpose::Server);
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .expect("a configuration");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let peer = Peer { node: said.to_owned(), address: listener.local_addr().expect("an address") };
        let store = store.clone();
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, store, asked) = (acceptor.clone(), store.clone(), asked.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let path = request.uri().path().strip_prefix(oci::PEERS_PATH).expect("the path").to_owned();
                        let proof = request.headers().get(oci::PEERS_PROOF).map(|it| it.to_str().unwrap().to_owned());
                        let count = asked
                            .fetch_add(usize::from(path.starts_with("layers")), std::sync::atomic::Ordering::SeqCst);
                        let layers = if layers == Layers::Busy && count > 0 { Layers::Good } else { layers };
                        let answer = answer(store.give(&path, proof.as_deref()).expect("an answer"), layers);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        peer
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

fn answer(given: Option<Given>, layers: Layers) -> Response<Body> {
    match given {
        None => Response::builder().status(404).body(whole("")).expect("a response"),
        Some(Given::Offer(text)) => Response::new(whole(text)),
        Some(Given::Layer(_)) if layers == Layers::Busy => {
            Response::builder().status(503).body(whole("")).expect("a response")
        }
        Some(Given::Layer(mut layer)) => {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut layer, &mut bytes).expect("read");
            if layers == Layers::Wrong {
                bytes[5000] ^= 1;
            }
            let builder = Response::builder().header("content-length", bytes.len());
            let half = Bytes::from(bytes[..bytes.len() / 2].to_vec());
            match layers {
                Layers::Silent => builder.body(StreamBody::new(Half(Some(half), false)).boxed()),
                Layers::Huge => {
                    let builder = Response::builder().header("content-length", 1_u64 << 40);
                    builder.body(StreamBody::new(Endless(endless())).boxed())
                }
                Layers::Endless => Response::builder().body(StreamBody::new(Endless(endless())).boxed()),
                Layers::Cut => builder.body(StreamBody::new(Half(Some(half), true)).boxed()),
                _ => builder.body(whole(bytes)),
            }
            .expect("a response")
        }
    }
}

/// Something, and then an error or nothing for ever.
struct Half(Option<Bytes>, bool);

impl Stream for Half {
    type Item = Result<Frame<Bytes>, std::io::Error>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        match (self.0.take(), self.1) {
            (Some(half), _) => std::task::Poll::Ready(Some(Ok(Frame::data(half)))),
            (None, true) => std::task::Poll::Ready(Some(Err(std::io::Error::other("cut on purpose")))),
            (None, false) => std::task::Poll::Pending,
        }
    }
}

/// Zeros for ever, after something.
struct Endless(Bytes);

impl Stream for Endless {
    type Item = Result<Frame<Bytes>, std::io::Error>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let next = std::mem::replace(&mut self.0, Bytes::from_static(&[0; 1 << 16]));
        std::task::Poll::Ready(Some(Ok(Frame::data(next))))
    }
}

/// How a tar begins that holds a file larger than any disk.
fn endless() -> Bytes {
    let mut header = tar::Header::new_gnu();
    header.set_path("endless").expect("a name");
    header.set_mode(0o644);
    header.set_size(1 << 40);
    header.set_cksum();
    Bytes::from(header.as_bytes().to_vec())
}

/// An archive of one image with one file.
fn archive(folder: &Path, name: &str) -> std::path::PathBuf {
    let tar = |files: &[(String, Vec<u8>)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, &content[..]).expect("written");
        }
        builder.into_inner().expect("finished")
    };
    let layer = tar(&[("large".to_owned(), vec![7; CONTENT_BYTES]), ("small".to_owned(), b"x".to_vec())]);
    let architecture = &Platform::here().architecture;
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","rootfs":{{"diff_ids":["{}"]}}}}"#,
        Digest::of(&layer)
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{}"}},"layers":[{{"digest":"{}","size":{}}}]}}"#,
        Digest::of(config.as_bytes()),
        Digest::of(&layer),
        layer.len()
    );
    let index = format!(
        r#"{{"manifests":[{{"digest":"{}","annotations":{{"io.containerd.image.name":"{name}"}}}}]}}"#,
        Digest::of(manifest.as_bytes())
    );
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let files = [
        (blob(&layer), layer),
        (blob(config.as_bytes()), config.into_bytes()),
        (blob(manifest.as_bytes()), manifest.into_bytes()),
        ("index.json".to_owned(), index.into_bytes()),
    ];
    let path = folder.join("images.tar");
    fs::write(&path, tar(&files)).expect("written");
    path
}

struct Machine {
    _folder: tempfile::TempDir,
    store: Store,
}

fn machine(has: Option<&str>) -> Machine {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("images"), &[]).expect("a store");
    if let Some(name) = has {
        store.import(&archive(folder.path(), name), &[]).expect("imported");
    }
    Machine { _folder: folder, store }
}

fn name() -> Reference {
    NAME.parse().expect("a name")
}

/// Nothing of a transfer that failed stays.
fn is_tidy(store: &Store) {
    let left: Vec<_> = fs::read_dir(store.folder().join("tmp")).expect("listed").flatten().collect();
    assert!(left.is_empty() && store.list().is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_from_who_has_it_and_goes_on_from_there() {
    let (cluster, holder, first, second) = (cluster(), machine(Some(NAME)), machine(None), machine(None));
    let has = cluster.peer("holder", "holder", &holder.store, Layers::Busy).await;
    let empty = cluster.peer("empty", "empty", &machine(None).store, Layers::Good).await;
    let pulled = cluster.puller(vec![empty, has]).pull(&first.store, &name(), None).await.expect("pulled");
    assert_eq!(pulled.from, Origin::Peer("holder".into()));
    assert_eq!(fs::read(pulled.image.layers[0].join("large")).expect("there"), [7; CONTENT_BYTES]);
    let by_digest: Reference = pulled.image.digests[0].parse().expect("a name");
    // Whoever got it has all that the first one had.
    let next = cluster.peer("next", "next", &first.store, Layers::Good).await;
    let puller = cluster.puller(vec![next]);
    let again = puller.pull(&second.store, &by_digest, None).await.expect("pulled by digest");
    assert_eq!((again.image.id, again.from), (pulled.image.id, Origin::Peer("next".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_fail_cost_seconds_and_others_give() {
    let (cluster, holder) = (cluster(), machine(Some(NAME)));
    let good = cluster.peer("good", "good", &holder.store, Layers::Good).await;
    for (layers, why) in [
        (Layers::Wrong, "a layer's content is sha256:"),
        (Layers::Cut, "peer closed connection"),
        // Told as the others are; once is enough to wait for.
        (Layers::Silent, ""),
    ] {
        let asker = machine(None);
        let bad = cluster.peer("bad", "bad", &holder.store, layers).await;
        if layers != Layers::Silent {
            let error = cluster.puller(vec![bad.clone()]).pull(&asker.store, &name(), None).await.expect_err("nobody");
            let told = chain(&error).to_string();
            assert!(told.contains("peer bad: ") && told.contains(why) && told.contains("127.0.0.1:1"), "{told}");
            is_tidy(&asker.store);
        }
        let puller = cluster.puller(vec![bad, good.clone()]);
        let begun = Instant::now();
        let pulled = puller.pull(&asker.store, &name(), None).await.expect("pulled");
        assert_eq!(pulled.from, Origin::Peer("good".into()));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_would_fill_the_disk_is_refused() {
    let (cluster, holder) = (cluster(), machine(Some(NAME)));
    let digest = holder.store.list()[0].layers[0].parent().expect("a folder").file_name().expect("a name").to_owned();
    for layers in [Layers::Huge, Layers::Endless] {
        let asker = machine(None);
        let bad = cluster.peer("bad", "bad", &holder.store, layers).await;
        let error = cluster.puller(vec![bad]).pull(&asker.store, &name(), None).await.expect_err("refused");
        let told = chain(&error).to_string();
        let layer = digest.to_string_lossy();
        let expected =
            format!("peer bad: layer sha256:{layer} of {NAME} from bad is too large: it has more than 67108864 bytes");
        assert!(told.contains(&expected), "{told}");
        is_tidy(&asker.store);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_the_node_it_says_and_has_what_the_digest_says() {
    let (cluster, holder, asker) = (cluster(), machine(Some(NAME)), machine(None));
    let other = cluster.peer("other", "holder", &holder.store, Layers::Good).await;
    let error = cluster.puller(vec![other]).pull(&asker.store, &name(), None).await.expect_err("another node");
    assert!(chain(&error).to_string().contains("not valid for name"), "{}", chain(&error));
    let holder = cluster.peer("holder", "holder", &holder.store, Layers::Good).await;
    let wanted = name().with_digest(&Digest::of(b"another"));
    let error = cluster.puller(vec![holder]).pull(&asker.store, &wanted.parse().expect("a name"), None).await;
    let error = chain(&error.expect_err("not that one")).to_string();
    assert!(error.contains("holder does not have it to give"), "{error}");
    is_tidy(&asker.store);
}
