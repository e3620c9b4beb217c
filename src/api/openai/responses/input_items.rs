//! `GET /v1/responses/{response_id}/input_items`: the input items of a response, in pages.

use std::sync::Arc;

use super::ResponseHistory;
use super::item::Item;
use crate::api::error::Error;
use crate::api::types;

/// Largest page size in items.
const MAX_ITEMS: usize = 100;
/// Default page size in items.
const ITEMS_DEFAULT: usize = 20;

/// The query parameters, not validated yet.
pub(in crate::api) struct ItemListQuery {
    /// Page size: 1 to 100 items.
    pub limit: Option<String>,
    /// `asc` or `desc`.
    pub order: Option<String>,
    /// Id of the last item of the previous page.
    pub after: Option<String>,
}

/// Handles `GET /v1/responses/{response_id}/input_items`.
pub(in crate::api) fn input_items(
    history: ResponseHistory<'_>,
    id: String,
    query: &ItemListQuery,
) -> Result<types::ResponseItemList, Error> {
    let invalid =
        |field: &str, problem: String| Err(Error::invalid(field, format!("{field}: {problem}")));
    let limit = match query.limit.as_deref().map(str::parse) {
        None => ITEMS_DEFAULT,
        Some(Ok(limit @ 1..=MAX_ITEMS)) => limit,
        Some(_) => {
            return invalid(
                "limit",
                format!("it must be a number from 1 to {MAX_ITEMS}"),
            );
        }
    };
    let stored = history.response(id)?;
    let mut items: Vec<&Arc<Item>> = stored.input.iter().collect();
    match query.order.as_deref() {
        None | Some("desc") => items.reverse(),
        Some("asc") => {}
        Some(_) => return invalid("order", "it must be asc or desc".to_owned()),
    }
    let first = match query.after.as_deref() {
        None | Some("") => 0,
        Some(after) => match items.iter().position(|item| item.id() == after) {
            Some(index) => index + 1,
            None => {
                return invalid(
                    "after",
                    format!("item not found in the response: '{after}'"),
                );
            }
        },
    };
    let remaining = &items[first..];
    let page = &remaining[..limit.min(remaining.len())];
    let id = |item: Option<&&Arc<Item>>| item.map(|item| item.id().to_owned());
    Ok(types::ResponseItemList {
        object: types::ResponseItemListObject::List,
        first_id: id(page.first()),
        last_id: id(page.last()),
        has_more: remaining.len() > page.len(),
        data: page.iter().map(|item| item.value.clone()).collect(),
    })
}
