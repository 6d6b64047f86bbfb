# What only later majors of PostgreSQL have, around tables that are attached: columns that are
# computed when they are read, keys of periods, constraints that are not enforced, MERGE that
# returns rows, triggers on login.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my ($version) = qx(postgres -V) =~ /(\d+)/;
plan skip_all => 'it is what later majors have' if $version < 17;

my ($bank1, $bank2) = two_banks();
my $s = session($bank1);

# Run statements as one global transaction that is rolled back, and say how the tables differ from
# before: not at all, when all is well.
sub differences_after_rollback
{
	my ($tables, @statements) = @_;
	my $look = join ' UNION ALL ', map { "SELECT '$_' AS t, to_jsonb(x) AS row FROM $_ x" } @$tables;
	my $all = "SELECT coalesce(string_agg(t || row, ' ' ORDER BY t, row), '') FROM ($look) y";
	my $before = value($bank2, $all);
	$s->must('BEGIN');
	my $xid = $s->must('SELECT dtx_begin()');
	foreach my $statement (@statements)
	{
		my $r = $s->run($statement);
		ok($r->{ok}, $statement) or diag $r->{err};
	}
	isnt(value($bank2, $all), $before, 'something is changed');
	# dtx_undo can show all of it
	is(value($bank2, 'SELECT count(*) FROM dtx_undo WHERE coalesce(before, after) IS NULL'), '0', 'its images can be read');
	$s->must('ROLLBACK');
	is($s->must("SELECT dtx_wait('$xid', '180s')"), 'rolled back', 'it is rolled back');
	return value($bank2, $all) eq $before ? '' : value($bank2, $all);
}

# --- 17: MERGE that returns rows, and deletes what the source does not have; a trigger on login

