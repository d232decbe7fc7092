//! Which instructions the model runs on. The only unsafe code of the program: the calls of functions that were compiled for
//! instructions which not every processor has. Inside of them is the same safe code as everywhere else.
#![allow(unsafe_code)]

use super::forward;
use super::silero::Memory;
use super::weights::Weights;

/// The probability of speech in a window, on the best instructions that this processor has.
pub(super) fn infer(weights: &Weights, samples: &[f32], memory: &mut Memory) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the function needs just these two features, and this processor has them.
        return unsafe { infer_avx2(weights, samples, memory) };
    }
    infer_portably(weights, samples, memory)
}

/// The same on what every processor of this architecture has (on 64-bit ARM that includes FMA and vectors of four).
pub(super) fn infer_portably(weights: &Weights, samples: &[f32], memory: &mut Memory) -> f32 {
    forward::infer::<{ cfg!(target_arch = "aarch64") }, 8, 16, 32>(weights, samples, memory)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn infer_avx2(weights: &Weights, samples: &[f32], memory: &mut Memory) -> f32 {
    forward::infer::<true, 16, 32, 64>(weights, samples, memory)
}
