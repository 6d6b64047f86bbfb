
=pod

=head1 NAME

DtxTest::FakePeer - a server that speaks the wire protocol and says what it likes

=head1 DESCRIPTION

A process of its own on a Unix-domain socket. It knows nothing of SQL: a table
says by which pattern a call is known, and what an honest peer answers. The
test orders it to distort the answers of some calls, and reads in its journal
how often it did. The startup is one of the calls.

A distortion is made from the honest answer, a hash, and returns what to change
in it:

	columns		how many there are; 0: the call returns no rows
	rows		what is returned, undef for NULL
	error		fields of an ErrorResponse, in place of an answer
	raw		bytes, in place of an answer
	close		close the connection after that
	silent		say nothing more, ever
	status		of the transaction, as ReadyForQuery at the end of the call tells it
	again		say ReadyForQuery twice

=cut

package DtxTest::FakePeer;

use strict;
use warnings;

use Carp;
use IO::Select;
use IO::Socket::UNIX;
use POSIX ();
use PostgreSQL::Test::Utils;
use Socket;

# Options: calls, a list of [name, pattern, columns, rows as a function of the
# call's parameters]; distortions, functions by name.
sub new
{
	my ($class, %options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short;
	my $self = bless {
		host => $dir,
		port => 5998,
		calls => $options{calls},
		distortions => $options{distortions},
		parent => $$,
	}, $class;
	$self->{socket} = IO::Socket::UNIX->new(
		Type => SOCK_STREAM, Local => "$dir/.s.PGSQL.$self->{port}", Listen => 50)
	  or croak "could not listen: $!";
	$self->distort;
	$self->{pid} = fork() // croak "fork: $!";
	if ($self->{pid} == 0)
	{
		eval { $self->serve; 1 } or print STDERR "fake peer: $@";
		POSIX::_exit(0);
	}
	close $self->{socket};
	return $self;
}

sub host { return $_[0]->{host} }
sub port { return $_[0]->{port} }

sub stop
{
	my ($self) = @_;
	return unless $self->{pid} && $self->{parent} == $$;
	my $status = $?;
	kill 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	$? = $status;
	$self->{pid} = undef;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	$self->stop;
	return;
}

# From now on distort the answers of these calls, and of no others.
sub distort
{
	my ($self, %orders) = @_;
	my $path = "$self->{host}/orders";
	open my $file, '>', "$path.new" or croak "$path: $!";
	print $file "$_\t$orders{$_}\n" foreach keys %orders;
	close $file;
	rename "$path.new", $path or croak "$path: $!";
	$self->{mark} = -s "$self->{host}/journal" // 0;
	return;
}

# The calls of a kind that it was asked since the last order, a line each:
# name, distortion, parameters.
sub journal
{
	my ($self, $call) = @_;
	return () unless -e "$self->{host}/journal";
	return grep { /^$call\t/ }
	  split /\n/, PostgreSQL::Test::Utils::slurp_file("$self->{host}/journal", $self->{mark});
}

# --- the process

sub serve
{
	my ($self) = @_;
	my $listening = $self->{socket};
	my $select = IO::Select->new($listening);
	my %connections;
	$SIG{PIPE} = 'IGNORE';
	while (getppid() == $self->{parent})
	{
		foreach my $handle ($select->can_read(0.5))
		{
			if ($handle == $listening)
			{
				my $socket = $listening->accept or next;
				$select->add($socket);
				$connections{$socket} = { socket => $socket, in => '', block => 'I' };
				next;
			}
			my $c = $connections{$handle};
			$c->{closed} = 1 unless sysread($handle, $c->{in}, 65536, length $c->{in});
			$self->hear($c) unless $c->{closed};
			next unless $c->{closed};
			$select->remove($handle);
			delete $connections{$handle};
			close $handle;
		}
	}
	return;
}

sub message
{
	my ($type, $body) = @_;
	return $type . pack('N', 4 + length $body) . $body;
}

sub say
{
	my ($c, $bytes) = @_;
	while (!$c->{silent} && !$c->{closed} && length $bytes)
	{
		my $written = syswrite($c->{socket}, $bytes);
		$c->{closed} = 1 unless $written;
		substr($bytes, 0, $written // 0, '');
	}
	return;
}

# Answer the messages that are complete.
sub hear
{
	my ($self, $c) = @_;
	while (!$c->{closed})
	{
		if (!$c->{started})
		{
			return if length($c->{in}) < 8 || length($c->{in}) < unpack('N', $c->{in});
			substr($c->{in}, 0, unpack('N', $c->{in}), '');
			$c->{started} = 1;
			$c->{answer} = $self->answer('startup');
			if (!plain($c->{answer}))
			{
				execute($c);
				next;
			}
			my %parameters = (server_version => '15.0', server_encoding => 'UTF8', client_encoding => 'UTF8',
				integer_datetimes => 'on', standard_conforming_strings => 'on');
			say($c, join '', message('R', pack('N', 0)),
				(map { message('S', "$_\0$parameters{$_}\0") } sort keys %parameters),
				message('K', pack('NN', 1, 1)), message('Z', 'I'));
			next;
		}
		return if length($c->{in}) < 5;
		my ($type, $length) = unpack('aN', $c->{in});
		return if length($c->{in}) < 1 + $length;
		my $body = substr($c->{in}, 0, 1 + $length, '');
		$self->obey($c, $type, substr($body, 5));
	}
	return;
}

sub obey
{
	my ($self, $c, $type, $body) = @_;
	if ($type eq 'X') { $c->{closed} = 1 }
	elsif ($type eq 'S')
	{
		say($c, message('Z', $c->{status} // $c->{block}) x ($c->{again} ? 2 : 1));
		delete @$c{qw(failed status again)};
	}
	elsif ($c->{failed}) { return }
	elsif ($type eq 'P')
	{
		my ($name, $sql) = unpack('Z*Z*', $body);
		$c->{statements}{$name} = $sql;
		say($c, message('1', ''));
	}
	elsif ($type eq 'B')
	{
		my (undef, $name) = unpack('Z*Z*', $body);
		my $sql = $c->{statements}{$name};
		my $answer = $c->{answer} = $self->answer($sql, parameters($body));
		$c->{block} = $1 eq 'BEGIN' ? 'T' : 'I' if $sql =~ /^(BEGIN|COMMIT|ROLLBACK|PREPARE)\b(?! TO)/;
		$answer->{error} = { C => '25P02', M => 'current transaction is aborted' } if $c->{block} eq 'E';
		$c->{$_} = $answer->{$_} // $c->{$_} foreach qw(status again);
		say($c, message('2', ''));
	}
	elsif ($type eq 'D') { say($c, describe($c->{answer})) if plain($c->{answer}) }
	elsif ($type eq 'E') { execute($c) }
	elsif ($type eq 'Q')
	{
		$c->{answer} = $self->answer(unpack('Z*', $body));
		say($c, describe($c->{answer})) if plain($c->{answer});
		execute($c);
		say($c, message('Z', 'I'));
	}
	return;
}

# The parameters of a Bind message, in text.
sub parameters
{
	my ($body) = @_;
	my ($portal, $name, @formats) = unpack('Z*Z*n/n', $body);
	my $at = length($portal) + length($name) + 4 + 2 * @formats;
	my $count = unpack("x$at n", $body);
	my @values;
	$at += 2;
	for (1 .. $count)
	{
		my $length = unpack("x$at l>", $body);
		push @values, $length < 0 ? undef : substr($body, $at + 4, $length);
		$at += 4 + ($length < 0 ? 0 : $length);
	}
	return @values;
}

# Which call is it, and what is said to it?
sub answer
{
	my ($self, $sql, @values) = @_;
	my ($call) = grep { $sql =~ $_->[1] } @{ $self->{calls} };
	my ($name, undef, $columns, $rows) = @$call;
	my $honest = { columns => $columns, rows => [ $rows->(@values) ], tag => $sql =~ /^((COMMIT|ROLLBACK) PREPARED|PREPARE TRANSACTION|BEGIN|COMMIT|ROLLBACK)\b/ ? $1 : undef };
	my %orders = map { split /\t/ } split /\n/, PostgreSQL::Test::Utils::slurp_file("$self->{host}/orders");
	my $order = $orders{$name};
	open my $journal, '>>', "$self->{host}/journal" or croak "journal: $!";
	print $journal join("\t", $name, $order // 'honest', map { $_ // '' } @values) . "\n";
	close $journal;
	return $honest unless defined $order;
	return { %$honest, $self->{distortions}{$order}->($honest, @values) };
}

sub plain
{
	my ($answer) = @_;
	return !defined $answer->{error} && !defined $answer->{raw} && !$answer->{silent};
}

sub describe
{
	my ($answer) = @_;
	my $n = $answer->{columns};
	return message('n', '') if $n == 0;
	return message('T', pack('n', $n) . join '', map { "c$_\0" . pack('NnNs>l>n', 0, 0, 25, -1, -1, 0) } 1 .. $n);
}

sub execute
{
	my ($c) = @_;
	my $answer = $c->{answer};
	if (plain($answer))
	{
		my $tag = $answer->{tag} // ($answer->{columns} ? 'SELECT ' . @{ $answer->{rows} } : 'UPDATE 1');
		say($c, join '', (map { data_row(@$_) } @{ $answer->{rows} }), message('C', "$tag\0"));
	}
	elsif (defined $answer->{error})
	{
		my %fields = %{ $answer->{error} };
		say($c, message('E', join('', map { "$_$fields{$_}\0" } sort keys %fields) . "\0"));
		$c->{failed} = 1;
		$c->{block} = 'E' if $c->{block} eq 'T';
	}
	elsif (defined $answer->{raw}) { say($c, $answer->{raw}) }
	$c->{silent} ||= $answer->{silent};
	$c->{closed} ||= $answer->{close};
	return;
}

sub data_row
{
	return message('D', pack('n', scalar @_)
		  . join '', map { defined $_ ? pack('N', length $_) . $_ : pack('l>', -1) } @_);
}

1;
