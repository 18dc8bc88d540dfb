//! Sidecars of services in a mesh with mTLS.

use std::{fmt, fs::File, net::SocketAddr, process::Child, process::Command, process::Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    backend::{Backend, dataplane},
    certificate::Pair,
    envoy::Envoy,
    port::Port,
    wait::eventually_async,
};

/// An Envoy that ends mesh TLS as the sidecar of a service does, or passes for one, and hands
/// requests on to a [`Backend`]. (Rustls takes no server names like those of a mesh.) What the
/// backend is told in `x-peer` the URIs in the certificate of the client.
pub struct Sidecar {
    /// Where it listens.
    pub port: u16,
    process: Child,
    _port: Port,
    _folder: TempDir,
}

/// What a sidecar is started with.
#[derive(Debug)]
pub struct SidecarOptions<'a> {
    /// What it presents.
    pub pair: Pair,
    /// Whom it trusts, PEM.
    pub authority: String,
    /// Where requests go.
    pub backend: &'a Backend,
    /// URIs of which a client has to have one in its certificate; empty for no such demand.
    pub allowed: Vec<&'a str>,
    /// Server names of which a client has to ask for one; empty for no such demand.
    pub server_names: Vec<&'a str>,
}

impl fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sidecar").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Sidecar {
    /// Starts one.
    pub async fn start(options: &SidecarOptions<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = Port::take();
        let mut filters = Vec::new();
        if !options.allowed.is_empty() {
            filters.push(permission(&options.allowed));
        }
        filters.push(http());
        let tls = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificates": [{
                    "certificate_chain": {"inline_string": options.pair.certificate},
                    "private_key": {"inline_string": options.pair.key},
                }],
                "validation_context": {"trusted_ca": {"inline_string": options.authority}},
            },
        });
        let inspector =
            "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
        let bootstrap = json!({"static_resources": {
            "listeners": [{
                "name": "inbound",
                "address": address(SocketAddr::from(([127, 0, 0, 1], port.number()))),
                "listener_filters": [{
                    "name": "envoy.filters.listener.tls_inspector",
                    "typed_config": {"@type": inspector},
                }],
                "filter_chains": [{
                    "filter_chain_match": {
                        "transport_protocol": "tls",
                        "application_protocols": ["kuma"],
                        "server_names": options.server_names,
                    },
                    "filters": filters,
                    "transport_socket": {
                        "name": "envoy.transport_sockets.tls",
                        "typed_config": tls,
                    },
                }],
            }],
            "clusters": [{
                "name": "local",
                "connect_timeout": "5s",
                "load_assignment": {
                    "cluster_name": "local",
                    "endpoints": [{"lb_endpoints": [{
                        "endpoint": {"address": address(options.backend.address)},
                    }]}],
                },
            }],
        }});
        let path = folder.path().join("bootstrap.json");
        std::fs::write(&path, bootstrap.to_string()).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let process = Command::new(Envoy::find().unwrap())
            .arg("--config-path")
            .arg(path)
            .args(["--disable-hot-restart", "--log-level", "warn", "--concurrency", "1"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let sidecar = Self { port: port.number(), process, _port: port, _folder: folder };
        eventually_async("the sidecar listens", async || {
            TcpStream::connect(("127.0.0.1", sidecar.port)).await.ok()
        })
        .await;
        sidecar
    }

    /// The Dataplane of an instance behind it.
    pub fn instance(&self, name: &str, tags: Value) -> Value {
        dataplane(name, self.port, tags)
    }
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {
        "address": address.ip().to_string(), "port_value": address.port(),
    }})
}

fn permission(uris: &[&str]) -> Value {
    let principals: Vec<Value> = uris
        .iter()
        .map(|uri| json!({"authenticated": {"principal_name": {"exact": uri}}}))
        .collect();
    json!({
        "name": "envoy.filters.network.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
            "stat_prefix": "inbound.",
            "rules": {"policies": {"allowed": {
                "permissions": [{"any": true}], "principals": principals,
            }}},
        },
    })
}

fn http() -> Value {
    let add = |key: &str, value: &str| json!({"header": {"key": key, "value": value}});
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "inbound",
            // The backend is to see what the gateway sent.
            "forward_client_cert_details": "ALWAYS_FORWARD_ONLY",
            "route_config": {"virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "request_headers_to_add": [
                    add("x-peer", "%DOWNSTREAM_PEER_URI_SAN%"),
                ],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "local"}}],
            }]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                },
            }],
        },
    })
}
