/* dtx--1.0.sql: one section a room, in the order of src/. */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION dtx" to load this file. \quit

/* ---------------------------------------------------------------- core */

CREATE SCHEMA dtx;
COMMENT ON SCHEMA dtx IS 'dtx: tables, and the functions that coordinators call; not for users';

-- Who this node is, and was. pg_dump carries it, so that a restored copy is told apart.
CREATE TABLE dtx.node (
    tag               text COLLATE "C" PRIMARY KEY,
    name              name NOT NULL,
    system_identifier bigint NOT NULL,
    database          oid NOT NULL,
    created_at        timestamptz NOT NULL,
    retired_at        timestamptz,
    memory_from       bigint NOT NULL,
    place             bigint,
    timeline          integer
);
COMMENT ON TABLE dtx.node IS 'identities of this node: the current one, and those it had before it was adopted';
COMMENT ON COLUMN dtx.node.memory_from IS 'from which transaction id on dtx.branch and dtx.history remember every decision';
COMMENT ON COLUMN dtx.node.place IS 'where the cluster''s files lie, and its timeline when that was noted';
SELECT pg_catalog.pg_extension_config_dump('dtx.node', '');

CREATE TABLE dtx.contact (
    server       oid NOT NULL,
    role         oid NOT NULL,
    node         text,
    version      text,
    first_at     timestamptz NOT NULL,
    last_at      timestamptz,
    attempts     integer NOT NULL,
    last_error   text,
    next_attempt timestamptz,
    PRIMARY KEY (server, role)
) WITH (fillfactor = 70);
COMMENT ON TABLE dtx.contact IS 'the (server, role) pairs that may hold branches of this node';

