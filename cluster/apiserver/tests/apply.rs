//! Server-side apply and the managers of fields, over the memory store: what a client sends and what it gets.
//!
//! Start at [`Server::apply`]. `'` stands for `"` in bodies.

mod world;

use std::sync::Arc;
use std::time::Duration;

use apiserver::{Api, Body, Credentials, User, annotate};
use base::ManualClock;
use bytes::Bytes;
use futures::executor::block_on;
use serde_json::{Value, json};

struct Server {
    api: Arc<Api>,
    clock: Arc<ManualClock>,
}

/// What a client sends beside the body.
#[derive(Clone, Copy)]
struct Client {
    agent: &'static str,
    ty: &'static str,
}

const CURL: Client = Client { agent: "curl/8", ty: "application/json" };
const APPLY: Client = Client { agent: "curl/8", ty: "application/apply-patch+yaml" };
const MERGE: Client = Client { agent: "kubectl-edit/v1.36 (linux)", ty: "application/merge-patch+json" };

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";

impl Server {
    fn new() -> Server {
        let (api, clock) = world::open(Arc::new(store::memory(annotate())));
        block_on(api.bootstrap()).expect("the first objects");
        Server { api, clock }
    }

    fn send(&self, client: Client, user: User, method: &str, path: &str, body: &str) -> (u16, Value, Vec<String>) {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header("content-type", client.ty).header("user-agent", client.agent);
        let request = request.body(Bytes::from(body.replace('\'', "\""))).expect("a request");
        let response = block_on(self.api.handle(request, Credentials::User(Arc::new(user))));
        self.clock.advance(Duration::from_secs(1));
        let warnings = response.headers.iter().filter(|(name, _)| name == "warning");
        let warnings = warnings.filter_map(|(_, value)| value.to_str().ok().map(str::to_owned)).collect();
        match response.body {
            Body::Whole(bytes) => {
                (response.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default(), warnings)
            }
            _ => panic!("one answer was expected"),
        }
    }

    fn ask(&self, client: Client, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, object, _) = self.send(client, User::new("admin", ["system:masters"]), method, path, body);
        (status, object)
    }

    #[track_caller]
    fn done(&self, client: Client, method: &str, path: &str, body: &str) -> Value {
        let (status, object) = self.ask(client, method, path, body);
        assert!(status < 300, "{method} {path}: {object}");
        object
    }

    #[track_caller]
    fn apply(&self, path: &str, options: &str, body: &str) -> Value {
        self.done(APPLY, "PATCH", &format!("{path}?{options}"), body)
    }

    #[track_caller]
    fn refused(&self, client: Client, method: &str, path: &str, body: &str, code: u16, message: &str) -> Value {
        let (status, answer) = self.ask(client, method, path, body);
        assert_eq!((status, answer["message"].as_str().unwrap_or_default()), (code, message), "{answer}");
        answer
    }

    fn read(&self, path: &str) -> Value {
        self.done(CURL, "GET", path, "")
    }
}

/// The managers of an object, as `manager/operation[/subresource] {fields}`.
fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let shown = entries.iter().map(|entry| {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let sub = if text("subresource").is_empty() { String::new() } else { format!("/{}", text("subresource")) };
        let fields = entry["fieldsV1"].to_string().replace('"', "").replace(":{}", "").replace("f:", "");
        format!("{}/{}{sub} {fields}", text("manager"), text("operation"))
    });
    shown.collect()
}

const MAP: &str =
    "{'apiVersion':'v1','kind':'ConfigMap','metadata':{'name':'m','labels':{'a':'b'}},'data':{'key':'1'}}";

