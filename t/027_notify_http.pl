# Notifications over HTTP: what endpoints answer, and all that they do instead; the
# request, and its signature; who is protected from whom; and that one endpoint that
# hangs delays nobody else.
#
# No time is measured or slept for: schedules come with the call, timeouts with the
# server, and what is waited for is a condition.

use strict;
use warnings;

use File::Basename;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Http;

# names that the test has a say in
my $resolve = PostgreSQL::Test::Utils::tempdir() . '/resolve.so';
system_or_bail('gcc', '-shared', '-fPIC', '-O', '-o', $resolve, dirname(__FILE__) . '/http/resolve.c', '-ldl');
$ENV{LD_PRELOAD} = $resolve;
# a proxy in the server's environment is not asked
$ENV{http_proxy} = $ENV{https_proxy} = $ENV{HTTPS_PROXY} = $ENV{ALL_PROXY} = 'http://127.0.0.1:1/';
my ($bank1, $bank2) = two_banks(conf => "log_statement = all\n");
delete @ENV{qw(http_proxy https_proxy HTTPS_PROXY ALL_PROXY LD_PRELOAD)};
my $http = DtxTest::Http->new;
my $secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
my $other_secret = 'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD';
my $endpoints = 0;

# signatures are looked at where somebody else's code for that is to be had
my $verifies = $http->can_verify;
my $unverified = 'the package standardwebhooks of npm is not there';

