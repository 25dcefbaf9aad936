//! Reading the configuration again while the daemon runs (SIGHUP, the API), and switching streams by command: streams come, go and change,
//! label sets are exchanged, the API's token and certificate too.
//!
//! Lives on the main thread, which takes one [request](crate::stream::requests) at a time; only label texts that are new are embedded beside
//! it, on a thread of its own, since that takes seconds. A configuration with a problem changes nothing and is logged as `check`
//! prints it. Keys that need a restart are named and keep their old values. SIGHUPs that come while a reload is under way are one request, taken after it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use tokio::sync::oneshot;

use super::answer_queries::ModelAnswers;
use super::example_embeddings::ExampleViews;
use super::label_edit;
use super::marking::KeptMarks;
use super::running_streams::Streams;
use super::state_change::StateChange;
use super::{set_view, stream_edit};
use crate::api::{Access, Board};
use crate::config::{self, ApiSettings, Settings, calibrations};
use crate::daemon::engine::{self, EngineError, LabelBook, NewScorers};
use crate::label::{LabelSet, state_copy};
use crate::logs;
use crate::platform::shutdown::Shutdown;
use crate::platform::systemd::{self, LongStep};
use crate::score::Scorer;
use crate::stream::StreamId;
use crate::stream::requests::{Action, LabelDraft, RequestOutcome, RequestReceiver};
use crate::yaml::problem::{Problem, Severity};

/// See the module.
pub struct Reloader {
    /// What runs now.
    current: Settings,
    /// `None` for `model: none`.
    labels: Option<LabelBook>,
    /// One a label set of `current`; empty without a model.
    scorers: Vec<Arc<Scorer>>,
    /// What is doubtful about each of these sets, as the model sees it.
    doubts: Vec<Vec<String>>,
    /// Stream and set, and what has been told of their labels whose calibration does not fit.
    waiting: BTreeMap<(String, String), String>,
    requests: RequestReceiver,
    board: Arc<Board>,
    /// The API's, if there is one.
    access: Option<Arc<Access>>,
    /// Who answers what the API asks the model, by the label sets of now.
    answers: Option<Arc<ModelAnswers>>,
    /// Who keeps marks for it, by the streams and label sets of now.
    marks: Option<Arc<KeptMarks>>,
    /// Streams that somebody has switched on or off, against the file: until the file says something else, or a restart.
    switched: HashMap<String, bool>,
    shutdown: Shutdown,
    under_way: Option<UnderWay>,
    /// systemd knows that a reload has begun, and not yet that it is over.
    reloading: bool,
    /// Where somebody waits for the outcome of the request that is under way …
    answer: Option<oneshot::Sender<RequestOutcome>>,
    /// … which is told once everybody sees what has changed.
    outcome: Option<RequestOutcome>,
    /// What there was in the state directory before a change that is to come into force, until it does.
    before_edit: Option<StateChange>,
}

/// New label texts are being embedded for these settings.
struct UnderWay {
    settings: Settings,
    /// The label set whose copy goes with the old settings.
    reset: Option<String>,
    scorers: Receiver<Result<NewScorers, EngineError>>,
    thread: JoinHandle<()>,
}

impl Reloader {
    pub fn new(
        current: Settings,
        labels: Option<LabelBook>,
        scorers: Vec<Arc<Scorer>>,
        requests: RequestReceiver,
        board: Arc<Board>,
        access: Option<Arc<Access>>,
        shutdown: Shutdown,
    ) -> Self {
        let doubts = doubts_told(&current, &scorers);
        Self {
            current,
            doubts,
            labels,
            scorers,
            waiting: BTreeMap::new(),
            requests,
            board,
            access,
            answers: None,
            marks: None,
            switched: HashMap::new(),
            shutdown,
            under_way: None,
            reloading: false,
            answer: None,
            outcome: None,
            before_edit: None,
        }
    }

    /// Tells these too what runs.
    #[must_use]
    pub fn telling(self, answers: Arc<ModelAnswers>, marks: Arc<KeptMarks>) -> Self {
        Self { answers: Some(answers), marks: Some(marks), ..self }
    }

