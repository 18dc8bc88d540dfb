//! What a scenario acts on.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;

use crate::{party::Party, timeline::Timeline};

/// How a partition shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing arrives and nobody is told.
    BlackHole,
    /// Connections are reset and refused.
    Reset,
}

/// Where REST of a control plane is.
#[derive(Debug, Clone)]
pub struct Api {
    /// Its port.
    pub address: SocketAddr,
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// A token of an administrator, if the caller is none by where it calls from.
    pub token: Option<String>,
}

/// An installation: Postgres, two global replicas behind a balancer, and zones.
pub trait Backend: Sized {
    /// Starts everything, with the zones `east` and `west`, and waits until it is ready.
    fn start(timeline: &Timeline) -> Result<Self>;

    /// The zones that there are.
    fn zones(&self) -> Vec<String>;

    /// The port that gateways are told to listen on, and one more for TLS.
    fn gateway_ports(&self) -> (u16, u16);

    /// Where a client reaches that port of a zone's gateway.
    fn gateway(&self, zone: &str, port: u16) -> Result<SocketAddr>;

    /// REST of a control plane, or of the replicas through their balancer.
    fn api(&self, party: &Party) -> Result<Api>;

    /// Whether a control plane says that it is ready, or another party answers.
    fn is_ready(&self, party: &Party) -> bool;

    /// Ends a party at once.
    fn kill(&mut self, party: &Party) -> Result<()>;

    /// Asks a party to end and waits for it.
    fn stop(&mut self, party: &Party) -> Result<()>;

    /// Starts a party that was killed or stopped. Does not wait for its readiness.
    fn start_again(&mut self, party: &Party) -> Result<()>;

    /// Freezes a party: its connections stay, it does nothing.
    fn pause(&mut self, party: &Party) -> Result<()>;

    /// Ends [`Backend::pause`].
    fn resume(&mut self, party: &Party) -> Result<()>;

    /// Lets nothing through from `from` to `to`; what goes the other way is another cut.
    fn cut(&mut self, from: &Party, to: &Party, how: Cut) -> Result<()>;

    /// Lets everything between two parties take that much longer, each way.
    fn delay(&mut self, a: &Party, b: &Party, delay: Duration) -> Result<()>;

    /// Loses that part of what is sent between two parties; TCP sends it again.
    fn loss(&mut self, a: &Party, b: &Party, loss: f64) -> Result<()>;

    /// Ends all cuts, delays and losses.
    fn heal(&mut self) -> Result<()>;

    /// Adds a zone with services and a gateway, and waits until its control plane is ready.
    fn add_zone(&mut self, zone: &str) -> Result<()>;

    /// Ends everything of a zone. Its Zone object is the caller's.
    fn remove_zone(&mut self, zone: &str) -> Result<()>;

    /// Puts an empty database in the place of the globals'; to be called while they are stopped.
    fn empty_database(&mut self) -> Result<()>;

    /// Puts the former database back; to be called while the globals are stopped.
    fn restore_database(&mut self) -> Result<()>;

    /// The end of a party's log.
    fn log(&self, party: &Party) -> String;

    /// Copies all logs into a folder.
    fn save_logs(&self, folder: &Path) -> Result<()>;

    /// The names of parties that ended and should not have.
    fn casualties(&mut self) -> Vec<Party>;
}
