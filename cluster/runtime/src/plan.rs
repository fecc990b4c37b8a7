//! From what Kubernetes asks and what the image says to what a container runs.
//!
//! Start at [`program`] and [`capabilities`]; all of it is pure.

use std::collections::BTreeMap;

use sys::cgroup::{Limits, cpu_weight_of_shares};
use sys::rights::{CAPABILITIES, Capabilities};

use crate::cri::{ContainerConfig, Resources, SandboxConfig, SecurityContext};
use crate::launch::{Identity, Program};

/// What a program finds in `PATH` where nobody says otherwise.
const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container may do where nobody says otherwise: the set all runtimes agree on.
const CAPABILITIES_DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The capabilities of a container.
pub(crate) fn capabilities(security: &SecurityContext) -> Result<Capabilities, String> {
    let all = Capabilities(CAPABILITIES.iter().enumerate().fold(0, |bits, (number, _)| bits | 1 << number));
    if security.privileged {
        return Ok(all);
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let set = |names: &[String]| -> Result<Capabilities, String> {
        names.iter().filter(|name| !is_all(name)).try_fold(Capabilities::default(), |set, name| {
            Ok(set.with(Capabilities::named(name).ok_or_else(|| format!("unknown capability {name}"))?))
        })
    };
    let default = CAPABILITIES_DEFAULT.iter().filter_map(|name| Capabilities::named(name));
    let mut chosen = default.fold(Capabilities::default(), Capabilities::with);
    if security.add_capabilities.iter().any(is_all) {
        chosen = all;
    }
    if security.drop_capabilities.iter().any(is_all) {
        chosen = Capabilities::default();
    }
    // Named ones count after ALL, whichever side says ALL.
    chosen = chosen.with(set(&security.add_capabilities)?);
    Ok(chosen.without(set(&security.drop_capabilities)?))
}

/// The command: the config's words where it has some, else the image's. A command without arguments has none; arguments
/// without a command go after the image's entrypoint.
pub(crate) fn command(config: &ContainerConfig, image: &oci::Config) -> Result<Vec<String>, String> {
    let words: Vec<String> = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => config.command.iter().chain(&config.args).cloned().collect(),
        (true, false) => image.entrypoint.iter().chain(&config.args).cloned().collect(),
        (true, true) => image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
    };
    if words.is_empty() { Err("no command specified".to_owned()) } else { Ok(words) }
}

/// The environment: the image's, the config's over it, and what programs expect where neither says it.
pub(crate) fn environment(config: &ContainerConfig, image: &oci::Config, hostname: &str) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        if values.insert(name.to_owned(), value.to_owned()).is_none() {
            order.push(name.to_owned());
        }
    };
    let (path_name, path_value) = PATH_DEFAULT.split_once('=').unwrap_or_default();
    set(path_name, path_value);
    set("HOSTNAME", hostname);
    if config.tty {
        set("TERM", "xterm");
    }
    for line in &image.env {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        set(name, value);
    }
    for (name, value) in &config.envs {
        set(name, value);
    }
    order.into_iter().map(|name| format!("{name}={}", values[&name])).collect()
}

/// The user: the config's number, else the image's word; a number without a group keeps the image's lookup.
pub(crate) fn user(security: &SecurityContext, image: &oci::Config) -> String {
    security.run_as_user.map_or_else(|| image.user.clone(), |uid| uid.to_string())
}

/// What a container's process becomes.
pub(crate) fn program(
    config: &ContainerConfig,
    image: &oci::Config,
    sandbox: &SandboxConfig,
    filter: Vec<(u16, u8, u8, u32)>,
) -> Result<Program, String> {
    let security = &config.security;
    let group = |id: i64| u32::try_from(id).map_err(|_| format!("{id} is no group"));
    let identity = Identity {
        user: user(security, image),
        group: security.run_as_group.map(group).transpose()?,
        more_groups: security.supplemental_groups.iter().map(|id| group(*id)).collect::<Result<_, _>>()?,
        capabilities: capabilities(security)?.0,
        no_new_privileges: security.no_new_privs,
        filter,
        oom_score_adj: config.resources.oom_score_adj,
    };
    let working_dir =
        if config.working_dir.is_empty() { image.working_dir.clone() } else { config.working_dir.clone() };
    Ok(Program {
        args: command(config, image)?,
        env: environment(config, image, &sandbox.hostname),
        working_dir,
        identity,
        terminal: config.tty,
    })
}

