//! Which registries answer at all, and for how long that is believed.
//!
//! Start at [`Reach::holds`]. It matters only for images that are here already: without it, each start of a pod on a board that
//! has no internet would wait for names to be resolved in vain, which takes half a minute.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::time::{Instant, timeout};

use crate::http::Http;

/// A registry that does not answer within this is out of reach.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// So long a registry that was out of reach is not asked again.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// Registries that were out of reach, and when.
#[derive(Default)]
pub(crate) struct Reach(Mutex<BTreeMap<String, Instant>>);

impl Reach {
    /// Whether the registry at `base` answers, whatever it says.
    pub(crate) async fn holds(&self, http: &Http, base: &str) -> bool {
        if self.lock().get(base).is_some_and(|since| since.elapsed() < BELIEVED_FOR) {
            return false;
        }
        let answers = timeout(ANSWER_LIMIT, http.get(&format!("{base}/v2/"), &HeaderMap::new()))
            .await
            .is_ok_and(|said| said.is_ok());
        if answers {
            self.lock().remove(base);
        } else {
            tracing::info!("{base} is out of reach: images that are here are used");
            self.lock().insert(base.to_owned(), Instant::now());
        }
        answers
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
