//! Those who ask and those who answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::super::bulk;
use super::Arena;

/// A UDP client and a server that sends back what it gets.
pub(super) struct UdpEnds {
    client: UdpSocket,
    number: u64,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl UdpEnds {
    pub(super) fn open(arena: &Arena<'_>) -> Result<UdpEnds> {
        let server = arena.server.enter(|| UdpSocket::bind((arena.address, 0)).context("cannot bind"))?;
        let client =
            arena.client.enter(|| UdpSocket::bind((arena.client_address, 0)).context("cannot bind"))?;
        client.connect(server.local_addr()?)?;
        client.set_read_timeout(Some(PATIENCE))?;
        // Only so that it sees that it is to end.
        server.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let server = std::thread::spawn(move || answer(&server, &stopped));
        Ok(UdpEnds { client, number: 0, stop, server: Some(server) })
    }

    /// One request; false if no response came in time.
    pub(super) fn exchange(&mut self) -> Result<bool> {
        self.number += 1;
        let mut packet = [0u8; SIZE];
        packet[..8].copy_from_slice(&self.number.to_le_bytes());
        let asked = Instant::now();
        self.client.send(&packet).context("cannot send a request")?;
        let mut response = [0u8; SIZE];
        while asked.elapsed() < PATIENCE {
            match self.client.recv(&mut response) {
                Ok(SIZE) if response == packet => return Ok(true),
                // Of an earlier request, for which it came too late.
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("cannot receive a response"),
            }
        }
        Ok(false)
    }
}

impl Drop for UdpEnds {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn answer(server: &UdpSocket, stop: &AtomicBool) {
    let mut packet = [0u8; SIZE];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = server.recv_from(&mut packet) {
            // A response that cannot be sent is one that does not come.
            let _ = server.send_to(&packet[..length], from);
        }
    }
}

/// A TCP client and a server that sends back what it gets, over one connection.
pub(super) struct TcpEnds {
    client: TcpStream,
    /// Another handle of the server's end: it ends also where nothing comes from the client any more.
    far: TcpStream,
    server: Option<JoinHandle<()>>,
}

impl TcpEnds {
    pub(super) fn open(arena: &Arena<'_>) -> Result<TcpEnds> {
        let (client, server) = bulk::connect(arena)?;
        for end in [&client, &server] {
            end.set_nodelay(true)?;
        }
        client.set_read_timeout(Some(BROKEN))?;
        let far = server.try_clone()?;
        Ok(TcpEnds { client, far, server: Some(std::thread::spawn(move || echo(server))) })
    }

    /// One request. TCP repeats what is lost: a response always comes, or the connection is broken.
    pub(super) fn exchange(&mut self) -> Result<bool> {
        let mut message = [0x5a; SIZE];
        self.client.write_all(&message).context("cannot send a request")?;
        self.client.read_exact(&mut message).context("no response came")?;
        Ok(true)
    }
}

impl Drop for TcpEnds {
    fn drop(&mut self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.far.shutdown(Shutdown::Both);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn echo(mut stream: TcpStream) {
    let mut message = [0u8; SIZE];
    while stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok() {}
}

/// Bytes of a request and of its response.
const SIZE: usize = 64;

/// After this long a datagram counts as lost: longer than any scenario's round trip, with a deep queue on top.
const PATIENCE: Duration = Duration::from_millis(500);

const BROKEN: Duration = Duration::from_secs(10);
