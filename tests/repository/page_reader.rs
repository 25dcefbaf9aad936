//! A page of the documentation, done as a reader does it: files are written as they are shown, commands are run one block after the other, and where an
//! answer is shown the program has to give it.
//!
//! What a fence says behind its three marks decides:
//! - `sh`: a block of commands, which ends with code 0. Where a `text` block follows it is a question: it is asked until the answer is the one that is shown
//!   (the world needs a moment to be so), whatever its code;
//! - `sh forever`: a command that runs until Ctrl-C, beside all that follows; a `text` block behind it is waited for;
//! - `sh not-run: REASON`: not run. [`crate::task_pages`] counts these;
//! - any other language: a file, if its first line is a comment with nothing but a file's name.
//!
//! An answer is shown if each of its lines is a line of what was said, numbers and blanks apart; `…` stands for anything.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::daemon::{root, without_numbers};

/// Long enough for a loaded two-core machine to come to what a page shows.
const DEADLINE: Duration = Duration::from_secs(180);

/// A fenced block.
pub struct Block {
    /// Of the fence in the page, from 1.
    pub line: usize,
    pub info: String,
    pub body: String,
}

impl Block {
    pub fn language(&self) -> &str {
        self.info.split_whitespace().next().unwrap_or_default()
    }

    /// What stands behind the language.
    pub fn way(&self) -> &str {
        self.info.split_once(' ').map_or("", |(_, way)| way)
    }

    /// The name in the comment that a file begins with.
    pub fn file_name(&self) -> Option<&str> {
        let first = self.body.lines().next()?;
        let name = first.strip_prefix("# ").or_else(|| first.strip_prefix("// "))?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        (self.language() != "sh" && name.contains('.') && name.chars().all(is_name)).then_some(name)
    }
}

/// The blocks of a page of `docs/`.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (at, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(info), None) => open = Some(Block { line: at + 1, info: info.to_owned(), body: String::new() }),
            (Some(_), Some(block)) => found.push(block),
            (None, Some(mut block)) => {
                block.body.push_str(line);
                block.body.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    found
}

/// What of `shown` is no line of `said`.
fn missing<'a>(shown: &'a str, said: &str) -> Vec<&'a str> {
    let said = without_numbers(said);
    let is_there = |line: &&str| !said.lines().any(|one| fits(&without_numbers(line), one));
    shown.lines().filter(|line| !line.trim().is_empty()).filter(is_there).collect()
}

/// Whether `line` is `pattern`, in which `…` stands for anything.
fn fits(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…').map(str::trim);
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut ends_open = false;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        ends_open = part.is_empty();
    }
    ends_open || rest.trim().is_empty()
}

