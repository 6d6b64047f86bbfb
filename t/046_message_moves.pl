# What moves under a subscription: its start, by a transaction that stays open; the
# dead letter that others wait for; the segments it needs; the rows of the log and of
# dtx's own tables, by VACUUM FULL and its like. Each message is handled once.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Messages;

my ($bank1, $bank2) = two_banks(conf => "max_worker_processes = 16\ndtx.worker_idle_timeout = '10min'\n");
define_messages($_) foreach $bank1, $bank2;
# one that does not go on while somebody holds a lock
$_->safe_psql($_->{bank}, <<'SQL') foreach $bank1, $bank2;
CREATE FUNCTION gated(id bigint, topic text, key text, payload jsonb, attempt integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF payload ? 'gate' THEN
        PERFORM pg_advisory_xact_lock_shared(4711);
    END IF;
    PERFORM handle(id, topic, key, payload, attempt);
END $$;
SQL

my %at = (remote => $bank2, local => $bank1);

sub subscribe
{
	my ($name, $more) = @_;
	my $server = $name =~ /^remote/ ? q{'bank2'} : 'NULL';
	value($bank1, "SELECT dtx_subscribe('$name', $server, 'gated', name => '$name', $more)");
	return;
}

sub stand
{
	my ($name) = @_;
	return "SELECT concat_ws(' ', lag, retrying, waiting, dead) FROM dtx_subscriptions WHERE name = '$name'";
}

# A session that keeps the gate at a bank closed, and its handler waiting at it.
sub close_gate
{
	my ($bank) = @_;
	my $gate = session($bank);
	$gate->must('SELECT pg_advisory_lock(4711)');
	return $gate;
}

sub waits_at_gate
{
	my ($bank) = @_;
	return wait_for_value($bank, q{SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted}, 't');
}

sub open_gate
{
	my ($gate) = @_;
	$gate->must('SELECT pg_advisory_unlock(4711)');
	$gate->close;
	return;
}

my $s = session($bank1);

# --- a start that moves forward

subscribe("$_.seek", q{schedule => '{1h}'}) foreach qw(remote local);
value($bank1, q{SELECT dtx_subscribe('pull', name => 'pull')});
foreach my $topic (qw(remote.seek local.seek))
{
	value($bank1, qq{SELECT dtx_publish('$topic', '{"fail": 1}')});
	ok(wait_for_value($bank1, stand($topic), '0 1 0 0'), "$topic: one waits to be tried again");
}
$s->must('BEGIN', q{SELECT dtx_seek(name, 'infinity'::timestamptz) FROM dtx_subscriptions});
value($bank1, q{SELECT publish(topic, payload) FROM unnest('{remote.seek,local.seek,pull}'::text[]) topic,
	unnest('{"{}","{}","{\"fail\": 1}"}'::jsonb[]) payload});
foreach my $topic (qw(remote.seek local.seek))
{
	ok(wait_for_value($bank1, stand($topic), '0 2 0 0'), "$topic: while it is skipped messages are delivered, and fail");
}
is(value($bank1, q{SELECT count(*) FROM dtx_receive('pull', 2, '1h')}), '2', 'or are fetched');
is(value($bank1, q{SELECT dtx_ack('pull', (SELECT array_agg(id) FROM (SELECT id FROM published WHERE topic = 'pull' ORDER BY id LIMIT 1) p))}), '1', 'and acknowledged');
$s->must('COMMIT');
foreach my $topic (qw(remote.seek local.seek))
{
	my ($where) = $topic =~ /(\w+)/;
	# what comes again comes before this
	my $last = value($bank1, "SELECT publish('$topic')");
	ok(wait_for_value($at{$where}, "SELECT count(*) FROM handled WHERE id = $last", '1'), "$topic: afterwards");
	ok(wait_for_value($bank1, stand($topic), '0 1 0 0'), "$topic: of what failed, what was published before is skipped");
	value($bank1, qq{UPDATE dtx.undelivered SET next_attempt = clock_timestamp() WHERE topic = '$topic'});
	value($bank1, "SELECT dtx_resume('$topic')");
	ok(wait_for_value($bank1, stand($topic), '0 0 0 0'), "$topic: the one that failed since is handled");
	is(differences($bank1, $at{$where}, $topic), '', "$topic: what was published since the skip is handled once");
}
is(value($bank1, q{SELECT string_agg(attempts::text, ' ') FROM dtx_receive('pull', 10)}), '1', 'of those that are fetched what nobody had is given out');
is(value($bank1, q{SELECT leased FROM dtx_subscriptions WHERE name = 'pull'}), '2', 'and what somebody has stays his');
value($bank1, q{SELECT dtx_seek('pull', (SELECT last_value + 1 FROM dtx.message_id))});
is(value($bank1, q{SELECT leased FROM dtx_subscriptions WHERE name = 'pull'}), '0', 'until it is skipped');
value($bank1, q{SELECT dtx_unsubscribe(name) FROM dtx_subscriptions});

# --- an end, and a pause, that whoever delivers has yet to hear of

value($bank1, q{SELECT dtx_subscribe(topic, NULL, 'gated', name => topic) FROM unnest('{local.first,local.ended,local.paused}'::text[]) topic});
my $gate = close_gate($bank1);
value($bank1, q{SELECT publish('local.first', '{"gate": 1}')});
ok(waits_at_gate($bank1), 'a handler is at work, and the process has others to look at next');
value($bank1, q{SELECT dtx_unsubscribe('local.ended'), dtx_pause('local.paused')});
value($bank1, q{SELECT publish('local.ended'), publish('local.paused')});
open_gate($gate);
my $id = value($bank1, q{SELECT publish('local.first')});
ok(wait_for_value($bank1, "SELECT count(*) FROM handled WHERE id = $id", '1'), 'it goes on');
is(value($bank1, q{SELECT count(*) FROM handled WHERE topic IN ('local.ended', 'local.paused')}), '0', 'what was published afterwards is not handled');
value($bank1, q{SELECT dtx_resume('local.paused')});
is(handled_once($bank1, $bank1, 'local.paused'), '', 'until it is resumed');

value($bank1, q{SELECT dtx_subscribe(topic, 'bank2', 'gated', name => topic) FROM unnest('{remote.first,remote.last}'::text[]) topic});
value($bank1, q{SELECT publish('remote.first'), publish('remote.last')});
is(handled_once($bank1, $bank2, $_), '', "$_: delivered") foreach qw(remote.first remote.last);
$gate = session($bank1);
$gate->must('SELECT pg_advisory_lock(1685353504, 1)');
append_to_file($bank1->data_dir . '/test.conf', "dtx.fault_point = 'dispatch-before-read:wait'\n");
$bank1->reload;
value($bank1, q{SELECT publish('remote.last')});
ok(wait_for_value($bank1, q{SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted}, 't'), 'the worker is about to read');
# the one before may have been delivered by a worker that had not heard of the setting
value($bank1, q{SELECT publish('remote.last')});
my $known = q{SELECT string_agg(topic, ' ' ORDER BY topic) FROM handled WHERE topic IN ('remote.first', 'remote.last')};
my $delivered = value($bank2, $known);
value($bank1, q{SELECT dtx_unsubscribe('remote.first'), dtx_pause('remote.last')});
value($bank1, q{SELECT publish('remote.first')});
append_to_file($bank1->data_dir . '/test.conf', "dtx.fault_point = ''\n");
$bank1->reload;
value($bank1, q{SELECT dtx_subscribe('remote.new', 'bank2', 'gated', name => 'remote.new')});
$id = value($bank1, q{SELECT publish('remote.new')});
$gate->close;
ok(wait_for_value($bank2, "SELECT count(*) FROM handled WHERE id = $id", '1'), 'it goes on');
is(value($bank2, $known), $delivered, 'nothing that was published afterwards is delivered');
value($bank1, q{SELECT dtx_resume('remote.last')});
is(handled_once($bank1, $bank2, 'remote.last'), '', 'until it is resumed');
value($bank1, q{SELECT dtx_unsubscribe(name) FROM dtx_subscriptions});

# --- a dead letter that is discarded while its successor is under way

foreach my $where (qw(remote local))
{
	my $topic = "$where.ordered";
	subscribe($topic, 'ordered => true, max_attempts => 1');
	my $bad = value($bank1, qq{SELECT dtx_publish('$topic', '{"fail": 1}', 'k')});
	ok(wait_for_value($bank1, stand($topic), '0 0 0 1'), "$topic: a dead letter");
	my $gate = close_gate($at{$where});
	$s->must('BEGIN', qq{SELECT publish('$topic', '{"gate": 1}', 'other'), publish('$topic', key => 'k')}, 'COMMIT');
	ok(waits_at_gate($at{$where}), "$topic: a batch with its successor is under way");
	is(value($bank1, "SELECT dtx_discard(ARRAY[$bad])"), '1', "$topic: the dead letter is discarded");
	open_gate($gate);
	ok(wait_for_value($bank1, stand($topic), '0 0 0 0'), "$topic: its successor does not wait");
	is(differences($bank1, $at{$where}, $topic), '', "$topic: it is handled");
	value($bank1, "SELECT dtx_unsubscribe('$topic')");
}
value($bank1, q{SELECT dtx_subscribe('pull', name => 'pull', ordered => true, max_attempts => 1)});
value($bank1, q{SELECT publish('pull', key => 'k')});
my $dead = value($bank1, q{SELECT dtx_nack('pull', ARRAY[id]) * id FROM dtx_receive('pull')});
$s->must('BEGIN', "SELECT dtx_discard(ARRAY[$dead])");
my $next = value($bank1, q{SELECT publish('pull', key => 'k')});
is(value($bank1, q{SELECT count(*) FROM dtx_receive('pull')}), '0', 'a consumer has to wait for one that is being discarded');
$s->must('COMMIT');
is(value($bank1, q{SELECT id FROM dtx_receive('pull')}), $next, 'and has it when that is done');
value($bank1, q{SELECT dtx_unsubscribe('pull')});

# --- rows that move

# Rolled back messages are where others will be after a rewrite.
sub publish_among_holes
{
	my ($topic) = @_;
	foreach my $round (1 .. 3)
	{
		$s->must('BEGIN', "SELECT count(publish('$topic')) FROM generate_series(1, 40)", 'ROLLBACK',
			qq{SELECT count(publish('$topic', CASE WHEN i % 10 = 3 THEN '{"fail": 1}' ELSE '{}' END::jsonb)) FROM generate_series(1, 20) i});
	}
	return;
}

my @rewrites = (
	[ 'the log', 'VACUUM FULL SEGMENT' ],
	[ 'the log, in an order', 'CLUSTER SEGMENT USING SEGMENT_xid_idx' ],
	[ 'positions', 'VACUUM FULL dtx.position' ],
	[ 'everything', 'VACUUM FULL' ],
	[ 'an index', 'REINDEX TABLE CONCURRENTLY SEGMENT' ]);
foreach my $where (qw(remote local))
{
	subscribe("$where.$_", q{batch_size => 5, schedule => '{10ms}'}) foreach qw(rows idle);
	value($bank1, "SELECT publish('$where.idle')");
	is(handled_once($bank1, $at{$where}, "$where.idle"), '', "$where: another subscription");
}
my $mark = log_mark($bank1);
foreach my $rewrite (@rewrites)
{
	foreach my $where (qw(remote local))
	{
		my ($what, $sql) = @$rewrite;
		my $topic = "$where.rows";
		my $segment = value($bank1, 'SELECT relation::regclass FROM dtx.message_segment ORDER BY segment DESC LIMIT 1');
		my ($name) = $segment =~ /(\w+)$/;
		$sql =~ s/SEGMENT(?= |$)/$segment/g;
		$sql =~ s/SEGMENT_/${name}_/g;
		my $gate = close_gate($at{$where});
		value($bank1, qq{SELECT publish('$topic', '{"gate": 1}')});
		ok(waits_at_gate($at{$where}), "$where, $what: a handler is at work");
		publish_among_holes($topic);
		my $worker = session($bank1);
		$worker->send($sql);
		# it may have to wait for the handler's transaction
		ok( wait_until(
				sub { !$worker->busy || value($bank1, 'SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = ' . $worker->backend) > 0 },
				'the table is rewritten'),
			"$where, $what: $sql");
		open_gate($gate);
		my $r = $worker->wait;
		ok($r->{ok}, 'succeeds') or diag $r->{err};
		value($bank1, "SELECT publish('$topic'), publish('$where.idle')");
		is(handled_once($bank1, $at{$where}, $_), '', "$where, $what: all is handled once, $_") foreach $topic, "$where.idle";
		$worker->close;
	}
}
unlike(log_since($bank1, $mark), qr/could not deliver|XX00|not in the log any more|tuple concurrently/, 'no subscription has failed for that');

# --- an index that is built anew while others publish

my $segment = value($bank1, 'SELECT relation::regclass FROM dtx.message_segment ORDER BY segment DESC LIMIT 1');
my $open = session($bank1);
$open->must('BEGIN', q{SELECT publish('remote.rows')});
my $builder = session($bank1);
$builder->send("REINDEX TABLE CONCURRENTLY $segment");
ok(wait_for_value($bank1, "SELECT count(*) FROM pg_index WHERE indrelid = '$segment'::regclass", '2'), 'an index of the log is being built anew');
value($bank1, q{SELECT publish('remote.rows')});
$open->must(q{SELECT publish('remote.rows')}, 'COMMIT');
ok($builder->wait->{ok}, 'it is built');
is(handled_once($bank1, $bank2, 'remote.rows'), '', 'what was published meanwhile is handled');
value($bank1, q{SELECT dtx_seek('remote.rows', '-infinity')});
ok(wait_for_value($bank2, q{SELECT min(n) FROM (SELECT count(*) AS n FROM handled WHERE topic = 'remote.rows' GROUP BY id) h}, '2'),
	'and found again');
$_->close foreach $open, $builder;
value($bank1, q{SELECT dtx_unsubscribe(name) FROM dtx_subscriptions});

# --- segments that an open transaction needs

value($bank1, q{SELECT dtx_subscribe('replay', 'bank2', 'gated', name => 'replay'), dtx_subscribe('*', name => 'keeps')});
my $old = value($bank1, q{SELECT publish('replay')});
ok(wait_for_value($bank2, "SELECT count(*) FROM handled WHERE id = $old", '1'), 'a message');
append_to_file($bank1->data_dir . '/test.conf', "dtx.message_retention = 0\n");
$bank1->reload;
my $newest = 'SELECT max(segment) FROM dtx.message_segment';
my $first = value($bank1, $newest);
ok(wait_until(sub { value($bank1, q{SELECT dtx_publish('fill', '{}')}); value($bank1, $newest) > $first }, 'another segment'), 'its segment is closed');
$s->must('BEGIN', q{SELECT dtx_seek('replay', '-infinity')});
value($bank1, q{SELECT dtx_unsubscribe('keeps')});
my $now = value($bank1, $newest);
ok(wait_until(sub { value($bank1, q{SELECT dtx_publish('fill', '{}')}); value($bank1, $newest) > $now + 1 }, 'two more segments'), 'the log goes on');
$s->must('COMMIT');
ok(wait_for_value($bank2, "SELECT count(*) FROM handled WHERE id = $old", '2'), 'what a transaction has asked to replay was kept for it');
ok(wait_until(sub { value($bank1, q{SELECT dtx_publish('fill', '{}')}); value($bank1, "SELECT count(*) FROM dtx.message_segment WHERE segment <= $first") eq '0' }, 'the old segment'),
	'and goes when that is done');

foreach my $node ($bank1, $bank2)
{
	unlike(log_since($node), qr/PANIC|TRAP:|terminated by signal|tuple concurrently|undelivered_pkey/, $node->name . ': no process failed by itself');
}
$s->close;
done_testing();
