//! Instances: made, started, stopped, removed. Moves are in `migration`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    changes::EventKind,
    command::{NewInstance, Outcome},
    ids::{Generation, InstanceId, NodeId, Vni},
    names::shown,
    networks::bindable,
    placement::Need,
    records::{
        Binding, BindingKey, BindingSource, BindingState, DesiredState, Instance, Network, Nic,
        OperationKind, OperationState, Phase, Stage, Subject, Subnet,
    },
    refusal::Refusal,
    registry::Registry,
    types::check_image,
};

const NICS_MAX: usize = 8;
/// Of command and environment together: what fits into a kernel command line of a guest, with room.
const COMMAND_MAX: usize = 32 * 1024;

impl Registry {
    pub(crate) fn allocate(&mut self, new: NewInstance) -> Result<Outcome, Refusal> {
        let of_type = self.find_type(&new.instance_type)?.clone();
        if let Some(name) = &new.name {
            self.check_instance_name(name)?;
        }
        let image = new.image.clone().unwrap_or_else(|| of_type.image.clone());
        check_image(&image)?;
        check_command(&new.command, &new.env)?;
        let vnis = self.networks_of(&new.networks)?;
        let need = Need { limits: &of_type.limits, driver: &of_type.driver, vnis: vnis.clone() };
        let node = self.place(new.node.as_deref(), &need)?;
        let addresses = self.choose_ips(&vnis, &new.ips)?;
        let mut nics = Vec::new();
        for (vni, ips) in vnis.into_iter().zip(addresses) {
            nics.push(Nic { vni, mac: self.counters.next_mac()?, ips });
        }

        let id = InstanceId(self.next_number(|c| &mut c.instance));
        let subjects = vec![Subject::Instance(id), Subject::Node(node)];
        let operation = self.begin(OperationKind::Allocate, subjects, "start", None);
        let name = new.name.unwrap_or_else(|| id.to_string());
        self.event(EventKind::InstanceCreated, id, format!("instance {name} was placed on {node}"));
        let instance = Instance {
            id,
            name,
            instance_type: of_type.name,
            limits: of_type.limits,
            driver: of_type.driver,
            image,
            command: new.command,
            env: new.env,
            nics,
            node,
            generation: Generation(self.next_revision().0),
            operation: Some(operation),
            created: self.now,
            ..Instance::default()
        };
        self.put_instance(instance);
        Ok(Outcome::Allocated { instance: id, operation })
    }

    fn networks_of(&self, references: &[String]) -> Result<Vec<Vni>, Refusal> {
        if references.is_empty() {
            let open: Vec<&Network> = self.networks.values().filter(|n| !n.host).collect();
            let named = open.iter().find(|n| n.name == "default");
            return match (named, open.as_slice()) {
                (Some(network), _) | (None, [network]) => Ok(vec![network.vni]),
                (None, []) => Err(Refusal::not_ready("there is no network yet; create one first")),
                (None, _) => Err(Refusal::invalid(
                    "networks",
                    "there are several and none is named `default`; name one",
                )),
            };
        }
        if references.len() > NICS_MAX {
            return Err(Refusal::invalid("networks", "more than 8; leave some out"));
        }
        let mut vnis = Vec::new();
        for reference in references {
            let Network { vni, host, name, .. } = self.find_network(reference)?;
            if *host {
                return Err(Refusal::invalid(
                    "networks",
                    format!(
                        "`{name}` is for the nodes themselves, and no instance may be in it; take another one"
                    ),
                ));
            }
            let vni = *vni;
            if vnis.contains(&vni) {
                return Err(Refusal::invalid("networks", format!("`{}` is named twice", shown(reference))));
            }
            vnis.push(vni);
        }
        Ok(vnis)
    }

    fn place(&self, node: Option<&str>, need: &Need<'_>) -> Result<NodeId, Refusal> {
        let used = self.used();
        match node {
            Some(reference) => {
                let node = self.live_node(reference)?;
                self.check_fit(node, need, &used)?;
                Ok(node.id)
            }
            None => self.best_node(need, &used).ok_or_else(|| {
                Refusal::exhausted(format!(
                    "no schedulable node with a connected agent has the {} driver, the networks and {} MiB of free \
                     memory; add a node or free one",
                    need.driver,
                    need.limits.memory_bytes >> 20
                ))
            }),
        }
    }

