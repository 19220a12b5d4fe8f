//! Kills or fails the program at every system call that changes the disk: a scripted run of the command line under
//! `strace --inject`. Afterwards each step is atomic, and the script continues to the same final state.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::program::{Done, SMALL, binary, clean, copy, finish, run};
use super::proof_amount::Proof;

/// Calls that change files, or take the lock.
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
/// Placeholder for a file with the input of the step.
const INPUT: &str = "INPUT";
const A: &str = "kline/A/1m";
const B: &str = "kline/B/1m";

/// One command of the script, its input, and the error of its repeat once it was applied.
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
        // Larger than a segment; and data that only the snapshot needs is removed.
        step(&["write", B, "--format", "csv"], rows("", 0..1_600, 70), None),
        step(&["admin", "compact"], String::new(), None),
        step(&["drop", B], String::new(), Some("series_not_found")),
    ]
}

/// The contents of the store: rows of each series, now and under the snapshot.
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

/// One call of one step: its number within its thread, and whether it is on a standard stream.
#[derive(Clone, Debug)]
struct Point {
    step: usize,
    call: String,
    nth: usize,
    terminal: bool,
}

/// The calls of a traced step. Counts are per thread, like those of the injection.
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
        // Opening for reading changes no file.
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
    /// The contents before each step, and after the last.
    seen: Vec<Seen>,
    points: Vec<Point>,
}

impl World {
    /// Runs the script once, copies the store before each step and counts its calls.
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

    /// A new copy of the store before a step.
    fn fresh(&self, step: usize) -> std::path::PathBuf {
        let root = self.folder.path().join("played");
        let _ = std::fs::remove_dir_all(&root);
        if step > 0 {
            copy(&self.before(step), &root);
        }
        root
    }

    /// Runs the step with the injection; returns its outcome.
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

    /// Asserts that the step is atomic; returns whether it was applied.
    fn is_applied(&self, point: &Point, root: &Path, done: &Done, replay: &str) -> bool {
        let found =
            seen(root).unwrap_or_else(|error| panic!("{point:?}: not readable: {error:?} after {done:?}; {replay}"));
        let (before, after) = (&self.seen[point.step], &self.seen[point.step + 1]);
        let there = found == *after;
        assert!(there || found == *before, "{point:?}: neither before nor after: {found:?} after {done:?}; {replay}");
        assert!(there || !done.status.success(), "{point:?}: acknowledged and lost; {replay}");
        there
    }

    /// Continues the script from the step that was hit, to the same final state.
    fn finish_script(&self, point: &Point, root: &Path, replay: &str) {
        for (number, step) in self.script.iter().enumerate().skip(point.step) {
            let done = finish(step_command(&[], step, root), &step.input);
            let repeated = number == point.step && step.repeated.is_some() && done.code() == step.repeated;
            assert!(done.status.success() || repeated, "{point:?}: step {number} afterwards: {done:?}; {replay}");
            if number == point.step {
                let now = seen(root).unwrap();
                assert!(now == self.seen[number + 1], "{point:?}: the repeat is applied twice or not at all; {replay}");
            }
        }
        assert!(seen(root).unwrap() == *self.seen.last().unwrap(), "{point:?}: another end; {replay}");
    }
}

#[test]
fn system_call_kills_leave_every_step_atomic() {
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
        if !proof.continues(played) {
            break;
        }
        let replay = proof.replay(played);
        played += 1;
        let root = world.fresh(point.step);
        let done = world.inject(point, "signal=KILL", &root);
        let killed = done.status.signal() == Some(9) || done.status.code() == Some(137);
        // The call may not occur in another interleaving of threads.
        assert!(killed || done.status.success(), "{point:?}: {done:?}; {replay}");
        kills += u64::from(killed);
        missed += u64::from(!killed);
        there += u64::from(world.is_applied(point, &root, &done, &replay));
        if played % 5 == 0 {
            world.finish_script(point, &root, &replay);
        }
    }
    assert!(kills > 0);
    proof.close(format_args!(
        "{kills} kills at {all} calls of {} steps, {there} times the step was done, {missed} calls were not reached",
        world.script.len()
    ));
}

#[test]
fn system_call_errors_are_reported_and_leave_every_step_atomic() {
    let proof = Proof::new("system_call_errors", 400);
    let world = match World::new() {
        Ok(world) => world,
        Err(why) => return proof.skip(why),
    };
    // Errors of standard streams are no errors of the store.
    let mut points: Vec<Point> = world.points.iter().filter(|point| !point.terminal).cloned().collect();
    let all = points.len();
    points.shuffle(&mut StdRng::seed_from_u64(proof.seed));
    let (mut played, mut passed, mut there, mut missed) = (0, 0, 0, 0);
    let mut codes: BTreeMap<String, u64> = BTreeMap::new();
    for point in points.iter().cycle() {
        if !proof.continues(played) {
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
        there += u64::from(world.is_applied(point, &root, &done, &replay));
        if played % 5 == 0 {
            world.finish_script(point, &root, &replay);
        }
    }
    assert!(missed < played);
    proof.close(format_args!(
        "{played} errors at {all} calls, {passed} did no harm, answered {codes:?}, {there} times the step was done, \
         {missed} calls were not reached"
    ));
}
