//! Conversions between integers of different widths. Counts and offsets are `u64` in files and `usize` in memory; only
//! targets where both have 64 bits are supported, so that these conversions cannot lose a value.
//!
//! The other direction, `usize` to `u64` or `u32` to `usize`, is a plain `as`: it loses nothing on any such target.

const _: () = assert!(usize::BITS == 64, "only 64-bit targets are supported");

/// A count, length or offset of a file as one in memory.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "both have 64 bits, which is asserted above")]
pub fn to_usize(value: impl Into<u64>) -> usize {
    value.into() as usize
}

/// A number that its caller keeps below the limit of a narrower type, such as the number of columns.
///
/// # Panics
/// When it does not fit: storing another number would be worse.
#[inline]
#[track_caller]
pub fn narrow<N: TryFrom<W>, W: Copy + std::fmt::Display>(value: W) -> N {
    match N::try_from(value) {
        Ok(narrow) => narrow,
        Err(_) => does_not_fit(value, std::any::type_name::<N>()),
    }
}

#[cold]
#[inline(never)]
#[track_caller]
#[allow(clippy::panic, reason = "no other number may be stored instead")]
fn does_not_fit(value: impl std::fmt::Display, width: &str) -> ! {
    panic!("{value} does not fit {width}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_does_not_fit_panics_and_yields_no_other_number() {
        assert_eq!((narrow::<u32, usize>(7), narrow::<i32, u32>(7), to_usize(u64::MAX)), (7, 7, usize::MAX));
        assert!(std::panic::catch_unwind(|| narrow::<u32, u64>(1 << 32)).is_err());
        assert!(std::panic::catch_unwind(|| narrow::<i64, u64>(1 << 63)).is_err());
    }
}
