# A crash at every step that a mode adds to the protocol, on every side, the
# middle of a nested transaction included.
#
# For every point of src/core/fault_points.h that t/005_crash.pl does not know,
# and every action, money goes from bank1 to bank2 and bank3, and runs into the
# point. What went down is started again; then all branches must agree, and
# nothing may be left of the transaction. A point of the list that has no
# scenario, or that its scenario does not reach, fails the test. ONLY=pattern
# runs those scenarios whose names match.

use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Modes;

my $list = slurp_file(dirname(__FILE__) . '/../src/core/fault_points.h');
my @points;
my %throws;
while ($list =~ /^POINT\("([^"]+)", "([^"]+)", (true|false)\)/mg)
{
	my ($name, $side, $throws) = ($1, $2, $3);
	push @points, $name if $side !~ /^(coordinator|participant|participant-settle|worker|message-sender|message-receiver|message-local|message-segment|message-check|notify-sender|notify-receiver|notify-expect|shared-within)$/;
	$throws{$name} = $throws eq 'true';
}
cmp_ok(scalar @points, '>=', 16, 'the list of fault points was read');

my @actions = qw(error kill stop cut);
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

# --- the client's statements: bank1 pays 10, of which bank2 gets 6 and bank3 4

sub pay
{
	my ($account, $amount) = @_;
	return "UPDATE account_info SET account_balance = account_balance + $amount WHERE account_no = '$account'";
}

sub args
{
	my ($account, $amount) = @_;
	return qq('{"account": "$account", "amount": $amount}');
}

