//! Reasoning: the text between two markers that a model generates before its answer. The markers are detected in the
//! chat template.

use super::output_end::OutputEnd;
use super::partial_marker_bytes;

/// The markers around the reasoning.
#[derive(Debug, PartialEq, Eq)]
pub struct ReasoningMarkers {
    /// Precedes the reasoning.
    pub begin: &'static str,
    /// Follows the reasoning.
    pub end: &'static str,
}

/// The markers of DeepSeek R1, Qwen 3, QwQ, SmolLM 3, and most other models.
static THINK: ReasoningMarkers = ReasoningMarkers {
    begin: "<think>",
    end: "</think>",
};

/// The markers of Mistral's Magistral.
static MAGISTRAL: ReasoningMarkers = ReasoningMarkers {
    begin: "[THINK]",
    end: "[/THINK]",
};

impl ReasoningMarkers {
    /// The text between the end marker and the answer.
    pub const SEPARATOR: &str = "\n\n";

    /// Returns the markers of the model with this chat template; `None` if the template has no reasoning.
    pub(super) fn detect(template: &str) -> Option<&'static Self> {
        let mut known = [&THINK, &MAGISTRAL].into_iter();
        known.find(|markers| template.contains(markers.end))
    }

    /// Whether the prompt ends with the begin marker.
    pub fn is_open(&self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.begin)
    }

    /// Appends the begin marker to the prompt, unless the prompt already ends with it.
    pub fn open(&self, mut prompt: String) -> String {
        if !self.is_open(&prompt) {
            prompt.push_str(self.begin);
            prompt.push('\n');
        }
        prompt
    }

    /// Appends `reasoning` between its markers to the prompt. `None` appends empty reasoning, unless the prompt already
    /// ends with the end marker.
    pub fn close(&self, prompt: String, reasoning: Option<&str>) -> String {
        let is_closed = prompt.trim_end().ends_with(self.end);
        match reasoning {
            None if is_closed => prompt,
            reasoning => {
                let reasoning = reasoning.unwrap_or_default();
                self.open(prompt) + reasoning + &self.closing_text()
            }
        }
    }

    /// Returns the end marker with the line breaks around it.
    pub fn closing_text(&self) -> String {
        format!("\n{}{}", self.end, Self::SEPARATOR)
    }

    /// Returns both markers, joined. Callers encode this text to find the control tokens among the markers.
    pub fn marker_text(&self) -> String {
        [self.begin, self.end].join("\n")
    }
}

/// Separates the reasoning at the start of a model's output from the content after it. Drops whitespace around the
/// reasoning.
#[derive(Debug)]
pub(super) struct ReasoningParser {
    markers: &'static ReasoningMarkers,
    state: State,
    /// Text that is not yet known to be reasoning or content.
    held_back: String,
    tokens: usize,
}

/// The part of the output in which the held-back text begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a begin marker, or before content without reasoning.
    Start,
    /// Between the begin marker and the first character of the reasoning.
    ReasoningStart,
    Reasoning,
    /// Between the end marker and the first character of the content.
    ReasoningEnd,
    Content,
}

/// Output, separated into reasoning and content.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SeparatedText {
    pub(super) reasoning: String,
    pub(super) content: String,
}

impl ReasoningParser {
    /// Creates a parser of output that may begin with reasoning. `is_open`: the prompt ends with the begin marker.
    pub(super) fn new(markers: &'static ReasoningMarkers, is_open: bool) -> Self {
        Self {
            markers,
            state: match is_open {
                true => State::ReasoningStart,
                false => State::Start,
            },
            held_back: String::new(),
            tokens: 0,
        }
    }

    /// Adds text that was decoded from `tokens` tokens.
    pub(super) fn push(&mut self, text: &str, tokens: usize) -> SeparatedText {
        // Tokens of undecided text count as reasoning; the count is reset if the text turns out to be content.
        if self.is_reasoning() {
            self.tokens += tokens;
        }
        self.held_back.push_str(text);
        let mut separated = SeparatedText::default();
        while self.step(&mut separated) {}
        separated
    }

    /// Whether the next text may be reasoning.
    pub(super) fn is_reasoning(&self) -> bool {
        matches!(
            self.state,
            State::Start | State::ReasoningStart | State::Reasoning
        )
    }

    /// Ends the output and returns the held-back text. If the output was truncated, drops the start of a marker at its
    /// end.
    pub(super) fn finish(mut self, end: OutputEnd) -> SeparatedText {
        let mut held_back = std::mem::take(&mut self.held_back);
        let is_truncated = end == OutputEnd::Truncated;
        match self.state {
            State::ReasoningStart | State::Reasoning => {
                if is_truncated {
                    let marker_bytes = partial_marker_bytes(&held_back, self.markers.end);
                    held_back.truncate(held_back.len() - marker_bytes);
                }
                SeparatedText {
                    reasoning: held_back.trim_end().to_owned(),
                    content: String::new(),
                }
            }
            State::Start if is_truncated && !held_back.trim_start().is_empty() => {
                SeparatedText::default()
            }
            State::Start | State::Content => SeparatedText {
                reasoning: String::new(),
                content: held_back,
            },
            State::ReasoningEnd => SeparatedText::default(),
        }
    }

    /// Number of reasoning tokens, including the markers.
    pub(super) fn tokens(&self) -> usize {
        match self.state {
            State::Start => 0,
            _ => self.tokens,
        }
    }

