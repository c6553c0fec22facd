//! The inner loops of vector search, each compiled for several instruction sets.
//!
//! | module | concept |
//! |---|---|
//! | `float` | dot product and squared Euclidean distance of f32 |
//! | `hadamard` | the Walsh-Hadamard transform |
//! | `codes` | dot product of many quantised rows with one quantised query |
//!
//! Portable loops over independent lanes are compiled once for each instruction set; where the compiler does
//! not find the instruction that counts, it is written out. The widest set that the processor has is chosen at
//! run time. Every kernel gives the same integers as the portable one, and floats that differ by rounding only.
#![allow(
    unsafe_code,
    reason = "a function compiled for an instruction set may run only where the processor has it"
)]

mod codes;
mod float;
mod hadamard;

use std::sync::OnceLock;

pub(crate) use codes::{BLOCK, CodeKind, dot_rows};
pub(crate) use float::{dot, squared_l2};
pub(crate) use hadamard::hadamard;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// Whatever the compiler makes of plain loops: SSE2 on x86-64.
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl Isa {
    /// All that this processor has, the widest last.
    pub(crate) fn available() -> Vec<Isa> {
        #[cfg(not(target_arch = "aarch64"))]
        let mut available = vec![Isa::Portable];
        #[cfg(target_arch = "aarch64")]
        let available = vec![Isa::Portable, Isa::Neon];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                available.push(Isa::Avx2);
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                available.push(Isa::Avx512);
                if is_x86_feature_detected!("avx512vnni") {
                    available.push(Isa::Avx512Vnni);
                }
            }
        }
        available
    }

    /// The widest that this processor has.
    pub(crate) fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::available().last().copied().unwrap_or(Isa::Portable))
    }
}

/// Asks for a slice to be brought into the cache. A hint: nothing depends on it.
#[inline]
pub(crate) fn prefetch<T>(slice: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = slice.as_ptr().cast::<i8>();
        for offset in (0..size_of_val(slice)).step_by(64) {
            // SAFETY: a prefetch of any address does nothing that can be observed.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset)) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let start = slice.as_ptr().cast::<u8>();
        for offset in (0..size_of_val(slice)).step_by(64) {
            let line = start.wrapping_add(offset);
            // SAFETY: a prefetch of any address does nothing that can be observed.
            unsafe {
                std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(nostack, readonly, preserves_flags));
            }
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = slice;
}
