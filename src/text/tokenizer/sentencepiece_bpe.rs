//! SentencePiece's BPE: of all adjacent pairs that form a token, the pair with the highest score is merged first. Text
//! without a token becomes byte tokens (byte fallback).
//!
//! Source: Kudo and Richardson, "SentencePiece" (2018), its `bpe_model.cc`; and llama.cpp's `llm_tokenizer_spm`, which
//! merges the leftmost of several pairs with the same score. The BPE model of the `tokenizers` crate cannot express
//! this algorithm: it needs a unique rank per pair and merges only tokens, whereas here two characters without a token
//! can merge into a token.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::pipeline::Preceding;
use super::token_table::byte_token_value;
use crate::cancel::{CancelFlag, Cancelled};
use crate::text::pre_tokenization::METASPACE;
use crate::text::tokenizer_error::TokenizerError;
use crate::text::vocabulary::{TokenKind, Vocabulary};
use crate::token::TokenId;

/// Maximum length in bytes of a token that matches text. Bounds the cost of a merge, which looks up texts of up to the
/// length of the longest token. The longest known token has 93 bytes.
pub(super) const MAX_TOKEN_BYTES: usize = 1024;

pub(super) struct SentencePieceBpe {
    pieces: HashMap<String, Piece>,
    longest_piece: usize,
    /// Characters that precede a space within some piece. A space after any other character begins a new word.
    chars_before_spaces: HashSet<char>,
    /// The token of each byte.
    byte_tokens: [Option<TokenId>; 256],
    unknown: Option<TokenId>,
    adds_space_prefix: bool,
}

/// A token that matches text, in SentencePiece's term.
#[derive(Clone, Copy)]
struct Piece {
    token: TokenId,
    score: f32,
}

impl SentencePieceBpe {
    pub(super) fn new(
        vocabulary: &Vocabulary,
        scores: &[f32],
        adds_space_prefix: bool,
    ) -> Result<SentencePieceBpe, TokenizerError> {
        let mut model = SentencePieceBpe {
            pieces: HashMap::with_capacity(vocabulary.tokens.len()),
            longest_piece: 0,
            chars_before_spaces: HashSet::new(),
            byte_tokens: [None; 256],
            unknown: None,
            adds_space_prefix,
        };
        let kinds = vocabulary.kinds.iter();
        let rows = vocabulary.tokens.iter().zip(kinds).zip(scores);
        for (((text, kind), &score), id) in rows.zip(0_u32..) {
            let token = TokenId(id);
            if let Some(byte) = byte_token_value(text) {
                model.byte_tokens[usize::from(byte)] = Some(token);
                continue;
            }
            match kind {
                TokenKind::Normal | TokenKind::UserDefined => {
                    // Turns -0.0 into 0.0: `total_cmp` orders them differently.
                    let score = score + 0.0;
                    model.add(text, Piece { token, score })?;
                }
                TokenKind::Unknown => model.unknown = model.unknown.or(Some(token)),
                TokenKind::Control | TokenKind::Unused | TokenKind::Byte => {}
            }
        }
        Ok(model)
    }

