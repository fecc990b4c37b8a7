//! Arithmetic on quantities such as `250m` and `64Mi`, as far as a node needs it.
//!
//! Start at [`milli`]. Everything is held in thousandths, in 128 bits, so that nothing overflows or rounds on the way.
//!
//! Not here: writing canonical quantities (`api`).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in thousandths, rounded up; `None` if it is none.
pub fn milli(quantity: &Quantity) -> Option<i128> {
    parse(quantity.0.trim())
}

/// A quantity in whole units, rounded up.
pub fn whole(quantity: &Quantity) -> Option<i128> {
    milli(quantity).map(|milli| div_up(milli, 1000))
}

/// How many times `divisor` (1 where absent or 0) fits, rounded up: what `resourceFieldRef` shows.
pub fn divided(milli_value: i128, divisor: Option<&Quantity>) -> i128 {
    let divisor = divisor.and_then(milli).filter(|divisor| *divisor > 0).unwrap_or(1000);
    div_up(milli_value, divisor)
}

fn div_up(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

fn parse(text: &str) -> Option<i128> {
    let end = text.find(|letter: char| !(letter.is_ascii_digit() || "+-.".contains(letter))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let negative = number.starts_with('-');
    let (units, fraction) =
        number.trim_start_matches(['+', '-']).split_once('.').unwrap_or((number.trim_start_matches(['+', '-']), ""));
    if units.is_empty() && fraction.is_empty() || units.len() > 18 || fraction.len() > 18 {
        return None;
    }
    let digits: i128 = format!("{units}{fraction}").parse().ok()?;
    // Value = digits / 10^fraction * scale; scale is kept as a fraction itself because of `n`, `u` and `m`.
    let (multiply, divide) = scale(suffix)?;
    let numerator = digits.checked_mul(multiply)?.checked_mul(1000)?;
    let denominator = 10i128.checked_pow(fraction.len() as u32)?.checked_mul(divide)?;
    let value = div_up(numerator, denominator);
    Some(if negative { -value } else { value })
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = 10i128.checked_pow(power.unsigned_abs().min(18))?;
            if power < 0 { (1, size) } else { (size, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_thousandths() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("250m", Some(250)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.5Gi", Some(1536 * 1024 * 1024 * 1000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("100n", Some(1)),
            ("-1", Some(-1000)),
            ("", None),
            ("1Q", None),
            ("m", None),
        ] {
            assert_eq!(milli(&Quantity(text.into())), wanted, "{text:?}");
        }
    }

    #[test]
    fn division_rounds_up() {
        assert_eq!(divided(250, None), 1);
        assert_eq!(divided(250, Some(&Quantity("1m".into()))), 250);
        assert_eq!(divided(64 * 1024 * 1024 * 1000, Some(&Quantity("1Mi".into()))), 64);
    }
}
