//! Prompts for infill (fill-in-the-middle): prefix, suffix and other files, marked by special tokens.
//!
//! Source: Bavarian et al., "Efficient Training of Language Models to Fill in the Middle" (2022), section 3
//! (PSM). The token texts are those by which llama.cpp recognizes the special tokens.

use tokenizers::models::bpe::Vocab;

use super::vocabulary::{DeclaredInfillTokens, Vocabulary};
use crate::token::TokenId;

const PREFIX_TEXTS: [&str; 7] = [
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
];
const SUFFIX_TEXTS: [&str; 7] = [
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
];
const MIDDLE_TEXTS: [&str; 7] = [
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
];

const REPOSITORY_TEXTS: [&str; 5] = [
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
];
const FILE_TEXTS: [&str; 1] = ["<|file_sep|>"];

/// The repository name in prompts, as in llama.cpp's server. Requests do not contain a repository name.
const REPOSITORY: &str = "myproject\n";
/// The name of the file to complete, as in llama.cpp's server. Requests do not contain this name.
const FILE: &str = "filename\n";
/// Precedes each other file in the prompts of models without a file token.
const SNIPPET: &str = "\n\n--- snippet ---\n\n";

/// The input of an infill prompt. Special-token texts in these fields are encoded as ordinary text.
#[derive(Debug, Clone, Default)]
pub struct InfillInput<'a> {
    /// The text before the gap.
    pub prefix: &'a str,
    /// The text after the gap.
    pub suffix: &'a str,
    /// The given beginning of the text that fills the gap.
    pub middle_start: &'a str,
    /// Other files as context: name and text of each.
    pub files: Vec<(&'a str, &'a str)>,
}

/// The infill tokens of a model, if prefix, suffix and middle token exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InfillTokens {
    prefix: TokenId,
    suffix: TokenId,
    middle: TokenId,
    repository: Option<TokenId>,
    file: Option<TokenId>,
}

/// The tokens of an infill prompt, by part, so that files can be omitted to shorten the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfillPrompt {
    /// The repository token and name, before all files.
    repository: Vec<TokenId>,
    /// The other files, each with its separator.
    files: Vec<Vec<TokenId>>,
    /// The token and name of the completed file, after all other files.
    file: Vec<TokenId>,
    /// Prefix, suffix and the beginning of the middle.
    gap: Vec<TokenId>,
}

impl InfillPrompt {
    /// Joins the parts. Omits files, starting with the first, until the prompt has at most `max_tokens` tokens. Prefix
    /// and suffix are never shortened, so the prompt may still be longer. Returns the prompt and the number of omitted
    /// files.
    pub fn into_tokens(self, max_tokens: usize) -> (Vec<TokenId>, usize) {
        let other_tokens = self.repository.len() + self.file.len() + self.gap.len();
        let mut remaining_tokens = max_tokens.saturating_sub(other_tokens);
        let included = self.files.iter().rev().take_while(|file| {
            let fits = file.len() <= remaining_tokens;
            remaining_tokens = remaining_tokens.saturating_sub(file.len());
            fits
        });
        let omitted_files = self.files.len() - included.count();
        if omitted_files == self.files.len() {
            return (self.gap, omitted_files);
        }
        let files = self.files[omitted_files..].concat();
        let prompt = [self.repository, files, self.file, self.gap].concat();
        (prompt, omitted_files)
    }
}

impl InfillTokens {
    /// Finds each token: the declared one, else the one with a known text. Returns `None` if the prefix, suffix or
    /// middle token is missing.
    pub(super) fn find(vocabulary: &Vocabulary, ids: &Vocab) -> Option<Self> {
        let find = |declared: Option<TokenId>, texts: &[&str]| {
            let known = || texts.iter().find_map(|text| ids.get(*text));
            declared.or_else(|| known().copied().map(TokenId))
        };
        let DeclaredInfillTokens {
            prefix,
            suffix,
            middle,
            repository,
            file,
        } = vocabulary.infill;
        Some(Self {
            prefix: find(prefix, &PREFIX_TEXTS)?,
            suffix: find(suffix, &SUFFIX_TEXTS)?,
            middle: find(middle, &MIDDLE_TEXTS)?,
            repository: find(repository, &REPOSITORY_TEXTS),
            file: find(file, &FILE_TEXTS),
        })
    }

    /// Whether prompts contain the names of the other files.
    pub(super) fn shows_file_names(&self) -> bool {
        self.file.is_some()
    }

    /// Builds the prompt. `encode` encodes ordinary text.
    pub(super) fn prompt(
        &self,
        input: &InfillInput<'_>,
        encode: impl Fn(&str) -> Vec<TokenId>,
    ) -> InfillPrompt {
        let token_and_name = |token: Option<TokenId>, name: &str| match token {
            Some(token) => [vec![token], encode(name)].concat(),
            None => Vec::new(),
        };
        let files = input.files.iter().map(|(name, text)| {
            let separator = match self.file {
                Some(_) => token_and_name(self.file, &format!("{name}\n")),
                None => encode(SNIPPET),
            };
            [separator, encode(text)].concat()
        });
        let gap = [
            vec![self.prefix],
            encode(input.prefix),
            vec![self.suffix],
            encode(input.suffix),
            vec![self.middle],
            encode(input.middle_start),
        ];
        InfillPrompt {
            repository: token_and_name(self.repository, REPOSITORY),
            files: files.collect(),
            file: token_and_name(self.file, FILE),
            gap: gap.concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the prompt as text. Each byte is a token; tokens from 1000 on are special.
    fn prompt(tokens: InfillTokens, max_tokens: usize) -> (String, usize) {
        let input = InfillInput {
            prefix: "pre",
            suffix: "suf",
            middle_start: "beg",
            files: vec![("a.rs", "one"), ("b.rs", "two")],
        };
        let encode = |text: &str| text.bytes().map(|byte| TokenId(byte.into())).collect();
        let (prompt, omitted_files) = tokens.prompt(&input, encode).into_tokens(max_tokens);
        let texts = prompt.iter().map(|token| match token.0 {
            0..1000 => char::from(token.0 as u8).to_string(),
            special => format!("<{special}>"),
        });
        (texts.collect(), omitted_files)
    }

    #[test]
    fn other_files_precede_the_gap_and_are_omitted_if_they_do_not_fit() {
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
        let with_names = InfillTokens {
            repository: Some(TokenId(1004)),
            file: Some(TokenId(1005)),
            ..plain
        };
        let (repository, file) = ("<1004>myproject\n", "<1005>filename\n");
        let [first, second] = ["<1005>a.rs\none", "<1005>b.rs\ntwo"];
        let whole = format!("{repository}{first}{second}{file}{gap}");
        assert_eq!(prompt(with_names, usize::MAX), (whole, 0));
        // Each file has 9 tokens, the repository 11, the completed file's name 10, the gap 12.
        let second_only = format!("{repository}{second}{file}{gap}");
        let fits_one = 11 + 9 + 10 + 12;
        let one_omitted = (second_only, 1);
        assert_eq!(prompt(with_names, fits_one + 8), one_omitted);
        assert_eq!(prompt(with_names, fits_one), one_omitted);
        assert_eq!(prompt(with_names, fits_one - 1), (gap.to_owned(), 2));
        assert_eq!(prompt(with_names, 0), (gap.to_owned(), 2));
    }
}
