//! Functions that an answer may call: the model's way of writing calls becomes what the text must follow, and what its
//! text is read by.

use super::LoadedModel;
use super::request::{GenerateOptions, GrammarSource, ToolUse};
use crate::grammar::{CallGrammar, FunctionCall, Otherwise};
use crate::text::{AnswerReader, SpecialTokens};
use crate::token::TokenId;

impl LoadedModel {
    /// Reads the text of an answer to a request with these options.
    pub fn answer_reader(&self, options: &GenerateOptions) -> AnswerReader {
        let Some(tools) = &options.tools else {
            return AnswerReader::of_text();
        };
        let names = tools.functions.iter();
        let names = names.map(|function| function.name.clone()).collect();
        AnswerReader::of_calls(self.template.tool_syntax(), names)
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
            end: syntax.after_arguments.to_owned(),
        });
        GrammarSource::Calls(CallGrammar {
            otherwise: match (tools.required, grammar) {
                (true, _) => Otherwise::Nothing,
                (false, Some(GrammarSource::JsonSchema(schema))) => Otherwise::Json(schema),
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

    /// The control tokens that calls are written with: without them no call could be read.
    pub(super) fn call_tokens(&self) -> Vec<TokenId> {
        let texts = self.template.tool_syntax().texts();
        let mut tokens = self.tokenizer.encode(&texts, SpecialTokens::Parse);
        tokens.retain(|token| self.tokenizer.is_control(*token));
        tokens
    }
}
