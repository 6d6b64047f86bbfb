# Failover in all modes: a coordinator's synchronous standby settles what is in
# doubt, and only what it has; the old primary that comes back beside it is
# fenced; what a participant's lagging standby has lost is shown.
# t/004_failover.pl has what does not depend on the mode.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Modes;

# An account for each mode: branches in doubt of one transaction stand in nobody's way.
my @modes = qw(at xa tcc);
my $conf = <<'CONF';
max_prepared_transactions = 20
dtx.recovery_interval = '300ms'
CONF
my ($bank1, $bank2) = map {
	new_bank($_, streaming => 1, conf => $conf, accounts => [ map { "('$_', 'Owner of $_', 1000)" } @modes ])
} qw(bank1 bank2);
define_actions($_) foreach $bank1, $bank2;
make_peer($bank1, $bank2);
make_peer($bank2, $bank1);
my $total = money($bank1, $bank2);

sub make_standby
{
	my ($primary, $name) = @_;
	$primary->backup($name);
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$standby->init_from_backup($primary, $name, has_streaming => 1);
	$standby->{bank} = $primary->{bank};
	$standby->start;
	return $standby;
}

# Commits of a primary wait for that standby, or for none.
sub wait_for_standby
{
	my ($primary, $name) = @_;
	$primary->append_conf('test.conf', "synchronous_standby_names = '$name'");
	return unless $primary->{_pid};
	$primary->reload;
	ok( wait_until(
			sub { forget_sessions(); value($primary, 'SHOW synchronous_standby_names') eq $name },
			'the setting is in force'),
		$name eq '' ? 'no standby is waited for' : "$name is waited for");
	return;
}

# Let the other side's server name another cluster.
sub point_to
{
	my ($node, $server, $target) = @_;
	my $port = $target->port;
	$node->safe_psql($node->{bank}, "ALTER SERVER $server OPTIONS (SET port '$port')");
	return;
}

# Begin a transaction with a branch of each mode; returns the session and the xid.
sub transfers
{
	my ($coordinator, @some) = @_;
	my $s = session($coordinator);
	$s->must('BEGIN', map { "SELECT dtx_transfer('bank2', '$_', '$_', 10, '$_')" } @some);
	return ($s, $s->must('SELECT dtx_xid()'));
}

