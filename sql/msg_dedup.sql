--
-- The receiver's side by itself: what it does with batches that come twice, late,
-- from somebody else, or in no form.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
-- the call that delivers messages, by their ids, as the sender makes it
CREATE FUNCTION msg.call(generation integer, batch bigint, forget bigint, again boolean, ids bigint[], ordered boolean DEFAULT false,
                         handler text DEFAULT 'msg.handle', subscription bigint DEFAULT 4711) RETURNS text LANGUAGE sql AS $$
  SELECT format('SELECT string_agg(concat_ws('' '', id, outcome, state, detail, retry_after), ''; '') FROM dtx.deliver(%s, %s, %s, %s, %s, %L, 0, %L, %L)',
                subscription, generation, batch, forget, CASE WHEN again THEN batch - 1 ELSE 0 END, ordered, handler,
                (SELECT coalesce(jsonb_agg(jsonb_build_array(id, 'topic', 'k' || id % 2, 0, 0, jsonb_build_object('n', id)) ORDER BY i), '[]')
                 FROM unnest(ids) WITH ORDINALITY AS u(id, i))) $$;
CREATE FUNCTION msg.deliver(generation integer, batch bigint, forget bigint, again boolean, VARIADIC ids bigint[]) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT m.at('b', msg.call(generation, batch, forget, again, ids)) $$;
CREATE FUNCTION msg.known() RETURNS SETOF text LANGUAGE sql AS $$
  SELECT m.at('b', 'SELECT string_agg(concat_ws('' '', generation, batch, ids), ''; '' ORDER BY generation, batch) FROM dtx.de_duplication WHERE subscription = 4711') $$;
