//! The sockets of the relay and the one thread that serves them: whatever is sent at it takes one core at most, and
//! nothing of the controller waits for it.

mod batch;
mod ports;
mod stream;
mod udp;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quinn_udp::{BATCH_SIZE, RecvMeta};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use super::counters::{Refused, RelayCounters};
use super::engine::{Action, AllocationId, Client, Engine, Now, Ports, Setup};
use batch::{Batch, Target};
use ports::OpenPorts;
use stream::Streams;
use udp::UdpPort;
pub(super) use udp::bind;

/// Bound sockets, and what the relay goes by.
pub(super) struct Sockets {
    pub(super) udp: std::net::UdpSocket,
    pub(super) alternate: Option<std::net::UdpSocket>,
    pub(super) tcp: std::net::TcpListener,
    /// Of connections that begin with a TLS handshake.
    pub(super) tls: Option<TlsAcceptor>,
    /// The ports of allocations.
    pub(super) ports: std::ops::RangeInclusive<u16>,
    /// Connections at a time.
    pub(super) connections: usize,
}

/// Serves until `stop` completes.
pub(super) async fn serve(
    sockets: Sockets,
    setup: Setup,
    counters: Arc<RelayCounters>,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let main = Rc::new(UdpPort::new(sockets.udp)?);
    let alternate = sockets.alternate.map(UdpPort::new).transpose()?.map(Rc::new);
    let listener = tokio::net::TcpListener::from_std(sockets.tcp)?;
    let server = Rc::new(Server {
        local_port: main.local_port()?,
        engine: RefCell::new(Engine::new(setup, counters.clone(), Instant::now())),
        ports: RefCell::new(OpenPorts::new(sockets.ports)),
        streams: Streams::new(sockets.connections, counters.clone()),
        buffers: RefCell::new(Buffers::new()),
        main: main.clone(),
        alternate: alternate.clone(),
        counters,
    });
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn_local(server.clone().serve_clients(main, false));
    if let Some(alternate) = alternate {
        tasks.spawn_local(server.clone().serve_clients(alternate, true));
    }
    tasks.spawn_local(stream::accept(server.clone(), listener, sockets.tls));
    tasks.spawn_local(server.keep_time());
    tokio::select! {
        () = stop => Ok(()),
        _ = tasks.join_next() => Err(std::io::Error::other("a task of the relay ended")),
    }
}

struct Server {
    engine: RefCell<Engine>,
    ports: RefCell<OpenPorts>,
    streams: Streams,
    buffers: RefCell<Buffers>,
    main: Rc<UdpPort>,
    alternate: Option<Rc<UdpPort>>,
    counters: Arc<RelayCounters>,
    local_port: u16,
}

impl Server {
    async fn serve_clients(self: Rc<Self>, port: Rc<UdpPort>, is_alternate: bool) {
        loop {
            port.readable().await;
            self.take_from_clients(&port, is_alternate);
            self.serve_opened();
            // Every other socket has its turn before the next batch.
            tokio::task::yield_now().await;
        }
    }

