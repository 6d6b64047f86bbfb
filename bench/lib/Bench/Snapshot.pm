# Snapshot.pm: a snapshot is held open on both sides, so that nothing can be
# vacuumed. Does dtx slow down?
package Bench::Snapshot;

use strict;
use warnings;
use Time::HiRes qw(sleep time);

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
			my $pgbench = $clusters->pgbench_start('bank1', script => $variant, clients => 4,
				seconds => $part * PARTS + 1, progress => $part);
			my @cpu = cpu_by_part($clusters, $part);
			my $run = $clusters->pgbench_wait($pgbench);
			$clusters->release_snapshots($snapshots) if $held;
			$clusters->drain;

			my @tps = @{ $run->{progress} }[ 0 .. PARTS - 1 ];
			my $key = 'snapshot/' . $variant . ($held ? '/held' : '/free');

			$results->add($key, @tps);
			$results->add("$key/cpu", map { $cpu[$_] / ($tps[$_] * $part) * 1e6 } 0 .. PARTS - 1);
			$setting->{say}->("%-6s snapshot %s, tps by %d s: %s", $variant, $held ? 'held' : 'free', $part,
				join(' ', map { sprintf '%.0f', $_ } @tps));
			$setting->{say}->('%29s us of CPU each: %s', '', join(' ', map { sprintf '%.0f', $_ } $results->all("$key/cpu")));
		}
	}
	$results->add('snapshot/part', $part);
	$clusters->check_sum;
}

# CPU time that the servers use in each part.
sub cpu_by_part
{
	my ($clusters, $part) = @_;
	my $start = time;
	my @until = $clusters->cpu_time;

	for my $i (1 .. PARTS)
	{
		my $left = $start + $i * $part - time;

		sleep $left if $left > 0;
		push @until, $clusters->cpu_time;
	}
	return map { $until[$_] - $until[ $_ - 1 ] } 1 .. PARTS;
}

1;
