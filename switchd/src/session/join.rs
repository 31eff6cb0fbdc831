//! `switchd join` and `switchd leave`: becoming a node of a cluster, and forgetting that.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use controller_api::node::EnrolRequest;
use controller_api::node::node_service_client::NodeServiceClient;
use node_session::client;
use node_session::joined::{Controller, Joined};
use node_session::token::Token;
use node_session::unix_now;
use tonic::Code;

use super::store;
use crate::key::{KeyError, PrivateKey};

/// What `switchd join` is given.
pub struct Join<'a> {
    /// The join token.
    pub token: &'a str,
    /// The name that the node would like.
    pub name: &'a str,
    /// Where what it joined is kept.
    pub state_dir: &'a Path,
    /// File of its key; made if there is none.
    pub key_file: &'a Path,
    /// Join although it has joined already.
    pub force: bool,
}

/// Enrols this node's key, and writes down what it joined.
pub async fn join(join: Join<'_>) -> anyhow::Result<Joined> {
    let token: Token = join.token.parse()?;
    if !join.force {
        refuse_twice(join.state_dir)?;
    }
    let expired = token.is_expired(unix_now());
    let key = match PrivateKey::load(join.key_file) {
        Err(KeyError::Missing { .. }) => {
            let key = PrivateKey::generate()?;
            key.save(join.key_file, false)?;
            key
        }
        key => key?,
    };
    let channel = client::connect(&token.addresses, &key, token.controller).await?;
    let request = EnrolRequest {
        secret: token.secret.bytes().to_vec(),
        name: join.name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut client = NodeServiceClient::new(channel);
    let answer = tokio::time::timeout(ANSWER, client.enrol(request))
        .await
        .context("the controller did not answer: try again with the same token")?;
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(refused(&status, expired)),
    };
    let joined = Joined {
        node_id: answer.node_id,
        node_name: answer.node_name,
        cluster: answer.cluster,
        controller: Controller { addresses: token.addresses, public_key: token.controller },
        joined_at: unix_now(),
        removed: None,
    };
    // Of another cluster, or of an earlier life in this one.
    store::forget(join.state_dir)
        .with_context(|| format!("removing the old state in {}", join.state_dir.display()))?;
    joined.save(join.state_dir)?;
    Ok(joined)
}

/// Forgets the controller, and with `key_file` this node's key. Says whether there was something to forget.
pub fn leave(state_dir: &Path, key_file: Option<&Path>) -> anyhow::Result<bool> {
    let had_joined = Joined::path(state_dir).exists();
    Joined::forget(state_dir)?;
    store::forget(state_dir).with_context(|| format!("removing the state in {}", state_dir.display()))?;
    if let Some(path) = key_file {
        node_session::file::remove(path).with_context(|| format!("removing the key {}", path.display()))?;
    }
    Ok(had_joined)
}

fn refuse_twice(state_dir: &Path) -> anyhow::Result<()> {
    match Joined::load(state_dir)? {
        Some(joined) if joined.removed.is_none() => bail!(
            "this node has joined cluster {} already, as {}: switchd leave forgets that, or join again with --force",
            joined.cluster,
            joined.node_name
        ),
        _ => Ok(()),
    }
}

fn refused(status: &tonic::Status, expired: bool) -> anyhow::Error {
    let mend = "make a new token: skippy add-compute-node";
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal | Code::Unknown => {
            anyhow::anyhow!(
                "the controller broke off ({}): try again with the same token; is it said to be used, {mend}",
                status.message()
            )
        }
        _ if expired => anyhow::anyhow!(
            "the controller refused the join token ({}); it has expired by this host's clock too: {mend}",
            status.message()
        ),
        _ => anyhow::anyhow!("the controller refused the join token ({}): {mend}", status.message()),
    }
}

const ANSWER: Duration = Duration::from_secs(10);
