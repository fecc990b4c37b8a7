//! The small text files of the image: `name value` lines in the initramfs and under `/etc/skerry`.
//!
//! Start at [`Facts`]; [`services`] and [`published`] read lists. `#` begins a note.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::phase::Error;

/// Names with values, one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    values: BTreeMap<String, String>,
    file: String,
}

impl Facts {
    /// Reads a file; one that is not there has no facts.
    pub fn read(path: &Path) -> Result<Facts, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Facts::parse(&path.display().to_string(), &text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Facts::parse(&path.display().to_string(), ""))
            }
            Err(source) => Err(Error::Io { doing: format!("read {}", path.display()), source }),
        }
    }

    /// Understands a text; `file` is for messages.
    pub fn parse(file: &str, text: &str) -> Facts {
        let pair = |line: &str| {
            let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            (name.to_owned(), value.trim().to_owned())
        };
        Facts { values: lines(text).map(pair).collect(), file: file.to_owned() }
    }

    /// The value of `name`, where it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value of `name`, which must be there.
    pub fn must(&self, name: &str) -> Result<&str, Error> {
        self.get(name).ok_or_else(|| Error::Wrong(format!("{} does not say {name}", self.file)))
    }

    /// The number behind `name`, which must be there.
    pub fn number(&self, name: &str) -> Result<u64, Error> {
        let value = self.must(name)?;
        value.parse().map_err(|_| Error::Wrong(format!("{}: {name} is {value:?}, which is no number", self.file)))
    }
}

/// A program to keep running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name, for messages and its cgroup.
    pub name: String,
    /// It runs once, before the others, because of this setting.
    pub once: Option<String>,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// What its environment says, besides PATH and HOME.
    pub environment: Vec<(String, String)>,
}

impl Service {
    /// Whether it is a keeper that leaves with us what the next one needs.
    pub fn is_held(&self) -> bool {
        self.args.iter().any(|word| word == "--held")
    }
}

/// What a service's arguments may speak of, by name: `{name}` in `/etc/skerry/services`.
pub type Values = BTreeMap<&'static str, String>;

/// The services of `/etc/skerry/services` for a board of this role, one a line: name, `role=ROLE` where it is for one role
/// only, `once=VALUE` where it runs to its end before the others and only because of this value, `NAME=value` words of the
/// environment, program, arguments. `{name}` is a value, and `[ ... ]` is left out where it speaks of one that is not there.
pub fn services(text: &str, role: &str, values: &Values) -> Result<Vec<Service>, Error> {
    let is_due = |line: &&str| word_of(line, "once=").is_none_or(|value| values.contains_key(value));
    lines_for(text, role).filter(is_due).map(|line| service(line, values)).collect()
}

/// The lines that a board of this role heeds.
pub fn lines_for<'a>(text: &'a str, role: &'a str) -> impl Iterator<Item = &'a str> {
    lines(text).filter(move |line| word_of(line, "role=").is_none_or(|wanted| wanted == role))
}

fn word_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(name))
}

fn service(line: &str, values: &Values) -> Result<Service, Error> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default().to_owned();
    let once = word_of(line, "once=").map(str::to_owned);
    let mut environment = Vec::new();
    for word in words.by_ref() {
        match word.split_once('=') {
            _ if word.starts_with('/') => {
                return Ok(Service { name, once, program: word.into(), args: arguments(words, values)?, environment });
            }
            Some(("role" | "once", _)) => {}
            Some((variable, value)) => environment.push((variable.to_owned(), value.to_owned())),
            None => break,
        }
    }
    Err(Error::Wrong(format!(
        "a service is a name, its environment, a program's full path and its arguments, not {line:?}"
    )))
}

/// Arguments with their values filled in.
fn arguments<'a>(words: impl Iterator<Item = &'a str>, values: &Values) -> Result<Vec<String>, Error> {
    let mut done = Vec::new();
    let mut group: Option<Vec<Option<String>>> = None;
    for word in words {
        match (word, &mut group) {
            ("[", None) => group = Some(Vec::new()),
            ("]", Some(_)) => {
                let whole: Option<Vec<String>> = group.take().unwrap_or_default().into_iter().collect();
                done.extend(whole.unwrap_or_default());
            }
            (_, Some(group)) => group.push(filled(word, values)),
            (_, None) => {
                let lacks = || Error::Wrong(format!("a service's argument {word} speaks of what nobody said"));
                done.push(filled(word, values).ok_or_else(lacks)?);
            }
        }
    }
    Ok(done)
}

