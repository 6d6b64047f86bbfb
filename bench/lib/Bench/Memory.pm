# Memory.pm: one session makes many global transactions. Does its memory stay
# flat, and do the tables of schema dtx stay small?
package Bench::Memory;

use strict;
use warnings;
use Time::HiRes qw(sleep);

our @POINTS = (10, 50, 100);

sub run
{
	my ($clusters, $results, $setting) = @_;
	my $total = $setting->{transactions};
	# some more, so that the session is still there when it has done all
	my $run = $clusters->pgbench_start('bank1', script => 'dtx', clients => 1,
		transactions => int($total * 1.1) + 1000);

	for my $point (@POINTS)
	{
		wait_for($clusters, $run, $total * $point / 100);
		die "bench: the session ended before its memory was read\n" if $clusters->pgbench_ended($run);
		sample_memory($clusters, $results, $setting, $point);
		sample_tables($clusters, $results, $setting, $point);
	}
	my $figures = $clusters->pgbench_wait($run);

	$results->add('memory/transactions', $total);
	$clusters->drain;
	sample_tables($clusters, $results, $setting, 'end');
	$clusters->check_sum;
	$setting->{say}->('%d global transactions in one session, %.0f tps', $figures->{transactions}, $figures->{tps});
}

sub committed
{
	my ($clusters) = @_;
	return $clusters->psql('bank1', "SELECT value FROM dtx_stats WHERE name = 'transactions_committed'");
}

sub wait_for
{
	my ($clusters, $run, $count) = @_;

	while (committed($clusters) < $count)
	{
		last if $clusters->pgbench_ended($run);
		sleep 0.2;
	}
}

# The session, the session that it has at the peer, and the workers.
sub sample_memory
{
	my ($clusters, $results, $setting, $point) = @_;
	my $processes = q{SELECT pid, CASE WHEN backend_type = 'client backend'
			THEN 'session ' || coalesce(nullif(application_name, ''), '-') ELSE backend_type END
		FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY 2, 1};

	for my $bank (sort keys %Bench::Clusters::PORT)
	{
		my %seen;

		for my $line (split /\n/, $clusters->psql($bank, $processes))
		{
			my ($pid, $what) = split /\|/, $line, 2;
			my $kb = $clusters->private_memory($pid) // next;

			$what .= ' ' . $seen{$what} if $seen{$what}++;
			$results->add("memory/$bank/$what/$point", $kb);
			$setting->{say}->('%3s %%: %s, %-30s %7d kB private', $point, $bank, $what, $kb);
		}
	}
}

# Rows, pages of the table itself, pages of its indexes and TOAST.
sub sample_tables
{
	my ($clusters, $results, $setting, $point) = @_;

	for my $bank (sort keys %Bench::Clusters::PORT)
	{
		my @tables = split /\n/, $clusters->psql($bank, "SELECT relname FROM pg_class WHERE relkind = 'r'"
			  . " AND relnamespace = 'dtx'::regnamespace ORDER BY 1");
		my $all = 0;

		for my $table (@tables)
		{
			my ($rows, $heap, $rest) = split /\|/, $clusters->psql($bank,
				"SELECT (SELECT count(*) FROM dtx.$table), pg_relation_size(t) / 8192,"
				  . " (pg_total_relation_size(t) - pg_relation_size(t)) / 8192 FROM (VALUES ('dtx.$table'::regclass)) v(t)");

			$results->add("tables/$bank/$table/$point", $rows, $heap, $rest);
			$all += $heap + $rest;
		}
		$results->add("pages/$bank/$point", $all);
		$setting->{say}->('%3s %s: %s, tables of schema dtx: %d pages', $point, $point eq 'end' ? ' ' : '%', $bank, $all);
	}
}

1;
