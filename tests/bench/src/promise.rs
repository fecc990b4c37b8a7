//! What we promise, and whether it is kept.
//!
//! Start at [`ALL`], the table; a measurement gives [`Figure`]s. `README.md` shows the same table to users, and a test below
//! compares the two.
//!
//! Not here: measuring.

use std::fmt;

/// On which side of a number a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// Less than this.
    Below(f64),
    /// This or more.
    AtLeast(f64),
}

/// A promised figure.
#[derive(Debug, PartialEq)]
pub struct Promise {
    /// What is measured.
    pub what: &'static str,
    /// What it has to be.
    pub bound: Bound,
    /// In which unit.
    pub unit: &'static str,
    /// The command that measures it.
    pub command: &'static str,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What was promised.
    pub promise: &'static Promise,
    /// What it is.
    pub value: f64,
}

const fn ratio(what: &'static str, bound: f64) -> Promise {
    Promise { what, bound: Bound::AtLeast(bound), unit: "×", command: "bench api" }
}

/// Creates of 50 clients.
pub const CREATE: Promise = ratio("creates, 50 clients, against kube-apiserver with etcd", 3.0);
/// Gets of 50 clients.
pub const GET: Promise = ratio("gets, 50 clients, likewise", 5.0);
/// Lists of 50 clients.
pub const LIST: Promise = ratio("lists of 1,000 objects by label, consistent, 50 clients, likewise", 5.0);
/// Updates of 50 clients.
pub const UPDATE: Promise = ratio("updates, 50 clients, likewise", 3.0);
/// Merge patches of 50 clients.
pub const PATCH: Promise = ratio("merge patches, 50 clients, likewise", 3.0);
/// Deletes of 50 clients.
pub const DELETE: Promise = ratio("deletes, 50 clients, likewise", 3.0);
/// From the start of the process to `/readyz`.
pub const READYZ: Promise =
    Promise { what: "start to `/readyz`", bound: Bound::AtMost(0.3), unit: "s", command: "bench start" };
/// From the start of the process to a Ready node.
pub const NODE_READY: Promise =
    Promise { what: "start to the node Ready", bound: Bound::AtMost(1.0), unit: "s", command: "bench start" };
/// From the request to create a pod to the event that says it runs.
pub const POD: Promise = Promise {
    what: "pod created to Running, image present, median of 20",
    bound: Bound::Below(0.5),
    unit: "s",
    command: "bench pods",
};
/// All our processes.
pub const MEMORY: Promise = Promise {
    what: "memory of all our processes, idle with five pods (PSS, tmpfs, memfd)",
    bound: Bound::AtMost(64.0),
    unit: "MiB",
    command: "bench idle",
};
/// Of one core.
pub const CPU: Promise =
    Promise { what: "CPU while idle, of one core", bound: Bound::AtMost(1.0), unit: "%", command: "bench idle" };
/// In ten minutes.
pub const SYNCS: Promise =
    Promise { what: "fsyncs in ten idle minutes", bound: Bound::Below(60.0), unit: "", command: "bench idle" };
/// In ten minutes.
pub const WRITTEN: Promise = Promise {
    what: "written to the disk in ten idle minutes",
    bound: Bound::AtMost(1.0),
    unit: "MiB",
    command: "bench idle",
};
/// The program.
pub const BINARY: Promise =
    Promise { what: "the binary, stripped", bound: Bound::AtMost(24.0), unit: "MiB", command: "bench size" };
/// The image.
pub const IMAGE: Promise = Promise {
    what: "the image without preloaded images, zstd -19",
    bound: Bound::AtMost(80.0),
    unit: "MiB",
    command: "bench size",
};
/// Each of a thousand.
pub const WATCHER: Promise =
    Promise { what: "memory a watcher, of 1,000", bound: Bound::AtMost(32.0), unit: "KiB", command: "bench watchers" };
/// The last of a thousand.
pub const LAST_WATCHER: Promise = Promise {
    what: "an event at the last of 1,000 watchers, p99",
    bound: Bound::AtMost(64.0),
    unit: "ms",
    command: "bench watchers",
};
/// Both collectors, and what the stores add to the server.
pub const COLLECT_MEMORY: Promise = Promise {
    what: "memory of both collectors and stores, ten pods a line a second (PSS)",
    bound: Bound::Below(24.0),
    unit: "MiB",
    command: "bench telemetry",
};
/// The same, of one core.
pub const COLLECT_CPU: Promise = Promise {
    what: "CPU of both collectors and stores, likewise, of one core",
    bound: Bound::AtMost(1.0),
    unit: "%",
    command: "bench telemetry",
};

/// Every promise this crate measures.
pub const ALL: [&Promise; 19] = [
    &CREATE,
    &GET,
    &LIST,
    &UPDATE,
    &PATCH,
    &DELETE,
    &READYZ,
    &NODE_READY,
    &POD,
    &MEMORY,
    &CPU,
    &SYNCS,
    &WRITTEN,
    &BINARY,
    &IMAGE,
    &WATCHER,
    &LAST_WATCHER,
    &COLLECT_MEMORY,
    &COLLECT_CPU,
];

impl Bound {
    /// Whether `value` is on the right side.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(limit) => value <= limit,
            Bound::Below(limit) => value < limit,
            Bound::AtLeast(limit) => value >= limit,
        }
    }
}

impl Promise {
    /// What was measured.
    pub fn is(&'static self, value: f64) -> Figure {
        Figure { promise: self, value }
    }

    /// The promise as README.md words it, such as `at most 0.3 s`.
    pub fn bound(&self) -> String {
        format!("{} {}", self.bound, self.unit).trim_end().to_owned()
    }
}

impl Figure {
    /// Whether it is what was promised.
    pub fn is_kept(&self) -> bool {
        self.promise.bound.holds(self.value)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::AtMost(limit) => write!(out, "at most {limit}"),
            Bound::Below(limit) => write!(out, "below {limit}"),
            Bound::AtLeast(limit) => write!(out, "at least {limit}"),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = format!("{:.3} {}", self.value, self.promise.unit);
        let verdict = if self.is_kept() { "kept" } else { "NOT KEPT" };
        write!(out, "{:<72} {:>14}   promised {}: {verdict}", self.promise.what, value.trim_end(), self.promise.bound())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_says_whether_it_is_kept() {
        assert!(READYZ.is(0.3).is_kept() && !READYZ.is(0.31).is_kept());
        assert!(POD.is(0.49).is_kept() && !POD.is(0.5).is_kept());
        assert!(GET.is(5.0).is_kept() && !GET.is(4.9).is_kept());
        assert!(SYNCS.is(60.0).to_string().ends_with("60.000   promised below 60: NOT KEPT"));
    }

    #[test]
    fn the_readme_shows_every_promise() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let readme = std::fs::read_to_string(readme).expect("a README");
        for promise in ALL {
            let row = format!("| {} | {} | `{}` |", promise.what, promise.bound(), promise.command);
            assert!(readme.contains(&row), "README.md has no row that begins with\n{row}");
        }
    }
}
