-- Version 3: turns of conversations, in place of traces that each repeat those before.

DROP TABLE traces; -- what was understood is read again from the captures
ALTER TABLE exchanges ADD COLUMN unread INTEGER NOT NULL DEFAULT 0; -- 1 until that has been done
UPDATE exchanges SET unread = 1 WHERE error IS NULL;
CREATE INDEX unread ON exchanges (sequence) WHERE unread = 1;

-- Whose request is the dictionary that this one's is compressed with.
ALTER TABLE captures ADD COLUMN base INTEGER;
CREATE INDEX bases ON captures (base) WHERE base IS NOT NULL;

-- Exchanges that are not delivered yet, or wait for somebody.
CREATE INDEX unfinished ON exchanges (sequence, stored) WHERE waiting > 0 OR parked > 0;

-- The time given to the last message that was sent, in microseconds since 1970, where the destination's traces grow.
ALTER TABLE deliveries ADD COLUMN told_until INTEGER;
CREATE INDEX remotes ON deliveries (sink, remote, told_until) WHERE remote IS NOT NULL;

-- Everything that is said, once: messages, system prompts, tool definitions, and what is large in them.
CREATE TABLE contents (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    content BLOB NOT NULL
);
-- Which contents are made of which others.
CREATE TABLE parts (
    content INTEGER NOT NULL REFERENCES contents ON DELETE CASCADE,
    part INTEGER NOT NULL REFERENCES contents,
    PRIMARY KEY (content, part)
) WITHOUT ROWID;
CREATE INDEX parts_of ON parts (part);

-- What they take: counting them would take too long.
CREATE TABLE content_bytes (total INTEGER NOT NULL);
INSERT INTO content_bytes VALUES (0);
CREATE TRIGGER content_added AFTER INSERT ON contents BEGIN
    UPDATE content_bytes SET total = total + length(NEW.content);
END;
CREATE TRIGGER content_removed AFTER DELETE ON contents BEGIN
    UPDATE content_bytes SET total = total - length(OLD.content);
END;

-- What each exchange added to its conversation, and what it is found by (sidestream.traces.conversation).
CREATE TABLE turns (
    sequence INTEGER PRIMARY KEY REFERENCES exchanges ON DELETE CASCADE,
    scope BLOB NOT NULL,
    trace TEXT NOT NULL, -- the id of the exchange that it began with
    rule TEXT NOT NULL,
    parent INTEGER, -- the turn that it follows, left, or was called from; may have been removed
    retry_of INTEGER, -- the first attempt at the same
    known INTEGER NOT NULL, -- how many of the request's messages the turns before have
    started_at REAL NOT NULL,
    ended_at REAL NOT NULL,
    asking BLOB, -- the state of the conversation with the request, and, below, with the answer
    leaving BLOB,
    outline BLOB, -- the latter without the results of tools
    answered INTEGER NOT NULL,
    complete INTEGER NOT NULL,
    manner BLOB NOT NULL,
    session TEXT,
    agent TEXT,
    cut TEXT, -- the text of an answer that is not whole
    retries INTEGER NOT NULL, -- how often the client says to have sent it before
    digests BLOB NOT NULL, -- 16 bytes for each message since `known`, and for the answer
    title TEXT NOT NULL,
    system INTEGER REFERENCES contents,
    tools INTEGER REFERENCES contents,
    facts BLOB NOT NULL
);
CREATE INDEX turns_leaving ON turns (scope, leaving, started_at);
CREATE INDEX turns_outline ON turns (scope, outline, started_at) WHERE outline IS NOT NULL;
CREATE INDEX turns_asking ON turns (scope, asking, started_at);
CREATE INDEX turns_incomplete ON turns (scope, asking, started_at) WHERE NOT complete;
CREATE INDEX turns_cut ON turns (scope, asking) WHERE cut IS NOT NULL;
CREATE INDEX turns_after ON turns (parent, started_at) WHERE parent IS NOT NULL;
CREATE INDEX turns_taken ON turns (parent, started_at)
    WHERE answered AND rule NOT IN ('child_of_call', 'child_of_session', 'history_summarized');
