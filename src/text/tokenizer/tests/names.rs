//! Tokens that are recognised by their names.

use super::*;

#[test]
fn names_are_tokens_only_if_they_are_parsed() {
    let tokenizer = Tokenizer::new(vocabulary("gpt-2", &[])).unwrap();
    let (end, user) = (TokenId(256), TokenId(257));
    let text = "a<|im_end|><user>";
    assert_eq!(
        tokenizer.encode(text, SpecialTokens::Parse),
        [TokenId(97), end, user]
    );
    let literal = tokenizer.encode(text, SpecialTokens::Literal);
    assert_eq!(literal.last(), Some(&user));
    assert!(!literal.contains(&end));
    assert_eq!(tokenizer.decode(&literal).unwrap(), text);
    assert_eq!(tokenizer.end_of_generation(), [end]);
    assert!(tokenizer.is_control(end) && !tokenizer.is_control(user));
}

/// The names of the tokens that end a generation, in a vocabulary with these as text.
fn ends(names: &[&str]) -> Vec<String> {
    let mut vocabulary = vocabulary("gpt-2", &[]);
    for name in names {
        vocabulary.tokens.push((*name).to_owned());
        vocabulary.kinds.push(TokenKind::UserDefined);
    }
    vocabulary.ends = vec![TokenId(97)];
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    texts(&tokenizer, tokenizer.end_of_generation())
}

#[test]
fn generation_ends_where_the_file_says_and_by_names() {
    assert_eq!(ends(&[]), ["a", "<|im_end|>"]);
    let several = ["<|end|>", "</s>", "[EOS]"];
    assert_eq!(
        ends(&several),
        ["a", "<|im_end|>", "<|end|>", "</s>", "[EOS]"]
    );
    let harmony = ["<|end|>", "<|return|>", "<|call|>"];
    assert_eq!(
        ends(&harmony),
        ["a", "<|im_end|>", "<|return|>", "<|call|>"]
    );
    let gemma = ["</s>", "<|tool_response>", "<turn|>"];
    assert_eq!(
        ends(&gemma),
        ["a", "<|im_end|>", "<|tool_response>", "<turn|>"]
    );
}

#[test]
fn names_may_take_white_space_along() {
    let mut vocabulary = vocabulary("gpt-2", &[]);
    let both = Absorbs {
        before: true,
        behind: true,
    };
    vocabulary.absorbing = vec![(TokenId(257), both)];
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let ids = tokenizer.encode("a \n<user> <user>\tb <|im_end|> c", SpecialTokens::Parse);
    let expected = ["a", "<user>", "<user>", "b", " ", "<|im_end|>", " ", "c"];
    assert_eq!(texts(&tokenizer, &ids), expected);
}
