--
-- Who may notify, ask, be told, and see what.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE ROLE n_payer LOGIN;
CREATE ROLE n_merchant LOGIN;
CREATE ROLE n_stranger LOGIN;
GRANT USAGE ON SCHEMA n, m TO n_payer, n_merchant, n_stranger;
CREATE SERVER n_shop FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'https://shop.invalid/');
-- to notify has to be granted: who does speaks for this node
SET ROLE n_payer;
SELECT m.try($$SELECT dtx_notify(NULL, 'p0', '{"amount": 1000000}')$$);
-- and to accept: who does says what has come
SELECT m.try($$SELECT dtx_accept('{}', '{}', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')$$);
SELECT m.try($$SELECT dtx_verify('{}', '{}', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION dtx_notify TO n_payer, n_stranger;
-- a server has to be granted, and mapped
SET ROLE n_payer;
SELECT m.try($$SELECT dtx_notify('n_shop', 'p1', '{"amount": 1}')$$);
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER n_shop TO n_payer;
SET ROLE n_payer;
SELECT m.try($$SELECT dtx_notify('n_shop', 'p1', '{"amount": 1}')$$);
RESET ROLE;
CREATE USER MAPPING FOR n_payer SERVER n_shop OPTIONS (secret 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
SET ROLE n_payer;
SELECT dtx_target_disable('n_shop');
SELECT dtx_notify('n_shop', 'p1', '{"amount": 1}') > 0;
SELECT tx_no, server, state, payload FROM dtx_notifications;
SELECT server, role, state, pending FROM dtx_targets;
-- its own results it sees in the view; to ask has to be granted
SELECT m.try($$SELECT count(*) FROM dtx_outcome('p1')$$);
RESET ROLE;
-- another role's number is not its to notify again, or to see
GRANT USAGE ON FOREIGN SERVER n_shop TO n_stranger;
CREATE USER MAPPING FOR n_stranger SERVER n_shop OPTIONS (unsigned 'true');
SET ROLE n_stranger;
SELECT m.try($$SELECT dtx_notify('n_shop', 'p1', '{"amount": 1}')$$);
SELECT m.try($$SELECT dtx_notify('n_shop', 'p1', '{"amount": 2}')$$);
SELECT count(*) FROM dtx_notifications;
SELECT count(*) FROM dtx_targets;
SELECT dtx_discard(ARRAY(SELECT generate_series(1, 10000)::bigint)), dtx_redeliver(ARRAY(SELECT generate_series(1, 10000)::bigint));
-- nor to enable; what it disables is its own
SELECT dtx_target_enable('n_shop');
SELECT m.try($$SELECT count(*) FROM dtx.notification$$);
SELECT m.try($$SELECT dtx_on_notification('n.apply')$$);
SELECT m.try($$SELECT * FROM dtx.outcome('p1', '{}')$$);
SELECT m.try($$SELECT * FROM dtx.receive('x.00000000', 1, '[]')$$);
RESET ROLE;
SELECT state, pending FROM dtx_targets WHERE role = 'n_payer';
-- who monitors sees no contents
GRANT pg_monitor TO n_stranger;
SET ROLE n_stranger;
SELECT tx_no, server, state, payload, answer FROM dtx_notifications WHERE tx_no = 'p1';
RESET ROLE;
REVOKE pg_monitor FROM n_stranger;
-- who may ask gets any result whose number it knows, but for servers that name a receiver
GRANT EXECUTE ON FUNCTION dtx_outcome(text) TO n_merchant, n_stranger;
SET ROLE n_stranger;
SELECT server, state, payload, attempts FROM dtx_outcome('p1');
RESET ROLE;
ALTER SERVER n_shop OPTIONS (ADD receiver 'n_merchant');
SET ROLE n_stranger;
SELECT count(*) FROM dtx_outcome('p1');
SET ROLE n_merchant;
SELECT server, state, payload, attempts FROM dtx_outcome('p1');
SELECT count(*) FROM dtx_notifications;
RESET ROLE;
-- who is in doubt about its secret: a role that is gone
ALTER SERVER n_shop OPTIONS (SET receiver 'n_nobody');
SET ROLE n_merchant;
SELECT count(*) FROM dtx_outcome('p1');
RESET ROLE;
GRANT EXECUTE ON FUNCTION dtx_outcome(text) TO n_payer;
SET ROLE n_payer;
SELECT count(*) FROM dtx_outcome('p1');
SELECT dtx_discard(array_agg(id)) FROM dtx_notifications;
-- not after its server is gone, either
SELECT dtx_notify('n_shop', 'p1 again', '{"amount": 1}') > 0;
SELECT dtx_discard(array_agg(id)) FROM dtx_notifications;
RESET ROLE;
-- a role's target is enabled and disabled by who has its rights, a superuser for one
SELECT dtx_target_enable('n_shop'), dtx_target_enable('n_shop', 'n_payer');
SELECT state FROM dtx_targets WHERE role = 'n_payer';
SELECT dtx_target_disable('n_shop', 'n_payer');
SELECT state FROM dtx_targets WHERE role = 'n_payer';
SET ROLE n_stranger;
SELECT m.try($$SELECT dtx_target_enable('n_shop', 'n_payer')$$);
SELECT m.try($$SELECT dtx_target_disable('n_shop', 'n_payer')$$);
SELECT m.try($$SELECT dtx_target_disable(NULL)$$);
RESET ROLE;
ALTER SERVER n_shop OPTIONS (SET receiver 'n_merchant');
DROP SERVER n_shop CASCADE;
SET ROLE n_stranger;
SELECT count(*) FROM dtx_outcome('p1');
SET ROLE n_payer;
SELECT server, state FROM dtx_outcome('p1');
SELECT dtx_redeliver(array_agg(id)) FROM dtx_notifications;
RESET ROLE;
-- over libpq: a role that is admitted asks, and its handler runs with its rights
SELECT m.at('b', 'CREATE USER MAPPING FOR n_merchant SERVER a OPTIONS (user ''n_merchant'', password_required ''false'')');
SELECT m.at('b', 'GRANT USAGE ON FOREIGN SERVER a TO n_merchant; GRANT USAGE ON SCHEMA n TO n_merchant');
SELECT dtx_notify(NULL, 'p2', '{"amount": 2}') > 0;
SELECT m.at('b', $$SELECT dtx_reconcile('a', 'p2')$$, 'n_merchant');
SELECT dtx_admit('n_merchant');
SELECT m.at('b', $$SELECT dtx_reconcile('a', 'p2')$$, 'n_merchant');
SELECT m.at('b', 'GRANT ALL ON n.applied, n.trouble TO n_merchant');
SELECT m.at('b', $$SELECT dtx_reconcile('a', 'p2')$$, 'n_merchant'), n.got('b');
SELECT m.at('b', $$SELECT role::regrole FROM dtx.received WHERE tx_no = 'p2'$$);
-- and so does what it expects
SELECT dtx_notify(NULL, 'p3', '{"amount": 3}') > 0;
SELECT m.at('b', $$SELECT dtx_expect('a', 'p3', '0')$$, 'n_merchant');
SELECT m.wait('b', $$SELECT state = 'come' FROM dtx_expectations WHERE tx_no = 'p3'$$), n.got('b');
SELECT m.at('b', $$SELECT role::regrole FROM dtx.received WHERE tx_no = 'p3'$$);
-- a sender may be bound to a role: others do not speak for it
SELECT m.at('b', 'GRANT n_merchant TO n_payer');
SELECT m.at('b', $$SELECT dtx_admit('n_payer')$$), m.at('b', $$SELECT dtx_admit('n_stranger')$$);
SELECT m.at('b', $$SELECT dtx_on_notification('n.apply', 'bank9', 'n_merchant')$$);
CREATE FUNCTION n.tell(sender text, username text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT m.at('b', format($q$SELECT coalesce((SELECT state || ': ' || detail FROM dtx.receive(%L, 0, '[[1, "", "told", 0, 0, {}]]')), 'applied')$q$, sender), username) $$;
SELECT n.tell('bank9.00000000', 'n_stranger');
SELECT n.tell('bank9.00000000', 'n_payer'), n.got('b');
SELECT n.tell('bank8.00000000', 'n_payer'), n.got('b');
SELECT n.tell('bank8', 'n_payer'), n.tell('.00000000', 'n_payer'), n.tell('bank8.', 'n_payer');
SELECT m.at('b', $$SELECT dtx_on_notification(NULL, 'bank9')$$);
-- another role's expectation is not taken over
SELECT m.at('b', 'GRANT USAGE ON FOREIGN SERVER a TO n_payer'), m.at('b', 'CREATE USER MAPPING FOR n_payer SERVER a OPTIONS (user ''n_merchant'', password_required ''false'')');
SELECT m.at('b', $$SELECT dtx_expect('a', 'p6', '1 day')$$);
SELECT m.at('b', $$SELECT dtx_expect('a', 'p6', '1 hour')$$, 'n_payer');
SELECT m.at('b', $$SELECT dtx_unexpect('a', 'p6')$$);
SELECT m.at('b', 'DROP USER MAPPING FOR n_payer SERVER a'), m.at('b', 'REVOKE n_merchant FROM n_payer');
-- a role that cannot log in has no process
SELECT m.at('b', 'ALTER ROLE n_stranger NOLOGIN; GRANT n_stranger TO n_merchant; GRANT USAGE ON FOREIGN SERVER a TO n_stranger; CREATE USER MAPPING FOR n_stranger SERVER a OPTIONS (user ''x'')');
SELECT m.connect('merchant', 'b', 'n_merchant');
SELECT m.run('merchant', 'SET ROLE n_stranger');
SELECT m.run('merchant', $$SELECT dtx_expect('a', 'p4', '0')$$);
SELECT m.bye('merchant');
-- what is waited for keeps its role
SELECT m.at('b', $$SELECT dtx_expect('a', 'p5', '1 day')$$, 'n_merchant');
SELECT m.try('DROP ROLE n_merchant');
SELECT m.at('b', $$SELECT dtx_unexpect('a', 'p5')$$, 'n_merchant');

SELECT m.at('b', 'DROP USER MAPPING FOR n_merchant SERVER a'), m.at('b', 'DROP USER MAPPING FOR n_stranger SERVER a'), m.at('b', 'DROP OWNED BY n_payer, n_merchant, n_stranger');
DROP OWNED BY n_payer, n_merchant, n_stranger;
DROP ROLE n_payer, n_merchant, n_stranger;
