//! Offers the API on a listener: TLS, HTTP/1.1 and HTTP/2, with bounds against too many and too slow clients.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::Request,
    response::Response,
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower::ServiceExt;
use tracing::{debug, warn};

use super::{observe::RemoteAddress, stall::Stall};
use crate::{engine::Engine, metrics::Metrics};

/// Bounds against too many and too slow clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServeLimits {
    /// Connections at a time. Default 1024.
    pub connections: usize,
    /// Connections of one address at a time; a /64 of IPv6 counts as one. Default 256.
    pub per_address: usize,
    /// How long the TLS handshake may take, and then the header of each request. Default 10 s.
    pub header_time: Duration,
    /// How long a connection may be without a request. Default 60 s.
    pub idle_time: Duration,
    /// How long an answer may wait for the client to read more of it; longer than the event stream is ever silent.
    /// Default 30 s.
    pub write_time: Duration,
    /// How long answers may take to end once the server stops. Default 2 s.
    pub stop_time: Duration,
}

impl Default for ServeLimits {
    fn default() -> ServeLimits {
        ServeLimits {
            connections: 1024,
            per_address: 256,
            header_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(60),
            write_time: Duration::from_secs(30),
            stop_time: Duration::from_secs(2),
        }
    }
}

/// The listener failed.
#[derive(Debug, thiserror::Error)]
#[error("the listener of the API failed")]
pub struct ServeError(#[source] pub io::Error);

/// The protocols that a TLS configuration for [`serve`] has to offer, best first.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Serves until `shutdown` is true or its sender is gone. The TLS configuration offers [`ALPN`].
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    metrics: Arc<Metrics>,
    limits: ServeLimits,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let acceptor = TlsAcceptor::from(tls);
    let open = Arc::new(Open::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            // Of the connection, or of a lack of descriptors that passes; a broken listener would show both for ever.
            Err(error) if is_passing(&error) => {
                warn!("a connection of the API was not accepted: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(error) => return Err(ServeError(error)),
        };
        let Some(place) = open.enter(remote.ip(), &limits, &metrics) else { continue };
        let connection = Connection {
            acceptor: acceptor.clone(),
            router: router.clone(),
            metrics: metrics.clone(),
            limits,
            remote,
            shutdown: shutdown.clone(),
        };
        connections.spawn(async move {
            connection.run(stream).await;
            drop(place);
        });
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    // What is left are event streams and clients that do not read: dropped with the set.
    let _ = tokio::time::timeout(limits.stop_time, ended).await;
    Ok(())
}

/// Serves metrics without TLS and without tokens, for a listener on a private address.
pub async fn serve_metrics(
    listener: TcpListener,
    engine: Engine,
    metrics: Arc<Metrics>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let answer = axum::routing::get(move || {
        let (engine, metrics) = (engine.clone(), metrics.clone());
        async move {
            let format = (axum::http::header::CONTENT_TYPE, crate::metrics::TEXT_FORMAT);
            ([format], metrics.render(&engine).await)
        }
    });
    let router = Router::new().route("/metrics", answer);
    let limits = ServeLimits::default();
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(ServeError(error)),
            },
            Some(_) = connections.join_next() => continue,
            _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
        };
        if connections.len() >= METRICS_CONNECTIONS {
            continue;
        }
        let router = router.clone();
        connections.spawn(async move {
            let service =
                service_fn(move |request: Request<Incoming>| router.clone().oneshot(request.map(Body::new)));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(limits.header_time);
            // The scraper's fault, if any.
            let stream = Stall::new(stream, limits.write_time);
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

const METRICS_CONNECTIONS: usize = 32;
const STREAMS: u32 = 64;
const HEADER_BYTES: u32 = 64 << 10;

struct Connection {
    acceptor: TlsAcceptor,
    router: Router,
    metrics: Arc<Metrics>,
    limits: ServeLimits,
    remote: SocketAddr,
    shutdown: watch::Receiver<bool>,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        // Small answers are not kept back.
        let _ = stream.set_nodelay(true);
        let handshake = self.acceptor.accept(Stall::new(stream, self.limits.write_time));
        let stream = match tokio::time::timeout(self.limits.header_time, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                debug!(remote = %self.remote, "the TLS handshake failed: {error}");
                return self.metrics.connection_cut("tls");
            }
            Err(_) => return self.metrics.connection_cut("tls"),
        };
        self.http(stream).await;
    }

    async fn http(self, stream: TlsStream<Stall<TcpStream>>) {
        let Connection { router, metrics, limits, remote, mut shutdown, .. } = self;
        let activity = Arc::new(Activity::new());
        let service = {
            let activity = activity.clone();
            service_fn(move |request: Request<Incoming>| {
                answer(router.clone(), activity.clone(), remote, request)
            })
        };
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        // One of the two: which it is was settled by ALPN, so no byte of the client has to be waited for.
        let result = if h2 {
            let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(HEADER_BYTES)
                .keep_alive_interval(limits.idle_time / 3)
                .keep_alive_timeout(limits.header_time);
            let connection = http.serve_connection(io, service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                result = connection.as_mut() => result.map_err(|error| error.to_string()),
                () = activity.idle(&limits, &mut shutdown) => {
                    connection.as_mut().graceful_shutdown();
                    linger(connection, &activity, &limits).await
                }
            }
        } else {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(limits.header_time)
                .max_buf_size(HEADER_BYTES as usize);
            let connection = http.serve_connection(io, service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                result = connection.as_mut() => result.map_err(|error| error.to_string()),
                () = activity.idle(&limits, &mut shutdown) => {
                    connection.as_mut().graceful_shutdown();
                    linger(connection, &activity, &limits).await
                }
            }
        };
        if let Err(error) = result {
            debug!(%remote, "a connection of the API ended: {error}");
            metrics.connection_cut("http");
        }
    }
}

/// After a graceful end: streams in use may go on as long as somebody reads them, a client that never asked for
/// anything may not.
async fn linger<F: Future<Output = hyper::Result<()>>>(
    mut connection: std::pin::Pin<&mut F>,
    activity: &Activity,
    limits: &ServeLimits,
) -> Result<(), String> {
    if activity.requests.load(Ordering::Relaxed) == 0 {
        let ended = tokio::time::timeout(limits.stop_time, connection).await;
        return ended.unwrap_or(Ok(())).map_err(|error| error.to_string());
    }
    loop {
        let quiet = activity.quiet();
        if quiet >= limits.write_time {
            return Err("the client does not read".to_owned());
        }
        if let Ok(ended) = tokio::time::timeout(limits.write_time - quiet, connection.as_mut()).await {
            return ended.map_err(|error| error.to_string());
        }
    }
}

async fn answer(
    router: Router,
    activity: Arc<Activity>,
    remote: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let _running = activity.begin();
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(RemoteAddress(remote));
    let response = router.oneshot(request).await?;
    Ok(response.map(|body| Body::new(Watched { body, activity })))
}

/// The body of an answer. That more of it is asked for shows that the client reads.
struct Watched {
    body: Body,
    activity: Arc<Activity>,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.activity.touch();
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether a connection is used.
struct Activity {
    requests: AtomicUsize,
    running: AtomicUsize,
    last: Mutex<Instant>,
    read: Mutex<Instant>,
}

struct Running(Arc<Activity>);

impl Activity {
    fn new() -> Activity {
        Activity {
            requests: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            last: Mutex::new(Instant::now()),
            read: Mutex::new(Instant::now()),
        }
    }

    fn touch(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// For how long nobody has read an answer. An answer that is still made keeps nobody waiting.
    fn quiet(&self) -> Duration {
        if self.running.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let read = *self.read.lock().unwrap_or_else(PoisonError::into_inner);
        last.max(read).elapsed()
    }

    fn begin(self: &Arc<Self>) -> Running {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }

    /// Completes when nothing was asked for a while, or the server stops.
    async fn idle(&self, limits: &ServeLimits, shutdown: &mut watch::Receiver<bool>) {
        loop {
            let allowed = match self.requests.load(Ordering::Relaxed) {
                0 => limits.header_time,
                _ => limits.idle_time,
            };
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = last.elapsed();
            if idle >= allowed && self.running.load(Ordering::Relaxed) == 0 {
                return;
            }
            let wait = allowed.saturating_sub(idle).max(Duration::from_millis(100));
            if tokio::time::timeout(wait, shutdown.wait_for(|stop| *stop)).await.is_ok() {
                return;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Open {
    by_owner: Mutex<HashMap<IpAddr, usize>>,
    all: AtomicUsize,
}

/// A connection's place; free again when it is dropped.
struct Place {
    open: Arc<Open>,
    owner: IpAddr,
    metrics: Arc<Metrics>,
}

impl Open {
    fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &ServeLimits,
        metrics: &Arc<Metrics>,
    ) -> Option<Place> {
        let owner = owner(address);
        let mut by_owner = self.by_owner.lock().unwrap_or_else(PoisonError::into_inner);
        if self.all.load(Ordering::Relaxed) >= limits.connections {
            metrics.connection_refused("all");
            return None;
        }
        let count = by_owner.entry(owner).or_default();
        if *count >= limits.per_address {
            metrics.connection_refused("address");
            return None;
        }
        *count += 1;
        metrics.connections(self.all.fetch_add(1, Ordering::Relaxed) + 1);
        Some(Place { open: self.clone(), owner, metrics: metrics.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_owner = self.open.by_owner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_owner.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                by_owner.remove(&self.owner);
            }
        }
        self.metrics.connections(self.open.all.fetch_sub(1, Ordering::Relaxed) - 1);
    }
}

/// A whole /64 is one owner's.
fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    // EMFILE and ENFILE have no kind of their own.
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        || matches!(error.raw_os_error(), Some(23 | 24))
}
