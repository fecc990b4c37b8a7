//! Registries.

/// How to reach a registry, where that differs from `https://` and its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryRule {
    /// Its name.
    pub registry: String,
    /// Tried first, in order: such as `http://127.0.0.1:5000`.
    pub mirrors: Vec<String>,
}

/// Who we are to a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// A bearer token in their place.
    pub identity_token: String,
}

/// Fetches images.
#[derive(Clone, Debug, Default)]
pub struct Puller {}
