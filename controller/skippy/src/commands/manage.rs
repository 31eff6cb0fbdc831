use std::time::Duration;

use controller_api::rest::{
    ApiToken, ApiTokenCreated, Binding, BindingState, CreateToken, Event, Link, Operation, SetBinding,
};
use serde_json::Value;

use super::Session;
use crate::cli::{BindingCommand, EventCommand, LinkCommand, OperationCommand, TokenCommand};
use crate::client::SseEvent;
use crate::error::Error;
use crate::output::typed;
use crate::{progress, routes, tables};

pub(super) async fn bindings(s: &mut Session, command: BindingCommand) -> Result<(), Error> {
    match command {
        BindingCommand::List { network, node, ip, mac, source, state } => {
            let call = routes::bindings()
                .query_opt("network", network)
                .query_opt("compute_node", node)
                .query_opt("ip", ip)
                .query_opt("mac", mac)
                .query_opt("source", source)
                .query_opt("state", state);
            let bindings = s.client.list(&call).await?;
            s.out.list::<Binding>(bindings, tables::BINDINGS, "no bindings")
        }
        BindingCommand::Show { key } => {
            let binding = s.client.call(&routes::binding(&key.network, &key.mac, &key.vlans)).await?;
            s.out.show::<Binding>(binding, tables::BINDINGS)
        }
        BindingCommand::Set { key, node, ips, prepared, expected_generation } => {
            let line = format!("{} of {} lives on {node}", key.mac, key.network);
            let body = SetBinding {
                ips,
                compute_node: node,
                state: prepared.then_some(BindingState::Prepared),
                expected_generation,
            };
            let call = routes::set_binding(&key.network, &key.mac, &key.vlans).body(&body)?;
            s.done(call, &line).await
        }
        BindingCommand::Remove { key, expected_generation } => {
            let call = routes::remove_binding(&key.network, &key.mac, &key.vlans)
                .query_opt("expected_generation", expected_generation);
            s.done(call, &format!("the binding of {} in {} is removed", key.mac, key.network)).await
        }
    }
}

pub(super) async fn links(s: &mut Session, command: LinkCommand) -> Result<(), Error> {
    let LinkCommand::List { node, state } = command;
    let call = routes::links().query_opt("compute_node", node).query_opt("state", state);
    let links = s.client.list(&call).await?;
    s.out.list::<Link>(links, tables::LINKS, "no links")
}

pub(super) async fn operations(s: &mut Session, command: OperationCommand) -> Result<(), Error> {
    match command {
        OperationCommand::List { state, kind, node, instance } => {
            let call = routes::operations()
                .query_opt("state", state)
                .query_opt("kind", kind)
                .query_opt("compute_node", node)
                .query_opt("instance", instance);
            let operations = s.client.list(&call).await?;
            s.out.list::<Operation>(operations, tables::OPERATIONS, "no operations")
        }
        OperationCommand::Show { operation } => {
            let operation = s.client.call(&routes::operation(&operation)).await?;
            s.out.show::<Operation>(operation, tables::OPERATIONS)
        }
        OperationCommand::Cancel { operation, waiting } => {
            let answer = s.change(routes::cancel(&operation)).await?;
            match s.finish(answer, waiting).await {
                // That it ended as cancelled is what was asked for.
                Err(Error::OperationFailed { id, state, .. }) if state == "cancelled" => {
                    if s.out.json {
                        Ok(())
                    } else {
                        s.out.line(&format!("{id} is cancelled"))
                    }
                }
                Ok(Some(done)) => Err(Error::OperationFailed {
                    id: done.id,
                    state: done.state.to_string(),
                    detail: "it ended before it could be cancelled".to_owned(),
                }),
                other => other.map(drop),
            }
        }
        OperationCommand::Watch { operation } => {
            let operation = s.client.call(&routes::operation(&operation)).await?;
            let (client, key) = (s.client.clone(), s.key().to_owned());
            let json = s.out.json;
            let out = &mut s.out;
            let changed = |value: &Value| if json { out.json_line(value) } else { Ok(()) };
            let ended: Operation = typed(progress::follow(&client, &key, operation, changed).await?)?;
            if json { Ok(()) } else { s.out.line(&format!("{} {}", ended.id, ended.state)) }
        }
    }
}

