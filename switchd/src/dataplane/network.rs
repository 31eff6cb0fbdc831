//! One network on this node: its switch and its endpoint's TAP.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;

use switch_core::ids::{PeerId, Vni};
use switch_core::offload::{Split, finish_checksum};
use switch_core::switch::{Destination, DropReason, Event, Switch, Verdict};
use switch_core::time::Time;
use switch_core::vnet::{Gso, PartialCsum, VNET_HDR_LEN, VnetHdr};
use switch_core::wire::Lane;
use tokio::sync::mpsc;

use super::NetworkConfig;
use super::bindings::UnusedBindings;
use super::core::Core;
use super::drops::Seen;
use super::outbound::Outbound;
use super::snapshot::{Buckets, DropCounts};
use super::stations::ChangedStations;
use crate::config::Carriage;
use crate::desired::StationReport;
use crate::tap::{Offloads, Tap, is_gone};
use crate::view::Direction;

/// A network.
pub(super) struct Network {
    pub(super) name: Arc<str>,
    pub(super) vni: Vni,
    /// The host's own addresses in it.
    pub(super) host: Vec<IpAddr>,
    pub(super) switch: Switch,
    pub(super) tap: Option<Tap>,
    pub(super) mss_clamp: bool,
    pub(super) carriage: Carriage,
    pub(super) local: SideCounters,
    pub(super) remote: SideCounters,
    pub(super) stations: ChangedStations,
    pub(super) unused_bindings: UnusedBindings,
    /// Local frames of bulk flows that wait, as the TAP gave them.
    pub(super) waiting: VecDeque<(Vec<u8>, usize)>,
    scratch: Vec<u8>,
}

/// What is known of the frame in hand.
#[derive(Clone, Copy)]
struct Carried<'a> {
    seen: Seen<'a>,
    vnet: &'a VnetHdr,
    /// Should it go to a peer.
    lane: Lane,
}

/// What came from one side.
#[derive(Clone, Debug)]
pub(super) struct SideCounters {
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) super_frames: u64,
    pub(super) sizes: Buckets<9>,
    /// Drops that the switch did not decide.
    pub(super) drops: DropCounts,
}

impl SideCounters {
    fn new() -> SideCounters {
        SideCounters {
            frames: 0,
            bytes: 0,
            super_frames: 0,
            sizes: Buckets::new([64, 128, 256, 512, 1024, 1522, 4096, 16_384, 65_557]),
            drops: DropCounts::default(),
        }
    }

    pub(super) fn count(&mut self, len: usize, vnet: &VnetHdr) {
        self.frames += 1;
        self.bytes += len as u64;
        self.super_frames += u64::from(vnet.gso != Gso::None);
        self.sizes.observe(len as u64);
    }
}

impl Network {
    pub(super) fn new(config: NetworkConfig) -> Network {
        Network {
            name: config.name,
            vni: config.switch.vni,
            host: config.host,
            switch: Switch::new(config.switch),
            tap: None,
            mss_clamp: config.mss_clamp,
            carriage: config.carriage,
            local: SideCounters::new(),
            remote: SideCounters::new(),
            stations: ChangedStations::default(),
            unused_bindings: UnusedBindings::default(),
            waiting: VecDeque::new(),
            scratch: Vec::new(),
        }
    }

    /// What the endpoint takes undone.
    pub(super) fn offloads(&self) -> Offloads {
        self.tap.as_ref().map_or(Offloads::NONE, Tap::offloads)
    }

    /// A local frame, behind its virtio-net header, that the TAP gave.
    pub(super) fn local_frame(&mut self, core: &mut Core, read: &mut [u8], lane: Lane, now: Time) {
        let Some((header, frame)) = read.split_at_mut_checked(VNET_HDR_LEN) else { return };
        let name = self.name.clone();
        let seen = Seen { network: &name, direction: Direction::Local, peer: None };
        let Ok(vnet) = VnetHdr::parse(header) else {
            self.local.drops.count(DropReason::BadVnetHeader, 1);
            return core.log_drop(Some(seen), DropReason::BadVnetHeader, frame);
        };
        self.local.count(frame.len(), &vnet);
        core.capture(seen, &[frame]);
        let verdict = self.switch.handle_local(frame, &vnet, now);
        self.act(core, Carried { seen, vnet: &vnet, lane }, verdict, frame, &[]);
        self.drain(core);
    }

    /// A whole frame from a peer.
    pub(super) fn remote_frame(
        &mut self,
        core: &mut Core,
        from: PeerId,
        csum: Option<PartialCsum>,
        frame: &mut [u8],
        now: Time,
    ) {
        let vnet = VnetHdr { csum, ..VnetHdr::default() };
        let len = frame.len();
        self.remote_super_frame(core, from, &vnet, frame, &[], len, now);
    }

