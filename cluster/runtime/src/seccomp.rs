//! System call filters: the default one, and those people bring as JSON.
//!
//! Start at [`default_profile`] and [`parse`]; [`compile`] makes the program the kernel runs. All of it is pure.
//!
//! The default names what containers may not call, and everything the kernels of our table do not know: that comes to the
//! same as the usual list of what they may, is shorter, and says `ENOSYS` to what is newer, so that programs fall back.
//!
//! Invariants:
//! * a foreign instruction set (32-bit calls on a 64-bit machine) ends the process: its numbers mean something else;
//! * what cannot be said in a filter is an error, never left out.

use serde::Deserialize;
use sys::rights::{Capabilities, FILTER_INSTRUCTIONS_MAX, Instruction};

use crate::syscalls::SYSCALLS;

const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const TRACE: u32 = 0x7ff0_0000;
const ERRNO: u32 = 0x0005_0000;
const TRAP: u32 = 0x0003_0000;
const KILL_THREAD: u32 = 0;
const KILL_PROCESS: u32 = 0x8000_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: (u32, &str) = (0xc000_003e, "SCMP_ARCH_X86_64");
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: (u32, &str) = (0xc000_00b7, "SCMP_ARCH_AARCH64");

/// Calls of the x32 ABI have this bit; it has no containers.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

/// What is asked of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// Of these bits, exactly those are set.
    Masked(u64, u64),
}

/// Calls, on what condition, and what happens then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    numbers: Vec<u32>,
    /// All must hold.
    conditions: Vec<(u8, Compare)>,
    action: u32,
}

/// A filter as a value: the first rule that fits decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    rules: Vec<Rule>,
    default: u32,
    /// Numbers above this are newer than the profile.
    newest: Option<u32>,
}

fn number(name: &str) -> Option<u32> {
    let at = SYSCALLS.binary_search_by_key(&name, |(each, _, _)| each).ok()?;
    let (_, x86_64, aarch64) = SYSCALLS[at];
    u32::try_from(if cfg!(target_arch = "x86_64") { x86_64 } else { aarch64 }).ok()
}

fn newest() -> u32 {
    SYSCALLS.iter().filter_map(|(name, _, _)| number(name)).max().unwrap_or(0)
}

/// New namespaces, by any call.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// A socket family that reaches past the network namespace, to the machine's host.
const AF_VSOCK: u64 = 40;

