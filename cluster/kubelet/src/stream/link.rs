//! The five channels of a command, whatever carries them.
//!
//! Start at [`Link`]; [`over_websocket`] and [`over_spdy`] make one.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::spdy;
use super::websocket::{self, Decoder, Message};

/// Messages that wait, each way.
const QUEUE_MAX: usize = 64;
/// How long a SPDY client has to open its streams; upstream's.
const STREAMS_WAIT: Duration = Duration::from_secs(30);
/// How long a client has to close after us.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// A channel of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// To the command.
    Stdin,
    /// From it.
    Stdout,
    /// From it.
    Stderr,
    /// How it ended.
    Error,
    /// The size of its terminal.
    Resize,
}

impl Channel {
    const ALL: [Channel; 5] = [Channel::Stdin, Channel::Stdout, Channel::Stderr, Channel::Error, Channel::Resize];

    /// The first byte of a WebSocket message.
    fn number(self) -> u8 {
        self as u8
    }

    fn of_number(number: u8) -> Option<Channel> {
        Channel::ALL.get(usize::from(number)).copied()
    }

    /// The SPDY stream's `streamType`.
    fn of_name(name: &str) -> Option<Channel> {
        Some(match name {
            "stdin" => Channel::Stdin,
            "stdout" => Channel::Stdout,
            "stderr" => Channel::Stderr,
            "error" => Channel::Error,
            "resize" => Channel::Resize,
            _ => return None,
        })
    }
}

/// What came from the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Bytes.
    Data(Channel, Bytes),
    /// No more of them.
    End(Channel),
}

/// The client of a command. Dropping `outgoing` closes the connection, after all that was sent.
pub struct Link {
    /// What comes from the client; ends when it goes.
    pub incoming: mpsc::Receiver<Incoming>,
    /// What goes to it.
    pub outgoing: mpsc::Sender<(Channel, Bytes)>,
    /// The version of the protocol: how the end is told.
    pub version: u8,
}

/// Channels as the first byte of WebSocket messages. An empty message on `first` tells the client that all is set up.
pub fn over_websocket<S>(io: S, protocol: &str, first: Channel) -> Link
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let base64 = protocol.contains("base64");
    let version = protocol.strip_prefix('v').and_then(|rest| rest.chars().next()).and_then(|digit| digit.to_digit(10));
    let version = version.unwrap_or(1) as u8;
    let (read, write) = tokio::io::split(io);
    let (tell, incoming) = mpsc::channel(QUEUE_MAX);
    let (outgoing, queued) = mpsc::channel(QUEUE_MAX);
    let (answer, answers) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(read_messages(read, tell, answer, base64));
    tokio::spawn(write_messages(write, queued, answers, base64, first));
    Link { incoming, outgoing, version }
}

async fn read_messages(
    mut io: impl AsyncRead + Unpin,
    tell: mpsc::Sender<Incoming>,
    answer: mpsc::Sender<Vec<u8>>,
    base64: bool,
) {
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0; 32 << 10]);
    loop {
        let length = match io.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        decoder.push(&buffer[..length]);
        loop {
            let heard = match decoder.take() {
                Ok(None) => break,
                Ok(Some(Message::Text(bytes) | Message::Binary(bytes))) => understood(&bytes, base64),
                Ok(Some(Message::Ping(bytes))) => {
                    let _ = answer.send(websocket::pong(&bytes)).await;
                    None
                }
                Ok(Some(Message::Pong)) => None,
                Ok(Some(Message::Close)) | Err(_) => return,
            };
            if let Some(heard) = heard
                && tell.send(heard).await.is_err()
            {
                // Nobody listens any more; the connection is read on so that the close is seen.
                continue;
            }
        }
    }
}

fn understood(message: &Bytes, base64: bool) -> Option<Incoming> {
    let number = *message.first()?;
    if base64 {
        let channel = Channel::of_number(number.checked_sub(b'0')?)?;
        let data = base64::engine::general_purpose::STANDARD.decode(&message[1..]).ok()?;
        return Some(Incoming::Data(channel, Bytes::from(data)));
    }
    // Version 5: 255 closes the channel named by the next byte.
    if number == 255 {
        return Channel::of_number(*message.get(1)?).map(Incoming::End);
    }
    Some(Incoming::Data(Channel::of_number(number)?, message.slice(1..)))
}

async fn write_messages(
    mut io: impl AsyncWrite + Unpin,
    mut queued: mpsc::Receiver<(Channel, Bytes)>,
    mut answers: mpsc::Receiver<Vec<u8>>,
    base64: bool,
    first: Channel,
) {
    if io.write_all(&packed(first, &[], base64)).await.is_err() || io.flush().await.is_err() {
        return;
    }
    loop {
        let bytes = tokio::select! {
            next = queued.recv() => match next {
                Some((channel, bytes)) => packed(channel, &bytes, base64),
                None => break,
            },
            Some(answer) = answers.recv() => answer,
        };
        if io.write_all(&bytes).await.is_err() || io.flush().await.is_err() {
            return;
        }
    }
    let _ = io.write_all(&websocket::encode(&Message::Close)).await;
    let _ = io.flush().await;
    // The reader ends when the client closes; until then the connection stays, or its last bytes might be lost.
    let _ = tokio::time::timeout(CLOSE_WAIT, async { while answers.recv().await.is_some() {} }).await;
    let _ = io.shutdown().await;
}

