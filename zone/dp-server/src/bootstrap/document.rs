//! The bootstrap document (`spec/dp-server.md` 5). A function of its parameters.

use std::{net::IpAddr, time::Duration};

use serde_json::{Map, Value, json};

use crate::{config::BootstrapParams, proxy::ProxyKind};

use super::request::BootstrapRequest;

/// Unix socket paths may not be longer; the agent cuts at the same place.
const SOCKET_PATH_KEPT: usize = 98;

const ACCESS_LOG_CLUSTER: &str = "access_log_sink";
const ADS_CLUSTER: &str = "ads_cluster";
const CP_VALIDATION: &str = "cp_validation_ctx";

/// What the document is made of.
pub(crate) struct Parameters<'a> {
    pub(crate) request: &'a BootstrapRequest,
    pub(crate) params: &'a BootstrapParams,
    pub(crate) kind: ProxyKind,
    /// Envoy's cluster name: the identifying service, or the kind of a zone proxy.
    pub(crate) service: &'a str,
    pub(crate) is_builtin_gateway: bool,
    /// From the resource, or the default; 0 for none.
    pub(crate) admin_port: u32,
    /// Host of the control plane as the proxy sees it.
    pub(crate) xds_host: &'a str,
    /// The host's name resolves to IPv4 addresses alone.
    pub(crate) ipv4_only: bool,
    /// PEM of what verifies the control plane.
    pub(crate) ca: &'a str,
}

/// Makes the document.
pub(crate) fn document(p: &Parameters<'_>) -> Value {
    let mut bootstrap = json!({
        "node": node(p),
        "layeredRuntime": {"layers": runtime_layers(p)},
        "statsConfig": {"statsTags": stats_tags()},
        "dynamicResources": dynamic_resources(p),
        "staticResources": {
            "clusters": [access_log_cluster(p), ads_cluster(p)],
            "secrets": [cp_validation(p)],
        },
        "defaultRegexEngine": {
            "name": "envoy.regex_engines.google_re2",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.regex_engines.v3.GoogleRE2",
            },
        },
    });
    if p.admin_port != 0 {
        bootstrap["admin"] = admin(p);
    }
    if p.is_builtin_gateway {
        bootstrap["overloadManager"] = overload_manager(p);
    }
    bootstrap
}

fn node(p: &Parameters<'_>) -> Value {
    let request = p.request;
    let mut metadata = Map::new();
    let mut set = |key: &str, value: Value| metadata.insert(key.to_owned(), value);

    set("version", version(request));
    set("features", json!(request.features));
    set("workdir", json!(request.workdir));
    set("metricsCertPath", json!(request.metrics_resources.cert_path));
    set("metricsKeyPath", json!(request.metrics_resources.key_path));
    set("systemCaPath", json!(request.system_ca_path));
    set("spireAgent.socketPath", json!(request.spire_resources.socket_path));
    set("ipv6Enabled", json!(request.ipv6_enabled));
    set("dataplane.proxyType", json!(p.kind.name()));
    if !request.dataplane_resource.is_empty() {
        set("dataplane.resource", json!(request.dataplane_resource));
    }
    if p.admin_port != 0 {
        set("dataplane.admin.port", json!(p.admin_port.to_string()));
        set("dataplane.admin.address", json!(p.params.admin_address.to_string()));
        if let Some(path) = admin_socket(p) {
            set("dataplane.admin.socketPath", json!(path));
        }
    }
    if request.dns_port != 0 {
        set("dataplane.dns.port", json!(request.dns_port.to_string()));
    }
    if request.readiness_port != 0 {
        set("dataplane.readinessReporter.port", json!(request.readiness_port.to_string()));
    }
    if request.app_probe_proxy_enabled {
        set("dataplane.appProbeProxy.enabled", json!("true"));
    }
    if !request.dynamic_metadata.is_empty() {
        set("dynamicMetadata", json!(request.dynamic_metadata));
    }
    if let Some(config) = request.dataplane_config.as_ref().filter(|c| c.is_object()) {
        set("transparentProxy", config.clone());
    }
    if let Some(inventory) = request.otel_env.as_ref().filter(|c| c.is_object()) {
        set("otelEnvInventory", inventory.clone());
    }
    json!({
        "id": format!("{}.{}", request.mesh, request.name),
        "cluster": p.service,
        "metadata": metadata,
    })
}

