//! Every setting: its name, what a person is told of it, how it is read, how it is written.
//!
//! Start at [`KEYS`]; [`file`] writes all of them down.
//!
//! What has names of its own choosing (labels, mirrors) is shown on one line in braces, because what a person adds below a
//! line in brackets would become part of it.

use std::fmt::Write;

use toml::Value;

use crate::reader::{Item, Reader};
use crate::{FILE, Network, Role, Settings, check};

/// One setting.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// Lines of comment, above it.
    about: &'static str,
    /// What stands behind `name =` where nothing is said.
    example: &'static str,
    pub(crate) set: fn(&mut Settings, &mut Reader<'_>, Item<'_, '_>),
    get: fn(&Settings) -> Option<Value>,
}

/// One setting of a link.
pub(crate) struct LinkKey {
    pub(crate) name: &'static str,
    pub(crate) set: fn(&mut Network, &mut Reader<'_>, Item<'_, '_>),
    get: fn(&Network) -> Option<Value>,
}

/// The settings of a link, those of the first one at the top of the file.
pub(crate) const LINK_KEYS: &[LinkKey] = &[
    LinkKey {
        name: "address",
        set: |to, reader, item| {
            if let Some(address) = reader.checked(item, check::address) {
                to.address = address;
            }
        },
        get: |of| of.address.map(|(ip, prefix)| format!("{ip}/{prefix}").into()),
    },
    LinkKey {
        name: "gateway",
        set: |to, reader, item| to.gateway = reader.checked(item, check::ip),
        get: |of| of.gateway.map(|gateway| gateway.to_string().into()),
    },
    LinkKey {
        name: "dns",
        set: |to, reader, item| to.dns = reader.list(item, check::ip),
        get: |of| some(of.dns.iter().map(|ip| ip.to_string().into()).collect()),
    },
];

/// All settings but `links`, in the order of the file.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "hostname",
        about: "The board's name in your network and in the cluster.",
        example: "\"skerry-1\"",
        set: |to, reader, item| to.hostname = reader.checked(item, check::hostname),
        get: |of| of.hostname.clone().map(Value::from),
    },
    Key {
        name: "role",
        about: "server: the board runs a cluster. agent: it joins the cluster of another board, named below.",
        example: "\"server\"",
        set: |to, reader, item| to.role = reader.checked(item, check::role).unwrap_or(Role::Unclear),
        get: |of| (of.role != Role::Unclear).then(|| of.role.word().into()),
    },
    Key {
        name: "server",
        about: "For an agent: the address or name of the server.",
        example: "\"192.168.1.10\"",
        set: |to, reader, item| to.server = reader.checked(item, check::server),
        get: |of| of.server.as_ref().map(|server| server.short().into()),
    },
    Key {
        name: "token",
        about: "What lets a board into the cluster: the same on the server and on every agent. Keep it to yourself.",
        example: "\"abcdef.0123456789abcdef\"",
        set: |to, reader, item| to.token = reader.secret(item, check::token),
        get: |of| of.token.clone().map(Value::from),
    },
    Key {
        name: "checkpoint_key",
        about: "For an agent: a secret of your own that encrypts what it keeps of its pods, Secrets among it.",
        example: "\"a long secret that nobody guesses\"",
        set: |to, reader, item| to.checkpoint_key = reader.secret(item, check::secret),
        get: |of| of.checkpoint_key.clone().map(Value::from),
    },
    Key {
        name: "restore",
        about: "For a server that has no cluster yet: begin with that of this backup, a file beside this one.\nOnce there is a \
                cluster, this says nothing any more.",
        example: "\"skerry.backup\"",
        set: |to, reader, item| to.restore = reader.checked_or_unclear(item, check::file),
        get: |of| of.restore.clone().filter(|file| !file.is_empty()).map(Value::from),
    },
    Key {
        name: "restore_key",
        about: "Where the backup is encrypted: the file with its key. Take it off the card afterwards.",
        example: "\"skerry.key\"",
        set: |to, reader, item| to.restore_key = reader.checked(item, check::file),
        get: |of| of.restore_key.clone().map(Value::from),
    },
    Key {
        name: "restore_volumes",
        about: "The volumes in the backup come along, each below this folder at the path it was backed up from; \"/\" is where\nit \
                was. Without this they stay in the file.",
        example: "\"/\"",
        set: |to, reader, item| to.restore_volumes = reader.checked(item, check::folder),
        get: |of| of.restore_volumes.clone().map(Value::from),
    },
    Key {
        name: "address",
        about: "\"dhcp\", or the board's own address with the length of its net.",
        example: "\"192.168.1.20/24\"",
        set: |to, reader, item| (LINK_KEYS[0].set)(&mut to.network, reader, item),
        get: |of| (LINK_KEYS[0].get)(&of.network),
    },
    Key {
        name: "gateway",
        about: "With an address of its own: who leads to other nets, and who resolves names.",
        example: "\"192.168.1.1\"",
        set: |to, reader, item| (LINK_KEYS[1].set)(&mut to.network, reader, item),
        get: |of| (LINK_KEYS[1].get)(&of.network),
    },
    Key {
        name: "dns",
        about: "",
        example: "[\"192.168.1.1\"]",
        set: |to, reader, item| (LINK_KEYS[2].set)(&mut to.network, reader, item),
        get: |of| (LINK_KEYS[2].get)(&of.network),
    },
    Key {
        name: "link",
        about: "The link that all this is about, where it is not the first wired one.",
        example: "\"eth0\"",
        set: |to, reader, item| to.network.link = reader.checked(item, check::link),
        get: |of| of.network.link.clone().map(Value::from),
    },
    Key {
        name: "node_ip",
        about: "Where a board has several addresses: the one by which the other boards find it.",
        example: "\"192.168.1.20\"",
        set: |to, reader, item| to.node_ip = reader.checked(item, check::ip),
        get: |of| of.node_ip.map(|ip| ip.to_string().into()),
    },
    Key {
        name: "ntp",
        about: "Who knows the time, by address or name. Without, those that DHCP names are asked.",
        example: "[\"192.168.1.1\"]",
        set: |to, reader, item| to.ntp = reader.list(item, check::hostname),
        get: |of| some(of.ntp.iter().cloned().map(Value::from).collect()),
    },
    Key {
        name: "trusted_keys",
        about: "Whose updates the board accepts, besides those of whom it comes from: public keys.",
        example: "[\"0000000000000000000000000000000000000000000000000000000000000000\"]",
        set: |to, reader, item| to.trusted_keys = reader.list(item, check::public_key),
        get: |of| some(of.trusted_keys.iter().cloned().map(Value::from).collect()),
    },
    Key {
        name: "mirrors",
        about: "Where else the images of a registry are.",
        example: "{ \"docker.io\" = [\"http://192.168.1.5:5000\"] }",
        set: |to, reader, item| {
            for (registry, item) in reader.named(item, check::registry) {
                let mirrors = reader.list(item, check::mirror);
                to.mirrors.insert(registry, mirrors);
            }
        },
        get: |of| {
            let row = |mirrors: &Vec<String>| Value::Array(mirrors.iter().cloned().map(Value::from).collect());
            table(of.mirrors.iter().map(|(registry, mirrors)| (registry.clone(), row(mirrors))))
        },
    },
    Key {
        name: "labels",
        about: "Labels and taints of the node, as Kubernetes writes them; taints count when it joins.",
        example: "{ room = \"kitchen\" }",
        set: |to, reader, item| {
            for (key, item) in reader.named(item, check::own_label_key) {
                if let Some(value) = reader.checked_or_empty(item, check::label_value) {
                    to.labels.insert(key, value);
                }
            }
        },
        get: |of| table(of.labels.iter().map(|(key, value)| (key.clone(), value.clone().into()))),
    },
    Key {
        name: "taints",
        about: "",
        example: "[\"dedicated=camera:NoSchedule\"]",
        set: |to, reader, item| to.taints = reader.list(item, check::taint),
        get: |of| some(of.taints.iter().cloned().map(Value::from).collect()),
    },
];

