//! Constraints of JSON Schemas that an answer is not held to, reported by the paths of a surface's own fields.

use super::error::Error;
use super::payload::Ignored;
use crate::model::Relaxation;

/// Where a surface has the schemas of a request.
pub(super) struct SchemaPaths<'a> {
    /// The dotted path of the schema of the answer's form.
    pub form: &'a str,
    /// The names of the tools, in the order of the body; a tool without a name counts, too.
    pub tools: Vec<Option<String>>,
    /// The path of a function's schema within its tool.
    pub parameters: &'a str,
}

impl SchemaPaths<'_> {
    /// The paths of a request without tools.
    pub(super) fn of_form(form: &str) -> SchemaPaths<'_> {
        SchemaPaths {
            form,
            tools: Vec::new(),
            parameters: "",
        }
    }

    /// Reports each relaxed constraint by the path of its schema and its JSON pointer there.
    ///
    /// # Errors
    /// If fields without effect are refused.
    pub(super) fn report(
        &self,
        relaxations: &[Relaxation],
        ignored: &mut Ignored,
    ) -> Result<(), Error> {
        for Relaxation { function, pointer } in relaxations {
            let path = match function {
                None => self.form.to_owned(),
                Some(function) => {
                    let mut names = self.tools.iter();
                    match names.position(|name| name.as_ref() == Some(function)) {
                        Some(number) => format!("tools.{number}.{}", self.parameters),
                        None => format!("tools.{function}.{}", self.parameters),
                    }
                }
            };
            ignored.report(format!("{path}{pointer}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relaxation_has_the_path_of_its_schema_and_its_pointer() {
        let paths = SchemaPaths {
            form: "response_format.json_schema.schema",
            tools: vec![None, Some("b".to_owned())],
            parameters: "function.parameters",
        };
        let relaxation = |function: Option<&str>| Relaxation {
            function: function.map(str::to_owned),
            pointer: "/properties/v/contains".to_owned(),
        };
        let mut ignored = Ignored::default();
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
