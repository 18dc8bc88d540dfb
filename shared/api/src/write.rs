//! PUT and DELETE (`spec/rest-api.md` 8). The order of the checks is Kuma's: clients see which one
//! fails first.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use http::StatusCode;
use http_body_util::BodyExt as _;
use serde::Serialize;
use serde_json::Value;
use sunbear_model::{
    Kind, ResourceKey, label,
    rest::{self, Desired},
    validation::{self, Envelope, Mode},
};
use sunbear_store::{
    Batch, BatchMode, Change, ChangeError, Committed, Expect, Operation, Outcome, OwnerRef,
    Snapshot, StatusChange,
};

use crate::{
    dataplane, guard, notice,
    problem::Problem,
    read, reply,
    service::{Call, with_revision},
    state::ApiState,
    target::Item,
};

/// Largest body that is read.
const MAX_BODY: usize = 10 << 20;

/// How much of a larger body is read and thrown away, so that its sender gets to see the answer.
const MAX_DISCARDED: usize = 64 << 20;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

const PROCESS: &str = "Could not process a resource";
const CREATE: &str = "Failed to create a resource";
const UPDATE: &str = "Failed to update a resource";
const DELETE: &str = "Could not delete a resource";

const GLOBAL_READ_ONLY: &str = "On global control plane you can not modify dataplane resources \
    with 'kumactl apply' or via the HTTP API. You can still use 'kumactl' or the HTTP API to \
    modify them on the zone control plane.\n";
const ZONE_READ_ONLY: &str = "On zone control plane you can only modify zone resources with \
    'kumactl apply' or via the HTTP API. You can still use 'kumactl' or the HTTP API to modify the \
    rest of the resource on the global control plane.\n";

/// Answer of a successful write.
#[derive(Serialize)]
struct Written {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// May objects of the type be written here at all?
pub(crate) fn is_writable(kind: Kind, mode: &Mode) -> bool {
    match mode {
        Mode::Global { .. } => kind.writable_on_global(),
        Mode::FederatedZone { .. } => kind.writable_on_federated_zone(),
        Mode::StandaloneZone { .. } => kind.writable_on_standalone_zone(),
    }
}

/// Creates or replaces one object.
pub(crate) async fn put(call: &Call<'_>, item: Item, body: Body) -> Result<Response, Problem> {
    let api = call.api;
    check_mode(api, item.kind)?;
    // Before anything of a stranger's body is read.
    api.access.check_write(&call.user, item.kind)?;
    read::require_mesh(&api.world.snapshot(), item.kind, &item.mesh)?;
    let wanted = Wanted::read(item, &read_body(body).await?)?;
    let mut decided_again = false;
    loop {
        let snapshot = api.world.snapshot();
        let plan = plan_put(call, &snapshot, &wanted)?;
        let mut changes = vec![plan.change];
        if api.hooks.concerns(wanted.key.kind) {
            changes.extend(hook(api, &snapshot, plan.title, &changes).await?);
        }
        match commit(call, plan.title, changes, "REST PUT").await? {
            Ok(committed) => return Ok(written(&committed, plan.warnings)),
            Err(problem) if std::mem::replace(&mut decided_again, true) => return Err(problem),
            Err(_) => {}
        }
    }
}

/// Deletes one object and all that it owns.
pub(crate) async fn delete(call: &Call<'_>, item: Item) -> Result<Response, Problem> {
    let api = call.api;
    check_mode(api, item.kind)?;
    api.access.check_write(&call.user, item.kind)?;
    let key = ResourceKey::new(item.kind, &item.mesh, &item.name);
    let mut decided_again = false;
    loop {
        let snapshot = api.world.snapshot();
        let changes = plan_delete(call, &snapshot, &item.mesh, &key)?;
        let notices = notice::of_delete(&snapshot, &key);
        match commit(call, DELETE, changes, "REST DELETE").await? {
            Ok(committed) => return Ok(written(&committed, notices)),
            Err(problem) if std::mem::replace(&mut decided_again, true) => return Err(problem),
            Err(_) => {}
        }
    }
}

/// Refuses types that are not written here.
fn check_mode(api: &ApiState, kind: Kind) -> Result<(), Problem> {
    if !api.read_only && is_writable(kind, &api.mode) {
        return Ok(());
    }
    let detail = match api.mode {
        Mode::Global { .. } => GLOBAL_READ_ONLY,
        Mode::FederatedZone { .. } | Mode::StandaloneZone { .. } => ZONE_READ_ONLY,
    };
    Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", detail))
}

/// Reads a whole body.
pub(crate) async fn read_body(mut body: Body) -> Result<Vec<u8>, Problem> {
    let read = async {
        let (mut bytes, mut length) = (Vec::new(), 0_usize);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            length = length.saturating_add(data.len());
            if length <= MAX_BODY {
                bytes.extend_from_slice(&data);
            } else if length > MAX_DISCARDED {
                break;
            }
        }
        Ok((bytes, length))
    };
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok((bytes, length))) if length <= MAX_BODY => Ok(bytes),
        Ok(Ok(_)) => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            PROCESS,
            "the request body is larger than 10 MiB",
        )),
        Ok(Err(error)) => {
            let error: axum::Error = error;
            tracing::debug!(%error, "request body broke off");
            Err(Problem::bad_request("the request body could not be read"))
        }
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            PROCESS,
            "the request body did not arrive in time",
        )),
    }
}

