//! From the bytes of a file that many editors have had in hand to its text.
//!
//! Start at [`text`].

use std::borrow::Cow;

/// The text of a file: byte order marks, UTF-16, Windows' line ends, the end-of-file sign of DOS and zeros behind the end are
/// no matter. Letters in no encoding we know become signs that no setting holds, so that their line is named.
pub(crate) fn text(bytes: &[u8]) -> String {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => Cow::Owned(utf16(rest, u16::from_le_bytes)),
        [0xfe, 0xff, rest @ ..] => Cow::Owned(utf16(rest, u16::from_be_bytes)),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest),
        _ => String::from_utf8_lossy(bytes),
    };
    let text = text.trim_end_matches(|letter: char| letter == '\0' || letter == '\u{1a}' || letter.is_whitespace());
    // Old Macintosh line ends stand alone.
    text.replace("\r\n", "\n").replace('\r', "\n") + "\n"
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) {
        assert_eq!(text(bytes), "a = \"ä\"\nb = 2\n", "{bytes:?}");
    }

    #[test]
    fn every_editor_is_read() {
        check("a = \"ä\"\nb = 2\n".as_bytes());
        check("a = \"ä\"\nb = 2".as_bytes());
        check("a = \"ä\"\r\nb = 2\r\n".as_bytes());
        check("a = \"ä\"\rb = 2\r".as_bytes());
        check("\u{feff}a = \"ä\"\r\nb = 2\r\n\u{1a}".as_bytes());
        check("a = \"ä\"\nb = 2\n\0\0\0\0".as_bytes());
        let units: Vec<u16> = "a = \"ä\"\r\nb = 2\r\n".encode_utf16().collect();
        check(&[vec![0xff, 0xfe], units.iter().flat_map(|unit| unit.to_le_bytes()).collect()].concat());
        check(&[vec![0xfe, 0xff], units.iter().flat_map(|unit| unit.to_be_bytes()).collect()].concat());
    }

    #[test]
    fn any_bytes_are_some_text() {
        assert_eq!(text(&[0xe4, b'\n', 0xff]), "\u{fffd}\n\u{fffd}\n");
        assert_eq!(text(&[0xff, 0xfe, 1]), "\n");
        assert_eq!(text(&[]), "\n");
    }
}