/// What no container calls without the capability beside it; where there is none, with no capability.
const REFUSED: &[(&str, &str)] = &[
    (
        "SYS_ADMIN",
        "fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree \
         open_tree_attr pivot_root quotactl quotactl_fd setdomainname sethostname setns umount umount2 unshare bpf \
         perf_event_open lsm_set_self_attr",
    ),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    ("SYS_BOOT", "reboot kexec_load kexec_file_load"),
    ("SYS_MODULE", "delete_module init_module finit_module create_module query_module get_kernel_syms"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp process_vm_readv process_vm_writev process_madvise pidfd_getfd"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_adjtime"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node move_pages migrate_pages"),
    ("SYSLOG", "syslog"),
    (
        "",
        "add_key keyctl request_key nfsservctl swapon swapoff sysfs _sysctl uselib userfaultfd ustat vserver afs_syscall \
         security tuxcall getpmsg putpmsg io_uring_setup io_uring_enter io_uring_register",
    ),
];

/// The runtime's default, for a container with these capabilities.
pub(crate) fn default_profile(capabilities: Capabilities) -> Profile {
    let has = |name: &str| Capabilities::named(name).is_some_and(|one| capabilities.0 & one.0 != 0);
    let allowed_by_another: Vec<&str> = REFUSED
        .iter()
        .filter(|(capability, _)| has(capability))
        .flat_map(|(_, names)| names.split_whitespace())
        .collect();
    let mut rules = Vec::new();
    let mut rule = |names: &[&str], conditions: &[(u8, Compare)], action: u32| {
        let numbers: Vec<u32> = names.iter().filter_map(|name| number(name)).collect();
        if !numbers.is_empty() {
            rules.push(Rule { numbers, conditions: conditions.to_vec(), action });
        }
    };
    for (capability, names) in REFUSED {
        let refused: Vec<&str> = names.split_whitespace().filter(|name| !allowed_by_another.contains(name)).collect();
        if !has(capability) {
            rule(&refused, &[], ERRNO | EPERM);
        }
    }
    if !has("SYS_ADMIN") {
        rule(&["clone"], &[(0, Compare::Masked(CLONE_NAMESPACES, 0))], ALLOW);
        rule(&["clone"], &[], ERRNO | EPERM);
        // Its flags lie in memory, where a filter cannot look: programs fall back to clone.
        rule(&["clone3"], &[], ERRNO | ENOSYS);
    }
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rule(&["personality"], &[(0, Compare::Equal(persona))], ALLOW);
    }
    rule(&["personality"], &[], ERRNO | EPERM);
    rule(&["socket"], &[(0, Compare::Equal(AF_VSOCK))], ERRNO | EPERM);
    Profile { rules, default: ALLOW, newest: Some(newest()) }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
struct ArchMap {
    architecture: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Reads a profile in the OCI's JSON.
pub(crate) fn parse(text: &[u8]) -> Result<Profile, String> {
    let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let mut named = document.architectures.iter().chain(document.arch_map.iter().map(|each| &each.architecture));
    let names_none = document.architectures.is_empty() && document.arch_map.is_empty();
    if !names_none && !named.any(|each| each == ARCHITECTURE.1) {
        return Err(format!("it is not for {}", ARCHITECTURE.1));
    }
    let mut rules = Vec::new();
    for entry in &document.syscalls {
        let rule = Rule {
            // A call this machine does not have needs no rule.
            numbers: entry.names.iter().filter_map(|name| number(name)).collect(),
            conditions: entry.args.iter().flatten().map(condition).collect::<Result<_, _>>()?,
            action: action(&entry.action, entry.errno_ret)?,
        };
        if !rule.numbers.is_empty() {
            rules.push(rule);
        }
    }
    let default = action(&document.default_action, document.default_errno_ret)?;
    Ok(Profile { rules, default, newest: None })
}

fn condition(argument: &Argument) -> Result<(u8, Compare), String> {
    if argument.index > 5 {
        return Err(format!("there is no argument {}", argument.index));
    }
    let value = argument.value;
    let compare = match argument.op.as_str() {
        "SCMP_CMP_EQ" => Compare::Equal(value),
        "SCMP_CMP_NE" => Compare::NotEqual(value),
        "SCMP_CMP_LT" => Compare::Less(value),
        "SCMP_CMP_LE" => Compare::LessOrEqual(value),
        "SCMP_CMP_GT" => Compare::Greater(value),
        "SCMP_CMP_GE" => Compare::GreaterOrEqual(value),
        "SCMP_CMP_MASKED_EQ" => Compare::Masked(value, argument.value_two),
        other => return Err(format!("unknown comparison {other}")),
    };
    Ok((argument.index, compare))
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | errno.unwrap_or(EPERM).min(0xfff),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_TRACE" => TRACE | errno.unwrap_or(EPERM).min(0xffff),
        other => return Err(format!("unknown action {other}")),
    })
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where the call's number, the instruction set and the arguments lie.
const AT_NUMBER: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;
const AT_ARGUMENTS: u32 = 16;

fn statement(code: u16, operand: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, operand }
}

fn jump(code: u16, operand: u32, if_true: usize, if_false: usize) -> Instruction {
    // Jumps span one rule of one call, which is a few dozen instructions.
    let short = |distance: usize| u8::try_from(distance).expect("a rule is short");
    Instruction { code, if_true: short(if_true), if_false: short(if_false), operand }
}

