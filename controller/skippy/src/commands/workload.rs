use controller_api::rest::{
    AddType, Allocate, CreateNetwork, Instance, InstanceType, Migrate, Network, Operation, UpdateNetwork,
};
use serde_json::Value;

use super::Session;
use super::nodes::subject;
use crate::cli::{
    AddTypeArgs, AllocateArgs, InstanceCommand, MigrateArgs, NetworkAdd, NetworkCommand, NetworkSet,
    TypeCommand, Waiting,
};
use crate::client::Call;
use crate::error::Error;
use crate::output::typed;
use crate::{routes, tables};

pub(super) async fn types(s: &mut Session, command: TypeCommand) -> Result<(), Error> {
    match command {
        TypeCommand::List => {
            let types = s.client.list(&routes::types()).await?;
            s.out.list::<InstanceType>(types, tables::TYPES, "no types: add one with `skippy type add`")
        }
        TypeCommand::Show { name } => {
            let found = s.client.call(&routes::one_type(&name)).await?;
            s.out.show::<InstanceType>(found, tables::TYPES)
        }
        TypeCommand::Add(args) => add_type(s, args).await,
        TypeCommand::Remove { name } => {
            s.done(routes::remove_type(&name), &format!("type {name} is removed")).await
        }
    }
}

pub(super) async fn add_type(s: &mut Session, args: AddTypeArgs) -> Result<(), Error> {
    let body = AddType {
        name: args.name,
        cores: f64::from(args.cores) / 1000.0,
        memory_mib: args.memory,
        disk_gib: args.disk,
        driver: args.driver,
        image: args.image,
        description: args.description,
    };
    let line = format!("type {} is added", body.name);
    s.done(routes::add_type().body(&body)?, &line).await
}

pub(super) async fn networks(s: &mut Session, command: NetworkCommand) -> Result<(), Error> {
    match command {
        NetworkCommand::List => {
            let networks = s.client.list(&routes::networks()).await?;
            s.out.list::<Network>(
                networks,
                tables::NETWORKS,
                "no networks: add one with `skippy network add`",
            )
        }
        NetworkCommand::Show { network } => {
            let network = s.client.call(&routes::network(&network)).await?;
            s.out.show::<Network>(network, tables::NETWORKS)
        }
        NetworkCommand::Add(args) => {
            let answer = s.change(routes::add_network().body(&create_network(args))?).await?;
            if s.out.json {
                return s.out.json(&answer);
            }
            let network: Network = typed(answer)?;
            s.out.line(&format!("network {} is added with VNI {}", network.name, network.vni))
        }
        NetworkCommand::Set(args) => {
            let line = format!("network {} is changed", args.network);
            let call = routes::set_network(&args.network);
            let body = update_network(args);
            if body == UpdateNetwork::default() {
                return Err(Error::Usage("nothing to set: see `skippy network set --help`".into()));
            }
            s.done(call.body(&body)?, &line).await
        }
        NetworkCommand::Remove { network } => {
            s.done(routes::remove_network(&network), &format!("network {network} is removed")).await
        }
    }
}

fn create_network(args: NetworkAdd) -> CreateNetwork {
    let options = args.options;
    CreateNetwork {
        name: args.name,
        vni: args.vni,
        subnet_v4: args.subnet_v4,
        subnet_v6: args.subnet_v6,
        gateways: some(options.gateways),
        mode: options.mode,
        mtu: options.mtu,
        dhcp: options.dhcp,
        anti_spoof: options.anti_spoof,
        mss_clamp: options.mss_clamp,
        broadcast_rate: options.broadcast_rate,
        broadcast_burst: options.broadcast_burst,
        host: args.host.then_some(true),
        compute_nodes: some(args.nodes),
    }
}

