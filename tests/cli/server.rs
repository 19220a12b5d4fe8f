//! `serve` and `demo`: the ready line, signals, the lock, settings.

use std::time::Duration;

use rustix::process::Signal;

use super::program::{Server, fastk, finish, run};

#[test]
fn a_server_prints_one_line_and_exits_cleanly_on_either_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let root = tempfile::tempdir().unwrap();
        let server = Server::start(&root.path().join("made/on/demand"));
        assert!(!server.http.ends_with(":0") && !server.flight.ends_with(":0"));
        let health = run(&["admin", "health", "--server", &server.http, "--json"]).ok();
        assert!(health.contains("\"status\": \"ok\""), "{health}");
        server.signal(signal);
        let (status, rest) = server.ended(Duration::from_secs(120));
        assert!(status.success(), "{status}");
        assert_eq!(rest, "", "the ready line is the only one");
    }
}

#[test]
fn an_open_connection_does_not_delay_the_shutdown() {
    let root = tempfile::tempdir().unwrap();
    let mut command = fastk();
    command.args(["serve", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--root"]).arg(root.path());
    // Timeout of request headers, and of requests in flight at shutdown.
    for name in ["HTTP__HEADER_TIMEOUT_MS", "FLIGHT__HANDSHAKE_TIMEOUT_MS", "LIMITS__DRAIN_TIMEOUT_MS"] {
        command.env(format!("FASTK__{name}"), "3600000");
    }
    let server = Server::of(command);
    let _idle = [&server.http, &server.flight].map(|address| std::net::TcpStream::connect(address).unwrap());
    server.signal(Signal::TERM);
    let (status, _) = server.ended(Duration::from_secs(120));
    assert!(status.success(), "{status}");
}

#[test]
fn a_second_server_on_the_same_directory_fails_at_once() {
    let root = tempfile::tempdir().unwrap();
    let first = Server::start(root.path());
    let mut command = fastk();
    command.args(["serve", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--root"]).arg(root.path());
    // The first server continues to serve.
    let second = finish(command, "").fails(4, "store_locked");
    assert_eq!(second.out, "", "no ready line");
    run(&["admin", "health", "--server", &first.http]).ok();
    first.stop();
    // The lock is released with its process.
    Server::start(root.path()).stop();
}

#[test]
fn a_killed_server_leaves_no_lock_and_no_stale_address() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(root.path());
    let pid = server.pid().to_string();
    let lock = std::fs::read_to_string(root.path().join("LOCK")).unwrap();
    for part in [pid.as_str(), &server.http, &server.flight] {
        assert!(lock.contains(part), "{part} in {lock}");
    }
    drop(server);
    // The command opens the store itself: the address in LOCK is stale.
    run(&["admin", "list-series", "--root", &root.path().to_string_lossy()]).ok();
    assert!(!std::fs::read_to_string(root.path().join("LOCK")).unwrap().contains("http"));
}

#[test]
fn addresses_reachable_from_other_machines_need_a_flag() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path().join("store");
    for (flag, other) in [("--http", "--flight"), ("--flight", "--http")] {
        let mut command = fastk();
        command.args(["serve", flag, "0.0.0.0:0", other, "127.0.0.1:0", "--root"]).arg(&at);
        let done = finish(command, "").fails(2, "invalid_argument");
        assert!(done.err.contains("--insecure"), "{}", done.err);
    }
    assert!(!at.exists(), "no directory was created");
    let mut command = fastk();
    command.args(["serve", "--insecure", "--http", "0.0.0.0:0", "--flight", "127.0.0.1:0", "--root"]).arg(&at);
    Server::of(command).stop();
}

#[test]
fn all_invalid_settings_are_reported_at_once() {
    let mut command = fastk();
    command.args(["serve", "--http", "nowhere"]);
    command.env("FASTK__STORE__DURABILTY", "none").env("FASTK__STORE__TAIL_ROWS_MAX", "many");
    let done = finish(command, "").fails(2, "invalid_argument");
    for part in ["3 problems", "store.durability", "FASTK__STORE__TAIL_ROWS_MAX", "nowhere"] {
        assert!(done.err.contains(part), "{part} in {}", done.err);
    }
}

#[test]
fn effective_settings_are_printed_with_their_origin() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[store]\nroot = \"from-file\"\n[http]\njson_rows_default = 7\n").unwrap();
    let mut command = fastk();
    command.args(["serve", "--print-config", "--root", "from-flag", "--config"]).arg(file.path());
    command.env("FASTK__HTTP__JSON_ROWS_DEFAULT", "9");
    let printed = finish(command, "").ok();
    let line = |key: &str| printed.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap_or_default();
    assert!(line("root").starts_with("root = \"from-flag\"") && line("root").ends_with("# flag --root"), "{printed}");
    assert!(line("json_rows_default").ends_with("# environment FASTK__HTTP__JSON_ROWS_DEFAULT"), "{printed}");
    assert!(line("json_rows_default").starts_with("json_rows_default = 9 "), "{printed}");
    assert!(line("durability").ends_with("# default"), "{printed}");
    assert!(!std::path::Path::new("from-flag").exists());
}

#[test]
fn the_environment_accepts_lists_and_unknown_variables_are_reported() {
    let mut command = fastk();
    command.args(["serve", "--print-config"]);
    command.env("FASTK__HTTP__CORS_ORIGINS", "https://a.example,http://b.example:81");
    command.env("FASTK_HTTP_LISTEN", "127.0.0.1:1").env("FASTK_LOG", "info");
    let done = finish(command, "");
    assert!(done.err.contains("FASTK_HTTP_LISTEN is not read"), "{}", done.err);
    assert!(done.err.contains("FASTK__HTTP__LISTEN") && !done.err.contains("FASTK_LOG"), "{}", done.err);
    let printed = done.ok();
    assert!(printed.contains(r#"cors_origins = ["https://a.example","http://b.example:81"]"#), "{printed}");
}

#[test]
fn the_demo_prints_its_results_and_removes_its_directory() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = fastk();
    command.args(["demo", "--exit", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0"]);
    command.env("TMPDIR", temporary.path());
    let shown = finish(command, "").ok();
    assert!(shown.starts_with("ready http=127.0.0.1:"), "{shown}");
    for part in ["kline/BTCUSDT/1m", "2024-03-31T23:59:00Z", "41591.54", "kline/ETHUSDT/1h", "130807"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn the_demo_prints_examples_with_its_ports_and_removes_its_directory_when_stopped() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = fastk();
    command.args(["demo", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0"]).env("TMPDIR", temporary.path());
    let demo = Server::of(command);
    let (http, flight) = (demo.http.clone(), demo.flight.clone());
    let latest = ["query", "kline/BTCUSDT/1m", "--latest", "1", "--format", "csv", "--server", &http];
    assert_eq!(run(&latest).ok().lines().count(), 2);
    demo.signal(Signal::INT);
    let (status, lines) = demo.ended(Duration::from_secs(120));
    assert!(status.success(), "{status}");
    assert!(lines.contains(&http) && lines.contains(&format!("grpc://{flight}")), "{lines}");
    assert!(!lines.contains("127.0.0.1:8080") && !lines.contains("127.0.0.1:8815"), "{lines}");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}
