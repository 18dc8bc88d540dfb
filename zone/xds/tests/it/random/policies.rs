//! Policies by chance.

use serde_json::{Value, json};

use super::Random;

impl Random<'_> {
    pub(super) fn connection_policy(&mut self, index: usize) -> Value {
        let kind = self.pick(&[
            "CircuitBreaker",
            "FaultInjection",
            "HealthCheck",
            "RateLimit",
            "Retry",
            "Timeout",
            "TrafficLog",
            "TrafficPermission",
        ]);
        let mut destination = json!({"kuma.io/service": self.pick(&["*", "echo", "web"])});
        if kind == "FaultInjection" {
            destination["kuma.io/protocol"] = json!("http");
        }
        let mut policy = json!({
            "type": kind, "mesh": "default", "name": format!("p-{index}"),
            "sources": [{"match": {"kuma.io/service": self.pick(&["*", "edge"])}}],
            "destinations": [{"match": destination}],
        });
        if kind == "TrafficLog" {
            policy["destinations"][0]["match"]["kuma.io/service"] = json!("*");
        }
        if kind != "TrafficPermission" {
            policy["conf"] = self.conf(kind);
        }
        policy
    }

    fn conf(&mut self, kind: &str) -> Value {
        let mut conf = json!({});
        match kind {
            "CircuitBreaker" => {
                for key in ["interval", "baseEjectionTime"] {
                    self.maybe(&mut conf, key, Self::duration);
                }
                self.maybe(&mut conf, "maxEjectionPercent", Self::number);
                let consecutive = |this: &mut Self| json!({"consecutive": this.number()});
                let mut detectors = json!({});
                for key in ["totalErrors", "gatewayErrors", "localErrors"] {
                    self.maybe(&mut detectors, key, consecutive);
                }
                self.maybe(
                    &mut detectors,
                    "standardDeviation",
                    |t| json!({"factor": t.percent(), "minimumHosts": t.number()}),
                );
                self.maybe(
                    &mut detectors,
                    "failure",
                    |t| json!({"threshold": t.number(), "requestVolume": t.number()}),
                );
                conf["detectors"] = detectors;
                let mut limits = json!({"maxRetries": 1});
                for key in ["maxConnections", "maxPendingRequests", "maxRequests"] {
                    self.maybe(&mut limits, key, Self::number);
                }
                conf["thresholds"] = limits;
            }
            "FaultInjection" => {
                self.maybe(
                    &mut conf,
                    "delay",
                    |t| json!({"percentage": t.percent(), "value": t.duration()}),
                );
                self.maybe(&mut conf, "abort", |t| json!({"percentage": t.percent(), "httpStatus": t.pick(&[100, 204, 500, 503])}));
                let limit = |t: &mut Self| t.pick(&["0 kbps", "5kbps", "7 mbps", "x gbps"]);
                self.maybe(
                    &mut conf,
                    "responseBandwidth",
                    |t| json!({"percentage": t.percent(), "limit": limit(t)}),
                );
            }
            "HealthCheck" => {
                conf = json!({
                    "interval": self.duration(), "timeout": self.duration(),
                    "unhealthyThreshold": self.number(), "healthyThreshold": self.number(),
                });
                for key in ["initialJitter", "intervalJitter", "noTrafficInterval"] {
                    self.maybe(&mut conf, key, Self::duration);
                }
                self.maybe(&mut conf, "intervalJitterPercent", Self::number);
                self.maybe(&mut conf, "healthyPanicThreshold", Self::percent);
                self.maybe(&mut conf, "failTrafficOnPanic", |_| json!(true));
                if self.chance(50) {
                    let header = |t: &mut Self| json!({"header": {"key": t.text(), "value": t.text()}, "append": t.chance(50)});
                    conf["http"] = json!({
                        "path": self.text(), "expectedStatuses": self.list(2, |t| json!(t.pick(&[100, 200, 599]))),
                        "requestHeadersToAdd": self.list(2, header),
                    });
                } else {
                    conf["tcp"] = json!({"send": "Zm9v", "receive": ["YmFy", ""]});
                }
            }
            "RateLimit" => {
                let header = |t: &mut Self| json!({"key": t.text(), "value": t.text(), "append": t.chance(50)});
                let headers = self.list(2, header);
                conf["http"] = json!({
                    "requests": self.number(), "interval": self.duration(),
                    "onRateLimit": {"status": self.number(), "headers": headers},
                });
            }
            "Retry" => {
                let mut http = json!({"numRetries": self.number()});
                self.maybe(&mut http, "perTryTimeout", Self::duration);
                self.maybe(
                    &mut http,
                    "backOff",
                    |t| json!({"baseInterval": t.duration(), "maxInterval": t.duration()}),
                );
                http["retriableStatusCodes"] = self.list(2, |t| json!(t.pick(&[429, 503, 0, 999])));
                http["retryOn"] = self
                    .list(2, |t| json!(t.pick(&["all_5xx", "reset", "retriable_status_codes"])));
                conf["http"] = http;
                self.maybe(&mut conf, "tcp", |t| json!({"maxConnectAttempts": t.number()}));
            }
            "Timeout" => {
                self.maybe(&mut conf, "connectTimeout", Self::duration);
                let mut http = json!({"requestTimeout": self.duration()});
                for key in ["idleTimeout", "streamIdleTimeout", "maxStreamDuration"] {
                    self.maybe(&mut http, key, Self::duration);
                }
                conf["http"] = http;
                self.maybe(&mut conf, "grpc", |t| json!({"maxStreamDuration": t.duration()}));
            }
            _ => {}
        }
        conf
    }

    pub(super) fn newer_policy(&mut self, index: usize) -> Value {
        let kind = self.pick(&["MeshTimeout", "MeshRetry", "MeshCircuitBreaker"]);
        let mut conf = json!({});
        match kind {
            "MeshTimeout" => {
                for key in ["connectionTimeout", "idleTimeout"] {
                    self.maybe(&mut conf, key, Self::duration);
                }
                let mut http = json!({});
                for key in [
                    "requestTimeout",
                    "streamIdleTimeout",
                    "maxStreamDuration",
                    "maxConnectionDuration",
                    "requestHeadersTimeout",
                ] {
                    self.maybe(&mut http, key, Self::duration);
                }
                conf["http"] = http;
            }
            "MeshRetry" => {
                conf["tcp"] = json!({"maxConnectAttempt": self.number()});
                let mut http = json!({"numRetries": self.number()});
                self.maybe(&mut http, "perTryTimeout", Self::duration);
                self.maybe(
                    &mut http,
                    "backOff",
                    |t| json!({"baseInterval": t.duration(), "maxInterval": t.duration()}),
                );
                http["retryOn"] = self.list(3, |t| {
                    json!(t.pick(&["5xx", "429", "9", "HttpMethodGet", "Reset", "nonsense"]))
                });
                let reset = |t: &mut Self| json!({"name": t.text(), "format": "Seconds"});
                self.maybe(
                    &mut http,
                    "rateLimitedBackOff",
                    |t| json!({"maxInterval": t.duration(), "resetHeaders": t.list(2, reset)}),
                );
                let header = |t: &mut Self| json!({"type": t.pick(&["Exact", "Prefix", "Present", "RegularExpression"]), "name": t.text(), "value": t.text()});
                http["retriableResponseHeaders"] = self.list(2, header);
                conf["http"] = http;
            }
            _ => {
                let mut limits = json!({});
                for key in [
                    "maxConnections",
                    "maxConnectionPools",
                    "maxPendingRequests",
                    "maxRequests",
                    "maxRetries",
                ] {
                    self.maybe(&mut limits, key, Self::number);
                }
                conf["connectionLimits"] = limits;
                let mut outliers =
                    json!({"detectors": {"totalFailures": {"consecutive": self.number()}}});
                for key in ["interval", "baseEjectionTime"] {
                    self.maybe(&mut outliers, key, Self::duration);
                }
                for key in ["maxEjectionPercent", "healthyPanicThreshold"] {
                    self.maybe(&mut outliers, key, Self::number);
                }
                self.maybe(&mut conf, "outlierDetection", |_| outliers);
            }
        }
        let target =
            self.pick(&[json!({"kind": "Mesh"}), json!({"kind": "MeshGateway", "name": "edge"})]);
        let item = json!([{"targetRef": {"kind": "Mesh"}, "default": conf}]);
        let mut spec = json!({"targetRef": target, "to": item});
        if kind == "MeshTimeout" && self.chance(50) {
            spec["from"] = item;
        }
        json!({"type": kind, "mesh": "default", "name": format!("n-{index}"), "spec": spec})
    }
}
