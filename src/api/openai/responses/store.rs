//! Stores responses in memory for each API key, within limits of count and bytes. When a limit is exceeded, the API key
//! that uses the most loses its least recently used response. A key that uses no more than an equal share therefore
//! loses nothing to other keys. A stored response contains all its input items, so that a request can continue it after
//! the responses before it are evicted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::item::Item;
use crate::api::types;
use crate::model::KeyId;

/// Maximum size of the stored JSON in bytes. An item that several responses share counts for each of them.
const MAX_STORED_BYTES: usize = 64 << 20;

/// The API key of a stored response; `None` on a server without keys.
type Owner = Option<KeyId>;

/// A response that has ended, and its input.
pub(super) struct StoredResponse {
    pub response: types::ResponseObject,
    /// All input items, including those of previous responses.
    pub input: Vec<Arc<Item>>,
    /// The items of `response.output`.
    pub output: Vec<Arc<Item>>,
    owner: Owner,
    bytes: usize,
}

impl StoredResponse {
    pub(super) fn new(
        owner: Owner,
        input: Vec<Arc<Item>>,
        response: types::ResponseObject,
    ) -> Self {
        let output: Vec<_> = response.output.iter().cloned().map(Item::new).collect();
        let items = input.iter().chain(&output);
        // The output is stored twice: as items and within the response.
        let bytes = items.map(|item| item.bytes).sum::<usize>() + super::item::bytes(&response);
        Self {
            response,
            input,
            output,
            owner,
            bytes,
        }
    }
}

/// The stored responses of all API keys.
pub struct ResponseStore {
    max_responses: usize,
    max_bytes: usize,
    state: Mutex<StoreState>,
}

#[derive(Default)]
struct StoreState {
    by_id: HashMap<String, Entry>,
    usage_by_owner: HashMap<Owner, KeyUsage>,
    uses: u64,
    bytes: usize,
}

/// The stored responses of one API key.
#[derive(Default)]
struct KeyUsage {
    /// Response ids by time of last use, the least recently used first.
    ids_by_use: BTreeMap<u64, String>,
    bytes: usize,
}

struct Entry {
    stored: Arc<StoredResponse>,
    last_use: u64,
}

impl ResponseStore {
    /// Creates a store of at most `max_responses` responses; 0 stores none.
    pub fn new(max_responses: usize) -> Self {
        Self {
            max_responses,
            max_bytes: MAX_STORED_BYTES,
            state: Mutex::default(),
        }
    }

    /// Returns whether responses are stored at all.
    pub(super) fn is_enabled(&self) -> bool {
        self.max_responses > 0
    }

    /// Stores a response, and evicts responses until no limit is exceeded.
    pub(super) fn put(&self, stored: StoredResponse) {
        let mut state = self.state();
        state.remove(&stored.response.id);
        state.bytes += stored.bytes;
        let (id, owner, last_use) = (stored.response.id.clone(), stored.owner, state.next_use());
        let usage = state.usage_by_owner.entry(owner).or_default();
        usage.ids_by_use.insert(last_use, id.clone());
        usage.bytes += stored.bytes;
        let stored = Arc::new(stored);
        state.by_id.insert(id, Entry { stored, last_use });
        loop {
            let evicted = if state.by_id.len() > self.max_responses {
                state.eviction_candidate(owner, |usage| usage.ids_by_use.len())
            } else if state.bytes > self.max_bytes {
                state.eviction_candidate(owner, |usage| usage.bytes)
            } else {
                break;
            };
            let Some(evicted) = evicted else { break };
            state.remove(&evicted);
        }
    }

    /// Returns a response of a key and marks the response as used.
    pub(super) fn get(&self, owner: Owner, id: &str) -> Option<Arc<StoredResponse>> {
        let mut state = self.state();
        let last_use = state.next_use();
        let entry = state.by_id.get_mut(id);
        let entry = entry.filter(|entry| entry.stored.owner == owner)?;
        let previous_use = std::mem::replace(&mut entry.last_use, last_use);
        let stored = Arc::clone(&entry.stored);
        let usage = state.usage_by_owner.entry(owner).or_default();
        usage.ids_by_use.remove(&previous_use);
        usage.ids_by_use.insert(last_use, id.to_owned());
        Some(stored)
    }

    /// Deletes a response of a key. Returns whether the response was stored.
    pub(super) fn remove(&self, owner: Owner, id: &str) -> bool {
        let mut state = self.state();
        let entry = state.by_id.get(id);
        let is_stored = entry.is_some_and(|entry| entry.stored.owner == owner);
        if is_stored {
            state.remove(id);
        }
        is_stored
    }

