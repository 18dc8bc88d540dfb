//! An API that answers as told and records all requests, and the program run against it.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use serde_json::Value;

/// A request as it came in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    /// Method, path and query.
    pub(crate) line: String,
    pub(crate) content_type: Option<String>,
    pub(crate) accept: Option<String>,
    pub(crate) authorization: Option<String>,
    /// A header that tests set.
    pub(crate) extra: Option<String>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

type Answer = dyn Fn(&str) -> (u16, String) + Send + Sync;

struct Inner {
    answer: Box<Answer>,
    seen: Mutex<Vec<Seen>>,
}

/// The API; stops with its runtime.
pub(crate) struct Api {
    inner: Arc<Inner>,
    pub(crate) address: String,
    _runtime: tokio::runtime::Runtime,
}

impl Api {
    /// Starts an API whose answers depend on `METHOD path?query`.
    pub(crate) fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let inner = Arc::new(Inner { answer: Box::new(answer), seen: Mutex::default() });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(handle).with_state(Arc::clone(&inner));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { inner, address, _runtime: runtime }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().unwrap().clone()
    }

    /// The request lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|s| s.line).collect()
    }

    /// Runs the program with this API.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        run(&self.address, arguments, &[], "")
    }
}

async fn handle(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let header =
        |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let seen = Seen {
        line: format!("{} {}", parts.method, parts.uri),
        content_type: header("content-type"),
        accept: header("accept"),
        authorization: header("authorization"),
        extra: header("x-extra"),
        body: String::from_utf8(bytes.to_vec()).unwrap(),
    };
    let (status, body) = (inner.answer)(&seen.line);
    inner.seen.lock().unwrap().push(seen);
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::from(body))
        .unwrap()
}

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the program with nothing but the given environment.
pub(crate) fn run(
    address: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
    input: &str,
) -> Done {
    let environment = [&[("SUNBEAR_ADDRESS", address)], environment].concat();
    run_in(arguments, &environment, input)
}

/// The same without a control plane, unless the environment names one.
pub(crate) fn run_in(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Done {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sunbearctl"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
