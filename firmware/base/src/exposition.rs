//! Prometheus' text form: samples in families, written and checked.
//!
//! Start at [`Exposition::add`]; [`check`] is what a strict reader demands.
//!
//! Invariant: whatever is added, what is written passes [`check`]: a family stands together under one HELP and one TYPE, and a
//! series is there once.
//!
//! Not here: measuring, serving.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The content type of the text form.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family is: its name, what it counts, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name; a counter's ends with `_total`, and nothing else does.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
}

impl Family {
    fn kind(self) -> &'static str {
        if self.name.ends_with("_total") { "counter" } else { "gauge" }
    }
}

/// A value, and when it was measured, in milliseconds since 1970, where that is not now.
type Sample = (f64, Option<i64>);

/// What is told at one moment.
#[derive(Clone, Debug, Default)]
pub struct Exposition(BTreeMap<&'static str, (Family, BTreeMap<String, Sample>)>);

impl Exposition {
    /// Adds a sample. The last one of a series counts.
    pub fn add(&mut self, family: Family, labels: &[(&str, &str)], value: f64) {
        self.add_at(family, labels, value, None);
    }

    /// Adds a sample that was measured at a certain time.
    pub fn add_at(&mut self, family: Family, labels: &[(&str, &str)], value: f64, millis: Option<i64>) {
        self.add_series(family, self::labels(labels), (value, millis));
    }

    /// Adds a sample of a series whose labels are written as [`labels`] does.
    pub fn add_series(&mut self, family: Family, labels: String, sample: Sample) {
        let (_, series) = self.0.entry(family.name).or_insert_with(|| (family, BTreeMap::new()));
        series.insert(labels, sample);
    }
}

impl fmt::Display for Exposition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (family, series) in self.0.values() {
            let Family { name, help } = family;
            writeln!(out, "# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n"))?;
            writeln!(out, "# TYPE {name} {}", family.kind())?;
            for (labels, (value, millis)) in series {
                write!(out, "{name}{labels} ")?;
                match *value {
                    infinite if infinite == f64::INFINITY => write!(out, "+Inf")?,
                    infinite if infinite == f64::NEG_INFINITY => write!(out, "-Inf")?,
                    value => write!(out, "{value}")?,
                }
                match millis {
                    Some(millis) => writeln!(out, " {millis}")?,
                    None => writeln!(out)?,
                }
            }
        }
        Ok(())
    }
}

/// Labels as they are written after a name, in the order given; nothing if there are none.
pub fn labels(labels: &[(&str, &str)]) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let written: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
    if written.is_empty() { String::new() } else { format!("{{{}}}", written.join(",")) }
}

/// Whether a text is what the strictest reader takes; the answer says which line is wrong, and why.
///
/// Prometheus itself forgives some of this: a family that is told twice, one without HELP or TYPE, a counter that is not called
/// one. Its linter (`promtool check metrics`) and other readers do not.
pub fn check(text: &str) -> Result<(), String> {
    if !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let mut reader = Reader::default();
    for (index, line) in text.lines().enumerate() {
        reader.line(line).map_err(|why| format!("line {}: {why}: {line}", index + 1))?;
    }
    Ok(())
}

#[derive(Default)]
struct Reader<'a> {
    /// The family that is being told, and its type.
    family: &'a str,
    kind: Option<&'a str>,
    helped: bool,
    /// Families that have been told.
    told: BTreeSet<&'a str>,
    series: BTreeSet<(&'a str, BTreeMap<&'a str, &'a str>)>,
}

impl<'a> Reader<'a> {
    fn line(&mut self, line: &'a str) -> Result<(), &'static str> {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next()) {
            (Some("#"), Some("HELP")) => self.help(words.next().unwrap_or_default(), words.next().unwrap_or_default()),
            (Some("#"), Some("TYPE")) => self.kind(words.next().unwrap_or_default(), words.next().unwrap_or_default()),
            (Some("" | "#"), _) => Err("neither HELP, TYPE nor a sample"),
            _ => self.sample(line),
        }
    }

