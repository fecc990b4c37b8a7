//! Label and field selectors: which objects a list, a watch, a Service or a Deployment means.
//!
//! Start at [`LabelSelector::parse`] for the query-string form (`app in (a,b),!canary`), [`LabelSelector::from_object`]
//! for the `metav1.LabelSelector` of an object, [`FieldSelector::parse`] for `metadata.name=a,status.phase!=Running`.
//!
//! Invariants:
//! * requirements are sorted by key, so equal selectors print alike;
//! * parse errors read as upstream's.

use crate::dig;
use crate::field::{FieldError, Path, aggregate};
use crate::names;
use serde_json::{Map, Value};
use std::fmt;

/// Why a selector cannot be read, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equals,
    /// `==`
    DoubleEquals,
    /// `!=`
    NotEquals,
    /// `in`
    In,
    /// `notin`
    NotIn,
    /// The key alone.
    Exists,
    /// `!` and the key.
    DoesNotExist,
    /// `>`, on whole numbers.
    GreaterThan,
    /// `<`, on whole numbers.
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// What it compares with; sorted, each once.
    pub values: Vec<String>,
}

/// Conditions on labels, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    nothing: bool,
    requirements: Vec<Requirement>,
}

/// Where labels are looked up: a JSON map, or any other map of texts.
pub trait Labels {
    /// The value of a label.
    fn value(&self, key: &str) -> Option<&str>;
}
impl Labels for Map<String, Value> {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}
impl Labels for std::collections::BTreeMap<String, String> {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Requirement {
    /// Checks key and values as upstream's `NewRequirement`.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Requirement, SelectorError> {
        values.sort();
        values.dedup();
        let mut wrong = Vec::new();
        let (key_path, values_path) = (Path::new("key"), Path::new("values"));
        let found = names::qualified_name(key);
        if !found.is_empty() {
            wrong.push(FieldError::invalid(&key_path, key, found.join("; ")));
        }
        let shown = || Value::from(values.clone());
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                let rule = "for 'in', 'notin' operators, values set can't be empty";
                wrong.push(FieldError::invalid(&values_path, shown(), rule));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                let rule = "values set must be empty for exists and does not exist";
                wrong.push(FieldError::invalid(&values_path, shown(), rule));
            }
            Operator::GreaterThan | Operator::LessThan => {
                for (at, value) in values.iter().enumerate().filter(|(_, value)| value.parse::<i64>().is_err()) {
                    let rule = "for 'Gt', 'Lt' operators, the value must be an integer";
                    wrong.push(FieldError::invalid(&values_path.index(at), value.as_str(), rule));
                }
            }
            _ => {}
        }
        for (at, value) in values.iter().enumerate() {
            let found = names::label_value(value);
            if !found.is_empty() {
                let place = values_path.index(at);
                wrong.push(FieldError::invalid(&place.key(key), value.as_str(), found.join("; ")));
            }
        }
        match wrong.is_empty() {
            true => Ok(Requirement { key: key.to_owned(), operator, values }),
            false => Err(SelectorError(aggregate(&wrong))),
        }
    }

    /// Whether the labels meet this condition.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let value = labels.value(&self.key);
        let is_listed = |value: &str| self.values.iter().any(|listed| listed == value);
        let number = || Some((value?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(is_listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(is_listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => number().is_some_and(|(value, bound)| value > bound),
            Operator::LessThan => number().is_some_and(|(value, bound)| value < bound),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(out, "{key}={values}"),
            Operator::DoubleEquals => write!(out, "{key}=={values}"),
            Operator::NotEquals => write!(out, "{key}!={values}"),
            Operator::In => write!(out, "{key} in ({values})"),
            Operator::NotIn => write!(out, "{key} notin ({values})"),
            Operator::Exists => write!(out, "{key}"),
            Operator::DoesNotExist => write!(out, "!{key}"),
            Operator::GreaterThan => write!(out, "{key}>{values}"),
            Operator::LessThan => write!(out, "{key}<{values}"),
        }
    }
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    /// Matches no object.
    pub fn nothing() -> LabelSelector {
        LabelSelector { nothing: true, requirements: Vec::new() }
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// All conditions must hold.
    pub fn of(mut requirements: Vec<Requirement>) -> LabelSelector {
        requirements.sort_by(|one, other| one.key.cmp(&other.key));
        LabelSelector { nothing: false, requirements }
    }

    /// Reads the query-string form. Empty text matches everything.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        Parser { tokens: tokens(text), at: 0 }.selector().map(LabelSelector::of)
    }

    /// Reads a `metav1.LabelSelector`: null matches nothing, an empty one everything.
    pub fn from_object(selector: &Value) -> Result<LabelSelector, SelectorError> {
        if selector.is_null() {
            return Ok(LabelSelector::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in dig::map(selector, "matchLabels") {
            let value = value.as_str().unwrap_or("").to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in dig::list(selector, "matchExpressions") {
            let operator = match dig::text(expression, "operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = dig::texts(expression, "values").into_iter().map(str::to_owned).collect();
            requirements.push(Requirement::new(dig::text(expression, "key"), operator, values)?);
        }
        Ok(LabelSelector::of(requirements))
    }

    /// Reads a plain map of labels, as Services and ReplicationControllers select: empty matches everything.
    pub fn from_map(labels: &Map<String, Value>) -> LabelSelector {
        let requirements = labels.iter().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or("").to_owned()],
        });
        LabelSelector::of(requirements.collect())
    }

    /// Whether an object with these labels is meant.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.requirements.iter().map(Requirement::to_string).collect();
        out.write_str(&parts.join(","))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    Word,
    Symbol,
}

/// A token and its text. `in` and `notin` are words; only their place makes them operators.
type Item<'a> = (Token, &'a str);

fn tokens(text: &str) -> Vec<Item<'_>> {
    let is_symbol = |letter: char| "=!(),><".contains(letter);
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while let Some(first) = rest.chars().next() {
        let length = match rest {
            _ if rest.starts_with("==") || rest.starts_with("!=") => 2,
            _ if is_symbol(first) => 1,
            _ => rest.find(|letter| is_symbol(letter) || " \t\r\n".contains(letter)).unwrap_or(rest.len()),
        };
        found.push((if is_symbol(first) { Token::Symbol } else { Token::Word }, &rest[..length]));
        rest = rest[length..].trim_start_matches([' ', '\t', '\r', '\n']);
    }
    found.push((Token::End, ""));
    found
}

