//! The targets as cargo-fuzz runs them: with the bytes as they are, and with their checksums made right.

#[path = "targets/engine.rs"]
pub mod engine;
#[path = "targets/server.rs"]
pub mod server;
#[path = "targets/mod.rs"]
pub mod targets;

/// Runs a target.
pub fn run(name: &str, data: &[u8]) {
    let mut all = engine::TARGETS.iter().chain(server::TARGETS);
    let target = all.find(|target| target.name == name).expect("a target of this name");
    // libFuzzer ends the process in its panic hook. Guards catch panics of decoders, so the hook has to wait.
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|info| eprintln!("{info}"))));
    (target.run)(data);
    if let Some(fix) = target.fix {
        let mut fixed = data.to_vec();
        fix(&mut fixed);
        (target.run)(&fixed);
    }
}

/// Writes the seeds of a target into a folder.
pub fn write_seeds(name: &str, folder: &std::path::Path) {
    let mut all = engine::TARGETS.iter().chain(server::TARGETS);
    let target = all.find(|target| target.name == name).expect("a target of this name");
    std::fs::create_dir_all(folder).expect("a folder for the seeds");
    for (number, seed) in (target.seeds)().into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number}")), seed).expect("a seed");
    }
}
