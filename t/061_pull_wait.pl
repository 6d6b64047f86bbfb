# Consumers that wait for messages in dtx_receive: whatever makes one available wakes
# them, what ends a statement ends them, and they keep nothing from its work.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use DtxTest;

my ($bank1, $bank2) = two_banks(conf => <<'CONF');
dtx.worker_idle_timeout = '10min'
max_prepared_transactions = 5
CONF
my $s = session($bank1);
my $waiter = session($bank1);
my $other = session($bank1);

sub receive
{
	my ($name, $more) = @_;
	return "SELECT string_agg(concat_ws('#', payload #>> '{}', attempts), ' ' ORDER BY id) FROM dtx_receive('$name', wait => '60s'" . ($more // '') . ')';
}

sub ids
{
	return qq{(SELECT array_agg(id) FROM dtx.undelivered WHERE payload = '"$_[0]"')};
}

# They wait: on nothing that another process has.
sub waits
{
	my (@waiters) = @_;
	my $list = join ', ', map { $_->backend } @waiters;
	return wait_for_value($bank1, "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($list) AND state = 'active' AND wait_event_type = 'Extension' AND wait_event = 'Extension'", scalar @waiters);
}

# What wakes a consumer: after $before has run and he waits, $then has him get $expected.
# A part of the time after which he looks by himself is enough for all of them.
my $spent = 0;
sub wakes
{
	my ($what, $name, $expected, @then) = @_;
	$waiter->send(receive($name));
	ok(waits($waiter), "$what: waits");
	my $begun = time();
	ref $_ ? $_->() : $s->must($_) foreach @then;
	is($waiter->wait->{out}, $expected, "$what wakes");
	$spent += time() - $begun;
	return;
}

value($bank1, "SELECT dtx_subscribe('$_', name => '$_', max_attempts => 3)") foreach qw(plain many quiet gone);
value($bank1, q{SELECT dtx_subscribe('keyed', name => 'keyed', ordered => true)});

is($waiter->must(q{SELECT count(*) FROM dtx_receive('plain')}), '0', 'who does not wait gets nothing');
is($waiter->must(q{SELECT count(*) FROM dtx_receive('plain', wait => '10 ms')}), '0', 'nor who waits for a moment');
$s->must(q{SELECT dtx_publish('plain', '"there"')});
is($waiter->must(receive('plain')), 'there#1', 'who finds one does not wait');

my $rounds = 20;
wakes("message $_", 'plain', "m$_#1", qq{SELECT dtx_publish('plain', '"m$_"')}) foreach 1 .. $rounds;
wakes('what is published in a transaction', 'plain', 'in one#1', 'BEGIN', q{SELECT dtx_publish('other', '0'), dtx_publish('plain', '"in one"')}, 'COMMIT');
wakes('a message that is due', 'plain', 'delayed#1', q{SELECT dtx_publish('plain', '"delayed"', deliver_at => clock_timestamp() + interval '200 ms')});
wakes('a half message', 'plain', 'half#1', q{SELECT dtx_message_commit(dtx_message_prepare('plain', '"half"'))});
wakes('a branch in AT', 'plain', 'at#1', sub { value($bank2, q{SELECT dtx_query FROM dtx_query('bank1', 'SELECT dtx_publish(''plain'', ''"at"'')') AS dtx_query(id bigint)}) });
wakes('a branch in XA', 'plain', 'xa#1', sub { value($bank2, q{DO $$ BEGIN PERFORM dtx_begin('xa'); PERFORM * FROM dtx_query('bank1', 'SELECT dtx_publish(''plain'', ''"xa"'')') AS q(id bigint); END $$}) });
wakes('what is given back', 'plain', 'm1#2', qq{SELECT dtx_nack('plain', @{[ids('m1')]})});
wakes('what is given back for later', 'plain', 'm2#2', qq{SELECT dtx_nack('plain', @{[ids('m2')]}, '200 ms')});
value($bank1, q{SELECT dtx_publish('plain', '"lease"')});
$other->must('BEGIN', q{SELECT * FROM dtx_receive('plain', 1, '200 ms')});
wakes('the end of a lease', 'plain', 'lease#2', sub { $other->must('COMMIT') });
value($bank1, q{SELECT dtx_publish('plain', '"rolled back"')});
$other->must('BEGIN', q{SELECT * FROM dtx_receive('plain')});
wakes('the rollback of another', 'plain', 'rolled back#1', sub { $other->must('ROLLBACK') });
value($bank1, q{SELECT dtx_publish('plain', '"to a savepoint"')});
$other->must('BEGIN', 'SAVEPOINT a', q{SELECT * FROM dtx_receive('plain')});
wakes('the rollback to a savepoint', 'plain', 'to a savepoint#1', sub { $other->must('ROLLBACK TO a') });
$other->must('COMMIT');
value($bank1, q{SELECT dtx_publish('plain', '"ended"')});
$other->must('BEGIN', q{SELECT * FROM dtx_receive('plain')});
wakes('the end of another session', 'plain', 'ended#1', sub { $other->close; $other = session($bank1) });
value($bank1, q{SELECT dtx_publish('keyed', to_jsonb(v), 'k') FROM unnest('{k1,k2}'::text[]) v});
$other->must('BEGIN', q{SELECT * FROM dtx_receive('keyed')});
wakes('the next of a key, when the one before it', 'keyed', 'k2#1', sub { $other->must(qq{SELECT dtx_ack('keyed', array_agg(id)) FROM dtx.undelivered WHERE payload = '"k1"'}, 'COMMIT') });
$s->must(q{SELECT dtx_pause('plain')}, q{SELECT dtx_publish('plain', '"paused"')});
wakes('dtx_resume', 'plain', 'paused#1', q{SELECT dtx_resume('plain')});
$s->must(qq{SELECT dtx_nack('plain', @{[ids('m1')]})}, receive('plain'), qq{SELECT dtx_nack('plain', @{[ids('m1')]})});
wakes('dtx_redeliver', 'plain', 'm1#1', q{SELECT dtx_redeliver('plain')});
wakes('dtx_seek', 'plain', 'm3#1', qq{SELECT dtx_seek('plain', (@{[ids('m3')]})[1])});
cmp_ok($spent, '<', 60, 'and does so at once');

# prepared by hand, which tells nobody
$other->must('BEGIN', q{SELECT dtx_publish('quiet', '"prepared"')}, q{PREPARE TRANSACTION 'by hand'});
$waiter->send(receive('quiet'));
ok(waits($waiter), 'waits');
$s->must(q{COMMIT PREPARED 'by hand'});
is($waiter->wait->{out}, 'prepared#1', 'what was prepared by hand is found');

# many of them: each message is one's, and no consumer gets a second before all have one
my $count = 12;
my @many = map { session($bank1) } 1 .. $count;
$_->send(receive('many')) foreach @many;
ok(waits(@many), 'many wait');
$s->must(qq{SELECT dtx_publish('many', to_jsonb(i::text)) FROM generate_series(1, $count) i});
is(join(' ', sort map { $_->wait->{out} } @many), join(' ', sort map { "$_#1" } 1 .. $count), 'one message for each');
$_->send(receive('many')) foreach @many;
ok(waits(@many), 'and again');
my @waiting = @many;
foreach my $i (1 .. 3)
{
	$s->must(qq{SELECT dtx_publish('many', to_jsonb('x$i'::text))});
	ok(wait_until(sub { (grep { !$_->busy } @waiting) == 1 }, 'one is served'), 'one message wakes one');
	@waiting = grep { $_->busy } @waiting;
}
$_->close foreach @many;

# what it keeps others from: nothing
$waiter->send('BEGIN; ' . receive('quiet'));
ok(waits($waiter), 'waits, in a transaction');
is(value($bank1, 'SELECT backend_xid IS NULL FROM pg_stat_activity WHERE pid = ' . $waiter->backend), 't', 'it has no transaction id');
is(value($bank1, q{SELECT count(*) FROM pg_locks WHERE relation::regclass::text LIKE 'dtx.message\_%' AND pid = } . $waiter->backend), '0', 'nor a lock on the log');
is(value($bank1, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = } . $waiter->backend), '0', 'nor one of consumers');
value($bank1, 'VACUUM dtx.undelivered, dtx.position');
is(value($bank1, q{SELECT count(*) FROM dtx_receive('quiet')}), '0', 'another looks meanwhile');

