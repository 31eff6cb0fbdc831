//! The providers of a configuration, by name.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ExecProvider, ProviderCalls};

/// A provider as the configuration names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProviderConfig {
    /// What the API calls it.
    pub name: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// The longest that one action may take.
    pub timeout: Duration,
}

/// One way to make nodes.
#[derive(Clone, Debug)]
pub enum Provider {
    /// A person makes the machine and runs the join command there.
    Manual,
    /// An external command does.
    Exec(ExecProvider),
}

/// All providers; `manual` is always there.
#[derive(Clone, Debug)]
pub struct Providers {
    by_name: BTreeMap<String, Provider>,
    calls: ProviderCalls,
}

impl Providers {
    /// Those of the configuration, and `manual`.
    pub fn new(configs: &[ProviderConfig]) -> Providers {
        let mut by_name = BTreeMap::from([(MANUAL.to_owned(), Provider::Manual)]);
        for config in configs {
            let exec = ExecProvider::new(&config.name, config.command.clone(), config.timeout);
            by_name.insert(config.name.clone(), Provider::Exec(exec));
        }
        Providers { by_name, calls: ProviderCalls::default() }
    }

    /// The provider of that name.
    pub fn get(&self, name: &str) -> Option<&Provider> {
        self.by_name.get(name)
    }

    /// What is counted of them.
    pub fn calls(&self) -> &ProviderCalls {
        &self.calls
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

/// The name of the provider that is a person.
pub(crate) const MANUAL: &str = "manual";

/// What a person runs on the machine that shall be a node.
pub fn join_command(token: &str) -> String {
    format!("switchd join {token}")
}
