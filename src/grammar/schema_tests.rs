//! Compares constraints of JSON Schemas with the validator `jsonschema`. Each text is tokenized into tokens of one byte
//! and into longer tokens. Constraints accept properties only in the order of the schema.

mod real_schemas;
mod rejected;
mod relaxed;
mod superset;

use serde_json::{Value, json};

use super::tests::{accepts, bytes, compiler, long_tokens};
use super::*;
use crate::token::TokenId;

/// Returns the schema as a strict grammar source.
fn strict_source(schema: &Value) -> GrammarSource {
    GrammarSource::JsonSchema {
        schema: schema.clone(),
        strict: true,
    }
}

/// Checks that both the constraint and the validator accept and reject these texts; the validator reads only texts that
/// are JSON. Also checks that the validator accepts random texts that the constraint allows.
#[track_caller]
fn check(compiler: &GrammarCompiler, schema: &Value, accepted: &[&str], rejected: &[&str]) {
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
        .unwrap();
    let source = strict_source(schema);
    for (texts, expected) in [(accepted, true), (rejected, false)] {
        for text in texts {
            if let Ok(value) = serde_json::from_str(text) {
                assert_eq!(validator.is_valid(&value), expected, "{schema}: {text}");
            } else {
                assert!(!expected, "{text} is not JSON");
            }
            for tokens in [bytes(text), long_tokens(text)] {
                assert_eq!(
                    accepts(compiler, &source, &tokens),
                    expected,
                    "{schema}: {text:?} as {tokens:?}"
                );
            }
        }
    }
    let mut random = generator(1);
    for _ in 0..20 {
        let constraint = compiler.compile(&source, Tokenization::Any).unwrap();
        let Some(text) = random_text(constraint, &mut random) else {
            continue;
        };
        // Skip long numbers, which may exceed double precision.
        if text
            .split(|character: char| !character.is_ascii_digit())
            .any(|digits| digits.len() > 2)
        {
            continue;
        }
        let value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{schema}: {text}: {error}"));
        assert!(validator.is_valid(&value), "{schema} accepts {text}");
    }
}

/// Generates a complete text from random allowed bytes; `None` if it becomes too long.
fn random_text(
    mut constraint: Constraint,
    random: &mut impl FnMut(usize) -> usize,
) -> Option<String> {
    let mut text = Vec::new();
    for _ in 0..300 {
        let mut logits = vec![0.0; 269];
        constraint.mask(&mut logits).ok()?;
        let allowed: Vec<usize> = (0..256).filter(|byte| logits[*byte] == 0.0).collect();
        let may_end = logits[268] == 0.0;
        if may_end && (allowed.is_empty() || random(3) == 0) {
            return String::from_utf8(text).ok();
        }
        let byte = allowed[random(allowed.len())];
        text.push(byte as u8);
        constraint.accept(TokenId(byte as u32)).ok()?;
    }
    None
}

/// Returns a linear congruential generator. Its argument is the exclusive upper bound of the generated number.
fn generator(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    }
}

