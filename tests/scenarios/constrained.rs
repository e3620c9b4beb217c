//! Steps about texts that must follow a grammar or a schema: many of them, chosen wildly, held against the same
//! grammar by somebody else.

use cucumber::{then, when};
use futures_util::future::join_all;
use ortolan::api::types;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::servers;
use crate::world::{World, whole};

/// JSON, as in llama.cpp's `grammars/json.gbnf`, but for blanks, of which there are few.
const JSON_GRAMMAR: &str = r#"
root   ::= object
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ( string ": " value (", " string ": " value)* )? "}"
array  ::= "[" ( value (", " value)* )? "]"
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) ){0,12} "\""
number ::= "-"? ("0" | [1-9] [0-9]{0,5}) ("." [0-9]{1,3})?
"#;

/// Asks for so many continuations, as many at once as run and wait, and keeps those that are complete. `ways` are
/// what constrains a text, and the schema that it must be valid for; one after the other takes its turn.
async fn choose_wildly(world: &mut World, count: u32, ways: &[(Value, Value)]) {
    let at_once = (servers::SLOTS + servers::QUEUE) as u32;
    for first in (0..count).step_by(at_once as usize) {
        let asked = (first..count.min(first + at_once)).map(|seed| {
            let (constraint, schema) = &ways[seed as usize % ways.len()];
            let mut body = json!({
                "prompt": "A bird as JSON: ", "n_predict": 100, "temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0,
                "seed": seed,
            });
            for (name, value) in constraint.as_object().into_iter().flatten() {
                body[name] = value.clone();
            }
            let request: types::CompletionRequest = serde_json::from_value(body).unwrap();
            let world = &*world;
            async move { (schema.clone(), whole(world.client().await.completion(&request).await).await) }
        });
        for (schema, answer) in join_all(asked).await {
            assert_eq!(answer.status, 200, "{}", answer.body);
            if answer.at("stopped_eos") == &json!(true) {
                world.complete.push((schema, answer.text()));
            }
        }
    }
    for (_, schema) in ways {
        let own = world.complete.iter().filter(|(of, _)| of == schema).count();
        assert!(own > 3, "{own} are complete of {schema}");
    }
}

#[when(
    expr = "I ask for {int} continuations at a temperature of 1.5 by the grammar of JSON objects"
)]
async fn wild_objects(world: &mut World, count: u32) {
    let way = (
        json!({ "grammar": JSON_GRAMMAR }),
        json!({"type": "object"}),
    );
    choose_wildly(world, count, &[way]).await;
}

#[when(expr = "I ask for {int} continuations at a temperature of 1.5 by ten JSON schemas")]
async fn wild_values(world: &mut World, count: u32) {
    let ways = schemas()
        .into_iter()
        .map(|schema| (json!({ "json_schema": schema }), schema));
    choose_wildly(world, count, &ways.collect::<Vec<_>>()).await;
}

#[then("all that are complete are valid")]
async fn valid(world: &mut World) {
    for (schema, text) in &world.complete {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            // JSON has numbers that double precision has not: what can be held of them is that they are JSON.
            Err(error) if error.to_string().starts_with("number out of range") => {
                serde_json::from_str::<IgnoredAny>(text).unwrap();
                continue;
            }
            Err(error) => panic!("{error}: {text:?} for {schema}"),
        };
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(schema)
            .unwrap();
        if let Err(error) = validator.validate(&value) {
            panic!("{error}: {text:?} for {schema}");
        }
    }
}

/// Schemas of the kinds that people send.
fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150}, "alive": {"type": "boolean"}}, "required": ["name", "age", "alive"], "additionalProperties": false}),
        json!({"type": "array", "items": {"enum": ["red", "green", "blue", null, 7]}, "minItems": 2, "maxItems": 4}),
        json!({"type": "object", "properties": {"when": {"type": "string", "format": "date-time"}, "id": {"type": "string", "format": "uuid"}}, "required": ["when"], "additionalProperties": false}),
        json!({"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], "$defs": {
            "cat": {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["kind", "lives"], "additionalProperties": false},
            "dog": {"type": "object", "properties": {"kind": {"const": "dog"}, "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,6}$"}}, "required": ["kind", "name"], "additionalProperties": false},
        }}),
        json!({"type": "object", "properties": {"price": {"type": "number", "minimum": 0.5, "maximum": 99.5}, "tags": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 5}, "maxItems": 3}}, "required": ["price", "tags"], "additionalProperties": false}),
        json!({"type": ["string", "null"], "minLength": 3, "maxLength": 9}),
        json!({"type": "object", "patternProperties": {"^[a-c]{2}$": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 500}}, "additionalProperties": false, "minProperties": 1, "maxProperties": 2}),
        json!({"$defs": {"tree": {"type": "object", "properties": {"v": {"type": "integer", "minimum": 0, "maximum": 99}, "in": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}}, "required": ["v", "in"], "additionalProperties": false}}, "$ref": "#/$defs/tree"}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 20}}, "required": ["a"]}, {"properties": {"b": {"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "null"}]}}, "required": ["b"]}], "maxProperties": 2}),
        json!({"type": "array", "prefixItems": [{"type": "string", "format": "date"}, {"type": "number"}], "items": false, "minItems": 2}),
    ]
}

#[then(expr = "the answer's {string} is JSON that is valid for:")]
async fn is_valid_for(world: &mut World, step: &cucumber::gherkin::Step, path: String) {
    let schema: Value = serde_json::from_str(step.docstring().unwrap()).unwrap();
    let text = world.answer.at(&path).as_str().unwrap();
    let value: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    assert!(jsonschema::is_valid(&schema, &value), "{text}");
}