    /// Returns the items with the given ids from the stored responses of a key.
    pub(super) fn items(&self, owner: Owner, ids: &HashSet<&str>) -> HashMap<String, Arc<Item>> {
        let state = self.state();
        let responses = state.by_id.values().map(|entry| &entry.stored);
        let responses = responses.filter(|stored| stored.owner == owner && !ids.is_empty());
        let items = responses.flat_map(|stored| stored.input.iter().chain(&stored.output));
        items
            .filter(|item| ids.contains(item.id()))
            .map(|item| (item.id().to_owned(), Arc::clone(item)))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, StoreState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreState {
    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    fn remove(&mut self, id: &str) {
        if let Some(entry) = self.by_id.remove(id) {
            self.bytes -= entry.stored.bytes;
            let owner = entry.stored.owner;
            let usage = self.usage_by_owner.entry(owner).or_default();
            usage.ids_by_use.remove(&entry.last_use);
            usage.bytes -= entry.stored.bytes;
            if usage.ids_by_use.is_empty() {
                self.usage_by_owner.remove(&owner);
            }
        }
    }

    /// Returns the least recently used response of the key with the largest `size`. Among keys of equal size, prefers
    /// `owner`, then the key with the least recently used response.
    fn eviction_candidate(
        &self,
        owner: Owner,
        size: impl Fn(&KeyUsage) -> usize,
    ) -> Option<String> {
        let candidates = self.usage_by_owner.iter().filter_map(|(key, usage)| {
            let (last_use, id) = usage.ids_by_use.first_key_value()?;
            Some(((size(usage), *key == owner, Reverse(*last_use)), id))
        });
        candidates
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, id)| id.clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::response::initial_response;
    use super::*;

    const NO_KEYS: Owner = None;

    fn response(id: &str) -> types::ResponseObject {
        let body = serde_json::from_value(json!({})).unwrap();
        types::ResponseObject {
            id: id.to_owned(),
            ..initial_response(&body, "tiny", true)
        }
    }

    fn message(text: &str) -> Arc<Item> {
        let item = json!({
            "id": format!("msg_{text}"), "type": "message", "role": "user", "status": "completed",
            "content": [{"type": "input_text", "text": text}],
        });
        Item::new(serde_json::from_value(item).unwrap())
    }

    fn put(store: &ResponseStore, owner: Owner, id: &str, input: &[Arc<Item>]) {
        store.put(StoredResponse::new(owner, input.to_vec(), response(id)));
    }

    #[track_caller]
    fn check(store: &ResponseStore, ids: &[&str]) {
        let mut stored: Vec<_> = store.state().by_id.keys().cloned().collect();
        stored.sort();
        assert_eq!(stored, ids);
        let state = store.state();
        let bytes: usize = state.by_id.values().map(|entry| entry.stored.bytes).sum();
        let usage_by_owner = || state.usage_by_owner.values();
        assert_eq!(
            (
                state.bytes,
                usage_by_owner().map(|usage| usage.bytes).sum::<usize>(),
                usage_by_owner()
                    .map(|usage| usage.ids_by_use.len())
                    .sum::<usize>(),
            ),
            (bytes, bytes, state.by_id.len())
        );
        assert!(usage_by_owner().all(|usage| !usage.ids_by_use.is_empty()));
    }

    #[test]
    fn evicts_the_least_recently_used_response() {
        let store = ResponseStore::new(2);
        put(&store, NO_KEYS, "a", &[]);
        put(&store, NO_KEYS, "b", &[]);
        assert!(store.get(NO_KEYS, "a").is_some());
        put(&store, NO_KEYS, "c", &[]);
        check(&store, &["a", "c"]);
        // A response replaces the stored response with the same id.
        put(&store, NO_KEYS, "a", &[message("x")]);
        check(&store, &["a", "c"]);
        assert!(store.remove(NO_KEYS, "a") && !store.remove(NO_KEYS, "a"));
        check(&store, &["c"]);
    }

    #[test]
    fn evicts_responses_over_the_byte_limit() {
        let mut store = ResponseStore::new(100);
        let response_bytes = StoredResponse::new(NO_KEYS, Vec::new(), response("a")).bytes;
        store.max_bytes = 3 * response_bytes;
        for id in ["a", "b", "c", "d"] {
            put(&store, NO_KEYS, id, &[]);
        }
        check(&store, &["b", "c", "d"]);
        let long = message(&"x".repeat(response_bytes / 2));
        put(&store, NO_KEYS, "e", std::slice::from_ref(&long));
        check(&store, &["e"]);
        // A response over the byte limit is not stored.
        put(&store, NO_KEYS, "f", &[long.clone(), long.clone(), long]);
        check(&store, &[]);
    }

    #[test]
    fn a_key_within_its_equal_share_loses_no_responses() {
        let (ada, ben) = (Some(KeyId::of("ada")), Some(KeyId::of("ben")));
        let mut store = ResponseStore::new(4);
        for id in ["a1", "a2", "a3"] {
            put(&store, ada, id, &[]);
        }
        for number in 0..100 {
            put(&store, ben, &format!("b{number:02}"), &[]);
        }
        check(&store, &["a2", "a3", "b98", "b99"]);

        // Keys share the byte limit equally, too, even if a single response exceeds the limit.
        let response_bytes = StoredResponse::new(ada, Vec::new(), response("a1")).bytes;
        store.max_bytes = 4 * response_bytes + 400;
        let long = message(&"x".repeat(response_bytes / 2));
        put(&store, ben, "b_long", std::slice::from_ref(&long));
        put(&store, ben, "b_more", std::slice::from_ref(&long));
        check(&store, &["a2", "a3", "b_more"]);
        put(
            &store,
            ben,
            "b_huge",
            &[long.clone(), long.clone(), long.clone(), long],
        );
        check(&store, &["a2", "a3"]);
    }

    #[test]
    fn a_key_sees_only_its_own_responses() {
        let (ada, ben) = (Some(KeyId::of("ada")), Some(KeyId::of("ben")));
        let store = ResponseStore::new(2);
        put(&store, ada, "a", &[message("x")]);
        assert!(store.get(ben, "a").is_none() && store.get(NO_KEYS, "a").is_none());
        assert!(!store.remove(ben, "a"));
        let ids = HashSet::from(["msg_x", "msg_y"]);
        assert!(store.items(ben, &ids).is_empty());
        assert_eq!(store.items(ada, &ids).len(), 1);
        assert!(store.get(ada, "a").is_some());
    }

    #[test]
    fn a_store_of_size_0_stores_nothing() {
        let store = ResponseStore::new(0);
        put(&store, NO_KEYS, "a", &[]);
        check(&store, &[]);
        assert!(!store.is_enabled());
    }
}
