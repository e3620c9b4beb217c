//! Translates the keywords of one schema. Sibling modules translate the keywords that need more code.

use serde_json::{Map, Value, json};

use super::super::GrammarError;
use super::alternatives::Alternatives;
use super::arrays::has_at_most_one_item;
use super::keywords::{SchemaObject, accepts_all, accepts_none};
use super::multiples::bound_multiple;
use super::objects::no_additional_properties;
use super::{SchemaTranslator, count};

impl SchemaTranslator<'_> {
    pub(super) fn keywords(
        &mut self,
        pointer: &str,
        keywords: &Map<String, Value>,
        is_combined: bool,
    ) -> Result<Value, GrammarError> {
        let object = SchemaObject {
            pointer,
            keywords,
            is_combined,
        };
        let nullable = keywords.get("nullable") == Some(&Value::Bool(true));
        let reference = keywords.get("$ref").filter(|_| self.ignores_siblings);
        let translated = match reference {
            Some(reference) => {
                let mut output = Map::new();
                self.reference(&object, reference, &mut output)?;
                output.into()
            }
            None if keywords.get("not").is_some_and(accepts_all) => Value::Bool(false),
            None => self.constraints(&object)?,
        };
        Ok(match nullable {
            // In OpenAPI 3.0, a nullable schema also accepts null.
            true => json!({ "anyOf": [translated, { "type": "null" }] }),
            false => translated,
        })
    }

    fn constraints(&mut self, object: &SchemaObject<'_>) -> Result<Value, GrammarError> {
        let keywords = object.keywords;
        let mut output = Map::new();
        let mut all_of = Vec::new();
        for (keyword, value) in keywords {
            let pointer = object.pointer_to(keyword);
            // Some generators write null for absent keywords.
            if value.is_null() && keyword != "const" {
                continue;
            }
            if self.dropped.contains(&pointer) {
                self.record_relaxed(&pointer);
                continue;
            }
            match keyword.as_str() {
                "type" => self.types(&pointer, value, &mut output)?,
                "enum" | "const" => self.constants(&pointer, keyword, value, &mut output)?,
                "required" => self.required(&pointer, value, &mut output)?,
                "pattern" => self.pattern(&pointer, value, &mut output)?,
                "format" => all_of.extend(self.format(&pointer, value, &mut output)?),
                "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
                | "maxProperties" => {
                    let count = count(&pointer, value)?;
                    if count > 0 || keyword.starts_with("max") {
                        output.insert(keyword.clone(), count.into());
                    }
                }
                "multipleOf" => self.multiple(&pointer, value, &mut output)?,
                "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                    self.bound(&pointer, keyword, object, &mut output)?;
                }
                "patternProperties" if let Some(problem) = self.property_pattern_problem(value) => {
                    self.relax(&pointer, problem)?;
                }
                "properties" | "patternProperties" => {
                    let is_combined = object.combines_properties();
                    let schemas = self.schemas_by_name(&pointer, value, is_combined)?;
                    output.insert(keyword.clone(), schemas);
                }
                "additionalProperties"
                    if self.is_dropped(object, &["properties", "patternProperties"]) => {}
                "additionalProperties" => {
                    let schema = self.schema(&pointer, value, object.is_combined)?;
                    output.insert(keyword.clone(), schema);
                }
                "prefixItems" | "items" if keyword == "prefixItems" || value.is_array() => {
                    let schemas = self.schemas_in_list(&pointer, value, object.is_combined)?;
                    output.insert("prefixItems".to_owned(), schemas.into());
                }
                "additionalItems"
                    if keywords.get("items").is_some_and(Value::is_array)
                        && !self.is_dropped(object, &["items"]) =>
                {
                    let schema = self.schema(&pointer, value, object.is_combined)?;
                    output.insert("items".to_owned(), schema);
                }
                // `additionalItems` has no effect unless `items` is a list.
                "additionalItems" => {}
                "items" if self.is_dropped(object, &["prefixItems"]) => {}
                "items" => {
                    let schema = self.schema(&pointer, value, object.is_combined)?;
                    output.insert(keyword.clone(), schema);
                }
                "anyOf" => {
                    let schemas =
                        self.schemas_in_list(&pointer, value, object.is_combined_beyond(keyword))?;
                    output.insert(keyword.clone(), schemas.into());
                }
                "allOf" => {
                    let has_several = value.as_array().is_some_and(|schemas| schemas.len() > 1);
                    all_of.extend(self.schemas_in_list(
                        &pointer,
                        value,
                        has_several || object.is_combined_beyond(keyword),
                    )?);
                }
                "oneOf" => {
                    let schemas =
                        self.schemas_in_list(&pointer, value, object.is_combined_beyond(keyword))?;
                    all_of.push(json!({ "anyOf": schemas }));
                    self.alternatives.push(Alternatives { pointer, schemas });
                }
                "$ref" => self.reference(object, value, &mut output)?,
                "$recursiveRef" | "$dynamicRef" => self.relax_keyword(&pointer, keyword)?,
                "not" if accepts_none(value) => {}
                "uniqueItems" if value == &json!(false) || has_at_most_one_item(keywords) => {}
                "contains" => all_of.extend(self.contains(&pointer, object)?),
                "if" if !["then", "else"].iter().any(|branch| object.has(branch)) => {}
                "dependencies" | "dependentRequired" | "dependentSchemas"
                    if value.as_object().is_some_and(Map::is_empty) => {}
                "not" | "uniqueItems" | "if" | "dependencies" | "dependentRequired"
                | "dependentSchemas" => self.relax_keyword(&pointer, keyword)?,
                // `unevaluatedProperties` is equivalent to `additionalProperties`, unless several schemas apply to the
                // object.
                "unevaluatedProperties"
                    if accepts_all(value)
                        || object.has("additionalProperties")
                        || self.is_dropped(object, &["properties", "patternProperties"]) => {}
                "unevaluatedProperties" if !object.is_composed() => {
                    let schema = self.schema(&pointer, value, object.is_combined)?;
                    output.insert("additionalProperties".to_owned(), schema);
                }
                "unevaluatedItems" if accepts_all(value) => {}
                "unevaluatedProperties" | "unevaluatedItems" => {
                    self.relax_keyword(&pointer, keyword)?
                }
                // Other keywords are annotations, or are handled with one of the keywords above.
                _ => {}
            }
        }
        if let Some(names) = keywords.get("propertyNames") {
            self.property_names(object, names, &mut output)?;
        }
        if object.is_implicitly_closed() && !self.is_dropped(object, &["properties"]) {
            output.insert(
                "additionalProperties".to_owned(),
                no_additional_properties(),
            );
        }
        bound_multiple(&mut output);
        if !all_of.is_empty() {
            output.insert("allOf".to_owned(), all_of.into());
        }
        self.check_optional_properties(object.pointer, &mut output)?;
        if ["allOf", "anyOf", "$ref"]
            .iter()
            .any(|keyword| output.contains_key(*keyword))
        {
            self.combined_schemas
                .push((object.pointer.to_owned(), output.clone().into()));
        }
        Ok(output.into())
    }

    /// Whether one of the keywords is present and dropped.
    fn is_dropped(&self, object: &SchemaObject<'_>, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| {
            object.keywords.contains_key(*keyword)
                && self.dropped.contains(&object.pointer_to(keyword))
        })
    }
}
