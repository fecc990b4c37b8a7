//! `cargo run -p images -- ARCH FILE [NAME…]` writes the test images into one OCI archive.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use image::debian::{Cache, Lock};
use images::{Architecture, TABLE, build};

const USAGE: &str = "usage: images arm64|amd64 FILE [PART-OF-A-NAME…]\n       images list";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (architecture, file, wanted) = match words.as_slice() {
        [verb] if verb == "list" => {
            for recipe in TABLE {
                println!("{}\n    is {}", recipe.names.join("\n"), recipe.stand_in);
            }
            return ExitCode::SUCCESS;
        }
        [architecture, file, wanted @ ..] if architecture == "arm64" => (Architecture::Arm64, file, wanted),
        [architecture, file, wanted @ ..] if architecture == "amd64" => (Architecture::Amd64, file, wanted),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let takes = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let cache = Cache::new(&top.join("build/cache/debian"));
    let lock = match Lock::read(&top.join("image/packages.lock")) {
        Ok(lock) => lock,
        Err(error) => return fail(&error),
    };
    match build(&lock, &cache, architecture, takes, &PathBuf::from(file)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("images: {}", base::chain(error));
    ExitCode::FAILURE
}
