//! SPDY/3.1, the server's side: as much as `kubectl exec`, `attach` and `port-forward` of any age speak.
//!
//! Start at [`accept`], which turns a connection into [`Event`]s and a [`Writer`]. [`Decoder`] and [`Encoder`] are the codec:
//! bytes in, frames out, and back.
//!
//! Invariants:
//! * header blocks of one direction share one compression context, in the order of the frames;
//! * no frame is larger than [`FRAME_BYTES_MAX`]; a peer that sends a larger one is cut off.
//!
//! Windows: what is consumed is given back, for peers that count. What is sent is not counted: moby/spdystream, which every
//! Kubernetes client uses, never sends a WINDOW_UPDATE (seen in v0.5), and waiting for one would stop all output at 64 KiB.
//!
//! Not here: what streams mean (`remote`, `forward`).

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// The largest frame taken.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The largest header block, unpacked.
const HEADERS_BYTES_MAX: usize = 64 << 10;
/// The largest data frame sent.
const DATA_BYTES_MAX: usize = 32 << 10;
/// Frames that wait, each way.
const QUEUE_MAX: usize = 64;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;

/// The words both sides begin compression with (SPDY/3, section 2.6.10.1), each with its length before it, ...
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// ... and the text after them.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
    Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
    Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, \
    GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
    publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut all = Vec::new();
    for word in WORDS.split_whitespace() {
        all.put_u32(word.len() as u32);
        all.extend(word.replace('_', " ").bytes());
    }
    all.extend(TEXT.bytes());
    all
}

/// Headers, by lower-case name.
pub type Headers = BTreeMap<String, String>;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Its id.
        id: u32,
        /// No data will follow from the opener.
        fin: bool,
        /// What it is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// Its id.
        id: u32,
        /// Headers.
        headers: Headers,
    },
    /// Ends a stream both ways.
    Reset {
        /// Its id.
        id: u32,
        /// Why.
        status: u32,
    },
    /// Asks for an answer, or answers.
    Ping(u32),
    /// No more streams.
    GoAway(u32),
    /// More may be sent.
    Window {
        /// The stream; 0 is the connection.
        id: u32,
        /// So much more.
        delta: u32,
    },
    /// Data of a stream.
    Data {
        /// The stream.
        id: u32,
        /// Nothing more follows.
        fin: bool,
        /// The bytes.
        bytes: Bytes,
    },
    /// Anything that is read and means nothing here.
    Other,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    /// The peer does not speak SPDY/3.1.
    #[error("the peer's SPDY frames cannot be read: {0}")]
    Malformed(&'static str),
}

/// Bytes in, frames out.
pub struct Decoder {
    buffer: BytesMut,
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { buffer: BytesMut::new(), inflate: Decompress::new(true) }
    }
}

