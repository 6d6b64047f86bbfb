# Branches that an operator has decided at the participant, while the coordinator was
# away: it is heard when it is back, whatever it has decided, and both sides tell where
# that was something else.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

# nobody but the coordinator asks: the participant has no server that leads back
my $bank1 = new_bank('bank1');
my $bank2 = new_bank('bank2');
make_peer($bank1, $bank2);
$bank2->safe_psql('bank2', q{
CREATE TABLE entry (id int PRIMARY KEY, v int); INSERT INTO entry VALUES (1, 0), (2, 0); SELECT dtx_attach('entry');
CREATE FUNCTION noop(i int) RETURNS void LANGUAGE sql AS 'SELECT 1';
SELECT dtx_tcc_define('noop', 'noop(int)', 'noop(int)', 'noop(int)')});

# Two branches of a transaction whose coordinator crashes before it is decided.
sub orphan
{
	my ($call) = @_;
	my $s = session($bank1);
	$s->must('BEGIN', map { sprintf $call, $_ } 1, 2);
	my $xid = $s->must('SELECT dtx_xid()');
	crash($bank1);
	return $xid;
}

my %call = (
	at => q{SELECT dtx_exec('bank2', 'UPDATE entry SET v = v + 100 WHERE id = %d')},
	tcc => q{SELECT dtx_try('bank2', 'noop', '{"i": %d}')});

foreach my $mode (sort keys %call)
{
	# decided otherwise than by the crash, which means: rolled back
	my $before = value($bank2, q{SELECT value FROM dtx_stats WHERE name = 'heuristic_conflicts'});
	my $xid = orphan($call{$mode});
	is(value($bank2, q{SELECT string_agg(dtx_resolve(xid, 'commit')::text, ' ') FROM dtx_branches}),
		'2 0', "$mode: one statement over all branches resolves each once");
	is(value($bank2, q{SELECT string_agg(DISTINCT state, ' ') FROM dtx_branches}),
		'resolved', "$mode: shown until the coordinator is heard");
	is(session($bank2)->run("SELECT dtx_resolve('$xid', 'rollback')")->{state}, '42704', "$mode: not the contrary as well");
	revive($bank1);
	ok(wait_for_value($bank2, q{SELECT count(*) FROM dtx_branches WHERE state = 'heuristic conflict' AND conflict LIKE 'committed with dtx_resolve%'}, '2'),
		"$mode: the participant shows the conflict");
	is(value($bank2, q{SELECT value FROM dtx_stats WHERE name = 'heuristic_conflicts'}) - $before, 2, "$mode: and counts it");
	ok( wait_for_value($bank1, "SELECT string_agg(outcome, ', ') FROM dtx_history WHERE xid = '$xid'",
			'rolled back, but committed at the participant, rolled back, but committed at the participant'),
		"$mode: so does the coordinator's history");
	is(value($bank1, q{SELECT value FROM dtx_stats WHERE name = 'heuristic_conflicts'}), '2', "$mode: it counts it too");
	is(value($bank2, q{SELECT string_agg(dtx_resolve(xid, 'forget')::text, ' ') FROM dtx_branches}),
		'2 0', "$mode: forgotten, in one statement too");
	is(value($bank2, 'SELECT count(*) FROM dtx_branches'), '0', "$mode: nothing is left");

	# decided as by the crash
	$xid = orphan($call{$mode});
	is(value($bank2, q{SELECT string_agg(dtx_resolve(xid, 'rollback')::text, ' ') FROM dtx_branches}), '2 0', "$mode: rolled back by hand");
	revive($bank1);
	ok(wait_for_value($bank2, q{SELECT string_agg(state, '') FROM dtx.resolution}, 'aa'), "$mode: the coordinator agrees");
	is(value($bank2, 'SELECT count(*) FROM dtx_branches'), '0', "$mode: nothing more to do");
	is(value($bank2, q{SELECT value FROM dtx_stats WHERE name = 'heuristic_conflicts'}) - $before, 2, "$mode: no conflict");
	# and what is agreed on is forgotten in time
	append_to_file($bank2->data_dir . '/test.conf', "dtx.history_retention = 0\n");
	forget_sessions();
	$bank2->restart;
	ok(wait_for_value($bank2, 'SELECT count(*) FROM dtx.resolution', '0'), "$mode: the record goes with the history");
	append_to_file($bank2->data_dir . '/test.conf', "dtx.history_retention = '7d'\n");
	$bank2->reload;
}
is(value($bank2, 'SELECT sum(v) FROM entry'), '200', 'what was committed by hand stays');

# a decision that the coordinator does not remember: it waits, and the log is not
# filled with what nobody can do anything about
$bank1->safe_psql('bank1', 'UPDATE dtx.node SET memory_from = 9223372036854775807');
forget_sessions();
$bank1->restart;
my $xid = value($bank1, q{SELECT name || '.' || tag || ':1000000.0123456789abcdef' FROM dtx.node});
my $mark = log_mark($bank1);
session($bank2)->must('BEGIN', "SELECT dtx.branch_join('$xid/1', 'at', 0, 0, 1, 0)", 'UPDATE entry SET v = 0', 'COMMIT');
ok(wait_for_log_line($bank1, qr/not remembered here/, $mark), 'a branch in doubt that the coordinator knows nothing of');
is($bank2->safe_psql('bank2', "SELECT dtx_resolve('$xid', 'rollback')"), '1', 'is resolved');
my $passes = q{SELECT value FROM dtx_stats WHERE name = 'recovery_passes'};
# one may be under way
my $from = value($bank1, $passes) + 1;
ok(wait_until(sub { value($bank1, $passes) > $from }, 'two more'), 'the coordinator asks again');
$mark = log_mark($bank1);
$from = value($bank1, $passes);
ok(wait_until(sub { value($bank1, $passes) > $from + 1 }, 'two more'), 'and again');
is(value($bank2, q{SELECT string_agg(state, '') FROM dtx.resolution}), 'd', 'what it does not know it does not judge');
unlike(log_since($bank1, $mark), qr/not remembered here/, 'nor warn of any more');
is(value($bank2, "SELECT dtx_resolve('$xid', 'forget')"), '1', 'the operator ends it');
is_settled(20000, 'in the end', $bank1, $bank2);

done_testing();
