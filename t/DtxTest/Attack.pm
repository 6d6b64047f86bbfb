
=pod

=head1 NAME

DtxTest::Attack - what a role may try that wants more than she was given

=head1 DESCRIPTION

attack_statement() returns one random statement: a call of a function of the
extension with arguments drawn by type, an object in somebody's way, a move of
a transaction. Everything is drawn by rand(): a seed repeats it.

=cut

package DtxTest::Attack;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(
  pick
  quoted
  attack_statement
  objects_in_the_way
);

sub pick
{
	return $_[ int rand @_ ];
}

sub quoted
{
	my ($text) = @_;
	return 'NULL' unless defined $text;
	$text =~ s/'/''/g;
	return $text =~ s/\\/\\\\/g ? "E'$text'" : "'$text'";
}

# --- arguments

# Words that mean something somewhere: names, modes, decisions, states, literals.
my @words = (
	'', ' ', 'x', '1', '2', 'a1', 'vault', '-1', '9223372036854775808', 'NaN', 'infinity', '-infinity', 'now',
	'at', 'xa', 'tcc', 'message', 'commit', 'rollback', 'forget', 'c', 'd', 'bank1', 'bank2', 'elsewhere', 'web',
	'postgres', 'teller', 'dtx', 'pg_catalog', 'pg_temp', 'credit', 'debit', 'mine', 'move', 'topic', 'a.b.#', '*.x', '#',
	'{}', '[]', 'null', '{"a": 1}', '{NULL}', "O'Neil", 'back\\slash', '$1', '%s%n', '"', "\xc3\xa4\xe4\xb8\xad", 'evil', 'evil(jsonb)',
	'public.evil(jsonb)', 'pg_catalog.pg_terminate_backend(integer)', 'ledger_receive', 'dtx.ledger_receive',
	'SELECT 1', 'SELECT pg_sleep(0)', 'BEGIN', 'COMMIT', 'SET ROLE postgres', 'SELECT 1; SELECT 2', 'DELETE FROM vault',
	'INSERT INTO mine VALUES (1, 1)', 'UPDATE mine SET v = v + 1', 'DELETE FROM mine', 'TRUNCATE mine',
	'UPDATE odd SET t = t', 'INSERT INTO odd DEFAULT VALUES', 'DELETE FROM odd',
	'UPDATE account_info SET account_balance = account_balance', 'ALTER ROLE CURRENT_USER SUPERUSER',
	q{SELECT dtx_exec('bank1', 'UPDATE mine SET v = v + 1')}, q{SELECT dtx_begin('xa')}, 'SELECT evil()',
	q{WITH a AS (SELECT evil()) UPDATE mine SET v = v FROM a}, 'SELECT dtx.branch_flush()', 'SELECT dtx.branch_control(0)',
	'whsec_c2VjcmV0', '2026-01-01', '1e400');

my @integers = (0, 0, 1, 1, 2, 3, 7, -1, -2, 100, 32767, 65536, 2147483647, -2147483648);
my @bigints = (@integers, '9223372036854775807', '-9223372036854775808', '4294967296', '281474976710656');

my $odd_xids = [
	'bank1', 'bank1.', 'bank1.00000000:1', 'bank1.00000000:1.0000000000000000', 'x.12345678:1.0123456789abcdef',
	'bank1.12345678:18446744073709551615.ffffffffffffffff', '/1', ':', '.', ('a' x 200) . '.12345678:1.0123456789abcdef'
];

