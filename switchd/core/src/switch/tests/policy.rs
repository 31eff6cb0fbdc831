//! DHCP policy and strict sources.

use super::fixture::*;
use crate::ids::Mac;
use crate::switch::*;

fn dhcp(client: bool, family: Family, n: u8, dst: Mac) -> Vec<u8> {
    let (from, to, ports) = match (family, client) {
        (Family::V4, true) => ("0.0.0.0", "255.255.255.255", (68, 67)),
        (Family::V4, false) => ("10.0.0.254", "255.255.255.255", (67, 68)),
        (Family::V6, true) => ("fe80::1", "ff02::1:2", (546, 547)),
        (Family::V6, false) => ("fe80::fe", "fe80::1", (547, 546)),
    };
    udp(dst, mac(n), from.parse().unwrap(), to.parse().unwrap(), ports)
}

fn with_policy(dhcp: DhcpPolicy, anti_spoof: AntiSpoof) -> Switch {
    let mut c = config(Mode::Rewrite);
    c.policy.dhcp = dhcp;
    c.policy.anti_spoof = anti_spoof;
    with(c)
}

const REFUSED: Verdict = Verdict::Drop(DropReason::DhcpPolicy);

#[test]
fn dhcp_policy_table() {
    let trusted = mac(7);
    for family in FAMILIES {
        // (policy, who is the server, client crosses, server crosses)
        let rows = [
            (DhcpPolicy::Forward, 8, true, true),
            (DhcpPolicy::LocalOnly, 7, false, false),
            (DhcpPolicy::Trusted(trusted), 7, true, true),
            (DhcpPolicy::Trusted(trusted), 8, true, false),
        ];
        for (policy, server, client_crosses, server_crosses) in rows {
            let mut sw = with_policy(policy, AntiSpoof::Learn);
            let what = format!("{family:?} {policy:?} {server}");
            let ask = dhcp(true, family, 1, Mac::BROADCAST);
            let offer = dhcp(false, family, server, Mac::BROADCAST);
            let wanted = |ok, v| if ok { v } else { REFUSED };
            assert_eq!(local(&mut sw, &ask, at(0)).0, wanted(client_crosses, Verdict::Flood), "{what}");
            assert_eq!(remote(&mut sw, &ask, P1, at(0)).0, wanted(client_crosses, Verdict::Bridge), "{what}");
            assert_eq!(local(&mut sw, &offer, at(0)).0, wanted(server_crosses, Verdict::Flood), "{what}");
            assert_eq!(
                remote(&mut sw, &offer, P1, at(0)).0,
                wanted(server_crosses, Verdict::Bridge),
                "{what}"
            );
            let ra = router_advert(server);
            assert_eq!(local(&mut sw, &ra, at(0)).0, wanted(server_crosses, Verdict::Flood), "{what}");
            assert_eq!(remote(&mut sw, &ra, P1, at(0)).0, wanted(server_crosses, Verdict::Bridge), "{what}");
            // Unicast too.
            hello(&mut sw, 1, Place::Peer(P1), at(0));
            let renewal = dhcp(false, family, server, mac(1));
            assert_eq!(
                local(&mut sw, &renewal, at(0)).0,
                wanted(server_crosses, Verdict::Peer(P1)),
                "{what}"
            );
            // And nothing else is touched.
            assert_eq!(local(&mut sw, &request(family, 2, 99), at(0)).0, Verdict::Flood);
        }
    }
}

/// The IPv6 packet with these extension headers in front of its upper layer; each is its number and its bytes
/// from the second on.
fn extended(frame: &[u8], headers: &[(u8, &[u8])]) -> Vec<u8> {
    let mut f = frame[..54].to_vec();
    let upper = std::mem::replace(&mut f[20], headers[0].0);
    for (i, (_, rest)) in headers.iter().enumerate() {
        f.push(headers.get(i + 1).map_or(upper, |(n, _)| *n));
        f.extend(*rest);
    }
    f.extend(&frame[54..]);
    let len = (f.len() - 54) as u16;
    f[18..20].copy_from_slice(&len.to_be_bytes());
    f
}

