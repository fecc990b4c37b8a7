//! What objects look like: types, fields, and how lists and maps merge.
//!
//! Start at [`Type`]. Built-in types are read lazily out of the facts (see `facts.rs`) and live for ever; a custom
//! resource definition builds the same values itself and shares them by [`Arc`]. Code above never asks which it has.
//!
//! Invariants:
//! * the fields of a type are sorted by name, and no name occurs twice;
//! * the keys of a list map are fields of its item type;
//! * types may refer to themselves, so walks follow the object, never the schema alone.
//!
//! Not here: what a kind is called and where it is served (`kinds.rs`).

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::{Map as JsonMap, Value};

use crate::facts;

/// Text that is either part of the program or made at run time.
pub type Text = Cow<'static, str>;

/// A struct: a name and its fields.
#[derive(Clone, Debug, Default)]
pub struct Type {
    /// The OpenAPI definition's name, such as `io.k8s.api.core.v1.Pod`; empty for a nested type of a custom resource.
    pub name: Text,
    /// The fields, sorted by name.
    pub fields: Vec<Field>,
    /// The struct is one unit for server-side apply.
    pub atomic: bool,
    /// Unknown fields are kept, neither pruned nor reported.
    pub preserve_unknown: bool,
    /// What the struct is for; empty for built-in types.
    pub description: Text,
    /// Further OpenAPI keywords of a custom resource, published as they are.
    pub keywords: Option<Arc<JsonMap<String, Value>>>,
}

/// One field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in JSON.
    pub name: Text,
    /// What it holds.
    pub ty: Ty,
    /// The field number in protobuf; 0 where the field has none.
    pub number: u16,
    /// The numbers of the messages around the field that JSON does not show, outermost first; 0 is none.
    pub via: [u16; 2],
    /// Protobuf puts the items of the list, or of each list in the map, into a message of their own.
    pub boxed: bool,
    /// The field must be there.
    pub required: bool,
    /// `null` is a value of its own here (custom resources only); elsewhere it means absent.
    pub nullable: bool,
    /// How absence and the zero value relate, as in upstream's structs.
    pub presence: Presence,
    /// The default, as JSON text.
    pub default: Option<Text>,
    /// Strategic merge patch merges the list or map instead of replacing it.
    pub patch_merge: bool,
    /// Strategic merge patch clears the fields that the patch does not name (`retainKeys`).
    pub patch_retain_keys: bool,
    /// The key by which strategic merge patch finds the items of a list.
    pub patch_merge_key: Option<Text>,
    /// Overrides the type's own [`Type::atomic`] for this field.
    pub struct_atomic: Option<bool>,
    /// What the field is for; empty for built-in types.
    pub description: Text,
    /// Further OpenAPI keywords of a custom resource, published as they are.
    pub keywords: Option<Arc<JsonMap<String, Value>>>,
}

/// Whether a field can be absent, and whether its zero value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Presence {
    /// Absent and zero differ; written when present (a pointer with `omitempty`, a slice or map with `omitempty`).
    #[default]
    Optional,
    /// Zero means absent: left out of JSON when zero, always written to protobuf (a value with `omitempty`).
    ZeroIsAbsent,
    /// Always written, as its zero value if need be (a value without `omitempty`).
    Always,
    /// Always written, as `null` when absent (a pointer, slice or map without `omitempty`).
    NullIfAbsent,
    /// Left out of JSON when its struct is empty, always written to protobuf (a struct value with `omitzero`).
    EmptyIsAbsent,
}

/// What a field, an item or a map value holds.
#[derive(Clone, Debug)]
pub enum Ty {
    /// `true` or `false`.
    Bool,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A floating-point number.
    Double,
    /// Text.
    String,
    /// Bytes, in JSON as base64.
    Bytes,
    /// A point in time, to the second.
    Time,
    /// A point in time, to the microsecond.
    MicroTime,
    /// A span of time, such as `1h30m`.
    Duration,
    /// An amount, such as `500m` or `2Gi`.
    Quantity,
    /// A whole number or text, such as a port or a percentage.
    IntOrString,
    /// Any JSON.
    Raw(Raw),
    /// A struct.
    Object(TypeRef),
    /// A map with text keys.
    Map(Box<MapTy>),
    /// A list.
    List(Box<ListTy>),
}

