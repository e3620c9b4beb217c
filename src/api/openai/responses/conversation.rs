//! Items as the conversation that a chat template writes, and what is left out of one that is too long.

use std::collections::HashSet;
use std::sync::Arc;

use super::item::Item;
use super::request::shown_name;
use crate::api::error::Error;
use crate::api::types;
use crate::cancel::CancelFlag;
use crate::model::{GenerateError, LoadedModel};
use crate::text::{ChatMessage, Conversation, ToolCall};

/// What was said and called, after the instructions. A thought belongs to the assistant's next message or call.
pub(super) fn messages(
    instructions: Option<String>,
    items: &[Arc<Item>],
) -> Result<Vec<ChatMessage>, Error> {
    let instructions = instructions.map(|text| ChatMessage::new("system", text));
    let mut messages = Vec::from_iter(instructions);
    let mut open = HashSet::new();
    let mut thought = String::new();
    for item in items {
        match &item.value {
            types::ResponseItem::Message(message) => {
                let text = message.content.iter().map(text).collect::<String>();
                let mut said = ChatMessage::new(role(message.role), text);
                if said.role == ASSISTANT {
                    add_thought(&mut said, &mut thought);
                }
                messages.push(said);
            }
            types::ResponseItem::FunctionCall(call) => {
                open.insert(call.call_id.as_str());
                // Calls belong to the message before them, or to one that says nothing.
                if messages.last().is_none_or(|last| last.role != ASSISTANT) {
                    messages.push(ChatMessage::new(ASSISTANT, ""));
                }
                if let Some(caller) = messages.last_mut() {
                    add_thought(caller, &mut thought);
                    caller.calls.push(ToolCall {
                        id: call.call_id.clone(),
                        name: shown_name(call.namespace.as_deref(), &call.name),
                        arguments: call.arguments.clone(),
                    });
                }
            }
            types::ResponseItem::FunctionCallOutput(output) => {
                let id = output.call_id.as_str();
                if !open.remove(id) {
                    let problem =
                        format!("No tool call found for function call output with call_id {id}.");
                    return Err(Error::invalid("input", problem));
                }
                messages.push(ChatMessage {
                    answers: Some(id.to_owned()),
                    ..ChatMessage::new("tool", output.output.clone())
                });
            }
            types::ResponseItem::Reasoning(item) => thought.push_str(&thought_text(item)),
        }
    }
    let calls = messages.iter().flat_map(|message| &message.calls);
    match calls.map(|call| &*call.id).find(|id| open.contains(id)) {
        None => Ok(messages),
        Some(id) => {
            let problem = format!("No tool output found for function call {id}.");
            Err(Error::invalid("input", problem))
        }
    }
}

/// The role of the model's turns.
const ASSISTANT: &str = "assistant";

/// Moves a thought to the message that it came before.
fn add_thought(message: &mut ChatMessage, thought: &mut String) {
    if !thought.is_empty() {
        let thoughts = message.thought.get_or_insert_default();
        thoughts.push_str(&std::mem::take(thought));
    }
}

/// The whole thought of an item, or its summary if it has no more.
fn thought_text(item: &types::ResponseReasoning) -> String {
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

/// Leaves out what was said first, so that so many tokens have room behind the rest: as little as can be, up to a message
/// of the user's. System messages stay. Where that is not enough, the last question stays.
pub(super) fn fit(
    model: &LoadedModel,
    conversation: Conversation,
    max_tokens: Option<usize>,
    cancel: &CancelFlag,
) -> Result<Conversation, GenerateError> {
    let context = model.details().context_tokens;
    let room = max_tokens.map_or(context / 4, |tokens| tokens.min(context / 2));
    let fits = |conversation: &Conversation| {
        let tokens = model.count_tokens(conversation, cancel)?;
        Ok::<_, GenerateError>(tokens + room < context)
    };
    if fits(&conversation)? {
        return Ok(conversation);
    }
    let messages = conversation.messages.iter().enumerate();
    let questions = messages.filter(|(_, message)| message.role == "user");
    let cuts: Vec<usize> = questions.map(|(place, _)| place).collect();
    // The first cut that fits is among these.
    let (mut low, mut high) = (0, cuts.len().saturating_sub(1));
    while low < high {
        let middle = usize::midpoint(low, high);
        match fits(&from(&conversation, cuts[middle]))? {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    Ok(match cuts.get(low) {
        Some(cut) => from(&conversation, *cut),
        None => conversation,
    })
}

/// A conversation from that message on, with the system messages before.
fn from(conversation: &Conversation, first: usize) -> Conversation {
    let messages = conversation.messages.iter().enumerate();
    let kept = messages.filter(|(place, message)| *place >= first || message.role == "system");
    Conversation {
        messages: kept.map(|(_, message)| message.clone()).collect(),
        tools: conversation.tools.clone(),
        most_thought_tokens: conversation.most_thought_tokens,
        settings: conversation.settings.clone(),
        ending: conversation.ending,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::item::{Sent, sent};
    use super::*;

    fn items(sent_items: Value) -> Vec<Arc<Item>> {
        let list: Vec<types::ResponseInputItem> = serde_json::from_value(sent_items).unwrap();
        list.into_iter()
            .map(|item| match sent("input.0", item).unwrap() {
                Sent::Item(item) => Item::new(item),
                Sent::Reference(_) | Sent::Foreign(_) => panic!("an item is sent"),
            })
            .collect()
    }

    /// Roles, texts, names of calls.
    #[track_caller]
    fn check(sent_items: Value, expected: &[(&str, &str, &[&str])]) {
        let messages = messages(Some("Be brief.".to_owned()), &items(sent_items)).unwrap();
        let shown: Vec<(&str, &str, Vec<&str>)> = messages
            .iter()
            .map(|message| {
                let calls = message.calls.iter().map(|call| &*call.name);
                (&*message.role, &*message.content, calls.collect())
            })
            .collect();
        let expected = expected
            .iter()
            .map(|(role, text, calls)| (*role, *text, calls.to_vec()));
        assert_eq!(shown, expected.collect::<Vec<_>>());
    }

    #[test]
    fn items_become_messages() {
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
    fn a_thought_belongs_to_the_message_or_call_behind_it() {
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
        let thoughts: Vec<_> = messages
            .iter()
            .map(|message| message.thought.as_deref())
            .collect();
        assert_eq!(thoughts, [None, Some("long"), None, Some("short"), None]);
    }

    #[test]
    fn calls_and_what_came_of_them_belong_together() {
        let call =
            json!({"type": "function_call", "call_id": "1", "name": "now", "arguments": "{}"});
        let output = json!({"type": "function_call_output", "call_id": "1", "output": ""});
        for (sent_items, problem) in [
            (json!([call]), "No tool output found for function call 1."),
            (
                json!([output, call]),
                "No tool call found for function call output with call_id 1.",
            ),
        ] {
            let error = messages(None, &items(sent_items)).unwrap_err();
            assert_eq!(error.to_string(), problem);
        }
    }
}
