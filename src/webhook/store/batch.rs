//! One transaction of the writer: what became of attempts, then new events, then what is due next.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use sqlx::{AnyConnection, Row, any::AnyRow};
use uuid::Uuid;

use super::{
    clock::millis,
    db::{Db, Dialect, Statement, rows, statement},
    queue::{Demand, Mark, Put},
};
use crate::{
    call::{CallId, EventId},
    webhook::{Due, Entry, Outcome, Phase, Report},
};

/// Rows of one statement. A full one is prepared once; SQLite looks every placeholder up among all others of its statement, so that
/// many more rows cost more than they spare.
const ROWS: usize = 64;

type Result<T> = std::result::Result<T, sqlx::Error>;

/// A place in the order: one endpoint's deliveries of one call.
type LaneKey = (Arc<str>, CallId);

/// Bytes of an identity.
pub(super) fn bytes(id: impl Into<Uuid>) -> Vec<u8> {
    id.into().into_bytes().to_vec()
}

/// An identity from a row.
pub(super) fn uuid(row: &AnyRow, column: &str) -> Result<Uuid> {
    let bytes: Vec<u8> = row.try_get(column)?;
    Uuid::from_slice(&bytes).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// The same statement for every [`ROWS`] of `items`: `sql` gets the placeholders, which begin with number `first`.
fn in_chunks<T>(
    items: &[T],
    (columns, first): (usize, usize),
    sql: impl Fn(&str) -> String,
    bind: impl Fn(Statement, &T) -> Statement,
    before: impl Fn(Statement) -> Statement,
) -> Vec<Statement> {
    let statement = |chunk: &[T]| {
        let text = sql(&rows(chunk.len(), columns, first));
        chunk.iter().fold(before(statement(text, matches!(chunk.len(), 1 | ROWS))), &bind)
    };
    items.chunks(ROWS).map(statement).collect()
}

async fn run(connection: &mut AnyConnection, statements: Vec<Statement>) -> Result<Vec<AnyRow>> {
    let mut found = Vec::new();
    for statement in statements {
        found.append(&mut statement.fetch_all(&mut *connection).await?);
    }
    Ok(found)
}

/// Writes new events and gives each its numbers. Those that are in the database already (a commit whose answer was lost) are left out.
pub(super) async fn put(connection: &mut AnyConnection, puts: &[Put], owner: Uuid, now: i64) -> Result<()> {
    let new = events(connection, puts).await?;
    let fresh: Vec<&Entry> = puts.iter().map(|put| &put.entry).filter(|entry| new.contains(&entry.id)).collect();
    place(connection, &fresh, now).await?;
    calls(connection, &fresh, owner, now).await
}

async fn events(connection: &mut AnyConnection, puts: &[Put]) -> Result<HashSet<EventId>> {
    let sql = |rows: &str| {
        format!(
            "INSERT INTO events (id, call, uuid, kind, at, body) VALUES {rows} ON CONFLICT (id) DO NOTHING RETURNING id"
        )
    };
    let bind = |query: Statement, put: &Put| {
        let entry = &put.entry;
        query
            .bind(bytes(entry.id))
            .bind(bytes(entry.call))
            .bind(bytes(entry.uuid))
            .bind(entry.kind.to_string())
            .bind(millis(entry.at))
            .bind(entry.body.to_vec())
    };
    let found = run(connection, in_chunks(puts, (6, 1), sql, bind, |query| query)).await?;
    found.iter().map(|row| uuid(row, "id").map(EventId::from)).collect()
}

/// A delivery with its number.
struct Placed<'a> {
    entry: &'a Entry,
    to: usize,
    seq: i64,
}

/// The events of one lane, each with the index of its recipient.
type Members<'a> = Vec<(&'a Entry, usize)>;

fn is_asked((entry, to): &(&Entry, usize)) -> bool {
    entry.to[*to].asked
}

