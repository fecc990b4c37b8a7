//! What can be done at which path, as OpenAPI operations.
//!
//! Start at [`all`]. An [`Operation`] is built once from a kind's row and written in either dialect. Clients read from
//! here which query parameters a server knows: `kubectl` looks for `fieldValidation` and `dryRun` below `patch`.
//!
//! Not here: schemas (`schemas.rs`); the paths of watches by prefix, which upstream itself calls deprecated.

use serde_json::{Map, Value, json};

use super::{Dialect, schemas};
use crate::kinds::{Kind, Subresource, Verbs};

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const RESOURCE_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const ENCODINGS: &[&str] = &[JSON, YAML, PROTOBUF];
const WATCH_ENCODINGS: &[&str] =
    &[JSON, YAML, PROTOBUF, "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
/// Custom resources have no protobuf form.
const OWN_ENCODINGS: &[&str] = &[JSON, YAML];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Query parameters: name, type, what it is.
type Parameter = (&'static str, &'static str, &'static str);

const ALLOW_WATCH_BOOKMARKS: Parameter = ("allowWatchBookmarks", "boolean", "the watch may carry bookmarks");
const CONTINUE: Parameter = ("continue", "string", "where the page before ended");
const DRY_RUN: Parameter = ("dryRun", "string", "`All`: go through every stage, store nothing");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "who is making the change");
const FIELD_SELECTOR: Parameter = ("fieldSelector", "string", "only objects whose fields match");
const FIELD_VALIDATION: Parameter =
    ("fieldValidation", "string", "unknown and duplicate fields: `Ignore`, `Warn` or `Strict`");
const FORCE: Parameter = ("force", "boolean", "apply takes over fields that others manage");
const GRACE: Parameter = ("gracePeriodSeconds", "integer", "how long the object may take to end");
const IGNORE_READ_ERROR: Parameter =
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "delete an object that cannot be read");
const LABEL_SELECTOR: Parameter = ("labelSelector", "string", "only objects whose labels match");
const LIMIT: Parameter = ("limit", "integer", "at most so many objects a page");
const ORPHAN: Parameter = ("orphanDependents", "boolean", "old form of the propagation policy `Orphan`");
const PRETTY: Parameter = ("pretty", "string", "`true`: indented output");
const PROPAGATION: Parameter = ("propagationPolicy", "string", "dependents: `Orphan`, `Background` or `Foreground`");
const RESOURCE_VERSION: Parameter =
    ("resourceVersion", "string", "how fresh the answer must be, or where a watch starts");
const RESOURCE_VERSION_MATCH: Parameter = ("resourceVersionMatch", "string", "`NotOlderThan` or `Exact`");
const SEND_INITIAL_EVENTS: Parameter = ("sendInitialEvents", "boolean", "a watch begins with what there is");
const TIMEOUT: Parameter = ("timeoutSeconds", "integer", "how long a list or watch may take");
const WATCH: Parameter = ("watch", "boolean", "stream changes instead of listing");

const ON_LIST: &[Parameter] = &[
    ALLOW_WATCH_BOOKMARKS,
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    TIMEOUT,
    WATCH,
];
const ON_DELETE_COLLECTION: &[Parameter] = &[
    CONTINUE,
    DRY_RUN,
    FIELD_SELECTOR,
    GRACE,
    IGNORE_READ_ERROR,
    LABEL_SELECTOR,
    LIMIT,
    ORPHAN,
    PROPAGATION,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    TIMEOUT,
];
const ON_WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const ON_PATCH: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const ON_DELETE: &[Parameter] = &[DRY_RUN, GRACE, IGNORE_READ_ERROR, ORPHAN, PROPAGATION];

/// Query parameters of the subresources that open a connection.
fn connect_parameters(speaks: &str) -> &'static [Parameter] {
    const CONTAINER: Parameter = ("container", "string", "which container; the only one if there is one");
    const STDERR: Parameter = ("stderr", "boolean", "carry standard error");
    const STDIN: Parameter = ("stdin", "boolean", "carry standard input");
    const STDOUT: Parameter = ("stdout", "boolean", "carry standard output");
    const TTY: Parameter = ("tty", "boolean", "give the command a terminal");
    match speaks {
        "PodAttachOptions" => &[CONTAINER, STDERR, STDIN, STDOUT, TTY],
        "PodExecOptions" => {
            &[("command", "string", "the command, a word each time"), CONTAINER, STDERR, STDIN, STDOUT, TTY]
        }
        "PodPortForwardOptions" => &[("ports", "integer", "ports to forward")],
        _ => &[("path", "string", "the path to ask for behind the proxy")],
    }
}

