//! Carries out what [`crate::reconcile`] decides, one task a step, and keeps the records. One owner of all state: the
//! loop of [`Engine::run`].

mod live;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller_api::node as wire;
use tokio::sync::{mpsc, oneshot, watch};

use self::live::Live;
use crate::driver::{Driver, Sight};
use crate::failure::Failure;
use crate::reconcile::{Action, Failed, FailureClass, Observed, reconcile};
use crate::spec::{Desired, DriverKind, InstanceId, Spec};
use crate::store::{DesiredFile, Record, Store, StoreError};
use crate::transfer::Transfers;

/// What the controller says, parsed.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The specs that make sense.
    pub file: DesiredFile,
    /// Those that do not.
    pub rejected: Vec<Rejected>,
}

/// A spec that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// As it was sent.
    pub id: String,
    /// As it was sent.
    pub generation: u64,
    /// Why.
    pub detail: String,
}

impl From<wire::DesiredInstances> for Wanted {
    fn from(desired: wire::DesiredInstances) -> Wanted {
        let mut wanted = Wanted {
            file: DesiredFile { epoch: desired.epoch, revision: desired.revision, instances: Vec::new() },
            rejected: Vec::new(),
        };
        for spec in desired.instances {
            let (id, generation) = (spec.id.clone(), spec.generation);
            match Spec::try_from(spec) {
                Ok(spec) => wanted.file.instances.push(spec),
                Err(error) => wanted.rejected.push(Rejected { id, generation, detail: error.to_string() }),
            }
        }
        wanted
    }
}

/// The engine; [`Engine::run`] it.
pub struct Engine {
    store: Store,
    drivers: BTreeMap<DriverKind, Arc<dyn Driver>>,
    transfers: Arc<dyn Transfers>,
    desired: BTreeMap<InstanceId, Spec>,
    rejected: Vec<Rejected>,
    live: BTreeMap<InstanceId, Live>,
    damaged: BTreeMap<InstanceId, String>,
    done: (mpsc::UnboundedSender<Done>, mpsc::UnboundedReceiver<Done>),
    began: Instant,
}

/// A step that ended.
struct Done {
    id: InstanceId,
    /// Tells this step from one that was broken off.
    number: u64,
    action: Action,
    result: Result<(), Failure>,
}

impl Engine {
    /// Takes up what is in the state directory.
    pub fn open(
        store: Store,
        drivers: BTreeMap<DriverKind, Arc<dyn Driver>>,
        transfers: Arc<dyn Transfers>,
    ) -> Result<Engine, StoreError> {
        let mut engine = Engine {
            store,
            drivers,
            transfers,
            desired: BTreeMap::new(),
            rejected: Vec::new(),
            live: BTreeMap::new(),
            damaged: BTreeMap::new(),
            done: mpsc::unbounded_channel(),
            began: Instant::now(),
        };
        for (id, record) in engine.store.records()? {
            match record {
                Ok(record) => {
                    engine.live.insert(id, Live::new(record, true));
                }
                Err(error) => {
                    tracing::error!(instance = %id, "{error}");
                    engine.damaged.insert(id, error.to_string());
                }
            }
        }
        match engine.store.desired() {
            Ok(file) => engine.want(Wanted { file: file.unwrap_or_default(), rejected: Vec::new() }),
            Err(error) => {
                tracing::error!("{error}; the instances run on, the controller will say anew what shall be");
            }
        }
        Ok(engine)
    }

