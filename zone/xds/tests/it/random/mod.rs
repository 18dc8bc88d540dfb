//! Resource sets by chance, with everything in them that admission lets through.

mod policies;

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde_json::{Value, json};
use sunbear_model::{ResourceKey, rest, validation};

use crate::{
    certs::{self, Pair},
    world::World,
};

/// Material that takes long to make.
pub(crate) struct Material {
    rsa: Pair,
    ecdsa: Pair,
    old: Pair,
    other: Pair,
}

impl Material {
    pub(crate) fn new() -> Self {
        let ecdsa = certs::ecdsa("a.x");
        let old = Pair { key: certs::old_format(&ecdsa.key), ..ecdsa.clone() };
        Self { rsa: certs::rsa(), ecdsa, old, other: certs::ed25519("a.x") }
    }
}

/// A set that only a seed decides on.
pub(crate) fn world(seed: u64, material: &Material) -> World {
    let mut random = Random { rng: SmallRng::seed_from_u64(seed), material };
    let mut world = World::default();
    for document in random.documents() {
        let desired = read(&document);
        let key = ResourceKey::new(desired.kind, &desired.mesh, &desired.name);
        if world.0.iter().all(|r| r.key != key) {
            world.add(&document);
        }
    }
    world
}

fn read(document: &Value) -> rest::Desired {
    rest::read(document).unwrap_or_else(|error| panic!("{error}: {document}"))
}

/// Does admission take it?
fn is_admitted(document: &Value) -> bool {
    let desired = read(document);
    let (mesh, name) = (&desired.mesh, &desired.name);
    validation::validate_spec(desired.kind, mesh, name, &desired.spec).is_empty()
}

struct Random<'m> {
    rng: SmallRng,
    material: &'m Material,
}

const SERVICES: [&str; 5] = ["echo", "web", "other", "kuma.io/unresolved-backend", "a_b.c:d"];
const HOSTS: [&str; 9] = ["*", "a.x", "b.x", "*.x", "c.b.x", "*.b.x", "x", "*.y", "a-b.y"];

