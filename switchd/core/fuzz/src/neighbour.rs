//! The switch under frames of any kind.

use std::net::IpAddr;
use std::time::Duration;

use switch_core::frame::arp::Arp;
use switch_core::frame::nd::Nd;
use switch_core::frame::{Eth, ethertype};
use switch_core::ids::{Generation, Mac, PeerId, Vni};
use switch_core::switch::{
    AntiSpoof, Binding, BindingError, BindingView, Destination, DhcpPolicy, Limits, Mode, Place, Policy,
    Source, State, Switch, SwitchConfig, Transmit, Verdict,
};
use switch_core::time::Time;
use switch_core::vnet::{PartialCsum, VnetHdr};

use crate::input::Input;

/// `data` is a script: a byte of settings, then frames from the bridge and two peers, links that come and go,
/// bindings and time. What the switch makes is well formed, nothing from a peer goes to a peer, tables keep their
/// bounds.
pub fn arp_nd_reply(data: &[u8]) {
    let mut input = Input(data);
    let Some(settings) = input.byte() else { return };
    let mut run = Script::new(settings);
    while let (Some(op), Some(block)) = (input.byte(), input.block()) {
        run.step(op, block);
    }
}

struct Script {
    switch: Switch,
    mode: Mode,
    now: Time,
    local: u64,
    remote: u64,
}

const ENDPOINT: Mac = Mac([2, 0x73, 0x77, 0, 0, 1]);
const PEERS: [PeerId; 2] = [PeerId(1), PeerId(2)];

impl Script {
    fn new(settings: u8) -> Script {
        let mode = if settings & 1 == 0 { Mode::Rewrite } else { Mode::Preserve };
        let dhcp = match settings >> 1 & 3 {
            0 | 1 => DhcpPolicy::Forward,
            2 => DhcpPolicy::LocalOnly,
            _ => DhcpPolicy::Trusted(Mac([2, 0, 0, 0, 0, 1])),
        };
        let anti_spoof = if settings & 8 == 0 { AntiSpoof::Learn } else { AntiSpoof::Strict };
        let config = SwitchConfig {
            vni: Vni::new(1).expect("in range"),
            mode,
            endpoint_mac: ENDPOINT,
            policy: Policy { dhcp, anti_spoof, broadcast_rate: 100, broadcast_burst: 200 },
            limits: Limits {
                max_macs: MAX_MACS,
                max_ips: MAX_IPS,
                max_asks: 8,
                hold_per_target: 2,
                hold_frames: HOLD_FRAMES,
                hold_bytes: HOLD_BYTES,
                ..Limits::default()
            },
            gateways: vec![IpAddr::from([10, 0, 0, 1])],
            hash_seed: [1, 2, 3, 4],
        };
        let mut switch = Switch::new(config);
        for peer in PEERS {
            switch.handle_link(peer, true, Time::ZERO);
        }
        Script { switch, mode, now: Time::ZERO, local: 0, remote: 0 }
    }

    fn step(&mut self, op: u8, block: &[u8]) {
        let vnet = VnetHdr {
            csum: (op & 0x80 != 0).then_some(PartialCsum { start: 54, offset: 2 }),
            ..VnetHdr::default()
        };
        let peer = PEERS[usize::from(op >> 6 & 1)];
        match op & 7 {
            0 | 1 => {
                self.local += 1;
                let verdict = self.switch.handle_local(&mut block.to_vec(), &vnet, self.now);
                if let Verdict::Peer(to) = verdict {
                    assert!(self.switch.flood_peers().contains(&to), "only to peers whose links are up");
                }
            }
            2 | 3 => {
                self.remote += 1;
                let verdict = self.switch.handle_remote(&mut block.to_vec(), &vnet, peer, self.now);
                assert!(!matches!(verdict, Verdict::Peer(_) | Verdict::Flood), "split horizon");
            }
            4 => {
                self.now = self.now + Duration::from_millis(100 << (op >> 3 & 15));
                self.switch.handle_timeout(self.now);
            }
            5 => self.switch.handle_link(peer, op & 0x20 != 0, self.now),
            _ => self.bind(op, peer, block),
        }
        self.check(&vnet);
    }