#[test]
fn every_write_is_noted() {
    let server = Server::new();
    let made = server.done(CURL, "POST", MAPS, MAP);
    assert_eq!(managers(&made), ["curl/Update {data:{.,key},metadata:{labels:{.,a}}}"]);
    assert_eq!(made["metadata"]["managedFields"][0]["time"], "2026-09-21T14:13:20Z");
    let path = format!("{MAPS}/m");
    let patched = server.done(MERGE, "PATCH", &path, "{'data':{'key':'2'}}");
    assert_eq!(managers(&patched), ["curl/Update {data,metadata:{labels:{.,a}}}", "kubectl-edit/Update {data:{key}}"]);
    let named = format!("{path}?fieldManager=me");
    let replaced = server.done(CURL, "PUT", &named, &patched.to_string().replace("\"2\"", "\"3\""));
    assert_eq!(managers(&replaced), ["curl/Update {data,metadata:{labels:{.,a}}}", "me/Update {data:{key}}"]);
    // What changes nothing is not even written.
    let again = server.done(MERGE, "PATCH", &path, "{'data':{'key':'3'}}");
    assert_eq!(again, replaced);
}

#[test]
fn what_is_for_writing_only_is_noted_as_what_it_becomes() {
    let server = Server::new();
    let body = "{'apiVersion':'v1','kind':'Secret','metadata':{'name':'s'},'stringData':{'a':'b'}}";
    let path = "/api/v1/namespaces/default/secrets";
    let made = server.done(CURL, "POST", path, body);
    assert_eq!((&made["data"]["a"], managers(&made)[0].as_str()), (&json!("Yg=="), "curl/Update {data:{.,a},type}"));
    let other = body.replace("'b'", "'c'");
    let changed = server.done(MERGE, "PATCH", &format!("{path}/s"), &other);
    assert_eq!((&changed["data"]["a"], &changed["stringData"]), (&json!("Yw=="), &Value::Null));
    let applied = server.apply(&format!("{path}/t"), "fieldManager=me", &body.replace("'name':'s'", "'name':'t'"));
    assert_eq!((&applied["data"]["a"], managers(&applied)[0].as_str()), (&json!("Yg=="), "me/Apply {stringData:{a}}"));
}

#[test]
fn managers_can_be_cleared() {
    let server = Server::new();
    let path = format!("{MAPS}/m");
    for cleared in ["[]", "[{}]"] {
        server.done(CURL, "POST", MAPS, MAP);
        let patch = format!("{{'metadata':{{'managedFields':{cleared}}}}}");
        assert_eq!(managers(&server.done(MERGE, "PATCH", &path, &patch)).len(), 0, "{cleared}");
        assert_eq!(managers(&server.done(MERGE, "PATCH", &path, "{'data':{'x':'y'}}")).len(), 0);
        let conflict = "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.x";
        let other = MAP.replace("'key':'1'", "'x':'z'");
        server.refused(APPLY, "PATCH", &format!("{path}?fieldManager=me"), &other, 409, conflict);
        server.done(CURL, "DELETE", &path, "");
    }
    let sent =
        "[{'apiVersion':'v1','fieldsType':'FieldsV1','fieldsV1':{'f:data':{}},'manager':'x','operation':'Update'}]";
    let body = MAP.replace("'name':'m'", &format!("'name':'m','managedFields':{sent}"));
    server.done(CURL, "POST", MAPS, MAP);
    assert_eq!(managers(&server.done(CURL, "PUT", &path, &body)), ["x/Update {data}"]);
}

#[test]
fn applying_creates_and_updates() {
    let server = Server::new();
    let path = format!("{MAPS}/m?fieldManager=me");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: '1'\n  b: '1'\n";
    let (status, made) = server.ask(APPLY, "PATCH", &path, yaml);
    assert_eq!((status, managers(&made)), (201, vec!["me/Apply {data:{a,b}}".to_owned()]), "{made}");
    let (status, changed) = server.ask(APPLY, "PATCH", &path, &yaml.replace("  b: '1'\n", "  c: '1'\n"));
    assert_eq!((status, changed["data"].to_string()), (200, "{\"a\":\"1\",\"c\":\"1\"}".to_owned()));
    // The same again is no news.
    assert_eq!(
        server.apply(&format!("{MAPS}/m"), "fieldManager=me", &yaml.replace("  b: '1'\n", "  c: '1'\n")),
        changed
    );
    let (status, dry) = server.ask(APPLY, "PATCH", &format!("{path}&dryRun=All"), yaml);
    assert_eq!((status, dry["data"].to_string()), (200, "{\"a\":\"1\",\"b\":\"1\"}".to_owned()));
    assert_eq!(server.read(&format!("{MAPS}/m")), changed);
    let (status, dry) = server.ask(
        APPLY,
        "PATCH",
        &format!("{MAPS}/other?fieldManager=me&dryRun=All"),
        &yaml.replace("name: m", "name: other"),
    );
    assert_eq!((status, &dry["metadata"]["name"]), (201, &json!("other")));
    assert_eq!(server.ask(CURL, "GET", &format!("{MAPS}/other"), "").0, 404);
}

