# What was found late: more branches than one call takes, a rollback that fails,
# a launcher that is replaced, waiters that are terminated, a peer that dies amid
# a call, and a worker's memory while a peer is away.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my $bank1 = new_bank('bank1');
# with little room for locks: a call must not need one a branch without end
my $bank2 = new_bank('bank2', conf => 'max_locks_per_transaction = 10');
$bank2->safe_psql('bank2', q{CREATE TABLE entry (id bigserial PRIMARY KEY); SELECT dtx_attach('entry')});
make_peer($bank1, $bank2);
make_peer($bank2, $bank1);
my $total = money($bank1, $bank2);
my $s = session($bank1);

sub set_conf
{
	my ($node, $name, $value) = @_;
	$node->append_conf('test.conf', "$name = $value");
	$node->reload;
	wait_until(sub { value($node, "SELECT setting FROM pg_settings WHERE name = '$name'") eq $value }, "$name = $value");
	return;
}

# As many branches of one transaction, each with a row of its own or all with one.
sub branches
{
	my ($count, $same_row) = @_;
	my $sql = $same_row ? 'UPDATE account_info SET account_balance = account_balance + 1' : 'INSERT INTO entry DEFAULT VALUES';
	return "DO \$\$ BEGIN FOR i IN 1..$count LOOP PERFORM dtx_exec('bank2', '$sql'); END LOOP; END \$\$";
}

# --- more branches of one transaction than a call settles (rv-16)

foreach ([ 3, 40, 1 ], [ 256, 2000, 0 ])
{
	my ($batch, $count, $same_row) = @$_;
	set_conf($bank1, 'dtx.settle_batch', $batch);
	$s->must('BEGIN', branches($count, $same_row), 'ROLLBACK');
	is_settled($total, "rollback of $count branches, at most $batch a call", $bank1, $bank2);
	is(value($bank2, 'SELECT count(*) FROM entry'), '0', "rollback of $count branches: nothing is left of them");
}
unlike(log_since($bank2), qr/out of shared memory/, 'no call needs a lock for each of them');

# --- a savepoint's rollback that fails at the peer

$bank1->safe_psql('bank1', q{ALTER SERVER bank2 OPTIONS (ADD options '-c dtx.fault_point=participant-before-settle:error')});
$s->must('BEGIN', 'SAVEPOINT a', "SELECT dtx_transfer('bank2', '1', '2', 1)", 'ROLLBACK TO a');
is($s->run("SELECT dtx_transfer('bank2', '1', '2', 1)")->{state}, 'XX000', 'the next call fails');
$s->must('ROLLBACK');
# that connection is in a transaction which has failed
my $r = $s->run(q{SELECT dtx_exec('bank2', 'UPDATE entry SET id = id')});
is($r->{state}, '00000', 'the call after it does not') or diag $r->{err};
$s->close;
$bank1->safe_psql('bank1', q{ALTER SERVER bank2 OPTIONS (DROP options)});
$s = session($bank1);
is_settled($total, 'a rollback failed at the peer', $bank1, $bank2);

# --- a launcher that is replaced (rv-17)

my $launcher = q{SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE backend_type = 'dtx launcher'};
new_bank_database($bank1, 'bank3');

# The new launcher starts a worker in bank3: so it has looked at bank1, too.
sub replace_launcher
{
	my ($what) = @_;
	my $third;
	my $old = value($bank1, $launcher, 'postgres');
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until(sub { ($third = workers($bank1, 'bank3')) ne '' }, 'a worker in bank3');
	value($bank1, "SELECT pg_terminate_backend($old, 10000)", 'postgres');
	value($bank1, "SELECT pg_terminate_backend($third, 10000)", 'postgres');
	ok( wait_until(
			sub {
				my ($new, $worker) = (value($bank1, $launcher, 'postgres'), workers($bank1, 'bank3'));
				return $new != 0 && $new != $old && $worker ne '' && $worker ne $third;
			},
			'a new launcher'),
		"$what: it is replaced");
	return;
}

my $worker = workers($bank1);
like($worker, qr/^\d+$/, 'one worker');
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
for my $round (1, 2)
{
	replace_launcher("launcher, $round");
	is(workers($bank1), $worker, "launcher, $round: the worker is the one that there was");
}
$s->must('COMMIT');
is_settled($total, 'launcher replaced', $bank1, $bank2);

