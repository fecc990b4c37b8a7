//! Pods that write numbered lines, and whether each line of theirs is in the central store once.
//!
//! Start at [`Lines::script`]; [`stored`] asks the store for what it has of a pod, and [`each_once`] looks at the numbers.
//!
//! Not here: who collects, and what happens to them meanwhile.

use std::fmt::Write;

use serde_json::Value;

use crate::User;

/// With pauses between them, so that there is something to break in the middle of.
const PARTS: usize = 4;

/// What a pod writes.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    /// So many lines.
    pub count: usize,
    /// What each is longer by than its number.
    pub pad: usize,
    /// After each of the parts in which it writes them.
    pub pause_seconds: u32,
}

impl Lines {
    /// For `sh -c`, in an image that has awk.
    pub fn script(&self) -> String {
        let Lines { count, pause_seconds, .. } = self;
        let parts: Vec<String> = (0..PARTS).map(|part| part.to_string()).collect();
        format!(
            "for part in {}; do awk -v part=$part 'BEGIN {{ first = int({count} * part / {PARTS}); last = int({count} * (part + 1) / {PARTS}); \
             for (i = first + 1; i <= last; i++) printf \"line %d {}\\n\", i }}'; sleep {pause_seconds}; done",
            parts.join(" "),
            self.padding()
        )
    }

    /// What stands behind the number.
    pub fn padding(&self) -> String {
        "x".repeat(self.pad)
    }
}

/// The number of a line.
pub fn number(line: &str) -> Option<usize> {
    line.strip_prefix("line ")?.split(' ').next()?.parse().ok()
}

/// Whether these are the numbers from 1 to `count`, in order; what is wrong first otherwise.
pub fn each_once(numbers: &[usize], count: usize) -> Result<(), String> {
    let wrong = numbers.iter().zip(1..).position(|(number, wanted)| *number != wanted);
    match wrong {
        Some(place) => Err(format!("line {} stands where {} belongs", numbers[place], place + 1)),
        None if numbers.len() != count => Err(format!("{} lines are there, and not {count}", numbers.len())),
        None => Ok(()),
    }
}

/// The numbers of a pod's lines that the central store has, in the order of time; an error where bytes are missing.
pub fn stored(user: &User, namespace: &str, pod: &str) -> Result<Vec<usize>, String> {
    let (mut numbers, mut place) = (Vec::new(), String::new());
    loop {
        let mut path = format!("/apis/telemetry.skerry.dev/v1/namespaces/{namespace}/logs?pod={pod}");
        write!(path, "&continue={place}").expect("a string takes everything");
        let (ok, said) = user.kubectl_words(&["get", "--raw", &path]);
        let page: Value = serde_json::from_str(&said).map_err(|_| format!("the log store says {said}"))?;
        if !ok {
            return Err(format!("the log store says {said}"));
        }
        read(&page, &mut numbers)?;
        match page["metadata"]["continue"].as_str() {
            Some(more) if !more.is_empty() => more.clone_into(&mut place),
            _ => return Ok(numbers),
        }
    }
}

fn read(page: &Value, numbers: &mut Vec<usize>) -> Result<(), String> {
    for item in page["items"].as_array().into_iter().flatten() {
        if !item["missing"].is_null() {
            return Err(format!("{} bytes are missing after line {:?}", item["missing"], numbers.last()));
        }
        numbers.push(item["text"].as_str().and_then(number).ok_or_else(|| format!("{item} is no numbered line"))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_writes_every_line_once() {
        for count in [8, 11] {
            let lines = Lines { count, pad: 3, pause_seconds: 0 };
            let said =
                std::process::Command::new("sh").args(["-c", &lines.script()]).output().expect("there is a shell");
            let text = String::from_utf8(said.stdout).expect("text");
            let wanted: String = (1..=count).map(|number| format!("line {number} xxx\n")).collect();
            assert_eq!(text, wanted);
        }
    }

    #[track_caller]
    fn check(numbers: &[usize], wrong: &str) {
        assert_eq!(each_once(numbers, 3).err().unwrap_or_default(), wrong);
    }

    #[test]
    fn what_is_wrong_first_is_told() {
        check(&[1, 2, 3], "");
        check(&[1, 2], "2 lines are there, and not 3");
        check(&[1, 3], "line 3 stands where 2 belongs");
        check(&[1, 2, 2, 3], "line 2 stands where 3 belongs");
        check(&[1, 2, 3, 4], "4 lines are there, and not 3");
    }

    #[test]
    fn a_page_gives_numbers_and_names_what_is_missing() {
        let mut numbers = Vec::new();
        let page = serde_json::json!({"items": [{"text": "line 1 xx"}, {"text": "line 2 xx"}]});
        assert_eq!((read(&page, &mut numbers), numbers.as_slice()), (Ok(()), &[1, 2][..]));
        let gap = serde_json::json!({"items": [{"text": "", "missing": 70}]});
        assert_eq!(read(&gap, &mut numbers), Err("70 bytes are missing after line Some(2)".to_owned()));
        let strange = serde_json::json!({"items": [{"text": "lines"}]});
        assert!(read(&strange, &mut numbers).is_err());
    }
}
