//! Who may use the kubelet's HTTPS API: the API server and administrators always, others as the API server says.
//!
//! Start at [`Access::admit`]. As upstream (v1.36), a certificate or a bearer token says who it is, and RBAC says what that user
//! may do with this Node: `get` `nodes/metrics` for `/metrics`, `nodes/stats` for `/stats`, and so on; `nodes/proxy` for all.
//!
//! Invariants:
//! * who cannot be asked about is not let in;
//! * an answer is believed for a while, so that a scrape is not two calls, and a token is kept only as a hash.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, Monotonic, chain};
use client::{Client, ClientError, typed};
use http::{Method, StatusCode};
use ring::digest;
use serde_json::{Value, json};

use crate::server::Refusal;

/// How long somebody who was let in needs not be asked about again, and somebody who was not; upstream's are up to five minutes.
const BELIEVED: Duration = Duration::from_secs(60);
const REFUSED: Duration = Duration::from_secs(10);
/// So many answers are remembered.
const ANSWERS_MAX: usize = 256;
/// The API server has so long to answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Who somebody is, as the API server tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct User {
    name: String,
    groups: Vec<String>,
}

/// What somebody shows.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    /// The certificate that TLS has checked.
    pub certificate: Option<&'a pki::Presented>,
    /// The value of `Authorization`.
    pub authorization: Option<&'a str>,
}

/// What somebody wants: a verb, and the subresources of the Node that allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wish {
    verb: &'static str,
    subresources: [&'static str; 2],
}

/// What RBAC calls a request.
pub(crate) fn wish(method: &Method, path: &str) -> Wish {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let fine = match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
        "metrics" => "metrics",
        "stats" => "stats",
        "containerLogs" => "log",
        "healthz" => "healthz",
        "pods" | "runningpods" => "pods",
        _ => "proxy",
    };
    Wish { verb, subresources: [fine, "proxy"] }
}

type Answers = BTreeMap<(Vec<u8>, Wish), (Result<(), (StatusCode, String)>, Monotonic)>;

/// What was asked lately.
#[derive(Default)]
pub(crate) struct Access(Mutex<Answers>);

impl Access {
    /// Lets somebody in who is not known already, or says why not.
    pub(crate) async fn admit(
        &self,
        shown: Shown<'_>,
        wish: Wish,
        node: &str,
        client: &Client,
        clock: &dyn Clock,
    ) -> Result<(), Refusal> {
        let key = (fingerprint(shown), wish);
        let refused = |(code, why)| Refusal(code, why);
        if let Some(answer) = self.remembered(&key, clock.monotonic()) {
            return answer.map_err(refused);
        }
        let answer = tokio::time::timeout(ANSWER_TIME, ask(shown, wish, node, client)).await;
        let failed = |why: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, why);
        let answer = answer.map_err(|_| failed("the API server did not say in time who this is".to_owned()))?;
        let answer = answer.map_err(|error| failed(chain(&error).to_string()))?;
        self.remember(key, answer.clone(), clock.monotonic());
        answer.map_err(refused)
    }

    fn remembered(&self, key: &(Vec<u8>, Wish), now: Monotonic) -> Option<Result<(), (StatusCode, String)>> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(key).filter(|(_, until)| now < *until).map(|(answer, _)| answer.clone())
    }

    fn remember(&self, key: (Vec<u8>, Wish), answer: Result<(), (StatusCode, String)>, now: Monotonic) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, (_, until)| now < *until);
        }
        // Somebody asks with ever new tokens: what was known is asked for again.
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        let until = now.plus(if answer.is_ok() { BELIEVED } else { REFUSED });
        answers.insert(key, (answer, until));
    }
}

