//! A collector's `/metrics`, for Prometheus.
//!
//! Start at [`serve`]. A whole HTTP server would be the larger half of a collector; Prometheus asks one thing.

use std::time::Duration;

use base::exposition::{CONTENT_TYPE, Exposition};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Who asks has so long to say so, in so many bytes.
const ASK: (Duration, usize) = (Duration::from_secs(5), 8 << 10);
/// After a failed accept the next try waits so long.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers for ever.
pub(crate) async fn serve(listener: TcpListener, told: impl Fn() -> Exposition) {
    loop {
        match listener.accept().await {
            // One after the other: an answer takes no time, and nobody keeps the next waiting for longer than the limit.
            Ok((client, _)) => drop(tokio::time::timeout(ASK.0, answer(client, &told)).await),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn answer(mut client: TcpStream, told: &impl Fn() -> Exposition) -> std::io::Result<()> {
    let mut asked = Vec::new();
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") && asked.len() < ASK.1 {
        if client.read_buf(&mut asked).await? == 0 {
            return Ok(());
        }
    }
    let (status, kind, body) = match path(&asked) {
        Some("/metrics") => ("200 OK", CONTENT_TYPE, told().to_string()),
        _ => ("404 Not Found", "text/plain; charset=utf-8", "404 page not found\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(body.as_bytes()).await?;
    client.shutdown().await
}

/// What a GET asks for, its query aside.
fn path(asked: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(asked.split(|byte| *byte == b'\r').next()?).ok()?;
    line.strip_prefix("GET ")?.split([' ', '?']).next()
}

#[cfg(test)]
mod tests {
    use base::exposition::Family;

    use super::*;

    #[tokio::test]
    async fn metrics_are_served_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener, || {
            let mut told = Exposition::default();
            told.add(Family { name: "a", help: "A." }, &[], 1.0);
            told
        }));
        for (path, wanted) in [
            ("/metrics", "200 OK"),
            ("/metrics?collect=all", "200 OK"),
            ("/metricsand", "404 Not Found"),
            ("/", "404 Not Found"),
        ] {
            let mut client = TcpStream::connect(address).await.expect("connected");
            client.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.expect("sent");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("text");
            assert!(answer.contains(wanted), "{answer}");
            assert_eq!(answer.ends_with("# TYPE a gauge\na 1\n"), path.starts_with("/metrics") && wanted == "200 OK");
        }
    }
}
