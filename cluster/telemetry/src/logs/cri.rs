//! Lines of the CRI's log format: `2026-11-23T20:00:00.000000000Z stdout F text`.
//!
//! Start at [`parse`]; [`lines`] cuts bytes. The node's kernel log is brought into the same form, with `kernel` in place of
//! the stream.

use std::io::BufRead;

use base::Timestamp;

/// Where a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The container's output.
    Stdout,
    /// Its error output.
    Stderr,
    /// The kernel's log.
    Kernel,
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, in nanoseconds since 1970.
    pub time: i64,
    /// Where to.
    pub stream: Stream,
    /// The text goes on in the next line.
    pub partial: bool,
    /// The text, without the newline.
    pub text: &'a [u8],
}

impl Stream {
    /// As the format writes it.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Kernel => "kernel",
        }
    }
}

/// Reads one line, without its newline.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
    let text = parts.next().unwrap_or_default();
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        b"kernel" => Stream::Kernel,
        _ => return None,
    };
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(Line { time: nanos(std::str::from_utf8(time).ok()?.parse().ok()?), stream, partial, text })
}

/// Reads a line of any log: one that is not of this format is text, written when it says at its begin, or at `time`.
pub fn read(line: &[u8], time: i64) -> Line<'_> {
    let first =
        || line.split(|byte| *byte == b' ').next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    parse(line).unwrap_or_else(|| {
        let time = first().map_or(time, nanos);
        Line { time, stream: Stream::Stdout, partial: false, text: line }
    })
}

/// A moment as the store counts it.
pub fn nanos(time: Timestamp) -> i64 {
    // Years beyond 2262 do not occur; a clock that says so is cut off there.
    time.0.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// The lines of some bytes, without their newlines, and where each begins. Bytes behind the last newline are no line yet.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        // It looks at many bytes at a time; memory has no errors.
        let taken = (&bytes[at..]).skip_until(b'\n').ok()?;
        let line = (at, bytes[at..at + taken].strip_suffix(b"\n")?);
        at += taken;
        Some(line)
    })
}

/// The time a container's line begins with, as the keeper writes it: such times sort as text. `None` for other lines.
pub(crate) fn stamp(line: &[u8]) -> Option<&[u8]> {
    const FORM: &[u8] = b"0000-00-00T00:00:00.000000000Z ";
    let begin = line.get(..FORM.len())?;
    let fits = |(is, form): (&u8, &u8)| if *form == b'0' { is.is_ascii_digit() } else { is == form };
    begin.iter().zip(FORM).all(fits).then(|| &begin[..FORM.len() - 1])
}

/// How many of these bytes are whole lines.
pub fn whole(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1)
}

/// The last of these whole lines, with its newline.
pub fn last_line(bytes: &[u8]) -> &[u8] {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let begin = body.iter().rposition(|byte| *byte == b'\n').map_or(0, |before| before + 1);
    &bytes[begin..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<(i64, &str, bool, &str)>) {
        let found = parse(line.as_bytes());
        let found = found
            .map(|line| (line.time, line.stream.name(), line.partial, std::str::from_utf8(line.text).expect("text")));
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn lines_are_read() {
        check("1970-01-01T00:00:01.000000002Z stdout F a b", Some((1_000_000_002, "stdout", false, "a b")));
        check("1970-01-01T00:00:00.5Z stderr P ", Some((500_000_000, "stderr", true, "")));
        check("1970-01-01T01:00:00+01:00 stdout F x", Some((0, "stdout", false, "x")));
        check("1970-01-01T00:00:00Z kernel F", Some((0, "kernel", false, "")));
        check("1970-01-01T00:00:00Z stdout P:tag x", Some((0, "stdout", true, "x")));
        check("yesterday stdout F x", None);
        check("1970-01-01T00:00:00Z other F x", None);
        check("", None);
        let plain = |line: &'static str| (read(line.as_bytes(), 7).time, read(line.as_bytes(), 7).text);
        assert_eq!(plain("1970-01-01T00:00:01Z  INFO x"), (1_000_000_000, &b"1970-01-01T00:00:01Z  INFO x"[..]));
        assert_eq!(plain("no time"), (7, &b"no time"[..]));
    }

    #[test]
    fn only_the_keepers_times_are_stamps() {
        let stamp = |line: &'static str| stamp(line.as_bytes()).map(<[u8]>::len);
        assert_eq!(stamp("1970-01-01T00:00:01.000000002Z stdout F a b"), Some(30));
        assert_eq!(stamp("1970-01-01T00:00:01.00000000Z stdout F a b"), None);
        assert_eq!(stamp("1970-01-01T00:00:01.000000002+01:00 x"), None);
        assert_eq!(stamp("197x-01-01T00:00:01.000000002Z x"), None);
        assert_eq!(stamp("1970-01-01T00:00:01.000000002Z"), None);
    }

    #[test]
    fn bytes_are_cut_at_newlines() {
        let found: Vec<_> = lines(b"a\n\nbc\nrest").collect();
        assert_eq!(found, [(0, &b"a"[..]), (2, b""), (3, b"bc")]);
        assert_eq!((whole(b"a\nrest"), whole(b"rest"), whole(b"")), (2, 0, 0));
        assert_eq!((last_line(b"a\nbc\n"), last_line(b"a\n"), last_line(b"")), (&b"bc\n"[..], &b"a\n"[..], &b""[..]));
    }
}
