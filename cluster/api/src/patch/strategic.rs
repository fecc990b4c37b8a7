//! Strategic merge patch: merges lists by key where the schema says so, and obeys directives inside the patch.
//!
//! Start at [`strategic`]. The rules, in the order they are applied to a map:
//! * `$patch: replace` takes the patch's map as it is, `$patch: delete` leaves an empty one; in a list of maps the
//!   first clears the list, the second removes the item with that key;
//! * `$retainKeys` drops every field it does not name;
//! * `$setElementOrder/LIST` merges LIST and then sorts it: named items as named, the rest where they stood;
//! * `$deleteFromPrimitiveList/LIST` removes values from LIST;
//! * `null` deletes, maps merge, lists with `patchStrategy: merge` merge, everything else replaces.
//!
//! Invariant: no directive and no null of the patch is left in the result.
//!
//! Not here: computing a patch from two objects (clients do that).

use super::PatchError;
use crate::schema::{Field, Ty, Type};
use serde_json::{Map, Value};
use std::cmp::Ordering;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList";

type Fields = Map<String, Value>;

/// The one struct that a patch replaces (`patchStrategy: replace`), by type and field: half a selector would select
/// what nobody asked for.
const REPLACED: (&str, &str) = ("io.k8s.api.policy.v1.PodDisruptionBudgetSpec", "selector");

/// `base` with `patch` merged into it by the rules of `schema`.
pub fn strategic(schema: &Type, base: &Value, patch: &Value) -> Result<Value, PatchError> {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            merge_map(base.clone(), patch, Shape::Struct(schema)).map(Value::Object)
        }
        _ => Err(PatchError::Malformed("invalid JSON document".to_owned())),
    }
}

/// What is known about the fields of a map.
#[derive(Clone, Copy)]
enum Shape<'a> {
    Struct(&'a Type),
    MapOf(&'a Ty),
    /// Free JSON: maps merge, lists replace.
    Free,
}

impl<'a> Shape<'a> {
    fn of(ty: &'a Ty) -> Shape<'a> {
        match ty {
            Ty::Object(ty) => Shape::Struct(ty),
            Ty::Map(map) => Shape::MapOf(&map.value),
            Ty::List(list) => Shape::of(&list.item),
            _ => Shape::Free,
        }
    }

    fn field(self, name: &str) -> Option<&'a Field> {
        match self {
            Shape::Struct(ty) => ty.field(name),
            _ => None,
        }
    }

    /// The shape of what lies under `name`.
    fn under(self, name: &str) -> Shape<'a> {
        match self {
            Shape::Struct(ty) => ty.field(name).map_or(Shape::Free, |field| Shape::of(&field.ty)),
            Shape::MapOf(ty) => Shape::of(ty),
            Shape::Free => Shape::Free,
        }
    }

    /// Whether the struct under `name` is replaced, not merged.
    fn replaces(self, name: &str) -> bool {
        matches!(self, Shape::Struct(ty) if (ty.name.as_ref(), name) == REPLACED)
    }

    /// Whether the list under `name` merges, and by which key its items are found.
    fn list(self, name: &str) -> (bool, Option<&'a str>) {
        self.field(name).map_or((false, None), |field| (field.patch_merge, field.patch_merge_key.as_deref()))
    }
}

fn bad_directive(directive: &Value) -> PatchError {
    PatchError::DoesNotApply(format!("unknown patch type: {directive}"))
}

fn bad_list(directive: &str) -> PatchError {
    PatchError::Malformed(format!("invalid patch format of {directive}"))
}

fn no_merge_key(item: &Value, key: &str) -> PatchError {
    PatchError::DoesNotApply(format!("map: {item} does not contain declared merge key: {key}"))
}

fn merge_map(mut original: Fields, patch: &Fields, shape: Shape) -> Result<Fields, PatchError> {
    match patch.get(DIRECTIVE) {
        None => {}
        Some(Value::String(word)) if word == "replace" => {
            return Ok(patch
                .iter()
                .filter(|(key, _)| *key != DIRECTIVE)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect());
        }
        Some(Value::String(word)) if word == "delete" => return Ok(Map::new()),
        Some(other) => return Err(bad_directive(other)),
    }
    retain_keys(&mut original, patch)?;
    let ordered = merge_ordered_lists(&mut original, patch, shape)?;
    for (key, change) in patch {
        if key == RETAIN_KEYS || key.starts_with(ELEMENT_ORDER) || ordered.contains(&key.as_str()) {
            continue;
        }
        if key.starts_with(DELETE_PRIMITIVES) {
            delete_primitives(&mut original, key, change)?;
        } else if change.is_null() {
            original.remove(key);
        } else {
            merge_field(&mut original, key, change, shape)?;
        }
    }
    Ok(original)
}

