//! Tasks that end when the kubelet does.
//!
//! Start at [`Tasks::spawn`]. Dropping the last [`Owner`] aborts all of them, so that the kubelet stops as a whole.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::{AbortHandle, JoinSet};

/// Where tasks are started.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// Ends all tasks when dropped.
pub struct Owner(pub Tasks);

impl Tasks {
    /// Starts a task.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = set.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a task of the kubelet panicked");
            }
        }
        set.spawn(task)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}
