//! Fallback conversations for chat templates that reject or drop some messages: tool-call ids in another format, system
//! messages after the first message, consecutive messages of one role, or any system message. The text of rejected
//! messages moves to neighboring messages. The first fallback that the template renders is used.

use std::collections::HashMap;

use super::conversation::{ChatMessage, Conversation};

const SYSTEM: &str = "system";
const USER: &str = "user";
const ASSISTANT: &str = "assistant";

/// Separates the texts of merged messages.
const SEPARATOR: &str = "\n\n";

type Rewrite = fn(&[ChatMessage]) -> Vec<ChatMessage>;

/// Maximum number of system messages that are searched for in the whole prompt because they do not follow the previous
/// system message there. Bounds the search time.
const MAX_REORDERED_TEXTS: usize = 16;

/// Whether the prompt contains the text of every system message after the first message. Some templates drop these
/// messages.
pub(super) fn contains_later_system_messages(prompt: &str, conversation: &Conversation) -> bool {
    let later = conversation.messages.iter().skip(1);
    let mut later = later.filter(|message| message.role == SYSTEM);
    let (mut rest, mut reordered) = (prompt, 0);
    later.all(|message| {
        let text = message.content.trim();
        if let Some(position) = rest.find(text) {
            rest = &rest[position + text.len()..];
            return true;
        }
        reordered += 1;
        reordered <= MAX_REORDERED_TEXTS && prompt.contains(text)
    })
}

/// Returns the fallback conversations, least changed first: tool-call ids become nine digits; later system messages
/// become text of user messages; consecutive messages of one role are merged; the first system message becomes text of
/// a user message. Each fallback includes the changes of the previous ones.
pub(super) fn fallbacks(conversation: &Conversation) -> Vec<Conversation> {
    let rewrites: [Rewrite; 4] = [
        renumber_tool_calls,
        merge_later_system_messages,
        merge_consecutive_messages,
        merge_first_system_message,
    ];
    let mut fallbacks = Vec::new();
    let mut messages = conversation.messages.clone();
    for rewrite in rewrites {
        let next = rewrite(&messages);
        if next != messages {
            fallbacks.push(Conversation {
                messages: next.clone(),
                ..conversation.clone()
            });
            messages = next;
        }
    }
    fallbacks
}

/// Replaces the ids of tool calls with nine digits: Mistral's templates accept only ids of nine letters or digits.
fn renumber_tool_calls(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let calls = messages.iter().flat_map(|message| &message.tool_calls);
    let results = messages
        .iter()
        .filter_map(|message| message.tool_call_id.as_ref());
    let ids = calls.map(|call| &call.id).chain(results);
    let mut numbers: HashMap<&str, String> = HashMap::new();
    for id in ids {
        let number = format!("{:09}", numbers.len() + 1);
        numbers.entry(id).or_insert(number);
    }
    let renumber = |id: &mut String| {
        if let Some(number) = numbers.get(&**id) {
            id.clone_from(number);
        }
    };
    let mut messages = messages.to_vec();
    for message in &mut messages {
        message
            .tool_calls
            .iter_mut()
            .for_each(|call| renumber(&mut call.id));
        message.tool_call_id.iter_mut().for_each(renumber);
    }
    messages
}

/// Merges the system messages at the start. Appends the text of a later system message to a user message directly
/// before it, else prepends the text to the next user message. If an assistant message or the end comes first, the text
/// becomes a user message.
fn merge_later_system_messages(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let mut merged: Vec<ChatMessage> = Vec::new();
    // The text for the next user message.
    let mut pending: Option<String> = None;
    let mut is_start = true;
    for message in messages {
        is_start &= message.role == SYSTEM;
        match (&*message.role, merged.last_mut()) {
            (SYSTEM, Some(last)) if is_start || last.role == USER => {
                append(&mut last.content, &message.content);
            }
            (SYSTEM, _) if !is_start => {
                append(pending.get_or_insert_default(), &message.content);
            }
            (USER, _) => {
                let mut content = pending.take().unwrap_or_default();
                append(&mut content, &message.content);
                merged.push(ChatMessage {
                    content,
                    ..message.clone()
                });
            }
            (ASSISTANT, _) => {
                merged.extend(pending.take().map(|text| ChatMessage::new(USER, text)));
                merged.push(message.clone());
            }
            // Tool results must directly follow their tool calls.
            _ => merged.push(message.clone()),
        }
    }
    merged.extend(pending.map(|text| ChatMessage::new(USER, text)));
    merged
}

