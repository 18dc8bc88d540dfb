-- The log of changes and the state it leads to. The SQLite file of the same number holds the same
-- logical schema.

CREATE TABLE resources (
    uid         uuid PRIMARY KEY,
    type        text COLLATE "C" NOT NULL,
    mesh        text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    version     bigint NOT NULL,
    revision    bigint NOT NULL,
    labels      jsonb NOT NULL,
    spec        bytea NOT NULL,
    status      bytea,
    owner_uid   uuid REFERENCES resources (uid) DEFERRABLE INITIALLY DEFERRED,
    created_at  timestamptz NOT NULL,
    modified_at timestamptz NOT NULL,
    UNIQUE (type, mesh, name)
) WITH (fillfactor = 80);

CREATE INDEX resources_owner ON resources (owner_uid) WHERE owner_uid IS NOT NULL;

CREATE TABLE changes (
    revision bigint PRIMARY KEY,
    op       smallint NOT NULL CHECK (op IN (1, 2, 3)),
    uid      uuid NOT NULL,
    type     text COLLATE "C" NOT NULL,
    mesh     text COLLATE "C" NOT NULL,
    name     text COLLATE "C" NOT NULL,
    version  bigint NOT NULL,
    labels   jsonb NOT NULL,
    spec     bytea,
    at       timestamptz NOT NULL,
    author   text NOT NULL,
    reason   text NOT NULL
);

CREATE INDEX changes_object ON changes (type, mesh, name, revision);

CREATE TABLE counters (
    name text PRIMARY KEY,
    n    bigint NOT NULL
);

INSERT INTO counters (name, n) VALUES ('revision', 0), ('compacted', 0);

CREATE TABLE leases (
    name       text PRIMARY KEY,
    holder     text NOT NULL,
    fencing    bigint NOT NULL,
    expires_at timestamptz NOT NULL
);

-- The one place where revisions come from: k of them, after the returned one. The lock on the row
-- lasts until commit, therefore the order of revisions is the order of commits.
CREATE FUNCTION sunbear_take_revisions(k bigint) RETURNS bigint LANGUAGE sql AS $$
    UPDATE counters SET n = n + k WHERE name = 'revision' RETURNING n - k
$$;

-- Writes what a control plane has planned from rows that it read before, or fails with SB001 if one
-- of them has changed since. A function, so that a write is one round trip and its locks live no
-- longer than that. The arrays hold one element per entry of the log; `base` is the version that
-- was read (0: not in the table), `net` marks the entry that says how the object is in the end.
-- All locks on resources come before the one on the counter; otherwise two writers could wait for
-- each other.
CREATE FUNCTION sunbear_commit_v1(
    p_op smallint[], p_uid uuid[], p_type text[], p_mesh text[], p_name text[],
    p_version bigint[], p_base bigint[], p_net boolean[], p_history boolean[],
    p_labels text[], p_spec bytea[], p_status bytea[], p_owner uuid[], p_created timestamptz[],
    p_guard uuid[], p_at timestamptz, p_author text, p_reason text,
    p_lease text, p_fencing bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_found bigint;
    v_wanted bigint;
    v_base bigint;
BEGIN
    IF p_lease IS NOT NULL THEN
        PERFORM 1 FROM leases l
        WHERE l.name = p_lease AND l.fencing = p_fencing AND l.expires_at > clock_timestamp()
        FOR SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'lease lost' USING ERRCODE = 'SB002';
        END IF;
    END IF;

    IF cardinality(p_guard) > 0 THEN
        PERFORM 1 FROM resources r WHERE r.uid = ANY (p_guard) ORDER BY r.uid FOR KEY SHARE;
        GET DIAGNOSTICS v_found = ROW_COUNT;
        IF v_found <> cardinality(p_guard) THEN
            RAISE EXCEPTION 'owner changed' USING ERRCODE = 'SB001';
        END IF;
    END IF;

    SELECT count(*) INTO v_wanted
    FROM unnest(p_net, p_base) AS e (net, base) WHERE e.net AND e.base > 0;
    IF v_wanted > 0 THEN
        PERFORM 1
        FROM unnest(p_uid, p_net, p_base) AS e (uid, net, base)
        JOIN resources r ON r.uid = e.uid AND r.version = e.base
        WHERE e.net AND e.base > 0
        ORDER BY r.uid FOR UPDATE OF r;
        GET DIAGNOSTICS v_found = ROW_COUNT;
        IF v_found <> v_wanted THEN
            RAISE EXCEPTION 'object changed' USING ERRCODE = 'SB001';
        END IF;
    END IF;

    v_base := sunbear_take_revisions(cardinality(p_op));

    IF 3 = ANY (p_op) THEN
        DELETE FROM resources r
        USING unnest(p_op, p_uid, p_net) AS e (op, uid, net)
        WHERE e.net AND e.op = 3 AND r.uid = e.uid;
    END IF;

    IF 0 = ANY (p_base) THEN
        INSERT INTO resources (uid, type, mesh, name, version, revision, labels, spec, status,
            owner_uid, created_at, modified_at)
        SELECT e.uid, e.type, e.mesh, e.name, e.version, v_base + e.i, e.labels::jsonb, e.spec,
            e.status, e.owner, e.created, p_at
        FROM unnest(p_op, p_net, p_base, p_uid, p_type, p_mesh, p_name, p_version, p_labels, p_spec,
            p_status, p_owner, p_created) WITH ORDINALITY
            AS e (op, net, base, uid, type, mesh, name, version, labels, spec, status, owner,
                created, i)
        WHERE e.net AND e.op <> 3 AND e.base = 0;
    END IF;

    IF v_wanted > 0 THEN
        UPDATE resources r
        SET version = e.version, revision = v_base + e.i, labels = e.labels::jsonb, spec = e.spec,
            status = e.status, owner_uid = e.owner, modified_at = p_at
        FROM unnest(p_op, p_net, p_base, p_uid, p_version, p_labels, p_spec, p_status, p_owner)
            WITH ORDINALITY
            AS e (op, net, base, uid, version, labels, spec, status, owner, i)
        WHERE e.net AND e.op <> 3 AND e.base > 0 AND r.uid = e.uid;
    END IF;

    INSERT INTO changes (revision, op, uid, type, mesh, name, version, labels, spec, at, author,
        reason)
    SELECT v_base + e.i, e.op, e.uid, e.type, e.mesh, e.name, e.version, e.labels::jsonb,
        CASE WHEN e.history THEN e.spec END, p_at, p_author, p_reason
    FROM unnest(p_op, p_uid, p_type, p_mesh, p_name, p_version, p_labels, p_spec, p_history)
        WITH ORDINALITY
        AS e (op, uid, type, mesh, name, version, labels, spec, history, i);

    PERFORM pg_notify('sunbear_changes', (v_base + cardinality(p_op))::text);
    RETURN v_base;
END
$$;
