//! The log of one test, for what must and must not be in it.

use std::{cell::RefCell, io, rc::Rc, sync::Once};

thread_local! {
    static LOG: RefCell<Option<Rc<RefCell<Vec<u8>>>>> = const { RefCell::new(None) };
}

/// Collects everything that this thread logs, down to debug, while it lives. For tests on a current-thread runtime.
pub struct Log(Rc<RefCell<Vec<u8>>>);

impl Log {
    pub fn start() -> Self {
        // one subscriber for the whole process: with one per thread, a thread without any can switch a line off for all others
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            tracing_subscriber::fmt().with_env_filter("debug").with_ansi(false).with_writer(|| Writer).init();
        });
        let text = Rc::<RefCell<Vec<u8>>>::default();
        LOG.set(Some(Rc::clone(&text)));
        Self(text)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }

    /// How many lines contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.text().lines().filter(|line| line.contains(text)).count()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        LOG.set(None);
    }
}

/// Writes to the log of the present thread's test, if it has one.
struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow(|log| {
            if let Some(log) = log {
                log.borrow_mut().extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
