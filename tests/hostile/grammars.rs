//! What a text must follow, as requests say it.

use std::sync::{Arc, LazyLock};

use ortolan::grammar::{Cutting, GrammarCompiler, GrammarSource, GrammarVocabulary, Spelling};
use ortolan::token::TokenId;
use proptest::prelude::*;
use serde_json::json;

use super::changes::{altered, altered_json};
use super::guard::fuzz;

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
