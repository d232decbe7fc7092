//! The store's clock, and what is done when a clock is set back: no retry waits for hours because of that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use sqlx::{AnyConnection, Connection, Row};
use tokio::time::Instant;
use tracing::warn;

use super::{Core, db::Dialect};

/// Clocks that are adjusted, and servers that differ, are no further apart than this, in ms.
const SLACK: i64 = 5_000;

/// Milliseconds since 1970.
pub(super) fn millis(at: SystemTime) -> i64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

/// The store's clock: that of the server where there is one, else the system's at the start and the time since then, so that a jump of
/// the system's clock moves no retry and ends no lease.
#[derive(Debug)]
pub(super) struct Clock {
    base: i64,
    at: Instant,
    offset: AtomicI64,
    /// For a test: how far every wall clock has been set forward.
    set: Option<Arc<AtomicI64>>,
}

impl Clock {
    pub fn new(set: Option<Arc<AtomicI64>>) -> Self {
        let mut clock = Self { base: 0, at: Instant::now(), offset: AtomicI64::new(0), set };
        clock.base = clock.wall();
        clock
    }

    fn set(&self) -> i64 {
        self.set.as_ref().map_or(0, |set| set.load(Relaxed))
    }

    /// The system's clock, in ms.
    pub fn wall(&self) -> i64 {
        millis(SystemTime::now()).saturating_add(self.set())
    }

    /// Since the start, in ms.
    fn since(&self) -> i64 {
        i64::try_from(self.at.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Now, in ms.
    pub fn now(&self) -> i64 {
        self.base.saturating_add(self.since()).saturating_add(self.offset.load(Relaxed))
    }

    /// Follows the server, whose clock showed `theirs` at some time after `asked`. By how much that was set back since it was last asked, if it was.
    fn follow(&self, theirs: i64, asked: i64) -> Option<i64> {
        let offset = |since: i64| theirs.saturating_add(self.set()).saturating_sub(self.base.saturating_add(since));
        let known = self.offset.load(Relaxed);
        // an answer that was long under way says little
        let offset = known.clamp(offset(self.since()), offset(asked));
        self.offset.store(offset, Relaxed);
        let back = known.saturating_sub(offset);
        (back > SLACK).then_some(back)
    }
}

/// Reads the server's clock, where there is a server. When it was set back, what is due goes back with it.
pub(super) async fn follow(core: &Core, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    if core.db.dialect == Dialect::Sqlite {
        return Ok(());
    }
    let sql = "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT";
    let asked = core.clock.since();
    let (theirs,): (i64,) = sqlx::query_as(sql).fetch_one(&mut *connection).await?;
    // the first word is no jump
    let first = !core.followed.swap(true, Relaxed);
    let Some(back) = core.clock.follow(theirs, asked).filter(|_| !first) else { return Ok(()) };
    core.last_lease.fetch_sub(back, Relaxed);
    let mut transaction = connection.begin().await?;
    keep(core, &mut transaction, true).await?;
    transaction.commit().await
}

/// Notes what time it is. Where it was later already, a clock has been set back: what is due is brought to where it would be now.
pub(super) async fn keep(core: &Core, connection: &mut AnyConnection, jumped: bool) -> Result<(), sqlx::Error> {
    let sql = match core.db.dialect {
        Dialect::Sqlite => "SELECT value FROM meta WHERE name = 'clock'",
        Dialect::Postgres => "SELECT value FROM meta WHERE name = 'clock' FOR UPDATE",
    };
    let known = sqlx::query(sql).fetch_optional(&mut *connection).await?;
    let known = known.map(|row| row.try_get::<String, _>("value")).transpose()?.and_then(|text| text.parse().ok());
    let now = core.clock.now();
    let back = known.map_or(0, |known: i64| known.saturating_sub(now));
    if back > SLACK {
        warn!(
            seconds = back / 1_000,
            "the clock was set back: events that wait for their next attempt are brought forward"
        );
        let all = "UPDATE lanes SET due_at = due_at - $1, used_at = used_at - $1 WHERE due_at IS NOT NULL";
        sqlx::query(all).bind(back).execute(&mut *connection).await?;
    }
    if back > SLACK || jumped {
        // written by whoever had not noticed yet
        let rest =
            "UPDATE lanes SET due_at = due_at - (used_at - $1), used_at = $1 WHERE due_at IS NOT NULL AND used_at > $2";
        sqlx::query(rest).bind(now).bind(now.saturating_add(SLACK)).execute(&mut *connection).await?;
    }
    let note =
        "INSERT INTO meta (name, value) VALUES ('clock', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    sqlx::query(note).bind(now.to_string()).execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_jump_of_the_systems_clock_is_none_of_the_stores() {
        let set = Arc::new(AtomicI64::new(0));
        let clock = Clock::new(Some(Arc::clone(&set)));
        let start = clock.now();
        for hours in [-5, 5, -10_000] {
            set.store(hours * 3_600_000, Relaxed);
            assert_eq!(clock.now(), start);
        }
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(clock.now(), start + 3_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_followed_and_caught_when_it_goes_back() {
        let clock = Clock::new(None);
        let start = clock.now();
        assert_eq!(clock.follow(start + 7_200_000, 0), None);
        assert_eq!(clock.now(), start + 7_200_000);
        assert_eq!(clock.follow(start + 7_200_000 - SLACK, 0), None, "an adjustment");
        assert_eq!(clock.follow(start, 0), Some(7_200_000 - SLACK));
        assert_eq!(clock.now(), start);
        // the server was asked, and 20 s later there is its answer: it may be of any time in between
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!((clock.follow(start, 0), clock.now()), (None, start + 20_000));
    }
}
