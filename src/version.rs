//! The version of this build.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that was built, or `unknown`.
pub const REVISION: &str = env!("DSE_REVISION");

/// The compiler's version, or `unknown`.
pub const RUSTC: &str = env!("DSE_RUSTC");

/// What `--version` says after the program's name.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (revision ",
    env!("DSE_REVISION"),
    ", rustc ",
    env!("DSE_RUSTC"),
    ")"
);
