-- The log of changes and the state it leads to. The Postgres file of the same number holds the same
-- logical schema. Times are microseconds since 1970, ids are 16 bytes.

CREATE TABLE resources (
    uid         BLOB NOT NULL PRIMARY KEY,
    type        TEXT NOT NULL,
    mesh        TEXT NOT NULL,
    name        TEXT NOT NULL,
    version     INTEGER NOT NULL,
    revision    INTEGER NOT NULL,
    labels      TEXT NOT NULL,
    spec        BLOB NOT NULL,
    status      BLOB,
    owner_uid   BLOB REFERENCES resources (uid) DEFERRABLE INITIALLY DEFERRED,
    created_at  INTEGER NOT NULL,
    modified_at INTEGER NOT NULL,
    UNIQUE (type, mesh, name)
) STRICT;

CREATE INDEX resources_owner ON resources (owner_uid) WHERE owner_uid IS NOT NULL;

CREATE TABLE changes (
    revision INTEGER PRIMARY KEY,
    op       INTEGER NOT NULL CHECK (op IN (1, 2, 3)),
    uid      BLOB NOT NULL,
    type     TEXT NOT NULL,
    mesh     TEXT NOT NULL,
    name     TEXT NOT NULL,
    version  INTEGER NOT NULL,
    labels   TEXT NOT NULL,
    spec     BLOB,
    at       INTEGER NOT NULL,
    author   TEXT NOT NULL,
    reason   TEXT NOT NULL
) STRICT;

CREATE INDEX changes_object ON changes (type, mesh, name, revision);

CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    n    INTEGER NOT NULL
) STRICT;

INSERT INTO counters (name, n) VALUES ('revision', 0), ('compacted', 0);

CREATE TABLE leases (
    name       TEXT NOT NULL PRIMARY KEY,
    holder     TEXT NOT NULL,
    fencing    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
