//! Tests that a relaxed schema accepts every valid value whose properties are declared in the schema and have the same
//! order.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

static COMPILER: LazyLock<GrammarCompiler> = LazyLock::new(compiler);

/// A schema, and a value that is probably valid for the schema.
type Pair = (Value, Value);

fn scalar() -> impl Strategy<Value = Pair> {
    prop_oneof![
        Just((json!({"type": "null"}), json!(null))),
        any::<bool>().prop_map(|value| (json!({"type": "boolean"}), json!(value))),
        (-1000..1000_i64, 0..50_i64, 0..50_i64).prop_map(|(value, below, above)| {
            let schema =
                json!({"type": "integer", "minimum": value - below, "maximum": value + above});
            (schema, json!(value))
        }),
        any::<i64>().prop_map(|value| (json!({"type": "integer"}), json!(value))),
        any::<i64>().prop_map(|value| {
            (
                json!({"type": "integer", "minimum": value, "not": {"const": 0}}),
                json!(value),
            )
        }),
        (-40..40_i32, 1..4_i32).prop_map(|(value, step)| {
            let number = f64::from(value * step) / 2.0;
            let number = match number.fract() == 0.0 {
                true => json!(number as i64),
                false => json!(number),
            };
            (
                json!({"type": "number", "multipleOf": f64::from(step) / 2.0}),
                number,
            )
        }),
        "[a-c]{0,6}".prop_map(|text| (
            json!({"type": "string", "maxLength": 6, "pattern": "^[a-c]*$"}),
            json!(text)
        )),
        "[a-c]{1,3}".prop_map(|text| (json!({"type": "string", "pattern": "^(?!x)"}), json!(text))),
        "\\PC{0,4}".prop_map(|text| (json!({"enum": [1, text, null]}), json!(text))),
        "[a-c]{0,2}".prop_map(|text| (json!({"const": {"t": text}}), json!({"t": text}))),
        Just((json!({"format": "date"}), json!("2024-02-29"))),
    ]
}

fn pair() -> impl Strategy<Value = Pair> {
    scalar().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(array),
            prop::collection::vec((inner.clone(), any::<bool>(), any::<bool>()), 0..4).prop_map(object),
            (inner.clone(), inner.clone()).prop_map(|((schema, value), (other, _))| {
                (json!({"anyOf": [other, schema]}), value)
            }),
            (inner.clone(), inner.clone()).prop_map(|((schema, value), (other, _))| {
                (json!({"oneOf": [schema, other]}), value)
            }),
            inner.clone().prop_map(|(schema, value)| (json!({"allOf": [schema, {"not": {"const": "no"}}]}), value)),
            (inner.clone(), inner.clone()).prop_map(|((schema, value), (other, _))| {
                (json!({"if": other, "then": schema, "else": schema}), value)
            }),
            inner.prop_map(|(schema, value)| {
                let schema = json!({"type": "object", "additionalProperties": schema, "propertyNames": {"enum": ["k", "l"]}});
                (schema, json!({"l": value}))
            }),
        ]
    })
}

fn array(items: Vec<Pair>) -> Pair {
    let (schemas, values): (Vec<Value>, Vec<Value>) = items.into_iter().unzip();
    let schema = match values.len() {
        0 => json!({"type": "array", "maxItems": 2}),
        1 => json!({"type": "array", "contains": schemas[0], "items": schemas[0]}),
        count => {
            json!({"type": "array", "items": {"anyOf": schemas}, "minItems": count, "uniqueItems": true})
        }
    };
    (schema, values.into())
}

fn object(properties: Vec<(Pair, bool, bool)>) -> Pair {
    let (mut schemas, mut values) = (serde_json::Map::new(), serde_json::Map::new());
    let mut required = Vec::new();
    for (number, ((schema, value), is_required, is_present)) in properties.into_iter().enumerate() {
        let name = format!("p{number}");
        schemas.insert(name.clone(), schema);
        if is_required {
            required.push(name.clone());
        }
        if is_required || is_present {
            values.insert(name, value);
        }
    }
    let schema = json!({
        "type": "object", "properties": schemas, "required": required, "dependentRequired": {"p0": []},
    });
    (schema, values.into())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn relaxed_schemas_accept_valid_values((schema, value) in pair()) {
        let validator = jsonschema::validator_for(&schema).unwrap();
        prop_assume!(validator.is_valid(&value));
        let source = GrammarSource::JsonSchema { schema: schema.clone(), strict: false };
        let text = value.to_string();
        prop_assert!(accepts(&COMPILER, &source, &bytes(&text)), "{schema}: {text}");
    }
}
