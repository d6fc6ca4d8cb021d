//! Quorum sizes for any number of replicas (Castro and Liskov 1999, section 2, for N = 3F + 1).

/// How many replicas there are, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    replicas: u32,
}

/// Too few replicas to tolerate anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} replicas tolerate no fault; at least 4 are needed")]
pub struct QuorumError(pub u32);

impl Quorum {
    /// For this many replicas, at least 4.
    pub fn new(replicas: u32) -> Result<Self, QuorumError> {
        if replicas < 4 { Err(QuorumError(replicas)) } else { Ok(Self { replicas }) }
    }

    /// How many there are.
    pub fn replicas(self) -> u32 {
        self.replicas
    }

    /// F = ⌊(N − 1) ÷ 3⌋: how many may be faulty.
    pub fn faulty(self) -> u32 {
        (self.replicas - 1) / 3
    }

    /// Q = ⌈(N + F + 1) ÷ 2⌉: any two quorums share a correct replica. 2F + 1 only where N = 3F + 1.
    pub fn quorum(self) -> u32 {
        (self.replicas + self.faulty() + 1).div_ceil(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_seats_of_the_white_paper() {
        let q = |n| Quorum::new(n).map(|q| (q.faulty(), q.quorum()));
        assert_eq!(q(4), Ok((1, 3)));
        assert_eq!(q(7), Ok((2, 5)));
        // 21 is not 3F + 1: with 2F + 1 = 13 two quorums could share faulty replicas only.
        assert_eq!(q(21), Ok((6, 14)));
        assert_eq!(q(3), Err(QuorumError(3)));
    }

    proptest! {
        #[test]
        fn quorums_intersect_in_a_correct_replica_and_correct_ones_suffice(n in 4u32..10_000) {
            let q = Quorum::new(n).unwrap();
            prop_assert!(2 * q.quorum() - n > q.faulty());
            prop_assert!(q.quorum() <= n - q.faulty());
        }
    }
}
