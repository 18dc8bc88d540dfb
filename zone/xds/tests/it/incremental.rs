//! A generator that remembers gives what one gives that does not.

use std::sync::Arc;

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde_json::{Value, json};
use sunbear_model::{Kind, Resource, ResourceKey};
use sunbear_xds::{
    Fleet, GenerateError, Generated, Generator, Proxy, ResourceType, View, generate_after,
};

use crate::{
    build::{gateway, gw, mtls, route, settings, tcp_route, to, to_echo, with_mesh, world},
    random::{self, Material},
    world::World,
};

fn generator() -> Generator {
    Fleet::new(settings()).generator(gw())
}

fn same(
    got: &Result<Arc<Generated>, GenerateError>,
    want: &Result<Generated, GenerateError>,
) -> bool {
    match (got, want) {
        (Ok(got), Ok(want)) => **got == *want,
        (Err(got), Err(want)) => got == want,
        _ => false,
    }
}

/// What is not the same.
fn differences(
    got: &Result<Arc<Generated>, GenerateError>,
    want: &Result<Generated, GenerateError>,
) -> String {
    let (Ok(got), Ok(want)) = (got, want) else { return format!("{got:?} {want:?}") };
    let mut all = Vec::new();
    for resource_type in ResourceType::ALL {
        let diff = got.resources.diff(&want.resources, resource_type);
        all.extend(diff.changed.iter().map(|r| format!("{resource_type:?} {}", r.name)));
        all.extend(diff.removed.iter().map(|name| format!("no {resource_type:?} {name}")));
    }
    all.extend(got.issues.iter().filter(|i| !want.issues.contains(i)).map(|i| format!("got {i}")));
    all.extend(want.issues.iter().filter(|i| !got.issues.contains(i)).map(|i| format!("want {i}")));
    if got.secrets != want.secrets || got.depends_on != want.depends_on {
        all.push(format!("{:?} {:?}", got.secrets, got.depends_on));
        all.push(format!("{:?} {:?}", want.secrets, want.depends_on));
    }
    all.join("\n")
}

/// The resources of several random sets, to put in and take out.
fn pool(seed: u64, material: &Material) -> Vec<Arc<Resource>> {
    let all = (0..4).flat_map(|i| random::world(seed * 4 + i, material).0);
    all.collect()
}

/// Sequences in the random tests, unless `SUNBEAR_PROPERTY_SEQUENCES` says so.
fn sequences() -> ProptestConfig {
    let count = std::env::var("SUNBEAR_PROPERTY_SEQUENCES").map_or(32, |n| n.parse().unwrap());
    ProptestConfig { cases: count, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(sequences())]

    /// Any sequence of changes gives what a generation from nothing gives after each of them.
    #[test]
    fn any_sequence_of_changes(seed in any::<u64>()) {
        let material = Material::new();
        let mut rng = SmallRng::seed_from_u64(seed);
        let pool = pool(seed % 1_000_000, &material);
        let mut world = random::world(seed % 1_000_000, &material);
        let mut generator = generator();
        let mut got = generator.update_all(&world);
        let mut want = generate_after(&world, &settings(), &gw(), None);
        prop_assert!(same(&got, &want));
        for _ in 0..20 {
            let mut changed = Vec::new();
            for _ in 0..rng.random_range(1..4) {
                changed.push(change(&mut world, &pool, &mut rng));
            }
            got = generator.update(&world, &changed);
            // Without a result there is nothing to fall back on but what was there before.
            let previous = want.clone().ok();
            let oracle = generate_after(&world, &settings(), &gw(), previous.as_ref());
            prop_assert!(same(&got, &oracle), "after {changed:?}: {}", differences(&got, &oracle));
            if oracle.is_ok() {
                want = oracle;
            }
        }
    }

    /// Proxies of one fleet do not disturb each other, whatever each of them has seen.
    #[test]
    fn many_proxies(seed in any::<u64>()) {
        let material = Material::new();
        let mut rng = SmallRng::seed_from_u64(seed);
        let pool = pool(seed % 1_000_000, &material);
        let mut world = random::world(seed % 1_000_000, &material);
        world.0.retain(|r| r.key.kind != Kind::DATAPLANE || &*r.key.name != "gw");
        for index in 0..4u32 {
            let service = if index == 3 { "other-edge" } else { "edge" };
            world.add(&json!({
                "type": "Dataplane", "mesh": "default", "name": format!("gw-{index}"),
                "networking": {
                    "address": format!("10.0.0.{index}"),
                    "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": service}},
                },
            }));
        }
        let fleet = Fleet::new(settings());
        let proxy = |index: u32| Proxy { name: format!("gw-{index}"), ..gw() };
        let mut generators: Vec<Generator> = (0..4).map(|i| fleet.generator(proxy(i))).collect();
        let mut missed: Vec<Vec<ResourceKey>> = vec![Vec::new(); 4];
        for generator in &mut generators {
            let _ = generator.update_all(&world);
        }
        for _ in 0..12 {
            let key = change(&mut world, &pool, &mut rng);
            missed.iter_mut().for_each(|keys| keys.push(key.clone()));
            for index in 0..4usize {
                if rng.random_range(0..100) < 60 {
                    let got = generators[index].update(&world, &missed[index]);
                    missed[index].clear();
                    // What is kept of the past is the gateway's, so it is left out of this.
                    let fresh = Fleet::new(settings()).generator(proxy(index as u32)).update_all(&world);
                    if let (Ok(got), Ok(fresh)) = (&got, &fresh)
                        && got.issues == fresh.issues
                    {
                        prop_assert_eq!(&got.resources, &fresh.resources);
                    }
                }
            }
        }
    }
}

