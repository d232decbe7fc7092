-- The durable store. One text for SQLite and PostgreSQL: only the name of the type for bytes differs, and is put in at run time.
-- Times are milliseconds since 1970 of the store's own clock (store/db.rs); identities are the 16 bytes of a UUID.

CREATE TABLE owners (
    id BYTES PRIMARY KEY,
    lock_key BIGINT NOT NULL,
    name TEXT NOT NULL,
    started_at BIGINT NOT NULL
);

CREATE TABLE events (
    id BYTES PRIMARY KEY,
    call BYTES NOT NULL,
    uuid BYTES NOT NULL,
    kind TEXT NOT NULL,
    at BIGINT NOT NULL,
    body BYTES NOT NULL
);

-- state: pending, done, dead. body and url only where they are this endpoint's own (templates).
CREATE TABLE deliveries (
    endpoint TEXT NOT NULL,
    call BYTES NOT NULL,
    seq BIGINT NOT NULL,
    event BYTES NOT NULL,
    at BIGINT NOT NULL,
    state TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    tried_at BIGINT,
    status BIGINT,
    latency_ms BIGINT,
    error TEXT,
    url TEXT,
    body BYTES,
    PRIMARY KEY (endpoint, call, seq)
);
CREATE UNIQUE INDEX deliveries_event ON deliveries (event, endpoint);
CREATE INDEX deliveries_dead ON deliveries (endpoint, event) WHERE state = 'dead';

-- One row per endpoint and call, so that a claim looks at calls and never at the events behind their first.
-- due_at: NULL = nothing is pending; while leased, when the lease ends. head_seq: no pending delivery is before it.
CREATE TABLE lanes (
    endpoint TEXT NOT NULL,
    call BYTES NOT NULL,
    next_seq BIGINT NOT NULL,
    head_seq BIGINT NOT NULL,
    head_at BIGINT NOT NULL,
    pending BIGINT NOT NULL,
    due_at BIGINT,
    owner BYTES,
    leased_seq BIGINT,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (endpoint, call)
);
CREATE INDEX lanes_due ON lanes (endpoint, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX lanes_owner ON lanes (owner) WHERE owner IS NOT NULL;

CREATE TABLE attempts (
    event BYTES NOT NULL,
    endpoint TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    status BIGINT,
    latency_ms BIGINT NOT NULL,
    error TEXT,
    answer BYTES,
    PRIMARY KEY (event, endpoint, attempt)
);

CREATE TABLE live_calls (
    call BYTES PRIMARY KEY,
    uuid BYTES NOT NULL,
    owner BYTES NOT NULL,
    started_at BIGINT NOT NULL
);
CREATE INDEX live_calls_owner ON live_calls (owner);

CREATE TABLE announcements (
    uuid BYTES PRIMARY KEY,
    body TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX announcements_expiry ON announcements (expires_at);

-- expires_at: NULL = the present secret; else until when the former one is still used beside it.
CREATE TABLE secrets (
    endpoint TEXT NOT NULL,
    secret TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    PRIMARY KEY (endpoint, secret)
);
CREATE UNIQUE INDEX secrets_present ON secrets (endpoint) WHERE expires_at IS NULL;

CREATE TABLE endpoints (
    name TEXT PRIMARY KEY,
    disabled_at BIGINT,
    reason TEXT
);

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
