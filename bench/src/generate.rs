//! The generator and the protocol of proxies' streams, without sockets: what a full generation, one
//! changed route, one changed endpoint and many gateways of one service cost.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use prost::Message as _;
use serde_json::{Value, json};
use sunbear_dp_server::ads::{Machine as _, StreamSettings, delta};
use sunbear_model::{Kind, Resource, ResourceKey, rest};
use sunbear_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sunbear_xds::{Fleet, Generated, Generator, Proxy, ResourceType, Settings, View};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{process, stats::Times};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Routes of the gateway.
    #[arg(long, default_value_t = 5000)]
    routes: usize,
    /// Host names that the routes are spread over.
    #[arg(long, default_value_t = 50)]
    hosts: usize,
    /// Services that the routes lead to.
    #[arg(long, default_value_t = 500)]
    services: usize,
    /// Gateways of the same service.
    #[arg(long, default_value_t = 500)]
    gateways: usize,
    /// How often each change is measured.
    #[arg(long, default_value_t = 50)]
    changes: usize,
    /// Full generations.
    #[arg(long, default_value_t = 5)]
    full: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut world = World::of(arguments)?;
    let settings = Settings { zone: "bench".to_owned(), ..Settings::default() };

    let mut full = Vec::new();
    for _ in 0..arguments.full.max(1) {
        let mut generator = Fleet::new(settings.clone()).generator(proxy(0));
        let start = Instant::now();
        let generated = generator.update_all(&world)?;
        full.push(start.elapsed());
        ensure!(generated.issues.is_empty(), "left out: {:?}", generated.issues);
    }
    println!("generate full: {}", Times::new(full));

    let fleet = Fleet::new(settings);
    let mut gateway = Gateway::new(&fleet, 0, &world)?;
    println!("generate first push: {}", gateway.sent);

    let mut times = Vec::new();
    let mut sent = Sent::default();
    for change in 0..arguments.changes {
        let index = change * 7 % arguments.routes;
        let key = world.put(&route(arguments, index, &format!("rev-{change}")))?;
        let (took, pushed) = gateway.update(&world, &[key])?;
        times.push(took);
        sent = pushed;
    }
    println!("generate route change: {}; pushed each: {sent}", Times::new(times));

    let mut times = Vec::new();
    for change in 0..arguments.changes {
        let key = world.put(&route(arguments, arguments.routes + change, "new"))?;
        let (took, pushed) = gateway.update(&world, &[key])?;
        times.push(took);
        sent = pushed;
    }
    println!("generate route added: {}; pushed each: {sent}", Times::new(times));

    let mut times = Vec::new();
    for change in 0..arguments.changes {
        let index = change % arguments.services;
        let key = world.put(&service(index, 2 + change % 200))?;
        let (took, pushed) = gateway.update(&world, &[key])?;
        times.push(took);
        sent = pushed;
    }
    println!("generate endpoint change: {}; pushed each: {sent}", Times::new(times));

    let before = process::resident_mb(std::process::id())?;
    let mut others = Vec::new();
    let start = Instant::now();
    for index in 1..arguments.gateways {
        others.push(Gateway::new(&fleet, index, &world)?);
    }
    let took = start.elapsed();
    let joined = process::resident_mb(std::process::id())?;
    println!(
        "generate {} gateways: {:.1} MB more in {:.0} ms",
        arguments.gateways,
        joined - before,
        took.as_secs_f64() * 1e3
    );
    let key = world.put(&service(0, 199))?;
    let start = Instant::now();
    for gateway in others.iter_mut().chain([&mut gateway]) {
        gateway.update(&world, std::slice::from_ref(&key))?;
    }
    let endpoint = start.elapsed();
    let key = world.put(&route(arguments, 0, "all"))?;
    let start = Instant::now();
    for gateway in others.iter_mut().chain([&mut gateway]) {
        gateway.update(&world, std::slice::from_ref(&key))?;
    }
    println!(
        "generate {} gateways: one endpoint changed for all in {:.1} ms, one route in {:.1} ms; \
         {:.1} MB more",
        arguments.gateways,
        endpoint.as_secs_f64() * 1e3,
        start.elapsed().as_secs_f64() * 1e3,
        process::resident_mb(std::process::id())? - before,
    );
    Ok(())
}

/// A proxy's generator and its stream, whose client accepts everything.
struct Gateway {
    generator: Generator,
    stream: delta::Stream,
    generated: Arc<Generated>,
    sent: Sent,
}

impl Gateway {
    fn new(fleet: &Arc<Fleet>, index: usize, world: &World) -> Result<Self> {
        let mut generator = fleet.generator(proxy(index));
        let generated = generator.update_all(world)?;
        let settings = StreamSettings {
            instance_id: "bench".to_owned(),
            nack_backoff: Duration::from_secs(1),
        };
        let mut stream = delta::Stream::new(settings);
        let now = Instant::now();
        for resource_type in ResourceType::ALL {
            let wildcard = [ResourceType::Cluster, ResourceType::Listener].contains(&resource_type);
            stream.on_request(
                now,
                DeltaDiscoveryRequest {
                    type_url: resource_type.type_url().to_owned(),
                    resource_names_subscribe: generated
                        .resources
                        .names(resource_type)
                        .filter(|_| !wildcard)
                        .map(str::to_owned)
                        .collect(),
                    ..DeltaDiscoveryRequest::default()
                },
            )?;
        }
        let mut gateway =
            Self { generator, stream, generated: Arc::clone(&generated), sent: Sent::default() };
        gateway.stream.set_resources(now, Arc::new(generated.resources.clone()));
        gateway.sent = gateway.drain()?;
        Ok(gateway)
    }

