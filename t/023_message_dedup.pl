# What the receiver of messages may forget: nothing that comes again after the
# sender has crashed, however much is delivered in between.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Messages;

my ($bank1, $bank2) = two_banks(conf => "wal_writer_delay = '1ms'\n");
define_messages($_) foreach $bank1, $bank2;
$bank1->safe_psql('bank1', <<'SQL');
ALTER TABLE published ADD PRIMARY KEY (id);
SELECT dtx_attach('published');
SELECT dtx_subscribe('one', 'bank2', 'handle', name => 'one', batch_size => 1, schedule => '{1s}');
SELECT dtx_subscribe('many', 'bank2', 'handle', name => 'many', batch_size => 50, schedule => '{1s}');
SELECT dtx_subscribe('late', 'bank2', 'handle', name => 'late');
SQL

# from here on a position is written for messages only
ok(wait_for_value($bank1, 'SELECT count(*) FROM dtx.position', '3'), 'all subscriptions have a position');

sub set_in_file
{
	my ($node, @settings) = @_;
	my $path = $node->data_dir . '/test.conf';
	open my $file, '>', $path or die "$path: $!";
	print $file "$_\n" foreach @settings;
	close $file;
	return;
}

# --- what was handled, and not written down, comes in other batches

foreach my $topic (qw(one many))
{
	value($bank1, "SELECT publish('$topic', '{\"fail\": 1}')");
	ok(wait_for_value($bank1, "SELECT retrying FROM dtx_subscriptions WHERE name = '$topic'", '1'), 'a message waits to be tried again');
	my $due = value($bank1, 'SELECT max(next_attempt) FROM dtx.undelivered');
	my $s = session($bank1);
	$s->must('BEGIN', "SELECT count(publish('$topic')) FROM generate_series(1, 500)");
	set_in_file($bank1, q{dtx.fault_point = 'dispatch-before-save:kill'});
	$bank1->reload;
	wait_until(sub { forget_sessions(); value($bank1, 'SHOW dtx.fault_point') ne '' }, 'the setting is in force');
	# the worker may die before this is answered
	$s->run('COMMIT');
	wait_down($bank1);
	$s->close;
	cmp_ok(value($bank2, "SELECT count(*) FROM handled WHERE topic = '$topic'"), '>', 10, 'the sender is killed before it has noted what was handled');
	wait_for_value($bank2, "SELECT clock_timestamp() > '$due'", 't');
	set_in_file($bank1);
	$bank1->start;
	is(handled_once($bank1, $bank2, $topic), '', "all is handled once, with what is tried again in between, batches of $topic");
}

# --- what enters the log later than it did before

set_in_file($bank1, q{wal_writer_delay = '10s'});
$bank1->reload;
my $held = session($bank2);
$held->must('BEGIN', q{SELECT * FROM dtx_query('bank1', $$SELECT publish('late')::text$$) AS t(id text)});
$held->must('COMMIT');
ok(wait_for_value($bank2, q{SELECT count(*) FROM handled WHERE topic = 'late'}, '1'), 'a message of a branch is handled');
$bank1->stop('immediate');
my $lock = session($bank2);
$lock->must('SELECT pg_advisory_lock(1685353504, 1)');
set_in_file($bank2, q{dtx.fault_point = 'worker-before-settle:wait'});
$bank2->reload;
wait_until(sub { forget_sessions(); value($bank2, 'SHOW dtx.fault_point') eq 'worker-before-settle:wait' }, 'the setting is in force');
$bank1->start;
my $in_doubt = value($bank1, q{SELECT count(*) FROM dtx_branches WHERE state = 'in doubt'});
note("branches in doubt after the crash: $in_doubt");
foreach my $round (1 .. 5)
{
	value($bank1, q{SELECT publish('late')});
	wait_for_value($bank2, q{SELECT count(*) FROM handled WHERE topic = 'late'}, 1 + $round);
	value($bank1, 'SELECT 1 FROM pg_sleep(0.2)');
}
set_in_file($bank2);
$bank2->reload;
$lock->must('SELECT pg_advisory_unlock(1685353504, 1)');
ok(settled($bank1, $bank2), 'the branch is settled');
is(handled_once($bank1, $bank2, 'late'), '', 'its message is handled once');
$_->close foreach $held, $lock;

done_testing();
