# Transfers between ledgers in every mode: what is frozen in TCC, a peer that
# cannot prepare in XA; and a deadline that passes while the vote runs.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Modes;

# bank2 prepares nothing
my $bank1 = new_bank('bank1', conf => "max_prepared_transactions = 10\n");
my $bank2 = new_bank('bank2');
make_peer($bank1, $bank2);
make_peer($bank2, $bank1);
my $total = money($bank1, $bank2);
my $s = session($bank1);
my $s2 = session($bank2);
my $frozen = q{SELECT concat_ws(' ', account, amount, xid IS NOT NULL, role = current_user) FROM dtx_frozen};

sub balances
{
	return join ' ', balance($bank1, 1), balance($bank2, 2);
}

# --- TCC

$s->must('BEGIN', q{SELECT dtx_transfer('bank2', '1', '2', 100, 'tcc')});
is($s->must($frozen), '1 100 t t', 'the amount is frozen as long as the sender has not committed');
is(balance($bank2, 2), '10000', 'the receiver has not got it');
$s->must('COMMIT');
is_settled($total, 'a transfer in TCC', $bank1, $bank2);
is(balances(), '9900 10100', 'the confirm has added it');
is(value($bank1, $frozen) // '', '', 'and nothing is frozen any more');

$s->must('BEGIN', q{SELECT dtx_transfer('bank2', '1', '2', 100, 'tcc')}, 'ROLLBACK');
is_settled($total, 'a transfer in TCC that is rolled back', $bank1, $bank2);
is(balances(), '9900 10100', 'moves nothing');

foreach my $refused (
	[ q{'bank2', '1', '9', 1}, 'P0002', 'an account that the receiver does not have' ],
	[ q{'bank2', '9', '2', 1}, 'P0002', 'an account that the sender does not have' ],
	[ q{'bank2', '1', '2', 0}, '22023', 'nothing' ],
	[ q{'bank2', '1', '2', 'NaN'}, '22023', 'no number' ],
	[ q{NULL, '1', '1', 1}, '22023', 'to itself' ])
{
	my ($args, $state, $what) = @$refused;
	is($s->run("SELECT dtx_transfer($args, 'tcc')")->{state}, $state, "in TCC: $what");
}
like($s->run(q{SELECT dtx_transfer('bank2', '1', '2', 1000000, 'tcc')})->{state}, qr/^(DX004|23514)$/,
	'in TCC: more than there is');
is($s->run(q{SELECT dtx.ledger_freeze('1', 1)})->{state}, 'DX003', 'a step of it is of no use on its own');
is_settled($total, 'all that was refused', $bank1, $bank2);
is(balances(), '9900 10100', 'has moved nothing');

# The sender is a participant: bank2 pays in a transaction that bank1 decides.
foreach my $end (qw(commit rollback))
{
	my $xid = $s->must(q{SELECT dtx_open('5min')});
	$s2->must('BEGIN', "SELECT dtx_join('$xid')",
		q{SELECT dtx_try(NULL, 'dtx.debit', '{"account": "2", "amount": 40}') IS NULL}, 'COMMIT');
	is($s2->must($frozen), '2 40 t t', "before $end: what the participant has paid is frozen");
	$s->must('BEGIN', "SELECT dtx_join('$xid')",
		q{UPDATE account_info SET account_balance = account_balance + 40 WHERE account_no = '1'}, 'COMMIT');
	$s->must("SELECT dtx_$end('$xid')");
	is($s->must("SELECT dtx_wait('$xid', '180s')"), $end eq 'commit' ? 'committed' : 'rolled back', "$end");
	is_settled($total, "after $end of a transaction in which the sender is a participant", $bank1, $bank2);
	is(balances(), '9940 10060', $end eq 'commit' ? 'it is spent' : 'it is given back');
	is($s2->must($frozen), '', 'and nothing is frozen any more');
}

# --- XA

my $r = $s->run(q{SELECT dtx_transfer('bank2', '1', '2', 100, 'xa')});
is($r->{state}, '55000', 'a peer that cannot prepare');
like($r->{err}, qr/prepared transactions are disabled.*Set "?max_prepared_transactions"? to a nonzero value/s,
	'says what to set');
like($r->{err}, qr/call to server "bank2"/, 'and where');
is_settled($total, 'all is rolled back', $bank1, $bank2);
is(balances(), '9940 10060', 'nothing has moved');
is($s->run(q{SELECT dtx_transfer('bank2', '1', '2', 10, 'at')})->{ok}, 1, 'the same in AT goes on');

$bank2->append_conf('test.conf', "max_prepared_transactions = 10\n");
$bank2->restart;
forget_sessions();
$s2 = session($bank2);
is($s->run(q{SELECT dtx_transfer('bank2', '1', '2', 50, 'xa')})->{ok}, 1, 'once it is set XA does too');
is_settled($total, 'transfers in AT and XA', $bank1, $bank2);
is(balances(), '9880 10120', 'both have arrived');
$s->must('BEGIN', q{SELECT dtx_transfer('bank2', '1', '2', 50, 'xa')}, 'ROLLBACK');
is_settled($total, 'a transfer in XA that is rolled back', $bank1, $bank2);
is(balances(), '9880 10120', 'moves nothing');

# --- a deadline that passes while the vote runs

my $xid = $s->must(q{SELECT dtx_open('5min')});
$s2->must('BEGIN', "SELECT dtx_join('$xid')",
	q{UPDATE account_info SET account_balance = account_balance - 20 WHERE account_no = '2'}, 'COMMIT');
my $holder = session($bank1);
$holder->must('SELECT pg_advisory_lock(1685353504, 1)');
$s->must(q{SET dtx.fault_point = 'shared-before-vote:wait'});
$s->send("SELECT dtx_commit('$xid')");
wait_for_value($bank1, 'SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $s->backend, 'advisory');
set_deadline($bank1, $xid);
is(value($bank1, "SELECT dtx_status('$xid')"), 'active', 'who takes the vote has it: nobody else decides');
$holder->close;
$r = $s->wait;
is($r->{state}, '25P04', 'the time that the vote took counts');
is($s->run("SELECT dtx_wait('$xid', '180s')")->{out}, 'rolled back', 'and the transaction is rolled back');
is_settled($total, 'at the end', $bank1, $bank2);
is(balances(), '9880 10120', 'as if it had never been');

done_testing();
