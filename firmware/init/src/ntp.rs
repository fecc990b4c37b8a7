//! The time from those who know it, by SNTP: the servers of the settings, or those that DHCP names.
//!
//! Start at [`request`] and [`offset`], which are pure; [`ask`] sends and waits, [`next_pause`] says when again. See RFC 4330.
//!
//! Invariant: a server that does not know the time itself, or says a time before this image was made, is not believed.

use std::io;
use std::net::{ToSocketAddrs, UdpSocket};
use std::time::Duration;

use base::{Clock, Timestamp};

const PORT: u16 = 123;
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const BYTES: usize = 48;
/// Version 4, from a client.
const CLIENT: u8 = 0b00_100_011;
const FROM_SERVER: u8 = 4;
const UNSYNCHRONISED: u8 = 3;
const STRATUM_MAX: u8 = 15;
/// From 1900, where NTP begins, to 1970.
const TO_1970: i128 = 2_208_988_800;
/// NTP's seconds have 32 bits: those with the highest one clear are counted from 2036 on.
const ERA: i128 = 1 << 32;
const NANOS: i128 = 1_000_000_000;
/// A clock that is so near is left alone: stepping it would do more harm.
const NEAR: i128 = NANOS / 20;
/// Once the time is known, and while nobody tells it.
const PAUSE: Duration = Duration::from_secs(1800);
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// A question, and the mark by which its answer is known.
pub fn request(now: Timestamp) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[0] = CLIENT;
    bytes[40..].copy_from_slice(&to_ntp(now));
    bytes
}

/// By how many nanoseconds the clock is behind, from the question sent at `sent` and the answer that came at `came`; nothing
/// where it is no answer to it, or not one to be believed.
pub fn offset(question: &[u8; BYTES], answer: &[u8], sent: Timestamp, came: Timestamp) -> Option<i128> {
    let mark = &question[40..];
    let (mode, leap, stratum) = (answer.first()? & 7, answer.first()? >> 6, *answer.get(1)?);
    let sound = mode == FROM_SERVER && leap != UNSYNCHRONISED && (1..=STRATUM_MAX).contains(&stratum);
    if !sound || answer.get(24..32)? != mark {
        return None;
    }
    let (heard, told) = (from_ntp(answer.get(32..40)?)?, from_ntp(answer.get(40..48)?)?);
    Some(((heard - sent.0) + (told - came.0)) / 2)
}

fn to_ntp(time: Timestamp) -> [u8; 8] {
    let seconds = (time.0.div_euclid(NANOS) + TO_1970).rem_euclid(ERA) as u32;
    let fraction = ((time.0.rem_euclid(NANOS) << 32) / NANOS) as u32;
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&seconds.to_be_bytes());
    bytes[4..].copy_from_slice(&fraction.to_be_bytes());
    bytes
}

/// Nanoseconds since 1970; nothing where the server says nothing.
fn from_ntp(bytes: &[u8]) -> Option<i128> {
    let word = |at: usize| Some(i128::from(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?)));
    let (seconds, fraction) = (word(0)?, word(4)?);
    if (seconds, fraction) == (0, 0) {
        return None;
    }
    let era = if seconds < ERA / 2 { ERA } else { 0 };
    Some((seconds + era - TO_1970) * NANOS + ((fraction * NANOS) >> 32))
}

/// Whether the clock is as right as it need be.
pub fn is_near(offset: i128) -> bool {
    offset.abs() <= NEAR
}

/// Whether the clock is to be set to this time, being off by `offset`; never before `floor`.
pub fn is_worth(now: Timestamp, offset: i128, floor: u64) -> bool {
    !is_near(offset) && now.0 + offset >= i128::from(floor) * NANOS
}

/// When to ask again, after a pause of `last` and an answer or none.
pub fn next_pause(answered: bool, last: Duration) -> Duration {
    match (answered, last) {
        (true, _) => PAUSE,
        (false, PAUSE) => PAUSE_MIN,
        (false, _) => (last * 2).clamp(PAUSE_MIN, PAUSE_MAX),
    }
}

/// Asks one server; by how many nanoseconds the clock is behind.
pub fn ask(server: &str, clock: &dyn Clock) -> io::Result<i128> {
    ask_at(server, PORT, clock)
}

