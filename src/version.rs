//! What this is a build of.

/// The version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit, where the build knew it.
pub const REVISION: &str = match option_env!("DSE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
/// The compiler, where the build knew it.
pub const RUSTC: &str = match option_env!("DSE_RUSTC") {
    Some(rustc) => rustc,
    None => "unknown",
};
