//! Fill in the middle: the tokens between which a model expects what comes before a gap and what comes after it.
//!
//! Source: Bavarian et al., "Efficient Training of Language Models to Fill in the Middle" (2022), section 3
//! (PSM); the names are those by which llama.cpp recognises the tokens.

use tokenizers::models::bpe::Vocab;

use super::vocabulary::Vocabulary;
use crate::token::TokenId;

const PREFIX_NAMES: [&str; 7] = [
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
];
const SUFFIX_NAMES: [&str; 7] = [
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
];
const MIDDLE_NAMES: [&str; 7] = [
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
];

const REPOSITORY_NAMES: [&str; 5] = [
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
];
const FILE_NAMES: [&str; 1] = ["<|file_sep|>"];

/// The name of the repository, which no request says: llama.cpp's server uses the same.
const REPOSITORY: &str = "myproject\n";
/// The name of the file with the gap.
const FILE: &str = "filename\n";
/// Before another file's text, for models without a token for it.
const SNIPPET: &str = "\n\n--- snippet ---\n\n";

/// A gap between two texts, and what else is known. Nothing in the texts is a special token.
#[derive(Debug, Clone, Default)]
pub struct Gap<'a> {
    /// What comes before it.
    pub prefix: &'a str,
    /// What comes after it.
    pub suffix: &'a str,
    /// The beginning of what fills it.
    pub begun: &'a str,
    /// Other files, each with its name and its text.
    pub files: Vec<(&'a str, &'a str)>,
}

/// What a model's file says of the tokens around a gap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NamedInfillTokens {
    /// Comes before the text before the gap.
    pub prefix: Option<TokenId>,
    /// Comes before the text after the gap.
    pub suffix: Option<TokenId>,
    /// Comes before what fills the gap.
    pub middle: Option<TokenId>,
    /// Comes before the name of a repository.
    pub repository: Option<TokenId>,
    /// Comes before the name of a file.
    pub file: Option<TokenId>,
}

/// The tokens of a model that fills gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InfillTokens {
    prefix: TokenId,
    suffix: TokenId,
    middle: TokenId,
    repository: Option<TokenId>,
    file: Option<TokenId>,
}

/// A gap in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapTokens {
    /// Before all files.
    repository: Vec<TokenId>,
    /// Each with what separates it from what comes before.
    files: Vec<Vec<TokenId>>,
    /// Behind all files.
    file: Vec<TokenId>,
    /// The texts around the gap, and what begins to fill it.
    gap: Vec<TokenId>,
}

impl GapTokens {
    /// The prompt whose continuation fills the gap, and how many files were left out, from the first on, so that it has no
    /// more than `most` tokens. The texts around the gap stay in any case.
    pub fn prompt(self, most: usize) -> (Vec<TokenId>, usize) {
        let around = self.repository.len() + self.file.len() + self.gap.len();
        let mut room = most.saturating_sub(around);
        let kept = self.files.iter().rev().take_while(|file| {
            let fits = file.len() <= room;
            room = room.saturating_sub(file.len());
            fits
        });
        let left_out = self.files.len() - kept.count();
        if left_out == self.files.len() {
            return (self.gap, left_out);
        }
        let files = self.files[left_out..].concat();
        let prompt = [self.repository, files, self.file, self.gap].concat();
        (prompt, left_out)
    }
}

impl InfillTokens {
    /// The tokens that the file names, else those with a known name; `None` if one of the three around a gap is missing.
    pub(super) fn find(vocabulary: &Vocabulary, ids: &Vocab) -> Option<Self> {
        let find = |given: Option<TokenId>, names: &[&str]| {
            let known = || names.iter().find_map(|name| ids.get(*name));
            given.or_else(|| known().copied().map(TokenId))
        };
        let NamedInfillTokens {
            prefix,
            suffix,
            middle,
            repository,
            file,
        } = vocabulary.infill;
        Some(Self {
            prefix: find(prefix, &PREFIX_NAMES)?,
            suffix: find(suffix, &SUFFIX_NAMES)?,
            middle: find(middle, &MIDDLE_NAMES)?,
            repository: find(repository, &REPOSITORY_NAMES),
            file: find(file, &FILE_NAMES),
        })
    }

    /// Whether there is a token that the name of a file follows.
    pub(super) fn shows_file_names(&self) -> bool {
        self.file.is_some()
    }

    /// The gap in tokens; `encode` makes those of a text.
    pub(super) fn tokens(&self, gap: &Gap<'_>, encode: impl Fn(&str) -> Vec<TokenId>) -> GapTokens {
        let named = |token: Option<TokenId>, name: &str| match token {
            Some(token) => [vec![token], encode(name)].concat(),
            None => Vec::new(),
        };
        let files = gap.files.iter().map(|(name, text)| {
            let before = match self.file {
                Some(_) => named(self.file, &format!("{name}\n")),
                None => encode(SNIPPET),
            };
            [before, encode(text)].concat()
        });
        let parts = [
            vec![self.prefix],
            encode(gap.prefix),
            vec![self.suffix],
            encode(gap.suffix),
            vec![self.middle],
            encode(gap.begun),
        ];
        GapTokens {
            repository: named(self.repository, REPOSITORY),
            files: files.collect(),
            file: named(self.file, FILE),
            gap: parts.concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The prompt of a gap in a text of bytes; tokens from 1000 on are special.
    fn prompt(tokens: InfillTokens, most: usize) -> (String, usize) {
        let gap = Gap {
            prefix: "pre",
            suffix: "suf",
            begun: "beg",
            files: vec![("a.rs", "one"), ("b.rs", "two")],
        };
        let encode = |text: &str| text.bytes().map(|byte| TokenId(byte.into())).collect();
        let (prompt, left_out) = tokens.tokens(&gap, encode).prompt(most);
        let spelt = prompt.iter().map(|token| match token.0 {
            0..1000 => char::from(token.0 as u8).to_string(),
            special => format!("<{special}>"),
        });
        (spelt.collect(), left_out)
    }

    #[test]
    fn other_files_come_before_the_gap() {
        let plain = InfillTokens {
            prefix: TokenId(1001),
            suffix: TokenId(1002),
            middle: TokenId(1003),
            repository: None,
            file: None,
        };
        let gap = "<1001>pre<1002>suf<1003>beg";
        let snippet = "\n\n--- snippet ---\n\n";
        let whole = format!("{snippet}one{snippet}two{gap}");
        assert_eq!(prompt(plain, usize::MAX), (whole, 0));
        let named = InfillTokens {
            repository: Some(TokenId(1004)),
            file: Some(TokenId(1005)),
            ..plain
        };
        let (repository, file) = ("<1004>myproject\n", "<1005>filename\n");
        let [first, second] = ["<1005>a.rs\none", "<1005>b.rs\ntwo"];
        let whole = format!("{repository}{first}{second}{file}{gap}");
        assert_eq!(prompt(named, usize::MAX), (whole, 0));
        // Two files of 9 tokens each, 11 and 10 before and behind them, 12 of the gap.
        let some = format!("{repository}{second}{file}{gap}");
        assert_eq!(prompt(named, 11 + 9 + 10 + 12 + 8), (some.clone(), 1));
        assert_eq!(prompt(named, 11 + 9 + 10 + 12), (some, 1));
        assert_eq!(prompt(named, 11 + 9 + 10 + 11), (gap.to_owned(), 2));
        assert_eq!(prompt(named, 0), (gap.to_owned(), 2));
    }
}
