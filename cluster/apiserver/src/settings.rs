//! What a server is told at its start.
//!
//! Start at [`Settings`]; [`Settings::new`] has Skerry's defaults for everything but time, chance and keys.

use std::net::Ipv4Addr;
use std::sync::Arc;

use base::Clock;
use pki::TokenKey;

use crate::{Extension, Pages, Snapshot};

/// What a server is told at its start.
pub struct Settings {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where chance begins: uids, generated names. Unpredictable in a real server, given in a simulation.
    pub seed: u64,
    /// Signs and checks ServiceAccount tokens.
    pub tokens: Arc<TokenKey>,
    /// The cluster's CA certificate, in PEM; pods and kubeconfigs get it.
    pub ca_pem: String,
    /// `iss` of ServiceAccount tokens, and their default audience.
    pub issuer: String,
    /// Under which address clients are told to find this server at first, such as `10.0.0.1:6443`; see [`crate::Api::moved`].
    pub advertise: (Ipv4Addr, u16),
    /// ClusterIPs come from this network: address and prefix length.
    pub service_cidr: (Ipv4Addr, u8),
    /// NodePorts come from this range, ends included.
    pub node_ports: (u16, u16),
    /// How long a new pod that does not say tolerates a node that is not ready.
    pub not_ready_toleration_seconds: i64,
    /// How long it tolerates one that cannot be reached.
    pub unreachable_toleration_seconds: i64,
    /// Makes a stream of everything the cluster is; none is served without.
    pub snapshot: Option<Snapshot>,
    /// Who answers further API groups; none unless told.
    pub extensions: Vec<Arc<dyn Extension>>,
    /// Has files for browsers; there are none without.
    pub pages: Option<Pages>,
}

/// Pods of a node in trouble leave after so long where nobody says otherwise: at the edge nobody looks after it within
/// upstream's five minutes either.
pub const TOLERATION_SECONDS: i64 = 20;

impl Settings {
    /// Skerry's defaults.
    pub fn new(clock: Arc<dyn Clock>, seed: u64, tokens: Arc<TokenKey>, ca_pem: String) -> Settings {
        Settings {
            clock,
            seed,
            tokens,
            ca_pem,
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            advertise: (Ipv4Addr::LOCALHOST, 6443),
            service_cidr: (Ipv4Addr::new(10, 43, 0, 0), 16),
            node_ports: (30_000, 32_767),
            not_ready_toleration_seconds: TOLERATION_SECONDS,
            unreachable_toleration_seconds: TOLERATION_SECONDS,
            snapshot: None,
            extensions: Vec::new(),
            pages: None,
        }
    }
}
