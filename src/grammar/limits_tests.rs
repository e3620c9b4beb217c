//! Tests the cost of compilations: the number of steps is bounded and does not explode with the size of the grammar,
//! and cancelled compilations end.

use super::fuel::{Fuel, MAX_COMPILE_STEPS};
use super::tests::compiler;
use super::{GrammarError, GrammarSource, Tokenization, follow, gbnf, lexemes};
use crate::cancel::CancelFlag;

/// Builds a grammar with a chain of rules. Each rule matches a character that no other rule has, or the next rule; the
/// root repeats the first rule.
fn chain(rules: u32) -> String {
    let mut grammar = "root ::= r0 root | \".\"\n".to_owned();
    for rule in 0..rules {
        let own = char::from_u32(0x4E00 + 2 * rule).unwrap();
        grammar += &format!("r{rule} ::= \"{own}\" | r{}\n", rule + 1);
    }
    grammar + &format!("r{rules} ::= \"!\"\n")
}

/// Counts the steps that `compute` takes without a limit.
fn steps(grammar: &str, compute: impl Fn(&gbnf::Grammar, &Fuel<'_>)) -> u64 {
    let cancel = CancelFlag::default();
    let fuel = Fuel::with_steps(u64::MAX, &cancel);
    let grammar = gbnf::parse(grammar, &*compiler().vocabulary).unwrap();
    compute(&grammar, &fuel);
    u64::MAX - fuel.left()
}

#[test]
fn follow_sets_take_steps_in_proportion_to_rules_times_characters() {
    let follow_steps = |rules: u32| {
        steps(&chain(rules), |grammar, fuel| {
            let lexed = lexemes::split(grammar, fuel).unwrap();
            follow::follow_sets(&lexed, fuel).unwrap();
        })
    };
    // With more than 500 rules, all lexemes are characters. Twice the rules take about four times the steps; in a
    // fixed-point iteration they would take eight times the steps.
    let (few, many) = (follow_steps(1000), follow_steps(2000));
    assert!(few > 1000 && many < 5 * few, "{few} {many}");
}

#[test]
fn a_chain_of_rules_compiles_within_the_limit() {
    for rules in [10, 100, 400, 490, 1000, 2500] {
        let source = GrammarSource::Gbnf(chain(rules));
        let mut constraint = compiler().compile(&source, Tokenization::Any).unwrap();
        let mut logits = vec![0.0; 400];
        constraint.mask(&mut logits).unwrap();
        let allowed = |character: char| logits[character as usize] == 0.0;
        assert!(allowed('.') && allowed('!') && !allowed('a'), "{rules}");
    }
}

#[test]
fn a_cancelled_compilation_fails() {
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
        let compiled = compiler().compile_cached(&source, Tokenization::Any, 0, &cancel);
        assert_eq!(compiled.err(), Some(GrammarError::Cancelled), "{source:?}");
    }
}

#[test]
fn all_schemas_of_a_request_share_one_limit() {
    let properties = (0..9000).map(|n| (format!("p{n}"), serde_json::json!({"type": "string"})));
    let schema = serde_json::json!({
        "type": "object", "properties": properties.collect::<serde_json::Map<_, _>>(),
    });
    let functions = |count: usize| {
        let function = |number: usize| super::FunctionGrammar {
            name: format!("f{number}"),
            before_arguments: format!("f{number}("),
            arguments_schema: schema.clone(),
            strict: false,
            after_arguments: ")".to_owned(),
        };
        GrammarSource::ToolCalls(super::ToolCallGrammar {
            content: super::ContentGrammar::CallRequired,
            marker: String::new(),
            allows_leading_text: false,
            opening: String::new(),
            separator: None,
            closing: String::new(),
            functions: (0..count).map(function).collect(),
        })
    };
    assert!(compiler().compile(&functions(1), Tokenization::Any).is_ok());
    let error = compiler().compile(&functions(100), Tokenization::Any);
    let error = error.err().unwrap().to_string();
    let limit = format!("more than {MAX_COMPILE_STEPS} steps");
    assert!(error.contains(&limit), "{error}");
}
