//! `gen DEFINITIONS GO > ../src/facts.txt`: writes the facts of the built-in types.
//!
//! DEFINITIONS is `_definitions.json` of one version out of the PyPI package kubernetes-validate; GO is a folder with the
//! Go sources of the same version, `api`, `apimachinery`, `apiextensions-apiserver` and `kube-aggregator` (Debian's
//! golang-k8s-*-dev packages hold the first two, the repositories of the kubernetes organisation all four).
//!
//! Not here: how the facts are made (`lib.rs`).
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    match run() {
        Ok(facts) => {
            print!("{facts}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("gen: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, String> {
    let mut arguments = env::args_os().skip(1);
    let (Some(definitions), Some(go)) = (arguments.next(), arguments.next()) else {
        return Err("name the definitions file and the folder of the Go sources".to_owned());
    };
    let text = fs::read_to_string(&definitions)
        .map_err(|error| format!("failed to read {}: {error}", definitions.display()))?;
    r#gen::facts(&text, go.as_ref())
}
