//! No input panics, tables stay bounded, and what leaves is well formed.

use proptest::prelude::*;

use super::fixture::*;
use crate::ids::PeerId;
use crate::switch::*;

fn seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for family in FAMILIES {
        for (n, to) in [(1, 2), (2, 1), (3, 1)] {
            all.push(request(family, n, to));
            all.push(probe(family, n, to));
            all.push(poll(family, n, to, mac(to)));
            all.push(poll(family, n, to, ENDPOINT));
            all.push(reply(family, n, to, mac(to)));
            all.push(reply(family, n, to, ENDPOINT));
            all.push(gratuitous(family, n));
            all.push(data(family, n, to, mac(to)));
            all.push(data(family, n, to, ENDPOINT));
        }
    }
    all.push(router_advert(1));
    all.push(other(crate::ids::Mac::BROADCAST, mac(2), 0x8035));
    all
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let mutated = (
        prop::sample::select(seeds()),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        prop::option::weighted(0.2, any::<prop::sample::Index>()),
    )
        .prop_map(|(mut frame, changes, cut)| {
            for (i, byte) in changes {
                let i = i.index(frame.len());
                frame[i] = byte;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            frame
        });
    prop_oneof![8 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..120)]
}

#[derive(Clone, Debug)]
enum Input {
    Local(Vec<u8>),
    Remote(Vec<u8>, u32),
    Pass(u64),
    Link(u32, bool),
    Bind(u8, u32, u64, bool),
    Unbind(u8, u64),
}

fn inputs() -> impl Strategy<Value = Input> {
    prop_oneof![
        8 => frames().prop_map(Input::Local),
        8 => (frames(), 1..3u32).prop_map(|(f, p)| Input::Remote(f, p)),
        2 => (0..400_000u64).prop_map(Input::Pass),
        1 => (1..3u32, any::<bool>()).prop_map(|(p, up)| Input::Link(p, up)),
        1 => (1..5u8, 0..3u32, 0..5u64, any::<bool>()).prop_map(|(n, p, g, s)| Input::Bind(n, p, g, s)),
        1 => (1..5u8, 0..5u64).prop_map(|(n, g)| Input::Unbind(n, g)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_input(
        steps in prop::collection::vec(inputs(), 1..200),
        rewrite: bool, strict: bool, trusted: bool, csum_given: bool,
    ) {
        let mut c = config(if rewrite { Mode::Rewrite } else { Mode::Preserve });
        c.limits = Limits {
            max_macs: 6, max_ips: 6, max_asks: 6, hold_frames: 4, max_ips_per_mac: 3, ..Limits::default()
        };
        c.policy.anti_spoof = if strict { AntiSpoof::Strict } else { AntiSpoof::Learn };
        c.policy.dhcp = if trusted { DhcpPolicy::Trusted(mac(1)) } else { DhcpPolicy::Forward };
        let mut sw = with(c);
        let vnet = crate::vnet::VnetHdr { data_valid: csum_given, ..VNET };
        let mut now = 0;
        for step in steps {
            let released = sw.counters().released;
            match step {
                Input::Local(mut f) => {
                    let len = f.len();
                    let verdict = sw.handle_local(&mut f, &vnet, at(now));
                    prop_assert_eq!(f.len(), len);
                    if matches!(verdict, Verdict::Peer(_) | Verdict::Flood) {
                        prop_assert_ne!(eth(&f).src, ENDPOINT, "the overlay carries real MACs");
                        prop_assert_ne!(eth(&f).dst, ENDPOINT, "the overlay carries real MACs");
                    }
                    if let Verdict::Peer(p) = verdict {
                        prop_assert!(sw.flood_peers().contains(&p));
                    }
                }
                Input::Remote(mut f, p) => {
                    let verdict = sw.handle_remote(&mut f, &vnet, PeerId(p), at(now));
                    prop_assert!(!matches!(verdict, Verdict::Peer(_) | Verdict::Flood | Verdict::Held));
                }
                Input::Pass(ms) => {
                    now += ms;
                    sw.handle_timeout(at(now));
                }
                Input::Link(p, up) => sw.handle_link(PeerId(p), up, at(now)),
                Input::Bind(n, p, g, active) => {
                    let place = if p == 0 { Place::Local } else { Place::Peer(PeerId(p)) };
                    let state = if active { State::Active } else { State::Prepared };
                    let _ = sw.set_binding(Binding { state, ..binding(n, place, g) }, at(now));
                }
                Input::Unbind(n, g) => {
                    let _ = sw.remove_binding(station(n), crate::ids::Generation(g), at(now));
                }
            }
            for t in drain(&mut sw) {
                if t.to != Destination::Bridge {
                    prop_assert_ne!(eth(&t.frame).src, ENDPOINT);
                    prop_assert_ne!(eth(&t.frame).dst, ENDPOINT);
                }
                // What was held was not the switch's to check.
                if sw.counters().released == released {
                    prop_assert!(etherparse::SlicedPacket::from_ethernet(&t.frame).is_ok());
                }
            }
            let (macs, ips) = sw.table_sizes();
            prop_assert!(macs <= 6 && ips <= 6, "{} {}", macs, ips);
            let (held, bytes) = sw.held();
            prop_assert!(held <= 4 && (held > 0 || bytes == 0));
            prop_assert_eq!(sw.macs(at(now)).count() <= macs, true);
            prop_assert!(sw.bindings(at(now)).count() <= 2 * macs);
        }
    }
}
