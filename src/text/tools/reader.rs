//! An answer's text, as it comes, to what is thought, said and called. Nothing is taken for a call that does not begin
//! as its syntax has it; what cannot be told yet is held back.

use super::ToolSyntax;
use crate::text::common;
use crate::text::thoughts::{ThoughtReader, ThoughtSyntax, Told};

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerPart {
    /// Something is thought.
    Thought(String),
    /// Something is said.
    Text(String),
    /// A function is called.
    Call {
        /// Which one.
        name: String,
    },
    /// The next piece of the arguments of the last call.
    Arguments(String),
}

/// Why an answer has no more text. It decides what becomes of text that was held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEnd {
    /// The model ended it: what was held back is text.
    Complete,
    /// A stop string was found: the beginning of a call is not text.
    StopString,
    /// A limit cut it: what may be the beginning of a call or of a thought is not text.
    Cut,
}

/// Reads the text of one answer.
#[derive(Debug)]
pub struct AnswerReader {
    thoughts: Option<ThoughtReader>,
    functions: Option<Functions>,
    place: Place,
    held: String,
}

#[derive(Debug)]
struct Functions {
    syntax: &'static ToolSyntax,
    names: Vec<String>,
}

/// Where in an answer the held text begins.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Nothing was said.
    Start,
    /// Among what is said.
    Text,
    /// At the mark of the first call.
    FirstCall,
    /// Within a call's arguments.
    Arguments(Nesting),
    /// Right behind them.
    AfterArguments,
    /// Behind a call.
    AfterCall,
}

/// Brackets and quotes that are open in JSON.
#[derive(Debug, Clone, Copy, Default)]
struct Nesting {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// Where the held text goes on, now that some of it was told.
enum Step {
    /// More of it may be told.
    On(Place),
    /// More text must come.
    Wait(Place),
}

impl AnswerReader {
    /// Reads an answer that calls nothing.
    pub fn of_text() -> Self {
        Self {
            thoughts: None,
            functions: None,
            place: Place::Text,
            held: String::new(),
        }
    }

    /// Reads an answer that may call these functions.
    pub fn of_calls(syntax: &'static ToolSyntax, names: Vec<String>) -> Self {
        Self {
            thoughts: None,
            functions: Some(Functions { syntax, names }),
            place: Place::Start,
            held: String::new(),
        }
    }

    /// The same of an answer before which something may be thought, or in whose thought the prompt ends.
    pub fn after_thoughts(mut self, syntax: &'static ThoughtSyntax, is_begun: bool) -> Self {
        self.thoughts = Some(ThoughtReader::new(syntax, is_begun));
        self
    }

    /// The same, where what is thought is said.
    pub fn with_thoughts_as_text(mut self) -> Self {
        self.thoughts = None;
        self
    }

    /// Whether what comes next may be a thought.
    pub fn is_thinking(&self) -> bool {
        let thoughts = self.thoughts.as_ref();
        thoughts.is_some_and(ThoughtReader::is_thinking)
    }

    /// Tokens of the thought, as far as it is told.
    pub fn thought_tokens(&self) -> usize {
        self.thoughts.as_ref().map_or(0, ThoughtReader::tokens)
    }

    /// Takes the text's next piece, which so many tokens brought, and tells what is certain.
    pub fn push(&mut self, text: &str, tokens: usize) -> Vec<AnswerPart> {
        let Some(thoughts) = &mut self.thoughts else {
            return self.push_answer(text);
        };
        let Told { thought, answer } = thoughts.push(text, tokens);
        let mut parts = Vec::from_iter(thought_of(thought));
        if !answer.is_empty() {
            parts.extend(self.push_answer(&answer));
        }
        parts
    }

    fn push_answer(&mut self, text: &str) -> Vec<AnswerPart> {
        let mut parts = Vec::new();
        let Some(functions) = &self.functions else {
            parts.extend(said(text));
            return parts;
        };
        self.held.push_str(text);
        loop {
            match functions.step(self.place, &mut self.held, &mut parts) {
                Step::On(place) => self.place = place,
                Step::Wait(place) => {
                    self.place = place;
                    return parts;
                }
            }
        }
    }

