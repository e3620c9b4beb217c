//! What is done to a text before the model: it is made even and cut into words. The steps are the crate `tokenizers`', but
//! for those with a regular expression, which are ours in time and memory.

use std::sync::Arc;

use tokenizers::pattern::Invert;
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Result, SplitDelimiterBehavior,
};

use super::charsmap::Charsmap;
use super::spellings::SPACE;
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
    /// Another text stands for clusters of characters.
    Clusters(Arc<Charsmap>),
    /// Spaces are spelt as SentencePiece spells them.
    Spaces {
        /// What is replaced before.
        charsmap: Option<Arc<Charsmap>>,
        /// Whether several become one, and those around a text go.
        merges: bool,
        /// Whether there is one before a text.
        before: bool,
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
        let mut text = text.to_owned();
        for step in &self.even {
            text = step.evened(&text)?;
        }
        let mut words = PreTokenizedString::from(text);
        for step in &self.words {
            step.cut(&mut words)?;
        }
        Ok(words)
    }
}

impl Evening {
    /// The text after this step. Where its characters come from is not kept: nobody asks, and the crate loses count of it
    /// where a pattern matches nothing.
    fn evened(&self, text: &str) -> Result<String> {
        let by_crate = |step: &dyn Fn(&mut NormalizedString) -> Result<()>| {
            let mut text = NormalizedString::from(text);
            step(&mut text)?;
            Ok(text.get().to_owned())
        };
        match self {
            Evening::Replace {
                expression,
                content,
            } => by_crate(&|text| text.replace(expression, content)),
            Evening::Clusters(charsmap) => Ok(charsmap.replaced_by_clusters(text)),
            Evening::Spaces {
                charsmap,
                merges,
                before,
            } => {
                let replaced = charsmap.as_ref().map(|table| table.replaced(text));
                let replaced = replaced.as_deref().unwrap_or(text);
                Ok(spelt(replaced, *merges, *before))
            }
            Evening::Crate(step) => by_crate(&|text| step.normalize(text)),
        }
    }
}

/// The text with its spaces as they are in pieces.
fn spelt(text: &str, merges: bool, before: bool) -> String {
    // Of a text that goes on with another one, the first word may go on, too.
    let begins = before || text.starts_with(' ');
    let spelt = match merges {
        true => {
            let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
            words.join(SPACE)
        }
        false => text.replace(' ', SPACE),
    };
    let wants = match merges {
        true => begins,
        false => before,
    };
    match wants && !spelt.is_empty() {
        true => format!("{SPACE}{spelt}"),
        false => spelt,
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
