//! Responses that are kept: so many, of so many bytes, each for whoever asked for it. The one that was not used for the
//! longest goes first. One whose predecessor went is still whole: it holds everything that it was written from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::item::Item;
use crate::api::caller::Caller;
use crate::api::types;

/// Bytes of all that is kept, as JSON. What several responses were written from is counted for each of them.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// A response that ended.
pub(super) struct Kept {
    /// As it was answered.
    pub response: types::ResponseObject,
    /// What it was written from.
    pub input: Vec<Arc<Item>>,
    /// What it says and calls.
    pub output: Vec<Arc<Item>>,
    caller: Caller,
    bytes: usize,
}

impl Kept {
    /// For that caller.
    pub(super) fn new(
        caller: Caller,
        input: Vec<Arc<Item>>,
        response: types::ResponseObject,
    ) -> Self {
        let output: Vec<_> = response.output.iter().cloned().map(Item::new).collect();
        let items = input.iter().chain(&output);
        // The output is there twice.
        let bytes = items.map(|item| item.bytes).sum::<usize>() + super::item::bytes(&response);
        Self {
            response,
            input,
            output,
            caller,
            bytes,
        }
    }
}

/// All that are kept.
pub struct ResponseStore {
    most: usize,
    most_bytes: usize,
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    by_id: HashMap<String, Place>,
    /// Ids, the one that was not used for the longest first.
    by_use: BTreeMap<u64, String>,
    uses: u64,
    bytes: usize,
}

struct Place {
    kept: Arc<Kept>,
    used: u64,
}

