//! Against the kernel, in a network namespace that lives and dies with the test's own thread.

use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::*;

/// Runs `body` on a thread of its own in a fresh network namespace, with a tokio runtime; skips, saying so, where
/// that is not permitted.
pub(crate) fn in_netns<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send + 'static) {
    let test = std::thread::spawn(move || {
        if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: a network namespace takes root ({e})");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), body()).await.expect("the test took too long");
        });
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Asks `condition` every few milliseconds until it gives a value; panics with `what` after `limit`.
pub(crate) async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl Netlink {
    /// A bridge as an administrator makes it: its MAC not pinned, no alias of ours.
    pub(crate) async fn add_plain_bridge(&self, name: &str) -> Link {
        self.handle.link().add(LinkBridge::new(name).build()).execute().await.unwrap();
        self.link_by_name(name).await.unwrap().unwrap()
    }
}

#[test]
fn a_created_bridge_is_up_pinned_and_known_again() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        assert_eq!(netlink.ensure_bridge("br-t", false, 1400).await.unwrap(), None);
        let made = netlink.ensure_bridge("br-t", true, 1400).await.unwrap().unwrap();
        assert!(made.created && made.link.up);
        assert_eq!((made.link.kind, made.link.mtu), (LinkKind::Bridge, 1400));
        let found = netlink.ensure_bridge("br-t", true, 9000).await.unwrap().unwrap();
        assert_eq!(found, made, "a second look changes nothing");
        let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
        assert!(!addresses.contains("br-t"), "the host has an address there: {addresses}");

        let tap = crate::tap::Tap::open("t0", false).unwrap();
        netlink.set_mac(tap.index(), Mac([2, 0, 0, 0, 0, 1])).await.unwrap();
        netlink.attach(tap.index(), made.link.index).await.unwrap();
        let after = netlink.link_by_index(made.link.index).await.unwrap().unwrap();
        assert_eq!(after.mac, made.link.mac, "pinned: the port's lower MAC is not taken");
    });
}

#[test]
fn refusals_name_the_step_and_the_mend() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        let _tap = crate::tap::Tap::open("t0", false).unwrap();
        let error = netlink.ensure_bridge("t0", true, 1500).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "t0 is not a Linux bridge: give the network another 'bridge', or delete that device"
        );
        let error = netlink.set_mtu(9999, 1500).await.unwrap_err();
        assert!(error.is_gone());
        assert_eq!(
            error.to_string(),
            "cannot set the MTU of device 9999 to 1500: the device is gone; it is tried again when it is back"
        );
        netlink.delete_link(9999).await.unwrap();
    });
}

#[test]
fn port_flags_and_fdb_entries_are_read_back() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        let bridge = netlink.ensure_bridge("br-t", true, 1500).await.unwrap().unwrap().link;
        let tap = crate::tap::Tap::open("t0", false).unwrap();
        let mac: Mac = "02:73:77:00:00:64".parse().unwrap();
        netlink.attach(tap.index(), bridge.index).await.unwrap();
        assert!(!netlink.has_fdb(tap.index(), mac).await.unwrap());
        netlink.add_fdb(tap.index(), mac).await.unwrap();
        netlink.add_fdb(tap.index(), mac).await.unwrap();
        assert!(netlink.has_fdb(tap.index(), mac).await.unwrap());

        let router = async || netlink.link_by_index(tap.index()).await.unwrap().unwrap().multicast_router;
        if router().await.is_some() {
            netlink.set_multicast_router(tap.index()).await.unwrap();
            assert_eq!(router().await, Some(true));
        }
        netlink.release(tap.index()).await.unwrap();
        assert_eq!(netlink.link_by_index(tap.index()).await.unwrap().unwrap().master, None);
    });
}

#[test]
fn the_watch_tells_links_ports_and_addresses() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        let mut watch = netlink.watch();
        let bridge = netlink.add_plain_bridge("br-t").await.index;
        let tap = crate::tap::Tap::open("t0", false).unwrap();
        let port = tap.index();
        let new = |index: u32, name: &str, master: Option<u32>| LinkEvent::LinkNew {
            index,
            name: name.to_owned(),
            master,
        };
        until(&mut watch, &new(bridge, "br-t", None)).await;
        until(&mut watch, &new(port, "t0", None)).await;
        netlink.attach(port, bridge).await.unwrap();
        until(&mut watch, &new(port, "t0", Some(bridge))).await;
        netlink.release(port).await.unwrap();
        let seen = until(&mut watch, &new(port, "t0", None)).await;
        netlink.add_address(bridge, "10.0.0.1".parse().unwrap(), 24).await.unwrap();
        let more = until(&mut watch, &LinkEvent::AddressChanged { index: bridge }).await;
        let gone = seen.iter().chain(&more).any(|event| matches!(event, LinkEvent::LinkGone { .. }));
        assert!(!gone, "a port that leaves its bridge is not gone: {seen:?} {more:?}");
        let addresses = netlink.addresses(bridge).await.unwrap();
        let ip = "10.0.0.1".parse().unwrap();
        assert!(addresses.contains(&Address { ip, prefix: 24, link_local: false }), "{addresses:?}");
        drop(tap);
        until(&mut watch, &LinkEvent::LinkGone { index: port, name: "t0".into() }).await;
    });
}

#[test]
fn a_watcher_that_falls_behind_is_told_to_look_again() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        let mut watch = netlink.watch();
        let tap = crate::tap::Tap::open("t0", false).unwrap();
        for change in 0..2 * watch::QUEUE as u32 {
            netlink.set_mtu(tap.index(), 1400 + change % 2).await.unwrap();
        }
        assert_eq!(watch.next().await, Some(LinkEvent::Resync));
        drop(tap);
        until(&mut watch, &LinkEvent::LinkGone { index: 2, name: "t0".into() }).await;
    });
}

/// The events before the one that is wanted.
async fn until(watch: &mut Watch, wanted: &LinkEvent) -> Vec<LinkEvent> {
    let mut seen = Vec::new();
    let search = async {
        while let Some(event) = watch.next().await {
            if event == *wanted {
                return;
            }
            seen.push(event);
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(5), search).await.is_ok();
    assert!(found, "no {wanted:?} among {seen:?}");
    seen
}
