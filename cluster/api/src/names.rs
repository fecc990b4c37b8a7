//! What names, labels, annotations, ports and environment variables may look like.
//!
//! Start at [`NameRule`]. Each check gives upstream's sentences about what is wrong, none when all is well.
//!
//! Not here: where a rule applies (`validation`).

/// How an object may be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    DnsSubdomain,
    /// RFC 1123 label: namespaces, and services since 1.34's relaxed rule.
    DnsLabel,
    /// RFC 1035 label: services.
    Dns1035Label,
    /// Anything that fits in a URL's path: RBAC kinds.
    PathSegment,
}

impl NameRule {
    /// What is wrong with `name`; a `prefix` (generateName) may end in a dash.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = match prefix && name.len() > 1 && name.ends_with('-') && self != NameRule::PathSegment {
            true => {
                masked = format!("{}a", &name[..name.len() - 2]);
                &masked
            }
            false => name,
        };
        match self {
            NameRule::DnsSubdomain => dns1123_subdomain(name),
            NameRule::DnsLabel => dns1123_label(name),
            NameRule::Dns1035Label => dns1035_label(name),
            NameRule::PathSegment => path_segment(name, prefix),
        }
    }
}

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_RULE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const SUBDOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// A rule with its pattern and examples, in upstream's shape.
pub fn pattern(rule: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{rule} (regex used for validation is '{format}')");
    }
    let examples: Vec<String> = examples.iter().map(|one| format!("'{one}', ")).collect();
    format!("{rule} (e.g. {}regex used for validation is '{format}')", examples.join(" or "))
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn bytes_too_many(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn is_lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn has_label_shape(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            is_lower_alnum(first)
                && is_lower_alnum(last)
                && bytes.iter().all(|&byte| is_lower_alnum(byte) || byte == b'-')
        }
        _ => false,
    }
}

fn has_subdomain_shape(text: &str) -> bool {
    text.split('.').all(has_label_shape)
}

/// RFC 1123 label.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > LABEL_MAX {
        wrong.push(too_long(LABEL_MAX));
    }
    if !has_label_shape(value) {
        wrong.push(match has_subdomain_shape(value) {
            true => "must not contain dots".to_owned(),
            false => pattern(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL_FORMAT,
                &["my-name", "123-abc"],
            ),
        });
    }
    wrong
}

/// RFC 1123 subdomain.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    subdomain(value, too_long(SUBDOMAIN_MAX))
}

fn subdomain(value: &str, length_rule: String) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        wrong.push(length_rule);
    }
    if !has_subdomain_shape(value) {
        wrong.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            SUBDOMAIN_FORMAT,
            &["example.com"],
        ));
    }
    wrong
}

/// RFC 1123 subdomain whose first label is `*`.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        wrong.push(too_long(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(has_subdomain_shape) {
        wrong.push(pattern(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{SUBDOMAIN_FORMAT}"),
            &["*.example.com"],
        ));
    }
    wrong
}

/// RFC 1035 label.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > LABEL_MAX {
        wrong.push(too_long(LABEL_MAX));
    }
    if !has_label_shape(value) || !value.starts_with(|first: char| first.is_ascii_lowercase()) {
        wrong.push(pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    wrong
}

/// A name that fits in a URL's path.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|bad| name.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

fn has_qualified_shape(name: &str) -> bool {
    let bytes = name.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        }
        _ => false,
    }
}

