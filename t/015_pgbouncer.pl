# Every mode through a real PgBouncer in transaction pooling mode: between the
# coordinator and its participants, and between the client and the coordinator.
#
# The pool has several server sessions for each bank and takes them in turn, so
# that a prepared statement is never there where it is wanted next.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Modes;

my ($binary) = grep { -x $_ } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), qw(/usr/sbin /usr/local/sbin);
plan skip_all => 'the program pgbouncer is not there (Debian package pgbouncer)' unless defined $binary;

my $pool_size = 8;
my @banks = three_banks();
my ($bank1, $bank2, $bank3) = @banks;
my $total = money(@banks);

# --- the pooler

my $directory = PostgreSQL::Test::Utils::tempdir_short;
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $user = getpwuid($>);
my $pooler;					# its process id

sub write_file
{
	my ($name, $text) = @_;
	open my $file, '>', "$directory/$name" or die "$name: $!";
	print $file $text;
	close $file;
	return;
}

sub start_pooler
{
	$pooler = fork() // die "fork: $!";
	if ($pooler == 0)
	{
		require POSIX;
		open STDOUT, '>>', "$directory/output";
		open STDERR, '>>', "$directory/output";
		exec($binary, "$directory/pgbouncer.ini") or POSIX::_exit(127);
	}
	return wait_until(sub { -S "$directory/.s.PGSQL.$port" }, 'the pooler listens');
}

sub stop_pooler
{
	my ($signal) = @_;
	return unless $pooler;
	my $status = $?;
	kill $signal, $pooler;
	waitpid $pooler, 0;
	$? = $status;
	$pooler = undef;
	unlink "$directory/.s.PGSQL.$port";
	return;
}

END { stop_pooler('TERM') }

write_file('users', qq("$user" ""\n));
write_file('pgbouncer.ini', "[databases]\n"
	  . join('', map { "$_->{bank} = host=" . $_->host . ' port=' . $_->port . " dbname=$_->{bank}\n" } @banks)
	  . <<"INI");
