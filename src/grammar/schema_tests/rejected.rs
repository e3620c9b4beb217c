//! Tests strict schemas that cannot be enforced, and the JSON pointers in the errors.

use super::*;

#[track_caller]
fn check_rejected(compiler: &GrammarCompiler, schema: &Value, pointer: &str, problem: &str) {
    let source = strict_source(schema);
    match compiler.compile(&source, Tokenization::Any).err() {
        Some(GrammarError::Schema {
            pointer: actual_pointer,
            problem: actual_problem,
        }) => {
            assert_eq!(actual_pointer, pointer, "{schema}: {actual_problem}");
            assert!(
                actual_problem.contains(problem),
                "{schema}: {actual_problem}"
            );
        }
        other => panic!("{schema}: {other:?}"),
    }
}

#[test]
fn unenforceable_constraints_are_rejected_with_their_pointer() {
    let compiler = compiler();
    let check = |schema: Value, pointer: &str, problem: &str| {
        check_rejected(&compiler, &schema, pointer, problem)
    };
    for (keyword, value) in [
        ("uniqueItems", json!(true)),
        ("contains", json!({"const": 1})),
        ("propertyNames", json!({"minLength": 2})),
        ("dependentRequired", json!({"a": ["b"]})),
        ("dependentSchemas", json!({"a": {"required": ["b"]}})),
        ("dependencies", json!({"a": ["b"]})),
        ("not", json!({"const": 1})),
        ("unevaluatedItems", json!(false)),
        ("$dynamicRef", json!("#")),
        ("$recursiveRef", json!("#")),
    ] {
        let schema =
            json!({"type": "object", "properties": {"a~/b": {"type": "array", keyword: value}}});
        check(
            schema,
            &format!("/properties/a~0~1b/{keyword}"),
            &format!("{keyword} cannot be enforced token by token"),
        );
    }
    check(
        json!({"if": {"required": ["a"]}, "then": {"required": ["b"]}}),
        "/if",
        "if cannot be enforced",
    );
    check(
        json!({"allOf": [{"required": ["a"]}], "unevaluatedProperties": false}),
        "/unevaluatedProperties",
        "unevaluatedProperties cannot be enforced",
    );
    check(
        json!({"items": {"format": "iri"}}),
        "/items/format",
        "the formats that can be enforced are date-time",
    );
    check(json!({"type": "text"}), "/type", "\"text\" is not a type");
    check(
        json!({"properties": {"a": {"minimum": "1"}}}),
        "/properties/a/minimum",
        "number",
    );
    check(
        json!({"anyOf": [{"type": "string", "pattern": "("}]}),
        "/anyOf/0/pattern",
        "this pattern cannot be enforced",
    );
    check(
        json!({"properties": {"a": {"type": "string", "pattern": "a(?=b)"}}}),
        "/properties/a/pattern",
        "look-around",
    );
    check(
        json!({"properties": {"a": {"type": "string", "pattern": "a\\bb"}}}),
        "/properties/a/pattern",
        "pattern cannot be enforced",
    );
    check(
        json!({"anyOf": [{"$ref": "http://example.org/a"}]}),
        "/anyOf/0/$ref",
        "only references within",
    );
    check(
        json!({"anyOf": [{"$ref": "#name"}]}),
        "/anyOf/0/$ref",
        "only references within",
    );
    check(
        json!({"$ref": "#/$defs/a"}),
        "/$ref",
        "schema not found: #/$defs/a",
    );
    check(
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"not": {}}}}),
        "/$defs/a",
        "no value matches",
    );
    check(
        json!({"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 2}),
        "/minProperties",
        "minProperties cannot be enforced",
    );
    check(
        json!({"items": {"patternProperties": {"a": {}, "b": {}}}}),
        "/items/patternProperties",
        "patternProperties cannot be enforced",
    );
    check(
        json!({"type": "string", "minLength": 3, "maxLength": 2}),
        "",
        "no value matches",
    );
    check(
        json!({"type": "object", "required": ["a"], "properties": {"a": false}}),
        "",
        "no value matches",
    );
    check(
        json!({"allOf": [{"type": "string"}, {"type": "integer"}]}),
        "",
        "no value matches",
    );
    check(json!(false), "", "no value matches");
    check(json!({"$ref": "#"}), "", "");
    let five: Vec<Value> = ["a", "b", "c", "d", "e"]
        .map(|pattern| json!({"pattern": pattern}))
        .into();
    check(
        json!({"items": {"type": "string", "allOf": five}}),
        "/items",
        "more than 4 patterns",
    );
    check(
        json!({"$ref": "#/$defs/d", "pattern": "a", "format": "uri", "$defs": {"d": {"anyOf": [{"pattern": "b", "format": "email"}, {"allOf": [{"pattern": "c"}, {"pattern": "d"}, {"$ref": "#/$defs/e"}]}]}, "e": {"pattern": "e", "minLength": 1}}}),
        "",
        "more than 4 patterns",
    );
    let optional: Value = (0..201)
        .map(|number| (format!("p{number}"), json!({})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    check(
        json!({"type": "object", "properties": optional}),
        "/properties",
        "more than 200 properties that are not required",
    );
    for multiples in [
        vec![70_000.0],
        vec![0.001, 1000.0],
        vec![7919.0, 104_729.0],
        vec![1e-300],
        vec![3.0, 1e-22],
        vec![0.1, 0.7, 1e17],
    ] {
        let parts: Vec<Value> = multiples
            .iter()
            .map(|multiple| json!({"multipleOf": multiple}))
            .collect();
        let last = format!("/allOf/{}/multipleOf", parts.len() - 1);
        check(
            json!({"type": "integer", "allOf": parts}),
            &last,
            "the common multiple",
        );
    }
    for (left, right) in [
        (json!({"type": "integer"}), json!({"type": "number"})),
        (json!({"const": 1}), json!({"enum": [2, 1.0]})),
        (
            json!({"type": "string", "pattern": "a"}),
            json!({"type": "string", "pattern": "b"}),
        ),
        (
            json!({"type": "object", "properties": {"a": {"const": 1}}}),
            json!({"type": "object", "properties": {"a": {"const": 2}}}),
        ),
        (
            json!({"required": ["a"], "properties": {"a": {"const": 1}}}),
            json!({"required": ["a"], "properties": {"a": {"const": 2}}}),
        ),
        (json!({"maximum": 1}), json!({"minimum": 2})),
        (
            json!({"anyOf": [{"type": "null"}, {"type": "string"}]}),
            json!({"type": "string"}),
        ),
        (
            json!({"type": "integer", "maximum": 1}),
            json!({"type": "integer", "minimum": 1}),
        ),
    ] {
        check(
            json!({"items": {"oneOf": [left, right]}}),
            "/items/oneOf",
            "both alternative 0 and alternative 1",
        );
    }
}

#[test]
fn the_error_points_to_the_referenced_schema() {
    let compiler = compiler();
    let schema = json!({
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/list"}},
        "$defs": {"list": {"type": "array", "items": {"type": "string", "pattern": "("}}},
    });
    check_rejected(
        &compiler,
        &schema,
        "/$defs/list/items/pattern",
        "cannot be enforced",
    );
    check_rejected(
        &compiler,
        &json!({"$ref": "#/$defs/5%", "$defs": {"5%": {"pattern": "("}}}),
        "/$defs/5%/pattern",
        "cannot be enforced",
    );
    let long = json!({"const": "a".repeat(schema::MAX_SCHEMA_BYTES)});
    let error = compiler
        .compile(&strict_source(&long), Tokenization::Any)
        .err();
    assert!(matches!(error, Some(GrammarError::TooLarge(_))));
}

/// Large, deep and recursive schemas compile or fail within a few seconds; otherwise this test hangs.
#[test]
fn hostile_schemas_terminate() {
    let compiler = compiler();
    let deep = (0..100).fold(
        json!({}),
        |inner, _| json!({"items": inner, "type": "array"}),
    );
    let wide: Value = (0..2_000)
        .map(|number| (format!("p{number}"), json!({"type": "integer"})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let names: Vec<String> = (0..2_000).map(|number| format!("p{number}")).collect();
    let product = json!({"anyOf": (0..60).map(|number| json!({"required": [format!("a{number}")]})).collect::<Vec<_>>()});
    let chain: Value = (0..9_000)
        .map(|number| {
            let next = json!({"$ref": format!("#/$defs/d{}", number + 1)});
            (
                format!("d{number}"),
                json!({"type": "array", "items": next}),
            )
        })
        .chain([("d9000".to_owned(), json!({}))])
        .collect::<serde_json::Map<_, _>>()
        .into();
    let patterns: Vec<Value> = (0..500)
        .map(|number| json!({"pattern": format!("a{{{number},}}")}))
        .collect();
    let alternatives: Vec<Value> = (0..200)
        .map(|number| json!({"type": "array", "prefixItems": [{"const": number}]}))
        .collect();
    let schemas = [
        deep,
        json!({"$ref": "#/$defs/d0", "$defs": chain}),
        json!({"type": "string", "allOf": patterns}),
        json!({"oneOf": alternatives}),
        json!({"type": "object", "properties": wide}),
        json!({"type": "object", "properties": wide, "required": names}),
        json!({"type": "object", "allOf": [product, product, product, product]}),
        json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
        json!({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/a"}]}, "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}, "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}),
        json!({"type": "string", "pattern": "((((a{1000}){1000}){1000}){1000})"}),
        json!({"type": "string", "minLength": 1_000_000_000_u64}),
        json!({"type": "array", "minItems": 1_000_000_000_u64}),
        json!({"type": "array", "maxItems": 4_000_000_000_u64, "items": {"type": "null"}}),
        json!({"type": "integer", "multipleOf": 1e-300}),
        json!({"type": "number", "minimum": 1e308, "maximum": 1e308}),
        json!({"allOf": [{"multipleOf": 251, "type": "integer"}, {"multipleOf": 241}]}),
        json!({"enum": (0..20_000).map(|number| format!("value {number}")).collect::<Vec<_>>()}),
        json!({"type": "object", "patternProperties": (0..60).map(|number| (format!("^(a|b)*{number}"), json!({}))).collect::<serde_json::Map<_, _>>()}),
        json!({"x-guidance": {"lenient": true}, "not": {}}),
    ];
    let sources = schemas.iter().flat_map(|schema| {
        [false, true].map(|strict| GrammarSource::JsonSchema {
            schema: schema.clone(),
            strict,
        })
    });
    for source in sources {
        let constraint = compiler.compile(&source, Tokenization::Canonical);
        let Ok(mut constraint) = constraint else {
            continue;
        };
        let mut random = generator(1);
        for _ in 0..200 {
            let mut logits = vec![0.0; 300];
            if constraint.mask(&mut logits).is_err() {
                break;
            }
            let allowed: Vec<u32> = (0..300)
                .filter(|token| logits[*token as usize] == 0.0)
                .collect();
            let token = TokenId(allowed[random(allowed.len())]);
            if constraint.accept(token).is_err() || constraint.is_complete() {
                break;
            }
        }
    }
}
