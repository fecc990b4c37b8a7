//! Who asks: a client certificate, a ServiceAccount's token, a machine that joins, or nobody in particular.
//!
//! Start at [`user`]; TLS has already checked certificates.
//!
//! Invariants:
//! * a token that is shown and not believed is refused, never taken for nobody's;
//! * a token dies with its account and with the object it is bound to; a bootstrap token with its Secret, or when that
//!   says so.

use std::sync::Arc;

use api::kinds::find;
use api::{dig, meta};
use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use pki::{BootstrapToken, BoundObject, Claims};
use serde_json::Value;

use crate::server::text;
use crate::{Api, Credentials, Failure, User};

/// Who asks.
pub(crate) fn user(api: &Api, headers: &HeaderMap, credentials: Credentials) -> Result<Arc<User>, Failure> {
    if let Credentials::User(user) = credentials {
        return Ok(user);
    }
    match text(headers, header::AUTHORIZATION.as_str()).split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            let (user, _) = of_token(api, token.trim(), &[])?;
            Ok(Arc::new(user))
        }
        _ => Ok(Arc::new(User::anonymous())),
    }
}

/// The account a token speaks for, if the token is for one of these audiences (or for us, if none are named), and which
/// of them it is for.
pub(crate) fn of_token(api: &Api, token: &str, audiences: &[String]) -> Result<(User, Vec<String>), Failure> {
    let issuer = &api.settings.issuer;
    if let Ok(token) = token.parse::<BootstrapToken>() {
        let is_for_us = audiences.is_empty() || audiences.contains(issuer);
        let user = joining(api, &token).filter(|_| is_for_us).ok_or_else(Failure::unauthorized)?;
        return Ok((user, vec![issuer.clone()]));
    }
    let claims = api.settings.tokens.verify(issuer, token, api.now()).map_err(|error| {
        tracing::debug!("refused a token: {error}");
        Failure::unauthorized()
    })?;
    let ours = std::slice::from_ref(issuer);
    let wanted = if audiences.is_empty() { ours } else { audiences };
    let shared: Vec<String> = wanted.iter().filter(|one| claims.audiences.contains(one)).cloned().collect();
    if shared.is_empty() || !is_alive(api, &claims) {
        return Err(Failure::unauthorized());
    }
    Ok((account(&claims), shared))
}

/// The machine that joins with a bootstrap token, if its Secret allows that.
fn joining(api: &Api, token: &BootstrapToken) -> Option<User> {
    let secret = api.object(&format!("secrets/kube-system/bootstrap-token-{}", token.id()))?;
    bootstrapper(&secret, token, api.now())
}

fn bootstrapper(secret: &Value, token: &BootstrapToken, now: Timestamp) -> Option<User> {
    let field = |name: &str| STANDARD.decode(dig::text(&secret["data"], name)).ok().filter(|bytes| !bytes.is_empty());
    let text = |name: &str| field(name).and_then(|bytes| String::from_utf8(bytes).ok());
    let is_ours = dig::text(secret, "type") == "bootstrap.kubernetes.io/token"
        && text("token-id").as_deref() == Some(token.id())
        && text("usage-bootstrap-authentication").as_deref() == Some("true")
        && !meta::is_terminating(secret);
    // What cannot be read as a time has passed.
    let lasts = |end: Vec<u8>| String::from_utf8(end).ok()?.parse::<Timestamp>().ok().map(|end| end > now);
    let is_over = field("expiration").is_some_and(|end| lasts(end) != Some(true));
    if !is_ours || is_over || !token.has_secret(&field("token-secret")?) {
        return None;
    }
    let more = text("auth-extra-groups").unwrap_or_default();
    let more = more.split(',').map(str::trim).filter(|group| group.starts_with("system:bootstrappers:"));
    let groups = std::iter::once("system:bootstrappers").chain(more);
    Some(User::new(&format!("system:bootstrap:{}", token.id()), groups))
}

/// The account still exists, and so does what the token is bound to.
fn is_alive(api: &Api, claims: &Claims) -> bool {
    let lives = |plural: &str, namespace: &str, name: &str, uid: &str| {
        let kind = find("", "v1", plural).expect("pods, secrets, nodes and accounts are built in");
        api.object(&kind.key(namespace, name)).is_some_and(|object| meta::uid(&object) == uid)
    };
    let bound = match &claims.bound {
        None => true,
        Some(BoundObject { kind, name, uid }) => match kind.as_str() {
            "Pod" => lives("pods", &claims.namespace, name, uid),
            "Secret" => lives("secrets", &claims.namespace, name, uid),
            _ => lives("nodes", "", name, uid),
        },
    };
    bound && lives("serviceaccounts", &claims.namespace, &claims.service_account, &claims.service_account_uid)
}

fn account(claims: &Claims) -> User {
    let name = format!("system:serviceaccount:{}:{}", claims.namespace, claims.service_account);
    let of_namespace = format!("system:serviceaccounts:{}", claims.namespace);
    let mut user = User::new(&name, ["system:serviceaccounts", of_namespace.as_str()]);
    user.uid = claims.service_account_uid.clone();
    let mut extra = |key: &str, value: &str| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    extra("credential-id", &format!("JTI={}", claims.id));
    if let Some(BoundObject { kind, name, uid }) = &claims.bound
        && kind == "Pod"
    {
        extra("pod-name", name);
        extra("pod-uid", uid);
    }
    if let Some((name, uid)) = &claims.node {
        extra("node-name", name);
        extra("node-uid", uid);
    }
    user
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_795_464_000);

    /// The groups of who shows the token, with this changed in its Secret; nothing if nobody is believed.
    fn groups(field: &str, value: &str) -> String {
        let token: BootstrapToken = "abcdef.0123456789abcdef".parse().expect("a token");
        let mut secret = json!({"type": "bootstrap.kubernetes.io/token", "metadata": {}, "data": {}});
        let fields = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            (field, value),
        ];
        for (field, value) in fields {
            secret["data"][field] = STANDARD.encode(value).into();
        }
        let user = bootstrapper(&secret, &token, NOW);
        user.map(|user| format!("{} {}", user.name, user.groups.join(" "))).unwrap_or_default()
    }

    #[test]
    fn who_joins_is_known_by_the_token() {
        let plain = "system:bootstrap:abcdef system:bootstrappers system:authenticated";
        assert_eq!(groups("description", "x"), plain);
        assert_eq!(groups("expiration", "2026-11-23T20:00:01Z"), plain);
        let more = groups("auth-extra-groups", "system:bootstrappers:boards,system:masters");
        assert_eq!(
            more,
            "system:bootstrap:abcdef system:bootstrappers system:bootstrappers:boards system:authenticated"
        );
    }

    #[test]
    fn what_its_secret_does_not_allow_is_refused() {
        for (field, value) in [
            ("token-secret", "0123456789abcdee"),
            ("token-id", "abcdee"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2026-11-23T20:00:00Z"),
            ("expiration", "soon"),
        ] {
            assert_eq!(groups(field, value), "", "{field} {value}");
        }
    }
}
