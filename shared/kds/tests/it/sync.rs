//! A global and zones of ours over real sockets, each with a store of its own.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use prost::Message as _;
use sunbear_kds::{
    admin::{AskError, EnvoyAdmin, Question, Target},
    client::{ClientConfig, GlobalAddress, Trust, ZoneKds},
    node::{Identity, minimal_config},
    server::{GlobalKds, ServerConfig},
};
use sunbear_model::{Kind, Resource, ResourceKey, Spec, label};
use sunbear_proto::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    google::rpc::Status as RpcStatus,
    kuma::{
        mesh::v1alpha1::{
            Dataplane, MeshGateway, Selector,
            dataplane::{Networking, networking::Gateway},
            kds_sync_service_client::KdsSyncServiceClient,
            mesh_gateway::{Conf, Listener, listener::Protocol},
        },
        system::v1alpha1::{KdsServiceStats, Secret, Zone},
    },
};
use sunbear_store::{
    Batch, BatchMode, Change, Expect, Operation, OwnerRef, Sqlite, StatusChange, Update, World,
    WorldOptions,
};
use time::OffsetDateTime;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Streaming, transport::Server};

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn world() -> World {
    let store = Arc::new(Sqlite::memory().await.unwrap());
    let (world, feed) = World::start(store, WorldOptions::default()).await.unwrap();
    tokio::spawn(feed);
    world
}

/// Says what it was asked; slow for one name.
struct FakeEnvoy;

impl EnvoyAdmin for FakeEnvoy {
    fn ask(&self, target: Target, question: Question) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            match target.name.as_str() {
                "absent" => Err("no such proxy".to_owned()),
                "huge" => Ok(vec![b'x'; 11 << 20]),
                name => {
                    if name == "slow" {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                    Ok(format!("{name} in {}: {question:?}", target.mesh).into_bytes())
                }
            }
        })
    }
}

pub(crate) struct Global {
    kds: Arc<GlobalKds>,
    pub(crate) world: World,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Global {
    pub(crate) async fn start(world: World, port: u16) -> Self {
        Self::replica("global-1", world, port).await
    }

    async fn replica(instance: &str, world: World, port: u16) -> Self {
        let kds = GlobalKds::new(
            world.clone(),
            ServerConfig {
                instance_id: instance.to_owned(),
                version: "2.14.3".to_owned(),
                max_message: 10 << 20,
                health_interval: Duration::from_secs(10),
                health_timeout: Duration::from_secs(30),
                insight_interval: Duration::from_millis(50),
                authenticator: None,
            },
        );
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let routes = kds.routes();
        tokio::spawn(Arc::clone(&kds).run(stop.clone()));
        let until = stop.clone();
        tokio::spawn(async move {
            Server::builder()
                .add_routes(routes)
                .serve_with_incoming_shutdown(
                    TcpListenerStream::new(listener),
                    until.cancelled_owned(),
                )
                .await
        });
        Self { kds, world, address, stop }
    }

    pub(crate) fn zone(
        &self,
        world: &World,
        name: &str,
        instance: &str,
    ) -> (Arc<ZoneKds>, CancellationToken) {
        let global = GlobalAddress {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            tls: false,
        };
        let zone = ZoneKds::new(
            world.clone(),
            ClientConfig {
                zone: name.to_owned(),
                global,
                trust: Trust::System,
                identity: Identity {
                    id: name.to_owned(),
                    instance_id: instance.to_owned(),
                    version: "2.14.3".to_owned(),
                    config: minimal_config(name, ""),
                },
                max_message: 10 << 20,
                token: None,
                admin: Some(Arc::new(FakeEnvoy)),
                gzip: true,
            },
        )
        .unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&zone).run(stop.clone()));
        (zone, stop)
    }
}

pub(crate) async fn write(world: &World, changes: Vec<Change>) {
    let batch = Batch {
        changes,
        author: "test".to_owned(),
        reason: "test".to_owned(),
        mode: BatchMode::AllOrNothing,
        at: OffsetDateTime::now_utc(),
    };
    for result in world.commit(batch).await.unwrap().results {
        result.unwrap();
    }
}

