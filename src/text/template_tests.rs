use std::time::Duration;

use super::*;

pub(super) fn render(source: &str) -> Result<String, TemplateError> {
    let messages = [("system", "Be brief."), ("user", "Say <\"é\">.")]
        .map(|(role, content)| ChatMessage::new(role, content));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    ChatTemplate::new(Some(source), "<s>", "</s>")?.render(&messages.into(), now)
}

#[track_caller]
pub(super) fn check(source: &str, expected: &str) {
    assert_eq!(render(source).as_deref(), Ok(expected));
}

#[test]
fn templates_have_the_variables_of_transformers() {
    check(
        "{{ bos_token }}{{ messages[1]['content'] }}{{ eos_token }}",
        "<s>Say <\"é\">.</s>",
    );
    check(
        "{% if add_generation_prompt and tools is none %}go{% endif %}",
        "go",
    );
    check(
        "{{ messages[0].tool_calls is defined }}|{{ messages | length }}",
        "False|2",
    );
    check("{{ strftime_now('%d %b %Y') }}", "14 Nov 2023");
}

#[test]
fn a_cancelled_rendering_ends_at_its_next_output() {
    let messages = [ChatMessage::new("user", "Hi")];
    let template = ChatTemplate::new(Some("{% for n in range(99) %}x{% endfor %}"), "", "");
    let template = template.unwrap();
    let cancel = CancelFlag::default();
    let render = || {
        let now = SystemTime::UNIX_EPOCH;
        template.render_cancellable(&messages.clone().into(), now, &cancel)
    };
    assert_eq!(render(), Ok("x".repeat(99)));
    cancel.cancel();
    let error = render().unwrap_err().to_string();
    assert!(
        error.contains("cancelled before it was finished"),
        "{error}"
    );
}

/// Checks the output for a conversation with these template variables and this limit on reasoning tokens.
#[track_caller]
fn check_variables(
    source: &str,
    variables: &serde_json::Value,
    max_reasoning_tokens: Option<usize>,
    expected: &str,
) {
    let conversation = Conversation {
        max_reasoning_tokens,
        template_variables: variables.as_object().unwrap().clone(),
        ..[ChatMessage::new("user", "Hi")].into()
    };
    let template = ChatTemplate::new(Some(source), "<s>", "</s>").unwrap();
    let text = template.render(&conversation, SystemTime::UNIX_EPOCH);
    assert_eq!(text.as_deref(), Ok(expected));
}

#[test]
fn template_variables_are_passed_and_override_no_reserved_names() {
    use serde_json::json;
    let source = "{{ colour }}{{ bos_token }}{{ messages | length }}{{ tools is none }}";
    let variables = json!({"colour": "red", "bos_token": "x", "messages": [], "tools": [1]});
    check_variables(source, &variables, None, "red<s>1True");
    let source = "{{ enable_thinking is defined }} {{ enable_thinking }} {{ thinking }}";
    check_variables(source, &json!({}), None, "True True ");
    check_variables(source, &json!({}), Some(0), "True False False");
    check_variables(source, &json!({}), Some(7), "True True True");
    let no = json!({"enable_thinking": false});
    check_variables(source, &no, None, "True False False");
    check_variables(source, &no, Some(7), "True True True");
}

#[test]
fn templates_have_the_variables_of_llama_cpp() {
    use serde_json::json;
    let source = "{{ date_string }}|{{ datetime }}|{{ functions }}|{{ documents is none }}";
    check(source, "14 Nov 2023|Nov 14 2023 22:13:20 GMT||True");
    let set =
        json!({"date_string": "26 Jul 2024", "datetime": "now", "functions": "f", "documents": []});
    check_variables(source, &set, None, "26 Jul 2024|now|f|False");
    let conversation = Conversation {
        tools: vec![json!({"type": "function"})],
        ..[ChatMessage::new("user", "Hi")].into()
    };
    // A template that supports tools.
    let source = "{{ functions }}{% if tools %}<tool_call>{% endif %}";
    let template = ChatTemplate::new(Some(source), "", "").unwrap();
    let text = template.render(&conversation, SystemTime::UNIX_EPOCH);
    let expected = "[\n  {\n    \"type\": \"function\"\n  }\n]<tool_call>";
    assert_eq!(text.as_deref(), Ok(expected));
}

#[test]
fn a_closed_conversation_has_no_generation_prompt() {
    let template = ChatTemplate::new(None, "", "").unwrap();
    let render = |ending| {
        let conversation = Conversation {
            ending,
            ..[ChatMessage::new("user", "Hi")].into()
        };
        template
            .render(&conversation, SystemTime::UNIX_EPOCH)
            .unwrap()
    };
    let closed = "<|im_start|>user\nHi<|im_end|>\n";
    assert_eq!(render(PromptEnding::ClosedMessage), closed);
    let open = format!("{closed}<|im_start|>assistant\n");
    assert_eq!(render(PromptEnding::NewMessage), open);
    assert_eq!(render(PromptEnding::OpenMessage), open);
}