    fn add(&mut self, text: &str, piece: Piece) -> Result<(), TokenizerError> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(TokenizerError::TokenTooLong {
                token: piece.token,
                bytes: text.len(),
                max_bytes: MAX_TOKEN_BYTES,
            });
        }
        self.longest_piece = self.longest_piece.max(text.len());
        for (position, _) in text.match_indices(METASPACE) {
            let before = &text[..position];
            self.chars_before_spaces.extend(before.chars().next_back());
        }
        self.pieces.insert(text.to_owned(), piece);
        Ok(())
    }

    /// Appends the token ids of the text, which contains no special tokens, to `ids`. A text that continues another
    /// text gets no space prefix.
    pub(super) fn encode(
        &self,
        text: &str,
        preceding: Preceding,
        cancel: &CancelFlag,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), Cancelled> {
        if text.is_empty() {
            return Ok(());
        }
        let prefix = match self.adds_space_prefix && preceding != Preceding::Text {
            true => METASPACE,
            false => "",
        };
        let text = [prefix, &text.replace(' ', METASPACE)].concat();
        let mut rest = text.as_str();
        let mut word = Word::default();
        while !rest.is_empty() {
            cancel.check()?;
            let (first, after) = rest.split_at(self.word_end(rest));
            word.merge(first, self);
            self.push_tokens(first, &word, ids);
            rest = after;
        }
        Ok(())
    }

    /// Returns the end of the first word: the first space after a character that precedes a space in no piece, else the
    /// end of the text. No piece spans this position.
    fn word_end(&self, text: &str) -> usize {
        let mut spaces = text.match_indices(METASPACE).map(|(position, _)| position);
        spaces
            .find(|&position| {
                let before = text[..position].chars().next_back();
                before.is_some_and(|before| !self.chars_before_spaces.contains(&before))
            })
            .unwrap_or(text.len())
    }

    fn piece(&self, text: &str) -> Option<Piece> {
        match text.len() <= self.longest_piece {
            true => self.pieces.get(text).copied(),
            false => None,
        }
    }

    /// Appends the tokens of a word's symbols; a symbol without a token becomes byte tokens or the unknown token.
    fn push_tokens(&self, text: &str, word: &Word, ids: &mut Vec<TokenId>) {
        for symbol in word.symbols.iter().filter(|symbol| !symbol.is_merged()) {
            let text = &text[symbol.start..symbol.end];
            if let Some(piece) = self.piece(text) {
                ids.push(piece.token);
                continue;
            }
            let bytes = text.bytes().map(|byte| self.byte_tokens[usize::from(byte)]);
            match bytes.collect::<Option<Vec<_>>>() {
                Some(bytes) => ids.extend(bytes),
                None => ids.extend(self.unknown),
            }
        }
    }
}

/// The symbols of a word during merging. Reused for the next word to save allocations.
#[derive(Default)]
struct Word {
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair>,
}

/// A part of the word, initially one character.
struct Symbol {
    /// The byte range `start..end`; empty after the symbol was merged into its left neighbor.
    start: usize,
    end: usize,
    /// Indexes of the neighbors in [`Word::symbols`].
    previous: Option<usize>,
    next: Option<usize>,
}

impl Symbol {
    fn is_merged(&self) -> bool {
        self.start == self.end
    }
}

/// Two adjacent symbols whose concatenation is a piece.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// The byte range of the two symbols when the pair was queued. The pair is outdated if their current range differs.
    start: usize,
    end: usize,
}

impl Word {
    /// Splits the text into characters and applies all merges.
    fn merge(&mut self, text: &str, model: &SentencePieceBpe) {
        self.symbols.clear();
        self.pairs.clear();
        for (start, character) in text.char_indices() {
            let index = self.symbols.len();
            self.symbols.push(Symbol {
                start,
                end: start + character.len_utf8(),
                previous: index.checked_sub(1),
                next: None,
            });
            if let Some(previous) = index.checked_sub(1) {
                self.symbols[previous].next = Some(index);
                self.push_pair(text, model, previous, index);
            }
        }
        while let Some(pair) = self.pairs.pop() {
            self.apply(text, model, &pair);
        }
    }

    /// Queues the pair if it forms a piece.
    fn push_pair(&mut self, text: &str, model: &SentencePieceBpe, left: usize, right: usize) {
        let (start, end) = (self.symbols[left].start, self.symbols[right].end);
        if let Some(Piece { score, .. }) = model.piece(&text[start..end]) {
            self.pairs.push(Pair {
                score,
                left,
                right,
                start,
                end,
            });
        }
    }

    fn apply(&mut self, text: &str, model: &SentencePieceBpe, pair: &Pair) {
        let (left, right) = (&self.symbols[pair.left], &self.symbols[pair.right]);
        let is_current = left.start == pair.start
            && left.end == right.start
            && right.end == pair.end
            && !right.is_merged();
        if !is_current {
            return;
        }
        let (previous, next) = (left.previous, right.next);
        self.symbols[pair.left].end = pair.end;
        self.symbols[pair.left].next = next;
        self.symbols[pair.right].start = pair.end;
        if let Some(previous) = previous {
            self.push_pair(text, model, previous, pair.left);
        }
        if let Some(next) = next {
            self.symbols[next].previous = Some(pair.left);
            self.push_pair(text, model, pair.left, next);
        }
    }
}

impl Ord for Pair {
    /// The greatest pair is merged first: the highest score, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        let scores = self.score.total_cmp(&other.score);
        scores.then_with(|| Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}
