# A crash at every step that a message takes: at the sender, at the receiver, in
# the process that handles messages within a database, while segments of the log
# come and go, while half messages are checked.
#
# For every point of src/core/fault_points.h that is on one of the sides below,
# and every action, messages are published and run into it. What went down is
# started again; then each message that a committed transaction published must
# have been handled once, and no other, and nothing may be left to be delivered.
# A point that is not reached fails the test. ONLY=pattern runs those scenarios
# whose names match.

use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use DtxTest;
use DtxTest::Messages;

my $list = slurp_file(dirname(__FILE__) . '/../src/core/fault_points.h');
my @sides = qw(message-sender message-receiver message-local message-segment message-check);
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
is(join(' ', map { $_->{name} } grep { !$_->{throws} } @points), '', 'an ERROR can be raised at all of them');

# In the worker an error ends the process, and so does a cut connection.
my %actions = (
	(map { $_ => [qw(error kill stop)] } qw(message-sender message-segment)),
	(map { $_ => [qw(error kill stop cut)] } qw(message-receiver message-local message-check)));
my $give_up_after = 4;		# scenarios that leave something behind

my ($bank1, $bank2);
my $pairs = 0;
my $failures = 0;

sub new_pair
{
	forget_sessions();
	foreach my $node (grep { defined } $bank1, $bank2)
	{
		$node->stop('immediate', fail_ok => 1);
	}
	# segments are full as soon as there is something in them, and are kept no longer than needed
	($bank1, $bank2) = two_banks(
		conf => "dtx.message_retention = 0\ndtx.message_check_interval = '50ms'\ndtx.message_check_attempts = 100000\n",
		$pairs++ ? (label => $pairs) : ());
	define_messages($_) foreach $bank1, $bank2;
	$bank1->safe_psql('bank1', <<'SQL');
SELECT dtx_subscribe('there', 'bank2', 'handle', name => 'there', batch_size => 7, schedule => '{30ms}');
SELECT dtx_subscribe('there.keys', 'bank2', 'handle', name => 'keys', ordered => true, batch_size => 7, schedule => '{30ms}');
SELECT dtx_subscribe('here', NULL, 'handle', name => 'here', batch_size => 7, schedule => '{30ms}');
SELECT dtx_subscribe('here.keys', NULL, 'handle', name => 'here keys', ordered => true, batch_size => 7, schedule => '{30ms}');
-- what it says to a half message is in the payload, one answer for each time
CREATE TABLE answer (id bigint NOT NULL, answers text[] NOT NULL);
CREATE SEQUENCE asked;
CREATE FUNCTION check_half(id bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    PERFORM nextval('asked');
    UPDATE answer a SET answers = a.answers[2:] WHERE a.id = check_half.id AND cardinality(a.answers) > 1
        RETURNING (SELECT o.answers[1] FROM answer o WHERE o.id = a.id) INTO answer;
    answer := coalesce(answer, (SELECT a.answers[1] FROM answer a WHERE a.id = check_half.id));
    IF answer = 'commit' THEN
        INSERT INTO published VALUES (id, 'there', NULL);
    END IF;
    RETURN answer;
END $$;
CREATE FUNCTION prepare_half(VARIADIC answers text[]) RETURNS void LANGUAGE sql BEGIN ATOMIC
    INSERT INTO answer SELECT dtx_message_prepare('there', '{}', "check" => 'check_half(bigint)'), answers;
END;
SQL
	return;
}

# --- arming and disarming

# Points of the receiver: only connections through the server have it.
sub arm_server
{
	my ($setting) = @_;
	$bank1->safe_psql('bank1', "ALTER SERVER bank2 OPTIONS (ADD options '-c dtx.fault_point=$setting')");
	return;
}

sub disarm_server
{
	$bank1->safe_psql('bank1', 'ALTER SERVER bank2 OPTIONS (DROP options)');
	return;
}

# All others: a setting of the cluster, that only processes of dtx run into.
sub set_in_file
{
	my ($setting) = @_;
	my $path = $bank1->data_dir . '/test.conf';
	open my $file, '>', $path or die "$path: $!";
	print $file "dtx.fault_point = '$setting'\n";
	close $file;
	return;
}

# It may be run into at once.
sub arm_cluster
{
	my ($setting, $reached) = @_;
	set_in_file($setting);
	$bank1->reload;
	# who is connected after the postmaster's own reload comes after all signals
	wait_until(
		sub {
			forget_sessions();
			return $reached->() || (value($bank1, 'SHOW dtx.fault_point') // '') eq $setting;
		},
		'the setting is in force');
	return;
}

# --- a scenario

# What is published: some messages fail at first, some are taken back, some come
# later, others wait for their predecessors. The client may be lost on the way.
my %workloads = (
	'message-sender' => [ "SELECT publish_some('there', 20)", "SELECT publish_some('there.keys', 10)" ],
	'message-local' => [ "SELECT publish_some('here', 20)", "SELECT publish_some('here.keys', 10)" ],
	'message-check' => [
		"SELECT prepare_half('commit'), prepare_half('unknown', 'commit'), prepare_half('rollback'),"
		  . " prepare_half('nonsense', 'rollback'), prepare_half('unknown', 'unknown', 'commit')" ]);
$workloads{'message-receiver'} = $workloads{'message-sender'};
$workloads{'message-segment'} = $workloads{'message-sender'};

sub publish
{
	my ($side) = @_;
	my $s = session($bank1, fail_ok => 1) // return;
	my $topic = $side eq 'message-local' ? 'here' : 'there';
	my @statements = (
		"SET dtx.message_check_first = 0",
		'BEGIN',
		$workloads{$side}[0],
		'SAVEPOINT s',
		"SELECT publish_some('$topic', 5)",
		'ROLLBACK TO s',
		"SELECT publish('$topic', deliver_at => now() + interval '100ms')",
		'COMMIT',
		'BEGIN',
		"SELECT publish_some('$topic', 5)",
		'ROLLBACK',
		@{ $workloads{$side} }[ 1 .. $#{ $workloads{$side} } ],
		"SELECT publish('$topic')");
	foreach my $sql (@statements)
	{
		my $r = $s->run($sql);
		next if $r->{ok};
		note("$sql: $r->{err}");
		last;
	}
	$s->close;
	return;
}

# Has the point been reached? What ends a transaction of a runner stands in the
# position.
sub was_reached
{
	my ($name, $victim, $mark) = @_;
	return 1 if log_since($victim, $mark) =~ /fault point "\Q$name\E"(: (kill|stop)| reached)/;
	my $errors = $victim->{_pid} && eval { value($bank1, 'SELECT string_agg(last_error, chr(10)) FROM (SELECT last_error FROM dtx.position UNION ALL SELECT last_error FROM dtx.half_message) e') };
	return ($errors || '') =~ /fault point "\Q$name\E" reached/;
}

# Publish, with the point armed, and have up again what that brings down. Returns
# whether the point was reached.
sub run_into
{
	my ($point, $action) = @_;
	my ($name, $side) = @$point{qw(name side)};
	my $victim = $side eq 'message-receiver' ? $bank2 : $bank1;
	my $mark = log_mark($victim);
	my $is_reached = sub { was_reached($name, $victim, $mark) };

	if ($victim == $bank2) { arm_server("$name:$action") }
	else { arm_cluster("$name:$action", $is_reached) }
	publish($side);
	my $published = time();
	my $reached = wait_until(
		sub {
			return 1 if $is_reached->();
			# a segment is full when there is something in it, and goes when all have passed it
			if ($side eq 'message-segment' && time() > $published + 2.5)
			{
				eval { value($bank1, 'SELECT publish(topic) FROM dtx.subscription') };
				$published = time();
			}
			return 0;
		},
		"$name:$action is reached");

	# disarm first: who comes back runs into the point again
	if ($victim == $bank2) { disarm_server() }
	else { set_in_file('') }
	if ($action =~ /^(kill|stop)$/ && $reached) { revive($victim) }
	else { $victim->reload }
	return $reached;
}

sub run_scenario
{
	my ($point, $action) = @_;
	my $what = "$point->{name}:$action";
	return if $ENV{ONLY} && $what !~ /$ENV{ONLY}/;
	my $count = 'SELECT count(*) FROM published';
	my $before = value($bank1, $count);
	my ($reached, @problems);

	# a position may be written, or a segment dropped, before anything is published
	foreach (1 .. 5)
	{
		$reached = run_into($point, $action);
		last if !$reached || value($bank1, $count) > $before;
	}
	push @problems, 'the point was not reached' unless $reached;
	push @problems, 'nothing was published' if value($bank1, $count) <= $before;
	foreach my $topic ([ 'there.*', $bank2 ], [ 'here.*', $bank1 ])
	{
		my $wrong = handled_once($bank1, $topic->[1], $topic->[0]);
		push @problems, "$topic->[0]: $wrong" if $wrong ne '';
	}
	foreach my $topic ([ 'there.keys', $bank2 ], [ 'here.keys', $bank1 ])
	{
		my $wrong = out_of_order($topic->[1], $topic->[0]);
		push @problems, "$topic->[0] out of order: $wrong" if $wrong ne '';
	}

	ok(!@problems, $what) or diag join "\n", @problems;
	if (@problems)
	{
		$failures++;
		new_pair();
	}
	return;
}

new_pair();
SCENARIO: foreach my $point (@points)
{
	foreach my $action (@{ $actions{ $point->{side} } })
	{
		run_scenario($point, $action);
		last SCENARIO if $failures == $give_up_after;
	}
}
is($failures, 0, 'nothing went wrong so often as to give up');

# --- what all that has left

SKIP:
{
	skip 'not all scenarios were run', 4 if $ENV{ONLY} || $failures;
	is(value($bank1, 'SELECT count(*) FROM answer a WHERE cardinality(answers) <> 1'), '0',
		'each half message was asked about until the answer was final');
	is(value($bank1, q{SELECT bool_and((answers = '{commit}') = EXISTS (SELECT FROM published p WHERE p.id = a.id)) FROM answer a}),
		't', 'and was sent when that was commit, and not when it was rollback');
	ok(few_rows_left($bank1, $bank2, 4, 'there', 'there.keys'), 'few batches are remembered at the receiver');
	ok(wait_for_value($bank1, 'SELECT count(*) <= 2 FROM dtx.message_segment', 't'), 'few segments are left of the log');
}

done_testing();
