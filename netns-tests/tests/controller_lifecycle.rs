//! The whole life of a cluster: by `skippy` alone, by the REST API alone, and with machines made by a provider.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use netns_tests::cluster::{Cluster, cluster_test, text};
use netns_tests::{cmd, expect, measure, wait_for, wait_ok};

const SOON: Duration = Duration::from_secs(5);

/// What one step of the life cycle prints as a table has to name this, and as JSON has to be JSON.
const LISTINGS: [(&[&str], &str); 14] = [
    (&["node", "list"], "node-a"),
    (&["node", "show", "node-a"], "node-a"),
    (&["type", "list"], "small"),
    (&["type", "show", "small"], "64 MiB"),
    (&["network", "list"], "10.0.0.0/24"),
    (&["network", "show", "blue"], "fd00::/64"),
    (&["instance", "list"], "10.0.0."),
    (&["instance", "show", "a1"], "running"),
    (&["binding", "list"], "controller"),
    (&["link", "list"], "up"),
    (&["operation", "list"], "allocate"),
    (&["event", "list"], "instance-created"),
    (&["token", "list"], "admin"),
    (&["whoami"], "admin"),
];

#[test]
fn by_skippy_alone() -> Result<()> {
    cluster_test("life_skippy", 2, |cluster| {
        cluster.ready()?;
        cluster.allocate("a1", "node-a")?;
        cluster.allocate("b1", "node-b")?;
        let a1 = cluster.instance_ns("a1")?;
        for ip in cluster.ips("b1")? {
            measure::ping_ok(&a1, ip)?;
        }
        listings(cluster)?;
        refusals(cluster)?;
        stop_start_move(cluster)?;
        drain_and_remove(cluster)?;
        clear(cluster)
    })
}

fn listings(cluster: &Cluster) -> Result<()> {
    wait_ok("the links to be reported", SOON, || {
        let up = cluster.list(&["link", "list", "--state", "up"])?;
        expect(up.len() == 2, || format!("{up:?}"))
    })?;
    for (args, word) in LISTINGS {
        let table = cluster.skippy_text(args)?;
        expect(table.contains(word), || format!("no {word} in skippy {args:?}:\n{table}"))?;
        cluster.skippy(args)?;
    }
    let wide = cluster.skippy_text(&["instance", "list", "--wide"])?;
    expect(wide.contains("02:73:69") && wide.contains("sleep infinity"), || wide.clone())?;
    let columns = cluster.skippy_text(&["node", "list", "--columns", "name,state"])?;
    expect(columns.contains("online") && !columns.contains("manual"), || columns.clone())?;
    let status = cluster.skippy_text(&["status"])?;
    expect(status.contains("nodes 2 of 2 online") && status.contains("instances 2 of 2 running"), || {
        status.clone()
    })?;
    cluster.skippy(&["status"])?;
    let top = cluster.skippy_text(&["top", "--once", "--interval", "200ms"])?;
    expect(top.contains("node-a") && top.contains("node-b"), || top.clone())?;
    let health = cluster.skippy_text(&["health"])?;
    expect(health.contains("ready"), || health.clone())?;
    let metrics = cluster.skippy_text(&["metrics"])?;
    expect(metrics.contains("controller_instances{state=\"running\"} 2"), || "no such metric".to_owned())?;
    expect(cluster.skippy(&["openapi"])?["paths"]["/v1/instances"].is_object(), || "no OpenAPI".to_owned())
}

/// Exit codes: 2 wrong usage, 3 refused, 4 the operation failed.
fn refusals(cluster: &Cluster) -> Result<()> {
    for (args, code, word) in [
        (&["allocate"][..], 2, "TYPE"),
        (&["allocate", "huge"], 3, "huge"),
        (&["allocate", "small", "--node", "node-z"], 3, "node-z"),
        (&["allocate", "small", "--name", "a1"], 3, "a1"),
        (&["allocate", "small", "--ip", "10.9.9.9"], 3, "10.9.9.9"),
        (&["migrate", "a1", "node-a"], 3, "lives on"),
        (&["migrate", "nobody", "node-a"], 3, "nobody"),
        (&["network", "remove", "blue"], 3, "blue"),
        (&["network", "add", "blue"], 3, "blue"),
        (&["add-type", "small", "--cores", "1", "--memory", "64MiB"], 3, "small"),
        (&["add-compute-node", "--provider", "cloud"], 3, "cloud"),
        (&["operation", "cancel", "op-1"], 3, "op-1"),
        (&["whoami", "--url", "https://127.0.0.1:1"], 5, "127.0.0.1"),
    ] {
        let done = cluster.skippy_finish(args)?;
        let right = done.status.code() == Some(code) && done.stderr.contains(word);
        expect(right, || format!("skippy {args:?}: {} {}{}", done.status, done.stderr, done.stdout))?;
    }
    Ok(())
}

