//! What a pod is called and whom it asks for names: host name, `/etc/hosts`, `/etc/resolv.conf`.
//!
//! Start at [`hostname`], [`hosts_file`] and [`resolver`].

use std::net::IpAddr;

use crate::pod::PodInfo;

/// The most servers and search domains a resolver takes; upstream's limits.
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
/// The longest host name the kernel takes, less one for DNS labels.
const LABEL_MAX: usize = 63;

/// The pod's host name, without its domain.
pub fn short_hostname(pod: &PodInfo, node_name: &str) -> String {
    let spec = pod.spec();
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    if pod.host_network() {
        return node_name.to_owned();
    }
    match spec.hostname.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None => pod.name.chars().take(LABEL_MAX).collect::<String>().trim_end_matches(['-', '.']).to_owned(),
    }
}

/// `host.subdomain.namespace.svc.domain`, for pods with a subdomain.
pub fn full_hostname(pod: &PodInfo, node_name: &str, cluster_domain: &str) -> Option<String> {
    let subdomain = pod.spec().subdomain.as_deref().filter(|name| !name.is_empty())?;
    let host = short_hostname(pod, node_name);
    Some(format!("{host}.{subdomain}.{}.svc.{cluster_domain}", pod.namespace))
}

/// The host name the kernel is told.
pub fn hostname(pod: &PodInfo, node_name: &str, cluster_domain: &str) -> String {
    let full = full_hostname(pod, node_name, cluster_domain).filter(|_| pod.spec().set_hostname_as_fqdn == Some(true));
    full.unwrap_or_else(|| short_hostname(pod, node_name))
}

/// The pod's `/etc/hosts`.
pub fn hosts_file(pod: &PodInfo, ips: &[IpAddr], node_name: &str, cluster_domain: &str, host_file: &str) -> String {
    let mut text = if pod.host_network() {
        format!("# Kubernetes-managed hosts file (host network).\n{host_file}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let short = short_hostname(pod, node_name);
        for ip in ips {
            match full_hostname(pod, node_name, cluster_domain) {
                Some(full) => text.push_str(&format!("{ip}\t{full}\t{short}\n")),
                None => text.push_str(&format!("{ip}\t{short}\n")),
            }
        }
        text
    };
    let aliases: Vec<_> = pod.spec().host_aliases.iter().flatten().collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t")));
        }
    }
    text
}

/// The lines of a resolver file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// `nameserver`.
    pub servers: Vec<String>,
    /// `search`.
    pub searches: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a resolver file.
    pub fn parse(text: &str) -> Resolver {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let words_after = |words: std::str::SplitWhitespace<'_>| {
                words.map(|word| word.trim_end_matches('.').to_owned()).collect()
            };
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search") => resolver.searches = words_after(words),
                Some("options") => resolver.options = words_after(words),
                _ => {}
            }
        }
        resolver
    }
}

/// The pod's resolver: its DNS policy, then its `dnsConfig` on top.
pub fn resolver(pod: &PodInfo, node: &Resolver, cluster_dns: &[IpAddr], cluster_domain: &str) -> Resolver {
    let spec = pod.spec();
    let cluster = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => None,
        "Default" => Some(false),
        "ClusterFirstWithHostNet" => Some(true),
        _ => Some(!pod.host_network()),
    };
    let mut found = match cluster {
        None => Resolver::default(),
        Some(true) if !cluster_dns.is_empty() => {
            let mut searches = vec![
                format!("{}.svc.{cluster_domain}", pod.namespace),
                format!("svc.{cluster_domain}"),
                cluster_domain.to_owned(),
            ];
            searches.extend(node.searches.iter().cloned());
            let servers = cluster_dns.iter().map(IpAddr::to_string).collect();
            Resolver { servers, searches, options: vec!["ndots:5".to_owned()] }
        }
        Some(_) => node.clone(),
    };
    if let Some(config) = &spec.dns_config {
        found.servers.extend(config.nameservers.iter().flatten().cloned());
        found.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            found.options.retain(|known| known != name && !known.starts_with(&format!("{name}:")));
            let value = option.value.as_ref().filter(|value| !value.is_empty());
            found.options.push(value.map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    unique(&mut found.servers, SERVERS_MAX);
    unique(&mut found.searches, SEARCHES_MAX);
    found
}

fn unique(list: &mut Vec<String>, limit: usize) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|entry| seen.insert(entry.clone()));
    list.truncate(limit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod;
    use serde_json::{Value, json};

    fn with(mut spec: Value) -> PodInfo {
        spec["containers"] = json!([{"name": "a"}]);
        pod(spec)
    }

    #[track_caller]
    fn resolves(spec: Value, wanted: (&[&str], &[&str], &[&str])) {
        let node = Resolver::parse("nameserver 1.1.1.1\nsearch lan.\noptions rotate\n");
        let found = resolver(&with(spec), &node, &["10.43.0.10".parse().expect("ip")], "cluster.local");
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(found, Resolver { servers: own(wanted.0), searches: own(wanted.1), options: own(wanted.2) });
    }

    #[test]
    fn dns_policies_mean_what_upstream_says() {
        let cluster: (&[&str], &[&str], &[&str]) = (
            &["10.43.0.10"],
            &["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"],
            &["ndots:5"],
        );
        let node: (&[&str], &[&str], &[&str]) = (&["1.1.1.1"], &["lan"], &["rotate"]);
        resolves(json!({}), cluster);
        resolves(json!({"dnsPolicy": "ClusterFirst"}), cluster);
        resolves(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), node);
        resolves(json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), cluster);
        resolves(json!({"dnsPolicy": "Default"}), node);
        let config = json!({"nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        resolves(json!({"dnsPolicy": "None", "dnsConfig": config}), (&["9.9.9.9"], &["x"], &["ndots:2", "edns0"]));
        resolves(
            json!({"dnsPolicy": "Default", "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}),
            (&["1.1.1.1"], &["lan"], &["rotate", "ndots:2"]),
        );
    }

    #[test]
    fn host_names_follow_hostname_and_subdomain() {
        let name = |spec| hostname(&with(spec), "node-1", "cluster.local");
        assert_eq!(name(json!({})), "web");
        assert_eq!(name(json!({"hostname": "h", "subdomain": "s"})), "h");
        assert_eq!(
            name(json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true})),
            "h.s.default.svc.cluster.local"
        );
        assert_eq!(name(json!({"hostNetwork": true})), "node-1");
    }

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let pod = with(
            json!({"hostname": "h", "subdomain": "s", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}),
        );
        let text = hosts_file(&pod, &["10.42.0.5".parse().expect("ip")], "n", "cluster.local", "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with(
            "10.42.0.5\th.s.default.svc.cluster.local\th\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        ));
    }
}
