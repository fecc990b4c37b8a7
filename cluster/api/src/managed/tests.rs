//! Examples of who manages what; `'` stands for `"`. A manager's entry is shown as `manager/Operation: paths`.

use serde_json::{Value, json};

use super::*;
use crate::kinds;

fn read(text: &str) -> Value {
    serde_json::from_str(&text.replace('\'', "\"")).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn kind(api_version: &str, kind: &str) -> &'static Kind {
    let (group, version) = kinds::split_api_version(api_version);
    kinds::find_kind(group, version, kind).unwrap_or_else(|| panic!("no kind {kind}"))
}

/// An object with a history: who wrote what, second by second.
struct Story {
    kind: &'static Kind,
    object: Option<Value>,
    second: u32,
}

impl Story {
    fn of(api_version: &str, name: &str) -> Story {
        Story { kind: kind(api_version, name), object: None, second: 0 }
    }

    fn now(&mut self) -> String {
        self.second += 1;
        format!("2026-01-01T00:00:{:02}Z", self.second)
    }

    /// The text's fields, as an object of the story's kind.
    fn object(&self, text: &str) -> Value {
        let mut object = read(text);
        object["apiVersion"] = self.kind.api_version().into();
        object["kind"] = self.kind.kind.as_ref().into();
        dig::put(&mut object, "metadata.name", "a".into());
        object
    }

    fn wrote(&mut self, manager: &str, text: &str) -> &mut Story {
        self.wrote_through(manager, None, text)
    }

    /// Somebody replaces the object.
    fn wrote_through(&mut self, manager: &str, subresource: Option<&str>, text: &str) -> &mut Story {
        let (mut new, now, kind) = (self.object(text), self.now(), self.kind);
        let convert = |object: &Value, version: &str| same_version(kind, object, version);
        let writer = Writer { kind, manager, subresource, now: &now, convert: &convert };
        update(&writer, self.object.as_ref(), &mut new);
        dig::put(&mut new, "metadata.uid", "u".into());
        self.object = Some(new);
        self
    }

    fn tried(&mut self, manager: &str, text: &str, force: bool) -> Result<Value, Refusal> {
        let (configuration, now, kind) = (self.object(text), self.now(), self.kind);
        let convert = |object: &Value, version: &str| same_version(kind, object, version);
        let writer = Writer { kind, manager, subresource: None, now: &now, convert: &convert };
        apply(&writer, self.object.as_ref(), &configuration, force)
    }

    #[track_caller]
    fn applied(&mut self, manager: &str, text: &str) -> &mut Story {
        self.object = Some(self.tried(manager, text, false).unwrap_or_else(|refusal| panic!("{refusal:?}")));
        self
    }

    #[track_caller]
    fn forced(&mut self, manager: &str, text: &str) -> &mut Story {
        self.object = Some(self.tried(manager, text, true).unwrap_or_else(|refusal| panic!("{refusal:?}")));
        self
    }

    #[track_caller]
    fn refused(&mut self, manager: &str, text: &str, want: &str) -> &mut Story {
        let refusal = self.tried(manager, text, false).expect_err("a refusal");
        let told = match refusal {
            Refusal::Conflicts(conflicts) => {
                conflicts.into_iter().map(|one| format!("{}: {}", one.manager, one.path)).collect::<Vec<_>>().join(", ")
            }
            Refusal::OtherKind(what) | Refusal::Misfit(what) => what,
            Refusal::HasManagedFields => "managed fields".to_owned(),
        };
        assert_eq!(told, want);
        self
    }

    #[track_caller]
    fn holds(&mut self, path: &str, want: &str) -> &mut Story {
        let object = self.object.as_ref().expect("an object");
        assert_eq!(dig::get(object, path).to_string().replace('"', "'"), want, "{path} of {object}");
        self
    }

    #[track_caller]
    fn managed(&mut self, want: &[&str]) -> &mut Story {
        let object = self.object.clone().expect("an object");
        let entries = entry::read(dig::get(&object, "metadata.managedFields").clone(), false).expect("entries");
        let shown = entries.iter().map(|entry| {
            let second = entry.time.as_deref().map_or("-", |time| time[17..19].trim_start_matches('0'));
            let sub = if entry.subresource.is_empty() { String::new() } else { format!("/{}", entry.subresource) };
            format!("{}/{:?}{sub} {second}: {}", entry.manager, entry.operation, entry.fields.paths().join(" "))
        });
        assert_eq!(shown.collect::<Vec<_>>(), want);
        self
    }
}

fn same_version(kind: &Kind, object: &Value, version: &str) -> Option<(TypeRef, Value)> {
    (version == kind.api_version()).then(|| (kind.ty.clone(), object.clone()))
}

fn map() -> Story {
    Story::of("v1", "ConfigMap")
}

