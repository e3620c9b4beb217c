//! Which properties an object has.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::super::GrammarError;
use super::keywords::{SchemaObject, escaped, is_constraint};
use super::{Reader, refused};

/// Most properties of one object that need not be there: each may be the next one.
const MOST_OPTIONAL: usize = 200;

impl Reader<'_> {
    /// Reads `required`.
    pub(super) fn required(
        &mut self,
        at: &str,
        value: &Value,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        match value {
            // As draft 3 has it.
            Value::Bool(false) => Ok(()),
            Value::Bool(true) => self.relax_keyword(at, "a required that is no list"),
            _ => {
                let is_name = |name: &Value| name.is_string();
                let names = value.as_array().filter(|names| names.iter().all(is_name));
                names.ok_or_else(|| refused(at, "it must be a list of names"))?;
                written.insert("required".to_owned(), value.clone());
                Ok(())
            }
        }
    }

    pub(super) fn schemas_by_name(
        &mut self,
        place: &str,
        schemas: &Value,
        joined: bool,
    ) -> Result<Value, GrammarError> {
        let mut written = Map::new();
        // PHP writes an empty object as an empty list.
        if schemas.as_array().is_some_and(Vec::is_empty) {
            return Ok(written.into());
        }
        let schemas = schemas.as_object();
        let schemas = schemas.ok_or_else(|| refused(place, "it must be an object of schemas"))?;
        for (name, schema) in schemas {
            let place = format!("{place}/{}", escaped(name));
            written.insert(name.clone(), self.schema(&place, schema, joined)?);
        }
        Ok(written.into())
    }

    /// Names of properties: those of a list become properties, those of a pattern `patternProperties`.
    pub(super) fn property_names(
        &mut self,
        object: &SchemaObject<'_>,
        names: &Value,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        let at = object.at("propertyNames");
        if self.left_out.contains(&at) {
            self.note(&at);
            return Ok(());
        }
        let Value::Object(keywords) = names else {
            return match names {
                // Then there is no property.
                Value::Bool(false) => {
                    written.remove("properties");
                    written.remove("patternProperties");
                    written.insert("additionalProperties".to_owned(), false.into());
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
        let rest = written.get("additionalProperties").cloned();
        let rest = rest.unwrap_or(Value::Bool(true));
        let listed = match constraints.as_slice() {
            [] => return Ok(()),
            ["enum"] => keywords["enum"].as_array().cloned(),
            ["const"] => Some(vec![keywords["const"].clone()]),
            ["$ref"] => self.listed_names(&keywords["$ref"]),
            _ => None,
        };
        let has_patterns = object.says("patternProperties");
        if let Some(listed) = listed.filter(|listed| !has_patterns && listed.len() <= MOST_OPTIONAL)
        {
            let listed: Vec<&str> = listed.iter().filter_map(Value::as_str).collect();
            let named = written.entry("properties").or_insert_with(|| json!({}));
            if let Value::Object(named) = named {
                for (name, schema) in named.iter_mut() {
                    if !listed.contains(&name.as_str()) {
                        *schema = Value::Bool(false);
                    }
                }
                for name in listed {
                    named.entry(name).or_insert_with(|| rest.clone());
                }
            }
            written.insert("additionalProperties".to_owned(), false.into());
            return Ok(());
        }
        let pattern = match constraints.as_slice() {
            ["pattern"] => keywords["pattern"].as_str(),
            _ => None,
        };
        let pattern = pattern.filter(|pattern| {
            !has_patterns && !object.says("properties") && self.pattern_problem(pattern).is_none()
        });
        if let Some(pattern) = pattern {
            written.insert("patternProperties".to_owned(), json!({ pattern: rest }));
            written.insert("additionalProperties".to_owned(), false.into());
            return Ok(());
        }
        self.relax_keyword(&at, "propertyNames")
    }

    /// The values of a schema that lists them and says nothing else, behind a reference.
    fn listed_names(&self, reference: &Value) -> Option<Vec<Value>> {
        let target = self.target(reference.as_str()?)?;
        let keywords = self.root.pointer(&target)?.as_object()?;
        let mut constraints = keywords.keys().filter(|keyword| is_constraint(keyword));
        let only = constraints.all(|keyword| keyword == "enum" || keywords[keyword] == "string");
        keywords.get("enum").filter(|_| only)?.as_array().cloned()
    }

    /// Drops the names of properties where too many may be the next one.
    pub(super) fn check_optional(
        &mut self,
        place: &str,
        written: &mut Map<String, Value>,
    ) -> Result<(), GrammarError> {
        if optional_properties(written) > MOST_OPTIONAL {
            let problem = format!("more than {MOST_OPTIONAL} properties that are not required");
            self.relax(&format!("{place}/properties"), problem)?;
            written.remove("properties");
            written.remove("additionalProperties");
        }
        Ok(())
    }
}

/// What additional properties have to follow where the schema does not say that there are none: no value does. It is
/// not written as `false`, so that alternatives are not told apart by what their schemas leave open.
pub(super) fn no_others() -> Value {
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