const ON_LOG: &[Parameter] = &[
    ("container", "string", "which container; the only one if there is one"),
    ("follow", "boolean", "go on as the log grows"),
    ("insecureSkipTLSVerifyBackend", "boolean", "do not verify the kubelet's certificate"),
    ("limitBytes", "integer", "stop after so many bytes"),
    ("previous", "boolean", "the log of the container before the last restart"),
    ("sinceSeconds", "integer", "only lines of the last so many seconds"),
    ("stream", "string", "`All`, `Stdout` or `Stderr`"),
    ("tailLines", "integer", "only the last so many lines"),
    ("timestamps", "boolean", "put the time before each line"),
];

/// One thing that can be done at a path.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    id: String,
    description: String,
    /// Group, version, kind.
    speaks: (&'a str, &'a str, &'a str),
    parameters: &'static [Parameter],
    /// The body's schema, and whether there must be one.
    body: Option<(String, bool)>,
    consumes: &'static [&'static str],
    produces: &'static [&'static str],
    /// The answer's schema; plain text if there is none.
    answer: Option<String>,
    codes: &'static [&'static str],
}

/// Every path of the kinds.
pub(super) fn all(kinds: &[&Kind], dialect: Dialect) -> Value {
    let mut paths = Map::new();
    for kind in kinds {
        of_kind(kind, dialect, &mut paths);
        let root = root(kind);
        let id = format!("get{}APIResources", camel_version(kind));
        let resources = json!({"get": describe_resources(&id, &tag(kind), dialect)});
        paths.entry(format!("{root}/")).or_insert(resources);
    }
    Value::Object(paths)
}

fn root(kind: &Kind) -> String {
    match kind.group.as_ref() {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    }
}

fn tag(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group.trim_end_matches(".k8s.io") };
    format!("{}_{}", camel(group, false), kind.version)
}

/// `AppsV1`, `RbacAuthorizationV1`, `CoreV1`.
fn camel_version(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group.trim_end_matches(".k8s.io") };
    format!("{}{}", camel(group, true), camel(&kind.version, true))
}

fn camel(text: &str, mut upper: bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '.' | '-' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

fn of_kind(kind: &Kind, dialect: Dialect, paths: &mut Map<String, Value>) {
    let root = root(kind);
    let scoped = if kind.namespaced { "Namespaced" } else { "" };
    let base = match kind.namespaced {
        true => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
        false => format!("{root}/{}", kind.plural),
    };
    let collection = on_collection(kind, scoped);
    put(paths, &base, path_parameters(kind, false), collection, kind, dialect);
    if kind.namespaced && kind.verbs.has(Verbs::LIST) {
        let everywhere = vec![list(kind, format!("list{}{}ForAllNamespaces", camel_version(kind), kind.kind))];
        put(paths, &format!("{root}/{}", kind.plural), vec![], everywhere, kind, dialect);
    }
    let one = on_object(kind, "", &schemas::name_of(kind), (&kind.group, &kind.version, &kind.kind), kind.verbs);
    put(paths, &format!("{base}/{{name}}"), path_parameters(kind, true), one, kind, dialect);
    for sub in &kind.subresources {
        let operations = on_subresource(kind, sub);
        put(paths, &format!("{base}/{{name}}/{}", sub.name), path_parameters(kind, true), operations, kind, dialect);
    }
}

/// Names in the path: parameter and what it is.
fn path_parameters(kind: &Kind, object: bool) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if object {
        found.push(("name", format!("name of the {}", kind.kind)));
    }
    if kind.namespaced {
        found.push(("namespace", "the namespace".to_owned()));
    }
    found
}

fn encodings(kind: &Kind) -> &'static [&'static str] {
    match kind.ty {
        crate::schema::TypeRef::BuiltIn(_) => ENCODINGS,
        crate::schema::TypeRef::Own(_) => OWN_ENCODINGS,
    }
}

fn on_collection<'a>(kind: &'a Kind, scoped: &str) -> Vec<Operation<'a>> {
    let version = camel_version(kind);
    let speaks = (kind.group.as_ref(), kind.version.as_ref(), kind.kind.as_ref());
    let mut found = Vec::new();
    if kind.verbs.has(Verbs::LIST) {
        found.push(list(kind, format!("list{version}{scoped}{}", kind.kind)));
    }
    if kind.verbs.has(Verbs::CREATE) {
        found.push(Operation {
            method: "post",
            action: "post",
            id: format!("create{version}{scoped}{}", kind.kind),
            description: format!("create a {}", kind.kind),
            speaks,
            parameters: ON_WRITE,
            body: Some((schemas::name_of(kind), true)),
            consumes: &["*/*"],
            produces: encodings(kind),
            answer: Some(schemas::name_of(kind)),
            codes: &["200", "201", "202"],
        });
    }
    if kind.verbs.has(Verbs::DELETE_COLLECTION) {
        found.push(Operation {
            method: "delete",
            action: "deletecollection",
            id: format!("delete{version}Collection{scoped}{}", kind.kind),
            description: format!("delete every {} that matches", kind.kind),
            speaks,
            parameters: ON_DELETE_COLLECTION,
            body: Some((DELETE_OPTIONS.to_owned(), false)),
            consumes: &["*/*"],
            produces: encodings(kind),
            answer: Some(STATUS.to_owned()),
            codes: &["200"],
        });
    }
    found
}

