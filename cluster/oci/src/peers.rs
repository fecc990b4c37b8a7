//! Images from the other nodes of the cluster: asking who has one, and taking it.
//!
//! Start at [`Peers::pull`]. A node is asked for `images/NAME`, and answers with an [`Offer`]; its layers are
//! `layers/IMAGE/LAYER`, tars. Both lie below [`PATH`], over TLS on both sides with the cluster's certificates.
//!
//! Invariants:
//! * what a peer sends is compared with its digest: layers with those that the config names, the config with the name if that
//!   has a digest. What a tag means is believed, as the peer is a node of the cluster;
//! * a peer gives to whom the image was open, or who shows that it has the same password for the same repository;
//! * a layer has a limit of size (`limit.rs`);
//! * a layer passes through and is never kept packed; a peer that is silent, slow or lies costs seconds, and is left alone for
//!   [`SHUNNED_FOR`].
//!
//! Not here: which peers there are (the caller's), serving (`kubelet`), what is handed on (`store.rs`).

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::chain;
use bytes::{Buf, Bytes};
use http::header::HOST;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::archive::check_platform;
use crate::digest::Digest;
use crate::error::OciError;
use crate::http::{Cause, network, read_body, send};
use crate::limit::Limit;
use crate::manifest::{Descriptor, Found, read};
use crate::name::Reference;
use crate::registry::blocking;
use crate::store::{Came, Image, Offer, Store, read_config};

/// Where a node hands on images.
pub const PATH: &str = "/skerry/";
/// The header that says which version of this a node speaks, in questions and answers. Nodes of releases before it said nothing,
/// and spoke the first.
pub const VERSION_HEADER: &str = "skerry-peers-version";
/// The version that is spoken here.
pub const VERSION: &str = "1";
/// The header that shows that one has the password.
pub const PROOF: &str = "skerry-proof";

/// Whether what a peer says of its version can be understood; or the words to refuse it with.
pub fn understood(version: Option<&http::HeaderValue>) -> Result<(), String> {
    match version.map(|version| String::from_utf8_lossy(version.as_bytes())) {
        Some(other) if other != VERSION => Err(format!(
            "a peer speaks version {other} of handing on images, and this node version {VERSION}: they are of releases too far apart"
        )),
        _ => Ok(()),
    }
}

/// So many are asked.
const ASKED_MAX: usize = 8;
/// An answer to a question comes within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The next bytes of a layer come within this.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// In each such time at least so much comes.
const SLOW: (Duration, u64) = (Duration::from_secs(10), 64 << 10);
/// Peers that give to others just then are asked again for so long.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
/// A peer that did not do what it should is left alone for so long.
const SHUNNED_FOR: Duration = Duration::from_secs(60);
/// The longest answer: an index, a manifest and a config.
const OFFER_BYTES_MAX: usize = 8 << 20;
/// The longest reason of a refusal.
const WORDS_BYTES_MAX: usize = 4 << 10;
/// Pieces of a layer that wait to be unpacked.
const PIECES_MAX: usize = 4;
const INDEXES_MAX: usize = 4;

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its Node's name, which its certificate must say.
    pub node: String,
    /// Where it hands on images.
    pub address: SocketAddr,
}

/// What a node shows its peers, and whom it believes.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's authority.
    pub ca_pem: String,
    /// This node's certificate.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

/// The nodes that may have an image, the likeliest first, and who we are to them.
pub type Finder = Arc<dyn Fn(&Reference) -> Option<(Vec<Peer>, Identity)> + Send + Sync>;

/// Asks peers.
#[derive(Clone, Default)]
pub(crate) struct Peers {
    finder: Option<Finder>,
    shunned: Arc<Mutex<BTreeMap<String, Instant>>>,
}

/// How asking went.
pub(crate) enum Asked {
    /// It is here, from this node.
    Got(Box<Image>, String),
    /// It is not; why not, for each that was asked.
    Nobody(Vec<String>),
}

