//! What a person or the HTTP API asks for: lists, one delivery with its attempts, sending again; and events whose only attempt the
//! caller makes itself.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use sqlx::{AnyConnection, Row, any::AnyRow};
use uuid::Uuid;

use super::{
    Store, StoreError, batch,
    batch::{bytes, uuid},
    clock::millis,
    db::{rows, statement},
    secrets::time,
};
use crate::{
    call::{CallId, EventId},
    webhook::{Outcome, Report},
};

/// Deliveries sent again in one transaction.
const PAGE: i64 = 500;

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits, or is under way.
    Pending,
    /// The receiver has it.
    Done,
    /// It was given up.
    Dead,
    /// Its only attempt is under way: a call waits for the answer.
    Asking,
}

impl State {
    /// Its name in lists.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Asking => "asking",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pending" => Ok(Self::Pending),
            "done" => Ok(Self::Done),
            "dead" => Ok(Self::Dead),
            "asking" => Ok(Self::Asking),
            _ => Err("is no state; write pending, asking, done or dead".to_owned()),
        }
    }
}

/// Which deliveries to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this endpoint only.
    pub endpoint: Option<String>,
    /// In this state only.
    pub state: Option<State>,
    /// Of the call with this UUID on the wire only.
    pub uuid: Option<Uuid>,
    /// Older than this event only: to go on where a list ended.
    pub before: Option<EventId>,
    /// At most so many.
    pub limit: u32,
}

/// A delivery, in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Identity of the event.
    pub event: EventId,
    /// The endpoint's name.
    pub endpoint: String,
    /// The call.
    pub call: CallId,
    /// The UUID in the body.
    pub uuid: Uuid,
    /// Its number in the call, for this endpoint.
    pub seq: u64,
    /// `type` in the body.
    pub kind: String,
    /// When it happened.
    pub at: SystemTime,
    /// Where it stands.
    pub state: State,
    /// Number of the last attempt, or, of one that waits, of the next.
    pub attempt: u32,
    /// When the last attempt ended.
    pub tried_at: Option<SystemTime>,
    /// The status it was answered with.
    pub status: Option<u16>,
    /// Why it failed.
    pub error: Option<String>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// When it ended.
    pub at: SystemTime,
    /// What it came to.
    pub report: Report,
}

/// A delivery with everything that is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Where it stands.
    pub delivery: Delivery,
    /// What is sent.
    pub body: Bytes,
    /// Its attempts, the first one first.
    pub attempts: Vec<Attempt>,
}

type Result<T, E = StoreError> = std::result::Result<T, E>;

const COLUMNS: &str = "d.event AS event, d.endpoint AS endpoint, d.call AS call, d.seq AS seq, d.at AS at, d.state AS state, \
                       d.attempt AS attempt, d.tried_at AS tried_at, d.status AS status, d.error AS error, \
                       e.uuid AS uuid, e.kind AS kind";

fn number<T: TryFrom<i64>>(row: &AnyRow, column: &str) -> Result<Option<T>, sqlx::Error> {
    let value: Option<i64> = row.try_get(column)?;
    Ok(value.and_then(|value| T::try_from(value).ok()))
}

fn delivery(row: &AnyRow) -> Result<Delivery, sqlx::Error> {
    let state: String = row.try_get("state")?;
    let tried: Option<i64> = row.try_get("tried_at")?;
    Ok(Delivery {
        event: EventId::from(uuid(row, "event")?),
        endpoint: row.try_get("endpoint")?,
        call: CallId::from(uuid(row, "call")?),
        uuid: uuid(row, "uuid")?,
        seq: number(row, "seq")?.unwrap_or_default(),
        kind: row.try_get("kind")?,
        at: time(row.try_get("at")?),
        state: state.parse().map_err(|error: String| sqlx::Error::Decode(error.into()))?,
        attempt: number(row, "attempt")?.unwrap_or_default(),
        tried_at: tried.map(time),
        status: number(row, "status")?,
        error: row.try_get("error")?,
    })
}

fn attempt(row: &AnyRow) -> Result<Attempt, sqlx::Error> {
    let latency: i64 = row.try_get("latency_ms")?;
    let answer: Option<Vec<u8>> = row.try_get("answer")?;
    Ok(Attempt {
        number: number(row, "attempt")?.unwrap_or_default(),
        at: time(row.try_get("at")?),
        report: Report {
            status: number(row, "status")?,
            latency: Duration::from_millis(latency.unsigned_abs()),
            error: row.try_get("error")?,
            answer: answer.unwrap_or_default().into(),
        },
    })
}