$bank2->safe_psql('bank2', <<'SQL');
CREATE TABLE parted (id int PRIMARY KEY, x int) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (10) TO (20);
INSERT INTO parted SELECT i, i FROM generate_series(0, 18) AS i;
SELECT dtx_attach('parted');
CREATE TABLE logins (who name, application text);
CREATE FUNCTION note_login() RETURNS event_trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.logins VALUES (session_user, current_setting('application_name')); END $$;
CREATE EVENT TRIGGER on_login ON login EXECUTE FUNCTION note_login();
ALTER EVENT TRIGGER on_login ENABLE ALWAYS;
SQL
$s->close;
$s = session($bank1);
is(differences_after_rollback(['parted'],
		q{SELECT count(*) FROM dtx_query('bank2', 'MERGE INTO parted p USING (VALUES (6), (7), (19)) AS s(i) ON p.id = s.i WHEN MATCHED THEN UPDATE SET x = -1}
		  . q{ WHEN NOT MATCHED THEN INSERT VALUES (s.i, 0) WHEN NOT MATCHED BY SOURCE AND p.id > 15 THEN DELETE RETURNING merge_action(), p.id') AS t(action text, id int)}),
	'', 'MERGE');
cmp_ok(value($bank2, q{SELECT count(*) FROM logins WHERE application = 'dtx'}), '>', 0, 'a trigger on login runs, and may write');
$bank2->safe_psql('bank2', <<'SQL');
CREATE OR REPLACE FUNCTION note_login() RETURNS event_trigger LANGUAGE plpgsql AS
  $$ BEGIN IF current_setting('application_name') = 'dtx' THEN RAISE EXCEPTION 'not today'; END IF; END $$;
SQL
my $other = session($bank1);
my $r = $other->run(q{SELECT dtx_exec('bank2', 'UPDATE parted SET x = 1')});
ok(!$r->{ok} && !$r->{lost}, 'one that fails is an error of the call');
$bank2->safe_psql('bank2', 'DROP EVENT TRIGGER on_login');
is($other->run(q{SELECT dtx_exec('bank2', 'UPDATE parted SET x = x WHERE id = 1')})->{ok}, 1, 'and none when it is gone');
$other->close;

# --- 18: virtual columns, keys of periods, constraints that are not enforced

SKIP:
{
	skip 'it is what 18 has', 1 if $version < 18;

	$bank2->safe_psql('bank2', <<'SQL');
CREATE TABLE computed (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL NOT NULL, CHECK (twice < 1000),
  more int GENERATED ALWAYS AS (a + 1) STORED);
INSERT INTO computed (id, a) VALUES (1, 10), (2, 20);
CREATE TABLE loose (id int PRIMARY KEY, computed int REFERENCES computed NOT ENFORCED, v int CHECK (v > 0) NOT ENFORCED);
INSERT INTO loose VALUES (1, 99, -1), (2, 1, 1);
SELECT dtx_attach('computed'), dtx_attach('loose');
-- a range of ids is a key too, without a way to compare integers in GiST
CREATE TABLE term (item int4range, valid daterange, x int, no int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (item, valid WITHOUT OVERLAPS));
INSERT INTO term VALUES ('[1,2)', '[2020-01-01,2021-01-01)', 5), ('[1,2)', '[2021-01-01,2022-01-01)', 6);
CREATE TABLE applied (id int PRIMARY KEY, item int4range, valid daterange, FOREIGN KEY (item, PERIOD valid) REFERENCES term (item, PERIOD valid));
INSERT INTO applied VALUES (1, '[1,2)', '[2020-06-01,2021-06-01)');
SQL
	$r = session($bank2)->run(q{SELECT dtx_attach('term')});
	is($r->{state}, '55000', 'a key of periods is none to lock rows by');
	like($r->{err}, qr/B-tree/, 'and that is said');
	$bank2->safe_psql('bank2', <<'SQL');
CREATE UNIQUE INDEX term_no ON term (no);
ALTER TABLE term REPLICA IDENTITY USING INDEX term_no;
SELECT dtx_attach('term'), dtx_attach('applied');
SQL
	is(differences_after_rollback([qw(computed loose)],
			map { "SELECT dtx_exec('bank2', '$_')" } 'UPDATE computed SET a = a + 1', 'DELETE FROM computed WHERE id = 1',
			'INSERT INTO computed (id, a) VALUES (3, 30)', 'UPDATE loose SET v = v - 5', 'DELETE FROM loose WHERE id = 2'),
		'', 'virtual columns, and constraints that are not enforced');
	is(differences_after_rollback([qw(term applied)],
			map { "SELECT dtx_exec('bank2', '$_')" } 'DELETE FROM applied',
			'DELETE FROM term WHERE x = 6', q{UPDATE term SET valid = ''[2020-01-01,2020-07-01)''}),
		'', 'keys of periods');
	# what has come to need a row that the branch made cannot be taken back
	$s->must('BEGIN');
	my $xid = $s->must('SELECT dtx_begin()');
	$s->must(q{SELECT dtx_exec('bank2', 'INSERT INTO term VALUES (''[2,3)'', ''[2020-01-01,2021-01-01)'', 7)')});
	$bank2->safe_psql('bank2', q{INSERT INTO applied VALUES (2, '[2,3)', '[2020-02-01,2020-03-01)')});
	$s->must('ROLLBACK');
	ok(wait_for_value($bank2, 'SELECT count(*) FROM dtx_branches WHERE conflict IS NOT NULL', 1), 'a period that is referenced is a conflict');
	$bank2->safe_psql('bank2', 'DELETE FROM applied WHERE id = 2');
	$s->must("SELECT dtx_retry('$xid')");
	is($s->must("SELECT dtx_wait('$xid', '180s')"), 'rolled back', 'until it is not any more');
	is(value($bank2, 'SELECT count(*) FROM term'), '2', 'then the row goes');
}

$s->close;
unlike(log_since($_), qr/PANIC|TRAP:|terminated by signal/, $_->name . ': no process crashed') foreach $bank1, $bank2;
done_testing();