fn list(kind: &Kind, id: String) -> Operation<'_> {
    Operation {
        method: "get",
        action: "list",
        id,
        description: format!("list or watch {}", kind.plural),
        speaks: (&kind.group, &kind.version, &kind.kind),
        parameters: ON_LIST,
        body: None,
        consumes: &["*/*"],
        produces: if encodings(kind) == ENCODINGS { WATCH_ENCODINGS } else { OWN_ENCODINGS },
        answer: Some(schemas::list_name_of(kind)),
        codes: &["200"],
    }
}

/// What can be done with one object, or with a subresource that is read and written like one.
fn on_object<'a>(
    kind: &'a Kind,
    suffix: &str,
    schema: &str,
    speaks: (&'a str, &'a str, &'a str),
    verbs: Verbs,
) -> Vec<Operation<'a>> {
    let scoped = if kind.namespaced { "Namespaced" } else { "" };
    let about = |verb: &str| format!("{verb}{}{scoped}{}{suffix}", camel_version(kind), kind.kind);
    let thing = if suffix.is_empty() {
        kind.kind.to_string()
    } else {
        format!("{} of the {}", suffix.to_lowercase(), kind.kind)
    };
    let basic = |method, action, verb: &str| Operation {
        method,
        action,
        id: about(verb),
        description: format!("{verb} the {thing}"),
        speaks,
        parameters: &[],
        body: None,
        consumes: &["*/*"],
        produces: encodings(kind),
        answer: Some(schema.to_owned()),
        codes: &["200"],
    };
    let mut found = Vec::new();
    if verbs.has(Verbs::GET) {
        found.push(basic("get", "get", "read"));
    }
    if verbs.has(Verbs::UPDATE) {
        let body = Some((schema.to_owned(), true));
        found.push(Operation { parameters: ON_WRITE, body, codes: &["200", "201"], ..basic("put", "put", "replace") });
    }
    if verbs.has(Verbs::PATCH) {
        let body = Some((PATCH.to_owned(), true));
        let patch = basic("patch", "patch", "patch");
        found.push(Operation { parameters: ON_PATCH, body, consumes: PATCHES, codes: &["200", "201"], ..patch });
    }
    if verbs.has(Verbs::CREATE) && !suffix.is_empty() {
        let body = Some((schema.to_owned(), true));
        let create = basic("post", "post", "create");
        found.push(Operation { parameters: ON_WRITE, body, codes: &["200", "201", "202"], ..create });
    }
    if verbs.has(Verbs::DELETE) {
        let body = Some((DELETE_OPTIONS.to_owned(), false));
        let answer = Some(STATUS.to_owned());
        let delete = basic("delete", "delete", "delete");
        found.push(Operation { parameters: ON_DELETE, body, answer, codes: &["200", "202"], ..delete });
    }
    found
}

fn on_subresource<'a>(kind: &'a Kind, sub: &'a Subresource) -> Vec<Operation<'a>> {
    let speaks = (sub.group.as_ref(), sub.version.as_ref(), sub.kind.as_ref());
    let suffix = camel(&sub.name, true);
    if sub.kind.ends_with("Options") {
        let scoped = if kind.namespaced { "Namespaced" } else { "" };
        return ["delete", "get", "patch", "post", "put"]
            .into_iter()
            .filter(|method| sub.verbs.has(verb_of(method)))
            .map(|method| Operation {
                method,
                action: "connect",
                id: format!("connect{}{}{scoped}{}{suffix}", camel_version(kind), camel(method, true), kind.kind),
                description: format!("connect {} requests to {} of the {}", method.to_uppercase(), sub.name, kind.kind),
                speaks,
                parameters: connect_parameters(&sub.kind),
                body: None,
                consumes: &["*/*"],
                produces: &["*/*"],
                answer: None,
                codes: &["200"],
            })
            .collect();
    }
    let schema = match (sub.group.as_ref(), sub.kind.as_ref()) {
        (group, name) if group == kind.group && name == kind.kind => schemas::name_of(kind),
        ("", name) => format!("io.k8s.api.core.v1.{name}"),
        (group, name) => format!("io.k8s.api.{}.{}.{name}", group.split('.').next().unwrap_or_default(), sub.version),
    };
    let mut found = on_object(kind, &suffix, &schema, speaks, sub.verbs);
    if sub.name == "log" {
        for operation in &mut found {
            (operation.parameters, operation.answer, operation.produces) = (ON_LOG, None, &["text/plain", JSON, YAML]);
        }
    }
    found
}

