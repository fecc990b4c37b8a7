//! Asks a container something: by a command, HTTP, a TCP connection or gRPC's health service. Probes and hooks share it.
//!
//! Start at [`probe`] and [`hook`].
//!
//! Invariants:
//! * an answer comes within the timeout;
//! * messages are those of upstream's kubelet, because people search for them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use runtime::{ContainerId, Runtime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// As much of an answer is read; upstream's limit.
const ANSWER_BYTES_MAX: usize = 10 << 10;

/// Whom to ask.
#[derive(Clone)]
pub struct Target {
    /// Runs commands.
    pub runtime: Arc<dyn Runtime>,
    /// The container.
    pub id: ContainerId,
    /// Its spec, for named ports.
    pub container: Arc<Container>,
    /// The pod's address.
    pub ip: Option<IpAddr>,
}

/// Asks a probe's question. The error is what the event says.
pub async fn probe(target: &Target, probe: &Probe, limit: Duration) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        return command(target, exec.command.clone().unwrap_or_default(), limit).await;
    }
    let late = |what: String| format!("{what}: context deadline exceeded");
    if let Some(get) = &probe.http_get {
        let url = url(get, target)?;
        let late = late(format!("Get \"{url}\""));
        let status = timeout(limit, http_get(get, &url, target, "kube-probe")).await.unwrap_or(Err(late))?;
        return if (200..400).contains(&status) {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {status}"))
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let port = port_number(&tcp.port, target)?;
        let address = address(tcp.host.as_deref(), port, target)?;
        let late = late(format!("dial tcp {address}"));
        return timeout(limit, dial(&address)).await.unwrap_or(Err(late)).map(drop);
    }
    if let Some(grpc) = &probe.grpc {
        let address = address(None, grpc.port as u16, target)?;
        let late = |_| {
            Err(format!(
                "timeout: failed to connect service \"{address}\" within {}s: context deadline exceeded",
                limit.as_secs()
            ))
        };
        return timeout(limit, grpc_health(grpc, &address)).await.unwrap_or_else(late);
    }
    Ok(())
}

/// Runs a lifecycle hook. The error is what the event says.
pub async fn hook(target: &Target, handler: &LifecycleHandler, limit: Duration) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        return command(target, exec.command.clone().unwrap_or_default(), limit).await;
    }
    if let Some(get) = &handler.http_get {
        let url = url(get, target)?;
        let status = timeout(limit, http_get(get, &url, target, "kube-lifecycle")).await;
        let status = status.unwrap_or_else(|_| Err(format!("Get \"{url}\": context deadline exceeded")))?;
        return if (200..400).contains(&status) {
            Ok(())
        } else {
            Err(format!("HTTP hook failed with statuscode: {status}"))
        };
    }
    if let Some(sleep) = &handler.sleep {
        let wanted = Duration::from_secs(sleep.seconds.max(0) as u64);
        tokio::time::sleep(wanted.min(limit)).await;
    }
    Ok(())
}

async fn command(target: &Target, command: Vec<String>, limit: Duration) -> Result<(), String> {
    let words = command.join(" ");
    let result = target.runtime.exec_sync(target.id.clone(), command, limit).await;
    match result {
        Ok(result) if result.exit_code == 0 => Ok(()),
        Ok(result) => {
            let mut output = result.stdout;
            output.extend(result.stderr);
            output.truncate(ANSWER_BYTES_MAX);
            let output = String::from_utf8_lossy(&output).into_owned();
            Err(if output.is_empty() {
                format!("command \"{words}\" exited with {}", result.exit_code)
            } else {
                output
            })
        }
        Err(runtime::RuntimeError::Timeout { .. }) => {
            Err(format!("command timed out: \"{words}\" timed out after {}s", limit.as_secs()))
        }
        Err(error) => Err(base::chain(&error).to_string()),
    }
}

fn port_number(port: &IntOrString, target: &Target) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = target.container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or_else(|| match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: {name} in container {}", target.container.name),
    })
}

fn address(host: Option<&str>, port: u16, target: &Target) -> Result<String, String> {
    match (host.filter(|host| !host.is_empty()), target.ip) {
        (Some(host), _) => Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }),
        (None, Some(ip)) => Ok(SocketAddr::new(ip, port).to_string()),
        (None, None) => Err("the pod has no address".to_owned()),
    }
}

fn url(get: &HTTPGetAction, target: &Target) -> Result<String, String> {
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let address = address(get.host.as_deref(), port_number(&get.port, target)?, target)?;
    let path = get.path.as_deref().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!("{scheme}://{address}{slash}{path}"))
}

async fn dial(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
            std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {address}: connect: {why}")
    })
}

async fn http_get(get: &HTTPGetAction, url: &str, target: &Target, agent: &str) -> Result<u16, String> {
    let failed = |why: String| format!("Get \"{url}\": {why}");
    let uri: http::Uri = url.parse().map_err(|error| failed(format!("{error}")))?;
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let stream = dial(&address(get.host.as_deref(), port_number(&get.port, target)?, target)?).await.map_err(failed)?;
    let mut request =
        http::Request::get(uri.path_and_query().map_or("/", |path| path.as_str())).header("Connection", "close");
    let given = |name: &str| get.http_headers.iter().flatten().any(|header| header.name.eq_ignore_ascii_case(name));
    for (name, value) in [("User-Agent", format!("{agent}/1.36")), ("Accept", "*/*".to_owned()), ("Host", authority)] {
        if !given(name) {
            request = request.header(name, value);
        }
    }
    for header in get.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(error.to_string()))?;
    if uri.scheme_str() == Some("https") {
        let connector = tokio_rustls::TlsConnector::from(unverified_tls());
        let name = rustls_pki_types::ServerName::try_from(
            uri.host().unwrap_or("localhost").trim_matches(['[', ']']).to_owned(),
        );
        let name = name.map_err(|error| failed(error.to_string()))?;
        let stream = connector.connect(name, stream).await.map_err(|error| failed(error.to_string()))?;
        return send(stream, request).await.map_err(failed);
    }
    send(stream, request).await.map_err(failed)
}

