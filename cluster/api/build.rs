//! Takes the descriptions of built-in types out of the sources of `k8s-openapi`, for `kubectl explain`.
//!
//! Start at [`main`]. The prose is upstream's and not ours to keep, but the cluster's binary depends on a crate that ships
//! it. Its sources are read as text: compiling the crate a second time, for the build alone, would take a minute, this takes
//! less than a second. What is read is packed into `OUT_DIR/prose`, which `openapi/prose.rs` unpacks.
//!
//! Invariants:
//! * nothing is downloaded, and no source means an empty file: documents then have no descriptions;
//! * the same sources give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// The folder inside the crate with the types of our version.
const VERSION: &str = "src/v1_36";

/// Names another folder with the sources, such as one that `cargo vendor` made.
const OVERRIDE: &str = "SKERRY_K8S_OPENAPI";

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let lock = here.join("../../Cargo.lock");
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/facts.txt");
    println!("cargo::rerun-if-changed={}", lock.display());
    let mut prose = BTreeMap::new();
    if let Some(sources) = sources(&here, &fs::read_to_string(&lock).unwrap_or_default()) {
        // A path that is not there makes cargo run this again, so the prose comes as soon as the sources do.
        println!("cargo::rerun-if-changed={}", sources.display());
        let wanted = wanted(&fs::read_to_string(here.join("src/facts.txt"))?);
        read_folder(&sources, &wanted, &mut prose)?;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("prose");
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    prose.values().try_for_each(|section: &String| packed.write_all(section.as_bytes()))?;
    fs::write(out, packed.finish()?)
}

/// The sources of the version that the lock file names: vendored, or where cargo unpacks what it downloads.
fn sources(here: &Path, lock: &str) -> Option<PathBuf> {
    let (_, entry) = lock.split_once("name = \"k8s-openapi\"\nversion = \"")?;
    let version = entry.split('"').next()?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))?;
    let mut candidates: Vec<PathBuf> = env::var_os(OVERRIDE).map(PathBuf::from).into_iter().collect();
    candidates.push(here.join("../../vendor/k8s-openapi"));
    let mut registries: Vec<PathBuf> =
        fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    registries.sort();
    candidates.extend(registries.iter().map(|registry| registry.join(format!("k8s-openapi-{version}"))));
    candidates.into_iter().map(|folder| folder.join(VERSION)).find(|folder| folder.is_dir())
}

/// Definition names of the types that the facts hold, and of the single values that they refer to.
fn wanted(facts: &str) -> BTreeSet<String> {
    let full = |name: &str| match name.strip_prefix("meta.v1.") {
        Some(rest) => format!("io.k8s.apimachinery.pkg.apis.meta.v1.{rest}"),
        None if name.starts_with("io.") => name.to_owned(),
        None => format!("io.k8s.api.{name}"),
    };
    facts.lines().filter_map(|line| line.strip_prefix("= ")?.split(' ').next()).map(full).collect()
}

fn read_folder(folder: &Path, wanted: &BTreeSet<String>, prose: &mut BTreeMap<String, String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read_folder(&path, wanted, prose)?;
        } else if let Some((name, section)) = read_file(&fs::read_to_string(&path)?)
            && wanted.contains(&name)
        {
            prose.insert(name, section);
        }
    }
    Ok(())
}

/// One file's type: its definition name, and a section of lines. The first line is `= NAME` and the description, the
/// others a field's name and description; a tab between, line ends written `\n`.
fn read_file(text: &str) -> Option<(String, String)> {
    let name = text.lines().next()?.strip_prefix("// Generated from definition ")?.trim().to_owned();
    let (_, schema) = text.split_once("json_schema!(")?;
    let (mut about, mut fields, mut field) = (String::new(), String::new(), "");
    for line in schema.lines() {
        let depth = line.len() - line.trim_start().len();
        let code = line.trim_start();
        // Upstream's generator indents a type's own keys by 12, fields by 16, a field's keys by 20.
        if let (16, Some((key, _))) = (depth, code.strip_prefix('"').and_then(|rest| rest.split_once("\": "))) {
            field = key;
        }
        let said = code
            .strip_prefix("\"description\": ")
            .or_else(|| code.strip_prefix("schema_obj.ensure_object().insert(\"description\".into(), "));
        match (depth, said.and_then(literal)) {
            (12, Some(words)) => about = words,
            (20, Some(words)) if !field.is_empty() => fields.push_str(&format!("{field}\t{words}\n")),
            _ => {}
        }
    }
    Some((name.clone(), format!("= {name}\t{about}\n{fields}")))
}

/// The text of a Rust string literal at the start of `code`, with line ends and backslashes still escaped.
fn literal(code: &str) -> Option<String> {
    let mut out = String::new();
    let mut characters = code.strip_prefix('"')?.chars();
    loop {
        match characters.next()? {
            '"' => return Some(out),
            '\\' => match characters.next()? {
                '"' => out.push('"'),
                't' => out.push_str("    "),
                'n' => out.push_str("\\n"),
                '\\' => out.push_str("\\\\"),
                _ => {}
            },
            c => out.push(c),
        }
    }
}
