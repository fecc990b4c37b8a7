//! The defaults that a schema carries, for built-in kinds and custom resources alike.
//!
//! Start at [`apply`]. Structs are walked as deep as the object goes: a default inside an absent struct stays unapplied,
//! unless the struct itself has a default.

use crate::dig;
use crate::schema::{Ty, Type, TypeRef};
use serde_json::Value;

/// Fills in `object` by `ty`.
pub fn apply(ty: &TypeRef, object: &mut Value) {
    // Upstream's published schemas give every required text a default of "": it stands for Go's zero value, which is
    // never written. Only a custom resource may default to a zero value in earnest.
    fill(ty, object, matches!(ty, TypeRef::Own(_)));
}

fn fill(ty: &Type, object: &mut Value, zero_counts: bool) {
    let Value::Object(fields) = object else { return };
    for field in &ty.fields {
        let name = field.name.as_ref();
        let unset = match fields.get(name) {
            None => true,
            Some(Value::Null) => !field.nullable,
            Some(_) => false,
        };
        let default = field.default.as_deref().filter(|_| unset);
        if let Some(value) = default.and_then(|text| serde_json::from_str::<Value>(text).ok())
            && (zero_counts || !dig::is_zero(&value))
        {
            fields.insert(name.to_owned(), value);
        }
        if let Some(value) = fields.get_mut(name) {
            fill_value(&field.ty, value, zero_counts);
        }
    }
}

fn fill_value(ty: &Ty, value: &mut Value, zero_counts: bool) {
    match (ty, value) {
        (Ty::Object(inner), value) => fill(inner, value, zero_counts || matches!(inner, TypeRef::Own(_))),
        (Ty::List(list), Value::Array(items)) if list.item.object().is_some() => {
            items.iter_mut().for_each(|item| fill_value(&list.item, item, zero_counts));
        }
        (Ty::Map(map), Value::Object(entries)) if map.value.object().is_some() => {
            entries.values_mut().for_each(|entry| fill_value(&map.value, entry, zero_counts));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Field, ListTy, Topology};
    use serde_json::json;

    fn custom() -> TypeRef {
        let with = |name: &'static str, ty: Ty, default: Option<&'static str>| Field {
            default: default.map(Into::into),
            ..Field::new(name, ty)
        };
        let item = Type { fields: vec![with("mode", Ty::String, Some("\"a\""))], ..Type::default() };
        let list = ListTy { item: Ty::Object(item.clone().into()), topology: Topology::Atomic };
        Type {
            fields: vec![
                with("count", Ty::Int64, Some("0")),
                with("inner", Ty::Object(item.into()), Some("{}")),
                with("items", Ty::List(Box::new(list)), None),
            ],
            ..Type::default()
        }
        .into()
    }

    #[test]
    fn absent_fields_are_filled_as_deep_as_the_object_goes() {
        for (given, want) in [
            (json!({}), json!({"count": 0, "inner": {"mode": "a"}})),
            (json!({"count": 5, "inner": {"mode": "b"}}), json!({"count": 5, "inner": {"mode": "b"}})),
            (
                json!({"count": null, "inner": {}, "items": [{}]}),
                json!({"count": 0, "inner": {"mode": "a"}, "items": [{"mode": "a"}]}),
            ),
        ] {
            let mut object = given.clone();
            apply(&custom(), &mut object);
            assert_eq!(object, want, "{given}");
        }
    }
}
