//! The thread that owns the registry's writing side.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use controller_registry::{Changes, Effect, Input, Outcome, Record, Refusal, Write};
use tokio::sync::{mpsc, oneshot};

use super::{PUBLICATIONS, Shared, count, now};
use crate::store::{Store, StoreError, Transaction};

/// An input and who waits for the answer.
pub(super) struct Job {
    pub(super) input: Input,
    pub(super) answer: oneshot::Sender<Result<Outcome, Refusal>>,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<dyn Store>,
    pub(super) inbox: mpsc::Receiver<Job>,
    pub(super) effects: mpsc::UnboundedSender<Effect>,
}

impl Writer {
    /// Until the last engine is dropped, or the store fails.
    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        while let Some(job) = self.inbox.blocking_recv() {
            batch.push(job);
            while batch.len() < BATCH
                && let Ok(job) = self.inbox.try_recv()
            {
                batch.push(job);
            }
            if let Err(error) = self.carry_out(&mut batch) {
                tracing::error!(%error, "what was decided could not be stored; the controller stops");
                self.shared.failure.send_replace(Some(Arc::new(error)));
                return;
            }
        }
    }

    /// Lets the registry decide on all, persists, then lets everyone see.
    fn carry_out(&self, batch: &mut Vec<Job>) -> Result<(), StoreError> {
        // Held until it is on the disk: nobody sees what a crash could take back.
        let mut registry = self.shared.registry.blocking_write();
        let counters = &self.shared.counters;
        let mut answers = Vec::with_capacity(batch.len());
        for job in batch.drain(..) {
            count(&counters.inputs, 1);
            let answer = registry.handle(job.input, now());
            if answer.is_err() {
                count(&counters.refusals, 1);
            }
            answers.push((job.answer, answer));
        }
        let changes = registry.take_changes();
        if let Err(error) = self.persist(&changes.writes) {
            // Never unlocked again: the registry is ahead of the disk.
            std::mem::forget(registry);
            return Err(error);
        }
        let stored = Instant::now();
        let revision = registry.revision();
        drop(registry);
        if changes.revision_changed {
            let mut publications = self.shared.publications.lock().unwrap_or_else(PoisonError::into_inner);
            if publications.len() == PUBLICATIONS {
                publications.pop_front();
            }
            publications.push_back((revision, stored));
        }
        self.publish(changes);
        for (waiting, answer) in answers {
            // Whoever no longer waits has its input carried out all the same.
            let _ = waiting.send(answer);
        }
        Ok(())
    }

    fn persist(&self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        self.store.commit(transaction(writes))?;
        let counters = &self.shared.counters;
        count(&counters.commits, 1);
        count(&counters.writes, writes.len() as u64);
        counters.commit_duration.0.observe(start.elapsed().as_secs_f64());
        Ok(())
    }

    fn publish(&self, changes: Changes) {
        for write in &changes.writes {
            if let Write::Put(record) = write
                && let Record::Node(node) = &**record
            {
                self.shared.keys.update(node);
            }
        }
        for event in &changes.events {
            tracing::info!(kind = event.kind.as_str(), subject = event.subject, "{}", event.message);
        }
        self.shared.events.publish(changes.events);
        for effect in changes.effects {
            // Its receiver goes last, with the process.
            let _ = self.effects.send(effect);
        }
        if changes.revision_changed {
            self.shared.published.send_modify(|count| *count += 1);
        }
        let mut agents = self.shared.agents.lock().unwrap_or_else(PoisonError::into_inner);
        for node in changes.agents {
            if let Some(agent) = agents.get(&node) {
                agent.send_modify(|count| *count += 1);
            }
        }
        agents.retain(|_, agent| agent.receiver_count() > 0);
    }
}

/// The writes as the store takes them.
pub(super) fn transaction(writes: &[Write]) -> Transaction {
    writes.iter().fold(Transaction::default(), |transaction, write| match write {
        Write::Put(record) => {
            let value = serde_json::to_vec(record).expect("records have text keys only, so they are JSON");
            transaction.put(record.key().to_string(), value)
        }
        Write::Remove(key) => transaction.delete(key.to_string()),
    })
}

/// Inputs that share a transaction: bounded, so that a flood does not keep the first one waiting for long.
const BATCH: usize = 1024;
