//! Interfaces without their offloads.

use std::net::IpAddr;

use anyhow::{Context, Result};
use netns_tests::Namespace;

/// The interface that carries an address, with its offloads switched off until this is dropped.
pub(super) struct Plain<'a> {
    ns: &'a Namespace,
    device: String,
    /// Those that were on.
    had: Vec<&'static str>,
}

impl<'a> Plain<'a> {
    pub(super) fn of(ns: &'a Namespace, address: IpAddr) -> Result<Plain<'a>> {
        let list = ns.ip(&format!("-o addr show to {address}"))?;
        let device = device(&list).with_context(|| format!("no interface has {address}"))?.to_owned();
        let had = on(&ns.exec(&["ethtool", "-k", &device])?);
        let plain = Plain { ns, device, had };
        // In the order in which one needs the other: without sums there is no segmentation to switch off.
        plain.switch(plain.had.iter().rev(), "off")?;
        Ok(plain)
    }

    fn switch<'b>(&self, features: impl Iterator<Item = &'b &'static str>, to: &str) -> Result<()> {
        let mut args = vec!["ethtool", "-K", &self.device];
        args.extend(features.flat_map(|feature| [*feature, to]));
        if args.len() > 3 {
            self.ns
                .exec(&args)
                .with_context(|| format!("cannot switch {to} the offloads of {}", self.device))?;
        }
        Ok(())
    }
}

impl Drop for Plain<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.switch(self.had.iter(), "on") {
            eprintln!("{error:#}");
        }
    }
}

/// The interface's name in a line of `ip -o addr`.
fn device(list: &str) -> Option<&str> {
    list.split_whitespace().nth(1)
}

/// The offloads that `ethtool -k` says are on and may be changed, in the order in which they may be switched on.
fn on(features: &str) -> Vec<&'static str> {
    let is_on = |name: &str| features.lines().any(|line| line.trim() == format!("{name}: on"));
    OFFLOADS.iter().filter(|(name, _)| is_on(name)).map(|(_, short)| *short).collect()
}

/// ethtool(8): names as shown, and for `-K`.
const OFFLOADS: [(&str, &str); 4] = [
    ("tx-checksumming", "tx"),
    ("tcp-segmentation-offload", "tso"),
    ("generic-segmentation-offload", "gso"),
    ("generic-receive-offload", "gro"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_and_not_fixed_is_switched() {
        let text = "Features for eth0:\nrx-checksumming: on\ntx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\n\
                    tcp-segmentation-offload: on\ngeneric-segmentation-offload: on [fixed]\n\
                    generic-receive-offload: off\n";
        assert_eq!(on(text), ["tx", "tso"]);
        assert_eq!(device("2: eth0    inet 10.0.0.11/24 scope global eth0\\ valid_lft"), Some("eth0"));
        assert_eq!(device(""), None);
    }
}
