use std::time::Duration;

use controller_api::rest::{
    AddComputeNode, ComputeNode, ComputeNodeAdded, ComputeNodeState, Join, Operation, RenewToken,
    UpdateComputeNode,
};

use super::Session;
use crate::cli::{AddNode, NodeCommand, RemoveNode};
use crate::error::Error;
use crate::output::typed;
use crate::{routes, tables};

pub(super) async fn run(s: &mut Session, command: NodeCommand) -> Result<(), Error> {
    match command {
        NodeCommand::List { state } => {
            let nodes = s.client.list(&routes::nodes().query_opt("state", state)).await?;
            s.out.list::<ComputeNode>(nodes, tables::NODES, "no nodes: add one with `skippy node add`")
        }
        NodeCommand::Show { node } => {
            let node = s.client.call(&routes::node(&node)).await?;
            s.out.show::<ComputeNode>(node, tables::NODES)
        }
        NodeCommand::Add(args) => add(s, args).await,
        NodeCommand::Remove(args) => remove(s, &args).await,
        NodeCommand::Set { node, schedulable, labels, no_labels } => {
            let labels = (no_labels || !labels.is_empty()).then(|| labels.into_iter().collect());
            if schedulable.is_none() && labels.is_none() {
                return Err(Error::Usage(
                    "nothing to set: give --schedulable, --label or --no-labels".into(),
                ));
            }
            let call = routes::set_node(&node).body(&UpdateComputeNode { schedulable, labels })?;
            s.done(call, &format!("{node} is changed")).await
        }
        NodeCommand::Token { node, ttl } => {
            let body = RenewToken { token_ttl_seconds: ttl.map(|ttl| ttl.as_secs()) };
            let answer = s.change(routes::node_token(&node).body(&body)?).await?;
            if s.out.json {
                return s.out.json(&answer);
            }
            let added: ComputeNodeAdded = typed(answer)?;
            tell_join(s, &added)
        }
    }
}

pub(super) async fn add(s: &mut Session, args: AddNode) -> Result<(), Error> {
    let body = AddComputeNode {
        provider: args.provider,
        node_type: args.node_type,
        name: args.name,
        labels: (!args.labels.is_empty()).then(|| args.labels.into_iter().collect()),
        token_ttl_seconds: args.token_ttl.map(|ttl| ttl.as_secs()),
    };
    let mut answer = s.change(routes::add_node().body(&body)?).await?;
    let added: ComputeNodeAdded = typed(answer.clone())?;
    let id = added.compute_node.id.clone();
    let Some(operation) = &added.operation else {
        // The token is needed before the node can join, so it is printed before the wait.
        if s.out.json {
            s.out.json(&answer)?;
        } else {
            tell_join(s, &added)?;
        }
        return if args.wait { joined(s, &id).await } else { Ok(()) };
    };
    if s.out.json {
        // One document: the answer with the operation as it ended.
        let follow = !args.waiting.no_wait;
        let mut last = answer["operation"].clone();
        let ended = match follow {
            true => {
                let seen = |value: &serde_json::Value| {
                    last.clone_from(value);
                    Ok(())
                };
                crate::progress::follow(&s.client, s.key(), answer["operation"].clone(), seen).await.map(drop)
            }
            false => Ok(()),
        };
        answer["operation"] = last;
        s.out.json(&answer)?;
        return ended;
    }
    let operation = serde_json::to_value(operation).map_err(|error| Error::Local(error.to_string()))?;
    if s.finish(operation, args.waiting).await?.is_some() {
        let node: ComputeNode = s.client.typed(&routes::node(&id)).await?;
        s.out.line(&format!("{} ({}) has joined", node.name, node.id))?;
    }
    Ok(())
}

pub(super) async fn remove(s: &mut Session, args: &RemoveNode) -> Result<(), Error> {
    let operation = s.change(routes::remove_node(&args.node, args.force, args.now)).await?;
    if s.finish(operation, args.waiting).await?.is_some() {
        s.out.line(&format!("{} is removed", args.node))?;
    }
    Ok(())
}

/// The command alone on the standard output, so that a script can run it.
fn tell_join(s: &mut Session, added: &ComputeNodeAdded) -> Result<(), Error> {
    let node = &added.compute_node;
    let Some(Join { command, expires_at, .. }) = &added.join else {
        return s.out.line(&format!(
            "{} ({}) is added; its token was told before: `skippy node token {}` makes a new one",
            node.name, node.id, node.id
        ));
    };
    eprintln!(
        "{} ({}) is added. Run this on the machine, as root, before {expires_at}; it works once:",
        node.name, node.id
    );
    s.out.line(command)
}

/// Waits until the node has joined, or is gone.
async fn joined(s: &mut Session, id: &str) -> Result<(), Error> {
    eprintln!("waiting until {id} has joined; Ctrl-C ends the wait, not the token");
    let mut poll = tokio::time::interval(Duration::from_secs(1));
    let mut failing = 0;
    loop {
        tokio::select! {
            _ = poll.tick() => {}
            _ = tokio::signal::ctrl_c() => {
                return Err(Error::Interrupted(format!("{id} may still join; `skippy node show {id}` tells")));
            }
        }
        let node: ComputeNode = match s.client.typed(&routes::node(id)).await {
            Ok(node) => node,
            Err(error) if error.may_pass() && failing < 60 => {
                failing += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        failing = 0;
        match node.state {
            ComputeNodeState::Pending => {}
            ComputeNodeState::Draining | ComputeNodeState::Removed => {
                return Err(Error::Local(format!("{id} was removed before it joined")));
            }
            _ => {
                eprintln!("{} ({id}) has joined", node.name);
                return Ok(());
            }
        }
    }
}

/// The operation's first subject of this kind: `inst`, `node`.
pub(super) fn subject<'a>(operation: &'a Operation, kind: &str) -> Option<&'a str> {
    let of_kind = |id: &&String| id.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-'));
    operation.subjects.iter().find(of_kind).map(String::as_str)
}
