//! Who listens where.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, bail};

use crate::party::SERVICES;

/// Below the range that Linux takes ports of outgoing connections from: a port of a process that
/// is down for a moment stays free.
const FIRST: u32 = 11_000;
const LAST: u32 = 32_000;

/// A port that nobody listens on, on any address, and that is not given out again.
pub(super) fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Other test processes begin elsewhere.
    let start = process::id().wrapping_mul(211);
    for _ in FIRST..LAST {
        let step = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + step % (LAST - FIRST))?;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {LAST}")
}

/// Ports of a replica of the global.
#[derive(Debug, Clone)]
pub(super) struct GlobalPlan {
    pub(super) replica: u8,
    pub(super) http: u16,
    pub(super) https: u16,
    pub(super) kds: u16,
    pub(super) diagnostics: u16,
}

impl GlobalPlan {
    pub(super) fn new(replica: u8) -> Result<Self> {
        Ok(Self {
            replica,
            http: free_port()?,
            https: free_port()?,
            kds: free_port()?,
            diagnostics: free_port()?,
        })
    }
}

/// Ports of a zone's control plane, and what is on the zone's own address.
#[derive(Debug, Clone)]
pub(super) struct ZonePlan {
    pub(super) address: Ipv4Addr,
    pub(super) http: u16,
    pub(super) https: u16,
    pub(super) dp_server: u16,
    pub(super) diagnostics: u16,
    pub(super) admin: u16,
    pub(super) readiness: u16,
    services: Vec<(&'static str, SocketAddr)>,
}

impl ZonePlan {
    pub(super) fn new(address: Ipv4Addr) -> Result<Self> {
        let mut services = Vec::new();
        for service in SERVICES {
            services.push((service, SocketAddr::from((address, free_port()?))));
        }
        Ok(Self {
            address,
            http: free_port()?,
            https: free_port()?,
            dp_server: free_port()?,
            diagnostics: free_port()?,
            admin: free_port()?,
            readiness: free_port()?,
            services,
        })
    }

    pub(super) fn service(&self, name: &str) -> Option<SocketAddr> {
        self.services.iter().find(|(service, _)| *service == name).map(|(_, address)| *address)
    }
}
