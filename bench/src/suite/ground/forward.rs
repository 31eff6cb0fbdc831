//! A link that takes time: this kernel's build may lack netem, so frames cross the underlay by a forwarder of the
//! lab's own.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netns_tests::Namespace;
use nix::poll::{PollFd, PollFlags, ppoll};

use super::sys;

/// Two threads that carry frames between two bridges, one each way, each frame a fixed time after it came. TAPs with
/// all offloads keep super-packets whole.
#[derive(Debug)]
pub(super) struct Forwarder {
    stop: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Forwarder {
    /// Cuts the bridge of `underlay` in two, with one node's port on each, and joins them with `delay` each way.
    pub(super) fn between_nodes(underlay: &Namespace, mtu: u32, delay: Duration) -> Result<Forwarder> {
        underlay.ip_batch(
            "link add br1 address 02:ff:00:00:00:02 type bridge mcast_snooping 0\nlink set br1 up\nlink set p2 master br1\n",
        )?;
        let mut taps = Vec::new();
        for (name, bridge) in [("near", "br0"), ("far", "br1")] {
            let tap = underlay.enter(|| sys::open_tap(name).context("cannot open the forwarder's TAP"))?;
            take_super_packets(&tap)?;
            underlay.sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
            underlay.ip(&format!("link set {name} mtu {mtu} txqueuelen {QUEUE} master {bridge} up"))?;
            taps.push(Arc::new(tap));
        }
        let mut forwarder = Forwarder { stop: Arc::default(), dropped: Arc::default(), threads: Vec::new() };
        for (from, to) in [(0, 1), (1, 0)] {
            let line = Line {
                from: taps[from].clone(),
                to: taps[to].clone(),
                delay,
                under_way: VecDeque::new(),
                bytes: 0,
                dropped: forwarder.dropped.clone(),
            };
            let stop = forwarder.stop.clone();
            forwarder.threads.push(std::thread::spawn(move || line.carry(&stop)));
        }
        Ok(forwarder)
    }

    /// Frames that found no room on the line, or that the kernel refused.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One direction.
struct Line {
    from: Arc<File>,
    to: Arc<File>,
    delay: Duration,
    /// Frames with their virtio-net headers, and when they arrive.
    under_way: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    dropped: Arc<AtomicU64>,
}

impl Line {
    fn carry(mut self, stop: &AtomicBool) {
        let mut buf = vec![0; READ_MAX];
        while !stop.load(Ordering::Relaxed) {
            self.deliver();
            let next = self.under_way.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
            let wait = next.unwrap_or(IDLE).min(IDLE);
            let mut fds = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
            // A signal or an error shows again at the next read.
            let _ = ppoll(&mut fds, Some(wait.into()), None);
            if !self.take(&mut buf) {
                return;
            }
        }
    }

    /// Takes what waits, and delivers in between what is due. False once the device is gone.
    fn take(&mut self, buf: &mut [u8]) -> bool {
        loop {
            match self.from.as_ref().read(buf) {
                Ok(len) if self.bytes + len > ROOM => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
                Ok(len) => {
                    self.bytes += len;
                    self.under_way.push_back((Instant::now() + self.delay, buf[..len].to_vec()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while let Some((due, frame)) = self.under_way.pop_front() {
            if due > now {
                self.under_way.push_front((due, frame));
                return;
            }
            self.bytes -= frame.len();
            if self.to.as_ref().write(&frame).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Whatever the kernel can leave whole. An older one cuts VXLAN's super-packets here, and VXLAN is slower than it would
/// be on a real link.
fn take_super_packets(tap: &File) -> Result<()> {
    if sys::set_offloads(tap, sys::TCP | sys::UDP | sys::TUNNELS).is_ok() {
        return Ok(());
    }
    println!("this kernel cuts super-packets of its own tunnels at the forwarder");
    sys::set_offloads(tap, sys::TCP | sys::UDP)
        .context("the kernel refuses the offloads of the forwarder's TAP")
}

/// The virtio-net header, an Ethernet header with two tags and the largest IP packet.
const READ_MAX: usize = sys::VNET_HEADER as usize + 22 + 65_535;
/// More than 80 ms of round trip hold at 10 Gb/s.
const ROOM: usize = 128 << 20;
/// Frames that a TAP keeps while its thread waits for a core: single packets at 1 Gb/s for 100 ms.
const QUEUE: u32 = 10_000;
/// How soon the end is noticed.
const IDLE: Duration = Duration::from_millis(50);
