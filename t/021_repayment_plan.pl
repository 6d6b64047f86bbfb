# The business case of examples/repayment-plan: a loan that is approved gets its
# repayment plan at the repayment service, once; whatever is refused, down, killed,
# delivered twice or replayed in between.

use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Service;

my $example = dirname(__FILE__) . '/../examples/repayment-plan';

# --- as a reader runs it

my $story = PostgreSQL::Test::Utils::tempdir_short() . '/r';
my ($out, $err) = run_command([ 'bash', "$example/run", $story ]);
like($out, qr/^Every loan that is repaying has one plan, which adds up$/m, 'the example runs to its end')
  or diag "$out\n$err";
is($err, '', 'and has nothing to complain of');

# --- the same two databases, to be crashed

my $password = 'not a secret';
my $subscription = 'repayment plans';

sub new_service
{
	my ($name, %variables) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	start_service($node, 'from_loan_service');
	run_script($node, "$example/$name.sql", %variables);
	return $node;
}

my $repayments = new_service('repayment_service', password => $password);
my $loans =
  new_service('loan_service', password => $password, host => $repayments->host, port => $repayments->port);

sub officer
{
	return DtxTest::Session->new($loans->connstr('loan_service') . ' user=loan_officer');
}

# A loan that is fully funded.
sub new_loan
{
	my ($s, %options) = @_;
	my $amount = $options{amount} // 10000;
	my $terms = $options{terms} // '{"months": 12, "annual_rate": 0.06}';
	my $loan = $s->must("SELECT apply_for_loan('Zhang San', $amount, '$terms')");
	$s->must("SELECT fund_loan($loan, 'Wang Wu', $amount)");
	return $loan;
}

# Nothing is on its way any more.
sub arrived
{
	return wait_for_value($loans,
		"SELECT state = 'active' AND lag = 0 AND retrying = 0 AND waiting = 0 FROM dtx_subscriptions", 't');
}

