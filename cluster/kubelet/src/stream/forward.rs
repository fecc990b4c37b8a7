//! Carries TCP connections of a client to ports of a pod.
//!
//! Start at [`over_spdy`]; [`through_websocket`] makes a SPDY connection out of a WebSocket, as kubectl 1.31 and later want
//! it; [`over_channels`] is the older WebSocket form with two channels a port.
//!
//! Invariants:
//! * a port that refuses ends its own connection with a message, and no other.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use runtime::{Runtime, SandboxId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::spdy::{self, Event};
use super::websocket::{self, Decoder, Message};

/// Pieces of a connection that wait to be written into the pod.
const QUEUE_MAX: usize = 64;
/// Connections of one client at a time.
const CONNECTIONS_MAX: usize = 1024;

/// Where ports are.
#[derive(Clone)]
pub struct Ports {
    /// Knows the way.
    pub runtime: Arc<dyn Runtime>,
    /// The pod.
    pub sandbox: SandboxId,
    /// The pod in words, for messages.
    pub pod: String,
}

impl Ports {
    /// Moves bytes of one connection; the answer is what went wrong.
    async fn carry(&self, port: u16, mut from_client: mpsc::Receiver<Bytes>, to_client: &Back) -> Result<(), String> {
        let connected = self.runtime.port_forward(self.sandbox.clone(), port).await;
        let (mut output, mut input) = connected.map_err(|error| {
            format!("error forwarding port {port} to pod {}, uid : {}", self.pod, base::chain(&error))
        })?;
        let inward = async {
            while let Some(bytes) = from_client.recv().await {
                if input.write_all(&bytes).await.is_err() || input.flush().await.is_err() {
                    return;
                }
            }
            let _ = input.close().await;
        };
        let outward = async {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(length @ 1..) = output.read(&mut buffer).await {
                if !to_client.send(Bytes::copy_from_slice(&buffer[..length])).await {
                    return;
                }
            }
        };
        // The answer may be long after the question ended; when the answer has ended, the connection has.
        let mut inward = std::pin::pin!(inward);
        let mut outward = std::pin::pin!(outward);
        tokio::select! {
            () = &mut outward => {}
            () = &mut inward => outward.await,
        }
        Ok(())
    }
}

/// The way back to the client of one connection.
enum Back {
    /// A SPDY stream.
    Stream(spdy::Writer, u32),
    /// A channel of a WebSocket.
    Channel(mpsc::Sender<Vec<u8>>, u8),
}

impl Back {
    /// Says whether the client is still there.
    async fn send(&self, bytes: Bytes) -> bool {
        match self {
            Back::Stream(writer, id) => writer.data(*id, bytes).await,
            Back::Channel(messages, channel) => {
                let message = Message::Binary(Bytes::from([&[*channel], &bytes[..]].concat()));
                messages.send(websocket::encode(&message)).await.is_ok()
            }
        }
    }
}

/// One forwarded connection while its streams come in.
#[derive(Default)]
struct Pair {
    error: Option<u32>,
    data: Option<u32>,
    port: Option<u16>,
}

/// Serves SPDY streams in pairs: `data` and `error`, joined by `requestID`.
pub async fn over_spdy<S>(io: S, ports: Ports)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut events, writer) = spdy::accept(io);
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    let mut inputs: BTreeMap<u32, mpsc::Sender<Bytes>> = BTreeMap::new();
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(event) = events.recv().await {
        while tasks.try_join_next().is_some() {}
        match event {
            Event::Opened(id, headers) => {
                let port = headers.get("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
                let kind = headers.get("streamtype").map(String::as_str);
                if port.is_none() || !matches!(kind, Some("data" | "error")) || tasks.len() >= CONNECTIONS_MAX {
                    writer.reset(id).await;
                    continue;
                }
                writer.accept(id).await;
                // Very old clients send no id: their streams come in order, error first.
                let request = headers.get("requestid").cloned();
                let request = request
                    .unwrap_or_else(|| if kind == Some("error") { id } else { id.saturating_sub(2) }.to_string());
                let pair = pairs.entry(request.clone()).or_default();
                pair.port = port;
                match kind {
                    Some("error") => pair.error = Some(id),
                    _ => pair.data = Some(id),
                }
                if let (Some(error), Some(data), Some(port)) = (pair.error, pair.data, pair.port) {
                    pairs.remove(&request);
                    let (input, from_client) = mpsc::channel(QUEUE_MAX);
                    inputs.insert(data, input);
                    tasks.spawn(forward(ports.clone(), writer.clone(), port, data, error, from_client));
                }
            }
            Event::Data(id, bytes) => {
                if let Some(input) = inputs.get(&id)
                    && input.send(bytes).await.is_err()
                {
                    inputs.remove(&id);
                }
            }
            Event::Ended(id) => drop(inputs.remove(&id)),
        }
    }
}

