//! TrafficLog: access logs of a gateway. Only the policy for traffic that passes through counts, as
//! a gateway has no outbounds (Kuma: pkg/xds/envoy/listeners/v3/access_log_configurer.go).

use sunbear_model::{
    label,
    tags::{self, Rank, Tags},
};
use sunbear_proto::{
    envoy::{
        config::{
            accesslog::v3::{AccessLog, access_log::ConfigType},
            core::v3::{
                DataSource, SubstitutionFormatString, data_source::Specifier,
                substitution_format_string::Format,
            },
        },
        extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat},
    },
    kuma::mesh::v1alpha1::{
        FileLoggingBackendConfig, LoggingBackend, Selector, TcpLoggingBackendConfig, TrafficLog,
    },
};

use crate::{
    backend,
    context::{Context, Own},
    envoy::pack,
    format,
    issue::Issues,
    proxy::is_ip,
};

/// The service that traffic to nowhere in particular belongs to.
const PASS_THROUGH: &str = "pass_through";

const HTTP: &str = "[%START_TIME%] %KUMA_MESH% \"%REQ(:METHOD)% \
%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-B3-TRACEID?X-DATADOG-TRACEID)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%KUMA_SOURCE_SERVICE%\" \
\"%KUMA_DESTINATION_SERVICE%\" \"%KUMA_SOURCE_ADDRESS_WITHOUT_PORT%\" \"%UPSTREAM_HOST%\"";

const TCP: &str = "[%START_TIME%] %RESPONSE_FLAGS% %KUMA_MESH% \
%KUMA_SOURCE_ADDRESS_WITHOUT_PORT%(%KUMA_SOURCE_SERVICE%)->%UPSTREAM_HOST%\
(%KUMA_DESTINATION_SERVICE%) took %DURATION%ms, sent %BYTES_SENT% bytes, received: \
%BYTES_RECEIVED% bytes";

/// Where lines go.
#[derive(Debug, Clone, PartialEq)]
enum Sink {
    /// A file on the proxy's machine.
    File(String),
    /// An address; the proxy's agent forwards what comes in on its socket.
    Tcp(String),
}

/// What connections of a gateway are logged with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Logs {
    sink: Sink,
    http: String,
    tcp: String,
}

/// Looks for the policy that counts, and for its backend.
pub(crate) fn load(ctx: &Context<'_>, issues: &mut Issues) -> Option<Logs> {
    let decoded = ctx.decode_all::<TrafficLog>("TrafficLog", issues);
    let destination = Tags::from([(label::SERVICE_TAG.to_owned(), PASS_THROUGH.to_owned())]);
    let mut best: Option<(&TrafficLog, Rank, time::OffsetDateTime)> = None;
    for (resource, log) in &decoded {
        let highest = |selectors: &[Selector], matches: &dyn Fn(&Tags) -> bool| {
            let matching = selectors.iter().map(|s| &s.r#match).filter(|s| matches(s));
            matching.map(Rank::of).max()
        };
        let source = highest(&log.sources, &|s| tags::matches_dataplane(s, &ctx.dataplane));
        let target = highest(&log.destinations, &|s| tags::matches(s, &destination));
        let Some((source, target)) = source.zip(target) else { continue };
        let rank = source.combined(target);
        if best.is_none_or(|(_, highest, created)| {
            rank > highest || (rank == highest && resource.created_at > created)
        }) {
            best = Some((log, rank, resource.created_at));
        }
    }
    let (log, _, _) = best?;
    let logging = ctx.mesh()?.logging.as_ref()?;
    let wanted = log.conf.as_ref().map_or("", |c| &c.backend);
    let wanted = if wanted.is_empty() { &logging.default_backend } else { wanted };
    let index = logging.backends.iter().position(|b| b.name == *wanted)?;
    match of_backend(ctx, &logging.backends[index]) {
        Ok(logs) => Some(logs),
        Err((field, reason)) => {
            let field = format!("logging.backends[{index}].{field}");
            issues.left_out(&ctx.inputs.mesh.key, field, reason);
            None
        }
    }
}

fn of_backend(ctx: &Context<'_>, backend: &LoggingBackend) -> Result<Logs, (&'static str, String)> {
    let conf = |reason: String| ("conf", reason);
    let missing = || conf("path or address is missing".to_owned());
    let usable = |text: String| Some(text).filter(|t| !t.is_empty() && !t.contains('\0'));
    let sink = match backend.r#type.as_str() {
        "file" => {
            let file: FileLoggingBackendConfig =
                backend::typed(backend.conf.as_ref()).map_err(conf)?;
            Sink::File(usable(file.path).ok_or_else(missing)?)
        }
        "tcp" => {
            let tcp: TcpLoggingBackendConfig =
                backend::typed(backend.conf.as_ref()).map_err(conf)?;
            Sink::Tcp(usable(tcp.address).ok_or_else(missing)?)
        }
        other => return Err(("type", format!("unknown type {other:?}"))),
    };
    let text = |default: &str| {
        let text = if backend.format.is_empty() { default } else { &backend.format };
        let text = of_gateway(ctx, text);
        // What is still to be replaced per proxy is no command.
        match format::check(&of_proxy(&text, "")) {
            Ok(()) => Ok(text),
            Err(error) => Err(("format", error.to_string())),
        }
    };
    Ok(Logs { sink, http: text(HTTP)?, tcp: text(TCP)? })
}

