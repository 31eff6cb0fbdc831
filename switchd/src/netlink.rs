//! Links, bridge ports, forwarding entries and addresses of this network namespace, by rtnetlink. The only module
//! that names the crate for it.

mod error;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressScope};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeMulticastRouterType, In6AddrGenMode, InfoBridgePort, InfoKind,
    InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkUnspec, RouteMessageBuilder};
use switch_core::ids::Mac;
use tokio::sync::{Mutex, broadcast};
use tokio::task::JoinHandle;

pub use self::error::NetlinkError;
pub use self::watch::{LinkEvent, Watch};

/// The handle; clones share one connection and one watch, which end with the last clone.
#[derive(Clone)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    events: broadcast::Sender<LinkEvent>,
    /// The kernel refuses a second dump on a socket while one runs (EBUSY).
    dump: Arc<Mutex<()>>,
    _tasks: Arc<Tasks>,
}

impl Netlink {
    /// Opens the sockets in the network namespace of the calling thread; needs a running tokio runtime.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        let events = broadcast::Sender::new(watch::QUEUE);
        let watch = watch::start(events.clone())?;
        let tasks = Tasks { connection: tokio::spawn(connection), watch };
        Ok(Netlink { handle, events, dump: Arc::default(), _tasks: Arc::new(tasks) })
    }

    /// Events of links and addresses from now on. Subscribe before reading a state that must not go stale.
    pub fn watch(&self) -> Watch {
        Watch::new(self.events.subscribe())
    }

    /// The link `name`, if there is one.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let request = self.handle.link().get().match_name(name);
        self.one_link(&format!("look up the device {name}"), request.execute()).await
    }

    /// The link with this index, if there is one.
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let request = self.handle.link().get().match_index(index);
        self.one_link(&format!("look up device {index}"), request.execute()).await
    }

    /// Every link.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let _dump = self.dump.lock().await;
        let messages: Vec<LinkMessage> =
            step("list the devices", self.handle.link().get().execute().try_collect()).await?;
        Ok(messages.iter().map(Link::from_message).collect())
    }

    /// The addresses of one link.
    pub async fn addresses(&self, index: u32) -> Result<Vec<Address>, NetlinkError> {
        // A request is sent as soon as it is made.
        let _dump = self.dump.lock().await;
        let request = self.handle.address().get().set_link_index_filter(index).execute();
        let messages: Vec<_> = step("list the addresses", request.try_collect()).await?;
        Ok(messages
            .iter()
            .filter_map(|message| {
                // IFA_LOCAL differs from IFA_ADDRESS on point-to-point links only; IPv6 has the latter alone.
                let find = |local: bool| {
                    message.attributes.iter().find_map(|attribute| match attribute {
                        AddressAttribute::Local(ip) if local => Some(*ip),
                        AddressAttribute::Address(ip) if !local => Some(*ip),
                        _ => None,
                    })
                };
                Some(Address {
                    ip: find(true).or_else(|| find(false))?,
                    prefix: message.header.prefix_len,
                    link_local: message.header.scope == AddressScope::Link,
                })
            })
            .collect())
    }

    /// Adds an address. An IPv6 one is usable at once: who has it is decided elsewhere, and the kernel does not ask the
    /// network. That it is there already is no error.
    pub async fn add_address(&self, index: u32, ip: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(index, ip, prefix);
        if ip.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        match step(&format!("add {ip}/{prefix} to device {index}"), request.execute()).await {
            Err(e) if e.errno() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Removes an address; that it was gone already is no error.
    pub async fn remove_address(&self, index: u32, ip: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        let message = match ip {
            IpAddr::V4(ip) => {
                AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, prefix).build()
            }
            IpAddr::V6(ip) => {
                AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, prefix).build()
            }
        };
        let request = self.handle.address().del(message).execute();
        match step(&format!("remove {ip}/{prefix} from device {index}"), request).await {
            Err(e) if e.errno() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }

    /// The next hop of the IPv4 default route that counts most, if there is one.
    pub async fn default_gateway(&self) -> Result<Option<Ipv4Addr>, NetlinkError> {
        let _dump = self.dump.lock().await;
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes = self.handle.route().get(all).execute();
        let routes: Vec<RouteMessage> = step("list the routes", routes.try_collect()).await?;
        let default = |route: &&RouteMessage| {
            route.header.destination_prefix_length == 0 && route.header.table == RouteHeader::RT_TABLE_MAIN
        };
        let hop = |route: &RouteMessage| {
            let mut priority = 0;
            let mut gateway = None;
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Priority(value) => priority = *value,
                    RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(*ip),
                    _ => {}
                }
            }
            Some((priority, gateway?))
        };
        Ok(routes
            .iter()
            .filter(default)
            .filter_map(hop)
            .min_by_key(|(priority, _)| *priority)
            .map(|(_, ip)| ip))
    }

    /// Finds the bridge `name`; creates it, with this MTU and up, if there is none and `create` says so.
    /// `None`: there is none and it was not to be created.
    pub async fn ensure_bridge(
        &self,
        name: &str,
        create: bool,
        mtu: u32,
    ) -> Result<Option<Ensured>, NetlinkError> {
        if let Some(link) = self.link_by_name(name).await? {
            if link.kind != LinkKind::Bridge {
                return Err(NetlinkError::NotABridge { name: name.to_owned() });
            }
            return Ok(Some(Ensured { created: link.created_by_us, link }));
        }
        if !create {
            return Ok(None);
        }
        let message = LinkBridge::new(name).mtu(mtu).down().build();
        step(&format!("create the bridge {name}"), self.handle.link().add(message).execute()).await?;
        let vanished = || NetlinkError::Vanished { name: name.to_owned() };
        let link = self.link_by_name(name).await?.ok_or_else(vanished)?;
        // The host is no station of the network unless someone gives the bridge an address: its stack neither speaks
        // there nor answers. Said before it is up, or it has its address already. A kernel without IPv6 refuses, and is
        // as wanted.
        if let Err(error) = self.no_ipv6_autoconf(link.index).await {
            tracing::debug!(%error, "the bridge {name} may have an IPv6 address of its own");
        }
        // A MAC that someone set is pinned: the bridge no longer takes its ports' (br_stp_recalculate_bridge_id).
        // The kernel's random choice serves; only saying it again is missing. The alias is not taken on creation.
        let mac = link.mac.unwrap_or_default().0.to_vec();
        let marks = LinkUnspec::new_with_index(link.index).address(mac).alias(CREATED_ALIAS).up().build();
        self.change(&format!("pin the MAC of the bridge {name} and bring it up"), marks).await?;
        Ok(Some(Ensured { created: true, link: Link { created_by_us: true, up: true, ..link } }))
    }

    /// Makes the device `port` a port of `bridge`.
    pub async fn attach(&self, port: u32, bridge: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(port).controller(bridge).build();
        self.change(&format!("attach device {port} to bridge {bridge}"), message).await
    }

    /// Takes the device `port` out of its bridge.
    pub async fn release(&self, port: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(port).nocontroller().build();
        self.change(&format!("release device {port} from its bridge"), message).await
    }

    /// Sets the MTU, in bytes of layer 3.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.change(&format!("set the MTU of device {index} to {mtu}"), message).await
    }

    /// Sets the device's own MAC.
    pub async fn set_mac(&self, index: u32, mac: Mac) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).address(mac.0.to_vec()).build();
        self.change(&format!("set the MAC of device {index} to {mac}"), message).await
    }

    /// Brings the device up or down.
    pub async fn set_up(&self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let builder = LinkUnspec::new_with_index(index);
        let (message, word) = if up { (builder.up(), "up") } else { (builder.down(), "down") };
        self.change(&format!("bring device {index} {word}"), message.build()).await
    }

    /// Stops the kernel from giving the device IPv6 addresses of its own, and so from sending router
    /// solicitations and duplicate address detection there.
    pub async fn no_ipv6_autoconf(&self, index: u32) -> Result<(), NetlinkError> {
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]))
            .build();
        self.change(&format!("turn IPv6 autoconfiguration off on device {index}"), message).await
    }

    /// Has the bridge send every multicast frame to this port, whatever its snooping learned: who listens behind
    /// the endpoint, for neighbour solicitations first of all, is not for the bridge to know.
    pub async fn set_multicast_router(&self, port: u32) -> Result<(), NetlinkError> {
        let message = LinkBridgePort::new(port).mcast_router(BridgeMulticastRouterType::Permanent).build();
        let request = self.handle.link().set_port(message);
        step(&format!("make bridge port {port} a multicast router's"), request.execute()).await
    }

    /// Adds the forwarding entry that brings frames for `mac` to the bridge port: static, so that it does not
    /// age, and sticky (Linux 4.20), because a static entry still follows a frame that another port sends from
    /// that address (`br_fdb_update`, net/bridge/br_fdb.c).
    pub async fn add_fdb(&self, port: u32, mac: Mac) -> Result<(), NetlinkError> {
        let request = self
            .handle
            .neighbours()
            .add_bridge(port, &mac.0)
            .state(NeighbourState::Noarp)
            .flags(NeighbourFlags::Controller | NeighbourFlags::Sticky)
            .replace();
        step(&format!("add the forwarding entry of {mac} to bridge port {port}"), request.execute()).await
    }

    /// Whether the bridge has the entry of [`Netlink::add_fdb`]. Asks for this entry alone (Linux 5.0): the table may
    /// be long.
    pub async fn has_fdb(&self, port: u32, mac: Mac) -> Result<bool, NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = port;
        message.header.flags = NeighbourFlags::Controller;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message));
        request.header.flags = NLM_F_REQUEST;
        let mut handle = self.handle.clone();
        let reply = async move {
            match handle.request(request)?.next().await.map(|reply| reply.payload) {
                Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(entry))) => {
                    Ok(Some(entry))
                }
                Some(NetlinkPayload::Error(error)) => Err(rtnetlink::Error::NetlinkError(error)),
                _ => Ok(None),
            }
        };
        let entry = match step(&format!("look up the forwarding entry of {mac}"), reply).await {
            Ok(entry) => entry,
            Err(e) if e.errno() == Some(libc::ENOENT) => None,
            Err(e) => return Err(e),
        };
        Ok(entry.is_some_and(|entry| {
            entry.header.ifindex == port
                && entry.header.state == NeighbourState::Noarp
                && entry.header.flags.contains(NeighbourFlags::Sticky)
        }))
    }

    /// Deletes the link; that it was gone already is no error.
    pub async fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        let request = self.handle.link().del(index).execute();
        match step(&format!("delete device {index}"), request).await {
            Err(e) if e.is_gone() => Ok(()),
            other => other,
        }
    }

    async fn change(&self, what: &str, message: LinkMessage) -> Result<(), NetlinkError> {
        step(what, self.handle.link().change(message).execute()).await
    }

    async fn one_link(
        &self,
        what: &str,
        replies: impl Stream<Item = Result<LinkMessage, rtnetlink::Error>>,
    ) -> Result<Option<Link>, NetlinkError> {
        let mut replies = std::pin::pin!(replies);
        match step(what, replies.try_next()).await {
            Ok(message) => Ok(message.as_ref().map(Link::from_message)),
            Err(e) if e.is_gone() => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// What [`Netlink::ensure_bridge`] found or made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ensured {
    /// We made it, now or in an earlier life of this node.
    pub created: bool,
    /// The bridge.
    pub link: Link,
}

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Its name now.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Index of the bridge (or other master) it is a port of.
    pub master: Option<u32>,
    /// Its own MAC.
    pub mac: Option<Mac>,
    /// MTU, bytes of layer 3.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// A bridge port to which all multicast goes; `None` if it is no bridge port, or the kernel does not snoop.
    pub multicast_router: Option<bool>,
    /// A bridge that [`Netlink::ensure_bridge`] created: the kernel keeps this mark as the link's alias.
    pub created_by_us: bool,
}

