//! Counts what the process takes from the allocator. The one place of the benches with `unsafe`: the trait asks for it.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{BufRead as _, Write as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

struct Counting;

static TAKEN: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(1, Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        TAKEN.fetch_add(1, Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Answers every line on standard input with the count so far.
pub fn answer() {
    thread::spawn(|| {
        for _ in std::io::stdin().lock().lines() {
            println!("{}", TAKEN.load(Relaxed));
            // whoever asked is gone: so is this process soon
            let _ = std::io::stdout().flush();
        }
    });
}
