//! Every verb of kubectl that needs no node, as `verbs.txt` lists them, against a server on loopback.
//!
//! The kubectl is the installed one, or what SKERRY_KUBECTL names. Needs no root.

use std::path::Path;
use std::process::Command;

use conformance::{Plain, kubectl};

/// The minor version of kubectl.
fn minor() -> u32 {
    let output = Command::new(kubectl()).args(["version", "--client", "-o", "json"]).output();
    let text = String::from_utf8(output.expect("kubectl is installed").stdout).expect("JSON is text");
    let digits = text.split("\"minor\": \"").nth(1).unwrap_or_default();
    digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a minor version")
}

/// The words of a line; single quotes keep spaces.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted, mut begun) = (vec![String::new()], false, false);
    for letter in line.trim().chars() {
        match letter {
            '\'' => (quoted, begun) = (!quoted, true),
            ' ' if !quoted && begun => {
                words.push(String::new());
                begun = false;
            }
            ' ' if !quoted => {}
            letter => {
                words.last_mut().expect("there is always a word").push(letter);
                begun = true;
            }
        }
    }
    words
}

#[test]
fn every_verb_does_what_it_does_elsewhere() {
    let (server, minor) = (Plain::start(Path::new(env!("CARGO_BIN_EXE_skerry-under-test")), &[]), minor());
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let mut wrong = Vec::new();
    for line in include_str!("../verbs.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (asked, expected) = line.split_once(" => ").unwrap_or((line, ""));
        let words = words(asked);
        let [sign, since, words @ ..] = words.as_slice() else { panic!("a line has a sign and a version: {line}") };
        if since.parse::<u32>().expect("a version") > minor {
            continue;
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (ok, text) = server.kubectl_in(&manifests, &words);
        if ok != (sign == "+") || !text.contains(expected) {
            wrong.push(format!("{line}\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "kubectl 1.{minor}:\n{}\n{}", wrong.join("\n"), server.log());
}
