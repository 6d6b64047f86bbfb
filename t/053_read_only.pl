# Reads in read-only transactions, from and at hot standbys, and at a primary whose commits wait
# for a standby that is not there. sql/api_read_only.sql has the rest.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my ($bank1, $bank2) = map { new_bank($_, streaming => 1) } qw(bank1 bank2);
make_peer($bank1, $bank2);
make_peer($bank2, $bank1);
# bank1's server for itself, which only its standby may use
make_peer($bank1, $bank1, server => 'primary_of_bank1');

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

sub balance_sql
{
	my ($server, $account) = @_;
	return "SELECT b FROM dtx_query('$server', 'SELECT account_balance FROM account_info WHERE account_no = \$1', '$account') AS t(b numeric)";
}

# at a hot standby, over a connection that branches do not get
my $standby2 = make_standby($bank2, 'standby2');
make_peer($bank1, $standby2, server => 'standby2');
my $session = session($bank1);
$session->must('BEGIN READ ONLY');
is($session->must(balance_sql('standby2', '2')), '10000', 'a hot standby is read');
is($session->must("SELECT r FROM dtx_query('standby2', 'SELECT pg_is_in_recovery()') AS t(r boolean)"), 't', 'it is the standby that answers');
is($session->must(balance_sql('bank2', '2')), '10000', 'and its primary, in the same transaction');
is($session->run("SELECT * FROM dtx_query('standby2', 'UPDATE account_info SET account_balance = 0 RETURNING 1') AS t(a integer)")->{state},
	'25006', 'nothing is written there');
$session->must('ROLLBACK');
isnt($session->run("SELECT dtx_exec('standby2', 'UPDATE account_info SET account_balance = 0')")->{ok}, 1, 'a standby takes no branch');
isnt($session->run(balance_sql('standby2', '2'))->{ok}, 1, 'nor from dtx_query, where it would be one');
$session->must('BEGIN READ ONLY');
is($session->must(balance_sql('standby2', '2')), '10000', 'and is read again');
$session->must('COMMIT');

# from a hot standby
my $standby1 = make_standby($bank1, 'standby1');
my $reader = session($standby1);
is($reader->must(balance_sql('bank2', '2')), '10000', 'a hot standby reads');
is($reader->must(balance_sql('standby2', '2')), '10000', 'at another one, too');
is($reader->must(balance_sql('primary_of_bank1', '1')), '10000', 'and at its own primary');
is($reader->run("SELECT dtx_exec('bank2', 'UPDATE account_info SET account_balance = 0')")->{state}, '25006', 'it begins no branch');
is($session->run('BEGIN READ ONLY; ' . balance_sql('primary_of_bank1', '1'))->{state}, '22023', 'a primary asks itself without dtx');
$session->must('ROLLBACK');
is($reader->run("BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; " . balance_sql('bank2', '2') . "; COMMIT")->{ok}, 1, 'at another isolation level');

# a read waits for no standby; a branch does
$bank2->append_conf('test.conf', "synchronous_standby_names = 'nobody'");
$bank2->reload;
ok(wait_until(sub { forget_sessions(); value($bank2, 'SHOW synchronous_standby_names') eq 'nobody' }, 'the setting is in force'), 'commits wait');
my $writer = session($bank1);
$writer->send("SELECT dtx_exec('bank2', 'UPDATE account_info SET account_balance = account_balance - 1')");
ok(wait_for_value($bank2, q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'}, '1'), 'a branch waits for the standby');
$session->must('BEGIN READ ONLY');
is($session->must(balance_sql('bank2', '2')), '10000', 'a read does not, and does not see what waits');
$session->must('COMMIT');
$bank2->append_conf('test.conf', "synchronous_standby_names = ''");
$bank2->reload;
ok($writer->wait->{ok}, 'the branch ends');
ok(settled($bank1, $bank2), 'it is settled');

# deferrable: it waits for a snapshot that nothing can make unsafe
my $serializable = session($bank2);
$serializable->must('BEGIN ISOLATION LEVEL SERIALIZABLE', 'SELECT count(*) FROM account_info', 'CREATE TABLE t (a integer)');
$session->must('BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE');
$session->send(balance_sql('bank2', '2'));
ok(wait_for_value($bank2, q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SafeSnapshot'}, '1'), 'a deferrable read waits');
$serializable->must('COMMIT');
is($session->wait->{out}, '9999', 'until it is safe');
$session->must('COMMIT');

is_deeply([ map { value($_, 'SELECT count(*) FROM dtx_branches') } $bank1, $bank2 ], [ 0, 0 ], 'no branch was left');
$_->close foreach $session, $reader, $writer, $serializable;
done_testing();
