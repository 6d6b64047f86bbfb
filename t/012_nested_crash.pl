# A transaction of bank1, whose branch at bank2 has a branch at bank3: each of
# the three crashes at each coarse step, in every mode.
#
# The step is held by a fault point that waits for the test. While it is held a
# process of one bank is killed, or the bank is stopped at once; then it goes on,
# and the bank is started again. All must agree with what the client was told,
# and nothing may be left. ONLY=pattern runs the scenarios whose names match.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Modes;

my $give_up_after = 3;		# scenarios that leave something behind

my (@banks, $total);
my $trios = 0;
my $failures = 0;

sub new_trio
{
	forget_sessions();
	$_->stop('immediate', fail_ok => 1) foreach @banks;
	@banks = three_banks($trios++ ? (label => $trios) : ());
	$total = money(@banks);
	return;
}

# --- bank1 pays 10, of which bank2 gets 6 and bank3 4

sub pay
{
	my ($account, $amount) = @_;
	return "UPDATE account_info SET account_balance = account_balance + $amount WHERE account_no = '$account'";
}

my $pay2 = 'u AS (' . pay(2, 6) . ')';
my $pay3 = q{dtx_exec('bank3', $$} . pay(3, 4) . '$$)::text';
my $begin_xa = q{SELECT dtx_begin('xa')};
my $nested_at = "SELECT * FROM dtx_query('bank2', \$q\$WITH $pay2 SELECT $pay3\$q\$) AS t(x text)";
my $nested_xa = "SELECT * FROM dtx_query('bank2', \$q\$WITH b AS MATERIALIZED ($begin_xa), $pay2"
  . " SELECT $pay3 FROM b WHERE dtx_begin IS NOT NULL\$q\$) AS t(x text)";

# What comes before the statement that makes both branches, and that statement.
my @modes = (
	[ 'at', pay(1, -10), $nested_at ],
	[ 'xa', $begin_xa, pay(1, -10), $nested_xa ],
	[ 'tcc', q[SELECT dtx_try(NULL, 'debit', '{"account": "1", "amount": 10}')],
		q[SELECT dtx_try('bank2', 'forward', '{"account": "2", "amount": 6, "server": "bank3",]
		  . q[ "next": {"account": "3", "amount": 4}}')] ],
	[ 'at over xa', pay(1, -10), $nested_xa ],
	[ 'xa over at', $begin_xa, pay(1, -10), $nested_at ]);

# --- steps

# Each says how far the transaction is when the crash comes.
#
# point		where it waits, if anywhere
# at		at which bank that is
# server	armed for the calls of [bank, server]; else for the client's session
# during	the client's statement that waits: nested, or the end
# told		the client has its answer before the crash comes
my %steps = (
	'before inner phase 1' => { point => '%s-before-send', at => 2, server => [ 1, 'bank2' ], during => 'nested' },
	'after outer phase 1' => {},
	'before the decision' => { point => 'coordinator-before-commit', at => 1, during => 'end' },
	'before it reached the middle' => { point => 'participant-before-settle', at => 2, server => [ 1, 'bank2' ], told => 1 },
	'before it reached the leaf' => { point => 'participant-before-settle', at => 3, server => [ 2, 'bank3' ], told => 1 });

my $waiting = q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory'};

sub hold
{
	my ($number) = @_;
	my $holder = session($banks[ $number - 1 ]);
	$holder->must('SELECT pg_advisory_lock(1685353504, 1)');
	return $holder;
}

sub arm
{
	my ($step, $s) = @_;
	my $setting = "$step->{point}:wait";
	return $s->must("SET dtx.fault_point = '$setting'") unless $step->{server};
	my ($number, $server) = @{ $step->{server} };
	$banks[ $number - 1 ]->safe_psql("bank$number", "ALTER SERVER $server OPTIONS (ADD options '-c dtx.fault_point=$setting')");
	return;
}

sub disarm
{
	my ($step) = @_;
	my ($number, $server) = @{ $step->{server} // return };
	$banks[ $number - 1 ]->safe_psql("bank$number", "ALTER SERVER $server OPTIONS (DROP options)");
	return;
}

# Kill a process, of this transaction if there is one, or stop the bank at once.
sub take_down
{
	my ($bank, $action) = @_;
	return crash($bank) if $action eq 'stop';
	my $pid = value($bank, <<'SQL');
SELECT pid FROM pg_stat_activity
WHERE application_name IN ('dtx', 'test') OR backend_type = 'dtx worker'
ORDER BY backend_type = 'dtx worker', state = 'idle', pid LIMIT 1
SQL
	kill 'KILL', $pid;
	wait_down($bank) or BAIL_OUT("$bank->{bank} did not go down");
	return;
}

# What the client makes of an answer.
sub seen
{
	my ($s, $r, $end) = @_;
	return $end eq 'COMMIT' ? 'acknowledged' : 'refused' if $r->{ok};
	note $r->{err};
	$s->run('ROLLBACK') unless $r->{lost};
	return $r->{lost} ? 'unknown' : 'refused';
}

sub balances
{
	return join ' ', map { balance($banks[ $_ - 1 ], $_) } 1 .. 3;
}

sub run_scenario
{
	my ($mode, $name, $victim, $action, $end) = @_;
	my ($what, @statements) = @$mode;
	my $step = { %{ $steps{$name} } };
	# a branch that stays open has points of its own
	$step->{point} = sprintf $step->{point}, $what =~ /xa$/ ? 'xa' : 'coordinator' if $step->{point};
	my $nested = pop @statements;
	my $scenario = "$what, $name, $action of bank$victim" . ($end eq 'COMMIT' ? '' : ', rolling back');
	return if $ENV{ONLY} && $scenario !~ /$ENV{ONLY}/;

	my @before = split / /, balances();
	my $s = session($banks[0]);
	my $holder = $step->{at} ? hold($step->{at}) : undef;
	my $during = $step->{during} // '';
	my @problems;
	my $seen;

	$s->must('BEGIN', @statements);
	arm($step, $s) if $during eq 'nested';
	$during eq 'nested' ? $s->send($nested) : $s->must($nested);
	arm($step, $s) if $step->{point} && $during ne 'nested';
	$s->send($end) if $during eq 'end';
	$seen = seen($s, $s->run($end), $end) if $step->{told};
	push @problems, 'it does not wait at the point'
	  unless !$step->{at} || wait_for_value($banks[ $step->{at} - 1 ], $waiting, 't');

	take_down($banks[ $victim - 1 ], $action);
	$holder->close if $holder;
	if (!$seen)
	{
		my $r = $during ? $s->wait : { ok => 1 };
		$r = $s->run($end) if $r->{ok} && $during ne 'end';
		$seen = seen($s, $r, $end);
	}
	$s->close;
	revive($banks[ $victim - 1 ]);
	disarm($step);

	if (nothing_left(@banks))
	{
		my $moved = $seen eq 'acknowledged' ? 1 : 0;
		my $wanted = join ' ', $before[0] - 10 * $moved, $before[1] + 6 * $moved, $before[2] + 4 * $moved;
		my $after = balances();
		push @problems, "the client's transaction was $seen, and balances went from @before to $after"
		  if $after ne $wanted;
		# what is committed or prepared everywhere needs nobody but its coordinator
		my $safe = $step->{told} || ($victim != 1
			&& ($during eq 'end' || (!$during && $what =~ /^(at|tcc)/)));
		push @problems, "the client's transaction was $seen" if $end eq 'COMMIT' && $safe && !$moved;
	}
	else
	{
		push @problems, 'something is left';
		$failures++;
	}
	ok(!@problems, $scenario) or diag join "\n", @problems;
	new_trio() if grep { /left|went from/ } @problems;
	return;
}

# Every second one is killed, the others are stopped: in one mode or another
# each bank has both at each step.
new_trio();
my $turn = 0;
MODE: foreach my $mode (@modes)
{
	foreach my $name (sort keys %steps)
	{
		# what was only open at the peers is not settled, but gone
		my @ends = $steps{$name}{told} && $mode->[0] !~ /^xa/ ? qw(COMMIT ROLLBACK) : 'COMMIT';
		foreach my $end (@ends)
		{
			foreach my $victim (1 .. 3)
			{
				run_scenario($mode, $name, $victim, $turn++ % 2 ? 'stop' : 'kill', $end);
				last MODE if $failures == $give_up_after;
			}
		}
	}
}
is($failures, 0, 'nothing was left behind');

done_testing();
