//! A mapping of the UDP port on the router, where the router makes one: by PCP (RFC 6887), NAT-PMP (RFC 6886) or
//! UPnP-IGD, over IPv4. Which of them, and when again, is decided here; the messages are the libraries'
//! (docs/decisions/0016-port-mapping-libraries.md).

mod router;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::netlink::{LinkEvent, Netlink, NetlinkError, Watch};
use router::{Mapping, Way};

/// The task that keeps the mapping. Dropped, the mapping stays until it expires; [`stop`](PortMapper::stop) gives it
/// back.
pub struct PortMapper {
    mapped: watch::Receiver<Option<SocketAddr>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl PortMapper {
    /// Begins to ask for a mapping of this UDP port, on the current tokio runtime.
    pub fn start(netlink: Netlink, port: NonZeroU16) -> PortMapper {
        let (told, mapped) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let keeper = Keeper { netlink, port, told, mapping: None, delay: RETRY_MIN };
        let task = tokio::spawn(keeper.run(stopped));
        PortMapper { mapped, stop, task }
    }

    /// Where the router passes datagrams on to the port, while it does. It may be an address that only this network
    /// reaches, where the router is behind another NAT.
    pub fn mapped(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.mapped.clone()
    }

    /// Gives the mapping back, unless the router does not answer within two seconds.
    pub async fn stop(self) {
        // A task that ended already has dropped its end.
        let _ = self.stop.send(());
        if let Err(error) = self.task.await {
            tracing::error!("the port mapper ended badly: {error}");
        }
    }
}

struct Keeper {
    netlink: Netlink,
    port: NonZeroU16,
    told: watch::Sender<Option<SocketAddr>>,
    mapping: Option<(Way, Mapping)>,
    /// Until the next attempt, while there is no mapping.
    delay: Duration,
}

impl Keeper {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut watch = self.netlink.watch();
        loop {
            let next = tokio::select! {
                _ = &mut stopped => break,
                next = self.attempt() => next,
            };
            tokio::select! {
                _ = &mut stopped => break,
                () = sleep_until(next) => {}
                () = self.network_changed(&mut watch) => self.delay = RETRY_MIN,
            }
        }
        self.release().await;
    }

    /// Renews the mapping, or asks for one. Returns when to do so again.
    async fn attempt(&mut self) -> Instant {
        let way = match self.way().await {
            Ok(way) => way,
            Err(error) => {
                tracing::debug!("no router to map the port: {error}");
                None
            }
        };
        // It stays where `release` finds it while the router is asked.
        if let Some((by, mapping)) = &mut self.mapping {
            // One that a router of another network made is not this one's to renew or to give back.
            let renewed = way == Some(*by) && mapping.renew(*by, self.port).await;
            if let Some((by, mapping)) = self.mapping.take() {
                if renewed {
                    return self.mapped(by, mapping);
                }
                tracing::info!(external = %mapping.external(), "the router does not map the port any more");
            }
            self.tell(None);
        }
        let Some(way) = way else { return self.later() };
        match Mapping::ask(way, self.port).await {
            Ok(mapping) => {
                tracing::info!(external = %mapping.external(), by = mapping.protocol(), "the router maps the port");
                self.mapped(way, mapping)
            }
            Err(error) => {
                tracing::debug!(router = %way.router, "the router maps no port: {error}");
                self.later()
            }
        }
    }

    fn mapped(&mut self, way: Way, mapping: Mapping) -> Instant {
        self.delay = RETRY_MIN;
        self.tell(Some(mapping.external()));
        let again = (mapping.lifetime() / 2).clamp(RENEW_MIN, RENEW_MAX);
        self.mapping = Some((way, mapping));
        Instant::now() + again
    }

    fn later(&mut self) -> Instant {
        let at = Instant::now() + self.delay;
        self.delay = (self.delay * 2).min(RETRY_MAX);
        at
    }

    fn tell(&self, external: Option<SocketAddr>) {
        self.told.send_if_modified(|told| {
            let changed = *told != external;
            *told = external;
            changed
        });
    }

    /// The router, if there is a NAT to be mapped through.
    async fn way(&self) -> Result<Option<Way>, NetlinkError> {
        let Some(router) = self.netlink.default_gateway().await? else { return Ok(None) };
        let own = own_address(router);
        Ok(own.filter(|own| !nat_traversal::is_global((*own).into())).map(|own| Way { router, own }))
    }

    /// The host has other addresses, or lost sight of them, and they have settled.
    async fn network_changed(&self, watch: &mut Watch) {
        loop {
            match watch.next().await {
                Some(LinkEvent::AddressChanged { .. } | LinkEvent::Resync) => break,
                Some(LinkEvent::LinkNew { .. } | LinkEvent::LinkGone { .. }) => {}
                // Cannot be while we hold a Netlink.
                None => std::future::pending().await,
            }
        }
        sleep(SETTLE).await;
    }

    async fn release(&mut self) {
        self.tell(None);
        if let Some((way, mapping)) = self.mapping.take() {
            let external = mapping.external();
            match timeout(RELEASE_LIMIT, mapping.release(way)).await {
                Ok(Ok(())) => tracing::info!(%external, "the mapping is given back"),
                Ok(Err(error)) => tracing::info!(%external, "the mapping was not given back: {error}"),
                Err(_) => tracing::info!(%external, "the mapping was not given back: no answer"),
            }
        }
    }
}

/// The address that the kernel takes towards the router. Nothing is sent.
fn own_address(router: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((router, crab_nat::GATEWAY_PORT)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(own) => Some(*own.ip()),
        SocketAddr::V6(_) => None,
    }
}

/// Between attempts without a mapping: from the first to the last, doubling.
const RETRY_MIN: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// Half of a mapping's lifetime within these: a router that was started anew knows no mappings.
const RENEW_MIN: Duration = Duration::from_secs(15);
const RENEW_MAX: Duration = Duration::from_secs(600);
/// A host that comes into a network has its addresses and routes one after the other.
const SETTLE: Duration = Duration::from_secs(1);
const RELEASE_LIMIT: Duration = Duration::from_secs(2);
