//! Questions about a proxy's Envoy, asked on the global and answered in the proxy's zone: reverse
//! calls over streams that the zone opened (`spec/kds.md` 6).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use sunbear_proto::kuma::mesh::v1alpha1::{
    AdminOutputFormat, ClustersRequest, ClustersResponse, StatsRequest, StatsResponse,
    XdsConfigRequest, XdsConfigResponse, clusters_response, stats_response, xds_config_response,
};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// How long a question may take, on both sides. An answer that comes later is worth nothing, and
/// one of ours that came too late at a Kuma global would end the stream.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Questions that wait for one stream. A stream that takes no more is as good as none.
const QUEUE: usize = 32;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The configuration dump.
    XdsConfig {
        /// With endpoints.
        include_eds: bool,
    },
    /// Statistics.
    Stats {
        /// As JSON instead of text.
        json: bool,
        /// Only those that were ever touched.
        used_only: bool,
    },
    /// Clusters with their endpoints.
    Clusters {
        /// As JSON instead of text.
        json: bool,
    },
}

impl Question {
    /// The words for it in messages to users.
    pub fn operation(self) -> &'static str {
        match self {
            Self::XdsConfig { .. } => "XDS Config Dump",
            Self::Stats { .. } => "Stats",
            Self::Clusters { .. } => "Clusters",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::XdsConfig { .. } => "XDSConfigRequest",
            Self::Stats { .. } => "StatsRequest",
            Self::Clusters { .. } => "ClustersRequest",
        }
    }

    fn stream(self) -> AdminStream {
        match self {
            Self::XdsConfig { .. } => AdminStream::XdsConfig,
            Self::Stats { .. } => AdminStream::Stats,
            Self::Clusters { .. } => AdminStream::Clusters,
        }
    }
}

/// Which proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `Dataplane`, `ZoneIngress` or `ZoneEgress`.
    pub kind: String,
    /// Its name in the zone.
    pub name: String,
    /// Its mesh; empty for zone proxies.
    pub mesh: String,
}

/// Answers questions in a zone. The error is shown to the user who asked.
pub trait EnvoyAdmin: Send + Sync + 'static {
    /// Asks the proxy's Envoy.
    fn ask(&self, target: Target, question: Question) -> BoxFuture<'_, Result<Vec<u8>, String>>;
}

/// Why a question got no answer. The texts are those of Kuma, but for one that Kuma cannot meet with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The zone has no stream for such questions to this instance.
    #[error("stream to execute {0} operations is not yet connected")]
    NotConnected(&'static str),
    /// The zone has its streams to another replica of this global.
    #[error(
        "zone {zone:?} is connected to replica {replica} of this global, which alone can ask it: send \
         the request there"
    )]
    Elsewhere {
        /// The zone.
        zone: String,
        /// The instance, as ZoneInsights name it.
        replica: String,
    },
    /// The stream ended, or does not take more.
    #[error("could not send {message}: client {zone} is not connected")]
    NotSent {
        /// The message.
        message: &'static str,
        /// The zone.
        zone: String,
    },
    /// The zone says why.
    #[error("could not send {message}: {reason}")]
    Refused {
        /// The message.
        message: &'static str,
        /// The zone's words.
        reason: String,
    },
    /// No answer in time.
    #[error("could not send {0}: no answer from the zone in time")]
    Timeout(&'static str),
}

/// One of the three streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AdminStream {
    XdsConfig,
    Stats,
    Clusters,
}

/// A question on its way.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    id: String,
    target: Target,
    question: Question,
}

impl Call {
    pub(crate) fn new(target: Target, question: Question) -> Self {
        Self { id: Uuid::new_v4().to_string(), target, question }
    }
}

pub(crate) type Answer = Result<Vec<u8>, String>;

/// The global's open streams and unanswered questions.
#[derive(Default)]
pub(crate) struct Desk {
    streams: Mutex<HashMap<(String, AdminStream), (u64, mpsc::Sender<Call>)>>,
    waiting: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
}

