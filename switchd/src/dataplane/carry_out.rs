//! What the other planes' words do to the worker.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use switch_core::ids::PeerId;
use switch_core::switch::DropReason;

use super::bindings::Unused;
use super::command::{BindingChange, Bite, Command, MssClamp, Refused};
use super::core::Core;
use super::network::Network;
use super::networks::Networks;
use super::views;
use super::worker::tap_token;
use crate::tap::Tap;

/// Carries out one command.
pub(super) fn carry_out(
    command: Command,
    core: &mut Core,
    networks: &mut Networks,
    epoll: &Epoll,
    node: &Arc<str>,
) {
    match command {
        Command::SetEndpoint(vni, tap) => {
            if let Some(network) = networks.get_mut(vni) {
                set_tap(network, tap, epoll);
            }
        }
        Command::AddNetwork(config) => {
            let vni = config.switch.vni;
            networks.add(*config);
            let now = core.now();
            if let Some(network) = networks.get_mut(vni) {
                for (id, peer) in core.peers.iter() {
                    network.switch.handle_link(id, peer.is_reachable(vni), now);
                }
            }
        }
        // Closing the TAP takes it out of the epoll set.
        Command::RemoveNetwork(vni) => networks.remove(vni),
        Command::SetPolicy(vni, policy, MssClamp(clamp)) => {
            if let Some(network) = networks.get_mut(vni) {
                network.switch.set_policy(policy);
                network.mss_clamp = clamp;
            }
        }
        Command::AddPeer(peer, name, allowed) => {
            core.peers.add(peer, name, allowed);
            update_links(core, networks, peer);
        }
        Command::RemovePeer(peer) => {
            if let Some(mut gone) = core.peers.remove(peer) {
                while let Some(held) = gone.held.pop() {
                    core.unheld.push((peer, DropReason::LinkDown, held));
                }
            }
            core.removed.push(peer);
            update_links(core, networks, peer);
        }
        Command::AddSession(index, peer, opener) => core.peers.add_session(index, peer, opener),
        Command::ArmSession(index, sealer) => core.peers.arm_session(index, sealer),
        Command::CarryEcn(index) => core.peers.carry_ecn(index),
        Command::SetQuicSender(index, sender) => core.peers.set_quic_sender(index, sender),
        Command::UseSession(id, index) => {
            if let Some(peer) = core.peers.get_mut(id) {
                peer.active = index;
            }
            set_usable(core, id);
            update_links(core, networks, id);
        }
        Command::RemoveSession(index) => {
            if let Some(id) = core.peers.remove_session(index) {
                set_usable(core, id);
                update_links(core, networks, id);
            }
        }
        Command::OfferPath(id, offer) => {
            if let Some(peer) = core.peers.get_mut(id) {
                peer.paths.offer(offer, Instant::now());
                core.stir(id);
            }
        }
        Command::WithdrawPath(id, path) => {
            if let Some(peer) = core.peers.get_mut(id) {
                peer.paths.withdraw(path, Instant::now());
                core.stir(id);
            }
        }
        Command::SetPathConfig(config) => {
            core.peers.set_path_config(config, Instant::now());
            stir_all(core);
        }
        Command::SetOnDemand(id, on_demand) => {
            if let Some(peer) = core.peers.get_mut(id) {
                peer.on_demand = on_demand;
            }
            update_links(core, networks, id);
        }
        Command::SetMembership(peer, vnis) => {
            if let Some(peer) = core.peers.get_mut(peer) {
                peer.member = vnis;
            }
            update_links(core, networks, peer);
        }
        Command::ProbeAll => {
            let now = Instant::now();
            core.peers.iter_mut().for_each(|(_, peer)| peer.paths.probe_all(now));
            stir_all(core);
        }
        Command::SetRekeyDatagrams(datagrams) => core.rekey_datagrams = datagrams,
        Command::LocalStations(to) => {
            let now = core.now();
            let _ = to.send(networks.iter_mut().map(|network| network.all_stations(now)).collect());
        }
        Command::Bindings(to) => {
            let _ = to.send(views::bindings(core, networks, node));
        }
        Command::Macs(to) => {
            let _ = to.send(views::macs(core, networks));
        }
        Command::Drops(to) => {
            let _ = to.send(core.drop_log.view(|id| core.peer_name(id)));
        }
        Command::Ping(to) => {
            let _ = to.send(());
        }
        Command::Capture(filter, to) => core.captures.add(filter, to),
        Command::Stop => {} // the loop ends after this turn
    }
}

/// Carries out one bite.
pub(super) fn take_bite(bite: Bite, core: &mut Core, networks: &mut Networks, refused: &mut Refused) {
    match bite {
        Bite::Bindings(changes) => {
            changes.into_iter().for_each(|change| bind(change, core, networks, refused));
        }
        Bite::Done(to) => {
            let _ = to.send(std::mem::take(refused));
        }
    }
}

fn bind(change: BindingChange, core: &mut Core, networks: &mut Networks, refused: &mut Refused) {
    let now = core.now();
    match change {
        BindingChange::Set(vni, binding) => {
            let Some(network) = networks.get_mut(vni) else { return };
            let (mac, source) = (binding.mac, binding.source);
            let result = network.switch.set_binding(*binding, now);
            if let Some(why) = Unused::of(source, &result) {
                tracing::debug!(network = %network.name, %mac, ?result, "a binding changed nothing");
                network.unused_bindings.count(why);
                if let (Unused::Refused, Err(e)) = (why, result) {
                    refused.count += 1;
                    refused.first.get_or_insert_with(|| format!("network {}: {e}", network.name));
                }
            }
            network.drain(core);
        }
        BindingChange::Remove(vni, key, generation) => {
            let Some(network) = networks.get_mut(vni) else { return };
            let _ = network.switch.remove_binding(key, generation, now);
            network.drain(core);
        }
    }
}

fn set_tap(network: &mut Network, tap: Option<Tap>, epoll: &Epoll) {
    // Closing the old TAP takes it out of the epoll set.
    network.tap = tap;
    if let Some(tap) = &network.tap
        && let Err(e) = epoll.add(tap.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, tap_token(network.vni)))
    {
        tracing::error!(network = %network.name, error = %e, "cannot watch the TAP");
    }
}

/// Tells every switch whether the peer takes part and is reachable.
fn update_links(core: &mut Core, networks: &mut Networks, peer: PeerId) {
    let now = core.now();
    for network in networks.iter_mut() {
        let up = core.peers.get(peer).is_some_and(|peer| peer.is_reachable(network.vni));
        network.switch.handle_link(peer, up, now);
        network.drain(core);
    }
}

/// Tells the peer's path set whether there is a session to seal with.
fn set_usable(core: &mut Core, id: PeerId) {
    if let Some(peer) = core.peers.get_mut(id) {
        peer.paths.set_usable(peer.active.is_some(), Instant::now());
        core.stir(id);
    }
}

fn stir_all(core: &mut Core) {
    let peers: Vec<PeerId> = core.peers.iter().map(|(id, _)| id).collect();
    peers.into_iter().for_each(|id| core.stir(id));
}
