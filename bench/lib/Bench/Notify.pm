# Notify.pm: notifications by HTTP from bank1: how many a second, beside a bare loop
# that records nothing; and what endpoints that hang cost everything else.
package Bench::Notify;

use strict;
use warnings;
use Bench::Endpoints;
use Bench::Messages;
use Time::HiRes qw(sleep time);

use constant {
	PRODUCERS => 4,
	LIVING    => 90,       # of 100 endpoints; the other ten hang, or are alive, or get nothing
	HANGING   => 10,
	RATE      => 100,      # notifications and messages a second, beside endpoints that hang
	PAUSE     => '20ms',   # between transfers beside them
};

our @BARE = (1, 32);       # connections
our @BESIDE = qw(nothing alive hanging);

sub run
{
	my ($clusters, $results, $setting) = @_;
	my @missing = Bench::Endpoints::missing();

	if (@missing)
	{
		$setting->{say}->('not installed: %s; there is nothing to notify', join(', ', @missing));
		return;
	}
	my $endpoints = Bench::Endpoints->new($clusters);

	$clusters->psql_file($_, "$clusters->{dir}/messages.sql", pgq => 0) for sort keys %Bench::Clusters::PORT;
	$clusters->psql_file('bank1', "$clusters->{dir}/notify.sql", port => $endpoints->{port}, hanging_port => $endpoints->{hanging_port},
		alive => Bench::Endpoints::ALIVE, hanging => HANGING);
	throughput($clusters, $results, $setting, $endpoints);
	if ($setting->{wanted}->('hanging'))
	{
		Bench::Messages::rounds($setting, \@BESIDE, sub { living($clusters, $results, $setting, $endpoints, @_) });
		$clusters->psql('bank1', "SELECT dtx_subscribe('orders.*', 'bank2', 'handle', 'bench')");
		Bench::Messages::rounds($setting, [qw(nothing hanging)], sub { beside($clusters, $results, $setting, $endpoints, @_) });
		$clusters->drain;
		$clusters->check_sum;
	}
}

# ---- how many a second

