//! `switchd rotate-key` without a running daemon: a short session for one message.

use std::time::Duration;

use controller_api::node::controller_to_switch::Message as FromController;
use controller_api::node::switch_message::Message as ToController;
use controller_api::node::{RegisterSwitch, RotateKey, SwitchMessage};
use node_session::joined::Joined;
use node_session::{random, rotation};

use super::dial::{self, DialError, Opened};
use super::keys::KeyFile;
use crate::config::Config;
use crate::key::{PrivateKey, PublicKey};

/// Rotates the key of the node that `config` and `joined` describe, and that does not run.
pub async fn rotate(config: &Config, joined: &Joined) -> anyhow::Result<PublicKey> {
    let path = config.node.private_key.clone();
    let mut keys = KeyFile::new(path.clone(), PrivateKey::load(&path)?);
    let unfinished = keys.next().cloned();
    let mut session = match (open(config, joined, keys.current()).await, unfinished) {
        (Err(DialError::Refused(_)), Some(next)) => {
            // The last rotation was carried out, and its end not heard.
            let session = open(config, joined, &next).await?;
            keys.confirm()?;
            session
        }
        (session, _) => session?,
    };
    let old = keys.current().public();
    let new = keys.begin()?;
    let rotate = RotateKey { public_key: new.public().0.to_vec(), proof: rotation::prove(new, &old) };
    session.to_controller.send(SwitchMessage { message: Some(ToController::RotateKey(rotate)) }).await?;
    loop {
        match next(&mut session).await? {
            FromController::KeyRotated(rotated) if rotated.error.is_empty() => {
                keys.confirm()?;
                return Ok(keys.current().public());
            }
            FromController::KeyRotated(rotated) => {
                keys.abandon()?;
                anyhow::bail!("the controller refused the new key: {}", rotated.error);
            }
            FromController::Goodbye(goodbye) => anyhow::bail!("{}", super::task::explain(&goodbye)),
            _ => {}
        }
    }
}

/// A session that is registered.
async fn open(config: &Config, joined: &Joined, key: &PrivateKey) -> Result<Opened, DialError> {
    let addresses = match config.controller.addresses.is_empty() {
        true => joined.controller.addresses.clone(),
        false => config.controller.addresses.clone(),
    };
    let register = RegisterSwitch {
        boot: random(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        listen_port: config.node.listen.port().into(),
        machine: dial::machine(),
        ..RegisterSwitch::default()
    };
    let mut session = dial::dial(addresses, key.clone(), joined.controller.public_key, register).await?;
    match next(&mut session).await? {
        FromController::Registered(_) => Ok(session),
        FromController::Goodbye(goodbye) => Err(DialError::Broken(super::task::explain(&goodbye))),
        _ => Err(DialError::Broken("the controller spoke before it registered this node".to_owned())),
    }
}

async fn next(session: &mut Opened) -> Result<FromController, DialError> {
    let message = tokio::time::timeout(ANSWER, session.from_controller.message()).await;
    match message.map_err(|_| DialError::Slow)?? {
        Some(message) => message.message.ok_or(DialError::Slow),
        None => Err(DialError::Broken("the controller closed it".to_owned())),
    }
}

const ANSWER: Duration = Duration::from_secs(10);
