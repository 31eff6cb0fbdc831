//! What was seen of one address family, and what it means.

use std::net::{IpAddr, SocketAddr};

use super::report::{FamilyReport, Filtering, Mapping};

/// What was seen of one address family.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Observed {
    /// Destinations, and the address that each saw.
    mapped: Vec<(SocketAddr, SocketAddr)>,
    pub(super) hairpin: Option<bool>,
    /// The answer that came from another address than was asked, and from another port.
    pub(super) from_other_address: Heard,
    pub(super) from_other_port: Heard,
    /// Whether the other port answers at all: if not, its silence says nothing.
    pub(super) other_port_answers: bool,
}

/// What became of a request to answer from elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Heard {
    /// Not asked, or the server does not do it.
    #[default]
    NotTried,
    Answered,
    Silent,
}

impl Observed {
    /// A destination saw this address.
    pub(super) fn saw(&mut self, destination: SocketAddr, mapped: SocketAddr) {
        if !self.mapped.iter().any(|(seen_by, _)| *seen_by == destination) {
            self.mapped.push((destination, mapped));
        }
    }

    /// The address that was seen first.
    pub(super) fn first_mapped(&self) -> Option<SocketAddr> {
        self.mapped.first().map(|(_, mapped)| *mapped)
    }

    /// Whether servers see this host's own address.
    pub(super) fn no_nat(&self, own: &[IpAddr]) -> bool {
        !self.mapped.is_empty() && self.mapped.iter().all(|(_, mapped)| own.contains(&mapped.ip()))
    }

    /// What it means; `None` if nobody saw anything.
    pub(super) fn report(&self, own: &[IpAddr], local_port: u16) -> Option<FamilyReport> {
        self.first_mapped()?;
        let mut distinct: Vec<_> = self.mapped.iter().map(|(_, mapped)| *mapped).collect();
        distinct.sort_unstable();
        distinct.dedup();
        Some(FamilyReport {
            port_kept: distinct.iter().all(|mapped| mapped.port() == local_port),
            mapped: distinct,
            mapping: self.mapping(own),
            filtering: self.filtering(),
            hairpin: if self.no_nat(own) { None } else { self.hairpin },
        })
    }

    fn mapping(&self, own: &[IpAddr]) -> Mapping {
        let pairs = || {
            let rest = |i| self.mapped[i + 1..].iter();
            self.mapped.iter().enumerate().flat_map(move |(i, a)| rest(i).map(move |b| (a, b)))
        };
        let one_address = || pairs().filter(|(a, b)| a.0.ip() == b.0.ip());
        let differ = |(a, b): (&(SocketAddr, SocketAddr), &(SocketAddr, SocketAddr))| a.1 != b.1;
        if self.no_nat(own) {
            Mapping::NoNat
        } else if !pairs().any(differ) {
            let addresses_differ = pairs().any(|(a, b)| a.0.ip() != b.0.ip());
            if addresses_differ { Mapping::EndpointIndependent } else { Mapping::Unknown }
        } else if one_address().next().is_some() && !one_address().any(differ) {
            Mapping::AddressDependent
        } else {
            Mapping::AddressAndPortDependent
        }
    }

    fn filtering(&self) -> Filtering {
        match (self.from_other_address, self.from_other_port) {
            (Heard::Answered, _) => Filtering::EndpointIndependent,
            (_, Heard::Answered) => Filtering::AddressDependent,
            (_, Heard::Silent) if self.other_port_answers => Filtering::AddressAndPortDependent,
            _ => Filtering::Unknown,
        }
    }
}
