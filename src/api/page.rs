//! The status page at `/`: one table of streams, one of recent events. No script, no outside resource; every value is escaped.

use std::fmt::Write;
use std::sync::Arc;

use super::Readiness;
use crate::event::Event;
use crate::outbox::Report;
use crate::outbox::delivery::Health;
use crate::stream::accounting::Totals;
use crate::stream::status::{StreamReport, StreamState};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:60rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ccc}.bad{color:#b00}";

/// Rows of recent events on the page; the API has more.
const ROWS: usize = 30;

pub(super) fn render(
    readiness: &Readiness,
    streams: &[(StreamReport, Totals)],
    outbox: &Report,
    events: &[Arc<Event>],
) -> String {
    let mut page = String::new();
    // Writing into a String cannot fail.
    let _ = write_page(&mut page, readiness, streams, outbox, events);
    page
}

fn write_page(
    out: &mut String,
    readiness: &Readiness,
    streams: &[(StreamReport, Totals)],
    outbox: &Report,
    events: &[Arc<Event>],
) -> std::fmt::Result {
    write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">"
    )?;
    write!(out, "<title>vtagd</title><style>{STYLE}</style><h1>vtagd</h1>")?;
    let class = if readiness.ready { "" } else { " class=\"bad\"" };
    let model = readiness.model.as_deref().unwrap_or("no model");
    let provider = readiness.provider.as_deref().unwrap_or("-");
    writeln!(out, "<p{class}>{} · {} on {}</p>", escape(&readiness.reason), escape(model), escape(provider))?;
    for refused in &readiness.refused {
        let provider = refused.provider.as_str();
        writeln!(out, "<p class=\"bad\">{provider} refused: {}</p>", escape(&refused.reason))?;
    }
    writeln!(
        out,
        "<h2>Streams</h2><table><tr><th>stream<th>state<th>last frame<th>sampled<th>inferred<th>reused<th>dropped</tr>"
    )?;
    for (report, totals) in streams {
        let (class, state) = match &report.state {
            StreamState::Connecting => ("", "connecting".to_owned()),
            StreamState::Up => ("", "up".to_owned()),
            StreamState::Disabled => ("", "switched off".to_owned()),
            StreamState::Ended => ("", "ended".to_owned()),
            StreamState::Down { error } => (" class=\"bad\"", format!("down: {error}")),
            StreamState::Failed { error } => (" class=\"bad\"", format!("failed: {error}")),
        };
        let age = report.last_frame_age.map_or_else(|| "never".to_owned(), |s| format!("{s:.1} s ago"));
        let dropped: u64 = totals.dropped.values().sum();
        writeln!(
            out,
            "<tr><td>{}<td{class}>{}<td>{age}<td>{}<td>{}<td>{}<td>{dropped}</tr>",
            escape(&report.id),
            escape(&state),
            totals.sampled,
            totals.inferred,
            totals.reused
        )?;
    }
    writeln!(out, "</table>")?;
    write_sinks(out, outbox)?;
    writeln!(out, "<h2>Events</h2><table><tr><th>time<th>stream<th>label<th>what<th>score</tr>")?;
    for event in events.iter().take(ROWS) {
        let data = &event.data;
        writeln!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{:.2}</tr>",
            data.sampled_at.strftime("%F %T"),
            escape(&data.place()),
            escape(&data.label),
            event.kind.as_str(),
            data.score
        )?;
    }
    writeln!(
        out,
        "</table><p>Times are UTC. <a href=\"/metrics\">metrics</a> · <a href=\"/readyz\">readiness</a> · <a href=\"/api/v1/streams\">streams</a> · <a href=\"/api/v1/sinks\">sinks</a> · <a href=\"/api/v1/events\">events</a> · <a href=\"/api/v1/openapi.json\">all of the API</a></p></html>"
    )
}

fn write_sinks(out: &mut String, outbox: &Report) -> std::fmt::Result {
    if let Some(error) = &outbox.error {
        writeln!(out, "<p class=\"bad\">events cannot be stored: {}</p>", escape(error))?;
    }
    writeln!(out, "<h2>Sinks</h2><table><tr><th>sink<th>state<th>waiting<th>oldest<th>dead letters</tr>")?;
    for sink in &outbox.sinks {
        let (class, state) = match &sink.health {
            Health::Up if sink.notice.is_some() => (" class=\"bad\"", sink.notice.clone().unwrap_or_default()),
            Health::Starting => ("", "nothing to deliver yet".to_owned()),
            Health::Up => ("", "up".to_owned()),
            Health::Down { why } => (" class=\"bad\"", format!("down: {why}")),
            Health::Disabled { why } => (" class=\"bad\"", format!("disabled: {why}")),
            Health::Gone { why } => (" class=\"bad\"", format!("gone: {why}")),
        };
        let oldest = sink.oldest_pending_seconds.map_or_else(|| "-".to_owned(), |age| format!("{age:.0} s"));
        writeln!(
            out,
            "<tr><td>{}<td{class}>{}<td>{}<td>{oldest}<td>{}</tr>",
            escape(&sink.name),
            escape(&state),
            sink.pending,
            sink.dead
        )?;
    }
    writeln!(out, "</table>")
}

/// Label names and errors are user text; they must not become markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::{Provider, Refused};
    use crate::outbox::SinkReport;

    #[test]
    fn user_text_never_becomes_markup() {
        let readiness = Readiness {
            ready: false,
            reason: "<script>".into(),
            model: Some("a&b".into()),
            provider: None,
            refused: vec![Refused { provider: Provider::Cuda, reason: "no <GPU>".into() }],
            inference: None,
        };
        let down = SinkReport {
            name: "hook".into(),
            health: Health::Down { why: "said <b>no</b>".into() },
            pending: 7,
            ..SinkReport::default()
        };
        let outbox = Report { error: Some("disk <full>".into()), sinks: vec![down], ..Report::default() };
        let page = render(&readiness, &[], &outbox, &[]);
        assert!(page.contains("down: said &lt;b&gt;no&lt;/b&gt;<td>7<td>-"), "{page}");
        assert!(page.contains("events cannot be stored: disk &lt;full&gt;"), "{page}");
        assert!(page.contains("cuda refused: no &lt;GPU&gt;"), "{page}");
        assert!(page.contains("&lt;script&gt;") && page.contains("a&amp;b") && !page.contains("<script>"));
    }
}
