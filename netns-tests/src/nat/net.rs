//! The internet of the lab and the sites behind it: namespaces, addresses, routes, routers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::preset::{Families, Nat, Preset, Quirks, V6_FILTER};
use crate::lab::PORT;
use crate::ns::Namespace;

/// A bridge that carries 203.0.113.0/24 and 2001:db8::/64, and routes to the sites that have public addresses.
///
/// The namespace itself has the addresses .1 (the gateway), .20 and .30, in both families: for servers of the tests.
#[derive(Debug)]
pub struct Internet {
    ns: Namespace,
}

impl Internet {
    /// Makes it; `prefix` begins the names of its namespaces.
    pub fn build(prefix: &str) -> Result<Internet> {
        let ns = Namespace::create(&format!("{prefix}inet"))?;
        let internet = Internet { ns };
        let ns = &internet.ns;
        routes(ns)?;
        let addresses: String = [1, SERVER_1, SERVER_2]
            .iter()
            .map(|n| format!("addr add {}/24 dev inet\naddr add {}/64 dev inet nodad\n", v4(*n), v6(*n)))
            .collect();
        // Whatever is sent to an address that is nowhere vanishes: a relay that is told that a network is unreachable
        // may give up more than the packet.
        ns.ip_batch(&format!(
            "link add inet address 02:ff:00:00:01:01 type bridge mcast_snooping 0\nlink set inet up\n{addresses}\
             neigh add {DEAD_END} lladdr 02:00:00:00:00:fe nud permanent dev inet\n\
             route add default via {DEAD_END}\n"
        ))?;
        Ok(internet)
    }

    /// Its namespace.
    pub fn ns(&self) -> &Namespace {
        &self.ns
    }

    /// Gives `ns` an interface `name` on the internet with the host number `n`, and default routes.
    pub fn connect(&self, ns: &Namespace, name: &str, n: u8) -> Result<()> {
        self.plug(ns, name, n)?;
        ns.ip_batch(&format!(
            "addr add {}/24 dev {name}\naddr add {}/64 dev {name} nodad\nlink set {name} up\n\
             route add default via {}\nroute add default via {}\n",
            v4(n),
            v6(n),
            v4(1),
            v6(1)
        ))
    }

    /// The same for one of many hosts: it knows the gateway only. A host keeps at most 1024 neighbours in all
    /// namespaces together, and each of 50 nodes would have 49 by IPv4 alone.
    pub fn connect_by_gateway(&self, ns: &Namespace, name: &str, n: u8) -> Result<()> {
        self.plug(ns, name, n)?;
        ns.ip_batch(&format!(
            "addr add {}/32 dev {name}\naddr add {}/128 dev {name} nodad\nlink set {name} up\n\
             route add {gateway} dev {name}\nroute add {gateway6} dev {name}\n\
             route add default via {gateway}\nroute add default via {gateway6}\n",
            v4(n),
            v6(n),
            gateway = v4(1),
            gateway6 = v6(1)
        ))
    }

    fn plug(&self, ns: &Namespace, name: &str, n: u8) -> Result<()> {
        self.ns.ip_batch(&format!(
            "link add w{n} type veth peer name {name} address 02:ee:01:00:00:{n:02x} netns {}\n\
             link set w{n} master inet\nlink set w{n} up\n",
            ns.name()
        ))
    }
}

/// A router with what is behind it.
#[derive(Debug)]
pub struct Site {
    number: u8,
    preset: Preset,
    quirks: Quirks,
    router: Namespace,
    carrier: Option<Namespace>,
    /// The home router's present address on its `wan`.
    wan: Mutex<Ipv4Addr>,
    /// Clients that have their other address.
    moved: Mutex<BTreeSet<u8>>,
}

