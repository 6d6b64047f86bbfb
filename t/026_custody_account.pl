# The business case of examples/custody-account: what the custody system decides
# is taken by the platform, once, be it told over HTTP or asked for; whatever is
# down, killed, forged, or comes twice.

use strict;
use warnings;
use utf8;

use Digest::SHA qw(hmac_sha256_base64);
use File::Basename;
use IO::Socket::INET;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Service;

my $example = dirname(__FILE__) . '/../examples/custody-account';

# --- as a reader runs it

my $story = PostgreSQL::Test::Utils::tempdir_short() . '/r';
my ($out, $err) = run_command([ 'bash', "$example/run", $story ]);
like($out, qr/^The platform has taken every result, once$/m, 'the example runs to its end')
  or diag "$out\n$err";
is($err, '', 'and has nothing to complain of');

# --- the same two databases and the callback, to be crashed

my $password = 'not a secret';
my $secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
my $schedule = '{' . join(',', ('100ms') x 20, ('500ms') x 20, ('2s') x 20) . '}';
my $mishaps = PostgreSQL::Test::Utils::tempdir() . '/mishaps';
my ($custody, $platform) = map { PostgreSQL::Test::Cluster->new($_) } qw(custody platform);
my ($callback, $port) = (undef, 0);

# It listens on the same port each time.
sub start_callback
{
	pipe(my $read, my $write) or die "pipe: $!";
	$callback = fork();
	die "fork: $!" unless defined $callback;
	if ($callback == 0)
	{
		my $log = "$PostgreSQL::Test::Utils::log_path/callback.log";
		require POSIX;
		open my $err_log, '>>', $log or POSIX::_exit(126);
		POSIX::dup2(fileno($write), 1);
		POSIX::dup2(fileno($err_log), 2);
		@ENV{qw(SECRET PGHOST PGPORT PGDATABASE PGUSER PGPASSWORD)} =
		  ($secret, $platform->host, $platform->port, 'platform', 'callback', $password);
		exec("$example/faulty_callback.pl", $port, $mishaps) or POSIX::_exit(127);
	}
	close $write;
	my $line = <$read>;
	close $read;
	BAIL_OUT('callback.pl does not start') unless defined $line;
	chomp($port = $line);
	return;
}

sub stop_callback
{
	my ($signal) = @_;
	return unless defined $callback;
	my $status = $?;
	kill $signal // 'TERM', $callback;
	waitpid $callback, 0;
	$? = $status;
	$callback = undef;
	return;
}

END
{
	stop_callback();
}

# What becomes of the next requests: see faulty_callback.pl.
sub mishaps
{
	open my $file, '>', $mishaps or die "$mishaps: $!";
	print $file "@_\n";
	close $file;
	return;
}

start_service($custody, 'from_platform');
start_service($platform, 'callback');
start_callback();
run_script($custody, "$example/$custody->{bank}.sql", password => $password, secret => $secret, callback => "http://127.0.0.1:$port/custody");
run_script($platform, "$example/$platform->{bank}.sql", password => $password, host => $custody->host, port => $custody->port);

sub as_role
{
	my ($node, $role) = @_;
	return DtxTest::Session->new($node->connstr($node->{bank}) . " user=$role");
}

my $clerk = as_role($custody, 'clerk');
my $member = as_role($platform, 'member_service');
my $last = 0;

# A request is accepted; returns its number.
sub request
{
	my $no = 'A' . ++$last;
	$member->must("SELECT ask_for_account('$no', 'Zhang San', '110101199003070000')");
	return $no;
}

