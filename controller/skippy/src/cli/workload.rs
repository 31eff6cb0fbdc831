use std::net::IpAddr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use controller_api::rest::{AntiSpoof, Driver, NetworkMode};

use super::Waiting;
use crate::units::{parse_cores, parse_size};

#[derive(Subcommand, Debug)]
pub(crate) enum TypeCommand {
    /// All types
    List,
    /// All of one type
    Show {
        /// Its id or name
        name: String,
    },
    /// Add a type: what instances of it may take
    Add(AddTypeArgs),
    /// Remove a type; instances of it keep what it gave them
    Remove {
        /// Its id or name
        name: String,
    },
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skippy add-type small --cores 0.5 --memory 256MiB
  skippy add-type vm --cores 2 --memory 1GiB --disk 8GiB --driver qemu --image debian.qcow2")]
pub(crate) struct AddTypeArgs {
    /// Its name
    pub(crate) name: String,
    /// Cores: 0.5, 2, 250m
    #[arg(long, short, value_name = "CORES", value_parser = parse_cores)]
    pub(crate) cores: u32,
    /// Memory: 256MiB, 2GiB
    #[arg(long, short, value_name = "SIZE", value_parser = memory_mib)]
    pub(crate) memory: u64,
    /// Disk: 2GiB; 0 for none of its own
    #[arg(long, short, value_name = "SIZE", default_value = "0", value_parser = disk_gib)]
    pub(crate) disk: u64,
    /// What runs it
    #[arg(long, default_value = "container", value_parser = driver())]
    pub(crate) driver: Driver,
    /// A root file system or disk image, by its name in the nodes' image directory
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum NetworkCommand {
    /// All networks
    List,
    /// All of one network
    Show {
        /// Its id or name
        network: String,
    },
    /// Add a network
    Add(NetworkAdd),
    /// Change a network; what is not named stays
    Set(NetworkSet),
    /// Remove a network that no instance is on
    Remove {
        /// Its id or name
        network: String,
    },
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skippy network add blue --subnet-v4 10.0.0.0/24 --gateway 10.0.0.1
  skippy network add red --vni 200 --mode preserve --node rack1-a --node rack1-b
  skippy network add storage --host --subnet-v4 10.90.0.0/24")]
pub(crate) struct NetworkAdd {
    /// Its name
    pub(crate) name: String,
    /// Its 24-bit identifier [default: the lowest free one]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub(crate) vni: Option<u32>,
    /// Where instances get IPv4 addresses from
    #[arg(long, value_name = "SUBNET")]
    pub(crate) subnet_v4: Option<String>,
    /// Where instances get IPv6 addresses from
    #[arg(long, value_name = "SUBNET")]
    pub(crate) subnet_v6: Option<String>,
    /// It is for the nodes themselves: each gets an address of the subnet, and no instance may be in it
    #[arg(long, conflicts_with_all = ["gateways", "nodes"])]
    pub(crate) host: bool,
    #[command(flatten)]
    pub(crate) options: NetworkOptions,
    /// A node that shall have it; repeat for more [default: all, those to come too]
    #[arg(long = "node", value_name = "NODE")]
    pub(crate) nodes: Vec<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skippy network set blue --anti-spoof strict
  skippy network set blue --node rack1-a --node rack1-b    on these nodes and no others
  skippy network set blue --all-nodes")]
pub(crate) struct NetworkSet {
    /// Its id or name
    pub(crate) network: String,
    #[command(flatten)]
    pub(crate) options: NetworkOptions,
    /// Take the gateways away
    #[arg(long, conflicts_with = "gateways")]
    pub(crate) no_gateway: bool,
    /// A node that shall have it; repeat for more
    #[arg(long = "node", value_name = "NODE")]
    pub(crate) nodes: Vec<String>,
    /// All nodes shall have it, those to come too
    #[arg(long, conflicts_with = "nodes")]
    pub(crate) all_nodes: bool,
}

#[derive(Args, Debug, Default)]
pub(crate) struct NetworkOptions {
    /// The instances' way out; repeat for the other family
    #[arg(long = "gateway", value_name = "IP")]
    pub(crate) gateways: Vec<IpAddr>,
    /// How frames cross [default: rewrite]
    #[arg(long, value_parser = mode())]
    pub(crate) mode: Option<NetworkMode>,
    /// Largest IP packet in bytes [default: 1500]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1280..=9216))]
    pub(crate) mtu: Option<u32>,
    /// What becomes of DHCP: forward, local-only or trusted:MAC [default: forward]
    #[arg(long, value_name = "WHAT")]
    pub(crate) dhcp: Option<String>,
    /// Whether stations may use addresses that no binding gives them [default: learn]
    #[arg(long, value_parser = anti_spoof())]
    pub(crate) anti_spoof: Option<AntiSpoof>,
    /// Whether the MSS of TCP is lowered to what fits [default: true]
    #[arg(long, value_name = "BOOL")]
    pub(crate) mss_clamp: Option<bool>,
    /// Flooded frames a second of the network from one node, all its stations together; 0 for the switch's default
    #[arg(long, value_name = "FRAMES")]
    pub(crate) broadcast_rate: Option<u32>,
    /// The same at once, after a silence; 0 for the switch's default
    #[arg(long, value_name = "FRAMES")]
    pub(crate) broadcast_burst: Option<u32>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum InstanceCommand {
    /// All instances
    #[command(after_help = "Examples:\n  skippy instance list\n  skippy instance list --node rack1-a --wide")]
    List {
        /// Only those on this node
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Only those of this type
        #[arg(long = "type", value_name = "TYPE")]
        instance_type: Option<String>,
        /// Only those on this network
        #[arg(long, value_name = "NETWORK")]
        network: Option<String>,
        /// Only those in this state: running, stopped, failed, ...
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
    },
    /// All of one instance
    Show {
        /// Its id or name
        instance: String,
    },
    /// Make an instance and start it
    Allocate(AllocateArgs),
    /// Start a stopped instance
    Start(OneInstance),
    /// Stop an instance; its disk stays
    Stop(OneInstance),
    /// Delete an instance with its disk
    Delete(OneInstance),
    /// Move an instance to another node, with its disk, MACs and IPs
    Migrate(MigrateArgs),
}

#[derive(Args, Debug)]
pub(crate) struct OneInstance {
    /// Its id or name
    pub(crate) instance: String,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skippy allocate small                                     on the node with the most free memory
  skippy allocate small --node rack1-a --name web --network blue --ip 10.0.0.9 -- python3 -m http.server
  skippy allocate vm --image debian.qcow2 --no-wait")]
pub(crate) struct AllocateArgs {
    /// The type's id or name
    #[arg(value_name = "TYPE")]
    pub(crate) instance_type: String,
    /// Where [default: the node with the most free memory]
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Its name [default: its id]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// A network that it gets an endpoint on; repeat for more [default: the only one that there is, or `default`]
    #[arg(long = "network", value_name = "NETWORK")]
    pub(crate) networks: Vec<String>,
    /// An address that it shall have; repeat for more [default: the lowest free ones]
    #[arg(long = "ip", value_name = "IP")]
    pub(crate) ips: Vec<IpAddr>,
    /// Its root file system or disk image [default: the type's]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// A variable of its environment, which every reader can see; repeat for more
    #[arg(long = "env", short, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) environment: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
    /// What it runs [default: the image's own]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skippy migrate web rack1-b
  skippy migrate web rack1-b --no-wait --json | jq -r .id")]
pub(crate) struct MigrateArgs {
    /// The instance's id or name
    pub(crate) instance: String,
    /// Where to: a node's id or name
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

fn memory_mib(text: &str) -> Result<u64, String> {
    match whole(text, 20, "MiB")? {
        0 => Err("an instance needs some memory: at least 1MiB".to_owned()),
        mib => Ok(mib),
    }
}

fn disk_gib(text: &str) -> Result<u64, String> {
    whole(text, 30, "GiB")
}

fn whole(text: &str, shift: u32, unit: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes & ((1 << shift) - 1) != 0 {
        return Err(format!("{text} is no whole number of {unit}"));
    }
    Ok(bytes >> shift)
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no NAME=VALUE")),
    }
}

fn driver() -> impl TypedValueParser<Value = Driver> {
    one_of([("container", Driver::Container), ("qemu", Driver::Qemu)])
}

fn mode() -> impl TypedValueParser<Value = NetworkMode> {
    one_of([("rewrite", NetworkMode::Rewrite), ("preserve", NetworkMode::Preserve)])
}

fn anti_spoof() -> impl TypedValueParser<Value = AntiSpoof> {
    one_of([("learn", AntiSpoof::Learn), ("strict", AntiSpoof::Strict)])
}

/// The API's own enums, which know nothing of command lines.
pub(super) fn one_of<T: Copy + Send + Sync + 'static, const N: usize>(
    values: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(values.map(|(name, _)| name)).map(move |chosen| {
        values
            .iter()
            .find(|(name, _)| *name == chosen)
            .map(|(_, value)| *value)
            .expect("the parser lets only the possible values through")
    })
}
