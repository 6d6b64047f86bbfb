# The worker keeps dtx's own tables small: it vacuums them by the number of rows
# that came and went.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use DtxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($bank1, $bank2) = two_banks();

# a worker that has nothing to do stays
$bank2->safe_psql('postgres', $_)
  foreach 'ALTER SYSTEM SET dtx.worker_idle_timeout = 0', 'SELECT pg_reload_conf()';

$bank2->safe_psql('bank2', q{
	CREATE TABLE many (id integer PRIMARY KEY, n integer);
	INSERT INTO many SELECT g, 0 FROM generate_series(1, 20000) g;
	SELECT dtx_attach('many')});

my $pid = wait_for_worker();

# the worker's process, once there is one
sub wait_for_worker
{
	my $query =
	  q{FROM pg_stat_activity WHERE backend_type = 'dtx worker' AND datname = 'bank2'};
	$bank2->poll_query_until('bank2', "SELECT count(*) = 1 $query") or die 'there is no worker';
	return $bank2->safe_psql('bank2', "SELECT pid $query");
}

# each round leaves 20,001 dead rows in dtx.undo_log and dtx.joined_branch
for my $round (1 .. 4)
{
	my $xid = $bank1->safe_psql('bank1', q{
		BEGIN;
		SELECT dtx_begin();
		SELECT dtx_exec('bank2', 'UPDATE many SET n = n + 1') <> 20000;
		COMMIT});
	($xid) = split /\n/, $xid;
	is($bank1->safe_psql('bank1', "SELECT dtx_wait('$xid', '180s')"), 'committed', "round $round is settled");
	$bank2->poll_query_until('bank2', q{
		SELECT coalesce(sum(n_dead_tup), 0) < 10000 AND coalesce(sum(vacuum_count), 0) >= } . $round . q{
		FROM pg_stat_user_tables WHERE schemaname = 'dtx' AND relname = 'undo_log'})
	  or die "dtx.undo_log was not vacuumed in round $round";
	pass("round $round: dtx.undo_log is vacuumed");
}

my $pages = $bank2->safe_psql('bank2', q{SELECT pg_relation_size('dtx.undo_log') / 8192});
cmp_ok($pages, '<', 2000, 'rounds use the same pages again');
is(wait_for_worker(), $pid, 'by one and the same worker');

done_testing();