fn verb_of(method: &str) -> Verbs {
    match method {
        "get" => Verbs::GET,
        "post" => Verbs::CREATE,
        "put" => Verbs::UPDATE,
        "patch" => Verbs::PATCH,
        _ => Verbs::DELETE,
    }
}

fn put(
    paths: &mut Map<String, Value>,
    path: &str,
    in_path: Vec<(&'static str, String)>,
    operations: Vec<Operation<'_>>,
    kind: &Kind,
    dialect: Dialect,
) {
    if operations.is_empty() {
        return;
    }
    let mut item = Map::new();
    let mut parameters: Vec<Value> =
        in_path.iter().map(|(name, what)| parameter(&(*name, "string", ""), what, "path", dialect)).collect();
    parameters.push(parameter(&PRETTY, PRETTY.2, "query", dialect));
    item.insert("parameters".to_owned(), parameters.into());
    for operation in operations {
        item.insert(operation.method.to_owned(), write(&operation, kind, dialect));
    }
    paths.insert(path.to_owned(), Value::Object(item));
}

fn parameter(parameter: &Parameter, what: &str, place: &str, dialect: Dialect) -> Value {
    let &(name, ty, _) = parameter;
    let mut value = json!({"name": name, "in": place, "description": what});
    if place == "path" {
        value["required"] = true.into();
    }
    match dialect {
        Dialect::V2 => value["type"] = ty.into(),
        Dialect::V3 => value["schema"] = json!({"type": ty}),
    }
    if dialect == Dialect::V2 {
        value["uniqueItems"] = true.into();
    } else {
        value["schema"]["uniqueItems"] = true.into();
    }
    value
}

fn write(operation: &Operation<'_>, kind: &Kind, dialect: Dialect) -> Value {
    let (group, version, speaks) = operation.speaks;
    let mut parameters: Vec<Value> =
        operation.parameters.iter().map(|one| parameter(one, one.2, "query", dialect)).collect();
    let mut value = json!({
        "description": operation.description,
        "operationId": operation.id,
        "tags": [tag(kind)],
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": speaks},
    });
    let mut answers = Map::new();
    for code in operation.codes {
        let what = match *code {
            "201" => "Created",
            "202" => "Accepted",
            _ => "OK",
        };
        answers.insert((*code).to_owned(), answer(what, operation, dialect));
    }
    answers.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    value["responses"] = answers.into();
    match (dialect, &operation.body) {
        (Dialect::V2, body) => {
            if let Some((schema, required)) = body {
                let mut parameter = json!({"name": "body", "in": "body", "schema": dialect.reference(schema)});
                if *required {
                    parameter["required"] = true.into();
                }
                parameters.insert(0, parameter);
            }
            value["consumes"] = operation.consumes.into();
            value["produces"] = operation.produces.into();
            value["schemes"] = json!(["https"]);
        }
        (Dialect::V3, Some((schema, required))) => {
            let one = |encoding: &&str| ((*encoding).to_owned(), json!({"schema": dialect.reference(schema)}));
            let content: Map<String, Value> = operation.consumes.iter().map(one).collect();
            value["requestBody"] = json!({"content": content});
            if *required {
                value["requestBody"]["required"] = true.into();
            }
        }
        (Dialect::V3, None) => {}
    }
    if !parameters.is_empty() {
        value["parameters"] = parameters.into();
    }
    value
}

fn answer(what: &str, operation: &Operation<'_>, dialect: Dialect) -> Value {
    let schema = match &operation.answer {
        Some(schema) => dialect.reference(schema),
        None => json!({"type": "string"}),
    };
    match dialect {
        Dialect::V2 => json!({"description": what, "schema": schema}),
        Dialect::V3 => {
            let one = |encoding: &&str| ((*encoding).to_owned(), json!({"schema": schema}));
            let content: Map<String, Value> = operation.produces.iter().map(one).collect();
            json!({"description": what, "content": content})
        }
    }
}

fn describe_resources(id: &str, tag: &str, dialect: Dialect) -> Value {
    let schema = dialect.reference(RESOURCE_LIST);
    let answer = match dialect {
        Dialect::V2 => json!({"description": "OK", "schema": schema}),
        Dialect::V3 => {
            json!({"description": "OK", "content": {JSON: {"schema": schema}, PROTOBUF: {"schema": schema}}})
        }
    };
    json!({
        "description": "get available resources",
        "operationId": id,
        "tags": [tag],
        "responses": {"200": answer, "401": {"description": "Unauthorized"}},
    })
}
