//! Compares constraints with a simple reference matcher of GBNF. Each text is tokenized into tokens of one byte and
//! into longer tokens.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::gbnf::{Expression, Grammar};
use super::*;
use crate::token::TokenId;

/// The tokens of more than one byte. The test vocabulary has the 256 bytes, these tokens, and an end-of-generation
/// token.
const LONG_TOKENS: [&str; 12] = [
    "en", "end", "ab", "abc", "bc", "the", " the", "\": ", "{\"", "é", "日本", "12",
];
const END: TokenId = TokenId(256 + LONG_TOKENS.len() as u32);

fn token_bytes() -> Vec<Vec<u8>> {
    let bytes = (0..=255u8).map(|byte| vec![byte]);
    let long = LONG_TOKENS.iter().map(|text| text.as_bytes().to_vec());
    bytes.chain(long).collect()
}

/// The bytes of each text token; the tokenizer takes the longest match.
struct TestVocabulary(Vec<Vec<u8>>);

impl GrammarVocabulary for TestVocabulary {
    fn size(&self) -> usize {
        END.row() + 1
    }

    fn grammar_token(&self, token: TokenId) -> GrammarToken<'_> {
        match self.0.get(token.row()) {
            Some(bytes) => GrammarToken::Text(bytes),
            None => GrammarToken::Control("<end>"),
        }
    }

    fn eog_tokens(&self) -> &[TokenId] {
        &[END]
    }

    fn tokenize(&self, text: &str) -> Vec<TokenId> {
        long_tokens(text).into_iter().map(TokenId).collect()
    }
}

static COMPILER: LazyLock<GrammarCompiler> = LazyLock::new(compiler);

pub(super) fn compiler() -> GrammarCompiler {
    GrammarCompiler::new(Arc::new(TestVocabulary(token_bytes()))).unwrap()
}

/// Whether the grammar accepts the complete text: the masks allow each token and then the end-of-generation token.
pub(super) fn accepts(compiler: &GrammarCompiler, grammar: &GrammarSource, tokens: &[u32]) -> bool {
    let constraint = compiler
        .compile(grammar, Tokenization::Any)
        .unwrap_or_else(|error| panic!("{grammar:?}: {error}"));
    constraint_accepts(constraint, tokens)
}

fn constraint_accepts(mut constraint: Constraint, tokens: &[u32]) -> bool {
    for token in tokens {
        let mut logits = vec![0.0; END.row() + 1];
        constraint.mask(&mut logits).unwrap();
        if logits[*token as usize] != 0.0 {
            return false;
        }
        constraint.accept(TokenId(*token)).unwrap();
    }
    let mut logits = vec![0.0; END.row() + 1];
    constraint.mask(&mut logits).unwrap();
    logits[END.row()] == 0.0
}

pub(super) fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// Tokenizes a text, always with the longest token that matches.
pub(super) fn long_tokens(text: &str) -> Vec<u32> {
    let token_bytes = token_bytes();
    let mut rest = text.as_bytes();
    let mut tokens = Vec::new();
    while !rest.is_empty() {
        let longest = (0..token_bytes.len())
            .filter(|token| rest.starts_with(&token_bytes[*token]))
            .max_by_key(|token| token_bytes[*token].len())
            .unwrap();
        rest = &rest[token_bytes[longest].len()..];
        tokens.push(longest as u32);
    }
    tokens
}

/// The reference matcher. Returns the positions at which an expression that begins at `start` may end.
fn match_ends(
    grammar: &Grammar,
    expression: &Expression,
    text: &[char],
    start: usize,
    depth: usize,
) -> BTreeSet<usize> {
    if depth > 300 {
        return BTreeSet::new();
    }
    let ends_of = |inner: &Expression, start| match_ends(grammar, inner, text, start, depth + 1);
    match expression {
        Expression::Character(class) => text
            .get(start)
            .filter(|character| {
                let mut ranges = class.ranges().iter();
                ranges.any(|range| (range.start()..=range.end()).contains(*character))
            })
            .map(|_| start + 1)
            .into_iter()
            .collect(),
        Expression::Token { .. } => panic!("a text does not determine its tokens"),
        Expression::Rule(rule) => ends_of(&grammar.rules[*rule], start),
        Expression::Sequence(parts) => parts.iter().fold([start].into(), |starts, part| {
            starts
                .iter()
                .flat_map(|start: &usize| ends_of(part, *start))
                .collect()
        }),
        Expression::Choice(choices) => choices
            .iter()
            .flat_map(|choice| ends_of(choice, start))
            .collect(),
        Expression::Repeat { inner, min, max } => {
            let mut reached: BTreeSet<usize> = [start].into();
            let mut all = BTreeSet::new();
            let mut count = 0;
            loop {
                if count >= *min {
                    let before = all.len();
                    all.extend(reached.iter().copied());
                    if count > *min && all.len() == before {
                        return all;
                    }
                }
                if Some(count) == *max || reached.is_empty() {
                    return all;
                }
                reached = reached
                    .iter()
                    .flat_map(|start| ends_of(inner, *start))
                    .collect();
                count += 1;
            }
        }
    }
}

