//! nftables: a table as a value, in words a person can read, and its way into the kernel.
//!
//! Start at [`Table`], print it to see it in nft(8)'s syntax, and [`apply`] it. [`update()`] brings a table that is there to
//! another state by what differs, and [`take_over`] one that is not known. Each is one transaction: the kernel has the old
//! rules or the new ones, never a mixture, and connections already tracked go on.
//!
//! Invariants:
//! * what [`Table`] prints is what [`apply`] installs: both are made from the same statements;
//! * applying the same table twice changes nothing.
//!
//! Not here: which rules there should be (`proxy::plan`, `podnet::plan`).
//!
//! The numbers are those of `include/uapi/linux/netfilter/nf_tables.h`.

mod update;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

pub use update::{Step, steps, take_over, update};

use super::link::Net;
use super::netlink::{ACK, Body, CREATE, DUMP, Message, Protocol, Socket, attributes};

/// A table with all it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Its name. The family is IPv4's.
    pub name: String,
    /// Sets and maps, which rules look things up in.
    pub sets: Vec<Set>,
    /// Chains, which hold the rules.
    pub chains: Vec<Chain>,
}

/// One part of what is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// The transport protocol.
    Protocol,
    /// The transport's destination port.
    Port,
}

/// A value of a [`Part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Of [`Part::Source`] and [`Part::Destination`].
    Address(Ipv4Addr),
    /// Of [`Part::Protocol`].
    Protocol(Transport),
    /// Of [`Part::Port`].
    Port(u16),
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A set, or (where elements carry a verdict) a map from values to chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// What its keys are made of.
    pub key: Vec<Part>,
    /// Its elements; all of one form: with a verdict, or without.
    pub elements: Vec<Element>,
    /// Whether it maps to verdicts (an empty one cannot tell by itself).
    pub verdicts: bool,
    /// Rules add to it ([`Statement::Remember`]), and what they add stays for so long. Its elements are nobody's plan: an
    /// update leaves them alone.
    pub forgets_after: Option<Duration>,
}

/// A key of a set, and in a map the verdict under it.
pub type Element = (Vec<Value>, Option<Verdict>);

/// A chain of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where the kernel enters it; `None` is a chain that others jump to.
    pub hook: Option<Hook>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// A place where packets pass by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The chain's type.
    pub kind: HookKind,
    /// The place.
    pub at: HookPoint,
    /// Lower comes first.
    pub priority: i32,
}

/// A type of chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// May rewrite addresses of a connection's first packet.
    Nat,
    /// May let pass or drop.
    Filter,
}

/// A place on a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    /// Before routing.
    Prerouting,
    /// Into this machine.
    Input,
    /// Through this machine.
    Forward,
    /// Out of this machine's own processes.
    Output,
    /// On the way out, after routing.
    Postrouting,
}

/// A rule: statements from left to right, as far as they match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule(pub Vec<Statement>);

/// A match or an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// The source address is in the net (or is not).
    SourceIn(Net, bool),
    /// The destination address is in the net (or is not).
    DestinationIn(Net, bool),
    /// The source is an address of this machine.
    SourceIsLocal,
    /// The destination is an address of this machine.
    DestinationIsLocal,
    /// The transport is this.
    Transport(Transport),
    /// The destination port is this.
    Port(u16),
    /// These bits of the packet's mark are set.
    Marked(u32),
    /// The packet leaves by an interface of this name (or does not).
    LeavesBy(String, bool),
    /// The set holds what the parts make together.
    InSet(Vec<Part>, String),
    /// The map's verdict on what the parts make together.
    VerdictOf(Vec<Part>, String),
    /// Sets bits of the packet's mark.
    Mark(u32),
    /// Sends the connection to one of these, drawn by chance.
    DnatRandom(Vec<(Ipv4Addr, u16)>),
    /// Goes on in one of these chains, drawn by chance, and does not come back.
    GotoRandom(Vec<String>),
    /// Puts the source address into a set that forgets, or lets it stay there for its whole time once more.
    Remember(String),
    /// Gives the connection this machine's address.
    Masquerade,
    /// Refuses so that the sender knows at once.
    Reject,
    /// Ends the rule with a verdict.
    Verdict(Verdict),
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this hook.
    Accept,
    /// It is lost.
    Drop,
    /// It goes on in another chain and comes back.
    Jump(String),
    /// It goes on in another chain and does not come back.
    Goto(String),
    /// It goes back to the chain before.
    Return,
}

