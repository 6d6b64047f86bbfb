# A crash at every step of the protocol, on both sides.
#
# For every point of src/core/fault_points.h that is on one of the sides below,
# and every action, a transfer runs into it: an error is raised, the process is
# killed, its cluster is stopped at once, its connection is cut. What went down
# is started again, and then all branches must agree, and nothing may be left of
# the transaction. A point that no scenario reaches fails the test.
#
# Sides that only other modes have (xa-..., tcc-...) are left to other files
# named t/*_crash.pl; .ci/lint sees to it that no side is left out by all.

use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my $list = slurp_file(dirname(__FILE__) . '/../src/core/fault_points.h');
my @sides = qw(coordinator participant participant-settle worker);
my @points;
while ($list =~ /^POINT\("([^"]+)", "([^"]+)", (true|false)\)/mg)
{
	my %point = (name => $1, side => $2, throws => $3 eq 'true');
	push @points, \%point if grep { $_ eq $point{side} } @sides;
}
cmp_ok(scalar @points, '>=', 18, 'the list of fault points was read');
foreach my $side (@sides)
{
	cmp_ok(scalar(grep { $_->{side} eq $side } @points), '>', 0, "there are points on the side $side");
}

# XA passes these too, with a branch that is prepared, or is to be
my %in_xa_too = map { $_ => 1 } qw(coordinator-before-commit coordinator-after-commit
  participant-before-join participant-before-phase-one participant-after-phase-one);

my @servers = qw(bank2 bank2_too);
my @actions = qw(error kill stop cut);
my $amount = 10;
my $give_up_after = 4;		# scenarios that do not settle

my ($bank1, $bank2, $total);
my $pairs = 0;
my $unsettled = 0;

sub new_pair
{
	forget_sessions();
	foreach my $node (grep { defined } $bank1, $bank2)
	{
		$node->stop('immediate', fail_ok => 1);
	}
	($bank1, $bank2) = two_banks(conf => "max_prepared_transactions = 10\n",
		$pairs++ ? (label => $pairs) : ());
	# the same peer by another name: its connections can be armed on their own
	make_peer($bank1, $bank2, server => 'bank2_too');
	$total = money($bank1, $bank2);
	return;
}

# --- arming and disarming

# Points of the participant: only connections through the server have it.
sub arm_server
{
	my ($server, $setting) = @_;
	$bank1->safe_psql('bank1',
		"ALTER SERVER $server OPTIONS (ADD options '-c dtx.fault_point=$setting')");
	return;
}

sub disarm_server
{
	my ($server) = @_;
	$bank1->safe_psql('bank1', "ALTER SERVER $server OPTIONS (DROP options)");
	return;
}

# Points of the worker, which alone reaches them: a setting of the cluster.
sub set_in_file
{
	my ($setting) = @_;
	my $path = $bank1->data_dir . '/test.conf';
	open my $file, '>', $path or die "$path: $!";
	print $file "dtx.fault_point = '$setting'\n";
	close $file;
	return;
}

sub arm_worker
{
	my ($setting) = @_;
	set_in_file($setting);
	$bank1->reload;
	# who is connected after the postmaster's own reload comes after all signals
	forget_sessions();
	wait_until(
		sub {
			forget_sessions();
			return value($bank1, 'SHOW dtx.fault_point') eq $setting;
		},
		'the setting is in force');
	return;
}

# --- a scenario

my $credit = 'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2';

sub branch
{
	my ($server, $part) = @_;
	return "SELECT dtx_exec('$server', '$credit', $part, '2')";
}

# A transfer in two branches, over either server; or with a branch that a
# savepoint takes back, which is rolled back at the peer before the next one
# goes there; or one branch in mode XA.
my %transfers = (
	'' => [ branch('bank2', 4), branch('bank2_too', $amount - 4) ],
	xa => [ q{SELECT dtx_begin('xa')}, branch('bank2', $amount) ],
	savepoint => [ 'SAVEPOINT a', branch('bank2', 4), 'ROLLBACK TO a', branch('bank2', $amount) ]);

# The transfer, statement by statement, as far as it gets. arm_at is the number
# of the branch before which arm is called. What the client saw is
# 'acknowledged', 'refused' or 'unknown'.
sub transfer
{
	my ($kind, $end, $arm, $arm_at) = @_;
	my $s = session($bank1);
	my @statements = ('BEGIN',
		"UPDATE account_info SET account_balance = account_balance - $amount WHERE account_no = '1'",
		@{ $transfers{$kind} }, $end);
	my $branches = 0;
	my $seen;

	# what cannot be rolled back at once is given up soon
	$s->must("SET dtx.lock_timeout = '500ms'");
	foreach my $sql (@statements)
	{
		$arm->($s) if $sql =~ /dtx_exec/ && ++$branches == $arm_at;
		my $r = $s->run($sql);
		next if $r->{ok};
		note("$sql: $r->{err}");
		$seen = $r->{lost} ? 'unknown' : 'refused';
		$s->run('ROLLBACK') unless $r->{lost};
		last;
	}
	$seen //= $end eq 'COMMIT' ? 'acknowledged' : 'refused';
	$s->close;
	return $seen;
}

