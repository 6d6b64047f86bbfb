# A peer may be anything that answers. Whatever it says: no process crashes, a
# session gets an error, and the worker goes on serving the others.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::FakePeer;

# What an honest peer answers: the call's name, its pattern, the number of
# columns, and the rows for the call's parameters. The first that fits counts.
my @calls = (
	[ startup => qr/^startup$/, 0, sub { } ],
	# node, protocol_version, version, in_recovery
	[ hello => qr/dtx\.peer_hello/, 4, sub { [ 'hostile.00000000', $_[0], '15.0', 'f' ] } ],
	# node
	[ join => qr/dtx\.branch_join/, 1, sub { ['hostile.00000000'] } ],
	# outcome, detail, written, durable: a row a branch, and the last
	[ settle => qr/dtx\.branch_settle/, 4,
		sub { (map { [ 'settled', undef, undef, undef ] } "@_" =~ m{:\d+\.[0-9a-f]{16}/}g), [ undef, undef, '0/1000', '0/1000' ] } ],
	# gid, n, node, resolved
	[ pending => qr/dtx\.branch_pending/, 4, sub { } ],
	[ flush => qr/dtx\.branch_flush/, 1, sub { [''] } ],
	[ other => qr/dtx\./, 1, sub { [''] } ],
	[ decision => qr/^(COMMIT|ROLLBACK) PREPARED/, 0, sub { } ],
	[ prepare => qr/^PREPARE/, 0, sub { } ],
	[ query => qr/^SELECT 'right'/, 1, sub { ['right'] } ],
	[ statement => qr/./, 0, sub { } ],
);

# Each row of an answer, changed.
sub each_row
{
	my ($change) = @_;
	return sub { my ($answer) = @_; (rows => [ map { [ $change->(@$_) ] } @{ $answer->{rows} } ]) };
}

# Every value that is there, replaced; the last row alone has positions.
sub each_value
{
	my ($value) = @_;
	return each_row(sub { map { defined $_ ? $value : undef } @_ });
}