/// Puts a resource in, takes one out or exchanges one.
fn change(world: &mut World, pool: &[Arc<Resource>], rng: &mut SmallRng) -> ResourceKey {
    // Most changes are of routes and endpoints, as in life.
    let often = [Kind::DATAPLANE, Kind::MESH_GATEWAY_ROUTE, Kind::SECRET];
    let wanted = rng.random_range(0..100) < 75;
    let usual = |r: &&Arc<Resource>| !wanted || often.contains(&r.key.kind);
    let candidates: Vec<&Arc<Resource>> = pool.iter().filter(usual).collect();
    let Some(resource) = candidates.choose(rng) else { return pool[0].key.clone() };
    let key = resource.key.clone();
    world.0.retain(|r| r.key != key);
    if rng.random_range(0..100) < 70 {
        // A copy, as if it had been written again.
        world.0.push(Arc::new((***resource).clone()));
    }
    key
}

fn rich() -> World {
    let mut world = world();
    with_mesh(&mut world, &json!({"mtls": mtls()}));
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP", "hostname": "a.x"},
        {"port": 8080, "protocol": "HTTP", "hostname": "b.x"},
        {"port": 8081, "protocol": "HTTP", "tags": {"port": "other"}},
        {"port": 9090, "protocol": "TCP", "tags": {"port": "tcp"}},
    ])));
    for (name, host) in [("ra", "a.x"), ("rb", "b.x")] {
        let mut body = route(name, &json!([to_echo("/"), to("/web", "web")]));
        body["conf"]["http"]["hostnames"] = json!([host]);
        world.add(&body);
    }
    world.add(&tcp_route("t", &["echo"]));
    world
}

fn echo(name: &str, address: &str) -> Value {
    json!({
        "type": "Dataplane", "mesh": "default", "name": name,
        "networking": {
            "address": address,
            "inbound": [{"port": 80, "tags": {"kuma.io/service": "echo", "kuma.io/protocol": "http"}}],
        },
    })
}

fn key(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey::new(kind, "default", name)
}

#[test]
fn an_endpoint_makes_load_assignments_and_nothing_else() {
    let mut world = rich();
    let mut generator = generator();
    let before = generator.update_all(&world).unwrap();
    world.add(&echo("echo-2", "10.0.0.3"));
    let after = generator.update(&world, &[key(Kind::DATAPLANE, "echo-2")]).unwrap();
    for resource_type in ResourceType::ALL {
        let diff = after.resources.diff(&before.resources, resource_type);
        let changed = if resource_type == ResourceType::Endpoint { 3 } else { 0 };
        assert_eq!((diff.changed.len(), diff.removed.len()), (changed, 0), "{resource_type:?}");
        // Not merely equal.
        for old in before.resources.iter(resource_type) {
            let new = after.resources.get(resource_type, &old.name).unwrap();
            assert_eq!(Arc::ptr_eq(old, new), old.version == new.version, "{}", old.name);
        }
    }
    // A change of nothing is nothing.
    let again = generator.update(&world, &[key(Kind::DATAPLANE, "echo-2")]).unwrap();
    assert!(Arc::ptr_eq(&again, &after));
}

