//! Tests that constraints that cannot be enforced are dropped and reported, and that the other constraints are still
//! enforced. Also tests constraints that look unenforceable but are translated, and keywords that are annotations.

use super::*;

/// Returns the schema as a grammar source that is not strict.
fn relaxed_source(schema: &Value) -> GrammarSource {
    GrammarSource::JsonSchema {
        schema: schema.clone(),
        strict: false,
    }
}

/// Checks that the schema is relaxed at `expected_pointers`, and accepts and rejects these texts.
fn check_schema(
    compiler: &GrammarCompiler,
    source: &GrammarSource,
    expected_pointers: &[&str],
    accepted: &[&str],
    rejected: &[&str],
) {
    let GrammarSource::JsonSchema { schema, strict } = source else {
        panic!("expected a JSON Schema")
    };
    let constraint = compiler.compile(source, Tokenization::Any);
    let constraint =
        constraint.unwrap_or_else(|error| panic!("{schema} (strict: {strict}): {error}"));
    let relaxations = constraint.relaxations().iter();
    let pointers: Vec<&str> = relaxations.map(|relaxation| &*relaxation.pointer).collect();
    assert_eq!(pointers, expected_pointers, "{schema}");
    for (texts, expected) in [(accepted, true), (rejected, false)] {
        for text in texts {
            for tokens in [bytes(text), long_tokens(text)] {
                let accepted = accepts(compiler, source, &tokens);
                assert_eq!(accepted, expected, "{schema}: {text}");
            }
        }
    }
}

