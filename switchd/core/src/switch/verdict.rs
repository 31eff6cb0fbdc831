//! What becomes of a frame.

use crate::ids::PeerId;
use crate::vnet::VnetHdr;

/// What the caller does with the frame that it handed in. The frame may have been changed in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Write it to the TAP.
    Bridge,
    /// Seal it for this peer.
    Peer(PeerId),
    /// Seal it for each of [`super::Switch::flood_peers`].
    Flood,
    /// Nothing: the switch answered, see [`super::Switch::poll_transmit`], or was itself the one addressed.
    Answered,
    /// Nothing: the switch keeps a copy until its destination is known.
    Held,
    /// Nothing: count it.
    Drop(DropReason),
}

/// Where a frame made or released by the switch goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// To the TAP.
    Bridge,
    /// To one peer.
    Peer(PeerId),
    /// To each of [`super::Switch::flood_peers`].
    Flood,
}

/// A frame that the switch made, or that it held and now releases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Where it goes.
    pub to: Destination,
    /// Its virtio-net header; that of an ordinary frame for those that the switch made.
    pub vnet: VnetHdr,
    /// The frame from its Ethernet header on, without padding.
    pub frame: Vec<u8>,
}

macro_rules! drop_reasons {
    ($($name:ident $label:literal $help:literal,)*) => {
        /// Why a frame or datagram was dropped. Its label is the metric's label.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum DropReason {
            $(#[doc = $help] $name,)*
        }

        impl DropReason {
            /// Every reason, by [`DropReason::index`].
            pub const ALL: &[DropReason] = &[$(DropReason::$name),*];

            /// The metric label, in snake_case.
            pub fn label(self) -> &'static str {
                match self { $(DropReason::$name => $label),* }
            }

            /// One sentence for people.
            pub fn help(self) -> &'static str {
                match self { $(DropReason::$name => $help),* }
            }

            /// The reason's place in [`DropReason::ALL`].
            pub fn index(self) -> usize {
                self as usize
            }
        }
    };
}

drop_reasons! {
    BadFrame "bad_frame" "The frame ends inside its Ethernet header or VLAN tags.",
    BadSource "bad_source" "The source MAC is a group address or zero.",
    BadDestination "bad_destination" "The destination MAC is zero.",
    BadArp "bad_arp" "The ARP message is cut short or not Ethernet over IPv4 with a unicast sender.",
    BadNd "bad_nd" "The neighbour discovery message fails the checks of RFC 4861, or could hide behind extension headers.",
    BadIp "bad_ip" "The IP header is cut short.",
    LinkLocalGroup "link_local_group" "The destination is of the reserved group 01:80:c2:00:00:0X (STP, LLDP, PAUSE), which bridges do not forward.",
    Loop "loop" "The endpoint's own frame came back from the bridge: the bridge has a second way to this network.",
    Flapping "flapping" "The source MAC changed its place too often and is held where it was.",
    Spoof "spoof" "The source MAC or IP contradicts a static or controller's binding, or has none where anti_spoof is strict.",
    BoundElsewhere "bound_elsewhere" "A static or controller's binding puts the source MAC on another node.",
    SameBridge "same_bridge" "The destination is on this node's bridge, which carries the frame itself.",
    NotForEndpoint "not_for_endpoint" "The frame is addressed to the endpoint but is nothing that it forwards.",
    NoAsker "no_asker" "A reply to the endpoint for an asker that nobody knows.",
    AskLimited "ask_limited" "A request for this unknown target crossed the overlay within the last interval.",
    AskTableFull "ask_table_full" "Too many unknown targets are being asked for.",
    FloodLimited "flood_limited" "Over the network's limit of flooded frames.",
    NoPeers "no_peers" "No peer of the network is up.",
    DhcpPolicy "dhcp_policy" "The network's dhcp policy keeps the message from crossing.",
    HoldFull "hold_full" "No room to hold the frame until its destination is known.",
    HoldExpired "hold_expired" "Nobody answered for the destination of a held frame, or its sender has moved away.",
    LinkDown "link_down" "The link to the destination's node is down.",
    BadDatagram "bad_datagram" "The datagram is too short or of an unknown type or version.",
    UnknownReceiver "unknown_receiver" "The datagram names a receiver index that no session has.",
    BadTag "bad_tag" "The datagram's authentication tag is wrong.",
    Replayed "replayed" "The datagram's counter was seen before or is behind the replay window.",
    BadInnerHeader "bad_inner_header" "The opened datagram's inner header is malformed.",
    UnknownNetwork "unknown_network" "The datagram's VNI is no network of this node.",
    NotAMember "not_a_member" "The datagram's sender is no peer of its network.",
    Congested "congested" "The underlay marked congestion on the datagram, and its packet is not ECN-capable (RFC 6040).",
    TooBig "too_big" "The frame exceeds what the path or the network's MTU carries.",
    ReassemblyFull "reassembly_full" "No room to reassemble another fragmented frame.",
    ReassemblyTimeout "reassembly_timeout" "Fragments of a frame did not arrive in time.",
    BadVnetHeader "bad_vnet_header" "The virtio-net header is malformed or contradicts the frame.",
    BadGso "bad_gso" "The super-frame cannot be segmented as its header says.",
    TapWrite "tap_write" "The kernel refused the frame on the TAP.",
    CounterExhausted "counter_exhausted" "The session's keys sealed as many datagrams as they may.",
    SendFailed "send_failed" "The kernel refused the datagram on the socket.",
    NoCarriage "no_carriage" "The network's carriage is quic, and the peer takes no QUIC datagrams.",
    Shrunk "shrunk" "QUIC's datagrams became shorter after the frame was cut for them.",
    Stale "stale" "The datagram waited too long to be sent by QUIC.",
    QueueFull "queue_full" "A queue of the daemon was full.",
}
