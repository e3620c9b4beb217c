//! What a text must follow, as requests say it.

use std::sync::{Arc, LazyLock};

use ortolan::grammar::{Cutting, GrammarCompiler, GrammarSource, GrammarVocabulary, Spelling};
use ortolan::token::TokenId;
use proptest::prelude::*;
use serde_json::json;

use super::changes::{altered, altered_json};
use super::guard::{fuzz, within};

const END: TokenId = TokenId(256);

/// A token for each byte, and an end.
struct Bytes([u8; 256]);

impl GrammarVocabulary for Bytes {
    fn size(&self) -> usize {
        END.row() + 1
    }

    fn spelling(&self, token: TokenId) -> Spelling<'_> {
        match self.0.get(token.row()) {
            Some(byte) => Spelling::Text(std::slice::from_ref(byte)),
            None => Spelling::Control("<end>"),
        }
    }

    fn ends(&self) -> &[TokenId] {
        &[END]
    }

    fn tokens(&self, text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| TokenId(byte.into())).collect()
    }
}

static COMPILER: LazyLock<GrammarCompiler> = LazyLock::new(|| {
    let bytes = std::array::from_fn(|byte| byte as u8);
    GrammarCompiler::new(Arc::new(Bytes(bytes))).unwrap()
});

/// Compiles and follows for a few tokens.
fn follow(source: &GrammarSource) {
    let Ok(mut constraint) = COMPILER.compile(source, Cutting::Free) else {
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
fn rules() {
    let valid = [
        r#"root ::= "a" | ("b" [^c-f\n]{2,5} root)* "\x41" # end"#,
        "root ::= item+\nitem ::= [a-z]{1,40} \" \" number?\nnumber ::= \"-\"? [0-9]+ (\".\" [0-9]+)?\n",
        r#"root ::= <[97]> !<[98]> "end" | .{3} "é"#,
    ];
    let valid = valid.map(|text| text.as_bytes().to_vec());
    let inputs =
        altered(valid.into()).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    fuzz("a grammar", 100, 512 << 20, inputs, |text| {
        follow(&GrammarSource::Gbnf(text))
    });
}

#[test]
fn schemas() {
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
        altered_json(valid, more),
        |schema| {
            follow(&GrammarSource::JsonSchema {
                schema,
                strict: false,
            });
        },
    );
}

/// What a grammar of at most 64 KiB may take.
const MOST_GRAMMAR_BYTES: usize = 192 << 20;

/// Terminals that each name the next one ten times.
fn tenfold(levels: usize, last: &str) -> String {
    let name = |level: usize| char::from(b'A' + level as u8);
    let mut grammar = "start: A\n".to_owned();
    for level in 0..levels {
        let next = format!("{} ", name(level + 1)).repeat(10);
        grammar += &format!("{}: {next}\n", name(level));
    }
    grammar + &format!("{}: {last}\n", name(levels))
}

/// Grammars of a few kilobytes that took minutes or gigabytes.
#[test]
fn small_grammars_that_mean_much_work() {
    let chain = |rules: u32| {
        let mut grammar = "root ::= r0 root | \".\"\n".to_owned();
        for rule in 0..rules {
            let own = char::from_u32(0x4E00 + 2 * rule).unwrap();
            grammar += &format!("r{rule} ::= \"{own}\" | r{}\n", rule + 1);
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
    let narrow = (0..3000).map(|n| {
        let never = json!({"type": "string", "pattern": "^a$", "minLength": 5});
        (
            format!("p{n}"),
            json!({"type": "array", "items": [never], "minItems": 1}),
        )
    });
    let cases = [
        ("a chain of rules", chain(400)),
        ("a long chain of rules", chain(2500)),
        (
            "a rule named often",
            gbnf(format!(
                "root ::= {} root?\nr ::= {}",
                "r ".repeat(20_000),
                "\"abcdefgh\"".repeat(400)
            )),
        ),
        (
            "rules that name each other twice",
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
            GrammarSource::Lark(tenfold(4, "\"a\"?")),
        ),
        (
            "a hundred thousand optional parts",
            GrammarSource::Lark(tenfold(5, "\"a\"?")),
        ),
        (
            "a pattern",
            schema(json!({"type": "string", "pattern": "a?".repeat(20_000)})),
        ),
        (
            "patterns of names",
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
            "a name that is in each pointer",
            schema(
                json!({"type": "object", "properties": {"x".repeat(250_000): {
            "type": "object", "properties": (0..9000).map(|n| (n.to_string(), json!({}))).collect::<serde_json::Map<_, _>>()}}}),
            ),
        ),
        (
            "contradictions",
            schema(
                json!({"type": "object", "properties": narrow.collect::<serde_json::Map<_, _>>()}),
            ),
        ),
    ];
    for (name, source) in cases {
        within(name, MOST_GRAMMAR_BYTES, || follow(&source));
    }
}
