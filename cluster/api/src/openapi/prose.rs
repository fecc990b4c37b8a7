//! What built-in types and fields are for, in upstream's words.
//!
//! Start at [`Prose::unpack`]. The words are packed at build time (see `build.rs`) and unpacked for as long as a document
//! is being made: they are three times as long as everything else in it, and are asked for a few times a day.
//!
//! Invariants: without words there are no descriptions, and nothing else changes.
//!
//! Not here: the descriptions of custom resources, which their definitions bring along.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::ZlibDecoder;

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/prose"));

/// All the words, unpacked.
pub(super) struct Prose(String);

/// The words by type.
pub(super) struct Index<'a>(HashMap<&'a str, &'a str>);

impl Prose {
    pub(super) fn unpack() -> Prose {
        let mut text = String::new();
        // Our own build packed it: what does not unpack says nothing.
        let _ = ZlibDecoder::new(PACKED).read_to_string(&mut text);
        Prose(text)
    }

    pub(super) fn index(&self) -> Index<'_> {
        let sections = self.0.split("= io.").skip(1);
        Index(sections.filter_map(|section| section.split_once('\t')).collect())
    }
}

impl Index<'_> {
    /// What the type is for; empty if nobody said.
    pub(super) fn of_type(&self, name: &str) -> String {
        let section = self.section(name);
        unescape(section.split('\n').next().unwrap_or_default())
    }

    /// What a field of the type is for; empty if nobody said.
    pub(super) fn of_field(&self, ty: &str, field: &str) -> String {
        let mut lines = self.section(ty).split('\n').skip(1).filter_map(|line| line.split_once('\t'));
        lines.find(|(name, _)| *name == field).map_or_else(String::new, |(_, words)| unescape(words))
    }

    fn section(&self, name: &str) -> &str {
        name.strip_prefix("io.").and_then(|rest| self.0.get(rest)).copied().unwrap_or_default()
    }
}

fn unescape(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    let mut characters = words.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => out.push(if characters.next() == Some('n') { '\n' } else { '\\' }),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_by_type_and_field() {
        let prose = Prose("= io.a.B\twhat B is\\nfor\nc\twhat c is for\n= io.a.D\t\n".to_owned());
        let index = prose.index();
        assert_eq!(index.of_type("io.a.B"), "what B is\nfor");
        assert_eq!(index.of_field("io.a.B", "c"), "what c is for");
        for (ty, field) in [("io.a.B", "d"), ("io.a.D", "c"), ("io.a.X", "c")] {
            assert_eq!(index.of_field(ty, field), "");
        }
    }

    #[test]
    fn either_all_is_said_or_nothing() {
        let prose = Prose::unpack();
        let said = prose.index().of_field("io.k8s.api.core.v1.Container", "image");
        assert_eq!(said.is_empty(), prose.0.is_empty(), "the sources were read, but containers have no image");
    }
}
