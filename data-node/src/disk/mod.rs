//! One disk: its format, its journal of pieces, the index over them, and what keeps both in order.

mod ballast;
mod books;
mod compact;
mod index;
mod keeper;
mod piece;
mod store;
mod superblock;

pub(crate) use index::{Located, PieceState};
pub(crate) use piece::PieceHeader;
pub(crate) use store::{DiskError, DiskStore, Usage};
pub use superblock::{FormatError, Superblock};