fn ask_at(server: &str, port: u16, clock: &dyn Clock) -> io::Result<i128> {
    let address = (server, port).to_socket_addrs()?.find(|address| address.is_ipv4());
    let address = address.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no address"))?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    socket.connect(address)?;
    let sent = clock.now();
    let question = request(sent);
    socket.send(&question)?;
    let mut answer = [0; 512];
    let count = socket.recv(&mut answer)?;
    let found = offset(&question, &answer[..count], sent, clock.now());
    found.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "its answer is none, or it does not know the time itself")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::SystemClock;

    fn s(seconds: i128) -> Timestamp {
        Timestamp(seconds * NANOS)
    }

    /// The answer of a server whose clock says `theirs`, to a question asked at `sent`.
    fn answer(sent: Timestamp, theirs: Timestamp) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..2].copy_from_slice(&[0b00_100_100, 2]);
        bytes[24..32].copy_from_slice(&to_ntp(sent));
        bytes[32..40].copy_from_slice(&to_ntp(theirs));
        bytes[40..].copy_from_slice(&to_ntp(theirs));
        bytes
    }

    fn check(change: impl Fn(&mut [u8; BYTES]), expected: Option<i128>) {
        let (sent, came) = (s(1_700_000_000), s(1_700_000_002));
        let mut bytes = answer(sent, s(1_700_000_101));
        change(&mut bytes);
        assert_eq!(offset(&request(sent), &bytes, sent, came).map(|nanos| nanos / NANOS), expected);
    }

    #[test]
    fn the_way_there_and_back_counts_half() {
        check(|_| {}, Some(100));
    }

    #[test]
    fn who_does_not_know_the_time_is_not_believed() {
        check(|bytes| bytes[0] |= 0b11_000_000, None);
        check(|bytes| bytes[1] = 0, None);
        check(|bytes| bytes[1] = 16, None);
        check(|bytes| bytes[40..].fill(0), None);
        check(|bytes| bytes[0] = CLIENT, None);
        check(|bytes| bytes[31] ^= 1, None);
        let question = request(s(0));
        for length in 0..BYTES {
            assert_eq!(offset(&question, &answer(s(0), s(9))[..length], s(0), s(0)), None);
        }
    }

    #[test]
    fn the_count_that_begins_anew_in_2036_is_understood() {
        for time in [s(2_085_978_495), s(2_085_978_497), s(4_000_000_000)] {
            assert_eq!(from_ntp(&to_ntp(time)), Some(time.0));
        }
    }

    #[test]
    fn a_clock_that_is_near_is_left_alone_and_the_past_is_not_believed() {
        assert!(!is_worth(s(1000), NANOS / 100, 0));
        assert!(is_worth(s(1000), NANOS, 0) && is_worth(s(1000), -NANOS, 0));
        assert!(!is_worth(s(1000), -NANOS, 1000));
    }

    #[test]
    fn who_does_not_answer_is_asked_more_and_more_seldom() {
        let mut pauses = vec![Duration::ZERO];
        for _ in 0..8 {
            pauses.push(next_pause(false, *pauses.last().unwrap()));
        }
        let seconds: Vec<u64> = pauses.iter().skip(1).map(Duration::as_secs).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!((next_pause(true, PAUSE_MAX), next_pause(false, PAUSE)), (PAUSE, PAUSE_MIN));
    }

    #[test]
    fn a_server_on_the_network_is_asked() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let serving = std::thread::spawn(move || {
            let mut question = [0; BYTES];
            let (_, from) = server.recv_from(&mut question).unwrap();
            let sent = Timestamp(from_ntp(&question[40..]).unwrap());
            let mut bytes = answer(sent, Timestamp(SystemClock.now().0 + 3600 * NANOS));
            bytes[24..32].copy_from_slice(&question[40..]);
            server.send_to(&bytes, from).unwrap();
        });
        let behind = ask_at("127.0.0.1", port, &SystemClock).unwrap();
        serving.join().unwrap();
        assert!((behind - 3600 * NANOS).abs() < 60 * NANOS, "{behind}");
    }
}
