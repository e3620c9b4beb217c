//! Steps about texts that must follow a grammar or a JSON schema: many sampled at a high temperature, validated with
//! the `jsonschema` crate.

use cucumber::{then, when};
use futures_util::future::join_all;
use ortolan_client::types;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::servers;
use crate::world::{World, read_response};

/// JSON objects, as in llama.cpp's `grammars/json.gbnf`, with less optional whitespace and shorter values.
const JSON_GRAMMAR: &str = r#"
root   ::= object
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ( string ": " value (", " string ": " value)* )? "}"
array  ::= "[" ( value (", " value)* )? "]"
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) ){0,12} "\""
number ::= "-"? ("0" | [1-9] [0-9]{0,5}) ("." [0-9]{1,3})?
"#;

/// Requests `count` completions, as many at once as the slots and the queue hold, and keeps the finished texts.
/// `constraints` are pairs of request fields and the schema that the text must satisfy, used in turn.
async fn sample_constrained(world: &mut World, count: u32, constraints: &[(Value, Value)]) {
    let at_once = (servers::SLOTS + servers::QUEUE_LENGTH) as u32;
    for first in (0..count).step_by(at_once as usize) {
        let requests = (first..count.min(first + at_once)).map(|seed| {
            let (fields, schema) = &constraints[seed as usize % constraints.len()];
            let mut body = json!({
                "prompt": "A bird as JSON: ", "n_predict": 100, "temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0,
                "seed": seed,
            });
            for (name, value) in fields.as_object().into_iter().flatten() {
                body[name] = value.clone();
            }
            let request: types::CompletionRequest = serde_json::from_value(body).unwrap();
            let world = &*world;
            async move { (schema.clone(), read_response(world.client().await.completion(&request).await).await) }
        });
        for (schema, response) in join_all(requests).await {
            assert_eq!(response.status, 200, "{}", response.body);
            if response.at("stopped_eos") == &json!(true) {
                world.finished_texts.push((schema, response.text()));
            }
        }
    }
    for (_, schema) in constraints {
        let texts = world.finished_texts.iter();
        let finished = texts.filter(|(own, _)| own == schema).count();
        assert!(finished > 3, "{finished} texts finished for {schema}");
    }
}

#[when(expr = "I request {int} completions at temperature 1.5 with a grammar of JSON objects")]
async fn request_json_objects(world: &mut World, count: u32) {
    let constraint = (
        json!({ "grammar": JSON_GRAMMAR }),
        json!({"type": "object"}),
    );
    sample_constrained(world, count, &[constraint]).await;
}

#[when(expr = "I request {int} completions at temperature 1.5 with ten JSON schemas")]
async fn request_schema_values(world: &mut World, count: u32) {
    let constraints = schemas()
        .into_iter()
        .map(|schema| (json!({ "json_schema": schema }), schema));
    sample_constrained(world, count, &constraints.collect::<Vec<_>>()).await;
}

#[then("all completions that end by themselves are valid")]
async fn finished_texts_are_valid(world: &mut World) {
    for (schema, text) in &world.finished_texts {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            // A JSON number may exceed the range of f64; such a text is only checked to be JSON.
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

/// Ten schemas like those that clients send.
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

#[then(expr = "the response's {string} is JSON that validates against:")]
async fn is_valid_for(world: &mut World, step: &cucumber::gherkin::Step, path: String) {
    let schema: Value = serde_json::from_str(step.docstring().unwrap()).unwrap();
    let text = world.response.at(&path).as_str().unwrap();
    let value: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    assert!(jsonschema::is_valid(&schema, &value), "{text}");
}
