//! SentencePiece's normalization table (`precompiled_charsmap`), which replaces, for example, full-width characters and
//! letters with combining marks. Lookups check every index, so a corrupt table causes no panic: an index outside the
//! table finds no replacement.
//!
//! Source: `sentencepiece/src/normalizer.cc`; the trie is a double array of darts-clone.

use std::iter;

use unicode_segmentation::UnicodeSegmentation;

use super::tokenizer_error::TokenizerError;

/// Maximum size of a table; the largest known tables have 300,000 bytes.
const MAX_BYTES: usize = 8 << 20;
/// Maximum length of a replacement in bytes.
const MAX_REPLACEMENT_BYTES: usize = 256;
/// Longer grapheme clusters are looked up character by character (as by `Precompiled` of the `tokenizers` crate).
const MAX_CLUSTER_BYTES: usize = 5;

/// A trie that maps byte strings to their replacements.
#[derive(Debug)]
pub(super) struct Charsmap {
    /// The double array. A leaf contains the offset of its replacement in `replacements`.
    units: Vec<u32>,
    /// All replacements, each terminated by U+0000.
    replacements: String,
}

impl Charsmap {
    /// Parses a table: the size of the double array in bytes (u32, little-endian), the double array, the replacements.
    ///
    /// # Errors
    /// If the table is truncated or too large, or a replacement is too long or not UTF-8.
    pub(super) fn new(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let invalid = |reason: &str| TokenizerError::Charsmap(reason.to_owned());
        if bytes.len() > MAX_BYTES {
            return Err(invalid("it is too large"));
        }
        let (size, rest) = bytes
            .split_first_chunk()
            .ok_or_else(|| invalid("the size field is missing"))?;
        let units = usize::try_from(u32::from_le_bytes(*size)).ok();
        let parts = units.and_then(|units| rest.split_at_checked(units));
        let (units, replacements) = parts.ok_or_else(|| invalid("it is truncated"))?;
        let (units, _) = units.as_chunks();
        let replacements =
            str::from_utf8(replacements).map_err(|_| invalid("a replacement is not UTF-8"))?;
        if replacements
            .split('\0')
            .any(|replacement| replacement.len() > MAX_REPLACEMENT_BYTES)
        {
            return Err(invalid("a replacement is too long"));
        }
        Ok(Self {
            units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: replacements.to_owned(),
        })
    }

    /// Returns the maximum factor by which normalization lengthens a text.
    pub(super) fn growth_factor(&self) -> usize {
        let longest = self.replacements.split('\0').map(str::len).max();
        longest.unwrap_or(0).max(1)
    }

    /// Returns the prefixes of the text that have a replacement, shortest first: length in bytes and replacement.
    fn prefix_matches<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        let unit = |index: usize| self.units.get(index).copied();
        let mut index = unit(0).map_or(0, offset);
        let mut bytes = text.bytes().enumerate();
        let step = move || {
            let (before, byte) = bytes.next().filter(|(_, byte)| *byte != 0)?;
            index ^= usize::from(byte);
            let node = unit(index).filter(|unit| label(*unit) == u32::from(byte))?;
            index ^= offset(node);
            let leaf = || unit(index).and_then(|leaf| self.replacement(leaf));
            Some((before + 1, has_leaf(node).then(leaf).flatten()))
        };
        iter::from_fn(step).filter_map(|(length, replacement)| {
            let replacement = replacement.filter(|_| text.is_char_boundary(length))?;
            Some((length, replacement))
        })
    }

    fn replacement(&self, leaf: u32) -> Option<&str> {
        let start = usize::try_from(leaf & !(1 << 31)).ok()?;
        self.replacements.get(start..)?.split('\0').next()
    }

    /// Replaces the longest match at each position, as SentencePiece does.
    pub(super) fn normalize(&self, text: &str) -> String {
        let mut normalized = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (length, replacement) = match self.prefix_matches(rest).last() {
                Some(found) => found,
                None => (first.len_utf8(), &rest[..first.len_utf8()]),
            };
            normalized.push_str(replacement);
            rest = &rest[length..];
        }
        normalized
    }

    /// Replaces each grapheme cluster with the replacement of its shortest matching prefix. Without a match, replaces
    /// each character of the cluster. The `tokenizers` crate does the same.
    pub(super) fn normalize_graphemes(&self, text: &str) -> String {
        let mut normalized = String::with_capacity(text.len());
        for cluster in text.graphemes(true) {
            let found = self.prefix_matches(cluster).next();
            match found.filter(|_| cluster.len() <= MAX_CLUSTER_BYTES) {
                Some((_, replacement)) => normalized.push_str(replacement),
                None => cluster.chars().for_each(|character| {
                    let mut bytes = [0; 4];
                    let character: &str = character.encode_utf8(&mut bytes);
                    let found = self.prefix_matches(character).next();
                    normalized.push_str(found.map_or(character, |(_, replacement)| replacement));
                }),
            }
        }
        normalized
    }
}

// Bit fields of a unit of the double array.

fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

fn label(unit: u32) -> u32 {
    unit & (1 << 31 | 0xFF)
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) as usize) << ((unit & 1 << 9) >> 6)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;
    use tokenizers::normalizers::Precompiled;
    use tokenizers::{NormalizedString, Normalizer};

    use super::*;

    /// Returns the charsmap of a recorded vocabulary.
    fn table() -> Vec<u8> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let recorded = std::fs::read(folder.join("unigram.json")).unwrap();
        let recorded: serde_json::Value = serde_json::from_slice(&recorded).unwrap();
        let table = recorded["sentencepiece"][0]["charsmap"].as_str().unwrap();
        STANDARD.decode(table).unwrap()
    }

    #[test]
    fn the_longest_match_is_replaced() {
        let charsmap = Charsmap::new(&table()).unwrap();
        let normalized =
            charsmap.normalize("e\u{301}\u{302}e\u{301} \u{FB03}\u{FEFF}\u{0}x\u{3000}");
        assert_eq!(normalized, "\u{1EBF}\u{E9} ffi\u{0}x ");
    }

    #[test]
    fn rejects_invalid_charsmaps() {
        let mut long = 0_u32.to_le_bytes().to_vec();
        long.extend([b'a'; MAX_REPLACEMENT_BYTES + 1]);
        for (bytes, problem) in [
            (&[][..], "size field is missing"),
            (&[9, 0, 0, 0, 1], "truncated"),
            (&[0, 0, 0, 0, 0xFF], "not UTF-8"),
            (&long, "too long"),
        ] {
            let error = Charsmap::new(bytes).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    proptest! {
        #[test]
        fn grapheme_normalization_equals_that_of_the_tokenizers_crate(
            text in "([a-eE ]|[\u{300}-\u{303}]|[\u{FB00}-\u{FB06}]|[\u{FF00}-\u{FFA0}]|\\PC){0,24}",
        ) {
            let mut expected = NormalizedString::from(text.as_str());
            Precompiled::from(&table()).unwrap().normalize(&mut expected).unwrap();
            let charsmap = Charsmap::new(&table()).unwrap();
            prop_assert_eq!(charsmap.normalize_graphemes(&text), expected.get());
        }

        #[test]
        fn a_corrupt_table_causes_no_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
            text in "\\PC{0,40}",
        ) {
            let mut bytes = table();
            for (index, byte) in changes {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            if let Ok(charsmap) = Charsmap::new(&bytes) {
                let max_bytes = MAX_REPLACEMENT_BYTES * text.len();
                prop_assert!(charsmap.normalize(&text).len() <= max_bytes);
                prop_assert!(charsmap.normalize_graphemes(&text).len() <= max_bytes);
            }
        }
    }
}
