//! From the bytes of the file to settings and problems.
//!
//! Start at [`read`]. TOML's parser goes on behind an error; what it understood is taken key by key.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::check::{Answer, is_near, link};
use crate::keys::{KEYS, LINK_KEYS};
use crate::text::text;
use crate::{BYTES_MAX, Network, Problem, Role, Settings};

/// Somebody who finds so many has enough to do.
const PROBLEMS_MAX: usize = 50;
/// A word is taken for a misspelling of another that is so near.
const DISTANCE_MAX: usize = 2;
/// Of a wrong value, so much is repeated.
const SHOWN_MAX: usize = 60;
const LINKS: &str = "links";

/// A setting as it stands in the file.
#[derive(Clone, Copy)]
pub(crate) struct Item<'v, 't> {
    name: &'v str,
    value: &'v Spanned<DeValue<'t>>,
}

/// Collects what is wrong while settings are taken.
pub(crate) struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
    /// Where each top key stands.
    lines: BTreeMap<String, usize>,
    /// What misspelt ones at the top mean, perhaps, and where each stands.
    meant: BTreeMap<&'static str, usize>,
}

/// Understands as much as can be, and says what is wrong with the rest.
pub fn read(bytes: &[u8]) -> (Settings, Vec<Problem>) {
    let text = text(&bytes[..bytes.len().min(BYTES_MAX)]);
    let (table, errors) = DeTable::parse_recoverable(&text);
    let mut reader = Reader::new(&text);
    if bytes.len() > BYTES_MAX {
        reader.wrong(text.len(), format!("the file goes on behind {} KiB, which is not read", BYTES_MAX >> 10));
    }
    reader.broken(&errors);
    let mut settings = Settings::default();
    for (key, value) in table.get_ref() {
        reader.lines.insert(key.get_ref().to_string(), reader.line(key.span().start));
        reader.take(&mut settings, key, value);
    }
    reader.together(&mut settings, !errors.is_empty());
    (settings, reader.finish())
}

/// Sets one setting as if it stood in the file; the error is what would be said of it.
pub fn set(settings: &mut Settings, name: &str, value: &str) -> Answer<()> {
    let text = format!("{name} = {}\n", toml::Value::from(value));
    let (table, _) = DeTable::parse_recoverable(&text);
    let mut reader = Reader::new(&text);
    for (key, value) in table.get_ref() {
        reader.take(settings, key, value);
    }
    reader.problems.pop().map_or(Ok(()), |problem| Err(problem.what))
}

