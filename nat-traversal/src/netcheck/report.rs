//! What a check of the network found, for people and for machines.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the network does with this node's UDP.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NatReport {
    /// Servers were asked, and none answered.
    pub udp_blocked: bool,
    /// IPv4; absent where no IPv4 server answered.
    pub ipv4: Option<FamilyReport>,
    /// IPv6; absent where no IPv6 server answered.
    pub ipv6: Option<FamilyReport>,
    /// The servers, in the order of the configuration.
    pub servers: Vec<ServerReport>,
}

/// What the network does with one address family.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FamilyReport {
    /// The addresses that servers see this node at. More than one: it depends on the destination.
    pub mapped: Vec<SocketAddr>,
    /// Whether the NAT gives one address for all destinations.
    pub mapping: Mapping,
    /// From whom a mapped address accepts datagrams.
    pub filtering: Filtering,
    /// Whether datagrams to the own mapped address come back, as two nodes behind one NAT may need it. Absent
    /// where there is no NAT.
    pub hairpin: Option<bool>,
    /// Whether the NAT left the port as it is.
    pub port_kept: bool,
}

/// What one server answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServerReport {
    /// The server.
    pub server: SocketAddr,
    /// The address that it sees this node at; absent if it did not answer.
    pub mapped: Option<SocketAddr>,
    /// The round trip, in seconds. Absent if it did not answer, or only when asked again.
    #[serde(rename = "rtt_seconds", with = "seconds")]
    pub rtt: Option<Duration>,
    /// Its other address, with which it can tell the filtering (RFC 5780).
    pub other: Option<SocketAddr>,
}

/// The mapping behaviour of a NAT (RFC 4787, 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// Too few addresses answered to tell.
    Unknown,
    /// Servers see the node's own address.
    NoNat,
    /// One mapped address for all destinations: peers can use what a server saw.
    EndpointIndependent,
    /// One for each destination address.
    AddressDependent,
    /// One for each destination address and port; also said where destinations differ and no server has two
    /// ports, since the other kind is hardly found.
    AddressAndPortDependent,
}

/// The filtering behaviour of a NAT or firewall (RFC 4787, 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// No server could tell: none has another port that this node had not sent to.
    Unknown,
    /// Datagrams of anybody come in.
    EndpointIndependent,
    /// Only those from addresses that were sent to; also said where the server has only another port, and so
    /// cannot tell this from the kinder one.
    AddressDependent,
    /// Only those from addresses and ports that were sent to.
    AddressAndPortDependent,
}

impl NatReport {
    /// The report in sentences, one a line.
    pub fn summary(&self) -> String {
        let mut lines = Vec::new();
        if self.servers.is_empty() {
            lines.push("No STUN or TURN server is known: nothing can be found out.".to_owned());
        } else if self.udp_blocked {
            lines.push(
                "No server answers over UDP: UDP is blocked, or every server is down. Links need a relay over TCP."
                    .to_owned(),
            );
        }
        for (name, family) in [("IPv4", &self.ipv4), ("IPv6", &self.ipv6)] {
            match family {
                Some(family) => lines.extend(family.sentences(name)),
                None if !self.udp_blocked && self.asked(name == "IPv4") => {
                    lines.push(format!("{name}: no server answers."));
                }
                None => {}
            }
        }
        let silent: Vec<_> = self.servers.iter().filter(|server| server.mapped.is_none()).collect();
        if !self.udp_blocked && !silent.is_empty() {
            let names: Vec<_> = silent.iter().map(|server| server.server.to_string()).collect();
            lines.push(format!("Without an answer: {}.", names.join(", ")));
        }
        lines.join("\n")
    }

    /// Takes the filtering of a check of shortly before where this one could not tell: that one sent to the servers'
    /// other addresses, and so opened the way for them. Only if the NAT is the same.
    pub fn inherit_filtering(&mut self, earlier: &NatReport) {
        for (now, before) in [(&mut self.ipv4, &earlier.ipv4), (&mut self.ipv6, &earlier.ipv6)] {
            if let (Some(now), Some(before)) = (now, before)
                && now.filtering == Filtering::Unknown
                && now.outside() == before.outside()
            {
                now.filtering = before.filtering;
            }
        }
    }

    fn asked(&self, ipv4: bool) -> bool {
        self.servers.iter().any(|server| server.server.is_ipv4() == ipv4)
    }
}

impl FamilyReport {
    /// Whether the mapped address depends on the destination, so that peers cannot use what a server saw.
    pub fn is_symmetric(&self) -> bool {
        matches!(self.mapping, Mapping::AddressDependent | Mapping::AddressAndPortDependent)
    }

    /// The addresses of the NAT.
    fn outside(&self) -> BTreeSet<IpAddr> {
        self.mapped.iter().map(SocketAddr::ip).collect()
    }

    fn sentences(&self, name: &str) -> Vec<String> {
        let at: Vec<_> = self.mapped.iter().map(SocketAddr::to_string).collect();
        let at = at.join(", ");
        let kept = if self.port_kept { "the port is kept" } else { "the port is changed" };
        let mapping = match self.mapping {
            Mapping::NoNat => format!("no NAT; servers see {at}."),
            Mapping::Unknown => format!(
                "behind a NAT ({kept}); a server sees {at}. Whether other destinations see the same is unknown: \
                 that needs two servers."
            ),
            Mapping::EndpointIndependent => format!(
                "behind a NAT that gives one address for all destinations ({kept}): {at}. Direct links can be made."
            ),
            Mapping::AddressDependent => format!(
                "behind a symmetric NAT, one address for each destination address: {at}. Direct links need a peer \
                 with a milder NAT."
            ),
            Mapping::AddressAndPortDependent => format!(
                "behind a symmetric NAT, one address for each destination address and port: {at}. Direct links \
                 need a peer with a milder NAT."
            ),
        };
        let filtering = match self.filtering {
            Filtering::Unknown => "whose datagrams are let in is unknown: no server could tell.",
            Filtering::EndpointIndependent => "datagrams from anybody are let in.",
            Filtering::AddressDependent => {
                "datagrams are let in from addresses that were sent to, from any port."
            }
            Filtering::AddressAndPortDependent => {
                "datagrams are let in only from addresses and ports that were sent to."
            }
        };
        let mut lines = vec![format!("{name}: {mapping}"), format!("{name}: {filtering}")];
        match self.hairpin {
            Some(true) => lines.push(format!(
                "{name}: datagrams to the own mapped address come back (hairpin): two nodes behind this NAT can \
                 meet at it."
            )),
            Some(false) => lines.push(format!(
                "{name}: datagrams to the own mapped address do not come back (no hairpin): two nodes behind this \
                 NAT need each other's own addresses."
            )),
            None => {}
        }
        lines
    }
}

impl Mapping {
    /// The name for tables; the same as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Mapping::Unknown => "unknown",
            Mapping::NoNat => "no-nat",
            Mapping::EndpointIndependent => "endpoint-independent",
            Mapping::AddressDependent => "address-dependent",
            Mapping::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

impl Filtering {
    /// The name for tables; the same as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Filtering::Unknown => "unknown",
            Filtering::EndpointIndependent => "endpoint-independent",
            Filtering::AddressDependent => "address-dependent",
            Filtering::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

mod seconds {
    use super::{Deserialize, Duration};
    use serde::{Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|value| value.as_secs_f64()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(deserializer)?;
        seconds
            .map(|seconds| Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom))
            .transpose()
    }
}
