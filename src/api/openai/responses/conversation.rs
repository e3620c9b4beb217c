//! Converts response items to the conversation for the chat template, and truncates a conversation that is too long.

use std::collections::HashSet;
use std::sync::Arc;

use super::item::Item;
use super::namespaces::prompt_name;
use crate::api::error::Error;
use crate::api::types;
use crate::cancel::CancelFlag;
use crate::model::{GenerateError, GenerateOptions, LoadedModel};
use crate::text::{ChatMessage, Conversation, ToolCall};

/// Converts the instructions and the items to messages. Reasoning becomes part of the assistant's next message or tool
/// call.
pub(super) fn messages(
    instructions: Option<String>,
    items: &[Arc<Item>],
) -> Result<Vec<ChatMessage>, Error> {
    let instructions = instructions.map(|text| ChatMessage::new("system", text));
    let mut messages = Vec::from_iter(instructions);
    let mut open_calls = HashSet::new();
    let mut reasoning = String::new();
    for item in items {
        match &item.value {
            types::ResponseItem::Message(message) => {
                let text = message.content.iter().map(text).collect::<String>();
                let mut chat_message = ChatMessage::new(role(message.role), text);
                if chat_message.role == ASSISTANT {
                    move_reasoning(&mut chat_message, &mut reasoning);
                }
                messages.push(chat_message);
            }
            types::ResponseItem::FunctionCall(call) => {
                open_calls.insert(call.call_id.as_str());
                // A tool call belongs to the assistant message before it, or to a new empty assistant message.
                if messages.last().is_none_or(|last| last.role != ASSISTANT) {
                    messages.push(ChatMessage::new(ASSISTANT, ""));
                }
                if let Some(caller) = messages.last_mut() {
                    move_reasoning(caller, &mut reasoning);
                    caller.tool_calls.push(ToolCall {
                        id: call.call_id.clone(),
                        name: prompt_name(call.namespace.as_deref(), &call.name),
                        arguments: call.arguments.clone(),
                    });
                }
            }
            types::ResponseItem::FunctionCallOutput(output) => {
                let id = output.call_id.as_str();
                if !open_calls.remove(id) {
                    let problem =
                        format!("No tool call found for function call output with call_id {id}.");
                    return Err(Error::invalid("input", problem));
                }
                messages.push(ChatMessage {
                    tool_call_id: Some(id.to_owned()),
                    ..ChatMessage::new("tool", output.output.clone())
                });
            }
            types::ResponseItem::Reasoning(item) => reasoning.push_str(&reasoning_text(item)),
        }
    }
    let calls = messages.iter().flat_map(|message| &message.tool_calls);
    match calls
        .map(|call| &*call.id)
        .find(|id| open_calls.contains(id))
    {
        None => Ok(messages),
        Some(id) => {
            let problem = format!("No tool output found for function call {id}.");
            Err(Error::invalid("input", problem))
        }
    }
}

/// The role of the model's messages.
const ASSISTANT: &str = "assistant";

/// Moves the reasoning of preceding items to the message that follows them.
fn move_reasoning(message: &mut ChatMessage, reasoning: &mut String) {
    if !reasoning.is_empty() {
        let message_reasoning = message.reasoning.get_or_insert_default();
        message_reasoning.push_str(&std::mem::take(reasoning));
    }
}

/// Returns the reasoning text of an item, or the summary if the item has no text.
fn reasoning_text(item: &types::ResponseReasoning) -> String {
    match item.content.is_empty() {
        true => item.summary.iter().map(|part| &*part.text).collect(),
        false => item.content.iter().map(|part| &*part.text).collect(),
    }
}

fn role(role: types::ResponseRole) -> &'static str {
    match role {
        types::ResponseRole::System | types::ResponseRole::Developer => "system",
        types::ResponseRole::User => "user",
        types::ResponseRole::Assistant => ASSISTANT,
    }
}

fn text(part: &types::ResponsePart) -> &str {
    match part {
        types::ResponsePart::InputText(part) => &part.text,
        types::ResponsePart::OutputText(part) => &part.text,
        types::ResponsePart::Refusal(part) => &part.refusal,
    }
}

