//! How large what people download is.
//!
//! Start at [`binary`] and [`image`].

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use sys::Doing;

use crate::BenchError;
use crate::promise::{BINARY, Figure, IMAGE};

const MIB: f64 = 1_048_576.0;

/// The program's file as it is.
pub fn binary(program: &Path) -> Result<Figure, BenchError> {
    Ok(BINARY.is(fs::metadata(program).doing_to("find", program)?.len() as f64 / MIB))
}

/// A disk image as it is downloaded: compressed. Takes minutes.
pub fn image(disk: &Path) -> Result<Figure, BenchError> {
    let file = fs::File::open(disk).doing_to("open", disk)?;
    let compressed = tempfile::NamedTempFile::new().doing("make a file for the compressed image")?;
    let out = compressed.reopen().doing("open the compressed image")?;
    let mut zstd = Command::new("zstd");
    zstd.args(["-19", "-T0", "-q"]).stdin(file).stdout(out).stderr(Stdio::inherit());
    let status = zstd.status().doing("run zstd")?;
    if !status.success() {
        return Err(BenchError::Broken { what: format!("zstd -19 of {}", disk.display()), detail: status.to_string() });
    }
    let bytes = compressed.as_file().metadata().doing("look at the compressed image")?.len();
    Ok(IMAGE.is(bytes as f64 / MIB))
}
