//! What a value must look like: one function a kind, from what was written to what it means.
//!
//! Start anywhere; the errors are the ends of sentences that begin with the setting's name and value.

use std::net::Ipv4Addr;

use crate::{PORT, Role, Server};

/// The kernel takes 64 bytes; a label of a name on the network has one less.
const HOSTNAME_MAX: usize = 63;
/// The kernel's own limit.
const LINK_NAME_MAX: usize = 15;
/// Nobody copies longer ones by hand.
const WORD_MAX: usize = 512;
/// What is shorter can be guessed.
const SECRET_MIN: usize = 16;
/// Of a label's key without prefix, and of its value, as Kubernetes has it.
const LABEL_MAX: usize = 63;
/// Whose labels are not everybody's.
const KUBERNETES: [&str; 2] = ["kubernetes.io", "k8s.io"];
/// Of these, some that a node may give itself, and prefixes below which it may give any.
const OWN_LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];
const OWN_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Of an Ed25519 key.
const PUBLIC_KEY_DIGITS: usize = 64;
/// Where no prefix is given.
const USUAL_PREFIX: u8 = 24;
/// What a taint does, in Kubernetes' words.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// An answer, or the end of a sentence.
pub type Answer<T> = Result<T, String>;

/// A name on the network. Capitals are made small: names differ by letters only.
pub fn hostname(value: &str) -> Answer<String> {
    let name = value.to_ascii_lowercase();
    let sound = |part: &str| {
        let plain = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        !part.is_empty() && plain && !part.starts_with('-') && !part.ends_with('-')
    };
    if name.len() <= HOSTNAME_MAX && name.split('.').all(sound) {
        return Ok(name);
    }
    Err(format!("is no host name: up to {HOSTNAME_MAX} letters, digits, `-` and `.` are"))
}

/// `server` or `agent`.
pub fn role(value: &str) -> Answer<Role> {
    match value.to_ascii_lowercase().as_str() {
        "server" => Ok(Role::Server),
        "agent" => Ok(Role::Agent),
        _ => Err("is no role: `server` and `agent` are".to_owned()),
    }
}

/// An address or a name, with a port or without, with `https://` or without.
pub fn server(value: &str) -> Answer<Server> {
    let refused = || format!("is no server: an address or a name is, such as 192.168.1.10, with `:{PORT}` or without");
    let bare = value.strip_prefix("https://").unwrap_or(value).trim_end_matches('/');
    let (host, port) = match bare.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(refused)?),
        None => (bare, PORT),
    };
    let digits = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let sound = if digits { host.parse::<Ipv4Addr>().is_ok() } else { hostname(host).is_ok() };
    if sound { Ok(Server { host: host.to_ascii_lowercase(), port }) } else { Err(refused()) }
}

/// Something without spaces, such as a token, a key, a server's name.
pub fn word(value: &str) -> Answer<String> {
    let plain = value.bytes().all(|byte| byte.is_ascii_graphic());
    if !value.is_empty() && value.len() <= WORD_MAX && plain {
        return Ok(value.to_owned());
    }
    Err(format!("is not one word of up to {WORD_MAX} letters, digits and signs"))
}

/// A file beside the settings, or a full path on the board.
pub fn file(value: &str) -> Answer<String> {
    let mut parts = value.strip_prefix('/').unwrap_or(value).split('/');
    let is_plain = parts.all(|part| !part.is_empty() && !part.starts_with('.'));
    let is_near = value.starts_with('/') || !value.contains('/');
    if is_plain && is_near && value.len() <= WORD_MAX && !value.chars().any(char::is_control) {
        return Ok(value.to_owned());
    }
    Err("is no file: a name is, of a file beside this one, or a full path on the board".to_owned())
}

/// A folder's full path on the board.
pub fn folder(value: &str) -> Answer<String> {
    let inner = value.strip_prefix('/').map(|inner| inner.strip_suffix('/').unwrap_or(inner));
    if inner.is_some_and(|inner| inner.is_empty() || file(&format!("/{inner}")).is_ok()) {
        return Ok(value.to_owned());
    }
    Err("is no folder's full path on the board".to_owned())
}

/// What lets a board into a cluster, in the form that Kubernetes gave it.
pub fn token(value: &str) -> Answer<String> {
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let sound = |(id, secret): (&str, &str)| id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret);
    if value.split_once('.').is_some_and(sound) {
        return Ok(value.to_owned());
    }
    // It is a secret, perhaps with one letter missing: it is not repeated by whoever tells of this.
    Err("is no token: one looks like abcdef.0123456789abcdef, small letters and digits".to_owned())
}

/// What somebody keeps to himself: long enough that nobody guesses it, and never repeated.
pub fn secret(value: &str) -> Answer<String> {
    if (SECRET_MIN..=WORD_MAX).contains(&value.len()) && !value.chars().any(char::is_control) {
        return Ok(value.to_owned());
    }
    Err(format!("is no secret: {SECRET_MIN} to {WORD_MAX} bytes are"))
}

