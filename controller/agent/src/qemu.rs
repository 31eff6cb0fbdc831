//! The QEMU driver: guests under KVM, or TCG where there is none.
//!
//! QEMU runs as root behind its own system call filter (`-sandbox on`); cores are vCPUs, and a quota of the control
//! group on top for all that QEMU does; memory is the guest's own, QEMU's few tens of megabytes come on top.

mod args;
mod disk;
mod qmp;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

pub use self::qmp::{Qmp, QmpError};
use crate::cgroup::{Group, Hierarchies, Limits};
use crate::container::{clear_group, look};
use crate::driver::{Driver, Sight, Volume};
use crate::failure::{Failure, Step};
use crate::image::Images;
use crate::launch::{self, KIND, Launch, Program};
use crate::net::{self, Net};
use crate::spec::Spec;
use crate::store::Home;

/// What makes a guest's CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// KVM where `/dev/kvm` can be opened, else TCG.
    #[default]
    Auto,
    /// The kernel and the CPU.
    Kvm,
    /// QEMU's translator: works everywhere, ten times slower.
    Tcg,
}

impl Accelerator {
    /// `kvm` or `tcg`.
    pub fn resolve(self) -> &'static str {
        let usable = || fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
            Accelerator::Auto if usable() => "kvm",
            Accelerator::Auto => "tcg",
        }
    }
}

/// What the driver needs to know of the node.
#[derive(Clone, Debug)]
pub struct QemuDriver {
    /// Where images are.
    pub images: Images,
    /// The control groups.
    pub hierarchies: Hierarchies,
    /// The program of which `<program> shim` is the shim.
    pub shim: PathBuf,
    /// QEMU.
    pub program: PathBuf,
    /// What makes the CPUs.
    pub accelerator: Accelerator,
    /// Bytes of an instance's log.
    pub log_bytes: u64,
}

