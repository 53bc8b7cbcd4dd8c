-- Version 4: what a person looks through. All of it can be made again from what is there already.

-- A turn in words and numbers (sidestream.traces.measures). Rows come and go, and never change.
CREATE TABLE measures (
    sequence INTEGER PRIMARY KEY REFERENCES turns ON DELETE CASCADE,
    trace TEXT NOT NULL,
    dataset TEXT NOT NULL,
    started_at REAL NOT NULL,
    ended_at REAL NOT NULL,
    state TEXT NOT NULL,
    status INTEGER,
    model TEXT,
    stop_reason TEXT,
    first_byte REAL, -- seconds
    rate REAL, -- tokens per second
    input INTEGER NOT NULL DEFAULT 0, -- tokens
    output INTEGER NOT NULL DEFAULT 0,
    cache_read INTEGER NOT NULL DEFAULT 0,
    cache_written INTEGER NOT NULL DEFAULT 0,
    cost INTEGER, -- billionths of a US dollar
    tool_calls INTEGER NOT NULL DEFAULT 0,
    tool_errors INTEGER NOT NULL DEFAULT 0,
    tools TEXT NOT NULL DEFAULT '[]', -- names of those that the answer calls, in order
    calls BLOB NOT NULL DEFAULT x'' -- 8 bytes for the id of each
);
CREATE INDEX measures_of_trace ON measures (trace, started_at);
CREATE INDEX measures_of_trace_by_end ON measures (trace, ended_at);
CREATE INDEX measures_of_dataset ON measures (dataset, started_at);
CREATE INDEX measures_by_time ON measures (started_at);

-- What tools have answered. Seconds are those from the answer that called to the request that brought the result.
CREATE TABLE tool_results (
    sequence INTEGER NOT NULL REFERENCES turns ON DELETE CASCADE, -- the turn that brought it
    place INTEGER NOT NULL,
    name TEXT NOT NULL,
    failed INTEGER NOT NULL,
    seconds REAL,
    PRIMARY KEY (sequence, place)
) WITHOUT ROWID;

-- Traces in lines, kept by the triggers below; title, kind and `above` are written with the turn that a trace begins
-- with, and outlive it.
CREATE TABLE runs (
    trace TEXT PRIMARY KEY,
    dataset TEXT NOT NULL,
    title TEXT NOT NULL DEFAULT '',
    kind TEXT NOT NULL DEFAULT 'run',
    above INTEGER, -- the turn that it left, or was called from; may have been removed
    parent TEXT, -- the trace of that turn, as long as it is there
    latest INTEGER NOT NULL, -- the turn that began last
    latest_at REAL NOT NULL,
    state TEXT NOT NULL, -- of that turn
    model TEXT, -- likewise
    started_at REAL NOT NULL,
    ended_at REAL NOT NULL,
    turns INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    tool_errors INTEGER NOT NULL,
    input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_written INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    priced INTEGER NOT NULL -- turns whose cost is known
) WITHOUT ROWID;
-- All that runs are listed by, so that a filter which matches nothing reads only this.
CREATE INDEX runs_listed ON runs (started_at, trace, dataset, parent, state, model, errors, tool_errors);
CREATE INDEX runs_above ON runs (above) WHERE above IS NOT NULL;
CREATE INDEX runs_below ON runs (parent, started_at) WHERE parent IS NOT NULL;

-- Which tools are called in which traces, and how often.
CREATE TABLE run_tools (
    name TEXT NOT NULL,
    trace TEXT NOT NULL,
    calls INTEGER NOT NULL,
    PRIMARY KEY (name, trace)
) WITHOUT ROWID;

-- How many there are: counting 100,000 rows would take too long.
CREATE TABLE dataset_counts (
    dataset TEXT PRIMARY KEY,
    runs INTEGER NOT NULL,
    turns INTEGER NOT NULL
) WITHOUT ROWID;

-- How often turns came or went that began in each half hour (of Unix time): what was made of them holds until it does.
CREATE TABLE changes (
    half_hour INTEGER PRIMARY KEY,
    number INTEGER NOT NULL
);

CREATE TRIGGER run_added AFTER INSERT ON runs BEGIN
    INSERT INTO dataset_counts VALUES (NEW.dataset, 1, 0) ON CONFLICT DO UPDATE SET runs = runs + 1;
END;
CREATE TRIGGER run_removed AFTER DELETE ON runs BEGIN
    UPDATE dataset_counts SET runs = runs - 1 WHERE dataset = OLD.dataset;
    DELETE FROM dataset_counts WHERE dataset = OLD.dataset AND runs = 0;
END;