// --- How it reads ---------------------------------------------------------------------------------------------------

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "table ip {} {{", self.name)?;
        for set in &self.sets {
            writeln!(out, "{set}")?;
        }
        for chain in &self.chains {
            writeln!(out, "{chain}")?;
        }
        writeln!(out, "}}")
    }
}

impl fmt::Display for Set {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key: Vec<&str> = self.key.iter().map(|part| part.type_name()).collect();
        let (word, tail) = if self.verdicts { ("map", " : verdict") } else { ("set", "") };
        writeln!(out, "  {word} {} {{", self.name)?;
        writeln!(out, "    type {}{tail}", key.join(" . "))?;
        if let Some(time) = self.forgets_after {
            writeln!(out, "    flags dynamic, timeout; timeout {}s", time.as_secs())?;
        }
        for (values, verdict) in &self.elements {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            write!(out, "    {}", values.join(" . "))?;
            match verdict {
                Some(verdict) => writeln!(out, " : {verdict}")?,
                None => writeln!(out)?,
            }
        }
        write!(out, "  }}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "  chain {} {{", self.name)?;
        if let Some(hook) = &self.hook {
            let (kind, at) = (hook.kind.name(), hook.at.name());
            writeln!(out, "    type {kind} hook {at} priority {}; policy accept;", hook.priority)?;
        }
        for rule in &self.rules {
            let words: Vec<String> = rule.0.iter().map(ToString::to_string).collect();
            writeln!(out, "    {}", words.join(" "))?;
        }
        write!(out, "  }}")
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |yes: &bool| if *yes { "" } else { "!= " };
        let key = |parts: &[Part]| parts.iter().map(|part| part.match_name()).collect::<Vec<_>>().join(" . ");
        let list = |to: &[(Ipv4Addr, u16)]| {
            let each = |(index, (address, port)): (usize, &(Ipv4Addr, u16))| format!("{index} : {address} . {port}");
            to.iter().enumerate().map(each).collect::<Vec<_>>().join(", ")
        };
        match self {
            Statement::SourceIn(net, yes) => write!(out, "ip saddr {}{net}", not(yes)),
            Statement::DestinationIn(net, yes) => write!(out, "ip daddr {}{net}", not(yes)),
            Statement::SourceIsLocal => write!(out, "fib saddr type local"),
            Statement::DestinationIsLocal => write!(out, "fib daddr type local"),
            Statement::Transport(transport) => write!(out, "meta l4proto {transport}"),
            Statement::Port(port) => write!(out, "th dport {port}"),
            Statement::Marked(bits) => write!(out, "meta mark & {bits:#x} == {bits:#x}"),
            Statement::LeavesBy(name, yes) => write!(out, "oifname {}\"{name}\"", not(yes)),
            Statement::InSet(parts, set) => write!(out, "{} @{set}", key(parts)),
            Statement::VerdictOf(parts, map) => write!(out, "{} vmap @{map}", key(parts)),
            Statement::Mark(bits) => write!(out, "meta mark set meta mark | {bits:#x}"),
            Statement::DnatRandom(to) => {
                write!(out, "dnat ip to numgen random mod {} map {{ {} }}", to.len(), list(to))
            }
            Statement::GotoRandom(to) => {
                let each = |(index, chain): (usize, &String)| format!("{index} : goto {chain}");
                let list = to.iter().enumerate().map(each).collect::<Vec<_>>().join(", ");
                write!(out, "numgen random mod {} vmap {{ {list} }}", to.len())
            }
            Statement::Remember(set) => write!(out, "update @{set} {{ ip saddr }}"),
            Statement::Masquerade => write!(out, "masquerade"),
            Statement::Reject => write!(out, "reject"),
            Statement::Verdict(verdict) => write!(out, "{verdict}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => write!(out, "accept"),
            Verdict::Drop => write!(out, "drop"),
            Verdict::Jump(chain) => write!(out, "jump {chain}"),
            Verdict::Goto(chain) => write!(out, "goto {chain}"),
            Verdict::Return => write!(out, "return"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Address(address) => write!(out, "{address}"),
            Value::Protocol(transport) => write!(out, "{transport}"),
            Value::Port(port) => write!(out, "{port}"),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        })
    }
}

impl Part {
    fn type_name(self) -> &'static str {
        match self {
            Part::Source | Part::Destination => "ipv4_addr",
            Part::Protocol => "inet_proto",
            Part::Port => "inet_service",
        }
    }
    fn match_name(self) -> &'static str {
        match self {
            Part::Source => "ip saddr",
            Part::Destination => "ip daddr",
            Part::Protocol => "meta l4proto",
            Part::Port => "th dport",
        }
    }
    /// nft(8)'s number of the type, so that it can list what we made.
    fn type_number(self) -> u32 {
        match self {
            Part::Source | Part::Destination => 7,
            Part::Protocol => 12,
            Part::Port => 13,
        }
    }
}

impl HookKind {
    fn name(self) -> &'static str {
        match self {
            HookKind::Nat => "nat",
            HookKind::Filter => "filter",
        }
    }
}

