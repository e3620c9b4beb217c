//! Special tokens and end-of-generation tokens.

use super::*;

#[test]
fn control_tokens_are_recognized_only_with_parse() {
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
    assert_eq!(tokenizer.eog_tokens(), [end]);
    assert!(tokenizer.is_control(end) && !tokenizer.is_control(user));
}

/// Returns the texts of the EOG tokens of a vocabulary that contains these user-defined tokens.
fn eog_texts(user_defined: &[&str]) -> Vec<String> {
    let mut vocabulary = vocabulary("gpt-2", &[]);
    for text in user_defined {
        vocabulary.tokens.push((*text).to_owned());
        vocabulary.kinds.push(TokenKind::UserDefined);
    }
    vocabulary.eog_tokens = vec![TokenId(97)];
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    texts(&tokenizer, tokenizer.eog_tokens())
}

#[test]
fn eog_tokens_are_declared_or_found_by_their_texts() {
    assert_eq!(eog_texts(&[]), ["a", "<|im_end|>"]);
    let several = ["<|end|>", "</s>", "[EOS]"];
    assert_eq!(
        eog_texts(&several),
        ["a", "<|im_end|>", "<|end|>", "</s>", "[EOS]"]
    );
    let harmony = ["<|end|>", "<|return|>", "<|call|>"];
    assert_eq!(
        eog_texts(&harmony),
        ["a", "<|im_end|>", "<|return|>", "<|call|>"]
    );
    let gemma = ["</s>", "<|tool_response>", "<turn|>"];
    assert_eq!(
        eog_texts(&gemma),
        ["a", "<|im_end|>", "<|tool_response>", "<turn|>"]
    );
}

#[test]
fn special_tokens_may_strip_whitespace() {
    let mut vocabulary = vocabulary("gpt-2", &[]);
    let both = StripSides {
        left: true,
        right: true,
    };
    vocabulary.strip_sides = vec![(TokenId(257), both)];
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let ids = tokenizer.encode("a \n<user> <user>\tb <|im_end|> c", SpecialTokens::Parse);
    let expected = ["a", "<user>", "<user>", "b", " ", "<|im_end|>", " ", "c"];
    assert_eq!(texts(&tokenizer, &ids), expected);
}