struct Parser<'a> {
    tokens: Vec<Item<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Item<'a> {
        self.tokens.get(self.at).copied().unwrap_or((Token::End, ""))
    }

    fn next(&mut self) -> Item<'a> {
        let item = self.peek();
        self.at += 1;
        item
    }

    fn starts_requirement(&self) -> bool {
        let (token, text) = self.peek();
        token == Token::Word || text == "!"
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        let wrong = |text: &str, expected: &str| Err(SelectorError(format!("found '{text}', expected: {expected}")));
        loop {
            match self.peek() {
                (Token::End, _) => return Ok(requirements),
                (_, text) if !self.starts_requirement() => return wrong(text, "!, identifier, or 'end of string'"),
                _ => {}
            }
            let requirement = self.requirement();
            requirements
                .push(requirement.map_err(|error| SelectorError(format!("unable to parse requirement: {error}")))?);
            match self.next() {
                (Token::End, _) => return Ok(requirements),
                (_, ",") if self.starts_requirement() => {}
                (_, ",") => return wrong(self.peek().1, "identifier after ','"),
                (_, text) => return wrong(text, "',' or 'end of string'"),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = self.peek().1 == "!";
        if negated {
            self.at += 1;
        }
        let (token, key) = self.next();
        if token != Token::Word {
            return Err(SelectorError(format!("found '{key}', expected: identifier")));
        }
        let found = names::qualified_name(key);
        if !found.is_empty() {
            // Upstream has no path here and prints Go's word for that.
            return Err(SelectorError(FieldError::invalid(&Path::new("<nil>"), key, found.join("; ")).to_string()));
        }
        let ends = matches!(self.peek(), (Token::End, _) | (_, ","));
        if negated || ends {
            let operator = if negated { Operator::DoesNotExist } else { Operator::Exists };
            return Requirement::new(key, operator, Vec::new());
        }
        let operator = match self.next().1 {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            "=" => Operator::Equals,
            "==" => Operator::DoubleEquals,
            "!=" => Operator::NotEquals,
            ">" => Operator::GreaterThan,
            "<" => Operator::LessThan,
            other => {
                let expected = "in, notin, =, ==, !=, gt, lt";
                return Err(SelectorError(format!("found '{other}', expected: {expected}")));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            (Token::End, _) | (_, ",") => Ok(String::new()),
            (Token::Word, text) => {
                self.at += 1;
                Ok(text.to_owned())
            }
            (_, text) => Err(SelectorError(format!("found '{text}', expected: identifier"))),
        }
    }

    /// `(a,b)`; missing words stand for the empty value.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let (_, open) = self.next();
        if open != "(" {
            return Err(SelectorError(format!("found '{open}' expected: '('")));
        }
        let mut values = Vec::new();
        loop {
            let value = match self.peek() {
                (Token::Word, text) => {
                    self.at += 1;
                    text
                }
                _ => "",
            };
            values.push(value.to_owned());
            match self.next() {
                (_, ",") => {}
                (_, ")") => return Ok(values),
                (_, text) if value.is_empty() => {
                    return Err(SelectorError(format!("found '{text}', expected: ',', ')' or identifier")));
                }
                (_, text) => return Err(SelectorError(format!("found '{text}', expected: ',' or ')'"))),
            }
        }
    }
}

/// Conditions on fields: equal or not equal to a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldTerm {
    /// The field, such as `metadata.name`.
    pub field: String,
    /// Whether the field must equal `value`, or must not.
    pub equal: bool,
    /// What it is compared with.
    pub value: String,
}

