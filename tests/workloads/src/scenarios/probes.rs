//! Liveness, readiness and startup probes.

use crate::User;
use crate::scenario::apply;

fn restarts(pod: &str) -> String {
    format!("get pod {pod} -o jsonpath={{.status.containerStatuses[0].restartCount}}")
}

pub fn liveness(user: &User) {
    apply(user, "liveness.yaml");
    for pod in ["liveness-exec", "liveness-http"] {
        let restarted = |user: &User| user.must(&restarts(pod)).parse::<u32>().is_ok_and(|count| count > 0);
        user.wait(&format!("{pod} to be started again"), user.limit(60), restarted);
        // Events are written beside what they tell of, and may come after it.
        let events = format!("get events --field-selector=involvedObject.name={pod}");
        for told in ["Liveness probe failed", "failed liveness probe, will be restarted"] {
            user.wait_for(&events, told, user.limit(20));
        }
    }
}

pub fn holding(user: &User) {
    apply(user, "probes.yaml");
    user.must_become("--for=condition=Ready pod/goproxy pod/etcd-with-grpc pod/slow-start", 60);
    let started = user.must("get pod slow-start -o jsonpath={.status.containerStatuses[0].started}");
    assert_eq!(started, "true");
    for pod in ["goproxy", "etcd-with-grpc", "slow-start"] {
        assert_eq!(user.must(&restarts(pod)), "0", "{pod}\n{}", user.told());
    }
}
