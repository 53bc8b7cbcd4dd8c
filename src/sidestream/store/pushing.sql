-- Version 6: what those who push traces say of a dataset as a whole, as JSON.

CREATE TABLE dataset_metadata (
    dataset TEXT PRIMARY KEY,
    metadata TEXT NOT NULL
) WITHOUT ROWID;