# A request that is decided on, with a schedule of its own or the test's.
sub opened
{
	my ($plan) = @_;
	my $no = request();
	$clerk->must("SELECT open_account('$no', '" . ($plan // $schedule) . "')");
	return $no;
}

sub told
{
	my ($no, $state, $condition) = @_;
	return wait_for_value($custody,
		"SELECT concat_ws(' ', state, " . ($condition // 'NULL') . ") FROM dtx_notifications WHERE tx_no = '$no'", $state);
}

# The platform has taken the result, as it was decided, so many times.
sub taken
{
	my ($no, $times, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $row = "SELECT concat_ws(' ', state, account_no, reason)";
	my $decided = value($custody, "$row FROM account_request WHERE request_no = '$no'");
	is( value($platform, "$row FROM custody_account WHERE request_no = '$no'"),
		$times == 0 ? 'requested' : $decided, "$what: the platform's account");
	is(value($platform, "SELECT count(*) FROM received_result WHERE request_no = '$no'"), $times, "$what: taken $times times");
	return;
}

sub told_once
{
	my ($what, @nos) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $no (@nos)
	{
		ok(told($no, 'delivered'), "$what: told");
		taken($no, 1, $what);
	}
	return;
}

sub ask
{
	my ($no) = @_;
	return $member->must("SELECT ask_for_result('$no')");
}

# A session at the platform that has a request locked.
sub holder
{
	my ($no) = @_;
	my $holder = session($platform);
	$holder->must('BEGIN', "SELECT FROM custody_account WHERE request_no = '$no' FOR UPDATE");
	return $holder;
}

# Sessions of a role at the platform that wait for a lock.
sub waits
{
	my ($role) = @_;
	return wait_for_value($platform,
		"SELECT count(*) FROM pg_stat_activity WHERE usename = '$role' AND wait_event_type = 'Lock'", 1);
}

# --- requests: here and there, or neither

my $no = request();
is(value($custody, "SELECT concat_ws(' ', full_name, id_no, state) FROM account_request WHERE request_no = '$no'"),
	'Zhang San 110101199003070000 accepted', 'a request is accepted');
taken($no, 0, 'accepted');
is($member->run("SELECT ask_for_account('$no', 'Li Si', '')")->{state}, '23505', 'a number is used once');
is($member->run("SELECT ask_for_account('refused', '', '')")->{state}, '23514', 'the custody system refuses a request');
$member->must('BEGIN', q{SELECT ask_for_account('refused', 'Li Si', '')}, 'ROLLBACK');
ok(settled($custody, $platform), 'and what is rolled back is taken back');
foreach my $side ([ $custody, 'account_request' ], [ $platform, 'custody_account' ])
{
	my ($node, $table) = @$side;
	is(value($node, "SELECT count(*) FROM $table WHERE request_no = 'refused'"), 0, "nothing is left of it in $table");
}

# nobody decides on what is not committed
$last++;
$member->must('BEGIN', "SELECT ask_for_account('A$last', 'Li Si', '')");
is($clerk->run("SELECT open_account('A$last')")->{state}, '55P03', 'a request that may yet be rolled back');
$member->must('COMMIT');
$clerk->must("SELECT open_account('A$last')");
told_once('decided after the commit', "A$last");

# --- decisions

is(ask($no), 'unknown', 'there is no result yet');
is($clerk->run(q{SELECT open_account('never asked for')})->{state}, '55000', 'a request that there is not');
$clerk->must('BEGIN', "SELECT open_account('$no')", 'ROLLBACK');
$clerk->must('BEGIN', 'SAVEPOINT s', "SELECT open_account('$no')", 'ROLLBACK TO s', 'COMMIT');
is(value($custody, "SELECT count(*) FROM dtx_notifications WHERE tx_no = '$no'"), 0, 'rolled back: there is nothing to be told');
$clerk->must("SELECT open_account('$no')");
ok(told($no, 'delivered 204 1', 'last_status, attempts'), 'opened: told, at once');
told_once('opened', $no);
is($clerk->run("SELECT reject_account('$no', 'too late')")->{state}, '55000', 'decided once');
is(ask($no), 'known', 'and may be asked for');
taken($no, 1, 'told, then asked for');

# whatever is in a result
foreach my $reason (q{it's "not" \ valid}, q{:body :'headers' \echo `id` $(id) %41}, '身份证号码无效', "two\nlines\tand a tab", '{"result": "opened"}')
{
	utf8::encode(my $bytes = $reason);
	$no = request();
	$clerk->must("SELECT reject_account('$no', \$reason\$$bytes\$reason\$, '$schedule')");
	told_once('rejected', $no);
}
is(value($platform, q{SELECT count(*) FROM custody_account WHERE state = 'rejected' AND octet_length(reason) > 14}), 5, 'with their reasons');

# --- rights

is($clerk->run(q{SELECT dtx_notify('platform', 'x', '{}')})->{state}, '42501', 'results come from decisions only');
is($clerk->run(q{UPDATE account_request SET state = 'rejected'})->{state}, '42501', 'which come from the functions only');
is($member->run(q{SELECT take_result('x', '{}')})->{state}, '42501', 'the application makes no results up');
is($member->run(q{SELECT dtx_reconcile('custody', 'x')})->{state}, '42501', 'and does not connect to the custody system by itself');
is(value($platform, <<'SQL'), 'f f t', 'the callback goes through the handler');
SELECT concat_ws(' ', has_table_privilege('callback', 'custody_account', 'SELECT, INSERT, UPDATE, DELETE'),
    has_table_privilege('callback', 'received_result', 'SELECT, INSERT, UPDATE, DELETE'),
    has_function_privilege('callback', 'take_result(text, jsonb)', 'EXECUTE'))
SQL
is(value($custody, q{SELECT has_table_privilege('from_platform', 'account_request', 'SELECT, INSERT, UPDATE, DELETE')}),
	'f', 'the platform cannot look into requests');

# what an HTTP front end exposes: to each, what it is told
my $asker = session($custody);
$asker->must(q{CREATE ROLE from_other}, q{SELECT dtx_admit('from_other')}, 'GRANT EXECUTE ON FUNCTION account_result(text) TO from_other');
foreach my $role (qw(from_platform from_other))
{
	$asker->must("SET ROLE $role");
	is($asker->must("SELECT account_result('$no') ->> 'result'"), $role eq 'from_platform' ? 'rejected' : '', "what $role learns");
	is($asker->must(q{SELECT account_result('no request') IS NULL}), 't', 'and of no request nothing');
	$asker->must('RESET ROLE');
}
$asker->close;

# --- the callback fails

mishaps(500, 500, 500);
$no = opened();
ok(told($no, 'delivered 204 4', 'last_status, attempts'), 'answered by 500 three times');
told_once('answered by 500', $no);

mishaps('lost');
$no = opened();
ok(told($no, 'delivered 204 2', 'last_status, attempts'), 'the answer is lost: told twice');
told_once('the answer is lost', $no);

mishaps('lost');
$no = opened('{}');
ok(told($no, 'exhausted 1', 'attempts'), 'the only answer is lost');
taken($no, 1, 'the only answer is lost');
is(ask($no), 'known', 'it was taken');
taken($no, 1, 'the only answer is lost, and asked for');

stop_callback();
$no = opened();
ok(told($no, 'pending t', 'attempts > 2'), 'the callback is down');
taken($no, 0, 'the callback is down');
start_callback();
told_once('the callback was down', $no);

my $holder = holder($no = request());
$clerk->must("SELECT open_account('$no', '$schedule')");
ok(waits('callback'), 'the callback is killed in the middle');
stop_callback('KILL');
ok(told($no, 'pending t', 'attempts > 1'), 'the custody system has noticed');
start_callback();
$holder->must('COMMIT');
$holder->close;
told_once('the callback is killed', $no);

# somebody connects and says nothing
my $idle = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp') or die "port $port: $@";
$no = opened();
told_once('beside one who says nothing', $no);
close $idle;

# --- the platform's database is down

crash($platform);
$member->close;
$no = request_at_custody();
$clerk->must("SELECT open_account('$no', '$schedule')");
ok(told($no, 'pending 503', 'last_status'), 'the database is down: answered by 503');
$platform->start;
$member = as_role($platform, 'member_service');
# it has not heard of that request
ok(told($no, 'pending 500', 'last_status'), 'what the platform does not know: answered by 500');
value($platform, "INSERT INTO custody_account (request_no, full_name, id_no) VALUES ('$no', 'Li Si', '')");
told_once('until it does', $no);

# A request that only the custody system knows.
sub request_at_custody
{
	my $no = 'A' . ++$last;
	my $s = session($custody);
	$s->must('SET ROLE from_platform', "SELECT request_account('$no', 'Li Si', '')");
	$s->close;
	return $no;
}

$holder = holder($no = request());
$clerk->must("SELECT open_account('$no', '$schedule')");
ok(waits('callback'), 'the database goes down in the middle');
crash($platform);
$holder->close;
$member->close;
$platform->start;
$member = as_role($platform, 'member_service');
told_once('the database went down in the middle', $no);

# --- what is not genuine

my $origin = value($platform, q{SELECT regexp_replace(node, '[.]([0-9a-f]+)$', ':\1') FROM dtx_peers WHERE server = 'custody'});

# A request to the callback; returns the status.
sub post
{
	my ($body, $headers, %options) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp') or die "port $port: $@";
	my $length = $options{length} // 'Content-Length: ' . length($body) . "\r\n";
	local $SIG{PIPE} = 'IGNORE';
	print $socket(($options{method} // 'POST') . " /custody HTTP/1.1\r\n$length"
		  . join('', map { "$_: $headers->{$_}\r\n" } sort keys %$headers) . "\r\n$body");
	$socket->shutdown(1);
	my $line = <$socket> // '';
	close $socket;
	return $line =~ m{^HTTP/1\.1 (\d+) } ? $1 : 'no answer';
}

# The headers that a sender with the secret would send.
sub signed
{
	my ($body, $id, %options) = @_;
	my $time = $options{time} // time();
	my ($base64) = ($options{secret} // $secret) =~ /^whsec_(.*)/;
	my $signature = hmac_sha256_base64("$id.$time.$body", decode_base64($base64)) . '=';
	return { 'Webhook-Id' => $id, 'webhook-timestamp' => $time, 'WEBHOOK-SIGNATURE' => "v1,$signature" };
}

$no = request();
my $id = "$origin:$no";
my $body = '{"result": "opened", "account_no": "66666666"}';
my $headers = signed($body, $id);

# all but one header, or one header otherwise
sub but
{
	my ($name, $value) = @_;
	my %other = %$headers;
	delete $other{$name};
	$other{$name} = $value if defined $value;
	return \%other;
}

my $none = 'v1,' . encode_base64("\0" x 32, '');
my $other_secret = 'whsec_' . encode_base64('x' x 24, '');
my @forged = (
	[ 'without headers', $body, {} ],
	(map { [ "without $_", $body, but($_) ] } keys %$headers),
	[ 'with a signature that is none', $body, but('WEBHOOK-SIGNATURE', $none) ],
	[ 'with another body', '{"result": "rejected", "reason": "no"}', $headers ],
	[ 'with a blank more', "$body ", $headers ],
	[ 'for another request', $body, but('Webhook-Id', "$origin:A1") ],
	[ 'with another secret', $body, signed($body, $id, secret => $other_secret) ],
	[ 'as another sender', $body, signed($body, "other:12345678:$no") ],
	[ 'too old', $body, signed($body, $id, time => time() - 600) ],
	[ 'too new', $body, signed($body, $id, time => time() + 600) ],
	[ 'with another time', $body, but('webhook-timestamp', time() - 7) ],
	[ 'with SQL', q{'); DROP TABLE custody_account; --}, $headers ],
	[ 'with SQL in a header', $body, but('WEBHOOK-SIGNATURE', q{'), (SELECT 1)); DROP TABLE custody_account; --}) ],
	[ 'with SQL on a line', "x\n;DROP TABLE custody_account;\n\\! touch $mishaps.hacked\n", $headers ],
	[ 'with psql variables', q{:'secret' :secret :body}, $headers ],
	[ 'empty', '', $headers ]);

foreach my $case (@forged)
{
	my ($what, @request) = @$case;
	is(post(@request), 401, "a request $what is refused");
}
isnt(post("\xff\xfe", $headers), 204, 'what is no UTF-8 is refused');
is(post('no JSON', signed('no JSON', $id)), 500, 'signed, but not to be read');
is(post($body, signed($body, "$origin:never asked for")), 500, 'signed, but nothing that was asked for');
is(post('', $headers, method => 'GET'), 405, 'a GET');
is(post($body, $headers, length => ''), 400, 'a body of unknown length');
is(post($body, $headers, length => "Content-Length: x\r\n"), 400, 'a length that is none');
is(post($body, $headers, length => "Content-Length: 10\r\n"), 400, 'a body that is longer than it says');
is(post($body, $headers, length => "Content-Length: 100\r\n"), 400, 'a body that is cut off');
is(post("$body\0", $headers), 400, 'a body with a zero byte');
is(post('', $headers, length => "Content-Length: 999999\r\n"), 400, 'a body that is too long');
# it may not read the answer, as it is still writing
like(post('', { x => 'y' x 200_000 }), qr/^(400|no answer)$/, 'headers that are too long');
ok(!-e "$mishaps.hacked", 'nobody has run a command');
taken($no, 0, 'forged');
$clerk->must("SELECT open_account('$no', '$schedule')");
ok(told($no, 'delivered 1', 'attempts'), 'the genuine one is not disturbed');
told_once('the genuine one', $no);

# somebody has overheard one
$body = value($custody, "SELECT payload FROM dtx_notifications WHERE tx_no = '$no'");
is(post($body, signed($body, $id)), 204, 'a genuine one once more is answered as the first');
taken($no, 1, 'overheard and sent again');

# --- never reached

stop_callback();
my @exhausted = map { opened($_) } '{}', '{100ms}', '{100ms,100ms}';
ok(told($exhausted[$_], 'exhausted ' . ($_ + 1), 'attempts'), 'the callback is never reached') foreach 0 .. 2;
is(ask($exhausted[0]), 'applied', 'the platform asks');
is(ask($exhausted[0]), 'known', 'and again');
taken($exhausted[0], 1, 'asked for');
taken($_, 0, 'not asked for') foreach @exhausted[ 1, 2 ];
start_callback();
is( value($custody, q{SELECT dtx_redeliver(array_agg(id)) FROM dtx_notifications WHERE state = 'exhausted'}),
	# and the one whose only answer was lost
	4, 'they are sent again');
told_once('sent again', @exhausted);

# --- told and asked for at once

$holder = holder($no = request());
$clerk->must("SELECT open_account('$no', '$schedule')");
ok(waits('callback'), 'told, while the account is held');
$member->send("SELECT ask_for_result('$no')");
ok(waits('member_service'), 'and asked for');
$holder->must('COMMIT');
$holder->close;
is($member->wait->{out}, 'known', 'who asks learns that it came');
told_once('told and asked for at once', $no);

foreach my $end (qw(COMMIT ROLLBACK))
{
	stop_callback();
	$no = opened();
	$member->must('BEGIN');
	is(ask($no), 'applied', "asked for, and told before the $end");
	start_callback();
	ok(waits('callback'), 'who tells waits');
	$member->must($end);
	told_once("told before the $end of who asks", $no);
}

# --- many at once

my @many = map { request() } 1 .. 30;
mishaps(qw(500 lost ok) x 10);
$clerk->must('BEGIN', (map { "SELECT open_account('$_', '$schedule')" } @many), 'COMMIT');
told_once('many at once', @many);

# --- the custody system crashes at each step, and its worker ends

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
	my ($point) = @_;
	my $what = "custody killed at $point";
	my @crashed = map { request() } 1 .. 3;
	my $mark = log_mark($custody);

	ok(settled($custody, $platform), "$what: requests are committed");
	arm($custody, "$point:kill");
	$custody->reload;
	wait_until(
		sub {
			forget_sessions();
			# no answer: it has got there already
			return (value($custody, 'SHOW dtx.fault_point') // "$point:kill") eq "$point:kill";
		},
		'the setting is in force');
	foreach my $sql ('BEGIN', (map { "SELECT open_account('$_', '$schedule')" } @crashed), 'COMMIT')
	{
		last unless $clerk->run($sql)->{ok};
	}
	ok(wait_for_log_line($custody, qr/fault point "$point": kill/, $mark), "$what: reached");
	arm($custody, '');
	revive($custody);
	# as a clerk has to: look whether it was committed, and do it if it was not
	$clerk->close;
	$clerk = as_role($custody, 'clerk');
	$clerk->must("SELECT open_account(request_no, '$schedule') FROM account_request WHERE state = 'accepted' AND request_no = ANY ('{"
		  . join(',', @crashed) . "}')");
	told_once($what, @crashed);
	return;
}

crash_at("notify-$_") foreach qw(before-claim after-claim after-answer after-record);

foreach my $signal (qw(KILL TERM))
{
	$holder = holder($no = request());
	ok(settled($custody, $platform), 'the request is committed');
	$clerk->must("SELECT open_account('$no', '$schedule')");
	ok(waits('callback'), "worker gets SIG$signal: the callback waits");
	my ($pid) = workers($custody) or die 'there is no worker';
	kill $signal, $pid;
	if ($signal eq 'KILL')
	{
		# which takes the server along
		revive($custody);
		$clerk->close;
		$clerk = as_role($custody, 'clerk');
	}
	else
	{
		ok(wait_until(sub { workers($custody) ne $pid }, 'it ends'), 'the worker ends');
	}
	$holder->must('ROLLBACK');
	$holder->close;
	told_once("worker gets SIG$signal", $no);
}

# --- everything that was decided was taken

$_->close foreach $clerk, $member;
my $all = q{SELECT count(*) || ' ' || md5(string_agg(concat_ws(' ', request_no, state, account_no, reason), ', ' ORDER BY request_no COLLATE "C"))};
is( value($platform, "$all FROM custody_account WHERE state <> 'requested'"),
	value($custody, "$all FROM account_request WHERE state <> 'accepted'"),
	'the platform has taken every result');
is( value($platform, 'SELECT count(*) FROM received_result'),
	value($platform, q{SELECT count(*) FROM custody_account WHERE state <> 'requested'}),
	'once');

done_testing();
