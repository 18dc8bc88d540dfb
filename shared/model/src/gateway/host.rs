//! The virtual hosts of a port, and which routes each of them serves.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use sunbear_proto::kuma::mesh::v1alpha1::mesh_gateway_route::{Conf, HttpRoute, TcpRoute, conf};

use super::{
    Route,
    port::{Port, PortListener},
};
use crate::{
    hostname,
    tags::{self, Tags},
};

/// A virtual host.
#[derive(Debug)]
pub struct Host<'a> {
    /// Its name; `*` for all that have no other.
    pub hostname: Cow<'a, str>,
    /// Tags of the listener that it comes from.
    pub tags: Arc<Tags>,
    /// Position of that listener in the MeshGateway.
    pub listener: usize,
    /// Routes, by position in the list of all routes, which is in name order.
    pub routes: BTreeSet<usize>,
}

/// What a route does, if it does anything.
pub fn http_of(conf: Option<&Conf>) -> Option<&HttpRoute> {
    match conf?.route.as_ref()? {
        conf::Route::Http(http) => Some(http),
        conf::Route::Tcp(_) => None,
    }
}

/// The TCP side of [`http_of`].
pub fn tcp_of(conf: Option<&Conf>) -> Option<&TcpRoute> {
    match conf?.route.as_ref()? {
        conf::Route::Tcp(tcp) => Some(tcp),
        conf::Route::Http(_) => None,
    }
}

/// The listeners of a port that share a filter chain, and the hosts on it.
#[derive(Debug)]
pub struct Group<'a> {
    /// Host name that the chain is for; `*` for all.
    pub key: &'a str,
    /// In order of evaluation.
    pub hosts: Vec<Host<'a>>,
}

/// The groups of a port: one per host name if the protocol tells them apart before a request is
/// read, else one. Exact names come before wildcards, wildcards with more labels before others.
/// `of_kind` tells routes of the port's kind.
pub fn groups<'a>(
    port: &Port<'a>,
    routes: &[Route<'a>],
    of_kind: impl Fn(&Route<'_>) -> bool,
) -> Vec<Group<'a>> {
    keys(port)
        .into_iter()
        .map(|(key, _)| {
            let members =
                port.listeners.iter().filter(|l| !port.by_hostname() || l.hostname == key);
            let hosts = members.map(|listener| Host {
                hostname: Cow::Borrowed(listener.hostname),
                tags: Arc::clone(&listener.tags),
                listener: listener.index,
                routes: attached(listener, routes, &of_kind),
            });
            Group { key, hosts: distribute(hosts.collect(), routes) }
        })
        .collect()
}

