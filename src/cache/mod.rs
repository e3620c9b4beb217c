//! Which blocks of the key-value cache belong to whom. Block numbers only: the memory behind them is
//! [`crate::runtime`]'s, and what the tokens are is [`crate::engine`]'s.

mod pool;
mod table;

pub use pool::{BlockId, BlockPool};
pub use table::BlockTable;
