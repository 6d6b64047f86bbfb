# The business case of examples/recharge: what was paid at the payment system is
# credited at bank1, once, be it told or asked for; whatever is refused, down,
# killed, or comes at once.

use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Service;

my $example = dirname(__FILE__) . '/../examples/recharge';

# --- as a reader runs it

my $story = PostgreSQL::Test::Utils::tempdir_short() . '/r';
my ($out, $err) = run_command([ 'bash', "$example/run", $story ]);
like($out, qr/^Every top-up that was paid was credited, once$/m, 'the example runs to its end')
  or diag "$out\n$err";
is($err, '', 'and has nothing to complain of');

# --- the same two databases, to be crashed

my $password = 'not a secret';
my $schedule = '{' . join(',', ('100ms') x 20, ('500ms') x 20, ('2s') x 20) . '}';

my ($bank1, $pay) = map { PostgreSQL::Test::Cluster->new($_) } qw(bank1 bank1_pay);
start_service($bank1, 'from_bank1_pay');
start_service($pay, 'from_bank1');
foreach my $pair ([ $bank1, $pay ], [ $pay, $bank1 ])
{
	my ($node, $peer) = @$pair;
	run_script($node, "$example/$node->{bank}.sql", password => $password, host => $peer->host, port => $peer->port);
}

sub cashier
{
	return DtxTest::Session->new($pay->connstr('bank1_pay') . ' user=cashier');
}

sub reconciler
{
	return DtxTest::Session->new($bank1->connstr('bank1') . ' user=reconciler');
}

my $s = cashier();
my $last = 0;

