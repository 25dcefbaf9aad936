//! The state directory on a real file system: whose it is, whose what lies there is, and where nothing can be written.

use super::*;

fn folder() -> (tempfile::TempDir, StateFolder) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::configured(dir.path().join("state"));
    (dir, state)
}

#[test]
fn what_is_written_is_read_replaced_and_removed() {
    let (_dir, state) = folder();
    let name = Path::new("labels/dock.yaml");
    assert_eq!(state.read(name, 100).unwrap(), None);
    assert!(!state.remove(name).unwrap());
    state.write(name, b"one").unwrap();
    state.write(name, b"longer").unwrap();
    assert_eq!(state.read(name, 100).unwrap().unwrap(), b"longer");
    assert_eq!(state.read(name, 3).unwrap().unwrap(), b"long", "one more tells that there is more");
    let without = state.without(name.to_owned());
    assert_eq!((without.read(name, 100).unwrap(), state.read(name, 100).unwrap().is_some()), (None, true));
    assert!(state.remove(name).unwrap() && !state.remove(name).unwrap());
    let left: Vec<_> = fs::read_dir(state.path().join("labels")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(state.write(Path::new("../out"), b"x").is_err() && state.write(Path::new("/tmp/out"), b"x").is_err());
}

#[test]
fn a_second_daemon_is_refused_by_the_name_of_the_first_and_the_dead_hold_nothing() {
    let (_dir, state) = folder();
    assert_eq!(state.holder(), None);
    let lock = state.lock("north").unwrap().unwrap();
    let wanted = format!(" (pid {}, instance north)", std::process::id());
    assert_eq!(state.holder().as_deref(), Some(&*wanted));
    let error = state.lock("south").unwrap_err();
    assert!(matches!(error, StateError::InUse { .. }) && error.exit_code() == 1, "{error}");
    let told = error.to_string();
    assert!(told.contains(&wanted) && told.contains("state.path"), "{told}");
    drop(lock);
    // What the dead have written there is a text, nothing more.
    assert!(state.path().join(LOCK).is_file());
    assert_eq!(state.holder(), None);
    let _again = state.lock("south").unwrap().unwrap();
    fs::write(state.path().join(LOCK), "no\u{1b}[2J such\u{0}\nthing at all").unwrap();
    assert_eq!(state.holder().as_deref(), Some(""), "what is written there is not trusted");
}

#[test]
fn whoever_asks_whether_a_daemon_runs_keeps_none_from_starting() {
    let (_dir, state) = folder();
    drop(state.lock("north").unwrap());
    let asked = File::open(state.path().join(LOCK)).unwrap();
    asked.lock_shared().unwrap();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(LOCK_PAUSE);
        drop(asked);
    });
    assert!(state.lock("north").unwrap().is_some());
    thread.join().unwrap();
}

#[test]
fn a_place_that_nobody_asked_for_may_be_missing_and_one_that_was_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("file");
    fs::write(&blocked, "no folder").unwrap();
    let at = |given_by| StateFolder { path: blocked.join("state"), given_by, hidden: None };
    assert!(at(GivenBy::Nobody).lock("north").unwrap().is_none());
    assert!(at(GivenBy::Nobody).write(Path::new("a"), b"x").is_err(), "but what has to be kept is an error");
    let remedies = [
        (GivenBy::Configuration, "state.path"),
        (GivenBy::Systemd, "StateDirectory="),
        (GivenBy::Systemd, "`chown"),
        (GivenBy::Systemd, "podman unshare chown"),
    ];
    for (given_by, remedy) in remedies {
        let error = at(given_by).lock("north").unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(remedy), "{error}");
    }
}

#[test]
fn nothing_is_made_below_etc() {
    let link = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc", link.path().join("elsewhere")).unwrap();
    for path in [PathBuf::from("/etc/vtagd-test/state"), link.path().join("elsewhere/vtagd-test")] {
        let error = StateFolder::configured(path.clone()).lock("north").unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("/etc"), "{error}");
        assert!(!path.exists());
    }
}

#[test]
fn what_root_writes_into_a_services_folder_is_the_services() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let (_dir, state) = folder();
    fs::create_dir(state.path()).unwrap();
    fs::set_permissions(state.path(), Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::chown(state.path(), Some(65_534), Some(65_533)).unwrap();
    state.write(Path::new("labels/dock.yaml"), b"x").unwrap();
    drop(state.lock("north").unwrap());
    for (name, mode) in [("labels", 0o750), ("labels/dock.yaml", 0o640), (LOCK, 0o640)] {
        let found = fs::metadata(state.path().join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (65_534, 65_533), "{name}");
        assert!(name == LOCK || found.mode() & 0o777 == mode, "{name}: {:o}", found.mode());
    }
    // Its owner cannot choose where root writes.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::remove_dir_all(state.path().join("labels")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), state.path().join("labels")).unwrap();
    assert!(state.write(Path::new("labels/dock.yaml"), b"x").is_err());
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}