SELECT msg.deliver(1, 1, 0, false, 1, 2, 3);
SELECT msg.got('b');
SELECT msg.known();
-- the same batch, once more
SELECT msg.deliver(1, 1, 0, false, 1, 2, 3);
SELECT msg.deliver(1, 1, 0, true, 1, 2, 3);
SELECT msg.got('b');
-- the next ones; a copy of an old one; numbers may be left out
SELECT msg.deliver(1, 2, 0, false, 4);
SELECT msg.deliver(1, 7, 0, false, 5);
SELECT msg.deliver(1, 1, 0, false, 6);
SELECT msg.deliver(1, 6, 0, false, 6);
SELECT msg.got('b');
-- messages that may have come before: only those that have not are handled
SELECT msg.deliver(1, 8, 0, true, 3, 4, 6, 5, 7);
SELECT msg.got('b');
SELECT msg.deliver(1, 9, 0, true, 3, 6, 7);
SELECT msg.got('b');
-- where that is not said nobody looks: the sender knows
SELECT msg.deliver(1, 10, 0, false, 1);
SELECT msg.got('b');
SELECT msg.known();
-- what is forgotten is, and no more; a copy of an old batch is refused all the same
SELECT msg.deliver(1, 11, 8, false, 11);
SELECT msg.known();
SELECT msg.deliver(1, 7, 6, false, 5);
SELECT msg.deliver(1, 12, 11, false, 12);
SELECT msg.known();
SELECT msg.deliver(1, 12, 12, false, 12);
SELECT m.at('b', msg.call(1, 13, 12, false, '{}'));
SELECT m.at('b', msg.call(1, 14, 13, false, '{}'));
SELECT msg.known();
SELECT msg.deliver(1, 5, 13, false, 5);
-- a sender that has lost what it said before (it was restored from a copy) is not obeyed: its messages may have been handled
SELECT msg.deliver(1, 15, 9, true, 12);
SELECT msg.got('b');
SELECT msg.deliver(1, 15, 13, true, 15);
SELECT msg.got('b');
-- a new generation delivers again; those of former ones are refused, and forgotten
SELECT msg.deliver(2, 1, 0, true, 11, 12);
SELECT msg.deliver(1, 99, 0, false, 13);
SELECT msg.got('b');
SELECT msg.known();
-- another subscription has nothing to do with it
SELECT m.at('b', msg.call(1, 1, 0, true, '{11}', subscription => 4712));
SELECT msg.got('b');
-- what failed is not remembered: it may come again
SELECT msg.trouble('b', '22', 'fails');
SELECT msg.trouble('b', '23', 'refuse');
SELECT msg.trouble('b', '24', 'defer 5min');
SELECT msg.deliver(2, 2, 0, false, 21, 22, 23, 24, 25);
SELECT msg.got('b');
SELECT msg.known();
SELECT msg.mend('b');
SELECT msg.deliver(2, 3, 0, true, 21, 22, 23, 24, 25);
SELECT msg.got('b');
-- in order: what follows a failed one of its key is skipped
SELECT msg.trouble('b', '31', 'fails');
SELECT m.at('b', msg.call(2, 4, 0, false, '{31,32,33,34,35}', true));
SELECT msg.got('b');
SELECT m.at('b', msg.call(2, 5, 0, false, '{31}', true));
SELECT msg.mend('b');
SELECT m.at('b', msg.call(2, 6, 0, true, '{31,32,33,34,35}', true));
SELECT msg.got('b');
-- no handler: the batch is refused, and its number is not used up
SELECT m.at('b', msg.call(2, 7, 0, false, '{41}', handler => 'msg.none'));
SELECT m.at('b', msg.call(2, 7, 0, false, '{41}', handler => 'no("'));
SELECT msg.deliver(2, 7, 0, false, 41);
SELECT msg.got('b');
-- an empty one only asks what became of them: of what is not known by then, no copy that comes late is handled
SELECT m.at('b', msg.call(1, 3, 0, true, '{11,13}', handler => '', subscription => 4712));
SELECT m.at('b', msg.call(1, 2, 0, false, '{13}', subscription => 4712));
SELECT msg.got('b');
-- rolled back, nothing was
SELECT m.connect('s', 'b');
SELECT m.run('s', 'BEGIN');
SELECT m.run('s', msg.call(2, 8, 7, false, '{51}'));
-- meanwhile others are told so, and do not wait
SELECT msg.deliver(2, 8, 7, false, 51);
SELECT msg.deliver(2, 9, 7, true, 51, 52);
SELECT m.at('b', msg.call(1, 4, 0, false, '{12}', subscription => 4712));
SELECT m.run('s', 'ROLLBACK');
SELECT msg.deliver(2, 8, 7, false, 51);
SELECT msg.got('b');
SELECT msg.known();
SELECT m.run('s', 'BEGIN');
SELECT m.run('s', msg.call(2, 9, 7, false, '{53}'));
SELECT msg.deliver(2, 9, 7, false, 53);
SELECT m.run('s', 'COMMIT');
SELECT msg.deliver(2, 9, 7, false, 53);
SELECT msg.got('b');
SELECT m.bye('s');
-- one that is in a batch twice: the batch is refused, and its number is not used up
SELECT msg.deliver(2, 10, 7, false, 54, 55, 54);
SELECT msg.got('b');
SELECT msg.deliver(2, 10, 7, false, 54, 55);
SELECT msg.got('b');
-- no form
SELECT messages, m.at('b', format('SELECT outcome FROM dtx.deliver(4711, 2, %s, 7, 0, false, 0, ''msg.handle'', %L)', 100 + i, messages)) FROM unnest(ARRAY[
  '1', 'null', '{}', '[1]', '[null]', '["a"]', '[{}]', '[[]]', '[[1]]', '[["1", "t", null, 0, 0, {}]]', '[[1, 2, null, 0, 0, {}]]', '[[1, "t", 3, 0, 0, {}]]',
  '[[1, "t", null, "0", 0, {}]]', '[[1, "t", null, 0, null, {}]]', '[[1, "t", null, 0, 0]]', '[[1e30, "t", null, 0, 0, {}]]', '[[1, "t", null, 0, 1e10, {}]]',
  '[[61, "t", null, 0, 0, {"n": 61}], [62]]', '[', '[[63, "t", null, 0, 0, {"n": 63}, null, null]]']) WITH ORDINALITY AS t(messages, i);
