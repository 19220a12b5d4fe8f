//! Starts the program: commands that exit, and servers that are stopped by their process id.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Status and output of a finished command.
#[derive(Debug)]
pub struct Done {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// Asserts that the command succeeded; returns its output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.out
    }

    /// Asserts that the command failed with this status and `error[code]`.
    #[track_caller]
    pub fn fails(self, status: i32, code: &str) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.err.contains(&format!("error[{code}]: ")), "{self:?}");
        self
    }
}

/// The program without the environment settings of the caller of the tests.
pub fn fastk() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastk"));
    for (name, _) in std::env::vars_os() {
        let known = ["FASTK_LOG", "FASTK_CONFIG", "FASTK_TOKEN", "FASTK_CA", "FASTK_CERT", "FASTK_KEY"]
            .iter()
            .any(|known| name == *known);
        if known || name.to_string_lossy().starts_with("FASTK__") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(arguments: &[&str]) -> Done {
    run_with(arguments, "")
}

/// Runs a command to its end with this standard input.
pub fn run_with(arguments: &[&str], input: &str) -> Done {
    let mut command = fastk();
    command.args(arguments);
    finish(command, input)
}

/// Runs a prepared command to its end.
pub fn finish(mut command: Command, input: &str) -> Done {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_string();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("input is written");
    Done {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A running server; killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    pub http: String,
    pub flight: String,
}

impl Server {
    /// Serves a directory on free ports.
    pub fn start(root: &Path) -> Self {
        let mut command = fastk();
        command.args(["serve", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--root"]).arg(root);
        Self::of(command)
    }

    /// Starts a command that prints a `ready` line.
    pub fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        let ["ready", http, flight] = words.as_slice() else { panic!("not the ready line: {line:?}") };
        let http = http.strip_prefix("http=").expect("http=").to_string();
        let flight = flight.strip_prefix("flight=").expect("flight=").to_string();
        Self { child, out, http, flight }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by the id of the process.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("the process runs");
    }

    /// Waits for the exit; returns the status and the rest of standard output.
    pub fn ended(mut self, within: Duration) -> (ExitStatus, String) {
        let started_at = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                let mut rest = String::new();
                self.out.read_to_string(&mut rest).expect("text");
                return (status, rest);
            }
            assert!(started_at.elapsed() < within, "still running after {within:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it with SIGTERM.
    pub fn stop(self) {
        self.signal(rustix::process::Signal::TERM);
        let (status, _) = self.ended(Duration::from_secs(120));
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
