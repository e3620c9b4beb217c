//! Chat templates and the conversations that they render.

use std::time::SystemTime;

use ortolan::text::{ChatMessage, ChatTemplate, Conversation, predefined, predefined_names};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::fuzzer::fuzz;
use super::mutations::{mutated, texts};

/// Fuel limits intermediate values to 64 MiB, and the output is limited to 64 MiB; copying them doubles both.
const MAX_BYTES: usize = 320 << 20;

/// Parts of templates, including ones that read files, loop for long or grow their values.
const PARTS: [&str; 48] = [
    "{% for m in messages %}",
    "{% for i in range(99999) %}",
    "{% for i in range(9) %}",
    "{% for k, v in messages[0].items() %}",
    "{% endfor %}",
    "{% if loop.first %}",
    "{% if m.role == 'user' %}",
    "{% elif x is defined %}",
    "{% else %}",
    "{% endif %}",
    "{% set x = x ~ x ~ 'xxxxxxxx' %}",
    "{% set x = [x, x] %}",
    "{% set x = {'a': x} %}",
    "{% set ns = namespace(x='xx') %}",
    "{% set ns.x = ns.x ~ ns.x %}",
    "{% set ns.x = [ns.x, ns.x] %}",
    "{% macro f(a) %}",
    "{% endmacro %}",
    "{{ f(1) }}",
    "{{ f }}",
    "{% include '/etc/hostname' %}",
    "{% include 'chat template' %}",
    "{% import '/etc/hostname' as x %}",
    "{% from 'chat template' import f %}",
    "{% extends 'chat template' %}",
    "{% block b %}",
    "{% endblock %}",
    "{{ self.b() }}",
    "{{ x }}",
    "{{ x | tojson(indent=999999) }}",
    "{{ ns.x | tojson }}",
    "{{ 'x' * 99999999 }}",
    "{{ [0] * 99999999 }}",
    "{{ range(999999999) | list }}",
    "{{ x | join(x) }}",
    "{{ ('x' * 9999) | replace('x', 'x' * 9999) }}",
    "{{ '%s' | format(x) }}",
    "{{ messages | sort | unique | list | reverse }}",
    "{{ x | indent(99999999) }}",
    "{{ x | center(99999999) }}",
    "{{ 'a'.join([x] * 9) }}",
    "{{ messages[0].content.split('a') }}",
    "{{ 9 ** 9999999 }}",
    "{{ 1 // 0 }}{{ 1 % 0 }}",
    "{{ 9223372036854775807 + 1 }}",
    "{{ x[99999999999:-1:0] }}",
    "{{ strftime_now('%Y %99999999d') }}",
    "{{ lipsum(99999) }}{{ cycler }}{{ dict(a=1) }}",
];

fn templates() -> impl Strategy<Value = String> {
    let valid = predefined_names().map(|name| predefined(name).unwrap().as_bytes().to_vec());
    let mutated =
        mutated(valid.collect()).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let part = prop_oneof![12 => select(&PARTS[..]).prop_map(str::to_owned), 1 => texts()];
    let parts = vec(part, 0..12);
    // Half of the templates get balanced block tags, which random parts rarely have.
    let from_parts = (parts.clone(), any::<bool>()).prop_map(|(parts, balances)| {
        let ends = [
            ("{% for", "{% endfor %}"),
            ("{% if", "{% endif %}"),
            ("{% macro", "{% endmacro %}"),
            ("{% block", "{% endblock %}"),
        ];
        let mut open = Vec::new();
        let mut text = String::new();
        for part in parts {
            match ends.iter().find(|(begin, _)| part.starts_with(begin)) {
                Some((_, end)) => open.push(*end),
                None if balances
                    && part.starts_with("{% end")
                    && open.pop() != Some(part.as_str()) =>
                {
                    continue;
                }
                None => {}
            }
            text.push_str(&part);
        }
        text.extend(open.into_iter().rev().filter(|_| balances));
        text
    });
    prop_oneof![2 => from_parts, 1 => mutated]
}

fn conversations() -> impl Strategy<Value = Conversation> {
    let role = prop_oneof![4 => select(vec!["system", "user", "assistant", "tool", ""]).prop_map(str::to_owned), 1 => texts()];
    let message = (role, texts(), prop::option::of(texts()));
    vec(message, 0..5).prop_map(|messages| {
        let messages = messages
            .into_iter()
            .map(|(role, content, reasoning)| ChatMessage {
                reasoning,
                ..ChatMessage::new(role, content)
            });
        Conversation::from(messages.collect::<Vec<_>>())
    })
}

#[test]
fn modified_templates_cause_no_panic() {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host = host.trim();
    let inputs = (templates(), conversations());
    fuzz(
        "a chat template",
        300,
        MAX_BYTES,
        inputs,
        |(source, conversation)| {
            if let Ok(template) = ChatTemplate::new(Some(&source), "<s>", "</s>")
                && let Ok(text) = template.render(&conversation, SystemTime::UNIX_EPOCH)
            {
                assert!(
                    host.len() < 4 || !text.contains(host),
                    "the template read a file"
                );
            }
        },
    );
}
