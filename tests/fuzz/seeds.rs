//! Writes the seeds of every target to `corpus/` for cargo-fuzz.

fn main() -> std::io::Result<()> {
    for target in fastk_fuzz::all() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
        println!("{}", folder.display());
    }
    Ok(())
}
