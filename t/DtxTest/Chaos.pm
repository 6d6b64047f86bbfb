
=pod

=head1 NAME

DtxTest::Chaos - kills processes, stops clusters and cuts connections at random; lets a standby come and go

=cut

package DtxTest::Chaos;

use strict;
use warnings;

use Exporter 'import';
use Time::HiRes qw(time usleep);

use DtxTest;
use DtxTest::Bystanders;

our @EXPORT = qw(
  chaos
  let_come_and_go
  pick
);

my $noted;
my $standby;

# What make_sync_standby() has made comes and goes in what follows.
sub let_come_and_go
{
	($standby) = @_;
	return;
}

sub pick
{
	return $_[ int rand @_ ];
}

# Let the clients get on: until they have noted some transactions more, if they can.
sub progress
{
	my ($some) = @_;
	my $enough = $noted->() + 300 * $some;
	my $until = time() + 1;
	usleep(10_000) while $noted->() < $enough && time() < $until;
	return;
}

# The value of a query, or undef: the cluster may be down just now.
sub try_value
{
	my ($bank, $sql) = @_;
	return eval { value($bank, $sql) };
}

sub random_process
{
	my ($bank, $condition) = @_;
	my $pids = try_value($bank, <<"SQL");
SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND $condition
SQL
	return pick(split / /, $pids // '');
}

sub signal
{
	my ($bank, $function, $condition) = @_;
	my $pid = random_process($bank, $condition);
	try_value($bank, "SELECT $function($pid)") if $pid;
	return;
}

sub stop_and_start
{
	my ($mode, $meanwhile, @some) = @_;
	$_->stop($mode) foreach @some;
	progress($meanwhile);
	$_->start foreach @some;
	return;
}

my $any = "(application_name LIKE 'client%' OR application_name = 'dtx')";
my $busy = "$any AND state <> 'idle'";
my $workers = "backend_type LIKE 'dtx%'";

# How often, and what, with a bank and the others.
my %actions = (
	# a crash: the cluster comes back by itself
	kill => [ 4, sub {
		my $pid = random_process($_[0], pick($busy, $any, $workers, 'true'));
		kill 'KILL', $pid if $pid;
	} ],
	stop => [ 3, sub { stop_and_start(pick('immediate', 'immediate', 'fast'), 0, $_[0]) } ],
	stop_others => [ 1, sub { stop_and_start('immediate', 0, @_[ 1 .. $#_ ]) } ],
	stop_all => [ 1, sub { stop_and_start('immediate', 0, @_) } ],
	down => [ 2, sub { stop_and_start('immediate', 20, $_[0]) } ],
	cut => [ 6, sub { signal($_[0], 'pg_terminate_backend', pick($busy, $any)) } ],
	cancel => [ 4, sub { signal($_[0], 'pg_cancel_backend', $busy) } ],
	end_worker => [ 2, sub { signal($_[0], 'pg_terminate_backend', $workers) } ],
	freeze => [ 2, sub {
		my $pid = random_process($_[0], $any) or return;
		kill 'STOP', $pid;
		progress(1);
		kill 'CONT', $pid;
	} ],
	standby => [ 4, sub { change_standby($standby, sub { progress(5) }) if defined $standby } ]);

# Do so until that time, while clients work whose progress a function tells, in
# bytes. The clusters restart by themselves after a crash. Returns what was done.
sub chaos
{
	my ($until, $how_much, @banks) = @_;
	my @plan = map { ($_) x $actions{$_}[0] } sort keys %actions;
	my %done;

	$noted = $how_much;
	while (time() < $until)
	{
		progress(1 + int rand 40);
		my $name = pick(@plan);
		my $bank = pick(@banks);
		$actions{$name}[1]->($bank, grep { $_ != $bank } @banks);
		$done{$name}++;
	}
	return join ', ', map { "$_ $done{$_}" } sort keys %done;
}

1;
