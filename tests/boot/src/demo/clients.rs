//! Many clients that write through the API, each one object after the other.
//!
//! Start at [`Clients::start`]. They write by `kubectl proxy`, which knows the cluster's keys: HTTP without TLS on this machine,
//! a connection a request.
//!
//! Invariant: what is counted was acknowledged.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use workloads::{User, writes};

use super::Answer;

/// Between a client's writes: an emulated server shall not keep to nothing else.
const PAUSE: Duration = Duration::from_secs(1);
/// Emulated, with two more boards beside it.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
const VALUE_BYTES: usize = 400;
/// Begins the line in which the proxy tells its address.
const SERVES: &str = "Starting to serve on ";

/// Clients that write until they are told to stop.
pub(super) struct Clients {
    proxy: Child,
    done: Arc<Vec<AtomicUsize>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Answer<()>>>,
}

impl Clients {
    /// So many, as this user. Their objects are ConfigMaps with the label `demo=LABEL`.
    pub(super) fn start(user: &User, count: usize, label: &'static str) -> Answer<Clients> {
        let failed = |error| format!("kubectl proxy does not run: {error}");
        let mut command = user.command(&["proxy", "--port=0"]);
        let mut proxy = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (done, stop) = (Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect()), Arc::default());
        let said = proxy.stdout.take().map(BufReader::new);
        let mut clients = Clients { proxy, done, stop, threads: Vec::new() };
        let mut line = String::new();
        said.ok_or("kubectl proxy has no output")?.read_line(&mut line).map_err(failed)?;
        let address = line.trim().strip_prefix(SERVES).ok_or_else(|| format!("kubectl proxy says {line:?}"))?;
        for client in 0..count {
            let (address, done, stop) = (address.to_owned(), clients.done.clone(), clients.stop.clone());
            clients.threads.push(spawn(move || write_until(&address, label, client, &done[client], &stop)));
        }
        Ok(clients)
    }

    /// How many writes each was told are done.
    pub(super) fn counts(&self) -> Vec<usize> {
        self.done.iter().map(|count| count.load(Ordering::SeqCst)).collect()
    }

    /// Ends them; how many writes there were, or why one was refused.
    pub(super) fn stop(mut self) -> Answer<usize> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| "a client panicked")??;
        }
        Ok(self.counts().iter().sum())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One that has ended by itself is as good.
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

fn write_until(address: &str, label: &str, client: usize, done: &AtomicUsize, stop: &AtomicBool) -> Answer<()> {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = writes::name(client, number);
        let object = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"demo":"{label}"}}}},"data":{{"value":"{}"}}}}"#,
            "x".repeat(VALUE_BYTES)
        );
        let answer = post(address, &object).map_err(|error| format!("{name} was not written: {error}"))?;
        if !answer.starts_with("HTTP/1.1 201 ") {
            return Err(format!("{name} was refused: {answer}"));
        }
        done.store(number + 1, Ordering::SeqCst);
        sleep(PAUSE);
    }
    Ok(())
}

fn post(address: &str, object: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let head =
        "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nContent-Type: application/json\r\nConnection: close";
    // In one piece: a server may answer, and go, before it has heard the last of many.
    let request = format!("{head}\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{object}", object.len());
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_client_counts_what_was_acknowledged_and_tells_what_was_refused() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = server.local_addr().expect("it has one").to_string();
        let answers = spawn(move || {
            for answer in ["201 Created", "409 Conflict"] {
                let (mut stream, _) = server.accept().expect("a client comes");
                let (mut heard, mut bytes) = (Vec::new(), [0; 4096]);
                while !heard.ends_with(b"}}") {
                    let count = stream.read(&mut bytes).expect("it asks");
                    assert!(count > 0, "it asks to the end");
                    heard.extend(&bytes[..count]);
                }
                write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").expect("it listens");
            }
        });
        let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let refused = write_until(&address, "test", 7, &done, &stop).expect_err("the second is refused");
        assert!(refused.starts_with("client-7-1 was refused: HTTP/1.1 409 Conflict"), "{refused}");
        assert_eq!(done.load(Ordering::SeqCst), 1);
        answers.join().expect("it answered twice");
    }
}