impl Decoder {
    /// Takes what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub fn take(&mut self) -> Result<Option<Frame>, SpdyError> {
        if self.buffer.len() < 8 {
            return Ok(None);
        }
        let head = u32::from_be_bytes([self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]]);
        let flags = self.buffer[4];
        let length = usize::from(self.buffer[5]) << 16 | usize::from(self.buffer[6]) << 8 | usize::from(self.buffer[7]);
        if length > FRAME_BYTES_MAX {
            return Err(SpdyError::Malformed("a frame is too large"));
        }
        if self.buffer.len() < 8 + length {
            return Ok(None);
        }
        self.buffer.advance(8);
        let body = self.buffer.split_to(length).freeze();
        if head >> 31 == 0 {
            return Ok(Some(Frame::Data { id: head, fin: flags & FLAG_FIN != 0, bytes: body }));
        }
        if (head >> 16) as u16 & 0x7fff != VERSION {
            return Err(SpdyError::Malformed("the version is not 3"));
        }
        self.control(head as u16, flags, body).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, SpdyError> {
        let need = |body: &Bytes, length: usize| {
            if body.len() < length { Err(SpdyError::Malformed("a control frame is too short")) } else { Ok(()) }
        };
        Ok(match kind {
            1 => {
                need(&body, 10)?;
                let id = body.get_u32() & 0x7fff_ffff;
                body.advance(6);
                Frame::SynStream { id, fin: flags & FLAG_FIN != 0, headers: self.headers(&body)? }
            }
            2 => {
                need(&body, 4)?;
                let id = body.get_u32() & 0x7fff_ffff;
                Frame::SynReply { id, headers: self.headers(&body)? }
            }
            3 => {
                need(&body, 8)?;
                Frame::Reset { id: body.get_u32() & 0x7fff_ffff, status: body.get_u32() }
            }
            6 => {
                need(&body, 4)?;
                Frame::Ping(body.get_u32())
            }
            7 => {
                need(&body, 4)?;
                Frame::GoAway(body.get_u32() & 0x7fff_ffff)
            }
            8 => {
                // Late headers mean nothing here, but their bytes belong to the compression context.
                need(&body, 4)?;
                body.advance(4);
                self.headers(&body)?;
                Frame::Other
            }
            9 => {
                need(&body, 8)?;
                Frame::Window { id: body.get_u32() & 0x7fff_ffff, delta: body.get_u32() & 0x7fff_ffff }
            }
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        const BAD: SpdyError = SpdyError::Malformed("a header block cannot be unpacked");
        let (mut out, mut input) = (Vec::with_capacity(1024), packed);
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), out.len());
            let unpacked = self.inflate.decompress_vec(input, &mut out, FlushDecompress::Sync);
            input = &input[(self.inflate.total_in() - before_in) as usize..];
            match unpacked {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary()).map_err(|_| BAD)?;
                }
                Err(_) => return Err(BAD),
                Ok(Status::StreamEnd) => break,
                Ok(_) if input.is_empty() && out.len() < out.capacity() => break,
                Ok(_) if out.len() > HEADERS_BYTES_MAX => {
                    return Err(SpdyError::Malformed("a header block is too large"));
                }
                Ok(_) if out.len() == out.capacity() => out.reserve(1024),
                Ok(_) if out.len() == before_out && self.inflate.total_in() == before_in => break,
                Ok(_) => {}
            }
        }
        parse_headers(&out).ok_or(BAD)
    }
}

fn parse_headers(mut block: &[u8]) -> Option<Headers> {
    let number = |block: &mut &[u8]| -> Option<usize> { (block.len() >= 4).then(|| block.get_u32() as usize) };
    let text = |block: &mut &[u8]| -> Option<String> {
        let length = number(block).filter(|length| *length <= block.len())?;
        let (text, rest) = block.split_at(length);
        *block = rest;
        String::from_utf8(text.to_vec()).ok()
    };
    let mut headers = Headers::new();
    let count = (block.len() >= 4).then(|| block.get_u32())?;
    for _ in 0..count {
        let name = text(&mut block)?;
        let value = text(&mut block)?;
        headers.insert(name.to_lowercase(), value);
    }
    Some(headers)
}

/// Frames in, bytes out.
pub struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Encoder {
        let mut deflate = Compress::new(Compression::default(), true);
        // Fails only after data was packed.
        deflate.set_dictionary(&dictionary()).expect("a fresh compressor takes a dictionary");
        Encoder { deflate }
    }
}

impl Encoder {
    /// Appends a frame.
    pub fn put(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        match frame {
            Frame::Data { id, fin, bytes } => {
                out.put_u32(id & 0x7fff_ffff);
                out.put_u32(u32::from(u8::from(*fin)) << 24 | bytes.len() as u32);
                out.extend_from_slice(bytes);
            }
            Frame::SynStream { id, fin, headers } => {
                let mut body = Vec::new();
                body.put_u32(*id);
                body.extend([0; 6]);
                body.extend(self.headers(headers));
                control(out, 1, u8::from(*fin), &body);
            }
            Frame::SynReply { id, headers } => {
                let mut body = id.to_be_bytes().to_vec();
                body.extend(self.headers(headers));
                control(out, 2, 0, &body);
            }
            Frame::Reset { id, status } => control(out, 3, 0, &[id.to_be_bytes(), status.to_be_bytes()].concat()),
            Frame::Ping(id) => control(out, 6, 0, &id.to_be_bytes()),
            Frame::GoAway(last) => control(out, 7, 0, &[last.to_be_bytes(), [0; 4]].concat()),
            Frame::Window { id, delta } => control(out, 9, 0, &[id.to_be_bytes(), delta.to_be_bytes()].concat()),
            Frame::Other => {}
        }
    }