/// Limits in the kernel's words. Nothing set, nothing changed.
pub(crate) fn limits(resources: &Resources) -> Limits {
    let period = resources.cpu_period.filter(|period| *period > 0).unwrap_or(100_000);
    Limits {
        cpu_weight: resources.cpu_shares.filter(|shares| *shares > 0).map(cpu_weight_of_shares),
        cpu_max: resources.cpu_quota.filter(|quota| *quota != 0).map(|quota| (u64::try_from(quota).ok(), period)),
        memory_max: resources.memory_limit.map(|limit| (limit.0 > 0).then_some(limit.0)),
        memory_min: None,
        pids_max: resources.pids_limit.filter(|limit| *limit != 0).map(|limit| u64::try_from(limit).ok()),
        oom_group: None,
    }
}

/// The text of `/etc/resolv.conf`; `None` where the sandbox says nothing.
pub(crate) fn resolv_conf(sandbox: &SandboxConfig) -> Option<String> {
    let (servers, searches, options) = (&sandbox.dns_servers, &sandbox.dns_searches, &sandbox.dns_options);
    if servers.is_empty() && searches.is_empty() && options.is_empty() {
        return None;
    }
    let mut text = String::new();
    if !searches.is_empty() {
        text += &format!("search {}\n", searches.join(" "));
    }
    for server in servers {
        text += &format!("nameserver {server}\n");
    }
    if !options.is_empty() {
        text += &format!("options {}\n", options.join(" "));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[track_caller]
    fn check_command(command_words: &str, args: &str, expected: Result<&str, &str>) {
        let config = ContainerConfig { command: words(command_words), args: words(args), ..Default::default() };
        let image = oci::Config { entrypoint: words("entry point"), cmd: words("cmd"), ..Default::default() };
        let found = command(&config, &image).map(|words| words.join(" "));
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    /// The table of Kubernetes' page on commands and arguments.
    #[test]
    fn command_and_args_replace_entrypoint_and_cmd() {
        check_command("", "", Ok("entry point cmd"));
        check_command("run", "", Ok("run"));
        check_command("", "a b", Ok("entry point a b"));
        check_command("run", "a b", Ok("run a b"));
        let nothing = command(&ContainerConfig::default(), &oci::Config::default());
        assert_eq!(nothing, Err("no command specified".to_owned()));
    }

    #[track_caller]
    fn check_capabilities(add: &str, drop: &str, expected: Result<&str, &str>) {
        let security = SecurityContext {
            add_capabilities: words(add),
            drop_capabilities: words(drop),
            ..SecurityContext::default()
        };
        let found = capabilities(&security).map(|set| {
            let held = CAPABILITIES.iter().enumerate().filter(|(number, _)| set.0 & (1 << number) != 0);
            let names: Vec<&str> = held.map(|(_, name)| *name).collect();
            if names.len() > 10 { names.len().to_string() } else { names.join(" ") }
        });
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        check_capabilities("", "", Ok("14"));
        check_capabilities("NET_ADMIN", "", Ok("15"));
        check_capabilities("", "ALL", Ok(""));
        check_capabilities("NET_BIND_SERVICE", "ALL", Ok("NET_BIND_SERVICE"));
        check_capabilities("ALL", "", Ok("41"));
        check_capabilities("ALL", "sys_admin", Ok("40"));
        check_capabilities("", "CAP_KILL", Ok("13"));
        check_capabilities("FLY", "", Err("unknown capability FLY"));
    }

    #[test]
    fn the_environment_is_laid_over_the_images() {
        let config = ContainerConfig {
            envs: vec![("A".into(), "new".into()), ("B".into(), "2".into()), ("B".into(), "3".into())],
            ..Default::default()
        };
        let image = oci::Config { env: words("A=old PATH=/bin"), ..Default::default() };
        assert_eq!(environment(&config, &image, "web-0"), ["PATH=/bin", "HOSTNAME=web-0", "A=new", "B=3"]);
    }

    #[test]
    fn limits_are_in_the_kernels_words() {
        let resources = Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            memory_limit: Some(base::Bytes::mib(64)),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        let found = limits(&resources);
        assert_eq!(found.cpu_weight, Some(100));
        assert_eq!(found.cpu_max, Some((Some(50_000), 100_000)));
        assert_eq!((found.memory_max, found.pids_max), (Some(Some(64 << 20)), Some(None)));
        assert_eq!(limits(&Resources::default()), Limits::default());
    }

    #[test]
    fn resolv_conf_reads_as_resolvers_want_it() {
        let sandbox = SandboxConfig {
            dns_servers: words("10.43.0.10"),
            dns_searches: words("default.svc.cluster.local svc.cluster.local"),
            dns_options: words("ndots:5"),
            ..Default::default()
        };
        let expected = "search default.svc.cluster.local svc.cluster.local\nnameserver 10.43.0.10\noptions ndots:5\n";
        assert_eq!(resolv_conf(&sandbox).as_deref(), Some(expected));
    }
}