#[test]
fn constraints_of_scalar_values_match_the_validator() {
    let compiler = compiler();
    let check = |schema: Value, accepted: &[&str], rejected: &[&str]| {
        check(&compiler, &schema, accepted, rejected)
    };
    check(json!({"type": "null"}), &["null"], &["true", "0", "nul"]);
    check(
        json!({"type": "boolean"}),
        &["true", "false"],
        &["null", "1"],
    );
    check(json!({"const": true}), &["true"], &["false"]);
    check(
        json!({"type": "integer"}),
        &["0", "-17", "123456"],
        &["1.5", "01", "\"1\"", "-"],
    );
    check(
        json!({"type": "integer", "minimum": 3, "maximum": 12}),
        &["3", "12"],
        &["2", "13", "-3"],
    );
    check(
        json!({"type": "integer", "exclusiveMinimum": -2, "exclusiveMaximum": 2}),
        &["-1", "1"],
        &["-2", "2"],
    );
    check(
        json!({"type": "integer", "multipleOf": 5}),
        &["0", "15", "-20"],
        &["7", "51"],
    );
    check(
        json!({"type": "number", "multipleOf": 0.25}),
        &["0.50", "-1.25", "3.00", "0"],
        &["0.3", "1.1"],
    );
    check(
        json!({"type": "integer", "allOf": [{"multipleOf": 4}, {"multipleOf": 6}]}),
        &["12", "0"],
        &["4", "6"],
    );
    check(
        json!({"type": "number"}),
        &["0", "1.5", "-2e10", "1E-3"],
        &["+1", ".5", "1.", "NaN"],
    );
    check(
        json!({"type": "number", "minimum": 0.5, "maximum": 2}),
        &["0.5", "1.75", "2"],
        &["0.4", "2.1"],
    );
    check(
        json!({"type": "number", "exclusiveMinimum": 0}),
        &["0.1", "7"],
        &["0", "-1"],
    );
    check(
        json!({"type": "string"}),
        &["\"\"", "\"é日本\"", r#""\"\\\n\u0007""#],
        &["\"a", "a", "\"a\nb\""],
    );
    check(
        json!({"type": "string", "minLength": 2, "maxLength": 3}),
        &["\"ab\"", "\"日本語\""],
        &["\"a\"", "\"abcd\""],
    );
    check(
        json!({"type": "string", "pattern": "^[a-c]+$"}),
        &["\"abc\""],
        &["\"abd\"", "\"\""],
    );
    check(
        json!({"type": "string", "pattern": "b"}),
        &["\"abc\"", "\"b\""],
        &["\"ac\""],
    );
    check(
        json!({"type": "string", "pattern": "^\\d{3}-\\d{4}$"}),
        &["\"123-4567\""],
        &["\"1234567\""],
    );
    check(
        json!({"pattern": "^a$"}),
        &["\"a\"", "12", "null"],
        &["\"b\""],
    );
    check(
        json!({"type": "string", "pattern": "^a", "minLength": 3}),
        &["\"abc\""],
        &["\"ab\"", "\"bcd\""],
    );
    check(
        json!({"enum": ["red", "green", 3, null]}),
        &["\"red\"", "3", "null"],
        &["\"blue\"", "4"],
    );
    check(
        json!({"enum": ["a", "ab", "abc"]}),
        &["\"a\"", "\"ab\"", "\"abc\""],
        &["\"abcd\"", "\"b\""],
    );
    check(
        json!({"const": {"a": [1, "x"]}}),
        &[r#"{"a":[1,"x"]}"#],
        &[r#"{"a":[1]}"#, "{}"],
    );
    check(
        json!({"type": ["string", "null"]}),
        &["\"a\"", "null"],
        &["1", "true"],
    );
    check(
        json!({"type": ["integer", "string"], "minimum": 5, "maxLength": 1}),
        &["5", "\"a\""],
        &["4", "\"ab\""],
    );
    check(json!(true), &["1", "{\"a\":[null]}"], &["", "{"]);
    check(json!({}), &["1", "[{}]"], &["]"]);
}

#[test]
fn constraints_of_formats_match_the_validator() {
    let compiler = compiler();
    let check = |format: &str, accepted: &[&str], rejected: &[&str]| {
        let quoted = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| format!("{text:?}"))
                .collect::<Vec<_>>()
        };
        let (accepted, rejected) = (quoted(accepted), quoted(rejected));
        let accepted: Vec<&str> = accepted.iter().map(String::as_str).collect();
        let rejected: Vec<&str> = rejected.iter().map(String::as_str).collect();
        check(
            &compiler,
            &json!({"type": "string", "format": format}),
            &accepted,
            &rejected,
        );
    };
    check(
        "date",
        &["2026-11-24", "2024-02-29", "2000-02-29", "1999-02-28"],
        &[
            "2023-02-29",
            "1900-02-29",
            "2026-13-01",
            "2026-11-31",
            "24.11.2026",
        ],
    );
    check(
        "time",
        &["12:00:00Z", "23:59:59.5+01:00"],
        &["25:00:00Z", "12:00", "12:00:60Z"],
    );
    check(
        "date-time",
        &["2026-11-24T12:00:00Z", "2024-02-29t23:59:59.123-08:00"],
        &["2026-11-24", "2026-11-24 12:00", "2023-02-29T12:00:00Z"],
    );
    check("duration", &["P1DT2H", "P3W"], &["1D", "P"]);
    check("email", &["a.b@example.org"], &["a.b", "@example.org"]);
    check(
        "hostname",
        &["example.org", "a", "a-b.c1"],
        &["-a.org", "a..b"],
    );
    check("ipv4", &["127.0.0.1"], &["256.0.0.1", "1.2.3"]);
    check("ipv6", &["::1", "2001:db8::ff"], &["12345::", "1:2"]);
    check(
        "uuid",
        &["123e4567-e89b-12d3-a456-426614174000"],
        &["123e4567"],
    );
    check("uri", &["https://example.org/a?b#c"], &["example", "://a"]);
}

#[test]
fn texts_accepted_for_a_format_are_valid() {
    let compiler = compiler();
    for format in schema::FORMATS {
        let schema = json!({"type": "string", "format": format});
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .unwrap();
        let source = strict_source(&schema);
        let mut random = generator(7);
        let mut complete = 0;
        let mut invalid = Vec::new();
        for _ in 0..400 {
            let constraint = compiler.compile(&source, Tokenization::Any).unwrap();
            let Some(text) = random_text(constraint, &mut random) else {
                continue;
            };
            let value: Value = serde_json::from_str(&text).unwrap();
            complete += 1;
            if !validator.is_valid(&value) {
                invalid.push(text);
            }
        }
        assert!(complete > 150, "{format}: {complete}");
        assert!(invalid.is_empty(), "{format}: {invalid:?}");
    }
}

#[test]
fn constraints_of_arrays_and_objects_match_the_validator() {
    let compiler = compiler();
    let check = |schema: Value, accepted: &[&str], rejected: &[&str]| {
        check(&compiler, &schema, accepted, rejected)
    };
    check(
        json!({"type": "array"}),
        &["[]", "[1, \"a\", null]"],
        &["[1,]", "{}"],
    );
    check(
        json!({"type": "array", "items": {"type": "integer"}}),
        &["[]", "[1,2]"],
        &["[1,\"a\"]"],
    );
    check(
        json!({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}),
        &["[true]", "[true,false]"],
        &["[]", "[true,true,true]"],
    );
    check(
        json!({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": false, "minItems": 2}),
        &["[1,\"a\"]"],
        &["[1]", "[1,\"a\",2]", "[\"a\",1]"],
    );
    check(
        json!({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}}),
        &["[]", "[1]", "[1,2,2]"],
        &["[2]", "[1,1]"],
    );
    check(
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"const": 1}], "additionalItems": {"const": 2}}),
        &["[1,2]"],
        &["[1,1]"],
    );
    check(
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": {"const": 1}, "additionalItems": false}),
        &["[1,1]"],
        &["[2]"],
    );
    check(
        json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": false}),
        &["[1,1]"],
        &["[null]"],
    );
    check(
        json!({"type": "object"}),
        &["{}", r#"{"a": 1, "b": {"c": []}}"#],
        &["[]", r#"{"a"}"#, r#"{"a":1,}"#],
    );
    check(
        json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"], "additionalProperties": false}),
        &[
            r#"{"a":1}"#,
            r#"{"a":1,"b":"x"}"#,
            "{\"a\": 1,\n  \"b\": \"x\"}",
        ],
        &["{}", r#"{"b":"x"}"#, r#"{"a":"x"}"#, r#"{"a":1,"c":2}"#],
    );
    check(
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": true}),
        &["{}", r#"{"a":1}"#, r#"{"a":1,"z":null}"#, r#"{"z":null}"#],
        &[r#"{"a":null}"#],
    );
    check(
        json!({"type": "object", "properties": {"a": true}, "additionalProperties": {"type": "integer"}}),
        &[r#"{"a":"x","b":1}"#],
        &[r#"{"a":"x","b":"y"}"#],
    );
    check(
        json!({"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": false}),
        &["{}", r#"{"x1":1,"xy":2}"#],
        &[r#"{"x1":"a"}"#, r#"{"y":1}"#],
    );
    check(
        json!({"type": "object", "properties": {"xa": {"minimum": 5}}, "patternProperties": {"^x": {"type": "integer"}}}),
        &[r#"{"xa":7,"xb":1}"#],
        &[r#"{"xa":1}"#, r#"{"xb":"c"}"#],
    );
    check(
        json!({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a", "b"]}),
        &[r#"{"a":1,"b":2}"#],
        &[r#"{"a":1}"#],
    );
    check(
        json!({"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "null"}}),
        &[r#"{"a":null}"#, r#"{"a":null,"b":null}"#],
        &["{}", r#"{"a":null,"b":null,"c":null}"#],
    );
    check(
        json!({"type": "object", "properties": {"a": true, "b": true}, "required": ["a", "b"], "maxProperties": 2}),
        &[r#"{"a":1,"b":2}"#],
        &[r#"{"a":1,"b":2,"c":3}"#],
    );
    check(
        json!({"type": "object", "properties": {"a/b": {"type": "integer"}, "": {"type": "null"}, "\"": {"const": 0}}, "additionalProperties": false}),
        &[r#"{"a/b":1,"":null,"\"":0}"#],
        &[r#"{"a/b":null}"#],
    );
    check(
        json!({"type": "object", "properties": {"a": false, "b": {"const": 1}}}),
        &[r#"{"b":1}"#],
        &[r#"{"a":1}"#],
    );
    check(json!({"required": ["a"]}), &["1", r#"{"a":1}"#], &["{}"]);
    check(
        json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "array", "items": {"type": "object", "properties": {"c": {"enum": [1, 2]}}, "required": ["c"]}}}, "required": ["b"]}}, "required": ["a"]}),
        &[r#"{"a":{"b":[{"c":1},{"c":2}]}}"#],
        &[r#"{"a":{"b":[{}]}}"#, r#"{"a":{}}"#],
    );
}

#[test]
fn constraints_of_combined_schemas_match_the_validator() {
    let compiler = compiler();
    let check = |schema: Value, accepted: &[&str], rejected: &[&str]| {
        check(&compiler, &schema, accepted, rejected)
    };
    check(
        json!({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}),
        &["1", "\"a\""],
        &["\"ab\"", "null"],
    );
    check(
        json!({"anyOf": [{"minimum": 5}, {"type": "string"}], "type": ["integer", "string"]}),
        &["5", "\"a\""],
        &["4", "null"],
    );
    check(
        json!({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}),
        &["3", "5"],
        &["2", "6", "\"a\""],
    );
    check(
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "string"}}, "required": ["b"]}]}),
        &[r#"{"a":1,"b":"x"}"#],
        &[r#"{"a":1}"#, r#"{"b":"x"}"#],
    );
    check(
        json!({"$ref": "#/$defs/p", "$defs": {"p": {"type": "integer", "minimum": 1}}}),
        &["1"],
        &["0"],
    );
    check(
        json!({"$ref": "#/$defs/p", "maximum": 3, "$defs": {"p": {"type": "integer", "minimum": 1}}}),
        &["1", "3"],
        &["0", "4"],
    );
    check(
        json!({"$ref": "#/definitions/a~1b%20c", "definitions": {"a/b c": {"const": 7}}}),
        &["7"],
        &["8"],
    );
    check(
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/p", "minimum": 9, "definitions": {"p": {"type": "integer", "maximum": 3}}}),
        &["1"],
        &["4"],
    );
    check(
        json!({"type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["v", "next"], "additionalProperties": false}),
        &[
            r#"{"v":1,"next":null}"#,
            r#"{"v":1,"next":{"v":2,"next":null}}"#,
        ],
        &[r#"{"v":1,"next":{}}"#, r#"{"v":1}"#],
    );
    check(
        json!({"$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "$ref": "#/$defs/tree"}),
        &["[]", "[[],[[]]]"],
        &["[1]", "[[]"],
    );
    check(
        json!({"properties": {"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}}, "type": "object", "required": ["a", "b"]}),
        &[r#"{"a":1,"b":2}"#],
        &[r#"{"a":1,"b":"c"}"#],
    );
    check(
        json!({"oneOf": [{"type": "integer"}, {"type": "string"}]}),
        &["1", "\"a\""],
        &["null", "1.5"],
    );
    check(
        json!({"oneOf": [{"const": "a"}, {"enum": ["b", "c"]}, {"type": "array"}]}),
        &["\"a\"", "\"c\"", "[]"],
        &["\"d\""],
    );
    check(
        json!({"oneOf": [{"type": "number", "maximum": 1}, {"type": "number", "exclusiveMinimum": 1}]}),
        &["1", "1.5"],
        &["\"a\""],
    );
    check(
        json!({"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], "discriminator": {"propertyName": "kind"}, "$defs": {"cat": {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind", "lives"]}, "dog": {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]}}}),
        &[r#"{"kind":"cat","lives":9}"#, r#"{"kind":"dog"}"#],
        &[r#"{"kind":"cat"}"#, r#"{"kind":"cow"}"#],
    );
    check(
        json!({"oneOf": [{"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": false}, {"type": "object", "properties": {"b": {}}, "required": ["b"], "additionalProperties": false}]}),
        &[r#"{"a":1}"#, r#"{"b":1}"#],
        &["{}", r#"{"a":1,"b":1}"#],
    );
    check(
        json!({"oneOf": [{"anyOf": [{"type": "null"}, {"type": "boolean"}]}, {"allOf": [{"type": "array"}, {"maxItems": 1}]}]}),
        &["null", "[1]"],
        &["[1,2]", "3"],
    );
    check(
        json!({"title": "t", "description": "d", "default": 1, "examples": [1], "deprecated": true, "readOnly": false, "$comment": "c", "x-order": 3, "type": "integer"}),
        &["1"],
        &["\"a\""],
    );
}
