//! Objects and what is wrong with them, in upstream's words.
//!
//! Start at [`broken`] and [`changed`]; objects are JSON with single quotes, defaulted before they are judged.

use super::{create, subresource_update, update};
use crate::defaults;
use crate::kinds::{self, Kind};
use serde_json::{Value, json};

fn kind(api_version: &str, name: &str) -> &'static Kind {
    let (group, version) = kinds::split_api_version(api_version);
    kinds::find_kind(group, version, name).unwrap_or_else(|| panic!("no kind {name}"))
}

/// The object, named `x` in namespace `d` unless it says otherwise, and defaulted.
fn read(kind: &Kind, text: &str) -> Value {
    let mut object: Value =
        serde_json::from_str(&text.replace('\'', "\"")).unwrap_or_else(|error| panic!("{text}: {error}"));
    let metadata = crate::meta::metadata_mut(&mut object);
    metadata.entry("name").or_insert(json!("x"));
    metadata.entry("resourceVersion").or_insert(json!("1"));
    if kind.namespaced {
        metadata.entry("namespace").or_insert(json!("d"));
    }
    defaults::apply(kind, &mut object);
    object
}

/// A new object has exactly these faults; long ones may be cut with `…`.
fn broken(api_version: &str, name: &str, text: &str, want: &[&str]) {
    let kind = kind(api_version, name);
    compare(create(kind, &read(kind, text)), want, text);
}

/// An object in the place of another has exactly these faults.
fn changed(api_version: &str, name: &str, old: &str, new: &str, want: &[&str]) {
    let kind = kind(api_version, name);
    compare(update(kind, &read(kind, new), &read(kind, old)), want, new);
}

fn compare(found: Vec<crate::FieldError>, want: &[&str], text: &str) {
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    let same = found.len() == want.len()
        && found.iter().zip(want).all(|(found, want)| match want.strip_suffix('…') {
            Some(start) => found.starts_with(start),
            None => found == want,
        });
    assert!(same, "{text}\nfound: {found:#?}\nwanted: {want:#?}");
}

#[test]
fn metadata() {
    let config = |metadata: &str| format!("{{'metadata':{{{metadata}}}}}");
    for (metadata, want) in [
        ("'name':'a'", &[][..]),
        ("'name':'A_b'", &["metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must…"]),
        ("'name':''", &["metadata.name: Required value: name or generateName is required"]),
        ("'labels':{'-a':'b'}", &["metadata.labels: Invalid value: \"-a\": name part must consist of…"]),
        (
            "'labels':{'a':'b c'}",
            &["metadata.labels: Invalid value: \"b c\": a valid label must be an empty string or…"],
        ),
        ("'annotations':{'A/b/c':''}", &["metadata.annotations: Invalid value: \"A/b/c\": a valid label key must…"]),
        (
            "'finalizers':['orphan','foregroundDeletion']",
            &[
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
            ],
        ),
        (
            "'ownerReferences':[{'apiVersion':'v1','kind':'Pod','name':'p'}]",
            &["metadata.ownerReferences[0].uid: Required value: must not be empty"],
        ),
    ] {
        broken("v1", "ConfigMap", &config(metadata), want);
    }
    broken(
        "v1",
        "Node",
        "{'metadata':{'namespace':'d'}}",
        &["metadata.namespace: Forbidden: not allowed on this type"],
    );
    broken("rbac.authorization.k8s.io/v1", "ClusterRole", "{'metadata':{'name':'system:x'}}", &[]);
    broken(
        "v1",
        "Service",
        "{'metadata':{'name':'1a'},'spec':{'ports':[{'port':1}]}}",
        &["metadata.name: Invalid value: \"1a\": a DNS-1035 label must…"],
    );
    changed(
        "v1",
        "ConfigMap",
        "{'metadata':{'uid':'1'}}",
        "{'metadata':{'uid':'2'}}",
        &["metadata.uid: Invalid value: \"2\": field is immutable"],
    );
    changed(
        "v1",
        "ConfigMap",
        "{'metadata':{'deletionTimestamp':'2026-01-01T00:00:00Z'}}",
        "{'metadata':{'deletionTimestamp':'2026-01-01T00:00:00Z','finalizers':['a/b']}}",
        &[
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a/b\"}",
        ],
    );
}

