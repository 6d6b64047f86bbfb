# Connections to peers: who cannot be reached, who does not answer, who must not
# be talked to; and that a call ends at once when it is told to, on both sides.

use strict;
use warnings;

use IO::Socket::UNIX;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket;
use Test::More;
use Time::HiRes qw(time);

use DtxTest;

my ($bank1, $bank2) = two_banks();
my $bank3 = new_bank('bank3');
make_peer($bank1, $bank3);
my $total = money($bank1, $bank2, $bank3);
my $user = (getpwuid($>))[0];
my $s = session($bank1);

# --- passwords

sub set_method
{
	my ($method) = @_;
	my $path = $bank2->data_dir . '/pg_hba.conf';
	my $hba = slurp_file($path);
	$hba =~ s/\A(local all clerk \S+\n)?/local all clerk $method\n/;
	open my $file, '>', $path or die "$path: $!";
	print $file $hba;
	close $file;
	$bank2->restart;
	return;
}

$bank2->safe_psql('bank2', <<'SQL');
CREATE ROLE clerk LOGIN PASSWORD 'right';
GRANT SELECT, UPDATE ON account_info TO clerk;
SELECT dtx_admit('clerk');
SQL
$bank1->safe_psql('bank1', <<'SQL');
CREATE ROLE clerk LOGIN;
GRANT SELECT, UPDATE ON account_info TO clerk;
GRANT USAGE ON FOREIGN SERVER bank2 TO clerk;
CREATE USER MAPPING FOR clerk SERVER bank2 OPTIONS (user 'clerk', password 'right');
SQL
set_method('trust');
my $clerk = session($bank1);
$clerk->must('SET ROLE clerk');
my $r = $clerk->run("SELECT dtx_ping('bank2')");
is($r->{state}, '2F003', 'a password that the peer does not ask for is not enough');
foreach my $method (qw(scram-sha-256 md5))
{
	set_method($method);
	$s->must("ALTER USER MAPPING FOR clerk SERVER bank2 OPTIONS (SET password 'wrong')");
	$r = $clerk->run("SELECT dtx_ping('bank2')");
	is($r->{state}, 'DX006', "$method: a wrong password");
	like($r->{err}, qr/could not connect to server "bank2".*password authentication failed/s,
		"$method: the error says so");
	unlike($r->{err}, qr/wrong/, "$method: without the password");
	$s->must("ALTER USER MAPPING FOR clerk SERVER bank2 OPTIONS (SET password 'right')");
	my $xid = $clerk->must("SELECT dtx_transfer('bank2', '1', '2', 1)");
	is($clerk->must("SELECT dtx_wait('$xid', '180s')"), 'committed', "$method: the right one, for the worker too");
}
$clerk->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
my $xid = $clerk->must('SELECT dtx_xid()');
$s->must("ALTER USER MAPPING FOR clerk SERVER bank2 OPTIONS (SET password 'wrong')");
$clerk->must('COMMIT');
ok( wait_for_value(
		$bank1, q{SELECT last_error LIKE '%password authentication failed%' FROM dtx_peers WHERE role = 'clerk'}, 't'),
	'the worker is refused when the password has changed since phase 1, and dtx_peers says why');
$s->must("ALTER USER MAPPING FOR clerk SERVER bank2 OPTIONS (SET password 'right')");
is($clerk->must("SELECT dtx_wait('$xid', '180s')"), 'committed', 'and goes on when it is right again');
$clerk->close;
is_settled($total, 'transfers of a plain role', $bank1, $bank2, $bank3);

# --- who does not answer, or is not of our kind

my $silent_dir = PostgreSQL::Test::Utils::tempdir_short;
my $silent = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => "$silent_dir/.s.PGSQL.5999", Listen => 20)
  or die "could not listen: $!";
