# Results.pm: named lists of figures, kept in a file of lines "name <tab> figure <tab> figure ...".
package Bench::Results;

use strict;
use warnings;
use IO::Handle;
use POSIX ();
use Time::HiRes qw(time);

sub new { return bless { figures => {} }, shift }

sub add
{
	my ($self, $name, @figures) = @_;
	push @{ $self->{figures}{$name} }, @figures;
}

sub set
{
	my ($self, $name, @figures) = @_;
	$self->{figures}{$name} = [@figures];
}

sub names { return sort keys %{ $_[0]{figures} } }
sub all { return @{ $_[0]{figures}{ $_[1] } || [] } }
sub has { return exists $_[0]{figures}{ $_[1] } }

sub median
{
	my ($self, $name) = @_;
	my @sorted = sort { $a <=> $b } $self->all($name);

	return undef unless @sorted;
	return @sorted % 2 ? $sorted[ $#sorted / 2 ] : ($sorted[ @sorted / 2 - 1 ] + $sorted[ @sorted / 2 ]) / 2;
}

# The ratio of two medians; undef when one is missing.
sub ratio
{
	my ($self, $of, $to) = @_;
	my ($a, $b) = ($self->median($of), $self->median($to));

	return defined $a && $b ? $a / $b : undef;
}

sub save
{
	my ($self, $file) = @_;
	write_file($file, join('', map { join("\t", $_, $self->all($_)) . "\n" } $self->names));
}

sub load
{
	my ($self, $file) = @_;

	open(my $in, '<', $file) or return;
	while (my $line = <$in>)
	{
		chomp $line;
		my ($name, @figures) = split /\t/, $line;
		$self->{figures}{$name} = \@figures;
	}
}

# What the figures depend on.
sub describe_machine
{
	my ($self, $clusters, $setting, $part) = @_;
	my ($cpu) = Bench::Clusters::slurp('/proc/cpuinfo') =~ /^model name\s*:\s*(.*)$/m;
	my $cores = () = Bench::Clusters::slurp('/proc/cpuinfo') =~ /^processor/mg;

	$self->add('machine/postgresql', $clusters->psql('bank1', 'SHOW server_version'));
	$self->add('machine/cpu', $cpu || 'unknown');
	$self->add('machine/cores', $cores || 1);
	$self->add("flush/$part", flush_time($clusters->{dir}));
	$self->add("setting/$part", $setting->{runs}, $setting->{seconds});
	$self->add('machine/date', POSIX::strftime('%Y-%m-%d', gmtime));
}

# The median time of a write of 8 kB with fsync, in ms.
sub flush_time
{
	my ($dir) = @_;
	my $file = "$dir/flush";
	my $times = Bench::Results->new;

	open(my $out, '>', $file) or die "bench: $file: $!\n";
	syswrite($out, "\0" x (8192 * 200));
	$out->sync;
	for my $i (0 .. 199)
	{
		my $start = time;

		sysseek($out, 8192 * $i, 0);
		syswrite($out, 'x' x 8192);
		$out->sync;
		$times->add('ms', (time - $start) * 1000);
	}
	unlink $file;
	return sprintf '%.3f', $times->median('ms');
}

sub write_file
{
	my ($file, $text) = @_;
	open(my $out, '>', $file) or die "bench: $file: $!\n";
	print $out $text;
	close $out or die "bench: $file: $!\n";
}

1;
