//! Resources as delta responses carry them (`spec/kds.md` 2.1-2.4).

use std::{collections::BTreeMap, sync::Arc};

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use sunbear_model::{Codec, Kind, ResourceKey, Spec};
use sunbear_proto::{
    envoy::service::discovery::v3::Resource as DeltaResource,
    kuma::mesh::v1alpha1::{KumaResource, kuma_resource::Meta},
};

/// Type URL of the envelope.
pub const ENVELOPE_URL: &str = "type.googleapis.com/kuma.mesh.v1alpha1.KumaResource";

/// An encoded resource, ready to be put in any number of responses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireResource {
    /// `<name>.<mesh>`; ends with a dot for types of global scope.
    pub name: Arc<str>,
    /// Hash of the content.
    pub version: Arc<str>,
    /// The encoded `KumaResource`.
    pub bytes: Arc<[u8]>,
}

/// Encodes one resource.
pub fn encode(
    kind: Kind,
    mesh: &str,
    name: &str,
    labels: &BTreeMap<String, String>,
    spec: &[u8],
    status: Option<&[u8]>,
) -> WireResource {
    let message = KumaResource {
        meta: Some(Meta {
            name: name.to_owned(),
            mesh: mesh.to_owned(),
            version: String::new(),
            labels: labels.clone(),
        }),
        spec: Some(prost_types::Any { type_url: spec_url(kind), value: spec.to_vec() }),
        status: status.map(|s| prost_types::Any { type_url: String::new(), value: s.to_vec() }),
    };
    let bytes = message.encode_to_vec();
    WireResource {
        name: format!("{name}.{mesh}").into(),
        version: hex(&Sha256::digest(&bytes)).into(),
        bytes: bytes.into(),
    }
}

fn spec_url(kind: Kind) -> String {
    match kind.row().codec {
        Codec::Proto(message) => format!("type.googleapis.com/{message}"),
        Codec::Json { .. } => String::new(),
    }
}

impl WireResource {
    /// The form in a response.
    pub fn to_delta(&self) -> DeltaResource {
        DeltaResource {
            name: self.name.to_string(),
            version: self.version.to_string(),
            resource: Some(prost_types::Any {
                type_url: ENVELOPE_URL.to_owned(),
                value: self.bytes.to_vec(),
            }),
            ..DeltaResource::default()
        }
    }
}

/// A resource as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Key under which the peer names it.
    pub key: ResourceKey,
    /// The name that a later removal will use.
    pub wire_name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Spec, kept byte for byte.
    pub spec: Spec,
    /// Status, if the type has one and it came.
    pub status: Option<Arc<[u8]>>,
}

/// Why a resource of a response cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("resource {name:?} of type {kind}: {reason}")]
pub struct DecodeError {
    /// Type of the response.
    pub kind: Kind,
    /// Name that the response gives it.
    pub name: String,
    /// What is wrong.
    pub reason: String,
    /// Its key, if at least that could be read.
    pub key: Option<ResourceKey>,
}

