//! Which values a schema takes by their type, or one by one.

use serde_json::{Map, Value};

use super::super::GrammarError;
use super::{Reader, numbers, refused};

/// The values of `type`.
const TYPES: [&str; 7] = [
    "array", "boolean", "integer", "null", "number", "object", "string",
];

impl Reader<'_> {
    pub(super) fn types(
        &mut self,
        at: &str,
        value: &Value,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let names = match value {
            Value::Array(names) => names.as_slice(),
            name => std::slice::from_ref(name),
        };
        if names.iter().any(|name| name == "any") {
            return self.relax_keyword(at, "the type \"any\"");
        }
        let known = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
        if names.is_empty() || !names.iter().all(known) {
            let types = TYPES.join(", ");
            return Err(refused(
                at,
                format!("{value} is no type: the types are {types}"),
            ));
        }
        written.insert("type".to_owned(), value.clone());
        Ok(())
    }

    pub(super) fn constants(
        &mut self,
        at: &str,
        keyword: &str,
        value: &Value,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let values = match (keyword, value) {
            ("const", value) => std::slice::from_ref(value),
            (_, Value::Array(values)) => values.as_slice(),
            _ => return Err(refused(at, "it must be a list of values")),
        };
        let constants: Option<Vec<Value>> = values.iter().map(numbers::constant).collect();
        match constants {
            None => {
                let problem =
                    "an integer beyond 2^53 that double precision does not have cannot be enforced";
                self.relax(at, problem.to_owned())
            }
            Some(mut constants) => {
                let value = match keyword {
                    "const" => constants.pop().unwrap_or(Value::Null),
                    _ => constants.into(),
                };
                written.insert(keyword.to_owned(), value);
                Ok(())
            }
        }
    }
}
