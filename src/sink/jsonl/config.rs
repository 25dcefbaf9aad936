//! Checks sinks of type `jsonl`.

use super::{JsonlTarget, Rotation, Writer};
use crate::section;
use crate::sink::config::{SinkConfig, SinkItem};
use crate::sink::{Sink, SinkContext, SinkStartError};
use crate::yaml::field_reader::{At, Reader};
use crate::yaml::values::Bytes;
use crate::yaml::{checks, units};

const KEEP: usize = 5;
const MAX_KEEP: usize = 1000;

section! {
    pub struct Keys {
        /// path or `"-"` | required | a file of one event a line, or standard output
        "path" => path: String,
        /// size above 0 | no limit | a file that would get larger is turned over: `events.jsonl` becomes
        /// `events.jsonl.1`, that one `.2`, and so on; a file of that name that does not begin with an event is
        /// somebody else's and stays. A file that something else moves away or deletes is followed by a new one, for
        /// the next event already
        "max_size" => max_size: Bytes,
        /// 0 to 1000 | `5` | old files that are kept, with `max_size`
        "keep" => keep: usize,
    }
}

impl SinkConfig for JsonlTarget {
    type Keys = Keys;

    fn check(at: &At<SinkItem>, raw: &Keys, reader: &mut Reader<'_>) -> Option<Self> {
        let path = reader.required(at, "path", &raw.path, "name a file, or write \"-\" for standard output")?;
        let rotation = rotation(raw, reader);
        if path.value == "-" {
            if let Some(size) = raw.max_size.given() {
                reader.error(size, "has no meaning for standard output", "remove it");
            }
            return Some(Self::Stdout);
        }
        checks::output(path, false, reader).map(|path| Self::File { path, rotation })
    }

    fn target(&self) -> String {
        match self {
            Self::Stdout => "standard output".to_owned(),
            Self::File { path, .. } => path.display().to_string(),
        }
    }

    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, SinkStartError> {
        Ok(Box::new(Writer::open(self)?))
    }
}

fn rotation(raw: &Keys, reader: &mut Reader<'_>) -> Option<Rotation> {
    if let Some(keep) = raw.keep.given() {
        if raw.max_size.is_missing() {
            reader.error(keep, "has no meaning without `max_size`", "add `max_size: 100MiB`, or remove it");
        } else if keep.value > MAX_KEEP {
            reader.error(keep, format!("is above {MAX_KEEP}"), "5 is a good start");
        }
    }
    let size = raw.max_size.given()?;
    if size.value.0 == 0 {
        reader.error(size, "must be above 0", units::SIZE_HELP);
    }
    Some(Rotation { max_size: size.value.0, keep: raw.keep.value().unwrap_or(KEEP) })
}
