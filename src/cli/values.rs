//! Options whose values are named, and parsed into types of the modules that use them.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// A value's name, its description in `--help`, and the parsed value. A value without a description is a hidden alias.
pub(super) type NamedValue<T> = (&'static str, &'static str, T);

/// Returns a parser for an option with these values.
pub(super) fn one_of<T: Copy + Send + Sync + 'static>(
    values: &'static [NamedValue<T>],
) -> impl TypedValueParser<Value = T> {
    let names = values.iter().map(|(name, help, _)| {
        let name = PossibleValue::new(*name).help(*help);
        name.hide(help.is_empty())
    });
    PossibleValuesParser::new(names).map(move |name| {
        let mut values = values.iter();
        let value = values.find(|(listed, ..)| listed.eq_ignore_ascii_case(&name));
        value.expect("clap accepts only listed names").2
    })
}
