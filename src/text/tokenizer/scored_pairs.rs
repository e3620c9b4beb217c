//! SentencePiece's BPE: of all neighbours that are a token together, the two of the best score become one first. What is
//! then no token is spelt in bytes.
//!
//! Source: Kudo and Richardson, "SentencePiece" (2018), its `bpe_model.cc`; and llama.cpp's `llm_tokenizer_spm`, by which
//! the leftmost of equals comes first. The crate `tokenizers` has no model for it: it knows pairs by a rank that no two
//! share, and joins nothing but tokens, where here a token may come of characters that are none.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::TokenizerError;
use super::pipeline::Before;
use super::spellings::{SPACE, byte_named};
use crate::cancel::{CancelFlag, Cancelled};
use crate::text::vocabulary::{TokenKind, Vocabulary};
use crate::token::TokenId;

/// Most bytes of a token that text is spelt with: each step of a merge looks at that many. The longest known one has 93.
pub(super) const MOST_PIECE_BYTES: usize = 1024;

/// The way from text to ids with a vocabulary's scores.
pub(super) struct ScoredPairs {
    pieces: HashMap<String, Piece>,
    longest_piece: usize,
    /// The characters after which a piece may have a space; after others no piece goes on with one.
    before_spaces: HashSet<char>,
    /// The token of each byte.
    bytes: [Option<TokenId>; 256],
    unknown: Option<TokenId>,
    /// Whether a text has a space before it.
    space_before: bool,
}

#[derive(Clone, Copy)]
struct Piece {
    token: TokenId,
    score: f32,
}

impl ScoredPairs {
    pub(super) fn new(
        vocabulary: &Vocabulary,
        scores: &[f32],
        space_before: bool,
    ) -> Result<ScoredPairs, TokenizerError> {
        let mut pairs = ScoredPairs {
            pieces: HashMap::with_capacity(vocabulary.tokens.len()),
            longest_piece: 0,
            before_spaces: HashSet::new(),
            bytes: [None; 256],
            unknown: None,
            space_before,
        };
        let kinds = vocabulary.kinds.iter();
        let rows = vocabulary.tokens.iter().zip(kinds).zip(scores);
        for (((text, kind), &score), id) in rows.zip(0_u32..) {
            let token = TokenId(id);
            if let Some(byte) = byte_named(text) {
                pairs.bytes[usize::from(byte)] = Some(token);
                continue;
            }
            match kind {
                TokenKind::Normal | TokenKind::UserDefined => {
                    // Of the two zeros there is one in the order.
                    let score = score + 0.0;
                    pairs.add(text, Piece { token, score })?;
                }
                TokenKind::Unknown => pairs.unknown = pairs.unknown.or(Some(token)),
                TokenKind::Control | TokenKind::Unused | TokenKind::Byte => {}
            }
        }
        Ok(pairs)
    }

    fn add(&mut self, text: &str, piece: Piece) -> Result<(), TokenizerError> {
        if text.len() > MOST_PIECE_BYTES {
            return Err(TokenizerError::LongPiece {
                token: piece.token,
                bytes: text.len(),
                most: MOST_PIECE_BYTES,
            });
        }
        self.longest_piece = self.longest_piece.max(text.len());
        for (place, _) in text.match_indices(SPACE) {
            self.before_spaces.extend(text[..place].chars().next_back());
        }
        self.pieces.insert(text.to_owned(), piece);
        Ok(())
    }

    /// Puts the ids that spell the text, in which nothing is a named token, behind `ids`. A text that goes on with another
    /// one has no space before it.
    pub(super) fn encode(
        &self,
        text: &str,
        before: Before,
        cancel: &CancelFlag,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), Cancelled> {
        if text.is_empty() {
            return Ok(());
        }
        let space = match self.space_before && before != Before::Text {
            true => SPACE,
            false => "",
        };
        let text = [space, &text.replace(' ', SPACE)].concat();
        let mut rest = text.as_str();
        let mut word = Word::default();
        while !rest.is_empty() {
            cancel.check()?;
            let (first, after) = rest.split_at(self.word_end(rest));
            word.merge(first, self);
            self.spell(first, &word, ids);
            rest = after;
        }
        Ok(())
    }

