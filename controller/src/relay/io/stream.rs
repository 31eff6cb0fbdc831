//! Clients over TCP and TLS: what would be datagrams are messages one after the other (RFC 8656, 12.5).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::super::counters::{Refused, RelayCounters};
use super::super::engine::{Client, Ports};
use super::super::limits::owner;
use super::batch::Batch;
use super::{ByStream, Server, canonical, now};

/// The connections.
pub(super) struct Streams {
    most: usize,
    counters: Arc<RelayCounters>,
    queues: RefCell<ByStream<Queue>>,
    per_address: RefCell<HashMap<IpAddr, usize>>,
    open: Cell<usize>,
    last: Cell<u64>,
}

/// What waits for a client to take it.
#[derive(Clone)]
struct Queue {
    sender: mpsc::UnboundedSender<Bytes>,
    bytes: Rc<Cell<usize>>,
}

impl Streams {
    pub(super) fn new(most: usize, counters: Arc<RelayCounters>) -> Streams {
        Streams {
            most,
            counters,
            queues: RefCell::default(),
            per_address: RefCell::default(),
            open: Cell::new(0),
            last: Cell::new(0),
        }
    }

    /// False if there is no room: then it is lost, as datagrams are.
    pub(super) fn send(&self, stream: u64, bytes: &[u8]) -> bool {
        let queues = self.queues.borrow();
        let Some(queue) = queues.get(&stream) else { return false };
        let waiting = queue.bytes.get() + bytes.len();
        let sent = waiting <= MAX_QUEUED && queue.sender.send(Bytes::copy_from_slice(bytes)).is_ok();
        if sent {
            queue.bytes.set(waiting);
        }
        sent
    }

    /// A place for one more connection, unless there are too many.
    fn admit(&self, address: IpAddr) -> bool {
        let mut per_address = self.per_address.borrow_mut();
        let of_address = per_address.get(&address).copied().unwrap_or_default();
        if self.open.get() >= self.most || of_address >= MAX_PER_ADDRESS {
            return false;
        }
        per_address.insert(address, of_address + 1);
        self.open.set(self.open.get() + 1);
        self.counters.connections.set(self.open.get());
        true
    }

    fn leave(&self, address: IpAddr) {
        let mut per_address = self.per_address.borrow_mut();
        if let Some(count) = per_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                per_address.remove(&address);
            }
        }
        self.open.set(self.open.get() - 1);
        self.counters.connections.set(self.open.get());
    }

    fn next(&self) -> u64 {
        self.last.set(self.last.get() + 1);
        self.last.get()
    }
}

/// Takes connections, for ever.
pub(super) async fn accept(server: Rc<Server>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, remote)) = listener.accept().await else {
            // Out of file descriptors, say: the next try is not at once.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let address = owner(remote.ip());
        if !server.streams.admit(address) {
            server.counters.refuse(Refused::Connection);
            continue;
        }
        let (server, tls) = (server.clone(), tls.clone());
        spawn_local(async move {
            if serve(&server, stream, tls).await.is_none() {
                server.counters.refuse(Refused::Connection);
            }
            server.streams.leave(address);
        });
    }
}

/// None if the client was too slow or broke the protocol.
async fn serve(server: &Rc<Server>, stream: TcpStream, tls: Option<TlsAcceptor>) -> Option<()> {
    let source = canonical(stream.peer_addr().ok()?);
    let local = canonical(stream.local_addr().ok()?);
    let _ = stream.set_nodelay(true);
    let mut first = [0];
    let peeked = timeout(FIRST, stream.peek(&mut first)).await.ok()?;
    if !matches!(peeked, Ok(1)) {
        return Some(());
    }
    let client = Client { source, local, stream: Some(server.streams.next()) };
    match tls {
        Some(tls) if first[0] == TLS_HANDSHAKE => {
            let stream = timeout(FIRST, tls.accept(stream)).await.ok()?.ok()?;
            exchange(server, client, stream).await
        }
        _ => exchange(server, client, stream).await,
    }
}

