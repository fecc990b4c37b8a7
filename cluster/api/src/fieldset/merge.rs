//! What a configuration makes of the object it is applied to.
//!
//! Start at [`merge`]: what the configuration says counts, what it does not say stays. Removing what it no longer says is
//! another step (`remove.rs`), because that depends on who owns what.
//!
//! Invariant: items of the configuration stand in its order; the object's others keep their places among them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Tree;
use super::shape::{Shape, items};
use crate::schema::{ListTy, Type};

/// The object with the configuration in it.
pub fn merge(ty: &Type, object: &Value, configuration: &Value) -> Value {
    both(Shape::root(ty), object, configuration)
}

fn both(shape: Shape, live: &Value, wanted: &Value) -> Value {
    match (shape, live, wanted) {
        (Shape::Items(ty), Value::Array(live), Value::Array(wanted)) if !(live.is_empty() && wanted.is_empty()) => {
            Value::Array(lists(ty, shape.item(), live, wanted))
        }
        (Shape::Struct(_) | Shape::Map(_) | Shape::Free, Value::Object(live), Value::Object(wanted)) => {
            Value::Object(maps(shape, live, wanted))
        }
        // Of a container that holds something, null says nothing.
        (Shape::Items(_), Value::Array(items), Value::Null) if !items.is_empty() => live.clone(),
        (Shape::Struct(_) | Shape::Map(_) | Shape::Free, Value::Object(fields), Value::Null) if !fields.is_empty() => {
            live.clone()
        }
        _ => wanted.clone(),
    }
}

fn maps(shape: Shape, live: &Tree, wanted: &Tree) -> Tree {
    let mut merged = live.clone();
    for (name, wanted) in wanted {
        let new = match live.get(name) {
            Some(live) => both(shape.under(name), live, wanted),
            None => wanted.clone(),
        };
        merged.insert(name.clone(), new);
    }
    merged
}

/// The object's items in turn, each of the configuration's among them as soon as its order allows.
fn lists(ty: &ListTy, shape: Shape, live: &[Value], wanted: &[Value]) -> Vec<Value> {
    let (live, wanted) = (named(ty, live), named(ty, wanted));
    let mut by_key: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    live.iter().for_each(|(key, item)| by_key.entry(key).or_default().push(item));
    let in_wanted: BTreeSet<&str> = wanted.iter().map(|(key, _)| key.as_str()).collect();
    let mut shared = wanted.iter().map(|(key, _)| key.as_str()).filter(|key| by_key.contains_key(key)).peekable();
    let (mut merged, mut done, mut at_live, mut at_wanted) = (Vec::new(), BTreeSet::new(), 0, 0);
    loop {
        let own = live.get(at_live).map(|(key, item)| (key.as_str(), *item));
        let next = wanted.get(at_wanted).map(|(key, item)| (key.as_str(), *item));
        match own {
            // The object's own item stays where it stands.
            Some((key, item)) if !in_wanted.contains(key) => {
                merged.push(item.clone());
                at_live += 1;
                continue;
            }
            // Its turn is later, or was before: its place is the configuration's to say.
            Some((key, _))
                if next.is_none_or(|next| next.0 != key && shared.peek().is_some_and(|turn| *turn != key)) =>
            {
                at_live += 1;
                continue;
            }
            Some((key, _)) if next.is_some_and(|next| next.0 == key) || done.contains(key) => at_live += 1,
            _ => {}
        }
        let Some((key, item)) = next else { return merged };
        // Of several items with one key none is the one that is meant.
        let only = by_key.get(key).filter(|items| items.len() == 1);
        merged.push(only.map_or_else(|| item.clone(), |live| both(shape, live[0], item)));
        done.insert(key);
        shared.next_if(|turn| *turn == key);
        at_wanted += 1;
    }
}

/// The items with their keys. One that has none is like no other.
fn named<'v>(ty: &ListTy, list: &'v [Value]) -> Vec<(String, &'v Value)> {
    let named = items(ty, list).into_iter().enumerate();
    named.map(|(at, (key, item))| (key.unwrap_or_else(|| format!("?{at}")), item)).collect()
}
