//! Schemas that libraries and public servers emit (`tests/schemas`): all are accepted for the arguments of a function,
//! and what follows their grammar is valid.

use super::*;
use crate::grammar::{CallGrammar, FunctionCall, Otherwise};

const ZOO: [(&str, &str, usize); 3] = [
    ("zod", include_str!("../../../tests/schemas/zod.json"), 60),
    (
        "pydantic",
        include_str!("../../../tests/schemas/pydantic.json"),
        50,
    ),
    ("mcp", include_str!("../../../tests/schemas/mcp.json"), 30),
];

/// The schemas of a file with their names.
fn schemas(file: &str) -> Vec<(String, Value)> {
    let entries: Vec<Value> = serde_json::from_str(file).unwrap();
    let entry = |entry: Value| {
        let name = entry["name"].as_str().unwrap().to_owned();
        (name, entry["schema"].clone())
    };
    entries.into_iter().map(entry).collect()
}

/// A schema as a validator takes it: without what was relaxed or annotates, and with OpenAPI's `nullable` in its own
/// words.
fn without(schema: &Value, relaxed: &[String]) -> Value {
    let mut schema = schema.clone();
    for place in relaxed {
        let (parent, keyword) = place.rsplit_once('/').unwrap();
        let keyword = keyword.replace("~1", "/").replace("~0", "~");
        if let Some(Value::Object(keywords)) = schema.pointer_mut(parent) {
            let removed = keywords.remove(&keyword);
            match (&*keyword, removed) {
                ("oneOf", Some(alternatives)) => {
                    _ = keywords.insert("anyOf".to_owned(), alternatives)
                }
                ("properties" | "patternProperties", _) => {
                    _ = keywords.remove("additionalProperties")
                }
                _ => {}
            }
        }
    }
    nullable(&mut schema);
    schema
}

fn nullable(schema: &mut Value) {
    match schema {
        Value::Array(parts) => parts.iter_mut().for_each(nullable),
        Value::Object(fields) => {
            fields.values_mut().for_each(nullable);
            // Draft 7 lets a validator read these as constraints; here they annotate.
            fields.retain(|keyword, value| !(keyword.starts_with("content") && value.is_string()));
            // A property may be called so, too.
            if fields.get("nullable") == Some(&json!(true)) {
                fields.remove("nullable");
                *schema = json!({"anyOf": [schema, {"type": "null"}]});
            }
        }
        _ => {}
    }
}

/// Follows a constraint by bytes, those that close something more often than others, to a text that may end.
fn close(mut constraint: Constraint, random: &mut impl FnMut(usize) -> usize) -> Option<String> {
    let mut text = Vec::new();
    for _ in 0..700 {
        let mut logits = vec![0.0; 269];
        constraint.mask(&mut logits).ok()?;
        if logits[268] == 0.0 {
            return String::from_utf8(text).ok();
        }
        let allowed: Vec<usize> = (0..256).filter(|byte| logits[*byte] == 0.0).collect();
        let closing = allowed
            .iter()
            .filter(|byte| b"\"}]".contains(&(**byte as u8)));
        let closing: Vec<usize> = closing.copied().collect();
        let byte = match closing.is_empty() || random(4) == 0 {
            true => allowed[random(allowed.len())],
            false => closing[random(closing.len())],
        };
        text.push(byte as u8);
        constraint.accept(TokenId(byte as u32)).ok()?;
    }
    None
}

#[test]
fn schemas_of_libraries_and_servers_are_accepted_and_held() {
    let all = compiler();
    let mut random = generator(3);
    let mut wrong = Vec::new();
    for (file, text, least) in ZOO {
        let schemas = schemas(text);
        assert!(schemas.len() >= least, "{file}: {}", schemas.len());
        let mut complete = 0;
        for (name, schema) in &schemas {
            let source = GrammarSource::JsonSchema {
                schema: schema.clone(),
                strict: false,
            };
            let constraint = all
                .compile(&source, Cutting::Free)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let relaxed: Vec<String> = constraint
                .relaxations()
                .iter()
                .map(|relaxation| relaxation.pointer.clone())
                .collect();
            let known = without(schema, &relaxed);
            let mut options = jsonschema::options();
            if name.contains("openapi") {
                // It has exclusive bounds as this draft has them.
                options = options.with_draft(jsonschema::Draft::Draft4);
            }
            let validator = options
                .should_validate_formats(true)
                .build(&known)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            for _ in 0..2 {
                let Some(text) = close(constraint.clone(), &mut random) else {
                    continue;
                };
                let value: Value = serde_json::from_str(&text)
                    .unwrap_or_else(|error| panic!("{name}: {text}: {error}"));
                if let Err(error) = validator.validate(&value) {
                    wrong.push(format!("{name}: {relaxed:?}: {text}: {error}"));
                }
                complete += 1;
            }
        }
        assert!(
            complete > schemas.len(),
            "{file}: {complete} of {}",
            schemas.len()
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn constraints_that_are_enforced_in_other_words_are_not_reported() {
    let all = compiler();
    let (_, zod, _) = ZOO[0];
    let (_, pydantic, _) = ZOO[1];
    let named = schemas(zod).into_iter().chain(schemas(pydantic));
    let expected = [
        "zod4_records",
        "zod4_enum_records",
        "zod4_uuids",
        "zod4_never",
        "zod4_recursive",
        "zod4_discriminated",
        "zod4_big_step",
        "zod4_draft4_bounds",
        "zod3_odd",
        "zod3_enum_keys",
        "zod3_openapi_numbers",
        "bytes",
        "paths",
        "json",
        "uuids",
        "big_integers",
        "multiples",
        "discriminated",
        "recursive",
    ];
    let mut found = 0;
    for (name, schema) in named.filter(|(name, _)| expected.contains(&&**name)) {
        let constraint = all
            .compile(&strictly(&schema), Cutting::Free)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(constraint.relaxations(), [], "{name}");
        found += 1;
    }
    assert_eq!(found, expected.len());
}

#[test]
fn the_tools_of_many_servers_fit_into_one_request() {
    let (_, mcp, _) = ZOO[2];
    let function = |(name, arguments): (String, Value)| FunctionCall {
        begin: format!("<c>{name}"),
        name,
        arguments,
        strict: false,
        end: "</c>".to_owned(),
    };
    let grammar = CallGrammar {
        otherwise: Otherwise::Text,
        mark: "<c>".to_owned(),
        after_text: true,
        opening: String::new(),
        between: Some("\n".to_owned()),
        closing: String::new(),
        functions: schemas(mcp).into_iter().map(function).collect(),
    };
    let source = GrammarSource::Calls(grammar);
    let constraint = compiler().compile(&source, Cutting::Free);
    assert!(constraint.is_ok(), "{}", constraint.err().unwrap());
}