    fn help(&mut self, name: &'a str, text: &str) -> Result<(), &'static str> {
        if !is_name(name, true) || text.is_empty() {
            return Err("HELP wants a name and a text");
        }
        if unescaped(text, false).is_none() {
            return Err("HELP escapes the backslash and the end of the line, and nothing else");
        }
        self.begin(name)?;
        self.helped = true;
        Ok(())
    }

    fn kind(&mut self, name: &'a str, kind: &'a str) -> Result<(), &'static str> {
        match () {
            () if name != self.family || !self.helped => Err("TYPE follows the HELP of its family"),
            () if self.kind.is_some() => Err("a second TYPE of its family"),
            () if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) => Err("no type"),
            () if (kind == "counter") != name.ends_with("_total") => Err("counters end with _total, and they alone"),
            () => {
                self.kind = Some(kind);
                Ok(())
            }
        }
    }

    /// Another family begins.
    fn begin(&mut self, name: &'a str) -> Result<(), &'static str> {
        (self.family, self.kind) = (name, None);
        if self.told.insert(name) { Ok(()) } else { Err("the family has been told before") }
    }

    fn sample(&mut self, line: &'a str) -> Result<(), &'static str> {
        let end = line.find(['{', ' ']).ok_or("a sample wants a value")?;
        let name = &line[..end];
        let Some(kind) = self.kind.filter(|kind| is_of(name, self.family, kind)) else {
            return Err("a sample follows the TYPE of its family");
        };
        let (labels, rest) = match line[end..].strip_prefix('{') {
            Some(rest) => labels_of(rest)?,
            None => (BTreeMap::new(), &line[end..]),
        };
        let mut words = rest.strip_prefix(' ').ok_or("a space before the value")?.split(' ');
        let value = words.next().unwrap_or_default();
        let number = match value {
            "+Inf" | "-Inf" | "NaN" => f64::INFINITY,
            _ => value.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or("the value is no number")?,
        };
        if kind == "counter" && number < 0.0 {
            return Err("a counter below zero");
        }
        if words.next().is_some_and(|time| time.parse::<i64>().is_err()) || words.next().is_some() {
            return Err("after the value comes a time in milliseconds, or nothing");
        }
        if self.series.insert((name, labels)) { Ok(()) } else { Err("the series has been told before") }
    }
}

/// Whether a sample of that name belongs to the family.
fn is_of(name: &str, family: &str, kind: &str) -> bool {
    let parts: &[&str] = match kind {
        "histogram" => &["_bucket", "_sum", "_count"],
        "summary" => &["", "_sum", "_count"],
        _ => &[""],
    };
    name.strip_prefix(family).is_some_and(|rest| parts.contains(&rest))
}

/// Labels behind the opening brace, and what follows the closing one.
fn labels_of(mut rest: &str) -> Result<(BTreeMap<&str, &str>, &str), &'static str> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (label, value) = rest.split_once("=\"").ok_or("a label wants =\" after it")?;
        if !is_name(label, false) || label.starts_with("__") {
            return Err("this is no name for a label");
        }
        let end = unescaped(value, true).ok_or("the value of a label is not escaped, or has no end")?;
        if labels.insert(label, &value[..end]).is_some() {
            return Err("a label is there twice");
        }
        rest = &value[end + 1..];
        rest = match rest.strip_prefix(',') {
            Some(next) if next.starts_with('}') => return Err("a comma before the closing brace"),
            Some(next) => next,
            None if rest.starts_with('}') => rest,
            None => return Err("a comma is missing between labels"),
        };
    }
}

/// Where a text ends, at a quote if it has one; nothing if it is not escaped as it must be.
fn unescaped(text: &str, quoted: bool) -> Option<usize> {
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' if quoted => return Some(at),
            '\\' => match letters.next()? {
                (_, '\\' | 'n') => {}
                (_, '"') if quoted => {}
                _ => return None,
            },
            _ => {}
        }
    }
    (!quoted).then_some(text.len())
}

