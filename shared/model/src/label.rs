//! Labels and tags with a meaning (`spec/resources.md` 1.4).

/// Mesh of the object.
pub const MESH: &str = "kuma.io/mesh";
/// Which side owns the object: `global` or `zone`.
pub const ORIGIN: &str = "kuma.io/origin";
/// Value of [`ORIGIN`].
pub const ORIGIN_GLOBAL: &str = "global";
/// Value of [`ORIGIN`].
pub const ORIGIN_ZONE: &str = "zone";
/// Zone of origin; also a tag of dataplanes.
pub const ZONE: &str = "kuma.io/zone";
/// `universal` or `kubernetes`.
pub const ENV: &str = "kuma.io/env";
/// The name as the user knows it, when the stored one carries a suffix.
pub const DISPLAY_NAME: &str = "kuma.io/display-name";
/// Kubernetes namespace of the object.
pub const NAMESPACE: &str = "k8s.kuma.io/namespace";
/// Role of a targetRef policy.
pub const POLICY_ROLE: &str = "kuma.io/policy-role";
/// `sidecar`, `gateway`, `zoneingress` or `zoneegress`.
pub const PROXY_TYPE: &str = "kuma.io/proxy-type";
/// `enabled` on a Dataplane with a listener that lets other zones' traffic in.
pub const LISTENER_ZONE_INGRESS: &str = "kuma.io/listener-zoneingress";
/// `enabled` on a Dataplane with a listener that lets traffic out of the zone.
pub const LISTENER_ZONE_EGRESS: &str = "kuma.io/listener-zoneegress";
/// `enabled` or `disabled`: overrides whether an object is synced.
pub const KDS_SYNC: &str = "kuma.io/kds-sync";
/// Zone-local; not sent to the global.
pub const DELETION_GRACE: &str = "kuma.io/deletion-grace-period-started-at";
/// Workload name of a Dataplane.
pub const WORKLOAD: &str = "kuma.io/workload";

/// Service tag of a proxy, destination or selector.
pub const SERVICE_TAG: &str = "kuma.io/service";
/// Tag by which an egress tells apart the ExternalServices of one service.
pub const EXTERNAL_SERVICE_TAG: &str = "kuma.io/external-service-name";
/// Protocol tag.
pub const PROTOCOL_TAG: &str = "kuma.io/protocol";
