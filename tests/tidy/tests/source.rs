//! Runs every rule on this checkout.

use std::path::Path;

#[test]
fn the_source_keeps_the_rules_of_the_house() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tree = tidy::Tree::read(&root).expect("the checkout can be read");
    assert!(tree.crates.len() > 10, "the checkout was found");
    let found = tidy::all(&tree);
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}
