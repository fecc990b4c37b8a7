//! The machine's own network: loopback, and wired links with addresses from DHCP or from the settings, for ever.
//!
//! Start at [`plans`], what each link is to have, and [`Keeper::run`], which gives it that and never gives up: what it does
//! next is decided in `lease.rs`. The board does not wait for it: services start without a network too.
//!
//! Not here: pods' links (the cluster's), wireless.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base::{Clock, chain};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use settings::Settings;
use sys::net::link::{Link, Links, Net, Route};

use crate::dhcp::{Ask, Kind, Lease, message, read};
use crate::lease::{Seen, State, Step, answered, step, told};
use crate::phase::{Doing, Error};

const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// A link that is not ready to send yet is asked again after this.
const NOT_READY: Duration = Duration::from_millis(100);
/// A server that does not say for how long gives this.
const USUAL_SECONDS: u32 = 3600;

/// Switches loopback on.
pub fn loopback() -> Result<String, Error> {
    let mut links = Links::open().doing("open the kernel's links")?;
    let lo = links.find("lo").doing("find the loopback link")?;
    let lo = lo.ok_or_else(|| Error::Wrong("the kernel has no loopback link".into()))?;
    links.up(lo.index).doing("switch the loopback link on")?;
    Ok("lo is up".into())
}

/// What a link is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name; the first wired one that nobody else has where there is none.
    pub link: Option<String>,
    /// Names that are other plans'.
    pub not: Vec<String>,
    /// Its own address; DHCP's where there is none.
    pub fixed: Option<Lease>,
    /// Who resolves names, whatever DHCP says.
    pub dns: Vec<Ipv4Addr>,
    /// Whether the way to other nets leads over it.
    pub leads_out: bool,
}

/// The links of the settings, the first one first. One default route is enough: that of the first gateway which somebody
/// wrote down, and only where nobody did that of the first link with DHCP.
pub fn plans(settings: &Settings) -> Vec<Plan> {
    let networks: Vec<&settings::Network> = [&settings.network].into_iter().chain(&settings.links).collect();
    let named: Vec<String> = settings.links.iter().filter_map(|network| network.link.clone()).collect();
    let out = networks.iter().position(|network| network.gateway.is_some());
    let out = out.or_else(|| networks.iter().position(|network| network.address.is_none()));
    let plan = |(index, network): (usize, &&settings::Network)| {
        let fixed = network.address.map(|(address, prefix)| Lease {
            address,
            prefix,
            router: network.gateway,
            dns: network.dns.clone(),
            ntp: Vec::new(),
            server: Ipv4Addr::UNSPECIFIED,
            seconds: 0,
        });
        let not = if network.link.is_none() { named.clone() } else { Vec::new() };
        Plan { link: network.link.clone(), not, fixed, dns: network.dns.clone(), leads_out: out == Some(index) }
    };
    networks.iter().enumerate().map(plan).collect()
}

/// Which plan's first address the board waits for: the one that leads out, or the first where none does. The link without
/// a name may be one that the board does not have; only its keeper waits for it then, as it may be plugged in later.
pub fn awaited(plans: &[Plan]) -> usize {
    plans.iter().position(|plan| plan.leads_out).unwrap_or(0)
}

/// What was learnt on all links together.
#[derive(Debug)]
pub struct Learnt {
    /// The resolver's file, written whenever it changes.
    resolv_conf: PathBuf,
    /// By plan: who resolves names, who knows the time.
    servers: Mutex<Vec<(Vec<Ipv4Addr>, Vec<Ipv4Addr>)>>,
}

impl Learnt {
    /// Nothing yet, of so many links.
    pub fn new(resolv_conf: PathBuf, links: usize) -> Arc<Learnt> {
        Arc::new(Learnt { resolv_conf, servers: Mutex::new(vec![Default::default(); links]) })
    }