impl Link {
    fn from_message(message: &LinkMessage) -> Link {
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            kind: LinkKind::Other,
            master: None,
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            multicast_router: None,
            created_by_us: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Controller(master) => link.master = (*master != 0).then_some(*master),
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::IfAlias(alias) => link.created_by_us = alias == CREATED_ALIAS,
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| link.apply_info(info)),
                _ => {}
            }
        }
        link
    }

    fn apply_info(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => self.kind = LinkKind::Bridge,
            LinkInfo::Kind(InfoKind::Tun) => self.kind = LinkKind::Tap,
            LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                self.multicast_router = port.iter().find_map(|info| match info {
                    InfoBridgePort::MulticastRouter(kind) => {
                        Some(*kind == BridgeMulticastRouterType::Permanent)
                    }
                    _ => None,
                });
            }
            _ => {}
        }
    }
}

/// The kinds of link that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkKind {
    /// A Linux bridge.
    Bridge,
    /// A TAP (or TUN).
    Tap,
    /// Anything else.
    Other,
}

/// An address of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Prefix length, bits.
    pub prefix: u8,
    /// Of link scope, as the kernel gives to every link that is up with IPv6.
    pub link_local: bool,
}

struct Tasks {
    connection: JoinHandle<()>,
    watch: JoinHandle<()>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.connection.abort();
        self.watch.abort();
    }
}

/// Names the step in the error, and bounds it: an answer that the crate cannot decode never ends its request.
async fn step<T>(
    what: &str,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetlinkError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(NetlinkError::from_step(what, &e)),
        Err(_) => Err(NetlinkError::NoAnswer { step: what.to_owned() }),
    }
}

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The alias of a bridge that we created.
const CREATED_ALIAS: &str = "created by switchd";
