//! WordPiece.

use super::*;

/// A tokenizer of these pieces with the rule of uncased BERTs.
fn word_pieces(pieces: &[&str]) -> Result<Tokenizer, TokenizerError> {
    let named = ["[UNK]", "[CLS]", "[SEP]"];
    let tokens: Vec<String> = named
        .iter()
        .chain(pieces)
        .map(ToString::to_string)
        .collect();
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    kinds[..3].copy_from_slice(&[TokenKind::Unknown, TokenKind::Control, TokenKind::Control]);
    Tokenizer::new(Vocabulary {
        beginning: Some(TokenId(1)),
        end: Some(TokenId(2)),
        adds_beginning: true,
        adds_end: true,
        ..plain(
            Algorithm::WordPiece(Normalization::default()),
            tokens,
            kinds,
        )
    })
}

#[test]
fn words_are_cut_into_the_longest_pieces() {
    let pieces = [
        "un", "##aff", "##able", "unaff", "!", "caf", "##e", "中", "##",
    ];
    let tokenizer = word_pieces(&pieces).unwrap();
    #[track_caller]
    fn check(tokenizer: &Tokenizer, text: &str, expected: &[u32], back: &str) {
        let ids = tokenizer.encode(text, SpecialTokens::Parse);
        let expected: Vec<TokenId> = expected.iter().copied().map(TokenId).collect();
        assert_eq!(ids, expected);
        assert_eq!(tokenizer.decode(&ids).unwrap(), back);
    }
    check(&tokenizer, "  UNaffable!", &[6, 5, 7], " unaffable !");
    check(&tokenizer, "un\naff Café", &[3, 0, 8, 9], " un[UNK] cafe");
    check(&tokenizer, "un中un[SEP]", &[3, 10, 3, 2], " un 中 un[SEP]");
    check(&tokenizer, "", &[], "");
    check(&tokenizer, &"un".repeat(51), &[0], "[UNK]");
}

#[test]
fn without_a_token_for_what_it_cannot_spell_there_is_no_tokenizer_of_word_pieces() {
    let built = Tokenizer::new(Vocabulary {
        algorithm: Algorithm::WordPiece(Normalization::default()),
        ..vocabulary("gpt-2", &[])
    });
    assert_eq!(
        built.unwrap_err().to_string(),
        "the tokenizer cannot be built: the token \"[UNK]\" for what it cannot spell is missing"
    );
}
