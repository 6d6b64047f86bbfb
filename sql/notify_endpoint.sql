--
-- HTTP endpoints: what servers and user mappings take, and who may set it.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
-- Runs a command; says that it is done, or the error.
CREATE FUNCTION n.try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  state text; message text; detail text; hint text;
BEGIN
  EXECUTE command;
  RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RETURN m.problem(state, message, detail, hint);
END $$;
CREATE FUNCTION n.url(url text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  said text := n.try(format('CREATE SERVER n_try FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url %L)', url));
BEGIN
  DROP SERVER IF EXISTS n_try;
  RETURN said;
END $$;
SELECT n.url('https://shop.example/notifications?from=bank'), n.url('http://10.0.0.1:8080'), n.url('HTTPS://[2001:db8::1]/'), n.url('https://bücher.example/');
SELECT n.url(''), n.url('shop.example'), n.url('ftp://shop.example/'), n.url('file:///etc/passwd'), n.url('gopher://shop.example');
SELECT n.url('https://user@shop.example/'), n.url('https://user:secret@shop.example/'), n.url('https://shop.example/#part'), n.url('https://');
SELECT n.url('https://shop.example/a b'), n.url(E'https://shop.example/\r\nX: y'), n.url('https://shop.example:99999/');
-- the others
SELECT n.try($$CREATE SERVER n_all FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'https://shop.example/', allow_private 'on', timeout '5s', max_requests '7', receiver 'somebody', sslrootcert '/ca.pem')$$);
SELECT n.try($$ALTER SERVER n_all OPTIONS (SET allow_private 'perhaps')$$);
SELECT n.try($$ALTER SERVER n_all OPTIONS (SET timeout 'soon')$$);
SELECT n.try($$ALTER SERVER n_all OPTIONS (SET timeout '0')$$);
SELECT n.try($$ALTER SERVER n_all OPTIONS (SET max_requests '0')$$);
SELECT n.try($$ALTER SERVER n_all OPTIONS (SET max_requests '1000')$$);
SELECT n.try($$ALTER SERVER n_all OPTIONS (SET url 'nowhere')$$);
SELECT n.try($$ALTER SERVER n_all OPTIONS (DROP url)$$);
-- an endpoint or a database
SELECT n.try($$ALTER SERVER n_all OPTIONS (ADD host 'h')$$);
SELECT n.try($$CREATE SERVER n_try FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host 'h', allow_private 'true')$$);
SELECT n.try($$CREATE SERVER n_try FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'https://shop.example/', secret 's')$$);
SELECT n.try($$CREATE SERVER n_try FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'https://shop.example/', uri 's')$$);
SELECT n.try($$CREATE SERVER n_database FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host 'h', receiver 'somebody')$$);
-- user mappings: no error shows what it was given
CREATE FUNCTION n.mapping(option text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  said text := n.try(format('CREATE USER MAPPING FOR PUBLIC SERVER n_all OPTIONS (%I %L)', option, value));
BEGIN
  DROP USER MAPPING IF EXISTS FOR PUBLIC SERVER n_all;
  RETURN said;
END $$;
SELECT n.mapping('secret', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'), n.mapping('secret', ' whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw  whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD'),
  n.mapping('token', 'abc'), n.mapping('headers', '{"X-Key": "k", "X-Empty": ""}'), n.mapping('headers', '{}'), n.mapping('unsigned', 'true');
SELECT n.mapping('secret', ''), n.mapping('secret', 'hidden'), n.mapping('secret', 'whsec_hidden'), n.mapping('secret', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw hidden');
SELECT n.mapping('secret', 'whsec_' || encode(repeat('x', 65)::bytea, 'base64')), n.mapping('secret', 'whsec_' || encode(repeat('x', 23)::bytea, 'base64'));
SELECT n.mapping('secret', repeat('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw ', 10)), n.mapping('secret', repeat('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw ', 11)), n.mapping('token', repeat('x', 16385));
SELECT n.mapping('token', E'hidden\r\nX: y'), n.mapping('headers', 'hidden'), n.mapping('headers', '["hidden"]'), n.mapping('headers', '{"X": 1}'), n.mapping('headers', '{"X": {"hidden": "1"}}');
SELECT n.mapping('headers', '{"X Y": "hidden"}'), n.mapping('headers', '{"": "hidden"}'), n.mapping('headers', '{"X": "hidden\r\nY: z"}'), n.mapping('headers', '{"Webhook-Id": "hidden"}'),
  n.mapping('headers', '{"content-length": "hidden"}'), n.mapping('unsigned', 'hidden'), n.mapping('url', 'https://hidden.example/');
-- who may let requests go to private addresses
CREATE ROLE n_clerk;
GRANT USAGE ON FOREIGN DATA WRAPPER dtx_fdw TO n_clerk;
GRANT CREATE ON DATABASE dtx_regression TO n_clerk;
GRANT USAGE ON SCHEMA n, m TO PUBLIC;
SET ROLE n_clerk;
SELECT n.try($$CREATE SERVER n_clerks FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'http://localhost/', allow_private 'true')$$);
CREATE SERVER n_clerks FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'http://localhost/', allow_private 'false');
SELECT n.try($$ALTER SERVER n_clerks OPTIONS (SET allow_private 'true')$$);
CREATE USER MAPPING FOR n_clerk SERVER n_clerks OPTIONS (secret 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', token 'tell nobody');
RESET ROLE;
-- what others see of it
CREATE ROLE n_other;
SET ROLE n_other;
SELECT umoptions FROM pg_user_mappings WHERE srvname = 'n_clerks';
SELECT n.try($$SELECT dtx_notify('n_clerks', 'x', '{}')$$);
RESET ROLE;
DROP SERVER n_all, n_database, n_clerks CASCADE;
REVOKE ALL ON FOREIGN DATA WRAPPER dtx_fdw FROM n_clerk;
REVOKE ALL ON DATABASE dtx_regression FROM n_clerk;
REVOKE USAGE ON SCHEMA n, m FROM PUBLIC;
DROP ROLE n_clerk, n_other;
