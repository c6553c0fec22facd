//! Runs the blocks of a page, one after the other in one shell, beside the daemons that they start.
//!
//! The shell begins in a directory that looks like a clone. `allidb` and `allidbd` are those that were built with the tests. A daemon that a block
//! starts is waited for at the block's end; `&` is added where a page has it run in a terminal of its own. The ports that the
//! pages name are put in place of free ones, in blocks and in `configs`, and put back in what is said.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::{
    expected::is_shown,
    page::{Block, Language, Need, Page},
    python::python,
};

/// How long a page may take.
const LIMIT: Duration = Duration::from_secs(120);
/// The same with what is not everywhere: a release build, or packages that are fetched.
const LONG_LIMIT: Duration = Duration::from_mins(40);
/// What of that there is, with commas between: `build`, `packages`, and what is in [`OUTSIDE`].
const PAGES: &str = "ALLIDB_PAGES";
/// What runs daemons elsewhere than in the page's own shell: a clone is copied for it, and ports are as they are named.
const OUTSIDE: [&str; 3] = ["docker", "systemd", "kubernetes"];

/// What of a clone is as it is there.
const LINKED: [&str; 9] =
    ["Cargo.lock", "Cargo.toml", "api", "cluster", "cmd", "docs", "index", "storage", "tests"];

/// The shell waits at the end of a block until each daemon that runs tells where it is or, where ports are as they are named, that it is ready.
const BEGIN: &str = r#"set -euo pipefail
served() {
    jobs -rp > "$PAGE/jobs"
    for daemon in $(cat "$PAGE/jobs"); do
        until [ -e "$PAGE/$daemon.json" ] || ! kill -0 "$daemon" 2> /dev/null || "${READY-false}"; do sleep 0.05; done
    done
}
"#;

/// The ports that pages name, and free ones in their places.
struct Ports {
    pairs: Vec<(u16, u16)>,
    held: Vec<TcpListener>,
}

impl Ports {
    /// As they are named.
    fn as_named() -> Self {
        Self { pairs: [7000, 7001, 7002].map(|port| (port, port)).to_vec(), held: Vec::new() }
    }

    /// For all that the texts name.
    fn of<'t>(texts: impl Iterator<Item = &'t str>) -> Self {
        let mut named = BTreeSet::from([7000, 7001, 7002]);
        for text in texts {
            let after = text.split(':').skip(1).filter_map(|after| after.get(..4)?.parse::<u16>().ok());
            named.extend(after.filter(|port| (7000..7100).contains(port)));
        }
        let (mut pairs, mut held) = (Vec::new(), Vec::new());
        for port in named {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            pairs.push((port, listener.local_addr().expect("an address").port()));
            held.push(listener);
        }
        Self { pairs, held }
    }

    fn free(&mut self) {
        self.held.clear();
    }

    /// The free one in the place of a named one.
    fn at(&self, named: u16) -> u16 {
        self.pairs.iter().find(|(port, _)| *port == named).expect("it is named").1
    }

    fn put(&self, text: &str) -> String {
        let replaced = |text: String, (named, free): &(u16, u16)| {
            text.replace(&format!(":{named}"), &format!(":{free}"))
        };
        self.pairs.iter().fold(text.to_owned(), replaced)
    }

    fn put_back(&self, text: &str) -> String {
        let replaced = |text: String, (named, free): &(u16, u16)| {
            text.replace(&format!(":{free}"), &format!(":{named}"))
        };
        self.pairs.iter().fold(text.to_owned(), replaced)
    }
}

