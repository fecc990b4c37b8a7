//! Reads a body: JSON, YAML or protobuf into a tree, and a tree into an object of its kind.
//!
//! Start at [`object`].
//!
//! Not here: what values are allowed (`api::validation`).

use api::check::{self, Mode};
use api::kinds::{Kind, join_api_version};
use api::managed;
use api::proto;
use serde_json::Value;

use crate::Failure;
use crate::query::FieldValidation;

/// Larger bodies are refused, as upstream refuses them.
pub const BODY_BYTES_MAX: usize = 3 << 20;

const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// An object as a client sent it, and what the client is to be warned of.
pub(crate) struct Sent {
    /// In canonical form.
    pub object: Value,
    /// Such as `unknown field "spec.foo"`.
    pub warnings: Vec<String>,
}

/// The media type of a header, without parameters.
pub(crate) fn media_type(header: &str) -> &str {
    header.split(';').next().unwrap_or_default().trim()
}

/// Reads any tree; also gives a line for each field that occurs twice.
pub(crate) fn tree(content_type: &str, body: &[u8]) -> Result<(Value, Vec<String>), Failure> {
    match media_type(content_type) {
        "" | "application/json" | "*/*" => {
            check::parse_json(body).map_err(|error| Failure::bad_request(error.to_string()))
        }
        "application/yaml" => yaml(body).map(|value| (value, Vec::new())),
        proto::CONTENT_TYPE => match proto::decode_any(body) {
            Ok(value) => Ok((value, Vec::new())),
            Err(error) => Err(Failure::bad_request(error.to_string())),
        },
        other => Err(Failure::unsupported_media_type(other, &ACCEPTED)),
    }
}

/// Reads YAML: one document.
pub(crate) fn yaml(body: &[u8]) -> Result<Value, Failure> {
    let wrong = |detail: String| {
        let line = detail.lines().next().unwrap_or_default();
        Failure::bad_request(format!("error converting YAML to JSON: {line}"))
    };
    let text = std::str::from_utf8(body).map_err(|error| wrong(error.to_string()))?;
    serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))
}

/// Reads YAML or JSON in which fields may occur twice: the last one counts, and what is wrong is told beside.
pub(crate) fn lenient_yaml(body: &[u8]) -> Result<(Value, Option<String>), Failure> {
    if body.trim_ascii_start().starts_with(b"{")
        && let Ok((value, twice)) = check::parse_json(body)
    {
        return Ok((value, (!twice.is_empty()).then(|| twice.join(", "))));
    }
    let twice = match yaml(body) {
        Ok(value) => return Ok((value, None)),
        Err(failure) => failure,
    };
    let text = std::str::from_utf8(body).unwrap_or_default();
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins };
    let read = serde_saphyr::from_str_with_options(text, options);
    read.map(|value| (value, Some(twice.message.clone()))).map_err(|_| twice)
}

/// Reads an object of that kind.
pub(crate) fn object(
    kind: &Kind,
    content_type: &str,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Sent, Failure> {
    let (value, duplicates) =
        tree(content_type, body).map_err(|failure| unrecognized(kind, content_type, body, failure))?;
    structured(kind, value, duplicates, validation)
}

/// A body that cannot be read at all, in upstream's words: what it should have been, why not, and how it begins.
fn unrecognized(kind: &Kind, content_type: &str, body: &[u8], mut failure: Failure) -> Failure {
    const SHOWN_BYTES: usize = 30;
    if failure.code != 400 {
        return failure;
    }
    let more = if body.len() > SHOWN_BYTES { " ..." } else { "" };
    let begin = &body[..body.len().min(SHOWN_BYTES)];
    let summary = match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(begin)),
        Some(_) => format!("{}{more}", begin.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    };
    let why = match failure.message.as_str() {
        message if message.starts_with("EOF while parsing") => "unexpected end of JSON input",
        message => message,
    };
    let is_json = !matches!(media_type(content_type), "application/yaml" | proto::CONTENT_TYPE);
    let why = if !is_json { why.to_owned() } else { format!("couldn't get version/kind; json parse error: {why}") };
    failure.message = format!("the object provided is unrecognized (must be of type {}): {why} ({summary})", kind.kind);
    failure
}

