//! The decision: from what is there and what is wanted to the steps between, without touching anything.

use std::net::IpAddr;
use std::time::Duration;

use switch_core::ids::Mac;
use tokio::time::Instant;

use crate::config::HostStation;
use crate::netlink::Address;

/// What is wanted now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    /// A missing bridge is to be created, and it was missing for long enough.
    pub create_bridge: bool,
    /// What guests see.
    pub endpoint_mac: Mac,
    /// The TAP's own MAC, if one was chosen when it was enslaved.
    pub own_mac: Option<Mac>,
    /// MTU of the TAP.
    pub mtu: u32,
    /// What the bridge is to have of the host; none leaves it as it is.
    pub host: Option<HostStation>,
}

/// What is there now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Observed {
    pub bridge: Option<BridgeSeen>,
    pub tap: Option<TapSeen>,
}

/// The bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BridgeSeen {
    pub index: u32,
    pub up: bool,
    /// Its MAC when it was found.
    pub mac: Option<Mac>,
    /// We created it.
    pub ours: bool,
    /// It has ports beside the TAP. Looked up only while the TAP is not enslaved.
    pub has_other_ports: bool,
    /// Its addresses. Looked up only where the host is a station.
    pub addresses: Vec<Address>,
}

/// The TAP that we hold open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TapSeen {
    pub master: Option<u32>,
    pub mtu: u32,
    pub mac: Option<Mac>,
    pub up: bool,
    /// The bridge sends it the frames for the endpoint's MAC.
    pub has_fdb: bool,
    /// The bridge sends it all multicast; `None` where the kernel does not snoop.
    pub multicast_router: Option<bool>,
}

/// One thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    CreateBridge,
    BringBridgeUp {
        bridge: u32,
    },
    SetBridgeMac {
        bridge: u32,
        mac: Mac,
    },
    RemoveAddress {
        bridge: u32,
        ip: IpAddr,
        prefix: u8,
    },
    AddAddress {
        bridge: u32,
        ip: IpAddr,
        prefix: u8,
    },
    OpenTap,
    SetMtu(u32),
    SetMac(Mac),
    /// The TAP has this own MAC by then.
    Attach {
        bridge: u32,
        own_mac: Mac,
    },
    SetMulticastRouter,
    AddFdb,
    BringTapUp,
}

/// The steps from `observed` to `wanted`, in their order; none when nothing is to be done, or nothing can be. After
/// a step that brings something new the plan ends: observe again.
pub(super) fn plan(observed: &Observed, wanted: &Wanted) -> Vec<Step> {
    let Some(bridge) = &observed.bridge else {
        return if wanted.create_bridge { vec![Step::CreateBridge] } else { Vec::new() };
    };
    let mut steps = Vec::new();
    if bridge.ours && !bridge.up {
        steps.push(Step::BringBridgeUp { bridge: bridge.index });
    }
    if let Some(host) = &wanted.host {
        steps.extend(host_steps(bridge, host));
    }
    let Some(tap) = &observed.tap else {
        steps.push(Step::OpenTap);
        return steps;
    };
    let enslaved = tap.master == Some(bridge.index);
    let own_mac = match (wanted.own_mac, tap.mac) {
        (Some(mac), _) if enslaved => mac,
        (None, Some(mac)) if enslaved && mac != wanted.endpoint_mac => mac,
        _ => own_mac(bridge, wanted.endpoint_mac),
    };
    if tap.mtu != wanted.mtu {
        steps.push(Step::SetMtu(wanted.mtu));
    }
    if tap.mac != Some(own_mac) {
        steps.push(Step::SetMac(own_mac));
    }
    if !enslaved {
        steps.push(Step::Attach { bridge: bridge.index, own_mac });
    }
    // A port that was just attached has neither; an attached one may have lost either.
    if tap.multicast_router == Some(false) || !enslaved {
        steps.push(Step::SetMulticastRouter);
    }
    if !tap.has_fdb || !enslaved {
        steps.push(Step::AddFdb);
    }
    if !tap.up {
        steps.push(Step::BringTapUp);
    }
    steps
}

/// The bridge has the host's MAC and exactly its addresses.
fn host_steps(bridge: &BridgeSeen, host: &HostStation) -> Vec<Step> {
    let index = bridge.index;
    let mut steps = Vec::new();
    if bridge.mac != Some(host.mac) {
        steps.push(Step::SetBridgeMac { bridge: index, mac: host.mac });
    }
    let there: Vec<(IpAddr, u8)> = bridge.addresses.iter().map(|a| (a.ip, a.prefix)).collect();
    let wrong = there.iter().filter(|address| !host.addresses.contains(address));
    steps.extend(wrong.map(|(ip, prefix)| Step::RemoveAddress { bridge: index, ip: *ip, prefix: *prefix }));
    let missing = host.addresses.iter().filter(|address| !there.contains(address));
    steps.extend(missing.map(|(ip, prefix)| Step::AddAddress { bridge: index, ip: *ip, prefix: *prefix }));
    steps
}