/// What a PUT asks for. The spec is valid in itself.
struct Wanted {
    key: ResourceKey,
    /// As the URL has it; the body may disagree.
    item: Item,
    body_type: String,
    body: Desired,
}

impl Wanted {
    fn read(item: Item, bytes: &[u8]) -> Result<Self, Problem> {
        let kind = item.kind;
        let unreadable =
            |error: String| Problem::bad_request(format!("invalid {kind} object: {error:?}"));
        let value: Value = serde_json::from_slice(bytes).map_err(|e| unreadable(e.to_string()))?;
        let body = rest::read_as(kind, &value).map_err(|e| unreadable(e.to_string()))?;
        let body_type = value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let violations = validation::validate_spec(kind, &item.mesh, &item.name, &body.spec);
        if !violations.is_empty() {
            return Err(Problem::invalid(PROCESS, &violations));
        }
        let key = ResourceKey::new(kind, &item.mesh, &item.name);
        Ok(Self { key, item, body_type, body })
    }
}

/// What a PUT does, by one state of the world.
struct Plan {
    change: Change,
    /// Says whether it creates, too.
    title: &'static str,
    warnings: Vec<String>,
}

fn plan_put(call: &Call<'_>, snapshot: &Snapshot, wanted: &Wanted) -> Result<Plan, Problem> {
    let api = call.api;
    let Wanted { key, item, body_type, body } = wanted;
    let kind = key.kind;
    read::require_mesh(snapshot, kind, &item.mesh)?;
    let current = snapshot.get(key);

    let envelope = Envelope {
        kind,
        url_name: &item.name,
        url_mesh: &item.mesh,
        body_name: &body.name,
        body_type,
        body_mesh: &body.mesh,
        labels: &body.labels,
    };
    let violations = validation::validate_envelope(&api.mode, &envelope);
    if !violations.is_empty() {
        return Err(Problem::invalid(PROCESS, &violations));
    }
    if let Mode::FederatedZone { disable_origin_label_validation: false, .. } = &api.mode
        && current.is_some_and(|c| c.label(label::ORIGIN) == Some(label::ORIGIN_GLOBAL))
    {
        // As for deletions: the global cannot know that its copy here has become another object.
        let field = format!("labels[\"{}\"]", label::ORIGIN);
        let reason = "the origin label must be set to 'zone'";
        return Err(Problem::invalid_field(PROCESS, field, reason));
    }
    api.access.check_kind(&call.user, kind)?;
    if kind == Kind::DATAPLANE
        && current.is_none()
        && let Some(why) = validation::validate_workload_label(&api.mode, &body.labels)
    {
        return Err(Problem::bad_request(format!("bad request: {why}")));
    }

    let compute = |spec, labels| validation::compute_labels(&api.mode, key, spec, labels);
    let labels = compute(&body.spec, body.labels.clone());
    if let Some(current) = current {
        // Both sides computed: leaving out a computed label takes nothing away.
        let old = compute(&current.spec, current.labels.clone());
        let violations = validation::validate_immutable_labels(&old, &labels);
        if !violations.is_empty() {
            return Err(Problem::invalid("Could not update a resource", &violations));
        }
    }

    let title = if current.is_some() { UPDATE } else { CREATE };
    let mesh_key = ResourceKey::new(Kind::MESH, "", &item.mesh);
    let mesh = if kind.is_mesh_scoped() { snapshot.get(&mesh_key) } else { None };
    let mut spec = validation::apply_defaults(
        kind,
        api.mode.zone(),
        mesh.and_then(|m| m.as_mesh()),
        body.spec.clone(),
    );
    if current.is_none() {
        spec = dataplane::awaiting_probes(spec);
    }
    guard::check_put(snapshot, title, key, &spec, current.map(|r| &**r), mesh.map(|r| &**r))?;

    let unknown = body.unknown.iter().map(|field| format!("unknown field {field:?} was ignored"));
    let mut warnings: Vec<String> =
        unknown.chain(validation::warnings(key, &labels, &spec)).collect();
    warnings.extend(notice::of_put(snapshot, key, &spec, mesh.and_then(|m| m.as_mesh())));
    let (owner, expect) = match current {
        Some(current) => (OwnerRef::Keep, Expect::Version(current.version)),
        None if kind.is_mesh_scoped() => (OwnerRef::Key(mesh_key), Expect::Absent),
        None => (OwnerRef::None, Expect::Absent),
    };
    let op = Operation::Put { spec, labels, status: StatusChange::Keep, owner, expect };
    Ok(Plan { change: Change { key: key.clone(), op }, title, warnings })
}

