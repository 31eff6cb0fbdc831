//! A TCP flow in the background.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netns_tests::wait_for;

use super::Arena;

/// As much as one TCP connection carries from client to server, until dropped.
pub(super) struct Bulk {
    bytes: Arc<AtomicU64>,
    /// Other handles of both ends: shutting them down ends both threads, also where nothing passes between the two.
    ends: [TcpStream; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    /// Begins, and waits until it is well under way.
    pub(super) fn start(arena: &Arena<'_>) -> Result<Bulk> {
        let (from, to) = connect(arena)?;
        let bytes = Arc::new(AtomicU64::new(0));
        let (ends, counter) = ([from.try_clone()?, to.try_clone()?], bytes.clone());
        let threads =
            vec![std::thread::spawn(move || send(from)), std::thread::spawn(move || receive(to, &counter))];
        let bulk = Bulk { bytes, ends, threads };
        wait_for("a bulk flow to get under way", Duration::from_secs(20), || bulk.bytes() > UNDER_WAY)?;
        Ok(bulk)
    }

    /// Received so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One connection from the client's end to the server's: both its sockets.
pub(super) fn connect(arena: &Arena<'_>) -> Result<(TcpStream, TcpStream)> {
    let listener = arena.server.enter(|| TcpListener::bind((arena.address, 0)).context("cannot listen"))?;
    listener.set_nonblocking(true)?;
    let to = listener.local_addr()?;
    let limit = Duration::from_secs(5);
    let from = arena.client.enter(|| {
        TcpStream::connect_timeout(&to, limit).with_context(|| format!("cannot connect to {to}"))
    })?;
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok((from, stream));
            }
            // The last packet of the handshake may be on its way still.
            Err(error) if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < limit => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error).context("no connection came"),
        }
    }
}

fn send(mut stream: TcpStream) {
    let chunk = vec![0x5a; CHUNK];
    while stream.write_all(&chunk).is_ok() {}
}

fn receive(mut stream: TcpStream, bytes: &AtomicU64) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(length @ 1..) = stream.read(&mut chunk) {
        bytes.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// As iperf3 reads and writes.
const CHUNK: usize = 128 << 10;

/// Past the slow start of a path without delay; the slowest contenders take a second for it.
const UNDER_WAY: u64 = 4 << 20;