/// Merges consecutive user messages and consecutive assistant messages.
fn merge_consecutive_messages(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let mut merged: Vec<ChatMessage> = Vec::new();
    for message in messages {
        let must_alternate = [USER, ASSISTANT].contains(&&*message.role);
        match merged.last_mut() {
            Some(last)
                if must_alternate && last.role == message.role && last.tool_calls.is_empty() =>
            {
                append(&mut last.content, &message.content);
                last.tool_calls.extend(message.tool_calls.iter().cloned());
                if last.reasoning.is_none() {
                    last.reasoning.clone_from(&message.reasoning);
                }
            }
            _ => merged.push(message.clone()),
        }
    }
    merged
}

/// Prepends a system message at the start to the user message after it, else turns it into a user message.
fn merge_first_system_message(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    match messages {
        [system, user, rest @ ..] if system.role == SYSTEM && user.role == USER => {
            let mut content = system.content.clone();
            append(&mut content, &user.content);
            let first = ChatMessage {
                content,
                ..user.clone()
            };
            [&[first], rest].concat()
        }
        [system, rest @ ..] if system.role == SYSTEM => {
            let first = ChatMessage::new(USER, &*system.content);
            [&[first], rest].concat()
        }
        other => other.to_vec(),
    }
}

fn append(text: &mut String, more: &str) {
    if !text.is_empty() && !more.is_empty() {
        text.push_str(SEPARATOR);
    }
    text.push_str(more);
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::text::conversation::ToolCall;
    use crate::text::{ChatTemplate, TemplateError};

    const WRITE: &str = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}|{% endfor %}";

    /// Returns a template that writes all messages, and rejects the conversation if `condition` holds for a message
    /// `m`.
    fn rejecting(condition: &str) -> String {
        format!(
            "{{% for m in messages %}}{{% if {condition} %}}{{{{ raise_exception('no') }}}}{{% endif %}}{{% endfor %}}{WRITE}"
        )
    }

    fn conversation(turns: &str) -> Conversation {
        let turns = turns.split(' ').map(|turn| {
            let (role, content) = turn.split_once(':').unwrap();
            let role = match role {
                "s" => SYSTEM,
                "u" => USER,
                "t" => "tool",
                _ => ASSISTANT,
            };
            ChatMessage::new(role, content)
        });
        turns.collect::<Vec<_>>().into()
    }

    fn render(template: &str, turns: &str) -> Result<String, TemplateError> {
        let template = ChatTemplate::new(Some(template), "", "").unwrap();
        template.render(&conversation(turns), SystemTime::UNIX_EPOCH)
    }

    #[track_caller]
    fn check(template: &str, turns: &str, expected: &str) {
        let prompt = render(template, turns).unwrap();
        let prompt = prompt.replace(SEPARATOR, "+");
        assert_eq!(prompt.trim_end_matches('|').replace('|', " "), expected);
    }

    #[test]
    fn a_template_that_accepts_all_messages_gets_them_unchanged() {
        for turns in ["u:a s:b u:c", "s:a s:b u:c", "u:a u:b a:c a:d s:e"] {
            check(WRITE, turns, turns);
        }
    }

    #[test]
    fn later_system_messages_become_text_of_a_user_message() {
        let only_first = rejecting("m.role == 'system' and not loop.first");
        for (turns, expected) in [
            ("u:a s:b u:c", "u:a+b u:c"),
            ("s:a s:b u:c", "s:a+b u:c"),
            ("s:a u:b a:c s:d u:e", "s:a u:b a:c u:d+e"),
            ("u:a a:b s:c", "u:a a:b u:c"),
            ("u:a a:b s:c s:d a:e", "u:a a:b u:c+d a:e"),
            ("u:a a:b s:c s:d u:e s:f", "u:a a:b u:c+d+e+f"),
        ] {
            check(&only_first, turns, expected);
        }
        let drops_later = WRITE.replace(
            "{{ m.role",
            "{% if m.role == 'system' and not loop.first %}{% continue %}{% endif %}{{ m.role",
        );
        check(&drops_later, "u:a s:bee u:c", "u:a+bee u:c");
    }

    #[test]
    fn a_template_may_move_system_messages_to_the_start() {
        let hoists = "{% for m in messages %}{% if m.role == 'system' %}s:{{ m.content }}|{% endif %}{% endfor %}\
            {% for m in messages %}{% if m.role == 'user' %}u:{{ m.content }}|{% endif %}{% endfor %}";
        check(
            hoists,
            "u:ay s:bee u:cee s:dee s:bee",
            "s:bee s:dee s:bee u:ay u:cee",
        );
    }

    #[test]
    fn many_messages_take_linear_time() {
        let message =
            |role: &str, number: usize| ChatMessage::new(role, format!("{number} ").repeat(50));
        let messages =
            (0..60_000).map(|number| message([USER, SYSTEM, SYSTEM][number % 3], number));
        let conversation: Conversation = messages.collect::<Vec<_>>().into();
        let prompt: String = conversation.messages.iter().map(|m| &*m.content).collect();
        assert!(contains_later_system_messages(&prompt, &conversation));
        assert!(!contains_later_system_messages(
            &prompt[..prompt.len() / 2],
            &conversation
        ));
        let fallbacks = fallbacks(&conversation);
        assert_eq!(fallbacks.last().unwrap().messages.len(), 1);
    }

    #[test]
    fn consecutive_messages_of_one_role_are_merged_if_roles_must_alternate() {
        let alternating = rejecting("(m.role == 'user') != (loop.index0 % 2 == 0)");
        check(&alternating, "u:a u:b s:c u:d", "u:a+b+c+d");
        check(&alternating, "u:a u:b a:c a:d u:e", "u:a+b a:c+d u:e");
        check(&alternating, "s:a u:b a:c s:d", "u:a+b a:c u:d");
    }

    #[test]
    fn a_template_without_system_messages_gets_their_text() {
        let no_system = rejecting("m.role == 'system'");
        check(&no_system, "s:a u:b", "u:a+b");
        check(&no_system, "s:a s:b u:c s:d a:e", "u:a+b+c+d a:e");
        check(&no_system, "s:a a:b", "u:a a:b");
    }

    #[test]
    fn reports_the_templates_error_if_it_rejects_all_fallbacks() {
        let result = render(&rejecting("true"), "s:a u:b u:c s:d");
        assert_eq!(result, Err(TemplateError::Rejected("no".to_owned())));
    }

    #[test]
    fn tool_call_ids_are_renumbered_if_the_template_rejects_them() {
        let source = "{% for m in messages %}{% for c in m.tool_calls %}{% if c.id|length != 9 %}{{ raise_exception('ids') }}\
            {% endif %}{{ c.id }} {% endfor %}{% if m.tool_call_id is defined %}{{ m.tool_call_id }}={{ m.name }} {% endif %}{% endfor %}";
        let template = ChatTemplate::new(
            Some(&format!("{source}{{% if tools %}}<tool_call>{{% endif %}}")),
            "",
            "",
        );
        let template = template.unwrap();
        for (ids, expected) in [
            (
                ["a1b2c3d4e", "f5g6h7i8j"],
                "a1b2c3d4e f5g6h7i8j f5g6h7i8j=then ",
            ),
            (
                ["toolu_01A", "call_2"],
                "000000001 000000002 000000002=then ",
            ),
        ] {
            let mut conversation = conversation("s:a u:b a: t:c");
            for (id, name) in ids.into_iter().zip(["now", "then"]) {
                conversation.messages[2].tool_calls.push(ToolCall {
                    id: id.to_owned(),
                    name: name.to_owned(),
                    arguments: "{}".to_owned(),
                });
            }
            conversation.messages[3].tool_call_id = Some(ids[1].to_owned());
            let prompt = template.render(&conversation, SystemTime::UNIX_EPOCH);
            assert_eq!(prompt.as_deref(), Ok(expected));
        }
    }

    #[test]
    fn tool_results_stay_directly_after_their_calls() {
        let mut conversation = conversation("u:a a:b s:c t:d s:e u:f");
        conversation.messages[1].tool_calls.push(ToolCall {
            id: "1".to_owned(),
            name: "now".to_owned(),
            arguments: "{}".to_owned(),
        });
        let fallbacks = fallbacks(&conversation);
        let turns: Vec<_> = fallbacks[1]
            .messages
            .iter()
            .map(|m| (&*m.role, &*m.content))
            .collect();
        let expected = [
            (USER, "a"),
            (ASSISTANT, "b"),
            ("tool", "d"),
            (USER, "c\n\ne\n\nf"),
        ];
        assert_eq!(turns, expected);
    }
}