impl Desk {
    /// Enters a zone's stream, in place of an older one.
    pub(crate) fn open(&self, zone: &str, stream: AdminStream, id: u64) -> mpsc::Receiver<Call> {
        let (tx, rx) = mpsc::channel(QUEUE);
        lock(&self.streams).insert((zone.to_owned(), stream), (id, tx));
        rx
    }

    /// Forgets a stream, unless a newer one has its place.
    pub(crate) fn close(&self, zone: &str, stream: AdminStream, id: u64) {
        let key = (zone.to_owned(), stream);
        let mut streams = lock(&self.streams);
        if streams.get(&key).is_some_and(|(current, _)| *current == id) {
            streams.remove(&key);
        }
    }

    /// Asks a zone.
    pub(crate) async fn ask(
        &self,
        zone: &str,
        target: Target,
        question: Question,
    ) -> Result<Vec<u8>, AskError> {
        let message = question.message();
        let sender = lock(&self.streams)
            .get(&(zone.to_owned(), question.stream()))
            .map(|(_, tx)| tx.clone())
            .ok_or(AskError::NotConnected(question.operation()))?;
        let call = Call::new(target, question);
        let id = call.id.clone();
        // Entered before it is sent: the answer may be quicker than we are.
        let (tx, rx) = oneshot::channel();
        lock(&self.waiting).insert(id.clone(), tx);
        let sent = sender.try_send(call).is_ok();
        let answer = if sent {
            match tokio::time::timeout(DEADLINE, rx).await {
                Ok(Ok(Ok(bytes))) => Ok(bytes),
                Ok(Ok(Err(reason))) => Err(AskError::Refused { message, reason }),
                Ok(Err(_)) => Err(AskError::NotSent { message, zone: zone.to_owned() }),
                Err(_) => Err(AskError::Timeout(message)),
            }
        } else {
            Err(AskError::NotSent { message, zone: zone.to_owned() })
        };
        lock(&self.waiting).remove(&id);
        answer
    }

    /// An answer came. One that nobody waits for any more is dropped.
    pub(crate) fn answered(&self, id: &str, answer: Answer) {
        if let Some(tx) = lock(&self.waiting).remove(id) {
            let _ = tx.send(answer);
        }
    }
}

/// The messages of one of the streams.
pub(crate) trait Messages: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    const STREAM: AdminStream;

    fn request(call: Call) -> Self::Request;
    fn read_response(response: Self::Response) -> (String, Answer);
    fn read_request(request: Self::Request) -> Call;
    fn response(id: String, answer: Answer) -> Self::Response;
}

const NOTHING: &str = "the answer is empty";

fn format(json: bool) -> i32 {
    if json { AdminOutputFormat::Json.into() } else { AdminOutputFormat::Text.into() }
}

fn is_json(format: i32) -> bool {
    format == i32::from(AdminOutputFormat::Json)
}

pub(crate) struct XdsConfigs;

impl Messages for XdsConfigs {
    type Request = XdsConfigRequest;
    type Response = XdsConfigResponse;
    const STREAM: AdminStream = AdminStream::XdsConfig;

    fn request(call: Call) -> XdsConfigRequest {
        XdsConfigRequest {
            request_id: call.id,
            resource_type: call.target.kind,
            resource_name: call.target.name,
            resource_mesh: call.target.mesh,
            include_eds: matches!(call.question, Question::XdsConfig { include_eds: true }),
        }
    }

    fn read_response(response: XdsConfigResponse) -> (String, Answer) {
        let answer = match response.result {
            Some(xds_config_response::Result::Config(bytes)) => Ok(bytes),
            Some(xds_config_response::Result::Error(error)) => Err(error),
            None => Err(NOTHING.to_owned()),
        };
        (response.request_id, answer)
    }

    fn read_request(r: XdsConfigRequest) -> Call {
        Call {
            id: r.request_id,
            target: Target { kind: r.resource_type, name: r.resource_name, mesh: r.resource_mesh },
            question: Question::XdsConfig { include_eds: r.include_eds },
        }
    }

