
=pod

=head1 NAME

DtxTest::Docs - a reader who types in what a page of the docs shows

=head1 DESCRIPTION

A page is Markdown. Its fenced blocks say what they are:

  ```sql       typed into psql. The first line names the database: -- bank1.
               Words after it, -- bank1, in a moment: typed again until it
               shows what it should.
  ```          right after such a block: what it shows. "..." stands for
               anything, and so does the id of a node or transaction.
  ```sh        typed into a shell. Lines that it prints and that begin with
               a backslash go to the psql of the next block.
  ```console, ```ini and others of @not_run
               not run.

In an sql block, a line that ends with "--> something" says what comes back: one
row, its columns with " | " in between, or an error, its SQLSTATE, a colon and its
message. A block that shows no error has none.

What stands before a page's CREATE DATABASE is typed in after all the rest.

=cut

package DtxTest::Docs;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use IO::Handle;
use IO::Select;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(blocks_of section);
our @not_run = qw(console ini mermaid js python java go text);

my $deadline = 180;
my $xid = qr/\b\w+\.[0-9a-f]{8}(?::[0-9]+\.[0-9a-f]{16})?\b/;

# The fenced blocks of a page about these databases: language, text, line, heading (the last of the
# second level), and of an sql block database, patient, and shown, if the text
# goes on with what it shows.
sub blocks_of
{
	my ($path, @databases) = @_;
	my (@blocks, $open, $words);
	my $databases = join '|', @databases, 'any database';
	my $heading = '';
	open my $file, '<:encoding(UTF-8)', $path or croak "$path: $!";
	while (my $line = <$file>)
	{
		if ($open && $line =~ /^```\s*$/)
		{
			my $last = $blocks[-1];
			if ($open->{language} eq '' && $last && $last->{language} =~ /^(sql|sh)$/ && !defined $last->{shown} && !$words)
			{
				$last->{shown} = $open->{text};
			}
			else
			{
				push @blocks, $open;
			}
			($open, $words) = (undef, 0);
		}
		elsif ($open)
		{
			$open->{text} .= $line;
		}
		elsif ($line =~ /^```(\w*)\s*$/)
		{
			$open = { language => $1, text => '', line => $., heading => $heading };
		}
		else
		{
			$heading = $1 if $line =~ /^## (.*)/;
			$words = 1 if $line =~ /\S/;
		}
	}
	close $file;
	croak "$path: a block has no end" if $open;
	foreach my $block (grep { $_->{language} eq 'sql' } @blocks)
	{
		$block->{text} =~ /^-- ($databases)(,.*)?\n/
		  or croak "$path, line $block->{line}: the block does not say where it is for";
		$block->{database} = $1 eq 'any database' ? 'postgres' : $1;
		$block->{patient} = defined $2;
	}
	return @blocks;
}

# Those under a heading.
sub section
{
	my ($heading, @blocks) = @_;
	return grep { $_->{heading} eq $heading } @blocks;
}

# A reader at a cluster. Options: connstr, a function of the database's name;
# replace, what stands in the text and has to be something else here; root, where
# the shell is; directory, where psql is.
sub new
{
	my ($class, %options) = @_;
	return bless { %options, psql => {}, learned => {}, typed => '' }, $class;
}

# Do what a block says. Returns undef, or what was wrong.
sub follow
{
	my ($self, $block) = @_;
	my $until = time() + $deadline;

	return $self->_shell($block) if $block->{language} eq 'sh';
	for (;;)
	{
		my $wrong = $self->_sql($block);
		if (!defined $wrong || !$block->{patient} || time() > $until)
		{
			$self->{typed} = '';
			return $wrong;
		}
		usleep(100_000);
	}
}

sub leave
{
	my ($self) = @_;
	foreach my $psql (values %{ $self->{psql} })
	{
		close $psql->{in};
		waitpid $psql->{pid}, 0;
	}
	$self->{psql} = {};
	kill 'TERM', -$_ foreach @{ delete $self->{shells} // [] };
	return;
}

sub _shell
{
	my ($self, $block) = @_;
	my $pid = open my $out, '-|';
	croak "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		# what it starts is ended with it
		setpgrp;
		exec('bash', '-c', "exec 2>&1\nset -e\ncd '$self->{root}'\n" . $self->_replaced($block->{text}));
		exit 127;
	}
	push @{ $self->{shells} }, $pid;
	my $printed = join '', <$out>;
	return "the shell says:\n$printed" unless close $out;
	$self->{typed} = join '', grep { /^\\/ } split /^/, $printed;
	return $self->_differs($printed, $block->{shown}) if defined $block->{shown};
	return;
}

sub _sql
{
	my ($self, $block) = @_;
	my (@told, $script);

	$script = '';
	foreach my $line (split /^/, $self->_replaced($self->{typed} . $block->{text}))
	{
		$script .= $line;
		next unless $line =~ /--> (.*)$/;
		push @told, $1;
		$script .= "\\echo end of answer :SQLSTATE\n";
	}
	my $printed = $self->_psql($block->{database}, $script);
	return "psql has gone, or does not answer; before that:\n$1" if $printed =~ /\A!(.*)/s;
	my $failure = qr/^(?:ERROR|FATAL|PANIC|\\\w+):/m;
	my @parts = split /^end of answer (\w+)\n/m, $printed;
	$printed =~ s/^end of answer \w+\n//mg;
	foreach my $told (@told)
	{
		my ($part, $state) = splice @parts, 0, 2;
		my @lines = grep { /\S/ } split /\n/, $part // '';
		my $answer = $lines[-1] // '';
		if ($state && $state ne '00000')
		{
			my ($error) = grep { /$failure/ } @lines;
			$answer = "$state: " . ($error // '') =~ s/^\w+:\s+//r;
			$part = '';
		}
		return "it says \"$told\", and this comes back:\n$printed" unless _squeezed($answer) eq _squeezed($told);
		return "this was not to fail:\n$printed" if !defined $block->{shown} && $part =~ $failure;
	}
	return $self->_differs($printed, $block->{shown}) if defined $block->{shown};
	return "this was not to fail:\n$printed" if join('', @parts) =~ $failure;
	return;
}

# What the text says, for the cluster that is there.
sub _replaced
{
	my ($self, $text) = @_;
	foreach my $pair (@{ $self->{replace} })
	{
		$text =~ s/\Q$pair->[0]\E/$pair->[1]/g;
	}
	$text =~ s/($xid)/$self->{learned}{$1} \/\/ $1/ge;
	return $text;
}

# Width is the machine's affair: of columns, and of how many digits an xid has.
sub _squeezed
{
	my ($text) = @_;
	$text =~ s/-{2,}/--/g;
	$text =~ s/[ \t]+/ /g;
	$text =~ s/ ?\n ?/\n/g;
	$text =~ s/\A\s+|\s+\z//g;
	$text =~ s/\n+/\n/g;
	return $text;
}

sub _differs
{
	my ($self, $printed, $shown) = @_;
	my $pattern = '';
	my @xids;
	foreach my $piece (split /($xid|\.\.\.)/, _squeezed($self->_replaced($shown)))
	{
		if ($piece eq '...')        { $pattern .= '.*?'; }
		elsif ($piece =~ /^$xid$/)  { $pattern .= "($xid)"; push @xids, $piece; }
		else                        { $pattern .= quotemeta $piece; }
	}
	my @found = _squeezed($printed) =~ /\A$pattern\z/s
	  or return "the text shows\n$shown\nand this comes:\n$printed";
	$self->{learned}{ $xids[$_] } = $found[$_] foreach 0 .. $#xids;
	return;
}

# What psql prints for a script, in a session that is kept; after a "!" when that was not all.
sub _psql
{
	my ($self, $database, $script) = @_;
	my $psql = $self->{psql}{$database} //= $self->_start($database);
	my $printed = '';
	my $until = time() + $deadline;
	my $select = IO::Select->new($psql->{out});
	local $SIG{PIPE} = 'IGNORE';

	print { $psql->{in} } "$script\n\\echo end of block\n";
	while ($printed !~ /^end of block\n/m)
	{
		my $left = $until - time();
		return "!$printed" if $left <= 0 || !$select->can_read($left);
		sysread($psql->{out}, $printed, 8192, length $printed) or return "!$printed";
	}
	$printed =~ s/^end of block\n//m;
	utf8::decode($printed);
	return $printed;
}

sub _start
{
	my ($self, $database) = @_;
	pipe(my $in_read, my $in_write) or croak "pipe: $!";
	pipe(my $out_read, my $out_write) or croak "pipe: $!";
	my $pid = fork();
	croak "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		require POSIX;
		POSIX::dup2(fileno($in_read), 0);
		POSIX::dup2(fileno($out_write), 1);
		POSIX::dup2(fileno($out_write), 2);
		chdir $self->{directory} or POSIX::_exit(126);
		exec('psql', '-Xq', '-P', 'footer=off', '-d', $self->{connstr}->($database)) or POSIX::_exit(127);
	}
	close $in_read;
	close $out_write;
	$in_write->autoflush(1);
	binmode $in_write, ':encoding(UTF-8)';
	return { pid => $pid, in => $in_write, out => $out_read };
}

1;
