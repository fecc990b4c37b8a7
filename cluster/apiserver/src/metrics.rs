//! Counts requests, for `/metrics`.
//!
//! Start at [`Metrics::count`].

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use http::{Method, StatusCode};

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

    /// The counts in Prometheus' text form.
    pub(crate) fn text(&self) -> String {
        let mut out = String::from(
            "# HELP apiserver_request_total Requests answered, by verb and code.\n# TYPE apiserver_request_total counter\n",
        );
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((verb, code), count) in &*requests {
            // Writing to memory cannot fail.
            let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",verb=\"{verb}\"}} {count}");
        }
        out
    }
}
