# What ends at a peer, or at the peer's peer, is not the client's own connection: no
# error of a peer has an SQLSTATE for which a pool throws that away, or for which this
# process ends. Who calls it from a handler is called again.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Modes;

my ($bank1, $bank2, $bank3) = three_banks();
my $total = money($bank1, $bank2, $bank3);
my $user = (getpwuid($>))[0];

# --- before the call: libpq tells no SQLSTATE, its words are the detail

my ($host, $port) = ($bank2->host, $bank2->port);
$bank2->safe_psql('bank2', q{CREATE ROLE app LOGIN CONNECTION LIMIT 0; SELECT dtx_admit('app')});
$bank1->safe_psql('bank1', <<"SQL");
CREATE SERVER as_app FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '$host', port '$port', dbname 'bank2');
CREATE USER MAPPING FOR CURRENT_USER SERVER as_app OPTIONS (user 'app');
SQL
my $s = session($bank1);

sub is_unavailable
{
	my ($r, $detail, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($r->{state}, 'DX006', $what);
	like($r->{err}, qr/^DETAIL:.*$detail/ms, "$what: the detail is what was said there");
	# what SQLAlchemy takes for the end of the client's connection, whatever the SQLSTATE
	unlike((split /\n/, $r->{err})[0], qr/terminating connection|closed the connection|could not (receive|send)/,
		"$what: and the message is not");
	return;
}

is_unavailable($s->run(q{SELECT dtx_exec('as_app', 'SELECT 1')}), 'too many connections', 'the peer takes no more connections');
value($bank2, 'ALTER ROLE app NOLOGIN');
is_unavailable($s->run(q{SELECT dtx_exec('as_app', 'SELECT 1')}), 'not permitted to log in', 'the peer lets nobody in');

# --- a branch in XA whose session the peer has ended

value($bank2, q{ALTER DATABASE bank2 SET idle_in_transaction_session_timeout = '200ms'});
my $idle = session($bank1);
$idle->must('BEGIN', q{SELECT dtx_begin('xa')}, q{SELECT dtx_exec('bank2', 'UPDATE account_info SET account_balance = 0')});
ok(wait_for_value($bank2, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dtx' AND state LIKE 'idle in%'}, '0'),
	'the peer has ended an idle session');
my $r = $idle->run(q{SELECT dtx_exec('bank2', 'UPDATE account_info SET account_balance = 0')});
is_unavailable($r, '25P03|closed the connection|lost', 'the peer has ended the branch');
is($idle->run('COMMIT')->{ok}, 1, 'which is over');
value($bank2, 'ALTER DATABASE bank2 RESET idle_in_transaction_session_timeout');
is_settled($total, 'an idle session was ended', $bank1, $bank2, $bank3);
undef $idle;

# --- the peer's peer

my $nested = q{SELECT * FROM dtx_query('bank2', $q$SELECT dtx_exec('bank3', 'UPDATE account_info SET account_balance = account_balance + 1')$q$) AS t(n bigint)};
my $nested_sleep = q{SELECT * FROM dtx_query('bank2', $q$SELECT x FROM dtx_query('bank3', 'SELECT pg_sleep(100)::text') AS t(x text)$q$) AS t(x text)};
my $asleep = q{SELECT pid FROM pg_stat_activity WHERE application_name = 'dtx' AND query LIKE '%pg_sleep(100)%' AND state = 'active'};
$s = session($bank1);
$s->send($nested_sleep);
ok(wait_for_value($bank3, "SELECT count(*) FROM ($asleep) a", '1'), 'a call has reached the peer of the peer');
value($bank3, "SELECT pg_terminate_backend(pid) FROM ($asleep) a");
$r = $s->wait;
is_unavailable($r, '57P01', 'the session at the peer of the peer has ended');
like($r->{err}, qr/server "bank3" is unavailable.*call to server "bank3".*call to server "bank2"/s, 'and it is told where');

my $xid = value($bank3, q{SELECT dtx_open(timeout => '1 second')});
$bank3->stop('immediate');
is_unavailable($s->run("SELECT dtx_join('$xid')"), 'refused|No such file', 'the node that opened a shared transaction is down');
$r = $s->run($nested);
is_unavailable($r, 'refused|No such file', 'the peer of the peer is down');
like($r->{err}, qr/could not connect to server "bank3".*call to server "bank2"/s, 'and it is told where');

# --- handlers: the call is made again

$bank2->safe_psql('bank2', <<'SQL');
CREATE FUNCTION pass_on(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dtx_exec('bank3', 'UPDATE account_info SET account_balance = account_balance + 5');
END $$;
SQL
value($bank1, q{SELECT dtx_subscribe('down', 'bank2', 'pass_on', name => 'down', schedule => '{100ms}', max_attempts => 100000)});
value($bank1, q{SELECT dtx_publish('down', '{}')});
ok(wait_for_value($bank1, q{SELECT retrying || ' ' || dead || ' ' || left(last_error, 5) FROM dtx_subscriptions WHERE name = 'down'}, '1 0 DX006'),
	'a handler whose peer is down is to be called again');
$bank3->start;
$total += 5;
ok(wait_for_value($bank3, q{SELECT account_balance FROM account_info}, '10005'), 'and is, when that is back');
is_settled($total, 'a handler was called again', $bank1, $bank2, $bank3);

# an SQLSTATE that is the end of a process, of its own: 57P01 at the peer was taken for that
$bank1->safe_psql('bank1', <<'SQL');
CREATE SEQUENCE calls;
CREATE FUNCTION ends_there(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('calls') <= 2 THEN
        PERFORM 1 FROM dtx_query('bank2', 'SELECT pg_terminate_backend(pg_backend_pid())') AS t(x boolean);
    END IF;
END $$;
SQL
my $mark = log_mark($bank1);
value($bank1, q{SELECT dtx_subscribe('here', NULL, 'ends_there', name => 'here', schedule => '{100ms}', max_attempts => 100000)});
value($bank1, q{SELECT dtx_publish('here', '{}')});
ok(wait_for_value($bank1, q{SELECT last_value >= 3 FROM calls}, 't'), 'a handler here whose session at the peer has ended is called again');
ok(wait_for_value($bank1, q{SELECT retrying || ' ' || dead FROM dtx_subscriptions WHERE name = 'here'}, '0 0'), 'and succeeds');
unlike(log_since($bank1, $mark), qr/dtx runner.*(terminated|exited with)/, 'and its process has gone on');
is_settled($total, 'everything', $bank1, $bank2, $bank3);

done_testing();
