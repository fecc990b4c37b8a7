//! JSON text into a value, remembering keys that occur twice.
//!
//! Start at [`parse`]. Paths look like upstream's: `spec.containers[0].image`, map keys like fields.
//!
//! Not here: what the value should look like (`walk.rs`).

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::PROBLEMS_MAX;

pub(super) fn parse(text: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let found = RefCell::new(Found { path: String::new(), lines: Vec::new() });
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Seed(&found).deserialize(&mut reader)?;
    reader.end()?;
    Ok((value, found.into_inner().lines))
}

struct Found {
    path: String,
    lines: Vec<String>,
}

/// Reads one value at the path that `Found` holds.
#[derive(Clone, Copy)]
struct Seed<'a>(&'a RefCell<Found>);

impl Seed<'_> {
    /// Lengthens the path, and gives back where it ended before.
    fn enter(self, step: fmt::Arguments<'_>) -> usize {
        use fmt::Write;
        let mut found = self.0.borrow_mut();
        let before = found.path.len();
        let _ = found.path.write_fmt(step);
        before
    }

    fn leave(self, before: usize) {
        self.0.borrow_mut().path.truncate(before);
    }

    fn duplicate(self) {
        let mut found = self.0.borrow_mut();
        let line = format!("duplicate field \"{}\"", found.path);
        if found.lines.len() < PROBLEMS_MAX && !found.lines.contains(&line) {
            found.lines.push(line);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let before = self.enter(format_args!("[{}]", list.len()));
            let item = items.next_element_seed(self)?;
            self.leave(before);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let dot = if self.0.borrow().path.is_empty() { "" } else { "." };
            let before = self.enter(format_args!("{dot}{key}"));
            let value = entries.next_value_seed(self)?;
            if map.contains_key(&key) {
                self.duplicate();
            }
            self.leave(before);
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
