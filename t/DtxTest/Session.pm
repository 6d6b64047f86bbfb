
=pod

=head1 NAME

DtxTest::Session - a psql that is told one statement after the other

=head1 DESCRIPTION

Unlike background_psql of PostgreSQL::Test::Cluster it survives errors, tells
their SQLSTATE, and tells an error from a lost connection: crashes are what
these tests are about.

=cut

package DtxTest::Session;

use strict;
use warnings;

use Carp;
use IO::Handle;
use IO::Select;
use Time::HiRes qw(time);

my $deadline_default = 180;

# A session of psql at a connection string. Dies when the server cannot be
# reached, unless fail_ok is given: then it returns undef.
sub new
{
	my ($class, $connstr, %options) = @_;
	pipe(my $in_read, my $in_write) or croak "pipe: $!";
	pipe(my $out_read, my $out_write) or croak "pipe: $!";
	pipe(my $err_read, my $err_write) or croak "pipe: $!";

	my $pid = fork();
	croak "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		# the test's own handles may be tied: go by descriptor
		require POSIX;
		POSIX::dup2(fileno($in_read), 0);
		POSIX::dup2(fileno($out_write), 1);
		POSIX::dup2(fileno($err_write), 2);
		$ENV{PGAPPNAME} = $options{application} // 'test';
		exec('psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $connstr)
		  or POSIX::_exit(127);
	}
	close $in_read;
	close $out_write;
	close $err_write;
	$in_write->autoflush(1);
	my $self = bless {
		psql => $pid,
		in => $in_write,
		out => $out_read,
		err => $err_read,
		out_buffer => '',
		err_buffer => '',
		calls => 0,
	}, $class;

	my $hello = $self->run('SELECT pg_backend_pid()');
	if (!$hello->{ok})
	{
		$self->close;
		return undef if $options{fail_ok};
		croak "could not connect to $connstr: $hello->{err}";
	}
	$self->{backend} = $hello->{out};
	return $self;
}

# The process id of the server's side.
sub backend
{
	my ($self) = @_;
	return $self->{backend};
}

# Send a statement, without waiting for its end.
sub send
{
	my ($self, $sql) = @_;
	croak 'the statement before is still running' if defined $self->{marker};
	$self->{marker} = 'end-of-call-' . ++$self->{calls};
	# without a connection the write fails; wait() finds that out
	print { $self->{in} } "$sql\n;\n\\echo $self->{marker} :ERROR :SQLSTATE\n";
	return;
}

sub read_some
{
	my ($self, $timeout) = @_;
	my @ready = IO::Select->new($self->{out}, $self->{err})->can_read($timeout);
	my $eof = 0;
	foreach my $handle (@ready)
	{
		my $buffer = $handle == $self->{out} ? 'out_buffer' : 'err_buffer';
		my $got = sysread($handle, $self->{$buffer}, 65536, length $self->{$buffer});
		$eof = 1 if !$got && $handle == $self->{out};
	}
	return $eof;
}

# Is the statement that was sent still running?
sub busy
{
	my ($self) = @_;
	return 0 unless defined $self->{marker};
	my $eof = $self->read_some(0);
	return !$eof && $self->{out_buffer} !~ /^\Q$self->{marker}\E /m;
}

# Wait for the end of the statement that was sent. Returns a hash:
#	ok		it succeeded
#	out		what it printed
#	err		errors and notices, as psql prints them with VERBOSITY verbose
#	state	the SQLSTATE, unless the connection was lost
#	lost	the connection was lost
sub wait
{
	my ($self, $seconds) = @_;
	my $deadline = time() + ($seconds // $deadline_default);
	my $marker = $self->{marker};
	my %result = (ok => 0, lost => 0, state => undef);

	croak 'no statement is running' unless defined $marker;
	for (;;)
	{
		if ($self->{out_buffer} =~ s/\A(.*?)^\Q$marker\E (\S+) (\S*)\n//ms)
		{
			($result{out}, $result{ok}, $result{state}) = ($1, $2 eq 'false', $3);
			# an error without an SQLSTATE is libpq's: there is no connection
			$result{lost} = 1 if $3 eq '';
			last;
		}
		my $left = $deadline - time();
		if ($left <= 0)
		{
			kill 'KILL', $self->{psql};
			croak "a statement did not end in time: $self->{err_buffer}";
		}
		if ($self->read_some($left) && $self->{out_buffer} !~ /^\Q$marker\E /m)
		{
			$result{lost} = 1;
			$result{out} = $self->{out_buffer};
			last;
		}
	}
	# psql has written the errors before the marker: they are in the pipe
	while (IO::Select->new($self->{err})->can_read(0))
	{
		last unless sysread($self->{err}, $self->{err_buffer}, 65536, length $self->{err_buffer});
	}
	$result{err} = $self->{err_buffer};
	$self->{err_buffer} = '';
	chomp $result{out};
	$self->{marker} = undef;
	return \%result;
}

# Run one statement to its end.
sub run
{
	my ($self, $sql, $seconds) = @_;
	$self->send($sql);
	return $self->wait($seconds);
}

# Run statements that must succeed, each on its own; returns the last's output.
sub must
{
	my ($self, @statements) = @_;
	my $result;
	foreach my $sql (@statements)
	{
		$result = $self->run($sql);
		croak "failed: $sql\n$result->{err}" unless $result->{ok};
	}
	return $result->{out};
}

sub close
{
	my ($self) = @_;
	return unless defined $self->{psql};
	close $self->{in};
	# one that still waits for its statement does not see the end of its input
	kill 'TERM', $self->{psql} if defined $self->{marker};
	close $self->{out};
	close $self->{err};
	my $status = $?;
	waitpid $self->{psql}, 0;
	$? = $status;
	$self->{psql} = undef;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	$self->close;
	return;
}

1;
