--
-- Signatures: dtx_verify and dtx_accept.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
-- the example of the Standard Webhooks specification's reference libraries, of the year 2021
\set secret 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
\set body '{"test": 2432232314}'
\set signature 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
CREATE FUNCTION n.headers(signature text, id text DEFAULT 'msg_p5jXN8AQM9LWM0D4loKWxJek', at text DEFAULT '1614265330') RETURNS jsonb LANGUAGE sql AS
$$ SELECT jsonb_build_object('webhook-id', id, 'webhook-timestamp', at, 'webhook-signature', signature) $$;
\set old '100 years'
SELECT dtx_verify(:'body', n.headers(:'signature'), :'secret', :'old');
-- which is no news
SELECT dtx_verify(:'body', n.headers(:'signature'), :'secret');
-- one of several signatures, one of several secrets, names in any case, other headers beside them
SELECT dtx_verify(:'body', n.headers('v1,AAAA v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= ' || :'signature'), :'secret', :'old');
SELECT dtx_verify(:'body', n.headers(:'signature'), 'whsec_' || encode(repeat('x', 32)::bytea, 'base64') || ' ' || :'secret', :'old');
SELECT dtx_verify(:'body', jsonb_object_agg(initcap(key), value) || '{"Host": "bank1", "X-List": ["a"]}', :'secret', :'old') FROM jsonb_each(n.headers(:'signature'));
-- anything else is not authentic
SELECT dtx_verify(:'body' || ' ', n.headers(:'signature'), :'secret', :'old'), dtx_verify('', n.headers(:'signature'), :'secret', :'old'),
  dtx_verify(:'body', n.headers(:'signature', id => 'msg_'), :'secret', :'old'), dtx_verify(:'body', n.headers(:'signature', at => '1614265331'), :'secret', :'old'),
  dtx_verify(:'body', n.headers(:'signature', at => '1614265330 '), :'secret', :'old'), dtx_verify(:'body', n.headers(:'signature', at => '-1'), :'secret', :'old'),
  dtx_verify(:'body', n.headers(''), :'secret', :'old'), dtx_verify(:'body', n.headers('v1,'), :'secret', :'old'),
  dtx_verify(:'body', n.headers(lower(:'signature')), :'secret', :'old'), dtx_verify(:'body', n.headers(left(:'signature', -1)), :'secret', :'old'),
  dtx_verify(:'body', n.headers(replace(:'signature', 'v1,', 'v1a,')), :'secret', :'old'),
  dtx_verify(:'body', n.headers(:'signature'), 'whsec_' || encode(repeat('x', 32)::bytea, 'base64'), :'old');
SELECT dtx_verify(:'body', n.headers(:'signature') - 'webhook-id', :'secret', :'old'), dtx_verify(:'body', n.headers(:'signature') - 'webhook-timestamp', :'secret', :'old'),
  dtx_verify(:'body', n.headers(:'signature') - 'webhook-signature', :'secret', :'old'), dtx_verify(:'body', '{}', :'secret', :'old'),
  dtx_verify(:'body', n.headers(:'signature') || '{"WEBHOOK-ID": "two"}', :'secret', :'old'), dtx_verify(:'body', n.headers(:'signature') || '{"webhook-id": 1}', :'secret', :'old');
