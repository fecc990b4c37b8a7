//! Collecting what is wrong, and the small rules that all kinds share.
//!
//! Start at [`Wrong`]. Rules come in upstream's words; each takes the struct, the field's name and the struct's path.

use crate::dig;
use crate::field::{FieldError, Path};
use crate::intstr::IntOrString;
use crate::names;
use crate::quantity::Quantity;
use crate::selector::LabelSelector;
use serde_json::Value;

pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const IMMUTABLE: &str = "field is immutable";

/// What is wrong so far.
#[derive(Default)]
pub(super) struct Wrong(pub(super) Vec<FieldError>);

impl Wrong {
    pub(super) fn required(&mut self, at: &Path, detail: &str) {
        self.0.push(FieldError::required(at, detail));
    }
    pub(super) fn invalid(&mut self, at: &Path, bad: impl Into<Value>, detail: impl Into<String>) {
        self.0.push(FieldError::invalid(at, bad, detail));
    }
    pub(super) fn forbidden(&mut self, at: &Path, detail: impl Into<String>) {
        self.0.push(FieldError::forbidden(at, detail));
    }
    pub(super) fn duplicate(&mut self, at: &Path, bad: impl Into<Value>) {
        self.0.push(FieldError::duplicate(at, bad));
    }
    pub(super) fn not_found(&mut self, at: &Path, bad: impl Into<Value>) {
        self.0.push(FieldError::not_found(at, bad));
    }
    pub(super) fn not_supported(&mut self, at: &Path, bad: impl Into<Value>, allowed: &[&str]) {
        self.0.push(FieldError::not_supported(at, bad, allowed));
    }
    pub(super) fn too_long(&mut self, at: &Path, bytes_max: usize) {
        self.0.push(FieldError::too_long(at, bytes_max));
    }
    pub(super) fn too_many(&mut self, at: &Path, count: usize, count_max: usize) {
        self.0.push(FieldError::too_many(at, count, count_max));
    }

    /// One error for each sentence that a check of `names` gave.
    pub(super) fn all(&mut self, at: &Path, bad: impl Into<Value> + Clone, sentences: Vec<String>) {
        for sentence in sentences {
            self.invalid(at, bad.clone(), sentence);
        }
    }

    /// The number must not be negative.
    pub(super) fn not_negative(&mut self, value: &Value, field: &str, at: &Path) {
        if let Some(number) = dig::int(value, field).filter(|number| *number < 0) {
            self.invalid(&at.child(field), number, NOT_NEGATIVE);
        }
    }

    /// The number, if given, must lie within bounds.
    pub(super) fn in_range(&mut self, value: &Value, field: &str, low: i64, high: i64, at: &Path) {
        if let Some(number) = dig::int(value, field) {
            self.all(&at.child(field), number, names::range(number, low, high));
        }
    }

    /// The text must be there.
    pub(super) fn need_text(&mut self, value: &Value, field: &str, at: &Path) {
        if dig::text(value, field).is_empty() {
            self.required(&at.child(field), "");
        }
    }

    /// The text, if there, must pass a check of `names`.
    pub(super) fn text(&mut self, value: &Value, field: &str, check: fn(&str) -> Vec<String>, at: &Path) {
        let text = dig::text(value, field);
        if !text.is_empty() {
            self.all(&at.child(field), text, check(text));
        }
    }

    /// The text must be there and pass a check of `names`.
    pub(super) fn name(&mut self, value: &Value, field: &str, check: fn(&str) -> Vec<String>, at: &Path) {
        self.need_text(value, field, at);
        self.text(value, field, check, at);
    }

    /// The text must be one of `allowed`; a missing one is a missing value.
    pub(super) fn one_of(&mut self, value: &Value, field: &str, allowed: &[&str], at: &Path) {
        self.need_text(value, field, at);
        self.one_of_if_set(value, field, allowed, at);
    }

    /// The text, if there, must be one of `allowed`.
    pub(super) fn one_of_if_set(&mut self, value: &Value, field: &str, allowed: &[&str], at: &Path) {
        let text = dig::text(value, field);
        if !text.is_empty() && !allowed.contains(&text) {
            self.not_supported(&at.child(field), text, allowed);
        }
    }

    /// The field must be what it was.
    pub(super) fn fixed(&mut self, new: &Value, old: &Value, field: &str, at: &Path) {
        if !dig::same(dig::get(new, field), dig::get(old, field)) {
            self.invalid(&at.child(field), dig::get(new, field).clone(), IMMUTABLE);
        }
    }

    /// A port by number or, where `names_too`, by name.
    pub(super) fn port(&mut self, port: &Value, names_too: bool, at: &Path) {
        match IntOrString::of(port) {
            Some(IntOrString::Int(number)) => self.all(at, number, names::port_number(number)),
            Some(IntOrString::Text(name)) if names_too => self.all(at, name, names::port_name(name)),
            _ => self.invalid(at, port.clone(), "must be between 1 and 65535, inclusive"),
        }
    }

    /// A count or a percentage, at most 100 % where `capped`.
    pub(super) fn count_or_percent(&mut self, value: &Value, capped: bool, at: &Path) {
        match IntOrString::of(value) {
            None => {}
            Some(IntOrString::Int(number)) if number < 0 => self.invalid(at, number, NOT_NEGATIVE),
            Some(IntOrString::Int(_)) => {}
            Some(text @ IntOrString::Text(word)) => match text.percent() {
                None => self.invalid(
                    at,
                    word,
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                     regex used for validation is '[0-9]+%')",
                ),
                Some(percent) if capped && percent > 100 => self.invalid(at, word, "must not be greater than 100%"),
                Some(_) => {}
            },
        }
    }

    /// A `metav1.LabelSelector`.
    pub(super) fn selector(&mut self, selector: &Value, at: &Path) {
        super::meta::labels(dig::get(selector, "matchLabels"), &at.child("matchLabels"), &mut self.0);
        let expressions = at.child("matchExpressions");
        for (index, expression) in dig::list(selector, "matchExpressions").iter().enumerate() {
            self.expression(expression, &expressions.index(index));
        }
    }

    fn expression(&mut self, expression: &Value, at: &Path) {
        let values = dig::texts(expression, "values");
        match dig::text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                self.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                self.forbidden(
                    &at.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => self.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
        let key = dig::text(expression, "key");
        self.all(&at.child("key"), key, names::qualified_name(key));
        let at_values = at.child("values");
        for (index, value) in values.into_iter().enumerate() {
            self.all(&at_values.index(index), value, names::label_value(value));
        }
    }

    /// A quantity that is not negative.
    pub(super) fn amount(&mut self, value: &Value, at: &Path) -> Option<Quantity> {
        match Quantity::from_json(value) {
            Ok(quantity) => {
                if quantity.sign() < 0 {
                    self.invalid(at, quantity.to_string(), NOT_NEGATIVE);
                }
                Some(quantity)
            }
            Err(error) => {
                self.invalid(at, value.clone(), error.to_string());
                None
            }
        }
    }
}

/// Whether a selector, given as an object, selects these labels.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    let empty = serde_json::Map::new();
    LabelSelector::from_object(selector).is_ok_and(|it| it.matches(labels.as_object().unwrap_or(&empty)))
}

/// Whether a selector selects by nothing at all.
pub(super) fn is_empty_selector(selector: &Value) -> bool {
    dig::map(selector, "matchLabels").is_empty() && dig::list(selector, "matchExpressions").is_empty()
}
