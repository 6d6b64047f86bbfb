# The clock is set back an hour: what was planned before that is not an hour late.
#
# To the rows of a server it is as if they had been planned in an hour. So they are here, but
# for the last part, where the servers' clock is set back in earnest.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Messages;

# A clock for the servers: this much ahead of the real one, s.
my $clock = PostgreSQL::Test::Utils::tempdir() . '/clock';

sub set_clock
{
	my ($ahead) = @_;
	open my $file, '+<', $clock or die "$clock: $!";
	syswrite $file, pack('q', $ahead);
	close $file;
	return;
}

append_to_file($clock, pack('q', 0));
append_to_file("$clock.c", <<'C');
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile long long *ahead;
__attribute__((constructor)) static void look(void)
{
	int fd = open(getenv("DTX_TEST_CLOCK"), O_RDONLY);
	ahead = mmap(NULL, sizeof(*ahead), PROT_READ, MAP_SHARED, fd, 0);
}
int gettimeofday(struct timeval *tv, void *zone)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	tv->tv_sec = now.tv_sec + (ahead == NULL || ahead == MAP_FAILED ? 0 : *ahead);
	tv->tv_usec = now.tv_nsec / 1000;
	return 0;
}
C
$ENV{DTX_TEST_CLOCK} = $clock;
system_or_bail('cc', '-shared', '-fPIC', '-o', "$clock.so", "$clock.c");
$ENV{LD_PRELOAD} = join ' ', grep { defined } $ENV{LD_PRELOAD}, "$clock.so";

my ($bank1, $bank2) = two_banks(conf => <<'CONF');
dtx.worker_idle_timeout = '10min'
CONF
define_messages($_) foreach $bank1, $bank2;
$_->safe_psql($_->{bank}, <<'SQL') foreach $bank1, $bank2;
CREATE TABLE told (tx_no text, attempt integer);
CREATE FUNCTION apply(tx_no text, payload jsonb, attempt integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF attempt <= (payload->>'fail')::integer THEN
        RAISE EXCEPTION 'attempt % fails', attempt;
    END IF;
    INSERT INTO told VALUES (tx_no, attempt);
END $$;
SELECT dtx_on_notification('apply');
CREATE FUNCTION yes(id bigint) RETURNS text LANGUAGE sql AS $$ SELECT 'commit' $$;
SQL

# --- something of each kind, that is due in an hour

value($bank1, qq{SELECT dtx_subscribe('$_->[0]', $_->[1], 'handle', name => '$_->[0]', schedule => '{1h}')})
  foreach [ 'here', 'NULL' ], [ 'there', q{'bank2'} ];
value($bank1, q{SELECT dtx_subscribe('pull', name => 'pull')});
value($bank1, qq{SELECT publish('$_', '{"fail": 1}')}) foreach qw(here there pull);
ok(wait_for_value($bank1, qq{SELECT retrying FROM dtx_subscriptions WHERE name = '$_'}, '1'), "$_: a message has failed") foreach qw(here there);
is(value($bank1, q{SELECT count(*) FROM dtx_receive('pull', 1, '1h')}), '1', 'a message is leased');
my $producer = session($bank1);
$producer->must(q{SET dtx.message_check_first = '1h'}, q{INSERT INTO published SELECT dtx_message_prepare('there', '{}', NULL, 'yes'), 'there'});
value($bank1, q{SELECT dtx_notify('bank2', 'told late', '{"fail": 1}', '{1h}')});
ok(wait_for_value($bank1, q{SELECT attempts FROM dtx_notifications WHERE tx_no = 'told late' AND last_error ~ 'attempt 1 fails'}, '1'), 'a notification has failed');
value($bank2, q{SELECT dtx_notify(NULL, 'asked late', '{}')});
value($bank1, q{SELECT dtx_expect('bank2', 'asked late', '1h')});
my $xid = value($bank1, q{SELECT dtx_open('1h')});

# --- the clock is set back

my $planned = q{clock_timestamp() + interval '1 h'};
my $due = q{clock_timestamp() + interval '1 h' + interval '10 ms'};
$bank1->safe_psql('bank1', <<"SQL");
UPDATE dtx.undelivered SET changed_at = $planned, next_attempt = $due;
UPDATE dtx.half_message SET planned_at = $planned, next_check = $due;
UPDATE dtx.notification SET planned_at = $planned, next_attempt = $due;
UPDATE dtx.target SET planned_at = $planned, not_before = $due;
UPDATE dtx.expectation SET planned_at = $planned, next_attempt = $due;
UPDATE dtx.global SET opened_at = $planned, deadline = $due;
SQL
value($bank1, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'dtx worker' AND datname = current_database()});

# --- and it comes all the same

ok(wait_until(sub { differences($bank1, $bank1, 'here') eq '' }, 'here'), 'a local message that has failed is tried again');
ok(wait_until(sub { differences($bank1, $bank2, 'there') eq '' }, 'there'), 'one of a peer, and a half message that is checked');
ok(wait_for_value($bank1, q{SELECT count(*) FROM dtx_receive('pull', 1, '1h')}, '1'), 'a lease ends');
ok(wait_for_value($bank2, q{SELECT attempt FROM told WHERE tx_no = 'told late'}, '2'), 'a notification that has failed is told again');
ok(wait_for_value($bank1, q{SELECT count(*) FROM told WHERE tx_no = 'asked late'}, '1'), 'what was expected is asked for');
ok(wait_for_value($bank1, "SELECT dtx_status('$xid')", 'rolled back'), 'a shared transaction comes to the end of its time');

# --- so does what could not be rolled back yet

