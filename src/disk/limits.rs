//! The limit on open files of this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit on open files (RLIMIT_NOFILE) to the hard limit. Returns the soft limit in effect: `u64::MAX`
/// where there is none, and the old one where the system refuses.
pub fn raise_open_files_limit() -> u64 {
    let before = getrlimit(Resource::Nofile);
    if before.current != before.maximum {
        // On failure the soft limit is unchanged, and the old one is returned.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Lowers the priority of the calling thread; on other systems than Linux that of the process.
pub fn lower_priority(by: i32) {
    // A refusal changes nothing that is correct.
    let _ = rustix::process::nice(by);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_on_open_files_becomes_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(raise_open_files_limit(), hard.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }
}
