# The business case of examples/registration: a user at the user centre and a
# login account at the account service, both or neither, in AT and in TCC;
# whichever side refuses, is down, or crashes in between.

use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Service;

my $example = dirname(__FILE__) . '/../examples/registration';

# --- as a reader runs it

my $story = PostgreSQL::Test::Utils::tempdir_short() . '/r';
my ($out, $err) = run_command([ 'bash', "$example/run", $story ]);
like($out, qr/^Every user has an account, and every account a user$/m, 'the example runs to its end')
  or diag "$out\n$err";
is($err, '', 'and has nothing to complain of');

# --- the same two databases, to be crashed

my $password = 'not a secret';

sub new_service
{
	my ($name, %variables) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	start_service($node, 'from_user_centre');
	run_script($node, "$example/$name.sql", %variables);
	return $node;
}

my $accounts = new_service('account_service', password => $password);
my $users = new_service('user_centre', password => $password, host => $accounts->host, port => $accounts->port);
my $count = 0;

sub application
{
	return DtxTest::Session->new($users->connstr('user_centre') . ' user=registrar');
}

sub register
{
	my ($mode, $login, $invitation) = @_;
	return "SELECT register_$mode('$login\@example.com', '$login', '" . ($invitation // 'SPRING') . "', '$login', 'scram:')";
}

# Both or neither, and nothing left over of how it came about.
sub is_registered
{
	my ($login, $expected, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ok = settled($users, $accounts);
	my $found = join ' ',
	  value($users, "SELECT count(*) FROM registered_user WHERE full_name = '$login'"),
	  value($accounts, "SELECT count(*) || ' ' || count(*) FILTER (WHERE enabled) FROM login_account WHERE login = '$login'");
	is($ok ? $found : "not settled: $found", $expected ? '1 1 1' : '0 0 0',
		"$what: " . ($expected ? 'user and account, enabled' : 'neither user nor account'));
	# users that others registered are of no concern to a crash
	is(value($users, q{SELECT string_agg(user_id::text, ' ' ORDER BY user_id) FROM registered_user}),
		value($accounts, q{SELECT string_agg(user_id::text, ' ' ORDER BY user_id) FROM login_account WHERE enabled}),
		"$what: the two sides agree");
	return;
}

foreach my $mode (qw(at tcc))
{
	my $s = application();
	my $first = 'user' . ++$count;

	$s->must('BEGIN', register($mode, $first));
	is(value($accounts, "SELECT enabled FROM login_account WHERE login = '$first'"),
		$mode eq 'at' ? 't' : 'f', "$mode: in AT the account can be used before the commit, in TCC it cannot");
	$s->must('COMMIT');
	is_registered($first, 1, "$mode: registered");

	# the account service refuses
	my $r = $s->run("SELECT register_$mode('other\@example.com', 'Other', 'SPRING', '$first', '')");
	is($r->{state}, '23505', "$mode: a login name that is taken");
	like($r->{err}, qr/login_account_pkey.*call to server "account_service"/s, "$mode: whose error says where");
	is_registered('Other', 0, "$mode: a login name that is taken");
	$r = $s->run("SELECT register_$mode('other\@example.com', 'Other', 'SPRING', 'No name', '')");
	is($r->{state}, '23514', "$mode: a login name that is none");
	is_registered('Other', 0, "$mode: a login name that is none");

	# the user centre refuses: before the account exists, after it, and at the end
	my $refused = 'user' . ++$count;
	is($s->run("SELECT register_$mode('$first\@example.com', '$refused', 'SPRING', '$refused', '')")->{state},
		'23505', "$mode: an email address that is taken");
	is_registered($refused, 0, "$mode: an email address that is taken");
	$s->must('BEGIN');
	my $xid = $s->must('SELECT dtx_begin()');
	is($s->run(register($mode, $refused, 'FRIEND'))->{state}, '23514', "$mode: an invitation that is used up");
	$s->must('ROLLBACK');
	is($s->must("SELECT dtx_wait('$xid', '180s')"), 'rolled back', "$mode: which is rolled back at the account service");
	is_registered($refused, 0, "$mode: an invitation that is used up");
	$s->must('BEGIN', register($mode, $refused), 'ROLLBACK');
	is_registered($refused, 0, "$mode: rolled back by the application");
	$s->must(register($mode, $refused));
	is_registered($refused, 1, "$mode: and tried again");

	# the account service is down
	my $late = 'user' . ++$count;
	$s->must('BEGIN');
	$xid = $s->must('SELECT dtx_begin()');
	$s->must(register($mode, $late));
	crash($accounts);
	$s->must('COMMIT');
	is(value($users, "SELECT dtx_status('$xid')"), 'committing', "$mode: committed with the account service down");
	is($s->run(register($mode, 'nobody'))->{state}, 'DX006', "$mode: but not begun");
	$accounts->start;
	is_registered($late, 1, "$mode: the account service down in phase 2");
	is_registered('nobody', 0, "$mode: the account service down in phase 1");
	my $gone = 'user' . ++$count;
	$s->must('BEGIN', register($mode, $gone));
	crash($accounts);
	$s->must('ROLLBACK');
	$accounts->start;
	is_registered($gone, 0, "$mode: the account service down when it is rolled back");
	$s->close;
}

# --- who may do what

is($accounts->safe_psql('account_service', <<'SQL'), 'f|f|f|f', 'from the user centre come inserts and the three functions only');
SELECT has_table_privilege('from_user_centre', 'login_account', 'SELECT'),
       has_any_column_privilege('from_user_centre', 'login_account', 'UPDATE'),
       has_table_privilege('from_user_centre', 'login_account', 'DELETE'),
       has_table_privilege('from_user_centre', 'login_account', 'TRUNCATE')
SQL
my $s = application();
is($s->run(q{SELECT dtx_exec('account_service', 'UPDATE login_account SET enabled = true')})->{state},
	'42501', 'the application cannot change accounts');
$s->must(q{SELECT * FROM dtx_query('account_service', 'SELECT open_account_cancel($1, user_id => $2, password_hash => $1)', 'user1', 1) AS t(v text)});
is_registered('user1', 1, 'a cancel that the application calls by itself');
$s->close;

# --- a crash in between: at either side, at steps that both modes have, and at their own

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
	my ($mode, $node, $point, $end, $expected) = @_;
	my $login = 'user' . ++$count;
	my $what = "$mode: " . $node->name . " killed at $point, $end";
	my $mark = log_mark($node);
	my $s = application();

	arm($node, "$point:kill");
	$node->reload;
	wait_until(
		sub {
			forget_sessions();
			return value($node, 'SHOW dtx.fault_point') eq "$point:kill";
		},
		'the setting is in force');
	# the client's connection is lost where it is the user centre that goes down
	foreach my $sql ('BEGIN', register($mode, $login), $end)
	{
		last unless $s->run($sql)->{ok};
	}
	ok(wait_for_log_line($node, qr/fault point "$point": kill/, $mark), "$what: reached");
	arm($node, '');
	revive($node);
	$s->close;
	is_registered($login, $expected, $what);
	return;
}

foreach my $mode (qw(at tcc))
{
	crash_at($mode, $users, 'coordinator-after-branch-row', 'COMMIT', 0);
	crash_at($mode, $users, 'coordinator-before-commit', 'COMMIT', 0);
	crash_at($mode, $users, 'coordinator-after-commit', 'COMMIT', 1);
	crash_at($mode, $users, 'worker-before-settle', 'COMMIT', 1);
	crash_at($mode, $accounts, 'participant-after-phase-one', 'COMMIT', 0);
	crash_at($mode, $accounts, 'participant-before-settle', 'COMMIT', 1);
	crash_at($mode, $accounts, 'participant-before-settle', 'ROLLBACK', 0);
	crash_at($mode, $accounts, 'participant-after-settle', 'ROLLBACK', 0);
}
crash_at('at', $accounts, 'participant-during-compensation', 'ROLLBACK', 0);
crash_at('tcc', $accounts, 'tcc-after-try', 'COMMIT', 0);
crash_at('tcc', $accounts, 'tcc-before-confirm', 'COMMIT', 1);
crash_at('tcc', $accounts, 'tcc-after-confirm', 'COMMIT', 1);
crash_at('tcc', $accounts, 'tcc-before-cancel', 'ROLLBACK', 0);
crash_at('tcc', $accounts, 'tcc-after-cancel', 'ROLLBACK', 0);

done_testing();
