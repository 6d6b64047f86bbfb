--
-- Peers: the options that dtx_fdw knows, and the foreign data wrappers whose
-- servers serve as peers.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT api.reset_peer() AS ok \gset

-- options of a server: those of libpq that are not personal
CREATE SERVER options FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host 'h', hostaddr '127.0.0.1', port '1', dbname 'd',
  connect_timeout '3', application_name 'a', keepalives '1', keepalives_idle '2', keepalives_interval '3', keepalives_count '4',
  tcp_user_timeout '5', sslmode 'require', sslrootcert 'r', sslcrl 'c', sslcert 'x', sslkey 'y', sslcompression '0', ssl_min_protocol_version 'TLSv1.2',
  channel_binding 'prefer', gssencmode 'disable', krbsrvname 'k', target_session_attrs 'read-write', options '-c work_mem=1MB', service 's', passfile 'p');
-- and of a user mapping: the personal ones
CREATE USER MAPPING FOR CURRENT_USER SERVER options OPTIONS (user 'u', password 'p', sslpassword 's', sslcert 'x', sslkey 'y', password_required 'false');
-- an unknown one: the nearest is named
SELECT api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (hst 'h') $$);
SELECT api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (dbnam 'h') $$);
SELECT api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (databse 'h') $$);
SELECT api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (conect_timeout '1') $$);
SELECT api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host 'h', prot '1') $$);
SELECT api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS ("Host" 'h') $$);
SELECT api.try($$ ALTER SERVER options OPTIONS (ADD sslmod 'require') $$);
SELECT api.try($$ CREATE USER MAPPING FOR PUBLIC SERVER options OPTIONS (usr 'u') $$);
SELECT api.try($$ CREATE USER MAPPING FOR PUBLIC SERVER options OPTIONS (pasword 'u') $$);
SELECT api.try($$ ALTER USER MAPPING FOR CURRENT_USER SERVER options OPTIONS (ADD passwrd_required 'true') $$);
-- nothing is near
SELECT api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (colour 'red') $$);
SELECT api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (x 'y') $$);
SELECT api.try(format('CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (%I ''y'')', repeat('x', 60)));
-- in the wrong place
SELECT api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (user 'u') $$);
SELECT api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (password 'p') $$);
SELECT api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (password_required 'false') $$);
SELECT api.try($$ CREATE USER MAPPING FOR PUBLIC SERVER options OPTIONS (host 'h') $$);
SELECT api.try($$ CREATE USER MAPPING FOR PUBLIC SERVER options OPTIONS (dbname 'd') $$);
-- what dtx sets itself
SELECT split_part(api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (client_encoding 'UTF8') $$), E'\n', 1);
SELECT split_part(api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (fallback_application_name 'a') $$), E'\n', 1);
SELECT split_part(api.try($$ CREATE SERVER o FOREIGN DATA WRAPPER dtx_fdw OPTIONS (replication 'database') $$), E'\n', 1);
-- the wrapper has no options, nor tables
SELECT split_part(api.try($$ ALTER FOREIGN DATA WRAPPER dtx_fdw OPTIONS (ADD host 'h') $$), E'\n', 1);
SELECT split_part(api.try($$ CREATE FOREIGN TABLE api.foreign (a integer) SERVER options OPTIONS (table_name 't') $$), E'\n', 1);
-- not a boolean
SELECT api.try($$ ALTER USER MAPPING FOR CURRENT_USER SERVER options OPTIONS (SET password_required 'perhaps') $$);
-- what is used with the rights of the server's account: superusers only
CREATE ROLE api_plain;
GRANT USAGE ON FOREIGN DATA WRAPPER dtx_fdw TO api_plain;
GRANT USAGE ON FOREIGN SERVER options TO api_plain;
GRANT USAGE ON SCHEMA api TO api_plain;
SET ROLE api_plain;
SELECT option, api.try(format('CREATE SERVER plain FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host ''h'', %s ''x'')', option))
  FROM unnest('{sslcert,sslkey,sslrootcert,sslcrl,sslcrldir,passfile,service,krbsrvname,gssencmode}'::text[]) option;
SELECT option, api.try(format('CREATE USER MAPPING FOR CURRENT_USER SERVER options OPTIONS (user ''u'', %s ''x'')', option))
  FROM unnest('{sslcert,sslkey}'::text[]) option;
