//! `/policies` and `/_resources`: the table of types as clients see it (`spec/rest-api.md` 4.2,
//! 4.3).

use serde::Serialize;
use sunbear_model::{Kind, Scope, Writable, validation::Mode};

use crate::write;

/// Answer of `/policies`.
#[derive(Serialize)]
pub(crate) struct Policies {
    policies: Vec<Policy>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    name: &'static str,
    read_only: bool,
    path: &'static str,
    singular_display_name: String,
    plural_display_name: String,
    is_experimental: bool,
    is_target_ref_based: bool,
    is_inbound: bool,
    is_outbound: bool,
}

/// Answer of `/_resources`.
#[derive(Serialize)]
pub(crate) struct Resources {
    resources: Vec<ResourceType>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceType {
    include_in_federation: bool,
    name: &'static str,
    path: &'static str,
    plural_display_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyTraits>,
    read_only: bool,
    scope: &'static str,
    short_name: &'static str,
    singular_display_name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyTraits {
    has_from_target_ref: bool,
    has_rules_target_ref: bool,
    has_to_target_ref: bool,
    is_from_as_rules: bool,
    is_target_ref: bool,
}

/// The policies. The table is in order of names.
pub(crate) fn policies(mode: &Mode, read_only: bool) -> Policies {
    let policy = |kind: Kind| {
        let traits = traits(kind);
        Policy {
            name: kind.name(),
            read_only: read_only || !write::is_writable(kind, mode),
            path: kind.row().plural,
            singular_display_name: singular(kind.name()),
            plural_display_name: plural(&singular(kind.name())),
            is_experimental: false,
            is_target_ref_based: traits.is_target_ref,
            is_inbound: traits.has_from_target_ref,
            is_outbound: traits.has_to_target_ref,
        }
    };
    Policies { policies: Kind::all().filter(|k| k.row().policy).map(policy).collect() }
}

/// All types with a REST path.
pub(crate) fn resources(mode: &Mode, read_only: bool) -> Resources {
    let entry = |kind: Kind| {
        let row = kind.row();
        let never = row.writable == Writable::Never;
        ResourceType {
            // A zone that becomes part of a federation brings what a global provides.
            include_in_federation: row.global_to_zone && !never,
            name: row.name,
            path: row.plural,
            plural_display_name: plural(&singular(row.name)),
            policy: row.policy.then(|| traits(kind)),
            // On a federated zone everything reads true, although some writes work there.
            read_only: read_only || never || matches!(mode, Mode::FederatedZone { .. }),
            scope: match row.scope {
                Scope::Global => "Global",
                Scope::Mesh => "Mesh",
            },
            short_name: row.short,
            singular_display_name: singular(row.name),
        }
    };
    Resources { resources: Kind::all().filter(|k| !k.row().plural.is_empty()).map(entry).collect() }
}

/// Do items of `from` count as rules without conditions?
pub(crate) fn is_from_as_rules(kind: Kind) -> bool {
    traits(kind).is_from_as_rules
}

/// Which parts the spec of a policy has (`spec/rest-api.md` 5).
fn traits(kind: Kind) -> PolicyTraits {
    let (to, from, rules, from_as_rules) = match kind.name() {
        "MeshAccessLog" | "MeshCircuitBreaker" | "MeshRateLimit" | "MeshTimeout" => {
            (true, true, true, true)
        }
        "MeshFaultInjection" => (true, true, true, false),
        "MeshTLS" => (false, true, true, true),
        "MeshTrafficPermission" => (false, true, true, false),
        "MeshHealthCheck"
        | "MeshHTTPRoute"
        | "MeshTCPRoute"
        | "MeshLoadBalancingStrategy"
        | "MeshRetry" => (true, false, false, false),
        _ => (false, false, false, false),
    };
    PolicyTraits {
        has_from_target_ref: from,
        has_rules_target_ref: rules,
        has_to_target_ref: to,
        is_from_as_rules: from_as_rules,
        is_target_ref: kind.row().policy && kind.is_json(),
    }
}

/// The words of a type's name, apart. `OpenTelemetry` is one word, and so is a run of capitals.
fn singular(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let chars: Vec<char> = name.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let after_small = i > 0 && chars.get(i - 1).is_some_and(|p| p.is_lowercase());
        let ends_run = i > 0
            && chars.get(i - 1).is_some_and(|p| p.is_uppercase())
            && chars.get(i + 1).is_some_and(|n| n.is_lowercase());
        if c.is_uppercase() && (after_small || ends_run) {
            out.push(' ');
        }
        out.push(*c);
    }
    out.replace("Open Telemetry", "OpenTelemetry")
}

/// The English plural.
fn plural(singular: &str) -> String {
    if let Some(stem) = singular.strip_suffix('y')
        && !singular.ends_with("ay")
    {
        return format!("{stem}ies");
    }
    if ["s", "S", "sh", "ch"].iter().any(|ending| singular.ends_with(ending)) {
        return format!("{singular}es");
    }
    format!("{singular}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types() {
        for (name, one, many) in [
            ("Mesh", "Mesh", "Meshes"),
            ("MeshGateway", "Mesh Gateway", "Mesh Gateways"),
            ("MeshRetry", "Mesh Retry", "Mesh Retries"),
            ("MeshIdentity", "Mesh Identity", "Mesh Identities"),
            ("MeshProxyPatch", "Mesh Proxy Patch", "Mesh Proxy Patches"),
            ("MeshPassthrough", "Mesh Passthrough", "Mesh Passthroughs"),
            ("MeshTLS", "Mesh TLS", "Mesh TLSes"),
            ("MeshHTTPRoute", "Mesh HTTP Route", "Mesh HTTP Routes"),
            (
                "MeshOpenTelemetryBackend",
                "Mesh OpenTelemetry Backend",
                "Mesh OpenTelemetry Backends",
            ),
            ("ZoneEgress", "Zone Egress", "Zone Egresses"),
            ("MeshZoneAddress", "Mesh Zone Address", "Mesh Zone Addresses"),
            ("MeshMultiZoneService", "Mesh Multi Zone Service", "Mesh Multi Zone Services"),
            (
                "MeshLoadBalancingStrategy",
                "Mesh Load Balancing Strategy",
                "Mesh Load Balancing Strategies",
            ),
        ] {
            assert_eq!(singular(name), one);
            assert_eq!(plural(one), many);
        }
    }
}
