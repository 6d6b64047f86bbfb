--
-- Transfers by message: the amount leaves here, and arrives there later.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
-- ledgers of these tests alone
CREATE TABLE msg.former AS SELECT * FROM dtx.ledger;
CREATE TABLE msg.money (account text PRIMARY KEY, balance numeric NOT NULL);
INSERT INTO msg.money VALUES ('1', 1000), ('2', 50);
SELECT dtx_ledger('msg.money', 'account', 'balance');
SELECT m.at('b', 'CREATE TABLE msg.money (account text PRIMARY KEY, balance numeric NOT NULL CHECK (balance < 10000))');
SELECT m.at('b', $$INSERT INTO msg.money VALUES ('A', 0), ('B', 0)$$);
SELECT m.at('b', $$SELECT dtx_ledger('msg.money', 'account', 'balance')$$);
-- what there is: here, in flight, there; and in all
CREATE FUNCTION msg.money() RETURNS text LANGUAGE sql AS $$
  SELECT format('here %s, in flight %s, there %s, together %s', here, flight, there, here + flight + there)
  FROM (SELECT (SELECT sum(balance) FROM msg.money) AS here, (SELECT coalesce(sum(amount), 0) FROM dtx_in_flight) AS flight,
          (SELECT s::numeric FROM m.at('b', 'SELECT sum(balance)::text FROM msg.money') AS s) AS there) AS sums $$;
CREATE FUNCTION msg.landed() RETURNS text LANGUAGE sql AS $$
  SELECT m.wait('a', 'NOT EXISTS (SELECT FROM dtx_in_flight WHERE state <> ''dead'')') || ': ' || msg.money() $$;
SELECT msg.money();
SELECT dtx_transfer('peer', '1', 'A', 100, mode => 'message')::bigint > 0;
SELECT msg.landed();
SELECT m.at('b', $$SELECT account || ' has ' || balance FROM msg.money ORDER BY account$$);
SELECT name ~ '^transfers to peer as ', topic LIKE 'dtx.transfer.%', server, handler, state FROM dtx_subscriptions;
-- in a transaction, with others; in flight while nobody lets it in
CALL api.close_peer();
BEGIN;
SELECT dtx_transfer('peer', '1', 'A', 10, 'message') IS NOT NULL, dtx_transfer('peer', '1', 'B', 20.5, 'message') IS NOT NULL;
COMMIT;
BEGIN;
SELECT dtx_transfer('peer', '1', 'A', 500, 'message') IS NOT NULL;
ROLLBACK;
SELECT server, from_account, to_account, amount, state, sent_at <= now(), last_error FROM dtx_in_flight ORDER BY id;
SELECT sum(balance) FROM msg.money;
CALL api.open_peer();
SELECT dtx_resume(name) FROM dtx_subscriptions;
SELECT msg.landed();
-- refused here: nothing is sent
SELECT m.try(format('SELECT dtx_transfer(%s, mode => ''message'')', arguments)) FROM unnest(ARRAY[
  '''peer'', ''1'', ''A'', 0', '''peer'', ''1'', ''A'', -1', '''peer'', ''none'', ''A'', 1', '''peer'', ''2'', ''A'', 50.01', 'NULL, ''1'', ''2'', 1',
  '''nowhere'', ''1'', ''A'', 1', '''peer'', NULL, ''A'', 1']) AS arguments;
SELECT msg.landed();
-- an unknown account: a dead letter, and money in flight
SELECT dtx_transfer('peer', '1', 'C', 70, 'message') IS NOT NULL, dtx_transfer('peer', '1', 'A', 1, 'message') IS NOT NULL, dtx_transfer('peer', '1', 'D', 5, 'message') IS NOT NULL;
SELECT msg.landed();
SELECT to_account, amount, state, last_error FROM dtx_in_flight ORDER BY id;
SELECT topic LIKE 'dtx.transfer.%', key, payload, attempts, last_error FROM dtx_dead_letters ORDER BY id;
-- the account is opened
SELECT m.at('b', $$INSERT INTO msg.money VALUES ('C', 0)$$);
SELECT dtx_redeliver(array_agg(id)) FROM dtx_dead_letters WHERE key = 'C';
SELECT msg.landed();
-- the other one is given up, and paid back by hand, in one transaction
BEGIN;
SELECT dtx_discard(array_agg(id)) FROM dtx_dead_letters WHERE key = 'D';
UPDATE msg.money SET balance = balance + 5 WHERE account = '1';
COMMIT;
SELECT msg.landed();
SELECT count(*) FROM dtx_in_flight;
-- one that its table refuses is tried again, and arrives when there is room
SELECT dtx_transfer('peer', '1', 'B', 0.5, 'message') IS NOT NULL;
SELECT m.at('b', $$UPDATE msg.money SET balance = 9999.9 WHERE account = 'A'$$);
SELECT dtx_transfer('peer', '1', 'A', 0.5, 'message') IS NOT NULL;
CALL api.wait_until($$ (SELECT count(*) = 1 FROM dtx_in_flight WHERE state = 'retrying') $$);
SELECT to_account, amount, state, last_error LIKE '23514: %' FROM dtx_in_flight;
SELECT m.at('b', $$UPDATE msg.money SET balance = 111 WHERE account = 'A'$$);
SELECT msg.landed();
-- many
SELECT count(dtx_transfer('peer', '1', CASE i % 2 WHEN 0 THEN 'A' ELSE 'B' END, 1, 'message')) FROM generate_series(1, 100) AS i;
SELECT msg.landed();
-- the other way
SELECT m.at('b', $$SELECT dtx_transfer('a', 'A', '2', 1, 'message') IS NOT NULL$$);
SELECT m.wait('b', 'NOT EXISTS (SELECT FROM dtx_in_flight)');
SELECT balance FROM msg.money WHERE account = '2';
SELECT msg.money();
-- what is left
SELECT count(*) FROM dtx_dead_letters;
SELECT dtx_unsubscribe(name) FROM dtx_subscriptions;
SELECT m.at('b', 'SELECT dtx_unsubscribe(name) FROM dtx_subscriptions');
DELETE FROM dtx.ledger;
INSERT INTO dtx.ledger SELECT * FROM msg.former;
SELECT m.at('b', 'DELETE FROM dtx.ledger');
DROP TABLE msg.money, msg.former;
SELECT m.at('b', 'DROP TABLE msg.money');
