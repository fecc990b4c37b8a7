//! What a board of the demonstration meets on its way out: a server that tells the time, and a registry's mirror.
//!
//! Start at [`Neighbours::settle`]. QEMU's user network leads to this machine's loopback: [`AT`] is where a board finds both.
//!
//! Not here: images. The mirror has none; it tells what it was asked for.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::thread::spawn;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Answer;

/// This machine, as a board sees it.
pub(super) const AT: &str = "10.0.2.2";
const NTP: u16 = 123;
/// RFC 4330: a server's answer of version 4, at stratum 2.
const ANSWER: [u8; 2] = [0b00_100_100, 2];
const QUESTION_BYTES: usize = 48;
/// From 1900, where NTP begins, to 1970.
const TO_1970: u64 = 2_208_988_800;

/// Both; they end with the program.
pub(super) struct Neighbours {
    mirror: u16,
    asked: Receiver<String>,
}

impl Neighbours {
    /// One tells a time that is so many seconds ahead of this machine's.
    pub(super) fn settle(ahead: u64) -> Answer<Neighbours> {
        let clock = UdpSocket::bind((Ipv4Addr::LOCALHOST, NTP));
        let clock = clock.map_err(|error| format!("port {NTP}, which wants root, cannot be had: {error}"))?;
        let mirror = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| format!("no port: {error}"))?;
        let port = mirror.local_addr().map_err(|error| error.to_string())?.port();
        let (tell, asked) = channel();
        spawn(move || tell_time(&clock, ahead));
        spawn(move || {
            mirror
                .incoming()
                .flatten()
                .filter_map(|stream| has_nothing(stream).ok())
                .try_for_each(|path| tell.send(path))
        });
        Ok(Neighbours { mirror: port, asked })
    }

    /// The mirror's address, as a board's settings say it.
    pub(super) fn mirror(&self) -> String {
        format!("http://{AT}:{}", self.mirror)
    }

    /// Whether the mirror has been asked for a path that contains this, since it was asked the last time.
    pub(super) fn was_asked(&self, path: &str) -> bool {
        self.asked.try_iter().any(|asked| asked.contains(path))
    }
}

fn tell_time(clock: &UdpSocket, ahead: u64) {
    let mut question = [0; QUESTION_BYTES];
    while let Ok((count, from)) = clock.recv_from(&mut question) {
        if count == QUESTION_BYTES {
            // Who has gone asks again.
            let _gone = clock.send_to(&answer(&question, now() + ahead), from);
        }
    }
}

/// The question's own time comes back as its mark.
fn answer(question: &[u8; QUESTION_BYTES], now: u64) -> [u8; QUESTION_BYTES] {
    let mut bytes = [0; QUESTION_BYTES];
    bytes[..2].copy_from_slice(&ANSWER);
    bytes[24..32].copy_from_slice(&question[40..]);
    for at in [32, 40] {
        // Its seconds have 32 bits, and begin again in 2036.
        bytes[at..at + 4].copy_from_slice(&((now + TO_1970) as u32).to_be_bytes());
    }
    bytes
}

/// The clock of this machine, in seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn has_nothing(mut stream: TcpStream) -> std::io::Result<String> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_the_time_and_whose_question_it_is() {
        let mut question = [0; QUESTION_BYTES];
        question[40..].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let bytes = answer(&question, 1_700_000_000);
        assert_eq!(bytes[24..32], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[40..44], 3_908_988_800_u32.to_be_bytes());
        assert_eq!((bytes[0] & 7, bytes[1]), (4, 2));
    }
}