/// Nothing for DHCP, or an address with the length of its net's prefix.
pub fn address(value: &str) -> Answer<Option<(Ipv4Addr, u8)>> {
    if value.eq_ignore_ascii_case("dhcp") {
        return Ok(None);
    }
    let refused = || "is no address: `dhcp` is, or one such as 192.168.1.20/24".to_owned();
    let (ip, prefix) = value.split_once('/').unwrap_or((value, ""));
    let ip: Ipv4Addr = ip.parse().map_err(|_| refused())?;
    let prefix = if prefix.is_empty() { Ok(USUAL_PREFIX) } else { prefix.parse() };
    let prefix = prefix.ok().filter(|prefix| (1..=32).contains(prefix)).ok_or_else(refused)?;
    match unfit(ip, prefix) {
        Some(why) => Err(format!("cannot be a board's address: {why}")),
        None => Ok(Some((ip, prefix))),
    }
}

/// Why no machine can have this address.
fn unfit(ip: Ipv4Addr, prefix: u8) -> Option<&'static str> {
    let inside = if prefix >= 31 { 1 } else { ip.to_bits() & (u32::MAX >> prefix) };
    if ip.is_loopback() {
        Some("it is a machine's own, for itself")
    } else if ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0 || ip.octets()[0] >= 240 {
        Some("no machine has such a one")
    } else if inside == 0 {
        Some("it is that of the whole net")
    } else if prefix < 31 && inside == u32::MAX >> prefix {
        Some("it is that of everybody in the net")
    } else {
        None
    }
}

/// A plain address.
pub fn ip(value: &str) -> Answer<Ipv4Addr> {
    let found = value.parse::<Ipv4Addr>().ok().filter(|ip| unfit(*ip, 32).is_none());
    found.ok_or_else(|| "is no address such as 192.168.1.1".to_owned())
}

/// Whether both are in the same net.
pub fn is_near(one: Ipv4Addr, other: Ipv4Addr, prefix: u8) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    one.to_bits() & mask == other.to_bits() & mask
}

/// A link's name.
pub fn link(value: &str) -> Answer<String> {
    let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let sound = !value.is_empty() && value.len() <= LINK_NAME_MAX && plain && !value.starts_with('.');
    if sound { Ok(value.to_owned()) } else { Err("is no link's name such as eth0".to_owned()) }
}

/// A registry as images name it: a host, with a port or without.
pub fn registry(value: &str) -> Answer<String> {
    let (host, port) = value.split_once(':').unwrap_or((value, "443"));
    if hostname(host).is_ok_and(|same| same == host) && port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Ok(value.to_owned());
    }
    Err("is no registry such as docker.io or registry.local:5000".to_owned())
}

/// Where a registry's images are too.
pub fn mirror(value: &str) -> Answer<String> {
    let host = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://"));
    // A comma would make two of it on the way to the runtime.
    if host.is_some_and(|host| !host.is_empty()) && word(value).is_ok() && !value.contains(',') {
        return Ok(value.to_owned());
    }
    Err("is no mirror: an address such as http://192.168.1.5:5000 is".to_owned())
}

/// A label's key, with a prefix or without.
pub fn label_key(key: &str) -> Answer<String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let sound = prefix.is_none_or(|prefix| hostname(prefix).is_ok_and(|same| same == prefix));
    if !sound || name.is_empty() || !is_label(name) {
        return Err("is no label's name such as room or example.com/room".to_owned());
    }
    Ok(key.to_owned())
}

/// A key of a label that a node may give itself: those of Kubernetes' own are not, but for a few.
pub fn own_label_key(key: &str) -> Answer<String> {
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    let is_below =
        |domain: &&str| prefix == *domain || prefix.strip_suffix(*domain).is_some_and(|rest| rest.ends_with('.'));
    let is_kubernetes = KUBERNETES.iter().any(|domain| is_below(domain));
    if is_kubernetes && !OWN_LABELS.contains(&key) && !OWN_PREFIXES.iter().any(|domain| is_below(domain)) {
        return Err(
            "is not a board's own to say: labels of Kubernetes are given by the cluster's administrator".to_owned()
        );
    }
    label_key(key)
}

/// A key that updates are signed with, the public half: as `image key` writes it.
pub fn public_key(value: &str) -> Answer<String> {
    if value.len() == PUBLIC_KEY_DIGITS && value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(value.to_owned());
    }
    Err(format!("is no public key: {PUBLIC_KEY_DIGITS} hexadecimal digits are, as `image key` writes them"))
}

/// A label's value.
pub fn label_value(value: &str) -> Answer<String> {
    if is_label(value) {
        return Ok(value.to_owned());
    }
    Err(format!(
        "is no label's value: up to {LABEL_MAX} letters, digits, `-`, `_` and `.` are, with letters or digits at both ends"
    ))
}

fn is_label(value: &str) -> bool {
    let end = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    value.len() <= LABEL_MAX && plain && end(value.bytes().next()) && end(value.bytes().last())
}

