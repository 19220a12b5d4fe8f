//! Starts the program: commands that exit, and servers that are killed by their process id.
//!
//! `FASTK_BIN` selects another binary than the one just built.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastk::cli::remote::{Call, RestClient};
use hyper::Method;
use serde_json::Value;

/// Limits so small that sealing, checkpoints, compaction and vacuum run all the time.
pub const SMALL: &[(&str, &str)] = &[
    ("FASTK__STORE__WAL_SEGMENT_BYTES", "65536"),
    ("FASTK__STORE__WAL_BYTES_MAX", "262144"),
    ("FASTK__STORE__TAIL_ROWS_MAX", "400"),
    ("FASTK__STORE__TAIL_BYTES_MAX", "1048576"),
    ("FASTK__STORE__COMMIT_RETENTION_MS", "1"),
];

/// The program under test.
pub fn binary() -> PathBuf {
    std::env::var_os("FASTK_BIN").map_or_else(|| env!("CARGO_BIN_EXE_fastk").into(), PathBuf::from)
}

/// Removes the environment settings of the caller of the tests.
pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let known = ["FASTK_LOG", "FASTK_CONFIG"].iter().any(|known| name == *known);
        if known || name.to_string_lossy().starts_with("FASTK__") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
}

/// Status and output of a finished command.
#[derive(Debug)]
pub struct Done {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Done {
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.out
    }

    /// The code of `error[code]: …`.
    pub fn code(&self) -> Option<&str> {
        self.err.split("error[").nth(1)?.split(']').next()
    }
}

/// Runs a prepared command to its end, within a minute.
pub fn finish(mut command: Command, input: &str) -> Done {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_string();
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let guard = watch(child.id(), Duration::from_secs(60));
    let output = child.wait_with_output().unwrap();
    drop(guard);
    writer.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Done { status: output.status, out: text(output.stdout), err: text(output.stderr) }
}

/// Kills a process that still runs after this time, unless the returned sender is dropped before.
fn watch(pid: u32, after: Duration) -> std::sync::mpsc::Sender<()> {
    let (send, receive) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        if receive.recv_timeout(after) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("process {pid} does not end: killed");
            let _ = rustix::process::kill_process(pid_of(pid), rustix::process::Signal::KILL);
        }
    });
    send
}

pub fn pid_of(pid: u32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// The program with these arguments, under [`SMALL`] limits.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    clean(&mut command);
    command.args(words).envs(SMALL.iter().copied());
    command
}

/// Runs a command under [`SMALL`] limits to its end.
pub fn run(words: &[&str], input: &str) -> Done {
    finish(command(words), input)
}

/// Whether the program has this command.
pub fn knows(words: &[&str]) -> bool {
    finish(command(&[words, &["--help"]].concat()), "").status.success()
}

/// Asserts that `fastk admin verify` has no findings, if the program has that command; returns whether it has.
pub fn assert_verified(root: &Path, replay: &str) -> bool {
    if !knows(&["admin", "verify"]) {
        return false;
    }
    let done = run(&["admin", "verify", "--root", &root.to_string_lossy()], "");
    assert!(done.status.success(), "verify found something: {done:?}; {replay}");
    true
}

/// A running server; killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    log: PathBuf,
    pub http: String,
    pub flight: String,
    /// Address of the separate health listener, if any.
    pub health: Option<String>,
}

