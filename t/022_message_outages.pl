# Messages while clusters, processes and connections come and go: stops in the
# middle of a flow of thousands, a receiver that is down while the log turns over,
# transactions that stay open, replay, copies of databases, few process slots.
#
# What is published by a committed transaction is handled once, whatever happens;
# the log is dropped in whole segments, and nobody who publishes waits for that.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Messages;

my ($bank1, $bank2) = two_banks(conf => <<'CONF');
dtx.message_segment_size = '64kB'
dtx.message_retention = '1h'
dtx.worker_idle_timeout = '2s'
log_lock_waits = on
deadlock_timeout = '1ms'
CONF
define_messages($_) foreach $bank1, $bank2;

sub subscribe
{
	my ($topic, $server, $more) = @_;
	$server = defined $server ? "'$server'" : 'NULL';
	value($bank1, "SELECT dtx_subscribe('$topic', $server, 'handle', name => '$topic', schedule => '{30ms}', batch_size => 20"
		  . (defined $more ? ", $more" : '') . ')');
	return;
}

sub set_retention
{
	my ($retention) = @_;
	append_to_file($bank1->data_dir . '/test.conf', "dtx.message_retention = '$retention'\n");
	$bank1->reload;
	return;
}

sub up_again
{
	my (@nodes) = @_;
	$_->start foreach @nodes;
	foreach my $node (@nodes)
	{
		wait_until(sub { defined value($node, 'SELECT 1') }, $node->name . ' is up');
	}
	return;
}