impl HookPoint {
    fn name(self) -> &'static str {
        match self {
            HookPoint::Prerouting => "prerouting",
            HookPoint::Input => "input",
            HookPoint::Forward => "forward",
            HookPoint::Output => "output",
            HookPoint::Postrouting => "postrouting",
        }
    }
    fn number(self) -> u32 {
        match self {
            HookPoint::Prerouting => 0,
            HookPoint::Input => 1,
            HookPoint::Forward => 2,
            HookPoint::Output => 3,
            HookPoint::Postrouting => 4,
        }
    }
}

// --- How it gets into the kernel ------------------------------------------------------------------------------------

const FAMILY_IPV4: u8 = 2;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const GET_SET: u16 = 10;
const DELETE_SET: u16 = 11;
const NEW_SET_ELEMENTS: u16 = 12;
const GET_SET_ELEMENTS: u16 = 13;
const DELETE_SET_ELEMENTS: u16 = 14;
const GET_GENERATION: u16 = 16;

const SET_ANONYMOUS: u32 = 1;
const SET_CONSTANT: u32 = 2;
const SET_MAP: u32 = 8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const DATA_VERDICT: u32 = 0xffff_ff00;
const TYPE_BITS: u32 = 6;

/// Elements are sent in messages of at most so many, because an attribute ends at 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Addresses in a set that rules add to; further ones are drawn anew each time. The size is nft(8)'s own default.
const REMEMBERED_MAX: u32 = 65_535;

/// `NFT_REG32_00`: the first of sixteen registers of four bytes.
const REGISTER: u32 = 8;
const REGISTER_VERDICT: u32 = 0;

/// Replaces the table of this name by `table`, in one transaction, in the present network namespace.
pub fn apply(table: &Table) -> io::Result<()> {
    let mut batch = Batch::new();
    // Adding first makes the deletion succeed whether or not the table was there.
    batch.push(NEW_TABLE, CREATE, table_body(&table.name));
    batch.push(DELETE_TABLE, 0, table_body(&table.name));
    batch.push(NEW_TABLE, CREATE, table_body(&table.name));
    for chain in &table.chains {
        batch.push(NEW_CHAIN, CREATE, chain_body(&table.name, chain));
    }
    for set in &table.sets {
        batch.set(&table.name, set);
        batch.elements(NEW_SET_ELEMENTS, &table.name, &set.name, &set.elements);
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            batch.rule(&table.name, &chain.name, rule);
        }
    }
    batch.send()
}

/// Removes the table of this name, if it is there.
pub fn remove(name: &str) -> io::Result<()> {
    let mut batch = Batch::new();
    batch.push(NEW_TABLE, CREATE, table_body(name));
    batch.push(DELETE_TABLE, 0, table_body(name));
    batch.send()
}