/// The line, from 1, on which the setting `name` is said at the top of the file; 0 where it is not.
pub fn line_of(bytes: &[u8], name: &str) -> usize {
    let says = |line: &str| line.trim_start().strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='));
    text(&bytes[..bytes.len().min(BYTES_MAX)]).lines().position(says).map_or(0, |at| at + 1)
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Reader<'t> {
        Reader { text, problems: Vec::new(), lines: BTreeMap::new(), meant: BTreeMap::new() }
    }

    fn take(
        &mut self,
        settings: &mut Settings,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let name = key.get_ref().as_ref();
        let item = Item { name, value };
        if name == LINKS {
            return self.links(settings, item);
        }
        match KEYS.iter().find(|known| known.name == name) {
            Some(known) => (known.set)(settings, self, item),
            // The parser has said already that a name is missing.
            None if name.is_empty() => {}
            None => {
                let at = key.span().start;
                let meant = self.unknown(at, name, KEYS.iter().map(|key| key.name).chain([LINKS]));
                let line = self.line(at);
                self.meant.extend(meant.map(|meant| (meant, line)));
            }
        }
    }

    fn links(&mut self, settings: &mut Settings, item: Item<'_, '_>) {
        for (name, item) in self.named(item, link) {
            let Some(table) = item.value.get_ref().as_table() else {
                self.wrong(item.value.span().start, format!("links.{name} is {}, and must be a table", kind(item)));
                continue;
            };
            let mut network = Network { link: Some(name.clone()), ..Network::default() };
            for (key, value) in table {
                let item = Item { name: key.get_ref(), value };
                match LINK_KEYS.iter().find(|known| known.name == item.name) {
                    Some(known) => (known.set)(&mut network, self, item),
                    None => {
                        self.unknown(key.span().start, item.name, LINK_KEYS.iter().map(|key| key.name));
                    }
                }
            }
            let line = self.line(item.value.span().start);
            self.near(&mut network, line);
            settings.links.push(network);
        }
    }

    /// One error a line: what follows from the first is noise.
    fn broken(&mut self, errors: &[toml::de::Error]) {
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            let why = error.message().lines().collect::<Vec<_>>().join(", ");
            if self.problems.iter().all(|problem| problem.line != self.line(at)) {
                self.wrong(at, format!("this cannot be understood: {why}"));
            }
        }
    }

    /// Says so; gives back which of the known names is meant, perhaps.
    fn unknown(&mut self, at: usize, name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
        let near = known.min_by_key(|known| distance(name, known)).filter(|near| distance(name, near) <= DISTANCE_MAX);
        let is_misplaced = KEYS.iter().any(|key| key.name == name);
        self.wrong(
            at,
            match near {
                _ if is_misplaced => {
                    format!("{name} stands below a line in brackets: it belongs above the first of them")
                }
                Some(near) => format!("there is no setting {name}; {near} is meant, perhaps"),
                None => format!("there is no setting {name}"),
            },
        );
        near
    }

    /// A text that means something; empty is as good as not said.
    pub(crate) fn checked<T>(&mut self, item: Item<'_, '_>, check: fn(&str) -> Answer<T>) -> Option<T> {
        if item.value.get_ref().as_str() == Some("") { None } else { self.checked_or_empty(item, check) }
    }

    /// A text that means something, even where it is empty.
    pub(crate) fn checked_or_empty<T>(&mut self, item: Item<'_, '_>, check: fn(&str) -> Answer<T>) -> Option<T> {
        let at = item.value.span().start;
        let Some(value) = item.value.get_ref().as_str() else {
            self.wrong(at, format!("{} is {}, and must be text in quotes", item.name, kind(item)));
            return None;
        };
        // Spaces at the ends come of copying.
        let what = |why| format!("{} is \"{}\", which {why}", item.name, shown(value));
        check(value.trim()).map_err(|why| self.wrong(at, what(why))).ok()
    }

    /// As [`Reader::checked`], where what was said and means nothing is not as good as not said: it is an empty text.
    pub(crate) fn checked_or_unclear(
        &mut self,
        item: Item<'_, '_>,
        check: fn(&str) -> Answer<String>,
    ) -> Option<String> {
        let is_said = item.value.get_ref().as_str() != Some("");
        is_said.then(|| self.checked_or_empty(item, check).unwrap_or_default())
    }

    /// As [`Reader::checked`], for what is not to be seen on a console.
    pub(crate) fn secret(&mut self, item: Item<'_, '_>, check: fn(&str) -> Answer<String>) -> Option<String> {
        let at = item.value.span().start;
        match item.value.get_ref().as_str() {
            Some(value) if !value.is_empty() => {
                check(value.trim()).map_err(|why| self.wrong(at, format!("{} {why}", item.name))).ok()
            }
            _ => self.checked(item, check),
        }
    }

    /// The good ones of a list of texts; one text is a list of one.
    pub(crate) fn list<T>(&mut self, item: Item<'_, '_>, check: fn(&str) -> Answer<T>) -> Vec<T> {
        match item.value.get_ref() {
            DeValue::Array(values) => {
                let items = values.iter().map(|value| Item { value, ..item });
                items.filter_map(|item| self.checked(item, check)).collect()
            }
            DeValue::String(_) => self.checked(item, check).into_iter().collect(),
            _ => {
                let what = format!("{} is {}, and must be a list of texts in quotes", item.name, kind(item));
                self.wrong(item.value.span().start, what);
                Vec::new()
            }
        }
    }

    /// The rows of a table whose names the person chose.
    pub(crate) fn named<'v, 'x>(
        &mut self,
        item: Item<'v, 'x>,
        check: fn(&str) -> Answer<String>,
    ) -> Vec<(String, Item<'v, 'x>)> {
        let Some(table) = item.value.get_ref().as_table() else {
            let what = format!("{} is {}, and must be {{ NAME = ..., NAME = ... }}", item.name, kind(item));
            self.wrong(item.value.span().start, what);
            return Vec::new();
        };
        let mut rows = Vec::new();
        for (key, value) in table {
            let (name, at) = (key.get_ref().as_ref(), key.span().start);
            if self.is_misplaced(name, at) {
                self.unknown(at, name, std::iter::empty());
                continue;
            }
            match check(name) {
                Ok(good) => rows.push((good, Item { name, value })),
                Err(why) => self.wrong(at, format!("in {}, \"{}\" {why}", item.name, shown(name))),
            }
        }
        rows
    }

    /// Whether one of our settings was written on a line of its own below a line in brackets, as who adds at the end does.
    fn is_misplaced(&self, name: &str, at: usize) -> bool {
        let begins = self.text[..at].rfind('\n').map_or(0, |end| end + 1);
        self.text[begins..at].trim().is_empty() && KEYS.iter().any(|key| key.name == name)
    }

    /// What settings say together.
    fn together(&mut self, settings: &mut Settings, is_broken: bool) {
        let line = |reader: &Self, name: &str| reader.lines.get(name).copied();
        let role_line = line(self, "role");
        let nothing = "the board starts no cluster and joins none";
        if settings.role == Role::Unclear {
            self.problem(role_line.unwrap_or(1), format!("without a role, {nothing}"));
        } else if role_line.is_none() && is_broken && self.begins_a_line(&["role", "server"]) {
            settings.role = Role::Unclear;
            self.problem(1, format!("no role can be read in what is broken: {nothing}"));
        } else if let (None, None, Some(misspelt)) = (role_line, &settings.server, self.meant_role()) {
            settings.role = Role::Unclear;
            self.problem(misspelt, format!("without a role that can be read, {nothing}"));
        } else if role_line.is_none() && settings.server.is_some() {
            settings.role = Role::Agent;
        } else if settings.role == Role::Agent && settings.server.is_none() {
            settings.role = Role::Unclear;
            self.problem(role_line.unwrap_or(1), format!("an agent needs a server, and none is named: {nothing}"));
        } else if settings.role == Role::Server && settings.server.take().is_some() {
            let at = line(self, "server").unwrap_or(1);
            self.problem(at, "server is for agents, and the role is server: it is left out".to_owned());
        }
        self.restore(settings, is_broken);
        let at = line(self, "gateway").unwrap_or(1);
        self.near(&mut settings.network, at);
    }

    /// Where a misspelt setting stands that would have said what the board is.
    fn meant_role(&self) -> Option<usize> {
        ["role", "server"].iter().find_map(|name| self.meant.get(name)).copied()
    }

    /// A backup is for a server, and its key for a backup.
    fn restore(&mut self, settings: &mut Settings, is_broken: bool) {
        let is_meant = self.meant.contains_key("restore") || is_broken && self.begins_a_line(&["restore ", "restore="]);
        if is_meant && settings.restore.is_none() {
            settings.restore = Some(String::new());
        }
        let mut leave_out = |name: &str, why: &str| {
            let line = self.lines.get(name).copied().unwrap_or(1);
            self.problem(line, format!("{name} {why}: it is left out"));
        };
        if settings.role == Role::Agent && settings.restore.take().is_some() {
            leave_out("restore", "is for servers, and the role is agent");
        }
        for (name, value) in
            [("restore_key", &mut settings.restore_key), ("restore_volumes", &mut settings.restore_volumes)]
        {
            if settings.restore.is_none() && value.take().is_some() {
                leave_out(name, "is for a backup, and restore names none");
            }
        }
    }

    /// A gateway must be in the net of the address.
    fn near(&mut self, network: &mut Network, line: usize) {
        let why = match (network.gateway, network.address) {
            (Some(_), None) => "is left out: with DHCP, the server names one",
            (Some(gateway), Some((address, prefix))) if !is_near(gateway, address, prefix) => {
                "is left out: it is not in the net of the address"
            }
            _ => return,
        };
        self.problem(line, format!("the gateway {why}"));
        network.gateway = None;
    }

    fn begins_a_line(&self, names: &[&str]) -> bool {
        self.text.lines().any(|line| names.iter().any(|name| line.trim_start().starts_with(name)))
    }

    fn line(&self, at: usize) -> usize {
        self.text[..at.min(self.text.len())].matches('\n').count() + 1
    }

    fn wrong(&mut self, at: usize, what: String) {
        self.problem(self.line(at), what);
    }

    fn problem(&mut self, line: usize, what: String) {
        self.problems.push(Problem { line, what });
    }

    fn finish(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.line);
        self.problems.dedup();
        self.problems.truncate(PROBLEMS_MAX);
        self.problems
    }
}

