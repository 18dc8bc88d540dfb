//! Resources while they are being built: typed, so that policies and proxies can still change them.

use std::collections::BTreeSet;

use prost::{Message, Name};
use prost_types::Any;
use sunbear_proto::envoy::{
    config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType},
        },
        listener::v3::{Filter, FilterChain, Listener, filter},
    },
    extensions::{
        filters::network::{
            http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier,
            },
            tcp_proxy::v3::TcpProxy,
        },
        upstreams::http::v3::HttpProtocolOptions,
    },
};

use crate::{envoy::pack, secret::SecretRequest};

/// Key under which a cluster carries its [`HttpProtocolOptions`].
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster, and its HTTP options apart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClusterDraft {
    pub(crate) cluster: Cluster,
    pub(crate) http: Option<HttpProtocolOptions>,
    /// Secrets that the transport socket refers to.
    pub(crate) secrets: Vec<SecretRequest>,
}

/// A listener, and its filter chains apart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ListenerDraft {
    pub(crate) listener: Listener,
    pub(crate) chains: Vec<ChainDraft>,
}

/// A filter chain, and its last network filter apart.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ChainDraft {
    pub(crate) chain: FilterChain,
    pub(crate) terminal: Option<Terminal>,
}

/// The filter that takes the connection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Terminal {
    Http(Box<HttpConnectionManager>),
    Tcp(Box<TcpProxy>),
}

impl ClusterDraft {
    /// A cluster without HTTP options and secrets.
    pub(crate) fn plain(cluster: Cluster) -> Self {
        Self { cluster, http: None, secrets: Vec::new() }
    }

    /// Do its endpoints come apart from it?
    pub(crate) fn has_assignment(&self) -> bool {
        self.cluster.cluster_discovery_type
            == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()))
    }

    /// Name of the load assignment of a packed cluster, if its endpoints come apart.
    pub(crate) fn assignment_of(cluster: &Any) -> Option<String> {
        let cluster = Cluster::decode(cluster.value.as_slice()).ok()?;
        let draft = Self::plain(cluster);
        let service = draft.cluster.eds_cluster_config.as_ref().map(|eds| eds.service_name.clone());
        let name = service.filter(|s| !s.is_empty()).unwrap_or_else(|| draft.cluster.name.clone());
        draft.has_assignment().then_some(name)
    }

    /// The message.
    pub(crate) fn finish(mut self) -> Cluster {
        if let Some(http) = self.http {
            self.cluster
                .typed_extension_protocol_options
                .insert(HTTP_OPTIONS.to_owned(), pack(&http));
        }
        self.cluster
    }
}

impl ListenerDraft {
    /// Names of the route configurations that it refers to.
    pub(crate) fn route_configs(&self) -> impl Iterator<Item = &str> {
        self.chains.iter().filter_map(|chain| match &chain.terminal {
            Some(Terminal::Http(manager)) => match &manager.route_specifier {
                Some(RouteSpecifier::Rds(reference)) => Some(&*reference.route_config_name),
                _ => None,
            },
            Some(Terminal::Tcp(_)) | None => None,
        })
    }

    /// Names of the route configurations that a packed listener refers to.
    pub(crate) fn route_configs_of(listener: &Any) -> BTreeSet<String> {
        let Ok(listener) = Listener::decode(listener.value.as_slice()) else {
            return BTreeSet::new();
        };
        let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
        let configs = chains.flat_map(|c| &c.filters).filter_map(|f| match &f.config_type {
            Some(filter::ConfigType::TypedConfig(any))
                if any.type_url == HttpConnectionManager::type_url() =>
            {
                HttpConnectionManager::decode(any.value.as_slice()).ok()
            }
            _ => None,
        });
        let names = configs.filter_map(|manager| match manager.route_specifier {
            Some(RouteSpecifier::Rds(reference)) => Some(reference.route_config_name),
            _ => None,
        });
        names.collect()
    }

    /// The message.
    pub(crate) fn finish(self) -> Listener {
        let mut listener = self.listener;
        listener.filter_chains = self.chains.into_iter().map(ChainDraft::finish).collect();
        listener
    }
}

impl ChainDraft {
    fn finish(mut self) -> FilterChain {
        let (name, config) = match self.terminal {
            None => return self.chain,
            Some(Terminal::Http(manager)) => {
                ("envoy.filters.network.http_connection_manager", pack(&*manager))
            }
            Some(Terminal::Tcp(proxy)) => ("envoy.filters.network.tcp_proxy", pack(&*proxy)),
        };
        self.chain.filters.push(Filter {
            name: name.to_owned(),
            config_type: Some(filter::ConfigType::TypedConfig(config)),
        });
        self.chain
    }
}