/// Whether the kernel has a table of this name.
pub fn exists(name: &str) -> io::Result<bool> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let body = Body::with(&[FAMILY_IPV4, 0, 0, 0]).text(1, name);
    match socket.request(Message { kind: SUBSYSTEM << 8 | GET_TABLE, flags: 0, body }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the kernel has this chain.
pub fn has_chain(table: &str, chain: &str) -> io::Result<bool> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let body = Body::with(&[FAMILY_IPV4, 0, 0, 0]).text(1, table).text(3, chain);
    match socket.request(Message { kind: SUBSYSTEM << 8 | GET_CHAIN, flags: 0, body }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The number of transactions that changed the rules of this network namespace, as the kernel counts them.
pub fn generation() -> io::Result<u32> {
    let body = Body::with(&[FAMILY_IPV4, 0, 0, 0]);
    let answers = Socket::open(Protocol::Netfilter)?.request(Message {
        kind: SUBSYSTEM << 8 | GET_GENERATION,
        flags: 0,
        body,
    })?;
    let id = answers.iter().find_map(|answer| {
        let list = attributes(answer.body.get(4..)?);
        list.into_iter().find(|(kind, _)| *kind == 1)?.1.try_into().ok().map(u32::from_be_bytes)
    });
    id.ok_or_else(|| io::Error::other("the kernel names no generation of its rules"))
}

/// How many elements the kernel has in a set.
pub fn count_elements(table: &str, set: &str) -> io::Result<usize> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let body = Body::with(&[FAMILY_IPV4, 0, 0, 0]).text(1, table).text(2, set);
    let answers = socket.request(Message { kind: SUBSYSTEM << 8 | GET_SET_ELEMENTS, flags: DUMP, body })?;
    let lists = answers.iter().filter_map(|answer| {
        let list = attributes(answer.body.get(4..)?).into_iter().find(|(kind, _)| *kind == 3)?;
        Some(attributes(list.1).len())
    });
    Ok(lists.sum())
}

/// How many rules the kernel has in the table of this name.
pub fn count_rules(name: &str) -> io::Result<usize> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let body = Body::with(&[FAMILY_IPV4, 0, 0, 0]).text(1, name);
    Ok(socket.request(Message { kind: SUBSYSTEM << 8 | GET_RULE, flags: DUMP, body })?.len())
}

/// Messages that take effect together.
struct Batch {
    messages: Vec<Message>,
    anonymous: u32,
}

impl Batch {
    fn new() -> Batch {
        let begin = Message { kind: BATCH_BEGIN, flags: 0, body: batch_header() };
        Batch { messages: vec![begin], anonymous: 0 }
    }

    fn push(&mut self, kind: u16, flags: u16, body: Body) {
        self.messages.push(Message { kind: SUBSYSTEM << 8 | kind, flags, body });
    }

    /// Only the last message asks for an acknowledgement: refusals come unasked, and thousands of acknowledgements would not
    /// fit the socket's buffer.
    fn send(mut self) -> io::Result<()> {
        if let Some(last) = self.messages.last_mut().filter(|last| last.kind != BATCH_BEGIN) {
            last.flags |= ACK;
        }
        self.messages.push(Message { kind: BATCH_END, flags: 0, body: batch_header() });
        Socket::open(Protocol::Netfilter)?.exchange(&self.messages).map(drop)
    }

    fn set(&mut self, table: &str, set: &Set) {
        let key_type = set.key.iter().fold(0, |sum, part| sum << TYPE_BITS | part.type_number());
        let mut body = Body::with(&[FAMILY_IPV4, 0, 0, 0])
            .text(1, table)
            .text(2, &set.name)
            .u32_be(3, set.flags())
            .u32_be(4, key_type)
            .u32_be(5, 4 * set.key.len() as u32);
        if set.verdicts {
            body = body.u32_be(6, DATA_VERDICT).u32_be(7, 0);
        }
        if let Some(time) = set.forgets_after {
            body = body.nest(9, Body::new().u32_be(1, REMEMBERED_MAX)).u64_be(11, time.as_millis() as u64);
        }
        self.anonymous += 1;
        self.push(NEW_SET, CREATE, body.u32_be(10, self.anonymous));
    }

