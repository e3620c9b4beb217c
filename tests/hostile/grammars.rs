//! Grammars, regular expressions and JSON schemas of requests.

use std::sync::{Arc, LazyLock};

use ortolan::grammar::{
    GrammarCompiler, GrammarSource, GrammarToken, GrammarVocabulary, Tokenization,
};
use ortolan::token::TokenId;
use proptest::prelude::*;
use serde_json::json;

use super::fuzzer::{fuzz, run_limited};
use super::mutations::{mutated, mutated_json};

const END: TokenId = TokenId(256);

/// A vocabulary with a token for each byte and an end token.
struct ByteVocabulary([u8; 256]);

impl GrammarVocabulary for ByteVocabulary {
    fn size(&self) -> usize {
        END.row() + 1
    }

    fn grammar_token(&self, token: TokenId) -> GrammarToken<'_> {
        match self.0.get(token.row()) {
            Some(byte) => GrammarToken::Text(std::slice::from_ref(byte)),
            None => GrammarToken::Control("<end>"),
        }
    }

    fn eog_tokens(&self) -> &[TokenId] {
        &[END]
    }

    fn tokenize(&self, text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| TokenId(byte.into())).collect()
    }
}

static COMPILER: LazyLock<GrammarCompiler> = LazyLock::new(|| {
    let bytes = std::array::from_fn(|byte| byte as u8);
    GrammarCompiler::new(Arc::new(ByteVocabulary(bytes))).unwrap()
});

/// Compiles a grammar and generates a few tokens with it.
fn compile_and_generate(source: &GrammarSource) {
    let Ok(mut constraint) = COMPILER.compile(source, Tokenization::Any) else {
        return;
    };
    for _ in 0..8 {
        let mut logits = vec![0.0; END.row() + 1];
        if constraint.mask(&mut logits).is_err() {
            return;
        }
        let Some(token) = logits.iter().position(|logit| logit.is_finite()) else {
            return;
        };
        if token == END.row() || constraint.accept(TokenId(token as u32)).is_err() {
            return;
        }
    }
}

#[test]
fn modified_gbnf_grammars_cause_no_panic() {
    let valid = [
        r#"root ::= "a" | ("b" [^c-f\n]{2,5} root)* "\x41" # end"#,
        "root ::= item+\nitem ::= [a-z]{1,40} \" \" number?\nnumber ::= \"-\"? [0-9]+ (\".\" [0-9]+)?\n",
        r#"root ::= <[97]> !<[98]> "end" | .{3} "é"#,
    ];
    let valid = valid.map(|text| text.as_bytes().to_vec());
    let inputs =
        mutated(valid.into()).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    fuzz("a grammar", 100, 512 << 20, inputs, |text| {
        compile_and_generate(&GrammarSource::Gbnf(text))
    });
}

#[test]
fn modified_schemas_cause_no_panic() {
    let valid = vec![
        json!({"type": "object", "required": ["a"], "additionalProperties": false, "properties": {
            "a": {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 300}, "minItems": 1, "maxItems": 4},
            "b": {"enum": ["x", 1, null]}, "c": {"$ref": "#/$defs/c"}}, "$defs": {"c": {"type": "string", "maxLength": 9}}}),
        json!({"oneOf": [{"type": "string", "pattern": "^a+[bc]{2,3}$"}, {"type": "number"}, {"const": [1]}]}),
        json!({"anyOf": [{"type": "string", "format": "date"}, {"$ref": "#"}], "type": ["string", "object"]}),
    ];
    let more = vec![
        json!("object"),
        json!({"$ref": "#"}),
        json!({"pattern": "(a{99}){99}"}),
        json!({"type": "array"}),
    ];
    fuzz(
        "a JSON Schema",
        100,
        512 << 20,
        mutated_json(valid, more),
        |schema| {
            compile_and_generate(&GrammarSource::JsonSchema {
                schema,
                strict: false,
            });
        },
    );
}

/// Memory limit for a grammar of at most 64 KiB.
const MAX_GRAMMAR_BYTES: usize = 192 << 20;

/// A Lark grammar whose terminals each reference the next one ten times.
fn nested_terminals(levels: usize, last: &str) -> String {
    let name = |level: usize| char::from(b'A' + level as u8);
    let mut grammar = "start: A\n".to_owned();
    for level in 0..levels {
        let next = format!("{} ", name(level + 1)).repeat(10);
        grammar += &format!("{}: {next}\n", name(level));
    }
    grammar + &format!("{}: {last}\n", name(levels))
}

