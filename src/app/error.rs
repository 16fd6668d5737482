//! What can fail at the start.

use crate::docker::EndpointError;
use crate::readers::ReaderError;
use crate::web::{BindError, SecurityError};

/// What fails at the start.
#[derive(Debug)]
pub enum StartError {
    /// The daemon's address or certificates.
    Endpoint(EndpointError),
    /// A reader's settings.
    Reader(ReaderError),
    /// The address to listen on.
    Bind(BindError),
    /// `web.config_file`, or what it names.
    Security(SecurityError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(error) => error.fmt(f),
            Self::Reader(error) => error.fmt(f),
            Self::Bind(error) => error.fmt(f),
            Self::Security(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

impl From<ReaderError> for StartError {
    fn from(error: ReaderError) -> Self {
        Self::Reader(error)
    }
}
