# Settings that a role, or a database, has for its sessions, and that dtx's own
# sessions and processes inherit: branches are settled, messages delivered, whatever
# they are. Each is set while branches are in doubt.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my ($bank1, $bank2) = two_banks(conf => 'max_prepared_transactions = 10');
my $total = money($bank1, $bank2);

# A row takes its time to be checked, by who restores it as well: longer than the
# timeouts below.
$bank2->safe_psql('bank2', q{
CREATE FUNCTION slow(v int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(0.05 * greatest(v, 0)); RETURN true; END $$;
CREATE TABLE entry (id int PRIMARY KEY, v int CHECK (slow(v)));
INSERT INTO entry VALUES (1, 0), (2, 0); SELECT dtx_attach('entry');
-- restored to 2
UPDATE entry SET v = 2;
CREATE FUNCTION pay(i int) RETURNS void LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION pay_slowly(i int) RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.1); INSERT INTO public.paid VALUES (i); END';
CREATE TABLE paid (i int);
SELECT dtx_tcc_define('pay', 'pay(int)', 'pay_slowly(int)', 'pay_slowly(int)');
CREATE ROLE clerk LOGIN; SELECT dtx_admit('clerk');
GRANT SELECT, UPDATE ON entry TO clerk; GRANT INSERT ON paid TO clerk; ALTER TABLE entry OWNER TO clerk});
$bank1->safe_psql('bank1', sprintf(q{
CREATE SERVER counter FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '%s', port '%s', dbname 'bank2');
CREATE USER MAPPING FOR CURRENT_USER SERVER counter OPTIONS (user 'clerk')}, $bank2->host, $bank2->port));

my @settings = (
	[ statement_timeout => '50ms' ],
	[ transaction_timeout => '50ms' ],
	[ lock_timeout => '1ms' ],
	[ 'dtx.lock_timeout' => '1ms' ],
	[ idle_in_transaction_session_timeout => '10ms' ],
	[ idle_session_timeout => '50ms' ],
	[ default_transaction_read_only => 'on', default_transaction_isolation => 'serializable', default_transaction_deferrable => 'on' ],
	[ search_path => 'nowhere' ],
	[ row_security => 'off' ],
	[ session_replication_role => 'replica' ],
	[ check_function_bodies => 'off', client_min_messages => 'debug1', synchronous_commit => 'off' ],
	[ DateStyle => 'SQL, DMY', IntervalStyle => 'sql_standard', extra_float_digits => '-15', TimeZone => 'Asia/Kathmandu', bytea_output => 'escape' ],
	[ client_encoding => 'latin1', ($bank1->pg_version < 19 ? (standard_conforming_strings => 'off') : ()), array_nulls => 'off', transform_null_equals => 'on' ],
	[ enable_indexscan => 'off', enable_seqscan => 'off', enable_bitmapscan => 'off', plan_cache_mode => 'force_generic_plan' ]);
my %known = map { $_ => 1 } split /\n/, $bank2->safe_psql('bank2', 'SELECT lower(name) FROM pg_settings');

sub set_all
{
	my ($node, $whose, @pairs) = @_;
	my $sql = '';
	while (my ($name, $value) = splice @pairs, 0, 2)
	{
		my $quoted = $name eq 'search_path' || $name eq 'DateStyle' ? $value : "'$value'";
		$sql .= "ALTER $whose SET $name = $quoted;" if $known{ lc $name };
	}
	$node->safe_psql('postgres', $sql) if $sql ne '';
	return $sql ne '';
}

sub reset_all
{
	my ($node, @whose) = @_;
	$node->safe_psql('postgres', "ALTER $_ RESET ALL") foreach @whose;
	return;
}

# --- at the participant, of its role and of its database

my @sessions = map { session($bank1) } 1, 2;
my $round = 0;
foreach my $set (@settings)
{
	my $whose = ('ROLE clerk IN DATABASE bank2', 'DATABASE bank2')[ $round++ % 2 ];
	my @xids;
	foreach my $i (0, 1)
	{
		my $id = $i + 1;
		$sessions[$i]->must('BEGIN', "SELECT dtx_exec('counter', 'UPDATE entry SET v = -1 WHERE id = $id')",
			"SELECT dtx_try('counter', 'pay', '{\"i\": $round}')");
		push @xids, $sessions[$i]->must('SELECT dtx_xid()');
	}
	set_all($bank2, $whose, @$set) or do { $_->must('ROLLBACK') foreach @sessions; settled($bank1, $bank2); next };
	# they do not reach sessions that are open
	$bank2->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'clerk'});
	$sessions[0]->must('ROLLBACK');
	$sessions[1]->must('COMMIT');
	is($sessions[0]->must("SELECT dtx_wait('$_', '180s')"), ($_ eq $xids[0] ? 'rolled back' : 'committed'), "$whose: @$set") foreach @xids;
	reset_all($bank2, $whose);
	is(value($bank2, 'SELECT string_agg(v::text, $$ $$ ORDER BY id) FROM entry'), '2 -1', 'settled so');
	$bank2->safe_psql('bank2', 'UPDATE entry SET v = 2');
}
is(value($bank2, 'SELECT count(*) = count(DISTINCT i) * 2 FROM paid'), 't', 'every confirm and cancel has run once');
ok(settled($bank1, $bank2), 'settled');

