use proptest::prelude::*;

use super::super::tokenizer::tests::tokenizer_of;
use super::*;

/// Returns the text that each token and the end emit, and the index of the stop string that ended the text.
fn stream(tokens: &[&[u8]], stop_strings: &[&str]) -> (Vec<String>, Option<usize>) {
    let (tokenizer, ids) = tokenizer_of(tokens);
    let stop_strings = stop_strings.iter().map(|&stop| stop.to_owned()).collect();
    let mut stream = TextStream::new(Arc::new(tokenizer), stop_strings);
    let mut stopped_by = None;
    let mut pieces = Vec::new();
    for id in ids {
        let decoded = stream.push(id);
        stopped_by = decoded.stopped_by;
        pieces.push(decoded.text);
    }
    pieces.push(stream.finish());
    (pieces, stopped_by)
}

#[track_caller]
fn check(tokens: &[&[u8]], stop_strings: &[&str], pieces: &[&str], stopped_by: Option<usize>) {
    assert_eq!(
        stream(tokens, stop_strings),
        (
            pieces.iter().map(|&piece| piece.to_owned()).collect(),
            stopped_by
        )
    );
}

#[test]
fn only_whole_characters_are_emitted() {
    check(
        &[b"a", b"\xE2\x82", b"\xAC!"],
        &[],
        &["a", "", "€!", ""],
        None,
    );
    check(&[b"\xF0\x9F", b"x"], &[], &["", "\u{FFFD}x", ""], None);
    check(
        &[b"a\xFF", b"\xF0\x9F\x99"],
        &[],
        &["a\u{FFFD}", "", "\u{FFFD}"],
        None,
    );
}

#[test]
fn reports_an_incomplete_character() {
    let (tokenizer, ids) = tokenizer_of(&[b"\xE2\x82", b"\xAC"]);
    let mut stream = TextStream::new(Arc::new(tokenizer), Vec::new());
    assert!(!stream.ends_mid_character());
    stream.push(ids[0]);
    assert!(stream.ends_mid_character());
    stream.push(ids[1]);
    assert!(!stream.ends_mid_character());
}

#[test]
fn the_start_of_a_stop_string_is_held_back() {
    check(
        &[b"one ST", b"OP two"],
        &["STOP"],
        &["one ", "", ""],
        Some(0),
    );
    check(
        &[b"one ST", b"ART"],
        &["STOP"],
        &["one ", "START", ""],
        None,
    );
    check(&[b"one ST"], &["STOP"], &["one ", "ST"], None);
    check(&[b"STSTO", b"P"], &["STOP"], &["ST", "", ""], Some(0));
    // The first complete stop string wins; of two at the same position, the longer. An empty stop string never matches.
    check(&[b"abcd"], &["", "abcd", "bc"], &["a", ""], Some(2));
    check(&[b"xabc"], &["bc", "abc"], &["x", ""], Some(1));
    check(&[b"a\xE2\x82", b"\xACb"], &["€"], &["a", "", ""], Some(0));
}

#[test]
fn no_text_follows_a_stop_string() {
    check(&[b"a.", b"b", b"\xE2"], &["."], &["a", "", "", ""], Some(0));
}

#[test]
fn the_replacement_of_an_incomplete_character_can_complete_a_stop_string() {
    check(&[b"a\xE2"], &["a\u{FFFD}"], &["", ""], None);
}

#[test]
fn control_tokens_are_skipped() {
    let (tokenizer, ids) = tokenizer_of(&[b"a"]);
    let end = tokenizer.eog_tokens()[0];
    assert_eq!(tokenizer.decode(&[end]).unwrap(), "<|im_end|>");
    let mut stream = TextStream::new(Arc::new(tokenizer), Vec::new());
    assert_eq!(stream.push(end).text, "");
    assert_eq!(stream.push(ids[0]).text, "a");
    assert_eq!(stream.push(TokenId(u32::MAX)).text, "");
}

/// Reference implementation: the text before the longest of the stop strings that are complete first.
fn text_before_stop<'a>(text: &'a str, stop_strings: &[&str]) -> &'a str {
    for end in 0..=text.len() {
        let complete = stop_strings
            .iter()
            .filter(|stop| !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes()))
            .map(|stop| stop.len())
            .max();
        if let Some(length) = complete {
            return &text[..end - length];
        }
    }
    text
}

/// Generates bytes that often form complete or broken characters and stop strings.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..3),
        "[ab]{1,4}".prop_map(String::into_bytes),
        "[é€🙂]".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_split_into_tokens_gives_the_text_before_the_stop_string(
        bytes in bytes(),
        splits in prop::collection::vec(1_usize..5, 1..20),
        stop_strings in prop::collection::vec("[abé€🙂\u{FFFD}]{0,4}", 0..4),
    ) {
        let mut tokens: Vec<&[u8]> = Vec::new();
        let mut rest = &bytes[..];
        for length in splits.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (token, after) = rest.split_at((*length).min(rest.len()));
            tokens.push(token);
            rest = after;
        }
        let stop_strings: Vec<&str> = stop_strings.iter().map(String::as_str).collect();
        let (pieces, stopped_by) = stream(&tokens, &stop_strings);
        let whole = String::from_utf8_lossy(&bytes);
        let expected = text_before_stop(&whole, &stop_strings);
        prop_assert_eq!(pieces.concat(), expected);
        if let Some(index) = stopped_by {
            prop_assert!(whole[expected.len()..].starts_with(stop_strings[index]));
        }
        // After every token, the emitted text is a prefix of the whole text.
        let mut emitted = String::new();
        for piece in pieces {
            emitted.push_str(&piece);
            prop_assert!(expected.starts_with(&emitted));
        }
    }
}

#[test]
fn a_line_with_too_little_indentation_ends_the_text() {
    for (tokens, min_indent, expected, is_stopped) in [
        (vec!["a\n  b", "\n c", "d"], 2, "a\n  b\n ", true),
        (vec!["a\n  b\n  c"], 2, "a\n  b\n  c", false),
        // The first line, empty lines and line breaks are ignored.
        (
            vec!["a", "\n", "\r\n", "\t\tb", "\n", "\nc"],
            1,
            "a\n\r\n\t\tb\n\n",
            true,
        ),
        (vec!["a\nb"], 0, "a\nb", false),
    ] {
        let bytes: Vec<&[u8]> = tokens.iter().map(|token| token.as_bytes()).collect();
        let (tokenizer, ids) = tokenizer_of(&bytes);
        let stop_strings = vec!["\n\n\n".to_owned()];
        let mut stream =
            TextStream::new(Arc::new(tokenizer), stop_strings).with_min_indent(min_indent);
        let mut text: String = ids.into_iter().map(|id| stream.push(id).text).collect();
        assert_eq!(stream.stopped_by_indent(), is_stopped, "{tokens:?}");
        text += &stream.finish();
        assert_eq!(text, expected, "{tokens:?}");
    }
}
