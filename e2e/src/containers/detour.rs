//! Delay and loss between containers: the connections of one to the other go through a proxy on
//! this machine, as those of processes do. Not every kernel has the queueing discipline `netem`.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use xtask::{
    engine,
    wait::{Look, until},
};

use super::Containers;
use crate::{
    backend::Backend as _,
    lab::PATIENCE,
    network::{Network, Proxy, Upstream},
    party::Party,
};

/// Where a global, or the balancer before it, takes its zones' streams.
const KDS_PORT: u16 = 5685;

/// What a zone logs when it has a stream.
const CONNECTED: [&str; 2] = ["receiving from the global", "sending to the global"];

/// The way from one party to another, around.
#[derive(Debug)]
pub(super) struct Detour {
    from: Party,
    /// A rule of the table `nat`, without the verb.
    rule: Vec<String>,
    /// Ends the connections when it is dropped.
    _proxy: Proxy,
}

impl Containers {
    /// The network of detours, with `from`'s connections to `to` on it.
    pub(super) fn around(&mut self, from: &Party, to: &Party) -> Result<&Network> {
        // All lead to the balancer.
        if *to != Party::Balancer || !self.detours.iter().any(|detour| detour.from == *from) {
            self.lead_around(from, to)?;
        }
        Ok(&self.network)
    }

    fn lead_around(&mut self, from: &Party, to: &Party) -> Result<()> {
        let (Party::Zone(_), Party::Balancer) = (from, to) else {
            bail!("only a zone's connections to the balancer can be led around: {from} to {to}");
        };
        let address = self.address(to)?;
        let here = self.network.balance(
            SocketAddr::from((own_address(address)?, 0)),
            from,
            vec![Upstream {
                party: to.clone(),
                address: SocketAddr::from((address, KDS_PORT)),
                health: None,
            }],
        )?;
        let (peer, port) = (address.to_string(), KDS_PORT.to_string());
        let target = here.address().to_string();
        let to_peer = ["OUTPUT", "-p", "tcp", "-d", &peer, "--dport", &port];
        let rule = [&to_peer[..], &["-j", "DNAT", "--to-destination", &target]].concat();
        self.in_namespace(from, &[&["iptables", "-w", "-t", "nat", "-A"], &rule[..]].concat())?;
        let rule = rule.into_iter().map(str::to_owned).collect();
        self.detours.push(Detour { from: from.clone(), rule, _proxy: here });
        // A connection that is there keeps its way, so it has to end.
        let before = self.connected(from);
        let refuse = ["-j", "REJECT", "--reject-with", "tcp-reset"];
        let command = [&["iptables", "-w", "-A"], &to_peer[..], &refuse].concat();
        self.in_namespace(from, &command)?;
        until(&format!("{from} on its way around"), PATIENCE, || {
            Ok(match self.connected(from) {
                now if now.iter().zip(&before).all(|(now, before)| now > before) => Look::Done(()),
                _ => Look::NotYet("it uses the connection that it had".to_owned()),
            })
        })
    }

    fn connected(&self, zone: &Party) -> [usize; 2] {
        let log = self.log(zone);
        CONNECTED.map(|line| log.matches(line).count())
    }

    /// Ends all detours.
    pub(super) fn straighten(&mut self) {
        self.network.heal();
        for detour in std::mem::take(&mut self.detours) {
            let rule = detour.rule.iter().map(String::as_str);
            let command: Vec<_> =
                ["iptables", "-w", "-t", "nat", "-D"].into_iter().chain(rule).collect();
            // An error means that it went with its container.
            let _ = self.in_namespace(&detour.from, &command);
        }
    }
}

/// The address of this machine in the network of a container.
fn own_address(container: Ipv4Addr) -> Result<Ipv4Addr> {
    let mut command = std::process::Command::new("ip");
    command.args(["-o", "route", "get", &container.to_string()]);
    let route = engine::output(command)?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "src");
    let address = words.nth(1).and_then(|word| word.parse().ok());
    address.with_context(|| format!("no own address in {route:?}"))
}