pub(crate) fn labelled(key: ResourceKey, spec: Spec, labels: &[(&str, &str)]) -> Change {
    let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Change::put(key, spec, labels)
}

fn put<M: prost::Message>(kind: Kind, name: &str, message: &M) -> Change {
    let key = ResourceKey::new(kind, "default", name);
    Change::put(key, Spec::from_message(kind, message), BTreeMap::new())
}

fn gateway(port: u32) -> MeshGateway {
    MeshGateway {
        selectors: vec![Selector {
            r#match: BTreeMap::from([("kuma.io/service".to_owned(), "edge".to_owned())]),
        }],
        conf: Some(Conf {
            listeners: vec![Listener {
                port,
                protocol: Protocol::Http.into(),
                ..Listener::default()
            }],
        }),
        ..MeshGateway::default()
    }
}

fn dataplane(zone: &str) -> Dataplane {
    Dataplane {
        networking: Some(Networking {
            address: "10.0.0.5".to_owned(),
            gateway: Some(Gateway {
                tags: BTreeMap::from([
                    ("kuma.io/service".to_owned(), "edge".to_owned()),
                    ("kuma.io/zone".to_owned(), zone.to_owned()),
                ]),
                r#type: 1,
            }),
            ..Networking::default()
        }),
        ..Dataplane::default()
    }
}

