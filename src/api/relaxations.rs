//! Reports relaxations, the JSON Schema constraints that cannot be enforced, as ignored fields of the request.

use super::error::Error;
use super::payload::IgnoredFields;
use crate::model::Relaxation;

/// The paths of the JSON Schemas in a request body, which differ between API surfaces.
pub(super) struct SchemaPaths<'a> {
    /// Dotted path of the schema for the response text.
    pub response_schema: &'a str,
    /// The names of all tools in the order of the body; `None` for a tool without a name.
    pub tool_names: Vec<Option<String>>,
    /// Path of the argument schema within a tool.
    pub tool_schema: &'a str,
}

impl SchemaPaths<'_> {
    /// Returns the paths of a request without tools.
    pub(super) fn without_tools(response_schema: &str) -> SchemaPaths<'_> {
        SchemaPaths {
            response_schema,
            tool_names: Vec::new(),
            tool_schema: "",
        }
    }

    /// Reports each relaxed constraint by the path of its schema, followed by the JSON pointer to the constraint.
    ///
    /// # Errors
    /// If the server runs with `--strict` and a constraint is relaxed.
    pub(super) fn report(
        &self,
        relaxations: &[Relaxation],
        ignored: &mut IgnoredFields,
    ) -> Result<(), Error> {
        report(relaxations, ignored, |function| match function {
            None => self.response_schema.to_owned(),
            Some(function) => {
                let mut names = self.tool_names.iter();
                match names.position(|name| name.as_deref() == Some(function)) {
                    Some(number) => format!("tools.{number}.{}", self.tool_schema),
                    None => format!("tools.{function}.{}", self.tool_schema),
                }
            }
        })
    }
}

/// Reports each relaxed constraint by a field of the request and the JSON pointer to the constraint. `field` returns the
/// path of the schema of a function's parameters, or for `None` the path of the schema of the response text.
///
/// # Errors
/// If the server runs with `--strict` and a constraint is relaxed.
pub(super) fn report(
    relaxations: &[Relaxation],
    ignored: &mut IgnoredFields,
    field: impl Fn(Option<&str>) -> String,
) -> Result<(), Error> {
    for Relaxation { function, pointer } in relaxations {
        let field = field(function.as_deref());
        ignored.report(format!("{field}{pointer}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_a_relaxation_by_schema_path_and_pointer() {
        let paths = SchemaPaths {
            response_schema: "response_format.json_schema.schema",
            tool_names: vec![None, Some("b".to_owned())],
            tool_schema: "function.parameters",
        };
        let relaxation = |function: Option<&str>| Relaxation {
            function: function.map(str::to_owned),
            pointer: "/properties/v/contains".to_owned(),
        };
        let mut ignored = IgnoredFields::default();
        let relaxations = [relaxation(None), relaxation(Some("b"))];
        paths.report(&relaxations, &mut ignored).unwrap();
        assert_eq!(
            ignored.paths(),
            [
                "response_format.json_schema.schema/properties/v/contains",
                "tools.1.function.parameters/properties/v/contains",
            ]
        );
    }
}
