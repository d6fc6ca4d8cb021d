//! Which boot of the machine this is. A view that was written in an earlier boot may have lost what
//! the kernel had not written back, in any order, and is rebuilt.

/// The kernel's id of this boot; empty where the kernel gives none, and then no view is trusted.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_string())
        .unwrap_or_default()
}
