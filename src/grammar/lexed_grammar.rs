//! A grammar that is split into lexemes, and the characters with which a lexeme can begin.

use regex_syntax::hir::ClassUnicode;

use crate::token::TokenId;

pub(super) struct LexedGrammar {
    /// The rules, with the same indices as in the [`super::gbnf::Grammar`]. Unreferenced rules are empty choices.
    pub(super) rules: Vec<LexedExpression>,
    pub(super) lexemes: Vec<Lexeme>,
}

/// A part of the grammar that llguidance matches with its lexer.
pub(super) struct Lexeme {
    pub(super) regex: String,
    pub(super) first: First,
    /// Whether the lexeme is a single character class.
    pub(super) is_character: bool,
}

/// An [`super::gbnf::Expression`] in which lexemes replace the regular parts.
pub(super) enum LexedExpression {
    /// The lexeme with this index.
    Lexeme(usize),
    Token {
        token: TokenId,
        negated: bool,
    },
    Rule(usize),
    Sequence(Vec<LexedExpression>),
    Choice(Vec<LexedExpression>),
    Repeat {
        inner: Box<LexedExpression>,
        min: u32,
        max: Option<u32>,
    },
}

/// The characters with which an expression can begin.
#[derive(Debug, Clone)]
pub(super) struct First {
    pub(super) characters: ClassUnicode,
    /// Whether the expression can match the empty text.
    pub(super) nullable: bool,
}

impl First {
    pub(super) fn of(characters: ClassUnicode) -> Self {
        Self {
            characters,
            nullable: false,
        }
    }

    pub(super) fn sequence(parts: impl Iterator<Item = Self>) -> Self {
        let mut whole = Self {
            characters: ClassUnicode::empty(),
            nullable: true,
        };
        for part in parts {
            whole.characters.union(&part.characters);
            if !part.nullable {
                whole.nullable = false;
                break;
            }
        }
        whole
    }

    pub(super) fn choice(parts: impl Iterator<Item = Self>) -> Self {
        parts.fold(Self::of(ClassUnicode::empty()), |mut whole, part| {
            whole.characters.union(&part.characters);
            whole.nullable |= part.nullable;
            whole
        })
    }

    pub(super) fn repeated(mut self, min: u32) -> Self {
        self.nullable |= min == 0;
        self
    }
}
