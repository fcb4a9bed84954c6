//! The choice of SIMD level at run time.
//!
//! One safe body is compiled three times, with the vector instructions of three levels. No level
//! contracts a multiplication and an addition, and sums are written in explicit lanes, so all
//! levels give the same bits; only their speed differs.

/// Which vector instructions a body may be compiled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every machine of the target has (SSE2 on x86-64).
    Baseline,
    /// AVX2, 256 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, VL, BW and DQ, 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Work whose `run` is inlined into a function of each level.
///
/// `run` and all that it calls must be `#[inline(always)]`, or the code falls back to the baseline.
pub(crate) trait Work {
    type Output;
    fn run(self) -> Self::Output;
}

impl Level {
    /// The best level of this machine.
    pub(crate) fn best() -> Self {
        *Self::available().last().unwrap_or(&Self::Baseline)
    }

    /// The levels of this machine, worst first.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn available() -> &'static [Self] {
        const ALL: [Level; 3] = [Level::Baseline, Level::Avx2, Level::Avx512];
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq");
        match (is_x86_feature_detected!("avx2"), avx512) {
            (true, true) => &ALL,
            (true, false) => &ALL[..2],
            _ => &ALL[..1],
        }
    }

    /// The levels of this machine, worst first.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn available() -> &'static [Self] {
        &[Self::Baseline]
    }

    /// Runs the work with the instructions of this level.
    ///
    /// # Panics
    /// When the machine lacks the level: only a test asks for another than [`Level::best`].
    pub(crate) fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            Self::Baseline => work.run(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                assert!(is_x86_feature_detected!("avx2"));
                // SAFETY: the machine has AVX2, asserted in the line above.
                unsafe { run_avx2(work) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                assert!(
                    is_x86_feature_detected!("avx2")
                        && is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512vl")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512dq")
                );
                // SAFETY: the machine has every feature named, asserted in the lines above.
                unsafe { run_avx512(work) }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<W: Work>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512vl,avx512bw,avx512dq")]
fn run_avx512<W: Work>(work: W) -> W::Output {
    work.run()
}