    /// Who knows the time, as far as somebody told.
    pub fn ntp(&self) -> Vec<Ipv4Addr> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.iter().flat_map(|(_, ntp)| ntp.clone()).collect()
    }

    fn learn(&self, index: usize, dns: Vec<Ipv4Addr>, ntp: Vec<Ipv4Addr>) -> Result<(), Error> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers[index] == (dns.clone(), ntp.clone()) && self.resolv_conf.exists() {
            return Ok(());
        }
        servers[index] = (dns, ntp);
        let lines = servers.iter().flat_map(|(dns, _)| dns).map(|server| format!("nameserver {server}\n"));
        sys::files::replace(&self.resolv_conf, lines.collect::<String>().as_bytes(), 0o644)?;
        Ok(())
    }
}

/// What a keeper tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The link has this address now.
    Address {
        /// The link.
        link: String,
        /// Its address.
        net: Net,
        /// From where it is.
        by: &'static str,
    },
    /// Something to know, in a sentence.
    Note(String),
}

/// Gives one link its address for as long as the machine runs.
#[derive(Debug)]
pub struct Keeper {
    /// What it is to have.
    pub plan: Plan,
    /// Its place among the plans.
    pub index: usize,
    /// What DHCP's server is told we are called.
    pub hostname: String,
    /// Where it notes what it learns.
    pub learnt: Arc<Learnt>,
}

/// What a keeper knows of its link.
struct Known {
    state: State,
    link: Option<Link>,
    /// Its name, also once it is gone.
    name: Option<String>,
    had: Option<Ipv4Addr>,
    told: Option<News>,
}

impl Keeper {
    /// Never returns, unless `go_on` says so. It tells what changes.
    pub fn run(&self, go_on: impl Fn() -> bool, mut tell: impl FnMut(News)) {
        let began = Instant::now();
        let mut known = Known { state: State::Absent, link: None, name: self.plan.link.clone(), had: None, told: None };
        while go_on() {
            if let Err(error) = self.turn(&mut known, began, &mut tell) {
                tell_once(&mut known, News::Note(chain(&error).to_string()), &mut tell);
                known.state = answered(known.state, None, 0, began.elapsed());
                sleep(NOT_READY);
            }
        }
    }

    /// Looks once and does what is next.
    fn turn(&self, known: &mut Known, began: Instant, tell: &mut impl FnMut(News)) -> Result<(), Error> {
        let mut links = Links::open().doing("open the kernel's links")?;
        known.link = self.look(&mut links, known)?;
        known.name = known.link.as_ref().map(|link| link.name.clone()).or(known.name.take());
        let seen =
            known.link.as_ref().map(|link| Seen { carrier: link.carrier, carrier_changes: link.carrier_changes });
        let (state, what) = step(known.state, seen, self.plan.fixed.is_some(), began.elapsed());
        self.tell_move(known, state, tell);
        match (what, known.link.clone()) {
            (Step::Ask, Some(link)) => {
                let granted = self.settle(&mut links, &link, known, tell)?;
                let after = answered(known.state, granted, link.carrier_changes, began.elapsed());
                self.tell_move(known, after, tell);
            }
            (Step::Wait(pause), _) => sleep(pause),
            (Step::Ask, None) => sleep(NOT_READY),
        }
        Ok(())
    }

    fn tell_move(&self, known: &mut Known, after: State, tell: &mut impl FnMut(News)) {
        if let Some(what) = told(known.state, after) {
            let name = known.name.as_deref().unwrap_or("the wired link (eth*, en*)");
            tell_once(known, News::Note(format!("{name} {what}")), tell);
        }
        known.state = after;
    }

    /// The link as the kernel has it now, switched on.
    fn look(&self, links: &mut Links, known: &Known) -> Result<Option<Link>, Error> {
        let link = match &known.link {
            Some(link) => links.get(link.index).doing("look at a link")?.filter(|now| self.is_ours(now)),
            None => {
                let all = links.list().doing("list the kernel's links")?;
                all.into_iter().filter(|link| self.is_ours(link)).min_by_key(|link| link.index)
            }
        };
        let Some(link) = link else { return Ok(None) };
        if link.up {
            return Ok(Some(link));
        }
        links.up(link.index).doing(format_args!("switch {} on", link.name))?;
        links.get(link.index).doing("look at a link")
    }

    fn is_ours(&self, link: &Link) -> bool {
        match &self.plan.link {
            Some(name) => link.name == *name,
            None => {
                (link.name.starts_with("eth") || link.name.starts_with("en")) && !self.plan.not.contains(&link.name)
            }
        }
    }

