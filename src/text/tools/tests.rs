use std::time::SystemTime;

use serde_json::json;

use super::*;
use crate::text::conversation::{ChatMessage, Conversation};
use crate::text::{ChatTemplate, OutputEnd, predefined};

/// Name, expected format, and a chat template with the tool-related parts of a model with that format.
const TEMPLATES: [(&str, &ToolCallFormat, &str); 5] = [
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

/// Returns a conversation: a question, the tool calls for it, their results, the answer, and another question.
fn conversation(calls: &[ToolCall]) -> Conversation {
    let results = calls.iter().zip(["rain, 7 °C", "sun, 31 °C"]);
    let results = results.map(|(call, result)| ChatMessage {
        tool_call_id: Some(call.id.clone()),
        ..ChatMessage::new("tool", result)
    });
    let calling = ChatMessage {
        tool_calls: calls.to_vec(),
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

fn calls(format: &ToolCallFormat) -> Vec<ToolCall> {
    let mut calls = vec![
        call("a1b2c3d4e", "get_weather", r#"{"city": "Bergen"}"#),
        call("f5g6h7i8j", "get_weather", r#"{"city": "Bari"}"#),
    ];
    if format.separator.is_none() {
        calls.truncate(1);
    }
    calls
}

/// Parses an output that arrives in pieces of `characters` characters.
fn parse(
    format: &'static ToolCallFormat,
    text: &str,
    characters: usize,
    end: OutputEnd,
) -> Vec<OutputPart> {
    let names = ["get_weather", "get_weather_of_week", "now"].map(str::to_owned);
    let mut parser = OutputParser::with_tool_calls(format, names.to_vec());
    let all: Vec<char> = text.chars().collect();
    let mut parts: Vec<OutputPart> = Vec::new();
    for piece in all.chunks(characters) {
        parts.extend(parser.push(&piece.iter().collect::<String>(), piece.len()));
    }
    joined(parts.into_iter().chain(parser.finish(end)))
}

/// Joins consecutive text parts and consecutive argument parts.
fn joined(parts: impl Iterator<Item = OutputPart>) -> Vec<OutputPart> {
    let mut joined: Vec<OutputPart> = Vec::new();
    for part in parts {
        match (joined.last_mut(), part) {
            (Some(OutputPart::Text(last)), OutputPart::Text(next))
            | (Some(OutputPart::Arguments(last)), OutputPart::Arguments(next)) => {
                last.push_str(&next);
            }
            (_, part) => joined.push(part),
        }
    }
    joined
}

#[track_caller]
fn check(format: &'static ToolCallFormat, text: &str, expected: &[OutputPart]) {
    check_ended(format, text, OutputEnd::Complete, expected);
}

#[track_caller]
fn check_ended(
    format: &'static ToolCallFormat,
    text: &str,
    end: OutputEnd,
    expected: &[OutputPart],
) {
    for characters in [1, 2, 3, 7, text.len().max(1)] {
        let parts = parse(format, text, characters, end);
        assert_eq!(parts, expected, "in pieces of {characters}: {text}");
    }
}

fn text(text: &str) -> OutputPart {
    OutputPart::Text(text.to_owned())
}

fn tool_call(name: &str, arguments: &str) -> [OutputPart; 2] {
    [
        OutputPart::ToolCall {
            name: name.to_owned(),
        },
        OutputPart::Arguments(arguments.to_owned()),
    ]
}

#[test]
fn renders_a_conversation_with_tool_calls_in_each_format() {
    let mut rendered = String::new();
    for (name, format, source) in TEMPLATES {
        let template = template(source);
        assert_eq!(template.tool_call_format(), format, "{name}");
        let calls = calls(format);
        let prompt = template.render(&conversation(&calls), SystemTime::UNIX_EPOCH);
        let answer = format.write(&calls);
        let prompt = prompt.unwrap();
        rendered.push_str(&format!("## {name}\n{prompt}\n### calls\n{answer}\n\n"));
    }
    let template = template(predefined("chatml").unwrap());
    let conversation = conversation(&calls(template.tool_call_format()));
    let prompt = template.render(&conversation, SystemTime::UNIX_EPOCH);
    rendered.push_str(&format!(
        "## a template without functions\n{}\n",
        prompt.unwrap()
    ));
    insta::with_settings!({ snapshot_path => "../../../snapshots", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("tool_formats", rendered);
    });
}

#[test]
fn each_format_parses_the_tool_calls_that_it_writes() {
    for (_, format, _) in TEMPLATES {
        let calls = calls(format);
        let mut expected: Vec<OutputPart> = Vec::new();
        for call in &calls {
            expected.extend(tool_call(&call.name, &call.arguments));
        }
        check(format, &format.write(&calls), &expected);
        if format.allows_leading_text {
            expected.insert(0, text("Let me see.\n"));
            check(
                format,
                &format!("Let me see.\n{}", format.write(&calls)),
                &expected,
            );
        }
        check(
            format,
            "No call: {\"a\": 1}",
            &[text("No call: {\"a\": 1}")],
        );
    }
}

#[test]
fn function_names_may_have_a_common_prefix_and_arguments_may_contain_markers() {
    let arguments = r#"{"a": "}\"]{", "b": [{}, "</tool_call>"], "c": {"d": "\\"}}"#;
    let body = format!(r#"{{"name": "get_weather_of_week", "arguments": {arguments}}}"#);
    check(
        &HERMES,
        &format!("<tool_call>\n{body}\n</tool_call>"),
        &tool_call("get_weather_of_week", arguments),
    );
}

#[test]
fn output_that_is_not_a_tool_call_is_text() {
    for (format, output) in [
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
        check(format, output, &[text(output)]);
    }
}

#[test]
fn an_incomplete_tool_call_has_the_arguments_so_far() {
    let incomplete = r#"<tool_call>
{"name": "now", "arguments": {"zone": "U"#;
    check(&HERMES, incomplete, &tool_call("now", r#"{"zone": "U"#));
    let without_end = "<function=now>{}</func";
    check(&FUNCTIONARY, without_end, &tool_call("now", "{}"));
}

#[test]
fn a_tool_call_that_is_truncated_before_its_arguments_is_dropped() {
    for (name, format, _) in TEMPLATES {
        let calls = &calls(format)[..1];
        let written = format.write(calls);
        let arguments = written.find(&calls[0].arguments).unwrap();
        let lead = match format.allows_leading_text {
            true => "Let me see.\n",
            false => "",
        };
        let leading: Vec<OutputPart> = (!lead.is_empty()).then(|| text(lead)).into_iter().collect();
        for bytes in 1..=arguments {
            let output = format!("{lead}{}", &written[..bytes]);
            let parts = parse(format, &output, 1, OutputEnd::Truncated);
            let call = OutputPart::ToolCall {
                name: "get_weather".to_owned(),
            };
            let mut expected = leading.clone();
            // Two function names have a common prefix, so a name is certain only after the text that follows it.
            expected.extend((bytes == arguments).then_some(call));
            assert_eq!(parts, expected, "{name}: {output}");
            check_ended(format, &output, OutputEnd::Truncated, &expected);
        }
    }
}

#[test]
fn a_stop_string_drops_an_incomplete_tool_call_but_no_text() {
    let stop = OutputEnd::StopString;
    check_ended(&HERMES, "a <", stop, &[text("a <")]);
    check_ended(&HERMES, "a <tool_call>\n{\"na", stop, &[text("a ")]);
    check_ended(&LLAMA3, "{\"n", stop, &[text("{\"n")]);
    check_ended(&LLAMA3, "{\"name\": \"no", stop, &[]);
}

#[test]
fn tools_as_text_keep_user_and_assistant_alternating() {
    let calls = calls(&HERMES);
    let conversation = generic::tools_as_text(&conversation(&calls));
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