/// Runs a page of the clone at `root`. An error says where it went wrong.
pub(crate) fn run(page: &Page, root: &Path) -> Result<(), String> {
    let dir = TempDir::new().expect("a directory");
    let [clone, bin, own] = ["clone", "bin", "page"].map(|name| dir.path().join(name));
    for made in [&clone, &bin, &own] {
        fs::create_dir(made).expect("made");
    }
    let configs = files(&root.join("configs"));
    let needs =
        |block: &Block| block.needs.as_ref().filter(|need| has(&need.what)).map(|need| need.what.clone());
    let needed: Vec<String> = page.blocks.iter().filter_map(needs).collect();
    let is_outside = needed.iter().any(|what| OUTSIDE.contains(&&**what));
    let blocks = page.blocks.iter().map(|block| block.text.as_str());
    let mut ports = match is_outside {
        true => Ports::as_named(),
        false => Ports::of(blocks.chain(configs.iter().map(|(_, text)| text.as_str()))),
    };
    for name in LINKED {
        let (from, to) = (root.join(name).canonicalize().expect("it is there"), clone.join(name));
        match is_outside {
            true => copy(&from, &to),
            false => symlink(from, to).expect("linked"),
        }
    }
    if is_outside {
        fs::create_dir_all(clone.join("target/release")).expect("made");
        symlink(env!("CARGO_BIN_EXE_allidb"), clone.join("target/release/allidb")).expect("linked");
    }
    for (path, text) in &configs {
        let path = clone.join("configs").join(path.strip_prefix(root.join("configs")).expect("it is inside"));
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, ports.put(text)).expect("written");
    }

    let python = python();
    programs(&bin, &ports, python.as_deref().unwrap_or("python3"));
    let mut script = BEGIN.to_owned();
    if is_outside {
        script += "ready() { curl --fail --silent http://127.0.0.1:7001/readyz > /dev/null; }\nREADY=ready\n";
    }
    for (at, block) in page.blocks.iter().enumerate() {
        match &python {
            Err(why) if needs_python(block) => {
                println!("{}", page.at(block.line, &format!("skipped: {why}")));
                continue;
            }
            _ => {}
        }
        if let Some(Need { what, why }) = block.needs.as_ref().filter(|need| !has(&need.what)) {
            println!("{}", page.at(block.line, &format!("skipped, as {PAGES} does not name {what}: {why}")));
            continue;
        }
        let text = ports.put(&block.text);
        let run = match block.language {
            Language::Shell => {
                fs::write(own.join(at.to_string()), in_background(&text)).expect("written");
                format!(". \"$PAGE/{at}\" > \"$PAGE/{at}.said\" 2>&1\nserved\n")
            }
            Language::Python => {
                fs::write(own.join(at.to_string()), text).expect("written");
                format!("python - < \"$PAGE/{at}\" > \"$PAGE/{at}.said\" 2>&1\n")
            }
        };
        script += &format!("echo {at} > \"$PAGE/at\"\n{run}");
    }
    ports.free();
    let limit = if needed.is_empty() { LIMIT } else { LONG_LIMIT };
    let ended = shell(&script, (&clone, &bin, &own), &ports, limit);

    let read = |name: String| ports.put_back(&fs::read_to_string(own.join(name)).unwrap_or_default());
    match ended {
        Ok(status) if status.success() => {}
        ended => {
            let at: usize = read("at".to_owned()).trim().parse().unwrap_or_default();
            let why = ended.map_or_else(|why| why, |status| status.to_string());
            let (line, text) = page.blocks.get(at).map_or((0, ""), |block| (block.line, &block.text));
            let said = read(format!("{at}.said")) + &read("shell".to_owned()) + &logs(&clone);
            return Err(page.at(line, &format!("{why}\n{text}\nIt said:\n{said}")));
        }
    }
    for (at, block) in page.blocks.iter().enumerate() {
        let said = read(format!("{at}.said"));
        let Some(shown) = block.shown.as_ref().filter(|_| own.join(format!("{at}.said")).exists()) else {
            continue;
        };
        if !is_shown(shown, &said) {
            return Err(page.at(block.line, &format!("shows\n{shown}but it says\n{said}")));
        }
    }
    Ok(())
}

/// A file, or a directory with all that is below.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-R").args([from, to]).status().expect("cp runs");
    assert!(copied.success(), "{} cannot be copied", from.display());
}

/// Texts below a directory.
fn files(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let Ok(text) = fs::read_to_string(&path) {
            found.push((path, text));
        }
    }
    found
}

