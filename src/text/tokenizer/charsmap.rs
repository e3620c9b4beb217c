//! SentencePiece's table of what stands for what before a text is cut (`precompiled_charsmap`): full width for half, one
//! character for a letter and its mark. It is read as it is used, so that whatever is wrong in it stands for nothing.
//!
//! Source: `sentencepiece/src/normalizer.cc`; the double array is darts-clone's.

use std::iter;

use unicode_segmentation::UnicodeSegmentation;

use super::TokenizerError;

/// Most bytes of a table; the largest known have 300 thousand.
const MOST_BYTES: usize = 8 << 20;
/// Most bytes that stand for one.
const MOST_GROWTH: usize = 256;
/// A longer cluster of characters is looked up character by character (`tokenizers`' `Precompiled`).
const MOST_CLUSTER_BYTES: usize = 5;

/// The table.
#[derive(Debug)]
pub(in crate::text) struct Charsmap {
    /// A double array: nodes, and where in `texts` is what stands for the bytes on the way to them.
    units: Vec<u32>,
    /// One after the other, each ended by U+0000.
    texts: String,
}

impl Charsmap {
    /// Reads the table: its first number is the size of the double array in bytes.
    ///
    /// # Errors
    /// It ends too early, its texts are none, or one of them is too long.
    pub(in crate::text) fn new(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let problem = |what: &str| TokenizerError::Charsmap(what.to_owned());
        if bytes.len() > MOST_BYTES {
            return Err(problem("it is too large"));
        }
        let (size, rest) = bytes
            .split_first_chunk()
            .ok_or_else(|| problem("it has no size"))?;
        let units = usize::try_from(u32::from_le_bytes(*size)).ok();
        let parts = units.and_then(|units| rest.split_at_checked(units));
        let (units, texts) = parts.ok_or_else(|| problem("it ends too early"))?;
        let (units, _) = units.as_chunks();
        let texts = str::from_utf8(texts).map_err(|_| problem("its texts are not UTF-8"))?;
        if texts.split('\0').any(|text| text.len() > MOST_GROWTH) {
            return Err(problem("a text of it is too long"));
        }
        Ok(Self {
            units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            texts: texts.to_owned(),
        })
    }

    /// The most bytes that stand for one.
    pub(in crate::text) fn growth(&self) -> usize {
        let longest = self.texts.split('\0').map(str::len).max();
        longest.unwrap_or(0).max(1)
    }

    /// What stands for beginnings of the text, the shortest first, with their lengths in bytes.
    fn beginnings<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        let unit = |place: usize| self.units.get(place).copied();
        let mut place = unit(0).map_or(0, offset);
        let mut bytes = text.bytes().enumerate();
        let step = move || {
            let (before, byte) = bytes.next().filter(|(_, byte)| *byte != 0)?;
            place ^= usize::from(byte);
            let found = unit(place).filter(|unit| label(*unit) == u32::from(byte))?;
            place ^= offset(found);
            let text = has_leaf(found).then(|| unit(place).and_then(|leaf| self.text(leaf)));
            Some((before + 1, text.flatten()))
        };
        iter::from_fn(step).filter_map(|(length, found)| {
            let found = found.filter(|_| text.is_char_boundary(length))?;
            Some((length, found))
        })
    }

    /// What a leaf stands for.
    fn text(&self, leaf: u32) -> Option<&str> {
        let place = usize::try_from(leaf & !(1 << 31)).ok()?;
        self.texts.get(place..)?.split('\0').next()
    }

    /// The text with the longest beginning replaced at each place, as SentencePiece does it.
    pub(super) fn replaced(&self, text: &str) -> String {
        let mut replaced = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (length, text) = match self.beginnings(rest).last() {
                Some(found) => found,
                None => (first.len_utf8(), &rest[..first.len_utf8()]),
            };
            replaced.push_str(text);
            rest = &rest[length..];
        }
        replaced
    }

    /// The text with clusters of characters replaced, or each of their characters: whole, by what stands for their shortest
    /// beginning, as the crate `tokenizers` does it.
    pub(super) fn replaced_by_clusters(&self, text: &str) -> String {
        let mut replaced = String::with_capacity(text.len());
        for cluster in text.graphemes(true) {
            let found = self.beginnings(cluster).next();
            match found.filter(|_| cluster.len() <= MOST_CLUSTER_BYTES) {
                Some((_, text)) => replaced.push_str(text),
                None => cluster.chars().for_each(|character| {
                    let mut bytes = [0; 4];
                    let character: &str = character.encode_utf8(&mut bytes);
                    let found = self.beginnings(character).next();
                    replaced.push_str(found.map_or(character, |(_, text)| text));
                }),
            }
        }
        replaced
    }
}

// The bits of a unit.

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

    /// The table of a recorded vocabulary.
    fn table() -> Vec<u8> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let recorded = std::fs::read(folder.join("unigram.json")).unwrap();
        let recorded: serde_json::Value = serde_json::from_slice(&recorded).unwrap();
        let table = recorded["sentencepiece"][0]["charsmap"].as_str().unwrap();
        STANDARD.decode(table).unwrap()
    }

    #[test]
    fn the_longest_beginning_is_replaced() {
        let charsmap = Charsmap::new(&table()).unwrap();
        let replaced = charsmap.replaced("e\u{301}\u{302}e\u{301} \u{FB03}\u{FEFF}\u{0}x\u{3000}");
        assert_eq!(replaced, "\u{1EBF}\u{E9} ffi\u{0}x ");
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let mut long = 0_u32.to_le_bytes().to_vec();
        long.extend([b'a'; MOST_GROWTH + 1]);
        for (bytes, problem) in [
            (&[][..], "no size"),
            (&[9, 0, 0, 0, 1], "ends too early"),
            (&[0, 0, 0, 0, 0xFF], "not UTF-8"),
            (&long, "too long"),
        ] {
            let error = Charsmap::new(bytes).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    proptest! {
        #[test]
        fn clusters_are_replaced_as_the_crate_does_it(
            text in "([a-eE ]|[\u{300}-\u{303}]|[\u{FB00}-\u{FB06}]|[\u{FF00}-\u{FFA0}]|\\PC){0,24}",
        ) {
            let mut wanted = NormalizedString::from(text.as_str());
            Precompiled::from(&table()).unwrap().normalize(&mut wanted).unwrap();
            let charsmap = Charsmap::new(&table()).unwrap();
            prop_assert_eq!(charsmap.replaced_by_clusters(&text), wanted.get());
        }

        #[test]
        fn a_table_may_be_anything(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
            text in "\\PC{0,40}",
        ) {
            let mut bytes = table();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Ok(charsmap) = Charsmap::new(&bytes) {
                let most = MOST_GROWTH * text.len();
                prop_assert!(charsmap.replaced(&text).len() <= most);
                prop_assert!(charsmap.replaced_by_clusters(&text).len() <= most);
            }
        }
    }
}
