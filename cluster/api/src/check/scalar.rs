//! Single values: times, amounts, bytes and numbers, read as upstream reads them and written in one way.
//!
//! Start at [`canonical`]. It gives back the text or number to store, or what upstream's decoder would say.
//!
//! Not here: structs, lists and maps (`walk.rs`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::duration;
use crate::quantity::Quantity;
use crate::schema::Ty;

/// How upstream's decoder words a complaint.
pub(super) enum Complaint {
    /// The value has the wrong JSON type: the words for the value and for the Go type it should have.
    Type(String, &'static str),
    /// The text cannot be read; the whole message.
    Text(String),
}

/// Checks a scalar. `Ok(None)` leaves it as it is.
pub(super) fn canonical(ty: &Ty, value: &Value) -> Result<Option<Value>, Complaint> {
    match (ty, value) {
        (Ty::Bool, Value::Bool(_)) | (Ty::String, Value::String(_)) | (Ty::Double, Value::Number(_)) => Ok(None),
        (Ty::Bool, other) => Err(mismatch(other, "bool")),
        (Ty::String, other) => Err(mismatch(other, "string")),
        (Ty::Double, other) => Err(mismatch(other, "float64")),
        (Ty::Int32, other) => match other.as_i64() {
            Some(number) if i32::try_from(number).is_ok() => Ok(None),
            _ => Err(number_mismatch(other, "int32")),
        },
        (Ty::Int64, other) => match other.as_i64() {
            Some(_) => Ok(None),
            None => Err(number_mismatch(other, "int64")),
        },
        (Ty::IntOrString, Value::String(_)) => Ok(None),
        (Ty::IntOrString, other) => canonical(&Ty::Int32, other),
        (Ty::Bytes, Value::String(text)) => bytes(text),
        (Ty::Bytes, other) => Err(mismatch(other, "[]uint8")),
        (Ty::Time, Value::String(text)) => {
            changed(text, canonical_time(text).ok_or_else(|| unreadable_time(text, "2006-01-02T15:04:05Z07:00"))?)
        }
        (Ty::MicroTime, Value::String(text)) => changed(
            text,
            canonical_micro_time(text).ok_or_else(|| unreadable_time(text, "2006-01-02T15:04:05.000000Z07:00"))?,
        ),
        (
            Ty::Time | Ty::MicroTime | Ty::Duration,
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)),
        ) => Err(Complaint::Text(format!("json: cannot unmarshal {} into Go value of type string", word(other)))),
        (Ty::Duration, Value::String(text)) => match duration::parse(text) {
            Some(nanos) => changed(text, duration::print(nanos)),
            None => Err(Complaint::Text(format!("time: invalid duration \"{text}\""))),
        },
        (Ty::Quantity, Value::String(_) | Value::Number(_)) => match Quantity::from_json(value) {
            Ok(quantity) => {
                let text = Value::String(quantity.to_string());
                Ok((text != *value).then_some(text))
            }
            Err(error) => Err(Complaint::Text(error.to_string())),
        },
        (Ty::Quantity, _) => Err(Complaint::Text(NO_QUANTITY.to_owned())),
        _ => Ok(None),
    }
}

/// What upstream says of anything that is no amount.
const NO_QUANTITY: &str = "quantities must match the regular expression \
    '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Upstream's word for a JSON value.
pub(super) fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn mismatch(value: &Value, go: &'static str) -> Complaint {
    Complaint::Type(word(value).to_owned(), go)
}

fn number_mismatch(value: &Value, go: &'static str) -> Complaint {
    match value {
        Value::Number(number) => Complaint::Type(format!("number {number}"), go),
        other => mismatch(other, go),
    }
}

fn changed(before: &str, after: String) -> Result<Option<Value>, Complaint> {
    Ok((after != before).then_some(Value::String(after)))
}

fn unreadable_time(text: &str, layout: &str) -> Complaint {
    Complaint::Text(format!("parsing time \"{text}\" as \"{layout}\": cannot parse \"{text}\" as \"2006\""))
}

fn bytes(text: &str) -> Result<Option<Value>, Complaint> {
    let trimmed: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match STANDARD.decode(&trimmed) {
        Ok(_) => changed(text, trimmed),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                // Upstream points at the start of the group of four that ends too soon.
                _ => trimmed.len() / 4 * 4,
            };
            Err(Complaint::Text(format!("illegal base64 data at input byte {at}")))
        }
    }
}

/// A time as upstream writes it: UTC, whole seconds, `Z`.
pub(crate) fn canonical_time(text: &str) -> Option<String> {
    let time = read_time(text)?;
    Some(Timestamp::from_second(time.as_second() - i64::from(time.subsec_nanosecond() < 0)).ok()?.to_string())
}

/// A time as upstream writes it where it counts microseconds: UTC, always six digits.
pub(crate) fn canonical_micro_time(text: &str) -> Option<String> {
    let time = read_time(text)?;
    Some(format!("{}.{:06}Z", time.strftime("%Y-%m-%dT%H:%M:%S"), time.subsec_nanosecond().unsigned_abs() / 1000))
}

/// RFC 3339 and nothing else: what the library would also read (blanks, zones by name) is refused.
fn read_time(text: &str) -> Option<Timestamp> {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let bytes = text.as_bytes();
    let (head, tail) = bytes.split_at_checked(SHAPE.len())?;
    let shaped = head.iter().zip(SHAPE).all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        shape => byte == shape,
    });
    let zone = match tail.strip_prefix(b".") {
        Some(fraction) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            fraction.get(digits..).filter(|_| (1..=9).contains(&digits))?
        }
        None => tail,
    };
    let zoned = match zone {
        b"Z" => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].iter().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    // Times before the year 1 or so far away that arithmetic would overflow are of no use to anybody.
    let time: Timestamp = text.parse().ok().filter(|_| shaped && zoned)?;
    time.checked_add(SignedDuration::ZERO).ok()
}