async fn forward(
    ports: Ports,
    writer: spdy::Writer,
    port: u16,
    data: u32,
    error: u32,
    from_client: mpsc::Receiver<Bytes>,
) {
    let back = Back::Stream(writer.clone(), data);
    if let Err(message) = ports.carry(port, from_client, &back).await {
        writer.data(error, Bytes::from(message)).await;
    }
    writer.end(error).await;
    writer.end(data).await;
}

/// The bytes inside the binary messages of a WebSocket, as a connection of its own.
pub fn through_websocket<S>(io: S) -> DuplexStream
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (inside, outside) = tokio::io::duplex(64 << 10);
    let (mut read, mut write) = tokio::io::split(io);
    let (mut from_inside, mut to_inside) = tokio::io::split(outside);
    let (answer, mut answers) = mpsc::channel::<Vec<u8>>(QUEUE_MAX);
    tokio::spawn(async move {
        let (mut decoder, mut buffer) = (Decoder::default(), vec![0; 32 << 10]);
        'reading: while let Ok(length @ 1..) = read.read(&mut buffer).await {
            decoder.push(&buffer[..length]);
            loop {
                match decoder.take() {
                    Ok(None) => break,
                    Ok(Some(Message::Binary(bytes) | Message::Text(bytes))) => {
                        if to_inside.write_all(&bytes).await.is_err() {
                            break 'reading;
                        }
                    }
                    Ok(Some(Message::Ping(bytes))) => drop(answer.send(websocket::pong(&bytes)).await),
                    Ok(Some(Message::Pong)) => {}
                    Ok(Some(Message::Close)) | Err(_) => break 'reading,
                }
            }
        }
        let _ = to_inside.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(32 << 10);
        loop {
            buffer.clear();
            let bytes = tokio::select! {
                length = from_inside.read_buf(&mut buffer) => match length {
                    Ok(1..) => websocket::encode(&Message::Binary(buffer.split().freeze())),
                    _ => break,
                },
                Some(answer) = answers.recv() => answer,
            };
            if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
        let _ = write.write_all(&websocket::encode(&Message::Close)).await;
        let _ = write.shutdown().await;
    });
    inside
}

