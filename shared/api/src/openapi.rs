//! The description of the API, made from the table of types and the grammar of paths.

use std::sync::LazyLock;

use axum::body::Bytes;
use serde_json::{Map, Value, json};
use sunbear_model::{Codec, Kind, Scope, Writable};

use crate::target::{self, insight_of};

/// The document, OpenAPI 3.1.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(build);
    &DOCUMENT
}

/// The document as text.
pub(crate) fn body() -> Bytes {
    static BODY: LazyLock<Bytes> =
        LazyLock::new(|| serde_json::to_vec(document()).unwrap_or_default().into());
    BODY.clone()
}

/// Statuses that any answer may have: bad credentials, no acceptable form, failures.
const ALWAYS: [u16; 3] = [401, 406, 500];

/// Query parameters of pages.
const PAGE: &[(&str, &str)] = &[
    ("size", "Number of items, 100 if not given, 1000 at most."),
    ("offset", "Where the page starts, as `next` of the page before has it."),
    ("name", "Only items whose name contains this."),
];

/// Query parameters of single objects.
const FORMAT: &[(&str, &str)] = &[
    ("format", "`universal` (which is the default), `k8s` or `kubernetes`."),
    ("namespace", "Namespace of the Kubernetes form."),
];

const CONFIG: &[(&str, &str)] = &[
    ("shadow", "Whether policies with the label `kuma.io/effect: shadow` act."),
    ("include", "`diff`: what such policies change, as a JSON Patch."),
];
const WITH_EDS: &[(&str, &str)] = &[("include_eds", "With endpoints.")];
const STATS: &[(&str, &str)] =
    &[("format", "`json`; plain text if not given."), ("usedonly", "Only those in use.")];
const CLUSTERS: &[(&str, &str)] = &[("format", "`json`; plain text if not given.")];

/// One operation.
struct Operation<'a> {
    method: &'static str,
    summary: String,
    id: String,
    query: &'a [(&'a str, &'a str)],
    /// Name of the schema of the body.
    body: Option<&'a str>,
    /// Statuses of success, each with the name of its schema; no name: plain text.
    good: &'a [(u16, Option<&'a str>)],
    bad: &'a [u16],
}

fn build() -> Value {
    let mut paths = Map::new();
    control_plane(&mut paths);
    for kind in Kind::all().filter(|kind| !kind.row().plural.is_empty()) {
        for plural in [kind.row().plural].iter().chain(kind.row().aliases) {
            collection(&mut paths, kind, plural);
        }
        inspection(&mut paths, kind);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sunbear control plane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The REST API of global and zone control planes, as kumactl 2.14 knows it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"userToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
        "security": [{}, {"userToken": []}],
    })
}

fn control_plane(paths: &mut Map<String, Value>) {
    let gets: [(&str, &str, &str, &[u16]); 9] = [
        ("/", "index", "Product, version and identity of the control plane", &[]),
        ("/config", "config", "Configuration, without secrets", &[403]),
        ("/who-am-i", "whoAmI", "The caller", &[]),
        ("/policies", "policies", "Types of policies", &[]),
        ("/_resources", "resources", "Types of objects", &[]),
        ("/global-insight", "globalInsight", "Sums over all meshes and zones", &[]),
        ("/global-insights", "globalInsights", "Numbers of objects of global scope", &[]),
        ("/openapi.json", "openapi", "This document", &[]),
        ("/_kri/{kri}", "byKri", "An object by its resource identifier", &[400, 403, 404]),
    ];
    for (path, id, summary, bad) in gets {
        let query = if path == "/_kri/{kri}" { FORMAT } else { &[] };
        let operation = Operation {
            method: "get",
            summary: summary.to_owned(),
            id: id.to_owned(),
            query,
            body: None,
            good: &[(200, Some("Object"))],
            bad,
        };
        add(paths, path, &operation);
    }
    for (kind, body) in [
        ("dataplane", "DataplaneTokenRequest"),
        ("zone", "ZoneTokenRequest"),
        ("user", "UserTokenRequest"),
    ] {
        let operation = Operation {
            method: "post",
            summary: format!("Issue a token for a {kind}"),
            id: format!("issue-{kind}-token"),
            query: &[],
            body: Some(body),
            good: &[(200, None)],
            bad: &[400, 403, 404, 408, 413, 415],
        };
        add(paths, &format!("/tokens/{kind}"), &operation);
    }
}