impl Store {
    /// Deliveries, the newest event first.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Delivery>> {
        let mut sql = format!("SELECT {COLUMNS} FROM deliveries d JOIN events e ON e.id = d.event WHERE d.event < $1");
        let mut values = 1;
        for (given, column) in [(filter.endpoint.is_some(), "d.endpoint"), (filter.uuid.is_some(), "e.uuid")] {
            if given {
                values += 1;
                sql.push_str(&format!(" AND {column} = ${values}"));
            }
        }
        // written out, so that the planner sees that the index of dead letters will do
        if let Some(state) = filter.state {
            sql.push_str(&format!(" AND d.state = '{state}'"));
        }
        sql.push_str(&format!(" ORDER BY d.event DESC, d.endpoint LIMIT ${}", values + 1));
        let mut query = statement(sql, true).bind(bytes(filter.before.map_or(Uuid::max(), Uuid::from)));
        if let Some(endpoint) = &filter.endpoint {
            query = query.bind(endpoint.clone());
        }
        if let Some(uuid) = filter.uuid {
            query = query.bind(bytes(uuid));
        }
        let found = query.bind(i64::from(filter.limit)).fetch_all(&self.core.db.readers()).await;
        let found = found.map_err(|error| self.error(&error))?;
        found.iter().map(delivery).collect::<Result<_, _>>().map_err(|error| self.error(&error))
    }

    /// The deliveries of one event, with their attempts.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn show(&self, event: EventId) -> Result<Vec<Shown>> {
        let error = |error: sqlx::Error| self.error(&error);
        let sql = format!(
            "SELECT {COLUMNS}, COALESCE(d.body, e.body) AS body FROM deliveries d JOIN events e ON e.id = d.event \
             WHERE d.event = $1 ORDER BY d.endpoint"
        );
        let found = statement(sql, true).bind(bytes(event)).fetch_all(&self.core.db.readers()).await.map_err(error)?;
        let mut shown = Vec::new();
        for row in &found {
            let delivery = delivery(row).map_err(error)?;
            let sql = "SELECT attempt, at, status, latency_ms, error, answer FROM attempts \
                       WHERE event = $1 AND endpoint = $2 ORDER BY attempt";
            let query = sqlx::query(sql).bind(bytes(event)).bind(delivery.endpoint.clone());
            let attempts = query.fetch_all(&self.core.db.readers()).await.map_err(error)?;
            let attempts = attempts.iter().map(attempt).collect::<Result<_, _>>().map_err(error)?;
            let body: Vec<u8> = row.try_get("body").map_err(error)?;
            shown.push(Shown { delivery, body: body.into(), attempts });
        }
        Ok(shown)
    }

    /// Sends an event again, whatever became of it, by a schedule that begins anew; one that waits for its next attempt goes now.
    /// How many deliveries.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn retry(&self, event: EventId, endpoint: Option<&str>) -> Result<u64> {
        let (endpoint, now) = (endpoint.map(str::to_owned), self.core.clock.now());
        let sent = self.write(move |connection| {
            Box::pin(async move {
                let sql = "SELECT endpoint, call, seq, at, state FROM deliveries WHERE event = $1 AND (endpoint = $2 OR $2 IS NULL)";
                let found = sqlx::query(sql).bind(bytes(event)).bind(endpoint).fetch_all(&mut *connection).await?;
                again(connection, &found, now).await
            })
        });
        Ok(self.resent(sent.await?))
    }

    /// Sends dead letters again by a schedule that begins anew, of all endpoints or of one, which happened at or after `since`. How many.
    ///
    /// # Errors
    /// The database does not work; some may have been sent.
    pub async fn retry_dead(&self, endpoint: Option<&str>, since: SystemTime) -> Result<u64> {
        let (since, now) = (millis(since), self.core.clock.now());
        // never back: what dies again meanwhile is not sent again and again
        let mut behind = (bytes(Uuid::nil()), String::new());
        let mut total = 0;
        loop {
            let (endpoint, (event, name)) = (endpoint.map(str::to_owned), behind);
            let sent = self.write(move |connection| {
                Box::pin(async move {
                    let sql = "SELECT event, endpoint, call, seq, at, state FROM deliveries WHERE state = 'dead' \
                               AND (endpoint = $1 OR $1 IS NULL) AND at >= $2 AND (event, endpoint) > ($3, $4) \
                               ORDER BY event, endpoint LIMIT $5";
                    let query = sqlx::query(sql).bind(endpoint).bind(since).bind(event).bind(name).bind(PAGE);
                    let found = query.fetch_all(&mut *connection).await?;
                    let last =
                        found.last().map(|row| Ok::<_, sqlx::Error>((row.try_get("event")?, row.try_get("endpoint")?)));
                    Ok((again(connection, &found, now).await?, last.transpose()?))
                })
            });
            let (sent, last) = sent.await?;
            total += self.resent(sent);
            match last {
                Some(last) => behind = last,
                None => return Ok(total),
            }
        }
    }

    fn resent(&self, (sent, more): (u64, i64)) -> u64 {
        self.core.changed(more);
        self.core.shelves.look_now();
        self.core.intake.wake.notify_one();
        sent
    }

    /// Records what became of the attempt at an event that was put with [`crate::webhook::Recipient::asked`].
    ///
    /// # Errors
    /// The database does not work.
    pub async fn settle(&self, event: EventId, endpoint: &str, outcome: Outcome, report: Report) -> Result<()> {
        let (endpoint, now) = (endpoint.to_owned(), self.core.clock.now());
        let state = if outcome == Outcome::Delivered { "done" } else { "dead" };
        let latency = i64::try_from(report.latency.as_millis()).unwrap_or(i64::MAX);
        self.write(move |connection| {
            Box::pin(async move {
                let sql = "UPDATE deliveries SET state = $1, tried_at = $2, status = $3, latency_ms = $4, error = $5 \
                           WHERE event = $6 AND endpoint = $7 AND state IN ('asking', 'dead')";
                sqlx::query(sql)
                    .bind(state)
                    .bind(now)
                    .bind(report.status.map(i64::from))
                    .bind(latency)
                    .bind(report.error.clone())
                    .bind(bytes(event))
                    .bind(endpoint.clone())
                    .execute(&mut *connection)
                    .await?;
                batch::attempt(connection, (event, &endpoint, 1), &report, now).await
            })
        })
        .await
    }
}

