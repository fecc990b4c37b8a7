//! Whether this agent and its server are of releases that work together: neighbouring ones do, either way round.
//!
//! Start at [`role`]. Objects pass either way: what a newer side adds is passed over, what an older one lacks has its default.
//! This program's own messages carry versions, and what cannot be spoken is refused by its number (`telemetry`, `oci`, `bundle`).
//!
//! Not here: refusing to work. A node that is three releases behind runs its pods as long as it can.

use std::time::Duration;

use bytes::Bytes;
use client::Client;
use http::Method;
use serde_json::Value;

/// How often it is asked: a server may be updated.
const EVERY: Duration = Duration::from_secs(600);
/// And while there is no answer.
const RETRY: Duration = Duration::from_secs(60);
/// So many minor versions apart is tried.
const APART_MAX: u32 = 1;

/// Says in the log which release the server is, and when it is too far from ours; for ever.
pub(super) async fn role(client: Client) {
    let mut known = String::new();
    loop {
        let told = client.call(Method::GET, "/version".to_owned(), "", Bytes::new()).await;
        let version: Value = told.ok().and_then(|told| serde_json::from_slice(&told).ok()).unwrap_or_default();
        let name = version["gitVersion"].as_str().unwrap_or_default().to_owned();
        let answered = !name.is_empty();
        if answered && name != known {
            match apart(version["minor"].as_str().unwrap_or_default(), api::MINOR) {
                Some(apart) if apart > APART_MAX => tracing::warn!(
                    "the server is {name} and this agent {}: {apart} releases apart, and only neighbours are tried",
                    api::VERSION
                ),
                _ => tracing::info!("the server is {name}, and this agent {}", api::VERSION),
            }
            known = name;
        }
        tokio::time::sleep(if answered { EVERY } else { RETRY }).await;
    }
}

/// How many minor versions lie between two; nothing if one is no number. Some write a plus behind theirs.
fn apart(one: &str, other: &str) -> Option<u32> {
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().ok();
    Some(number(one)?.abs_diff(number(other)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_counted_either_way() {
        assert_eq!((apart("36", "36"), apart("37", "36"), apart("35+", "36")), (Some(0), Some(1), Some(1)));
        assert_eq!((apart("39", "36"), apart("", "36"), apart("x", "36")), (Some(3), None, None));
    }
}
