//! Limits the size of responses that the request alone determines: tokens, texts and embeddings. Generated text is
//! limited elsewhere.

use super::error::Error;

/// Limit of the estimated JSON size of a response in bytes. The token ids of the largest request body fit.
pub(super) const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Maximum JSON length of a token id and of a number of an embedding, each with its separator, in bytes.
pub(super) const TOKEN_ID_BYTES: usize = 8;
pub(super) const EMBEDDING_NUMBER_BYTES: usize = 16;
/// JSON length of a `{"id": …, "piece": …}` object without its values, in bytes.
const PIECE_OBJECT_BYTES: usize = 32;
/// Maximum JSON length of one byte of text: `\u0000`.
const ESCAPED_BYTE_LENGTH: usize = 6;

/// Returns the maximum JSON length of a text of `bytes` bytes.
pub(super) fn text_bytes(bytes: usize) -> usize {
    bytes.saturating_mul(ESCAPED_BYTE_LENGTH)
}

/// Returns the maximum JSON length of an object with a token id and a piece of `bytes` bytes.
pub(super) fn piece_bytes(bytes: usize) -> usize {
    text_bytes(bytes).saturating_add(PIECE_OBJECT_BYTES + TOKEN_ID_BYTES)
}

/// Rejects a request if the estimated size of its response exceeds the limit. The error names the field `param`.
pub(super) fn check(param: &str, bytes: usize) -> Result<(), Error> {
    match bytes > MAX_RESPONSE_BYTES {
        true => Err(Error::invalid(
            param,
            format!(
                "{param}: the response would be about {bytes} bytes, more than {MAX_RESPONSE_BYTES}: split the request"
            ),
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_response_one_byte_over_the_limit() {
        assert!(check("tokens", MAX_RESPONSE_BYTES).is_ok());
        let error = check("tokens", MAX_RESPONSE_BYTES + 1).unwrap_err();
        assert!(
            error.to_string().starts_with("tokens: the response"),
            "{error}"
        );
    }

    #[test]
    fn json_is_no_longer_than_estimated() {
        let id = u32::MAX >> 12;
        assert!(format!("{id},").len() <= TOKEN_ID_BYTES);
        for number in [f32::MIN_POSITIVE, -0.012_345_679, -1.0 / 3.0, -f32::MAX] {
            let json = serde_json::to_string(&number).unwrap();
            assert!(json.len() < EMBEDDING_NUMBER_BYTES, "{json}");
        }
        for text in ["", "\0\0", "a", "\u{7f}"] {
            let json = serde_json::json!({"id": id, "piece": text}).to_string();
            assert!(json.len() < piece_bytes(text.len()), "{json}");
            let text_json = serde_json::to_string(text).unwrap();
            assert!(text_json.len() <= text_bytes(text.len()) + 2, "{text_json}");
        }
    }
}