#[test]
fn conflicts_speak_upstreams_words() {
    let server = Server::new();
    let client_side = Client { agent: "kubectl/v1.36", ..CURL };
    let path = format!("{MAPS}/m");
    server.done(client_side, "POST", &format!("{MAPS}?fieldManager=kubectl-client-side-apply"), MAP);
    let wanted = MAP.replace("'1'", "'2'");
    let told = server.refused(
        APPLY,
        "PATCH",
        &format!("{path}?fieldManager=me"),
        &wanted,
        409,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.key",
    );
    assert_eq!(
        told,
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Conflict", "code": 409,
            "message": "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.key",
            "details": {"causes": [{
                "reason": "FieldManagerConflict", "field": ".data.key",
                "message": "conflict with \"kubectl-client-side-apply\" using v1",
            }]},
        })
    );
    server.refused(
        APPLY,
        "PATCH",
        &format!("{path}?fieldManager=me"),
        &wanted.replace("'b'", "'c'"),
        409,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using v1:\n- .data.key\n- .metadata.labels.a",
    );
    let forced = server.apply(&path, "fieldManager=me&force=true", &wanted);
    assert_eq!(
        managers(&forced),
        [
            "me/Apply {data:{key},metadata:{labels:{a}}}",
            "kubectl-client-side-apply/Update {data,metadata:{labels:{.,a}}}"
        ]
    );
}

#[test]
fn wrong_requests_are_refused() {
    let server = Server::new();
    let path = format!("{MAPS}/m");
    let mine = format!("{path}?fieldManager=me");
    let check = |path: &str, body: &str, code: u16, message: &str| {
        server.refused(APPLY, "PATCH", path, body, code, message);
    };
    check(
        &path,
        MAP,
        422,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
    );
    check(&mine, &MAP.replace("'v1'", "'apps/v1'"), 400, "invalid object type: apps/v1, Kind=ConfigMap");
    check(&mine, &MAP.replace("ConfigMap", "Secret"), 400, "invalid object type: /v1, Kind=Secret");
    check(
        &mine,
        &MAP.replace("'name':'m'", "'name':'n'"),
        400,
        "the name of the object (n) does not match the name on the URL (m)",
    );
    check(&mine, &MAP.replace("'name'", "'managedFields':[],'name'"), 400, "metadata.managedFields must be nil");
    check(
        &mine,
        &MAP.replace("'data'", "'dat'"),
        500,
        "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .dat: field not declared in schema",
    );
    check(
        &mine,
        &MAP.replace("'name'", "'uid':'u','name'"),
        409,
        "Operation cannot be fulfilled on configmaps \"m\": uid mismatch: the provided object specified uid u, and no \
         existing object was found",
    );
    server.done(CURL, "POST", MAPS, MAP);
    check(
        &mine,
        &MAP.replace("'name'", "'resourceVersion':'1','name'"),
        409,
        "Operation cannot be fulfilled on configmaps \"m\": the object has been modified; please apply your changes to the \
         latest version and try again",
    );
    server.refused(
        MERGE,
        "PATCH",
        &format!("{path}?force=true"),
        "{}",
        422,
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
    );
    server.refused(
        CURL,
        "POST",
        &format!("{MAPS}?fieldManager={}", "x".repeat(129)),
        MAP,
        422,
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes",
    );
    server.refused(
        APPLY,
        "PATCH",
        &format!("{MAPS}/x/status?fieldManager=me"),
        MAP,
        404,
        "the server could not find the requested resource",
    );
    check(
        &format!("{WEB}/status?fieldManager=me"),
        "{'apiVersion':'apps/v1','kind':'Deployment','metadata':{'name':'web'}}",
        404,
        "deployments.apps \"web\" not found",
    );
}