/// Grammars of a few kilobytes that once took minutes or gigabytes.
#[test]
fn small_but_expensive_grammars_stay_within_limits() {
    let chain = |rules: u32| {
        let mut grammar = "root ::= r0 root | \".\"\n".to_owned();
        for rule in 0..rules {
            let literal = char::from_u32(0x4E00 + 2 * rule).unwrap();
            grammar += &format!("r{rule} ::= \"{literal}\" | r{}\n", rule + 1);
        }
        GrammarSource::Gbnf(grammar + &format!("r{rules} ::= \"!\"\n"))
    };
    let gbnf = |text: String| GrammarSource::Gbnf(text);
    let regex = |text: String| GrammarSource::Regex(text);
    let schema = |schema| GrammarSource::JsonSchema {
        schema,
        strict: false,
    };
    let anchors = (0..3000).map(|n| (format!("d{n}"), json!({"$anchor": format!("a{n}")})));
    let named = (0..3000).map(|n| (format!("p{n}"), json!({"$ref": format!("#a{n}")})));
    let values = |n: usize| {
        (0..150)
            .map(|value| json!(format!("{n} {value}")))
            .collect::<Vec<_>>()
    };
    let enums = (0..200).map(|n| json!({"enum": values(n)}));
    let unsatisfiable = (0..3000).map(|n| {
        let unsatisfiable = json!({"type": "string", "pattern": "^a$", "minLength": 5});
        (
            format!("p{n}"),
            json!({"type": "array", "items": [unsatisfiable], "minItems": 1}),
        )
    });
    let cases = [
        ("a chain of rules", chain(400)),
        ("a long chain of rules", chain(2500)),
        (
            "a rule referenced often",
            gbnf(format!(
                "root ::= {} root?\nr ::= {}",
                "r ".repeat(20_000),
                "\"abcdefgh\"".repeat(400)
            )),
        ),
        (
            "rules that reference each other twice",
            gbnf((0..450).fold(
                "root ::= r0 root?\nr450 ::= \"x\"\n".to_owned(),
                |text, n| text + &format!("r{n} ::= r{0} r{0} | \"{n}\"\n", n + 1),
            )),
        ),
        (
            "many optional literals",
            gbnf(format!("root ::= {} root?", "\"é\"? ".repeat(8000))),
        ),
        (
            "repetitions of repetitions",
            gbnf("root ::= ((\"a\"{2000}){2000}){2000}".to_owned()),
        ),
        ("a repetition", regex("a{1000000000}".to_owned())),
        ("optional letters", regex("a?".repeat(20_000))),
        ("stars of stars", regex("(a*)*".repeat(10_000))),
        (
            "Unicode classes",
            regex(r"(?i)\w".to_owned() + &r"\w".repeat(30_000)),
        ),
        ("long lines", regex(".{0,60000}".repeat(6000))),
        (
            "ten thousand optional parts",
            GrammarSource::Lark(nested_terminals(4, "\"a\"?")),
        ),
        (
            "a hundred thousand optional parts",
            GrammarSource::Lark(nested_terminals(5, "\"a\"?")),
        ),
        (
            "a pattern",
            schema(json!({"type": "string", "pattern": "a?".repeat(20_000)})),
        ),
        (
            "patterns of property names",
            schema(json!({"type": "object", "patternProperties": {"a?".repeat(20_000): {}}})),
        ),
        (
            "anchors",
            schema(
                json!({"type": "object", "properties": named.collect::<serde_json::Map<_, _>>(),
            "$defs": anchors.collect::<serde_json::Map<_, _>>()}),
            ),
        ),
        (
            "alternatives of constants",
            schema(json!({"oneOf": enums.collect::<Vec<_>>()})),
        ),
        (
            "a property name that is part of every pointer",
            schema(
                json!({"type": "object", "properties": {"x".repeat(250_000): {
            "type": "object", "properties": (0..9000).map(|n| (n.to_string(), json!({}))).collect::<serde_json::Map<_, _>>()}}}),
            ),
        ),
        (
            "contradictions",
            schema(
                json!({"type": "object", "properties": unsatisfiable.collect::<serde_json::Map<_, _>>()}),
            ),
        ),
    ];
    for (name, source) in cases {
        run_limited(name, MAX_GRAMMAR_BYTES, || compile_and_generate(&source));
    }
}
