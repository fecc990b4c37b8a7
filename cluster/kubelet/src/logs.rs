//! Container logs on disk: reading the CRI's format, tails, rotation.
//!
//! Start at [`parse`] and [`Shape`]; [`rotate`] keeps files small, [`Orphans`] holds logs a while longer than their containers.
//! A line is `TIME stdout|stderr P|F TEXT`; `P` marks a part of a line that was too long.
//!
//! A log that is held has an empty file `0.held` beside it. Who collects logs writes there how many bytes of the log it has
//! stored; when that is all of them, the log need not be held for longer than [`HELD_READ`].
//!
//! Invariants:
//! * a rotated file is older than the live one and named so that sorting by name sorts by age; its name ends in the number of
//!   bytes that were written before it, so that who collects logs knows what is missing when files are gone;
//! * a line that cannot be understood is passed on as it is, never dropped.
//!
//! Not here: writing logs (the runtime's keeper), serving them (`server`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Monotonic, Timestamp};

/// A log is rotated when it is larger; upstream's default.
pub const FILE_BYTES_MAX: u64 = 10 << 20;
/// Files kept of one container, the live one included; upstream's default.
pub const FILES_MAX: usize = 5;
/// So long a log outlives its container: whoever collects logs has the time to read its end.
pub const HELD: Duration = Duration::from_secs(300);

/// And so long once it was read: a collector's store that loses its power asks again for what it had not written yet.
pub const HELD_READ: Duration = Duration::from_secs(15);
/// The file beside a log that is held.
const HELD_FILE: &str = "held";

/// One line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, as text.
    pub time: &'a [u8],
    /// Whether it came by stderr.
    pub stderr: bool,
    /// Whether the text goes on in the next line.
    pub partial: bool,
    /// The text, without the newline.
    pub text: &'a [u8],
}

/// Reads one line of the CRI's format, without its newline.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
    let text = parts.next().unwrap_or_default();
    let stderr = match stream {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(Line { time, stderr, partial, text })
}

/// What a reader of a log wants to see of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Only what came since then.
    pub since: Option<Timestamp>,
    /// The time before each line.
    pub timestamps: bool,
    /// At most so many bytes in all.
    pub limit_bytes: Option<u64>,
    /// Only one of the two streams: `Some(true)` for stderr.
    pub stderr_only: Option<bool>,
}

/// Turns lines of a file into what a reader sees.
#[derive(Clone, Debug)]
pub struct Renderer {
    shape: Shape,
    left: Option<u64>,
    inside_line: bool,
}

impl Renderer {
    /// Begins with nothing written.
    pub fn new(shape: Shape) -> Renderer {
        Renderer { left: shape.limit_bytes, shape, inside_line: false }
    }

    /// Whether the limit is reached.
    pub fn full(&self) -> bool {
        self.left == Some(0)
    }

    /// Appends what the reader sees of a line (given without its newline).
    pub fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let begin = out.len();
        match parse(line) {
            None => {
                out.extend_from_slice(line);
                out.push(b'\n');
            }
            Some(parsed) => self.parsed(&parsed, out),
        }
        if let Some(left) = &mut self.left {
            let fits = (*left).min((out.len() - begin) as u64);
            out.truncate(begin + fits as usize);
            *left -= fits;
        }
    }

    fn parsed(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        if self.shape.stderr_only.is_some_and(|stderr| stderr != line.stderr) {
            return;
        }
        if let Some(since) = self.shape.since {
            let time = std::str::from_utf8(line.time).ok().and_then(|time| time.parse::<Timestamp>().ok());
            if time.is_some_and(|time| time < since) {
                return;
            }
        }
        if self.shape.timestamps && !self.inside_line {
            out.extend_from_slice(line.time);
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.inside_line = line.partial;
    }
}

/// All files of a log, the oldest first, the live one last.
pub fn files(live: &Path) -> Vec<PathBuf> {
    let mut rotated = rotated(live);
    if live.exists() {
        rotated.push(live.to_owned());
    }
    rotated
}

