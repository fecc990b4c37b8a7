//! The paths by which a definition points into its objects: printer columns, selectable fields, the scale subresource.
//!
//! Start at [`Path::parse`] and [`Path::first`]. The language is the simple part of kubectl's JSONPath: names, quoted
//! names, indices, `*`, and filters that compare one field with one value.
//!
//! Not here: recursive descent, slices and unions, which upstream refuses in definitions too.

use serde_json::Value;

/// Steps in one path; more is nobody's.
const STEPS_MAX: usize = 64;

/// A parsed path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Name(String),
    Index(i64),
    All,
    /// `?(@.type=="Ready")`: the items whose field compares so.
    Where {
        field: Path,
        equals: bool,
        value: Value,
    },
}

impl Path {
    /// Reads `.spec.hosts[0]`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Path, String> {
        let (mut steps, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let (step, left) = step(rest)?;
            steps.extend(step);
            rest = left;
            if steps.len() > STEPS_MAX {
                return Err(format!("is longer than {STEPS_MAX} steps"));
            }
        }
        Ok(Path(steps))
    }

    /// The first value that the path leads to, in the order of the object.
    pub fn first<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        first(&self.0, object)
    }

    /// The names of the fields on the way, if the path has nothing but names.
    pub fn names(&self) -> Option<Vec<&str>> {
        self.0
            .iter()
            .map(|step| match step {
                Step::Name(name) => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }
}

fn first<'a>(steps: &[Step], here: &'a Value) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(here) };
    match step {
        Step::Name(name) => first(rest, here.get(name)?),
        Step::Index(index) => {
            let items = here.as_array()?;
            let at = if *index < 0 { items.len() as i64 + index } else { *index };
            first(rest, items.get(usize::try_from(at).ok()?)?)
        }
        Step::All => match here {
            Value::Array(items) => items.iter().find_map(|item| first(rest, item)),
            Value::Object(fields) => fields.values().find_map(|value| first(rest, value)),
            _ => None,
        },
        Step::Where { field, equals, value } => {
            let fits = |item: &&Value| field.first(item).is_some_and(|found| (found == value) == *equals);
            here.as_array()?.iter().filter(fits).find_map(|item| first(rest, item))
        }
    }
}

/// One step and what follows it; a lone dot is no step.
fn step(text: &str) -> Result<(Option<Step>, &str), String> {
    if let Some(rest) = text.strip_prefix('.') {
        if rest.starts_with('.') {
            return Err("recursive descent is not supported".to_owned());
        }
        if rest.is_empty() || rest.starts_with('[') {
            return Ok((None, rest));
        }
        return name(rest);
    }
    let Some(rest) = text.strip_prefix('[') else { return name(text) };
    let end = closing(rest).ok_or("unterminated array")?;
    let (inside, rest) = (rest[..end].trim(), &rest[end + 1..]);
    if let Some(filter) = inside.strip_prefix('?') {
        return Ok((Some(condition(filter.trim())?), rest));
    }
    if inside == "*" {
        return Ok((Some(Step::All), rest));
    }
    if let Some(name) = quoted(inside) {
        return Ok((Some(Step::Name(name)), rest));
    }
    inside.parse().map(|index| (Some(Step::Index(index)), rest)).map_err(|_| format!("invalid array index {inside}"))
}

fn name(text: &str) -> Result<(Option<Step>, &str), String> {
    let (mut name, mut letters) = (String::new(), text.char_indices());
    let mut end = text.len();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            '.' | '[' => {
                end = at;
                break;
            }
            '{' | '}' | '$' | '@' | '(' | ')' | ' ' => {
                return Err(format!("unrecognized character in action: U+{:04X} {letter:?}", letter as u32));
            }
            letter => name.push(letter),
        }
    }
    if name.is_empty() {
        return Err("invalid path".to_owned());
    }
    let step = if name == "*" { Step::All } else { Step::Name(name) };
    Ok((Some(step), &text[end..]))
}

/// Where the bracket closes that was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[' | '(') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']' | ')') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|first| matches!(first, '"' | '\''))?;
    let inside = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inside.replace("\\.", "."))
}

/// Reads `(@.type=="Ready")`.
fn condition(text: &str) -> Result<Step, String> {
    let inside = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).ok_or("unterminated filter")?;
    let (equals, operator) = match (inside.find("=="), inside.find("!=")) {
        (Some(at), None) => (true, at),
        (None, Some(at)) => (false, at),
        _ => return Err(format!("unrecognized filter {inside}")),
    };
    let (field, value) = (inside[..operator].trim(), inside[operator + 2..].trim());
    let field = Path::parse(field.strip_prefix('@').ok_or("a filter begins with @")?)?;
    let value = match quoted(value) {
        Some(text) => Value::String(text),
        None => serde_json::from_str(value).map_err(|_| format!("unrecognized value {value}"))?,
    };
    Ok(Step::Where { field, equals, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(path: &str, want: Value) {
        let object = json!({
            "spec": {"replicas": 3, "hosts": ["a", "b"], "x.y": 1, "ports": [{"port": 80}, {"port": 90, "name": "n"}]},
            "status": {"conditions": [{"type": "Up", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        let path = Path::parse(path).expect("a path");
        assert_eq!(path.first(&object).cloned().unwrap_or_default(), want);
    }

    #[test]
    fn paths_lead_to_values() {
        check(".spec.replicas", json!(3));
        check(".spec.hosts[1]", json!("b"));
        check(".spec.hosts[-1]", json!("b"));
        check(".spec.hosts[*]", json!("a"));
        check(".spec['x.y']", json!(1));
        check(".spec.x\\.y", json!(1));
        check(".spec.ports[*].name", json!("n"));
        check(".status.conditions[?(@.type==\"Ready\")].status", json!("True"));
        check(".status.conditions[?(@.type != 'Ready')].status", json!("False"));
        check(".status.nothing.here", Value::Null);
        check(".spec.ports[?(@.port==90)].name", json!("n"));
    }

    #[test]
    fn what_is_no_path_is_said() {
        for wrong in ["..x", ".a[", ".a[x]", ".a{", ".a[?(type)]", ".a[?(@.b<1)]"] {
            assert!(Path::parse(wrong).is_err(), "{wrong}");
        }
    }
}
