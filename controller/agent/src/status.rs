//! `node-agent status`: the running agent leaves how its instances are in `status.json`; without an agent, they are
//! looked at.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use controller_api::node as wire;
use controller_api::node::instance_status::State;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::Config;
use crate::driver::Sight;
use crate::launch;
use crate::process::ProcessRef;
use crate::store::Store;

/// What the agent leaves.
#[derive(Debug, Serialize, Deserialize)]
struct StatusFile {
    agent: ProcessRef,
    instances: Vec<Row>,
}

/// One instance, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Its generation.
    pub generation: u64,
    /// `running` and so on.
    pub state: String,
    /// `namespaces`, `kvm` or `tcg`, while it runs.
    pub runtime: String,
    /// Its first process: of a container the one whose namespaces are the instance's.
    pub pid: Option<i32>,
    /// Thousandths of a core, as enforced; 0: not.
    pub cores_milli_limit: u32,
    /// Bytes, as enforced; 0: not.
    pub memory_bytes_limit: u64,
    /// CPU time, microseconds.
    pub cpu_usec: u64,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// A sentence.
    pub detail: String,
}

/// Writes each change into the state directory, at most ten times a second.
pub(crate) async fn keep(root: PathBuf, mut statuses: watch::Receiver<Vec<wire::InstanceStatus>>) {
    let Ok(agent) = i32::try_from(std::process::id()).map_err(io::Error::other).and_then(ProcessRef::of)
    else {
        return std::future::pending().await;
    };
    let Ok(store) = Store::open(&root) else { return std::future::pending().await };
    loop {
        let instances: Vec<wire::InstanceStatus> = statuses.borrow_and_update().clone();
        let there = instances.into_iter().filter(|status| status.state() != State::Absent);
        let rows = there.map(|status| row(&store, status)).collect();
        if let Err(error) = write(&root, &StatusFile { agent, instances: rows }) {
            tracing::debug!("cannot write status.json: {error}");
        }
        if statuses.changed().await.is_err() {
            return std::future::pending().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The instances, and whether an agent is there to look after them.
pub fn read(config: &Config) -> anyhow::Result<(bool, Vec<Row>)> {
    match std::fs::read(config.state_dir.join("status.json")) {
        Ok(bytes) => {
            if let Ok(file) = serde_json::from_slice::<StatusFile>(&bytes)
                && file.agent.is_alive()
            {
                return Ok((true, file.instances));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            anyhow::bail!("{} is root's alone: run as root", config.state_dir.display());
        }
        Err(_) => {}
    }
    if !config.state_dir.exists() {
        return Ok((false, Vec::new()));
    }
    Ok((false, look(config)?))
}

/// A table of them.
pub fn table(rows: &[Row]) -> String {
    let heads = ["ID", "NAME", "DRIVER", "GEN", "STATE", "CORES", "MEMORY", "USED", "CPU s", "DETAIL"];
    let mut lines = vec![heads.map(str::to_owned)];
    for row in rows {
        let mebi = |bytes: u64| format!("{} MiB", bytes >> 20);
        let limit = |text: String, none: bool| if none { "-".to_owned() } else { text };
        lines.push([
            row.id.clone(),
            row.name.clone(),
            if row.runtime.is_empty() {
                row.driver.clone()
            } else {
                format!("{}/{}", row.driver, row.runtime)
            },
            row.generation.to_string(),
            row.state.clone(),
            limit(format!("{}", f64::from(row.cores_milli_limit) / 1000.0), row.cores_milli_limit == 0),
            limit(mebi(row.memory_bytes_limit), row.memory_bytes_limit == 0),
            mebi(row.memory_bytes),
            format!("{}.{}", row.cpu_usec / 1_000_000, row.cpu_usec / 100_000 % 10),
            row.detail.clone(),
        ]);
    }
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |line: &[String; 10]| {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn look(config: &Config) -> anyhow::Result<Vec<Row>> {
    let store = Store::open(&config.state_dir)?;
    let drivers = config.make_drivers(Path::new("/proc/self/exe"))?;
    let mut rows = Vec::new();
    for (id, record) in store.records()? {
        let mut status = wire::InstanceStatus { id: id.to_string(), ..Default::default() };
        match record {
            Err(error) => {
                status.set_state(State::Failed);
                status.detail = error.to_string();
            }
            Ok(record) => {
                status.generation = record.spec.generation;
                let spec = record.started_with.as_ref().unwrap_or(&record.spec);
                match drivers.get(&spec.driver).map(|driver| driver.look(spec, &store.home(&id))) {
                    Some(Sight::Running(running)) => {
                        status.set_state(State::Running);
                        status.cpu_usec = running.usage.cpu_usec;
                        status.memory_bytes = running.usage.memory_bytes;
                        status.cores_milli_limit = running.limits.cores_milli;
                        status.memory_bytes_limit = running.limits.memory_bytes;
                        (status.runtime, status.detail) = (running.runtime, running.detail);
                    }
                    Some(Sight::Stopped(why)) => {
                        status.set_state(State::Stopped);
                        status.detail = why.unwrap_or_default();
                    }
                    None => "its driver is not configured".clone_into(&mut status.detail),
                }
            }
        }
        rows.push(row(&store, status));
    }
    Ok(rows)
}

fn row(store: &Store, status: wire::InstanceStatus) -> Row {
    let home = crate::spec::InstanceId::parse(&status.id).ok().map(|id| store.home(&id));
    let pid = home.as_ref().and_then(|home| launch::look(home).ok()).map(|processes| processes.main.pid);
    let spec = home.and_then(|home| home.record().ok().flatten()).map(|record| record.spec);
    let state = status.state().as_str_name().to_lowercase();
    Row {
        name: spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default(),
        driver: spec.map(|spec| spec.driver.as_str().to_owned()).unwrap_or_default(),
        generation: status.generation,
        state,
        runtime: status.runtime,
        pid,
        cores_milli_limit: status.cores_milli_limit,
        memory_bytes_limit: status.memory_bytes_limit,
        cpu_usec: status.cpu_usec,
        memory_bytes: status.memory_bytes,
        detail: status.detail,
        id: status.id,
    }
}

/// Whole or not at all; what is lost with the machine is written anew.
fn write(root: &Path, file: &StatusFile) -> io::Result<()> {
    let temporary = root.join("status.json.new");
    std::fs::write(&temporary, serde_json::to_vec(file).map_err(io::Error::other)?)?;
    std::fs::rename(temporary, root.join("status.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up_and_says_what_is_not_enforced() {
        let row = Row {
            id: "inst-1".into(),
            name: "web".into(),
            driver: "container".into(),
            generation: 3,
            state: "running".into(),
            runtime: "namespaces".into(),
            pid: Some(4711),
            cores_milli_limit: 1500,
            memory_bytes_limit: 0,
            cpu_usec: 12_340_000,
            memory_bytes: 5 << 20,
            detail: String::new(),
        };
        let table = table(&[row]);
        let lines: Vec<_> = table.lines().collect();
        assert!(
            lines[1].contains("container/namespaces  3    running  1.5    -       5 MiB  12.3"),
            "{table}"
        );
    }
}
