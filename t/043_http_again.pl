# Requests over HTTP that the endpoint has left unprocessed go out again at once, and are
# one attempt; an early answer is an answer; a file of authorities may be replaced.

use strict;
use warnings;

use File::Copy;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Http;

my $bank1 = new_bank('bank1');
my $http = DtxTest::Http->new;
my $ca = $http->ca;
my $endpoints = 0;

# A new endpoint at a path, over HTTP/2; its name.
sub endpoint
{
	my ($path, %options) = @_;
	my $name = 'e' . ++$endpoints;
	$options{server} //= "allow_private 'true', sslrootcert '" . ($options{ca} // $ca) . "'";
	$http->make_endpoint($bank1, $name, $http->url($path, port => 'https', host => 'localhost', %options), %options);
	return $name;
}

# What has become of notifications, by their state and attempts.
sub outcomes
{
	my ($server) = @_;
	wait_for_value($bank1, "SELECT bool_and(state <> 'pending') FROM dtx_notifications WHERE server = '$server'", 't');
	return value($bank1, "SELECT string_agg(concat_ws(' ', n, state, attempts, last_status, last_error), ', ' ORDER BY n)"
		  . " FROM (SELECT count(*) AS n, state, attempts, last_status, last_error FROM dtx_notifications WHERE server = '$server' GROUP BY 2, 3, 4, 5) x");
}

sub notify
{
	my ($server, $n, $payload) = @_;
	value($bank1, "SELECT count(dtx_notify('$server', '$server ' || i, '" . ($payload // '{}') . "', '{1h}')) FROM generate_series(1, $n) i");
	return;
}

# How often each was sent, at most.
sub most_sent
{
	my ($server) = @_;
	my %sent;
	$sent{ $_->{headers}{'webhook-id'} }++ foreach $http->requests(qr/:$server%20/);
	my ($most) = sort { $b <=> $a } values %sent;
	return $most;
}

# --- left unprocessed

my $goaway = endpoint('goaway/20');
notify($goaway, 100);
is(outcomes($goaway), '100 delivered 1 204', 'GOAWAY: what is left goes out again, and that is no other attempt');

my $closed = endpoint('closed/20');
notify($closed, 100);
is(outcomes($closed), '100 delivered 1 204', 'a connection that is cut with requests under way: the same');

my $refused = endpoint('refused/1');
notify($refused, 10);
is(outcomes($refused), '10 delivered 1 204', 'REFUSED_STREAM: the same');

my $stale = endpoint('stale', port => 'http');
foreach my $i (1 .. 5)
{
	value($bank1, "SELECT dtx_notify('$stale', '$stale $i', '{}', '{1h}')");
	outcomes($stale) if $i % 2;
}
is(outcomes($stale), '5 delivered 1 204', 'HTTP/1.1: a connection that was kept, and is cut: the same');

# but not for ever
my $always = endpoint('refused/1000');
value($bank1, "SELECT dtx_notify('$always', '$always 1', '{}', '{}')");
like(outcomes($always), qr/^1 exhausted 1 /, 'what is refused again and again has failed');
cmp_ok(most_sent($always), '<=', 4, 'and was not sent without end');
my $lost = endpoint('lost/1000', port => 'http');
value($bank1, "SELECT dtx_notify('$lost', '$lost 1', '{}', '{}')");
like(outcomes($lost), qr/^1 exhausted 1 /, 'so has what is lost on every connection');
cmp_ok(most_sent($lost), '<=', 4, 'too');

# --- early answers

my $large = '["' . ('x' x 1_000_000) . '"]';
foreach my $status (200, 204)
{
	my $early = endpoint("early/$status");
	notify($early, 3, $large);
	is(outcomes($early), "3 delivered 1 $status", "$status before the body was there, and RST_STREAM with NO_ERROR: it is acknowledged");
}
my $early = endpoint('early/413');
value($bank1, "SELECT dtx_notify('$early', '$early 1', '$large', '{}')");
is(outcomes($early), '1 exhausted 1 413 HTTP status 413', '413: it is not');
my $reset = endpoint('reset');
value($bank1, "SELECT dtx_notify('$reset', '$reset 1', '{}', '{}')");
like(outcomes($reset), qr/^1 exhausted 1 200 .*INTERNAL_ERROR/, 'RST_STREAM with an error: nor is that');

# --- a file of authorities that changes

my $file = PostgreSQL::Test::Utils::tempdir_short() . '/ca.pem';
copy($ca, $file) or BAIL_OUT("copy: $!");
my $renewed = endpoint('status/204', ca => $file);
notify($renewed, 1);
is(outcomes($renewed), '1 delivered 1 204', 'an authority of its own');
$http->stop;
$http->certificate('', 'localhost');
$http->start;
copy($ca, $file) or BAIL_OUT("copy: $!");
$bank1->safe_psql('bank1', "ALTER SERVER $renewed OPTIONS (SET url '" . $http->url('status/204', port => 'https', host => 'localhost') . "')");
value($bank1, "SELECT dtx_notify('$renewed', '$renewed 2', '{}', '{}')");
is(outcomes($renewed), '2 delivered 1 204', 'both were replaced, and it is noticed');
# what is trusted no more is not, on a connection that was kept either
copy("$http->{dir}/other-cert.pem", $file) or BAIL_OUT("copy: $!");
value($bank1, "SELECT dtx_notify('$renewed', '$renewed 3', '{}', '{}')");
like(outcomes($renewed), qr/1 exhausted 1 SSL certificate/, 'an authority that was removed');
unlink $file;
mkfifo($file, 0666) or BAIL_OUT("mkfifo: $!");
value($bank1, "SELECT dtx_notify('$renewed', '$renewed 4', '{}', '{}')");
like(outcomes($renewed), qr/1 exhausted 1 could not read the file that sslrootcert names: it is not a regular file/, 'one that is no file stops nobody');
unlink $file;
value($bank1, "SELECT dtx_notify('$renewed', '$renewed 5', '{}', '{}')");
like(outcomes($renewed), qr/1 exhausted 1 could not read the file that sslrootcert names: No such file/, 'one that is gone');

done_testing();
