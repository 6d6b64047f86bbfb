# Transfer.pm: transfers between two databases, with dtx and without, side by side.
#
# Also counts WAL flushes a transfer, where one client waits for all of them.
package Bench::Transfer;

use strict;
use warnings;
use Time::HiRes qw(sleep);

our @VARIANTS = qw(unsafe prepared dtx dtx_xa dtx_tcc unsafe_call dtx_call);

sub run
{
	my ($clusters, $results, $setting) = @_;
	my @variants = grep { $setting->{wanted}->($_) } @VARIANTS;

	$clusters->psql($_, 'CHECKPOINT') for sort keys %Bench::Clusters::PORT;
	for my $round (0 .. $setting->{runs})
	{
		for my $clients (@{ $setting->{clients} })
		{
			# each variant is the first of its round in turn
			for my $i (0 .. $#variants)
			{
				my $variant = $variants[ ($i + $round) % @variants ];
				my $cpu = $clusters->cpu_time;
				# round 0 warms up, and is not counted
				my $run = $clusters->pgbench('bank1', script => $variant, clients => $clients,
					seconds => $round == 0 ? $setting->{warm_up} : $setting->{seconds});
				my $drain = $clusters->drain;
				$cpu = ($clusters->cpu_time - $cpu) / $run->{transactions} * 1e6;

				next if $round == 0;
				$results->add("tps/$variant/$clients", $run->{tps});
				$results->add("drain/$variant/$clients", $drain);
				$results->add("cpu/$variant/$clients", $cpu);
				$setting->{say}->("round %d, %2d clients, %-12s %8.0f tps, settled after %.2f s, %4.0f us of CPU each",
					$round, $clients, $variant, $run->{tps}, $drain, $cpu);
			}
		}
	}
	$clusters->check_sum;
	count_flushes($clusters, $results, $setting, $_) for @variants;
}

sub count_flushes
{
	my ($clusters, $results, $setting, $variant) = @_;

	# an idle session reports its counters after ten seconds at the latest
	sleep $setting->{statistics_delay};
	$clusters->psql($_, "SELECT pg_stat_reset_shared('wal')") for sort keys %Bench::Clusters::PORT;
	my $run = $clusters->pgbench('bank1', script => $variant, clients => 1, seconds => $setting->{seconds});
	$clusters->drain;
	sleep $setting->{statistics_delay};
	for my $bank (sort keys %Bench::Clusters::PORT)
	{
		my $flushes = $clusters->psql($bank, 'SELECT wal_sync FROM pg_stat_wal') / $run->{transactions};

		$results->add("flushes/$variant/$bank", $flushes);
		$setting->{say}->("WAL flushes a transfer, %-12s at %s: %.3f", $variant, $bank, $flushes);
	}
}

1;
