# Shares: many subscriptions of a role, and of many roles, to one server have few
# connections there, in turn, and those whose handlers hang keep nobody waiting for long;
# databases that always have work for their workers leave process slots to others; who may
# create databases cannot keep another one's worker away.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Messages;

my ($bank1, $bank2) = two_banks(conf => <<'CONF');
dtx.worker_idle_timeout = '10min'
dtx.connections_per_role = 3
dtx.connections_per_server = 5
dtx.call_timeout = '3s'
CONF
define_messages($_) foreach $bank1, $bank2;

# How many connections of dtx there were whenever a message was handled; and who did it.
$bank2->safe_psql('bank2', <<'SQL');
CREATE TABLE seen (topic text, connections bigint, active bigint);
CREATE FUNCTION counts(id bigint, topic text, key text, attempt integer) RETURNS void LANGUAGE sql BEGIN ATOMIC
    INSERT INTO seen SELECT topic, count(*), count(*) FILTER (WHERE state = 'active') FROM pg_stat_activity WHERE application_name = 'dtx';
    INSERT INTO handled (id, topic, key, attempt) VALUES (id, topic, key, attempt);
END;
CREATE TABLE business (id bigint);
CREATE FUNCTION hangs(id bigint, topic text, key text, attempt integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE business;
    INSERT INTO handled (id, topic, key, attempt) VALUES (id, topic, key, attempt);
END $$;
SQL

# --- one role

value($bank1, q{SELECT count(dtx_subscribe('many', 'bank2', 'counts', name => 'many.' || i)) FROM generate_series(1, 100) i});
value($bank1, q{SELECT publish('many'), publish('many')});
is(handled_once($bank1, $bank2, 'many', times => 100), '', 'a hundred subscriptions get their messages');
is(value($bank2, q{SELECT max(connections) <= 3 FROM seen}), 't', 'through few connections');
cmp_ok(value($bank2, q{SELECT max(connections) FROM seen}), '>', 1, 'at once');

# what hangs does so in all connections but one, from its second call on
value($bank1, q{SELECT count(dtx_subscribe('hang', 'bank2', 'hangs', name => 'hang.' || i, schedule => '{1ms}', max_attempts => 1000000)) FROM generate_series(1, 6) i});
my $holder = session($bank2);
$holder->must('BEGIN', 'LOCK TABLE business');
value($bank1, q{SELECT publish('hang')});
ok(wait_for_value($bank1, q{SELECT count(*) FROM dtx_subscriptions WHERE name ~ '^hang' AND retrying > 0}, '6'), 'six whose handlers hang');
value($bank1, q{SELECT count(publish('many')) FROM generate_series(1, 10)});
ok(wait_until(sub { differences($bank1, $bank2, 'many', times => 100) eq '' }, 'many go on'), 'a hundred others go on meanwhile');
is(value($bank2, q{SELECT count(*) FROM handled WHERE topic = 'hang'}), '0', 'while those hang');
$holder->must('COMMIT');
is(handled_once($bank1, $bank2, 'hang', times => 6), '', 'until they do not any more');
value($bank1, q{SELECT count(dtx_unsubscribe(name)) FROM dtx_subscriptions});

$bank1->safe_psql('bank1', q{CREATE ROLE greedy LOGIN; GRANT EXECUTE ON FUNCTION dtx_subscribe TO greedy});
append_to_file($bank1->data_dir . '/test.conf', "dtx.subscriptions_per_role = 3\n");
$bank1->reload;
my $greedy = session($bank1);
$greedy->must('SET ROLE greedy');
ok(wait_for_value($bank1, 'SHOW dtx.subscriptions_per_role', '3'), 'a role may have three subscriptions');
$greedy->must(q{SELECT count(dtx_subscribe('greed', NULL, NULL, name => 'greed.' || i)) FROM generate_series(1, 3) i});
is($greedy->run(q{SELECT dtx_subscribe('greed')})->{state}, '53400', 'and no more');
$greedy->must(q{SELECT count(dtx_unsubscribe(name)) FROM dtx_subscriptions});
append_to_file($bank1->data_dir . '/test.conf', "dtx.subscriptions_per_role = 1000\n");
$bank1->reload;

# --- many roles

my $user = (getpwuid($>))[0];
foreach my $i (1 .. 8)
{
	$bank1->safe_psql('bank1', <<"SQL");
CREATE ROLE clerk$i LOGIN;
GRANT USAGE ON FOREIGN SERVER bank2 TO clerk$i;
GRANT EXECUTE ON FUNCTION dtx_subscribe TO clerk$i;
CREATE USER MAPPING FOR clerk$i SERVER bank2 OPTIONS (user '$user', password_required 'false');
SET ROLE clerk$i;
SELECT count(dtx_subscribe('roles', 'bank2', 'counts', name => 'roles.$i.' || j, batch_size => 5)) FROM generate_series(1, 4) j;
SQL
}
value($bank2, 'TRUNCATE seen');
value($bank1, q{SELECT count(publish('roles')) FROM generate_series(1, 40)});
is(handled_once($bank1, $bank2, 'roles', times => 32), '', 'subscriptions of more roles than there are connections get their messages');
# (one that has been closed may be there for a moment)
is(value($bank2, q{SELECT max(active) <= 5 FROM seen}), 't', 'through those there are');

# --- who may create databases, but not copy this one

my $worker = workers($bank1);
$bank1->safe_psql('postgres', 'CREATE ROLE builder LOGIN CREATEDB');
my $builder = DtxTest::Session->new($bank1->connstr('postgres') . ' user=builder');
is($builder->run('CREATE DATABASE mine TEMPLATE bank1')->{state}, '42501', 'a database that is not hers to copy') foreach 1 .. 3;
is($builder->run('DROP DATABASE bank1')->{state}, '42501', 'or to drop');
is($builder->run('ALTER DATABASE bank1 RENAME TO mine')->{state}, '42501', 'or to rename');
is(workers($bank1), $worker, 'its worker has stayed');
$builder->must('CREATE DATABASE mine', 'CREATE DATABASE mine2 TEMPLATE mine', 'DROP DATABASE mine');
$builder->close;

# --- databases whose workers never have nothing to do

# a worker and a runner, or two workers, can be there at a time
my $small = new_bank('bank3', conf => "max_worker_processes = 4\n");
make_peer($small, $bank2);
new_bank_database($small, $_) foreach qw(bank31 bank32);
foreach my $database (qw(bank31 bank32))
{
	make_peer($small, $bank2, database => $database);
	define_messages($small, $database);
	value($small, q{SELECT dtx_subscribe('away', 'bank2', 'handle', name => 'away')}, $database);
}
define_messages($small);
value($small, q{SELECT dtx_subscribe('here', NULL, 'handle', name => 'here')});
forget_sessions();
$bank2->stop('immediate');
foreach my $database (qw(bank31 bank32))
{
	value($small, q{SELECT publish('away')}, $database);
	ok(wait_for_value($small, q{SELECT state FROM dtx_subscriptions}, 'failing', undef, $database), "$database: there is always something to be tried");
}
ok(wait_for_value($small, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dtx worker' AND datname ~ '^bank3[12]'}, '2'),
	'their workers have all the process slots');
value($small, q{SELECT publish('here')});
ok(wait_until(sub { differences($small, $small, 'here') eq '' }, 'here'), 'another database gets its turn, for a worker and a runner');
$bank2->start;
ok(wait_until(sub { value($bank2, q{SELECT count(*) FROM handled WHERE topic = 'away'}) == 2 }, 'away'), 'and those get theirs again');

unlike(log_since($_), qr/PANIC|TRAP:|terminated by signal/, $_->name . ': no process crashed by itself') foreach $bank1, $bank2, $small;

done_testing();
