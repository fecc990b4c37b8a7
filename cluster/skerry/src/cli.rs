//! What can be asked for on the command line.
//!
//! Start at [`Cli`]; help texts are the doc comments below.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
    /// End all pods of a data folder whose server has stopped, and take their mounts, cgroups and links away.
    ///
    /// The database, images and logs stay. Run it in the network namespace in which the server ran.
    Cleanup(Cleanup),
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
    /// Run the control plane alone, no pods on this machine.
    #[arg(long)]
    pub no_node: bool,
    /// Name of this machine's Node; its hostname if not given.
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this machine's Node; the one it would call the world from if not given.
    #[arg(long, value_name = "ADDR")]
    pub node_ip: Option<std::net::Ipv4Addr>,
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

    #[test]
    fn wrong_options_are_named() {
        let error =
            Cli::try_parse_from(["skerry", "server", "--data-dir", "/d", "--listen", "here"]).expect_err("wrong");
        assert!(error.to_string().contains("--listen"), "{error}");
        let error = Cli::try_parse_from(["skerry", "server"]).expect_err("missing");
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
}
