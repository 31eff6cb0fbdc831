//! What the controller and the nodes refuse: tokens, roles, claims, removed and copied nodes, abuse of the API.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use netns_tests::cluster::{Cluster, Member, cluster_test, text};
use netns_tests::frames::{Arp, Mac, udp_v4};
use netns_tests::measure::{self, Watch};
use netns_tests::packet::PacketSocket;
use netns_tests::{Node, cmd, ctl, expect, wait_for, wait_ok};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(8);
/// What starting daemons and a busy machine take away; an instance that is shut out is away for longer.
const GAP_MAX: Duration = Duration::from_secs(1);

#[test]
fn join_tokens() -> Result<()> {
    cluster_test("security_tokens", 2, |cluster| {
        let (a, b) = (cluster.member("node-a")?, cluster.member("node-b")?);
        let add = ["node", "add", "--provider", "manual", "--name", "node-a", "--token-ttl", "1s"];
        let short = cluster.skippy(&add)?["join"].clone();
        let ends = text(&short, "expires_at")?;
        wait_for("the token's end", SOON, || now_utc() > ends)?;
        refused(a, cluster, &text(&short, "token")?, "expired")?;

        // A new token for the same node ends the one before.
        let renew = || text(&cluster.skippy(&["node", "token", "node-a"])?["join"], "token");
        let (second, third) = (renew()?, renew()?);
        refused(a, cluster, &second, "token")?;

        let forged = third.replacen(&third[60..61], if &third[60..61] == "A" { "B" } else { "A" }, 1);
        refused(a, cluster, &forged, "token")?;
        // As a forger would: with the right sum. The secret is not the controller's, then the controller's key is not.
        refused(a, cluster, &forge(cluster, &third, SECRET)?, "token")?;
        refused(a, cluster, &forge(cluster, &third, CONTROLLER_KEY)?, "key")?;

        a.join_with(cluster, &third)?;
        a.start(cluster)?;
        a.wait_online(cluster)?;
        refused(b, cluster, &third, "token")?;
        let nodes = cluster.list(&["node", "list"])?;
        let joined = nodes.iter().filter(|node| node["state"] == "online").count();
        expect(joined == 1, || format!("{nodes:?}"))?;
        nothing_secret_in_logs(cluster, &[third, second])
    })
}

fn refused(member: &Member, cluster: &Cluster, token: &str, word: &str) -> Result<()> {
    match member.join_with(cluster, token) {
        Ok(()) => Err(anyhow!("a token that should be refused for {word:?} was taken")),
        Err(error) => {
            let said = format!("{error:#}");
            println!("security_tokens: {}", said.trim());
            expect(said.contains(word) && !said.contains(token), || format!("no word of {word:?}: {said}"))
        }
    }
}

/// Seconds since 1970 as the API writes times, to compare as text.
fn now_utc() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    cmd::run(&["date", "-u", "-d", &format!("@{}", now.saturating_sub(1)), "+%Y-%m-%dT%H:%M:%SZ"])
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Where what begins in a token: after eight bytes of expiry the key, then the secret.
const CONTROLLER_KEY: usize = 8;
const SECRET: usize = 40;