    /// Where no piece can go on: before a space after a character that no piece has before one, or at the end.
    fn word_end(&self, text: &str) -> usize {
        let mut spaces = text.match_indices(SPACE).map(|(place, _)| place);
        spaces
            .find(|&place| {
                let before = text[..place].chars().next_back();
                before.is_some_and(|before| !self.before_spaces.contains(&before))
            })
            .unwrap_or(text.len())
    }

    fn piece(&self, text: &str) -> Option<Piece> {
        match text.len() <= self.longest_piece {
            true => self.pieces.get(text).copied(),
            false => None,
        }
    }

    fn spell(&self, text: &str, word: &Word, ids: &mut Vec<TokenId>) {
        for symbol in word.symbols.iter().filter(|symbol| !symbol.is_merged()) {
            let text = &text[symbol.start..symbol.end];
            if let Some(piece) = self.piece(text) {
                ids.push(piece.token);
                continue;
            }
            let bytes = text.bytes().map(|byte| self.bytes[usize::from(byte)]);
            match bytes.collect::<Option<Vec<_>>>() {
                Some(bytes) => ids.extend(bytes),
                None => ids.extend(self.unknown),
            }
        }
    }
}

/// A word's symbols while they are merged; kept for the next word's, to have its memory.
#[derive(Default)]
struct Word {
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair>,
}

/// A part of the text that is one so far.
struct Symbol {
    /// Its bytes are `start..end`; none if it was merged into the one before.
    start: usize,
    end: usize,
    /// Its neighbours' places.
    previous: Option<usize>,
    next: Option<usize>,
}

impl Symbol {
    fn is_merged(&self) -> bool {
        self.start == self.end
    }
}

/// Two neighbours that are a piece together.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Where the bytes of the two began and ended; if that has changed, they are no longer those.
    start: usize,
    end: usize,
}

impl Word {
    /// Merges the characters of a text as far as it goes.
    fn merge(&mut self, text: &str, pieces: &ScoredPairs) {
        self.symbols.clear();
        self.pairs.clear();
        for (start, character) in text.char_indices() {
            let place = self.symbols.len();
            self.symbols.push(Symbol {
                start,
                end: start + character.len_utf8(),
                previous: place.checked_sub(1),
                next: None,
            });
            if let Some(previous) = place.checked_sub(1) {
                self.symbols[previous].next = Some(place);
                self.consider(text, pieces, previous, place);
            }
        }
        while let Some(pair) = self.pairs.pop() {
            self.apply(text, pieces, &pair);
        }
    }

    fn consider(&mut self, text: &str, pieces: &ScoredPairs, left: usize, right: usize) {
        let (start, end) = (self.symbols[left].start, self.symbols[right].end);
        if let Some(Piece { score, .. }) = pieces.piece(&text[start..end]) {
            self.pairs.push(Pair {
                score,
                left,
                right,
                start,
                end,
            });
        }
    }

    fn apply(&mut self, text: &str, pieces: &ScoredPairs, pair: &Pair) {
        let (left, right) = (&self.symbols[pair.left], &self.symbols[pair.right]);
        let there = left.start == pair.start
            && left.end == right.start
            && right.end == pair.end
            && !right.is_merged();
        if !there {
            return;
        }
        let (previous, next) = (left.previous, right.next);
        self.symbols[pair.left].end = pair.end;
        self.symbols[pair.left].next = next;
        self.symbols[pair.right].start = pair.end;
        if let Some(previous) = previous {
            self.consider(text, pieces, previous, pair.left);
        }
        if let Some(next) = next {
            self.symbols[next].previous = Some(pair.left);
            self.consider(text, pieces, pair.left, next);
        }
    }
}

impl Ord for Pair {
    /// The pair to be merged first is the greatest.
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
