//! What the bindings of a big network cost: alone in its process, so that the process's memory is theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use switch_core::frame::Tags;
use switch_core::ids::{Generation, Mac, PeerId, Vni};
use switch_core::switch::{
    Binding, BindingChange, Limits, Mode, Place, Policy, Source, State, Switch, SwitchConfig,
};
use switch_core::time::Time;

const BINDINGS: u32 = 100_000;

#[test]
fn a_hundred_thousand_bindings_fit_the_default_limits_and_little_memory() {
    let mut switch = Switch::new(SwitchConfig {
        vni: Vni::new(1).unwrap(),
        mode: Mode::Rewrite,
        endpoint_mac: Mac([2, 0x73, 0x77, 0, 0, 1]),
        policy: Policy::default(),
        limits: Limits::default(),
        gateways: Vec::new(),
        hash_seed: [1, 2, 3, 4],
    });
    let before = resident();
    for n in 0..BINDINGS {
        let source = if n % 2 == 0 { Source::Controller } else { Source::Learned };
        assert_eq!(switch.set_binding(binding(n, source), Time::ZERO), Ok(BindingChange::Added));
    }
    assert_eq!(switch.table_sizes(), (BINDINGS as usize, 2 * BINDINGS as usize));
    assert_eq!(switch.bindings(Time::ZERO).count(), BINDINGS as usize);
    let each = (resident() - before) / u64::from(BINDINGS);
    println!("{each} bytes a binding with two IPs");
    assert!((100..1000).contains(&each), "{each} bytes a binding with two IPs");
}

/// One of 1,000 nodes' instances, with an IPv4 and an IPv6 address.
fn binding(n: u32, source: Source) -> Binding {
    let [_, a, b, c] = n.to_be_bytes();
    let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, (n >> 16) as u16, n as u16);
    Binding {
        tags: Tags::NONE,
        mac: Mac([2, 0x73, 0x69, a, b, c]),
        ips: vec![IpAddr::V4(Ipv4Addr::new(10, a, b, c)), IpAddr::V6(v6)],
        at: Place::Peer(PeerId(n % 1000)),
        generation: Generation(u64::from(n) + 1),
        source,
        state: State::Active,
    }
}

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("proc(5) names it");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB")
}
