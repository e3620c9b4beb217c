use std::sync::Arc;

use super::*;
use crate::grammar::{
    Constraint, GrammarCompiler, GrammarError, GrammarSource, Relaxation, Tokenization,
};
use crate::token::TokenId;

/// Text tokens for the 256 bytes, and two control tokens.
struct Bytes(Vec<u8>);

const CALLS: TokenId = TokenId(256);
const END: TokenId = TokenId(257);

impl GrammarVocabulary for Bytes {
    fn size(&self) -> usize {
        258
    }

    fn grammar_token(&self, token: TokenId) -> GrammarToken<'_> {
        match token {
            CALLS => GrammarToken::Control("[CALLS]"),
            END => GrammarToken::Control("<end>"),
            TokenId(byte) => GrammarToken::Text(&self.0[byte as usize..=byte as usize]),
        }
    }

    fn eog_tokens(&self) -> &[TokenId] {
        &[END]
    }

    fn tokenize(&self, text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| TokenId(byte.into())).collect()
    }
}

fn compile(grammar: ToolCallGrammar) -> Result<Constraint, GrammarError> {
    let vocabulary = Arc::new(Bytes((0..=255).collect()));
    let compiler = GrammarCompiler::new(vocabulary).unwrap();
    compiler.compile(&GrammarSource::ToolCalls(grammar), Tokenization::Any)
}

/// Whether the grammar accepts the complete response, token by token.
fn accepts(grammar: &ToolCallGrammar, response: &str) -> bool {
    let mut constraint = compile(grammar.clone()).unwrap();
    let vocabulary = Bytes((0..=255).collect());
    let mut tokens = Vec::new();
    for (number, text) in response.split("[CALLS]").enumerate() {
        tokens.extend((number > 0).then_some(CALLS));
        tokens.extend(vocabulary.tokenize(text));
    }
    tokens.push(END);
    tokens.into_iter().all(|token| {
        let mut logits = vec![0.0; vocabulary.size()];
        constraint.mask(&mut logits).unwrap();
        let allowed = logits[token.row()] == 0.0;
        allowed && (token == END || constraint.accept(token).is_ok())
    })
}

#[track_caller]
fn check(grammar: &ToolCallGrammar, accepted: &[&str], rejected: &[&str]) {
    for response in accepted {
        assert!(accepts(grammar, response), "{response} should be accepted");
    }
    for response in rejected {
        assert!(!accepts(grammar, response), "{response} should be rejected");
    }
}

fn function(name: &str, before: &str, arguments_schema: Value, after: &str) -> FunctionGrammar {
    FunctionGrammar {
        name: name.to_owned(),
        before_arguments: before.to_owned(),
        arguments_schema,
        strict: false,
        after_arguments: after.to_owned(),
    }
}

/// A grammar of tool calls such as `<c>now{}</c>` and `<c>day{"of": 1}</c>`, one per line, after any text.
fn tagged(content: ContentGrammar) -> ToolCallGrammar {
    let day =
        json!({"type": "object", "properties": {"of": {"type": "integer"}}, "required": ["of"]});
    ToolCallGrammar {
        content,
        marker: "<c>".to_owned(),
        allows_leading_text: true,
        opening: String::new(),
        separator: Some("\n".to_owned()),
        closing: String::new(),
        functions: vec![
            function(
                "now",
                "<c>now",
                json!({"type": "object", "properties": {}}),
                "</c>",
            ),
            function("day", "<c>day", day, "</c>"),
        ],
    }
}

#[test]
fn a_required_tool_call_allows_no_other_text() {
    check(
        &tagged(ContentGrammar::CallRequired),
        &[
            "<c>now{}</c>",
            "<c>day{\"of\": 12}</c>",
            "<c>day{\"of\": -1}</c>\n<c>now{}</c>\n<c>now{}</c>",
        ],
        &[
            "",
            "now",
            " <c>now{}</c>",
            "<c>never{}</c>",
            "<c>now{}",
            "<c>now{\"of\": 1}</c>",
            "<c>day{}</c>",
            "<c>day{\"of\": 1, \"else\": 2}</c>",
            "<c>day{\"of\":1}</c>",
            "<c>now{}</c><c>now{}</c>",
        ],
    );
}

#[test]
fn a_tool_call_after_text_begins_with_the_marker() {
    check(
        &tagged(ContentGrammar::Text),
        &[
            "",
            "Is it <b>now</b>?",
            "a < b, <c",
            "<c>now{}</c>",
            "Wait:\n<<c>now{}</c>\n<c>day{\"of\": 0}</c>",
        ],
        &["<c>", "a <c> b", "<c>now{}</c> and so on", "<c>now{}</c>\n"],
    );
}

#[test]
fn only_one_tool_call_is_allowed_without_a_separator() {
    let grammar = ToolCallGrammar {
        separator: None,
        ..tagged(ContentGrammar::Text)
    };
    check(
        &grammar,
        &["a", "a<c>now{}</c>"],
        &["<c>now{}</c>\n<c>now{}</c>"],
    );
}

#[test]
fn without_leading_text_the_marker_is_allowed_inside_text() {
    let grammar = ToolCallGrammar {
        allows_leading_text: false,
        ..tagged(ContentGrammar::Text)
    };
    check(
        &grammar,
        &["", "a<c>b", "<d", "<", "<c>now{}</c>"],
        &["<c>b", "<c>now{}", "<c>now{}</c>a"],
    );
}

