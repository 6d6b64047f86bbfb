--
-- The rights of every object of the extension, one line each: what everybody has, what a role
-- that was admitted has besides, and the object. An object without a line here fails, and so does
-- a line without an object. x: execute; sel and the like: privileges; -: nothing; g: nothing until
-- it is granted. Superusers have all.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP ROLE IF EXISTS dtx_api_everybody;
DROP ROLE IF EXISTS dtx_api_admitted;
CREATE ROLE dtx_api_everybody;
CREATE ROLE dtx_api_admitted;
SELECT dtx_admit('dtx_api_admitted');
CREATE TABLE api.expected (line text);
COPY api.expected FROM stdin;
g   g   function dtx_accept(text,jsonb,text,text,text,interval)
x   x   function dtx_ack(text,bigint[])
-   -   function dtx_admit(regrole)
x   x   function dtx_attach(regclass)
x   x   function dtx_attach_all(regnamespace)
x   x   function dtx_begin(text,interval)
x   x   function dtx_commit(text)
x   x   function dtx_detach(regclass)
x   x   function dtx_discard(bigint[],text)
x   x   function dtx_exec(name,text)
x   x   function dtx_exec(name,text,"any")
x   x   function dtx_expect(name,text,interval,interval[])
x   x   function dtx_join(text)
x   x   function dtx_join(text,text)
g   g   function dtx_ledger(regclass,name,name)
x   x   function dtx_message_commit(bigint)
x   x   function dtx_message_prepare(text,jsonb,text,text,jsonb)
x   x   function dtx_message_rollback(bigint)
x   x   function dtx_nack(text,bigint[],interval)
-   -   function dtx_node_adopt()
-   -   function dtx_node_reset(name)
g   g   function dtx_notify(name,text,jsonb,interval[])
g   g   function dtx_on_notification(text,text,regrole)
x   x   function dtx_open(interval,text,regrole[],boolean)
g   x   function dtx_outcome(text)
x   x   function dtx_pause(text)
x   x   function dtx_peer(name,text,regrole,regrole)
x   x   function dtx_ping(name)
x   x   function dtx_publish(text,jsonb,text,jsonb,timestamp with time zone)
x   x   function dtx_query(name,text)
x   x   function dtx_query(name,text,"any")
x   x   function dtx_receive(text,integer,interval,interval)
x   x   function dtx_reconcile(name,text)
x   x   function dtx_redeliver(bigint[],text)
x   x   function dtx_redeliver(text,text,timestamp with time zone,text)
g   g   function dtx_resolve(text,text)
x   x   function dtx_resume(text)
x   x   function dtx_retry(text)
x   x   function dtx_rollback(text)
x   x   function dtx_seek(text,bigint)
x   x   function dtx_seek(text,text)
x   x   function dtx_seek(text,timestamp with time zone)
x   x   function dtx_status(text)
g   g   function dtx_subscribe(text,name,text,text,boolean,interval[],integer,integer,boolean)
x   x   function dtx_target_disable(name,regrole)
x   x   function dtx_target_enable(name,regrole)
x   x   function dtx_tcc_define(text,regprocedure,regprocedure,regprocedure)
x   x   function dtx_tcc_drop(text)
x   x   function dtx_transfer(name,text,text,numeric,text)
x   x   function dtx_try(name,text,jsonb)
x   x   function dtx_unexpect(name,text)
x   x   function dtx_unsubscribe(text)
x   x   function dtx_verify(text,jsonb,text,interval)
x   x   function dtx_wait(text,interval)
x   x   function dtx_xid()
sel sel view dtx_branches
sel sel view dtx_dead_letters
sel sel view dtx_expectations
sel sel view dtx_failed_attempts
sel sel view dtx_frozen
sel sel view dtx_half_messages
sel sel view dtx_history
sel sel view dtx_in_flight
sel sel view dtx_locks
sel sel view dtx_notifications
sel sel view dtx_peers
sel sel view dtx_stats
sel sel view dtx_subscriptions
sel sel view dtx_targets
sel sel view dtx_transactions
sel sel view dtx_undo
x   x   function dtx.backlog(integer,bigint)
-   x   function dtx.branch_await(text,integer)
-   x   function dtx.branch_control(bigint)
-   x   function dtx.branch_enter(integer)
-   x   function dtx.branch_flush()
-   x   function dtx.branch_join(text,text,integer,integer,integer,bigint)
-   x   function dtx.branch_join(text,text,integer,integer,integer,bigint,text[],bigint)
-   x   function dtx.branch_pending(text[],integer)
-   x   function dtx.branch_register(text,text,text,bigint)
-   x   function dtx.branch_settle(text[],integer,bigint,text[],boolean[],text,bigint[])
-   x   function dtx.branch_vote(text[])
-   -   function dtx.capture()
-   -   function dtx.define_actions()
-   x   function dtx.deliver(bigint,integer,bigint,bigint,bigint,boolean,integer,text,jsonb)
-   -   function dtx.fdw_validator(text[],oid)
x   x   function dtx.gid_xid(text)
-   -   function dtx.guard_rewrite()
x   x   function dtx.held_branches()
-   -   function dtx.identity_is_trusted()
x   x   function dtx.image_decode(tid,"char")
-   -   function dtx.installed()
x   x   function dtx.is_attached(regclass)
x   x   function dtx.ledger_add(text,numeric)
x   x   function dtx.ledger_check(text,numeric)
-   x   function dtx.ledger_credit(text,numeric)
x   x   function dtx.ledger_freeze(text,numeric)
-   x   function dtx.ledger_receive(jsonb)
x   x   function dtx.ledger_spend(text,numeric)
x   x   function dtx.ledger_unfreeze(text,numeric)
-   -   function dtx.may_ask(oid,oid,oid)
x   x   function dtx.may_see(oid)
-   -   function dtx.node_changed()
-   -   function dtx.node_id(name,text)
-   -   function dtx.node_insert(name)
-   -   function dtx.node_place()
-   -   function dtx.not_in_branch()
-   x   function dtx.outcome(text,text[])
-   x   function dtx.peer_hello(integer)
-   x   function dtx.read_begin(integer)
-   x   function dtx.receive(text,integer,jsonb)
x   x   function dtx.rollbacks()
-   -   function dtx.segment_create(integer)
x   x   function dtx.runner_trouble(oid)
x   x   function dtx.sessions()
x   x   function dtx.stats()
-   -   function dtx.tcc_confirm_local()
-   x   function dtx.tcc_try(text,text)
x   x   function dtx.topic_matches(text,text)
-   -   event trigger dtx_guard_rewrite
-   -   foreign-data wrapper dtx_fdw
-   usa schema dtx
-   -   sequence dtx.message_id
-   -   sequence dtx.shared_b
-   -   sequence dtx.subscription_id_seq
-   -   table dtx."position"
-   -   table dtx.branch
-   -   table dtx.cancel_log
-   -   table dtx.confirm_log
-   -   table dtx.contact
-   -   table dtx.coordinator
-   -   table dtx.de_duplication
-   -   table dtx.delayed_message
-   -   table dtx.expectation
-   -   table dtx.failed_attempt
-   -   table dtx.frozen
-   -   table dtx.global
-   -   table dtx.half_message
-   -   table dtx.handling
-   -   table dtx.held_message
-   -   table dtx.held_notification
-   -   table dtx.history
-   -   table dtx.joined_branch
-   -   table dtx.ledger
-   -   table dtx.message
-   -   table dtx.message_segment
-   -   table dtx.node
-   -   table dtx.notification
-   -   table dtx.notification_handler
-   -   table dtx.received
-   -   table dtx.relation_shape
-   -   table dtx.resolution
-   -   table dtx.settled
-   -   table dtx.subscription
-   -   table dtx.target
-   -   table dtx.tcc_action
-   -   table dtx.try_log
-   -   table dtx.undelivered
-   -   table dtx.undo_log
\.
CREATE FUNCTION api.objects(OUT class oid, OUT id oid, OUT object text) RETURNS SETOF record LANGUAGE sql SET search_path = pg_catalog AS $$
    SELECT d.classid, d.objid,
        regexp_replace(CASE d.classid WHEN 'pg_proc'::regclass THEN 'function ' || d.objid::regprocedure
                       ELSE i.type || ' ' || i.identity END, ' public\.', ' ')
    FROM pg_depend d, pg_identify_object(d.classid, d.objid, 0) i
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
      AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dtx')
      -- segments of the log are as dtx.message
      AND NOT (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'dtx.message'::regclass))
      -- later versions count the row types of tables, and arrays of them
      AND NOT (d.classid = 'pg_type'::regclass AND d.objid IN (SELECT oid FROM pg_type WHERE typrelid <> 0 UNION SELECT typarray FROM pg_type WHERE typrelid <> 0))