CREATE TRIGGER measure_added AFTER INSERT ON measures BEGIN
    INSERT INTO runs (
        trace, dataset, latest, latest_at, state, model, started_at, ended_at, turns, errors, tool_calls, tool_errors,
        input, output, cache_read, cache_written, cost, priced
    ) VALUES (
        NEW.trace, NEW.dataset, NEW.sequence, NEW.started_at, NEW.state, NEW.model, NEW.started_at, NEW.ended_at,
        1, NEW.state <> 'answered', NEW.tool_calls, NEW.tool_errors,
        NEW.input, NEW.output, NEW.cache_read, NEW.cache_written, coalesce(NEW.cost, 0), NEW.cost IS NOT NULL
    ) ON CONFLICT DO UPDATE SET
        state = iif((NEW.started_at, NEW.sequence) > (latest_at, latest), NEW.state, state),
        model = iif((NEW.started_at, NEW.sequence) > (latest_at, latest), NEW.model, model),
        latest = iif((NEW.started_at, NEW.sequence) > (latest_at, latest), NEW.sequence, latest),
        latest_at = max(latest_at, NEW.started_at),
        started_at = min(started_at, NEW.started_at),
        ended_at = max(ended_at, NEW.ended_at),
        turns = turns + 1,
        errors = errors + excluded.errors,
        tool_calls = tool_calls + NEW.tool_calls,
        tool_errors = tool_errors + NEW.tool_errors,
        input = input + NEW.input,
        output = output + NEW.output,
        cache_read = cache_read + NEW.cache_read,
        cache_written = cache_written + NEW.cache_written,
        cost = cost + excluded.cost,
        priced = priced + excluded.priced;
    UPDATE runs SET parent = NEW.trace WHERE above = NEW.sequence;
    UPDATE dataset_counts SET turns = turns + 1 WHERE dataset = NEW.dataset;
    INSERT INTO changes VALUES (CAST(NEW.started_at / 1800 AS INTEGER), 1)
        ON CONFLICT DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER measure_removed AFTER DELETE ON measures BEGIN
    UPDATE runs SET
        turns = turns - 1,
        errors = errors - (OLD.state <> 'answered'),
        tool_calls = tool_calls - OLD.tool_calls,
        tool_errors = tool_errors - OLD.tool_errors,
        input = input - OLD.input,
        output = output - OLD.output,
        cache_read = cache_read - OLD.cache_read,
        cache_written = cache_written - OLD.cache_written,
        cost = cost - coalesce(OLD.cost, 0),
        priced = priced - (OLD.cost IS NOT NULL)
        WHERE trace = OLD.trace;
    DELETE FROM runs WHERE trace = OLD.trace AND turns = 0;
    UPDATE runs SET (latest, latest_at, state, model) = (
        SELECT sequence, started_at, state, model FROM measures WHERE trace = OLD.trace
        ORDER BY started_at DESC, sequence DESC LIMIT 1
    ) WHERE trace = OLD.trace AND latest = OLD.sequence;
    UPDATE runs SET started_at = (SELECT min(started_at) FROM measures WHERE trace = OLD.trace)
        WHERE trace = OLD.trace AND started_at = OLD.started_at;
    UPDATE runs SET ended_at = (SELECT max(ended_at) FROM measures WHERE trace = OLD.trace)
        WHERE trace = OLD.trace AND ended_at = OLD.ended_at;
    UPDATE runs SET parent = NULL WHERE above = OLD.sequence;
    UPDATE dataset_counts SET turns = turns - 1 WHERE dataset = OLD.dataset;
    INSERT INTO changes VALUES (CAST(OLD.started_at / 1800 AS INTEGER), 1)
        ON CONFLICT DO UPDATE SET number = number + 1;
END;

CREATE TRIGGER tools_added AFTER INSERT ON measures WHEN NEW.tool_calls > 0 BEGIN
    INSERT INTO run_tools SELECT value, NEW.trace, count(*) FROM json_each(NEW.tools) WHERE true GROUP BY value
        ON CONFLICT DO UPDATE SET calls = calls + excluded.calls;
END;
CREATE TRIGGER tools_removed AFTER DELETE ON measures WHEN OLD.tool_calls > 0 BEGIN
    UPDATE run_tools SET calls = calls - (SELECT count(*) FROM json_each(OLD.tools) WHERE value = name)
        WHERE trace = OLD.trace AND name IN (SELECT value FROM json_each(OLD.tools));
    DELETE FROM run_tools
        WHERE trace = OLD.trace AND calls = 0 AND name IN (SELECT value FROM json_each(OLD.tools));
END;

-- What can be told of earlier versions' turns without reading them again. The rest is told when that is done.
INSERT INTO measures (sequence, trace, dataset, started_at, ended_at, state, status, model)
    SELECT sequence, trace, dataset, turns.started_at, ended_at,
        CASE WHEN outcome = 'client_disconnected' AND NOT (answered AND complete) AND coalesce(status, 0) < 400
            THEN 'abandoned'
            WHEN NOT answered THEN 'failed' WHEN complete THEN 'answered' ELSE 'cut' END,
        status, model
    FROM turns JOIN exchanges USING (sequence);
UPDATE runs SET (title, kind, above) = (
    SELECT turns.title,
        CASE WHEN rule = 'extends_earlier' THEN 'branch' WHEN rule LIKE 'child_%' THEN 'child' ELSE 'run' END,
        CASE WHEN rule = 'extends_earlier' OR rule LIKE 'child_%' THEN turns.parent END
    FROM exchanges JOIN turns USING (sequence) WHERE id = runs.trace
) WHERE EXISTS (SELECT 1 FROM exchanges JOIN turns USING (sequence) WHERE id = runs.trace);
UPDATE runs SET parent = (SELECT trace FROM measures WHERE sequence = above) WHERE above IS NOT NULL;
UPDATE exchanges SET unread = 1
    WHERE error IS NULL AND EXISTS (SELECT 1 FROM captures WHERE captures.sequence = exchanges.sequence);
