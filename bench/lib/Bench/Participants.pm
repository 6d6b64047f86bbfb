# Participants.pm: what a transaction takes with 1, 2 and 4 participants, one client.
#
# The participants are databases of the second cluster.
package Bench::Participants;

use strict;
use warnings;
use Bench::Clusters;

our @MODES = qw(xa at);
our @COUNTS = (1, 2, 4);

sub run
{
	my ($clusters, $results, $setting) = @_;
	my @variants = map { my $mode = $_; map { [ $mode, $_ ] } @COUNTS } @MODES;

	add_participant($clusters, "party$_") for 1 .. $COUNTS[-1];
	$clusters->psql($_, 'CHECKPOINT') for sort keys %Bench::Clusters::PORT;
	for my $round (0 .. $setting->{runs})
	{
		for my $i (0 .. $#variants)
		{
			my ($mode, $count) = @{ $variants[ ($i + $round) % @variants ] };
			my $run = $clusters->pgbench('bank1', script => 'participants', clients => 1,
				seconds => $round == 0 ? $setting->{warm_up} : $setting->{seconds},
				define => { mode => $mode, participants => $count });

			$clusters->drain;
			next if $round == 0;
			$results->add("participants/$mode/$count", $run->{latency});
			$setting->{say}->("round %d, %s, participants: %d %10.3f ms", $round, uc $mode, $count, $run->{latency});
		}
	}
	$clusters->check_sum;
}

sub add_participant
{
	my ($clusters, $name) = @_;

	$clusters->create_database($name, 'bank2');
	$clusters->psql_file($name, "$clusters->{dir}/participant.sql", accounts => Bench::Clusters::ACCOUNTS);
	$clusters->psql('bank1',
		"CREATE SERVER $name FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '$clusters->{dir}', port '$Bench::Clusters::PORT{bank2}', dbname '$name')",
		"CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (user '$clusters->{user}')");
}

1;
