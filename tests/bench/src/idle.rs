//! What a node costs that has nothing to do.
//!
//! Start at [`idle`].
//!
//! Not here: a whole board's memory (`tests/boot`), which has a kernel of its own.

use std::time::Duration;

use base::{Bytes, Clock};
use sys::SystemClock;

use crate::BenchError;
use crate::pods::Cluster;
use crate::processes::{self, Usage};
use crate::promise::{CPU, Figure, MEMORY, SYNCS, WRITTEN};
use crate::syncs::Syncs;

/// The period the promises are about.
const PERIOD: Duration = Duration::from_secs(600);
const MIB: f64 = 1_048_576.0;

/// What an idle node used.
#[derive(Clone, Debug)]
pub struct Idle {
    /// Of all our processes, at the end.
    pub pss: Bytes,
    /// In-memory file systems (secrets, tokens) and files without a name, at the end.
    pub in_memory_files: Bytes,
    /// How long it was looked at.
    pub period: Duration,
    /// Processor time in that period.
    pub cpu: Duration,
    /// How often a write was waited for in that period.
    pub syncs: usize,
    /// Bytes made to be written in that period.
    pub written: Bytes,
    /// How many processes there are.
    pub processes: usize,
}

/// Runs `pods` sleeping pods, lets things settle, and looks on for a period.
pub async fn idle(cluster: &mut Cluster, pods: usize, settle: Duration, period: Duration) -> Result<Idle, BenchError> {
    for number in 0..pods {
        cluster.run_pod(&format!("idle-{number}")).await?;
    }
    tokio::time::sleep(settle).await;
    let ours = processes::of(cluster.server.program())?;
    let (begun, before, syncs) = (SystemClock.monotonic(), Usage::of(&ours), Syncs::begin(&ours)?);
    tokio::time::sleep(period).await;
    let after = Usage::of(&ours);
    Ok(Idle {
        pss: after.pss,
        in_memory_files: Bytes(after.memfd.0 + processes::tmpfs(&cluster.server.data())?.0),
        period: SystemClock.monotonic().since(begun),
        cpu: after.cpu.saturating_sub(before.cpu),
        syncs: syncs.count()?,
        written: Bytes(after.written.0.saturating_sub(before.written.0)),
        processes: ours.len(),
    })
}

impl Idle {
    /// The figures; what was counted in another period is told as if it were [`PERIOD`].
    pub fn figures(&self) -> Vec<Figure> {
        let scale = PERIOD.as_secs_f64() / self.period.as_secs_f64();
        vec![
            MEMORY.is((self.pss.0 + self.in_memory_files.0) as f64 / MIB),
            CPU.is(100.0 * self.cpu.as_secs_f64() / self.period.as_secs_f64()),
            SYNCS.is(self.syncs as f64 * scale),
            WRITTEN.is(self.written.0 as f64 * scale / MIB),
        ]
    }
}
