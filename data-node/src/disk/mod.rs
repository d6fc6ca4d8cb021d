//! One disk: its format, its journal of pieces, the index over them, and what keeps both in order.

mod books;
mod compact;
mod error;
mod index;
mod keeper;
mod piece;
mod places;
mod replay;
mod starts;
mod store;
mod superblock;
#[cfg(feature = "testing")]
mod testing;
mod worth;

pub(crate) use error::{DiskError, starved};
pub(crate) use index::{Located, PieceState};
pub(crate) use piece::PieceHeader;
pub(crate) use places::Places;
pub(crate) use store::{DiskStore, KEPT_FREE, Look, Usage};
pub use superblock::{FormatError, Superblock};
#[cfg(feature = "testing")]
pub use testing::scan_any_segment;
