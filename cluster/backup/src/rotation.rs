//! What files are called, and which of them go.
//!
//! Start at [`surplus`]; [`siblings`] are the files that it is about.
//!
//! Invariants:
//! * only files named as [`name_of`] names them, of the same cluster, ever go; and never the newest;
//! * newer is what has the higher revision: revisions grow, whatever the clock says;
//! * by age alone the newest [`WHATEVER_THE_CLOCK`] do not go: a clock that jumped years ahead must not empty a folder;
//! * a file that is damaged takes no place: no good one goes because of it. It goes itself as one of its age does.
//!
//! Not here: whether a file is damaged (`file.rs`).

use std::time::Duration;

use base::Timestamp;

use crate::Meta;

/// So many files stay however old they seem.
const WHATEVER_THE_CLOCK: usize = 3;
const SUFFIX: &str = ".backup";

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// At most so many files.
    pub count: Option<usize>,
    /// None older than this.
    pub age: Option<Duration>,
}

/// A file, as its name tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named<'a> {
    revision: u64,
    taken: Timestamp,
    cluster: &'a str,
    name: &'a str,
}

/// The name of a backup's file: cluster, revision, time. In a listing the newest of a cluster comes last.
pub fn name_of(meta: &Meta) -> String {
    let cluster: String = meta.cluster.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    let time: String = meta.time.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("skerry-{cluster}-{:020}-{time}{SUFFIX}", meta.revision)
}

/// The other files of the same cluster, the newest first.
pub fn siblings<'a>(names: &'a [String], newest: &str) -> Vec<&'a str> {
    named(names, newest).into_iter().map(|file| file.name).collect()
}

/// Which of `names` go now that `newest` is there. Nothing can be restored from those that are `damaged`.
pub fn surplus<'a>(names: &'a [String], newest: &str, damaged: &[&str], keep: Keep, now: Timestamp) -> Vec<&'a str> {
    // The newest one has the first place.
    let (mut place, mut gone) = (1, Vec::new());
    for file in named(names, newest) {
        let too_many = keep.count.is_some_and(|count| place >= count.max(1));
        let too_old = keep.age.is_some_and(|age| now.since(file.taken) > age) && place >= WHATEVER_THE_CLOCK;
        if too_many || too_old {
            gone.push(file.name);
        }
        place += usize::from(!damaged.contains(&file.name));
    }
    gone
}

fn named<'a>(names: &'a [String], newest: &str) -> Vec<Named<'a>> {
    let Some(newest) = parse(newest) else { return Vec::new() };
    let mut files: Vec<Named<'a>> = names.iter().filter_map(|name| parse(name)).collect();
    files.retain(|file| file.cluster == newest.cluster && file.name != newest.name);
    files.sort();
    files.reverse();
    files
}

