//! Converts `logit_bias` from and to JSON.

use crate::api::error::Error;
use crate::api::options::to_f32;
use crate::api::types;
use crate::model::PromptPiece;
use crate::token::TokenId;

/// Reads `logit_bias`: an array of pairs `[token, bias]` or an object `{token: bias}`. A token is a token id or a text.
/// The bias `false` forbids the token.
pub(in crate::api) fn logit_bias(
    biases: Option<types::LogitBiases>,
) -> Result<Vec<(PromptPiece, f32)>, Error> {
    use types::LogitBiasPart as Part;
    let pairs = match biases {
        None => return Ok(Vec::new()),
        Some(types::LogitBiases::LogitBiasMap(map)) => return Ok(map_biases(map)),
        Some(types::LogitBiases::Array(pairs)) => pairs,
    };
    let pair = |(index, pair): (usize, types::LogitBias)| {
        let path = format!("logit_bias.{index}");
        let invalid = |problem: &str| Error::invalid(&*path, format!("{path}: {problem}"));
        let [target, amount] =
            <[Part; 2]>::try_from(pair.0).map_err(|_| invalid("a pair must have two elements"))?;
        let target = match target {
            Part::String(text) => PromptPiece::Text(text),
            Part::Number(id) => token(id)
                .ok_or_else(|| invalid("a token id must be a non-negative whole number"))?,
            Part::Boolean(_) => {
                return Err(invalid("the first element must be a token id or a text"));
            }
        };
        let amount = match amount {
            Part::Number(amount) => to_f32(amount),
            Part::Boolean(_) => f32::NEG_INFINITY,
            Part::String(_) => return Err(invalid("the second element must be a number or false")),
        };
        Ok((target, amount))
    };
    pairs.into_iter().enumerate().map(pair).collect()
}

/// Reads biases from an object and sorts them by key.
fn map_biases(map: types::LogitBiasMap) -> Vec<(PromptPiece, f32)> {
    let mut biases: Vec<_> = map.0.into_iter().collect();
    biases.sort_by(|(left, _), (right, _)| left.cmp(right));
    let bias = |(target, amount): (String, types::LogitBiasAmount)| {
        let target = match target.parse() {
            Ok(id) => PromptPiece::Token(TokenId(id)),
            Err(_) => PromptPiece::Text(target),
        };
        let amount = match amount {
            types::LogitBiasAmount::Number(amount) => to_f32(amount),
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

/// Returns a bias as a JSON pair; an infinite bias becomes `false`.
pub(super) fn bias_json((target, amount): &(PromptPiece, f32)) -> types::LogitBias {
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
    fn reads_and_writes_all_forms_of_biases() {
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
        let json = serde_json::to_value(bias_json(&(token(7), f32::NEG_INFINITY))).unwrap();
        assert_eq!(json, json!([7.0, false]));
    }
}