fn collection(paths: &mut Map<String, Value>, kind: Kind, plural: &str) {
    let row = kind.row();
    let mesh = if row.scope == Scope::Mesh { "/meshes/{mesh}" } else { "" };
    let mut query: Vec<(&str, &str)> = PAGE.to_vec();
    match kind {
        Kind::DATAPLANE => query.extend([
            ("tag", "`key:value`, repeatable: only those with these tags."),
            ("gateway", "`true`, `false`, `builtin` or `delegated`."),
        ]),
        Kind::EXTERNAL_SERVICE => query.push(("tag", "`key:value`, repeatable.")),
        Kind::SERVICE_INSIGHT => query.push(("type", "Types of services, separated by commas.")),
        _ => {}
    }
    let secret: &[u16] =
        if row.writable == Writable::Admin { &[400, 403, 404] } else { &[400, 404] };
    let list = |paths: &mut Map<String, Value>, path: &str, of: &str| {
        let operation = Operation {
            method: "get",
            summary: format!("A page of {of}"),
            id: format!("list-{}", path.trim_start_matches('/').replace('/', "-")),
            query: &query,
            body: None,
            good: &[(200, Some("List"))],
            bad: secret,
        };
        add(paths, path, &operation);
    };
    list(paths, &format!("/{plural}"), row.name);
    if row.scope == Scope::Mesh {
        list(paths, &format!("{mesh}/{plural}"), row.name);
    }
    let item = format!("{mesh}/{plural}/{{name}}");
    item_operations(paths, kind, &item, secret);
    if insight_of(kind).is_none() {
        return;
    }
    let of = format!("{} with insights", row.name);
    let get = |paths: &mut Map<String, Value>, path: &str| {
        let operation = Operation {
            method: "get",
            summary: format!("One {of}"),
            id: format!("get-{}", path.trim_start_matches('/').replace('/', "-")),
            query: FORMAT,
            body: None,
            good: &[(200, Some("Object"))],
            bad: &[400, 404],
        };
        add(paths, path, &operation);
    };
    list(paths, &format!("/{plural}/_overview"), &of);
    get(paths, &format!("{item}/_overview"));
    let older = match kind {
        Kind::ZONE_EGRESS => "zoneegressoverviews".to_owned(),
        _ => format!("{}+insights", row.plural),
    };
    list(paths, &format!("/{older}"), &of);
    get(paths, &format!("{mesh}/{older}/{{name}}"));
    if row.scope == Scope::Mesh {
        list(paths, &format!("{mesh}/{plural}/_overview"), &of);
        list(paths, &format!("{mesh}/{older}"), &of);
    }
}

fn item_operations(paths: &mut Map<String, Value>, kind: Kind, item: &str, bad: &[u16]) {
    let name = kind.name();
    let id = |verb: &str| format!("{verb}-{}", item.trim_start_matches('/').replace('/', "-"));
    add(
        paths,
        item,
        &Operation {
            method: "get",
            summary: format!("One {name}"),
            id: id("get"),
            query: FORMAT,
            body: None,
            good: &[(200, Some(name))],
            bad,
        },
    );
    add(
        paths,
        item,
        &Operation {
            method: "put",
            summary: format!("Create or replace a {name}"),
            id: id("put"),
            query: &[],
            body: Some(name),
            good: &[(200, Some("Written")), (201, Some("Written"))],
            bad: &[400, 403, 404, 405, 408, 409, 413, 415, 503],
        },
    );
    add(
        paths,
        item,
        &Operation {
            method: "delete",
            summary: format!("Delete a {name} and all that it owns"),
            id: id("delete"),
            query: &[],
            body: None,
            good: &[(200, Some("Written"))],
            bad: &[400, 403, 404, 405, 409, 503],
        },
    );
}

