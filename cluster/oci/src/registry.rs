//! Registries: from a name to an image in the store.
//!
//! Start at [`Puller::pull`]. The words are those of the OCI distribution spec; Docker's token service is how one gets in.
//!
//! Invariants:
//! * every document and layer is compared with its digest; where the name has one, it decides;
//! * a layer whose transfer breaks goes on where it stopped, with range requests;
//! * mirrors are tried in order and the registry itself last; a mirror is never sent the registry's credentials.

use std::fmt;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::chain;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RANGE, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{sleep, timeout};

use crate::archive::{check_platform, diff_ids};
use crate::digest::{Digest, Hashing};
use crate::error::{Doing, OciError};
use crate::http::{Http, IDLE_LIMIT, network, read_body};
use crate::limit::{Limit, Meter};
use crate::manifest::{Descriptor, Found, Manifest, choose, read};
use crate::name::Reference;
use crate::peers::{Asked, Finder, Peers};
use crate::reach::Reach;
use crate::store::{Came, Image, Store};

/// The longest manifest, index or config.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;

/// The longest word of a registry that is shown.
const WORDS_BYTES_MAX: usize = 16 << 10;

/// Tries of a transfer, and how long the first pause between them is; each next is twice as long.
const TRIES_MAX: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Indexes of indexes, of at most this depth.
const INDEXES_MAX: usize = 4;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                              application/vnd.docker.distribution.manifest.list.v2+json, \
                              application/vnd.docker.distribution.manifest.v2+json";

/// How to reach a registry, where that differs from `https://` and its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryRule {
    /// Its name, such as `docker.io` or `registry.local:5000`.
    pub registry: String,
    /// Tried first, in order: such as `http://127.0.0.1:5000`.
    pub mirrors: Vec<String>,
}

/// Who we are to a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// A bearer token in their place.
    pub identity_token: String,
}

impl Credentials {
    /// What shows a peer that one has the password for a repository, and does not tell it. Like upstream's record of pulled
    /// images it is a digest: good for what is no word of a dictionary.
    fn proof(&self, name: &Reference) -> String {
        let parts = [&name.repository_name(), &self.username, &self.password, &self.identity_token];
        let parts: Vec<String> = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
        Digest::of(parts.concat().as_bytes()).hex().to_owned()
    }
}

impl fmt::Debug for Credentials {
    /// Secrets do not reach logs.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Credentials({})", self.username)
    }
}

/// Where an image came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Its registry, or a mirror of that.
    Registry,
    /// Another node of the cluster, by its Node's name.
    Peer(String),
    /// It was put on this machine beforehand, and no registry can be reached.
    Here,
}

/// An image that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Where it came from.
    pub from: Origin,
}

/// Fetches images. Clones share their connections' settings.
#[derive(Clone)]
pub struct Puller {
    rules: Arc<Vec<RegistryRule>>,
    http: Http,
    reach: Arc<Reach>,
    peers: Peers,
}

