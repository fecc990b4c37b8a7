//! Who asks: a name, its groups, and what proved it.
//!
//! Start at [`User`]; [`Credentials`] is what a connection or a header shows before it is believed.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// Everybody who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of those who did not.
pub const ANONYMOUS: &str = "system:anonymous";

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Such as `system:node:one`.
    pub name: String,
    /// Empty where the authenticator knows none.
    pub uid: String,
    /// Such as `system:nodes`; `system:authenticated` among them.
    pub groups: Vec<String>,
    /// Further facts, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request shows to prove who asks.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Already believed: a client certificate checked by TLS, or a component of this process.
    User(Arc<User>),
    /// Nothing but the request's own headers.
    Headers,
}

impl User {
    /// A user of these groups; `system:authenticated` is added.
    pub fn new<'a>(name: &str, groups: impl IntoIterator<Item = &'a str>) -> User {
        let mut groups: Vec<String> = groups.into_iter().map(str::to_owned).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        User { name: name.to_owned(), groups, ..User::default() }
    }

    /// Nobody in particular.
    pub fn anonymous() -> User {
        User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
    }

    /// Whether it is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|its| its == group)
    }
}