fn merge_field(original: &mut Fields, key: &str, change: &Value, shape: Shape) -> Result<(), PatchError> {
    let merged = match (original.remove(key), change) {
        (Some(Value::Object(_)), Value::Object(_)) if shape.replaces(key) => cleaned(change),
        (Some(Value::Object(old)), Value::Object(new)) => Some(Value::Object(merge_map(old, new, shape.under(key))?)),
        (Some(Value::Array(old)), Value::Array(new)) => match shape.list(key) {
            (true, merge_key) => Some(Value::Array(merge_list(old, new, merge_key, shape.under(key))?)),
            (false, _) => cleaned(change),
        },
        // Go compares types: a list or map that was there as something else is simply replaced.
        _ => cleaned(change),
    };
    if let Some(merged) = merged {
        original.insert(key.to_owned(), merged);
    }
    Ok(())
}

/// The value without nulls in maps and without anything marked by a directive; none if it is itself marked.
fn cleaned(value: &Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => {
            let kept = fields
                .iter()
                .filter(|(key, value)| {
                    let directive = key.starts_with(ELEMENT_ORDER) || key.starts_with(DELETE_PRIMITIVES);
                    !value.is_null() && !directive && *key != RETAIN_KEYS
                })
                .filter_map(|(key, value)| Some((key.clone(), cleaned(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.iter().filter_map(cleaned).collect())),
        other => Some(other.clone()),
    }
}

fn retain_keys(original: &mut Fields, patch: &Fields) -> Result<(), PatchError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keys: Vec<&str> =
        keys.as_array().ok_or_else(|| bad_list(RETAIN_KEYS))?.iter().filter_map(Value::as_str).collect();
    let unnamed = patch.iter().any(|(key, value)| {
        let directive = key == RETAIN_KEYS || key.starts_with(ELEMENT_ORDER) || key.starts_with(DELETE_PRIMITIVES);
        !directive && !value.is_null() && !keys.contains(&key.as_str())
    });
    if unnamed {
        return Err(bad_list(RETAIN_KEYS));
    }
    original.retain(|key, _| keys.contains(&key.as_str()));
    Ok(())
}

fn delete_primitives(original: &mut Fields, key: &str, values: &Value) -> Result<(), PatchError> {
    let name = named_list(key, DELETE_PRIMITIVES)?;
    let doomed = values.as_array().ok_or_else(|| bad_list(DELETE_PRIMITIVES))?;
    if let Some(Value::Array(items)) = original.get_mut(name) {
        items.retain(|item| !doomed.contains(item));
    }
    Ok(())
}

/// The list a directive like `$setElementOrder/containers` speaks of.
fn named_list<'a>(key: &'a str, directive: &str) -> Result<&'a str, PatchError> {
    key.strip_prefix(directive).and_then(|rest| rest.strip_prefix('/')).ok_or_else(|| bad_list(directive))
}

/// Merges every list that has a `$setElementOrder`, and names those lists.
fn merge_ordered_lists<'p>(original: &mut Fields, patch: &'p Fields, shape: Shape) -> Result<Vec<&'p str>, PatchError> {
    let mut done = Vec::new();
    for (key, order) in patch.iter().filter(|(key, _)| key.starts_with(ELEMENT_ORDER)) {
        let name = named_list(key, ELEMENT_ORDER)?;
        let order = order.as_array().ok_or_else(|| bad_list(ELEMENT_ORDER))?;
        let new = match patch.get(name) {
            None => &[],
            // A null deletes the list; that is done with the other fields.
            Some(Value::Null) => continue,
            Some(Value::Array(items)) => items.as_slice(),
            Some(_) => return Err(bad_list(ELEMENT_ORDER)),
        };
        let old = match original.remove(name) {
            Some(Value::Array(items)) => Some(items),
            Some(other) => {
                original.insert(name.to_owned(), other);
                continue;
            }
            None => None,
        };
        let (merges, merge_key) = shape.list(name);
        check_order(new, order, merge_key)?;
        let positions = match merge_key {
            Some(key) => positions_after(old.as_deref().unwrap_or(&[]), new, key),
            None => old.clone().unwrap_or_default(),
        };
        let merged = match old {
            None if !patch.contains_key(name) => continue,
            None => new.iter().filter_map(cleaned).collect(),
            Some(old) if !patch.contains_key(name) => old,
            Some(old) if merges => merge_list(old, new, merge_key, shape.under(name))?,
            Some(_) => new.to_vec(),
        };
        original.insert(name.to_owned(), Value::Array(in_order(merged, order, &positions, merge_key)?));
        done.push(name);
    }
    Ok(done)
}

