//! What is done to a text before the model: it is made even and cut into words. The steps are the crate `tokenizers`', but
//! for those with a regular expression, which are ours in time and memory.

use tokenizers::pattern::Invert;
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Result, SplitDelimiterBehavior,
};

use crate::text::expression::Expression;

/// The steps, in order.
#[derive(Debug, Clone, Default)]
pub(in crate::text) struct Front {
    pub(in crate::text) even: Vec<Evening>,
    pub(in crate::text) words: Vec<WordStep>,
}

/// Makes a text even.
#[derive(Debug, Clone)]
pub(in crate::text) enum Evening {
    /// Another text stands for each match.
    Replace {
        expression: Expression,
        content: String,
    },
    Crate(NormalizerWrapper),
}

/// Cuts words.
#[derive(Debug, Clone)]
pub(in crate::text) enum WordStep {
    Split {
        expression: Expression,
        behavior: SplitDelimiterBehavior,
        /// Whether what does not match is what is looked for.
        invert: bool,
    },
    Crate(PreTokenizerWrapper),
}

impl Front {
    /// The words of a text.
    pub(super) fn words(&self, text: &str) -> Result<PreTokenizedString> {
        let mut text = NormalizedString::from(text);
        for step in &self.even {
            match step {
                Evening::Replace {
                    expression,
                    content,
                } => text.replace(expression, content)?,
                Evening::Crate(step) => step.normalize(&mut text)?,
            }
        }
        let mut words = PreTokenizedString::from(text);
        for step in &self.words {
            step.cut(&mut words)?;
        }
        Ok(words)
    }
}

impl WordStep {
    /// Cuts at each match, which is a word.
    pub(super) fn at(expression: Expression) -> Self {
        Self::Split {
            expression,
            behavior: SplitDelimiterBehavior::Isolated,
            invert: false,
        }
    }

    fn cut(&self, words: &mut PreTokenizedString) -> Result<()> {
        match self {
            WordStep::Split {
                expression,
                behavior,
                invert,
            } => words.split(|_, word| match invert {
                true => word.split(Invert(expression), *behavior),
                false => word.split(expression, *behavior),
            }),
            WordStep::Crate(step) => step.pre_tokenize(words),
        }
    }
}