    /// Tells the API and the sinks what runs now.
    pub fn publish(&mut self, streams: &Streams) {
        self.answers.iter().for_each(|answers| answers.change(&self.current, &self.scorers));
        self.marks.iter().for_each(|marks| marks.change(&self.current));
        streams.register(&self.current);
        let waiting = self.waiting_labels(streams.model());
        let sets = self.current.label_sets.iter().zip(&self.current.in_force).enumerate();
        let view = |(at, set)| {
            let doubts = self.doubts.get(at).into_iter().flatten().chain(&waiting[at]).cloned();
            set_view::view(&self.current, at, set, &doubts.collect::<Vec<_>>())
        };
        self.board.set_scores_in_metrics(self.current.scores_in_metrics);
        self.board.set_additions(stream_edit::additions(&self.current.state));
        self.board.set_labels(sets.map(view).collect());
    }

    /// What is told of each set's labels that wait for a calibration that fits; log and metric hear of it when it changes.
    fn waiting_labels(&mut self, model: &str) -> Vec<Vec<String>> {
        let mut told = vec![Vec::new(); self.current.label_sets.len()];
        let mut now = BTreeMap::new();
        for one in calibrations::calibrated(&self.current, model) {
            let key = (one.stream.clone(), one.set.clone());
            gauge(&key, one.labels.len());
            let mut text = String::new();
            if !one.labels.is_empty() {
                text = one.to_string();
                if self.waiting.get(&key) != Some(&text) {
                    tracing::warn!(set = one.set, "{text}; {}", one.remedy);
                }
                told[one.at].push(text.clone());
            }
            now.insert(key, text);
        }
        self.waiting.keys().filter(|key| !now.contains_key(*key)).for_each(|key| gauge(key, 0));
        self.waiting = now;
        told
    }

    /// Whether the configuration has no stream at all.
    pub fn wants_no_streams(&self) -> bool {
        self.current.streams.is_empty()
    }

    /// Does what is asked for next, or goes on with what is under way, and tells whom it concerns what came of it.
    pub fn poll(&mut self, streams: &mut Streams) {
        streams.join_waiting(Instant::now(), &self.current, &self.scorers);
        self.answers.iter().for_each(|answers| answers.end_idle(Instant::now()));
        let changed = self.step(streams);
        if self.reloading && self.under_way.is_none() {
            self.reloading = false;
            systemd::reloaded(changed);
        }
        if changed {
            self.publish(streams);
        }
        if let Some(outcome) = self.outcome.take()
            && let Some(answer) = self.answer.take()
        {
            // He may have gone.
            let _ = answer.send(outcome);
        }
    }

    /// Returns whether something has changed.
    fn step(&mut self, streams: &mut Streams) -> bool {
        if let Some(under_way) = self.under_way.take() {
            return match under_way.scorers.try_recv() {
                Ok(Ok(NewScorers { sets, scorers, refused })) => {
                    let _ = under_way.thread.join();
                    let mut settings = Settings { label_sets: sets, ..under_way.settings };
                    super::goes_by_texts(&mut settings, &refused);
                    self.accept(settings, under_way.reset, scorers, streams)
                }
                Ok(Err(error)) => {
                    let _ = under_way.thread.join();
                    let kept = kept(under_way.reset.as_deref());
                    self.refuse(&format!("the new labels cannot be used{kept}: {error}"), Vec::new());
                    false
                }
                Err(_) if under_way.thread.is_finished() && under_way.scorers.is_empty() => {
                    self.refuse("embedding the new labels panicked; please report this", Vec::new());
                    false
                }
                Err(_) => {
                    self.under_way = Some(under_way);
                    false
                }
            };
        }
        let Some(request) = self.requests.next(Duration::ZERO) else { return false };
        self.answer = request.answer;
        match request.action {
            Action::Reload => self.reload(request.origin, None, streams),
            Action::Switch { stream, enabled } => {
                let outcome = self.switch(&stream, enabled, request.origin, streams);
                let changed = matches!(outcome, RequestOutcome::Done);
                self.outcome = Some(outcome);
                changed
            }
            Action::ResetSet { set } => self.reset(&set, request.origin, streams),
            Action::EditLabel { set, sha256, draft } => self.edit(&set, &sha256, &draft, request.origin, streams),
            Action::AddStream(new) => self.with_change(stream_edit::add(&self.current, &new), request.origin, streams),
            Action::RemoveStream { stream } => {
                self.with_change(stream_edit::remove(&self.current, &stream), request.origin, streams)
            }
        }
    }

