//! The macros of `paste`, which is unmaintained (RUSTSEC-2024-0436), from its successor: tokenizers asks for it.

pub use pastey::{expr, item, paste};
