//! The schemas.

use super::{Default, Field, Schema};
use crate::kind::Kind;

/// The schema of a type's spec, if it is interpreted.
pub(super) fn of(kind: Kind) -> Option<&'static Schema> {
    match kind {
        Kind::MESH_CIRCUIT_BREAKER => Some(&MESH_CIRCUIT_BREAKER),
        Kind::MESH_RETRY => Some(&MESH_RETRY),
        Kind::MESH_TIMEOUT => Some(&MESH_TIMEOUT),
        _ => None,
    }
}

const fn field(name: &'static str, schema: &'static Schema) -> Field {
    Field { name, schema, required: false, default: None }
}

const fn required(name: &'static str, schema: &'static Schema) -> Field {
    Field { required: true, ..field(name, schema) }
}

const fn defaulted(name: &'static str, schema: &'static Schema, default: Default) -> Field {
    Field { default: Some(default), ..field(name, schema) }
}

static TEXT: Schema = Schema::Text;
static DURATION: Schema = Schema::Duration;
static BOOL: Schema = Schema::Bool;
static COUNT: Schema = Schema::Whole(0, u32::MAX as i64);
static WHOLE_OR_TEXT: Schema = Schema::WholeOrText;
static TEXTS: Schema = Schema::Texts;
static HEADER_NAME: Schema = Schema::HeaderName;

static TARGET_REF: Schema = Schema::Object(&[
    required(
        "kind",
        &Schema::Choice(&[
            "Mesh",
            "MeshSubset",
            "MeshGateway",
            "MeshService",
            "MeshExternalService",
            "MeshMultiZoneService",
            "MeshServiceSubset",
            "MeshHTTPRoute",
            "Dataplane",
        ]),
    ),
    field("name", &TEXT),
    field("namespace", &TEXT),
    field("mesh", &TEXT),
    field("sectionName", &TEXT),
    field("labels", &TEXTS),
    field("tags", &TEXTS),
    field("proxyTypes", &Schema::List(&Schema::Choice(&["Sidecar", "Gateway"]))),
]);

static MATCHES: Schema = Schema::List(&Schema::Object(&[
    field(
        "spiffeID",
        &Schema::Object(&[
            required("type", &Schema::Choice(&["Exact", "Prefix"])),
            required("value", &TEXT),
        ]),
    ),
    field(
        "sni",
        &Schema::Object(&[required("type", &Schema::Choice(&["Exact"])), required("value", &TEXT)]),
    ),
]));

static MESH_TIMEOUT: Schema = Schema::Object(&[
    field("targetRef", &TARGET_REF),
    field("to", &TIMEOUT_ITEMS),
    field("from", &TIMEOUT_ITEMS),
    field(
        "rules",
        &Schema::List(&Schema::Object(&[field("matches", &MATCHES), field("default", &TIMEOUTS)])),
    ),
]);

static TIMEOUT_ITEMS: Schema = Schema::List(&Schema::Object(&[
    required("targetRef", &TARGET_REF),
    field("default", &TIMEOUTS),
]));

static TIMEOUTS: Schema = Schema::Object(&[
    field("connectionTimeout", &DURATION),
    field("idleTimeout", &DURATION),
    field(
        "http",
        &Schema::Object(&[
            field("requestTimeout", &DURATION),
            field("streamIdleTimeout", &DURATION),
            field("maxStreamDuration", &DURATION),
            field("maxConnectionDuration", &DURATION),
            field("requestHeadersTimeout", &DURATION),
        ]),
    ),
]);

static MESH_RETRY: Schema = Schema::Object(&[
    field("targetRef", &TARGET_REF),
    field(
        "to",
        &Schema::List(&Schema::Object(&[
            required("targetRef", &TARGET_REF),
            field(
                "default",
                &Schema::Object(&[
                    field("tcp", &Schema::Object(&[field("maxConnectAttempt", &COUNT)])),
                    field("http", &RETRY_HTTP),
                    field("grpc", &RETRY_GRPC),
                ]),
            ),
        ])),
    ),
]);

static BACK_OFF: Schema =
    Schema::Object(&[field("baseInterval", &DURATION), field("maxInterval", &DURATION)]);