-- A visible row means commit.
CREATE TABLE dtx.branch (
    n            bigint NOT NULL,
    b            integer NOT NULL,
    server       oid NOT NULL,
    role         oid NOT NULL,
    created_at   timestamptz NOT NULL,
    next_attempt timestamptz,
    attempts     integer NOT NULL,
    mode         "char" NOT NULL,
    gid          text COLLATE "C" NOT NULL,
    participant  text NOT NULL,
    last_error   text,
    state        "char" NOT NULL,
    parent       text COLLATE "C",
    step         bigint
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX branch_n_idx ON dtx.branch (n);
COMMENT ON TABLE dtx.branch IS 'branches that were begun here and are not settled yet';
COMMENT ON COLUMN dtx.branch.n IS 'the local transaction that began it';
COMMENT ON COLUMN dtx.branch.state IS 'c: to be committed; d: in doubt, as its parent is; r: to be rolled back, as its parent was; s: dtx.global says';
COMMENT ON COLUMN dtx.branch.parent IS 'the branch of another node''s global transaction that it is a branch of';
COMMENT ON COLUMN dtx.branch.step IS 'of a shared transaction: a hash of the step that it was joined with, and by which role; who tries again has the same branch';

-- Global transactions that services share: the decision is the state, changed once.
CREATE TABLE dtx.global (
    n         bigint PRIMARY KEY,
    r         bigint NOT NULL,
    state     "char" NOT NULL,
    role      oid NOT NULL,
    opened_at timestamptz NOT NULL,
    deadline  timestamptz NOT NULL,
    ended_at  timestamptz,
    name      text,
    xid       text COLLATE "C" NOT NULL,
    joiners   oid[]
) WITH (fillfactor = 70);
COMMENT ON TABLE dtx.global IS 'global transactions that dtx_open began here and that are not settled yet';
CREATE SEQUENCE dtx.shared_b AS integer MAXVALUE 1073741823 CYCLE;
COMMENT ON SEQUENCE dtx.shared_b IS 'branch numbers of shared global transactions: no session counts them';
COMMENT ON COLUMN dtx.global.joiners IS 'who may join it besides its role';
COMMENT ON COLUMN dtx.global.state IS 'o: open; c: committed; r: rolled back';

CREATE TABLE dtx.history (
    settled_at timestamptz NOT NULL,
    decision   "char" NOT NULL,
    node       text COLLATE "C" NOT NULL,
    min_n      bigint NOT NULL,
    max_n      bigint NOT NULL,
    n          bigint[] NOT NULL,
    r          bigint[] NOT NULL,
    b          integer[] NOT NULL,
    server     oid[] NOT NULL,
    role       oid[] NOT NULL,
    mode       "char"[] NOT NULL,
    parent     text[]
);
COMMENT ON COLUMN dtx.history.parent IS 'for branches of other nodes'' branches: the superior branches';
COMMENT ON TABLE dtx.history IS 'settled branches of this node''s global transactions, a batch a row';

CREATE TABLE dtx.joined_branch (
    branch     bigint PRIMARY KEY,
    lsn        pg_lsn NOT NULL,
    changes    bigint NOT NULL,
    joined_at  timestamptz NOT NULL,
    role       oid NOT NULL,
    attempts   integer NOT NULL,
    mode       "char" NOT NULL,
    state      "char" NOT NULL,
    gid        text COLLATE "C" NOT NULL,
    first_entry tid,
    last_entry tid,
    conflict   text,
    last_error text,
    local_n    bigint,
    children   integer NOT NULL,
    superior   text COLLATE "C",
    superior_n bigint,
    step       text COLLATE "C"
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE dtx.joined_branch IS 'branches of other nodes'' global transactions, in doubt here';
COMMENT ON COLUMN dtx.joined_branch.first_entry IS 'its rows in dtx.undo_log lie between this one and last_entry';
COMMENT ON COLUMN dtx.joined_branch.local_n IS 'the local transaction, if it began branches of this branch: rows of dtx.branch';
COMMENT ON COLUMN dtx.joined_branch.superior IS 'the node that began it, if that is not the coordinator, and its local transaction in superior_n';
COMMENT ON COLUMN dtx.joined_branch.step IS 'what dtx_join was told that it does: done once';
COMMENT ON COLUMN dtx.joined_branch.state IS 'd: in doubt; t: rolled back before it came';

CREATE TABLE dtx.settled (
    settled_at  timestamptz NOT NULL,
    max_n       bigint NOT NULL,
    role        oid NOT NULL,
    decision    "char" NOT NULL,
    coordinator text COLLATE "C" NOT NULL,
    branches    bigint[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE dtx.settled IS 'branches settled here not long ago, should the coordinator ask again';

CREATE TABLE dtx.coordinator (
    node       text COLLATE "C" NOT NULL,
    role       oid NOT NULL,
    horizon    bigint NOT NULL,
    timeline   integer NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (node, role)
) WITH (fillfactor = 50);
COMMENT ON TABLE dtx.coordinator IS 'up to where coordinators have forgotten their transactions, and the last timeline on which they spoke';

CREATE TABLE dtx.resolution (
    gid         text COLLATE "C" PRIMARY KEY,
    decision    "char" NOT NULL,
    role        oid NOT NULL,
    resolved_by oid NOT NULL,
    resolved_at timestamptz NOT NULL,
    mode        "char" NOT NULL,
    state       "char" NOT NULL,
    compared_at timestamptz,
    superior    text COLLATE "C" NOT NULL,
    superior_n  bigint NOT NULL
);
COMMENT ON TABLE dtx.resolution IS 'branches in doubt that an operator has decided with dtx_resolve';
COMMENT ON COLUMN dtx.resolution.state IS 'd: done, and the coordinator was not heard on it yet; a: it agrees; h: it had decided otherwise';
COMMENT ON COLUMN dtx.resolution.superior IS 'the node that began the branch, and its local transaction in superior_n';

CREATE FUNCTION dtx.node_changed() RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_node_changed' LANGUAGE C VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION dtx.node_place(OUT place bigint, OUT timeline integer)
    AS 'MODULE_PATHNAME', 'dtx_node_place' LANGUAGE C VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION dtx.node_id(name name, tag text) RETURNS text
    AS 'MODULE_PATHNAME', 'dtx_node_id' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION dtx.node_insert(name name) RETURNS text
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    INSERT INTO dtx.node (tag, name, system_identifier, database, created_at, memory_from, place, timeline)
    SELECT pg_catalog.substr(pg_catalog.replace(pg_catalog.gen_random_uuid()::pg_catalog.text, '-', ''), 25, 8),
           $1, c.system_identifier, d.oid, pg_catalog.now(), 0, p.place, p.timeline
    FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d, dtx.node_place() p
    WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
    RETURNING dtx.node_id(name, tag);
END;

CREATE FUNCTION dtx.not_in_branch() RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_not_in_branch' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION dtx_node_adopt() RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    here   record;
    former record;
    id     text;
BEGIN
    PERFORM dtx.not_in_branch();
    LOCK TABLE dtx.node IN EXCLUSIVE MODE;
    IF dtx.identity_is_trusted() THEN
        RAISE EXCEPTION 'this database''s identity as a node of dtx is not in doubt'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT c.system_identifier, d.oid AS database, p.place INTO STRICT here
    FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d, dtx.node_place() p
    WHERE d.datname = pg_catalog.current_database();
    SELECT n.name, n.system_identifier INTO former FROM dtx.node n
    WHERE n.retired_at IS NULL
      AND (n.system_identifier <> here.system_identifier OR n.database <> here.database OR n.place <> here.place)
    ORDER BY n.created_at LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this database''s identity as a node of dtx is not in doubt'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- a dump brings no decisions along: what the restored id decided is not known here
    IF (SELECT pg_catalog.count(*) FROM dtx.node n WHERE n.retired_at IS NULL) > 1 THEN
        UPDATE dtx.node n SET memory_from = 9223372036854775807
        WHERE n.retired_at IS NULL
          AND (n.system_identifier <> here.system_identifier OR n.database <> here.database);
    END IF;
    -- functions have other OIDs in a restored or upgraded database
    IF former.system_identifier <> here.system_identifier THEN
        DELETE FROM dtx.tcc_action;
        PERFORM dtx.define_actions();
    END IF;
    UPDATE dtx.node n SET retired_at = pg_catalog.now() WHERE n.retired_at IS NULL;
    id := dtx.node_insert(former.name);
    PERFORM dtx.node_changed();
    RETURN id;
END
$$;
COMMENT ON FUNCTION dtx_node_adopt() IS
    'after a move: this database is the same node as before; it gets a new tag and keeps its past. Returns the new id. ERROR 55000 when its identity is not in doubt.';

CREATE FUNCTION dtx_node_reset(name name DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id text;
    forgotten bigint;
BEGIN
    PERFORM dtx.not_in_branch();
    LOCK TABLE dtx.node IN EXCLUSIVE MODE;
    IF dtx.identity_is_trusted()
       AND (EXISTS (SELECT FROM dtx.branch) OR EXISTS (SELECT FROM dtx.global)
            OR EXISTS (SELECT FROM dtx.joined_branch j WHERE j.state = 'd')
            OR EXISTS (SELECT FROM dtx.sessions() s WHERE s.branches > 0)) THEN
        RAISE EXCEPTION 'this node has branches that are not settled'
            USING ERRCODE = 'object_in_use', HINT = 'See the view dtx_branches.';
    END IF;
    SELECT count(*) INTO forgotten FROM dtx.joined_branch j WHERE j.state = 'd';
    IF forgotten > 0 THEN
        RAISE NOTICE 'this copy forgets % branches in doubt: what they have changed stays', forgotten
            USING DETAIL = 'The original may roll them back.';
    END IF;
    DELETE FROM dtx.node;
    DELETE FROM dtx.branch;
    DELETE FROM dtx.history;
    DELETE FROM dtx.contact;
    DELETE FROM dtx.joined_branch;
    TRUNCATE dtx.undo_log;
    DELETE FROM dtx.settled;
    DELETE FROM dtx.coordinator;
    DELETE FROM dtx.global;
    DELETE FROM dtx.resolution;
    DELETE FROM dtx.try_log;
    DELETE FROM dtx.confirm_log;
    DELETE FROM dtx.cancel_log;
    DELETE FROM dtx.frozen;
    DELETE FROM dtx.subscription;
    DELETE FROM dtx.position;
    DELETE FROM dtx.undelivered;
    DELETE FROM dtx.handling;
    DELETE FROM dtx.delayed_message;
    DELETE FROM dtx.held_message;
    DELETE FROM dtx.half_message;
    DELETE FROM dtx.de_duplication;
    DELETE FROM dtx.notification;
    DELETE FROM dtx.failed_attempt;
    DELETE FROM dtx.held_notification;
    DELETE FROM dtx.target;
    DELETE FROM dtx.received;
    DELETE FROM dtx.expectation;
    IF dtx_node_reset.name = '' THEN
        RAISE EXCEPTION 'name of a node must not be empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    id := dtx.node_insert(coalesce(dtx_node_reset.name, pg_catalog.current_database()));
    PERFORM dtx.node_changed();
    RETURN id;
END
$$;
COMMENT ON FUNCTION dtx_node_reset(name) IS
    'makes this database a new node without a past, named name or as the database. Returns its id. ERROR 22023 for an empty name, 55006 when branches are not settled and the identity is not in doubt.';

CREATE FUNCTION dtx.identity_is_trusted() RETURNS boolean
    AS 'MODULE_PATHNAME', 'dtx_identity_is_trusted' LANGUAGE C VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION dtx_begin(mode text DEFAULT 'at', timeout interval DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_begin(text, interval) IS
    'begins a global transaction in the current transaction; optional, as the first dtx_exec does. mode ''at''; timeout rolls it back when it takes longer. Returns its xid. ERROR 25001 when there is one already.';

CREATE FUNCTION dtx_xid() RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_xid() IS
    'the xid of the global transaction that this transaction belongs to, or NULL';

CREATE FUNCTION dtx_exec(server name, sql text) RETURNS bigint
    AS 'MODULE_PATHNAME', 'dtx_exec' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_exec(name, text) IS
    'runs a statement that returns no rows as a branch at a server. Returns the number of rows it affected. ERRORs are the peer''s, with the server in the context.';
CREATE FUNCTION dtx_exec(server name, sql text, VARIADIC args "any") RETURNS bigint
    AS 'MODULE_PATHNAME', 'dtx_exec' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_exec(name, text, VARIADIC "any") IS
    'the same, with the values of the parameters $1, $2, ...; the peer infers the types of those that are strings or have none';

CREATE FUNCTION dtx_query(server name, sql text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'dtx_query' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_query(name, text) IS
    'runs a statement as a branch at a server and returns its rows; the call needs a column definition list. In a read-only transaction: without a branch, and so that it writes nothing there. ERRORs are the peer''s, and 42804 when the columns do not fit.';
CREATE FUNCTION dtx_query(server name, sql text, VARIADIC args "any") RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'dtx_query' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_query(name, text, VARIADIC "any") IS
    'the same, with the values of the parameters $1, $2, ...; the peer infers the types of those that are strings or have none';

CREATE FUNCTION dtx_status(xid text) RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_status(text) IS
    'what is known here of a global transaction: active, committing, committed, rolling back, rolled back, in doubt, or unknown, as others'' are but to members of pg_monitor. ERROR 22023 when the text is no xid.';

CREATE FUNCTION dtx_wait(xid text, timeout interval DEFAULT '10s') RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_wait(text, interval) IS
    'waits until a global transaction is settled everywhere, or the timeout passes, and returns dtx_status then';

CREATE FUNCTION dtx_open(timeout interval DEFAULT '60s', name text DEFAULT NULL, joiners regrole[] DEFAULT NULL, join boolean DEFAULT false) RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_open(interval, text, regrole[], boolean) IS
    'opens a global transaction that services share: it is open once this transaction has committed, and rolled back by itself when timeout passes. Returns its xid, to be handed to the services. name is for dtx.global only. joiners: roles of this database that may join besides the caller, each with its members; to all others it is unknown. join: this transaction, which has written nothing yet, is its first branch. ERROR DX003 when it has.';
CREATE FUNCTION dtx_join(xid text) RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_join(text) IS
    'makes the current transaction a branch of a global transaction that dtx_open began, at whatever node; to be called first of all, in a savepoint or not. Returns the xid. When that savepoint is rolled back, it is to be called again, or the transaction rolled back. ERROR 22004 for NULL, DX003 when it is decided, or unknown, as it is to who may not join it, or the transaction has written already, 25P04 when it timed out, 55000 when no server leads to its node, DX006 when one that may is down, 42501 when the opener has none through which the branch could be settled.';
CREATE FUNCTION dtx_join(xid text, step text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'dtx_join_step' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_join(text, text) IS
    'the same for a request that may be delivered twice, with what it is known by: true, and the transaction is a branch that does this step; or false, when another one of the same role has done it here already, and there is nothing left to do. One that is still running is waited for, up to dtx.lock_timeout. What does a step again that was rolled back is the same branch. ERROR 55P03 when the other one does not end, 22023 for a step that is empty or longer than 1,000 bytes.';
CREATE FUNCTION dtx_commit(xid text) RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_commit(text) IS
    'decides a global transaction that dtx_open began here: committed, if all branches have committed their part, else rolled back, and says which; it is decided when this transaction commits. It may be called in a branch of it in this database, which then commits with the decision, when the others have. ERROR DX003, and it stays open, when a branch is still running; 25P04 when it timed out.';
CREATE FUNCTION dtx_rollback(xid text) RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_rollback(text) IS
    'rolls back a global transaction that dtx_open began here; of one that timed out, tries again at once what could not be rolled back yet. ERROR DX003 when it was committed.';

CREATE FUNCTION dtx_resolve(xid text, decision text) RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_resolve(text, text) IS
    'decides branches in doubt here whose coordinator is gone for good: commit or rollback. It is recorded, and compared should the coordinator come back; said again, it does nothing. forget removes such records, rollbacks of branches that never came, and, at the coordinator, branches that fail at a participant that is gone. Returns how many. Needs EXECUTE, which only superusers have. ERROR DX001 when they cannot be settled so, 42501 for another role''s tries.';
CREATE FUNCTION dtx_retry(xid text) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_retry(text) IS
    'has the worker of this node, its coordinator, try again at once to settle those branches of a global transaction that are the caller''s, or of a role that she is a member of. ERROR 53400 when many roles ask at once.';

-- what coordinators call here
CREATE FUNCTION dtx.peer_hello(protocol integer, OUT node text, OUT protocol_version integer, OUT version text, OUT in_recovery boolean)
    AS 'MODULE_PATHNAME', 'dtx_peer_hello' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.branch_join(gid text, mode text, flags integer, lock_timeout integer, timeline integer, token bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'dtx_branch_join' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.branch_join(gid text, mode text, flags integer, lock_timeout integer, timeline integer, token bigint,
                                superiors text[], superior_n bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'dtx_branch_join' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.branch_control(token bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_branch_control' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.branch_enter(flags integer) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_branch_enter' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.branch_settle(nodes text[], timeline integer, horizon bigint, gids text[], commits boolean[], modes text, ns bigint[],
                                  OUT outcome text, OUT detail text, OUT written pg_lsn, OUT durable pg_lsn) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'dtx_branch_settle' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.branch_pending(nodes text[], timeline integer, OUT gid text, OUT n bigint, OUT node text, OUT resolved boolean) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'dtx_branch_pending' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.branch_register(xid text, node text, role text, step bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'dtx_branch_register' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.branch_vote(gids text[]) RETURNS text[]
    AS 'MODULE_PATHNAME', 'dtx_branch_vote' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.read_begin(lock_timeout integer) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_read_begin' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.branch_await(gid text, timeout integer) RETURNS boolean
    AS 'MODULE_PATHNAME', 'dtx_branch_await' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.branch_flush() RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_branch_flush' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION dtx_admit(role regrole) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION 'argument "role" of dtx_admit must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA dtx TO %s', role);
    EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION dtx.peer_hello(integer), dtx.branch_join(text, text, integer, integer, integer, bigint),'
        ' dtx.branch_join(text, text, integer, integer, integer, bigint, text[], bigint), dtx.branch_control(bigint), dtx.branch_enter(integer),'
        ' dtx.branch_settle(text[], integer, bigint, text[], boolean[], text, bigint[]), dtx.branch_pending(text[], integer), dtx.branch_flush(), dtx.read_begin(integer),'
        ' dtx.branch_await(text, integer), dtx.branch_register(text, text, text, bigint), dtx.branch_vote(text[]),'
        ' dtx.tcc_try(text, text), dtx.ledger_credit(text, numeric), dtx.ledger_receive(jsonb),'
        ' dtx.deliver(bigint, integer, bigint, bigint, bigint, boolean, integer, text, jsonb),'
        ' dtx.receive(text, integer, jsonb), dtx.outcome(text, text[]), @extschema@.dtx_outcome(text) TO %s', role);
END
$$;
COMMENT ON FUNCTION dtx_admit(regrole) IS
    'lets a role take part here: other nodes may connect as it, and run and settle branches with its rights';

/* ----------------------------------------------------------------- net */

CREATE FUNCTION dtx.fdw_validator(options text[], catalog oid) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_fdw_validator' LANGUAGE C STRICT PARALLEL UNSAFE;
CREATE FOREIGN DATA WRAPPER dtx_fdw VALIDATOR dtx.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER dtx_fdw IS 'servers of this wrapper are peers of dtx';

CREATE FUNCTION dtx_peer(server name, conninfo text, role regrole DEFAULT NULL, admit regrole DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_peer(name, text, regrole, regrole) IS
    'makes, unless they are there, a server of dtx_fdw that leads to another node, and the user mapping of a role (NULL: the caller) for it, from one connection string of libpq, whose user is called as the role unless it says so, and grants the role its usage; admit: the role that the other node connects as, which is admitted as by dtx_admit. With the caller''s rights: they are those that CREATE SERVER, CREATE USER MAPPING, GRANT and dtx_admit need. Returns created, or unchanged when all was there. ERROR 42710 when what is there is not the same, 22023 for a string that names no database.';
CREATE FUNCTION dtx_ping(server name, OUT node text, OUT version text)
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_ping(name) IS
    'connects to a server as the caller and returns the id of the node there and its PostgreSQL version. ERRORs say what is missing.';

/* ------------------------------------------------------------------ at */

CREATE TABLE dtx.undo_log (
    branch   bigint NOT NULL,
    key_hash bigint NOT NULL,
    seq      bigint NOT NULL,
    cid      bigint NOT NULL,
    relation oid NOT NULL,
    shape    integer NOT NULL,
    op       "char" NOT NULL,
    before   bytea,
    after    bytea
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX undo_log_key_idx ON dtx.undo_log (key_hash);
COMMENT ON TABLE dtx.undo_log IS 'what branches in doubt have changed: the images, and the row locks';

CREATE TABLE dtx.relation_shape (
    relation oid NOT NULL,
    shape    integer NOT NULL,
    attnums  smallint[] NOT NULL,
    types    oid[] NOT NULL,
    typmods  integer[] NOT NULL,
    names    text[] NOT NULL
);
CREATE INDEX relation_shape_idx ON dtx.relation_shape (relation, shape);
COMMENT ON TABLE dtx.relation_shape IS 'the columns that images in dtx.undo_log have';

CREATE FUNCTION dtx.capture() RETURNS trigger
    AS 'MODULE_PATHNAME', 'dtx_capture' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION dtx.guard_rewrite() RETURNS event_trigger
    AS 'MODULE_PATHNAME', 'dtx_guard_rewrite' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE EVENT TRIGGER dtx_guard_rewrite ON table_rewrite EXECUTE FUNCTION dtx.guard_rewrite();

CREATE FUNCTION dtx.is_attached(rel regclass) RETURNS boolean
    AS 'MODULE_PATHNAME', 'dtx_is_attached' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.image_decode(entry tid, which "char") RETURNS jsonb
    AS 'MODULE_PATHNAME', 'dtx_image_decode' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

CREATE FUNCTION dtx_attach(rel regclass) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_attach(regclass) IS
    'puts a table under dtx: branches may change it, and rows in doubt are locked for every writer. Needs ownership, and a primary key or replica identity index. ERROR 42710 when it is attached already.';
CREATE FUNCTION dtx_detach(rel regclass) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_detach(regclass) IS
    'takes a table out of dtx. ERROR 55006 when it has rows in doubt.';

CREATE FUNCTION dtx_attach_all(schema regnamespace) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rel      pg_catalog.regclass;
    attached pg_catalog.int8 := 0;
    message  pg_catalog.text;
    hint     pg_catalog.text;
BEGIN
    IF schema IS NULL THEN
        RAISE EXCEPTION 'argument "schema" of dtx_attach_all must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    FOR rel IN
        SELECT c.oid FROM pg_catalog.pg_class c
        WHERE c.relnamespace OPERATOR(pg_catalog.=) schema::pg_catalog.oid
          AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}') AND NOT c.relispartition
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                          WHERE t.tgrelid = c.oid AND t.tgname = 'dtx_capture')
        ORDER BY c.oid
    LOOP
        BEGIN
            PERFORM @extschema@.dtx_attach(rel);
            attached := attached OPERATOR(pg_catalog.+) 1;
        EXCEPTION WHEN object_not_in_prerequisite_state OR wrong_object_type OR feature_not_supported THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
            RAISE WARNING '%', message USING HINT = hint;
        END;
    END LOOP;
    RETURN attached;
END
$$;
COMMENT ON FUNCTION dtx_attach_all(regnamespace) IS
    'attaches every table of a schema that is not attached yet. Returns how many; warns of those that cannot be.';

/* ----------------------------------------------------------------- tcc */

CREATE TABLE dtx.tcc_action (
    action     text COLLATE "C" PRIMARY KEY,
    owner      oid NOT NULL,
    try        oid NOT NULL,
    confirm    oid NOT NULL,
    cancel     oid NOT NULL,
    names      text[] NOT NULL,
    types      oid[] NOT NULL,
    defined_at timestamptz NOT NULL
);
COMMENT ON TABLE dtx.tcc_action IS 'actions that dtx_tcc_define defined here; a function''s OID is 0 where there is nothing to do';

CREATE TABLE dtx.try_log (
    branch   bigint PRIMARY KEY,
    gid      text COLLATE "C" NOT NULL,
    role     oid NOT NULL,
    tried_at timestamptz NOT NULL,
    action   text,
    confirm  oid NOT NULL,
    cancel   oid NOT NULL,
    args     jsonb,
    local    boolean NOT NULL,
    settings text[]
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE dtx.try_log IS 'tries, with what confirm and cancel need; the key arbitrates between try and cancel';
COMMENT ON COLUMN dtx.try_log.action IS 'NULL: a cancel came, and the try never shall';
COMMENT ON COLUMN dtx.try_log.local IS 'a try of this node''s own transaction: confirmed before that commits';
COMMENT ON COLUMN dtx.try_log.settings IS 'what it ran with, names and values, and its confirm or cancel is to have: the search path, and what decides how texts are read as dates and times';

CREATE TABLE dtx.confirm_log (
    branch   bigint PRIMARY KEY,
    gid      text COLLATE "C" NOT NULL,
    ended_at timestamptz NOT NULL,
    ran      boolean NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE dtx.confirm_log IS 'confirms that were carried out; ran: a function was called';

CREATE TABLE dtx.cancel_log (
    branch   bigint PRIMARY KEY,
    gid      text COLLATE "C" NOT NULL,
    ended_at timestamptz NOT NULL,
    ran      boolean NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE dtx.cancel_log IS 'cancels that were carried out; ran: a function was called, so the cancel was not empty';

CREATE FUNCTION dtx.tcc_confirm_local() RETURNS trigger
    AS 'MODULE_PATHNAME', 'dtx_tcc_confirm_local' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE CONSTRAINT TRIGGER tcc_confirm_local AFTER INSERT ON dtx.try_log
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dtx.tcc_confirm_local();
ALTER TABLE dtx.try_log ENABLE ALWAYS TRIGGER tcc_confirm_local;

CREATE FUNCTION dtx.tcc_try(action text, args text) RETURNS jsonb
    AS 'MODULE_PATHNAME', 'dtx_tcc_try' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION dtx_tcc_define(action text, try regprocedure, confirm regprocedure, cancel regprocedure) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_tcc_define(text, regprocedure, regprocedure, regprocedure) IS
    'defines, or redefines, an action of TCC from three functions with the same named arguments, any of which may be NULL: nothing to do. Needs EXECUTE on them, and ownership of an action that exists. ERROR 42P13 when they do not fit together.';
CREATE FUNCTION dtx_tcc_drop(action text) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_tcc_drop(text) IS
    'drops an action of TCC; branches that were tried with it are confirmed or cancelled all the same. Needs ownership. ERROR 42704 when there is none.';
CREATE FUNCTION dtx_try(server name, action text, args jsonb) RETURNS jsonb
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_try(name, text, jsonb) IS
    'runs the try function of an action as a branch at a server, or in the local transaction when server is NULL, with arguments matched by name, and returns its result. The action is confirmed when the global transaction commits, and cancelled when it is rolled back. ERROR 22023 for arguments that are missing, unknown or of the wrong type, 42704 for an unknown action.';

/* ----------------------------------------------------------------- msg */

-- The log. Rows are in its segments, which are tables of their own: none here.
CREATE TABLE dtx.message (
    id           bigint NOT NULL,
    xid          bigint NOT NULL,
    published_at timestamptz NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    key          text,
    payload      jsonb NOT NULL,
    headers      jsonb
);
COMMENT ON TABLE dtx.message IS 'messages that were published here, in segments; append-only';
COMMENT ON COLUMN dtx.message.xid IS 'the transaction (xid8) that published it';
COMMENT ON COLUMN dtx.message.published_at IS 'when it entered the log; a delayed one, when it was due';
CREATE SEQUENCE dtx.message_id;
COMMENT ON SEQUENCE dtx.message_id IS 'ids of messages: in the order of publishing, not of commit';

CREATE TABLE dtx.message_segment (
    segment    integer PRIMARY KEY,
    relation   oid NOT NULL,
    opened_at  timestamptz NOT NULL,
    closed_at  timestamptz,
    closed_xid bigint
);
COMMENT ON TABLE dtx.message_segment IS 'segments of dtx.message; the last one is written';
COMMENT ON COLUMN dtx.message_segment.closed_xid IS 'every transaction that wrote to it is older';

CREATE FUNCTION dtx.segment_create(number integer) RETURNS oid
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name text := format('message_%s', number);
    pub  record;
BEGIN
    -- rows come in the order of xids, and go with the table: there is nothing to vacuum
    EXECUTE format('CREATE TABLE dtx.%I () INHERITS (dtx.message) USING heap'
                   ' WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false)', name);
    EXECUTE format('CREATE INDEX %I ON dtx.%I (xid)', name || '_xid_idx', name);
    -- a publication of dtx.message has the segments that there were: it gets this one as it has the last
    FOR pub IN
        SELECT p.pubname, (SELECT ' (' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')' FROM pg_attribute a
                           WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[])) AS columns,
               ' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')' AS filter
        FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
        WHERE NOT p.puballtables AND r.prrelid = (SELECT s.relation FROM dtx.message_segment s ORDER BY s.segment DESC LIMIT 1)
    LOOP
        BEGIN
            EXECUTE format('ALTER PUBLICATION %I ADD TABLE ONLY dtx.%I', pub.pubname, name) || coalesce(pub.columns, '') || coalesce(pub.filter, '');
        EXCEPTION
        WHEN lock_not_available THEN
            -- somebody alters it: the worker tries again
            RAISE;
        WHEN OTHERS THEN
            -- the log goes on
            RAISE WARNING 'segment % of the messages is not in publication "%": %', number, pub.pubname, SQLERRM;
        END;
    END LOOP;
    INSERT INTO dtx.message_segment (segment, relation, opened_at)
    SELECT number, c.oid, clock_timestamp() FROM pg_class c
    WHERE c.relname = name AND c.relnamespace = 'dtx'::regnamespace;
    RETURN (SELECT relation FROM dtx.message_segment s WHERE s.segment = number);
END
$$;
SELECT dtx.segment_create(1);

CREATE TABLE dtx.delayed_message (
    deliver_at timestamptz NOT NULL,
    id         bigint NOT NULL,
    topic      text COLLATE "C" NOT NULL,
    key        text,
    payload    jsonb NOT NULL,
    headers    jsonb
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX delayed_message_deliver_at_idx ON dtx.delayed_message (deliver_at);
COMMENT ON TABLE dtx.delayed_message IS 'messages that enter the log when they are due';

CREATE TABLE dtx.held_message (
    branch     bigint NOT NULL,
    id         bigint NOT NULL,
    deliver_at timestamptz,
    topic      text COLLATE "C" NOT NULL,
    key        text,
    payload    jsonb NOT NULL,
    headers    jsonb
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX held_message_branch_idx ON dtx.held_message (branch);
COMMENT ON TABLE dtx.held_message IS 'messages that branches in doubt here have published: they enter the log when these are committed';

CREATE TABLE dtx.half_message (
    id          bigint PRIMARY KEY,
    role        oid NOT NULL,
    topic       text COLLATE "C" NOT NULL,
    key         text,
    payload     jsonb NOT NULL,
    headers     jsonb,
    -- a type that pg_upgrade refuses, and so it should: it keeps no OIDs of servers and functions
    checker     regprocedure,
    prepared_at timestamptz NOT NULL,
    attempts    integer NOT NULL,
    next_check  timestamptz,
    last_error  text,
    planned_at  timestamptz NOT NULL
);
CREATE INDEX half_message_next_check_idx ON dtx.half_message (next_check);
COMMENT ON TABLE dtx.half_message IS 'messages whose producers have not said yet whether they are to be sent';
COMMENT ON COLUMN dtx.half_message.planned_at IS 'when next_check was set';
COMMENT ON COLUMN dtx.half_message.next_check IS 'when the check function is to be asked; NULL: never (again)';

CREATE TABLE dtx.subscription (
    id           integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uid          bigint NOT NULL,
    name         text COLLATE "C" NOT NULL UNIQUE,
    topic        text COLLATE "C" NOT NULL,
    server       oid NOT NULL,
    handler      text,
    role         oid NOT NULL,
    ordered      boolean NOT NULL,
    schedule     interval[] NOT NULL,
    max_attempts integer NOT NULL,
    batch_size   integer NOT NULL,
    paused       boolean NOT NULL,
    generation   integer NOT NULL,
    start        pg_snapshot NOT NULL,
    since_id     bigint,
    since_time   timestamptz,
    since_seen   pg_snapshot,
    created_at   timestamptz NOT NULL
);
COMMENT ON TABLE dtx.subscription IS 'who gets which messages; where a subscription stands is in dtx.position';
COMMENT ON COLUMN dtx.subscription.uid IS 'drawn at random: by this receivers tell subscriptions apart';
COMMENT ON COLUMN dtx.subscription.server IS '0: this database';
COMMENT ON COLUMN dtx.subscription.handler IS 'NULL: messages are fetched with dtx_receive';
COMMENT ON COLUMN dtx.subscription.start IS 'messages of transactions that are over in it are skipped';
COMMENT ON COLUMN dtx.subscription.since_seen IS 'since_id and since_time are for messages of transactions that are over in this one';
COMMENT ON COLUMN dtx.subscription.generation IS 'counts how often the position was moved by hand';

-- No index: a row is updated for each batch, by one process, which knows where it is.
CREATE TABLE dtx.position (
    subscription integer NOT NULL,
    generation   integer NOT NULL,
    batch        bigint NOT NULL,
    passed       pg_snapshot NOT NULL,
    upto         pg_snapshot,
    cursor       bigint NOT NULL,
    delivered    bigint NOT NULL,
    delivered_at timestamptz,
    rate         float8 NOT NULL,
    attempts     integer NOT NULL,
    next_attempt timestamptz,
    last_error   text,
    refused      boolean NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE dtx.position IS 'how far subscriptions have got';
COMMENT ON COLUMN dtx.position.passed IS 'messages of transactions that are over in this snapshot were handled, or are in dtx.undelivered';
COMMENT ON COLUMN dtx.position.refused IS 'the receiver refuses this generation: it has forgotten what the sender may have sent, or knows a later one';
COMMENT ON COLUMN dtx.position.upto IS 'of those that are over in this one too, the same is true up to the message cursor';

CREATE TABLE dtx.undelivered (
    subscription integer NOT NULL,
    generation   integer NOT NULL,
    id           bigint NOT NULL,
    xid          xid8 NOT NULL,
    state        "char" NOT NULL,
    attempts     integer NOT NULL,
    next_attempt timestamptz,
    changed_at   timestamptz NOT NULL,
    published_at timestamptz NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    key          text,
    payload      jsonb NOT NULL,
    headers      jsonb,
    last_error   text,
    PRIMARY KEY (subscription, generation, id)
);
CREATE INDEX undelivered_due_idx ON dtx.undelivered (subscription, generation, next_attempt);
CREATE INDEX undelivered_key_idx ON dtx.undelivered (subscription, generation, key, id);
CREATE INDEX undelivered_done_idx ON dtx.undelivered (subscription, generation) WHERE state = 'k';
COMMENT ON TABLE dtx.undelivered IS 'messages that could not be handled yet, of subscriptions that have gone on without them';
COMMENT ON COLUMN dtx.undelivered.xid IS 'the transaction that published it: what is over in the start of its subscription is skipped';
COMMENT ON COLUMN dtx.undelivered.state IS 'r: to be tried again; w: waits for an earlier one of its key; d: dead; l: leased by a consumer until next_attempt; k: a consumer is done with it, and the position has not passed it';

CREATE TABLE dtx.handling (
    subscription integer PRIMARY KEY,
    generation   integer NOT NULL,
    boot         bigint NOT NULL,
    fresh        integer NOT NULL,
    retried      integer NOT NULL,
    message      bigint
) WITH (fillfactor = 50);
COMMENT ON TABLE dtx.handling IS 'after a crash: which message of a subscription is being handled, so that one that ends the server is known afterwards';
COMMENT ON COLUMN dtx.handling.boot IS 'drawn at random when the server started';
COMMENT ON COLUMN dtx.handling.fresh IS 'so many messages of the log, and retried of dtx.undelivered, are still to be taken one by one';

CREATE TABLE dtx.de_duplication (
    subscription bigint NOT NULL,
    generation   integer NOT NULL,
    batch        bigint NOT NULL,
    received_at  timestamptz NOT NULL,
    role         oid NOT NULL,
    forgotten    bigint NOT NULL,
    ids          bigint[] NOT NULL,
    published    bigint[] NOT NULL,
    PRIMARY KEY (subscription, generation, batch)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE dtx.de_duplication IS 'which messages were handled here, a batch a row, until the sender cannot send them again';
COMMENT ON COLUMN dtx.de_duplication.subscription IS 'its uid at the sender';
COMMENT ON COLUMN dtx.de_duplication.published IS 'when: a sender that was restored from a backup hands out ids again';
COMMENT ON COLUMN dtx.de_duplication.forgotten IS 'what was in batches up to this one is not known any more';

CREATE FUNCTION dtx_publish(topic text, payload jsonb, key text DEFAULT NULL, headers jsonb DEFAULT NULL, deliver_at timestamptz DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_publish(text, jsonb, text, jsonb, timestamptz) IS
    'publishes a message in the current transaction: it is there if that commits, or, in a branch, if the global transaction does. deliver_at delays it. Returns its id. ERROR 22023 for a topic that is no name, 54000 for a message larger than dtx.max_message_size or a key of more than 2,000 bytes.';

CREATE FUNCTION dtx_subscribe(topic text, server name DEFAULT NULL, handler text DEFAULT NULL, name text DEFAULT NULL, ordered boolean DEFAULT false,
                              schedule interval[] DEFAULT NULL, max_attempts integer DEFAULT NULL, batch_size integer DEFAULT NULL,
                              from_start boolean DEFAULT false) RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_subscribe(text, name, text, text, boolean, interval[], integer, integer, boolean) IS
    'has messages of a topic, or of all that match a pattern such as orders.*, handled once by a function at a server (NULL: this database), as the caller; handler NULL: fetched with dtx_receive. ordered: those of a key one after the other. A failed one is tried again by the schedule, its last interval repeating, max_attempts times in all. from_start: those of before too, as far back as there are any. Returns the name, which is made up unless given. Needs EXECUTE, which only superusers have until it is granted. ERROR 42710 when the name is taken.';
CREATE FUNCTION dtx_unsubscribe(name text) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_unsubscribe(text) IS
    'ends a subscription, its dead letters included. Needs the rights of its role. ERROR 42704 when there is none.';
CREATE FUNCTION dtx_pause(name text) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_pause(text) IS 'stops delivery of a subscription''s messages, which are kept for it';
CREATE FUNCTION dtx_resume(name text) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_resume(text) IS 'goes on after dtx_pause, and tries again at once what failed because of the peer';
CREATE FUNCTION dtx_seek(name text, to_time timestamptz) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_seek_time' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_seek(text, timestamptz) IS
    'moves a subscription: it gets what was published at that time or later, again if need be (replay), as far as it is kept; ''infinity'', or any time to come, skips all there is, and handles nothing again. Its retries and dead letters are forgotten.';
CREATE FUNCTION dtx_seek(name text, to_message bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_seek_message' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_seek(text, bigint) IS 'the same: to the message with that id and those after it; an id to come skips all there is';
-- what has no type is neither a time nor a number to the parser
CREATE FUNCTION dtx_seek(name text, "to" text) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_seek_text' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_seek(text, text) IS
    'the same for what has no type: digits alone are the id of a message. ERROR 22023 for an id to come, which could be meant as a day.';

CREATE FUNCTION dtx_redeliver(ids bigint[], subscription text DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME', 'dtx_redeliver_ids' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_redeliver(bigint[], text) IS
    'delivers dead letters again, with a fresh count of attempts; without a subscription also exhausted notifications, with their schedule. Returns how many.';
CREATE FUNCTION dtx_redeliver(subscription text, topic text DEFAULT NULL, since timestamptz DEFAULT NULL, error text DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME', 'dtx_redeliver_where' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_redeliver(text, text, timestamptz, text) IS
    'the same for all dead letters of a subscription, or those of a topic or pattern, that died since a time, whose last error is like a pattern of LIKE; ids as the text of an array, from a client that sends no types, are ids';
CREATE FUNCTION dtx_discard(ids bigint[], subscription text DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_discard(bigint[], text) IS
    'gives dead letters up for good: what waits for them in the order of their key goes on; without a subscription also notifications that are exhausted or pending. Returns how many.';

CREATE FUNCTION dtx_message_prepare(topic text, payload jsonb, key text DEFAULT NULL, "check" text DEFAULT NULL, headers jsonb DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_message_prepare(text, jsonb, text, text, jsonb) IS
    'keeps a message until dtx_message_commit or dtx_message_rollback; when neither comes, check is asked, a function of the id (bigint) that returns commit, rollback or unknown. Returns the id.';
CREATE FUNCTION dtx_message_commit(id bigint) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_message_commit(bigint) IS
    'sends a message that dtx_message_prepare keeps. ERROR 42704 when there is none.';
CREATE FUNCTION dtx_message_rollback(id bigint) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_message_rollback(bigint) IS
    'gives up a message that dtx_message_prepare keeps. ERROR 42704 when there is none.';

CREATE FUNCTION dtx_receive(subscription text, max integer DEFAULT 1, visibility interval DEFAULT '30s', wait interval DEFAULT '0',
                            OUT id bigint, OUT topic text, OUT key text, OUT payload jsonb, OUT headers jsonb, OUT published_at timestamptz, OUT attempts integer) RETURNS SETOF record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_receive(text, integer, interval, interval) IS
    'takes up to max messages of a subscription without a handler: they are nobody else''s until dtx_ack, dtx_nack, or the end of visibility, after which they are given out again; nor while this transaction is open. wait: for the first one, where there is none yet, that long, 60 seconds at most. ERROR 25004 for waiting where the isolation level is not READ COMMITTED.';
CREATE FUNCTION dtx_ack(subscription text, ids bigint[]) RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_ack(text, bigint[]) IS 'says that messages were handled. Returns how many were still to be, and nobody else''s.';
CREATE FUNCTION dtx_nack(subscription text, ids bigint[], delay interval DEFAULT '0') RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_nack(text, bigint[], interval) IS
    'gives messages back, to be given out again after a delay, or to the dead letters after their last attempt. Returns how many.';

CREATE FUNCTION dtx.topic_matches(pattern text, topic text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'dtx_topic_matches' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

-- what the senders of messages call here
CREATE FUNCTION dtx.deliver(subscription bigint, generation integer, batch bigint, forget bigint, again bigint, ordered boolean, timeout integer, handler text, messages jsonb,
                            OUT id bigint, OUT outcome text, OUT state text, OUT detail text, OUT retry_after bigint) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'dtx_deliver' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

-- messages of a subscription that were not handled yet, up to that many
CREATE FUNCTION dtx.backlog(subscription integer, most bigint,
                            OUT id bigint, OUT published_at timestamptz, OUT topic text, OUT key text, OUT payload jsonb, OUT headers jsonb) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'dtx_backlog' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

/* -------------------------------------------------------------- notify */

-- One row a target and business transaction: what is to be told, how far that has got, and what
-- dtx_outcome answers. It is its own queue.
CREATE TABLE dtx.notification (
    id           bigint PRIMARY KEY,
    server       oid NOT NULL,
    role         oid NOT NULL,
    attempts     integer NOT NULL,
    begun_with   integer NOT NULL,
    last_status  integer,
    notified_at  timestamptz NOT NULL,
    next_attempt timestamptz,
    called_at    timestamptz,
    changed_at   timestamptz NOT NULL,
    state        "char" NOT NULL,
    tx_no        text COLLATE "C" NOT NULL,
    schedule     interval[],
    payload      jsonb NOT NULL,
    last_error   text,
    answer       text,
    planned_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tx_no, server)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
CREATE INDEX notification_due_idx ON dtx.notification (server, role, next_attempt) WHERE next_attempt IS NOT NULL;
COMMENT ON TABLE dtx.notification IS 'results of business transactions that were registered here, and whom they are told';
COMMENT ON COLUMN dtx.notification.server IS 'the target; 0: it is told to who asks only';
COMMENT ON COLUMN dtx.notification.state IS 'r: registered only; p: to be delivered; d: delivered; x: exhausted; g: given up with dtx_discard';
COMMENT ON COLUMN dtx.notification.begun_with IS 'how many of the attempts were made before its schedule began (anew)';
COMMENT ON COLUMN dtx.notification.called_at IS 'an attempt is under way, or was cut off; it is counted';
COMMENT ON COLUMN dtx.notification.planned_at IS 'when next_attempt was set';
COMMENT ON COLUMN dtx.notification.changed_at IS 'when it came to its state';

CREATE TABLE dtx.failed_attempt (
    notification bigint NOT NULL,
    attempt      integer NOT NULL,
    status       integer,
    failed_at    timestamptz NOT NULL,
    error        text NOT NULL,
    answer       text
);
CREATE INDEX failed_attempt_notification_idx ON dtx.failed_attempt (notification);
COMMENT ON TABLE dtx.failed_attempt IS 'what came of attempts that failed, for as long as the notification is kept';
COMMENT ON COLUMN dtx.failed_attempt.answer IS 'the start of the body';

CREATE TABLE dtx.held_notification (
    branch   bigint NOT NULL,
    id       bigint NOT NULL,
    server   oid NOT NULL,
    role     oid NOT NULL,
    tx_no    text COLLATE "C" NOT NULL,
    schedule interval[],
    payload  jsonb NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX held_notification_branch_idx ON dtx.held_notification (branch);
COMMENT ON TABLE dtx.held_notification IS 'those of branches in doubt here: they are sent when these are committed';

CREATE TABLE dtx.target (
    server      oid NOT NULL,
    role        oid NOT NULL,
    disabled_at timestamptz,
    reason      text,
    not_before  timestamptz,
    node        text COLLATE "C",
    planned_at  timestamptz,
    PRIMARY KEY (server, role)
) WITH (fillfactor = 70);
COMMENT ON TABLE dtx.target IS 'what is known of targets: who they are, and what keeps them from getting notifications';
COMMENT ON COLUMN dtx.target.not_before IS 'it has asked to be left alone until then; planned_at: when';
COMMENT ON COLUMN dtx.target.node IS 'the node that was met there, if it is a database';

CREATE TABLE dtx.notification_handler (
    sender  text COLLATE "C" PRIMARY KEY,
    handler text NOT NULL,
    role    oid
);
COMMENT ON TABLE dtx.notification_handler IS 'the functions that handle notifications which come here';
COMMENT ON COLUMN dtx.notification_handler.sender IS 'name of the node that notifies; empty: any other';
COMMENT ON COLUMN dtx.notification_handler.role IS 'as which that node must connect; NULL: any that is admitted';

CREATE TABLE dtx.received (
    received_at timestamptz NOT NULL,
    role        oid NOT NULL,
    how         "char" NOT NULL,
    origin      text COLLATE "C" NOT NULL,
    tx_no       text COLLATE "C" NOT NULL,
    PRIMARY KEY (tx_no, origin)
);
CREATE INDEX received_received_at_idx ON dtx.received USING brin (received_at) WITH (autosummarize = on);
COMMENT ON TABLE dtx.received IS 'results of other nodes'' business transactions that were applied here: each once, told or asked for';
COMMENT ON COLUMN dtx.received.origin IS 'the first id of the node it comes from';
COMMENT ON COLUMN dtx.received.how IS 't: told by that node; a: asked for; h: told over HTTP';

CREATE TABLE dtx.expectation (
    server       oid NOT NULL,
    role         oid NOT NULL,
    attempts     integer NOT NULL,
    expected_at  timestamptz NOT NULL,
    due_at       timestamptz NOT NULL,
    next_attempt timestamptz,
    ended_at     timestamptz,
    state        "char" NOT NULL,
    tx_no        text COLLATE "C" NOT NULL,
    origin       text COLLATE "C",
    schedule     interval[],
    last_error   text,
    planned_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tx_no, server)
) WITH (fillfactor = 70);
CREATE INDEX expectation_next_attempt_idx ON dtx.expectation (role, next_attempt) WHERE next_attempt IS NOT NULL;
CREATE INDEX expectation_ended_at_idx ON dtx.expectation (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX expectation_origin_idx ON dtx.expectation (server) WHERE origin IS NOT NULL;
COMMENT ON TABLE dtx.expectation IS 'results that other nodes should tell, and that are asked for when they do not';
COMMENT ON COLUMN dtx.expectation.state IS 'w: it is waited for; c: it has come, or was fetched; x: asked often enough';
COMMENT ON COLUMN dtx.expectation.origin IS 'who is behind the server, as was learned from an answer';

CREATE FUNCTION dtx_notify(server name, tx_no text, payload jsonb, schedule interval[] DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_notify(name, text, jsonb, interval[]) IS
    'in the current transaction: has the result of a business transaction told to a server, over HTTP or to the handler of another database, as the caller; server NULL: only registered, for who asks. Attempts follow the first one by the schedule, by default {1min,5min,10min,30min,1h,2h,5h,10h}. Returns the id: that of the one there is, when the same was notified before. Needs EXECUTE, which only superusers have until it is granted: who notifies speaks for this node. ERROR 23505 when that had another payload, 55000 when the user mapping has no secret, 22023 for a tx_no that is none.';

CREATE FUNCTION dtx_outcome(tx_no text, OUT server text, OUT state text, OUT payload jsonb, OUT attempts integer, OUT notified_at timestamptz,
                            OUT delivered_at timestamptz, OUT next_attempt timestamptz, OUT last_status integer, OUT last_error text) RETURNS SETOF record
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_outcome(text) IS
    'the result of a business transaction that was given to dtx_notify here, a row a target: pending, delivered, exhausted, discarded, or registered when there is none (server NULL). Needs EXECUTE, which roles named to dtx_admit have; of a server whose option receiver names a role, only with the rights of that role or of the one that notifies.';

CREATE FUNCTION dtx_target_enable(server name, role regrole DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_target_enable(name, regrole) IS
    'has notifications of a role (NULL: the caller) to a server sent again that were stopped by dtx_target_disable, by its answer 410, or until a time that it named. Needs the rights of the role. Returns how many are pending.';
CREATE FUNCTION dtx_target_disable(server name, role regrole DEFAULT NULL) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_target_disable(name, regrole) IS
    'sends no more notifications of a role (NULL: the caller) to a server; they are kept. Needs the rights of the role.';

CREATE FUNCTION dtx_on_notification(handler text, sender text DEFAULT NULL, role regrole DEFAULT NULL) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_on_notification(text, text, regrole) IS
    'names the function of this database that is called, once, with each result that the node named sender notifies, or NULL: any other node; handler NULL: no more. role: as which that node must connect to be believed; NULL: any that is admitted. Its arguments are among tx_no text, payload jsonb, sender text, notified_at timestamptz and attempt integer. Needs EXECUTE, which only superusers have until it is granted. ERROR 42883 or 42P13 when it cannot be called so.';
CREATE FUNCTION dtx_reconcile(server name, tx_no text) RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_reconcile(name, text) IS
    'asks a server for the result of a business transaction, and applies it in the current transaction, as the caller, with the handler of notifications, unless that was done: applied, known, or unknown, when there is no result there. ERRORs are the handler''s or the peer''s, and 21000 when the peer has several results that differ.';
CREATE FUNCTION dtx_expect(server name, tx_no text, after interval, schedule interval[] DEFAULT NULL) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_expect(name, text, interval, interval[]) IS
    'has dtx_reconcile done as the caller when that result was not notified after a time, and again by the schedule until there is one';

CREATE FUNCTION dtx_unexpect(server name, tx_no text) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_unexpect(name, text) IS
    'takes dtx_expect back. Needs the rights of the role that expects it. ERROR 42704 when nothing is expected.';

CREATE FUNCTION dtx_verify(payload text, headers jsonb, secret text, tolerance interval DEFAULT '5min') RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_verify(text, jsonb, text, interval) IS
    'is the body of an HTTP request, with its headers webhook-id, webhook-timestamp and webhook-signature, signed with the secret (whsec_..., or several) as the Standard Webhooks specification says, and no older or newer than tolerance? ERROR 22023 for a secret that is none.';
CREATE FUNCTION dtx_accept(payload text, headers jsonb, secret text, handler text DEFAULT NULL, sender text DEFAULT NULL, tolerance interval DEFAULT '5min') RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_accept(text, jsonb, text, text, text, interval) IS
    'verifies a notification that came over HTTP, as dtx_verify does, and applies it in the current transaction, as the caller, with a function that the caller names or the handler of notifications, unless that was done: applied or known. sender: whose secret it is, the name of a node; nobody else''s results are applied then. Needs EXECUTE, which only superusers have until it is granted: who calls it says what has come. ERROR 28000 when it is not authentic.';

-- what other nodes call here
CREATE FUNCTION dtx.receive(origin text, timeout integer, notifications jsonb,
                            OUT id bigint, OUT state text, OUT detail text, OUT retry_after bigint) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'dtx_receive_notifications' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.outcome(tx_no text, nodes text[],
                            OUT origin text, OUT found boolean, OUT payload jsonb, OUT notified_at bigint, OUT attempts integer) RETURNS record
    AS 'MODULE_PATHNAME', 'dtx_peer_outcome' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

-- the option receiver of a server: may the role ask for what it is told? Of a server that is gone
-- nobody knows.
CREATE FUNCTION dtx.may_ask(asker oid, server oid, role oid) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.pg_has_role(asker, role, 'USAGE')
    OR server OPERATOR(pg_catalog.=) 0::oid
    OR EXISTS (SELECT FROM pg_catalog.pg_foreign_server s WHERE s.oid OPERATOR(pg_catalog.=) server)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_foreign_server s, pg_catalog.pg_options_to_table(s.srvoptions) o
                   WHERE s.oid OPERATOR(pg_catalog.=) server AND o.option_name OPERATOR(pg_catalog.=) 'receiver')
    OR EXISTS (SELECT FROM pg_catalog.pg_foreign_server s, pg_catalog.pg_options_to_table(s.srvoptions) o, pg_catalog.pg_roles r
               WHERE s.oid OPERATOR(pg_catalog.=) server AND o.option_name OPERATOR(pg_catalog.=) 'receiver'
                 AND r.rolname OPERATOR(pg_catalog.=) o.option_value::pg_catalog.name AND pg_catalog.pg_has_role(asker, r.oid, 'USAGE'));

/* -------------------------------------------------------------- ledger */

CREATE TABLE dtx.ledger (
    relation oid NOT NULL,
    account  name NOT NULL,
    balance  name NOT NULL
);
COMMENT ON TABLE dtx.ledger IS 'the table of accounts that dtx_transfer moves money in';

CREATE FUNCTION dtx_ledger(rel regclass, account name DEFAULT 'account_no', balance name DEFAULT 'account_balance') RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_ledger(regclass, name, name) IS
    'names this database''s table of accounts and its columns, in place of any named before. Needs EXECUTE, which only superusers have until it is granted, and ownership of both tables.';
CREATE FUNCTION dtx_transfer(server name, from_account text, to_account text, amount numeric, mode text DEFAULT 'at') RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx_transfer(name, text, text, numeric, text) IS
    'moves an amount from an account of this database''s ledger to one of the ledger at a server, or here when server is NULL, in the current transaction, by a branch of the mode: ''at'', ''xa'' or ''tcc'', whose xid it returns; or, with ''message'', by a message that credits the account later, whose id it returns. ERROR 22023 for an amount that is not positive or a transfer to the same account, P0002 for an unknown account, DX004 for too small a balance.';
CREATE FUNCTION dtx.ledger_receive(payload jsonb) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_ledger_receive' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.ledger_credit(account text, amount numeric) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_ledger_credit' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

-- a transfer in TCC: the sender's part freezes the amount, the receiver's adds it when it is confirmed
CREATE TABLE dtx.frozen (
    branch    bigint PRIMARY KEY,
    gid       text COLLATE "C" NOT NULL,
    account   text NOT NULL,
    amount    numeric NOT NULL,
    role      oid NOT NULL,
    frozen_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE dtx.frozen IS 'amounts that transfers in TCC have taken from accounts here and that are neither spent nor given back yet';
CREATE FUNCTION dtx.ledger_freeze(account text, amount numeric) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_ledger_freeze' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.ledger_spend(account text, amount numeric) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_ledger_spend' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.ledger_unfreeze(account text, amount numeric) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_ledger_unfreeze' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.ledger_check(account text, amount numeric) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_ledger_check' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.ledger_add(account text, amount numeric) RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_ledger_add' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
CREATE FUNCTION dtx.define_actions() RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT @extschema@.dtx_tcc_define('dtx.debit', 'dtx.ledger_freeze(text,numeric)', 'dtx.ledger_spend(text,numeric)', 'dtx.ledger_unfreeze(text,numeric)');
    SELECT @extschema@.dtx_tcc_define('dtx.credit', 'dtx.ledger_check(text,numeric)', 'dtx.ledger_add(text,numeric)', NULL);
$$;
SELECT dtx.define_actions();

/* --------------------------------------------------------------- views */

CREATE FUNCTION dtx.sessions(OUT pid integer, OUT xid text, OUT begun_at timestamptz, OUT deadline timestamptz, OUT branches integer) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'dtx_sessions' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION dtx.rollbacks(OUT xid text, OUT branch integer, OUT server oid) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'dtx_rollbacks' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION dtx.held_branches(OUT gid text, OUT role oid, OUT held_since timestamptz) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'dtx_held_branches' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION dtx.stats(OUT name text, OUT value bigint) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'dtx_stats' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION dtx.gid_xid(gid text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.regexp_replace(gid, '(/[0-9]+)+$', '');
CREATE FUNCTION dtx.may_see(role oid) RETURNS boolean
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.pg_has_role(role, 'USAGE') OR pg_catalog.pg_has_role('pg_monitor', 'USAGE');

CREATE VIEW dtx_branches WITH (security_barrier) AS
    SELECT b.gid, dtx.gid_xid(b.gid) AS xid, 'coordinator'::text AS side,
           CASE WHEN b.state OPERATOR(pg_catalog.=) 'd' THEN 'in doubt'
                WHEN b.state OPERATOR(pg_catalog.=) 'r' THEN 'rolling back'
                WHEN b.state OPERATOR(pg_catalog.=) 's' AND g.state OPERATOR(pg_catalog.=) 'o' THEN 'active'
                WHEN b.state OPERATOR(pg_catalog.=) 's' AND g.state OPERATOR(pg_catalog.=) 'r' THEN 'rolling back'
                ELSE 'committing' END AS state, s.srvname::pg_catalog.text AS server, b.participant AS node,
           pg_catalog.pg_get_userbyid(b.role)::pg_catalog.text AS role, b.mode::pg_catalog.text AS mode, b.created_at,
           extract(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) b.created_at) AS age_seconds,
           greatest(b.attempts, c.attempts) AS attempts,
           coalesce(CASE WHEN c.attempts OPERATOR(pg_catalog.>) 0 THEN c.last_error END, b.last_error) AS last_error,
           coalesce(c.next_attempt, b.next_attempt) AS next_attempt, NULL::text AS conflict
    FROM dtx.branch b
    LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid OPERATOR(pg_catalog.=) b.server
    LEFT JOIN dtx.contact c ON c.server OPERATOR(pg_catalog.=) b.server AND c.role OPERATOR(pg_catalog.=) b.role
    LEFT JOIN dtx.global g ON b.state OPERATOR(pg_catalog.=) 's' AND g.n OPERATOR(pg_catalog.=) b.n
    WHERE dtx.may_see(b.role)
    UNION ALL
    SELECT r.gid, dtx.gid_xid(r.gid), 'participant', CASE r.state WHEN 'h' THEN 'heuristic conflict' ELSE 'resolved' END, NULL,
           pg_catalog.regexp_replace(r.gid, ':[^:]*$', ''), pg_catalog.pg_get_userbyid(r.role)::pg_catalog.text, r.mode::pg_catalog.text, r.resolved_at,
           extract(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) r.resolved_at), 0, NULL, NULL,
           CASE r.state WHEN 'h' THEN pg_catalog.format('%s with dtx_resolve, and the coordinator had decided otherwise',
                                                        CASE r.decision WHEN 'c' THEN 'committed' ELSE 'rolled back' END) END
    FROM dtx.resolution r
    WHERE r.state OPERATOR(pg_catalog.<>) 'a' AND dtx.may_see(r.role)
    UNION ALL
    SELECT h.gid, dtx.gid_xid(h.gid), 'participant', 'in doubt', NULL,
           pg_catalog.regexp_replace(h.gid, ':[^:]*$', ''), pg_catalog.pg_get_userbyid(h.role)::pg_catalog.text, 'x', h.held_since,
           extract(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) h.held_since), 0, NULL, NULL, NULL
    FROM dtx.held_branches() h
    UNION ALL
    SELECT j.gid, dtx.gid_xid(j.gid), 'participant', 'in doubt', NULL,
           pg_catalog.regexp_replace(j.gid, ':[^:]*$', ''),
           pg_catalog.pg_get_userbyid(j.role)::pg_catalog.text, j.mode::pg_catalog.text, j.joined_at,
           extract(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) j.joined_at),
           j.attempts, j.last_error, NULL, j.conflict
    FROM dtx.joined_branch j
    WHERE j.state OPERATOR(pg_catalog.=) 'd' AND dtx.may_see(j.role);
COMMENT ON VIEW dtx_branches IS
    'branches that are not settled: of this node''s committed transactions (side coordinator), and of other nodes'' in doubt here (side participant); resolved ones are settled, and their coordinator was not heard on them yet';

CREATE VIEW dtx_transactions WITH (security_barrier) AS
    SELECT s.xid, 'active'::text AS state, s.pid, s.branches::bigint AS branches, s.begun_at,
           s.deadline
    FROM dtx.sessions() s
    UNION ALL
    SELECT g.xid, CASE g.state WHEN 'o' THEN 'active' WHEN 'c' THEN 'committing' ELSE 'rolling back' END,
           NULL, (SELECT pg_catalog.count(*) FROM dtx.branch b WHERE b.n OPERATOR(pg_catalog.=) g.n), g.opened_at, g.deadline
    FROM dtx.global g WHERE dtx.may_see(g.role)
    UNION ALL
    SELECT r.xid, 'rolling back', NULL, pg_catalog.count(*), NULL, NULL
    FROM dtx.rollbacks() r GROUP BY r.xid
    UNION ALL
    SELECT b.xid, b.state, NULL, pg_catalog.count(*), pg_catalog.min(b.created_at), NULL
    FROM dtx_branches b
    WHERE b.xid OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT s.xid FROM dtx.sessions() s UNION ALL SELECT g.xid FROM dtx.global g))
    GROUP BY b.xid, b.state;
COMMENT ON VIEW dtx_transactions IS
    'global transactions that are not over: active in a session here, rolling back, committing, or in doubt';

CREATE VIEW dtx_peers WITH (security_barrier) AS
    SELECT s.srvname::pg_catalog.text AS server, pg_catalog.pg_get_userbyid(c.role)::pg_catalog.text AS role, c.node, c.version,
           c.attempts OPERATOR(pg_catalog.=) 0 AND c.last_at IS NOT NULL AS reachable,
           c.last_at AS last_contact, c.attempts, c.last_error, c.next_attempt
    FROM dtx.contact c JOIN pg_catalog.pg_foreign_server s ON s.oid OPERATOR(pg_catalog.=) c.server
    WHERE dtx.may_see(c.role);
COMMENT ON VIEW dtx_peers IS 'the peers that this node has used, and how its worker gets on with them';

CREATE VIEW dtx_stats AS SELECT s.name, s.value FROM dtx.stats() s;
COMMENT ON VIEW dtx_stats IS 'counters of this database since the server started';

CREATE VIEW dtx_undo WITH (security_barrier) AS
    SELECT j.gid, u.seq, u.cid, u.relation::pg_catalog.regclass::pg_catalog.text AS relation,
           CASE u.op WHEN 'i' THEN 'INSERT' WHEN 'u' THEN 'UPDATE' ELSE 'DELETE' END AS op,
           dtx.image_decode(u.ctid, 'b') AS before,
           dtx.image_decode(u.ctid, 'a') AS after
    FROM dtx.undo_log u JOIN dtx.joined_branch j ON j.branch OPERATOR(pg_catalog.=) u.branch
    WHERE u.op OPERATOR(pg_catalog.<>) 'k'
      AND pg_catalog.has_table_privilege(u.relation, 'SELECT')
      AND NOT pg_catalog.row_security_active(u.relation);
COMMENT ON VIEW dtx_undo IS 'the undo log of branches in doubt here, decoded; calls output functions of types only';

CREATE VIEW dtx_locks WITH (security_barrier) AS
    SELECT u.relation::pg_catalog.regclass::pg_catalog.text AS relation, j.gid, dtx.gid_xid(j.gid) AS xid, pg_catalog.pg_get_userbyid(j.role)::pg_catalog.text AS role,
           j.joined_at,
           dtx.image_decode(u.ctid, 'k') AS row
    FROM dtx.undo_log u JOIN dtx.joined_branch j ON j.branch OPERATOR(pg_catalog.=) u.branch
    WHERE pg_catalog.has_table_privilege(u.relation, 'SELECT')
      AND NOT pg_catalog.row_security_active(u.relation);
COMMENT ON VIEW dtx_locks IS 'rows that branches in doubt hold';

CREATE VIEW dtx_history WITH (security_barrier) AS
    SELECT coalesce(dtx.gid_xid(i.parent),
                    h.node OPERATOR(pg_catalog.||) ':' OPERATOR(pg_catalog.||) i.n::text OPERATOR(pg_catalog.||) '.'
                      OPERATOR(pg_catalog.||) pg_catalog.lpad(pg_catalog.to_hex(i.r), 16, '0')) AS xid,
           i.b AS branch,
           CASE h.decision WHEN 'c' THEN 'committed' WHEN 'H' THEN 'committed, but rolled back by an operator at the participant'
                WHEN 'h' THEN 'rolled back, but committed at the participant' ELSE 'rolled back' END AS outcome,
           s.srvname::pg_catalog.text AS server, pg_catalog.pg_get_userbyid(i.role)::pg_catalog.text AS role, h.settled_at
    FROM dtx.history h
    CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(h.n), pg_catalog.unnest(h.r), pg_catalog.unnest(h.b),
                                  pg_catalog.unnest(h.server), pg_catalog.unnest(h.role), pg_catalog.unnest(h.parent)) AS i(n, r, b, server, role, parent)
    LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid OPERATOR(pg_catalog.=) i.server
    WHERE dtx.may_see(i.role);
COMMENT ON VIEW dtx_history IS 'settled branches of this node''s global transactions, as far back as dtx.history_retention';

CREATE VIEW dtx_frozen WITH (security_barrier) AS
    SELECT f.account, f.amount, dtx.gid_xid(f.gid) AS xid, pg_catalog.pg_get_userbyid(f.role)::pg_catalog.text AS role, f.frozen_at
    FROM dtx.frozen f WHERE dtx.may_see(f.role);
COMMENT ON VIEW dtx_frozen IS 'amounts that transfers in TCC have taken from accounts here and that are neither spent nor given back yet';

CREATE FUNCTION dtx.runner_trouble(role oid) RETURNS text
    AS 'MODULE_PATHNAME', 'dtx_runner_trouble' LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

CREATE VIEW dtx_subscriptions WITH (security_barrier) AS
    SELECT s.name, s.topic, f.srvname::pg_catalog.text AS server, s.handler, pg_catalog.pg_get_userbyid(s.role)::pg_catalog.text AS role, s.ordered,
           CASE WHEN s.paused THEN 'paused' WHEN r.oid IS NOT NULL OR t.trouble IS NOT NULL THEN 'failing' WHEN p.attempts OPERATOR(pg_catalog.>) 0 THEN 'failing' ELSE 'active' END AS state,
           CASE WHEN pg_catalog.pg_has_role(s.role, 'USAGE') THEN b.lag END AS lag, extract(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) b.oldest) AS lag_seconds,
           CASE WHEN p.delivered_at OPERATOR(pg_catalog.>) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) interval '1 min') THEN p.rate ELSE 0 END AS rate,
           coalesce(p.delivered, 0) AS delivered, p.delivered_at,
           u.retrying, u.waiting, u.leased, u.dead,
           coalesce(p.attempts, 0) AS attempts, p.next_attempt, CASE WHEN r.oid IS NOT NULL THEN 'the role cannot log in' ELSE coalesce(t.trouble, p.last_error, u.last_error) END AS last_error
    FROM dtx.subscription s
    LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) s.role AND NOT (r.rolcanlogin AND pg_catalog.has_database_privilege(r.oid, pg_catalog.current_database(), 'CONNECT')) AND s.server OPERATOR(pg_catalog.=) 0::oid AND s.handler IS NOT NULL
    LEFT JOIN pg_catalog.pg_foreign_server f ON f.oid OPERATOR(pg_catalog.=) s.server
    CROSS JOIN LATERAL (SELECT CASE WHEN s.server OPERATOR(pg_catalog.=) 0::oid AND s.handler IS NOT NULL THEN dtx.runner_trouble(s.role) END AS trouble) t
    LEFT JOIN dtx.position p ON p.subscription OPERATOR(pg_catalog.=) s.id AND p.generation OPERATOR(pg_catalog.=) s.generation
    CROSS JOIN LATERAL (SELECT pg_catalog.count(*) AS lag, pg_catalog.min(l.published_at) AS oldest FROM dtx.backlog(s.id, 9223372036854775807) l) b
    CROSS JOIN LATERAL (SELECT pg_catalog.count(*) FILTER (WHERE n.state OPERATOR(pg_catalog.=) 'r') AS retrying,
                               pg_catalog.count(*) FILTER (WHERE n.state OPERATOR(pg_catalog.=) 'w') AS waiting,
                               pg_catalog.count(*) FILTER (WHERE n.state OPERATOR(pg_catalog.=) 'l') AS leased,
                               pg_catalog.count(*) FILTER (WHERE n.state OPERATOR(pg_catalog.=) 'd') AS dead,
                               (pg_catalog.array_agg(n.last_error ORDER BY n.changed_at DESC) FILTER (WHERE n.last_error IS NOT NULL AND n.state OPERATOR(pg_catalog.<>) 'k'))[1] AS last_error
                        FROM dtx.undelivered n WHERE n.subscription OPERATOR(pg_catalog.=) s.id AND n.generation OPERATOR(pg_catalog.=) s.generation
                        AND NOT pg_catalog.pg_visible_in_snapshot(n.xid, s.start)) u
    WHERE dtx.may_see(s.role);
COMMENT ON VIEW dtx_subscriptions IS
    'subscriptions of this node, and how they get on: lag counts messages in the log that were not delivered yet, rate those delivered in a second';

CREATE VIEW dtx_dead_letters WITH (security_barrier) AS
    SELECT s.name AS subscription, u.id, u.topic, u.key, u.payload, u.headers, u.published_at, u.attempts,
           u.changed_at AS died_at, u.last_error
    FROM dtx.undelivered u JOIN dtx.subscription s ON s.id OPERATOR(pg_catalog.=) u.subscription AND s.generation OPERATOR(pg_catalog.=) u.generation
        AND NOT pg_catalog.pg_visible_in_snapshot(u.xid, s.start)
    WHERE u.state OPERATOR(pg_catalog.=) 'd' AND pg_catalog.pg_has_role(s.role, 'USAGE');
COMMENT ON VIEW dtx_dead_letters IS
    'messages that could not be handled, and are not tried again unless dtx_redeliver says so';

CREATE VIEW dtx_half_messages WITH (security_barrier) AS
    SELECT h.id, pg_catalog.pg_get_userbyid(h.role)::pg_catalog.text AS role, h.topic, h.key, h.payload, h.headers, h.prepared_at,
           CASE WHEN h.checker IS NULL THEN 'prepared' WHEN h.next_check IS NULL THEN 'exhausted' ELSE 'checking' END AS state,
           h.checker::pg_catalog.text AS checker, h.attempts, h.next_check, CASE WHEN h.next_check IS NOT NULL THEN coalesce(dtx.runner_trouble(h.role), h.last_error) ELSE h.last_error END AS last_error
    FROM dtx.half_message h WHERE pg_catalog.pg_has_role(h.role, 'USAGE');
COMMENT ON VIEW dtx_half_messages IS
    'messages that were prepared and neither committed nor rolled back; exhausted: the check function was asked often enough and did not know';

CREATE VIEW dtx_in_flight WITH (security_barrier) AS
    SELECT m.id, f.srvname::pg_catalog.text AS server, m.payload OPERATOR(pg_catalog.->>) 'from' AS from_account, m.payload OPERATOR(pg_catalog.->>) 'to' AS to_account,
           (m.payload OPERATOR(pg_catalog.->>) 'amount')::numeric AS amount, m.state, m.published_at AS sent_at, m.last_error
    FROM dtx.subscription s JOIN pg_catalog.pg_foreign_server f ON f.oid OPERATOR(pg_catalog.=) s.server
    CROSS JOIN LATERAL (
        SELECT b.id, b.payload, 'sent'::text AS state, b.published_at, NULL::text AS last_error FROM dtx.backlog(s.id, 9223372036854775807) b
        UNION ALL
        SELECT u.id, u.payload, CASE u.state WHEN 'd' THEN 'dead' ELSE 'retrying' END, u.published_at, u.last_error
        FROM dtx.undelivered u WHERE u.subscription OPERATOR(pg_catalog.=) s.id AND u.generation OPERATOR(pg_catalog.=) s.generation
        AND NOT pg_catalog.pg_visible_in_snapshot(u.xid, s.start)) m
    WHERE s.topic OPERATOR(pg_catalog.~~) 'dtx.transfer.%' AND pg_catalog.pg_has_role(s.role, 'USAGE');
COMMENT ON VIEW dtx_in_flight IS
    'transfers by message whose amount has left an account here and has not arrived yet; dead ones are among dtx_dead_letters';

CREATE VIEW dtx_notifications WITH (security_barrier) AS
    SELECT n.id, n.tx_no, s.srvname::pg_catalog.text AS server, pg_catalog.pg_get_userbyid(n.role)::pg_catalog.text AS role,
           CASE n.state WHEN 'r' THEN 'registered' WHEN 'd' THEN 'delivered' WHEN 'x' THEN 'exhausted' WHEN 'g' THEN 'discarded'
                        ELSE CASE WHEN t.disabled_at IS NULL THEN 'pending' ELSE 'stopped' END END AS state,
           CASE WHEN pg_catalog.pg_has_role(n.role, 'USAGE') THEN n.payload END AS payload,
           n.attempts, n.notified_at, CASE WHEN n.state OPERATOR(pg_catalog.=) 'd' THEN n.changed_at END AS delivered_at,
           greatest(n.next_attempt, CASE WHEN t.not_before OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() THEN t.not_before END) AS next_attempt,
           n.last_status,
           CASE WHEN n.state OPERATOR(pg_catalog.<>) 'd'
                THEN coalesce(n.last_error, CASE WHEN t.disabled_at IS NOT NULL OR t.not_before OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() THEN t.reason END)
           END AS last_error,
           CASE WHEN pg_catalog.pg_has_role(n.role, 'USAGE') THEN n.answer END AS answer
    FROM dtx.notification n
    LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid OPERATOR(pg_catalog.=) n.server
    LEFT JOIN dtx.target t ON n.state OPERATOR(pg_catalog.=) 'p' AND t.server OPERATOR(pg_catalog.=) n.server AND t.role OPERATOR(pg_catalog.=) n.role
    WHERE dtx.may_see(n.role);
COMMENT ON VIEW dtx_notifications IS
    'results that were given to dtx_notify here, a row a target, and how their notification gets on';

CREATE VIEW dtx_failed_attempts WITH (security_barrier) AS
    SELECT n.id, n.tx_no, s.srvname::pg_catalog.text AS server, pg_catalog.pg_get_userbyid(n.role)::pg_catalog.text AS role, f.attempt, f.failed_at, f.status, f.error,
           CASE WHEN pg_catalog.pg_has_role(n.role, 'USAGE') THEN f.answer END AS answer
    FROM dtx.failed_attempt f JOIN dtx.notification n ON n.id OPERATOR(pg_catalog.=) f.notification
    LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid OPERATOR(pg_catalog.=) n.server
    WHERE dtx.may_see(n.role);
COMMENT ON VIEW dtx_failed_attempts IS
    'attempts of notifications that failed, with what came back; a number that is missing was cut off, by a crash of this server say';

CREATE VIEW dtx_targets WITH (security_barrier) AS
    SELECT s.srvname::pg_catalog.text AS server, pg_catalog.pg_get_userbyid(n.role)::pg_catalog.text AS role, CASE WHEN t.disabled_at IS NOT NULL THEN 'disabled' ELSE 'enabled' END AS state,
           n.pending, n.exhausted, n.delivered, n.oldest_pending, n.last_delivered, t.disabled_at,
           CASE WHEN t.not_before OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() THEN t.not_before END AS not_before,
           CASE WHEN t.disabled_at IS NOT NULL OR t.not_before OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() THEN t.reason END AS reason,
           (SELECT l.last_error FROM dtx.notification l WHERE l.server OPERATOR(pg_catalog.=) n.server AND l.role OPERATOR(pg_catalog.=) n.role
              AND l.next_attempt IS NOT NULL AND l.last_error IS NOT NULL ORDER BY l.next_attempt LIMIT 1) AS last_error
    FROM (SELECT g.server, g.role, pg_catalog.count(*) FILTER (WHERE g.state OPERATOR(pg_catalog.=) 'p') AS pending,
                 pg_catalog.count(*) FILTER (WHERE g.state OPERATOR(pg_catalog.=) 'x') AS exhausted,
                 pg_catalog.count(*) FILTER (WHERE g.state OPERATOR(pg_catalog.=) 'd') AS delivered,
                 pg_catalog.min(g.notified_at) FILTER (WHERE g.state OPERATOR(pg_catalog.=) 'p') AS oldest_pending,
                 pg_catalog.max(g.changed_at) FILTER (WHERE g.state OPERATOR(pg_catalog.=) 'd') AS last_delivered
          FROM dtx.notification g WHERE g.server OPERATOR(pg_catalog.<>) 0::oid GROUP BY g.server, g.role) n
    JOIN pg_catalog.pg_foreign_server s ON s.oid OPERATOR(pg_catalog.=) n.server
    LEFT JOIN dtx.target t ON t.server OPERATOR(pg_catalog.=) n.server AND t.role OPERATOR(pg_catalog.=) n.role
    WHERE dtx.may_see(n.role);
COMMENT ON VIEW dtx_targets IS 'whom this node notifies, as which role, and how that gets on';

CREATE VIEW dtx_expectations WITH (security_barrier) AS
    SELECT e.tx_no, s.srvname::pg_catalog.text AS server, pg_catalog.pg_get_userbyid(e.role)::pg_catalog.text AS role,
           CASE e.state WHEN 'w' THEN 'waiting' WHEN 'c' THEN 'come' ELSE 'exhausted' END AS state,
           e.expected_at, e.due_at, e.attempts, e.next_attempt, e.ended_at, CASE WHEN e.next_attempt IS NOT NULL THEN coalesce(dtx.runner_trouble(e.role), e.last_error) ELSE e.last_error END AS last_error
    FROM dtx.expectation e LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid OPERATOR(pg_catalog.=) e.server
    WHERE dtx.may_see(e.role);
COMMENT ON VIEW dtx_expectations IS 'results that are expected from other nodes with dtx_expect';

/* -------------------------------------------------------------- rights */

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA dtx FROM PUBLIC;
-- what the views call, with the rights of who reads them
GRANT EXECUTE ON FUNCTION dtx.sessions(), dtx.rollbacks(), dtx.held_branches(), dtx.stats(), dtx.gid_xid(text), dtx.may_see(oid),
    dtx.image_decode(tid, "char"), dtx.is_attached(regclass), dtx.topic_matches(text, text), dtx.backlog(integer, bigint), dtx.runner_trouble(oid) TO PUBLIC;
-- who asks learns what others are told; whose handler is called acts for who notifies
REVOKE ALL ON FUNCTION dtx_outcome(text), dtx_on_notification(text, text, regrole) FROM PUBLIC;
-- who notifies speaks for this node; who accepts says what has come, and from whom
REVOKE ALL ON FUNCTION dtx_notify(name, text, jsonb, interval[]), dtx_accept(text, jsonb, text, text, text, interval) FROM PUBLIC;
-- who subscribes reads what others publish
REVOKE ALL ON FUNCTION dtx_subscribe(text, name, text, text, boolean, interval[], integer, integer, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION dtx_node_adopt(), dtx_node_reset(name), dtx_admit(regrole), dtx_resolve(text, text) FROM PUBLIC;
-- every transfer then moves money there
REVOKE ALL ON FUNCTION dtx_ledger(regclass, name, name) FROM PUBLIC;
-- they run inside a try, confirm or cancel only, with the rights of who transfers
GRANT EXECUTE ON FUNCTION dtx.ledger_freeze(text, numeric), dtx.ledger_spend(text, numeric),
    dtx.ledger_unfreeze(text, numeric), dtx.ledger_check(text, numeric), dtx.ledger_add(text, numeric) TO PUBLIC;
GRANT SELECT ON dtx_notifications, dtx_failed_attempts, dtx_targets, dtx_expectations, dtx_subscriptions, dtx_dead_letters, dtx_half_messages, dtx_in_flight, dtx_frozen, dtx_branches, dtx_transactions, dtx_peers, dtx_stats, dtx_undo, dtx_locks, dtx_history TO PUBLIC;

/* ----------------------------------------------------- logical replication */

-- A publication FOR ALL TABLES has these too, and then no row without an identity can be
-- updated or deleted by SQL. In the undo log none is: its images would be logged again.
DO $$
DECLARE
    rel pg_catalog.regclass;
BEGIN
    FOR rel IN
        SELECT c.oid FROM pg_catalog.pg_class c
        WHERE c.relnamespace OPERATOR(pg_catalog.=) 'dtx'::pg_catalog.regnamespace::pg_catalog.oid AND c.relkind OPERATOR(pg_catalog.=) 'r'
          AND c.relname OPERATOR(pg_catalog.<>) 'undo_log'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisprimary)
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY FULL', rel);
    END LOOP;
END
$$;

/* ---------------------------------------------------------------- start */

CREATE FUNCTION dtx.installed() RETURNS void
    AS 'MODULE_PATHNAME', 'dtx_installed' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION dtx.installed() FROM PUBLIC;
SELECT dtx.installed();
SELECT dtx.node_insert(pg_catalog.current_database());
