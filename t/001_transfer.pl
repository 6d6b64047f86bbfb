# Transfers between two banks: commit, rollback at either side, and either side
# down at the worst moment.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my ($bank1, $bank2) = two_banks();
my $total = money($bank1, $bank2);
my $credit = q{UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2};

sub debit
{
	my ($account, $amount) = @_;
	return "UPDATE account_info SET account_balance = account_balance - $amount"
	  . " WHERE account_no = '$account'";
}

sub balances_are
{
	my ($one, $two, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_settled($total, $what, $bank1, $bank2);
	is(balance($bank1, 1) . ' ' . balance($bank2, 2), "$one $two", "$what: balances");
	return;
}

# --- both sides up

my $s = session($bank1);
like($s->must(q{SELECT node || ' ' || version FROM dtx_ping('bank2')}),
	qr/^bank2\.[0-9a-f]{8} 1\d/, 'ping names the node and its version');

$s->must('BEGIN', debit(1, 100));
is($s->must("SELECT dtx_exec('bank2', '$credit', 100, '2')"), '1', 'a branch tells how many rows');
my $xid = $s->must('SELECT dtx_xid()');
like($xid, qr/^bank1\.[0-9a-f]{8}:\d+\.[0-9a-f]{16}$/, 'the xid names node, transaction and a random number');
is(value($bank2, 'SELECT xid FROM dtx_branches'), $xid, 'the branch is in doubt at the participant');
is(value($bank2, 'SELECT count(*) FROM dtx_undo'), '1', 'with one row of undo log');
is(value($bank1, "SELECT dtx_status('$xid')"), 'active', 'the coordinator calls it active');
is(value($bank2, "SELECT dtx_status('$xid')"), 'in doubt', 'the participant calls it in doubt');
$s->must('COMMIT');
is($s->must("SELECT dtx_wait('$xid', '180s')"), 'committed', 'it is committed');
balances_are(9900, 10100, 'commit');

my $back = session($bank2);
$back->must(q{SELECT dtx_transfer('bank1', '2', '1', 100)});
balances_are(10000, 10000, 'the other way');

$s->must('BEGIN', debit(1, 100));
$s->must("SELECT dtx_exec('bank2', '$credit', 100, '2')");
is(balance($bank2, 2), '10100', 'phase 1 is visible at the participant');
$xid = $s->must('SELECT dtx_xid()');
$s->must('ROLLBACK');
is($s->must("SELECT dtx_wait('$xid', '180s')"), 'rolled back', 'it is rolled back');
balances_are(10000, 10000, 'rollback at the coordinator');

$s->must('BEGIN', debit(1, 100));
my $r = $s->run("SELECT dtx_exec('bank2', '$credit', -20000, '2')");
is($r->{state}, '23514', 'an error at the participant arrives with its SQLSTATE');
like($r->{err}, qr/violates check constraint/, 'its message');
like($r->{err}, qr/CONTEXT:.*server "bank2"/s, 'and the name of the server');
is($s->run('COMMIT')->{ok}, 1, 'the end of the failed transaction');
balances_are(10000, 10000, 'rollback at the participant');

$s->must('BEGIN', debit(1, 100));
$s->must("SELECT dtx_exec('bank2', '$credit', 100, '2')");
is($s->run(debit(1, 20000))->{state}, '23514', 'an error at the coordinator after phase 1');
$s->must('ROLLBACK');
balances_are(10000, 10000, 'error at the coordinator');

$s->must(
	'BEGIN', debit(1, 100),
	"SELECT dtx_exec('bank2', '$credit', 100, '2')",
	'SAVEPOINT a', debit(1, 50),
	"SELECT dtx_exec('bank2', '$credit', 50, '2')",
	'ROLLBACK TO a', 'COMMIT');
balances_are(9900, 10100, 'rollback to a savepoint');
$back->must(q{SELECT dtx_transfer('bank1', '2', '1', 100)});
balances_are(10000, 10000, 'and back');

# --- the participant is down in phase 2

$s->must('BEGIN', debit(1, 100));
$s->must("SELECT dtx_exec('bank2', '$credit', 100, '2')");
$xid = $s->must('SELECT dtx_xid()');
$back->close;
$bank2->stop('immediate');
$s->must('COMMIT');
is(value($bank1, "SELECT dtx_status('$xid')"), 'committing', 'committed with the participant down');
ok( wait_for_value(
		$bank1, q{SELECT reachable OR last_error IS NULL FROM dtx_peers WHERE server = 'bank2'}, 'f'),
	'dtx_peers shows that the peer is not reachable, and why');
is(value($bank1, "SELECT state || ' ' || server FROM dtx_branches"),
	'committing bank2', 'the branch waits');
is(value($bank1, 'SELECT count(*) FROM dtx.branch'), '1', 'its row is kept');
$bank2->start;
balances_are(9900, 10100, 'participant down in phase 2');
is(value($bank1, "SELECT dtx_status('$xid')"), 'committed', 'committed after the restart');
ok(wait_for_value($bank1, q{SELECT reachable FROM dtx_peers WHERE server = 'bank2'}, 't'),
	'the peer is reachable again');

$s->must('BEGIN', debit(1, 100));
$s->must("SELECT dtx_exec('bank2', '$credit', 100, '2')");
$bank2->stop('immediate');
$s->must('ROLLBACK');
$bank2->start;
balances_are(9900, 10100, 'participant down when the coordinator rolls back');

$bank2->stop('fast');
$r = $s->run(q{SELECT dtx_transfer('bank2', '1', '2', 1)});
is($r->{state}, 'DX006', 'a transfer to a peer that is down fails');
$bank2->start;
is($s->run(q{SELECT dtx_transfer('bank2', '1', '2', 100)})->{ok}, 1, 'and works when it is up again');
balances_are(9800, 10200, 'the session has connected anew');

# --- the coordinator dies between phase 1 and its commit

$s->must('BEGIN', debit(1, 100));
$s->must("SELECT dtx_exec('bank2', '$credit', 100, '2')");
is(balance($bank2, 2), '10300', 'phase 1 is done');
kill 'KILL', $s->backend;
ok(wait_down($bank1), 'the cluster of the killed backend goes down');
is(balance($bank2, 2), '10300', 'the branch is in doubt');
$bank1->start;
balances_are(9800, 10200, 'coordinator killed before its commit');
$s->close;

$s = session($bank1);
$s->must('BEGIN', debit(1, 100));
$s->must("SELECT dtx_exec('bank2', '$credit', 100, '2')");
crash($bank1);
# who wants a row in doubt waits until it is settled, and does not settle it
$back = session($bank2);
$r = $back->run(qq{SET dtx.lock_timeout = '100ms'});
$r = $back->run(debit(2, 1));
is($r->{state}, '55P03', 'a row in doubt cannot be changed');
like($r->{err}, qr/\Q$1\E/, 'and the error names the holder')
  if value($bank2, 'SELECT xid FROM dtx_branches') =~ /(.*)/;
$back->must('RESET dtx.lock_timeout');
$back->send(debit(2, 0));
$bank1->start;
ok($back->wait->{state} =~ /^(00000|40001)$/, 'a waiter gives way to the compensation, or comes after it');
balances_are(9800, 10200, 'coordinator stopped before its commit');

# --- the participant restarts with a branch in doubt: its rows stay locked

$s->close;
$s = session($bank1);
$s->must('BEGIN', debit(1, 100));
$s->must("SELECT dtx_exec('bank2', '$credit', 100, '2')");
crash($bank2);
$bank2->start;
$back = session($bank2);
$back->must(qq{SET dtx.lock_timeout = '100ms'});
is($back->run(debit(2, 1))->{state}, '55P03', 'a row in doubt is still locked after a restart');
is($back->run(qq{DELETE FROM account_info WHERE account_no = '2'})->{state}, '55P03', 'and cannot be deleted');
is($back->run('TRUNCATE account_info')->{state}, '55006', 'nor can the table be truncated');
$s->must('ROLLBACK');
balances_are(9800, 10200, 'participant restarted with a branch in doubt');
$back->must(debit(2, 0));

# --- and just after it

$s->close;
$s = session($bank1);
$s->must('BEGIN', debit(1, 100));
$s->must("SELECT dtx_exec('bank2', '$credit', 100, '2')");
$back->close;
crash($bank2);
$s->must('COMMIT');
crash($bank1);
$bank1->start;
$bank2->start;
balances_are(9700, 10300, 'both stopped after the commit');

done_testing();
