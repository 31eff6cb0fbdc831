//! The DHCP policy of a network: who may serve whom.

use anyhow::Result;
use netns_tests::dhcp::{DhcpServer, lease};
use netns_tests::{LabSpec, ctl, expect, lab_test};

const RANGE: [&str; 1] = ["10.0.0.100,10.0.0.150,255.255.255.0,120"];

/// Each policy against the same lab: a server on node-a, clients on both nodes.
#[test]
fn policies() -> Result<()> {
    // MAC of a1, the server, and of another.
    let trusted = "\"trusted:02:00:00:01:01:01\"";
    let rogue = "\"trusted:02:00:00:01:02:02\"";
    let rows = [
        ("forward", "\"forward\"", true),
        ("local", "\"local-only\"", false),
        ("trusted", trusted, true),
        ("rogue", rogue, false),
    ];
    for (name, policy, remote_leases) in rows {
        lab_test(LabSpec::star(&format!("dhcp_{name}"), 2, &["blue"], 2), |lab| {
            lab.start_switchd(|config| config.set_network("dhcp", policy))?;
            let _server = DhcpServer::start(lab.instance("a1")?, lab.dir(), &RANGE)?;
            let local = lease(lab.instance("a2")?, lab.dir(), 3);
            expect(local.is_ok(), || format!("{name}: the neighbour on the server's bridge: {local:?}"))?;
            let remote = lease(lab.instance("b1")?, lab.dir(), if remote_leases { 4 } else { 2 });
            expect(remote.is_ok() == remote_leases, || {
                format!("{name}: the client on the other node: {remote:?}")
            })?;
            let mut refused = 0;
            for node in lab.nodes() {
                refused += ctl::sum(&node.stats()?, "dhcp_policy");
            }
            expect((refused > 0) != remote_leases, || format!("{name}: {refused} drops for dhcp_policy"))
        })?;
    }
    Ok(())
}