    /// The configuration is read again with what was changed below the state directory. Where that is refused it is changed back.
    fn with_change(&mut self, done: Result<StateChange, RequestOutcome>, by: &str, streams: &mut Streams) -> bool {
        match done {
            Ok(change) => {
                self.before_edit = Some(change);
                self.reload(by, None, streams)
            }
            Err(outcome) => {
                self.outcome = Some(outcome);
                false
            }
        }
    }

    /// The set with a label as it is wanted becomes a copy, which the configuration is read again with. Where that is refused the copy goes again.
    fn edit(&mut self, set: &str, sha256: &str, draft: &LabelDraft, by: &str, streams: &mut Streams) -> bool {
        let known = self.current.label_sets.iter().zip(&self.current.in_force).find(|(known, _)| known.name == set);
        let Some((_, in_force)) = known else {
            self.outcome = Some(RequestOutcome::NoSuchSet);
            return false;
        };
        let kept = label_edit::keep(&self.current.state, set, &in_force.file, sha256, draft);
        self.with_change(kept, by, streams)
    }

    /// The configuration is read again as it is without the copy of a label set, which is removed once that is what runs.
    fn reset(&mut self, set: &str, by: &str, streams: &mut Streams) -> bool {
        if !state_copy::may_exist(&self.current.state, set) {
            let known = self.current.label_sets.iter().any(|known| known.name == set);
            self.outcome = Some(if known { RequestOutcome::Already } else { RequestOutcome::NoSuchSet });
            return false;
        }
        self.reload(by, Some(set.to_owned()), streams)
    }

    fn refuse(&mut self, why: &str, problems: Vec<Problem>) {
        self.take_back();
        metrics::counter!("vtagd_config_reloads_total", "result" => "refused").increment(1);
        tracing::error!(why, "the old configuration stays");
        self.outcome = Some(RequestOutcome::Refused { why: why.to_owned(), problems });
    }

    /// What has not come into force goes again.
    fn take_back(&mut self) {
        if let Some(before) = self.before_edit.take()
            && let Err(error) = before.restore(&self.current.state)
        {
            tracing::error!(%error, "a change that is not in force could not be taken back");
        }
    }

    /// A stream is switched on or off, as if the file said so.
    fn switch(&mut self, stream: &str, enabled: bool, by: &str, streams: &mut Streams) -> RequestOutcome {
        let mut new = self.current.clone();
        let Some(found) = new.streams.iter_mut().find(|found| *found.source.id == *stream) else {
            return RequestOutcome::NoSuchStream;
        };
        if found.enabled == enabled {
            return RequestOutcome::Already;
        }
        found.enabled = enabled;
        tracing::info!(
            %stream, enabled, by, "switched by a command, until the configuration says otherwise or the next start"
        );
        self.switched.insert(stream.to_owned(), enabled);
        self.apply(new, self.scorers.clone(), streams);
        RequestOutcome::Done
    }

    /// What was switched by a command stays so, unless the file has changed its mind about that stream.
    fn keep_switched(&mut self, new: &mut Settings) {
        self.switched.retain(|id, enabled| {
            let Some(stream) = new.streams.iter_mut().find(|stream| *stream.source.id == **id) else { return false };
            // Against the file is what a command is for; a file that says the same now has the last word from here on.
            let against = stream.enabled != *enabled;
            stream.enabled = *enabled;
            against
        });
    }

    /// Ends what is under way. Shutdown has been asked for, so it does not take long.
    pub fn end(mut self) {
        // Nobody has tried it, and nobody was told that it is saved.
        self.take_back();
        if let Some(under_way) = self.under_way {
            let _ = under_way.thread.join();
        }
    }