fn plan_delete(
    call: &Call<'_>,
    snapshot: &Snapshot,
    mesh: &str,
    key: &ResourceKey,
) -> Result<Vec<Change>, Problem> {
    let api = call.api;
    read::require_mesh(snapshot, key.kind, mesh)?;
    let stored = snapshot.get(key).ok_or_else(|| Problem::not_found(DELETE))?;
    let violations = validation::validate_delete_labels(&api.mode, stored);
    if !violations.is_empty() {
        return Err(Problem::invalid(DELETE, &violations));
    }
    api.access.check_kind(&call.user, key.kind)?;
    guard::check_delete(api, DELETE, snapshot, stored)?;

    let mut changes = Vec::new();
    if key.kind == Kind::MESH {
        // What came from a zone belongs to the Zone, but goes with its mesh all the same.
        let strangers = Kind::all()
            .filter(|kind| kind.is_mesh_scoped())
            .flat_map(|kind| snapshot.list_mesh(kind, &key.name))
            .filter(|r| r.owner.as_ref().is_none_or(|owner| owner.uid != stored.uid));
        changes.extend(strangers.map(|r| Change::delete(r.key.clone())));
    }
    let op = Operation::Delete { expect: Expect::Version(stored.version) };
    changes.push(Change { key: key.clone(), op });
    Ok(changes)
}

/// What the control plane adds to the write of the one object in `changes`.
async fn hook(
    api: &ApiState,
    snapshot: &Arc<Snapshot>,
    title: &'static str,
    changes: &[Change],
) -> Result<Vec<Change>, Problem> {
    let Some(Change { key, op: Operation::Put { spec, .. } }) = changes.first() else {
        return Ok(Vec::new());
    };
    let (hooks, snapshot) = (Arc::clone(&api.hooks), Arc::clone(snapshot));
    let (key, spec) = (key.clone(), spec.clone());
    let now = (api.clock)();
    let added = tokio::task::spawn_blocking(move || {
        if title == CREATE {
            hooks.before_create(&snapshot, &key, &spec, now)
        } else {
            hooks.before_update(&snapshot, &key, &spec, now)
        }
    });
    match added.await {
        Ok(added) => added,
        Err(error) => {
            tracing::error!(%error, "hook was aborted");
            Err(Problem::internal(title))
        }
    }
}

/// Commits. An inner problem means that the write was decided on a state of the world that is no
/// longer the last; the world has caught up by now. With several replicas a client may write through
/// one what it has just written through another, and that is no race, so the caller decides once
/// more. If that attempt loses as well, somebody else is writing at this very moment.
async fn commit(
    call: &Call<'_>,
    title: &str,
    changes: Vec<Change>,
    reason: &str,
) -> Result<Result<Committed, Problem>, Problem> {
    let batch = Batch {
        changes,
        author: call.user.name.clone(),
        reason: reason.to_owned(),
        mode: BatchMode::AllOrNothing,
        at: (call.api.clock)(),
    };
    let committed =
        call.api.world.commit(batch).await.map_err(|e| Problem::from_store(title, &e))?;
    let errors = committed.results.iter().filter_map(|r| r.as_ref().err());
    match errors.clone().find(|e| !matches!(e, ChangeError::NotApplied(_))) {
        None => Ok(Ok(committed)),
        Some(error) => {
            let problem = Problem::from_change(title, error);
            match error {
                ChangeError::AlreadyExists(_)
                | ChangeError::Conflict(_)
                | ChangeError::NotFound(_)
                | ChangeError::OwnerMissing { .. } => Ok(Err(problem)),
                ChangeError::TooLarge { .. }
                | ChangeError::NullCharacter { .. }
                | ChangeError::NotApplied(_) => Err(problem),
            }
        }
    }
}

fn written(committed: &Committed, warnings: Vec<String>) -> Response {
    let status = match committed.results.first() {
        Some(Ok(Outcome::Created(_))) => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    with_revision(reply::json(status, &Written { warnings }), committed.revision)
}
