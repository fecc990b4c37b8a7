//! Which names a definition gets, when several of one group want the same.
//!
//! Start at [`names`]: from a definition and all definitions to its new status.
//!
//! Invariants:
//! * a name that a definition has it keeps, whatever others want;
//! * once established, always established: objects that were served are not taken away by a clash of short names.

use base::Timestamp;
use serde_json::{Map, Value, json};

use crate::dig;
use crate::meta;

/// The names a definition can have one of: the field, what a clash is called, and whether it is a kind's name.
const SINGLE: [(&str, &str, bool); 4] = [
    ("plural", "PluralConflict", false),
    ("singular", "SingularConflict", false),
    ("kind", "KindConflict", true),
    ("listKind", "ListKindConflict", true),
];

/// The status of a definition among `all` definitions (it may be one of them): accepted names and the conditions that
/// follow.
pub fn names(definition: &Value, all: &[Value], now: Timestamp) -> Value {
    let mut status = dig::get(definition, "status").clone();
    let (accepted, clash) = accept(definition, all);
    dig::put(&mut status, "acceptedNames", accepted);
    let (is, reason, message) = match &clash {
        None => ("True", "NoConflicts", "no conflicts found"),
        Some((reason, message)) => ("False", *reason, message.as_str()),
    };
    set_condition(&mut status, "NamesAccepted", is, reason, message, now);
    let established = super::is_established(definition);
    match (established, &clash) {
        (true, _) => {}
        (false, None) => {
            let message = "the initial names have been accepted";
            set_condition(&mut status, "Established", "True", "InitialNamesAccepted", message, now);
        }
        (false, Some(_)) => {
            set_condition(&mut status, "Established", "False", "NotAccepted", "not all names are accepted", now);
        }
    }
    status
}

/// The names it gets, and what the last of those it does not get clashes with.
fn accept(definition: &Value, all: &[Value]) -> (Value, Option<(&'static str, String)>) {
    let (wanted, held) = (dig::get(definition, "spec.names"), dig::get(definition, "status.acceptedNames"));
    let taken = |name: &str, is_kind: bool| {
        all.iter().any(|other| meta::uid(other) != meta::uid(definition) && has(other, definition, name, is_kind))
    };
    let mut accepted = held.as_object().cloned().unwrap_or_default();
    let mut clash = None;
    for (field, reason, is_kind) in SINGLE {
        let name = dig::text(wanted, field);
        if name != dig::text(held, field) && !name.is_empty() && taken(name, is_kind) {
            clash = Some((reason, format!("{name:?} is already in use")));
        } else {
            put(&mut accepted, field, dig::get(wanted, field));
        }
    }
    let ours = dig::texts(held, "shortNames");
    let short: Vec<String> = dig::texts(wanted, "shortNames")
        .into_iter()
        .filter(|name| !ours.contains(name) && taken(name, false))
        .map(|name| format!("{name:?} is already in use"))
        .collect();
    match short.as_slice() {
        [] => put(&mut accepted, "shortNames", dig::get(wanted, "shortNames")),
        [one] => clash = Some(("ShortNamesConflict", one.clone())),
        several => clash = Some(("ShortNamesConflict", format!("[{}]", several.join(", ")))),
    }
    put(&mut accepted, "categories", dig::get(wanted, "categories"));
    (Value::Object(accepted), clash)
}

fn put(names: &mut Map<String, Value>, field: &str, value: &Value) {
    match value {
        Value::Null => drop(names.remove(field)),
        value => drop(names.insert(field.to_owned(), value.clone())),
    }
}

/// Another definition of the same group has that name.
fn has(other: &Value, definition: &Value, name: &str, is_kind: bool) -> bool {
    let held = dig::get(other, "status.acceptedNames");
    let fields: &[&str] = if is_kind { &["kind", "listKind"] } else { &["plural", "singular"] };
    dig::text(other, "spec.group") == dig::text(definition, "spec.group")
        && (fields.iter().any(|field| dig::text(held, field) == name)
            || (!is_kind && dig::texts(held, "shortNames").contains(&name)))
}

/// Sets a condition; the moment of its last transition moves only when its status does.
pub fn set_condition(status: &mut Value, ty: &str, is: &str, reason: &str, message: &str, now: Timestamp) {
    let mut conditions = dig::list(status, "conditions").to_vec();
    let old = conditions.iter().position(|one| dig::text(one, "type") == ty);
    let since = old.map(|at| &conditions[at]).filter(|old| dig::text(old, "status") == is);
    let since = since.map_or_else(|| Value::from(now.rfc3339()), |old| old["lastTransitionTime"].clone());
    let new = json!({"type": ty, "status": is, "reason": reason, "message": message, "lastTransitionTime": since});
    match old {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
    dig::put(status, "conditions", conditions.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(uid: &str, plural: &str, kind: &str, short: &[&str]) -> Value {
        let names = json!({
            "plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"), "shortNames": short,
        });
        json!({"metadata": {"uid": uid}, "spec": {"group": "g.io", "names": names}})
    }

    /// Gives `first` its names, then asks for `second`: what is accepted and established, and why not.
    #[track_caller]
    fn check(first: Value, second: Value, want: &str) {
        let now = Timestamp::from_seconds(0);
        let mut first = first;
        first["status"] = names(&first, &[], now);
        let status = names(&second, &[first, second.clone()], now);
        let of = |ty: &str, field: &str| {
            let found = dig::list(&status, "conditions").iter().find(|one| one["type"] == ty).cloned();
            dig::text(&found.unwrap_or_default(), field).to_owned()
        };
        assert_eq!(
            format!(
                "{} {} {}",
                of("NamesAccepted", "status"),
                of("Established", "status"),
                of("NamesAccepted", "reason")
            ),
            want
        );
    }

    #[test]
    fn names_go_to_who_has_them() {
        check(definition("1", "as", "A", &["x"]), definition("2", "bs", "B", &["y"]), "True True NoConflicts");
        check(definition("1", "as", "A", &["x"]), definition("2", "bs", "B", &["x"]), "False False ShortNamesConflict");
        check(definition("1", "as", "A", &["bs"]), definition("2", "bs", "B", &[]), "False False PluralConflict");
        check(definition("1", "as", "A", &[]), definition("2", "bs", "A", &[]), "False False ListKindConflict");
        check(definition("1", "as", "A", &[]), definition("1", "as", "A", &[]), "True True NoConflicts");
    }

    #[test]
    fn a_condition_remembers_since_when_it_holds() {
        let mut status = json!({});
        set_condition(&mut status, "A", "True", "R", "m", Timestamp::from_seconds(1));
        set_condition(&mut status, "A", "True", "S", "n", Timestamp::from_seconds(2));
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:01Z");
        set_condition(&mut status, "A", "False", "S", "n", Timestamp::from_seconds(3));
        assert_eq!(
            (status["conditions"].as_array().map(Vec::len), &status["conditions"][0]["lastTransitionTime"]),
            (Some(1), &json!("1970-01-01T00:00:03Z"))
        );
    }
}