# Has the point been reached? An error that the participant keeps for itself
# stands in the branch's row.
sub was_reached
{
	my ($name, $node, $mark) = @_;
	return 1 if log_since($node, $mark) =~ /fault point "\Q$name\E"(: (kill|stop)| reached)/;
	my $errors = $node->{_pid}
	  && value($node, 'SELECT string_agg(last_error, chr(10)) FROM dtx.joined_branch');
	return ($errors || '') =~ /fault point "\Q$name\E" reached/;
}

# What must have become of the money: true or false, or undef when the client
# lost its connection and either would do.
sub expected_move
{
	my ($point, $action, $end, $seen) = @_;
	return 0 if $end eq 'ROLLBACK' || $seen eq 'refused';
	return 1 if $seen eq 'acknowledged';
	# the coordinator had committed and flushed, or had not
	return $point->{name} eq 'coordinator-after-commit'
	  || $point->{side} =~ /^(participant-settle|worker)$/ ? 1 : 0;
}

sub run_scenario
{
	my ($point, $action, $end, $branch, $kind) = @_;
	my $name = $point->{name};
	my $setting = "$name:$action";
	my $what = $setting . ($end eq 'COMMIT' ? '' : ', rolling back')
	  . ($branch == 1 ? '' : ', second branch') . ($kind eq '' ? '' : ", $kind");
	my $victim = $point->{side} =~ /^participant/ ? $bank2 : $bank1;
	my $silent = !$point->{throws} && $action =~ /^(error|cut)$/;
	my $crashes = $action =~ /^(kill|stop)$/;
	my @before = (balance($bank1, 1), balance($bank2, 2));
	my $mark = log_mark($victim);
	my $server = $servers[$branch - 1];
	my @problems;

	my $arm = sub {
		my ($s) = @_;
		if ($point->{side} eq 'coordinator')
		{
			$s->must("SET dtx.fault_point = '$setting'");
		}
		elsif ($point->{side} eq 'worker')
		{
			arm_worker($setting);
		}
		else
		{
			arm_server($server, $setting);
		}
	};
	my $seen = transfer($kind, $end, $arm, $branch);

	my $reached = $silent
	  || wait_until(sub { was_reached($name, $victim, $mark) }, "$what is reached");
	push @problems, 'the point was not reached' unless $reached;

	# disarm first: who comes back runs into the point again
	disarm_server($server) if $victim == $bank2;
	set_in_file('') if $point->{side} eq 'worker';
	revive($victim) if $crashes && $reached;
	$bank1->reload if $point->{side} eq 'worker' && !$crashes;

	if (settled($bank1, $bank2))
	{
		my @after = (balance($bank1, 1), balance($bank2, 2));
		my $moved = expected_move($point, $action, $end, $seen);
		my @wanted = ($before[0] - $moved * $amount, $before[1] + $moved * $amount);
		push @problems, "the client's transfer was $seen, and balances went from @before to @after"
		  if "@after" ne "@wanted";
		push @problems, 'the sum of money has changed' if money($bank1, $bank2) != $total;
		push @problems, 'the client was not told of its commit'
		  if $silent && $end eq 'COMMIT' && $seen ne 'acknowledged';
	}
	else
	{
		push @problems, 'not everything was settled';
		$unsettled++;
	}

	ok(!@problems, $what) or diag join "\n", @problems;
	new_pair() if grep { /settled|changed|went from/ } @problems;
	return;
}

new_pair();
SCENARIO: foreach my $point (@points)
{
	my $in_phase_two = $point->{side} =~ /^(participant-settle|worker)$/;
	my @ends = ('COMMIT');
	push @ends, 'ROLLBACK' if $in_phase_two;
	@ends = ('ROLLBACK') if $point->{name} eq 'participant-during-compensation';
	foreach my $action (@actions)
	{
		my @scenarios = map { [ $_, 1, '' ] } @ends;
		push @scenarios, map { [ $_, 2, '' ] } @ends if $point->{side} ne 'worker';
		push @scenarios, [ 'COMMIT', 1, 'savepoint' ] if $point->{side} eq 'participant-settle';
		push @scenarios, [ 'COMMIT', 1, 'xa' ] if $in_xa_too{ $point->{name} };
		foreach my $scenario (@scenarios)
		{
			run_scenario($point, $action, @$scenario);
			last SCENARIO if $unsettled == $give_up_after;
		}
	}
}
is($unsettled, 0, 'everything was settled');

done_testing();
