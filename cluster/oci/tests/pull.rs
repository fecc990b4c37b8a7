//! Pulls from a small registry on this machine, which misbehaves on request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base::chain;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use oci::{Credentials, Digest, Platform, Puller, Reference, RegistryRule, Store};

/// What the registry serves and how.
#[derive(Default)]
struct Shelf {
    /// By path after `/v2/team/app/`.
    content: BTreeMap<String, Vec<u8>>,
    /// A token is asked for; this user gets it.
    user: Option<(String, String)>,
    /// The first transfer of each blob breaks in the middle.
    breaks: bool,
    calls: Vec<String>,
}

type Body = BoxBody<Bytes, std::io::Error>;

fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

fn serve(shelf: &Mutex<Shelf>, address: SocketAddr, request: &Request<Incoming>) -> Response<Body> {
    let mut shelf = shelf.lock().expect("no panic");
    let path = request.uri().path().to_owned();
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let range = header("range").to_owned();
    shelf.calls.push(format!("{path} {range}").trim().to_owned());
    let answer = Response::builder();
    if path == "/token" {
        let basic = shelf.user.as_ref().map(|(user, password)| format!("{user}:{password}"));
        let given = header("authorization").strip_prefix("Basic ").unwrap_or_default();
        use base64::Engine;
        let given = base64::engine::general_purpose::STANDARD.decode(given).unwrap_or_default();
        if basic.is_some_and(|basic| basic.as_bytes() == given) {
            return answer.body(whole(r#"{"token":"t"}"#)).expect("a response");
        }
        return answer.status(401).body(whole(r#"{"errors":[{"message":"who are you"}]}"#)).expect("a response");
    }
    if shelf.user.is_some() && !path.starts_with("/elsewhere/") && header("authorization") != "Bearer t" {
        let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"test\"");
        return answer.status(401).header("www-authenticate", challenge).body(whole("")).expect("a response");
    }
    let Some(name) = path.strip_prefix("/v2/team/app/").or(path.strip_prefix("/elsewhere/")) else {
        return answer.status(404).body(whole("")).expect("a response");
    };
    let Some(content) = shelf.content.get(name).cloned() else {
        let body = whole(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#);
        return answer.status(404).body(body).expect("a response");
    };
    if name.starts_with("blobs/") && !path.starts_with("/elsewhere/") {
        return answer
            .status(307)
            .header("location", format!("/elsewhere/{name}"))
            .body(whole(""))
            .expect("a response");
    }
    if let Some(from) = range.strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse::<usize>().ok())
    {
        return answer.status(206).body(whole(content[from..].to_vec())).expect("a response");
    }
    let is_layer = content.len() > 10_000;
    if shelf.breaks && is_layer {
        let half = Bytes::from(content[..content.len() / 2].to_vec());
        let parts: Vec<Result<Frame<Bytes>, std::io::Error>> =
            vec![Ok(Frame::data(half)), Err(std::io::Error::other("broken on purpose"))];
        let body = StreamBody::new(Parts(parts.into_iter(), false));
        return answer.header("content-length", content.len()).body(body.boxed()).expect("a response");
    }
    answer.body(whole(content)).expect("a response")
}

/// A stream of parts, with a rest before each, in which what came before is sent.
struct Parts(std::vec::IntoIter<Result<Frame<Bytes>, std::io::Error>>, bool);

impl futures_core::Stream for Parts {
    type Item = Result<Frame<Bytes>, std::io::Error>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.1 = !self.1;
        if self.1 {
            context.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(self.0.next())
    }
}

async fn registry(shelf: Shelf) -> (SocketAddr, Arc<Mutex<Shelf>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let shelf = Arc::new(Mutex::new(shelf));
    let serving = Arc::clone(&shelf);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let shelf = Arc::clone(&serving);
            let service = hyper::service::service_fn(move |request| {
                let response = serve(&shelf, address, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, shelf)
}

/// An image of one large file, for this machine and one that is not.
fn image(architecture: &str) -> Shelf {
    let mut rng = base::Rng::new(1);
    // Nothing that a compressor makes small.
    let content: Vec<u8> = (0..100_000).map(|_| rng.next_u64() as u8).collect();
    image_of(architecture, &content, |layer| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, layer).expect("written");
        packed.finish().expect("finished")
    })
}

fn image_of(architecture: &str, content: &[u8], pack: impl Fn(&[u8]) -> Vec<u8>) -> Shelf {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    layer.append_data(&mut header, "large", content).expect("written");
    let layer = layer.into_inner().expect("finished");
    let packed = pack(&layer);
    let mut shelf = Shelf::default();
    let mut put = |kind: &str, bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        shelf.content.insert(format!("{kind}/{digest}"), bytes);
        digest
    };
    let blob = put("blobs", packed.clone());
    let diff_id = Digest::of(&layer);
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"Cmd":["run"]}},"rootfs":{{"diff_ids":["{diff_id}"]}}}}"#
    );
    let config = put("blobs", config.into_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":1}},"layers":[{{"digest":"{blob}","size":{}}}]}}"#,
        packed.len()
    );
    let manifest = put("manifests", manifest.into_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"{manifest}","platform":{{"os":"linux","architecture":"{architecture}"}}}}]}}"#
    );
    shelf.content.insert("manifests/v1".to_owned(), index.clone().into_bytes());
    shelf.content.insert(format!("manifests/{}", Digest::of(index.as_bytes())), index.into_bytes());
    shelf
}

