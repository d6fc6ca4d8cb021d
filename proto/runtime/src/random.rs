//! Random ids, from the operating system.

/// Fills an array with random bytes.
///
/// Without the kernel's generator there is no safe identity to be had, so its absence ends the process.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0u8; N];
    if let Err(error) = getrandom::fill(&mut out) {
        tracing::error!(%error, "the operating system gives no random bytes");
        std::process::abort();
    }
    out
}
