//! What runs to its end before the services, with real programs.

use std::cell::Cell;
use std::fs;

use init::facts::Service;
use init::once::run;

#[track_caller]
fn check(script: &str, expected: Result<&str, &str>) {
    let folder = tempfile::tempdir().unwrap();
    let args = ["-c".to_owned(), script.to_owned()].into();
    let (program, environment) = ("/bin/sh".into(), Vec::new());
    let service = Service { name: "restore".to_owned(), once: None, program, args, environment };
    let calls = Cell::new(0);
    let said = run(&service, folder.path(), &|| calls.set(calls.get() + 1));
    assert_eq!(said.as_deref().map_err(String::as_str), expected, "{script}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    assert!(!script.contains("sleep") || calls.get() > 0, "the watchdog is fed");
}

#[test]
fn what_it_says_is_heard() {
    check("echo restored; echo all >&2", Ok("restored\nall"));
    check("sleep 0.2", Ok(""));
}

#[test]
fn why_it_failed_is_one_sentence() {
    check(
        "echo first; echo 'skerry: failed to read x: no such file' >&2; exit 1",
        Err("failed to read x: no such file"),
    );
    check("exit 3", Err("restore: exit status: 3"));
    check("kill -9 $$", Err("restore: signal: 9 (SIGKILL)"));
}