#[test]
fn fields_that_are_said_twice_are_told_as_wished() {
    let server = Server::new();
    let twice = MAP.replace("'key':'1'", "'key':'1','key':'2'");
    let admin = || User::new("admin", ["system:masters"]);
    let send = |validation: &str| {
        let path = format!("{MAPS}/m?fieldManager=me&fieldValidation={validation}");
        server.send(APPLY, admin(), "PATCH", &path, &twice)
    };
    let (status, answer, _) = send("Strict");
    assert_eq!(
        (status, answer["message"].as_str()),
        (400, Some("error strict decoding patch: duplicate field \"data.key\""))
    );
    let (status, answer, warnings) = send("Warn");
    assert_eq!((status, &answer["data"]["key"]), (201, &json!("2")));
    assert_eq!(warnings, ["299 - \"duplicate field \\\"data.key\\\"\""]);
    assert_eq!(send("Ignore").2.len(), 0);
    let path = format!("{MAPS}/m?fieldManager=me&fieldValidation=Strict");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata:\n  a: p\n  a: q\n";
    let (status, answer, _) = server.send(APPLY, admin(), "PATCH", &path, yaml);
    assert_eq!(status, 400, "{answer}");
    assert!(
        answer["message"].as_str().is_some_and(|text| text.starts_with("error strict decoding patch: error")),
        "{answer}"
    );
}

#[test]
fn whoever_creates_by_applying_may_create() {
    let server = Server::new();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}],
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    server.done(CURL, "POST", &format!("{rbac}/roles"), &role.to_string());
    server.done(CURL, "POST", &format!("{rbac}/rolebindings"), &binding.to_string());
    let path = format!("{MAPS}/m?fieldManager=me");
    let eve = || User::new("eve", []);
    let (status, answer, _) = server.send(APPLY, eve(), "PATCH", &path, MAP);
    assert_eq!(status, 403);
    assert_eq!(
        answer["message"],
        "configmaps \"m\" is forbidden: User \"eve\" cannot create resource \"configmaps\" in API group \"\" in the namespace \
         \"default\""
    );
    server.done(CURL, "POST", MAPS, MAP);
    assert_eq!(server.send(APPLY, eve(), "PATCH", &path, MAP).0, 200);
}

fn deployment(spec: &str) -> String {
    format!(
        "{{'apiVersion':'apps/v1','kind':'Deployment','metadata':{{'name':'web'}},'spec':{{'selector':{{'matchLabels':\
         {{'app':'web'}}}},'template':{{'metadata':{{'labels':{{'app':'web'}}}},'spec':{{'containers':[{{'name':'c','image'\
         :'i'}}]}}}}{spec}}}}}"
    )
}

