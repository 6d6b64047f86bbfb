--
-- The ledger, and dtx_transfer.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP ROLE IF EXISTS dtx_api_clerk;
CREATE ROLE dtx_api_clerk;
GRANT USAGE ON SCHEMA api TO dtx_api_clerk;
CREATE TABLE api.money (account_no text PRIMARY KEY, owner text, account_balance numeric NOT NULL);
INSERT INTO api.money VALUES ('1', 'Zhang San', 10000), ('1b', 'Wang Wu', 500), ('none', 'Zhao Liu', 0);
CREATE FUNCTION api.accounts() RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(account_no || ' has ' || account_balance, ', ' ORDER BY account_no COLLATE "C") FROM api.money $$;
CREATE FUNCTION api.accounts_there() RETURNS text LANGUAGE sql AS
$$ SELECT api.at_peer('SELECT account_no || '' has '' || account_balance FROM api.money ORDER BY account_no COLLATE "C"') $$;

-- no ledger here
SELECT api.try($$ SELECT dtx_transfer('peer', '1', '2', 1) $$);
SELECT api.try($$ SELECT dtx_transfer(NULL, '1', '2', 1) $$);

-- what can be a ledger
SELECT api.try($$ SELECT dtx_ledger('api.nothing') $$);
SELECT api.try($$ SELECT dtx_ledger('api.money', 'number') $$);
SELECT api.try($$ SELECT dtx_ledger('api.money', 'account_no', 'saldo') $$);
SELECT api.try($$ SELECT dtx_ledger('api.money', 'account_no', 'owner') $$);
SELECT api.try($$ SELECT dtx_ledger('api.money', 'ctid') $$);
SELECT dtx_ledger(NULL) IS NULL, dtx_ledger('api.money', NULL) IS NULL;
CREATE TABLE api.other (id integer PRIMARY KEY, "Balance" bigint, amount double precision, cash money, n4 integer, n2 smallint, dropped numeric);
ALTER TABLE api.other DROP COLUMN dropped;
SELECT api.try($$ SELECT dtx_ledger('api.other', 'id', 'amount') $$);
SELECT api.try($$ SELECT dtx_ledger('api.other', 'id', 'cash') $$);
SELECT api.try($$ SELECT dtx_ledger('api.other', 'id', 'dropped') $$);
SELECT split_part(api.try($$ SELECT dtx_ledger('api.other', 'id', 'balance') $$), E'\n', 1);
-- neither a sequence nor an index
CREATE SEQUENCE api.numbers;
SELECT left(api.try($$ SELECT dtx_ledger('api.numbers', 'last_value', 'log_cnt') $$), 5);
SELECT left(api.try($$ SELECT dtx_ledger('api.money_pkey', 'account_no', 'account_no') $$), 5);
DROP SEQUENCE api.numbers;
-- a superuser names it, or who may, and owns it
SET ROLE dtx_api_clerk;
SELECT api.try($$ SELECT dtx_ledger('api.money') $$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION dtx_ledger TO dtx_api_clerk;
SET ROLE dtx_api_clerk;
SELECT api.try($$ SELECT dtx_ledger('api.money') $$);
RESET ROLE;
SELECT dtx_ledger('api.money');
-- and nobody takes it over with a table of her own
CREATE TABLE api.hers (account_no text PRIMARY KEY, account_balance numeric);
ALTER TABLE api.hers OWNER TO dtx_api_clerk;
SET ROLE dtx_api_clerk;
SELECT api.try($$ SELECT dtx_ledger('api.hers') $$);
RESET ROLE;
ALTER TABLE api.money OWNER TO dtx_api_clerk;
SET ROLE dtx_api_clerk;
SELECT api.try($$ SELECT dtx_ledger('api.hers') $$);
SELECT api.try($$ SELECT dtx_ledger('api.money') $$);
RESET ROLE;
DO $$ BEGIN EXECUTE format('ALTER TABLE api.money OWNER TO %I', session_user); END $$;
DROP TABLE api.hers;
REVOKE EXECUTE ON FUNCTION dtx_ledger FROM dtx_api_clerk;
SELECT relation::regclass, account, balance FROM dtx.ledger;

-- no ledger at the peer: nothing happens here either
SELECT api.try($$ SELECT dtx_transfer('peer', '1', '2', 1) $$);
SELECT api.accounts();
\c dtx_regression_peer
SET client_min_messages = warning;
CREATE TABLE api.money (account_no text PRIMARY KEY, owner text, account_balance numeric NOT NULL CHECK (account_balance <> 777));
INSERT INTO api.money VALUES ('1', 'Qian Qi', 0), ('2', 'Li Si', 10000);
SELECT dtx_ledger('api.money');
\c dtx_regression
SET client_min_messages = warning;
-- a ledger that is not attached there
SELECT api.try($$ SELECT dtx_transfer('peer', '1', '2', 1) $$);
SELECT api.accounts(), api.accounts_there();
SELECT dblink_exec(api.dsn('dtx_regression_peer'), 'DO $$BEGIN PERFORM dtx_attach(''api.money''); END$$');

-- a transfer
SELECT api.mask(dtx_transfer('peer', '1', '2', 100));
CALL api.settle();
SELECT api.accounts(), api.accounts_there();
-- its xid is that of the global transaction, which committed
SELECT dtx_transfer('peer', '1', '2', 0.01) AS xid \gset
SELECT dtx_wait(:'xid', '3min');
SELECT api.accounts(), api.accounts_there();
-- in a transaction, with other work, more than one
BEGIN;
SELECT dtx_begin() AS xid \gset
SELECT dtx_transfer('peer', '1', '2', 50) = :'xid';
SELECT dtx_transfer('peer', '1b', '2', 50, 'at') = :'xid';
SELECT dtx_exec('peer', 'UPDATE api.money SET owner = upper(owner)');
SELECT api.accounts(), api.accounts_there();
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT api.accounts(), api.accounts_there();
-- rolled back: to the savepoint, then whole
BEGIN;
SELECT dtx_transfer('peer', '1', '2', 7) AS xid \gset
SAVEPOINT s;
SELECT dtx_transfer('peer', '1', '2', 1000) = :'xid';
ROLLBACK TO s;
SELECT dtx_transfer('peer', '1', '2', 2) = :'xid';
COMMIT;
CALL api.settle();
SELECT api.accounts(), api.accounts_there();
BEGIN;
SELECT dtx_transfer('peer', '1', '2', 1000) AS xid \gset
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
SELECT api.accounts(), api.accounts_there();
-- between the same number of two databases: two accounts
SELECT dtx_transfer('peer', '1', '1', 10) AS xid \gset
SELECT dtx_wait(:'xid', '3min');
SELECT api.accounts(), api.accounts_there();
-- here: server NULL
SELECT dtx_transfer(NULL, '1', '1b', 100) IS NOT NULL;
SELECT api.accounts(), api.accounts_there();
-- named arguments
SELECT dtx_transfer(server => 'peer', from_account => '1b', to_account => '1', amount => 1, mode => 'at') IS NOT NULL;
CALL api.settle();
SELECT api.accounts(), api.accounts_there();

-- refused: unknown accounts, here and there
SELECT api.try($$ SELECT dtx_transfer('peer', '9', '2', 1) $$);
SELECT api.try($$ SELECT dtx_transfer('peer', '1', '9', 1) $$);
SELECT api.try($$ SELECT dtx_transfer(NULL, '1', '9', 1) $$);
SELECT api.try($$ SELECT dtx_transfer(NULL, '9', '1', 1) $$);
SELECT api.try($$ SELECT dtx_transfer('peer', '', '2', 1) $$);
-- amounts that are not positive numbers
SELECT api.try(format('SELECT dtx_transfer(''peer'', ''1'', ''2'', %L)', amount)) FROM unnest('{0,0.00,-1,-0.001,NaN,Infinity,-Infinity}'::text[]) amount;
SELECT api.try(format('SELECT dtx_transfer(NULL, ''1'', ''1b'', %L)', amount)) FROM unnest('{0,-1,NaN,Infinity}'::text[]) amount;
-- more than there is, here and there
SELECT api.try($$ SELECT dtx_transfer('peer', '1b', '2', 1000000) $$);
SELECT api.try($$ SELECT dtx_transfer('peer', 'none', '2', 0.000001) $$);
SELECT api.try($$ SELECT dtx_transfer(NULL, 'none', '1', 1) $$);
-- to the last cent it may
BEGIN;
SELECT dtx_transfer(NULL, '1b', 'none', (SELECT account_balance FROM api.money WHERE account_no = '1b')) IS NOT NULL;
SELECT api.accounts();
ROLLBACK;
-- to itself
SELECT api.try($$ SELECT dtx_transfer(NULL, '1', '1', 1) $$);
-- NULLs
SELECT api.try($$ SELECT dtx_transfer('peer', NULL, '2', 1) $$);
SELECT api.try($$ SELECT dtx_transfer('peer', '1', NULL, 1) $$);
SELECT api.try($$ SELECT dtx_transfer('peer', '1', '2', NULL) $$);
SELECT api.try($$ SELECT dtx_transfer('peer', '1', '2', 1, NULL) $$);
-- servers and modes
SELECT api.try($$ SELECT dtx_transfer('nowhere', '1', '2', 1) $$);
SELECT api.try($$ SELECT dtx_transfer('peer', '1', '2', 1, 'paper') $$);
SELECT api.try($$ SELECT dtx_transfer(NULL, '1', '1b', 1, '') $$);
-- a constraint there says no
SELECT 777 - balance AS amount FROM dblink(api.dsn('dtx_regression_peer'), $$SELECT account_balance FROM api.money WHERE account_no = '1'$$) AS t(balance numeric) \gset
SELECT api.try(format('SELECT dtx_transfer(''peer'', ''1'', ''1'', %s)', :amount));
-- after all that nothing has moved, and nothing is left
CALL api.settle();
SELECT api.accounts(), api.accounts_there();
SELECT api.in_doubt_at_peer();

-- a constraint here fails at the commit, when the peer has committed phase 1
ALTER TABLE api.money ADD CONSTRAINT not_twice EXCLUDE USING btree (account_balance WITH =) DEFERRABLE INITIALLY DEFERRED;
SELECT account_balance - (SELECT account_balance FROM api.money WHERE account_no = '1b') AS amount FROM api.money WHERE account_no = '1' \gset
SELECT dtx_transfer('peer', '1', '2', :amount);
CALL api.settle();
SELECT api.accounts(), api.accounts_there();
ALTER TABLE api.money DROP CONSTRAINT not_twice;

-- roles: the money is moved with the caller's rights
SET ROLE dtx_api_clerk;
SELECT api.try($$ SELECT dtx_transfer(NULL, '1', '1b', 1) $$);
RESET ROLE;
GRANT SELECT, UPDATE ON api.money TO dtx_api_clerk;
SET ROLE dtx_api_clerk;
SELECT api.try($$ SELECT dtx_transfer(NULL, '1', '1b', 1) $$);
SELECT api.try($$ SELECT dtx_transfer('peer', '1', '2', 1) $$);
RESET ROLE;
SELECT api.accounts();
-- whatever the search path holds
CREATE SCHEMA api_trap;
CREATE FUNCTION api_trap.less(numeric, numeric) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR api_trap.< (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = api_trap.less);
CREATE FUNCTION api_trap.equal(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR api_trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = api_trap.equal);
\c dtx_regression
SET client_min_messages = warning;
SET search_path = api_trap, pg_catalog, public;
SELECT api.mask(dtx_transfer(NULL, '1', '1b', 1));
RESET search_path;
DROP SCHEMA api_trap CASCADE;
SELECT api.accounts();

-- another ledger takes the place of the first
SELECT dtx_ledger('api.other', 'id', 'Balance');
SELECT count(*) FROM dtx.ledger;
INSERT INTO api.other (id, "Balance", n4, n2) VALUES (1, 100, 10, 1), (2, 200, 20, 2);
SELECT dtx_transfer(NULL, '2', '1', 50) IS NOT NULL;
SELECT id, "Balance" FROM api.other ORDER BY id;
-- an account's text need not look like the column prints it; what is no account is not one
SELECT dtx_transfer(NULL, ' 2 ', '01', 50) IS NOT NULL;
SELECT id, "Balance" FROM api.other ORDER BY id;
SELECT split_part(api.try($$ SELECT dtx_transfer(NULL, 'x', '1', 50) $$), ':', 1);
-- whole numbers are not silently rounded
SELECT api.try($$ SELECT dtx_transfer(NULL, '2', '1', 0.4) $$) NOT LIKE 'ok%' AS refused;
SELECT sum("Balance") FROM api.other;
SELECT api.try($$ SELECT dtx_transfer(NULL, '2', '1', 1.5) $$) NOT LIKE 'ok%' AS refused;
SELECT sum("Balance") FROM api.other;
-- under a scale, too
CREATE TABLE api.cents (account_no integer PRIMARY KEY, account_balance numeric(10,2));
INSERT INTO api.cents VALUES (1, 10), (2, 10), (3, NULL);
SELECT dtx_ledger('api.cents');
SELECT dtx_transfer(NULL, '1', '2', 0.25) IS NOT NULL;
SELECT api.try($$ SELECT dtx_transfer(NULL, '1', '2', 0.005) $$) NOT LIKE 'ok%' AS refused;
SELECT * FROM api.cents ORDER BY 1;
-- no balance
SELECT api.try($$ SELECT dtx_transfer(NULL, '3', '2', 1) $$);
SELECT api.try($$ SELECT dtx_transfer(NULL, '2', '3', 1) $$);
-- an account that is there twice
CREATE TABLE api.twice (account_no text, account_balance numeric);
INSERT INTO api.twice VALUES ('1', 10), ('1', 10), ('2', 10);
SELECT dtx_ledger('api.twice');
SELECT api.try($$ SELECT dtx_transfer(NULL, '1', '2', 1) $$);
SELECT api.try($$ SELECT dtx_transfer(NULL, '2', '1', 1) $$);
TABLE api.twice;
-- numbers of accounts of any type: just that account, and no other
CREATE DOMAIN api.number8 AS char(8);
CREATE FUNCTION api.accounts_as(type text, accounts text[], from_account text, to_account text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answers text;
BEGIN
    EXECUTE format('CREATE TABLE api.typed (account_no %s PRIMARY KEY, account_balance numeric(12,2) NOT NULL)', type);
    EXECUTE format('INSERT INTO api.typed SELECT a::%s, 10 FROM unnest($1) a', type) USING accounts;
    PERFORM dtx_ledger('api.typed');
    answers := concat_ws(', ', split_part(api.try(format('SELECT dtx_transfer(NULL, %L, %L, 1) IS NOT NULL', from_account, to_account)), E'\n', 1),
                         split_part(api.try(format('SELECT dtx_transfer(NULL, %L, %L, 2, mode => ''tcc'') IS NOT NULL', from_account, to_account)), E'\n', 1));
    SET CONSTRAINTS ALL IMMEDIATE;
    RETURN answers || ': ' || (SELECT string_agg(trim(account_no::text) || ' ' || account_balance, ', ' ORDER BY account_no::text) FROM api.typed);
END $$;
CREATE FUNCTION api.drop_typed() RETURNS void LANGUAGE sql AS 'DROP TABLE api.typed';
SELECT api.accounts_as('char(8)', '{1,12,2,23}', '12', '23'), api.drop_typed();
SELECT api.accounts_as('char', '{1,2}', '12', '23'), api.drop_typed();
SELECT api.accounts_as('char(2)', '{12,23}', '123', '234'), api.drop_typed();
SELECT api.accounts_as('varchar(2)', '{12,23}', '123', '234'), api.drop_typed();
SELECT api.accounts_as('api.number8', '{1,12,2,23}', '12', '23'), api.drop_typed();
SELECT api.accounts_as('api.number8', '{12345678,23456789}', '123456789', '234567890'), api.drop_typed();
SELECT api.accounts_as('bit(4)', '{1000,1010}', '1010', '1000'), api.drop_typed();
SELECT api.accounts_as('bit(4)', '{1000,1010}', '10101', '10001'), api.drop_typed();
SELECT api.accounts_as('bit varying(2)', '{1,10,0,01}', '10', '01'), api.drop_typed();
SELECT api.accounts_as('"char"', '{1,2}', '12', '23'), api.drop_typed();
SELECT api.accounts_as('name', ARRAY[repeat('1', 63), repeat('2', 63)], repeat('1', 64), repeat('2', 64)) LIKE 'P0002: % does not exist, P0002: %', api.drop_typed();
SELECT api.accounts_as('name', '{1,12,2,23}', '12', '23'), api.drop_typed();
SELECT api.accounts_as('numeric(3,0)', '{12,23}', '12.4', '23.4'), api.drop_typed();
SELECT api.accounts_as('numeric(3,1)', '{12,23}', '12', '23.0'), api.drop_typed();
SELECT api.accounts_as('timestamp(0)', '{2026-01-01,2026-01-02}', '2026-01-01 00:00:00.4', '2026-01-02 00:00:00.4'), api.drop_typed();
SELECT api.accounts_as('integer', '{1,12,2,23}', '012', '23'), api.drop_typed();
SELECT api.accounts_as('uuid', '{00000000-0000-0000-0000-000000000001,00000000-0000-0000-0000-000000000002}',
                       '00000000000000000000000000000001', '{00000000-0000-0000-0000-000000000002}'), api.drop_typed();
SELECT api.accounts_as('char(3)[]', ARRAY['{ab,c}', '{ab,d}'], '{ab,c}', '{ab,d}'), api.drop_typed();
DROP FUNCTION api.accounts_as(text, text[], text, text), api.drop_typed();
DROP DOMAIN api.number8;
-- the ledger's table is altered, renamed, dropped
SELECT dtx_ledger('api.cents');
SELECT dtx_transfer(NULL, '1', '2', 1) IS NOT NULL;
ALTER TABLE api.cents RENAME TO renamed;
SELECT dtx_transfer(NULL, '1', '2', 1) IS NOT NULL;
ALTER TABLE api.renamed SET SCHEMA public;
SELECT dtx_transfer(NULL, '1', '2', 1) IS NOT NULL;
ALTER TABLE renamed ALTER account_balance TYPE numeric(12,3);
SELECT dtx_transfer(NULL, '1', '2', 0.001) IS NOT NULL;
SELECT account_no, account_balance FROM renamed ORDER BY 1;
ALTER TABLE renamed RENAME account_balance TO balance;
SELECT left(api.try($$ SELECT dtx_transfer(NULL, '1', '2', 1) $$), 5);
-- a ledger that is gone is none
DROP TABLE renamed;
SELECT api.try($$ SELECT dtx_transfer(NULL, '1', '2', 1) $$) ~ '^(42P01|55000|42703): ' AS refused;
\c dtx_regression
SET client_min_messages = warning;
SELECT api.try($$ SELECT dtx_transfer(NULL, '1', '2', 1) $$) ~ '^(42P01|55000): (?!.*\(null\))' AS refused;
DROP TABLE api.twice, api.other, api.money;
DELETE FROM dtx.ledger;
DROP OWNED BY dtx_api_clerk;
DROP ROLE dtx_api_clerk;
\c dtx_regression_peer
DROP TABLE api.money;
DELETE FROM dtx.ledger;
