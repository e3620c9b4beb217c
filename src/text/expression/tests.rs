use proptest::prelude::*;
use tokenizers::utils::SysRegex;

use super::*;

#[track_caller]
fn check(expression: &str, text: &str, expected: &[&str]) {
    let matches = Expression::new(expression).unwrap().matches(text);
    let found: Vec<&str> = matches
        .into_iter()
        .map(|(start, end)| &text[start..end])
        .collect();
    assert_eq!(found, expected, "{expression}");
}

#[test]
fn the_first_alternative_that_matches_is_taken() {
    check("a|ab|abc", "abcab", &["a", "a"]);
    check("abc|ab|a", "abcab", &["abc", "ab"]);
    check("a+?b?", "aab", &["a", "ab"]);
    check("(?i:'LL|é)", "we'll É", &["'ll", "É"]);
    check(r"[\p{L}&&[^b]]{2}", "abcaaé", &["ca", "aé"]);
}

#[test]
fn what_stands_around_is_looked_at_and_not_taken() {
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
fn what_gives_nothing_back_may_be_of_characters() {
    check(r"\p{L}++|[^a]?+b|.", "éab!b", &["éab", "!b"]);
    check("a++a|b", "aab", &["b"]);
}

#[test]
fn an_empty_match_is_none_at_anothers_end() {
    check("a*", "baac", &["", "aa", ""]);
    check("", "ab", &["", "", ""]);
    check("a", "", &[]);
}

#[track_caller]
fn check_refused(expression: &str, reason: &str) {
    let error = Expression::new(expression).unwrap_err().to_string();
    let start = format!("the expression \"{}\" cannot be used: ", shown(expression));
    assert_eq!(error.strip_prefix(&start), Some(reason));
}

#[test]
fn what_could_take_long_is_refused_by_name() {
    check_refused(r"(a)\1", "a reference back is not supported");
    check_refused("[[:alpha:]]", "a class by POSIX's name is not supported");
    check_refused("(?>a|b)", "an atomic group is not supported");
    check_refused(
        "(?<=a+)b",
        "a look behind of no fixed length is not supported",
    );
    check_refused(r"(?<n>a\g<n>?)", "a call of a group is not supported");
    let endless = "a repetition without end of what may be empty is not supported";
    check_refused("(?:a*)*", endless);
    check_refused("(?:a{1000}){1000}", "it comes to more than 16384 steps");
    let branches = "it comes to more than 1024 alternatives and repetitions";
    check_refused("(?:a?){2000}", branches);
    check_refused("(?:(?:a{0,9999}){0,9999}){0,9999}", branches);
    check_refused(&"a".repeat(20_000), "it has 20000 bytes of 16384");
}

#[test]
fn time_and_memory_are_proportional_to_the_text() {
    let text = "a".repeat(PLENTY);
    check("(?:a+)+b", &text, &[]);
    check("(?:a|a|aa)+b", &text, &[]);
    check("(?:a*a*a*a*a*)b", &text, &[]);
    check("(?:a?){300}a{300}b", &text, &[]);
    check("a(?=a*b)", &text, &[]);
    assert_eq!(
        Expression::new("a(?=a*$)").unwrap().matches(&text).len(),
        PLENTY
    );
    assert_eq!(
        Expression::new("a*b|a").unwrap().matches(&text).len(),
        PLENTY
    );
}

/// So long that what grows with its square is noticed.
const PLENTY: usize = 60_000;

/// Expressions of few characters, of every kind that is supported.
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
            let around = prop::sample::select(vec!["(?=", "(?!"]);
            prop_oneof![
                several.clone().prop_map(|parts| parts.concat()),
                several.prop_map(|parts| format!("(?:{})", parts.join("|"))),
                (inner.clone(), repeated).prop_map(|(part, times)| format!("(?:{part}){times}")),
                (inner, around).prop_map(|(part, around)| format!("{around}{part})")),
            ]
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The crate's engine, which is Oniguruma, tries every way one after the other.
    #[test]
    fn it_matches_where_oniguruma_does(expression in expressions(), text in "[abBé \n]{0,9}") {
        if let (Ok(ours), Ok(oniguruma)) = (Expression::new(&expression), SysRegex::new(&expression)) {
            let expected: Vec<Offsets> = oniguruma.find_iter(&text).collect();
            prop_assert_eq!(ours.matches(&text), expected);
        }
    }
}
