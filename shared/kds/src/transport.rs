//! The loops that both sides share: a sender or a receiver around one pair of message streams.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::Rng as _;
use sunbear_model::{Kind, ResourceKey};
use sunbear_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sunbear_store::{Batch, BatchMode, Snapshot, Update, World};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};

use crate::{
    AUTHOR,
    mapping::{Encoder, Peer, zone_enabled},
    node::PeerNode,
    receiver::Receiver,
    sender::{Seen, Sender, Source},
    wire::WireResource,
};

/// Responses and requests in a stream's outgoing queue. One per type may be outstanding, and
/// there are fewer types than this, so a peer that does not read never blocks the loop.
pub(crate) const QUEUE: usize = 128;

/// Where a sender's responses go: on a global they are answers of a call, on a zone they are its
/// request messages.
pub(crate) enum Outlet {
    Server(mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>),
    Client(mpsc::Sender<DeltaDiscoveryResponse>),
}

impl Outlet {
    async fn send(&self, response: DeltaDiscoveryResponse) -> Result<(), Status> {
        let sent = match self {
            Self::Server(tx) => tx.send(Ok(response)).await.is_ok(),
            Self::Client(tx) => tx.send(response).await.is_ok(),
        };
        if sent { Ok(()) } else { Err(Status::unavailable("the peer closed the stream")) }
    }
}

/// What a stream's owner wants to know of it.
pub(crate) trait Observer: Send {
    /// The first request came. May refuse the stream, and says what the peer may see.
    fn first_request(&mut self, node: &PeerNode) -> Result<Peer, Status>;
    /// A response went out.
    fn sent(&mut self, _type_url: &str) {}
    /// An answer came.
    fn answered(&mut self, _type_url: &str, _seen: Seen) {}
    /// Keys changed; may end the stream.
    fn changed(&mut self, _snapshot: &Snapshot, _key: &ResourceKey) -> Result<(), Status> {
        Ok(())
    }
}

/// The current resources as one peer may see them.
struct PeerSource<'a> {
    snapshot: &'a Snapshot,
    encoder: &'a Encoder,
    peer: &'a Peer,
}

impl Source for PeerSource<'_> {
    fn get(&self, key: &ResourceKey) -> Option<WireResource> {
        let resource = self.snapshot.get(key)?;
        self.encoder
            .outgoing(resource)?
            .for_peer(self.peer, |zone| zone_enabled(self.snapshot, zone))
            .cloned()
    }

    fn all(&self, kind: Kind) -> Vec<(ResourceKey, WireResource)> {
        if !self.encoder.sends(kind) {
            return Vec::new();
        }
        self.snapshot
            .list(kind)
            .filter_map(|resource| {
                let outgoing = self.encoder.outgoing(resource)?;
                let wire =
                    outgoing.for_peer(self.peer, |zone| zone_enabled(self.snapshot, zone))?;
                Some((resource.key.clone(), wire.clone()))
            })
            .collect()
    }
}

/// Serves one sending stream until it ends. The result is never a success for the peer: a stream
/// that ends cleanly would not be reopened by a Kuma zone.
pub(crate) async fn run_sender(
    mut inbound: impl Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin,
    outlet: Outlet,
    world: &World,
    encoder: &Encoder,
    identifier: &str,
    max_message: usize,
    observer: &mut dyn Observer,
) -> Status {
    let result =
        send_loop(&mut inbound, &outlet, world, encoder, identifier, max_message, observer).await;
    match result {
        Ok(()) => Status::unavailable("stream ended"),
        Err(status) => status,
    }
}