#[test]
fn extension_headers_hide_nothing() {
    const OPTIONS: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    const FIRST: &[u8] = &[0, 0, 1, 0, 0, 0, 7];
    const ATOMIC: &[u8] = &[0, 0, 0, 0, 0, 0, 7];
    const LATER: &[u8] = &[0, 0, 9, 0, 0, 0, 7];
    let chains: &[&[(u8, &[u8])]] = &[
        &[(60, OPTIONS)],
        &[(0, OPTIONS)],
        &[(43, OPTIONS)],
        &[(0, OPTIONS), (60, OPTIONS), (43, OPTIONS)],
        &[(44, ATOMIC)],
        &[(44, FIRST)],
        &[(44, FIRST), (60, OPTIONS)],
        &[(60, OPTIONS), (44, ATOMIC), (44, FIRST), (60, OPTIONS)],
    ];
    let bad_nd = Verdict::Drop(DropReason::BadNd);
    let server = dhcp(false, Family::V6, 1, mac(2));
    for chain in chains {
        for policy in [DhcpPolicy::Forward, DhcpPolicy::LocalOnly, DhcpPolicy::Trusted(mac(7))] {
            let mut sw = with_policy(policy, AntiSpoof::Learn);
            hello(&mut sw, 2, Place::Peer(P1), at(0));
            for hidden in [router_advert(8), gratuitous(Family::V6, 8), reply(Family::V6, 8, 2, mac(2))] {
                let f = extended(&hidden, chain);
                assert_eq!(local(&mut sw, &f, at(1)).0, bad_nd, "{chain:?}");
                assert_eq!(remote(&mut sw, &f, P1, at(1)).0, bad_nd, "{chain:?}");
            }
            let forwards = policy == DhcpPolicy::Forward;
            let wanted = if forwards { Verdict::Peer(P1) } else { REFUSED };
            assert_eq!(local(&mut sw, &extended(&server, chain), at(1)).0, wanted, "{chain:?}");
            // Nothing else is touched.
            let plain = extended(&data(Family::V6, 1, 2, mac(2)), chain);
            assert_eq!(local(&mut sw, &plain, at(1)).0, Verdict::Peer(P1), "{chain:?}");
        }
    }
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 2, Place::Peer(P1), at(0));
    let advert = reply(Family::V6, 1, 2, mac(2));
    assert_eq!(local(&mut sw, &extended(&advert, &[(44, LATER)]), at(1)).0, Verdict::Peer(P1));
    // Chains without an end: cut in the first fragment, or too long.
    let cut = |frame: &[u8], headers: &[(u8, &[u8])]| extended(&frame[..54], headers);
    for unreadable in [
        cut(&advert, &[(44, FIRST)]),
        cut(&server, &[(44, FIRST), (60, OPTIONS)]),
        extended(&advert, &[(60, &[200, 1, 4, 0, 0, 0, 0])]),
        extended(&advert, &[(60, OPTIONS); 9]),
        extended(&server, &[(44, ATOMIC); 9]),
    ] {
        assert_eq!(local(&mut sw, &unreadable, at(1)).0, bad_nd);
    }
    assert_eq!(
        local(&mut sw, &cut(&data(Family::V6, 1, 2, mac(2)), &[(44, LATER)]), at(1)).0,
        Verdict::Peer(P1)
    );
}

#[test]
fn a_dhcp_server_reaches_a_remote_client_by_its_real_mac() {
    for mode in MODES {
        let mut sw = switch(mode);
        let (verdict, seen) = remote(&mut sw, &dhcp(true, Family::V4, 1, Mac::BROADCAST), P2, at(0));
        assert_eq!(verdict, Verdict::Bridge);
        assert_eq!(eth(&seen).src, if mode == Mode::Rewrite { ENDPOINT } else { mac(1) });
        let offer = dhcp(false, Family::V4, 7, mac(1));
        assert_eq!(local(&mut sw, &offer, at(1)), (Verdict::Peer(P2), offer));
    }
}

