//! Networks that do not come from a file: the defaults that a file would get, and what must hold.

use std::ops::RangeInclusive;
use std::time::Duration;

use switch_core::ids::{Mac, Vni};

use super::read::{interface_name, node_name};
use super::{AntiSpoof, Dhcp, HostStation, Mode, Network};

impl Network {
    /// A network with every default, on a bridge of its own, `swbr` and the VNI, that is created if it is missing.
    pub fn with_defaults(name: String, vni: Vni) -> Network {
        Network {
            name,
            vni,
            bridge: format!("swbr{vni}"),
            create_bridge: true,
            endpoint: endpoint_name(vni),
            mode: Mode::Rewrite,
            endpoint_mac: endpoint_mac(vni),
            mtu: MTU,
            offloads: true,
            dhcp: Dhcp::Forward,
            anti_spoof: AntiSpoof::Learn,
            mss_clamp: true,
            carriage: None,
            broadcast_rate: BROADCAST_RATE,
            broadcast_burst: BROADCAST_BURST,
            max_macs: MAX_MACS,
            max_ips: MAX_IPS,
            mac_age: MAC_AGE,
            ip_age: IP_AGE,
            gateways: Vec::new(),
            peers: None,
            bindings: Vec::new(),
            host: None,
        }
    }

    /// What a file's network is held to: an error says which key is wrong and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let key = |key: &'static str| move |error: String| format!("{key}: {error}");
        node_name(&self.name).map_err(key("name"))?;
        interface_name(&self.bridge).map_err(key("bridge"))?;
        interface_name(&self.endpoint).map_err(key("endpoint"))?;
        if self.bridge == self.endpoint {
            return Err(format!("bridge and endpoint are both {:?}: they need a name each", self.bridge));
        }
        if !self.endpoint_mac.is_unicast() {
            return Err(format!("endpoint_mac: {} is not a unicast address", self.endpoint_mac));
        }
        within("mtu", u64::from(self.mtu), MTUS)?;
        within("broadcast_rate", u64::from(self.broadcast_rate), RATES)?;
        within("broadcast_burst", u64::from(self.broadcast_burst), RATES)?;
        within("max_macs", self.max_macs as u64, TABLE_LIMITS)?;
        within("max_ips", self.max_ips as u64, TABLE_LIMITS)?;
        if let Some(host) = &self.host {
            self.check_host(host)?;
        }
        for (key, age) in [("mac_age", self.mac_age), ("ip_age", self.ip_age)] {
            if !AGES.contains(&age) {
                return Err(format!("{key}: {age:?} is out of range: use 10s to 24h"));
            }
        }
        Ok(())
    }

    fn check_host(&self, host: &HostStation) -> Result<(), String> {
        if !host.mac.is_unicast() || host.mac == self.endpoint_mac {
            return Err(format!("host: {} cannot be the node's own MAC", host.mac));
        }
        for (ip, prefix) in &host.addresses {
            let most = if ip.is_ipv4() { 32 } else { 128 };
            if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || !(1..=most).contains(prefix) {
                return Err(format!("host: {ip}/{prefix} cannot be the node's own address"));
            }
        }
        Ok(())
    }

    /// Only the keys that change while the network runs differ.
    pub fn differs_live_only(&self, new: &Network) -> bool {
        let Network { dhcp, anti_spoof, mss_clamp, broadcast_rate, broadcast_burst, .. } = *self;
        let (peers, bindings) = (self.peers.clone(), self.bindings.clone());
        let other = new.clone();
        *self
            == Network {
                dhcp,
                anti_spoof,
                mss_clamp,
                broadcast_rate,
                broadcast_burst,
                peers,
                bindings,
                ..other
            }
    }
}

/// The default name of a network's TAP.
pub(super) fn endpoint_name(vni: Vni) -> String {
    format!("sw{vni}")
}

/// The default MAC of a network's endpoints.
pub(super) fn endpoint_mac(vni: Vni) -> Mac {
    let [a, b, c] = vni.to_bytes();
    Mac([0x02, 0x73, 0x77, a, b, c])
}

fn within(key: &str, value: u64, range: RangeInclusive<u64>) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("{key}: {value} is out of range: use {} to {}", range.start(), range.end()))
}

pub(super) const MTU: u16 = 1500;
pub(super) const BROADCAST_RATE: u32 = 1000;
pub(super) const BROADCAST_BURST: u32 = 2000;
pub(super) const MAX_MACS: usize = 1 << 17;
pub(super) const MAX_IPS: usize = 1 << 18;
pub(super) const MAC_AGE: Duration = Duration::from_secs(300);
pub(super) const IP_AGE: Duration = Duration::from_secs(1200);
pub(super) const MTUS: RangeInclusive<u64> = 1280..=9216;
pub(super) const RATES: RangeInclusive<u64> = 1..=1_000_000;
pub(super) const TABLE_LIMITS: RangeInclusive<u64> = 16..=1 << 20;
pub(super) const AGES: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(86_400);
