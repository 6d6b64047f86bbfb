--
-- dtx_notify: one notification a target and transaction, in the caller's transaction;
-- schedules, their end, redelivery, and the handler's answers.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
-- it is there if the transaction commits
BEGIN;
SELECT dtx_notify('peer', 'rolled back', '{}') > 0;
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT dtx_notify('peer', 'savepoint', '{}') > 0;
ROLLBACK TO s;
SELECT dtx_notify('peer', 'committed', '{"amount": 1.50, "text": "é\\\"", "none": null}') > 0;
COMMIT;
SELECT n.told(), n.got('b');
SELECT n.stand('%back'), n.stand('savepoint');
SELECT n.stand('committed');
-- the same again is the same; another result is refused
SELECT dtx_notify('peer', 'committed', '{"amount": 1.5, "none": null, "text": "é\\\""}') = id FROM dtx_notifications WHERE tx_no = 'committed';
SELECT m.try($$SELECT dtx_notify('peer', 'committed', '{"amount": 2}')$$);
BEGIN;
SELECT dtx_notify('peer', 'twice', '{}') = dtx_notify('peer', 'twice', '{}');
SELECT m.try($$SELECT dtx_notify('peer', 'twice', '[]')$$);
COMMIT;
SELECT n.told(), n.got('b');
-- another target gets one of its own, with what it is to be told
SELECT dtx_notify('c', 'committed', '{"amount": 2}', '{}') > 0;
SELECT n.told();
SELECT n.stand('committed');
-- registered only: for who asks
SELECT dtx_notify(NULL, 'registered', '{"b": 2}') = dtx_notify(NULL, 'registered', '{"b": 2}');
SELECT n.stand('registered');
-- what is no number, no payload, no schedule, no server
SELECT m.try($$SELECT dtx_notify('peer', '', '{}')$$);
SELECT m.try($$SELECT dtx_notify('peer', E'a\nb', '{}')$$);
SELECT m.try($$SELECT dtx_notify('peer', repeat('x', 256), '{}')$$);
SELECT m.try($$SELECT dtx_notify('peer', NULL, '{}')$$);
SELECT m.try($$SELECT dtx_notify('peer', 'x', NULL)$$);
SELECT m.try($$SELECT dtx_notify('peer', 'x', to_jsonb(repeat('x', 2000000)))$$);
SELECT m.try($$SELECT dtx_notify('peer', 'x', '{}', '{1s,-1s}')$$);
SELECT m.try($$SELECT dtx_notify('peer', 'x', '{}', '{NULL}')$$);
SELECT m.try($$SELECT dtx_notify('peer', 'x', '{}', '{1000 years}')$$);
SELECT m.try($$SELECT dtx_notify(NULL, 'x', '{}', '{1s}')$$);
SELECT m.try($$SELECT dtx_notify('nobody', 'x', '{}')$$);
CREATE SERVER n_unmapped FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'https://shop.example/');
SELECT m.try($$SELECT dtx_notify('n_unmapped', 'x', '{}')$$);
DROP SERVER n_unmapped;
BEGIN READ ONLY;
SELECT dtx_notify('peer', 'x', '{}');
ROLLBACK;
-- a number may have any letters, and 255 bytes
SELECT dtx_notify('peer', repeat('é', 127) || '/', '{}') > 0, dtx_notify('peer', ' %41:"', '{}') > 0;
SELECT n.told(), n.got('b') LIKE ANY (ARRAY['%é/ {}%', '% %41:"%']);

