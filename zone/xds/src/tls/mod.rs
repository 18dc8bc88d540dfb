//! Certificates and keys that come as data: of listeners and of external services.

mod pem;
mod server;

use sunbear_model::Resource;
use sunbear_proto::kuma::system::v1alpha1::{DataSource, data_source};

pub(crate) use self::server::{ServerCertificate, check_authorities, check_pair};
use crate::inputs::Secrets;

/// Why data could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourceError {
    /// There is no such secret, or its spec does not decode.
    #[error("there is no secret {0:?}")]
    NoSecret(String),
    /// Files of the control plane's machine are not read.
    #[error("unsupported type of the DataSource")]
    Unsupported,
    /// Nothing is chosen.
    #[error("a data source has to be chosen")]
    Nothing,
}

impl SourceError {
    /// The data may come or be mended without a change of what refers to it.
    pub(crate) fn is_about_data(&self) -> bool {
        matches!(self, SourceError::NoSecret(_))
    }
}

/// Loads a data source from the secrets of the mesh, or from itself.
pub(crate) fn load(source: &DataSource, secrets: &Secrets<'_>) -> Result<Vec<u8>, SourceError> {
    match &source.r#type {
        Some(data_source::Type::Secret(name)) => secrets
            .get(name)
            .as_deref()
            .and_then(Resource::secret_data)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| SourceError::NoSecret(name.clone())),
        Some(data_source::Type::Inline(bytes)) => Ok(bytes.clone()),
        Some(data_source::Type::InlineString(text)) => Ok(text.clone().into_bytes()),
        Some(data_source::Type::File(_)) => Err(SourceError::Unsupported),
        None => Err(SourceError::Nothing),
    }
}

/// The secret that a data source names.
pub(crate) fn secret_name(source: &DataSource) -> Option<&str> {
    match &source.r#type {
        Some(data_source::Type::Secret(name)) => Some(name),
        Some(
            data_source::Type::Inline(_)
            | data_source::Type::InlineString(_)
            | data_source::Type::File(_),
        )
        | None => None,
    }
}
