//! What can be asked for on the command line.
//!
//! Start at [`Cli`]; help texts are the doc comments below.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use pki::BootstrapToken;

use crate::backup::event::Job;
use crate::own_node::OwnNode;

/// A whole Kubernetes in one small program.
#[derive(Debug, Parser)]
#[command(name = "skerry", version = api::VERSION, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a cluster: the control plane, and a node on this machine unless told not to.
    ///
    /// Everything lies in the data folder; a kubeconfig for its administrator is written to admin.kubeconfig there.
    /// SIGTERM and Ctrl-C stop it; pods go on running.
    Server(Server),
    /// Run a node of a cluster whose server is another machine.
    ///
    /// It joins with a token once and keeps a key and certificates of its own in the data folder; from then on it needs the
    /// token only if it was away for longer than its certificate lasts. SIGTERM and Ctrl-C stop it; pods go on running.
    Agent(Agent),
    /// Make, list or delete the tokens by which machines join.
    Token(Token),
    /// End all pods of a data folder whose server or agent has stopped, and take their mounts, cgroups and links away.
    ///
    /// The database, images and logs stay. Run it in the network namespace in which the server ran.
    Cleanup(Cleanup),
    /// Take a backup of a cluster: its objects, its keys, and chosen folders, in one file.
    ///
    /// It is meant to run as a CronJob (cluster/skerry/manifests/backup.yaml), and finds the API server by what every pod is
    /// given. Writers need not stop: the file is the cluster at one revision. Before the file gets its name it is restored to a
    /// scratch server and compared; only then old files go. A file holds the cluster's keys and all Secrets: whoever can
    /// read it is the cluster's administrator. It is encrypted only with --key-file.
    Backup(Backup),
    /// Make a blank data folder the cluster of a backup.
    ///
    /// A file that is damaged, cut short, foreign or too new is refused, and so is a folder that holds anything; nothing is
    /// changed then. Clients, nodes, tokens and kubeconfigs of the cluster go on being valid.
    Restore(Restore),
    /// Print logs from the cluster's log store: of every pod there is or was, and of the nodes themselves.
    Logs(crate::telemetry::Logs),
    /// Collect the logs of a node and send them to the cluster's log store: what the pods of a DaemonSet run.
    CollectLogs(crate::telemetry::CollectLogs),
    /// Measure a node, its pods and its board and send that to the cluster's metric store: what the pods of a DaemonSet run.
    CollectMetrics(crate::telemetry::CollectMetrics),
    /// Give the node a signed bundle to update its board with, and mirror what becomes of it: what the pods of a DaemonSet run.
    UpdateAgent(crate::update::agent::UpdateAgent),
    /// Print the version.
    Version,
}

/// Options of `skerry server`.
#[derive(Clone, Debug, Args)]
pub struct Server {
    /// Folder for everything that lasts; made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// Where to serve the API.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:6443")]
    pub listen: SocketAddr,
    /// Before the first start, restore this backup to the data folder, as `skerry restore` does. A data folder that holds
    /// anything is used as it is.
    #[arg(long, value_name = "FILE")]
    pub restore: Option<PathBuf>,
    /// The key of the backup to restore, if it is encrypted.
    #[arg(long, value_name = "FILE", requires = "restore")]
    pub restore_key: Option<PathBuf>,
    /// Restore the backup's volumes too, each below this folder at the path it was backed up from: `/` is where it was.
    #[arg(long, value_name = "FOLDER", requires = "restore")]
    pub restore_volumes: Option<PathBuf>,
    /// Set this machine's clock forward by its agents' while no NTP client keeps it: for boards that have no clock of their own.
    #[arg(long)]
    pub set_clock: bool,
    /// Run the control plane alone, no pods on this machine.
    #[arg(long)]
    pub no_node: bool,
    /// Name of this machine's Node; its hostname if not given.
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this machine's Node; the one it would call the world from if not given.
    #[arg(long, value_name = "ADDR")]
    pub node_ip: Option<std::net::Ipv4Addr>,
    /// A folder of unpacked images, laid out as `image build --preload` lays them out in a board's firmware: they are used where
    /// they lie and never removed. May be repeated; a board's own need not be named.
    #[arg(long, value_name = "FOLDER")]
    pub preloaded: Vec<PathBuf>,
    /// A node that is silent for so long is not ready, and its pods are to leave; upstream's default is 50s.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    /// How long a pod that does not say stays on a node that is not ready; upstream's default is 300.
    #[arg(long, value_name = "SECONDS", default_value_t = apiserver::TOLERATION_SECONDS)]
    pub default_not_ready_toleration_seconds: i64,
    /// How long a pod that does not say stays on a node that cannot be reached; upstream's default is 300.
    #[arg(long, value_name = "SECONDS", default_value_t = apiserver::TOLERATION_SECONDS)]
    pub default_unreachable_toleration_seconds: i64,
    /// So many pods that are over stay, the oldest go; 0 keeps all, and upstream's default is 12500.
    #[arg(long, value_name = "NUMBER", default_value_t = controllers::TERMINATED_POD_GC_THRESHOLD)]
    pub terminated_pod_gc_threshold: usize,
    /// Certificates last so long, the server's own among them, and are renewed when a third of that is left.
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration)]
    pub cluster_signing_duration: Duration,
    /// A token by which machines may join, as long as it is given here: abcdef.0123456789abcdef.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<BootstrapToken>,
    /// The same from a file.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// What this machine says of its Node.
    #[command(flatten)]
    pub own: OwnNode,
}

