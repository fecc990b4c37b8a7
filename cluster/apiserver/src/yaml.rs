//! Writes a tree as YAML, for clients that ask for it.
//!
//! Start at [`text`]. Every text is quoted as JSON quotes it: valid YAML, and never mistaken for a number or a boolean.

use serde_json::Value;

/// The tree as a YAML document.
pub(crate) fn text(tree: &Value) -> String {
    let mut out = String::new();
    match tree {
        Value::Object(fields) if !fields.is_empty() => block(&mut out, tree, 0),
        Value::Array(items) if !items.is_empty() => block(&mut out, tree, 0),
        scalar => {
            out.push_str(&scalar.to_string());
            out.push('\n');
        }
    }
    out
}

fn block(out: &mut String, tree: &Value, depth: usize) {
    match tree {
        Value::Object(fields) => {
            for (index, (key, value)) in fields.iter().enumerate() {
                // The first key of a list's item stands behind its dash.
                if index > 0 || !out.ends_with("- ") {
                    indent(out, depth);
                }
                out.push_str(&plain(key));
                out.push(':');
                below(out, value, depth);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 || !out.ends_with("- ") {
                    indent(out, depth);
                }
                out.push_str("- ");
                if is_block(item) { block(out, item, depth + 1) } else { scalar(out, item) }
            }
        }
        other => scalar(out, other),
    }
}

fn below(out: &mut String, value: &Value, depth: usize) {
    if !is_block(value) {
        out.push(' ');
        return scalar(out, value);
    }
    out.push('\n');
    // Lists stand under their key without further indentation.
    block(out, value, if value.is_array() { depth } else { depth + 1 });
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn scalar(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => out.push_str(&plain(text)),
        other => out.push_str(&other.to_string()),
    }
    out.push('\n');
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Text without quotes where nobody could misread it.
fn plain(text: &str) -> String {
    let is_word = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'));
    let is_special = matches!(
        text.to_ascii_lowercase().as_str(),
        "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null"
    );
    if is_word && !is_special { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_reads_back() {
        let tree = json!({
            "a": {"b": [1, "two", {"c": "yes", "d": [[], {}, [3]]}], "e": {}}, "f": "1.5", "g": "x: y\n- z", "h": null,
            "i": [[1, [2]], {"j": [{"k": true}]}], "on": "off",
        });
        let back: Value = serde_saphyr::from_str(&text(&tree)).expect("YAML");
        assert_eq!(back, tree, "{}", text(&tree));
    }
}
