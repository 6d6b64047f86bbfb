# Messages.pm: messages from bank1, handled once each at bank2: dtx, PgQ, and a plain outbox.
#
# PgQ and the outbox have a consumer each at bank1, which sends a batch in one
# call over dblink; the handler is the same for all three (see messages.sql).
package Bench::Messages;

use strict;
use warnings;
use Time::HiRes qw(sleep time);

use constant {
	BATCH     => 500,      # messages in a call, for all
	IDLE      => 0.001,    # s that a consumer sleeps when there is nothing
	PRODUCERS => 4,
};

our @VARIANTS = qw(outbox pgq dtx);
our @RATES = (100, 1000);

sub run
{
	my ($clusters, $results, $setting) = @_;
	my $pgq = pgq_is_there($clusters);
	my @variants = grep { $setting->{wanted}->($_) && ($_ ne 'pgq' || $pgq) } @VARIANTS;

	$setting->{say}->('PgQ is not installed (postgresql-15-pgq3, pgqd): its rows are left out') if !$pgq;
	$results->add('messages/pgq', $pgq);
	$clusters->psql_file($_, "$clusters->{dir}/messages.sql", pgq => $pgq) for sort keys %Bench::Clusters::PORT;
	publish($clusters, $results, $setting, @variants);
	bulk($clusters, $results, $setting, @variants);
	start_delivery($clusters, @variants);
	rounds($setting, \@variants, sub { drain($clusters, $results, $setting, @_) });
	rounds($setting, \@variants, sub { flow($clusters, $results, $setting, @_) });
	latency($clusters, $results, $setting, @variants);
	snapshot($clusters, $results, $setting) if grep { $_ eq 'dtx' } @variants;
	sizes($clusters, $results, $setting) if grep { $_ eq 'dtx' } @variants;
}

# Its extension, in this installation, and its daemon.
sub pgq_is_there
{
	my ($clusters) = @_;
	my $extension = $clusters->psql('bank1', "SELECT count(*) FROM pg_available_extensions WHERE name = 'pgq'");

	return $extension && Bench::Clusters::program('pgqd') ? 1 : 0;
}

# Variants take turns; round 0 warms up.
sub rounds
{
	my ($setting, $variants, $what) = @_;

	for my $round (0 .. $setting->{runs})
	{
		$what->($variants->[ ($_ + $round) % @$variants ], $round) for 0 .. $#$variants;
	}
}

# ---- what publishing costs: nobody consumes yet

sub publish
{
	my ($clusters, $results, $setting, @variants) = @_;

	$clusters->psql('bank1', 'CHECKPOINT');
	for my $clients (@{ $setting->{clients} })
	{
		rounds($setting, \@variants, sub {
			my ($variant, $round) = @_;
			my $run = $clusters->pgbench('bank1', script => "publish_$variant", clients => $clients, mode => 'prepared',
				seconds => $round == 0 ? $setting->{warm_up} : $setting->{seconds});

			return if $round == 0;
			$results->add("messages/publish/$variant/$clients", $run->{tps});
			$setting->{say}->('round %d, publishing, %2d clients, %-6s %8.0f a second', $round, $clients, $variant, $run->{tps});
		});
	}
}

sub bulk
{
	my ($clusters, $results, $setting, @variants) = @_;
	my $messages = $setting->{messages} * 3;

	rounds($setting, \@variants, sub {
		my ($variant, $round) = @_;

		$clusters->psql('bank1', 'CHECKPOINT');
		my $run = $clusters->pgbench('bank1', script => "publish_bulk_$variant", clients => 1, transactions => 1,
			define => { n => $messages });
		my $rate = $messages / $run->{latency} * 1000;

		return if $round == 0;
		$results->add("messages/bulk/$variant", $rate);
		$setting->{say}->('round %d, publishing %d in one statement, %-6s %8.0f a second', $round, $messages, $variant, $rate);
	});
	$results->add('messages/bulk_of', $messages);
}

# ---- delivery

sub start_delivery
{
	my ($clusters, @variants) = @_;

	$clusters->psql('bank1', 'TRUNCATE outbox', 'VACUUM');
	for my $variant (@variants)
	{
		$clusters->psql('bank1', sprintf("SELECT dtx_subscribe('orders.*', 'bank2', 'handle', 'bench', batch_size => %d)", BATCH))
		  if $variant eq 'dtx';
		next if $variant ne 'pgq';
		$clusters->psql('bank1', "SELECT pgq.set_queue_config('bench', 'ticker_max_count', '" . BATCH . "')",
			"SELECT pgq.set_queue_config('bench', 'ticker_max_lag', '100 milliseconds')",
			"SELECT pgq.ticker('bench')", "SELECT pgq.register_consumer('bench', 'bench')");
		$clusters->pgqd_start('bank1');
	}
}

