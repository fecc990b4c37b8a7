//! Amounts like `500m`, `1.5Gi` or `2e3`, read and printed exactly as upstream's `resource.Quantity`.
//!
//! Start at [`Quantity::parse`]; `Display` gives the canonical form: no fraction, no exponent left over, the suffix
//! family of the input kept.
//!
//! Invariants:
//! * equal amounts compare equal whatever their suffixes;
//! * nothing finer than one billionth exists: smaller amounts round up to it;
//! * arithmetic saturates, it never wraps.
//!
//! Not here: typed units for the inner parts (`base::MilliCpu`, `base::Bytes`).

use std::cmp::Ordering;
use std::fmt;

/// The finest power of ten that is kept.
const NANO: i32 = -9;
/// More digits than this cannot be held exactly; such amounts are capped.
const DIGITS_MAX: usize = 28;
/// The largest decimal exponent held exactly beside any mantissa in use.
const EXPONENT_MAX: i32 = 27;

/// The suffix family an amount is printed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e3`, `e-6`
    DecimalExponent,
}

/// An exact amount: `value` × 10^`exponent`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    value: i128,
    exponent: i32,
    format: Format,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text does not have the shape of a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number part is unreadable.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix does not exist.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, i32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// A number part and a suffix.
struct Split<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Split<'_>, QuantityError> {
    let negative = text.starts_with('-');
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(digits(after)),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        // Upstream reads a lone suffix as a bad format and a lone dot as a bad number.
        return Err(if text.contains('.') { QuantityError::Number } else { QuantityError::Format });
    }
    let letters = rest.bytes().take_while(|byte| b"eEinumkKMGTP".contains(byte)).count();
    let tail = rest[letters..].strip_prefix(['-', '+']).unwrap_or(&rest[letters..]);
    match tail.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(Split { negative, whole, fraction, suffix: rest }),
        false => Err(QuantityError::Format),
    }
}

/// Base, exponent and family of a suffix.
fn suffix(text: &str) -> Option<(i32, i32, Format)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == text) {
        return Some((10, *exponent, Format::DecimalSi));
    }
    if let Some((_, exponent)) = BINARY.iter().find(|(name, _)| *name == text) {
        return Some((2, *exponent, Format::BinarySi));
    }
    let exponent = text.strip_prefix(['e', 'E'])?;
    exponent.parse().ok().map(|exponent: i32| (10, exponent, Format::DecimalExponent))
}