    /// The text has ended: what was held back, if it is part of the answer. A call that breaks off before its arguments
    /// is not: nobody could use it, and its markup is no text.
    pub fn finish(mut self, end: TextEnd) -> Vec<AnswerPart> {
        let thoughts = self.thoughts.take();
        let told = thoughts.map(|thoughts| thoughts.finish(end));
        let Told { thought, answer } = told.unwrap_or_default();
        let mut parts = Vec::from_iter(thought_of(thought));
        if !answer.is_empty() {
            parts.extend(self.push_answer(&answer));
        }
        parts.extend(match self.place {
            Place::Start | Place::Text if end != TextEnd::Cut => said(&self.held),
            Place::FirstCall if end == TextEnd::Complete => said(&self.held),
            Place::Start | Place::Text | Place::FirstCall => None,
            // What belongs to calls was cut off.
            Place::Arguments(_) | Place::AfterArguments | Place::AfterCall => None,
        });
        parts
    }
}

fn thought_of(text: String) -> Option<AnswerPart> {
    (!text.is_empty()).then_some(AnswerPart::Thought(text))
}

fn said(text: &str) -> Option<AnswerPart> {
    (!text.is_empty()).then(|| AnswerPart::Text(text.to_owned()))
}

impl Functions {
    /// Takes from the held text what can be told at this place.
    fn step(&self, place: Place, held: &mut String, parts: &mut Vec<AnswerPart>) -> Step {
        let syntax = self.syntax;
        match place {
            Place::Start if syntax.after_text => Step::On(Place::Text),
            Place::Start => match expect(held, syntax.mark) {
                Expected::Here => Step::On(Place::FirstCall),
                Expected::Perhaps => Step::Wait(place),
                Expected::Not => Step::On(Place::Text),
            },
            Place::Text => {
                let mark = held.find(syntax.mark).filter(|_| syntax.after_text);
                let certain = match syntax.after_text {
                    true => mark.unwrap_or_else(|| held.len() - common(held, syntax.mark)),
                    false => held.len(),
                };
                parts.extend(said(&take(held, certain)));
                match mark {
                    Some(_) => Step::On(Place::FirstCall),
                    None => Step::Wait(place),
                }
            }
            Place::FirstCall => match self.call(syntax.opening, held, parts) {
                Expected::Here => Step::On(Place::Arguments(Nesting::default())),
                Expected::Perhaps => Step::Wait(place),
                Expected::Not => {
                    parts.extend(said(&take(held, syntax.mark.len())));
                    Step::On(Place::Text)
                }
            },
            Place::Arguments(mut nesting) => {
                let end = held.bytes().position(|byte| nesting.closes(byte));
                let piece = take(held, end.map_or(held.len(), |end| end + 1));
                if !piece.is_empty() {
                    parts.push(AnswerPart::Arguments(piece));
                }
                match end {
                    Some(_) => Step::On(Place::AfterArguments),
                    None => Step::Wait(Place::Arguments(nesting)),
                }
            }
            Place::AfterArguments => match expect(held, syntax.after_arguments) {
                Expected::Here => {
                    take(held, syntax.after_arguments.len());
                    Step::On(Place::AfterCall)
                }
                Expected::Perhaps => Step::Wait(place),
                Expected::Not => Step::On(Place::Text),
            },
            Place::AfterCall if held.is_empty() => Step::Wait(place),
            Place::AfterCall => {
                let next = syntax
                    .between
                    .map(|between| self.call(between, held, parts));
                match (next, expect(held, syntax.closing)) {
                    (Some(Expected::Here), _) => Step::On(Place::Arguments(Nesting::default())),
                    (Some(Expected::Perhaps), _) | (_, Expected::Perhaps) => Step::Wait(place),
                    (_, Expected::Here) => {
                        take(held, syntax.closing.len());
                        Step::On(Place::Text)
                    }
                    (_, Expected::Not) => Step::On(Place::Text),
                }
            }
        }
    }

    /// Takes the beginning of a call, behind a text.
    fn call(&self, before: &str, held: &mut String, parts: &mut Vec<AnswerPart>) -> Expected {
        let mut found = Expected::Not;
        for name in &self.names {
            let begin = [before, &self.syntax.begin(name)].concat();
            match expect(held, &begin) {
                Expected::Here => {
                    take(held, begin.len());
                    parts.push(AnswerPart::Call { name: name.clone() });
                    return Expected::Here;
                }
                Expected::Perhaps => found = Expected::Perhaps,
                Expected::Not => {}
            }
        }
        found
    }
}

/// Whether a text begins with another.
enum Expected {
    Here,
    /// As far as it goes.
    Perhaps,
    Not,
}

fn expect(text: &str, expected: &str) -> Expected {
    match (text.starts_with(expected), expected.starts_with(text)) {
        (true, _) => Expected::Here,
        (false, true) => Expected::Perhaps,
        (false, false) => Expected::Not,
    }
}

fn take(text: &mut String, length: usize) -> String {
    text.drain(..length).collect()
}

impl Nesting {
    /// Takes the next byte; whether it closes the outermost bracket.
    fn closes(&mut self, byte: u8) -> bool {
        match (self.in_string, byte) {
            (true, _) if self.escaped => self.escaped = false,
            (true, b'\\') => self.escaped = true,
            (_, b'"') => self.in_string = !self.in_string,
            (false, b'{' | b'[') => self.depth += 1,
            (false, b'}' | b']') => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}
