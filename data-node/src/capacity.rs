//! Computes how much each disk of the node can have, by its file system and not by its configuration alone.

/// What a file system says of the folder of a disk; by default, what is said while it does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OnFileSystem {
    /// Bytes of the disk's ballast.
    pub(crate) ballast_bytes: u64,
    /// The number of the file system, and the bytes that are free there; none if that can't be told.
    pub(crate) file_system: Option<(u64, u64)>,
}

impl OnFileSystem {
    /// A disk that may have so many bytes, and has so many in segments.
    pub(crate) fn measured(self, max_bytes: u64, segment_bytes: u64) -> Measured {
        let has_bytes = segment_bytes.saturating_add(self.ballast_bytes);
        Measured { max_bytes, has_bytes, file_system: self.file_system }
    }
}

/// A disk and its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    /// The most that it may have.
    pub(crate) max_bytes: u64,
    /// Bytes that it has: its segments and its ballast.
    pub(crate) has_bytes: u64,
    /// The number of its file system, and the bytes that are free there; none if that can't be told.
    pub(crate) file_system: Option<(u64, u64)>,
}

/// The most bytes that each disk can have: its own and its share of what is free, less `kept` bytes that each
/// file system keeps. Disks of one file system share; what one has no use for is the others'.
pub(crate) fn capacities(disks: &[Measured], kept: u64) -> Vec<u64> {
    let mut capacities: Vec<u64> = disks.iter().map(|d| d.max_bytes).collect();
    let wants = |i: usize| disks[i].max_bytes.saturating_sub(disks[i].has_bytes);
    let mut order: Vec<usize> = (0..disks.len()).filter(|&i| disks[i].file_system.is_some()).collect();
    order.sort_by_key(|&i| (disks[i].file_system.map(|(device, _)| device), wants(i)));
    for file_system in order.chunk_by(|&a, &b| device(disks, a) == device(disks, b)) {
        let free = file_system.iter().filter_map(|&i| disks[i].file_system).map(|(_, free)| free).min();
        let mut left = free.unwrap_or(0).saturating_sub(kept);
        // Serve the disk that wants least first, so that what it leaves can be shared.
        for (n, &i) in file_system.iter().enumerate() {
            let share = wants(i).min(left / (file_system.len() - n) as u64);
            left -= share;
            capacities[i] = disks[i].max_bytes.min(disks[i].has_bytes.saturating_add(share));
        }
    }
    capacities
}

fn device(disks: &[Measured], i: usize) -> Option<u64> {
    disks[i].file_system.map(|(device, _)| device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(max_bytes: u64, has_bytes: u64, file_system: (u64, u64)) -> Measured {
        Measured { max_bytes, has_bytes, file_system: Some(file_system) }
    }

    #[test]
    fn a_disk_can_have_what_its_file_system_has_and_no_more_than_it_may() {
        assert_eq!(capacities(&[disk(100, 20, (1, 500))], 10), [100]);
        assert_eq!(capacities(&[disk(100, 20, (1, 30))], 10), [40]);
        assert_eq!(capacities(&[disk(100, 20, (1, 5))], 10), [20], "what it has stays");
        assert_eq!(capacities(&[disk(100, 120, (1, 5))], 10), [100]);
        assert_eq!(capacities(&[Measured { file_system: None, ..disk(100, 20, (1, 0)) }], 10), [100]);
    }

    #[test]
    fn disks_of_one_file_system_share_what_is_free() {
        let three = [disk(1000, 0, (7, 100)), disk(10, 0, (7, 100)), disk(1000, 50, (7, 100))];
        assert_eq!(capacities(&three, 10), [40, 10, 90]);
        let mixed = [disk(1000, 0, (7, 100)), disk(1000, 0, (8, 50)), disk(1000, 0, (7, 100))];
        assert_eq!(capacities(&mixed, 0), [50, 50, 50]);
    }
}
