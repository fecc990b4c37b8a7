//! The query of a request, and the options in it.
//!
//! Start at [`Query::parse`].
//!
//! Invariant: options that are no numbers or no booleans are refused with their name.

use crate::Failure;

/// More pairs than this are not read; no client sends so many.
const PAIRS_MAX: usize = 64;

/// A parsed query.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

/// How unknown fields of a body are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Dropped.
    Ignore,
    /// Dropped, and the client is told.
    Warn,
    /// Refused.
    Strict,
}

impl Query {
    /// Reads what stands behind the question mark.
    pub(crate) fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).take(PAIRS_MAX);
        let pairs = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        });
        Query { pairs: pairs.collect() }
    }

    /// The first value of a key, or nothing.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.pairs.iter().find(|(its, _)| its == key).map_or("", |(_, value)| value)
    }

    /// Every value of a key.
    pub(crate) fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(its, _)| its == key).map(|(_, value)| value.as_str())
    }

    /// Everything, in order.
    pub(crate) fn all(&self) -> Vec<(&str, String)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.clone())).collect()
    }

    /// The key occurs.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(its, _)| its == key)
    }

    /// A flag: absent is `false`, present without a value is `true`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        match self.pairs.iter().find(|(its, _)| its == key) {
            None => false,
            Some((_, value)) => !matches!(value.as_str(), "0" | "false" | "False" | "FALSE" | "f" | "F"),
        }
    }

    /// A whole number that is not negative.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, Failure> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                let why = format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
                Failure::bad_request(format!("invalid value for {key}: {why}"))
            }),
        }
    }

    /// `dryRun=All`, the only value there is.
    pub(crate) fn dry_run(&self) -> Result<bool, Failure> {
        match (self.has("dryRun"), self.get("dryRun")) {
            (false, _) | (_, "") => Ok(false),
            (_, "All") => Ok(true),
            (_, other) => Err(Failure::unprocessable(format!(
                "dryRun: Unsupported value: []string{{{other:?}}}: supported values: \"All\""
            ))),
        }
    }

    /// `fieldValidation`; clients that say nothing are warned.
    pub(crate) fn field_validation(&self) -> Result<FieldValidation, Failure> {
        match self.get("fieldValidation") {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(Failure::unprocessable(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// Undoes percent encoding; what is no valid encoding stays as it is.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> String {
    if !text.bytes().any(|byte| byte == b'%' || (byte == b'+' && plus_is_space)) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', _, _) if plus_is_space => out.push(b' '),
            (byte, _, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let query = Query::parse("labelSelector=app%3Dweb%2Ctier+in+%28a%29&watch=true&limit=5&x&dryRun=All");
        assert_eq!(query.get("labelSelector"), "app=web,tier in (a)");
        assert!(query.flag("watch") && query.flag("x") && !query.flag("none"));
        assert_eq!(query.number("limit"), Ok(Some(5)));
        assert_eq!(query.dry_run(), Ok(true));
        assert_eq!(decode("100%", true), "100%");
    }

    #[test]
    fn wrong_options_are_named() {
        let query = Query::parse("limit=many&dryRun=Some&fieldValidation=Loose");
        assert!(query.number("limit").expect_err("no number").message.contains("limit"));
        assert_eq!(query.dry_run().expect_err("no such value").code, 422);
        assert_eq!(query.field_validation().expect_err("no such value").code, 422);
    }
}
