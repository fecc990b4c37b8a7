//! Serves DNS by UDP and TCP.
//!
//! Start at [`run`]. The zone is rebuilt when a Service or EndpointSlice changes; questions are answered from the one at
//! hand, without waiting.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use base::chain;
use client::Caches;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question as WireQuestion, RCODE, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::answer::{Answer, Code, answer, completed};
use crate::wire::{Kind, Query, Question, WireError};
use crate::zone::Zone;

/// Changes that come within this time make one new zone.
const GATHER: Duration = Duration::from_millis(20);
/// How long one of the node's own servers may take; a resolver gives up after 5 s.
const UPSTREAM_LIMIT: Duration = Duration::from_secs(2);
/// A TCP connection that says nothing for so long is closed.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Questions being answered at once; more wait in the socket's buffer.
const IN_FLIGHT_MAX: usize = 256;
/// The largest message there is.
const MESSAGE_BYTES_MAX: usize = 65_535;

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// Who is asked for the rest of the world.
    pub upstreams: Upstreams,
}

/// Why DNS is not served.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address cannot be listened on.
    #[error("failed to listen for DNS on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// Who is asked for the rest of the world, in order: the servers that a resolv.conf names. The file is read again when it has
/// changed, because a link may come, or another one, while DNS is served.
#[derive(Clone, Debug)]
pub struct Upstreams {
    resolv_conf: PathBuf,
    own: BTreeSet<IpAddr>,
    read: Arc<Mutex<(Option<Stamp>, Vec<SocketAddr>)>>,
}

/// What tells one state of a file from another.
type Stamp = (SystemTime, u64, u64);

impl Upstreams {
    /// Those of a file, without `own` addresses: asking oneself would never end.
    pub fn of_file(resolv_conf: &Path, own: &[Ipv4Addr]) -> Upstreams {
        let own = own.iter().map(|address| IpAddr::V4(*address)).collect();
        Upstreams { resolv_conf: resolv_conf.to_owned(), own, read: Arc::default() }
    }

    /// Those that are named now; none where there is no such file, as on a node without internet.
    pub fn now(&self) -> Vec<SocketAddr> {
        let stamp = fs::metadata(&self.resolv_conf).and_then(|of| Ok((of.modified()?, of.len(), of.ino()))).ok();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.0 != stamp {
            *read = (stamp, self.parse(&fs::read_to_string(&self.resolv_conf).unwrap_or_default()));
        }
        read.1.clone()
    }

    fn parse(&self, text: &str) -> Vec<SocketAddr> {
        let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).map(str::trim);
        let found = servers.filter_map(|server| server.parse::<IpAddr>().ok());
        found.filter(|address| !self.own.contains(address)).map(|address| SocketAddr::new(address, 53)).collect()
    }
}

struct Server {
    zone: RwLock<Arc<Zone>>,
    upstreams: Upstreams,
    in_flight: Arc<Semaphore>,
}

/// Serves until it is dropped; fails only if it cannot listen.
pub async fn run(options: Options, caches: Arc<Caches>) -> Result<(), DnsError> {
    let server = Arc::new(Server {
        zone: RwLock::new(Arc::new(Zone::new(&options.domain, &[], &[]))),
        upstreams: options.upstreams,
        in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
    });
    let mut tasks = tokio::task::JoinSet::new();
    for address in options.listen {
        let failed = |source| DnsError::Listen { address, source };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        tasks.spawn(serve_udp(server.clone(), Arc::new(udp)));
        tasks.spawn(serve_tcp(server.clone(), tcp));
    }
    follow(&server, &options.domain, &caches).await;
    Ok(())
}

/// Keeps the zone up to date. Dropping [`run`] drops the tasks with it.
async fn follow(server: &Server, domain: &str, caches: &Caches) {
    let (services, slices) = (caches.of::<Service>(), caches.of::<EndpointSlice>());
    services.wait_synced().await;
    slices.wait_synced().await;
    let (mut service_changes, mut slice_changes) = (services.changed(), slices.changed());
    loop {
        service_changes.mark_unchanged();
        slice_changes.mark_unchanged();
        let zone = Zone::new(domain, &services.list::<Service>(None), &slices.list::<EndpointSlice>(None));
        *server.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
        tokio::select! {
            _ = service_changes.changed() => {}
            _ = slice_changes.changed() => {}
        }
        sleep(GATHER).await;
    }
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok(permit) = server.in_flight.clone().acquire_owned().await else { return };
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier answer met a closed port; that is the asker's matter.
            Err(_) => continue,
        };
        let (server, socket, message) = (server.clone(), socket.clone(), buffer[..length].to_vec());
        tokio::spawn(async move {
            if let Some(reply) = server.reply(&message, None).await {
                let _ = socket.send_to(&reply, from).await; // The asker asks again.
            }
            drop(permit);
        });
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    loop {
        let Ok(permit) = server.in_flight.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(GATHER).await; // Out of descriptors: others will close theirs.
            continue;
        };
        let server = server.clone();
        tokio::spawn(async move {
            let _ = server.converse(stream).await; // The asker went away.
            drop(permit);
        });
    }
}