impl Random<'_> {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices.choose(&mut self.rng).unwrap().clone()
    }

    fn count(&mut self, most: usize) -> usize {
        self.rng.random_range(0..=most)
    }

    fn maybe(&mut self, object: &mut Value, key: &str, make: impl FnOnce(&mut Self) -> Value) {
        if self.chance(50) {
            object[key] = make(self);
        }
    }

    fn list(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> Value) -> Value {
        let count = self.count(most);
        (0..count).map(|_| make(self)).collect()
    }

    fn text(&mut self) -> String {
        self.pick(&[
            "a",
            "",
            "x-y",
            "a b",
            "100%",
            "%%",
            "%REQ(a)%",
            "%NOPE%",
            "%START_TIME(%s)%",
            "é",
            "a\nb",
            "a\u{0}b",
            "\\1",
            "Host",
            ":path",
            ":authority",
            "/",
            "a_b",
            "\"",
            "{}",
            "$",
            "a%REQ(:x?y):5%",
        ])
        .to_owned()
    }

    fn duration(&mut self) -> Value {
        json!(self.pick(&[
            "0s", "1s", "5ms", "1ns", "49ms", "-5s", "3600s", "87600h", "1h30m", "2562047h"
        ]))
    }

    fn number(&mut self) -> Value {
        json!(self.pick(&[0u32, 1, 2, 5, 99, 100, 101, 503, 1024, 65535, u32::MAX]))
    }

    fn percent(&mut self) -> Value {
        json!(self.pick(&[0.0, 0.001, 0.5, 1.0, 33.333_333, 99.9, 100.0]))
    }

    /// A document that admission takes; a few tries may be needed.
    fn admitted(&mut self, make: impl Fn(&mut Self) -> Value) -> Value {
        loop {
            let document = make(self);
            if is_admitted(&document) {
                return document;
            }
        }
    }

    fn documents(&mut self) -> Vec<Value> {
        let mut documents = vec![self.admitted(Self::mesh), self.gateway_dataplane()];
        for name in ["one", "two", "bad", "odd", "ca"] {
            if self.chance(80) {
                let text = match name {
                    "one" => self.material.rsa.text(),
                    "two" => self.material.ecdsa.text(),
                    "ca" => self.material.ecdsa.certificate.clone(),
                    "odd" => self.material.other.text(),
                    _ => self
                        .pick(&[
                            "",
                            "nonsense",
                            "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n",
                        ])
                        .to_owned(),
                };
                documents.push(certs::secret(name, &text));
            }
        }
        for index in 0..self.count(4) {
            documents.push(self.admitted(|this| this.dataplane(index)));
        }
        for index in 0..self.count(3) {
            documents.push(self.admitted(|this| this.external_service(index)));
        }
        for index in 0..self.count(2) {
            documents.push(self.admitted(|this| this.zone_proxy(index)));
        }
        documents.push(self.admitted(Self::gateway));
        for index in 0..self.count(6) {
            documents.push(self.admitted(|this| this.route(index)));
        }
        for index in 0..self.count(6) {
            documents.push(self.admitted(|this| this.connection_policy(index)));
        }
        for index in 0..self.count(3) {
            documents.push(self.admitted(|this| this.newer_policy(index)));
        }
        if self.chance(40) {
            documents.push(json!({
                "type": "TrafficTrace", "mesh": "default", "name": "t",
                "selectors": [{"match": {"kuma.io/service": "*"}}],
            }));
        }
        if self.chance(15) {
            documents.push(self.admitted(Self::template));
        }
        documents
    }

    fn mesh(&mut self) -> Value {
        let mut mesh = json!({"type": "Mesh", "name": "default"});
        let mtls = self.chance(50);
        if mtls {
            mesh["mtls"] = crate::build::mtls();
        }
        let egress = mtls && self.chance(40);
        mesh["routing"] =
            json!({"zoneEgress": egress, "localityAwareLoadBalancing": self.chance(50)});
        if self.chance(40) {
            let mut backend = json!({"name": "b", "sampling": self.percent()});
            if self.chance(50) {
                backend["type"] = json!("zipkin");
                let url = self.pick(&[
                    "http://zipkin:9411/api/v2/spans",
                    "https://1.2.3.4:443",
                    "http://[::1]:80/a?b",
                    "http://a:99999/x",
                ]);
                backend["conf"] = json!({"url": url, "sharedSpanContext": self.chance(50)});
            } else {
                backend["type"] = json!("datadog");
                backend["conf"] =
                    json!({"address": self.pick(&["dd", "1.2.3.4"]), "port": self.number()});
            }
            mesh["tracing"] = json!({"defaultBackend": "b", "backends": [backend]});
        }
        if self.chance(40) {
            let mut backend = json!({"name": "l", "format": self.text(), "type": "file"});
            backend["conf"] = json!({"path": "/dev/null"});
            if self.chance(30) {
                backend["type"] = json!("tcp");
                backend["conf"] = json!({"address": "logs:5000"});
            }
            mesh["logging"] = json!({"defaultBackend": "l", "backends": [backend]});
        }
        mesh
    }

    fn gateway_dataplane(&mut self) -> Value {
        let address =
            self.pick(&["10.0.0.1", "10.0.0.1", "10.0.0.1", "fd00::1", "gateway.internal"]);
        json!({
            "type": "Dataplane", "mesh": "default", "name": "gw",
            "networking": {
                "address": address,
                "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge", "kuma.io/zone": "east"}},
            },
        })
    }

    fn dataplane(&mut self, index: usize) -> Value {
        let inbound = |this: &mut Self| {
            let mut tags = json!({"kuma.io/service": this.pick(&["echo", "other", "web"])});
            this.maybe(&mut tags, "kuma.io/protocol", |t| {
                json!(t.pick(&["http", "http2", "grpc", "tcp", "kafka"]))
            });
            this.maybe(&mut tags, "kuma.io/zone", |t| json!(t.pick(&["east", "west"])));
            this.maybe(&mut tags, "version", |t| json!(t.pick(&["1", "2"])));
            json!({"port": this.rng.random_range(1..65536), "tags": tags})
        };
        let address = self.pick(&["10.0.1.1", "fd00::2", "host.internal"]);
        json!({
            "type": "Dataplane", "mesh": "default", "name": format!("dp-{index}"),
            "networking": {"address": address, "inbound": self.list(2, inbound)},
        })
    }

    fn external_service(&mut self, index: usize) -> Value {
        let mut tags = json!({"kuma.io/service": self.pick(&["web", "echo", "far"])});
        self.maybe(&mut tags, "kuma.io/protocol", |t| json!(t.pick(&["http", "http2", "tcp"])));
        self.maybe(&mut tags, "kuma.io/zone", |t| json!(t.pick(&["east", "west"])));
        let address = self.pick(&["example.com:443", "1.2.3.4:80", "[::1]:8080", "a_b.c:1"]);
        let source = |this: &mut Self| {
            let inline = this.pick(&[
                this.material.ecdsa.certificate.clone(),
                "x".to_owned(),
                this.material.rsa.certificate.clone(),
            ]);
            this.pick(&[
                json!({"secret": "ca"}),
                json!({"secret": "bad"}),
                json!({"inlineString": inline}),
            ])
        };
        let mut tls = json!({"enabled": self.chance(60)});
        self.maybe(&mut tls, "caCert", source);
        if self.chance(40) {
            tls["clientCert"] = json!({"inlineString": self.material.rsa.certificate});
            let key = self.pick(&[self.material.rsa.key.clone(), self.material.ecdsa.key.clone()]);
            tls["clientKey"] = json!({"inlineString": key});
        }
        self.maybe(&mut tls, "serverName", |t| json!(t.pick(&["x.y", "1.2.3.4"])));
        self.maybe(&mut tls, "allowRenegotiation", |_| json!(true));
        json!({
            "type": "ExternalService", "mesh": "default", "name": format!("es-{index}"),
            "tags": tags, "networking": {"address": address, "tls": tls},
        })
    }

    fn zone_proxy(&mut self, index: usize) -> Value {
        let address = self.pick(&["10.0.2.1", "proxy.internal"]);
        if self.chance(50) {
            return json!({
                "type": "ZoneEgress", "name": format!("e-{index}"), "zone": "east",
                "networking": {"address": address, "port": 10002},
            });
        }
        let services = |this: &mut Self| {
            json!({
                "tags": {"kuma.io/service": this.pick(&["echo", "web", "far"]), "kuma.io/zone": "west"},
                "instances": this.number(), "mesh": "default", "externalService": this.chance(30),
            })
        };
        json!({
            "type": "ZoneIngress", "name": format!("i-{index}"), "zone": "west",
            "networking": {"address": address, "port": 10001, "advertisedAddress": address, "advertisedPort": 10001},
            "availableServices": self.list(3, services),
        })
    }

    fn gateway(&mut self) -> Value {
        let mut listeners = Vec::new();
        for _ in 0..=self.count(8) {
            let port = self.pick(&[8080, 8081, 8443, 9443]);
            let mut listener =
                json!({"port": port, "protocol": self.pick(&["HTTP", "HTTPS", "TCP", "TLS"])});
            // Listeners of one port have to agree.
            if let Some(other) = listeners.iter().find(|l: &&Value| l["port"] == port) {
                listener["protocol"] = other["protocol"].clone();
            }
            listener["hostname"] = json!(self.pick(&HOSTS));
            self.maybe(&mut listener, "tags", |t| json!({"t": t.pick(&["1", "2"])}));
            if listener["protocol"] == "HTTP" || listener["protocol"] == "TCP" {
                listener["crossMesh"] = json!(self.chance(10));
            } else {
                let certificate = |this: &mut Self| {
                    let inline = this.pick(&[
                        this.material.rsa.text(),
                        this.material.ecdsa.text(),
                        this.material.old.text(),
                        this.material.other.text(),
                    ]);
                    let secret =
                        this.pick(&["one", "one", "two", "two", "two", "bad", "odd", "none"]);
                    this.pick(&[
                        json!({"secret": secret}),
                        json!({"secret": secret}),
                        json!({"inlineString": inline}),
                    ])
                };
                let tls = listener["protocol"] == "TLS";
                let mode = if tls && self.chance(50) { "PASSTHROUGH" } else { "TERMINATE" };
                let certificates = json!([certificate(self), certificate(self)]);
                let count = 1 + self.count(1);
                listener["tls"] = json!({"mode": mode, "certificates": certificates.as_array().unwrap()[..count]});
            }
            if self.chance(20) {
                listener["resources"] = json!({"connectionLimit": 7});
            }
            let same = |l: &Value| l["port"] == port && l["hostname"] == listener["hostname"];
            if !listeners.iter().any(same) {
                listeners.push(listener);
            }
        }
        crate::build::gateway(&json!(listeners))
    }

    fn destination(&mut self) -> Value {
        let mut tags = json!({"kuma.io/service": self.pick(&SERVICES)});
        if self.chance(30) {
            tags["kuma.io/protocol"] =
                json!(self.pick(&["http", "http2", "grpc", "tcp", "nonsense"]));
        }
        if self.chance(15) {
            tags["version"] = json!(self.pick(&["1", "*"]));
        }
        if self.chance(3) {
            tags["long"] = json!("x".repeat(300));
        }
        tags
    }

    fn backend(&mut self) -> Value {
        let mut backend = json!({"destination": self.destination()});
        self.maybe(&mut backend, "weight", Self::number);
        backend
    }

    fn route(&mut self, index: usize) -> Value {
        let conf = if self.chance(25) {
            let backends = json!({"backends": self.list(3, Self::backend)});
            json!({"tcp": {"rules": [backends]}})
        } else {
            let hostname = |this: &mut Self| {
                let odd = this.text();
                json!(if this.chance(85) { this.pick(&HOSTS).to_owned() } else { odd })
            };
            json!({"http": {"hostnames": self.list(2, hostname), "rules": self.list(4, Self::rule)}})
        };
        let mut selector = json!({"kuma.io/service": self.pick(&["edge", "*"])});
        if self.chance(20) {
            selector["t"] = json!(self.pick(&["1", "*"]));
        }
        json!({
            "type": "MeshGatewayRoute", "mesh": "default", "name": format!("r-{index}"),
            "selectors": [{"match": selector}], "conf": conf,
        })
    }

    fn rule(&mut self) -> Value {
        let filters = self.list(3, Self::filter);
        let backends = json!([self.backend(), self.backend()]);
        let matches = json!([self.matching(), self.matching()]);
        let redirect = filters.as_array().unwrap().iter().any(|f| f.get("redirect").is_some());
        if redirect {
            let only: Vec<Value> = filters
                .as_array()
                .unwrap()
                .iter()
                .filter(|f| f.get("redirect").is_some())
                .take(1)
                .cloned()
                .collect();
            return json!({"matches": matches, "filters": only});
        }
        json!({"matches": matches, "filters": filters, "backends": backends})
    }

    fn matching(&mut self) -> Value {
        let kind = self.pick(&["EXACT", "PREFIX", "PREFIX", "REGEX"]);
        let path = if kind == "REGEX" {
            self.pick(&[
                "/a.*",
                "/a(",
                "[z-a]",
                "/{id}",
                "a**",
                "(?P<x>a)",
                "/\\d+",
                "\\Qa",
                ".",
                "(a{900}){900}",
            ])
        } else {
            self.pick(&["/", "/a", "/a/", "/a/b", "//", "/é", "/%41", "/a?b", "/\u{0}"])
        };
        let mut matching = json!({"path": {"match": kind, "value": path}});
        self.maybe(&mut matching, "method", |t| json!(t.pick(&["GET", "CONNECT", "POST"])));
        let header = |this: &mut Self| {
            let kind = this.pick(&["EXACT", "REGEX", "ABSENT", "PRESENT"]);
            let mut header = json!({"match": kind, "name": this.text()});
            if kind == "EXACT" || kind == "REGEX" {
                header["value"] = json!(this.pick(&["a", "b.*", "(", "\n", "é"]));
            }
            header
        };
        matching["headers"] = self.list(2, header);
        let query = |this: &mut Self| json!({"match": this.pick(&["EXACT", "REGEX"]), "name": this.text(), "value": this.pick(&["a", "b.*", "[", "\n"])});
        matching["queryParameters"] = self.list(2, query);
        matching
    }

    fn headers(&mut self) -> Value {
        let header = |this: &mut Self| json!({"name": this.text(), "value": this.text()});
        let removed = |this: &mut Self| json!(this.text());
        json!({"set": self.list(2, header), "add": self.list(2, header), "remove": self.list(2, removed)})
    }

    fn filter(&mut self) -> Value {
        let path = |this: &mut Self| {
            let text = this.pick(&["/", "/x", "", "/\\1", "/\\0", "x", "/a\nb", "//"]);
            json!({this.pick(&["replaceFull", "replacePrefixMatch"]): text})
        };
        match self.rng.random_range(0..6) {
            0 => json!({"requestHeader": self.headers()}),
            1 => json!({"responseHeader": self.headers()}),
            2 => json!({"mirror": {"percentage": self.percent(), "backend": self.backend()}}),
            3 => {
                let mut redirect = json!({"statusCode": self.rng.random_range(300..309)});
                self.maybe(&mut redirect, "scheme", |t| json!(t.text()));
                self.maybe(&mut redirect, "hostname", |t| json!(t.text()));
                self.maybe(&mut redirect, "port", |t| json!(t.rng.random_range(1..65536)));
                self.maybe(&mut redirect, "path", path);
                json!({ "redirect": redirect })
            }
            4 => json!({ "rewrite": path(self) }),
            _ => json!({"rewrite": {"hostToBackendHostname": true}}),
        }
    }

    fn template(&mut self) -> Value {
        let modifications = [
            json!({"cluster": {"operation": "patch", "match": {"origin": "gateway"}, "value": "connectTimeout: 9s"}}),
            json!({"cluster": {"operation": "add", "value": "name: mine\nconnectTimeout: 1s\ntype: EDS\nedsClusterConfig: {edsConfig: {ads: {}, resourceApiVersion: V3}}"}}),
            json!({"cluster": {"operation": "remove", "match": {"origin": "gateway"}}}),
            json!({"listener": {"operation": "patch", "value": "tcpBacklogSize: 7"}}),
            json!({"httpFilter": {"operation": "addLast", "value":
                "name: lua\ntypedConfig:\n  '@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua\n  \
                 defaultSourceCode: {inlineString: 'function envoy_on_request(h) end'}"}}),
            json!({"httpFilter": {"operation": "remove", "match": {"name": "gzip-compress"}}}),
            json!({"networkFilter": {"operation": "patch", "match": {"name": "envoy.filters.network.tcp_proxy"}, "value":
                "typedConfig:\n  '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n  idleTimeout: 7s"}}),
            json!({"virtualHost": {"operation": "patch", "value": "requestHeadersToAdd: [{header: {key: a, value: b}}]"}}),
        ];
        json!({
            "type": "ProxyTemplate", "mesh": "default", "name": "t",
            "selectors": [{"match": {"kuma.io/service": "edge"}}],
            "conf": {"imports": ["gateway-proxy"], "modifications": self.list(3, |t| t.pick(&modifications))},
        })
    }
}
