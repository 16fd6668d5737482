//! The maximum size of each kind of answer, so that an endless answer cannot use up all memory.
//!
//! docs/configuration.md has these as a table.

/// The answer to a version request or to a ping.
pub(super) const SMALL_ANSWER: usize = 1024 * 1024;
/// The body of an error response.
pub(super) const REFUSAL: usize = 64 * 1024;
/// A whole list. Never more than one entry of it is buffered.
pub(super) const LIST: usize = 512 * 1024 * 1024;
/// An entry of a list.
pub(super) const LIST_ENTRY: usize = 4 * 1024 * 1024;
/// The number of entries of a list.
pub(super) const LIST_ENTRIES: usize = 250_000;
/// An inspect answer.
pub(super) const INSPECT: usize = 8 * 1024 * 1024;
/// Inspect answers up to this size are not limited in number …
pub(super) const INSPECT_FREE: usize = 64 * 1024;
/// … and at most this many larger ones are in memory at a time.
pub(super) const LARGE_INSPECTS: usize = 4;
/// An event.
pub(super) const EVENT: usize = 1024 * 1024;