#[test]
fn a_response_is_either_json_or_a_tool_call() {
    check(
        &tagged(ContentGrammar::Json {
            schema: json!({"type": "integer"}),
            strict: false,
        }),
        &["12", "<c>now{}</c>"],
        &["", "a", "12<c>now{}</c>", "<c>12"],
    );
}

#[test]
fn names_of_control_tokens_stand_for_the_tokens() {
    let grammar = ToolCallGrammar {
        content: ContentGrammar::Text,
        marker: "[CALLS]".to_owned(),
        allows_leading_text: true,
        opening: "[CALLS][".to_owned(),
        separator: Some(", ".to_owned()),
        closing: "]".to_owned(),
        functions: vec![function(
            "now",
            "\"now\": ",
            json!({"type": "object", "properties": {}}),
            "",
        )],
    };
    check(
        &grammar,
        &[
            "",
            "a",
            "a[CALLS][\"now\": {}, \"now\": {}]",
            "[CALLS][\"now\": {}]",
        ],
        &[
            "[CALLS]",
            "[CALLS]a",
            "a[CALLS][]",
            "[CALLS][\"now\": {}] a",
            "[CALLS][\"now\": {}",
        ],
    );
}

#[test]
fn tool_calls_allow_explicit_additional_properties() {
    let open = json!({
        "type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "null"},
    });
    let grammar = ToolCallGrammar {
        functions: vec![function("any", "<c>any", open, "</c>")],
        ..tagged(ContentGrammar::CallRequired)
    };
    check(
        &grammar,
        &["<c>any{\"a\": null, \"b\": null}</c>"],
        &["<c>any{\"b\": 1}</c>"],
    );
}

#[test]
fn an_unenforceable_schema_is_reported_with_its_function() {
    let schema = json!({"type": "object", "properties": {"a": {"not": {"const": 2}}}});
    let grammar = |strict| ToolCallGrammar {
        functions: vec![
            function("good", "<c>good", json!({"type": "object"}), "</c>"),
            FunctionGrammar {
                strict,
                ..function("odd", "<c>odd", schema.clone(), "</c>")
            },
        ],
        ..tagged(ContentGrammar::Text)
    };
    assert_eq!(
        compile(grammar(true)).err().unwrap().to_string(),
        "function 'odd': /properties/a/not: not cannot be enforced token by token; leave it out, or do not set strict"
    );
    let relaxation = Relaxation {
        function: Some("odd".to_owned()),
        pointer: "/properties/a/not".to_owned(),
    };
    assert_eq!(compile(grammar(false)).unwrap().relaxations(), [relaxation]);
    check(
        &grammar(false),
        &["<c>odd{\"a\": 2}</c>"],
        &["<c>odd{\"b\": 2}</c>"],
    );
}

/// Among all functions, finds the schema with a constraint that only llguidance rejects, and drops the constraint.
#[test]
fn only_the_schema_that_llguidance_rejects_is_relaxed() {
    let odd =
        json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^a\\b"}}});
    let day = json!({"type": "object", "properties": {"of": {"type": "integer", "maximum": 31}}});
    let grammar = ToolCallGrammar {
        functions: vec![
            function("day", "<c>day", day, "</c>"),
            function("odd", "<c>odd", odd, "</c>"),
        ],
        ..tagged(ContentGrammar::Text)
    };
    check(
        &grammar,
        &["<c>odd{\"a\": \"x\"}</c>", "<c>day{\"of\": 31}</c>"],
        &["<c>odd{\"a\": 1}</c>", "<c>day{\"of\": 32}</c>"],
    );
    let constraint = compile(grammar).unwrap();
    let pointers: Vec<&str> = constraint
        .relaxations()
        .iter()
        .map(|relaxation| &*relaxation.pointer)
        .collect();
    assert_eq!(pointers, ["/properties/a/pattern"]);
}

#[test]
fn the_digit_limit_applies_to_arguments_and_not_to_leading_text() {
    let long = "7".repeat(40);
    check(
        &tagged(ContentGrammar::Text),
        &[
            &long,
            &format!("{long}<c>day{{\"of\": 7777777777777777777}}</c>"),
        ],
        &[&format!("<c>day{{\"of\": {long}}}</c>")],
    );
}

#[test]
fn arguments_are_an_object_even_if_the_schema_gives_no_type() {
    for schema in [
        json!({}),
        json!(true),
        json!({"properties": {"a": {"type": "boolean"}}}),
        json!({"type": ["object", "null"], "properties": {"a": {"type": "boolean"}}}),
        json!({"description": "nothing is said", "anyOf": [{"required": ["a"]}, {"type": "object"}]}),
    ] {
        let mut grammar = tagged(ContentGrammar::CallRequired);
        grammar.functions = vec![function("f", "<c>f", schema.clone(), "</c>")];
        check(
            &grammar,
            &["<c>f{\"a\": true}</c>"],
            &["<c>f7</c>", "<c>f[]</c>", "<c>fnull</c>", "<c>f\"a\"</c>"],
        );
    }
}

#[test]
fn a_tool_call_grammar_of_a_thousand_functions_compiles() {
    let mut grammar = tagged(ContentGrammar::Text);
    let schema =
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]});
    let functions = (0..1000).map(|number| {
        let before = format!("<c>f{number}:");
        function(&format!("f{number}"), &before, schema.clone(), "</c>")
    });
    grammar.functions = functions.collect();
    check(
        &grammar,
        &["A <c>f999:{\"a\": \"b\"}</c>", "no call"],
        &["<c>f1000:{\"a\": \"b\"}</c>", "<c>f7:{}</c>"],
    );
}