fn ten_to(power: u32) -> i128 {
    10i128.checked_pow(power).unwrap_or(i128::MAX)
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { value: 0, exponent: 0, format: Format::DecimalSi };

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let parts = split(text)?;
        let (base, power, mut format) = suffix(parts.suffix).ok_or(QuantityError::Suffix)?;
        let whole = parts.whole.trim_start_matches('0');
        let fraction = parts.fraction.trim_end_matches('0');
        if whole.len() > DIGITS_MAX || whole.len() as i32 + power.max(0) > DIGITS_MAX as i32 + EXPONENT_MAX {
            let value = if parts.negative { -i128::from(i64::MAX) } else { i128::from(i64::MAX) };
            return Ok(Quantity { value, exponent: 0, format }.trimmed());
        }
        // Digits past what is kept only matter for rounding up: one stands for them all.
        let kept = &fraction[..fraction.len().min(DIGITS_MAX.saturating_sub(whole.len()))];
        let mut value: i128 = format!("0{whole}{kept}").parse().map_err(|_| QuantityError::Number)?;
        let lost = fraction.len() > kept.len();
        let mut exponent = -(kept.len() as i32);
        if base == 2 {
            value = value.saturating_mul(1i128 << power);
        } else {
            exponent += power;
        }
        if exponent < NANO {
            let step = ten_to((NANO - exponent) as u32);
            value = value / step + i128::from(value % step != 0);
            exponent = NANO;
        } else if lost {
            value += 1;
        }
        let mut quantity = Quantity { value, exponent, format }.trimmed();
        if format == Format::BinarySi {
            let cap = Quantity { value: i64::MAX.into(), exponent: 0, format };
            let one = Quantity { value: 1, exponent: 0, format };
            if quantity > cap {
                quantity = cap;
            } else if quantity < one && quantity.value > 0 {
                format = Format::DecimalSi;
            }
        }
        let sign = if parts.negative { -1 } else { 1 };
        Ok(Quantity { value: sign * quantity.value, exponent: quantity.exponent, format })
    }

    /// Reads a JSON value: a text, or a bare number as YAML gives it.
    pub fn from_json(value: &serde_json::Value) -> Result<Quantity, QuantityError> {
        match value {
            serde_json::Value::String(text) => Quantity::parse(text.trim()),
            serde_json::Value::Number(number) => Quantity::parse(&number.to_string()),
            _ => Err(QuantityError::Format),
        }
    }

    /// A whole amount in a suffix family.
    pub fn whole(value: i64, format: Format) -> Quantity {
        Quantity { value: value.into(), exponent: 0, format }.trimmed()
    }

    /// Thousandths, as CPU is counted.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { value: milli.into(), exponent: -3, format: Format::DecimalSi }.trimmed()
    }

    /// Bytes, printed with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Quantity {
        Quantity::whole(bytes, Format::BinarySi)
    }

    /// The amount in whole units, rounded up (away from zero), capped to 64 bits.
    pub fn value(self) -> i64 {
        self.scaled(0)
    }

    /// The amount in thousandths, rounded up (away from zero), capped to 64 bits.
    pub fn milli_value(self) -> i64 {
        self.scaled(-3)
    }

    /// The amount as a float, for ratios.
    pub fn as_f64(self) -> f64 {
        self.value as f64 * 10f64.powi(self.exponent)
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.value == 0
    }

    /// -1, 0 or 1.
    pub const fn sign(self) -> i32 {
        self.value.signum() as i32
    }

    /// The suffix family.
    pub const fn format(self) -> Format {
        self.format
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.trimmed().exponent >= 0
    }

    /// Rounded up to a multiple of 10^`exponent`, as upstream does for every resource list with -3.
    pub fn round_up(self, exponent: i32) -> Quantity {
        if self.exponent >= exponent {
            return self;
        }
        Quantity { value: self.at(exponent), exponent, format: self.format }.trimmed()
    }

    /// The sum. Keeps this side's suffix family, unless this side is zero.
    pub fn plus(self, other: Quantity) -> Quantity {
        if self.is_zero() {
            return other;
        }
        self.combined(other, i128::saturating_add)
    }

    /// The difference. Keeps this side's suffix family, unless this side is zero.
    pub fn minus(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { format, ..self.combined(other, i128::saturating_sub) }
    }

    fn combined(self, other: Quantity, with: fn(i128, i128) -> i128) -> Quantity {
        let exponent = self.exponent.min(other.exponent);
        let value = with(self.at(exponent), other.at(exponent));
        Quantity { value, exponent, format: self.format }.trimmed()
    }

    /// The mantissa this amount has at another exponent, rounded away from zero, saturating.
    fn at(self, exponent: i32) -> i128 {
        match self.exponent - exponent {
            0 => self.value,
            up if up > 0 => self.value.saturating_mul(ten_to(up as u32)),
            down => {
                let step = ten_to(down.unsigned_abs());
                self.value / step + i128::from(self.value % step != 0) * self.value.signum()
            }
        }
    }

    fn scaled(self, exponent: i32) -> i64 {
        self.at(exponent).clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    fn trimmed(mut self) -> Quantity {
        if self.value == 0 {
            self.exponent = 0;
        }
        while self.value != 0 && self.value % 10 == 0 {
            self.value /= 10;
            self.exponent += 1;
        }
        self
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value == 0 {
            return out.write_str("0");
        }
        let small = self.at(0).unsigned_abs() < 1024;
        if self.format == Format::BinarySi && !small && self.is_whole() {
            let (mut value, mut power) = (self.at(0), 0);
            while value % 1024 == 0 && power < BINARY.len() {
                value /= 1024;
                power += 1;
            }
            let name = if power == 0 { "" } else { BINARY[power - 1].0 };
            return write!(out, "{value}{name}");
        }
        let Quantity { mut value, mut exponent, .. } = self.trimmed();
        while exponent % 3 != 0 {
            value = value.saturating_mul(10);
            exponent -= 1;
        }
        let name = DECIMAL.iter().find(|(_, power)| *power == exponent).map(|(name, _)| *name);
        match (self.format, name) {
            (Format::DecimalExponent, _) | (_, None) if exponent != 0 => write!(out, "{value}e{exponent}"),
            (_, name) if self.format != Format::DecimalExponent => write!(out, "{value}{}", name.unwrap_or("")),
            _ => write!(out, "{value}"),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        let exponent = self.exponent.min(other.exponent);
        self.at(exponent).cmp(&other.at(exponent))
    }
}
impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        Quantity::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_the_canonical_form() {
        for (given, want) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("1", "1"),
            ("1000", "1k"),
            ("100", "100"),
            ("1500", "1500"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1.5", "1500m"),
            ("1000m", "1"),
            ("1100m", "1100m"),
            ("100m", "100m"),
            ("0.001", "1m"),
            ("0.0000000001", "1n"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1023Ki", "1023Ki"),
            ("1000Ki", "1000Ki"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("12345678Ki", "12345678Ki"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1500e0", "1500"),
            ("12e-1", "1200e-3"),
            ("-1.5Gi", "-1536Mi"),
            ("+2", "2"),
            ("-250m", "-250m"),
            ("9223372036854775807", "9223372036854775807"),
            ("16Ei", "9223372036854775807"),
            ("100000k", "100M"),
            ("3T", "3T"),
            ("1u", "1u"),
            ("307200Ki", "300Mi"),
            ("1025024Mi", "1001Gi"),
            ("1080000000n", "1080m"),
            (".000000000001Ki", "2n"),
            (".001e12", "1e9"),
            ("1000e-12", "1e-9"),
            ("1025", "1025"),
            ("00", "0"),
        ] {
            assert_eq!(Quantity::parse(given).map(|quantity| quantity.to_string()), Ok(want.to_owned()), "{given}");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for (given, want) in [
            ("", QuantityError::Format),
            ("a", QuantityError::Format),
            ("1.1.M", QuantityError::Format),
            ("1Q", QuantityError::Format),
            ("1ki", QuantityError::Suffix),
            ("1mm", QuantityError::Suffix),
            ("1i", QuantityError::Suffix),
            ("1 Gi", QuantityError::Format),
            (".", QuantityError::Number),
        ] {
            assert_eq!(Quantity::parse(given).err(), Some(want), "{given}");
        }
    }

    #[test]
    fn counts_in_milli_and_bytes() {
        let of = |text: &str| Quantity::parse(text).expect("a literal of this test");
        assert_eq!(of("1.5").milli_value(), 1500);
        assert_eq!(of("1.0001").milli_value(), 1001);
        assert_eq!(of("64Mi").value(), 64 << 20);
        assert_eq!(of("100m").value(), 1);
        assert!(of("1Ki") > of("1k") && of("1000m") == of("1"));
        assert_eq!(of("1Gi").plus(of("1Mi")).to_string(), "1025Mi");
        assert_eq!(of("1").minus(of("250m")).to_string(), "750m");
        assert_eq!(of("0").plus(of("1Gi")).to_string(), "1Gi");
        assert_eq!(of("1n").round_up(-3).to_string(), "1m");
        assert_eq!(Quantity::from_bytes(1 << 30).to_string(), "1Gi");
        assert_eq!(Quantity::from_milli(1500).to_string(), "1500m");
    }
}