/// A taint: `KEY=VALUE:EFFECT` or `KEY:EFFECT`.
pub fn taint(value: &str) -> Answer<String> {
    let (what, effect) = value.rsplit_once(':').unwrap_or((value, ""));
    let (key, worth) = what.split_once('=').unwrap_or((what, ""));
    if label_key(key).is_ok() && is_label(worth) && EFFECTS.contains(&effect) {
        return Ok(value.to_owned());
    }
    Err(format!("is no taint: KEY=VALUE:EFFECT is, the effect being one of {}", EFFECTS.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good<T: std::fmt::Debug>(check: fn(&str) -> Answer<T>, values: &str) {
        for value in values.split(' ') {
            check(value).unwrap_or_else(|why| panic!("{value} {why}"));
        }
    }
    fn bad<T: std::fmt::Debug>(check: fn(&str) -> Answer<T>, values: &str) {
        for value in values.split(' ') {
            assert!(check(value).is_err(), "{value} is taken for {:?}", check(value));
        }
    }

    #[test]
    fn hostnames() {
        good(hostname, "a skerry-1 Kitchen node.example.org 7");
        bad(hostname, " - -a a- a_b a..b ä");
        assert_eq!(hostname("Kitchen"), Ok("kitchen".to_owned()));
        assert!(hostname(&"a".repeat(63)).is_ok() && hostname(&"a".repeat(64)).is_err());
    }

    #[test]
    fn servers() {
        let check = |value: &str, expected: &str| assert_eq!(server(value).unwrap().to_string(), expected);
        check("192.168.7.1", "https://192.168.7.1:6443");
        check("https://Skerry-1.local:7000/", "https://skerry-1.local:7000");
        bad(server, "192.168.7 1.2.3.4.5 a:0 a:b http://a a/b ");
    }

    #[test]
    fn addresses() {
        good(address, "dhcp DHCP 192.168.7.2/24 10.0.0.1/8 192.168.7.2 10.0.0.0/31 10.0.0.255/16");
        bad(
            address,
            "192.168.7 192.168.7.0/24 192.168.7.255/24 127.0.0.1/8 224.0.0.1/4 0.0.0.0/0 1.2.3.4/33 1.2.3.4/0 none",
        );
        assert_eq!(address("192.168.7.2"), Ok(Some((Ipv4Addr::new(192, 168, 7, 2), 24))));
        assert!(is_near(Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(10, 1, 2, 200), 24));
        assert!(!is_near(Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(10, 1, 3, 3), 24));
    }

    #[test]
    fn tokens() {
        good(token, "abcdef.0123456789abcdef 000000.zzzzzzzzzzzzzzzz");
        bad(token, "abcdef abcdef.0123456789abcde Abcdef.0123456789abcdef abcdef.0123456789abcdef. .");
    }

    #[test]
    fn files_are_beside_or_have_a_full_path() {
        good(file, "skerry-0a1b-007.backup /data/var/lib/a.backup K");
        assert!(file("my backup").is_ok());
        bad(file, " / . .. ../a a/b /a/../b /a//b a/ \t");
    }

    #[test]
    fn secrets_are_long() {
        assert!(secret("sixteen letters.").is_ok() && secret("fifteen letters").is_err());
        assert!(secret("sixteen letters\n.").is_err() && secret(&"a".repeat(513)).is_err());
    }

    #[test]
    fn labels_and_taints() {
        good(label_key, "room example.com/room a_b");
        bad(label_key, "/room Example.com/room a/b/c -a");
        good(
            own_label_key,
            "room example.com/room topology.kubernetes.io/zone node.kubernetes.io/a a.node.kubernetes.io/b",
        );
        bad(own_label_key, "kubernetes.io/hostname node-role.kubernetes.io/x a.k8s.io/b k8s.io/a -a");
        good(own_label_key, "mykubernetes.io/a notk8s.io/b");
        good(label_value, " kitchen 1.5 a-b_c");
        bad(label_value, "-a a- a/b a:b");
        good(taint, "key=value:NoSchedule key:NoExecute example.com/k=v:PreferNoSchedule");
        bad(taint, "key key=value key=value:Never =v:NoSchedule");
    }

    #[test]
    fn words_links_and_mirrors() {
        good(word, "abcdef.0123456789abcdef K10c::x");
        assert!(word("two words").is_err() && word("").is_err() && word(&"a".repeat(513)).is_err());
        good(link, "eth0 enp0s3 end0.7");
        bad(link, " . ../x a/b sixteen-letters-x");
        good(mirror, "http://192.168.1.5:5000 https://mirror.example.org/debian");
        bad(mirror, "192.168.1.5:5000 ftp://x http:// http://a,http://b");
        good(registry, "docker.io registry.local:5000 10.0.0.1:5000 a");
        bad(registry, "Docker.io docker.io/a a:0 a:b a,b a=b ");
    }

    #[test]
    fn public_keys() {
        assert!(public_key(&"0aF".repeat(21)).is_err());
        assert!(public_key(&"0aF9".repeat(16)).is_ok());
        assert!(public_key(&"0aG9".repeat(16)).is_err());
    }
}