    /// `reset`: without the copy of that label set.
    fn reload(&mut self, by: &str, reset: Option<String>, streams: &mut Streams) -> bool {
        let file = self.current.file.clone();
        tracing::info!(file = %file.display(), by, "reading the configuration again");
        systemd::reloading();
        self.reloading = true;
        let state = match &reset {
            Some(set) => self.current.state.without(state_copy::name_of(set)),
            None => self.current.state.clone(),
        };
        let new = match config::load_again(&file, &state) {
            Ok(new) => new,
            Err(problems) => {
                for problem in problems.iter().filter(|problem| problem.severity == Severity::Error) {
                    tracing::error!("{problem}");
                }
                let kept = kept(reset.as_deref());
                self.refuse(&format!("the configuration has problems{kept}"), problems);
                return false;
            }
        };
        if self.before_edit.as_ref().is_some_and(|change| change.is_missed_in(&new)) {
            let problems = new.notices.into_iter().filter(|notice| notice.severity == Severity::Warning);
            self.refuse("the stream cannot be used beside the others", problems.collect());
            return false;
        }
        new.notices.iter().for_each(super::log_notice);
        let stuck = config::effects::waiting(&self.current, &new);
        if !stuck.is_empty() {
            tracing::warn!(keys = stuck.join(", "), "changed, but take effect only after a restart");
        }
        let new = Settings {
            // Everything the running stages were built of stays as it is.
            instance: self.current.instance.clone(),
            model: self.current.model.clone(),
            infer: self.current.infer.clone(),
            sinks: self.current.sinks.clone(),
            routes: self.current.routes.clone(),
            outbox: self.current.outbox.clone(),
            snapshots: self.current.snapshots.clone(),
            history: self.current.history.clone(),
            state: self.current.state.clone(),
            log: config::LogSettings { format: self.current.log.format, ..new.log },
            ..new
        };
        // Examples are seen as the streams see them.
        let learns = new.label_sets.iter().any(LabelSet::has_examples);
        let is_new = new.label_sets != self.current.label_sets
            || (learns && ExampleViews::of(&new) != ExampleViews::of(&self.current));
        let Some(labels) = self.labels.clone().filter(|_| is_new) else {
            return self.accept(new, reset, self.scorers.clone(), streams);
        };
        let (done, scorers) = bounded(1);
        let (sets, views, shutdown) = (new.label_sets.clone(), ExampleViews::of(&new), self.shutdown.clone());
        // What cannot be used since before holds nothing else up; what is new is told to whoever asked for it.
        let now = self.current.label_sets.iter().zip(&self.current.in_force);
        let by_texts: Vec<String> = now.filter(|(_, of)| of.is_by_texts).map(|(set, _)| set.name.clone()).collect();
        let embed = move || {
            // systemd waits for the end of a reload no longer than for a start.
            let _long_step = LongStep::quiet();
            // The receiver waits for this thread.
            let _ = done.send(labels.scorers(sets, &by_texts, &views, &shutdown));
        };
        match std::thread::Builder::new().name("vtagd-reload".to_owned()).spawn(embed) {
            Ok(thread) => self.under_way = Some(UnderWay { settings: new, reset, scorers, thread }),
            Err(error) => self.refuse(&format!("no thread to embed the new labels: {error}"), Vec::new()),
        }
        false
    }

    /// The configuration was read again and nothing is in its way any more, once the copy of the label set `reset` is gone: from here on it
    /// is what runs. Returns whether it does.
    fn accept(
        &mut self,
        new: Settings,
        reset: Option<String>,
        scorers: Vec<Arc<Scorer>>,
        streams: &mut Streams,
    ) -> bool {
        if let Some(set) = reset {
            if let Err(error) = state_copy::remove(&self.current.state, &set) {
                self.refuse(&error.to_string(), Vec::new());
                return false;
            }
            tracing::info!(set, "the copy of the label set is removed, the configuration's file is in force");
        }
        if let Some(change) = self.before_edit.take() {
            change.settle(&self.current.state);
        }
        let mut new = Settings { api: self.api(new.api), ..new };
        self.keep_switched(&mut new);
        let (left, joined) = self.apply(new, scorers, streams);
        tracing::info!(?left, ?joined, label_sets = self.current.label_sets.len(), "the new configuration runs");
        metrics::counter!("vtagd_config_reloads_total", "result" => "applied").increment(1);
        self.outcome = Some(RequestOutcome::Done);
        true
    }