    fn headers(&mut self, headers: &Headers) -> Vec<u8> {
        let mut block = Vec::new();
        block.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name, value] {
                block.put_u32(text.len() as u32);
                block.extend(text.bytes());
            }
        }
        let (mut packed, mut input) = (Vec::with_capacity(block.len() + 256), block.as_slice());
        loop {
            let before = self.deflate.total_in();
            // Memory was reserved and the state is good: packing cannot fail.
            let _ = self.deflate.compress_vec(input, &mut packed, FlushCompress::Sync);
            input = &input[(self.deflate.total_in() - before) as usize..];
            if input.is_empty() && packed.len() < packed.capacity() {
                return packed;
            }
            packed.reserve(256);
        }
    }
}

fn control(out: &mut Vec<u8>, kind: u16, flags: u8, body: &[u8]) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | body.len() as u32);
    out.extend_from_slice(body);
}

/// What the peer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It opened a stream.
    Opened(u32, Headers),
    /// It sent data.
    Data(u32, Bytes),
    /// It will send no more on a stream.
    Ended(u32),
}

/// The way to the peer.
#[derive(Clone)]
pub struct Writer(mpsc::Sender<Frame>);

impl Writer {
    /// Accepts a stream.
    pub async fn accept(&self, id: u32) {
        let _ = self.0.send(Frame::SynReply { id, headers: Headers::new() }).await;
    }

    /// Sends data. Says whether the connection still stands.
    pub async fn data(&self, id: u32, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(DATA_BYTES_MAX));
            if self.0.send(Frame::Data { id, fin: false, bytes: part }).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Says that no more data follows.
    pub async fn end(&self, id: u32) {
        let _ = self.0.send(Frame::Data { id, fin: true, bytes: Bytes::new() }).await;
    }

    /// Refuses or breaks off a stream.
    pub async fn reset(&self, id: u32) {
        const CANCEL: u32 = 5;
        let _ = self.0.send(Frame::Reset { id, status: CANCEL }).await;
    }

    /// Says that this is the end.
    pub async fn go_away(&self) {
        let _ = self.0.send(Frame::GoAway(0)).await;
    }
}

/// Serves a connection in two tasks that end with it. Events end when the peer goes.
pub fn accept<S>(io: S) -> (mpsc::Receiver<Event>, Writer)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let (events, heard) = mpsc::channel(QUEUE_MAX);
    let (frames, queued) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(write_frames(write, queued));
    // The reader answers pings and windows, but must not keep the connection open on its own.
    tokio::spawn(read_frames(read, events, frames.downgrade()));
    (heard, Writer(frames))
}

async fn write_frames(mut io: impl AsyncWrite + Unpin, mut queued: mpsc::Receiver<Frame>) {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    while let Some(frame) = queued.recv().await {
        out.clear();
        encoder.put(&frame, &mut out);
        while out.len() < DATA_BYTES_MAX
            && let Ok(frame) = queued.try_recv()
        {
            encoder.put(&frame, &mut out);
        }
        if io.write_all(&out).await.is_err() || io.flush().await.is_err() {
            return;
        }
    }
    let _ = io.shutdown().await;
}

async fn read_frames(mut io: impl AsyncRead + Unpin, events: mpsc::Sender<Event>, frames: mpsc::WeakSender<Frame>) {
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0; 32 << 10]);
    loop {
        let length = match io.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        decoder.push(&buffer[..length]);
        loop {
            match decoder.take() {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    if !heard(frame, &events, &frames).await {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a streaming connection is cut off");
                    return;
                }
            }
        }
    }
}