/// Brings a tree into the form of its kind.
pub(crate) fn structured(
    kind: &Kind,
    mut object: Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Result<Sent, Failure> {
    claim(kind, &mut object)?;
    managed::keep_reset(&mut object);
    let report = check::structure(kind, &mut object, Mode::Whole);
    if let Some(fault) = report.errors.first() {
        return Err(Failure::bad_request(check::cannot_be_handled(kind, &fault.message)));
    }
    let mut warnings = duplicates;
    warnings.extend(report.warnings());
    match (validation, check::strict_error(&warnings)) {
        (FieldValidation::Strict, Some(cause)) => Err(Failure::bad_request(check::cannot_be_handled(kind, &cause))),
        (FieldValidation::Ignore, _) => Ok(Sent { object, warnings: Vec::new() }),
        _ => Ok(Sent { object, warnings }),
    }
}

/// An object that says nothing is of the kind that the path names; one that says another kind is refused.
fn claim(kind: &Kind, object: &mut Value) -> Result<(), Failure> {
    let api_version = join_api_version(&kind.group, &kind.version);
    let Some(fields) = object.as_object_mut() else {
        let cause = "json: cannot unmarshal a value that is no object";
        return Err(Failure::bad_request(check::cannot_be_handled(kind, cause)));
    };
    for (field, ours) in [("apiVersion", api_version.as_str()), ("kind", kind.kind.as_ref())] {
        match fields.get(field).and_then(Value::as_str) {
            None | Some("") => {
                fields.insert(field.to_owned(), ours.into());
            }
            Some(theirs) if theirs == ours => {}
            Some(theirs) if field == "apiVersion" => {
                return Err(Failure::bad_request(format!(
                    "the API version in the data ({theirs}) does not match the expected API version ({ours})"
                )));
            }
            Some(theirs) => {
                let version = &kind.version;
                let cause = match api::kinds::find_kind(&kind.group, version, theirs) {
                    Some(_) => {
                        let inside = kind.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
                        format!("converting ({version}.{theirs}) to ({inside}.{ours}): unknown conversion")
                    }
                    None => format!("no kind {theirs:?} is registered for version {api_version:?}"),
                };
                return Err(Failure::bad_request(format!(
                    "{theirs} in version {version:?} cannot be handled as a {ours}: {cause}"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configmap(content_type: &str, body: &str) -> Result<Value, Failure> {
        let kind = api::kinds::find("", "v1", "configmaps").expect("a kind");
        object(kind, content_type, body.as_bytes(), FieldValidation::Warn).map(|sent| sent.object)
    }

    #[test]
    fn yaml_and_json_read_alike() {
        let one = configmap("application/yaml", "metadata: {name: a}\ndata:\n  on: \"yes\"\n").expect("an object");
        let two = configmap("application/json; charset=utf-8", r#"{"metadata":{"name":"a"},"data":{"on":"yes"}}"#);
        assert_eq!(one, two.expect("an object"));
        assert_eq!(one["kind"], "ConfigMap");
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(configmap("text/html", "{}").expect_err("no such type").code, 415);
        assert_eq!(configmap("", "{").expect_err("no JSON").code, 400);
        assert_eq!(configmap("application/yaml", "a: [").expect_err("no YAML").code, 400);
        assert_eq!(configmap("", "[]").expect_err("no object").code, 400);
        let other = configmap("", r#"{"kind":"Secret","apiVersion":"v1"}"#).expect_err("another kind");
        assert!(other.message.contains("Secret"), "{other}");
        let other = configmap("", r#"{"kind":"ConfigMap","apiVersion":"apps/v1"}"#).expect_err("another version");
        assert!(other.message.contains("apps/v1"), "{other}");
    }
}
