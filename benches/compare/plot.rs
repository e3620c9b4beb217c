//! Draws the ratios as a bar chart: each bar goes from 1 to how many times better ortolan is.

use std::path::Path;

use anyhow::Context;
use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

use super::results::{Results, Row};

/// Draws the results that have a ratio to an SVG file.
pub(crate) fn draw(results: &Results, path: &Path) -> anyhow::Result<()> {
    const WIDTH: u32 = 900;
    const ROW_HEIGHT: usize = 24;
    const COLORS: [RGBColor; 2] = [RGBColor(31, 119, 180), RGBColor(230, 126, 34)];

    let rows: Vec<(&Row, f64)> = results
        .rows()
        .filter_map(|row| Some((row, row.advantage()?)))
        .filter(|(_, ratio)| *ratio > 0.0)
        .collect();
    let mut models: Vec<&str> = Vec::new();
    for (row, _) in &rows {
        if !models.contains(&row.model.as_str()) {
            models.push(&row.model);
        }
    }
    let ratios = rows.iter().map(|(_, ratio)| *ratio);
    let min = ratios.clone().fold(0.5, f64::min) / 1.2;
    let max = ratios.fold(2.0, f64::max) * 1.2;

    let height = u32::try_from(rows.len() * ROW_HEIGHT + 110)?;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let row_count = rows.len();
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "How many times better than llama-server (log scale)",
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(310)
        .build_cartesian_2d((min..max).log_scale(), (0..row_count).into_segmented())?;
    let label = |position: &SegmentValue<usize>| match position {
        SegmentValue::CenterOf(index) if *index < row_count => {
            let (row, _) = rows[row_count - 1 - index];
            format!("{} · {} · {}", row.model, row.case, row.figure)
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(row_count + 1)
        .y_label_formatter(&label)
        .x_label_formatter(&|ratio| format!("{ratio:.1}×"))
        .draw()?;
    for (index, (row, ratio)) in rows.iter().rev().enumerate() {
        let model = models.iter().position(|model| *model == row.model);
        let color = COLORS[model.unwrap_or(0) % COLORS.len()];
        let [from, to] = [index, index + 1].map(SegmentValue::Exact);
        let mut bar = Rectangle::new([(1.0, from), (*ratio, to)], color.filled());
        bar.set_margin(5, 5, 0, 0);
        chart.draw_series([bar])?;
        if let Some(spread) = row.spread() {
            let line = spread.map(|ratio| (ratio, SegmentValue::CenterOf(index)));
            chart.draw_series([PathElement::new(line, BLACK.stroke_width(2))])?;
        }
    }
    area.present().with_context(|| path.display().to_string())
}