/// One question.
struct Errand<'a> {
    store: &'a Store,
    name: &'a Reference,
    proof: Option<String>,
    tls: Arc<ClientConfig>,
}

/// Why a peer gave nothing.
enum Failure {
    /// It gives to others; later.
    Busy,
    /// Something else.
    Not(OciError),
}

impl From<OciError> for Failure {
    fn from(error: OciError) -> Failure {
        Failure::Not(error)
    }
}

impl Peers {
    pub(crate) fn new(finder: Option<Finder>) -> Peers {
        Peers { finder, ..Peers::default() }
    }

    /// Whether there is anybody to ask.
    pub(crate) fn are_known(&self, name: &Reference) -> bool {
        self.finder.as_ref().and_then(|finder| finder(name)).is_some_and(|(peers, _)| !peers.is_empty())
    }

    /// Fetches an image from whoever has it.
    pub(crate) async fn pull(&self, store: &Store, name: &Reference, proof: Option<String>) -> Asked {
        let Some((mut peers, identity)) = self.finder.as_ref().and_then(|finder| finder(name)) else {
            return Asked::Nobody(Vec::new());
        };
        peers.retain(|peer| !self.is_shunned(&peer.node));
        peers.truncate(ASKED_MAX);
        let tls = match tls(&identity) {
            Ok(tls) => tls,
            Err(error) => return Asked::Nobody(vec![format!("this node's certificate is of no use: {error}")]),
        };
        let errand = Errand { store, name, proof, tls };
        let (mut holders, mut notes) = self.holders(&errand, peers).await;
        let begun = Instant::now();
        while !holders.is_empty() {
            let mut busy = Vec::new();
            for (peer, offer) in holders {
                match errand.take(&peer, &offer).await {
                    Ok(image) => return Asked::Got(Box::new(image), peer.node),
                    Err(Failure::Busy) => busy.push((peer, offer)),
                    Err(Failure::Not(error)) => notes.push(self.shun(&peer, &error)),
                }
            }
            holders = busy;
            if begun.elapsed() > PATIENCE {
                notes.extend(holders.drain(..).map(|(peer, _)| format!("{} gives to others", peer.node)));
            }
            if !holders.is_empty() {
                sleep(PAUSE).await;
            }
        }
        Asked::Nobody(notes)
    }

    /// Asks all at once. Who has it, in the order of asking; and what the others said.
    async fn holders(&self, errand: &Errand<'_>, peers: Vec<Peer>) -> (Vec<(Peer, Offer)>, Vec<String>) {
        let mut asking = JoinSet::new();
        for (place, peer) in peers.into_iter().enumerate() {
            let (tls, proof, path) = (errand.tls.clone(), errand.proof.clone(), format!("images/{}", errand.name));
            asking.spawn(async move {
                let answer = timeout(ANSWER_LIMIT, question(&tls, &peer, &path, proof.as_deref())).await;
                let late = || network("ask it", format!("no answer within {ANSWER_LIMIT:?}"));
                (place, peer, answer.unwrap_or_else(|_| Err(late())))
            });
        }
        let (mut holders, mut notes) = (BTreeMap::new(), Vec::new());
        while let Some(answer) = asking.join_next().await {
            match answer {
                Ok((place, peer, Ok(Some(offer)))) => drop(holders.insert(place, (peer, offer))),
                Ok((_, peer, Ok(None))) => notes.push(format!("{} does not have it to give", peer.node)),
                Ok((_, peer, Err(error))) => notes.push(self.shun(&peer, &error)),
                Err(error) => notes.push(error.to_string()),
            }
        }
        (holders.into_values().collect(), notes)
    }

    fn is_shunned(&self, node: &str) -> bool {
        self.lock().get(node).is_some_and(|since| since.elapsed() < SHUNNED_FOR)
    }