/// The TAP's own MAC. A bridge whose MAC is not pinned takes the lowest of its ports'
/// (`br_stp_recalculate_bridge_id`, net/bridge/br_stp_if.c), and its neighbours would have to learn it anew: so one
/// higher than any port's, or, where the TAP is to be the only port, the one that the bridge has.
fn own_mac(bridge: &BridgeSeen, endpoint_mac: Mac) -> Mac {
    if let Some(mac) = bridge.mac
        && !bridge.ours
        && !bridge.has_other_ports
        && mac.is_unicast()
        && mac != endpoint_mac
    {
        return mac;
    }
    let [_, _, a, b, c, d] = endpoint_mac.0;
    let high = Mac([0xfe, 0xff, a, b, c, d]);
    if high == endpoint_mac { Mac([0xfe, 0xff, a, b, c, d ^ 1]) } else { high }
}

/// How soon to mend again: at once after a quiet time, and with doubling delays while mending does not help, or
/// something else undoes it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    delay: Duration,
    last: Option<Instant>,
}

impl Pace {
    /// Something was mended, or failed, at `now`: how long to leave things alone.
    pub(super) fn delay_after(&mut self, now: Instant) -> Duration {
        let quiet = self.last.is_none_or(|last| now.duration_since(last) >= QUIET);
        self.last = Some(now);
        self.delay = if quiet { DELAY_MIN } else { (self.delay * 2).clamp(DELAY_MIN, DELAY_MAX) };
        self.delay
    }
}

pub(super) const DELAY_MIN: Duration = Duration::from_millis(50);
pub(super) const DELAY_MAX: Duration = Duration::from_secs(1);