    /// A frame from a peer in parts: its headers, or the whole frame, then its payload.
    #[expect(
        clippy::too_many_arguments,
        reason = "a frame in parts, none of which is worth a type of its own"
    )]
    pub(super) fn remote_super_frame(
        &mut self,
        core: &mut Core,
        from: PeerId,
        vnet: &VnetHdr,
        head: &mut [u8],
        payload: &[&[u8]],
        len: usize,
        now: Time,
    ) {
        let name = self.name.clone();
        let seen = Seen { network: &name, direction: Direction::Remote, peer: Some(from) };
        self.remote.count(len, vnet);
        if !core.captures.is_empty() {
            let parts: Vec<&[u8]> = std::iter::once(&*head).chain(payload.iter().copied()).collect();
            core.capture(seen, &parts);
        }
        let verdict = self.switch.handle_remote(head, vnet, from, now);
        self.act(core, Carried { seen, vnet, lane: Lane::Bulk }, verdict, head, payload);
        self.drain(core);
    }

    /// Sends on what the switch made or released, and logs its events.
    pub(super) fn drain(&mut self, core: &mut Core) {
        while let Some(mut made) = self.switch.poll_transmit() {
            let verdict = match made.to {
                Destination::Bridge => Verdict::Bridge,
                Destination::Peer(peer) => Verdict::Peer(peer),
                Destination::Flood => Verdict::Flood,
            };
            let name = self.name.clone();
            let seen = Seen { network: &name, direction: Direction::Local, peer: None };
            let lane = core.lanes.lane(self.vni, &made.frame, core.now());
            self.act(core, Carried { seen, vnet: &made.vnet, lane }, verdict, &mut made.frame, &[]);
        }
        while let Some(event) = self.switch.poll_event() {
            match event {
                Event::LocalChanged { key } => self.stations.changed(key, core.now()),
                other => self.log(other),
            }
        }
        if self.switch.take_local_overflow() {
            self.stations.lost(core.now());
        }
    }

    /// Says what changed on the bridge since the last report; if nobody takes it, everything next time.
    pub(super) fn report_stations(&mut self, to: &mpsc::Sender<StationReport>, now: Time) {
        if to.is_closed() {
            return self.stations.clear();
        }
        match to.try_reserve() {
            Ok(room) => room.send(self.stations.report(&self.switch, now)),
            Err(_) => self.stations.postpone(now),
        }
    }

    /// Everything that was learned on the bridge.
    pub(super) fn all_stations(&mut self, now: Time) -> StationReport {
        self.stations.lost(now);
        self.stations.report(&self.switch, now)
    }

    fn act(
        &mut self,
        core: &mut Core,
        carried: Carried<'_>,
        verdict: Verdict,
        head: &mut [u8],
        payload: &[&[u8]],
    ) {
        let seen = carried.seen;
        match verdict {
            Verdict::Bridge => self.deliver(core, carried.vnet, head, payload),
            Verdict::Peer(peer) => self.send(core, carried, peer, head, true),
            Verdict::Flood => {
                for i in 0..self.switch.flood_peers().len() {
                    let peer = self.switch.flood_peers()[i];
                    self.send(core, carried, peer, head, false);
                }
            }
            Verdict::Answered | Verdict::Held => {}
            Verdict::Drop(reason) => {
                match seen.direction {
                    Direction::Local => self.local.drops.count(reason, 1),
                    Direction::Remote => self.remote.drops.count(reason, 1),
                }
                core.log_drop(Some(seen), reason, head);
            }
        }
    }

    /// `spare`: nobody else gets the frame.
    fn send(&mut self, core: &mut Core, carried: Carried<'_>, to: PeerId, frame: &mut [u8], spare: bool) {
        let Carried { seen, vnet, lane } = carried;
        let outbound =
            Outbound { vni: self.vni, mss_clamp: self.mss_clamp, carriage: self.carriage, lane, spare };
        if let Err(reason) = core.send_frame(outbound, to, vnet, frame) {
            self.local.drops.count(reason, 1);
            core.log_drop(Some(Seen { peer: Some(to), ..seen }), reason, frame);
        }
    }

    /// A frame for a peer that could not be sent in time.
    pub(super) fn drop_unsent(&mut self, core: &mut Core, to: PeerId, reason: DropReason, frame: &[u8]) {
        self.local.drops.count(reason, 1);
        let seen = Seen { network: &self.name, direction: Direction::Local, peer: Some(to) };
        core.log_drop(Some(seen), reason, frame);
    }

    fn log(&self, event: Event) {
        let network = &*self.name;
        match event {
            Event::Loop { key } => {
                tracing::warn!(network, mac = %key.mac, "{LOOP}");
            }
            Event::Flapping { key, at } => {
                tracing::warn!(network, mac = %key.mac, ?at, "{FLAPPING}");
            }
            Event::Spoof { key, ip, from } => {
                tracing::warn!(network, mac = %key.mac, ?ip, ?from, "{SPOOF}");
            }
            Event::BoundElsewhere { key, from, bound } => {
                tracing::warn!(network, mac = %key.mac, ?from, ?bound, "{BOUND_ELSEWHERE}");
            }
            Event::TableFull => {
                tracing::warn!(network, "the MAC or IP table is full: raise max_macs or max_ips");
            }
            other => tracing::trace!(network, event = ?other),
        }
    }

    /// Puts a frame on the bridge; `parts` together are the frame.
    fn deliver(&mut self, core: &mut Core, vnet: &VnetHdr, head: &[u8], payload: &[&[u8]]) {
        let Some(tap) = &mut self.tap else {
            return self.tap_write_failed(core, head);
        };
        let result = if unsupported(tap.offloads(), vnet) {
            self.scratch.clear();
            self.scratch.extend_from_slice(head);
            payload.iter().for_each(|part| self.scratch.extend_from_slice(part));
            write_finished(tap, vnet, &mut self.scratch)
        } else {
            write(tap, vnet, head, payload)
        };
        let Err(e) = result else { return };
        if is_gone(&e) {
            self.tap = None; // the endpoint's keeper opens another
        } else if e.raw_os_error() == Some(libc::EINVAL)
            && vnet.gso != Gso::None
            && tap.set_offloads(reduce(tap.offloads(), vnet.gso)).is_ok()
        {
            tracing::warn!(network = %self.name, gso = ?vnet.gso, "{REFUSED}");
        }
        self.tap_write_failed(core, head);
    }

    fn tap_write_failed(&mut self, core: &mut Core, head: &[u8]) {
        self.remote.drops.count(DropReason::TapWrite, 1);
        let seen = Seen { network: &self.name, direction: Direction::Remote, peer: None };
        core.log_drop(Some(seen), DropReason::TapWrite, head);
    }
}

