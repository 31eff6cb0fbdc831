//! The doing: observe, plan, perform, wait for an event, again.

use std::net::IpAddr;
use std::time::Duration;

use switch_core::ids::Mac;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::plan::{BridgeSeen, Observed, Pace, Step, TapSeen, Wanted, plan};
use super::{DownReason, EndpointConfig, EndpointError, EndpointEvent, EndpointState, EndpointStatus};
use crate::netlink::{LinkEvent, LinkKind, Netlink, NetlinkError, Watch};
use crate::tap::{Offloads, Tap};

/// See [`Keeper::run`].
pub(super) struct Keeper {
    pub(super) config: EndpointConfig,
    pub(super) netlink: Netlink,
    events: mpsc::Sender<EndpointEvent>,
    state: watch::Sender<EndpointState>,
    tap: Option<OwnTap>,
    own_mac: Option<Mac>,
    bridge: Option<KnownBridge>,
    /// Since when a bridge that we knew is missing.
    bridge_missing: Option<Instant>,
    pace: Pace,
    /// Addresses of the host that this bridge does not take.
    pub(super) refused: Vec<IpAddr>,
}

/// The TAP that is open, here or in the data plane.
struct OwnTap {
    index: u32,
    offloads: Offloads,
    /// Until it is usable and handed over.
    held: Option<Tap>,
}

/// The bridge when it was first seen.
struct KnownBridge {
    index: u32,
    found_mac: Option<Mac>,
    ours: bool,
}

/// Nothing is left to do, or nothing can be done for now.
struct Settled {
    mended: bool,
    status: EndpointStatus,
}

impl Keeper {
    pub(super) fn new(
        config: EndpointConfig,
        netlink: Netlink,
        events: mpsc::Sender<EndpointEvent>,
        state: watch::Sender<EndpointState>,
    ) -> Keeper {
        Keeper {
            config,
            netlink,
            events,
            state,
            tap: None,
            own_mac: None,
            bridge: None,
            bridge_missing: None,
            pace: Pace::default(),
            refused: Vec::new(),
        }
    }

