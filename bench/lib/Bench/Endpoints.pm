# Endpoints.pm: what the part notify sends to, on loopback addresses: an nginx that
# answers 204, and a listener that never answers. And the bare loop that it is measured against.
package Bench::Endpoints;

use strict;
use warnings;
use IO::Socket::INET;
use POSIX ();
use Time::HiRes qw(sleep);

# Endpoints have an address each, so that each has connections of its own.
use constant ALIVE => 100;

# What is not there; empty: all is.
sub missing
{
	return grep { !Bench::Clusters::program($_) } qw(nginx gcc);
}

sub new
{
	my ($class, $clusters) = @_;
	my $self = bless { clusters => $clusters }, $class;

	$clusters->run_command('gcc', '-O2', '-o', "$clusters->{dir}/http_loop", "$clusters->{dir}/http_loop.c", '-lcurl');
	$self->_start_nginx;
	$self->_start_hanging;
	return $self;
}

# The URL of an endpoint that answers, 1 to ALIVE, and of one that does not.
sub url { return "http://127.0.0.$_[1]:$_[0]->{port}/" }
sub hanging_url { return "http://127.0.0.1:$_[0]->{hanging_port}/$_[1]" }

sub _free_port
{
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die "bench: no port is free: $!\n";
	return $socket->sockport;
}

sub _start_nginx
{
	my ($self) = @_;
	my $clusters = $self->{clusters};
	my $dir = "$clusters->{dir}/nginx";

	$self->{port} = _free_port();
	$clusters->run_command('mkdir', $dir);
	my $listen = join("\n", map { "listen 127.0.0.$_:$self->{port};" } 1 .. ALIVE);
	my $temporary = join("\n", map { "${_}_temp_path $dir/$_;" } qw(client_body proxy fastcgi uwsgi scgi));

	Bench::Results::write_file("$clusters->{dir}/nginx.conf", <<EOC);
worker_processes 1;
daemon off;
pid $dir/pid;
events { worker_connections 1024; }
http {
access_log off;
keepalive_timeout 1h;
keepalive_requests 1000000000;
$temporary
server {
$listen
location / { return 204; }
}
}
EOC
	$clusters->daemon_start("$dir.log", Bench::Clusters::program('nginx'), '-p', $dir, '-e', "$dir.log", '-c', "$clusters->{dir}/nginx.conf");
	for (1 .. 100)
	{
		return if IO::Socket::INET->new(PeerAddr => '127.0.0.' . ALIVE, PeerPort => $self->{port});
		sleep 0.1;
	}
	die "bench: nginx does not listen:\n" . Bench::Clusters::slurp("$dir.log");
}

# Accepts connections, and keeps them, until it is told to close them.
sub _start_hanging
{
	my ($self) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 128) or die "bench: no port is free: $!\n";

	$self->{hanging_port} = $listener->sockport;
	$self->{hanging} = fork() // die "bench: fork: $!\n";
	if ($self->{hanging} == 0)
	{
		my @connections;

		$SIG{TERM} = sub { POSIX::_exit(0) };
		$SIG{INT} = $SIG{HUP} = 'DEFAULT';
		$SIG{USR1} = sub { @connections = () };
		for (;;)
		{
			my $connection = $listener->accept;
			push @connections, $connection if $connection;
		}
	}
	push @{ $self->{clusters}{daemons} }, $self->{hanging};
}

sub close_hanging { kill 'USR1', $_[0]->{hanging} }

# So many requests over so many connections. Returns how many a second, and
# microseconds of CPU time for each.
sub bare_loop
{
	my ($self, $connections, $requests) = @_;
	my $text = $self->{clusters}->run_command("$self->{clusters}{dir}/http_loop", $self->url(1), $connections, $requests);
	my ($seconds, $cpu) = $text =~ /^([\d.]+) ([\d.]+)$/ or die "bench: http_loop printed \"$text\"\n";

	return ($requests / $seconds, $cpu / $requests * 1e6);
}

1;
