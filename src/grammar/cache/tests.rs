use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::super::tests::compiler;
use super::*;
use crate::token::TokenId;

fn schema(json: &str) -> GrammarSource {
    GrammarSource::JsonSchema {
        schema: serde_json::from_str(json).unwrap(),
        strict: false,
    }
}

fn key(name: &str) -> CacheKey {
    CacheKey(name.to_owned())
}

/// A constraint that allows any text.
fn constraint() -> Constraint {
    Constraint {
        reasoning: None,
        forced: Vec::new(),
        relaxations: Arc::default(),
        digit_limit: None,
        matcher: None,
    }
}

/// Looks up a key, and returns whether it was compiled, with this estimated size.
fn compiles(cache: &GrammarCache, name: &str, bytes: usize) -> bool {
    let mut is_compiled = false;
    let compile = || {
        is_compiled = true;
        Ok((constraint(), bytes))
    };
    cache
        .get_or_compile(key(name), &CancelFlag::default(), compile)
        .unwrap();
    is_compiled
}

#[test]
fn everything_that_changes_the_grammar_is_in_the_key() {
    let compiler = compiler();
    let cancel = CancelFlag::default();
    let compile = |source: &GrammarSource, tokenization, scope| {
        compiler
            .compile_cached(source, tokenization, scope, &cancel)
            .unwrap()
    };
    let ab = r#"{"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}}"#;
    let ba = r#"{"type": "object", "properties": {"b": {"const": 2}, "a": {"const": 1}}}"#;
    let first = compile(&schema(ab), Tokenization::Any, 0);
    assert!(Arc::ptr_eq(
        &first,
        &compile(&schema(ab), Tokenization::Any, 0)
    ));
    let strict = GrammarSource::JsonSchema {
        schema: serde_json::from_str::<Value>(ab).unwrap(),
        strict: true,
    };
    for (source, tokenization, scope) in [
        // Equal as JSON values, but the properties are generated in another order.
        (schema(ba), Tokenization::Any, 0),
        (strict, Tokenization::Any, 0),
        (schema(ab), Tokenization::Canonical, 0),
        (schema(ab), Tokenization::Any, 1),
        (GrammarSource::Regex("a".to_owned()), Tokenization::Any, 0),
        (
            GrammarSource::Lark("start: /a/".to_owned()),
            Tokenization::Any,
            0,
        ),
    ] {
        let other = compile(&source, tokenization, scope);
        let is_shared = Arc::ptr_eq(&first, &other);
        assert!(!is_shared, "{source:?} {tokenization:?} {scope}");
        assert!(Arc::ptr_eq(&other, &compile(&source, tokenization, scope)));
    }
}

#[test]
fn a_sequence_does_not_change_the_cached_grammar() {
    let compiler = compiler();
    let source = GrammarSource::Regex("a[bc]d".to_owned());
    let cancel = CancelFlag::default();
    let mut masks = Vec::new();
    for _ in 0..2 {
        let cached = compiler.compile_cached(&source, Tokenization::Any, 0, &cancel);
        let mut constraint = cached.unwrap().deep_clone();
        for byte in *b"abd" {
            let mut logits = vec![0.0; 400];
            constraint.mask(&mut logits).unwrap();
            masks.push(logits);
            constraint.accept(TokenId(byte.into())).unwrap();
        }
    }
    assert_eq!(masks[..3], masks[3..]);
    assert_ne!(masks[0], masks[1]);
}

#[test]
fn the_least_recently_used_grammars_are_evicted() {
    let cache = GrammarCache::default();
    let names: Vec<String> = (0..=MAX_CACHED_GRAMMARS)
        .map(|number| number.to_string())
        .collect();
    for name in &names[..MAX_CACHED_GRAMMARS] {
        assert!(compiles(&cache, name, 1));
    }
    assert!(!compiles(&cache, &names[0], 1));
    assert!(compiles(&cache, &names[MAX_CACHED_GRAMMARS], 1));
    assert!(!compiles(&cache, &names[0], 1));
    assert!(compiles(&cache, &names[1], 1));
}

#[test]
fn the_size_of_all_grammars_is_limited() {
    let cache = GrammarCache::default();
    assert!(compiles(&cache, "a", MAX_CACHED_BYTES / 2));
    assert!(compiles(&cache, "b", MAX_CACHED_BYTES / 2 - 2));
    assert!(!compiles(&cache, "a", 0) && !compiles(&cache, "b", 0));
    // One byte more than the limit: the source counts, too.
    assert!(compiles(&cache, "c", 0));
    assert!(!compiles(&cache, "b", 0) && compiles(&cache, "a", 0));
    // A grammar that can never fit evicts no others.
    assert!(compiles(&cache, "d", MAX_CACHED_BYTES + 1));
    assert!(compiles(&cache, "d", MAX_CACHED_BYTES + 1));
    assert!(!compiles(&cache, "b", 0));
}

#[test]
fn failed_and_cancelled_compilations_are_not_cached() {
    let (cache, cancel) = (GrammarCache::default(), CancelFlag::default());
    for error in [
        GrammarError::Cancelled,
        GrammarError::Rejected("invalid".to_owned()),
    ] {
        let failed = cache.get_or_compile(key("a"), &cancel, || Err(error.clone()));
        assert_eq!(failed.err(), Some(error));
        assert!(lock(&cache.0).is_empty());
    }
    assert!(compiles(&cache, "a", 1));
    let cached = cache.get_or_compile(key("a"), &cancel, || Err(GrammarError::Cancelled));
    assert!(cached.is_ok());
}

#[test]
fn concurrent_calls_compile_once() {
    let (cache, cancel) = (GrammarCache::default(), CancelFlag::default());
    let compilations = AtomicUsize::new(0);
    let barrier = Barrier::new(8);
    let compile = || {
        compilations.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(50));
        Ok((constraint(), 1))
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                cache.get_or_compile(key("a"), &cancel, compile).unwrap();
            });
        }
    });
    assert_eq!(compilations.load(Ordering::Relaxed), 1);
}

#[test]
fn a_cancelled_call_does_not_wait_for_another_compilation() {
    let cache = GrammarCache::default();
    let cancel = CancelFlag::default();
    cancel.cancel();
    let compiled = cache.get_or_compile(key("a"), &CancelFlag::default(), || {
        let waiting = cache.get_or_compile(key("a"), &cancel, || unreachable!());
        assert_eq!(waiting.err(), Some(GrammarError::Cancelled));
        Ok((constraint(), 1))
    });
    assert!(compiled.is_ok());
}
