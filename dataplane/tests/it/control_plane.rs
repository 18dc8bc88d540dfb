//! A control plane in a few lines: `/bootstrap`, and xDS over REST, which needs no gRPC here and is
//! the same to Envoy's admin interface. The same server is the upstream of the gateway.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// What the control plane says; shared with the server.
#[derive(Debug, Clone)]
pub(crate) struct Says {
    /// Address of the gateway's listener.
    pub(crate) gateway: SocketAddr,
    /// Address of the upstream.
    pub(crate) upstream: SocketAddr,
    /// Marks the configuration: the route adds it as a response header.
    pub(crate) revision: u32,
    /// Answer to `/bootstrap` instead of a bootstrap.
    pub(crate) refusal: Option<(u16, String)>,
    /// The last bootstrap request.
    pub(crate) request: Option<Value>,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl Server {
    /// Serves at this address (port 0 for any).
    pub(crate) async fn start(address: SocketAddr, says: Arc<Mutex<Says>>) -> Server {
        let listener = super::eventually("the server's port", || async {
            TcpListener::bind(address).await.ok()
        })
        .await;
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            // Dropped with this task, and the connections with it.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let says = says.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, address, says.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Server { address, task: task.abort_handle() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    own: SocketAddr,
    says: Arc<Mutex<Says>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut says = says.lock().unwrap();
    let (status, text) = match path.strip_prefix("/v3/discovery:") {
        Some(kind) => (200, discovery(kind, &says).to_string()),
        None if path == "/bootstrap" => {
            let request: Value = serde_json::from_slice(&body).unwrap();
            let bootstrap = bootstrap(&request, own).to_string();
            says.request = Some(request);
            let encoded = base64::engine::general_purpose::STANDARD.encode(bootstrap);
            says.refusal.clone().unwrap_or((200, json!({"bootstrap": encoded}).to_string()))
        }
        None => (200, "upstream".to_owned()),
    };
    Ok(Response::builder().status(status).body(Full::from(text)).unwrap())
}

fn rest_source() -> Value {
    json!({
        "resourceApiVersion": "V3",
        "initialFetchTimeout": "0s",
        "apiConfigSource": {
            "apiType": "REST", "transportApiVersion": "V3", "clusterNames": ["control_plane"],
            "refreshDelay": "0.1s", "requestTimeout": "1s"
        }
    })
}

fn bootstrap(request: &Value, own: SocketAddr) -> Value {
    let work_dir = request["workdir"].as_str().unwrap();
    json!({
        "node": {"id": format!("{}.{}", request["mesh"].as_str().unwrap(), request["name"].as_str().unwrap()), "cluster": "edge"},
        "admin": {"address": {"pipe": {"path": format!("{work_dir}/kuma-envoy-admin.sock"), "mode": 0o600}}},
        "layeredRuntime": {"layers": [
            {"name": "kuma", "staticLayer": {"re2.max_program_size.warn_level": 1000}},
            {"name": "gateway.listeners", "rtdsLayer": {"name": "gateway.listeners", "rtdsConfig": rest_source()}}
        ]},
        "dynamicResources": {"ldsConfig": rest_source(), "cdsConfig": rest_source()},
        "staticResources": {"clusters": [cluster("control_plane", "STATIC", own)]}
    })
}

fn cluster(name: &str, kind: &str, address: SocketAddr) -> Value {
    json!({"name": name, "type": kind, "connectTimeout": "1s", "loadAssignment": assignment(name, address)})
}

fn assignment(name: &str, address: SocketAddr) -> Value {
    let socket = json!({"address": address.ip().to_string(), "portValue": address.port()});
    json!({"clusterName": name, "endpoints": [{"lbEndpoints": [{"endpoint": {"address": {"socketAddress": socket}}}]}]})
}

fn discovery(kind: &str, says: &Says) -> Value {
    let (type_name, resource) = match kind {
        "listeners" => ("envoy.config.listener.v3.Listener", listener(says.gateway)),
        "clusters" => (
            "envoy.config.cluster.v3.Cluster",
            json!({"name": "upstream", "type": "EDS", "connectTimeout": "1s", "edsClusterConfig": {"edsConfig": rest_source()}}),
        ),
        "endpoints" => (
            "envoy.config.endpoint.v3.ClusterLoadAssignment",
            assignment("upstream", says.upstream),
        ),
        "routes" => ("envoy.config.route.v3.RouteConfiguration", route(says.revision)),
        "runtime" => (
            "envoy.service.runtime.v3.Runtime",
            json!({"name": "gateway.listeners", "layer": {"envoy.resource_limits.listener.edge.connection_limit": 1000}}),
        ),
        other => panic!("no discovery of {other}"),
    };
    let kind = format!("type.googleapis.com/{type_name}");
    let mut resource = resource;
    resource["@type"] = kind.as_str().into();
    let version = format!("{:?}", BTreeMap::from([(says.revision, says.upstream)]));
    json!({"versionInfo": version, "typeUrl": kind, "resources": [resource]})
}

fn listener(address: SocketAddr) -> Value {
    const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
    json!({
        "name": "edge",
        "address": {"socketAddress": {"address": address.ip().to_string(), "portValue": address.port()}},
        "filterChains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typedConfig": {
                "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
                "statPrefix": "edge",
                "rds": {"configSource": rest_source(), "routeConfigName": "edge"},
                "httpFilters": [{
                    "name": "envoy.filters.http.router",
                    "typedConfig": {"@type": format!("{FILTERS}.http.router.v3.Router")}
                }]
            }
        }]}]
    })
}

fn route(revision: u32) -> Value {
    json!({
        "name": "edge",
        "responseHeadersToAdd": [{"header": {"key": "x-revision", "value": revision.to_string()}}],
        "virtualHosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}
        ]}]
    })
}
