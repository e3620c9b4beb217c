//! Keywords for the properties of an object.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::super::GrammarError;
use super::keywords::{SchemaObject, escaped, is_constraint};
use super::{SchemaTranslator, schema_error};

/// Maximum number of optional properties of one object: the grammar has to allow each as the next property.
const MAX_OPTIONAL_PROPERTIES: usize = 200;

impl SchemaTranslator<'_> {
    pub(super) fn required(
        &mut self,
        pointer: &str,
        value: &Value,
        output: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        match value {
            // In draft 3, `required` is a boolean in the schema of the property.
            Value::Bool(false) => Ok(()),
            Value::Bool(true) => self.relax_keyword(pointer, "required as a boolean"),
            _ => {
                let is_name = |name: &Value| name.is_string();
                let names = value.as_array().filter(|names| names.iter().all(is_name));
                names
                    .ok_or_else(|| schema_error(pointer, "it must be a list of property names"))?;
                output.insert("required".to_owned(), value.clone());
                Ok(())
            }
        }
    }

    pub(super) fn schemas_by_name(
        &mut self,
        pointer: &str,
        schemas: &Value,
        is_combined: bool,
    ) -> Result<Value, GrammarError> {
        let mut output = Map::new();
        // PHP writes an empty object as an empty list.
        if schemas.as_array().is_some_and(Vec::is_empty) {
            return Ok(output.into());
        }
        let schemas = schemas.as_object();
        let schemas =
            schemas.ok_or_else(|| schema_error(pointer, "it must be an object of schemas"))?;
        for (name, schema) in schemas {
            let pointer = format!("{pointer}/{}", escaped(name));
            output.insert(name.clone(), self.schema(&pointer, schema, is_combined)?);
        }
        Ok(output.into())
    }

    /// Translates `propertyNames`: enumerated names to `properties`, a pattern to `patternProperties`.
    pub(super) fn property_names(
        &mut self,
        object: &SchemaObject<'_>,
        names_schema: &Value,
        output: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let pointer = object.pointer_to("propertyNames");
        if self.dropped.contains(&pointer) {
            self.record_relaxed(&pointer);
            return Ok(());
        }
        let Value::Object(keywords) = names_schema else {
            return match names_schema {
                // No property name is allowed.
                Value::Bool(false) => {
                    output.remove("properties");
                    output.remove("patternProperties");
                    output.insert("additionalProperties".to_owned(), false.into());
                    Ok(())
                }
                _ => Ok(()),
            };
        };
        let constraining = |keyword: &&String| is_constraint(keyword);
        let constraints: Vec<&str> = keywords
            .keys()
            .filter(constraining)
            .map(String::as_str)
            .filter(|keyword| *keyword != "type" || keywords[*keyword] != "string")
            .collect();
        let additional = output.get("additionalProperties").cloned();
        let additional = additional.unwrap_or(Value::Bool(true));
        let names = match constraints.as_slice() {
            [] => return Ok(()),
            ["enum"] => keywords["enum"].as_array().cloned(),
            ["const"] => Some(vec![keywords["const"].clone()]),
            ["$ref"] => self.enumerated_names(&keywords["$ref"]),
            _ => None,
        };
        let has_patterns = object.has("patternProperties");
        let names = names.filter(|names| !has_patterns && names.len() <= MAX_OPTIONAL_PROPERTIES);
        if let Some(names) = names {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            let properties = output.entry("properties").or_insert_with(|| json!({}));
            if let Value::Object(properties) = properties {
                for (name, schema) in properties.iter_mut() {
                    if !names.contains(&name.as_str()) {
                        *schema = Value::Bool(false);
                    }
                }
                for name in names {
                    properties.entry(name).or_insert_with(|| additional.clone());
                }
            }
            output.insert("additionalProperties".to_owned(), false.into());
            return Ok(());
        }
        let pattern = match constraints.as_slice() {
            ["pattern"] => keywords["pattern"].as_str(),
            _ => None,
        };
        let pattern = pattern.filter(|pattern| {
            !has_patterns && !object.has("properties") && self.pattern_problem(pattern).is_none()
        });
        if let Some(pattern) = pattern {
            output.insert(
                "patternProperties".to_owned(),
                json!({ pattern: additional }),
            );
            output.insert("additionalProperties".to_owned(), false.into());
            return Ok(());
        }
        self.relax_keyword(&pointer, "propertyNames")
    }

    /// Returns the `enum` of a referenced schema; `None` if the schema has constraints other than `enum` and the type
    /// string.
    fn enumerated_names(&self, reference: &Value) -> Option<Vec<Value>> {
        let target = self.target(reference.as_str()?)?;
        let keywords = self.root.pointer(&target)?.as_object()?;
        let mut constraints = keywords.keys().filter(|keyword| is_constraint(keyword));
        let only = constraints.all(|keyword| keyword == "enum" || keywords[keyword] == "string");
        keywords.get("enum").filter(|_| only)?.as_array().cloned()
    }

    /// Drops `properties` if too many of them are optional.
    pub(super) fn check_optional_properties(
        &mut self,
        pointer: &str,
        output: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        if optional_properties(output) > MAX_OPTIONAL_PROPERTIES {
            let problem =
                format!("more than {MAX_OPTIONAL_PROPERTIES} properties that are not required");
            self.relax(&format!("{pointer}/properties"), problem)?;
            output.remove("properties");
            output.remove("additionalProperties");
        }
        Ok(())
    }
}

/// Returns the schema for the additional properties of an implicitly closed object. It accepts no value, but is not
/// `false`: otherwise `oneOf` alternatives would count as disjoint merely because their objects are implicitly closed.
pub(super) fn no_additional_properties() -> Value {
    json!({ "enum": [] })
}

fn optional_properties(keywords: &Map<String, Value>) -> usize {
    let required = keywords.get("required").and_then(Value::as_array);
    let required: HashSet<&str> = required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = keywords.get("properties").and_then(Value::as_object);
    let names = properties
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str());
    names.filter(|name| !required.contains(name)).count()
}