/// A duration as Kubernetes' flags take it: `20s`, `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    let nanos = api::duration::parse(text).and_then(|nanos| u64::try_from(nanos).ok()).filter(|nanos| *nanos > 0);
    nanos.map(Duration::from_nanos).ok_or_else(|| "not a duration above zero, such as 20s or 1m30s".to_owned())
}

/// Options of `skerry backup`.
#[derive(Clone, Debug, Args)]
pub struct Backup {
    /// Folder for the files, such as a mounted hostPath or NFS volume; it must be there.
    #[arg(long, value_name = "FOLDER")]
    pub to: PathBuf,
    /// Keep at most so many files of this cluster.
    #[arg(long, value_name = "COUNT")]
    pub keep: Option<usize>,
    /// Keep no file older than this, such as 30d or 12h; the newest three stay in any case.
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub keep_age: Option<Duration>,
    /// A folder to put into the file too, such as a mounted volume; may be repeated. Programs may be writing to it: a file is
    /// taken as it is when it is read.
    #[arg(long, value_name = "FOLDER")]
    pub volume: Vec<PathBuf>,
    /// Folder in which the result is restored for a trial, such as a mounted emptyDir; it takes about as much as the cluster's
    /// database. The system's temporary folder if not given.
    #[arg(long, value_name = "FOLDER")]
    pub scratch: Option<PathBuf>,
    /// Encrypt the file with this key, such as a mounted Secret: 32 random bytes or more (head -c 32 /dev/urandom). Keep a copy
    /// outside of the cluster, as nothing can be restored without it.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Tell of a failure in an Event about this Job too, where `kubectl describe job` shows it.
    #[arg(long, value_name = "NAMESPACE/NAME/UID")]
    pub job: Option<Job>,
    /// The cluster, outside of a pod.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Options of `skerry restore`.
#[derive(Clone, Debug, Args)]
pub struct Restore {
    /// The backup.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The folder that `skerry server` will be given; made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// The key of an encrypted backup.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Do nothing, and succeed, if the folder holds anything: what a board does at every start.
    #[arg(long, conflicts_with = "move_aside")]
    pub if_blank: bool,
    /// Take a folder that holds a cluster: its database and keys are moved to replaced-SECONDS in the same folder.
    #[arg(long)]
    pub move_aside: bool,
    /// Restore a volume: its name is the path it was backed up from. The folder must be empty or missing. May be repeated.
    #[arg(long, value_name = "NAME=FOLDER", value_parser = volume)]
    pub volume: Vec<(String, PathBuf)>,
    /// Restore every volume below this folder, each at the path it was backed up from.
    #[arg(long, value_name = "FOLDER")]
    pub volumes_to: Option<PathBuf>,
}

/// An age such as `30d`, `12h`, `45m` or `90s`.
fn age(text: &str) -> Result<Duration, String> {
    let wrong = || "a number and d, h, m or s is wanted, such as 30d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        'd' => 86_400,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(number.checked_mul(seconds).ok_or_else(wrong)?))
}

fn volume(text: &str) -> Result<(String, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or("NAME=FOLDER is wanted")?;
    Ok((name.to_owned(), PathBuf::from(folder)))
}

/// Options of `skerry agent`.
#[derive(Clone, Debug, Args)]
pub struct Agent {
    /// Folder for everything that lasts; made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// The API server.
    #[arg(long, value_name = "https://ADDR:PORT")]
    pub server: String,
    /// The token to join with, which the cluster's administrator made.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<BootstrapToken>,
    /// The same from a file.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Name of this machine's Node; its hostname if not given.
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this machine's Node; the one by which it reaches the server if not given.
    #[arg(long, value_name = "ADDR")]
    pub node_ip: Option<std::net::Ipv4Addr>,
    /// A folder of unpacked images, laid out as `image build --preload` lays them out in a board's firmware: they are used where
    /// they lie and never removed. May be repeated; a board's own need not be named.
    #[arg(long, value_name = "FOLDER")]
    pub preloaded: Vec<PathBuf>,
    /// Set this machine's clock by the server's while no NTP client keeps it: for boards that have no clock of their own.
    #[arg(long)]
    pub set_clock: bool,
    /// File with a secret that encrypts what the node remembers of its pods, Secrets among it; without, root can read it.
    #[arg(long, value_name = "FILE")]
    pub checkpoint_key_file: Option<PathBuf>,
    /// What this machine says of its Node.
    #[command(flatten)]
    pub own: OwnNode,
}

/// Options of `skerry token`.
#[derive(Clone, Debug, Args)]
pub struct Token {
    /// What to do.
    #[command(subcommand)]
    pub verb: TokenVerb,
}

/// What to do with tokens.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token and print it.
    Create {
        /// The server's data folder, where its admin.kubeconfig lies.
        #[arg(long, value_name = "FOLDER")]
        data_dir: PathBuf,
        /// How long it is good; 0 is for ever.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = ttl)]
        ttl: Duration,
        /// What it is for.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// The token to make; a new one if not given.
        token: Option<BootstrapToken>,
    },
    /// Print all tokens.
    List {
        /// The server's data folder, where its admin.kubeconfig lies.
        #[arg(long, value_name = "FOLDER")]
        data_dir: PathBuf,
    },
    /// Delete tokens. Nodes that joined with them stay.
    Delete {
        /// The server's data folder, where its admin.kubeconfig lies.
        #[arg(long, value_name = "FOLDER")]
        data_dir: PathBuf,
        /// Which: whole tokens, or what stands before their dot.
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

/// A duration as Go writes it, such as `24h` or `1h30m`; 0 alone needs no unit.
fn ttl(text: &str) -> Result<Duration, String> {
    let nanos = if text == "0" { Some(0) } else { api::duration::parse(text) };
    nanos
        .and_then(|nanos| u64::try_from(nanos).ok())
        .map(Duration::from_nanos)
        .ok_or_else(|| "want such as 24h or 1h30m".to_owned())
}

/// Options of `skerry cleanup`.
#[derive(Clone, Debug, Args)]
pub struct Cleanup {
    /// The folder that the server was given.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[track_caller]
    fn patience(flags: &[&str], wanted: (u64, i64, i64)) {
        let words = ["skerry", "server", "--data-dir", "/d"].iter().chain(flags);
        let Verb::Server(server) = Cli::try_parse_from(words).expect("right").verb else { panic!("a server") };
        let tolerations = (server.default_not_ready_toleration_seconds, server.default_unreachable_toleration_seconds);
        assert_eq!((server.node_monitor_grace_period.as_secs(), tolerations.0, tolerations.1), wanted);
    }

    #[test]
    fn patience_with_nodes_is_short_here_and_can_be_upstreams() {
        patience(&[], (20, 20, 20));
        let upstream = [
            "--node-monitor-grace-period=50s",
            "--default-not-ready-toleration-seconds=300",
            "--default-unreachable-toleration-seconds=300",
        ];
        patience(&upstream, (50, 300, 300));
    }

    #[test]
    fn ages_are_numbers_with_a_unit() {
        assert_eq!(age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(age("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "d", "30", "3w", "-1d", "99999999999999999d", "1é"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wrong_options_are_named() {
        let error =
            Cli::try_parse_from(["skerry", "server", "--data-dir", "/d", "--listen", "here"]).expect_err("wrong");
        assert!(error.to_string().contains("--listen"), "{error}");
        for wrong in ["20", "-20s", "0s", "soon"] {
            let flag = format!("--node-monitor-grace-period={wrong}");
            let error = Cli::try_parse_from(["skerry", "server", "--data-dir", "/d", &flag]).expect_err(wrong);
            assert!(error.to_string().contains("--node-monitor-grace-period"), "{error}");
        }
        let error = Cli::try_parse_from(["skerry", "server"]).expect_err("missing");
        assert!(error.to_string().contains("--data-dir"), "{error}");
        let given = ["skerry", "agent", "--data-dir", "/d", "--server", "https://a:1", "--token", "short"];
        let error = Cli::try_parse_from(given).expect_err("wrong");
        assert!(error.to_string().contains("abcdef.0123456789abcdef"), "{error}");
    }

    #[test]
    fn a_life_is_written_as_in_go() {
        assert_eq!(ttl("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(ttl("0"), Ok(Duration::ZERO));
        assert!(ttl("soon").is_err() && ttl("-1h").is_err());
    }
}