/// One place an image may come from.
struct Source<'a> {
    http: &'a Http,
    /// `https://host:port`.
    base: String,
    registry: &'a str,
    repository: &'a str,
    credentials: Option<&'a Credentials>,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Puller {
    /// Fetches by these rules; `finder` knows the other nodes, if there are any.
    pub fn new(rules: Vec<RegistryRule>, finder: Option<Finder>) -> Puller {
        Puller { rules: Arc::new(rules), http: Http::default(), reach: Arc::default(), peers: Peers::new(finder) }
    }

    /// Fetches an image into `store`. What is there already is not fetched again.
    ///
    /// A digest means the same everywhere, so that other nodes are asked for it first. What a tag means the registry says; where
    /// none can be reached, an image that was put on this machine beforehand will do, as if this machine were its own mirror:
    /// pods whose images have no tag are to be pulled at each start, and must start on a board that has no internet. Then
    /// other nodes are asked. A registry that answers no is not passed over.
    pub async fn pull(
        &self,
        store: &Store,
        name: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Pulled, OciError> {
        let proof = credentials.map(|credentials| credentials.proof(name));
        let kept = if store.is_preloaded(name) { store.find(&name.to_string()) } else { None };
        let kept = kept.map(|image| Pulled { image, from: Origin::Here });
        if name.digest.is_some()
            && kept.is_none()
            && let Asked::Got(image, node) = self.peers.pull(store, name, proof.clone()).await
        {
            return Ok(Pulled { image: *image, from: Origin::Peer(node) });
        }
        if kept.is_none() && !self.peers.are_known(name) {
            return self.fetch(store, name, credentials).await;
        }
        if self.any_in_reach(name).await {
            match self.fetch(store, name, credentials).await {
                Err(OciError::Network { .. }) => {}
                answer => return answer,
            }
        }
        if let Some(kept) = kept {
            return Ok(kept);
        }
        match self.peers.pull(store, name, proof).await {
            Asked::Got(image, node) => Ok(Pulled { image: *image, from: Origin::Peer(node) }),
            Asked::Nobody(notes) => {
                // Two seconds may have been too short for a slow line; and the registry's own words are wanted.
                let answer = self.fetch(store, name, credentials).await;
                answer.map_err(|source| match source {
                    source @ OciError::Network { .. } => {
                        OciError::Nowhere { peers: told(&notes), source: Box::new(source) }
                    }
                    other => other,
                })
            }
        }
    }

    async fn any_in_reach(&self, name: &Reference) -> bool {
        let mirrors = self.rules.iter().filter(|rule| rule.registry == name.registry).flat_map(|rule| &rule.mirrors);
        for base in mirrors.map(|mirror| mirror.trim_end_matches('/').to_owned()).chain([base_of(&name.registry)]) {
            if self.reach.holds(&self.http, &base).await {
                return true;
            }
        }
        false
    }

    async fn fetch(
        &self,
        store: &Store,
        name: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Pulled, OciError> {
        self.fetched(store, name, credentials).await.map(|image| Pulled { image, from: Origin::Registry })
    }

    async fn fetched(
        &self,
        store: &Store,
        name: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Image, OciError> {
        let _arriving = store.arriving();
        let mirrors = self.rules.iter().filter(|rule| rule.registry == name.registry).flat_map(|rule| &rule.mirrors);
        let mut last = None;
        for mirror in mirrors {
            match self.source(mirror.trim_end_matches('/').to_owned(), name, None).pull(store, name).await {
                Ok(image) => return Ok(image),
                // An image for other machines is so everywhere.
                Err(error @ OciError::Platform { .. }) => return Err(error),
                Err(error) => {
                    tracing::info!("mirror {mirror} has no {name}: {}", chain(&error));
                    last = Some(error);
                }
            }
        }
        match self.source(base_of(&name.registry), name, credentials).pull(store, name).await {
            // The mirror's reason is the better one where the registry cannot be reached at all.
            Err(OciError::Network { .. }) if last.is_some() => Err(last.expect("it is some")),
            answer => answer,
        }
    }

    fn source<'a>(&'a self, base: String, name: &'a Reference, credentials: Option<&'a Credentials>) -> Source<'a> {
        let (registry, repository) = (name.registry.as_str(), name.repository.as_str());
        Source { http: &self.http, base, registry, repository, credentials, authorization: Mutex::new(None) }
    }
}

/// What the peers said, in a few words.
fn told(notes: &[String]) -> String {
    if notes.is_empty() { "there is no other node to ask".to_owned() } else { notes.join("; ") }
}

/// Docker Hub's registry has another address than its name; one on this machine needs no TLS.
fn base_of(registry: &str) -> String {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let is_ip = host.parse().is_ok_and(|ip: std::net::Ipv4Addr| ip.is_loopback());
    let is_here = is_ip || host == "localhost" || host == "[::1]";
    match registry {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        _ if is_here => format!("http://{registry}"),
        _ => format!("https://{registry}"),
    }
}