    fn take_from_clients(&self, port: &UdpPort, is_alternate: bool) {
        let mut buffers = self.buffers.borrow_mut();
        let Buffers { received, metas, batch } = &mut *buffers;
        let Some(count) = receive(port, received, metas) else { return };
        let now = now();
        for (buffer, meta) in received.iter().zip(metas.iter()).take(count) {
            let source = canonical(meta.addr);
            let ip = meta.dst_ip.unwrap_or(source.ip()).to_canonical();
            let client = Client { source, local: SocketAddr::new(ip, self.local_port), stream: None };
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                if is_alternate {
                    let action = self.engine.borrow_mut().handle_alternate(client, datagram, now);
                    self.act(action, client, datagram, batch);
                } else {
                    self.take(client, datagram, now, batch);
                }
            }
        }
        batch.flush(|target, bytes, segment| self.send(target, bytes, segment));
    }

    fn take(&self, client: Client, datagram: &[u8], now: Now, batch: &mut Batch) {
        let action = {
            let mut ports = self.ports.borrow_mut();
            self.engine.borrow_mut().handle_client(client, datagram, now, &mut *ports)
        };
        self.act(action, client, datagram, batch);
    }

    fn act(&self, action: Action, client: Client, datagram: &[u8], batch: &mut Batch) {
        let send = |target: Target, bytes: &[u8], segment| self.send(target, bytes, segment);
        match action {
            Action::Nothing => {}
            Action::Answer { bytes, from_alternate } => {
                let target = if from_alternate { Target::Alternate(client) } else { Target::Answer(client) };
                batch.push(target, |out| out.extend(&bytes), send);
            }
            Action::ToPeer { from, peer, payload } => {
                batch.push(Target::Peer(from, peer), |out| out.extend(&datagram[payload]), send);
            }
            Action::ToNode { to, payload } => {
                let is_stream = to.client.stream.is_some();
                let write = |out: &mut Vec<u8>| to.wrapping.write(&datagram[payload], is_stream, out);
                batch.push(Target::Client(to.client), write, send);
            }
        }
    }

    async fn serve_peers(self: Rc<Self>, id: AllocationId, port: Rc<UdpPort>) {
        loop {
            port.readable().await;
            self.take_from_peers(id, &port);
            tokio::task::yield_now().await;
        }
    }

    fn take_from_peers(&self, id: AllocationId, port: &UdpPort) {
        let mut buffers = self.buffers.borrow_mut();
        let Buffers { received, metas, batch } = &mut *buffers;
        let Some(count) = receive(port, received, metas) else { return };
        let now = Instant::now();
        for (buffer, meta) in received.iter().zip(metas.iter()).take(count) {
            let peer = canonical(meta.addr);
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                let to = self.engine.borrow_mut().handle_peer(id, peer, datagram.len(), now);
                let Some(to) = to else { continue };
                let is_stream = to.client.stream.is_some();
                let write = |out: &mut Vec<u8>| to.wrapping.write(datagram, is_stream, out);
                batch.push(Target::Client(to.client), write, |target, bytes, segment| {
                    self.send(target, bytes, segment);
                });
            }
        }
        batch.flush(|target, bytes, segment| self.send(target, bytes, segment));
    }

    /// What cannot be sent is lost, as datagrams are: an allocation stands, whatever becomes of what it sends.
    fn send(&self, target: Target, bytes: &[u8], segment: usize) {
        let to_client = |port: &UdpPort, client: Client| {
            port.send(client.source, Some(client.local.ip()), bytes, segment).is_ok()
        };
        let sent = match target {
            Target::Client(Client { stream: Some(stream), .. })
            | Target::Answer(Client { stream: Some(stream), .. }) => self.streams.send(stream, bytes),
            Target::Client(client) | Target::Answer(client) => to_client(&self.main, client),
            Target::Alternate(client) => self.alternate.as_ref().is_some_and(|port| to_client(port, client)),
            Target::Peer(id, peer) => {
                let port = self.ports.borrow().get(id);
                port.is_some_and(|port| port.send(peer, None, bytes, segment).is_ok())
            }
        };
        if !sent {
            self.counters.refuse(Refused::Send);
        }
    }

    /// Begins to serve the sockets of new allocations.
    fn serve_opened(self: &Rc<Self>) {
        let opened = self.ports.borrow_mut().take_opened();
        for (id, port) in opened {
            let task = spawn_local(self.clone().serve_peers(id, port));
            self.ports.borrow_mut().served(id, task.abort_handle());
        }
    }

    async fn keep_time(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let ports: &mut dyn Ports = &mut *self.ports.borrow_mut();
            self.engine.borrow_mut().sweep(Instant::now(), ports);
        }
    }
}

/// One set for all sockets: none of them is read while another one's datagrams are handled.
struct Buffers {
    received: Vec<Box<[u8]>>,
    metas: Vec<RecvMeta>,
    batch: Batch,
}

impl Buffers {
    fn new() -> Buffers {
        Buffers {
            received: (0..BATCH_SIZE).map(|_| vec![0; RECEIVE_BUFFER].into()).collect(),
            metas: vec![RecvMeta::default(); BATCH_SIZE],
            batch: Batch::default(),
        }
    }
}

/// So many buffers were filled; none if there is nothing, or if the kernel had an error to tell, which is about one
/// datagram that was sent before.
fn receive(port: &UdpPort, received: &mut [Box<[u8]>], metas: &mut [RecvMeta]) -> Option<usize> {
    let mut slices: Vec<_> = received.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
    port.try_recv(&mut slices, metas).ok()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Now { at: Instant::now(), unix }
}

/// The streams' clients by their number.
type ByStream<T> = HashMap<u64, T>;

const RECEIVE_BUFFER: usize = 1 << 16;
const SWEEP: Duration = Duration::from_secs(1);
