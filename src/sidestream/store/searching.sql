-- Version 5: messages are found by their words. All of it can be made again from `contents`.

CREATE INDEX exchanges_of_dataset ON exchanges (dataset, sequence);

-- The index. It holds no text; a row has the number of the content that it is of. The beginnings of words that most
-- words share, of two and three letters, are indexed as words are: half a second would go by otherwise, to put together
-- where 100,000 turns have all of those.
CREATE VIRTUAL TABLE words USING fts5(
    text, content = '', columnsize = 0, tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3'
);
-- No write merges anything by itself, however much there is to merge: the recorder does it, bit by bit.
INSERT INTO words (words, rank) VALUES ('automerge', 0);
INSERT INTO words (words, rank) VALUES ('crisismerge', 1900);
INSERT INTO words (words, rank) VALUES ('usermerge', 4);

CREATE TABLE indexing (
    last INTEGER NOT NULL, -- contents up to this number have been looked at
    rules INTEGER NOT NULL, -- which version of sidestream.traces.searchable said what their words are
    stale INTEGER NOT NULL, -- texts taken out since the index was merged into one
    damaged INTEGER NOT NULL, -- 1 while it is being emptied, to be made anew
    purging INTEGER NOT NULL -- steps of deletions of which there may still be something in the file
);
INSERT INTO indexing VALUES (0, 0, 0, 0, 0);
-- Contents that have been looked at, and have no words.
CREATE TABLE wordless (content INTEGER PRIMARY KEY);
-- What has gone and is to be taken out of the index, for which it takes the very text that was put in.
CREATE TABLE unindexed (
    id INTEGER PRIMARY KEY,
    content INTEGER NOT NULL,
    text BLOB NOT NULL -- as in `contents`
);
CREATE INDEX unindexed_contents ON unindexed (content);

CREATE TRIGGER content_unindexed AFTER DELETE ON contents BEGIN
    INSERT INTO unindexed (content, text) SELECT OLD.id, OLD.content
        WHERE OLD.id <= (SELECT last FROM indexing) AND NOT EXISTS (SELECT 1 FROM wordless WHERE content = OLD.id);
    DELETE FROM wordless WHERE content = OLD.id;
END;
-- The number of the last content is given again after it has gone.
CREATE TRIGGER content_again AFTER INSERT ON contents WHEN NEW.id <= (SELECT last FROM indexing) BEGIN
    UPDATE indexing SET last = NEW.id - 1;
END;
