//! The bytes for which each token stands.

use crate::text::pre_tokenization::METASPACE;
use crate::text::vocabulary::{TokenKind, Vocabulary};
use crate::token::TokenId;

/// The bytes of all tokens, concatenated in the order of the ids.
pub(super) struct TokenTable {
    bytes: Vec<u8>,
    /// The end of each token's range in `bytes`.
    ends: Vec<usize>,
}

impl TokenTable {
    /// Builds the table. `decode_piece` appends the bytes for which a token's text stands. It is called for normal
    /// tokens and, if `decodes_user_defined`, for user-defined tokens.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        decode_piece: impl Fn(&str, &mut Vec<u8>),
        decodes_user_defined: bool,
    ) -> TokenTable {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(vocabulary.tokens.len());
        for (text, kind) in vocabulary.tokens.iter().zip(&vocabulary.kinds) {
            match kind {
                TokenKind::Normal => decode_piece(text, &mut bytes),
                TokenKind::UserDefined if decodes_user_defined => decode_piece(text, &mut bytes),
                TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => {
                    bytes.extend_from_slice(text.as_bytes());
                }
                TokenKind::Byte => bytes.extend(byte_token_value(text)),
                TokenKind::Unused => {}
            }
            ends.push(bytes.len());
        }
        TokenTable { bytes, ends }
    }

    pub(super) fn get(&self, token: TokenId) -> Option<&[u8]> {
        let row = token.row();
        let end = *self.ends.get(row)?;
        let start = row.checked_sub(1).map_or(0, |previous| self.ends[previous]);
        Some(&self.bytes[start..end])
    }
}

/// Appends the text of a SentencePiece token: each [`METASPACE`] is a space.
pub(super) fn decode_metaspace(piece: &str, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(piece.replace(METASPACE, " ").as_bytes());
}

/// Returns the byte for which a byte token such as `<0x0A>` stands.
pub(in crate::text) fn byte_token_value(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    match digits.len() {
        2 => u8::from_str_radix(digits, 16).ok(),
        _ => None,
    }
}