# The worker has been started, and has not come up yet: it waits for a lock on
# its database, which a command that would rename it holds.
forget_sessions();
$s->close;
my $renaming = session($bank1, database => 'postgres');
$renaming->must('BEGIN', 'ALTER DATABASE bank1 RENAME TO renamed');
my $starting = q{SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.objid}
  . q{ WHERE classid = 'pg_database'::regclass AND datname = 'bank1' AND NOT granted};
ok(wait_for_value($bank1, $starting, '1', 60, 'postgres'), 'a worker is being started');
replace_launcher('launcher, worker being started');
$renaming->must('ROLLBACK');
$renaming->close;
wait_for_value($bank1, $starting, '0', 60, 'postgres');
ok(wait_until(sub { workers($bank1) =~ /^\d+$/ }, 'one worker'), 'one worker comes up');
$s = session($bank1);
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)", 'ROLLBACK');
is_settled($total, 'launcher replaced while a worker was being started', $bank1, $bank2);
like(workers($bank1), qr/^\d+$/, 'and one it is');
# if there are two all the same, go on with one
value($bank1, q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'dtx worker'});

# --- a waiter that is terminated (rv-9)

# Settling says whether anybody waits for a row here. A call that settles
# nothing, whatever the function's arguments are now.
my $arguments = value($bank2, <<'SQL');
SELECT string_agg(CASE WHEN p.proargnames[a.i] = 'nodes' THEN 'ARRAY[''nobody.00000000'']'
                       ELSE CASE t.typcategory WHEN 'A' THEN '''{}''' WHEN 'N' THEN '0' WHEN 'B' THEN 'false' ELSE '''''' END
                  END || '::' || a.type::regtype, ', ' ORDER BY a.i)
FROM pg_proc p, unnest(p.proargtypes) WITH ORDINALITY AS a(type, i), pg_type t
WHERE p.oid = (SELECT max(oid) FROM pg_proc WHERE pronamespace = 'dtx'::regnamespace AND proname = 'branch_settle')
  AND t.oid = a.type
SQL
my $awaited = "SELECT coalesce(outcome, 'nobody waits') FROM dtx.branch_settle($arguments) WITH ORDINALITY ORDER BY ordinality DESC LIMIT 1";
my $holder = session($bank1);
$holder->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
is(value($bank2, $awaited), 'nobody waits', 'nobody waits for a row');

my %ends = (
	pg_terminate_backend => sub { value($bank2, "SELECT pg_terminate_backend($_[1], 10000)") },
	pg_cancel_backend => sub { value($bank2, "SELECT pg_cancel_backend($_[1])") },
	'pg_terminate_backend without a client' => sub { $_[0]->close; value($bank2, "SELECT pg_terminate_backend($_[1], 10000)") },
);
foreach my $subtransaction (0, 1)
{
	foreach my $end (sort keys %ends)
	{
		my $what = "$end, " . ($subtransaction ? 'subtransaction' : 'transaction');
		my $waiter = session($bank2);
		$waiter->must('BEGIN', 'SAVEPOINT a') if $subtransaction;
		$waiter->send('UPDATE account_info SET account_name = account_name');
		ok(wait_for_value($bank2, $awaited, 'awaited'), "$what: a session waits");
		$ends{$end}->($waiter, $waiter->backend);
		ok(wait_for_value($bank2, $awaited, 'nobody waits'), "$what: it is not counted any more");
		$waiter->close;
	}
}
# a branch that waits, and its process at the peer is terminated
$s->send(q{SELECT dtx_exec('bank2', 'UPDATE account_info SET account_name = account_name')});
ok(wait_for_value($bank2, $awaited, 'awaited'), 'a branch waits');
value($bank2, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND query ~ '^UPDATE'});
ok(!$s->wait->{ok}, 'its call fails');
ok(wait_for_value($bank2, $awaited, 'nobody waits'), 'it is not counted any more');
$holder->must('ROLLBACK');
is_settled($total, 'waiters terminated', $bank1, $bank2);

# --- a peer that dies while branches are settled (rv-24)

sub another_worker
{
	wait_until(sub { ($worker = workers($bank1)) =~ /^\d+$/ }, 'a worker');
	return;
}

