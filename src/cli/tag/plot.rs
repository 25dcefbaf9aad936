//! A picture of a rehearsal: one panel a label, its margins over media time, `enter` and `exit` as lines, its tags as bars. SVG on white,
//! which reads on a light and on a dark page.
//!
//! In: a rehearsal that is over. Out: the text of an SVG file. On the caller's thread. Bounded: at most [`MAX_PANELS`] labels unless they
//! are named, each with the points of its curve.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::rehearsal::{LabelCourse, MAX_TAGS, Rehearsal, margin_in_words};
use super::score_curve::{FARTHEST, Point};

/// Labels that are drawn if none is named: those with the highest margins.
pub(super) const MAX_PANELS: usize = 12;

const WIDTH: u32 = 1000;
/// Above the panels: title and legend.
const TITLE: u32 = 52;
const PANEL: u32 = 190;
pub(in crate::cli) const FONT: &str = "sans-serif";

const CURVE: RGBColor = RGBColor(31, 87, 164);
pub(in crate::cli) const ENTER: RGBColor = RGBColor(190, 40, 40);
pub(in crate::cli) const EXIT: RGBColor = RGBColor(214, 126, 20);
const TAG: RGBColor = RGBColor(70, 160, 80);
pub(in crate::cli) const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(226, 226, 226);

/// The picture; `named`: the labels that are wanted, those with the highest margins if there are none.
///
/// # Errors
/// What the drawing library says.
pub(super) fn svg(title: &str, rehearsal: &Rehearsal, named: &[String]) -> Result<String, String> {
    let (panels, left_out) = chosen(rehearsal, named);
    let height = TITLE + PANEL * u32::try_from(panels.len()).unwrap_or(u32::MAX / PANEL - 1);
    let mut svg = String::new();
    draw(&mut svg, height, title, rehearsal, &panels, left_out).map_err(|error| error.to_string())?;
    Ok(svg)
}

/// The labels that are drawn, and how many are not.
fn chosen<'a>(rehearsal: &'a Rehearsal, named: &[String]) -> (Vec<&'a LabelCourse>, usize) {
    let all: Vec<&LabelCourse> = rehearsal.courses.iter().flatten().collect();
    if !named.is_empty() {
        let of_name =
            |name: &'_ String| all.iter().copied().filter(|course| *course.label == **name).collect::<Vec<_>>();
        return (named.iter().flat_map(of_name).collect(), 0);
    }
    let best = |course: &LabelCourse| course.best.map_or(f32::NEG_INFINITY, |(_, score)| score.margin);
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|a, b| best(all[*b]).total_cmp(&best(all[*a])));
    order.truncate(MAX_PANELS);
    // In the order of the sets: two plots can be laid beside one another.
    order.sort_unstable();
    (order.iter().map(|at| all[*at]).collect(), all.len() - order.len())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(
    svg: &'a mut String,
    height: u32,
    title: &str,
    rehearsal: &Rehearsal,
    panels: &[&LabelCourse],
    left_out: usize,
) -> Drawn<'a> {
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (top, rest) = root.split_vertically(TITLE);
    let more = match left_out {
        0 => String::new(),
        more => format!(" · {} labels of {}, those with the highest margins", panels.len(), panels.len() + more),
    };
    let text = |size: u32| (FONT, size).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Top));
    top.draw_text(&short(&format!("{title}{more}"), 130), &text(18), (12, 8))?;
    let legend = [
        (12, CURVE, 2, "margin of each sample (and as a probability)"),
        (340, ENTER, 2, "enter: a tag may start at or above"),
        (600, EXIT, 2, "exit: it ends below"),
        (770, TAG, 10, "tag, as it would be told"),
    ];
    for (x, colour, thick, words) in legend {
        let above = 40 - thick / 2;
        top.draw(&Rectangle::new([(x, above), (x + 18, above + thick)], colour.filled()))?;
        top.draw_text(words, &text(14), (x + 24, 33))?;
    }
    for (area, course) in rest.split_evenly((panels.len().max(1), 1)).iter().zip(panels) {
        panel(area, rehearsal, course)?;
    }
    root.present()
}

