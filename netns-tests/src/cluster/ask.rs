//! What tests ask of a cluster again and again.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::{Cluster, state_dir, text};
use crate::measure;
use crate::ns::Namespace;
use crate::wait::wait_ok;

impl Cluster {
    /// Joins every node.
    pub fn join_all(&self) -> Result<()> {
        self.members().try_for_each(|member| member.join(self))
    }

    /// Joins every node without an agent, and waits until the controller has a session with each switch.
    pub fn join_switches(&self, within: Duration) -> Result<()> {
        for member in self.members() {
            let token = member.token(self)?;
            member.join_with(self, &token)?;
            member.node(self)?.restart()?;
        }
        self.wait_switches(within)
    }

    /// Waits until the controller has a session with the switch of every node.
    pub fn wait_switches(&self, within: Duration) -> Result<()> {
        wait_ok("all nodes to be online", within, || {
            let nodes = self.list(&["node", "list"])?;
            let online = nodes.iter().filter(|node| node["state"] == "online").count();
            let all = self.members().count();
            ensure!(online == all, "{online} of {all} nodes are online");
            Ok(())
        })
    }

    /// Joins every node, makes the network `blue` (10.0.0.0/24, fd00::/64) and the type `small`, and waits until
    /// every link is up.
    pub fn ready(&self) -> Result<()> {
        self.skippy(&["network", "add", "blue", "--subnet-v4", "10.0.0.0/24", "--subnet-v6", "fd00::/64"])?;
        self.skippy(&["add-type", "small", "--cores", "0.25", "--memory", "64MiB"])?;
        self.join_all()?;
        for member in self.members() {
            for peer in self.members().filter(|peer| peer.name() != member.name()) {
                member.node(self)?.wait_link(peer.name(), true)?;
            }
        }
        Ok(())
    }

    /// An instance of the type `small` that does nothing.
    pub fn allocate(&self, name: &str, node: &str) -> Result<Value> {
        self.skippy(&["allocate", "small", "--node", node, "--name", name, "--", "sleep", "infinity"])
    }

    /// The addresses of an instance's endpoints, IPv4 first.
    pub fn ips(&self, instance: &str) -> Result<Vec<IpAddr>> {
        let instance = self.skippy(&["instance", "show", instance])?;
        let nics = instance["nics"].as_array().with_context(|| format!("no nics in {instance}"))?;
        let ips = nics.iter().flat_map(|nic| nic["ips"].as_array().into_iter().flatten());
        let mut ips: Vec<IpAddr> = ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        ips.sort();
        Ok(ips)
    }

    /// The IPv4 address of an instance.
    pub fn v4(&self, instance: &str) -> Result<IpAddr> {
        let ips = self.ips(instance)?;
        ips.into_iter().find(IpAddr::is_ipv4).ok_or_else(|| anyhow!("{instance} has no IPv4 address"))
    }

    /// The MAC of an instance's first endpoint.
    pub fn mac(&self, instance: &str) -> Result<String> {
        text(&self.skippy(&["instance", "show", instance])?["nics"][0], "mac")
    }

    /// A station that no agent knows: a namespace with one interface in the node's bridge of the network `blue`.
    /// Its addresses are with a prefix length.
    pub fn plug(&self, node: &str, name: &str, mac: &str, ips: &[&str]) -> Result<Namespace> {
        let ns = Namespace::create(&format!("{}{name}", self.lab().prefix()))?;
        self.attached.lock().unwrap_or_else(PoisonError::into_inner).push(ns.clone());
        self.plug_again(&ns, node, name, mac, ips)?;
        Ok(ns)
    }

    /// The same for a namespace whose last interface is gone.
    pub fn plug_again(&self, ns: &Namespace, node: &str, name: &str, mac: &str, ips: &[&str]) -> Result<()> {
        let node = self.lab().node(node)?;
        node.ns().ip_batch(&format!(
            "link add v-{name} type veth peer name eth0 address {mac} netns {}\n\
             link set v-{name} master br-blue\nlink set v-{name} up\n",
            ns.name()
        ))?;
        node.ns().sysctl(&format!("net/ipv6/conf/v-{name}/disable_ipv6"), "1")?;
        let addresses: String = ips
            .iter()
            .map(|ip| format!("addr add {ip} dev eth0{}\n", if ip.contains(':') { " nodad" } else { "" }))
            .collect();
        ns.ip_batch(&format!("{addresses}link set eth0 up\n"))
    }

    /// The items that `skippy --json <args>` lists.
    pub fn list(&self, args: &[&str]) -> Result<Vec<Value>> {
        let page = self.skippy(args)?;
        page["items"].as_array().cloned().with_context(|| format!("skippy {args:?} listed nothing: {page}"))
    }

    /// The binding of a MAC on the network `blue`, if there is one.
    pub fn binding(&self, mac: &str) -> Result<Option<Value>> {
        Ok(self.list(&["binding", "list", "--mac", mac])?.into_iter().next())
    }

    /// A sample of the controller's metrics, by its name and labels as they stand there.
    pub fn metric(&self, sample: &str) -> Result<f64> {
        let (_, text) = measure::http_get(self.controller()?.ns(), 9842, "/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).with_context(|| format!("no {sample} in the metrics"))
    }

    /// A request to the REST API by curl, with any token: the status and the body, null if there is none.
    pub fn rest(&self, token: &str, method: &str, path: &str, body: Option<&str>) -> Result<(u16, Value)> {
        let certificate = state_dir(self.controller()?).join("rest.crt").display().to_string();
        let (url, bearer) = (format!("{}{path}", self.url()?), format!("authorization: Bearer {token}"));
        // By HTTP/2, Debian 12's curl takes an answer that comes before the body's end for an error.
        let mut args =
            vec!["curl", "-sS", "--http1.1", "--cacert", &certificate, "-X", method, "-H", &bearer];
        args.extend(["-w", "\n%{http_code}"]);
        if let Some(body) = body {
            args.extend(["-H", "content-type: application/json", "-d", body]);
        }
        args.push(&url);
        let done = self.controller()?.ns().finish(&args, Duration::from_secs(30))?;
        ensure!(done.status.success(), "curl {method} {path}: {}", done.stderr.trim());
        let (body, status) = done.stdout.rsplit_once('\n').context("curl tells the status last")?;
        let body = if body.trim().is_empty() { Value::Null } else { serde_json::from_str(body)? };
        Ok((status.parse()?, body))
    }
}