/// A label's key, a finalizer, a condition's type: `[prefix/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let examples = ["MyName", "my.name", "123-abc"];
    let name = match value.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                let found = subdomain(prefix, bytes_too_many(SUBDOMAIN_MAX));
                wrong.extend(found.into_iter().map(|one| format!("prefix part {one}")));
            }
            name
        }
        _ => {
            let rule = pattern(QUALIFIED_RULE, QUALIFIED_FORMAT, &examples);
            return vec![format!(
                "a valid label key {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        wrong.push(format!("name part {}", bytes_too_many(LABEL_MAX)));
    }
    if !has_qualified_shape(name) {
        wrong.push(format!("name part {}", pattern(QUALIFIED_RULE, QUALIFIED_FORMAT, &examples)));
    }
    wrong
}

/// A label's value.
pub fn label_value(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > LABEL_MAX {
        wrong.push(bytes_too_many(LABEL_MAX));
    }
    if !value.is_empty() && !has_qualified_shape(value) {
        wrong.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// A container port's name.
pub fn port_name(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > 15 {
        wrong.push(too_long(15));
    }
    if value.is_empty() || !value.bytes().all(|byte| is_lower_alnum(byte) || byte == b'-') {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|byte| byte.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

/// A port's number.
pub fn port_number(value: i64) -> Vec<String> {
    range(value, 1, 65535)
}

/// A number within bounds.
pub fn range(value: i64, low: i64, high: i64) -> Vec<String> {
    match (low..=high).contains(&value) {
        true => Vec::new(),
        false => vec![format!("must be between {low} and {high}, inclusive")],
    }
}

/// An environment variable's name (the relaxed rule of 1.34: printable ASCII but `=`).
pub fn env_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    match value.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=') {
        true => Vec::new(),
        false => vec![
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        ],
    }
}

/// A key of a ConfigMap's or Secret's data.
pub fn config_key(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        wrong.push(too_long(SUBDOMAIN_MAX));
    }
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        wrong.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." => wrong.push("must not be '.'".to_owned()),
        ".." => wrong.push("must not be '..'".to_owned()),
        _ if value.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

/// A probe's or hook's HTTP header.
pub fn http_header(value: &str) -> Vec<String> {
    match !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        true => Vec::new(),
        false => vec![pattern(
            "a valid HTTP header must consist of alphanumeric characters or '-'",
            "[-A-Za-z0-9]+",
            &["X-Header-Name"],
        )],
    }
}

/// An IP address, v4 or v6, without leading zeros.
pub fn ip(value: &str) -> Vec<String> {
    match value.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// An address range.
pub fn cidr(value: &str) -> Vec<String> {
    let valid = value.split_once('/').is_some_and(|(address, length)| {
        let max = match address.parse() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        length.bytes().all(|byte| byte.is_ascii_digit()) && length.parse::<u8>().is_ok_and(|length| length <= max)
    });
    match valid {
        true => Vec::new(),
        false => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_words() {
        let long = "a".repeat(64);
        let cases: &[(fn(&str) -> Vec<String>, &[&str], &[&str])] = &[
            (dns1123_label, &["a", "0-b"], &["", "A", "-a", "a.b", &long]),
            (dns1123_subdomain, &["a.b-c", "0.1"], &["", "a..b", ".a", "a_b"]),
            (dns1035_label, &["a-1"], &["1a", "", "a."]),
            (qualified_name, &["a", "a.io/B_c", "A.b"], &["", "/a", "a/", "a/b/c", "B.io/a", "-a", &long]),
            (label_value, &["", "A_b.c"], &["-a", "a b", &long]),
            (port_name, &["http", "a-1"], &["", "1", "A", "a--b", "-a", "abcdefghijklmnop"]),
            (config_key, &["a.b", "_x", ".hidden"], &["", ".", "..", "..a", "a/b"]),
            (env_name, &["A", "a b", "1"], &["", "a=b", "é"]),
            (wildcard_subdomain, &["*.a.b"], &["*", "a.*", "*.A"]),
            (cidr, &["10.0.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1"]),
            (ip, &["1.2.3.4", "::1"], &["1.2.3", "01.2.3.4", ""]),
        ];
        for (rule, good, bad) in cases {
            for word in *good {
                assert_eq!(rule(word), Vec::<String>::new(), "{word:?}");
            }
            for word in *bad {
                assert_ne!(rule(word), Vec::<String>::new(), "{word:?}");
            }
        }
    }

    #[test]
    fn a_bad_name_is_told_as_upstream_tells_it() {
        assert_eq!(
            NameRule::DnsSubdomain.check("Bad_Name", false),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(NameRule::DnsSubdomain.check("prefix-", true), Vec::<String>::new());
        assert_eq!(NameRule::PathSegment.check("a/b", false), ["may not contain '/'"]);
        assert_eq!(NameRule::PathSegment.check("system:node", false), Vec::<String>::new());
    }
}
