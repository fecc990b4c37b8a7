//! From an HTTP request to the core and back.
//!
//! Start at [`answer`].
//!
//! Invariants:
//! * a body is read to at most [`BODY_BYTES_MAX`] and within [`BODY_TIME`];
//! * a watch's body ends with its stream or its time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use crate::body::BODY_BYTES_MAX;
use crate::tunnel::Tunnels;
use crate::{Api, Body, Credentials, Failure, Response, render};

/// A client has so long to send a body.
const BODY_TIME: Duration = Duration::from_secs(60);

/// Only paths with one of these can be answered by another server; nobody else pays for a copy of the request.
const PROXIED: [&str; 5] = ["/log", "/exec", "/attach", "/portforward", "/proxy"];

/// The body of an answer on its way out.
pub(crate) enum Served {
    /// All of it, until it is sent.
    Whole(Option<Bytes>),
    /// A watch.
    Stream {
        /// Its frames.
        frames: BoxStream<'static, Bytes>,
        /// When it ends.
        end: Option<Pin<Box<Sleep>>>,
    },
    /// Another server's.
    Incoming(Incoming),
}

/// Answers one request.
pub(crate) async fn answer(
    api: &Arc<Api>,
    tunnels: &Tunnels,
    mut request: http::Request<Incoming>,
    credentials: Credentials,
) -> http::Response<Served> {
    let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let is_head = request.method() == Method::HEAD;
    let (parts, body) = request.into_parts();
    let body = match parts.method {
        // No verb reads a body of these, and a client that sends one need not be waited for.
        Method::GET | Method::HEAD => Bytes::new(),
        _ if upgrade.is_some() => Bytes::new(),
        _ => match read(body).await {
            Ok(body) => body,
            Err(failure) => return finish(render::failure(&failure), is_head),
        },
    };
    let request = http::Request::from_parts(parts, body);
    // Passed on as it came, if another server answers.
    let path = request.uri().path();
    let copy = PROXIED.iter().any(|step| path.contains(step)).then(|| request.clone());
    let response = api.handle(request, credentials).await;
    match (response.body, copy) {
        (Body::Proxied(target), Some(request)) => match tunnels.pass(&target, request, upgrade).await {
            Ok(response) => response,
            Err(failure) => finish(render::failure(&failure), is_head),
        },
        (body, _) => finish(Response { body, ..response }, is_head),
    }
}

async fn read(body: Incoming) -> Result<Bytes, Failure> {
    let limited = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_TIME, limited).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Failure::too_large(BODY_BYTES_MAX)),
        Ok(Err(error)) => Err(Failure::bad_request(format!("failed to read the request's body: {error}"))),
        Err(_) => Err(Failure::bad_request("the request's body took too long")),
    }
}

fn finish(response: Response, is_head: bool) -> http::Response<Served> {
    let mut out = http::Response::new(Served::Whole(None));
    *out.status_mut() = response.status;
    let headers = out.headers_mut();
    if !response.content_type.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(response.content_type));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    for (name, value) in response.headers {
        headers.append(name, value);
    }
    *out.body_mut() = match response.body {
        _ if is_head => Served::Whole(None),
        Body::Whole(bytes) => Served::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())),
        Body::Stream { frames, timeout } => {
            Served::Stream { frames, end: timeout.map(|time| Box::pin(tokio::time::sleep(time))) }
        }
        Body::Proxied(_) => {
            *out.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            Served::Whole(None)
        }
    };
    out
}

impl hyper::body::Body for Served {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Served::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Served::Incoming(incoming) => Pin::new(incoming).poll_frame(context),
            Served::Stream { frames, end } => match frames.as_mut().poll_next(context) {
                Poll::Ready(frame) => Poll::Ready(frame.map(|bytes| Ok(Frame::data(bytes)))),
                Poll::Pending => match end.as_mut().map(|end| end.as_mut().poll(context)) {
                    Some(Poll::Ready(())) => Poll::Ready(None),
                    _ => Poll::Pending,
                },
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Served::Whole(bytes) => bytes.is_none(),
            Served::Incoming(incoming) => incoming.is_end_stream(),
            Served::Stream { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Served::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Served::Incoming(incoming) => incoming.size_hint(),
            Served::Stream { .. } => SizeHint::default(),
        }
    }
}
