use proptest::prelude::*;

use super::super::tokenizer::tests::tokenizer_of;
use super::*;

/// The pieces that come, the end included, and which stop string ended them.
fn stream(tokens: &[&[u8]], stops: &[&str]) -> (Vec<String>, Option<usize>) {
    let (tokenizer, ids) = tokenizer_of(tokens);
    let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
    let mut stream = TextStream::new(Arc::new(tokenizer), stops);
    let mut stopped_by = None;
    let mut pieces = Vec::new();
    for id in ids {
        let progress = stream.push(id);
        stopped_by = progress.stopped_by;
        pieces.push(progress.text);
    }
    pieces.push(stream.finish());
    (pieces, stopped_by)
}

#[track_caller]
fn check(tokens: &[&[u8]], stops: &[&str], pieces: &[&str], stopped_by: Option<usize>) {
    assert_eq!(
        stream(tokens, stops),
        (
            pieces.iter().map(|&piece| piece.to_owned()).collect(),
            stopped_by
        )
    );
}

#[test]
fn only_whole_characters_come() {
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
fn it_says_when_a_character_is_unfinished() {
    let (tokenizer, ids) = tokenizer_of(&[b"\xE2\x82", b"\xAC"]);
    let mut stream = TextStream::new(Arc::new(tokenizer), Vec::new());
    assert!(!stream.mid_character());
    stream.push(ids[0]);
    assert!(stream.mid_character());
    stream.push(ids[1]);
    assert!(!stream.mid_character());
}

#[test]
fn what_may_become_a_stop_string_is_held_back() {
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
    // The first to be complete, of two at once the longer; an empty one never is.
    check(&[b"abcd"], &["", "abcd", "bc"], &["a", ""], Some(2));
    check(&[b"xabc"], &["bc", "abc"], &["x", ""], Some(1));
    check(&[b"a\xE2\x82", b"\xACb"], &["€"], &["a", "", ""], Some(0));
}

#[test]
fn after_the_end_there_is_nothing() {
    check(&[b"a.", b"b", b"\xE2"], &["."], &["a", "", "", ""], Some(0));
}

#[test]
fn an_unfinished_character_may_complete_a_stop_string() {
    check(&[b"a\xE2"], &["a\u{FFFD}"], &["", ""], None);
}

#[test]
fn control_tokens_are_no_text() {
    let (tokenizer, ids) = tokenizer_of(&[b"a"]);
    let end = tokenizer.end_of_generation()[0];
    assert_eq!(tokenizer.decode(&[end]).unwrap(), "<|im_end|>");
    let mut stream = TextStream::new(Arc::new(tokenizer), Vec::new());
    assert_eq!(stream.push(end).text, "");
    assert_eq!(stream.push(ids[0]).text, "a");
    assert_eq!(stream.push(TokenId(u32::MAX)).text, "");
}

/// Where the text ends by the definition: before the longest of those stop strings that are complete
/// the earliest.
fn cut<'a>(text: &'a str, stops: &[&str]) -> &'a str {
    for end in 0..=text.len() {
        let complete = stops
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

/// Bytes that often are, and often break, characters and stop strings.
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
    fn any_split_into_tokens_gives_the_text_up_to_the_stop(
        bytes in bytes(),
        splits in prop::collection::vec(1_usize..5, 1..20),
        stops in prop::collection::vec("[abé€🙂\u{FFFD}]{0,4}", 0..4),
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
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let (pieces, stopped_by) = stream(&tokens, &stops);
        let whole = String::from_utf8_lossy(&bytes);
        let expected = cut(&whole, &stops);
        prop_assert_eq!(pieces.concat(), expected);
        if let Some(number) = stopped_by {
            prop_assert!(whole[expected.len()..].starts_with(stops[number]));
        }
        // At every moment: what has come is followed by what is still to come, and is never taken back.
        let mut come = String::new();
        for piece in pieces {
            come.push_str(&piece);
            prop_assert!(expected.starts_with(&come));
        }
    }
}

#[test]
fn a_line_that_is_indented_too_little_ends_the_text() {
    for (tokens, least, expected, ends) in [
        (vec!["a\n  b", "\n c", "d"], 2, "a\n  b\n ", true),
        (vec!["a\n  b\n  c"], 2, "a\n  b\n  c", false),
        // The first line, empty lines and their line breaks.
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
        let stops = vec!["\n\n\n".to_owned()];
        let mut stream = TextStream::new(Arc::new(tokenizer), stops).indented(least);
        let mut text: String = ids.into_iter().map(|id| stream.push(id).text).collect();
        assert_eq!(stream.is_dedented(), ends, "{tokens:?}");
        text += &stream.finish();
        assert_eq!(text, expected, "{tokens:?}");
    }
}