fn is_name(name: &str, colons: bool) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || (colons && letter == ':');
    name.chars().all(fits) && name.chars().next().is_some_and(|first| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Family = Family { name: "read_bytes_total", help: "Bytes \\ read.\nAll of them." };
    const TEMP: Family = Family { name: "temp_celsius", help: "How warm it is." };

    #[test]
    fn families_stand_together_and_series_once() {
        let mut told = Exposition::default();
        told.add(READ, &[("disk", "a\"\\\n")], 1.0);
        told.add(TEMP, &[], f64::NAN);
        told.add(READ, &[("disk", "b")], 2.5);
        told.add(READ, &[("disk", "b")], 1e15);
        told.add_at(TEMP, &[("of", "")], f64::INFINITY, Some(5));
        let wanted = "# HELP read_bytes_total Bytes \\\\ read.\\nAll of them.\n# TYPE read_bytes_total counter\n\
                      read_bytes_total{disk=\"a\\\"\\\\\\n\"} 1\nread_bytes_total{disk=\"b\"} 1000000000000000\n\
                      # HELP temp_celsius How warm it is.\n# TYPE temp_celsius gauge\n\
                      temp_celsius NaN\ntemp_celsius{of=\"\"} +Inf 5\n";
        assert_eq!(told.to_string(), wanted);
        assert_eq!(check(wanted), Ok(()));
    }

    #[track_caller]
    fn refused(text: &str, why: &str) {
        let error = check(&text.replace("HEAD", "# HELP a A.\n# TYPE a gauge")).expect_err(text);
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn what_is_told_twice_is_refused() {
        refused("HEAD\na 1\na 2\n", "line 4: the series has been told before");
        refused("HEAD\na{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\n", "the series has been told before");
        refused("HEAD\na 1\n# HELP b B.\n# TYPE b gauge\nb 1\n# HELP a A.\n", "the family has been told before");
        refused("HEAD\n# TYPE a gauge\n", "a second TYPE");
        refused("HEAD\na{x=\"1\",x=\"2\"} 1\n", "a label is there twice");
    }

    #[test]
    fn what_stands_in_the_wrong_place_is_refused() {
        refused("HEAD\na 1", "no end");
        refused("", "no end");
        refused("a 1\n", "a sample follows the TYPE");
        refused("# TYPE a gauge\na 1\n", "TYPE follows the HELP");
        refused("HEAD\nb 1\n", "a sample follows the TYPE");
        refused("HEAD\na 1\n# HELP b B.\n# TYPE b gauge\nb 1\na{x=\"1\"} 1\n", "a sample follows the TYPE");
        refused("HEAD\n\na 1\n", "neither HELP");
        refused("HEAD\n# a note\n", "neither HELP");
    }

    #[test]
    fn what_is_malformed_is_refused() {
        refused("HEAD\na{x=\"\\d\"} 1\n", "not escaped");
        refused("HEAD\na{x=\"1} 1\n", "has no end");
        refused("HEAD\na{1x=\"1\"} 1\n", "no name for a label");
        refused("HEAD\na{x=\"1\"y=\"2\"} 1\n", "a comma is missing");
        refused("HEAD\na{x=\"1\",} 1\n", "a comma before");
        refused("HEAD\na one\n", "no number");
        refused("HEAD\na inf\n", "no number");
        refused("HEAD\na 1 soon\n", "a time in milliseconds");
        refused("HEAD\na{x=\"1\"}1\n", "a space before the value");
        refused("# HELP a_total A.\n# TYPE a_total gauge\n", "counters end with _total");
        refused("# HELP a_total A.\n# TYPE a_total counter\na_total -1\n", "below zero");
        refused("# HELP a A \\x.\n", "HELP escapes");
        refused("# HELP 1a A.\n", "HELP wants a name");
    }

    #[test]
    fn histograms_and_summaries_have_parts() {
        let told = "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n\
                    # HELP s S.\n# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 1\ns_count 1\n";
        assert_eq!(check(told), Ok(()));
        refused("# HELP h H.\n# TYPE h histogram\nh 1\n", "a sample follows the TYPE");
    }
}
