//! WordPiece.

use super::*;

/// Builds a tokenizer with these pieces and the normalization of uncased BERT models.
fn word_piece_tokenizer(pieces: &[&str]) -> Result<Tokenizer, TokenizerError> {
    let special = ["[UNK]", "[CLS]", "[SEP]"];
    let tokens: Vec<String> = special
        .iter()
        .chain(pieces)
        .map(ToString::to_string)
        .collect();
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    kinds[..3].copy_from_slice(&[TokenKind::Unknown, TokenKind::Control, TokenKind::Control]);
    Tokenizer::new(Vocabulary {
        bos: Some(TokenId(1)),
        eos: Some(TokenId(2)),
        adds_bos: true,
        adds_eos: true,
        ..without_roles(
            Algorithm::WordPiece(BertNormalization::default()),
            tokens,
            kinds,
        )
    })
}

#[test]
fn words_are_split_into_the_longest_tokens() {
    let pieces = [
        "un", "##aff", "##able", "unaff", "!", "caf", "##e", "中", "##",
    ];
    let tokenizer = word_piece_tokenizer(&pieces).unwrap();
    #[track_caller]
    fn check(tokenizer: &Tokenizer, text: &str, expected: &[u32], decoded: &str) {
        let ids = tokenizer.encode(text, SpecialTokens::Parse);
        let expected: Vec<TokenId> = expected.iter().copied().map(TokenId).collect();
        assert_eq!(ids, expected);
        assert_eq!(tokenizer.decode(&ids).unwrap(), decoded);
    }
    check(&tokenizer, "  UNaffable!", &[6, 5, 7], " unaffable !");
    check(&tokenizer, "un\naff Café", &[3, 0, 8, 9], " un[UNK] cafe");
    check(&tokenizer, "un中un[SEP]", &[3, 10, 3, 2], " un 中 un[SEP]");
    check(&tokenizer, "", &[], "");
    check(&tokenizer, &"un".repeat(51), &[0], "[UNK]");
}

#[test]
fn rejects_a_vocabulary_without_an_unknown_token() {
    let result = Tokenizer::new(Vocabulary {
        algorithm: Algorithm::WordPiece(BertNormalization::default()),
        ..vocabulary("gpt-2", &[])
    });
    assert_eq!(
        result.unwrap_err().to_string(),
        "the tokenizer cannot be built: the vocabulary has no unknown token \"[UNK]\""
    );
}
