# Standbys, restored dumps and moved clusters: who may coordinate, who may take
# part, and what becomes of branches in doubt.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my $bank1 = new_bank('bank1', streaming => 1);
my $bank2 = new_bank('bank2', streaming => 1);
make_peer($bank1, $bank2);
make_peer($bank2, $bank1);
my $total = money($bank1, $bank2);
my $s = session($bank1);

sub make_standby
{
	my ($primary, $name) = @_;
	$primary->backup($name);
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$standby->init_from_backup($primary, $name, has_streaming => 1);
	$standby->{bank} = $primary->{bank};
	$standby->start;
	return $standby;
}

# Let the other side's server name another cluster.
sub point_to
{
	my ($node, $server, $target) = @_;
	my $port = $target->port;
	$node->safe_psql($node->{bank}, "ALTER SERVER $server OPTIONS (SET port '$port')");
	return;
}

# --- a hot standby

$s->must(q{SELECT dtx_transfer('bank2', '1', '2', 100)});
is_settled($total, 'before there are standbys', $bank1, $bank2);
my $standby2 = make_standby($bank2, 'standby2');
make_peer($bank1, $standby2, server => 'standby');
my $r = $s->run(q{SELECT dtx_ping('standby')});
is($r->{state}, 'DX006', 'a peer in recovery is refused');
like($r->{err}, qr/is in recovery/, 'and the error says why');
is($s->run(q{SELECT dtx_exec('standby', 'UPDATE account_info SET account_balance = 0')})->{state},
	'DX006', 'no branch goes there');

my $reader = session($standby2);
is($reader->run('SELECT dtx_begin()')->{state}, '25006', 'a standby does not coordinate');
is($reader->run(q{SELECT dtx_exec('bank1', 'UPDATE account_info SET account_balance = 0')})->{state},
	'25006', 'nor does it send branches');
is($reader->must('SELECT count(*) FROM dtx_branches'), '0', 'the views can be read there');
is($reader->must("SELECT dtx_status('bank1.00000000:1.0000000000000000')"), 'unknown',
	'so can the state of a transaction');
is(workers($standby2), '', 'it has no worker');

# --- the participant fails over with a branch in doubt

$s->must('BEGIN', q{SELECT dtx_transfer('bank2', '1', '2', 100)});
my $xid = $s->must('SELECT dtx_xid()');
$bank2->wait_for_catchup($standby2);
is($reader->must("SELECT dtx_status('$xid')"), 'in doubt', 'the standby knows the branch');
$bank2->stop('immediate');
$standby2->promote;
point_to($bank1, 'bank2', $standby2);
is($s->run('COMMIT')->{ok}, 1, 'the coordinator commits');
is($s->must("SELECT dtx_wait('$xid', '180s')"), 'committed', 'the promoted standby settles the branch');
is_settled($total, 'the participant has failed over', $bank1, $standby2);
is(balance($standby2, 2), '10200', 'the money has come');
is($s->run(q{SELECT dtx_transfer('bank2', '1', '2', 100)})->{ok}, 1, 'transfers go on');
is_settled($total, 'after the failover', $bank1, $standby2);
$reader->close;
$bank2 = $standby2;

# --- the coordinator fails over, between phase 1 and its commit and after it

my $standby1 = make_standby($bank1, 'standby1');
$s->must('BEGIN', q{SELECT dtx_transfer('bank2', '1', '2', 100)});
$bank1->wait_for_catchup($standby1);
$bank1->stop('immediate');
$standby1->promote;
is_settled($total, 'the coordinator has failed over before its commit', $standby1, $bank2);
is(balance($bank2, 2), '10300', 'it is rolled back');
$bank1 = $standby1;
point_to($bank2, 'bank1', $bank1);
$s = session($bank1);
is($s->run(q{SELECT dtx_transfer('bank2', '1', '2', 100)})->{ok}, 1, 'the new coordinator makes transfers');
is_settled($total, 'after the coordinator failed over', $bank1, $bank2);

my $standby3 = make_standby($bank1, 'standby3');
$s->must('BEGIN', q{SELECT dtx_transfer('bank2', '1', '2', 100)});
$xid = $s->must('SELECT dtx_xid()');
$bank2->stop('immediate');
$s->must('COMMIT');
$bank1->wait_for_catchup($standby3);
$bank1->stop('immediate');
$bank2->start;
$standby3->promote;
is(value($standby3, "SELECT dtx_wait('$xid', '180s')"), 'committed', 'committed by the one, settled by the other');
is_settled($total, 'the coordinator has failed over after its commit', $standby3, $bank2);
$bank1 = $standby3;
is(balance($bank2, 2), '10500', 'the money has come');

# --- a decision that synchronous standbys do not have yet

sub passes
{
	return value($bank1, "SELECT value FROM dtx_stats WHERE name = 'recovery_passes'");
}