SELECT msg.got('b');
SELECT m.at('b', 'SELECT outcome FROM dtx.deliver(NULL, 2, 11, 7, 0, false, 0, ''msg.handle'', ''[]'')');
-- a limit of time, in ms
SELECT m.at('b', 'CREATE FUNCTION msg.sleep(payload jsonb) RETURNS void LANGUAGE sql AS ''SELECT pg_sleep(30)''');
SELECT m.at('b', 'SELECT outcome FROM dtx.deliver(4711, 2, 200, 7, 0, false, 20, ''msg.sleep'', ''[[71, "t", null, 0, 0, {}]]'')');
SELECT m.at('b', 'SELECT outcome FROM dtx.deliver(4711, 2, 200, 7, 0, false, 20, ''msg.sleep'', ''[[71, "t", null, 0, 0, {}], [72, "t", null, 0, 0, {}]]'')');
SELECT msg.deliver(2, 200, 7, false, 71);
SELECT msg.got('b');
-- roles: one that was not admitted cannot, and of another's subscription nobody can
SELECT m.at('b', 'DROP ROLE IF EXISTS dtx_msg_deliverer');
SELECT m.at('b', 'CREATE ROLE dtx_msg_deliverer LOGIN');
SELECT m.at('b', msg.call(2, 201, 7, false, '{81}'), 'dtx_msg_deliverer');
SELECT m.at('b', 'SELECT dtx_admit(''dtx_msg_deliverer'')');
SELECT m.at('b', 'GRANT USAGE ON SCHEMA msg TO dtx_msg_deliverer');
SELECT regexp_replace(m.at('b', msg.call(2, 201, 7, false, '{81}'), 'dtx_msg_deliverer'), 'role ".*"', 'role "OWNER"');
SELECT regexp_replace(m.at('b', msg.call(9, 1, 0, false, '{81}'), 'dtx_msg_deliverer'), 'role ".*"', 'role "OWNER"');
SELECT m.at('b', msg.call(1, 1, 0, false, '{81}', subscription => 4713), 'dtx_msg_deliverer');
SELECT m.at('b', 'REVOKE EXECUTE ON FUNCTION msg.handle(bigint, text, text, jsonb, jsonb, timestamptz, integer) FROM PUBLIC');
SELECT m.at('b', msg.call(1, 2, 0, false, '{81}', subscription => 4713), 'dtx_msg_deliverer');
SELECT m.at('b', 'GRANT EXECUTE ON FUNCTION msg.handle(bigint, text, text, jsonb, jsonb, timestamptz, integer) TO PUBLIC');
SELECT msg.got('b');
-- the table itself is nobody's
SELECT m.at('b', 'SELECT count(*)::text FROM dtx.de_duplication', 'dtx_msg_deliverer');
SELECT m.at('b', 'DELETE FROM dtx.de_duplication', 'dtx_msg_deliverer');
SELECT m.at('b', 'DROP OWNED BY dtx_msg_deliverer');
SELECT m.at('b', 'DROP ROLE dtx_msg_deliverer');
SELECT m.at('b', 'DELETE FROM dtx.de_duplication WHERE subscription IN (4711, 4712, 4713)');
-- of a subscription that delivers all the time, few rows are kept
SELECT dtx_subscribe('often', 'peer', 'msg.handle', 'often', batch_size => 1);
SELECT count(msg.publish('often', i::text)) FROM generate_series(1, 500) AS i;
CALL msg.delivered();
SELECT msg.publish('often', 'one more') > 0;
CALL msg.delivered();
SELECT msg.publish('often', 'and another') > 0;
CALL msg.delivered();
SELECT count(*), count(DISTINCT handled) FROM regexp_split_to_table(msg.got('b'), ', ') AS handled;
SELECT m.at('b', format('SELECT (count(*) BETWEEN 1 AND 3)::text FROM dtx.de_duplication WHERE subscription = %s', uid)) FROM dtx.subscription;
SELECT dtx_unsubscribe('often');
