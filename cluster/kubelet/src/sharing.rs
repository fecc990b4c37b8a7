//! Handing this node's images on to other nodes.
//!
//! Start at [`Sharing::answer`]. What may be given to whom, and in which form, is `oci`'s to say.
//!
//! Invariants:
//! * a node of the cluster asks, by its certificate; nobody else gets here;
//! * at most [`GIVEN_MAX`] layers leave at a time, at most at [`PACE`] each: pods need the network and the card too. Who comes
//!   then is told so, and asks again;
//! * a layer is never in memory as a whole.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, chain};
use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use oci::Given;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::server::{Body, Refusal};

/// Layers on their way at a time.
const GIVEN_MAX: usize = 2;
/// Bytes a second of each: more than a 100-megabit cable carries, and half of what two boards with faster ones would take from
/// a card.
const PACE: u64 = 16 << 20;
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait for the network.
const PIECES_MAX: usize = 4;

/// The images of this node as others see them.
pub(crate) struct Sharing {
    store: Option<oci::Store>,
    places: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
}

impl Sharing {
    pub(crate) fn new(store: Option<oci::Store>, clock: Arc<dyn Clock>) -> Sharing {
        Sharing { store, places: Arc::new(Semaphore::new(GIVEN_MAX)), clock }
    }

    /// Answers a question below [`oci::PEERS_PATH`].
    pub(crate) async fn answer(&self, path: &str, proof: Option<String>) -> Result<Response<Body>, Refusal> {
        let missing = || Refusal::missing("this node has no such image to give");
        let store = self.store.clone().ok_or_else(missing)?;
        let (asked, what) = (path.to_owned(), path.to_owned());
        let given = tokio::task::spawn_blocking(move || store.give(&asked, proof.as_deref())).await;
        let failed = |error: &dyn std::error::Error| {
            let told = format!("failed to hand on {what}: {}", chain(error));
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, told)
        };
        match given.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?.ok_or_else(missing)? {
            Given::Offer(text) => Ok(Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync())),
            Given::Layer(layer) => self.layer(*layer),
        }
    }

    fn layer(&self, layer: oci::Retold) -> Result<Response<Body>, Refusal> {
        let busy = |_| Refusal(StatusCode::SERVICE_UNAVAILABLE, "this node gives to others".to_owned());
        let place = self.places.clone().try_acquire_owned().map_err(busy)?;
        let length = layer.length();
        let (pieces, receiver) = mpsc::channel(PIECES_MAX);
        let clock = self.clock.clone();
        // It ends when all is read, or when nobody wants the pieces any more.
        tokio::task::spawn_blocking(move || give(layer, &pieces, &*clock, place));
        let body =
            futures::stream::unfold(receiver, |mut pieces| async move { pieces.recv().await.map(|it| (it, pieces)) });
        let body = StreamBody::new(body.map(|piece: io::Result<Bytes>| piece.map(Frame::data)));
        let mut response = Response::new(body.boxed_unsync());
        // What is cut short is seen to be.
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        Ok(response)
    }
}

fn give(
    mut layer: oci::Retold,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
    clock: &dyn Clock,
    _place: OwnedSemaphorePermit,
) {
    let (begun, mut given) = (clock.monotonic(), 0_u64);
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let read = layer.read(&mut piece).map(|length| {
            piece.truncate(length);
            piece
        });
        if let Err(error) = &read {
            tracing::warn!("failed to hand on a layer: {}", chain(error));
        }
        let is_last = read.as_ref().map_or(true, Vec::is_empty);
        given += read.as_ref().map_or(0, |piece| piece.len() as u64);
        if read.as_ref().is_ok_and(Vec::is_empty) || pieces.blocking_send(read.map(Bytes::from)).is_err() || is_last {
            return;
        }
        let due = Duration::from_millis(given * 1000 / PACE);
        std::thread::sleep(due.saturating_sub(clock.monotonic().since(begun)));
    }
}