impl Source<'_> {
    async fn pull(&self, store: &Store, name: &Reference) -> Result<Image, OciError> {
        let title = name.to_string();
        let wanted = name.digest.as_ref().map(ToString::to_string).or(name.tag.clone()).unwrap_or_default();
        let mut document = self.document(&format!("manifests/{wanted}"), name.digest.as_ref()).await?;
        let top = Digest::of(&document);
        let mut documents = Vec::new();
        let manifest = 'found: {
            for _ in 0..INDEXES_MAX {
                documents.push(document.clone());
                match read(&title, &document)? {
                    Found::Manifest(manifest) => break 'found manifest,
                    Found::Index(entries) => {
                        let digest: Digest = choose(&title, &entries, store.platform())?.digest.parse()?;
                        document = self.document(&format!("manifests/{digest}"), Some(&digest)).await?;
                    }
                }
            }
            return Err(OciError::malformed(title, format!("its indexes are nested more than {INDEXES_MAX} deep")));
        };
        let config_digest: Digest = manifest.config.digest.parse()?;
        let config = self.document(&format!("blobs/{config_digest}"), Some(&config_digest)).await?;
        check_platform(store, &title, &manifest.config, &config)?;
        self.layers(store, &title, &manifest, &config).await?;
        let (tags, digests) = (name.tagged(), name.with_digest(&top));
        // A registry that did not ask who we are gives to anybody.
        let proof = self.credentials.filter(|_| self.authorization().is_some()).map(|each| each.proof(name));
        let (adding, came) = (store.clone(), Came { documents, proof, preloaded: false });
        blocking(move || adding.add_image(&config, tags, [digests], came)).await
    }

    async fn layers(&self, store: &Store, title: &str, manifest: &Manifest, config: &[u8]) -> Result<(), OciError> {
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids(manifest, config)?) {
            if store.has_layer(&diff_id) {
                continue;
            }
            let scratch = store.scratch()?;
            let fetched = self.layer(store, title, layer, diff_id, &scratch.join("layer")).await;
            let _ = fs::remove_dir_all(&scratch);
            fetched?;
        }
        Ok(())
    }

    /// A layer into the store, over a file at `path`.
    async fn layer(
        &self,
        store: &Store,
        title: &str,
        layer: &Descriptor,
        diff_id: Digest,
        path: &Path,
    ) -> Result<u64, OciError> {
        let limit = Limit::packed(&layer.digest, title, &self.base, layer.size);
        limit.check(layer.size, store.bytes()?)?;
        let (file, size) = self.blob(layer, path, &limit).await?;
        let (adding, limit) = (store.clone(), Limit::unpacked(&diff_id, title, &self.base, Some(size)));
        blocking(move || adding.add_layer(&diff_id, file, &limit)).await
    }

    /// A small document, whole, compared with its digest if that is known.
    async fn document(&self, path: &str, digest: Option<&Digest>) -> Result<Vec<u8>, OciError> {
        let mut accept = HeaderMap::new();
        if path.starts_with("manifests/") {
            accept.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        }
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let fetched = async {
                let response = self.get(path, &accept).await?;
                let body = read_body(response.into_body(), DOCUMENT_BYTES_MAX).await;
                body.map_err(|error| network(format!("read {path} of {}", self.repository), error))
            };
            match fetched.await {
                Ok(bytes) => {
                    let found = Digest::of(&bytes);
                    return match digest.filter(|wanted| **wanted != found) {
                        None => Ok(bytes.to_vec()),
                        Some(wanted) => Err(OciError::Digest {
                            what: format!("{path} of {}", self.repository),
                            wanted: wanted.to_string(),
                            found: found.to_string(),
                        }),
                    };
                }
                Err(error) if attempt < TRIES_MAX && error.may_pass() && !is_unreachable(&error) => {
                    sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last try returns")
    }

    /// A layer, into a file, and its length. A broken transfer goes on where it stopped.
    async fn blob(&self, layer: &Descriptor, path: &Path, limit: &Limit) -> Result<(File, u64), OciError> {
        let digest: Digest = layer.digest.parse()?;
        let action = || format!("write {}", path.display());
        let mut file = File::options().read(true).write(true).create_new(true).open(path).doing(action())?;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let mut meter = Meter::new(limit, path);
            match self.blob_rest(&digest, &mut file, &mut meter).await {
                Ok(()) => break,
                Err(error) if attempt < TRIES_MAX && error.may_pass() => {
                    tracing::info!("fetching {digest} goes on after: {}", chain(&error));
                    sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
        blocking(move || {
            file.seek(SeekFrom::Start(0)).doing("read a layer")?;
            let copy = file.try_clone().doing("read a layer")?;
            let (found, length) = Hashing::new(copy).finish().doing("read a layer")?;
            if found != digest {
                let what = "a layer".to_owned();
                return Err(OciError::Digest { what, wanted: digest.to_string(), found: found.to_string() });
            }
            file.seek(SeekFrom::Start(0)).doing("read a layer")?;
            Ok((file, length))
        })
        .await
    }

    async fn blob_rest(&self, digest: &Digest, file: &mut File, meter: &mut Meter<'_>) -> Result<(), OciError> {
        let have = file.seek(SeekFrom::End(0)).doing("write a layer")?;
        let mut headers = HeaderMap::new();
        if have > 0
            && let Ok(range) = format!("bytes={have}-").parse()
        {
            headers.insert(RANGE, range);
        }
        let response = match self.get(&format!("blobs/{digest}"), &headers).await {
            // All of it is here already.
            Err(OciError::Registry { status, .. }) if have > 0 && status.starts_with("416") => return Ok(()),
            answer => answer?,
        };
        meter.set(have);
        if response.status() != StatusCode::PARTIAL_CONTENT {
            meter.set(0);
            file.set_len(0).doing("write a layer")?;
            file.seek(SeekFrom::Start(0)).doing("write a layer")?;
        }
        let mut body = response.into_body();
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| network(format!("read layer {digest}"), source);
        loop {
            let frame = timeout(IDLE_LIMIT, body.frame()).await;
            match frame.map_err(|_| broken(format!("nothing came for {IDLE_LIMIT:?}").into()))? {
                None => return Ok(()),
                Some(Err(error)) => return Err(broken(error.into())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        meter.pass(data.len() as u64)?;
                        // A page cache takes it; a disk that is slower than the network slows the transfer, as it should.
                        file.write_all(&data).doing("write a layer")?;
                    }
                }
            }
        }
    }

    /// Asks, gets in if the registry wants to know who asks, and asks again.
    async fn get(&self, path: &str, headers: &HeaderMap) -> Result<Response<Incoming>, OciError> {
        let url = format!("{}/v2/{}/{path}", self.base, self.repository);
        let mut headers = headers.clone();
        for attempt in 0..2 {
            if let Some(authorization) = self.authorization() {
                headers.insert(AUTHORIZATION, authorization);
            }
            let response = self.http.get(&url, &headers).await?;
            if response.status() == StatusCode::UNAUTHORIZED && attempt == 0 {
                let challenges: Vec<String> = response
                    .headers()
                    .get_all(WWW_AUTHENTICATE)
                    .iter()
                    .filter_map(|value| value.to_str().ok().map(str::to_owned))
                    .collect();
                if self.get_in(&challenges).await? {
                    continue;
                }
            }
            return self.check(path, response).await;
        }
        unreachable!("the second round returns")
    }

    async fn check(&self, path: &str, response: Response<Incoming>) -> Result<Response<Incoming>, OciError> {
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().to_string();
        let body = read_body(response.into_body(), WORDS_BYTES_MAX).await.unwrap_or_default();
        let what = format!("{}/{path}", self.repository);
        Err(OciError::Registry { registry: self.registry.to_owned(), status, what, detail: words(&body) })
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Answers a challenge. False where there is nothing to answer it with.
    async fn get_in(&self, challenges: &[String]) -> Result<bool, OciError> {
        let value = match challenges.iter().find_map(|challenge| Challenge::read(challenge)) {
            Some(challenge) => Some(format!("Bearer {}", self.token(&challenge).await?)),
            None => self.basic().filter(|_| challenges.iter().any(|each| starts_with_word(each, "basic"))),
        };
        let Some(value) = value else { return Ok(false) };
        let mut header: HeaderValue =
            value.parse().map_err(|_| OciError::malformed("the registry's token", "it fits no header"))?;
        header.set_sensitive(true);
        *self.authorization.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(header);
        Ok(true)
    }

    fn basic(&self) -> Option<String> {
        let credentials = self.credentials.filter(|credentials| !credentials.username.is_empty())?;
        let pair = format!("{}:{}", credentials.username, credentials.password);
        Some(format!("Basic {}", STANDARD.encode(pair)))
    }

    async fn token(&self, challenge: &Challenge) -> Result<String, OciError> {
        let default = format!("repository:{}:pull", self.repository);
        let scope = challenge.scope.as_deref().unwrap_or(&default);
        let fields = [("service", challenge.service.as_str()), ("scope", scope)];
        let mut headers = HeaderMap::new();
        let refresh = self.credentials.map(|each| each.identity_token.as_str()).filter(|token| !token.is_empty());
        let response = match refresh {
            Some(token) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                let more = [("grant_type", "refresh_token"), ("client_id", "skerry"), ("refresh_token", token)];
                let body = Bytes::from(form(fields.iter().chain(&more)));
                self.http.request(Method::POST, &challenge.realm, &headers, body).await?
            }
            None => {
                if let Some(basic) = self.basic().and_then(|basic| basic.parse().ok()) {
                    headers.insert(AUTHORIZATION, basic);
                }
                let mark = if challenge.realm.contains('?') { '&' } else { '?' };
                let url = format!("{}{mark}{}", challenge.realm, form(fields.iter()));
                self.http.get(&url, &headers).await?
            }
        };
        let response = self.check("token", response).await?;
        let body = read_body(response.into_body(), DOCUMENT_BYTES_MAX).await;
        let body = body.map_err(|error| network("read the registry's token", error))?;
        let document: serde_json::Value =
            serde_json::from_slice(&body).map_err(|error| OciError::malformed("the registry's token", error))?;
        let field = |name: &str| document.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        let missing = || OciError::malformed("the registry's token", "it has neither token nor access_token");
        field("token").or_else(|| field("access_token")).ok_or_else(missing)
    }
}

/// Nothing listens there, or the name is unknown: trying again at once is no use, and the kubelet will later.
fn is_unreachable(error: &OciError) -> bool {
    matches!(error, OciError::Network { action, .. } if action.starts_with("reach "))
}

/// Runs `act` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, OciError> + Send + 'static,
) -> Result<T, OciError> {
    let done = tokio::task::spawn_blocking(act).await;
    done.unwrap_or_else(|panic| Err(network("unpack an image", panic)))
}

/// What a registry wants to know, from `Bearer realm="…",service="…",scope="…"`.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: String,
    scope: Option<String>,
}

