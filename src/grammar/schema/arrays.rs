//! How many items an array has.

use serde_json::{Map, Value};

use super::super::GrammarError;
use super::keywords::{SchemaObject, accepts_all};
use super::{Reader, count};

impl Reader<'_> {
    /// What can be held of `contains`: that there are as many items.
    pub(super) fn contains(
        &mut self,
        at: &str,
        object: &SchemaObject<'_>,
    ) -> Result<Option<Value>, GrammarError> {
        let counted = |keyword: &str| match object.keywords.get(keyword) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => count(&object.at(keyword), value).map(Some),
        };
        let least = counted("minContains")?.unwrap_or(1);
        let most = counted("maxContains")?;
        let any = accepts_all(&object.keywords["contains"]);
        if !any && (least > 0 || most.is_some()) {
            self.relax_keyword(at, "contains")?;
        }
        let mut items = Map::new();
        if least > 0 {
            items.insert("minItems".to_owned(), least.into());
        }
        if let Some(most) = most.filter(|_| any) {
            items.insert("maxItems".to_owned(), most.into());
        }
        Ok((!items.is_empty()).then(|| items.into()))
    }
}

pub(super) fn at_most_one_item(keywords: &Map<String, Value>) -> bool {
    let most = keywords.get("maxItems").and_then(Value::as_u64);
    most.is_some_and(|most| most <= 1)
}
