//! Quantities of the machine, each in one unit.

use std::fmt;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// `count` kibibytes.
    pub const fn kib(count: u64) -> Bytes {
        Bytes(count << 10)
    }
    /// `count` mebibytes.
    pub const fn mib(count: u64) -> Bytes {
        Bytes(count << 20)
    }
}

impl fmt::Display for Bytes {
    /// Prints the largest binary unit that keeps at least one whole, with one decimal: `1.5 MiB`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        for (name, size) in UNITS {
            if self.0 >= size {
                let tenths = (u128::from(self.0) * 10 / u128::from(size)) as u64;
                return if tenths % 10 == 0 {
                    write!(out, "{} {name}", tenths / 10)
                } else {
                    write!(out, "{}.{} {name}", tenths / 10, tenths % 10)
                };
            }
        }
        write!(out, "{} B", self.0)
    }
}

/// Processor time per second of wall time, in thousandths of one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpu(pub u64);

impl fmt::Display for MilliCpu {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}m", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (80 << 20, "80 MiB")];
        for (bytes, text) in cases {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