sub is_handled_once
{
	my ($topic, $what, %options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(handled_once($bank1, $options{to} // $bank2, $topic, %options), '', $what);
	return;
}

# Wait until nothing of a subscription is on its way.
sub is_quiet
{
	my ($name) = @_;
	return wait_for_value($bank1, "SELECT lag + retrying FROM dtx_subscriptions WHERE name = '$name'", '0');
}

sub count_handled
{
	my ($topic, $node) = @_;
	return eval { value($node // $bank2, "SELECT count(*) FROM handled WHERE topic = '$topic'") } // 0;
}

# The process id of a backend, once there is one like that.
sub pid_where
{
	my ($node, $condition) = @_;
	my $pid;
	wait_until(
		sub {
			$pid = value($node, "SELECT pid FROM pg_stat_activity WHERE $condition LIMIT 1");
			return $pid;
		},
		$condition);
	return $pid;
}

sub end_process
{
	my ($node, $condition) = @_;
	my $pid = pid_where($node, $condition) || return 0;
	value($node, "SELECT pg_terminate_backend($pid)");
	return wait_for_value($node, "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid", '0');
}

my $in_call = q{application_name = 'dtx' AND wait_event = 'PgSleep'};
my $worker = q{backend_type = 'dtx worker' AND datname = current_database()};
my $runner = q{backend_type = 'dtx runner' AND datname = current_database()};

# Publishers in the background.
my @publishers;

sub keep_publishing
{
	my ($topic, $payload) = @_;
	foreach my $i (0, 1)
	{
		next if defined $publishers[$i] && $publishers[$i]->busy;
		$publishers[$i] = session($bank1, application => 'publisher');
		$publishers[$i]->send("CALL publish_each('$topic', 1000000, '" . ($payload // '{}') . q{')});
	}
	return;
}

sub stop_publishing
{
	value($bank1, q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'publisher'});
	wait_for_value($bank1, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'publisher'}, '0');
	@publishers = ();
	return;
}

subscribe($_, 'bank2') foreach qw(flow cut replay late held);
subscribe('local');

# --- thousands of messages on their way

my %interruptions = (
	'1: the receiver is stopped' => sub { crash($bank2); up_again($bank2) },
	'2: the sender is stopped' => sub { crash($bank1); up_again($bank1) },
	'3: both are stopped' => sub { crash($_) foreach $bank1, $bank2; up_again($bank2, $bank1) },
	'4: the connection is cut' => sub { end_process($bank2, q{application_name = 'dtx'}) },
	'5: the worker is ended' => sub { end_process($bank1, $worker) },
	'6: the call is cancelled' => sub {
		value($bank2, q{SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE application_name = 'dtx'});
	});
foreach my $what (sort keys %interruptions)
{
	keep_publishing('flow');
	my $some = count_handled('flow') + 300;
	ok(wait_until(sub { count_handled('flow') > $some }, 'some are handled'), "messages flow; $what");
	$interruptions{$what}->();
}
keep_publishing('flow');
my $some = count_handled('flow') + 300;
ok(wait_until(sub { count_handled('flow') > $some }, 'some are handled'), 'messages flow on');
stop_publishing();
is_handled_once('flow', 'each message of the flow was handled once');
cmp_ok(count_handled('flow'), '>', 2000, 'they were thousands');
ok(few_rows_left($bank1, $bank2, 3, 'flow'), 'few batches are remembered at the receiver');

# --- the middle of a call

foreach my $side ([ $bank2, $in_call, "the receiver's session" ], [ $bank1, $worker, 'the worker' ])
{
	my ($node, $condition, $what) = @$side;
	value($bank1, q{SELECT publish('cut', '{"sleep": 0.3}'), publish('cut'), publish('cut', '{"sleep": 0.1}')});
	pid_where($bank2, $in_call);
	ok(end_process($node, $condition), "$what is ended in the middle of a call");
	is_handled_once('cut', 'the messages are handled once');
}
value($bank1, q{SELECT publish('local', '{"sleep": 0.3}'), publish('local')});
pid_where($bank1, "$runner AND wait_event = 'PgSleep'");
ok(end_process($bank1, $runner), 'the process that handles local messages is ended');
is_handled_once('local', 'they are handled once, with nothing that wakes it', to => $bank1);

# A worker that ends while it can deliver nothing, and is told nothing after that.
$bank2->stop('immediate');
value($bank1, q{SELECT count(publish('cut')) FROM generate_series(1, 10)});
ok(wait_for_value($bank1, q{SELECT state FROM dtx_subscriptions WHERE name = 'cut'}, 'failing'), 'the receiver is down');
ok(end_process($bank1, $worker), 'the worker is ended');
up_again($bank2);
is_handled_once('cut', 'another one delivers what it has left');

# --- a call that comes late

value($bank1, q{SELECT count(publish('cut')) FROM generate_series(1, 5)});
is_handled_once('cut', 'some messages');
my $call = sub {
	my ($generations, $batches) = @_;
	return value($bank1, <<"SQL");
SELECT format('SELECT outcome FROM dtx.deliver(%s, %s, %s, 0, 1000000, false, 10000, ''handle'', ''[[%s, "cut", null, 0, 0, {}]]'')',
              uid, s.generation + $generations, batch + $batches, (SELECT max(id) FROM published WHERE topic = 'cut'))
FROM dtx.subscription s JOIN dtx.position p ON p.subscription = s.id WHERE name = 'cut'
SQL
};
my $uid = value($bank1, q{SELECT uid FROM dtx.subscription WHERE name = 'cut'});
my $last_batch = "SELECT max(batch) FROM dtx.de_duplication WHERE subscription = $uid";
ok(wait_for_value($bank1, q{SELECT batch FROM dtx.position p JOIN dtx.subscription s ON s.id = p.subscription WHERE name = 'cut'},
	value($bank2, $last_batch)), 'the position is written');
my $handled = count_handled('cut');
is(value($bank2, $call->(0, 0)), 'old', 'a copy of the last call is refused');
is(value($bank2, $call->(0, -1)), 'old', 'and of the one before');
$bank2->stop('immediate');
up_again($bank2);
is(value($bank2, $call->(0, 0)), 'old', 'after a crash too');
# one that nothing is known of any more cannot be told from a new one
ok(wait_until(
		sub {
			value($bank1, q{SELECT publish('cut')});
			is_quiet('cut');
			return value($bank2, "SELECT coalesce(max(forgotten), 0) > 0 FROM dtx.de_duplication WHERE subscription = $uid") eq 't';
		},
		'batches are forgotten'),
	'batches are forgotten');
$handled = count_handled('cut');
is(value($bank2, $call->(0, 1)), 'refused', 'a sender that has fallen behind that is refused');
value($bank1, q{SELECT publish('cut', '{"sleep": 0.5}')});
pid_where($bank2, $in_call);
is(value($bank2, $call->(0, 0)), 'busy', 'as long as another connection delivers, it is told so');
is_handled_once('cut', 'what that delivers is handled once');
value($bank1, q{SELECT dtx_seek('cut', 'infinity'::timestamptz)});
value($bank1, q{SELECT publish('cut')});
is_handled_once('cut', 'a new generation');
is(value($bank2, $call->(-1, 1000)), 'old', 'a call of the former generation is refused');
is(count_handled('cut'), $handled + 2, 'none of these calls has handled anything');

# --- replay

value($bank1, q{SELECT count(publish('replay')) FROM generate_series(1, 1000)});
is_handled_once('replay', 'a thousand messages');
value($bank1, q{SELECT dtx_seek('replay', '-infinity'::timestamptz)});
crash($_) foreach $bank1, $bank2;
up_again($bank2, $bank1);
ok(wait_until(sub { count_handled('replay') > 1100 }, 'replay'), 'they are replayed after a crash');
crash($_) foreach $bank2, $bank1;
up_again($bank1, $bank2);
is_handled_once('replay', 'each is handled twice', times => 2);

# --- transactions that stay open on both sides

my @open = map { session($_) } $bank1, $bank2;
$_->must('BEGIN ISOLATION LEVEL REPEATABLE READ', q{INSERT INTO account_info VALUES ('open', 'Open', 0)},
	'SELECT count(*) FROM handled') foreach @open;
$open[0]->must(q{SELECT count(publish('late')) FROM generate_series(1, 50)});
foreach my $round (1 .. 3)
{
	value($bank1, q{SELECT count(publish('held')) FROM generate_series(1, 200)});
	value($bank1, q{SELECT count(publish('local')) FROM generate_series(1, 20)});
	is_handled_once('held', "messages are delivered while transactions are open, round $round");
	is_handled_once('local', 'local ones too', to => $bank1);
}
is(count_handled('late'), 0, 'what is not committed is not handled');
$open[0]->must('COMMIT');
is_handled_once('late', 'what becomes visible late is handled once');
$open[1]->must('COMMIT');
$_->close foreach @open;

# --- a receiver that is down for the whole retention

ok(wait_for_value($bank1, 'SELECT count(*) > 1 FROM dtx.message_segment', 't'), 'segments are kept for the retention');
set_retention('1s');
my $mark = log_mark($bank1);
$bank2->stop('immediate');
keep_publishing('flow', '{"text": "' . join('', map { chr(97 + int rand 26) } 1 .. 200) . '"}');
ok(wait_for_value($bank1, q{SELECT count(*) FILTER (WHERE closed_at < clock_timestamp() - interval '1 s') >= 3
	FROM dtx.message_segment}, 't'), 'the log turns over while the receiver is down');
up_again($bank2);
wait_until(sub { count_handled('flow') > $some + 2000 }, 'messages flow');
stop_publishing();
is_handled_once('flow', 'the receiver gets all of it');
value($bank1, "SELECT count(publish('local')) FROM generate_series(1, 3)");
ok(wait_for_value($bank1, q{SELECT count(publish(topic)) FILTER (WHERE false) + (SELECT count(*) FROM dtx.message_segment) <= 2
	FROM unnest('{flow,local}'::text[]) topic}, 't'), 'the segments are dropped');
is(value($bank1, q{SELECT count(*) <= 2 FROM pg_class WHERE relkind = 'r' AND relname ~ '^message_\d+$'}), 't', 'as tables');

# (but one publisher extends a table at a time, as always)
my $waits = qr/publisher LOG: +process \d+ still waiting for (?!ExclusiveLock on extension)/;
is(join("\n", grep { /$waits/ } split /\n/, log_since($bank1, $mark)), '', 'nobody who publishes has waited for a lock');
my $locker = session($bank1);
$locker->must('BEGIN', 'LOCK TABLE published');
my $waiter = session($bank1, application => 'publisher');
$waiter->send(q{SELECT publish('flow')});
ok(wait_for_log_line($bank1, $waits, $mark), '(this is what that would look like)');
$locker->must('COMMIT');
$waiter->wait;
$_->close foreach $locker, $waiter;

# a subscription that nothing is published for keeps nothing
my $newest = 'SELECT max(segment) FROM dtx.message_segment';
my $segment = value($bank1, $newest);
ok(wait_until(sub { value($bank1, q{SELECT publish('flow')}); value($bank1, $newest) > $segment + 3 }, 'segments'),
	'segments come while nothing is published for local subscriptions');
ok(wait_for_value($bank1, 'SELECT count(*) <= 2 FROM dtx.message_segment', 't'), 'and go');

# --- copies of databases, dumps, and databases that go

sub command_succeeds
{
	my ($sql, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	forget_sessions();
	my ($status, undef, $err) = $bank1->psql('postgres', $sql);
	is($status, 0, $what) or diag $err;
	return;
}

sub busy_runner
{
	my ($database) = @_;
	value($bank1, q{SELECT count(publish('local', '{"sleep": 0.005}')) FROM generate_series(1, 60)}, $database);
	return wait_until(
		sub { value($bank1, "SELECT count(*) FROM pg_stat_activity WHERE $runner AND wait_event = 'PgSleep'", $database) },
		'a runner is at work');
}

$bank2->stop('immediate');
value($bank1, q{SELECT count(publish('held')) FROM generate_series(1, 30)});
ok(busy_runner(), 'a runner is at work');
command_succeeds('CREATE DATABASE copy TEMPLATE bank1', 'CREATE DATABASE ... TEMPLATE meanwhile');
my $copied = value($bank1, q{SELECT count(*) FROM handled WHERE topic = 'local'}, 'copy');
up_again($bank2);
is_handled_once('held', 'the copy delivers nothing');
is_handled_once('local', 'nor does it stop the original', to => $bank1);
is(value($bank1, q{SELECT count(*) FROM handled WHERE topic = 'local'}, 'copy'), $copied, 'it handles nothing itself');
value($bank1, 'SELECT dtx_node_reset()', 'copy');
is(value($bank1, 'SELECT count(*) FROM dtx_subscriptions', 'copy'), '0', 'as a node of its own it has no subscriptions');
value($bank1, q{SELECT dtx_subscribe('local', NULL, 'handle')}, 'copy');
value($bank1, 'TRUNCATE published, handled', 'copy');
ok(busy_runner('copy'), 'but can have some');
is(handled_once($bank1, $bank1, 'local', databases => [ 'copy', 'copy' ]), '', 'whose messages are handled');
ok(busy_runner('copy'), 'a runner is at work');
command_succeeds('ALTER DATABASE copy RENAME TO renamed', 'ALTER DATABASE ... RENAME meanwhile');
is(handled_once($bank1, $bank1, 'local', databases => [ 'renamed', 'renamed' ]), '', 'the messages are handled');
ok(busy_runner('renamed'), 'a runner is at work');
command_succeeds('DROP DATABASE renamed', 'DROP DATABASE meanwhile');

ok(busy_runner(), 'a runner is at work');
my $dump = PostgreSQL::Test::Utils::tempdir . '/dump.sql';
command_ok([ 'pg_dump', '-d', $bank1->connstr('bank1'), '-f', $dump ], 'pg_dump meanwhile');
is_handled_once('local', 'the messages are handled', to => $bank1);
$bank1->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $bank1->connstr('restored'), '-f', $dump ], 'it can be restored');
value($bank1, 'SELECT dtx_node_reset()', 'restored');
value($bank1, 'TRUNCATE published, handled', 'restored');
value($bank1, q{SELECT dtx_subscribe('local', NULL, 'handle')}, 'restored');
value($bank1, q{SELECT publish_some('local', 20)}, 'restored');
is(handled_once($bank1, $bank1, 'local', databases => [ 'restored', 'restored' ]), '', 'and used');
is_handled_once('held', 'the original goes on');

# --- few process slots

# one worker and one runner can be there at a time, and three databases need both
my $small = new_bank('bank3', conf => <<'CONF');
max_worker_processes = 4
dtx.worker_idle_timeout = '300ms'
CONF
make_peer($small, $bank2);
my @databases = qw(bank3 bank31 bank32);
new_bank_database($small, $_) foreach @databases[ 1, 2 ];
foreach my $database (@databases)
{
	define_messages($small, $database);
	make_peer($small, $bank2, database => $database) if $database ne 'bank3';
	value($small, qq{SELECT dtx_subscribe('local', NULL, 'handle'), dtx_subscribe('to.$database', 'bank2', 'handle')}, $database);
}
$bank2->safe_psql('bank2', q{DELETE FROM handled WHERE topic ~ '^to'});
foreach my $database (@databases)
{
	value($small, qq{SELECT publish_some('local', 20), publish_some('to.$database', 20)}, $database);
}
foreach my $database (@databases)
{
	is(handled_once($small, $small, 'local', databases => [ $database, $database ], seconds => 20), '',
		"with few process slots: local messages of $database");
	is(handled_once($small, $bank2, "to.$database", databases => [ $database, 'bank2' ]), '', 'and its others');
}

foreach my $node ($bank1, $bank2, $small)
{
	unlike(log_since($node), qr/PANIC|TRAP:|terminated by signal/, $node->name . ': no process crashed by itself');
}

done_testing();