/// Drops the oldest messages of a conversation until the prompt leaves room for the tokens to generate in the context,
/// at most half of the context. Drops as few messages as possible, up to a user message. System messages and the last user
/// message are never dropped.
pub(super) fn truncate(
    model: &LoadedModel,
    conversation: Conversation,
    options: &GenerateOptions,
    cancel: &CancelFlag,
) -> Result<Conversation, GenerateError> {
    let context = model.details().context_tokens;
    let max_tokens = options.max_tokens;
    let room = max_tokens.map_or(context / 4, |tokens| tokens.min(context / 2));
    let fits = |conversation: &Conversation| {
        let tokens = model.count_tokens(conversation, options.is_constrained(), cancel)?;
        Ok::<_, GenerateError>(tokens + room < context)
    };
    if fits(&conversation)? {
        return Ok(conversation);
    }
    let messages = conversation.messages.iter().enumerate();
    let user_messages = messages.filter(|(_, message)| message.role == "user");
    let cuts: Vec<usize> = user_messages.map(|(index, _)| index).collect();
    // Binary search for the first cut after which the prompt fits.
    let (mut low, mut high) = (0, cuts.len().saturating_sub(1));
    while low < high {
        let middle = usize::midpoint(low, high);
        match fits(&starting_at(&conversation, cuts[middle]))? {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    Ok(match cuts.get(low) {
        Some(cut) => starting_at(&conversation, *cut),
        None => conversation,
    })
}

/// Returns the conversation from message `first` on, with the system messages before it.
fn starting_at(conversation: &Conversation, first: usize) -> Conversation {
    let messages = conversation.messages.iter().enumerate();
    let remaining = messages.filter(|(index, message)| *index >= first || message.role == "system");
    Conversation {
        messages: remaining.map(|(_, message)| message.clone()).collect(),
        tools: conversation.tools.clone(),
        max_reasoning_tokens: conversation.max_reasoning_tokens,
        template_variables: conversation.template_variables.clone(),
        ending: conversation.ending,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::item::{InputItem, read_item};
    use super::*;

    fn items(input: Value) -> Vec<Arc<Item>> {
        let list: Vec<types::ResponseInputItem> = serde_json::from_value(input).unwrap();
        list.into_iter()
            .map(|item| match read_item("input.0", item).unwrap() {
                InputItem::Item(item) => Item::new(item),
                InputItem::Reference(_) | InputItem::Unsupported(_) => panic!("not an item"),
            })
            .collect()
    }

    /// Checks the role, the text and the tool call names of each message.
    #[track_caller]
    fn check(input: Value, expected: &[(&str, &str, &[&str])]) {
        let messages = messages(Some("Be brief.".to_owned()), &items(input)).unwrap();
        let actual: Vec<(&str, &str, Vec<&str>)> = messages
            .iter()
            .map(|message| {
                let calls = message.tool_calls.iter().map(|call| &*call.name);
                (&*message.role, &*message.content, calls.collect())
            })
            .collect();
        let expected = expected
            .iter()
            .map(|(role, text, calls)| (*role, *text, calls.to_vec()));
        assert_eq!(actual, expected.collect::<Vec<_>>());
    }

    #[test]
    fn converts_items_to_messages() {
        check(
            json!([
                {"role": "developer", "content": "In verse."},
                {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
                {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                 "content": [{"type": "output_text", "text": "I look.", "annotations": []}, {"type": "refusal", "refusal": "No."}]},
                {"type": "function_call", "call_id": "1", "name": "now", "arguments": "{}"},
                {"type": "function_call", "call_id": "2", "name": "here", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "Bergen"}]},
                {"type": "function_call_output", "call_id": "1", "output": "12:30"},
                {"type": "function_call", "call_id": "3", "name": "now", "namespace": "clock", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "3", "output": "12:31"},
            ]),
            &[
                ("system", "Be brief.", &[]),
                ("system", "In verse.", &[]),
                ("user", "ab", &[]),
                ("assistant", "I look.No.", &["now", "here"]),
                ("tool", "Bergen", &[]),
                ("tool", "12:30", &[]),
                ("assistant", "", &["clock__now"]),
                ("tool", "12:31", &[]),
            ],
        );
    }

    #[test]
    fn reasoning_belongs_to_the_next_message_or_tool_call() {
        let reasoning = |fields: Value| {
            let mut item = json!({"type": "reasoning", "summary": []});
            item.as_object_mut()
                .unwrap()
                .extend(fields.as_object().unwrap().clone());
            item
        };
        let text = |kind: &str, text: &str| json!([{"type": kind, "text": text}]);
        let messages = messages(
            None,
            &items(json!([
                {"role": "user", "content": "a"},
                reasoning(json!({"summary": text("summary_text", "short"), "content": text("reasoning_text", "long")})),
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
                reasoning(json!({"summary": text("summary_text", "short")})),
                {"type": "function_call", "call_id": "1", "name": "now", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "noon"},
            ])),
        );
        let messages = messages.unwrap();
        let reasoning: Vec<_> = messages
            .iter()
            .map(|message| message.reasoning.as_deref())
            .collect();
        assert_eq!(reasoning, [None, Some("long"), None, Some("short"), None]);
    }

    #[test]
    fn tool_calls_and_outputs_must_match() {
        let call =
            json!({"type": "function_call", "call_id": "1", "name": "now", "arguments": "{}"});
        let output = json!({"type": "function_call_output", "call_id": "1", "output": ""});
        for (input, problem) in [
            (json!([call]), "No tool output found for function call 1."),
            (
                json!([output, call]),
                "No tool call found for function call output with call_id 1.",
            ),
        ] {
            let error = messages(None, &items(input)).unwrap_err();
            assert_eq!(error.to_string(), problem);
        }
    }
}