fn stop_start_move(cluster: &Cluster) -> Result<()> {
    let a1 = cluster.instance_ns("a1")?;
    let ip = cluster.v4("b1")?;
    cluster.skippy(&["instance", "stop", "b1"])?;
    expect(cluster.skippy(&["instance", "show", "b1"])?["state"] == "stopped", || "b1 runs".to_owned())?;
    expect(measure::ping_ok(&a1, ip).is_err(), || "b1 answers though it is stopped".to_owned())?;
    cluster.skippy(&["instance", "start", "b1"])?;
    wait_ok("b1 to answer after its start", SOON, || measure::ping_ok(&a1, ip))?;
    let before = cluster.skippy(&["instance", "show", "b1"])?;
    cluster.skippy(&["migrate", "b1", "node-a"])?;
    let after = cluster.skippy(&["instance", "show", "b1"])?;
    expect(cluster.node_of(&after)? == "node-a" && before["nics"] == after["nics"], || after.to_string())?;
    wait_ok("b1 to answer beside a1", SOON, || measure::ping_ok(&a1, ip))?;
    cluster.skippy(&["migrate", "b1", "node-b"])?;
    wait_ok("b1 to answer at home again", SOON, || measure::ping_ok(&a1, ip))
}

fn drain_and_remove(cluster: &Cluster) -> Result<()> {
    let a1 = cluster.instance_ns("a1")?;
    cluster.skippy(&["remove-compute-node", "node-b"])?;
    let b1 = cluster.skippy(&["instance", "show", "b1"])?;
    expect(cluster.node_of(&b1)? == "node-a", || b1.to_string())?;
    let ip = cluster.v4("b1")?;
    wait_ok("b1 to answer after the drain", SOON, || measure::ping_ok(&a1, ip))?;
    // The last node cannot be drained.
    let done = cluster.skippy_finish(&["remove-compute-node", "node-a"])?;
    let refused = matches!(done.status.code(), Some(3 | 4));
    expect(refused, || format!("{}: {}{}", done.status, done.stderr, done.stdout))?;
    let node = cluster.skippy(&["node", "show", "node-a"])?;
    expect(node["state"] == "online", || format!("after the refusal: {node}"))
}

fn clear(cluster: &Cluster) -> Result<()> {
    for name in ["a1", "b1"] {
        cluster.skippy(&["instance", "delete", name])?;
    }
    let left = cluster.list(&["binding", "list", "--source", "controller"])?;
    expect(left.is_empty(), || format!("bindings are left: {left:?}"))?;
    cluster.skippy_text(&["type", "remove", "small"])?;
    cluster.skippy_text(&["network", "remove", "blue"])?;
    cluster.skippy(&["remove-compute-node", "node-a"])?;
    for kind in ["instance", "type", "network"] {
        let left = cluster.list(&[kind, "list"])?;
        expect(left.is_empty(), || format!("left: {left:?}"))?;
    }
    let failed = cluster.list(&["operation", "list", "--state", "running"])?;
    expect(failed.is_empty(), || format!("{failed:?}"))
}

/// The script that the documentation names, as a user would run it.
#[test]
fn by_rest_alone() -> Result<()> {
    cluster_test("life_rest", 0, |cluster| {
        let controller = cluster.controller()?;
        let token = cluster.lab().dir().join("admin.token");
        std::fs::write(&token, cluster.token())?;
        let certificate = controller.dir().join("state/rest.crt");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/lifecycle-rest");
        let settings = [
            format!("URL={}", cluster.url()?),
            format!("TOKEN_FILE={}", token.display()),
            format!("CA={}", certificate.display()),
            "PROVIDER=netns".to_owned(),
        ];
        let command: Vec<&str> =
            ["env"].into_iter().chain(settings.iter().map(String::as_str)).chain([script]).collect();
        let done = controller.ns().finish(&command, Duration::from_secs(60))?;
        expect(done.status.success(), || format!("{}:\n{}{}", done.status, done.stdout, done.stderr))?;
        expect(done.stdout.contains("everything is gone"), || done.stdout.clone())?;
        no_machine(cluster)
    })
}

