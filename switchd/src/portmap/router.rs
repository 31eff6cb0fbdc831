//! One router: what it makes, renews and takes back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{PortMappingProtocol, SearchOptions};

/// Where to ask, and for whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Way {
    pub(super) router: Ipv4Addr,
    pub(super) own: Ipv4Addr,
}

/// A mapping that the router has made.
pub(super) enum Mapping {
    /// By PCP or NAT-PMP.
    Pmp { mapping: Box<PortMapping>, external: SocketAddr },
    /// By UPnP.
    Igd { gateway: Box<Gateway<Tokio>>, external: SocketAddr, port: NonZeroU16 },
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum MapError {
    #[error("by PCP: {pcp}; by NAT-PMP: {natpmp}; by UPnP: {igd}")]
    None {
        pcp: crab_nat::MappingFailure,
        natpmp: natpmp::Failure,
        #[source]
        igd: IgdError,
    },
    #[error("the router did not remove it")]
    RemovePmp(#[source] crab_nat::MappingFailure),
    #[error("the router did not remove it")]
    RemoveIgd(#[source] igd_next::RemovePortError),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum IgdError {
    #[error("{0}")]
    Search(#[from] igd_next::SearchError),
    #[error("another device than the router answers")]
    AnotherDevice,
    #[error("{0}")]
    Address(#[from] igd_next::GetExternalIpError),
    #[error("{0}")]
    Add(#[from] igd_next::AddAnyPortError),
    #[error("it maps an address or a port that nobody can have")]
    Senseless,
}

impl Mapping {
    /// Asks by one protocol after the other. The router is asked for the same port outside, and may give another.
    pub(super) async fn ask(way: Way, port: NonZeroU16) -> Result<Mapping, MapError> {
        let options = PortMappingOptions {
            external_port: Some(port),
            lifetime_seconds: Some(LIFETIME_SECONDS),
            timeout_config: Some(PATIENCE),
        };
        let (router, own) = (way.router.into(), IpAddr::V4(way.own));
        let pcp = match PortMapping::new(router, own, InternetProtocol::Udp, port, options).await {
            Ok(mapping) => match Mapping::of_pmp(way, mapping).await {
                Ok(mapping) => return Ok(mapping),
                Err(failure) => failure.into(),
            },
            Err(failure) => failure,
        };
        // An old router may say nothing to what it does not know.
        let natpmp = match natpmp::port_mapping(router, InternetProtocol::Udp, port, options).await {
            Ok(mapping) => match Mapping::of_pmp(way, mapping).await {
                Ok(mapping) => return Ok(mapping),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        Mapping::ask_igd(way, port).await.map_err(|igd| MapError::None { pcp, natpmp, igd })
    }

    async fn of_pmp(way: Way, mapping: PortMapping) -> Result<Mapping, natpmp::Failure> {
        let ip = match mapping.mapping_type() {
            PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
            PortMappingType::NatPmp => {
                natpmp::external_address(way.router.into(), Some(PATIENCE)).await?.into()
            }
        };
        let external = SocketAddr::new(ip, mapping.external_port().get());
        Ok(Mapping::Pmp { mapping: Box::new(mapping), external })
    }

    async fn ask_igd(way: Way, port: NonZeroU16) -> Result<Mapping, IgdError> {
        let mut options = SearchOptions::default();
        // The search leaves by the device that has this address.
        options.bind_addr = (way.own, 0).into();
        options.timeout = Some(SEARCH_LIMIT);
        options.single_search_timeout = Some(SEARCH_LIMIT);
        let gateway = search_gateway(options).await?;
        // Anybody in the network may answer.
        if gateway.addr.ip() != IpAddr::V4(way.router) {
            return Err(IgdError::AnotherDevice);
        }
        let external = map_igd(&gateway, way, port).await?;
        Ok(Mapping::Igd { gateway: Box::new(gateway), external, port })
    }

    /// True if the router keeps it, whatever address it has by now.
    pub(super) async fn renew(&mut self, way: Way, port: NonZeroU16) -> bool {
        match self {
            Mapping::Pmp { mapping, external } => {
                if mapping.renew().await.is_err() {
                    return false;
                }
                match Mapping::of_pmp(way, (**mapping).clone()).await {
                    Ok(Mapping::Pmp { external: new, .. }) => *external = new,
                    _ => return false,
                }
                true
            }
            Mapping::Igd { gateway, external, .. } => match map_igd(gateway, way, port).await {
                Ok(new) => {
                    *external = new;
                    true
                }
                Err(_) => false,
            },
        }
    }

    pub(super) async fn release(self, way: Way) -> Result<(), MapError> {
        match self {
            Mapping::Pmp { mapping, .. } => {
                mapping.try_drop().await.map_err(|(failure, _)| MapError::RemovePmp(failure))
            }
            Mapping::Igd { gateway, external, port } => {
                tracing::debug!(router = %way.router, %port, "asking the router to remove the mapping");
                let removed = gateway.remove_port(PortMappingProtocol::UDP, external.port()).await;
                removed.map_err(MapError::RemoveIgd)
            }
        }
    }

    pub(super) fn external(&self) -> SocketAddr {
        match self {
            Mapping::Pmp { external, .. } | Mapping::Igd { external, .. } => *external,
        }
    }

    pub(super) fn lifetime(&self) -> Duration {
        match self {
            Mapping::Pmp { mapping, .. } => Duration::from_secs(mapping.lifetime().into()),
            Mapping::Igd { .. } => Duration::from_secs(LIFETIME_SECONDS.into()),
        }
    }

    pub(super) fn protocol(&self) -> &'static str {
        match self {
            Mapping::Pmp { mapping, .. } => match mapping.mapping_type() {
                PortMappingType::Pcp { .. } => "PCP",
                PortMappingType::NatPmp => "NAT-PMP",
            },
            Mapping::Igd { .. } => "UPnP",
        }
    }
}

/// Adds the mapping or, if it is there, begins its lifetime anew. The same port outside if it is free.
async fn map_igd(gateway: &Gateway<Tokio>, way: Way, port: NonZeroU16) -> Result<SocketAddr, IgdError> {
    let (udp, own) = (PortMappingProtocol::UDP, SocketAddr::new(way.own.into(), port.get()));
    let ip = gateway.get_external_ip().await?;
    let outside = match gateway.add_port(udp, port.get(), own, LIFETIME_SECONDS, DESCRIPTION).await {
        Ok(()) => port.get(),
        Err(_) => gateway.add_any_port(udp, own, LIFETIME_SECONDS, DESCRIPTION).await?,
    };
    if ip.is_unspecified() || outside == 0 {
        return Err(IgdError::Senseless);
    }
    Ok(SocketAddr::new(ip, outside))
}

/// What is asked for; a router may give less.
const LIFETIME_SECONDS: u32 = 3600;
const DESCRIPTION: &str = "switchd";
/// Some two seconds for each protocol: routers answer within milliseconds, or never.
const PATIENCE: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };
const SEARCH_LIMIT: Duration = Duration::from_secs(3);
