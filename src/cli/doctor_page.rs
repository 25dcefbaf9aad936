//! What `vtagd doctor` has found, as one page or as JSON. Findings in, text and an exit code out; pure.

use serde::Serialize;

use super::plain;

/// How it stands with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Not there, and not needed unless somebody asked for it.
    Absent,
    /// Worth knowing: nothing is wrong, or not for everybody.
    Note,
    /// It keeps something that is configured, or most things, from working.
    Fail,
}

/// One thing that was looked at. Stable; fields may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// Such as `processor`, `camera`.
    pub area: &'static str,
    pub level: Level,
    /// What was found, on one line.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All that was found, in the order in which it is read.
#[derive(Debug, Default)]
pub struct DoctorPage {
    results: Vec<CheckResult>,
}

impl DoctorPage {
    pub fn ok(&mut self, area: &'static str, found: impl Into<String>) {
        self.push(area, Level::Ok, found.into(), None);
    }

    pub fn note(&mut self, area: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.push(area, Level::Note, found.into(), Some(remedy.into()));
    }

    pub fn fail(&mut self, area: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.push(area, Level::Fail, found.into(), Some(remedy.into()));
    }

    /// Something that most boxes do without.
    pub fn absent(&mut self, area: &'static str, found: impl Into<String>) {
        self.push(area, Level::Absent, found.into(), None);
    }

    fn push(&mut self, area: &'static str, level: Level, found: String, remedy: Option<String>) {
        self.results.push(CheckResult { area, level, found: plain(&found), remedy: remedy.as_deref().map(plain) });
    }

    /// 0, or 1 where something fails.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.count(Level::Fail) > 0)
    }

    fn count(&self, level: Level) -> usize {
        self.results.iter().filter(|result| result.level == level).count()
    }

    /// As a table, an area a block, remedies below what they are for.
    pub fn table(&self) -> String {
        let mut lines = Vec::new();
        let mut last = "";
        for CheckResult { area, level, found, remedy } in &self.results {
            let mark = match level {
                Level::Ok => "ok",
                Level::Absent => "-",
                Level::Note => "note",
                Level::Fail => "FAIL",
            };
            let name = if *area == last { "" } else { area };
            last = area;
            lines.push(format!("{name:<14} {mark:<4}  {found}"));
            lines.extend(remedy.iter().map(|remedy| format!("{:<14}       to do: {remedy}", "")));
        }
        let verdict = match (self.count(Level::Fail), self.count(Level::Note)) {
            (0, 0) => "nothing is missing".to_owned(),
            (0, notes) => format!("nothing fails; {} to read", super::plural(notes, "note")),
            (fails, _) => format!("{} to mend", super::plural(fails, "fault")),
        };
        lines.push(String::new());
        lines.push(verdict);
        lines.join("\n")
    }

    /// # Errors
    /// Never in practice: it is made of texts.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&serde_json::json!({ "ok": self.exit_code() == 0, "results": self.results }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_is_named_once_and_each_remedy_stands_below_what_it_is_for() {
        let mut page = DoctorPage::default();
        page.ok("processor", "two cores");
        page.note("decoders", "no AV1", "install x");
        assert_eq!(page.exit_code(), 0);
        page.fail("decoders", "no H.264\nat all", "install y");
        let table = page.table();
        let wanted = "processor      ok    two cores\n\
                      decoders       note  no AV1\n                     to do: install x\n               \
                      FAIL  no H.264 at all\n                     to do: install y\n\n1 fault to mend";
        assert_eq!(table, wanted);
        let json: serde_json::Value = serde_json::from_str(&page.json().unwrap()).unwrap();
        assert_eq!((page.exit_code(), &json["ok"], &json["results"][1]["level"]), (1, &false.into(), &"note".into()));
    }
}