fn version(request: &BootstrapRequest) -> Value {
    let texts = |pairs: &[(&str, &str)]| -> Map<String, Value> {
        pairs
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect()
    };
    let dp = &request.version.kuma_dp;
    let envoy = &request.version.envoy;
    let mut envoy_fields = texts(&[("version", &envoy.version), ("build", &envoy.build)]);
    if envoy.kuma_dp_compatible {
        envoy_fields.insert("kumaDpCompatible".to_owned(), json!(true));
    }
    json!({
        "kumaDp": texts(&[
            ("version", &dp.version),
            ("gitTag", &dp.git_tag),
            ("gitCommit", &dp.git_commit),
            ("buildDate", &dp.build_date),
        ]),
        "envoy": envoy_fields,
    })
}

fn runtime_layers(p: &Parameters<'_>) -> Vec<Value> {
    let mut layers = vec![json!({
        "name": "kuma",
        "staticLayer": {
            "re2.max_program_size.error_level": 4_294_967_295_u32,
            "re2.max_program_size.warn_level": 1000,
        },
    })];
    if p.is_builtin_gateway {
        layers.push(json!({
            "name": "gateway.listeners",
            "rtdsLayer": {
                "name": "gateway.listeners",
                "rtdsConfig": {"ads": {}, "resourceApiVersion": "V3"},
            },
        }));
    }
    layers
}

fn stats_tags() -> Vec<Value> {
    [
        ("name", r"^grpc\.((.+)\.)"),
        ("status", r"^grpc.*streams_closed(_([0-9]+))"),
        ("kafka_name", r"^kafka(\.(\S*[0-9]))\."),
        ("kafka_type", r"^kafka\..*\.(.*?(?=_duration|$))"),
        ("worker", r"(worker_([0-9]+)\.)"),
        ("listener", r"((.+?)\.)rbac\."),
    ]
    .iter()
    .map(|(name, regex)| json!({"tagName": name, "regex": regex}))
    .collect()
}

fn dynamic_resources(p: &Parameters<'_>) -> Value {
    let source = json!({"ads": {}, "initialFetchTimeout": "0s", "resourceApiVersion": "V3"});
    let delta = p.request.features.iter().any(|f| f == "feature-delta-grpc");
    let mut service = json!({"envoyGrpc": {"clusterName": ADS_CLUSTER}});
    if !p.request.dataplane_token.is_empty() {
        service["initialMetadata"] =
            json!([{"key": "authorization", "value": p.request.dataplane_token}]);
    }
    json!({
        "ldsConfig": source,
        "cdsConfig": source,
        "adsConfig": {
            "apiType": if delta { "DELTA_GRPC" } else { "GRPC" },
            "transportApiVersion": "V3",
            "setNodeOnFirstMessageOnly": true,
            "grpcServices": [service],
        },
    })
}

fn static_cluster(p: &Parameters<'_>, name: &str, kind: &str, address: Value) -> Value {
    json!({
        "name": name,
        "type": kind,
        "connectTimeout": duration(p.params.xds_connect_timeout),
        "upstreamConnectionOptions": {
            "tcpKeepalive": {
                "keepaliveProbes": 3,
                "keepaliveTime": 10,
                "keepaliveInterval": 10,
            },
        },
        "typedExtensionProtocolOptions": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicitHttpConfig": {"http2ProtocolOptions": {}},
            },
        },
        "loadAssignment": {
            "clusterName": name,
            "endpoints": [{"lbEndpoints": [{"endpoint": {"address": address}}]}],
        },
    })
}

fn access_log_cluster(p: &Parameters<'_>) -> Value {
    let base = format!("kuma-al-{}-{}", p.request.name, p.request.mesh);
    let path = socket_path(&p.request.workdir, &base);
    static_cluster(p, ACCESS_LOG_CLUSTER, "STATIC", json!({"pipe": {"path": path}}))
}