#[test]
fn unenforceable_constraints_are_dropped_and_reported() {
    let compiler = compiler();
    let check = |schema: Value, pointers: &[&str], accepted: &[&str], rejected: &[&str]| {
        check_schema(
            &compiler,
            &relaxed_source(&schema),
            pointers,
            accepted,
            rejected,
        );
    };
    check(
        json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": true}),
        &["/uniqueItems"],
        &["[1, 1]", "[]"],
        &["[null]"],
    );
    check(
        json!({"type": "array", "contains": {"const": 1}, "maxContains": 2}),
        &["/contains"],
        &["[2]", "[1, 1, 1]"],
        &["[]"],
    );
    check(
        json!({"type": "object", "propertyNames": {"minLength": 2}, "additionalProperties": {"type": "null"}}),
        &["/propertyNames"],
        &[r#"{"a": null}"#],
        &[r#"{"aa": 1}"#],
    );
    check(
        json!({"properties": {"a": {"type": "integer", "not": {"const": 1}}}}),
        &["/properties/a/not"],
        &[r#"{"a": 1}"#],
        &[r#"{"a": "1"}"#],
    );
    check(
        json!({"type": "object", "properties": {"k": {"type": "string"}}, "if": {"required": ["k"]}, "then": {"required": ["l"]}}),
        &["/if"],
        &[r#"{"k": "a"}"#, r#"{"k": "a", "l": 1}"#],
        &[r#"{"k": 1}"#],
    );
    check(
        json!({"type": "object", "dependentRequired": {"a": ["b"]}, "dependentSchemas": {"a": {"required": ["c"]}}, "dependencies": {"a": ["d"]}}),
        &["/dependentRequired", "/dependentSchemas", "/dependencies"],
        &[r#"{"a": 1}"#],
        &["[]"],
    );
    check(
        json!({"allOf": [{"properties": {"a": {"type": "null"}}}], "unevaluatedProperties": false, "type": "object"}),
        &["/unevaluatedProperties"],
        &[r#"{"a": null, "b": 1}"#],
        &[r#"{"a": 1}"#],
    );
    check(
        json!({"type": "array", "prefixItems": [{"const": 1}], "unevaluatedItems": false}),
        &["/unevaluatedItems"],
        &["[1, 2]"],
        &["[2]"],
    );
    check(
        json!({"oneOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}]}),
        &["/oneOf"],
        &[r#"{"a": 1}"#, r#"{"b": 1}"#],
        &["{}"],
    );
    check(
        json!({"type": "string", "pattern": "^(?!x)[a-c]$", "maxLength": 2}),
        &["/pattern"],
        &["\"xx\""],
        &["\"xxx\"", "1"],
    );
    check(
        json!({"items": {"type": "string", "pattern": "^a\\b"}, "type": "array"}),
        &["/items/pattern"],
        &["[\"b\"]"],
        &["[1]"],
    );
    check(
        json!({"type": "string", "pattern": "^(a)\\1$", "format": "ipv4"}),
        &["/pattern"],
        &["\"127.0.0.1\""],
        &["\"aa\""],
    );
    check(
        json!({"properties": {"a": {"$ref": "https://example.org/a.json"}, "b": {"$ref": "#/nowhere"}, "c": {"type": "null"}}, "required": ["c"]}),
        &["/properties/a/$ref", "/properties/b/$ref"],
        &[r#"{"a": 1, "b": [], "c": null}"#],
        &[r#"{"c": 1}"#],
    );
    check(
        json!({"type": "object", "patternProperties": {"a": {"type": "null"}, "b": {"type": "boolean"}}, "additionalProperties": false}),
        &["/patternProperties"],
        &[r#"{"x": 1}"#],
        &["[]"],
    );
    check(
        json!({"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 2}),
        &["/minProperties"],
        &[r#"{"a": 1}"#],
        &[r#"{"c": 1}"#],
    );
    check(
        json!({"type": "integer", "multipleOf": 70_000}),
        &["/multipleOf"],
        &["1"],
        &["0.5"],
    );
    check(
        json!({"type": "integer", "multipleOf": 20_011, "minimum": 0, "maximum": 1_000_000_000}),
        &["/multipleOf"],
        &["7"],
        &["-1"],
    );
    check(
        json!({"type": "number", "allOf": [{"multipleOf": 0.001}, {"multipleOf": 1000}]}),
        &["/allOf/1/multipleOf"],
        &["1.001"],
        &["1.0001"],
    );
    check(
        json!({"type": "object", "properties": {"a": {"type": "string", "minLength": 3, "maxLength": 2}}, "required": ["a"]}),
        &["/properties/a/minLength"],
        &[r#"{"a": "ab"}"#],
        &[r#"{"a": "abc"}"#],
    );
    check(
        json!({"properties": {"a": {"type": "any", "required": true}, "b": {"type": "null", "required": true}}}),
        &[
            "/properties/a/type",
            "/properties/a/required",
            "/properties/b/required",
        ],
        &[r#"{"a": 1, "b": null}"#],
        &[r#"{"b": 1}"#],
    );
    let five: Vec<Value> = ["a", "b", "c", "d", "e"]
        .map(|pattern| json!({"pattern": pattern}))
        .into();
    check(
        json!({"items": {"type": "string", "maxLength": 1, "allOf": five}, "type": "array"}),
        &["/items/allOf"],
        &["[\"x\"]"],
        &["[\"xx\"]"],
    );
}

/// Tests annotations, and constraints that are translated to other keywords, in strict schemas as well.
#[test]
fn annotations_and_translated_constraints_are_not_reported() {
    let compiler = compiler();
    let check = |schema: Value, accepted: &[&str], rejected: &[&str]| {
        check_schema(&compiler, &relaxed_source(&schema), &[], accepted, rejected);
        check_schema(&compiler, &strict_source(&schema), &[], accepted, rejected);
    };
    check(
        json!({"anyOf": [{"not": {}}, {"type": "number"}]}),
        &["1"],
        &["\"a\"", "null"],
    );
    check(
        json!({"type": "object", "properties": {"a": {"not": {}}, "b": {"type": "null"}}}),
        &[r#"{"b": null}"#],
        &[r#"{"a": null}"#],
    );
    check(
        json!({"type": "object", "propertyNames": {"type": "string", "title": "t"}, "not": false}),
        &[r#"{"a": 1}"#],
        &["1"],
    );
    check(
        json!({"type": "object", "propertyNames": {"type": "string", "enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}, "required": ["a"]}),
        &[r#"{"a": 1}"#, r#"{"a": 1, "b": 2}"#],
        &["{}", r#"{"a": 1, "c": 2}"#, r#"{"a": "x"}"#],
    );
    check(
        json!({"type": "object", "propertyNames": {"$ref": "#/$defs/n"}, "additionalProperties": {"type": "null"}, "$defs": {"n": {"enum": ["a"]}}}),
        &[r#"{"a": null}"#],
        &[r#"{"b": null}"#],
    );
    check(
        json!({"type": "object", "propertyNames": {"pattern": "^k[0-9]$"}, "additionalProperties": {"type": "null"}}),
        &["{}", r#"{"k1": null}"#],
        &[r#"{"k": null}"#, r#"{"k1": 1}"#],
    );
    check(
        json!({"type": "array", "uniqueItems": false, "contains": {}, "maxContains": 2}),
        &["[1]", "[1, 1]"],
        &["[]", "[1, 1, 1]"],
    );
    check(
        json!({"type": "array", "uniqueItems": true, "maxItems": 1, "contains": {"const": 1}, "minContains": 0}),
        &["[]", "[2]"],
        &["[1, 2]"],
    );
    check(
        json!({"type": "object", "if": {"required": ["a"]}, "dependentRequired": {}, "unevaluatedProperties": true}),
        &["{}", r#"{"a": 1}"#],
        &["[]"],
    );
    check(
        json!({"type": "object", "properties": {"a": {"type": "null"}}, "unevaluatedProperties": {"type": "integer"}}),
        &[r#"{"a": null, "b": 1}"#],
        &[r#"{"b": null}"#],
    );
    check(
        json!({"type": "string", "nullable": true, "example": "a", "markdownDescription": "m", "x-order": 1, "errorMessage": {}, "enumNames": [], "unheardOf": [1]}),
        &["null", "\"a\""],
        &["1"],
    );
    for format in [
        "uint32",
        "int64",
        "float",
        "double",
        "byte",
        "binary",
        "password",
        "json-string",
        "path",
        "file-path",
        "base64",
        "decimal",
    ] {
        check(
            json!({"type": ["string", "number"], "format": format, "pattern": "^[ab]+$"}),
            &["\"ab\"", "1"],
            &["\"c\"", "null"],
        );
    }
    check(
        json!({"$schema": "http://json-schema.org/draft-04/schema#", "id": "#a", "type": "integer", "minimum": 0, "exclusiveMinimum": true, "maximum": 5, "exclusiveMaximum": false}),
        &["1", "5"],
        &["0", "6"],
    );
    check(
        json!({"$schema": "https://example.org/own", "type": "array", "items": [{"type": "integer"}], "additionalItems": false}),
        &["[]", "[1]"],
        &["[\"a\"]", "[1, 2]"],
    );
    check(
        json!({"type": "string", "enum": null, "pattern": null, "description": null, "minLength": null, "title": 5}),
        &["\"\""],
        &["1"],
    );
    check(
        json!({"$id": "https://example.org/s", "properties": {"a": {"$ref": "#named"}, "b": {"$ref": "https://example.org/s#/$defs/n"}}, "$defs": {"n": {"$anchor": "named", "type": "null"}}}),
        &[r#"{"a": null, "b": null}"#],
        &[r#"{"a": 1}"#, r#"{"b": 1}"#],
    );
}

#[test]
fn an_object_with_properties_is_closed_unless_it_is_combined() {
    let compiler = compiler();
    let check = |schema: Value, accepted: &[&str], rejected: &[&str]| {
        check_schema(&compiler, &relaxed_source(&schema), &[], accepted, rejected);
    };
    let nil = json!({"type": "null"});
    let a = json!({"type": "object", "properties": {"a": nil}});
    let b = json!({"type": "object", "properties": {"b": nil}});
    let (own, both) = (r#"{"a": null}"#, r#"{"a": null, "b": null}"#);
    check(a.clone(), &["{}", own], &[both]);
    check(
        json!({"type": "array", "items": a}),
        &["[{\"a\": null}]"],
        &["[{\"b\": null}]"],
    );
    check(
        json!({"properties": {"c": a}, "required": ["c"]}),
        &[r#"{"c": {"a": null}}"#],
        &[r#"{"c": {"b": null}}"#],
    );
    check(json!({"anyOf": [a, nil]}), &["null", own], &[both]);
    check(
        json!({"$ref": "#/$defs/a", "description": "x", "$defs": {"a": a}}),
        &[own],
        &[both],
    );
    check(
        json!({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": a}}),
        &[own],
        &[both],
    );
    // Objects that also accept additional properties.
    check(
        json!({"allOf": [a, b]}),
        &[own, both, r#"{"a": null, "b": null, "c": 1}"#],
        &[r#"{"a": 1}"#],
    );
    check(
        json!({"$ref": "#/$defs/a", "properties": {"b": nil}, "$defs": {"a": a}}),
        &[both],
        &[r#"{"a": null, "b": 1}"#],
    );
    check(
        json!({"properties": {"b": nil}, "anyOf": [a, {"required": ["b"]}]}),
        &[own, r#"{"b": null, "c": 1}"#],
        &[r#"{"b": 1}"#],
    );
    check(
        json!({"type": "object", "properties": {}}),
        &["{}", own],
        &["[]"],
    );
    check(
        json!({"type": "object", "properties": {"a": nil}, "additionalProperties": true}),
        &[own, both],
        &[r#"{"a": 1}"#],
    );
    check(
        json!({"type": "object", "properties": {"a": nil}, "patternProperties": {"^b": nil}}),
        &[own, both],
        &[r#"{"b": 1}"#],
    );
    check(
        json!({"type": "object", "properties": {"a": nil}, "required": ["b"]}),
        &[both],
        &[own],
    );
}

#[test]
fn bounds_of_64_bit_integers_are_exact() {
    let compiler = compiler();
    let check = |schema: Value, accepted: &[&str], rejected: &[&str]| {
        check_schema(&compiler, &strict_source(&schema), &[], accepted, rejected);
    };
    check(
        json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX}),
        &[
            "0",
            "-9223372036854775808",
            "9223372036854775807",
            "-9223372036854774785",
        ],
        &[
            "-9223372036854775809",
            "9223372036854775808",
            "99999999999999999999",
        ],
    );
    check(
        json!({"type": "integer", "minimum": 0, "maximum": u64::MAX}),
        &["0", "18446744073709551615", "9223372036854775808"],
        &["-1", "18446744073709551616"],
    );
    check(
        json!({"type": "integer", "minimum": -9_007_199_254_740_991_i64, "maximum": 9_007_199_254_740_991_i64}),
        &["-9007199254740991", "9007199254740991"],
        &["-9007199254740992", "9007199254740992"],
    );
    check(
        json!({"type": "integer", "exclusiveMinimum": -1e19, "exclusiveMaximum": 10}),
        &["9", "-9223372036854775808"],
        &["10"],
    );
    check(
        json!({"enum": [9_223_372_036_854_774_784_i64, 9_007_199_254_740_992_i64]}),
        &["9223372036854774784", "9007199254740992"],
        &["9223372036854774785", "9007199254740993"],
    );
}

#[test]
fn numbers_without_bounds_have_a_digit_limit() {
    let compiler = compiler();
    let check = |schema: Value, accepted: &[&str], rejected: &[&str]| {
        check_schema(&compiler, &relaxed_source(&schema), &[], accepted, rejected);
    };
    let sevens = |count: usize| "7".repeat(count);
    let (long, too_long) = (sevens(19), sevens(21));
    check(
        json!({"type": "integer"}),
        &[&long, &format!("-{}", sevens(18))],
        &[&too_long, &format!("-{too_long}")],
    );
    let fraction = |count| format!("0.{}", sevens(count));
    for schema in [
        json!({"type": "number"}),
        json!({"type": "number", "minimum": 0}),
    ] {
        check(schema, &[&fraction(20)], &[&fraction(21)]);
    }
    check(
        json!({"type": "number"}),
        &["1e288", "-2.5E-10"],
        &["1e289", "1e0000000"],
    );
    check(
        json!({"type": "integer", "multipleOf": 7}),
        &["777777777777777", "-7"],
        &[&long],
    );
    check(
        json!({}),
        &[&format!("{{\"{too_long}\": [{long}, \"{too_long}\"]}}")],
        &[&format!("[{too_long}]")],
    );
    // The digit limit does not apply to constants.
    check(
        json!({"const": 1e25}),
        &["10000000000000000000000000"],
        &["1000000000000000000000000"],
    );
}

#[test]
fn multiples_of_separate_properties_are_independent() {
    let compiler = compiler();
    let schema = json!({
        "type": "object",
        "properties": {
            "p": {"type": "number", "multipleOf": 0.01},
            "q": {"type": "integer", "multipleOf": 1000},
        },
        "required": ["p", "q"],
    });
    check_schema(
        &compiler,
        &strict_source(&schema),
        &[],
        &[r#"{"p": 1.25, "q": 3000}"#],
        &[r#"{"p": 1.255, "q": 3000}"#, r#"{"p": 1.25, "q": 3001}"#],
    );
}
