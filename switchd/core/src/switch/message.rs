//! ARP and ND as one vocabulary: who asks whom, who tells what. The formats stay here, the policy is in
//! `neighbour`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::binding::BindingKey;
use super::verdict::DropReason;
use crate::frame::arp::{self, Arp};
use crate::frame::dhcp::Dhcp;
use crate::frame::nd::{self, Nd, NdKind};
use crate::frame::{Eth, Tags, build, ethertype};
use crate::ids::Mac;
use crate::vnet::VnetHdr;

/// An ARP or ND message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) format: Format,
    pub(super) kind: Kind,
    /// The IP that the sender says it has. None is claimed in probes.
    pub(super) claim: Option<IpAddr>,
    /// The link-layer address that the message gives for it.
    pub(super) sender: Mac,
    /// Whether the claimer is a router, if it says.
    pub(super) router: Option<bool>,
    /// The IP asked for, or told of.
    pub(super) target: IpAddr,
    /// Who is to get the reply: the asker of a request (`None` in a probe), the addressee of a reply.
    pub(super) asker: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Format {
    Arp(Arp),
    Nd(Nd),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Broadcast or multicast request.
    Request,
    /// ARP probe (RFC 5227) or duplicate address detection (RFC 4862).
    Probe,
    /// Unicast request: the asker checks an entry that it has.
    Poll,
    /// Unicast reply.
    Reply,
    /// Gratuitous ARP, unsolicited or multicast advertisement.
    Gratuitous,
    /// Router solicitation, router advertisement, redirect: forwarded like any frame, and learned from.
    Router,
}

/// Reads ARP or ND; `Ok(None)` for every other frame, ARP operations other than request and reply included.
pub(super) fn parse(frame: &[u8], eth: &Eth, vnet: &VnetHdr) -> Result<Option<Message>, DropReason> {
    match eth.ethertype {
        ethertype::ARP => {
            let arp = Arp::parse(frame, eth.l3).map_err(|_| DropReason::BadArp)?;
            if !arp.sha.is_unicast() {
                return Err(DropReason::BadArp);
            }
            Ok(from_arp(&arp, eth))
        }
        ethertype::IPV6 => {
            let given = vnet.csum.is_some() || vnet.data_valid;
            let nd = Nd::parse(frame, eth, given).map_err(|_| DropReason::BadNd)?;
            Ok(nd.map(|nd| from_nd(&nd, eth)))
        }
        _ => Ok(None),
    }
}

impl Message {
    /// What the message is to the dhcp policy: router discovery counts as DHCP.
    pub(super) fn dhcp_role(&self) -> Option<Dhcp> {
        match self.format {
            Format::Nd(Nd { kind: NdKind::RouterAdvert { .. }, .. }) => Some(Dhcp::Server),
            Format::Nd(Nd { kind: NdKind::RouterSolicit, .. }) => Some(Dhcp::Client),
            _ => None,
        }
    }

    /// The reply to this request or probe: `shown` has the target. Tags and priorities are the request's.
    pub(super) fn answer(&self, frame: &[u8], eth: &Eth, shown: Mac, router: bool) -> Vec<u8> {
        match (self.format, self.target) {
            (Format::Arp(ask), IpAddr::V4(target)) => {
                let mut reply = build::header_like(frame, eth.l3, eth.src, shown);
                Arp { op: arp::REPLY, sha: shown, spa: target, tha: ask.sha, tpa: ask.spa }
                    .append(&mut reply);
                reply
            }
            (Format::Nd(ask), IpAddr::V6(target)) => {
                // RFC 4861, 7.2.4: to all nodes and not solicited if the asker has no address yet.
                let (to, dst, solicited) = if ask.src.is_unspecified() {
                    (nd::multicast_mac(nd::ALL_NODES), nd::ALL_NODES, 0)
                } else {
                    (eth.src, ask.src, nd::FLAG_SOLICITED)
                };
                let flags = solicited | nd::FLAG_OVERRIDE | router_flag(router);
                let mut reply = build::header_like(frame, eth.l3, to, shown);
                nd::append_advert(&mut reply, target, dst, target, flags, shown);
                reply
            }
            _ => unreachable!("a message's addresses are of its format's family"),
        }
    }

    /// Puts the endpoint in the sender's place for the bridge. A probe keeps its sender: nobody learns from an
    /// unspecified sender address, and the answer must find its way back.
    pub(super) fn show_endpoint(&self, frame: &mut [u8], eth: &Eth, vnet: &VnetHdr, endpoint: Mac) {
        match self.format {
            Format::Arp(arp) if arp.spa.is_unspecified() => {}
            Format::Arp(_) => arp::set_sha(frame, eth.l3, endpoint),
            Format::Nd(nd) => {
                for addr in [nd.slla, nd.tlla].into_iter().flatten() {
                    nd::set_link_addr(frame, &nd, addr, endpoint, vnet.csum.is_some());
                }
            }
        }
    }

    /// Puts an instance's own MAC where the endpoint's stood as target.
    pub(super) fn set_target_mac(&self, frame: &mut [u8], eth: &Eth, mac: Mac) {
        if let Format::Arp(_) = self.format {
            arp::set_tha(frame, eth.l3, mac);
        }
    }
}