fn inspection(paths: &mut Map<String, Value>, kind: Kind) {
    let row = kind.row();
    let name = row.name;
    let mut entries: Vec<(&str, String, &[(&str, &str)], &[u16])> = Vec::new();
    if target::is_proxy(kind) {
        let text = |what: &str| format!("{what} of the proxy's Envoy");
        entries.push(("xds", text("Configuration dump"), WITH_EDS, &[400, 403, 404, 503]));
        entries.push(("stats", text("Statistics"), STATS, &[400, 403, 404, 503]));
        entries.push(("clusters", text("Clusters"), CLUSTERS, &[400, 403, 404, 503]));
    }
    if target::is_attached(kind) {
        entries.push(("dataplanes", format!("Where a {name} acts"), &[], &[404]));
    }
    if row.policy || name == "MeshService" {
        let summary = format!("The Dataplanes that a {name} selects");
        entries.push(("_resources/dataplanes", summary.clone(), PAGE, &[400, 404]));
        entries.push(("-resources/dataplanes", summary, PAGE, &[400, 404]));
    }
    if name == "MeshService" {
        entries.push(("_dataplanes", "The Dataplanes behind it".to_owned(), PAGE, &[400, 404]));
    }
    if matches!(name, "MeshService" | "MeshExternalService" | "MeshMultiZoneService") {
        entries.push(("_hostnames", "The host names that it has".to_owned(), &[], &[404]));
    }
    if kind == Kind::DATAPLANE {
        entries.push(("policies", "Policies by where they act".to_owned(), &[], &[404]));
        entries.push(("rules", "Merged policies, older form".to_owned(), &[], &[404]));
        for aspect in [
            "_layout",
            "_policies",
            "_inbounds/{kri}/_policies",
            "_outbounds/{kri}/_policies",
            "_outbounds/{kri}/_routes",
            "_outbounds/{kri}/_routes/{route}/_policies",
        ] {
            let summary = "Only where all services of the mesh are MeshServices".to_owned();
            entries.push((aspect, summary, &[], &[400, 404, 501]));
        }
    }
    if kind == Kind::DATAPLANE || kind == Kind::MESH_GATEWAY {
        let summary = "Configuration as a zone generates it".to_owned();
        entries.push(("_config", summary, CONFIG, &[400, 403, 404, 405, 501]));
        entries.push(("_rules", "Merged policies".to_owned(), &[], &[400, 404]));
    }
    let mesh = if row.scope == Scope::Mesh { "/meshes/{mesh}" } else { "" };
    for (aspect, summary, query, bad) in entries {
        for plural in [row.plural].iter().chain(row.aliases) {
            let path = format!("{mesh}/{plural}/{{name}}/{aspect}");
            let text = matches!(aspect, "stats" | "clusters");
            let operation = Operation {
                method: "get",
                summary: summary.clone(),
                id: format!("inspect-{}", path.trim_start_matches('/').replace('/', "-")),
                query,
                body: None,
                good: if text { &[(200, None)] } else { &[(200, Some("Object"))] },
                bad,
            };
            add(paths, &path, &operation);
        }
    }
}

