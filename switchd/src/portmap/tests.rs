//! Against miniupnpd, which many home routers run, in a namespace beside that of the test.

use std::fs;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::netlink::tests::{in_netns, wait_for};

#[test]
fn a_port_is_mapped_by_pcp_and_given_back() {
    in_netns(|| async {
        let Some(mut router) = Router::new().await else { return };
        router.serve("enable_natpmp=yes\nenable_upnp=no").await;
        maps_and_gives_back(&router).await;
    });
}

#[test]
fn a_port_is_mapped_by_upnp_and_given_back() {
    in_netns(|| async {
        let Some(mut router) = Router::new().await else { return };
        router.serve("enable_natpmp=no\nenable_upnp=yes").await;
        maps_and_gives_back(&router).await;
    });
}

async fn maps_and_gives_back(router: &Router) {
    let mapper = PortMapper::start(Netlink::open().unwrap(), PORT);
    let mut mapped = mapper.mapped();
    let told = timeout(LIMIT, mapped.wait_for(Option::is_some)).await.expect("no mapping").unwrap().unwrap();
    assert_eq!(told, "5.6.7.8:4840".parse().unwrap());
    assert!(router.rules().contains("dnat ip to 192.168.7.2:4840"), "{}", router.rules());
    mapper.stop().await;
    assert_eq!(*mapped.borrow_and_update(), None);
    assert!(!router.rules().contains("dnat"), "{}", router.rules());
}

#[test]
fn a_router_that_comes_later_is_found_when_the_network_changes() {
    in_netns(|| async {
        let Some(mut router) = Router::new().await else { return };
        let mapper = PortMapper::start(Netlink::open().unwrap(), PORT);
        let mut mapped = mapper.mapped();
        router.serve("enable_natpmp=yes\nenable_upnp=no").await;
        run("ip addr add 192.168.7.3/24 dev eth0");
        timeout(LIMIT, mapped.wait_for(Option::is_some)).await.expect("no mapping").unwrap();
        run("ip route del default; ip addr add 192.168.7.4/24 dev eth0");
        timeout(LIMIT, mapped.wait_for(Option::is_none))
            .await
            .expect("told of a router that is gone")
            .unwrap();
        mapper.stop().await;
    });
}

#[test]
fn nobody_is_asked_without_a_nat() {
    in_netns(|| async {
        run(
            "ip link set lo up; ip link add wan type bridge; ip link set wan up; ip addr add 5.6.7.8/24 dev wan",
        );
        let mut keeper = Keeper {
            netlink: Netlink::open().unwrap(),
            port: PORT,
            told: watch::channel(None).0,
            mapping: None,
            delay: RETRY_MIN,
        };
        assert_eq!(keeper.way().await.unwrap(), None, "no default route");
        run("ip route add default via 5.6.7.1");
        assert_eq!(keeper.netlink.default_gateway().await.unwrap(), Some([5, 6, 7, 1].into()));
        assert_eq!(keeper.way().await.unwrap(), None, "a global address");
        run("ip addr add 10.1.0.2/24 dev wan; ip route add default via 10.1.0.1 metric 9");
        run("ip route del default via 5.6.7.1");
        let way = Way { router: [10, 1, 0, 1].into(), own: [10, 1, 0, 2].into() };
        assert_eq!(keeper.way().await.unwrap(), Some(way));
        let (first, second) = (keeper.later(), keeper.later());
        assert!(second > first && keeper.delay == RETRY_MIN * 4);
    });
}

/// A router between this namespace (192.168.7.2) and 5.6.7.8.
struct Router {
    /// A process that keeps its namespace.
    holder: Child,
    daemon: Option<Child>,
    dir: tempfile::TempDir,
}

impl Router {
    /// Without miniupnpd it says so, and there is none.
    async fn new() -> Option<Router> {
        if Command::new("miniupnpd").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            eprintln!("skipped: miniupnpd is missing (Debian: miniupnpd-nftables)");
            return None;
        }
        let holder = Command::new("unshare").args(["-n", "sleep", "infinity"]).spawn().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let router = Router { holder, daemon: None, dir };
        let (own, pid) = (fs::read_link("/proc/thread-self/ns/net").unwrap(), router.holder.id());
        wait_for("the router's namespace", LIMIT, async || {
            fs::read_link(format!("/proc/{pid}/ns/net")).ok().filter(|other| *other != own)
        })
        .await;
        run(&format!(
            "ip link set lo up
             ip link add eth0 type veth peer name lan netns {pid}
             ip addr add 192.168.7.2/24 dev eth0; ip link set eth0 up"
        ));
        router.run(
            "ip link add wan type veth peer name isp
             ip addr add 5.6.7.8/24 dev wan; ip addr add 192.168.7.1/24 dev lan
             for device in lo wan isp lan; do ip link set $device up; done",
        );
        router.run(&format!("nft '{RULES}'"));
        run("ip route add default via 192.168.7.1");
        Some(router)
    }

    /// Starts the daemon, and waits until it listens.
    async fn serve(&mut self, protocols: &str) {
        let config = self.dir.path().join("miniupnpd.conf");
        fs::write(
            &config,
            format!(
                "ext_ifname=wan\nlistening_ip=lan\nport=5000\n{protocols}\nsecure_mode=yes\n\
                 uuid=7f2c4e5a-1111-4444-8888-0123456789ab\n\
                 allow 1024-65535 192.168.7.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
            ),
        )
        .unwrap();
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = self.command("miniupnpd");
        command.arg("-d").arg("-f").arg(&config).arg("-P").arg(self.dir.path().join("pid"));
        self.daemon = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let port = if protocols.contains("enable_upnp=yes") { ":5000 " } else { ":5351 " };
        wait_for("miniupnpd to listen", LIMIT, async || {
            let out = self.command("ss").args(["-Hltun"]).output().unwrap();
            String::from_utf8_lossy(&out.stdout).contains(port).then_some(())
        })
        .await;
    }

    fn rules(&self) -> String {
        let out = self.command("nft").args(["list", "ruleset"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    fn run(&self, script: &str) {
        let status = self.command("sh").args(["-ec", script]).status().unwrap();
        assert!(status.success(), "{script}");
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-n", "-t", &self.holder.id().to_string(), program]);
        command
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        for child in self.daemon.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

const PORT: NonZeroU16 = NonZeroU16::new(4840).unwrap();
const LIMIT: Duration = Duration::from_secs(15);
/// The chains that miniupnpd fills.
const RULES: &str = "table inet filter {
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
    chain forward { type filter hook forward priority filter; policy accept; jump miniupnpd; }
    chain prerouting { type nat hook prerouting priority dstnat; policy accept; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority srcnat; policy accept; jump postrouting_miniupnpd; }
}";