    /// The block's first frame's addresses, bound.
    fn bind(&mut self, op: u8, peer: PeerId, block: &[u8]) {
        let Ok(eth) = Eth::parse(block) else { return };
        let ips = Arp::parse(block, eth.l3).map(|arp| vec![IpAddr::V4(arp.spa)]).unwrap_or_default();
        let binding = Binding {
            tags: eth.tags,
            mac: eth.src,
            ips,
            at: if op & 0x20 == 0 { Place::Local } else { Place::Peer(peer) },
            generation: Generation(u64::from(op >> 3 & 3)),
            source: if op & 1 == 0 { Source::Controller } else { Source::Learned },
            state: if op & 0x80 == 0 { State::Active } else { State::Prepared },
        };
        let source = binding.source;
        match self.switch.set_binding(binding, self.now) {
            Ok(_) | Err(BindingError::Stale { .. } | BindingError::Address(_)) => {}
            Err(BindingError::Controlled(_) | BindingError::Prepared(_)) => {
                assert_ne!(source, Source::Controller);
            }
            Err(BindingError::TableFull) if source != Source::Controller => {}
            Err(BindingError::TableFull) => {
                // A binding has one IP at most, so there is room for the IPs of as many as there are MACs.
                assert_eq!(self.switch.table_sizes().0, MAX_MACS);
                let bound: Vec<_> = self.switch.bindings(self.now).collect();
                for mac in self.switch.macs(self.now) {
                    let controlled = |b: &BindingView| b.key == mac.key && b.source == Source::Controller;
                    assert!(bound.iter().any(controlled), "a learned entry makes room");
                }
            }
        }
    }

    fn check(&mut self, vnet: &VnetHdr) {
        for _ in 0..MAX_TRANSMITS {
            let Some(transmit) = self.switch.poll_transmit() else { break };
            self.check_transmit(&transmit, vnet);
        }
        assert_eq!(self.switch.poll_transmit(), None, "more frames made than one step may");
        while self.switch.poll_event().is_some() {}
        let (macs, ips) = self.switch.table_sizes();
        assert!(macs <= MAX_MACS && ips <= MAX_IPS, "{macs} MACs, {ips} IPs");
        let (frames, bytes) = self.switch.held();
        assert!(frames <= HOLD_FRAMES && bytes <= HOLD_BYTES);
        assert!(self.switch.bindings(self.now).count() <= MAX_MACS);
        let counters = self.switch.counters();
        assert_eq!((counters.local_frames, counters.remote_frames), (self.local, self.remote));
    }

    fn check_transmit(&self, transmit: &Transmit, vnet: &VnetHdr) {
        let frame = &transmit.frame;
        let eth = Eth::parse(frame).expect("a frame");
        assert!(eth.src.is_unicast() && eth.dst != Mac::ZERO);
        if let Destination::Peer(peer) = transmit.to {
            assert!(PEERS.contains(&peer));
        }
        if transmit.vnet != VnetHdr::default() || vnet.csum.is_some() {
            return;
        }
        if eth.ethertype == ethertype::ARP {
            let arp = Arp::parse(frame, eth.l3).expect("a message that the switch made");
            assert!(arp.sha.is_unicast());
            if transmit.to == Destination::Bridge && self.mode == Mode::Rewrite {
                let mut bindings = self.switch.bindings(self.now);
                let router = bindings.any(|b| b.router && b.key.mac == eth.src);
                assert!(eth.src == ENDPOINT || router, "no MAC but a router's is taught to the bridge");
            }
        } else if eth.ethertype == ethertype::IPV6 {
            Nd::parse(frame, &eth, false).expect("right, if it is a message of neighbour discovery");
        }
    }
}

const MAX_MACS: usize = 12;
const MAX_IPS: usize = 20;
const HOLD_FRAMES: usize = 6;
const HOLD_BYTES: usize = 8000;
const MAX_TRANSMITS: usize = 200;