/// Longer than [`DELAY_MAX`], or a fight at that pace would look like peace.
const QUIET: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: Mac = Mac([0x02, 0x73, 0x77, 0, 0, 0x64]);
    const HIGH: Mac = Mac([0xfe, 0xff, 0x77, 0, 0, 0x64]);
    const BRIDGE: Mac = Mac([0x1e, 1, 2, 3, 4, 5]);

    fn wanted() -> Wanted {
        Wanted { create_bridge: false, endpoint_mac: ENDPOINT, own_mac: Some(HIGH), mtu: 1500, host: None }
    }

    fn found() -> BridgeSeen {
        BridgeSeen {
            index: 7,
            up: true,
            mac: Some(BRIDGE),
            ours: false,
            has_other_ports: true,
            addresses: Vec::new(),
        }
    }

    fn good() -> TapSeen {
        TapSeen {
            master: Some(7),
            mtu: 1500,
            mac: Some(HIGH),
            up: true,
            has_fdb: true,
            multicast_router: Some(true),
        }
    }

    fn seen(bridge: BridgeSeen, tap: TapSeen) -> Observed {
        Observed { bridge: Some(bridge), tap: Some(tap) }
    }

    #[test]
    fn every_difference_has_its_steps() {
        use Step::*;
        let fresh = TapSeen {
            master: None,
            mtu: 9000,
            mac: Some(Mac([2, 2, 2, 2, 2, 2])),
            up: false,
            has_fdb: false,
            multicast_router: None,
        };
        let create = Wanted { create_bridge: true, ..wanted() };
        let alone = BridgeSeen { has_other_ports: false, ..found() };
        let ours_down = BridgeSeen { ours: true, up: false, has_other_ports: false, ..found() };
        let released = TapSeen { master: None, has_fdb: false, multicast_router: None, ..good() };
        let cases: Vec<(&str, Observed, Wanted, Vec<Step>)> = vec![
            ("all is well", seen(found(), good()), wanted(), vec![]),
            (
                "well without snooping",
                seen(found(), TapSeen { multicast_router: None, ..good() }),
                wanted(),
                vec![],
            ),
            ("no bridge", Observed { bridge: None, tap: Some(released.clone()) }, wanted(), vec![]),
            ("no bridge, ours to make", Observed::default(), create.clone(), vec![CreateBridge]),
            ("a bridge found is not made", seen(found(), good()), create, vec![]),
            ("no TAP", Observed { bridge: Some(found()), tap: None }, wanted(), vec![OpenTap]),
            (
                "our bridge is down, no TAP",
                Observed { bridge: Some(ours_down), tap: None },
                wanted(),
                vec![BringBridgeUp { bridge: 7 }, OpenTap],
            ),
            (
                "another's bridge is down: theirs",
                seen(BridgeSeen { up: false, ..found() }, good()),
                wanted(),
                vec![],
            ),
            (
                "a fresh TAP",
                seen(found(), fresh.clone()),
                wanted(),
                vec![
                    SetMtu(1500),
                    SetMac(HIGH),
                    Attach { bridge: 7, own_mac: HIGH },
                    SetMulticastRouter,
                    AddFdb,
                    BringTapUp,
                ],
            ),
            (
                "a fresh TAP, to be the only port of another's bridge",
                seen(alone, TapSeen { mtu: 1500, up: true, ..fresh }),
                wanted(),
                vec![SetMac(BRIDGE), Attach { bridge: 7, own_mac: BRIDGE }, SetMulticastRouter, AddFdb],
            ),
            (
                "released",
                seen(found(), released.clone()),
                wanted(),
                vec![Attach { bridge: 7, own_mac: HIGH }, SetMulticastRouter, AddFdb],
            ),
            (
                "in another bridge",
                seen(found(), TapSeen { master: Some(8), ..good() }),
                wanted(),
                vec![Attach { bridge: 7, own_mac: HIGH }, SetMulticastRouter, AddFdb],
            ),
            ("MTU", seen(found(), TapSeen { mtu: 1400, ..good() }), wanted(), vec![SetMtu(1500)]),
            ("MAC", seen(found(), TapSeen { mac: Some(ENDPOINT), ..good() }), wanted(), vec![SetMac(HIGH)]),
            (
                "enslaved by someone else, with a MAC that will do",
                seen(found(), TapSeen { mac: Some(BRIDGE), ..good() }),
                Wanted { own_mac: None, ..wanted() },
                vec![],
            ),
            (
                "enslaved by someone else, with the endpoint's MAC",
                seen(found(), TapSeen { mac: Some(ENDPOINT), ..good() }),
                Wanted { own_mac: None, ..wanted() },
                vec![SetMac(HIGH)],
            ),
            ("down", seen(found(), TapSeen { up: false, ..good() }), wanted(), vec![BringTapUp]),
            ("FDB", seen(found(), TapSeen { has_fdb: false, ..good() }), wanted(), vec![AddFdb]),
            (
                "port flag",
                seen(found(), TapSeen { multicast_router: Some(false), ..good() }),
                wanted(),
                vec![SetMulticastRouter],
            ),
        ];
        for (name, observed, wanted, steps) in cases {
            assert_eq!(plan(&observed, &wanted), steps, "{name}");
        }
    }

    #[test]
    fn the_bridge_has_exactly_what_is_the_hosts() {
        use Step::*;
        let host = || HostStation {
            addresses: vec![("10.9.0.7".parse().unwrap(), 16), ("fd00::7".parse().unwrap(), 64)],
            mac: Mac([2, 0x73, 0x69, 0, 0, 7]),
        };
        let address = |ip: &str, prefix| Address { ip: ip.parse().unwrap(), prefix, link_local: false };
        let with = |mac, addresses: &[Address]| {
            let addresses = addresses.to_vec();
            seen(BridgeSeen { ours: true, mac: Some(mac), addresses, ..found() }, good())
        };
        let wanted = Wanted { host: Some(host()), ..wanted() };
        let (v4, v6) = (address("10.9.0.7", 16), address("fd00::7", 64));
        let add = |a: Address| AddAddress { bridge: 7, ip: a.ip, prefix: a.prefix };
        let remove = |a: Address| RemoveAddress { bridge: 7, ip: a.ip, prefix: a.prefix };
        let other = address("192.0.2.1", 24);
        let longer = address("10.9.0.7", 24);
        let cases = [
            ("all is well", with(host().mac, &[v4, v6]), vec![]),
            (
                "nothing there",
                with(BRIDGE, &[]),
                vec![SetBridgeMac { bridge: 7, mac: host().mac }, add(v4), add(v6)],
            ),
            ("one deleted", with(host().mac, &[v6]), vec![add(v4)]),
            ("one too many", with(host().mac, &[v4, v6, other]), vec![remove(other)]),
            ("another prefix", with(host().mac, &[longer, v6]), vec![remove(longer), add(v4)]),
        ];
        for (name, observed, steps) in cases {
            assert_eq!(plan(&observed, &wanted), steps, "{name}");
            assert_eq!(
                plan(&observed, &Wanted { host: None, ..wanted.clone() }),
                [],
                "{name}: not ours to say"
            );
        }
        let no_tap = Observed { tap: None, ..with(BRIDGE, &[]) };
        assert_eq!(plan(&no_tap, &wanted).last(), Some(&OpenTap), "the host does not wait for the TAP");
    }

    #[test]
    fn the_own_mac_is_never_the_endpoints() {
        let alone = BridgeSeen { has_other_ports: false, ..found() };
        assert_eq!(own_mac(&found(), ENDPOINT), HIGH);
        assert_eq!(own_mac(&alone, ENDPOINT), BRIDGE);
        assert_eq!(own_mac(&alone, BRIDGE), Mac([0xfe, 0xff, 2, 3, 4, 5]));
        assert_eq!(own_mac(&BridgeSeen { mac: Some(Mac::ZERO), ..alone.clone() }, ENDPOINT), HIGH);
        assert_eq!(own_mac(&BridgeSeen { ours: true, ..alone }, ENDPOINT), HIGH);
        assert_eq!(own_mac(&found(), HIGH), Mac([0xfe, 0xff, 0x77, 0, 0, 0x65]));
    }

    #[test]
    fn the_pace_slows_in_a_fight_and_recovers() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut delays = Vec::new();
        for _ in 0..7 {
            let delay = pace.delay_after(now);
            delays.push(delay.as_millis());
            now += delay;
        }
        assert_eq!(delays, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(pace.delay_after(now + QUIET), DELAY_MIN);
    }
}
