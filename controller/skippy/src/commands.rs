//! The commands, carried out.

mod config;
mod manage;
mod nodes;
mod status;
mod workload;

use std::io::IsTerminal;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use clap::CommandFactory;
use controller_api::rest::{Cluster, Operation, WhoAmI};
use serde_json::Value;

pub(crate) use self::status::all;
use crate::cli::{Cli, Command, Globals, Waiting};
use crate::client::{Call, Client};
use crate::config::{ConfigFile, resolve};
use crate::error::Error;
use crate::output::{Output, typed};
use crate::{progress, routes, tables, top};

/// What every command has: the API, where to print, and the name of this call.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) out: Output,
    /// The idempotency key.
    key: String,
}

pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Carries out a command line.
pub(crate) async fn run(cli: Cli) -> Result<(), Error> {
    let mut out = Output::new(cli.globals.json, cli.globals.wide, cli.globals.columns.clone());
    match cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "skippy", &mut script);
            return Ok(out.out.write_all(&script).and_then(|()| out.out.flush())?);
        }
        Command::Config(command) => return config::run(&command, &cli.globals, &mut out),
        _ => {}
    }
    let mut session = Session::open(&cli.globals, out)?;
    dispatch(&mut session, cli.command).await
}

async fn dispatch(s: &mut Session, command: Command) -> Result<(), Error> {
    match command {
        Command::Completion { .. } | Command::Config(_) => Ok(()),
        Command::AddComputeNode(args) => nodes::add(s, args).await,
        Command::RemoveComputeNode(args) => nodes::remove(s, &args).await,
        Command::AddType(args) => workload::add_type(s, args).await,
        Command::Allocate(args) => workload::allocate(s, args).await,
        Command::Migrate(args) => workload::migrate(s, args).await,
        Command::Node(command) => nodes::run(s, command).await,
        Command::Type(command) => workload::types(s, command).await,
        Command::Network(command) => workload::networks(s, command).await,
        Command::Instance(command) => workload::instances(s, command).await,
        Command::Binding(command) => manage::bindings(s, command).await,
        Command::Link(command) => manage::links(s, command).await,
        Command::Operation(command) => manage::operations(s, command).await,
        Command::Event(command) => manage::events(s, command).await,
        Command::Token(command) => manage::tokens(s, command).await,
        Command::Whoami => {
            let me = s.client.call(&routes::whoami()).await?;
            s.out.show::<WhoAmI>(me, tables::WHOAMI)
        }
        Command::Cluster => {
            let cluster = s.client.call(&routes::cluster()).await?;
            s.out.show::<Cluster>(cluster, tables::CLUSTER)
        }
        Command::Health => {
            s.client.text(&routes::health()).await?;
            s.client.text(&routes::readiness()).await?;
            if s.out.json {
                return s.out.json(&serde_json::json!({ "alive": true, "ready": true }));
            }
            s.out.line("alive and ready")
        }
        Command::Metrics => {
            let metrics = s.client.text(&routes::metrics()).await?;
            s.out.text(&metrics)
        }
        Command::Openapi => {
            let document = s.client.call(&routes::openapi()).await?;
            s.out.json(&document)
        }
        Command::Status => status::run(s).await,
        Command::Top(args) => top::run(s, &args).await,
    }
}

impl Session {
    fn open(globals: &Globals, out: Output) -> Result<Self, Error> {
        let file = ConfigFile::place(&env).and_then(|path| ConfigFile::read(&path));
        // Without a place for a file the flags and the environment may well be enough.
        let file = match file {
            Err(crate::config::ConfigError::NoPlace) => ConfigFile::default(),
            file => file?,
        };
        let settings = resolve(&globals.flags(), &env, &file)?;
        let key = match &globals.idempotency_key {
            Some(key) => key.clone(),
            None => new_key()?,
        };
        Ok(Self { client: Client::new(&settings, globals.timeout)?, out, key })
    }

    /// Calls something that changes the cluster, under this run's idempotency key.
    pub(crate) async fn change(&self, call: Call) -> Result<Value, Error> {
        self.client.call(&call.idempotency_key(&self.key)).await
    }

    /// Changes something and says so in a line, or prints the answer.
    pub(crate) async fn done(&mut self, call: Call, line: &str) -> Result<(), Error> {
        let answer = self.change(call).await?;
        if !self.out.json {
            return self.out.line(line);
        }
        if answer.is_null() { Ok(()) } else { self.out.json(&answer) }
    }

    /// Waits for an operation if it is to be waited for, and prints it as JSON if that is asked for.
    ///
    /// Gives the operation if it has ended well and there is more to be told of it. An answer without an operation
    /// means that everything is as it should be already.
    pub(crate) async fn finish(
        &mut self,
        operation: Value,
        waiting: Waiting,
    ) -> Result<Option<Operation>, Error> {
        if operation.is_null() {
            if !self.out.json {
                self.out.line("nothing to do: it is so already")?;
            }
            return Ok(None);
        }
        if waiting.no_wait {
            if self.out.json {
                self.out.json(&operation)?;
                return Ok(None);
            }
            let operation: Operation = typed(operation)?;
            self.out.line(&format!("{} {} is {}", operation.id, operation.kind, operation.state))?;
            if std::io::stderr().is_terminal() {
                eprintln!("follow it with `skippy operation watch {}`", operation.id);
            }
            return Ok(None);
        }
        let mut last = operation.clone();
        let ended = progress::follow(&self.client, &self.key, operation, |value| {
            last.clone_from(value);
            Ok(())
        });
        let ended = ended.await;
        if self.out.json {
            // Also of one that failed: its JSON says why.
            self.out.json(&last)?;
            return ended.map(|_| None);
        }
        Ok(Some(typed(ended?)?))
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

fn new_key() -> Result<String, Error> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Local("the system gives no random numbers".to_owned()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