/// The controller sends all that it keeps at once: when nothing came for so long, that was it.
const QUIET: Duration = Duration::from_secs(1);

pub(super) async fn events(s: &mut Session, command: EventCommand) -> Result<(), Error> {
    match command {
        EventCommand::List { kind, subject, last } => {
            let mut stream =
                s.client.events(routes::events().query_opt("subject", subject), Some("0".into()));
            let mut events = Vec::new();
            while let Ok(event) = tokio::time::timeout(QUIET, stream.next()).await {
                events.extend(wanted(&event?, kind.as_deref())?);
            }
            if let Some(last) = last {
                events.drain(..events.len().saturating_sub(last));
            }
            s.out.list::<Event>(events, tables::EVENTS, "no events")
        }
        EventCommand::Watch { kind, subject, after, count } => {
            let mut stream = s.client.events(routes::events().query_opt("subject", subject), after);
            let mut left = count;
            while left != Some(0) {
                let event = tokio::select! {
                    event = stream.next() => event?,
                    _ = tokio::signal::ctrl_c() => return Ok(()),
                };
                let Some(value) = wanted(&event, kind.as_deref())? else {
                    continue;
                };
                left = left.map(|left| left - 1);
                if s.out.json {
                    s.out.json_line(&value)?;
                    continue;
                }
                let event: Event = typed(value)?;
                s.out.line(&format!("{} {} {}: {}", event.at, event.kind, event.subject, event.message))?;
            }
            Ok(())
        }
    }
}

/// The event's JSON, if it is of the kind that is looked for.
fn wanted(event: &SseEvent, kind: Option<&str>) -> Result<Option<Value>, Error> {
    if event.kind == "missed" {
        eprintln!("some events before the next one are gone");
        return Ok(None);
    }
    let value: Value = serde_json::from_str(&event.data).map_err(|error| Error::BadAnswer {
        call: "the event stream".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(of_kind(&value, kind).then_some(value))
}

/// `instance` also means what goes on with `-` or `.`: `instance-changed`.
fn of_kind(event: &Value, kind: Option<&str>) -> bool {
    let Some(wanted) = kind else {
        return true;
    };
    let kind = event["kind"].as_str().unwrap_or_default();
    kind.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.', '_']))
}

pub(super) async fn tokens(s: &mut Session, command: TokenCommand) -> Result<(), Error> {
    match command {
        TokenCommand::List => {
            let tokens = s.client.list(&routes::tokens()).await?;
            s.out.list::<ApiToken>(tokens, tables::TOKENS, "no tokens")
        }
        TokenCommand::Create { name, role, ttl } => {
            let body = CreateToken { name, role, ttl_seconds: ttl.map(|ttl| ttl.as_secs()) };
            let answer = s.change(routes::create_token().body(&body)?).await?;
            if s.out.json {
                return s.out.json(&answer);
            }
            let created: ApiTokenCreated = typed(answer)?;
            let token = &created.token;
            eprintln!(
                "{} ({}) may do what a {} may. Its secret is shown this once:",
                token.name, token.id, token.role
            );
            match &created.secret {
                Some(secret) => s.out.line(secret),
                None => Err(Error::Local(format!(
                    "the secret was told when this key was first used; revoke {} and make another token",
                    token.id
                ))),
            }
        }
        TokenCommand::Revoke { token } => {
            s.done(routes::revoke_token(&token), &format!("token {token} is revoked")).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_matched_by_their_words() {
        let event = serde_json::json!({"kind": "instance-changed"});
        for (wanted, matches) in [
            (None, true),
            (Some("instance"), true),
            (Some("instance-changed"), true),
            (Some("inst"), false),
            (Some("node"), false),
        ] {
            assert_eq!(of_kind(&event, wanted), matches, "{wanted:?}");
        }
    }
}
