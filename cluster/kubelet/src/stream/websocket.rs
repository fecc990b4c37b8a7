//! WebSocket (RFC 6455), the server's side: what `kubectl exec`, `attach` and `port-forward` speak first.
//!
//! Start at [`answer_key`] for the handshake, [`Decoder`] and [`encode`] for frames, [`choose`] for the subprotocol.
//!
//! Invariants:
//! * frames of a client are masked, ours are not;
//! * no message is larger than [`MESSAGE_BYTES_MAX`].
//!
//! Not here: what messages mean (`remote`, `forward`).

use base64::Engine;
use bytes::{Buf, Bytes, BytesMut};

/// The largest message taken.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Subprotocols of exec and attach, the best first.
pub const COMMAND_PROTOCOLS: [&str; 8] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
/// Subprotocols of port-forward, the best first.
pub const FORWARD_PROTOCOLS: [&str; 4] =
    ["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];

/// The value of `Sec-WebSocket-Accept` for a client's key.
pub fn answer_key(key: &str) -> String {
    const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// The first of our subprotocols the client offers; an empty offer gets the unnamed one.
pub fn choose(offered: &str, ours: &[&'static str]) -> Option<&'static str> {
    let offered: Vec<&str> = offered.split(',').map(str::trim).collect();
    ours.iter().find(|protocol| offered.contains(protocol)).copied()
}

/// A whole message or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(Bytes),
    /// Bytes.
    Binary(Bytes),
    /// Wants an answer with the same bytes.
    Ping(Bytes),
    /// An answer.
    Pong,
    /// The end.
    Close,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("the peer's WebSocket frames cannot be read: {0}")]
pub struct WebSocketError(&'static str);

/// Bytes in, messages out.
#[derive(Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// The first frame's kind and the bytes so far of a message in several frames.
    partial: Option<(u8, BytesMut)>,
}

impl Decoder {
    /// Takes what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub fn take(&mut self) -> Result<Option<Message>, WebSocketError> {
        loop {
            let Some((fin, opcode, payload)) = self.frame()? else { return Ok(None) };
            match opcode {
                0x8 => return Ok(Some(Message::Close)),
                0x9 => return Ok(Some(Message::Ping(payload.freeze()))),
                0xa => return Ok(Some(Message::Pong)),
                0x0 => {
                    let (_, so_far) = self.partial.as_mut().ok_or(WebSocketError("a continuation of nothing"))?;
                    so_far.extend_from_slice(&payload);
                    if so_far.len() > MESSAGE_BYTES_MAX {
                        return Err(WebSocketError("a message is too large"));
                    }
                }
                0x1 | 0x2 if self.partial.is_none() => self.partial = Some((opcode, payload)),
                _ => return Err(WebSocketError("an unknown or unexpected kind of frame")),
            }
            if fin && let Some((opcode, all)) = self.partial.take() {
                let all = all.freeze();
                return Ok(Some(if opcode == 1 { Message::Text(all) } else { Message::Binary(all) }));
            }
        }
    }

    fn frame(&mut self) -> Result<Option<(bool, u8, BytesMut)>, WebSocketError> {
        let buffer = &self.buffer;
        if buffer.len() < 2 {
            return Ok(None);
        }
        if buffer[0] & 0x70 != 0 {
            return Err(WebSocketError("an extension nobody asked for"));
        }
        if buffer[1] & 0x80 == 0 {
            return Err(WebSocketError("a frame without a mask"));
        }
        let (fin, opcode) = (buffer[0] & 0x80 != 0, buffer[0] & 0x0f);
        let (length, head) = match buffer[1] & 0x7f {
            126 if buffer.len() < 4 => return Ok(None),
            126 => (usize::from(u16::from_be_bytes([buffer[2], buffer[3]])), 4),
            127 if buffer.len() < 10 => return Ok(None),
            127 => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&buffer[2..10]);
                (usize::try_from(u64::from_be_bytes(bytes)).unwrap_or(usize::MAX), 10)
            }
            short => (usize::from(short), 2),
        };
        if length > MESSAGE_BYTES_MAX || opcode >= 8 && (length > 125 || !fin) {
            return Err(WebSocketError("a frame is too large"));
        }
        if buffer.len() < head + 4 + length {
            return Ok(None);
        }
        self.buffer.advance(head);
        let mask = [self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]];
        self.buffer.advance(4);
        let mut payload = self.buffer.split_to(length);
        payload.iter_mut().enumerate().for_each(|(index, byte)| *byte ^= mask[index % 4]);
        Ok(Some((fin, opcode, payload)))
    }
}

/// A message as one frame.
pub fn encode(message: &Message) -> Vec<u8> {
    let (opcode, payload): (u8, &[u8]) = match message {
        Message::Text(bytes) => (1, bytes),
        Message::Binary(bytes) => (2, bytes),
        Message::Ping(bytes) => (9, bytes),
        Message::Pong => (10, &[]),
        // 1000: all went well.
        Message::Close => (8, &[0x03, 0xe8]),
    };
    frame(opcode, payload)
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    frame(10, payload)
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..126 => out.push(length as u8),
        length @ 126..0x1_0000 => {
            out.push(126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame as a client sends it.
    pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            length @ 0..126 => out.push(0x80 | length as u8),
            length => {
                out.push(0x80 | 126);
                out.extend((length as u16).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        out.extend(mask);
        out.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
        out
    }

    #[test]
    fn the_handshake_is_that_of_the_rfc() {
        assert_eq!(answer_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn subprotocols_are_chosen_by_our_order() {
        assert_eq!(choose("v4.channel.k8s.io, v5.channel.k8s.io", &COMMAND_PROTOCOLS), Some("v5.channel.k8s.io"));
        assert_eq!(choose("", &COMMAND_PROTOCOLS), Some(""));
        assert_eq!(choose("x", &COMMAND_PROTOCOLS), None);
        assert_eq!(choose("SPDY/3.1+portforward.k8s.io", &FORWARD_PROTOCOLS), Some("SPDY/3.1+portforward.k8s.io"));
    }

    #[test]
    fn messages_arrive_in_any_pieces() {
        let long = vec![7; 300];
        let wire = [
            masked(0x82, b"\0hi"),
            masked(0x02, b"ab"),
            masked(0x89, b"p"),
            masked(0x80, b"cd"),
            masked(0x82, &long),
            masked(0x81, b"t"),
            masked(0x88, &[]),
        ]
        .concat();
        let wanted = [
            Message::Binary(Bytes::from_static(b"\0hi")),
            Message::Ping(Bytes::from_static(b"p")),
            Message::Binary(Bytes::from_static(b"abcd")),
            Message::Binary(Bytes::from(long)),
            Message::Text(Bytes::from_static(b"t")),
            Message::Close,
        ];
        for size in [1, 3, 1000] {
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for piece in wire.chunks(size) {
                decoder.push(piece);
                while let Some(message) = decoder.take().expect("messages") {
                    found.push(message);
                }
            }
            assert_eq!(found, wanted, "in pieces of {size}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for wire in [
            vec![0x82, 1, 0],
            masked(0xc2, b"x"),
            masked(0x80, b"x"),
            masked(0x83, b"x"),
            vec![0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let mut decoder = Decoder::default();
            decoder.push(&wire);
            assert!(decoder.take().is_err(), "{wire:?}");
        }
    }

    #[test]
    fn lengths_take_the_shortest_form() {
        for (length, head) in [(125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            assert_eq!(encode(&Message::Binary(Bytes::from(vec![0; length]))).len(), length + head);
        }
    }
}