/// What kind of value it is, with its article.
fn kind(item: Item<'_, '_>) -> String {
    let word = item.value.get_ref().type_str();
    let article = if word.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {word}")
}

/// A value as far as a message can hold it.
fn shown(value: &str) -> String {
    value.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect()
}

/// How many letters must be changed, added or taken away to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.bytes().enumerate() {
        let mut above_left = row[0];
        row[0] = index + 1;
        for (column, wanted) in other.bytes().enumerate() {
            let changed = above_left + usize::from(letter != wanted);
            above_left = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(above_left + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of `text`, a problem a line.
    fn check(text: &str, expected: &str) -> Settings {
        let (settings, problems) = read(text.as_bytes());
        let said: Vec<String> = problems.iter().map(|each| format!("{}: {}", each.line, each.what)).collect();
        assert_eq!(said.join("\n"), expected, "{text}");
        settings
    }

    /// Its beginning only: the rest is TOML's own words.
    fn check_begins(text: &str, expected: &str) -> Settings {
        let (settings, problems) = read(text.as_bytes());
        let first = problems.first().map_or(String::new(), |each| format!("{}: {}", each.line, each.what));
        assert!(first.starts_with(expected), "{text} gives {problems:?}");
        settings
    }

    #[test]
    fn an_empty_file_is_a_server() {
        assert_eq!(check("", ""), Settings::default());
        assert_eq!(check("token = \"\"\nhostname = \"\"\n", ""), Settings::default());
    }

    #[test]
    fn an_unknown_setting_is_named_with_what_was_meant() {
        check("tokn = \"x\"\n", "1: there is no setting tokn; token is meant, perhaps");
        check("\n\nnonsense = 1\n", "3: there is no setting nonsense");
        check("[links.eth1]\nadress = \"dhcp\"\n", "2: there is no setting adress; address is meant, perhaps");
    }

    /// Who meant another cluster, or an earlier one, gets no new one for a slip of the pen.
    #[test]
    fn a_misspelt_role_or_backup_starts_no_empty_cluster() {
        let nothing = "without a role that can be read, the board starts no cluster and joins none";
        let told =
            |name: &str, near: &str| format!("1: there is no setting {name}; {near} is meant, perhaps\n1: {nothing}");
        assert_eq!(check("rol = \"agent\"\n", &told("rol", "role")).role, Role::Unclear);
        assert_eq!(check("sever = \"a\"\n", &told("sever", "server")).role, Role::Unclear);
        let other = "1: there is no setting rol; role is meant, perhaps";
        assert_eq!(check("rol = \"x\"\nserver = \"a\"\n", other).role, Role::Agent);
        let settings = check("restor = \"a\"\n", "1: there is no setting restor; restore is meant, perhaps");
        assert_eq!((settings.role, settings.restore.as_deref()), (Role::Server, Some("")));
    }

    #[test]
    fn a_wrong_value_is_named_and_the_others_count() {
        let settings = check(
            "hostname = \"a_b\"\nntp = [\"a\", \"b c\"]\ntoken = 7\ndns = \"9.9.9.9\"\n",
            "1: hostname is \"a_b\", which is no host name: up to 63 letters, digits, `-` and `.` are\n\
             2: ntp is \"b c\", which is no host name: up to 63 letters, digits, `-` and `.` are\n\
             3: token is an integer, and must be text in quotes",
        );
        assert_eq!((settings.hostname, settings.ntp), (None, vec!["a".to_owned()]));
        assert_eq!(settings.network.dns.len(), 1);
    }

    #[test]
    fn what_is_broken_is_named_with_its_line_and_the_rest_counts() {
        let settings =
            check_begins("hostname = \"a\"\ntoken = \"abc\nntp = \"b\"\nrole = \"server\"\n", "2: this cannot");
        assert_eq!((settings.hostname.as_deref(), settings.role), (Some("a"), Role::Server));
        assert_eq!(settings.ntp, ["b"]);
        check_begins("hostname = \"a\"\n\n= 7\n", "3: this cannot be understood: ");
        check_begins("hostname = kitchen\n", "1: this cannot be understood: ");
        check_begins("hostname = \"a\"\nhostname = \"b\"\n", "2: this cannot be understood: duplicate key");
        check_begins("[links\nx\n", "1: this cannot be understood: ");
        let settings = check_begins("hostname = \"a\"\n\u{fffd}\u{7f}junk\0\0more", "2: this cannot be understood: ");
        assert_eq!(settings.hostname.as_deref(), Some("a"));
    }

    #[test]
    fn one_setting_is_set_by_name() {
        let mut settings = Settings::default();
        assert_eq!(set(&mut settings, "hostname", "a"), Ok(()));
        assert_eq!(set(&mut settings, "dns", "9.9.9.9"), Ok(()));
        assert_eq!((settings.hostname.as_deref(), settings.network.dns.len()), (Some("a"), 1));
        assert_eq!(
            set(&mut settings, "hostnam", "a"),
            Err("there is no setting hostnam; hostname is meant, perhaps".to_owned())
        );
        assert!(set(&mut settings, "hostname", "a b").is_err());
    }

    #[test]
    fn a_secret_is_not_repeated() {
        check(
            "token = \"abcdef.secret\"\n",
            "1: token is no token: one looks like abcdef.0123456789abcdef, small letters and digits",
        );
    }

    #[test]
    fn an_agent_needs_a_server() {
        let settings = check(
            "\nrole = \"agent\"\n",
            "2: an agent needs a server, and none is named: the board starts no cluster and joins none",
        );
        assert_eq!(settings.role, Role::Unclear);
        assert_eq!(check("role = \"Agent\"\nserver = \"a\"\n", "").role, Role::Agent);
        assert_eq!(check("server = \"a\"\n", "").role, Role::Agent);
        let settings = check(
            "role = \"server\"\nserver = \"a\"\n",
            "2: server is for agents, and the role is server: it is left out",
        );
        assert_eq!((settings.role, settings.server), (Role::Server, None));
    }

    #[test]
    fn a_backup_is_for_a_server_and_its_key_for_a_backup() {
        let settings = check("restore = \"a.backup\"\nrestore_key = \"a.key\"\n", "");
        assert_eq!((settings.restore.as_deref(), settings.restore_key.as_deref()), (Some("a.backup"), Some("a.key")));
        let settings = check(
            "server = \"a\"\nrestore = \"a\"\nrestore_key = \"b\"\n",
            "2: restore is for servers, and the role is agent: it is left out\n\
             3: restore_key is for a backup, and restore names none: it is left out",
        );
        assert_eq!((settings.restore, settings.restore_key), (None, None));
        let settings = check("restore = \"a\"\nrestore_volumes = \"/data/\"\n", "");
        assert_eq!(settings.restore_volumes.as_deref(), Some("/data/"));
        check(
            "restore_volumes = \"/\"\n",
            "1: restore_volumes is for a backup, and restore names none: it is left out",
        );
        let wrong = "2: restore_volumes is \"data\", which is no folder's full path on the board";
        assert_eq!(check("restore = \"a\"\nrestore_volumes = \"data\"\n", wrong).restore_volumes, None);
        let settings = check(
            "restore = \"../a\"\n",
            "1: restore is \"../a\", which is no file: a name is, of a file beside this one, or a full path on the board",
        );
        // A cluster that begins empty could not be restored any more.
        assert_eq!(settings.restore.as_deref(), Some(""));
        assert_eq!(read(b"restore \"a.backup\"\n").0.restore.as_deref(), Some(""));
        assert_eq!(check("restore = \"\"\n", "").restore, None);
    }

    #[test]
    fn settings_are_found_by_their_line() {
        let text = b"# restore = 1\nrestore_key = \"a\"\r\n restore= \"b\"\n";
        assert_eq!((line_of(text, "restore"), line_of(text, "restore_key"), line_of(text, "role")), (3, 2, 0));
    }

    #[test]
    fn a_role_nobody_understands_is_none() {
        let settings = check(
            "role = \"agnet\"\n",
            "1: role is \"agnet\", which is no role: `server` and `agent` are\n\
             1: without a role, the board starts no cluster and joins none",
        );
        assert_eq!(settings.role, Role::Unclear);
        assert_eq!(read(b"role agent\nserver = \"a\"\n").0.role, Role::Unclear);
        assert_eq!(read(b"role = \"age").0.role, Role::Unclear);
        // What TOML's parser makes of words without quotes is what was meant, and it says so all the same.
        assert_eq!(read(b"role = agent\nserver = \"a\"\n").0.role, Role::Agent);
        assert_eq!(read(b"hostname = kitchen\n# role = \"agent\"\n").0.role, Role::Server);
    }

    #[test]
    fn a_gateway_is_near() {
        let check_gateway = |text: &str, expected: &str| assert_eq!(check(text, expected).network.gateway, None);
        check_gateway("gateway = \"10.0.0.1\"\n", "1: the gateway is left out: with DHCP, the server names one");
        check_gateway(
            "address = \"10.0.1.2/24\"\ngateway = \"10.0.0.1\"\n",
            "2: the gateway is left out: it is not in the net of the address",
        );
    }

    #[test]
    fn what_is_added_at_the_end_is_not_taken_for_a_label() {
        let settings = check(
            "labels = { role = \"x\" }\n[mirrors]\n\"docker.io\" = \"http://a:1\"\ntoken = \"abc\"\n",
            "4: token stands below a line in brackets: it belongs above the first of them",
        );
        assert_eq!((settings.labels.len(), settings.mirrors.len()), (1, 1));
        check(
            "[links.eth1]\naddress = \"dhcp\"\ntoken = \"a\"\n",
            "3: token stands below a line in brackets: it belongs above the first of them",
        );
    }

    #[test]
    fn links_have_addresses_of_their_own() {
        let settings = check(
            "[links.eth1]\naddress = \"10.0.0.2/24\"\n[links.\"a b\"]\n",
            "3: in links, \"a b\" is no link's name such as eth0",
        );
        assert_eq!(settings.links.len(), 1);
        assert_eq!(settings.links[0].link.as_deref(), Some("eth1"));
        check("links = 7\n", "1: links is an integer, and must be { NAME = ..., NAME = ... }");
        check("[links]\neth1 = 7\n", "2: links.eth1 is an integer, and must be a table");
    }

    #[test]
    fn a_file_without_end_is_cut() {
        let mut bytes = b"hostname = \"a\"\n".to_vec();
        bytes.resize(1 << 20, b'#');
        let (settings, problems) = read(&bytes);
        assert_eq!((settings.hostname.as_deref(), problems.len()), (Some("a"), 1));
        let nested = "a=".to_owned() + &"[".repeat(60_000);
        assert!(!read(nested.as_bytes()).1.is_empty());
    }

    #[test]
    fn any_bytes_are_survived() {
        let good = crate::file(&Settings::default()).replace('#', "");
        for length in 0..good.len() {
            let _any = read(&good.as_bytes()[..length]);
            let mut bytes = good.clone().into_bytes();
            bytes[length] = bytes[length].wrapping_mul(31) ^ 0x55;
            let _any = read(&bytes);
        }
    }

    #[test]
    fn misspelt_words_are_near() {
        assert_eq!((distance("tokn", "token"), distance("", "ab"), distance("abc", "abc")), (1, 2, 0));
    }
}
