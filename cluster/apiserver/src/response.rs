//! What goes back: a status, a type, and a body that is bytes, a stream, or a way to another server.
//!
//! Start at [`Response`]. The edge (`run`) turns it into HTTP; the in-process door reads it as it is.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderName, HeaderValue, StatusCode};

/// JSON.
pub const JSON: &str = "application/json";

/// What goes back.
pub struct Response {
    /// The HTTP status.
    pub status: StatusCode,
    /// Its `Content-Type`; empty where there is no body.
    pub content_type: &'static str,
    /// Further headers, such as warnings.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Body,
}

/// A body.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Frames of a watch, until the stream ends or the time is up.
    Stream {
        /// The frames.
        frames: BoxStream<'static, Bytes>,
        /// How long it may go on.
        timeout: Option<Duration>,
    },
    /// Another server answers: the caller connects it with the client, byte for byte where the connection is upgraded.
    Proxied(Proxied),
}

/// A request that another server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// Address and port, such as `10.0.0.1:10250`.
    pub address: String,
    /// How the way there is secured.
    pub security: Security,
    /// Path and query to ask for.
    pub path: String,
}

/// How the way to another server is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not at all: plain HTTP to a pod.
    Plain,
    /// TLS to a kubelet, which shows a certificate of the cluster's CA and is shown ours.
    Kubelet,
    /// TLS to a pod, whose certificate nobody vouches for (upstream believes any, too).
    Unverified,
}

impl Response {
    /// JSON of that status.
    pub fn json(status: StatusCode, body: Bytes) -> Response {
        Response { status, content_type: JSON, headers: Vec::new(), body: Body::Whole(body) }
    }

    /// Plain text of that status.
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
        let content_type = "text/plain; charset=utf-8";
        Response { status, content_type, headers: Vec::new(), body: Body::Whole(body.into()) }
    }
}