impl Site {
    /// Makes the site `number` (1 to 15) with its router, or two.
    pub fn build(
        prefix: &str,
        internet: &Internet,
        number: u8,
        preset: Preset,
        quirks: Quirks,
    ) -> Result<Site> {
        ensure!((1..=15).contains(&number), "there is room for 15 sites, not for site {number}");
        let router = Namespace::create(&format!("{prefix}r{number}"))?;
        let carrier = match preset.carrier {
            Some(_) => Some(Namespace::create(&format!("{prefix}g{number}"))?),
            None => None,
        };
        let public = 100 + number;
        let wan = if carrier.is_some() { Ipv4Addr::new(100, 64, number, 2) } else { v4(public) };
        let site =
            Site { number, preset, quirks, router, carrier, wan: Mutex::new(wan), moved: Mutex::default() };
        if let (Some(ns), Some(nat)) = (&site.carrier, preset.carrier) {
            routes(ns)?;
            lan(ns, &format!("addr add 100.64.{number}.1/24 dev lan\n"))?;
            internet.connect(ns, "wan", public)?;
            load(ns, nat, v4(public), Quirks { hairpin: false, forwards_port: false, ..quirks }, false)?;
        }
        site.build_router(internet, public)?;
        Ok(site)
    }

    fn build_router(&self, internet: &Internet, public: u8) -> Result<()> {
        let (ns, number, wan) = (&self.router, self.number, self.wan());
        routes(ns)?;
        let families = self.preset.families;
        let mut addresses = String::new();
        if families.v4() {
            addresses += &format!("addr add {} dev lan\n", self.cidr(1)?);
        }
        if families.v6() {
            addresses += &format!("addr add {}/64 dev lan nodad\n", self.v6(1));
        }
        lan(ns, &addresses)?;
        match &self.carrier {
            None => internet.connect(ns, "wan", public)?,
            Some(carrier) => {
                carrier.ip_batch(&format!(
                    "link add c{number} type veth peer name wan netns {}\nlink set c{number} master lan\n\
                     link set c{number} up\n",
                    ns.name()
                ))?;
                ns.ip_batch(&format!(
                    "addr add {wan}/24 dev wan\nlink set wan up\nroute add default via 100.64.{number}.1\n"
                ))?;
            }
        }
        if families.v4() && self.preset.home.is_none() {
            internet.ns.ip(&format!("route add 198.51.100.{}/28 via {}", 16 * number, v4(public)))?;
        }
        if families.v6() {
            internet.ns.ip(&format!("-6 route add 2001:db8:{number:x}::/64 via {}", v6(public)))?;
        }
        self.load()
    }

    fn load(&self) -> Result<()> {
        self.load_nat()?;
        self.router.nft(&counters())
    }

    fn load_nat(&self) -> Result<()> {
        let v6 = self.preset.families.v6();
        match self.preset.home {
            Some(nat) => {
                load(&self.router, nat, self.wan(), self.quirks, v6)?;
                if self.quirks.forwards_port {
                    self.router.nft(&format!(
                        "insert rule ip nat c_pre iifname \"wan\" udp dport {PORT} dnat to {}:{PORT}\n",
                        self.v4(2)?
                    ))?;
                }
                Ok(())
            }
            None if v6 => self.router.nft(&format!("flush ruleset\n{V6_FILTER}")),
            None => self.router.nft("flush ruleset\n"),
        }
    }

    /// Gives `ns` an interface `eth0` in the site's network, as its client `k` (from 1).
    pub fn connect(&self, ns: &Namespace, k: u8) -> Result<()> {
        let n = self.number;
        self.router.ip_batch(&format!(
            "link add k{k} type veth peer name eth0 address 02:ee:02:00:{n:02x}:{k:02x} netns {}\n\
             link set k{k} master lan\nlink set k{k} up\n",
            ns.name()
        ))?;
        // Deleting an address takes those that came after it in the same network along, unless they are promoted.
        ns.sysctl("net/ipv4/conf/all/promote_secondaries", "1")?;
        let mut batch = String::new();
        if self.preset.families.v4() {
            batch += &format!("addr add {} dev eth0\n", self.cidr(k + 1)?);
        }
        if self.preset.families.v6() {
            batch += &format!("addr add {}/64 dev eth0 nodad\n", self.v6(k + 1));
        }
        batch += "link set eth0 up\n";
        if self.preset.families.v4() {
            batch += &format!("route add default via {}\n", self.v4(1)?);
        }
        if self.preset.families.v6() {
            batch += &format!("route add default via {}\n", self.v6(1));
        }
        ns.ip_batch(&batch)
    }

    /// Its routers: that of the home, and the carrier's if there is one.
    pub fn routers(&self) -> impl Iterator<Item = &Namespace> {
        std::iter::once(&self.router).chain(&self.carrier)
    }

    /// What it was built from.
    pub fn preset(&self) -> Preset {
        self.preset
    }