/// The host names of the groups of a port in order, and the first listener of each: it decides what
/// a group has once.
pub fn keys<'p, 'a>(port: &'p Port<'a>) -> Vec<(&'a str, &'p PortListener<'a>)> {
    let mut keys: Vec<(&str, &PortListener<'_>)> = Vec::new();
    for listener in &port.listeners {
        let key = if port.by_hostname() { listener.hostname } else { hostname::ANY };
        if keys.iter().all(|(known, _)| *known != key) {
            keys.push((key, listener));
        }
    }
    keys.sort_by_key(|(key, _)| exactness(key));
    keys
}

/// Smaller is evaluated earlier.
fn exactness(name: &str) -> (bool, Reverse<usize>, &str) {
    let wildcard = name == hostname::ANY || name.starts_with("*.");
    let labels = if wildcard { name.split('.').count() } else { 0 };
    (wildcard, Reverse(labels), name)
}

/// The routes that the tags of a listener select, by position.
fn attached(
    listener: &PortListener<'_>,
    routes: &[Route<'_>],
    of_kind: impl Fn(&Route<'_>) -> bool,
) -> BTreeSet<usize> {
    let selects = |route: &Route<'_>| {
        let mut selectors = route.message.selectors.iter();
        of_kind(route) && selectors.any(|s| tags::matches(&s.r#match, &listener.tags))
    };
    routes.iter().enumerate().filter(|(_, r)| selects(r)).map(|(index, _)| index).collect()
}

/// Moves routes with host names from the host `*` to hosts of these names, which come into being
/// where the port has none, and to the hosts that a wildcard among the names covers. First all
/// hosts are made, then routes are given out, so that the names of routes do not matter (D-2).
/// Then every host drops routes whose names do not match its own, and hosts are put in order:
/// names descending, so that `*` is last.
fn distribute<'a>(hosts: Vec<Host<'a>>, routes: &[Route<'a>]) -> Vec<Host<'a>> {
    let mut hosts = hosts;
    redistribute(&mut hosts, routes);
    for host in &mut hosts {
        let name = &*host.hostname;
        if name != hostname::ANY {
            host.routes.retain(|index| {
                let names = hostnames(&routes[*index]);
                names.is_empty() || names.iter().any(|n| hostname::matches(n, name))
            });
        }
    }
    hosts.sort_by(|a, b| b.hostname.cmp(&a.hostname));
    hosts
}

fn hostnames<'a>(route: &Route<'a>) -> &'a [String] {
    http_of(route.message.conf.as_ref()).map_or(&[], |http| http.hostnames.as_slice())
}

fn redistribute<'a>(hosts: &mut Vec<Host<'a>>, routes: &[Route<'a>]) {
    let Some(any) = hosts.iter().position(|h| h.hostname == hostname::ANY) else { return };
    let (leaving, staying): (BTreeSet<usize>, BTreeSet<usize>) =
        hosts[any].routes.iter().partition(|index| !hostnames(&routes[**index]).is_empty());
    hosts[any].routes = staying;
    let (tags, listener) = (Arc::clone(&hosts[any].tags), hosts[any].listener);

    let mut by_name: HashMap<Cow<'a, str>, usize> =
        hosts.iter().enumerate().rev().map(|(i, h)| (h.hostname.clone(), i)).collect();
    let mut wildcards: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for &index in &leaving {
        for name in hostnames(&routes[index]) {
            let host = *by_name.entry(Cow::Borrowed(name)).or_insert_with(|| {
                hosts.push(Host {
                    hostname: Cow::Borrowed(name),
                    tags: Arc::clone(&tags),
                    listener,
                    routes: BTreeSet::new(),
                });
                hosts.len() - 1
            });
            hosts[host].routes.insert(index);
            if name.starts_with("*.") {
                wildcards.entry(name).or_default().push(index);
            }
        }
    }
    if wildcards.is_empty() {
        return;
    }
    for host in hosts.iter_mut() {
        for wildcard in hostname::covering_wildcards(&host.hostname) {
            if let Some(routes) = wildcards.get(&*wildcard) {
                host.routes.extend(routes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

    use sunbear_proto::kuma::mesh::v1alpha1::{
        MeshGatewayRoute,
        mesh_gateway_route::{Conf, HttpRoute, conf},
    };

    use super::{Host, Route, distribute, exactness};
    use crate::{Kind, Resource, tags::Tags, testing};

    #[test]
    fn order_of_chains() {
        let mut names = ["*", "*.b", "b.a", "*.a.b", "*.a", "a.b.c", "x"];
        names.sort_by_key(|n| exactness(n));
        assert_eq!(names, ["a.b.c", "b.a", "x", "*.a.b", "*.a", "*.b", "*"]);
    }

    /// Hosts as `name: positions of routes`, from hosts that all have all routes.
    fn check(hosts: &[&str], routes: &[&[&str]], want: &[&str]) {
        let resources: Vec<Resource> = routes
            .iter()
            .enumerate()
            .map(|(index, names)| {
                let http = HttpRoute {
                    hostnames: names.iter().map(|n| (*n).to_owned()).collect(),
                    ..HttpRoute::default()
                };
                let message = MeshGatewayRoute {
                    conf: Some(Conf { route: Some(conf::Route::Http(http)) }),
                    ..MeshGatewayRoute::default()
                };
                testing::resource(Kind::MESH_GATEWAY_ROUTE, &format!("route-{index}"), &message)
            })
            .collect();
        let resources: Vec<Arc<Resource>> = resources.into_iter().map(Arc::new).collect();
        let routes: Vec<Route<'_>> = resources.iter().filter_map(Route::of).collect();
        let hosts = hosts
            .iter()
            .map(|name| Host {
                hostname: Cow::Borrowed(*name),
                tags: Arc::new(Tags::new()),
                listener: 0,
                routes: (0..routes.len()).collect::<BTreeSet<_>>(),
            })
            .collect();
        let got: Vec<String> = distribute(hosts, &routes)
            .iter()
            .map(|h| {
                let routes: Vec<String> = h.routes.iter().map(usize::to_string).collect();
                format!("{}: {}", h.hostname, routes.join(" ")).trim_end().to_owned()
            })
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn routes_without_names_stay_on_the_wildcard_host() {
        check(&["*"], &[&[], &["a.x"]], &["a.x: 1", "*: 0"]);
    }

    #[test]
    fn a_wildcard_route_reaches_hosts_that_later_routes_make() {
        check(
            &["*"],
            &[&["*.x"], &["a.x"], &["b.a.x", "*.a.x"], &["c.y"]],
            &["c.y: 3", "b.a.x: 0 2", "a.x: 0 1", "*.x: 0", "*.a.x: 0 2", "*:"],
        );
    }

    #[test]
    fn declared_hosts_are_joined_and_filtered() {
        check(&["a.x", "*"], &[&["a.x"], &["b.x"], &[]], &["b.x: 1", "a.x: 0 2", "*: 2"]);
        // Without a host `*` nothing is made, and a route keeps to hosts that its names match.
        check(&["a.x", "*.y"], &[&["b.y"], &["a.x"], &["z"]], &["a.x: 1", "*.y: 0"]);
    }
}