    fn shun(&self, peer: &Peer, error: &OciError) -> String {
        let note = format!("peer {}: {}", peer.node, chain(error));
        tracing::warn!("no image from {note}; it is not asked for {SHUNNED_FOR:?}");
        self.lock().insert(peer.node.clone(), Instant::now());
        note
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.shunned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Errand<'_> {
    /// Takes what was offered, if it is what it should be.
    async fn take(&self, peer: &Peer, offer: &Offer) -> Result<Image, Failure> {
        let title = self.name.to_string();
        let config = offer.config.as_bytes();
        let id = Digest::of(config);
        check_platform(self.store, &title, &Descriptor::default(), config)?;
        let digests = proved(&title, self.name, offer, &id)?;
        let _arriving = self.store.arriving();
        let packed = packed(&title, offer, &id);
        for (number, layer) in read_config(&id, config)?.rootfs.diff_ids.iter().enumerate() {
            let layer: Digest = layer.parse().map_err(Failure::Not)?;
            if !self.store.has_layer(&layer) {
                let limit = Limit::unpacked(&layer, &title, &peer.node, packed.get(number).copied());
                self.layer(peer, &id, &layer, limit).await?;
            }
        }
        let came = Came {
            documents: offer.documents.iter().map(|text| text.clone().into_bytes()).collect(),
            proof: self.proof.clone().filter(|_| !offer.open),
            preloaded: offer.preloaded,
        };
        let (store, config, tag) = (self.store.clone(), offer.config.clone(), self.name.tagged());
        // With both, the digest decides, and the tag may mean another image by now.
        let tag = tag.filter(|_| self.name.digest.is_none());
        Ok(blocking(move || store.add_image(config.as_bytes(), tag, digests, came)).await?)
    }

    /// Unpacks a layer while it comes.
    async fn layer(&self, peer: &Peer, id: &Digest, layer: &Digest, limit: Limit) -> Result<(), Failure> {
        let path = format!("layers/{}/{}", id.hex(), layer.hex());
        let asked = timeout(IDLE_LIMIT, ask(&self.tls, peer, &path, self.proof.as_deref())).await;
        let response = asked.map_err(|_| network(format!("ask for layer {layer}"), "no answer"))??;
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            return Err(Failure::Busy);
        }
        let body = succeeded(peer, &path, response).await?.into_body();
        limit.check(body.size_hint().lower(), self.store.bytes()?)?;
        let (pieces, receiver) = mpsc::channel(PIECES_MAX);
        let (store, diff_id) = (self.store.clone(), layer.clone());
        let unpacking = tokio::task::spawn_blocking(move || {
            store.add_layer(&diff_id, Pieces { receiver, piece: Bytes::new() }, &limit).map(drop)
        });
        let fed = feed(body, &pieces).await;
        if let Err(error) = &fed {
            // So that what came is not taken for all of it.
            let _ = pieces.send(Err(io::Error::other(error.to_string()))).await;
        }
        drop(pieces);
        let unpacked = unpacking.await.unwrap_or_else(|panic| Err(network("unpack a layer", panic)));
        fed.map_err(|error| network(format!("read layer {layer}"), error))?;
        Ok(unpacked?)
    }
}

/// Hands the pieces of a body on. It ends early, and well, where nobody wants them any more: then they know why.
async fn feed(
    mut body: Incoming,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (mut since, mut came) = (Instant::now(), 0);
    loop {
        let frame = timeout(IDLE_LIMIT, body.frame()).await.map_err(|_| format!("nothing came for {IDLE_LIMIT:?}"))?;
        let Some(frame) = frame else { return Ok(()) };
        let Ok(piece) = frame?.into_data() else { continue };
        came += piece.len() as u64;
        if since.elapsed() > SLOW.0 {
            if came < SLOW.1 {
                return Err(format!("only {came} bytes came in {:?}", SLOW.0).into());
            }
            (since, came) = (Instant::now(), 0);
        }
        if pieces.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
    }
}