fn parse(name: &str) -> Option<Named<'_>> {
    let mut parts = name.strip_prefix("skerry-")?.strip_suffix(SUFFIX)?.split('-');
    let (cluster, revision, time) = (parts.next()?, parts.next()?, parts.next()?);
    let part = |from: usize, to: usize| time.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(9, 11)?, part(11, 13)?, part(13, 15)?);
    let taken = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z").parse().ok()?;
    (parts.next().is_none()).then_some(Named { revision: revision.parse().ok()?, taken, cluster, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn name(cluster: &str, revision: u64, day: u32) -> String {
        let (version, time) = ("v1".to_owned(), format!("2026-11-{day:02}T01:02:03Z"));
        name_of(&Meta { cluster: cluster.to_owned(), version, revision, time })
    }

    /// Files of the days 1 to `days`, one each; the revisions that go on day `today` when the last has just been made.
    #[track_caller]
    fn check(days: u32, count: Option<usize>, age_days: Option<u64>, today: u32, wanted: &[u64]) {
        let names: Vec<String> = (1..=days).map(|day| name("aaaa", u64::from(day), day)).collect();
        let keep = Keep { count, age: age_days.map(|days| Duration::from_secs(days * DAY)) };
        let now = format!("2026-11-{today:02}T01:02:03Z").parse().expect("a time");
        let gone = surplus(&names, names.last().expect("one at least"), &[], keep, now);
        let revisions: Vec<u64> = gone.iter().map(|name| parse(name).expect("a name").revision).collect();
        assert_eq!(revisions, wanted);
    }

    #[test]
    fn names_tell_what_they_are() {
        assert_eq!(name("ab-cd-ef-01-23", 42, 5), "skerry-abcdef01-00000000000000000042-20261105T010203Z.backup");
    }

    #[test]
    fn so_many_are_kept() {
        check(5, Some(3), None, 5, &[2, 1]);
        check(3, Some(3), None, 5, &[]);
        check(3, Some(1), None, 5, &[2, 1]);
        check(2, Some(0), None, 5, &[1]);
        check(9, None, None, 28, &[]);
    }

    #[test]
    fn the_old_go() {
        check(9, None, Some(3), 9, &[5, 4, 3, 2, 1]);
        check(9, Some(8), Some(6), 9, &[2, 1]);
        check(9, Some(4), Some(60), 9, &[5, 4, 3, 2, 1]);
    }

    #[test]
    fn a_clock_far_ahead_empties_no_folder() {
        check(9, None, Some(3), 28, &[6, 5, 4, 3, 2, 1]);
        check(9, Some(2), Some(3), 28, &[7, 6, 5, 4, 3, 2, 1]);
    }

    /// Five files, of which at most `count` are kept, none older than a day where it is not said; some are damaged.
    #[track_caller]
    fn check_damaged(damaged: &[usize], count: Option<usize>, wanted: &[u64]) {
        let names: Vec<String> = (1..=5).map(|day| name("aaaa", u64::from(day), day)).collect();
        let damaged: Vec<&str> = damaged.iter().map(|day| names[day - 1].as_str()).collect();
        let keep = Keep { count, age: count.is_none().then_some(Duration::from_secs(DAY)) };
        let now = "2026-11-28T01:02:03Z".parse().expect("a time");
        let gone = surplus(&names, &names[4], &damaged, keep, now);
        let revisions: Vec<u64> = gone.iter().map(|name| parse(name).expect("a name").revision).collect();
        assert_eq!(revisions, wanted, "{damaged:?}");
    }

    #[test]
    fn no_good_one_goes_because_of_a_damaged_one() {
        check_damaged(&[], Some(3), &[2, 1]);
        check_damaged(&[4], Some(3), &[1]);
        check_damaged(&[4, 3], Some(3), &[]);
        check_damaged(&[4, 3, 2, 1], Some(2), &[]);
        check_damaged(&[4, 3], None, &[]);
    }

    #[test]
    fn a_damaged_one_goes_as_one_of_its_age_does() {
        check_damaged(&[1], Some(3), &[2, 1]);
        check_damaged(&[2], Some(3), &[2, 1]);
        check_damaged(&[1], None, &[2, 1]);
    }

    #[test]
    fn siblings_are_of_the_same_cluster() {
        let names =
            [name("aaaa", 1, 1), name("bbbb", 9, 1), "notes.txt".to_owned(), name("aaaa", 2, 2), name("aaaa", 3, 3)];
        assert_eq!(siblings(&names, &names[4]), [names[3].as_str(), names[0].as_str()]);
        assert_eq!(siblings(&names, "notes.txt"), Vec::<&str>::new());
    }

    #[test]
    fn a_clock_set_back_does_not_make_the_newest_the_oldest() {
        let names = [name("aaaa", 1, 20), name("aaaa", 2, 21), name("aaaa", 3, 2)];
        let now = "2026-11-02T01:02:03Z".parse().expect("a time");
        let keep = Keep { count: Some(2), age: Some(Duration::from_secs(DAY)) };
        assert_eq!(surplus(&names, &names[2], &[], keep, now), [names[0].as_str()]);
    }

    #[test]
    fn what_is_not_ours_stays() {
        let other = ["notes.txt", "skerry-aaaa-x-20261101T010203Z.backup", "skerry-aaaa-1.backup", ".skerry-aaaa.part"];
        let mut names: Vec<String> = other.iter().map(|name| (*name).to_owned()).collect();
        names.extend([name("bbbb", 1, 1), name("aaaa", 5, 5)]);
        let keep = Keep { count: Some(1), age: Some(Duration::ZERO) };
        assert_eq!(surplus(&names, &names[5], &[], keep, Timestamp::from_seconds(4_000_000_000)), Vec::<&str>::new());
    }
}
