//! Path elements: how they are written in a set, and how people read them.
//!
//! Start at [`field`], [`key`] and [`value`], which write one; [`canonical`] reads a tree of them that a client sent.
//!
//! Invariant: equal elements have equal texts. Keys are sorted, and `<`, `>` and `&` are escaped, as upstream's encoder
//! does.

use serde_json::Value;

use super::{SELF, Tree, below, is_member, settle};

/// The element of a field or of a map's key.
pub(super) fn field(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 2);
    text.push_str("f:");
    text.push_str(name);
    text
}

/// The element of a list's item by its keys.
pub(super) fn key(keys: &Tree) -> String {
    json("k:", keys)
}

/// The element of a list's item by its value.
pub(super) fn value(value: &Value) -> String {
    json("v:", value)
}

fn json(prefix: &str, value: &impl serde::Serialize) -> String {
    let mut text = prefix.as_bytes().to_vec();
    serde_json::to_writer(&mut text, value).expect("a tree with text keys is always JSON");
    let text = String::from_utf8(text).expect("JSON is UTF-8");
    match text.contains(['<', '>', '&']) {
        true => text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"),
        false => text,
    }
}

/// A tree as a client wrote it, in canonical form. `None` if something in it can be no set.
pub(super) fn canonical(tree: Tree) -> Option<Tree> {
    let mut read = Tree::new();
    for (element, node) in tree {
        let Value::Object(below) = node else { return None };
        if element == SELF {
            read.insert(element, Value::Object(Tree::new()));
            continue;
        }
        let Some(element) = element_of(&element)? else { continue };
        let member = below.is_empty() || below.contains_key(SELF);
        let mut node = Value::Object(canonical(below)?);
        if settle(&mut node, member) {
            read.insert(element, node);
        }
    }
    Some(read)
}

/// The canonical text of one element: `Some(None)` for a sort that this version does not know, `None` for nonsense.
fn element_of(text: &str) -> Option<Option<String>> {
    let (sort, rest) = text.split_at_checked(2)?;
    Some(match sort {
        "f:" => Some(text.to_owned()),
        "k:" => Some(key(&serde_json::from_str::<Tree>(rest).ok()?)),
        "v:" => Some(value(&serde_json::from_str(rest).ok()?)),
        "i:" => Some(format!("i:{}", rest.parse::<i64>().ok()?)),
        sort if sort.ends_with(':') => None,
        _ => return None,
    })
}

/// Adds the paths of the members below `prefix`.
pub(super) fn print(tree: &Tree, prefix: &str, found: &mut Vec<String>) {
    let elements = || super::elements(tree).map(|(element, node)| (format!("{prefix}{}", words(element)), node));
    found.extend(elements().filter(|(_, node)| is_member(node)).map(|(path, _)| path));
    for (path, node) in elements() {
        print(below(node), &path, found);
    }
}

/// An element for people: `.spec`, `[name="web"]`, `[="a"]`, `[0]`.
pub(super) fn words(element: &str) -> String {
    let (sort, rest) = element.split_at_checked(2).unwrap_or((element, ""));
    match sort {
        "f:" => format!(".{rest}"),
        "k:" => {
            let keys: Tree = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        "v:" => format!("[={}]", serde_json::from_str::<Value>(rest).unwrap_or_default()),
        _ => format!("[{rest}]"),
    }
}