fn update_network(args: NetworkSet) -> UpdateNetwork {
    let options = args.options;
    UpdateNetwork {
        mode: options.mode,
        mtu: options.mtu,
        dhcp: options.dhcp,
        anti_spoof: options.anti_spoof,
        mss_clamp: options.mss_clamp,
        broadcast_rate: options.broadcast_rate,
        broadcast_burst: options.broadcast_burst,
        gateways: if args.no_gateway { Some(Vec::new()) } else { some(options.gateways) },
        compute_nodes: if args.all_nodes { Some(vec!["*".to_owned()]) } else { some(args.nodes) },
    }
}

pub(super) async fn instances(s: &mut Session, command: InstanceCommand) -> Result<(), Error> {
    match command {
        InstanceCommand::List { node, instance_type, network, state } => {
            let call = routes::instances()
                .query_opt("compute_node", node)
                .query_opt("type", instance_type)
                .query_opt("network", network)
                .query_opt("state", state);
            let instances = s.client.list(&call).await?;
            s.out.list::<Instance>(
                instances,
                tables::INSTANCES,
                "no instances: make one with `skippy allocate`",
            )
        }
        InstanceCommand::Show { instance } => {
            let instance = s.client.call(&routes::instance(&instance)).await?;
            s.out.show::<Instance>(instance, tables::INSTANCES)
        }
        InstanceCommand::Allocate(args) => allocate(s, args).await,
        InstanceCommand::Start(one) => long(s, routes::start(&one.instance), one.waiting).await,
        InstanceCommand::Stop(one) => long(s, routes::stop(&one.instance), one.waiting).await,
        InstanceCommand::Migrate(args) => migrate(s, args).await,
        InstanceCommand::Delete(one) => {
            let operation = s.change(routes::delete_instance(&one.instance)).await?;
            if s.finish(operation, one.waiting).await?.is_some() {
                s.out.line(&format!("{} is deleted", one.instance))?;
            }
            Ok(())
        }
    }
}

pub(super) async fn allocate(s: &mut Session, args: AllocateArgs) -> Result<(), Error> {
    let body = Allocate {
        compute_node: args.node,
        instance_type: args.instance_type,
        name: args.name,
        networks: some(args.networks),
        ips: some(args.ips),
        image: args.image,
        command: some(args.command),
        environment: (!args.environment.is_empty()).then(|| args.environment.into_iter().collect()),
    };
    long(s, routes::allocate().body(&body)?, args.waiting).await
}

pub(super) async fn migrate(s: &mut Session, args: MigrateArgs) -> Result<(), Error> {
    let call = routes::migrate(&args.instance).body(&Migrate { compute_node: args.node })?;
    long(s, call, args.waiting).await
}

/// Calls, waits, and tells how the instance is then.
async fn long(s: &mut Session, call: Call, waiting: Waiting) -> Result<(), Error> {
    let operation: Value = s.change(call).await?;
    let Some(operation) = s.finish(operation, waiting).await? else {
        return Ok(());
    };
    tell(s, &operation).await
}

async fn tell(s: &mut Session, operation: &Operation) -> Result<(), Error> {
    let instance: Option<Instance> = match subject(operation, "inst") {
        // What was asked for is done, even if the instance has gone meanwhile.
        Some(id) => s.client.typed(&routes::instance(id)).await.ok(),
        None => None,
    };
    match instance {
        Some(instance) => s.out.line(&sentence(&instance)),
        None => s.out.line(&format!("{} {}", operation.id, operation.state)),
    }
}

/// `web (inst-12) is running on rack1-a with 10.0.0.2`
fn sentence(instance: &Instance) -> String {
    let ips: Vec<_> = instance.nics.iter().flat_map(|nic| &nic.ips).map(ToString::to_string).collect();
    let mut text = format!(
        "{} ({}) is {} on {}",
        instance.name,
        instance.id,
        tables::word(&instance.state),
        instance.compute_node_name
    );
    if !ips.is_empty() {
        text.push_str(&format!(" with {}", ips.join(", ")));
    }
    text
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
