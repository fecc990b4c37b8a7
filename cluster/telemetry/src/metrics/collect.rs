//! The collector: measures one node every few seconds and sends what it found to the store, for ever.
//!
//! Start at [`run`]. The kubelet is asked through the API server; the board's own values are in `/sys`. What was measured last
//! is also served in Prometheus' text form, see [`text`].
//!
//! Invariant: a round that cannot be sent is dropped; the next one is as good.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, chain};
use bytes::Bytes;
use client::{Client, ClientError, DoorError};
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::wire::Round;
use super::{board, summary};

/// The store and the kubelet have so long to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Who asks for `/metrics` has so long to say so, in so many bytes.
const ASK: (Duration, usize) = (Duration::from_secs(5), 8 << 10);

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
        tokio::spawn(serve(TcpListener::bind(address).await?, latest.clone()));
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

/// Series in Prometheus' text form, a name's together.
pub fn text(values: &[(String, f64)]) -> String {
    let mut sorted: Vec<&(String, f64)> = values.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut out, mut before) = (String::new(), "");
    for (series, value) in sorted {
        let name = series.split('{').next().unwrap_or_default();
        if name != before {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            // Writing to memory cannot fail.
            let _ = writeln!(out, "# TYPE {name} {kind}");
            before = name;
        }
        let _ = writeln!(out, "{series} {value}");
    }
    out
}

async fn serve(listener: TcpListener, latest: Latest) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                // One after the other: an answer takes no time, and nobody keeps the next waiting for longer than the limit.
                let text = text(&latest.lock().unwrap_or_else(PoisonError::into_inner).values);
                let _ = tokio::time::timeout(ASK.0, answer(client, &text)).await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut client: TcpStream, metrics: &str) -> std::io::Result<()> {
    let mut asked = Vec::new();
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") && asked.len() < ASK.1 {
        if client.read_buf(&mut asked).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = if asked.starts_with(b"GET /metrics") { ("200 OK", metrics) } else { ("404 Not Found", "") };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(body.as_bytes()).await?;
    client.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_name_stand_together() {
        let values = [("b_total{x=\"2\"}", 2.0), ("a{}", 0.5), ("b_total{x=\"1\"}", 1e15)];
        let values = values.map(|(name, value)| (name.to_owned(), value));
        let expected =
            "# TYPE a gauge\na{} 0.5\n# TYPE b_total counter\nb_total{x=\"1\"} 1000000000000000\nb_total{x=\"2\"} 2\n";
        assert_eq!(text(&values), expected);
    }

    #[tokio::test]
    async fn the_last_round_is_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let round = Round { values: vec![("a{}".to_owned(), 1.0)], ..Round::default() };
        tokio::spawn(serve(listener, Arc::new(Mutex::new(round))));
        for (path, wanted) in [("/metrics", "200 OK"), ("/other", "404 Not Found")] {
            let mut client = TcpStream::connect(address).await.expect("connected");
            client.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.expect("sent");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("text");
            assert!(answer.contains(wanted), "{answer}");
            assert_eq!(answer.ends_with("# TYPE a gauge\na{} 1\n"), path == "/metrics");
        }
    }
}
