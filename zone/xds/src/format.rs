//! Envoy's format strings, in access logs and values of headers. One that Envoy cannot parse makes
//! it refuse the listener or the route configuration that holds it, so it is left out before.

/// Why Envoy would refuse a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("it cannot hold control characters")]
    Control,
    #[error("a header name cannot be empty")]
    NoName,
    #[error("pseudo headers and the host can only be set on requests")]
    Pseudo,
    #[error("a percent sign that begins no command is written %%")]
    Percent,
    #[error("unknown command {0}")]
    Unknown(String),
    #[error("wrong arguments of command {0}")]
    Arguments(String),
}

/// What may stand in the parentheses of a command.
#[derive(Clone, Copy)]
enum Arguments {
    /// Nothing.
    None,
    /// Anything or nothing.
    Optional,
    /// Anything, but something.
    Some,
    /// A header, or two with a question mark between them.
    Header,
    /// A format of times; there may be none.
    Time,
    /// One of these, or nothing.
    OneOf(&'static [&'static str]),
    /// Key and form of serialised state.
    State,
    /// Two moments and a unit.
    Span,
}

use Arguments::{Header, None as Nothing, OneOf, Optional, Some as Something, Span, State, Time};

/// The commands by their arguments, and whether a maximum length may follow. These are the ones
/// that need no further extension of Envoy.
const COMMANDS: &[(Arguments, bool, &[&str])] = &[
    (
        Header,
        true,
        &["REQ", "RESP", "TRAILER", "REQUEST_HEADER", "RESPONSE_HEADER", "RESPONSE_TRAILER"],
    ),
    (Something, true, &["DYNAMIC_METADATA", "ENVIRONMENT", "QUERY_PARAM"]),
    (Something, false, &["CLUSTER_METADATA", "UPSTREAM_METADATA"]),
    (State, true, &["FILTER_STATE", "UPSTREAM_FILTER_STATE"]),
    (Span, false, &["COMMON_DURATION"]),
    (
        Time,
        false,
        &[
            "DOWNSTREAM_PEER_CERT_V_END",
            "DOWNSTREAM_PEER_CERT_V_START",
            "EMIT_TIME",
            "EMIT_TIME_LOCAL",
            "START_TIME",
            "START_TIME_LOCAL",
            "UPSTREAM_PEER_CERT_V_END",
            "UPSTREAM_PEER_CERT_V_START",
        ],
    ),
    (
        Optional,
        false,
        &[
            "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
            "RESPONSE_CODE_DETAILS",
            "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        ],
    ),
    (OneOf(&["CAMEL_STRING", "SNAKE_STRING", "NUMBER"]), false, &["GRPC_STATUS"]),
    (OneOf(&["ORIG", "DECODED"]), true, &["QUERY_PARAMS"]),
    (
        OneOf(&[
            "WQ",
            "NQ",
            "WQ:ORIG",
            "NQ:ORIG",
            "WQ:PATH",
            "NQ:PATH",
            "WQ:ORIG_OR_PATH",
            "NQ:ORIG_OR_PATH",
        ]),
        true,
        &["PATH"],
    ),
    (OneOf(&["SNI_ONLY", "SNI_FIRST", "HOST_FIRST"]), false, &["REQUESTED_SERVER_NAME"]),
    (
        Nothing,
        false,
        &[
            "ACCESS_LOG_TYPE",
            "BYTES_RECEIVED",
            "BYTES_RETRANSMITTED",
            "BYTES_SENT",
            "CONNECTION_ID",
            "CONNECTION_TERMINATION_DETAILS",
            "CUSTOM_FLAGS",
            "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
            "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
            "DOWNSTREAM_DETECTED_CLOSE_TYPE",
            "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
            "DOWNSTREAM_DIRECT_LOCAL_PORT",
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
            "DOWNSTREAM_DIRECT_REMOTE_PORT",
            "DOWNSTREAM_HANDSHAKE_DURATION",
            "DOWNSTREAM_HEADER_BYTES_RECEIVED",
            "DOWNSTREAM_HEADER_BYTES_SENT",
            "DOWNSTREAM_LOCAL_ADDRESS",
            "DOWNSTREAM_LOCAL_DNS_SAN",
            "DOWNSTREAM_LOCAL_EMAIL_SAN",
            "DOWNSTREAM_LOCAL_IP_SAN",
            "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
            "DOWNSTREAM_LOCAL_PORT",
            "DOWNSTREAM_LOCAL_SUBJECT",
            "DOWNSTREAM_LOCAL_URI_SAN",
            "DOWNSTREAM_PEER_CERT",
            "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
            "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
            "DOWNSTREAM_PEER_CHAIN_SERIALS",
            "DOWNSTREAM_PEER_DNS_SAN",
            "DOWNSTREAM_PEER_EMAIL_SAN",
            "DOWNSTREAM_PEER_FINGERPRINT_1",
            "DOWNSTREAM_PEER_FINGERPRINT_256",
            "DOWNSTREAM_PEER_IP_SAN",
            "DOWNSTREAM_PEER_ISSUER",
            "DOWNSTREAM_PEER_OTHERNAME_SAN",
            "DOWNSTREAM_PEER_SERIAL",
            "DOWNSTREAM_PEER_SUBJECT",
            "DOWNSTREAM_PEER_URI_SAN",
            "DOWNSTREAM_REMOTE_ADDRESS",
            "DOWNSTREAM_REMOTE_PORT",
            "DOWNSTREAM_TLS_CIPHER",
            "DOWNSTREAM_TLS_SESSION_ID",
            "DOWNSTREAM_TLS_VERSION",
            "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
            "DOWNSTREAM_WIRE_BYTES_RECEIVED",
            "DOWNSTREAM_WIRE_BYTES_SENT",
            "DURATION",
            "FILTER_CHAIN_NAME",
            "GRPC_STATUS_NUMBER",
            "HOSTNAME",
            "LOCAL_REPLY_BODY",
            "PACKETS_RETRANSMITTED",
            "PROTOCOL",
            "REQUEST_DURATION",
            "REQUEST_HEADERS_BYTES",
            "REQUEST_TX_DURATION",
            "RESPONSE_CODE",
            "RESPONSE_DURATION",
            "RESPONSE_FLAGS",
            "RESPONSE_FLAGS_LONG",
            "RESPONSE_HEADERS_BYTES",
            "RESPONSE_TRAILERS_BYTES",
            "RESPONSE_TX_DURATION",
            "ROUNDTRIP_DURATION",
            "ROUTE_NAME",
            "STREAM_ID",
            "TLS_JA3_FINGERPRINT",
            "TLS_JA4_FINGERPRINT",
            "TRACE_ID",
            "UNIQUE_ID",
            "UPSTREAM_CLUSTER",
            "UPSTREAM_CLUSTER_RAW",
            "UPSTREAM_CONNECTION_ID",
            "UPSTREAM_CONNECTION_POOL_READY_DURATION",
            "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
            "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
            "UPSTREAM_DETECTED_CLOSE_TYPE",
            "UPSTREAM_HEADER_BYTES_RECEIVED",
            "UPSTREAM_HEADER_BYTES_SENT",
            "UPSTREAM_HOST",
            "UPSTREAM_HOST_NAME",
            "UPSTREAM_HOST_NAME_WITHOUT_PORT",
            "UPSTREAM_LOCAL_ADDRESS",
            "UPSTREAM_LOCAL_DNS_SAN",
            "UPSTREAM_LOCAL_IP_SAN",
            "UPSTREAM_LOCAL_PORT",
            "UPSTREAM_LOCAL_URI_SAN",
            "UPSTREAM_PEER_CERT",
            "UPSTREAM_PEER_DNS_SAN",
            "UPSTREAM_PEER_IP_SAN",
            "UPSTREAM_PEER_ISSUER",
            "UPSTREAM_PEER_SUBJECT",
            "UPSTREAM_PEER_URI_SAN",
            "UPSTREAM_PROTOCOL",
            "UPSTREAM_REMOTE_ADDRESS",
            "UPSTREAM_REMOTE_PORT",
            "UPSTREAM_REQUEST_ATTEMPT_COUNT",
            "UPSTREAM_TLS_CIPHER",
            "UPSTREAM_TLS_SESSION_ID",
            "UPSTREAM_TLS_VERSION",
            "UPSTREAM_TRANSPORT_FAILURE_REASON",
            "UPSTREAM_WIRE_BYTES_RECEIVED",
            "UPSTREAM_WIRE_BYTES_SENT",
            "VIRTUAL_CLUSTER_NAME",
        ],
    ),
];

/// Checks a text: `%%` is a percent sign, `%COMMAND%`, `%COMMAND(arguments)%` and
/// `%COMMAND(arguments):length%` are replaced.
pub(crate) fn check(text: &str) -> Result<(), FormatError> {
    if text.contains('\0') {
        return Err(FormatError::Control);
    }
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        rest = match after.strip_prefix('%') {
            Some(rest) => rest,
            None => command(after)?,
        };
    }
    Ok(())
}

