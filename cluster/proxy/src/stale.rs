//! Connections of UDP that lead to endpoints which are gone.
//!
//! Start at [`stale`]. TCP needs nothing: a peer that is gone is noticed, and the next connection goes elsewhere. A UDP
//! client that goes on sending from one port would be led to the old endpoint for as long as it sends.
//!
//! Invariant: a connection that a present endpoint of its Service answers is left alone.

use std::collections::BTreeSet;

use sys::net::conntrack::Connection;

use crate::plan::{Backend, Udp};

/// Those connections that are to be forgotten, so that their next packet finds an endpoint that is there.
pub fn stale(udp: &Udp, tracked: &[Connection]) -> Vec<Connection> {
    tracked.iter().filter(|connection| is_stale(udp, connection)).copied().collect()
}

fn is_stale(udp: &Udp, connection: &Connection) -> bool {
    let (asked, answers) = (connection.asked.destination, connection.answered.source);
    let gone = |backends: &BTreeSet<Backend>| !backends.contains(&answers);
    match udp.by_address.get(&asked) {
        // What was sent to the Service before there were rules for it leads nowhere, and is as stale.
        Some(backends) => gone(backends),
        // A port of the same number on another machine is not ours: there nothing was rewritten.
        None => answers != asked && udp.by_node_port.get(&asked.1).is_some_and(gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddrV4};
    use sys::net::conntrack::Direction;
    use sys::net::nft::Transport;

    fn place(text: &str) -> (Ipv4Addr, u16) {
        let address: SocketAddrV4 = text.parse().expect("an address and a port");
        (*address.ip(), address.port())
    }

    /// A client asked for the first and is answered by the second. The Service 10.43.0.10:53, node port 30053, has one
    /// endpoint: 10.42.0.2:53.
    #[track_caller]
    fn check(asked: &str, answered: &str, want: bool) {
        let backends = BTreeSet::from([place("10.42.0.2:53")]);
        let udp = Udp {
            by_address: [(place("10.43.0.10:53"), backends.clone())].into(),
            by_node_port: [(30053, backends)].into(),
        };
        let client = place("10.42.0.7:4000");
        let connection = Connection {
            transport: Transport::Udp,
            asked: Direction { source: client, destination: place(asked) },
            answered: Direction { source: place(answered), destination: client },
        };
        assert_eq!(!stale(&udp, &[connection]).is_empty(), want);
    }

    #[test]
    fn an_endpoint_that_is_there_keeps_its_clients() {
        check("10.43.0.10:53", "10.42.0.2:53", false);
        check("192.168.7.2:30053", "10.42.0.2:53", false);
    }

    #[test]
    fn clients_of_one_that_is_gone_are_let_go() {
        check("10.43.0.10:53", "10.42.0.3:53", true);
        check("192.168.7.2:30053", "10.42.0.3:53", true);
        check("10.43.0.10:53", "10.42.0.2:54", true);
    }

    #[test]
    fn what_was_sent_before_there_were_rules_is_let_go() {
        check("10.43.0.10:53", "10.43.0.10:53", true);
    }

    #[test]
    fn what_is_no_services_is_left_alone() {
        check("10.42.0.3:53", "10.42.0.3:53", false);
        check("9.9.9.9:30053", "9.9.9.9:30053", false);
        check("10.43.0.10:54", "10.43.0.10:54", false);
    }
}