# what ends it
value($bank1, 'SELECT pg_cancel_backend(' . $waiter->backend . ')');
is($waiter->wait->{state}, '57014', 'it can be cancelled');
$waiter->run('ROLLBACK');
is($waiter->run(q{SET statement_timeout = '100ms'; } . receive('quiet'))->{state}, '57014', 'statement_timeout is obeyed');
$waiter->must('RESET statement_timeout');
$waiter->send(receive('gone'));
ok(waits($waiter), 'waits');
$s->must(q{SELECT dtx_unsubscribe('gone')});
is($waiter->wait->{state}, '42704', 'the end of the subscription ends it');
$waiter->send(receive('quiet'));
ok(waits($waiter), 'waits');
value($bank1, 'SELECT pg_terminate_backend(' . $waiter->backend . ')');
ok($waiter->wait->{lost}, 'so does that of the session');
$waiter = session($bank1);
wakes('a message after all that', 'quiet', 'last#1', q{SELECT dtx_publish('quiet', '"last"')});

# what is refused
foreach my $refused (['-1 s', '22023'], ['61 s', '22023'], ['1 month', '22023'])
{
	is($waiter->run("SELECT * FROM dtx_receive('quiet', wait => '$refused->[0]')")->{state}, $refused->[1], "wait of $refused->[0]");
}
$waiter->must('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($waiter->run(receive('quiet'))->{state}, '25004', 'where no message would be seen');
$waiter->must('ROLLBACK', 'BEGIN ISOLATION LEVEL REPEATABLE READ', q{SELECT * FROM dtx_receive('quiet')}, 'COMMIT');

$_->close foreach $s, $waiter, $other;
done_testing();