my $debit = pay(1, -10);
my $credit2 = "SELECT dtx_exec('bank2', \$\$" . pay(2, 6) . '$$)';
my $credit3 = "SELECT dtx_exec('bank3', \$\$" . pay(3, 4) . '$$)';
my $try_debit = "SELECT dtx_try(NULL, 'debit', " . args(1, 10) . ')';
my $try2 = "SELECT dtx_try('bank2', 'credit', " . args(2, 6) . ')';
my $try3 = "SELECT dtx_try('bank3', 'credit', " . args(3, 4) . ')';
my $begin_xa = "SELECT dtx_begin('xa')";
my $forward = q[SELECT dtx_try('bank2', 'forward', '{"account": "2", "amount": 6, "server": "bank3",]
  . q[ "next": {"account": "3", "amount": 4}}')];

# bank2 does something that makes branches itself.
sub at_bank2
{
	my ($sql) = @_;
	return "SELECT * FROM dtx_query('bank2', \$q\$$sql\$q\$) AS t(x text)";
}

my $xa_at_bank2 = at_bank2("WITH b AS MATERIALIZED (SELECT dtx_begin('xa'))"
	  . " SELECT dtx_exec('bank3', \$\$" . pay(3, 4) . '$$)::text FROM b WHERE dtx_begin IS NOT NULL');
my $local_try_at_bank2 =
  at_bank2("SELECT dtx_try(NULL, 'credit', " . args(2, 6) . ")::text");
my $try3_at_bank2 = at_bank2("SELECT dtx_try('bank3', 'credit', " . args(3, 4) . ')::text');

my @open = (
	[ 1, q{SELECT dtx_open('5min', 'test')} ],
	[ 1, 'BEGIN', 'SELECT dtx_join(:xid)', $debit, 'COMMIT' ]);
my @join = (2, 'BEGIN', 'SELECT dtx_join(:xid)', pay(2, 6), $credit3, 'COMMIT');

# --- scenarios
#
# points	at which points it stops
# arm		whose calls run into it: the number of a client's bank, or
#			[1, 'bank2'] for the calls that bank1 makes at server bank2
# victim	the bank where that happens
# steps		each a bank's number and what its client says; ARM: from now on
# after		what the opener says once all are up again
# unseen	the client loses its connection after the decision
# moved		is the money to be moved at the end?
#
# A scenario that gives what: another has the same points.

# to be prepared, and then lost with the connection: the worker ends it
sub hold_commit
{
	my (@body) = @_;
	return [ 1, 'BEGIN', $begin_xa, @body, q{SET dtx.fault_point = 'coordinator-before-commit:wait'},
		'HOLD', 'COMMIT' ];
}

# prepared, and then rolled back
sub prepare_only
{
	my (@body) = @_;
	return [ 1, 'BEGIN', $begin_xa, @body, q{SET dtx.fault_point = 'xa-after-prepare:error'}, 'ARM', 'COMMIT' ];
}

my $send = qr/^xa-(before|after)-send$/;
my $prepare = qr/^xa-(before|after)-prepare$/;
my $finish = qr/^xa-(before|after)-finish$/;
my $try = qr/^tcc-(before|after)-try$/;
my $confirm = qr/^tcc-(before|after)-confirm$/;
my $cancel = qr/^tcc-(before|after)-cancel$/;
my $vote = qr/^shared-(before-vote|after-vote|before-decision)$/;

my @scenarios = (
	{ points => $send, what => 'coordinator', arm => 1, victim => 1, moved => 0,
		steps => [ [ 1, 'BEGIN', $begin_xa, $debit, 'ARM', $credit2, $credit3, 'COMMIT' ] ] },
	{ points => $send, what => 'coordinator, a second statement', arm => 1, victim => 1, moved => 0,
		steps => [ [ 1, 'BEGIN', $begin_xa, $debit, $credit3, $credit2, 'ARM', $credit2, 'COMMIT' ] ] },
	{ points => $send, what => 'middle', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ [ 1, 'BEGIN', $debit, 'ARM', $credit2, $xa_at_bank2, 'COMMIT' ] ] },

	{ points => $prepare, what => 'coordinator', arm => 1, victim => 1, moved => 0,
		steps => [ [ 1, 'BEGIN', $begin_xa, $debit, $credit2, $credit3, 'ARM', 'COMMIT' ] ] },
	{ points => $prepare, what => 'middle', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ [ 1, 'BEGIN', $debit, $credit2, 'ARM', $xa_at_bank2, 'COMMIT' ] ] },
	{ points => $prepare, what => 'middle that is to be prepared', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ [ 1, 'BEGIN', $begin_xa, $debit, 'ARM', $credit2, $xa_at_bank2, 'COMMIT' ] ] },

	{ points => qr/^xa-after-commit$/, what => 'coordinator', arm => 1, victim => 1, moved => 1, unseen => 1,
		steps => [ [ 1, 'BEGIN', $begin_xa, $debit, $credit2, $credit3, 'ARM', 'COMMIT' ] ] },
	{ points => qr/^xa-after-commit$/, what => 'middle', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ [ 1, 'BEGIN', $debit, $credit2, 'ARM', $xa_at_bank2, 'COMMIT' ] ] },

	{ points => $finish, what => 'commit', arm => [ 1, 'bank2' ], victim => 2, moved => 1,
		steps => [ hold_commit($debit, $credit2, $credit3) ] },
	{ points => $finish, what => 'rollback', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ prepare_only($debit, $credit2, $credit3) ] },
	{ points => $finish, what => 'middle, commit', arm => [ 1, 'bank2' ], victim => 2, moved => 1,
		steps => [ hold_commit($debit, $credit2, $xa_at_bank2) ] },
	{ points => $finish, what => 'middle, rollback', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ prepare_only($debit, $credit2, $xa_at_bank2) ] },
	{ points => $finish, what => 'leaf, commit', arm => [ 2, 'bank3' ], victim => 3, moved => 1,
		steps => [ [ 1, 'BEGIN', $debit, $credit2, $xa_at_bank2, 'ARM', 'COMMIT' ] ] },
	{ points => $finish, what => 'leaf, rollback', arm => [ 2, 'bank3' ], victim => 3, moved => 0,
		steps => [ [ 1, 'BEGIN', $debit, $credit2, $xa_at_bank2, 'ARM', 'ROLLBACK' ] ] },

	{ points => $try, what => 'participant', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ [ 1, 'BEGIN', $try_debit, $try3, 'ARM', $try2, 'COMMIT' ] ] },
	{ points => $try, what => 'middle', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ [ 1, 'BEGIN', $try_debit, 'ARM', $forward, 'COMMIT' ] ] },
	{ points => $try, what => 'leaf', arm => [ 2, 'bank3' ], victim => 3, moved => 0,
		steps => [ [ 1, 'BEGIN', $try_debit, 'ARM', $forward, 'COMMIT' ] ] },

	{ points => qr/^tcc-before-local-confirm$/, what => 'coordinator', arm => 1, victim => 1, moved => 0,
		steps => [ [ 1, 'BEGIN', $try_debit, $try2, $try3, 'ARM', 'COMMIT' ] ] },

	{ points => $confirm, what => 'participant', arm => [ 1, 'bank2' ], victim => 2, moved => 1,
		steps => [ [ 1, 'BEGIN', $try_debit, $try2, $try3, 'ARM', 'COMMIT' ] ] },
	{ points => $confirm, what => 'middle', arm => [ 1, 'bank2' ], victim => 2, moved => 1,
		steps => [ [ 1, 'BEGIN', $try_debit, $forward, 'ARM', 'COMMIT' ] ] },
	{ points => $confirm, what => 'middle, in its own database', arm => [ 1, 'bank2' ], victim => 2, moved => 1,
		steps => [ [ 1, 'BEGIN', $try_debit, $local_try_at_bank2, $try3_at_bank2, 'ARM', 'COMMIT' ] ] },
	{ points => $confirm, what => 'leaf', arm => [ 2, 'bank3' ], victim => 3, moved => 1,
		steps => [ [ 1, 'BEGIN', $try_debit, $forward, 'ARM', 'COMMIT' ] ] },

	{ points => $cancel, what => 'participant', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ [ 1, 'BEGIN', $try_debit, $try2, $try3, 'ARM', 'ROLLBACK' ] ] },
	{ points => $cancel, what => 'middle', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ [ 1, 'BEGIN', $try_debit, $forward, 'ARM', 'ROLLBACK' ] ] },
	{ points => $cancel, what => 'middle, in its own database', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ [ 1, 'BEGIN', $try_debit, $local_try_at_bank2, $try3_at_bank2, 'ARM', 'ROLLBACK' ] ] },
	{ points => $cancel, what => 'leaf', arm => [ 2, 'bank3' ], victim => 3, moved => 0,
		steps => [ [ 1, 'BEGIN', $try_debit, $forward, 'ARM', 'ROLLBACK' ] ] },

	{ points => qr/^shared-before-register$/, what => 'and rolled back', arm => [ 2, 'bank1' ], victim => 1, moved => 0,
		steps => [ @open, ['ARM'], \@join ], after => ['rollback'] },
	{ points => qr/^shared-before-register$/, what => 'and joined again', arm => [ 2, 'bank1' ], victim => 1, moved => 1,
		steps => [ @open, ['ARM'], \@join ], after => [ \@join, 'commit' ] },

	{ points => qr/^shared-after-register$/, what => 'and committed', arm => 2, victim => 2, moved => 0,
		steps => [ @open, [ 2, 'ARM' ], \@join ], after => ['commit'] },
	{ points => qr/^shared-after-register$/, what => 'and timed out', arm => 2, victim => 2, moved => 0,
		steps => [ @open, [ 2, 'ARM' ], \@join ], after => ['time out'] },
	{ points => qr/^shared-after-register$/, what => 'in the own database', arm => 1, victim => 1, moved => 0,
		steps => [ $open[0], \@join, [ 1, 'ARM' ], $open[1] ], after => ['rollback'] },

	{ points => qr/^shared-before-telling$/, what => 'committed', arm => 1, victim => 1, moved => 1,
		steps => [ @open, \@join, [ 1, 'ARM', 'SELECT dtx_commit(:xid)' ] ], after => ['commit'] },
	{ points => qr/^shared-before-telling$/, what => 'rolled back', arm => 1, victim => 1, moved => 0,
		steps => [ @open, \@join, [ 1, 'ARM', 'SELECT dtx_rollback(:xid)' ] ], after => ['rollback'] },
	{ points => qr/^shared-before-telling$/, what => 'middle, commit', arm => [ 1, 'bank2' ], victim => 2, moved => 1,
		steps => [ [ 1, 'BEGIN', $debit, $credit2, $xa_at_bank2, 'ARM', 'COMMIT' ] ] },
	{ points => qr/^shared-before-telling$/, what => 'middle, rollback', arm => [ 1, 'bank2' ], victim => 2, moved => 0,
		steps => [ [ 1, 'BEGIN', $debit, $credit2, $xa_at_bank2, 'ARM', 'ROLLBACK' ] ] },

	map { {
		points => $vote, what => "and then $_", arm => 1, victim => 1, moved => $_ eq 'commit' ? 1 : 0,
		steps => [ @open, \@join, [ 1, 'ARM', 'SELECT dtx_commit(:xid)' ] ], after => [$_] } }
	  'commit', 'rollback', 'time out');

