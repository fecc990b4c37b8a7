//! A few lives, each of some seconds; `cargo sim` lives more of them.

/// Seeds that every run of the tests lives through.
const SEEDS: std::ops::Range<u64> = 1..17;

#[test]
fn clusters_survive_and_settle() {
    for seed in SEEDS {
        let report = sim::run(seed);
        assert!(report.broken.is_empty(), "{report}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    let (first, second) = (sim::run(4711), sim::run(4711));
    assert_eq!(first.to_string(), second.to_string());
}
