use proptest::prelude::*;
use tokenizers::utils::SysRegex;

use super::*;

#[track_caller]
fn check(expression: &str, text: &str, expected: &[&str]) {
    let matches = LinearRegex::new(expression).unwrap().matches(text);
    let found: Vec<&str> = matches
        .into_iter()
        .map(|(start, end)| &text[start..end])
        .collect();
    assert_eq!(found, expected, "{expression}");
}

#[test]
fn the_first_matching_alternative_wins() {
    check("a|ab|abc", "abcab", &["a", "a"]);
    check("abc|ab|a", "abcab", &["abc", "ab"]);
    check("a+?b?", "aab", &["a", "ab"]);
    check("(?i:'LL|é)", "we'll É", &["'ll", "É"]);
    check(r"[\p{L}&&[^b]]{2}", "abcaaé", &["ca", "aé"]);
}

#[test]
fn lookarounds_and_anchors_consume_no_text() {
    check(r"\s+(?!\S)|\s+", "a   b  ", &["  ", " ", "  "]);
    check(r"(?<=a)b|(?<!a)c", "abcacbc", &["b", "c", "c"]);
    check("(?=(?:[0-9]{3})+(?![0-9]))", "1234567", &["", ""]);
    check(
        r"^b|b$|\Ba\b|\Ac|d\Z",
        "cb\nb\nca d\n",
        &["c", "b", "b", "a", "d"],
    );
}

#[test]
fn possessive_repetitions_of_a_character_class_are_supported() {
    check(r"\p{L}++|[^a]?+b|.", "éab!b", &["éab", "!b"]);
    check("a++a|b", "aab", &["b"]);
}

#[test]
fn an_empty_match_directly_after_a_match_is_skipped() {
    check("a*", "baac", &["", "aa", ""]);
    check("", "ab", &["", "", ""]);
    check("a", "", &[]);
}

#[track_caller]
fn check_rejected(expression: &str, reason: &str) {
    let error = LinearRegex::new(expression).unwrap_err().to_string();
    let expression = quoted(expression);
    let start = format!("the regular expression \"{expression}\" is not supported: ");
    assert_eq!(error.strip_prefix(&start), Some(reason));
}

#[test]
fn constructs_that_could_take_superlinear_time_are_rejected_by_name() {
    check_rejected(r"(a)\1", "it contains a backreference");
    check_rejected("[[:alpha:]]", "it contains a POSIX character class");
    check_rejected("(?>a|b)", "it contains an atomic group");
    check_rejected("(?<=a+)b", "it contains a lookbehind of variable length");
    check_rejected(r"(?<n>a\g<n>?)", "it contains a subroutine call");
    let unbounded = "it contains an unbounded repetition of a possibly empty match";
    check_rejected("(?:a*)*", unbounded);
    check_rejected(
        "(?:a{1000}){1000}",
        "it expands to more than 16384 instructions",
    );
    let too_many = "it expands to more than 1024 alternatives and repetitions";
    check_rejected("(?:a?){2000}", too_many);
    check_rejected("(?:(?:a{0,9999}){0,9999}){0,9999}", too_many);
    check_rejected(
        &"a".repeat(20_000),
        "it has 20000 bytes; at most 16384 are supported",
    );
}

#[test]
fn matching_a_long_text_takes_linear_time() {
    let text = "a".repeat(LONG_TEXT_BYTES);
    check("(?:a+)+b", &text, &[]);
    check("(?:a|a|aa)+b", &text, &[]);
    check("(?:a*a*a*a*a*)b", &text, &[]);
    check("(?:a?){300}a{300}b", &text, &[]);
    check("a(?=a*b)", &text, &[]);
    assert_eq!(
        LinearRegex::new("a(?=a*$)").unwrap().matches(&text).len(),
        LONG_TEXT_BYTES
    );
    assert_eq!(
        LinearRegex::new("a*b|a").unwrap().matches(&text).len(),
        LONG_TEXT_BYTES
    );
}

/// Length of a text for which quadratic time would be noticeable.
const LONG_TEXT_BYTES: usize = 60_000;

/// Generates short expressions with most of the supported constructs.
fn expressions() -> impl Strategy<Value = String> {
    let characters = prop::sample::select(vec![
        "a", "b", "é", " ", r"\s", r"\S", ".", "[^a]", "[ab]", r"\p{L}", "^", "$", r"\b", "(?i:B)",
        r"\n",
    ]);
    characters
        .prop_map(str::to_owned)
        .prop_recursive(5, 24, 4, |inner| {
            let several = prop::collection::vec(inner.clone(), 1..4);
            let repeated = prop::sample::select(vec![
                "*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?",
            ]);
            let lookahead = prop::sample::select(vec!["(?=", "(?!"]);
            prop_oneof![
                several.clone().prop_map(|parts| parts.concat()),
                several.prop_map(|parts| format!("(?:{})", parts.join("|"))),
                (inner.clone(), repeated).prop_map(|(part, times)| format!("(?:{part}){times}")),
                (inner, lookahead).prop_map(|(part, lookahead)| format!("{lookahead}{part})")),
            ]
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Oniguruma, the regular expression engine of the `tokenizers` crate, backtracks without memoization.
    #[test]
    fn matches_equal_those_of_oniguruma(expression in expressions(), text in "[abBé\u{301} \n]{0,9}") {
        if let (Ok(regex), Ok(oniguruma)) = (LinearRegex::new(&expression), SysRegex::new(&expression)) {
            let expected: Vec<Offsets> = oniguruma.find_iter(&text).collect();
            prop_assert_eq!(regex.matches(&text), expected);
        }
    }
}
