//! One disk: its format, its journal of pieces, the index over them.

mod index;
mod piece;
mod store;
mod superblock;

pub(crate) use index::Located;
pub(crate) use piece::PieceHeader;
pub(crate) use store::{DiskError, DiskStore};
pub use superblock::{FormatError, Superblock};
