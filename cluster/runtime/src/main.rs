//! Helper and keeper as a program of their own, for tests; what ships calls the same functions from `skerry`.
#![forbid(unsafe_code)]

fn main() {
    let mut words = std::env::args_os().skip(1);
    let code = match words.next().as_deref().and_then(|word| word.to_str()) {
        Some("helper") => runtime::helper_main(words),
        Some("keeper") => keeper::main(words),
        _ => {
            eprintln!("usage: runtime-helper helper|keeper …");
            2
        }
    };
    std::process::exit(code);
}
