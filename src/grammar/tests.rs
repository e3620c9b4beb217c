//! Grammars against a plain matcher: what it takes the constraint takes, in tokens of one byte and of several.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::gbnf::{Class, Expression, Grammar};
use super::*;

/// The 256 bytes, some longer tokens, and an end.
const LONGER: [&str; 12] = [
    "en", "end", "ab", "abc", "bc", "the", " the", "\": ", "{\"", "é", "日本", "12",
];
const END: TokenId = TokenId(256 + LONGER.len() as u32);

fn words() -> Vec<Vec<u8>> {
    let bytes = (0..=255u8).map(|byte| vec![byte]);
    let longer = LONGER.iter().map(|word| word.as_bytes().to_vec());
    bytes.chain(longer).collect()
}

/// These words, with a tokenizer that always takes the longest.
struct Words(Vec<Vec<u8>>);

impl GrammarVocabulary for Words {
    fn size(&self) -> usize {
        END.row() + 1
    }

    fn spelling(&self, token: TokenId) -> Spelling<'_> {
        match self.0.get(token.row()) {
            Some(word) => Spelling::Text(word),
            None => Spelling::Control("<end>"),
        }
    }

    fn ends(&self) -> &[TokenId] {
        &[END]
    }

    fn tokens(&self, text: &str) -> Vec<TokenId> {
        long_tokens(text).into_iter().map(TokenId).collect()
    }
}

static COMPILER: LazyLock<GrammarCompiler> = LazyLock::new(compiler);

pub(super) fn compiler() -> GrammarCompiler {
    GrammarCompiler::new(Arc::new(Words(words()))).unwrap()
}

/// Whether the text follows the grammar and may end, token by token, each allowed by the mask before it.
pub(super) fn follows(compiler: &GrammarCompiler, grammar: &GrammarSource, tokens: &[u32]) -> bool {
    let constraint = compiler
        .compile(grammar, Cutting::Free)
        .unwrap_or_else(|error| panic!("{grammar:?}: {error}"));
    lets_through(constraint, tokens)
}

