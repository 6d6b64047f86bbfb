# A crash at every step that a notification takes: at the notifier, at the database
# that is notified, in the process that asks for what did not come.
#
# For every point of src/core/fault_points.h that is on one of the sides below, and
# every action, results are notified to endpoints and to a database, and asked for, and
# run into it. What went down is started again; then whatever a committed transaction
# notified must have been delivered: at an endpoint at least once, always with the same
# webhook-id; at a database once. No attempt may have been made that is not counted, and
# nothing that was rolled back may have been told. A point that is not reached fails the
# test. ONLY=pattern runs those scenarios whose names match.

use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Http;

my $list = slurp_file(dirname(__FILE__) . '/../src/core/fault_points.h');
my @sides = qw(notify-sender notify-receiver notify-expect);
my @points;
while ($list =~ /^POINT\("([^"]+)", "([^"]+)", (true|false)\)/mg)
{
	my %point = (name => $1, side => $2, throws => $3 eq 'true');
	push @points, \%point if grep { $_ eq $point{side} } @sides;
}
foreach my $side (@sides)
{
	cmp_ok(scalar(grep { $_->{side} eq $side } @points), '>', 0, "there are points on the side $side");
}
is(join(' ', map { $_->{name} } grep { !$_->{throws} } @points), '', 'an ERROR can be raised at all of them');

my %actions = (
	'notify-sender' => [qw(error kill stop)],
	'notify-receiver' => [qw(error kill stop cut)],
	'notify-expect' => [qw(error kill stop cut)]);

