//! The erasure code behind [`Stripe`](crate::Stripe): Reed-Solomon over GF(2^8), systematic, by the
//! `reed-solomon-erasure` crate (Backblaze's Vandermonde construction).
//!
//! It corrects erasures only. A shard that is wrong makes everything that is computed from it wrong, so its caller
//! verifies each by its digest first.

use reed_solomon_erasure::galois_8::ReedSolomon;

use crate::stripe::StripeError;

/// A systematic code: `data` shards that hold the bytes, and `parity` shards computed from them.
pub trait ErasureCode: Send + Sync {
    /// Computes the parity shards, whatever was in them before. All shards are of one length.
    fn encode(&self, data: &[&[u8]], parity: &mut [Vec<u8>]) -> Result<(), StripeError>;

    /// Computes the missing data shards, in place, from those that are there.
    fn restore_data(&self, shards: &mut [Option<Vec<u8>>]) -> Result<(), StripeError>;

    /// Computes all missing shards, in place, from those that are there.
    fn restore_all(&self, shards: &mut [Option<Vec<u8>>]) -> Result<(), StripeError>;
}

/// The code that the store uses.
pub(crate) struct Gf256(ReedSolomon);

impl Gf256 {
    pub(crate) fn new(data: usize, parity: usize) -> Result<Self, StripeError> {
        can_run()?;
        Ok(Self(ReedSolomon::new(data, parity).map_err(code_failed)?))
    }
}

/// The code's C part is built for AVX2; elsewhere it would end the process.
#[cfg(target_arch = "x86_64")]
fn can_run() -> Result<(), StripeError> {
    if std::arch::is_x86_feature_detected!("avx2") { Ok(()) } else { Err(StripeError::Processor) }
}

#[cfg(not(target_arch = "x86_64"))]
fn can_run() -> Result<(), StripeError> {
    Ok(())
}

fn code_failed(error: reed_solomon_erasure::Error) -> StripeError {
    StripeError::Code(error.to_string())
}

impl ErasureCode for Gf256 {
    fn encode(&self, data: &[&[u8]], parity: &mut [Vec<u8>]) -> Result<(), StripeError> {
        self.0.encode_sep(data, parity).map_err(code_failed)
    }

    fn restore_data(&self, shards: &mut [Option<Vec<u8>>]) -> Result<(), StripeError> {
        self.0.reconstruct_data(shards).map_err(code_failed)
    }

    fn restore_all(&self, shards: &mut [Option<Vec<u8>>]) -> Result<(), StripeError> {
        self.0.reconstruct(shards).map_err(code_failed)
    }
}