# How often the handler has been called to its end for a loan, how many plans that
# has made, and whether one adds up.
sub has_plan
{
	my ($loan, $received, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ok = arrived();
	my $found = value($repayments, <<"SQL");
SELECT concat_ws(' ',
    (SELECT count(*) FROM received_loan WHERE loan_id = $loan),
    (SELECT count(*) FROM plan WHERE loan_id = $loan),
    (SELECT (SELECT (sum(i.principal), sum(i.amount), count(*)) FROM installment i WHERE i.loan_id = p.loan_id)
        = (p.principal, p.principal + p.interest, (SELECT max(number)::bigint FROM installment i WHERE i.loan_id = p.loan_id))
     FROM plan p WHERE loan_id = $loan))
SQL
	is($ok ? $found : "not arrived: $found", $received ? "$received 1 t" : '0 0',
		"$what: " . ($received ? 'one plan, which adds up' : 'no plan'));
	is(value($loans, "SELECT state FROM loan WHERE loan_id = $loan"),
		$received ? 'repaying' : 'funding', "$what: and the loan");
	return;
}

my $s = officer();

# --- what is refused

my $loan = $s->must(q{SELECT apply_for_loan('Li Si', 1000, '{"months": 3, "annual_rate": 0.05}')});
$s->must("SELECT fund_loan($loan, 'Zhao Liu', 400)");
my $r = $s->run("SELECT approve_loan($loan)");
is($r->{state}, '55000', 'a loan that is not fully funded');
like($r->{err}, qr/loan $loan is not fully funded.*It has 400\.00 of 1000\.00/s, 'whose error says what is missing');
has_plan($loan, 0, 'not fully funded');
is($s->run("SELECT fund_loan($loan, 'Zhao Liu', 601)")->{state}, '23514', 'it needs no more than it needs');
is($s->run('SELECT approve_loan(0)')->{state}, 'P0002', 'a loan that there is not');

$s->must("SELECT fund_loan($loan, 'Wang Wu', 600)");
$s->must('BEGIN', "SELECT approve_loan($loan)", 'ROLLBACK');
has_plan($loan, 0, 'rolled back');
$s->must('BEGIN', 'SAVEPOINT s', "SELECT approve_loan($loan)", 'ROLLBACK TO s', 'COMMIT');
has_plan($loan, 0, 'rolled back to a savepoint');
is(value($loans, 'SELECT count(*) FROM dtx.message'), 0, 'nothing was published');

# two at once: the second waits, and is told that it was approved
my $other = officer();
$s->must('BEGIN', "SELECT approve_loan($loan)");
$other->send("SELECT approve_loan($loan)");
ok( wait_until(
		sub { value($loans, "SELECT wait_event_type FROM pg_stat_activity WHERE pid = " . $other->backend) eq 'Lock' },
		'the second waits'),
	'approved by two at once');
$s->must('COMMIT');
$r = $other->wait;
is($r->{state}, '55000', 'the second is refused');
like($r->{err}, qr/loan $loan was approved before/, 'since the loan was approved');
$other->close;
has_plan($loan, 1, 'approved');
is($s->run("SELECT approve_loan($loan)")->{state}, '55000', 'approved again');
is($s->run("SELECT fund_loan($loan, 'Zhao Liu', 1)")->{state}, '55000', 'funded again');
has_plan($loan, 1, 'approved once');

# --- amounts, to the cent

foreach my $terms ([ 10000, 6, 0.06 ], [ 100, 360, 0.001 ], [ 100, 360, 0.9999 ], [ 999999999.99, 1, 0.36 ],
	[ 100.01, 7, 0 ], [ 123456.78, 13, 0.0475 ])
{
	my ($amount, $months, $rate) = @$terms;
	$loan = new_loan($s, amount => $amount, terms => qq({"months": $months, "annual_rate": $rate}));
	$s->must("SELECT approve_loan($loan)");
	has_plan($loan, 1, "$amount in $months months at $rate");
	is(value($repayments, "SELECT count(DISTINCT amount) FROM installment WHERE loan_id = $loan AND number < $months"),
		$months == 1 ? 0 : 1, "$amount in $months months at $rate: all but the last are the same");
}

# --- rights

is($s->run(q{SELECT dtx_publish('loan.approved', '{}')})->{state}, '42501', 'messages come from approvals only');
is($s->run(q{UPDATE loan SET state = 'repaying'})->{state}, '42501', 'and loans are approved by the function only');
is( value($repayments, <<'SQL'), 'f f t', 'from the loan service come loans only');
SELECT concat_ws(' ', has_table_privilege('from_loan_service', 'plan', 'SELECT, INSERT, UPDATE, DELETE'),
    has_table_privilege('from_loan_service', 'installment', 'SELECT, INSERT, UPDATE, DELETE'),
    has_function_privilege('from_loan_service', 'make_plan(bigint, jsonb)', 'EXECUTE'))
SQL

# --- the repayment service is down: from before, and while it is busy

crash($repayments);
my @late = map { new_loan($s) } 1 .. 20;
$s->must("SELECT approve_loan($_)") foreach @late;
is(value($loans, 'SELECT lag FROM dtx_subscriptions'), 20, 'approved while the repayment service is down');
ok(wait_for_value($loans, q{SELECT state || ' ' || (last_error IS NOT NULL) FROM dtx_subscriptions}, 'failing true'),
	'which can be seen');
$repayments->start;
has_plan($_, 1, 'approved while the repayment service was down') foreach @late[ 0, 19 ];

# it goes down in the middle of a batch: a plan that takes its time is being made
my $blocker = DtxTest::Session->new($repayments->connstr('repayment_service'));
@late = map { new_loan($s) } 1 .. 20;
$blocker->must('BEGIN', "INSERT INTO plan (loan_id, borrower, principal, interest) VALUES ($late[10], 'nobody', 1, 0)");
$s->must('BEGIN', (map { "SELECT approve_loan($_)" } @late), 'COMMIT');
ok( wait_for_value(
		$repayments,
		q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dtx' AND wait_event_type = 'Lock'}, 1),
	'the handler waits in the middle of a batch');
crash($repayments);
$blocker->close;
$repayments->start;
has_plan($_, 1, 'down in the middle of a batch') foreach @late[ 0, 9, 10, 11, 19 ];

# --- the worker is killed, and told to end: before it knows what came of a batch

foreach my $signal (qw(KILL TERM))
{
	$blocker = DtxTest::Session->new($repayments->connstr('repayment_service'));
	@late = map { new_loan($s) } 1 .. 5;
	$blocker->must('BEGIN',
		"INSERT INTO plan (loan_id, borrower, principal, interest) VALUES ($late[2], 'nobody', 1, 0)");
	$s->must('BEGIN', (map { "SELECT approve_loan($_)" } @late), 'COMMIT');
	ok( wait_for_value(
			$repayments,
			q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dtx' AND wait_event_type = 'Lock'}, 1),
		"worker gets SIG$signal: the handler waits");
	my ($pid) = workers($loans) or die 'there is no worker';
	kill $signal, $pid;
	if ($signal eq 'KILL')
	{
		# which takes the server along
		revive($loans);
		$s->close;
		$s = officer();
	}
	else
	{
		ok(wait_until(sub { workers($loans) ne $pid }, 'it ends'), 'the worker ends');
	}
	$blocker->must('ROLLBACK');
	$blocker->close;
	has_plan($_, 1, "worker gets SIG$signal") foreach @late;
}

# --- a crash at each step of a delivery, at either side

# A setting of the cluster, in a file that is emptied while it is down.
sub arm
{
	my ($node, $point) = @_;
	my $path = $node->data_dir . '/test.conf';
	open my $file, '>', $path or die "$path: $!";
	print $file "dtx.fault_point = '$point'\n";
	close $file;
	return;
}

sub crash_at
{
	my ($node, $point, %options) = @_;
	my $what = $node->name . " killed at $point";
	my @crashed = map { new_loan($s) } 1 .. 3;
	# failures are what is written down at some
	my @unreadable = $options{unreadable} ? (new_loan($s, terms => '[]')) : ();
	my $mark = log_mark($node);

	arm($node, "$point:kill");
	$node->reload;
	wait_until(
		sub {
			forget_sessions();
			# no answer: it has got there already
			return (value($node, 'SHOW dtx.fault_point') // "$point:kill") eq "$point:kill";
		},
		'the setting is in force');
	# the client's connection is lost where the loan service goes down: before the
	# commit, after it, or never
	foreach my $sql ('BEGIN', (map { "SELECT approve_loan($_)" } @unreadable, @crashed), 'COMMIT')
	{
		last unless $s->run($sql)->{ok};
	}
	ok(wait_for_log_line($node, qr/fault point "$point": kill/, $mark), "$what: reached");
	arm($node, '');
	revive($node);
	# as a client has to: look whether it was committed, and do it if it was not
	$s->close;
	$s = officer();
	$s->must("SELECT approve_loan(loan_id) FROM loan WHERE state = 'funding' AND loan_id = ANY ('{"
		  . join(',', @unreadable, @crashed) . "}')");
	has_plan($_, 1, $what) foreach @crashed;
	is(value($loans, 'SELECT dtx_discard(coalesce(array_agg(id), $${}$$)) FROM dtx_dead_letters'),
		scalar(@unreadable), "$what: what cannot be read is dead") if @unreadable;
	return;
}

crash_at($loans, "dispatch-$_") foreach qw(before-read after-read before-send after-send before-save after-save);
crash_at($loans, "dispatch-$_", unreadable => 1) foreach qw(after-send before-record after-record);
crash_at($repayments, "deliver-$_") foreach qw(before-handling after-handling);

# --- a loan that cannot be read, in the middle of others

my @good = map { new_loan($s) } 1 .. 4;
my $percent = new_loan($s, terms => '{"months": 12, "annual_rate": "6 %"}');
my $none = new_loan($s, terms => '{"months": 0, "annual_rate": 0.06}');
my $odd = new_loan($s, terms => '[]');
$s->must('BEGIN', (map { "SELECT approve_loan($_)" } @good[ 0, 1 ], $percent, $none, $odd, @good[ 2, 3 ]), 'COMMIT');
ok(wait_for_value($loans, 'SELECT dead FROM dtx_subscriptions', 3), 'loans that cannot be read are dead letters');
has_plan($_, 1, 'beside a loan that cannot be read') foreach @good;
is(value($loans, q{SELECT string_agg(key || ' ' || attempts || ' ' || left(last_error, 5), ', ' ORDER BY id) FROM dtx_dead_letters}),
	"$percent 1 DX005, $none 1 DX005, $odd 1 DX005", 'at once');
like(value($loans, "SELECT last_error FROM dtx_dead_letters WHERE key = '$percent'"),
	qr/loan $percent cannot be read: invalid input syntax for type numeric: "6 %"/, 'with what is wrong');
is(value($repayments, "SELECT count(*) FROM received_loan WHERE loan_id IN ($percent, $none, $odd)"), 0, 'and left nothing behind');

# redelivered before it is mended, it dies again
is(value($loans, "SELECT dtx_redeliver('$subscription', error => '%cannot be read%')"), 1, 'delivered again');
arrived();
is(value($loans, 'SELECT dead FROM dtx_subscriptions'), 3, 'which does not help by itself');
run_script($repayments, "$example/read_percent.sql");
is(value($loans, "SELECT dtx_redeliver(array_agg(id)) FROM dtx_dead_letters WHERE key = '$percent'"), 1, 'delivered again');
has_plan($percent, 1, 'mended');
is(value($repayments, "SELECT interest FROM plan WHERE loan_id = $percent"),
	value($repayments, "SELECT interest FROM plan WHERE loan_id = $good[0]"), 'mended: at the rate that was meant');
is(value($loans, 'SELECT dtx_discard(array_agg(id)) FROM dtx_dead_letters'), 2, 'the others are given up');
is(value($loans, 'SELECT count(*) FROM dtx_dead_letters'), 0, 'no dead letter is left');

# --- replay: everything comes again, and nothing changes

my $plans = 'SELECT md5(string_agg(i::text, $$ $$ ORDER BY loan_id, number)) FROM installment i';
my $before = value($repayments, $plans);
my $received = value($repayments, 'SELECT count(*) FROM received_loan');
my $first = value($repayments, 'SELECT min(message_id) FROM received_loan');
value($loans, "SELECT dtx_seek('$subscription', to_message => $first)");
ok(wait_for_value($repayments, 'SELECT count(*) FROM received_loan', 2 * $received), 'all messages are delivered again');
arrived();
is(value($repayments, 'SELECT string_agg(DISTINCT c::text, $$ $$) FROM (SELECT count(*) AS c FROM received_loan GROUP BY loan_id) AS x'),
	2, 'each once more');
is(value($repayments, $plans), $before, 'and the plans are what they were');
# those that were given up die again
ok(wait_for_value($loans, 'SELECT dead FROM dtx_subscriptions', 5), 'what cannot be read is a dead letter again');

# a replay during which the repayment service goes down, is as one that it does not go down in
value($loans, "SELECT dtx_seek('$subscription', to_message => $first)");
crash($repayments);
$repayments->start;
ok(wait_for_value($repayments, 'SELECT count(*) >= 3 * ' . $received . ' FROM received_loan', 't'), 'replayed once more');
arrived();
is(value($repayments, 'SELECT count(*) FROM received_loan'), 3 * $received, 'each once more');
is(value($repayments, $plans), $before, 'and the plans are what they were');

$s->close;
is( value($loans, q{SELECT string_agg(loan_id::text, ' ' ORDER BY loan_id) FROM loan WHERE state = 'repaying'
	AND loan_id::text NOT IN (SELECT key FROM dtx_dead_letters)}),
	value($repayments, q{SELECT string_agg(loan_id::text, ' ' ORDER BY loan_id) FROM plan}),
	'every loan that is repaying has a plan');

done_testing();
