//! Writes the seeds of every target to `corpus/`, where cargo-fuzz looks for them.

fn main() {
    for target in fastk_fuzz::engine::TARGETS.iter().chain(fastk_fuzz::server::TARGETS) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        fastk_fuzz::write_seeds(target.name, &folder);
        println!("{}", folder.display());
    }
}