    /// The addresses of each interface: those asked for, else the lowest free one of each subnet.
    fn choose_ips(&self, vnis: &[Vni], wanted: &[IpAddr]) -> Result<Vec<Vec<IpAddr>>, Refusal> {
        let mut chosen: Vec<Vec<IpAddr>> = vec![Vec::new(); vnis.len()];
        let networks: Vec<&Network> = vnis.iter().filter_map(|v| self.networks.get(v)).collect();
        for ip in wanted {
            let subnets = |n: &Network| [n.subnet_v4, n.subnet_v6].into_iter().flatten();
            let with_it = networks.iter().position(|n| subnets(n).any(|s| s.contains(*ip)));
            // A network without a subnet takes any address.
            let place = with_it.or_else(|| networks.iter().position(|n| subnets(n).next().is_none()));
            let Some(place) = place.filter(|_| bindable(*ip)) else {
                return Err(Refusal::invalid("ips", format!("{ip} is in none of the networks' subnets")));
            };
            let network = networks[place];
            let usable = |s: Subnet| !s.contains(*ip) || s.may_host(*ip);
            let repeated = chosen[place].contains(ip);
            if !subnets(network).all(usable) || network.gateways.contains(ip) || repeated {
                return Err(Refusal::invalid(
                    "ips",
                    format!("{ip} cannot be an instance's; choose another one"),
                ));
            }
            if let Some(holder) = self.index.placed_ips.get(&(network.vni, *ip)) {
                return Err(Refusal::conflict(format!("ips: {ip} is {holder}'s; choose another one")));
            }
            chosen[place].push(*ip);
        }
        for (network, ips) in networks.iter().zip(&mut chosen) {
            for subnet in [network.subnet_v4, network.subnet_v6].into_iter().flatten() {
                if !ips.iter().any(|ip| subnet.contains(*ip)) {
                    ips.push(self.free_ip(network, subnet)?);
                }
            }
        }
        Ok(chosen)
    }

    fn free_ip(&self, network: &Network, subnet: Subnet) -> Result<IpAddr, Refusal> {
        let bound: BTreeSet<IpAddr> =
            self.bindings_of(network.vni).flat_map(|b| b.ips.iter().copied()).collect();
        let free = |ip: &IpAddr| {
            !network.gateways.contains(ip)
                && !bound.contains(ip)
                && !self.index.placed_ips.contains_key(&(network.vni, *ip))
        };
        subnet.hosts().find(free).ok_or_else(|| {
            Refusal::exhausted(format!(
                "network {} has no free address in {subnet}; delete instances or use another network",
                network.name
            ))
        })
    }

    pub(crate) fn start_instance(&mut self, reference: &str) -> Result<Outcome, Refusal> {
        self.want(reference, DesiredState::Running, OperationKind::StartInstance)
    }

    pub(crate) fn stop_instance(&mut self, reference: &str) -> Result<Outcome, Refusal> {
        self.want(reference, DesiredState::Stopped, OperationKind::StopInstance)
    }

    fn want(
        &mut self,
        reference: &str,
        desired: DesiredState,
        kind: OperationKind,
    ) -> Result<Outcome, Refusal> {
        let mut instance = self.find_instance(reference)?.clone();
        self.check_idle(&instance)?;
        if desired == DesiredState::Running {
            self.place_anew(&mut instance);
        }
        self.check_confirmed(&instance)?;
        let step = if desired == DesiredState::Running { "start" } else { "stop" };
        let id = instance.id;
        let operation =
            self.begin(kind, vec![Subject::Instance(id), Subject::Node(instance.node)], step, None);
        if instance.phase == Phase::Failed {
            // An agent tries again when what it is told changes.
            instance.generation = Generation(self.next_revision().0);
            instance.phase = Phase::Pending;
        }
        instance.desired = desired;
        instance.operation = Some(operation);
        self.put_instance(instance);
        Ok(Outcome::Operation(operation))
    }

    pub(crate) fn delete_instance(&mut self, reference: &str) -> Result<Outcome, Refusal> {
        let instance = self.find_instance(reference)?.clone();
        let id = instance.id;
        if instance.migration.is_some()
            || instance.operation.is_some_and(|o| self.kind_of(o) == Some(OperationKind::DeleteInstance))
        {
            self.check_idle(&instance)?;
        }
        // Whatever else is going on with it has lost its point.
        let why = Some("the instance is being deleted".to_owned());
        self.end_of_instance(id, OperationState::Cancelled, "", why);
        Ok(Outcome::Operation(self.begin_deletion(id, None)))
    }

