//! Every system call that changes the disk, as the point where the program dies or is refused: a scripted run of the command
//! line under `strace --inject`. Afterwards the step is there whole or not at all, and the script goes on to the same end.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::program::{Done, SMALL, binary, clean, copy, finish, run};
use super::proof_amount::Proof;

/// Calls that change what is on disk, or take the lock.
const CALLS: [&str; 16] = [
    "write",
    "pwrite64",
    "fdatasync",
    "fsync",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "fallocate",
    "ftruncate",
    "openat",
    "flock",
    "rename",
    "rmdir",
];
/// Stands for a file beside the store with the input of the step.
const INPUT: &str = "INPUT";
const A: &str = "kline/A/1m";
const B: &str = "kline/B/1m";

/// One command of the script, what it reads, and how its repeat may be refused once it was done.
struct Step {
    words: Vec<&'static str>,
    input: String,
    repeated: Option<&'static str>,
}

fn rows(head: &str, range: std::ops::Range<i64>, cell: i64) -> String {
    let row = |minute: i64| format!("{},{},{},{},{},1\n", minute * 60_000, cell, cell + 2, cell - 2, cell + 1);
    let series = if head.is_empty() { "" } else { "series," };
    let rows: String = range.map(|minute| format!("{head}{}", row(minute))).collect();
    format!("{series}ts,open,high,low,close,volume\n{rows}")
}

fn script() -> Vec<Step> {
    let step = |words: &[&'static str], input: String, repeated| Step { words: words.to_vec(), input, repeated };
    let register = ["--price-digits", "0", "--volume-digits", "0", "--partition", "day"];
    let mut many = rows("kline/A/1m,", 200..240, 50);
    many.push_str(rows("kline/B/1m,", 0..30, 60).split_once('\n').unwrap().1);
    vec![
        step(&[&["register", A][..], &register].concat(), String::new(), None),
        step(&[&["register", B][..], &register].concat(), String::new(), None),
        step(&["import", INPUT, "--series", A, "--time-unit", "ms"], rows("", -300..300, 10), None),
        step(&["write", A, "--format", "csv", "--mode", "append"], rows("", 300..330, 20), Some("out_of_order")),
        step(&["snapshot", "create", "early"], String::new(), Some("snapshot_exists")),
        step(&["admin", "compact"], String::new(), None),
        step(
            &["write", A, "--format", "csv", "--mode", "merge", "--idempotency-key", "once"],
            rows("", 100..160, 30),
            None,
        ),
        step(&["write", "--many", "--format", "csv"], many, None),
        step(&["delete", A, "--start=-6000000", "--end=6000000"], String::new(), None),
        step(&["admin", "compact"], String::new(), None),
        step(&["snapshot", "drop", "early"], String::new(), Some("snapshot_not_found")),
        // More than a segment holds, and what the snapshot alone had goes.
        step(&["write", B, "--format", "csv"], rows("", 0..1_600, 70), None),
        step(&["admin", "compact"], String::new(), None),
        step(&["drop", B], String::new(), Some("series_not_found")),
    ]
}

/// What every reader of the store sees: rows of each series, also as the snapshot shows them.
type Seen = BTreeMap<String, String>;

fn seen(root: &Path) -> Result<Seen, Done> {
    let at = root.to_string_lossy();
    let mut out = Seen::new();
    let list = run(&["admin", "list-series", "--json", "--root", &at], "");
    if !list.status.success() {
        return if list.code() == Some("not_found") { Ok(out) } else { Err(list) };
    }
    let names = run(&["snapshot", "list", "--json", "--root", &at], "").ok();
    let views: Vec<Option<&str>> = if names.contains("early") { vec![None, Some("early")] } else { vec![None] };
    for view in views {
        for key in [A, B].into_iter().filter(|key| list.out.contains(*key) || view.is_some()) {
            let mut words = vec!["query", key, "--format", "csv", "--root", &at];
            words.extend(view.iter().flat_map(|view| ["--as-of", *view]));
            let done = run(&words, "");
            if !done.status.success() && done.code() != Some("series_not_found") {
                return Err(done);
            }
            out.insert(format!("{key} {view:?}"), done.out);
        }
    }
    Ok(out)
}

fn step_command(tracer: &[String], step: &Step, root: &Path) -> Command {
    let mut command = if tracer.is_empty() { Command::new(binary()) } else { Command::new("strace") };
    clean(&mut command);
    if !tracer.is_empty() {
        command.args(["-f", "-qq"]).args(tracer).arg(binary());
    }
    let file = root.with_file_name("import.csv");
    if step.words.contains(&INPUT) {
        std::fs::write(&file, &step.input).unwrap();
    }
    command.args(step.words.iter().map(|word| if *word == INPUT { file.as_os_str() } else { word.as_ref() }));
    command.arg("--root").arg(root).envs(SMALL.iter().copied());
    command
}

/// One call of one step: the how manieth of a thread it is, and whether it is about a stream of the user.
#[derive(Clone, Debug)]
struct Point {
    step: usize,
    call: String,
    nth: usize,
    terminal: bool,
}

/// What a traced step calls. Counts are by thread, as the injection counts.
fn points_of(number: usize, step: &Step, root: &Path, trace: &Path) -> Vec<Point> {
    let tracer = ["-e", &format!("trace={}", CALLS.join(",")), "-o", &trace.to_string_lossy()].map(str::to_owned);
    finish(step_command(&tracer, step, root), &step.input).ok();
    let text = String::from_utf8_lossy(&std::fs::read(trace).unwrap()).into_owned();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut found: BTreeMap<(String, usize), bool> = BTreeMap::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Some((call, words)) = rest.trim_start().split_once('(') else { continue };
        if !CALLS.contains(&call) {
            continue;
        }
        let count = counts.entry((pid.into(), call.into())).or_default();
        *count += 1;
        // Opening to read changes nothing.
        if call == "openat" && !words.contains("O_CREAT") {
            continue;
        }
        let terminal = call == "write" && (words.starts_with("1,") || words.starts_with("2,"));
        *found.entry((call.into(), *count)).or_insert(terminal) &= terminal;
    }
    found.into_iter().map(|((call, nth), terminal)| Point { step: number, call, nth, terminal }).collect()
}

