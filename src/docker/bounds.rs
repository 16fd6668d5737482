//! How large an answer of each kind may be. One that does not end must not take all memory.
//!
//! docs/configuration.md has these as a table.

/// The version, and what a ping is answered with.
pub(super) const SMALL_ANSWER: usize = 1024 * 1024;
/// The text of a refusal.
pub(super) const REFUSAL: usize = 64 * 1024;
/// A list as a whole, of which never more than an entry is kept.
pub(super) const LIST: usize = 512 * 1024 * 1024;
/// An entry of a list.
pub(super) const LIST_ENTRY: usize = 4 * 1024 * 1024;
/// Entries of a list.
pub(super) const LIST_ENTRIES: usize = 250_000;
/// An inspect answer.
pub(super) const INSPECT: usize = 8 * 1024 * 1024;
/// Inspect answers may get so large side by side …
pub(super) const INSPECT_FREE: usize = 64 * 1024;
/// … and only so many at a time larger than that.
pub(super) const LARGE_INSPECTS: usize = 4;
/// An event.
pub(super) const EVENT: usize = 1024 * 1024;