struct Machine {
    _folder: tempfile::TempDir,
    store: Store,
}

fn machine() -> Machine {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("images"), &[]).expect("a store");
    Machine { _folder: folder, store }
}

fn name(text: &str) -> Reference {
    text.parse().expect("a name")
}

fn told(error: &oci::OciError) -> String {
    chain(error).to_string()
}

#[tokio::test]
async fn an_image_is_fetched_once_and_found_by_all_its_names() {
    let (address, shelf) = registry(image(&Platform::here().architecture)).await;
    let machine = machine();
    let puller = Puller::new(Vec::new(), None);
    let wanted = name(&format!("{address}/team/app:v1"));
    let found = puller.pull(&machine.store, &wanted, None).await.expect("pulled").image;
    assert_eq!(found.config.config.cmd, ["run"]);
    assert_eq!(fs::read(found.layers[0].join("large")).expect("unpacked").len(), 100_000);
    let layers = |shelf: &Mutex<Shelf>| {
        shelf.lock().expect("no panic").calls.iter().filter(|call| call.starts_with("/elsewhere")).count()
    };
    let before = layers(&shelf);
    puller.pull(&machine.store, &wanted, None).await.expect("pulled again");
    assert_eq!(layers(&shelf), before + 1, "the config alone is fetched again");
    for each in [wanted.to_string(), found.digests[0].clone(), found.id.to_string(), found.id.hex()[..12].to_owned()] {
        assert_eq!(machine.store.find(&each).map(|image| image.id), Some(found.id.clone()), "{each}");
    }
    let again = Store::open(machine.store.folder(), &[]).expect("opened again");
    assert_eq!(again.list(), machine.store.list());
    let by_digest = name(&found.digests[0]);
    puller.pull(&machine.store, &by_digest, None).await.expect("pulled by digest");
    again.remove(&found.id.to_string(), &Default::default()).expect("removed");
    assert!(again.list().is_empty() && !found.layers[0].exists());
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let (address, shelf) = registry(Shelf { breaks: true, ..image(&Platform::here().architecture) }).await;
    let machine = machine();
    let wanted = name(&format!("{address}/team/app:v1"));
    Puller::new(Vec::new(), None).pull(&machine.store, &wanted, None).await.expect("pulled");
    let calls = shelf.lock().expect("no panic").calls.clone();
    assert!(calls.iter().any(|call| call.contains("bytes=") && !call.contains("bytes=0-")), "{calls:?}");
}

