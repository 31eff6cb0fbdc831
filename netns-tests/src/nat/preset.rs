//! Kinds of access to the internet, as data, and the nftables rules that make a router of each kind.
//!
//! Words as in RFC 4787: the mapping is what a router makes of an inside socket's address, the filter is who may answer
//! to it.

use std::fmt::Write;
use std::net::Ipv4Addr;

/// One kind of access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preset {
    /// Its name in tables and on the command line.
    pub name: &'static str,
    /// The router at home; `None` routes public addresses to the nodes.
    pub home: Option<Nat>,
    /// A second router in front of it, the carrier's.
    pub carrier: Option<Nat>,
    /// Addresses that nodes behind it have.
    pub families: Families,
}

/// What a router does to UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nat {
    /// How it maps.
    pub mapping: Mapping,
    /// Whom it lets answer.
    pub filter: Filter,
    /// False: it forwards no UDP at all.
    pub udp: bool,
}

/// How a router maps inside sockets to ports of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mapping {
    /// The inside address is public.
    None,
    /// One mapping for each socket, on a port chosen at random.
    Independent,
    /// One mapping for each socket, on the same port where that is free: the Linux kernel's `masquerade`.
    PortKept,
    /// Another mapping for each address and port that is sent to: "symmetric".
    PerDestination,
}

/// Who may send to a mapping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Filter {
    /// Everybody.
    Independent,
    /// Every port of an address that was sent to.
    Address,
    /// Only an address and port that was sent to.
    AddressAndPort,
}

/// Address families of the nodes behind a router. IPv6 is never translated, but unsolicited packets are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Both,
}

/// What a router of some kind does beyond its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quirks {
    /// Packets from inside to a mapping of its own go back inside.
    pub hairpin: bool,
    /// Unsolicited UDP is dropped without a word. False: the router's own stack answers that the port is unreachable,
    /// and remembers the stranger's packet as a connection, which makes a later one of ours get another port.
    pub drops_unsolicited: bool,
    /// The first node's port is forwarded to it, by hand.
    pub forwards_port: bool,
    /// Seconds until an unused mapping is forgotten; the kernel's own (30 to 120) if not given.
    pub udp_timeout: Option<u32>,
}

impl Default for Quirks {
    fn default() -> Quirks {
        Quirks { hairpin: false, drops_unsolicited: true, forwards_port: false, udp_timeout: None }
    }
}

const fn nat(mapping: Mapping, filter: Filter) -> Option<Nat> {
    Some(Nat { mapping, filter, udp: true })
}

const fn v4(name: &'static str, home: Option<Nat>) -> Preset {
    Preset { name, home, carrier: None, families: Families::V4 }
}

/// Public addresses.
pub const OPEN: Preset = v4("open", None);
/// Whoever knows the mapping may use it.
pub const FULL_CONE: Preset = v4("full-cone", nat(Mapping::Independent, Filter::Independent));
/// Addresses that were sent to may answer.
pub const ADDRESS_RESTRICTED: Preset = v4("addr-restricted", nat(Mapping::Independent, Filter::Address));
/// Addresses and ports that were sent to may answer.
pub const PORT_RESTRICTED: Preset = v4("port-restricted", nat(Mapping::Independent, Filter::AddressAndPort));
/// The Linux router that changes nothing but `masquerade`.
pub const MASQUERADE: Preset = v4("masq", nat(Mapping::PortKept, Filter::AddressAndPort));
/// A port for each destination.
pub const SYMMETRIC: Preset = v4("symmetric", nat(Mapping::PerDestination, Filter::AddressAndPort));
/// Two routers in a row.
pub const CGNAT: Preset =
    Preset { name: "cgnat", carrier: nat(Mapping::Independent, Filter::AddressAndPort), ..PORT_RESTRICTED };
/// Two routers in a row, the carrier's a symmetric one.
pub const CGNAT_SYMMETRIC: Preset =
    Preset { name: "cgnat-symmetric", carrier: SYMMETRIC.home, ..PORT_RESTRICTED };
/// Only TCP passes.
pub const UDP_BLOCKED: Preset =
    v4("udp-blocked", Some(Nat { mapping: Mapping::PortKept, filter: Filter::AddressAndPort, udp: false }));