#[async_trait]
impl Driver for QemuDriver {
    async fn create(&self, spec: &Spec, home: &Home) -> Result<(), Failure> {
        let image = self.image(spec)?;
        let backing = image.disk()?;
        if home.disk().exists() || (backing.is_none() && spec.disk_bytes == 0) {
            return Ok(());
        }
        let new = home.dir().join("disk.new");
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]);
        if let Some((path, format)) = &backing {
            let least = virtual_size(path).await?;
            if spec.disk_bytes != 0 && spec.disk_bytes < least {
                return Err(Failure::permanent(format!(
                    "the type's disk of {} bytes is smaller than the image's of {least}",
                    spec.disk_bytes
                )));
            }
            command.arg("-b").arg(path).args(["-F", format]);
        }
        command.arg(&new);
        if spec.disk_bytes != 0 {
            command.arg(spec.disk_bytes.to_string());
        }
        qemu_img(command).await?;
        fs::rename(&new, home.disk()).step("make the disk")
    }

    async fn start(&self, spec: &Spec, home: &Home) -> Result<(), Failure> {
        let net = Net::open()?;
        let bridges = net.bridges(&spec.nics).await?;
        let socket = home.run_dir().join("qmp.sock");
        if socket.as_os_str().len() > LONGEST_SOCKET {
            return Err(Failure::permanent(format!(
                "the path {} is too long for a socket: choose a shorter state_dir",
                socket.display()
            )));
        }
        let accelerator = self.accelerator.resolve();
        let boot =
            args::Boot { kernel: self.image(spec)?.kernel(), disk: Some(home.disk()).filter(|d| d.exists()) };
        let group = self.group(spec);
        let problems = group.make(Limits { cores_milli: spec.cores_milli, memory_bytes: 0 });
        let mut argv = vec![self.program.display().to_string()];
        argv.extend(args::args(spec, &boot, accelerator, &socket.display().to_string()));
        let launch = Launch {
            what: Program::Host(argv),
            log: home.log(),
            log_bytes: self.log_bytes,
            cgroup_procs: group.procs_files(),
            runtime: accelerator.to_owned(),
            problems,
        };
        home.remove_run("qmp.sock").step("remove the last control socket")?;
        let made = launch::make(&self.shim, home, &launch).await?;
        for (index, (nic, bridge)) in spec.nics.iter().zip(bridges).enumerate() {
            net.plug_tap(&net::device_name(&spec.id, index), nic, bridge).await?;
        }
        made.go().await?;
        wait_until_runs(home, &socket).await
    }

    async fn stop(&self, spec: &Spec, home: &Home) -> Result<(), Failure> {
        let socket = home.run_dir().join("qmp.sock");
        launch::end(home, async |main| {
            if let Ok(mut qmp) = Qmp::connect(&socket).await {
                let asked = qmp.powerdown().await;
                if asked.is_ok() && main.ended(KIND).await {
                    return;
                }
                // The guest does not listen: QEMU at least writes its disk.
                if qmp.quit().await.is_ok() {
                    return;
                }
            }
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
        match look(&self.group(spec), home) {
            Sight::Running(mut running) => {
                // Given by -m, whatever the control groups say.
                running.limits.memory_bytes = args::guest_memory(spec);
                Sight::Running(running)
            }
            stopped => stopped,
        }
    }

    fn volume(&self, home: &Home) -> Volume {
        Volume::File(home.disk())
    }

    async fn adopt(&self, spec: &Spec, home: &Home) -> Result<(), Failure> {
        if !home.disk().exists() {
            return Ok(());
        }
        disk::check(&home.disk())?;
        // The image lies elsewhere here; and no file but it is read, whatever the disk's header names.
        let mut command = Command::new("qemu-img");
        command.args(["rebase", "-q", "-u", "-f", "qcow2"]);
        match self.image(spec)?.disk()? {
            Some((path, format)) => command.arg("-b").arg(path).args(["-F", format]),
            None => command.args(["-b", ""]),
        };
        command.arg(home.disk());
        qemu_img(command).await
    }
}

impl QemuDriver {
    fn group(&self, spec: &Spec) -> Group {
        self.hierarchies.group(spec.id.as_str())
    }

    fn image(&self, spec: &Spec) -> Result<Image, Failure> {
        let missing = || Failure::permanent("a QEMU guest needs an image: give the type one");
        Ok(Image(self.images.disk(spec.image.as_ref().ok_or_else(missing)?)?))
    }
}

/// An image of a guest: a disk's file, or a directory with `vmlinuz`, `initrd` and perhaps `disk.qcow2`.
struct Image(PathBuf);

impl Image {
    fn kernel(&self) -> Option<(PathBuf, PathBuf)> {
        let (kernel, initrd) = (self.0.join("vmlinuz"), self.0.join("initrd"));
        (kernel.is_file() && initrd.is_file()).then_some((kernel, initrd))
    }

    /// The disk with its format, as QEMU calls it.
    fn disk(&self) -> Result<Option<(PathBuf, &'static str)>, Failure> {
        let path = if self.0.is_dir() { self.0.join("disk.qcow2") } else { self.0.clone() };
        if !path.exists() {
            return match self.kernel() {
                Some(_) => Ok(None),
                None => Err(Failure::transient(format!(
                    "the image {} has neither vmlinuz and initrd nor disk.qcow2",
                    self.0.display()
                ))),
            };
        }
        let mut magic = [0; 4];
        let read = fs::File::open(&path).and_then(|mut file| file.read(&mut magic));
        read.step(format!("read the image {}", path.display()))?;
        Ok(Some((path, if &magic == b"QFI\xfb" { "qcow2" } else { "raw" })))
    }
}

async fn wait_until_runs(home: &Home, socket: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let asked = match Qmp::connect(socket).await {
            Ok(mut qmp) => qmp.status().await,
            Err(error) => Err(error),
        };
        let word = match asked {
            Ok(status) if status == "running" => return Ok(()),
            Ok(status) => format!("it is {status}"),
            Err(error) => error.to_string(),
        };
        if launch::look(home).is_err() {
            return Err(Failure::transient(format!("QEMU ended at once: {}", last_line(&home.log()))));
        }
        if Instant::now() > deadline {
            return Err(Failure::transient(format!("the guest does not run after {START_LIMIT:?}: {word}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn virtual_size(path: &Path) -> Result<u64, Failure> {
    let output = Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(path).output().await;
    let output = output.step("run qemu-img (install qemu-utils)")?;
    let info: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
    info.and_then(|info| info.get("virtual-size")?.as_u64())
        .ok_or_else(|| Failure::transient(format!("{} is no disk image", path.display())))
}

async fn qemu_img(mut command: Command) -> Result<(), Failure> {
    let output = command.output().await.step("run qemu-img (install qemu-utils)")?;
    if output.status.success() {
        return Ok(());
    }
    let word = String::from_utf8_lossy(&output.stderr);
    Err(Failure::transient(format!("qemu-img failed: {}", word.trim().replace('\n', " "))))
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
}

const START_LIMIT: Duration = Duration::from_secs(15);
/// `sun_path` has 108 bytes with its end.
const LONGEST_SOCKET: usize = 107;
