//! Buffers of samples that are used again: a call in its steady state takes nothing from the allocator.
//!
//! Each thread has its own, so nothing is locked and nothing is shared between gateways of different threads.

use std::cell::RefCell;

/// Buffers that a thread keeps at most.
const MOST: usize = 256;
/// Longer ones (bursts) go back to the allocator: 20 ms at 192 kHz still fit.
const LONGEST: usize = 3_840;

thread_local! {
    static SPARE: RefCell<Vec<Vec<i16>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for `samples` samples.
#[must_use]
pub fn take(samples: usize) -> Vec<i16> {
    // a thread that ends has none left
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
    let mut buffer = spare.unwrap_or_default();
    buffer.reserve(samples);
    buffer
}

/// Gives a buffer back; its content is forgotten.
pub fn give(mut buffer: Vec<i16>) {
    if buffer.capacity() == 0 || buffer.capacity() > LONGEST {
        return;
    }
    buffer.clear();
    // a thread that ends needs none any more
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < MOST {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_a_long_one_does_not() {
        let mut buffer = take(160);
        buffer.extend([7; 160]);
        let address = buffer.as_ptr();
        give(buffer);
        give(Vec::with_capacity(LONGEST + 1));
        let again = take(100);
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
        assert!(take(1_000).capacity() >= 1_000);
    }

    #[test]
    fn no_more_than_so_many_are_kept() {
        (0..2 * MOST).map(|_| Vec::with_capacity(8)).collect::<Vec<_>>().into_iter().for_each(give);
        SPARE.with(|spare| assert_eq!(spare.borrow().len(), MOST));
    }
}