fn gbnf(text: &str) -> GrammarSource {
    GrammarSource::Gbnf(text.to_owned())
}

fn reference_accepts(grammar: &str, text: &str) -> bool {
    let grammar = gbnf::parse(grammar, &TestVocabulary(token_bytes())).unwrap();
    matches(&grammar, text)
}

fn matches(grammar: &Grammar, text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    let root = &grammar.rules[grammar.root];
    match_ends(grammar, root, &characters, 0, 0).contains(&characters.len())
}

/// Checks that the reference matcher and the constraint accept and reject these texts, in tokens of one byte and
/// in long tokens.
#[track_caller]
fn check(compiler: &GrammarCompiler, grammar: &str, accepted: &[&str], rejected: &[&str]) {
    for (texts, expected) in [(accepted, true), (rejected, false)] {
        for text in texts {
            assert_eq!(
                reference_accepts(grammar, text),
                expected,
                "the reference matcher: {grammar}: {text:?}"
            );
            for tokens in [bytes(text), long_tokens(text)] {
                assert_eq!(
                    accepts(compiler, &gbnf(grammar), &tokens),
                    expected,
                    "{grammar}: {text:?} as {tokens:?}"
                );
            }
        }
    }
}

const JSON: &str = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"#;

const ARITHMETIC: &str = r#"
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"#;

