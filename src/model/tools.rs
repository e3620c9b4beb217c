//! Functions that an answer may call: the model's way of writing calls becomes what the text must follow, and what its
//! text is read by.

use super::LoadedModel;
use super::request::{GrammarSource, ToolUse};
use super::thoughts::Thoughts;
use crate::grammar::{CallGrammar, FunctionCall, Otherwise};
use crate::text::{AnswerReader, SpecialTokens};
use crate::token::TokenId;

impl LoadedModel {
    /// Reads the text of an answer that may call these functions, and may be thought about.
    pub(super) fn answer_reader(
        &self,
        tools: Option<&ToolUse>,
        thoughts: Option<&Thoughts>,
    ) -> AnswerReader {
        let reader = match tools {
            None => AnswerReader::of_text(),
            Some(tools) => {
                let names = tools.functions.iter();
                let names = names.map(|function| function.name.clone()).collect();
                AnswerReader::of_calls(self.template.tool_syntax(), names)
            }
        };
        match thoughts {
            None => reader,
            Some(thoughts) => reader.after_thoughts(thoughts.syntax, thoughts.is_begun()),
        }
    }

    /// What an answer follows that may call functions; a schema is for one that does not.
    pub(super) fn call_grammar(
        &self,
        tools: &ToolUse,
        grammar: Option<GrammarSource>,
    ) -> GrammarSource {
        let syntax = self.template.tool_syntax();
        let functions = tools.functions.iter().map(|function| FunctionCall {
            name: function.name.clone(),
            begin: syntax.begin(&function.name),
            arguments: function.parameters.clone(),
            strict: function.strict,
            end: syntax.after_arguments.to_owned(),
        });
        GrammarSource::Calls(CallGrammar {
            otherwise: match (tools.required, grammar) {
                (true, _) => Otherwise::Nothing,
                (false, Some(GrammarSource::JsonSchema { schema, strict })) => {
                    Otherwise::Json { schema, strict }
                }
                (false, _) => Otherwise::Text,
            },
            mark: syntax.mark.to_owned(),
            after_text: syntax.after_text,
            opening: syntax.opening.to_owned(),
            between: syntax.between.filter(|_| tools.several).map(str::to_owned),
            closing: syntax.closing.to_owned(),
            functions: functions.collect(),
        })
    }

    /// The control tokens whose names are among these texts: without them neither calls nor thoughts could be read.
    pub(super) fn control_tokens(&self, texts: &str) -> Vec<TokenId> {
        let mut tokens = self.tokenizer.encode(texts, SpecialTokens::Parse);
        tokens.retain(|token| self.tokenizer.is_control(*token));
        tokens
    }
}
