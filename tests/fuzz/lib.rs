//! The targets for cargo-fuzz: with the input as it is, and with corrected checksums.

#[path = "targets/engine.rs"]
pub mod engine;
#[cfg(feature = "server")]
#[path = "targets/server.rs"]
pub mod server;
#[path = "targets/mod.rs"]
pub mod targets;

/// Every target.
pub fn all() -> impl Iterator<Item = &'static targets::Target> {
    let engine = engine::TARGETS.iter();
    #[cfg(feature = "server")]
    return engine.chain(server::TARGETS);
    #[cfg(not(feature = "server"))]
    return engine;
}

/// Runs a target.
pub fn run(name: &str, data: &[u8]) {
    let target = all().find(|target| target.name == name).expect("a target of this name");
    // The panic hook of libFuzzer exits the process. Guards catch panics of decoders, so the hook is deferred.
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|info| eprintln!("{info}"))));
    (target.run)(data);
    if let Some(fix) = target.fix {
        let mut fixed = data.to_vec();
        fix(&mut fixed);
        (target.run)(&fixed);
    }
}
