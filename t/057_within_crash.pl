# The opener decides in its own branch: dtx_commit inside a transaction that has
# joined. The row with the decision and that branch's work are one local commit:
# stopped at any step on the way to it, all of it happened or none.

use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

# those of src/core/fault_points.h that only this reaches
my @sides = qw(shared-within);
my $list = slurp_file(dirname(__FILE__) . '/../src/core/fault_points.h');
my @points;
while ($list =~ /^POINT\("([^"]+)", "([^"]+)", (?:true|false)\)/mg)
{
	my ($name, $side) = ($1, $2);
	push @points, [ $name, 0 ] if grep { $_ eq $side } @sides;
}
ok(@points > 0, 'the list of fault points was read');
# and those that others reach too; is it committed then?
push @points, [ 'shared-before-vote', 0 ], [ 'shared-after-vote', 0 ], [ 'participant-before-phase-one', 0 ],
  [ 'participant-before-commit', 0 ], [ 'participant-after-phase-one', 1 ], [ 'shared-before-telling', 1 ];

my ($bank1, $bank2) = two_banks();
my $total = money($bank1, $bank2);

sub pay
{
	my ($account, $amount) = @_;
	return "UPDATE account_info SET account_balance = account_balance + $amount WHERE account_no = '$account'";
}

# A transaction in which bank2 has done its part, and the opener is about to decide.
sub up_to_the_decision
{
	my ($opener) = @_;
	my $xid = $opener->must(q{SELECT dtx_open('5 min')});
	my $service = session($bank2);

	$service->must('BEGIN', "SELECT dtx_join('$xid')", pay(2, 5), 'COMMIT');
	$service->close;
	$opener->must('BEGIN', "SELECT dtx_join('$xid', 'opener')", pay(1, -5));
	return $xid;
}

foreach my $case (@points)
{
	my ($point, $committed) = @$case;
	foreach my $action (qw(kill error))
	{
		# after the commit nothing throws
		next if $action eq 'error' && $committed;
		my $what = "$action at $point";
		my $before = balance($bank1, 1);
		my $opener = session($bank1);
		my $xid = up_to_the_decision($opener);
		my $mark = log_mark($bank1);

		$opener->must("SET dtx.fault_point = '$point:$action'");
		my $result = $opener->run("SELECT dtx_commit('$xid')");
		$result = $opener->run('COMMIT') if $result->{ok};
		ok(!$result->{ok}, "$what: stopped");
		if ($action eq 'kill')
		{
			ok(wait_for_log_line($bank1, qr/fault point "$point": kill/, $mark), "$what: reached");
			$opener->close;
			revive($bank1);
			$opener = session($bank1);
		}
		else
		{
			$opener->must('ROLLBACK', 'RESET dtx.fault_point');
		}
		my $status = value($bank1, "SELECT dtx_status('$xid')");
		if ($committed)
		{
			like($status, qr/^committ(ing|ed)$/, "$what: it is decided");
		}
		else
		{
			is($status, 'active', "$what: it is open");
			# the step is done again, and decided
			$opener->must('BEGIN');
			is($opener->must("SELECT dtx_join('$xid', 'opener')"), 't', "$what: its step is not done");
			$opener->must(pay(1, -5));
			is($opener->must("SELECT dtx_commit('$xid')"), 'committed', "$what: and is done again");
			$opener->must('COMMIT');
		}
		is($opener->must("SELECT dtx_wait('$xid', '180s')"), 'committed', "$what: committed");
		is_settled($total, $what, $bank1, $bank2);
		is(balance($bank1, 1), $before - 5, "$what: once");
		$opener->close;
	}
}

done_testing();
