//! `controller token`: through the admin socket of a running controller, or on the store of a stopped one.

use controller_registry::{Command, Input, Outcome, Role};

use super::role_name;
use crate::admin::{self, AdminAnswer, AdminClient, AdminRequest};
use crate::api_secret::new_secret;
use crate::config::Config;
use crate::engine;
use crate::store::FileStore;

pub(super) fn create(
    config: &Config,
    name: String,
    role: Role,
    hours: Option<u64>,
    print: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    let (secret, secret_hash) = new_secret();
    let ttl_ms = hours.map(|hours| hours * 3_600_000);
    let answer = ask(config, AdminRequest::CreateToken { name, role, secret_hash, ttl_ms })?;
    eprintln!("{}, role {}; the token, shown this once only:", answer.id, role_name(role));
    print(&secret);
    Ok(())
}

pub(super) fn list(config: &Config, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    print(&format!("{:<12} {:<10} {:<22} NAME", "ID", "ROLE", "EXPIRES"));
    for token in ask(config, AdminRequest::ListTokens)?.tokens {
        let expires = match token.expires_ms {
            None => "never".to_owned(),
            Some(at) => match at.saturating_sub(engine::now().0) {
                0 => "expired".to_owned(),
                left => format!("in {} h", left.div_ceil(3_600_000)),
            },
        };
        print(&format!("{:<12} {:<10} {:<22} {}", token.id, role_name(token.role), expires, token.name));
    }
    Ok(())
}

pub(super) fn revoke(config: &Config, token: String) -> anyhow::Result<()> {
    ask(config, AdminRequest::RevokeToken { token }).map(drop)
}

fn ask(config: &Config, request: AdminRequest) -> anyhow::Result<AdminAnswer> {
    if let Some(client) = AdminClient::connect(&config.admin_socket)? {
        return Ok(client.ask(&request)?.0);
    }
    let store = FileStore::open(&config.store_path())?;
    let command = match request {
        AdminRequest::ListTokens => {
            let tokens = admin::tokens(&engine::load(&store)?);
            return Ok(AdminAnswer { tokens, ..AdminAnswer::default() });
        }
        AdminRequest::CreateToken { name, role, secret_hash, ttl_ms } => {
            Command::CreateApiToken { name, role, secret_hash, ttl_ms }
        }
        AdminRequest::RevokeToken { token } => Command::DeleteApiToken { token },
        AdminRequest::Backup => anyhow::bail!("a backup is no token"),
    };
    let outcome = engine::apply(&store, [Input::Command(command.into())])?;
    let id = match outcome {
        Outcome::ApiToken(id) => id.to_string(),
        _ => String::new(),
    };
    Ok(AdminAnswer { id, ..AdminAnswer::default() })
}
