//! Compilations in steps: they grow with the grammar and not with a power of it, and end when nothing waits for them.

use super::fuel::{Fuel, MAX_COMPILE_STEPS};
use super::tests::compiler;
use super::{Cutting, GrammarError, GrammarSource, follow, gbnf, lexemes};
use crate::cancel::CancelFlag;

/// A rule that repeats the first of so many rules, each of which is a character of its own or the next rule.
fn chain(rules: u32) -> String {
    let mut grammar = "root ::= r0 root | \".\"\n".to_owned();
    for rule in 0..rules {
        let own = char::from_u32(0x4E00 + 2 * rule).unwrap();
        grammar += &format!("r{rule} ::= \"{own}\" | r{}\n", rule + 1);
    }
    grammar + &format!("r{rules} ::= \"!\"\n")
}

/// Steps of one compilation's parts, with no limit.
fn steps(grammar: &str, compute: impl Fn(&gbnf::Grammar, &Fuel<'_>)) -> u64 {
    let cancel = CancelFlag::default();
    let fuel = Fuel::of(u64::MAX, &cancel);
    let grammar = gbnf::read(grammar, &*compiler().vocabulary).unwrap();
    compute(&grammar, &fuel);
    u64::MAX - fuel.left()
}

#[test]
fn what_follows_lexemes_takes_steps_in_proportion_to_rules_times_characters() {
    let follow = |rules: u32| {
        steps(&chain(rules), |grammar, fuel| {
            let lexed = lexemes::cut(grammar, fuel).unwrap();
            follow::following(&lexed, fuel).unwrap();
        })
    };
    // Beyond 500 rules all lexemes are characters. By iteration until nothing changes it would be eight times as much.
    let (few, many) = (follow(1000), follow(2000));
    assert!(few > 1000 && many < 5 * few, "{few} {many}");
}

#[test]
fn a_chain_of_rules_is_compiled_within_the_steps() {
    for rules in [10, 100, 400, 490, 1000, 2500] {
        let source = GrammarSource::Gbnf(chain(rules));
        let mut constraint = compiler().compile(&source, Cutting::Free).unwrap();
        let mut logits = vec![0.0; 400];
        constraint.mask(&mut logits).unwrap();
        let allowed = |character: char| logits[character as usize] == 0.0;
        assert!(allowed('.') && allowed('!') && !allowed('a'), "{rules}");
    }
}

#[test]
fn a_compilation_ends_with_its_cancellation() {
    let cancel = CancelFlag::default();
    cancel.cancel();
    let schema = serde_json::json!({"type": "object", "properties": {"a": {}}});
    for source in [
        GrammarSource::Gbnf(chain(100)),
        GrammarSource::Regex("a".to_owned()),
        GrammarSource::Lark("start: \"a\"".to_owned()),
        GrammarSource::JsonSchema {
            schema,
            strict: false,
        },
    ] {
        let compiled = compiler().compile_unless(&source, Cutting::Free, &cancel);
        assert_eq!(compiled.err(), Some(GrammarError::Cancelled), "{source:?}");
    }
}

#[test]
fn all_schemas_of_a_request_share_its_steps() {
    let properties = (0..9000).map(|n| (format!("p{n}"), serde_json::json!({"type": "string"})));
    let schema = serde_json::json!({
        "type": "object", "properties": properties.collect::<serde_json::Map<_, _>>(),
    });
    let functions = |count: usize| {
        let function = |number: usize| super::FunctionCall {
            name: format!("f{number}"),
            begin: format!("f{number}("),
            arguments: schema.clone(),
            strict: false,
            end: ")".to_owned(),
        };
        GrammarSource::Calls(super::CallGrammar {
            otherwise: super::Otherwise::Nothing,
            mark: String::new(),
            after_text: false,
            opening: String::new(),
            between: None,
            closing: String::new(),
            functions: (0..count).map(function).collect(),
        })
    };
    assert!(compiler().compile(&functions(1), Cutting::Free).is_ok());
    let error = compiler().compile(&functions(100), Cutting::Free);
    let error = error.err().unwrap().to_string();
    let limit = format!("more than {MAX_COMPILE_STEPS} steps");
    assert!(error.contains(&limit), "{error}");
}