    /// Its router's namespace: `wan` and `lan`.
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// The address of client `k` (from 1), IPv4 where there is one.
    pub fn client(&self, k: u8) -> Result<IpAddr> {
        if self.preset.families == Families::V6 {
            Ok(self.v6(k + 1).into())
        } else {
            Ok(self.v4(k + 1)?.into())
        }
    }

    /// The address of client `k` (from 1) by IPv6.
    pub fn client_v6(&self, k: u8) -> Ipv6Addr {
        self.v6(k + 1)
    }

    /// The home router's address on its `wan`.
    pub fn wan(&self) -> Ipv4Addr {
        *self.wan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The routers forget every mapping, as after a power cut. Sockets get new ports from presets that choose them.
    pub fn rebind(&self) -> Result<()> {
        for router in self.routers() {
            // conntrack ends with 1 if there was nothing to delete.
            router
                .finish(&["conntrack", "-D", "-p", "udp"], Duration::from_secs(5))
                .context("conntrack -D")?;
            if self.preset.home.is_some() {
                router.nft("flush map ip nat fc\nflush set ip nat perm\n")?;
            }
        }
        Ok(())
    }

    /// The home router gets another address on its `wan`, and forgets every mapping: a second time the first one again.
    pub fn change_wan(&self) -> Result<Ipv4Addr> {
        let old = self.wan();
        let [a, b, c, d] = old.octets();
        let new = Ipv4Addr::new(a, b, c, if d > OTHER_WAN { d - OTHER_WAN } else { d + OTHER_WAN });
        self.router
            .ip_batch(&format!("addr add {new}/24 dev wan\naddr del {old}/24 dev wan\n"))
            .context("changing the address of a router")?;
        *self.wan.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.load()?;
        self.router.finish(&["conntrack", "-F"], Duration::from_secs(5)).context("conntrack -F")?;
        Ok(new)
    }

    /// Client `k`, whose namespace is `ns`, gets another address, which is returned: a second time the first one again.
    pub fn move_client(&self, ns: &Namespace, k: u8) -> Result<IpAddr> {
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        let (here, there) = (k + 1, k + 1 + MOVED_BY);
        let (from, to) = if moved.remove(&k) { (there, here) } else { (here, there) };
        if to == there {
            moved.insert(k);
        }
        let mut batch = String::new();
        if self.preset.families.v4() {
            batch +=
                &format!("addr add {} dev eth0\naddr del {} dev eth0\n", self.cidr(to)?, self.cidr(from)?);
        }
        if self.preset.families.v6() {
            batch += &format!(
                "addr add {}/64 dev eth0 nodad\naddr del {}/64 dev eth0\n",
                self.v6(to),
                self.v6(from)
            );
        }
        ns.ip_batch(&batch)?;
        self.client(to - 1)
    }

    /// What the home router has forwarded since its rules were loaded, both ways.
    pub fn forwarded(&self) -> Result<Forwarded> {
        let count = |name: &str| -> Result<u64> {
            let said = self.router.exec(&["nft", "list", "counter", "inet", "seen", name])?;
            let packets = said.split_once("packets ");
            let packets = packets.and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
            packets.with_context(|| format!("no count in {said}"))
        };
        Ok(Forwarded { straight: count("straight")?, by_servers: count("by_servers")? })
    }

    /// Drops UDP that is neither to nor from the servers of the internet: the direct path, not the relay.
    pub fn cut(&self, cut: Cut) -> Result<()> {
        let way = match cut {
            Cut::BothWays => "",
            Cut::Inbound => "iifname \"wan\" ",
            Cut::Outbound => "iifname \"lan\" ",
        };
        let [v4, v6] = servers();
        self.router.nft(&format!(
            "table inet cut {{\n chain f {{ type filter hook forward priority -10; policy accept;\n  \
             {way}meta l4proto udp ip saddr != {{ {v4} }} ip daddr != {{ {v4} }} drop\n  \
             {way}meta l4proto udp ip6 saddr != {{ {v6} }} ip6 daddr != {{ {v6} }} drop\n }}\n}}\n"
        ))
    }

    /// Drops what goes to a relay by TCP and is not TLS: what has the type of a TURN request, where a TLS record would
    /// begin with its own.
    pub fn let_only_tls_pass(&self) -> Result<()> {
        self.router.nft(
            "table inet tls {\n chain f { type filter hook forward priority -10; policy accept;\n  \
             iifname \"lan\" tcp dport 3478 @ih,0,8 0x00 drop\n }\n}\n",
        )
    }

    /// Ends what [`Site::cut`] did.
    pub fn heal(&self) -> Result<()> {
        self.router.nft("delete table inet cut\n")
    }

    fn v4(&self, host: u8) -> Result<Ipv4Addr> {
        let n = self.number;
        if self.preset.home.is_some() {
            return Ok(Ipv4Addr::new(10, n, 0, host));
        }
        ensure!(host < 15, "host {host} does not fit into a /28");
        Ok(Ipv4Addr::new(198, 51, 100, 16 * n + host))
    }

    fn v6(&self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.number.into(), 0, 0, 0, 0, host.into())
    }