#[test]
fn an_entry_is_written_as_upstream_writes_it() {
    let mut story = map();
    story.wrote("kubectl-create", "{'data':{'key':'value'}}");
    story.holds(
        "metadata.managedFields",
        "[{'apiVersion':'v1','fieldsType':'FieldsV1','fieldsV1':{'f:data':{'.':{},'f:key':{}}},'manager':'kubectl-create',\
         'operation':'Update','time':'2026-01-01T00:00:01Z'}]",
    );
}

#[test]
fn a_new_deployment_has_structs_that_are_always_there() {
    let mut story = Story::of("apps/v1", "Deployment");
    story.wrote(
        "kubectl-create",
        "{'metadata':{'labels':{'app':'web'}},'spec':{'replicas':1,'selector':{'matchLabels':{'app':'web'}},'strategy':{\
         'type':'RollingUpdate','rollingUpdate':{'maxSurge':'25%'}},'template':{'metadata':{'labels':{'app':'web'}},\
         'spec':{'containers':[{'name':'c','image':'i','resources':{}}],'securityContext':{}}}},'status':{}}",
    );
    story.holds(
        "metadata.managedFields",
        "[{'apiVersion':'apps/v1','fieldsType':'FieldsV1','fieldsV1':{'f:metadata':{'f:labels':{'.':{},'f:app':{}}},'f:spec':\
         {'f:replicas':{},'f:selector':{},'f:strategy':{'f:rollingUpdate':{'.':{},'f:maxSurge':{}},'f:type':{}},'f:template':\
         {'f:metadata':{'f:labels':{'.':{},'f:app':{}}},'f:spec':{'f:containers':{'k:{\\'name\\':\\'c\\'}':{'.':{},'f:image'\
         :{},'f:name':{},'f:resources':{}}},'f:securityContext':{}}}}},'manager':'kubectl-create','operation':'Update','time'\
         :'2026-01-01T00:00:01Z'}]",
    );
}

#[test]
fn a_write_takes_what_it_changes() {
    map()
        .wrote("one", "{'data':{'a':'1','b':'1'}}")
        .wrote("two", "{'data':{'a':'2','b':'1','c':'2'}}")
        .managed(&["one/Update 1: .data .data.b", "two/Update 2: .data.a .data.c"])
        // What does not change stays whose it is, at its time.
        .wrote("three", "{'data':{'a':'2','b':'1','c':'2'}}")
        .managed(&["one/Update 1: .data .data.b", "two/Update 2: .data.a .data.c"])
        .wrote("two", "{'data':{'a':'2','b':'2'}}")
        .managed(&["one/Update 1: .data", "two/Update 4: .data.a .data.b"])
        .wrote("three", "{}")
        .managed(&[]);
}

#[test]
fn removing_takes_from_everybody() {
    map()
        .wrote("one", "{'data':{'a':'1'},'binaryData':{'x':'eA=='}}")
        .wrote("two", "{'data':{'a':'1'}}")
        .managed(&["one/Update 1: .data .data.a"]);
}

#[test]
fn entries_are_cleared_on_demand_and_stay_away() {
    for cleared in ["[]", "[{}]", "[{'apiVersion':'','manager':''}]"] {
        map()
            .wrote("one", "{'data':{'a':'1'}}")
            .wrote("two", &format!("{{'metadata':{{'managedFields':{cleared}}},'data':{{'a':'2'}}}}"))
            .managed(&[])
            .wrote("two", "{'data':{'a':'3'}}")
            .managed(&[])
            // Who applies then finds an owner of everything.
            .refused("three", "{'data':{'a':'4'}}", "\"before-first-apply\" using v1: .data.a")
            .applied("three", "{'data':{'a':'3'}}")
            .managed(&["three/Apply -: .data.a", "before-first-apply/Update 5: .data .data.a"]);
    }
}

#[test]
fn entries_that_a_client_sends_count_if_they_can_be_read() {
    let entry = "{'apiVersion':'v1','fieldsType':'FieldsV1','fieldsV1':{'f:data':{'f:a':{}}},'manager':'me','operation':'Update'}";
    map()
        .wrote("one", "{'data':{'a':'1'}}")
        .wrote("two", &format!("{{'metadata':{{'managedFields':[{entry}]}},'data':{{'a':'1'}}}}"))
        .managed(&["me/Update -: .data.a"])
        .wrote("two", &format!("{{'metadata':{{'managedFields':[{{'manager':'x'}}]}},'data':{{'a':'1'}}}}"))
        .managed(&["me/Update -: .data.a"]);
}

