//! The configuration: from flags, file and environment to validated types.

mod model;

pub use model::*;