async fn send<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let exchange = async {
        let reply = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = reply.status().as_u16();
        // The body is read so that servers that count bytes are content; too long a body is no failure.
        let _ = Limited::new(reply.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(status)
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match exchange.await {
            Ok(status) => Ok(status),
            Err(error) => Err(ended.err().map_or(error, |error| error.to_string())),
        },
    }
}

async fn grpc_health(grpc: &GRPCAction, address: &str) -> Result<(), String> {
    let stream = dial(address).await.map_err(|error| format!("error: {error}"))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| format!("error: {error}"))?;
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(health_request(grpc.service.as_deref().unwrap_or_default())))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let reply = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let headers = reply.headers().clone();
        let body =
            Limited::new(reply.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        let code =
            body.trailers().and_then(|trailers| trailers.get("grpc-status")).or(headers.get("grpc-status")).cloned();
        Ok::<_, String>((code, body.to_bytes()))
    };
    tokio::pin!(exchange, connection);
    let (code, body) = tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }?;
    match code.as_ref().and_then(|code| code.to_str().ok()) {
        None | Some("0") => {}
        Some("12") => {
            return Err(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()
            );
        }
        Some(code) => return Err(format!("error: health rpc failed with code {code}")),
    }
    match health_status(&body) {
        1 => Ok(()),
        status => Err(format!(
            "service unhealthy (responded with \"{}\")",
            ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(status as usize).unwrap_or(&"UNKNOWN")
        )),
    }
}

/// `HealthCheckRequest{service}` in a gRPC frame.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length as u8) | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend(service.bytes());
    }
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    Bytes::from(frame)
}

/// `HealthCheckResponse.status` from a gRPC frame; 0 where it is not set.
fn health_status(frame: &[u8]) -> u8 {
    let mut frame = frame;
    if frame.len() < 7 {
        return 0;
    }
    frame.advance(5);
    if frame[0] == 0x08 { frame[1] } else { 0 }
}

/// Probes do not verify certificates: upstream's do not either, pods have their own.
fn unverified_tls() -> Arc<rustls::ClientConfig> {
    static CONFIG: std::sync::OnceLock<Arc<rustls::ClientConfig>> = std::sync::OnceLock::new();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let make = || {
        let verifier = Arc::new(AnyCertificate(provider.clone()));
        let builder =
            rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        // The provider's own defaults always fit together.
        let builder = builder.expect("ring supports the default TLS versions");
        Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    };
    CONFIG.get_or_init(make).clone()
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{ManualClock, Timestamp};
    use runtime::fake::FakeRuntime;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn target(ip: &str) -> Target {
        let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(0)));
        let container = serde_json::json!({"name": "a", "ports": [{"name": "web", "containerPort": 8080}]});
        Target {
            runtime: Arc::new(FakeRuntime::new(clock)),
            id: ContainerId("c".into()),
            container: Arc::new(serde_json::from_value(container).expect("a container")),
            ip: ip.parse().ok(),
        }
    }

    #[test]
    fn urls_are_made_from_action_and_pod() {
        for (action, wanted) in [
            (serde_json::json!({"port": 80}), "http://10.0.0.1:80/"),
            (serde_json::json!({"port": "web", "path": "/x?y"}), "http://10.0.0.1:8080/x?y"),
            (serde_json::json!({"port": 1, "host": "h", "scheme": "HTTPS", "path": "p"}), "https://h:1/p"),
        ] {
            let action = serde_json::from_value(action).expect("an action");
            assert_eq!(url(&action, &target("10.0.0.1")).as_deref(), Ok(wanted));
        }
        let action = serde_json::from_value(serde_json::json!({"port": "none"})).expect("an action");
        assert_eq!(url(&action, &target("10.0.0.1")), Err("couldn't find port: none in container a".to_owned()));
    }

    /// A server of one connection that answers with `reply`.
    async fn server(reply: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            stream.write_all(reply.as_bytes()).await.expect("written");
        });
        port
    }

    #[tokio::test]
    async fn http_probes_judge_the_status() {
        for (reply, wanted) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Ok(())),
            ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", Ok(())),
            ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", Err("HTTP probe failed with statuscode: 500".to_owned())),
        ] {
            let port = server(reply).await;
            let asked = serde_json::from_value(serde_json::json!({"httpGet": {"port": port}})).expect("a probe");
            assert_eq!(probe(&target("127.0.0.1"), &asked, Duration::from_secs(5)).await, wanted);
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_in_upstreams_words() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let asked = serde_json::from_value(serde_json::json!({"tcpSocket": {"port": port}})).expect("a probe");
        let found = probe(&target("127.0.0.1"), &asked, Duration::from_secs(5)).await;
        assert_eq!(found, Err(format!("dial tcp 127.0.0.1:{port}: connect: connection refused")));
    }

    #[test]
    fn the_health_service_speaks_a_few_bytes() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!((health_status(&[0, 0, 0, 0, 2, 8, 1]), health_status(&[0, 0, 0, 0, 0])), (1, 0));
    }
}