/// Checks a header that is added: its name, and its value, which is a format.
pub(crate) fn check_header(name: &str, value: &str) -> Result<(), FormatError> {
    check_name(name)?;
    check_value(value)
}

/// Checks the name of a header that is added or taken away.
pub(crate) fn check_name(name: &str) -> Result<(), FormatError> {
    if name.is_empty() {
        Err(FormatError::NoName)
    } else if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        Err(FormatError::Pseudo)
    } else if name.contains(is_control) {
        Err(FormatError::Control)
    } else {
        Ok(())
    }
}

/// Checks the value of a header that is added.
pub(crate) fn check_value(value: &str) -> Result<(), FormatError> {
    if value.contains(is_control) { Err(FormatError::Control) } else { check(value) }
}

fn is_control(c: char) -> bool {
    matches!(c, '\0' | '\r' | '\n')
}

/// Reads a command after its percent sign; returns what follows it.
fn command(text: &str) -> Result<&str, FormatError> {
    let named = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_';
    let (name, mut rest) = text.split_at(text.bytes().take_while(|b| named(b)).count());
    if name.is_empty() {
        return Err(FormatError::Percent);
    }
    let mut arguments = "";
    if let Some(open) = rest.strip_prefix('(') {
        (arguments, rest) = open.split_once(')').ok_or(FormatError::Percent)?;
    }
    let mut length = None;
    if let Some(after) = rest.strip_prefix(':') {
        let (digits, after) = after.split_at(after.bytes().take_while(u8::is_ascii_digit).count());
        length = Some(digits);
        rest = after;
    }
    let rest = rest.strip_prefix('%').ok_or(FormatError::Percent)?;
    let known = COMMANDS.iter().find(|(_, _, names)| names.contains(&name));
    let (wanted, limited, _) = known.ok_or_else(|| FormatError::Unknown(name.to_owned()))?;
    let length_fits = length.is_none_or(|digits| *limited && digits.parse::<u32>().is_ok());
    if length_fits && fits(*wanted, arguments) {
        Ok(rest)
    } else {
        Err(FormatError::Arguments(name.to_owned()))
    }
}