async fn exchange(
    server: &Rc<Server>,
    client: Client,
    stream: impl AsyncRead + AsyncWrite + 'static,
) -> Option<()> {
    let number = client.stream?;
    let (reader, writer) = split(stream);
    let (sender, queue) = mpsc::unbounded_channel();
    let bytes = Rc::new(Cell::new(0));
    server.streams.queues.borrow_mut().insert(number, Queue { sender, bytes: bytes.clone() });
    let ended = tokio::select! {
        ended = read(server, client, reader) => ended,
        ended = write(queue, &bytes, writer) => ended,
    };
    server.streams.queues.borrow_mut().remove(&number);
    let ports: &mut dyn Ports = &mut *server.ports.borrow_mut();
    server.engine.borrow_mut().client_gone(&client, ports);
    ended
}

async fn read(server: &Rc<Server>, client: Client, mut reader: impl AsyncRead + Unpin) -> Option<()> {
    let mut buffer = vec![0; READ_BUFFER];
    let mut filled = 0;
    let mut without_allocation = Instant::now();
    // Its own: the batch of the sockets is in use only while nothing waits, as this one is.
    let mut batch = Batch::default();
    loop {
        match timeout(IDLE, reader.read(&mut buffer[filled..])).await {
            Ok(Ok(0) | Err(_)) => return Some(()),
            Ok(Ok(count)) => filled += count,
            Err(_) => {}
        }
        // A node that has an allocation may be silent until it has to refresh it.
        if server.engine.borrow().has_allocation(&client) {
            without_allocation = Instant::now();
        } else if without_allocation.elapsed() > IDLE {
            return None;
        }
        let (mut begin, now) = (0, now());
        while let Some(frame) = frame(&buffer[begin..filled]) {
            let Frame { message, whole } = frame?;
            server.take(client, &buffer[begin..begin + message], now, &mut batch);
            begin += whole;
        }
        batch.flush(|target, bytes, segment| server.send(target, bytes, segment));
        server.serve_opened();
        buffer.copy_within(begin..filled, 0);
        filled -= begin;
    }
}

async fn write(
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    queued: &Cell<usize>,
    mut writer: impl AsyncWrite + Unpin,
) -> Option<()> {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, AT_ONCE).await > 0 {
        for bytes in waiting.drain(..) {
            let written = timeout(WRITE, writer.write_all(&bytes)).await;
            queued.set(queued.get() - bytes.len());
            if written.ok()?.is_err() {
                return Some(());
            }
        }
        timeout(WRITE, writer.flush()).await.ok()?.ok()?;
    }
    Some(())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Frame {
    /// Without padding.
    message: usize,
    whole: usize,
}

/// The first message, if all of it is there: `Some(None)` for bytes that are none.
fn frame(bytes: &[u8]) -> Option<Option<Frame>> {
    let &[first, _, high, low, ..] = bytes else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let frame = match first {
        0..=3 => Frame { message: length + STUN_HEADER, whole: length + STUN_HEADER },
        0x40..=0x7f => {
            Frame { message: length + CHANNEL_HEADER, whole: length.next_multiple_of(4) + CHANNEL_HEADER }
        }
        _ => return Some(None),
    };
    if frame.whole > READ_BUFFER {
        return Some(None);
    }
    (bytes.len() >= frame.whole).then_some(Some(frame))
}

const TLS_HANDSHAKE: u8 = 0x16;
const STUN_HEADER: usize = 20;
const CHANNEL_HEADER: usize = 4;
/// The largest message that is taken; one of 65,000 bytes of payload is.
const READ_BUFFER: usize = 1 << 16;
const AT_ONCE: usize = 64;
/// A quarter of a second at 32 Mbit/s. What waits longer is late, and TCP inside would rather see it lost.
const MAX_QUEUED: usize = 1 << 20;
/// Many nodes may be behind one address; a /64 counts as one.
const MAX_PER_ADDRESS: usize = 256;
const FIRST: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(30);
const WRITE: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_where_its_messages_end() {
        let some = |message, whole| Some(Some(Frame { message, whole }));
        assert_eq!(frame(&[]), None);
        assert_eq!(frame(&[0x40, 0, 0]), None);
        assert_eq!(frame(&[0x40, 0, 0, 0]), some(4, 4));
        assert_eq!(frame(&[0x40, 0, 0, 1, 9]), None);
        assert_eq!(frame(&[0x40, 0, 0, 1, 9, 0, 0, 0]), some(5, 8));
        assert_eq!(frame(&[0, 1, 0, 0]), None);
        assert_eq!(frame(&[0; 21]), some(20, 20));
        assert_eq!(frame(b"\x16\x03\x01\x00"), Some(None));
        assert_eq!(frame(&[0x40, 0, 0xff, 0xff]), Some(None));
    }
}