    /// Gets an address and gives it to the link; nothing where nobody answers.
    fn settle(
        &self,
        links: &mut Links,
        link: &Link,
        known: &mut Known,
        tell: &mut impl FnMut(News),
    ) -> Result<Option<Option<u32>>, Error> {
        let (lease, by) = match &self.plan.fixed {
            Some(lease) => (lease.clone(), "from the settings"),
            None => match ask(link, &self.hostname, known.had)? {
                Some(lease) => (lease, "by DHCP"),
                None => return Ok(None),
            },
        };
        apply(links, link, &lease, self.plan.leads_out)?;
        known.had = Some(lease.address);
        let dns = if self.plan.dns.is_empty() { lease.dns.clone() } else { self.plan.dns.clone() };
        self.learnt.learn(self.index, dns, lease.ntp.clone())?;
        let net = Net { address: IpAddr::V4(lease.address), prefix: lease.prefix };
        tell_once(known, News::Address { link: link.name.clone(), net, by }, tell);
        let seconds = if lease.seconds == 0 { USUAL_SECONDS } else { lease.seconds };
        Ok(Some((self.plan.fixed.is_none() && lease.seconds != u32::MAX).then_some(seconds)))
    }
}

/// Tells what was not told last.
fn tell_once(known: &mut Known, news: News, tell: &mut impl FnMut(News)) {
    if known.told.as_ref() != Some(&news) {
        known.told = Some(news.clone());
        tell(news);
    }
}

/// Asks once; nothing where nobody grants anything.
fn ask(link: &Link, hostname: &str, had: Option<Ipv4Addr>) -> Result<Option<Lease>, Error> {
    let mac = link.mac.ok_or_else(|| Error::Wrong(format!("{} has no hardware address", link.name)))?;
    let socket = open_socket(&link.name).doing(format_args!("open a DHCP socket on {}", link.name))?;
    let moment = sys::SystemClock.monotonic().0 as u32;
    let transaction = u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]).wrapping_add(moment);
    let discover = message(transaction, mac, hostname, Ask::Any(had));
    let Some((Kind::Offer, offer)) = exchange(&socket, &discover, transaction, mac) else { return Ok(None) };
    let request = message(transaction, mac, hostname, Ask::This(&offer));
    let answer = exchange(&socket, &request, transaction, mac);
    Ok(answer.filter(|(kind, _)| *kind == Kind::Ack).map(|(_, lease)| lease))
}

/// It is the link's before it has its port: several links ask at once, and only one socket may have a port of them all.
fn open_socket(link: &str) -> io::Result<UdpSocket> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::BindToDevice, &link.into())?;
    bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 68))?;
    let socket = UdpSocket::from(socket);
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    Ok(socket)
}

/// Sends and waits for an answer to it; nothing where none came in time. A link that is not up yet refuses to send.
fn exchange(socket: &UdpSocket, bytes: &[u8], transaction: u32, mac: [u8; 6]) -> Option<(Kind, Lease)> {
    if socket.send_to(bytes, (Ipv4Addr::BROADCAST, 67)).is_err() {
        sleep(NOT_READY);
        return None;
    }
    let began = Instant::now();
    let mut buffer = [0; 1500];
    while began.elapsed() < ANSWER_WITHIN {
        let count = socket.recv(&mut buffer).ok()?;
        if let Some(answer) = read(&buffer[..count], transaction, mac) {
            return Some(answer);
        }
    }
    None
}