impl FieldSelector {
    /// Reads the query-string form. Empty text matches everything.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let operator = part.char_indices().find_map(|(at, _)| {
                ["!=", "==", "="].iter().find(|op| part[at..].starts_with(**op)).map(|op| (at, *op))
            });
            let Some((at, operator)) = operator else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            let value = unescaped(&part[at + operator.len()..])?;
            terms.push(FieldTerm { field: part[..at].to_owned(), equal: operator != "!=", value });
        }
        Ok(FieldSelector { terms })
    }

    /// Every condition.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `field` must have, if the selector says so.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }

    /// The first field that is not among `known`, for the error upstream gives: a kind selects by some fields only.
    pub fn unknown_field(&self, known: &[&str]) -> Option<&str> {
        self.terms.iter().map(|term| term.field.as_str()).find(|field| !known.contains(field))
    }

    /// Whether an object is meant; `look` gives the text of a field.
    pub fn matches_with<'a>(&self, look: impl Fn(&str) -> std::borrow::Cow<'a, str>) -> bool {
        self.terms.iter().all(|term| (look(&term.field) == term.value.as_str()) == term.equal)
    }

    /// Whether an object is meant: fields are read from the tree, numbers and flags as their text.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_with(|field| match dig::get(object, field) {
            Value::Null => "".into(),
            Value::String(text) => text.as_str().into(),
            other => other.to_string().into(),
        })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let term = |term: &FieldTerm| {
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            format!("{}{}{value}", term.field, if term.equal { "=" } else { "!=" })
        };
        out.write_str(&self.terms.iter().map(term).collect::<Vec<_>>().join(","))
    }
}

