//! What to say to a question.
//!
//! Start at [`answer()`].

use std::net::Ipv4Addr;

use crate::wire::{Kind, Question};
use crate::zone::{Data, Record, Zone};

/// A Service of type ExternalName may name another one; a chain of them ends here.
const ALIASES_MAX: usize = 8;

/// The code of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The name exists.
    NoError,
    /// It does not.
    NxDomain,
    /// We could not find out.
    ServFail,
    /// The question makes no sense to us.
    FormErr,
    /// We do not do that.
    NotImp,
}

/// What is said to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These records (perhaps none), by our own authority.
    Ours {
        /// The code.
        code: Code,
        /// The records that answer.
        records: Vec<Record>,
        /// Whether the records end in a name of somebody else's, which the asker wants followed.
        follow: Option<String>,
    },
    /// It is for somebody else to answer.
    Theirs,
}

/// Answers from the zone, or says that it is not for us.
pub fn answer(zone: &Zone, question: &Question) -> Answer {
    let name = question.name.as_str();
    if is_below(name, "in-addr.arpa") {
        let records: Vec<Record> = zone.records(name).collect();
        return if records.is_empty() { Answer::Theirs } else { ours(Code::NoError, select(records, question.kind)) };
    }
    if !is_below(name, zone.domain()) {
        return Answer::Theirs;
    }
    if let Some(found) = pod(zone, question) {
        return found;
    }
    let (records, follow) = chase(zone, name, question.kind);
    let code = if zone.exists(name) || name == zone.domain() { Code::NoError } else { Code::NxDomain };
    Answer::Ours { code, records, follow }
}

/// The answer to a name that nobody in the world knows and that would be one of ours with the rest of it, as `web.default` is
/// of `web.default.svc.cluster.local`: some resolvers, busybox's `nslookup` among them, do not look through the search list
/// once a name has a dot. The world is asked first, so no name of its is taken.
pub fn completed(zone: &Zone, question: &Question) -> Option<Answer> {
    let name = question.name.as_str();
    let whole = [format!("{name}.svc.{}", zone.domain()), format!("{name}.{}", zone.domain())];
    let target = whole.into_iter().find(|whole| name.contains('.') && zone.records(whole).next().is_some())?;
    let alias = Record { name: name.to_owned(), data: Data::Cname(target.clone()), ttl: zone.soa().ttl };
    let (found, follow) = chase(zone, &target, question.kind);
    let records = std::iter::once(alias).chain(found).collect();
    Some(Answer::Ours { code: Code::NoError, records, follow })
}

/// Follows names inside the zone; one that leads out is given back to be followed by whoever can.
fn chase(zone: &Zone, name: &str, kind: Kind) -> (Vec<Record>, Option<String>) {
    let mut found = Vec::new();
    let mut name = name.to_owned();
    for _ in 0..ALIASES_MAX {
        let records: Vec<Record> = zone.records(&name).collect();
        let alias = records.iter().find_map(|record| match &record.data {
            Data::Cname(target) if kind != Kind::Cname => Some(target.clone()),
            _ => None,
        });
        let Some(target) = alias else {
            found.extend(select(records, kind));
            return (found, None);
        };
        found.extend(records);
        if !is_below(&target, zone.domain()) {
            return (found, Some(target));
        }
        name = target;
    }
    (found, None)
}

/// `10-42-0-7.default.pod.cluster.local` is 10.42.0.7: the name says so itself.
fn pod(zone: &Zone, question: &Question) -> Option<Answer> {
    let pods = format!("pod.{}", zone.domain());
    let name = question.name.as_str();
    if name == pods {
        return Some(ours(Code::NoError, Vec::new()));
    }
    let inside = name.strip_suffix(&format!(".{pods}"))?;
    let Some((host, namespace)) = inside.split_once('.') else { return Some(ours(Code::NoError, Vec::new())) };
    let address = host.replace('-', ".").parse::<Ipv4Addr>().ok().filter(|_| !namespace.contains('.'));
    let Some(address) = address else { return Some(ours(Code::NxDomain, Vec::new())) };
    let record = Record { name: name.to_owned(), data: Data::A(address), ttl: zone.soa().ttl };
    Some(ours(Code::NoError, select(vec![record], question.kind)))
}

fn ours(code: Code, records: Vec<Record>) -> Answer {
    Answer::Ours { code, records, follow: None }
}