    fn response(request_id: String, answer: Answer) -> XdsConfigResponse {
        let result = Some(match answer {
            Ok(bytes) => xds_config_response::Result::Config(bytes),
            Err(error) => xds_config_response::Result::Error(error),
        });
        XdsConfigResponse { request_id, result }
    }
}

pub(crate) struct Stats;

impl Messages for Stats {
    type Request = StatsRequest;
    type Response = StatsResponse;
    const STREAM: AdminStream = AdminStream::Stats;

    fn request(call: Call) -> StatsRequest {
        let (json, used_only) = match call.question {
            Question::Stats { json, used_only } => (json, used_only),
            Question::XdsConfig { .. } | Question::Clusters { .. } => (false, true),
        };
        StatsRequest {
            request_id: call.id,
            resource_type: call.target.kind,
            resource_name: call.target.name,
            resource_mesh: call.target.mesh,
            format: format(json),
            used_only,
        }
    }

    fn read_response(response: StatsResponse) -> (String, Answer) {
        let answer = match response.result {
            Some(stats_response::Result::Stats(bytes)) => Ok(bytes),
            Some(stats_response::Result::Error(error)) => Err(error),
            None => Err(NOTHING.to_owned()),
        };
        (response.request_id, answer)
    }

    fn read_request(r: StatsRequest) -> Call {
        Call {
            id: r.request_id,
            target: Target { kind: r.resource_type, name: r.resource_name, mesh: r.resource_mesh },
            question: Question::Stats { json: is_json(r.format), used_only: r.used_only },
        }
    }

    fn response(request_id: String, answer: Answer) -> StatsResponse {
        let result = Some(match answer {
            Ok(bytes) => stats_response::Result::Stats(bytes),
            Err(error) => stats_response::Result::Error(error),
        });
        StatsResponse { request_id, result }
    }
}

pub(crate) struct Clusters;

impl Messages for Clusters {
    type Request = ClustersRequest;
    type Response = ClustersResponse;
    const STREAM: AdminStream = AdminStream::Clusters;

    fn request(call: Call) -> ClustersRequest {
        ClustersRequest {
            request_id: call.id,
            resource_type: call.target.kind,
            resource_name: call.target.name,
            resource_mesh: call.target.mesh,
            format: format(matches!(call.question, Question::Clusters { json: true })),
        }
    }

    fn read_response(response: ClustersResponse) -> (String, Answer) {
        let answer = match response.result {
            Some(clusters_response::Result::Clusters(bytes)) => Ok(bytes),
            Some(clusters_response::Result::Error(error)) => Err(error),
            None => Err(NOTHING.to_owned()),
        };
        (response.request_id, answer)
    }

    fn read_request(r: ClustersRequest) -> Call {
        Call {
            id: r.request_id,
            target: Target { kind: r.resource_type, name: r.resource_name, mesh: r.resource_mesh },
            question: Question::Clusters { json: is_json(r.format) },
        }
    }

    fn response(request_id: String, answer: Answer) -> ClustersResponse {
        let result = Some(match answer {
            Ok(bytes) => clusters_response::Result::Clusters(bytes),
            Err(error) => clusters_response::Result::Error(error),
        });
        ClustersResponse { request_id, result }
    }
}

/// Answers one call in a zone, within the deadline and the size that a message may have.
pub(crate) async fn answer<M: Messages>(
    admin: &dyn EnvoyAdmin,
    call: Call,
    max_message: usize,
) -> M::Response {
    let answer = match tokio::time::timeout(DEADLINE, admin.ask(call.target, call.question)).await {
        Ok(answer) => answer,
        Err(_) => Err("the proxy did not answer in time".to_owned()),
    };
    // A larger message would end the connection, and the sync with it.
    let limit = max_message.saturating_sub(1024);
    let answer = answer.and_then(|bytes| {
        if bytes.len() > limit {
            Err(format!("the answer has {} bytes, a message may have {limit}", bytes.len()))
        } else {
            Ok(bytes)
        }
    });
    M::response(call.id, answer)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