-- what is no secret, and what are no headers
SELECT m.try($$SELECT dtx_verify('{}', '{}', 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')$$);
SELECT m.try($$SELECT dtx_verify('{}', '{}', 'whsec_short')$$);
SELECT m.try($$SELECT dtx_verify('{}', '{}', '')$$);
SELECT m.try($$SELECT dtx_verify('{}', '[]', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')$$);
SELECT m.try($$SELECT dtx_verify(NULL, '{}', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')$$);

-- accepted: verified, applied, once
SELECT dtx_accept(:'body', n.headers(:'signature'), :'secret', 'n.apply', tolerance => :'old');
SELECT dtx_accept(:'body', n.headers(:'signature'), :'secret', 'n.apply', tolerance => :'old');
SELECT n.got();
SELECT origin, tx_no, how FROM dtx.received WHERE how = 'h';
-- somebody else's ids are somebody else's
SELECT dtx_accept(:'body', n.headers(:'signature'), :'secret', 'n.apply', 'shop', :'old'), n.got();
SELECT m.try(format('SELECT dtx_accept(%L, %L, %L, ''n.apply'')', :'body', n.headers(:'signature'), :'secret'));
SELECT m.try(format('SELECT dtx_accept(%L, %L, %L, ''n.apply'', tolerance => ''100 years'')', '{}', n.headers(:'signature'), :'secret'));
SELECT m.try(format('SELECT dtx_accept(%L, %L, %L, ''n.apply'')', '{}', '{}', :'secret'));
SELECT n.got();
-- requests as dtx makes them, signed by somebody else's code: the id says who sends, and which transaction
CREATE EXTENSION IF NOT EXISTS pgcrypto SCHEMA n;
CREATE FUNCTION n.signed(id text, body text, ago interval DEFAULT '0') RETURNS jsonb LANGUAGE sql AS $$
  SELECT n.headers('v1,' || encode(n.hmac(convert_to(concat_ws('.', id, at, body), 'UTF8'), decode('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'base64'), 'sha256'), 'base64'), id, at)
  FROM (SELECT floor(extract(epoch FROM now() - ago))::bigint::text AS at) AS t $$;
CREATE FUNCTION n.accept(id text, body text, sender text DEFAULT NULL, ago interval DEFAULT '0') RETURNS text LANGUAGE sql AS $$
  SELECT m.try(format('SELECT dtx_accept(%L, %L, ''whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'', ''n.apply'', %L)', body, n.signed(id, body, ago), sender)) $$;
SELECT n.accept('shop:0123abcd:T%201%2F%C3%A9', '{"é": 1}'), n.got();
SELECT n.accept('shop:0123abcd:T%201%2F%C3%A9', '{"é": 2}'), n.got();
SELECT origin, tx_no, how FROM dtx.received WHERE origin LIKE 'shop.0%';
-- another sender's number, another number
SELECT n.accept('shop:99999999:T%201%2F%C3%A9', '{}'), n.accept('shop:0123abcd:T', '{}'), n.got();
-- only whose secret it is
SELECT n.accept('shop:0123abcd:T2', '{}', 'shop'), n.accept('shop:0123abcd:T3', '{}', 'bank'), n.accept('shop%2Ex:0123abcd:T3', '{}', 'shop'), n.got();
-- ids that only look like it are other software's
SELECT n.accept('shop:0123abcd', '1'), n.accept('shop:T4', '2'), n.accept('shop:0123abcd:', '3'), n.accept('shop:0123abcd:%41', '4'), n.accept('shop:0123abcd:%zz', '5'),
  n.accept('shop:0123abcd:%', '6'), n.accept('shop:0123abcd:%00', '7'), n.accept('shop:0123abcd:%FF', '8');
SELECT n.got();
-- an id with a dot could be signed as another one, with another time
SELECT n.accept('shop:0123abcd:T.1', '{}'), n.accept('shop.x:0123abcd:T1', '{}'), n.accept('msg.1', '{}'), n.got();
SELECT n.accept('shop%2Ex:0123abcd:T%2E1', '{}'), n.got();
SELECT origin, tx_no FROM dtx.received WHERE origin LIKE 'shop.x%';
-- old, new, and no JSON
SELECT n.accept('shop:0123abcd:T5', '{}', ago => '4 min'), n.accept('shop:0123abcd:T6', '{}', ago => '6 min'), n.accept('shop:0123abcd:T7', '{}', ago => '-6 min');
SELECT n.accept('shop:0123abcd:T8', 'no json'), n.accept('shop:0123abcd:T9', '');
SELECT n.got();
-- the handler's error is the caller's, and nothing was applied
INSERT INTO n.trouble VALUES ('T10', 'refuse'), ('T11', 'no');
SELECT n.accept('shop:0123abcd:T10', '{}'), n.accept('shop:0123abcd:T11', '{}'), n.got();
DELETE FROM n.trouble;
SELECT n.accept('shop:0123abcd:T10', '{}'), n.got();
-- rolled back: not applied
BEGIN;
SELECT n.accept('shop:0123abcd:T12', '{}');
ROLLBACK;
SELECT n.accept('shop:0123abcd:T12', '{}'), n.got();
-- without a function the handler of notifications is called
SELECT m.try(format('SELECT dtx_accept(%L, %L, %L)', '{}', n.signed('shop:0123abcd:T13', '{}'), :'secret'));
SELECT dtx_on_notification('n.apply', 'shop');
SELECT m.try(format('SELECT dtx_accept(%L, %L, %L)', '{}', n.signed('shop:0123abcd:T13', '{}'), :'secret')), n.got();
SELECT dtx_on_notification(NULL, 'shop');
-- told over HTTP, asked for over libpq: once
SELECT tag FROM dtx.node WHERE retired_at IS NULL \gset
SELECT dtx_notify(NULL, 'both ways', '{"x": 1}') > 0;
SELECT m.at('b', format($$SELECT dtx_accept('{"x": 1}', %L, %L)$$, n.signed('dtx_regression:' || :'tag' || ':both%20ways', '{"x": 1}'), :'secret'));
SELECT m.at('b', $$SELECT dtx_reconcile('a', 'both ways')$$), n.got('b');