static RATE_LIMITED_BACK_OFF: Schema = Schema::Object(&[
    field(
        "resetHeaders",
        &Schema::List(&Schema::Object(&[
            required("name", &HEADER_NAME),
            required("format", &Schema::Choice(&["Seconds", "UnixTimestamp"])),
        ])),
    ),
    field("maxInterval", &DURATION),
]);

static HEADER_MATCHES: Schema = Schema::List(&Schema::Object(&[
    defaulted(
        "type",
        &Schema::Choice(&["Exact", "Present", "RegularExpression", "Absent", "Prefix"]),
        Default::Text("Exact"),
    ),
    required("name", &HEADER_NAME),
    field("value", &TEXT),
]));

static RETRY_HTTP: Schema = Schema::Object(&[
    field("numRetries", &COUNT),
    field("perTryTimeout", &DURATION),
    field("backOff", &BACK_OFF),
    field("rateLimitedBackOff", &RATE_LIMITED_BACK_OFF),
    field("retryOn", &Schema::List(&TEXT)),
    field("retriableResponseHeaders", &HEADER_MATCHES),
    field("retriableRequestHeaders", &HEADER_MATCHES),
    field(
        "hostSelection",
        &Schema::List(&Schema::Object(&[
            required(
                "predicate",
                &Schema::Choice(&[
                    "OmitPreviousHosts",
                    "OmitHostsWithTags",
                    "OmitPreviousPriorities",
                ]),
            ),
            field("tags", &TEXTS),
            defaulted(
                "updateFrequency",
                &Schema::Whole(i32::MIN as i64, i32::MAX as i64),
                Default::Whole(2),
            ),
        ])),
    ),
    field("hostSelectionMaxAttempts", &Schema::Whole(i64::MIN, i64::MAX)),
]);

static RETRY_GRPC: Schema = Schema::Object(&[
    field("numRetries", &COUNT),
    field("perTryTimeout", &DURATION),
    field("backOff", &BACK_OFF),
    field("rateLimitedBackOff", &RATE_LIMITED_BACK_OFF),
    field(
        "retryOn",
        &Schema::List(&Schema::Choice(&[
            "Canceled",
            "DeadlineExceeded",
            "Internal",
            "ResourceExhausted",
            "Unavailable",
        ])),
    ),
]);

static MESH_CIRCUIT_BREAKER: Schema = Schema::Object(&[
    field("targetRef", &TARGET_REF),
    field("to", &BREAKER_ITEMS),
    field("from", &BREAKER_ITEMS),
    field("rules", &Schema::List(&Schema::Object(&[field("default", &BREAKER)]))),
]);

static BREAKER_ITEMS: Schema = Schema::List(&Schema::Object(&[
    required("targetRef", &TARGET_REF),
    field("default", &BREAKER),
]));

static CONSECUTIVE: Schema = Schema::Object(&[field("consecutive", &COUNT)]);

static BREAKER: Schema = Schema::Object(&[
    field(
        "connectionLimits",
        &Schema::Object(&[
            field("maxConnections", &COUNT),
            field("maxConnectionPools", &COUNT),
            field("maxPendingRequests", &COUNT),
            field("maxRetries", &COUNT),
            field("maxRequests", &COUNT),
        ]),
    ),
    field(
        "outlierDetection",
        &Schema::Object(&[
            field("disabled", &BOOL),
            field("interval", &DURATION),
            field("baseEjectionTime", &DURATION),
            field("maxEjectionPercent", &COUNT),
            field("splitExternalAndLocalErrors", &BOOL),
            field("healthyPanicThreshold", &WHOLE_OR_TEXT),
            field(
                "detectors",
                &Schema::Object(&[
                    field("totalFailures", &CONSECUTIVE),
                    field("gatewayFailures", &CONSECUTIVE),
                    field("localOriginFailures", &CONSECUTIVE),
                    field(
                        "successRate",
                        &Schema::Object(&[
                            field("minimumHosts", &COUNT),
                            field("requestVolume", &COUNT),
                            field("standardDeviationFactor", &WHOLE_OR_TEXT),
                        ]),
                    ),
                    field(
                        "failurePercentage",
                        &Schema::Object(&[
                            field("minimumHosts", &COUNT),
                            field("requestVolume", &COUNT),
                            field("threshold", &COUNT),
                        ]),
                    ),
                ]),
            ),
        ]),
    ),
]);