#[test]
fn a_machine_by_the_provider() -> Result<()> {
    cluster_test("life_provider", 1, |cluster| {
        cluster.ready()?;
        cluster.skippy(&["add-compute-node", "--provider", "netns", "--name", "made"])?;
        let node = cluster.skippy(&["node", "show", "made"])?;
        expect(node["state"] == "online" && node["provider"] == "netns", || node.to_string())?;
        expect(machines(cluster)?.len() == 1, || "no namespace was made".to_owned())?;
        wait_ok("the agent of the machine", SOON, || {
            let node = cluster.skippy(&["node", "show", "made"])?;
            expect(node["agent_online"] == true, || node.to_string())
        })?;
        cluster.allocate("m1", "made")?;
        cluster.allocate("a1", "node-a")?;
        let (a1, ip) = (cluster.instance_ns("a1")?, cluster.v4("m1")?);
        wait_ok("a1 to reach m1 on the machine", SOON, || measure::ping_ok(&a1, ip))?;
        cluster.skippy(&["remove-compute-node", "made"])?;
        wait_ok("m1 to be on node-a", SOON, || measure::ping_ok(&a1, ip))?;
        no_machine(cluster)
    })
}

/// A provider that fails, and one that is cancelled while it is at work.
#[test]
fn a_machine_that_does_not_come() -> Result<()> {
    cluster_test("life_no_machine", 0, |cluster| {
        provider(cluster, "broken", "echo '{\"ok\":false,\"error\":\"the quota is used up\"}'")?;
        provider(cluster, "slow", "echo '{\"progress\":40,\"detail\":\"booting\"}'; sleep 60")?;
        cluster.stop_controller()?;
        cluster.start_controller()?;
        let done = cluster.skippy_finish(&["add-compute-node", "--provider", "broken", "--name", "x"])?;
        let right = done.status.code() == Some(4) && done.stderr.contains("the quota is used up");
        expect(right, || format!("{} {}{}", done.status, done.stderr, done.stdout))?;
        let failed = cluster.list(&["operation", "list", "--state", "failed"])?;
        expect(failed.len() == 1 && failed[0]["kind"] == "add_compute_node", || format!("{failed:?}"))?;

        let added =
            cluster.skippy(&["add-compute-node", "--provider", "slow", "--name", "y", "--no-wait"])?;
        let id = text(&added["operation"], "id").or_else(|_| text(&added, "id"))?;
        wait_ok("the provider's progress", SOON, || {
            let operation = cluster.skippy(&["operation", "show", &id])?;
            expect(operation.to_string().contains("booting"), || operation.to_string())
        })?;
        cluster.skippy_finish(&["operation", "cancel", &id])?;
        let operation = cluster.skippy(&["operation", "show", &id])?;
        expect(operation["state"] == "cancelled", || operation.to_string())?;
        for name in ["x", "y"] {
            let node = cluster.skippy(&["node", "show", name]);
            let gone = node.as_ref().map_or(true, |node| node["state"] == "removed");
            expect(gone, || format!("{name} is left: {node:?}"))?;
        }
        wait_for("the provider's process to be gone", SOON, || {
            cmd::run(&["pgrep", "-f", &format!("{}/slow", cluster.lab().dir().display())]).is_err()
        })
        .map(drop)
    })
}

/// A provider that runs these lines of shell for `create`, and succeeds at `destroy`.
fn provider(cluster: &Cluster, name: &str, create: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = cluster.lab().dir().join(name);
    let script = format!(
        "#!/bin/sh\nread -r request\ncase $request in\n*destroy*) echo '{{\"ok\":true}}' ;;\n*) {create} ;;\nesac\n"
    );
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    let config = cluster.controller()?.config_path();
    let more = format!(
        "\n[[provider]]\nname = {name:?}\nkind = \"exec\"\ncommand = [{:?}]\n",
        path.display().to_string()
    );
    let text = std::fs::read_to_string(&config).context("reading the controller's configuration")?;
    std::fs::write(&config, text + &more).context("adding a provider")
}

fn no_machine(cluster: &Cluster) -> Result<()> {
    let left = machines(cluster)?;
    expect(left.is_empty(), || format!("the provider left {left:?}"))
}

/// The namespaces that the provider made: their names go on with `p-` after the lab's prefix.
fn machines(cluster: &Cluster) -> Result<Vec<String>> {
    let controller = cluster.controller()?.ns().name();
    let prefix = controller.strip_suffix("controller").ok_or_else(|| anyhow!("the lab's prefix"))?;
    let list = cmd::run(&["ip", "netns", "list"])?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.filter(|name| name.starts_with(&format!("{prefix}p-"))).map(str::to_owned).collect())
}