/// The token with one bit changed at this byte, and the sum of what it says now.
fn forge(cluster: &Cluster, token: &str, at: usize) -> Result<String> {
    let encoded = token.strip_prefix("skj1.").context("a token begins with skj1.")?;
    let mut bytes = decode(encoded)?;
    bytes[at] ^= 1;
    let body = bytes.len() - 4;
    let file = cluster.lab().dir().join("forged");
    std::fs::write(&file, &bytes[..body])?;
    let sum = cmd::run(&["sha256sum", &file.display().to_string()])?;
    for i in 0..4 {
        bytes[body + i] = u8::from_str_radix(&sum[2 * i..2 * i + 2], 16)?;
    }
    Ok(format!("skj1.{}", encode(&bytes)))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn decode(text: &str) -> Result<Vec<u8>> {
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter).context("not base64url")?;
        (bits, count) = (bits << 6 | value as u32, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}

fn encode(bytes: &[u8]) -> String {
    let (mut bits, mut count, mut text) = (0u32, 0, String::new());
    for byte in bytes {
        (bits, count) = (bits << 8 | u32::from(*byte), count + 8);
        while count >= 6 {
            count -= 6;
            text.push(ALPHABET[(bits >> count & 63) as usize].into());
        }
    }
    if count > 0 {
        text.push(ALPHABET[(bits << (6 - count) & 63) as usize].into());
    }
    text
}

/// What no log of any daemon may hold: tokens of either kind, and private keys.
fn nothing_secret_in_logs(cluster: &Cluster, tokens: &[String]) -> Result<()> {
    let mut secrets = vec![cluster.token().to_owned(), "skt_".to_owned(), "skj1.".to_owned()];
    secrets.extend_from_slice(tokens);
    let files = files(cluster.lab().dir());
    for key in files.iter().filter(|path| path.extension().is_some_and(|e| e == "key")) {
        let key = std::fs::read_to_string(key).unwrap_or_default();
        secrets
            .extend(key.lines().filter(|line| line.len() >= 40 && !line.starts_with('-')).map(str::to_owned));
    }
    let is_log = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.contains("log") || name.contains("audit")
    };
    let logs: Vec<&PathBuf> = files.iter().filter(is_log).collect();
    expect(logs.len() >= 2, || format!("where are the logs? {logs:?}"))?;
    for log in &logs {
        let said = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
        for line in said.lines() {
            let found = secrets.iter().any(|secret| line.contains(secret));
            expect(!found, || format!("a secret in {}: {line}", log.display()))?;
        }
    }
    println!("{} logs hold none of {} secrets", logs.len(), secrets.len());
    Ok(())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .flat_map(|path| if path.is_dir() && !path.is_symlink() { files(&path) } else { vec![path] })
        .collect()
}

