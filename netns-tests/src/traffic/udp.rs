//! UDP datagrams of every size there and back.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::fill;
use crate::ns::Namespace;

/// A server that sends every datagram back, until dropped.
#[derive(Debug)]
pub struct UdpEcho {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Listens on a port of the kernel's choice of `ip` in `ns`.
    pub fn start(ns: &Namespace, ip: IpAddr) -> Result<UdpEcho> {
        let socket = ns.enter(|| UdpSocket::bind((ip, 0)).context("cannot bind the echo server"))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let addr = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut buf = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buf) {
                    // The client counts what does not come back.
                    let _ = socket.send_to(&buf[..len], from);
                }
            }
        });
        Ok(UdpEcho { addr, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends one datagram of each of `sizes` (payload bytes, at least 16) from `ns` to an echo server and compares what
/// comes back. Returns how many had to be sent again, at most twice each; wrong content is an error at once.
pub fn round_trips(ns: &Namespace, from: IpAddr, to: SocketAddr, sizes: &[usize]) -> Result<u32> {
    let socket = ns.enter(|| UdpSocket::bind((from, 0)).context("cannot bind the client"))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut again = 0;
    for (i, &size) in sizes.iter().enumerate() {
        let mut attempt = 0;
        while !round_trip(&socket, to, (i * ATTEMPTS + attempt) as u64, size)? {
            attempt += 1;
            again += 1;
            if attempt == ATTEMPTS {
                bail!("a UDP payload of {size} bytes from {from} to {to} was lost {ATTEMPTS} times");
            }
        }
    }
    Ok(again)
}

fn round_trip(socket: &UdpSocket, to: SocketAddr, number: u64, size: usize) -> Result<bool> {
    let mut payload = vec![0; size];
    fill(&mut payload, number << 20);
    payload[..8].copy_from_slice(&number.to_le_bytes());
    socket.send_to(&payload, to).with_context(|| format!("cannot send {size} bytes to {to}"))?;
    let mut buf = vec![0; 65_536];
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match socket.recv(&mut buf) {
            // An answer to an earlier attempt that came late.
            Ok(len) if len >= 8 && buf[..8] != payload[..8] => {}
            Ok(len) => {
                ensure!(len == size, "a UDP payload of {size} bytes came back with {len}");
                ensure!(buf[..len] == payload[..], "a UDP payload of {size} bytes came back changed");
                return Ok(true);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
    Ok(false)
}

const ATTEMPTS: usize = 3;
const PATIENCE: Duration = Duration::from_millis(700);
