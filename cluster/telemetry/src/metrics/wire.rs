//! What a collector of metrics sends: everything it measured at one moment.
//!
//! Start at [`Round`]. It travels packed (`packed.rs`).

use serde::{Deserialize, Serialize};

use crate::packed;

/// A round is no larger than this when it is unpacked.
const ROUND_BYTES_MAX: usize = 2 << 20;
/// Longer names of series are none of ours.
const NAME_BYTES_MAX: usize = 1024;

/// Everything that was measured on a node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The node.
    pub node: String,
    /// When, in milliseconds since 1970.
    pub time: i64,
    /// Series and values.
    pub values: Vec<(String, f64)>,
}

/// Bytes that are no round.
#[derive(Debug, thiserror::Error)]
#[error("the round of measurements is not usable: {0}")]
pub struct WireError(String);

impl Round {
    /// Packs it.
    pub fn encode(&self) -> Vec<u8> {
        packed::pack(self)
    }

    /// Unpacks and checks it.
    pub fn decode(packed: &[u8]) -> Result<Round, WireError> {
        let round: Round = packed::unpack(packed, ROUND_BYTES_MAX).map_err(WireError)?;
        match round.values.iter().find(|(name, value)| name.len() > NAME_BYTES_MAX || !value.is_finite()) {
            _ if round.node.is_empty() => Err(WireError("it names no node".to_owned())),
            Some((name, _)) => Err(WireError(format!("{name:.80} is too long, or its value no number"))),
            None => Ok(round),
        }
    }
}

/// A series' name: `name{label="value",…}`, labels as given.
pub fn series(name: &str, labels: &[(&str, &str)]) -> String {
    format!("{name}{}", base::exposition::labels(labels))
}

/// The value of a label in a series' name. Values that had to be escaped are not ours to look for.
pub fn label<'a>(series: &'a str, label: &str) -> &'a str {
    let wanted = format!("{label}=\"");
    let begins =
        series.match_indices(&wanted).find(|(at, _)| *at > 0 && matches!(series.as_bytes()[at - 1], b'{' | b','));
    begins.and_then(|(at, _)| series[at + wanted.len()..].split('"').next()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_come_back_and_others_are_refused() {
        let round = Round { node: "n".into(), time: 5, values: vec![("a{}".into(), 1.5)] };
        assert_eq!(Round::decode(&round.encode()).ok(), Some(round.clone()));
        let wrong = [
            Round { node: String::new(), ..round.clone() },
            Round { values: vec![("a".into(), f64::NAN)], ..round.clone() },
            Round { values: vec![("a".repeat(NAME_BYTES_MAX + 1), 0.0)], ..round },
        ];
        assert!(wrong.iter().all(|round| Round::decode(&round.encode()).is_err()));
        assert!(Round::decode(b"").is_err() && Round::decode(b"nonsense").is_err());
    }

    #[test]
    fn series_are_named_and_their_labels_found() {
        let name = series("x_total", &[("pod", "a"), ("subpod", "b"), ("path", "\"\\")]);
        assert_eq!(name, r#"x_total{pod="a",subpod="b",path="\"\\"}"#);
        assert_eq!((label(&name, "pod"), label(&name, "subpod"), label(&name, "none")), ("a", "b", ""));
    }
}