#[test]
fn strict_local_sources_need_a_controllers_binding() {
    let mut sw = with_policy(DhcpPolicy::Forward, AntiSpoof::Strict);
    let spoof = Verdict::Drop(DropReason::Spoof);
    for family in FAMILIES {
        assert_eq!(local(&mut sw, &request(family, 1, 2), at(0)).0, spoof);
        assert_eq!(local(&mut sw, &data(family, 1, 2, mac(2)), at(0)).0, spoof);
    }
    assert_eq!(sw.table_sizes(), (0, 0));
    assert!(matches!(events(&mut sw)[..], [Event::Spoof { ip: None, from: Place::Local, .. }]));
    sw.set_binding(binding(1, Place::Local, 1), at(0)).unwrap();
    for family in FAMILIES {
        assert_eq!(local(&mut sw, &request(family, 1, 200), at(0)).0, Verdict::Flood);
        assert_eq!(local(&mut sw, &data(family, 1, 2, mac(2)), at(0)).0, Verdict::Flood);
        // Its MAC with another's IP.
        let foreign = udp(mac(2), mac(1), ip(family, 9), ip(family, 2), (1, 2));
        assert_eq!(local(&mut sw, &foreign, at(0)).0, spoof);
    }
    let mut claim = gratuitous(Family::V4, 1);
    claim[28..32].copy_from_slice(&v4(9).octets());
    claim[38..42].copy_from_slice(&v4(9).octets());
    assert_eq!(local(&mut sw, &claim, at(0)).0, spoof);
    let mut other_sha = gratuitous(Family::V4, 1);
    other_sha[22..28].copy_from_slice(&mac(3).0);
    assert_eq!(local(&mut sw, &other_sha, at(0)).0, spoof);
    // What a fresh instance must be able to send.
    assert_eq!(local(&mut sw, &probe(Family::V4, 1, 50), at(0)).0, Verdict::Flood);
    assert_eq!(local(&mut sw, &probe(Family::V6, 1, 50), at(0)).0, Verdict::Flood);
    assert_eq!(local(&mut sw, &dhcp(true, Family::V4, 1, Mac::BROADCAST), at(0)).0, Verdict::Flood);
    let link_local = udp(mac(2), mac(1), "fe80::9".parse().unwrap(), v6(2).into(), (1, 2));
    assert_eq!(local(&mut sw, &link_local, at(0)).0, Verdict::Flood);
}

#[test]
fn strict_binds_learned_stations_after_a_reload() {
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 1, Place::Local, at(0));
    sw.set_policy(Policy { anti_spoof: AntiSpoof::Strict, ..Policy::default() });
    assert_eq!(local(&mut sw, &request(Family::V4, 1, 2), at(1)).0, Verdict::Drop(DropReason::Spoof));
}

#[test]
fn strict_remote_sources_must_not_contradict() {
    let mut sw = with_policy(DhcpPolicy::Forward, AntiSpoof::Strict);
    sw.set_binding(binding(2, Place::Peer(P1), 1), at(0)).unwrap();
    sw.set_binding(binding(3, Place::Local, 1), at(0)).unwrap();
    let spoof = Verdict::Drop(DropReason::Spoof);
    assert_eq!(remote(&mut sw, &gratuitous(Family::V4, 2), P1, at(1)).0, Verdict::Bridge);
    assert_eq!(remote(&mut sw, &gratuitous(Family::V4, 2), P2, at(1)).0, spoof);
    assert_eq!(remote(&mut sw, &gratuitous(Family::V4, 3), P1, at(1)).0, spoof);
    assert_eq!(remote(&mut sw, &gratuitous(Family::V4, 4), P2, at(1)).0, Verdict::Bridge);
    // In learn mode the local instance's MAC from a peer is refused too.
    sw.set_policy(Policy::default());
    let elsewhere = Verdict::Drop(DropReason::BoundElsewhere);
    assert_eq!(remote(&mut sw, &gratuitous(Family::V4, 3), P1, at(1)).0, elsewhere);
}