impl ResponseStore {
    /// Keeps so many at most.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            most_bytes: KEPT_BYTES_MAX,
            shelf: Mutex::default(),
        }
    }

    /// Whether anything is kept at all.
    pub(super) fn keeps(&self) -> bool {
        self.most > 0
    }

    /// Keeps a response, in the place of those that were not used for the longest.
    pub(super) fn put(&self, kept: Kept) {
        let mut shelf = self.shelf();
        shelf.take(&kept.response.id);
        shelf.bytes += kept.bytes;
        let (id, used) = (kept.response.id.clone(), shelf.next_use());
        shelf.by_use.insert(used, id.clone());
        let kept = Arc::new(kept);
        shelf.by_id.insert(id, Place { kept, used });
        while shelf.by_id.len() > self.most || shelf.bytes > self.most_bytes {
            let Some((_, oldest)) = shelf.by_use.pop_first() else {
                break;
            };
            shelf.take(&oldest);
        }
    }

    /// A response of that caller's, which is used with that.
    pub(super) fn get(&self, caller: Caller, id: &str) -> Option<Arc<Kept>> {
        let mut shelf = self.shelf();
        let used = shelf.next_use();
        let place = shelf.by_id.get_mut(id);
        let place = place.filter(|place| place.kept.caller == caller)?;
        let before = std::mem::replace(&mut place.used, used);
        let kept = Arc::clone(&place.kept);
        shelf.by_use.remove(&before);
        shelf.by_use.insert(used, id.to_owned());
        Some(kept)
    }

    /// Forgets a response of that caller's; whether there was one.
    pub(super) fn remove(&self, caller: Caller, id: &str) -> bool {
        let mut shelf = self.shelf();
        let place = shelf.by_id.get(id);
        let own = place.is_some_and(|place| place.kept.caller == caller);
        if own {
            shelf.take(id);
        }
        own
    }

    /// Those of these items that responses of that caller's hold.
    pub(super) fn items(&self, caller: Caller, ids: &HashSet<&str>) -> HashMap<String, Arc<Item>> {
        let shelf = self.shelf();
        let own = shelf.by_id.values().map(|place| &place.kept);
        let own = own.filter(|kept| kept.caller == caller && !ids.is_empty());
        let items = own.flat_map(|kept| kept.input.iter().chain(&kept.output));
        items
            .filter(|item| ids.contains(item.id()))
            .map(|item| (item.id().to_owned(), Arc::clone(item)))
            .collect()
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    fn take(&mut self, id: &str) {
        if let Some(place) = self.by_id.remove(id) {
            self.by_use.remove(&place.used);
            self.bytes -= place.kept.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::response::begun;
    use super::*;

    const EVERYBODY: Caller = Caller::EVERYBODY;

    fn response(id: &str) -> types::ResponseObject {
        let body = serde_json::from_value(json!({})).unwrap();
        types::ResponseObject {
            id: id.to_owned(),
            ..begun(&body, "tiny", true)
        }
    }

    fn message(text: &str) -> Arc<Item> {
        let item = json!({
            "id": format!("msg_{text}"), "type": "message", "role": "user", "status": "completed",
            "content": [{"type": "input_text", "text": text}],
        });
        Item::new(serde_json::from_value(item).unwrap())
    }

    fn put(store: &ResponseStore, caller: Caller, id: &str, input: &[Arc<Item>]) {
        store.put(Kept::new(caller, input.to_vec(), response(id)));
    }

    #[track_caller]
    fn check(store: &ResponseStore, ids: &[&str]) {
        let mut kept: Vec<_> = store.shelf().by_id.keys().cloned().collect();
        kept.sort();
        assert_eq!(kept, ids);
        let shelf = store.shelf();
        let bytes: usize = shelf.by_id.values().map(|place| place.kept.bytes).sum();
        assert_eq!(
            (shelf.bytes, shelf.by_use.len()),
            (bytes, shelf.by_id.len())
        );
    }

    #[test]
    fn the_one_that_was_not_used_for_the_longest_goes_first() {
        let store = ResponseStore::new(2);
        put(&store, EVERYBODY, "a", &[]);
        put(&store, EVERYBODY, "b", &[]);
        assert!(store.get(EVERYBODY, "a").is_some());
        put(&store, EVERYBODY, "c", &[]);
        check(&store, &["a", "c"]);
        // One of the same id takes the place of the other.
        put(&store, EVERYBODY, "a", &[message("x")]);
        check(&store, &["a", "c"]);
        assert!(store.remove(EVERYBODY, "a") && !store.remove(EVERYBODY, "a"));
        check(&store, &["c"]);
    }

    #[test]
    fn bytes_are_a_limit_too() {
        let mut store = ResponseStore::new(100);
        let one = Kept::new(EVERYBODY, Vec::new(), response("a")).bytes;
        store.most_bytes = 3 * one;
        for id in ["a", "b", "c", "d"] {
            put(&store, EVERYBODY, id, &[]);
        }
        check(&store, &["b", "c", "d"]);
        let long = message(&"x".repeat(one / 2));
        put(&store, EVERYBODY, "e", std::slice::from_ref(&long));
        check(&store, &["e"]);
        // What is larger than all that may be is not kept.
        put(&store, EVERYBODY, "f", &[long.clone(), long.clone(), long]);
        check(&store, &[]);
    }

    #[test]
    fn each_sees_its_own() {
        let (ada, ben) = (Caller::of_key("ada"), Caller::of_key("ben"));
        let store = ResponseStore::new(2);
        put(&store, ada, "a", &[message("x")]);
        assert!(store.get(ben, "a").is_none() && store.get(EVERYBODY, "a").is_none());
        assert!(!store.remove(ben, "a"));
        let ids = HashSet::from(["msg_x", "msg_y"]);
        assert!(store.items(ben, &ids).is_empty());
        assert_eq!(store.items(ada, &ids).len(), 1);
        assert!(store.get(ada, "a").is_some());
    }

    #[test]
    fn none_are_kept_where_none_may_be() {
        let store = ResponseStore::new(0);
        put(&store, EVERYBODY, "a", &[]);
        check(&store, &[]);
        assert!(!store.keeps());
    }
}