# A new endpoint at a path; its name. Options as for make_endpoint, and for url.
sub endpoint
{
	my ($path, %options) = @_;
	my $name = 'e' . ++$endpoints;
	$http->make_endpoint($bank1, $name, $options{url} // $http->url($path, %options), %options);
	return $name;
}

sub notify
{
	my ($server, $tx_no, $schedule, $payload) = @_;
	$schedule = defined $schedule ? "'{$schedule}'" : 'NULL';
	return value($bank1, "SELECT dtx_notify('$server', '$tx_no', '" . ($payload // '{"amount": 100}') . "', $schedule)");
}

my $stand = q{concat_ws(', ', state, attempts, last_status, last_error)};

# How a notification stands when it is pending no more.
sub outcome
{
	my ($tx_no) = @_;
	wait_for_value($bank1, "SELECT bool_and(state <> 'pending') FROM dtx_notifications WHERE tx_no = '$tx_no'", 't');
	return value($bank1, "SELECT string_agg($stand, '; ' ORDER BY id) FROM dtx_notifications WHERE tx_no = '$tx_no'");
}

# --- acknowledged by 2xx, and by nothing else

foreach my $status (200, 201, 204, 299)
{
	notify(endpoint("status/$status"), "status $status", '');
	is(outcome("status $status"), "delivered, 1, $status", "status $status acknowledges");
}
foreach my $status (300, 301, 302, 304, 307, 308)
{
	notify(endpoint("status/$status"), "status $status", '');
	is(outcome("status $status"), "exhausted, 1, $status, HTTP status $status: redirects are not followed", "status $status");
}
foreach my $status (400, 401, 403, 404, 409, 418, 422, 429, 500, 502, 503, 599)
{
	notify(endpoint("status/$status"), "status $status", '');
	is(outcome("status $status"), "exhausted, 1, $status, HTTP status $status", "status $status is a failed attempt");
	is(value($bank1, "SELECT answer FROM dtx_notifications WHERE tx_no = 'status $status'"),
		"this is what $status says", "status $status: the start of the body is kept");
}
is(value($bank1, q{SELECT string_agg(DISTINCT state, ' ') FROM dtx_targets}), 'enabled', 'none of these disables the target');

notify(endpoint('redirect'), 'redirect', '');
is(outcome('redirect'), 'exhausted, 1, 302, HTTP status 302: redirects are not followed', 'a redirect is not followed');
is(scalar(grep { $_->{url} eq '/status/204' } $http->requests(qr/:redirect$/)), 0, 'nobody asked for where it leads');

# --- what else can go wrong

notify(endpoint('', port => 'none'), 'refused', '10ms');
like(outcome('refused'), qr/^exhausted, 2, Failed to connect/, 'refused: every attempt is counted');

notify(endpoint('hang', server => "allow_private 'true', timeout '300ms'"), 'hangs', '');
like(outcome('hangs'), qr/^exhausted, 1, Operation timed out/, 'an endpoint that hangs is given up after its timeout');

notify(endpoint('drip', server => "allow_private 'true', timeout '300ms'"), 'drips', '');
like(outcome('drips'), qr/^exhausted, 1, 200, Operation timed out/, 'one that drips, too: the time is that of the whole request');

notify(endpoint('cut'), 'cut', '');
like(outcome('cut'), qr/^exhausted, 1, 200, (transfer closed|end of response)/, 'an answer that is cut off does not acknowledge');

notify(endpoint('lost/99'), 'lost', '');
like(outcome('lost'), qr/^exhausted, 1, (Empty reply|Recv failure)/, 'nor does none');

notify(endpoint('garbage'), 'garbage', '');
like(outcome('garbage'), qr/^exhausted, 1, Received HTTP\/0\.9|^exhausted, 1, Unsupported/, 'nor does what is no HTTP');

notify(endpoint('headers'), 'headers', '');
like(outcome('headers'), qr/^exhausted, 1, (200, )?the headers of the answer are too long/, 'headers without end are not read');

notify(endpoint('huge'), 'huge', '');
is(outcome('huge'), 'delivered, 1, 200', 'a status counts, whatever follows');
wait_until(sub { grep { $_->{url} eq '/huge' } $http->lines('ended') }, 'the answer is not waited for');
my ($huge) = grep { $_->{url} eq '/huge' } $http->lines('ended');
cmp_ok($huge->{sent}, '<', 100_000_000, 'of 10 GB little is taken');

notify(endpoint('', url => 'http://nowhere.invalid/'), 'unknown', '');
like(outcome('unknown'), qr/^exhausted, 1, Could not resolve host/, 'a name that nobody knows');

# --- attempts: by the schedule, with the same id, and signed anew

notify(endpoint('fails/2'), 'T 1/é', '20ms,1100ms,1min', '{"text": "ä\\\\\"€", "number": 1.50, "none": null}');
is(outcome('T 1/é'), 'delivered, 3, 204', 'failed twice, then delivered');
is(value($bank1, q{SELECT state || ' ' || last_error || ' ' || (delivered_at > notified_at AND next_attempt IS NULL) FROM dtx_outcome('T 1/é')}),
	'delivered HTTP status 500 true', 'who asks is told the last error');
my $origin = value($bank1, q{SELECT name || ':' || tag FROM dtx.node});
my @requests = $http->requests(qr/:T%201/);
is(scalar @requests, 3, 'three requests');
is(join(' ', map { $_->{headers}{'webhook-id'} } @requests), join(' ', ("$origin:T%201%2F%C3%A9") x 3),
	'with the same webhook-id, which says who sends and which transaction');
my %times = map { $_->{headers}{'webhook-timestamp'} => 1 } @requests;
cmp_ok(scalar keys %times, '>', 1, 'and the time of the attempt');
SKIP:
{
	skip $unverified, 1 unless $verifies;
	is_deeply([ $http->verify($secret, @requests) ], [ ('ok') x 3 ], 'signed, as the reference implementation finds');
}
is(join(' ', map { "$_->{method} $_->{headers}{'content-type'} $_->{version}" } @requests), join(' ', ('POST application/json 1.1') x 3),
	'a POST of JSON');
is_deeply(decode_json(encode_utf8_once($requests[0]{body})), { text => "\x{e4}\\\"\x{20ac}", number => 1.5, none => undef }, 'the body is the payload');
like($requests[0]{body}, qr/"number": 1\.50/, 'to the digit');
SKIP:
{
	skip $unverified, 2 unless $verifies;
	isnt($http->verify($other_secret, $requests[0]), 'ok', 'another secret does not fit');
	isnt($http->verify($secret, { %{ $requests[0] }, body => "$requests[0]{body} " }), 'ok', 'nor does another body');
}

# What decode_json makes of a line are characters.
sub encode_utf8_once
{
	my ($text) = @_;
	utf8::encode($text);
	return $text;
}

# --- rotation of secrets, tokens, headers

my $rotating = endpoint('status/204', mapping => "secret '$secret $other_secret', token 'no-one-knows', headers '{\"X-Key\": \"my-own-key\", \"X-Empty\": \"\"}'");
notify($rotating, 'rotated', '');
outcome('rotated');
my ($rotated) = $http->requests(qr/:rotated$/);
is(scalar(split / /, $rotated->{headers}{'webhook-signature'}), 2, 'two secrets, two signatures');
SKIP:
{
	skip $unverified, 1 unless $verifies;
	is_deeply([ map { $http->verify($_, $rotated) } $secret, $other_secret ], [ 'ok', 'ok' ], 'each of its own');
}
is(join(', ', map { $_ // 'none' } @{ $rotated->{headers} }{qw(authorization x-key x-empty)}), 'Bearer no-one-knows, my-own-key, ', 'token and headers');
$bank1->safe_psql('bank1', "ALTER USER MAPPING FOR CURRENT_USER SERVER $rotating OPTIONS (SET secret '$other_secret', DROP token)");
notify($rotating, 'rotated again', '');
outcome('rotated again');
($rotated) = $http->requests(qr/:rotated%20again$/);
SKIP:
{
	skip $unverified, 1 unless $verifies;
	is_deeply([ map { $_ eq 'ok' ? 1 : 0 } map { $http->verify($_, $rotated) } $secret, $other_secret ], [ 0, 1 ], 'the mapping that counts is the present one');
}
ok(!defined $rotated->{headers}{authorization}, 'without the token');

my $unsigned = endpoint('status/204', mapping => "unsigned 'true'");
notify($unsigned, 'unsigned', '');
outcome('unsigned');
my ($bare) = $http->requests(qr/:unsigned$/);
is(join(' ', map { defined $bare->{headers}{"webhook-$_"} ? 1 : 0 } qw(id timestamp signature)), '1 1 0', 'unsigned where the mapping says so');

# --- secrets are not shown: not by an endpoint that says them again, not in the log

my $mark = log_mark($bank1);
notify(endpoint('echo', mapping => "secret '$secret $other_secret', token 'ask-me-not', headers '{\"X-Key\": \"my-hidden-key\"}'"), 'echo', '10ms');
is(outcome('echo'), 'exhausted, 2, 500, HTTP status 500', 'an endpoint that sends back what it got');
my $shown = value($bank1, q{SELECT n::text || (SELECT string_agg(t::text, ' ') FROM dtx_targets t) || (SELECT o::text FROM dtx_outcome('echo') o)
  FROM dtx_notifications n WHERE tx_no = 'echo'});
like($shown, qr/webhook-id/, 'its answer is shown');
unlike($shown, qr/ask-me-not|my-hidden-key|MfKQ9r8GKYqr/, 'without the secrets');
my @log = grep { !/CREATE USER MAPPING/ } split /\n/, log_since($bank1, $mark);
is(scalar(grep { /ask-me-not|my-hidden-key|MfKQ9r8GKYqr/ } @log), 0, 'nor are they in the log');

# --- TLS

notify(endpoint('status/204', port => 'https', host => 'localhost'), 'nobody\'\'s authority', '');
like(outcome('nobody\'\'s authority'), qr/^exhausted, 1, SSL certificate/, 'a certificate that nobody vouches for');
my $ca = $http->ca;
notify(endpoint('status/204', port => 'other', host => 'localhost', server => "allow_private 'true', sslrootcert '$ca'"), 'other authority', '');
like(outcome('other authority'), qr/^exhausted, 1, SSL certificate/, 'one of another authority');
notify(endpoint('status/204', port => 'https', server => "allow_private 'true', sslrootcert '$ca'"), 'other name', '');
like(outcome('other name'), qr/^exhausted, 1, SSL: no alternative certificate subject name matches/, 'one for another name');
is(scalar $http->requests(qr/:(nobody|other)/), 0, 'none of these was told');
my $safe = endpoint('status/204', port => 'https', host => 'localhost', server => "allow_private 'true', sslrootcert '$ca'");
notify($safe, 'safe 0', '');
is(outcome('safe 0'), 'delivered, 1, 204', 'one of the authority that the server names');
value($bank1, "SELECT count(dtx_notify('$safe', 'safe ' || i, '{}', '{}')) FROM generate_series(1, 100) i");
ok(wait_for_value($bank1, q{SELECT count(*) FROM dtx_notifications WHERE tx_no LIKE 'safe %' AND state = 'delivered'}, 101), 'many more');
my @safe = $http->requests(qr/:safe/);
my %connections = map { $_->{connection} => 1 } @safe;
is(join(' ', scalar(@safe), (sort keys %{ { map { $_->{version} => 1 } @safe } }), scalar(keys %connections)), '101 2.0 1',
	'over HTTP/2 and one connection');
my $plain = endpoint('status/204');
value($bank1, "SELECT count(dtx_notify('$plain', 'plain ' || i, '{}', '{}')) FROM generate_series(1, 500) i");
ok(wait_for_value($bank1, q{SELECT count(*) FROM dtx_notifications WHERE tx_no LIKE 'plain %' AND state = 'delivered'}, 500), 'without TLS');
%connections = map { $_->{connection} => 1 } $http->requests(qr/:plain/);
cmp_ok(scalar(keys %connections), '<=', 33, 'connections are used again');

# --- addresses

my $before = $http->connections;
my $private = qr/^exhausted, 1, the address is private, a loopback's or this machine's own/;
my $port = $http->{ports}{http};
foreach my $host ('127.0.0.1', 'localhost', '127.1', '0x7f.1', '2130706433', '127.8.9.10', '[::1]', '[::ffff:127.0.0.1]', '[::127.0.0.1]', '[::]', '0.0.0.0',
	'10.1.2.3', '172.16.0.1', '172.31.255.255', '192.168.1.1', '169.254.169.254', '100.64.0.1', '192.0.0.1', '198.18.0.1', '224.0.0.1', '255.255.255.255',
	'[fe80::1]', '[fc00::1]', '[fd12:3456::1]', '[64:ff9b::7f00:1]', '[2002:7f00:1::]', '[ff02::1]',
	# documentation, and what else nobody has
	'192.0.2.1', '198.51.100.1', '203.0.113.1', '192.88.99.1', '[2001:db8::1]', '[3fff::1]', '[2001::1]', '[2001:2::1]', '[100::1]', '[5f00::1]',
	'[64:ff9b:1::1]', '[::ffff:203.0.113.1]', '[64:ff9b::c000:201]', '[2002:c000:201::]',
	# the machine's own, in whatever clothes
	'8.9.10.12', '[::ffff:8.9.10.12]', '[64:ff9b::809:a0c]', '[2002:809:a0c::1]')
{
	notify(endpoint('', url => "http://$host:$port/status/204", server => "timeout '5s'"), "private $host", '');
	like(outcome("private $host"), $private, "$host is refused, unless the server allows private addresses");
}
is($http->connections, $before, 'nobody was connected to');
# the same URL, with a connection that another server's request has left
my $allowed = endpoint('status/204');
notify($allowed, 'allowed', '');
is(outcome('allowed'), 'delivered, 1, 204', 'a server that allows them');
notify(endpoint('status/204', server => ''), 'not allowed', '');
like(outcome('not allowed'), $private, 'another one does not get its connection');
$bank1->safe_psql('bank1', "ALTER SERVER $allowed OPTIONS (SET allow_private 'false')");
notify($allowed, 'no more', '');
like(outcome('no more'), $private, 'nor does the same, when it allows them no more');

# names, whatever they lead to, and whenever
notify(endpoint('', url => "http://private.test:$port/status/204", server => "timeout '5s'"), 'private name', '');
like(outcome('private name'), $private, 'a name that leads to a private address');
notify(endpoint('', url => "http://private.test:$port/status/204"), 'private name, allowed', '');
is(outcome('private name, allowed'), 'delivered, 1, 204', 'unless the server allows them');
my $rebind = endpoint('', url => "http://rebind.test:$port/status/204", server => "timeout '300ms'");
notify($rebind, 'rebind 1', '');
# a later libcurl asks twice at once, for addresses of either family
like(outcome('rebind 1'), qr/^exhausted, 1, (the address is private|Connection timed out|Operation timed out|Failed to connect|Could not connect)/, 'a name that leads nowhere at first');
# in a new process the name is looked up anew
my ($former) = workers($bank1);
kill 'TERM', $former;
wait_until(sub { workers($bank1) ne $former }, 'the worker ends');
notify($rebind, 'rebind 2', '');
notify($rebind, 'rebind 3', '');
outcome("rebind $_") foreach 2, 3;
is(value($bank1, q{SELECT string_agg(DISTINCT state, ' ') FROM dtx_notifications WHERE tx_no LIKE 'rebind %'}), 'exhausted', 'and to a private address later: nobody gets through');
is(scalar $http->requests(qr/:rebind/), 0, 'at all');
# a name that takes a minute to be looked up
notify(endpoint('', url => "http://slow.test:$port/status/204", server => "timeout '300ms'"), 'slow name', '');
notify($plain, 'beside the slow name', '');
like(outcome('slow name'), qr/^exhausted, 1, Resolving timed out/, 'a name that takes its time is given up');
is(outcome('beside the slow name'), 'delivered, 1, 204', 'others are notified meanwhile');
value($bank1, q{SELECT dtx_notify('} . $plain . q{', 'after the slow name', '{}', '{}')});
is(outcome('after the slow name'), 'delivered, 1, 204', 'and afterwards');

# --- 410: no more

my $gone = endpoint('status/410');
notify($gone, 'gone 1', '1h');
ok(wait_for_value($bank1, "SELECT state || ', ' || reason FROM dtx_targets WHERE server = '$gone'",
		'disabled, HTTP status 410: it wants no more notifications'),
	'410 disables the target, and shows it');
is(value($bank1, "SELECT $stand FROM dtx_notifications WHERE tx_no = 'gone 1'"), 'stopped, 1, 410, HTTP status 410', 'its notification waits');
notify($gone, 'gone 2', '1h');
notify($plain, 'not gone', '');
outcome('not gone');
is(scalar $http->requests(qr/:gone%202$/), 0, 'others to it, too');
# also after a restart
$bank1->restart;
forget_sessions();
notify($plain, 'restarted', '');
is(outcome('restarted'), 'delivered, 1, 204', 'after a restart it goes on');
is(scalar $http->requests(qr/:gone%202$/), 0, 'but not there');
$bank1->safe_psql('bank1', "ALTER SERVER $gone OPTIONS (SET url '" . $http->url('status/204') . "')");
is(value($bank1, "SELECT dtx_target_enable('$gone')"), 2, 'enabled again');
is(outcome('gone 2'), 'delivered, 1, 204', 'what is due is sent');
is(value($bank1, q{SELECT next_attempt > now() + interval '50 min' FROM dtx_notifications WHERE tx_no = 'gone 1'}), 't', 'what was tried comes by its schedule');
is(value($bank1, q{SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE tx_no = 'gone 1'}), 1, 'or is given up');

# --- Retry-After

foreach my $case ([ 429, '7200' ], [ 503, '7200' ], [ 503, 'in two hours' ])
{
	my ($status, $after) = @$case;
	my $value = $after =~ /^\d+$/ ? $after : value($bank1, q{SELECT to_char((now() + interval '2 hours') AT TIME ZONE 'UTC', 'Dy, DD Mon YYYY HH24:MI:SS "GMT"')});
	$value =~ s/ /%20/g;
	my $busy = endpoint("status/$status?after=$value");
	my $what = "$status $after";
	notify($busy, $what, '10ms,10ms,10ms');
	ok(wait_for_value($bank1, "SELECT last_status FROM dtx_notifications WHERE tx_no = '$what'", $status), "$what: tried");
	is(value($bank1, "SELECT attempts || ' ' || (next_attempt - now() BETWEEN '110 min' AND '120 min') FROM dtx_notifications WHERE tx_no = '$what'"),
		'1 true', "$what: not again before");
	is(value($bank1, "SELECT state || ' ' || (not_before > now()) || ', ' || reason FROM dtx_targets WHERE server = '$busy'"),
		'enabled true, it has asked for a pause, with Retry-After', "$what: the target is left alone, and shown so");
	notify($busy, "$what, too", '');
	notify($plain, "beside $what", '');
	outcome("beside $what");
	is(value($bank1, "SELECT attempts || ' ' || (next_attempt > now()) FROM dtx_notifications WHERE tx_no = '$what, too'"), '0 true', "$what: other notifications wait with it");
	value($bank1, "SELECT dtx_target_enable('$busy')");
	is(outcome("$what, too"), "exhausted, 1, $status, HTTP status $status", "$what: unless somebody says otherwise");
	value($bank1, "SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE tx_no = '$what'");
}
# others' is no promise
notify(endpoint('status/500?after=7200'), '500 after', '10ms');
is(outcome('500 after'), 'exhausted, 2, 500, HTTP status 500', 'only 429 and 503 ask for a pause');
# a short one is kept to
notify(endpoint('status/429?after=1'), '429 after a second', '1ms');
is(outcome('429 after a second'), 'exhausted, 2, 429, HTTP status 429', 'after a second it is tried again');
my @late = map { $_->{headers}{'webhook-timestamp'} } $http->requests(qr/:429%20after%20a/);
cmp_ok($late[1], '>', $late[0], 'not before');

# --- the same, once, and more of it

my $id = notify($plain, 'once', '');
is(notify($plain, 'once', ''), $id, 'the same number is the same notification');
outcome('once');
is(scalar $http->requests(qr/:once$/), 1, 'which is sent once');
my $exhausted = endpoint('fails/1');
$id = notify($exhausted, 'redelivered', '');
is(outcome('redelivered'), 'exhausted, 1, 500, HTTP status 500', 'exhausted');
is(value($bank1, "SELECT dtx_redeliver(ARRAY[$id])"), 1, 'redelivered');
is(outcome('redelivered'), 'delivered, 2, 204', 'as another attempt of the same');
is(value($bank1, q{SELECT string_agg(concat_ws(' ', attempt, status, error, answer), ', ' ORDER BY attempt) FROM dtx_failed_attempts WHERE tx_no = 'redelivered'}),
	'1 500 HTTP status 500 not yet', 'the attempt that failed is kept');
my $big = notify($plain, 'big', '', '["' . ('x' x 1_000_000) . '"]');
is(outcome('big'), 'delivered, 1, 204', 'a large payload');
my ($large) = $http->requests(qr/:big$/);
is(length $large->{body}, 1_000_004, 'is sent whole');

# --- an endpoint that hangs delays no other endpoint, no database, no message, no phase 2

my $hang = endpoint('hang', server => "allow_private 'true', timeout '5min'");
notify($hang, "hang $_", '') foreach 1 .. 5;
ok(wait_until(sub { $http->requests(qr/:hang%20/) }, 'it hangs'), 'an endpoint hangs');
$bank2->safe_psql('bank2', <<'SQL');
CREATE TABLE told (what text);
CREATE FUNCTION tell(tx_no text, payload jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO told VALUES (tx_no) $$;
CREATE FUNCTION tell_message(payload jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO told VALUES (payload ->> 'message') $$;
SELECT dtx_on_notification('tell');
SQL
value($bank1, "SELECT dtx_subscribe('beside', 'bank2', 'tell_message')");
foreach my $round (1 .. 3)
{
	notify($plain, "beside $round", '');
	notify('bank2', "beside $round", '');
	value($bank1, qq{SELECT dtx_publish('beside', '{"message": "message $round"}')});
	my $xid = value($bank1, "BEGIN; SELECT dtx_transfer('bank2', '1', '2', 1); COMMIT");
	is(outcome("beside $round"), 'delivered, 1, 204; delivered, 1', 'others are notified');
	ok(wait_for_value($bank2, "SELECT count(*) FROM told WHERE what IN ('message $round', 'beside $round')", 2), 'a message is delivered, a database notified');
	is(value($bank1, "SELECT dtx_wait('$xid', '180s')"), 'committed', 'a transfer is settled');
}
is(value($bank1, q{SELECT string_agg(DISTINCT state || ' ' || (delivered_at IS NULL), ' ') FROM dtx_notifications WHERE tx_no LIKE 'hang %'}),
	'pending true', 'while it hangs');
is(scalar $http->requests(qr/:hang%20/), 1, 'an endpoint that has never answered gets one at a time');
# one that has answered, and gets many at once, and then hangs: it leaves room for others
my @turning = map { endpoint("turns/$_/100", server => "allow_private 'true', timeout '5min', max_requests '64'") } 1 .. 5;
foreach my $i (0 .. 4)
{
	value($bank1, "SELECT count(dtx_notify('$turning[$i]', 'turn ' || i, '{}', '{}')) FROM generate_series(1, 300) i");
}
ok( wait_until(
		sub {
			value($bank1, q{SELECT count(*) FILTER (WHERE state = 'd') || ' ' || count(DISTINCT server) FILTER (WHERE state = 'p' AND called_at IS NOT NULL)
				FROM dtx.notification WHERE tx_no LIKE 'turn %'}) eq '500 5';
		},
		'they hang'),
	'five endpoints hang that have answered before');
foreach my $round (1 .. 3)
{
	notify($plain, "beside them $round", '');
	is(outcome("beside them $round"), 'delivered, 1, 204', 'others are notified');
}
my $fresh = endpoint('status/204');
notify($fresh, 'a new one', '');
is(outcome('a new one'), 'delivered, 1, 204', 'one that is new, too');
is(value($bank1, q{SELECT count(*) FROM dtx_notifications WHERE tx_no LIKE 'turn %' AND state = 'delivered'}), 500, 'while they hang');
value($bank1, q{SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE tx_no LIKE 'turn %' AND state = 'pending'});
# a database whose handler takes for ever is no different
my $blocker = session($bank2);
$blocker->must('BEGIN', 'LOCK TABLE told');
notify('bank2', 'blocked', '');
ok(wait_for_value($bank2, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dtx' AND wait_event_type = 'Lock'}, 1), 'a database hangs');
notify($plain, 'beside the database', '');
is(outcome('beside the database'), 'delivered, 1, 204', 'others are notified');
$blocker->must('COMMIT');
$blocker->close;
is(outcome('blocked'), 'delivered, 1', 'and then it is');

# nor does a database that does not answer who asks for what it expects
$bank1->safe_psql('bank1', <<'SQL');
CREATE TABLE heard (what text);
CREATE FUNCTION hear(payload jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO heard VALUES (payload ->> 'message') $$;
SELECT dtx_subscribe('here', NULL, 'hear');
SQL
$blocker = session($bank2);
$blocker->must('BEGIN', 'LOCK TABLE dtx.notification');
value($bank1, "SELECT dtx_expect('bank2', 'expected ' || i, '0', '{1min,1min}') FROM generate_series(1, 20) i");
ok(wait_for_value($bank2, q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%dtx.outcome%' AND application_name = 'dtx' AND wait_event_type = 'Lock'}, 1), 'a database is asked, and does not answer');
is(value($bank1, q{SELECT count(*) || ' ' || count(backend_xmin) FROM pg_stat_activity WHERE backend_type = 'dtx runner'}), '1 0', 'no snapshot is held meanwhile');
value($bank1, q{SELECT dtx_publish('here', '{"message": "beside it"}')});
ok(wait_for_value($bank1, q{SELECT count(*) FROM heard}, 1), 'messages of the same role are handled');
ok(wait_for_value($bank1, q{SELECT count(*) > 0 FROM dtx_expectations WHERE last_error LIKE 'DX006: canceling call to server "bank2"%'}, 't'), 'an attempt ends after a while');
cmp_ok(value($bank1, q{SELECT sum(attempts) FROM dtx_expectations}), '<=', 3, 'and not all are tried one after the other');
$blocker->must('ROLLBACK');
$blocker->close;
value($bank1, q{SELECT count(dtx_unexpect(server, tx_no)) FROM dtx_expectations});

# --- what is given up while it is sent stays given up

is(value($bank1, q{SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE tx_no LIKE 'hang %'}), 5, 'given up, one of them in the middle of an attempt');
my ($worker) = workers($bank1);
kill 'TERM', $worker;
ok(wait_until(sub { workers($bank1) ne $worker }, 'the worker ends'), 'the worker is told to end in the middle of a request');
notify($plain, 'after that', '');
is(outcome('after that'), 'delivered, 1, 204', 'the next one goes on');
is(value($bank1, q{SELECT string_agg(DISTINCT state, ' ') FROM dtx_notifications WHERE tx_no LIKE 'hang %'}), 'discarded', 'not with those');
my $ends = endpoint('hang', server => "allow_private 'true', timeout '500ms'");
notify($ends, 'given up', '1h');
ok(wait_until(sub { $http->requests(qr/:given%20up$/) }, 'it is sent'), 'given up before the answer');
my $holder = session($bank1);
$holder->must('BEGIN', q{SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE tx_no = 'given up'});
# its row is locked when the answer is to be recorded: that waits for nobody
notify($ends, 'after it', '');
like(outcome('after it'), qr/^exhausted, 1, Operation timed out/, 'others are recorded meanwhile');
$holder->must('COMMIT');
$holder->close;
ok(wait_for_value($bank1, q{SELECT state || ' ' || (last_error LIKE 'Operation timed out%') FROM dtx_notifications WHERE tx_no = 'given up'}, 'discarded true'),
	'what came of the attempt is recorded, and it stays given up');

# --- options that change while a request is under way, and rows that somebody has locked

foreach my $change (
	[ "ALTER USER MAPPING FOR CURRENT_USER SERVER %s OPTIONS (DROP secret)", qr/^exhausted, 1, 55000: the user mapping/ ],
	[ "ALTER SERVER %s OPTIONS (DROP url, DROP allow_private, DROP timeout, ADD host '127.0.0.1', ADD port '1')", qr/^exhausted, 1, / ],
	[ "ALTER SERVER %s OPTIONS (SET url '" . $http->url('status/204') . "')", qr/^delivered, 1, 204/ ])
{
	my ($sql, $expected) = @$change;
	my $changing = endpoint('hang', server => "allow_private 'true', timeout '3s'");
	my $tx_no = "changing $changing";
	notify($changing, $tx_no, '');
	ok(wait_for_value($bank1, "SELECT called_at IS NOT NULL FROM dtx.notification WHERE tx_no = '$tx_no'", 't'), 'a request is under way');
	# it comes after that one
	notify($changing, "$tx_no, then", '');
	$bank1->safe_psql('bank1', sprintf($sql, $changing));
	notify($plain, "beside $tx_no", '');
	is(outcome("beside $tx_no"), 'delivered, 1, 204', 'options change meanwhile: others are notified');
	like(outcome($tx_no), qr/^exhausted, 1, Operation timed out/, 'the request ends as it began');
	like(outcome("$tx_no, then"), $expected, 'the next one is as the options say');
}
# the other way round: a database, that becomes an endpoint
my $former_bank = 'former_bank';
make_peer($bank1, $bank2, server => $former_bank);
my $table = session($bank2);
$table->must('BEGIN', 'LOCK TABLE told');
notify($former_bank, 'to a database', '10ms');
ok(wait_for_value($bank2, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dtx' AND wait_event_type = 'Lock'}, 1), 'a call is under way');
$bank1->safe_psql('bank1', "ALTER SERVER $former_bank OPTIONS (DROP host, DROP port, DROP dbname, ADD url '" . $http->url('status/204') . "', ADD allow_private 'true')");
$bank1->safe_psql('bank1', "ALTER USER MAPPING FOR CURRENT_USER SERVER $former_bank OPTIONS (ADD secret '$secret')");
notify($former_bank, 'to an endpoint', '');
notify($plain, 'beside the former bank', '');
is(outcome('beside the former bank'), 'delivered, 1, 204', 'others are notified');
$table->must('COMMIT');
$table->close;
is(outcome('to a database'), 'delivered, 1', 'the call ends as it began');
is(outcome('to an endpoint'), 'delivered, 1, 204', 'and then it is an endpoint');

# whoever has a target's row locked keeps nobody waiting
my $pausing = endpoint('status/503?after=7200');
my $locker = session($bank1);
$locker->must('BEGIN', "SELECT dtx_target_disable('$pausing')");
notify($pausing, 'pausing', '1h');
ok(wait_until(sub { scalar $http->requests(qr/:pausing$/) }, 'it is tried'), 'an endpoint asks for a pause whose row is locked');
notify($plain, 'beside the locked target', '');
is(outcome('beside the locked target'), 'delivered, 1, 204', 'others are notified');
$locker->must('ROLLBACK');
$locker->close;
ok(wait_for_value($bank1, "SELECT reason FROM dtx_targets WHERE server = '$pausing'", 'it has asked for a pause, with Retry-After'),
	'and then that is written down');
value($bank1, q{SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE tx_no = 'pausing'});

# one that is locked when it is due comes when it is not locked any more
my $unlocked;
my $tx_no;
# the second attempt may come before the lock
foreach my $try (1 .. 50)
{
	$tx_no = "locked $try";
	$unlocked = endpoint('fails/1');
	notify($unlocked, $tx_no, '300ms');
	wait_for_value($bank1, qq{SELECT attempts > 0 FROM dtx_notifications WHERE tx_no = '$tx_no'}, 't');
	$locker = session($bank1);
	$locker->must('BEGIN');
	$locker->run(qq{SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE tx_no = '$tx_no' AND attempts = 1});
	last if value($bank1, qq{SELECT state = 'pending' AND attempts = 1 FROM dtx_notifications WHERE tx_no = '$tx_no'}) eq 't';
	$locker->must('ROLLBACK');
	$locker->close;
}
ok(wait_for_value($bank1, qq{SELECT next_attempt < now() - interval '200ms' FROM dtx_notifications WHERE tx_no = '$tx_no'}, 't'), 'a row is locked when it is due');
$locker->must('ROLLBACK');
$locker->close;
is(outcome($tx_no), 'delivered, 2, 204', 'it is not forgotten');

# --- secrets that are longer than what is kept of an answer

my $long = 'x' . ('0123456789' x 70);
notify(endpoint('echo', mapping => "secret '$secret', token '$long'"), 'long secret', '');
like(outcome('long secret'), qr/^exhausted, 1, 500/, 'an endpoint sends a long token back');
unlike(value($bank1, q{SELECT n::text || f::text FROM dtx_notifications n JOIN dtx_failed_attempts f USING (id) WHERE n.tx_no = 'long secret'}),
	qr/0123456789/, 'no piece of it is shown');

# --- what has no form in UTF-8

$bank1->safe_psql('postgres', q{CREATE DATABASE latin ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0});
$bank1->safe_psql('latin', 'CREATE EXTENSION dtx');
$http->make_endpoint($bank1, 'latin', $http->url('status/204'), database => 'latin');
my $latin = session($bank1, database => 'latin');
is($latin->run(q{SELECT dtx_notify('latin', 'latin', convert_from('\x2263e922', 'SQL_ASCII')::jsonb, '{}')})->{state}, '22021', 'what cannot be sent is refused');
# it is registered, and then the target becomes an endpoint
$latin->must(q{CREATE SERVER other FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '127.0.0.1', port '1')});
$latin->must(q{CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (secret '} . $secret . q{')});
$latin->must(q{SELECT dtx_target_disable('other')}, q{SELECT dtx_notify('other', 'latin', convert_from('\x2263e922', 'SQL_ASCII')::jsonb)});
$latin->must(q{ALTER SERVER other OPTIONS (DROP host, DROP port, ADD url '} . $http->url('status/204') . q{', ADD allow_private 'true')}, q{SELECT dtx_target_enable('other')});
$latin->must(q{SELECT dtx_notify('latin', 'plain', '{}', '{}')});
$latin->close;
ok(wait_for_value($bank1, q{SELECT string_agg(concat_ws(' ', tx_no, state, last_error), ', ' ORDER BY id) FROM dtx_notifications}, 
		'latin exhausted it has characters without an equivalent in UTF-8, plain delivered', undef, 'latin'),
	'and is nobody else\'s matter where it was let in');

# --- many endpoints

my @many = map { endpoint("status/204?$_") } 1 .. 60;
foreach my $server (@many)
{
	value($bank1, "SELECT count(dtx_notify('$server', 'many ' || i, '{}', '{}')) FROM generate_series(1, 20) i");
}
ok(wait_for_value($bank1, q{SELECT count(*) FROM dtx_notifications WHERE tx_no LIKE 'many %' AND state = 'delivered'}, 1200), 'sixty endpoints, twenty each');
is(scalar $http->requests(qr/:many%20/), 1200, 'each once');
is(value($bank1, q{SELECT count(*) FROM dtx_notifications WHERE state = 'pending'}), 0, 'nothing is pending');
is(value($bank1, q{SELECT count(*) FROM dtx_notifications WHERE attempts = 0 AND state = 'delivered'}), 0, 'nothing was delivered without an attempt');

# --- plans that were made while there were few rows read few when there are many

# the statistics say that there is nothing
$bank2->safe_psql('bank2', $_) for 'TRUNCATE dtx.notification', 'VACUUM ANALYZE dtx.notification';
$http->make_endpoint($bank2, 'reading', $http->url('status/204'));
my $told = 0;

# Notify once more, and wait until that is recorded.
sub deliver_one
{
	my $tx_no = 'reading ' . ++$told;

	value($bank2, "SELECT dtx_notify('reading', '$tx_no', '{}')");
	wait_for_value($bank2, "SELECT state FROM dtx_notifications WHERE tx_no = '$tx_no'", 'delivered');
}
deliver_one() for 1 .. 10;
value($bank2, q{SELECT count(dtx_notify(NULL, 'registered ' || n, '{}')) FROM generate_series(1, 20000) n});
value($bank2, q{SELECT pg_stat_reset_single_table_counters('dtx.notification_pkey'::regclass)});
ok(wait_until(
		sub {
			deliver_one();
			return value($bank2, q{SELECT idx_scan >= 20 FROM pg_stat_user_indexes WHERE indexrelname = 'notification_pkey'}) eq 't';
		},
		'what was read is reported'),
	'the primary key is used');
is(value($bank2, q{SELECT idx_tup_read < 20000 FROM pg_stat_user_indexes WHERE indexrelname = 'notification_pkey'}),
	't', 'and is not read from one end to the other');

# --- a worker leaves when there is nothing to do for long, and is there when there is

$bank1->append_conf('postgresql.conf', "dtx.worker_idle_timeout = '300ms'\n");
$bank1->reload;
my $later = endpoint('fails/1');
notify($later, 'in an hour', '1h');
wait_for_value($bank1, q{SELECT attempts FROM dtx_notifications WHERE tx_no = 'in an hour'}, 1);
ok(wait_until(sub { workers($bank1) eq '' }, 'the worker leaves'), 'what is due in an hour keeps no worker');
notify($later, 'in two seconds', '2s');
wait_for_value($bank1, q{SELECT attempts FROM dtx_notifications WHERE tx_no = 'in two seconds'}, 1);
ok(wait_until(sub { workers($bank1) eq '' }, 'the worker leaves'), 'nor does what is due in two seconds');
is(outcome('in two seconds'), 'delivered, 2, 204', 'but then there is one');
is(value($bank1, q{SELECT dtx_discard(array_agg(id)) FROM dtx_notifications WHERE tx_no = 'in an hour'}), 1, 'given up');

# --- retention

# what is to be forgotten, and somebody has locked, is waited for by nobody
value($bank2, q{SELECT dtx_notify(NULL, 'to be forgotten', '{}')});
$bank1->safe_psql('bank1', q{CREATE FUNCTION forget(payload jsonb) RETURNS void LANGUAGE sql AS ''; SELECT dtx_on_notification('forget')});
value($bank1, q{SELECT dtx_expect('bank2', 'to be forgotten', '0')});
ok(wait_for_value($bank1, q{SELECT state FROM dtx_expectations WHERE tx_no = 'to be forgotten'}, 'come'), 'a result has come');
$locker = session($bank1);
$locker->must('BEGIN', q{SELECT dtx_unexpect('bank2', 'to be forgotten')});
$bank1->append_conf('postgresql.conf', "dtx.notification_retention = 0\ndtx.worker_idle_timeout = '1min'\n");
$bank1->reload;
# a new worker looks for it at once
($former) = workers($bank1);
kill 'TERM', $former if $former;
notify($plain, 'beside what is forgotten', '1s');
ok(wait_for_value($bank1, q{SELECT count(*) FROM dtx_notifications WHERE state NOT IN ('exhausted') AND tx_no <> 'beside what is forgotten'}, 0), 'what was delivered is forgotten');
notify($plain, 'and goes on', '1s');
ok(wait_until(sub { scalar $http->requests(qr/:and%20goes%20on$/) }, 'it is sent'), 'while a row is locked that is to be forgotten, too');
$locker->must('ROLLBACK');
$locker->close;

$bank1->append_conf('postgresql.conf', "dtx.notification_retention = 0\n");
$bank1->restart;
forget_sessions();
ok(wait_for_value($bank1, q{SELECT count(*) FROM dtx_notifications WHERE state NOT IN ('exhausted')}, 0), 'what was delivered long ago is forgotten');
is(value($bank1, q{SELECT count(*) > 10 FROM dtx_notifications WHERE state = 'exhausted'}), 't', 'what was not stays');
is(value($bank1, q{SELECT count(*) > 10 AND count(*) FILTER (WHERE n.id IS NULL) = 0 FROM dtx.failed_attempt f LEFT JOIN dtx.notification n ON n.id = f.notification}),
	't', 'and so do its attempts, and no others');

done_testing();