fn rotated(live: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (live.parent(), live.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// Removes a log and its rotated files.
pub fn remove(live: &Path) {
    for file in files(live).into_iter().chain([live.with_extension(HELD_FILE)]) {
        let _ = fs::remove_file(file);
    }
}

/// Renames a log that has grown too large and removes the oldest. Says whether the runtime must open a new file: it must
/// also if it was told so before and did not.
pub fn rotate(live: &Path, bytes_max: u64, files_max: usize, now: Timestamp) -> io::Result<bool> {
    let old = rotated(live);
    let Ok(about) = fs::metadata(live) else { return Ok(!old.is_empty()) };
    if about.len() <= bytes_max {
        return Ok(false);
    }
    let start = start_after(&old);
    // One place is for the live file, one for the one that is about to be renamed.
    for file in old.iter().take((old.len() + 2).saturating_sub(files_max)) {
        fs::remove_file(file)?;
    }
    let stamp: String = now.rfc3339_nanos().chars().filter(char::is_ascii_digit).collect();
    let mut target = live.as_os_str().to_owned();
    target.push(format!(".{stamp}-{start}"));
    fs::rename(live, target)?;
    Ok(true)
}

/// How many bytes of a log lie before its live file. A name without a number is of an older version of ours.
fn start_after(rotated: &[PathBuf]) -> u64 {
    rotated.iter().fold(0, |before, file| {
        let start = file.to_str().and_then(|name| name.rsplit_once('-')).and_then(|(_, start)| start.parse().ok());
        start.unwrap_or(before) + fs::metadata(file).map_or(0, |about| about.len())
    })
}

/// Logs whose containers are gone.
#[derive(Debug, Default)]
pub struct Orphans(BTreeMap<PathBuf, Since>);

#[derive(Clone, Copy, Debug)]
struct Since {
    gone: Monotonic,
    read: Option<Monotonic>,
}

impl Orphans {
    /// Whether none was held at the last look.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was held long enough, of all logs there are and those that containers still have. A pod's folder counts as a log.
    /// `is_read` is asked of logs that are held.
    pub fn overdue(
        &mut self,
        found: Vec<PathBuf>,
        kept: &BTreeSet<PathBuf>,
        is_read: impl Fn(&Path) -> bool,
        now: Monotonic,
    ) -> Vec<PathBuf> {
        let since = |path: PathBuf| {
            let before = self.0.get(&path).copied();
            let read = is_read(&path).then(|| before.and_then(|before| before.read).unwrap_or(now));
            (path, Since { gone: before.map_or(now, |before| before.gone), read })
        };
        self.0 = found.into_iter().filter(|path| !kept.contains(path)).map(since).collect();
        let is_over = |since: &Since| {
            now.since(since.gone) >= HELD || since.read.is_some_and(|read| now.since(read) >= HELD_READ)
        };
        self.0.iter().filter(|(_, since)| is_over(since)).map(|(path, _)| path.clone()).collect()
    }
}

/// Whether a log that is held was read to its end. Who collects logs is told that it is held where it was not.
pub fn is_read(live: &Path) -> bool {
    if live.extension().is_none_or(|extension| extension != "log") {
        return false;
    }
    let mark = live.with_extension(HELD_FILE);
    match fs::read_to_string(&mark) {
        Ok(told) => {
            let bytes = start_after(&rotated(live)) + fs::metadata(live).map_or(0, |about| about.len());
            told.trim().parse::<u64>().is_ok_and(|read| read >= bytes)
        }
        // Without the mark it is held for as long as any; where none can be made, nobody can do anything about it.
        Err(_) => {
            let _ = fs::write(mark, "");
            false
        }
    }
}

/// The live logs below the folder of all logs, and the pods' folders that have none.
pub fn all(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = BTreeSet::new();
    for pod in entries(folder).filter(|path| path.is_dir()) {
        let mut logs =
            entries(&pod).flat_map(|container| entries(&container)).filter_map(|file| live_of(&file)).peekable();
        if logs.peek().is_none() {
            found.insert(pod.clone());
        }
        found.extend(logs);
    }
    found.into_iter().collect()
}

/// The live log that a file belongs to: `0.log.STAMP` to `0.log`.
fn live_of(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    let end = name.find(".log")? + ".log".len();
    Some(file.with_file_name(&name[..end]))
}

/// Removes what [`Orphans`] gave up: a log, or a folder without any.
pub fn let_go(path: &Path) {
    if path.extension().is_some_and(|extension| extension == "log") {
        remove(path);
        // The container's folder and the pod's, if these were their last; other logs keep them.
        for folder in path.ancestors().skip(1).take(2) {
            let _ = fs::remove_dir(folder);
        }
        return;
    }
    for container in fs::read_dir(path).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(container.path());
    }
    let _ = fs::remove_dir(path);
}

/// Where in a file its last `lines` lines begin.
pub fn tail_offset(file: &mut fs::File, lines: usize) -> io::Result<u64> {
    const BLOCK: u64 = 64 << 10;
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let (mut at, mut missing) = (end, lines);
    // A newline at the very end ends the last line and begins none.
    let mut skip_last = true;
    while at > 0 {
        let size = BLOCK.min(at);
        at -= size;
        let mut block = vec![0; size as usize];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut block)?;
        for index in (0..block.len()).rev() {
            let position = at + index as u64;
            if block[index] != b'\n' || std::mem::take(&mut skip_last) && position + 1 == end {
                continue;
            }
            missing -= 1;
            if missing == 0 {
                return Ok(position + 1);
            }
        }
    }
    Ok(0)
}

