//! Raw frames: a socket on one interface, and a sniffer that collects.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Socket, Type};

use crate::frames::Seen;
use crate::ns::Namespace;
use crate::{sys, wait_for};

/// An AF_PACKET socket on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
}

/// A frame on an interface.
#[derive(Clone, Debug)]
pub struct Frame {
    /// From the destination MAC on, VLAN tags included. Checksums may be partial, and super-frames are whole.
    pub bytes: Vec<u8>,
    /// True if this host sent it through the interface, false if it arrived there.
    pub sent: bool,
}

impl Frame {
    /// What is in it.
    pub fn seen(&self) -> Seen {
        Seen::parse(&self.bytes)
    }
}

impl PacketSocket {
    /// Opens a socket on `interface` of `ns`. It may be used from any thread, in any namespace.
    pub fn open(ns: &Namespace, interface: &str) -> Result<PacketSocket> {
        ns.enter(|| {
            let index = if_nametoindex(interface).with_context(|| format!("no interface {interface}"))?;
            // Protocol 0 receives nothing until bind gives the interface: no stray frames of others.
            let socket =
                Socket::new(Domain::PACKET, Type::RAW, None).context("cannot open a packet socket")?;
            setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).context("cannot set SO_RCVBUFFORCE")?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            sys::bind(socket.as_fd(), index).with_context(|| format!("cannot bind to {interface}"))?;
            Ok(PacketSocket { socket })
        })
    }

    /// Sends a whole frame, from the destination MAC on.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket
            .send(frame)
            .map(drop)
            .with_context(|| format!("cannot send a frame of {} bytes", frame.len()))
    }

    /// The next frame, or `None` after 20 ms without any.
    pub fn recv(&self) -> Result<Option<Frame>> {
        self.recv_with(&mut vec![0; FRAME_MAX])
    }

    fn recv_with(&self, buf: &mut [u8]) -> Result<Option<Frame>> {
        match sys::recv(self.socket.as_fd(), buf) {
            Ok(got) => {
                let mut bytes = buf[..got.len].to_vec();
                if let Some((tpid, tci)) = got.vlan
                    && bytes.len() >= 12
                {
                    bytes.splice(12..12, [tpid.to_be_bytes(), tci.to_be_bytes()].concat());
                }
                Ok(Some(Frame { bytes, sent: got.sent }))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context("cannot receive from a packet socket"),
        }
    }
}

/// Collects every frame on an interface until it is stopped or dropped.
#[derive(Debug)]
pub struct Sniffer {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Begins to collect. Frames that cross the interface after this call are seen.
    pub fn start(ns: &Namespace, interface: &str) -> Result<Sniffer> {
        let socket = PacketSocket::open(ns, interface)?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (frames, stop) = (frames.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut buf = vec![0; FRAME_MAX];
                while !stop.load(Ordering::Relaxed) {
                    match socket.recv_with(&mut buf) {
                        Ok(Some(frame)) => lock(&frames).push(frame),
                        Ok(None) => {}
                        // ENETDOWN while the interface goes away and comes back.
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            })
        };
        Ok(Sniffer { frames, stop, thread: Some(thread) })
    }

    /// How many frames so far are as wanted.
    pub fn count(&self, want: impl Fn(&Seen, &Frame) -> bool) -> usize {
        lock(&self.frames).iter().filter(|frame| want(&frame.seen(), frame)).count()
    }

    /// The frames so far that are as wanted.
    pub fn frames(&self, want: impl Fn(&Seen, &Frame) -> bool) -> Vec<Frame> {
        lock(&self.frames).iter().filter(|frame| want(&frame.seen(), frame)).cloned().collect()
    }

    /// Waits for a frame as wanted, and returns the first.
    pub fn wait(&self, what: &str, limit: Duration, want: impl Fn(&Seen, &Frame) -> bool) -> Result<Frame> {
        wait_for(what, limit, || self.count(&want) > 0)?;
        self.frames(&want).into_iter().next().ok_or_else(|| anyhow!("{what} was seen and is gone"))
    }

    /// Forgets the frames so far.
    pub fn clear(&self) {
        lock(&self.frames).clear();
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(frames: &Mutex<Vec<Frame>>) -> MutexGuard<'_, Vec<Frame>> {
    frames.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A super-frame, its Ethernet header and two tags.
const FRAME_MAX: usize = 65_536 + 64;
/// Enough for a burst at full speed while the collecting thread waits for a core.
const RECEIVE_BUFFER: usize = 32 << 20;