impl Server {
    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = timeout(TCP_IDLE, stream.read_u16()).await??;
            let mut message = vec![0; usize::from(length)];
            timeout(TCP_IDLE, stream.read_exact(&mut message)).await??;
            let Some(reply) = self.reply(&message, Some(MESSAGE_BYTES_MAX)).await else { return Ok(()) };
            stream.write_u16(reply.len() as u16).await?;
            stream.write_all(&reply).await?;
        }
    }

    /// The answer to a message; `None` to what is no question at all. Without a `limit` the asker's own counts.
    async fn reply(&self, message: &[u8], limit: Option<usize>) -> Option<Vec<u8>> {
        let query = Query::read(message).ok()?;
        let limit = limit.unwrap_or_else(|| query.datagram_bytes());
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner).clone();
        let written = match &query.question {
            Err(code) => query.reply(*code, &[], &[], None, limit),
            Ok(question) => match answer(&zone, question) {
                Answer::Theirs => {
                    let reply = self.forward(message).await;
                    let unknown = reply.as_deref().is_none_or(is_name_error);
                    match completed(&zone, question).filter(|_| unknown) {
                        Some(ours) => self.write(&query, question, &zone, ours, limit).await,
                        None => match reply {
                            Some(reply) if reply.len() <= limit => return Some(reply),
                            Some(_) => query.reply(Code::NoError, &[], &[], None, 0), // Too long: ask again by TCP.
                            None => query.reply(Code::ServFail, &[], &[], None, limit),
                        },
                    }
                }
                ours => self.write(&query, question, &zone, ours, limit).await,
            },
        };
        written.inspect_err(|error| tracing::warn!(error = %chain(error), "failed to answer a DNS question")).ok()
    }

    async fn write(
        &self,
        query: &Query<'_>,
        question: &Question,
        zone: &Zone,
        answer: Answer,
        limit: usize,
    ) -> Result<Vec<u8>, WireError> {
        match answer {
            Answer::Theirs => query.reply(Code::ServFail, &[], &[], None, limit),
            Answer::Ours { code, records, follow: None } => query.reply(code, &records, &[], Some(&zone.soa()), limit),
            Answer::Ours { code, records, follow: Some(target) } => {
                let bytes = self.resolve(&target, question.kind).await.unwrap_or_default();
                let extra = Packet::parse(&bytes).map(|packet| packet.answers).unwrap_or_default();
                query.reply(code, &records, &extra, None, limit)
            }
        }
    }

    /// Asks the node's servers for a name of the outside world.
    async fn resolve(&self, name: &str, kind: Kind) -> Option<Vec<u8>> {
        let kind = match kind {
            Kind::Aaaa => TYPE::AAAA,
            Kind::Txt => TYPE::TXT,
            Kind::Srv => TYPE::SRV,
            _ => TYPE::A,
        };
        let mut packet = Packet::new_query(1);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).ok()?;
        packet.questions.push(WireQuestion::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
        self.forward(&packet.build_bytes_vec().ok()?).await
    }

    /// Passes a message on, to one server after the other, and their answer back. Each question goes out from a port of
    /// its own, which the kernel draws: with the asker's id kept, that is what makes an answer hard to forge.
    async fn forward(&self, message: &[u8]) -> Option<Vec<u8>> {
        for upstream in self.upstreams.now() {
            if let Ok(Ok(reply)) = timeout(UPSTREAM_LIMIT, exchange(upstream, message)).await {
                return Some(reply);
            }
        }
        None
    }
}

/// Whether an answer says that there is no such name.
fn is_name_error(reply: &[u8]) -> bool {
    Packet::parse(reply).is_ok_and(|packet| packet.rcode() == RCODE::NameError)
}