#[test]
fn status_and_scale_have_managers_of_their_own() {
    let server = Server::new();
    server.apply(WEB, "fieldManager=me", &deployment(",'replicas':1"));
    let status = "{'apiVersion':'apps/v1','kind':'Deployment','metadata':{'name':'web'},'spec':{'replicas':9},'status':\
                  {'replicas':1,'conditions':[{'type':'Available','status':'True','reason':'r','message':'m'}]}}";
    let object = server.apply(&format!("{WEB}/status"), "fieldManager=them", status);
    assert_eq!(object["spec"]["replicas"], 1);
    assert_eq!(object["status"]["replicas"], 1);
    let told = managers(&object);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].starts_with("them/Apply/status {status:{conditions:{k:{"), "{told:?}");
    // Whoever scales takes the replicas, and nothing else.
    let scale = "{'apiVersion':'autoscaling/v1','kind':'Scale','metadata':{'name':'web'},'spec':{'replicas':3}}";
    let path = format!("{WEB}/scale?fieldManager=scaler");
    assert_eq!(server.done(CURL, "PUT", &path, scale)["spec"]["replicas"], 3);
    let object = server.read(WEB);
    assert!(managers(&object).contains(&"scaler/Update/scale {spec:{replicas}}".to_owned()), "{:?}", managers(&object));
    server.refused(
        APPLY,
        "PATCH",
        &format!("{WEB}?fieldManager=me"),
        &deployment(",'replicas':1"),
        409,
        "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using apps/v1: .spec.replicas",
    );
    // Who no longer says how many leaves it to the scaler.
    assert_eq!(server.apply(WEB, "fieldManager=me", &deployment(""))["spec"]["replicas"], 3);
    let path = format!("{WEB}/scale?fieldManager=other");
    server.refused(
        APPLY,
        "PATCH",
        &path,
        &scale.replace('3', "4"),
        409,
        "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using apps/v1: .spec.replicas",
    );
    assert_eq!(
        server.done(APPLY, "PATCH", &format!("{path}&force=true"), &scale.replace('3', "4"))["spec"]["replicas"],
        4
    );
    assert!(managers(&server.read(WEB)).contains(&"other/Apply/scale {spec:{replicas}}".to_owned()));
    server.refused(APPLY, "PATCH", &path, &deployment(""), 400, "invalid object type: apps/v1, Kind=Deployment");
}

#[test]
fn defaults_belong_to_nobody_who_applies() {
    let server = Server::new();
    let object = server.apply(WEB, "fieldManager=me", &deployment(""));
    assert_eq!(object["spec"]["replicas"], 1);
    assert_eq!(object["spec"]["template"]["spec"]["restartPolicy"], "Always");
    assert_eq!(
        managers(&object),
        [
            "me/Apply {spec:{selector,template:{metadata:{labels:{app}},spec:{containers:{k:{\\name\\:\\c\\}:{.,image,name}}}}}}"
        ]
    );
    // Nobody stands in the way of who wants another number.
    assert_eq!(
        server.apply(WEB, "fieldManager=you", "{'apiVersion':'apps/v1','kind':'Deployment','spec':{'replicas':2}}")["spec"]
            ["replicas"],
        2
    );
}

#[test]
fn versions_of_a_kind_see_each_others_managers() {
    let server = Server::new();
    let body = "{'apiVersion':'autoscaling/v1','kind':'HorizontalPodAutoscaler','metadata':{'name':'a'},'spec':{'maxReplicas':3,\
                'scaleTargetRef':{'apiVersion':'apps/v1','kind':'Deployment','name':'web'},'targetCPUUtilizationPercentage':80}}";
    let old = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    server.done(CURL, "POST", old, body);
    let new = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/a";
    let wanted = "{'apiVersion':'autoscaling/v2','kind':'HorizontalPodAutoscaler','metadata':{'name':'a'},'spec':{'maxReplicas':4}}";
    server.refused(
        APPLY,
        "PATCH",
        &format!("{new}?fieldManager=me"),
        wanted,
        409,
        "Apply failed with 1 conflict: conflict with \"curl\" using autoscaling/v1: .spec.maxReplicas",
    );
    let object = server.apply(new, "fieldManager=me&force=true", wanted);
    assert_eq!(object["spec"]["maxReplicas"], 4);
    let versions: Vec<&Value> = object["metadata"]["managedFields"]
        .as_array()
        .expect("managers")
        .iter()
        .map(|one| &one["apiVersion"])
        .collect();
    assert_eq!(versions, ["autoscaling/v2", "autoscaling/v1"]);
}