#[tokio::test]
async fn a_registry_may_want_to_know_who_asks() {
    let user = Some(("me".to_owned(), "secret".to_owned()));
    let (address, _) = registry(Shelf { user, ..image(&Platform::here().architecture) }).await;
    let machine = machine();
    let puller = Puller::new(Vec::new(), None);
    let wanted = name(&format!("{address}/team/app:v1"));
    let error = puller.pull(&machine.store, &wanted, None).await.expect_err("nobody");
    assert_eq!(told(&error), format!("{address} answered 401 Unauthorized for team/app/token: who are you"));
    let credentials = Credentials { username: "me".into(), password: "secret".into(), ..Credentials::default() };
    puller.pull(&machine.store, &wanted, Some(&credentials)).await.expect("pulled");
}

#[tokio::test]
async fn what_is_not_there_or_not_for_here_is_told() {
    let (address, _) = registry(image("s390x")).await;
    let machine = machine();
    let puller = Puller::new(Vec::new(), None);
    let error = puller.pull(&machine.store, &name(&format!("{address}/team/app:v2")), None).await.expect_err("no v2");
    assert_eq!(told(&error), format!("{address} answered 404 Not Found for team/app/manifests/v2: manifest unknown"));
    let error = puller.pull(&machine.store, &name(&format!("{address}/team/app:v1")), None).await.expect_err("s390x");
    let here = Platform::here();
    assert_eq!(told(&error), format!("image {address}/team/app:v1 has nothing for {here}: it is for linux/s390x"));
    assert!(machine.store.list().is_empty());
}

#[tokio::test]
async fn content_that_is_not_what_it_says_is_refused() {
    let mut shelf = image(&Platform::here().architecture);
    for (path, content) in &mut shelf.content {
        if path.starts_with("blobs/") && content.len() > 10_000 {
            content[5000] ^= 1;
        }
    }
    let (address, _) = registry(shelf).await;
    let machine = machine();
    let wanted = name(&format!("{address}/team/app:v1"));
    let error = Puller::new(Vec::new(), None).pull(&machine.store, &wanted, None).await.expect_err("changed");
    assert!(told(&error).starts_with("a layer is sha256:"), "{}", told(&error));
    assert!(machine.store.list().is_empty());
    let left: Vec<_> = fs::read_dir(machine.store.folder().join("tmp")).expect("listed").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn what_would_fill_the_disk_is_refused() {
    let mut longer = image(&Platform::here().architecture);
    for (path, content) in &mut longer.content {
        if path.starts_with("blobs/") && content.len() > 10_000 {
            content.extend([0; 10_000]);
        }
    }
    let pack = |layer: &[u8]| zstd::bulk::compress(layer, 1).expect("packed");
    let bomb = image_of(&Platform::here().architecture, &vec![0; 65 << 20], pack);
    for (shelf, why) in [
        (longer, "bytes, which is what its manifest says"),
        (bomb, "is too large: it has more than 67108864 bytes when unpacked, for the "),
    ] {
        let (address, _) = registry(shelf).await;
        let machine = machine();
        let wanted = name(&format!("{address}/team/app:v1"));
        let error = Puller::new(Vec::new(), None).pull(&machine.store, &wanted, None).await.expect_err("refused");
        let told = told(&error);
        let place = format!(" of {wanted} from http://{address} is too large: it has more than ");
        assert!(told.starts_with("layer sha256:") && told.contains(&place) && told.contains(why), "{told}");
        assert!(machine.store.list().is_empty());
        assert_eq!(fs::read_dir(machine.store.folder().join("tmp")).expect("listed").count(), 0);
    }
}

#[tokio::test]
async fn mirrors_come_first() {
    let (address, _) = registry(image(&Platform::here().architecture)).await;
    let machine = machine();
    // Nobody asks the real registry: the first mirror is deaf, the second answers.
    let rule = RegistryRule {
        registry: "registry.example".into(),
        mirrors: vec!["http://127.0.0.1:1".into(), format!("http://{address}/")],
    };
    let wanted = name("registry.example/team/app:v1");
    let found = Puller::new(vec![rule], None).pull(&machine.store, &wanted, None).await.expect("pulled").image;
    assert_eq!(found.names, ["registry.example/team/app:v1"]);
}