/// Where the items stand once the patch has deleted some: new items take over the places that became free. Upstream's
/// merge works in place, so this is what its ordering goes by (v1.36, `mergePatchIntoOriginal`).
fn positions_after(items: &[Value], patch: &[Value], key: &str) -> Vec<Value> {
    let is_doomed = |item: &&Value| {
        patch
            .iter()
            .any(|change| change.get(DIRECTIVE).is_some() && identity(change, Some(key)) == identity(item, Some(key)))
    };
    let mut places: Vec<Value> = items.iter().filter(|item| !is_doomed(item)).cloned().collect();
    let freed = items.len() - places.len();
    let is_new = |change: &&Value| change.get(DIRECTIVE).is_none() && position(items, change, Some(key)).is_none();
    places.extend(patch.iter().filter(is_new).take(freed).cloned());
    places
}

/// The items of the patch must come in the order that the directive gives.
fn check_order(items: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), PatchError> {
    let mut ahead = order.iter();
    for item in items.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if !order.is_empty() && !ahead.any(|named| identity(named, merge_key) == identity(item, merge_key)) {
            return Err(PatchError::DoesNotApply(format!(
                "The order in patch list:\n{}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
                Value::from(items.to_vec()),
                Value::from(order.to_vec())
            )));
        }
    }
    Ok(())
}

/// What tells an item from its neighbours: its merge key's value, or itself.
fn identity<'a>(item: &'a Value, merge_key: Option<&str>) -> Option<&'a Value> {
    match merge_key {
        Some(key) => item.get(key),
        None => Some(item),
    }
}

fn position(order: &[Value], item: &Value, merge_key: Option<&str>) -> Option<usize> {
    let wanted = identity(item, merge_key)?;
    order.iter().position(|other| identity(other, merge_key) == Some(wanted))
}

fn merge_list(
    mut items: Vec<Value>,
    patch: &[Value],
    merge_key: Option<&str>,
    shape: Shape,
) -> Result<Vec<Value>, PatchError> {
    if items.is_empty() && patch.is_empty() {
        return Ok(items);
    }
    let all = || items.iter().chain(patch);
    if all().any(Value::is_array) {
        return Err(PatchError::DoesNotApply("lists of lists are not supported".to_owned()));
    }
    if !all().any(Value::is_object) {
        let positions = items.clone();
        for value in patch {
            if !items.contains(value) {
                items.push(value.clone());
            }
        }
        return in_order(items, patch, &positions, None);
    }
    let key = merge_key.ok_or_else(|| PatchError::DoesNotApply("cannot merge lists without merge key".to_owned()))?;
    let plain = obey_item_directives(&mut items, patch, key)?;
    let Some(plain) = plain else {
        return Ok(patch.iter().filter(|item| item.get(DIRECTIVE).is_none()).filter_map(cleaned).collect());
    };
    let positions = items.clone();
    for change in &plain {
        let wanted = change.get(key).ok_or_else(|| no_merge_key(change, key))?;
        let found = items.iter_mut().find(|item| item.get(key) == Some(wanted));
        match (found, change) {
            (Some(Value::Object(old)), Value::Object(new)) => *old = merge_map(std::mem::take(old), new, shape)?,
            _ => items.extend(cleaned(change)),
        }
    }
    let plain: Vec<Value> = plain.into_iter().cloned().collect();
    in_order(items, &plain, &positions, merge_key)
}

/// Removes the items that the patch deletes and gives the rest of the patch; none if the patch replaces the list.
fn obey_item_directives<'p>(
    items: &mut Vec<Value>,
    patch: &'p [Value],
    key: &str,
) -> Result<Option<Vec<&'p Value>>, PatchError> {
    let (mut plain, mut replace) = (Vec::new(), false);
    for change in patch {
        match change.get(DIRECTIVE) {
            None => plain.push(change),
            Some(Value::String(word)) if word == "delete" => {
                let doomed = change.get(key).ok_or_else(|| no_merge_key(change, key))?;
                items.retain(|item| item.get(key) != Some(doomed));
            }
            Some(Value::String(word)) if word == "replace" => replace = true,
            Some(Value::String(word)) if word == "merge" => {
                return Err(PatchError::DoesNotApply("merging lists cannot yet be specified in the patch".to_owned()));
            }
            Some(other) => return Err(bad_directive(other)),
        }
    }
    Ok((!replace).then_some(plain))
}