# Ids of branches that name the node which asks, and one of another node's, of
# which this one is said to have begun a branch.
sub ids_of_asker
{
	my ($answer, $nodes) = @_;
	my ($node) = $nodes =~ /([^{},"]+)/;
	my @n = qw(1 4294967296 9223372036854775807 18446744073709551000);
	return (rows => [ (map { [ "$node:$_.0123456789abcdef/7", $_, $node, 'f' ] } @n),
			[ 'stranger.00000000:5.0123456789abcdef/7/8', $n[-1], $node, 'f' ] ]);
}

my %distortions = (
	'no rows' => sub { (rows => []) },
	'no columns' => sub { (columns => 0, rows => []) },
	'two columns too few' => sub { (columns => $_[0]{columns} - 2, each_row(sub { @_[ 0 .. $#_ - 2 ] })->(@_)) },
	'NULLs' => each_row(sub { map { undef } @_ }),
	'garbage' => each_value('garbage'),
	'garbage like a position' => each_value('gar/bage'),
	'another protocol' => each_value('4711'),
	'bytes that are no text' => each_value("\xff/\xfe"),
	'a name that is no text' => each_row(sub { ("\xff.00000000", @_[ 1 .. $#_ ]) }),
	'a row too few' => sub { my ($answer) = @_; (rows => [ @{ $answer->{rows} }[ 1 .. $#{ $answer->{rows} } ] ]) },
	'rows too many' => sub { my ($answer) = @_; (rows => [ ($answer->{rows}[0]) x 5, @{ $answer->{rows} } ]) },
	'a long error in a row' => each_row(sub { defined $_[0] ? ('failed', "\xc3\xa9" x 5000, @_[ 2 .. $#_ ]) : @_ }),
	'ids that are none' => sub { (rows => [ map { [ ($_) x 4 ] } '', undef, '/', 'x/1', 'a:b/1', 'x' x 100_000, "\xff:1.\xff/1" ]) },
	'ids of others' => sub { (rows => [ map { [ "stranger.00000000:$_.0123456789abcdef/1", $_, 'stranger.00000000', 'f' ] } 5, 6 ]) },
	'ids that never were' => \&ids_of_asker,
	'an error' => sub { (error => { S => 'ERROR', C => 'XX000', M => 'I do not like you' }) },
	'an error without SQLSTATE' => sub { (error => { M => 'I do not like you' }) },
	'an error of success' => sub { (error => { C => '00000', M => 'I do not like you' }) },
	'an error of few letters' => sub { (error => { C => '4', M => 'I do not like you' }) },
	'an error without fields' => sub { (error => {}) },
	'a lost statement' => sub { (error => { C => '26000', M => 'I do not like you' }) },
	'the end' => sub { (raw => '', close => 1) },
	'half an answer' => sub { (raw => "D\0\0\4\0x", close => 1) },
	'silence' => sub { (silent => 1) },
	'noise' => sub { (raw => "\xff" x 100) },
	'COPY' => sub { (raw => 'G' . pack('NCn', 7, 0, 0)) },
	'an early end of the call' => sub { (raw => 'Z' . pack('N', 5) . 'I') },
	'an open transaction' => sub { (status => 'T') },
);

my $hostile = DtxTest::FakePeer->new(calls => \@calls, distortions => \%distortions);
my ($bank1, $bank2) = two_banks(conf => <<'CONF');
dtx.call_timeout = '300ms'
dtx.recovery_interval = '200ms'
dtx.retry_max = '100ms'
CONF
my ($host, $port) = ($hostile->host, $hostile->port);
$bank1->safe_psql('bank1', <<"SQL");
CREATE SERVER hostile FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '$host', port '$port', dbname 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER hostile;
SQL
my $total = money($bank1, $bank2);
my $started = q{SELECT pg_postmaster_start_time(), pid FROM pg_stat_activity WHERE backend_type = 'dtx launcher'};
my $launcher = value($bank1, $started);
my $s = patient_session();
my $call = q{SELECT dtx_exec('hostile', 'UPDATE anything')};

# --- sessions

# Only who is told to gives a call up.
sub patient_session
{
	my $session = session($bank1);
	$session->must('SET dtx.call_timeout = 0');
	return $session;
}

sub session_gets
{
	my ($call, $distortion, $states, $sql) = @_;
	my $what = "session, $call: $distortion";
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$hostile->distort($call => $distortion);
	$s->must(q{SET dtx.call_timeout = '300ms'}) if $distortion eq 'silence';
	my $r = $s->run($sql);
	ok(!$r->{ok} && ($r->{state} // 'lost') =~ /^($states)$/, "$what: an error")
	  or diag "its SQLSTATE is " . ($r->{state} // 'lost') . ": $r->{err}";
	$hostile->distort;
	$s->must('ROLLBACK', 'SET dtx.call_timeout = 0');
	return;
}

# the answer to a call is not taken for the next one's
sub session_goes_on
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $r = $s->run(q{SELECT x FROM dtx_query('hostile', 'SELECT ''right''') AS t(x text)});
	is($r->{out}, 'right', "session, $what: the next call gets its answer")
	  or do { diag $r->{err}; $s = patient_session() };
	ok(() = $hostile->journal('hello'), "session, $what: on a new connection") if $what =~ /open/;
	return;
}

my $unexpected = 'HV00[0-9A-Z]';
my $nameless = 'DX006|XX000|38000|HV000';
# what is no answer at all
my @broken = (['the end', 'DX006'], ['half an answer', 'DX006'], ['noise', 'DX006'], ['COPY', "DX006|$unexpected"],
	['an early end of the call', "DX006|$unexpected"], ['silence', 'DX006']);

my $ping = q{SELECT dtx_ping('hostile')};
session_gets(startup => $_, 'DX006', $ping) foreach 'the end', 'an error', 'noise';
session_gets(hello => @$_, $ping)
  foreach ['no rows', $unexpected], ['two columns too few', $unexpected], ['NULLs', "$unexpected|55000"], ['another protocol', '55000'],
  ['garbage', '55000'], ['an error', 'XX000'], ['an error without SQLSTATE', $nameless],
  (grep { $_->[0] ne 'silence' } @broken), ['silence', 'DX006'];
$s->must(q{SET dtx.connect_timeout = '300ms'});
session_gets(hello => 'silence', 'DX006', $ping);
$s->must('RESET dtx.connect_timeout');

foreach my $step (qw(join statement))
{
	session_gets($step => @$_, $call), session_goes_on("$step: $_->[0]")
	  foreach ['an error', 'XX000'], ['an error without SQLSTATE', $nameless], ['an error without fields', $nameless],
	  ['an error of success', '[1-9A-Z]....|0[3-9A-Z]...'], ['an error of few letters', '[0-9A-Z]{5}'],
	  ['a lost statement', 'DX006|HV000'], ['an open transaction', 'DX006|HV000'], @broken;
}
session_gets(join => $_, $unexpected, $call), session_goes_on("join: $_") foreach 'no rows', 'no columns';

# a savepoint's rollback is carried out before the next call
foreach (['no rows', $unexpected], ['no columns', $unexpected], ['NULLs', "$unexpected|DX001"], ['garbage', "$unexpected|DX001"],
	['a long error in a row', 'DX001'], ['an error', 'XX000'], @broken)
{
	$s->must(q{SET dtx.lock_timeout = '200ms'}, 'BEGIN', 'SAVEPOINT a', $call, 'ROLLBACK TO a');
	session_gets(settle => @$_, $call);
	session_goes_on("settle: $_->[0]");
}

# XA: the transaction there is open from call to call, and the decision's answer
# is nobody's to wait for; the next call runs into it
SKIP:
{
	skip 'no XA', 1 if $bank1->psql('bank1', q{SELECT dtx_begin('xa')}) != 0;
	foreach (['an error', 'XX000'], @broken)
	{
		$s->must('BEGIN', q{SELECT dtx_begin('xa')}, $call);
		session_gets(prepare => @$_, 'COMMIT');
		session_goes_on("prepare: $_->[0]");
	}
	foreach my $distortion ('an error', grep { $_ ne 'silence' } map { $_->[0] } @broken)
	{
		my $what = "session, decision: $distortion";
		$s->must('BEGIN', q{SELECT dtx_begin('xa')}, $call);
		$hostile->distort(decision => $distortion);
		my $r = $s->run('COMMIT');
		ok($r->{ok}, "$what: the transaction is committed") or diag $r->{err};
		wait_until(sub { my @asked = $hostile->journal('decision'); @asked }, 'the decision is sent');
		$hostile->distort;
		$r = eval { $s->run($call) } // { state => 'none' };
		like($r->{state}, qr/^(00000|DX006|$unexpected)$/, "$what: the next call ends");
		$s = patient_session() if $r->{state} eq 'none';
		session_goes_on("decision: $distortion");
	}
}
is_settled($total, 'sessions', $bank1, $bank2);

# --- the worker

my $worker;

# Whoever is there now is the one to survive what comes.
sub the_worker
{
	wait_until(sub { ($worker = workers($bank1)) =~ /^\d+$/ }, 'a worker');
	return;
}

the_worker();
my $healthy = patient_session();

sub healthy_peer_is_served
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $r = $healthy->run("SELECT dtx_transfer('bank2', '1', '2', 1)");
	$r = $healthy->run("SELECT dtx_wait('$r->{out}', '180s')") if $r->{ok};
	is($r->{out}, 'committed', "$what: a transfer to another peer is settled") or diag $r->{err};
	is(workers($bank1), $worker, "$what: by the same worker");
	return;
}

# A transaction with two branches there is to be settled while a call is
# distorted, and more of them where that is needed to get there. $error is what
# dtx_peers has to show, or the view that is named.
sub worker_meets
{
	my ($step, $distortion, $error, %more) = @_;
	my $view = delete $more{view} // 'dtx_peers WHERE NOT reachable AND';
	my $attempts = delete $more{attempts} // 2;
	my $what = "worker, $step: $distortion";
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$s->must('BEGIN', $call, $call);
	my $xid = $s->must('SELECT dtx_xid()');
	$hostile->distort($step => $distortion, %more);
	$s->must('COMMIT');
	ok(wait_until(sub { my @asked = $hostile->journal($step); @asked >= $attempts }, 'attempts'), "$what: tried");
	ok(wait_for_value($bank1, "SELECT count(*) > 0 FROM $view server = 'hostile' AND last_error ~ '$error'", 't'),
		"$what: the error is shown") if defined $error;
	healthy_peer_is_served($what);
	$hostile->distort;
	is($s->must("SELECT dtx_wait('$xid', '180s')"), 'committed', "$what: settled when the peer is honest again");
	the_worker();
	return;
}

my $no_answer = 'unexpected answer';
worker_meets(settle => @$_)
  foreach ['no rows', $no_answer], ['two columns too few', $no_answer], ['NULLs', $no_answer], ['garbage', $no_answer],
  ['garbage like a position', $no_answer], ['bytes that are no text', '.'], ['the end', '.'],
  ['half an answer', '.'], ['noise', '.'], ['an early end of the call', '.'], ['silence', 'in time'];
# of the branches, not of the peer
worker_meets(settle => @$_, view => 'dtx_branches WHERE')
  foreach ['an error', 'XX000: I do not like you'], ['an error without SQLSTATE', 'I do not like you'],
  ['a lost statement', '.'], ['a row too few', '.'], ['a long error in a row', '.'];
worker_meets(settle => 'rows too many', undef, attempts => 1);
worker_meets(pending => @$_)
  foreach ['no columns', $no_answer], ['an error', 'XX000: I do not like you'], ['a lost statement', '.'], ['the end', '.'],
  ['half an answer', '.'], ['silence', 'in time'], ['ids that are none', undef], ['ids of others', undef];
worker_meets(flush => $_, '.') foreach 'an error', 'the end', 'silence';
# when a recovery pass ends the connection the worker connects anew
worker_meets(hello => @$_, pending => 'the end')
  foreach ['no rows', $no_answer], ['two columns too few', $no_answer], ['NULLs', '.'], ['another protocol', 'another version'],
  ['an error without SQLSTATE', 'I do not like you'], ['the end', '.'], ['silence', 'in time'];
worker_meets(startup => 'the end', '.', pending => 'the end');

# It is greeted well each time, and fails in the next call: backoff all the same.
$s->must('BEGIN', $call);
my $xid = $s->must('SELECT dtx_xid()');
$hostile->distort(settle => 'no rows');
$s->must('COMMIT');
ok(wait_for_value($bank1, q{SELECT attempts > 3 FROM dtx_peers WHERE server = 'hostile'}, 't'), 'failures are counted up');
$hostile->distort;
is($s->must("SELECT dtx_wait('$xid', '180s')"), 'committed', 'and forgotten');

# What is stored is text, whatever the peer's error was.
sub texts_are_valid
{
	my ($what) = @_;
	my $texts = join ' UNION ALL ', map { my $view = $_; map { "SELECT $_ AS x FROM $view" } qw(last_error node) } qw(dtx_peers dtx_branches);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $r = $healthy->run("SELECT count(convert_from(convert_to(x, 'UTF8'), 'UTF8')) >= 0 FROM ($texts) t");
	is($r->{out}, 't', "$what: the views can be read") or diag $r->{err};
	return;
}

foreach ([ { settle => 'a long error in a row' }, 'a long error' ],
	[ { settle => 'bytes that are no text' }, 'garbage in a row' ],
	[ { settle => 'an error', join => 'a name that is no text' }, 'a name at the join' ],
	[ { settle => 'an error', pending => 'the end', hello => 'a name that is no text' }, 'a name in the greeting' ])
{
	my ($orders, $what) = @$_;
	$s = patient_session();
	$hostile->distort(%$orders);
	# an error is as good an answer
	if ($s->run("BEGIN; $call")->{ok})
	{
		$xid = $s->must('SELECT dtx_xid()');
		$s->must('COMMIT');
		wait_until(sub { my @asked = $hostile->journal($orders->{pending} ? 'hello' : 'settle'); @asked > 2 }, 'another attempt');
		texts_are_valid($what);
		$hostile->distort;
		is($s->must("SELECT dtx_wait('$xid', '180s')"), 'committed', "$what: settled at last");
	}
	$s->close;
}
the_worker();

# --- branches that the peer says it has

my $mark = log_mark($bank1);
$hostile->distort(pending => 'ids of others');
ok(wait_for_log_line($bank1, qr/a peer has 2 branches in doubt whose decision is not remembered here/, $mark),
	'branches of other nodes are reported');
is(scalar(grep { /stranger/ } $hostile->journal('settle')), 0, 'and nothing is said of them to the peer');
$hostile->distort(pending => 'ids that never were');
ok(wait_until(sub { grep { /:18446744073709551000\./ } $hostile->journal('settle') }, 'the rollback'),
	'branches of this node without a row are rolled back');
$hostile->distort;
ok(settled($bank1, $bank2), 'they are settled');
healthy_peer_is_served('ids that never were');

# Nor do they matter when the history is forgotten, which they are part of.
$bank1->append_conf('test.conf', 'dtx.history_retention = 0');
$bank1->reload;
wait_for_value($bank1, 'SHOW dtx.history_retention', '0');
value($bank1, "SELECT pg_terminate_backend($worker, 10000)");
ok(wait_for_value($bank1, q{SELECT count(*) FROM dtx_history WHERE server = 'hostile'}, '0'), 'the history is forgotten');
is(value($bank1, $started), $launcher, 'nothing crashed so far');
$s = patient_session();
$s->must('BEGIN', "SELECT dtx_transfer('bank2', '1', '2', 1)");
crash($bank1);
$s->close;
$bank1->start;
ok(wait_for_value($bank2, q{SELECT count(*) FROM dtx_branches}, '0'), 'a branch that a crash left is rolled back');
is(money($bank1, $bank2), $total, 'the sum of money is what it was');

unlike(log_since($bank1) . log_since($bank2), qr/PANIC|TRAP:|terminated by signal/, 'no process crashed');
$hostile->stop;

done_testing();
