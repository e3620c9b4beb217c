//! `GET /v1/responses/{response_id}/input_items`: what a response was written from, page by page.

use std::sync::Arc;

use super::History;
use super::item::Item;
use crate::api::error::Error;
use crate::api::types;

/// Most items of a page.
const ITEMS_MAX: usize = 100;
/// Items of a page that nobody says the size of.
const ITEMS_USUAL: usize = 20;

/// Which items are told, as a query has it.
pub(in crate::api) struct Page {
    /// How many at most.
    pub limit: Option<String>,
    /// `asc` or `desc`.
    pub order: Option<String>,
    /// The id of the item before.
    pub after: Option<String>,
}

/// A page of the items of a response.
pub(in crate::api) fn input_items(
    history: History<'_>,
    id: String,
    page: &Page,
) -> Result<types::ResponseItemList, Error> {
    let refuse =
        |field: &str, problem: String| Err(Error::invalid(field, format!("{field}: {problem}")));
    let limit = match page.limit.as_deref().map(str::parse) {
        None => ITEMS_USUAL,
        Some(Ok(limit @ 1..=ITEMS_MAX)) => limit,
        Some(_) => return refuse("limit", format!("a number from 1 to {ITEMS_MAX}")),
    };
    let kept = history.response(id)?;
    let mut items: Vec<&Arc<Item>> = kept.input.iter().collect();
    match page.order.as_deref() {
        None | Some("desc") => items.reverse(),
        Some("asc") => {}
        Some(_) => return refuse("order", "asc or desc".to_owned()),
    }
    let first = match page.after.as_deref() {
        None | Some("") => 0,
        Some(after) => match items.iter().position(|item| item.id() == after) {
            Some(place) => place + 1,
            None => return refuse("after", format!("the response has no item '{after}'")),
        },
    };
    let rest = &items[first..];
    let told = &rest[..limit.min(rest.len())];
    let id = |item: Option<&&Arc<Item>>| item.map(|item| item.id().to_owned());
    Ok(types::ResponseItemList {
        object: types::ResponseItemListObject::List,
        first_id: id(told.first()),
        last_id: id(told.last()),
        has_more: rest.len() > told.len(),
        data: told.iter().map(|item| item.value.clone()).collect(),
    })
}