struct World {
    folder: tempfile::TempDir,
    script: Vec<Step>,
    /// What is seen before each step, and after the last.
    seen: Vec<Seen>,
    points: Vec<Point>,
}

impl World {
    /// Plays the script once, keeping the store before each step and counting its calls.
    fn new() -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let probe = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
        match probe {
            Ok(output) if output.status.success() => {}
            Ok(output) => return Err(format!("strace: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => return Err(format!("strace: {error}")),
        }
        let mut world = Self { folder, script: script(), seen: vec![Seen::new()], points: Vec::new() };
        let live = world.folder.path().join("live");
        for number in 0..world.script.len() {
            let before = world.before(number);
            if number > 0 {
                copy(&live, &before);
            }
            let trace = world.folder.path().join("trace");
            let points = points_of(number, &world.script[number], &live, &trace);
            world.points.extend(points);
            world.seen.push(seen(&live).unwrap());
        }
        Ok(world)
    }

    fn before(&self, step: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("before-{step}"))
    }

    /// A fresh copy of the store before a step.
    fn fresh(&self, step: usize) -> std::path::PathBuf {
        let root = self.folder.path().join("played");
        let _ = std::fs::remove_dir_all(&root);
        if step > 0 {
            copy(&self.before(step), &root);
        }
        root
    }

    /// Runs the step with the injection; gives how it ended.
    fn inject(&self, point: &Point, what: &str, root: &Path) -> Done {
        let inject = format!("inject={}:{what}:when={}", point.call, point.nth);
        let (trace, out) = (format!("trace={}", point.call), self.folder.path().join("injected"));
        let tracer = ["-e", &trace, "-e", &inject, "-o", &out.to_string_lossy()].map(str::to_owned);
        let step = &self.script[point.step];
        finish(step_command(&tracer, step, root), &step.input)
    }

    /// Whether the last injection was reached.
    fn reached(&self) -> bool {
        String::from_utf8_lossy(&std::fs::read(self.folder.path().join("injected")).unwrap()).contains("(INJECTED)")
    }

    /// The step is there whole or not at all; gives whether it is.
    fn whole(&self, point: &Point, root: &Path, done: &Done, replay: &str) -> bool {
        let found =
            seen(root).unwrap_or_else(|error| panic!("{point:?}: not readable: {error:?} after {done:?}; {replay}"));
        let (before, after) = (&self.seen[point.step], &self.seen[point.step + 1]);
        let there = found == *after;
        assert!(there || found == *before, "{point:?}: neither before nor after: {found:?} after {done:?}; {replay}");
        assert!(there || !done.status.success(), "{point:?}: acknowledged and not there; {replay}");
        there
    }