    pub(crate) fn begin_deletion(
        &mut self,
        id: InstanceId,
        parent: Option<crate::ids::OperationId>,
    ) -> crate::ids::OperationId {
        let node = self.instances.get(&id).map(|i| i.node).unwrap_or_default();
        let subjects = vec![Subject::Instance(id), Subject::Node(node)];
        let operation = self.begin(OperationKind::DeleteInstance, subjects, "remove", parent);
        if let Some(mut instance) = self.instances.get(&id).cloned() {
            self.place_anew(&mut instance);
            instance.desired = DesiredState::Absent;
            instance.operation = Some(operation);
            self.put_instance(instance);
        }
        operation
    }

    fn kind_of(&self, operation: crate::ids::OperationId) -> Option<OperationKind> {
        self.operations.get(&operation).map(|o| o.kind)
    }

    /// Nothing else works on the instance.
    pub(crate) fn check_idle(&self, instance: &Instance) -> Result<(), Refusal> {
        let id = instance.id;
        if let Some(operation) = instance.operation {
            let kind = self.kind_of(operation).map_or("an operation", OperationKind::as_str);
            return Err(Refusal::conflict(format!(
                "{operation} ({kind}) works on {id}; wait for it or cancel it first"
            )));
        }
        if instance.desired == DesiredState::Absent {
            return Err(Refusal::conflict(format!("{id} is being removed")));
        }
        Ok(())
    }

    /// What is due for an instance, from what is known of it alone.
    pub(crate) fn advance_instance(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id).cloned() else { return };
        if instance.migration.is_some() {
            return self.advance_migration(&instance);
        }
        match (instance.desired, instance.phase) {
            (DesiredState::Running, Phase::Running) => {
                self.end_of_instance(id, OperationState::Succeeded, "running", None);
            }
            (DesiredState::Stopped, Phase::Stopped) => {
                self.end_of_instance(id, OperationState::Succeeded, "stopped", None);
            }
            (DesiredState::Running | DesiredState::Stopped, Phase::Failed) => {
                let why = format!("the agent of {}: {}", instance.node, instance.detail);
                self.end_of_instance(id, OperationState::Failed, "", Some(why));
            }
            (DesiredState::Absent, Phase::Lost) if instance.leftovers.is_empty() => self.drop_instance(id),
            (DesiredState::Absent, Phase::Lost) => {
                if let Some(operation) = instance.operation {
                    self.progress(operation, "remove", 50, "a copy of an earlier placement has to go yet");
                }
            }
            _ => {}
        }
    }

    /// The instance is nowhere any more.
    pub(crate) fn drop_instance(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id).cloned() else { return };
        self.end_of_instance(id, OperationState::Succeeded, "removed", None);
        self.remove_instance(id);
        for key in keys_of(&instance) {
            self.remove_binding(&key);
        }
        self.touched.remove(&id);
        self.event(EventKind::InstanceDeleted, id, format!("instance {} is gone", instance.name));
    }

    /// Bindings follow from where the instance lives or goes, and whether it runs there.
    pub(crate) fn sync_bindings(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id).cloned() else { return };
        let leaving =
            instance.migration.as_ref().filter(|m| matches!(m.stage, Stage::Stop | Stage::Transfer));
        let (node, running) = match leaving {
            Some(migration) => (migration.to, false),
            None => (instance.node, instance.phase == Phase::Running),
        };
        let active = running && instance.unconfirmed.is_none() && instance.desired != DesiredState::Absent;
        for (nic, key) in instance.nics.iter().zip(keys_of(&instance)) {
            self.put_binding(Binding {
                key,
                ips: nic.ips.clone(),
                node,
                generation: Generation(0),
                source: BindingSource::Controller,
                state: if active { BindingState::Active } else { BindingState::Prepared },
                instance: Some(id),
            });
        }
    }
}

/// The stations of an instance.
pub(crate) fn keys_of(instance: &Instance) -> Vec<BindingKey> {
    let key = |nic: &Nic| BindingKey { vni: nic.vni, vlans: Vec::new(), mac: nic.mac };
    instance.nics.iter().map(key).collect()
}

fn check_command(command: &[String], env: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let texts = command.iter().chain(env.keys()).chain(env.values());
    let (mut bytes, mut bad) = (0, false);
    for text in texts {
        bytes += text.len() + 1;
        bad |= text.contains('\0');
    }
    if bytes > COMMAND_MAX {
        return Err(Refusal::invalid(
            "command",
            "command and environment are longer than 32 KiB; shorten them",
        ));
    }
    if bad {
        return Err(Refusal::invalid("command", "a zero byte cannot be passed to a program; leave it out"));
    }
    match env.keys().find(|k| k.is_empty() || k.contains('=')) {
        Some(key) => Err(Refusal::invalid("env", format!("`{}` is not the name of a variable", shown(key)))),
        None => Ok(()),
    }
}
