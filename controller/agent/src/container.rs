//! The container driver: Linux namespaces and control groups.
//!
//! Given: own mounts (a read-only root, private /tmp and /run, the volume at /data), processes, hostname, IPC and
//! network; a limit on cores and memory; no capability that reaches the kernel's configuration, devices or other
//! namespaces; `no_new_privs` for a type's command. Not given: user namespaces (root inside is root of the host behind
//! these fences), a filter of system calls, a limit on I/O. It keeps plain workloads apart, not hostile ones: run those
//! as QEMU guests.

use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::cgroup::{Group, Hierarchies, Limits};
use crate::driver::{Driver, Running, Sight, Volume};
use crate::failure::{Failure, Step};
use crate::image::Images;
use crate::launch::{self, ContainerLaunch, Launch, Program};
use crate::net::{self, Net};
use crate::spec::Spec;
use crate::store::Home;

/// What the driver needs to know of the node.
#[derive(Clone, Debug)]
pub struct ContainerDriver {
    /// Where images are.
    pub images: Images,
    /// The control groups.
    pub hierarchies: Hierarchies,
    /// The program of which `<program> shim` is the shim.
    pub shim: PathBuf,
    /// What a container on the host's root does not see: keys and other instances.
    pub hidden: Vec<PathBuf>,
    /// Bytes of an instance's log.
    pub log_bytes: u64,
}

#[async_trait]
impl Driver for ContainerDriver {
    async fn create(&self, _: &Spec, home: &Home) -> Result<(), Failure> {
        fs::create_dir_all(home.volume()).step("make the volume")?;
        open_to_all(&home.volume()).step("make the volume")
    }

    async fn start(&self, spec: &Spec, home: &Home) -> Result<(), Failure> {
        let net = Net::open()?;
        let bridges = net.bridges(&spec.nics).await?;
        let base = match &spec.image {
            None => PathBuf::from("/"),
            Some(name) => {
                let (images, name) = (self.images.clone(), name.clone());
                let found = tokio::task::spawn_blocking(move || images.root(&name)).await;
                found.unwrap_or_else(|_| Err(Failure::transient("unpacking the image was broken off")))?
            }
        };
        let group = self.group(spec);
        let wanted = Limits { cores_milli: spec.cores_milli, memory_bytes: spec.memory_bytes };
        let problems = group.make(wanted);
        let launch = Launch {
            what: Program::Container(ContainerLaunch {
                base,
                root: home.run_dir().join("root"),
                volume: home.volume(),
                hidden: self.hidden.clone(),
                hostname: spec.hostname(),
                command: spec.command.clone(),
                environment: spec.environment.clone(),
            }),
            log: home.log(),
            log_bytes: self.log_bytes,
            cgroup_procs: group.procs_files(),
            runtime: "namespaces".to_owned(),
            problems,
        };
        let made = launch::make(&self.shim, home, &launch).await?;
        for (index, (nic, bridge)) in spec.nics.iter().zip(bridges).enumerate() {
            net.plug_pair(&net::device_name(&spec.id, index), index, nic, bridge, made.pid).await?;
        }
        let (pid, nics) = (made.pid, spec.nics.clone());
        let configured = tokio::task::spawn_blocking(move || net::configure_inside(pid, nics)).await;
        configured.unwrap_or_else(|_| Err(Failure::transient("configuring the network was broken off")))?;
        made.go().await
    }

    async fn stop(&self, spec: &Spec, home: &Home) -> Result<(), Failure> {
        launch::end(home, async |main| {
            main.signal(libc::SIGTERM).ok();
        })
        .await?;
        clear_group(&self.group(spec)).await?;
        let net = Net::open()?;
        for index in 0..spec.nics.len() {
            net.unplug(&net::device_name(&spec.id, index)).await?;
        }
        Ok(())
    }

    fn look(&self, spec: &Spec, home: &Home) -> Sight {
        look(&self.group(spec), home)
    }

    fn volume(&self, home: &Home) -> Volume {
        Volume::Directory(home.volume())
    }

    async fn adopt(&self, _: &Spec, home: &Home) -> Result<(), Failure> {
        open_to_all(&home.volume()).step("take the volume over")
    }
}

impl ContainerDriver {
    fn group(&self, spec: &Spec) -> Group {
        self.hierarchies.group(spec.id.as_str())
    }
}

/// The state of a launched instance, by its files and its control groups.
pub(crate) fn look(group: &Group, home: &Home) -> Sight {
    match launch::look(home) {
        Ok(processes) => {
            let launch: Option<Launch> = home.read_run("launch.json").ok().flatten();
            let (runtime, problems) = launch.map(|l| (l.runtime, l.problems)).unwrap_or_default();
            Sight::Running(Running {
                runtime,
                limits: group.limits(),
                usage: group.usage(),
                detail: problems.join("; "),
                since: processes.since,
            })
        }
        Err(detail) => {
            let killed = group.usage().oom_kills > 0;
            Sight::Stopped(detail.map(|detail| match killed {
                true => format!("{detail}; processes were killed at the memory limit"),
                false => detail,
            }))
        }
    }
}

/// Ends whatever is left in the groups, and removes them.
pub(crate) async fn clear_group(group: &Group) -> Result<(), Failure> {
    for _ in 0..CLEAR_ROUNDS {
        for process in group.processes() {
            process.signal(libc::SIGKILL).ok();
        }
        if group.remove().is_ok() {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    group.remove().step("remove the control groups")
}

/// The home is root's alone; the volume is what a container's users see of it.
fn open_to_all(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path)?.permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o755))
}

const CLEAR_ROUNDS: usize = 100;