/// Gives the link this address and no other of its kind.
fn apply(links: &mut Links, link: &Link, lease: &Lease, leads_out: bool) -> Result<(), Error> {
    let net = Net { address: IpAddr::V4(lease.address), prefix: lease.prefix };
    let doing = format!("give {} the address {net}", link.name);
    for (_, other) in links.addresses().doing(&doing)?.into_iter().filter(|(index, _)| *index == link.index) {
        if other.address.is_ipv4() && other != net {
            links.remove_address(link.index, other).doing(&doing)?;
        }
    }
    links.add_address(link.index, net).doing(&doing)?;
    if let Some(router) = lease.router.filter(|_| leads_out) {
        let route = Route { to: None, via: Some(IpAddr::V4(router)), link: link.index, source: None };
        links.set_route(&route).doing(format_args!("set the default route by {router}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use sys::namespace::{Kinds, unshare};

    /// A row a plan: link, address or `dhcp`, whether it leads out.
    fn check(text: &str, expected: &[(&str, &str, bool)]) {
        let (settings, problems) = settings::read(text.as_bytes());
        assert_eq!(problems, []);
        let plans = plans(&settings);
        let rows: Vec<(&str, String, bool)> = plans
            .iter()
            .map(|plan| {
                let address = plan.fixed.as_ref().map_or("dhcp".to_owned(), |lease| lease.address.to_string());
                (plan.link.as_deref().unwrap_or("*"), address, plan.leads_out)
            })
            .collect();
        let rows: Vec<(&str, &str, bool)> =
            rows.iter().map(|(link, address, out)| (*link, address.as_str(), *out)).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn without_settings_the_first_link_asks() {
        check("", &[("*", "dhcp", true)]);
    }

    #[test]
    fn a_second_link_leads_out_only_where_the_first_does_not() {
        check("[links.eth1]\naddress = \"10.0.0.2/24\"\n", &[("*", "dhcp", true), ("eth1", "10.0.0.2", false)]);
        check("[links.eth1]\n", &[("*", "dhcp", true), ("eth1", "dhcp", false)]);
        check("address = \"10.0.0.2/24\"\n[links.eth1]\n", &[("*", "10.0.0.2", false), ("eth1", "dhcp", true)]);
    }

    #[test]
    fn a_gateway_that_somebody_wrote_down_leads_out() {
        let eth0 = "[links.eth0]\naddress = \"10.0.0.2/24\"\ngateway = \"10.0.0.1\"\n";
        check(eth0, &[("*", "dhcp", false), ("eth0", "10.0.0.2", true)]);
        let first = "address = \"10.1.0.2/24\"\n";
        check(&format!("{first}{eth0}"), &[("*", "10.1.0.2", false), ("eth0", "10.0.0.2", true)]);
        let both = format!("{first}gateway = \"10.1.0.1\"\n{eth0}");
        check(&both, &[("*", "10.1.0.2", true), ("eth0", "10.0.0.2", false)]);
    }

    #[test]
    fn the_board_waits_for_the_address_that_leads_out() {
        let awaited = |text: &str| awaited(&plans(&settings::read(text.as_bytes()).0));
        assert_eq!(awaited(""), 0);
        assert_eq!(awaited("[links.eth0]\naddress = \"10.0.0.2/24\"\ngateway = \"10.0.0.1\"\n"), 1);
        assert_eq!(awaited("address = \"10.0.0.2/24\"\n[links.eth1]\naddress = \"10.1.0.2/24\"\n"), 0);
    }

    /// Needs root, as all that makes namespaces.
    #[test]
    fn two_links_ask_at_once() {
        let asked = std::thread::spawn(|| {
            unshare(Kinds::CLONE_NEWNET).unwrap();
            let here = File::open("/proc/thread-self/ns/net").unwrap();
            let mut links = Links::open().unwrap();
            links.add_veth("eth0", [2, 0, 0, 0, 0, 1], "eth1", [2, 0, 0, 0, 0, 2], here.as_fd(), 1500).unwrap();
            let _first = open_socket("eth0").unwrap();
            open_socket("eth1").map(drop)
        });
        asked.join().unwrap().unwrap();
    }

    #[test]
    fn a_link_that_has_a_name_is_not_the_first() {
        let (settings, _) = settings::read(b"[links.eth0]\n");
        let keeper = Keeper {
            plan: plans(&settings).remove(0),
            index: 0,
            hostname: String::new(),
            learnt: Learnt::new("/nowhere".into(), 1),
        };
        let link = |name: &str| Link {
            index: 1,
            name: name.to_owned(),
            mac: None,
            up: true,
            carrier: true,
            carrier_changes: 0,
            mtu: 1500,
        };
        let ours: Vec<bool> =
            ["eth0", "eth1", "enp0s3", "wlan0", "lo", "veth1"].map(|name| keeper.is_ours(&link(name))).into();
        assert_eq!(ours, [false, true, true, false, false, false]);
    }
}
