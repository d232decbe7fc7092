//! The async side of one call: the loop that drives it, the registry of live calls and of announced ones.

mod announce;
mod hearing;
mod registry;
mod run;
mod sources;
mod unsent;
mod voice;

pub use announce::{Announcement, Announcements, Gone, MemoryAnnouncements};
pub use registry::{Entry, Registry};
pub use run::{Session, Summary};
