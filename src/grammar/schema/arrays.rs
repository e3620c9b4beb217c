//! `contains` and its counts, and a query on `maxItems`.

use serde_json::{Map, Value};

use super::super::GrammarError;
use super::keywords::{SchemaObject, accepts_all};
use super::{SchemaTranslator, count};

impl SchemaTranslator<'_> {
    /// Translates `contains` to `minItems`, and also `maxContains` to `maxItems` if `contains` accepts every item.
    pub(super) fn contains(
        &mut self,
        pointer: &str,
        object: &SchemaObject<'_>,
    ) -> Result<Option<Value>, GrammarError> {
        let item_count = |keyword: &str| match object.keywords.get(keyword) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => count(&object.pointer_to(keyword), value).map(Some),
        };
        let min = item_count("minContains")?.unwrap_or(1);
        let max = item_count("maxContains")?;
        let accepts_any_item = accepts_all(&object.keywords["contains"]);
        if !accepts_any_item && (min > 0 || max.is_some()) {
            self.relax_keyword(pointer, "contains")?;
        }
        let mut items = Map::new();
        if min > 0 {
            items.insert("minItems".to_owned(), min.into());
        }
        if let Some(max) = max.filter(|_| accepts_any_item) {
            items.insert("maxItems".to_owned(), max.into());
        }
        Ok((!items.is_empty()).then(|| items.into()))
    }
}

pub(super) fn has_at_most_one_item(keywords: &Map<String, Value>) -> bool {
    let max_items = keywords.get("maxItems").and_then(Value::as_u64);
    max_items.is_some_and(|max_items| max_items <= 1)
}