/// Gives each event its number at each of its endpoints.
async fn place(connection: &mut AnyConnection, entries: &[&Entry], now: i64) -> Result<()> {
    // sorted, so that two gateways lock lanes in the same order
    let mut lanes: BTreeMap<LaneKey, Members<'_>> = BTreeMap::new();
    for &entry in entries {
        for (index, to) in entry.to.iter().enumerate() {
            lanes.entry((Arc::clone(&to.endpoint), entry.call)).or_default().push((entry, index));
        }
    }
    let lanes: Vec<_> = lanes.into_iter().collect();
    let last = extend(connection, &lanes, now).await?;
    let mut placed = Vec::new();
    for (key, members) in &lanes {
        let Some(next) = last.get(key) else { continue };
        let first = next - i64::try_from(members.len()).unwrap_or_default();
        placed.extend((first..).zip(members).map(|(seq, &(entry, to))| Placed { entry, to, seq }));
    }
    deliveries(connection, &placed).await
}

/// Lengthens the lanes by their new members; the number that each will give next.
async fn extend(
    connection: &mut AnyConnection,
    lanes: &[(LaneKey, Members<'_>)],
    now: i64,
) -> Result<BTreeMap<LaneKey, i64>> {
    let sql = |rows: &str| {
        format!(
            "INSERT INTO lanes (endpoint, call, next_seq, head_seq, head_at, pending, due_at, used_at) VALUES {rows} \
             ON CONFLICT (endpoint, call) DO UPDATE SET \
             next_seq = lanes.next_seq + excluded.next_seq - 1, \
             head_seq = CASE WHEN lanes.due_at IS NULL THEN lanes.next_seq + excluded.head_seq - 1 ELSE lanes.head_seq END, \
             head_at = CASE WHEN lanes.due_at IS NULL THEN excluded.head_at ELSE lanes.head_at END, \
             pending = lanes.pending + excluded.pending, \
             due_at = COALESCE(lanes.due_at, excluded.due_at), \
             used_at = excluded.used_at \
             RETURNING endpoint, call, next_seq"
        )
    };
    let bind = |query: Statement, ((endpoint, call), members): &(LaneKey, Members<'_>)| {
        let count = i64::try_from(members.len()).unwrap_or_default();
        let pending = i64::try_from(members.iter().filter(|member| !is_asked(member)).count()).unwrap_or_default();
        let first = members.iter().position(|member| !is_asked(member)).unwrap_or_default();
        query
            .bind(endpoint.to_string())
            .bind(bytes(*call))
            .bind(1 + count)
            .bind(1 + i64::try_from(first).unwrap_or_default())
            .bind(members.get(first).map_or(0, |(entry, _)| millis(entry.at)))
            .bind(pending)
            .bind((pending > 0).then_some(now))
            .bind(now)
    };
    let found = run(connection, in_chunks(lanes, (8, 1), sql, bind, |query| query)).await?;
    let key = |row: &AnyRow| {
        let endpoint: String = row.try_get("endpoint")?;
        Ok(((Arc::from(endpoint), CallId::from(uuid(row, "call")?)), row.try_get("next_seq")?))
    };
    found.iter().map(key).collect()
}

async fn deliveries(connection: &mut AnyConnection, placed: &[Placed<'_>]) -> Result<()> {
    let sql = |rows: &str| {
        format!("INSERT INTO deliveries (endpoint, call, seq, event, at, state, attempt, url, body) VALUES {rows}")
    };
    let bind = |query: Statement, placed: &Placed<'_>| {
        let Placed { entry, to, seq } = placed;
        let to = &entry.to[*to];
        query
            .bind(to.endpoint.to_string())
            .bind(bytes(entry.call))
            .bind(*seq)
            .bind(bytes(entry.id))
            .bind(millis(entry.at))
            .bind(if to.asked { "asking" } else { "pending" })
            .bind(1_i64)
            .bind(to.url.as_deref().map(str::to_owned))
            .bind(to.body.as_ref().map(|body| body.to_vec()))
    };
    run(connection, in_chunks(placed, (9, 1), sql, bind, |query| query)).await.map(drop)
}

/// Which calls are live: one that began and ended in the same batch never was.
async fn calls(connection: &mut AnyConnection, entries: &[&Entry], owner: Uuid, now: i64) -> Result<()> {
    let ended: Vec<CallId> = entries.iter().filter(|entry| entry.phase == Phase::End).map(|entry| entry.call).collect();
    let begun: Vec<&&Entry> =
        entries.iter().filter(|entry| entry.phase == Phase::Start && !ended.contains(&entry.call)).collect();
    let sql = |rows: &str| {
        format!("INSERT INTO live_calls (call, uuid, owner, started_at) VALUES {rows} ON CONFLICT (call) DO NOTHING")
    };
    let bind = |query: Statement, entry: &&&Entry| {
        query.bind(bytes(entry.call)).bind(bytes(entry.uuid)).bind(bytes(owner)).bind(now)
    };
    run(connection, in_chunks(&begun, (4, 1), sql, bind, |query| query)).await?;
    let bind = |query: Statement, call: &CallId| query.bind(bytes(*call));
    let sql = |rows: &str| format!("DELETE FROM live_calls WHERE call IN (VALUES {rows})");
    run(connection, in_chunks(&ended, (1, 1), sql, bind, |query| query)).await?;
    // an announced call that has become one, or that was refused, is awaited no longer
    let come: Vec<CallId> =
        entries.iter().filter(|entry| entry.phase != Phase::Middle).map(|entry| entry.call).collect();
    let sql = |rows: &str| format!("UPDATE announcements SET awaited = NULL WHERE awaited IN (VALUES {rows})");
    run(connection, in_chunks(&come, (1, 1), sql, bind, |query| query)).await.map(drop)
}

const fn state(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered => "done",
        Outcome::GivenUp => "dead",
        Outcome::RetryAfter(_) => "pending",
    }
}

/// Records what became of attempts. What is no longer leased to `owner` is left out: whoever has it now sends it again.
pub(super) async fn mark(
    connection: &mut AnyConnection,
    dialect: Dialect,
    marks: &[Mark],
    owner: Uuid,
    now: i64,
) -> Result<()> {
    if dialect == Dialect::Postgres {
        hold(connection, marks).await?;
    }
    let tried: Vec<_> = marks.iter().filter_map(|mark| mark.report.as_ref().map(|report| (mark, report))).collect();
    log(connection, &tried, now).await?;
    let bind = |query: Statement, (mark, report): &(&Mark, &Report)| {
        let due = &mark.due;
        let attempt = i64::from(due.attempt) + i64::from(matches!(mark.outcome, Outcome::RetryAfter(_)));
        query
            .bind(due.endpoint.to_string())
            .bind(bytes(due.call))
            .bind(i64::try_from(due.seq).unwrap_or_default())
            .bind(state(mark.outcome))
            .bind(attempt)
            .bind(report.status.map(i64::from))
            .bind(i64::try_from(report.latency.as_millis()).unwrap_or(i64::MAX))
            .bind(report.error.clone())
    };
    let sql = |rows: &str| {
        format!(
            "WITH v (endpoint, call, seq, state, attempt, status, latency_ms, error) AS (VALUES {rows}) \
             UPDATE deliveries SET state = v.state, attempt = v.attempt, tried_at = $1, status = v.status, \
             latency_ms = v.latency_ms, error = v.error FROM v \
             WHERE deliveries.endpoint = v.endpoint AND deliveries.call = v.call AND deliveries.seq = v.seq \
             AND deliveries.state = 'pending' AND EXISTS (SELECT 1 FROM lanes WHERE lanes.endpoint = v.endpoint \
             AND lanes.call = v.call AND lanes.leased_seq = v.seq AND lanes.owner = $2)"
        )
    };
    let before = |query: Statement| query.bind(now).bind(bytes(owner));
    run(connection, in_chunks(&tried, (8, 3), sql, bind, before)).await?;
    advance(connection, marks, owner, now).await
}

/// Takes the locks of these lanes before anything is read: a statement that waits for one goes on with what it had read before, and so
/// would not see the event that another gateway has put meanwhile.
async fn hold(connection: &mut AnyConnection, marks: &[Mark]) -> Result<()> {
    // sorted, as everywhere: two gateways lock lanes in the same order
    let mut lanes: Vec<LaneKey> = marks.iter().map(|mark| (Arc::clone(&mark.due.endpoint), mark.due.call)).collect();
    lanes.sort();
    let sql = |rows: &str| {
        format!("SELECT 1 FROM lanes WHERE (endpoint, call) IN (VALUES {rows}) ORDER BY endpoint, call FOR UPDATE")
    };
    let bind = |query: Statement, (endpoint, call): &LaneKey| query.bind(endpoint.to_string()).bind(bytes(*call));
    run(connection, in_chunks(&lanes, (2, 1), sql, bind, |query| query)).await.map(drop)
}

/// Gives lanes back, each with its next pending event at its head.
async fn advance(connection: &mut AnyConnection, marks: &[Mark], owner: Uuid, now: i64) -> Result<()> {
    let sql = |rows: &str| {
        format!(
            "WITH v (endpoint, call, seq, settled, due) AS (VALUES {rows}), \
             n AS (SELECT v.endpoint AS endpoint, v.call AS call, v.settled AS settled, v.due AS due, \
             (SELECT d.seq FROM deliveries d WHERE d.endpoint = v.endpoint AND d.call = v.call AND d.seq >= l.head_seq \
             AND d.state = 'pending' ORDER BY d.seq LIMIT 1) AS head \
             FROM v JOIN lanes l ON l.endpoint = v.endpoint AND l.call = v.call AND l.leased_seq = v.seq AND l.owner = $1) \
             UPDATE lanes SET owner = NULL, leased_seq = NULL, pending = lanes.pending - n.settled, used_at = $2, \
             head_seq = COALESCE(n.head, lanes.next_seq), \
             head_at = COALESCE((SELECT d.at FROM deliveries d WHERE d.endpoint = n.endpoint AND d.call = n.call AND d.seq = n.head), 0), \
             due_at = CASE WHEN n.head IS NULL THEN NULL ELSE n.due END \
             FROM n WHERE lanes.endpoint = n.endpoint AND lanes.call = n.call"
        )
    };
    let bind = |query: Statement, mark: &Mark| {
        let settled = !matches!(mark.outcome, Outcome::RetryAfter(_));
        let wait = match mark.outcome {
            Outcome::RetryAfter(wait) => i64::try_from(wait.as_millis()).unwrap_or(i64::MAX),
            Outcome::Delivered | Outcome::GivenUp => 0,
        };
        query
            .bind(mark.due.endpoint.to_string())
            .bind(bytes(mark.due.call))
            .bind(i64::try_from(mark.due.seq).unwrap_or_default())
            .bind(i64::from(settled))
            // never later than from now on: the clock may have been set back since
            .bind(if settled { now } else { mark.at.min(now.saturating_add(wait)) })
    };
    let before = |query: Statement| query.bind(bytes(owner)).bind(now);
    run(connection, in_chunks(marks, (5, 3), sql, bind, before)).await.map(drop)
}

/// Keeps one attempt for whoever asks later.
pub(super) async fn attempt(
    connection: &mut AnyConnection,
    (event, endpoint, number): (EventId, &str, u32),
    report: &Report,
    now: i64,
) -> Result<()> {
    let query = attempt_row(statement(attempt_sql(&rows(1, 8, 1)), true), (event, endpoint, number), report, now);
    query.execute(connection).await.map(drop)
}

fn attempt_sql(rows: &str) -> String {
    format!(
        "INSERT INTO attempts (event, endpoint, attempt, at, status, latency_ms, error, answer) VALUES {rows} \
         ON CONFLICT (event, endpoint, attempt) DO NOTHING"
    )
}

fn attempt_row(
    query: Statement,
    (event, endpoint, number): (EventId, &str, u32),
    report: &Report,
    now: i64,
) -> Statement {
    query
        .bind(bytes(event))
        .bind(endpoint.to_owned())
        .bind(i64::from(number))
        .bind(now)
        .bind(report.status.map(i64::from))
        .bind(i64::try_from(report.latency.as_millis()).unwrap_or(i64::MAX))
        .bind(report.error.clone())
        .bind((!report.answer.is_empty()).then(|| report.answer.to_vec()))
}

async fn log(connection: &mut AnyConnection, tried: &[(&Mark, &Report)], now: i64) -> Result<()> {
    let bind = |query: Statement, (mark, report): &(&Mark, &Report)| {
        attempt_row(query, (mark.due.id, &mark.due.endpoint, mark.due.attempt), report, now)
    };
    run(connection, in_chunks(tried, (8, 1), attempt_sql, bind, |query| query)).await.map(drop)
}

/// Leases what is due for an endpoint, until `until`, which no other claim of this owner uses.
pub(super) async fn claim(
    connection: &mut AnyConnection,
    db: &Db,
    demand: &Demand,
    owner: Uuid,
    (now, until): (i64, i64),
) -> Result<Vec<Due>> {
    let sql = format!(
        "WITH due AS MATERIALIZED (SELECT endpoint, call FROM lanes WHERE endpoint = $1 AND due_at <= $2 \
         ORDER BY due_at LIMIT $3 {}) \
         UPDATE lanes SET owner = $4, leased_seq = lanes.head_seq, due_at = $5 FROM due \
         WHERE lanes.endpoint = due.endpoint AND lanes.call = due.call",
        db.skip_locked()
    );
    let leased = statement(sql, true)
        .bind(demand.endpoint.to_string())
        .bind(now)
        .bind(i64::try_from(demand.limit).unwrap_or(i64::MAX))
        .bind(bytes(owner))
        .bind(until)
        .execute(&mut *connection)
        .await?
        .rows_affected();
    if leased == 0 {
        return Ok(Vec::new());
    }
    let sql = "SELECT d.event AS event, d.call AS call, d.seq AS seq, d.attempt AS attempt, d.tries_before AS tries_before, d.url AS url, e.uuid AS uuid, \
               e.kind AS kind, COALESCE(d.body, e.body) AS body \
               FROM lanes l JOIN deliveries d ON d.endpoint = l.endpoint AND d.call = l.call AND d.seq = l.leased_seq \
               JOIN events e ON e.id = d.event WHERE l.endpoint = $1 AND l.due_at = $2 AND l.owner = $3";
    let query = sqlx::query(sql).bind(demand.endpoint.to_string()).bind(until).bind(bytes(owner));
    query.fetch_all(connection).await?.iter().map(|row| due(row, &demand.endpoint)).collect()
}

/// Whether one of these has something due: only to read is cheaper than to claim in vain.
pub(super) async fn any_due(connection: &mut AnyConnection, demands: &[Demand], now: i64) -> Result<bool> {
    for demand in demands {
        if next_due(connection, &demand.endpoint).await?.is_some_and(|due| due <= now) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// When the first event of this endpoint is due, or the first lease ends.
pub(super) async fn next_due(connection: &mut AnyConnection, endpoint: &Arc<str>) -> Result<Option<i64>> {
    let sql = "SELECT due_at FROM lanes WHERE endpoint = $1 AND due_at IS NOT NULL ORDER BY due_at LIMIT 1";
    let row = sqlx::query(sql).bind(endpoint.to_string()).fetch_optional(connection).await?;
    row.map(|row| row.try_get("due_at")).transpose()
}

/// Gives back what a claim took whose commit was in doubt.
pub(super) async fn unclaim(connection: &mut AnyConnection, owner: Uuid, until: i64, now: i64) -> Result<()> {
    let sql = "UPDATE lanes SET owner = NULL, leased_seq = NULL, due_at = $1 WHERE owner = $2 AND due_at = $3";
    sqlx::query(sql).bind(now).bind(bytes(owner)).bind(until).execute(connection).await.map(drop)
}

fn due(row: &AnyRow, endpoint: &Arc<str>) -> Result<Due> {
    let body: Vec<u8> = row.try_get("body")?;
    let kind: String = row.try_get("kind")?;
    let url: Option<String> = row.try_get("url")?;
    let (seq, attempt): (i64, i64) = (row.try_get("seq")?, row.try_get("attempt")?);
    let before: i64 = row.try_get("tries_before")?;
    Ok(Due {
        id: EventId::from(uuid(row, "event")?),
        endpoint: Arc::clone(endpoint),
        call: CallId::from(uuid(row, "call")?),
        seq: u64::try_from(seq).unwrap_or_default(),
        uuid: uuid(row, "uuid")?,
        kind: Cow::Owned(kind),
        url: url.map(Arc::from),
        body: body.into(),
        attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
        tries_before: u32::try_from(before).unwrap_or_default(),
    })
}