/// Makes these deliveries pending again and their lanes due: how many, and how many more are pending now.
async fn again(connection: &mut AnyConnection, found: &[AnyRow], now: i64) -> Result<(u64, i64), sqlx::Error> {
    struct Lane {
        count: i64,
        low: i64,
        at: i64,
    }
    let mut lanes: BTreeMap<(String, Vec<u8>), Lane> = BTreeMap::new();
    for row in found {
        let (endpoint, call): (String, Vec<u8>) = (row.try_get("endpoint")?, row.try_get("call")?);
        let (seq, at): (i64, i64) = (row.try_get("seq")?, row.try_get("at")?);
        let state: String = row.try_get("state")?;
        let settled = i64::from(state != State::Pending.as_str());
        if settled == 1 {
            let sql = "UPDATE deliveries SET state = 'pending', attempt = attempt + 1, tries_before = attempt \
                       WHERE endpoint = $1 AND call = $2 AND seq = $3";
            let query = sqlx::query(sql).bind(endpoint.clone()).bind(call.clone()).bind(seq);
            query.execute(&mut *connection).await?;
        }
        let lane = lanes.entry((endpoint, call)).or_insert(Lane { count: 0, low: seq, at });
        lane.count += settled;
        if seq < lane.low {
            (lane.low, lane.at) = (seq, at);
        }
    }
    let more = lanes.values().map(|lane| lane.count).sum();
    if !lanes.is_empty() {
        // a lane that is leased comes back by itself, to its first pending event
        let sql = format!(
            "WITH v (endpoint, call, pending, low, at) AS (VALUES {}) UPDATE lanes SET \
             pending = lanes.pending + v.pending, \
             head_at = CASE WHEN lanes.due_at IS NULL OR v.low < lanes.head_seq THEN v.at ELSE lanes.head_at END, \
             due_at = CASE WHEN lanes.owner IS NULL AND (lanes.due_at IS NULL OR v.low <= lanes.head_seq) THEN $1 ELSE lanes.due_at END, \
             head_seq = CASE WHEN lanes.due_at IS NULL OR v.low < lanes.head_seq THEN v.low ELSE lanes.head_seq END \
             FROM v WHERE lanes.endpoint = v.endpoint AND lanes.call = v.call",
            rows(lanes.len(), 5, 2)
        );
        let mut query = statement(sql, false).bind(now);
        for ((endpoint, call), lane) in lanes {
            query = query.bind(endpoint).bind(call).bind(lane.count).bind(lane.low).bind(lane.at);
        }
        query.execute(connection).await?;
    }
    Ok((found.len() as u64, more))
}
