//! Discovery clients that answer when told to.

use std::{collections::BTreeMap, net::SocketAddr};

use prost_types::{Struct, Value, value::Kind};
use sunbear_proto::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::rpc,
};
use sunbear_xds::ResourceType;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use crate::fixture::soon;

/// What a proxy says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    pub(crate) id: String,
    pub(crate) token: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Proxy {
    /// The direct flow: the proxy brings its resource along.
    pub(crate) fn direct(name: &str, resource: &str, token: &str) -> Self {
        Self {
            id: format!("default.{name}"),
            token: Some(token.to_owned()),
            metadata: [("dataplane.resource".to_owned(), resource.to_owned())].into(),
        }
    }

    /// The indirect flow: the resource is stored already.
    pub(crate) fn indirect(name: &str, token: &str) -> Self {
        Self {
            id: format!("default.{name}"),
            token: Some(token.to_owned()),
            metadata: BTreeMap::new(),
        }
    }

    pub(crate) fn node(&self) -> Node {
        let text = |v: &String| Value { kind: Some(Kind::StringValue(v.clone())) };
        let fields = self.metadata.iter().map(|(k, v)| (k.clone(), text(v))).collect();
        Node { id: self.id.clone(), metadata: Some(Struct { fields }), ..Node::default() }
    }

    fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.parse().unwrap());
        }
        request
    }
}

async fn connect(address: SocketAddr) -> AggregatedDiscoveryServiceClient<Channel> {
    AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap()
}

/// The incremental variant.
pub(crate) struct Delta {
    pub(crate) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(crate) responses: Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    /// Opens a stream; the first request, without anything, names the node.
    pub(crate) async fn open(
        address: SocketAddr,
        proxy: &Proxy,
        first: DeltaDiscoveryRequest,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        let first = DeltaDiscoveryRequest { node: Some(proxy.node()), ..first };
        requests.send(first).await.unwrap();
        let call = proxy.call(ReceiverStream::new(receiver));
        let response = connect(address).await.delta_aggregated_resources(call).await.unwrap();
        Self { requests, responses: response.into_inner() }
    }

    pub(crate) async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn subscribe(&self, t: ResourceType, names: &[&str]) {
        self.send(subscription(t, names)).await;
    }

    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        match soon("a response", self.responses.message()).await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(Status::ok("end of stream")),
            Err(status) => Err(status),
        }
    }

    pub(crate) async fn ack(&self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn nack(&self, response: &DeltaDiscoveryResponse, message: &str) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(rpc::Status {
                code: 13,
                message: message.to_owned(),
                details: Vec::new(),
            }),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// The next response, accepted.
    pub(crate) async fn take(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next().await.unwrap();
        self.ack(&response).await;
        response
    }

    /// Takes responses until each of these types has been answered; names and versions by type.
    pub(crate) async fn take_all(&mut self, types: &[ResourceType]) -> Holding {
        let mut holding = Holding::new();
        while !types.iter().all(|t| holding.contains_key(t)) {
            let response = self.take().await;
            let t = ResourceType::from_type_url(&response.type_url).unwrap();
            let versions = response.resources.into_iter().map(|r| (r.name, r.version));
            holding.entry(t).or_default().extend(versions);
        }
        holding
    }
}

/// Versions by type and name.
pub(crate) type Holding = BTreeMap<ResourceType, BTreeMap<String, String>>;

pub(crate) fn subscription(t: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: t.type_url().to_owned(),
        resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// The state-of-the-world variant.
pub(crate) struct Sotw {
    pub(crate) requests: mpsc::Sender<DiscoveryRequest>,
    pub(crate) responses: Streaming<DiscoveryResponse>,
}

impl Sotw {
    pub(crate) async fn open(address: SocketAddr, proxy: &Proxy, first: DiscoveryRequest) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        let first = DiscoveryRequest { node: Some(proxy.node()), ..first };
        requests.send(first).await.unwrap();
        let call = proxy.call(ReceiverStream::new(receiver));
        let response = connect(address).await.stream_aggregated_resources(call).await.unwrap();
        Self { requests, responses: response.into_inner() }
    }

    pub(crate) async fn send(&self, request: DiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        match soon("a response", self.responses.message()).await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(Status::ok("end of stream")),
            Err(status) => Err(status),
        }
    }

    /// The next response, accepted.
    pub(crate) async fn take(&mut self, names: &[&str]) -> DiscoveryResponse {
        let response = self.next().await.unwrap();
        self.send(DiscoveryRequest {
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            ..interest(ResourceType::from_type_url(&response.type_url).unwrap(), names)
        })
        .await;
        response
    }
}

pub(crate) fn interest(t: ResourceType, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: t.type_url().to_owned(),
        resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}
