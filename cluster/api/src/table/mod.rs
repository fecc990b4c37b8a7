//! What `kubectl get` prints: the columns of each kind and the cells of an object.
//!
//! Start at [`columns`] and [`row`]; `rows.rs` is the table of kinds, the other files compute cells. Names, types,
//! formats and priorities are upstream's; a kind without a row gets its name and when it was created, as upstream does.
//!
//! Invariant: an object has as many cells as its kind has columns, whatever the object looks like.
//!
//! Not here: the Table object around them (`apiserver`), the cells of custom resources (`custom`).

mod others;
mod pods;
mod rows;
mod services;
mod storage;
mod words;
mod workloads;

pub(crate) use words::since;

use crate::custom;
use crate::dig;
use crate::kinds::Kind;
use crate::meta;
use base::Timestamp;
use serde_json::{Value, json};

/// One column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// The heading, such as `Ready`; clients print it in capitals.
    pub name: &'a str,
    /// `string`, `integer`, `boolean`, `number` or `date`.
    pub ty: &'a str,
    /// `name` for the column that names the object, else empty or what a definition says.
    pub format: &'a str,
    /// What the column means.
    pub description: &'a str,
    /// 0 always, 1 with `-o wide`.
    pub priority: i32,
}

/// Computes the cells of an object.
type Cells = fn(&Value, Timestamp) -> Vec<Value>;

/// The columns of a kind.
pub fn columns(kind: &Kind) -> Vec<Column<'_>> {
    if let Some(own) = &kind.own {
        return std::iter::once(rows::NAME).chain(own.columns.iter().map(custom::Printed::column)).collect();
    }
    rows::find(kind).map_or(rows::CREATED, |row| row.columns).to_vec()
}

