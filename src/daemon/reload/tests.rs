//! The end of a reload that is under way, without a daemon.

use super::*;
use crate::platform::shutdown;
use crate::platform::state_folder::StateFolder;
use crate::stream::requests;

#[test]
fn an_edit_that_is_under_way_at_the_end_leaves_no_copy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("yard.yaml");
    std::fs::write(&file, "set: yard\nbackground: [x]\nlabels: [{ name: car }]\n").unwrap();
    let sha256 = crate::label::set::read(&file).unwrap().set.sha256;
    let state = StateFolder::configured(folder.path().join("state"));
    let text = "model: { path: none }\nstreams: []\nsinks: [{ type: jsonl, path: '-' }]\n";
    let settings = Settings { state: state.clone(), ..config::of_text("a test", text).unwrap() };
    let (board, requests) = (Arc::new(Board::new(Arc::default())), requests::channel().1);
    let mut reloader = Reloader::new(settings, None, Vec::new(), requests, board, None, shutdown::channel().1);
    let draft = LabelDraft { label: "dog".to_owned(), ..LabelDraft::default() };
    reloader.before_edit = Some(label_edit::keep(&state, "yard", &file, &sha256, &draft).unwrap());
    assert!(state_copy::may_exist(&state, "yard"));
    reloader.end();
    assert!(!state_copy::may_exist(&state, "yard"));
}