fn lets_through(mut constraint: Constraint, tokens: &[u32]) -> bool {
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

/// The text in the longest tokens that fit.
pub(super) fn long_tokens(text: &str) -> Vec<u32> {
    let words = words();
    let mut rest = text.as_bytes();
    let mut tokens = Vec::new();
    while !rest.is_empty() {
        let longest = (0..words.len())
            .filter(|word| rest.starts_with(&words[*word]))
            .max_by_key(|word| words[*word].len())
            .unwrap();
        rest = &rest[words[longest].len()..];
        tokens.push(longest as u32);
    }
    tokens
}

/// Where an expression may end that begins at `start`: the plain matcher.
fn ends(
    grammar: &Grammar,
    expression: &Expression,
    text: &[char],
    start: usize,
    depth: usize,
) -> BTreeSet<usize> {
    if depth > 300 {
        return BTreeSet::new();
    }
    let of = |inner: &Expression, start| ends(grammar, inner, text, start, depth + 1);
    match expression {
        Expression::Character(Class { ranges, negated }) => text
            .get(start)
            .filter(|character| {
                let within = |(first, last): &(char, char)| (first..=last).contains(character);
                ranges.iter().any(within) != *negated
            })
            .map(|_| start + 1)
            .into_iter()
            .collect(),
        Expression::Token { .. } => panic!("a text says nothing of its tokens"),
        Expression::Rule(rule) => of(&grammar.rules[*rule], start),
        Expression::Sequence(parts) => parts.iter().fold([start].into(), |starts, part| {
            starts
                .iter()
                .flat_map(|start: &usize| of(part, *start))
                .collect()
        }),
        Expression::Choice(choices) => choices
            .iter()
            .flat_map(|choice| of(choice, start))
            .collect(),
        Expression::Repeat {
            of: inner,
            least,
            most,
        } => {
            let mut reached: BTreeSet<usize> = [start].into();
            let mut all = BTreeSet::new();
            let mut count = 0;
            loop {
                if count >= *least {
                    let before = all.len();
                    all.extend(reached.iter().copied());
                    if count > *least && all.len() == before {
                        return all;
                    }
                }
                if Some(count) == *most || reached.is_empty() {
                    return all;
                }
                reached = reached.iter().flat_map(|start| of(inner, *start)).collect();
                count += 1;
            }
        }
    }
}

fn gbnf(text: &str) -> GrammarSource {
    GrammarSource::Gbnf(text.to_owned())
}

fn oracle(grammar: &str, text: &str) -> bool {
    matches(&gbnf::read(grammar, &Words(words())).unwrap(), text)
}

fn matches(grammar: &Grammar, text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    let root = &grammar.rules[grammar.root];
    ends(grammar, root, &characters, 0, 0).contains(&characters.len())
}

/// The grammar takes the former and not the latter, in every way.
#[track_caller]
fn check(compiler: &GrammarCompiler, grammar: &str, taken: &[&str], refused: &[&str]) {
    for (texts, wanted) in [(taken, true), (refused, false)] {
        for text in texts {
            assert_eq!(
                oracle(grammar, text),
                wanted,
                "the matcher: {grammar}: {text:?}"
            );
            for tokens in [bytes(text), long_tokens(text)] {
                assert_eq!(
                    follows(compiler, &gbnf(grammar), &tokens),
                    wanted,
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
fn grammars_take_what_a_plain_matcher_takes() {
    let all = compiler();
    let check =
        |grammar: &str, taken: &[&str], refused: &[&str]| check(&all, grammar, taken, refused);
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
fn what_is_wrong_with_a_regular_expression_is_told_in_its_own_terms() {
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
        let error = compiler().compile(&regex, Cutting::Free).err();
        assert_eq!(
            error,
            Some(GrammarError::Refused(problem.to_owned())),
            "{expression}"
        );
    }
}

#[test]
fn what_is_no_grammar_is_told_by_its_place() {
    let all = compiler();
    #[track_caller]
    fn check(all: &GrammarCompiler, grammar: &str, message: &str) {
        let error = all
            .compile(&gbnf(grammar), Cutting::Free)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(message),
            "{error:?} does not say {message:?}"
        );
    }
    check(&all, "", "there is no rule named root");
    check(&all, "a ::= \"x\"", "there is no rule named root");
    check(
        &all,
        "root ::= x",
        "line 1, column 10: there is no rule named x",
    );
    check(
        &all,
        "root ::= \"a\"\nb = \"c\"",
        "line 2, column 3: ::= follows",
    );
    check(
        &all,
        "root ::= \"a",
        "line 1, column 10: this literal does not end",
    );
    check(&all, "root ::= [a", "this class does not end");
    check(&all, "root ::= []", "no character is in this class");
    check(&all, "root ::= [z-a]", "a range ends before it begins");
    check(
        &all,
        "root ::= (\"a\"",
        "line 1, column 10: there is no ) for this (",
    );
    check(&all, "root ::= \"a\")", "there is no ( for this )");
    check(
        &all,
        "root ::= \"a\" %",
        "column 14: a rule ends with its line",
    );
    check(&all, "root ::= \"\\q\"", "no such escape");
    check(&all, "root ::= \"\\xz0\"", "2 hexadecimal digits");
    check(&all, "root ::= \"\\ud800\"", "U+D800 is no character");
    check(&all, "root ::= \"a\"{2,1}", "not more than 2");
    check(&all, "root ::= \"a\"{x}", "a number is expected");
    check(&all, "root ::= \"a\"{3", "} is expected");
    check(&all, "root ::= \"a\"{99999}", "more than 2000 repetitions");
    check(
        &all,
        "root ::= \"a\"\nroot ::= \"b\"",
        "line 2, column 1: there are two rules named root",
    );
    check(&all, "::= \"a\"", "a rule begins with its name");
    check(
        &all,
        &format!("root ::= {}", "(".repeat(100)),
        "nested deeper than 64",
    );
    check(&all, &"#".repeat(70_000), "longer than 65536");
}

/// A part of a grammar over a, b and c. A rule is named after a character only, so that the plain matcher ends.
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

    /// However a grammar is cut into lexemes, it takes what the plain matcher takes.
    #[test]
    fn any_grammar_takes_what_a_plain_matcher_takes(
        rules in prop::collection::vec(part(3), 3),
        texts in prop::collection::vec("[abc]{0,6}", 40),
    ) {
        let grammar: String = rules.iter().enumerate().map(|(number, rule)| format!("r{number} ::= {rule}\n")).collect();
        let grammar = format!("root ::= r0\n{grammar}");
        let read = gbnf::read(&grammar, &Words(words())).unwrap();
        let Ok(constraint) = COMPILER.compile(&gbnf(&grammar), Cutting::Free) else {
            // Nothing follows it.
            prop_assert!(texts.iter().all(|text| !matches(&read, text)), "{}", grammar);
            return Ok(());
        };
        for text in &texts {
            for tokens in [bytes(text), long_tokens(text)] {
                let taken = lets_through(constraint.clone(), &tokens);
                prop_assert_eq!(taken, matches(&read, text), "{}{}", grammar, text);
            }
        }
    }
}

#[test]
fn tokens_are_taken_by_number_and_by_name() {
    let all = compiler();
    let check = |grammar: &str, tokens: &[u32], wanted: bool| {
        let followed = follows(&all, &gbnf(grammar), tokens);
        assert_eq!(followed, wanted, "{grammar}: {tokens:?}");
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
        ("root ::= <[999]>", "line 1, column 10: <[999]> is no token"),
        (
            "root ::= \"a\" <thought>",
            "line 1, column 14: <thought> is no token",
        ),
        ("root ::= <[1", "this token's name does not end"),
    ] {
        let error = all.compile(&gbnf(grammar), Cutting::Free).err().unwrap();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

/// What can only be one text is told at once, in the tokens of the tokenizer; nothing else is allowed there.
#[test]
fn what_is_certain_is_told_in_advance() {
    let all = compiler();
    let grammar = gbnf(r#"root ::= [xy] "the end: " [01] "abc""#);
    let mut constraint = all.compile(&grammar, Cutting::Canonical).unwrap();
    constraint.accept(TokenId(u32::from(b'x'))).unwrap();
    let text = |tokens: Vec<TokenId>| {
        let words = words();
        let spelt: Vec<u8> = tokens
            .iter()
            .flat_map(|token| words[token.row()].clone())
            .collect();
        (tokens.len(), String::from_utf8(spelt).unwrap())
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

    let mut constraint = all.compile(&grammar, Cutting::Free).unwrap();
    constraint.accept(TokenId(u32::from(b'x'))).unwrap();
    assert!(constraint.take_forced().unwrap().is_empty());
    let mut logits = vec![0.0; END.row() + 1];
    constraint.mask(&mut logits).unwrap();
    let allowed = logits.iter().filter(|logit| **logit == 0.0).count();
    assert_eq!(allowed, 2, "t and the");
}

#[test]
fn regular_expressions_and_lark_are_taken() {
    let all = compiler();
    let regex = GrammarSource::Regex(r"(ab|a)bc\d{2}".to_owned());
    for (text, wanted) in [
        ("abc12", true),
        ("abbc12", true),
        ("abc1", false),
        ("abc123", false),
    ] {
        assert_eq!(follows(&all, &regex, &bytes(text)), wanted, "{text}");
    }
    let lark = GrammarSource::Lark("start: \"a\" word\nword: /[xyz]+/ \"!\"".to_owned());
    for (text, wanted) in [("axy!", true), ("a!", false)] {
        assert_eq!(follows(&all, &lark, &bytes(text)), wanted, "{text}");
    }
    for wrong in [
        GrammarSource::Regex("a(b".to_owned()),
        GrammarSource::Regex("a(?=b)".to_owned()),
        GrammarSource::Lark("begin: \"a\"".to_owned()),
        GrammarSource::Lark("start: other".to_owned()),
        GrammarSource::Lark("start: %json {\"not\": {}}".to_owned()),
    ] {
        let error = all.compile(&wrong, Cutting::Free).err().unwrap();
        assert!(
            matches!(error, GrammarError::Refused(_)),
            "{wrong:?}: {error:?}"
        );
    }
    let deep = format!("start: {}\"a\"{}", "(".repeat(200), ")?".repeat(200));
    let many = format!("start: A\nA: {}", ["/a*/"; 10].join(" & "));
    for large in [deep, many] {
        let error = all
            .compile(&GrammarSource::Lark(large), Cutting::Free)
            .err();
        assert!(matches!(error, Some(GrammarError::TooLarge(_))));
    }
    let long = GrammarSource::Regex("a".repeat(MAX_GRAMMAR_BYTES + 1));
    let error = all.compile(&long, Cutting::Free).err().unwrap();
    assert!(matches!(error, GrammarError::TooLarge(_)));
}

/// Small texts that would be large if they were taken at their word: they are followed for a while, and when
/// that takes more than is allowed, it ends.
#[test]
fn what_would_be_large_is_followed_within_limits() {
    let all = compiler();
    for grammar in [
        r#"root ::= ((("a"{2000}){2000}){2000}){2000}"#.to_owned(),
        format!(
            "root ::= {}",
            "(".repeat(60) + "[ab]*" + &"){2000}".repeat(60)
        ),
    ] {
        let error = all.compile(&gbnf(&grammar), Cutting::Free).err().unwrap();
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
        let mut constraint = all.compile(&gbnf(&grammar), Cutting::Free).unwrap();
        let mut follow = || {
            constraint.mask(&mut vec![0.0; END.row() + 1])?;
            constraint.accept(TokenId(u32::from(b'a')))
        };
        let end = (0..40).find_map(|_| follow().err());
        assert!(
            matches!(end, None | Some(GrammarError::Stuck(_))),
            "{end:?}"
        );
    }
}
