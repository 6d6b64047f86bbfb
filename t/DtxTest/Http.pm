
=pod

=head1 NAME

DtxTest::Http - an HTTP server that can do all that endpoints do to those who call them

=head1 DESCRIPTION

t/http/server.js, which says what it does at which path, in a process of its own. Its
TLS certificates are made for the run: one of an authority that is in $http->ca, and
one of an authority that nobody has heard of.

Node.js runs it, and without that the test file is left out. Where the package
standardwebhooks of the npm registry is, the environment says in DTX_NODE_MODULES:
.ci/check has it installed, if the registry gives it.

=cut

package DtxTest::Http;

use strict;
use warnings;

use File::Basename;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use DtxTest;

my @running;

sub new
{
	my ($class) = @_;
	needs_programs('node', 'openssl');
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my $self = bless { dir => $dir, from => dirname(__FILE__) . '/../http' }, $class;
	$self->certificate('', 'localhost');
	$self->certificate('other-', 'localhost');
	$self->start;
	push @running, $self;
	return $self;
}

# A certificate that is its own authority.
sub certificate
{
	my ($self, $prefix, $name) = @_;
	my @command = (
		'openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
		'-subj', "/CN=$name", '-addext', "subjectAltName=DNS:$name",
		'-keyout', "$self->{dir}/${prefix}key.pem", '-out', "$self->{dir}/${prefix}cert.pem");
	my ($out, $err) = run_command(\@command);
	BAIL_OUT("openssl: $err") unless -s "$self->{dir}/${prefix}cert.pem";
	chmod 0644, "$self->{dir}/${prefix}cert.pem";
	return;
}

sub start
{
	my ($self) = @_;
	unlink "$self->{dir}/ports.json";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$self->{dir}/log";
		open STDERR, '>>', "$self->{dir}/log";
		exec('node', "$self->{from}/server.js", $self->{dir}) or exit 127;
	}
	$self->{pid} = $pid;
	wait_until(sub { -e "$self->{dir}/ports.json" }, 'the HTTP server is up')
	  or BAIL_OUT('the HTTP server does not start: ' . slurp_file("$self->{dir}/log"));
	$self->{ports} = decode_json(slurp_file("$self->{dir}/ports.json"));
	return;
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid};
	kill 'KILL', $self->{pid};
	waitpid($self->{pid}, 0);
	$self->{pid} = 0;
	return;
}

# The file with the authority of its certificate.
sub ca { return "$_[0]{dir}/cert.pem" }

# http://127.0.0.1:PORT/PATH, or at another of its ports, by another name.
sub url
{
	my ($self, $path, %options) = @_;
	my $port = $options{port} // 'http';
	my $scheme = $port eq 'http' || $port eq 'none' ? 'http' : 'https';
	return "$scheme://" . ($options{host} // '127.0.0.1') . ":$self->{ports}{$port}/$path";
}

# What the server has written to a file, line by line; read and decoded once.
sub lines
{
	my ($self, $file) = @_;
	my $read = $self->{read}{$file} //= { offset => 0, lines => [] };
	my $new = slurp_file("$self->{dir}/$file", $read->{offset});
	# the last line may not be complete yet
	$new =~ s/[^\n]*\z//;
	$read->{offset} += length $new;
	push @{ $read->{lines} }, map { decode_json($_) } split /\n/, $new;
	return @{ $read->{lines} };
}

# The requests that came, those with a webhook-id like that only.
sub requests
{
	my ($self, $id) = @_;
	return grep { !defined $id || ($_->{headers}{'webhook-id'} // '') =~ $id } $self->lines('requests');
}

sub connections { return scalar $_[0]->lines('connections') }

# Whether the reference implementation of Standard Webhooks is there.
sub can_verify
{
	my ($self) = @_;
	local $ENV{NODE_PATH} = $ENV{DTX_NODE_MODULES} // '';
	return IPC::Run::run([ 'node', "$self->{from}/verify.js", 'whsec_bm9uZQ==' ], '<', \'', '>', \my $out, '2>', \my $err);
}

# What the reference implementation of Standard Webhooks says to requests: one "ok", or
# reason, each.
sub verify
{
	my ($self, $secret, @requests) = @_;
	my $in = join '', map { encode_json($_) . "\n" } @requests;
	my ($out, $err) = ('', '');
	local $ENV{NODE_PATH} = $ENV{DTX_NODE_MODULES} // '';
	IPC::Run::run([ 'node', "$self->{from}/verify.js", $secret ], '<', \$in, '>', \$out, '2>', \$err)
	  or diag "verify.js: $err";
	return split /\n/, $out;
}

# A server of dtx_fdw in the bank that leads to an endpoint, with a mapping. Options:
# server and mapping, more options of theirs.
sub make_endpoint
{
	my ($self, $bank, $name, $url, %options) = @_;
	my $server = $options{server} // "allow_private 'true'";
	my $mapping = $options{mapping} // "secret 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'";
	$server = ", $server" if $server ne '';
	$bank->safe_psql($options{database} // $bank->{bank}, <<"SQL");
CREATE SERVER $name FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url '$url'$server);
CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS ($mapping);
SQL
	return;
}

END
{
	my $status = $?;
	$_->stop foreach @running;
	$? = $status;
}

1;