fn packed(channel: Channel, bytes: &[u8], base64: bool) -> Vec<u8> {
    if base64 {
        let mut text = vec![b'0' + channel.number()];
        text.extend(base64::engine::general_purpose::STANDARD.encode(bytes).bytes());
        return websocket::encode(&Message::Text(Bytes::from(text)));
    }
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel.number());
    message.extend_from_slice(bytes);
    websocket::encode(&Message::Binary(Bytes::from(message)))
}

/// Channels as SPDY streams; waits until the client opened those in `wanted`.
pub async fn over_spdy<S>(io: S, version: u8, wanted: &[Channel]) -> Option<Link>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut events, writer) = spdy::accept(io);
    let mut streams: BTreeMap<u32, Channel> = BTreeMap::new();
    let mut early = Vec::new();
    let opened = tokio::time::timeout(STREAMS_WAIT, async {
        while !wanted.iter().all(|channel| streams.values().any(|open| open == channel)) {
            match events.recv().await? {
                spdy::Event::Opened(id, headers) => {
                    let channel = headers.get("streamtype").and_then(|name| Channel::of_name(name));
                    writer.accept(id).await;
                    streams.extend(channel.map(|channel| (id, channel)));
                }
                other => early.push(other),
            }
        }
        Some(())
    });
    opened.await.ok().flatten()?;
    let (tell, incoming) = mpsc::channel(QUEUE_MAX);
    let (outgoing, mut queued) = mpsc::channel::<(Channel, Bytes)>(QUEUE_MAX);
    let by_channel: BTreeMap<Channel, u32> = streams.iter().map(|(id, channel)| (*channel, *id)).collect();
    tokio::spawn(async move {
        for event in early {
            pass_on(event, &streams, &tell).await;
        }
        while let Some(event) = events.recv().await {
            pass_on(event, &streams, &tell).await;
        }
    });
    tokio::spawn(async move {
        while let Some((channel, bytes)) = queued.recv().await {
            let Some(id) = by_channel.get(&channel) else { continue };
            if !writer.data(*id, bytes).await {
                return;
            }
        }
        for id in by_channel.values() {
            writer.end(*id).await;
        }
        writer.go_away().await;
    });
    Some(Link { incoming, outgoing, version })
}

async fn pass_on(event: spdy::Event, streams: &BTreeMap<u32, Channel>, tell: &mpsc::Sender<Incoming>) {
    let heard = match event {
        spdy::Event::Data(id, bytes) => streams.get(&id).map(|channel| Incoming::Data(*channel, bytes)),
        spdy::Event::Ended(id) => streams.get(&id).map(|channel| Incoming::End(*channel)),
        spdy::Event::Opened(..) => None,
    };
    if let Some(heard) = heard {
        let _ = tell.send(heard).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::websocket::tests::masked;
    use super::*;

    #[tokio::test]
    async fn websocket_messages_name_their_channel() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let mut link = over_websocket(ours, "v5.channel.k8s.io", Channel::Stdout);
        let wire = [masked(0x82, b"\0in"), masked(0x82, b"\x04{}"), masked(0x82, &[255, 0])].concat();
        theirs.write_all(&wire).await.expect("written");
        assert_eq!(link.incoming.recv().await, Some(Incoming::Data(Channel::Stdin, Bytes::from_static(b"in"))));
        assert_eq!(link.incoming.recv().await, Some(Incoming::Data(Channel::Resize, Bytes::from_static(b"{}"))));
        assert_eq!(link.incoming.recv().await, Some(Incoming::End(Channel::Stdin)));
        assert_eq!(link.version, 5);
        link.outgoing.send((Channel::Stdout, Bytes::from_static(b"out"))).await.expect("sent");
        drop(link);
        theirs.write_all(&masked(0x88, &[])).await.expect("written");
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.expect("read");
        assert!(answer.ends_with(&[&[0x82, 4, 1], &b"out"[..], &[0x88, 2, 3, 0xe8]].concat()), "{answer:?}");
    }

    #[tokio::test]
    async fn base64_messages_are_text() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let mut link = over_websocket(ours, "v4.base64.channel.k8s.io", Channel::Stdout);
        theirs.write_all(&masked(0x81, b"0aGk=")).await.expect("written");
        assert_eq!(link.incoming.recv().await, Some(Incoming::Data(Channel::Stdin, Bytes::from_static(b"hi"))));
    }

    #[tokio::test]
    async fn spdy_streams_name_their_channel() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (mut encoder, mut wire) = (spdy::Encoder::default(), Vec::new());
        for (id, name) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            let headers = [("streamtype".to_owned(), name.to_owned())].into();
            encoder.put(&spdy::Frame::SynStream { id, fin: false, headers }, &mut wire);
        }
        encoder.put(&spdy::Frame::Data { id: 3, fin: true, bytes: Bytes::from_static(b"in") }, &mut wire);
        theirs.write_all(&wire).await.expect("written");
        let wanted = [Channel::Error, Channel::Stdin, Channel::Stdout];
        let mut link = over_spdy(ours, 4, &wanted).await.expect("streams");
        assert_eq!(link.incoming.recv().await, Some(Incoming::Data(Channel::Stdin, Bytes::from_static(b"in"))));
        assert_eq!(link.incoming.recv().await, Some(Incoming::End(Channel::Stdin)));
    }
}