    fn cidr(&self, host: u8) -> Result<String> {
        Ok(format!("{}/{}", self.v4(host)?, if self.preset.home.is_some() { 24 } else { 28 }))
    }
}

/// Packets of links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forwarded {
    /// UDP neither to nor from the servers of the internet.
    pub straight: u64,
    /// UDP to and from the servers, and TCP of relays.
    pub by_servers: u64,
}

/// Which way of the direct path is cut at a site's router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Neither way is left.
    BothWays,
    /// The site is deaf.
    Inbound,
    /// The site is dumb.
    Outbound,
}

/// The host `n` of the internet, by IPv4.
pub fn v4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, n)
}

/// The host `n` of the internet, by IPv6.
pub fn v6(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into())
}

fn load(router: &Namespace, nat: Nat, wan: Ipv4Addr, quirks: Quirks, v6: bool) -> Result<()> {
    if let Some(seconds) = quirks.udp_timeout {
        // Before traffic: an entry keeps the timeout that it was made with until its next packet.
        for key in ["udp_timeout", "udp_timeout_stream"] {
            router.sysctl(&format!("net/netfilter/nf_conntrack_{key}"), &seconds.to_string())?;
        }
    }
    router.nft(&(nat.rules(wan, quirks) + if v6 { V6_FILTER } else { "" }))
}

fn counters() -> String {
    let [v4, v6] = servers();
    format!(
        "table inet seen {{\n counter straight {{ }}\n counter by_servers {{ }}\n \
         chain servers {{\n  meta l4proto udp counter name by_servers accept\n  \
         tcp dport {TURN_PORT} counter name by_servers accept\n  tcp sport {TURN_PORT} counter name by_servers accept\n }}\n \
         chain f {{ type filter hook forward priority -20; policy accept;\n  \
         ip saddr {{ {v4} }} jump servers\n  ip daddr {{ {v4} }} jump servers\n  \
         ip6 saddr {{ {v6} }} jump servers\n  ip6 daddr {{ {v6} }} jump servers\n  \
         ip saddr != {{ {v4} }} ip daddr != {{ {v4} }} meta l4proto udp counter name straight\n  \
         ip6 saddr != {{ {v6} }} ip6 daddr != {{ {v6} }} meta l4proto udp counter name straight\n }}\n}}\n"
    )
}

/// Lists of the servers' addresses for sets of nftables, IPv4 and IPv6.
fn servers() -> [String; 2] {
    let set = |address: fn(u8) -> String| SERVERS.map(address).join(", ");
    [set(|n| v4(n).to_string()), set(|n| v6(n).to_string())]
}

/// Makes a namespace a router.
fn routes(ns: &Namespace) -> Result<()> {
    let keys = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/promote_secondaries", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
    ];
    keys.iter().try_for_each(|(key, value)| ns.sysctl(key, value))
}

fn lan(ns: &Namespace, addresses: &str) -> Result<()> {
    ns.ip_batch(&format!("link add lan type bridge mcast_snooping 0\nlink set lan up\n{addresses}"))
}

/// The controller's host on the internet.
pub const CONTROLLER: u8 = 10;
/// Two hosts for servers of the tests; a relay beside the controller's runs on the first.
pub const SERVER_1: u8 = 20;
/// The second.
pub const SERVER_2: u8 = 30;
/// Of STUN and TURN over UDP and TCP.
const TURN_PORT: u16 = 3478;
const SERVERS: [u8; 3] = [CONTROLLER, SERVER_1, SERVER_2];
const DEAD_END: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
const MOVED_BY: u8 = 6;
/// From a router's first address to its second.
const OTHER_WAN: u8 = 120;
