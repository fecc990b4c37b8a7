//! `cargo run --release -p bench -- COMMAND` measures what we promise; `--help` lists the commands.
//!
//! Start at [`Command`].
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use base::chain;
use bench::promise::{Figure, POD};
use bench::{BenchError, Load, compare, idle, median, namespace, pods, size, start, telemetry, watchers};
use clap::{Parser, Subcommand};
use client::Kubeconfig;

/// Measures the figures that README.md promises, and says of each whether it is kept.
///
/// Build what is measured first: `cargo build --release -p skerry`. All commands but `api` and `size` start a server in a
/// network namespace of its own, which needs root, and remove all traces of it. Figures are worth something on a quiet
/// machine only.
#[derive(Parser)]
#[command(name = "bench", max_term_width = 100)]
struct Flags {
    #[command(subcommand)]
    command: Command,
    /// Fail (exit code 1) if a figure is not what was promised.
    #[arg(long, global = true)]
    check: bool,
    /// The program to measure [default: `skerry` beside this program].
    #[arg(long, global = true, value_name = "FILE")]
    program: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Put the same load on API servers in turns: operations a second, latencies, and the last one's ratio to the first.
    ///
    /// ConfigMaps with 256 bytes of data; each client has a connection of its own and sends its next request when the last one
    /// is answered; a list is 1,000 objects by label. The namespaces skerry-bench and skerry-bench-created are used and left behind.
    Api {
        /// Kubeconfigs; the reference first.
        #[arg(required = true, value_name = "KUBECONFIG")]
        kubeconfigs: Vec<PathBuf>,
        /// Clients at once.
        #[arg(long, default_value_t = 50)]
        clients: usize,
        /// Seconds that each verb is measured in a round.
        #[arg(long, default_value_t = 15)]
        seconds: u64,
        /// Seconds that each verb runs before.
        #[arg(long, default_value_t = 3)]
        warm_up: u64,
        /// Rounds; the median counts.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Only these verbs; `get`, `list`, `update` and `patch` need none of the others, `delete` needs `create`.
        #[arg(long, value_delimiter = ',')]
        verbs: Vec<String>,
    },
    /// Start `skerry server` with an empty folder, kill it, start it again: time to /readyz and to the node Ready.
    Start {
        /// So often; the median counts.
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// Create pods one after the other: time from the request to the event that says Running.
    Pods {
        /// So many; the median counts.
        #[arg(long, default_value_t = 20)]
        count: usize,
        #[command(flatten)]
        images: Images,
    },
    /// Run five sleeping pods and look on: memory, processor time, fsyncs, bytes written.
    ///
    /// Memory is PSS from smaps_rollup of the server, its keeper and helpers, with what memfds and tmpfs mounts below the data
    /// folder hold. fsync, fdatasync, sync_file_range, sync and syncfs are counted by the kernel's tracepoints, bytes by
    /// /proc/PID/io. The pods' own processes do not count.
    Idle {
        /// Sleeping pods.
        #[arg(long, default_value_t = 5)]
        pods: usize,
        /// Seconds to wait before.
        #[arg(long, default_value_t = 60)]
        settle: u64,
        /// Seconds to look on. What is promised for ten minutes is told as if it were ten minutes.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        #[command(flatten)]
        images: Images,
    },
    /// The size of the program and, if given, of a disk image compressed with zstd -19.
    Size {
        /// A disk image, built without preloaded images: `cargo run -p image -- build --preload EMPTY-FOLDER --board BOARD`.
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
    },
    /// Watch one collection a thousand times: memory of each watcher, and the time until the last one sees an event.
    Watchers {
        /// Watchers, fifty to a connection.
        #[arg(long, default_value_t = 1000)]
        count: usize,
        /// Events, one after the other.
        #[arg(long, default_value_t = 100)]
        events: usize,
    },
    /// Run pods that write a line a second, look on without collectors and then with both: what collecting costs.
    ///
    /// Memory is PSS of all our processes with collectors less that without, processor time likewise: what the server does
    /// for its stores counts, what it does anyway does not.
    Telemetry {
        /// Pods that write.
        #[arg(long, default_value_t = 10)]
        pods: usize,
        /// Seconds to wait before each look.
        #[arg(long, default_value_t = 60)]
        settle: u64,
        /// Seconds to look on, twice.
        #[arg(long, default_value_t = 300)]
        seconds: u64,
        #[command(flatten)]
        images: Images,
    },
}

#[derive(clap::Args)]
struct Images {
    /// An archive with the image of busybox: `cargo run -p images -- amd64 FILE busybox` makes one.
    #[arg(long, value_name = "FILE")]
    images: PathBuf,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags).and_then(|figures| told(&figures, flags.check)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn told(figures: &[Figure], check: bool) -> Result<(), BenchError> {
    for figure in figures {
        println!("{figure}");
    }
    let broken: Vec<&str> =
        figures.iter().filter(|figure| !figure.is_kept()).map(|figure| figure.promise.what).collect();
    if check && !broken.is_empty() {
        return Err(BenchError::NotKept(broken.join("; ")));
    }
    Ok(())
}

fn run(flags: &Flags) -> Result<Vec<Figure>, BenchError> {
    if !matches!(flags.command, Command::Api { .. } | Command::Size { .. }) {
        // Before there are threads: they inherit it.
        namespace::enter()?;
    }
    let runtime = tokio::runtime::Runtime::new();
    let runtime = runtime.map_err(|error| BenchError::Broken { what: "threads".into(), detail: error.to_string() })?;
    runtime.block_on(measure(&flags.command, &program(flags)))
}

fn program(flags: &Flags) -> PathBuf {
    let beside = || std::env::current_exe().unwrap_or_default().with_file_name("skerry");
    flags.program.clone().unwrap_or_else(beside)
}

async fn measure(command: &Command, program: &Path) -> Result<Vec<Figure>, BenchError> {
    match command {
        Command::Api { kubeconfigs, clients, seconds, warm_up, rounds, verbs } => {
            let servers: Result<Vec<_>, _> = kubeconfigs.iter().map(|path| Kubeconfig::read(path)).collect();
            let load = Load {
                clients: *clients,
                time: Duration::from_secs(*seconds),
                warm_up: Duration::from_secs(*warm_up),
                rounds: *rounds,
                verbs: verbs.clone(),
            };
            let table = compare(&servers?, &load, Arc::new(sys::SystemClock)).await?;
            print!("{table}");
            Ok(table.figures())
        }
        Command::Start { runs } => {
            let starts = start::starts(program, *runs).await?;
            for (name, starts) in [("empty folder", &starts.first), ("after kill -9", &starts.again)] {
                for start in starts {
                    println!("{name}: /readyz {:?}, node Ready {:?}", start.readyz, start.node_ready);
                }
            }
            Ok(starts.figures())
        }
        Command::Pods { count, images } => {
            let mut cluster = pods::Cluster::start(program, &images.images).await?;
            let latencies = pods::latencies(&mut cluster, *count).await?;
            println!("{latencies:.1?}");
            Ok(vec![POD.is(median(latencies).as_secs_f64())])
        }
        Command::Idle { pods, settle, seconds, images } => {
            let mut cluster = pods::Cluster::start(program, &images.images).await?;
            let (settle, period) = (Duration::from_secs(*settle), Duration::from_secs(*seconds));
            let idle = idle::idle(&mut cluster, *pods, settle, period).await?;
            println!("{idle:#?}");
            Ok(idle.figures())
        }
        Command::Size { image } => {
            let image = image.as_ref().map(|image| size::image(image)).transpose()?;
            Ok([size::binary(program)?].into_iter().chain(image).collect())
        }
        Command::Watchers { count, events } => {
            let watching = watchers::watchers(program, *count, *events).await?;
            println!("{watching:#?}");
            Ok(watching.figures())
        }
        Command::Telemetry { pods, settle, seconds, images } => {
            let mut cluster = pods::Cluster::start(program, &images.images).await?;
            let (settle, period) = (Duration::from_secs(*settle), Duration::from_secs(*seconds));
            let telemetry = telemetry::telemetry(&mut cluster, *pods, settle, period).await?;
            println!("{telemetry:#?}");
            Ok(telemetry.figures())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Flags::command().debug_assert();
    }
}