/// The program the kernel runs.
pub(crate) fn compile(profile: &Profile) -> Result<Vec<Instruction>, String> {
    let mut program = vec![
        statement(LOAD, AT_ARCHITECTURE),
        jump(JUMP_EQUAL, ARCHITECTURE.0, 1, 0),
        statement(RETURN, KILL_PROCESS),
        statement(LOAD, AT_NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([jump(JUMP_GREATER_OR_EQUAL, X32_BIT, 0, 1), statement(RETURN, ERRNO | ENOSYS)]);
    if let Some(newest) = profile.newest {
        program.extend([jump(JUMP_GREATER, newest, 0, 1), statement(RETURN, ERRNO | ENOSYS)]);
    }
    for rule in &profile.rules {
        for number in &rule.numbers {
            let body = body(rule);
            if let [only] = body[..] {
                program.extend([jump(JUMP_EQUAL, *number, 0, 1), only]);
                continue;
            }
            program.push(jump(JUMP_EQUAL, *number, 0, body.len()));
            program.extend(body);
        }
    }
    program.push(statement(RETURN, profile.default));
    if program.len() > FILTER_INSTRUCTIONS_MAX {
        return Err(format!("it takes {} instructions, of {FILTER_INSTRUCTIONS_MAX} at most", program.len()));
    }
    Ok(program)
}

/// The conditions and the verdict; falls through, with the number loaded again, where a condition fails.
fn body(rule: &Rule) -> Vec<Instruction> {
    if rule.conditions.is_empty() {
        return vec![statement(RETURN, rule.action)];
    }
    // From the end: each condition has to know how far it is to the way out.
    let mut tail = vec![statement(RETURN, rule.action)];
    for (index, compare) in rule.conditions.iter().rev() {
        let mut with = check(*index, *compare, tail.len());
        with.extend(tail);
        tail = with;
    }
    tail.push(statement(LOAD, AT_NUMBER));
    tail
}

/// Tests one argument: goes on if it holds, else skips `rest` more instructions. Both architectures are little-endian.
fn check(index: u8, compare: Compare, rest: usize) -> Vec<Instruction> {
    let low = AT_ARGUMENTS + 8 * u32::from(index);
    let high = low + 4;
    let halves = |value: u64| (value as u32, (value >> 32) as u32);
    match compare {
        Compare::Equal(value) => {
            let (l, h) = halves(value);
            vec![
                statement(LOAD, high),
                jump(JUMP_EQUAL, h, 0, rest + 2),
                statement(LOAD, low),
                jump(JUMP_EQUAL, l, 0, rest),
            ]
        }
        Compare::NotEqual(value) => {
            let (l, h) = halves(value);
            vec![statement(LOAD, high), jump(JUMP_EQUAL, h, 0, 2), statement(LOAD, low), jump(JUMP_EQUAL, l, rest, 0)]
        }
        Compare::Masked(mask, value) => {
            let ((ml, mh), (l, h)) = (halves(mask), halves(value));
            vec![
                statement(LOAD, high),
                statement(AND, mh),
                jump(JUMP_EQUAL, h, 0, rest + 3),
                statement(LOAD, low),
                statement(AND, ml),
                jump(JUMP_EQUAL, l, 0, rest),
            ]
        }
        Compare::Greater(value) => ordered(low, high, value, JUMP_GREATER, true, rest),
        Compare::GreaterOrEqual(value) => ordered(low, high, value, JUMP_GREATER_OR_EQUAL, true, rest),
        Compare::Less(value) => ordered(low, high, value, JUMP_GREATER_OR_EQUAL, false, rest),
        Compare::LessOrEqual(value) => ordered(low, high, value, JUMP_GREATER, false, rest),
    }
}

/// The upper halves decide unless they are equal; `code` compares the lower ones, and must come out as `wanted`.
fn ordered(low: u32, high: u32, value: u64, code: u16, wanted: bool, rest: usize) -> Vec<Instruction> {
    let (l, h) = (value as u32, (value >> 32) as u32);
    let (above, below) = if wanted { (3, rest + 2) } else { (rest + 3, 2) };
    let (yes, no) = if wanted { (0, rest) } else { (rest, 0) };
    vec![
        statement(LOAD, high),
        jump(JUMP_GREATER, h, above, 0),
        jump(JUMP_EQUAL, h, 0, below),
        statement(LOAD, low),
        jump(code, l, yes, no),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(ARCHITECTURE.0.to_le_bytes());
        data.extend([0; 8]);
        arguments.iter().for_each(|argument| data.extend(argument.to_le_bytes()));
        let (mut at, mut word) = (0, 0u32);
        loop {
            let step = program[at];
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { step.if_true } else { step.if_false });
            match step.code {
                LOAD => {
                    let from = step.operand as usize;
                    word = u32::from_le_bytes(data[from..from + 4].try_into().expect("four bytes"));
                }
                AND => word &= step.operand,
                JUMP_EQUAL => branch(word == step.operand),
                JUMP_GREATER => branch(word > step.operand),
                JUMP_GREATER_OR_EQUAL => branch(word >= step.operand),
                RETURN => return step.operand,
                other => panic!("unknown code {other}"),
            }
        }
    }

    fn default_answer(capabilities: &str, call: &str, argument: u64) -> u32 {
        let set = capabilities.split_whitespace().filter_map(Capabilities::named);
        let set = set.fold(Capabilities::default(), Capabilities::with);
        let program = compile(&default_profile(set)).expect("compiled");
        run(&program, number(call).expect("a call"), [argument, 0, 0, 0, 0, 0])
    }

    #[test]
    fn the_table_is_in_order() {
        assert!(SYSCALLS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(SYSCALLS.iter().find(|each| each.0 == "openat"), Some(&("openat", 257, 56)));
    }

    #[test]
    fn the_default_refuses_what_it_should() {
        for (capabilities, call, argument, expected) in [
            ("", "read", 0, ALLOW),
            ("", "mount", 0, ERRNO | EPERM),
            ("SYS_ADMIN", "mount", 0, ALLOW),
            ("", "clone", 0x11, ALLOW),
            ("", "clone", 0x1000_0011, ERRNO | EPERM),
            ("", "clone3", 0, ERRNO | ENOSYS),
            ("SYS_ADMIN", "clone3", 0, ALLOW),
            ("", "socket", 2, ALLOW),
            ("", "socket", 40, ERRNO | EPERM),
            ("", "personality", 0xffff_ffff, ALLOW),
            ("", "personality", 1, ERRNO | EPERM),
            ("", "bpf", 0, ERRNO | EPERM),
            ("BPF", "bpf", 0, ALLOW),
            ("SYS_TIME", "settimeofday", 0, ALLOW),
            ("SYS_ADMIN", "keyctl", 0, ERRNO | EPERM),
        ] {
            assert_eq!(default_answer(capabilities, call, argument), expected, "{call} with {capabilities:?}");
        }
    }

    #[test]
    fn what_is_newer_than_the_table_is_said_not_to_exist() {
        let program = compile(&default_profile(Capabilities::default())).expect("compiled");
        assert_eq!(run(&program, newest() + 1, [0; 6]), ERRNO | ENOSYS);
    }

    #[test]
    fn comparisons_see_all_64_bits() {
        let big = 0x1_0000_0005u64;
        for (compare, argument, expected) in [
            (Compare::Equal(big), big, true),
            (Compare::Equal(big), 5, false),
            (Compare::NotEqual(big), 5, true),
            (Compare::NotEqual(big), big, false),
            (Compare::Less(big), big - 1, true),
            (Compare::Less(big), big, false),
            (Compare::Less(big), 0x2_0000_0000, false),
            (Compare::LessOrEqual(big), big, true),
            (Compare::LessOrEqual(big), big + 1, false),
            (Compare::Greater(big), big + 1, true),
            (Compare::Greater(big), 0x2_0000_0000, true),
            (Compare::Greater(big), 9, false),
            (Compare::GreaterOrEqual(big), big, true),
            (Compare::GreaterOrEqual(big), 9, false),
            (Compare::Masked(0xff, 0x05), big, true),
            (Compare::Masked(1 << 32, 0), big, false),
        ] {
            let rule = Rule { numbers: vec![1], conditions: vec![(2, compare)], action: TRAP };
            let program = compile(&Profile { rules: vec![rule], default: ALLOW, newest: None }).expect("compiled");
            let answer = run(&program, 1, [0, 0, argument, 0, 0, 0]);
            assert_eq!(answer == TRAP, expected, "{compare:?} of {argument:#x}");
        }
    }

    #[test]
    fn a_profile_of_ones_own_is_read() {
        let text = br#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_AARCH64"],
            "syscalls":[{"names":["read","nosuchcall"],"action":"SCMP_ACT_ALLOW"},
            {"names":["write"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#;
        let program = compile(&parse(text).expect("readable")).expect("compiled");
        let write = number("write").expect("a call");
        assert_eq!(run(&program, number("read").expect("a call"), [0; 6]), ALLOW);
        assert_eq!(run(&program, write, [1, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(run(&program, write, [2, 0, 0, 0, 0, 0]), ERRNO | EPERM);
        assert!(parse(br#"{"defaultAction":"SCMP_ACT_FLY"}"#).is_err());
    }
}
