//! How long a server takes to start.
//!
//! Start at [`starts`].
//!
//! Not here: a board's boot (`tests/boot`).

use std::path::Path;
use std::time::Duration;

use base::Clock;
use sys::SystemClock;

use crate::median;
use crate::promise::{Figure, NODE_READY, READYZ};
use crate::server::{Server, heartbeat, is_ready};
use crate::{BenchError, Connection};

/// Heartbeats are told in seconds: one of a start later than this differs from those before.
const HEARTBEAT_UNIT: Duration = Duration::from_millis(1_100);
const NODES: &str = "/api/v1/nodes?watch=true";

/// How long one start took.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// To `/readyz`.
    pub readyz: Duration,
    /// To the node Ready.
    pub node_ready: Duration,
}

/// All starts.
#[derive(Clone, Debug, Default)]
pub struct Starts {
    /// Those that find nothing: they make keys and everything a cluster has from the start.
    pub first: Vec<Start>,
    /// Those that find what a killed server left.
    pub again: Vec<Start>,
}

/// Starts servers, each with an empty folder and then, killed, again.
pub async fn starts(program: &Path, runs: usize) -> Result<Starts, BenchError> {
    let mut starts = Starts::default();
    for _ in 0..runs {
        let mut server = Server::new(program, true)?;
        let (first, seen) = once(&mut server, "").await?;
        server.kill();
        tokio::time::sleep(HEARTBEAT_UNIT).await;
        let (again, _) = once(&mut server, &seen).await?;
        starts.first.push(first);
        starts.again.push(again);
    }
    Ok(starts)
}

/// One start; also the heartbeat that a later start must not take for its own.
async fn once(server: &mut Server, before: &str) -> Result<(Start, String), BenchError> {
    let begun = server.start()?;
    let mut connection = server.connect().await?;
    let readyz = SystemClock.monotonic().since(begun);
    let seen = server.within("the node to be Ready", ready(&mut connection, before)).await?;
    Ok((Start { readyz, node_ready: SystemClock.monotonic().since(begun) }, seen))
}

async fn ready(connection: &mut Connection, before: &str) -> Result<String, BenchError> {
    let node = connection.watch(NODES).await?.until(|node| is_ready(node, before)).await?;
    Ok(heartbeat(&node))
}

impl Starts {
    /// The figures: of first starts and later ones, the worse median counts.
    pub fn figures(&self) -> Vec<Figure> {
        let worse = |of: fn(&Start) -> Duration| {
            let middle = |starts: &[Start]| median(starts.iter().map(of).collect());
            middle(&self.first).max(middle(&self.again)).as_secs_f64()
        };
        vec![READYZ.is(worse(|start| start.readyz)), NODE_READY.is(worse(|start| start.node_ready))]
    }
}
