# Snapshot.pm: a snapshot is held open on both sides, so that nothing can be
# vacuumed. Does dtx slow down?
package Bench::Snapshot;

use strict;
use warnings;

# each run lasts as many parts as this; the last is compared with the first
use constant PARTS => 6;

sub run
{
	my ($clusters, $results, $setting) = @_;
	my $part = int($setting->{snapshot_seconds} / PARTS) || 1;

	for my $variant (qw(dtx unsafe))
	{
		for my $held (0, 1)
		{
			$clusters->psql($_, 'VACUUM FULL account_info', 'VACUUM FULL account_unsafe', 'VACUUM', 'CHECKPOINT')
			  for sort keys %Bench::Clusters::PORT;
			$clusters->pgbench('bank1', script => $variant, clients => 4, seconds => $setting->{warm_up});
			$clusters->drain;

			my $snapshots = $held ? $clusters->hold_snapshots : undef;
			# a second more: the last report comes at the end of its part
			my $run = $clusters->pgbench('bank1', script => $variant, clients => 4,
				seconds => $part * PARTS + 1, progress => $part);
			$clusters->release_snapshots($snapshots) if $held;
			$clusters->drain;

			my @tps = @{ $run->{progress} }[ 0 .. PARTS - 1 ];
			my $key = 'snapshot/' . $variant . ($held ? '/held' : '/free');

			$results->add($key, $_) for @tps;
			$setting->{say}->("%-6s snapshot %s, tps by %d s: %s", $variant, $held ? 'held' : 'free', $part,
				join(' ', map { sprintf '%.0f', $_ } @tps));
		}
	}
	$results->add('snapshot/part', $part);
	$clusters->check_sum;
}

1;
