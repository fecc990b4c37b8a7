//! The committed facts are what the generator writes.
//!
//! The inputs are upstream's and not part of the project. Name them and the comparison runs; otherwise the test says so
//! and passes: `SKERRY_GEN_DEFINITIONS` is `_definitions.json` of v1.36 out of the PyPI package kubernetes-validate,
//! `SKERRY_GEN_GO` the folder with the Go sources `api`, `apimachinery`, `apiextensions-apiserver`, `kube-aggregator`.

use std::{env, fs};

const COMMITTED: &str = include_str!("../../src/facts.txt");

#[test]
fn the_committed_facts_are_what_the_generator_writes() {
    let (Some(definitions), Some(go)) = (env::var_os("SKERRY_GEN_DEFINITIONS"), env::var_os("SKERRY_GEN_GO")) else {
        println!("not compared: SKERRY_GEN_DEFINITIONS and SKERRY_GEN_GO are not set");
        return;
    };
    let text = fs::read_to_string(&definitions).expect("SKERRY_GEN_DEFINITIONS names a readable file");
    let facts = r#gen::facts(&text, go.as_ref()).expect("the inputs belong together");
    let line = facts.lines().zip(COMMITTED.lines()).position(|(new, old)| new != old);
    assert!(facts == COMMITTED, "run gen again: the first line that differs is {:?}", line.map(|line| line + 1));
}

#[test]
fn inputs_that_do_not_belong_together_are_named() {
    let error = r#gen::facts("{}", "/nowhere".as_ref()).expect_err("no definitions");
    assert!(error.contains("$defs"), "{error}");
    let error = r#gen::facts("{\"$defs\": {}}", "/nowhere".as_ref()).expect_err("no Go sources");
    assert!(error.contains("/nowhere"), "{error}");
}
