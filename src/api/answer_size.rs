//! How large an answer may be whose size follows from the request alone: of tokens, texts and embeddings. Generated answers have
//! a limit of their own.

use super::error::Error;

/// Most bytes of JSON of such an answer, as estimated before it is made: the ids of the largest body's tokens fit.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Bytes of a token's id, or of a number of an embedding, with what separates it from the next.
pub(super) const ID_BYTES: usize = 8;
pub(super) const NUMBER_BYTES: usize = 16;
/// Bytes beside the text of an object with a token's id and its piece.
const PIECE_FRAME_BYTES: usize = 32;
/// Most bytes of a byte of text: `\u0000`.
const ESCAPED_BYTES: usize = 6;

/// Bytes of a text.
pub(super) fn of_text(bytes: usize) -> usize {
    bytes.saturating_mul(ESCAPED_BYTES)
}

/// Bytes of a token's id and piece.
pub(super) fn of_piece(bytes: usize) -> usize {
    of_text(bytes).saturating_add(PIECE_FRAME_BYTES + ID_BYTES)
}

/// Refuses an answer that would be too large because of the field `param`.
pub(super) fn check(param: &str, bytes: usize) -> Result<(), Error> {
    match bytes > ANSWER_BYTES_MAX {
        true => Err(Error::invalid(
            param,
            format!(
                "{param}: the answer would take about {bytes} bytes, more than {ANSWER_BYTES_MAX}: divide it among several requests"
            ),
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_refused_one_byte_past_its_limit() {
        assert!(check("tokens", ANSWER_BYTES_MAX).is_ok());
        let error = check("tokens", ANSWER_BYTES_MAX + 1).unwrap_err();
        assert!(
            error.to_string().starts_with("tokens: the answer"),
            "{error}"
        );
    }

    #[test]
    fn answers_take_no_more_bytes_than_estimated() {
        let id = u32::MAX >> 12;
        assert!(format!("{id},").len() <= ID_BYTES);
        for number in [f32::MIN_POSITIVE, -0.012_345_679, -1.0 / 3.0, -f32::MAX] {
            let json = serde_json::to_string(&number).unwrap();
            assert!(json.len() < NUMBER_BYTES, "{json}");
        }
        for text in ["", "\0\0", "a", "\u{7f}"] {
            let json = serde_json::json!({"id": id, "piece": text}).to_string();
            assert!(json.len() < of_piece(text.len()), "{json}");
            let text_json = serde_json::to_string(text).unwrap();
            assert!(text_json.len() <= of_text(text.len()) + 2, "{text_json}");
        }
    }
}
