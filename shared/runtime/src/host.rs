//! What the host says about itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// The host's name, or `localhost` if it has none.
pub fn host_name() -> String {
    match nix::unistd::gethostname() {
        Ok(name) if !name.is_empty() => name.to_string_lossy().into_owned(),
        Ok(_) => "localhost".to_owned(),
        Err(error) => {
            tracing::warn!(%error, "could not read the host name");
            "localhost".to_owned()
        }
    }
}

/// Every address of every interface, loopback included, in order and without repetition.
/// Link-local IPv6 addresses are left out: they mean nothing without a zone index.
pub fn local_addresses() -> Vec<IpAddr> {
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "could not list the addresses of this host");
            return vec![IpAddr::from([127, 0, 0, 1])];
        }
    };
    let addresses: BTreeSet<IpAddr> = interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .filter(|address| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
        .collect();
    addresses.into_iter().collect()
}

/// An address at which other hosts may reach this one: the first that is not a loopback one, IPv4
/// before IPv6. One that has none is reached by itself alone.
pub fn own_address() -> IpAddr {
    let others = local_addresses().into_iter().filter(|address| !address.is_loopback());
    others.min_by_key(IpAddr::is_ipv6).unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

/// A new identity for this process: `<hostname>-<4 hex digits>`, as Kuma names instances.
pub fn instance_id(host_name: &str) -> String {
    format!("{host_name}-{:04x}", rand::random::<u16>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity() {
        assert!(!host_name().is_empty());
        let id = instance_id("cp-1");
        let suffix = id.strip_prefix("cp-1-").unwrap();
        assert!(suffix.len() == 4 && suffix.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }

    #[test]
    fn addresses_hold_loopback() {
        let addresses = local_addresses();
        assert!(addresses.iter().any(IpAddr::is_loopback), "{addresses:?}");
        assert!(addresses.is_sorted());
    }
}
