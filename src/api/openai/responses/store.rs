//! Responses that are kept for the keys that asked for them, within limits of count and bytes. When a limit is exceeded,
//! the key that holds most loses its least recently used response: so a key that holds no more than an equal share loses
//! nothing to others. A response whose predecessor is gone is still whole: it holds everything that it was written from.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::item::Item;
use crate::api::types;
use crate::model::KeyId;

/// Bytes of all that is kept, as JSON. What several responses were written from is counted for each of them.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// The key that a response is kept for; `None` on a server without keys.
type Owner = Option<KeyId>;

/// A response that ended.
pub(super) struct Kept {
    /// As it was answered.
    pub response: types::ResponseObject,
    /// What it was written from.
    pub input: Vec<Arc<Item>>,
    /// What it says and calls.
    pub output: Vec<Arc<Item>>,
    owner: Owner,
    bytes: usize,
}

impl Kept {
    /// Kept for `owner`.
    pub(super) fn new(
        owner: Owner,
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
            owner,
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
    shares: HashMap<Owner, Share>,
    uses: u64,
    bytes: usize,
}

/// What is kept for one key.
#[derive(Default)]
struct Share {
    /// Ids, the least recently used first.
    by_use: BTreeMap<u64, String>,
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

    /// Keeps a response, in the place of the least recently used ones of the key that holds most.
    pub(super) fn put(&self, kept: Kept) {
        let mut shelf = self.shelf();
        shelf.take(&kept.response.id);
        shelf.bytes += kept.bytes;
        let (id, owner, used) = (kept.response.id.clone(), kept.owner, shelf.next_use());
        let share = shelf.shares.entry(owner).or_default();
        share.by_use.insert(used, id.clone());
        share.bytes += kept.bytes;
        let kept = Arc::new(kept);
        shelf.by_id.insert(id, Place { kept, used });
        loop {
            let oldest = if shelf.by_id.len() > self.most {
                shelf.oldest_of_largest(owner, |share| share.by_use.len())
            } else if shelf.bytes > self.most_bytes {
                shelf.oldest_of_largest(owner, |share| share.bytes)
            } else {
                break;
            };
            let Some(oldest) = oldest else { break };
            shelf.take(&oldest);
        }
    }

    /// A response of that key, which is used with that.
    pub(super) fn get(&self, owner: Owner, id: &str) -> Option<Arc<Kept>> {
        let mut shelf = self.shelf();
        let used = shelf.next_use();
        let place = shelf.by_id.get_mut(id);
        let place = place.filter(|place| place.kept.owner == owner)?;
        let before = std::mem::replace(&mut place.used, used);
        let kept = Arc::clone(&place.kept);
        let share = shelf.shares.entry(owner).or_default();
        share.by_use.remove(&before);
        share.by_use.insert(used, id.to_owned());
        Some(kept)
    }

    /// Forgets a response of that key; whether there was one.
    pub(super) fn remove(&self, owner: Owner, id: &str) -> bool {
        let mut shelf = self.shelf();
        let place = shelf.by_id.get(id);
        let own = place.is_some_and(|place| place.kept.owner == owner);
        if own {
            shelf.take(id);
        }
        own
    }

    /// Those of these items that responses of that key hold.
    pub(super) fn items(&self, owner: Owner, ids: &HashSet<&str>) -> HashMap<String, Arc<Item>> {
        let shelf = self.shelf();
        let own = shelf.by_id.values().map(|place| &place.kept);
        let own = own.filter(|kept| kept.owner == owner && !ids.is_empty());
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
            self.bytes -= place.kept.bytes;
            let owner = place.kept.owner;
            let share = self.shares.entry(owner).or_default();
            share.by_use.remove(&place.used);
            share.bytes -= place.kept.bytes;
            if share.by_use.is_empty() {
                self.shares.remove(&owner);
            }
        }
    }

    /// The least recently used response of the key that holds most. Of several, `owner` loses its own first, then the one
    /// that was not used for the longest.
    fn oldest_of_largest(&self, owner: Owner, size: impl Fn(&Share) -> usize) -> Option<String> {
        let oldest = self.shares.iter().filter_map(|(key, share)| {
            let (used, id) = share.by_use.first_key_value()?;
            Some(((size(share), *key == owner, Reverse(*used)), id))
        });
        oldest
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, id)| id.clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::response::begun;
    use super::*;

    const EVERYBODY: Owner = None;

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

    fn put(store: &ResponseStore, owner: Owner, id: &str, input: &[Arc<Item>]) {
        store.put(Kept::new(owner, input.to_vec(), response(id)));
    }

    #[track_caller]
    fn check(store: &ResponseStore, ids: &[&str]) {
        let mut kept: Vec<_> = store.shelf().by_id.keys().cloned().collect();
        kept.sort();
        assert_eq!(kept, ids);
        let shelf = store.shelf();
        let bytes: usize = shelf.by_id.values().map(|place| place.kept.bytes).sum();
        let shares = || shelf.shares.values();
        assert_eq!(
            (
                shelf.bytes,
                shares().map(|share| share.bytes).sum::<usize>(),
                shares().map(|share| share.by_use.len()).sum::<usize>(),
            ),
            (bytes, bytes, shelf.by_id.len())
        );
        assert!(shares().all(|share| !share.by_use.is_empty()));
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
    fn a_key_loses_nothing_of_its_share_to_another() {
        let (ada, ben) = (Some(KeyId::of("ada")), Some(KeyId::of("ben")));
        let mut store = ResponseStore::new(4);
        for id in ["a1", "a2", "a3"] {
            put(&store, ada, id, &[]);
        }
        for number in 0..100 {
            put(&store, ben, &format!("b{number:02}"), &[]);
        }
        check(&store, &["a2", "a3", "b98", "b99"]);

        // The same holds for bytes, also where one response alone is larger than all that may be kept.
        let one = Kept::new(ada, Vec::new(), response("a1")).bytes;
        store.most_bytes = 4 * one + 400;
        let long = message(&"x".repeat(one / 2));
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
    fn each_sees_its_own() {
        let (ada, ben) = (Some(KeyId::of("ada")), Some(KeyId::of("ben")));
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
