//! A damaged file on a disk that is really full: a small one of its own, in a mount namespace, which a child process sees alone.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::*;

/// Set for the child: its disk.
const DISK: &str = "OUTBOX_TEST_DISK";
const NAME: &str = "outbox::event_store::tests::full_disk::what_a_full_disk_has_no_room_for_is_carried_over_once_it_has_and_nothing_is_lost";

#[test]
fn what_a_full_disk_has_no_room_for_is_carried_over_once_it_has_and_nothing_is_lost() {
    if let Some(disk) = std::env::var_os(DISK) {
        return on_disk(Path::new(&disk));
    }
    let folder = tempfile::tempdir().unwrap();
    let inside = || {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", "mount -t tmpfs -o size=8m tmpfs \"$0\" && exec \"$@\""]);
        command.arg(folder.path());
        command
    };
    let tried = inside().arg("true").output();
    if !tried.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no mount namespace here: {tried:?}");
        return;
    }
    let test = std::env::current_exe().unwrap();
    let done = inside().arg(test).args(["--exact", NAME, "--nocapture"]).env(DISK, folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

/// Leaves so many bytes of the disk.
fn fill(disk: &Path, leave: u64) {
    let mut file = File::options().append(true).create(true).open(disk.join("filler")).unwrap();
    while file.write_all(&[7; 4096]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(leave)).unwrap();
}

fn on_disk(disk: &Path) {
    let (path, machine) = (disk.join("outbox.db"), Machine::default());
    let reopen = || EventStore::open(Some(&path), &routes(&["a", "b"]), Box::new(machine.clone()));
    torn(&path, &machine);
    let damaged = fs::read(&path).unwrap();
    // Not even an empty file can be made.
    fill(disk, 0);
    let error = reopen().err().expect("there is no room for another file");
    assert_eq!(error.exit_code(), 1, "{error}");
    assert!(fs::read(&path).unwrap() == damaged && moved_aside(disk).is_empty(), "all is as it was");
    // For an empty one and some events there is room, for all of the old ones there is none.
    fill(disk, 768 << 10);
    let mut store = reopen().unwrap();
    assert!(store.is_salvaging() && !moved_aside(disk).is_empty());
    store.commit(&[queued("car", &[1])], &[]).unwrap();
    assert!(!store.salvage().unwrap());
    fill(disk, 0);
    let mut more = 0;
    while store.commit(&[queued("bus", &[1])], &[]).is_ok() {
        more += 1;
    }
    assert!(!store.salvage().unwrap() && store.is_salvaging(), "it waits on");
    // As a kill would leave it.
    drop(store);
    fill(disk, 64 << 10);
    let mut store = reopen().unwrap();
    assert!(store.is_salvaging(), "it is not forgotten");
    fs::remove_file(disk.join("filler")).unwrap();
    assert!(store.salvage().unwrap() && !store.is_salvaging());
    let all = waiting(&store, 1);
    let of = |label: &str| all.iter().filter(|(_, found)| found == label).count();
    assert_eq!((of("000"), of("399"), of("car"), of("bus")), (1, 1, 1, more));
    assert!(all.len() > 380 + more && all.windows(2).all(|pair| pair[0].0 < pair[1].0), "{} of them", all.len());
}