$bank1->safe_psql('bank1', <<"SQL");
CREATE SERVER silent FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '$silent_dir', port '5999', dbname 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER silent;
SQL
$s->must(q{SET dtx.connect_timeout = '300ms'});
my $begun = time();
$r = $s->run("SELECT dtx_ping('silent')");
is($r->{state}, 'DX006', 'a server that never answers');
like($r->{err}, qr/dtx\.connect_timeout/, 'the error names the setting');
cmp_ok(time() - $begun, '<', 60, 'it is given up after dtx.connect_timeout');
$s->must('RESET dtx.connect_timeout');

# while somebody who drops the extension there waits for a lock, calls fail, and leave nothing behind
my $holder = session($bank2);
$holder->must('BEGIN');
$holder->must('LOCK TABLE dtx.undo_log IN ACCESS SHARE MODE');
my $dropper = session($bank2);
$dropper->send('DROP EXTENSION dtx CASCADE');
ok(wait_for_value($bank2, q{SELECT count(*) FROM pg_locks WHERE relation = 'dtx.node'::regclass AND mode = 'AccessExclusiveLock' AND granted}, '1'),
	'somebody drops the extension, and waits');
my $s2 = session($bank1);
$r = $s2->run("SELECT dtx_ping('bank2')");
isnt($r->{state}, undef, 'the peer cannot be reached meanwhile');
ok(wait_for_value($bank2, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dtx' AND query LIKE '%peer_hello%' AND state = 'active'}, '0'),
	'and no call waits on there');
$bank2->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DROP EXTENSION%'});
is($dropper->wait->{state}, '57014', 'it is cancelled');
$holder->must('ROLLBACK');
is($s2->run("SELECT dtx_ping('bank2')")->{ok}, 1, 'then it can be reached again');

$bank2->safe_psql('postgres', 'CREATE DATABASE stranger');
$bank2->safe_psql('stranger', <<'SQL');
CREATE EXTENSION dtx;
CREATE OR REPLACE FUNCTION dtx.peer_hello(protocol integer, OUT node text, OUT protocol_version integer,
                                          OUT version text, OUT in_recovery boolean)
    LANGUAGE sql STRICT
    AS $$ SELECT 'stranger.00000000', 999, '42.0', false $$;
SQL
make_peer($bank1, $bank2, peer_database => 'stranger');
$r = $s->run("SELECT dtx_exec('stranger', 'SELECT 1')");
is($r->{state}, '55000', 'a peer that speaks another version of the protocol');
like($r->{err}, qr/999/, 'the error says which');

# --- a call ends when it is told to

my $sleep = q{SELECT * FROM dtx_query('bank2', 'SELECT pg_sleep(100)::text') AS t(x text)};
my $asleep = q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dtx' AND query LIKE '%pg_sleep(100)%' AND state = 'active'};

sub ends_at_once
{
	my ($what, $state, $end) = @_;
	$s = session($bank1) if !defined $s;
	$s->send($sleep);
	# a timeout may pass before anybody has looked
	ok(wait_for_value($bank2, $asleep, '1'), "$what: the statement runs at the peer") if $end;
	my $begun = time();
	$end->() if $end;
	my $r = $s->wait;
	is($r->{state}, $state, "$what: the call ends") if defined $state;
	ok($r->{lost}, "$what: the session ends") if !defined $state;
	ok(wait_for_value($bank2, $asleep, '0'), "$what: the statement at the peer ends");
	cmp_ok(time() - $begun, '<', 60, "$what: at once");
	$s = undef if $r->{lost};
	return;
}

ends_at_once('pg_cancel_backend', '57014',
	sub { value($bank1, 'SELECT pg_cancel_backend(' . $s->backend . ')') });
ends_at_once('pg_terminate_backend', undef,
	sub { value($bank1, 'SELECT pg_terminate_backend(' . $s->backend . ')') });
$s = session($bank1);
$s->must("SET statement_timeout = '500ms'");
ends_at_once('statement_timeout', '57014');
$s->must('RESET statement_timeout', "SET dtx.call_timeout = '500ms'");
ends_at_once('dtx.call_timeout', 'DX006');
$s->must('RESET dtx.call_timeout');
ends_at_once('the peer ends the session', 'DX006',
	sub { value($bank2, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(100)%' AND application_name = 'dtx'") });
is($s->must("SELECT dtx_exec('bank2', 'UPDATE account_info SET account_name = account_name')"), '1',
	'the session goes on with a new connection');

$s->send("SELECT dtx_ping('silent')");
ok( wait_for_value($bank1,
		'SELECT wait_event_type FROM pg_stat_activity WHERE pid = ' . $s->backend, 'Extension'),
	'a session waits to be connected');
$begun = time();
value($bank1, 'SELECT pg_cancel_backend(' . $s->backend . ')');
is($s->wait->{state}, '57014', 'connecting can be canceled');
cmp_ok(time() - $begun, '<', 60, 'at once');

# waiting for a row in doubt at the peer ends, too
$holder = session($bank1);
$holder->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
$s->send(q{SELECT dtx_exec('bank2', 'UPDATE account_info SET account_name = account_name')});
ok( wait_for_value(
		$bank2, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dtx' AND state = 'active' AND query LIKE 'UPDATE%'}, '1'),
	'a branch waits for a row in doubt');
value($bank1, 'SELECT pg_cancel_backend(' . $s->backend . ')');
is($s->wait->{state}, '57014', 'a call that waits for a row is canceled');
ok( wait_for_value(
		$bank2, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dtx' AND state = 'active'}, '0'),
	'and the waiter at the peer ends');
$holder->must('ROLLBACK');
is_settled($total, 'canceled calls', $bank1, $bank2, $bank3);

# a setting of the file reaches a session
$bank1->append_conf('test.conf', "dtx.lock_timeout = '1234ms'");
$bank1->reload;
ok(wait_until(sub { $s->must('SHOW dtx.lock_timeout') eq '1234ms' }, 'the setting'),
	'a reload reaches the session');

# --- a peer that hangs does not hold up another

$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 10)", "SELECT dtx_transfer('bank3', '1', '3', 10)");
# the worker's connection too
ok( wait_for_value(
		$bank1, q{SELECT count(*) FROM dtx_peers WHERE server = 'bank3' AND last_contact IS NOT NULL}, '1'),
	'the worker has asked the new peer');
my @hung = ($bank3->{_pid},
	split / /, value($bank3, q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()}));
kill 'STOP', @hung;
$s->must('COMMIT');
ok( wait_for_value($bank2, q{SELECT count(*) FROM dtx.joined_branch WHERE state = 'd'}, '0'),
	'one peer hangs: the branch at the other is settled');
$begun = time();
$xid = $s->must("SELECT dtx_transfer('bank2', '1', '2', 10)");
is($s->must("SELECT dtx_wait('$xid', '180s')"), 'committed', 'so is the next transaction');
cmp_ok(time() - $begun, '<', 60, 'without delay');
$s->must("SET dtx.call_timeout = '500ms'", "SET dtx.connect_timeout = '500ms'");
$r = $s->run("SELECT dtx_transfer('bank3', '1', '3', 1)");
is($r->{state}, 'DX006', 'a call to the peer that hangs is given up');
$begun = time();
$bank1->stop('fast');
cmp_ok(time() - $begun, '<', 60, 'a fast shutdown does not wait for it');
$bank1->start;
is(value($bank1, q{SELECT count(*) FROM dtx.branch b JOIN pg_foreign_server s ON s.oid = b.server WHERE s.srvname = 'bank3'}),
	'1', 'its branch is kept');
ok( wait_for_value($bank1, q{SELECT count(*) FROM dtx.branch b JOIN pg_foreign_server s ON s.oid = b.server WHERE s.srvname = 'bank2'}, '0'),
	'only its branch');
kill 'CONT', @hung;
is_settled($total, 'the peer goes on', $bank1, $bank2, $bank3);
is(balance($bank3, 3), '10010', 'and its branch is committed');

done_testing();
