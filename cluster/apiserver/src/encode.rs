//! An object as it is stored: canonical JSON with a gap where the store writes the revision.
//!
//! Start at [`stored`].
//!
//! Invariant: the bytes with the revision in the gap are the object's JSON, keys in the tree's order.

use bytes::Bytes;
use serde_json::{Map, Value};

/// The bytes of an object, and where in them its `metadata.resourceVersion` belongs.
pub(crate) fn stored(object: &Value) -> (Bytes, usize) {
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    let mut out = Vec::with_capacity(1024);
    let mut stamp_at = None;
    out.push(b'{');
    for (key, value) in fields {
        begin(&mut out, key);
        if key == "metadata" {
            stamp_at = Some(metadata(&mut out, value.as_object().unwrap_or(&empty)));
        } else {
            write(&mut out, value);
        }
    }
    let stamp_at = stamp_at.unwrap_or_else(|| {
        begin(&mut out, "metadata");
        metadata(&mut out, &empty)
    });
    out.push(b'}');
    (Bytes::from(out), stamp_at)
}

/// Writes metadata with a gap for the revision; the answer is where the gap is.
fn metadata(out: &mut Vec<u8>, fields: &Map<String, Value>) -> usize {
    out.push(b'{');
    let mut stamp_at = None;
    for (key, value) in fields {
        if stamp_at.is_none() && key.as_str() >= "resourceVersion" {
            stamp_at = Some(gap(out));
        }
        if key != "resourceVersion" {
            begin(out, key);
            write(out, value);
        }
    }
    let stamp_at = stamp_at.unwrap_or_else(|| gap(out));
    out.push(b'}');
    stamp_at
}

fn gap(out: &mut Vec<u8>) -> usize {
    begin(out, "resourceVersion");
    out.extend_from_slice(b"\"\"");
    out.len() - 1
}

fn begin(out: &mut Vec<u8>, key: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, key).expect("writing to memory cannot fail");
    out.push(b':');
}

fn write(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a tree with text keys is always JSON");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(object: Value, want: &str) {
        let (bytes, stamp_at) = stored(&object);
        let mut text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        text.insert_str(stamp_at, "7");
        assert_eq!(text, want);
    }

    #[test]
    fn the_revision_has_its_place() {
        check(json!({}), r#"{"metadata":{"resourceVersion":"7"}}"#);
        check(
            json!({"kind": "A", "metadata": {"name": "a"}}),
            r#"{"kind":"A","metadata":{"name":"a","resourceVersion":"7"}}"#,
        );
        check(
            json!({"metadata": {"name": "a", "resourceVersion": "3", "uid": "u"}, "spec": {}}),
            r#"{"metadata":{"name":"a","resourceVersion":"7","uid":"u"},"spec":{}}"#,
        );
        check(json!({"metadata": {"uid": "u"}}), r#"{"metadata":{"resourceVersion":"7","uid":"u"}}"#);
    }
}
