//! Conversations for chat templates that take less than clients send: ids of calls in other forms, a system message behind
//! the first turn, two turns of one role in a row, any system message at all. What a template refuses becomes text of a
//! neighbouring turn; what it takes stays as it is.

use std::collections::HashMap;

use super::conversation::{ChatMessage, Conversation};

const SYSTEM: &str = "system";
const USER: &str = "user";
const ASSISTANT: &str = "assistant";

/// Between two messages that become one.
const SEPARATOR: &str = "\n\n";

/// Makes other messages of messages.
type Folding = fn(&[ChatMessage]) -> Vec<ChatMessage>;

/// Texts that are looked for in the whole prompt, because they are not behind those before; the time is bounded so.
const REORDERED_TEXTS_MAX: usize = 16;

/// Whether a prompt has the text of every system message behind the first message: some templates leave them out.
pub(super) fn shows_later_systems(prompt: &str, conversation: &Conversation) -> bool {
    let later = conversation.messages.iter().skip(1);
    let mut later = later.filter(|message| message.role == SYSTEM);
    let (mut rest, mut reordered) = (prompt, 0);
    later.all(|message| {
        let text = message.content.trim();
        if let Some(place) = rest.find(text) {
            rest = &rest[place + text.len()..];
            return true;
        }
        reordered += 1;
        reordered <= REORDERED_TEXTS_MAX && prompt.contains(text)
    })
}

/// The conversation in other forms, the one that differs least first: with ids of nine digits; then also without later
/// system messages; with the turns of one role in a row as one; without any system message.
pub(super) fn foldings(conversation: &Conversation) -> Vec<Conversation> {
    let steps: [Folding; 4] = [
        number_calls,
        fold_later_systems,
        merge_turns,
        fold_first_system,
    ];
    let mut folded = Vec::new();
    let mut messages = conversation.messages.clone();
    for step in steps {
        let next = step(&messages);
        if next != messages {
            folded.push(Conversation {
                messages: next.clone(),
                ..conversation.clone()
            });
            messages = next;
        }
    }
    folded
}

/// Ids of calls become nine digits, the only form that Mistral's templates take beside nine letters.
fn number_calls(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let calls = messages.iter().flat_map(|message| &message.calls);
    let answers = messages
        .iter()
        .filter_map(|message| message.answers.as_ref());
    let ids = calls.map(|call| &call.id).chain(answers);
    let mut numbers: HashMap<&str, String> = HashMap::new();
    for id in ids {
        let number = format!("{:09}", numbers.len() + 1);
        numbers.entry(id).or_insert(number);
    }
    let numbered = |id: &mut String| {
        if let Some(number) = numbers.get(&**id) {
            id.clone_from(number);
        }
    };
    let mut messages = messages.to_vec();
    for message in &mut messages {
        message
            .calls
            .iter_mut()
            .for_each(|call| numbered(&mut call.id));
        message.answers.iter_mut().for_each(numbered);
    }
    messages
}

/// System messages at the start become one. Each later one becomes text of the user's turn before it, else of the one
/// behind it, else a turn of the user's.
fn fold_later_systems(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let mut folded: Vec<ChatMessage> = Vec::new();
    let mut waiting: Option<String> = None;
    let mut is_start = true;
    for message in messages {
        is_start &= message.role == SYSTEM;
        match (&*message.role, folded.last_mut()) {
            (SYSTEM, Some(last)) if is_start || last.role == USER => {
                append(&mut last.content, &message.content);
            }
            (SYSTEM, _) if !is_start => {
                append(waiting.get_or_insert_default(), &message.content);
            }
            (USER, _) => {
                let mut content = waiting.take().unwrap_or_default();
                append(&mut content, &message.content);
                folded.push(ChatMessage {
                    content,
                    ..message.clone()
                });
            }
            (ASSISTANT, _) => {
                folded.extend(waiting.take().map(|text| ChatMessage::new(USER, text)));
                folded.push(message.clone());
            }
            // The results of calls stay right behind them.
            _ => folded.push(message.clone()),
        }
    }
    folded.extend(waiting.map(|text| ChatMessage::new(USER, text)));
    folded
}

/// Neighbouring turns of the user's, or of the assistant's, become one.
fn merge_turns(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let mut merged: Vec<ChatMessage> = Vec::new();
    for message in messages {
        let takes_turns = [USER, ASSISTANT].contains(&&*message.role);
        match merged.last_mut() {
            Some(last) if takes_turns && last.role == message.role && last.calls.is_empty() => {
                append(&mut last.content, &message.content);
                last.calls.extend(message.calls.iter().cloned());
                if last.thought.is_none() {
                    last.thought.clone_from(&message.thought);
                }
            }
            _ => merged.push(message.clone()),
        }
    }
    merged
}