async fn exchange(upstream: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if upstream.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if buffer.get(..2) == message.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(given: Vec<SocketAddr>) -> Server {
        let service = serde_json::json!({"metadata": {"name": "web", "namespace": "default"},
                                         "spec": {"clusterIP": "10.43.0.9"}});
        let out = serde_json::json!({"metadata": {"name": "out", "namespace": "default"},
                                     "spec": {"type": "ExternalName", "externalName": "example.com"}});
        let services = [service, out].map(|each| Arc::new(serde_json::from_value(each).expect("a Service")));
        let zone = Zone::new("cluster.local", &services, &[]);
        let upstreams = Upstreams::of_file(Path::new("/nowhere/resolv.conf"), &[]);
        upstreams.read.lock().expect("not poisoned").1 = given;
        Server { zone: RwLock::new(Arc::new(zone)), upstreams, in_flight: Arc::new(Semaphore::new(4)) }
    }

    fn ask(name: &str) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        let name = Name::new(name).expect("a name");
        packet.questions.push(WireQuestion::new(name, QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false));
        packet.build_bytes_vec().expect("a question")
    }

    fn block<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work)
    }

    #[test]
    fn a_question_gets_its_answer_with_its_own_id() {
        let bytes = block(server(Vec::new()).reply(&ask("WEB.default.svc.cluster.local"), None)).expect("an answer");
        let packet = Packet::parse(&bytes).expect("a message");
        assert_eq!((packet.id(), packet.answers.len()), (7, 1));
    }

    #[test]
    fn a_no_carries_the_zone_so_that_it_can_be_kept() {
        let bytes = block(server(Vec::new()).reply(&ask("no.default.svc.cluster.local"), None)).expect("an answer");
        let packet = Packet::parse(&bytes).expect("a message");
        assert_eq!((packet.rcode(), packet.name_servers.len()), (simple_dns::RCODE::NameError, 1));
    }

    #[test]
    fn without_servers_the_world_is_a_failure_not_a_lie() {
        let bytes = block(server(Vec::new()).reply(&ask("example.com"), None)).expect("an answer");
        assert_eq!(Packet::parse(&bytes).expect("a message").rcode(), simple_dns::RCODE::ServerFailure);
    }

    /// As busybox's nslookup asks, which leaves the search list aside where a name has a dot.
    #[test]
    fn a_service_and_its_namespace_are_name_enough() {
        for (name, answers) in [("web.default", 2), ("web.default.svc", 2)] {
            let bytes = block(server(Vec::new()).reply(&ask(name), None)).expect("an answer");
            let packet = Packet::parse(&bytes).expect("a message");
            assert_eq!((packet.rcode(), packet.answers.len()), (RCODE::NoError, answers), "{name}");
        }
        for name in ["web", "web.other", "default"] {
            let bytes = block(server(Vec::new()).reply(&ask(name), None)).expect("an answer");
            assert_eq!(Packet::parse(&bytes).expect("a message").rcode(), RCODE::ServerFailure, "{name}");
        }
    }

    #[test]
    fn a_name_of_the_world_is_never_taken() {
        block(async {
            let upstream = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
            let address = upstream.local_addr().expect("an address");
            tokio::spawn(async move {
                let mut buffer = [0; 512];
                for code in [RCODE::NoError, RCODE::NameError] {
                    let (length, from) = upstream.recv_from(&mut buffer).await.expect("a question");
                    let asked = Packet::parse(&buffer[..length]).expect("a message");
                    let mut reply = Packet::new_reply(asked.id());
                    *reply.rcode_mut() = code;
                    upstream.send_to(&reply.build_bytes_vec().expect("an answer"), from).await.expect("sent");
                }
            });
            let server = server(vec![address]);
            for answers in [0, 2] {
                let bytes = server.reply(&ask("web.default"), None).await.expect("an answer");
                assert_eq!(Packet::parse(&bytes).expect("a message").answers.len(), answers);
            }
        });
    }

    #[test]
    fn noise_gets_no_answer() {
        assert_eq!(block(server(Vec::new()).reply(b"noise", None)), None);
    }

    #[test]
    fn the_world_is_asked_and_external_names_are_followed() {
        block(async {
            let upstream = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
            let address = upstream.local_addr().expect("an address");
            tokio::spawn(async move {
                let mut buffer = [0; 512];
                while let Ok((length, from)) = upstream.recv_from(&mut buffer).await {
                    let asked = Packet::parse(&buffer[..length]).expect("a message");
                    let mut reply = Packet::new_reply(asked.id());
                    reply.questions.clone_from(&asked.questions);
                    let name = asked.questions[0].qname.clone();
                    let data = simple_dns::rdata::RData::A(simple_dns::rdata::A { address: 0x0102_0304 });
                    reply.answers.push(simple_dns::ResourceRecord::new(name, CLASS::IN, 60, data));
                    let bytes = reply.build_bytes_vec().expect("an answer");
                    upstream.send_to(&bytes, from).await.expect("sent");
                }
            });
            let server = server(vec![address]);
            for (name, answers) in [("example.com", 1), ("out.default.svc.cluster.local", 2)] {
                let bytes = server.reply(&ask(name), None).await.expect("an answer");
                assert_eq!(Packet::parse(&bytes).expect("a message").answers.len(), answers, "{name}");
            }
        });
    }

    #[test]
    fn a_resolv_conf_names_the_servers_but_not_ourselves_and_may_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("resolv.conf");
        let upstreams = Upstreams::of_file(&file, &[Ipv4Addr::new(10, 43, 0, 10)]);
        let now = || upstreams.now().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(now(), "", "there is no link yet");
        fs::write(&file, "search x\nnameserver 10.43.0.10\nnameserver 9.9.9.9\n").expect("written");
        assert_eq!(now(), "9.9.9.9:53");
        let next = folder.path().join("next");
        fs::write(&next, "nameserver 9.9.9.8\nnameserver 9.9.9.9\n").expect("written");
        fs::rename(&next, &file).expect("renamed");
        assert_eq!(now(), "9.9.9.8:53 9.9.9.9:53", "another link, other servers");
    }
}
