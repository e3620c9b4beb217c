//! `logit_bias`, translated both ways.

use crate::api::error::Error;
use crate::api::options::single;
use crate::api::types;
use crate::model::PromptPiece;
use crate::token::TokenId;

/// The four forms of a bias: a token id or a text; a number, or `false` for "never". They are pairs, or an object whose keys
/// are ids or texts.
pub(in crate::api) fn logit_bias(
    biases: Option<types::LogitBiases>,
) -> Result<Vec<(PromptPiece, f32)>, Error> {
    use types::LogitBiasPart as Part;
    let pairs = match biases {
        None => return Ok(Vec::new()),
        Some(types::LogitBiases::LogitBiasMap(map)) => return Ok(of_map(map)),
        Some(types::LogitBiases::Array(pairs)) => pairs,
    };
    let pair = |(number, pair): (usize, types::LogitBias)| {
        let place = format!("logit_bias.{number}");
        let wrong = |what: &str| Error::invalid(&*place, format!("{place}: {what}"));
        let [target, amount] =
            <[Part; 2]>::try_from(pair.0).map_err(|_| wrong("a pair has two parts"))?;
        let target = match target {
            Part::String(text) => PromptPiece::Text(text),
            Part::Number(id) => {
                token(id).ok_or_else(|| wrong("a token id is a whole number from 0"))?
            }
            Part::Boolean(_) => return Err(wrong("the first part is a token id or a text")),
        };
        let amount = match amount {
            Part::Number(amount) => single(amount),
            Part::Boolean(_) => f32::NEG_INFINITY,
            Part::String(_) => return Err(wrong("the second part is a number or false")),
        };
        Ok((target, amount))
    };
    pairs.into_iter().enumerate().map(pair).collect()
}

/// In the order of the keys.
fn of_map(map: types::LogitBiasMap) -> Vec<(PromptPiece, f32)> {
    let mut biases: Vec<_> = map.0.into_iter().collect();
    biases.sort_by(|(left, _), (right, _)| left.cmp(right));
    let bias = |(target, amount): (String, types::LogitBiasAmount)| {
        let target = match target.parse() {
            Ok(id) => PromptPiece::Token(TokenId(id)),
            Err(_) => PromptPiece::Text(target),
        };
        let amount = match amount {
            types::LogitBiasAmount::Number(amount) => single(amount),
            types::LogitBiasAmount::Boolean(_) => f32::NEG_INFINITY,
        };
        (target, amount)
    };
    biases.into_iter().map(bias).collect()
}

fn token(id: f64) -> Option<PromptPiece> {
    let whole = id.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&id);
    whole.then_some(PromptPiece::Token(TokenId(id as u32)))
}

/// A bias as it is shown.
pub(super) fn shown_bias((target, amount): &(PromptPiece, f32)) -> types::LogitBias {
    use types::LogitBiasPart as Part;
    let target = match target {
        PromptPiece::Text(text) => Part::String(text.clone()),
        PromptPiece::Token(token) => Part::Number(f64::from(token.0)),
    };
    let amount = match amount.is_finite() {
        true => Part::Number(f64::from(*amount)),
        false => Part::Boolean(false),
    };
    types::LogitBias(vec![target, amount])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: Value) -> types::CompletionRequest {
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn a_bias_has_four_forms() {
        let read =
            |pairs: Value| logit_bias(read(json!({"prompt": "a", "logit_bias": pairs})).logit_bias);
        let token = |id| PromptPiece::Token(TokenId(id));
        let text = |text: &str| PromptPiece::Text(text.to_owned());
        assert_eq!(
            read(json!([
                [15043, 1.0],
                [15043, false],
                ["Hello", -0.5],
                ["Hello", false]
            ]))
            .unwrap(),
            [
                (token(15043), 1.0),
                (token(15043), f32::NEG_INFINITY),
                (text("Hello"), -0.5),
                (text("Hello"), f32::NEG_INFINITY),
            ]
        );
        let map = json!({"15043": 1.0, "Hello": -0.5, "2": false});
        assert_eq!(
            read(map).unwrap(),
            [
                (token(15043), 1.0),
                (token(2), f32::NEG_INFINITY),
                (text("Hello"), -0.5),
            ]
        );
        for (pair, problem) in [
            (json!([1.5, 1]), "whole number"),
            (json!([-1, 1]), "whole number"),
            (json!([false, 1]), "a token id or a text"),
            (json!([1, "a"]), "a number or false"),
        ] {
            let error = read(json!([[1, 1], pair])).unwrap_err().to_string();
            assert!(
                error.contains(problem) && error.contains("logit_bias.1"),
                "{error}"
            );
        }
        let shown = serde_json::to_value(shown_bias(&(token(7), f32::NEG_INFINITY))).unwrap();
        assert_eq!(shown, json!([7.0, false]));
    }
}