fn ads_cluster(p: &Parameters<'_>) -> Value {
    let is_ip = p.xds_host.parse::<IpAddr>().is_ok();
    let kind = if is_ip { "STATIC" } else { "STRICT_DNS" };
    let address = json!({"socketAddress": {"address": p.xds_host, "portValue": p.params.xds_port}});
    let mut cluster = static_cluster(p, ADS_CLUSTER, kind, address);
    if p.ipv4_only && !is_ip {
        cluster["dnsLookupFamily"] = json!("V4_ONLY");
    }
    cluster["transportSocket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": p.xds_host,
            "commonTlsContext": {
                "tlsParams": {"tlsMinimumProtocolVersion": "TLSv1_2"},
                "validationContextSdsSecretConfig": {"name": CP_VALIDATION},
            },
        },
    });
    cluster
}

fn cp_validation(p: &Parameters<'_>) -> Value {
    use base64::Engine as _;

    let san = |kind: &str| json!({"sanType": kind, "matcher": {"exact": p.xds_host}});
    json!({
        "name": CP_VALIDATION,
        "validationContext": {
            "trustedCa": {
                "inlineBytes": base64::engine::general_purpose::STANDARD.encode(p.ca),
            },
            "matchTypedSubjectAltNames": [san("DNS"), san("IP_ADDRESS")],
        },
    })
}

fn admin(p: &Parameters<'_>) -> Value {
    let address = match admin_socket(p) {
        Some(path) => json!({"pipe": {"path": path, "mode": 0o600}}),
        None => json!({"socketAddress": {
            "address": p.params.admin_address.to_string(),
            "portValue": p.admin_port,
        }}),
    };
    let mut admin = json!({"address": address});
    if !p.params.admin_access_log_path.is_empty() {
        admin["accessLog"] = json!([{
            "name": "envoy.access_loggers.file",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": p.params.admin_access_log_path,
            },
        }]);
    }
    admin
}

fn admin_socket(p: &Parameters<'_>) -> Option<String> {
    (p.params.envoy_admin_unix_socket && !p.request.workdir.is_empty())
        .then(|| socket_path(&p.request.workdir, "kuma-envoy-admin"))
}

fn overload_manager(p: &Parameters<'_>) -> Value {
    const HEAP: &str = "envoy.resource_monitors.fixed_heap";

    let mut monitors = vec![json!({
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "maxActiveDownstreamConnections": p.params.global_downstream_max_connections.to_string(),
        },
    })];
    let mut manager = json!({"refreshInterval": "0.250s"});
    let max_heap = p.request.resources.max_heap_size_bytes;
    if max_heap > 0 {
        monitors.push(json!({
            "name": HEAP,
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                "maxHeapSizeBytes": max_heap.to_string(),
            },
        }));
        let action = |name: &str, threshold: f64| json!({"name": name, "triggers": [{"name": HEAP, "threshold": {"value": threshold}}]});
        manager["actions"] = json!([
            action("envoy.overload_actions.shrink_heap", 0.95),
            action("envoy.overload_actions.stop_accepting_requests", 0.98),
        ]);
    }
    manager["resourceMonitors"] = json!(monitors);
    manager
}

/// Path of a socket in the agent's work folder.
fn socket_path(workdir: &str, base: &str) -> String {
    let path = if workdir.is_empty() {
        base.to_owned()
    } else {
        format!("{}/{base}", workdir.trim_end_matches('/'))
    };
    let mut end = path.len().min(SOCKET_PATH_KEPT);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}.sock", &path[..end])
}

/// A duration in the JSON form of protobuf.
fn duration(d: Duration) -> String {
    let nanos = d.subsec_nanos();
    if nanos == 0 {
        format!("{}s", d.as_secs())
    } else if nanos.is_multiple_of(1_000_000) {
        format!("{}.{:03}s", d.as_secs(), nanos / 1_000_000)
    } else {
        format!("{}.{nanos:09}s", d.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{duration, socket_path};

    #[test]
    fn sockets_fit_the_limit_of_the_system() {
        assert_eq!(socket_path("/tmp/", "kuma-al-a-b"), "/tmp/kuma-al-a-b.sock");
        assert_eq!(socket_path("", "x"), "x.sock");
        let long = socket_path("/tmp", &"a".repeat(200));
        assert_eq!(long.len(), 98 + ".sock".len());
    }

    #[test]
    fn durations() {
        assert_eq!(duration(Duration::from_secs(1)), "1s");
        assert_eq!(duration(Duration::from_millis(2500)), "2.500s");
        assert_eq!(duration(Duration::from_nanos(1)), "0.000000001s");
    }
}