/// Parts between commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescaped(text: &str) -> Result<String, SelectorError> {
    let sequence = |found: &str| SelectorError(format!("invalid field selector: invalid escape sequence: {found}"));
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some(kept @ ('\\' | ',' | '=')) => out.push(kept),
                Some(other) => return Err(sequence(&format!("\\{other}"))),
                None => return Err(sequence("\\")),
            },
            ',' | '=' => {
                let code = letter as u32;
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {code}")));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(selector: &str, printed: &str, matching: &str, other: &str) {
        let parsed = LabelSelector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
        assert_eq!(parsed.to_string(), printed, "{selector}");
        let labels = |text: &str| serde_json::from_str::<Map<String, Value>>(text).expect("labels of this test");
        assert!(parsed.matches(&labels(matching)), "{selector} should match {matching}");
        assert!(!parsed.matches(&labels(other)), "{selector} should not match {other}");
    }

    #[test]
    fn label_selectors_match() {
        check("a=b", "a=b", r#"{"a":"b"}"#, r#"{"a":"c"}"#);
        check("a==b , c!=d", "a==b,c!=d", r#"{"a":"b"}"#, r#"{"a":"b","c":"d"}"#);
        check(
            "x in (foo,,baz),y,z notin ()",
            "x in (,baz,foo),y,z notin ()",
            r#"{"x":"","y":"1"}"#,
            r#"{"x":"a","y":""}"#,
        );
        check("!a", "!a", r#"{}"#, r#"{"a":""}"#);
        check("in in (in)", "in in (in)", r#"{"in":"in"}"#, r#"{}"#);
        check("n>3,n<9", "n>3,n<9", r#"{"n":"5"}"#, r#"{"n":"9"}"#);
        check("a=", "a=", r#"{"a":""}"#, r#"{}"#);
        check("x in (a,,,a,)", "x in (,a)", r#"{"x":"a"}"#, r#"{"x":"b"}"#);
        check("x notin (, a)", "x notin (,a)", r#"{"x":"b"}"#, r#"{"x":""}"#);
        check("\rx=,z= ", "x=,z=", r#"{"x":"","z":""}"#, r#"{"x":""}"#);
        check("b,a", "a,b", r#"{"a":"","b":""}"#, r#"{"a":""}"#);
    }

    #[test]
    fn bad_label_selectors_are_told_as_upstream_tells_them() {
        for (selector, want) in [
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (
                "n>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(LabelSelector::parse(selector).map_err(|error| error.0), Err(want.to_owned()));
        }
        let error = LabelSelector::parse("-a=b").expect_err("a bad key").0;
        assert!(error.starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part"), "{error}");
    }

    #[test]
    fn object_selectors_match() {
        let of = |value: Value| LabelSelector::from_object(&value);
        let labels = crate::meta::labels(&json!({"metadata": {"labels": {"a": "b", "tier": "x"}}})).clone();
        assert!(
            of(json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "tier", "operator": "In",
            "values": ["x", "y"]}]}))
            .is_ok_and(|selector| selector.matches(&labels))
        );
        assert!(of(Value::Null).is_ok_and(|selector| !selector.matches(&labels)));
        assert!(of(json!({})).is_ok_and(|selector| selector.matches(&labels)));
        let bad = of(json!({"matchExpressions": [{"key": "a", "operator": "Is"}]}));
        assert_eq!(bad.map_err(|error| error.0), Err("\"Is\" is not a valid label selector operator".to_owned()));
    }

    #[test]
    fn field_selectors_match() {
        let object =
            json!({"metadata": {"name": "a"}, "spec": {"unschedulable": true}, "status": {"phase": "Running"}});
        for (selector, want) in [
            ("metadata.name=a", true),
            ("metadata.name!=a", false),
            ("status.phase==Running,spec.unschedulable=true", true),
            ("metadata.namespace=", true),
            ("", true),
        ] {
            assert_eq!(FieldSelector::parse(selector).map(|parsed| parsed.matches(&object)), Ok(want), "{selector}");
        }
        assert_eq!(FieldSelector::parse("a=b\\,c").map(|parsed| parsed.to_string()), Ok("a=b\\,c".to_owned()));
        assert_eq!(
            FieldSelector::parse("abc").map_err(|error| error.0),
            Err("invalid selector: 'abc'; can't understand 'abc'".to_owned())
        );
        assert_eq!(
            FieldSelector::parse("a=b\\c").map_err(|error| error.0),
            Err("invalid field selector: invalid escape sequence: \\c".to_owned())
        );
    }
}
