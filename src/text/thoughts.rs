//! Thoughts that models write before they answer: between two marks, which the chat template gives away.

use super::common;
use super::tools::TextEnd;

/// A way to write thoughts.
#[derive(Debug, PartialEq, Eq)]
pub struct ThoughtSyntax {
    /// Before a thought.
    pub begin: &'static str,
    /// Behind it.
    pub end: &'static str,
}

/// DeepSeek R1, Qwen 3, QwQ, SmolLM 3, and most others.
static THINK: ThoughtSyntax = ThoughtSyntax {
    begin: "<think>",
    end: "</think>",
};

/// Mistral's Magistral.
static MAGISTRAL: ThoughtSyntax = ThoughtSyntax {
    begin: "[THINK]",
    end: "[/THINK]",
};

impl ThoughtSyntax {
    /// Between a thought and the answer.
    pub const GAP: &str = "\n\n";

    /// The way of the model that has such a template; `None` if it does not think.
    pub(super) fn of_template(source: &str) -> Option<&'static Self> {
        let mut known = [&THINK, &MAGISTRAL].into_iter();
        known.find(|syntax| source.contains(syntax.end))
    }

    /// Whether a prompt ends where a thought has begun.
    pub fn is_begun(&self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.begin)
    }

    /// The prompt, in a thought.
    pub fn begun(&self, mut prompt: String) -> String {
        if !self.is_begun(&prompt) {
            prompt.push_str(self.begin);
            prompt.push('\n');
        }
        prompt
    }

    /// The prompt, behind a thought: that one, or an empty one if the template has not written any.
    pub fn over(&self, prompt: String, thought: Option<&str>) -> String {
        let written = prompt.trim_end().ends_with(self.end);
        match thought {
            None if written => prompt,
            thought => {
                let thought = thought.unwrap_or_default();
                self.begun(prompt) + thought + &self.closing()
            }
        }
    }

    /// What ends a thought that is to end.
    pub fn closing(&self) -> String {
        format!("\n{}{}", self.end, Self::GAP)
    }

    /// Both marks, one after the other: among them may be the names of control tokens.
    pub fn texts(&self) -> String {
        [self.begin, self.end].join("\n")
    }
}

/// Reads the thought off the beginning of an answer. White space around it belongs to neither.
#[derive(Debug)]
pub(super) struct ThoughtReader {
    syntax: &'static ThoughtSyntax,
    place: Place,
    held: String,
    tokens: usize,
}

/// Where in an answer the held text begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing was said.
    Start,
    /// At the first words of a thought, or before them.
    Begun,
    /// Among its words.
    Within,
    /// Behind its end mark.
    Behind,
    /// Among what is said.
    Answer,
}

/// What came of a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) thought: String,
    pub(super) answer: String,
}

impl ThoughtReader {
    /// Of an answer that begins in a thought, or may begin with one.
    pub(super) fn new(syntax: &'static ThoughtSyntax, is_begun: bool) -> Self {
        Self {
            syntax,
            place: match is_begun {
                true => Place::Begun,
                false => Place::Start,
            },
            held: String::new(),
            tokens: 0,
        }
    }

    /// Takes the next piece, which so many tokens brought.
    pub(super) fn push(&mut self, text: &str, tokens: usize) -> Told {
        // Those that are not told yet are counted, and uncounted if they turn out to be the answer's.
        if self.is_thinking() {
            self.tokens += tokens;
        }
        self.held.push_str(text);
        let mut told = Told::default();
        while self.step(&mut told) {}
        told
    }

    /// Whether what comes next may be a thought.
    pub(super) fn is_thinking(&self) -> bool {
        matches!(self.place, Place::Start | Place::Begun | Place::Within)
    }

    /// The text has ended. Where it was cut, the beginning of a mark belongs to neither thought nor answer.
    pub(super) fn finish(mut self, end: TextEnd) -> Told {
        let mut held = std::mem::take(&mut self.held);
        let cut = end == TextEnd::Cut;
        match self.place {
            Place::Begun | Place::Within => {
                if cut {
                    held.truncate(held.len() - common(&held, self.syntax.end));
                }
                Told {
                    thought: held.trim_end().to_owned(),
                    answer: String::new(),
                }
            }
            Place::Start if cut && !held.trim_start().is_empty() => Told::default(),
            Place::Start | Place::Answer => Told {
                thought: String::new(),
                answer: held,
            },
            Place::Behind => Told::default(),
        }
    }

    /// Tokens of the thought, its marks included.
    pub(super) fn tokens(&self) -> usize {
        match self.place {
            Place::Start => 0,
            _ => self.tokens,
        }
    }

