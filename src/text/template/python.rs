//! String methods of Python that templates call and minijinja's `pycompat` lacks.

use minijinja::value::{Value, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// Maximum length of a padded string in characters.
const MAX_WIDTH: usize = 1 << 16;

/// Calls a Python method that minijinja lacks.
///
/// # Errors
/// If the value has no such method or the arguments are invalid.
pub(super) fn unknown_method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = string_method(text, method, arguments)?
    {
        return Ok(result);
    }
    pycompat::unknown_method_callback(state, value, method, arguments)
}

/// Calls a string method; `None` if this function does not implement the method.
fn string_method(text: &str, method: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "partition" => {
            let (separator,): (&str,) = from_args(arguments)?;
            not_empty(separator)?;
            let (before, after) = text.split_once(separator).unwrap_or((text, ""));
            let found = before.len() < text.len();
            [before, if found { separator } else { "" }, after]
                .into_iter()
                .collect()
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(arguments)?;
            not_empty(separator)?;
            let (before, after) = text.rsplit_once(separator).unwrap_or(("", text));
            let found = after.len() < text.len();
            [before, if found { separator } else { "" }, after]
                .into_iter()
                .collect()
        }
        "rsplit" => {
            let (separator, max_splits): (Option<&str>, Option<i64>) = from_args(arguments)?;
            rsplit(text, separator, max_splits)?
        }
        "casefold" => {
            let () = from_args(arguments)?;
            text.to_lowercase().into()
        }
        "swapcase" => {
            let () = from_args(arguments)?;
            let swap = |character: char| match character.is_uppercase() {
                true => character.to_lowercase().collect::<String>(),
                false => character.to_uppercase().collect(),
            };
            text.chars().map(swap).collect::<String>().into()
        }
        "isdecimal" => {
            let () = from_args(arguments)?;
            (!text.is_empty() && text.chars().all(|character| character.is_ascii_digit())).into()
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<char>) = from_args(arguments)?;
            padded(text, method, width, fill.unwrap_or(' '))?.into()
        }
        "zfill" => {
            let (width,): (usize,) = from_args(arguments)?;
            let (sign, digits) = match text.strip_prefix(['+', '-']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text),
            };
            let width = width.saturating_sub(sign.len());
            format!("{sign}{}", padded(digits, "rjust", width, '0')?).into()
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn not_empty(separator: &str) -> Result<(), Error> {
    match separator.is_empty() {
        true => Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        false => Ok(()),
    }
}

/// Splits the text at most `max_splits` times, from the end; a negative number sets no limit. Without a separator,
/// splits at whitespace.
fn rsplit(text: &str, separator: Option<&str>, max_splits: Option<i64>) -> Result<Value, Error> {
    let max_splits = max_splits.and_then(|number| usize::try_from(number).ok());
    let max_parts = max_splits.map_or(usize::MAX, |number| number.saturating_add(1));
    let mut parts: Vec<&str> = match separator {
        Some(separator) => {
            not_empty(separator)?;
            text.rsplitn(max_parts, separator).collect()
        }
        None => {
            let mut words = Vec::new();
            let mut rest = text.trim_end();
            while words.len() + 1 < max_parts
                && let Some(space) = rest.rfind(char::is_whitespace)
            {
                words.push(rest[space..].trim_start());
                rest = rest[..space].trim_end();
            }
            words.extend(Some(rest).filter(|rest| !rest.is_empty()));
            words
        }
    };
    parts.reverse();
    Ok(parts.into_iter().collect())
}

/// Pads the text with `fill` to at least `width` characters. `side` is the method: `ljust`, `rjust` or `center`.
fn padded(text: &str, side: &str, width: usize, fill: char) -> Result<String, Error> {
    if width > MAX_WIDTH {
        let problem = format!("invalid width {width}: the maximum is {MAX_WIDTH}");
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    let missing = width.saturating_sub(text.chars().count());
    let before = match side {
        "ljust" => 0,
        "rjust" => missing,
        // Rounds as CPython does.
        _ => missing / 2 + (missing & width & 1),
    };
    let fill = |count| std::iter::repeat_n(fill, count).collect::<String>();
    Ok(format!("{}{text}{}", fill(before), fill(missing - before)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[test]
    fn python_string_methods_are_supported() {
        check(
            "{{ '<a>b'.removeprefix('<a>') }}{{ 'x</a>'.removesuffix('</a>') }}",
            "bx",
        );
        check("{{ 'a=b=c'.partition('=') | join('|') }}", "a|=|b=c");
        check("{{ 'a=b=c'.rpartition('=') | join('|') }}", "a=b|=|c");
        check("{{ 'abc'.partition('=') | join('|') }}", "abc||");
        check("{{ 'abc'.rpartition('=') | join('|') }}", "||abc");
        check("{{ 'a,b,c'.rsplit(',', 1) | join('|') }}", "a,b|c");
        check("{{ 'a,b,c'.rsplit(',') | join('|') }}", "a|b|c");
        check("{{ ' a  b c '.rsplit() | join('|') }}", "a|b|c");
        check("{{ ' a  b c '.rsplit(none, 1) | join('|') }}", " a  b|c");
        check("{{ 'a</think>b'.rsplit('</think>', 1)[-1] }}", "b");
        check("{{ '7'.zfill(3) }}{{ '-7'.zfill(3) }}", "007-07");
        check(
            "{{ 'a'.ljust(3, '.') }}{{ 'a'.rjust(2) }}{{ 'ab'.center(5, '*') }}",
            "a.. a**ab*",
        );
        check(
            "{{ 'aB'.swapcase() }}{{ 'Straße'.casefold()[:3] }}{{ '12'.isdecimal() }}",
            "AbstrTrue",
        );
    }
}