/// The cells of an object, one for each of [`columns`].
pub fn row(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    if let Some(own) = &kind.own {
        let name = std::iter::once(json!(meta::name(object)));
        return name.chain(custom::cells(&own.columns, object, now)).collect();
    }
    match rows::find(kind) {
        Some(row) => (row.cells)(object, now),
        None => vec![json!(meta::name(object)), json!(dig::text(object, "metadata.creationTimestamp"))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    /// The visible cells of an object, joined by ` | `; wide ones behind ` || `. It is the year 1970, second 1000.
    fn check(api_version: &str, kind: &str, given: &str, want: &str) {
        let (group, version) = kinds::split_api_version(api_version);
        let kind = kinds::find_kind(group, version, kind).unwrap_or_else(|| panic!("no kind {kind}"));
        let object: Value =
            serde_json::from_str(&given.replace('\'', "\"")).unwrap_or_else(|error| panic!("{given}: {error}"));
        let cells = row(kind, &object, Timestamp::from_seconds(1000));
        let columns = columns(kind);
        assert_eq!(cells.len(), columns.len(), "{}", kind.kind);
        let part = |priority: i32| -> Vec<String> {
            let chosen = cells.iter().zip(&columns).filter(|(_, column)| column.priority == priority);
            chosen.map(|(cell, _)| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
        };
        let mut text = part(0).join(" | ");
        if !part(1).is_empty() {
            text = format!("{text} || {}", part(1).join(" | "));
        }
        assert_eq!(text, want, "{given}");
    }

    #[test]
    fn every_kind_has_as_many_cells_as_columns_even_for_an_empty_object() {
        for kind in kinds::KINDS.iter() {
            for object in [json!({}), json!({"metadata": null, "spec": null, "status": null})] {
                let cells = row(kind, &object, Timestamp::from_seconds(0)).len();
                assert_eq!(cells, columns(kind).len(), "{}", kind.kind);
            }
        }
    }

    #[test]
    fn pods_show_what_their_containers_do() {
        let pod = |spec: &str, status: &str| {
            format!(
                "{{'metadata':{{'name':'p','creationTimestamp':'1970-01-01T00:15:00Z'}},'spec':{{{spec}}},'status':{{{status}}}}}"
            )
        };
        let wide = "<none> | <none> | <none> | <none>";
        let one = "'containers':[{'name':'a'}]";
        for (spec, status, want) in [
            (one, "'phase':'Pending'", "0/1 | Pending | 0"),
            (
                one,
                "'phase':'Running','containerStatuses':[{'name':'a','ready':true,'state':{'running':{}}}]",
                "1/1 | Running | 0",
            ),
            (
                one,
                "'phase':'Running','containerStatuses':[{'restartCount':2,'state':{'waiting':{'reason':'CrashLoopBackOff'}},\
                 'lastState':{'terminated':{'finishedAt':'1970-01-01T00:16:35Z'}}}]",
                "0/1 | CrashLoopBackOff | 2 (5s ago)",
            ),
            (
                one,
                "'phase':'Succeeded','containerStatuses':[{'state':{'terminated':{'reason':'Completed'}}}]",
                "0/1 | Completed | 0",
            ),
            (
                one,
                "'phase':'Failed','containerStatuses':[{'state':{'terminated':{'exitCode':3}}}]",
                "0/1 | ExitCode:3 | 0",
            ),
            (
                one,
                "'phase':'Failed','containerStatuses':[{'state':{'terminated':{'exitCode':3,'signal':9}}}]",
                "0/1 | Signal:9 | 0",
            ),
            (one, "'phase':'Failed','reason':'Evicted'", "0/1 | Evicted | 0"),
            (
                one,
                "'phase':'Pending','conditions':[{'type':'PodScheduled','reason':'SchedulingGated'}]",
                "0/1 | SchedulingGated | 0",
            ),
            (
                "'containers':[{'name':'a'}],'initContainers':[{'name':'i'},{'name':'j'}]",
                "'phase':'Pending','initContainerStatuses':[{'name':'i','state':{'terminated':{'exitCode':0}}},{'name':'j','state':{'running':{}}}]",
                "0/1 | Init:1/2 | 0",
            ),
            (
                "'containers':[{'name':'a'}],'initContainers':[{'name':'i'}]",
                "'phase':'Pending','initContainerStatuses':[{'name':'i','restartCount':1,'state':{'terminated':{'exitCode':1,'reason':'Error'}}}]",
                "0/1 | Init:Error | 1",
            ),
            (
                "'containers':[{'name':'a'}],'initContainers':[{'name':'i','restartPolicy':'Always'}]",
                "'phase':'Running','initContainerStatuses':[{'name':'i','started':true,'ready':true,'state':{'running':{}}}],\
                 'containerStatuses':[{'ready':true,'state':{'running':{}}}]",
                "2/2 | Running | 0",
            ),
            (
                "'containers':[{'name':'a'},{'name':'b'}]",
                "'phase':'Running','conditions':[],'containerStatuses':[{'state':{'terminated':{'reason':'Completed'}}},{'ready':true,'state':{'running':{}}}]",
                "1/2 | NotReady | 0",
            ),
        ] {
            check("v1", "Pod", &pod(spec, status), &format!("p | {want} | 100s || {wide}"));
        }
        let leaving = "{'metadata':{'name':'p','deletionTimestamp':'1970-01-01T00:00:00Z'},'spec':{'nodeName':'n',\
            'readinessGates':[{'conditionType':'x'}]},'status':{'phase':'Running','podIPs':[{'ip':'10.0.0.1'}]}}";
        check("v1", "Pod", leaving, "p | 0/0 | Terminating | 0 | <unknown> || 10.0.0.1 | n | <none> | 0/1");
    }

    #[test]
    fn workloads_show_their_counts() {
        let template = "'template':{'spec':{'containers':[{'name':'a','image':'x:1'},{'name':'b','image':'y'}]}}";
        let meta = "'metadata':{'name':'w','creationTimestamp':'1970-01-01T00:16:40Z'}";
        let selector = "'selector':{'matchLabels':{'app':'w'}}";
        for (version, kind, rest, want) in [
            (
                "apps/v1",
                "Deployment",
                format!(
                    "'spec':{{'replicas':3,{selector},{template}}},'status':{{'readyReplicas':2,'updatedReplicas':3,'availableReplicas':2}}"
                ),
                "w | 2/3 | 3 | 2 | 0s || a,b | x:1,y | app=w",
            ),
            (
                "apps/v1",
                "ReplicaSet",
                format!("'spec':{{'replicas':3,{selector},{template}}},'status':{{'replicas':3}}"),
                "w | 3 | 3 | 0 | 0s || a,b | x:1,y | app=w",
            ),
            ("apps/v1", "StatefulSet", format!("'spec':{{'replicas':1,{template}}}"), "w | 0/1 | 0s || a,b | x:1,y"),
            (
                "apps/v1",
                "DaemonSet",
                format!("'spec':{{{selector},{template}}},'status':{{'desiredNumberScheduled':1}}"),
                "w | 1 | 0 | 0 | 0 | 0 | <none> | 0s || a,b | x:1,y | app=w",
            ),
            (
                "batch/v1",
                "Job",
                format!(
                    "'spec':{{'completions':2,{selector},{template}}},'status':{{'succeeded':1,'startTime':'1970-01-01T00:00:00Z'}}"
                ),
                "w | Running | 1/2 | 16m | 0s || a,b | x:1,y | app=w",
            ),
            (
                "batch/v1",
                "CronJob",
                format!("'spec':{{'schedule':'* * * * *','suspend':false,'jobTemplate':{{'spec':{{{template}}}}}}}"),
                "w | * * * * * | <none> | False | 0 | <none> | 0s || a,b | x:1,y | <none>",
            ),
        ] {
            check(version, kind, &format!("{{{meta},{rest}}}"), want);
        }
    }

    #[test]
    fn services_and_their_neighbours() {
        for (version, kind, given, want) in [
            (
                "v1",
                "Service",
                "{'metadata':{'name':'s'},'spec':{'type':'NodePort','clusterIP':'10.43.0.1','clusterIPs':['10.43.0.1'],'ports':[{'port':80,'nodePort':30080,'protocol':'TCP'},{'port':53,'protocol':'UDP'}],'selector':{'a':'b'}}}",
                "s | NodePort | 10.43.0.1 | <none> | 80:30080/TCP,53/UDP | <unknown> || a=b",
            ),
            (
                "v1",
                "Service",
                "{'metadata':{'name':'s'},'spec':{'type':'LoadBalancer','clusterIPs':['1.1.1.1']}}",
                "s | LoadBalancer | 1.1.1.1 | <pending> | <none> | <unknown> || <none>",
            ),
            (
                "v1",
                "Service",
                "{'metadata':{'name':'s'},'spec':{'type':'ExternalName','externalName':'a.b'}}",
                "s | ExternalName | <none> | a.b | <none> | <unknown> || <none>",
            ),
            (
                "v1",
                "Endpoints",
                "{'metadata':{'name':'s'},'subsets':[{'addresses':[{'ip':'1.1.1.1'},{'ip':'::1'},{'ip':'3.3.3.3'},{'ip':'4.4.4.4'}],'ports':[{'port':80}]}]}",
                "s | 1.1.1.1:80,[::1]:80,3.3.3.3:80 + 1 more... | <unknown>",
            ),
            (
                "discovery.k8s.io/v1",
                "EndpointSlice",
                "{'metadata':{'name':'s'},'addressType':'IPv4','ports':[{'port':80}],'endpoints':[{'addresses':['1.1.1.1']}]}",
                "s | IPv4 | 80 | 1.1.1.1 | <unknown>",
            ),
            (
                "networking.k8s.io/v1",
                "Ingress",
                "{'metadata':{'name':'i'},'spec':{'ingressClassName':'c','tls':[{}],'rules':[{'host':'a'},{'host':'b'},{'host':'c'},{'host':'d'}]}}",
                "i | c | a,b,c + 1 more... |  | 80, 443 | <unknown>",
            ),
            (
                "networking.k8s.io/v1",
                "NetworkPolicy",
                "{'metadata':{'name':'n'},'spec':{'podSelector':{}}}",
                "n | <none> | <unknown>",
            ),
        ] {
            check(version, kind, given, want);
        }
    }

    #[test]
    fn the_other_kinds() {
        for (version, kind, given, want) in [
            (
                "v1",
                "Node",
                "{'metadata':{'name':'n','labels':{'node-role.kubernetes.io/control-plane':''}},'spec':{'unschedulable':true},'status':{'conditions':[{'type':'Ready','status':'True'}],'addresses':[{'type':'InternalIP','address':'1.2.3.4'}],'nodeInfo':{'kubeletVersion':'v1','osImage':'o','kernelVersion':'k','containerRuntimeVersion':'c'}}}",
                "n | Ready,SchedulingDisabled | control-plane | <unknown> | v1 || 1.2.3.4 | <none> | o | k | c",
            ),
            (
                "v1",
                "Event",
                "{'metadata':{'name':'e'},'type':'Normal','reason':'R','message':' m ','involvedObject':{'kind':'Pod','name':'p'},'source':{'component':'kubelet','host':'n'},'firstTimestamp':'1970-01-01T00:16:00Z','lastTimestamp':'1970-01-01T00:16:30Z','count':3}",
                "10s | Normal | R | pod/p | m ||  | kubelet, n | 40s | 3 | e",
            ),
            (
                "events.k8s.io/v1",
                "Event",
                "{'metadata':{'name':'e'},'type':'Normal','reason':'R','note':'m','regarding':{'kind':'Pod','name':'p'},'reportingController':'c','reportingInstance':'i','eventTime':'1970-01-01T00:16:00.000000Z'}",
                "40s | Normal | R | pod/p | m ||  | c, i | 40s | 1 | e",
            ),
            ("v1", "ConfigMap", "{'metadata':{'name':'c'},'data':{'a':''},'binaryData':{'b':''}}", "c | 2 | <unknown>"),
            ("v1", "Secret", "{'metadata':{'name':'s'},'type':'Opaque'}", "s | Opaque | 0 | <unknown>"),
            ("v1", "Namespace", "{'metadata':{'name':'d'},'status':{'phase':'Active'}}", "d | Active | <unknown>"),
            (
                "v1",
                "PersistentVolume",
                "{'metadata':{'name':'v'},'spec':{'capacity':{'storage':'1Gi'},'accessModes':['ReadWriteOnce','ReadWriteMany'],'claimRef':{'namespace':'d','name':'c'},'persistentVolumeReclaimPolicy':'Retain','volumeMode':'Filesystem'},'status':{'phase':'Bound'}}",
                "v | 1Gi | RWO,RWX | Retain | Bound | d/c |  | <unset> |  | <unknown> || Filesystem",
            ),
            (
                "v1",
                "PersistentVolumeClaim",
                "{'metadata':{'name':'c'},'spec':{},'status':{'phase':'Pending'}}",
                "c | Pending |  |  |  |  | <unset> | <unknown> || <unset>",
            ),
            (
                "storage.k8s.io/v1",
                "StorageClass",
                "{'metadata':{'name':'c','annotations':{'storageclass.kubernetes.io/is-default-class':'true'}},'provisioner':'p','volumeBindingMode':'Immediate','reclaimPolicy':'Delete'}",
                "c (default) | p | Delete | Immediate | false | <unknown>",
            ),
            (
                "rbac.authorization.k8s.io/v1",
                "RoleBinding",
                "{'metadata':{'name':'r'},'roleRef':{'kind':'Role','name':'x'},'subjects':[{'kind':'User','name':'u'},{'kind':'ServiceAccount','namespace':'n','name':'s'}]}",
                "r | Role/x | <unknown> || u |  | n/s",
            ),
            (
                "rbac.authorization.k8s.io/v1",
                "Role",
                "{'metadata':{'name':'r','creationTimestamp':'1970-01-01T00:00:00Z'}}",
                "r | 1970-01-01T00:00:00Z",
            ),
            (
                "autoscaling/v2",
                "HorizontalPodAutoscaler",
                "{'metadata':{'name':'h'},'spec':{'scaleTargetRef':{'kind':'Deployment','name':'d'},'minReplicas':1,'maxReplicas':3,'metrics':[{'type':'Resource','resource':{'name':'cpu','target':{'averageUtilization':80}}}]}}",
                "h | Deployment/d | cpu: <unknown>/80% | 1 | 3 | 0 | <unknown>",
            ),
            (
                "policy/v1",
                "PodDisruptionBudget",
                "{'metadata':{'name':'p'},'spec':{'minAvailable':'50%'},'status':{'disruptionsAllowed':1}}",
                "p | 50% | N/A | 1 | <unknown>",
            ),
            (
                "v1",
                "ResourceQuota",
                "{'metadata':{'name':'q'},'status':{'hard':{'limits.cpu':'2','pods':'5'},'used':{'limits.cpu':'1','pods':'0'}}}",
                "q | pods: 0/5 | limits.cpu: 1/2 | <unknown>",
            ),
            (
                "certificates.k8s.io/v1",
                "CertificateSigningRequest",
                "{'metadata':{'name':'c'},'spec':{'signerName':'s','username':'u','expirationSeconds':3600},'status':{'conditions':[{'type':'Approved'}],'certificate':'x'}}",
                "c | <unknown> | s | u | 60m | Approved,Issued",
            ),
            (
                "apps/v1",
                "ControllerRevision",
                "{'metadata':{'name':'c','ownerReferences':[{'apiVersion':'apps/v1','kind':'DaemonSet','name':'d','controller':true}]},'revision':4}",
                "c | daemonset.apps/d | 4 | <unknown>",
            ),
            (
                "coordination.k8s.io/v1",
                "Lease",
                "{'metadata':{'name':'l'},'spec':{'holderIdentity':'h'}}",
                "l | h | <unknown>",
            ),
            (
                "scheduling.k8s.io/v1",
                "PriorityClass",
                "{'metadata':{'name':'p'},'value':5,'preemptionPolicy':'Never'}",
                "p | 5 | false | <unknown> | Never",
            ),
        ] {
            check(version, kind, given, want);
        }
    }
}