    /// Runs until `wanted` closes. `statuses` gets how all instances are; `ready` is told when the first round is done.
    /// Instances run on when it returns.
    pub async fn run(
        mut self,
        mut wanted: mpsc::Receiver<Wanted>,
        statuses: &watch::Sender<Vec<wire::InstanceStatus>>,
        ready: oneshot::Sender<()>,
    ) {
        let mut ready = Some(ready);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.look();
            self.step();
            self.publish(statuses);
            if self.live.values().all(|live| live.busy.is_none())
                && let Some(ready) = ready.take()
            {
                ready.send(()).ok();
            }
            tokio::select! {
                message = wanted.recv() => match message {
                    Some(wanted) => {
                        if let Err(error) = self.store.save_desired(&wanted.file) {
                            tracing::error!("{error}; a restart waits for the controller's word");
                            self.store.forget_desired();
                        }
                        self.want(wanted);
                    }
                    None => return,
                },
                Some(done) = self.done.1.recv() => self.finished(done),
                _ = tick.tick() => {}
            }
        }
    }

    fn want(&mut self, wanted: Wanted) {
        let specs = wanted.file.instances.into_iter().map(|spec| (spec.id.clone(), spec));
        self.desired = specs.collect();
        self.rejected = wanted.rejected;
        // To remove what cannot be read takes no more than the wish.
        let named: Vec<InstanceId> = self.damaged.keys().cloned().collect();
        for id in named {
            if let Some(spec) = self.desired.get(&id).filter(|spec| spec.desired == Desired::Absent) {
                let record =
                    Record { spec: spec.clone(), started_with: None, uploaded_to: None, has_volume: true };
                self.damaged.remove(&id);
                self.live.insert(id, Live::new(record, true));
            }
        }
    }

    /// Sees what became of the instances since the last round.
    fn look(&mut self) {
        let now = self.began.elapsed();
        for live in self.live.values_mut().filter(|live| live.created) {
            let Some(driver) = self.drivers.get(&live.record.spec.driver) else { continue };
            let home = self.store.home(&live.record.spec.id);
            // By the spec that it runs with: its limits are that one's.
            let spec = live.record.started_with.as_ref().unwrap_or(&live.record.spec);
            let sight = driver.look(spec, &home);
            live.saw(sight, now);
        }
    }

    fn step(&mut self) {
        let observed: BTreeMap<InstanceId, Observed> =
            self.live.iter().map(|(id, live)| (id.clone(), live.observed())).collect();
        let mut desired = self.desired.clone();
        desired.retain(|id, _| !self.damaged.contains_key(id));
        for (id, action) in reconcile(&desired, &observed, self.began.elapsed()) {
            let spec = desired.remove(&id).expect("actions are for desired instances");
            self.act(&id, spec, action);
        }
        // What could not be made and is no longer wanted has nothing to show.
        let wanted = &self.desired;
        self.live.retain(|id, live| {
            live.created
                || live.busy.is_some()
                || wanted.get(id).is_some_and(|spec| spec.desired != Desired::Absent)
        });
    }

    fn act(&mut self, id: &InstanceId, spec: Spec, action: Action) {
        tracing::info!(instance = %id, generation = spec.generation, ?action, "step");
        let live = self.live.entry(id.clone()).or_insert_with(|| {
            let has_volume = spec.download_from.is_none();
            let record = Record { spec: spec.clone(), started_with: None, uploaded_to: None, has_volume };
            Live::new(record, false)
        });
        if action == Action::Cancel {
            live.cancel();
            return;
        }
        let home = self.store.home(id);
        if action == Action::Record {
            live.record.spec = spec;
            if let Err(error) = home.save_record(&live.record) {
                tracing::error!(instance = %id, "{error}");
            }
            return;
        }
        if !live.created {
            live.record.spec = spec.clone();
        }
        let Some(driver) = self.drivers.get(&spec.driver).cloned() else {
            let detail =
                format!("this node has no driver {}: see 'drivers' in agent.toml", spec.driver.as_str());
            live.failed(Failure::permanent(detail), self.began.elapsed());
            return;
        };
        let (record, transfers) = (live.record.clone(), self.transfers.clone());
        let (progress, number) = (live.progress.clone(), live.begin());
        let (done, id, step) = (self.done.0.clone(), id.clone(), action.clone());
        let task = tokio::spawn(async move {
            let result = carry_out(&step, record, &home, &*driver, &*transfers, progress).await;
            done.send(Done { id, number, action: step, result }).ok();
        });
        live.busy = Some((action, task));
    }

    fn finished(&mut self, done: Done) {
        let now = self.began.elapsed();
        let Some(live) = self.live.get_mut(&done.id).filter(|live| live.number == done.number) else {
            return;
        };
        live.busy = None;
        let home = self.store.home(&done.id);
        match done.result {
            Err(failure) => {
                tracing::warn!(instance = %done.id, action = ?done.action, "{failure}");
                live.failed(failure, now);
            }
            Ok(()) => {
                live.failure = None;
                if done.action == Action::Remove {
                    self.live.remove(&done.id);
                    return;
                }
                live.succeeded(&done.action, now);
            }
        }
        // Also after a failure: the step may have got as far as its record.
        if let Ok(Some(record)) = home.record() {
            live.record = Record { spec: live.record.spec.clone(), ..record };
            live.created = true;
        }
    }

    fn publish(&self, statuses: &watch::Sender<Vec<wire::InstanceStatus>>) {
        let now = self.began.elapsed();
        let mut all: Vec<wire::InstanceStatus> =
            self.live.iter().map(|(id, live)| live.status(id, now)).collect();
        let failed = |id: &str, generation, detail: &str| wire::InstanceStatus {
            id: id.to_owned(),
            generation,
            state: wire::instance_status::State::Failed.into(),
            detail: detail.to_owned(),
            ..Default::default()
        };
        for (id, detail) in &self.damaged {
            let generation = self.desired.get(id).map_or(0, |spec| spec.generation);
            all.push(failed(id.as_str(), generation, detail));
        }
        for rejected in &self.rejected {
            if !all.iter().any(|status| status.id == rejected.id) {
                all.push(failed(&rejected.id, rejected.generation, &rejected.detail));
            }
        }
        // Of what is to go the controller waits for the word that it has gone.
        let gone = |spec: &&Spec| {
            let there = self.live.contains_key(&spec.id) || self.damaged.contains_key(&spec.id);
            spec.desired == Desired::Absent && !there
        };
        all.extend(self.desired.values().filter(gone).map(|spec| wire::InstanceStatus {
            id: spec.id.to_string(),
            generation: spec.generation,
            state: wire::instance_status::State::Absent.into(),
            ..Default::default()
        }));
        statuses.send_if_modified(|old| {
            let changed = *old != all;
            if changed {
                *old = all;
            }
            changed
        });
    }
}