# --- a scenario's run

# Arm what the scenario says; returns what disarms it.
sub arm
{
	my ($who, $setting, $session) = @_;
	if (!ref $who)
	{
		$session->must("SET dtx.fault_point = '$setting'");
		return sub { };
	}
	my ($bank, $server) = ($banks[ $who->[0] - 1 ], $who->[1]);
	$bank->safe_psql($bank->{bank}, "ALTER SERVER $server OPTIONS (ADD options '-c dtx.fault_point=$setting')");
	return sub { $bank->safe_psql($bank->{bank}, "ALTER SERVER $server OPTIONS (DROP options)") };
}

# COMMIT waits before the decision, while the connections to bank2 are cut.
sub commit_without_bank2
{
	my ($s, $arm) = @_;
	my $holder = session($banks[0]);
	$holder->must('SELECT pg_advisory_lock(1685353504, 1)');
	$s->send('COMMIT');
	wait_for_value($banks[0], 'SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $s->backend, 'advisory');
	wait_for_value($banks[1], 'SELECT count(*) FROM pg_prepared_xacts', '1');
	wait_for_value($banks[1], q{SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
		WHERE application_name = 'dtx'}, '0');
	$arm->();
	$holder->close;
	return $s->wait;
}

# The client's statements as far as they get. What it saw is acknowledged,
# refused or unknown; also returns the xid, if one was opened.
sub run_steps
{
	my ($arm, @steps) = @_;
	my %sessions;
	my $xid;
	my $hold = 0;
	foreach my $step (@steps)
	{
		my ($number, @statements) = @$step;
		if ($number eq 'ARM')
		{
			$arm->();
			next;
		}
		my $s = $sessions{$number} //= session($banks[ $number - 1 ]);
		foreach my $sql (@statements)
		{
			if ($sql eq 'ARM')
			{
				$arm->($s);
				next;
			}
			if ($sql eq 'HOLD')
			{
				$hold = 1;
				next;
			}
			my $r = $hold ? commit_without_bank2($s, $arm) : $s->run($sql =~ s/:xid/'$xid'/r);
			$xid = $r->{out} if $sql =~ /dtx_open/;
			next if $r->{ok};
			note "$sql: $r->{err}";
			$s->run('ROLLBACK') unless $r->{lost};
			return ($r->{lost} ? 'unknown' : 'refused', $xid);
		}
	}
	return ($steps[-1][-1] eq 'ROLLBACK' ? 'refused' : 'acknowledged', $xid);
}

# Has the point been reached? An error that a participant keeps for itself
# stands in the branch's row.
sub was_reached
{
	my ($name, $bank, $mark) = @_;
	return 1 if log_since($bank, $mark) =~ /fault point "\Q$name\E"(: (kill|stop)| reached)/;
	my $errors = $bank->{_pid}
	  && value($bank, 'SELECT string_agg(last_error, chr(10)) FROM dtx.joined_branch');
	return ($errors || '') =~ /fault point "\Q$name\E" reached/;
}

# What the opener does about it.
sub end_shared
{
	my ($xid, @ends) = @_;
	my $s = session($banks[0]);
	foreach my $end (@ends)
	{
		if (ref $end)
		{
			my ($seen) = run_steps(undef, [ $end->[0], map { s/:xid/'$xid'/r } @$end[ 1 .. $#$end ] ]);
			return "joining again: $seen" unless $seen eq 'acknowledged';
		}
		elsif ($end eq 'time out')
		{
			set_deadline($banks[0], $xid);
		}
		else
		{
			my $r;
			# a joined branch that was cut off may still be on its way out
			wait_until(sub { ($r = $s->run("SELECT dtx_$end('$xid')"))->{ok} || $r->{state} ne 'DX003' },
				"dtx_$end of $xid");
			return "dtx_$end: $r->{err}" unless $r->{ok};
		}
	}
	return ();
}

sub balances
{
	return join ' ', map { balance($banks[ $_ - 1 ], $_) } 1 .. 3;
}

sub run_scenario
{
	my ($scenario, $name, $action) = @_;
	my $what = "$name:$action, $scenario->{what}";
	my $victim = $banks[ $scenario->{victim} - 1 ];
	my @before = split / /, balances();
	my $mark = log_mark($victim);
	my $disarm = sub { };
	my @problems;

	my ($seen, $xid) =
	  run_steps(sub { $disarm = arm($scenario->{arm}, "$name:$action", @_) }, @{ $scenario->{steps} });
	my $reached = wait_until(sub { was_reached($name, $victim, $mark) }, "$what is reached", 10);
	push @problems, 'the point was not reached' unless $reached;

	# disarm first: who comes back runs into the point again
	my $crashed = $reached && $action =~ /^(kill|stop)$/;
	my $armed_at_victim = ref $scenario->{arm} && $scenario->{arm}[0] == $scenario->{victim};
	$disarm->() unless $armed_at_victim;
	revive($victim) if $crashed;
	$disarm->() if $armed_at_victim;
	push @problems, end_shared($xid, @{ $scenario->{after} }) if $scenario->{after};

	if (nothing_left(@banks))
	{
		my $moved = $scenario->{moved};
		my $wanted = join ' ', $before[0] - 10 * $moved, $before[1] + 6 * $moved, $before[2] + 4 * $moved;
		my $after = balances();
		my $told = $scenario->{after} ? 1
		  : $scenario->{unseen} ? $seen eq 'unknown'
		  : !$moved == ($seen ne 'acknowledged');
		push @problems, "the client's transaction was $seen, and balances went from @before to $after"
		  if $after ne $wanted || !$told;
	}
	else
	{
		push @problems, 'something is left';
		$failures++;
	}
	ok(!@problems, $what) or diag join "\n", @problems;
	new_trio() if grep { /left|went from/ } @problems;
	return;
}

new_trio();
POINT: foreach my $name (@points)
{
	my @here = grep { $name =~ $_->{points} } @scenarios;
	ok(@here > 0, "$name has a scenario");
	foreach my $scenario (@here)
	{
		foreach my $action (@actions)
		{
			# where nothing may be thrown only a crash does anything
			next if !$throws{$name} && $action =~ /^(error|cut)$/;
			next if $ENV{ONLY} && "$name:$action, $scenario->{what}" !~ /$ENV{ONLY}/;
			run_scenario($scenario, $name, $action);
			last POINT if $failures == $give_up_after;
		}
	}
}
is($failures, 0, 'nothing was left behind');

done_testing();