CREATE INDEX turns_again ON turns (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX turns_of_trace ON turns (trace, started_at);
CREATE INDEX turns_of_session ON turns (scope, session, agent, started_at) WHERE session IS NOT NULL;
CREATE INDEX turns_system ON turns (system);
CREATE INDEX turns_tools ON turns (tools);

-- The states that a request passed through since the turn it follows: a call that comes late may have left one.
CREATE TABLE passed (
    scope BLOB NOT NULL,
    state BLOB NOT NULL,
    started_at REAL NOT NULL,
    sequence INTEGER NOT NULL REFERENCES turns ON DELETE CASCADE,
    PRIMARY KEY (scope, state, started_at, sequence)
) WITHOUT ROWID;
CREATE INDEX passed_by ON passed (sequence);

-- What else turns find one another by: how conversations begin, what tool calls pass on, whom sessions work for, and so on.
CREATE TABLE clues (
    scope BLOB NOT NULL,
    kind TEXT NOT NULL, -- opening, argument, parent, answer, previous, compaction, compacted
    digest BLOB NOT NULL,
    started_at REAL NOT NULL,
    sequence INTEGER NOT NULL REFERENCES turns ON DELETE CASCADE,
    PRIMARY KEY (scope, kind, digest, started_at, sequence)
) WITHOUT ROWID;
CREATE INDEX clues_of ON clues (sequence);

-- The trace messages that a turn added.
CREATE TABLE said (
    sequence INTEGER NOT NULL REFERENCES turns ON DELETE CASCADE,
    place INTEGER NOT NULL,
    message INTEGER NOT NULL, -- which of the request's messages it shows; -1 for the answer
    content INTEGER NOT NULL REFERENCES contents,
    PRIMARY KEY (sequence, place)
) WITHOUT ROWID;
CREATE INDEX said_contents ON said (content);

CREATE TRIGGER said_removed AFTER DELETE ON said BEGIN
    DELETE FROM contents WHERE id = OLD.content
        AND NOT EXISTS (SELECT 1 FROM said WHERE content = OLD.content)
        AND NOT EXISTS (SELECT 1 FROM parts WHERE part = OLD.content)
        AND NOT EXISTS (SELECT 1 FROM turns WHERE system = OLD.content)
        AND NOT EXISTS (SELECT 1 FROM turns WHERE tools = OLD.content);
END;
CREATE TRIGGER part_removed AFTER DELETE ON parts BEGIN
    DELETE FROM contents WHERE id = OLD.part
        AND NOT EXISTS (SELECT 1 FROM said WHERE content = OLD.part)
        AND NOT EXISTS (SELECT 1 FROM parts WHERE part = OLD.part)
        AND NOT EXISTS (SELECT 1 FROM turns WHERE system = OLD.part)
        AND NOT EXISTS (SELECT 1 FROM turns WHERE tools = OLD.part);
END;
CREATE TRIGGER turn_removed AFTER DELETE ON turns BEGIN
    DELETE FROM contents WHERE id IN (OLD.system, OLD.tools)
        AND NOT EXISTS (SELECT 1 FROM said WHERE content = contents.id)
        AND NOT EXISTS (SELECT 1 FROM parts WHERE part = contents.id)
        AND NOT EXISTS (SELECT 1 FROM turns WHERE system = contents.id)
        AND NOT EXISTS (SELECT 1 FROM turns WHERE tools = contents.id);
END;
CREATE TRIGGER turn_lightened AFTER UPDATE OF system, tools ON turns BEGIN
    DELETE FROM contents WHERE id IN (OLD.system, OLD.tools)
        AND NOT EXISTS (SELECT 1 FROM said WHERE content = contents.id)
        AND NOT EXISTS (SELECT 1 FROM parts WHERE part = contents.id)
        AND NOT EXISTS (SELECT 1 FROM turns WHERE system = contents.id)
        AND NOT EXISTS (SELECT 1 FROM turns WHERE tools = contents.id);
END;
