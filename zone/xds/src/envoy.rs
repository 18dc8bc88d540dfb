//! Short ways to build the small Envoy messages that appear everywhere.

use prost_types::{Any, Duration};
use sunbear_proto::envoy::{
    config::core::v3::{
        Address, AggregatedConfigSource, ApiVersion, ConfigSource, HeaderValue, HeaderValueOption,
        Http2ProtocolOptions, Pipe, SocketAddress, TransportSocket, address,
        config_source::ConfigSourceSpecifier, header_value_option::HeaderAppendAction,
        socket_address::PortSpecifier, transport_socket,
    },
    r#type::{
        matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher},
        v3::{FractionalPercent, fractional_percent::DenominatorType},
    },
};

/// Buffer limit of edge listeners and of their upstream connections.
pub(crate) const BUFFER_LIMIT: u32 = 32 * 1024;

pub(crate) const fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

pub(crate) const fn millis(millis: i64) -> Duration {
    Duration { seconds: millis / 1000, nanos: (millis % 1000) as i32 * 1_000_000 }
}

pub(crate) fn is_positive(duration: &Duration) -> bool {
    duration.seconds > 0 || (duration.seconds == 0 && duration.nanos > 0)
}

/// A duration that Envoy takes: not negative, well-formed, and within a hundred years, which it can
/// count in nanoseconds.
pub(crate) fn sane(duration: Duration) -> Duration {
    const LONGEST: i64 = 100 * 365 * 24 * 3600;
    match duration.seconds {
        ..0 => Duration::default(),
        LONGEST.. => seconds(LONGEST),
        seconds => Duration { seconds, nanos: duration.nanos.clamp(0, 999_999_999) },
    }
}

pub(crate) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

pub(crate) fn socket_address(address: &str, port: u32) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        })),
    }
}

pub(crate) fn pipe(path: &str) -> Address {
    Address {
        address: Some(address::Address::Pipe(Pipe { path: path.to_owned(), ..Pipe::default() })),
    }
}

pub(crate) fn tls_socket<M: prost::Message + prost::Name>(context: &M) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(pack(context))),
    }
}

pub(crate) fn pack<M: prost::Message + prost::Name>(message: &M) -> Any {
    sunbear_proto::pack(message)
}

pub(crate) fn exact(text: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(text.to_owned())),
        ..StringMatcher::default()
    }
}

pub(crate) fn prefix(text: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Prefix(text.to_owned())),
        ..StringMatcher::default()
    }
}

pub(crate) fn regex(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.to_owned(), ..RegexMatcher::default() }
}

pub(crate) fn regex_string(text: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::SafeRegex(regex(text))),
        ..StringMatcher::default()
    }
}

/// Replaces a whole path.
pub(crate) fn replace_all(substitution: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute { pattern: Some(regex(".*")), substitution: substitution.to_owned() }
}

pub(crate) fn header(key: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    }
}

/// HTTP/2 windows for the edge: small enough that one client cannot pin much memory.
pub(crate) fn http2_windows() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        initial_stream_window_size: Some(64 * 1024),
        initial_connection_window_size: Some(1024 * 1024),
        ..Http2ProtocolOptions::default()
    }
}

/// A percentage with the coarsest denominator that holds it.
pub(crate) fn fraction(percentage: f64) -> FractionalPercent {
    let (numerator, denominator) = if percentage.fract() == 0.0 {
        (percentage, DenominatorType::Hundred)
    } else if (percentage * 100.0).fract() == 0.0 {
        (percentage * 100.0, DenominatorType::TenThousand)
    } else {
        ((percentage * 10_000.0).round(), DenominatorType::Million)
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float casts saturate, which is what a bad percentage gets"
    )]
    FractionalPercent { numerator: numerator as u32, denominator: denominator.into() }
}

/// A name as statistics can carry it: everything outside `[a-zA-Z0-9_-]` becomes `_`.
pub(crate) fn sanitised(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' })
        .collect()
}

/// The name for statistics, if the name itself cannot be used.
pub(crate) fn alt_stat_name(name: &str) -> String {
    let sanitised = sanitised(name);
    if sanitised == name { String::new() } else { sanitised }
}

#[cfg(test)]
mod tests {
    use sunbear_proto::envoy::r#type::v3::fractional_percent::DenominatorType;

    use super::{alt_stat_name, fraction};

    #[test]
    fn fractions() {
        for (percentage, numerator, denominator) in [
            (1.0, 1, DenominatorType::Hundred),
            (100.0, 100, DenominatorType::Hundred),
            (0.5, 50, DenominatorType::TenThousand),
            (0.001, 10, DenominatorType::Million),
            (-3.0, 0, DenominatorType::Hundred),
        ] {
            let got = fraction(percentage);
            assert_eq!(
                (got.numerator, got.denominator()),
                (numerator, denominator),
                "{percentage}"
            );
        }
    }

    #[test]
    fn statistics_names() {
        assert_eq!(alt_stat_name("plain-name_1"), "");
        assert_eq!(alt_stat_name("a.b:c"), "a_b_c");
    }
}
