use std::time::Duration;

use clap::{Args, Subcommand};

use super::Waiting;
use super::workload::variable;
use crate::units::parse_duration;

#[derive(Subcommand, Debug)]
pub(crate) enum NodeCommand {
    /// All nodes, with what they have and what of it is taken
    #[command(
        after_help = "Examples:\n  skippy node list\n  skippy node list --columns name,state,instances"
    )]
    List {
        /// Only those in this state
        #[arg(long, value_parser = ["pending", "online", "offline", "cloned", "draining", "removed"])]
        state: Option<String>,
    },
    /// All of one node
    Show {
        /// Its id or name
        node: String,
    },
    /// Add a node; with provider `manual`, print what to run on it
    Add(AddNode),
    /// Move a node's instances away and remove it
    Remove(RemoveNode),
    /// Say whether a node gets new instances, and label it
    #[command(
        after_help = "Examples:\n  skippy node set rack1-a --schedulable false    no new instances\n  skippy node set rack1-a --label rack=1 --label row=b"
    )]
    Set {
        /// The node's id or name
        node: String,
        /// Whether new instances may be placed there
        #[arg(long, value_name = "BOOL")]
        schedulable: Option<bool>,
        /// A label; repeat for more. Those that are not named go
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = variable)]
        labels: Vec<(String, String)>,
        /// Take all labels away
        #[arg(long, conflicts_with = "labels")]
        no_labels: bool,
    },
    /// Make a new join token for a node that has not joined; the old one ends
    #[command(after_help = "Examples:\n  skippy node token rack1-a\n  skippy node token rack1-a --ttl 1d")]
    Token {
        /// The node's id or name
        node: String,
        /// How long the token can be used [default: one hour]
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        ttl: Option<Duration>,
    },
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skippy add-compute-node --provider manual --name rack1-a
  skippy add-compute-node --provider manual --type small --token-ttl 1d --wait
  skippy add-compute-node --provider netns --type small")]
pub(crate) struct AddNode {
    /// `manual`, or a provider of the controller's configuration, which makes the machine
    #[arg(long, short, value_name = "PROVIDER")]
    pub(crate) provider: String,
    /// The provider's kind of machine [default: the provider's]
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    pub(crate) node_type: Option<String>,
    /// The node's name [default: its host's name when it joins, or its id]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// A label, in your own words; repeat for more
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) labels: Vec<(String, String)>,
    /// How long the join token can be used [default: one hour]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) token_ttl: Option<Duration>,
    /// With `manual`: wait until the node has joined
    #[arg(long, conflicts_with = "no_wait")]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skippy remove-compute-node rack1-a            refuses if an instance has no other place
  skippy remove-compute-node rack1-a --force    even then: such instances are lost
  skippy remove-compute-node rack1-a --now      one that was stolen or is lost: all its instances are lost")]
pub(crate) struct RemoveNode {
    /// Its id or name
    pub(crate) node: String,
    /// Remove it even where its instances cannot be moved away: they are lost
    #[arg(long)]
    pub(crate) force: bool,
    /// Move nothing and wait for nothing: its key is refused at once, and its instances are lost
    #[arg(long)]
    pub(crate) now: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}
