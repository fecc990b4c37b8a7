//! What a person says about a board: `skerry.toml` on the boot partition, a FAT that any computer can write.
//!
//! Start at [`read`], which takes any bytes and gives back the good settings and what is wrong with the others; [`file`]
//! writes such a file with everything explained. [`keys`] is the one table of what can be said.
//!
//! Invariants:
//! * any bytes give settings: what cannot be understood is left out and named with its line, the rest counts;
//! * nothing is guessed where a guess does harm: a role that is wrong or cannot be read is no role at all;
//! * what [`file`] writes, [`read`] reads back without a problem.
//!
//! Not here: reading the partition and acting on it (`init`), writing it to a card (`image`).
#![forbid(unsafe_code)]

pub mod check;
mod keys;
mod reader;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

pub use keys::file;
pub use reader::{line_of, read, set};

/// The file's name on the boot partition.
pub const FILE: &str = "skerry.toml";
/// Where its errors are told, beside it.
pub const ERRORS_FILE: &str = "skerry-errors.txt";
/// A larger file is somebody's mistake.
pub const BYTES_MAX: usize = 64 << 10;
/// Where a server serves its API, unless an address says otherwise.
pub const PORT: u16 = 6443;

/// Everything that was said. What was not said is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The board's name on the network and in the cluster.
    pub hostname: Option<String>,
    /// What it does in the cluster.
    pub role: Role,
    /// The cluster's server, for an agent.
    pub server: Option<Server>,
    /// What lets a board into the cluster.
    pub token: Option<String>,
    /// Encrypts what an agent remembers of its pods.
    pub checkpoint_key: Option<String>,
    /// For a server that has no cluster yet: the backup to begin with. A name is that of a file beside the settings;
    /// empty, somebody named one and nobody can tell which.
    pub restore: Option<String>,
    /// The file with the backup's key, named likewise.
    pub restore_key: Option<String>,
    /// The folder below which the backup's volumes are restored, each at the path it was backed up from.
    pub restore_volumes: Option<String>,
    /// The first wired link, or the one named.
    pub network: Network,
    /// Further links; each has a name.
    pub links: Vec<Network>,
    /// The address by which other boards find this one, where it has several.
    pub node_ip: Option<Ipv4Addr>,
    /// Who knows the time.
    pub ntp: Vec<String>,
    /// Whose updates are accepted, besides those the image came with.
    pub trusted_keys: Vec<String>,
    /// By registry, where else its images are.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Taints of the node, `KEY=VALUE:EFFECT`.
    pub taints: Vec<String>,
}

/// What a board does in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It is the cluster's server, and a node. A board that is told nothing is a cluster of its own.
    #[default]
    Server,
    /// It is a node of another board's cluster.
    Agent,
    /// It was said, and nobody can tell what: the board starts no cluster that nobody asked for, and joins none.
    Unclear,
}

impl Role {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Agent => "agent",
            Role::Unclear => "unclear",
        }
    }
}

/// Where a cluster's server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its address or name.
    pub host: String,
    /// The port of its API.
    pub port: u16,
}

impl Server {
    /// As a person writes it.
    pub fn short(&self) -> String {
        if self.port == PORT { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "https://{}:{}", self.host, self.port)
    }
}

/// A link and its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The link's name; the first wired one where there is none.
    pub link: Option<String>,
    /// The address and the length of its net's prefix; DHCP gives one where there is none.
    pub address: Option<(Ipv4Addr, u8)>,
    /// Who leads to other nets.
    pub gateway: Option<Ipv4Addr>,
    /// Who resolves names.
    pub dns: Vec<Ipv4Addr>,
}

/// Something wrong in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what was made of it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{FILE}:{}: {}", self.line, self.what)
    }
}

/// What is written beside the file about its problems; with the line ends of the oldest editors, which all others read too.
pub fn report(problems: &[Problem]) -> String {
    let lines = problems.iter().map(|problem| format!("{problem}\r\n"));
    let head = format!(
        "What is wrong in {FILE}, as the board found it when it started last. The other settings are in use.\r\n\
         Correct the lines below, put the card back, and start the board; this file vanishes when all is well.\r\n\r\n"
    );
    [head].into_iter().chain(lines).collect()
}
