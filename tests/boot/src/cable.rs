//! A station of our own on the cable between boards: a client that asks a Service as any machine in the same network does.
//!
//! Start at [`Station::plug_in`], then [`Station::ask`]. The cable is a multicast group on the loopback (`image::qemu`'s `Lan`),
//! each datagram a frame; what a kernel does with frames does the `smoltcp` library here, so no rights are needed.
//!
//! Not here: who is asked how often (`demo::update`).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread::sleep;
use std::time::{Duration, Instant as Wall};

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr};
use socket2::{Domain, Protocol, Socket, Type};

/// The group that QEMU's cables are.
const GROUP: Ipv4Addr = Ipv4Addr::new(230, 0, 0, 77);
const PREFIX: u8 = 24;
const FRAME_BYTES: usize = 1514;
const BUFFER_BYTES: usize = 4096;
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Ports of the asking side, each used once in a long time.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 40_000;

/// How a request went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The connection was accepted, and this is the whole answer.
    Answered(String),
    /// Nobody accepted the connection in time.
    NotAccepted,
    /// The connection was accepted, and then this happened: what a client must not see.
    Broken(String),
}

/// A network card, an address and the programs behind it.
pub struct Station {
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    began: Wall,
    next_port: u16,
}

impl Station {
    /// On the cable of this number, as the machine with this address.
    pub fn plug_in(cable: u16, address: Ipv4Addr) -> io::Result<Station> {
        let mac = EthernetAddress([0x52, 0x54, 0x00, 0x5e, 0x78, address.octets()[3]]);
        let mut card = Card::on(cable, mac)?;
        let began = Wall::now();
        let mut interface = Interface::new(Config::new(mac.into()), &mut card, Instant::ZERO);
        interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(address.into(), PREFIX)).expect("there is room for one");
        });
        Ok(Station { card, interface, sockets: SocketSet::new(Vec::new()), began, next_port: 0 })
    }

    /// Asks for `/` by HTTP: the connection must stand within `accepted_within`, and the answer be whole `answered_within` later.
    pub fn ask(&mut self, to: SocketAddrV4, accepted_within: Duration, answered_within: Duration) -> Asked {
        let handle = self.sockets.add(socket());
        self.next_port = (self.next_port + 1) % PORTS;
        let own_port = FIRST_PORT + self.next_port;
        let connection = self.sockets.get_mut::<tcp::Socket>(handle);
        let begun = connection.connect(self.interface.context(), (*to.ip(), to.port()), own_port);
        let asked = match begun {
            Ok(()) => self.asked(handle, accepted_within, answered_within),
            Err(error) => Asked::Broken(format!("no connection can be tried: {error}")),
        };
        self.sockets.get_mut::<tcp::Socket>(handle).abort();
        self.poll();
        self.sockets.remove(handle);
        asked
    }

    fn asked(&mut self, handle: smoltcp::iface::SocketHandle, accepted: Duration, answered: Duration) -> Asked {
        let until = Wall::now() + accepted;
        loop {
            self.poll();
            let connection = self.sockets.get_mut::<tcp::Socket>(handle);
            match connection.state() {
                tcp::State::SynSent if Wall::now() < until => sleep(LOOK_EVERY),
                tcp::State::SynSent | tcp::State::Closed => return Asked::NotAccepted,
                _ => break,
            }
        }
        let connection = self.sockets.get_mut::<tcp::Socket>(handle);
        if let Err(error) = connection.send_slice(b"GET / HTTP/1.0\r\n\r\n") {
            return Asked::Broken(format!("the request could not be sent: {error}"));
        }
        let until = Wall::now() + answered;
        let mut heard = Vec::new();
        while Wall::now() < until {
            self.poll();
            let connection = self.sockets.get_mut::<tcp::Socket>(handle);
            let mut more = [0; BUFFER_BYTES];
            match connection.recv_slice(&mut more) {
                Ok(0) => sleep(LOOK_EVERY),
                Ok(count) => heard.extend_from_slice(&more[..count]),
                Err(tcp::RecvError::Finished) => return judged(heard),
                Err(tcp::RecvError::InvalidState) => return Asked::Broken(format!("it was reset after {heard:?}")),
            }
        }
        Asked::Broken(format!("no whole answer within {answered:?}, but {:?}", String::from_utf8_lossy(&heard)))
    }

    fn poll(&mut self) {
        let now = Instant::from_micros(i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX));
        self.interface.poll(now, &mut self.card, &mut self.sockets);
    }
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
    tcp::Socket::new(buffer(), buffer())
}