/// `fastk serve` over a directory on free ports.
pub fn serve(root: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = command(&["serve", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--root"]);
    command.arg(root).envs(settings.iter().copied());
    command
}

impl Server {
    /// Serves a directory; the log goes to the file `log`.
    pub fn start(root: &Path, log: &Path) -> Self {
        Self::of(serve(root, &[]), log).unwrap_or_else(|printed| panic!("the server does not start: {printed}"))
    }

    /// Starts a command that prints a `ready` line, or returns its log.
    pub fn of(mut command: Command, log: &Path) -> Result<Self, String> {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let from = file.metadata().unwrap().len();
        let mut child = command.stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", http, flight, rest @ ..] = words.as_slice() else {
            let status = child.wait().unwrap();
            let printed = std::fs::read(log).unwrap();
            let printed = String::from_utf8_lossy(&printed[usize::try_from(from).unwrap()..]).into_owned();
            return Err(format!("{status}: {line}{printed}"));
        };
        let http = http.strip_prefix("http=").unwrap().to_string();
        let flight = flight.strip_prefix("flight=").unwrap().to_string();
        let health = rest.iter().find_map(|word| word.strip_prefix("health=")).map(str::to_owned);
        Ok(Self { child, out, log: log.to_owned(), http, flight, health })
    }

    pub fn rest(&self) -> RestClient {
        RestClient::new(&self.http).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// `kill -9`; asserts that it was alive and that no thread panicked.
    #[track_caller]
    pub fn kill(mut self) {
        let alive = self.lives();
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        assert!(alive, "the server ended by itself: {status}\n{}", self.logged());
        self.assert_no_panic();
    }

    /// Kills a server that may have exited, since its disk was removed.
    pub fn cut_off(mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        self.assert_no_panic();
    }

    /// Stops it with SIGTERM.
    pub fn stop(mut self) {
        rustix::process::kill_process(pid_of(self.pid()), rustix::process::Signal::TERM).unwrap();
        let started_at = Instant::now();
        while self.lives() {
            assert!(started_at.elapsed() < Duration::from_secs(60), "still running");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.assert_no_panic();
    }

    /// The last lines of its log.
    pub fn logged(&self) -> String {
        let printed = String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = printed.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn assert_no_panic(&self) {
        let printed = std::fs::read(&self.log).unwrap_or_default();
        let printed = String::from_utf8_lossy(&printed);
        assert!(!printed.contains("panicked at"), "a thread panicked:\n{printed}");
    }

    /// A field of `/proc/PID/status` such as `VmRSS`, in bytes.
    pub fn memory(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Number of open files of the process.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = &self.out;
    }
}

/// `POST` of a JSON body.
pub fn post(rest: &RestClient, path: &str, body: String) -> fastk::Result<Value> {
    rest.json(Call::new(Method::POST, path).body("application/json", Bytes::from(body)))
}

/// The body of a `GET`.
pub fn get(rest: &RestClient, call: Call) -> fastk::Result<Vec<u8>> {
    let mut body = Vec::new();
    rest.stream(call, &mut |bytes| {
        body.extend_from_slice(&bytes);
        Ok(())
    })?;
    Ok(body)
}

/// `GET /health`.
pub fn health(rest: &RestClient) -> Value {
    rest.json(Call::new(Method::GET, "/health").accept_unavailable()).unwrap()
}

/// Bytes and modification time of every file below a directory, by relative path.
pub fn tree(root: &Path) -> std::collections::BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let (mut out, mut folders) = (std::collections::BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let changed = std::fs::metadata(&path).unwrap().modified().unwrap();
                out.insert(path.strip_prefix(root).unwrap().to_owned(), (std::fs::read(&path).unwrap(), changed));
            }
        }
    }
    out
}

/// Copies a directory.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Compacts a store that no server owns and returns the number of its orphaned chunk files.
pub fn stray_chunks(root: &Path) -> u64 {
    let at = root.to_string_lossy();
    run(&["admin", "compact", "--root", &at], "").ok();
    let inventory: Value =
        serde_json::from_str(&run(&["admin", "inventory", "--root", &at, "--json"], "").ok()).unwrap();
    let files = tree(root).keys().filter(|path| path.extension().is_some_and(|ending| ending == "arrow")).count();
    files as u64 - inventory["totals"]["chunks"].as_u64().unwrap()
}

/// Copies the store, as the next start finds it, to the directory `FASTK_KEEP`, if set.
pub fn keep(root: &Path) {
    if let Some(folder) = std::env::var_os("FASTK_KEEP") {
        let _ = std::fs::remove_dir_all(&folder);
        copy(root, Path::new(&folder));
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
