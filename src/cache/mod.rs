//! Which blocks of the key-value cache belong to whom, and what is in them. Block numbers and token ids
//! only: the memory behind them is [`crate::runtime`]'s, and who needs what is [`crate::engine`]'s.

mod pool;
mod prefix;
mod table;

pub use pool::{BlockId, BlockPool};
pub use prefix::PrefixRoot;
pub use table::{BlockCopy, BlockTable, Reuse};