    /// What the API goes on with: where it listens, and whether with TLS, stays; its token, its trusted proxies and its certificate, which is
    /// read anew even if its path is the same, do not.
    fn api(&self, new: Option<ApiSettings>) -> Option<ApiSettings> {
        let (Some(access), Some(current), Some(new)) = (&self.access, &self.current.api, new) else {
            return self.current.api.clone();
        };
        // The file may do without a token on loopback; as long as others can ask, the old one counts.
        let local = current.listen.ip().to_canonical().is_loopback();
        let kept = if new.token.is_none() && !local { current.token.clone() } else { None };
        if kept.is_some() {
            tracing::warn!(listen = %current.listen, "the API keeps its token until a restart, as other machines reach it until then");
        }
        let tls = if new.tls.is_some() == current.tls.is_some() { new.tls } else { current.tls.clone() };
        let new = ApiSettings { listen: current.listen, token: new.token.or(kept), tls, ..new };
        match access.change(&new) {
            Ok(()) => Some(new),
            Err(error) => {
                // It could be read a moment ago.
                tracing::error!(%error, "the API goes on with its old token and certificate");
                Some(current.clone())
            }
        }
    }

    /// Makes `new` what runs: streams that are gone or changed leave, the others get their new labels between two batches, and
    /// then those that are new join; one that is changed does so when it has left. Who has left, and who has joined.
    fn apply(
        &mut self,
        new: Settings,
        scorers: Vec<Arc<Scorer>>,
        streams: &mut Streams,
    ) -> (Vec<StreamId>, Vec<StreamId>) {
        let old = std::mem::replace(&mut self.current, new);
        if old.label_sets != self.current.label_sets {
            self.doubts = doubts_told(&self.current, &scorers);
        }
        self.scorers = scorers;
        let new = &self.current;
        if old.log.level != new.log.level {
            logs::change_level(old.log.level, new.log.level);
        }
        let stays = |id: &str| {
            let find = |settings: &Settings| settings.streams.iter().find(|s| &*s.source.id == id).cloned();
            match (find(&old), find(new)) {
                // Label sets are exchanged in place; all else is what the stream is. One that has failed gets another chance.
                (Some(before), Some(after)) if !streams.has_failed(id) => {
                    before == config::StreamSettings { label_sets: before.label_sets.clone(), ..after }
                }
                _ => false,
            }
        };
        let ids = old.streams.iter().map(|s| &s.source.id);
        let left: Vec<StreamId> = ids.filter(|id| !stays(id)).cloned().collect();
        let join: Vec<_> = new.streams.iter().filter(|s| !stays(&s.source.id)).collect();
        for id in &left {
            streams.remove(id);
        }
        streams.relabel(new, &self.scorers);
        for stream in &join {
            streams.add_or_wait(new, stream, &self.scorers);
        }
        (left, join.iter().map(|s| s.source.id.clone()).collect())
    }
}

/// Labels of a set on a stream that wait.
fn gauge((stream, set): &(String, String), waiting: usize) {
    metrics::gauge!("vtagd_labels_waiting", "stream" => stream.clone(), "set" => set.clone()).set(waiting as f64);
}

/// What is doubtful about each set, which the log hears of too.
fn doubts_told(settings: &Settings, scorers: &[Arc<Scorer>]) -> Vec<Vec<String>> {
    let doubts = engine::doubts(&settings.label_sets, scorers);
    for (set, doubts) in settings.label_sets.iter().zip(&doubts) {
        doubts.iter().for_each(|doubt| tracing::warn!(set = set.name, "{doubt}; reword the one or the other"));
    }
    doubts
}

/// What is said besides where the copy of a label set was to go.
fn kept(reset: Option<&str>) -> &'static str {
    if reset.is_some() { ", and the copy stays in force" } else { "" }
}

#[cfg(test)]
mod tests;