#[test]
fn files_of_variables() {
    let pod = |reference: &str| {
        format!(
            "{{'spec':{{'volumes':[{{'name':'e','emptyDir':{{}}}},{{'name':'h','hostPath':{{'path':'/'}}}}],
                'containers':[{{'name':'a','image':'i','env':[{{'name':'A','valueFrom':{{'fileKeyRef':{{{reference}}}}}}}]}}]}}}}"
        )
    };
    let at = |fault: &str| format!("spec.containers[0].env[0].valueFrom.fileKeyRef.{fault}");
    for (reference, want) in [
        ("'volumeName':'e','path':'d/f','key':'K'", &[][..]),
        ("'volumeName':'e'", &["key: Required value", "path: Required value"]),
        ("'path':'f','key':'K'", &["volumeName: Required value"]),
        ("'volumeName':'n','path':'f','key':'K'", &["volumeName: Not found: \"n\""]),
        (
            "'volumeName':'h','path':'f','key':'K'",
            &["volumeName: Invalid value: \"h\": referenced volume must be of type emptyDir"],
        ),
        ("'volumeName':'e','path':'/f','key':'K'", &["path: Invalid value: \"/f\": must be a relative path"]),
        ("'volumeName':'e','path':'a/../f','key':'K'", &["path: Invalid value: \"a/../f\": must not contain '..'"]),
        ("'volumeName':'e','path':'..f','key':'K'", &["path: Invalid value: \"..f\": must not start with '..'"]),
    ] {
        let want: Vec<String> = want.iter().map(|fault| at(fault)).collect();
        broken("v1", "Pod", &pod(reference), &want.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn pods() {
    let pod = |spec: &str| format!("{{'spec':{{{spec}}}}}");
    let with = |container: &str| pod(&format!("'containers':[{{'name':'a','image':'i',{container}}}]"));
    let c = "'containers':[{'name':'a','image':'i'}]";
    for (text, want) in [
        (pod(c), &[][..]),
        (pod("'containers':[]"), &["spec.containers: Required value"]),
        (pod("'containers':[{'name':'a'}]"), &["spec.containers[0].image: Required value"]),
        (pod("'containers':[{'image':'i'}]"), &["spec.containers[0].name: Required value"]),
        (
            pod("'containers':[{'name':'A','image':'i'}]"),
            &["spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must…"],
        ),
        (
            pod("'containers':[{'name':'a','image':'i'},{'name':'a','image':'i'}]"),
            &["spec.containers[1].name: Duplicate value: \"a\""],
        ),
        (
            pod(&format!("{c},'restartPolicy':'Sometimes'")),
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            pod(&format!("{c},'activeDeadlineSeconds':0")),
            &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        (
            pod(&format!("{c},'volumes':[{{'name':'v','emptyDir':{{}},'hostPath':{{'path':'/'}}}}]")),
            &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            pod(&format!("{c},'volumes':[{{'name':'v'}},{{'name':'v'}}]")),
            &["spec.volumes[1].name: Duplicate value: \"v\""],
        ),
        (
            pod(&format!("{c},'volumes':[{{'name':'v','secret':{{'defaultMode':1000}}}}]")),
            &[
                "spec.volumes[0].secret.secretName: Required value",
                "spec.volumes[0].secret.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
            ],
        ),
        (
            pod(&format!("{c},'tolerations':[{{'operator':'Equal'}}]")),
            &[
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ],
        ),
        (
            pod(&format!(
                "{c},'initContainers':[{{'name':'b','image':'i','readinessProbe':{{'exec':{{'command':['x']}}}}}}]"
            )),
            &[
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
        (
            with("'imagePullPolicy':'Once'"),
            &[
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Once\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            with("'ports':[{'containerPort':70000}]"),
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            with("'ports':[{'containerPort':1,'protocol':'XYZ'}]"),
            &[
                "spec.containers[0].ports[0].protocol: Unsupported value: \"XYZ\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            with("'volumeMounts':[{'name':'v','mountPath':'/x'}]"),
            &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
        ),
        (
            with("'livenessProbe':{}"),
            &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
        ),
        (
            with("'livenessProbe':{'httpGet':{'port':'web'},'successThreshold':2}"),
            &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            with("'env':[{'name':'A=B'}]"),
            &["spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must…"],
        ),
        (
            with("'env':[{'name':'A','value':'b','valueFrom':{'fieldRef':{'fieldPath':'metadata.name'}}}]"),
            &[
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ],
        ),
        (
            with("'env':[{'name':'A','valueFrom':{'fieldRef':{'fieldPath':'spec.nope'}}}]"),
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting fieldPath: field label not supported: spec.nope",
            ],
        ),
        (
            with("'resources':{'requests':{'cpu':'2'},'limits':{'cpu':'1'}}"),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            with("'resources':{'limits':{'cpu':'-1'}}"),
            &[
                "spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        ),
        (
            with("'resources':{'limits':{'tape':'1'}}"),
            &[
                "spec.containers[0].resources.limits: Invalid value: \"tape\": must be a standard resource for containers",
                "spec.containers[0].resources.requests: Invalid value: \"tape\": must be a standard resource for containers",
            ],
        ),
    ] {
        broken("v1", "Pod", &text, want);
    }
}

#[test]
fn a_pod_hardly_changes() {
    let pod = |spec: &str| format!("{{'spec':{{{spec}}}}}");
    let one = "'containers':[{'name':'a','image':'i'}]";
    let old = pod(one);
    for (spec, want) in [
        ("'containers':[{'name':'a','image':'j'}]", &[][..]),
        (
            "'containers':[{'name':'a','image':''}]",
            &[
                "spec.containers[0].image: Required value",
                "spec: Forbidden: pod updates may not change fields other than…",
            ],
        ),
        (
            "'containers':[{'name':'a','image':'i'},{'name':'b','image':'i'}]",
            &["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        (
            "'containers':[{'name':'a','image':'i'}],'nodeName':'n'",
            &[
                "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\nchanged: nodeName",
            ],
        ),
        ("'containers':[{'name':'a','image':'i'}],'tolerations':[{'key':'k','operator':'Exists'}]", &[]),
        ("'containers':[{'name':'a','image':'i'}],'activeDeadlineSeconds':5", &[]),
        (
            "'containers':[{'name':'a','image':'i'}],'schedulingGates':[{'name':'g'}]",
            &["spec.schedulingGates[0]: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"],
        ),
    ] {
        // An empty image changes the default pull policy too; that is the second error above.
        changed("v1", "Pod", &old, &pod(spec), want);
    }
    let pods = kind("v1", "Pod");
    let (bound, old) = (read(pods, &pod("'containers':[{'name':'a','image':'i'}],'nodeName':'n'")), read(pods, &old));
    assert!(subresource_update(pods, "binding", &bound, &old).is_empty(), "a binding may name the node");
}

#[test]
fn workloads() {
    let template = "'template':{'metadata':{'labels':{'a':'b'}},'spec':{'containers':[{'name':'a','image':'i'}]}}";
    let spec = |rest: &str| format!("{{'spec':{{'selector':{{'matchLabels':{{'a':'b'}}}},{template}{rest}}}}}");
    for (kind, text, want) in [
        ("Deployment", spec(""), &[][..]),
        (
            "Deployment",
            spec(",'replicas':-1"),
            &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            "Deployment",
            format!("{{'spec':{{'selector':{{'matchLabels':{{'a':'c'}}}},{template}}}}}"),
            &[
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        ),
        (
            "Deployment",
            format!("{{'spec':{{'selector':{{}},{template}}}}}"),
            &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
        ),
        (
            "Deployment",
            format!("{{'spec':{{{template}}}}}"),
            &[
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        ),
        (
            "Deployment",
            spec(",'strategy':{'type':'RollingUpdate','rollingUpdate':{'maxSurge':0,'maxUnavailable':'0%'}}"),
            &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"],
        ),
        (
            "Deployment",
            spec(",'strategy':{'type':'Recreate','rollingUpdate':{}}"),
            &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
        ),
        (
            "Deployment",
            spec(",'progressDeadlineSeconds':5,'minReadySeconds':5"),
            &["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"],
        ),
        (
            "DaemonSet",
            spec(",'updateStrategy':{'type':'RollingUpdate','rollingUpdate':{'maxSurge':1,'maxUnavailable':1}}"),
            &[
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ],
        ),
        (
            "StatefulSet",
            spec(",'podManagementPolicy':'Random'"),
            &["spec.podManagementPolicy: Invalid value: \"Random\": must be 'OrderedReady' or 'Parallel'"],
        ),
        ("ReplicaSet", spec(""), &[]),
    ] {
        broken("apps/v1", kind, &text, want);
    }
    changed(
        "apps/v1",
        "Deployment",
        &spec(""),
        &spec("").replace("'b'", "'c'"),
        &["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable"],
    );
    changed(
        "apps/v1",
        "StatefulSet",
        &spec(""),
        &spec(",'serviceName':'s'"),
        &["spec: Forbidden: updates to statefulset spec for fields other than…"],
    );
    changed("apps/v1", "StatefulSet", &spec(""), &spec(",'replicas':4"), &[]);
    // A claim template is a volume that containers mount.
    let mounting =
        |rest: &str| spec(rest).replace("'image':'i'", "'image':'i','volumeMounts':[{'name':'www','mountPath':'/w'}]");
    let claims = ",'volumeClaimTemplates':[{'metadata':{'name':'www'},'spec':{}}]";
    broken("apps/v1", "StatefulSet", &mounting(claims), &[]);
    let missing = "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"www\"";
    broken("apps/v1", "StatefulSet", &mounting(""), &[missing]);
}

#[test]
fn jobs() {
    let template = |policy: &str| {
        format!(
            "'template':{{'metadata':{{'labels':{{'a':'b'}}}},'spec':{{'restartPolicy':'{policy}','containers':[{{'name':'a','image':'i'}}]}}}}"
        )
    };
    let job = |policy: &str, rest: &str| {
        format!("{{'spec':{{'selector':{{'matchLabels':{{'a':'b'}}}},{}{rest}}}}}", template(policy))
    };
    broken("batch/v1", "Job", &job("Never", ""), &[]);
    broken(
        "batch/v1",
        "Job",
        &job("Always", ""),
        &[
            "spec.template.spec.restartPolicy: Unsupported value: \"Always\": supported values: \"OnFailure\", \"Never\"",
        ],
    );
    broken(
        "batch/v1",
        "Job",
        &job("Never", ",'completionMode':'Indexed','parallelism':1"),
        &["spec.completions: Required value: when completion mode is Indexed"],
    );
    changed("batch/v1", "Job", &job("Never", ""), &job("OnFailure", ""), &["spec.template: Invalid value: …"]);
    let cron = |rest: &str| format!("{{'spec':{{'jobTemplate':{{'spec':{{{}}}}},{rest}}}}}", template("Never"));
    broken("batch/v1", "CronJob", &cron("'schedule':'*/5 * * * *'"), &[]);
    broken(
        "batch/v1",
        "CronJob",
        &cron("'schedule':'error'"),
        &["spec.schedule: Invalid value: \"error\": expected exactly 5 fields, found 1: [error]"],
    );
    broken(
        "batch/v1",
        "CronJob",
        &cron("'schedule':'@daily','concurrencyPolicy':'Maybe'"),
        &["spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\""],
    );
    broken(
        "batch/v1",
        "CronJob",
        &cron("'schedule':'@daily','timeZone':'Mars/Base'"),
        &["spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base"],
    );
    broken("batch/v1", "CronJob", &cron("'schedule':'@daily','timeZone':'Europe/Berlin'"), &[]);
}

#[test]
fn services_and_their_neighbours() {
    let service = |rest: &str| format!("{{'spec':{{{rest}}}}}");
    for (text, want) in [
        (service("'ports':[{'port':80}]"), &[][..]),
        (service("'type':'ClusterIP'"), &["spec.ports: Required value"]),
        (service("'clusterIP':'None'"), &[]),
        (
            service("'ports':[{'port':80},{'port':81}]"),
            &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
        ),
        (
            service("'ports':[{'port':80,'name':'a'},{'port':80,'name':'b'}]"),
            &["spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"],
        ),
        (
            service("'ports':[{'port':80}],'type':'Magic'"),
            &[
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (
            service("'ports':[{'port':80,'nodePort':30000}]"),
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (service("'type':'ExternalName'"), &["spec.externalName: Required value"]),
    ] {
        broken("v1", "Service", &text, want);
    }
    changed(
        "v1",
        "Service",
        "{'spec':{'clusterIP':'1.1.1.1','clusterIPs':['1.1.1.1'],'ports':[{'port':80}]}}",
        "{'spec':{'clusterIP':'1.1.1.2','clusterIPs':['1.1.1.2'],'ports':[{'port':80}]}}",
        &["spec.clusterIPs[0]: Invalid value: [\"1.1.1.2\"]: may not change once set"],
    );
    let net = "networking.k8s.io/v1";
    broken(
        net,
        "Ingress",
        "{'spec':{}}",
        &["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"],
    );
    broken(
        net,
        "Ingress",
        "{'spec':{'rules':[{'host':'1.2.3.4','http':{'paths':[{'path':'x','pathType':'Prefix','backend':{'service':{'name':'s','port':{}}}}]}}]}}",
        &[
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
            "spec.rules[0].http.paths[0].backend.service.port: Required value: port name or number is required",
        ],
    );
    broken(
        net,
        "NetworkPolicy",
        "{'spec':{'podSelector':{},'ingress':[{'from':[{}]}]}}",
        &["spec.ingress[0].from[0]: Required value: must specify a peer"],
    );
    broken(
        net,
        "NetworkPolicy",
        "{'spec':{'podSelector':{},'egress':[{'to':[{'ipBlock':{'cidr':'10.0.0.0/8','except':['11.0.0.0/16']}}]}]}}",
        &["spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"],
    );
    broken(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "{'addressType':'IPv4','endpoints':[{'addresses':['::1']},{'addresses':[]}]}",
        &[
            "endpoints[0].addresses[0]: Invalid value: \"::1\": must be an IPv4 address",
            "endpoints[1].addresses: Required value: must contain at least 1 address",
        ],
    );
}

#[test]
fn data_and_identities() {
    broken("v1", "ConfigMap", "{'data':{'a/b':'c'}}", &["data[a/b]: Invalid value: \"a/b\": a valid config key must…"]);
    broken(
        "v1",
        "ConfigMap",
        &format!("{{'data':{{'a':'{}'}}}}", "x".repeat((1 << 20) + 1)),
        &[": Too long: may not be more than 1048576 bytes"],
    );
    changed(
        "v1",
        "ConfigMap",
        "{'immutable':true,'data':{'a':'1'}}",
        "{'immutable':true,'data':{'a':'2'}}",
        &["data: Forbidden: field is immutable when `immutable` is set"],
    );
    broken("v1", "Secret", "{'type':'kubernetes.io/tls','data':{'tls.crt':''}}", &["data[tls.key]: Required value"]);
    broken("v1", "Secret", "{'type':'kubernetes.io/dockerconfigjson','data':{'.dockerconfigjson':'e30='}}", &[]);
    changed("v1", "Secret", "{'type':'Opaque'}", "{'type':'x'}", &["type: Invalid value: \"x\": field is immutable"]);
    let rbac = "rbac.authorization.k8s.io/v1";
    broken(
        rbac,
        "Role",
        "{'rules':[{'verbs':[],'apiGroups':[''],'resources':['pods']}]}",
        &["rules[0].verbs: Required value: verbs must contain at least one value"],
    );
    broken(
        rbac,
        "RoleBinding",
        "{'roleRef':{'kind':'Role','name':'r'},'subjects':[{'kind':'ServiceAccount','name':'s'}]}",
        &["subjects[0].namespace: Required value"],
    );
    changed(
        rbac,
        "RoleBinding",
        "{'roleRef':{'kind':'Role','name':'r'}}",
        "{'roleRef':{'kind':'Role','name':'q'}}",
        &[
            "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\"name\":\"q\"}: cannot change roleRef",
        ],
    );
    broken(
        "coordination.k8s.io/v1",
        "Lease",
        "{'spec':{'leaseDurationSeconds':0}}",
        &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
    );
    broken(
        "scheduling.k8s.io/v1",
        "PriorityClass",
        "{'metadata':{'name':'system-x'},'value':1}",
        &["metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only"],
    );
    broken(
        "scheduling.k8s.io/v1",
        "PriorityClass",
        "{'metadata':{'name':'system-node-critical'},'value':2000001000}",
        &[],
    );
    broken(
        "v1",
        "Event",
        "{'metadata':{'namespace':'a'},'involvedObject':{'namespace':'b'}}",
        &["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"],
    );
}

#[test]
fn storage_scaling_and_extensions() {
    broken(
        "v1",
        "PersistentVolumeClaim",
        "{'spec':{}}",
        &[
            "spec.accessModes: Required value: at least 1 access mode is required",
            "spec.resources[storage]: Required value",
        ],
    );
    let claim = |amount: &str, class: &str| {
        format!(
            "{{'spec':{{'accessModes':['ReadWriteOnce'],'storageClassName':'{class}','resources':{{'requests':{{'storage':'{amount}'}}}}}},'status':{{'capacity':{{'storage':'1Gi'}}}}}}"
        )
    };
    changed("v1", "PersistentVolumeClaim", &claim("1Gi", "a"), &claim("2Gi", "a"), &[]);
    changed(
        "v1",
        "PersistentVolumeClaim",
        &claim("1Gi", "a"),
        &claim("1Mi", "a"),
        &["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"],
    );
    changed(
        "v1",
        "PersistentVolumeClaim",
        &claim("1Gi", "a"),
        &claim("1Gi", "b"),
        &["spec: Forbidden: spec is immutable after creation…"],
    );
    broken(
        "v1",
        "PersistentVolume",
        "{'spec':{'capacity':{'storage':'1Gi'},'accessModes':['ReadWriteOnce'],'hostPath':{'path':'/x'}}}",
        &[],
    );
    broken(
        "v1",
        "PersistentVolume",
        "{'spec':{'capacity':{'storage':'1Gi'},'accessModes':['ReadWriteOnce']}}",
        &["spec: Required value: must specify a volume type"],
    );
    changed(
        "storage.k8s.io/v1",
        "StorageClass",
        "{'provisioner':'a'}",
        "{'provisioner':'b'}",
        &["provisioner: Forbidden: updates to provisioner are forbidden."],
    );
    broken(
        "v1",
        "LimitRange",
        "{'spec':{'limits':[{'type':'Container','min':{'cpu':'2'},'max':{'cpu':'1'}}]}}",
        &[
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
            "spec.limits[0].default[cpu]: Invalid value: \"1\": min value 2 is greater than default value 1",
        ],
    );
    broken(
        "v1",
        "ResourceQuota",
        "{'spec':{'hard':{'pods':'5','nonsense':'1'}}}",
        &["spec.hard[nonsense]: Invalid value: \"nonsense\": must be a standard resource for quota"],
    );
    broken(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        "{'spec':{'minReplicas':3,'maxReplicas':2,'scaleTargetRef':{'kind':'Deployment','name':'d'}}}",
        &["spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`"],
    );
    broken(
        "policy/v1",
        "PodDisruptionBudget",
        "{'spec':{'minAvailable':1,'maxUnavailable':1}}",
        &[
            "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set",
        ],
    );
    let definition = |name: &str, storage: bool| {
        format!(
            "{{'metadata':{{'name':'{name}'}},'spec':{{'group':'a.io','scope':'Cluster','names':{{'plural':'foos','kind':'Foo'}},'versions':[{{'name':'v1','served':true,'storage':{storage},'schema':{{'openAPIV3Schema':{{'type':'object'}}}}}}]}}}}"
        )
    };
    let extensions = "apiextensions.k8s.io/v1";
    broken(extensions, "CustomResourceDefinition", &definition("foos.a.io", true), &[]);
    broken(
        extensions,
        "CustomResourceDefinition",
        &definition("bars.a.io", true),
        &["metadata.name: Invalid value: \"bars.a.io\": must be spec.names.plural+\".\"+spec.group"],
    );
    broken(
        extensions,
        "CustomResourceDefinition",
        &definition("foos.a.io", false),
        &["spec.versions: Invalid value: …"],
    );
    broken(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "{'webhooks':[{'name':'a.b.c','sideEffects':'None','admissionReviewVersions':['v1'],'clientConfig':{'url':'https://x'}}]}",
        &[],
    );
}

#[test]
fn an_empty_object_of_any_kind_is_judged_without_falling_over() {
    for kind in kinds::KINDS.iter() {
        for object in [json!({}), json!({"spec": null, "metadata": {}}), json!({"spec": {}, "status": {}})] {
            create(kind, &object);
            update(kind, &object, &json!({}));
        }
    }
}
