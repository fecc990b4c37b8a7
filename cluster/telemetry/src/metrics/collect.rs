//! The collector: measures one node every few seconds and sends what it found to the store, for ever.
//!
//! Start at [`run`]. The kubelet is asked through the API server; the board's own values are in `/sys`. What was measured last
//! is also served in Prometheus' text form.
//!
//! Invariant: a round that cannot be sent is dropped; the next one is as good.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, chain};
use bytes::Bytes;
use client::{Client, ClientError, DoorError};
use http::Method;
use serde_json::Value;
use tokio::net::TcpListener;

use super::wire::Round;
use super::{board, families, summary};
use crate::scrape;

/// The store and the kubelet have so long to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What a collector is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node it measures.
    pub node: String,
    /// Where `/sys` is.
    pub sys: PathBuf,
    /// How often.
    pub every: Duration,
    /// Where to serve `/metrics`; nowhere if there is none.
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("failed to connect")]
    Connect(#[source] DoorError),
    #[error("failed to ask the kubelet")]
    Ask(#[source] ClientError),
    #[error("failed to understand the kubelet: {0}")]
    Answer(#[source] serde_json::Error),
    #[error("failed to speak to the metric store")]
    Send(#[source] ClientError),
    #[error("no answer in time")]
    Slow,
}

type Latest = Arc<Mutex<Round>>;

/// Measures for ever; fails only if it cannot listen. `connect` is asked for a new connection after each trouble, so that a
/// renewed token is read.
pub async fn run(
    options: Options,
    connect: impl Fn() -> Result<Client, DoorError>,
    clock: Arc<dyn Clock>,
) -> std::io::Result<()> {
    let latest = Latest::default();
    if let Some(address) = options.listen {
        let latest = latest.clone();
        let told = move || families::told(&latest.lock().unwrap_or_else(PoisonError::into_inner).values);
        tokio::spawn(scrape::serve(TcpListener::bind(address).await?, told));
    }
    let mut client = None;
    // Late rounds are left out, not made up for.
    let mut turns = tokio::time::interval(options.every);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if let Err(error) = round(&options, &mut client, &connect, &*clock, &latest).await {
            tracing::warn!("{}", chain(&error));
            client = None;
        }
    }
}

async fn round(
    options: &Options,
    client: &mut Option<Client>,
    connect: &impl Fn() -> Result<Client, DoorError>,
    clock: &dyn Clock,
    latest: &Latest,
) -> Result<(), Trouble> {
    let open = match client.take() {
        Some(open) => open,
        None => connect().map_err(Trouble::Connect)?,
    };
    let open = client.insert(open);
    let path = format!("/api/v1/nodes/{}/proxy/stats/summary", options.node);
    let told = call(open, Method::GET, path, Bytes::new()).await?.map_err(Trouble::Ask)?;
    let told: Value = serde_json::from_slice(&told).map_err(Trouble::Answer)?;
    let mut values = summary::read(&told, &options.node);
    values.extend(board::read(&options.sys, &options.node));
    let time = (clock.now().0 / 1_000_000) as i64;
    let round = Round { node: options.node.clone(), time, values };
    let packed = Bytes::from(round.encode());
    *latest.lock().unwrap_or_else(PoisonError::into_inner) = round;
    let path = format!("/apis/{}/v1/samples", crate::GROUP);
    call(open, Method::POST, path, packed).await?.map_err(Trouble::Send).map(drop)
}

async fn call(
    client: &Client,
    method: Method,
    path: String,
    body: Bytes,
) -> Result<Result<Bytes, ClientError>, Trouble> {
    let call = client.call(method, path, "application/octet-stream", body);
    tokio::time::timeout(ANSWER_MAX, call).await.map_err(|_| Trouble::Slow)
}
