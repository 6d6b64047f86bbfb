=pod

=head1 NAME

DtxTest::Wire - a client that speaks the extended protocol, as drivers do

=head1 DESCRIPTION

psql sends literals. This sends Parse, Bind, Describe, Execute and Sync, with the
type of each parameter, or none, and its value in text, or as NULL.

=cut

package DtxTest::Wire;

use strict;
use warnings;

use Carp;
use IO::Socket::UNIX;
use Socket;

# A connection to a node's database, over its Unix-domain socket, without a password.
sub new
{
	my ($class, $node, $database) = @_;
	my $path = $node->host . '/.s.PGSQL.' . $node->port;
	my $socket = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $path) or croak "could not connect to $path: $!";
	my $self = bless { socket => $socket, buffer => '' }, $class;
	my $startup = pack('N', 196608) . join("\0", user => (getpwuid($>))[0], database => $database) . "\0\0";
	print $socket pack('N', 4 + length $startup) . $startup;
	my $result = $self->answer;
	croak "could not connect: $result->{message}" if defined $result->{state};
	return $self;
}

sub receive
{
	my ($self, $length) = @_;
	while (length $self->{buffer} < $length)
	{
		sysread($self->{socket}, $self->{buffer}, 65536, length $self->{buffer}) or croak 'the connection was lost';
	}
	return substr $self->{buffer}, 0, $length, '';
}

# Read up to ReadyForQuery. Returns a hash: rows, types of the parameters, state and
# message of an error.
sub answer
{
	my ($self) = @_;
	my %result = (rows => []);
	for (;;)
	{
		my ($type, $length) = unpack 'a N', $self->receive(5);
		my $body = $self->receive($length - 4);
		if ($type eq 'Z')
		{
			return \%result;
		}
		elsif ($type eq 'E')
		{
			my %fields = map { length $_ ? (substr($_, 0, 1) => substr($_, 1)) : () } split /\0/, $body;
			@result{qw(state message)} = @fields{qw(C M)};
		}
		elsif ($type eq 't')
		{
			my ($n, @types) = unpack 'n N*', $body;
			$result{types} = \@types;
		}
		elsif ($type eq 'D')
		{
			my $n = unpack 'n', substr $body, 0, 2, '';
			push @{ $result{rows} }, [
				map {
					my $size = unpack 'N', substr $body, 0, 4, '';
					$size == 0xffffffff ? undef : substr $body, 0, $size, '';
				} 1 .. $n ];
		}
	}
}

sub message
{
	my ($type, $body) = @_;
	return pack 'a N a*', $type, 4 + length $body, $body;
}

# Run a statement. Parameters are values, without a type, or [type, value], the type
# by OID. Returns what answer does.
sub run
{
	my ($self, $sql, @parameters) = @_;
	my @typed = map { ref $_ ? $_ : [ 0, $_ ] } @parameters;
	my $values = join '', map { defined $_->[1] ? pack('N/a*', $_->[1]) : pack('N', 0xffffffff) } @typed;
	my $socket = $self->{socket};
	print $socket message('P', "\0$sql\0" . pack('n N*', scalar @typed, map { $_->[0] } @typed)),
	  message('D', "S\0"),
	  message('B', "\0\0" . pack('n n', 0, scalar @typed) . $values . pack('n', 0)),
	  message('E', "\0" . pack('N', 0)), message('S', '');
	$socket->flush;
	return $self->answer;
}

1;
