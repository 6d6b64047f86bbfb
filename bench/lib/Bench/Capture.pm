# Capture.pm: what the capture trigger costs, on one database.
#
# The branches belong to a coordinator that does not exist, so that nothing but
# capture is in the figures; they are settled between the runs.
package Bench::Capture;

use strict;
use warnings;
use Time::HiRes qw(time);

our @ROW  = qw(plain attached noop branch);
our @BULK = qw(plain attached branch jsonb);

sub run
{
	my ($clusters, $results, $setting) = @_;
	# more rows than a run can change, so that no row is changed twice in it
	my $rows = 50_000 * ($setting->{seconds} > 4 ? $setting->{seconds} : 4);

	$clusters->psql_file('bank2', "$clusters->{dir}/capture.sql", rows => $rows);
	$clusters->psql('bank2', 'CHECKPOINT');
	rows($clusters, $results, $setting, $rows);
	bulk($clusters, $results, $setting);
}

# In a branch every change is captured, and outside none: else the figures say nothing.
sub check_captured
{
	my ($clusters, $variant, $changes) = @_;
	my $captured = $clusters->psql('bank2', 'SELECT count(*) FROM dtx.undo_log');

	$changes = 0 if $variant ne 'branch';
	die "bench: variant $variant: $captured changes were captured, not $changes\n" if $captured != $changes;
}

sub rows
{
	my ($clusters, $results, $setting, $rows) = @_;

	for my $round (0 .. $setting->{runs})
	{
		for my $i (0 .. $#ROW)
		{
			my $variant = $ROW[ ($i + $round) % @ROW ];
			my $run = $clusters->pgbench('bank2', script => "row_$variant", clients => 4, mode => 'prepared',
				seconds => $round == 0 ? $setting->{warm_up} : $setting->{seconds},
				define => { rows => $rows, n => int(rand $rows) });

			die "bench: a run has changed more than all $rows rows\n" if $run->{transactions} > $rows;
			check_captured($clusters, $variant, $run->{transactions});
			$clusters->psql('bank2', 'CALL settle_made_up_branches()', 'VACUUM');
			next if $round == 0;
			$results->add("row/$variant", $run->{tps});
			$setting->{say}->("round %d, single rows, %-8s %8.0f tps", $round, $variant, $run->{tps});
		}
	}
}

sub bulk
{
	my ($clusters, $results, $setting) = @_;

	for my $round (0 .. $setting->{runs})
	{
		for my $i (0 .. $#BULK)
		{
			my $variant = $BULK[ ($i + $round) % @BULK ];

			$clusters->psql('bank2', 'TRUNCATE jsonb_log', 'VACUUM', 'CHECKPOINT');
			my $run = $clusters->pgbench('bank2', script => "bulk_$variant", clients => 1, transactions => 1);

			check_captured($clusters, $variant, 100_000);
			my $start = time;

			$clusters->psql('bank2', 'CALL settle_made_up_branches()') if $variant eq 'branch';
			next if $round == 0;
			$results->add("bulk/$variant", $run->{latency});
			$results->add('bulk/settle', (time - $start) * 1000) if $variant eq 'branch';
			$setting->{say}->("round %d, 100,000 rows, %-8s %8.0f ms", $round, $variant, $run->{latency});
		}
	}
}

1;
