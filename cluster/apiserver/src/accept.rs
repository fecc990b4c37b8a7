//! In which form a client wants its answer.
//!
//! Start at [`Wanted::of`].
//!
//! Not here: making that form (`render.rs`).

use crate::Failure;

/// The encodings of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// JSON: what is stored.
    Json,
    /// YAML, for people.
    Yaml,
    /// Kubernetes' protobuf.
    Protobuf,
}

/// What is told about objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// All of them.
    Whole,
    /// What `kubectl get` prints.
    Table,
    /// Their metadata alone.
    Partial,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The encoding.
    pub format: Format,
    /// What is told.
    pub shape: Shape,
    /// The version of `meta.k8s.io` for tables and metadata.
    pub version: &'static str,
}

/// What is asked for by those who say nothing.
pub(crate) const JSON: Wanted = Wanted { format: Format::Json, shape: Shape::Whole, version: "v1" };

const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

impl Wanted {
    /// Reads an `Accept` header: the first of its clauses that is served. Custom resources have no protobuf form of
    /// their own (`binary` is false); their metadata has.
    pub(crate) fn of(accept: &str, binary: bool) -> Result<Wanted, Failure> {
        if accept.is_empty() || accept == "application/json" || accept == "*/*" {
            return Ok(JSON);
        }
        let has_form = |wanted: &Wanted| binary || wanted.format != Format::Protobuf || wanted.shape == Shape::Partial;
        let wanted = accept.split(',').filter_map(clause).find(has_form);
        let accepted = if binary { &ACCEPTED[..] } else { &ACCEPTED[..2] };
        wanted.ok_or_else(|| Failure::not_acceptable(accepted))
    }
}

fn clause(clause: &str) -> Option<Wanted> {
    let mut parts = clause.split(';').map(str::trim);
    let format = match parts.next()? {
        "application/json" | "application/*" | "*/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        "application/vnd.kubernetes.protobuf" => Format::Protobuf,
        _ => return None,
    };
    let mut wanted = Wanted { format, ..JSON };
    for part in parts {
        match part.split_once('=')? {
            ("as", "Table") => wanted.shape = Shape::Table,
            ("as", "PartialObjectMetadata" | "PartialObjectMetadataList") => wanted.shape = Shape::Partial,
            ("as", _) => return None,
            ("v", "v1") => wanted.version = "v1",
            ("v", "v1beta1") => wanted.version = "v1beta1",
            ("v", _) => return None,
            ("g", "meta.k8s.io") => {}
            ("g", _) => return None,
            _ => {}
        }
    }
    // Tables have no protobuf form; upstream refuses that clause too and takes the next.
    (!(wanted.shape == Shape::Table && format == Format::Protobuf)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, format: Format, shape: Shape, version: &str) {
        let wanted = Wanted::of(accept, true).expect("acceptable");
        assert_eq!((wanted.format, wanted.shape, wanted.version), (format, shape, version));
    }

    #[test]
    fn the_first_clause_that_is_served_counts() {
        check("", Format::Json, Shape::Whole, "v1");
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Format::Json, Shape::Table, "v1");
        check("text/html, application/yaml;q=0.9", Format::Yaml, Shape::Whole, "v1");
        check("application/json;as=Unheard;v=v1;g=meta.k8s.io,application/json", Format::Json, Shape::Whole, "v1");
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io",
            Format::Json,
            Shape::Partial,
            "v1beta1",
        );
        check("application/vnd.kubernetes.protobuf,application/json", Format::Protobuf, Shape::Whole, "v1");
    }

    #[test]
    fn the_rest_is_not_acceptable() {
        assert_eq!(Wanted::of("text/html", true).expect_err("not served").code, 406);
    }

    #[test]
    fn custom_resources_have_no_binary_form_but_their_metadata_has() {
        let of = |accept: &str| Wanted::of(accept, false).map(|wanted| wanted.format);
        assert_eq!(of("application/vnd.kubernetes.protobuf,application/json"), Ok(Format::Json));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(of(metadata), Ok(Format::Protobuf));
        assert_eq!(of("application/vnd.kubernetes.protobuf").expect_err("not served").code, 406);
    }
}
