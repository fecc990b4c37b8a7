//! Keeps roles running.
//!
//! Start at [`role`].
//!
//! Invariants:
//! * a role that ends, fails or panics is started again after a wait that doubles up to [`WAIT_MAX`];
//! * a role that ran for [`WELL_TIME`] is forgiven.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

/// The first wait.
const WAIT_MIN: Duration = Duration::from_millis(200);
/// The longest: a role that always fails costs little, and comes back soon once it can.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// A role that ran so long was well.
const WELL_TIME: Duration = Duration::from_secs(60);

/// Runs a role for ever.
pub(crate) async fn role<F, E>(name: &'static str, mut start: impl FnMut() -> F)
where
    F: Future<Output = Result<(), E>> + Send,
    E: std::error::Error,
{
    let mut wait = WAIT_MIN;
    loop {
        let began = Instant::now();
        match AssertUnwindSafe(start()).catch_unwind().await {
            Ok(Ok(())) => tracing::warn!("the {name} ended; starting it again"),
            Ok(Err(error)) => tracing::error!("the {name} failed: {}", base::chain(&error)),
            // The panic's own message was printed where it happened.
            Err(_) => tracing::error!("the {name} panicked; starting it again"),
        }
        if began.elapsed() >= WELL_TIME {
            wait = WAIT_MIN;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_role_that_panics_comes_back() {
        let starts = AtomicU32::new(0);
        let run = role("test", || async {
            match starts.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("the first start"),
                1 => Err(std::io::Error::other("the second")),
                _ => std::future::pending().await,
            }
        });
        let ended = tokio::time::timeout(Duration::from_secs(5), run).await;
        assert!(ended.is_err(), "a role is run for ever");
        assert_eq!(starts.load(Ordering::SeqCst), 3);
    }
}
