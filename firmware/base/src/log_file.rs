//! A log that is cut into files: how a file says how much of the log was written before it, so that who collects it knows what
//! is missing when files are gone.
//!
//! Start at [`first_line`], which who writes the log puts at the top of each file; [`bytes_before`] reads it.

const BEFORE: &str = "# ";
const AFTER: &str = " bytes were logged before this file\n";
/// The longest first line.
pub const FIRST_LINE_BYTES_MAX: usize = 64;

/// The first line of a file; it counts for no byte of the log.
pub fn first_line(bytes_before: u64) -> String {
    format!("{BEFORE}{bytes_before}{AFTER}")
}

/// What the first line of a file says, and its length; `begin` are the file's first [`FIRST_LINE_BYTES_MAX`] bytes. None if the
/// file has no such line.
pub fn bytes_before(begin: &[u8]) -> Option<(u64, usize)> {
    let length = begin.iter().position(|byte| *byte == b'\n')? + 1;
    let line = std::str::from_utf8(&begin[..length]).ok()?;
    let number = line.strip_prefix(BEFORE)?.strip_suffix(AFTER)?;
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    Some((number.parse().ok().filter(|_| digits)?, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_line_is_read_as_it_is_written() {
        for number in [0, 7, u64::MAX] {
            let line = first_line(number);
            assert!(line.len() <= FIRST_LINE_BYTES_MAX);
            assert_eq!(bytes_before(format!("{line}more\n").as_bytes()), Some((number, line.len())));
        }
    }

    #[test]
    fn other_lines_are_none() {
        for line in ["", "# 7 bytes were logged before this file", "# +7 bytes were logged before this file\n", "a\n"] {
            assert_eq!(bytes_before(line.as_bytes()), None, "{line}");
        }
    }
}