    /// Generates and hands out; the time counts up to the last encoded response.
    fn update(&mut self, world: &World, keys: &[ResourceKey]) -> Result<(Duration, Sent)> {
        let start = Instant::now();
        let generated = self.generator.update(world, keys)?;
        self.stream.set_resources(start, Arc::new(generated.resources.clone()));
        let sent = self.drain()?;
        let took = start.elapsed();
        self.generated = generated;
        Ok((took, sent))
    }

    fn drain(&mut self) -> Result<Sent> {
        let now = Instant::now();
        let mut sent = Sent::default();
        while let Some((resource_type, response)) = self.stream.poll(now) {
            sent.count(resource_type, &response);
            self.stream.on_request(
                now,
                DeltaDiscoveryRequest {
                    type_url: response.type_url.clone(),
                    response_nonce: response.nonce.clone(),
                    ..DeltaDiscoveryRequest::default()
                },
            )?;
        }
        ensure!(self.stream.is_settled(), "the stream has not sent all");
        Ok(sent)
    }
}

/// What went out.
#[derive(Default)]
struct Sent {
    bytes: usize,
    resources: BTreeMap<ResourceType, usize>,
}

impl Sent {
    fn count(&mut self, resource_type: ResourceType, response: &DeltaDiscoveryResponse) {
        self.bytes += response.encode_to_vec().len();
        *self.resources.entry(resource_type).or_default() += response.resources.len();
    }
}

impl std::fmt::Display for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes)?;
        self.resources.iter().try_for_each(|(t, count)| write!(f, ", {count} {t:?}"))
    }
}

/// Resources in memory.
struct World {
    by_kind: BTreeMap<Kind, BTreeMap<ResourceKey, Arc<Resource>>>,
    revision: u64,
}

impl World {
    fn of(arguments: &Arguments) -> Result<Self> {
        let mut world = Self { by_kind: BTreeMap::new(), revision: 0 };
        world.put(&json!({"type": "Mesh", "name": "default"}))?;
        world.put(&json!({
            "type": "MeshGateway", "mesh": "default", "name": "edge",
            "selectors": [{"match": {"kuma.io/service": "edge"}}],
            "conf": {"listeners": [{"port": 8080, "protocol": "HTTP"}]},
        }))?;
        for index in 0..arguments.gateways.max(1) {
            world.put(&json!({
                "type": "Dataplane", "mesh": "default", "name": format!("gateway-{index}"),
                "networking": {
                    "address": format!("10.1.{}.{}", index / 250, index % 250 + 1),
                    "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge"}},
                },
            }))?;
        }
        for index in 0..arguments.services {
            world.put(&service(index, 1))?;
        }
        for index in 0..arguments.routes {
            world.put(&route(arguments, index, "first"))?;
        }
        Ok(world)
    }

    fn put(&mut self, body: &Value) -> Result<ResourceKey> {
        let desired = rest::read(body).with_context(|| body.to_string())?;
        if !desired.unknown.is_empty() {
            bail!("unknown fields {:?}", desired.unknown);
        }
        let key = ResourceKey::new(desired.kind, &desired.mesh, &desired.name);
        self.revision += 1;
        let resource = Resource {
            key: key.clone(),
            uid: Uuid::nil(),
            version: 1,
            revision: self.revision,
            labels: desired.labels,
            spec: desired.spec,
            status: None,
            owner: None,
            created_at: OffsetDateTime::UNIX_EPOCH,
            modified_at: OffsetDateTime::UNIX_EPOCH,
        };
        self.by_kind.entry(key.kind).or_default().insert(key.clone(), Arc::new(resource));
        Ok(key)
    }
}

impl View for World {
    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.by_kind.get(&key.kind)?.get(key).cloned()
    }

    fn list_mesh(&self, kind: Kind, mesh: &str) -> Vec<Arc<Resource>> {
        let all = self.by_kind.get(&kind).into_iter().flat_map(BTreeMap::values);
        all.filter(|r| *r.key.mesh == *mesh).cloned().collect()
    }

    fn list(&self, kind: Kind) -> Vec<Arc<Resource>> {
        self.by_kind.get(&kind).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }
}

fn proxy(index: usize) -> Proxy {
    Proxy { mesh: "default".to_owned(), name: format!("gateway-{index}"), ..Proxy::default() }
}

fn service(index: usize, last: usize) -> Value {
    json!({
        "type": "Dataplane", "mesh": "default", "name": format!("service-{index}"),
        "networking": {
            "address": format!("10.{}.{}.{last}", 2 + index / 250, index % 250),
            "inbound": [{
                "port": 8080,
                "tags": {"kuma.io/service": format!("service-{index}"), "kuma.io/protocol": "http"},
            }],
        },
    })
}

/// A route of one host, with the usual: a path, a header, a backend.
fn route(arguments: &Arguments, index: usize, header: &str) -> Value {
    let host = index % arguments.hosts.max(1);
    let service = index % arguments.services.max(1);
    json!({
        "type": "MeshGatewayRoute", "mesh": "default", "name": format!("route-{index:05}"),
        "selectors": [{"match": {"kuma.io/service": "edge"}}],
        "conf": {"http": {
            "hostnames": [format!("host-{host}.example.com")],
            "rules": [{
                "matches": [{"path": {"match": "PREFIX", "value": format!("/path-{index}")}}],
                "filters": [{"requestHeader": {"set": [{"name": "x-route", "value": header}]}}],
                "backends": [{
                    "weight": 1,
                    "destination": {"kuma.io/service": format!("service-{service}")},
                }],
            }],
        }},
    })
}