fn panel<'a>(area: &Area<'a>, rehearsal: &Rehearsal, course: &LabelCourse) -> Drawn<'a> {
    let points: Vec<Point> = course.curve.iter().flat_map(super::score_curve::ScoreCurve::points).collect();
    let (low, high) = reach(&points, [course.enter, course.exit]);
    let (from, to) = (rehearsal.from, if rehearsal.to > rehearsal.from { rehearsal.to } else { rehearsal.from + 1.0 });
    let mut chart = ChartBuilder::on(area)
        .caption(short(&caption(course, rehearsal.samples), 130), (FONT, 15).into_font().color(&INK))
        .margin_left(8)
        .margin_right(24)
        .x_label_area_size(28)
        .y_label_area_size(104)
        .build_cartesian_2d(from..to, low..high)?;
    // Bars first: what lies on them stays seen.
    let bars = course.drawn.iter().map(|(start, end)| {
        Rectangle::new([(start.max(from), low), (end.min(to).max(*start), high)], TAG.mix(0.3).filled())
    });
    chart.draw_series(bars)?;
    // One that began and ended with the same sample has no width.
    let edges = course.drawn.iter().map(|(start, _)| PathElement::new(vec![(*start, low), (*start, high)], TAG));
    chart.draw_series(edges)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .x_labels(12)
        .y_labels(5)
        .label_style((FONT, 13).into_font().color(&INK))
        .x_label_formatter(&|at| clock(*at, to))
        .y_label_formatter(&|value| margin_in_words(*value))
        .draw()?;
    for (threshold, colour) in [(course.exit, EXIT), (course.enter, ENTER)] {
        if threshold.is_finite() && (low..=high).contains(&threshold) {
            chart.draw_series(std::iter::once(PathElement::new(vec![(from, threshold), (to, threshold)], colour)))?;
        }
    }
    let points = points.into_iter().map(|(at, value)| (at, value.clamp(low, high)));
    chart.draw_series(std::iter::once(PathElement::new(points.collect::<Vec<_>>(), CURVE)))?;
    Ok(())
}

/// From where to where margins are drawn: all samples and both thresholds, with room, also where all are the same.
fn reach(points: &[Point], thresholds: [f32; 2]) -> (f32, f32) {
    let finite = thresholds.into_iter().filter(|threshold| threshold.abs() <= FARTHEST);
    let values = points.iter().map(|point| point.1).chain(finite);
    let (low, high) = values.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return (-1.0, 1.0);
    }
    let room = ((high - low) * 0.08).max(0.5);
    (low - room, high + room)
}

fn caption(course: &LabelCourse, samples: u64) -> String {
    let tags = match course.tags {
        0 => "no tag".to_owned(),
        1 => "1 tag".to_owned(),
        tags if tags > MAX_TAGS as u64 => format!("{tags} tags, the first {MAX_TAGS} are drawn"),
        tags => format!("{tags} tags"),
    };
    let best = course
        .best
        .filter(|(_, score)| score.margin.is_finite())
        .map_or_else(String::new, |(at, score)| format!("; highest {} at {at:.1} s", margin_in_words(score.margin)));
    let share = course.share_over_enter(samples) * 100.0;
    let (label, enter) = (short(&course.label, 60), margin_in_words(course.enter));
    let region = course.region.as_ref().map_or_else(String::new, |region| format!("{}: ", short(region, 60)));
    format!(
        "{region}{label} (set {}): {tags}; {share:.0} % of the samples at or above enter, {enter}{best}",
        course.set
    )
}

/// Seconds, or minutes and hours where they say more.
fn clock(seconds: f64, longest: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match longest {
        longest if longest >= 3600.0 => format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60),
        longest if longest >= 300.0 => format!("{}:{:02}", whole / 60, whole % 60),
        longest if longest >= 20.0 => format!("{whole} s"),
        _ => format!("{seconds:.1} s"),
    }
}

