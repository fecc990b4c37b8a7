//! Tells that links, addresses or routes have changed, never which: whoever is told looks at all of them again.
//!
//! Start at [`Monitor`]. It waits on no clock and starts no thread: its descriptor becomes readable.
//!
//! See rtnetlink(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::netlink::{Protocol, Socket};

const RTMGRP_LINK: u32 = 1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;

/// Becomes readable when something has changed in the network namespace it was opened in.
#[derive(Debug)]
pub struct Monitor(Socket);

impl Monitor {
    /// Listens from now on.
    pub fn open() -> io::Result<Monitor> {
        Socket::listening(Protocol::Route, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE).map(Monitor)
    }

    /// Takes everything that has been told so far, without waiting; the answer is whether there was anything. News that
    /// were lost because nobody took them in time count as some.
    pub fn take(&self) -> io::Result<bool> {
        let mut any = false;
        let mut buffer = [0; 8192];
        loop {
            match recv(self.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS) => any = true,
                Err(Errno::EAGAIN) => return Ok(any),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd().as_raw_fd()
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::{Links, Net, Route, RouteOwner};

    /// Runs `body` in a network namespace of its own.
    fn apart(body: impl FnOnce() + Send + 'static) {
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            body();
        })
        .join()
        .expect("the thread ends well");
    }

    #[test]
    fn a_change_is_told_once() {
        apart(|| {
            let monitor = Monitor::open().expect("a monitor");
            assert!(!monitor.take().expect("nothing yet"));
            let mut links = Links::open().expect("links");
            let link = links.add_dummy("one").expect("a link");
            assert!(monitor.take().expect("a link came"));
            assert!(!monitor.take().expect("that was all"));
            links.up(link.index).expect("up");
            monitor.take().expect("it is up");
            links.add_address(link.index, Net { address: [10, 0, 0, 1].into(), prefix: 24 }).expect("an address");
            assert!(monitor.take().expect("an address came"));
        });
    }

    #[test]
    fn a_route_is_its_owners() {
        apart(|| {
            let mut links = Links::open().expect("links");
            let link = links.add_dummy("one").expect("a link");
            links.up(link.index).expect("up");
            links.add_address(link.index, Net { address: [10, 0, 0, 1].into(), prefix: 24 }).expect("an address");
            let net = Net { address: [10, 42, 1, 0].into(), prefix: 24 };
            let route = Route { to: Some(net), via: Some([10, 0, 0, 2].into()), link: link.index, source: None };
            let (ours, theirs) = (RouteOwner(92), RouteOwner(93));
            links.add_route_of(ours, &route).expect("added");
            links.add_route_of(theirs, &route).expect_err("there is one");
            links.remove_route_of(theirs, &route).expect("that is no error");
            assert!(links.owned_routes().expect("routes").contains(&(ours, route.clone())));
            let moved = Route { via: Some([10, 0, 0, 3].into()), ..route.clone() };
            links.replace_route_of(ours, &moved).expect("replaced");
            assert!(!links.routes().expect("routes").contains(&route));
            links.remove_route_of(ours, &moved).expect("removed");
            assert!(!links.routes().expect("routes").contains(&moved));
            links.refuse(ours, net).expect("refused");
            links.refuse(ours, net).expect("already so");
            let error = std::net::TcpStream::connect(("10.42.1.2", 1)).expect_err("nobody is there");
            assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
            links.refuse_no_more(ours, net).expect("undone");
        });
    }
}
