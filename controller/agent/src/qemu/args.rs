//! QEMU's command line for a spec. Pure.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::net;
use crate::spec::{Nic, Spec};

/// What is booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Boot {
    /// `vmlinuz` and `initrd`; none where the disk boots by itself.
    pub(super) kernel: Option<(PathBuf, PathBuf)>,
    /// The guest's own disk.
    pub(super) disk: Option<PathBuf>,
}

/// The words after the program's own.
pub(super) fn args(spec: &Spec, boot: &Boot, accelerator: &str, qmp: &str) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["-name", &format!("guest={}", escaped(&spec.hostname())), "-nodefaults", "-no-user-config"]);
    add(&["-display", "none", "-M", "pc"]);
    match accelerator {
        "kvm" => add(&["-accel", "kvm", "-cpu", "host"]),
        // A bound on the translated code: by default it takes a gigabyte as it goes.
        _ => add(&["-accel", "tcg,tb-size=64", "-cpu", "max"]),
    }
    add(&["-smp", &spec.vcpus().to_string(), "-m", &format!("{}M", guest_memory(spec) >> 20)]);
    add(&["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]);
    add(&["-qmp", &format!("unix:{},server=on,wait=off", escaped(qmp))]);
    add(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    if let Some(disk) = &boot.disk {
        let file = escaped(&disk.display().to_string());
        add(&["-drive", &format!("file={file},if=none,id=disk,format=qcow2")]);
        add(&["-device", "virtio-blk-pci,drive=disk"]);
    }
    for (index, nic) in spec.nics.iter().enumerate() {
        let tap = net::device_name(&spec.id, index);
        add(&["-netdev", &format!("tap,id=net{index},ifname={tap},script=no,downscript=no")]);
        let mac = mac_text(nic.mac);
        add(&[
            "-device",
            &format!("virtio-net-pci,netdev=net{index},mac={mac},host_mtu={},romfile=", nic.mtu),
        ]);
    }
    if let Some((kernel, initrd)) = &boot.kernel {
        add(&["-kernel", &kernel.display().to_string(), "-initrd", &initrd.display().to_string()]);
        add(&["-append", &kernel_arguments(spec)]);
    }
    args
}

/// Whole MiB of the guest's memory.
pub(super) fn guest_memory(spec: &Spec) -> u64 {
    let bytes = if spec.memory_bytes == 0 { DEFAULT_MEMORY } else { spec.memory_bytes };
    (bytes >> 20).max(1) << 20
}

fn kernel_arguments(spec: &Spec) -> String {
    let mut words = vec!["console=ttyS0".to_owned(), "panic=-1".to_owned()];
    words.extend(spec.nics.first().and_then(|nic| ip_argument(nic, &spec.hostname())));
    words.extend(spec.command.iter().cloned());
    words.join(" ")
}

/// `ip=`, as the kernel's Documentation/admin-guide/nfs/nfsroot.rst has it. It takes IPv4 only.
fn ip_argument(nic: &Nic, hostname: &str) -> Option<String> {
    let (ip, length) = nic.addresses.iter().find_map(|address| match address.ip {
        IpAddr::V4(ip) => Some((ip, address.length)),
        IpAddr::V6(_) => None,
    })?;
    let mask = std::net::Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0));
    let gateway = nic.gateways.iter().find(|gateway| gateway.is_ipv4());
    let gateway = gateway.map(ToString::to_string).unwrap_or_default();
    Some(format!("ip={ip}::{gateway}:{mask}:{hostname}:eth0:off"))
}

pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A comma within a value is doubled.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

const DEFAULT_MEMORY: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::spec::{Desired, DriverKind, InstanceId, Prefix};

    #[test]
    fn the_command_line_says_what_the_spec_says() {
        let spec = Spec {
            id: InstanceId::parse("inst-3").unwrap(),
            name: "db".into(),
            generation: 1,
            desired: Desired::Running,
            driver: DriverKind::Qemu,
            cores_milli: 1500,
            memory_bytes: 128 << 20,
            disk_bytes: 0,
            image: Some("small".into()),
            command: vec!["quiet".into()],
            environment: BTreeMap::new(),
            nics: vec![Nic {
                vni: 1,
                bridge: "br1".into(),
                mac: [2, 0x73, 0x69, 0, 0, 0x1f],
                addresses: vec![Prefix { ip: "10.1.0.5".parse().unwrap(), length: 20 }],
                mtu: 1450,
                gateways: vec!["10.1.0.1".parse().unwrap()],
            }],
            upload_to: None,
            download_from: None,
        };
        let kernel = Some((PathBuf::from("/i/vmlinuz"), PathBuf::from("/i/initrd")));
        let boot = Boot { kernel, disk: Some("/h/a,b.qcow2".into()) };
        let line = args(&spec, &boot, "tcg", "/h/qmp.sock").join(" ");
        for part in [
            "-accel tcg,tb-size=64",
            "-smp 2 -m 128M",
            "file=/h/a,,b.qcow2,",
            "ifname=vinst-3,script=no",
            "mac=02:73:69:00:00:1f,host_mtu=1450",
            "ip=10.1.0.5::10.1.0.1:255.255.240.0:db:eth0:off quiet",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
