//! A picture of a calibration: one panel a label, how many samples with it and without it have which margin, `enter` and `exit` as lines.
//!
//! In: a report. Out: the text of an SVG file. On the main thread. Bounded: at most [`MAX_PANELS`] labels.

use plotters::prelude::*;

use super::calibrate_report::{LabelReport, Report};
use super::tag::plot::{ENTER, EXIT, FONT, INK};

const MAX_PANELS: usize = 40;
const WIDTH: u32 = 900;
const PANEL: u32 = 190;
const SEEN: RGBColor = RGBColor(70, 160, 80);
const NOT_SEEN: RGBColor = RGBColor(31, 87, 164);

/// The picture.
///
/// # Errors
/// What the drawing library says.
pub(super) fn svg(report: &Report) -> Result<String, String> {
    let labels: Vec<&LabelReport> =
        report.labels.iter().filter(|label| label.outcome.histogram.is_some()).take(MAX_PANELS).collect();
    let mut svg = String::new();
    let height = PANEL * u32::try_from(labels.len().max(1)).unwrap_or(1);
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(|error| error.to_string())?;
        for (area, label) in root.split_evenly((labels.len().max(1), 1)).iter().zip(&labels) {
            panel(area, label).map_err(|error| error.to_string())?;
        }
        root.present().map_err(|error| error.to_string())?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn panel<'a>(
    area: &Area<'a>,
    label: &LabelReport,
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    let Some(histogram) = &label.outcome.histogram else { return Ok(()) };
    let levels = label.outcome.found.as_ref().ok().map(|(fit, _)| (fit.enter, fit.exit));
    let ends = levels.into_iter().flat_map(|(enter, exit)| [enter, exit]);
    let (low, high) = ends.fold((histogram.from, histogram.to), |(low, high), m| (low.min(m), high.max(m)));
    let room = ((high - low) * 0.05).max(0.25);
    let total = |bins: &[u64]| bins.iter().sum::<u64>().max(1) as f64;
    let share = |bins: &[u64]| bins.iter().map(|bin| *bin as f64 / total(bins)).collect::<Vec<_>>();
    let (seen, not_seen) = (share(&histogram.seen), share(&histogram.not_seen));
    let most = seen.iter().chain(&not_seen).copied().fold(0.01, f64::max);
    let plain = |c: char| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { '\u{fffd}' } else { c };
    let name: String = label.label.chars().take(60).map(plain).collect();
    let caption = format!("{name}: margins with it (green) and without it (blue); enter red, exit orange");
    let mut chart = ChartBuilder::on(area)
        .caption(caption, (FONT, 15).into_font().color(&INK))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(50)
        .build_cartesian_2d((low - room)..(high + room), 0.0..most * 1.05)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .axis_style(INK)
        .y_labels(4)
        .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
        .label_style((FONT, 13).into_font().color(&INK))
        .draw()?;
    let width = (histogram.to - histogram.from) / seen.len().max(1) as f32;
    for (bins, colour) in [(&not_seen, NOT_SEEN), (&seen, SEEN)] {
        let bar = |(at, share): (usize, &f64)| {
            let from = histogram.from + width * at as f32;
            Rectangle::new([(from, 0.0), (from + width.max(0.01), *share)], colour.mix(0.5).filled())
        };
        chart.draw_series(bins.iter().enumerate().filter(|(_, share)| **share > 0.0).map(bar))?;
    }
    for (level, colour) in levels.into_iter().flat_map(|(enter, exit)| [(exit, EXIT), (enter, ENTER)]) {
        chart.draw_series(std::iter::once(PathElement::new(vec![(level, 0.0), (level, most)], colour)))?;
    }
    Ok(())
}