fn judged(heard: Vec<u8>) -> Asked {
    let text = String::from_utf8_lossy(&heard).into_owned();
    let is_ok = text.lines().next().is_some_and(|line| line.starts_with("HTTP/1.") && line.contains(" 200 "));
    match text.split_once("\r\n\r\n") {
        Some((_, body)) if is_ok => Asked::Answered(body.to_owned()),
        _ => Asked::Broken(format!("the answer is {text:?}")),
    }
}

/// The end of a cable.
struct Card {
    socket: Socket,
    group: socket2::SockAddr,
    mac: EthernetAddress,
}

impl Card {
    fn on(cable: u16, mac: EthernetAddress) -> io::Result<Card> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        let group = SocketAddrV4::new(GROUP, cable).into();
        socket.set_reuse_address(true)?;
        socket.bind(&group)?;
        socket.join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST)?;
        socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST)?;
        socket.set_multicast_loop_v4(true)?;
        socket.set_nonblocking(true)?;
        Ok(Card { socket, group, mac })
    }

    /// The next frame, where there is one that we did not send ourselves.
    fn heard(&self) -> Option<Vec<u8>> {
        let mut frame = [0; FRAME_BYTES];
        loop {
            let count = io::Read::read(&mut &self.socket, &mut frame).ok()?;
            let is_ours = frame.get(6..12) == Some(self.mac.as_bytes());
            if !is_ours {
                return Some(frame[..count].to_vec());
            }
        }
    }
}

impl Device for Card {
    type RxToken<'a> = Heard;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Heard, Sender<'_>)> {
        self.heard().map(|frame| (Heard(frame), Sender(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sender<'_>> {
        Some(Sender(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut can = DeviceCapabilities::default();
        can.medium = Medium::Ethernet;
        can.max_transmission_unit = FRAME_BYTES;
        can
    }
}

/// A frame that came.
struct Heard(Vec<u8>);

impl RxToken for Heard {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

/// Room for a frame to send.
struct Sender<'a>(&'a Card);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, write: F) -> R {
        let mut frame = vec![0; bytes];
        let done = write(&mut frame);
        // A cable loses frames now and then; whoever misses one asks again.
        let _lost = self.0.socket.send_to(&frame, &self.0.group);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// As short as on a machine that is not emulated.
    const SOON: Duration = Duration::from_millis(300);

    /// Somebody on the cable who says this to whoever connects, and hangs up; `None` breaks the connection.
    fn answers(cable: u16, address: Ipv4Addr, says: Option<&'static [u8]>) -> thread::JoinHandle<()> {
        let mut station = Station::plug_in(cable, address).expect("a cable");
        let mut listener = socket();
        listener.listen(80).expect("it listens");
        let handle = station.sockets.add(listener);
        thread::spawn(move || {
            let until = Wall::now() + Duration::from_secs(5);
            let mut has_said = false;
            while Wall::now() < until {
                station.poll();
                let connection = station.sockets.get_mut::<tcp::Socket>(handle);
                match says {
                    Some(says) if connection.can_recv() && !has_said => {
                        connection.send_slice(says).expect("room");
                        connection.close();
                        has_said = true;
                    }
                    None if connection.state() == tcp::State::Established => connection.abort(),
                    _ => {}
                }
                if has_said && !connection.is_open() {
                    return;
                }
                sleep(LOOK_EVERY);
            }
        })
    }

    fn asks(cable: u16, says: Option<&'static [u8]>) -> Asked {
        let address = Ipv4Addr::new(10, 77, 0, 1);
        let _other = answers(cable, address, says);
        let mut station = Station::plug_in(cable, [10, 77, 0, 9].into()).expect("a cable");
        station.ask(SocketAddrV4::new(address, 80), SOON, SOON)
    }

    #[test]
    fn an_answer_is_heard_over_the_cable() {
        let heard = asks(36_471, Some(b"HTTP/1.0 200 OK\r\n\r\nskerry-1\n"));
        assert_eq!(heard, Asked::Answered("skerry-1\n".to_owned()));
    }

    #[test]
    fn what_breaks_after_it_was_accepted_is_told_from_what_was_not() {
        assert!(matches!(asks(36_472, None), Asked::Broken(_)));
        let heard = asks(36_473, Some(b"HTTP/1.0 503 Busy\r\n\r\n"));
        assert!(matches!(&heard, Asked::Broken(why) if why.contains("503")), "{heard:?}");
        let mut alone = Station::plug_in(36_474, [10, 77, 0, 9].into()).expect("a cable");
        let nobody = SocketAddrV4::new([10, 77, 0, 1].into(), 80);
        assert_eq!(alone.ask(nobody, SOON, SOON), Asked::NotAccepted);
    }
}
