//! dnsmasq in one instance, busybox's udhcpc in another.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::lab::Instance;

/// A DHCP server (and router, for SLAAC) on an instance's `eth0`; ended on drop.
#[derive(Debug)]
pub struct DhcpServer {
    child: Child,
}

impl DhcpServer {
    /// Serves `ranges` (dnsmasq's `--dhcp-range` values) from `instance`, with its files in `dir`.
    pub fn start(instance: &Instance, dir: &Path, ranges: &[&str]) -> Result<DhcpServer> {
        let name = instance.name();
        let log = File::create(dir.join(format!("{name}-dnsmasq.log")))?;
        let leases = format!("--dhcp-leasefile={}", dir.join(format!("{name}.leases")).display());
        let pid = format!("--pid-file={}", dir.join(format!("{name}.pid")).display());
        let ranges: Vec<String> = ranges.iter().map(|range| format!("--dhcp-range={range}")).collect();
        let mut args: Vec<&str> = "dnsmasq --keep-in-foreground --log-facility=- --conf-file=/dev/null --port=0 \
                                   --user=root --interface=eth0 --bind-interfaces --no-ping --dhcp-authoritative \
                                   --enable-ra --ra-param=eth0,4,0"
            .split_whitespace()
            .collect();
        args.extend([leases.as_str(), &pid]);
        args.extend(ranges.iter().map(String::as_str));
        let mut child = instance.ns().spawn(&args, &log)?;
        let listening = crate::wait_for("dnsmasq to listen", Duration::from_secs(3), || {
            instance.ns().exec(&["ss", "-Hlun"]).is_ok_and(|text| text.contains(":67 "))
        });
        if let Err(error) = listening {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(DhcpServer { child })
    }
}

impl Drop for DhcpServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks for a lease on `eth0` of `instance` with udhcpc, `tries` times a second apart, and returns the address.
pub fn lease(instance: &Instance, dir: &Path, tries: u32) -> Result<String> {
    let script = dir.join("udhcpc.sh");
    fs::write(&script, "#!/bin/sh\n[ \"$1\" = bound ] && echo \"leased $ip\"\nexit 0\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let (script, tries_text) = (script.display().to_string(), tries.to_string());
    let args =
        ["busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", &tries_text, "-T", "1", "-s", &script];
    let done = instance.ns().finish(&args, Duration::from_secs(u64::from(tries) + 8))?;
    let leased = done.stdout.lines().find_map(|line| line.strip_prefix("leased "));
    match leased {
        Some(address) => Ok(address.to_owned()),
        None => bail!("{} got no lease: {}{}", instance.name(), done.stdout, done.stderr),
    }
}