/// A system message at the start becomes the beginning of the user's first turn.
fn fold_first_system(messages: &[ChatMessage]) -> Vec<ChatMessage> {
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

    /// A template that refuses what a condition on a message `m` and its number says, and writes all messages.
    fn refusing(condition: &str) -> String {
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
        let written = render(template, turns).unwrap();
        let written = written.replace(SEPARATOR, "+");
        assert_eq!(written.trim_end_matches('|').replace('|', " "), expected);
    }

    #[test]
    fn a_template_that_takes_all_turns_gets_them() {
        for turns in ["u:a s:b u:c", "s:a s:b u:c", "u:a u:b a:c a:d s:e"] {
            check(WRITE, turns, turns);
        }
    }

    #[test]
    fn later_system_messages_become_text_of_a_users_turn() {
        let only_first = refusing("m.role == 'system' and not loop.first");
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
        let leaves_out = WRITE.replace(
            "{{ m.role",
            "{% if m.role == 'system' and not loop.first %}{% continue %}{% endif %}{{ m.role",
        );
        check(&leaves_out, "u:a s:bee u:c", "u:a+bee u:c");
    }

    #[test]
    fn a_template_may_write_system_messages_first() {
        let hoists = "{% for m in messages %}{% if m.role == 'system' %}s:{{ m.content }}|{% endif %}{% endfor %}\
            {% for m in messages %}{% if m.role == 'user' %}u:{{ m.content }}|{% endif %}{% endfor %}";
        check(
            hoists,
            "u:ay s:bee u:cee s:dee s:bee",
            "s:bee s:dee s:bee u:ay u:cee",
        );
    }

    #[test]
    fn many_turns_take_a_time_in_proportion() {
        let turn =
            |role: &str, number: usize| ChatMessage::new(role, format!("{number} ").repeat(50));
        let messages = (0..60_000).map(|number| turn([USER, SYSTEM, SYSTEM][number % 3], number));
        let conversation: Conversation = messages.collect::<Vec<_>>().into();
        let prompt: String = conversation.messages.iter().map(|m| &*m.content).collect();
        assert!(shows_later_systems(&prompt, &conversation));
        assert!(!shows_later_systems(
            &prompt[..prompt.len() / 2],
            &conversation
        ));
        let folded = foldings(&conversation);
        assert_eq!(folded.last().unwrap().messages.len(), 1);
    }

    #[test]
    fn turns_of_one_role_become_one_where_they_must_alternate() {
        let alternating = refusing("(m.role == 'user') != (loop.index0 % 2 == 0)");
        check(&alternating, "u:a u:b s:c u:d", "u:a+b+c+d");
        check(&alternating, "u:a u:b a:c a:d u:e", "u:a+b a:c+d u:e");
        check(&alternating, "s:a u:b a:c s:d", "u:a+b a:c u:d");
    }

    #[test]
    fn a_template_without_system_messages_gets_their_text() {
        let none = refusing("m.role == 'system'");
        check(&none, "s:a u:b", "u:a+b");
        check(&none, "s:a s:b u:c s:d a:e", "u:a+b+c+d a:e");
        check(&none, "s:a a:b", "u:a a:b");
    }

    #[test]
    fn what_no_folding_helps_is_refused_as_the_template_says() {
        let refused = render(&refusing("true"), "s:a u:b u:c s:d");
        assert_eq!(refused, Err(TemplateError::Refused("no".to_owned())));
    }

    #[test]
    fn ids_of_calls_get_the_form_that_a_template_takes() {
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
                conversation.messages[2].calls.push(ToolCall {
                    id: id.to_owned(),
                    name: name.to_owned(),
                    arguments: "{}".to_owned(),
                });
            }
            conversation.messages[3].answers = Some(ids[1].to_owned());
            let written = template.render(&conversation, SystemTime::UNIX_EPOCH);
            assert_eq!(written.as_deref(), Ok(expected));
        }
    }

    #[test]
    fn calls_stay_beside_their_results() {
        let mut conversation = conversation("u:a a:b s:c t:d s:e u:f");
        conversation.messages[1].calls.push(ToolCall {
            id: "1".to_owned(),
            name: "now".to_owned(),
            arguments: "{}".to_owned(),
        });
        let folded = foldings(&conversation);
        let turns: Vec<_> = folded[1]
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