async fn send_loop(
    inbound: &mut (impl Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin),
    outlet: &Outlet,
    world: &World,
    encoder: &Encoder,
    identifier: &str,
    max_message: usize,
    observer: &mut dyn Observer,
) -> Result<(), Status> {
    let start = Instant::now();
    let mut sender = Sender::new(identifier);
    let mut subscription = world.subscribe();
    let mut snapshot = world.snapshot();
    let mut peer: Option<Peer> = None;
    loop {
        let retry = sender.next_retry();
        let wait = retry.map_or(Duration::from_secs(3600), |at| at.saturating_sub(start.elapsed()));
        tokio::select! {
            biased;
            message = inbound.next() => match message {
                Some(Ok(request)) => {
                    match (&request.node, &peer) {
                        (Some(node), None) => {
                            peer = Some(observer.first_request(&PeerNode::from_node(node))?);
                        }
                        (None, None) => {
                            return Err(Status::invalid_argument("the first request has no node"));
                        }
                        // Later requests may repeat the node or leave it out.
                        (_, Some(_)) => {}
                    }
                    let seen = sender.on_request(&request, start.elapsed());
                    if seen == Seen::Nack {
                        let reason = request.error_detail.as_ref().map_or("", |e| e.message.as_str());
                        warn!(peer = identifier_of(peer.as_ref()), type_url = request.type_url, reason, "resources rejected");
                    }
                    observer.answered(&request.type_url, seen);
                }
                Some(Err(status)) => return Err(status),
                None => return Ok(()),
            },
            update = subscription.next() => match update {
                Update::Changes { snapshot: newer, keys } => {
                    snapshot = newer;
                    for key in keys.iter() {
                        note_change(&mut sender, encoder, &snapshot, key);
                        observer.changed(&snapshot, key)?;
                    }
                }
                Update::Resync { snapshot: newer } => {
                    snapshot = newer;
                    sender.on_resync_all();
                }
                Update::Closed => return Err(Status::unavailable("control plane is stopping")),
            },
            () = tokio::time::sleep(wait), if retry.is_some() => {}
        }
        let Some(peer) = &peer else { continue };
        let source = PeerSource { snapshot: &snapshot, encoder, peer };
        while let Some(response) = sender.poll(&source, start.elapsed()) {
            let size = prost::Message::encoded_len(&response);
            if size > max_message {
                // The peer would refuse it and drop everything else with it.
                warn!(
                    peer = peer.name,
                    type_url = response.type_url,
                    size,
                    limit = max_message,
                    "response is larger than a message may be, type not sent"
                );
                continue;
            }
            observer.sent(&response.type_url);
            outlet.send(response).await?;
        }
    }
}

fn identifier_of(peer: Option<&Peer>) -> &str {
    peer.map_or("", |p| p.name.as_str())
}

fn note_change(sender: &mut Sender, encoder: &Encoder, snapshot: &Snapshot, key: &ResourceKey) {
    if snapshot.get(key).is_none() {
        encoder.forget(key);
    }
    if encoder.sends(key.kind) {
        sender.on_change(key);
    }
    if key.kind == Kind::ZONE {
        // Whether a zone is enabled decides what the others see of it.
        for kind in Kind::all().filter(|k| k.row().across_zones) {
            sender.on_resync(kind);
        }
    }
}

/// Applies one response and gives the answer to send. Transient failures of the store are retried
/// with the answer withheld, which holds the peer back; only `cancelled` ends that.
pub(crate) async fn apply(
    receiver: &mut Receiver,
    response: DeltaDiscoveryResponse,
    world: &World,
    peer: &str,
    cancelled: &CancellationToken,
) -> Option<DeltaDiscoveryRequest> {
    let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
    let snapshot = world.snapshot();
    let mut plan = receiver.plan(response, &snapshot);
    if plan.rewritten > 0 {
        warn!(peer, type_url, count = plan.rewritten, "resources claimed another zone");
    }
    if !plan.changes.is_empty() {
        let mut wait = Duration::from_millis(100);
        let committed = loop {
            let batch = Batch {
                changes: plan.changes.clone(),
                author: format!("{AUTHOR}/{peer}"),
                reason: "sync".to_owned(),
                mode: BatchMode::Independent,
                at: OffsetDateTime::now_utc(),
            };
            match world.commit(batch).await {
                Ok(committed) => break committed,
                Err(error) => {
                    warn!(peer, type_url, %error, "synced resources not stored, retrying")
                }
            }
            tokio::select! {
                () = cancelled.cancelled() => return None,
                () = tokio::time::sleep(jittered(wait)) => {}
            }
            wait = (wait * 2).min(Duration::from_secs(5));
        };
        for (change, result) in plan.changes.iter().zip(&committed.results) {
            if let Err(error) = result {
                plan.rejections.push(format!("{}: {error}", change.key));
            }
        }
        debug!(
            peer,
            type_url,
            changes = plan.changes.len(),
            revision = committed.revision,
            "synced"
        );
    }
    if !plan.rejections.is_empty() {
        info!(peer, type_url, rejections = ?plan.rejections, "resources of a response refused");
    }
    Some(receiver.answer(&type_url, &nonce, &plan.rejections, plan.conflict))
}

/// A wait of half to the whole of `wait`.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Encoders are shared by all streams of one side.
pub(crate) type SharedEncoder = Arc<Encoder>;
