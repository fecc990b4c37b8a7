//! Streams between clients and containers: exec, attach, port-forward, over WebSocket and SPDY.
//!
//! Start at [`remote::serve`] and [`forward`]; the codecs are [`spdy`] and [`websocket`].
//!
//! Not here: HTTP and who may ask (`server`).

pub mod forward;
pub mod link;
pub mod remote;
pub mod spdy;
pub mod websocket;