-- a handler that fails: again by the schedule, then exhausted, then redelivered
SELECT n.trouble('failing', 'no such account');
SELECT dtx_notify('peer', 'failing', '{"c": 3}', '{10ms,20ms}') > 0;
SELECT n.told(), n.got('b');
SELECT n.stand('failing');
SELECT attempt, status, error, answer FROM dtx_failed_attempts WHERE tx_no = 'failing' ORDER BY attempt;
SELECT dtx_redeliver(array_agg(id)) FROM dtx_notifications WHERE tx_no = 'failing';
SELECT n.told();
SELECT n.stand('failing');
SELECT n.mend();
SELECT dtx_redeliver(array_agg(id), 'no subscription') FROM dtx_notifications WHERE tx_no = 'failing';
SELECT dtx_redeliver(array_agg(id)) FROM dtx_notifications WHERE tx_no IN ('failing', 'committed', 'registered') AND server IS DISTINCT FROM 'c';
SELECT n.told(), n.got('b');
SELECT n.stand('failing');
-- what was delivered is not delivered again
SELECT dtx_redeliver(array_agg(id)) FROM dtx_notifications WHERE tx_no = 'failing';
-- without a schedule there is one attempt
SELECT n.trouble('once', 'no');
SELECT dtx_notify('peer', 'once', '{}', '{}') > 0;
SELECT n.told();
SELECT n.stand('once');
-- the default begins with a minute
SELECT n.trouble('default', 'no');
SELECT dtx_notify('peer', 'default', '{}') > 0;
SELECT m.wait('a', $$SELECT last_error IS NOT NULL FROM dtx_notifications WHERE tx_no = 'default'$$);
SELECT n.stand('default'), next_attempt - notified_at BETWEEN '50s' AND '70s' FROM dtx_notifications WHERE tx_no = 'default';
-- refused for good: no more attempts
SELECT n.trouble('refused', 'refuse');
SELECT dtx_notify('peer', 'refused', '{}') > 0;
SELECT n.told('refused');
SELECT n.stand('refused');
-- put off: that is no attempt
SELECT n.trouble('deferred', 'defer 50ms');
SELECT dtx_notify('peer', 'deferred', '{}', '{1min}') > 0;
SELECT m.wait('a', $$SELECT last_error IS NOT NULL FROM dtx_notifications WHERE tx_no = 'deferred'$$);
SELECT attempts, last_error, next_attempt - notified_at < '30s' FROM dtx_notifications WHERE tx_no = 'deferred';
SELECT n.mend('deferred');
SELECT n.told('deferred');
SELECT n.stand('deferred'), n.got('b') = 'deferred {}';
-- one that fails harms no other of its batch
SELECT n.trouble('b3', 'no');
BEGIN;
SELECT count(dtx_notify('peer', 'b' || i, '{}', '{}')) FROM generate_series(1, 5) i;
COMMIT;
SELECT n.told('b_');
SELECT n.stand('b_');
SELECT n.got('b');
-- nor one that fails at the end of the transaction there
SELECT m.at('b', $$CREATE FUNCTION n.late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF new.what LIKE ''d3%'' THEN RAISE EXCEPTION ''too late''; END IF; RETURN NULL; END'$$);
SELECT m.at('b', 'CREATE CONSTRAINT TRIGGER late AFTER INSERT ON n.applied DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION n.late()');
BEGIN;
SELECT count(dtx_notify('peer', 'd' || i, '{}', '{}')) FROM generate_series(1, 5) i;
COMMIT;
SELECT n.told('d_');
SELECT n.stand('d_');
SELECT n.got('b');
SELECT m.at('b', 'DROP TRIGGER late ON n.applied');

-- given up
SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE tx_no IN ('once', 'default', 'refused', 'failing');
SELECT n.stand('once'), n.stand('default'), n.stand('refused');
SELECT server, state, attempts, last_error FROM dtx_outcome('default');

-- stopped by hand
SELECT dtx_target_disable('peer');
SELECT dtx_notify('peer', 'stopped', '{}') > 0;
SELECT n.stand('stopped');
SELECT state, pending, reason FROM dtx_targets WHERE server = 'peer';
SELECT dtx_target_enable('peer');
SELECT n.told('stopped'), n.got('b');
SELECT state, pending, exhausted > 0, reason FROM dtx_targets WHERE server = 'peer';

-- an endpoint that is not there, and one that must not be
CREATE SERVER n_nowhere FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'http://127.0.0.1:1/', allow_private 'true');
CREATE SERVER n_private FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'http://127.0.0.1:1/');
CREATE SERVER n_private6 FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'http://[::ffff:10.0.0.1]/');
CREATE USER MAPPING FOR CURRENT_USER SERVER n_nowhere OPTIONS (unsigned 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER n_private OPTIONS (unsigned 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER n_private6 OPTIONS (unsigned 'true');
SELECT dtx_notify('n_nowhere', 'http', '{}', '{10ms}') > 0, dtx_notify('n_private', 'http', '{}', '{}') > 0, dtx_notify('n_private6', 'http', '{}', '{}') > 0;
SELECT n.told('http');
SELECT regexp_replace(n.stand('http'), ' 127.0.0.1.*', '');
-- what is pending keeps what it needs
SELECT dtx_notify('n_nowhere', 'pending', '{}') > 0;
SELECT m.try('DROP SERVER n_nowhere CASCADE');
SELECT m.try('DROP USER MAPPING FOR CURRENT_USER SERVER n_nowhere');
SELECT m.try('DROP EXTENSION dtx CASCADE');
SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE tx_no = 'pending';
DROP SERVER n_nowhere, n_private, n_private6 CASCADE;
SELECT tx_no, server, state FROM dtx_notifications WHERE tx_no = 'pending';
-- a mapping that has lost its secret
CREATE SERVER n_secret FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'http://127.0.0.1:1/', allow_private 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER n_secret OPTIONS (token 'abc');
SELECT m.try($$SELECT dtx_notify('n_secret', 'secret', '{}')$$);
ALTER USER MAPPING FOR CURRENT_USER SERVER n_secret OPTIONS (ADD secret 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
SELECT dtx_target_disable('n_secret');
SELECT dtx_notify('n_secret', 'secret', '{}', '{}') > 0;
ALTER USER MAPPING FOR CURRENT_USER SERVER n_secret OPTIONS (DROP secret);
SELECT dtx_target_enable('n_secret');
SELECT n.told('secret');
SELECT n.stand('secret');
DROP SERVER n_secret CASCADE;