    /// Tells what is certain at this place; whether it goes on at another one.
    fn step(&mut self, told: &mut Told) -> bool {
        let (begin, end) = (self.syntax.begin, self.syntax.end);
        match self.place {
            Place::Start => {
                let text = self.held.trim_start();
                if let Some(rest) = text.strip_prefix(begin) {
                    self.held = rest.to_owned();
                    self.place = Place::Begun;
                    return true;
                }
                if begin.starts_with(text) {
                    return false;
                }
                self.tokens = 0;
                self.place = Place::Answer;
                true
            }
            Place::Begun => {
                self.held = self.held.trim_start().to_owned();
                if self.held.is_empty() {
                    return false;
                }
                self.place = Place::Within;
                true
            }
            Place::Within => match self.held.find(end) {
                Some(place) => {
                    told.thought.push_str(self.held[..place].trim_end());
                    self.held.drain(..place + end.len());
                    self.place = Place::Behind;
                    true
                }
                None => {
                    // What may be the end mark, and white space that may be before it, has to wait.
                    let certain = self.held.len() - common(&self.held, end);
                    let certain = self.held[..certain].trim_end().len();
                    told.thought.extend(self.held.drain(..certain));
                    false
                }
            },
            Place::Behind => {
                self.held = self.held.trim_start().to_owned();
                if self.held.is_empty() {
                    return false;
                }
                self.place = Place::Answer;
                true
            }
            Place::Answer => {
                told.answer.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(is_begun: bool, text: &str, thought: &str, answer: &str) {
        for characters in [1, 2, 3, 5, 8, text.len().max(1)] {
            let mut reader = ThoughtReader::new(&THINK, is_begun);
            let mut read = Told::default();
            let all: Vec<char> = text.chars().collect();
            for piece in all.chunks(characters) {
                let told = reader.push(&piece.iter().collect::<String>(), piece.len());
                read.thought += &told.thought;
                read.answer += &told.answer;
            }
            let (tokens, whole) = (reader.tokens(), text.len());
            let rest = reader.finish(TextEnd::Complete);
            read.thought += &rest.thought;
            read.answer += &rest.answer;
            assert_eq!(
                (&*read.thought, &*read.answer),
                (thought, answer),
                "{text:?}"
            );
            if characters == 1 {
                let marks = whole - thought.len() - answer.len();
                let counted = tokens.saturating_sub(thought.len());
                assert!(counted <= marks, "{tokens} of {whole}: {text:?}");
                assert_eq!(tokens == 0, answer == text);
            }
        }
    }

    #[test]
    fn a_thought_is_told_from_the_answer() {
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
    fn what_is_no_thought_is_the_answer() {
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
    fn a_thought_may_break_off() {
        check(false, "<think>Hm, hm ", "Hm, hm", "");
        check(true, "Hm </thi", "Hm </thi", "");
        check(false, "<think>Hm</think>\n", "Hm", "");
    }

    #[test]
    fn a_mark_that_is_cut_is_told_nowhere() {
        for (is_begun, text, thought, answer) in [
            (false, "<thi", "", ""),
            (false, "\n<think", "", ""),
            (false, "  ", "", "  "),
            (false, "<thing", "", "<thing"),
            (true, "Hm </thi", "Hm", ""),
            (false, "<think>Hm\n</", "Hm", ""),
        ] {
            let mut reader = ThoughtReader::new(&THINK, is_begun);
            let mut told = reader.push(text, 1);
            let rest = reader.finish(TextEnd::Cut);
            told.thought += &rest.thought;
            told.answer += &rest.answer;
            assert_eq!(
                (&*told.thought, &*told.answer),
                (thought, answer),
                "{text:?}"
            );
        }
    }

    #[test]
    fn prompts_are_in_a_thought_or_behind_one() {
        let begun = THINK.begun("A:".to_owned());
        assert_eq!(begun, "A:<think>\n");
        assert_eq!(THINK.begun(begun.clone()), begun);
        assert_eq!(THINK.over(begun, None), "A:<think>\n\n</think>\n\n");
        let over = THINK.over("A:".to_owned(), Some("Hm."));
        assert_eq!(over, "A:<think>\nHm.\n</think>\n\n");
        assert_eq!(THINK.over(over.clone(), None), over);
    }

    #[test]
    fn templates_give_their_marks_away() {
        let of = ThoughtSyntax::of_template;
        assert_eq!(of("{{ content.split('</think>')[-1] }}"), Some(&THINK));
        assert_eq!(of("[THINK]a[/THINK]"), Some(&MAGISTRAL));
        assert_eq!(of("{{ messages }}"), None);
    }
}