/// No IPv4; IPv6 without translation, behind a filter that lets answers in.
pub const IPV6_ONLY: Preset = Preset { name: "ipv6-only", home: None, carrier: None, families: Families::V6 };
/// IPv4 behind a port-restricted NAT, and IPv6.
pub const DUAL_STACK: Preset = Preset { name: "dual-stack", families: Families::Both, ..PORT_RESTRICTED };

/// The rows and columns of the matrix.
pub const ALL: [Preset; 10] = [
    OPEN,
    FULL_CONE,
    ADDRESS_RESTRICTED,
    PORT_RESTRICTED,
    MASQUERADE,
    SYMMETRIC,
    CGNAT,
    UDP_BLOCKED,
    IPV6_ONLY,
    DUAL_STACK,
];

/// Kinds beyond the matrix.
const FURTHER: [Preset; 1] = [CGNAT_SYMMETRIC];

/// The preset of this name.
pub fn by_name(name: &str) -> Option<Preset> {
    ALL.into_iter().chain(FURTHER).find(|preset| preset.name == name)
}

impl Families {
    /// IPv4 is among them.
    pub fn v4(self) -> bool {
        self != Families::V6
    }

    /// IPv6 is among them.
    pub fn v6(self) -> bool {
        self != Families::V4
    }

    /// A family that both have.
    pub fn meet(self, other: Families) -> bool {
        (self.v4() && other.v4()) || (self.v6() && other.v6())
    }
}

impl Preset {
    /// What its nodes' IPv4 sockets meet on the way: the worse of its routers, in each respect. `None` if no UDP passes.
    pub fn behaviour(&self) -> Option<(Mapping, Filter)> {
        let routers = [self.home, self.carrier];
        let mut worst = (Mapping::None, Filter::Independent);
        for router in routers.into_iter().flatten() {
            if !router.udp {
                return None;
            }
            // Two ports of one's own choice in a row keep no port.
            worst = (worst.0.max(router.mapping), worst.1.max(router.filter));
        }
        Some(worst)
    }

    /// Whether two nodes can get through to each other without a relay, each with its own router.
    pub fn reaches_directly(&self, other: &Preset) -> bool {
        if self.families.v6() && other.families.v6() {
            return true;
        }
        if !(self.families.v4() && other.families.v4()) {
            return false;
        }
        let (Some(one), Some(two)) = (self.behaviour(), other.behaviour()) else { return false };
        let blocked = |(mapping, _): (Mapping, Filter), (their_mapping, their_filter): (Mapping, Filter)| {
            mapping == Mapping::PerDestination
                && (their_mapping == Mapping::PerDestination || their_filter == Filter::AddressAndPort)
        };
        !blocked(one, two) && !blocked(two, one)
    }

    /// Relays that a path between two such nodes passes: one, if either sends UDP to the other's address on a relay,
    /// which is of IPv4.
    pub fn relay_hops(&self, other: &Preset) -> u32 {
        let sends = |preset: &Preset| preset.families.v4() && preset.home.is_none_or(|nat| nat.udp);
        if sends(self) || sends(other) { 1 } else { 2 }
    }
}

