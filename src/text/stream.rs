//! Generated ids to text as it comes: whole characters only, and nothing that may yet turn out to be a
//! stop string. The engine's thread uses it to know when to stop, the HTTP side for the text.

use std::sync::Arc;

use super::tokenizer::Tokenizer;
use crate::token::TokenId;

/// The text of one generation, token by token. Every byte is looked at once per stop string.
#[derive(Debug)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    /// The first bytes of a character whose others have not come.
    unfinished: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stops: Vec<StopString>,
    stopped_by: Option<usize>,
    /// Control tokens that are text here.
    shown: Vec<TokenId>,
    indent: Option<IndentLimit>,
    /// Whether a line that is indented too little has ended the text.
    dedented: bool,
}

/// What a token has brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Text that is decided; often empty.
    pub text: String,
    /// The number of the stop string that has ended the text.
    pub stopped_by: Option<usize>,
}

impl TextStream {
    /// The text ends before the first stop string to be complete (of several that are complete with
    /// the same character: before the longest). An empty one never is.
    pub fn new(tokenizer: Arc<Tokenizer>, stop: Vec<String>) -> TextStream {
        TextStream {
            tokenizer,
            unfinished: Vec::new(),
            held: String::new(),
            stops: stop.into_iter().map(StopString::new).collect(),
            stopped_by: None,
            shown: Vec::new(),
            indent: None,
            dedented: false,
        }
    }

    /// The text ends before the first character of a line that `least` or more spaces and tabs do not indent. The first
    /// line and empty lines are not looked at; 0 is no limit.
    pub fn indented(mut self, least: usize) -> TextStream {
        self.indent = (least > 0).then_some(IndentLimit { least, begun: None });
        self
    }

    /// Whether a line that is indented too little has ended the text.
    pub fn is_dedented(&self) -> bool {
        self.dedented
    }

    /// The names of these control tokens are text.
    pub fn showing(mut self, tokens: &[TokenId]) -> TextStream {
        tokens.clone_into(&mut self.shown);
        self
    }

    /// Takes the next token. Control tokens are no text, unless they are shown; after a stop string nothing is.
    pub fn push(&mut self, token: TokenId) -> Progress {
        let is_text = !self.tokenizer.is_control(token) || self.shown.contains(&token);
        if self.stopped_by.is_none() && !self.dedented && is_text {
            let bytes = self.tokenizer.token_bytes(token).unwrap_or_default();
            self.unfinished.extend_from_slice(bytes);
            let characters = take_characters(&mut self.unfinished);
            return self.decide(&characters);
        }
        Progress {
            text: String::new(),
            stopped_by: self.stopped_by,
        }
    }

    /// Whether the bytes so far end inside a character.
    pub fn mid_character(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// The generation has ended: what was held back, U+FFFD for an unfinished character.
    pub fn finish(mut self) -> String {
        let mut text = String::new();
        if self.stopped_by.is_none() && self.mid_character() {
            text = self.decide("\u{FFFD}").text;
        }
        if self.stopped_by.is_none() && !self.dedented {
            text.push_str(&self.held);
        }
        text
    }

    /// Adds to the held text and lets go of what can no longer be the beginning of a stop string.
    fn decide(&mut self, characters: &str) -> Progress {
        let before = self.held.len();
        self.held.push_str(characters);
        for (offset, &byte) in characters.as_bytes().iter().enumerate() {
            if self
                .indent
                .as_mut()
                .is_some_and(|limit| limit.ends_before(byte))
            {
                let mut text = std::mem::take(&mut self.held);
                text.truncate(before + offset);
                self.unfinished.clear();
                self.dedented = true;
                return Progress {
                    text,
                    stopped_by: None,
                };
            }
            let complete = self
                .stops
                .iter_mut()
                .enumerate()
                .filter_map(|(number, stop)| stop.step(byte).then_some((stop.text.len(), number)))
                .max_by_key(|&(length, number)| (length, std::cmp::Reverse(number)));
            if let Some((length, number)) = complete {
                let mut text = std::mem::take(&mut self.held);
                text.truncate(before + offset + 1 - length);
                self.unfinished.clear();
                self.stopped_by = Some(number);
                return Progress {
                    text,
                    stopped_by: self.stopped_by,
                };
            }
        }
        let held = self
            .stops
            .iter()
            .map(|stop| stop.matched)
            .max()
            .unwrap_or(0);
        let text = self.held.drain(..self.held.len() - held).collect();
        Progress {
            text,
            stopped_by: None,
        }
    }
}

/// How far lines must be indented.
#[derive(Debug)]
struct IndentLimit {
    /// Fewest spaces and tabs.
    least: usize,
    /// Those of the line whose indentation is being read.
    begun: Option<usize>,
}

impl IndentLimit {
    /// Takes the text's next byte; whether the text ends before it.
    fn ends_before(&mut self, byte: u8) -> bool {
        match (byte, self.begun) {
            (b'\n', _) => self.begun = Some(0),
            (b' ' | b'\t', Some(width)) => self.begun = Some(width + 1),
            (b'\r', _) | (_, None) => {}
            (_, Some(width)) => {
                self.begun = None;
                return width < self.least;
            }
        }
        false
    }
}

/// Removes the whole characters from the front. Bytes that cannot become one are U+FFFD, as many as
/// `String::from_utf8_lossy` makes of them; the beginning of one stays.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut taken = 0;
    let mut kept = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid();
        taken += chunk.valid().len() + invalid.len();
        // Only at the end may what is too short still become a character.
        let may_go_on =
            std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if taken == bytes.len() && may_go_on {
            kept = invalid.len();
        } else if !invalid.is_empty() {
            text.push('\u{FFFD}');
        }
    }
    bytes.drain(..bytes.len() - kept);
    text
}

/// One stop string and how much of it the text ends with (Knuth, Morris, Pratt: Fast Pattern Matching
/// in Strings, 1977).
#[derive(Debug)]
struct StopString {
    text: String,
    /// For every length of a beginning: the longest shorter beginning that it ends with.
    fallback: Vec<usize>,
    /// Bytes of the beginning that the text ends with.
    matched: usize,
}

impl StopString {
    fn new(text: String) -> StopString {
        let bytes = text.as_bytes();
        let mut fallback = vec![0; bytes.len()];
        let mut matched = 0;
        for index in 1..bytes.len() {
            while matched > 0 && bytes[matched] != bytes[index] {
                matched = fallback[matched - 1];
            }
            matched += usize::from(bytes[matched] == bytes[index]);
            fallback[index] = matched;
        }
        StopString {
            text,
            fallback,
            matched: 0,
        }
    }

    /// Takes the text's next byte; whether the text now ends with the whole stop string. Nothing may
    /// follow then.
    fn step(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        if bytes.is_empty() {
            return false;
        }
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.fallback[self.matched - 1];
        }
        self.matched += usize::from(bytes[self.matched] == byte);
        self.matched == bytes.len()
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