sub recharge_call
{
	my ($tx, %options) = @_;
	my $account = $options{account} // 1;
	my $amount = $options{amount} // 10;
	my $result = $options{result} // 'success';
	my $notify = $options{silent} ? 'false' : 'true';
	my $how = $options{silent} ? 'NULL' : "'" . ($options{schedule} // $schedule) . "'";
	return "SELECT record_recharge('$tx', '$account', $amount, '$result', $how, $notify)";
}

# A top-up is recorded; returns its number.
sub pay
{
	my (%options) = @_;
	my $tx = 'T' . ++$last;
	$s->must(recharge_call($tx, %options));
	return $tx;
}

# Wait until notifications of these have come to a state.
sub reached
{
	my ($state, @txs) = @_;
	my $list = join ',', @txs;
	return wait_for_value($pay,
		"SELECT count(*) FROM dtx_notifications WHERE state = '$state' AND tx_no = ANY ('{$list}')", scalar @txs);
}

# What has come in for a top-up is what was paid, so many times; and no account has
# other money than came in.
sub credited
{
	my ($tx, $times, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $row = "SELECT string_agg(concat_ws(' ', account_no, pay_amount, result), ', ')";
	my $paid = value($pay, "$row FROM account_pay WHERE tx_no = '$tx'");
	is( value($bank1, "$row FROM recharge WHERE tx_no = '$tx'"),
		join(', ', ($paid) x $times), "$what: came in $times times, as it was paid");
	is(value($bank1, <<'SQL'), '0', "$what: and the balances");
SELECT count(*) FROM account_info i WHERE account_balance <> CASE account_no WHEN '1' THEN 1000 ELSE 0 END
    + (SELECT coalesce(sum(pay_amount), 0) FROM recharge r WHERE r.account_no = i.account_no AND result = 'success')
SQL
	return;
}

sub told_once
{
	my ($what, @txs) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(reached('delivered', @txs), "$what: told");
	credited($_, 1, $what) foreach @txs;
	return;
}

# Sessions of a role at bank1 that wait for a lock.
sub waits
{
	my ($role, $count) = @_;
	return wait_for_value($bank1,
		"SELECT count(*) FROM pg_stat_activity WHERE usename = '$role' AND wait_event_type = 'Lock'", $count // 1);
}

# A session that has account 1 locked.
sub holder
{
	my $holder = session($bank1);
	$holder->must('BEGIN', "SELECT FROM account_info WHERE account_no = '1' FOR UPDATE");
	return $holder;
}

# Something done as payments, which nobody logs in as.
sub as_payments
{
	my ($sql) = @_;
	my $payments = session($pay);
	my $value = $payments->must('SET ROLE payments', $sql);
	$payments->close;
	return $value;
}

# --- recorded and told: both, or neither

my $tx = pay(amount => '100.50');
told_once('paid', $tx);
is(value($bank1, "SELECT account_balance FROM account_info WHERE account_no = '1'"), '1100.50', 'it is on the account');
told_once('failed', my $failed = pay(amount => 7, result => 'fail'));
is(value($bank1, "SELECT account_balance FROM account_info WHERE account_no = '1'"), '1100.50', 'failed: nothing is credited');

$s->must('BEGIN', recharge_call('rolled back'), 'ROLLBACK');
$s->must('BEGIN', 'SAVEPOINT s', recharge_call('rolled back'), 'ROLLBACK TO s', 'COMMIT');
is(value($pay, q{SELECT count(*) FROM dtx_notifications WHERE tx_no = 'rolled back'}), 0, 'rolled back: there is nothing to be told');
is($s->run(recharge_call('none', amount => 0))->{state}, '23514', 'an amount that is none');
is($s->run(recharge_call('none', amount => '0.001'))->{state}, '23514', 'less than a cent');
is($s->run(recharge_call('none', amount => q{'NaN'}))->{state} // '', '23514', 'not a number');
is($s->run(recharge_call('none', result => 'perhaps'))->{state}, '23514', 'a result that is none');

# --- the same one twice

is($s->must(recharge_call($tx, amount => '100.50')), 'known', 'the same once more');
is($s->must(recharge_call($tx, amount => '100.5')), 'known', 'which is the same amount');
foreach my $other ([ amount => 100 ], [ amount => '100.50', account => 2 ], [ amount => '100.50', result => 'fail' ])
{
	my $r = $s->run(recharge_call($tx, @$other));
	is($r->{state}, '23505', "another one by the same number: @$other");
	like($r->{err}, qr/top-up $tx was recorded before, and was another/, 'says so');
}
my $other = cashier();
$last++;
$s->must('BEGIN', recharge_call("T$last"));
$other->send(recharge_call("T$last"));
ok( wait_until(
		sub { value($pay, "SELECT wait_event_type FROM pg_stat_activity WHERE pid = " . $other->backend) eq 'Lock' },
		'the second waits'),
	'recorded by two at once');
$s->must('COMMIT');
is($other->wait->{out}, 'known', 'the second is told that it was recorded');
$s->must('BEGIN', recharge_call('T' . ++$last));
$other->send(recharge_call("T$last"));
ok( wait_until(
		sub { value($pay, "SELECT wait_event_type FROM pg_stat_activity WHERE pid = " . $other->backend) eq 'Lock' },
		'the second waits'),
	'recorded by two at once, the first of whom rolls back');
$s->must('ROLLBACK');
is($other->wait->{out}, 'recorded', 'the second has recorded it');
$other->close;
told_once('recorded twice', 'T' . ($last - 1), "T$last");
credited($tx, 1, 'recorded again');

# --- rights

is($s->run(q{SELECT dtx_notify(NULL, 'x', '{}')})->{state}, '42501', 'results come from top-ups only');
is($s->run(q{INSERT INTO account_pay VALUES ('x', '1', 1, 'success')})->{state}, '42501', 'which come from the function only');
is($s->run("SELECT dtx_outcome('$tx')")->{state}, '42501', 'the cashier cannot ask');
is(value($bank1, <<'SQL'), 'from_bank1_pay f f t, reconciler f f t', 'what comes is results, and goes through the handler');
SELECT string_agg(concat_ws(' ', r, has_table_privilege(r, 'account_info', 'SELECT, INSERT, UPDATE, DELETE'),
    has_table_privilege(r, 'recharge', 'SELECT, INSERT, UPDATE, DELETE'),
    has_function_privilege(r, 'credit_recharge(text, jsonb)', 'EXECUTE')), ', ' ORDER BY r)
FROM unnest('{from_bank1_pay, reconciler}'::text[]) AS r
SQL
is(value($pay, q{SELECT has_table_privilege('from_bank1', 'account_pay', 'SELECT, INSERT, UPDATE, DELETE')}), 'f', 'bank1 cannot look into top-ups');

# another bank may ask, too, but not for what bank1 is told
my $asker = session($pay);
$asker->must(q{CREATE ROLE from_bank2}, q{SELECT dtx_admit('from_bank2')});
foreach my $role (qw(from_bank1 from_bank2))
{
	$asker->must("SET ROLE $role");
	is($asker->must("SELECT count(*) FROM dtx_outcome('$tx')"), $role eq 'from_bank1' ? 1 : 0, "what $role learns");
	$asker->must('RESET ROLE');
}
$asker->close;

# --- what bank1 cannot do

my $early = pay(account => 3);
ok(wait_for_value($pay, "SELECT attempts > 1 FROM dtx_notifications WHERE tx_no = '$early'", 't'), 'an account that is not there is tried again');
like(value($pay, "SELECT last_error FROM dtx_notifications WHERE tx_no = '$early'"), qr/P0002: account 3 does not exist/, 'and why is known');
credited($early, 0, 'no account');
told_once('beside it', pay());
value($bank1, q{INSERT INTO account_info VALUES ('3', 'Wang Wu', 0)});
told_once('when there is one', $early);

foreach my $payload ('{}', '[]', '{"account_no": "1", "pay_amount": "ten", "result": "success"}',
	'{"account_no": "1", "pay_amount": -1, "result": "success"}', '{"account_no": "1", "pay_amount": "NaN", "result": "success"}',
	'{"account_no": "1", "pay_amount": 1, "result": "perhaps"}')
{
	my $unreadable = 'U' . ++$last;
	as_payments("SELECT dtx_notify('bank1', '$unreadable', '$payload')");
	ok(reached('exhausted', $unreadable), "$payload: given up");
	like(value($pay, "SELECT attempts || ' ' || last_error FROM dtx_notifications WHERE tx_no = '$unreadable'"),
		qr/^1 DX005: top-up $unreadable /, 'at once');
	is(value($bank1, "SELECT count(*) FROM recharge WHERE tx_no = '$unreadable'"), 0, 'and left nothing behind');
}
is(value($pay, q{SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE state = 'exhausted'}), 6, 'they are discarded');

# --- asked for

my $r = reconciler();

sub ask
{
	my ($tx) = @_;
	return $r->must("SELECT dtx_reconcile('bank1_pay', '$tx')");
}

is(ask('never paid'), 'unknown', 'asked for what was never paid');
is(ask($tx), 'known', 'asked for what was told');
is(ask($failed), 'known', 'and what has failed');
credited($_, 1, 'told, then asked for') foreach $tx, $failed;

my $silent = pay(silent => 1);
is(value($pay, "SELECT state FROM dtx_notifications WHERE tx_no = '$silent'"), 'registered', 'it is not told');
$r->must('BEGIN');
is(ask($silent), 'applied', 'asked for');
is(ask($silent), 'known', 'asked for again');
$r->must('ROLLBACK');
credited($silent, 0, 'asked for, and rolled back');
is(ask($silent), 'applied', 'asked for in earnest');
is(ask($silent), 'known', 'and again');
credited($silent, 1, 'asked for');
my $silent_failure = pay(silent => 1, result => 'fail');
is(ask($silent_failure), 'applied', 'a top-up that has failed, asked for');
credited($silent_failure, 1, 'a top-up that has failed, asked for');

my $accountless = pay(silent => 1, account => 4);
my $refused = $r->run("SELECT dtx_reconcile('bank1_pay', '$accountless')");
is($refused->{state}, 'P0002', 'asked for what cannot be credited');
credited($accountless, 0, 'what cannot be credited');
value($bank1, q{INSERT INTO account_info VALUES ('4', 'Zhao Liu', 0)});
is(ask($accountless), 'applied', 'until it can');
credited($accountless, 1, 'when it can');

# asked for by two at once
$silent = pay(silent => 1);
my $also = reconciler();
$r->must('BEGIN');
is(ask($silent), 'applied', 'asked for by two at once');
$also->send("SELECT dtx_reconcile('bank1_pay', '$silent')");
ok(waits('reconciler'), 'the second waits');
$r->must('COMMIT');
is($also->wait->{out}, 'known', 'and knows it then');
$also->close;
credited($silent, 1, 'asked for by two at once');

# --- told and asked for

as_payments(q{SELECT dtx_target_disable('bank1')});
$tx = pay();
is(ask($tx), 'applied', 'asked for before it is told');
credited($tx, 1, 'asked for before it is told');
is(as_payments(q{SELECT dtx_target_enable('bank1')}), 1, 'then told');
told_once('asked for, then told', $tx);

foreach my $end (qw(COMMIT ROLLBACK))
{
	as_payments(q{SELECT dtx_target_disable('bank1')});
	$tx = pay();
	$r->must('BEGIN');
	is(ask($tx), 'applied', "asked for, and told before the $end");
	as_payments(q{SELECT dtx_target_enable('bank1')});
	ok(waits('from_bank1_pay'), 'who tells waits');
	$r->must($end);
	told_once("told before the $end of who asks", $tx);
	is(ask($tx), 'known', 'and is known');
}

my $holder = holder();
$tx = pay();
ok(waits('from_bank1_pay'), 'told, while the account is held');
$r->send("SELECT dtx_reconcile('bank1_pay', '$tx')");
ok(waits('reconciler'), 'and asked for');
$holder->must('COMMIT');
$holder->close;
is($r->wait->{out}, 'known', 'who asks learns that it came');
told_once('told and asked for at once', $tx);

# --- there were as many attempts as the schedule says

crash($bank1);
$r->close;
my @exhausted = map { pay(schedule => $_) } '{}', '{100ms,100ms}';
ok(reached('exhausted', @exhausted), 'bank1 is down for longer than the schedule is');
is( value($pay, "SELECT string_agg(attempts::text, ' ' ORDER BY id) FROM dtx_notifications WHERE state = 'exhausted'"),
	'1 3', 'after as many attempts as it says');
$bank1->start;
$r = reconciler();
credited($_, 0, 'exhausted') foreach @exhausted;
is(ask($exhausted[0]), 'applied', 'bank1 asks');
credited($exhausted[0], 1, 'exhausted, and asked for');
is(value($pay, q{SELECT dtx_redeliver(array_agg(id)) FROM dtx_notifications WHERE state = 'exhausted'}), 2, 'or they are sent again');
told_once('sent again', @exhausted);

# --- expected

sub expect
{
	my ($tx, $after, $schedule) = @_;
	return $r->must("SELECT dtx_expect('bank1_pay', '$tx', '$after', '$schedule')");
}

sub expectation
{
	my ($tx, $state) = @_;
	return wait_for_value($bank1, "SELECT state FROM dtx_expectations WHERE tx_no = '$tx'", $state);
}

expect('never paid', '0', '{50ms,50ms}');
ok(expectation('never paid', 'exhausted'), 'what is never paid is asked for no longer than the schedule is');
ok( wait_for_value($bank1, q{SELECT attempts || ' ' || last_error FROM dtx_expectations WHERE tx_no = 'never paid'},
		'3 the server knows no result of that transaction'),
	'as often as it says');

$last++;
expect("T$last", '0', $schedule);
ok(wait_for_value($bank1, "SELECT attempts > 1 FROM dtx_expectations WHERE tx_no = 'T$last'", 't'), 'asked for before it is paid');
$s->must(recharge_call("T$last", silent => 1));
ok(expectation("T$last", 'come'), 'it comes when it is');
credited("T$last", 1, 'expected');

$last++;
expect("T$last", '300ms', $schedule);
$s->must(recharge_call("T$last"));
told_once('expected, and told', "T$last");
ok(expectation("T$last", 'come'), 'expected, and told');
credited("T$last", 1, 'expected, and told');

# told while it asks: the account is held, and both wait
$holder = holder();
$last++;
$s->must(recharge_call("T$last"));
ok(waits('from_bank1_pay'), 'told');
expect("T$last", '0', $schedule);
ok(waits('reconciler'), 'while bank1 asks by itself');
$holder->must('COMMIT');
$holder->close;
told_once('told while bank1 asks by itself', "T$last");
ok(expectation("T$last", 'come'), 'it has come');
credited("T$last", 1, 'told while bank1 asks by itself');

# the payment system is down when it should be asked
$silent = pay(silent => 1);
crash($pay);
expect($silent, '0', $schedule);
ok( wait_for_value($bank1, "SELECT attempts > 1 AND last_error IS NOT NULL FROM dtx_expectations WHERE tx_no = '$silent'", 't'),
	'the payment system cannot be asked');
$pay->start;
$s->close;
$s = cashier();
ok(expectation($silent, 'come'), 'until it is back');
credited($silent, 1, 'the payment system was down');

# --- bank1 is down: from before, and while it is busy

crash($bank1);
$r->close;
my @late = map { pay() } 1 .. 20;
ok(wait_for_value($pay, q{SELECT count(*) FROM dtx_notifications WHERE state = 'pending' AND attempts > 0}, 20), 'paid while bank1 is down');
$bank1->start;
$r = reconciler();
told_once('paid while bank1 was down', @late[ 0, 19 ]);
ok(reached('delivered', @late), 'and so are the others');

$holder = holder();
@late = ((map { pay(account => 3) } 1 .. 5), pay(), map { pay(account => 4) } 1 .. 5);
ok(waits('from_bank1_pay'), 'bank1 is busy with a batch');
crash($bank1);
$holder->close;
$r->close;
$bank1->start;
$r = reconciler();
told_once('bank1 down in the middle of a batch', @late);

# --- the worker of the payment system is killed, and told to end: before it knows what came of it

foreach my $signal (qw(KILL TERM))
{
	$holder = holder();
	@late = map { pay(account => $_) } 3, 1, 4;
	ok(waits('from_bank1_pay'), "worker gets SIG$signal: the handler waits");
	my ($pid) = workers($pay) or die 'there is no worker';
	kill $signal, $pid;
	if ($signal eq 'KILL')
	{
		# which takes the server along
		revive($pay);
		$s->close;
		$s = cashier();
	}
	else
	{
		ok(wait_until(sub { workers($pay) ne $pid }, 'it ends'), 'the worker ends');
	}
	$holder->must('ROLLBACK');
	$holder->close;
	told_once("worker gets SIG$signal", @late);
}

# --- a crash at each step, at either side

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

# Do something at a cluster that kills it at the point, and start it again.
sub kill_at
{
	my ($node, $point, $do) = @_;
	my $what = $node->name . " killed at $point";
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
	$do->();
	ok(wait_for_log_line($node, qr/fault point "$point": kill/, $mark), "$what: reached");
	arm($node, '');
	revive($node);
	$s->close;
	$s = cashier();
	$r->close;
	$r = reconciler();
	return $what;
}

sub crash_at
{
	my ($node, $point) = @_;
	my @crashed = map { 'T' . ++$last } 1 .. 3;
	my $what = kill_at($node, $point, sub {
		# the cashier's connection is lost where the payment system goes down:
		# before the commit, after it, or never
		foreach my $sql ('BEGIN', (map { recharge_call($_) } @crashed), 'COMMIT')
		{
			last unless $s->run($sql)->{ok};
		}
	});
	# as a client has to: again
	$s->must(recharge_call($_)) foreach @crashed;
	told_once($what, @crashed);
	return;
}

crash_at($pay, "notify-$_") foreach qw(before-claim after-claim after-answer after-record);
crash_at($bank1, "receive-$_") foreach qw(before-handling after-handling);

foreach my $point (qw(expect-before-ask expect-after-ask))
{
	$silent = pay(silent => 1);
	my $what = kill_at($bank1, $point, sub { $r->run("SELECT dtx_expect('bank1_pay', '$silent', '200ms', '$schedule')") });
	# it may have gone down before it had promised anything
	expect($silent, '0', $schedule);
	ok(expectation($silent, 'come'), "$what: it comes");
	credited($silent, 1, $what);
}

# --- everything that was paid has come in

$_->close foreach $s, $r;
my $all = q{SELECT count(*) || ' ' || md5(string_agg(concat_ws(' ', tx_no, account_no, pay_amount, result), ', ' ORDER BY tx_no COLLATE "C"))};
is(value($bank1, "$all FROM recharge"), value($pay, "$all FROM account_pay"), 'every top-up has come in, once');

done_testing();
