# The launcher and the workers: what they must not stand in the way of, what
# they must survive, and when they come back.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use DtxTest;

# bank1 has room for two workers beside the launchers of dtx and of logical
# replication, and more databases than that.
my $bank1 = new_bank('bank1', conf => <<'CONF');
max_worker_processes = 4
dtx.recovery_interval = '5s'
CONF
my $bank2 = new_bank('bank2', accounts => [ map { "('$_', 'Owner $_', 10000)" } 2 .. 6 ]);
make_peer($bank1, $bank2);
make_peer($bank2, $bank1);
my $total = money($bank1, $bank2);

# Run an administrator's command while nobody but the worker is connected.
sub command_succeeds
{
	my ($node, $sql, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	forget_sessions();
	my ($status, $out, $err) = $node->psql('postgres', $sql);
	is($status, 0, $what) or diag $err;
	return;
}

sub transfer
{
	my ($node, $from, $to, %options) = @_;
	my $s = session($node, %options);
	my $xid = $s->must("SELECT dtx_transfer('bank2', '$from', '$to', 1)");
	is($s->must("SELECT dtx_wait('$xid', '180s')"), 'committed', ($options{database} // $node->{bank}) . ': a transfer is settled');
	$s->close;
	return;
}

# --- the first contact

my $s = session($bank1);
is(value($bank1, 'SELECT count(*) FROM dtx.contact'), '0', 'no contact yet');
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
is( value($bank1, 'SELECT s.srvname, c.role = current_user::regrole FROM dtx.contact c'
		  . ' JOIN pg_foreign_server s ON s.oid = c.server'),
	'bank2|t', 'the contact is recorded durably before the first branch is');
$s->must('COMMIT');
$s->close;
is_settled($total, 'the first transfer', $bank1, $bank2);

# --- a worker that ends

sub replaced
{
	my ($type, $what) = @_;
	my $sql = "SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE backend_type = '$type'"
	  . " AND coalesce(datname, 'bank1') = 'bank1'";
	my $old = value($bank1, $sql);
	value($bank1, "SELECT pg_terminate_backend($old, 10000)");
	ok(wait_until(sub { my $new = value($bank1, $sql); $new != 0 && $new != $old }, $what), $what);
	return;
}

$s = session($bank1);
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
replaced('dtx worker', 'a worker that was terminated is replaced');
$s->must('COMMIT');
is_settled($total, 'worker terminated before the commit', $bank1, $bank2);
replaced('dtx launcher', 'the launcher is replaced');
transfer($bank1, 1, 2);
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
value($bank1, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'dtx worker'");
$s->must('ROLLBACK');
is_settled($total, 'worker terminated before the rollback', $bank1, $bank2);
$s->close;

# Those that fail in a row wait longer each time, but not for what was before one that
# has worked for a while.
my $mark = log_mark($bank1);
replaced('dtx worker', "worker $_") foreach 1, 2;
my $database = value($bank1, q{SELECT oid FROM pg_database WHERE datname = 'bank1'});
ok(wait_for_log_line($bank1, qr/the dtx worker for database $database has failed, [2-9]\d* in a row/, $mark), 'two failures in a row');
ok(wait_for_value($bank1, q{SELECT backend_start < clock_timestamp() - interval '11 s' FROM pg_stat_activity WHERE backend_type = 'dtx worker' AND datname = 'bank1'}, 't'),
	'the next one works for a while');
$mark = log_mark($bank1);
replaced('dtx worker', 'and is replaced');
ok(wait_for_log_line($bank1, qr/the dtx worker for database $database has failed, 1 in a row/, $mark), 'its failure is the first one');

# --- settings

sub recovery_passes
{
	return value($bank1, "SELECT value FROM dtx_stats WHERE name = 'recovery_passes'");
}

$bank1->append_conf('test.conf', "dtx.recovery_interval = '1h'");
$bank1->reload;
wait_for_value($bank1, 'SHOW dtx.recovery_interval', '1h');
my $passes = recovery_passes();
$bank1->append_conf('test.conf', "dtx.recovery_interval = '200ms'");
$bank1->reload;
ok(wait_until(sub { recovery_passes() > $passes + 3 }, 'more passes'),
	'a shorter interval is in force when the settings are reloaded');

$bank1->append_conf('test.conf', "dtx.recovery_interval = '1h'\ndtx.worker_idle_timeout = '300ms'");
$bank1->reload;
ok(wait_until(sub { workers($bank1) eq '' }, 'the worker ends'), 'a worker without work ends');
transfer($bank1, 1, 2);
$s = session($bank1);
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
ok(wait_until(sub { workers($bank1) eq '' }, 'the worker ends'), 'also while a transaction is open');
$s->must('ROLLBACK');
$s->close;
is_settled($total, 'no worker when the transaction ends', $bank1, $bank2);
$bank1->append_conf('test.conf', "dtx.recovery_interval = '5s'\ndtx.worker_idle_timeout = '60s'");
$bank1->reload;

# a server's options reach the worker, whose connection is open
$s = session($bank1);
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
$bank1->safe_psql('bank1', "ALTER SERVER bank2 OPTIONS (ADD application_name 'renamed')");
$s->must('COMMIT');
ok( wait_for_value($bank2,
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'renamed'", 't'),
	'the worker connects with the new options');
$bank1->safe_psql('bank1', 'ALTER SERVER bank2 OPTIONS (DROP application_name)');
$s->close;
is_settled($total, 'options changed between phase 1 and 2', $bank1, $bank2);

# --- commands that need a database for themselves

sub wait_for_worker
{
	my ($database) = @_;
	return wait_until(sub { workers($bank1, $database) ne '' }, "a worker in $database");
}

transfer($bank1, 1, 2);
ok(wait_for_worker('bank1'), 'a worker is there');
$mark = log_mark($bank1);
command_succeeds($bank1, 'CREATE DATABASE copy TEMPLATE bank1', 'CREATE DATABASE ... TEMPLATE with a worker in the template');
$s = session($bank1, database => 'copy');
is($s->run('SELECT dtx_begin()')->{state}, 'DX002', 'the copy does not coordinate');
is($s->run("SELECT dtx_transfer('bank2', '1', '2', 1)")->{state}, 'DX002', 'and makes no transfers');
ok(wait_for_log_line($bank1, qr/dtx does nothing in this database, whose identity/, $mark), 'its worker says so');
$s->must("SELECT dtx_node_reset('copy')");
$s->close;
transfer($bank1, 1, 2, database => 'copy');
transfer($bank1, 1, 2);
ok(wait_for_worker('copy'), 'the copy has a worker of its own');

# a copy made while a branch of the original is in doubt
$s = session($bank1);
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
my $xid = $s->must('SELECT dtx_xid()');
command_succeeds($bank2, 'CREATE DATABASE copy2 TEMPLATE template0', 'another database at the participant');
is(value($bank2, 'SELECT xid FROM dtx_branches'), $xid, 'the branch is still in doubt');
$s->must('COMMIT');
is($s->must("SELECT dtx_wait('$xid', '180s')"), 'committed', 'and is settled by its coordinator');
$s->close;

ok(wait_for_worker('copy'), 'a worker is there');
command_succeeds($bank1, 'ALTER DATABASE copy RENAME TO renamed', 'ALTER DATABASE ... RENAME with a worker in it');
transfer($bank1, 1, 2, database => 'renamed');
command_succeeds($bank1, <<'SQL', 'ALTER DATABASE ... SET TABLESPACE with a worker in it');
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE other LOCATION '';
ALTER DATABASE renamed SET TABLESPACE other
SQL
transfer($bank1, 1, 2, database => 'renamed');

$s = session($bank1, database => 'renamed');
my ($status, undef, $err) = $bank1->psql('postgres', 'DROP DATABASE renamed');
isnt($status, 0, 'a database that is in use is not dropped');
$s->close;
transfer($bank1, 1, 2, database => 'renamed');
command_succeeds($bank1, 'DROP DATABASE renamed', 'DROP DATABASE with a worker in it');
command_succeeds($bank1, 'CREATE DATABASE again TEMPLATE bank1', 'another copy');
command_succeeds($bank1, 'DROP DATABASE again WITH (FORCE)', 'DROP DATABASE ... WITH (FORCE)');
transfer($bank1, 1, 2);
command_ok([ 'pg_dump', '-d', $bank1->connstr('bank1'), '-f', '/dev/null' ], 'pg_dump with a worker running');
$total = money($bank1, $bank2);

# --- DROP EXTENSION

$s = session($bank2);
$s->must('BEGIN', "SELECT dtx_transfer('bank1', '2', '1', 1)");
is($bank1->psql('bank1', 'DROP EXTENSION dtx CASCADE'), 3, 'the extension is not dropped while branches are in doubt');
$s->must('COMMIT');
$s->close;
is_settled($total, 'a branch was in doubt', $bank1, $bank2);
new_bank_database($bank1, 'bank3');
make_peer($bank1, $bank2, database => 'bank3');
transfer($bank1, 3, 2, database => 'bank3');
$bank1->append_conf('test.conf', "dtx.worker_idle_timeout = 0");
$bank1->reload;
ok(wait_for_worker('bank3'), 'a worker is there');
my $begun = time();
is($bank1->psql('bank3', 'DROP EXTENSION dtx CASCADE'), 0, 'DROP EXTENSION with a worker in it');
cmp_ok(time() - $begun, '<', 60, 'it does not wait for the worker');
ok(wait_until(sub { workers($bank1, 'bank3') eq '' }, 'the worker ends'), 'the worker leaves the database');
$bank1->safe_psql('bank3', <<'SQL');
CREATE EXTENSION dtx;
SELECT dtx_attach('account_info');
SELECT dtx_ledger('account_info');
SQL
make_peer($bank1, $bank2, database => 'bank3');
transfer($bank1, 3, 2, database => 'bank3');
$bank1->append_conf('test.conf', "dtx.worker_idle_timeout = '60s'");
$bank1->reload;

# --- more databases than process slots

new_bank_database($bank1, "bank$_") foreach 4 .. 6;
make_peer($bank1, $bank2, database => "bank$_") foreach 4 .. 6;
$total = money($bank1, $bank2);
my %sessions = map { $_ => session($bank1, database => "bank$_") } 3 .. 6;
my %xids;
foreach my $n (sort keys %sessions)
{
	$sessions{$n}->must('BEGIN');
	$xids{$n} = $sessions{$n}->must("SELECT dtx_transfer('bank2', '$n', '$n', 1)");
}
$sessions{$_}->must($_ % 2 ? 'COMMIT' : 'ROLLBACK') foreach sort keys %sessions;
foreach my $n (sort keys %sessions)
{
	is($sessions{$n}->must("SELECT dtx_wait('$xids{$n}', '180s')"),
		$n % 2 ? 'committed' : 'rolled back', "bank$n has got a worker");
	$sessions{$n}->close;
}
ok(settled($bank2), 'all of them have settled');

# --- stopping

$s = session($bank1);
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
$begun = time();
$bank1->stop('fast');
cmp_ok(time() - $begun, '<', 60, 'a fast shutdown is fast');
$s->close;
$bank1->start;
ok(settled($bank1, $bank2), 'what the shutdown interrupted is settled');
# a smart one waits for clients: the worker of a peer is one, but not for ever
$bank1->append_conf('test.conf', "dtx.recovery_interval = '20s'");
$bank1->reload;
transfer($bank1, 1, 2);
forget_sessions();
$begun = time();
$bank2->stop('smart');
cmp_ok(time() - $begun, '<', 150, 'a smart shutdown comes to its end');
$bank2->start;
ok(settled($bank1, $bank2), 'everything is settled');

unlike(log_since($bank1) . log_since($bank2), qr/PANIC|TRAP:|terminated by signal/, 'no process crashed');

done_testing();
