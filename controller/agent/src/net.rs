//! The network of instances, by rtnetlink: pairs and TAPs on bridges, and what a container finds inside. The only
//! module that names the crate for it.

use std::fs::{self, File};
use std::net::IpAddr;

use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::JoinHandle;

use crate::failure::{Failure, Step};
use crate::spec::{InstanceId, Nic};
use crate::sys;

/// A handle on the network namespace that it was opened in.
pub struct Net {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Net {
    /// Opens the socket in the namespace of the calling thread; needs a running tokio runtime.
    pub fn open() -> Result<Net, Failure> {
        let (connection, handle, _) = rtnetlink::new_connection().step("open a netlink socket")?;
        Ok(Net { handle, connection: tokio::spawn(connection) })
    }

    /// The bridges of all interfaces, in their order; waiting is the answer if one is not there yet.
    pub async fn bridges(&self, nics: &[Nic]) -> Result<Vec<u32>, Failure> {
        let mut found = Vec::new();
        for nic in nics {
            let link = self.link(&nic.bridge).await?.ok_or_else(|| {
                Failure::waiting(format!(
                    "waiting for the bridge {}: switchd makes it when the node is in the network",
                    nic.bridge
                ))
            })?;
            if !is_bridge(&link) {
                return Err(Failure::transient(format!(
                    "{} is not a Linux bridge: delete that device, or name the network's bridge otherwise",
                    nic.bridge
                )));
            }
            found.push(link.header.index);
        }
        Ok(found)
    }

    /// Makes a pair of devices: `name` on the bridge, and `eth<index>` in the namespace of the process.
    pub async fn plug_pair(
        &self,
        name: &str,
        index: usize,
        nic: &Nic,
        bridge: u32,
        pid: u32,
    ) -> Result<(), Failure> {
        self.unplug(name).await?;
        // Its name for the moment before it is moved.
        let inner = format!("w{}", &name[1..]);
        let pair = LinkVeth::new(name, &inner).build();
        refused(format!("make {name}"), self.handle.link().add(pair).execute().await)?;
        let inner = self.expect(&inner).await?;
        let outer = self.expect(name).await?;
        let moved = LinkUnspec::new_with_index(inner)
            .name(format!("eth{index}"))
            .address(nic.mac.to_vec())
            .mtu(nic.mtu)
            .setns_by_pid(pid)
            .build();
        refused(
            format!("move eth{index} into the instance"),
            self.handle.link().change(moved).execute().await,
        )?;
        self.join(name, outer, nic, bridge).await
    }

    /// Makes the TAP `name` on the bridge.
    pub async fn plug_tap(&self, name: &str, nic: &Nic, bridge: u32) -> Result<(), Failure> {
        self.unplug(name).await?;
        sys::make_tap(name).step(format!("make the TAP {name} (is /dev/net/tun there?)"))?;
        let index = self.expect(name).await?;
        self.join(name, index, nic, bridge).await
    }

    /// Deletes a device; that it is not there is no error.
    pub async fn unplug(&self, name: &str) -> Result<(), Failure> {
        if let Some(link) = self.link(name).await? {
            let deleted = self.handle.link().del(link.header.index).execute().await;
            if !deleted.as_ref().is_err_and(is_gone) {
                refused(format!("delete {name}"), deleted)?;
            }
        }
        Ok(())
    }

    async fn join(&self, name: &str, index: u32, nic: &Nic, bridge: u32) -> Result<(), Failure> {
        // No addresses of the host's own on it, and so no neighbour discovery in the host's name.
        fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").ok();
        let port = LinkUnspec::new_with_index(index).mtu(nic.mtu).controller(bridge).up().build();
        let step = format!("make {name} a port of the bridge {}", nic.bridge);
        refused(step, self.handle.link().change(port).execute().await)
    }

    async fn expect(&self, name: &str) -> Result<u32, Failure> {
        let link = self.link(name).await?;
        let gone =
            || Failure::transient(format!("{name} was deleted by someone else right after it was made"));
        Ok(link.ok_or_else(gone)?.header.index)
    }

