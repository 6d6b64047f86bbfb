--
-- AT: one node reached through two servers, and by two roles, in one global
-- transaction: its branches there are still undone last first.
--
\c dtx_regression_peer
CREATE TABLE seat (no integer PRIMARY KEY, taken_by text, changes integer NOT NULL DEFAULT 0);
INSERT INTO seat VALUES (1), (2), (3);
SELECT dtx_attach('seat');
SELECT test.keep('seat');
CREATE VIEW seats AS SELECT string_agg(concat(no, '=', coalesce(taken_by, '-'), '/', changes), ' ' ORDER BY no) AS seats FROM seat;
SET client_min_messages = warning;
DROP ROLE IF EXISTS dtx_regress_second;
RESET client_min_messages;
CREATE ROLE dtx_regress_second LOGIN;
SELECT dtx_admit('dtx_regress_second');
GRANT ALL ON seat TO dtx_regress_second;
\c dtx_regression
SELECT max(option_value) FILTER (WHERE option_name = 'host') AS host, max(option_value) FILTER (WHERE option_name = 'port') AS port
FROM pg_foreign_server, pg_options_to_table(srvoptions) WHERE srvname = 'peer' \gset
CREATE SERVER peer_again FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'host', port :'port', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER peer_again OPTIONS (user :'USER');
-- as another role, who is no superuser there
CREATE SERVER peer_second FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'host', port :'port', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER peer_second OPTIONS (user 'dtx_regress_second');
CREATE FUNCTION take(server name, seat integer, who text) RETURNS bigint LANGUAGE sql AS $$
    SELECT dtx_exec(server, 'UPDATE seat SET taken_by = $1, changes = changes + 1 WHERE no = $2', who, seat)
$$;

-- the same row, by turns
BEGIN;
SELECT take('peer', 1, 'A'), take('peer_again', 1, 'B'), take('peer', 1, 'C'), take('peer_second', 1, 'D'), take('peer_again', 1, 'E');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('TABLE seats');
ROLLBACK;
SELECT test.undone(:'xid', 'seat');

-- committed, by turns
BEGIN;
SELECT take('peer', 1, 'A'), take('peer_again', 1, 'B'), take('peer_second', 1, 'C');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT test.at_peer('TABLE seats');
SELECT test.at_peer('UPDATE seat SET taken_by = NULL, changes = 0');

-- a savepoint's branch at one server, and more work at that row through another
BEGIN;
SELECT take('peer', 1, 'A');
SAVEPOINT s;
SELECT take('peer_again', 1, 'B'), take('peer_second', 1, 'C');
ROLLBACK TO s;
SELECT take('peer', 1, 'D');
SELECT test.at_peer('TABLE seats');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT test.at_peer('TABLE seats');
SELECT test.at_peer('UPDATE seat SET taken_by = NULL, changes = 0');
SELECT test.at_peer('SELECT test.differences(''seat'')');

DROP FUNCTION take;
SET client_min_messages = warning;
DROP SERVER peer_again CASCADE;
DROP SERVER peer_second CASCADE;
\c dtx_regression_peer
DROP VIEW seats;
DROP TABLE seat;
DROP OWNED BY dtx_regress_second;
DROP ROLE dtx_regress_second;
