//! What a machine says of its own Node, on the command line of `skerry server` and `skerry agent`.
//!
//! Start at [`OwnNode`]. The flags are the kubelet's own, where it has any.
//!
//! Not here: which labels a node may give itself (`apiserver`'s NodeRestriction says why not in the node's log).

use std::collections::BTreeMap;

use api::names::{label_value, qualified_name};
use clap::Args;
use k8s_openapi::api::core::v1::Taint;
use oci::RegistryRule;

/// What a taint does.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Options for the machine's own Node.
#[derive(Clone, Debug, Default, Args)]
pub struct OwnNode {
    /// Labels of this machine's Node, several with commas between; given again at every start.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub node_labels: Vec<(String, String)>,
    /// Taints with which the Node is made, several with commas between; later they are the administrator's.
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',', value_parser = taint)]
    pub register_with_taints: Vec<Taint>,
    /// Where the images of a registry are too, several with commas between: tried in this order, the registry last.
    #[arg(long, value_name = "REGISTRY=URL", value_delimiter = ',', value_parser = mirror)]
    pub registry_mirrors: Vec<(String, String)>,
}

impl OwnNode {
    /// By key; of one that is given twice the last counts.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.node_labels.iter().cloned().collect()
    }

    /// One rule a registry.
    pub(crate) fn rules(&self) -> Vec<RegistryRule> {
        let mut rules: Vec<RegistryRule> = Vec::new();
        for (registry, mirror) in &self.registry_mirrors {
            match rules.iter_mut().find(|rule| rule.registry == *registry) {
                Some(rule) => rule.mirrors.push(mirror.clone()),
                None => rules.push(RegistryRule { registry: registry.clone(), mirrors: vec![mirror.clone()] }),
            }
        }
        rules
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("want KEY=VALUE")?;
    none_wrong(qualified_name(key))?;
    none_wrong(label_value(value))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn taint(text: &str) -> Result<Taint, String> {
    let (what, effect) = text.rsplit_once(':').ok_or("want KEY=VALUE:EFFECT or KEY:EFFECT")?;
    let (key, value) = what.split_once('=').map_or((what, None), |(key, value)| (key, Some(value.to_owned())));
    none_wrong(qualified_name(key))?;
    none_wrong(value.as_deref().map(label_value).unwrap_or_default())?;
    if !EFFECTS.contains(&effect) {
        return Err(format!("the effect is one of {}", EFFECTS.join(", ")));
    }
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

fn mirror(text: &str) -> Result<(String, String), String> {
    let (registry, url) = text.split_once('=').ok_or("want REGISTRY=URL, such as docker.io=http://10.0.0.5:5000")?;
    if registry.is_empty()
        || !["http://", "https://"].iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme))
    {
        return Err("want REGISTRY=URL, such as docker.io=http://10.0.0.5:5000".to_owned());
    }
    Ok((registry.to_owned(), url.to_owned()))
}

fn none_wrong(problems: Vec<String>) -> Result<(), String> {
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};

    #[track_caller]
    fn own(flags: &[&str]) -> Result<OwnNode, String> {
        let words = ["skerry", "server", "--data-dir", "/d"].iter().chain(flags);
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.verb {
            Verb::Server(server) => Ok(server.own),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn labels_taints_and_mirrors_are_taken_as_a_board_says_them() {
        let own = own(&[
            "--node-labels=room=kitchen,example.com/a=",
            "--register-with-taints=dedicated=camera:NoSchedule,gone:NoExecute",
            "--registry-mirrors=docker.io=http://a:1,quay.io=https://b,docker.io=http://c/d",
        ])
        .expect("right");
        let labels: Vec<String> = own.labels().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels, ["example.com/a=", "room=kitchen"]);
        let shown =
            |taint: &Taint| format!("{}={}:{}", taint.key, taint.value.clone().unwrap_or_default(), taint.effect);
        let taints: Vec<String> = own.register_with_taints.iter().map(shown).collect();
        assert_eq!(taints, ["dedicated=camera:NoSchedule", "gone=:NoExecute"]);
        let rules: Vec<String> =
            own.rules().iter().map(|rule| format!("{} {}", rule.registry, rule.mirrors.join(" "))).collect();
        assert_eq!(rules, ["docker.io http://a:1 http://c/d", "quay.io https://b"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (flag, why) in [
            ("--node-labels=room", "want KEY=VALUE"),
            ("--node-labels=a b=c", "--node-labels"),
            ("--register-with-taints=a=b", "want KEY=VALUE:EFFECT"),
            ("--register-with-taints=a=b:Never", "the effect is one of NoSchedule"),
            ("--registry-mirrors=docker.io=a:5000", "want REGISTRY=URL"),
        ] {
            let error = own(&[flag]).expect_err(flag);
            assert!(error.contains(why), "{error}");
        }
    }
}
