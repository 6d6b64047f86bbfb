# Logical replication beside dtx: what a subscriber sees of rows in doubt, and the log of
# messages, whose new segments a publication of it gets.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my ($bank1, $bank2) = two_banks(conf => <<'CONF');
wal_level = logical
max_wal_senders = 5
max_replication_slots = 5
max_prepared_transactions = 10
dtx.message_segment_size = '64kB'
dtx.worker_idle_timeout = '10min'
CONF
my $warehouse = PostgreSQL::Test::Cluster->new('warehouse');
$warehouse->init(extra => [ "--encoding=UTF8", "--locale=C" ]);
$warehouse->start;
$warehouse->safe_psql('postgres', 'CREATE TABLE account_info (account_no text PRIMARY KEY, account_name text, account_balance numeric NOT NULL)');
value($bank2, 'CREATE PUBLICATION accounts FOR TABLE account_info');
$warehouse->safe_psql('postgres', sprintf q{CREATE SUBSCRIPTION accounts CONNECTION 'host=%s port=%s dbname=bank2 user=%s' PUBLICATION accounts},
	$bank2->host, $bank2->port, (getpwuid($>))[0]);

sub warehouse_has
{
	my ($balance) = @_;
	return wait_until(sub { $warehouse->safe_psql('postgres', q{SELECT account_balance FROM account_info WHERE account_no = '2'}) eq $balance }, "the warehouse has $balance");
}

ok(warehouse_has('10000'), 'a subscriber has the accounts');
my $s = session($bank1);
my $credit = q{UPDATE account_info SET account_balance = account_balance + 7 WHERE account_no = '2'};
$s->must('BEGIN', "SELECT dtx_exec('bank2', \$\$$credit\$\$)");
ok(warehouse_has('10007'), 'it sees a row in doubt as the branch has left it');
$s->must('ROLLBACK');
ok(warehouse_has('10000'), 'and then as it was before');
$s->must('BEGIN', "SELECT dtx_exec('bank2', \$\$$credit\$\$)", 'COMMIT');
ok(warehouse_has('10007'), 'what is committed stays');
$s->must('BEGIN', q{SELECT dtx_begin('xa')}, "SELECT dtx_exec('bank2', \$\$$credit\$\$)", 'ROLLBACK', 'BEGIN', q{SELECT dtx_begin('xa')}, "SELECT dtx_exec('bank2', \$\$$credit\$\$)", 'COMMIT');
ok(warehouse_has('10014'), 'as does what a branch in XA has done');
ok(settled($bank1, $bank2), 'all is settled');
is(value($bank2, q{SELECT account_balance FROM account_info WHERE account_no = '2'}), '10014', 'both have the same');

# the log
value($bank1, q{CREATE PUBLICATION log FOR TABLE dtx.message});
value($bank1, q{CREATE PUBLICATION "Some of it" FOR TABLE dtx.message (id, topic, key) WHERE (topic = 'here')});
value($bank1, q{CREATE PUBLICATION parent FOR TABLE ONLY dtx.message});
value($bank1, q{CREATE PUBLICATION everything FOR ALL TABLES});
value($bank1, q{SELECT pg_create_logical_replication_slot('log', 'pgoutput')});
value($bank1, q{SELECT dtx_subscribe('here', name => 'here')});
my $published = 0;
ok(wait_until(sub { $published += 20;
	value($bank1, q{SELECT count(dtx_publish('here', to_jsonb((SELECT string_agg(md5(g || random()::text || i), '') FROM generate_series(1, 45) g)))) FROM generate_series(1, 20) i});
	return value($bank1, 'SELECT max(segment) FROM dtx.message_segment') >= 3 }, 'three segments'), 'segments follow each other');
my $names = value($bank1, q{SELECT string_agg('message_' || segment, ' ' ORDER BY segment) FROM dtx.message_segment});
is(value($bank1, qq{SELECT string_agg(tablename, ' ' ORDER BY length(tablename), tablename) FROM pg_publication_tables WHERE pubname = '$_' AND tablename LIKE 'message\\_%' AND tablename ~ '[0-9]'}), $names, "publication \"$_\" has them all")
  foreach 'log', 'Some of it', 'everything';
is(value($bank1, q{SELECT count(DISTINCT (attnames, rowfilter)), max(attnames::text), max(rowfilter) FROM pg_publication_tables WHERE pubname = 'Some of it'}),
	q{1|{id,topic,key}|(topic = 'here'::text)}, 'with columns and filter');
is(value($bank1, q{SELECT string_agg(tablename, ' ') FROM pg_publication_tables WHERE pubname = 'parent'}), 'message', 'one without segments stays so');
is(value($bank1, q{SELECT count(*) FROM pg_logical_slot_get_binary_changes('log', NULL, NULL, 'proto_version', '1', 'publication_names', 'log') WHERE get_byte(data, 0) = ascii('I')}),
	$published, 'and a reader gets each message');
is(value($bank1, q{SELECT count(*) FROM dtx_receive('here', 10000)}), $published, 'as a consumer does');

# somebody alters a publication of it, and does not come to an end: the worker has other things to do
my $mark = log_mark($bank1);
$s->must('BEGIN', q{ALTER PUBLICATION log ADD TABLE account_info});
ok(wait_until(sub { value($bank1, q{SELECT count(dtx_publish('here', to_jsonb((SELECT string_agg(md5(g || random()::text || i), '') FROM generate_series(1, 45) g)))) FROM generate_series(1, 20) i});
	return log_since($bank1, $mark) =~ /could not rotate the log of messages/ }, 'the segment is full'), 'a publication that is locked keeps the log from its next segment');
my $newest = value($bank1, 'SELECT max(segment) FROM dtx.message_segment');
value($bank1, "SELECT dtx_exec('bank2', \$\$$credit\$\$)");
ok(settled($bank1, $bank2), 'and nothing from being settled');
$s->must('COMMIT');
ok(wait_for_value($bank1, "SELECT max(segment) > $newest FROM dtx.message_segment", 't'), 'until it is free');
$names = value($bank1, q{SELECT max(segment) FROM dtx.message_segment});
is(value($bank1, qq{SELECT count(*) FROM pg_publication_tables WHERE pubname = 'log' AND tablename = 'message_$names'}), '1', 'and has that segment');
value($bank1, q{SELECT dtx_unsubscribe('here')});

$s->close;
$warehouse->safe_psql('postgres', 'DROP SUBSCRIPTION accounts');
done_testing();