    /// Adds elements to a set, or removes them, as `kind` says.
    fn elements(&mut self, kind: u16, table: &str, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let list = some.iter().fold(Body::new(), |list, (values, verdict)| {
                let key: Vec<u8> = values.iter().flat_map(|value| value.register()).collect();
                let mut element = Body::new().nest(1, data(&key));
                if let Some(verdict) = verdict {
                    element = element.nest(2, verdict_data(verdict));
                }
                list.nest(1, element)
            });
            let body = Body::with(&[FAMILY_IPV4, 0, 0, 0]).text(1, table).text(2, set).nest(3, list);
            self.push(kind, CREATE, body);
        }
    }

    /// An unnamed map from a number to a chain; the answer is its id in this batch.
    fn verdicts(&mut self, table: &str, to: &[String]) -> u32 {
        self.numbered(table, DATA_VERDICT, 0, to, |chain| verdict_data(&Verdict::Goto(chain.clone())))
    }

    /// An unnamed map from a number to an address and a port; the answer is its id in this batch.
    fn backends(&mut self, table: &str, to: &[(Ipv4Addr, u16)]) -> u32 {
        let data_type = Part::Destination.type_number() << TYPE_BITS | Part::Port.type_number();
        self.numbered(table, data_type, 8, to, |(address, port)| {
            let mut value = Value::Address(*address).register().to_vec();
            value.extend_from_slice(&Value::Port(*port).register());
            data(&value)
        })
    }

    /// An unnamed map from each number from 0 on to a value of a type and length; the answer is its id in this batch.
    fn numbered<T>(&mut self, table: &str, kind: u32, bytes: u32, to: &[T], value: impl Fn(&T) -> Body) -> u32 {
        self.anonymous += 1;
        let id = self.anonymous;
        let body = Body::with(&[FAMILY_IPV4, 0, 0, 0])
            .text(1, table)
            .text(2, "__map%d")
            .u32_be(3, SET_ANONYMOUS | SET_CONSTANT | SET_MAP)
            .u32_be(4, 4)
            .u32_be(5, 4)
            .u32_be(6, kind)
            .u32_be(7, bytes)
            .u32_be(10, id);
        self.push(NEW_SET, CREATE, body);
        for (part, some) in to.chunks(ELEMENTS_PER_MESSAGE).enumerate() {
            let list = some.iter().enumerate().fold(Body::new(), |list, (index, each)| {
                let key = ((part * ELEMENTS_PER_MESSAGE + index) as u32).to_ne_bytes();
                list.nest(1, Body::new().nest(1, data(&key)).nest(2, value(each)))
            });
            let body =
                Body::with(&[FAMILY_IPV4, 0, 0, 0]).text(1, table).text(2, "__map%d").nest(3, list).u32_be(4, id);
            self.push(NEW_SET_ELEMENTS, CREATE, body);
        }
        id
    }

    fn rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        let mut expressions = Body::new();
        for statement in &rule.0 {
            for (name, inner) in self.expressions(table, statement) {
                expressions = expressions.nest(1, Body::new().text(1, name).nest(2, inner));
            }
        }
        let body = Body::with(&[FAMILY_IPV4, 0, 0, 0]).text(1, table).text(2, chain).nest(4, expressions);
        self.push(NEW_RULE, CREATE | super::netlink::APPEND, body);
    }

    fn expressions(&mut self, table: &str, statement: &Statement) -> Vec<(&'static str, Body)> {
        match statement {
            Statement::SourceIn(net, yes) => in_net(Part::Source, *net, *yes),
            Statement::DestinationIn(net, yes) => in_net(Part::Destination, *net, *yes),
            Statement::SourceIsLocal => is_local(FIB_BY_SOURCE),
            Statement::DestinationIsLocal => is_local(FIB_BY_DESTINATION),
            Statement::Transport(transport) => vec![load(Part::Protocol, 0), equals(&[transport.number()], true)],
            Statement::Port(port) => vec![load(Part::Port, 0), equals(&port.to_be_bytes(), true)],
            Statement::Marked(bits) => {
                vec![load_mark(), mask(*bits, 0), equals(&bits.to_ne_bytes(), true)]
            }
            Statement::LeavesBy(name, yes) => {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(16, 0);
                vec![("meta", Body::new().u32_be(1, REGISTER).u32_be(2, 7)), equals(&bytes, *yes)]
            }
            Statement::InSet(parts, set) => {
                let mut list: Vec<_> = parts.iter().enumerate().map(|(at, part)| load(*part, at)).collect();
                list.push(("lookup", Body::new().text(1, set).u32_be(2, REGISTER)));
                list
            }
            Statement::VerdictOf(parts, map) => {
                let mut list: Vec<_> = parts.iter().enumerate().map(|(at, part)| load(*part, at)).collect();
                list.push(("lookup", Body::new().text(1, map).u32_be(2, REGISTER).u32_be(3, REGISTER_VERDICT)));
                list
            }
            Statement::Mark(bits) => {
                let set = Body::new().u32_be(2, 3).u32_be(3, REGISTER);
                vec![load_mark(), mask(!bits, *bits), ("meta", set)]
            }
            Statement::DnatRandom(to) => {
                let id = self.backends(table, to);
                let lookup = Body::new().text(1, "__map%d").u32_be(2, REGISTER).u32_be(3, REGISTER).u32_be(4, id);
                let nat = Body::new().u32_be(1, 1).u32_be(2, u32::from(FAMILY_IPV4));
                let nat = nat.u32_be(3, REGISTER).u32_be(5, REGISTER + 1);
                vec![draw(to.len()), ("lookup", lookup), ("nat", nat)]
            }
            Statement::GotoRandom(to) => {
                let id = self.verdicts(table, to);
                let lookup =
                    Body::new().text(1, "__map%d").u32_be(2, REGISTER).u32_be(3, REGISTER_VERDICT).u32_be(4, id);
                vec![draw(to.len()), ("lookup", lookup)]
            }
            Statement::Remember(set) => {
                let put = Body::new().text(1, set).u32_be(3, DYNSET_UPDATE).u32_be(4, REGISTER);
                vec![load(Part::Source, 0), ("dynset", put)]
            }
            Statement::Masquerade => vec![("masq", Body::new())],
            Statement::Reject => vec![("reject", Body::new().u32_be(1, 0).attr(2, &[3]))],
            Statement::Verdict(verdict) => {
                vec![("immediate", Body::new().u32_be(1, REGISTER_VERDICT).nest(2, verdict_data(verdict)))]
            }
        }
    }
}

