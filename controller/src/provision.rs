//! Does what the registry asks of providers, one thing at a time for each node, and tells it what came of that.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use controller_registry::{Command, Effect, Input, NodeId, OperationId, ProviderResult, SecretHash};
use node_session::key::PublicKey;
use node_session::token::{Secret, Token};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::engine::Engine;
use crate::nodes::Nodes;
use crate::provider::{
    Action, Cancel, Done, ExecProvider, MachineType, Progress, Provider, Providers, Request,
};

/// What join tokens say of this controller.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Its key.
    pub controller: PublicKey,
    /// Where nodes reach it.
    pub addresses: Vec<String>,
    /// The cluster's name.
    pub cluster: String,
}

impl Joining {
    /// The text of a token with that secret.
    pub fn token(&self, secret: Secret, ttl: Duration) -> String {
        let token = Token {
            addresses: self.addresses.clone(),
            controller: self.controller,
            secret,
            expires: node_session::unix_now().saturating_add(ttl.as_secs()),
            cluster: self.cluster.clone(),
        };
        token.to_string()
    }
}

/// Carries out effects until the engine is gone. What providers still do then is dropped, and with it their
/// processes; the next start asks for it again.
pub async fn carry_out(
    engine: Engine,
    nodes: Nodes,
    providers: Providers,
    joining: Joining,
    mut effects: mpsc::UnboundedReceiver<Effect>,
) {
    let mut work: HashMap<NodeId, Work> = HashMap::new();
    while let Some(effect) = effects.recv().await {
        nodes.carry_out(&effect);
        work.retain(|_, work| !work.task.is_finished());
        let node = match &effect {
            Effect::CreateNode { node, .. } | Effect::DestroyNode { node, .. } => *node,
            _ => continue,
        };
        let earlier = work.remove(&node);
        let (cancel, on_cancel) = watch::channel(false);
        let job = Job { engine: engine.clone(), providers: providers.clone(), joining: joining.clone() };
        let task = tokio::spawn(async move {
            if let Some(mut earlier) = earlier {
                // A machine is destroyed after what makes it has ended.
                earlier.cancel.send_replace(true);
                let _ = (&mut earlier.task).await;
            }
            job.run(effect, on_cancel).await;
        });
        work.insert(node, Work { cancel, task });
    }
}

struct Work {
    cancel: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Job {
    engine: Engine,
    providers: Providers,
    joining: Joining,
}

impl Job {
    async fn run(&self, effect: Effect, cancel: Cancel) {
        let (node, result) = match effect {
            Effect::CreateNode { operation, node, provider, name, node_type } => {
                let result = self.create(operation, node, &provider, name, node_type, cancel).await;
                (
                    node,
                    result.map_or_else(
                        |error| ProviderResult::CreateFailed { error },
                        |reference| ProviderResult::Created { reference },
                    ),
                )
            }
            Effect::DestroyNode { node, provider, name, reference } => {
                let result = self.destroy(node, &provider, name, reference, cancel).await;
                let failed = |error| ProviderResult::DestroyFailed { error };
                (node, result.map_or_else(failed, |()| ProviderResult::Destroyed))
            }
            _ => return,
        };
        if let Err(refusal) = self.engine.execute(Input::ProviderResult { node, result }).await {
            tracing::debug!(%node, "a provider's result came too late: {refusal}");
        }
    }

    async fn create(
        &self,
        operation: OperationId,
        node: NodeId,
        provider: &str,
        name: String,
        node_type: Option<String>,
        cancel: Cancel,
    ) -> Result<String, String> {
        let Provider::Exec(exec) = self.provider(provider)? else { return Ok(String::new()) };
        let machine_type = match node_type {
            Some(name) => Some(self.machine_type(name).await),
            None => None,
        };
        // The token that the call made is known to nobody any more; each attempt has one of its own.
        let secret = Secret::generate();
        let renew = Command::RenewToken {
            node: node.to_string(),
            secret_hash: SecretHash(secret.hash()),
            ttl_ms: u64::try_from(TOKEN_TTL.as_millis()).unwrap_or(u64::MAX),
        };
        self.engine.command(renew).await.map_err(|refusal| refusal.message)?;
        let request = Request {
            version: 1,
            action: Action::Create,
            operation: operation.to_string(),
            node: node.to_string(),
            name,
            machine_type,
            join_token: Some(self.joining.token(secret, TOKEN_TTL)),
            id: None,
        };
        let (say, mut said) = watch::channel(None);
        let on_progress = move |step: Progress| {
            tracing::info!(%node, provider, percent = step.percent, "{}", step.detail);
            say.send_replace(Some(step));
        };
        // The newest word is enough: a talkative provider is not kept waiting by the store.
        let pass_on = async {
            while said.changed().await.is_ok() {
                let Some(Progress { percent, detail }) = said.borrow_and_update().clone() else { continue };
                let progress = Input::ProviderProgress { operation, percent, detail };
                // One that comes too late is of no interest.
                let _ = self.engine.execute(progress).await;
            }
        };
        let (done, ()) = tokio::join!(self.call(exec, provider, &request, on_progress, cancel), pass_on);
        let done = done?;
        tracing::info!(%node, provider, id = done.id, "the node was made: {}", done.detail);
        Ok(done.id)
    }

    async fn destroy(
        &self,
        node: NodeId,
        provider: &str,
        name: String,
        reference: String,
        cancel: Cancel,
    ) -> Result<(), String> {
        let Provider::Exec(exec) = self.provider(provider)? else { return Ok(()) };
        let request = Request {
            version: 1,
            action: Action::Destroy,
            operation: format!("destroy-{node}"),
            node: node.to_string(),
            name,
            machine_type: None,
            join_token: None,
            id: Some(reference).filter(|reference| !reference.is_empty()),
        };
        let done = self.call(exec, provider, &request, |_| {}, cancel).await?;
        tracing::info!(%node, provider, "the node was destroyed: {}", done.detail);
        Ok(())
    }

    /// `on_progress` is dropped with the end of the call.
    async fn call(
        &self,
        exec: &ExecProvider,
        provider: &str,
        request: &Request,
        on_progress: impl FnMut(Progress) + Send,
        cancel: Cancel,
    ) -> Result<Done, String> {
        let begin = Instant::now();
        let result = exec.run(request, on_progress, cancel).await;
        self.providers.calls().ended(provider, request.action, &result, begin.elapsed());
        result.map_err(|error| error.to_string())
    }

    fn provider(&self, name: &str) -> Result<&Provider, String> {
        let missing = || format!("provider {name} is not in controller.toml any more: put it back");
        self.providers.get(name).ok_or_else(missing)
    }

    async fn machine_type(&self, name: String) -> MachineType {
        let found = self
            .engine
            .read(|registry| registry.find_type(&name).ok().map(|found| found.limits.clone()))
            .await;
        let limits = found.unwrap_or_default();
        MachineType {
            name,
            cores_milli: limits.cores_milli,
            memory_bytes: limits.memory_bytes,
            disk_bytes: limits.disk_bytes,
        }
    }
}

/// Longer than a provider may take.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);