impl Nat {
    /// The rules of a router whose interfaces are `wan`, with the address `wan`, and `lan`.
    ///
    /// What makes the kernel endpoint-independent: `snat` to a range of ports reuses the mapping of a source address
    /// and port for every destination, unless ports are drawn `fully-random`. A kernel's filter is always by address
    /// and port, so the other filters are written as `dnat` by two tables that are learned behind the SNAT: which
    /// inside socket has a port, and which addresses it has sent to.
    pub fn rules(&self, wan: Ipv4Addr, quirks: Quirks) -> String {
        let Nat { mapping, filter, udp } = self;
        let snat = match mapping {
            Mapping::None | Mapping::PortKept => "masquerade".to_owned(),
            Mapping::Independent => format!("snat to {wan}:{PORTS}"),
            Mapping::PerDestination => format!("snat to {wan}:{PORTS} fully-random"),
        };
        let inbound = match filter {
            Filter::Independent => "dnat ip to udp dport map @fc",
            Filter::Address => "udp dport . ip saddr @perm dnat ip to udp dport map @fc",
            Filter::AddressAndPort => "counter",
        };
        let life = quirks.udp_timeout.unwrap_or(LEARNED_FOR);
        let when = |on: bool, rule: String| if on { rule } else { String::new() };
        let hairpin_pre = when(
            quirks.hairpin,
            format!("iifname \"lan\" ip daddr {wan} meta l4proto udp dnat ip to udp dport map @fc"),
        );
        // By the source address: `iifname` does not match in postrouting here.
        let hairpin_post = when(
            quirks.hairpin,
            format!(
                "ip saddr 10.0.0.0/8 oifname \"lan\" ct status dnat meta l4proto udp snat to {wan}:{PORTS}"
            ),
        );
        let hairpin_learn = when(
            quirks.hairpin,
            format!(
                "oifname \"lan\" ip saddr {wan} ct status snat ct direction original meta l4proto udp \
                 update @fc {{ udp sport : ct original ip saddr . ct original proto-src }}"
            ),
        );
        let hairpin_forward =
            when(quirks.hairpin, "iifname \"lan\" oifname \"lan\" ct status dnat accept".into());
        let block = when(!udp, "meta l4proto udp drop".into());
        let input = when(quirks.drops_unsolicited, "iifname \"wan\" meta l4proto udp drop".into());
        let mut rules = String::from("flush ruleset\n");
        // A String takes whatever is written.
        let _ = write!(
            rules,
            r#"table ip nat {{
  map fc {{ type inet_service : ipv4_addr . inet_service; size 65535; flags dynamic,timeout; timeout {life}s; }}
  set perm {{ type inet_service . ipv4_addr; size 65535; flags dynamic,timeout; timeout {life}s; }}
  chain c_pre {{ type nat hook prerouting priority dstnat; policy accept;
    {hairpin_pre}
    iifname "wan" meta l4proto udp {inbound}
  }}
  chain c_post {{ type nat hook postrouting priority srcnat; policy accept;
    oifname "wan" meta l4proto {{ udp, tcp, icmp }} jump c_out
    {hairpin_post}
  }}
  chain c_out {{
    meta l4proto udp {snat}
    masquerade
  }}
  chain c_learn {{ type filter hook postrouting priority srcnat + 10; policy accept;
    oifname "wan" meta l4proto udp ct direction original update @fc {{ udp sport : ct original ip saddr . ct original proto-src }}
    oifname "wan" meta l4proto udp ct direction original update @perm {{ udp sport . ip daddr }}
    {hairpin_learn}
  }}
  chain c_in {{ type filter hook input priority filter; policy accept;
    {input}
  }}
  chain c_fwd {{ type filter hook forward priority filter; policy drop;
    {block}
    iifname "lan" oifname "wan" accept
    ct state established,related accept
    iifname "wan" ct status dnat accept
    {hairpin_forward}
  }}
}}
"#
        );
        rules
    }
}

/// A filter without translation: what a home router does with IPv6.
pub const V6_FILTER: &str = r#"table ip6 home {
  chain fwd6 { type filter hook forward priority filter; policy drop;
    iifname "lan" oifname "wan" accept
    ct state established,related accept
    meta l4proto ipv6-icmp accept
  }
}
"#;

/// Ports of mappings: none that a node of the lab listens on.
const PORTS: &str = "20000-29999";
const LEARNED_FOR: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_can_be_punched_unless_nobody_knows_the_port() {
        assert!(SYMMETRIC.reaches_directly(&ADDRESS_RESTRICTED));
        assert!(PORT_RESTRICTED.reaches_directly(&CGNAT));
        assert!(DUAL_STACK.reaches_directly(&IPV6_ONLY));
        for (one, two) in [
            (SYMMETRIC, SYMMETRIC),
            (SYMMETRIC, PORT_RESTRICTED),
            (SYMMETRIC, MASQUERADE),
            (CGNAT_SYMMETRIC, CGNAT),
            (UDP_BLOCKED, OPEN),
            (IPV6_ONLY, OPEN),
        ] {
            assert!(!one.reaches_directly(&two) && !two.reaches_directly(&one), "{} {}", one.name, two.name);
        }
    }

    #[test]
    fn one_relay_is_enough_where_one_side_reaches_it() {
        assert_eq!(SYMMETRIC.relay_hops(&SYMMETRIC), 1);
        assert_eq!(IPV6_ONLY.relay_hops(&PORT_RESTRICTED), 1);
        assert_eq!(UDP_BLOCKED.relay_hops(&OPEN), 1);
        assert_eq!(UDP_BLOCKED.relay_hops(&UDP_BLOCKED), 2);
        assert_eq!(UDP_BLOCKED.relay_hops(&IPV6_ONLY), 2);
    }

    #[test]
    fn names_are_unique() {
        for preset in ALL {
            assert_eq!(by_name(preset.name), Some(preset));
        }
    }
}