async fn heard(frame: Frame, events: &mpsc::Sender<Event>, frames: &mpsc::WeakSender<Frame>) -> bool {
    let answer = async |frame: Frame| {
        if let Some(frames) = frames.upgrade() {
            let _ = frames.send(frame).await;
        }
    };
    let tell = async |event: Event| events.send(event).await.is_ok();
    match frame {
        Frame::SynStream { id, fin, headers } => {
            tell(Event::Opened(id, headers)).await && (!fin || tell(Event::Ended(id)).await)
        }
        Frame::Data { id, fin, bytes } => {
            let delta = bytes.len() as u32;
            if delta > 0 {
                if !tell(Event::Data(id, bytes)).await {
                    return false;
                }
                answer(Frame::Window { id, delta }).await;
                answer(Frame::Window { id: 0, delta }).await;
            }
            !fin || tell(Event::Ended(id)).await
        }
        Frame::Reset { id, .. } => tell(Event::Ended(id)).await,
        // Odd ids are the client's pings; even ones would be answers to ours.
        Frame::Ping(id) => {
            if id % 2 == 1 {
                answer(Frame::Ping(id)).await;
            }
            true
        }
        Frame::GoAway(_) | Frame::SynReply { .. } | Frame::Window { .. } | Frame::Other => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_specification() {
        let dictionary = dictionary();
        let (mut low, mut high) = (1u32, 0u32);
        for byte in &dictionary {
            low = (low + u32::from(*byte)) % 65521;
            high = (high + low) % 65521;
        }
        assert_eq!((dictionary.len(), high << 16 | low), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn frames_survive_the_wire_in_any_pieces() {
        let frames = [
            Frame::SynStream { id: 1, fin: false, headers: headers(&[("streamtype", "stdin"), ("port", "80")]) },
            Frame::SynStream { id: 3, fin: true, headers: headers(&[("streamtype", "error")]) },
            Frame::SynReply { id: 1, headers: Headers::new() },
            Frame::Data { id: 1, fin: false, bytes: Bytes::from_static(b"hello") },
            Frame::Data { id: 1, fin: true, bytes: Bytes::new() },
            Frame::Ping(7),
            Frame::Window { id: 1, delta: 5 },
            Frame::Reset { id: 3, status: 5 },
            Frame::SynStream { id: 5, fin: false, headers: headers(&[("streamtype", &"x".repeat(5000))]) },
            Frame::GoAway(5),
        ];
        let (mut encoder, mut wire) = (Encoder::default(), Vec::new());
        frames.iter().for_each(|frame| encoder.put(frame, &mut wire));
        for size in [1, 7, 100, 100_000] {
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for piece in wire.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.take().expect("frames") {
                    found.push(frame);
                }
            }
            assert_eq!(found, frames, "in pieces of {size}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for wire in [
            vec![0x80, 2, 0, 1, 0, 0, 0, 0],
            vec![0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0],
            vec![0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
            [vec![0x80, 3, 0, 1, 0, 0, 0, 14], vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0], vec![1, 2, 3, 4]].concat(),
        ] {
            let mut decoder = Decoder::default();
            decoder.push(&wire);
            assert!(decoder.take().is_err(), "{wire:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_opens_streams_and_answers() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (mut events, writer) = accept(ours);
        let (mut encoder, mut wire) = (Encoder::default(), Vec::new());
        let opening = headers(&[("streamtype", "data")]);
        encoder.put(&Frame::SynStream { id: 1, fin: false, headers: opening.clone() }, &mut wire);
        encoder.put(&Frame::Ping(1), &mut wire);
        encoder.put(&Frame::Data { id: 1, fin: true, bytes: Bytes::from_static(b"abc") }, &mut wire);
        theirs.write_all(&wire).await.expect("written");
        assert_eq!(events.recv().await, Some(Event::Opened(1, opening)));
        assert_eq!(events.recv().await, Some(Event::Data(1, Bytes::from_static(b"abc"))));
        assert_eq!(events.recv().await, Some(Event::Ended(1)));
        writer.accept(1).await;
        writer.data(1, Bytes::from_static(b"answer")).await;
        writer.end(1).await;
        drop(writer);
        let (mut decoder, mut answer, mut found) = (Decoder::default(), Vec::new(), Vec::new());
        theirs.read_to_end(&mut answer).await.expect("read");
        decoder.push(&answer);
        while let Some(frame) = decoder.take().expect("frames") {
            found.push(frame);
        }
        assert!(found.contains(&Frame::Ping(1)) && found.contains(&Frame::Window { id: 1, delta: 3 }));
        assert!(found.contains(&Frame::Data { id: 1, fin: false, bytes: Bytes::from_static(b"answer") }));
        theirs.shutdown().await.expect("closed");
        drop(theirs);
        assert_eq!(events.recv().await, None);
    }
}