#[test]
fn roles_and_abuse_of_the_api() -> Result<()> {
    cluster_test("security_api", 0, |cluster| {
        // It says nothing, and is cut while the rest goes on.
        let address = SocketAddr::new(cluster.controller()?.underlay_v4(0), 4843);
        let silent = cluster.controller()?.ns().enter(|| Ok(TcpStream::connect_timeout(&address, SOON)?))?;

        let secret = |role: &str, ttl: &[&str]| -> Result<String> {
            let name = format!("t-{role}");
            let args = [&["token", "create", &name, "--role", role], ttl].concat();
            text(&cluster.skippy(&args)?, "secret")
        };
        let (reader, operator) = (secret("reader", &[])?, secret("operator", &[])?);
        let short = secret("admin", &["--ttl", "1s"])?;
        cluster.skippy(&["add-type", "small", "--cores", "0.25", "--memory", "64MiB"])?;
        let (allocate, token) = (r#"{"type": "small"}"#, r#"{"name": "x", "role": "admin"}"#);
        let forged = format!("{}x", &cluster.token()[..cluster.token().len() - 1]);
        for (token_, method, path, body, status) in [
            (reader.as_str(), "GET", "/v1/instances", None, 200),
            (&reader, "POST", "/v1/instances", Some(allocate), 403),
            (&reader, "DELETE", "/v1/types/small", None, 403),
            (&reader, "POST", "/v1/instances/x/migrate", Some(r#"{"compute_node": "y"}"#), 403),
            (&operator, "POST", "/v1/tokens", Some(token), 403),
            (&operator, "DELETE", "/v1/types/small", None, 204),
            (&forged, "GET", "/v1/instances", None, 401),
            ("skt_nonsense", "GET", "/v1/whoami", None, 401),
            ("", "GET", "/v1/whoami", None, 401),
        ] {
            let (got, answer) = cluster.rest(token_, method, path, body)?;
            expect(got == status, || format!("{method} {path}: {got}, not {status}: {answer}"))?;
            let explained = status < 400 || (answer["status"] == status && answer["detail"].is_string());
            expect(explained, || format!("{method} {path}: no problem document: {answer}"))?;
        }
        wait_ok("the short token's end", SOON, || {
            let (status, answer) = cluster.rest(&short, "GET", "/v1/whoami", None)?;
            expect(status == 401, || answer.to_string())
        })?;
        oversized(cluster)?;
        counted(cluster)?;
        cut(cluster, silent)?;
        nothing_secret_in_logs(cluster, &[reader, operator, short])
    })
}

/// One mebibyte is the most.
fn oversized(cluster: &Cluster) -> Result<()> {
    let file = cluster.lab().dir().join("body.json");
    std::fs::write(&file, format!("{{\"name\": {:?}}}", "x".repeat(2 << 20)))?;
    let body = format!("@{}", file.display());
    let (status, answer) = cluster.rest(cluster.token(), "POST", "/v1/types", Some(&body))?;
    expect(status == 413, || format!("{status}: {answer}"))
}

fn counted(cluster: &Cluster) -> Result<()> {
    for (problem, at_least) in [("forbidden", 4.0), ("unauthenticated", 3.0), ("too-large", 1.0)] {
        let count = cluster.metric(&format!("controller_api_refused_total{{problem=\"{problem}\"}}"))?;
        expect(count >= at_least, || format!("{count} refusals are counted as {problem}"))?;
    }
    Ok(())
}

fn cut(cluster: &Cluster, mut silent: TcpStream) -> Result<()> {
    silent.set_read_timeout(Some(Duration::from_secs(15)))?;
    let read = silent.read(&mut [0; 16]);
    // Closed, with or without a reset; a timeout is neither.
    let timed_out = matches!(&read, Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
    expect(!timed_out && read.as_ref().map_or(true, |read| *read == 0), || format!("not cut: {read:?}"))?;
    let count = cluster.metric("controller_api_connections_cut_total{step=\"tls\"}")?;
    expect(count >= 1.0, || format!("{count} connections were cut"))
}

#[test]
fn a_node_that_claims_anothers_binding_in_learn_mode() -> Result<()> {
    rogue("learn")
}

#[test]
fn a_node_that_claims_anothers_binding_in_strict_mode() -> Result<()> {
    rogue("strict")
}

/// A rogue on node-b speaks with the MAC and the IP of an instance that is placed on node-a.
fn rogue(mode: &str) -> Result<()> {
    cluster_test(&format!("security_rogue_{mode}"), 3, |cluster| {
        cluster.ready()?;
        cluster.skippy(&["network", "set", "blue", "--anti-spoof", mode])?;
        let node = cluster.member("node-b")?.node(cluster)?;
        if mode == "learn" {
            // Its switch does not hear of the placement before it has learned the rogue and claims it.
            cut_off(cluster, node)?;
        }
        // The MAC is the first of the registry's counter.
        let first: Mac = "02:73:69:00:00:01".parse()?;
        let rogue = cluster.plug("node-b", "rogue", &first.to_string(), &["10.0.0.1/24"])?;
        let socket = PacketSocket::open(&rogue, "eth0")?;
        socket.send(&announcement(first, "10.0.0.1".parse()?))?;
        cluster.allocate("victim", "node-a")?;
        cluster.allocate("watch", "node-c")?;
        if mode == "learn" {
            reconnect(node)?;
        }
        claims(cluster, mode)?;
        let mac = cluster.mac("victim")?;
        expect(mac == first.to_string(), || format!("the victim has {mac}"))?;
        let (watch, ip) = (cluster.instance_ns("watch")?, cluster.v4("victim")?);
        wait_ok("the victim to answer", SOON, || measure::ping_ok(&watch, ip))?;
        let pings = Watch::start(&watch, ip, cluster.lab().dir().join("ping.txt"))?;
        let before = spoofs(&node.stats()?);
        for round in 0..50_u16 {
            socket.send(&announcement(first, v4(ip)?))?;
            // With a MAC of its own and the victim's address, too.
            socket.send(&announcement(Mac([2, 0, 0, 0, 0, 0x99]), v4(ip)?))?;
            let to = (v4(cluster.v4("watch")?)?, 9);
            socket.send(&udp_v4([Mac::BROADCAST, first], (v4(ip)?, round), to, b"rogue"))?;
        }
        pings.more(50)?;
        wait_ok("node-b's switch to count the rogue's frames", SOON, || {
            let now = spoofs(&node.stats()?);
            expect(now >= before + 150, || format!("{now} after {before}"))
        })?;
        let gap = pings.longest_gap()?;
        println!("security_rogue_{mode}: the longest gap of the victim was {} ms", gap.as_millis());
        expect(gap < GAP_MAX, || format!("the victim was out of reach for {gap:?}"))?;
        let binding = cluster.binding(&mac)?.context("no binding of the victim")?;
        let right = binding["compute_node_name"] == "node-a" && binding["source"] == "controller";
        expect(right, || binding.to_string())?;
        measure::ping_ok(&watch, ip)
    })
}

/// The controller refuses the claim; a strict network's switch makes none.
fn claims(cluster: &Cluster, mode: &str) -> Result<()> {
    const REFUSED: &str = "controller_claims_total{result=\"refused\"}";
    if mode == "strict" {
        return expect(cluster.metric(REFUSED)? == 0.0, || "a claim in strict mode".to_owned());
    }
    let node = cluster.member("node-b")?.node(cluster)?;
    wait_ok("the controller to refuse the claim of node-b", SOON, || {
        let count = cluster.metric(REFUSED)?;
        expect(count >= 1.0, || format!("{REFUSED} {count}"))
    })?;
    wait_ok("node-b to count it", SOON, || {
        let status = node.ctl(&["status"])?;
        expect(status["controller"]["refused_claims"].as_u64() >= Some(1), || status.to_string())
    })
}

/// Breaks a node's way to the controller, both directions: what is sent is held, as by a broken cable.
fn cut_off(cluster: &Cluster, node: &Node) -> Result<()> {
    let controller = cluster.controller()?.underlay_v4(0);
    node.ns().nft(&format!(
        "table inet cut {{\n chain out {{\n  type filter hook output priority 0\n  ip daddr {controller} drop\n }}\n \
         chain in {{\n  type filter hook input priority 0\n  ip saddr {controller} drop\n }}\n}}\n"
    ))
}

fn reconnect(node: &Node) -> Result<()> {
    node.ns().exec(&["nft", "delete", "table", "inet", "cut"]).map(drop)
}

fn v4(ip: IpAddr) -> Result<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(ip) => Err(anyhow!("{ip} is no IPv4 address")),
    }
}

fn announcement(mac: Mac, ip: Ipv4Addr) -> Vec<u8> {
    Arp { op: 1, sha: mac, spa: ip, tha: Mac::ZERO, tpa: ip }.frame(Mac::BROADCAST)
}

/// In `learn` mode a MAC that is bound elsewhere has a counter of its own.
fn spoofs(stats: &Value) -> u64 {
    ctl::sum(stats, "spoof") + ctl::sum(stats, "bound_elsewhere")
}

/// A removed node that does not hear of it and goes on as if nothing had happened.
#[test]
fn a_removed_node_is_shut_out() -> Result<()> {
    cluster_test("security_removed", 3, |cluster| {
        const REVOKED: &str = "controller_node_sessions_total{result=\"revoked-key\"}";
        cluster.ready()?;
        let node_b = cluster.member("node-b")?.node(cluster)?;
        // No goodbye comes through.
        cut_off(cluster, node_b)?;
        let began = Instant::now();
        cluster.skippy(&["remove-compute-node", "node-b", "--force", "--no-wait"])?;
        for name in ["node-a", "node-c"] {
            let node = cluster.member(name)?.node(cluster)?;
            wait_for(&format!("{name} to drop its link with node-b"), SOON, || {
                node.ctl(&["links"]).is_ok_and(|links| ctl::link(&links, "node-b").is_none())
            })?;
        }
        let took = began.elapsed();
        println!(
            "security_removed: every peer had dropped the link {} ms after the command began",
            took.as_millis()
        );
        expect(took < Duration::from_secs(2), || format!("it took {took:?}"))?;

        // It dials on, and gets nowhere.
        wait_for("node-b to see its links down", SOON, || {
            node_b
                .ctl(&["links"])
                .is_ok_and(|links| ["node-a", "node-c"].iter().all(|peer| !ctl::link_up(&links, peer)))
        })?;
        let still = Instant::now();
        while still.elapsed() < Duration::from_secs(1) {
            let links = node_b.ctl(&["links"])?;
            let up = ["node-a", "node-c"].iter().any(|peer| ctl::link_up(&links, peer));
            expect(!up, || format!("a removed node has a link: {links}"))?;
        }
        let before = cluster.metric(REVOKED).unwrap_or(0.0);
        reconnect(node_b)?;
        // It waits longer and longer between attempts; a restart tries at once.
        node_b.restart()?;
        wait_ok("the controller to refuse its session", SOON, || {
            let now = cluster.metric(REVOKED)?;
            expect(now > before, || format!("{REVOKED} {now}"))
        })?;
        let links = node_b.ctl(&["links"])?;
        expect(!ctl::link_up(&links, "node-a"), || format!("a link after all: {links}"))
    })
}

/// The same key and `node.json` in a second place: reported, and the first one works on.
#[test]
fn a_copied_node_is_reported() -> Result<()> {
    cluster_test("security_cloned", 3, |cluster| {
        cluster.skippy(&["network", "add", "blue", "--subnet-v4", "10.0.0.0/24"])?;
        cluster.skippy(&["add-type", "small", "--cores", "0.25", "--memory", "64MiB"])?;
        let (a, b, c) = (cluster.member("node-a")?, cluster.member("node-b")?, cluster.member("node-c")?);
        a.join(cluster)?;
        b.join(cluster)?;
        cluster.allocate("a1", "node-a")?;
        cluster.allocate("b1", "node-b")?;
        let (a1, ip) = (cluster.instance_ns("a1")?, cluster.v4("b1")?);
        wait_ok("b1 to answer", SOON, || measure::ping_ok(&a1, ip))?;
        let watch = Watch::start(&a1, ip, cluster.lab().dir().join("ping.txt"))?;

        b.clone_to(cluster, c)?;
        c.node(cluster)?.restart()?;
        wait_ok("the copy to be reported", SOON, || {
            let node = cluster.skippy(&["node", "show", "node-b"])?;
            expect(node["state"] == "cloned", || node.to_string())
        })?;
        let events = cluster.list(&["event", "list", "--kind", "node-cloned"])?;
        expect(!events.is_empty(), || "no event tells of the copy".to_owned())?;
        expect(cluster.metric("controller_node_sessions_total{result=\"cloned-key\"}")? >= 1.0, || {
            "not counted".to_owned()
        })?;
        let table = cluster.skippy_text(&["node", "list"])?;
        expect(table.contains("cloned"), || table.clone())?;
        wait_for("the copy to say why", SOON, || {
            std::fs::read_to_string(c.node(cluster).map(Node::log_path).unwrap_or_default())
                .is_ok_and(|log| log.contains("copy"))
        })?;

        watch.more(100)?;
        let gap = watch.longest_gap()?;
        println!("security_cloned: the first node's longest gap was {} ms", gap.as_millis());
        expect(gap < GAP_MAX, || format!("the first node's instance was away for {gap:?}"))?;
        cluster.allocate("b2", "node-b")?;
        let ip = cluster.v4("b2")?;
        wait_ok("b2 to answer", SOON, || measure::ping_ok(&a1, ip))
    })
}
