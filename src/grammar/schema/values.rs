//! Keywords for the type of a value and for enumerated values: `type`, `enum`, `const`.

use serde_json::{Map, Value};

use super::super::GrammarError;
use super::{SchemaTranslator, numbers, schema_error};

const TYPES: [&str; 7] = [
    "array", "boolean", "integer", "null", "number", "object", "string",
];

impl SchemaTranslator<'_> {
    pub(super) fn types(
        &mut self,
        pointer: &str,
        value: &Value,
        output: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let names = match value {
            Value::Array(names) => names.as_slice(),
            name => std::slice::from_ref(name),
        };
        if names.iter().any(|name| name == "any") {
            return self.relax_keyword(pointer, "the type \"any\"");
        }
        let is_type = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
        if names.is_empty() || !names.iter().all(is_type) {
            let types = TYPES.join(", ");
            return Err(schema_error(
                pointer,
                format!("{value} is not a type: the types are {types}"),
            ));
        }
        output.insert("type".to_owned(), value.clone());
        Ok(())
    }

    pub(super) fn constants(
        &mut self,
        pointer: &str,
        keyword: &str,
        value: &Value,
        output: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let values = match (keyword, value) {
            ("const", value) => std::slice::from_ref(value),
            (_, Value::Array(values)) => values.as_slice(),
            _ => return Err(schema_error(pointer, "it must be a list of values")),
        };
        let constants: Option<Vec<Value>> = values.iter().map(numbers::constant).collect();
        match constants {
            None => {
                let problem = "an integer beyond 2^53 that double precision cannot represent cannot be enforced";
                self.relax(pointer, problem.to_owned())
            }
            Some(mut constants) => {
                let value = match keyword {
                    "const" => constants.pop().unwrap_or(Value::Null),
                    _ => constants.into(),
                };
                output.insert(keyword.to_owned(), value);
                Ok(())
            }
        }
    }
}
