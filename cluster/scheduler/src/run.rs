//! Writes what the scheduler decides.
//!
//! Start at [`run`]. Pods that are decided together are bound together, so that they share a commit of the store.
//!
//! Not here: what is decided (`core.rs`).

use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use client::{Caches, Client, Door};
use control::{Failure, Recorder, Write, perform};
use futures::StreamExt;
use futures::stream::iter;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::core::{Options, Scheduler, Step};

/// Writes that are under way at the same time.
const WRITES_MAX: usize = 64;
/// How long to wait at most for news.
const LOOK: Duration = Duration::from_secs(60);

/// Schedules for ever.
pub async fn run(options: Options, client: Client, caches: Arc<Caches>, clock: Arc<dyn Clock>) {
    let wake = Arc::new(Notify::new());
    let waker = wake.clone();
    let mut recorder = Recorder::new(&options.scheduler_name);
    let mut scheduler = Scheduler::new(options, &caches, move || waker.notify_one());
    loop {
        let steps = scheduler.turn(clock.now(), clock.monotonic());
        if steps.is_empty() {
            let wait = scheduler.due().map_or(LOOK, |due| due.since(clock.monotonic()));
            // Ends early when something changes; that nothing did is no error.
            let _ = timeout(wait.min(LOOK), wake.notified()).await;
            continue;
        }
        let mut notes = Vec::new();
        let mut results = iter(steps).map(|step| write(client.door().clone(), step)).buffered(WRITES_MAX);
        while let Some((step, result)) = results.next().await {
            scheduler.done(&step, result.as_ref().map(|()| ()), clock.monotonic());
            if result.is_ok() {
                notes.extend(step.notes);
            }
        }
        let events: Vec<Write> = notes.iter().filter_map(|note| recorder.record(note, clock.now())).collect();
        let mut told = iter(events).map(|event| tell(client.door().clone(), event)).buffer_unordered(WRITES_MAX);
        while told.next().await.is_some() {}
    }
}

async fn write(door: Arc<dyn Door>, step: Step) -> (Step, Result<(), Failure>) {
    for write in &step.writes {
        if let Err(failure) = perform(&door, write).await {
            return (step, Err(failure));
        }
    }
    (step, Ok(()))
}

async fn tell(door: Arc<dyn Door>, event: Write) {
    if let Err(error) = perform(&door, &event).await {
        tracing::debug!(%error, "failed to record an event");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A multi-threaded runtime moves it about.
    #[test]
    fn it_may_move_between_threads() {
        fn check<F: Future + Send>(_: fn(Options, Client, Arc<Caches>, Arc<dyn Clock>) -> F) {}
        check(run);
    }
}