# The consumer of a variant, until it has sent so many messages. dtx is always at it.
sub start_consumer
{
	my ($clusters, $variant, $messages) = @_;

	return $clusters->psql_start('bank1', sprintf("CALL consume_%s('host=%s port=%d dbname=bank2 user=%s', %d, %d, %s)",
		$variant, $clusters->{dir}, $Bench::Clusters::PORT{bank2}, $clusters->{user}, BATCH, $messages, IDLE))
	  if $variant ne 'dtx';
	my $wanted = delivered($clusters) + $messages;

	return $clusters->psql_start('bank1', "DO \$\$ BEGIN
		WHILE (SELECT value FROM dtx_stats WHERE name = 'messages_delivered') < $wanted LOOP
			PERFORM pg_sleep(0.05);
			IF clock_timestamp() > now() + interval '10min' THEN RAISE 'messages are not delivered'; END IF;
		END LOOP; END \$\$");
}

sub delivered
{
	my ($clusters) = @_;
	return $clusters->psql('bank1', "SELECT value FROM dtx_stats WHERE name = 'messages_delivered'");
}

# Was each handled once? Returns when the last was.
sub check_handled
{
	my ($clusters, $variant, $messages) = @_;
	my ($rows, $ids, $last) = split /\|/, $clusters->psql('bank2',
		'SELECT count(*), count(DISTINCT id), extract(epoch FROM max(handled_at)) FROM handled');

	die "bench: $variant: of $messages messages $ids were handled, $rows times\n" if $rows != $messages || $ids != $messages;
	return $last;
}

sub clear
{
	my ($clusters) = @_;

	$clusters->psql('bank2', 'TRUNCATE handled, received', 'VACUUM', 'CHECKPOINT');
	$clusters->psql('bank1', 'VACUUM', 'CHECKPOINT');
}

# A backlog, and how long it takes until all of it is handled.
sub drain
{
	my ($clusters, $results, $setting, $variant, $round) = @_;
	my $messages = $setting->{messages};

	clear($clusters);
	$clusters->psql('bank1', "SELECT dtx_pause('bench')") if $variant eq 'dtx';
	$clusters->pgbench('bank1', script => "publish_$variant", clients => PRODUCERS, mode => 'prepared',
		transactions => $messages / PRODUCERS);
	sleep 0.5 if $variant eq 'pgq';    # its last tick

	# what waits for dtx is there before, and not a part of it
	my $consumer = $variant eq 'dtx' ? start_consumer($clusters, $variant, $messages) : undef;
	my $cpu      = $clusters->cpu_time;
	my $start    = time;

	$consumer //= start_consumer($clusters, $variant, $messages);
	$clusters->psql('bank1', "SELECT dtx_resume('bench')") if $variant eq 'dtx';
	$clusters->psql_wait($consumer);
	$cpu = ($clusters->cpu_time - $cpu) / $messages * 1e6;
	my $rate = $messages / (check_handled($clusters, $variant, $messages) - $start);

	return if $round == 0;
	$results->add("messages/drain/$variant", $rate);
	$results->add("messages/drain_cpu/$variant", $cpu);
	$setting->{say}->('round %d, backlog of %d, %-6s %8.0f a second, %4.0f us of CPU each', $round, $messages, $variant, $rate, $cpu);
}

# Producers at full speed: from the first message until all are handled.
sub flow
{
	my ($clusters, $results, $setting, $variant, $round) = @_;
	my $messages = $setting->{messages};

	clear($clusters);
	my $cpu = $clusters->cpu_time;
	my $consumer = start_consumer($clusters, $variant, $messages);
	$clusters->pgbench('bank1', script => "publish_$variant", clients => PRODUCERS, mode => 'prepared',
		transactions => $messages / PRODUCERS);
	$clusters->psql_wait($consumer);
	$cpu = ($clusters->cpu_time - $cpu) / $messages * 1e6;
	my $rate = $messages / (check_handled($clusters, $variant, $messages) - first_published($clusters));

	return if $round == 0;
	$results->add("messages/flow/$variant", $rate);
	$results->add("messages/flow_cpu/$variant", $cpu);
	$setting->{say}->('round %d, %d producers, %-6s %8.0f a second, %4.0f us of CPU each', $round, PRODUCERS, $variant, $rate, $cpu);
}

sub first_published
{
	my ($clusters) = @_;
	return $clusters->psql('bank2', "SELECT extract(epoch FROM min(payload->>'at')::timestamptz) FROM handled");
}

# From the statement that publishes, which is a transaction, until the handler runs.
sub latency
{
	my ($clusters, $results, $setting, @variants) = @_;

	# as often as it can be had for
	if (grep { $_ eq 'pgq' } @variants)
	{
		$clusters->psql('bank1', "SELECT pgq.set_queue_config('bench', 'ticker_max_lag', '0')");
	}
	for my $rate (@RATES)
	{
		rounds($setting, \@variants, sub {
			my ($variant, $round) = @_;
			my $messages = $rate * ($round == 0 ? $setting->{warm_up} : $setting->{seconds});

			clear($clusters);
			my $consumer = start_consumer($clusters, $variant, $messages);
			sleep 0.2;    # until it is there
			$clusters->pgbench('bank1', script => "publish_$variant", clients => PRODUCERS, mode => 'prepared',
				transactions => $messages / PRODUCERS, rate => $rate);
			$clusters->psql_wait($consumer);
			check_handled($clusters, $variant, $messages);
			my @ms = split /\|/, $clusters->psql('bank2', "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), "
				  . "percentile_cont(0.99) WITHIN GROUP (ORDER BY ms), max(ms) FROM (SELECT "
				  . "extract(epoch FROM handled_at - (payload->>'at')::timestamptz) * 1000.0 AS ms FROM handled) h");

			return if $round == 0;
			$results->add("messages/latency/$variant/$rate/" . (qw(p50 p99 max))[$_], $ms[$_]) for 0 .. 2;
			$setting->{say}->('round %d, %4d a second, %-6s p50 %7.2f ms, p99 %7.2f ms, max %7.2f ms', $round, $rate, $variant, @ms);
		});
	}
}

# Producers at full speed, with and without a snapshot held on both sides.
sub snapshot
{
	my ($clusters, $results, $setting) = @_;

	for my $held (0, 1)
	{
		my $before = delivered($clusters);

		clear($clusters);
		my $snapshots = $held ? $clusters->hold_snapshots : undef;
		my $run = $clusters->pgbench('bank1', script => 'publish_dtx', clients => PRODUCERS, mode => 'prepared',
			seconds => $setting->{snapshot_seconds});
		my $messages = $run->{transactions};

		$clusters->psql_wait(start_consumer($clusters, 'dtx', $before + $messages - delivered($clusters)));
		$clusters->release_snapshots($snapshots) if $held;
		my $rate = $messages / (check_handled($clusters, 'dtx', $messages) - first_published($clusters));

		$results->add('messages/snapshot/' . ($held ? 'held' : 'free'), $rate);
		$setting->{say}->('%d producers for %d s, snapshot %s: %8.0f a second', PRODUCERS, $setting->{snapshot_seconds},
			$held ? 'held' : 'free', $rate);
	}
	$results->add('messages/snapshot_seconds', $setting->{snapshot_seconds});
}

# Until so many were published and delivered in all.
sub sizes
{
	my ($clusters, $results, $setting) = @_;
	my $wanted = $setting->{messages} * 10;
	my $more = $wanted - delivered($clusters);

	if ($more > 0)
	{
		my $consumer = start_consumer($clusters, 'dtx', $more);

		$clusters->pgbench('bank1', script => 'publish_bulk_dtx', clients => 1, transactions => 1, define => { n => $more });
		$clusters->psql_wait($consumer);
	}
	sleep 0.5;    # positions are written down after 100 ms
	$results->add('messages/published', $clusters->psql('bank1', "SELECT value FROM dtx_stats WHERE name = 'messages_published'"));
	$results->add('messages/delivered', delivered($clusters));
	for my $bank (sort keys %Bench::Clusters::PORT)
	{
		for my $table (split /\n/, $clusters->psql($bank, "SELECT relname FROM pg_class WHERE relkind = 'r'"
				. " AND relnamespace = 'dtx'::regnamespace ORDER BY 1"))
		{
			my ($rows, $heap, $rest) = split /\|/, $clusters->psql($bank,
				"SELECT (SELECT count(*) FROM ONLY dtx.$table), pg_relation_size(t) / 8192,"
				  . " (pg_total_relation_size(t) - pg_relation_size(t)) / 8192 FROM (VALUES ('dtx.$table'::regclass)) v(t)");

			# the segments of the log are one
			my $name = $table =~ /^message(_\d+)?$/ ? 'message' : $table;
			my @so_far = $results->all("messages/tables/$bank/$name");

			$results->set("messages/tables/$bank/$name", ($so_far[0] // 0) + $rows, ($so_far[1] // 0) + $heap, ($so_far[2] // 0) + $rest);
		}
	}
}

1;