# An xid: one that somebody told her, one that was true, or none.
sub some_xid
{
	my ($known) = @_;
	my @known = @{ $known->{xids} // [] };
	return pick(@$odd_xids) if !@known || rand() < 0.2;
	my $xid = pick(@known);
	substr($xid, -1) = pick(0 .. 9) if rand() < 0.1;
	$xid =~ s/:\d+\./':' . pick(1, 2, 700 + int rand 500, 1 << 40) . '.'/e if rand() < 0.1;
	return $xid;
}

sub some_gid
{
	my ($known) = @_;
	return some_xid($known) . join '', map { '/' . pick(1, 1, 1, 2, 3, 0, -1, 4294967296) } 1 .. pick(1, 1, 1, 2, 40);
}

sub some_text
{
	my ($known) = @_;
	my $dice = rand;
	return undef if $dice < 0.05;
	return some_xid($known) if $dice < 0.25;
	return some_gid($known) if $dice < 0.4;
	return pick(@{ $known->{nodes} // [] }, 'x.12345678') if $dice < 0.45;
	return pick('x', "\xe4\xb8\xad", '{', '[', '/') x pick(64, 300, 9000, 200_000) if $dice < 0.47;
	return pick(@words);
}

sub some_json
{
	my ($known, $depth) = @_;
	my $dice = rand;
	return pick('null', 'true', '{}', '[]', '""', '0', '-1e300', '"x"') if $dice < 0.3 || $depth > 4;
	return ('[' x 6000) . (']' x 6000) if $dice < 0.31;
	my $string = sub { my $t = shift // 'null'; $t =~ s/(["\\])/\\$1/g; return qq("$t") };
	return $string->(some_text($known)) if $dice < 0.45;
	return '[' . join(', ', map { some_json($known, $depth + 1) } 1 .. pick(1, 2, 3)) . ']' if $dice < 0.6;
	my @keys = (qw(id i t p k h topic payload key headers tx_no account amount to from node gid xid server n s), 'webhook-id',
		'webhook-timestamp', 'webhook-signature', 'x-dtx-xid');
	return '{' . join(', ', map { $string->(pick(@keys)) . ': ' . some_json($known, $depth + 1) } 1 .. pick(1, 2, 4)) . '}';
}

sub some_array
{
	my ($type, $element) = @_;
	my $dice = rand;
	return "NULL::$type" if $dice < 0.08;
	return "'{}'::$type" if $dice < 0.16;
	return "array_fill(" . $element->() . ", ARRAY[" . pick(2, 5000) . "])::$type" if $dice < 0.2;
	return "ARRAY[[" . $element->() . '], [' . $element->() . "]]::$type" if $dice < 0.24;
	return 'ARRAY[' . join(', ', map { $element->() } 1 .. pick(1, 1, 1, 2, 3)) . "]::$type";
}

my %by_type;
%by_type = (
	text => sub { quoted(some_text($_[0])) . '::text' },
	name => sub { quoted(pick(@words, 'bank2', 'bank2', 'bank1', undef)) . '::name' },
	integer => sub { pick(@integers, 'NULL') . '::integer' },
	smallint => sub { pick(0, 1, -1, 32767) . '::smallint' },
	bigint => sub { pick(@bigints, @bigints, @{ $_[0]{numbers} // [] }, 'NULL') . '::bigint' },
	numeric => sub { "'" . pick(0, 1, -1, 7, '0.01', '1e500', 'NaN', 'Infinity', '-Infinity', '99999999') . "'::numeric" },
	boolean => sub { pick(qw(true false NULL)) . '::boolean' },
	jsonb => sub { rand() < 0.05 ? 'NULL::jsonb' : quoted(some_json($_[0], 0)) . '::jsonb' },
	interval => sub { quoted(pick('0', '1ms', '100ms', '-1 day', '1 month', '178000000 years', '-178000000 years', undef)) . '::interval' },
	'timestamp with time zone' => sub { quoted(pick('infinity', '-infinity', '4713-01-01 BC', '294276-01-01', 'now', undef)) . '::timestamptz' },
	'"char"' => sub { quoted(pick('', 'a', 'b', 'd', 'x', undef)) . '::"char"' },
	oid => sub { pick(0, 1, 10, 1259, 4294967295, 'NULL', q{(SELECT oid FROM pg_foreign_server LIMIT 1)}, q{(SELECT oid FROM pg_roles ORDER BY random() LIMIT 1)}) . '::oid' },
	tid => sub { quoted(pick('(0,0)', '(0,1)', '(0,2)', '(4294967295,65535)', '(4294967294,1)', '(1,1)', undef)) . '::tid' },
	regclass => sub { pick(qw('mine' 'odd' 'account_info' 'vault' 'pg_class' 0 NULL 4294967295), q{'dtx.undo_log'}, q{'dtx_branches'}, q{'mine_pkey'}) . '::regclass' },
	regrole => sub { pick('CURRENT_USER', 0, 10, 'NULL', 4294967295, q{'teller'}, q{'postgres'}) =~ s/^CURRENT_USER$/quote_ident(CURRENT_USER)/r . '::regrole' },
	regnamespace => sub { pick(q{'public'}, q{'dtx'}, q{'pg_catalog'}, 0, 'NULL', 'quote_ident(CURRENT_USER)') . '::regnamespace' },
	regprocedure => sub { pick(q{'evil()'}, q{'evil(jsonb)'}, q{'evil(text, text)'}, q{'pg_reload_conf()'}, q{'move_try(text, numeric)'}, q{'move_end(text, numeric)'}, 0, 4294967295, 'NULL') . '::regprocedure' },
	pg_lsn => sub { quoted(pick('0/0', 'FFFFFFFF/FFFFFFFF', undef)) . '::pg_lsn' },
	xid8 => sub { pick(q{'0'}, q{'1'}, q{'18446744073709551615'}, 'NULL') . '::xid8' },
	'"any"' => sub { pick('1', 'NULL', q{'x'::text}, q{'{1,2}'::integer[]}, q{ROW(1, 2)}, q{'(1,2)'::point}, q{'x'::char(3)}, q{NULL::mine}) },
	anyelement => sub { pick('NULL::mine', 'NULL::odd', 'NULL::account_info', '1', 'NULL::integer', 'NULL::dtx_branches') },
	internal => sub { 'NULL' });

sub argument
{
	my ($type, $known) = @_;
	return $by_type{$type}->($known) if exists $by_type{$type};
	if ($type =~ /^(.*)\[\]$/ && exists $by_type{$1})
	{
		my $element = $by_type{$1};
		return some_array($type, sub { $element->($known) });
	}
	return "NULL::$type";
}

# What a text argument of that name is likely to hold; undef for anything.
sub meant
{
	my ($name, $known) = @_;
	return some_xid($known) if $name eq 'xid';
	return some_gid($known) if $name eq 'gid';
	return pick(qw(at xa tcc message), '') if $name =~ /^modes?$/;
	return pick(@{ $known->{nodes} // [] }, 'x.12345678') if $name =~ /^(node|origin)$/;
	return pick('evil(jsonb)', 'evil', 'public.evil(jsonb)', '') if $name =~ /^(handler|check)$/;
	return pick(qw(commit rollback forget)) if $name eq 'decision';
	return pick(qw(mine move debit credit)) if $name eq 'action';
	return pick(qw(a b s1 s2)) if $name =~ /^(subscription|name|tx_no|topic)$/;
	return pick('1', '2', 'a1', 'vault') if $name =~ /account/;
	return pick('UPDATE mine SET v = v + 1', 'INSERT INTO mine VALUES (default, 1)', 'UPDATE odd SET t = t', 'DELETE FROM mine',
		'SELECT evil()', 'UPDATE account_info SET account_balance = account_balance') if $name eq 'sql';
	return undef;
}

# A call of a function: [schema-qualified name, [argument name, type, has a default], ...].
sub call
{
	my ($function, $known) = @_;
	my ($name, @arguments) = @$function;
	my @values;
	foreach my $argument (@arguments)
	{
		my ($what, $type, $default) = @$argument;
		# the rest has its defaults, too
		last if $default && rand() < 0.3;
		my $meant = rand() < 0.7 && $type =~ /^(text|name)$/ ? meant($what, $known) : undef;
		push @values, defined $meant ? quoted($meant) . "::$type" : argument($type, $known);
	}
	$name = pick('SELECT * FROM ', 'SELECT ') . $name . '(' . join(', ', @values) . ')';
	return rand() < 0.05 ? "$name, generate_series(1, 50)" : $name;
}

# --- objects in the way

# Statements that make them, in the schema of the role. evil() tries what no
# code of hers may succeed with, and tells the server's log when it does, or runs as
# somebody else.
sub objects_in_the_way
{
	my ($role) = @_;
	my @attempts = map {
		my ($what, $loot) = @$_;
		$loot = $loot ? "RAISE LOG 'LOOT: % as %: %', '$role', current_user, \$e\$$what\$e\$;" : '';
		"BEGIN EXECUTE \$e\$$what\$e\$; $loot EXCEPTION WHEN OTHERS THEN NULL; END;"
	} (
		[ "ALTER ROLE $role SUPERUSER", 1 ], [ "GRANT pg_read_all_data TO $role", 1 ], [ 'UPDATE public.vault SET gold = 0', 1 ],
		[ 'RESET ROLE' ], [ "ALTER ROLE $role SUPERUSER", 1 ],
		[ 'SET SESSION AUTHORIZATION DEFAULT' ], [ "ALTER ROLE $role SUPERUSER", 1 ],
		[ 'SET LOCAL ROLE postgres', 1 ], [ 'UPDATE public.vault SET gold = 0', 1 ], [ 'RESET ROLE' ]);
	# what is rolled back again stays in the server's log
	my $body = "BEGIN IF current_user <> '$role' THEN RAISE LOG 'LOOT: % runs as %', '$role', current_user; END IF; @attempts END";
	# a function that tries each in a subtransaction would be slow if it were called for every row
	my $guarded = "BEGIN IF random() < 0.3 THEN PERFORM $role.evil(); END IF; RETURN";
	return (
		"CREATE FUNCTION evil() RETURNS void LANGUAGE plpgsql AS \$\$$body\$\$",
		"CREATE FUNCTION evil(jsonb) RETURNS void LANGUAGE plpgsql AS \$\$$body\$\$",
		"CREATE FUNCTION evil(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS \$\$$guarded false; END\$\$",
		"CREATE FUNCTION evil_key(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS \$\$$guarded \$1; END\$\$",
		"CREATE FUNCTION evil_check(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS \$\$$guarded true; END\$\$",
		"CREATE FUNCTION evil_trigger() RETURNS trigger LANGUAGE plpgsql AS \$\$$guarded coalesce(NEW, OLD); END\$\$",
		# operators and casts that shadow those of the catalog
		map({ "CREATE OPERATOR $_ (LEFTARG = text, RIGHTARG = text, FUNCTION = evil)" } qw(= <> || ~~)),
		"CREATE TYPE colour AS ENUM ('red', 'green')",
		"CREATE TYPE pair AS (a integer, b text)",
		"CREATE FUNCTION pair_json(pair) RETURNS jsonb LANGUAGE plpgsql AS \$\$$guarded '{}'; END\$\$",
		"CREATE FUNCTION pair_text(pair) RETURNS text LANGUAGE plpgsql AS \$\$$guarded ''; END\$\$",
		"CREATE FUNCTION colour_json(colour) RETURNS jsonb LANGUAGE plpgsql AS \$\$$guarded '{}'; END\$\$",
		"CREATE CAST (pair AS jsonb) WITH FUNCTION pair_json(pair) AS IMPLICIT",
		"CREATE CAST (pair AS json) WITH INOUT AS IMPLICIT",
		"CREATE CAST (pair AS text) WITH FUNCTION pair_text(pair) AS IMPLICIT",
		"CREATE CAST (colour AS jsonb) WITH FUNCTION colour_json(colour) AS IMPLICIT",
		"CREATE DOMAIN checked AS text CHECK (evil_check(VALUE))",
		# her own tables: one that is plain, one in which everything runs her code
		"CREATE TABLE mine (id serial PRIMARY KEY, v numeric)",
		"INSERT INTO mine SELECT g, g FROM generate_series(1, 5) g",
		"SELECT dtx_attach('mine')",
		"CREATE TABLE odd (id integer PRIMARY KEY DEFAULT (random() * 1000)::int, t checked DEFAULT 'x', c colour DEFAULT 'red',"
		  . " p pair DEFAULT ROW(1, 'x'), up integer REFERENCES odd DEFERRABLE INITIALLY DEFERRED, CHECK (evil_check(t)),"
		  . " EXCLUDE ((evil_key(id)) WITH =) DEFERRABLE INITIALLY DEFERRED)",
		"CREATE INDEX ON odd (evil_key(id)) WHERE evil_check(t)",
		"CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON odd FOR EACH ROW EXECUTE FUNCTION evil_trigger()",
		"CREATE TRIGGER u AFTER INSERT OR UPDATE OR DELETE ON odd FOR EACH ROW EXECUTE FUNCTION evil_trigger()",
		"ALTER TABLE odd ENABLE ALWAYS TRIGGER u",
		"SELECT dtx_attach('odd')",
		"INSERT INTO odd (id) SELECT g FROM generate_series(1, 5) g",
		# what dtx calls, by its name
		"CREATE FUNCTION to_jsonb(anyelement) RETURNS jsonb LANGUAGE plpgsql AS \$\$$guarded '{}'; END\$\$",
		"CREATE FUNCTION quote_ident(text) RETURNS text LANGUAGE plpgsql AS \$\$$guarded \$1; END\$\$",
		"CREATE FUNCTION now() RETURNS timestamptz LANGUAGE plpgsql AS \$\$$guarded 'infinity'; END\$\$",
		"CREATE FUNCTION dtx_exec(name, text) RETURNS bigint LANGUAGE plpgsql AS \$\$$guarded 1; END\$\$",
		"CREATE TABLE branch (LIKE mine)",
		"CREATE VIEW undo_log AS SELECT evil() IS NULL AS gid",
		# an action of TCC
		"CREATE FUNCTION move_try(account text, amount numeric) RETURNS void LANGUAGE plpgsql AS \$\$BEGIN PERFORM evil(); END\$\$",
		"CREATE FUNCTION move_end(account text, amount numeric) RETURNS void LANGUAGE plpgsql AS \$\$BEGIN PERFORM evil(); END\$\$",
		"SELECT dtx_tcc_define('move_$role', 'move_try(text, numeric)', 'move_end(text, numeric)', 'move_end(text, numeric)')");
}

# --- moves

my @settings = (
	"search_path = '\$user', pg_catalog, public", "search_path = public", "search_path = pg_temp, '\$user', public", "search_path = ''",
	"dtx.lock_timeout = " . 10, "dtx.lock_timeout = 0", "lock_timeout = 50", "statement_timeout = 200", "transaction_isolation = 'serializable'",
	"default_transaction_read_only = on", "default_transaction_read_only = off", "session_replication_role = replica", "row_security = off",
	"dtx.unattached = 'allow'", "dtx.fault_point = 'coordinator-before-commit:panic'", "bytea_output = 'escape'", "DateStyle = 'SQL, DMY'",
	"IntervalStyle = 'sql_standard'", "client_encoding = 'LATIN1'", "client_encoding = 'UTF8'", "standard_conforming_strings = off",
	"standard_conforming_strings = on", "quote_all_identifiers = on", "extra_float_digits = 0", "enable_indexscan = off",
	"enable_seqscan = off", "max_stack_depth = '100kB'", "work_mem = '64kB'", "temp_buffers = 100", "synchronous_commit = off",
	"transaction_read_only = on", "default_transaction_deferrable = on", "timezone = 'Antarctica/Troll'", "xmloption = document",
	"check_function_bodies = off", "plan_cache_mode = force_generic_plan", "gin_fuzzy_search_limit = 1", "dtx.retry_base = 1");

my @views = qw(dtx_branches dtx_transactions dtx_peers dtx_stats dtx_undo dtx_locks dtx_history dtx_frozen dtx_subscriptions
  dtx_dead_letters dtx_half_messages dtx_in_flight dtx_notifications dtx_failed_attempts dtx_targets dtx_expectations);

my @own_tables = qw(undo_log branch joined_branch node history settled contact global ledger frozen tcc_action try_log message subscription);

my @plain = (
	'BEGIN', 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'BEGIN READ ONLY', 'COMMIT', 'COMMIT', 'ROLLBACK', 'ROLLBACK', 'SAVEPOINT s',
	'ROLLBACK TO s', 'RELEASE s', 'COMMIT AND CHAIN', 'DISCARD ALL', 'DISCARD TEMP', 'DEALLOCATE ALL', 'RESET ALL', 'UNLISTEN *',
	'SET CONSTRAINTS ALL IMMEDIATE', 'SET CONSTRAINTS ALL DEFERRED', 'SELECT pg_terminate_backend(pg_backend_pid())', 'SELECT pg_cancel_backend(pg_backend_pid())',
	'INSERT INTO mine VALUES (default, 1)', 'UPDATE mine SET v = v + 1', 'DELETE FROM mine WHERE id = (SELECT max(id) FROM mine)',
	'UPDATE odd SET t = t', 'INSERT INTO odd (id, up) VALUES (default, 1)', 'DELETE FROM odd', 'TRUNCATE mine', 'SELECT * FROM mine FOR UPDATE',
	'UPDATE odd SET id = id + 1', 'COPY mine FROM PROGRAM $$true$$',
	"SELECT dtx_exec('bank2', 'UPDATE mine SET v = v + 1')", "SELECT dtx_exec('bank2', 'INSERT INTO odd DEFAULT VALUES')",
	"SELECT dtx_exec('bank2', 'UPDATE odd SET t = t')", "SELECT dtx_exec('bank2', 'DELETE FROM odd WHERE id < 500')",
	"SELECT dtx_exec('bank2', 'SELECT evil()')", "SELECT * FROM dtx_query('bank2', 'SELECT current_user::text') AS t(x text)",
	"SELECT dtx_exec('bank2', 'SELECT dtx_exec(''bank1'', ''UPDATE mine SET v = 0'')')",
	"SELECT dtx_transfer('bank2', 'a1', 'a2', 1)", "SELECT dtx_transfer('bank2', 'a1', 'a2', 1, 'xa')", "SELECT dtx_transfer('bank2', 'a1', 'a2', 1, 'tcc')",
	"SELECT dtx_transfer('bank2', 'vault', 'a2', 1)", "SELECT dtx_begin('xa')", "SELECT dtx_begin('at')", "SELECT dtx_xid()", "SELECT dtx_open('1s')",
	"SELECT dtx_publish('topic', '{}')", "SELECT dtx_publish('topic', '{}', 'key')", "SELECT dtx_subscribe('topic', NULL, 'evil', 's1')",
	"SELECT dtx_subscribe('topic', 'bank2', 'evil(jsonb)', 's2')", "SELECT dtx_message_prepare('topic', '{}', NULL, 'evil')", "SELECT dtx_unsubscribe('s1')",
	"SELECT dtx_notify('bank2', 'n' || (random() * 50)::int, '{}')", "SELECT dtx_on_notification('evil')", "SELECT dtx_attach('mine')", "SELECT dtx_detach('mine')",
	"SELECT dtx_detach('odd')", "SELECT dtx_attach('odd')", "SELECT dtx_attach_all(quote_ident(current_user)::regnamespace)", "ALTER TABLE mine SET UNLOGGED",
	"ALTER TABLE mine SET LOGGED", "ALTER TABLE mine DISABLE TRIGGER ALL", "ALTER TABLE mine ENABLE TRIGGER ALL", "ALTER TABLE mine ADD COLUMN IF NOT EXISTS w integer DEFAULT 1",
	"ALTER TABLE mine DROP COLUMN IF EXISTS w", "VACUUM FULL mine", "CLUSTER mine USING mine_pkey", "REINDEX TABLE odd", "ALTER TABLE mine DROP CONSTRAINT mine_pkey",
	"ALTER TABLE mine ADD PRIMARY KEY (id)", "CREATE DATABASE copy_of_bank TEMPLATE bank2", "DROP DATABASE copy_of_bank", "ALTER EXTENSION dtx DROP TABLE dtx.branch",
	"DROP EXTENSION dtx", "DROP SCHEMA dtx", "DROP SERVER bank2", "LISTEN dtx", "LOCK TABLE dtx.branch", "SELECT dtx_admit('teller')",
	"CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION evil_trigger()", "CREATE PUBLICATION p FOR ALL TABLES",
	"ALTER USER MAPPING FOR CURRENT_USER SERVER bank2 OPTIONS (ADD password 'x')", "ALTER USER MAPPING FOR CURRENT_USER SERVER bank2 OPTIONS (DROP password)",
	"CREATE USER MAPPING FOR CURRENT_USER SERVER web OPTIONS (secret 'whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0')",
	"CREATE SERVER hers FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '127.0.0.1', port '1', dbname 'x')", "DROP SERVER hers CASCADE",
	"CREATE SERVER hers FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'http://127.0.0.1:1/x', allow_private 'true')",
	"CREATE USER MAPPING FOR CURRENT_USER SERVER hers OPTIONS (user 'postgres', password 'x')", "SELECT dtx_ping('hers')",
	"CREATE SERVER hers FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '127.0.0.1', sslcert '/etc/passwd', sslkey '/dev/zero', sslrootcert '/proc/self/mem')",
	"SELECT evil()");

# What cannot be foreseen is in the way of whoever looks for a name.
sub temporary_object
{
	my $table = pick(@own_tables, qw(account_info transfer_log mine pg_class pg_proc vault));
	return pick(
		"CREATE TEMP TABLE IF NOT EXISTS $table (gid text, xid text, id bigint, state \"char\")",
		"CREATE TEMP VIEW $table AS SELECT evil() IS NULL AS gid",
		"DROP TABLE IF EXISTS pg_temp.$table",
		"DROP VIEW IF EXISTS pg_temp.$table",
		"CREATE FUNCTION pg_temp." . pick(qw(dtx_exec to_jsonb now evil)) . "(text) RETURNS text LANGUAGE sql AS 'SELECT evil()::text'");
}

# A move of the protocol that only a coordinator makes.
sub forged_move
{
	my ($known) = @_;
	my $gid = quoted(some_gid($known));
	my $xid = quoted(some_xid($known));
	my $node = quoted(pick(@{ $known->{nodes} // [] }, 'x.12345678'));
	my $n = pick(0, 1, 2147483647, '9223372036854775807');
	return pick(
		"SELECT * FROM dtx.peer_hello(" . pick(0, 1, 2) . ')',
		"SELECT dtx.branch_join($gid, " . quoted(pick(qw(at xa tcc))) . ", " . pick(0, 1, 2, 7, 255) . ", 0, " . pick(1, 2, 100) . ', ' . pick(0, 1, 42) . ')',
		"SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/" . int(rand 1000) . "', 'at', 0, 0, 1, 0)",
		"SELECT dtx.branch_settle(ARRAY[$node], 1, $n, ARRAY[$gid], '{" . pick('t', 'f') . "}', '" . pick(qw(a x t)) . "', '{}')",
		"SELECT dtx.branch_settle(ARRAY['x.12345678'], 1, $n, ARRAY['x.12345678:1.0123456789abcdef/" . int(rand 1000) . "'], '{" . pick('t', 'f') . "}', 'a', '{}')",
		"SELECT dtx.branch_pending(ARRAY[$node], 1)",
		"SELECT dtx.branch_register($xid, $node, current_user::text, " . pick(0, 1) . ")",
		"SELECT dtx.branch_vote(ARRAY[$gid])",
		"SELECT dtx_join($xid)", "SELECT dtx_join($xid, 's')", "SELECT dtx_commit($xid)", "SELECT dtx_rollback($xid)", "SELECT dtx_status($xid)", "SELECT dtx_retry($xid)",
		"PREPARE TRANSACTION $gid", "COMMIT PREPARED $gid", "ROLLBACK PREPARED $gid",
		"PREPARE TRANSACTION '" . pick(qw(p q)) . "'", "ROLLBACK PREPARED '" . pick(qw(p q)) . "'", "COMMIT PREPARED '" . pick(qw(p q)) . "'");
}

# One statement. functions: as call() takes them; known: xids, nodes, numbers
# that she may have heard of.
sub attack_statement
{
	my ($functions, $known) = @_;
	my $dice = rand;
	return call(pick(@$functions), $known) if $dice < 0.4;
	return pick(@plain) if $dice < 0.65;
	return forged_move($known) if $dice < 0.85;
	return 'SET ' . (rand() < 0.3 ? 'LOCAL ' : '') . pick(@settings) if $dice < 0.9;
	return 'SELECT * FROM ' . pick(@views) . pick('', ' WHERE evil(xid, \'\')', ' LIMIT 1') if $dice < 0.94;
	return temporary_object() if $dice < 0.98;
	return pick('INSERT INTO dtx.%s DEFAULT VALUES', 'DELETE FROM dtx.%s', 'SELECT * FROM dtx.%s', 'TRUNCATE dtx.%s',
		'CREATE TRIGGER t BEFORE INSERT ON dtx.%s FOR EACH ROW EXECUTE FUNCTION evil_trigger()', 'ALTER TABLE dtx.%s DISABLE TRIGGER ALL')
	  =~ s/%s/pick(@own_tables)/er;
}

1;