my $shared = value($bank1, q{SELECT dtx_open('1h')});
my $holder = session($bank1);
$holder->must('BEGIN', "SELECT dtx_join('$shared')", 'UPDATE account_info SET account_balance = account_balance + 1', 'COMMIT',
	'BEGIN', 'LOCK TABLE account_info IN SHARE MODE');
session($bank1)->run("SELECT dtx_rollback('$shared')");
ok(wait_for_value($bank1, "SELECT count(*) > 0 FROM dtx.branch WHERE gid LIKE '$shared/%' AND attempts > 0", 't'), 'a rollback has to wait');
ok( wait_until(
		sub {
			value($bank1, "UPDATE dtx.branch SET next_attempt = $due WHERE gid LIKE '$shared/%'");
			# and no attempt is under way that was begun before
			return value($bank1, "SELECT next_attempt > clock_timestamp() + interval '30 min' AND last_error !~ 'not come to an end' FROM dtx.branch WHERE gid LIKE '$shared/%'") eq 't';
		},
		'an hour'),
	'for an hour');
$holder->must('COMMIT');
ok(wait_for_value($bank1, "SELECT dtx_status('$shared')", 'rolled back'), 'it does not');
ok(wait_for_value($bank1, 'SELECT account_balance FROM account_info', '10000'), 'the row is as it was');
$holder->close;

# --- the rows of a clock that was not set back stay as they are

value($bank1, q{SELECT publish('there', '{"fail": 1}')});
ok(wait_for_value($bank1, q{SELECT retrying FROM dtx_subscriptions WHERE name = 'there'}, '1'), 'another one has failed');
my $row = value($bank1, q{SELECT concat_ws(' ', next_attempt, changed_at) FROM dtx.undelivered WHERE subscription = (SELECT id FROM dtx.subscription WHERE name = 'there')});
value($bank1, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'dtx worker' AND datname = current_database()});
value($bank1, q{SELECT dtx_subscribe('new', 'bank2', 'handle', name => 'new'), publish('new')});
ok(wait_until(sub { differences($bank1, $bank2, 'new') eq '' }, 'new'), 'another worker is at work');
is(value($bank1, q{SELECT concat_ws(' ', next_attempt, changed_at) FROM dtx.undelivered WHERE subscription = (SELECT id FROM dtx.subscription WHERE name = 'there')}),
	$row, 'and has left that as it is');

# --- an attempt that the peer has made, and nobody has noted

value($bank1, q{SELECT dtx_subscribe('made', 'bank2', 'handle', name => 'made', schedule => '{1h}')});
my $made = value($bank1, q{SELECT publish('made', '{"fail": 1}')});
ok(wait_for_value($bank1, q{SELECT retrying FROM dtx_subscriptions WHERE name = 'made'}, '1'), 'a message has failed');
my $lock = session($bank1);
$lock->must('SELECT pg_advisory_lock(1685353504, 1)');
append_to_file($bank1->data_dir . '/test.conf', "dtx.fault_point = 'dispatch-before-record:wait'\n");
$bank1->reload;
$lock->must(q{UPDATE dtx.undelivered SET next_attempt = clock_timestamp() WHERE topic = 'made'}, q{SELECT dtx_resume('made')});
ok(wait_for_value($bank1, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted}, '1'), 'its next attempt is about to be noted');
is(value($bank2, "SELECT count(*) FROM handled WHERE id = $made"), '1', 'it has succeeded');
append_to_file($bank1->data_dir . '/test.conf', "dtx.fault_point = ''\n");
$bank1->reload;
my $later = value($bank1, <<"SQL");
UPDATE dtx.undelivered SET changed_at = $planned, next_attempt = $planned + interval '10 min' WHERE topic = 'made';
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'dtx worker' AND datname = current_database();
SELECT publish('made');
SQL
$lock->close;
ok(wait_until(sub { differences($bank1, $bank2, 'made') eq '' }, 'made'), 'what was published later is handled');
value($bank1, q{UPDATE dtx.undelivered SET next_attempt = clock_timestamp() WHERE topic = 'made'});
value($bank1, q{SELECT dtx_resume('made')});
ok(wait_for_value($bank1, q{SELECT concat_ws(' ', lag, retrying, dead) FROM dtx_subscriptions WHERE name = 'made'}, '0 0 0'), 'there is nothing left');
is(value($bank2, "SELECT count(*) FROM handled WHERE id = $made"), '1', 'it is not handled again');

# --- processes that run when the clock is set back

sub processes
{
	return value($bank1, q{SELECT string_agg(pid::text, ' ' ORDER BY backend_type) FROM pg_stat_activity WHERE backend_type IN ('dtx worker', 'dtx runner') AND datname = current_database()}) // '';
}

value($bank1, q{SELECT publish('here')});
ok(wait_until(sub { differences($bank1, $bank1, 'here') eq '' }, 'here'), 'both are at work');
my @before = split / /, processes();
is(scalar @before, 2, 'a worker, and a process of the role');
set_clock(-3600);
ok(wait_for_log_line($bank1, qr/dtx begins anew in this database: the clock was set back/), 'the worker notices it');
ok( wait_until(
		sub {
			my $now = processes();
			return !grep { $now =~ /\b$_\b/ } @before;
		},
		'others'),
	'both are others');
value($bank1, q{SELECT publish('here'), publish('there')});
ok(wait_until(sub { differences($bank1, $bank1, 'here') eq '' }, 'here'), 'who go on here');
ok(wait_until(sub { differences($bank1, $bank2, 'there') eq '' }, 'there'), 'and there, with what would have been due in an hour');

unlike(log_since($_), qr/PANIC|TRAP:|terminated by signal|could not set deadlines/, $_->name . ': no process crashed by itself') foreach $bank1, $bank2;

done_testing();