/// Serves the older WebSocket form: of the n-th port, channel 2n is data and 2n+1 errors; each begins with the port.
pub async fn over_channels<S>(io: S, ports: Ports, wanted: &[u16])
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut read, mut write) = tokio::io::split(io);
    let (outgoing, mut queued) = mpsc::channel::<Vec<u8>>(QUEUE_MAX);
    let mut inputs = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (index, port) in wanted.iter().enumerate().take(usize::from(u8::MAX) / 2) {
        let (input, from_client) = mpsc::channel(QUEUE_MAX);
        inputs.push(input);
        let (ports, outgoing, port, data) = (ports.clone(), outgoing.clone(), *port, (index * 2) as u8);
        tasks.spawn(async move {
            for channel in [data, data + 1] {
                Back::Channel(outgoing.clone(), channel).send(Bytes::copy_from_slice(&port.to_le_bytes())).await;
            }
            let back = Back::Channel(outgoing.clone(), data);
            if let Err(error) = ports.carry(port, from_client, &back).await {
                Back::Channel(outgoing, data + 1).send(Bytes::from(error)).await;
            }
        });
    }
    let answers = outgoing.clone();
    drop(outgoing);
    let reading = async move {
        let (mut decoder, mut buffer) = (Decoder::default(), vec![0; 32 << 10]);
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            decoder.push(&buffer[..length]);
            loop {
                match decoder.take() {
                    Ok(None) => break,
                    Ok(Some(Message::Binary(bytes) | Message::Text(bytes))) => {
                        let Some(channel) = bytes.first() else { continue };
                        let input = inputs.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0);
                        if let Some(input) = input {
                            let _ = input.send(bytes.slice(1..)).await;
                        }
                    }
                    Ok(Some(Message::Ping(bytes))) => drop(answers.send(websocket::pong(&bytes)).await),
                    Ok(Some(Message::Pong)) => {}
                    Ok(Some(Message::Close)) | Err(_) => return,
                }
            }
        }
    };
    let writing = async {
        while let Some(bytes) = queued.recv().await {
            if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
    let _ = write.write_all(&websocket::encode(&Message::Close)).await;
    let _ = write.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::super::websocket::tests::masked;
    use super::*;
    use base::{ManualClock, Timestamp};
    use runtime::fake::FakeRuntime;
    use runtime::{NamespaceMode, SandboxConfig};

    async fn ports() -> Ports {
        let runtime = FakeRuntime::new(Arc::new(ManualClock::at(Timestamp::from_seconds(0))));
        let config = SandboxConfig { network: NamespaceMode::Pod, ..SandboxConfig::default() };
        let sandbox = runtime.run_sandbox(config).await.expect("a sandbox");
        Ports { runtime: Arc::new(runtime), sandbox, pod: "web".into() }
    }

    fn opening(encoder: &mut spdy::Encoder) -> Vec<u8> {
        let mut wire = Vec::new();
        for (id, kind) in [(1, "error"), (3, "data")] {
            let headers = [("streamtype", kind), ("port", "80"), ("requestid", "0")];
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            encoder.put(&spdy::Frame::SynStream { id, fin: kind == "error", headers }, &mut wire);
        }
        wire
    }

    async fn frames(mut io: impl AsyncRead + Unpin) -> Vec<spdy::Frame> {
        let (mut decoder, mut found, mut buffer) = (spdy::Decoder::default(), Vec::new(), vec![0; 1024]);
        while !found.contains(&spdy::Frame::Data { id: 3, fin: true, bytes: Bytes::new() }) {
            let length = io.read(&mut buffer).await.expect("read");
            assert!(length > 0, "closed too early: {found:?}");
            decoder.push(&buffer[..length]);
            while let Some(frame) = decoder.take().expect("frames") {
                found.push(frame);
            }
        }
        found
    }

    #[tokio::test]
    async fn a_pair_of_streams_is_a_connection() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(over_spdy(ours, ports().await));
        theirs.write_all(&opening(&mut spdy::Encoder::default())).await.expect("written");
        let found = frames(theirs).await;
        assert!(
            found.contains(&spdy::Frame::Data { id: 3, fin: false, bytes: Bytes::from_static(b"port 80\n") }),
            "{found:?}"
        );
    }

    #[tokio::test]
    async fn spdy_goes_through_a_websocket() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(over_spdy(through_websocket(ours), ports().await));
        theirs.write_all(&masked(0x82, &opening(&mut spdy::Encoder::default()))).await.expect("written");
        let mut seen = Vec::new();
        let mut buffer = vec![0; 1024];
        while !seen.windows(8).any(|window| window == b"port 80\n") {
            let length = theirs.read(&mut buffer).await.expect("read");
            assert!(length > 0, "closed too early");
            seen.extend_from_slice(&buffer[..length]);
        }
    }

    #[tokio::test]
    async fn channels_begin_with_their_port() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let ports = ports().await;
        let task = tokio::spawn(async move { over_channels(ours, ports, &[80]).await });
        let mut seen = vec![0; 2 + 3 + 2 + 3 + 2 + 9];
        theirs.read_exact(&mut seen).await.expect("read");
        assert_eq!(seen, [&[0x82, 3, 0, 80, 0, 0x82, 3, 1, 80, 0, 0x82, 9, 0], &b"port 80\n"[..]].concat());
        drop(theirs);
        task.await.expect("ended");
    }
}
