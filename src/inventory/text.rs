//! Text that many share.

use std::sync::Arc;

/// Text that many readers share without copying it.
pub type Text = Arc<str>;
