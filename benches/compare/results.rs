//! The figures of both programs in all rounds, and their medians, ratios and spread.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::cases::{Unit, quantile};
use super::servers::Program;

/// One figure of a case and model, in all rounds.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) model: String,
    pub(crate) case: String,
    pub(crate) figure: &'static str,
    pub(crate) unit: Unit,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Row {
    fn values(&self, program: Program) -> &Vec<f64> {
        match program {
            Program::Ortolan => &self.ours,
            Program::LlamaServer => &self.theirs,
        }
    }

    /// Whether both programs have been measured.
    fn is_complete(&self) -> bool {
        !self.ours.is_empty() && !self.theirs.is_empty()
    }

    fn median(&self, program: Program) -> f64 {
        quantile(self.values(program).clone(), 0.5)
    }

    /// How many times better ortolan's median is.
    pub(crate) fn advantage(&self) -> Option<f64> {
        let medians = [Program::Ortolan, Program::LlamaServer].map(|program| self.median(program));
        self.unit.advantage(medians[0], medians[1])
    }

    /// The smallest and the largest ratio of a round.
    pub(crate) fn spread(&self) -> Option<[f64; 2]> {
        let rounds = self.ours.iter().zip(&self.theirs);
        let ratios = rounds.map(|(&ours, &theirs)| self.unit.advantage(ours, theirs));
        let ratios: Vec<f64> = ratios.collect::<Option<_>>()?;
        Some([0.0, 1.0].map(|share| quantile(ratios.clone(), share)))
    }
}

/// All rows, in the order in which they were first measured.
#[derive(Debug, Default)]
pub(crate) struct Results(Vec<Row>);

impl Results {
    pub(crate) fn add(
        &mut self,
        program: Program,
        [model, case]: [&str; 2],
        figure: &'static str,
        unit: Unit,
        value: f64,
    ) {
        let index = self
            .0
            .iter()
            .position(|row| row.model == model && row.case == case && row.figure == figure);
        let index = index.unwrap_or_else(|| {
            self.0.push(Row {
                model: model.to_owned(),
                case: case.to_owned(),
                figure,
                unit,
                ours: Vec::new(),
                theirs: Vec::new(),
            });
            self.0.len() - 1
        });
        let row = &mut self.0[index];
        match program {
            Program::Ortolan => row.ours.push(value),
            Program::LlamaServer => row.theirs.push(value),
        }
    }

    /// The rows with figures of both programs.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(|row| row.is_complete())
    }

    /// A table in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut table =
            "| model | case | figure | ortolan | llama-server | ratio | range of the rounds |\n\
             | --- | --- | --- | --: | --: | --: | --: |\n"
                .to_owned();
        for row in self.rows() {
            let [ours, theirs] = [Program::Ortolan, Program::LlamaServer]
                .map(|program| number(row.median(program)) + " " + row.unit.name());
            let ratio = row.advantage().map_or("–".to_owned(), number);
            let spread = row.spread().map_or("–".to_owned(), |[min, max]| {
                format!("{} to {}", number(min), number(max))
            });
            let (model, case, figure) = (&row.model, &row.case, row.figure);
            table += &format!(
                "| {model} | {case} | {figure} | {ours} | {theirs} | **{ratio}** | {spread} |\n"
            );
        }
        table
    }

    /// Writes all figures of all rounds as JSON.
    pub(crate) fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let rows: Vec<Value> = self
            .rows()
            .map(|row| {
                json!({
                    "model": row.model, "case": row.case, "figure": row.figure, "unit": row.unit.name(),
                    "ortolan": row.ours, "llama_server": row.theirs, "ratio_of_medians": row.advantage(),
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
    }
}

/// Formats a number with about three significant digits.
fn number(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.0995.. => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.4}"),
    }
}