const DEFINITION: &str = "{'apiVersion':'apiextensions.k8s.io/v1','kind':'CustomResourceDefinition','metadata':{'name':\
    'toys.example.com'},'spec':{'group':'example.com','scope':'Namespaced','names':{'plural':'toys','singular':'toy','kind':'Toy',\
    'listKind':'ToyList'},'versions':[{'name':'v1','served':true,'storage':true,'subresources':{'status':{},'scale':{\
    'specReplicasPath':'.spec.count','statusReplicasPath':'.status.count'}},'schema':{'openAPIV3Schema':{'type':'object',\
    'properties':{'spec':{'type':'object','properties':{'count':{'type':'integer'},'size':{'type':'string','default':'m'},'parts':\
    {'type':'array','x-kubernetes-list-type':'map','x-kubernetes-list-map-keys':['name'],'items':{'type':'object','required':\
    ['name'],'properties':{'name':{'type':'string'},'colour':{'type':'string'}}}}}},'status':{'type':'object','properties':\
    {'count':{'type':'integer'}}}}}}},{'name':'v2','served':true,'storage':false,'schema':{'openAPIV3Schema':{'type':'object',\
    'x-kubernetes-preserve-unknown-fields':true}}}]}}";

fn toy(spec: &str) -> String {
    format!("{{'apiVersion':'example.com/v1','kind':'Toy','metadata':{{'name':'t'}},'spec':{{{spec}}}}}")
}

#[test]
fn custom_resources_take_the_same_road() {
    let server = Server::new();
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.done(CURL, "POST", definitions, DEFINITION);
    // What the controller of definitions would write.
    let established = "{'status':{'acceptedNames':{'plural':'toys','singular':'toy','kind':'Toy','listKind':'ToyList'},\
                       'conditions':[{'type':'NamesAccepted','status':'True'},{'type':'Established','status':'True'}]}}";
    server.done(MERGE, "PATCH", &format!("{definitions}/toys.example.com/status"), established);
    let path = "/apis/example.com/v1/namespaces/default/toys/t";
    let made = server.apply(path, "fieldManager=me", &toy("'count':1,'parts':[{'name':'a','colour':'red'}]"));
    assert_eq!(managers(&made), ["me/Apply {spec:{count,parts:{k:{\\name\\:\\a\\}:{.,colour,name}}}}"]);
    assert_eq!(made["spec"]["size"], "m");
    let both = server.apply(path, "fieldManager=you", &toy("'parts':[{'name':'b'}]"));
    assert_eq!(both["spec"]["parts"], json!([{"name": "a", "colour": "red"}, {"name": "b"}]));
    let left = server.apply(path, "fieldManager=me", &toy("'count':1"));
    assert_eq!(left["spec"]["parts"], json!([{"name": "b"}]));
    server.refused(
        APPLY,
        "PATCH",
        &format!("{path}?fieldManager=you"),
        &toy("'colour':'red'"),
        500,
        "failed to create typed patch object (/t; example.com/v1, Kind=Toy): .spec.colour: field not declared in schema",
    );
    let scale = "{'apiVersion':'autoscaling/v1','kind':'Scale','metadata':{'name':'t'},'spec':{'replicas':3}}";
    server.done(CURL, "PUT", &format!("{path}/scale?fieldManager=scaler"), scale);
    let conflict = "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using example.com/v1: \
                    .spec.count";
    server.refused(APPLY, "PATCH", &format!("{path}?fieldManager=me"), &toy("'count':1"), 409, conflict);
    let status = server.done(MERGE, "PATCH", &format!("{path}/status"), "{'status':{'count':2},'spec':{'count':9}}");
    assert!(
        managers(&status).contains(&"kubectl-edit/Update/status {status:{.,count}}".to_owned()),
        "{:?}",
        managers(&status)
    );
    // Another version has another schema; owners are kept apart by version.
    let other = path.replace("v1", "v2");
    let free = toy("'count':3,'free':{'a':['b']}").replace("example.com/v1", "example.com/v2");
    let object = server.apply(&other, "fieldManager=third", &free);
    assert_eq!(object["spec"]["free"], json!({"a": ["b"]}));
    assert!(
        managers(&object).contains(&"third/Apply {spec:{.,count,free:{.,a}}}".to_owned()),
        "{:?}",
        managers(&object)
    );
}
