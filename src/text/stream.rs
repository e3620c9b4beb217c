//! From generated tokens to text that is decided: whole characters only, nothing that may still become
//! a stop string. Linear in the text, whatever the stop strings are.

use std::sync::Arc;

use super::tokenizer::Tokenizer;
use crate::token::TokenId;

/// The text of one generation, as it comes.
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    stops: Vec<StopMatcher>,
    /// Bytes of a character that is not whole: at most three.
    unfinished: Vec<u8>,
    /// Text that may become a stop string.
    held: String,
    stopped: bool,
}

/// What one more token decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// More text; often none.
    pub text: String,
    /// The stop string that ended the text, as its place in the list.
    pub stopped_by: Option<usize>,
}

impl TextStream {
    /// A stream that ends at the first of the texts `stop` (empty ones never match). Of two that end at
    /// the same character the longer one counts.
    pub fn new(tokenizer: Arc<Tokenizer>, stop: &[String]) -> Self {
        Self {
            tokenizer,
            stops: stop.iter().map(|stop| StopMatcher::new(stop)).collect(),
            unfinished: Vec::new(),
            held: String::new(),
            stopped: false,
        }
    }

    /// Takes a token. After a stop string nothing comes any more.
    pub fn push(&mut self, token: TokenId) -> Progress {
        if self.stopped || self.tokenizer.is_control(token) {
            return Progress::default();
        }
        self.unfinished
            .extend_from_slice(self.tokenizer.token_bytes(token).unwrap_or_default());
        let text = take_whole_characters(&mut self.unfinished);
        for character in text.chars() {
            if let Some(stop) = self.advance(character) {
                self.stopped = true;
                let end = self.held.len() - self.stops[stop].len();
                self.held.truncate(end);
                return Progress {
                    text: std::mem::take(&mut self.held),
                    stopped_by: Some(stop),
                };
            }
        }
        let undecided = self
            .stops
            .iter()
            .map(|stop| stop.matched)
            .max()
            .unwrap_or(0);
        let decided = self.held.len() - undecided;
        Progress {
            text: self.held.drain(..decided).collect(),
            stopped_by: None,
        }
    }

    /// Whether the bytes so far end within a character.
    pub fn mid_character(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// What was held back and is text after all: nothing follows that could make it something else.
    pub fn finish(self) -> String {
        if self.stopped {
            return String::new();
        }
        self.held + &String::from_utf8_lossy(&self.unfinished)
    }

    /// Adds a character to the held text. Answers the longest stop string that it completes.
    fn advance(&mut self, character: char) -> Option<usize> {
        self.held.push(character);
        let mut bytes = [0; 4];
        for byte in character.encode_utf8(&mut bytes).bytes() {
            self.stops.iter_mut().for_each(|stop| stop.advance(byte));
        }
        let complete = self
            .stops
            .iter()
            .enumerate()
            .filter(|(_, stop)| stop.is_complete());
        complete
            .max_by_key(|(_, stop)| stop.len())
            .map(|(index, _)| index)
    }
}

/// Takes from `bytes` what is decided: whole characters, and U+FFFD for what cannot become one.
fn take_whole_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut start = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        start += chunk.valid().len();
        let invalid = chunk.invalid();
        let may_go_on = start + invalid.len() == bytes.len() && is_unfinished(invalid);
        if invalid.is_empty() || may_go_on {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        start += invalid.len();
    }
    bytes.drain(..start);
    text
}

/// Whether bytes at the end of a text are the beginning of a character.
fn is_unfinished(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}

/// Knows how much of a stop string the text ends with.
///
/// Source: Knuth, Morris, Pratt, «Fast Pattern Matching in Strings» (1977).
struct StopMatcher {
    pattern: Box<[u8]>,
    /// For each length of a match, the next shorter one that the same text ends with.
    shorter: Box<[usize]>,
    matched: usize,
}

impl StopMatcher {
    fn new(stop: &str) -> Self {
        let pattern: Box<[u8]> = stop.as_bytes().into();
        let mut shorter = vec![0; pattern.len() + 1];
        let mut length = 0;
        for end in 1..pattern.len() {
            while length > 0 && pattern[end] != pattern[length] {
                length = shorter[length];
            }
            if pattern[end] == pattern[length] {
                length += 1;
            }
            shorter[end + 1] = length;
        }
        Self {
            pattern,
            shorter: shorter.into(),
            matched: 0,
        }
    }

    fn len(&self) -> usize {
        self.pattern.len()
    }

    fn is_complete(&self) -> bool {
        self.matched == self.len() && !self.pattern.is_empty()
    }

    fn advance(&mut self, byte: u8) {
        while self.matched > 0 && self.pattern.get(self.matched) != Some(&byte) {
            self.matched = self.shorter[self.matched];
        }
        if self.pattern.get(self.matched) == Some(&byte) {
            self.matched += 1;
        }
    }
}
