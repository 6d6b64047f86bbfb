# A call that waits for a row, and has to give way to the rollback of the branch that
# holds it, has done nothing at the peer: it is made again, once that is settled, as
# if it came later. What has done something is not: its transaction gets 40001.
#
# A holder's transaction is open while the call comes to wait, and is then rolled back.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Modes;

my ($bank1, $bank2, $bank3) = three_banks();
my $update = q{UPDATE account_info SET account_balance = account_balance + 1};
my %expected = (2 => balance($bank2, 2), 3 => balance($bank3, 3));
$bank2->safe_psql('bank2', <<'SQL');
CREATE TABLE other (id int PRIMARY KEY, v int NOT NULL DEFAULT 0);
INSERT INTO other VALUES (1);
SELECT dtx_attach('other');
CREATE SEQUENCE calls;
SQL

sub counter
{
	my ($bank, $name) = @_;
	return value($bank, "SELECT value FROM dtx_stats WHERE name = '$name'");
}

my $holder = session($bank1);
my $s = session($bank1);

# Run a call while the holder has the row, and have that rolled back when the call waits at the bank.
sub run_behind
{
	my ($call, %options) = @_;
	my $bank = $options{at} // $bank2;
	my $session = $options{session} // $s;
	my $waits = counter($bank, 'row_lock_waits');
	$holder->must('BEGIN', "SELECT dtx_exec('$bank->{bank}', \$\$$update\$\$)");
	$session->send($call);
	wait_until(sub { counter($bank, 'row_lock_waits') > $waits }, 'the call waits for the row')
	  or diag "it does not wait: $call";
	$holder->must('ROLLBACK');
	$options{meanwhile}->() if $options{meanwhile};
	return $session->wait;
}

sub is_as_expected
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(settled($bank1, $bank2, $bank3), "$what: settled");
	is(balance($bank2, 2) . ' ' . balance($bank3, 3), "$expected{2} $expected{3}", "$what: each row has what it should");
	return;
}

# --- each kind of call that makes a branch

my $exec = "SELECT dtx_exec('bank2', \$\$$update\$\$)";
my $query = "SELECT b FROM dtx_query('bank2', \$\$$update RETURNING nextval('calls')\$\$) AS t(b bigint)";
my $r = run_behind($exec);
ok($r->{ok}, 'dtx_exec is repeated') or diag $r->{err};
$expected{2}++;
is_as_expected('dtx_exec');
is(counter($bank1, 'calls_repeated'), 1, 'and counted');
is(counter($bank2, 'row_lock_give_ups'), 1, 'as is what gave way');

$r = run_behind($query);
is($r->{out}, '2', 'dtx_query is repeated; what takes no part in transactions has happened twice');
$expected{2}++;
is_as_expected('dtx_query');

$bank2->safe_psql('bank2', <<"SQL");
CREATE FUNCTION one_try() RETURNS int LANGUAGE sql AS \$\$ $update RETURNING 1 \$\$;
CREATE FUNCTION one_cancel() RETURNS void LANGUAGE sql AS \$\$ UPDATE account_info SET account_balance = account_balance - 1 \$\$;
SELECT dtx_tcc_define('one', 'one_try()', NULL, 'one_cancel()');
SQL
$r = run_behind(q{SELECT dtx_try('bank2', 'one', '{}')});
ok($r->{ok}, 'dtx_try is repeated') or diag $r->{err};
$expected{2}++;
is_as_expected('dtx_try');
$s->must('BEGIN');
$r = run_behind(q{SELECT dtx_try('bank2', 'one', '{}')});
ok($r->{ok}, 'dtx_try is repeated') or diag $r->{err};
$s->must('ROLLBACK');
is_as_expected('dtx_try that is rolled back');

$s->must('BEGIN', q{SELECT dtx_begin('xa')});
$r = run_behind($exec);
ok($r->{ok}, 'the first statement of a branch in XA is repeated') or diag $r->{err};
$s->must('SAVEPOINT a');
ok($s->run($exec)->{ok}, 'and the branch goes on');
$s->must('ROLLBACK TO a', 'COMMIT');
$expected{2}++;
is_as_expected('XA');

# --- wherever it is called

$s->must('BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT count(*) FROM account_info', "SELECT dtx_exec('bank2', 'UPDATE other SET v = v + 1')",
	'SAVEPOINT a');
$r = run_behind($exec);
ok($r->{ok}, 'with another branch before it, in a savepoint, whatever the isolation level is here') or diag $r->{err};
$s->must('ROLLBACK TO a', $exec, 'COMMIT');
$expected{2}++;
is_as_expected('in a savepoint');
is(value($bank2, 'SELECT v FROM other'), 1, 'and what came before has happened once');

value($bank2, q{ALTER DATABASE bank2 SET default_transaction_isolation = 'repeatable read'});
my $new = session($bank1);
$r = run_behind($exec, session => $new);
ok($r->{ok}, 'or there: the call made again has a snapshot of its own') or diag $r->{err};
value($bank2, q{ALTER DATABASE bank2 RESET default_transaction_isolation});
undef $new;
$expected{2}++;
is_as_expected('in repeatable read there');