fn select(records: Vec<Record>, kind: Kind) -> Vec<Record> {
    records.into_iter().filter(|record| kind.takes(&record.data)).collect()
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn zone() -> Zone {
        let services = [
            json!({"metadata": {"name": "web", "namespace": "default"},
                   "spec": {"clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}),
            json!({"metadata": {"name": "db", "namespace": "default"},
                   "spec": {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}}),
            json!({"metadata": {"name": "out", "namespace": "default"},
                   "spec": {"type": "ExternalName", "externalName": "Example.com."}}),
            json!({"metadata": {"name": "alias", "namespace": "default"},
                   "spec": {"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}}),
        ];
        let slices = [json!({
            "metadata": {"name": "db-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.42.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.42.0.3"], "conditions": {"ready": true}},
                {"addresses": ["10.42.0.4"], "hostname": "db-2", "conditions": {"ready": false}},
            ],
        })];
        let services: Vec<_> =
            services.into_iter().map(|each| Arc::new(serde_json::from_value(each).expect("a Service"))).collect();
        let slices: Vec<_> =
            slices.into_iter().map(|each| Arc::new(serde_json::from_value(each).expect("an EndpointSlice"))).collect();
        Zone::new("cluster.local", &services, &slices)
    }

    /// Asks `A web.default` and compares with the answer in words.
    #[track_caller]
    fn check(question: &str, expected: &str) {
        let (kind, name) = question.split_once(' ').expect("a type and a name");
        let kind = match kind {
            "A" => Kind::A,
            "AAAA" => Kind::Aaaa,
            "SRV" => Kind::Srv,
            "PTR" => Kind::Ptr,
            "TXT" => Kind::Txt,
            _ => panic!("unknown type {kind}"),
        };
        let question = Question { name: name.to_owned(), kind };
        let said = match answer(&zone(), &question) {
            Answer::Theirs => "theirs".to_owned(),
            Answer::Ours { code, records, follow } => {
                let mut words = vec![format!("{code:?}")];
                words.extend(records.iter().map(|record| match &record.data {
                    Data::A(address) => address.to_string(),
                    Data::Srv { port, target } => format!("{port}@{target}"),
                    Data::Ptr(name) | Data::Cname(name) | Data::Txt(name) => name.clone(),
                    Data::Soa => "soa".to_owned(),
                }));
                words.extend(follow.map(|name| format!("follow:{name}")));
                words.join(" ")
            }
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn a_service_has_its_address() {
        check("A web.default.svc.cluster.local", "NoError 10.43.0.9");
        check("PTR 9.0.43.10.in-addr.arpa", "NoError web.default.svc.cluster.local");
        check("SRV _http._tcp.web.default.svc.cluster.local", "NoError 80@web.default.svc.cluster.local");
    }

    #[test]
    fn a_name_without_that_type_exists_all_the_same() {
        check("AAAA web.default.svc.cluster.local", "NoError");
        check("A default.svc.cluster.local", "NoError");
        check("A nowhere.svc.cluster.local", "NxDomain");
        check("A no.default.svc.cluster.local", "NxDomain");
    }

    #[test]
    fn a_headless_service_has_its_ready_endpoints() {
        check("A db.default.svc.cluster.local", "NoError 10.42.0.2 10.42.0.3");
        check("A db-0.db.default.svc.cluster.local", "NoError 10.42.0.2");
        check("A 10-42-0-3.db.default.svc.cluster.local", "NoError 10.42.0.3");
        check("A db-2.db.default.svc.cluster.local", "NxDomain");
        check("PTR 2.0.42.10.in-addr.arpa", "NoError db-0.db.default.svc.cluster.local");
        let both = "5432@10-42-0-3.db.default.svc.cluster.local 5432@db-0.db.default.svc.cluster.local";
        check("SRV _sql._tcp.db.default.svc.cluster.local", &format!("NoError {both}"));
    }

    #[test]
    fn external_names_are_followed() {
        check("A out.default.svc.cluster.local", "NoError example.com follow:example.com");
        check("A alias.default.svc.cluster.local", "NoError web.default.svc.cluster.local 10.43.0.9");
    }

    #[test]
    fn pods_are_named_after_their_addresses() {
        check("A 10-42-0-7.default.pod.cluster.local", "NoError 10.42.0.7");
        check("A ten.default.pod.cluster.local", "NxDomain");
    }

    #[test]
    fn the_rest_of_the_world_is_not_ours() {
        check("A example.com", "theirs");
        check("A notcluster.local", "theirs");
        check("PTR 1.1.1.1.in-addr.arpa", "theirs");
    }

    #[test]
    fn the_version_is_told() {
        check("TXT dns-version.cluster.local", "NoError 1.1.0");
    }
}