    /// The script goes on from the step that was hit and comes to the same end.
    fn go_on(&self, point: &Point, root: &Path, replay: &str) {
        for (number, step) in self.script.iter().enumerate().skip(point.step) {
            let done = finish(step_command(&[], step, root), &step.input);
            let repeated = number == point.step && step.repeated.is_some() && done.code() == step.repeated;
            assert!(done.status.success() || repeated, "{point:?}: step {number} afterwards: {done:?}; {replay}");
            if number == point.step {
                let now = seen(root).unwrap();
                assert!(now == self.seen[number + 1], "{point:?}: the repeat counts twice or not at all; {replay}");
            }
        }
        assert!(seen(root).unwrap() == *self.seen.last().unwrap(), "{point:?}: another end; {replay}");
    }
}

#[test]
fn system_call_kills_leave_every_step_whole_or_undone() {
    let proof = Proof::new("system_call_kills", 400);
    let world = match World::new() {
        Ok(world) => world,
        Err(why) => return proof.skip(why),
    };
    let mut points = world.points.clone();
    let all = points.len();
    points.shuffle(&mut StdRng::seed_from_u64(proof.seed));
    let (mut kills, mut there, mut missed, mut played) = (0, 0, 0, 0);
    for point in points.iter().cycle() {
        if !proof.goes_on(played) {
            break;
        }
        let replay = proof.replay(played);
        played += 1;
        let root = world.fresh(point.step);
        let done = world.inject(point, "signal=KILL", &root);
        let killed = done.status.signal() == Some(9) || done.status.code() == Some(137);
        // Another interleaving of its threads may do without the call.
        assert!(killed || done.status.success(), "{point:?}: {done:?}; {replay}");
        kills += u64::from(killed);
        missed += u64::from(!killed);
        there += u64::from(world.whole(point, &root, &done, &replay));
        if played % 5 == 0 {
            world.go_on(point, &root, &replay);
        }
    }
    assert!(kills > 0);
    proof.close(format_args!(
        "{kills} kills at {all} calls of {} steps, {there} times the step was done, {missed} calls were not reached",
        world.script.len()
    ));
}

#[test]
fn system_call_errors_are_named_and_leave_every_step_whole_or_undone() {
    let proof = Proof::new("system_call_errors", 400);
    let world = match World::new() {
        Ok(world) => world,
        Err(why) => return proof.skip(why),
    };
    // What the user's own streams refuse is no error of the store.
    let mut points: Vec<Point> = world.points.iter().filter(|point| !point.terminal).cloned().collect();
    let all = points.len();
    points.shuffle(&mut StdRng::seed_from_u64(proof.seed));
    let (mut played, mut passed, mut there, mut missed) = (0, 0, 0, 0);
    let mut codes: BTreeMap<String, u64> = BTreeMap::new();
    for point in points.iter().cycle() {
        if !proof.goes_on(played) {
            break;
        }
        let replay = proof.replay(played);
        let errno = ["EIO", "ENOSPC"][usize::try_from(played).unwrap() % 2];
        played += 1;
        let root = world.fresh(point.step);
        let done = world.inject(point, &format!("error={errno}"), &root);
        assert_eq!(done.status.signal(), None, "{point:?} {errno}: {done:?}; {replay}");
        assert!(!done.err.contains("panicked"), "{point:?} {errno}: {done:?}; {replay}");
        missed += u64::from(!world.reached());
        if done.status.success() {
            passed += 1;
        } else {
            let code = done.code().unwrap_or_else(|| panic!("{point:?} {errno}: no code: {done:?}; {replay}"));
            let known =
                fastk::ErrorCode::from_name(code).unwrap_or_else(|| panic!("{code} is not documented; {replay}"));
            assert_eq!(done.status.code(), Some(i32::from(known.exit())), "{point:?} {errno}: {done:?}; {replay}");
            *codes.entry(code.into()).or_default() += 1;
            let expected = ["io", "storage_full", "writer_stopped"].contains(&code);
            assert!(expected, "{point:?} {errno}: {done:?}; {replay}");
        }
        there += u64::from(world.whole(point, &root, &done, &replay));
        if played % 5 == 0 {
            world.go_on(point, &root, &replay);
        }
    }
    assert!(missed < played);
    proof.close(format_args!(
        "{played} errors at {all} calls, {passed} did no harm, answered {codes:?}, {there} times the step was done, \
         {missed} calls were not reached"
    ));
}