/// What the shell finds before anything else. `exec` keeps the process, so that a daemon is known by its job.
fn programs(bin: &Path, ports: &Ports, python: &str) {
    let allidb = env!("CARGO_BIN_EXE_allidb");
    let (grpc, http) = (ports.at(7000), ports.at(7001));
    let program = format!(
        "#!/bin/sh\n\
         if [ \"${{1-}}\" = serve ]; then\n\
         \texport ALLIDB__LISTEN__PORT_FILE=\"$PAGE/$$.json\"\n\
         \tcase \" $* \" in *' --config '*) ;; *)\n\
         \t\texport ALLIDB__LISTEN__GRPC=\"${{ALLIDB__LISTEN__GRPC-127.0.0.1:{grpc}}}\"\n\
         \t\texport ALLIDB__LISTEN__HTTP=\"${{ALLIDB__LISTEN__HTTP-127.0.0.1:{http}}}\"\n\
         \tesac\n\
         fi\n\
         exec '{allidb}' \"$@\"\n"
    );
    let daemon = "#!/bin/sh\nexec allidb serve \"$@\"\n".to_owned();
    let python = format!("#!/bin/sh\nexec '{python}' \"$@\"\n");
    let pip = "#!/bin/sh\nexec python -m pip \"$@\"\n".to_owned();
    for (name, text) in [("allidb", program), ("allidbd", daemon), ("python", python), ("pip", pip)] {
        fs::write(bin.join(name), text).expect("written");
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("executable");
    }
}

fn needs_python(block: &Block) -> bool {
    let is_its = |line: &str| line.starts_with("python ") || line.starts_with("pip ");
    block.language == Language::Python || (block.needs.is_none() && block.text.lines().any(is_its))
}

/// Whether there is something that is not everywhere.
fn has(what: &str) -> bool {
    std::env::var(PAGES).is_ok_and(|named| named.split(',').any(|named| named.trim() == what))
}

/// Daemons that a page has run in terminals of their own run beside the shell.
fn in_background(text: &str) -> String {
    let (mut changed, mut is_daemon, mut is_continued) = (String::new(), false, false);
    for line in text.lines() {
        if !is_continued {
            let command = line.rsplit(';').next().unwrap_or_default().trim_start();
            is_daemon = command.starts_with("allidb serve") || command.starts_with("allidbd");
        }
        is_continued = line.ends_with('\\');
        let is_end = is_daemon && !is_continued && !line.trim_end().ends_with('&');
        changed += line;
        changed += if is_end { " &\n" } else { "\n" };
    }
    changed
}

/// Runs the script, and ends whatever it leaves.
fn shell(
    script: &str,
    (clone, bin, own): (&Path, &Path, &Path),
    ports: &Ports,
    limit: Duration,
) -> Result<ExitStatus, String> {
    fs::write(own.join("script"), script).expect("written");
    let log = File::create(own.join("shell")).expect("a log");
    let mut command = Command::new("bash");
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"ALLIDB") {
            command.env_remove(name);
        }
    }
    let path = std::env::var("PATH").unwrap_or_default();
    command.arg(own.join("script")).current_dir(clone).process_group(0).stdin(Stdio::null());
    command.env("PATH", format!("{}:{path}", bin.display())).env("PAGE", own).env_remove("COLUMNS");
    command
        .env("ALLIDB_ENDPOINT", format!("http://127.0.0.1:{}", ports.at(7000)))
        .env("ALLIDB_METRICS_URL", format!("http://127.0.0.1:{}/metrics", ports.at(7001)))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let mut child =
        command.stdout(log.try_clone().expect("a second handle")).stderr(log).spawn().expect("bash runs");
    let begun = Instant::now();
    let ended = loop {
        match child.try_wait().expect("a child of ours") {
            Some(status) => break Ok(status),
            None if begun.elapsed() > limit => break Err(format!("not within {} s", limit.as_secs())),
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    // The group is gone if it left nothing.
    let group = Pid::from_raw(child.id().cast_signed()).expect("a process id");
    kill_process_group(group, Signal::KILL).ok();
    child.wait().expect("a child of ours");
    ended
}

/// What daemons told where pages keep that.
fn logs(clone: &Path) -> String {
    let mut told = String::new();
    for entry in fs::read_dir(clone).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "log") {
            told += &format!("--- {}\n{}", path.display(), fs::read_to_string(&path).unwrap_or_default());
        }
    }
    told
}
