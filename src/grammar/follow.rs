//! What may come after the lexemes of a grammar: the sets FIRST and FOLLOW of parsing (Aho, Sethi and Ullman,
//! section 4.4), of characters.

use super::characters::Characters;
use super::lexemes::{Lexed, Piece};

/// What a part of a grammar may begin with.
#[derive(Debug, Clone, Default)]
pub(super) struct First {
    pub(super) characters: Characters,
    /// Whether the part may be the empty text.
    pub(super) nullable: bool,
}

impl First {
    pub(super) fn of(characters: Characters) -> Self {
        Self {
            characters,
            nullable: false,
        }
    }

    /// Of one part after the other.
    pub(super) fn sequence(parts: impl Iterator<Item = Self>) -> Self {
        let mut whole = Self {
            nullable: true,
            ..Self::default()
        };
        for part in parts {
            whole.characters.add(&part.characters);
            if !part.nullable {
                whole.nullable = false;
                break;
            }
        }
        whole
    }

    /// Of one of the parts.
    pub(super) fn choice(parts: impl Iterator<Item = Self>) -> Self {
        parts.fold(Self::default(), |mut whole, part| {
            whole.characters.add(&part.characters);
            whole.nullable |= part.nullable;
            whole
        })
    }

    /// Of a part that comes so often at least.
    pub(super) fn repeated(mut self, least: u32) -> Self {
        self.nullable |= least == 0;
        self
    }
}

/// The characters that may come after each lexeme.
pub(super) fn following(lexed: &Lexed) -> Vec<Characters> {
    let mut follow = Follow {
        lexed,
        first: vec![First::default(); lexed.rules.len()],
        rules: vec![Characters::default(); lexed.rules.len()],
        lexemes: vec![Characters::default(); lexed.lexemes.len()],
        changed: true,
    };
    while std::mem::take(&mut follow.changed) {
        for (rule, piece) in lexed.rules.iter().enumerate() {
            let first = follow.first(piece);
            let known = &mut follow.first[rule];
            let more = known.characters.add(&first.characters);
            follow.changed |= more || first.nullable != known.nullable;
            known.nullable |= first.nullable;
        }
    }
    follow.changed = true;
    while std::mem::take(&mut follow.changed) {
        for (rule, piece) in lexed.rules.iter().enumerate() {
            let after = follow.rules[rule].clone();
            follow.walk(piece, &after);
        }
    }
    follow.lexemes
}

struct Follow<'a> {
    lexed: &'a Lexed,
    /// What each rule may begin with.
    first: Vec<First>,
    /// What may come after each rule, and after each lexeme.
    rules: Vec<Characters>,
    lexemes: Vec<Characters>,
    changed: bool,
}

impl Follow<'_> {
    fn first(&self, piece: &Piece) -> First {
        match piece {
            Piece::Lexeme(number) => self.lexed.lexemes[*number].first.clone(),
            Piece::Token { .. } => First::of(Characters::all()),
            Piece::Rule(rule) => self.first[*rule].clone(),
            Piece::Sequence(parts) => First::sequence(parts.iter().map(|part| self.first(part))),
            Piece::Choice(parts) => First::choice(parts.iter().map(|part| self.first(part))),
            Piece::Repeat { of, least, .. } => self.first(of).repeated(*least),
        }
    }

    /// Enters what may come after each part, if `after` may come after the whole.
    fn walk(&mut self, piece: &Piece, after: &Characters) {
        match piece {
            Piece::Lexeme(number) => self.changed |= self.lexemes[*number].add(after),
            Piece::Token { .. } => {}
            Piece::Rule(rule) => self.changed |= self.rules[*rule].add(after),
            Piece::Sequence(parts) => {
                let mut after = after.clone();
                for part in parts.iter().rev() {
                    self.walk(part, &after);
                    let mut first = self.first(part);
                    if first.nullable {
                        first.characters.add(&after);
                    }
                    after = first.characters;
                }
            }
            Piece::Choice(parts) => parts.iter().for_each(|part| self.walk(part, after)),
            Piece::Repeat { of, .. } => {
                let mut after = after.clone();
                after.add(&self.first(of).characters);
                self.walk(of, &after);
            }
        }
    }
}