/// No more than `most` characters, none of which XML cannot hold.
fn short(text: &str, most: usize) -> String {
    let plain = |c: char| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { '\u{fffd}' } else { c };
    let mut out: String = text.chars().take(most).map(plain).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::event::{EndReason, LabelRules, ModelRef, SetRules, Thresholds};
    use crate::frame::FrameTime;
    use crate::score::LabelScore;
    use crate::stream::StreamId;

    /// `margins` of each label, second by second.
    fn rehearsed(labels: &[&str], seconds: u64, margin: impl Fn(usize, u64) -> f32) -> Rehearsal {
        let rules = |name: &&str| LabelRules {
            name: Arc::from(*name),
            thresholds: Thresholds::default(),
            origin: crate::event::ThresholdOrigin::default(),
            attributes: Arc::default(),
            hours: None,
        };
        let set = SetRules {
            region: None,
            name: "lot".into(),
            labels: labels.iter().map(rules).collect(),
            rivals: Arc::default(),
        };
        let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
        let id = StreamId::from("file");
        let mut rehearsal = Rehearsal::new("site", &id, model, vec![set], Duration::from_secs(30), true);
        let base = Instant::now();
        for second in 0..seconds {
            let media = Duration::from_secs(second);
            let time =
                FrameTime { media, captured: base + media, wall: jiff::Timestamp::UNIX_EPOCH + media, connection: 0 };
            let score = |label| LabelScore { margin: margin(label, second), rival: None };
            rehearsal.sample(time, &[(0..labels.len()).map(score).collect()]);
        }
        rehearsal.close(EndReason::StreamEnded);
        rehearsal
    }

    /// As a reader of XML that takes nothing but XML sees it: its texts.
    fn texts(svg: &str) -> Vec<String> {
        let mut reader = quick_xml::Reader::from_str(svg);
        reader.config_mut().check_end_names = true;
        let (mut found, mut depth) = (Vec::new(), 0);
        let mut text = String::new();
        loop {
            match reader.read_event().unwrap() {
                quick_xml::events::Event::Start(_) => (depth, text) = (depth + 1, String::new()),
                quick_xml::events::Event::End(_) => {
                    depth -= 1;
                    found.push(std::mem::take(&mut text).trim().to_owned());
                }
                quick_xml::events::Event::Text(part) => text += &part.xml10_content(),
                quick_xml::events::Event::GeneralRef(name) => {
                    text += &quick_xml::escape::unescape(&format!("&{};", name.xml10_content())).unwrap();
                }
                quick_xml::events::Event::Eof => break,
                _ => {}
            }
        }
        assert_eq!(depth, 0);
        found
    }

    #[test]
    fn a_panel_has_its_curve_its_thresholds_and_its_tags_whatever_the_label_is_called() {
        let name = "a <b> & \"c\"\u{7} 'd'";
        let rehearsal = rehearsed(&[name], 20, |_, second| if (5..12).contains(&second) { 3.0 } else { -3.0 });
        let svg = svg("clip<&\".mp4", &rehearsal, &[]).unwrap();
        let texts = texts(&svg);
        assert!(texts.iter().any(|text| text.starts_with("a <b> & \"c\"\u{fffd} 'd' (set lot): 1 tag")), "{texts:?}");
        assert!(texts.iter().any(|text| text == "clip<&\".mp4"), "{texts:?}");
        for colour in ["#1F57A4", "#BE2828", "#D67E14", "#46A050"] {
            assert!(svg.contains(colour), "{colour}");
        }
        assert!(svg.contains("fill=\"#FFFFFF\"") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn the_labels_that_came_nearest_are_drawn_or_those_that_are_named() {
        let names: Vec<String> = (0..40).map(|n| format!("label {n}")).collect();
        let labels: Vec<&str> = names.iter().map(String::as_str).collect();
        let rehearsal = rehearsed(&labels, 3, |label, _| label as f32 / 4.0 - 8.0);
        let drawn = |named: &[String]| {
            let (panels, left_out) = chosen(&rehearsal, named);
            (panels.iter().map(|course| course.label.to_string()).collect::<Vec<_>>(), left_out)
        };
        assert_eq!(drawn(&[]), (names[28..].to_vec(), 28));
        let two = ["label 3".to_owned(), "label 1".to_owned()];
        assert_eq!(drawn(&two), (two.to_vec(), 0));
        let svg = svg("clip", &rehearsal, &[]).unwrap();
        assert!(texts(&svg).iter().any(|text| text.ends_with("12 labels of 40, those with the highest margins")));
        assert!(svg.len() < 200_000, "{}", svg.len());
    }

    #[test]
    fn nothing_that_a_score_can_be_breaks_an_axis() {
        for value in [0.0, 7.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30] {
            for seconds in [1, 2, 5] {
                let svg = svg("clip", &rehearsed(&["car"], seconds, |_, _| value), &[]).unwrap();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{value}: {svg}");
                texts(&svg);
            }
        }
        let svg = svg("clip", &rehearsed(&["car"], 0, |_, _| 0.0), &[]).unwrap();
        texts(&svg);
        assert_eq!(reach(&[(0.0, 2.0)], [2.0, 2.0]), (1.5, 2.5));
        assert_eq!(reach(&[], [f32::INFINITY, f32::INFINITY]), (-1.0, 1.0));
    }

    #[test]
    fn hours_of_video_make_a_file_that_a_browser_opens() {
        let rehearsal =
            rehearsed(&["car", "bus"], 40_000, |label, second| ((second * (label as u64 + 7)) % 13) as f32 - 6.0);
        let svg = svg("clip", &rehearsal, &[]).unwrap();
        assert!(svg.len() < 500_000, "{}", svg.len());
        assert!(texts(&svg).iter().any(|text| text == "5:00:00" || text == "2:46:40"), "{:?}", texts(&svg));
    }
}