# --- the peer's peer

my $before = counter($bank1, 'calls_repeated');
$r = run_behind("SELECT n FROM dtx_query('bank2', \$q\$SELECT dtx_exec('bank3', \$\$$update\$\$)\$q\$) AS t(n bigint)", at => $bank3);
ok($r->{ok}, 'the peer repeats what it calls') or diag $r->{err};
is(counter($bank1, 'calls_repeated') - $before, 0, 'so that its caller need not');
$expected{3}++;
is_as_expected('nested');
# what the first attempt has called is of the same transaction: nobody would wait for its rollback
$r = run_behind("SELECT n FROM dtx_query('bank2', \$q\$WITH c AS MATERIALIZED (SELECT dtx_exec('bank3', \$\$$update\$\$) AS n), u AS ($update RETURNING 1) SELECT n FROM c, u\$q\$) AS t(n bigint)");
ok($r->{ok}, 'what the call has called is rolled back before it is made again') or diag $r->{err};
$expected{2}++, $expected{3}++;
is_as_expected('a call that has called');

# --- what is not repeated

$s->must('BEGIN', q{SELECT dtx_begin('xa')}, q{SELECT dtx_exec('bank2', 'UPDATE other SET v = v + 1')});
$r = run_behind($exec);
is($r->{state}, '40001', 'a later statement of a branch in XA is not repeated: what came before it would be lost');
$s->must('ROLLBACK');
is_as_expected('a later statement');
is(value($bank2, 'SELECT v FROM other'), 1, 'nothing of it is left');

my $plain = session($bank2);
$r = run_behind($update, session => $plain);
is($r->{state}, '40001', 'nor can a statement be that comes from no coordinator');
is_as_expected('a plain statement');

# a function may raise what looks like it, but hardly by chance
$bank2->safe_psql('bank2', <<'SQL');
CREATE FUNCTION raises(name text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('calls');
    RAISE SQLSTATE '40001' USING CONSTRAINT = name;
END $$;
SQL
foreach my $case ([ 'some name', 1 ], [ 'bank1.00000000:1.0000000000000000/1', 2 ])
{
	my ($name, $times) = @$case;
	value($bank2, q{SELECT setval('calls', 1)});
	$r = $s->run("SELECT x FROM dtx_query('bank2', \$\$SELECT raises('$name')\$\$) AS t(x int)");
	is($r->{state} . ' ' . (value($bank2, 'SELECT last_value FROM calls') - 1), "40001 $times", "an error like it, that names $name");
}

# --- it ends

# the rollback is announced, and goes no further
sub server_options
{
	my ($options) = @_;
	value($bank1, "ALTER SERVER bank2 OPTIONS ($options)");
	return;
}
my $gate = session($bank2);
$gate->must('SELECT pg_advisory_lock(1685353504, 1)');
server_options(q{ADD options '-c dtx.fault_point=participant-during-settle:wait'});
my $awaits = q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%branch_await%' AND state = 'active' AND pid <> pg_backend_pid()};
$s = session($bank1);
$s->must(q{SET dtx.lock_timeout = '2s'});
$r = run_behind($exec);
is($r->{state}, '55P03', 'dtx.lock_timeout bounds all attempts together');
$s->must(q{SET dtx.lock_timeout = 0});
$holder = session($bank1);
$gate->must('SELECT pg_advisory_unlock(1685353504, 1)');
is_as_expected('too late');
$gate->must('SELECT pg_advisory_lock(1685353504, 1)');
$r = run_behind($exec, meanwhile => sub {
	ok(wait_for_value($bank2, $awaits, '1'), 'it waits for the end of the rollback');
	is(value($bank2, q{SELECT count(*) FROM pg_locks WHERE relation = 'account_info'::regclass AND pid IN
		(SELECT pid FROM pg_stat_activity WHERE query LIKE '%branch_await%')}), '0', 'without a lock');
	value($bank1, 'SELECT pg_cancel_backend(' . $s->backend . ')');
});
is($r->{state}, '57014', 'and can be cancelled');
ok(wait_for_value($bank2, $awaits, '0'), 'here and there');
$gate->must('SELECT pg_advisory_unlock(1685353504, 1)');
server_options('DROP options');
is_as_expected('cancelled');

# --- a retry loop without a pause, after its own rollback

$s = session($bank1);
my @states;
foreach (1 .. 10)
{
	$s->must('BEGIN', $exec, 'ROLLBACK');
	$s->must('BEGIN');
	$r = $s->run($exec);
	push @states, $r->{state} if !$r->{ok};
	$s->must($r->{ok} ? 'COMMIT' : 'ROLLBACK');
	$expected{2}++;
}
is("@states", '', 'who tries again at once after a rollback succeeds');
is_as_expected('at once');

done_testing();
