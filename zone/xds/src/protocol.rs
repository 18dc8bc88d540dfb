//! Application protocols of services and destinations.

/// A protocol as the tag `kuma.io/protocol` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Grpc,
    Http,
    Http2,
    Kafka,
    Tcp,
    /// TLS and what else is only passed through.
    Tls,
}

impl Protocol {
    /// Reads the value of a tag; none if it is unknown.
    pub(crate) fn parse(text: &str) -> Option<Protocol> {
        match text.to_ascii_lowercase().as_str() {
            "grpc" => Some(Protocol::Grpc),
            "http" => Some(Protocol::Http),
            "http2" => Some(Protocol::Http2),
            "kafka" => Some(Protocol::Kafka),
            "tcp" => Some(Protocol::Tcp),
            "tls" | "mysql" => Some(Protocol::Tls),
            _ => None,
        }
    }

    fn stack(self) -> &'static [Protocol] {
        match self {
            Protocol::Grpc => &[Protocol::Grpc, Protocol::Http2, Protocol::Tcp],
            Protocol::Http => &[Protocol::Http, Protocol::Tcp],
            Protocol::Http2 => &[Protocol::Http2, Protocol::Tcp],
            Protocol::Kafka => &[Protocol::Kafka, Protocol::Tcp],
            Protocol::Tcp | Protocol::Tls => &[Protocol::Tcp],
        }
    }

    /// The protocol that both speak.
    fn common(self, other: Protocol) -> Option<Protocol> {
        if self == other {
            return Some(self);
        }
        self.stack().iter().copied().find(|p| other.stack().contains(p))
    }

    /// The protocol that all speak; none if one is unknown or there are none.
    pub(crate) fn common_of(
        protocols: impl IntoIterator<Item = Option<Protocol>>,
    ) -> Option<Protocol> {
        let mut protocols = protocols.into_iter();
        let first = protocols.next()??;
        protocols.try_fold(first, |common, protocol| common.common(protocol?))
    }
}

#[cfg(test)]
mod tests {
    use super::Protocol::{self, Grpc, Http, Http2, Kafka, Tcp};

    #[test]
    fn common_protocols() {
        for (protocols, want) in [
            (&[][..], None),
            (&[Some(Http)], Some(Http)),
            (&[Some(Http), Some(Http2)], Some(Tcp)),
            (&[Some(Http2), Some(Grpc), Some(Http2)], Some(Http2)),
            (&[Some(Kafka), Some(Tcp)], Some(Tcp)),
            (&[Some(Http), None], None),
        ] {
            assert_eq!(Protocol::common_of(protocols.iter().copied()), want, "{protocols:?}");
        }
    }
}
