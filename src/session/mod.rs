//! The async side of one call: the loop that drives it, the registry of live calls and of announced ones.

mod announce;

pub use announce::{Announcement, Announcements, MemoryAnnouncements};