/// One step, to its end. Every record is on the disk before what it tells of is done.
async fn carry_out(
    action: &Action,
    mut record: Record,
    home: &crate::store::Home,
    driver: &dyn Driver,
    transfers: &dyn Transfers,
    progress: crate::transfer::Progress,
) -> Result<(), Failure> {
    let spec = record.spec.clone();
    match action {
        Action::Create => {
            home.make()?;
            driver.create(&spec, home).await?;
            home.save_record(&record)?;
        }
        Action::Download(transfer) => {
            transfers.download(transfer, driver.volume(home), progress).await?;
            driver.adopt(&spec, home).await?;
            record.has_volume = true;
            home.save_record(&record)?;
        }
        Action::Start => {
            // What an earlier try, or a machine that went down, left behind.
            driver.stop(record.started_with.as_ref().unwrap_or(&spec), home).await?;
            record.started_with = Some(spec.clone());
            record.has_volume = true;
            record.uploaded_to = None;
            home.save_record(&record)?;
            if let Err(failure) = driver.start(&spec, home).await {
                driver.stop(&spec, home).await.ok();
                return Err(failure);
            }
        }
        Action::Stop => driver.stop(record.started_with.as_ref().unwrap_or(&spec), home).await?,
        Action::Upload(transfer) => {
            transfers.upload(transfer, driver.volume(home), progress).await?;
            record.uploaded_to = Some(transfer.clone());
            home.save_record(&record)?;
        }
        Action::Remove => {
            driver.stop(record.started_with.as_ref().unwrap_or(&spec), home).await?;
            let (home, what) = (home.clone(), home.dir().display().to_string());
            let removed = tokio::task::spawn_blocking(move || home.remove()).await;
            let removed = removed.map_err(|_| Failure::transient("removing was broken off"))?;
            removed.map_err(|error| Failure::io(format!("remove {what}"), &error))?;
        }
        Action::Record | Action::Cancel => {}
    }
    Ok(())
}

/// How often instances are looked at.
const TICK: Duration = Duration::from_millis(500);
