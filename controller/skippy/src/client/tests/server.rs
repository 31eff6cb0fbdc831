//! A small HTTPS server with a certificate of its own, that answers as a test tells it to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::config::{Fingerprint, Settings, Token, Trust};
use crate::tls::fingerprint;

/// What the server saw.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `GET /v1/nodes?limit=2`
    pub(crate) line: String,
    /// In lower case, with their values as they came.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// What the server does with a request.
pub(crate) enum Reply {
    Json(u16, &'static str, String),
    /// Sends these pieces as an event stream, and ends it.
    Stream(Vec<&'static str>),
    /// Never answers.
    Hang,
    /// Closes the connection.
    Close,
}

pub(crate) fn json(status: u16, body: &str) -> Reply {
    Reply::Json(status, "application/json", body.to_owned())
}

pub(crate) fn problem(status: u16, body: &str) -> Reply {
    Reply::Json(status, "application/problem+json", body.to_owned())
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) ca_pem: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers the n-th request, from 0, as `answer` says.
    pub(crate) async fn start(answer: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, seen, answer) = (acceptor.clone(), seen.clone(), answer.clone());
                    tokio::spawn(async move {
                        // A client that refuses the certificate ends here.
                        if let Ok(stream) = acceptor.accept(stream).await {
                            let _ = serve(stream, &seen, &*answer).await;
                        }
                    });
                }
            }
        });
        Self { address, fingerprint: fingerprint(&certificate), ca_pem: made.cert.pem(), seen, task }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            url: format!("https://localhost:{}", self.address.port()).parse().unwrap(),
            token: Some(Token::parse("t0ken", "test").unwrap()),
            trust: Trust::Pinned(self.fingerprint),
            context: None,
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    log: &Mutex<Vec<Seen>>,
    answer: &(dyn Fn(usize, &Seen) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut seen = Seen {
        line: line.trim().trim_end_matches(" HTTP/1.1").to_owned(),
        headers: vec![],
        body: String::new(),
    };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim().split_once(':') {
            Some((name, value)) => seen.headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    seen.body = String::from_utf8(body).unwrap();
    let count = {
        let mut log = log.lock().unwrap();
        log.push(seen.clone());
        log.len() - 1
    };
    match answer(count, &seen) {
        Reply::Json(status, kind, body) => {
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nretry-after: 0\r\n\
                 connection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await?;
        }
        Reply::Stream(pieces) => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await?;
                stream.flush().await?;
            }
        }
        Reply::Hang => std::future::pending().await,
        Reply::Close => {}
    }
    stream.shutdown().await
}
