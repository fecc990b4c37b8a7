//! `cargo run -p images -- ARCH FILE [NAME…]` writes the test images into one OCI archive.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use images::debian::{Cache, DebianError, Lock};
use images::{Architecture, TABLE, build};

const USAGE: &str = "usage: images arm64|amd64 FILE [PART-OF-A-NAME…]\n       images list\n       images lock --update";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (architecture, file, wanted) = match words.as_slice() {
        [verb] if verb == "list" => {
            for recipe in TABLE {
                println!("{}\n    is {}", recipe.names.join("\n"), recipe.stand_in);
            }
            return ExitCode::SUCCESS;
        }
        [verb, flag] if verb == "lock" && flag == "--update" => {
            return match update() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            };
        }
        [architecture, file, wanted @ ..] if architecture == "arm64" => (Architecture::Arm64, file, wanted),
        [architecture, file, wanted @ ..] if architecture == "amd64" => (Architecture::Amd64, file, wanted),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let takes = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let lock = match Lock::read(&lock_path()) {
        Ok(lock) => lock,
        Err(error) => return fail(&error),
    };
    match build(&lock, &cache(), architecture, takes, &PathBuf::from(file)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn lock_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packages.lock")
}

fn cache() -> Cache {
    Cache::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/cache/debian"))
}

/// Asks the archive for the newest version of each package.
fn update() -> Result<(), DebianError> {
    let path = lock_path();
    let renewed = cache().update(&Lock::read(&path)?)?;
    let failed = |source| DebianError::Disk { action: format!("write {}", path.display()), source };
    std::fs::write(&path, renewed.to_string()).map_err(failed)
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("images: {}", base::chain(error));
    ExitCode::FAILURE
}