fn write(tap: &Tap, vnet: &VnetHdr, head: &[u8], payload: &[&[u8]]) -> io::Result<()> {
    let header = vnet.encode();
    let mut slices = [IoSlice::new(&[]); MAX_PARTS + 2];
    slices[0] = IoSlice::new(&header);
    slices[1] = IoSlice::new(head);
    for (slice, part) in slices[2..].iter_mut().zip(payload) {
        *slice = IoSlice::new(part);
    }
    tap.write_vectored(&slices[..2 + payload.len()]).map(|_| ())
}

/// For a TAP without the offload: whole segments with whole checksums.
fn write_finished(tap: &Tap, vnet: &VnetHdr, frame: &mut [u8]) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    if vnet.gso == Gso::None {
        if let Some(csum) = vnet.csum {
            finish_checksum(frame, csum).map_err(|_| invalid())?;
        }
        return write(tap, &VnetHdr::default(), frame, &[]);
    }
    let split = Split::new(frame, vnet, usize::MAX).map_err(|_| invalid())?;
    let mut segment = vec![0; split.segment_len(0)];
    for i in 0..split.count() {
        let len = split.write_segment(i, &mut segment);
        finish_checksum(&mut segment[..len], split.csum()).map_err(|_| invalid())?;
        write(tap, &VnetHdr::default(), &segment[..len], &[])?;
    }
    Ok(())
}

fn unsupported(on: Offloads, vnet: &VnetHdr) -> bool {
    match vnet.gso {
        Gso::None => vnet.csum.is_some() && !on.csum,
        Gso::TcpV4 { .. } => !on.tso4,
        Gso::TcpV6 { .. } => !on.tso6,
        Gso::UdpL4 => !on.uso,
    }
}

fn reduce(on: Offloads, refused: Gso) -> Offloads {
    match refused {
        Gso::None => on,
        Gso::TcpV4 { .. } => Offloads { tso4: false, ..on },
        Gso::TcpV6 { .. } => Offloads { tso6: false, ..on },
        Gso::UdpL4 => Offloads { uso: false, ..on },
    }
}

const REFUSED: &str =
    "the kernel refuses a super-frame on the TAP: this kind stays off until the endpoint is reopened";
const LOOP: &str = "loop: the endpoint's own frame came back from the bridge; look for a second way between the \
                    bridges of this network";
const FLAPPING: &str =
    "this MAC moves too often and is held where it is: two instances with one MAC, or a loop";
const SPOOF: &str = "a source address contradicts its binding: frames dropped";
const BOUND_ELSEWHERE: &str = "this MAC is bound to another node: frames dropped";
/// Frames that one batch of receives may hold without allocation.
pub(super) const BATCH_FRAMES: usize = 2048;
/// Payloads of the longest run.
pub(super) const MAX_PARTS: usize = switch_core::offload::MAX_SEGMENTS;