sub throughput
{
	my ($clusters, $results, $setting, $endpoints) = @_;
	my @variants = (
		$setting->{wanted}->('bare') ? map({ my $connections = $_;
			[ "bare/$_", sub { $endpoints->bare_loop($connections, $setting->{notifications}) } ] } @BARE) : (),
		$setting->{wanted}->('dtx') ? (
			[ 'backlog',   sub { backlog($clusters, $setting) } ],
			[ 'flow',      sub { flow($clusters, $setting) } ],
			[ 'producers', sub { producers($clusters, $setting) } ]) : ());

	$results->add('notify/notifications', $setting->{notifications});
	Bench::Messages::rounds($setting, \@variants, sub {
		my ($variant, $round) = @_;
		my ($name, $measure) = @$variant;
		my ($rate, $cpu) = $measure->();

		return if $round == 0;
		$results->add("notify/rate/$name", $rate);
		$results->add("notify/cpu/$name", $cpu) if defined $cpu;
		$setting->{say}->('round %d, %-9s %8.0f a second, %4.0f us of CPU each', $round, $name, $rate, $cpu // 0);
	});
}

# No call is under way, and no notification is left. Endpoints that hang are disabled by then.
sub clear
{
	my ($clusters, $endpoints) = @_;

	for (1 .. 200)
	{
		last if $clusters->psql('bank1', 'SELECT count(*) FROM dtx.notification WHERE called_at IS NOT NULL') == 0;
		$endpoints->close_hanging if $endpoints;
		sleep 0.1;
	}
	$clusters->psql('bank1', 'TRUNCATE dtx.notification, settling');
	Bench::Messages::clear($clusters);
}

sub list { return 'ARRAY[' . join(', ', map { "'$_'" } @_) . ']::name[]' }

sub delivered
{
	my ($clusters) = @_;
	return $clusters->psql('bank1', "SELECT value FROM dtx_stats WHERE name = 'notifications_delivered'");
}

sub wait_delivered
{
	my ($clusters, $wanted, @servers) = @_;
	$clusters->psql('bank1', sprintf('CALL wait_delivered(%d, %s)', $wanted, list(@servers)));
}

# Was each answered? Returns when the first was notified, when the last was recorded, and how
# many attempts were made beyond one for each.
sub check_delivered
{
	my ($clusters, $wanted, @servers) = @_;
	my ($rows, $first, $last, $more) = split /\|/, $clusters->psql('bank1',
		"SELECT count(*) FILTER (WHERE n.state = 'd' AND n.last_status = 204), extract(epoch FROM min(n.notified_at)),"
		  . ' extract(epoch FROM max(n.changed_at)), sum(n.attempts - 1) FROM dtx.notification n JOIN pg_foreign_server s ON s.oid = n.server'
		  . ' WHERE s.srvname = ANY (' . list(@servers) . ')');

	die "bench: of $wanted notifications $rows were delivered\n" if $rows != $wanted;
	return ($first, $last, $more);
}

# The statement that lets go of what waits for these servers. Returns when that was.
sub enable
{
	my ($clusters, @servers) = @_;
	my ($start) = split /\|/, $clusters->psql('bank1', 'SELECT extract(epoch FROM clock_timestamp()), sum(dtx_target_enable(s)) FROM unnest('
		  . list(@servers) . ') s');

	return $start;
}

sub disable
{
	my ($clusters, @servers) = @_;
	$clusters->psql('bank1', 'SELECT count(dtx_target_disable(s)::text) FROM unnest(' . list(@servers) . ') s');
}

sub cpu_of_worker
{
	my ($clusters, $before) = @_;
	my $after = $clusters->worker('bank1');

	# a worker without work ends, and another one comes
	return $after->{cpu} - ($after->{pid} == $before->{pid} ? $before->{cpu} : 0);
}

# What waits for an endpoint that was stopped, from when it is not until all is delivered.
sub backlog
{
	my ($clusters, $setting) = @_;
	my $count = $setting->{notifications};

	clear($clusters);
	disable($clusters, 'alive1');
	$clusters->psql('bank1', "SELECT notify_all(" . list('alive1') . ", $count)");
	my $wanted = delivered($clusters) + $count;
	my $worker = $clusters->worker('bank1');
	my $start  = enable($clusters, 'alive1');

	wait_delivered($clusters, $wanted, 'alive1');
	my $cpu = cpu_of_worker($clusters, $worker);
	my (undef, $end) = check_delivered($clusters, $count, 'alive1');
	return ($count / ($end - $start), $cpu / $count * 1e6);
}

# Producers at full speed: from the first notification until all are delivered.
sub flow
{
	my ($clusters, $setting) = @_;
	my $count = PRODUCERS * int($setting->{notifications} / PRODUCERS);

	clear($clusters);
	my $wanted = delivered($clusters) + $count;
	my $worker = $clusters->worker('bank1');

	$clusters->pgbench('bank1', script => 'notify_dtx', clients => PRODUCERS, mode => 'prepared', transactions => $count / PRODUCERS);
	wait_delivered($clusters, $wanted, 'alive1');
	my $cpu = cpu_of_worker($clusters, $worker);
	my ($start, $end) = check_delivered($clusters, $count, 'alive1');
	return ($count / ($end - $start), $cpu / $count * 1e6);
}

# The producers alone, as fast as they can: the endpoint is stopped.
sub producers
{
	my ($clusters, $setting) = @_;

	clear($clusters);
	disable($clusters, 'alive1');
	my $run = $clusters->pgbench('bank1', script => 'notify_dtx', clients => PRODUCERS, mode => 'prepared',
		transactions => int($setting->{notifications} / PRODUCERS));

	$clusters->psql('bank1', 'TRUNCATE dtx.notification');
	enable($clusters, 'alive1');
	return ($run->{tps}, undef);
}

# ---- what endpoints that hang cost

sub others
{
	my ($variant) = @_;
	return $variant eq 'hanging' ? map { "hanging$_" } 1 .. HANGING
	  : $variant eq 'alive' ? map { "alive$_" } LIVING + 1 .. Bench::Endpoints::ALIVE : ();
}

# The same number for each endpoint, all due at once: the time until those of the living ones are delivered.
sub living
{
	my ($clusters, $results, $setting, $endpoints, $variant, $round) = @_;
	my @living  = map { "alive$_" } 1 .. LIVING;
	my @servers = (@living, others($variant));
	my $each    = int($setting->{notifications_hanging} / (LIVING + HANGING));

	clear($clusters, $endpoints);
	disable($clusters, @servers);
	$clusters->psql('bank1', sprintf('SELECT notify_all(%s, %d)', list(@servers), $each));
	my $wanted = delivered($clusters) + LIVING * $each;
	my $start  = enable($clusters, @servers);

	wait_delivered($clusters, $wanted, @living);
	my (undef, $end, $more) = check_delivered($clusters, LIVING * $each, @living);

	disable($clusters, others('hanging'));
	$endpoints->close_hanging;
	return if $round == 0;
	$results->set('notify/living_of', LIVING * $each);
	$results->add("notify/living/$variant", $end - $start);
	$results->add("notify/living_more/$variant", $more);
	$setting->{say}->('round %d, %d to %d endpoints, beside ten others: %-8s %6.2f s, %d attempts failed', $round, LIVING * $each, LIVING,
		$variant, $end - $start, $more);
}

# Notifications, messages and transfers at a low rate, while endpoints hang or nothing else goes on.
sub beside
{
	my ($clusters, $results, $setting, $endpoints, $variant, $round) = @_;
	my $seconds = $round == 0 ? $setting->{warm_up} : $setting->{seconds};
	my $count   = RATE * $seconds;
	my %latency;

	clear($clusters, $endpoints);
	if ($variant eq 'hanging')
	{
		$clusters->psql('bank1', sprintf('SELECT notify_all(%s, 100)', list(others($variant))));
		enable($clusters, others($variant));
	}
	my $wanted    = delivered($clusters) + $count;
	my $consumer  = Bench::Messages::start_consumer($clusters, 'dtx', $count);
	my $transfers = $clusters->psql_start('bank1', sprintf("CALL settle_transfers('%d s', '%s')", $seconds, PAUSE));
	my @producers = map { $clusters->pgbench_start('bank1', script => $_, clients => PRODUCERS, mode => 'prepared',
		transactions => $count / PRODUCERS, rate => RATE) } qw(notify_dtx publish_dtx);

	$clusters->pgbench_wait($_) for @producers;
	$clusters->psql_wait($transfers);
	$clusters->psql_wait($consumer);
	wait_delivered($clusters, $wanted, 'alive1');
	if ($variant eq 'hanging')
	{
		my $hanging = $clusters->psql('bank1', 'SELECT count(DISTINCT server) FROM dtx.notification WHERE called_at IS NOT NULL');

		die "bench: $hanging endpoints hang, not " . HANGING . "\n" if $hanging < HANGING / 2;
		disable($clusters, others($variant));
		$endpoints->close_hanging;
	}
	check_delivered($clusters, $count, 'alive1');
	Bench::Messages::check_handled($clusters, 'dtx', $count);
	$latency{notification} = percentiles($clusters, 'bank1',
		"SELECT extract(epoch FROM changed_at - notified_at) * 1000.0 FROM dtx.notification WHERE state = 'd'");
	$latency{message} = percentiles($clusters, 'bank2',
		"SELECT extract(epoch FROM handled_at - (payload->>'at')::timestamptz) * 1000.0 FROM handled");
	$latency{transfer} = percentiles($clusters, 'bank1', 'SELECT ms FROM settling');

	return if $round == 0;
	for my $what (sort keys %latency)
	{
		my @ms = @{ $latency{$what} };

		$results->add("notify/beside/$variant/$what/" . (qw(p50 p99 max))[$_], $ms[$_]) for 0 .. 2;
		$setting->{say}->('round %d, beside %-8s %-12s p50 %7.2f ms, p99 %7.2f ms, max %7.2f ms', $round, "$variant:", $what, @ms);
	}
}

sub percentiles
{
	my ($clusters, $bank, $query) = @_;
	return [ split /\|/, $clusters->psql($bank, 'SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), '
		  . "percentile_cont(0.99) WITHIN GROUP (ORDER BY ms), max(ms) FROM ($query) l (ms)") ];
}

1;