$$;
CREATE FUNCTION api.rights(role name, class oid, id oid) RETURNS text LANGUAGE sql SET search_path = pg_catalog AS $$
    SELECT coalesce(nullif(CASE class
        WHEN 'pg_proc'::regclass THEN CASE WHEN has_function_privilege(role, id, 'EXECUTE') THEN 'x' END
        WHEN 'pg_class'::regclass THEN (
            SELECT string_agg(lower(left(p, 3)), ',' ORDER BY n)
            FROM pg_class c, unnest(CASE WHEN c.relkind = 'S' THEN '{USAGE,SELECT,UPDATE}'::text[]
                                    ELSE '{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}' END) WITH ORDINALITY u(p, n)
            WHERE c.oid = id AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(role, id, p)
                WHEN p IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') THEN has_any_column_privilege(role, id, p)
                ELSE has_table_privilege(role, id, p) END)
        WHEN 'pg_namespace'::regclass THEN
            (SELECT string_agg(lower(left(p, 3)), ',') FROM unnest('{USAGE,CREATE}'::text[]) p WHERE has_schema_privilege(role, id, p))
        WHEN 'pg_foreign_data_wrapper'::regclass THEN CASE WHEN has_foreign_data_wrapper_privilege(role, id, 'USAGE') THEN 'usa' END
        END, ''), '-')
