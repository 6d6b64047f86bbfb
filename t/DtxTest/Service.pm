# Service.pm: the databases of an example, each in a cluster of its own, as the
# example's scripts set them up.
package DtxTest::Service;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(start_service run_script);

# Start a new cluster with an empty database of its name, to which the role, another
# service, connects with a password.
sub start_service
{
	my ($node, $role) = @_;
	$node->{bank} = $node->name;
	# whatever the environment of the run is
	$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
	$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'dtx'
shared_buffers = 16MB
dtx.recovery_interval = '1s'
dtx.retry_base = '20ms'
dtx.retry_max = '500ms'
include_if_exists 'test.conf'
CONF
	my $hba = $node->data_dir . '/pg_hba.conf';
	my $lines = slurp_file($hba);
	open my $file, '>', $hba or die "$hba: $!";
	print $file "local all $role scram-sha-256\n$lines";
	close $file;
	$node->start;
	$node->safe_psql('postgres', "CREATE DATABASE $node->{bank}");
	return;
}

# Run one of the example's scripts in the service's database, with psql's variables.
sub run_script
{
	my ($node, $script, %variables) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->command_ok(
		[
			'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($node->{bank}),
			(map { ('-v', "$_=$variables{$_}") } sort keys %variables), '-f', $script
		],
		"$script is run");
	return;
}

1;
