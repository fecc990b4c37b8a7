//! From one state of a table to another by what differs, so that a change costs what it changes, and sets that rules add to
//! keep what they know.
//!
//! Start at [`steps`], the difference as a value; [`update`] sends it. [`take_over`] is for a table that an earlier process
//! left: its rules are replaced, its sets that forget are kept.
//!
//! Invariants:
//! * equal tables have no steps, and no steps send nothing;
//! * a step refers only to what is there by then, and removes only what nobody refers to any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use super::{
    Batch, Body, CREATE, Chain, DELETE_CHAIN, DELETE_RULE, DELETE_SET, DELETE_SET_ELEMENTS, DUMP, Element, FAMILY_IPV4,
    GET_CHAIN, GET_SET, Message, NEW_CHAIN, NEW_SET_ELEMENTS, Protocol, SUBSYSTEM, Set, Socket, Table, apply,
    attributes, chain_body, exists,
};

/// A step of a change, in the order in which the kernel takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// These elements of the set are no longer wanted, or lead elsewhere.
    RemoveElements(&'a str, Vec<Element>),
    /// The chain's rules are removed.
    Flush(&'a str),
    /// A chain that was not there; its rules come later.
    AddChain(&'a Chain),
    /// A set that was not there; its elements come later.
    AddSet(&'a Set),
    /// The chain's rules.
    AddRules(&'a Chain),
    /// These elements come.
    AddElements(&'a str, Vec<Element>),
    /// Nobody goes to the chain any more.
    RemoveChain(&'a str),
    /// Nobody looks into the set any more.
    RemoveSet(&'a str),
}

/// What brings the kernel from `before` to `after`; `None` if only replacing the whole table does, because a chain moved to
/// another hook or a set is of another form.
pub fn steps<'a>(before: &'a Table, after: &'a Table) -> Option<Vec<Step<'a>>> {
    let (old_chains, new_chains) = (by_name(&before.chains, chain_name), by_name(&after.chains, chain_name));
    let (old_sets, new_sets) = (by_name(&before.sets, set_name), by_name(&after.sets, set_name));
    let form = |set: &Set| (set.key.clone(), set.verdicts, set.forgets_after);
    let is_other = |name: &&str| old_chains[*name].hook != new_chains[*name].hook;
    let is_changed = |name: &&str| form(old_sets[*name]) != form(new_sets[*name]);
    if before.name != after.name
        || old_chains.keys().filter(|name| new_chains.contains_key(*name)).any(is_other)
        || old_sets.keys().filter(|name| new_sets.contains_key(*name)).any(is_changed)
    {
        return None;
    }
    let rules = |chains: &BTreeMap<&'a str, &'a Chain>, name: &str| chains.get(name).map(|chain| &chain.rules);
    let differs = |name: &&&str| rules(&old_chains, name) != rules(&new_chains, name);
    let mut steps: Vec<Step<'a>> = Vec::new();
    let (mut coming, mut going) = (Vec::new(), Vec::new());
    for name in old_sets.keys().chain(new_sets.keys()).collect::<BTreeSet<_>>() {
        let (gone, come) = elements(old_sets.get(name).copied(), new_sets.get(name).copied());
        going.extend((!gone.is_empty()).then_some(Step::RemoveElements(name, gone)));
        coming.extend((!come.is_empty()).then_some(Step::AddElements(name, come)));
    }
    steps.extend(going);
    steps.extend(old_chains.keys().filter(differs).map(|name| Step::Flush(name)));
    let added_chains = new_chains.values().filter(|chain| !old_chains.contains_key(chain.name.as_str()));
    steps.extend(added_chains.map(|chain| Step::AddChain(chain)));
    let added_sets = new_sets.values().filter(|set| !old_sets.contains_key(set.name.as_str()));
    steps.extend(added_sets.map(|set| Step::AddSet(set)));
    let filled = new_chains.keys().filter(differs).map(|name| new_chains[name]).filter(|chain| !chain.rules.is_empty());
    steps.extend(filled.map(Step::AddRules));
    steps.extend(coming);
    steps.extend(old_chains.keys().filter(|name| !new_chains.contains_key(*name)).map(|name| Step::RemoveChain(name)));
    steps.extend(old_sets.keys().filter(|name| !new_sets.contains_key(*name)).map(|name| Step::RemoveSet(name)));
    // A chain that had no rules need not be emptied.
    steps.retain(|step| !matches!(step, Step::Flush(name) if old_chains[name].rules.is_empty()));
    Some(steps)
}

/// Brings the kernel, which has `before`, to `after`. If it has something else by now, the table is replaced as a whole.
pub fn update(before: &Table, after: &Table) -> io::Result<()> {
    let Some(steps) = steps(before, after) else { return apply(after) };
    if steps.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    steps.iter().for_each(|step| batch.step(&after.name, step));
    batch.send().or_else(|_| apply(after))
}

/// Brings the kernel to `table` from whatever an earlier process left in a table of that name.
pub fn take_over(table: &Table) -> io::Result<()> {
    if !exists(&table.name)? {
        return apply(table);
    }
    let (chains, sets) = (names(&table.name, GET_CHAIN, 3)?, names(&table.name, GET_SET, 2)?);
    let kept = |set: &Set| set.forgets_after.is_some() && sets.contains(&set.name);
    let mut batch = Batch::new();
    batch.push(DELETE_RULE, 0, named(&table.name));
    let known = |name: &str| table.sets.iter().find(|set| set.name == name);
    for set in sets.iter().filter(|name| !known(name).is_some_and(kept)) {
        batch.push(DELETE_SET_ELEMENTS, 0, named(&table.name).text(2, set));
        batch.step(&table.name, &Step::RemoveSet(set));
    }
    table.chains.iter().for_each(|chain| batch.step(&table.name, &Step::AddChain(chain)));
    table.sets.iter().filter(|set| !kept(set)).for_each(|set| batch.step(&table.name, &Step::AddSet(set)));
    table.chains.iter().for_each(|chain| batch.step(&table.name, &Step::AddRules(chain)));
    let elements = table.sets.iter().map(|set| Step::AddElements(&set.name, set.elements.clone()));
    elements.for_each(|step| batch.step(&table.name, &step));
    let wanted: BTreeSet<&str> = table.chains.iter().map(chain_name).collect();
    let gone = chains.iter().filter(|name| !wanted.contains(name.as_str()));
    gone.for_each(|name| batch.step(&table.name, &Step::RemoveChain(name)));
    batch.send().or_else(|_| apply(table))
}

/// The names of a table's chains or sets in the kernel; sets without a name of their own go with their rules.
fn names(table: &str, kind: u16, attribute: u16) -> io::Result<Vec<String>> {
    let dump = Message { kind: SUBSYSTEM << 8 | kind, flags: DUMP, body: named(table) };
    let answers = Socket::open(Protocol::Netfilter)?.request(dump)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let read = answers.iter().filter_map(|answer| {
        let list = attributes(answer.body.get(4..)?);
        let of = |wanted: u16| list.iter().find(|(kind, _)| *kind == wanted).map(|(_, bytes)| text(bytes));
        // A dump of chains is of all tables.
        of(1).filter(|of_table| of_table == table).and_then(|_| of(attribute))
    });
    Ok(read.filter(|name| !name.starts_with("__")).collect())
}

fn named(table: &str) -> Body {
    Body::with(&[FAMILY_IPV4, 0, 0, 0]).text(1, table)
}

/// What goes out of a set and what comes in; nothing of one that rules add to.
fn elements(before: Option<&Set>, after: Option<&Set>) -> (Vec<Element>, Vec<Element>) {
    let all = |set: Option<&Set>| -> BTreeMap<_, _> {
        let planned = set.filter(|set| set.forgets_after.is_none());
        planned
            .into_iter()
            .flat_map(|set| set.elements.iter().map(|(key, verdict)| (key.clone(), verdict.clone())))
            .collect()
    };
    let (before, after) = (all(before), all(after));
    let without = |one: &BTreeMap<_, _>, other: &BTreeMap<_, _>| {
        let differing = one.iter().filter(|(key, verdict)| other.get(*key) != Some(*verdict));
        differing.map(|(key, verdict): (&Vec<_>, &Option<_>)| (key.clone(), verdict.clone())).collect()
    };
    (without(&before, &after), without(&after, &before))
}

fn by_name<'a, T>(all: &'a [T], name: impl Fn(&'a T) -> &'a str) -> BTreeMap<&'a str, &'a T> {
    all.iter().map(|each| (name(each), each)).collect()
}

fn chain_name(chain: &Chain) -> &str {
    &chain.name
}

fn set_name(set: &Set) -> &str {
    &set.name
}

impl Batch {
    fn step(&mut self, table: &str, step: &Step<'_>) {
        match step {
            Step::RemoveElements(set, some) => self.elements(DELETE_SET_ELEMENTS, table, set, some),
            Step::Flush(chain) => self.push(DELETE_RULE, 0, named(table).text(2, chain)),
            Step::AddChain(chain) => self.push(NEW_CHAIN, CREATE, chain_body(table, chain)),
            Step::AddSet(set) => self.set(table, set),
            Step::AddRules(chain) => chain.rules.iter().for_each(|rule| self.rule(table, &chain.name, rule)),
            Step::AddElements(set, some) => self.elements(NEW_SET_ELEMENTS, table, set, some),
            Step::RemoveChain(chain) => self.push(DELETE_CHAIN, 0, named(table).text(3, chain)),
            Step::RemoveSet(set) => self.push(DELETE_SET, 0, named(table).text(2, set)),
        }
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = |some: &[Element]| {
            let key = |(values, _): &Element| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" . ");
            some.iter().map(key).collect::<Vec<_>>().join(", ")
        };
        match self {
            Step::RemoveElements(set, some) => write!(out, "delete element {set} {{ {} }}", keys(some)),
            Step::Flush(chain) => write!(out, "flush chain {chain}"),
            Step::AddChain(chain) => write!(out, "add chain {}", chain.name),
            Step::AddSet(set) => write!(out, "add set {}", set.name),
            Step::AddRules(chain) => write!(out, "add rules {} ({})", chain.name, chain.rules.len()),
            Step::AddElements(set, some) => write!(out, "add element {set} {{ {} }}", keys(some)),
            Step::RemoveChain(chain) => write!(out, "delete chain {chain}"),
            Step::RemoveSet(set) => write!(out, "delete set {set}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::Links;
    use crate::net::nft::{
        Hook, HookKind, HookPoint, Part, Rule, Statement, Transport, Value, Verdict, count_elements, count_rules,
        has_chain,
    };
    use std::net::UdpSocket;
    use std::time::Duration;

    /// A table that leads each port to a chain of its own, which remembers who came: `53>a 54>b`.
    fn table(ports: &str) -> Table {
        let ports: Vec<(u16, &str)> = ports
            .split_whitespace()
            .filter_map(|each| each.split_once('>'))
            .map(|(port, chain)| (port.parse().expect("a port"), chain))
            .collect();
        let key = |port: u16| vec![Value::Protocol(Transport::Udp), Value::Port(port)];
        let to = |chain: &str| Some(Verdict::Goto(chain.to_owned()));
        let parts = vec![Part::Protocol, Part::Port];
        let mut sets = vec![Set {
            name: "ports".into(),
            key: parts.clone(),
            elements: ports.iter().map(|(port, chain)| (key(*port), to(chain))).collect(),
            verdicts: true,
            forgets_after: None,
        }];
        let hook = Some(Hook { kind: HookKind::Filter, at: HookPoint::Output, priority: 0 });
        let look = Rule(vec![Statement::VerdictOf(parts, "ports".into())]);
        let mut chains = vec![Chain { name: "output".into(), hook, rules: vec![look] }];
        for chain in ports.iter().map(|(_, chain)| *chain).collect::<BTreeSet<_>>() {
            let (known, forgets_after) = (format!("known-{chain}"), Some(Duration::from_secs(60)));
            let (key, elements) = (vec![Part::Source], Vec::new());
            let rules = vec![Rule(vec![Statement::Remember(known.clone())])];
            chains.push(Chain { name: chain.to_owned(), hook: None, rules });
            sets.push(Set { name: known, key, elements, verdicts: false, forgets_after });
        }
        Table { name: "t".into(), sets, chains }
    }

    #[track_caller]
    fn check(before: &str, after: &str, want: &str) {
        let (before, after) = (table(before), table(after));
        let steps = steps(&before, &after).expect("they are of one form");
        assert_eq!(steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), want);
    }

    #[test]
    fn equal_tables_have_no_steps() {
        check("53>a 54>b", "53>a 54>b", "");
    }

    #[test]
    fn only_what_differs_is_touched() {
        let come = "add chain b; add set known-b; add rules b (1); add element ports { udp . 54 }";
        check("53>a", "53>a 54>b", come);
        let go = "delete element ports { udp . 54 }; flush chain b; delete chain b; delete set known-b";
        check("53>a 54>b", "53>a", go);
        check(
            "53>a 54>b",
            "53>b 54>a",
            "delete element ports { udp . 53, udp . 54 }; add element ports { udp . 53, udp . 54 }",
        );
    }

    #[test]
    fn what_is_of_another_form_is_replaced() {
        let mut other = table("53>a");
        other.sets[1].forgets_after = None;
        assert_eq!(steps(&table("53>a"), &other), None);
    }

    /// Runs `body` in a network namespace of its own, whose loopback is up.
    fn apart(body: impl FnOnce() + Send + 'static) {
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            let mut links = Links::open().expect("links");
            let loopback = links.find("lo").expect("links").expect("a loopback");
            links.up(loopback.index).expect("up");
            body();
        })
        .join()
        .expect("the thread ends well");
    }

    #[test]
    fn the_kernel_goes_along_and_sets_keep_what_they_know() {
        apart(|| {
            let known = |set: &str| count_elements("t", set).expect("a dump");
            update(&Table { name: "t".into(), ..Table::default() }, &table("53>a"))
                .expect("it replaces what is not there");
            UdpSocket::bind("127.0.0.1:0").expect("a socket").send_to(b"x", "127.0.0.1:53").expect("sent");
            assert_eq!(known("known-a"), 1);
            update(&table("53>a"), &table("53>b 54>a")).expect("updated");
            assert_eq!((known("ports"), known("known-a"), known("known-b")), (2, 1, 0));
            assert_eq!(count_rules("t").expect("a dump"), 3);
            update(&table("53>b 54>a"), &table("54>a")).expect("updated");
            assert!(!has_chain("t", "b").expect("an answer"));
            assert_eq!((known("ports"), known("known-a")), (1, 1));

            take_over(&table("54>a 55>c")).expect("taken over");
            assert_eq!((known("ports"), known("known-a"), known("known-c")), (2, 1, 0));
            assert_eq!(count_rules("t").expect("a dump"), 3);
            update(&table("54>a 55>c"), &table("")).expect("updated");
            assert_eq!((known("ports"), count_rules("t").expect("a dump")), (0, 1));
        });
    }

    #[test]
    fn a_table_that_somebody_emptied_is_replaced() {
        apart(|| {
            apply(&table("53>a")).expect("applied");
            crate::net::nft::remove("t").expect("removed");
            update(&table("53>a"), &table("53>a 54>b")).expect("replaced");
            assert_eq!(count_elements("t", "ports").expect("a dump"), 2);
        });
    }
}