#[test]
fn the_oldest_of_many_entries_become_one() {
    let mut story = map();
    for one in 0..12 {
        let data: Vec<String> = (0..=one).map(|key| format!("'k{key:02}':'v'")).collect();
        story.wrote(&format!("m{one:02}"), &format!("{{'data':{{{}}}}}", data.join(",")));
    }
    let object = story.object.clone().expect("an object");
    let entries = entry::read(dig::get(&object, "metadata.managedFields").clone(), false).expect("entries");
    let managers: Vec<&str> = entries.iter().map(|entry| entry.manager.as_str()).collect();
    assert_eq!(managers.len(), UPDATES_MAX);
    assert_eq!(managers[..2], [ANCIENT, "m03"]);
    assert_eq!(entries[0].fields.paths(), [".data", ".data.k00", ".data.k01", ".data.k02"]);
    assert_eq!(entries[0].time.as_deref(), Some("2026-01-01T00:00:03Z"));
}

#[test]
fn subresources_have_entries_of_their_own() {
    Story::of("apps/v1", "Deployment")
        .wrote("one", "{'spec':{'replicas':1},'status':{'replicas':7}}")
        .managed(&["one/Update 1: .spec.replicas"])
        .wrote_through("two", Some("status"), "{'spec':{'replicas':9},'status':{'replicas':1}}")
        .managed(&["one/Update 1: .spec.replicas", "two/Update/status 2: .status.replicas"]);
}

#[test]
fn what_is_applied_is_owned_and_goes_when_it_is_applied_no_more() {
    map()
        .applied("one", "{'data':{'a':'1','b':'1'}}")
        .managed(&["one/Apply 1: .data.a .data.b"])
        .applied("two", "{'data':{'b':'1','c':'2'}}")
        .managed(&["one/Apply 1: .data.a .data.b", "two/Apply 2: .data.b .data.c"])
        .holds("data", "{'a':'1','b':'1','c':'2'}")
        .applied("one", "{}")
        // b is still applied by the other one.
        .holds("data", "{'b':'1','c':'2'}")
        .managed(&["two/Apply 2: .data.b .data.c"])
        .applied("two", "{}")
        .holds("data", "null")
        .managed(&[]);
}

#[test]
fn what_others_set_stays() {
    map()
        .applied("one", "{'data':{'a':'1'},'metadata':{'labels':{'x':'y'}}}")
        .wrote(
            "two",
            "{'data':{'a':'1','b':'2'},'metadata':{'labels':{'x':'y'},'annotations':{'n':'m'}},'immutable':true}",
        )
        .applied("one", "{}")
        .holds("data", "{'b':'2'}")
        .holds("immutable", "true")
        .holds("metadata.annotations", "{'n':'m'}")
        .holds("metadata.labels", "null")
        .holds("metadata.name", "'a'");
}

#[test]
fn other_values_are_conflicts() {
    map()
        .wrote("kubectl-client-side-apply", "{'data':{'key':'1'}}")
        .refused("kubectl", "{'data':{'key':'2'}}", "\"kubectl-client-side-apply\" using v1: .data.key")
        .applied("other", "{'data':{'more':'x'}}")
        .refused(
            "third",
            "{'data':{'key':'2','more':'y'}}",
            "\"kubectl-client-side-apply\" using v1: .data.key, \"other\": .data.more",
        )
        // The same value is shared.
        .applied("third", "{'data':{'key':'1'}}")
        .forced("third", "{'data':{'key':'3'}}")
        .holds("data.key", "'3'")
        .managed(&[
            "other/Apply 3: .data.more",
            "third/Apply 6: .data.key",
            "kubectl-client-side-apply/Update 1: .data",
        ])
        // The one who lost it may take it back, by whatever means.
        .wrote("kubectl-client-side-apply", "{'data':{'key':'4','more':'x'}}")
        .managed(&["other/Apply 3: .data.more", "kubectl-client-side-apply/Update 7: .data .data.key"]);
}

#[test]
fn applying_the_same_again_changes_nothing() {
    map().applied("one", "{'data':{'a':'1'}}").applied("one", "{'data':{'a':'1'}}").managed(&["one/Apply 1: .data.a"]);
}

#[test]
fn list_items_are_owned_by_key() {
    let containers = |list: &str| {
        format!(
            "{{'spec':{{'selector':{{'matchLabels':{{'a':'b'}}}},'template':{{'spec':{{'containers':[{list}]}}}}}}}}"
        )
    };
    Story::of("apps/v1", "Deployment")
        .applied("one", &containers("{'name':'web','image':'v1','ports':[{'containerPort':80}]}"))
        .applied("two", "{'spec':{'template':{'spec':{'containers':[{'name':'side','image':'s1'}]}}}}")
        .holds("spec.template.spec.containers.0", "null")
        .applied("one", &containers("{'name':'web','image':'v2'}"))
        .holds("spec.template.spec.containers", "[{'image':'v2','name':'web'},{'image':'s1','name':'side'}]")
        .refused(
            "two",
            "{'spec':{'template':{'spec':{'containers':[{'name':'web','image':'v3'}]}}}}",
            "\"one\": .spec.template.spec.containers[name=\"web\"].image",
        )
        .applied("two", "{}")
        .holds("spec.template.spec.containers", "[{'image':'v2','name':'web'}]")
        .holds("spec.selector", "{'matchLabels':{'a':'b'}}");
}

