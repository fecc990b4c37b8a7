//! DNS messages: from bytes to a question, from an answer to bytes.
//!
//! Start at [`Query::read`] and [`Query::reply`]. The format itself is `simple-dns`': a crate without dependencies that
//! does what this needs; hickory's server would bring eighty more crates and a cache and a resolver we do not use.
//!
//! See RFC 1035 (messages), RFC 2308 (negative answers), RFC 6891 (EDNS).

use simple_dns::rdata::{A, CNAME, OPT, PTR, RData, SOA, SRV, TXT};
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, SimpleDnsError, TYPE};

use crate::answer::Code;
use crate::zone::{Data, Record};

/// What fits a datagram when the asker says nothing (RFC 1035, 4.2.1).
const UDP_BYTES: usize = 512;

/// What we offer to take, and give at the most: it passes every link unfragmented (DNS flag day 2020).
const EDNS_BYTES: u16 = 1232;

/// A type of record, as far as we know any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Ports.
    Srv,
    /// Names of addresses.
    Ptr,
    /// Other names.
    Cname,
    /// Texts.
    Txt,
    /// The zone itself.
    Soa,
    /// Everything.
    Any,
    /// Something we never have.
    Other,
}

impl Kind {
    /// Whether a record answers a question of this type.
    pub fn takes(self, data: &Data) -> bool {
        self == Kind::Any
            || match data {
                Data::A(_) => self == Kind::A,
                Data::Srv { .. } => self == Kind::Srv,
                Data::Ptr(_) => self == Kind::Ptr,
                Data::Cname(_) => self == Kind::Cname,
                Data::Txt(_) => self == Kind::Txt,
                Data::Soa => self == Kind::Soa,
            }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name, lower case, without the last dot.
    pub name: String,
    /// The type.
    pub kind: Kind,
}

/// A message that is no question we can read, or an answer that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action}")]
pub struct WireError {
    action: &'static str,
    source: SimpleDnsError,
}

/// A message that asks something.
pub(crate) struct Query<'a> {
    packet: Packet<'a>,
    /// What it asks; `Err` is the code to refuse it with.
    pub(crate) question: Result<Question, Code>,
}

impl<'a> Query<'a> {
    /// Reads a message.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Query<'a>, WireError> {
        let packet = Packet::parse(bytes).map_err(|source| WireError { action: "read a DNS message", source })?;
        let question = match packet.questions.as_slice() {
            _ if packet.opcode() != OPCODE::StandardQuery => Err(Code::NotImp),
            [one] => Ok(Question { name: one.qname.to_string().to_ascii_lowercase(), kind: kind(one.qtype) }),
            _ => Err(Code::FormErr),
        };
        Ok(Query { packet, question })
    }

    /// How many bytes a datagram to the asker may have.
    pub(crate) fn datagram_bytes(&self) -> usize {
        self.packet.opt().map_or(UDP_BYTES, |opt| usize::from(opt.udp_packet_size.min(EDNS_BYTES)).max(UDP_BYTES))
    }

    /// The answer's bytes: `records`, then `extra` that somebody else said, or why there is nothing (`soa`). What does
    /// not fit `limit` is left out and the answer says so.
    pub(crate) fn reply(
        &self,
        code: Code,
        records: &[Record],
        extra: &[ResourceRecord<'_>],
        soa: Option<&Record>,
        limit: usize,
    ) -> Result<Vec<u8>, WireError> {
        let failed = |source| WireError { action: "write a DNS answer", source };
        let mut packet = self.head(code);
        for record in records {
            packet.answers.push(encode(record).map_err(failed)?);
        }
        packet.answers.extend(extra.iter().cloned().map(ResourceRecord::into_owned));
        if let Some(soa) = soa.filter(|_| packet.answers.is_empty()) {
            packet.name_servers.push(encode(soa).map_err(failed)?);
        }
        let bytes = packet.build_bytes_vec_compressed().map_err(failed)?;
        if bytes.len() <= limit {
            return Ok(bytes);
        }
        let mut short = self.head(code);
        short.set_flags(PacketFlag::TRUNCATION);
        short.build_bytes_vec_compressed().map_err(failed)
    }

    fn head(&self, code: Code) -> Packet<'a> {
        let mut packet = Packet::new_reply(self.packet.id());
        packet.questions.clone_from(&self.packet.questions);
        packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
        if self.packet.has_flags(PacketFlag::RECURSION_DESIRED) {
            packet.set_flags(PacketFlag::RECURSION_DESIRED);
        }
        *packet.rcode_mut() = match code {
            Code::NoError => RCODE::NoError,
            Code::NxDomain => RCODE::NameError,
            Code::ServFail => RCODE::ServerFailure,
            Code::FormErr => RCODE::FormatError,
            Code::NotImp => RCODE::NotImplemented,
        };
        if self.packet.opt().is_some() {
            *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: EDNS_BYTES, version: 0 });
        }
        packet
    }
}

fn kind(asked: QTYPE) -> Kind {
    match asked {
        QTYPE::TYPE(TYPE::A) => Kind::A,
        QTYPE::TYPE(TYPE::AAAA) => Kind::Aaaa,
        QTYPE::TYPE(TYPE::SRV) => Kind::Srv,
        QTYPE::TYPE(TYPE::PTR) => Kind::Ptr,
        QTYPE::TYPE(TYPE::CNAME) => Kind::Cname,
        QTYPE::TYPE(TYPE::TXT) => Kind::Txt,
        QTYPE::TYPE(TYPE::SOA) => Kind::Soa,
        QTYPE::ANY => Kind::Any,
        _ => Kind::Other,
    }
}

fn encode(record: &Record) -> Result<ResourceRecord<'static>, SimpleDnsError> {
    let name = |text: &str| Name::new(text).map(Name::into_owned);
    let data = match &record.data {
        Data::A(address) => RData::A(A { address: u32::from(*address) }),
        Data::Srv { port, target } => RData::SRV(SRV { priority: 0, weight: 100, port: *port, target: name(target)? }),
        Data::Ptr(target) => RData::PTR(PTR(name(target)?)),
        Data::Cname(target) => RData::CNAME(CNAME(name(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new().with_string(text)?.into_owned()),
        Data::Soa => RData::SOA(SOA {
            mname: name(&format!("ns.dns.{}", record.name))?,
            rname: name(&format!("hostmaster.{}", record.name))?,
            serial: 1,
            refresh: 7200,
            retry: 1800,
            expire: 86400,
            minimum: record.ttl,
        }),
    };
    Ok(ResourceRecord::new(name(&record.name)?, CLASS::IN, record.ttl, data))
}