fn some(values: Vec<Value>) -> Option<Value> {
    (!values.is_empty()).then_some(Value::Array(values))
}

fn table(rows: impl Iterator<Item = (String, Value)>) -> Option<Value> {
    let table: toml::Table = rows.collect();
    (!table.is_empty()).then_some(Value::Table(table))
}

/// The whole file, with everything explained and `settings` filled in.
pub fn file(settings: &Settings) -> String {
    let mut text = format!(
        "# {FILE}: what this board is to be. Change it on any computer; the board reads it when it starts, and tells in\n\
         # {} beside it what it could not make sense of. A line that begins with # says nothing.\n",
        crate::ERRORS_FILE
    );
    for key in KEYS {
        let above = if key.about.is_empty() { "" } else { "\n" };
        let about: String = key.about.lines().map(|line| format!("# {line}\n")).collect();
        // A server that nobody asked for is the usual one.
        let said = if key.name == "role" && *settings == Settings::default() { None } else { (key.get)(settings) };
        let line = match said {
            Some(value) => format!("{} = {value}", key.name),
            None => format!("#{} = {}", key.name, key.example),
        };
        let _infallible = writeln!(text, "{above}{about}{line}");
    }
    for network in &settings.links {
        let _infallible = writeln!(text, "\n[links.\"{}\"]", network.link.as_deref().unwrap_or_default());
        for key in LINK_KEYS {
            let value = (key.get)(network).or_else(|| (key.name == "address").then(|| "dhcp".into()));
            if let Some(value) = value {
                let _infallible = writeln!(text, "{} = {value}", key.name);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Server, read};
    use std::net::Ipv4Addr;

    fn full() -> Settings {
        let ip = Ipv4Addr::new;
        Settings {
            hostname: Some("skerry-2".to_owned()),
            role: Role::Agent,
            server: Some(Server { host: "10.77.0.1".to_owned(), port: 6443 }),
            token: Some("abcdef.0123456789abcdef".to_owned()),
            checkpoint_key: Some("a \"longer\" secret".to_owned()),
            restore: None,
            restore_key: None,
            restore_volumes: None,
            network: Network {
                link: Some("eth1".to_owned()),
                address: Some((ip(10, 77, 0, 2), 24)),
                gateway: Some(ip(10, 77, 0, 1)),
                dns: vec![ip(9, 9, 9, 9), ip(1, 1, 1, 1)],
            },
            links: vec![Network { link: Some("eth0.7".to_owned()), ..Network::default() }],
            node_ip: Some(ip(10, 77, 0, 2)),
            ntp: vec!["pool.ntp.org".to_owned()],
            trusted_keys: vec!["0aF9".repeat(16)],
            mirrors: [("docker.io".to_owned(), vec!["http://a:5000".to_owned()])].into(),
            labels: [("example.com/room".to_owned(), String::new())].into(),
            taints: vec!["a=b:NoSchedule".to_owned()],
        }
    }

    fn check(settings: &Settings) {
        let text = file(settings);
        assert_eq!(read(text.as_bytes()), (settings.clone(), vec![]), "{text}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        check(&Settings::default());
        check(&full());
        check(&Settings { hostname: Some("x".to_owned()), ..Settings::default() });
        let (restore, restore_key) = (Some("a.backup".to_owned()), Some("/data/key".to_owned()));
        let restore_volumes = Some("/".to_owned());
        check(&Settings { restore, restore_key, restore_volumes, ..Settings::default() });
    }

    /// As a person uncomments them.
    #[test]
    fn every_example_is_good() {
        for key in KEYS {
            let mut text = match key.name {
                "restore" | "restore_key" | "restore_volumes" => "role = \"server\"\nrestore = \"a.backup\"\n",
                _ => "role = \"agent\"\nserver = \"a\"\naddress = \"192.168.1.20/24\"\n",
            }
            .to_owned();
            if !text.contains(&format!("{} =", key.name)) {
                text += &format!("{} = {}\n", key.name, key.example);
            }
            assert_eq!(read(text.as_bytes()).1, vec![], "{text}");
        }
    }

    #[test]
    fn a_file_of_examples_says_nothing() {
        let text = file(&Settings::default());
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
        assert!(KEYS.iter().all(|key| text.contains(&format!("\n#{} = ", key.name))), "{text}");
    }
}
