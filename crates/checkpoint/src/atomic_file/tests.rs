//! Files under a full disk, an unwritable place, readers at work and a `kill -9`.

use std::process::{Child, Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::*;

/// Names the folder in which a test, run once more as a child, is to write.
const CHILD: &str = "VTAGD_TEST_FOLDER";
const LONG: usize = 1 << 20;

thread_local! {
    /// How often a file's content was brought to the disk by this thread.
    pub static SYNCS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn child(test: &str, folder: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("atomic_file::tests::{test}")]).env(CHILD, folder);
    command.stdout(Stdio::null()).spawn().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_is_written_is_there_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let longest = "ü".repeat(127);
    for name in ["file", &longest] {
        let file = folder.path().join(name);
        for (content, durability) in [("old", Durability::Synced), ("new", Durability::Unsynced)] {
            replace(&file, content.as_bytes(), durability).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
        }
    }
    assert_eq!(names(folder.path()).len(), 2);
}

#[test]
fn a_content_is_on_the_disk_once_before_it_has_its_name_unless_nobody_needs_it_there() {
    let folder = tempfile::tempdir().unwrap();
    for (durability, syncs) in [(Durability::Synced, 1), (Durability::WholeOrNothing, 1), (Durability::Unsynced, 0)] {
        let before = SYNCS.get();
        replace(&folder.path().join("file"), b"new", durability).unwrap();
        assert_eq!(SYNCS.get(), before + syncs, "{durability:?}");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    for place in [taken.clone(), folder.path().join("missing/file"), folder.path().join(".."), "/".into()] {
        replace(&place, b"new", Durability::Synced).unwrap_err();
    }
    assert!(taken.is_dir());
    assert_eq!(names(folder.path()), ["taken"]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the child is the test itself, and nothing is to run after its answer")]
fn a_disk_that_takes_half_of_it_leaves_the_old_content() {
    if let Some(folder) = std::env::var_os(CHILD) {
        // SAFETY: ignoring a signal runs no code of ours. It would end the process where the limit is an error otherwise.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        setrlimit(Resource::Fsize, Rlimit { current: Some(LONG as u64 / 2), maximum: None }).unwrap();
        let error = replace(&Path::new(&folder).join("file"), &[b'n'; LONG], Durability::Synced).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        // Tells it apart from a run that found no test of this name.
        std::process::exit(42);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    replace(&file, b"old", Durability::Synced).unwrap();
    let ended = child("a_disk_that_takes_half_of_it_leaves_the_old_content", folder.path()).wait().unwrap();
    assert_eq!(ended.code(), Some(42));
    assert_eq!(fs::read(&file).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn a_reader_never_sees_half_and_a_killed_writer_leaves_a_whole_file() {
    if let Some(folder) = std::env::var_os(CHILD) {
        let file = Path::new(&folder).join("file");
        for letter in (b'a'..=b'z').cycle() {
            replace(&file, &[letter; LONG], Durability::Unsynced).unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let whole = || {
        let content = fs::read(&file).unwrap();
        assert!(content.len() == LONG && content.iter().all(|letter| *letter == content[0]), "half a file");
        content[0]
    };
    replace(&file, &[b'-'; LONG], Durability::Unsynced).unwrap();
    for _ in 0..8 {
        let before = whole();
        let mut writer = child("a_reader_never_sees_half_and_a_killed_writer_leaves_a_whole_file", folder.path());
        while whole() == before && writer.try_wait().unwrap().is_none() {}
        assert!(writer.try_wait().unwrap().is_none(), "it writes until it is killed");
        writer.kill().unwrap();
        writer.wait().unwrap();
        whole();
    }
    let left = names(folder.path());
    assert!(left.iter().all(|name| name == "file" || meant_for(name) == Some("file")), "{left:?}");
}

#[test]
fn only_what_the_dead_have_left_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let old = temporary(&folder.path().join("file")).unwrap();
    let fresh = temporary(&folder.path().join("file")).unwrap();
    let strangers = ["a.tmp", ".file.tmp", ".file.x.tmp", ".file.00000000000000000000000000000001.tmp"];
    let strangers = strangers.map(|name| folder.path().join(name));
    for path in strangers.iter().chain([&old, &fresh]) {
        fs::write(path, "half").unwrap();
        if *path != fresh {
            let then = SystemTime::now() - 2 * ABANDONED;
            File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
        }
    }
    sweep(folder.path());
    assert!(!old.exists() && fresh.exists() && strangers.iter().all(|path| path.exists()));
    sweep(&folder.path().join("missing"));
}
