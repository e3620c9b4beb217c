//! Tool calls: builds the grammar and the output parser of responses with tool calls, in the model's tool-call format.

use super::LoadedModel;
use super::reasoning::PromptReasoning;
use super::request::{GrammarSource, ToolOptions};
use crate::grammar::{ContentGrammar, FunctionGrammar, ToolCallGrammar};
use crate::text::{OutputParser, SpecialTokens};
use crate::token::TokenId;

impl LoadedModel {
    /// Returns the parser that finds tool calls and reasoning in generated text.
    pub(super) fn output_parser(
        &self,
        tools: Option<&ToolOptions>,
        reasoning: Option<&PromptReasoning>,
    ) -> OutputParser {
        let parser = match tools {
            None => OutputParser::plain_text(),
            Some(tools) => {
                let names = tools.functions.iter();
                let names = names.map(|function| function.name.clone()).collect();
                OutputParser::with_tool_calls(self.template.tool_call_format(), names)
            }
        };
        match reasoning {
            None => parser,
            Some(reasoning) => parser.with_reasoning(reasoning.markers, reasoning.is_open()),
        }
    }

    /// Returns the grammar of a response that may have tool calls. A JSON Schema in `grammar` applies to responses
    /// without a tool call.
    pub(super) fn call_grammar(
        &self,
        tools: &ToolOptions,
        grammar: Option<GrammarSource>,
    ) -> GrammarSource {
        let format = self.template.tool_call_format();
        let functions = tools.functions.iter().map(|function| FunctionGrammar {
            name: function.name.clone(),
            before_arguments: format.call_prefix(&function.name),
            arguments_schema: function.parameters.clone(),
            strict: function.strict,
            after_arguments: format.after_arguments.to_owned(),
        });
        GrammarSource::ToolCalls(ToolCallGrammar {
            content: match (tools.required, grammar) {
                (true, _) => ContentGrammar::CallRequired,
                (false, Some(GrammarSource::JsonSchema { schema, strict })) => {
                    ContentGrammar::Json { schema, strict }
                }
                (false, _) => ContentGrammar::Text,
            },
            marker: format.marker.to_owned(),
            allows_leading_text: format.allows_leading_text,
            opening: format.opening.to_owned(),
            separator: format
                .separator
                .filter(|_| tools.parallel)
                .map(str::to_owned),
            closing: format.closing.to_owned(),
            functions: functions.collect(),
        })
    }

    /// Returns the control tokens in a text of markers. Such tokens of tool-call and reasoning markers must stay in the
    /// output text, where the parser finds them.
    pub(super) fn control_tokens(&self, text: &str) -> Vec<TokenId> {
        let mut tokens = self.tokenizer.encode(text, SpecialTokens::Parse);
        tokens.retain(|token| self.tokenizer.is_control(*token));
        tokens
    }
}