#[test]
fn a_configuration_must_fit() {
    map()
        .refused(
            "one",
            "{'dat':{}}",
            "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .dat: field not declared in schema",
        )
        .refused("one", "{'metadata':{'managedFields':[]}}", "managed fields");
    let (story, mut other) = (map(), map());
    let mut configuration = story.object("{}");
    configuration["apiVersion"] = "apps/v1".into();
    let refusal = other.tried("one", &configuration.to_string(), false);
    assert!(refusal.is_ok(), "the story names the kind itself");
    let convert = |_: &Value, _: &str| None;
    let writer = Writer { kind: story.kind, manager: "one", subresource: None, now: "", convert: &convert };
    let refusal = apply(&writer, None, &configuration, false).expect_err("another kind");
    assert_eq!(refusal, Refusal::OtherKind("apps/v1, Kind=ConfigMap".to_owned()));
}

#[test]
fn kubectl_moves_from_client_to_server() {
    let annotation = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}}).to_string();
    let mut story = map();
    let mut object = story.object("{'data':{'a':'1','b':'1'}}");
    dig::map_mut(&mut object, "metadata.annotations")
        .insert("kubectl.kubernetes.io/last-applied-configuration".to_owned(), annotation.into());
    story
        .wrote("kubectl-client-side-apply", &object.to_string())
        .refused("other", "{'data':{'a':'2'}}", "\"kubectl-client-side-apply\" using v1: .data.a")
        .refused("kubectl", "{'data':{'a':'2','b':'2'}}", "\"kubectl-client-side-apply\" using v1: .data.b")
        .applied("kubectl", "{'data':{'a':'2'}}");
    let object = story.object.as_ref().expect("an object");
    let kept = meta::annotation(object, "kubectl.kubernetes.io/last-applied-configuration").expect("the annotation");
    let kept: Value = serde_json::from_str(kept).expect("JSON");
    assert_eq!(kept, story.object("{'data':{'a':'2'}}"));
}

#[test]
fn only_times_differ() {
    let mut story = map();
    story.wrote("one", "{'data':{'a':'1'}}");
    let old = story.object.clone().expect("an object");
    let mut new = old.clone();
    new["metadata"]["managedFields"][0]["time"] = "2027-01-01T00:00:00Z".into();
    assert!(is_same_but_for_times(&new, &old));
    new["metadata"]["managedFields"][0]["manager"] = "two".into();
    assert!(!is_same_but_for_times(&new, &old));
    let mut new = old.clone();
    new["data"]["a"] = "2".into();
    assert!(!is_same_but_for_times(&new, &old));
}

#[test]
fn a_manager_is_named_by_its_user_agent() {
    for (agent, want) in [
        ("kubectl/v1.36.0 (linux/amd64) kubernetes/abc", "kubectl"),
        ("", ""),
        ("a\u{7}b", "ab"),
        ("no-slash", "no-slash"),
    ] {
        assert_eq!(of_user_agent(agent), want);
    }
    assert_eq!(of_user_agent(&"x".repeat(200)).len(), 128);
}

#[test]
fn other_versions_are_compared_as_they_are_seen() {
    let (new_kind, old_kind) =
        (kind("autoscaling/v2", "HorizontalPodAutoscaler"), kind("autoscaling/v1", "HorizontalPodAutoscaler"));
    // The old version sees the limit only, the new one was never asked for anything else.
    let convert = |object: &Value, version: &str| {
        let kind = [new_kind, old_kind].into_iter().find(|kind| kind.api_version() == version)?;
        let mut object = object.clone();
        object["apiVersion"] = version.into();
        Some((kind.ty.clone(), object))
    };
    let object = |kind: &Kind, limit: i64| json!({"apiVersion": kind.api_version(), "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"}, "spec": {"maxReplicas": limit}});
    let writer =
        |kind, manager| Writer { kind, manager, subresource: None, now: "2026-01-01T00:00:01Z", convert: &convert };
    let mut first = object(old_kind, 1);
    update(&writer(old_kind, "one"), None, &mut first);
    first["apiVersion"] = "autoscaling/v2".into();
    let mut second = object(new_kind, 2);
    update(&writer(new_kind, "two"), Some(&first), &mut second);
    let entries = dig::list(&second, "metadata.managedFields");
    let shown: Vec<String> =
        entries.iter().map(|entry| format!("{} {}", entry["manager"], entry["apiVersion"])).collect();
    assert_eq!(shown, ["\"two\" \"autoscaling/v2\""]);
}
