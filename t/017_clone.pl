# A physical copy of a coordinator that is started beside it: it has the past of
# the original, but must not act for it.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my $bank1 = new_bank('bank1', streaming => 1);
my $bank2 = new_bank('bank2');
make_peer($bank1, $bank2);
my $total = money($bank1, $bank2);
my $s = session($bank1);

$s->must(q{SELECT dtx_transfer('bank2', '1', '2', 100)});
is_settled($total, 'before there is a copy', $bank1, $bank2);

# A branch in doubt of a transaction that is still running: to the copy, which
# has the transaction's id but not the transaction, it must look rolled back.
$s->must('BEGIN', q{SELECT dtx_transfer('bank2', '1', '2', 1000)});
my $xid = $s->must('SELECT dtx_xid()');
$bank1->backup('copy');
my $clone = PostgreSQL::Test::Cluster->new('clone');
$clone->init_from_backup($bank1, 'copy');
$clone->{bank} = 'bank1';
$clone->start;

ok(wait_for_log_line($clone, qr/dtx does nothing in this database, whose identity as a node is in doubt/),
	'the copy finds that it is one');
my $c = session($clone);
my $r = $c->run('SELECT dtx_begin()');
is($r->{state}, 'DX002', 'it does not coordinate');
like($r->{err}, qr/is a copy of another one, or its cluster was moved/, 'and says why');
is($c->run('SELECT dtx_open()')->{state}, 'DX002', 'nor does it open transactions for services');
is($c->run(q{SELECT dtx_exec('bank2', 'UPDATE account_info SET account_balance = 0')})->{state},
	'DX002', 'it sends no branch');
is($c->run(q{SELECT * FROM dtx.peer_hello(1)})->{state}, 'DX002', 'nor does it take part');
is($c->must('SELECT dtx.identity_is_trusted()'), 'f', 'for all to see');

is(value($bank2, "SELECT count(*) FROM dtx_branches WHERE xid = '$xid' AND state = 'in doubt'"), '1',
	'the branch of the original is in doubt as it was');
is($s->run('COMMIT')->{ok}, 1, 'the original commits it');
is($s->must("SELECT dtx_wait('$xid', '180s')"), 'committed', 'and settles it');
is_settled($total, 'with the copy beside it', $bank1, $bank2);

# a crash of the original makes no stranger of it
$bank1->stop('immediate');
$bank1->start;
forget_sessions($bank1);
$s = session($bank1);
is($s->run(q{SELECT dtx_transfer('bank2', '1', '2', 100)})->{ok}, 1, 'after a crash the original goes on');
is_settled($total, 'after the crash', $bank1, $bank2);

# the copy becomes a node of its own
$c->must('SELECT dtx_node_reset()');
isnt($c->must(q{SELECT name || '.' || tag FROM dtx.node}), $s->must(q{SELECT name || '.' || tag FROM dtx.node}),
	'reset, the copy is another node');
is($c->run(q{SELECT dtx_exec('bank2', 'UPDATE account_info SET account_name = $1', 'Li Si')})->{ok}, 1,
	'and coordinates for itself');
is_settled($total, 'at the end', $bank1, $bank2);

# --- a copy by CREATE DATABASE ... TEMPLATE, made while rows of the original are in doubt

$s = session($bank1);
$s->must('BEGIN');
$s->must(q{SELECT dtx_exec('bank2', 'UPDATE account_info SET account_balance = account_balance + 1')});
# the template must have no sessions; its worker goes by itself
my $database = $bank2->{bank};
forget_sessions($bank2);
$bank2->safe_psql('postgres', "ALTER DATABASE $database ALLOW_CONNECTIONS false");
$bank2->safe_psql('postgres', "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '$database' AND backend_type = 'client backend'");
$bank2->safe_psql('postgres', "CREATE DATABASE copied TEMPLATE $database");
$bank2->safe_psql('postgres', "ALTER DATABASE $database ALLOW_CONNECTIONS true");
$s->must('ROLLBACK');
is_settled($total, 'the original settles its branch', $bank1, $bank2);
my ($code, $out, $err) = $bank2->psql('copied', 'SELECT dtx_begin()');
like($err, qr/The database is a copy of another one/, 'the copy finds that it is one');
my $changed = $bank2->safe_psql('copied', 'SELECT sum(account_balance) FROM account_info');
is($bank2->safe_psql('copied', q{SELECT count(*) FROM dtx_branches WHERE state = 'in doubt'}), '1', 'it has the branch in doubt');
($code, $out, $err) = $bank2->psql('copied', 'SELECT dtx_node_reset()');
is($code, 0, 'it becomes a node of its own');
like($err, qr/this copy forgets 1 branches in doubt: what they have changed stays/, 'and says what becomes of that');
is($bank2->safe_psql('copied', 'SELECT sum(account_balance) FROM account_info'), $changed, 'which is so');
is($bank2->safe_psql('copied', 'UPDATE account_info SET account_balance = 0 RETURNING 1'), '1', 'the row is free');

done_testing();