$$;
CREATE VIEW api.differences AS
    SELECT format('%s %s %s', a.everybody, a.admitted, a.object) AS found, e.line AS expected
    FROM (SELECT object, api.rights('dtx_api_everybody', class, id) AS everybody, api.rights('dtx_api_admitted', class, id) AS admitted
          FROM api.objects()) a
    FULL JOIN (SELECT line, regexp_replace(line, '^\S+\s+\S+\s+', '') AS object, (regexp_match(line, '^\S+'))[1] AS everybody,
                      (regexp_match(line, '^\S+\s+(\S+)'))[1] AS admitted FROM api.expected) e USING (object)
    WHERE (a.everybody, a.admitted) IS DISTINCT FROM (replace(e.everybody, 'g', '-'), replace(e.admitted, 'g', '-'));
-- what is found, and what is expected instead; nothing, if all is well
SELECT * FROM api.differences ORDER BY coalesce(found, expected) COLLATE "C";
-- a function with its owner's rights, of which there are none
SELECT object FROM api.objects() JOIN pg_proc ON class = 'pg_proc'::regclass AND oid = id WHERE prosecdef;
-- nobody but superusers owns one, nor may somebody pass rights on
SELECT object FROM api.objects() JOIN pg_shdepend s ON s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND s.classid = class AND s.objid = id AND s.deptype = 'o' JOIN pg_roles r ON r.oid = s.refobjid WHERE NOT rolsuper;
SELECT object FROM api.objects() JOIN (SELECT 'pg_proc'::regclass AS class, oid AS id, proacl AS acl FROM pg_proc
    UNION ALL SELECT 'pg_class'::regclass, oid, relacl FROM pg_class UNION ALL SELECT 'pg_namespace'::regclass, oid, nspacl FROM pg_namespace) a USING (class, id),
    aclexplode(acl) x WHERE x.is_grantable AND x.grantee <> 10;
-- a new object would be seen
CREATE FUNCTION dtx.forgotten(integer) RETURNS void LANGUAGE sql AS '';
ALTER EXTENSION dtx ADD FUNCTION dtx.forgotten(integer);
SELECT * FROM api.differences;
ALTER EXTENSION dtx DROP FUNCTION dtx.forgotten(integer);
DROP FUNCTION dtx.forgotten(integer);
DROP VIEW api.differences;
DROP FUNCTION api.objects(), api.rights(name, oid, oid);
DROP TABLE api.expected;
DROP OWNED BY dtx_api_admitted;
DROP ROLE dtx_api_everybody, dtx_api_admitted;