/// A word with its value filled in, where it is there.
fn filled(word: &str, values: &Values) -> Option<String> {
    let Some((before, rest)) = word.split_once('{') else { return Some(word.to_owned()) };
    let (name, after) = rest.split_once('}')?;
    Some(format!("{before}{}{after}", values.get(name)?))
}

/// The files to hand to whoever runs the machine: path, then the name of a virtio port.
pub fn published(text: &str) -> Vec<(PathBuf, String)> {
    lines(text)
        .filter_map(|line| line.split_once(' '))
        .map(|(file, port)| (file.into(), port.trim().to_owned()))
        .collect()
}

/// The value of `name=` on the kernel's command line; the last one counts.
pub fn of_command_line<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace().rev().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_lines_without_notes() {
        let facts = Facts::parse("board", "# a board\nname qemu-arm64\ntimeout 30 # s\nempty\n");
        assert_eq!(facts.get("name"), Some("qemu-arm64"));
        assert_eq!(facts.number("timeout").unwrap(), 30);
        assert_eq!(facts.get("empty"), Some(""));
    }

    #[test]
    fn what_is_missing_is_named_with_its_file() {
        let facts = Facts::parse("/slot", "root_hash\nsize x\n");
        assert_eq!(facts.must("disk").unwrap_err().to_string(), "/slot does not say disk");
        assert_eq!(facts.number("size").unwrap_err().to_string(), "/slot: size is \"x\", which is no number");
    }

    /// The arguments of one service line, where `token` and `url` have values.
    fn check(line: &str, expected: &str) {
        let values = Values::from([("token", "/run/token".to_owned()), ("url", "https://a:1".to_owned())]);
        let said = match services(&format!("name /bin/x {line}\n"), "agent", &values) {
            Ok(found) => found[0].args.join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn arguments_are_filled_in() {
        check("agent --server {url} --x=y", "agent --server https://a:1 --x=y");
        check("a [ --token-file {token} ] b", "a --token-file /run/token b");
        check("a [ --node-ip {ip} ] [ --token={token} ]", "a --token=/run/token");
        check("a {ip}", "a service's argument {ip} speaks of what nobody said");
    }

    #[test]
    fn a_service_may_be_for_one_role() {
        let names = |role: &str| -> Vec<String> {
            let text = "keeper /k\nserver role=server A=b /s\nagent role=agent /a\n";
            services(text, role, &Values::new()).unwrap().into_iter().map(|service| service.name).collect()
        };
        assert_eq!(names("server"), ["keeper", "server"]);
        assert_eq!(names("agent"), ["keeper", "agent"]);
        assert_eq!(names("unclear"), ["keeper"]);
    }

    #[test]
    fn some_run_once_and_only_because_of_a_value() {
        let values = Values::from([("file", "/f".to_owned())]);
        let found = services("a once=file /a {file}\nb once=other /b {other}\nc /c\n", "server", &values).unwrap();
        let rows: Vec<(&str, Option<&str>)> =
            found.iter().map(|service| (service.name.as_str(), service.once.as_deref())).collect();
        assert_eq!((rows, found[0].args.join(" ")), (vec![("a", Some("file")), ("c", None)], "/f".to_owned()));
    }

    #[test]
    fn a_service_has_a_name_and_a_full_path() {
        let services = |text: &str| services(text, "server", &Values::new());
        let found = &services("server role=server A=b=c /bin/skerry server --x=y\n").unwrap()[0];
        assert_eq!((found.name.as_str(), found.program.as_path()), ("server", Path::new("/bin/skerry")));
        assert_eq!(found.args, ["server", "--x=y"]);
        assert_eq!(found.environment, [("A".to_owned(), "b=c".to_owned())]);
        assert!(services("server skerry\n").is_err());
        assert!(services("server A=b\n").is_err());
    }

    #[test]
    fn the_last_word_on_the_command_line_counts() {
        assert_eq!(of_command_line("quiet skerry.slot=a skerry.slot=b x", "skerry.slot"), Some("b"));
        assert_eq!(of_command_line("skerry.slots=a", "skerry.slot"), None);
    }
}
