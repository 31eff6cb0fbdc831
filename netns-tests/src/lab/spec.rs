//! A lab as data.

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct LabSpec {
    /// Short name for messages and the folder of evidence.
    pub name: String,
    /// The networks under the overlay. Every node has an interface `eth<i>` in underlay `i`.
    pub underlays: Vec<UnderlaySpec>,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
}

/// A bridge in a namespace of its own that joins one interface of every node.
#[derive(Clone, Debug)]
pub struct UnderlaySpec {
    /// MTU of the nodes' interfaces, in bytes of IP packet.
    pub mtu: u32,
    /// MTU of the middle, where it is smaller: packets beyond it vanish without a word, as on a path that filters
    /// ICMP. Nodes then send without UDP segmentation offload, since a bridge passes super-packets of any size.
    pub hidden_mtu: Option<u32>,
    /// Packets lost at random in each direction, per cent. Nodes then send without UDP segmentation offload, so that
    /// packets are lost one by one.
    pub loss_percent: f64,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Name, also in the daemon's configuration.
    pub name: String,
    /// Its bridges: one for each network.
    pub bridges: Vec<BridgeSpec>,
}

/// A Linux bridge on a node, with instances.
#[derive(Clone, Debug)]
pub struct BridgeSpec {
    /// Name of the network; the bridge is `br-<network>`.
    pub network: String,
    /// False: the daemon, or the test, makes the bridge and calls [`crate::Node::attach_instances`].
    pub create: bool,
    /// Instances attached to it.
    pub instances: Vec<InstanceSpec>,
}

/// A namespace with one interface `eth0` in a bridge.
#[derive(Clone, Debug)]
pub struct InstanceSpec {
    /// Unique in the lab, at most 13 bytes: `v-<name>` is its port on the bridge.
    pub name: String,
    /// MAC of `eth0`.
    pub mac: String,
    /// Addresses with prefix length, IPv4 and IPv6.
    pub ips: Vec<String>,
    /// MTU of `eth0`.
    pub mtu: u32,
}

impl LabSpec {
    /// `nodes` nodes (`node-a`, `node-b`, ...) on one loss-free underlay of MTU 1500; each has one bridge for each of
    /// `networks`, with `per_node` instances.
    ///
    /// Instances of the first network are called `a1`, `a2`, `b1`, ...; of another network `<network>-a1`, ... .
    /// Instance k of node n (both from 1) has 10.0.0.(10 n + k)/24 and fd00::n:k/64 in *every* network, and the MAC
    /// 02:00:00:(network from 1):n:k.
    pub fn star(name: &str, nodes: usize, networks: &[&str], per_node: usize) -> LabSpec {
        let node = |n: usize| {
            let letter = char::from(b'a' + (n - 1) as u8);
            let bridge = |(i, network): (usize, &&str)| BridgeSpec {
                network: (*network).to_owned(),
                create: true,
                instances: (1..=per_node)
                    .map(|k| InstanceSpec {
                        name: if i == 0 { format!("{letter}{k}") } else { format!("{network}-{letter}{k}") },
                        mac: format!("02:00:00:{:02x}:{n:02x}:{k:02x}", i + 1),
                        ips: vec![format!("10.0.0.{}/24", 10 * n + k), format!("fd00::{n}:{k}/64")],
                        mtu: 1500,
                    })
                    .collect(),
            };
            NodeSpec {
                name: format!("node-{letter}"),
                bridges: networks.iter().enumerate().map(bridge).collect(),
            }
        };
        LabSpec {
            name: name.to_owned(),
            underlays: vec![UnderlaySpec::default()],
            nodes: (1..=nodes).map(node).collect(),
        }
    }

    /// Two nodes, one network `blue`, one instance each: `a1` and `b1`.
    pub fn pair(name: &str) -> LabSpec {
        LabSpec::star(name, 2, &["blue"], 1)
    }

    /// The same lab on an underlay of this MTU.
    pub fn underlay_mtu(mut self, mtu: u32) -> LabSpec {
        for underlay in &mut self.underlays {
            underlay.mtu = mtu;
        }
        self
    }

    /// The same lab on an underlay that loses this many packets in a hundred.
    pub fn loss(mut self, percent: f64) -> LabSpec {
        for underlay in &mut self.underlays {
            underlay.loss_percent = percent;
        }
        self
    }

    /// The same lab with every instance changed by `change`.
    pub fn each_instance(mut self, mut change: impl FnMut(&mut InstanceSpec)) -> LabSpec {
        for instance in
            self.nodes.iter_mut().flat_map(|n| &mut n.bridges).flat_map(|bridge| &mut bridge.instances)
        {
            change(instance);
        }
        self
    }
}

impl Default for UnderlaySpec {
    fn default() -> UnderlaySpec {
        UnderlaySpec { mtu: 1500, hidden_mtu: None, loss_percent: 0.0 }
    }
}

impl BridgeSpec {
    /// Name of the Linux bridge.
    pub fn bridge(&self) -> String {
        format!("br-{}", self.network)
    }
}
