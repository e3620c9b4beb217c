//! What each token stands for in text.

use crate::text::vocabulary::{TokenKind, Vocabulary};
use crate::token::TokenId;

/// Stands for a space in the spellings of SentencePiece.
pub(super) const SPACE: &str = "\u{2581}";

/// The bytes of every token, one after the other.
pub(super) struct Spellings {
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<usize>,
}

impl Spellings {
    /// `spell` puts what a piece of text stands for behind the bytes; whether that of a user-defined token, too.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        spell: impl Fn(&str, &mut Vec<u8>),
        user_defined_too: bool,
    ) -> Spellings {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(vocabulary.tokens.len());
        for (text, kind) in vocabulary.tokens.iter().zip(&vocabulary.kinds) {
            match kind {
                TokenKind::Normal => spell(text, &mut bytes),
                TokenKind::UserDefined if user_defined_too => spell(text, &mut bytes),
                TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => {
                    bytes.extend_from_slice(text.as_bytes());
                }
                TokenKind::Byte => bytes.extend(byte_named(text)),
                TokenKind::Unused => {}
            }
            ends.push(bytes.len());
        }
        Spellings { bytes, ends }
    }

    pub(super) fn get(&self, token: TokenId) -> Option<&[u8]> {
        let row = token.row();
        let end = *self.ends.get(row)?;
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }
}

/// What a piece is in a text: its spaces are spaces.
pub(super) fn spell_spaces(piece: &str, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(piece.replace(SPACE, " ").as_bytes());
}

/// The byte that a token of this name stands for: `<0x0A>`.
pub(in crate::text) fn byte_named(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    match digits.len() {
        2 => u8::from_str_radix(digits, 16).ok(),
        _ => None,
    }
}