sub stays_in_doubt
{
	my ($what) = @_;
	my $start = passes();
	ok(wait_until(sub { passes() >= $start + 3 }, 'recovery passes'), "$what: the peer is asked");
	is(value($bank2, 'SELECT xid FROM dtx_branches'), $xid, "$what: the branch stays in doubt");
	is(value($bank1, "SELECT dtx_status('$xid')"), 'committing', "$what: it is committing");
	return;
}

$bank1->append_conf('test.conf', "synchronous_standby_names = 'late'");
$bank1->reload;
$s = session($bank1);
ok(wait_until(sub { $s->must('SHOW synchronous_standby_names') eq 'late' }, 'the setting'), 'a standby is waited for');
$s->must('BEGIN', q{SELECT dtx_transfer('bank2', '1', '2', 100)});
$xid = $s->must('SELECT dtx_xid()');
$s->send('COMMIT');
ok( wait_for_value($bank1, 'SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $s->backend, 'SyncRep'),
	'the commit waits for the standby');
is(value($bank2, 'SELECT xid FROM dtx_branches'), $xid, 'and phase 2 waits for it');
value($bank1, 'SELECT pg_cancel_backend(' . $s->backend . ')');
like($s->wait->{err}, qr/might not have been replicated/, 'the wait is canceled: the commit is local');
stays_in_doubt('canceled');
$s->close;
crash($bank1);
$bank1->start;
stays_in_doubt('restarted');
my $late = make_standby($bank1, 'late');
is_settled($total, 'the standby has come', $bank1, $bank2);
is(balance($bank2, 2), '10600', 'the decision is carried out');
is(value($late, 'SELECT count(*) FROM pg_stat_wal_receiver'), '1', 'which the standby has');
$late->stop('fast');
$bank1->append_conf('test.conf', "synchronous_standby_names = ''");
$bank1->reload;

# --- a participant that lost a branch

my $lagging = make_standby($bank2, 'lagging');
$lagging->stop('fast');
$s = session($bank1);
$s->must('BEGIN', q{SELECT dtx_transfer('bank2', '1', '2', 100)});
$xid = $s->must('SELECT dtx_xid()');
$bank2->stop('immediate');
$lagging->start;
$lagging->promote;
point_to($bank1, 'bank2', $lagging);
$s->must('COMMIT');
ok( wait_for_value($bank1, q{SELECT count(*) FROM dtx_branches WHERE last_error LIKE 'lost%'}, '1'),
	'a branch that the participant lost is shown as lost');
is(value($bank1, "SELECT dtx_status('$xid')"), 'committing', 'and not counted as done');
is(balance($lagging, 2), '10600', 'as indeed it is not');
ok(wait_for_value($lagging, q{SELECT value > 0 FROM dtx_stats WHERE name = 'lost_branches'}, 't'),
	'dtx_stats counts it');

# --- a restored dump

$s->close;
my $dump = PostgreSQL::Test::Utils::tempdir . '/bank1.sql';
$bank2 = $lagging;
my $work = session($bank2);
$s = session($bank1);
$s->must(q{INSERT INTO account_info VALUES ('3', 'x', 1000)});
$work->must(q{INSERT INTO account_info VALUES ('4', 'x', 1000), ('5', 'x', 1000)});
$s->must('BEGIN', q{SELECT dtx_transfer('bank2', '3', '4', 5)});
$xid = $s->must('SELECT dtx_xid()');
$bank1->command_ok([ 'pg_dump', '-d', $bank1->connstr('bank1'), '-f', $dump ], 'pg_dump of a coordinator');
my $other = new_bank('bank9');
$other->safe_psql('postgres', 'CREATE DATABASE bank1');
$other->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $other->connstr('bank1'), '-f', $dump ],
	'is restored in another cluster');
my $restored = session($other, database => 'bank1');
is($restored->run(q{SELECT dtx_transfer('bank2', '3', '5', 1)})->{state}, 'DX002', 'it does not coordinate');
is($restored->run('SELECT dtx_begin()')->{state}, 'DX002', 'nor begin');
make_peer($bank2, $other, server => 'restored', peer_database => 'bank1');
is($work->run(q{SELECT dtx_transfer('restored', '5', '3', 1)})->{state}, 'DX002', 'nor take part');
is(value($bank2, "SELECT count(*) FROM dtx_branches WHERE xid = '$xid'"), '1',
	'the branch that the original has there is left alone');
$restored->must('SELECT dtx_node_reset()', q{SELECT dtx_ledger('account_info')});
is($restored->run(q{SELECT dtx_transfer('bank2', '3', '5', 1)})->{ok}, 1, 'once reset, it is a node of its own');
ok(wait_for_value($other, 'SELECT count(*) FROM dtx.branch', '0', 60, 'bank1'), 'and settles what it does');
is(value($bank2, "SELECT count(*) FROM dtx_branches WHERE xid = '$xid'"), '1',
	'and still leaves the original alone');
$s->must('COMMIT');
ok(wait_for_value($bank2, 'SELECT count(*) FROM dtx_branches', '0'), 'which commits its branch');
is(balance($bank2, 4) . ' ' . balance($bank2, 5), '1005 1001', 'both transfers have come');

done_testing();
