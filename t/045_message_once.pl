# Moments in which messages could be handled twice, each made to last: a transaction
# that is being prepared, a receiver that forgets, a transaction that moves a
# subscription and stays open, a process that ends just after its commit.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Messages;

my ($bank1, $bank2) = two_banks(
	streaming => 1,
	conf => <<'CONF');
max_prepared_transactions = 10
max_worker_processes = 16
dtx.worker_idle_timeout = '10min'
CONF
define_messages($_) foreach $bank1, $bank2;
$bank1->safe_psql('bank1', <<'SQL');
CREATE TABLE probe (i integer);
SELECT dtx_subscribe('remote', 'bank2', 'handle', name => 'remote');
SELECT dtx_subscribe('local', NULL, 'handle', name => 'local');
SQL

sub set_in_file
{
	my ($node, @settings) = @_;
	my $path = $node->data_dir . '/test.conf';
	open my $file, '>', $path or die "$path: $!";
	print $file "$_\n" foreach @settings;
	close $file;
	return;
}

# In force for all processes that are told from here on.
sub set_and_reload
{
	my ($node, $name, $value) = @_;
	set_in_file($node, "$name = '$value'");
	$node->reload;
	wait_until(sub { forget_sessions(); (value($node, "SHOW $name") // '') eq $value }, "$name is in force");
	return;
}

# --- a transaction that is being prepared: it is among the running ones twice

value($bank1, q{SELECT publish('remote'), publish('local')});
is(handled_once($bank1, $bank2, 'remote'), '', 'messages are delivered');
is(handled_once($bank1, $bank1, 'local'), '', 'local ones too');

# PREPARE waits for a standby that is not there, after it was entered as prepared and
# before it has left the array of processes
my $waits = q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND };
set_and_reload($bank1, 'synchronous_standby_names', 'nobody');
my $probe = session($bank1);
ok( wait_until(
		sub {
			return 1 if value($bank1, $waits . 'pid = ' . $probe->backend) == 1;
			$probe->wait if defined $probe->{marker} && !$probe->busy;
			$probe->send('INSERT INTO probe VALUES (1)') unless defined $probe->{marker};
			return 0;
		},
		'a commit waits'),
	'commits wait for a standby');
my $s = session($bank1);
$s->must('BEGIN', q{SELECT publish('remote'), publish('local') FROM generate_series(1, 2)});
my $xid = $s->must('SELECT pg_current_xact_id()');
$s->send(q{PREPARE TRANSACTION 'by hand'});
ok(wait_for_value($bank1, $waits . 'pid = ' . $s->backend, '1'), 'a transaction is being prepared');
# others begin and end meanwhile
value($bank1, 'BEGIN; SELECT pg_current_xact_id(); ROLLBACK');
# the worker waits when it has looked
my $lock = session($bank1);
$lock->must('SELECT pg_advisory_lock(1685353504, 1)');
my @settings = (q{synchronous_standby_names = 'nobody'}, q{dtx.fault_point = 'dispatch-after-read:wait'});
set_in_file($bank1, @settings);
$bank1->reload;
ok(wait_for_value($bank1, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}, '1'),
	'messages to the peer are looked for in that moment');
# the other process when it writes down that it has, as it does twice in this time
set_in_file($bank1, @settings, q{dtx.message_retention = '1s'});
ok( wait_until(
		sub {
			$bank1->reload;
			return value($bank1, $waits . q{backend_type = 'dtx runner'}) == 1;
		},
		'the log is read'),
	'local ones too');
set_and_reload($bank1, 'synchronous_standby_names', '');
$lock->must('SELECT pg_advisory_unlock_all()');
$s->wait;
$probe->wait if defined $probe->{marker};
$s->must(q{COMMIT PREPARED 'by hand'});
is(handled_once($bank1, $bank2, 'remote'), '', 'what was prepared then is handled once');
is(handled_once($bank1, $bank1, 'local'), '', 'also in this database');
$_->close foreach $s, $probe, $lock;

# --- a receiver that has forgotten, while the sender was down with what it had not noted

foreach my $what ([ 'failed', 'dispatch-before-record', q{publish('failed'), publish('failed', '{"fail": 1}')}, 1 ],
	[ 'done', 'dispatch-before-save', q{publish('done'), publish('done')}, 2 ])
{
	my ($topic, $point, $publish, $handled) = @$what;
	value($bank1, qq{SELECT dtx_subscribe('$topic', 'bank2', 'handle', name => '$topic', batch_size => 1, schedule => '{1h}')});
	ok(wait_for_value($bank1, qq{SELECT count(*) FROM dtx.position p JOIN dtx.subscription s ON s.id = p.subscription WHERE s.name = '$topic'}, '1'),
		"$topic: the subscription has a position");
	my $uid = value($bank1, qq{SELECT uid FROM dtx.subscription WHERE name = '$topic'});
	set_in_file($bank1, q{wal_writer_delay = '10s'}, "dtx.fault_point = '$point:stop'");
	$bank1->reload;
	# other subscriptions may run into the point at once
	for my $again (1 .. 5)
	{
		value($bank1, 'SELECT 1');
		last if (value($bank1, qq{SELECT $publish}) // '') ne '';
		revive($bank1);
	}
	wait_down($bank1);
	is(value($bank2, qq{SELECT count(*) FROM handled WHERE topic = '$topic'}), $handled, "$topic: the sender goes down when it has not noted what was handled");
	my $last = value($bank2, "SELECT max(batch) FROM dtx.de_duplication WHERE subscription = $uid");
	ok(wait_for_value($bank2, "SELECT bool_and(received_at < clock_timestamp() - interval '1 s') FROM dtx.de_duplication WHERE subscription = $uid", 't'),
		"$topic: time passes");
	set_and_reload($bank2, 'dtx.history_retention', '1s');
	# it forgets when it starts, and once a minute
	my $pid = workers($bank2);
	value($bank2, "SELECT pg_terminate_backend($pid)");
	ok(wait_for_value($bank2, "SELECT string_agg(batch || ' ' || forgotten || ' ' || ids::text, '; ') FROM dtx.de_duplication WHERE subscription = $uid", "$last $last {}"),
		"$topic: the receiver forgets, and knows that it has");
	set_in_file($bank1);
	$bank1->start;
	ok( wait_for_value($bank1, qq{SELECT last_error ~ 'fallen back' FROM dtx_subscriptions WHERE name = '$topic'}, 't'), "$topic: it refuses what comes again");
	is(value($bank2, qq{SELECT count(*) FROM handled WHERE topic = '$topic'}), $handled, "$topic: nothing is handled twice");
	value($bank1, "SELECT dtx_unsubscribe('$topic')");
	set_and_reload($bank2, 'dtx.history_retention', '1d');
}

# --- a process that ends just after its commit: that was no attempt

my $mark = log_mark($bank1);
set_and_reload($bank1, 'dtx.fault_point', 'runner-after-commit:cut');
my $id = value($bank1, q{SELECT publish('local', '{"fail": 1}')});
ok(wait_for_log_line($bank1, qr/fault point "runner-after-commit" reached/, $mark), 'a process ends when it has noted what failed');
ok(wait_for_value($bank1, "SELECT attempt FROM handled WHERE id = $id", '2'), 'the next one calls the handler for the second attempt');
set_in_file($bank1);
$bank1->reload;

foreach my $node ($bank1, $bank2)
{
	unlike(log_since($node), qr/PANIC|TRAP:|terminated by signal/, $node->name . ': no process failed by itself');
}
done_testing();
