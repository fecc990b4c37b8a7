//! Who asks: a client certificate, a ServiceAccount's token, or nobody in particular.
//!
//! Start at [`user`]; TLS has already checked certificates.
//!
//! Invariants:
//! * a token that is shown and not believed is refused, never taken for nobody's;
//! * a token dies with its account and with the object it is bound to.

use std::sync::Arc;

use api::kinds::find;
use api::meta;
use http::{HeaderMap, header};
use pki::{BoundObject, Claims};

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