    /// Moves held-back text into `separated` as far as the state allows. Returns whether the state changed.
    fn step(&mut self, separated: &mut SeparatedText) -> bool {
        let (begin, end) = (self.markers.begin, self.markers.end);
        match self.state {
            State::Start => {
                let text = self.held_back.trim_start();
                if let Some(rest) = text.strip_prefix(begin) {
                    self.held_back = rest.to_owned();
                    self.state = State::ReasoningStart;
                    return true;
                }
                if begin.starts_with(text) {
                    return false;
                }
                self.tokens = 0;
                self.state = State::Content;
                true
            }
            State::ReasoningStart | State::ReasoningEnd => {
                self.held_back = self.held_back.trim_start().to_owned();
                if self.held_back.is_empty() {
                    return false;
                }
                self.state = match self.state {
                    State::ReasoningStart => State::Reasoning,
                    _ => State::Content,
                };
                true
            }
            State::Reasoning => match self.held_back.find(end) {
                Some(position) => {
                    let reasoning = self.held_back[..position].trim_end();
                    separated.reasoning.push_str(reasoning);
                    self.held_back.drain(..position + end.len());
                    self.state = State::ReasoningEnd;
                    true
                }
                None => {
                    // The start of an end marker, and whitespace before it, stays held back.
                    let marker_start =
                        self.held_back.len() - partial_marker_bytes(&self.held_back, end);
                    let reasoning_end = self.held_back[..marker_start].trim_end().len();
                    separated
                        .reasoning
                        .extend(self.held_back.drain(..reasoning_end));
                    false
                }
            },
            State::Content => {
                let content = std::mem::take(&mut self.held_back);
                separated.content.push_str(&content);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(is_open: bool, text: &str, reasoning: &str, content: &str) {
        for characters in [1, 2, 3, 5, 8, text.len().max(1)] {
            let mut parser = ReasoningParser::new(&THINK, is_open);
            let mut parsed = SeparatedText::default();
            let all: Vec<char> = text.chars().collect();
            for piece in all.chunks(characters) {
                let new = parser.push(&piece.iter().collect::<String>(), piece.len());
                parsed.reasoning += &new.reasoning;
                parsed.content += &new.content;
            }
            let (tokens, text_bytes) = (parser.tokens(), text.len());
            let rest = parser.finish(OutputEnd::Complete);
            parsed.reasoning += &rest.reasoning;
            parsed.content += &rest.content;
            assert_eq!(
                (&*parsed.reasoning, &*parsed.content),
                (reasoning, content),
                "{text:?}"
            );
            if characters == 1 {
                let marker_bytes = text_bytes - reasoning.len() - content.len();
                let marker_tokens = tokens.saturating_sub(reasoning.len());
                assert!(
                    marker_tokens <= marker_bytes,
                    "{tokens} of {text_bytes}: {text:?}"
                );
                assert_eq!(tokens == 0, content == text);
            }
        }
    }

    #[test]
    fn separates_reasoning_from_content() {
        check(
            false,
            "<think>\nHm. 1 < 2\n</think>\n\nYes.",
            "Hm. 1 < 2",
            "Yes.",
        );
        check(false, "\n<think>a</think>b", "a", "b");
        check(true, "\nHm.\n\n</think>\n\nYes.\n", "Hm.", "Yes.\n");
        check(true, "a </thin </think> b</think>", "a </thin", "b</think>");
        check(true, "\n</think>\n\nYes.", "", "Yes.");
    }

    #[test]
    fn output_without_reasoning_is_content() {
        check(
            false,
            "Yes. <think>no</think>",
            "",
            "Yes. <think>no</think>",
        );
        check(false, " <thing>", "", " <thing>");
        check(false, "<thi", "", "<thi");
        check(false, "  ", "", "  ");
    }

    #[test]
    fn reasoning_may_be_incomplete() {
        check(false, "<think>Hm, hm ", "Hm, hm", "");
        check(true, "Hm </thi", "Hm </thi", "");
        check(false, "<think>Hm</think>\n", "Hm", "");
    }

    #[test]
    fn drops_the_start_of_a_marker_if_the_output_was_truncated() {
        for (is_open, text, reasoning, content) in [
            (false, "<thi", "", ""),
            (false, "\n<think", "", ""),
            (false, "  ", "", "  "),
            (false, "<thing", "", "<thing"),
            (true, "Hm </thi", "Hm", ""),
            (false, "<think>Hm\n</", "Hm", ""),
        ] {
            let mut parser = ReasoningParser::new(&THINK, is_open);
            let mut parsed = parser.push(text, 1);
            let rest = parser.finish(OutputEnd::Truncated);
            parsed.reasoning += &rest.reasoning;
            parsed.content += &rest.content;
            assert_eq!(
                (&*parsed.reasoning, &*parsed.content),
                (reasoning, content),
                "{text:?}"
            );
        }
    }

    #[test]
    fn opens_and_closes_the_reasoning_of_a_prompt() {
        let open = THINK.open("A:".to_owned());
        assert_eq!(open, "A:<think>\n");
        assert_eq!(THINK.open(open.clone()), open);
        assert_eq!(THINK.close(open, None), "A:<think>\n\n</think>\n\n");
        let closed = THINK.close("A:".to_owned(), Some("Hm."));
        assert_eq!(closed, "A:<think>\nHm.\n</think>\n\n");
        assert_eq!(THINK.close(closed.clone(), None), closed);
    }

    #[test]
    fn detects_the_markers_of_a_template() {
        let detect = ReasoningMarkers::detect;
        assert_eq!(detect("{{ content.split('</think>')[-1] }}"), Some(&THINK));
        assert_eq!(detect("[THINK]a[/THINK]"), Some(&MAGISTRAL));
        assert_eq!(detect("{{ messages }}"), None);
    }
}