fn fits(wanted: Arguments, arguments: &str) -> bool {
    match wanted {
        Nothing => arguments.is_empty(),
        Optional => true,
        Something => !arguments.is_empty(),
        Header => {
            let mut names = arguments.split('?');
            names.clone().count() <= 2 && names.all(is_header_name)
        }
        Time => !breaks_lines(arguments),
        OneOf(allowed) => arguments.is_empty() || allowed.contains(&arguments),
        State => {
            let parts: Vec<&str> = arguments.split(':').collect();
            match parts.as_slice() {
                [key] | [key, "PLAIN" | "TYPED"] => !key.is_empty(),
                [key, "FIELD", field] => !key.is_empty() && !field.is_empty(),
                _ => false,
            }
        }
        Span => {
            let parts: Vec<&str> = arguments.split(':').collect();
            match parts.as_slice() {
                [from, to] | [from, to, "ms" | "us" | "ns"] => !from.is_empty() && !to.is_empty(),
                _ => false,
            }
        }
    }
}

/// A name that a header can have, or that of a pseudo header.
fn is_header_name(name: &str) -> bool {
    let name = name.strip_prefix(':').unwrap_or(name);
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Has a format of times a conversion to a line break?
fn breaks_lines(format: &str) -> bool {
    format.contains('\n')
        || format.split('%').skip(1).any(|conversion| {
            let conversion = conversion.trim_start_matches(['-', '_', '0', '^', '#']);
            let conversion = conversion.trim_start_matches(|c| ('1'..='9').contains(&c));
            conversion.strip_prefix(['E', 'O']).unwrap_or(conversion).starts_with('n')
        })
}

#[cfg(test)]
mod tests {
    use super::{FormatError, check, check_header};

    #[test]
    fn formats() {
        for good in [
            "a",
            "100%%",
            "%PROTOCOL%",
            "x%REQ(a?:path):10%y%%",
            "%START_TIME(%Y-%m-%d)%",
            "%PATH():5%",
            "%FILTER_STATE(a:FIELD:b):5%",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "100%",
            "%lower%",
            "%A",
            "%REQ(a%",
            "%REQ(a)b%",
            "%REQ()%",
            "%REQ(a?b?c)%",
            "%REQ(a b)%",
            "%REQ(a):%",
            "%REQ(a):99999999999%",
            "%START_TIME(%En)%",
            "%START_TIME(a%%nb)%",
            "%UPSTREAM_HOST(x)%",
            "%NEVER_HEARD_OF%",
            "%FILTER_STATE(a:x)%",
            "%COMMON_DURATION(a)%",
            "a\0b",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert_eq!(check_header("a", "b\nc"), Err(FormatError::Control));
    }
}