#[test]
fn a_route_touches_its_own_configuration() {
    let mut world = rich();
    let mut generator = generator();
    let before = generator.update_all(&world).unwrap();
    let mut body = route("ra", &json!([to_echo("/new")]));
    body["selectors"][0]["match"]["port"] = json!("other");
    body["conf"]["http"]["hostnames"] = json!(["a.x"]);
    world.0.retain(|r| &*r.key.name != "ra");
    world.add(&body);
    let after = generator.update(&world, &[key(Kind::MESH_GATEWAY_ROUTE, "ra")]).unwrap();
    let changed = |resource_type| {
        let diff = after.resources.diff(&before.resources, resource_type);
        diff.changed.iter().map(|r| r.name.clone()).chain(diff.removed).collect::<Vec<_>>()
    };
    assert_eq!(changed(ResourceType::Route), ["edge:HTTP:8080:*", "edge:HTTP:8081:*"]);
    assert!(changed(ResourceType::Listener).is_empty());
    for resource_type in [ResourceType::Cluster, ResourceType::Endpoint] {
        for old in before.resources.iter(resource_type) {
            if let Some(new) = after.resources.get(resource_type, &old.name) {
                assert!(Arc::ptr_eq(old, new), "{}", old.name);
            }
        }
    }
}

#[test]
fn proxies_of_one_gateway_share_memory() {
    let mut world = rich();
    world.add(&json!({
        "type": "Dataplane", "mesh": "default", "name": "gw-2",
        "networking": {
            "address": "10.0.0.77",
            "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge"}},
        },
    }));
    let fleet = Fleet::new(settings());
    let proxy = Proxy { name: "gw-2".to_owned(), ..gw() };
    let one = fleet.generator(gw()).update_all(&world).unwrap();
    let mut second = fleet.generator(proxy);
    let two = second.update_all(&world).unwrap();
    drop(one.clone());
    // The class lives as long as a proxy of it does.
    let three = fleet.generator(gw()).update_all(&world).unwrap();
    for resource_type in [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Route] {
        for (a, b) in two.resources.iter(resource_type).zip(three.resources.iter(resource_type)) {
            assert!(Arc::ptr_eq(a, b), "{}", a.name);
        }
    }
    let listener =
        |g: &Generated| g.resources.iter(ResourceType::Listener).next().unwrap().version.clone();
    assert_ne!(listener(&two), listener(&three), "each has its own address");
    assert_eq!(listener(&one), listener(&three));
}

/// A view with a number, which tells when it is asked for lists.
struct Numbered<'w>(&'w World, u64, std::cell::Cell<usize>);

impl View for Numbered<'_> {
    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.0.get(key)
    }

    fn list_mesh(&self, kind: Kind, mesh: &str) -> Vec<Arc<Resource>> {
        self.2.set(self.2.get() + 1);
        self.0.list_mesh(kind, mesh)
    }

    fn list(&self, kind: Kind) -> Vec<Arc<Resource>> {
        self.2.set(self.2.get() + 1);
        self.0.list(kind)
    }

    fn revision(&self) -> Option<u64> {
        Some(self.1)
    }
}

#[test]
fn lists_are_read_once_per_change() {
    let mut world = rich();
    let fleet = Fleet::new(settings());
    let (mut one, mut two) = (fleet.generator(gw()), fleet.generator(gw()));
    let count = |world: &World, revision, run: &mut dyn FnMut(&dyn View)| {
        let view = Numbered(world, revision, std::cell::Cell::new(0));
        run(&view);
        view.2.get()
    };
    assert!(count(&world, 1, &mut |v| drop(one.update_all(v))) > 10);
    assert_eq!(count(&world, 1, &mut |v| drop(two.update_all(v))), 0);
    world.add(&echo("echo-2", "10.0.0.3"));
    let changed = [key(Kind::DATAPLANE, "echo-2")];
    assert_eq!(count(&world, 2, &mut |v| drop(one.update(v, &changed))), 1);
    assert_eq!(count(&world, 2, &mut |v| drop(two.update(v, &changed))), 0);
}

#[test]
fn a_change_of_the_own_dataplane() {
    let mut world = rich();
    let mut generator = generator();
    let before = generator.update_all(&world).unwrap();
    world.0.retain(|r| &*r.key.name != "gw");
    world.add(&json!({
        "type": "Dataplane", "mesh": "default", "name": "gw",
        "networking": {
            "address": "10.0.0.9",
            "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge", "v": "2"}},
        },
    }));
    let after = generator.update(&world, &[key(Kind::DATAPLANE, "gw")]).unwrap();
    let fresh = generate_after(&world, &settings(), &gw(), Some(&before)).unwrap();
    assert_eq!(*after, fresh);
    // It is gone, and it is back.
    let all = world.clone();
    world.0.retain(|r| &*r.key.name != "gw");
    let gone = generator.update(&world, &[key(Kind::DATAPLANE, "gw")]);
    assert!(matches!(gone, Err(GenerateError::NoDataplane { .. })));
    assert_eq!(*generator.update(&all, &[key(Kind::DATAPLANE, "gw")]).unwrap(), fresh);
}