/// Waits until the world satisfies a condition.
pub(crate) async fn until(world: &World, what: &str, condition: impl Fn(&World) -> bool) {
    let mut subscription = world.subscribe();
    let waiting = async {
        while !condition(world) {
            if matches!(subscription.next().await, Update::Closed) {
                panic!("world closed while waiting for {what}");
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {what}"));
}

fn find(world: &World, kind: Kind, mesh: &str, name: &str) -> Option<Arc<Resource>> {
    world.snapshot().find(kind, mesh, name).cloned()
}

fn gateway_port(world: &World, name: &str) -> Option<u32> {
    let resource = find(world, Kind::MESH_GATEWAY, "default", name)?;
    Some(resource.as_mesh_gateway()?.conf.as_ref()?.listeners[0].port)
}

const HASHED: &str = "edge-5c75xw87847wvc4c";

#[tokio::test]
async fn policies_go_down_and_dataplanes_go_up() {
    let global = Global::start(world().await, 0).await;
    let mesh = ResourceKey::new(Kind::MESH, "", "default");
    write(&global.world, vec![labelled(mesh, Spec::from_wire(Kind::MESH, Vec::new()), &[])]).await;
    let (east, west) = (world().await, world().await);
    let (_, _stop_east) = global.zone(&east, "east", "east-1");
    let (_, _stop_west) = global.zone(&west, "west", "west-1");
    until(&east, "mesh in east", |w| w.snapshot().mesh("default").is_some()).await;

    write(&global.world, vec![put(Kind::MESH_GATEWAY, "edge", &gateway(8080))]).await;
    for zone in [&east, &west] {
        until(zone, "gateway", |w| gateway_port(w, HASHED) == Some(8080)).await;
        let synced = find(zone, Kind::MESH_GATEWAY, "default", HASHED).unwrap();
        assert_eq!(synced.label(label::ORIGIN), Some("global"));
        assert_eq!(synced.label(label::DISPLAY_NAME), Some("edge"));
    }
    write(&global.world, vec![put(Kind::MESH_GATEWAY, "edge", &gateway(8081))]).await;
    for zone in [&east, &west] {
        until(zone, "changed gateway", |w| gateway_port(w, HASHED) == Some(8081)).await;
    }
    let key = ResourceKey::new(Kind::MESH_GATEWAY, "default", "edge");
    write(&global.world, vec![Change::delete(key)]).await;
    for zone in [&east, &west] {
        until(zone, "deletion", |w| gateway_port(w, HASHED).is_none()).await;
    }

    let own = [(label::ORIGIN, "zone"), (label::ZONE, "east")];
    let key = ResourceKey::new(Kind::DATAPLANE, "default", "edge-gw-1");
    let spec = Spec::from_message(Kind::DATAPLANE, &dataplane("east"));
    write(&east, vec![labelled(key.clone(), spec, &own)]).await;
    let hashed = sunbear_model::name::hashed("default", "edge-gw-1", &["east"]);
    until(&global.world, "dataplane on the global", |w| {
        find(w, Kind::DATAPLANE, "default", &hashed).is_some()
    })
    .await;
    let up = find(&global.world, Kind::DATAPLANE, "default", &hashed).unwrap();
    assert_eq!(up.label(label::ZONE), Some("east"));
    assert!(up.owner.is_some(), "owned by its zone");
    write(&east, vec![Change::delete(key)]).await;
    until(&global.world, "dataplane's end on the global", |w| {
        find(w, Kind::DATAPLANE, "default", &hashed).is_none()
    })
    .await;
    assert!(find(&global.world, Kind::ZONE, "", "west").is_some(), "zones enter themselves");
}

#[tokio::test]
async fn a_zone_cut_off_catches_up_and_a_reconnect_in_sync_writes_nothing() {
    let global = Global::start(world().await, 0).await;
    let mesh = ResourceKey::new(Kind::MESH, "", "default");
    write(&global.world, vec![labelled(mesh, Spec::from_wire(Kind::MESH, Vec::new()), &[])]).await;
    let east = world().await;
    let (kds, stop) = global.zone(&east, "east", "east-1");
    write(&global.world, vec![put(Kind::MESH_GATEWAY, "edge", &gateway(1))]).await;
    until(&east, "gateway", |w| gateway_port(w, HASHED) == Some(1)).await;

    stop.cancel();
    for port in 2..=50 {
        write(&global.world, vec![put(Kind::MESH_GATEWAY, "edge", &gateway(port))]).await;
    }
    drop(kds);
    let (_, stop) = global.zone(&east, "east", "east-2");
    until(&east, "last change", |w| gateway_port(w, HASHED) == Some(50)).await;

    // Equal state: reconnecting leaves the zone's store as it is.
    stop.cancel();
    let revision = east.snapshot().revision;
    let (kds, _stop) = global.zone(&east, "east", "east-3");
    let mut connection = kds.connection();
    tokio::time::timeout(PATIENCE, connection.wait_for(|c| c.hydrated)).await.unwrap().unwrap();
    assert_eq!(east.snapshot().revision, revision);
}

#[tokio::test]
async fn a_zone_tells_of_its_own_connection() {
    let global = Global::start(world().await, 0).await;
    let east = world().await;
    let own = ResourceKey::new(Kind::ZONE, "", "east");
    let spec = Spec::from_message(Kind::ZONE, &Zone { enabled: Some(true) });
    write(&east, vec![Change::put(own, spec, BTreeMap::new())]).await;
    let subscriptions = |w: &World| {
        let insight = find(w, Kind::ZONE_INSIGHT, "", "east")?;
        Some(insight.as_zone_insight()?.subscriptions.clone())
    };
    let (_, stop) = global.zone(&east, "east", "east-1");
    // Of each type that a zone sends, one response.
    until(&east, "all first responses counted", |w| {
        subscriptions(w).is_some_and(|all| {
            let status = all[0].status.clone().unwrap_or_default();
            let done = |s: &KdsServiceStats| s.responses_sent == 1 && s.responses_acknowledged == 1;
            let total = status.total.unwrap_or_default();
            status.stat.contains_key("Dataplane")
                && status.stat.values().all(done)
                && total.responses_sent == status.stat.len() as u64
        })
    })
    .await;
    let open = &subscriptions(&east).unwrap()[0];
    assert_eq!(open.global_instance_id, "global-1");
    assert_eq!(open.zone_instance_id, "east-1");
    assert!(open.disconnect_time.is_none());

    stop.cancel();
    until(&east, "the connection's end", |w| {
        subscriptions(w).is_some_and(|all| all[0].disconnect_time.is_some())
    })
    .await;
    assert!(find(&global.world, Kind::ZONE_INSIGHT, "", "east").is_some(), "the global's own");
}

#[tokio::test]
async fn a_global_that_restarts_is_found_again() {
    let first = Global::start(world().await, 0).await;
    let mesh = ResourceKey::new(Kind::MESH, "", "default");
    write(&first.world, vec![labelled(mesh, Spec::from_wire(Kind::MESH, Vec::new()), &[])]).await;
    let east = world().await;
    let (_, _stop) = first.zone(&east, "east", "east-1");
    until(&east, "mesh", |w| w.snapshot().mesh("default").is_some()).await;
    let port = first.address.port();
    first.stop.cancel();
    let world = first.world.clone();
    write(&world, vec![put(Kind::MESH_GATEWAY, "edge", &gateway(9))]).await;
    // The port is free once the old server has gone.
    let second = loop {
        if let Ok(probe) = TcpListener::bind(("127.0.0.1", port)).await {
            drop(probe);
            break Global::start(world, port).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    until(&east, "what was written meanwhile", |w| gateway_port(w, HASHED) == Some(9)).await;
    drop(second);
}

#[tokio::test]
async fn only_considered_resources_are_pruned_at_the_first_response() {
    let global = Global::start(world().await, 0).await;
    let east = world().await;
    let mesh = ResourceKey::new(Kind::MESH, "", "local");
    let own = [(label::ORIGIN, "zone"), (label::ZONE, "east")];
    let secret = Secret { data: Some(b"x".to_vec()) };
    let key = ResourceKey::new(Kind::SECRET, "default", "own");
    write(
        &east,
        vec![
            labelled(mesh, Spec::from_wire(Kind::MESH, Vec::new()), &[]),
            labelled(key, Spec::from_message(Kind::SECRET, &secret), &own),
        ],
    )
    .await;
    let (_, _stop) = global.zone(&east, "east", "east-1");
    until(&east, "local mesh's end", |w| w.snapshot().mesh("local").is_none()).await;
    assert!(find(&east, Kind::SECRET, "default", "own").is_some());
}

/// A peer under the test's control.
struct Manual {
    tx: mpsc::Sender<DeltaDiscoveryRequest>,
    inbound: Streaming<DeltaDiscoveryResponse>,
}

impl Manual {
    async fn connect(global: &Global, zone: &str, node: &str) -> Result<Self, tonic::Status> {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", global.address))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let (tx, rx) = mpsc::channel(64);
        tx.send(DeltaDiscoveryRequest {
            node: Some(
                Identity {
                    id: node.to_owned(),
                    instance_id: "manual".to_owned(),
                    version: "2.14.3".to_owned(),
                    config: String::new(),
                }
                .to_node(),
            ),
            type_url: "MeshGateway".to_owned(),
            resource_names_subscribe: vec!["*".to_owned()],
            ..DeltaDiscoveryRequest::default()
        })
        .await
        .unwrap();
        let mut request = Request::new(ReceiverStream::new(rx));
        if !zone.is_empty() {
            request.metadata_mut().insert("client-id", zone.parse().unwrap());
        }
        let inbound =
            KdsSyncServiceClient::new(channel).global_to_zone_sync(request).await?.into_inner();
        Ok(Self { tx, inbound })
    }

    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, tonic::Status> {
        let message = tokio::time::timeout(PATIENCE, self.inbound.message()).await.unwrap();
        message.map(|m| m.expect("never a clean end"))
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error
                .map(|m| RpcStatus { message: m.to_owned(), ..RpcStatus::default() }),
            ..DeltaDiscoveryRequest::default()
        };
        self.tx.send(request).await.unwrap();
    }
}

#[tokio::test]
async fn identity_comes_from_the_call_and_not_from_the_payload() {
    let global = Global::start(world().await, 0).await;
    let mut liar = Manual::connect(&global, "east", "west").await.unwrap();
    let status = liar.next().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let nobody = Manual::connect(&global, "", "west").await.err().unwrap();
    assert_eq!(nobody.message(), "\"client-id\" is not present in metadata");
    let upper = Manual::connect(&global, "East", "East").await.err().unwrap();
    assert_eq!(upper.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn acknowledgements_without_a_node_are_fine_and_the_newest_stream_wins() {
    let global = Global::start(world().await, 0).await;
    let mut first = Manual::connect(&global, "east", "east").await.unwrap();
    let response = first.next().await.unwrap();
    assert!(response.resources.is_empty());
    assert_eq!(response.control_plane.as_ref().unwrap().identifier, "global");
    first.answer(&response, None).await;
    write(&global.world, vec![put(Kind::MESH_GATEWAY, "edge", &gateway(1))]).await;
    let response = first.next().await.unwrap();
    // Without the feature there is no suffix; this node announced it.
    assert_eq!(response.resources[0].name, format!("{HASHED}.default"));
    first.answer(&response, Some("spec.conf: cannot be empty")).await;

    let mut second = Manual::connect(&global, "east", "east").await.unwrap();
    second.next().await.unwrap();
    let status = first.next().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("took over"), "{}", status.message());

    until(&global.world, "rejection in the insight", |w| {
        find(w, Kind::ZONE_INSIGHT, "", "east").is_some_and(|r| {
            r.as_zone_insight()
                .unwrap()
                .subscriptions
                .iter()
                .any(|s| s.status.as_ref().unwrap().total.as_ref().unwrap().responses_rejected == 1)
        })
    })
    .await;
}

#[tokio::test]
async fn two_control_planes_with_one_zone_name_are_told_apart() {
    let global = Global::start(world().await, 0).await;
    are_told_apart(&global, &global).await;
}

#[tokio::test]
async fn replicas_tell_two_control_planes_with_one_zone_name_apart() {
    let global = Global::start(world().await, 0).await;
    let replica = Global::replica("global-2", global.world.clone(), 0).await;
    are_told_apart(&global, &replica).await;
}

/// The first connects to one replica, the second to the other, which may be the same.
async fn are_told_apart(global: &Global, replica: &Global) {
    let mesh = ResourceKey::new(Kind::MESH, "", "default");
    write(&global.world, vec![labelled(mesh, Spec::from_wire(Kind::MESH, Vec::new()), &[])]).await;
    let (one, other) = (world().await, world().await);
    let own = [(label::ORIGIN, "zone"), (label::ZONE, "east")];
    let key = ResourceKey::new(Kind::DATAPLANE, "default", "edge-gw-1");
    let spec = Spec::from_message(Kind::DATAPLANE, &dataplane("east"));
    write(&one, vec![labelled(key, spec, &own)]).await;
    let (first, _stop_first) = global.zone(&one, "east", "first");
    let mut connected = first.connection();
    tokio::time::timeout(PATIENCE, connected.wait_for(|c| c.hydrated && c.sending))
        .await
        .unwrap()
        .unwrap();
    let hashed = sunbear_model::name::hashed("default", "edge-gw-1", &["east"]);
    until(&global.world, "dataplane", |w| find(w, Kind::DATAPLANE, "default", &hashed).is_some())
        .await;
    let (_second, _stop_second) = replica.zone(&other, "east", "second");
    // However they alternate, it ends with the first holding the name, and with its objects.
    until(&other, "mesh in the second at least once", |w| w.snapshot().mesh("default").is_some())
        .await;
    tokio::time::timeout(PATIENCE, async {
        loop {
            connected.wait_for(|c| c.receiving && c.sending).await.unwrap();
            let lost = connected.wait_for(|c| !(c.receiving && c.sending));
            if tokio::time::timeout(Duration::from_secs(3), lost).await.is_err() {
                break;
            }
        }
    })
    .await
    .expect("the first keeps the name");
    until(&global.world, "dataplane", |w| find(w, Kind::DATAPLANE, "default", &hashed).is_some())
        .await;
}

#[tokio::test]
async fn a_poisonous_resource_does_not_hold_up_the_others() {
    let global = Global::start(world().await, 0).await;
    let east = world().await;
    let (_, _stop) = global.zone(&east, "east", "east-1");
    // Written past validation, as an older or foreign global could.
    let bad = MeshGateway { conf: None, ..gateway(1) };
    write(
        &global.world,
        vec![put(Kind::MESH_GATEWAY, "bad", &bad), put(Kind::MESH_GATEWAY, "edge", &gateway(7))],
    )
    .await;
    until(&east, "the good one", |w| gateway_port(w, HASHED) == Some(7)).await;
    write(&global.world, vec![put(Kind::MESH_GATEWAY, "edge", &gateway(8))]).await;
    until(&east, "its change", |w| gateway_port(w, HASHED) == Some(8)).await;
    let names: Vec<_> =
        east.snapshot().list(Kind::MESH_GATEWAY).map(|r| r.key.name.to_string()).collect();
    assert_eq!(names, [HASHED], "the bad one is quarantined");
}

#[tokio::test]
async fn fields_of_newer_peers_survive_the_way() {
    let global = Global::start(world().await, 0).await;
    let east = world().await;
    let (_, _stop) = global.zone(&east, "east", "east-1");
    let mut bytes = gateway(8080).encode_to_vec();
    // Field 1000, a text that nobody knows yet.
    bytes.extend_from_slice(&[0xc2, 0x3e, 0x03, b'n', b'e', b'w']);
    let key = ResourceKey::new(Kind::MESH_GATEWAY, "default", "edge");
    let op = Operation::Put {
        spec: Spec::from_wire(Kind::MESH_GATEWAY, bytes.clone()),
        labels: BTreeMap::new(),
        status: StatusChange::Keep,
        owner: OwnerRef::None,
        expect: Expect::Any,
    };
    write(&global.world, vec![Change { key, op }]).await;
    until(&east, "gateway", |w| gateway_port(w, HASHED).is_some()).await;
    let synced = find(&east, Kind::MESH_GATEWAY, "default", HASHED).unwrap();
    assert_eq!(synced.spec.wire(), bytes);
}

#[tokio::test]
async fn questions_reach_the_zone_and_answers_find_who_asked() {
    let global = Global::start(world().await, 0).await;
    let east = world().await;
    let target = |name: &str| Target {
        kind: "Dataplane".to_owned(),
        name: name.to_owned(),
        mesh: "default".to_owned(),
    };
    let dump = Question::XdsConfig { include_eds: true };
    let early = global.kds.ask("east", target("gw"), dump).await.unwrap_err();
    assert_eq!(
        early.to_string(),
        "stream to execute XDS Config Dump operations is not yet connected"
    );
    let (_, _stop) = global.zone(&east, "east", "east-1");
    until(&global.world, "admin streams", |w| {
        find(w, Kind::ZONE_INSIGHT, "", "east").is_some_and(|r| {
            let insight = r.as_zone_insight().unwrap();
            insight.kds_streams.as_ref().is_some_and(|s| {
                s.config_dump.is_some() && s.stats.is_some() && s.clusters.is_some()
            })
        })
    })
    .await;
    let text = |answer: Result<Vec<u8>, AskError>| String::from_utf8(answer.unwrap()).unwrap();
    let stats = Question::Stats { json: true, used_only: false };
    let clusters = Question::Clusters { json: true };
    // The slow one is asked first and answered last.
    let (slow, quick, stats, clusters) = tokio::join!(
        global.kds.ask("east", target("slow"), dump),
        global.kds.ask("east", target("gw"), dump),
        global.kds.ask("east", target("gw"), stats),
        global.kds.ask("east", target("gw"), clusters),
    );
    assert_eq!(text(slow), "slow in default: XdsConfig { include_eds: true }");
    assert_eq!(text(quick), "gw in default: XdsConfig { include_eds: true }");
    assert_eq!(text(stats), "gw in default: Stats { json: true, used_only: false }");
    assert_eq!(text(clusters), "gw in default: Clusters { json: true }");
    let absent = global.kds.ask("east", target("absent"), dump).await.unwrap_err();
    assert_eq!(absent.to_string(), "could not send XDSConfigRequest: no such proxy");
    let huge = global.kds.ask("east", target("huge"), dump).await.unwrap_err();
    assert!(huge.to_string().contains("a message may have"), "{huge}");
    // Another replica knows where the zone is.
    let replica = Global::replica("global-2", global.world.clone(), 0).await;
    let elsewhere = replica.kds.ask("east", target("gw"), dump).await.unwrap_err();
    assert_eq!(
        elsewhere.to_string(),
        "zone \"east\" is connected to replica global-1 of this global, which alone can ask it: send \
         the request there"
    );
    // The sync goes on.
    let mesh = ResourceKey::new(Kind::MESH, "", "default");
    write(&global.world, vec![labelled(mesh, Spec::from_wire(Kind::MESH, Vec::new()), &[])]).await;
    until(&east, "mesh", |w| w.snapshot().mesh("default").is_some()).await;
}