/// What arrives, for who reads and blocks.
struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// The sizes of the packed layers as its manifest says them; none if it was not offered.
fn packed(title: &str, offer: &Offer, id: &Digest) -> Vec<u64> {
    let manifests = offer.documents.iter().filter_map(|text| match read(title, text.as_bytes()).ok()? {
        Found::Manifest(manifest) => Some(manifest),
        Found::Index(_) => None,
    });
    let mut of_image = manifests.filter(|manifest| manifest.config.digest == id.to_string());
    of_image.next().map(|manifest| manifest.layers.iter().map(|layer| layer.size).collect()).unwrap_or_default()
}

/// The digests that the documents prove for the repository; the one asked for must be among them.
fn proved(title: &str, name: &Reference, offer: &Offer, id: &Digest) -> Result<Vec<String>, OciError> {
    let documents: BTreeMap<Digest, &str> =
        offer.documents.iter().map(|text| (Digest::of(text.as_bytes()), text.as_str())).collect();
    let prefix = format!("{}@", name.repository_name());
    let claimed = offer.digests.iter().filter_map(|digest| digest.strip_prefix(&prefix)?.parse().ok());
    let mut proved: Vec<Digest> = claimed.filter(|digest| leads(title, digest, &documents, id, 0)).collect();
    let Some(wanted) = &name.digest else {
        return Ok(proved.iter().map(|digest| name.with_digest(digest)).collect());
    };
    if !leads(title, wanted, &documents, id, 0) {
        let what = format!("{title} as it was offered");
        return Err(OciError::Digest { what, wanted: wanted.to_string(), found: format!("image {id}") });
    }
    proved.push(wanted.clone());
    Ok(proved.iter().map(|digest| name.with_digest(digest)).collect())
}

/// Whether a document leads to a config.
fn leads(title: &str, from: &Digest, documents: &BTreeMap<Digest, &str>, id: &Digest, depth: usize) -> bool {
    let Some(found) = documents.get(from).and_then(|text| read(title, text.as_bytes()).ok()) else { return false };
    match found {
        Found::Manifest(manifest) => manifest.config.digest == id.to_string(),
        Found::Index(entries) => {
            let mut next = entries.iter().filter_map(|entry| entry.digest.parse().ok());
            depth < INDEXES_MAX && next.any(|digest| leads(title, &digest, documents, id, depth + 1))
        }
    }
}

async fn question(
    tls: &Arc<ClientConfig>,
    peer: &Peer,
    path: &str,
    proof: Option<&str>,
) -> Result<Option<Offer>, OciError> {
    let response = ask(tls, peer, path, proof).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let body = read_body(succeeded(peer, path, response).await?.into_body(), OFFER_BYTES_MAX).await;
    let body = body.map_err(|error| network(format!("read {path}"), error))?;
    serde_json::from_slice(&body).map(Some).map_err(|error| OciError::malformed("what it offers", error))
}

async fn ask(
    tls: &Arc<ClientConfig>,
    peer: &Peer,
    path: &str,
    proof: Option<&str>,
) -> Result<Response<Incoming>, OciError> {
    let asking = async {
        let stream = TcpStream::connect(peer.address).await?;
        let name = ServerName::try_from(peer.node.clone())?;
        let stream = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await?;
        let request = Request::get(format!("{PATH}{path}")).header(HOST, peer.address.to_string());
        let mut request = request.header(VERSION_HEADER, VERSION);
        if let Some(proof) = proof {
            request = request.header(PROOF, proof);
        }
        let response = send(stream, request.body(Full::default())?).await?;
        understood(response.headers().get(VERSION_HEADER))?;
        Ok::<_, Cause>(response)
    };
    asking.await.map_err(|source| network(format!("ask {} for {path}", peer.address), source))
}

async fn succeeded(peer: &Peer, path: &str, response: Response<Incoming>) -> Result<Response<Incoming>, OciError> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status().to_string();
    let body = read_body(response.into_body(), WORDS_BYTES_MAX).await.unwrap_or_default();
    let detail = format!(": {}", String::from_utf8_lossy(&body).trim());
    Err(OciError::Registry { registry: peer.node.clone(), status, what: path.to_owned(), detail })
}

fn tls(identity: &Identity) -> Result<Arc<ClientConfig>, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(identity.ca_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(chain, key)?))
}