#[test]
fn constraints_accept_the_texts_that_a_reference_matcher_accepts() {
    let compiler = compiler();
    let check = |grammar: &str, accepted: &[&str], rejected: &[&str]| {
        check(&compiler, grammar, accepted, rejected)
    };
    check(
        r#"root ::= "yes" | "no""#,
        &["yes", "no"],
        &["", "y", "yesno", "Yes"],
    );
    check(
        r#"root ::= [a-z]* "end""#,
        &["end", "enend", "endend"],
        &["en", "endx", ""],
    );
    check(
        r#"root ::= ("ab"|"a") "bc""#,
        &["abc", "abbc"],
        &["ab", "bc", "abcc"],
    );
    check(
        r#"root ::= ("a"|"ab") ("c"|"bcd")"#,
        &["ac", "abc", "abcd"],
        &["abbcd_", "a"],
    );
    check(r#"root ::= [^0-9]+"#, &["abc", "é日"], &["", "a1"]);
    check(
        r#"root ::= [^\n]{2,3}"#,
        &["ab", "abc"],
        &["a", "abcd", "a\nb"],
    );
    check(r#"root ::= "a"{3}"#, &["aaa"], &["aa", "aaaa"]);
    check(r#"root ::= "a"{2,}"#, &["aa", "aaaaa"], &["a", ""]);
    check(
        r#"root ::= "a"{0,2} "b""#,
        &["b", "ab", "aab"],
        &["aaab", "a"],
    );
    check(r#"root ::= "a"{,2}"#, &["", "a", "aa"], &["aaa"]);
    check(r#"root ::= "a"*"#, &["", "a", "aaaa"], &["b"]);
    check(r#"root ::= "a"+"#, &["a", "aaaa"], &["", "ab"]);
    check(r#"root ::= "a"? "b"?"#, &["", "a", "b", "ab"], &["ba"]);
    check(
        r#"root ::= ("a" | "b" "c")+"#,
        &["a", "bc", "abca"],
        &["b", "c"],
    );
    check(r#"root ::= ("ab"*)*"#, &["", "ab", "abab"], &["a"]);
    check(r#"root ::= ("a"{2}){2}"#, &["aaaa"], &["aa", "aaa"]);
    check(r#"root ::= "a"*?"#, &["", "aa"], &["b"]);
    check(r#"root ::= "#, &[""], &["a"]);
    check(r#"root ::= "" | "a""#, &["", "a"], &["b"]);
    check(
        "root ::= a b\na ::= \"x\"\nb ::= \"y\"",
        &["xy"],
        &["x", "yx"],
    );
    check(
        "root ::= a\n\n# a comment\na ::= \"x\" # another\n",
        &["x"],
        &["x "],
    );
    check("root ::= (\"x\" |\n  \"y\"\n)", &["x", "y"], &["xy"]);
    check("root ::= \"x\" |\n  \"y\"", &["x", "y"], &[""]);
    check("a ::= \"x\"\nroot ::= a a", &["xx"], &["x"]);
    check(r#"root ::= "\n\t\r\\\"""#, &["\n\t\r\\\""], &["n"]);
    check(r#"root ::= "\x41\u00e9\U0001F426""#, &["Aé🐦"], &["A"]);
    check(r#"root ::= [\u3040-\u309f]+"#, &["ひらがな"], &["a", "カ"]);
    check(r#"root ::= [日-本]"#, &["日", "本"], &["a", "中"]);
    check(r#"root ::= [a\-z]+"#, &["a-z"], &["b"]);
    check(r#"root ::= [az-]+"#, &["a-z"], &["b"]);
    check(r#"root ::= [\]\[]+"#, &["[]"], &["a"]);
    check(r#"root ::= [b-dca-b]+"#, &["abcd"], &["e"]);
    check(r#"root ::= [^\x00-\U0010FFFF] | "a""#, &["a"], &["", "b"]);
    check(r#"root ::= "é"+"#, &["éé"], &["e"]);
    check(r#"root ::= .{2}"#, &["ab", "日\n"], &["a", "abc"]);
    check(
        r#"root ::= "(" root ")" | "x""#,
        &["x", "((x))"],
        &["(x", "x)", "()"],
    );
    check(
        r#"root ::= "a" root "b" | """#,
        &["", "ab", "aabb"],
        &["aab", "ba"],
    );
    check(r#"root ::= "a" root | "a""#, &["a", "aaa"], &["", "b"]);
    check(
        "root ::= item (\", \" item)*\nitem ::= [a-z]+ | \"(\" root \")\"",
        &["a", "ab, c", "(a, b), c"],
        &["", "a,", "(a"],
    );
    check(
        "root ::= \"- \" [^\\n]+ \"\\n\" root?",
        &["- a\n", "- a\n- the end\n"],
        &["- a", "-a\n"],
    );
    check(
        JSON,
        &[
            r#"{}"#,
            r#"{"a": 12}"#,
            r#"{"a":[1,{"b":null}],"é":"\u00e9\n"}"#,
            "{\"a\":-1.5e+9}",
        ],
        &["", "{", r#"{"a"}"#, r#"{"a":01}"#, r#"{"a":"x}"#],
    );
    check(
        ARITHMETIC,
        &["a=1\n", "a+b*(c-12)=d\n", "1=2\n3=4\n"],
        &["a=", "a+=1\n", "=1\n"],
    );
    check(
        "root ::= move+\nmove ::= [0-9]+ \". \" [a-h] [1-8] \" \"",
        &["1. e4 ", "1. e4 2. d5 "],
        &["1. i4 ", "e4"],
    );
    check(
        "root ::= ([0-9]{1,3} \".\"){3} [0-9]{1,3}",
        &["127.0.0.1"],
        &["127.0.0", "1.2.3.4.5", "1234.0.0.1"],
    );
    check(
        "root ::= year \"-\" month\nyear ::= [0-9]{4}\nmonth ::= \"0\" [1-9] | \"1\" [0-2]",
        &["2026-11"],
        &["2026-13", "26-01"],
    );
    check(
        "root ::= s\ns ::= s-a | s-b\ns-a ::= \"a\" s?\ns-b ::= \"b\" s?",
        &["a", "abba"],
        &["", "c"],
    );
}

#[test]
fn errors_of_regular_expressions_refer_to_the_clients_expression() {
    for (expression, problem) in [
        ("a(b", "character 2: unclosed group"),
        (
            "é(?=b)",
            "character 2: look-around, including look-ahead and look-behind, is not supported",
        ),
        (r"a\1", "character 2: backreferences are not supported"),
        (
            r"a\bc",
            "word boundaries are not supported, and ^ and $ only at the ends",
        ),
    ] {
        let regex = GrammarSource::Regex(expression.to_owned());
        let error = compiler().compile(&regex, Tokenization::Any).err();
        assert_eq!(
            error,
            Some(GrammarError::Rejected(problem.to_owned())),
            "{expression}"
        );
    }
}

#[test]
fn syntax_errors_have_a_position() {
    let compiler = compiler();
    #[track_caller]
    fn check(compiler: &GrammarCompiler, grammar: &str, message: &str) {
        let error = compiler
            .compile(&gbnf(grammar), Tokenization::Any)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(message),
            "{error:?} does not contain {message:?}"
        );
    }
    check(&compiler, "", "rule not found: root");
    check(&compiler, "a ::= \"x\"", "rule not found: root");
    check(
        &compiler,
        "root ::= x",
        "line 1, column 10: rule not found: x",
    );
    check(
        &compiler,
        "root ::= \"a\"\nb = \"c\"",
        "line 2, column 3: expected ::=",
    );
    check(
        &compiler,
        "root ::= \"a",
        "line 1, column 10: this literal has no closing quote",
    );
    check(
        &compiler,
        "root ::= [a",
        "this character class has no closing ]",
    );
    check(&compiler, "root ::= []", "this character class is empty");
    check(
        &compiler,
        "root ::= [z-a]",
        "this range ends before it begins",
    );
    check(
        &compiler,
        "root ::= (\"a\"",
        "line 1, column 10: unclosed (",
    );
    check(&compiler, "root ::= \"a\")", "unmatched )");
    check(
        &compiler,
        "root ::= \"a\" %",
        "column 14: expected the end of the line",
    );
    check(&compiler, "root ::= \"\\q\"", "unknown escape sequence");
    check(
        &compiler,
        "root ::= \"\\xz0\"",
        "expected 2 hexadecimal digits",
    );
    check(
        &compiler,
        "root ::= \"\\ud800\"",
        "U+D800 is not a character",
    );
    check(
        &compiler,
        "root ::= \"a\"{2,1}",
        "the maximum is less than the minimum 2",
    );
    check(&compiler, "root ::= \"a\"{x}", "expected a number");
    check(&compiler, "root ::= \"a\"{3", "expected }");
    check(
        &compiler,
        "root ::= \"a\"{99999}",
        "more than 2000 repetitions",
    );
    check(
        &compiler,
        "root ::= \"a\"\nroot ::= \"b\"",
        "line 2, column 1: the rule root is defined twice",
    );
    check(&compiler, "::= \"a\"", "expected a rule name");
    check(
        &compiler,
        &format!("root ::= {}", "(".repeat(100)),
        "nested deeper than 64",
    );
    check(
        &compiler,
        &"#".repeat(70_000),
        "the grammar has 70000 bytes; the limit is 65536",
    );
}

/// A part of a grammar over a, b and c. Every rule reference follows a literal, so that the reference matcher
/// terminates.
fn part(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop::sample::select(vec![
        "\"a\"", "\"b\"", "\"ab\"", "\"abc\"", "[ab]", "[bc]", "[^a]", "\"\"", "[a-c]*", "\"c\"",
    ]);
    let leaf = leaf.prop_map(str::to_owned);
    if depth == 0 {
        return leaf.boxed();
    }
    let inner = || part(depth - 1);
    prop_oneof![
        2 => leaf,
        3 => prop::collection::vec(inner(), 1..4).prop_map(|parts| parts.join(" ")),
        2 => prop::collection::vec(inner(), 2..4).prop_map(|parts| format!("({})", parts.join(" | "))),
        1 => (inner(), prop::sample::select(vec!["*", "+", "?", "{1,2}"])).prop_map(|(part, times)| format!("({part}){times}")),
        2 => (prop::sample::select(vec!["a", "b", "c"]), 0..3_u32, inner())
            .prop_map(|(first, rule, after)| format!("\"{first}\" r{rule} {after}")),
    ]
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Splitting a grammar into lexemes does not change which texts the grammar accepts.
    #[test]
    fn random_grammars_accept_the_texts_that_a_reference_matcher_accepts(
        rules in prop::collection::vec(part(3), 3),
        texts in prop::collection::vec("[abc]{0,6}", 40),
    ) {
        let grammar: String = rules.iter().enumerate().map(|(number, rule)| format!("r{number} ::= {rule}\n")).collect();
        let grammar = format!("root ::= r0\n{grammar}");
        let parsed = gbnf::parse(&grammar, &TestVocabulary(token_bytes())).unwrap();
        let Ok(constraint) = COMPILER.compile(&gbnf(&grammar), Tokenization::Any) else {
            // No text matches the grammar.
            prop_assert!(texts.iter().all(|text| !matches(&parsed, text)), "{}", grammar);
            return Ok(());
        };
        for text in &texts {
            for tokens in [bytes(text), long_tokens(text)] {
                let accepted = constraint_accepts(constraint.clone(), &tokens);
                prop_assert_eq!(accepted, matches(&parsed, text), "{}{}", grammar, text);
            }
        }
    }
}

#[test]
fn tokens_are_matched_by_id_and_by_name() {
    let compiler = compiler();
    let check = |grammar: &str, tokens: &[u32], expected: bool| {
        let accepted = accepts(&compiler, &gbnf(grammar), tokens);
        assert_eq!(accepted, expected, "{grammar}: {tokens:?}");
    };
    let [a, b, abc] = [u32::from(b'a'), u32::from(b'b'), 259];
    check(r#"root ::= <[97]> "b""#, &[a, b], true);
    check(r#"root ::= <[259]> "b"?"#, &[abc, b], true);
    check(r#"root ::= <[259]>"#, &bytes("abc"), false);
    check(r#"root ::= !<[259]> "b""#, &[a, b], true);
    check(r#"root ::= !<[259]> "b""#, &[abc, b], false);
    check(r#"root ::= (!<[98]>)* <[98]>"#, &[a, abc, a, b], true);
    check(r#"root ::= (!<[98]>)* <[98]>"#, &[a, b, a], false);
    for (grammar, problem) in [
        (
            "root ::= <[999]>",
            "line 1, column 10: token not found: <[999]>",
        ),
        (
            "root ::= \"a\" <thought>",
            "line 1, column 14: token not found: <thought>",
        ),
        ("root ::= <[1", "this token name has no closing >"),
    ] {
        let error = compiler
            .compile(&gbnf(grammar), Tokenization::Any)
            .err()
            .unwrap();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

/// Where only one text can follow, its canonical tokens are forced, and no other token is allowed.
#[test]
fn forced_tokens_are_returned_at_once() {
    let compiler = compiler();
    let grammar = gbnf(r#"root ::= [xy] "the end: " [01] "abc""#);
    let mut constraint = compiler.compile(&grammar, Tokenization::Canonical).unwrap();
    constraint.accept(TokenId(u32::from(b'x'))).unwrap();
    let text = |tokens: Vec<TokenId>| {
        let token_bytes = token_bytes();
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token_bytes[token.row()].clone())
            .collect();
        (tokens.len(), String::from_utf8(bytes).unwrap())
    };
    let forced = constraint.take_forced().unwrap();
    assert_eq!(text(forced), (5, "the end: ".to_owned()));
    assert!(constraint.take_forced().unwrap().is_empty());
    constraint.accept(TokenId(u32::from(b'1'))).unwrap();
    assert!(!constraint.is_complete());
    assert_eq!(
        text(constraint.take_forced().unwrap()),
        (1, "abc".to_owned())
    );
    assert!(constraint.is_complete());

    let mut constraint = compiler.compile(&grammar, Tokenization::Any).unwrap();
    constraint.accept(TokenId(u32::from(b'x'))).unwrap();
    assert!(constraint.take_forced().unwrap().is_empty());
    let mut logits = vec![0.0; END.row() + 1];
    constraint.mask(&mut logits).unwrap();
    let allowed = logits.iter().filter(|logit| **logit == 0.0).count();
    assert_eq!(allowed, 2, "\"t\" and \"the\"");
}

#[test]
fn regular_expressions_and_lark_grammars_are_supported() {
    let compiler = compiler();
    let regex = GrammarSource::Regex(r"(ab|a)bc\d{2}".to_owned());
    for (text, expected) in [
        ("abc12", true),
        ("abbc12", true),
        ("abc1", false),
        ("abc123", false),
    ] {
        assert_eq!(accepts(&compiler, &regex, &bytes(text)), expected, "{text}");
    }
    let lark = GrammarSource::Lark("start: \"a\" word\nword: /[xyz]+/ \"!\"".to_owned());
    for (text, expected) in [("axy!", true), ("a!", false)] {
        assert_eq!(accepts(&compiler, &lark, &bytes(text)), expected, "{text}");
    }
    for invalid in [
        GrammarSource::Regex("a(b".to_owned()),
        GrammarSource::Regex("a(?=b)".to_owned()),
        GrammarSource::Lark("begin: \"a\"".to_owned()),
        GrammarSource::Lark("start: other".to_owned()),
        GrammarSource::Lark("start: %json {\"not\": {}}".to_owned()),
    ] {
        let error = compiler.compile(&invalid, Tokenization::Any).err().unwrap();
        assert!(
            matches!(error, GrammarError::Rejected(_)),
            "{invalid:?}: {error:?}"
        );
    }
    let deep = format!("start: {}\"a\"{}", "(".repeat(200), ")?".repeat(200));
    let many_intersections = format!("start: A\nA: {}", ["/a*/"; 10].join(" & "));
    for large in [deep, many_intersections] {
        let error = compiler
            .compile(&GrammarSource::Lark(large), Tokenization::Any)
            .err();
        assert!(matches!(error, Some(GrammarError::TooLarge(_))));
    }
    let long = GrammarSource::Regex("a".repeat(MAX_GRAMMAR_BYTES + 1));
    let error = compiler.compile(&long, Tokenization::Any).err().unwrap();
    assert!(matches!(error, GrammarError::TooLarge(_)));
}

/// Small grammars that expand to large ones either compile and allow some tokens, or fail because they exceed a limit.
#[test]
fn grammars_that_expand_to_large_ones_stay_within_the_limits() {
    let compiler = compiler();
    for grammar in [
        r#"root ::= ((("a"{2000}){2000}){2000}){2000}"#.to_owned(),
        format!(
            "root ::= {}",
            "(".repeat(60) + "[ab]*" + &"){2000}".repeat(60)
        ),
    ] {
        let error = compiler
            .compile(&gbnf(&grammar), Tokenization::Any)
            .err()
            .unwrap();
        let error = error.to_string();
        assert!(error.contains("repetitions are more than"), "{error}");
    }
    let grammars = [
        r#"root ::= ((("a"{10}){10}){10}){100}"#.to_owned(),
        format!("root ::= {}", "(".repeat(60) + "[ab]*" + &"){1}".repeat(60)),
        (0..400)
            .map(|number| format!("r{number} ::= r{next} r{next}\n", next = number + 1))
            .collect::<String>()
            + "r400 ::= \"a\" root?\nroot ::= r0",
        "root ::= r0\n".to_owned()
            + &(0..2_300)
                .map(|number| format!("r{number} ::= r{} \"a\"|\"a\"root\n", (number + 1) % 2_300))
                .collect::<String>(),
        "root ::= r0\n".to_owned()
            + &(0..490)
                .map(|number| {
                    format!(
                        "r{number} ::= \"a\" r{}? [a-z]* \"{number}\" | \"a\"\n",
                        (number + 1) % 490
                    )
                })
                .collect::<String>(),
        format!(
            "root ::= \"a\" (root | {})",
            ["[a-z]{9} [0-9]?"; 3_000].join(" | ")
        ),
    ];
    for grammar in grammars {
        let mut constraint = compiler
            .compile(&gbnf(&grammar), Tokenization::Any)
            .unwrap();
        let mut step = || {
            constraint.mask(&mut vec![0.0; END.row() + 1])?;
            constraint.accept(TokenId(u32::from(b'a')))
        };
        let error = (0..40).find_map(|_| step().err());
        assert!(
            matches!(error, None | Some(GrammarError::CannotContinue(_))),
            "{error:?}"
        );
    }
}