/// The text of the last lines of a log, both streams, for termination messages.
pub fn tail(live: &Path, lines: usize, bytes: usize) -> Option<String> {
    let mut file = fs::File::open(live).ok()?;
    let offset = tail_offset(&mut file, lines).ok()?;
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut raw = Vec::new();
    file.take(1 << 20).read_to_end(&mut raw).ok()?;
    let (mut renderer, mut out) = (Renderer::new(Shape::default()), Vec::new());
    for line in raw.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        renderer.line(line, &mut out);
    }
    let begin = out.len().saturating_sub(bytes);
    Some(String::from_utf8_lossy(&out[begin..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-23T20:00:00.000000001Z stdout F one\n\
                       2026-11-23T20:00:01.000000000Z stderr P tw\n\
                       2026-11-23T20:00:01.500000000Z stderr F o\n\
                       2026-11-23T20:00:02.000000000Z stdout F \n";

    fn render(shape: Shape) -> String {
        let (mut renderer, mut out) = (Renderer::new(shape), Vec::new());
        for line in LOG.lines() {
            renderer.line(line.as_bytes(), &mut out);
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn logs_are_shown_as_asked() {
        let shape = Shape::default;
        assert_eq!(render(shape()), "one\ntwo\n\n");
        let since = "2026-11-23T20:00:01.2Z".parse().ok();
        assert_eq!(render(Shape { since, ..shape() }), "o\n\n");
        assert_eq!(render(Shape { limit_bytes: Some(5), ..shape() }), "one\nt");
        assert_eq!(render(Shape { stderr_only: Some(true), ..shape() }), "two\n");
        assert_eq!(
            render(Shape { timestamps: true, ..shape() }),
            "2026-11-23T20:00:00.000000001Z one\n2026-11-23T20:00:01.000000000Z two\n2026-11-23T20:00:02.000000000Z \n"
        );
    }

    #[test]
    fn tails_are_found_from_the_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0.log");
        fs::write(&path, LOG).expect("written");
        let mut file = fs::File::open(&path).expect("a log");
        let line = LOG.lines().next().expect("a line").len() as u64 + 1;
        for (lines, wanted) in
            [(0, LOG.len() as u64), (1, LOG.rfind("2026").expect("a line") as u64), (3, line), (4, 0), (9, 0)]
        {
            assert_eq!(tail_offset(&mut file, lines).expect("read"), wanted, "{lines} lines");
        }
        assert_eq!(tail(&path, 80, 4).as_deref(), Some("wo\n\n"));
    }

    #[test]
    fn large_logs_are_renamed_and_the_oldest_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0.log");
        for turn in 0..8 {
            fs::write(&path, vec![b'x'; 20]).expect("written");
            assert!(rotate(&path, 10, 3, Timestamp::from_seconds(turn)).expect("rotated"));
            assert!(!path.exists());
        }
        assert!(
            rotate(&path, 10, 3, Timestamp::from_seconds(8)).expect("nothing to rename"),
            "still to be opened anew"
        );
        fs::write(&path, "x").expect("written");
        assert!(!rotate(&path, 10, 3, Timestamp::from_seconds(9)).expect("left alone"));
        let names: Vec<String> = files(&path).iter().map(|file| file.display().to_string()).collect();
        assert!(names[0].ends_with("-120") && names[1].ends_with("-140"), "{names:?}");
        assert_eq!(files(&path).len(), 3);
        remove(&path);
        assert!(files(&path).is_empty());
    }

    /// Which logs are let go of: of those found and those kept, at each of these seconds.
    fn check_orphans(looks: &[(&str, &str, u64, &str)]) {
        let looks: Vec<_> =
            looks.iter().map(|(found, kept, second, expected)| (*found, *kept, "", *second, *expected)).collect();
        check_read_orphans(&looks);
    }

    /// The same where some were read.
    fn check_read_orphans(looks: &[(&str, &str, &str, u64, &str)]) {
        let mut orphans = Orphans::default();
        for (found, kept, read, second, expected) in looks {
            let paths = |names: &str| names.split_whitespace().map(PathBuf::from).collect::<Vec<_>>();
            let now = Monotonic::default().plus(Duration::from_secs(*second));
            let is_read = |path: &Path| paths(read).iter().any(|read| read == path);
            let overdue = orphans.overdue(paths(found), &paths(kept).into_iter().collect(), is_read, now);
            assert_eq!(overdue, paths(expected), "at {second}");
        }
    }

    #[test]
    fn logs_outlive_their_containers_for_a_while() {
        check_orphans(&[("a b", "a b", 0, ""), ("a b", "a", 100, ""), ("a b", "a", 399, ""), ("a b", "a", 400, "b")]);
        // Who comes back is not an orphan any more.
        check_orphans(&[
            ("a", "", 0, ""),
            ("a", "a", 299, ""),
            ("a", "", 400, ""),
            ("a", "", 699, ""),
            ("a", "", 700, "a"),
        ]);
    }

    #[test]
    fn logs_that_were_read_go_early() {
        check_read_orphans(&[
            ("a b", "", "", 0, ""),
            ("a b", "", "a", 10, ""),
            ("a b", "", "a", 24, ""),
            // What was read is not any more: the store lost its end.
            ("a b", "", "", 25, ""),
            ("a b", "", "a", 30, ""),
            ("a b", "", "a", 45, "a"),
        ]);
    }

    #[test]
    fn a_collector_says_how_much_it_has_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let (log, mark) = (dir.path().join("0.log"), dir.path().join("0.held"));
        fs::write(dir.path().join("0.log.2026-100"), "1234567890").expect("written");
        fs::write(&log, "12345").expect("written");
        assert!(!is_read(&log) && mark.exists(), "a collector is told that it is held");
        assert!(!is_read(&log), "nobody has read it");
        for (told, expected) in [("114", false), ("115", true), ("x", false)] {
            fs::write(&mark, told).expect("written");
            assert_eq!(is_read(&log), expected, "{told}");
        }
        assert!(!is_read(dir.path()), "a folder is none");
        remove(&log);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    }

    #[test]
    fn logs_and_empty_folders_are_found_and_let_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = |pod: &str, file: &str| {
            let folder = dir.path().join(pod).join("app");
            fs::create_dir_all(&folder).expect("made");
            fs::write(folder.join(file), "x").expect("written");
            folder.join(file)
        };
        let (one, two) = (log("ns_a_1", "0.log"), log("ns_a_1", "1.log"));
        log("ns_a_1", "0.log.2026-0");
        fs::create_dir_all(dir.path().join("ns_b_2/app")).expect("made");
        let empty = dir.path().join("ns_b_2");
        assert_eq!(all(dir.path()), [one.clone(), two.clone(), empty.clone()]);
        let_go(&one);
        let_go(&empty);
        assert_eq!(all(dir.path()), [two.clone()]);
        let_go(&two);
        assert!(all(dir.path()).is_empty() && fs::read_dir(dir.path()).expect("readable").next().is_none());
    }
}
