//! The one table of resource types (`spec/resources.md` 1.3, `spec/kds.md` 3, `spec/rest-api.md`
//! 5). REST, KDS, the store and the command line read it; a new type is one row.

use std::fmt;

/// Where names of a type are unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Per installation; the mesh of such a key is empty.
    Global,
    /// Per mesh.
    Mesh,
}

/// How the spec of a type is encoded on KDS and in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// A protobuf message, by its full name. Its JSON form lies flat beside the metadata.
    Proto(&'static str),
    /// JSON text under `spec`.
    Json {
        /// The type carries a `status` too.
        status: bool,
    },
}

/// What a user may do with a type over REST or a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writable {
    /// As the KDS directions say: where the type is provided.
    Provided,
    /// Only ever written by control planes.
    Never,
    /// Where it is provided, and by administrators alone (Secrets).
    Admin,
}

/// One row of the table.
#[derive(Debug)]
pub struct TypeRow {
    /// The type as users and the wire name it, such as `MeshGateway`.
    pub name: &'static str,
    /// REST collection; empty for types without REST.
    pub plural: &'static str,
    /// Further REST collection names.
    pub aliases: &'static [&'static str],
    /// Singular word of command lines.
    pub singular: &'static str,
    /// Short name inside a resource identifier (`kri`); empty if the type has none.
    pub short: &'static str,
    /// Uniqueness of names.
    pub scope: Scope,
    /// Encoding of the spec.
    pub codec: Codec,
    /// May be written on the global and goes to the zones.
    pub global_to_zone: bool,
    /// May be written in a zone and goes to the global.
    pub zone_to_global: bool,
    /// The global passes a zone's objects on to the other zones.
    pub across_zones: bool,
    /// May be provided by the global without being synced, or in spite of it (Zone).
    pub global_only: bool,
    /// A name gets a hash suffix when it crosses the wire.
    pub hashed: bool,
    /// Who writes.
    pub writable: Writable,
    /// A policy in the sense of the inspect endpoints.
    pub policy: bool,
}

const ROW: TypeRow = TypeRow {
    name: "",
    plural: "",
    aliases: &[],
    singular: "",
    short: "",
    scope: Scope::Mesh,
    codec: Codec::Json { status: false },
    global_to_zone: false,
    zone_to_global: false,
    across_zones: false,
    global_only: false,
    hashed: true,
    writable: Writable::Provided,
    policy: false,
};

/// A protobuf policy that the global provides.
const fn legacy(
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    message: &'static str,
) -> TypeRow {
    TypeRow {
        name,
        plural,
        singular,
        codec: Codec::Proto(message),
        global_to_zone: true,
        policy: true,
        ..ROW
    }
}

/// A targetRef policy.
const fn target_ref(
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static str,
    status: bool,
) -> TypeRow {
    TypeRow {
        name,
        plural,
        singular,
        short,
        codec: Codec::Json { status },
        global_to_zone: true,
        zone_to_global: true,
        across_zones: true,
        policy: true,
        ..ROW
    }
}

/// A JSON type that is no policy.
const fn core(
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static str,
    status: bool,
    global_to_zone: bool,
    zone_to_global: bool,
    across_zones: bool,
) -> TypeRow {
    TypeRow {
        name,
        plural,
        singular,
        short,
        codec: Codec::Json { status },
        global_to_zone,
        zone_to_global,
        across_zones,
        ..ROW
    }
}

const fn insight(name: &'static str, plural: &'static str, message: &'static str) -> TypeRow {
    TypeRow {
        name,
        plural,
        codec: Codec::Proto(message),
        zone_to_global: true,
        writable: Writable::Never,
        ..ROW
    }
}