/// A request of the switch's own for `target`, in the name of an instance. Without an IP it is a probe.
pub(super) fn request(tags: Tags, target: IpAddr, sender: Mac, sender_ip: Option<IpAddr>) -> Vec<u8> {
    match target {
        IpAddr::V4(tpa) => {
            let spa = match sender_ip {
                Some(IpAddr::V4(ip)) => ip,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            let mut frame = build::header(Mac::BROADCAST, sender, tags, ethertype::ARP);
            Arp { op: arp::REQUEST, sha: sender, spa, tha: Mac::ZERO, tpa }.append(&mut frame);
            frame
        }
        IpAddr::V6(target) => {
            let (src, slla) = match sender_ip {
                Some(IpAddr::V6(ip)) => (ip, Some(sender)),
                _ => (Ipv6Addr::UNSPECIFIED, None),
            };
            let dst = nd::solicited_node(target);
            let mut frame = build::header(nd::multicast_mac(dst), sender, tags, ethertype::IPV6);
            nd::append_solicit(&mut frame, src, dst, target, slla);
            frame
        }
    }
}

/// A reverse ARP request in the name of a station: what hypervisors send for a machine that has moved.
pub(super) fn rarp(station: BindingKey) -> Vec<u8> {
    let mut frame = build::header(Mac::BROADCAST, station.mac, station.tags, ethertype::RARP);
    let (sha, spa) = (station.mac, Ipv4Addr::UNSPECIFIED);
    Arp { op: RARP_REQUEST, sha, spa, tha: sha, tpa: spa }.append(&mut frame);
    frame
}

/// Whom an announcement is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Audience {
    Everybody,
    One(Mac, IpAddr),
}

/// An announcement that `ip` is at `shown`: to everybody a gratuitous ARP request, to one a reply; in IPv6 an
/// unsolicited advertisement that overrides.
pub(super) fn announcement(
    tags: Tags,
    ip: IpAddr,
    router: bool,
    shown: Mac,
    source: Mac,
    to: Audience,
) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => {
            let (dst, arp) = match to {
                Audience::One(mac, IpAddr::V4(their)) => {
                    (mac, Arp { op: arp::REPLY, sha: shown, spa: ip, tha: mac, tpa: their })
                }
                _ => {
                    let own = Arp { op: arp::REQUEST, sha: shown, spa: ip, tha: Mac::ZERO, tpa: ip };
                    (Mac::BROADCAST, own)
                }
            };
            let mut frame = build::header(dst, source, tags, ethertype::ARP);
            arp.append(&mut frame);
            frame
        }
        IpAddr::V6(ip) => {
            let (mac, dst) = match to {
                Audience::One(mac, IpAddr::V6(their)) => (mac, their),
                _ => (nd::multicast_mac(nd::ALL_NODES), nd::ALL_NODES),
            };
            let mut frame = build::header(mac, source, tags, ethertype::IPV6);
            nd::append_advert(&mut frame, ip, dst, ip, nd::FLAG_OVERRIDE | router_flag(router), shown);
            frame
        }
    }
}

fn from_arp(arp: &Arp, eth: &Eth) -> Option<Message> {
    let claim = (!arp.spa.is_unspecified()).then_some(arp.spa.into());
    let kind = match arp.op {
        arp::REQUEST if arp.spa == arp.tpa => Kind::Gratuitous,
        arp::REQUEST if !eth.dst.is_group() => Kind::Poll,
        arp::REQUEST if claim.is_none() => Kind::Probe,
        arp::REQUEST => Kind::Request,
        arp::REPLY if eth.dst.is_group() || arp.spa == arp.tpa => Kind::Gratuitous,
        arp::REPLY => Kind::Reply,
        _ => return None,
    };
    let (target, asker) = match arp.op {
        arp::REQUEST => (arp.tpa, claim),
        _ => (arp.spa, Some(arp.tpa.into())),
    };
    Some(Message {
        format: Format::Arp(*arp),
        kind,
        claim,
        sender: arp.sha,
        router: None,
        target: target.into(),
        asker,
    })
}

fn from_nd(nd: &Nd, eth: &Eth) -> Message {
    let src = (!nd.src.is_unspecified()).then_some(IpAddr::V6(nd.src));
    let group = eth.dst.is_group();
    let link_addr = match nd.kind {
        NdKind::Advert { .. } => nd.tlla,
        NdKind::Redirect => None,
        _ => nd.slla,
    };
    let (kind, claim, router, target, asker) = match nd.kind {
        NdKind::Solicit { target } if src.is_none() => (Kind::Probe, None, None, target.into(), None),
        NdKind::Solicit { target } => {
            let kind = if group { Kind::Request } else { Kind::Poll };
            (kind, src, None, target.into(), src)
        }
        NdKind::Advert { target, router, .. } => {
            let kind = if group { Kind::Gratuitous } else { Kind::Reply };
            (kind, Some(target.into()), Some(router), target.into(), Some(nd.dst.into()))
        }
        NdKind::RouterAdvert { lifetime } => (Kind::Router, src, Some(lifetime > 0), nd.src.into(), None),
        NdKind::RouterSolicit | NdKind::Redirect => (Kind::Router, src, None, nd.src.into(), None),
    };
    let sender = link_addr.map_or(eth.src, |a| a.mac);
    Message { format: Format::Nd(*nd), kind, claim, sender, router, target, asker }
}

/// "Request reverse" (RFC 903).
const RARP_REQUEST: u16 = 3;

fn router_flag(router: bool) -> u8 {
    if router { nd::FLAG_ROUTER } else { 0 }
}