fn fingerprint(shown: Shown<'_>) -> Vec<u8> {
    let text = match shown.certificate {
        Some(certificate) => format!("certificate {:?} {:?}", certificate.name, certificate.groups),
        None => format!("authorization {}", shown.authorization.unwrap_or_default()),
    };
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

async fn ask(
    shown: Shown<'_>,
    wish: Wish,
    node: &str,
    client: &Client,
) -> Result<Result<(), (StatusCode, String)>, ClientError> {
    let unauthorized = || Err((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()));
    let Some(user) = user(shown, client).await? else { return Ok(unauthorized()) };
    for subresource in wish.subresources {
        if may(&user, wish.verb, subresource, node, client).await? {
            return Ok(Ok(()));
        }
    }
    let message = format!(
        "Forbidden (user={}, verb={}, resource=nodes, subresource(s)={:?})",
        user.name, wish.verb, wish.subresources
    );
    Ok(Err((StatusCode::FORBIDDEN, message)))
}

/// Who shows this; nobody if it is not good.
async fn user(shown: Shown<'_>, client: &Client) -> Result<Option<User>, ClientError> {
    if let Some(certificate) = shown.certificate {
        let groups = certificate.groups.iter().map(String::as_str).chain(["system:authenticated"]);
        return Ok(Some(User { name: certificate.name.clone(), groups: groups.map(str::to_owned).collect() }));
    }
    let Some(token) = shown.authorization.and_then(bearer) else { return Ok(None) };
    let review = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": token}});
    let told = review_of(client, "/apis/authentication.k8s.io/v1/tokenreviews", &review).await?;
    let status = &told["status"];
    let groups = status["user"]["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let name = status["user"]["username"].as_str().unwrap_or_default();
    let user = User { name: name.to_owned(), groups: groups.map(str::to_owned).collect() };
    Ok(Some(user).filter(|user| status["authenticated"] == true && !user.name.is_empty()))
}

/// The token of `Bearer TOKEN`; the word may be written anyhow.
fn bearer(authorization: &str) -> Option<&str> {
    let (word, token) = authorization.trim().split_once(' ')?;
    Some(token.trim()).filter(|token| word.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

async fn may(user: &User, verb: &str, subresource: &str, node: &str, client: &Client) -> Result<bool, ClientError> {
    let attributes =
        json!({"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": node});
    let review = json!({
        "kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"user": user.name, "groups": user.groups, "resourceAttributes": attributes},
    });
    let told = review_of(client, "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await?;
    Ok(told["status"]["allowed"] == true)
}

async fn review_of(client: &Client, path: &str, review: &Value) -> Result<Value, ClientError> {
    let body = bytes::Bytes::from(review.to_string());
    let told = client.call(Method::POST, path.to_owned(), typed::JSON, body).await?;
    serde_json::from_slice(&told).map_err(|source| ClientError::Decode {
        method: Method::POST,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, path: &str, verb: &str, subresource: &str) {
        let wish = wish(&method, path);
        assert_eq!((wish.verb, wish.subresources), (verb, [subresource, "proxy"]), "{path}");
    }

    #[test]
    fn paths_are_subresources_of_the_node() {
        check(Method::GET, "/metrics", "get", "metrics");
        check(Method::GET, "/metrics/cadvisor", "get", "metrics");
        check(Method::GET, "/stats/summary", "get", "stats");
        check(Method::GET, "/containerLogs/ns/p/c", "get", "log");
        check(Method::GET, "/pods", "get", "pods");
        check(Method::GET, "/healthz", "get", "healthz");
        check(Method::POST, "/exec/ns/p/c", "create", "proxy");
        check(Method::GET, "/metricsand", "get", "proxy");
    }

    #[test]
    fn a_token_follows_the_word_bearer() {
        assert_eq!(bearer("Bearer a.b.c"), Some("a.b.c"));
        assert_eq!(bearer("bearer  a.b.c "), Some("a.b.c"));
        assert!(["", "Bearer", "Bearer ", "Basic YTpi", "a.b.c"].iter().all(|wrong| bearer(wrong).is_none()));
    }

    #[test]
    fn answers_end_and_do_not_pile_up() {
        let (access, now) = (Access::default(), Monotonic(1));
        let key = |number: usize| (number.to_string().into_bytes(), wish(&Method::GET, "/metrics"));
        access.remember(key(0), Ok(()), now);
        assert_eq!(access.remembered(&key(0), now), Some(Ok(())));
        assert_eq!(access.remembered(&key(0), now.plus(BELIEVED)), None);
        assert_eq!(access.remembered(&key(1), now), None);
        for number in 1..ANSWERS_MAX + 2 {
            access.remember(key(number), Err((StatusCode::FORBIDDEN, String::new())), now);
        }
        assert!(access.0.lock().expect("answers").len() <= ANSWERS_MAX);
    }
}