/// Replaces what is equal for all proxies of a gateway.
fn of_gateway(ctx: &Context<'_>, format: &str) -> String {
    format
        .replace("%KUMA_SOURCE_SERVICE%", &ctx.service)
        .replace("%KUMA_DESTINATION_SERVICE%", "*")
        .replace("%KUMA_MESH%", ctx.mesh_name())
        .replace("%KUMA_TRAFFIC_DIRECTION%", "INBOUND")
        .replace("%KUMA_ZONE%", "")
        .replace("%KUMA_WORKLOAD%", "")
}

fn of_proxy(format: &str, address: &str) -> String {
    let with_port = if is_ip(address) && address.contains(':') {
        format!("[{address}]:0")
    } else {
        format!("{address}:0")
    };
    format
        .replace("%KUMA_SOURCE_ADDRESS%", &with_port)
        .replace("%KUMA_SOURCE_ADDRESS_WITHOUT_PORT%", address)
}

impl Logs {
    /// The log of a connection manager of a proxy.
    pub(crate) fn http(&self, own: &Own<'_>) -> AccessLog {
        self.log(own, &self.http)
    }

    /// The log of a TCP proxy of a proxy.
    pub(crate) fn tcp(&self, own: &Own<'_>) -> AccessLog {
        self.log(own, &self.tcp)
    }

    fn log(&self, own: &Own<'_>, format: &str) -> AccessLog {
        let text = of_proxy(format, own.advertised_address());
        let (path, text) = match &self.sink {
            Sink::File(path) => (path.clone(), format!("{text}\n")),
            Sink::Tcp(address) => (socket_path(own), format!("{address};{text}\n")),
        };
        let format = SubstitutionFormatString {
            format: Some(Format::TextFormatSource(DataSource {
                specifier: Some(Specifier::InlineString(text)),
                ..DataSource::default()
            })),
            ..SubstitutionFormatString::default()
        };
        AccessLog {
            name: "envoy.access_loggers.file".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack(&FileAccessLog {
                path,
                access_log_format: Some(AccessLogFormat::LogFormat(format)),
            }))),
            ..AccessLog::default()
        }
    }
}

/// Where the proxy's agent listens for log lines. Paths of sockets have to be short.
fn socket_path(own: &Own<'_>) -> String {
    let file = format!("kuma-al-{}-{}", own.proxy.name, own.proxy.mesh);
    let path = crate::admin::in_work_dir(&own.proxy.metadata.work_dir, &file);
    let mut end = path.len().min(98);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}.sock", &path[..end])
}