impl Set {
    fn flags(&self) -> u32 {
        let map = if self.verdicts { SET_MAP } else { 0 };
        map | self.forgets_after.map_or(0, |_| SET_TIMEOUT | SET_EVAL)
    }
}

impl Transport {
    /// Its number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Sctp => 132,
        }
    }
}

impl Value {
    /// The value as it lies in one register of four bytes.
    fn register(self) -> [u8; 4] {
        match self {
            Value::Address(address) => address.octets(),
            Value::Protocol(transport) => [transport.number(), 0, 0, 0],
            Value::Port(port) => [port.to_be_bytes()[0], port.to_be_bytes()[1], 0, 0],
        }
    }
}

fn batch_header() -> Body {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    Body::with(&[0, 0, high, low])
}

fn table_body(name: &str) -> Body {
    Body::with(&[FAMILY_IPV4, 0, 0, 0]).text(1, name)
}

fn chain_body(table: &str, chain: &Chain) -> Body {
    let body = Body::with(&[FAMILY_IPV4, 0, 0, 0]).text(1, table).text(3, &chain.name);
    match &chain.hook {
        None => body,
        Some(hook) => {
            let place = Body::new().u32_be(1, hook.at.number()).u32_be(2, hook.priority as u32);
            body.nest(4, place).text(7, hook.kind.name())
        }
    }
}

fn data(value: &[u8]) -> Body {
    Body::new().attr(1, value)
}

fn verdict_data(verdict: &Verdict) -> Body {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3i32, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    let mut inner = Body::new().u32_be(1, code as u32);
    if let Some(chain) = chain {
        inner = inner.text(2, chain);
    }
    Body::new().nest(2, inner)
}

/// Loads a part of the packet into the register `at`.
fn load(part: Part, at: usize) -> (&'static str, Body) {
    let register = REGISTER + at as u32;
    let payload = |base: u32, offset: u32, length: u32| {
        ("payload", Body::new().u32_be(1, register).u32_be(2, base).u32_be(3, offset).u32_be(4, length))
    };
    match part {
        Part::Source => payload(1, 12, 4),
        Part::Destination => payload(1, 16, 4),
        Part::Port => payload(2, 2, 2),
        Part::Protocol => ("meta", Body::new().u32_be(1, register).u32_be(2, 16)),
    }
}

const FIB_BY_SOURCE: u32 = 1;
const FIB_BY_DESTINATION: u32 = 2;
const FIB_ADDRESS_TYPE: u32 = 3;
const RTN_LOCAL: u32 = 2;
const NUMGEN_RANDOM: u32 = 1;
const DYNSET_UPDATE: u32 = 1;

/// Compares the type of an address, looked up by one side of the packet, with the type of this machine's own.
fn is_local(by: u32) -> Vec<(&'static str, Body)> {
    let fib = Body::new().u32_be(1, REGISTER).u32_be(2, FIB_ADDRESS_TYPE).u32_be(3, by);
    vec![("fib", fib), equals(&RTN_LOCAL.to_ne_bytes(), true)]
}

