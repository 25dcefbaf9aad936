//! The consumers in `examples/consumers` as a user would run them, beside a real daemon.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::broker::{Broker, free_port};
use crate::common::daemon::{Daemon, eventually, root};
use crate::common::flicker;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Its whole group: a shell has children.
        // SAFETY: plain system call on a group that we made.
        unsafe { libc::kill(-(self.0.id() as i32), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

fn start(folder: &Path, name: &str, arguments: &[String], secret: &str) -> Running {
    use std::os::unix::process::CommandExt;
    let file = |end: &str| File::create(folder.join(format!("{name}.{end}"))).unwrap();
    let script = root().join("examples/consumers").join(name);
    // Debian's Python has Debian's paho-mqtt; another one may come first on the path.
    let python = ["/usr/bin/python3", "python3"].into_iter().find(|p| Path::new(p).exists()).unwrap_or("python3");
    let mut command = Command::new(if name.ends_with(".py") { python } else { "/bin/sh" });
    let child = command
        .arg(script)
        .args(arguments)
        .env("WEBHOOK_SECRET", secret)
        .stdin(Stdio::null())
        .stdout(file("out"))
        .stderr(file("err"))
        .process_group(0)
        .spawn()
        .expect("run `make setup` first: it installs python3 and mosquitto-clients");
    Running(child)
}

#[test]
fn the_consumers_of_the_documentation_say_what_they_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let said = |name: &str| {
        let text = std::fs::read_to_string(folder.path().join(format!("{name}.out"))).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let broker = Broker::start(folder.path());
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let (honest, deceived) = (free_port(), free_port());
    std::fs::write(folder.path().join("secret"), secret).unwrap();
    let broker_address = ["127.0.0.1".to_owned(), broker.port.to_string()];
    let _shell = start(folder.path(), "events.sh", &broker_address, secret);
    let _python = start(folder.path(), "events.py", &broker_address, secret);
    let _receiver = start(folder.path(), "webhook.py", &[honest.to_string()], secret);
    let mut text = flicker::config(folder.path(), 1, 1);
    text.push_str(&format!(
        "outbox: {{ path: outbox.db }}\nsinks:\n  - {{ type: mqtt, url: \"mqtt://127.0.0.1:{}\" }}\n  - {{ type: webhook, \
         name: signed, url: \"http://127.0.0.1:{honest}/\", secret: {{ file: secret }} }}\n",
        broker.port
    ));
    eventually("the Python consumer is connected", || {
        let err = std::fs::read_to_string(folder.path().join("events.py.err")).unwrap();
        assert!(!err.contains("Error"), "{err}");
        err.contains("connected").then_some(())
    });
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.wait_ready();
    eventually("the shell says what starts", || said("events.sh").contains(&"cam0: cat".to_owned()).then_some(()));
    eventually("Python says what has ended", || {
        said("events.py")
            .iter()
            .any(|line| line.starts_with("cam0: cat for ") && line.contains("peak 0.9"))
            .then_some(())
    });
    eventually("the receiver takes what is signed", || {
        said("webhook.py").iter().any(|line| line.starts_with("start cam0 cat ")).then_some(())
    });
    daemon.stop_cleanly();

    // The same receiver with another secret takes nothing.
    let other = start(
        folder.path(),
        "webhook.py",
        &[deceived.to_string()],
        "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    );
    let text = text.replace(&format!(":{honest}/"), &format!(":{deceived}/")).replace("name: signed", "name: refused");
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.wait_for_log("answers 401");
    assert_eq!(said("webhook.py"), Vec::<String>::new());
    daemon.stop_cleanly();
    drop(other);
}