/// The table, by name.
static ROWS: &[TypeRow] = &[
    legacy(
        "CircuitBreaker",
        "circuit-breakers",
        "circuit-breaker",
        "kuma.mesh.v1alpha1.CircuitBreaker",
    ),
    TypeRow {
        name: "Config",
        scope: Scope::Global,
        codec: Codec::Proto("kuma.system.v1alpha1.Config"),
        global_to_zone: true,
        hashed: false,
        writable: Writable::Never,
        ..ROW
    },
    TypeRow {
        name: "Dataplane",
        plural: "dataplanes",
        singular: "dataplane",
        short: "dp",
        codec: Codec::Proto("kuma.mesh.v1alpha1.Dataplane"),
        zone_to_global: true,
        ..ROW
    },
    insight("DataplaneInsight", "dataplane-insights", "kuma.mesh.v1alpha1.DataplaneInsight"),
    TypeRow {
        policy: false,
        ..legacy(
            "ExternalService",
            "external-services",
            "external-service",
            "kuma.mesh.v1alpha1.ExternalService",
        )
    },
    legacy(
        "FaultInjection",
        "fault-injections",
        "fault-injection",
        "kuma.mesh.v1alpha1.FaultInjection",
    ),
    // What gateways fall back on in this zone: it never leaves the zone's own store.
    TypeRow {
        name: "GatewayLastGood",
        codec: Codec::Json { status: false },
        hashed: false,
        writable: Writable::Never,
        ..ROW
    },
    TypeRow {
        name: "GlobalSecret",
        plural: "globalsecrets",
        aliases: &["global-secrets"],
        singular: "global-secret",
        scope: Scope::Global,
        codec: Codec::Proto("kuma.system.v1alpha1.Secret"),
        global_to_zone: true,
        hashed: false,
        writable: Writable::Admin,
        ..ROW
    },
    legacy("HealthCheck", "health-checks", "healthcheck", "kuma.mesh.v1alpha1.HealthCheck"),
    TypeRow {
        scope: Scope::Global,
        ..core(
            "HostnameGenerator",
            "hostnamegenerators",
            "hostnamegenerator",
            "hg",
            false,
            true,
            true,
            false,
        )
    },
    TypeRow {
        name: "Mesh",
        plural: "meshes",
        singular: "mesh",
        short: "m",
        scope: Scope::Global,
        codec: Codec::Proto("kuma.mesh.v1alpha1.Mesh"),
        global_to_zone: true,
        hashed: false,
        ..ROW
    },
    target_ref("MeshAccessLog", "meshaccesslogs", "meshaccesslog", "mal", true),
    target_ref("MeshCircuitBreaker", "meshcircuitbreakers", "meshcircuitbreaker", "mcb", false),
    core(
        "MeshExternalService",
        "meshexternalservices",
        "meshexternalservice",
        "extsvc",
        true,
        true,
        true,
        false,
    ),
    target_ref("MeshFaultInjection", "meshfaultinjections", "meshfaultinjection", "mfi", false),
    TypeRow {
        name: "MeshGateway",
        plural: "meshgateways",
        singular: "meshgateway",
        short: "mgw",
        codec: Codec::Proto("kuma.mesh.v1alpha1.MeshGateway"),
        global_to_zone: true,
        zone_to_global: true,
        ..ROW
    },
    legacy(
        "MeshGatewayRoute",
        "meshgatewayroutes",
        "meshgatewayroute",
        "kuma.mesh.v1alpha1.MeshGatewayRoute",
    ),
    target_ref("MeshHTTPRoute", "meshhttproutes", "meshhttproute", "mhttpr", false),
    target_ref("MeshHealthCheck", "meshhealthchecks", "meshhealthcheck", "mhc", false),
    core("MeshIdentity", "meshidentities", "meshidentity", "mid", true, true, true, false),
    TypeRow {
        name: "MeshInsight",
        plural: "mesh-insights",
        scope: Scope::Global,
        codec: Codec::Proto("kuma.mesh.v1alpha1.MeshInsight"),
        writable: Writable::Never,
        ..ROW
    },
    target_ref(
        "MeshLoadBalancingStrategy",
        "meshloadbalancingstrategies",
        "meshloadbalancingstrategy",
        "mlbs",
        false,
    ),
    target_ref("MeshMetric", "meshmetrics", "meshmetric", "mm", true),
    core(
        "MeshMultiZoneService",
        "meshmultizoneservices",
        "meshmultizoneservice",
        "mzsvc",
        true,
        true,
        false,
        false,
    ),
    core(
        "MeshOpenTelemetryBackend",
        "meshopentelemetrybackends",
        "meshopentelemetrybackend",
        "motb",
        true,
        true,
        true,
        false,
    ),
    target_ref("MeshPassthrough", "meshpassthroughs", "meshpassthrough", "mp", false),
    target_ref("MeshProxyPatch", "meshproxypatches", "meshproxypatch", "mpp", false),
    target_ref("MeshRateLimit", "meshratelimits", "meshratelimit", "mrl", false),
    target_ref("MeshRetry", "meshretries", "meshretry", "mr", false),
    core("MeshService", "meshservices", "meshservice", "msvc", true, false, true, true),
    target_ref("MeshTCPRoute", "meshtcproutes", "meshtcproute", "mtcpr", false),
    target_ref("MeshTLS", "meshtlses", "meshtls", "mtls", false),
    target_ref("MeshTimeout", "meshtimeouts", "meshtimeout", "mt", false),
    target_ref("MeshTrace", "meshtraces", "meshtrace", "mtr", true),
    target_ref(
        "MeshTrafficPermission",
        "meshtrafficpermissions",
        "meshtrafficpermission",
        "mtp",
        false,
    ),
    core("MeshTrust", "meshtrusts", "meshtrust", "mtrust", true, true, true, false),
    core(
        "MeshZoneAddress",
        "meshzoneaddresses",
        "meshzoneaddress",
        "mza",
        false,
        false,
        true,
        true,
    ),
    legacy("ProxyTemplate", "proxytemplates", "proxytemplate", "kuma.mesh.v1alpha1.ProxyTemplate"),
    legacy("RateLimit", "rate-limits", "rate-limit", "kuma.mesh.v1alpha1.RateLimit"),
    legacy("Retry", "retries", "retry", "kuma.mesh.v1alpha1.Retry"),
    TypeRow {
        name: "Secret",
        plural: "secrets",
        singular: "secret",
        codec: Codec::Proto("kuma.system.v1alpha1.Secret"),
        global_to_zone: true,
        hashed: false,
        writable: Writable::Admin,
        ..ROW
    },
    TypeRow {
        name: "ServiceInsight",
        plural: "service-insights",
        codec: Codec::Proto("kuma.mesh.v1alpha1.ServiceInsight"),
        global_to_zone: true,
        writable: Writable::Never,
        ..ROW
    },
    legacy("Timeout", "timeouts", "timeout", "kuma.mesh.v1alpha1.Timeout"),
    legacy("TrafficLog", "traffic-logs", "traffic-log", "kuma.mesh.v1alpha1.TrafficLog"),
    legacy(
        "TrafficPermission",
        "traffic-permissions",
        "traffic-permission",
        "kuma.mesh.v1alpha1.TrafficPermission",
    ),
    legacy("TrafficRoute", "traffic-routes", "traffic-route", "kuma.mesh.v1alpha1.TrafficRoute"),
    legacy("TrafficTrace", "traffic-traces", "traffic-trace", "kuma.mesh.v1alpha1.TrafficTrace"),
    legacy(
        "VirtualOutbound",
        "virtual-outbounds",
        "virtual-outbound",
        "kuma.mesh.v1alpha1.VirtualOutbound",
    ),
    core("Workload", "workloads", "workload", "wl", true, false, true, false),
    TypeRow {
        name: "Zone",
        plural: "zones",
        singular: "zone",
        short: "z",
        scope: Scope::Global,
        codec: Codec::Proto("kuma.system.v1alpha1.Zone"),
        global_only: true,
        ..ROW
    },
    TypeRow {
        name: "ZoneEgress",
        plural: "zoneegresses",
        singular: "zoneegress",
        short: "ze",
        scope: Scope::Global,
        codec: Codec::Proto("kuma.mesh.v1alpha1.ZoneEgress"),
        zone_to_global: true,
        ..ROW
    },
    TypeRow {
        scope: Scope::Global,
        ..insight("ZoneEgressInsight", "zoneegressinsights", "kuma.mesh.v1alpha1.ZoneEgressInsight")
    },
    TypeRow {
        name: "ZoneIngress",
        plural: "zoneingresses",
        aliases: &["zone-ingresses"],
        singular: "zone-ingress",
        short: "zi",
        scope: Scope::Global,
        codec: Codec::Proto("kuma.mesh.v1alpha1.ZoneIngress"),
        zone_to_global: true,
        across_zones: true,
        ..ROW
    },
    TypeRow {
        scope: Scope::Global,
        ..insight(
            "ZoneIngressInsight",
            "zone-ingress-insights",
            "kuma.mesh.v1alpha1.ZoneIngressInsight",
        )
    },
    TypeRow {
        name: "ZoneInsight",
        plural: "zone-insights",
        scope: Scope::Global,
        codec: Codec::Proto("kuma.system.v1alpha1.ZoneInsight"),
        writable: Writable::Never,
        ..ROW
    },
];

