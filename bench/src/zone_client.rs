//! A bare zone: subscribes to everything, acknowledges everything, stores nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::Result;
use prost::Message as _;
use sunbear_kds::node::{Identity, minimal_config};
use sunbear_model::Kind;
use sunbear_proto::{
    envoy::service::discovery::v3::DeltaDiscoveryRequest,
    kuma::mesh::v1alpha1::kds_sync_service_client::KdsSyncServiceClient,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, codec::CompressionEncoding, transport::Channel};

/// What a bare zone has seen.
#[derive(Clone)]
pub(crate) struct BareZone {
    /// When the first response of every type was there.
    pub(crate) synced: watch::Receiver<Option<Instant>>,
    /// When the marked route came last, and its mark: the spec's bytes.
    pub(crate) marked: watch::Receiver<Option<(Vec<u8>, Instant)>>,
    /// Responses so far.
    pub(crate) responses: Arc<AtomicU64>,
    /// Bytes of responses so far, not compressed.
    pub(crate) bytes: Arc<AtomicU64>,
}

/// Connects zone `name`; routes whose name begins with `mark` are reported.
pub(crate) async fn connect(
    channel: Channel,
    name: String,
    mark: &'static str,
) -> Result<BareZone> {
    let (synced_tx, synced) = watch::channel(None);
    let (marked_tx, marked) = watch::channel(None);
    let responses = Arc::new(AtomicU64::new(0));
    let bytes = Arc::new(AtomicU64::new(0));
    let zone =
        BareZone { synced, marked, responses: Arc::clone(&responses), bytes: Arc::clone(&bytes) };
    let identity = Identity {
        id: name.clone(),
        instance_id: format!("{name}-bench"),
        version: "2.14.3".to_owned(),
        config: minimal_config(&name, ""),
    };
    let (tx, rx) = mpsc::channel(128);
    let kinds: Vec<Kind> = Kind::all().filter(|k| k.sent_to_zones()).collect();
    for kind in &kinds {
        tx.send(DeltaDiscoveryRequest {
            node: Some(identity.to_node()),
            type_url: kind.name().to_owned(),
            resource_names_subscribe: vec!["*".to_owned()],
            ..DeltaDiscoveryRequest::default()
        })
        .await?;
    }
    let mut client = KdsSyncServiceClient::new(channel)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(64 << 20);
    let mut request = Request::new(ReceiverStream::new(rx));
    request.metadata_mut().insert("client-id", name.parse()?);
    request.metadata_mut().insert("features", "hash-suffix".parse()?);
    let node = identity.to_short_node();
    let types = kinds.len();
    let receiving = async move {
        let mut inbound = client.global_to_zone_sync(request).await?.into_inner();
        let mut first = std::collections::BTreeSet::new();
        while let Some(response) = inbound.message().await? {
            let now = Instant::now();
            responses.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(response.encoded_len() as u64, Ordering::Relaxed);
            if response.type_url == "MeshGatewayRoute"
                && let Some(r) = response.resources.iter().rev().find(|r| r.name.starts_with(mark))
            {
                let spec = r.resource.as_ref().map(|a| a.value.clone()).unwrap_or_default();
                marked_tx.send_replace(Some((spec, now)));
            }
            let ack = DeltaDiscoveryRequest {
                node: Some(node.clone()),
                type_url: response.type_url.clone(),
                response_nonce: response.nonce,
                ..DeltaDiscoveryRequest::default()
            };
            if tx.send(ack).await.is_err() {
                break;
            }
            if first.insert(response.type_url) && first.len() == types {
                synced_tx.send_replace(Some(now));
            }
        }
        anyhow::Ok(())
    };
    tokio::spawn(async move {
        if let Err(error) = receiving.await {
            eprintln!("{name}: {error:#}");
        }
    });
    Ok(zone)
}