my ($bank1, $bank2) = two_banks();
my $http = DtxTest::Http->new;
$http->make_endpoint($bank1, 'shop', $http->url('status/204'));
# its answer is lost at first, and then it fails
$http->make_endpoint($bank1, 'bad_shop', $http->url('lost/1'));
$http->make_endpoint($bank1, 'slow_shop', $http->url('fails/1'));
$bank2->safe_psql('bank2', <<'SQL');
CREATE TABLE told (tx_no text NOT NULL, payload jsonb NOT NULL);
CREATE FUNCTION tell(tx_no text, payload jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO told VALUES (tx_no, payload) $$;
SELECT dtx_on_notification('tell');
SQL
# what a committed transaction has notified
$bank1->safe_psql('bank1', <<'SQL');
CREATE TABLE notified (server text, tx_no text NOT NULL);
CREATE FUNCTION notify(server name, tx_no text) RETURNS bigint LANGUAGE sql BEGIN ATOMIC
    INSERT INTO notified VALUES (server, tx_no);
    SELECT dtx_notify(server, tx_no, jsonb_build_object('tx_no', tx_no),
                      CASE WHEN server IS NOT NULL THEN array_fill('30ms'::interval, '{2000}') END);
END;
SQL

# --- arming and disarming

sub set_in_file
{
	my ($node, $setting) = @_;
	my $path = $node->data_dir . '/test.conf';
	open my $file, '>', $path or die "$path: $!";
	print $file "dtx.fault_point = '$setting'\n";
	close $file;
	return;
}

# A point of a process of dtx's own, at a node: it may be run into at once.
sub arm_cluster
{
	my ($node, $setting, $reached) = @_;
	set_in_file($node, $setting);
	$node->reload;
	wait_until(
		sub {
			forget_sessions();
			return $reached->() || (value($node, 'SHOW dtx.fault_point') // '') eq $setting;
		},
		'the setting is in force');
	return;
}

# --- a scenario

my $rounds = 0;

# The client may be lost on the way.
sub notify_all
{
	my ($round, $side) = @_;
	my $s = session($bank1, fail_ok => 1) // return;
	my @servers = qw(shop bad_shop slow_shop bank2);
	foreach my $sql (
		'BEGIN',
		(map { "SELECT notify('$_', 'T$round.' || i) FROM generate_series(1, 4) i" } @servers),
		'SAVEPOINT s',
		(map { "SELECT notify('$_', 'T$round.no ' || i) FROM generate_series(1, 2) i" } @servers),
		'ROLLBACK TO s',
		"SELECT notify(NULL, 'T$round.asked ' || i) FROM generate_series(1, 3) i",
		'COMMIT',
		'BEGIN',
		(map { "SELECT notify('$_', 'T$round.never ' || i) FROM generate_series(1, 2) i" } @servers),
		'ROLLBACK')
	{
		last unless $s->run($sql)->{ok};
	}
	$s->close;
	return;
}

sub expect
{
	my ($round) = @_;
	my $s = session($bank2, fail_ok => 1) // return;
	foreach my $what (1 .. 3)
	{
		$s->run("SELECT dtx_expect('bank1', 'T$round.asked $what', '0', array_fill('30ms'::interval, '{2000}'))");
		# it is told, too, at about that time
		$s->run("SELECT dtx_expect('bank1', 'T$round.$what', '0', array_fill('30ms'::interval, '{2000}'))");
	}
	$s->close;
	return;
}

sub was_reached
{
	my ($name, $victim, $mark) = @_;
	return 1 if log_since($victim, $mark) =~ /fault point "\Q$name\E"(: (kill|stop)| reached)/;
	my $errors = $victim->{_pid} && $victim == $bank2 && eval { value($bank2, 'SELECT string_agg(last_error, chr(10)) FROM dtx.expectation') };
	return ($errors || '') =~ /fault point "\Q$name\E" reached/;
}

sub run_into
{
	my ($point, $action, $round) = @_;
	my ($name, $side) = @$point{qw(name side)};
	my $victim = $side eq 'notify-sender' ? $bank1 : $bank2;
	my $mark = log_mark($victim);
	my $is_reached = sub { was_reached($name, $victim, $mark) };

	if ($side eq 'notify-receiver')
	{
		# only connections through the server have it
		$bank1->safe_psql('bank1', "ALTER SERVER bank2 OPTIONS (ADD options '-c dtx.fault_point=$name:$action')");
	}
	else
	{
		arm_cluster($victim, "$name:$action", $is_reached);
	}
	notify_all($round, $side);
	expect($round);
	my $reached = wait_until($is_reached, "$name:$action is reached");

	# disarm first: who comes back runs into the point again
	if ($side eq 'notify-receiver') { $bank1->safe_psql('bank1', 'ALTER SERVER bank2 OPTIONS (DROP options)') }
	else { set_in_file($victim, '') }
	if ($action =~ /^(kill|stop)$/ && $reached) { revive($victim) }
	else { $victim->reload }
	# what the client could not do any more
	expect($round);
	return $reached;
}

# What is wrong with what a round has notified, or an empty string.
sub problems
{
	my ($round) = @_;
	my @problems;
	wait_until(
		sub {
			my $left = eval { value($bank1, "SELECT count(*) FROM dtx_notifications WHERE tx_no LIKE 'T$round.%' AND state NOT IN ('delivered', 'registered')") };
			# what is expected and was never registered cannot come
			my $waiting = eval { value($bank2, "SELECT coalesce(string_agg(tx_no, ','), '') FROM dtx_expectations WHERE tx_no LIKE 'T$round.%' AND state <> 'come'") };
			return 0 unless defined $left && $left eq '0' && defined $waiting;
			return 1 if $waiting eq '';
			return value($bank1, "SELECT count(*) FROM notified WHERE tx_no = ANY (string_to_array('$waiting', ','))") eq '0';
		},
		"all is delivered and has come in round $round")
	  or push @problems, 'not delivered: ' . (value($bank1, "SELECT string_agg(concat_ws(' ', tx_no, server, state, attempts, last_error), '; ') FROM dtx_notifications WHERE tx_no LIKE 'T$round.%' AND state NOT IN ('delivered', 'registered')") // '');

	# what was committed is there, and nothing else
	push @problems, 'not what was committed'
	  if value($bank1, "SELECT count(*) FROM (SELECT server::text, tx_no FROM dtx_notifications) n FULL JOIN notified c USING (tx_no)
		WHERE tx_no LIKE 'T$round.%' AND (n.tx_no IS NULL OR c.tx_no IS NULL)") ne '0';

	# at the database: once
	my %told;
	$told{$_}++ foreach split /,/, value($bank2, "SELECT string_agg(tx_no, ',') FROM told WHERE tx_no LIKE 'T$round.%'") // '';
	my %should = map { $_ => 1 } split /,/, value($bank1, "SELECT string_agg(tx_no, ',') FROM notified WHERE tx_no LIKE 'T$round.%' AND coalesce(server, 'bank2') = 'bank2'") // '';
	push @problems, "told $told{$_} times: $_" foreach grep { $told{$_} != 1 } keys %told;
	push @problems, "never told: $_" foreach grep { !$told{$_} } keys %should;
	push @problems, "told, but never notified: $_" foreach grep { !$should{$_} } keys %told;

	# at the endpoints: at least once, with the same id, and every attempt counted
	my %requests;
	my $origin = value($bank1, q{SELECT name || ':' || tag FROM dtx.node});
	foreach my $request ($http->requests(qr/:T$round%2E/))
	{
		my $tx_no = JSON::PP::decode_json($request->{body})->{tx_no};
		(my $id = "$origin:$tx_no") =~ s/([ .])/sprintf '%%%02X', ord $1/ge;
		push @problems, "another webhook-id: $request->{headers}{'webhook-id'}" if $request->{headers}{'webhook-id'} ne $id;
		$requests{ { '/status/204' => 'shop', '/lost/1' => 'bad_shop', '/fails/1' => 'slow_shop' }->{ $request->{url} } . " $tx_no" }++;
	}
	foreach my $row (split /\n/, value($bank1, "SELECT string_agg(server || '|' || tx_no || '|' || attempts, chr(10)) FROM dtx_notifications
		WHERE tx_no LIKE 'T$round.%' AND server LIKE '%shop'") // '')
	{
		my ($server, $tx_no, $attempts) = split /\|/, $row;
		my $made = delete $requests{"$server $tx_no"} // 0;
		push @problems, "$server never got $tx_no" if $made == 0;
		# a request that is lost on a connection which was kept is sent again in the same attempt
		push @problems, "$server got $tx_no $made times in $attempts attempts" if $made > $attempts + ($server eq 'bad_shop' ? 1 : 0);
	}
	push @problems, "requests for what was never notified: $_" foreach keys %requests;
	return join "\n", @problems;
}

foreach my $point (@points)
{
	foreach my $action (@{ $actions{ $point->{side} } })
	{
		my $what = "$point->{name}:$action";
		next if $ENV{ONLY} && $what !~ /$ENV{ONLY}/;
		my $round = ++$rounds;
		my $reached = run_into($point, $action, $round);
		# it may have been reached before anything was committed
		if ($reached && value($bank1, "SELECT count(*) FROM notified WHERE tx_no LIKE 'T$round.%'") eq '0')
		{
			notify_all($round, $point->{side});
			expect($round);
		}
		my $problems = problems($round);
		$problems .= "\nthe point was not reached" unless $reached;
		is($problems, '', $what);
		# a process that died in the middle of attempts had them counted before
		if ($action eq 'kill' && $point->{name} eq 'notify-after-answer')
		{
			cmp_ok(value($bank1, "SELECT max(attempts) FROM dtx_notifications WHERE tx_no LIKE 'T$round.%' AND server = 'shop'"), '>', 1,
				"$what: the attempt whose answer was lost is counted, and there was another one");
		}
	}
}

# a target that is stopped while the worker has already seen that there is something for it
SKIP:
{
	skip 'not all scenarios are run', 3 if $ENV{ONLY};
	my $s = session($bank1);
	my $gate = session($bank1);
	my $attempts = q{SELECT sum(attempts) FROM dtx_notifications WHERE tx_no LIKE 'before the stop %'};
	$gate->must('SELECT pg_advisory_lock(1685353504, 1)');
	set_in_file($bank1, 'notify-before-claim:wait');
	$bank1->reload;
	wait_until(sub { forget_sessions(); value($bank1, 'SHOW dtx.fault_point') ne '' }, 'the setting is in force');
	# the worker may have yet to hear of that
	my $n = 0;
	ok(wait_until(sub {
				$s->must("SELECT notify('shop', 'before the stop $n')");
				$n++;
				value($bank1, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted}) > 0;
			}, 'the worker waits'),
		'the worker is about to claim');
	$s->must(q{SELECT dtx_target_disable('shop')});
	my $made = value($bank1, $attempts);
	set_in_file($bank1, '');
	$bank1->reload;
	$gate->close;
	$s->must(q{SELECT notify('slow_shop', 'after the stop')});
	ok(wait_for_value($bank1, q{SELECT state FROM dtx_notifications WHERE tx_no = 'after the stop'}, 'delivered'), 'it goes on');
	is(value($bank1, $attempts), $made, 'no attempt is made after that');
	$s->must(q{SELECT dtx_target_enable('shop')});
	$s->close;
}

# one that ends the process whenever it is sent: its attempts come to an end
SKIP:
{
	skip 'not all scenarios are run', 2 if $ENV{ONLY};
	my $s = session($bank1);
	foreach my $attempt (1 .. 5)
	{
		my $mark = log_mark($bank1);
		set_in_file($bank1, 'notify-after-claim:kill');
		if ($attempt == 1)
		{
			$bank1->reload;
			wait_until(sub { forget_sessions(); value($bank1, 'SHOW dtx.fault_point') ne '' }, 'the setting is in force');
			$s->run(q{SELECT dtx_notify('shop', 'deadly', '{}', '{1ms}')});
			$s->close;
		}
		else
		{
			# which may be killed before it is up
			$bank1->start(fail_ok => 1);
		}
		wait_until(sub { log_since($bank1, $mark) =~ /fault point "notify-after-claim": kill/ }, "attempt $attempt is killed");
		wait_down($bank1);
	}
	set_in_file($bank1, '');
	revive($bank1);
	forget_sessions();
	ok(wait_for_value($bank1, q{SELECT state || ', ' || last_error FROM dtx_notifications WHERE tx_no = 'deadly'},
			'exhausted, what came of the last attempts is not known'),
		'attempts that end the process are not made for ever');
	is(scalar($http->requests(qr/:deadly$/)), 0, 'none of them was sent');
}

done_testing();
