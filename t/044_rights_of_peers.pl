# Rights that are taken away, and rights to read: USAGE on a server counts at each
# attempt, but what is in doubt is settled all the same; and no error shows a role
# rows that it may not read.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my ($bank1, $bank2) = two_banks();
foreach my $bank ($bank1, $bank2)
{
	my ($here, $there) = $bank == $bank1 ? qw(bank1 bank2) : qw(bank2 bank1);
	$bank->safe_psql($here, <<"SQL");
CREATE ROLE clerks;
CREATE ROLE clerk LOGIN IN ROLE clerks;
GRANT USAGE ON FOREIGN SERVER $there TO clerks;
CREATE USER MAPPING FOR clerk SERVER $there OPTIONS (user 'clerk', password_required 'false');
GRANT EXECUTE ON FUNCTION dtx_notify, dtx_subscribe, dtx_on_notification TO clerk;
SELECT dtx_admit('clerk');
SQL
}
$bank2->safe_psql('bank2', <<'SQL');
GRANT CREATE ON SCHEMA public TO clerk;
GRANT SELECT, UPDATE ON account_info TO clerk;
SET ROLE clerk;
CREATE TABLE got (what jsonb);
CREATE FUNCTION take(payload jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO got VALUES (payload)';
CREATE FUNCTION take_result(payload jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO got VALUES (payload)';
SELECT dtx_on_notification('take_result', role => 'clerk');
SQL

sub session_of_clerk
{
	my $session = session($_[0]);
	$session->must('SET SESSION AUTHORIZATION clerk');
	return $session;
}

my $clerk = session_of_clerk($bank1);

sub got { return wait_for_value($bank2, "SELECT string_agg(what #>> '{}', ' ' ORDER BY what) FROM got", $_[0]) }

# --- USAGE

$clerk->must(q{SELECT dtx_subscribe('news', 'bank2', 'take')}, q{SELECT dtx_publish('news', '"news 1"')},
	q{SELECT dtx_notify('bank2', 'result 1', '"result 1"', '{100ms,100ms}')});
got('news 1 result 1');
# taken from her, and from a role that she has it by
foreach my $taken (['REVOKE USAGE ON FOREIGN SERVER bank2 FROM clerks', 'GRANT USAGE ON FOREIGN SERVER bank2 TO clerks'],
	['REVOKE clerks FROM clerk', 'GRANT clerks TO clerk'])
{
	my ($revoke, $grant) = @$taken;
	# what is in doubt then
	$clerk->must('BEGIN', q{SELECT dtx_exec('bank2', 'UPDATE account_info SET account_balance = account_balance + 1')}, "SELECT dtx_notify('bank2', 'result 2 $revoke', '\"result 2\"', '{1h}')");
	my $xid = $clerk->must('SELECT dtx_xid()');
	my $balance = balance($bank2, 2);
	$bank1->safe_psql('bank1', $revoke);
	$clerk->must('COMMIT');
	is(value($bank1, "SELECT dtx_wait('$xid', '180s')"), 'committed', "$revoke: a transaction that is in doubt is settled");
	is(balance($bank2, 2), $balance, 'with commit');
	is($clerk->run(q{SELECT dtx_exec('bank2', 'UPDATE account_info SET account_balance = 0')})->{state}, '42501', 'there are no new ones');
	value($bank1, q{SELECT dtx_publish('news', '"news 2"')});
	my $denied = '42501: permission denied for foreign server bank2';
	ok(wait_for_value($bank1, q{SELECT last_error FROM dtx_subscriptions WHERE topic = 'news'}, $denied), 'a message is not delivered');
	ok(wait_for_value($bank1, q{SELECT string_agg(DISTINCT last_error, ' ') FROM dtx_notifications WHERE state = 'pending'}, $denied), 'a result is not notified');
	is(value($bank2, 'SELECT count(*) FROM got'), 2, 'nothing has come');
	$bank1->safe_psql('bank1', $grant);
	got('news 1 news 2 result 1');
	value($bank1, q{SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE state = 'pending'});
	$bank2->safe_psql('bank2', q{DELETE FROM got WHERE what #>> '{}' LIKE '% 2'});
}
value($bank1, q{SELECT dtx_unsubscribe(name) FROM dtx_subscriptions});

# --- what errors show

$bank2->safe_psql('bank2', <<'SQL');
CREATE TABLE secret (code text PRIMARY KEY, pin text UNIQUE, n integer);
INSERT INTO secret VALUES ('code 1', 'pin 1', 0), ('code 2', 'pin 2', 0);
SELECT dtx_attach('secret');
GRANT UPDATE, DELETE, SELECT (n) ON secret TO clerk;
SQL
foreach my $case (
	[ 'a row that was changed', 'UPDATE secret SET n = n + 1 WHERE n = 0', q{UPDATE secret SET n = 7}, qr/row \(code\)=\(\.\.\.\) of "secret" was changed/ ],
	[ 'a value that another row has', 'DELETE FROM secret WHERE n = 0', q{INSERT INTO secret VALUES ('code 3', 'pin 1', 0)}, qr/duplicate key value violates unique constraint "secret_pin_key"$/ ])
{
	my ($what, $change, $meanwhile, $error) = @$case;
	$bank2->safe_psql('bank2', q{TRUNCATE secret; INSERT INTO secret VALUES ('code 1', 'pin 1', 0), ('code 2', 'pin 2', 0)});
	$clerk->must('BEGIN', "SELECT dtx_exec('bank2', '$change')");
	my $xid = $clerk->must('SELECT dtx_xid()');
	# as somebody does who gets past the trigger
	my $trigger = "UPDATE pg_trigger SET tgenabled = '%s' WHERE tgrelid = 'secret'::regclass AND tgname = 'dtx_capture';"
	  . " UPDATE pg_class SET relhastriggers = true WHERE oid = 'secret'::regclass;";
	$bank2->safe_psql('bank2', 'SET allow_system_table_mods = on; ' . sprintf($trigger, 'D') . "$meanwhile; " . sprintf($trigger, 'A'));
	$clerk->must('ROLLBACK');
	my $there = session_of_clerk($bank2);
	my $conflict = "SELECT conflict FROM dtx_branches WHERE xid = '$xid'";
	wait_until(sub { $there->must($conflict) ne '' }, 'a conflict');
	like($there->must($conflict), $error, "$what: the participant's view");
	unlike($there->must("SELECT string_agg(b::text, ' ') FROM dtx_branches b"), qr/(code|pin) \d/, "$what: shows no value of columns that the role may not read");
	unlike($clerk->must("SELECT coalesce(string_agg(b::text, ' '), '') FROM dtx_branches b"), qr/(code|pin) \d/, "$what: nor does the coordinator's");
	like($bank2->safe_psql('bank2', 'GRANT SELECT ON secret TO clerk; SELECT 1'), qr/1/, 'granted');
	value($bank2, "SELECT dtx_retry('$xid')");
	ok(wait_until(sub { $there->must($conflict) =~ /(code|pin)\)=\((code|pin) \d/ }, 'the row is shown'), "$what: who may read it is shown it");
	$bank2->safe_psql('bank2', 'REVOKE SELECT ON secret FROM clerk; GRANT SELECT (n) ON secret TO clerk');
	value($bank2, "SELECT dtx_resolve('$xid', 'commit')");
	$there->close;
}
# --- who joins by an xid that she has seen
$bank2->safe_psql('bank2', <<'SQL');
CREATE ROLE guest LOGIN;
SELECT dtx_admit('guest');
GRANT SELECT ON account_info TO guest;
CREATE TABLE guests (id integer PRIMARY KEY, n integer);
INSERT INTO guests VALUES (1, 0);
ALTER TABLE guests OWNER TO guest;
SELECT dtx_attach('guests');
SQL
my $guest = session($bank2);
$guest->must('SET SESSION AUTHORIZATION guest');
# her branch stays in doubt: its coordinator knows nothing of it, and asks bank2 as the clerk only
my $account = q{account_info WHERE account_no = '2'};
my $balance = value($bank2, "SELECT account_balance FROM $account");
sub clerk_and_guest
{
	my ($changes) = @_;
	$clerk->must('BEGIN', q{SELECT dtx_exec('bank2', 'UPDATE account_info SET account_balance = account_balance + 1 WHERE account_no = $1', '2')});
	my $xid = $guest->must('SELECT DISTINCT xid FROM dtx_locks');
	$guest->must('BEGIN', "SELECT dtx.branch_join('$xid/99', 'at', 0, 0, 1, 0)", $changes, 'COMMIT');
	return $xid;
}
my $xid = clerk_and_guest('UPDATE guests SET n = n + 1');
$clerk->must('ROLLBACK');
is(value($bank1, "SELECT dtx_wait('$xid', '180s')"), 'rolled back', 'a branch of a stranger does not hold up a rollback');
is(value($bank2, "SELECT account_balance FROM $account"), $balance, 'it is done');
value($bank2, "SELECT dtx_resolve('$xid', 'rollback')");
# she may write it, and puts the row back as it was before
$bank2->safe_psql('bank2', 'GRANT UPDATE ON account_info TO guest');
$xid = clerk_and_guest(q{UPDATE account_info SET account_balance = account_balance - 1 WHERE account_no = '2'});
my $retries = q{SELECT value FROM dtx_stats WHERE name = 'settle_retries'};
my $before = value($bank1, $retries);
$clerk->must('ROLLBACK');
ok(wait_until(sub { value($bank1, $retries) > $before }, 'a rollback that waits'), 'where it did something to the same row, that goes first');
value($bank2, "SELECT dtx_resolve('$xid', 'rollback')");
is(value($bank1, "SELECT dtx_wait('$xid', '180s')"), 'rolled back', 'then it is rolled back');
is(value($bank2, "SELECT account_balance FROM $account"), $balance, 'and the row is as it was');
value($bank2, "SELECT dtx_resolve('$xid', 'forget')");
$guest->close;

# --- a row that another transaction holds
$bank2->safe_psql('bank2', q{TRUNCATE secret; INSERT INTO secret VALUES ('code 1', 'pin 1', 0)});
my $s = session($bank1);
$s->must('BEGIN', q{SELECT dtx_exec('bank2', 'UPDATE secret SET n = 1')});
$clerk->must(q{SET dtx.lock_timeout = '100ms'});
my $r = $clerk->run(q{SELECT dtx_exec('bank2', 'UPDATE secret SET n = 2')});
is($r->{state}, '55P03', 'a row in doubt');
like($r->{err}, qr/could not change row \(code\)=\(\.\.\.\)/, 'whose key is not shown');
$s->must('ROLLBACK');
$s->close;

# --- a lock of one kind is none of another
# what the first transfer by message to a server takes is nobody's subscription
$s = session($bank1);
my $topic = value($bank1, q{SELECT format('dtx.transfer.%s.%s', s.oid, current_user::regrole::oid) FROM pg_foreign_server s WHERE srvname = 'bank2'});
$clerk->must('BEGIN', "SELECT * FROM dtx.deliver(hashtextextended('$topic', 0), 1, 1, 0, 0, false, 0, '', '[]')");
$s->must(q{SET lock_timeout = '2s'});
is($s->run(q{SELECT dtx_transfer('bank2', '1', '2', 1, 'message')})->{state}, '00000', 'a delivery of a made-up subscription does not hold up transfers');
$clerk->must('ROLLBACK');
$s->close;
$clerk->close;
ok(settled($bank1, $bank2), 'in the end');
done_testing();
