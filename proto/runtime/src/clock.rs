//! This machine's wall clock. What is agreed on never reads it: the cluster has a clock of its own, to which
//! it contributes one reading among many.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch; 0 before it.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
