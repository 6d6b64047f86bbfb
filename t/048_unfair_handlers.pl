# Functions of one role that hang, or end the server they run in, and a receiver that
# takes no writes for a while: the messages that have nothing to do with it go on, and
# none loses attempts by what is not its fault.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Messages;

my ($bank1, $bank2) = two_banks(conf => <<'CONF');
dtx.worker_idle_timeout = '10min'
dtx.message_check_interval = '1h'
CONF
define_messages($_) foreach $bank1, $bank2;

sub set_at
{
	my ($node, $line) = @_;
	append_to_file($node->data_dir . '/test.conf', "$line\n");
	$node->reload;
	return;
}

sub subscribe
{
	my ($name, $server, $more) = @_;
	$server = defined $server ? "'$server'" : 'NULL';
	value($bank1, "SELECT dtx_subscribe('$name', $server, 'handle', name => '$name', " . ($more // q{schedule => '{30ms}'}) . ')');
	return;
}

sub state_of
{
	my ($name, $columns) = @_;
	return "SELECT concat_ws(' ', $columns) FROM dtx_subscriptions WHERE name = '$name'";
}

subscribe('plain');

# --- check functions that wait for what somebody holds for long, at once and at their commit

$bank1->safe_psql('bank1', <<'SQL');
CREATE TABLE business (id bigint);
CREATE FUNCTION hangs(id bigint) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN LOCK TABLE business IN SHARE MODE; RETURN 'commit'; END $$;
CREATE TABLE late (id bigint);
CREATE FUNCTION wait_for_business() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN LOCK TABLE business IN SHARE MODE; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER wait_for_business AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait_for_business();
CREATE FUNCTION hangs_late(id bigint) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO late VALUES (id); RETURN 'commit'; END $$;
CREATE FUNCTION yes(id bigint) RETURNS text LANGUAGE sql AS $$ SELECT 'commit' $$;
CREATE FUNCTION handle_late(id bigint) RETURNS void LANGUAGE sql AS 'INSERT INTO late VALUES (id)';
SQL
set_at($bank1, q{dtx.call_timeout = '500ms'});
my $holder = session($bank1);
$holder->must('BEGIN', 'INSERT INTO business VALUES (1)');
my $producer = session($bank1);
$producer->must(q{SET dtx.message_check_first = '1ms'}, q{SELECT dtx_message_prepare('plain', '{}', NULL, 'hangs')},
	q{SELECT dtx_message_prepare('plain', '{}', NULL, 'hangs_late')},
	q{INSERT INTO published SELECT dtx_message_prepare('plain', '{}', NULL, 'yes'), 'plain'});
value($bank1, q{SELECT dtx_subscribe('late', NULL, 'handle_late', name => 'late'), publish('late'), publish('plain')});
ok(wait_for_value($bank1, q{SELECT string_agg(concat_ws(' ', checker, attempts, last_error), '; ' ORDER BY checker::text) FROM dtx_half_messages},
		'hangs(bigint) 1 canceling statement due to statement timeout; hangs_late(bigint) 1 canceling statement due to statement timeout'),
	'check functions that hang are ended, as handlers are');
ok(wait_for_value($bank1, q{SELECT differences FROM (SELECT count(*) - (SELECT count(*) FROM handled WHERE topic = 'plain') AS differences
	FROM published WHERE topic = 'plain') d}, '0'), 'other half messages and messages of the role go on');
ok(wait_for_value($bank1, state_of('late', q{state, retrying > 0 OR attempts > 0, last_error}),
		'active t 57014: canceling statement due to statement timeout'), 'so is a handler that hangs at its commit')
  or diag value($bank1, state_of('late', q{state, retrying, attempts, last_error}));
$holder->must('ROLLBACK');
value($bank1, q{SELECT dtx_message_rollback(id) FROM dtx_half_messages});
value($bank1, q{SELECT dtx_unsubscribe('late')});
set_at($bank1, q{dtx.call_timeout = 0});

# --- a receiver that takes no writes for a while

subscribe('there', 'bank2', q{max_attempts => 1});
value($bank1, q{SELECT publish('there')});
is(handled_once($bank1, $bank2, 'there'), '', 'messages are delivered');
set_at($bank2, 'default_transaction_read_only = on');
ok(wait_for_value($bank2, 'SHOW default_transaction_read_only', 'on'), 'the receiver is read only');
value($bank1, q{SELECT publish('there')});
ok(wait_for_value($bank1, state_of('there', 'state, retrying, dead, last_error'),
		'failing 0 0 25006: the receiver is read only (default_transaction_read_only)'), 'that costs messages no attempt');
set_at($bank2, 'default_transaction_read_only = off');
is(handled_once($bank1, $bank2, 'there'), '', 'they come when it is over');

# --- a role whose process cannot come up

set_at($bank1, q{dtx.retry_max = '1h'});
$bank1->safe_psql('bank1', <<'SQL');
CREATE ROLE shut LOGIN;
SET ROLE shut;
SET dtx.message_check_first = '1h';
SELECT dtx_message_prepare('shut', '{}', NULL, 'public.yes(bigint)');
RESET ROLE;
ALTER ROLE shut NOLOGIN;
SQL
my $before = log_mark($bank1);
value($bank1, q{UPDATE dtx.half_message SET next_check = clock_timestamp() WHERE topic = 'shut'});
# (that tells nobody)
value($bank1, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'dtx worker' AND datname = current_database()});
ok(wait_for_value($bank1, q{SELECT last_error ~ 'does not come up' FROM dtx_half_messages WHERE topic = 'shut'}, 't'), 'a process that cannot come up: a view says so');
ok(wait_until(sub { (() = log_since($bank1, $before) =~ /FATAL: .*is not permitted to log in/g) >= 4 }, 'four tries'), 'it is tried again');
my @times = log_since($bank1, $before) =~ /^\S+ \d+:(\d+:[\d.]+) .*FATAL: .*is not permitted to log in/mg;
my @seconds = map { my ($m, $s) = split /:/; $m * 60 + $s } @times;
cmp_ok(($seconds[3] - $seconds[0]) % 3600, '>=', 3, 'ever more rarely');
value($bank1, q{SELECT publish('plain')});
ok(wait_for_value($bank1, q{SELECT count(*) - (SELECT count(*) FROM handled WHERE topic = 'plain') FROM published WHERE topic = 'plain'}, '0'),
	'other roles go on meanwhile');
value($bank1, 'ALTER ROLE shut LOGIN');
ok(wait_for_value($bank1, q{SELECT count(*) FROM dtx_half_messages WHERE topic = 'shut'}, '0'), 'it is started when it can be');
set_at($bank1, q{dtx.retry_max = '500ms'});

unlike(log_since($_), qr/PANIC|TRAP:|terminated by signal/, $_->name . ': no process crashed by itself') foreach $bank1, $bank2;

# --- a handler that ends the server it runs in

set_at($bank1, 'restart_after_crash = on');
$bank1->safe_psql('bank1', <<'SQL');
CREATE FUNCTION kills(id bigint, topic text, payload jsonb, attempt integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF payload ? 'kill' THEN
        EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid());
    END IF;
    INSERT INTO handled (id, topic, attempt) VALUES (id, topic, attempt);
END $$;
SQL
value($bank1, q{SELECT dtx_subscribe('kills', NULL, 'kills', name => 'kills', max_attempts => 2, schedule => '{10ms}', batch_size => 20)});
my $mark = log_mark($bank1);
value($bank1, q{SELECT count(publish('kills', CASE WHEN i = 4 THEN '{"kill": 1}' ELSE '{}' END::jsonb)) FROM generate_series(1, 10) i});
my $dead = q{SELECT concat_ws(' ', attempts, last_error) FROM dtx_dead_letters WHERE subscription = 'kills'};
ok(wait_until(sub { (eval { value($bank1, $dead) } // '') ne '' }, 'the message is dead'), 'a message whose handler ends the server becomes a dead letter');
is(value($bank1, $dead), '2 57P02: the server ended while it was handled', 'after its attempts');
my $ends = () = log_since($bank1, $mark) =~ /was terminated by signal 9/g;
is($ends, 3, 'one crash of a batch, and one an attempt: it was tried alone');
value($bank1, q{DELETE FROM published WHERE id IN (SELECT id FROM dtx_dead_letters)});
value($bank1, q{SELECT publish('kills')});
ok(wait_until(sub { differences($bank1, $bank1, 'kills') eq '' }, 'the others'), 'the others are handled once, and what is published later');
is(value($bank1, q{SELECT max(attempt) FROM handled WHERE topic = 'kills'}), '1', 'and have lost no attempt');

# what came of the attempts before is known after a server was shut down, too
value($bank1, q{SELECT publish('kills', '{"kill": 1}')});
$mark = log_mark($bank1);
ok(wait_until(sub { (eval { value($bank1, "$dead ORDER BY id DESC LIMIT 1") } // '') =~ /^2 / && eval { value($bank1, 'SELECT count(*) FROM dtx_dead_letters') } == 2 },
	'the second one'), 'another one, which comes alone');
$ends = () = log_since($bank1, $mark) =~ /was terminated by signal 9/g;
is($ends, 2, 'costs one crash an attempt');
value($bank1, q{SELECT dtx_redeliver(array_agg(id)) FROM (SELECT id FROM dtx_dead_letters ORDER BY id DESC LIMIT 1) l});
ok(wait_until(sub { (eval { value($bank1, "$dead ORDER BY id DESC LIMIT 1") } // '') =~ /^2 / }, 'dead again'), 'one that is delivered again');

done_testing();