SELECT api.try($$ CREATE SERVER plain FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'https://shop.example/', sslrootcert 'x') $$);
CREATE SERVER plain FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host 'h', sslmode 'require', gssencmode 'disable');
SELECT api.try($$ ALTER SERVER plain OPTIONS (ADD sslcert 'x') $$);
RESET ROLE;
-- regular files only
SELECT api.try($$ ALTER SERVER plain OPTIONS (ADD sslcert '/dev/zero') $$);
SELECT api.try($$ CREATE USER MAPPING FOR api_plain SERVER plain OPTIONS (sslkey '/dev/zero') $$);
SELECT api.try($$ CREATE SERVER special FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'https://shop.example/', sslrootcert '/dev/zero') $$);
DROP SERVER options, plain CASCADE;
-- of a server of another wrapper, too, what would not be read as TLS' own
CREATE EXTENSION IF NOT EXISTS postgres_fdw;
GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO api_plain;
SET ROLE api_plain;
CREATE SERVER plain FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'h', passfile 'x');
CREATE USER MAPPING FOR api_plain SERVER plain OPTIONS (user 'u', password 'p');
SELECT api.try($$ SELECT dtx_ping('plain') $$);
RESET ROLE;
DROP SERVER plain CASCADE;
REVOKE USAGE ON FOREIGN DATA WRAPPER dtx_fdw, postgres_fdw FROM api_plain;
REVOKE USAGE ON SCHEMA api FROM api_plain;
DROP ROLE api_plain;

-- servers of postgres_fdw and dblink_fdw are peers as they are
CREATE EXTENSION IF NOT EXISTS postgres_fdw;
CREATE SERVER by_postgres_fdw FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer',
  fetch_size '10', use_remote_estimate 'true', extensions 'dblink', async_capable 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER by_postgres_fdw OPTIONS (user :'USER');
SELECT node LIKE 'dtx_regression_peer.%' FROM dtx_ping('by_postgres_fdw');
SELECT dtx_exec('by_postgres_fdw', 'UPDATE api.account SET balance = balance + 1');
CREATE SERVER by_dblink_fdw FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER by_dblink_fdw OPTIONS (user :'USER');
SELECT node LIKE 'dtx_regression_peer.%' FROM dtx_ping('by_dblink_fdw');
BEGIN;
SELECT dtx_exec('by_dblink_fdw', 'UPDATE api.account SET balance = balance + 10');
SELECT balance FROM dtx_query('by_postgres_fdw', 'SELECT balance FROM api.account WHERE no = 1') AS t(balance numeric);
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();
-- several servers of one transaction roll back together
BEGIN;
SELECT sum(dtx_exec(s, 'UPDATE api.account SET balance = balance + 100')) FROM unnest('{peer,by_dblink_fdw,by_postgres_fdw}'::text[]) s;
ROLLBACK;
CALL api.settle();
SELECT api.peer_accounts();
-- others are not
CREATE FOREIGN DATA WRAPPER api_wrapper;
CREATE SERVER by_other FOREIGN DATA WRAPPER api_wrapper OPTIONS (host 'h');
CREATE USER MAPPING FOR CURRENT_USER SERVER by_other;
SELECT dtx_exec('by_other', 'SELECT 1');
SELECT api.try($$ SELECT dtx_ping('by_other') $$);
SELECT api.try($$ SELECT * FROM dtx_query('by_other', 'SELECT 1') AS t(a integer) $$);
-- a server's own name for the peer's session, else "dtx"
SELECT a FROM dtx_query('peer', 'SHOW application_name') AS t(a text);
ALTER SERVER peer OPTIONS (ADD application_name 'my bank');
SELECT a FROM dtx_query('peer', 'SHOW application_name') AS t(a text);
ALTER SERVER peer OPTIONS (DROP application_name);
-- the encoding is this database's
SELECT a = pg_encoding_to_char(encoding) FROM pg_database, dtx_query('peer', 'SHOW client_encoding') AS t(a text) WHERE datname = current_database();
-- a mapping for PUBLIC serves everybody who has none
CREATE SERVER by_public FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR PUBLIC SERVER by_public OPTIONS (user :'USER');
SELECT node LIKE 'dtx_regression_peer.%' FROM dtx_ping('by_public');
CALL api.settle();
DROP SERVER by_postgres_fdw, by_dblink_fdw, by_other, by_public CASCADE;
DROP FOREIGN DATA WRAPPER api_wrapper;