/// A process with all of its children.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: plain system call on a group that we made.
        unsafe { libc::kill(-(self.0.id() as i32), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

/// A reader in a folder of its own, which stands for the whole box: `/etc/vtagd` is `etc/vtagd` in it.
pub struct PageReader {
    folder: tempfile::TempDir,
    name: String,
    replaced: Vec<(String, String)>,
    env: Vec<(String, String)>,
    running: Vec<Running>,
}

impl PageReader {
    /// Of `docs/NAME`.
    pub fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().display().to_string();
        for place in ["bin", "home", "etc/vtagd", "var/lib", "var/cache/vtagd"] {
            fs::create_dir_all(folder.path().join(place)).unwrap();
        }
        let program = env!("CARGO_BIN_EXE_vtagd");
        let tool = |name: &str, text: &str| {
            let file = folder.path().join("bin").join(name);
            fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        };
        // An installed vtagd finds its configuration by itself.
        let commands = "run|check|doctor|status|scores|explain|search|events|marks|mqtt|history|\"config show\"|\"labels calibrate\"|\"labels report\"|\
                        \"labels confirm\"|\"labels export\"|\"labels reset\"|\"labels try\"";
        tool(
            "vtagd",
            &format!(
                "for one in \"$@\"; do case $one in -c|-c?*|--config*|--url|--boxes|--help) exec {program} \"$@\" ;; esac; done\n\
                 for words in \"$1\" \"$1 $2\"; do case $words in {commands}) exec {program} \"$@\" -c {here}/etc/vtagd/vtagd.yaml ;; esac; done\n\
                 exec {program} \"$@\""
            ),
        );
        tool("sudo", "[ \"$1\" != -u ] || shift 2\nexec \"$@\"");
        tool("systemctl", &SYSTEMCTL.replace("HERE", &here));
        tool("journalctl", &format!("cat {here}/journal"));
        let replaced = ["/etc/vtagd", "/var/lib/vtagd"].map(|place| (place.to_owned(), format!("{here}{place}")));
        Self { folder, name: name.to_owned(), replaced: replaced.to_vec(), env: Vec::new(), running: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name.trim_start_matches('/'))
    }

    /// `this` of the page is `that` here: a camera's address, a port.
    #[must_use]
    pub fn where_is(mut self, this: &str, that: impl Into<String>) -> Self {
        self.replaced.push((this.to_owned(), that.into()));
        self
    }

    #[must_use]
    pub fn with_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Writes a file that the page takes for granted.
    pub fn has(&self, name: &str, text: &str) {
        let file = self.path(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, self.here(text)).unwrap();
    }

    /// The text of the page as it is here.
    fn here(&self, text: &str) -> String {
        self.replaced.iter().fold(text.to_owned(), |text, (this, that)| text.replace(this, that))
    }

    fn shell(&self, text: &str) -> Command {
        let mut command = Command::new("sh");
        let path = std::env::var("PATH").unwrap_or_default();
        let place = |name: &str| self.path(name).display().to_string();
        command
            .args(["-euc", text])
            .current_dir(self.folder.path())
            // Debian has programs of mosquitto where only root looks.
            .env("PATH", format!("{}:{path}:/usr/sbin", place("bin")))
            .env("HOME", place("home"))
            .env("STATE_DIRECTORY", place("var/lib/vtagd"))
            .env("VTAGD_CACHE", place("var/cache/vtagd"))
            .env("NO_COLOR", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        for name in ["VTAGD_MODEL", "INVOCATION_ID", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "VTAGD_LOG", "COLUMNS"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command that the page takes for granted, and gives what it said.
    pub fn does(&self, text: &str) -> String {
        let (is_done, said) = self.said(text);
        assert!(is_done, "{text}\n{said}");
        said
    }

    fn said(&self, text: &str) -> (bool, String) {
        // Into a file: a daemon that is started here would hold a pipe open.
        let file = self.path("said");
        let out = fs::File::create(&file).unwrap();
        let err = out.try_clone().unwrap();
        let ended = self.shell(&self.here(text)).stdout(out).stderr(err).status().unwrap();
        (ended.success(), String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned())
    }

    /// Does all that the page says, in its order.
    pub fn follow(&mut self) {
        let text = fs::read_to_string(root().join("docs").join(&self.name)).unwrap();
        let all = blocks(&text);
        for (at, block) in all.iter().enumerate() {
            let answer = all.get(at + 1).filter(|next| next.language() == "text").map(|next| next.body.as_str());
            let place = format!("docs/{}:{}", self.name, block.line);
            match (block.language(), block.way()) {
                ("sh", "") => self.ask(&place, &block.body, answer),
                ("sh", "forever") => self.begin(&place, &block.body, answer),
                ("sh", way) => assert!(way.starts_with("not-run: "), "{place}: what is `sh {way}`?"),
                _ => {
                    if let Some(name) = block.file_name() {
                        self.has(name, &block.body);
                    }
                }
            }
        }
    }

    fn ask(&self, place: &str, text: &str, answer: Option<&str>) {
        let Some(shown) = answer else {
            let (is_done, said) = self.said(text);
            assert!(is_done, "{place}: {text}\n{said}\n{}", self.journal());
            return;
        };
        let begun = Instant::now();
        loop {
            let (_, said) = self.said(text);
            let missing = missing(shown, &said);
            if missing.is_empty() {
                return;
            }
            assert!(
                begun.elapsed() < DEADLINE,
                "{place}: {text}\nthe page shows\n{}\nand this was said:\n{said}\n{}",
                missing.join("\n"),
                self.journal()
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn begin(&mut self, place: &str, text: &str, answer: Option<&str>) {
        let file = self.path(&format!("forever-{}", self.running.len()));
        let out = fs::File::create(&file).unwrap();
        let err = out.try_clone().unwrap();
        let child = self.shell(&self.here(text)).stdout(out).stderr(err).process_group(0).spawn().unwrap();
        self.running.push(Running(child));
        let begun = Instant::now();
        let said = || String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        while let Some(missing) = answer.map(|shown| missing(shown, &said())).filter(|missing| !missing.is_empty()) {
            let child = &mut self.running.last_mut().unwrap().0;
            let ended = child.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < DEADLINE,
                "{place}: {text}\nthe page shows\n{}\nand this was said ({ended:?}):\n{}\n{}",
                missing.join("\n"),
                said(),
                fs::read_to_string(self.folder.path().join("journal")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the daemon has logged.
    pub fn journal(&self) -> String {
        fs::read_to_string(self.path("journal")).unwrap_or_default()
    }
}

impl Drop for PageReader {
    fn drop(&mut self) {
        // A page that ends, or a test that fails, leaves no daemon behind.
        let _ = self.shell("systemctl stop vtagd").stdout(Stdio::null()).stderr(Stdio::null()).status();
        self.running.clear();
        let _ = std::io::stderr().flush();
    }
}

/// As much of systemd as the pages ask for: the daemon of the box, started and stopped, and what it logs.
const SYSTEMCTL: &str = r#"
pid=HERE/daemon.pid
lives() { [ -s $pid ] && kill -0 "$(cat $pid)" 2>/dev/null; }
case $1 in
is-active) lives && echo active || { echo inactive; exit 3; } ;;
status) lives && echo "active (running)" || { echo "inactive (dead)"; exit 3; } ;;
reload) kill -HUP "$(cat $pid)" ;;
stop)
    lives || exit 0
    kill "$(cat $pid)"
    while lives; do sleep 0.1; done ;;
start|restart|enable)
    "$0" stop
    vtagd run >>HERE/journal 2>&1 </dev/null &
    echo $! >$pid
    until vtagd status 2>/dev/null | grep -q ^ready; do
        lives || { tail -n 5 HERE/journal >&2; exit 1; }
        sleep 0.2
    done ;;
*) echo "systemctl: what is $1?" >&2; exit 1 ;;
esac
"#;

#[test]
fn an_answer_is_the_one_that_is_shown_numbers_and_blanks_apart() {
    let said =
        "stream  state  frames/s\ngate    up     25.0\nyard: rtsp://127.0.0.1:4711/x: nobody listens on its port\n";
    assert_eq!(missing("gate up 12.5", said), [] as [&str; 0]);
    assert_eq!(missing("yard: … nobody listens …\n…up…", said), [] as [&str; 0]);
    assert_eq!(missing("gate down 25.0\ngate up", said), ["gate down 25.0", "gate up"]);
    assert_eq!(missing("yard: … nobody answers …", said), ["yard: … nobody answers …"]);
}

#[test]
fn a_file_is_a_block_that_begins_with_its_name() {
    let text = "Text.\n\n```yaml\n# labels/gate.yaml\nset: gate\n```\n```yaml\n# marks of a day\nx: 1\n```\n```sh not-run: it takes a day\n# a.b\ntrue\n```\n";
    let found = blocks(text);
    let names: Vec<_> = found.iter().map(Block::file_name).collect();
    assert_eq!(names, [Some("labels/gate.yaml"), None, None]);
    assert_eq!((found[2].line, found[2].language(), found[2].way()), (11, "sh", "not-run: it takes a day"));
    assert!(Path::new(names[0].unwrap()).is_relative());
}