# in a call that it has half carried out
another_worker();
my $left = q{SELECT count(*) FROM dtx.branch};
foreach my $batch (10, 256)
{
	my $what = "peer crashed, $batch a call";
	set_conf($bank1, 'dtx.settle_batch', $batch);
	my $lock = session($bank2);
	$lock->must('SELECT pg_advisory_lock(1685353504, 1)');
	$bank1->safe_psql('bank1', q{ALTER SERVER bank2 OPTIONS (ADD options '-c dtx.fault_point=participant-during-settle:wait')});
	$s->must('BEGIN', branches(100), "SELECT dtx_transfer('bank2', '1', '2', 1)", 'COMMIT');
	ok(wait_for_value($bank2, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}, '1'), "$what: in the midst of it");
	crash($bank2);
	is(value($bank1, $left), '101', "$what: nothing is taken for settled");
	$bank1->safe_psql('bank1', q{ALTER SERVER bank2 OPTIONS (DROP options)});
	$bank2->start;
	is_settled($total, $what, $bank1, $bank2);
	is(workers($bank1), $worker, "$what: by the same worker");
}

# in a call that the worker has not sent to its end: the other side does not
# read, and the call is more than a socket takes
sub waits_to_write
{
	my ($pid) = @_;
	foreach my $path (glob "/proc/$pid/fdinfo/*")
	{
		open my $file, '<', $path or next;
		return 1 if grep { /^tfd:.*events:\s*([0-9a-f]+)/ && hex($1) & 4 } <$file>;
	}
	return 0;
}

set_conf($bank1, @$_) foreach [ 'dtx.settle_batch', 4096 ], [ 'dtx.recovery_interval', 3_600_000 ];
$bank2->append_conf('test.conf', 'max_locks_per_transaction = 64');
$s->must(q{SELECT dtx_node_reset(repeat('long', 15)::name)});
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)", branches(2500));
# the worker's connection was used just now: it is not about to be closed
session($bank1)->must(q{SELECT dtx_exec('bank2', 'INSERT INTO entry DEFAULT VALUES')});
wait_for_value($bank1, $left, '0');
my @stopped = split / /, value($bank2, q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE application_name = 'dtx'});
kill 'STOP', @stopped;
$s->must('COMMIT');
SKIP:
{
	skip 'no epoll to look at', 1 unless $^O eq 'linux';
	ok(wait_until(sub { waits_to_write($worker) }, 'the socket is full'), 'a call is stuck amid being sent');
}
kill 'QUIT', $bank2->{_pid};
kill 'CONT', @stopped;
revive($bank2);
is_settled($total, 'peer crashed amid being sent a call', $bank1, $bank2);
is(workers($bank1), $worker, 'by the same worker');
set_conf($bank1, @$_) foreach [ 'dtx.settle_batch', 256 ], [ 'dtx.recovery_interval', 1000 ];

# --- memory while a peer is away (rv-23)

another_worker();
set_conf($bank1, $_, 1) foreach 'dtx.retry_base', 'dtx.retry_max';
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
crash($bank2);
$s->must('COMMIT');

# What the worker uses after so many more attempts.
sub memory_after
{
	my ($attempts) = @_;
	my $sql = q{SELECT attempts FROM dtx_peers WHERE server = 'bank2'};
	my $until = value($bank1, $sql) + $attempts;
	wait_until(sub { value($bank1, $sql) >= $until }, "$attempts attempts");
	my $mark = log_mark($bank1);
	my $total = qr/\[$worker\].*Grand total: .* (\d+) used/;
	value($bank1, "SELECT pg_log_backend_memory_contexts($worker)");
	wait_for_log_line($bank1, $total, $mark);
	return log_since($bank1, $mark) =~ $total ? $1 : 0;
}

my $before = memory_after(100);
my $after = memory_after(500);
cmp_ok($before, '>', 0, 'the memory of the worker is known');
# a message that stays is some hundred bytes an attempt
cmp_ok($after - $before, '<', 50_000, 'it does not grow with the attempts') or diag "from $before to $after";
$bank2->start;
ok(settled($bank1, $bank2), 'the peer is back: settled');
is(workers($bank1), $worker, 'by the same worker');
is(money($bank1, $bank2), $total, 'the sum of money is what it was');

unlike(log_since($bank1) . log_since($bank2), qr/PANIC|TRAP:|terminated by signal/, 'no process crashed');

done_testing();
