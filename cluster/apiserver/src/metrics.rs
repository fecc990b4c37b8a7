//! Counts requests, for `/metrics`.
//!
//! Start at [`Metrics::count`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use base::exposition::{Exposition, Family};
use http::{Method, StatusCode};

const REQUESTS: Family = Family { name: "apiserver_request_total", help: "Requests answered, by verb and code." };
const BUILD: Family = Family { name: "kubernetes_build_info", help: "The version. The value is always 1." };

/// What was counted since the start.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl Metrics {
    /// One request more.
    pub(crate) fn count(&self, method: &Method, status: StatusCode) {
        let method = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((method, status.as_u16())).or_default() += 1;
    }

    /// Tells the counts.
    pub(crate) fn tell(&self, told: &mut Exposition) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((verb, code), count) in &*requests {
            told.add(REQUESTS, &[("code", &code.to_string()), ("verb", verb)], *count as f64);
        }
        told.add(BUILD, &[("git_version", api::VERSION)], 1.0);
    }
}