    async fn link(&self, name: &str) -> Result<Option<LinkMessage>, Failure> {
        let mut replies = self.handle.link().get().match_name(name).execute();
        match replies.try_next().await {
            Err(error) if is_gone(&error) => Ok(None),
            other => refused(format!("look up the device {name}"), other),
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Brings up what is in the network namespace of the process: the loopback and each interface with its addresses and
/// routes. Blocks.
pub fn configure_inside(pid: u32, nics: Vec<Nic>) -> Result<(), Failure> {
    let inside = move || {
        let namespace = File::open(format!("/proc/{pid}/ns/net")).step("find the instance's network")?;
        setns(&namespace, CloneFlags::CLONE_NEWNET).step("enter the instance's network")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.step("configure the instance's network")?.block_on(async {
            let net = Net::open()?;
            net.up("lo").await?;
            for (index, nic) in nics.iter().enumerate() {
                net.configure(&format!("eth{index}"), nic).await?;
            }
            Ok(())
        })
    };
    // A thread of its own: its namespace goes with it.
    let ended = std::thread::spawn(inside).join();
    ended.unwrap_or_else(|_| Err(Failure::transient("the thread for the instance's network failed")))
}

impl Net {
    async fn up(&self, name: &str) -> Result<u32, Failure> {
        let index = self.expect(name).await?;
        let message = LinkUnspec::new_with_index(index).up().build();
        refused(format!("bring {name} up"), self.handle.link().change(message).execute().await)?;
        Ok(index)
    }

    async fn configure(&self, name: &str, nic: &Nic) -> Result<(), Failure> {
        let index = self.expect(name).await?;
        // The addresses are given, not found: no duplicate address detection holds them up, and neighbours are told.
        for (family, key, value) in
            [("ipv4", "arp_notify", "1"), ("ipv6", "ndisc_notify", "1"), ("ipv6", "accept_dad", "0")]
        {
            fs::write(format!("/proc/sys/net/{family}/conf/{name}/{key}"), value).ok();
        }
        for address in &nic.addresses {
            let added = self.handle.address().add(index, address.ip, address.length).execute().await;
            refused(format!("give {name} the address {}", address.ip), added)?;
        }
        self.up(name).await?;
        for gateway in &nic.gateways {
            // On the link, also where no address of the interface is in the gateway's network.
            let added = match gateway {
                IpAddr::V4(via) => {
                    let route = RouteMessageBuilder::<std::net::Ipv4Addr>::new();
                    let route = route.gateway(*via).output_interface(index).onlink().build();
                    self.handle.route().add(route).execute().await
                }
                IpAddr::V6(via) => {
                    let route = RouteMessageBuilder::<std::net::Ipv6Addr>::new();
                    let route = route.gateway(*via).output_interface(index).onlink().build();
                    self.handle.route().add(route).execute().await
                }
            };
            refused(format!("set the gateway {gateway}"), added)?;
        }
        Ok(())
    }
}

/// The device on the host of an instance's interface: at most 15 characters, as the kernel wants it.
pub fn device_name(id: &InstanceId, index: usize) -> String {
    let suffix = if index == 0 { String::new() } else { format!(".{index}") };
    let room = 14 - suffix.len();
    let id = id.as_str();
    if id.len() <= room {
        return format!("v{id}{suffix}");
    }
    // FNV-1a of the whole id: the same name after a restart.
    let hash =
        id.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("v{}{hash:08x}{suffix}", &id[..room - 8])
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => {
            infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)))
        }
        _ => false,
    })
}

fn is_gone(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.to_io().raw_os_error() == Some(libc::ENODEV))
}

fn refused<T>(step: String, result: Result<T, rtnetlink::Error>) -> Result<T, Failure> {
    result.map_err(|error| match error {
        rtnetlink::Error::NetlinkError(message) => Failure::io(step, &message.to_io()),
        other => Failure::transient(format!("cannot {step}: {other}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit_and_differ() {
        let name = |id: &str, index| device_name(&InstanceId::parse(id).unwrap(), index);
        assert_eq!((name("inst-12", 0).as_str(), name("inst-12", 1).as_str()), ("vinst-12", "vinst-12.1"));
        let long = [name("a-very-long-instance-id-1", 0), name("a-very-long-instance-id-2", 0)];
        assert!(long.iter().all(|name| name.len() == 15) && long[0] != long[1], "{long:?}");
        assert_eq!(name("a-very-long-instance-id-1", 3).len(), 15);
    }
}