fn add(paths: &mut Map<String, Value>, path: &str, operation: &Operation<'_>) {
    let variables = path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = variables
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    parameters.extend(operation.query.iter().map(|(name, description)| {
        json!({"name": name, "in": "query", "description": description, "schema": {"type": "string"}})
    }));
    let mut responses = Map::new();
    for (status, schema) in operation.good {
        let content = match schema {
            // `format` asks for the other form of an object.
            Some(schema) if operation.method == "get" && Kind::by_name(schema).is_some() => json!({
                "application/json": {
                    "schema": {"anyOf": [reference(schema), reference("KubernetesObject")]},
                },
            }),
            Some(schema) => json!({"application/json": {"schema": reference(schema)}}),
            None => json!({"text/plain": {"schema": {"type": "string"}}}),
        };
        responses.insert(status.to_string(), json!({"description": "Success", "content": content}));
    }
    for status in operation.bad.iter().copied().chain(ALWAYS) {
        let text = http::StatusCode::from_u16(status).ok();
        let description = text.and_then(|s| s.canonical_reason()).unwrap_or("Failure");
        let content = json!({"application/json": {"schema": reference("Error")}});
        // The router's own answers are plain text.
        let response = match status {
            406 | 415 => json!({"description": description}),
            _ => json!({"description": description, "content": content}),
        };
        responses.insert(status.to_string(), response);
    }
    let mut value = json!({
        "summary": operation.summary,
        "operationId": operation.id,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = operation.body {
        value["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": reference(body)}},
        });
    }
    let entry = paths.entry(path).or_insert_with(|| json!({}));
    entry[operation.method] = value;
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn schemas() -> Value {
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "array", "items": {"type": "string"}});
    let parameter = |message: &str| {
        json!({
            "type": "array",
            "items": {"type": "object", "properties": {"field": text(), message: text()}},
        })
    };
    let mut schemas = Map::new();
    let mut add = |name: &str, schema: Value| schemas.insert(name.to_owned(), schema);
    add("Object", json!({"type": "object"}));
    add(
        "KubernetesObject",
        json!({
            "type": "object",
            "required": ["apiVersion", "kind", "metadata"],
            "properties": {
                "apiVersion": text(),
                "kind": text(),
                "metadata": {"type": "object"},
                "mesh": text(),
            },
        }),
    );
    add(
        "List",
        json!({
            "type": "object",
            "required": ["total", "items", "next"],
            "properties": {
                "total": {"type": "integer", "minimum": 0},
                "items": {"type": "array", "items": {"type": "object"}},
                "next": {"type": ["string", "null"]},
            },
        }),
    );
    add("Written", json!({"type": "object", "properties": {"warnings": texts()}}));
    add(
        "Error",
        json!({
            "type": "object",
            "required": ["type", "status", "title", "detail"],
            "properties": {
                "type": {"const": "/std-errors"},
                "status": {"type": "integer"},
                "title": text(),
                "detail": text(),
                "invalid_parameters": parameter("reason"),
                "details": text(),
                "causes": parameter("message"),
            },
        }),
    );
    add(
        "DataplaneTokenRequest",
        json!({
            "type": "object",
            "required": ["mesh"],
            "properties": {
                "name": text(),
                "mesh": text(),
                "tags": {"type": "object", "additionalProperties": texts()},
                "type": {"enum": ["", "dataplane", "ingress", "egress"]},
                "workload": text(),
                "validFor": text(),
            },
        }),
    );
    add(
        "ZoneTokenRequest",
        json!({
            "type": "object",
            "required": ["zone", "scope"],
            "properties": {"zone": text(), "scope": texts(), "validFor": text()},
        }),
    );
    add(
        "UserTokenRequest",
        json!({
            "type": "object",
            "required": ["name", "validFor"],
            "properties": {"name": text(), "groups": texts(), "validFor": text()},
        }),
    );
    for kind in Kind::all().filter(|kind| !kind.row().plural.is_empty()) {
        add(kind.name(), schema_of(kind));
    }
    Value::Object(schemas)
}

/// The schema of a type: its envelope; specs are open.
fn schema_of(kind: Kind) -> Value {
    let row = kind.row();
    let mut properties = json!({
        "type": {"const": row.name},
        "name": {"type": "string", "maxLength": 253},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "creationTime": {"type": "string", "format": "date-time", "readOnly": true},
        "modificationTime": {"type": "string", "format": "date-time", "readOnly": true},
    });
    let mut required = vec!["type", "name"];
    if row.scope == Scope::Mesh {
        properties["mesh"] = json!({"type": "string", "maxLength": 253});
        required.push("mesh");
    }
    if !row.short.is_empty() {
        properties["kri"] = json!({"type": "string", "readOnly": true});
    }
    if let Codec::Json { status } = row.codec {
        properties["spec"] = json!({"type": "object"});
        if status {
            properties["status"] = json!({"type": "object", "readOnly": true});
        }
    }
    json!({"type": "object", "required": required, "properties": properties})
}