#[test]
fn reasoning_is_passed_as_reasoning_content() {
    let message = ChatMessage {
        reasoning: Some("Hm.".to_owned()),
        ..ChatMessage::new("assistant", "Yes.")
    };
    let source = "{{ messages[0].reasoning_content }}|{{ messages[0].content }}";
    let template = ChatTemplate::new(Some(source), "<s>", "</s>").unwrap();
    let text = template.render(&[message].into(), SystemTime::UNIX_EPOCH);
    assert_eq!(text.as_deref(), Ok("Hm.|Yes."));
}

#[test]
fn template_blocks_leave_no_whitespace() {
    check("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc");
    check(
        "{%- for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
        "user",
    );
}

#[test]
fn python_methods_are_supported() {
    check("{{ messages[0].content.upper().strip('.') }}", "BE BRIEF");
    check("{{ messages[0].role.startswith('sys') }}", "True");
    check(
        "{% for k, v in messages[0].items() %}{{ k }} {% endfor %}",
        "role content ",
    );
    check(
        "{% set ns = namespace(n=1) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "3",
    );
}

#[test]
fn tojson_uses_pythons_format() {
    check(
        "{{ messages[1] | tojson }}",
        r#"{"role": "user", "content": "Say <\"é\">."}"#,
    );
    check(
        "{{ [1, [], {'a': none}] | tojson }}",
        r#"[1, [], {"a": null}]"#,
    );
    check(
        "{{ {'a': [1, true]} | tojson(indent=2) }}",
        "{\n  \"a\": [\n    1,\n    true\n  ]\n}",
    );
    assert!(matches!(
        render("{{ 1 | tojson(separators=1) }}"),
        Err(TemplateError::Failed(_))
    ));
}

#[test]
fn chatml_is_the_default_template() {
    let template = ChatTemplate::new(None, "", "").unwrap();
    let message = ChatMessage::new("user", "Hi");
    assert_eq!(
        template
            .render(&[message].into(), SystemTime::UNIX_EPOCH)
            .unwrap(),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    assert!(template.source().contains("<|im_start|>"));
}

#[test]
fn a_template_may_reject_the_messages() {
    let rejected = Err(TemplateError::Rejected("roles must alternate".to_owned()));
    assert_eq!(
        render("{{ raise_exception('roles must alternate') }}"),
        rejected
    );
    let in_macro =
        "{% macro no() %}{{ raise_exception('roles must alternate') }}{% endmacro %}{{ no() }}";
    assert_eq!(render(in_macro), rejected);
}

#[test]
fn template_errors_contain_the_line_or_the_method_name() {
    let invalid = render("a\n{% if %}").unwrap_err().to_string();
    assert!(invalid.starts_with("invalid chat template: "), "{invalid}");
    assert!(invalid.contains("chat template:2"), "{invalid}");
    let failed = render("{{ messages[0].content.nonsense() }}")
        .unwrap_err()
        .to_string();
    assert!(failed.contains("nonsense"), "{failed}");
}

#[test]
fn hostile_templates_end_with_an_error() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let doubling = "{% set ns = namespace(x='xx') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    let nested = "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
    let shared = "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    for source in [
        endless.to_owned(),
        doubling.to_owned(),
        format!("{shared}{{{{ ns.x }}}}"),
        format!("{shared}{{{{ ns.x | tojson }}}}"),
        "{{ [[0] * 9999999] * 9999999 }}".to_owned(),
        "{{ [{'a': [0] * 9999999}] * 9999999 }}".to_owned(),
        // Each iteration is short, and its result is discarded.
        "{% set t = range(9999) | list %}{% for i in range(99999) %}{% set x = t | tojson %}{% endfor %}"
            .to_owned(),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{{ 'x' * 99999999999 }}".to_owned(),
        "{% include '/etc/hostname' %}".to_owned(),
        "{% include 'chat template' %}".to_owned(),
        format!(
            "{}1{}",
            "{{ ".to_owned() + &"(".repeat(99_999),
            ")".repeat(99_999)
        ),
        "{% if 1 %}".repeat(50_000),
        "x".repeat(MAX_SOURCE_BYTES + 1),
    ] {
        let start: String = source.chars().take(120).collect();
        assert!(render(&source).is_err(), "{start}");
    }
    // Deeply nested values may be printed or rejected, but must not overflow the stack.
    for source in [
        format!("{nested}{{{{ ns.x }}}}"),
        format!("{nested}{{{{ ns.x | tojson }}}}"),
    ] {
        let _ = render(&source);
    }
}