/// A resource type: an index into the table, cheap to copy and compare. Kinds order as their rows
/// do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(u8);

macro_rules! kinds {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        impl Kind {
            $($(#[$doc])* pub const $constant: Kind = Kind::required($name);)*
        }
    };
}

kinds! {
    /// Internal key-value settings.
    CONFIG = "Config";
    /// A proxy.
    DATAPLANE = "Dataplane";
    /// What a proxy's streams say.
    DATAPLANE_INSIGHT = "DataplaneInsight";
    /// A service outside of the mesh.
    EXTERNAL_SERVICE = "ExternalService";
    /// Credentials that a gateway of this zone used last and that were good.
    GATEWAY_LAST_GOOD = "GatewayLastGood";
    /// A secret of the installation.
    GLOBAL_SECRET = "GlobalSecret";
    /// A mesh.
    MESH = "Mesh";
    /// Default and user circuit breakers.
    MESH_CIRCUIT_BREAKER = "MeshCircuitBreaker";
    /// Listeners of builtin gateways.
    MESH_GATEWAY = "MeshGateway";
    /// Routes of builtin gateways.
    MESH_GATEWAY_ROUTE = "MeshGatewayRoute";
    /// Default and user retries.
    MESH_RETRY = "MeshRetry";
    /// Default and user timeouts.
    MESH_TIMEOUT = "MeshTimeout";
    /// A secret of a mesh.
    SECRET = "Secret";
    /// Services of a mesh, computed.
    SERVICE_INSIGHT = "ServiceInsight";
    /// Where a sidecar sends traffic.
    TRAFFIC_ROUTE = "TrafficRoute";
    /// A zone.
    ZONE = "Zone";
    /// A proxy that lets traffic out of a zone.
    ZONE_EGRESS = "ZoneEgress";
    /// What an egress' streams say.
    ZONE_EGRESS_INSIGHT = "ZoneEgressInsight";
    /// A proxy that lets other zones' traffic in.
    ZONE_INGRESS = "ZoneIngress";
    /// What an ingress' streams say.
    ZONE_INGRESS_INSIGHT = "ZoneIngressInsight";
    /// What a zone's streams say.
    ZONE_INSIGHT = "ZoneInsight";
}

impl Kind {
    /// Number of types in the table; kinds are `0..COUNT` by [`Kind::index`].
    pub const COUNT: usize = ROWS.len();

    const fn required(name: &str) -> Kind {
        let mut i = 0;
        while i < ROWS.len() {
            if same(ROWS[i].name, name) {
                #[expect(clippy::cast_possible_truncation, reason = "far fewer than 256 types")]
                return Kind(i as u8);
            }
            i += 1;
        }
        panic!("no such type in the table")
    }

    /// All types, by name.
    pub fn all() -> impl Iterator<Item = Kind> {
        #[expect(clippy::cast_possible_truncation, reason = "far fewer than 256 types")]
        (0..ROWS.len() as u8).map(Kind)
    }

    /// The type of this name, as the wire spells it.
    pub fn by_name(name: &str) -> Option<Kind> {
        Kind::all().find(|k| k.row().name == name)
    }

    /// The type of a REST collection, by its plural or an alias.
    pub fn by_plural(plural: &str) -> Option<Kind> {
        if plural.is_empty() {
            return None;
        }
        Kind::all().find(|k| k.row().plural == plural || k.row().aliases.contains(&plural))
    }

    /// Position in the table.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The row.
    pub fn row(self) -> &'static TypeRow {
        &ROWS[self.index()]
    }

    /// The type's name.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Uniqueness of names.
    pub fn scope(self) -> Scope {
        self.row().scope
    }

    /// True for types of mesh scope.
    pub fn is_mesh_scoped(self) -> bool {
        matches!(self.scope(), Scope::Mesh)
    }

    /// Goes from the global to the zones, either provided there or passed on from another zone.
    pub fn sent_to_zones(self) -> bool {
        self.row().global_to_zone || self.row().across_zones
    }

    /// Goes from a zone to the global.
    pub fn sent_to_global(self) -> bool {
        self.row().zone_to_global
    }

    /// The spec is JSON and lies under `spec` (the targetRef family).
    pub fn is_json(self) -> bool {
        matches!(self.row().codec, Codec::Json { .. })
    }

    /// The type has a `status`.
    pub fn has_status(self) -> bool {
        matches!(self.row().codec, Codec::Json { status: true })
    }

    /// May be written on a global control plane over REST.
    pub fn writable_on_global(self) -> bool {
        let row = self.row();
        !matches!(row.writable, Writable::Never) && (row.global_to_zone || row.global_only)
    }

    /// May be written on a zone that has a global. Secrets and Zones are allowed, as in Kuma
    /// (`spec/rest-api.md` 5).
    pub fn writable_on_federated_zone(self) -> bool {
        let row = self.row();
        match row.writable {
            Writable::Never => false,
            Writable::Admin => true,
            Writable::Provided => row.zone_to_global || row.global_only,
        }
    }

    /// May be written on a zone without a global.
    pub fn writable_on_standalone_zone(self) -> bool {
        !matches!(self.row().writable, Writable::Never)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_unique() {
        let names: Vec<_> = Kind::all().map(Kind::name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names, sorted);
    }

    #[test]
    fn kds_directions_have_the_sizes_that_kuma_has() {
        assert_eq!(Kind::all().filter(|k| k.sent_to_zones()).count(), 45);
        assert_eq!(Kind::all().filter(|k| k.sent_to_global()).count(), 31);
    }

    #[test]
    fn proto_messages_exist() {
        for kind in Kind::all() {
            if let Codec::Proto(name) = kind.row().codec {
                assert!(sunbear_proto::json::descriptor(name).is_some(), "{name}");
            }
        }
    }
}