[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $directory
auth_type = trust
auth_file = $directory/users
pool_mode = transaction
default_pool_size = $pool_size
max_client_conn = 500
server_round_robin = 1
logfile = $directory/log
INI
ok(start_pooler(), 'the pooler runs');

sub pooled_session
{
	my ($bank) = @_;
	return DtxTest::Session->new("host=$directory port=$port dbname=$bank->{bank}");
}

# All the pool's sessions of a bank, each in a transaction; they go round from now on.
sub fill_pool
{
	my ($bank) = @_;
	my @all = map { pooled_session($bank) } 1 .. $pool_size / 2;
	my %pids = map { $_->must('BEGIN', 'SELECT pg_backend_pid()') => 1 } @all;
	$_->must('COMMIT') foreach @all;
	$_->close foreach @all;
	return scalar keys %pids;
}

foreach my $bank (@banks)
{
	is(fill_pool($bank), $pool_size / 2, "$bank->{bank}: the pool has several sessions");
	my $s = pooled_session($bank);
	isnt($s->must('SELECT pg_backend_pid()'), $s->must('SELECT pg_backend_pid()'), "$bank->{bank}: which it takes in turn");
	$s->close;
	foreach my $peer (grep { $_ != $bank } @banks)
	{
		$bank->safe_psql($bank->{bank}, "ALTER SERVER $peer->{bank} OPTIONS (SET host '$directory', SET port '$port')");
	}
}

# --- transactions

sub pay
{
	my ($account, $amount) = @_;
	return "UPDATE account_info SET account_balance = account_balance + $amount WHERE account_no = '$account'";
}

my $begin_xa = q{SELECT dtx_begin('xa')};
my $credit2 = q{SELECT dtx_exec('bank2', 'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2', 6, '2')};
my $credit3 = q{SELECT dtx_exec('bank3', $$} . pay(3, 4) . '$$)';
my $nested = "SELECT * FROM dtx_query('bank2', \$q\$WITH u AS (" . pay(2, 6) . ") $credit3\$q\$) AS t(n bigint)";
my $nested_xa = "SELECT * FROM dtx_query('bank2', \$q\$WITH b AS MATERIALIZED ($begin_xa), u AS (" . pay(2, 6) . ')'
  . " $credit3 FROM b WHERE dtx_begin IS NOT NULL\$q\$) AS t(n bigint)";
my @tries = (
	q[SELECT dtx_try(NULL, 'debit', '{"account": "1", "amount": 10}')],
	q[SELECT dtx_try('bank2', 'credit', '{"account": "2", "amount": 6}')],
	q[SELECT dtx_try('bank3', 'credit', '{"account": "3", "amount": 4}')]);
my $forward = q[SELECT dtx_try('bank2', 'forward', '{"account": "2", "amount": 6, "server": "bank3",]
  . q[ "next": {"account": "3", "amount": 4}}')];

# Each takes 10 from bank1, and gives 6 to bank2 and 4 to bank3.
my %transactions = (
	at => [ pay(1, -10), $credit2, $credit3 ],
	xa => [ $begin_xa, pay(1, -10), $credit2, $credit3 ],
	tcc => \@tries,
	mixed => [ $begin_xa, pay(1, -10), $credit2, $tries[2] ],
	'at with a savepoint' => [ pay(1, -10), 'SAVEPOINT s', $credit2, $credit3, 'ROLLBACK TO s', $credit2, $credit3 ],
	'xa with a savepoint' =>
	  [ $begin_xa, pay(1, -10), $credit3, 'SAVEPOINT s', $credit2, 'ROLLBACK TO s', $credit2 ],
	'transfers of every mode' => [
		map({ "SELECT dtx_transfer('bank2', '1', '2', $_)" } "2, 'at'", "2, 'xa'", "2, 'tcc'"),
		map({ "SELECT dtx_transfer('bank3', '1', '3', $_)" } "1, 'at'", "1, 'xa'", "2, 'tcc'") ],
	'nested at' => [ pay(1, -10), $nested ],
	'nested xa' => [ $begin_xa, pay(1, -10), $nested_xa ],
	'nested xa in at' => [ pay(1, -10), $nested_xa ],
	'nested at in xa' => [ $begin_xa, pay(1, -10), $nested ],
	'nested tcc' => [ $tries[0], $forward ]);

my $moved = 0;

sub is_moved
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_all_over($total, $what, @banks);
	is(join(' ', map { balance($banks[ $_ - 1 ], $_) } 1 .. 3),
		join(' ', 10000 - 10 * $moved, 10000 + 6 * $moved, 10000 + 4 * $moved), "$what: the money is where it belongs");
	return;
}

# Run it a few times, so that statements that were prepared are used again.
sub run_transaction
{
	my ($s, $name, $what) = @_;
	my @failed;
	foreach my $end (qw(COMMIT COMMIT ROLLBACK COMMIT ROLLBACK COMMIT))
	{
		my $before = @failed;
		foreach my $sql ('BEGIN', @{ $transactions{$name} }, $end)
		{
			my $r = $s->run($sql);
			next if $r->{ok};
			push @failed, "$sql: $r->{err}";
			$s->run('ROLLBACK');
			last;
		}
		$moved++ if $end eq 'COMMIT' && @failed == $before;
		# the next one needs the rows
		nothing_left(@banks);
	}
	is(join("\n", @failed), '', "$what: every statement succeeds");
	is_moved($what);
	return;
}

my $s = session($bank1);
run_transaction($s, $_, $_) foreach sort keys %transactions;
my $through = pooled_session($bank1);
run_transaction($through, $_, "$_, the client's session pooled, too") foreach 'at', 'xa', 'tcc', 'nested xa';
$through->close;

# --- transactions that services share, each of which is at a pooled session

my @parts = (
	[ 'joined at each bank' => [ $bank1, pay(1, -10) ], [ $bank2, pay(2, 6) ], [ $bank3, pay(3, 4) ] ],
	[ 'joined, with a branch' => [ $bank2, pay(2, 6), $credit3 ], [ $bank1, pay(1, -10) ] ],
	[ 'joined, with a branch of xa' => [ $bank2, $begin_xa, pay(2, 6), $credit3 ], [ $bank1, pay(1, -10) ] ],
	[ 'joined, with a try' => [ $bank2, pay(2, 6), $tries[2] ], [ $bank1, pay(1, -10) ] ]);
foreach my $case (@parts)
{
	my ($what, @services) = @$case;
	my @failed;
	my %sessions = map { $_->{bank} => pooled_session($_) } @banks;
	foreach my $wanted (qw(commit rollback commit timeout commit))
	{
		my $before = @failed;
		my $opener = $sessions{bank1};
		my $xid = $opener->must(q{SELECT dtx_open('5min')});
		foreach my $service (@services)
		{
			my ($bank, @body) = @$service;
			foreach my $sql ('BEGIN', "SELECT dtx_join('$xid')", @body, 'COMMIT')
			{
				my $r = $sessions{ $bank->{bank} }->run($sql);
				next if $r->{ok};
				push @failed, "$sql: $r->{err}";
				$sessions{ $bank->{bank} }->run('ROLLBACK');
				last;
			}
		}
		my $end = @failed > $before ? 'rollback' : $wanted;
		my $answer = $end eq 'timeout' ? set_deadline($bank1, $xid) : $opener->run("SELECT dtx_$end('$xid')");
		push @failed, "dtx_$end: $answer->{err}" if $end ne 'timeout' && !$answer->{ok};
		$moved++ if $end eq 'commit' && $answer->{out} eq 'committed';
		nothing_left(@banks);
	}
	is(join("\n", @failed), '', "$what: every statement succeeds");
	is_moved($what);
	$_->close foreach values %sessions;
}

# --- what goes wrong

# The pool's sessions end, and with them all that was prepared.
sub cut_pool
{
	value($_, q{SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'dtx'}) foreach $bank2, $bank3;
	return;
}

foreach my $name (qw(at xa tcc))
{
	cut_pool();
	my $r;
	ok( wait_until(
			sub {
				my @failed = grep { !($r = $s->run($_))->{ok} } 'BEGIN', @{ $transactions{$name} };
				return 1 unless @failed;
				$s->run('ROLLBACK');
				return 0;
			},
			'a transaction gets through'),
		"$name: after the pool's sessions have ended the next ones serve");
	$s->must('COMMIT');
	$moved++;
	is_moved("$name, after the pool's sessions have ended");
}

# in doubt, while there is no pooler
$s->must('BEGIN', pay(1, -10), $credit2, $tries[2]);
my $xid = $s->must('SELECT dtx_xid()');
stop_pooler('TERM');
is($s->run('COMMIT')->{ok}, 1, 'committed without the pooler');
is(value($bank1, "SELECT dtx_status('$xid')"), 'committing', 'but not settled');
ok(start_pooler(), 'the pooler is back');
$moved++;
is_moved('settled when the pooler is back');

# the coordinator's process dies when all is prepared
foreach my $name ('xa', 'nested xa', 'at', 'tcc')
{
	$s = session($bank1);
	$s->must('BEGIN', @{ $transactions{$name} }, q{SET dtx.fault_point = 'coordinator-before-commit:kill'});
	ok($s->run('COMMIT')->{lost}, "$name: the coordinator dies before it decides");
	$s->close;
	revive($bank1);
	is_moved("$name, after the coordinator died");
}

# a call that is cancelled
my $holder = session($bank2);
foreach my $name (qw(at xa))
{
	$s = session($bank1);
	$holder->must('BEGIN', pay(2, 0));
	my @statements = @{ $transactions{$name} };
	$s->must('BEGIN', grep { $_ ne $credit2 } @statements);
	$s->send($credit2);
	ok( wait_for_value($bank2, q{SELECT count(*) FROM pg_stat_activity
		WHERE application_name = 'dtx' AND wait_event_type = 'Lock'}, '1'),
		"$name: a call waits at the peer");
	value($bank1, 'SELECT pg_cancel_backend(' . $s->backend . ')');
	is($s->wait->{state}, '57014', "$name: it is cancelled");
	$s->must('ROLLBACK');
	$s->close;
	$holder->must('COMMIT');
	is_moved("$name, after a call was cancelled");
}
$holder->close;

# --- what the server sessions are left with

foreach my $bank (@banks)
{
	my $t = pooled_session($bank);
	my %settings = map {
		$t->must(q{SELECT concat_ws(' ', current_setting('lock_timeout'), current_setting('dtx.lock_timeout'),
			current_setting('synchronous_commit'), current_setting('client_connection_check_interval'), coalesce(dtx_xid(), 'none'))}) => 1
	} 1 .. 3 * $pool_size;
	is(join(', ', keys %settings), '0 10s on 0 none', "$bank->{bank}: no branch has left anything in a pooled session");
	$t->close;
}

done_testing();
