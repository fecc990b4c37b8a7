//! Joins a client to a process: exec and attach.
//!
//! Start at [`serve`].
//!
//! Invariants:
//! * all output is sent before the end is told;
//! * a client that goes away ends nothing but its own session.

use bytes::Bytes;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use runtime::{Input, Output, Streams, TerminalSize};
use tokio::sync::mpsc;

use super::link::{Channel, Incoming, Link};

/// How a command ended, as the error channel tells it.
pub fn verdict(version: u8, exit: Result<i32, String>) -> Bytes {
    if version >= 4 {
        let status = match exit {
            Ok(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
            Ok(code) => serde_json::json!({
                "metadata": {},
                "status": "Failure",
                "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Err(error) => serde_json::json!({
                "metadata": {},
                "status": "Failure",
                "reason": "InternalError",
                "message": format!("Internal error occurred: error executing command in container: {error}"),
                "details": {"causes": [{"message": format!("error executing command in container: {error}")}]},
                "code": 500,
            }),
        };
        return Bytes::from(status.to_string());
    }
    match exit {
        Ok(0) => Bytes::new(),
        Ok(code) => Bytes::from(format!("command terminated with non-zero exit code: exit status {code}")),
        Err(error) => Bytes::from(format!("error executing command in container: {error}")),
    }
}

/// Moves bytes between client and process until the process ends or the client goes.
pub async fn serve(link: Link, streams: Streams) {
    let Link { incoming, outgoing, version } = link;
    let Streams { stdin, stdout, stderr, resize, exit } = streams;
    let outputs = async {
        tokio::join!(copy_out(stdout, Channel::Stdout, &outgoing), copy_out(stderr, Channel::Stderr, &outgoing));
    };
    let finish = async {
        let ((), exit) = tokio::join!(outputs, exit);
        let told = verdict(version, exit.map_err(|error| base::chain(&error).to_string()));
        if !told.is_empty() {
            let _ = outgoing.send((Channel::Error, told)).await;
        }
    };
    tokio::select! {
        () = finish => {}
        // The client went away.
        () = copy_in(incoming, stdin, &*resize) => {}
    }
}

async fn copy_out(output: Option<Output>, channel: Channel, outgoing: &mpsc::Sender<(Channel, Bytes)>) {
    let Some(mut output) = output else { return };
    let mut buffer = vec![0; 32 << 10];
    loop {
        match output.read(&mut buffer).await {
            // A terminal whose process is gone reads as an error, which means the same.
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if outgoing.send((channel, Bytes::copy_from_slice(&buffer[..length]))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Ends when the client is gone.
async fn copy_in(
    mut incoming: mpsc::Receiver<Incoming>,
    mut stdin: Option<Input>,
    resize: &(dyn Fn(TerminalSize) + Send + Sync),
) {
    while let Some(heard) = incoming.recv().await {
        match heard {
            Incoming::Data(Channel::Stdin, bytes) => {
                if let Some(input) = &mut stdin
                    && (input.write_all(&bytes).await.is_err() || input.flush().await.is_err())
                {
                    // The process closed its input: the rest is thrown away.
                    stdin = None;
                }
            }
            Incoming::End(Channel::Stdin) => {
                if let Some(mut input) = stdin.take() {
                    let _ = input.close().await;
                }
            }
            Incoming::Data(Channel::Resize, bytes) => sizes(&bytes).into_iter().for_each(resize),
            Incoming::Data(..) | Incoming::End(_) => {}
        }
    }
}

/// Sizes such as `{"Width":80,"Height":24}`, one after the other.
fn sizes(bytes: &[u8]) -> Vec<TerminalSize> {
    let values = serde_json::Deserializer::from_slice(bytes).into_iter::<serde_json::Value>();
    let number =
        |value: &serde_json::Value, name: &str| value.get(name)?.as_u64().and_then(|number| u16::try_from(number).ok());
    values
        .map_while(Result::ok)
        .filter_map(|value| Some(TerminalSize { width: number(&value, "Width")?, height: number(&value, "Height")? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::io::{AllowStdIo, Cursor};

    #[test]
    fn ends_are_told_as_the_version_wants() {
        let text = |version, exit| String::from_utf8(verdict(version, exit).to_vec()).expect("text");
        assert_eq!(text(5, Ok(0)), r#"{"metadata":{},"status":"Success"}"#);
        assert!(
            text(4, Ok(3)).contains(r#""reason":"NonZeroExitCode""#) && text(4, Ok(3)).contains(r#""message":"3""#)
        );
        assert_eq!(text(1, Ok(0)), "");
        assert_eq!(text(2, Ok(3)), "command terminated with non-zero exit code: exit status 3");
    }

    #[test]
    fn sizes_are_read() {
        let found = sizes(b"{\"Width\":80,\"Height\":24}\n{\"Width\":1,\"Height\":2}\n");
        assert_eq!(found, [TerminalSize { width: 80, height: 24 }, TerminalSize { width: 1, height: 2 }]);
        assert!(sizes(b"x").is_empty());
    }

    #[tokio::test]
    async fn output_comes_before_the_end() {
        let (_client, incoming) = mpsc::channel(1);
        let (outgoing, mut sent) = mpsc::channel(10);
        let streams = Streams {
            stdin: Some(Box::new(AllowStdIo::new(std::io::sink()))),
            stdout: Some(Box::new(Cursor::new(b"hello".to_vec()))),
            stderr: None,
            resize: Box::new(|_| ()),
            exit: async { Ok(0) }.boxed(),
        };
        serve(Link { incoming, outgoing, version: 4 }, streams).await;
        assert_eq!(sent.recv().await, Some((Channel::Stdout, Bytes::from_static(b"hello"))));
        assert_eq!(sent.recv().await.map(|(channel, _)| channel), Some(Channel::Error));
        assert_eq!(sent.recv().await, None);
    }
}
