# Messages in the corners: functions and sessions that do to subscriptions, half
# messages and the log what nobody expects of them. Whatever it is, no process ends
# for it, the others' messages go on, and what is handled is handled once.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Messages;

my ($bank1, $bank2) = two_banks(conf => <<'CONF');
max_prepared_transactions = 5
dtx.worker_idle_timeout = '10min'
dtx.message_segment_size = '64kB'
dtx.message_retention = '1h'
dtx.message_check_interval = '1ms'
dtx.message_check_attempts = 3
CONF
define_messages($_) foreach $bank1, $bank2;
$_->safe_psql($_->{bank}, <<'SQL') foreach $bank1, $bank2;
-- nothing goes through this one while it is closed
CREATE TABLE gate (open boolean NOT NULL);
INSERT INTO gate VALUES (false);
CREATE FUNCTION gated(id bigint, topic text, attempt integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (SELECT open FROM gate) THEN
        RAISE EXCEPTION 'the gate is closed';
    END IF;
    INSERT INTO handled (id, topic, attempt) VALUES (id, topic, attempt);
END $$;
CREATE FUNCTION asks_for_time(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF payload ? 'set' THEN
        PERFORM set_config('dtx.retry_after', '1h', true);
    ELSE
        RAISE EXCEPTION 'fails plainly';
    END IF;
END $$;
CREATE FUNCTION hasty(id bigint, topic text, attempt integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO handled (id, topic, attempt) VALUES (id, topic, attempt);
END $$;
SQL

sub subscribe
{
	my ($name, $server, $more) = @_;
	$server = defined $server ? "'$server'" : 'NULL';
	$more //= q{handler => 'handle'};
	value($bank1, "SELECT dtx_subscribe('$name', $server, name => '$name', $more)");
	return;
}

sub is_handled_once
{
	my ($topic, $what, %options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $to = delete $options{to} // $bank2;
	my $differences;
	ok(wait_until(sub { ($differences = differences($bank1, $to, $topic, %options)) eq '' }, "$topic is handled"), $what)
	  or diag $differences;
	return;
}

# How often the messages with these ids were handled.
sub times_handled
{
	my ($node, @ids) = @_;
	return join ' ', map { value($node, "SELECT count(*) FROM handled WHERE id = $_") } @ids;
}

sub state_of
{
	my ($name, $columns) = @_;
	return "SELECT concat_ws(' ', $columns) FROM dtx_subscriptions WHERE name = '$name'";
}

my $in_call = q{application_name = 'dtx' AND wait_event = 'PgSleep'};
my $in_runner = q{backend_type = 'dtx runner' AND datname = current_database() AND wait_event = 'PgSleep'};

sub wait_for_backend
{
	my ($node, $condition, $database) = @_;
	return wait_for_value($node, "SELECT count(*) > 0 FROM pg_stat_activity WHERE $condition", 't', undef, $database);
}

sub waits_for_lock
{
	my ($session) = @_;
	return wait_for_value($bank1, 'SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND pid = ' . $session->backend, 't');
}

my $s = session($bank1);
my $t = session($bank1);

subscribe($_, 'bank2') foreach qw(half other gone opened killed);
subscribe('gated', 'bank2', q{handler => 'gated', schedule => '{20ms}', max_attempts => 1000000});
subscribe('local');
subscribe('slow', undef, q{handler => 'handle', batch_size => 3});
subscribe('pull', undef, 'handler => NULL');
subscribe('time', 'bank2', q{handler => 'asks_for_time', max_attempts => 1});
subscribe('time.local', undef, q{handler => 'asks_for_time', max_attempts => 1});

value($bank1, q{SELECT publish('other')});
is_handled_once('other', 'messages are delivered');
my $worker = workers($bank1);

sub same_worker
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	value($bank1, q{SELECT publish('other')});
	is_handled_once('other', "$what: messages of others are delivered");
	is(workers($bank1), $worker, 'by the same worker');
	return;
}

# --- check functions that do it themselves, and that fail when they commit

$bank1->safe_psql('bank1', <<'SQL');
CREATE TABLE parent (id bigint PRIMARY KEY);
CREATE TABLE child (parent bigint REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION commits(id bigint) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN PERFORM dtx_message_commit(id); RETURN 'commit'; END $$;
CREATE FUNCTION rolls_back(id bigint) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN PERFORM dtx_message_rollback(id); RETURN 'commit'; END $$;
CREATE FUNCTION fails_late(id bigint) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO child VALUES (id); RETURN 'commit'; END $$;
SQL
$s->must(q{SET dtx.message_check_first = '1ms'},
	q{INSERT INTO published SELECT dtx_message_prepare('half', '{}', NULL, 'commits(bigint)'), 'half'},
	q{SELECT dtx_message_prepare('half', '{}', NULL, 'rolls_back(bigint)')});
ok(wait_for_value($bank1, 'SELECT count(*) FROM dtx_half_messages', '0'), 'check functions that commit and roll back by themselves');
is_handled_once('half', 'what the one has committed is handled once');
value($bank1, q{SELECT publish('half')});
is_handled_once('half', 'what the other has rolled back is not');
$s->must(q{SELECT dtx_message_prepare('half', '{}', NULL, 'fails_late(bigint)')});
ok(wait_for_value($bank1, q{SELECT concat_ws(' ', state, attempts, last_error ~ 'violates foreign key') FROM dtx_half_messages},
		'exhausted 3 t'), 'a check function that fails at its commit has failed');
value($bank1, 'SELECT dtx_message_rollback(id) FROM dtx_half_messages');

# --- a small message that is large when it is written

my $r = $s->run(q{SELECT dtx_publish('other', (SELECT jsonb_agg(1e131071::numeric) FROM generate_series(1, 9000)))});
is($r->{state}, '54000', 'numbers of many digits are refused by their digits');
same_worker('after that');

# --- open transactions that unsubscribe and move subscriptions

value($bank1, q{SELECT publish('gone')});
is_handled_once('gone', 'a message');
ok(wait_for_value($bank1, state_of('gone', 'lag, delivered'), '0 1'), 'its subscription has a position');
$s->must('BEGIN', q{SELECT dtx_unsubscribe('gone')});
foreach my $round (1, 2)
{
	value($bank1, q{SELECT publish('gone'), publish('other'), publish('local')});
	is_handled_once('gone', "while a transaction that unsubscribes is open its messages are delivered, round $round");
	is_handled_once('other', 'so are others');
	is_handled_once('local', 'and local ones', to => $bank1);
	ok(wait_for_value($bank1, state_of('gone', 'lag'), '0'), 'its position is written');
}
$t->must(q{SELECT dtx_transfer('bank2', '1', '2', 100, 'at')});
is_settled(20000, 'a transfer meanwhile', $bank1, $bank2);
$s->must('COMMIT');
same_worker('after the commit');
ok(wait_for_value($bank1, 'SELECT count(*) FROM dtx.position WHERE subscription NOT IN (SELECT id FROM dtx.subscription)', '0'),
	'nothing is left of the subscription');
value($bank1, q{SELECT dtx_publish('gone', '{}')});
same_worker('a message that nobody wants');
is_handled_once('gone', 'is not delivered');

$s->must('BEGIN', q{SELECT dtx_seek('gated', '-infinity')});
value($bank1, q{SELECT publish('gated')});
ok(wait_for_value($bank1, state_of('gated', 'retrying'), '1')
	  && wait_for_value($bank1, q{SELECT attempts > 2 FROM dtx.undelivered}, 't'), 'a message fails while a transaction that seeks is open');
$s->must('COMMIT');
ok(wait_for_value($bank1, state_of('gated', 'retrying, waiting, dead'), '1 0 0'), 'after its commit it fails again');
ok(wait_for_value($bank1, 'SELECT count(*) FROM dtx.undelivered', '1'), 'it is there once');
same_worker('after the seek');
value($bank2, 'UPDATE gate SET open = true');
is_handled_once('gated', 'it is handled once when it can be');
ok(wait_for_value($bank1, state_of('gated', 'lag, retrying'), '0 0'), 'and done with');

# --- what is open at a seek

my $early = value($bank1, q{SELECT publish('opened')});
is_handled_once('opened', 'a message before');
$s->must('BEGIN');
my $open = $s->must(q{SELECT dtx_publish('opened', '{}')});
my $later = value($bank1, q{SELECT publish('opened')});
is_handled_once('opened', 'a message that comes after one that is not committed');
value($bank1, "SELECT dtx_seek('opened', $later)");
ok(wait_until(sub { times_handled($bank2, $later) == 2 }, 'it is handled again'), 'after a seek to it it is handled again');
$s->must('COMMIT');
ok(wait_until(sub { times_handled($bank2, $open) == 1 }, 'the open one is handled'), 'what was open at the seek is delivered');
is(times_handled($bank2, $early, $open, $later), '1 1 2', 'what was committed before is not');

value($bank1, q{SELECT publish('pull') FROM generate_series(1, 3)});
$s->must('BEGIN');
is($s->must(q{SELECT count(*) FROM dtx_receive('pull')}), '1', 'a consumer has a message');
is($t->must(q{SELECT count(*) FROM dtx_receive('pull', 10)}), '2', 'another one the others');
value($bank1, q{SELECT dtx_seek('pull', 'infinity')});
$s->must('ROLLBACK');
is($t->must(q{SELECT count(*) FROM dtx_receive('pull', 10)}), '0', 'and nothing of what was skipped in between');
my $new = value($bank1, q{SELECT publish('pull')});
is($t->must(q{SELECT string_agg(id::text, ' ') FROM dtx_receive('pull', 10)}), $new, 'but what comes after that');

# --- prepared by hand

value($bank1, q{SELECT publish('local')});
is_handled_once('local', 'local messages', to => $bank1);
$s->must('BEGIN', q{SELECT publish('local'), publish('other')}, q{PREPARE TRANSACTION 'by hand'});
value($bank1, q{SELECT publish('local')});
is_handled_once('local', 'while a transaction is prepared', to => $bank1);
$s->must(q{COMMIT PREPARED 'by hand'});
is_handled_once('local', 'what it has published is handled here', to => $bank1);
is_handled_once('other', 'and there');

# --- a process that has much to do is paused

value($bank1, q{SELECT count(publish('slow', '{"sleep": 0.03}')) FROM generate_series(1, 60)});
my $slow = q{SELECT count(*) FROM handled WHERE topic = 'slow'};
ok(wait_until(sub { value($bank1, $slow) > 0 }, 'some are handled'), 'some of a backlog are handled');
value($bank1, q{SELECT dtx_pause('slow')});
my $handled = -1;
wait_until(
	sub {
		my $before = $handled;
		# a batch takes a quarter of this
		$handled = value($bank1, "SELECT pg_sleep(0.4); $slow") =~ s/\s//gr;
		return $handled == $before;
	},
	'it stops');
cmp_ok($handled, '<', 60, 'a subscription that is paused stops after its batch');
value($bank1, q{SELECT dtx_resume('slow')});
is_handled_once('slow', 'it goes on where it stopped', to => $bank1);

# --- one message's wish is not the next one's

foreach my $topic (qw(time time.local))
{
	$s->must('BEGIN', "SELECT dtx_publish('$topic', '{\"set\": 1}'), dtx_publish('$topic', '{}')", 'COMMIT');
	ok(wait_for_value($bank1, state_of($topic, 'lag, retrying, dead'), '0 0 1'), "a wish to be tried later is for one message, $topic");
}

# --- transfers by message: by what servers are, not by their names

sub arrive
{
	my ($sum, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_for_value($bank1, 'SELECT count(*) FROM dtx_in_flight', '0'), "$what: nothing is in flight");
	is(money($bank1, $bank2), 21000, 'the sum of money is what it was');
	is(balance($bank2, '2'), $sum, 'it has arrived');
	return;
}

value($bank1, q{INSERT INTO account_info VALUES ('1b', 'Another', 1000)});
make_peer($bank1, $bank2, server => 'there');
value($bank1, q{SELECT dtx_transfer('there', '1', '2', 1, 'message')});
arrive(10101, 'a transfer');
value($bank1, 'ALTER SERVER there RENAME TO elsewhere');
make_peer($bank1, $bank2, server => 'there');
value($bank1, qq{SELECT dtx_transfer('$_', '1', '2', 10, 'message')}) foreach qw(there elsewhere);
arrive(10121, 'transfers to a server of the old name and the old one of a new name');
make_peer($bank1, $bank2, server => 'new');
$s->must('BEGIN', q{SELECT dtx_transfer('new', '1', '2', 100, 'message')});
$t->send(q{SELECT dtx_transfer('new', '1b', '2', 100, 'message')});
ok(waits_for_lock($t), 'two transfers at once, the first to a server');
$s->must('COMMIT');
$r = $t->wait;
ok($r->{ok}, 'both succeed') or diag $r->{err};
arrive(10321, 'both');

# a name that is taken
make_peer($bank1, $bank2, server => 'third');
my $name = value($bank1, q{SELECT replace(name, 'to new', 'to third') FROM dtx_subscriptions WHERE name ~ '^transfers to new as'});
value($bank1, "SELECT dtx_subscribe('something', NULL, 'handle', name => '$name')");
value($bank1, q{SELECT dtx_transfer('third', '1', '2', 1, 'message')});
arrive(10322, 'with a name that is taken');

# --- a handler that does not want to wait for its commit

append_to_file($bank2->data_dir . '/test.conf', "wal_writer_delay = '10s'\n");
$bank2->reload;
wait_until(sub { forget_sessions(); value($bank2, 'SHOW wal_writer_delay') eq '10s' }, 'the setting is in force');
subscribe('hasty', 'bank2', q{handler => 'hasty'});
value($bank1, q{SELECT publish('hasty')});
is_handled_once('hasty', 'a handler that sets synchronous_commit');
crash($bank2);
$bank2->start;
is_handled_once('hasty', 'what it has done survives a crash');

unlike(log_since($bank1), qr/"dtx \w+" \(PID \d+\) exited with exit code [1-9]/, 'no process has failed');

# --- what ends processes, and databases

foreach my $round (1, 2)
{
	value($bank1, q{SELECT publish('killed', '{"sleep": 0.5}')});
	wait_for_backend($bank2, $in_call);
	my $pid = workers($bank1);
	is(value($bank1, "SELECT pg_terminate_backend($pid)"), 't', "the worker is ended while a handler runs, round $round");
	is_handled_once('killed', 'another one comes by itself');
	value($bank1, q{SELECT publish('killed')});
	is_handled_once('killed', 'and delivers');
	ok(wait_until(sub { my $now = workers($bank1); $now ne '' && $now ne $pid }, 'another worker'), 'it is another one');
}
$worker = workers($bank1);

new_bank_database($bank1, 'bank18');
define_messages($bank1, 'bank18');
value($bank1, q{SELECT dtx_subscribe('local', NULL, 'handle')}, 'bank18');
value($bank1, q{SELECT publish('local', '{"sleep": 1000}')}, 'bank18');
ok(wait_for_backend($bank1, $in_runner, 'bank18'), 'a handler that takes its time');
forget_sessions();
my $dropper = session($bank1, database => 'postgres');
$r = eval { $dropper->run('DROP DATABASE bank18') };
ok($r && $r->{ok}, 'its database can be dropped');

# --- a segment that cannot be dropped

# (nobody fetches what is kept for this one)
value($bank1, q{SELECT dtx_unsubscribe('pull')});
my $segment = value($bank1, 'SELECT relation::regclass FROM dtx.message_segment ORDER BY segment DESC LIMIT 1');
value($bank1, "CREATE VIEW spy AS SELECT * FROM $segment");
my $mark = log_mark($bank1);
append_to_file($bank1->data_dir . '/test.conf', "dtx.message_retention = '1s'\n");
$bank1->reload;
value($bank1, q{SELECT count(publish('other', to_jsonb(repeat(md5(i::text), 30)))) FROM generate_series(1, 150) i});
is_handled_once('other', 'many messages');
ok( wait_until(
		sub {
			value($bank1, q{SELECT publish(topic) FROM dtx_subscriptions WHERE handler = 'handle'});
			return log_since($bank1, $mark) =~ /cannot drop table \Q$segment\E/;
		},
		'the segment is to be dropped'),
	'a segment that a view needs cannot be dropped');
same_worker('after that');
value($bank1, 'DROP VIEW spy');
ok( wait_until(
		sub {
			value($bank1, q{SELECT publish(topic) FROM dtx_subscriptions WHERE handler = 'handle'});
			return value($bank1, "SELECT to_regclass('$segment') IS NULL") eq 't';
		},
		'the segment is dropped'),
	'once the view is gone it is dropped');
same_worker('at last');

$_->close foreach $s, $t, $dropper;
foreach my $node ($bank1, $bank2)
{
	unlike(log_since($node), qr/PANIC|TRAP:|terminated by signal|tuple concurrently|undelivered_pkey/, $node->name . ': no process failed by itself');
}

done_testing();