fn starts_with_word(text: &str, word: &str) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

impl Challenge {
    fn read(header: &str) -> Option<Challenge> {
        if !starts_with_word(header, "bearer ") {
            return None;
        }
        let mut challenge = Challenge { realm: String::new(), service: String::new(), scope: None };
        let mut rest = &header["bearer ".len()..];
        while let Some((name, after)) = rest.split_once('=') {
            // A scope holds commas, so quotes decide where a value ends.
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match name.trim_matches([' ', ',']) {
                "realm" => challenge.realm = value.to_owned(),
                "service" => challenge.service = value.to_owned(),
                "scope" => challenge.scope = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        (!challenge.realm.is_empty()).then_some(challenge)
    }
}

/// Fields as a form or a query has them.
fn form<'a>(fields: impl Iterator<Item = &'a (&'a str, &'a str)>) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
                other => format!("%{other:02X}"),
            })
            .collect()
    };
    fields.map(|(name, value)| format!("{name}={}", escape(value))).collect::<Vec<_>>().join("&")
}

/// What a registry said, for people: its own messages, else the start of its text.
fn words(body: &[u8]) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let messages: Vec<&str> = document
        .iter()
        .filter_map(|document| document.get("errors")?.as_array())
        .flatten()
        .filter_map(|error| error.get("message").or_else(|| error.get("code"))?.as_str())
        .collect();
    if !messages.is_empty() {
        return format!(": {}", messages.join(", "));
    }
    let text = String::from_utf8_lossy(body);
    let line: String = text.trim().chars().take(200).filter(|letter| !letter.is_control()).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_have_addresses() {
        for (registry, base) in [
            ("docker.io", "https://registry-1.docker.io"),
            ("registry.k8s.io", "https://registry.k8s.io"),
            ("localhost:5000", "http://localhost:5000"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("127.evil.example", "https://127.evil.example"),
        ] {
            assert_eq!(base_of(registry), base);
        }
    }

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let expected = Challenge {
            realm: "https://auth.docker.io/token".into(),
            service: "registry.docker.io".into(),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(Challenge::read(header), Some(expected));
        assert_eq!(Challenge::read("Basic realm=\"x\""), None);
        assert_eq!(Challenge::read("Bearer nonsense"), None);
    }

    #[test]
    fn what_a_registry_says_is_shown() {
        assert_eq!(words(br#"{"errors":[{"code":"X","message":"manifest unknown"}]}"#), ": manifest unknown");
        assert_eq!(words(b"<html>\n"), ": <html>");
        assert_eq!(words(b""), "");
    }

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials { username: "me".into(), password: "hush".into(), ..Credentials::default() };
        assert_eq!(format!("{credentials:?}"), "Credentials(me)");
    }
}
