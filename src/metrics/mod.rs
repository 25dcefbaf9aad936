//! Metrics: how they are set up; [`METRICS`] is the one list of every metric's name, unit and meaning.

mod metric_list;

use std::fmt::Write as _;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

pub use metric_list::{Kind, LABELS, METRICS, Values, tables, values};

/// Upper bounds of histograms of seconds. The smallest is a run on a GPU, the largest a batch of the largest model on a small CPU;
/// 0.2 is what `ops/` alarms at, 0.05 the default of `max_delay`, and 0.07 what `benches/peers/serving.py` asks of the wait before a run.
const SECONDS: [f64; 17] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Installs the recorder behind `/metrics` and describes every metric.
///
/// # Errors
/// When a recorder is installed already.
pub fn init_metrics() -> Result<PrometheusHandle, BuildError> {
    let sizes = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("vtagd_batch_size".into()), &sizes)?
        .install_recorder()?;
    for (name, kind, unit, _, meaning) in METRICS {
        match kind {
            Kind::Counter => describe_counter!(*name, *unit, *meaning),
            Kind::Gauge => describe_gauge!(*name, *unit, *meaning),
            Kind::Histogram => describe_histogram!(*name, *unit, *meaning),
        }
    }
    // A counter that first appears with 1 has not grown, as far as Prometheus can tell: its first failure would be lost.
    metrics::counter!("vtagd_inference_errors_total").absolute(0);
    metrics::counter!("vtagd_inference_out_of_memory_total").absolute(0);
    metrics::counter!("vtagd_inference_hung_total").absolute(0);
    metrics::counter!("vtagd_outbox_errors_total").absolute(0);
    for result in ["whole", "partial"] {
        metrics::counter!("vtagd_outbox_recoveries_total", "result" => result).absolute(0);
    }
    Ok(handle)
}

/// Metrics that are read when they are asked for, as Prometheus's text, after those of the recorder. Series that are left out are
/// gone: unlike a gauge, what nobody knows any more is not told for ever.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    /// What the last sample was called.
    family: &'static str,
}

impl Exposition {
    /// Goes on after `text`.
    pub fn after(text: String) -> Self {
        Self { text, family: "" }
    }

    /// One series. Those of one name must follow one another.
    pub fn sample(&mut self, name: &'static str, labels: &[(&str, &str)], value: f64) {
        if self.family != name {
            self.family = name;
            if let Some((_, kind, _, _, meaning)) = METRICS.iter().find(|metric| metric.0 == name) {
                let kind = if *kind == Kind::Counter { "counter" } else { "gauge" };
                self.push(format_args!("# HELP {name} {meaning}\n# TYPE {name} {kind}\n"));
            }
        }
        self.text.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.push(format_args!("{}{label}=\"", if index == 0 { '{' } else { ',' }));
            for character in value.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        self.push(format_args!("{} {value}\n", if labels.is_empty() { "" } else { "}" }));
    }

    /// Everything so far.
    pub fn into_text(self) -> String {
        self.text
    }

    fn push(&mut self, what: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = self.text.write_fmt(what);
    }
}

#[cfg(test)]
mod tests {
    use metrics::Unit;

    use super::*;

    #[test]
    fn series_of_one_name_stand_under_one_heading_with_their_labels_escaped() {
        let mut text = Exposition::after("before 1\n".into());
        text.sample("vtagd_stream_up", &[("stream", "a")], 1.0);
        text.sample("vtagd_stream_up", &[("stream", "b\"\\\n"), ("x", "y")], 0.0);
        text.sample("process_cpu_seconds_total", &[], 0.25);
        let text = text.into_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "before 1");
        assert!(lines[1].starts_with("# HELP vtagd_stream_up 1 while frames arrive"), "{text}");
        assert_eq!(lines[2], "# TYPE vtagd_stream_up gauge");
        assert_eq!(
            lines[3..5],
            ["vtagd_stream_up{stream=\"a\"} 1", "vtagd_stream_up{stream=\"b\\\"\\\\\\n\",x=\"y\"} 0"]
        );
        assert_eq!(lines[6..], ["# TYPE process_cpu_seconds_total counter", "process_cpu_seconds_total 0.25"]);
    }

    #[test]
    fn every_label_of_every_metric_has_its_values_and_they_are_those_of_the_code() {
        for (name, _, _, labels, _) in METRICS {
            for label in labels.split(", ").filter(|label| !label.is_empty()) {
                assert!(values(name, label).is_some(), "{name}: {label}");
            }
        }
        for (label, metrics, _) in LABELS {
            let has = |(name, _, _, labels, _): &(&str, Kind, Unit, &str, &str)| {
                labels.split(", ").any(|l| l == *label) && (metrics.is_empty() || metrics.contains(name))
            };
            assert!(METRICS.iter().any(has) || *label == "region", "no metric has {label}");
        }
        let words = |metric, label| match values(metric, label) {
            Some(Values::Words(words)) => words.to_vec(),
            other => panic!("{other:?}"),
        };
        let dropped: Vec<_> = crate::stream::accounting::DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words("vtagd_frames_dropped_total", "reason"), dropped);
        let lost: Vec<_> = crate::outbox::Loss::ALL.iter().map(|loss| loss.as_str()).collect();
        assert_eq!(words("vtagd_events_dropped_total", "reason"), lost);
        assert_eq!(words("vtagd_starts_swallowed_total", "why"), crate::stream::swallowed_starts::CAUSES);
    }

    #[test]
    fn no_metric_is_listed_twice() {
        let mut names: Vec<&str> = METRICS.iter().map(|metric| metric.0).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