    /// Keeps the endpoint until `stopped`, or until nobody takes its events any more; then cleans up.
    pub(super) async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut watch = self.netlink.watch();
        while !self.events.is_closed() && stopped.is_empty() {
            let result = self.converge().await;
            let now = Instant::now();
            let (not_before, wake) = match &result {
                Ok(settled) if settled.mended => (now + self.pace.delay_after(now), now + RECHECK),
                Ok(_) => (now, now + RECHECK),
                Err(_) => {
                    let again = now + self.pace.delay_after(now);
                    (again, again)
                }
            };
            self.publish(result);
            let wake = self.create_at().map_or(wake, |at| wake.min(at));
            let next = async {
                tokio::select! {
                    () = self.relevant_event(&mut watch) => {}
                    () = sleep_until(wake) => {}
                }
                sleep_until(not_before).await;
            };
            tokio::select! {
                _ = &mut stopped => break,
                () = self.events.closed() => break,
                () = next => {}
            }
        }
        self.clean_up().await;
    }

    async fn converge(&mut self) -> Result<Settled, EndpointError> {
        let mut mended = false;
        for _ in 0..MAX_ROUNDS {
            let observed = self.observe().await?;
            let steps = plan(&observed, &self.wanted());
            if steps.is_empty() {
                return Ok(Settled { mended, status: self.settle(&observed).await });
            }
            mended = true;
            for step in steps {
                debug!(endpoint = self.config.name, ?step, "mending");
                match self.perform(step).await {
                    // Deleted since it was observed.
                    Err(EndpointError::Netlink(e)) if e.is_gone() => break,
                    result => result?,
                }
            }
        }
        Err(EndpointError::Unsettled)
    }

    async fn observe(&mut self) -> Result<Observed, EndpointError> {
        let link = self.netlink.link_by_name(&self.config.bridge).await?;
        if link.as_ref().is_some_and(|link| link.kind != LinkKind::Bridge) {
            return Err(NetlinkError::NotABridge { name: self.config.bridge.clone() }.into());
        }
        match &link {
            Some(link) => {
                self.bridge_missing = None;
                if self.bridge.as_ref().is_none_or(|known| known.index != link.index) {
                    self.bridge = Some(KnownBridge {
                        index: link.index,
                        found_mac: link.mac,
                        ours: link.created_by_us && self.config.create_bridge,
                    });
                    self.refused.clear();
                }
            }
            None if self.bridge.take().is_some() => self.bridge_missing = Some(Instant::now()),
            None => {}
        }
        let tap = self.observe_tap().await?;
        let enslaved =
            link.as_ref().is_some_and(|link| tap.as_ref().is_some_and(|t| t.master == Some(link.index)));
        let mut bridge = None;
        if let (Some(link), Some(known)) = (link, &self.bridge) {
            // While the TAP is enslaved, nobody asks: the list may be long.
            let has_other_ports = !enslaved && self.has_other_ports(link.index).await?;
            // The MAC of a bridge that lost its last port is zero.
            let mac = link.mac.filter(|mac| mac.is_unicast()).or(known.found_mac);
            if self.config.host.is_some() && !known.ours {
                return Err(EndpointError::ForeignBridge { name: self.config.bridge.clone() });
            }
            let addresses = self.host_addresses(link.index).await?;
            let (index, up, ours) = (link.index, link.up, known.ours);
            bridge = Some(BridgeSeen { index, up, mac, ours, has_other_ports, addresses });
        }
        Ok(Observed { bridge, tap })
    }

    async fn observe_tap(&mut self) -> Result<Option<TapSeen>, EndpointError> {
        let Some(index) = self.tap.as_ref().map(|tap| tap.index) else {
            return Ok(None);
        };
        let Some(link) = self.netlink.link_by_index(index).await? else {
            self.drop_tap(DownReason::Deleted).await;
            return Ok(None);
        };
        let has_fdb = match link.master {
            Some(_) => self.netlink.has_fdb(index, self.config.endpoint_mac).await.or_else(|e| {
                // Released, or deleted, since.
                if matches!(e, NetlinkError::Refused { .. }) { Ok(false) } else { Err(e) }
            })?,
            None => false,
        };
        Ok(Some(TapSeen {
            master: link.master,
            mtu: link.mtu,
            mac: link.mac,
            up: link.up,
            has_fdb,
            multicast_router: link.multicast_router,
        }))
    }

    async fn has_other_ports(&self, bridge: u32) -> Result<bool, EndpointError> {
        let own = self.tap.as_ref().map(|tap| tap.index);
        let links = self.netlink.links().await?;
        Ok(links.iter().any(|link| link.master == Some(bridge) && Some(link.index) != own))
    }

    fn wanted(&self) -> Wanted {
        let create = self.config.create_bridge && self.create_at().is_none_or(|at| Instant::now() >= at);
        Wanted {
            create_bridge: create,
            endpoint_mac: self.config.endpoint_mac,
            own_mac: self.own_mac,
            mtu: self.config.mtu,
            host: self.wanted_host(),
        }
    }

    /// When a bridge that was deleted under us is to be created again: whoever deleted it may do that themselves.
    fn create_at(&self) -> Option<Instant> {
        self.bridge_missing.filter(|_| self.config.create_bridge).map(|since| since + CREATE_GRACE)
    }

    async fn perform(&mut self, step: Step) -> Result<(), EndpointError> {
        match step {
            Step::CreateBridge => {
                self.netlink.ensure_bridge(&self.config.bridge, true, self.config.mtu).await?;
                self.keep_to_itself();
                info!(bridge = self.config.bridge, "created the bridge");
            }
            Step::BringBridgeUp { bridge } => self.netlink.set_up(bridge, true).await?,
            Step::SetBridgeMac { bridge, mac } => self.netlink.set_mac(bridge, mac).await?,
            Step::RemoveAddress { bridge, ip, prefix } => {
                self.netlink.remove_address(bridge, ip, prefix).await?;
            }
            Step::AddAddress { bridge, ip, prefix } => self.add_host_address(bridge, ip, prefix).await?,
            Step::OpenTap => {
                let tap = Tap::open(&self.config.name, self.config.offloads)?;
                self.silence(&tap).await;
                self.own_mac = None;
                self.tap = Some(OwnTap { index: tap.index(), offloads: tap.offloads(), held: Some(tap) });
            }
            // The other steps are the TAP's, and planned only while there is one.
            Step::SetMtu(_)
            | Step::SetMac(_)
            | Step::Attach { .. }
            | Step::SetMulticastRouter
            | Step::AddFdb
            | Step::BringTapUp => {
                if let Some(index) = self.tap.as_ref().map(|tap| tap.index) {
                    self.perform_on_tap(step, index).await?;
                }
            }
        }
        Ok(())
    }

    async fn perform_on_tap(&mut self, step: Step, index: u32) -> Result<(), NetlinkError> {
        match step {
            Step::SetMtu(mtu) => self.netlink.set_mtu(index, mtu).await,
            Step::SetMac(mac) => self.netlink.set_mac(index, mac).await,
            Step::Attach { bridge, own_mac } => {
                self.own_mac = Some(own_mac);
                self.netlink.attach(index, bridge).await
            }
            Step::SetMulticastRouter => match self.netlink.set_multicast_router(index).await {
                // A kernel without snooping floods anyway.
                Err(e) if !e.is_gone() => {
                    debug!("{e}");
                    Ok(())
                }
                result => result,
            },
            Step::AddFdb => self.netlink.add_fdb(index, self.config.endpoint_mac).await,
            Step::BringTapUp => self.netlink.set_up(index, true).await,
            Step::CreateBridge
            | Step::BringBridgeUp { .. }
            | Step::SetBridgeMac { .. }
            | Step::RemoveAddress { .. }
            | Step::AddAddress { .. }
            | Step::OpenTap => Ok(()),
        }
    }

    /// Keeps the host from sending frames of its own through the TAP: no IPv6 there. Neither way is needed where
    /// the kernel has no IPv6, and either alone helps.
    async fn silence(&self, tap: &Tap) {
        if let Err(e) = self.netlink.no_ipv6_autoconf(tap.index()).await {
            debug!("{e}");
        }
        let path = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", tap.name());
        if let Err(e) = std::fs::write(&path, "1") {
            debug!("cannot write {path}: {e}");
        }
    }

    async fn settle(&mut self, observed: &Observed) -> EndpointStatus {
        let status = match &observed.bridge {
            None => return EndpointStatus::WaitingForBridge,
            Some(bridge) if !bridge.up => EndpointStatus::BridgeDown,
            Some(_) => EndpointStatus::Up,
        };
        if let Some(tap) = self.tap.as_mut().and_then(|tap| tap.held.take()) {
            info!(endpoint = self.config.name, offloads = %tap.offloads(), "the TAP is up");
            // Nobody there: the loop sees that too and ends.
            let _ = self.events.send(EndpointEvent::Up(tap)).await;
        }
        status
    }

    async fn drop_tap(&mut self, reason: DownReason) {
        if self.tap.take().is_some_and(|tap| tap.held.is_none()) {
            info!(endpoint = self.config.name, %reason, "the TAP is down");
            // Nobody there: the loop sees that too and ends.
            let _ = self.events.send(EndpointEvent::Down(reason)).await;
        }
    }

    fn publish(&self, result: Result<Settled, EndpointError>) {
        let bridge = &self.config.bridge;
        let (status, detail) = match result {
            Ok(Settled { status, .. }) => match status {
                EndpointStatus::WaitingForBridge if self.config.create_bridge => {
                    (status, format!("{bridge} was deleted; it is created again unless someone else does"))
                }
                EndpointStatus::WaitingForBridge => {
                    (status, format!("there is no bridge {bridge}: create it, or set create_bridge = true"))
                }
                EndpointStatus::BridgeDown => (status, format!("{bridge} is down: ip link set {bridge} up")),
                _ => (status, String::new()),
            },
            Err(e) => (EndpointStatus::Failing, explain(&e)),
        };
        let state = EndpointState {
            status,
            detail,
            offloads: self.tap.as_ref().map_or(Offloads::NONE, |tap| tap.offloads),
            bridge_created: self.bridge.as_ref().is_some_and(|bridge| bridge.ours),
            ifindex: self.tap.as_ref().map(|tap| tap.index),
        };
        self.state.send_if_modified(|current| {
            let told = current.status == state.status && current.detail == state.detail;
            match status {
                _ if told => {}
                EndpointStatus::Up => info!(endpoint = self.config.name, bridge, "endpoint up"),
                _ => warn!(endpoint = self.config.name, bridge, %status, "{}", state.detail),
            }
            let modified = *current != state;
            *current = state;
            modified
        });
    }

    async fn relevant_event(&self, watch: &mut Watch) {
        let tap = self.tap.as_ref().map(|tap| tap.index);
        let bridge = self.bridge.as_ref().map(|bridge| bridge.index);
        loop {
            match watch.next().await {
                Some(LinkEvent::LinkNew { index, name, .. } | LinkEvent::LinkGone { index, name }) => {
                    let ours = name == self.config.bridge || name == self.config.name;
                    if ours || Some(index) == tap || Some(index) == bridge {
                        return;
                    }
                }
                Some(LinkEvent::Resync) => return,
                Some(LinkEvent::AddressChanged { index }) => {
                    if self.config.host.is_some() && Some(index) == bridge {
                        return;
                    }
                }
                // Cannot be while we hold a Netlink; the periodic check goes on.
                None => std::future::pending().await,
            }
        }
    }

    async fn clean_up(mut self) {
        if let Some(index) = self.tap.as_ref().map(|tap| tap.index) {
            // A data plane that does not listen any more must not hold this up: deleting the device tells it too.
            let told = tokio::time::timeout(TELL_LIMIT, self.drop_tap(DownReason::Shutdown)).await;
            if told.is_err() {
                warn!(endpoint = self.config.name, "the data plane does not take the end of its TAP");
            }
            if let Err(e) = self.netlink.delete_link(index).await {
                warn!(endpoint = self.config.name, "{}", explain(&e));
            }
        }
        if let Err(e) = self.leave_bridge().await {
            warn!(bridge = self.config.bridge, "{}", explain(&e));
        }
        self.state.send_modify(|state| {
            state.status = EndpointStatus::Stopped;
            state.detail = String::new();
            state.ifindex = None;
        });
    }

    async fn leave_bridge(&mut self) -> Result<(), EndpointError> {
        let Some(known) = self.bridge.take() else {
            return Ok(());
        };
        let Some(link) = self.netlink.link_by_index(known.index).await? else {
            return Ok(());
        };
        if !known.ours {
            // The kernel zeroes the MAC of a bridge that is not pinned when its last port leaves, and leaves the host
            // without one. To set it back pins it, which is the lesser change.
            if let Some(mac) = known.found_mac
                && mac.is_unicast()
                && link.mac.is_none_or(|mac| !mac.is_unicast())
            {
                self.netlink.set_mac(known.index, mac).await?;
            }
            return Ok(());
        }
        self.remove_host_addresses(known.index).await?;
        let addresses = self.netlink.addresses(known.index).await?;
        if self.has_other_ports(known.index).await? || addresses.iter().any(|address| !address.link_local) {
            info!(bridge = self.config.bridge, "left the bridge in place: it has other ports or addresses");
            return Ok(());
        }
        self.netlink.delete_link(known.index).await?;
        Ok(())
    }
}

/// The error with its sources, in one line.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text.push_str(&format!(" ({e})"));
        source = e.source();
    }
    text
}

/// Rounds of observing and mending before giving up for a while: bridge, TAP, its settings and the last look take
/// four.
const MAX_ROUNDS: usize = 5;

/// How long a bridge that was deleted is given to come back by itself.
const CREATE_GRACE: Duration = Duration::from_millis(200);

/// What no event tells, a deleted forwarding entry above all, is found after this time at most.
const RECHECK: Duration = Duration::from_secs(10);

/// How long shutdown waits for room in the channel to the data plane.
const TELL_LIMIT: Duration = Duration::from_secs(1);