# what fails as a whole is shown where somebody looks for it: here the commit of the call
$bank2->safe_psql('bank2', q{
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON paid DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()});
$sessions[0]->must('BEGIN', q{SELECT dtx_try('counter', 'pay', '{"i": 0}')}, 'ROLLBACK');
ok(wait_for_value($bank1, q{SELECT count(*) FROM dtx_peers WHERE server = 'counter' AND last_error LIKE '%not today%'}, '1'),
	'a rollback that fails with its call is shown in dtx_peers');
$bank2->safe_psql('bank2', 'DROP TRIGGER refuse ON paid');
ok(settled($bank1, $bank2), 'and settled when it can be');

# --- of both databases, for the processes that are dtx's own; and for all kinds of work

# of a client that begins transactions as it likes
$ENV{PGOPTIONS} = join ' ', map { "-c $_" } 'default_transaction_read_only=off', 'statement_timeout=0', 'search_path=public', 'session_replication_role=origin',
  'lock_timeout=0', 'dtx.lock_timeout=10000', 'idle_session_timeout=0', 'idle_in_transaction_session_timeout=0',
  ($known{transaction_timeout} ? 'transaction_timeout=0' : ());
$bank1->safe_psql('bank1', q{
CREATE TABLE seen (id bigint PRIMARY KEY);
CREATE FUNCTION see(payload jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO public.seen VALUES ((payload->>$$id$$)::bigint)';
SELECT dtx_subscribe('own', NULL, 'public.see(jsonb)')});
foreach my $mode ('at', 'xa', 'tcc', 'message')
{
	# connections, and what the peer's own handlers may write, are made before
	$sessions[0]->must("SELECT dtx_transfer('bank2', '1', '2', 1, '$mode')");
}
ok(settled($bank1, $bank2), 'settled');
$sessions[0]->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 10, 'at')");
$sessions[1]->must('BEGIN', q{SELECT dtx_try('counter', 'pay', '{"i": -1}')}, q{SELECT dtx_exec('counter', 'UPDATE entry SET v = -2')});
foreach my $set (@settings)
{
	# a session of the peer's that phase 1 begins is the user's
	set_all($bank1, 'DATABASE bank1', @$set);
	set_all($bank2, 'DATABASE bank2', @$set) unless $set->[0] =~ /read_only|timeout/;
}
my $former = workers($bank1);
kill 'TERM', $former;
wait_until(sub { my $w = workers($bank1); $w ne '' && $w ne $former }, 'a new worker');
$sessions[0]->must('ROLLBACK');
$sessions[1]->must('COMMIT');
is_settled($total, 'worker with hostile settings', $bank1, $bank2);
is(balance($bank2, '2') + 0, 10004, 'one rolled back');
is(value($bank2, 'SELECT string_agg(v::text, $$ $$) FROM entry'), '-2 -2', 'one committed');
# where a role's sessions are read only its handlers wait (048)
$bank1->safe_psql('postgres', 'ALTER DATABASE bank1 RESET default_transaction_read_only');
my $s = session($bank1);
$s->must(q{SELECT dtx_publish('own', '{"id": 1}')});
ok(wait_until(sub { $s->must('SELECT count(*) FROM seen') eq '1' }, 'the message'), 'a message is handled in a process of the role');
foreach my $mode ('at', 'xa', 'tcc', 'message')
{
	my $xid = $s->must("SELECT dtx_transfer('bank2', '1', '2', 1, '$mode')");
	$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1, '$mode')", 'ROLLBACK');
	ok(wait_until(sub { $s->must('SELECT count(*) FROM dtx_in_flight') eq '0' }, 'the transfer'), 'the message has come') if $mode eq 'message';
	is($s->must("SELECT dtx_wait('$xid', '180s')"), 'committed', "$mode: transfer between databases with hostile settings") if $mode ne 'message';
}
# a service at bank2 joins
my $shared = $s->must('SELECT dtx_open()');
my $t = session($bank2);
$t->must('BEGIN', "SELECT dtx_join('$shared')", q{UPDATE account_info SET account_balance = account_balance + 1 WHERE account_no = '2'}, 'COMMIT');
is($s->must("SELECT dtx_rollback('$shared')"), 'rolled back', 'a shared transaction');
is($s->must("SELECT dtx_wait('$shared', '180s')"), 'rolled back', 'is settled');
is($t->must('SELECT account_balance FROM account_info') + 0, 10008, 'the money is where it belongs');
forget_sessions();
reset_all($bank1, 'DATABASE bank1');
reset_all($bank2, 'DATABASE bank2');
is_settled($total, 'in the end', $bank1, $bank2);

done_testing();