/// Draws a number below `count`.
fn draw(count: usize) -> (&'static str, Body) {
    ("numgen", Body::new().u32_be(1, REGISTER).u32_be(2, count as u32).u32_be(3, NUMGEN_RANDOM))
}

fn load_mark() -> (&'static str, Body) {
    ("meta", Body::new().u32_be(1, REGISTER).u32_be(2, 3))
}

/// `register = register & and ^ xor`, four bytes in the machine's order.
fn mask(and: u32, xor: u32) -> (&'static str, Body) {
    mask_bytes(&and.to_ne_bytes(), &xor.to_ne_bytes())
}

fn mask_bytes(and: &[u8], xor: &[u8]) -> (&'static str, Body) {
    let body = Body::new()
        .u32_be(1, REGISTER)
        .u32_be(2, REGISTER)
        .u32_be(3, and.len() as u32)
        .nest(4, data(and))
        .nest(5, data(xor));
    ("bitwise", body)
}

fn equals(value: &[u8], yes: bool) -> (&'static str, Body) {
    ("cmp", Body::new().u32_be(1, REGISTER).u32_be(2, u32::from(!yes)).nest(3, data(value)))
}

fn in_net(part: Part, net: Net, yes: bool) -> Vec<(&'static str, Body)> {
    let IpAddr::V4(address) = net.address else {
        // An IPv4 table matches no IPv6 packet: compare with an impossible length of nothing, which never holds.
        return vec![load(part, 0), equals(&[0, 0, 0, 0], yes)];
    };
    let bits = u32::MAX.checked_shl(32 - u32::from(net.prefix.min(32))).unwrap_or(0);
    let base = (u32::from(address) & bits).to_be_bytes();
    vec![load(part, 0), mask_bytes(&bits.to_be_bytes(), &[0; 4]), equals(&base, yes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Table {
        let service = vec![Part::Destination, Part::Protocol, Part::Port];
        let key = vec![Value::Address([10, 43, 0, 1].into()), Value::Protocol(Transport::Tcp), Value::Port(443)];
        let pods = Net { address: IpAddr::from([10, 42, 0, 0]), prefix: 16 };
        Table {
            name: "example".into(),
            sets: vec![Set {
                name: "services".into(),
                key: service.clone(),
                elements: vec![(key, Some(Verdict::Goto("svc-a".into())))],
                verdicts: true,
                forgets_after: None,
            }],
            chains: vec![
                Chain {
                    name: "prerouting".into(),
                    hook: Some(Hook { kind: HookKind::Nat, at: HookPoint::Prerouting, priority: -100 }),
                    rules: vec![Rule(vec![Statement::VerdictOf(service, "services".into())])],
                },
                Chain {
                    name: "svc-a".into(),
                    hook: None,
                    rules: vec![
                        Rule(vec![Statement::SourceIn(pods, false), Statement::Mark(0x4000)]),
                        Rule(vec![Statement::DnatRandom(vec![
                            ([10, 42, 0, 2].into(), 6443),
                            ([10, 42, 0, 3].into(), 6443),
                        ])]),
                    ],
                },
                Chain {
                    name: "postrouting".into(),
                    hook: Some(Hook { kind: HookKind::Nat, at: HookPoint::Postrouting, priority: 100 }),
                    rules: vec![Rule(vec![Statement::Marked(0x4000), Statement::Masquerade])],
                },
            ],
        }
    }

    #[test]
    fn a_table_reads_like_nft() {
        let text = example().to_string();
        assert!(text.contains("10.43.0.1 . tcp . 443 : goto svc-a"), "{text}");
        assert!(text.contains("ip saddr != 10.42.0.0/16 meta mark set meta mark | 0x4000"), "{text}");
        assert!(
            text.contains("dnat ip to numgen random mod 2 map { 0 : 10.42.0.2 . 6443, 1 : 10.42.0.3 . 6443 }"),
            "{text}"
        );
    }

    #[test]
    fn the_kernel_takes_it_twice_and_lets_it_go() {
        // A thread of its own keeps the new namespace away from the other tests.
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            apply(&example()).expect("the table is accepted");
            apply(&example()).expect("and replaces itself");
            assert_eq!(count_rules("example").expect("a dump"), 4);
            remove("example").expect("it can be removed");
            assert!(!exists("example").expect("an answer"));
        })
        .join()
        .expect("the thread ends well");
    }
}
