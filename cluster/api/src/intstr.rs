//! A number or a percentage, as `maxUnavailable` and ports have it.
//!
//! Start at [`IntOrString::of`]; [`IntOrString::scaled`] turns a percentage into a count.

use serde_json::Value;

/// A whole number or a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntOrString<'a> {
    /// A whole number.
    Int(i64),
    /// A text: a percentage or a port's name.
    Text(&'a str),
}

impl<'a> IntOrString<'a> {
    /// Reads a JSON value; none for anything but a whole number or a text.
    pub fn of(value: &'a Value) -> Option<IntOrString<'a>> {
        match value {
            Value::Number(number) => number.as_i64().map(IntOrString::Int),
            Value::String(text) => Some(IntOrString::Text(text)),
            _ => None,
        }
    }

    /// The percentage, if this is one (`25%`).
    pub fn percent(self) -> Option<i64> {
        match self {
            IntOrString::Int(_) => None,
            IntOrString::Text(text) => {
                let digits = text.strip_suffix('%')?;
                let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                all_digits.then(|| digits.parse().ok())?
            }
        }
    }

    /// The count this stands for among `total`; none for a text that is no percentage.
    pub fn scaled(self, total: i64, round_up: bool) -> Option<i64> {
        match self {
            IntOrString::Int(count) => Some(count),
            IntOrString::Text(_) => {
                let parts = self.percent()?.saturating_mul(total);
                Some(if round_up { parts.div_euclid(100) + i64::from(parts % 100 != 0) } else { parts.div_euclid(100) })
            }
        }
    }
}

impl std::fmt::Display for IntOrString<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IntOrString::Int(count) => write!(out, "{count}"),
            IntOrString::Text(text) => out.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentages_scale() {
        for (value, total, up, want) in [
            (json!(3), 10, true, Some(3)),
            (json!("25%"), 10, true, Some(3)),
            (json!("25%"), 10, false, Some(2)),
            (json!("100%"), 7, false, Some(7)),
            (json!("x"), 7, false, None),
            (json!("%"), 7, false, None),
            (json!("-1%"), 7, false, None),
        ] {
            assert_eq!(IntOrString::of(&value).and_then(|it| it.scaled(total, up)), want, "{value}");
        }
        assert_eq!(IntOrString::of(&json!(1.5)), None);
    }
}
