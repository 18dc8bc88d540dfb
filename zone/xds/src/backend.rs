//! Backends of a mesh that policies name: their configuration is a free struct.

use prost::Message;
use prost_types::Struct;
use sunbear_proto::json;

/// A `conf` struct as the message that it stands for; an absent one is the empty message.
pub(crate) fn typed<M>(conf: Option<&Struct>) -> Result<M, String>
where
    M: Message + prost::Name + Default,
{
    let Some(conf) = conf else { return Ok(M::default()) };
    let value = json::write("google.protobuf.Struct", &conf.encode_to_vec())
        .map_err(|error| error.to_string())?;
    let decoded = json::read(&M::full_name(), &value, &[]).map_err(|error| error.to_string())?;
    M::decode(decoded.wire.as_slice()).map_err(|error| error.to_string())
}
