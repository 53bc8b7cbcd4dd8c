-- Version 1. Text here has been made encodable; what came over the wire is kept exactly in `captures`.

CREATE TABLE exchanges (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- order of arrival; never given twice, also not after removals
    id TEXT NOT NULL UNIQUE,
    dataset TEXT NOT NULL,
    provider TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    started_at REAL NOT NULL,
    stored_at REAL NOT NULL,
    status INTEGER,
    outcome TEXT NOT NULL,
    model TEXT,
    size INTEGER NOT NULL, -- bytes of both bodies, as captured
    stored INTEGER NOT NULL, -- bytes that it takes here, about
    error TEXT, -- why it could not be understood
    waiting INTEGER NOT NULL DEFAULT 0, -- deliveries that are open; kept by the triggers below
    parked INTEGER NOT NULL DEFAULT 0 -- deliveries that are parked; likewise
);
CREATE INDEX finished ON exchanges (sequence) WHERE waiting = 0 AND parked = 0;

-- What was captured (sidestream.store.packing).
CREATE TABLE captures (
    sequence INTEGER PRIMARY KEY REFERENCES exchanges ON DELETE CASCADE,
    facts BLOB NOT NULL,
    chunks BLOB NOT NULL,
    request BLOB NOT NULL,
    response BLOB NOT NULL
);

-- What was understood of it; can be made again from the capture.
CREATE TABLE traces (
    sequence INTEGER PRIMARY KEY REFERENCES exchanges ON DELETE CASCADE,
    content BLOB NOT NULL
);

CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sequence INTEGER NOT NULL REFERENCES exchanges ON DELETE CASCADE,
    sink TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    dataset TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    server_errors INTEGER NOT NULL DEFAULT 0,
    ambiguous INTEGER NOT NULL DEFAULT 0,
    tried_at REAL,
    due_at REAL NOT NULL DEFAULT 0,
    reason TEXT,
    remote TEXT,
    UNIQUE (sequence, sink)
);
CREATE INDEX open_lanes ON deliveries (sink, fingerprint, dataset, sequence)
    WHERE state IN ('pending', 'sending', 'retry_at');
CREATE INDEX parked_lanes ON deliveries (sink, fingerprint, dataset) WHERE state = 'parked';

-- How many deliveries are in which state: counting 100,000 rows would take too long.
CREATE TABLE delivery_counts (
    sink TEXT NOT NULL,
    state TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (sink, state)
) WITHOUT ROWID;

CREATE TRIGGER delivery_added AFTER INSERT ON deliveries BEGIN
    INSERT INTO delivery_counts VALUES (NEW.sink, NEW.state, 1)
        ON CONFLICT DO UPDATE SET number = number + 1;
    UPDATE exchanges
        SET waiting = waiting + (NEW.state IN ('pending', 'sending', 'retry_at')), parked = parked + (NEW.state = 'parked')
        WHERE sequence = NEW.sequence;
END;

CREATE TRIGGER delivery_removed AFTER DELETE ON deliveries BEGIN
    UPDATE delivery_counts SET number = number - 1 WHERE sink = OLD.sink AND state = OLD.state;
END;

CREATE TRIGGER delivery_moved AFTER UPDATE OF state ON deliveries WHEN NEW.state <> OLD.state BEGIN
    UPDATE delivery_counts SET number = number - 1 WHERE sink = OLD.sink AND state = OLD.state;
    INSERT INTO delivery_counts VALUES (NEW.sink, NEW.state, 1)
        ON CONFLICT DO UPDATE SET number = number + 1;
END;

CREATE TRIGGER delivery_settled AFTER UPDATE OF state ON deliveries
    WHEN (NEW.state IN ('pending', 'sending', 'retry_at')) <> (OLD.state IN ('pending', 'sending', 'retry_at'))
    OR (NEW.state = 'parked') <> (OLD.state = 'parked') BEGIN
    UPDATE exchanges SET
        waiting = waiting + (NEW.state IN ('pending', 'sending', 'retry_at'))
            - (OLD.state IN ('pending', 'sending', 'retry_at')),
        parked = parked + (NEW.state = 'parked') - (OLD.state = 'parked')
        WHERE sequence = NEW.sequence;
END;

-- How far the journal of each relay has been read.
CREATE TABLE positions (
    relay TEXT PRIMARY KEY,
    segment INTEGER NOT NULL,
    place INTEGER NOT NULL
) WITHOUT ROWID;

-- Exchanges under way that outlive the segments they began in.
CREATE TABLE carried (
    relay TEXT NOT NULL,
    number INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    place INTEGER NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (relay, number)
);