# Send COMMIT, during which something happens when all is prepared, before the decision.
sub send_commit
{
	my ($coordinator, $s, $what) = @_;
	my $holder = session($coordinator);
	$holder->must('SELECT pg_advisory_lock(1685353504, 1)');
	$s->must("SET dtx.fault_point = 'coordinator-before-commit:wait'");
	$s->send('COMMIT');
	ok( wait_for_value($coordinator, 'SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $s->backend, 'advisory'),
		'all is prepared');
	$what->();
	$holder->close;
	return;
}

# The same, and wait for the answer.
sub commit_while
{
	my ($coordinator, $s, $what) = @_;
	send_commit($coordinator, $s, $what);
	return $s->wait;
}

sub balances
{
	my ($bank) = @_;
	return join ' ', map { balance($bank, $_) } @modes;
}

sub in_doubt
{
	my ($xid) = @_;
	return value($bank2, <<"SQL");
SELECT count(*) FROM (SELECT gid FROM dtx.joined_branch WHERE state = 'd' UNION SELECT gid FROM pg_prepared_xacts) b
WHERE gid LIKE '$xid/%'
SQL
}

# --- the synchronous standby settles what the primary decided

my $standby = make_standby($bank1, 'standby1');
wait_for_standby($bank1, 'standby1');
my ($s, $xid) = transfers($bank1, @modes);
my $r = commit_while($bank1, $s, sub { $bank2->stop('immediate') });
is($r->{ok}, 1, 'the coordinator commits, with the participant down') or diag $r->{err};
$bank1->stop('immediate');
$bank2->start;
is(in_doubt($xid), '3', 'branches of all modes are in doubt');
$standby->promote;
is(value($standby, "SELECT dtx_wait('$xid', '180s')"), 'committed', 'the promoted standby settles them');
is_all_over($total, 'the coordinator has failed over', $standby, $bank2);
is(balances($bank2), '1010 1010 1010', 'the money has come in all modes');
$s->close;
my $old = $bank1;
$bank1 = $standby;
point_to($bank2, 'bank1', $bank1);
wait_for_standby($bank1, '');

# --- the old primary comes back, beside the promoted one

# What a node calls for at the participant, on that timeline, is refused.
sub is_refused
{
	my ($what, $timeline) = @_;
	my $node = value($bank1, q{SELECT name || '.' || tag FROM dtx.node});
	my $gid = "$node:1000000.0123456789abcdef/1";
	my $caller = session($bank2);
	my %calls = (
		'a branch' => "SELECT dtx.branch_join('$gid', 'at', 0, 0, $timeline, 0)",
		'settling' => "SELECT * FROM dtx.branch_settle(ARRAY['$node'], $timeline, 0, ARRAY['$gid'], '{t}', 'a', '{}')",
		'asking for branches in doubt' => "SELECT * FROM dtx.branch_pending(ARRAY['$node'], $timeline)");
	foreach my $call (sort keys %calls)
	{
		my $answer = $caller->run($calls{$call});
		is($answer->{state}, 'DX003', "$what: $call is refused");
		like($answer->{err}, qr/is not obeyed any more on timeline $timeline/, "$what: $call: and the error says why");
	}
	$caller->close;
	return;
}

wait_for_standby($old, '');
$old->start;
my $before = balances($bank2);
$s = session($old);
foreach my $mode (@modes)
{
	$r = $s->run("SELECT dtx_transfer('bank2', '$mode', '$mode', 100, '$mode')");
	is($r->{state}, 'DX003', "$mode: the old primary's branch is refused") or diag $r->{err};
	like($r->{err}, qr/is not obeyed any more/, "$mode: and the error says why");
}
ok(wait_for_value($old, q{SELECT last_error LIKE '%is not obeyed any more%' FROM dtx_peers WHERE server = 'bank2'}, 't'),
	'its worker is refused, too');
is_refused('the old timeline', 1);
is(balances($bank2), $before, 'nothing has changed');
$s->close;
$s = session($bank1);
is($s->run("SELECT dtx_transfer('bank2', 'at', 'at', 10)")->{ok}, 1, 'the promoted one is obeyed');
$s->close;
is_all_over($total, 'with the old primary beside it', $bank1, $bank2);
crash($bank2);
$bank2->start;
is_refused('after a crash', 1);
$old->stop('fast');

# --- a decision that the standby never got is not carried out

$standby = make_standby($bank1, 'standby2');
wait_for_standby($bank1, 'standby2');
$before = balances($bank2);
($s, $xid) = transfers($bank1, @modes);
$bank1->wait_for_catchup($standby);
send_commit($bank1, $s, sub { $standby->stop('fast') });
ok( wait_for_value($bank1, 'SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $s->backend, 'SyncRep'),
	'the commit waits for the standby');
is(in_doubt($xid), '3', 'branches of all modes wait for it');
$bank1->stop('immediate');
ok(!$s->wait->{ok}, 'the client has no answer');
$s->close;
$standby->start;
$standby->promote;
is_all_over($total, 'promoted without the decision', $standby, $bank2);
is(balances($bank2), $before, 'branches of all modes are rolled back');

$old = $bank1;
$bank1 = $standby;
point_to($bank2, 'bank1', $bank1);
wait_for_standby($bank1, '');
wait_for_standby($old, '');
$old->start;
is(value($old, "SELECT dtx_status('$xid')"), 'committing', 'the old primary has another mind');
ok( wait_for_value($old, q{SELECT count(*) FROM dtx_branches WHERE last_error LIKE '%is not obeyed any more%'}, '3'),
	'which nobody obeys');
is_refused('the second failover', 2);
is(balances($bank2), $before, 'what the promoted one decided stands');
is(value($bank2, 'SELECT count(*) FROM dtx_branches'), '0', 'and nothing is in doubt');
$old->stop('fast');

# --- what a participant's lagging standby has lost is shown

my $lagging = make_standby($bank2, 'lagging');
$lagging->stop('fast');
($s, $xid) = transfers($bank1, qw(xa tcc));
$r = commit_while($bank1, $s, sub {
	$bank2->stop('immediate');
	$lagging->start;
	$lagging->promote;
	point_to($bank1, 'bank2', $lagging);
});
is($r->{ok}, 1, 'committed while the participant fails over');
foreach my $letter (qw(x t))
{
	ok( wait_for_value($bank1, "SELECT last_error LIKE 'lost%' FROM dtx_branches WHERE xid = '$xid' AND mode = '$letter'", 't'),
		"a lost branch is shown, of mode $letter");
}
is(value($bank1, "SELECT dtx_status('$xid')"), 'committing', 'and not counted as done');
is(balances($lagging), $before, 'as indeed it is not');
is($s->run("SELECT dtx_resolve('$xid', 'forget')")->{out}, '2', 'an operator lets go of them');
$s->close;
is_all_over($total - 20, 'after that', $bank1, $lagging);

done_testing();
