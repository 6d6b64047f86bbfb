#!/usr/bin/perl
# callback.pl PORT: takes what the custody system notifies over HTTP, at 127.0.0.1.
#
# The secret is in the environment, as SECRET; where the database is, too, as for
# psql (PGHOST, PGPORT, PGDATABASE, PGUSER). Port 0 is any that is free. Prints the port
# once it listens.
#
# One request after the other, and no TLS: for the Internet, put it behind a web server.

use strict;
use warnings;

use FindBin;
use IO::Socket::INET;
use JSON::PP;

my %text = (
	204 => 'No Content',
	400 => 'Bad Request',
	401 => 'Unauthorized',
	405 => 'Method Not Allowed',
	500 => 'Internal Server Error',
	503 => 'Service Unavailable');
my $most = 100_000;    # bytes of a body, and of all headers
my $patience = 5;      # seconds

# What there is to it: the body as it came, and the headers, go to one SQL statement.
# They travel in the environment, where psql takes them from: never in SQL text, in a shell's
# command, or where other users of the machine can see them.
sub answer
{
	my ($headers, $body) = @_;

	local %ENV =
	  (%ENV, BODY => $body, HEADERS => encode_json($headers), PGCLIENTENCODING => 'UTF8', PGCONNECT_TIMEOUT => $patience);
	open my $psql, '-|', 'psql', '-XAtq', '-f', "$FindBin::RealBin/accept.sql" or return 500;
	my $answer = <$psql> // '';
	close $psql;
	return
		$answer =~ /^00000 (applied|known)$/ ? 204
	  : $answer =~ /^28000 /                 ? 401    # not authentic
	  : $answer eq '' || $answer =~ /^ /     ? 503    # the database is down
	  :                                        500;
}

# The headers, by their names in lower case, and the body; or the status that says what is wrong.
sub read_request
{
	my ($client) = @_;
	my ($request, $end, %headers) = ('');

	while (($end = index $request, "\r\n\r\n") < 0)
	{
		return 400 if length $request > $most || !sysread $client, $request, 8192, length $request;
	}
	my $body = substr $request, $end + 4;
	my $head = substr $request, 0, $end + 2;
	return 405 if $head !~ /\APOST /;
	$headers{ lc $1 } = $2 while $head =~ /^([^\s:]+):[ \t]*(.*?)[ \t]*\r$/mg;
	my $length = $headers{'content-length'} // '';
	return 400 if $length !~ /\A\d{1,6}\z/ || $length > $most;
	while (length $body < $length)
	{
		sysread $client, $body, $length - length $body, length $body or return 400;
	}
	# the environment would cut it off at a zero byte
	return 400 if length $body > $length || $body =~ /\0/;
	return (\%headers, $body);
}

sub serve
{
	my ($port) = @_;
	my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'tcp', Listen => 128, ReuseAddr => 1)
	  or die "port $port: $@\n";

	$| = 1;
	local $SIG{PIPE} = 'IGNORE';
	print $server->sockport . "\n";
	for (;;)
	{
		my $client = $server->accept or next;
		setsockopt $client, SOL_SOCKET, SO_RCVTIMEO, pack('l!l!', $patience, 0);
		my ($headers, $body) = read_request($client);
		my $status = ref $headers ? answer($headers, $body) : $headers;
		print $client "HTTP/1.1 $status $text{$status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" if defined $status;
		close $client;
	}
	return;
}

serve($ARGV[0] // die "usage: $0 PORT\n") unless caller;

1;
