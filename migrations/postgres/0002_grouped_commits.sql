-- As sunbear_commit_v1, but author, reason and time belong to each entry: control planes write the
-- batches of several callers in one transaction. The first version stays for replicas of the
-- release before.
CREATE FUNCTION sunbear_commit_v2(
    p_op smallint[], p_uid uuid[], p_type text[], p_mesh text[], p_name text[],
    p_version bigint[], p_base bigint[], p_net boolean[], p_history boolean[],
    p_labels text[], p_spec bytea[], p_status bytea[], p_owner uuid[], p_created timestamptz[],
    p_at timestamptz[], p_author text[], p_reason text[], p_guard uuid[],
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
            e.status, e.owner, e.created, e.at
        FROM unnest(p_op, p_net, p_base, p_uid, p_type, p_mesh, p_name, p_version, p_labels, p_spec,
            p_status, p_owner, p_created, p_at) WITH ORDINALITY
            AS e (op, net, base, uid, type, mesh, name, version, labels, spec, status, owner,
                created, at, i)
        WHERE e.net AND e.op <> 3 AND e.base = 0;
    END IF;

    IF v_wanted > 0 THEN
        UPDATE resources r
        SET version = e.version, revision = v_base + e.i, labels = e.labels::jsonb, spec = e.spec,
            status = e.status, owner_uid = e.owner, modified_at = e.at
        FROM unnest(p_op, p_net, p_base, p_uid, p_version, p_labels, p_spec, p_status, p_owner,
            p_at) WITH ORDINALITY
            AS e (op, net, base, uid, version, labels, spec, status, owner, at, i)
        WHERE e.net AND e.op <> 3 AND e.base > 0 AND r.uid = e.uid;
    END IF;

    INSERT INTO changes (revision, op, uid, type, mesh, name, version, labels, spec, at, author,
        reason)
    SELECT v_base + e.i, e.op, e.uid, e.type, e.mesh, e.name, e.version, e.labels::jsonb,
        CASE WHEN e.history THEN e.spec END, e.at, e.author, e.reason
    FROM unnest(p_op, p_uid, p_type, p_mesh, p_name, p_version, p_labels, p_spec, p_history, p_at,
        p_author, p_reason) WITH ORDINALITY
        AS e (op, uid, type, mesh, name, version, labels, spec, history, at, author, reason, i);

    PERFORM pg_notify('sunbear_changes', (v_base + cardinality(p_op))::text);
    RETURN v_base;
END
$$;
