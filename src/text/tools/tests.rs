use std::time::SystemTime;

use serde_json::json;

use super::*;
use crate::text::conversation::{ChatMessage, Conversation};
use crate::text::{ChatTemplate, predefined};

/// What a model with that way of writing calls has as its template, as far as functions matter.
const TEMPLATES: [(&str, &ToolSyntax, &str); 5] = [
    ("hermes", &HERMES, include_str!("tests/hermes.jinja")),
    ("llama3", &LLAMA3, include_str!("tests/llama3.jinja")),
    ("mistral", &MISTRAL, include_str!("tests/mistral.jinja")),
    (
        "mistral_arguments",
        &MISTRAL_ARGUMENTS,
        include_str!("tests/mistral_arguments.jinja"),
    ),
    (
        "functionary",
        &FUNCTIONARY,
        include_str!("tests/functionary.jinja"),
    ),
];

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(Some(source), "<s>", "</s>").unwrap()
}

fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
    ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    }
}

/// A question, what the model calls for it, what that brings, its answer, and another question.
fn conversation(calls: &[ToolCall]) -> Conversation {
    let results = calls.iter().zip(["rain, 7 °C", "sun, 31 °C"]);
    let results = results.map(|(call, result)| ChatMessage {
        answers: Some(call.id.clone()),
        ..ChatMessage::new("tool", result)
    });
    let calling = ChatMessage {
        calls: calls.to_vec(),
        ..ChatMessage::new("assistant", "")
    };
    let before = [
        ChatMessage::new("system", "Be brief."),
        ChatMessage::new("user", "Bergen or Bari?"),
    ];
    let after = [
        ChatMessage::new("assistant", "Bari."),
        ChatMessage::new("user", "And in \"winter\"?"),
    ];
    let weather = json!({"type": "function", "function": {
        "name": "get_weather",
        "description": "Tells the weather of a place.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }});
    Conversation {
        messages: before
            .into_iter()
            .chain([calling])
            .chain(results)
            .chain(after)
            .collect(),
        tools: vec![weather],
        ..Conversation::default()
    }
}

fn calls(syntax: &ToolSyntax) -> Vec<ToolCall> {
    let mut calls = vec![
        call("a1b2c3d4e", "get_weather", r#"{"city": "Bergen"}"#),
        call("f5g6h7i8j", "get_weather", r#"{"city": "Bari"}"#),
    ];
    if syntax.between.is_none() {
        calls.truncate(1);
    }
    calls
}

/// What a reader makes of a text that comes in pieces of so many characters and ends so.
fn read(
    syntax: &'static ToolSyntax,
    text: &str,
    characters: usize,
    end: TextEnd,
) -> Vec<AnswerPart> {
    let names = ["get_weather", "get_weather_of_week", "now"].map(str::to_owned);
    let mut reader = AnswerReader::of_calls(syntax, names.to_vec());
    let all: Vec<char> = text.chars().collect();
    let mut parts: Vec<AnswerPart> = Vec::new();
    for piece in all.chunks(characters) {
        parts.extend(reader.push(&piece.iter().collect::<String>(), piece.len()));
    }
    joined(parts.into_iter().chain(reader.finish(end)))
}

/// Neighbouring pieces of texts and arguments as one.
fn joined(parts: impl Iterator<Item = AnswerPart>) -> Vec<AnswerPart> {
    let mut joined: Vec<AnswerPart> = Vec::new();
    for part in parts {
        match (joined.last_mut(), part) {
            (Some(AnswerPart::Text(last)), AnswerPart::Text(next))
            | (Some(AnswerPart::Arguments(last)), AnswerPart::Arguments(next)) => {
                last.push_str(&next);
            }
            (_, part) => joined.push(part),
        }
    }
    joined
}

#[track_caller]
fn check(syntax: &'static ToolSyntax, text: &str, expected: &[AnswerPart]) {
    check_ended(syntax, text, TextEnd::Complete, expected);
}

#[track_caller]
fn check_ended(syntax: &'static ToolSyntax, text: &str, end: TextEnd, expected: &[AnswerPart]) {
    for characters in [1, 2, 3, 7, text.len().max(1)] {
        let read = read(syntax, text, characters, end);
        assert_eq!(read, expected, "in pieces of {characters}: {text}");
    }
}

fn text(text: &str) -> AnswerPart {
    AnswerPart::Text(text.to_owned())
}

fn called(name: &str, arguments: &str) -> [AnswerPart; 2] {
    [
        AnswerPart::Call {
            name: name.to_owned(),
        },
        AnswerPart::Arguments(arguments.to_owned()),
    ]
}

#[test]
fn a_conversation_with_calls_in_each_way_to_write_them() {
    let mut shown = String::new();
    for (name, syntax, source) in TEMPLATES {
        let template = template(source);
        assert_eq!(template.tool_syntax(), syntax, "{name}");
        let calls = calls(syntax);
        let prompt = template.render(&conversation(&calls), SystemTime::UNIX_EPOCH);
        let answer = syntax.write(&calls);
        let prompt = prompt.unwrap();
        shown.push_str(&format!("## {name}\n{prompt}\n### calls\n{answer}\n\n"));
    }
    let template = template(predefined("chatml").unwrap());
    let conversation = conversation(&calls(template.tool_syntax()));
    let prompt = template.render(&conversation, SystemTime::UNIX_EPOCH);
    shown.push_str(&format!(
        "## a template without functions\n{}\n",
        prompt.unwrap()
    ));
    insta::with_settings!({ snapshot_path => "../../../snapshots", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("tool_formats", shown);
    });
}

#[test]
fn what_is_written_is_read() {
    for (_, syntax, _) in TEMPLATES {
        let calls = calls(syntax);
        let mut expected: Vec<AnswerPart> = Vec::new();
        for call in &calls {
            expected.extend(called(&call.name, &call.arguments));
        }
        check(syntax, &syntax.write(&calls), &expected);
        if syntax.after_text {
            expected.insert(0, text("Let me see.\n"));
            check(
                syntax,
                &format!("Let me see.\n{}", syntax.write(&calls)),
                &expected,
            );
        }
        check(
            syntax,
            "No call: {\"a\": 1}",
            &[text("No call: {\"a\": 1}")],
        );
    }
}

#[test]
fn names_may_begin_alike_and_arguments_hold_anything() {
    let arguments = r#"{"a": "}\"]{", "b": [{}, "</tool_call>"], "c": {"d": "\\"}}"#;
    let body = format!(r#"{{"name": "get_weather_of_week", "arguments": {arguments}}}"#);
    check(
        &HERMES,
        &format!("<tool_call>\n{body}\n</tool_call>"),
        &called("get_weather_of_week", arguments),
    );
}

#[test]
fn what_is_no_call_is_text() {
    for (syntax, words) in [
        (&HERMES, "a <tool_call>\nb"),
        (&HERMES, "a <tool_cal"),
        (
            &HERMES,
            "<tool_call>\n{\"name\": \"unknown\", \"arguments\": {}}\n</tool_call>",
        ),
        (&HERMES, "<<tool_call<tool_call>>"),
        (&LLAMA3, "{\"name\": 7}"),
        (&LLAMA3, "{\"na"),
        (&LLAMA3, " {\"name\": \"now\", \"parameters\": {}}"),
        (&MISTRAL, "[TOOL_CALLS] none"),
        (&FUNCTIONARY, "<function=other>{}</function>"),
    ] {
        check(syntax, words, &[text(words)]);
    }
}

#[test]
fn a_call_that_breaks_off_has_what_came_of_its_arguments() {
    let begun = r#"<tool_call>
{"name": "now", "arguments": {"zone": "U"#;
    check(&HERMES, begun, &called("now", r#"{"zone": "U"#));
    let ended = "<function=now>{}</func";
    check(&FUNCTIONARY, ended, &called("now", "{}"));
}

#[test]
fn a_call_that_is_cut_before_its_arguments_is_no_text() {
    for (name, syntax, _) in TEMPLATES {
        let calls = &calls(syntax)[..1];
        let written = syntax.write(calls);
        let arguments = written.find(&calls[0].arguments).unwrap();
        let lead = match syntax.after_text {
            true => "Let me see.\n",
            false => "",
        };
        let said: Vec<AnswerPart> = (!lead.is_empty()).then(|| text(lead)).into_iter().collect();
        for cut in 1..=arguments {
            let so_far = format!("{lead}{}", &written[..cut]);
            let parts = read(syntax, &so_far, 1, TextEnd::Cut);
            let called = AnswerPart::Call {
                name: "get_weather".to_owned(),
            };
            let mut expected = said.clone();
            // Two names begin alike: only what is behind the name tells which it is.
            expected.extend((cut == arguments).then_some(called));
            assert_eq!(parts, expected, "{name}: {so_far}");
            check_ended(syntax, &so_far, TextEnd::Cut, &expected);
        }
    }
}

#[test]
fn a_stop_string_takes_the_beginning_of_a_call_but_no_text() {
    let stop = TextEnd::StopString;
    check_ended(&HERMES, "a <", stop, &[text("a <")]);
    check_ended(&HERMES, "a <tool_call>\n{\"na", stop, &[text("a ")]);
    check_ended(&LLAMA3, "{\"n", stop, &[text("{\"n")]);
    check_ended(&LLAMA3, "{\"name\": \"no", stop, &[]);
}

#[test]
fn functions_in_words_fit_templates_with_turns() {
    let calls = calls(&HERMES);
    let conversation = generic::in_words(&conversation(&calls));
    let roles: Vec<_> = conversation
        .messages
        .iter()
        .map(|message| message.role.as_str())
        .collect();
    assert_eq!(
        roles,
        ["system", "user", "assistant", "user", "assistant", "user"]
    );
    assert!(conversation.tools.is_empty());
    assert!(
        conversation.messages[0]
            .content
            .starts_with("Be brief.\n\nYou may call")
    );
    let results = &conversation.messages[3].content;
    assert_eq!(
        results,
        "<tool_response>\nrain, 7 °C\n</tool_response>\n<tool_response>\nsun, 31 °C\n</tool_response>"
    );
}
