//! Decodes generated token ids incrementally: emits only complete characters, and holds back text that may be the start
//! of a stop string. Each generation has two streams: the engine thread detects stop strings with one, and the reader
//! of the tokens gets the text from the other.

use std::sync::Arc;

use super::tokenizer::Tokenizer;
use crate::token::TokenId;

/// Decodes the tokens of one generation, one at a time. The time per byte is proportional to the number of stop
/// strings.
#[derive(Debug)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    /// The bytes of an incomplete character at the end.
    incomplete: Vec<u8>,
    /// Text that may be the start of a stop string.
    held_back: String,
    stop_strings: Vec<StopString>,
    stopped_by: Option<usize>,
    /// Control tokens that are decoded like ordinary tokens.
    visible_tokens: Vec<TokenId>,
    min_indent: Option<MinIndent>,
    stopped_by_indent: bool,
}

/// The result of decoding one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedText {
    /// Text that can be emitted; often empty.
    pub text: String,
    /// The index of the stop string that ended the text, if one did.
    pub stopped_by: Option<usize>,
}

impl TextStream {
    /// Creates a stream whose text ends before the first complete stop string. If several are complete at the same
    /// character, the text ends before the longest. An empty stop string never matches.
    pub fn new(tokenizer: Arc<Tokenizer>, stop_strings: Vec<String>) -> TextStream {
        TextStream {
            tokenizer,
            incomplete: Vec::new(),
            held_back: String::new(),
            stop_strings: stop_strings.into_iter().map(StopString::new).collect(),
            stopped_by: None,
            visible_tokens: Vec::new(),
            min_indent: None,
            stopped_by_indent: false,
        }
    }

    /// Ends the text before the first line that is indented by fewer than `width` spaces and tabs, keeping the
    /// indentation of that line. The first line and empty lines are ignored; 0 sets no limit.
    pub fn with_min_indent(mut self, width: usize) -> TextStream {
        self.min_indent = (width > 0).then_some(MinIndent {
            width,
            line_width: None,
        });
        self
    }

    /// Whether a line with too little indentation ended the text.
    pub fn stopped_by_indent(&self) -> bool {
        self.stopped_by_indent
    }

    /// Decodes these control tokens to their texts instead of skipping them.
    pub fn with_visible_tokens(mut self, tokens: &[TokenId]) -> TextStream {
        tokens.clone_into(&mut self.visible_tokens);
        self
    }

    /// Adds the next token. Skips control tokens that are not visible, and all tokens after the end of the text.
    pub fn push(&mut self, token: TokenId) -> DecodedText {
        let is_text = !self.tokenizer.is_control(token) || self.visible_tokens.contains(&token);
        if self.stopped_by.is_none() && !self.stopped_by_indent && is_text {
            let bytes = self.tokenizer.token_bytes(token).unwrap_or_default();
            self.incomplete.extend_from_slice(bytes);
            let characters = take_characters(&mut self.incomplete);
            return self.emit(&characters);
        }
        DecodedText {
            text: String::new(),
            stopped_by: self.stopped_by,
        }
    }

    /// Whether the bytes so far end within a character.
    pub fn ends_mid_character(&self) -> bool {
        !self.incomplete.is_empty()
    }

    /// Ends the generation and returns the held-back text, with U+FFFD for an incomplete character.
    pub fn finish(mut self) -> String {
        let mut text = String::new();
        if self.stopped_by.is_none() && self.ends_mid_character() {
            text = self.emit("\u{FFFD}").text;
        }
        if self.stopped_by.is_none() && !self.stopped_by_indent {
            text.push_str(&self.held_back);
        }
        text
    }

    /// Adds complete characters, and returns the text that cannot be the start of a stop string.
    fn emit(&mut self, characters: &str) -> DecodedText {
        let before = self.held_back.len();
        self.held_back.push_str(characters);
        for (offset, &byte) in characters.as_bytes().iter().enumerate() {
            let min_indent = self.min_indent.as_mut();
            self.stopped_by_indent = min_indent.is_some_and(|limit| limit.ends_before(byte));
            let complete = self
                .stop_strings
                .iter_mut()
                .enumerate()
                .filter_map(|(index, stop)| stop.step(byte).then_some((stop.text.len(), index)))
                .max_by_key(|&(length, index)| (length, std::cmp::Reverse(index)));
            let end = match (self.stopped_by_indent, complete) {
                (true, _) => before + offset,
                (false, Some((length, index))) => {
                    self.stopped_by = Some(index);
                    before + offset + 1 - length
                }
                (false, None) => continue,
            };
            let mut text = std::mem::take(&mut self.held_back);
            text.truncate(end);
            self.incomplete.clear();
            return DecodedText {
                text,
                stopped_by: self.stopped_by,
            };
        }
        let held_back = self
            .stop_strings
            .iter()
            .map(|stop| stop.matched)
            .max()
            .unwrap_or(0);
        let end = self.held_back.len() - held_back;
        let text = self.held_back.drain(..end).collect();
        DecodedText {
            text,
            stopped_by: None,
        }
    }
}

/// Detects the first line with too little indentation.
#[derive(Debug)]
struct MinIndent {
    /// Minimum number of spaces and tabs.
    width: usize,
    /// Number of spaces and tabs so far at the start of a line; `None` after the first other character of the line.
    line_width: Option<usize>,
}

impl MinIndent {
    /// Processes the next byte of the text. Returns whether the text ends before this byte.
    fn ends_before(&mut self, byte: u8) -> bool {
        match (byte, self.line_width) {
            (b'\n', _) => self.line_width = Some(0),
            (b' ' | b'\t', Some(width)) => self.line_width = Some(width + 1),
            (b'\r', _) | (_, None) => {}
            (_, Some(width)) => {
                self.line_width = None;
                return width < self.width;
            }
        }
        false
    }
}

/// Removes and returns the complete characters. Invalid bytes become U+FFFD, as in `String::from_utf8_lossy`. An
/// incomplete character at the end stays in `bytes`.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut processed_bytes = 0;
    let mut incomplete_bytes = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid();
        processed_bytes += chunk.valid().len() + invalid.len();
        let is_incomplete =
            std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        // Further bytes can complete a character only at the end.
        if processed_bytes == bytes.len() && is_incomplete {
            incomplete_bytes = invalid.len();
        } else if !invalid.is_empty() {
            text.push('\u{FFFD}');
        }
    }
    bytes.drain(..bytes.len() - incomplete_bytes);
    text
}

/// A stop string, matched incrementally (Knuth, Morris, Pratt: Fast Pattern Matching in Strings, 1977).
#[derive(Debug)]
struct StopString {
    text: String,
    /// For each prefix: the length of its longest proper prefix that is also its suffix.
    fallback: Vec<usize>,
    /// Length in bytes of the longest prefix of the stop string that the text so far ends with.
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

    /// Processes the next byte of the text. Returns whether the text now ends with the stop string. Must not be called
    /// again after it returned `true`.
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
