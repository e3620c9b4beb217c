//! The keywords of one schema, each to the module that reads it.

use serde_json::{Map, Value, json};

use super::super::GrammarError;
use super::alternatives::Alternatives;
use super::arrays::at_most_one_item;
use super::keywords::{SchemaObject, accepts_all, accepts_none};
use super::multiples::bound_multiple;
use super::objects::no_others;
use super::{Reader, count};

impl Reader<'_> {
    pub(super) fn keywords(
        &mut self,
        place: &str,
        keywords: &Map<String, Value>,
        joined: bool,
    ) -> Result<Value, GrammarError> {
        let object = SchemaObject {
            place,
            keywords,
            joined,
        };
        let nullable = keywords.get("nullable") == Some(&Value::Bool(true));
        let reference = keywords.get("$ref").filter(|_| self.ignores_siblings);
        let written = match reference {
            Some(reference) => {
                let mut written = Map::new();
                self.reference(&object, reference, &mut written)?;
                written.into()
            }
            None if keywords.get("not").is_some_and(accepts_all) => Value::Bool(false),
            None => self.constraints(&object)?,
        };
        Ok(match nullable {
            // As OpenAPI 3.0 means it.
            true => json!({ "anyOf": [written, { "type": "null" }] }),
            false => written,
        })
    }

    fn constraints(&mut self, object: &SchemaObject<'_>) -> Result<Value, GrammarError> {
        let &SchemaObject {
            place, keywords, ..
        } = object;
        let mut written = Map::new();
        let mut all_of = Vec::new();
        for (keyword, value) in keywords {
            let at = object.at(keyword);
            // Generators write null for what is not there.
            if value.is_null() && keyword != "const" {
                continue;
            }
            if self.left_out.contains(&at) {
                self.note(&at);
                continue;
            }
            match keyword.as_str() {
                "type" => self.types(&at, value, &mut written)?,
                "enum" | "const" => self.constants(&at, keyword, value, &mut written)?,
                "required" => self.required(&at, value, &mut written)?,
                "pattern" => self.pattern(&at, value, &mut written)?,
                "format" => all_of.extend(self.format(&at, value, &mut written)?),
                "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
                | "maxProperties" => {
                    let count = count(&at, value)?;
                    if count > 0 || keyword.starts_with("max") {
                        written.insert(keyword.clone(), count.into());
                    }
                }
                "multipleOf" => self.multiple(&at, value, &mut written)?,
                "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                    self.bound(&at, keyword, object, &mut written)?;
                }
                "patternProperties" if let Some(problem) = self.problem_of_names(value) => {
                    self.relax(&at, problem)?;
                }
                "properties" | "patternProperties" => {
                    let joined = object.has_joined_properties();
                    let schemas = self.schemas_by_name(&at, value, joined)?;
                    written.insert(keyword.clone(), schemas);
                }
                "additionalProperties"
                    if self.is_left_out(object, &["properties", "patternProperties"]) => {}
                "additionalProperties" => {
                    let schema = self.schema(&at, value, object.joined)?;
                    written.insert(keyword.clone(), schema);
                }
                "items" if value.is_array() => {
                    let schemas = self.schemas_in_list(&at, value, object.joined)?;
                    written.insert("prefixItems".to_owned(), schemas.into());
                }
                "additionalItems"
                    if keywords.get("items").is_some_and(Value::is_array)
                        && !self.is_left_out(object, &["items"]) =>
                {
                    let schema = self.schema(&at, value, object.joined)?;
                    written.insert("items".to_owned(), schema);
                }
                // Without a list in `items` it has no effect.
                "additionalItems" => {}
                "items" if self.is_left_out(object, &["prefixItems"]) => {}
                "items" => {
                    let schema = self.schema(&at, value, object.joined)?;
                    written.insert(keyword.clone(), schema);
                }
                "prefixItems" => {
                    let schemas = self.schemas_in_list(&at, value, object.joined)?;
                    written.insert(keyword.clone(), schemas.into());
                }
                "anyOf" => {
                    let schemas = self.schemas_in_list(&at, value, object.joins(keyword))?;
                    written.insert(keyword.clone(), schemas.into());
                }
                "allOf" => {
                    let several = value.as_array().is_some_and(|schemas| schemas.len() > 1);
                    all_of.extend(self.schemas_in_list(
                        &at,
                        value,
                        several || object.joins(keyword),
                    )?);
                }
                "oneOf" => {
                    let schemas = self.schemas_in_list(&at, value, object.joins(keyword))?;
                    all_of.push(json!({ "anyOf": schemas }));
                    let place = at;
                    self.alternatives.push(Alternatives { place, schemas });
                }
                "$ref" => self.reference(object, value, &mut written)?,
                "$recursiveRef" | "$dynamicRef" => self.relax_keyword(&at, keyword)?,
                "not" if accepts_none(value) => {}
                "uniqueItems" if value == &json!(false) || at_most_one_item(keywords) => {}
                "contains" => all_of.extend(self.contains(&at, object)?),
                "if" if !["then", "else"].iter().any(|branch| object.says(branch)) => {}
                "dependencies" | "dependentRequired" | "dependentSchemas"
                    if value.as_object().is_some_and(Map::is_empty) => {}
                "not" | "uniqueItems" | "if" | "dependencies" | "dependentRequired"
                | "dependentSchemas" => self.relax_keyword(&at, keyword)?,
                // What it holds is said by additionalProperties, unless schemas are put together.
                "unevaluatedProperties"
                    if accepts_all(value)
                        || object.says("additionalProperties")
                        || self.is_left_out(object, &["properties", "patternProperties"]) => {}
                "unevaluatedProperties" if !object.composes() => {
                    let schema = self.schema(&at, value, object.joined)?;
                    written.insert("additionalProperties".to_owned(), schema);
                }
                "unevaluatedItems" if accepts_all(value) => {}
                "unevaluatedProperties" | "unevaluatedItems" => self.relax_keyword(&at, keyword)?,
                // Others are no constraints, or belong to one of these.
                _ => {}
            }
        }
        if let Some(names) = keywords.get("propertyNames") {
            self.property_names(object, names, &mut written)?;
        }
        if object.closes() && !self.is_left_out(object, &["properties"]) {
            written.insert("additionalProperties".to_owned(), no_others());
        }
        bound_multiple(&mut written);
        if !all_of.is_empty() {
            written.insert("allOf".to_owned(), all_of.into());
        }
        self.check_optional(place, &mut written)?;
        if ["allOf", "anyOf", "$ref"]
            .iter()
            .any(|joint| written.contains_key(*joint))
        {
            self.joints.push((place.to_owned(), written.clone().into()));
        }
        Ok(written.into())
    }

    fn is_left_out(&self, object: &SchemaObject<'_>, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| {
            object.keywords.contains_key(*keyword) && self.left_out.contains(&object.at(keyword))
        })
    }
}