/// The kinds of free JSON, which differ in protobuf only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw {
    /// `runtime.RawExtension`: an object of any kind.
    Extension,
    /// `metav1.FieldsV1`: a set of fields.
    Fields,
    /// `apiextensions.JSON`: any value.
    Json,
    /// `apiextensions.JSONSchemaPropsOrArray`: a schema, or a list of them.
    SchemaOrArray,
    /// `apiextensions.JSONSchemaPropsOrBool`: a schema, or whether anything goes.
    SchemaOrBool,
    /// `apiextensions.JSONSchemaPropsOrStringArray`: a schema, or a list of names.
    SchemaOrStrings,
    /// Any value, with no encoding of its own.
    Any,
}

/// A map's values and how the map merges.
#[derive(Clone, Debug)]
pub struct MapTy {
    /// What each key leads to.
    pub value: Ty,
    /// The map is one unit for server-side apply.
    pub atomic: bool,
}

/// A list's items and how the list merges.
#[derive(Clone, Debug)]
pub struct ListTy {
    /// What each item is.
    pub item: Ty,
    /// How items are told apart.
    pub topology: Topology,
}

/// How the items of a list are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Not at all: the list is one unit. What upstream means when it says nothing.
    Atomic,
    /// Items are values that occur once.
    Set,
    /// Items are structs with these fields as their key.
    Map(Vec<Text>),
}

/// A reference to a type: built in, or owned by whoever made it.
#[derive(Clone)]
pub enum TypeRef {
    /// A row of the built-in facts.
    BuiltIn(u16),
    /// A type made at run time.
    Own(Arc<Type>),
}

impl Deref for TypeRef {
    type Target = Type;

    fn deref(&self) -> &Type {
        match self {
            TypeRef::BuiltIn(index) => facts::type_at(*index),
            TypeRef::Own(ty) => ty,
        }
    }
}

// A type may contain itself: print the name only.
impl fmt::Debug for TypeRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TypeRef({})", self.name)
    }
}

impl From<Type> for TypeRef {
    fn from(ty: Type) -> Self {
        TypeRef::Own(Arc::new(ty))
    }
}

impl Type {
    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| field.name.as_ref().cmp(name)).ok().map(|at| &self.fields[at])
    }

    /// The last part of the name, such as `PodSpec`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

impl Field {
    /// A field of that name and type with nothing else said; for types made at run time.
    pub fn new(name: impl Into<Text>, ty: Ty) -> Self {
        Field {
            name: name.into(),
            ty,
            number: 0,
            via: [0, 0],
            boxed: false,
            required: false,
            nullable: false,
            presence: Presence::Optional,
            default: None,
            patch_merge: false,
            patch_retain_keys: false,
            patch_merge_key: None,
            struct_atomic: None,
            description: Text::Borrowed(""),
            keywords: None,
        }
    }

    /// Server-side apply takes the field as one unit: scalars, free JSON, atomic lists, maps and structs.
    pub fn is_atomic(&self) -> bool {
        match (&self.ty, self.struct_atomic) {
            (Ty::Object(_), Some(atomic)) => atomic,
            (ty, _) => ty.is_atomic(),
        }
    }
}

impl Ty {
    /// Server-side apply takes a value of this type as one unit.
    pub fn is_atomic(&self) -> bool {
        match self {
            Ty::Object(ty) => ty.atomic,
            Ty::Map(map) => map.atomic,
            Ty::List(list) => list.topology == Topology::Atomic,
            _ => true,
        }
    }

    /// The struct that this is, or that its items or values are.
    pub fn object(&self) -> Option<&Type> {
        match self {
            Ty::Object(ty) => Some(ty),
            Ty::Map(map) => map.value.object(),
            Ty::List(list) => list.item.object(),
            _ => None,
        }
    }
}

/// The built-in type of that definition name, such as `io.k8s.api.core.v1.Pod`.
pub fn find(name: &str) -> Option<&'static Type> {
    find_ref(name).map(|at| match at {
        TypeRef::BuiltIn(index) => facts::type_at(index),
        TypeRef::Own(_) => unreachable!("built-in types are never owned"),
    })
}

/// A reference to the built-in type of that definition name, to use inside types made at run time (`ObjectMeta`).
pub fn find_ref(name: &str) -> Option<TypeRef> {
    facts::index_of(name).map(TypeRef::BuiltIn)
}

/// Every built-in type, sorted by name.
pub fn all() -> impl Iterator<Item = &'static Type> {
    (0..facts::count()).map(facts::type_at)
}