/// Decodes one resource of a response of type `kind`. The spec is checked to decode, and its
/// bytes are kept verbatim.
pub fn decode(kind: Kind, resource: DeltaResource) -> Result<Received, DecodeError> {
    let name = resource.name;
    let fail = |reason: String, key: Option<ResourceKey>| DecodeError {
        kind,
        name: name.clone(),
        reason,
        key,
    };
    let any = resource.resource.ok_or_else(|| fail("no content".to_owned(), None))?;
    if any.type_url != ENVELOPE_URL {
        return Err(fail(format!("unexpected envelope {:?}", any.type_url), None));
    }
    let message =
        KumaResource::decode(any.value.as_slice()).map_err(|e| fail(e.to_string(), None))?;
    let meta = message.meta.ok_or_else(|| fail("no metadata".to_owned(), None))?;
    if meta.name.is_empty() {
        return Err(fail("no name".to_owned(), None));
    }
    let key = ResourceKey::new(kind, &meta.mesh, &meta.name);
    let spec = message.spec.unwrap_or_default();
    if let Codec::Proto(expected) = kind.row().codec
        && spec.type_url.rsplit('/').next() != Some(expected)
    {
        return Err(fail(format!("unexpected spec type {:?}", spec.type_url), Some(key)));
    }
    let value = if kind.is_json() && spec.value.is_empty() { b"{}".to_vec() } else { spec.value };
    let spec = Spec::from_wire(kind, value);
    if let sunbear_model::Typed::Malformed(reason) = spec.typed() {
        return Err(fail(format!("spec: {reason}"), Some(key)));
    }
    let status = message.status.filter(|_| kind.has_status()).map(|s| s.value.into());
    Ok(Received { key, wire_name: name, labels: meta.labels, spec, status })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use sunbear_proto::{
        envoy::{
            config::core::v3::ControlPlane,
            service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        },
        kuma::mesh::v1alpha1::{
            MeshGateway, Selector,
            mesh_gateway::{Conf, Listener, listener::Protocol},
        },
    };

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// The empty default mesh of the transcript in `spec/kds.md` 9, step 2.
    #[test]
    fn mesh_of_the_transcript() {
        let wire =
            encode(Kind::MESH, "", "default", &labels(&[("kuma.io/origin", "global")]), &[], None);
        assert_eq!(&*wire.name, "default.");
        assert_eq!(
            hex(&wire.bytes),
            "0a230a0764656661756c7432180a0e6b756d612e696f2f6f726967696e1206676c6f62616c\
             122d0a2b747970652e676f6f676c65617069732e636f6d2f6b756d612e6d6573682e7631616c706861312e4d657368"
        );
        assert_eq!(
            &*wire.version,
            "ee3ed1993ca3721e6609c0fb78bb711a00f96c808af6675986293d420dc0d6d1"
        );
        let response = DeltaDiscoveryResponse {
            type_url: "Mesh".to_owned(),
            nonce: "1".to_owned(),
            resources: vec![wire.to_delta()],
            control_plane: Some(ControlPlane { identifier: "global".to_owned() }),
            ..DeltaDiscoveryResponse::default()
        };
        assert_eq!(response.encoded_len(), 240);
    }

    /// Step 5: a gateway with a hashed name.
    #[test]
    fn gateway_of_the_transcript() {
        let gateway = MeshGateway {
            selectors: vec![Selector { r#match: labels(&[("kuma.io/service", "edge-gateway")]) }],
            tags: BTreeMap::new(),
            conf: Some(Conf {
                listeners: vec![Listener {
                    port: 8080,
                    protocol: Protocol::Http.into(),
                    tags: labels(&[("port", "http")]),
                    ..Listener::default()
                }],
            }),
        };
        let wire = encode(
            Kind::MESH_GATEWAY,
            "default",
            "edge-5c75xw87847wvc4c",
            &labels(&[
                ("kuma.io/display-name", "edge"),
                ("kuma.io/mesh", "default"),
                ("kuma.io/origin", "global"),
            ]),
            &gateway.encode_to_vec(),
            None,
        );
        assert_eq!(&*wire.name, "edge-5c75xw87847wvc4c.default");
        assert_eq!(wire.bytes.len(), 229);
        assert_eq!(
            &*wire.version,
            "c38bd2863c0a065c8e97a104fa51131fc47002d7bcc8cdcd712466da4a803bb9"
        );
        let received = decode(Kind::MESH_GATEWAY, wire.to_delta()).unwrap();
        assert_eq!(received.spec.wire(), gateway.encode_to_vec());
        assert_eq!(&*received.key.name, "edge-5c75xw87847wvc4c");
    }

    /// Step 10: a JSON policy has no type URL.
    #[test]
    fn json_policy_of_the_transcript() {
        let spec = br#"{"to":[{"targetRef":{"kind":"Mesh"},"default":{"idleTimeout":"20s"}}]}"#;
        let wire = encode(
            Kind::MESH_TIMEOUT,
            "default",
            "default-timeout-global-54dbd4c66zwbcf9c",
            &labels(&[
                ("kuma.io/display-name", "default-timeout-global"),
                ("kuma.io/mesh", "default"),
                ("kuma.io/origin", "global"),
            ]),
            spec,
            None,
        );
        assert_eq!(
            &*wire.version,
            "8752d7c83c64cfd94d8bf5631da3be6ab42d628a756b9d6a62ab27b34b8a0efc"
        );
    }

    /// Steps 3 and 9: the bytes of an ACK and a NACK.
    #[test]
    fn answers_of_the_transcript() {
        let ack = DeltaDiscoveryRequest::decode(
            [
                0x0a, 0x08, 0x0a, 0x06, 0x7a, 0x6f, 0x6e, 0x65, 0x2d, 0x31, 0x12, 0x04, 0x4d, 0x65,
                0x73, 0x68, 0x32, 0x01, 0x31,
            ]
            .as_slice(),
        )
        .unwrap();
        assert_eq!(ack.response_nonce, "1");
        assert_eq!(ack.node.unwrap().id, "zone-1");
        assert!(ack.error_detail.is_none());
    }

    #[test]
    fn foreign_envelopes_are_refused() {
        let mut delta = encode(Kind::MESH, "", "m", &BTreeMap::new(), &[], None).to_delta();
        if let Some(any) = &mut delta.resource {
            any.type_url = "type.googleapis.com/kuma.mesh.v1alpha1.Mesh".to_owned();
        }
        assert!(decode(Kind::MESH, delta).is_err());
        let gateway = encode(Kind::MESH_GATEWAY, "m", "g", &BTreeMap::new(), &[], None);
        let error = decode(Kind::MESH, gateway.to_delta()).unwrap_err();
        assert!(error.key.is_some(), "the key is known, so that the stored copy survives");
    }
}
