use std::sync::Arc;

use super::*;
use crate::grammar::{
    Constraint, Cutting, GrammarCompiler, GrammarError, GrammarSource, Relaxation,
};
use crate::token::TokenId;

/// The 256 bytes, and two control tokens.
struct Bytes(Vec<u8>);

const CALLS: TokenId = TokenId(256);
const END: TokenId = TokenId(257);

impl GrammarVocabulary for Bytes {
    fn size(&self) -> usize {
        258
    }

    fn spelling(&self, token: TokenId) -> Spelling<'_> {
        match token {
            CALLS => Spelling::Control("[CALLS]"),
            END => Spelling::Control("<end>"),
            TokenId(byte) => Spelling::Text(&self.0[byte as usize..=byte as usize]),
        }
    }

    fn ends(&self) -> &[TokenId] {
        &[END]
    }

    fn tokens(&self, text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| TokenId(byte.into())).collect()
    }
}

fn compile(grammar: CallGrammar) -> Result<Constraint, GrammarError> {
    let vocabulary = Arc::new(Bytes((0..=255).collect()));
    let compiler = GrammarCompiler::new(vocabulary).unwrap();
    compiler.compile(&GrammarSource::Calls(grammar), Cutting::Free)
}

/// Whether an answer may be this one, token by token.
fn takes(grammar: &CallGrammar, answer: &str) -> bool {
    let mut constraint = compile(grammar.clone()).unwrap();
    let vocabulary = Bytes((0..=255).collect());
    let mut tokens = Vec::new();
    for (number, piece) in answer.split("[CALLS]").enumerate() {
        tokens.extend((number > 0).then_some(CALLS));
        tokens.extend(vocabulary.tokens(piece));
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
fn check(grammar: &CallGrammar, taken: &[&str], refused: &[&str]) {
    for answer in taken {
        assert!(takes(grammar, answer), "{answer} should be taken");
    }
    for answer in refused {
        assert!(!takes(grammar, answer), "{answer} should be refused");
    }
}

fn function(name: &str, begin: &str, arguments: Value, end: &str) -> FunctionCall {
    FunctionCall {
        name: name.to_owned(),
        begin: begin.to_owned(),
        arguments,
        strict: false,
        end: end.to_owned(),
    }
}

/// `<c>now{}</c>` and `<c>day{"of": 1}</c>`, each on a line, behind any text.
fn tagged(otherwise: Otherwise) -> CallGrammar {
    let day =
        json!({"type": "object", "properties": {"of": {"type": "integer"}}, "required": ["of"]});
    CallGrammar {
        otherwise,
        mark: "<c>".to_owned(),
        after_text: true,
        opening: String::new(),
        between: Some("\n".to_owned()),
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
fn a_call_that_must_be() {
    check(
        &tagged(Otherwise::Nothing),
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
fn a_call_behind_text_begins_with_its_mark() {
    check(
        &tagged(Otherwise::Text),
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
fn one_call_where_there_is_nothing_between_two() {
    let grammar = CallGrammar {
        between: None,
        ..tagged(Otherwise::Text)
    };
    check(
        &grammar,
        &["a", "a<c>now{}</c>"],
        &["<c>now{}</c>\n<c>now{}</c>"],
    );
}

#[test]
fn a_call_instead_of_a_text_that_begins_otherwise() {
    let grammar = CallGrammar {
        after_text: false,
        ..tagged(Otherwise::Text)
    };
    check(
        &grammar,
        &["", "a<c>b", "<d", "<", "<c>now{}</c>"],
        &["<c>b", "<c>now{}", "<c>now{}</c>a"],
    );
}

#[test]
fn a_call_instead_of_json() {
    check(
        &tagged(Otherwise::Json {
            schema: json!({"type": "integer"}),
            strict: false,
        }),
        &["12", "<c>now{}</c>"],
        &["", "a", "12<c>now{}</c>", "<c>12"],
    );
}

#[test]
fn control_tokens_are_tokens() {
    let grammar = CallGrammar {
        otherwise: Otherwise::Text,
        mark: "[CALLS]".to_owned(),
        after_text: true,
        opening: "[CALLS][".to_owned(),
        between: Some(", ".to_owned()),
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
fn an_object_that_opens_itself_stays_open() {
    let open = json!({
        "type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "null"},
    });
    let grammar = CallGrammar {
        functions: vec![function("any", "<c>any", open, "</c>")],
        ..tagged(Otherwise::Nothing)
    };
    check(
        &grammar,
        &["<c>any{\"a\": null, \"b\": null}</c>"],
        &["<c>any{\"b\": 1}</c>"],
    );
}

#[test]
fn a_schema_that_cannot_be_held_is_told_with_its_function() {
    let schema = json!({"type": "object", "properties": {"a": {"not": {"const": 2}}}});
    let grammar = |strict| CallGrammar {
        functions: vec![
            function("good", "<c>good", json!({"type": "object"}), "</c>"),
            FunctionCall {
                strict,
                ..function("odd", "<c>odd", schema.clone(), "</c>")
            },
        ],
        ..tagged(Otherwise::Text)
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

/// What llguidance alone refuses is found among the functions, and left out of that one's schema.
#[test]
fn a_schema_that_llguidance_refuses_is_relaxed_alone() {
    let odd =
        json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^a\\b"}}});
    let day = json!({"type": "object", "properties": {"of": {"type": "integer", "maximum": 31}}});
    let grammar = CallGrammar {
        functions: vec![
            function("day", "<c>day", day, "</c>"),
            function("odd", "<c>odd", odd, "</c>"),
        ],
        ..tagged(Otherwise::Text)
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
fn numbers_end_in_arguments_and_not_in_the_text_before() {
    let long = "7".repeat(40);
    check(
        &tagged(Otherwise::Text),
        &[
            &long,
            &format!("{long}<c>day{{\"of\": 7777777777777777777}}</c>"),
        ],
        &[&format!("<c>day{{\"of\": {long}}}</c>")],
    );
}

#[test]
fn arguments_are_an_object_whatever_the_schema_leaves_out() {
    for schema in [
        json!({}),
        json!(true),
        json!({"properties": {"a": {"type": "boolean"}}}),
        json!({"type": ["object", "null"], "properties": {"a": {"type": "boolean"}}}),
        json!({"description": "nothing is said", "anyOf": [{"required": ["a"]}, {"type": "object"}]}),
    ] {
        let mut grammar = tagged(Otherwise::Nothing);
        grammar.functions = vec![function("f", "<c>f", schema.clone(), "</c>")];
        check(
            &grammar,
            &["<c>f{\"a\": true}</c>"],
            &["<c>f7</c>", "<c>f[]</c>", "<c>fnull</c>", "<c>f\"a\"</c>"],
        );
    }
}

#[test]
fn there_may_be_a_thousand_functions() {
    let mut grammar = tagged(Otherwise::Text);
    let schema =
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]});
    let functions = (0..1000).map(|number| {
        let begin = format!("<c>f{number}:");
        function(&format!("f{number}"), &begin, schema.clone(), "</c>")
    });
    grammar.functions = functions.collect();
    check(
        &grammar,
        &["A <c>f999:{\"a\": \"b\"}</c>", "no call"],
        &["<c>f1000:{\"a\": \"b\"}</c>", "<c>f7:{}</c>"],
    );
}