/// Sorts a merged list: items named by `order` stand as named there; the others keep the order of `positions`, each
/// before the first named item that stood behind it.
fn in_order(
    items: Vec<Value>,
    order: &[Value],
    positions: &[Value],
    merge_key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    if let Some(key) = merge_key
        && let Some(item) = items.iter().chain(order).find(|item| item.get(key).is_none())
    {
        return Err(no_merge_key(item, key));
    }
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| position(order, item, merge_key).is_some());
    named.sort_by_key(|item| position(order, item, merge_key));
    others.sort_by(|one, two| match (position(positions, one, merge_key), position(positions, two, merge_key)) {
        (Some(one), Some(two)) => one.cmp(&two),
        _ => Ordering::Equal,
    });
    let mut sorted = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        let here = position(positions, &item, merge_key);
        while let Some(other) = others.next_if(
            |other| matches!((position(positions, other, merge_key), here), (Some(other), Some(here)) if other < here),
        ) {
            sorted.push(other);
        }
        sorted.push(item);
    }
    sorted.extend(others);
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    /// Patches a Pod; objects are written as JSON with single quotes.
    fn check(base: &str, patch: &str, want: &str) {
        check_type("io.k8s.api.core.v1.Pod", base, patch, want);
    }

    fn check_type(name: &str, base: &str, patch: &str, want: &str) {
        let json = |text: &str| -> Value {
            serde_json::from_str(&text.replace('\'', "\"")).unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        let ty = schema::find(name).expect("a built-in type");
        let outcome = match strategic(ty, &json(base), &json(patch)) {
            Ok(value) => value.to_string().replace('"', "'"),
            Err(error) => error.to_string(),
        };
        assert_eq!(outcome, want, "{base} + {patch}");
    }

    /// A pod with these containers, each written `name` or `name=image`.
    fn pod(containers: &str) -> String {
        let one = |word: &str| match word.split_once('=') {
            Some((name, image)) => format!("{{'image':'{image}','name':'{name}'}}"),
            None => format!("{{'name':'{word}'}}"),
        };
        let items: Vec<String> = containers.split_whitespace().map(one).collect();
        format!("{{'spec':{{'containers':[{}]}}}}", items.join(","))
    }

    #[test]
    fn maps_merge_and_null_deletes() {
        check(
            "{'metadata':{'labels':{'a':'1','b':'2'}}}",
            "{'metadata':{'labels':{'a':null,'c':'3'}}}",
            "{'metadata':{'labels':{'b':'2','c':'3'}}}",
        );
        check("{}", "{'metadata':{'labels':{'a':null}}}", "{'metadata':{'labels':{}}}");
        check("{'spec':{'nodeName':'a'}}", "{'spec':null}", "{}");
    }

    #[test]
    fn containers_merge_by_name_and_new_ones_come_first() {
        check(&pod("a=1 b=2"), &pod("a=9"), &pod("a=9 b=2"));
        check(&pod("a b"), &pod("c"), &pod("c a b"));
        check(&pod("a b"), &pod("b=2 c"), &pod("a b=2 c"));
        check(
            &pod("a"),
            "{'spec':{'containers':[{'image':'x'}]}}",
            "map: {\"image\":\"x\"} does not contain declared merge key: name",
        );
    }

    #[test]
    fn items_are_deleted_and_lists_replaced_by_directive() {
        check(&pod("a b c"), "{'spec':{'containers':[{'$patch':'delete','name':'b'}]}}", &pod("a c"));
        check(&pod("a b"), "{'spec':{'containers':[{'$patch':'replace'},{'name':'x'}]}}", &pod("x"));
        check(&pod("a"), "{'spec':{'$patch':'replace','nodeName':'n'}}", "{'spec':{'nodeName':'n'}}");
        check(&pod("a"), "{'spec':{'$patch':'delete'}}", "{'spec':{}}");
        check(&pod("a"), "{'spec':{'$patch':'fold'}}", "unknown patch type: \"fold\"");
    }

    #[test]
    fn element_order_is_kept() {
        let order = |names: &str, list: &str| {
            let names: Vec<String> = names.split_whitespace().map(|name| format!("{{'name':'{name}'}}")).collect();
            format!("{{'spec':{{'$setElementOrder/containers':[{}]{list}}}}}", names.join(","))
        };
        check(&pod("a b c"), &order("c b a", ""), &pod("c b a"));
        check(&pod("a b"), &order("c a b", ",'containers':[{'name':'c'}]"), &pod("c a b"));
        check(&pod("a x b"), &order("b a", ""), &pod("x b a"));
        check(&pod("x a b"), &order("a b", ""), &pod("x a b"));
        check(&pod("a b"), &order("a", ",'containers':[{'name':'b','$patch':'delete'}]"), &pod("a"));
        let swap = ",'containers':[{'name':'n'},{'name':'a','$patch':'delete'}]";
        check(&pod("a x"), &order("n", swap), &pod("x n"));
    }

    #[test]
    fn primitive_lists_merge_and_shrink() {
        let finalizers = |list: &str| format!("{{'metadata':{{'finalizers':[{list}]}}}}");
        check(&finalizers("'a','b'"), &finalizers("'c'"), &finalizers("'c','a','b'"));
        check(&finalizers("'a','b'"), &finalizers("'b'"), &finalizers("'a','b'"));
        check(&finalizers("'a','b'"), "{'metadata':{'$deleteFromPrimitiveList/finalizers':['a']}}", &finalizers("'b'"));
        check(
            &finalizers("'a','b'"),
            "{'metadata':{'$deleteFromPrimitiveList/finalizers':['a'],'$setElementOrder/finalizers':['c','b'],'finalizers':['c']}}",
            &finalizers("'c','b'"),
        );
        check("{}", "{'metadata':{'$deleteFromPrimitiveList/finalizers':['a']}}", "{'metadata':{}}");
    }

    #[test]
    fn lists_without_a_strategy_are_replaced() {
        let args = |list: &str| format!("{{'spec':{{'containers':[{{'args':[{list}],'name':'a'}}]}}}}");
        check(&args("'1','2'"), &args("'3'"), &args("'3'"));
    }

    #[test]
    fn retained_keys_drop_the_rest() {
        let volumes = |inner: &str| format!("{{'spec':{{'volumes':[{{{inner}'name':'v'}}]}}}}");
        check(
            &volumes("'emptyDir':{},"),
            &volumes("'$retainKeys':['name','hostPath'],'hostPath':{'path':'/x'},"),
            &volumes("'hostPath':{'path':'/x'},"),
        );
        check(
            &volumes("'emptyDir':{},"),
            &volumes("'$retainKeys':['name'],'hostPath':{'path':'/x'},"),
            "invalid patch format of $retainKeys",
        );
        check_type(
            "io.k8s.api.apps.v1.Deployment",
            "{'spec':{'strategy':{'rollingUpdate':{'maxSurge':1},'type':'RollingUpdate'}}}",
            "{'spec':{'strategy':{'$retainKeys':['type'],'type':'Recreate'}}}",
            "{'spec':{'strategy':{'type':'Recreate'}}}",
        );
    }

    #[test]
    fn the_selector_of_a_disruption_budget_is_replaced() {
        let selector = |labels: &str| format!("{{'spec':{{'selector':{{'matchLabels':{{{labels}}}}}}}}}");
        let kind = "io.k8s.api.policy.v1.PodDisruptionBudget";
        check_type(kind, &selector("'a':'b'"), &selector("'c':'d'"), &selector("'c':'d'"));
    }

    #[test]
    fn ports_merge_by_their_number() {
        check_type(
            "io.k8s.api.core.v1.Service",
            "{'spec':{'ports':[{'port':80,'protocol':'TCP'}]}}",
            "{'spec':{'ports':[{'name':'web','port':80}]}}",
            "{'spec':{'ports':[{'name':'web','port':80,'protocol':'TCP'}]}}",
        );
    }

    #[test]
    fn nothing_of_the_patch_itself_is_left() {
        check("{}", "{'spec':{'containers':[{'name':'a','$patch':'delete'},{'name':'b','image':null}]}}", &pod("b"));
        check("{}", "{'spec':{'$setElementOrder/containers':[{'name':'b'}],'containers':[{'name':'b'}]}}", &pod("b"));
    }
}
